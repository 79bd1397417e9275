"""One command, one table: `python -m benchmarks [--quick]`.

Every case moves packets through one path, one case after the other and round after round, so that a busy moment of the
machine hits all of them. Figures are medians over the rounds; the ratio to `cat` is the median of the ratios within
each round. In every run every packet is counted: what arrived, what was told lost, and what the ledger says have to
agree to the packet, or the run is a fault and gives no figure.

`cat`, dumpcap, tcpdump or the supervisor have the second processor to themselves; producers and consumers share the
first. The processor, the kernel and the interpreter's build belong to a figure: quote them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks import baselines, crowd, path
from benchmarks.measure import Bench, Case
from benchmarks.wire import build

CASES: list[Case] = [  # add a case here
    *baselines.CASES,
    *path.CASES,
    *crowd.CASES,
]
REFERENCE = baselines.CAT.name
SIZES = (128, 1400)
Runs = dict[str, list[dict[str, object]]]
"""Figures by case and size, one per round; "reference" in each is the rate of `cat` in its round."""


def measure(cases: list[Case], bench: Bench, sizes: list[int], rounds: int) -> tuple[Runs, dict[str, str]]:
    """Run all cases `rounds` times, interleaved, each round in another order.

    Returns:
        Figures; and reasons by key for cases that cannot run, failed or lost packets.
    """
    runs: Runs = {}
    faults: dict[str, str] = {}
    search = f"{os.environ.get('PATH', '')}:/usr/sbin"
    for number in range(rounds):
        bench.rates.clear()
        start = number % len(cases)
        for size in sizes:
            bench.size = size
            fresh = []
            for case in cases[start:] + cases[:start]:
                key = f"{case.name} @{size}"
                if size not in case.sizes or key in faults or (case.once and number):
                    continue
                if lacking := [
                    program for program in case.programs if not shutil.which(program, path=search)
                ]:
                    faults[key] = f"not installed: {', '.join(lacking)}"
                    continue
                progress(f"round {number + 1} of {rounds}: {key}")
                try:
                    figure = case.run(bench)
                except Exception as error:
                    faults[key] = f"failed: {error}"
                    continue
                if figure.packets_per_s:
                    bench.rates[f"{case.name} {size}"] = figure.packets_per_s
                row = dataclasses.asdict(figure)
                runs.setdefault(key, []).append(row)
                fresh.append(row)
            for row in fresh:
                row["reference"] = bench.rates.get(f"{REFERENCE} {size}")
    progress("")
    return runs, faults


def progress(text: str) -> None:
    """Show what is being done, where somebody watches."""
    if sys.stderr.isatty():
        print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)


def summarise(runs: Runs, faults: dict[str, str]) -> list[dict[str, object]]:
    """Rows of the table, with medians."""
    rows = []
    order = {case.name: number for number, case in enumerate(CASES)}
    for key in sorted(
        {**runs, **faults},
        key=lambda key: (int(key.rpartition("@")[2]), order.get(key.rpartition(" @")[0], 99)),
    ):
        name, _, size = key.rpartition(" @")
        found = runs.get(key, [])
        row: dict[str, object] = {
            "case": name,
            "size": int(size),
            "rounds": len(found),
            "fault": faults.get(key),
        }
        for field in ("packets_per_s", "mb_per_s", "cpu_ns", "p50_ms", "p99_ms", "rss_mb"):
            row[field] = middle([one[field] for one in found])
        row["to_cat"] = middle(
            [
                one["packets_per_s"] / one["reference"]
                for one in found
                if one["packets_per_s"] and one.get("reference")
            ]
        )
        names = dict.fromkeys(name for one in found for name in one["more"])
        row["more"] = {name: middle([one["more"].get(name) for one in found]) for name in names}
        rows.append(row)
    return rows


def middle(values: list[float | None]) -> float | None:
    """The median of what there is."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


COLUMNS = (
    ("packets_per_s", "packets/s", 11, ",.0f"),
    ("mb_per_s", "MB/s", 6, ",.0f"),
    ("to_cat", "x cat", 6, ".3f"),
    ("cpu_ns", "cpu ns/pkt", 10, ",.0f"),
    ("p50_ms", "p50 ms", 7, ".3f"),
    ("p99_ms", "p99 ms", 7, ".3f"),
    ("rss_mb", "RSS MB", 6, ".1f"),
)


def table(rows: list[dict[str, object]]) -> str:
    """The rows as text."""
    width = max(len(str(row["case"])) for row in rows)
    lines = [f"{'path':{width}} bytes" + "".join(f"  {title:>{room}}" for _, title, room, _ in COLUMNS)]
    for row in rows:
        line = f"{row['case']:{width}} {row['size']:5}"
        for field, _, room, form in COLUMNS:
            line += "  " + ("-" if row[field] is None else format(row[field], form)).rjust(room)
        for name, value in row["more"].items():
            line += f"  {value:.3g} {name}" if value is not None else ""
        lines.append(line + (f"  ({row['fault']})" if row["fault"] else ""))
    return "\n".join(lines)


def machine() -> str:
    """What belongs to every figure, in a few words."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    return f"{model}, {os.cpu_count()} cores, Linux {platform.release()}, {build()}"


def main(argv: list[str] | None = None) -> int:
    """Parse, measure, print.

    Returns:
        0, or 1 if a case failed or lost a packet; a program that is not installed is no failure.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="short runs, one round: to see that all of it runs"
    )
    parser.add_argument("--rounds", type=int, help="how often each case runs (default 5, quick 1)")
    parser.add_argument("--seconds", type=float, help="length of a run (default 1, quick 0.1)")
    parser.add_argument(
        "--long", type=float, help="length of a run that watches memory, seconds (default 60, quick 1)"
    )
    parser.add_argument("--size", type=int, action="append", choices=SIZES, help="packet size; repeatable")
    parser.add_argument(
        "--case", action="append", metavar="TEXT", help="cases whose name holds this; repeatable"
    )
    parser.add_argument("--free", action="store_true", help="let the scheduler choose processors")
    parser.add_argument(
        "--add", metavar="FILE", help="add the figures to those of FILE, and print the medians of all"
    )
    parser.add_argument("--json", metavar="FILE", help="write the rows there; - is stdout, without the table")
    parser.add_argument("--list", action="store_true", help="name the cases and end")
    options = parser.parse_args(argv)
    cases = [case for case in CASES if not options.case or any(text in case.name for text in options.case)]
    if not cases:
        parser.error(f"no case is named so; there are: {', '.join(case.name for case in CASES)}")
    if options.list:
        print("\n".join(case.name for case in cases))
        return 0
    rounds = options.rounds or (1 if options.quick else 5)
    available = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="helperd-bench-") as folder:
        bench = Bench(
            Path(folder),
            seconds=options.seconds or (0.1 if options.quick else 1.0),
            long_s=options.long or (1.0 if options.quick else 60.0),
            cpus=None if options.free or len(available) < 2 else (available[0], available[1]),
        )
        runs, faults = measure(cases, bench, options.size or list(SIZES), rounds)
    if options.add:
        file = Path(options.add)
        kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        runs = {key: [*kept.get(key, []), *runs.get(key, [])] for key in {**kept, **runs}}
        file.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
    rows = summarise(runs, faults)
    if options.json:
        text = json.dumps({"machine": machine(), "seconds": bench.seconds, "cases": rows}, indent=1) + "\n"
        if options.json == "-":
            print(text, end="")
        else:
            Path(options.json).write_text(text, encoding="utf-8")
    if options.json != "-":
        print(f"medians; runs of {bench.seconds:g} s; {machine()}")
        print(table(rows))
    return int(any(not fault.startswith("not installed") for fault in faults.values()))


if __name__ == "__main__":
    sys.exit(main())
