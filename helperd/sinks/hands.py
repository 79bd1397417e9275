"""The threads that wait for a disk in a sink's place, and what they have in hand.

Rules:
  1. A call that has not returned for a while is told by a look now and then, never by a clock alone: one who was
     stopped or starved himself has not looked, and blames nobody.
  2. A thread cannot be ended. What one that was left behind waits for is remembered, and nobody sends another there.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from helperd.errors import SinkError
from helperd.sinks.disk import mount_of
from helperd.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    import trio

LOOK_S: Final = 1.0
"""Seconds between looks at what is in hand."""
STUCK_LOOKS: Final = 5
"""Looks that find a call still there before the disk counts as stuck."""

_Result = TypeVar("_Result")
_hanging: Counter[str] = Counter()
_lock: Final = threading.Lock()


def hangs(folder: str) -> bool:
    """Whether threads are known to wait for the disk that a folder is on, and do not come back."""
    return _hanging[mount_of(folder)] > 0


@dataclass(slots=True, eq=False)
class Call:
    """One call of the disk.

    Attributes:
        doing: what, for people.
        before: what the caller wants to know again when it hangs.
        looks: that have found it.
        hangs: it is one of those that nobody else is to join.
    """

    doing: str
    before: int
    looks: int = 0
    hangs: bool = False


@dataclass(slots=True, eq=False)
class Hands:
    """One sink's threads.

    Attributes:
        place: what hangs together: a mount, or a folder.
        on_last: called in a thread, when the last call that was left behind has returned.
    """

    place: str
    on_last: Callable[[], None]
    _calls: list[Call] = field(default_factory=list)
    _gone: bool = False

    async def do(
        self, work: Callable[[], _Result], doing: str, limiter: trio.CapacityLimiter, before: int = 0
    ) -> _Result:
        """Let a thread do something; when the caller is cancelled meanwhile, the thread is left to itself.

        Raises:
            SinkError: "no-resources"; no thread can be started, and nothing was done.
        """
        begun = False
        call = Call(doing, before)

        def run() -> _Result:
            nonlocal begun
            with _lock:
                begun = True
                self._calls.append(call)
            try:
                return work()
            finally:
                self._returned(call)

        try:
            return await in_thread(run, limiter=limiter)
        except (RuntimeError, MemoryError) as error:
            if begun:
                raise
            text = f"no thread can be started ({error}); see TasksMax= of the unit, and `ulimit -u`"
            raise SinkError("no-resources", text) from None

    def _returned(self, call: Call) -> None:
        with _lock:
            self._calls.remove(call)
            last = self._gone and not self._calls
            if call.hangs:
                _hanging[self.place] -= 1
        if last:
            self.on_last()

    def _mark(self, call: Call) -> None:
        with _lock:
            if call in self._calls and not call.hangs:
                call.hangs = True
                _hanging[self.place] += 1

    def look(self) -> Call | None:
        """Look at what is in hand; returns a call that hangs."""
        for call in list(self._calls):
            call.looks += 1
            if call.looks >= STUCK_LOOKS:
                self._mark(call)
        return next((call for call in self._calls if call.hangs), None)

    def leave(self) -> bool:
        """The sink is over: what is still in hand is left behind. Whether there is any."""
        with _lock:
            self._gone = True
        for call in list(self._calls):
            self._mark(call)
        return bool(self._calls)

    @property
    def in_the_way(self) -> int:
        """Threads that wait for the same disk and do not come back, of sinks that are gone, too."""
        return _hanging[self.place]
