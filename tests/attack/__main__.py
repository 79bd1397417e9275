"""Tries everything, and prints one table: attempts, those whose control is live, those that succeeded, by position.

sudo python -m tests.attack       minutes; ends with 1 when one has succeeded
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tests.attack import abuse, crowd, foreign, stage


def table(rows: Iterable[dict[str, Any]]) -> str:
    """Attempts by position, as lines."""
    counts: dict[str, list[int]] = {}
    for row in rows:
        for name in (row["position"], "all"):
            count = counts.setdefault(name, [0, 0, 0])
            for place, what in enumerate((True, row["live"], row["worked"])):
                count[place] += bool(what)
    total = counts.pop("all", [0, 0, 0])
    lines = [
        f"{name:40} {count[0]:8} {count[1]:5} {count[2]:10}"
        for name, count in [*counts.items(), ("all", total)]
    ]
    return "\n".join([f"{'position':40} attempts  live  succeeded", *lines])


def main() -> int:
    """Try, print, return 1 when something has worked."""
    rows = []
    for default in ("own", "package"):
        found = stage.run("suite", default, timeout=1200)
        rows += [row | {"position": f"{row['position']}, {default} configuration"} for row in found]
    for module, scenes in (("abuse", abuse.SCENES), ("foreign", foreign.SCENES), ("crowd", crowd.SCENES)):
        for name in scenes:
            (row,) = stage.run(module, name, timeout=600)
            if "skipped" in row:
                print(f"{module}, {name}: not tried here: {row['skipped']}")
            rows += [
                {
                    "position": f"{module}: {name}",
                    "live": each in row["live"],
                    "worked": each in row["succeeded"],
                }
                for each in row.get("attempts", ())
            ]
    print(table(rows))
    return int(any(row["worked"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
