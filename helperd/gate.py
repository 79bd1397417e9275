"""The start gate: how many helpers may be in the costly part of a start at once.

A slot covers only that part: it goes back at the helper's first bytes, at its end, or after a quarter second, so that
mute helpers cannot close the gate.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SLOT_S: Final = 0.25


@dataclass(slots=True, eq=False)
class Slot:
    """Permission to start; given back once."""

    semaphore: trio.Semaphore
    held: bool = True

    def release(self) -> None:
        """Give the slot back; harmless when done twice."""
        if self.held:
            self.held = False
            self.semaphore.release()

    async def release_soon(self) -> None:
        """Give the slot back when its time is over."""
        await trio.sleep(SLOT_S)
        self.release()


class StartGate:
    """First come, first served."""

    def __init__(self, slots: int | None = None) -> None:
        self._semaphore = trio.Semaphore(slots or 2 * (os.cpu_count() or 1))

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[Slot]:
        """Wait for a slot and hold it until it is released or the block ends."""
        await self._semaphore.acquire()
        slot = Slot(self._semaphore)
        try:
            yield slot
        finally:
            slot.release()
