"""One command, one table: `python -m benchmarks [--quick]`.

Every case moves the same packets, one after the other and round after round, so that a busy moment of the machine
hits all of them. The figures are medians over the rounds; the ratio to `cat` is the median of the ratios within each
round. The status is 1 if a case failed or lost a packet. The processor and the kernel belong to a figure: quote them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks import baselines, path
from benchmarks.measure import Case, Figure
from benchmarks.workload import Workload, make

CASES: list[Case] = [  # add a case here
    *baselines.CASES,
    *path.CASES,
]
REFERENCE = "cat"


def measure(
    cases: list[Case], workload: Workload, rounds: int
) -> tuple[dict[str, list[Figure]], dict[str, str]]:
    """Run all cases `rounds` times, interleaved, each round in another order.

    Returns:
        Figures by case name, one per round; and reasons by name for cases that cannot run, failed or lost packets.
    """
    figures: dict[str, list[Figure]] = {case.name: [] for case in cases}
    faults: dict[str, str] = {}
    for number in range(rounds):
        start = number % len(cases)
        for case in cases[start:] + cases[:start]:
            if case.name in faults:
                continue
            path = f"{os.environ.get('PATH', '')}:/usr/sbin"
            if lacking := [program for program in case.programs if not shutil.which(program, path=path)]:
                faults[case.name] = f"not installed: {', '.join(lacking)}"
                continue
            progress(f"round {number + 1} of {rounds}: {case.name}")
            try:
                figure = case.run(workload)
            except Exception as error:
                faults[case.name] = f"failed: {error}"
                continue
            figures[case.name].append(figure)
            if (figure.packets, figure.nbytes) != (workload.packets, workload.nbytes):
                faults[case.name] = f"lost {workload.packets - figure.packets} of {workload.packets} packets"
    progress("")
    return figures, faults


def progress(text: str) -> None:
    """Show what is being done, where somebody watches."""
    if sys.stderr.isatty():
        print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)


def summarise(figures: dict[str, list[Figure]], faults: dict[str, str]) -> list[dict[str, object]]:
    """Rows of the table, with medians; rates are per second, MB are 10**6 bytes of packet content."""
    rows = []
    reference = figures.get(REFERENCE, [])
    for name, found in figures.items():
        row: dict[str, object] = {"case": name, "rounds": len(found), "fault": faults.get(name)}
        if found:
            rates = [figure.packets / figure.seconds for figure in found]
            row |= {
                "packets_per_s": statistics.median(rates),
                "mb_per_s": statistics.median(figure.nbytes / figure.seconds / 1e6 for figure in found),
                "low": min(rates),
                "high": max(rates),
            }
            if pairs := list(zip(found, reference, strict=False)):
                row["to_cat"] = statistics.median(
                    (mine.packets / mine.seconds) / (cats.packets / cats.seconds) for mine, cats in pairs
                )
        rows.append(row)
    return rows


def table(rows: list[dict[str, object]]) -> str:
    """The rows as text."""
    width = max(len(str(row["case"])) for row in rows)
    lines = [f"{'case':{width}}  {'packets/s':>12}  {'MB/s':>8}  {'x cat':>6}  {'lowest .. highest':>25}"]
    for row in rows:
        line = f"{row['case']:{width}}"
        if "packets_per_s" in row:
            ratio = f"{row['to_cat']:6.3f}" if "to_cat" in row else "     -"
            line += f"  {row['packets_per_s']:12,.0f}  {row['mb_per_s']:8,.1f}  {ratio}"
            line += f"  {row['low']:11,.0f} .. {row['high']:10,.0f}"
        lines.append(line + (f"  ({row['fault']})" if row["fault"] else ""))
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Parse, measure, print.

    Returns:
        0, or 1 if a case failed or lost a packet; a program that is not installed is no failure.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="fewer packets and rounds: to see that all of it runs"
    )
    parser.add_argument("--rounds", type=int, help="how often each case runs (default 7, quick 3)")
    parser.add_argument("--packets", type=int, help="packets in a run (default 500,000, quick 50,000)")
    parser.add_argument(
        "--size", type=int, help="bytes of each packet, at least 8 (default: mixed, 60 to 1514)"
    )
    parser.add_argument(
        "--case", action="append", metavar="TEXT", help="only cases whose name holds this; repeatable"
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write all figures there as JSON; - is stdout, without the table"
    )
    parser.add_argument("--list", action="store_true", help="name the cases and end")
    options = parser.parse_args(argv)
    cases = [case for case in CASES if not options.case or any(text in case.name for text in options.case)]
    if not cases:
        parser.error(f"no case is named so; there are: {', '.join(case.name for case in CASES)}")
    if options.list:
        print("\n".join(case.name for case in cases))
        return 0
    if (options.size or 8) < 8 or (options.rounds or 1) < 1 or (options.packets or 1) < 1:
        parser.error("--size is at least 8, --rounds and --packets at least 1")
    rounds = options.rounds or (3 if options.quick else 7)
    packets = options.packets or (50_000 if options.quick else 500_000)
    with tempfile.TemporaryDirectory(prefix="helperd-bench-") as folder:
        workload = make(Path(folder), packets=packets, size=options.size)
        figures, faults = measure(cases, workload, rounds)
    rows = summarise(figures, faults)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}"
    machine += f", Python {platform.python_version()}"
    if options.json:
        report = {
            "machine": machine,
            "packets": packets,
            "nbytes": workload.nbytes,
            "rounds": rounds,
            "cases": rows,
        }
        text = json.dumps(report, indent=1) + "\n"
        if options.json == "-":
            print(text, end="")
        else:
            Path(options.json).write_text(text, encoding="utf-8")
    if options.json != "-":
        print(f"{packets:,} packets, {workload.nbytes / 1e6:,.1f} MB, medians of {rounds} rounds; {machine}")
        print(table(rows))
    return int(any(not fault.startswith("not installed") for fault in faults.values()))


if __name__ == "__main__":
    sys.exit(main())
