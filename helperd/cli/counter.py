"""The count that runs on a terminal while packets are written to a file, as dumpcap shows it."""

from __future__ import annotations

import math
import sys
from typing import Final, TextIO

EVERY_S: Final = 0.5
"""Seconds between two counts: often enough to see life, too seldom to cost anything."""


class Counter:
    """One line on a terminal, drawn over itself.

    Args:
        wanted: whether to show anything; nothing is shown where ``out`` is no terminal.
        unit: what is counted: ``Packets``.
        out: where people look; None: standard error.
    """

    def __init__(self, *, wanted: bool, unit: str = "Packets", out: TextIO | None = None) -> None:
        self._out = sys.stderr if out is None else out
        self._wanted = wanted and self._out.isatty()
        self._unit = unit
        self._shown: int | None = None
        self._next_at = -math.inf

    def look(self, number: int, now: float) -> None:
        """Show the count if it is another one and it is time."""
        if self._wanted and number != self._shown and now >= self._next_at:
            self._shown, self._next_at = number, now + EVERY_S
            self._out.write(f"\r{self._unit}: {number:,} ")
            self._out.flush()

    def due_at(self, number: int) -> float:
        """When ``look`` has something to show next; infinity: not before the count changes."""
        return self._next_at if self._wanted and number != self._shown else math.inf

    def clear(self) -> None:
        """Leave the line, for one that is to stay."""
        if self._shown is not None:
            self._out.write("\r\x1b[K")
            self._out.flush()
            self._shown, self._next_at = None, -math.inf
