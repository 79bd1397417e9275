"""Programs that a helper starts: an argument vector from the root-owned profile, never a shell.

Rules:
  1. A program gets a process group of its own, so that what it starts ends with it.
  2. What it says on stderr goes to the helper's stderr, line by line; the last lines are kept for the reason.
  3. It gets standard input, output and error, and nothing else of ours: no descriptor, no signal setting, no
     variable that was meant for us.
  4. It does not outlive us, however we end: under helperd the launcher sees to that, elsewhere a shell that waits.
  5. What it says and how long its end takes is bounded; how long it may take to answer is for whoever asks to say.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import signal
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from helperd.errors import NO_PROGRAM, HelperdError
from helperd.helpers._clock import monotonic
from helperd.printing import say
from helperd.sandbox import TERM_GRACE
from helperd.wire.identity import uuid_of

if TYPE_CHECKING:
    from collections.abc import Sequence

LINGER_S: Final = 0.3
"""Seconds that a program has to end once it has closed its output, before it is asked to."""
GRACE_S: Final = float(os.environ.get(TERM_GRACE) or 0.3)
"""Seconds that a program has from SIGTERM to SIGKILL: ``term_grace`` of its block."""
MAX_ANSWER: Final = 1 << 20  # bytes of an answer to a question
KEPT_LINES: Final = 8
MAX_LINE: Final = 2000
REOPEN_S: Final = 0.1  # between two looks at a FIFO that a program opened, closed, and wrote nothing to
LATE_S: Final = 3.0  # that what a program left behind has, once it has ended, to come to the FIFO
_DEFAULTS: Final = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
_OURS: Final = "HELPERD_"


class Answer(NamedTuple):
    """What a program said and how it ended.

    Attributes:
        text: its stdout.
        errors: its stderr.
        status: exit status; negative: the signal that ended it.
    """

    text: str
    errors: str
    status: int


def identity(argv: Sequence[str], interface: str) -> str:
    """The UUID of what a program captures: the program, all it is told, and what the source calls it.

    What a program is told stands in its arguments, and under helperd in the environment that its profile gives it; a
    Kismet server's environment is whatever that was started with, and would not be the same after a restart.
    """
    told = [f"{key}={value}" for key, value in sorted(os.environ.items()) if not key.startswith(_OURS)]
    own = told if "HELPERD_SEAL" in os.environ else ()  # the launcher's mark
    return uuid_of(f"helperd_{os.path.basename(argv[0])}", interface, *argv, *own)


def spawn(argv: Sequence[str], standard: tuple[int, int, int]) -> int:
    """Start a program in a process group of its own, with the default action of every signal.

    Args:
        argv: the program's absolute path and its arguments.
        standard: our descriptors that become its standard input, output and error; it gets no other.

    Returns:
        Its process id.

    Raises:
        HelperdError: "not-installed", "exec-failed"; it cannot be executed.
    """
    actions = [(os.POSIX_SPAWN_DUP2, ours, theirs) for theirs, ours in enumerate(standard)]
    shut = [(os.POSIX_SPAWN_CLOSE, fd) for fd in _inherited()]
    try:
        return os.posix_spawn(
            argv[0],
            list(argv),
            {name: value for name, value in os.environ.items() if not name.startswith(_OURS)},
            file_actions=[*actions, *shut],
            setpgroup=0,
            setsigmask=(),
            setsigdef=_DEFAULTS,
        )
    except (OSError, ValueError) as error:
        raise _not_started(argv[0], error) from None


def _inherited() -> list[int]:
    """The descriptors above the standard three that a program of ours would inherit: whoever started us gave us them.

    What Python opens is closed by ``exec`` in any case.
    """
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own descriptor
            if int(name) > 2 and os.get_inheritable(int(name)):
                found.append(int(name))
    return found


def _not_started(program: str, error: OSError | ValueError) -> HelperdError:
    """Why a program could not be executed."""
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.ENOENT and os.path.exists(program):
        text = f"{program} cannot be executed: the interpreter that its first line names does not exist"
        return HelperdError("not-installed", text + _first_line(program))
    if os.path.isdir(program):
        return HelperdError("exec-failed", f"{program} is a directory; name the program itself")
    if number in {errno.ENOENT, errno.ENOTDIR}:
        return HelperdError("not-installed", f"{program} does not exist; install it or correct the profile")
    if number in {errno.EACCES, errno.EPERM}:
        text = f"{program} may not be executed by this user; look at its mode (chmod +x) and that of its directories"
        return HelperdError("not-permitted", text)
    if number == errno.EAGAIN:
        text = f"{program} was not started, it would be one process too many: raise limits.nproc of its block"
        return HelperdError("no-resources", f"{text}, or TasksMax= of the launcher's unit")
    why = NO_PROGRAM if number == errno.ENOEXEC else str(error)
    return HelperdError("exec-failed", f"{program} cannot be executed: {why}")


def _first_line(program: str) -> str:
    """What is wrong with the first line of a script whose interpreter does not exist, as far as it can be read."""
    try:
        with open(program, "rb") as file:
            line = file.readline(256)
    except OSError:
        return ""
    if line.endswith(b"\r\n"):
        return "; its lines end with a carriage return, as Windows writes them: sed -i 's/\\r$//' " + program
    return f": {os.fsdecode(line[2:]).strip()}"


def ask(
    argv: Sequence[str], timeout: float | None = None, *, stdin: int | None = None, wake: int = -1
) -> Answer:
    """Run a program that answers and ends.

    Args:
        argv: the program's absolute path and its arguments.
        timeout: seconds it may take; None: as long as it likes.
        stdin: descriptor it reads from; None: nothing.
        wake: a descriptor that ends the question once it is readable; -1: none.

    Raises:
        HelperdError: as ``spawn``; "timed-out"; "exited" when it says more than ``MAX_ANSWER`` bytes, or when the
            question was ended.
    """
    out, child_out = os.pipe2(os.O_CLOEXEC)
    err, child_err = os.pipe2(os.O_CLOEXEC)
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            pid = spawn(argv, (null if stdin is None else stdin, child_out, child_err))
        finally:
            for fd in (child_out, child_err, null):
                os.close(fd)
        pidfd = os.pidfd_open(pid)
        said = {out: bytearray(), err: bytearray()}
        until = math.inf if timeout is None else monotonic() + timeout
        try:
            if not _listen(said, argv[0], until, pidfd, wake):
                raise HelperdError("timed-out", f"{argv[0]} did not answer within {timeout:g} s")
        except BaseException:
            _reap(pid, pidfd, 0.0)
            raise
    finally:
        os.close(out)
        os.close(err)
    return Answer(
        said[out].decode("utf-8", "replace"),
        said[err].decode("utf-8", "replace"),
        _reap(pid, pidfd, monotonic() + LINGER_S),
    )


def _listen(said: dict[int, bytearray], program: str, until: float, pidfd: int, wake: int) -> bool:
    """Read both outputs to their ends, not waiting for what it leaves behind; False: it took too long."""
    poll = select.poll()
    for fd in (*said, pidfd):
        poll.register(fd, select.POLLIN)
    if wake >= 0:
        poll.register(wake, select.POLLIN)
    left = len(said)
    ended = False
    while left:
        rest = until - monotonic()
        if rest <= 0:
            return ended
        for fd, _ in poll.poll(None if rest == math.inf else rest * 1000):
            if fd == wake:
                raise HelperdError("exited", f"{program} was ended before it had answered")
            if fd == pidfd:
                poll.unregister(fd)
                ended, until = True, monotonic() + LINGER_S
                continue
            data = os.read(fd, 65536)
            said[fd] += data
            if not data:
                poll.unregister(fd)
                left -= 1
            elif len(said[fd]) > MAX_ANSWER:
                raise HelperdError("exited", f"{program} answers with more than {MAX_ANSWER} bytes")
    return True


def _kill(pid: int, number: signal.Signals) -> None:
    """Signal a program and what it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _members(group: int) -> bool:
    """Whether a process group has a live member beside its leader; False where /proc does not tell."""
    with contextlib.suppress(OSError):
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) != group:
                with contextlib.suppress(OSError, ValueError), open(f"/proc/{entry}/stat", "rb") as file:
                    state, _, its_group = file.read().rpartition(b")")[2].split()[:3]  # proc_pid_stat(5)
                    if int(its_group) == group and state not in b"ZX":
                        return True
    return False


def readable(fd: int, seconds: float) -> bool:
    """Whether a descriptor is readable, or becomes so in time; that of a process, when it has ended."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(max(0.0, seconds) * 1000))


def _reap(pid: int, pidfd: int, until: float) -> int:
    """Wait for the end, then insist; closes ``pidfd``."""
    try:
        readable(pidfd, until - monotonic())
        _kill(pid, signal.SIGKILL)  # it, or what it left behind; the number is not free before the next line
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(pidfd)
    return os.waitstatus_to_exitcode(status)


def _guard(pid: int) -> tuple[int, int]:
    """Let a program's process group be killed when we are: Kismet's servers send SIGKILL right behind SIGTERM.

    Returns:
        The process that waits for our end, and the descriptor whose end it waits for; -1 twice where there is none.
    """
    if "HELPERD_SEAL" in os.environ:  # the launcher's mark
        return -1, -1
    theirs, ours = os.pipe2(os.O_CLOEXEC)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        script = 'read -r _; kill -s KILL -- "-$0"'
        return spawn(["/bin/sh", "-c", script, str(pid)], (theirs, null, null)), ours
    except HelperdError:
        os.close(ours)
        return -1, -1
    finally:
        os.close(theirs)
        os.close(null)


def _unguard(guard: tuple[int, int]) -> None:
    """End the watch, before the number of the group is free."""
    pid, fd = guard
    if pid > 0:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(fd)


class Program:
    """A program that runs as long as the capture does.

    Args:
        argv: the program's absolute path and its arguments.
        fifo: a FIFO that it writes what it captures to; empty: that comes on its stdout.
        stdin: what it reads; -1: nothing.
        stop_fd: readable when the helper shall end, and the program with it; -1: nothing says so.

    Attributes:
        name: the program's name.
        pid: its process id.
        fd: what it writes, readable here.

    Raises:
        HelperdError: as ``spawn``.
    """

    def __init__(self, argv: Sequence[str], *, fifo: str = "", stdin: int = -1, stop_fd: int = -1) -> None:
        self.name = os.path.basename(argv[0])
        self._stop_fd = stop_fd
        opened: list[int] = []
        try:
            errors, child_err = os.pipe2(os.O_CLOEXEC)
            opened += [errors, child_err]
            if fifo:  # open before the program is, so that it need not wait for a reader
                self.fd, child_out = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), child_err
                opened += [self.fd]
            else:
                self.fd, child_out = os.pipe2(os.O_CLOEXEC)
                opened += [self.fd, child_out]
            null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            opened += [null]
            self.pid = spawn(argv, (null if stdin < 0 else stdin, child_out, child_err))
            self._pidfd = os.pidfd_open(self.pid)
            self._guard = _guard(self.pid)
        except BaseException:
            for fd in opened:
                os.close(fd)
            raise
        for fd in {child_out, child_err, null}:
            os.close(fd)
        self._fifo = bool(fifo)
        self._awaited = self._fifo
        self._wrote = False
        self._ended_at: float | None = None
        self._status: int | None = None
        self._told_at: float | None = None
        self._lock = threading.Lock()
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._listener = threading.Thread(target=self._listen, args=(errors,), name="stderr", daemon=True)
        self._listener.start()

    def _listen(self, fd: int) -> None:
        """Pass stderr on and keep its end."""
        with open(fd, encoding="utf-8", errors="replace") as file:
            while line := file.readline(MAX_LINE):
                if text := line.rstrip():
                    self._lines.append(text)
                    say(f"{self.name}: {text}", file=sys.stderr, flush=True)

    def read(self, size: int, timeout: float | None = None, *, until_stop: bool = False) -> bytes | None:
        """Read what it writes; empty at the end; None when nothing came in time, or perhaps a little earlier.

        Args:
            size: bytes at most.
            timeout: seconds; None: for ever.
            until_stop: whether the wait also ends when the helper shall.
        """
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        if self._awaited:
            poll.register(self._pidfd, select.POLLIN)
        if until_stop and self._stop_fd >= 0:
            poll.register(self._stop_fd, select.POLLIN)
        ready = dict(poll.poll(None if timeout is None else timeout * 1000))
        if not ready.keys() - {self._stop_fd}:
            return None
        if not self._fifo:
            return os.read(self.fd, size)
        gone = readable(self._pidfd, 0.0)
        try:
            data = os.read(self.fd, size)
        except (
            BlockingIOError
        ):  # it has ended, and what it left behind holds the FIFO: then that ends the capture
            self._awaited = False
            return None
        if data:
            self._wrote = True
        elif not self._wrote:
            if not gone:  # it opened the FIFO, or a child of its did, to look whether it can
                readable(self._pidfd, REOPEN_S)
                return None
            if self._left_behind():  # and that may be what captures, not come to the FIFO yet
                readable(self.fd, REOPEN_S)
                return None
        return data

    def _left_behind(self) -> bool:
        """Whether the ended program's process group has members that may open the FIFO yet; for a while only."""
        if self._ended_at is None:
            self._ended_at = monotonic()
        return monotonic() - self._ended_at < LATE_S and _members(self.pid)

    def stop(self) -> None:
        """Ask it to end; ``close`` insists."""
        if self._lock.acquire(timeout=0.05):  # else it is being ended already
            try:
                if self._status is None:
                    self._tell()
            finally:
                self._lock.release()

    def _tell(self) -> None:
        """Ask it to end, unless it was asked before; with the lock."""
        if self._told_at is None:
            _kill(self.pid, signal.SIGTERM)
            self._told_at = monotonic()

    def close(self) -> int:
        """Make sure that it has ended.

        Returns:
            Its exit status; negative: the signal that ended it.
        """
        with self._lock:
            if self._status is None:
                if self._stop_fd >= 0 and readable(self._stop_fd, 0.0):
                    self._tell()  # first: one that still writes would take the closed pipe for its end
                os.close(self.fd)
                if self._told_at is None and not readable(self._pidfd, LINGER_S):
                    self._tell()
                until = (self._told_at or monotonic()) + GRACE_S
                readable(self._pidfd, until - monotonic())
                _unguard(self._guard)
                self._status = _reap(self.pid, self._pidfd, until)
        self._listener.join(LINGER_S)
        return self._status

    def reason(self) -> str:
        """How it ended and the last it said, for the user; after ``close``."""
        status = self._status
        if status is None:
            how = "still runs"
        elif status >= 0:
            how = f"ended with status {status}"
        else:
            how = f"was ended by {signal.Signals(-status).name}"
        said = "; ".join(self._lines)
        return f"{self.name} {how}" + (f": {said}" if said else "")
