"""The main thread of a helper: listens, answers, and ends in order.

Rules:
  1. The main thread never blocks: the author's code runs in other threads, so PING is answered in every state.
  2. It ends at the end of the input, a reader that is gone, SHUTDOWN, SIGTERM or SIGINT, a frame that cannot be,
     or 15 s without PING under a server that is not helperd (whose launcher sees to it).
  3. An end that was asked for, at whatever point, gives the job ``STOP_GRACE_S`` to return, then the output
     ``GRACE_S`` to leave; the server is told its reason if it does not know it. An end of our own waits until
     everything has left.

Source of facts: kismet-protocol.md, sections 3.3 to 3.5 and 4.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import select
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Coroutine
from typing import TYPE_CHECKING

from helperd import __version__
from helperd.errors import Code, HelperdError, LocalProtocolError, RemoteProtocolError
from helperd.helpers import _writer
from helperd.helpers._clock import monotonic
from helperd.helpers._page import PAGE_FD
from helperd.helpers._port import HIGH_WATER, Port, Stopped
from helperd.helpers._printed import Printed
from helperd.printing import say
from helperd.wire import bulk
from helperd.wire.definition import SourceDefinition, check_options, unknown_options
from helperd.wire.frames import MAX_FRAME, Run
from helperd.wire.messages import (
    ConfigureReport,
    ConfigureRequest,
    ErrorReport,
    ListReport,
    ListRequest,
    OpenReport,
    OpenRequest,
    Ping,
    Pong,
    ProbeReport,
    ProbeRequest,
    Register,
    Severity,
    Shutdown,
    Text,
)
from helperd.wire.session import Phase, Role, Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from helperd.helpers._tuner import Tuner
    from helperd.helpers.sdk import Device, Helper
    from helperd.wire.messages import Message

NUMBER_S = 2.0  # for helperd to number what was opened; after that, one packet goes in each frame
WATCHDOG_S = 15.0  # without PING; what every Kismet helper waits
GRACE_S = 0.5  # for the output to leave, once the capture has returned
TICK_S = 0.002  # how old a batch gets before the main thread sends it
READ = 64 << 10  # bytes per read of the input
MAX_UNREAD = 2 * HIGH_WATER + MAX_FRAME  # bytes queued above which the input waits: whoever asks must read


class Runner:
    """One helper process at work.

    Args:
        helper: the author's object.
        in_fd: the server's frames come here.
        out_fd: ours leave here.
    """

    def __init__(self, helper: Helper, in_fd: int, out_fd: int) -> None:
        self._helper = helper
        self._in_fd = in_fd
        for fd in (in_fd, out_fd, PAGE_FD):
            with contextlib.suppress(OSError):
                os.set_inheritable(fd, False)  # noqa: FBT003 - the system's own; programs that we start get none
        self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._port = Port(out_fd, self._wake)
        self._session = Session(Role.HELPER)
        helper.stop_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        helper._sdk_tell = self._send
        self._seqnos = itertools.count(1)
        self._results: deque[Callable[[], None]] = deque()
        self._worker: threading.Thread | None = None
        self._working = False
        self._writer: _writer.Writer | None = None
        self._tuner: Tuner | None = None
        self._channel = ""  # that the device was opened on
        self._cancel: Callable[[], object] = lambda: None
        self._helperd = False
        self._numbered = threading.Condition()  # what the session knows of interface numbers has changed
        self._asked: set[int] = set()  # link types whose numbers come or have come
        self._printed = Printed(self._tell_printed)
        self._listening = True
        self._ping_at = monotonic()
        self._ending = False
        self._end_by: float | None = None
        self._farewell = ""
        self._status = int(Code.DONE)

    # the loop

    def run(self, *, last: bool = False) -> int:
        """Answer until the end.

        Args:
            last: the process ends with it: a signal that still comes must not change its status.

        Returns:
            The exit status.
        """
        # The descriptor first: a signal that came between the two would be swallowed.
        old_wakeup = signal.set_wakeup_fd(self._waker[1], warn_on_full_buffer=False)
        before = {
            number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)
        }
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, the ends of our programs would be lost
        try:
            with contextlib.redirect_stdout(self._printed):
                while not self._over():
                    self._turn()
        finally:
            signal.set_wakeup_fd(old_wakeup)
            for (
                number,
                handler,
            ) in before.items():  # ignored, not handled: the interpreter's end undoes handlers
                signal.signal(number, signal.SIG_IGN if last else handler)
            self._port.stopping.set()
            if not self._working:
                for fd in self._waker:
                    os.close(fd)
        return self._status

    def _turn(self) -> None:
        """Wait for something to happen and deal with it."""
        port = self._port
        poll = select.poll()
        poll.register(self._waker[0], select.POLLIN)
        poll.register(port.fd, select.POLLOUT if port.queued else 0)
        if self._listening and port.queued < MAX_UNREAD:
            both = self._in_fd == port.fd and port.queued
            poll.register(self._in_fd, select.POLLIN | (select.POLLOUT if both else 0))
        for fd, event in poll.poll(self._timeout_ms()):
            if fd == self._waker[0]:
                self._woken()
            if fd == self._in_fd and event & ~select.POLLOUT:
                self._read()
            elif fd == port.fd and event & (select.POLLERR | select.POLLHUP):
                port.broken = True
        while self._results:
            self._results.popleft()()
        self._flush_batch()
        port.drain()
        if port.broken:
            self._end("the reader of our output is gone")
        elif not self._helperd and self._end_by is None and monotonic() - self._ping_at > WATCHDOG_S:
            self._end(f"no PING for {WATCHDOG_S:g} s", farewell=True)

    def _timeout_ms(self) -> float:
        """Until the next thing that happens by itself."""
        until = [] if self._helperd else [self._ping_at + WATCHDOG_S]
        if self._end_by is not None:
            until += [at for at in (self._end_by - GRACE_S, self._end_by) if at > monotonic()] or [0.0]
        rest = min(until, default=monotonic() + 60.0) - monotonic()
        writer = self._writer
        if writer is not None:
            writer.idle = not self._port.queued
            if writer.batched and writer.idle:
                writer.idle = False
                rest = min(rest, TICK_S)
        return max(1.0, rest * 1000) if rest > 0 else 0.0

    def _flush_batch(self) -> None:
        """Send what the capture thread has not sent yet, unless the peer has enough to read already."""
        writer = self._writer
        if writer is not None and writer.batched and not self._port.queued:
            with self._port.lock:
                writer.seal()

    def _over(self) -> bool:
        """Whether nothing is left to do."""
        if not self._ending:
            return False
        if self._port.broken:
            self._port.stopping.set()
        rest = 60.0 if self._end_by is None else self._end_by - monotonic()
        late = rest <= 0
        if self._working and rest > GRACE_S:
            return False
        writer = self._writer
        batched = writer is not None and writer.batched and not self._working
        if self._farewell and not batched and self._session.generation is not None:
            why, self._farewell = self._farewell, ""
            self._send(Shutdown(why))
            self._port.drain()
        return self._port.broken or late or not (self._port.queued or batched)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._waker[1], b"w")

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._waker[0], 4096)
            for number in data.strip(b"w")[:1]:
                self._end(f"asked to end by {signal.Signals(number).name}", farewell=True)

    def _on_signal(self, number: int, frame: object) -> None:
        """The wakeup descriptor has the number; nothing is done inside a handler."""

    def _end(self, why: str, status: int = Code.DONE, *, farewell: bool = False) -> None:
        """End because somebody wants it: the capture must return, the rest leaves within a bounded time.

        Args:
            why: what made us end.
            status: the exit status.
            farewell: whether the server does not know yet why, and is told behind everything else.
        """
        if self._end_by is not None:
            return
        self._ending = True
        self._farewell = why if farewell else ""
        self._status = self._status or int(status)
        self._end_by = monotonic() + self._helper.STOP_GRACE_S + GRACE_S
        self._port.stopping.set()
        with self._numbered:
            self._numbered.notify_all()
        os.eventfd_write(self._helper.stop_fd, 1)
        if self._tuner is not None:
            self._tuner.stop()
        if self._writer is not None:
            self._writer.tell_refused()
        with contextlib.suppress(RuntimeError):  # the loop has just ended by itself
            self._cancel()
        try:
            self._helper.stop()
        except Exception:  # noqa: BLE001 - the end must not fail because the author's stop does
            traceback.print_exc()

    def _finish(self, status: int = Code.DONE) -> None:
        """End because the work is done: everything leaves first, however long the peer takes to read it."""
        self._ending = True
        self._status = self._status or int(status)

    # listening

    def _read(self) -> None:
        try:
            data = os.read(self._in_fd, READ)
        except BlockingIOError:
            return
        except OSError as error:
            data = b""
            say(f"{self._helper.TYPE}: cannot read from the server: {error.strerror}", file=sys.stderr)
        if not data:
            self._listening = False
            self._end("the server closed our input")
            return
        try:
            with self._port.lock:
                messages = self._session.receive(data)
        except RemoteProtocolError as error:
            self._listening = False
            say(f"{self._helper.TYPE}: {error}", file=sys.stderr)
            self._end(error.text, Code.NO)
            return
        for message in messages:
            if not isinstance(message, Run):
                self._answer(message)

    def _answer(self, message: Message) -> None:
        match message:
            case Ping():
                self._ping_at = monotonic()
                self._pong(message)
            case ListRequest():
                self._work(self._list, message)
            case ProbeRequest():
                self._work(self._probe, message)
            case OpenRequest():
                self._work(self._open, message)
            case ConfigureRequest():
                self._configure(message)
            case Register(bulk.SUBSYSTEM):
                self._helperd = True
                with self._numbered:
                    self._numbered.notify_all()
            case Shutdown():
                self._end("the server says it is over")
            case _:
                pass  # what we do not know is not for us

    def _pong(self, ping: Ping) -> None:
        """Answer; the first answer also offers what only helperd understands, in the same write."""
        first = self._session.phase is Phase.GREETING
        self._send(Pong(ping.seqno))
        if first and self._generation == "v3":
            self._send(Register(bulk.SUBSYSTEM))

    @property
    def _generation(self) -> str:
        return "" if self._session.generation is None else self._session.generation.name

    # speaking

    def _send(self, message: Message) -> None:
        """Encode and queue a message behind everything written so far; from any thread."""
        with self._port.lock:
            if self._writer is not None:
                self._writer.seal()
            self._session.last_seqno = next(self._seqnos) - 1
            try:
                self._port.put(self._session.send(message))
            except LocalProtocolError as error:
                if error.problem == "frame-too-long":
                    self._port.put(self._session.send(_in_place_of(message, error.text)))
                # else the server has gone on meanwhile: nobody to tell
        if threading.current_thread() is not threading.main_thread():
            self._wake()

    # work in threads

    def _work(self, job: Callable[[Message], None], message: Message) -> None:
        """Start the one job of this process; a server asks for no second (kismet-protocol.md, section 0)."""
        if self._worker is not None:
            self._send(ErrorReport(getattr(message, "seqno", 0), "this helper is busy; one job per process"))
            return
        self._working = True
        self._worker = threading.Thread(
            target=self._run_job, args=(job, message), name="capture", daemon=True
        )
        self._worker.start()

    def _run_job(self, job: Callable[[Message], None], message: Message) -> None:
        try:
            job(message)
        except Exception as error:  # noqa: BLE001 - ours, then: told, never a helper that hangs
            traceback.print_exc()
            self._tell_failure(f"a bug of helperd's: {_reason(error)}", "bug")
            self._finish(Code.BUG)
        finally:
            self._printed.finish()
            self._working = False
            self._wake()

    def _list(self, request: Message) -> None:
        assert isinstance(request, ListRequest)
        try:
            interfaces = tuple(self._helper.list())
        except Exception as error:  # noqa: BLE001 - the author's failure is an answer
            if self._asked_to_end():
                return
            report = ListReport(
                request.seqno,
                success=False,
                message=_told(error),
                version=_VERSION,
                problem=_word(error),
            )
        else:
            report = ListReport(request.seqno, interfaces=interfaces, version=_VERSION)
        self._send(report)
        self._finish()

    def _probe(self, request: Message) -> None:
        assert isinstance(request, ProbeRequest)
        report = ProbeReport(request.seqno, success=False)
        try:
            definition = self._definition(request.definition)
            answer = self._helper.probe(definition)
            if answer:
                self._check_options(definition)
                report = ProbeReport(request.seqno)
            if not isinstance(answer, bool):
                report = ProbeReport(
                    request.seqno,
                    message=answer.message,
                    hardware=answer.hardware,
                    channel=answer.channel,
                    channels=answer.channels,
                    capture_interface=answer.capture_interface,
                )
        except Exception as error:  # noqa: BLE001 - the author's failure is an answer
            if self._asked_to_end():
                return
            report = ProbeReport(request.seqno, success=False, message=_told(error), problem=_word(error))
        self._send(report)
        self._finish()

    def _definition(self, text: str) -> SourceDefinition:
        """Read a request's definition: strictly from helperd, and from a Kismet server whatever it has made of it."""
        if self._helperd:
            return SourceDefinition.parse(text)
        definition, left_out = SourceDefinition.read_tolerantly(text)
        for what in left_out:
            self._send(Text(Severity.ERROR, f"{what} (in {text})"))
        return definition

    def _asked_to_end(self) -> bool:
        """Whether a job that failed was told to give up; then why it failed is no answer."""
        return self._port.stopping.is_set()

    def _check_options(self, definition: SourceDefinition) -> SourceDefinition:
        """Refuse options nobody knows, but leave out and tell what a Kismet server may have made up (section 5.2)."""
        known, who = self._helper.options_for(definition), self._helper.TYPE
        if self._helperd:
            check_options(definition, known, who)
            return definition
        unknown = unknown_options(definition, known, who)
        for text in unknown.values():
            self._send(Text(Severity.ERROR, text))
        return definition.without(*unknown)

    def _open(self, request: Message) -> None:
        """Open, report, capture: the whole life of the capture thread."""
        assert isinstance(request, OpenRequest)
        try:
            definition = self._definition(request.definition)
            device = self._helper.open(self._check_options(definition))
            report = self._opened(request, definition, device)
        except Exception as error:  # noqa: BLE001 - the author's failure is an answer
            if self._asked_to_end():
                return
            self._send(
                OpenReport(
                    request.seqno,
                    success=False,
                    message=_told(error),
                    version=_VERSION,
                    problem=_word(error),
                )
            )
            self._finish()
            return
        self._send(report)
        if device.warning:
            self._send(Text(Severity.ERROR, device.warning))
        writer = self._make_writer(device.dlt)
        self._writer = writer
        if self._tuner is not None or (self._helper.SEALED and self._tunes):
            self._make_tuner().begin()  # a sealed process starts no thread and reads no module any more
        try:
            if self._helper.SEALED:
                self._seal()
        except OSError as error:
            self._tell_failure(f"cannot give up what it does not need: {_reason(error)}", "not-permitted")
            self._finish(Code.NO)
            return
        self._capture(writer)

    def _seal(self) -> None:
        """Give up what an open device does not need, in both threads: capabilities and Landlock are per thread."""
        from helperd.helpers import _seal

        done = threading.Event()
        failed: list[OSError] = []

        def restrict() -> None:
            try:
                _seal.restrict_thread()
            except OSError as error:
                failed.append(error)
            done.set()

        self._results.append(restrict)
        self._wake()
        done.wait()
        if failed:
            raise failed[0]
        outputs = (
            2,
            self._port.fd,
            self._waker[1],
            self._helper.stop_fd,
        )  # the last two wake our own threads
        for text in _seal.seal_process(outputs, self._helper.SEALED_IOCTLS):
            self._send(Text(Severity.INFO, text))

    def _opened(self, request: OpenRequest, definition: SourceDefinition, device: Device) -> OpenReport:
        hopping = device.hopping
        self._channel = device.channel
        if hopping is not None:
            hopping = self._make_tuner().hop(hopping)
        uuid = definition.get("uuid") or device.uuid
        if not uuid and not (self._helper.SHARED and self._helperd):
            from helperd.wire.identity import uuid_of

            identity = self._helper.IDENTITY or f"helperd_{self._helper.TYPE}"
            uuid = uuid_of(identity, definition.interface)
        return OpenReport(
            request.seqno,
            dlt=device.dlt,
            capture_interface=device.capture_interface,
            channels=device.channels,
            channel=device.channel,
            hopping=hopping,
            hardware=device.hardware,
            message=device.message,
            uuid=uuid,
            version=_VERSION,
        )

    def _capture(self, writer: _writer.Writer) -> None:
        try:
            reason = self._run_capture(writer)
            writer.flush()
        except Stopped:
            writer.tell_refused()  # by an ``offer`` after the order to end
            return
        except BaseException as error:  # noqa: BLE001 - the author's failure is told; a loop's cancellation is none
            if not self._port.stopping.is_set():
                if not isinstance(error, HelperdError):
                    traceback.print_exc()
                self._tell_failure(_reason(error), _word(error, capturing=True))
                self._finish(Code.NO)
            return
        self._results.append(lambda: self._captured(reason or "the capture has ended"))

    def _run_capture(self, writer: _writer.Writer) -> str | None:
        """Run the author's ``capture`` to its end; a coroutine runs under asyncio and is cancelled by ``_end``."""
        if self._helper.hold is None:
            self._helper.hold = not self._helperd
        found = self._helper.capture(writer)
        if not isinstance(found, Coroutine):
            return found
        import asyncio  # noqa: TID251 - the author's own loop, in the capture thread of a process of its own

        async def cancellable() -> str | None:
            task = asyncio.ensure_future(found)
            loop = asyncio.get_running_loop()
            self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
            if self._port.stopping.is_set():
                task.cancel()
            result: str | None = await task
            return result

        return asyncio.run(cancellable())

    def _captured(self, reason: str) -> None:
        """The capture returned: say so, and go, or stay for a server that would begin it all again."""
        if self._ending:
            return
        self._send(Text(Severity.INFO, reason))
        if not self._helper.hold:
            self._send(Shutdown(reason))
            self._finish()

    def _tell_printed(self, line: str) -> None:
        with contextlib.suppress(Stopped):  # print does not fail because nobody listens any more
            self._send(Text(Severity.INFO, line))

    def _tell_failure(self, text: str, problem: str = "") -> None:
        """Tell the server why this is the end."""
        self._send(Text(Severity.ERROR, text))
        self._send(ErrorReport(0, text, problem=problem))

    def _lose_channels(self, text: str) -> None:
        """No channel is left to tune to: end, though the capture still runs; from the channel thread."""
        self._tell_failure(text)
        self._results.append(lambda: self._end(text, Code.NO))
        self._wake()

    def _number_of(self, dlt: int, wait: bool) -> int | None:  # noqa: FBT001 - as BulkWriter calls it
        """The interface number of a link type, as ``BulkWriter`` wants it."""
        from helperd.helpers._bulk import REFUSED

        numbers = self._session.bulk
        assert numbers is not None
        wait = wait and threading.current_thread() is not threading.main_thread()  # which hears the answer
        if dlt not in self._asked:
            self._asked.add(dlt)
            self._send(Register(bulk.SUBSYSTEM, dlt=dlt))
        with self._numbered:
            while wait and dlt not in numbers:
                if self._port.stopping.is_set():
                    raise Stopped
                self._numbered.wait()
        if dlt not in numbers:
            return None
        number = numbers[dlt]
        return REFUSED if number is None else number

    def _may_number(self, dlt: int | None) -> bool:
        """Whether this peer numbers interfaces; it gives the first number unasked."""
        numbers = self._session.bulk
        if numbers is None or dlt is None:
            return numbers is not None
        self._asked.add(dlt)
        with self._numbered:
            return self._numbered.wait_for(
                lambda: dlt in numbers or self._port.stopping.is_set(), timeout=NUMBER_S
            )

    def _make_writer(self, dlt: int | None) -> _writer.Writer:
        """The writer for what this peer speaks and takes."""
        session = self._session
        generation = session.generation
        assert generation is not None

        def next_seqno() -> int:
            return next(self._seqnos) & 0xFFFFFFFF

        def encode(report: Message) -> bytes:
            return generation.encode(report, next_seqno())

        if self._helperd:
            limit = MAX_FRAME
        elif generation.name == "v3":
            limit = _writer.FOREIGN_V3_LIMIT
        else:
            limit = _writer.FOREIGN_OLD_LIMIT
        own = dlt or 0
        if self._may_number(dlt):
            from helperd.helpers._bulk import BulkWriter

            return BulkWriter(
                self._port,
                self._send,
                encode,
                dlt=own,
                limit=limit,
                number_of=self._number_of,
                next_seqno=next_seqno,
            )
        if generation.name == "v3":
            return _writer.V3Writer(
                self._port, self._send, encode, dlt=own, limit=limit, next_seqno=next_seqno
            )
        return _writer.PlainWriter(self._port, self._send, encode, dlt=own, limit=limit)

    # channels

    @property
    def _tunes(self) -> bool:
        """Whether the author has said how to tune."""
        from helperd.helpers.sdk import Helper

        return type(self._helper).configure is not Helper.configure

    def _make_tuner(self) -> Tuner:
        if self._tuner is None:
            from helperd.helpers._tuner import Tuner

            self._tuner = Tuner(self._helper.configure, self._send, self._lose_channels, self._channel)
        return self._tuner

    def _configure(self, request: ConfigureRequest) -> None:
        if not self._tunes:
            text = f"{self._helper.TYPE} has no channels"
            self._send(ConfigureReport(request.seqno, success=False, message=text, problem="not-supported"))
            return
        self._make_tuner().request(request)


def _in_place_of(message: Message, why: str) -> Message:
    """What is said when a message is longer than the peer takes, and has no words that could be cut."""
    if request := getattr(message, "request", 0):
        return ErrorReport(request, f"its answer is too long: {why}")
    return Text(Severity.ERROR, f"not sent: {why}")


_VERSION = f"helperd {__version__}"
_SYSTEM_WORDS = {
    errno.EACCES: "not-permitted",
    errno.EPERM: "not-permitted",
    errno.EBUSY: "busy",
    **dict.fromkeys((errno.EMFILE, errno.ENFILE, errno.ENOMEM), "no-resources"),
}
_LOST = dict.fromkeys((errno.ENODEV, errno.ENXIO, errno.EIO), "device-gone")


def _told(error: BaseException) -> str:
    """What was raised instead of an answer, for the user; for the author, the traceback of what nobody foresaw."""
    if not isinstance(error, HelperdError | OSError):
        traceback.print_exception(error)
    return _reason(error)


def _word(error: BaseException, *, capturing: bool = False) -> str:
    """The problem word of what the author's code raised; empty when it says no more than that it failed."""
    if isinstance(error, HelperdError):
        return error.problem
    number = (error.errno or 0) if isinstance(error, OSError) else 0
    return _SYSTEM_WORDS.get(number, "") or (_LOST.get(number, "") if capturing else "")


def _reason(error: BaseException) -> str:
    """What the author's code raised, for the user."""
    if isinstance(error, HelperdError):
        return error.text
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    where = traceback.extract_tb(error.__traceback__)
    place = f" ({os.path.basename(where[-1].filename)}:{where[-1].lineno})" if where else ""
    return f"{type(error).__name__}: {error}{place}"
