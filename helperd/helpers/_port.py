"""The way out of a helper: whole frames from any thread, onto one descriptor that never blocks the main one.

Rules:
  1. A chunk is whole frames; chunks leave in the order in which they were put.
  2. Nobody waits while holding the lock. Only the capture thread waits for room; that is the back-pressure.
  3. When stopping, or when the reader is gone, waiting ends with ``Stopped``.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

HIGH_WATER = 64 << 10  # bytes queued above which the capture thread waits
_POLL_MS = 200  # how long a waiting capture thread may overlook that it shall stop


class Stopped(Exception):  # noqa: N818 - an order to unwind, not an error
    """The helper is ending: leave ``capture``. Nothing has to be caught."""


class Port:
    """The output descriptor and what waits for it.

    Args:
        fd: made non-blocking; stays owned by the caller.
        wake: wakes the main thread; safe from any thread.

    Attributes:
        lock: held while frames are encoded and queued, so that their numbers leave in order.
        queued: bytes not written yet.
        broken: the reader is gone.
        stopping: set when the capture shall end.
    """

    def __init__(self, fd: int, wake: Callable[[], None]) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.wake = wake
        self.lock = threading.RLock()
        self.stopping = threading.Event()
        self.queued = 0
        self.broken = False
        self._chunks: deque[bytes | memoryview] = deque()

    def put(self, chunk: bytes) -> None:
        """Queue whole frames; the caller holds ``lock``."""
        if chunk:
            self._chunks.append(chunk)
            self.queued += len(chunk)

    def drain(self) -> bool:
        """Write what the descriptor takes now.

        Returns:
            Whether nothing is left to write.
        """
        with self.lock:
            chunks = self._chunks
            while chunks and not self.broken:
                chunk = chunks[0]
                try:
                    written = os.write(self.fd, chunk)
                except BlockingIOError:
                    return False
                except OSError:
                    self.broken = True
                    break
                self.queued -= written
                if written < len(chunk):
                    chunks[0] = memoryview(chunk)[written:]
                else:
                    chunks.popleft()
            if self.broken:
                chunks.clear()
                self.queued = 0
                self.wake()
            return True

    def wait_for_room(self) -> None:
        """Write until less than ``HIGH_WATER`` is queued; for the capture thread.

        Raises:
            Stopped: the helper is ending, or the reader is gone.
        """
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        while not self.drain() and self.queued >= HIGH_WATER:
            if self.stopping.is_set():
                raise Stopped
            poll.poll(_POLL_MS)
        if self.broken:
            raise Stopped
