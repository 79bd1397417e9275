"""`helperd list` on a machine with twenty helpers of which nine are broken: whole, in time, and every one named."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import trio

from helperd import config
from helperd.control.client import ControlError
from helperd.drivers import list_devices
from helperd.launcher import own_launcher
from tests import census
from tests.patience import HANGS_S
from tests.rig import HELPERD, ROOT, Rig, daemon

PEER = ROOT / "tests" / "peers" / "bad_helper.py"
BABBLER = """
import os, sys
sys.path.insert(0, {peers!r})
import bad_helper as wire
stream = {stream!r}
if stream == "stderr":
    while True:
        os.write(2, b"".join(b"what a day: %d\\n" % n for n in range(500)))
class Chatterer(wire.BadHelper):
    def hello(self, seqno):
        self.write(wire.frame(wire.PONG, seqno=seqno))
        while True:
            self.write(wire.frame(wire.MESSAGE, wire.pack({{1: 2, 2: "and another thing"}})) * 100)
class Mumbler(wire.BadHelper):
    def hello(self, seqno):
        while True:
            os.write(self.out_fd, os.urandom(4096))
(Chatterer if stream == "frames" else Mumbler)("good", {{"in-fd": "3", "out-fd": "4"}}).run()
"""
GOOD = 11
BROKEN: dict[str, tuple[str, str, str]] = {  # name: program's words, problem, what the reason holds
    "crash-exit": ("exit --at=hello --status=3", "exited", "exited 3"),
    "crash-signal": ("crash --at=hello", "exited", "SIGSEGV"),
    "crash-cut": ("half-frame --at=hello", "partial-frame", ""),
    "hang-mute": ("silence", "timed-out", "not a byte came within 2 s (list_timeout of [[helper]] hang-"),
    "hang-spin": (
        "spin --at=hello",
        "timed-out",
        "not a byte came within 2 s (list_timeout of [[helper]] hang-",
    ),
    "hang-stopped": (
        "stop-self --at=hello",
        "timed-out",
        "not a byte came within 2 s (list_timeout of [[helper]] hang-",
    ),
    "babble-frames": ("frames", "babble", "1000 messages came instead of an answer"),
    "babble-noise": ("noise", "bad-signature", ""),
    "babble-stderr": ("stderr", "timed-out", "what a day"),
}
TIME_LIMIT_S = 16.0
"""Less than one after another: nine times two seconds. benchmarks.listing measures it alone."""


def block(name: str, *words: str) -> str:
    return f"[[helper]]\nname = {json.dumps(name)}\ncommand = {json.dumps(words)}\ntypes = [{json.dumps(name)}]\n"


def machine(folder: Path) -> str:
    """A configuration of twenty helpers, broken ones in between; all of them interpreted."""
    good = [
        block(f"good-{n}", sys.executable, "-I", "-S", str(PEER), "good", f"--list=dev{n}") for n in range(9)
    ]
    good += [block("synthetic", "builtin:synthetic"), block("pcapfile", "builtin:pcapfile")]
    bad = []
    for name, (words, _problem, _text) in BROKEN.items():
        if name.startswith("babble"):
            file = folder / f"{name}.py"
            file.write_text(BABBLER.format(peers=str(PEER.parent), stream=words))
            bad.append(block(name, sys.executable, "-I", "-S", str(file)))
        else:
            bad.append(block(name, sys.executable, "-I", "-S", str(PEER), *words.split()))
    assert (len(good), len(bad)) == (GOOD, 9)
    good = [text + 'list_timeout = "14s"\n' for text in good]  # a busy machine is no fault of theirs
    return "".join(text for pair in zip(bad, good, strict=False) for text in pair) + "".join(good[len(bad) :])


def check(answer: dict[str, Any]) -> None:
    """Everything is there, in the order of the configuration."""
    found = [device["interface"] for device in answer["devices"]]
    assert found == [f"dev{n}" for n in range(9)] + [f"radio{n}" for n in range(4)]
    failed = {failure["helper"]: failure for failure in answer["failed"]}
    assert list(failed) == list(BROKEN)
    for name, (_words, problem, text) in BROKEN.items():
        assert failed[name]["problem"] == problem, failed[name]
        assert text in failed[name]["text"], failed[name]


def list_command(*args: str) -> tuple[float, subprocess.CompletedProcess[str]]:
    began = time.monotonic()
    done = subprocess.run(
        [*HELPERD, "list", *args], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    return time.monotonic() - began, done


def test_nine_of_twenty_helpers_are_broken_and_named(rundir: Path) -> None:
    before = census.take().processes
    file = rundir / "helpers.toml"
    file.write_text(machine(rundir))
    took, done = list_command("-c", str(file), "--json")
    assert done.returncode == 0, done.stderr
    check(json.loads(done.stdout))
    assert took < TIME_LIMIT_S
    assert not census.await_end(before, 3)


def test_a_running_daemon_remembers_and_looks_again_when_told(rundir: Path) -> None:
    with daemon(rundir, machine(rundir)) as rig:
        where = f"--runtime-dir={rundir}"
        took, done = list_command(where, "--json")
        first = json.loads(done.stdout)
        check(first)
        assert took < TIME_LIMIT_S
        with rig.connect():  # capture and control go on as if nothing were wrong
            assert rig.status()["health"] == "ok"
        _, done = list_command(where, "--json")
        second = json.loads(done.stdout)
        assert second["age_s"] > first["age_s"]
        assert (second["devices"], second["failed"]) == (first["devices"], first["failed"])
        _, done = list_command(where, "--json", "--fresh")
        third = json.loads(done.stdout)
        check(third)
        assert third["age_s"] < second["age_s"]


SMALL = block("radios", "builtin:synthetic").replace('types = ["radios"]', 'types = ["synthetic"]')


def test_what_is_in_use_is_never_remembered(rundir: Path) -> None:
    source = '[[source]]\ndefinition = "radio1:type=synthetic"\nstart = "manual"\n'
    with daemon(rundir, SMALL + source) as rig:

        def users(answer: dict[str, Any]) -> list[str | None]:
            return [device["in_use"] for device in answer["devices"]]

        assert users(rig.call("ListDevices")) == [None] * 4
        rig.call("Start", source="radio1")
        remembered = rig.call("ListDevices", max_age_s=3600)
        assert users(remembered) == [None, "radio1", None, None]
        _, done = list_command(f"--runtime-dir={rundir}")
        assert "(in use by radio1)" in done.stdout.splitlines()[1]
        rig.call("Stop", source="radio1")
        assert users(rig.call("ListDevices", max_age_s=3600)) == [None] * 4


def test_another_configuration_is_another_answer(rundir: Path) -> None:
    with daemon(rundir, SMALL) as rig:
        assert rig.call("ListDevices")["failed"] == []
        broken = block("broken", sys.executable, "-I", "-S", str(PEER), "exit", "--at=hello")
        (rundir / "helpers.toml").write_text(SMALL + broken)
        rig.call("Reload")
        assert [failure["helper"] for failure in rig.call("ListDevices")["failed"]] == ["broken"]


def test_a_helper_that_lists_nothing_is_not_even_started(rundir: Path) -> None:
    quiet = (
        block("quiet", sys.executable, "-I", "-S", str(PEER), "crash", "--at=hello") + "can_list = false\n"
    )
    with daemon(rundir, SMALL + quiet) as rig:
        answer = rig.call("ListDevices")
        assert (len(answer["devices"]), answer["failed"]) == (4, [])


@pytest.mark.parametrize("age", [-1, 1e9])
def test_an_age_that_cannot_be_is_refused(rig: Rig, age: float) -> None:
    from helperd.control.client import ControlError

    with pytest.raises(ControlError, match="max_age_s lies between"):
        rig.call("ListDevices", max_age_s=age)


@pytest.fixture
def rig(rundir: Path):
    with daemon(rundir, SMALL) as running:
        yield running


ODD = ["a:b", "a,b", "two words", "ünïcode", '"quoted"', "x=y", "white\ttab"]


async def test_odd_names_are_shown_and_only_possible_definitions_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from helperd.wire.definition import SourceDefinition

    monkeypatch.setenv("HELPERD_UNPRIVILEGED", "1")
    file = tmp_path / "helpers.toml"
    script = tmp_path / "odd.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(PEER.parent)!r})\nimport bad_helper as wire\n"
        f"names = {ODD!r}\n"
        "class Odd(wire.BadHelper):\n"
        "    def answer(self, kind, seqno, payload):\n"
        "        if kind != wire.LIST:\n            return super().answer(kind, seqno, payload)\n"
        "        found = [{1: name, 2: '', 3: ''} for name in names]\n"
        "        self.write(wire.frame(wire.LIST_REPORT, wire.pack({1: seqno, 2: found, 4: ''}), seqno=1))\n"
        "Odd('good', {'in-fd': '3', 'out-fd': '4'}).run()\n"
    )
    file.write_text(block("odd", sys.executable, "-I", "-S", str(script)))
    settings = config.load(str(file))
    async with trio.open_nursery() as tail, own_launcher(str(file), settings=settings) as launcher:
        listing = await list_devices(launcher, settings.helpers, tail)
    assert listing.failed == []
    assert [device.interface.name for device in listing.devices] == ODD
    for device in listing.devices:
        if device.definition:
            parsed = SourceDefinition.parse(device.definition)
            assert (parsed.interface, parsed.get("type")) == (device.interface.name, "odd")
    refused = [device.interface.name for device in listing.devices if not device.definition]
    assert refused == ["white\ttab"]


def test_what_a_helper_can_is_learned_unless_its_block_says_it(rundir: Path) -> None:
    source = '[[source]]\ndefinition = "radio1:type=synthetic"\n'
    more = (
        block("other", sys.executable, "-I", "-S", str(PEER), "good") + "can_hop = false\ncan_probe = false\n"
    )

    def known(rig: Rig) -> dict[str, tuple[bool | None, ...]]:
        rows = rig.call("ListHelpers")["helpers"]
        return {
            row["name"]: tuple(row[word] for word in ("lists", "probes", "tunes", "hops")) for row in rows
        }

    with daemon(rundir, SMALL + more + source) as rig:
        rig.wait_running()
        assert known(rig) == {"radios": (None, None, True, True), "other": (None, False, None, False)}
        rig.call("ListDevices")
        assert rig.call("Probe", definition="radio2")["helper"] == "radios"
        assert known(rig) == {"radios": (True, True, True, True), "other": (True, False, None, False)}
        rig.call("Stop", source="radio1")
        (rundir / "helpers.toml").write_text(SMALL + more.replace("can_probe = false\n", "") + source)
        rig.call("Reload")
        assert known(rig) == {"radios": (True, True, True, True), "other": (None, None, None, False)}


def test_a_device_that_comes_makes_the_next_answer_new(rundir: Path) -> None:
    """The kernel's word for it, made by hand: the loopback interface is announced once more."""
    with daemon(rundir, SMALL) as rig:

        def asked_at() -> float:
            answer = rig.call("ListDevices")
            return time.monotonic() - float(answer["age_s"])

        asked_at()
        happened = time.monotonic()
        try:
            Path("/sys/class/net/lo/uevent").write_text("add")
        except OSError as error:
            pytest.skip(f"no event can be made here: {error}")
        while asked_at() < happened:  # the event may come behind the question
            assert time.monotonic() < happened + HANGS_S, "the kernel's word was not heard"


@pytest.mark.need("root")
def test_a_probe_that_is_refused_without_a_word_says_what_is_missing(rundir: Path) -> None:
    """Where the system knows it: an interface, for who captures on interfaces, and a path for all."""
    mute = (sys.executable, "-I", "-S", str(PEER), "good")
    file = rundir / "there"
    file.touch()
    text = block("net", *mute, "--probe=mute") + 'capabilities = ["net_raw"]\n'
    text += block("usb", *mute, "--probe=mute") + block("talks", *mute, "--probe=no")
    with daemon(rundir, text) as rig:

        def refused(definition: str) -> dict[str, str]:
            answer = rig.call("Probe", definition=definition)
            return {refusal["helper"]: refusal["text"] for refusal in answer["refused"]}

        missing = refused("hd99")
        assert missing["net"].startswith("no such interface: hd99; there are lo")
        assert (missing["usb"], missing["talks"]) == ("not mine", "not mine")
        assert refused("lo")["net"] == "not mine"
        assert refused("/nowhere/x")["usb"] == "no such file: /nowhere/x"
        assert refused("/nowhere/x")["talks"] == "not mine"
        assert refused(str(file))["usb"] == "not mine"
        with pytest.raises(ControlError, match="net: no such interface: hd99"):
            rig.call("AddSource", definition="hd99", name="x")
