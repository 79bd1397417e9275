"""A cgroup whose processes are counted, of version 1 or 2, whichever of them counts on this machine."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path


def folder() -> str:
    """Return where such a cgroup can be made; empty: nowhere."""
    rows = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for row in rows:
        kind, options = row[row.index("-") + 1], row[-1].split(",")
        if kind == "cgroup" and "pids" in options:
            return row[4]
        if kind == "cgroup2" and "pids" in Path(f"{row[4]}/cgroup.controllers").read_text().split():
            with contextlib.suppress(OSError):
                Path(f"{row[4]}/cgroup.subtree_control").write_text("+pids")
                return row[4]
    return ""


@contextlib.contextmanager
def few_pids(most: int) -> Iterator[Callable[[], None]]:
    """Yield what puts a process, and all it starts, where there are at most so many; empty again at the end."""
    place = Path(folder(), f"helperd-{os.urandom(6).hex()}")
    place.mkdir()
    try:
        (place / "pids.max").write_text(str(most))
        yield lambda: (place / "cgroup.procs").write_text("0") and None
    finally:
        deadline = time.monotonic() + 10
        while (place / "cgroup.procs").read_text() and time.monotonic() < deadline:
            time.sleep(0.01)  # the last one is still on its way out
        place.rmdir()
