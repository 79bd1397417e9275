"""Waits at the doors that nobody has knocked at yet: one task for all of them.

Each source has listening sockets of its own, and most never see a consumer. A task for each would cost more memory
than everything else about an idle source; so a sink's task begins with its first consumer.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from helperd.sinks.stream import StreamSink, Tend


class Doorman:
    """The sinks that sleep, by the descriptor they listen at."""

    def __init__(self) -> None:
        self._doors = select.epoll()
        self._asleep: dict[int, StreamSink] = {}

    def watch(self, sink: StreamSink) -> None:
        """Begin to serve it as soon as somebody connects."""
        door = sink.listener.socket.fileno()
        self._asleep[door] = sink
        self._doors.register(door, select.EPOLLIN)

    def forget(self, sink: StreamSink) -> bool:
        """Wait at its door no more; False when it is awake."""
        door = sink.listener.socket.fileno()
        return self._asleep.get(door) is sink and self._take(door) is not None

    def _take(self, door: int) -> StreamSink | None:
        sink = self._asleep.pop(door, None)
        if sink is not None:
            self._doors.unregister(door)
        return sink

    async def serve(self, nursery: trio.Nursery, tend: Tend) -> None:
        """Wake those that are knocked at, into ``nursery``, until cancelled; then close those that sleep.

        Args:
            nursery: where they are served.
            tend: keeps a task going, by its name, whatever ends it, until it may end.
        """

        async def wait() -> None:
            while True:
                await trio.lowlevel.wait_readable(self._doors.fileno())
                for door, _ in self._doors.poll(0):
                    sink = self._take(door)
                    if sink is not None:
                        nursery.start_soon(sink.serve, tend)

        try:
            await tend("the consumer sockets", wait, lambda: False)
        finally:
            for sink in self._asleep.values():
                sink.listener.close()
            self._asleep.clear()
            self._doors.close()
