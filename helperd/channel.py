"""One helper's file descriptors on one side, its wire session on the other: the pump.

Rules:
  1. One read per turn of the loop, however much there is: a flooding helper gets no more turns than a quiet one.
  2. Any byte is life. What was read before a protocol error is still delivered.
  3. Writing never waits: frames that the pipe does not take are kept, whole and few, and leave when it has room.
  4. A helper that writes now and then may be read a little later, together with others; not while it owes an answer.
"""

from __future__ import annotations

import fcntl
import os
import select
import sys
import termios
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar, cast

import trio

from helperd.errors import HelperExited, RemoteProtocolError
from helperd.gather import GATHER_S, rooms
from helperd.wire.frames import Run
from helperd.wire.messages import ConfigureReport, ConfigureRequest, Message, Ping, Pong, Register, Shutdown
from helperd.wire.session import Phase

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from helperd.wire.session import Session

FOREIGN_READ: Final = 64 << 10
"""Read size for pipes: what the kernel holds of a foreign helper's output."""
BULK_READ: Final = 256 << 10
"""Read size for foreign helpers once they send bulk frames."""
BULK_PIPE: Final = 1 << 20
"""What their pipe holds then; the most that the kernel gives to anybody."""
OWN_READ: Final = 1 << 20
"""Read size for our own helpers, which send many packets per frame over a large socket buffer; while they flood, for
memory of that size is asked of the kernel and given back each time."""
BUSY: Final = 32 << 10
"""Bytes in a read after which the next is tried at once: for a flooding helper, asking the kernel first costs as much
as reading."""
LATE_S: Final = 0.25
"""Seconds after which an answer to PING is late anyway, and no reason any more to read its helper at once."""
NUDGE_S: Final = 0.2
"""Seconds after which a request without an answer is followed by a PING."""
QUIET_S: Final = 2 * GATHER_S
"""Seconds between two reads of a quiet helper, which loses nothing by being read a little later."""
QUIET_READ: Final = 4 << 10
"""Bytes in a read of a quiet helper at most: a read of many packets is worth its own turn."""
QUIET_READS: Final = 4
"""Such reads, less those that came sooner, which make a helper quiet; none left make it a busy one again."""
MANY_MESSAGES: Final = 16
"""Control messages in a read after which the next is small: each costs as much as hundreds of packets, and a helper
that sends nothing else holds up everybody for as long as its read is."""
CHATTY_READ: Final = 4 << 10
"""Bytes in a read of such a helper at most."""
MAX_UNSENT: Final = 64 << 10
"""Bytes kept for a helper that does not read."""

_M = TypeVar("_M")


class Channel:
    """The supervisor's end of one helper.

    Attributes:
        session: the wire session.
        life_at: when the last byte came, in the loop's time.
        eof: the helper's output has ended.
        refused: its bytes were refused; it is not listened to any more.
        cut: its output ended inside a frame.
        unread: its output ended before a byte of it came, and it has not read a byte of what it was sent.
        pings_stuck: PINGs in a row that could not leave because the helper does not read.
        round_trip: seconds from the last PING that was answered to its answer, read; None before the first.
        round_trip_max: the longest of them.

    Args:
        to_helper: writable fd (the helper's ``--in-fd``); owned from now on, made non-blocking.
        from_helper: readable fd (the helper's ``--out-fd``); owned from now on, made non-blocking.
        session: a fresh session in the supervisor's role.
        read_size: bytes asked for in one read.
        deliver: called with the packet runs of one read and its size; never waits.
        on_message: called with every control message except PING, in order, before the packets of the same read.
    """

    def __init__(
        self,
        to_helper: int,
        from_helper: int,
        session: Session,
        *,
        read_size: int,
        deliver: Callable[[list[Run], int], None],
        on_message: Callable[[Message], None],
    ) -> None:
        os.set_blocking(to_helper, False)
        os.set_blocking(from_helper, False)
        self._to_helper = to_helper
        self._from_helper = from_helper
        self.session = session
        self._read_size = read_size
        self._idle_read_size = min(read_size, FOREIGN_READ)
        self._deliver = deliver
        self._on_message = on_message
        self._inbox: deque[Message] = deque()
        self._awaited: dict[int, trio.Event] = {}
        self._reports: dict[int, ConfigureReport] = {}
        self._unsent = bytearray()
        self._writable = trio.Event()
        self._rooms = rooms()
        self._quiet = False
        self._quiet_reads = 0
        self.life_at = trio.current_time()
        self.ping_sent_at: float | None = None
        self.pings_stuck = 0
        self.round_trip: float | None = None
        self.round_trip_max: float | None = None
        self._busy = self._chatty = False
        self.eof = False
        self.refused = False
        self.cut = False
        self.unread = False
        self._written = 0

    # writing

    def send(self, message: Message) -> bool:
        """Send a message now or as soon as the pipe has room.

        Returns:
            False when the helper has not read for so long that the message had to be dropped.

        Raises:
            LocalProtocolError: the session's table does not allow it now.
        """
        if len(self._unsent) > MAX_UNSENT:
            return False
        if self._rooms.patient.gathers:
            self._rooms.patient.recall(self._from_helper)
        self._write(self.session.send(message))
        if isinstance(message, Register) and message.interface is not None:
            self._widen()
        return True

    def _widen(self) -> None:
        """Read more at a time, from a larger pipe: the helper sends many packets per frame from now on.

        Never for a helper that writes a frame at a time: its main loop stalls behind a larger pipe
        (docs/performance.md). A kernel that refuses leaves the pipe as it is.
        """
        self._read_size = max(self._read_size, BULK_READ)
        with suppress(OSError):
            fcntl.fcntl(self._from_helper, fcntl.F_SETPIPE_SZ, BULK_PIPE)

    def tell(self, line: bytes) -> None:
        """Write what is no frame, to a process that speaks no protocol."""
        self._write(line)

    def ping(self) -> None:
        """Send PING; when it cannot leave, count it in ``pings_stuck``."""
        if self._unsent:
            self.pings_stuck += 1
            return
        self.send(Ping())
        if not self._unsent:
            self.pings_stuck = 0
            self.ping_sent_at = trio.current_time()

    def _write(self, data: bytes) -> None:
        if self._to_helper < 0:
            return
        if not self._unsent:
            try:
                written = os.write(self._to_helper, data)
                self._written += written
                data = data[written:]
            except BlockingIOError:
                pass
            except OSError:
                self.unread = self.unread or not self.session.received
                return  # it reads no more; the end of its output tells the rest
        if data:
            self._unsent += data
            self._writable.set()

    async def keep_writing(self) -> None:
        """Send what did not fit, whenever the pipe has room; until cancelled."""
        while True:
            await self._writable.wait()
            try:
                if self._to_helper < 0:
                    raise trio.ClosedResourceError
                await trio.lowlevel.wait_writable(self._to_helper)
                written = os.write(self._to_helper, self._unsent)
                self._written += written
                del self._unsent[:written]
            except BlockingIOError:
                continue
            except (OSError, trio.ClosedResourceError):
                self._unsent.clear()
            if not self._unsent:
                self._writable = trio.Event()

    # reading

    async def _turn(self) -> bool:
        """Wait and read once; as ``_read``."""
        if self._busy:
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.wait_readable(self._from_helper)
        return self._read()

    def _read(self) -> bool:
        """Read once and hand on what came.

        Returns:
            False at the end of the helper's output.

        Raises:
            RemoteProtocolError: what came is refused; whatever came before it has been handed on.
        """
        size = CHATTY_READ if self._chatty else self._read_size if self._busy else self._idle_read_size
        try:
            data = os.read(self._from_helper, size)
        except BlockingIOError:
            self._busy = False
            return True
        except ConnectionResetError:
            data = b""
        if not data:
            self.eof = True
            if not self.refused:
                self._end_of_output()
            return False
        self._keep_pace(len(data))
        if self.refused:
            return True
        try:
            try:
                came = self.session.receive(data)
            except RemoteProtocolError as error:
                self._hand_on(cast("list[Message | Run]", error.before), len(data))
                raise
            self._hand_on(came, len(data))
        except RemoteProtocolError:
            self.refused = True
            raise
        return True

    def _keep_pace(self, size: int) -> None:
        """Note when a read came, how large it was, and what kind of helper that makes it."""
        now = trio.current_time()
        self._busy = size >= BUSY
        if self._busy:
            self._quiet_reads = 0
        elif now - self.life_at >= QUIET_S and size <= QUIET_READ:
            self._quiet_reads = min(self._quiet_reads + 1, QUIET_READS)
        elif self._quiet_reads:
            self._quiet_reads -= 1
        self._quiet = self._quiet_reads == QUIET_READS or (self._quiet and self._quiet_reads > 0)
        self.life_at = now

    def _end_of_output(self) -> None:
        if not self.session.received:
            self.unread = self.unread or _waiting(self._to_helper) >= self._written > 0
        try:
            self.session.receive_eof()
        except RemoteProtocolError:
            self.refused = self.cut = True
            raise

    def _hand_on(self, came: list[Message | Run], size: int) -> None:
        """Messages first: no packet comes before the report that it depends on, and no answer waits for packets."""
        if len(came) == 1 and isinstance(came[0], Run):  # nearly always
            self._chatty = False
            self._deliver(cast("list[Run]", came), size)
            return
        for at, item in enumerate(came):
            if isinstance(item, Shutdown):  # what came before it counts, what comes behind it does not
                self._hand_on(came[:at], size)
                self._hear(item)
                came = came[at + 1 :]
                break
        runs = [item for item in came if isinstance(item, Run)]
        self._chatty = len(came) - len(runs) > MANY_MESSAGES
        if len(runs) < len(came):
            for item in came:
                if not isinstance(item, Run):
                    self._hear(item)
        if runs:
            self._deliver(runs, size)

    def _hear(self, message: Message) -> None:
        if isinstance(message, Ping):
            if self.session.phase is not Phase.ERROR:  # by what came behind it in the same read
                self.send(Pong(message.seqno))
            return
        if isinstance(message, Pong) and self.ping_sent_at is not None:
            self.round_trip = trio.current_time() - self.ping_sent_at
            self.round_trip_max = max(self.round_trip, self.round_trip_max or 0.0)
            self.ping_sent_at = None
        if isinstance(message, ConfigureReport) and message.request in self._awaited:
            self._reports[message.request] = message
            self._awaited[message.request].set()
        self._on_message(message)
        self._inbox.append(message)

    async def expect(self, kind: type[_M]) -> _M:
        """Read until a message of this kind comes; other messages go to ``on_message`` alone.

        Raises:
            HelperExited: the output ended before.
            RemoteProtocolError: the bytes were refused.
        """
        while True:
            while self._inbox:
                message = self._inbox.popleft()
                if isinstance(message, kind):
                    return message
            if not await self._turn():
                raise HelperExited("exited", f"the helper ended before its {kind.__name__}")

    async def request(self, message: Message, kind: type[_M]) -> _M:
        """Ask for something and wait for the report.

        A helper that handles one frame per read may have left the request in its buffer; a PING after a moment makes
        it look again (kismet-protocol.md, H1).

        Raises:
            HelperExited, RemoteProtocolError: as ``expect``; or the helper has said goodbye already.
        """
        if self.session.phase is Phase.CLOSING:
            raise HelperExited("exited", f"the helper said goodbye before its {kind.__name__}")
        self.send(message)
        with trio.move_on_after(NUDGE_S):
            return await self.expect(kind)
        self.ping()
        return await self.expect(kind)

    async def greet(self) -> None:
        """Find out the helper's generation: the PING that every generation can tell apart, and its answer.

        A v3 helper is asked a second time, in v3: only that feeds its watchdog, and an offer that our own helpers send
        behind their first answer has come when the second answer is here.

        Raises:
            HelperExited, RemoteProtocolError: as ``expect``.
        """
        self._write(self.session.greeting())
        await self.expect(Pong)
        if self.session.generation is not None and self.session.generation.name == "v3":
            self.send(Ping())
            await self.expect(Pong)

    async def configure(self, request: ConfigureRequest) -> ConfigureReport:
        """Send a configure request and wait for its report, which the pump reads.

        Raises:
            LocalProtocolError: not while the session is in this phase.
        """
        self.send(request)
        number = self.session.last_seqno
        answered = self._awaited[number] = trio.Event()
        try:
            with trio.move_on_after(NUDGE_S):
                await answered.wait()
            if not answered.is_set():
                self.ping()
                await answered.wait()
        finally:
            self._awaited.pop(number, None)
        return self._reports.pop(number)

    async def pump(self, holding: Callable[[], bool], wait_for_room: Callable[[], Awaitable[None]]) -> None:
        """Read and deliver until the output ends.

        Raises:
            RemoteProtocolError: the bytes were refused, or the output ended inside a frame.
        """

        def turn() -> bool:
            stays = self._read()
            self._inbox.clear()
            return stays and not self._busy and not holding()

        def prompt_turn() -> bool:
            return turn() and not self._quiet

        def patient_turn() -> bool:
            return turn() and self._quiet

        while not self.eof:
            if self._busy:
                await trio.lowlevel.checkpoint()
                turn()
            elif self._quiet and not (self._rooms.patient.gathers and self._awaits_answer()):
                await self._rooms.patient.attend(self._from_helper, patient_turn)
            else:
                await self._rooms.prompt.attend(self._from_helper, prompt_turn)
            while holding():
                await wait_for_room()

    def _awaits_answer(self) -> bool:
        if self.ping_sent_at is not None and trio.current_time() - self.ping_sent_at < LATE_S:
            return True
        return bool(self._awaited)

    async def drain(self, held_up: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint) -> None:
        """Deliver what still comes after the decision to stop; ends at the end of the output.

        A helper whose bytes were refused is read on, so that it can end, but not listened to.

        Args:
            held_up: awaited after each read: waits while a lossless consumer is full.
        """
        while not self.eof:
            await held_up()
            try:
                await self._turn()
            except RemoteProtocolError:
                continue
            self._inbox.clear()

    def readable(self) -> bool:
        """Whether bytes, or the end, wait to be read."""
        if self._from_helper < 0:
            return False
        poll = select.poll()
        poll.register(self._from_helper, select.POLLIN)
        return bool(poll.poll(0))

    def close_input(self) -> None:
        """Close the helper's input: its sign to end."""
        if self._to_helper >= 0:
            trio.lowlevel.notify_closing(self._to_helper)
            os.close(self._to_helper)
            self._to_helper = -1

    def close(self) -> None:
        """Close both descriptors."""
        self.close_input()
        if self._from_helper >= 0:
            for room in self._rooms:
                room.recall(self._from_helper)
            trio.lowlevel.notify_closing(self._from_helper)
            os.close(self._from_helper)
            self._from_helper = -1


def _waiting(fd: int) -> int:
    """Bytes in a pipe that nobody has read, seen from either end."""
    if fd < 0:
        return 0
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)
