"""Sinks of a real daemon: who gets what, what a stopped reader costs, what lossless means, what helpers are given."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from helperd.client import Kind
from tests.patience import HANGS_S
from tests.rig import Rig, Stream, daemon
from tests.sinks.test_overload import CONFIG, Collector, victim

RADIO = '[[source]]\nname = "radio"\ndefinition = "radio0:type=synthetic,rate=300"\n'
F_GETPIPE_SZ = 1032
READER = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
while sock.recv(1 << 16):
    pass
"""


def sink(path: str, *lines: str) -> str:
    return "\n".join(["", "[[sink]]", f'path = "{path}"', *lines, ""])


def row_of(status: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in status["sources"] if row["name"] == name)


@pytest.mark.need("tshark")
def test_tshark_reads_a_tcp_sink(rundir):
    tcp = '[[sink]]\ntype = "tcp"\nlisten = "tcp:127.0.0.1:0"\n'
    with daemon(rundir, CONFIG + RADIO + tcp + victim("rate=0")) as rig:
        rig.wait_running("bystander", "radio")
        address = next(each["path"] for each in rig.status()["sinks"] if each["type"] == "tcp")
        done = subprocess.run(
            [
                *("tshark", "-n", "-l", "-i", f"TCP@{address.removeprefix('tcp:')}", "-c", "200"),
                *("-T", "fields", "-e", "frame.interface_name", "-e", "frame.encap_type"),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            env={"PATH": os.environ["PATH"], "HOME": str(rundir), "TMPDIR": str(rundir)},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        rows = {tuple(line.split()) for line in done.stdout.splitlines()}
        assert {name for name, _ in rows} == {"bystander", "radio"}
        assert len({encapsulation for _, encapsulation in rows}) == 2
        rig.wait(lambda status: not status["consumers"])


def test_sinks_are_filtered_by_source_and_by_link_type(rundir):
    sinks = (
        sink("radio.sock", "dlts = [127]", 'overflow = "wait"')
        + sink("one.sock", 'sources = ["bystander"]', 'overflow = "wait"')
        + sink("one.frames.sock", 'sources = ["bystander"]', 'format = "frames"', 'overflow = "wait"')
        + sink("none.sock", "dlts = [1]")
    )
    with daemon(rundir, CONFIG + RADIO + sinks + victim("rate=0")) as rig:
        rig.wait_running("bystander", "radio")
        names = ("radio.sock", "one.sock", "one.frames.sock", "none.sock")
        found = {name: Collector(rig, name) for name in names}
        rig.wait(lambda status: sum(each["packets"] > 50 for each in status["consumers"]) == 3)
        for name in ("bystander", "radio"):
            rig.call("Stop", source=name)
        consumers = {each["sink"]: each for each in rig.status()["consumers"]}
        rig.stop()
        for collector in found.values():
            collector.join(HANGS_S)
    assert all(each["lost"] == 0 for each in consumers.values())
    assert consumers["none.sock"]["offered"] == 0
    assert {packet.interface.linktype for packet in found["radio.sock"].found} == {127}
    assert {packet.interface.name for packet in found["one.sock"].found} == {"bystander"}
    about, *runs = found["one.frames.sock"].found
    assert about.kind == Kind.SOURCE
    assert {record.source for record in runs} == {about.source}
    for name in ("radio.sock", "one.sock"):
        assert len(found[name].found) == consumers[name]["offered"]
    assert sum(record.packets for record in runs) == consumers["one.frames.sock"]["offered"]


def test_of_two_readers_one_stopped_the_other_loses_nothing(rundir):
    """Exact to the packet, from the helper to the reader that runs, and to the one that does not."""
    with daemon(
        rundir, CONFIG + victim("rate=20000,count=30000,size=100,signal=false", kind="synthetic")
    ) as rig:
        rig.wait_running("bystander")
        complete = Collector(rig, "whole.sock")
        stopped = subprocess.Popen([sys.executable, "-I", "-S", "-c", READER, rundir / "small.sock"])
        try:
            rig.wait(lambda status: len(status["consumers"]) == 2)
            os.kill(stopped.pid, signal.SIGSTOP)
            rig.call("Start", source="victim")
            rig.wait(lambda status: row_of(status, "victim")["state"] == "down", 30)
            status = rig.wait(lambda status: any(each["packets"] == 30000 for each in status["consumers"]))
            source = row_of(status, "victim")
            assert source["produced"] == source["packets"] == source["routed"] == 30000
            assert source["lost"] == {}
            whole, small = sorted(status["consumers"], key=lambda each: each["sink"], reverse=True)
            assert (whole["offered"], whole["packets"], whole["lost"]) == (30000, 30000, 0)
            assert small["offered"] == 30000 == small["packets"] + small["lost"] + small["queued"]
            assert small["lost_by"] == {"consumer-slow": small["lost"]}
            assert small["lost"] > 20000
            assert small["queued_bytes"] <= 256 << 10
            os.kill(stopped.pid, signal.SIGCONT)
            rig.wait(lambda status: not any(each["queued"] for each in status["consumers"]))
            rig.stop()
            complete.join(HANGS_S)
            assert stopped.wait(HANGS_S) == 0
        finally:
            stopped.kill()
            stopped.wait()
    assert len(complete.found) == 30000
    assert complete.reader.lost.get(0, 0) == 0


def test_a_lossless_sink_holds_its_source_for_a_while_and_no_longer(rundir):
    held = sink("held.sock", 'sources = ["victim"]', 'overflow = "wait"', 'limit = "64KiB"', 'hold = "500ms"')
    with daemon(rundir, CONFIG + held + victim("rate=0,size=400,signal=false", kind="synthetic")) as rig:
        rig.wait_running("bystander")
        whole = Collector(rig, "sources/bystander.sock")
        stuck = rig.connect("held.sock")
        rig.wait(lambda status: len(status["consumers"]) == 2)
        rig.call("Start", source="victim")
        rig.wait(lambda status: row_of(status, "victim")["verdict"] == "stalled-by-consumer")
        rig.wait(lambda status: any(each["lost"] > 10000 for each in status["consumers"]))
        stuck.close()
        rig.call("Stop", source="victim")
        rig.stop()
        whole.join(HANGS_S)
    assert whole.numbers == list(range(whole.numbers[0], whole.numbers[-1] + 1))


def test_a_reload_that_changes_a_sink_opens_it_anew_and_cuts_no_stream(rundir):
    config = CONFIG + victim("rate=100,size=200")  # the queue holds ten seconds of it
    with daemon(rundir, config) as rig:
        rig.wait_running("bystander")
        before = Collector(rig, "small.sock")
        rig.call("Start", source="victim")
        rig.wait(lambda status: any(each["packets"] > 100 for each in status["consumers"]))
        (rundir / "helpers.toml").write_text(config.replace('limit = "256KiB"', 'limit = "512KiB"'))
        rig.call("Reload")
        after = Collector(rig, "small.sock")
        before.join(HANGS_S)
        assert not before.is_alive(), "its stream has ended, whole"
        rig.wait(lambda status: any(each["packets"] > 100 for each in status["consumers"]))
        assert row_of(rig.status(), "victim")["incarnation"] == 1
        rig.stop()
        after.join(HANGS_S)
    assert before.numbers == list(range(len(before.numbers)))
    assert after.numbers == list(range(after.numbers[0], after.numbers[-1] + 1))


def descriptor(pid: int, word: str) -> int:
    """The number that follows a word like --out-fd in a process's arguments."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    found = next(each for each in words if each.startswith(word))
    return int(found.partition("=")[2])


def kind_of(pid: int, number: int) -> str:
    return os.readlink(f"/proc/{pid}/fd/{number}").partition(":")[0]


@pytest.mark.need("root")  # our own helpers are not dumpable: their descriptors are shown to nobody else
def test_foreign_helpers_write_into_an_ordinary_pipe_and_our_own_into_a_large_socket(rundir):
    with daemon(rundir, CONFIG + RADIO + victim("rate=0")) as rig:
        rig.wait_running("bystander", "radio")
        foreign, own = (row_of(rig.status(), name)["pid"] for name in ("bystander", "radio"))
        out = descriptor(foreign, "--out-fd")
        assert kind_of(foreign, out) == "pipe"
        with open(f"/proc/{foreign}/fd/{out}", "wb", buffering=0) as pipe:
            assert fcntl.fcntl(pipe, F_GETPIPE_SZ) == 64 << 10
        assert kind_of(own, descriptor(own, "--out-fd")) == "socket"


def test_a_quiet_helper_is_read_as_often_as_a_flooding_one(rundir):
    """One read per turn: beside two helpers at full speed a quiet one's packets are not late."""
    flood = victim("rate=max,size=1000") + victim("rate=0,size=1000", "own", "synthetic")
    with daemon(rundir, CONFIG + flood) as rig:
        rig.wait_running("bystander")
        for name in ("victim", "own"):
            rig.call("Start", source=name)
        late = sorted(delays(rig, 200))
        print(f"delays: median {late[100] * 1e3:.2f} ms, the 99th of 100 {late[197] * 1e3:.2f} ms")
        assert late[100] < 2, "it starves"


def delays(rig: Rig, count: int) -> list[float]:
    """How many seconds old the bystander's packets are when they come."""
    with rig.connect("sources/bystander.sock") as sock:
        packets = Stream(sock).packets()
        return [time.time() - next(packets).stamp / 1e9 for _ in range(count)]
