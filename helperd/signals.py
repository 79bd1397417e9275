"""The supervisor's signals: answered at once while it starts, heard in the loop while it runs, then no more.

Rules:
  1. No handler of ours is a function in Python once the loop runs: signals that come faster than one begins nest, and
     nothing catches the error that this ends with. They stay blocked, and a thread takes them one by one.
  2. Equal ones that wait are one; whoever reads them gets the last state of the world, not a history.
  3. Whoever started this process has blocked them: one that came while modules were imported is answered now.
"""

from __future__ import annotations

import signal
from typing import Final

import trio

from helperd.config.profile import BLOCKED, END_SIGNALS, IDLE_SIGNALS
from helperd.errors import Code
from helperd.threads import in_thread

_HEARD: Final = (*END_SIGNALS, int(signal.SIGHUP))


class Signals:
    """Ends in order before the loop listens, or remembers that the configuration is to be read again."""

    def __init__(self) -> None:
        self._noted: dict[int, object] = {}
        self._thread = trio.CapacityLimiter(1)
        for number in END_SIGNALS:
            signal.signal(number, self._end)
        signal.signal(signal.SIGHUP, self._noted.setdefault)  # not in Python: see rule 1
        for number in IDLE_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)

    def _end(self, number: int, _frame: object) -> None:
        self.block()
        raise SystemExit(Code.INTERRUPTED if number == signal.SIGINT else Code.DONE)

    def block(self) -> None:
        """Let them wait from now on, for this thread and all that it will start."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)

    async def next(self) -> int:
        """Wait for one; what came before they were blocked is first.

        Cancelled, it leaves a thread behind that takes one more: by then nobody waits for it.
        """
        if self._noted:
            self._noted.clear()
            return int(signal.SIGHUP)
        return int(await in_thread(signal.sigwait, _HEARD, limiter=self._thread))
