"""One consumer of a live pcapng stream: its outbox on one side, its socket on the other.

Rules:
  1. The section header leaves at once; interface blocks leave before the first packets that need them.
  2. A loss is told in the stream, before the packets that follow it, by interface statistics blocks.
  3. One send per batch of parts, never per packet; nothing here can delay another consumer.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Final

import trio

from helperd import pcapng
from helperd.bell import Bell
from helperd.routing import Batch, Interfaces, Outbox, Overflow, Part, RouteTable

if TYPE_CHECKING:
    from collections.abc import Sequence

SEND_BYTES: Final = 256 << 10
"""Bytes taken from the outbox for one send."""

_IOV_MAX: Final = 1024
_numbers = count(1)


@dataclass(slots=True)
class Peer:
    """Who is at the other end, as far as the kernel says: -1 where it does not."""

    pid: int = -1
    uid: int = -1


def peer_of(sock: trio.socket.SocketType) -> Peer:
    """Credentials of a unix peer (SO_PEERCRED), unknown for other families."""
    if sock.family != socket.AF_UNIX:
        return Peer()
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid, _gid = struct.unpack("iii", raw)
    return Peer(pid, uid)


@dataclass(slots=True, eq=False)
class Consumer:
    """A connected reader.

    Attributes:
        sink: name of the sink it connected to.
        single: the source whose one link type it gets; None for a mixed stream.
        closing: what is queued is still sent, then the stream ends.
    """

    sink: str
    sock: trio.socket.SocketType
    table: RouteTable
    header: bytes
    sources: frozenset[str]
    single: str | None
    limit: int
    overflow: Overflow
    hold: float
    on_room: Bell
    connected_at: float
    number: int = field(default_factory=lambda: next(_numbers))
    peer: Peer = field(default_factory=Peer)
    closing: bool = False
    bell: Bell = field(default_factory=Bell)
    outbox: Outbox = field(init=False)
    _announced: int = 0
    _delivered: Counter[int] = field(default_factory=Counter)
    _dropped: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.peer = peer_of(self.sock)
        self.outbox = Outbox(
            limit=self.limit,
            overflow=self.overflow,
            hold=self.hold,
            on_ready=self.bell.ring,
            on_room=self.on_room.ring,
        )

    @property
    def _interfaces(self) -> Interfaces:
        return self.table.interfaces

    def finish(self) -> None:
        """Send what is queued, tell the totals, end the stream."""
        self.closing = True
        self.bell.ring()

    async def serve(self) -> None:
        """Send until the peer goes, the outbox is told to disconnect, or ``finish`` has sent all."""
        self.table.connect(self.outbox, self.sources, single=self.single is not None)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, nursery.cancel_scope)
                await self._send_all([self.header])
                await self._pump()
                nursery.cancel_scope.cancel()
        except* (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            self.table.disconnect(self.outbox)
            self.outbox.clear("consumer-left")
            self.sock.close()

    async def _pump(self) -> None:
        outbox = self.outbox
        while not outbox.disconnected:
            await self._announce()
            taken = outbox.take(SEND_BYTES)
            if not taken:
                if self.closing:
                    await self._send_all(self._totals())
                    return
                await self.bell.wait()
                continue
            parts: list[Part] = self._losses()
            for batch in taken:
                parts += batch.parts
            await self._send_all(parts)
            outbox.sent(taken)
            self._count(taken)
        await self._send_all(self._losses())

    def _count(self, taken: list[Batch]) -> None:
        for batch in taken:
            for interface, packets in batch.counts:
                self._delivered[interface] += packets

    async def _announce(self) -> None:
        """Send the blocks of interfaces that this consumer has not been told of."""
        if self.single is None:
            blocks = self._interfaces.blocks(self._announced)
            if blocks:
                self._announced += len(blocks)
                await self._send_all(blocks)
        elif not self._announced:
            carried = self.table.route(self.single).carried
            if carried is not None:
                self._announced = carried + 1
                await self._send_all([self._interfaces.single(carried)])

    def _losses(self) -> list[Part]:
        """Statistics blocks for what was lost since the last ones."""
        fresh = self.outbox.unreported
        if not fresh:
            return []
        self.outbox.unreported = Counter()
        self._dropped += fresh
        return self._statistics(fresh)

    def _totals(self) -> list[Part]:
        self._losses()
        return self._statistics(self._delivered | self._dropped)

    def _statistics(self, interfaces: Counter[int]) -> list[Part]:
        now = time.time_ns()
        blocks: list[Part] = []
        for interface in sorted(interfaces):
            if interface >= self._announced:
                continue
            delivered, dropped = self._delivered[interface], self._dropped[interface]
            blocks.append(
                pcapng.statistics_block(
                    interface, now, received=delivered + dropped, dropped=dropped, delivered=delivered
                )
            )
        return blocks

    async def _send_all(self, parts: Sequence[Part]) -> None:
        sock = self.sock
        for first in range(0, len(parts), _IOV_MAX):
            some = list(parts[first : first + _IOV_MAX])
            left = sum(map(len, some))
            while left:
                sent = await sock.sendmsg(some)
                left -= sent
                if left:
                    some = _rest(some, sent)

    async def _watch(self, scope: trio.CancelScope) -> None:
        """End the stream when the reader has gone; a reader that only closed its writing side has not."""
        while await self.sock.recv(4096):
            pass  # consumers have nothing to say; what they write is ignored
        poll = select.poll()
        poll.register(self.sock.fileno(), 0)
        if any(event & select.POLLHUP for _fd, event in poll.poll(0)):
            scope.cancel()


def _rest(parts: list[Part], sent: int) -> list[Part]:
    """What is left of ``parts`` after ``sent`` bytes."""
    for position, part in enumerate(parts):
        size = len(part)
        if sent < size:
            return [memoryview(part)[sent:], *parts[position + 1 :]]
        sent -= size
    return []
