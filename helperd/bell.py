"""A wake-up for one waiting task: rung by synchronous code, any number of times, heard once."""

from __future__ import annotations

import trio


class Bell:
    """``ring`` never blocks; ``wait`` returns at once if it was rung since the last ``wait``."""

    __slots__ = ("_lot", "_rung")

    def __init__(self) -> None:
        self._lot = trio.lowlevel.ParkingLot()
        self._rung = False

    def ring(self) -> None:
        """Wake whoever waits now, or whoever waits next."""
        if not self._rung:  # else whoever waited has been woken, and has not run yet
            self._rung = True
            self._lot.unpark_all()

    async def wait(self) -> None:
        """Wait for the next ring, or return at once if there was one."""
        if self._rung:
            await trio.lowlevel.checkpoint()
        else:
            await self._lot.park()
        self._rung = False
