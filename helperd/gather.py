"""Waits for what many quiet helpers write, and wakes up less often than they do.

Rules:
  1. Who waits here is in one epoll of ours, which is one descriptor to the loop. All that is ready is woken at once.
  2. Only while there is much to wake, more than ``BUSY`` a second, the first that is ready waits up to ``GATHER_S`` for
     others. After a silence nobody waits.
  3. Who expects an answer does not wait here, and who begins to expect one is called back (``recall``).
"""

from __future__ import annotations

import select
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

GATHER_S: Final = 0.002
"""Seconds that something readable may wait for others."""
BUSY: Final = 1000
"""Wake-ups a second from which on gathering pays."""
_WINDOW_S: Final = 0.05


class Gather:
    """The waiting room of one loop.

    Attributes:
        rate: wake-ups a second, of the last window.
        woken: how often somebody was woken.
        turns: in how many turns.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._known: set[int] = set()
        self._waiting: dict[int, trio.lowlevel.Task] = {}
        self._since = trio.current_time()
        self._woken_before = 0
        self.rate = 0.0
        self.woken = 0
        self.turns = 0

    async def readable(self, fd: int) -> None:
        """Wait until a descriptor is readable, or at its end; or until it is called back."""
        flags = select.EPOLLIN | select.EPOLLONESHOT
        if fd in self._known:
            self._epoll.modify(fd, flags)
        else:
            self._epoll.register(fd, flags)
            self._known.add(fd)
        self._waiting[fd] = trio.lowlevel.current_task()

        def abort(_raise: Callable[[], object]) -> trio.lowlevel.Abort:
            del self._waiting[fd]
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def recall(self, fd: int) -> None:
        """Wake who waits for this descriptor, ready or not."""
        task = self._waiting.pop(fd, None)
        if task is not None:
            trio.lowlevel.reschedule(task)

    def forget(self, fd: int) -> None:
        """Let a descriptor go; to be called before it is closed."""
        self.recall(fd)
        if fd in self._known:
            self._known.discard(fd)
            with suppress(OSError):
                self._epoll.unregister(fd)

    def _busy(self) -> bool:
        now = trio.current_time()
        if now - self._since >= _WINDOW_S:
            self.rate = (self.woken - self._woken_before) / (now - self._since)
            self._since, self._woken_before = now, self.woken
        return self.rate >= BUSY

    async def run(self) -> None:
        """Wake who is ready, until cancelled."""
        with self._epoll:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                if self._busy():
                    await trio.sleep(GATHER_S)
                self.turns += 1
                for fd, _ in self._epoll.poll(0):
                    self.woken += fd in self._waiting
                    self.recall(fd)


_of_this_loop: trio.lowlevel.RunVar[Gather] = trio.lowlevel.RunVar("helperd.gather")


def room() -> Gather:
    """The waiting room of the running loop; it lives as long."""
    try:
        return _of_this_loop.get()
    except LookupError:
        made = Gather()
        _of_this_loop.set(made)
        trio.lowlevel.spawn_system_task(made.run)
        return made
