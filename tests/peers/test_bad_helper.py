"""The misbehaving peer does what it says, seen from outside with a few lines of struct and msgpack."""

from __future__ import annotations

import os
import select
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgpack
import pytest

from tests import census
from tests.patience import HANGS_S

HEAD = struct.Struct(">IHHIHHI")
HELLO = bytes.fromhex("decafbad abcd 0002 00000000") + b"PING".ljust(32, b"\0") + bytes(4)
PING, PONG, PROBE, PROBE_REPORT, OPEN, OPEN_REPORT, LIST, LIST_REPORT, PACKET = (
    2,
    3,
    10,
    11,
    12,
    13,
    14,
    15,
    16,
)
Command = Callable[..., list[str]]


class Peer:
    """The supervisor's side of one bad helper: just enough to provoke it."""

    def __init__(self, command: list[str]) -> None:
        theirs, self.to = os.pipe()
        self.source, mine = os.pipe()
        argv = [*command, f"--in-fd={theirs}", f"--out-fd={mine}"]
        self.process = subprocess.Popen(argv, pass_fds=(theirs, mine))
        os.close(theirs)
        os.close(mine)
        self.data = b""

    def send(self, kind: int, body: object = None, seqno: int = 7) -> None:
        payload = b"" if body is None else msgpack.packb(body)
        os.write(self.to, HEAD.pack(0xDECAFBAD, 0xA9A9, 3, len(payload), kind, 1, seqno) + payload)

    def read(self, seconds: float = 10) -> bool:
        """More bytes into `data`; False at the end of the stream, or when nothing comes."""
        if not select.select([self.source], [], [], seconds)[0]:
            return False
        new = os.read(self.source, 1 << 20)
        self.data += new
        return bool(new)

    def frame(self, seconds: float = 10) -> tuple[int, int, int, object] | None:
        """The next frame as type, code, seqno and payload; None if there is none."""
        while len(self.data) < HEAD.size or len(self.data) < HEAD.size + HEAD.unpack_from(self.data)[3]:
            if not self.read(seconds):
                return None
        signature, sentinel, version, length, kind, code, seqno = HEAD.unpack_from(self.data)
        assert (signature, sentinel, version) == (0xDECAFBAD, 0xA9A9, 3), self.data[:64]
        payload, self.data = self.data[HEAD.size : HEAD.size + length], self.data[HEAD.size + length :]
        return kind, code, seqno, msgpack.unpackb(payload, strict_map_key=False) if payload else None

    def until(self, kind: int) -> tuple[int, int, int, object]:
        """The next frame of one type; others are dropped."""
        while (found := self.frame()) is not None:
            if found[0] == kind:
                return found
        raise AssertionError(f"no frame of type {kind}")

    def open(self, definition: str = "bad0") -> None:
        os.write(self.to, HELLO)
        assert self.until(PONG)[2] == 0
        self.send(OPEN, {1: definition}, seqno=3)
        _, code, seqno, report = self.until(OPEN_REPORT)
        assert (code, seqno, report[1], report[2]) == (1, 3, 3, 147)

    def packets(self, wanted: int) -> list[int]:
        numbers = []
        while len(numbers) < wanted:
            content = self.until(PACKET)[3][4][6]
            assert content[:8] == b"BADHELPR"
            numbers.append(int.from_bytes(content[8:16], "big"))
        return numbers


@contextmanager
def running(command: list[str]) -> Iterator[Peer]:
    peer = Peer(command)
    try:
        yield peer
    finally:
        peer.process.kill()
        peer.process.wait()
        os.close(peer.to)
        os.close(peer.source)


def test_good_answers_everything_and_counts_its_packets(bad_helper: Command) -> None:
    with running(bad_helper("good", rate=2000, count=50, start=10, size=100)) as peer:
        os.write(peer.to, HELLO)
        assert peer.until(PONG)[2] == 0
        peer.send(LIST, seqno=4)
        assert peer.until(LIST_REPORT)[3] == {1: 4, 2: [{1: "bad0", 2: "", 3: "misbehaving"}], 4: "bad"}
        peer.send(PROBE, {1: "bad0:type=bad"}, seqno=5)
        assert peer.until(PROBE_REPORT)[1:3] == (1, 5)
        peer.send(OPEN, {1: "bad0:x=" + "y" * 300}, seqno=6)
        assert peer.until(OPEN_REPORT)[3][1] == 6
        assert peer.packets(50) == list(range(10, 60))
        assert peer.process.wait(HANGS_S) == 0
        assert not peer.read()


def test_the_definition_chooses_the_mode_of_one_source(bad_helper: Command) -> None:
    with running(bad_helper("good", rate=1000)) as peer:
        peer.open("bad0:type=bad,mode=exit-3,after=20")
        assert peer.packets(20) == list(range(20))
        assert peer.frame() is None
        assert peer.process.wait(HANGS_S) == 3


def test_silence_reads_and_says_nothing(bad_helper: Command) -> None:
    with running(bad_helper("silence")) as peer:
        os.write(peer.to, HELLO)
        peer.send(PING)
        assert not peer.read(0.2)
        assert peer.process.poll() is None


@pytest.mark.parametrize(
    ("mode", "options", "head"),
    [
        ("garbage", {}, bytes(range(200, 256))),
        ("oversized", {}, HEAD.pack(0xDECAFBAD, 0xA9A9, 3, 0x7FFFFFFF, PACKET, 0, 0)),
        ("bad-payload", {}, HEAD.pack(0xDECAFBAD, 0xA9A9, 3, 32, PACKET, 0, 2 + 5) + b"\xc1" * 32),
        ("wrong-version", {"at": "stream"}, HEAD.pack(0xDECAFBAD, 0xA9A9, 9, 0, PONG, 0, 0)),
    ],
)
def test_bytes_that_must_not_be_come_after_the_good_ones(
    bad_helper: Command, mode: str, options: dict[str, object], head: bytes
) -> None:
    with running(bad_helper(mode, after=5, rate=1000, **options)) as peer:
        peer.open()
        assert peer.packets(5) == [0, 1, 2, 3, 4]
        while len(peer.data) < len(head) and peer.read():
            pass
        assert peer.data[: len(head)].hex() == head.hex()


def test_half_a_frame_and_the_end(bad_helper: Command) -> None:
    with running(bad_helper("half-frame", after=2, rate=1000)) as peer:
        peer.open()
        assert peer.packets(2) == [0, 1]
        assert peer.frame() is None
        assert HEAD.size < len(peer.data) < HEAD.size + HEAD.unpack_from(peer.data)[3]
        assert peer.process.wait(HANGS_S) == 0


def test_mute_answers_ping_and_no_pong_does_not(bad_helper: Command) -> None:
    with (
        running(bad_helper("mute-after-3", rate=1000)) as mute,
        running(bad_helper("no-pong", rate=1000)) as deaf,
    ):
        mute.open()
        assert mute.packets(3) == [0, 1, 2]
        mute.send(PING, seqno=99)
        assert mute.frame()[:3] == (PONG, 0, 99)
        assert not mute.read(0.1)
        deaf.open()
        deaf.send(PING, seqno=99)
        assert all(deaf.frame()[0] == PACKET for _ in range(200))


def test_flood_is_as_fast_as_the_pipe(bad_helper: Command) -> None:
    with running(bad_helper("flood", rate=1)) as peer:
        peer.open()
        assert peer.packets(5000) == list(range(5000))  # at the rate of 1 a second: an hour and a half


@pytest.mark.parametrize(
    ("mode", "status"),
    [("exit-0", 0), ("exit-127", 127), ("crash", -signal.SIGSEGV), ("crash --signal=9", -9)],
)
def test_ends(bad_helper: Command, mode: str, status: int) -> None:
    words = mode.split()
    with running([*bad_helper(words[0]), *words[1:]]) as peer:
        peer.open()
        assert peer.frame() is None
        assert peer.process.wait(HANGS_S) == status


def test_ignore_term_has_to_be_killed(bad_helper: Command) -> None:
    with running(bad_helper("ignore-term", rate=1000)) as peer, running(bad_helper("good")) as polite:
        peer.open()
        peer.process.terminate()
        assert len(peer.packets(100)) == 100
        polite.open()
        polite.process.terminate()
        assert polite.process.wait(HANGS_S) == 0


@pytest.mark.parametrize("mode", ["orphan", "hold-fd"])
def test_a_child_outlives_the_helper(bad_helper: Command, tmp_path: Path, mode: str) -> None:
    file = tmp_path / "pid"
    with running(bad_helper(mode, pid_file=file, rate=1000, after=1, status=2)) as peer:
        peer.open()
        assert peer.packets(1) == [0]
        if mode == "orphan":
            peer.packets(1)
            peer.process.terminate()
        assert peer.process.wait(HANGS_S) == (2 if mode == "hold-fd" else 0)
        pid = int(file.read_text())
        left = [proc for proc in census.descendants() if proc.pid == pid]
        assert len(left) == 1
        while peer.read(0.2):
            pass
        assert bool(select.select([peer.source], [], [], 0)[0]) == (
            mode == "orphan"
        )  # only there it has ended
        census.kill(left)


def test_open_is_refused_or_late(bad_helper: Command) -> None:
    with running(bad_helper("refuse-open", text="no antenna")) as peer:
        os.write(peer.to, HELLO)
        peer.send(OPEN, {1: "bad0"}, seqno=3)
        assert peer.until(OPEN_REPORT)[1:] == (0, 3, {1: 3, 9: "no antenna"})
    with running(bad_helper("slow-open", delay=0.3)) as peer:
        began = time.perf_counter()
        peer.open()
        assert time.perf_counter() - began >= 0.3


def test_spin_burns_and_stop_self_stops(bad_helper: Command) -> None:
    with running(bad_helper("spin")) as spin, running(bad_helper("stop-self")) as stopped:
        spin.open()
        stopped.open()
        _, status = os.waitpid(stopped.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        spin.send(PING)
        assert not spin.read(0.2)
        state = Path(f"/proc/{spin.process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        assert state == "R"


def test_an_unknown_mode_is_refused_with_the_list(bad_helper: Command) -> None:
    done = subprocess.run(bad_helper("naughty"), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no mode 'naughty'; there are: good, silence" in done.stderr
