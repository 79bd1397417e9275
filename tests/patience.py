"""How long tests wait: for what has to come at all, and for what has to come soon."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

HANGS_S = 40.0
"""Nobody waits longer. What takes longer hangs; what takes less may be a machine that others use too."""


@contextlib.contextmanager
def promptly(what: str, aim_s: float) -> Iterator[None]:
    """Say how long the block took beside what is aimed at. It fails only at ten times that, but not before 5 s.

    A machine that stands still for a while is no fault of ours, and a time is measured in `benchmarks/`. What is
    asserted here is that nothing of another order is waited for: a patience that ran out, a next round, an end.
    """
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    print(f"{what}: {took:.3f} s, aimed at {aim_s:g}")
    assert took < max(10 * aim_s, 5.0), f"{what} took {took:.1f} s; aimed at {aim_s:g}"
