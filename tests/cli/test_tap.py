"""``helperd tap`` as a process, on a daemon that has real helpers."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helperd import pcapng
from helperd.client.packets import PacketReader
from tests.patience import HANGS_S
from tests.rig import HELPERD, ROOT, Rig, daemon

CONFIG = """
[[helper]]
name = "synthetic"
command = ["builtin:synthetic"]
types = ["synthetic"]

[[source]]
definition = "radio0:type=synthetic,rate=3000,channels=\\"1\\""
name = "radio0"

[[source]]
definition = "radio1:type=synthetic,rate=1000,channels=\\"6\\""
name = "radio1"
"""
TAP_S = int(os.environ.get("HELPERD_TAP_SECONDS", "3"))
"""Seconds that tshark reads from the pipe."""
COUNTER = 40  # where a synthetic packet has its number, 64 bits, little-endian


@pytest.fixture
def rig(rundir: Path) -> Iterator[Rig]:
    with daemon(rundir, CONFIG) as running:
        running.wait_running()
        yield running


def tap(rig: Rig, *words: str, **options: object) -> subprocess.CompletedProcess[str]:
    argv = [*HELPERD, "tap", *words, "--runtime-dir", str(rig.runtime)]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=HANGS_S, **options)  # type: ignore[call-overload]


def counters(data: bytes, interface: int | None = 0) -> list[int]:
    """The numbers of one interface's packets in a whole file; None: of all, where there is one."""
    found = []
    for kind, start, _stop in pcapng.split(data):
        if kind == pcapng.ENHANCED_PACKET and interface in {None, *struct.unpack_from("<I", data, start + 8)}:
            found.append(struct.unpack_from("<Q", data, start + 28 + COUNTER)[0])
    return found


def whole(data: bytes) -> bytes:
    """A file up to its last whole block."""
    at = 0
    while at + 12 <= len(data) and at + (total := struct.unpack_from("<I", data, at + 4)[0]) <= len(data):
        at += total
    return data[:at]


def gapless(numbers: list[int]) -> bool:
    return numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_it_stops_after_the_packets_asked_for(rig: Rig, tmp_path: Path) -> None:
    done = tap(rig, "radio0", "-w", str(tmp_path / "x.pcapng"), "-c", "500")
    assert done.returncode == 0
    assert done.stderr == f"File: {tmp_path}/x.pcapng\nPackets captured: 500\n"
    numbers = counters((tmp_path / "x.pcapng").read_bytes(), None)
    assert len(numbers) == 500
    assert gapless(numbers)


def test_several_sources_are_interfaces_of_one_file(rig: Rig, tmp_path: Path) -> None:
    file = tmp_path / "x.pcapng"
    done = tap(rig, "radio1", "radio0", "radio1", "-w", str(file), "-c", "500", "-g")
    assert (done.returncode, done.stderr) == (0, f"File: {file}\nPackets captured: 500\n")
    assert file.stat().st_mode & 0o777 == 0o640
    counted = [counters(file.read_bytes(), number) for number in (0, 1)]
    assert sum(map(len, counted)) == 500
    assert all(numbers and gapless(numbers) for numbers in counted)


def test_names_of_complete_files_are_told(rig: Rig, tmp_path: Path) -> None:
    told = tmp_path / "names"
    limits = ("-b", "filesize:20", "-a", "files:3", "-b", f"printname:{told}")
    done = tap(rig, "--all", "-w", str(tmp_path / "x.pcapng"), *limits)
    assert done.returncode == 0
    files = sorted(str(path) for path in tmp_path.iterdir() if path != told)
    assert told.read_text().splitlines() == files
    assert len(files) == 3


def test_a_size_to_stop_at_is_that_of_each_file_of_a_ring(rig: Rig, tmp_path: Path) -> None:
    limits = ("-a", "filesize:20", "-b", "files:2", "-a", "files:4")
    done = tap(rig, "--all", "-w", str(tmp_path / "x.pcapng"), *limits, "-q")
    assert done.returncode == 0
    names = [path.name[:8] for path in sorted(tmp_path.iterdir())]
    assert names == ["x_00003_", "x_00004_"]
    assert all(20_000 <= path.stat().st_size < 21_000 for path in tmp_path.iterdir())


def test_a_source_without_packets_is_named(rig: Rig, tmp_path: Path) -> None:
    rig.call("Stop", source="radio1")
    done = tap(rig, "--all", "-w", str(tmp_path / "x.pcapng"), "-c", "10")
    assert done.returncode == 0
    assert done.stderr.startswith("radio1: down")
    assert "its packets come when it runs" in done.stderr


def test_a_ring_of_files_has_every_packet_once(rig: Rig, tmp_path: Path) -> None:
    done = tap(rig, "--all", "-w", str(tmp_path / "x.pcapng"), "-b", "filesize:50", "-a", "duration:1", "-q")
    assert (done.returncode, done.stderr) == (0, "")
    files = sorted(tmp_path.iterdir())
    assert len(files) >= 5
    assert all(50_000 <= file.stat().st_size < 51_000 for file in files[:-1])
    for interface in (0, 1):
        assert gapless([number for file in files for number in counters(file.read_bytes(), interface)])


@pytest.mark.need("tshark")
def test_tshark_reads_the_pipe_at_once(rig: Rig) -> None:
    argv = f"{' '.join(HELPERD)} tap --all -q --runtime-dir {rig.runtime} | tshark -r - -c 20 -T fields -e frame.number"
    begin = time.monotonic()
    done = subprocess.run(
        ["bash", "-c", argv], cwd=ROOT, capture_output=True, text=True, timeout=HANGS_S, check=False
    )
    assert done.stdout.split() == [str(n) for n in range(1, 21)]
    assert time.monotonic() - begin < 10


@pytest.mark.need("tshark")
@pytest.mark.timeout(60 + 2 * TAP_S)
def test_what_tshark_reads_from_the_pipe_is_identical_byte_by_byte(rig: Rig, tmp_path: Path) -> None:
    file = tmp_path / "x.pcapng"
    line = (
        f"{' '.join(HELPERD)} tap radio0 radio1 -q -w - -a duration:{TAP_S} --runtime-dir {rig.runtime}"
        f" | tshark -n -r - -w {file}"
    )
    reference, found = PacketReader(), PacketReader()
    with rig.connect() as sock:
        expected = reference.feed(sock.recv(1 << 20))
        with subprocess.Popen(["bash", "-c", line], cwd=ROOT, stderr=subprocess.PIPE) as process:
            while process.poll() is None:
                expected += reference.feed(sock.recv(1 << 20))
            assert process.stderr is not None
            assert process.returncode == 0, process.stderr.read()
        read = found.feed(file.read_bytes())
        while expected[-1].timestamp_ns < read[-1].timestamp_ns:
            expected += reference.feed(sock.recv(1 << 20))
    assert len(read) > 3000 * TAP_S
    assert not any(reference.lost.values())
    for name in ("radio0", "radio1"):
        mine = [packet[1:] for packet in read if packet.interface.name == name]
        others = [packet[1:] for packet in expected if packet.interface.name == name]
        start = others.index(mine[0])
        assert mine == others[start : start + len(mine)]


@pytest.mark.skipif(
    shutil.which("capinfos") is None, reason="needs capinfos (Wireshark), the independent reader"
)
def test_killed_at_any_moment_every_finished_file_is_whole(rig: Rig, tmp_path: Path) -> None:
    argv = [*HELPERD, "tap", "--all", "-q", "-b", "filesize:20", "--runtime-dir", str(rig.runtime)]
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        with subprocess.Popen([*argv, "-w", str(folder / "x.pcapng")], cwd=ROOT) as process:
            while len(list(folder.iterdir())) < 3 and process.poll() is None:
                os.sched_yield()
            time.sleep(random.random() * 0.05)
            process.kill()
        files = sorted(folder.iterdir())
        for file in files[:-1]:
            done = subprocess.run(["capinfos", "-c", str(file)], capture_output=True, text=True, check=False)
            assert (done.returncode, done.stderr) == (0, ""), file
        data = [file.read_bytes() for file in files]
        data[-1] = whole(data[-1])
        for interface in (0, 1):
            assert gapless([number for file in data for number in counters(file, interface)])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_whole_file_and_status_0(rig: Rig, tmp_path: Path, number: int) -> None:
    file = tmp_path / "x.pcapng"
    argv = [*HELPERD, "tap", "--all", "-w", str(file), "--runtime-dir", str(rig.runtime)]
    with subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        while not file.exists() or file.stat().st_size < 5000:
            os.sched_yield()
        process.send_signal(number)
        _, err = process.communicate(timeout=HANGS_S)
    assert process.returncode == 0
    assert (
        err.splitlines()[-1]
        == f"Packets captured: {sum(len(counters(file.read_bytes(), i)) for i in (0, 1)):,}"
    )


def test_the_daemons_end_is_told_and_leaves_a_whole_file(rundir: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.pcapng"
    with daemon(rundir, CONFIG) as rig:
        rig.wait_running()
        argv = [*HELPERD, "tap", "--all", "-w", str(file), "--runtime-dir", str(rundir)]
        process = subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        while not file.exists() or file.stat().st_size < 5000:
            os.sched_yield()
        rig.stop()
        _, err = process.communicate(timeout=HANGS_S)
    assert process.returncode == 0
    assert err.endswith("the daemon has ended the stream\n")
    assert gapless(counters(file.read_bytes()))


def test_an_unknown_source_has_a_nearest_name(rig: Rig) -> None:
    done = tap(rig, "radio", "-w", "x")
    assert done.returncode == 64
    assert "did you mean 'radio1'" in done.stderr or "did you mean 'radio0'" in done.stderr


def test_a_reader_that_leaves_ends_it_quietly(rig: Rig) -> None:
    argv = f"{' '.join(HELPERD)} tap --all --runtime-dir {rig.runtime} | head -c 1000 | wc -c; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", argv], cwd=ROOT, capture_output=True, text=True, timeout=HANGS_S, check=False
    )
    assert done.stdout.split() == ["1000", "0"]
    assert "Traceback" not in done.stderr


# options; no daemon is needed to refuse them


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--all", "-c", "0"), "above 0"),
        (("--all", "-c", "many"), "above 0"),
        ((), "name the sources, or say --all"),
        (("radio0", "--all"), "name the sources, or say --all"),
        (("--all", "-b", "size:3"), "duration, interval, filesize, packets, files, printname"),
        (("--all", "-b", "filesize"), "duration, interval, filesize, packets, files, printname"),
        (("--all", "-b", "interval:0"), "seconds above 0"),
        (("--all", "-b", "printname:"), "name of a file"),
        (("--all", "-a", "duration:-1"), "seconds above 0"),
        (("--all", "-a", "duration:inf"), "seconds above 0"),
        (("--all", "-a", "duration:x"), "seconds above 0"),
        (("--all", "-w", "x", "-b", "files:3"), "several files need a limit for each"),
        (("--all", "-w", "x", "-a", "files:3"), "several files need a limit for each"),
        (("--all", "-b", "filesize:3"), "-w FILE"),
        (("--all", "-w", "-", "-b", "filesize:3"), "-w FILE"),
    ],
)
def test_options_that_cannot_be_are_refused(rundir: Path, words: tuple[str, ...], says: str) -> None:
    done = tap(Rig(None, rundir), *words)  # type: ignore[arg-type]
    assert done.returncode == 64
    assert says in done.stderr


def test_packets_do_not_go_to_a_terminal(rundir: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        argv = [*HELPERD, "tap", "--all", "--runtime-dir", str(rundir)]
        done = subprocess.run(argv, cwd=ROOT, stdout=theirs, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 64
    assert "tshark -r -" in done.stderr


def test_a_stream_cut_inside_a_packet_is_told(rundir: Path, tmp_path: Path) -> None:
    head = pcapng.section_header() + pcapng.interface_block(1)
    packet = pcapng.packet_block(0, 1, bytes(60), 60)
    data = head + packet
    replies = [{"sources": [], "pid": 1}, {}]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(rundir / "control.sock"))
        listener.listen()
        argv = [*HELPERD, "tap", "--all", "-w", str(tmp_path / "x"), "--runtime-dir", str(rundir)]
        with subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
            peer, _ = listener.accept()
            for reply in replies:
                while not peer.recv(1000).endswith(b"\0"):
                    pass
                peer.sendall(json.dumps({"parameters": reply}).encode() + b"\0")
            peer.sendall(data + packet[:40])
            peer.close()
            _, err = process.communicate(timeout=HANGS_S)
    (rundir / "control.sock").unlink()
    assert process.returncode == 69
    assert "inside a packet" in err
    assert (tmp_path / "x").read_bytes() == data


def test_on_a_terminal_a_count_runs_while_packets_come(rig: Rig, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    argv = [*HELPERD, "tap", "radio0", "-w", str(tmp_path / "x.pcapng"), "--runtime-dir", str(rig.runtime)]
    process = subprocess.Popen(argv, cwd=ROOT, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    with open(master, "rb", buffering=0) as terminal:
        shown = b""
        while len(counts := re.findall(rb"\rPackets: ([0-9,]+) ", shown)) < 3:
            shown += terminal.read(4096)
        process.send_signal(signal.SIGINT)
        while not re.search(rb"Packets captured: [0-9,]+\r\n", shown):
            shown += terminal.read(4096)
    assert process.wait(HANGS_S) == 0
    numbers = [int(count.replace(b",", b"")) for count in counts]
    grown = [number for number in numbers if number]  # the file's name may come between two of 0
    assert grown == sorted(set(grown))  # it grows, and is drawn for something new only
    assert b"\r\x1b[KPackets captured" in shown  # the last count does not stay beside the sum


DONE = """
[[helper]]
name = "pcapfile"
command = ["builtin:pcapfile"]
types = ["pcapfile"]

[[source]]
name = "replay"
definition = "{file}:type=pcapfile,realtime=false"
restart = "transient"
start = "{start}"
"""


@pytest.mark.parametrize(
    "way", ["sources/replay.sock", "sources/replay.frames.sock", "sources/replay.jsonl.sock"]
)
def test_a_reader_of_a_replay_that_is_done_gets_its_end(rundir: Path, way: str) -> None:
    file = ROOT / "tests/vectors/tiny.pcap"
    with daemon(rundir, DONE.format(file=file, start="boot")) as rig:
        rig.wait(lambda status: status["sources"][0]["why"] == "done")
        with rig.connect(way) as sock:
            while sock.recv(1 << 16):
                pass


def test_a_reader_gets_the_end_of_a_replay_behind_its_last_packet(rundir: Path, tmp_path: Path) -> None:
    file = ROOT / "tests/vectors/tiny.pcap"
    with daemon(rundir, DONE.format(file=file, start="first-consumer")) as rig:
        done = tap(rig, "replay", "-w", str(tmp_path / "x.pcapng"))
        assert done.returncode == 0
        assert "replay: done, nothing more comes; `helperd start replay` begins it again" in done.stderr
        first = (tmp_path / "x.pcapng").read_bytes()
        packets = sum(kind == pcapng.ENHANCED_PACKET for kind, _start, _stop in pcapng.split(first))
        assert packets == rig.source("replay")["packets"] > 0
        again = tap(rig, "replay", "-w", str(tmp_path / "y.pcapng"))
        assert again.returncode == 0
        assert "Packets captured: 0" in again.stderr
        cure = "`helperd start replay` begins it again, for who reads by then: `helperd tap --all`"
        assert cure in again.stderr


def test_a_reader_of_everything_stays_when_a_replay_is_done(rundir: Path) -> None:
    file = ROOT / "tests/vectors/tiny.pcap"
    with daemon(rundir, DONE.format(file=file, start="boot")) as rig:
        rig.wait(lambda status: status["sources"][0]["why"] == "done")
        with rig.connect("all.sock") as sock:
            rig.wait(lambda status: len(status["consumers"]) == 1)
            before = rig.source("replay")["packets"]
            rig.call("Start", source="replay")
            packets = PacketReader()
            found = 0
            while found < before:  # as many again
                found += len(list(packets.feed(sock.recv(1 << 16))))
            rig.wait(lambda status: status["sources"][0]["why"] == "done")
            assert len(rig.status()["consumers"]) == 1
