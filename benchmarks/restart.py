"""How fast a helper comes back: `python -m benchmarks.restart [--kills 40] [--helpers 200] [--loop-seconds 70]`.

    one C helper, one Python helper   SIGKILL to the first packet of its replacement at a consumer, many times
    200 C helpers                     killed in one instant: the last streams again; status asked meanwhile
    50 crash loops                    starts in the first 30 s, then per 30 s; how they spread; processor time

The C helper is compiled here (gcc or cc); without a compiler those rows say so. Status 1 when a limit of the design
is missed.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from helperd.control.client import Client
from tests.rig import Rig, Stream, daemon

C_SOURCE = Path(__file__).with_name("streamer.c")
HELPER = """
[[helper]]
name = "{name}"
command = ["{command}"]
types = ["{name}"]
wire = "v3"
"""
SOURCE = """
[[source]]
name = "{name}"
definition = "{name}:type={kind},rate={rate}"
"""
LIMITS = {
    "c_p50_ms": 25.0,
    "c_p99_ms": 60.0,
    "python_p50_ms": 150.0,
    "all_back_s": 1.5,
    "status_max_ms": 100.0,
    "loop_cpu_percent": 0.5,
}


def compiled(folder: Path) -> Path | None:
    """The C helper, or None without a compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    program = folder / "streamer"
    subprocess.run([compiler, "-O2", "-o", str(program), str(C_SOURCE)], check=True)
    return program


def percentile(values: list[float], share: float) -> float:
    """The value below which that share lies; the largest for few values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def kill_one(rig: Rig, name: str, kills: int) -> list[float]:
    """Milliseconds from SIGKILL to the first packet of the next life, at a consumer."""
    took = []
    with rig.connect(f"sources/{name}.sock") as sock:
        packets = Stream(sock).packets()
        last = -1
        for _ in range(kills):
            rig.wait_running(name)
            end = time.monotonic() + 10.5 if len(took) == 0 else time.monotonic() + 0.3
            for packet in packets:
                last = int.from_bytes(packet.content[40:48], "little")
                if time.monotonic() > end:
                    break
            pid = rig.source(name)["pid"]
            began = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            for packet in packets:
                number = int.from_bytes(packet.content[40:48], "little")
                if number <= last:  # of the next life: the one before may have come to its first packet alone
                    break
                last = number
            took.append((time.monotonic() - began) * 1000)
            rig.call("Restart", source=name)  # an order forgives: every kill is a first one
    return took


def kill_all(rig: Rig, helpers: int) -> dict[str, float]:
    """Kill every helper in one instant and watch them come back."""
    rows = rig.wait_running(timeout=60)["sources"]
    before = {row["name"]: (row["pid"], row["incarnation"]) for row in rows}
    asked: list[float] = []
    done = threading.Event()

    def ask() -> None:
        with Client(rig.control) as client:
            while not done.is_set():
                began = time.monotonic()
                client.call("GetHealth")
                asked.append((time.monotonic() - began) * 1000)
                time.sleep(0.04)

    with rig.connect() as sock:
        stream = Stream(sock)
        packets = stream.packets()
        last: dict[str, int] = collections.defaultdict(int)
        while len(last) < helpers or min(last.values()) < 2:
            packet = next(packets)
            last[stream.interfaces[packet.interface][1]] = int.from_bytes(packet.content[40:48], "little")
        asker = threading.Thread(target=ask)
        asker.start()
        time.sleep(0.2)
        began = time.monotonic()
        for pid, _ in before.values():
            os.kill(pid, signal.SIGKILL)
        back: dict[str, float] = {}
        while len(back) < helpers:
            packet = next(packets)
            name = stream.interfaces[packet.interface][1]
            number = int.from_bytes(packet.content[40:48], "little")
            if number <= last[name]:
                back.setdefault(name, time.monotonic() - began)
            last[name] = number
        done.set()
        asker.join()
    return {
        "all_back_s": max(back.values()),
        "half_back_s": statistics.median(back.values()),
        "status_max_ms": max(asked),
        "status_p50_ms": statistics.median(asked),
        "status_asked": float(len(asked)),
    }


def crash_loops(rig: Rig, loops: int, seconds: float) -> dict[str, float]:
    """Starts of sources that crash at once, over so many seconds."""
    launcher, supervisor = rig.process.pid, rig.status()["pid"]
    began = time.monotonic()
    starts: list[tuple[float, str, int]] = []
    known: dict[str, int] = collections.defaultdict(int)
    early_cpu = late_cpu = 0.0
    split = min(30.0, seconds)
    with Client(rig.control) as client:
        while (now := time.monotonic() - began) < seconds:
            for row in client.call("GetStatus")["sources"]:
                fresh = range(known[row["name"]], row["incarnation"])
                starts += [(now, row["name"], number + 1) for number in fresh]
                known[row["name"]] = row["incarnation"]
            if now >= split and not early_cpu:
                early_cpu = cpu_s(launcher) + cpu_s(supervisor)
            time.sleep(0.05)
    late_cpu = cpu_s(launcher) + cpu_s(supervisor)
    first = collections.Counter(name for at, name, _ in starts if at <= 30)
    later = collections.Counter(name for at, name, _ in starts if at > 30)
    spread = [at for at, _, number in starts if number > 5]
    bins = collections.Counter(int(at / 0.1) for at in spread)
    return {
        "starts_30s_min": float(min(first.values())),
        "starts_30s_max": float(max(first.values())),
        "later_starts_per_30s": max(later.values(), default=0) / max((seconds - 30) / 30, 0.001)
        if seconds > 30
        else 0,
        "fullest_100ms_share": max(bins.values(), default=0) / max(len(spread), 1),
        "starts_after_fifth": float(len(spread)),
        "loop_cpu_percent_all": 100 * (late_cpu - early_cpu) / max(seconds - split, 0.001),
        "loop_cpu_percent": 100 * (late_cpu - early_cpu) / max(seconds - split, 0.001) / loops,
    }


def cpu_s(pid: int) -> float:
    """Processor time used so far, in seconds."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def configuration(program: Path | None, names: list[str], kind: str, rate: float) -> str:
    command = str(program) if program else "builtin:synthetic"
    head = HELPER.format(name="synthetic" if program is None else "c", command=command)
    return head + "".join(SOURCE.format(name=name, kind=kind, rate=rate) for name in names)


def measure(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, float]]:
    program = compiled(folder)
    if program is None:
        print("no compiler: the C rows are left out", file=sys.stderr)
    for label, which, kind in (("c", program, "c"), ("python", None, "synthetic")):
        if not options.kills or (label == "c" and program is None):
            continue
        place = folder / label
        place.mkdir()
        with daemon(place, configuration(which, ["radio0"], kind, 5000)) as rig:
            took = kill_one(rig, "radio0", options.kills)
        yield f"{label}_p50_ms", statistics.median(took)
        yield f"{label}_p99_ms", percentile(took, 0.99)
    if program is not None and options.helpers:
        place = folder / "all"
        place.mkdir()
        names = [f"r{number}" for number in range(options.helpers)]
        with daemon(place, configuration(program, names, "c", 20)) as rig:
            yield from kill_all(rig, options.helpers).items()
    if options.loop_seconds:
        place = folder / "loops"
        place.mkdir()
        text = HELPER.format(name="crash", command="/bin/false")
        text += "".join(
            SOURCE.format(name=f"x{number}", kind="crash", rate=1) for number in range(options.loops)
        )
        with daemon(place, text) as rig:
            yield from crash_loops(rig, options.loops, options.loop_seconds).items()


def main() -> int:
    parser = argparse.ArgumentParser(description="How fast helpers come back, and how slowly they may crash.")
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--helpers", type=int, default=200)
    parser.add_argument("--loops", type=int, default=50)
    parser.add_argument("--loop-seconds", type=float, default=70)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    missed = []
    found = {}
    with tempfile.TemporaryDirectory(prefix="hd-") as name:
        for word, value in measure(options, Path(name)):
            limit = LIMITS.get(word)
            bad = limit is not None and value > limit
            missed += [word] if bad else []
            told = f"  (at most {limit:g}{', MISSED' if bad else ''})" if limit is not None else ""
            print(f"{word:24} {value:9.2f}{told}", flush=True)
            found[word] = value
    if options.json:
        options.json.write_text(json.dumps(found))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
