"""A consumer socket: whoever connects reads live packets at once."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from helperd.errors import HelperdError
from helperd.places import Entrance, Places, rank_of
from helperd.routing import OUTBOX_LIMIT, Overflow, RouteTable
from helperd.sinks.consumer import Consumer, who_of
from helperd.sinks.forms import refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from helperd.bell import Bell
    from helperd.config.sinks import SinkSpec
    from helperd.places import Who
    from helperd.routing import Form
    from helperd.sinks.listen import TcpListener, UnixListener

    Tend = Callable[[str, Callable[[], Awaitable[object]], Callable[[], bool]], Awaitable[None]]

MOST: Final = 1024
"""Readers of everybody together."""
RESERVE: Final = 256
"""And twice so many more, of root and the daemon's own user."""
TCP_OPTIONS: Final = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 256 << 10),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
)
"""For consumers on TCP, from tcp(7): little that is queued waits in the kernel, where nothing old can be dropped for
something new; a reader that is gone without a word is noticed within 75 s."""


@dataclass(slots=True, eq=False)
class StreamSink:
    """One listening socket and its consumers.

    Attributes:
        name: what status shows, e.g. ``all.sock``.
        sources: which sources its consumers get; empty means all.
        source: the one that it is removed with, if any.
        single: its consumers get one link type, the first that comes.
        on_connect: called when a consumer has connected, for sources that start with their first consumer.
        on_change: called when a consumer has come or gone.
        is_over: whether none of these sources will have packets again by itself; their reader gets its end then.
        on_bug: told of an error of our own that has ended one consumer, and nobody else.
        spec: the configuration's entry, None for an implicit socket.
        form: "pcapng", "frames" or "jsonl".
        linktypes: link types its consumers get; none: all.
        lent: the listener is not the sink's own: its consumers come another way.
        closed: nobody new is served.
        entrance: where the readers of all sinks are let in.
        one_by_one: shared by all sinks: of the readers that go, one withdraws in a turn of the loop.
        scope: cancelling it closes the sink.
        refused: connections that could not be accepted, mostly for lack of file descriptors.
    """

    name: str
    listener: UnixListener | TcpListener
    table: RouteTable
    header: bytes
    on_room: Bell
    on_connect: Callable[[frozenset[str]], None]
    on_change: Callable[[], None]
    on_bug: Callable[[str, BaseException], None]
    is_over: Callable[[frozenset[str]], bool]
    sources: frozenset[str] = frozenset()
    source: str | None = None
    single: bool = False
    spec: SinkSpec | None = None
    limit: int = OUTBOX_LIMIT
    overflow: Overflow = "drop-oldest"
    hold: float = 10.0
    form: Form = "pcapng"
    linktypes: frozenset[int] = frozenset()
    lent: bool = False
    closed: bool = False
    entrance: Entrance = field(default_factory=lambda: Entrance(Places("readers", MOST, MOST)))
    one_by_one: trio.Lock = field(default_factory=trio.Lock)
    consumers: list[Consumer] = field(default_factory=list)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    refused: int = 0
    _accepting: trio.CancelScope = field(default_factory=trio.CancelScope)

    async def serve(self, tend: Tend) -> None:
        """Accept consumers until closed or cancelled; the socket is closed then, unless another sink has it."""
        try:
            with self.scope:
                async with trio.open_nursery() as nursery:

                    async def accept() -> None:
                        while (sock := await self._accept()) is not None:
                            nursery.start_soon(self.serve_one, sock)

                    with self._accepting:
                        await tend(self.name, accept, lambda: self.closed or self.listener.closed)
        finally:
            if not self.closed:
                self.listener.close()

    async def _accept(self) -> trio.socket.SocketType | None:
        """The next consumer's socket; None once the sink is closed."""
        while True:
            listening = self.listener.socket
            try:
                sock, _address = await listening.accept()
            except (OSError, trio.ClosedResourceError) as error:
                if self.listener.closed:
                    return None
                if listening is not self.listener.socket:
                    continue  # its path was removed, and another has taken its place
                if not isinstance(error, OSError):
                    raise
                # For lack of descriptors or memory, or what the network or a firewall says of this one connection.
                self.refused += 1
                await trio.sleep(0.1)
            else:
                if sock.family != socket.AF_UNIX:
                    for level, option, value in TCP_OPTIONS:
                        sock.setsockopt(level, option, value)
                return sock

    async def serve_one(self, sock: trio.socket.SocketType) -> None:
        """Serve one consumer, however it came, until its stream ends; its socket is closed then."""
        if self.closed or self.listener.closed:
            sock.close()
            return
        try:
            consumer = self.admit(sock)
        except HelperdError as full:
            with suppress(OSError):  # it has gone again
                os.write(sock.fileno(), refusal(self.form, full.text))
            sock.close()
            return
        except Exception as bug:  # noqa: BLE001 - the border: this consumer is not served, and all others are
            sock.close()
            self.on_bug(self.name, bug)
            return
        try:
            await self.attend(consumer)
        except Exception as bug:  # noqa: BLE001 - the border: its end has an error, and it has ended
            self.on_bug(self.name, bug)

    def admit(self, sock: trio.socket.SocketType) -> Consumer:
        """Take a consumer in: packets are queued for it from now on. It is to be attended or dismissed.

        Raises:
            HelperdError: "busy", there is no place.
        """
        who = who_of(sock)
        above = self.entrance.is_kept(sock.fileno())
        why = self.entrance.admit(self.name, who, rank_of(who), above=above)
        if why:
            raise HelperdError("busy", why)
        try:
            consumer = self._consumer(sock, who)
        except BaseException:
            self.entrance.leave(who)
            raise
        self.consumers.append(consumer)
        self.on_change()
        return consumer

    def _consumer(self, sock: trio.socket.SocketType, who: Who) -> Consumer:
        return Consumer(
            sink=self.name,
            sock=sock,
            table=self.table,
            header=self.header,
            sources=self.sources,
            single=self.single,
            limit=self.limit,
            overflow=self.overflow,
            hold=self.hold,
            on_room=self.on_room,
            connected_at=trio.current_time(),
            who=who,
            one_by_one=self.one_by_one,
            form=self.form,
            linktypes=self.linktypes,
        )

    async def attend(self, consumer: Consumer) -> None:
        """Serve a consumer until its stream ends; its socket is closed then."""
        try:
            self.on_connect(self.sources)
            self.end_if_over()
            await consumer.serve()
        except* Exception as bug:  # noqa: BLE001 - the border: one consumer ends, and nobody else
            self.on_bug(self.name, bug)
        finally:
            consumer.sock.close()
            self.dismiss(consumer)

    def dismiss(self, consumer: Consumer) -> None:
        """Let a consumer go, at once; its socket is left as it is. Nothing the second time."""
        if consumer in self.consumers:
            consumer.withdraw()
            self.table.gone.leave(self.name, consumer.outbox.account())
            self.entrance.leave(consumer.who)
            self.consumers.remove(consumer)
            self.on_change()

    @property
    def path(self) -> str:
        """Where it listens."""
        return self.listener.path

    @property
    def over(self) -> bool:
        """Whether it has ended by itself: never."""
        return False

    def close(self, *, keep_listener: bool = False) -> None:
        """Listen no more at once, and let every consumer go with what is queued for it, in a bounded time.

        Args:
            keep_listener: another sink has it from now on.
        """
        self.closed = True
        self._accepting.cancel()
        if not self.lent and not keep_listener:
            self.listener.close()
        if not self.consumers:
            self.scope.cancel()
        for consumer in self.consumers:
            consumer.leave()

    def end_if_over(self) -> None:
        """Where named sources have ended for good, their readers have what is queued, and then their end."""
        if self.sources and self.is_over(self.sources):
            self.finish()

    def finish(self) -> None:
        """Let every consumer have what is queued, then end its stream."""
        for consumer in self.consumers:
            consumer.finish()
