"""`python -m benchmarks.csdk [--packets N]`: the C SDK beside the Python SDK, under a real daemon.

Both hand over N numbered packets of 64 bytes, one call each; a consumer whose sink waits reads them, and afterwards
looks whether each is there, in order. The rate is from the first read with a packet to the last; `first` is from the
order (AddSource) to the first packet's arrival; `RSS` is the helper's own memory, in mid-run. Each is the median of the
rounds, and stands beside its bar; status 1 when one is missed. A machine that has something else to do (its load is
above 0.5 before it begins) is measured, and not judged: wait for a quiet hour.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.__main__ import machine
from benchmarks.measure import WrongError
from tests.rig import Rig, daemon

SDK = Path(__file__).resolve().parent.parent / "sdk" / "c"
QUIET = 0.5
"""Load (of the last minute) above which nothing is judged."""
TIMES, FIRST_MS, RESIDENT_KIB = 3.0, 5.0, 2048
"""The bars: as many times the Python SDK's rate, milliseconds to the first packet, memory."""
SIZE = 64
BLOCK = 32 + SIZE
CONFIG = """
[helperd]
implicit_sinks = false
log_level = "warning"
[[helper]]
name = "c"
command = ["{program}"]
types = ["hello"]
exclusive = false
[[helper]]
name = "python"
command = ["{python}", "{counter}"]
types = ["pyhello"]
exclusive = false
[[sink]]
path = "all.sock"
overflow = "wait"
"""
COUNTER = """
from helperd.helpers.sdk import Device, Helper, main


class Counter(Helper):
    TYPE = "pyhello"
    OPTIONS = {"count": "packets"}

    def open(self, definition):
        self.count = int(definition.number("count", default=0))
        return Device(dlt=147, hardware="a counter")

    def capture(self, writer):
        packet, rest = writer.packet, bytes(56)
        for number in range(self.count):
            packet(number.to_bytes(8, "big") + rest)


main(Counter)
"""


def build(folder: Path) -> Path:
    """The counter in C."""
    program = folder / "hello"
    cc = shutil.which("cc") or shutil.which("gcc") or "clang"
    sources = [str(SDK / "hello.c"), str(SDK / "helperd.c")]
    subprocess.run([cc, "-std=c99", "-O2", "-pthread", "-o", str(program), *sources], check=True)
    return program


def once(rig: Rig, sock: socket.socket, kind: str, packets: int) -> tuple[float, float, int]:
    """One source from order to end: packets per second, milliseconds to the first, resident KiB."""
    chunks, got, resident = [], 0, 0
    began = time.perf_counter()
    rig.call("AddSource", definition=f"x:type={kind},count={packets}", name="n")
    first = last = head = 0.0
    while got < packets * BLOCK:
        data = sock.recv(1 << 20)
        last = time.perf_counter()
        if len(data) >= BLOCK and not first:
            first, head = last, len(data)
        if not resident and got > packets * BLOCK // 2:
            pid = rig.source("n").get("pid")
            with contextlib.suppress(
                OSError, StopIteration
            ):  # it has ended: too few packets to look in mid-run
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                resident = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
        chunks.append(data)
        got += len(data)
    check(b"".join(chunks), packets)
    rig.call("RemoveSource", source="n")
    return (got - head) / BLOCK / (last - first) if last > first else 0.0, (first - began) * 1000, resident


def check(stream: bytes, packets: int) -> None:
    """Every packet is there, in order.

    Raises:
        WrongError: one is not.
    """
    at, expected = 0, 0
    while at + 12 <= len(stream) and expected < packets:
        kind, length = struct.unpack_from("<II", stream, at)
        if at + length > len(stream):
            break
        if kind == 6:
            (number,) = struct.unpack_from(">Q", stream, at + 28)
            if number != expected:
                raise WrongError(f"packet {number} where {expected} is due")
            expected += 1
        at += length
    if (
        expected < packets - 16
    ):  # what is behind the last whole read: blocks that are no packets have taken its place
        raise WrongError(f"{expected} packets of {packets}")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.csdk", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--packets", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    found: dict[str, list[tuple[float, float, int]]] = {"hello": [], "pyhello": []}
    with tempfile.TemporaryDirectory(prefix="hd-csdk-") as name:
        folder = Path(name)
        counter = folder / "counter.py"
        counter.write_text(f"import sys\nsys.path.insert(0, {str(SDK.parent.parent)!r})\n{COUNTER}")
        config = CONFIG.format(program=build(folder), python=sys.executable, counter=counter)
        with daemon(folder, config) as rig:
            for _ in range(options.rounds):
                for kind, rounds in found.items():
                    with rig.connect("all.sock") as sock:
                        rounds.append(once(rig, sock, kind, options.packets))
    print(machine())
    for kind, words in (("hello", "C SDK"), ("pyhello", "Python SDK")):
        rate, first, resident = map(median, zip(*found[kind], strict=True))
        print(f"{words:10}  {rate:12,.0f} packets/s  first {first:7.2f} ms  RSS {resident:,.0f} KiB")
    rate, first, resident = map(median, zip(*found["hello"], strict=True))
    times = rate / median(row[0] for row in found["pyhello"])
    bars = [
        ("rate", times, times >= TIMES, f"at least {TIMES:g} x the Python SDK's"),
        ("first packet, ms", first, first <= FIRST_MS, f"at most {FIRST_MS:g}"),
        ("resident, KiB", resident, resident <= RESIDENT_KIB, f"at most {RESIDENT_KIB}"),
    ]
    quiet = load <= QUIET
    for what, value, met, bar in bars:
        print(f"{what:16}  {value:10,.2f}   {bar}{': MISSED' if quiet and not met else ''}")
    if not quiet:
        print(f"not judged: the load was {load:.2f} before it began, and is to be {QUIET:g} at most")
    return int(quiet and not all(met for _, _, met, _ in bars))


if __name__ == "__main__":
    sys.exit(main())
