"""Bad input and overload, with real processes: memory in its bounds, prompt answers, nobody else loses a packet.

Environment:
  HELPERD_OVERLOAD_S  seconds at full speed (3)
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helperd.client import Kind, PacketReader, split_frames
from helperd.client.sync import packets, records
from helperd.control.client import Client
from tests.faults.witness import balance
from tests.patience import HANGS_S
from tests.rig import ROOT, Rig, Stream, daemon

SECONDS = float(os.environ.get("HELPERD_OVERLOAD_S", "3"))
# "later" never runs: because of it the victim's end is not the end of those who read it.
CONFIG = f"""
[[helper]]
name = "bad"
command = ["{sys.executable}", "-I", "-S", "{ROOT}/tests/sinks/peer.py", "good"]
types = ["bad"]
keepalive = "1s"
exclusive = false
[[helper]]
name = "synthetic"
command = ["builtin:synthetic"]
types = ["synthetic"]
[[source]]
name = "bystander"
definition = "bad0:type=bad,rate=200"
[[source]]
name = "later"
definition = "bad9:type=bad"
start = "manual"
[[sink]]
path = "whole.sock"
sources = ["victim", "later"]
overflow = "wait"
limit = "1MiB"
[[sink]]
path = "whole.frames.sock"
sources = ["victim", "later"]
format = "frames"
overflow = "wait"
limit = "1MiB"
[[sink]]
path = "small.sock"
sources = ["victim", "later"]
limit = "256KiB"
"""


def victim(options: str, name: str = "victim", kind: str = "bad") -> str:
    interface = {"bad": "bad0", "synthetic": "radio0"}[kind]
    return (
        f'[[source]]\nname = "{name}"\ndefinition = "{interface}:type={kind},{options}"\n'
        'start = "manual"\nrestart = "temporary"\n'
    )


def number_of(content: bytes) -> int:
    assert content.startswith(b"BADHELPR")
    return int.from_bytes(content[8:16], "big")


def resident(pid: int, word: str = "VmRSS") -> int:
    """Bytes of memory of a process; VmHWM: the most it ever had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(word))


class Collector(threading.Thread):
    """Reads packets or records of one socket to its end."""

    def __init__(self, rig: Rig, name: str) -> None:
        super().__init__(daemon=True)
        self.reader = PacketReader()
        self.found: list = []
        self._stream = (
            records(rig.runtime / name) if "frames" in name else packets(rig.runtime / name, self.reader)
        )
        before = max((row["id"] for row in rig.status()["consumers"]), default=0)
        self.start()
        rig.wait(lambda status: any(row["id"] > before for row in status["consumers"]))

    def run(self) -> None:
        self.found.extend(self._stream)

    @property
    def numbers(self) -> list[int]:
        return [number_of(packet.content) for packet in self.found]


class Drain(threading.Thread):
    """Reads many sockets and counts their bytes."""

    def __init__(self, socks: list[socket.socket]) -> None:
        super().__init__(daemon=True)
        self.got = dict.fromkeys(socks, 0)
        self.start()

    def run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for sock in self.got:
                sock.setblocking(False)
                selector.register(sock, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select():
                    data = key.fileobj.recv(1 << 20)
                    self.got[key.fileobj] += len(data)
                    if not data:
                        selector.unregister(key.fileobj)


class Asker(threading.Thread):
    """Asks for the status all the time: how long it takes, whether it adds up, how much memory there is."""

    def __init__(self, rig: Rig) -> None:
        super().__init__(daemon=True)
        self.took: list[float] = []
        self.wrong: list[str] = []
        self.resident: list[tuple[float, int]] = []
        self._rig = rig
        self._end = threading.Event()
        self.start()

    def run(self) -> None:
        with Client(self._rig.control, timeout_s=HANGS_S) as client:
            while not self._end.wait(0.02):
                began = time.monotonic()
                status = client.call("GetStatus")
                self.took.append(time.monotonic() - began)
                self.wrong += balance(status)
                self.resident.append((began, resident(status["pid"])))

    def close(self) -> None:
        self._end.set()
        self.join(HANGS_S)


class Scene:
    """A daemon, somebody who asks it, and readers that are joined once it has ended."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.asker = Asker(rig)
        self.threads: list[threading.Thread] = []

    def collect(self, name: str) -> Collector:
        """A reader of a socket, connected."""
        self.threads.append(Collector(self.rig, name))
        return self.threads[-1]


@contextlib.contextmanager
def overloaded(rundir: Path, more: str) -> Iterator[Scene]:
    """A daemon with a bystander, which must lose nothing, and somebody who asks, and must not wait; ends both."""
    with daemon(rundir, CONFIG + more) as rig:
        rig.wait_running("bystander")
        scene = Scene(rig)
        bystander = scene.collect("sources/bystander.sock")
        asker = scene.asker
        try:
            yield scene
            row = rig.source("bystander")
        finally:
            asker.close()
        assert (row["state"], row["incarnation"]) == ("running", 1)
        assert not asker.wrong, asker.wrong[:3]
        print(
            f"status: median {statistics.median(asker.took) * 1e3:.1f} ms, worst {max(asker.took) * 1e3:.1f} ms"
        )
        print(f"ping of the bystander: worst {row['round_trip_max_s']}")
        # what is aimed at is 100 ms; asserted is only that nobody starves, on a machine that others use too
        assert statistics.median(asker.took) < 2
        assert max(asker.took) < HANGS_S / 2
        assert row["round_trip_max_s"] is None or row["round_trip_max_s"] < HANGS_S / 2
        rig.stop()
        for thread in scene.threads:
            thread.join(HANGS_S)
            assert not thread.is_alive()
    assert sum(bystander.reader.lost.values()) == 0
    numbers = bystander.numbers
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def run(rig: Rig, name: str = "victim") -> dict:
    """Start a source that ends by itself, and wait for its end."""
    rig.call("Start", source=name)
    return ended(rig, name)


def ended(rig: Rig, name: str = "victim") -> dict:
    def down(status: dict) -> bool:
        return any(
            row["name"] == name and row["state"] == "down" and row["incarnation"] for row in status["sources"]
        )

    rig.wait(down, 60)
    return rig.source(name)


def test_one_byte_per_write_is_the_same_stream(rundir):
    with overloaded(rundir, victim("mode=drip,rate=max,count=300")) as scene:
        blocks, frames = scene.collect("whole.sock"), scene.collect("whole.frames.sock")
        row = run(scene.rig)
        assert (row["packets"], row["routed"], row["lost"]) == (300, 300, {})
    assert blocks.numbers == list(range(300))
    assert sum(record.packets for record in frames.found) == 300


def test_frames_at_the_limit_pass_whole_and_cut_to_what_readers_take(rundir):
    with overloaded(rundir, victim("mode=huge,rate=max,count=40")) as scene:
        blocks, frames = scene.collect("whole.sock"), scene.collect("whole.frames.sock")
        before = resident(scene.rig.status()["pid"])
        row = run(scene.rig)
        assert (row["packets"], row["routed"], row["cut"], row["lost"]) == (40, 40, 40, {})
        grown = max(size for _, size in scene.asker.resident) - before
        print(f"grown by {grown >> 10} KiB")
        assert grown < 16 << 20, "two outboxes of 1 MiB and a few frames"
    assert blocks.numbers == list(range(40))
    runs = [record for record in frames.found if record.kind == Kind.PACKETS]
    whole = [frame for record in runs for frame in split_frames(record, "v3")]
    assert [len(frame) for frame in whole] == [1 << 20] * 40
    content = whole[0][-blocks.found[0].original :]
    assert content.startswith(b"BADHELPR")
    assert blocks.found[0].content == content[:262_112]


def test_helpers_at_full_speed_are_held_to_their_share(rundir):
    sources = victim("rate=max,size=128") + victim("rate=0,size=128", "own", "synthetic")
    with contextlib.ExitStack() as socks, overloaded(rundir, sources) as scene:
        rig = scene.rig
        names = ("all.sock", "all.frames.sock", "sources/own.sock")
        fast = [socks.enter_context(rig.connect(name)) for name in names]
        scene.threads.append(Drain(fast))
        rig.call("Start", source="victim")
        rig.call("Start", source="own")
        began = time.monotonic()
        rows = rig.wait(lambda _: time.monotonic() - began > SECONDS, SECONDS + 20)
        settled = [size for at, size in scene.asker.resident if at > began + 1]
        print(f"resident {settled[0] >> 10} KiB, at the end {settled[-1] >> 10}, most {max(settled) >> 10}")
        assert max(settled) - settled[0] < 12 << 20, "three outboxes that may fill"
        for name in ("victim", "own"):
            rig.call("Stop", source=name)
        for row in map(rig.source, ("victim", "own")):
            before = next(each for each in rows["sources"] if each["name"] == row["name"])
            print(
                f"{row['name']}: {before['rate']:.0f} packets/s, ping at worst {before['round_trip_max_s']}"
            )
            assert row["packets"] > 100
            assert row["produced"] == row["packets"] + sum(row["lost"].values())
            assert before["round_trip_max_s"] is None or before["round_trip_max_s"] < HANGS_S / 2


def read_out(sock: socket.socket, already: bytes) -> tuple[list[int], int]:
    """The numbers of all packets to the stream's end, and how many it says are lost."""
    stream = Stream(sock)
    stream.buffer += already
    numbers = [number_of(packet.content) for packet in stream.packets()]
    return numbers, sum(stream.dropped.values())


def trickle(rig: Rig, sock: socket.socket) -> bytes:
    """Read one byte a second until the victim is down."""
    taken = b""
    with Client(rig.control) as client:
        for status in client.more("GetStatus", every_s=1.0):
            taken += sock.recv(1)
            if any(row["name"] == "victim" and row["state"] == "down" for row in status["sources"]):
                return taken
    raise AssertionError("the stream of states ended")


def test_consumers_that_do_not_read_hurt_nobody(rundir):
    """One that reads a byte a second, one that never reads, three that vanish in mid-send, and 200."""
    told: dict[socket.socket, tuple[list[int], int]] = {}
    with overloaded(rundir, victim("mode=huge,frame=16384,rate=80,count=200")) as scene:
        rig = scene.rig
        before = resident(rig.status()["pid"])
        readers = [rig.connect("small.sock") for _ in range(200)]
        drain = Drain(readers)
        slow, never, *vanishing = (rig.connect("small.sock") for _ in range(5))
        rig.wait(lambda status: len(status["consumers"]) == 206)
        with_readers = resident(rig.status()["pid"])
        rig.call("Start", source="victim")
        rig.wait(lambda status: sum(row["lost"] > 0 for row in status["consumers"]) >= 5, 30)
        for sock in vanishing:
            sock.close()
        taken = {slow: trickle(rig, slow), never: b""}
        row = ended(rig)
        status = rig.wait(lambda status: len(status["consumers"]) == 203)
        assert (row["packets"], row["routed"], row["lost"]) == (200, 200, {})
        mine = [each for each in status["consumers"] if each["sink"] == "small.sock"]
        assert sorted(each["lost"] for each in mine)[:200] == [0] * 200
        assert all(each["offered"] == 200 for each in mine)
        stuck = [each for each in mine if each["lost"]]
        assert [each["lost_by"] for each in stuck] == [{"consumer-slow": each["lost"]} for each in stuck]
        most = max(size for _, size in scene.asker.resident)
        print(f"200 consumers: {with_readers - before >> 10} KiB; then {most - with_readers >> 10} KiB more")
        assert with_readers - before < 24 << 20
        assert most - with_readers < 16 << 20
        scene.threads += [
            drain,
            *(
                threading.Thread(target=lambda sock=sock: told.update({sock: read_out(sock, taken[sock])}))
                for sock in taken
            ),
        ]
        for thread in scene.threads[-2:]:
            thread.start()
        rig.wait(lambda status: not any(each["queued"] for each in status["consumers"]))
    assert [len(numbers) + lost for numbers, lost in told.values()] == [200, 200]
    assert sorted(lost for _, lost in told.values()) == sorted(each["lost"] for each in stuck)
    assert len(set(drain.got.values())) == 1, "all two hundred got the same"
    for sock in (*readers, slow, never):
        sock.close()


@pytest.mark.parametrize("form", ["pcapng", "frames"])
def test_first_packets_that_come_with_the_open_report_belong_to_it(rundir, form):
    with overloaded(rundir, victim("mode=together,count=30,dlt=127")) as scene:
        rig = scene.rig
        found = scene.collect("whole.sock" if form == "pcapng" else "whole.frames.sock")
        rig.call("Start", source="victim")
        rig.wait(lambda status: any(row["packets"] == 30 for row in status["sources"]))
        rig.call("Restart", source="victim")
        rig.wait(lambda status: any(row["packets"] == 60 for row in status["sources"]))
    if form == "pcapng":
        assert found.numbers == [*range(30), *range(30)]
        assert {packet.interface.linktype for packet in found.found} == {127}
    else:
        assert [record.kind for record in found.found] == [Kind.SOURCE, Kind.PACKETS] * 2
        assert [record.incarnation for record in found.found] == [1, 1, 2, 2]
        assert found.found[0].fields()["dlt"] == "127"
