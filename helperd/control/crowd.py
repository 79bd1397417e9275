"""Those who are refused and would come again at once: held without a task, and told why after a while.

Who is refused and reconnects without pause would otherwise have the loop accept, answer and close all day. A client
that stands here costs a descriptor and nothing else.
"""

from __future__ import annotations

import socket
from collections import deque
from contextlib import suppress
from typing import Final

import trio

_AT_ONCE: Final = 64


class Crowd:
    """Who waits for a refusal, longest first: ``most`` at once, ``seconds`` each."""

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._waiting: deque[tuple[float, socket.socket, bytes]] = deque()
        self._some = trio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def hold(self, sock: socket.socket, message: bytes, *, now: bool = False) -> None:
        """Tell a client why it is refused, and close: after a while; at once where asked to, or if many wait."""
        if now or len(self._waiting) >= self._most:
            _end(sock, message)
            return
        self._waiting.append((trio.current_time() + self._seconds, sock, message))
        self._some.set()

    async def serve(self) -> None:
        """Let them go when it is time, until cancelled; then all."""
        waiting = self._waiting
        try:
            while True:
                if not waiting:
                    self._some = trio.Event()
                    await self._some.wait()
                await trio.sleep_until(waiting[0][0])
                now = trio.current_time()
                for _ in range(_AT_ONCE):
                    if waiting and waiting[0][0] <= now:
                        _, sock, message = waiting.popleft()
                        _end(sock, message)
        finally:
            while waiting:
                waiting.popleft()[1].close()


def _end(sock: socket.socket, message: bytes) -> None:
    with suppress(OSError):  # it has gone
        sock.send(message, socket.MSG_DONTWAIT)
    sock.close()
