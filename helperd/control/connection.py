"""A connection to the control socket: its bounds, and the way from a message to its reply.

Rules:
  1. One small task per client. It reads only when it has nothing to answer, so a client cannot pile up work.
  2. Everything is bounded: a message, the time it takes to arrive, the time a reply takes to leave, the clients, and
     those of one user. In a turn of the loop one reader is answered; admins do not wait for that.
  3. Nothing a client sends or leaves out raises beyond its own connection; a bug of ours is logged and told it.
  4. What a client has asked for and gone away from is not done.
  5. Capture never waits for a client: what is asked here is read from the daemon's state, at most once per turn.
"""

from __future__ import annotations

import logging
import select
from collections import deque
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Final

import trio

from helperd.control.call import (
    SERVICE,
    Call,
    CallError,
    bad_request,
    encode_reply,
    error_of,
    parse_call,
)
from helperd.control.call import service_error as _service_error
from helperd.control.methods import METHODS, Entry, get_info
from helperd.errors import HelperdError
from helperd.places import Entrance, Rank, Turns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from helperd.control.crowd import Crowd
    from helperd.control.interface import Interface
    from helperd.control.methods import Upgrade
    from helperd.control.peer import Peer, Policy
    from helperd.control.room import Room

_LOG: Final = logging.getLogger("helperd.control")
_READ: Final = 16 << 10
_LINGER_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may cost.

    Attributes:
        message: bytes of one call.
        message_s: seconds from a call's first byte to its last.
        send_s: seconds that a reply may wait for a client that does not read.
        lingering: refused clients that are waited for at once, and that are told at once within ``hold_s``.
        linger_s: seconds that a refused client has to read why.
        held: refused clients beyond these that are held before they are told; who comes then is told at once.
        hold_s: seconds for which they are.
    """

    message: int = 64 << 10
    message_s: float = 30.0
    send_s: float = 30.0
    lingering: int = 32
    linger_s: float = 2.0
    held: int = 1024
    hold_s: float = 1.0


def no_log(_who: str, error: BaseException) -> None:
    """Where there is no daemon: the logging of whoever serves."""
    _LOG.error("control", exc_info=error)


@dataclass(slots=True)
class Service:
    """What all connections share beside the room.

    Attributes:
        interfaces: by name, in the order in which they are told.
        entrance: where connections are let in.
        crowd: who was refused, and stands here until told why.
        silent: who has asked nothing, longest first.
        told: when some were refused at once, not long ago.
        bugs: errors of our own since the start.
    """

    room: Room
    admin: Policy
    limits: Limits
    interfaces: dict[str, Interface]
    entrance: Entrance
    crowd: Crowd
    turns: Turns = field(default_factory=Turns)
    silent: dict[Connection, None] = field(default_factory=dict)
    clients: int = 0
    refused: int = 0
    lingering: int = 0
    told: deque[float] = field(default_factory=deque)
    bugs: int = 0
    on_bug: Callable[[str, BaseException], None] = no_log

    def bug(self, error: BaseException) -> None:
        """Count an error of our own, and hand it to the daemon, which logs and counts it like every other."""
        self.bugs += 1
        self.on_bug("control", error)

    def entry(self, call: Call) -> Entry:
        """Find what answers a call, and check the call's parameters.

        Raises:
            CallError: InterfaceNotFound, MethodNotFound, MethodNotImplemented, InvalidParameter.
        """
        interface = self.interfaces.get(call.interface)
        if interface is None:
            known = ", ".join(self.interfaces)
            text = f"no interface {call.interface[:100]!r} here; there are: {known}"
            raise _service_error("InterfaceNotFound", {"interface": call.interface}, "bad-request", text)
        method = interface.methods.get(call.method)
        name = f"{call.interface}.{call.method}"
        if method is None:
            text = f"no method {call.method[:100]!r}; see `varlinkctl introspect` or GetInterfaceDescription"
            raise _service_error("MethodNotFound", {"method": name}, "bad-request", text)
        bad = interface.wrong(call.parameters, method.inputs)
        if bad:
            takes = ", ".join(method.inputs.fields) or "none"
            text = f"parameter {bad[:100]!r} is missing, unknown, or of another type; {call.method} takes: {takes}"
            raise _service_error("InvalidParameter", {"parameter": bad[:200]}, "bad-request", text)
        if call.interface == SERVICE:
            return Entry(get_info if call.method == "GetInfo" else self.describe)
        entry = METHODS[call.method]
        if entry.needs and not hasattr(self.room.daemon, entry.needs):
            text = f"this daemon cannot do {call.method}"
            raise _service_error("MethodNotImplemented", {"method": name}, "not-supported", text)
        return entry

    async def describe(self, _room: Room, call: Call) -> bytes:
        """GetInterfaceDescription: the text of one interface."""
        name = call.parameters["interface"]
        interface = self.interfaces.get(name)
        if interface is None:
            text = f"no interface {name[:100]!r} here; there are: {', '.join(self.interfaces)}"
            raise _service_error("InterfaceNotFound", {"interface": name}, "bad-request", text)
        return encode_reply({"description": interface.text})


class Gone(Exception):  # noqa: N818 - not an error: how a connection ends
    """The client went away, or was too slow; the connection ends without another word."""


class Connection:
    """One client, from its first message to its last."""

    def __init__(self, service: Service, stream: trio.SocketStream, peer: Peer, rank: Rank) -> None:
        self.service = service
        self.stream = stream
        self.peer = peer
        self.rank = rank
        self.scope = trio.CancelScope()
        self.placed = self.above = False
        self._buffer = bytearray()
        self._ended = False

    def take_place(self) -> str:
        """Take a place; return nothing, or why there is none. For root and the daemon's own user another makes room."""
        entrance, silent = self.service.entrance, self.service.silent
        kept = entrance.places.reserve * self.rank
        self.above = entrance.is_kept(self.stream.socket.fileno())
        if self.rank is Rank.OWNER and self.above and entrance.above >= kept:
            silent = {one: None for one in silent if one.above}
        elif self.rank is not Rank.OWNER or not entrance.places.full(self.rank):
            silent = {}
        if silent:
            min(silent, key=attrgetter("rank")).make_room()
        why = entrance.admit("control.sock", self.peer.uid, self.rank, above=self.above, kept=kept)
        self.placed = not why
        return why

    def leave_place(self) -> None:
        """Give the place back; nothing the second time."""
        if self.placed:
            self.placed = False
            self.service.entrance.leave(self.peer.uid, above=self.above)

    def make_room(self) -> None:
        """End, in silence: nothing has been asked."""
        self.leave_place()
        self.service.silent.pop(self, None)
        self.scope.cancel()

    async def serve(self) -> None:
        """Answer one call after the other until the client goes, or cannot be understood any more."""
        try:
            while True:
                message = await self._receive()
                if message is None or not await self._answer(message):
                    return
        except CallError as error:  # raised by _receive: there is no way to find the next message
            await self._send(error.encode())
            await self._linger()

    async def refuse(self, why: str) -> None:
        """Say why this client is not served; of many at once some are not waited for until they have read it."""
        service = self.service
        with trio.move_on_after(service.limits.linger_s):
            await self._send(error_of(HelperdError("busy", why)).encode())
        if service.lingering >= service.limits.lingering:
            return
        service.lingering += 1
        try:
            await self._linger()
        finally:
            service.lingering -= 1

    async def _receive(self) -> bytes | None:
        """The next message without its NUL byte; None when the client has said its last.

        Raises:
            CallError: the message is too long, or is not finished in time.
        """
        buffer, limits = self._buffer, self.service.limits
        deadline, scanned = float("inf"), 0
        while (end := buffer.find(0, scanned)) < 0 and len(buffer) <= limits.message:
            scanned = len(buffer)
            if self._ended:
                return None
            if scanned and deadline == float("inf"):
                deadline = trio.current_time() + limits.message_s
            if not buffer:
                self.service.silent[self] = None
            try:
                with trio.move_on_at(deadline) as scope:
                    await self._read()
            finally:
                self.service.silent.pop(self, None)
            if scope.cancelled_caught:
                raise bad_request(
                    f"a message was begun and not finished within {limits.message_s:g} s; end it with a NUL byte",
                    last=True,
                )
        if not 0 <= end <= limits.message:
            raise bad_request(
                f"a message may have {limits.message} bytes, this one has more; the connection is closed",
                last=True,
            )
        message = bytes(buffer[:end])
        del buffer[: end + 1]
        return message

    async def _read(self) -> None:
        """Add what comes to the buffer."""
        try:
            data = await self.stream.receive_some(_READ)
        except trio.BrokenResourceError:
            raise Gone from None
        self._buffer += data
        self._ended = not data

    async def _answer(self, message: bytes) -> bool:
        """Answer one message; False when the connection cannot go on."""
        oneway = False
        try:
            call = replace(parse_call(message), who=self.peer.uid, rank=self.rank)
            oneway = call.oneway
            await self._carry_out(call)
        except CallError as error:
            if not oneway:
                await self._send(error.encode())
            if error.last:
                await self._linger()
                return False
        return True

    async def _carry_out(self, call: Call) -> None:
        """Do what a call asks, and reply.

        Raises:
            CallError: to be sent.
        """
        try:
            entry = self.service.entry(call)
            if entry.changes:
                self._must_be_admin(call)
            elif self.rank is Rank.READER:
                await self.service.turns.wait(self.peer.uid)
            if not call.oneway and self._hung_up():
                raise Gone  # it has given up, and does not expect that any more
            if call.upgrade or entry.upgrade is not None:
                await self._upgrade(entry, call)
            elif call.more and entry.stream is not None and not call.oneway:
                await self._attend(self._stream, entry, call)
            elif entry.attended and not call.oneway:
                await self._attend(self._reply, entry, call)
            else:
                await self._reply(entry, call)
        except (CallError, Gone):
            raise
        except HelperdError as error:
            raise error_of(error) from None
        except Exception as error:  # noqa: BLE001 - told to the caller and logged; the connection goes on
            self.service.bug(error)
            text = f"an error of helperd's own in {call.method}: {error!r}; the log has the traceback"
            raise error_of(HelperdError("bug", text)) from None

    async def _reply(self, entry: Entry, call: Call) -> None:
        assert entry.answer is not None
        reply = await entry.answer(self.service.room, call)
        if not call.oneway:
            await self._send(reply)

    async def _upgrade(self, entry: Entry, call: Call) -> None:
        """Reply, and let the connection be something else from then on; it ends with it."""
        if entry.upgrade is None:
            raise bad_request(f'{call.method} cannot be called with "upgrade"')
        if not call.upgrade:
            raise bad_request(f'{call.method} must be called with "upgrade": its answer is a stream of bytes')
        made: list[Upgrade] = []
        async with AsyncExitStack() as stack:
            context = entry.upgrade(self.service.room, call, self.stream.socket)

            async def make(_entry: Entry, _call: Call) -> None:
                made.append(await stack.enter_async_context(context))

            await self._attend(make, entry, call)
            for reply, serve in made:
                await self._send(reply)
                try:
                    await serve()
                except Exception as error:  # noqa: BLE001 - the reader gets no more than the end of its stream
                    self.service.bug(error)
        raise Gone

    async def _stream(self, entry: Entry, call: Call) -> None:
        assert entry.stream is not None
        await entry.stream(self.service.room, call, self._send)

    async def _attend(self, work: Callable[[Entry, Call], Awaitable[None]], entry: Entry, call: Call) -> None:
        """Work for a client, and stop when it goes away."""
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, nursery.cancel_scope)
            try:
                await work(entry, call)
            except Exception as error:  # noqa: BLE001 - raised again outside, so that it is in no group
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _watch(self, scope: trio.CancelScope) -> None:
        """Read ahead, within the limit, to notice when the client goes away.

        A client that only closed its sending side still reads.
        """
        try:
            while not self._ended and len(self._buffer) <= self.service.limits.message:
                await self._read()
        except Gone:
            scope.cancel()
            return
        if self._ended and self._hung_up():
            scope.cancel()

    def _hung_up(self) -> bool:
        return hung_up(self.stream.socket.fileno())

    def _must_be_admin(self, call: Call) -> None:
        if self.rank is Rank.READER:
            raise error_of(
                HelperdError(
                    "not-permitted",
                    f"uid {self.peer.uid} may look, but not change ({call.method}); "
                    f"that is for {self.service.admin.who}",
                )
            )

    async def _send(self, message: bytes) -> None:
        with trio.move_on_after(self.service.limits.send_s):
            try:
                await self.stream.send_all(message)
            except trio.BrokenResourceError:
                raise Gone from None
            return
        raise Gone

    async def _linger(self) -> None:
        """Let the client read the last reply: closing at once would lose it while the client still sends."""
        with trio.move_on_after(self.service.limits.linger_s):
            await self.stream.send_eof()
            self._buffer.clear()
            for _ in range(_LINGER_BYTES // _READ):
                if self._ended:
                    return
                await self._read()
                self._buffer.clear()


def hung_up(fd: int) -> bool:
    """Whether nobody is at the other end of a unix socket any more."""
    poll = select.poll()
    poll.register(fd, 0)
    return any(event & select.POLLHUP for _fd, event in poll.poll(0))


async def serve_one(service: Service, stream: trio.SocketStream, peer: Peer, rank: Rank) -> None:
    """Serve one client; nothing it does gets out of here."""
    service.clients += 1
    try:
        async with stream:
            connection = Connection(service, stream, peer, rank)
            why = connection.take_place()
            if why:
                service.refused += 1
                await connection.refuse(why)
                return
            try:
                with connection.scope:
                    await connection.serve()
            finally:
                connection.leave_place()
    except (Gone, trio.BrokenResourceError, trio.ClosedResourceError, OSError):
        return
    except Exception as error:  # noqa: BLE001 - one client's connection never ends another's
        service.bug(error)
    finally:
        service.clients -= 1
