"""One consumer of a live stream: its outbox on one side, its socket on the other.

Rules:
  1. Packets are queued for it from its making on. The head of the stream leaves at once when it is served; what a
     reader must know leaves before the first packets that need it.
  2. A loss is told in the stream, before the packets that follow it, in the words of the stream's form.
  3. One send per batch of parts, never per packet; nothing here can delay another consumer.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Final

import trio

from helperd.bell import Bell
from helperd.routing import Outbox, Overflow, Part, RouteTable
from helperd.sinks.forms import StreamForm, Wants, form_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from helperd.places import Who
    from helperd.routing import Form, Losses

SEND_BYTES: Final = 256 << 10
"""Bytes taken from the outbox for one send."""
FAREWELL_S: Final = 5.0
"""Seconds that a consumer that is to go has for what is being sent and the totals."""
LOOK_S: Final = 1.0
"""Seconds between looks at a reader that says something, or has closed its writing side."""
_LACKING: Final = frozenset({errno.ENOBUFS, errno.ENOMEM})
_LACKING_S: Final = 0.02

_IOV_MAX: Final = 1024
_numbers = count(1)


def next_number() -> int:
    """The number of the next consumer, from 1."""
    return next(_numbers)


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


def who_of(sock: trio.socket.SocketType) -> Who:
    """Whose a reader is: a uid, or the address of one that comes over a network."""
    if sock.family == socket.AF_UNIX:
        return peer_of(sock).uid
    try:
        return str(sock.getpeername()[0])
    except OSError:  # it has gone again
        return "nobody"


@dataclass(slots=True, eq=False)
class Consumer:
    """A connected reader.

    Attributes:
        sink: name of the sink it connected to.
        header: the head of a pcapng stream.
        single: it gets one link type, the first that comes.
        form: "pcapng", "frames" or "jsonl".
        linktypes: link types it gets (LINKTYPE_ values); none: all.
        who: whose place it has.
        one_by_one: of those that go, one withdraws in a turn of the loop.
        closing: what is queued is still sent, then the stream ends.
    """

    sink: str
    sock: trio.socket.SocketType
    table: RouteTable
    header: bytes
    sources: frozenset[str]
    limit: int
    overflow: Overflow
    hold: float
    on_room: Bell
    connected_at: float
    who: Who = -1
    one_by_one: trio.Lock = field(default_factory=trio.Lock)
    form: Form = "pcapng"
    linktypes: frozenset[int] = frozenset()
    single: bool = False
    number: int = field(default_factory=next_number)
    peer: Peer = field(default_factory=Peer)
    closing: bool = False
    bell: Bell = field(default_factory=Bell)
    outbox: Outbox = field(init=False)
    _form: StreamForm = field(init=False)
    _scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    def __post_init__(self) -> None:
        self.peer = peer_of(self.sock)
        self.outbox = Outbox(
            limit=self.limit,
            overflow=self.overflow,
            hold=self.hold,
            on_ready=self.bell.ring,
            on_room=self.on_room.ring,
            on_disconnect=self._give_notice,
        )
        wants = None
        if self.single or self.sources or self.linktypes:
            wants = Wants(self.sources, self.linktypes, self.outbox if self.single else None)
        self._form = form_of(self.form, self.header, self.table, wants)
        self.table.connect(
            self.outbox,
            self.sources,
            single=self.single and self.form == "pcapng",
            form=self.form,
            linktypes=self.linktypes,
        )

    def withdraw(self) -> None:
        """Get no more packets, at once; what is queued is lost, counted."""
        self.table.disconnect(self.outbox)
        self.outbox.clear("consumer-left")

    def finish(self) -> None:
        """Send what is queued, tell the totals, end the stream."""
        self.closing = True
        self.bell.ring()

    def leave(self) -> None:
        """Get no more packets; send what is queued and the totals if the peer takes them soon, and end the stream."""
        self.table.disconnect(self.outbox)
        self.finish()
        self._give_notice()

    def _give_notice(self) -> None:
        """It is to go, for it has missed something or its sink is closed; what is being sent may yet arrive whole."""
        self._scope.deadline = trio.current_time() + FAREWELL_S

    async def serve(self) -> None:
        """Send until the peer goes, the outbox is told to disconnect, or ``finish`` has sent all."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._watch)
                    await self._send_all(self._form.preface())
                    await self._pump()
                    nursery.cancel_scope.cancel()
        except* OSError:  # however its connection ends, it ends nobody else
            pass
        finally:
            self.sock.close()
            with trio.CancelScope(shield=True):
                async with self.one_by_one:
                    self.withdraw()

    async def _pump(self) -> None:
        outbox = self.outbox
        form = self._form
        while not outbox.disconnected:
            taken = outbox.take(SEND_BYTES)
            parts = form.parts(taken, self._losses())
            if parts:
                await self._send_all(parts)
            if taken:
                outbox.sent(taken)
                if outbox:
                    await trio.lowlevel.checkpoint()
            elif self.closing:
                await self._send_all(form.ending(self._losses()))
                return
            elif not parts:
                await self.bell.wait()
        await self._send_all(form.ending(self._losses()))

    def _losses(self) -> Losses:
        """What was lost since the last time."""
        fresh = self.outbox.unreported
        if fresh:
            self.outbox.unreported = Counter()
        return fresh

    async def _send_all(self, parts: Sequence[Part]) -> None:
        """Write now what the socket takes; only the rest has to wait."""
        fd = self.sock.fileno()
        for first in range(0, len(parts), _IOV_MAX):
            some = parts[first : first + _IOV_MAX]
            left = sum(map(len, some))
            while left:
                try:
                    sent = os.writev(fd, some)
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(fd)
                    continue
                except OSError as error:
                    if error.errno not in _LACKING:
                        raise
                    await trio.sleep(
                        _LACKING_S
                    )  # the machine lacks memory for the moment; the reader is still there
                    continue
                left -= sent
                if left:
                    some = _rest(some, sent)

    async def _watch(self) -> None:
        """End the stream when the reader has gone; a reader that only closed its writing side has not."""
        sock = self.sock
        while await sock.recv(4096):  # noqa: ASYNC110 - what consumers write is ignored, and not at once
            await trio.sleep(LOOK_S)
        gone = select.poll()
        gone.register(sock.fileno(), 0)  # POLLHUP and POLLERR come unasked: closed, or shut both ways
        while not gone.poll(0):  # noqa: ASYNC110 - waiting for it would take a descriptor
            await trio.sleep(LOOK_S)
        self._scope.cancel()


def _rest(parts: Sequence[Part], sent: int) -> list[Part]:
    """What is left of ``parts`` after ``sent`` bytes."""
    for position, part in enumerate(parts):
        size = len(part)
        if sent < size:
            return [memoryview(part)[sent:], *parts[position + 1 :]]
        sent -= size
    return []
