"""The live view of ``helperd run`` on a terminal: the table of sources, redrawn in place below the log lines."""

from __future__ import annotations

import os
import shutil
import time
from collections import deque
from typing import TYPE_CHECKING, Final

import trio

from helperd.printing import write
from helperd.table import fit, render, summary
from helperd.threads import in_thread
from helperd.visible import visible

if TYPE_CHECKING:
    from collections.abc import Callable

REDRAW_S: Final = 0.5
_MAX_PENDING: Final = 200


class LiveView:
    """Log lines scroll, the table stays below them.

    Attributes:
        snapshot: gives what is true now; set before ``show``.
        dropped: log lines that a terminal which does not read has cost.
    """

    def __init__(self) -> None:
        self.snapshot: Callable[[], dict[str, object]] = dict
        self.dropped = 0
        self._pending: deque[str] = deque(maxlen=_MAX_PENDING)
        self._drawn = 0
        self._color = "NO_COLOR" not in os.environ

    def write(self, severity: str, source: str, text: str) -> None:
        """Take a log line; it is printed at the next redraw."""
        if len(self._pending) == _MAX_PENDING:
            self.dropped += 1
        self._pending.append(visible(f"{time.strftime('%H:%M:%S')} {severity} {source}: {text}"))

    async def show(self) -> None:
        """Redraw until cancelled; the last picture stays on the terminal."""
        try:
            while True:
                await self._draw()
                await trio.sleep(REDRAW_S)
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(0.2):
                await self._draw()

    async def _draw(self) -> None:
        width, height = shutil.get_terminal_size()
        snapshot = self.snapshot()
        lines = [fit(summary(snapshot), width), *render(snapshot, width, self._color)]
        lines = lines[: max(1, height - 1)]
        above = [fit(line, width) for line in self._pending]
        self._pending.clear()
        rewind = f"\033[{self._drawn}A\r\033[J" if self._drawn else ""
        self._drawn = len(lines)
        text = rewind + "".join(f"{line}\n" for line in [*above, *lines])
        await in_thread(_put, text)


def _put(text: str) -> None:
    try:
        write(text, flush=True)
    except OSError:
        return  # the terminal has gone; the daemon has not
