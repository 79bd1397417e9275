"""The identity of a source survives restarts, and one device is open once."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from helperd.config.check import builtins
from helperd.config.helpers import SHARED
from helperd.control.client import Client, ControlError
from helperd.wire.identity import canonical, uuid_of
from tests.patience import HANGS_S
from tests.rig import ROOT, Rig, daemon

HELPER = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from helperd.helpers.sdk import Device, Helper, Refused, main
class Dongle(Helper):
    TYPE = "dongle"
    OPTIONS = {{"given": "a UUID", "log": "a file", "until": "a file to wait for", "refuse": "why", "device": "a path"}}
    def open(self, definition):
        with open(os.environ["OPENED"], "a") as log:
            log.write(definition.interface + "\\n")
        while definition.get("until") and not os.path.exists(definition.get("until")):
            time.sleep(0.01)
        if definition.get("refuse"):
            raise Refused(definition.get("refuse"))
        return Device(dlt=147, uuid=definition.get("given"), capture_interface="usb-" + definition.interface)
    def capture(self, writer):
        writer.packet(b"here")
        while True:
            writer.wait(60)
main(Dongle)
"""
UUID = "12345678-1234-1234-1234-123456789ABC"
PEER = ROOT / "tests" / "peers" / "bad_helper.py"


def config(folder: Path, *sources: tuple[str, str], more: str = "") -> str:
    script = folder / "dongle.py"
    script.write_text(HELPER)
    command = json.dumps([sys.executable, str(script)])
    text = f'[[helper]]\nname = "dongle"\ncommand = {command}\ntypes = ["dongle"]\n'
    text += f"env = {{ OPENED = {json.dumps(str(folder / 'opened'))} }}\n{more}"
    mute = json.dumps([sys.executable, "-I", "-S", str(PEER), "good"])
    text += f'[[helper]]\nname = "mute"\ncommand = {mute}\ntypes = ["mute"]\n'
    text += '[[helper]]\nname = "synthetic"\ncommand = ["builtin:synthetic"]\ntypes = ["synthetic"]\n'
    return text + "".join(f'[[source]]\nname = "{name}"\n{block}\n' for name, block in sources)


def test_a_uuid_is_the_same_after_a_restart_of_helper_and_daemon(rundir: Path) -> None:
    seen = []
    text = config(
        rundir,
        ("given", 'definition = "a:type=dongle,given=5fe308bd-0000-0000-0000-0123456789ab"'),
        ("made", 'definition = "b:type=dongle"'),
        ("wished", 'definition = "c:type=dongle,uuid=11111111-2222-3333-4444-555555555555"'),
        ("none", 'definition = "d:type=mute"'),
        ("shared", 'definition = "radio0:type=synthetic"'),
        ("shared2", 'definition = "radio0:type=synthetic"'),
    )
    for _ in range(2):
        with daemon(rundir, text) as rig:
            rig.wait_running()
            rows = {row["name"]: row["uuid"] for row in rig.status()["sources"]}
            seen.append(rows)
            os.kill(rig.source("made")["pid"], signal.SIGKILL)
            status = rig.wait(
                lambda status: all(
                    row["name"] != "made" or (row["incarnation"] == 2 and row["state"] == "running")
                    for row in status["sources"]
                )
            )
            assert {row["name"]: row["uuid"] for row in status["sources"]} == rows
    assert seen[0] == seen[1]
    assert seen[0]["given"] == "5FE308BD-0000-0000-0000-0123456789AB"
    assert seen[0]["wished"] == "11111111-2222-3333-4444-555555555555"
    assert seen[0]["made"] == uuid_of("helperd_dongle", "b")
    assert seen[0]["none"] == uuid_of("helperd_mute", "none")
    assert len(set(seen[0].values())) == len(seen[0])
    assert all(re.fullmatch(r"[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}", uuid) for uuid in seen[0].values())


def refused(rig, definition: str, name: str) -> ControlError:
    with Client(rig.control, timeout_s=HANGS_S) as client, pytest.raises(ControlError) as caught:
        client.call("AddSource", definition=definition, name=name)
    return caught.value


def test_the_second_source_on_a_device_is_refused_with_the_name_of_the_first(rundir: Path) -> None:
    opened = rundir / "opened"
    with daemon(rundir, config(rundir, ("first", 'definition = "tty0:type=dongle"'))) as rig:
        rig.wait_running("first")
        for interface in ("tty0", "usb-tty0"):  # its own name, and the one that its helper told
            error = refused(rig, f"{interface}:type=dongle", "second")
            assert error.problem == "busy"
            assert "open already, as source 'first'" in str(error)
            assert "write exclusive = false for the helper 'dongle'" in str(error)
            own = refused(rig, f"{interface}:type=dongle,uuid=11111111-2222-3333-4444-555555555555", "second")
            assert own.problem == "busy", "another identity makes no second device"
        assert opened.read_text() == "tty0\n"  # no second process has come near the device
        same = refused(rig, f"other:type=dongle,given={uuid_of('helperd_dongle', 'tty0').lower()}", "third")
        assert "open already, as source 'first'" in str(same)
        again = refused(rig, f"other:type=dongle,uuid={uuid_of('helperd_dongle', 'tty0')}", "fourth")
        assert "open already, as source 'first'" in str(again)
        rig.call("Stop", source="first")
        assert (
            rig.call("AddSource", definition="tty0:type=dongle", name="next")["source"]["state"] == "running"
        )
        with (
            pytest.raises(ControlError, match="open already, as source 'next'"),
            Client(rig.control) as client,
        ):
            client.call("Start", source="first")


def test_of_two_in_one_file_one_runs_and_the_other_takes_over_when_it_is_stopped(rundir: Path) -> None:
    pair = [(name, 'definition = "tty0:type=dongle"') for name in ("one", "two")]
    with daemon(rundir, config(rundir, *pair)) as rig:
        status = rig.wait(
            lambda status: sorted(row["state"] for row in status["sources"]) == ["backoff", "running"]
        )
        running = next(row["name"] for row in status["sources"] if row["state"] == "running")
        other = next(row for row in status["sources"] if row["state"] == "backoff")
        assert other["exit"]["problem"] == "busy"
        assert f"as source {running!r}" in other["exit"]["text"]
        rig.call("Stop", source=running)
        assert rig.call("Start", source=other["name"])["source"]["state"] == "running"


@contextlib.contextmanager
def second_waits(rig: Rig) -> Iterator[None]:
    """While ``one`` opens its device, ``two`` has been told to do so too."""

    def start() -> None:
        with contextlib.suppress(ControlError):  # the answer is what becomes of it
            rig.call("Start", source="two")

    rig.wait(lambda status: status["sources"][0]["state"] == "opening")
    order = threading.Thread(target=start)
    order.start()
    rig.wait(lambda status: status["sources"][1]["state"] == "starting")
    yield
    order.join(HANGS_S)


def test_while_one_opens_the_device_the_other_waits_and_has_its_own_reason(rundir: Path) -> None:
    """Neither is refused because of the other when it is the other's own definition that cannot be opened."""
    go = rundir / "go"
    one = f'definition = "tty0:type=dongle,until={go},refuse=the first is wrong"'
    two = 'definition = "tty0:type=dongle,refuse=the second is wrong"\nstart = "manual"'
    with daemon(rundir, config(rundir, ("one", one), ("two", two))) as rig, second_waits(rig):
        assert (rundir / "opened").read_text() == "tty0\n"
        go.touch()
        status = rig.wait(lambda status: all(row["exit"] for row in status["sources"]))
        texts = {row["name"]: (row["exit"]["problem"], row["exit"]["text"]) for row in status["sources"]}
        assert texts == {
            "one": ("open-refused", "the first is wrong"),
            "two": ("open-refused", "the second is wrong"),
        }


def test_a_source_that_waits_for_another_can_be_stopped_and_one_that_cannot_open_does_not_keep_it(
    rundir: Path,
) -> None:
    go = rundir / "go"
    one = f'definition = "tty0:type=dongle,until={go},refuse=not me"'
    two = 'definition = "tty0:type=dongle"\nstart = "manual"'
    with daemon(rundir, config(rundir, ("one", one), ("two", two))) as rig, second_waits(rig):
        rig.call("Stop", source="two")
        assert rig.source("two")["state"] == "down"
        go.touch()
        rig.wait(lambda status: bool(status["sources"][0]["exit"]))
        assert rig.call("Start", source="two")["source"]["state"] == "running"
        with pytest.raises(ControlError, match="open already, as source 'two'"):
            rig.call("Start", source="one")


A, B = (f"given=00000000-0000-0000-0000-00000000000{letter}" for letter in "AB")


@pytest.mark.parametrize(
    ("first", "second", "meet"),
    [
        ("a:type=dongle,device=/dev/null", "b:type=dongle,device=/dev/null", True),
        (f"a:type=dongle,device=/dev/null,{A}", f"a:type=dongle,device=/dev/zero,{B}", False),
        ("/dev/null:type=dongle", "x:type=other,device=/dev/null", True),
        ("/dev/null:type=dongle", "{link}:type=dongle", True),
        (f"tty0:type=dongle,{A}", f"tty0:type=other,{B}", False),
        ("tty0:type=dongle,given=7-a", "tty0:type=dongle,given=7-b", True),
    ],
)
def test_which_definitions_mean_one_device(rundir: Path, first: str, second: str, meet: bool) -> None:
    link = Path("/dev/shm/helperd-test-link")
    link.symlink_to("/dev/null")
    try:
        text = config(rundir, ("first", f'definition = "{first}"'))
        text = text.replace('types = ["dongle"]', 'types = ["dongle"]\n')
        other = text[: text.index('[[helper]]\nname = "mute"')].replace('"dongle"', '"other"')
        with daemon(rundir, other + text) as rig:
            rig.wait_running("first")
            definition = second.format(link=link)
            if meet:
                assert refused(rig, definition, "second").problem == "busy"
                assert len((rundir / "opened").read_text().splitlines()) == 1
            else:
                rig.call("AddSource", definition=definition, name="second")
    finally:
        link.unlink()


def test_with_exclusive_false_any_number_of_sources_have_one_device_each_with_its_own_uuid(
    rundir: Path,
) -> None:
    sources = [(name, 'definition = "tty0:type=dongle"') for name in ("one", "two", "three")]
    with daemon(rundir, config(rundir, *sources, more="exclusive = false\n")) as rig:
        status = rig.wait_running()
        assert {row["name"]: row["uuid"] for row in status["sources"]} == {
            name: uuid_of("helperd_dongle", name) for name, _ in sources
        }


def test_bundled_helpers_that_share_their_devices_are_not_exclusive() -> None:
    for name in builtins():
        helper = importlib.import_module(f"helperd.helpers.{name}").HELPER
        assert (name in SHARED) is helper.SHARED, name


def test_a_uuid_that_is_none_is_refused_in_a_definition_and_told_of_a_helper(rundir: Path) -> None:
    with daemon(rundir, config(rundir)) as rig:
        error = refused(rig, "a:type=dongle,uuid=12345", "x")
        assert "uuid='12345' is none" in str(error)
        rig.call("AddSource", definition="a:type=dongle,given=7-a", name="y")
        assert rig.source("y")["uuid"] == uuid_of("helperd_dongle", "y")
        texts = [message["text"] for message in rig.call("GetMessages", source="y")["messages"]]
        assert "its helper calls itself '7-a', which is no UUID" in texts


def test_a_uuid_with_the_rest_of_a_definition_behind_it_is_one(rundir: Path) -> None:
    """As some of Kismet's helpers report it (kismet-protocol.md, H11)."""
    odd = json.dumps([sys.executable, "-I", "-S", str(PEER), "good", f"--named={UUID},name=x,type=odd"])
    text = f'[[helper]]\nname = "odd"\ncommand = {odd}\ntypes = ["odd"]\n'
    with daemon(rundir, text + '[[source]]\nname = "a"\ndefinition = "x:type=odd"\n') as rig:
        assert rig.wait_running()["sources"][0]["uuid"] == UUID


def test_an_option_that_no_helper_knows_is_refused_with_the_nearest(rundir: Path) -> None:
    with daemon(rundir, config(rundir, more='options = ["given", "log", "gain"]\n')) as rig:
        error = refused(rig, "a:type=dongle,giben=1", "x")
        assert error.problem == "bad-definition"
        assert "dongle has no option 'giben'; did you mean given?" in str(error)
        assert not (rundir / "opened").exists()
        with pytest.raises(ControlError, match="did you mean gain"), Client(rig.control) as client:
            client.call("Probe", definition="a:type=dongle,gian=3")
        error = refused(rig, "radio0:type=synthetic,rat=1", "x")  # told by the helper itself
        assert "did you mean rate?" in str(error)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("5fe308bd-0000-0000-0000-0123456789ab", "5FE308BD-0000-0000-0000-0123456789AB"),
        (" 5FE308BD-0000-0000-0000-0123456789AB ", "5FE308BD-0000-0000-0000-0123456789AB"),
        ("5FE308BD-0000-0000-0000-      6789AB", ""),
        ("5FE308BD-0000-0000-0000-0123456789A", ""),
        ("", ""),
    ],
)
def test_what_a_uuid_looks_like(text: str, form: str) -> None:
    assert canonical(text) == form


def test_short_names_have_identities_of_their_own_although_the_protocols_checksum_of_them_is_0() -> None:
    names = ["", "a", "b", "r0", "r1", "lan", "lam", "wlan"]
    assert len({uuid_of("helperd_c", name) for name in names}) == len(names)
    assert all(canonical(uuid_of("helperd_c", name)) for name in names)
