"""How the supervisor's cost grows with packets, sources and consumers: `python -m benchmarks.growth [--seconds=2]`.

v3 frames of 128 bytes to pcapng, a hundred packets a write, paced. One thing grows and the others stand still; what is
shown is the share of a core that the supervisor uses, the median of the rounds. Every run is counted to the packet.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.__main__ import machine
from benchmarks.crowd import beginning, share_of_core
from benchmarks.measure import Bench, drain
from benchmarks.path import definition, run, running

UNIT = 100  # packets a write
RATE = 100_000  # packets per second, of all sources together, where it does not grow
GROWTH = {
    "packets a second, 1 source, 1 consumer": [
        (n, n, 1, 1) for n in (25_000, 50_000, 100_000, 200_000, 400_000)
    ],
    f"sources, {RATE:,} packets/s together, 1 consumer": [(n, RATE, n, 1) for n in (1, 4, 16, 64, 128)],
    f"consumers, 1 source of {RATE:,} packets/s": [(n, RATE, 1, n) for n in (1, 2, 4, 8, 16)],
}
WIDTH = 50


def share(bench: Bench, rate: int, sources: int, consumers: int) -> float:
    """Per cent of a core that the supervisor uses in the middle of a run.

    Raises:
        WrongError: a packet was lost.
    """
    with running(bench) as path, contextlib.ExitStack() as stack:
        run(path, [definition(bench, "v3", ms=1)])
        begin = beginning(sources)
        where = path.rig.runtime / "pcapng.sock"
        saws = [stack.enter_context(drain(bench, "pcapng", sources, connect=where)) for _ in range(consumers)]
        names = path.begin([definition(bench, "v3", at=begin, rate=rate / sources, unit=UNIT)] * sources)
        used = 100 * share_of_core(path, begin)
        [total, *_] = [saw().whole().total for saw in saws]
        path.settle(names, total)
    return used


def plot(shares: dict[int, float]) -> list[str]:
    """A bar for each; the longest fills the width."""
    most = max(shares.values())
    return [
        f"{number:>9,} | {'#' * round(value / most * WIDTH):{WIDTH}} {value:5.1f} %"
        for number, value in shares.items()
    ]


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.growth", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a run (default 2)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each runs (default 3)")
    options = parser.parse_args(argv)
    seen: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="helperd-bench-") as folder:
        cpus = sorted(os.sched_getaffinity(0))
        bench = Bench(
            Path(folder), seconds=options.seconds, cpus=(cpus[0], cpus[1]) if len(cpus) > 1 else None
        )
        for _ in range(options.rounds):
            for title, points in GROWTH.items():
                for number, *point in points:
                    seen.setdefault((title, number), []).append(share(bench, *point))
    print(
        f"the supervisor's share of a core; medians of {options.rounds} runs of {options.seconds:g} s; {machine()}"
    )
    for title, points in GROWTH.items():
        print(f"\n{title}")
        print("\n".join(plot({number: statistics.median(seen[title, number]) for number, *_ in points})))
    return 0


if __name__ == "__main__":
    sys.exit(main())
