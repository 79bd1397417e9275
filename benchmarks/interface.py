"""Live capture on a veth pair: the `interface` helper under helperd beside dumpcap and tcpdump writing to a pipe.

    python -m benchmarks.interface [--pps 250000] [--packets 1000000] [--size 200] [--rounds 3] [--top]
                                  [--overflow drop-oldest]

Runs as root, in a network namespace of its own that ends with it. tcpreplay sends from the other end; every
program captures the same packets, one after the other, in every round. cpu is what the kernel accounts to the
process in nanoseconds (schedstat); for helperd the helper and the supervisor are told apart, and the consumer
is waited for as a pipe's reader is. `missed` is what was sent and did not come out; `told` is what the program
itself says it lost, and where.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import re
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from helperd.control.client import Client

ROOT = Path(__file__).resolve().parent.parent
MIX = (60, 60, 60, 90, 200, 300, 590, 1514, 1514, 1514)


class Figure(NamedTuple):
    """One run: packets sent, packets that came out, packets the program tells it lost, cpu seconds by process."""

    sent: int
    arrived: int
    told: dict[str, int]
    cpu: dict[str, float]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.interface", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--pps", type=int, default=250_000, help="packets per second (default 250,000)")
    parser.add_argument("--top", action="store_true", help="as fast as tcpreplay can")
    parser.add_argument("--packets", type=int, default=1_000_000, help="packets in a run (default 1,000,000)")
    parser.add_argument(
        "--size", type=int, default=200, help="bytes of each; 0: mixed, 60 to 1514 (default 200)"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--overflow",
        choices=("wait", "drop-oldest"),
        default="wait",
        help="what helperd does when its reader is late (default wait)",
    )
    parser.add_argument("--only", choices=sorted(PROGRAMS), action="append")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    options = parser.parse_args(argv)
    if os.geteuid():
        sys.exit("needs root: it makes a network namespace with a veth pair")
    isolate()
    programs = PROGRAMS | {"helperd": partial(run_helperd, overflow=options.overflow)}
    names = options.only or list(programs)
    figures: dict[str, list[Figure]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="helperd-bench-") as folder:
        pcap = Path(folder) / "sent.pcap"
        loop = write_packets(pcap, options.packets, options.size)
        speed = "--topspeed" if options.top else f"--pps={options.pps}"
        for number in range(options.rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                print(f"round {number + 1} of {options.rounds}: {name}", file=sys.stderr)
                runtime = Path(tempfile.mkdtemp(dir=folder))
                figures[name].append(programs[name](pcap, loop, speed, runtime))
    print(f"{'program':22} {'cpu s per million packets':>28} {'sent':>12} {'missed':>9} {'told':>9}")
    for found in figures.values():
        sent = sum(figure.sent for figure in found)
        missed = sent - sum(figure.arrived for figure in found)
        told = ", ".join(
            f"{packets:,} {reason}" for figure in found for reason, packets in figure.told.items()
        )
        for process in found[0].cpu:
            each = [figure.cpu[process] * 1e6 / max(1, figure.arrived) for figure in found]
            spread = f"{statistics.median(each):.3f} ({min(each):.3f} .. {max(each):.3f})"
            print(f"{process:22} {spread:>28} {sent:12,} {missed:9,} {told or 0:>9}")
    if options.json:
        Path(options.json).write_text(
            json.dumps({name: [f._asdict() for f in found] for name, found in figures.items()})
        )
    return 0


def isolate() -> None:
    """Go into a network namespace of our own and make a veth pair: hdb0 (sends) and hdb1 (heard)."""
    if ctypes.CDLL(None, use_errno=True).unshare(0x40000000):
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
    for words in ("link add hdb0 type veth peer name hdb1", "link set hdb0 up", "link set hdb1 up"):
        subprocess.run(["ip", *words.split()], check=True)


def write_packets(path: Path, packets: int, size: int) -> int:
    """A capture of at most 100,000 numbered packets; returns how often it must be sent."""
    loop = -(-packets // 100_000)
    source = random.Random(7)
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1))
        for number in range(packets // loop):
            length = size or source.choice(MIX)
            data = struct.pack("<6s6sHQ", b"\2\0\0\0\0\2", b"\2\0\0\0\0\1", 0xB588, number).ljust(
                length, b"\0"
            )
            file.write(struct.pack("<IIII", 1, number, length, length) + data)
    return loop


def send(pcap: Path, loop: int, speed: str) -> int:
    """Send it; returns how many packets were sent into the wire, those that it dropped taken off."""
    before = statistic("hdb0", "tx_dropped")
    said = subprocess.run(
        ["tcpreplay", "-q", "-K", f"--loop={loop}", "-i", "hdb0", speed, str(pcap)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = re.search(r"Successful packets:\s+(\d+)", said)
    assert found, said
    return int(found[1]) - (statistic("hdb0", "tx_dropped") - before)


def statistic(interface: str, name: str) -> int:
    """One of the interface's own counters, from the namespace we are in."""
    shown = subprocess.run(
        ["ip", "-s", "-j", "link", "show", interface], check=True, capture_output=True
    ).stdout
    side, word = name.split("_")
    return int(json.loads(shown)[0]["stats64"][side][word])


def cpu_of(pid: int) -> float:
    """Seconds that all threads of a process have run."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


class Count(threading.Thread):
    """Reads pcap or pcapng and counts packets, in a process of its own: `cat`-like, with a count at the end."""

    def __init__(self, *, stdin: int | None = None, connect: Path | None = None) -> None:
        super().__init__(daemon=True)
        words = [str(connect)] if connect else []
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("interface_count.py")), *words],
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.packets = 0
        self.changed_at = time.monotonic()
        self.start()

    def run(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.packets = int(line)
            self.changed_at = time.monotonic()

    def settle(self, seconds: float = 1.0) -> None:
        """Wait until nothing has come for a while."""
        while time.monotonic() - self.changed_at < seconds:
            time.sleep(0.05)

    def close(self) -> None:
        self.process.wait(30)
        self.join(30)
        assert self.process.stdout is not None
        self.process.stdout.close()


def run_piped(argv: list[str], pcap: Path, loop: int, speed: str) -> Figure:
    """dumpcap or tcpdump, writing to a pipe."""
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    count = Count(stdin=process.stdout.fileno())
    process.stdout.close()
    time.sleep(1.5)
    before = cpu_of(process.pid)
    sent = send(pcap, loop, speed)
    time.sleep(1.5)  # tcpdump's blocks may wait for a second
    cpu = cpu_of(process.pid) - before
    process.send_signal(signal.SIGINT)
    text = process.stderr.read().decode()
    process.wait(30)
    process.stderr.close()
    count.close()
    found = re.search(r"pcap:(\d+)", text) or re.search(r"(\d+) packets dropped by kernel", text)
    return Figure(
        sent,
        count.packets,
        {"kernel": int(found[1])} if found and int(found[1]) else {},
        {Path(argv[0]).name: cpu},
    )


def run_dumpcap(pcap: Path, loop: int, speed: str, _: Path) -> Figure:
    return run_piped(["dumpcap", "-q", "-B", "32", "-i", "hdb1", "-w", "-"], pcap, loop, speed)


def run_tcpdump(pcap: Path, loop: int, speed: str, _: Path) -> Figure:
    return run_piped(["tcpdump", "-B", "32768", "-i", "hdb1", "-w", "-"], pcap, loop, speed)


def run_helperd(pcap: Path, loop: int, speed: str, runtime: Path, overflow: str = "wait") -> Figure:
    """The whole of helperd: helper, supervisor, consumer socket."""
    config = runtime / "helpers.toml"
    config.write_text(
        '[[helper]]\nname = "interface"\ncommand = ["builtin:interface"]\ntypes = ["interface"]\n'
        'capabilities = ["net_raw"]\n'
        '[[source]]\nname = "veth"\ndefinition = "hdb1:type=interface"\n'
        f'[[sink]]\npath = "bench.sock"\noverflow = "{overflow}"\n'
    )
    with (runtime / "log").open("wb") as log:
        launcher = subprocess.Popen(
            [sys.executable, "-m", "helperd.cli", "run", f"--runtime-dir={runtime}", "-c", str(config)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "HELPERD_UNPRIVILEGED": "1"},
        )
    try:
        status = wait_running(runtime, launcher)
        count = Count(connect=runtime / "bench.sock")
        time.sleep(0.5)
        names = {"helperd: helper": status["sources"][0]["pid"], "helperd: supervisor": status["pid"]}
        before = {name: cpu_of(pid) for name, pid in names.items()}
        sent = send(pcap, loop, speed)
        count.changed_at = time.monotonic()
        count.settle()
        cpu = {name: cpu_of(pid) - before[name] for name, pid in names.items()}
        with Client(str(runtime / "control.sock")) as client:
            ledger = client.call("GetLedger")
        told: dict[str, int] = {}
        for reason, packets in (
            (r, p) for rows in ledger.values() for row in rows for r, p in row["lost"].items()
        ):
            told[reason] = told.get(reason, 0) + packets
    finally:
        launcher.terminate()
        launcher.wait(20)
    count.close()
    return Figure(sent, count.packets, told, cpu)


def wait_running(runtime: Path, launcher: subprocess.Popen[bytes]) -> dict[str, Any]:
    """The status, once the source runs."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and launcher.poll() is None:
        try:
            with Client(str(runtime / "control.sock")) as client:
                status: dict[str, Any] = client.call("GetStatus")
        except Exception:
            status = {"sources": []}
        if any(row["state"] == "running" for row in status["sources"]):
            return status
        time.sleep(0.05)
    raise RuntimeError((runtime / "log").read_text())


PROGRAMS = {"helperd": run_helperd, "dumpcap": run_dumpcap, "tcpdump": run_tcpdump}

if __name__ == "__main__":
    sys.exit(main())
