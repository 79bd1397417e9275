"""Beside the writing of a sink's files: what is written is brought to the disk, and what the disk keeps is counted.

Rules:
  1. Files that are over are brought to the disk a few side by side; so is the one that is being written, now and then.
  2. Delivered is what was written; durable what fsync has confirmed. What is not known to be on the disk when its file
     is over counts as lost after all.
  3. A file that cannot be finished is tried again, ever more seldom, and holds up no other.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import trio

from helperd.bell import Bell
from helperd.errors import SinkError
from helperd.routing import SLOW
from helperd.sinks.disk import Changed, failed

if TYPE_CHECKING:
    from collections.abc import Callable

    from helperd.routing import Outbox
    from helperd.sinks.files import Files
    from helperd.sinks.hands import Hands
    from helperd.sinks.written import Written

RETRY_S: Final = 1.0
"""Seconds between tries of a sink that cannot write."""
MOST_S: Final = 60.0
"""The longest pause: tries after an error of our own come ever more seldom."""
FINISHING: Final = 2
"""Files that may be brought to the disk at once, beside the one being written."""
UNNAMED: Final = 64
"""Files that may wait for another try to finish them, before no more are begun."""


class Shell(Protocol):
    """The sink."""

    @property
    def name(self) -> str:
        """Its path."""

    @property
    def over(self) -> bool:
        """Whether it has ended by itself."""

    def say(self, severity: str, text: str, /) -> None:
        """Tell people."""

    def fail(self, error: SinkError, /) -> None:
        """Note why nothing can be written."""

    def set_beside(self, what: str, error: SinkError | None, /) -> None:
        """Note what is wrong beside the writing, or that it is not any more."""


@dataclass(slots=True, eq=False)
class Keeper:
    """What brings one sink's files to the disk.

    Attributes:
        closing: the sink is to end: nothing is tried again.
        over: files that are over; whoever writes leaves them here.
        durable: packets that fsync has confirmed, of those delivered.
    """

    shell: Shell
    outbox: Outbox
    files: Files
    hands: Hands
    closing: trio.Event
    over: list[Written]
    durable: int = 0
    _unsettled: list[Written] = field(default_factory=list)
    _finishing: int = 0
    _finishers: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(FINISHING))
    _finished: Bell = field(default_factory=Bell)
    _syncing: bool = False

    def settle_all(self, reason: str) -> None:
        """The sink is over: what of its files is not known to be on the disk is lost, for that reason."""
        files = [*self.over, *self._unsettled]
        if self.files.current is not None:
            files.append(self.files.current)
        for file in dict.fromkeys(files):
            self.settle(file, reason)

    def drop_all(self) -> None:
        """Close what is still open, as it is."""
        for file in [*self.over, *self._unsettled, self.files.current]:
            if file is not None:
                file.drop()

    def sync_soon(self, nursery: trio.Nursery) -> None:
        """Bring the current file's packets to the disk, beside the writing."""
        file = self.files.current
        if (
            file is not None
            and file.broken is None
            and file.packets > file.safe.packets
            and not self._syncing
        ):
            self._syncing = True
            nursery.start_soon(self._sync, file, partial(file.sync, file.mark))

    async def _sync(self, file: Written, sync: Callable[[], None]) -> None:
        try:
            await self.hands.do(sync, f"an fsync of {file.part}", self._finishers, self.outbox.lost_by[SLOW])
        except SinkError as error:
            self.shell.fail(error)
        except (
            OSError
        ) as error:  # the next write leaves the file; what is lost is counted when it is finished
            self.shell.fail(failed(error, f"cannot bring {file.part} to the disk"))
        except Changed:
            pass  # noticed by the next look
        else:
            self.settle(file)
        finally:
            self._syncing = False

    def settle(self, file: Written, reason: str = "") -> None:
        """Count what of a file is known to be on the disk; with a ``reason`` the rest, for it is over."""
        safe, mark = file.safe, file.mark
        self.durable += safe.packets - file.settled
        file.settled = safe.packets
        if not reason:
            return
        lost = Counter(mark.counts)
        lost.subtract(safe.counts)
        lost.subtract(file.revoked)
        lost = +lost
        if lost:
            file.revoked.update(lost)
            self.outbox.revoke(lost, mark.nbytes - safe.nbytes, reason)

    async def finish_all(self, nursery: trio.Nursery) -> None:
        """Bring files that are over to the disk, a few side by side."""
        while self.over:
            while self._finishing >= FINISHING or len(self._unsettled) >= UNNAMED:
                await self._finished.wait()
            self._finishing += 1
            file = self.over.pop(0)
            self._unsettled.append(file)
            nursery.start_soon(self._finish, file)

    async def _finish(self, file: Written) -> None:
        """Bring one to the disk, and try until that works; what is lost of it is known after the first time."""
        pause, first = RETRY_S, True
        try:
            while True:
                error = await self._finish_once(file)
                if first:
                    first = False
                    self._finishing -= 1
                    self._finished.ring()
                self.shell.set_beside(file.part, error)
                if error is None:
                    self.files.finished(file)
                    self._unsettled.remove(file)
                    return
                if self.closing.is_set() or self.shell.over:
                    return
                with trio.move_on_after(pause):
                    await self.closing.wait()
                pause = min(pause * 2, MOST_S)
        finally:
            if first:
                self._finishing -= 1
            self._finished.ring()

    async def _finish_once(self, file: Written) -> SinkError | None:
        """Try to; returns why it has not its name yet."""
        error: SinkError | None = None
        try:
            doing = f"an fsync of {file.part}"
            await self.hands.do(file.finish, doing, self._finishers, self.outbox.lost_by[SLOW])
        except SinkError as lacking:
            return lacking
        except OSError as refused:
            error = failed(refused, f"cannot finish {file.part}")
        before = self.outbox.lost
        if isinstance(file.broken, Changed):
            self.settle(file, "file-changed")
            lost = self.outbox.lost - before
            if lost:
                self.shell.say(
                    "error", f"{self.shell.name}: {file.broken}; {lost:,} packets are lost with it"
                )
        elif isinstance(file.broken, OSError):
            trouble = failed(file.broken, f"cannot bring {file.part} to the disk")
            self.settle(file, trouble.problem)
            lost = self.outbox.lost - before
            if lost:
                text = f"{lost:,} packets of {file.part} are not known to be on the disk, and count as lost"
                self.shell.say("error", f"{self.shell.name}: {text}")
                self.shell.fail(trouble)
        else:
            self.settle(file)
        return error
