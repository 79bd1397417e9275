"""Peers that are slow, not broken: how long each may take is a key of its block, and every refusal names it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from helperd import config, inventory
from helperd.asking import Failure
from helperd.drivers import Device, Drivers, Listing, probe
from helperd.errors import HelperdError
from helperd.launcher import own_launcher
from helperd.wire.messages import Interface
from tests.helpers.test_adapters import LITTLE, PACKETS, program
from tests.helpers.test_capturefile import pcap
from tests.patience import HANGS_S
from tests.rig import ROOT, Rig, Stream, daemon

BAD = f"{ROOT}/tests/peers/bad_helper.py"
SLOW_S = 2.2
"""What a tool that asks its serial ports may take for each question; more than a helper has by default."""
SLOW = f"""
if '--extcap-interfaces' in sys.argv:
    time.sleep({SLOW_S})
    print('extcap {{version=1}}')
    print('interface {{value=slow0}}{{display=Slow radio}}')
    print('interface {{value=slow1}}{{display=Another}}')
elif '--extcap-config' in sys.argv:
    time.sleep({SLOW_S})
    print('arg {{number=0}}{{call=--rate}}{{display=Rate}}{{type=unsigned}}')
elif '--capture' in sys.argv:
    with open(sys.argv[sys.argv.index('--fifo') + 1], 'wb', 0) as file:
        file.write(open(DATA, 'rb').read())
        time.sleep(60)
"""


def block(name: str, *words: str, keys: str = "") -> str:
    command = ", ".join(f'"{word}"' for word in words)
    return f'[[helper]]\nname = "{name}"\ncommand = [{command}]\ntypes = ["{name}"]\n{keys}\n'


def source(name: str, definition: str) -> str:
    return f'[[source]]\nname = "{name}"\ndefinition = "{definition}"\nrestart = "temporary"\n'


def slow_tool(tmp_path: Path) -> str:
    data = tmp_path / "data.pcap"
    data.write_bytes(pcap(LITTLE, PACKETS, linktype=147))
    return program(tmp_path, f"DATA = {str(data)!r}\n{SLOW}")


def test_a_tool_that_is_slow_to_name_its_interface_is_listed_probed_and_captured_from(tmp_path: Path) -> None:
    text = block("tool", "builtin:extcap", "--", slow_tool(tmp_path)) + source(
        "slow", "slow0:type=tool,rate=5"
    )
    with daemon(tmp_path, text) as rig:
        listed = rig.call("ListDevices")
        assert [device["interface"] for device in listed["devices"]] == ["slow0", "slow1"]
        assert listed["failed"] == []
        again = rig.call("ListDevices")
        assert again["devices"] == listed["devices"]
        assert again["age_s"] > listed["age_s"]  # remembered
        assert rig.call("Probe", definition="slow1")["helper"] == "tool"
        rig.wait_running("slow")
        with rig.connect("sources/slow.sock") as sock:
            rig.call("Restart", source="slow")
            assert len(Stream(sock).take(len(PACKETS))) == len(PACKETS)


def test_a_limit_of_a_block_holds_for_the_launcher_too(tmp_path: Path) -> None:
    """It has one of its own for what is launched for a question: 10 s, unless the block gives more."""
    tool = slow_tool(tmp_path)
    script = Path(tool)
    script.write_text(script.read_text().replace(f"time.sleep({SLOW_S})", "time.sleep(10.5)", 1))
    text = block("tool", "builtin:extcap", "--", tool, keys='list_timeout = "40s"\nprobe_timeout = "40s"\n')
    with daemon(tmp_path, text) as rig:
        listed = rig.call("ListDevices")
        assert [device["interface"] for device in listed["devices"]] == ["slow0", "slow1"]
        assert listed["failed"] == []


def failures(rig: Rig) -> dict[str, str]:
    def told(status: dict[str, Any]) -> bool:
        return all(row["state"] == "down" and row["exit"] for row in status["sources"])

    return {
        row["name"]: f"{row['exit']['problem']}: {row['exit']['text']}" for row in rig.wait(told)["sources"]
    }


def test_each_refusal_of_a_slow_helper_names_its_key(tmp_path: Path) -> None:
    python = (sys.executable, "-IS", BAD)
    tool = program(tmp_path, "time.sleep(60)", "tool")
    text = (
        block("mute", *python, "silence", keys='greet_timeout = "400ms"\nlist_timeout = "300ms"')
        + block(
            "opens", *python, "silence", "--at=open", keys='open_timeout = "600ms"\nprobe_timeout = "700ms"'
        )
        + block("asks", "builtin:extcap", "--", tool, keys='list_timeout = "10s"\nprobe_timeout = "500ms"')
        + source("mute", "x:type=mute")
        + source("opens", "x:type=opens")
        + source("asks", "x:type=asks")
    )
    with daemon(tmp_path, text) as rig:
        ended = failures(rig)
        assert ended["mute"].startswith("timed-out: the answer to the first PING did not come within 0.4 s")
        assert "(greet_timeout of [[helper]] mute)" in ended["mute"]
        assert ended["opens"].startswith("timed-out: its open report did not come within 0.6 s")
        assert "(open_timeout of [[helper]] opens)" in ended["opens"]
        assert (
            f"timed-out: {tool} did not answer within 0.5 s (probe_timeout of its [[helper]])"
            in ended["asks"]
        )
        listed = {row["helper"]: row for row in rig.call("ListDevices")["failed"]}
        assert listed["mute"]["text"].startswith(
            "not a byte came within 0.3 s (list_timeout of [[helper]] mute)"
        )
        assert listed["asks"]["problem"] == "timed-out"
        assert "(probe_timeout of its [[helper]])" in listed["asks"]["text"]
        probed = rig.call("Probe", definition="x:type=mute")["failed"]
        assert "within 2 s (probe_timeout of [[helper]] mute)" in probed[0]["text"]


TUNER = """
import sys, threading
sys.path.insert(0, {root!r})
from helperd.helpers import sdk
class Stuck(sdk.Helper):
    TYPE = "stuck"
    def open(self, definition):
        return sdk.Device(dlt=1, channels=("1", "6"))
    def capture(self, writer):
        threading.Event().wait()
    def configure(self, channel):
        threading.Event().wait()
sdk.main(Stuck)
"""


def test_a_helper_that_is_slow_to_tune_is_refused_with_its_key(tmp_path: Path) -> None:
    file = tmp_path / "stuck.py"
    file.write_text(TUNER.format(root=str(ROOT)))
    keys = 'configure_timeout = "300ms"\ncan_hop = false\nterm_grace = "100ms"'
    text = block("stuck", sys.executable, str(file), keys=keys) + source("stuck", "x:type=stuck")
    with daemon(tmp_path, text) as rig:
        rig.wait_running("stuck")
        with pytest.raises(HelperdError) as told:
            rig.call("SetChannel", source="stuck", channel="6")
        assert told.value.problem == "timed-out"
        assert "within 0.3 s (configure_timeout of [[helper]] stuck)" in str(told.value)


@pytest.mark.parametrize("kind", ["pipe", "extcap", "fifo"])
def test_a_source_may_be_silent_for_as_long_as_its_program_lives(tmp_path: Path, kind: str) -> None:
    """It is opening until the header comes; nothing limits that but PING, and the helper answers."""
    flag, data = tmp_path / "flag", tmp_path / "data.pcap"
    os.mkfifo(flag)
    data.write_bytes(pcap(LITTLE, PACKETS))
    patient = f"open({str(flag)!r}).read()\n"  # until the test opens it, too
    if kind == "extcap":
        body = (
            "if '--capture' in sys.argv:\n    fifo = open(sys.argv[sys.argv.index('--fifo') + 1], 'wb', 0)\n"
        )
        body += f"    {patient}    fifo.write(open({str(data)!r}, 'rb').read())\n    time.sleep(60)\n"
        body += "elif '--extcap-interfaces' in sys.argv: print('interface {value=x}{display=X}')\n"
        words = ["builtin:extcap", "--", program(tmp_path, body)]
    else:
        body = f"{patient}sys.stdout.buffer.write(open({str(data)!r}, 'rb').read())\n"
        body += "sys.stdout.flush(); time.sleep(60)"
        words = ["builtin:pipe", "--", program(tmp_path, body)] if kind == "pipe" else ["builtin:pipe"]
    definition = f"{flag}:type=quiet" if kind == "fifo" else "x:type=quiet"
    file = tmp_path / "helpers.toml"
    text = block("quiet", *words, keys='keepalive = "500ms"') + source("quiet", definition)
    file.write_text(text)
    assert config.load(str(file)).helpers[0].open_timeout == 0
    with daemon(tmp_path, text) as rig:
        rig.wait(
            lambda now: now["sources"][0]["state"] == "opening" and (now["sources"][0]["since_s"] or 0) > 1.5
        )
        assert rig.source("quiet")["verdict"] in {"ok", ""}
        with flag.open("wb", buffering=0) as writer:
            if kind == "fifo":
                writer.write(data.read_bytes())
                rig.wait_running("quiet")
        rig.wait_running("quiet") if kind != "fifo" else None


def test_an_order_does_not_wait_for_a_source_that_may_be_silent(tmp_path: Path) -> None:
    text = block("quiet", "builtin:pipe", "--", program(tmp_path, "time.sleep(60)"))
    with daemon(tmp_path, text + source("quiet", "x:type=quiet") + 'start = "manual"\n') as rig:
        assert rig.call("Start", source="quiet")["source"]["state"] == "opening"
        (text,) = [message["text"] for message in rig.call("GetMessages")["messages"]]
        assert text == (
            "tool has written no capture header for 5 s; still waiting; if it collects its output, turn that off "
            "(tcpdump: -U)"
        )
        assert rig.call("Stop", source="quiet")["source"]["state"] == "down"


def test_a_helper_that_hangs_while_it_may_open_for_ever_is_found_out(tmp_path: Path) -> None:
    text = block(
        "quiet", "builtin:pipe", "--", program(tmp_path, "time.sleep(60)"), keys='keepalive = "500ms"'
    )
    with daemon(tmp_path, text + source("quiet", "x:type=quiet")) as rig:
        row = rig.wait(lambda now: now["sources"][0]["state"] == "opening")["sources"][0]
        os.kill(row["pid"], signal.SIGSTOP)
        assert failures(rig)["quiet"].startswith("stopped: ")


# Remembered


class _Still:
    moved_at = float("-inf")


async def test_a_slow_list_is_waited_for_once(monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery) -> None:
    settings = config.Config()
    release = trio.Event()
    rounds = 0

    async def devices(*_: object, **__: object) -> Listing:
        nonlocal rounds
        rounds += 1
        number = rounds
        if number > 1:
            await release.wait()
        return Listing(
            [Device("tool", "tool", Interface(f"radio{number}"))], [Failure("other", "exited", "x")]
        )

    monkeypatch.setattr(inventory, "list_devices", devices)
    monkeypatch.setattr(inventory, "FRESH_S", 0.0)
    monkeypatch.setattr(inventory, "SOON_S", 0.01)
    still = _Still()
    found = inventory.Inventory(None, lambda: settings, Drivers(), still)  # type: ignore[arg-type]
    found.nursery = nursery

    async def names(max_age_s: float | None = None) -> list[object]:
        with trio.fail_after(HANGS_S):
            answer = await found.devices({}, max_age_s)
        return [device["interface"] for device in answer["devices"]]  # type: ignore[index, attr-defined]

    assert await names() == ["radio1"]
    assert await names() == ["radio1"]  # too old; the new answer is late, so the old one is shown
    assert rounds == 2
    with trio.move_on_after(0.05):
        assert await names(0) == []  # who wants it now waits
        raise AssertionError("answered from memory")
    still.moved_at = trio.current_time()
    with trio.move_on_after(0.05):
        await names()  # what was known may be wrong by now
        raise AssertionError("answered from memory")
    release.set()
    assert (await names())[0] in {"radio2", "radio3"}
    nursery.cancel_scope.cancel()


async def test_a_probe_waits_for_a_late_helper_only_until_another_says_yes(tmp_path: Path) -> None:
    python = (sys.executable, "-IS", BAD)
    text = (
        block("late", *python, "silence", keys='probe_timeout = "30s"')
        + block("no", *python, "good", "--probe=no")
        + block("yes", *python, "good")
    )
    file = tmp_path / "helpers.toml"
    file.write_text(text)
    settings = config.load(str(file))
    async with trio.open_nursery() as tail, own_launcher(str(file), settings=settings) as launcher:
        with trio.fail_after(20):
            found = await probe(launcher, settings.helpers, tail, "x")
    assert found.helper is not None
    assert found.helper.name == "yes"
    assert [failure.helper for failure in found.refused] == ["no"]
