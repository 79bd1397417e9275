"""How long `helperd list` takes with twenty helpers of which nine are broken: `python -m benchmarks.listing`.

Whole processes, wall clock: without a daemon, through one that asks now, and through one that remembers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from tests.rig import daemon
from tests.test_listing import check, list_command, machine


def times(runs: int, *args: str) -> dict[str, float]:
    """Milliseconds of so many commands, each of which has to give the whole answer."""
    took = []
    for _ in range(runs):
        seconds, done = list_command(*args, "--json")
        check(json.loads(done.stdout))
        took.append(seconds * 1000)
    return {"runs": runs, "p50_ms": statistics.median(took), "p95_ms": sorted(took)[int(runs * 0.95) - 1]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=10, help="rounds of questions (default 10)")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory(prefix="hd-") as name:
        folder = Path(name)
        text = machine(folder)
        file = folder / "helpers.toml"
        file.write_text(text)
        found = {"without a daemon": times(runs, "-c", str(file))}
        with daemon(folder, text) as rig:
            where = f"--runtime-dir={rig.runtime}"
            found["daemon, --fresh"] = times(runs, where, "--fresh")
            found["daemon, remembered"] = times(50, where)
    for what, row in found.items():
        print(
            f"{what:20} {row['runs']:3.0f} runs   p50 {row['p50_ms']:7.1f} ms   p95 {row['p95_ms']:7.1f} ms"
        )


if __name__ == "__main__":
    main()
