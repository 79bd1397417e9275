"""One helper process and the supervisor's end of its two pipes; every wait is bounded.

It is started as a Kismet server starts its programs: two pipes, ``--in-fd``, ``--out-fd``, the caller's own rights.
What it says is judged by the same code that judges helpers under helperd (``wire.session``).
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import tempfile
import termios
from pathlib import Path
from time import monotonic  # noqa: TID251 - one process at a time is watched, without trio
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from helperd.errors import RemoteProtocolError
from helperd.wire import bulk
from helperd.wire.frames import Run
from helperd.wire.messages import OpenReport, OpenRequest, Ping, Pong, Register
from helperd.wire.session import Phase, Role, Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from helperd.wire.frames import Generation
    from helperd.wire.messages import Message

_T = TypeVar("_T")
ENTRY = Path(__file__).resolve().parent.parent / "helpers" / "__main__.py"
PIPE = 32 << 10
"""Bytes unread that count as a pipe that is full: who writes frames of any size leaves some of its 64 KiB free."""
SILENT_S = 0.3
"""How long such a pipe must not have grown, so that nothing more is on its way."""
TURN_S = 0.25
"""After how long it is asked anew how much of its time the machine has taken."""
STALL_S = 4.0
"""How long that is waited for, where little comes."""


class Fault(Exception):  # noqa: N818 - what a helper did wrong, in words
    """The helper did not do what the check is about."""


class Subject(NamedTuple):
    """What is tried.

    Attributes:
        command: program and arguments.
        generation: how to address it; None: by the v2 PING, as helperd and the servers of 2025 do.
        answer_s: seconds for an answer, and for an end.
        definition: one that it opens; empty: none is known.
        nonsense: one that it must refuse.
    """

    command: tuple[str, ...]
    generation: Generation | None = None
    answer_s: float = 5.0
    definition: str = ""
    nonsense: str = "no-such-device-of-anybody:type=nonsense"

    def start(self, *, bulk_frames: bool = False, greet: bool = True) -> Conversation:
        """A fresh process, greeted unless that is what is tried.

        Raises:
            Fault: it did not answer the greeting.
        """
        talk = Conversation(self, bulk_frames=bulk_frames)
        if greet:
            try:
                talk.greet()
            except BaseException:
                talk.close()
                raise
        return talk


def command_of(words: Sequence[str]) -> tuple[str, ...]:
    """The words of a command, ``builtin:NAME`` being one of helperd's own helpers."""
    if words[0].startswith("builtin:"):
        own = (sys.executable, "-I", "-S", str(ENTRY), words[0].removeprefix("builtin:"))
        return (*own, *words[1:])
    return tuple(words)


def _unread(pipe: int) -> int:
    """Bytes in a pipe, seen from either end."""
    found = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, found)
    return found[0]


class _Patience:
    """How long a process may take; what it waited for a processor is the machine's, and does not count.

    Time is up only for who looks again afterwards: what had come until then is seen first, however late the kit
    itself was.

    Args:
        pid: the process; its children count too.
        seconds: what it gets.
    """

    def __init__(self, pid: int, seconds: float) -> None:
        self._pid = pid
        self._until = monotonic() + seconds
        self._before = self._most = _starved_s(pid)

    def left(self) -> float:
        """Seconds that are left, 0 at least."""
        self._most = max(self._most, _starved_s(self._pid))  # less when one of them has ended
        return max(0.0, self._until + self._most - self._before - monotonic())

    def turns(self) -> Iterator[float]:
        """Seconds to wait for at most, again and again; the last time 0."""
        while left := self.left():
            yield left
        yield 0.0


def _starved_s(pid: int) -> float:
    """Seconds that a process, or the worst off of its threads and children, was ready to run and did not."""
    worst = 0
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(
            OSError, ValueError, IndexError
        ):  # it has ended, or the kernel does not count
            worst = max(worst, int((task / "schedstat").read_text().split()[1]))
            for child in (task / "children").read_text().split():
                worst = max(worst, int(_starved_s(int(child)) * 1e9))
    return worst / 1e9


class Conversation:
    """One process and what was said.

    Args:
        subject: what to start.
        bulk_frames: whether to accept the bulk extension, as helperd does.
    """

    def __init__(self, subject: Subject, *, bulk_frames: bool = False) -> None:
        self.subject = subject
        self.bulk_frames = bulk_frames
        child_in, self.to = os.pipe()
        self.source, child_out = os.pipe()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close
        path = os.pathsep.join(part for part in sys.path if part)
        try:
            self.process = subprocess.Popen(  # noqa: S603, TID251 - the caller's own program, with no more than the caller's rights
                [*subject.command, f"--in-fd={child_in}", f"--out-fd={child_out}"],
                pass_fds=(child_in, child_out),
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
                env={**os.environ, "HELPERD_PATH": path},
            )
        except BaseException:
            self._said.close()
            os.close(self.to)
            os.close(self.source)
            raise
        finally:
            os.close(child_in)
            os.close(child_out)
        os.set_blocking(self.to, False)
        self.session = Session(Role.SUPERVISOR, generation=subject.generation)
        self.messages: list[Message] = []
        self.runs: list[Run] = []
        self.packets = 0
        self.ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process, whatever it does."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        for fd in (self.to, self.source):
            if fd >= 0:
                os.close(fd)
        self.to = self.source = -1
        self._said.close()

    def patience(self) -> _Patience:
        """The time that it has for what comes next."""
        return _Patience(self.process.pid, self.subject.answer_s)

    def last_words(self) -> str:
        """The last line that it wrote to standard error or output, for people; empty: none."""
        size = os.fstat(self._said.fileno()).st_size
        said = os.pread(self._said.fileno(), 4096, max(0, size - 4096))  # its own place in the file stays
        lines = said.decode(errors="replace").strip().splitlines()
        return lines[-1][:160] if lines else ""

    # speaking

    def write(self, data: bytes) -> None:
        """Write all of it, a piece at a time; what it says meanwhile is read.

        Raises:
            Fault: it does not read, or has ended.
        """
        for left in self.patience().turns():
            reads = [] if self.ended or self.source < 0 else [self.source]
            readable, writable, _ = select.select(reads, [self.to], [], min(left, 0.1))
            if readable:
                self.read(0)
            if writable:
                try:
                    data = data[os.write(self.to, data) :]
                except BrokenPipeError:
                    raise Fault(f"it has ended{self._why()}") from None
                except BlockingIOError:
                    pass
            if not data:
                return
        raise Fault("it does not read its input")

    def hand_over(self, data: bytes) -> None:
        """Write, and wait until it has been read: what is written next comes in a read of its own.

        Raises:
            Fault: as ``write``.
        """
        self.write(data)
        for left in self.patience().turns():
            ended = self.process.poll() is not None
            if not _unread(self.to):
                return
            if ended:  # first, and what it has not read it never will
                raise Fault(f"it has ended{self._why()}")
            if self.ended:
                self._doze(min(left, 0.001))
            else:
                self.read(min(left, 0.001))
        raise Fault("it does not read its input")

    def write_bytewise(self, data: bytes) -> None:
        """Write a byte, and the next one once it has been read.

        Raises:
            Fault: as ``write``.
        """
        for at in range(len(data)):
            self.hand_over(data[at : at + 1])

    def send(self, message: Message) -> int:
        """Send a message; returns its number."""
        self.write(self.session.send(message))
        return self.session.last_seqno

    def raw(self, message: Message, seqno: int) -> bytes:
        """A frame that the session would not send now."""
        generation = self.session.generation
        assert generation is not None
        return generation.encode(message, seqno)

    def greet(self) -> None:
        """Send the first PING and wait for its answer; accept the bulk extension if that is wanted and offered."""
        if self.subject.generation is None:
            self.write(self.session.greeting())
            number = 0
        else:
            number = self.send(Ping())
        pong = self.expect(Pong)
        if pong.request != number:
            raise Fault(f"PING {number} was answered with PONG {pong.request}")
        if self.bulk_frames:
            self.send(Register(bulk.SUBSYSTEM))

    def ping(self) -> float:
        """PING and its PONG; returns the seconds between them."""
        began = monotonic()
        number = self.send(Ping())
        while (pong := self.expect(Pong)).request != number:
            if pong.request > number:
                raise Fault(f"PING {number} was answered with PONG {pong.request}")
        return monotonic() - began

    def open(self) -> OpenReport:
        """Open the definition.

        Raises:
            Fault: it refuses.
        """
        number = self.send(OpenRequest(self.subject.definition))
        report = self.expect(OpenReport)
        self.match(number, report.request)
        if not report.success:
            raise Fault(f"it does not open {self.subject.definition}: {report.message or 'no reason given'}")
        if self.bulk_frames and report.dlt is not None:
            self.send(Register(bulk.SUBSYSTEM, 7, report.dlt))
        return report

    @staticmethod
    def match(asked: int, told: int) -> None:
        """A report must name its request."""
        if asked != told:
            raise Fault(f"the report of request {asked} names request {told}")

    # listening

    def read(self, timeout: float, size: int = 1 << 20) -> bool:
        """One read, if something comes; False at the end of its output.

        Raises:
            Fault: what came cannot be.
        """
        if self.source < 0 or not select.select([self.source], [], [], timeout)[0]:
            return True
        data = os.read(self.source, size)
        try:
            if not data:
                self.ended = True
                self.session.receive_eof()
                return False
            for item in self.session.receive(data):
                if isinstance(item, Run):
                    self.runs.append(item)
                    self.packets += item.packets
                else:
                    self.messages.append(item)
        except RemoteProtocolError as error:
            raise Fault(str(error)) from None
        return True

    def expect(self, kind: type[_T], size: int = 1 << 20) -> _T:
        """The next message of a kind; others stay.

        Args:
            kind: its class.
            size: bytes of a read at most.

        Raises:
            Fault: it does not come in time.
        """
        found: list[_T] = []

        def come() -> bool:
            found.extend(message for message in self.messages if isinstance(message, kind))
            return bool(found)

        if not self._read_until(come, size):
            raise Fault(f"no {kind.__name__} in {self.subject.answer_s:g} s")
        if not found:
            raise Fault(f"it ended without a {kind.__name__}{self._why()}")
        self.messages.remove(found[0])  # type: ignore[arg-type]
        return found[0]

    def until_packets(self, count: int) -> None:
        """Read until so many packets or records came.

        Raises:
            Fault: they do not come in time.
        """
        if not self._read_until(lambda: self.packets >= count):
            hint = (
                "" if self.packets else f"; is there something to capture in {self.subject.definition} now?"
            )
            raise Fault(f"{self.packets} packets in {self.subject.answer_s:g} s{hint}")
        if self.packets < count:
            raise Fault(f"it ended after {self.packets} packets{self._why()}")

    def _read_until(self, come: Callable[[], bool], size: int = 1 << 20) -> bool:
        """Read until something has come, or its output has ended; False: neither in time."""
        for left in self.patience().turns():
            if come() or self.ended:
                return True
            self.read(min(left, TURN_S), size)
        return come() or self.ended

    def look_at_packets(self) -> None:
        """Decode all that came, the slow way.

        Raises:
            Fault: a data report that nobody can read.
        """
        generation = self.session.generation
        assert generation is not None
        for run in self.runs:
            if run.kind.name != "BULK":
                try:
                    for _ in generation.records(run):
                        pass
                except RemoteProtocolError as error:
                    raise Fault(str(error)) from None

    def stall(self) -> int:
        """Read nothing until its pipe is full and has stopped growing, or for a while; returns its bytes."""
        held, silent = -1, _Patience(self.process.pid, STALL_S)
        for left in _Patience(self.process.pid, max(STALL_S, self.subject.answer_s)).turns():
            now = _unread(self.source)
            if now > held and now >= PIPE:
                silent = _Patience(self.process.pid, SILENT_S)
            held = now
            if not silent.left() and not PIPE // 4 <= held < PIPE:  # between the two it is on its way
                break
            self._doze(min(left, 0.02))
        return held

    @staticmethod
    def _doze(seconds: float) -> None:
        select.select([], [], [], seconds)

    def resident_kib(self) -> int:
        """Its resident memory."""
        try:
            lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        except OSError:
            return 0
        return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0)

    # the end

    def close_input(self) -> None:
        """The end of the file, for it."""
        os.close(self.to)
        self.to = -1

    def close_output(self) -> None:
        """Nobody reads what it writes any more."""
        os.close(self.source)
        self.source = -1

    def must_end(self, what: str, *, crash: bool = False, reading: bool = True) -> int:
        """Wait for its end; its output is read meanwhile, or not.

        Args:
            what: why it should, for the fault's text.
            crash: whether SIGTERM may be how it ends.
            reading: whether to read.

        Raises:
            Fault: it is still there, or a signal ended it.
        """
        for left in self.patience().turns():
            if reading and not self.ended and self.source >= 0 and self.session.phase is not Phase.ERROR:
                with contextlib.suppress(Fault):
                    self.read(min(left, 0.02))
            else:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(min(left, 0.1))
            if self.process.poll() is not None:
                break
        status = self.process.returncode
        if status is None:
            raise Fault(f"it is still there {self.subject.answer_s:g} s after {what}")
        if status < 0 and not (crash and status == -signal.SIGTERM):
            raise Fault(f"{signal.Signals(-status).name} ended it after {what}")
        return status

    def _why(self) -> str:
        """How it ended, if it did."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(0.5)
        status = self.process.poll()
        if status is None:
            return ""
        how = f"status {status}" if status >= 0 else signal.Signals(-status).name
        words = self.last_words()
        return f" ({how}{': ' + words if words else ''})"
