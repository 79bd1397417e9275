"""Programs that a helper starts: an argument vector from the root-owned profile, never a shell.

Rules:
  1. A program gets a process group of its own, so that what it starts ends with it.
  2. What it says on stderr goes to the helper's stderr, line by line; the last lines are kept for the reason.
  3. Nothing waits for ever: questions have a time limit and a size limit, the end has a grace.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from helperd.errors import HelperdError
from helperd.helpers._clock import monotonic
from helperd.wire.identity import uuid_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

GRACE_S: Final = 0.3
MAX_ANSWER: Final = 1 << 20  # bytes of an answer to a question
KEPT_LINES: Final = 8
MAX_LINE: Final = 2000
_DEFAULTS: Final = (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM)


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
    told = [f"{key}={value}" for key, value in sorted(os.environ.items()) if not key.startswith("HELPERD_")]
    own = told if "HELPERD_SEAL" in os.environ else ()  # the launcher's mark
    return uuid_of(f"helperd_{os.path.basename(argv[0])}", interface, *argv, *own)


def spawn(argv: Sequence[str], fds: Mapping[int, int]) -> int:
    """Start a program in a process group of its own.

    Args:
        argv: the program's absolute path and its arguments.
        fds: descriptors of the child by those of ours; everything else is closed or inherited by ``exec``'s rules.

    Returns:
        Its process id.

    Raises:
        HelperdError: "not-installed", "exec-failed"; it cannot be executed.
    """
    actions = [(os.POSIX_SPAWN_DUP2, ours, theirs) for theirs, ours in fds.items()]
    try:
        return os.posix_spawn(
            argv[0],
            list(argv),
            os.environ,
            file_actions=actions,
            setpgroup=0,
            setsigmask=(),
            setsigdef=_DEFAULTS,
        )
    except FileNotFoundError:
        raise HelperdError(
            "not-installed", f"{argv[0]} does not exist; install it or correct the profile"
        ) from None
    except (OSError, ValueError) as error:
        raise HelperdError("exec-failed", f"{argv[0]} cannot be executed: {error}") from None


def ask(argv: Sequence[str], timeout: float, *, stdin: int | None = None) -> Answer:
    """Run a program that answers and ends.

    Args:
        argv: the program's absolute path and its arguments.
        timeout: seconds it may take.
        stdin: descriptor it reads from; None: nothing.

    Raises:
        HelperdError: as ``spawn``; "timed-out"; "exited" when it says more than ``MAX_ANSWER`` bytes.
    """
    out, child_out = os.pipe2(os.O_CLOEXEC)
    err, child_err = os.pipe2(os.O_CLOEXEC)
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            pid = spawn(argv, {0: null if stdin is None else stdin, 1: child_out, 2: child_err})
        finally:
            for fd in (child_out, child_err, null):
                os.close(fd)
        try:
            said = _listen({out: bytearray(), err: bytearray()}, argv[0], timeout)
        except BaseException:
            _reap(pid, 0.0)
            raise
    finally:
        os.close(out)
        os.close(err)
    return Answer(
        said[out].decode("utf-8", "replace"),
        said[err].decode("utf-8", "replace"),
        _reap(pid, monotonic() + GRACE_S),
    )


def _listen(said: dict[int, bytearray], program: str, timeout: float) -> dict[int, bytearray]:
    """Read both outputs to their ends."""
    until = monotonic() + timeout
    poll = select.poll()
    for fd in said:
        poll.register(fd, select.POLLIN)
    left = len(said)
    while left:
        rest = until - monotonic()
        if rest <= 0:
            raise HelperdError("timed-out", f"{program} did not answer within {timeout:g} s")
        for fd, _ in poll.poll(rest * 1000):
            data = os.read(fd, 65536)
            said[fd] += data
            if not data:
                poll.unregister(fd)
                left -= 1
            elif len(said[fd]) > MAX_ANSWER:
                raise HelperdError("exited", f"{program} answers with more than {MAX_ANSWER} bytes")
    return said


def _kill(pid: int, number: signal.Signals) -> None:
    """Signal a program and what it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _reap(pid: int, until: float) -> int:
    """Wait for the end, then insist."""
    fd = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.poll(max(0.0, until - monotonic()) * 1000)
        _kill(pid, signal.SIGKILL)  # it, or what it left behind; the number is not free before the next line
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(fd)
    return os.waitstatus_to_exitcode(status)


class Program:
    """A program that runs as long as the capture does.

    Args:
        argv: the program's absolute path and its arguments.
        fifo: number of a descriptor through which it can write to us as ``/dev/fd/N``; 0: on its stdout.
        more: further descriptors of the child by ours.
        stdin: what it reads; -1: nothing.

    Attributes:
        name: the program's name.
        pid: its process id.
        fd: what it writes, readable here.

    Raises:
        HelperdError: as ``spawn``.
    """

    def __init__(
        self, argv: Sequence[str], *, fifo: int = 0, more: Mapping[int, int] | None = None, stdin: int = -1
    ) -> None:
        self.name = os.path.basename(argv[0])
        self.fd, child_out = os.pipe2(os.O_CLOEXEC)
        errors, child_err = os.pipe2(os.O_CLOEXEC)
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        fds = {
            0: null if stdin < 0 else stdin,
            1: child_err if fifo else child_out,
            2: child_err,
            **(more or {}),
        }
        if fifo:
            fds[fifo] = child_out
        try:
            self.pid = spawn(argv, fds)
        except BaseException:
            os.close(self.fd)
            os.close(errors)
            raise
        finally:
            for fd in (child_out, child_err, null):
                os.close(fd)
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
                    print(f"{self.name}: {text}", file=sys.stderr, flush=True)

    def read(self, size: int, timeout: float | None = None) -> bytes | None:
        """Read what it writes; empty at the end; None when nothing came in time."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        if not poll.poll(None if timeout is None else timeout * 1000):
            return None
        return os.read(self.fd, size)

    def stop(self) -> None:
        """Ask it to end; ``close`` insists."""
        if self._lock.acquire(timeout=0.05):  # else it is being ended already
            try:
                if self._status is None:
                    _kill(self.pid, signal.SIGTERM)
                    self._told_at = monotonic()
            finally:
                self._lock.release()

    def close(self) -> int:
        """Make sure that it has ended.

        Returns:
            Its exit status; negative: the signal that ended it.
        """
        with self._lock:
            if self._status is None:
                os.close(self.fd)
                if self._told_at is None and not self._gone(monotonic() + GRACE_S):
                    _kill(self.pid, signal.SIGTERM)
                self._status = _reap(self.pid, (self._told_at or monotonic()) + GRACE_S)
        self._listener.join(GRACE_S)
        return self._status

    def _gone(self, until: float) -> bool:
        """Whether it ends by itself in time."""
        fd = os.pidfd_open(self.pid)
        try:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            return bool(poll.poll(max(0.0, until - monotonic()) * 1000))
        finally:
            os.close(fd)

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
