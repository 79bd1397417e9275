"""Waits for what many helpers write, and wakes up less often than they do.

Rules:
  1. Who is attended to here is in one epoll of ours, which is one descriptor to the loop. What is ready is read in one
     turn of the room, by calls: no task of theirs is woken for it.
  2. There are two rooms. In the prompt one nobody waits for anybody, and after ``TURN`` of them others have their turn.
  3. In the patient one, while there is much to read, more than ``BUSY`` times a second, there is a turn every
     ``GATHER_S``: nobody waits longer for others. After a silence nobody waits.
  4. While those in the patient one wait for each other, nobody who expects an answer is among them; who begins to
     expect one is called back (``recall``).
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

GATHER_S: Final = 0.002
"""Seconds that something readable may wait for others."""
BUSY: Final = 1000
"""Reads a second from which on gathering pays."""
TURN: Final = 16
"""Reads in a turn of the prompt room at most."""
_WINDOW_S: Final = 0.05


class Gather:
    """A waiting room of one loop.

    Args:
        patient: whether what is ready waits for more, where that pays.

    Attributes:
        rate: reads a second, of the last window.
        read: how often somebody's turn came.
        turns: in how many turns of the room.
    """

    def __init__(self, *, patient: bool) -> None:
        self._patient = patient
        self._epoll = select.epoll()
        self._waiting: dict[int, tuple[trio.lowlevel.Task, Callable[[], bool]]] = {}
        self._failed: dict[int, Exception] = {}
        self._since = trio.current_time()
        self._read_before = 0
        self._at_turn = -1
        self._called_back = False
        self.rate = 0.0
        self.read = 0
        self.turns = 0

    async def attend(self, fd: int, turn: Callable[[], bool]) -> None:
        """Call ``turn`` each time that a descriptor is readable or at its end.

        Ends when ``turn`` returns False, or when the descriptor is called back.

        Raises:
            Exception: whatever ``turn`` raises.
        """
        self._epoll.register(fd, select.EPOLLIN)
        self._waiting[fd] = (trio.lowlevel.current_task(), turn)

        def abort(_raise: Callable[[], object]) -> trio.lowlevel.Abort:
            self._leave(fd)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        if fd in self._failed:
            raise self._failed.pop(fd)

    def recall(self, fd: int) -> None:
        """Wake who waits for this descriptor, ready or not; to be called before it is closed."""
        if fd == self._at_turn:  # in the middle of it: at its end
            self._called_back = True
        elif fd in self._waiting:
            trio.lowlevel.reschedule(self._leave(fd))

    def _leave(self, fd: int) -> trio.lowlevel.Task:
        self._epoll.unregister(fd)
        return self._waiting.pop(fd)[0]

    @property
    def gathers(self) -> bool:
        """Whether what is ready waits for more now."""
        return self._patient and self.rate >= BUSY

    def _look(self) -> None:
        now = trio.current_time()
        if now - self._since >= _WINDOW_S:
            self.rate = (self.read - self._read_before) / (now - self._since)
            self._since, self._read_before = now, self.read

    async def run(self) -> None:
        """Give everybody who is ready a turn, until cancelled."""
        try:
            await self._serve()
        except trio.Cancelled:
            self._epoll.close()
            raise

    async def _serve(self) -> None:
        ready: list[tuple[int, int]] = []
        while True:
            if not ready or (len(ready) < TURN and not self.gathers):
                await trio.lowlevel.wait_readable(self._epoll.fileno())
            elif not self.gathers:
                await trio.lowlevel.checkpoint()  # there may be more
            self._look()
            if self.gathers:
                await trio.sleep(GATHER_S)
            self.turns += 1
            ready = self._epoll.poll(0, -1 if self._patient else TURN)
            for fd, _ in ready:
                if fd in self._waiting:  # else an earlier turn has called it back
                    self._turn(fd)

    def _turn(self, fd: int) -> None:
        self.read += 1
        self._at_turn, self._called_back = fd, False
        try:
            stays = self._waiting[fd][1]()
        except Exception as error:  # noqa: BLE001 - it belongs to whoever is attended to
            self._failed[fd] = error
            stays = False
        self._at_turn = -1
        if (not stays or self._called_back) and fd in self._waiting:  # else its own turn has cancelled it
            trio.lowlevel.reschedule(self._leave(fd))


class Rooms(NamedTuple):
    """The waiting rooms of one loop."""

    prompt: Gather
    patient: Gather


_of_this_loop: trio.lowlevel.RunVar[Rooms] = trio.lowlevel.RunVar("helperd.gather")


async def _just(_name: str, work: Callable[[], Awaitable[object]]) -> None:
    await work()


def rooms(tend: Callable[[str, Callable[[], Awaitable[object]]], Awaitable[None]] = _just) -> Rooms:
    """The waiting rooms of the running loop; they live as long.

    Args:
        tend: keeps a task of theirs going, by its name, whatever ends it; of the first call.
    """
    try:
        return _of_this_loop.get()
    except LookupError:
        made = Rooms(Gather(patient=False), Gather(patient=True))
        _of_this_loop.set(made)
        for room in made:
            trio.lowlevel.spawn_system_task(tend, "the reading of helpers", room.run)
        return made
