"""The lock of a pool of uids, and the beats of the launcher that has it.

A launcher that hangs in the kernel keeps its lock, whoever kills it. So the lock says who has it, and when that one was
last seen to work: a successor takes it from one that never runs again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import socket
import stat
from time import monotonic  # noqa: TID251 - the launcher's shell; beats are real time
from typing import TYPE_CHECKING

from helperd.errors import CannotDrop, UnavailableError
from helperd.sandbox import processes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

STATE = "/run/helperd-launcher"  # root's alone: the lock, and the socket when nobody else makes it
BEAT_S = 15.0  # without a service manager that wants another
KILLED_S = 2.0  # so long a process that is killed may take to be gone


class Beat:
    """Signs of life: for the service manager, and in the lock, for who wants the pool after us.

    Attributes:
        at: when the next is due; 0: nobody is to be told.
        old: pid of the launcher whose lock was taken; 0: nobody's.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", str(os.getpid()))
        watched = usec.isdigit() and int(usec) > 0 and pid == str(os.getpid())
        self.every = int(usec) / 2e6 if watched else BEAT_S
        self.at, self.lock, self.old = monotonic() * watched, -1, 0
        self.kept: tuple[socket.socket, Callable[[], socket.socket]] | None = None  # and to make it again
        path = environ.get("NOTIFY_SOCKET", "") if watched else ""
        self.address = "\0" + path[1:] if path.startswith("@") else path

    def give(self) -> None:
        """Beat, if it is time to."""
        if not self.at or monotonic() < self.at:
            return
        self.at = monotonic() + self.every
        if self.lock >= 0:
            os.pwrite(self.lock, f"{self._words}{monotonic():015.3f}\n".encode(), 0)
        if self.kept and not os.path.lexists(self.kept[0].getsockname()):  # a cleaner was there
            with contextlib.suppress(OSError, UnavailableError):
                os.makedirs(os.path.dirname(self.kept[0].getsockname()), 0o755, exist_ok=True)
                with self.kept[1]() as new:
                    os.dup2(new.fileno(), self.kept[0].fileno(), inheritable=False)
        if self.address:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)  # noqa: FBT003
                sock.sendto(b"WATCHDOG=1", self.address)

    def take(self, pool: range) -> int:
        """Make sure that this is the only launcher of a pool of uids; return the pid of one that was replaced, or 0.

        Raises:
            UnavailableError: there is another one.
        """
        os.makedirs(STATE, 0o755, exist_ok=True)
        status = os.lstat(STATE)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != 0 or status.st_mode & 0o022:
            raise CannotDrop("unsafe-file", f"{STATE} must be root's alone")
        turn = os.open(STATE, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # one at a time
        path, flags = f"{STATE}/pool-{pool[0]}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            _lock(turn)
            self.lock = os.open(path, flags, 0o600)
            try:
                _lock(self.lock)
            except BlockingIOError:
                self.old = _doomed(self.lock)
                os.close(self.lock)
                if not self.old:
                    raise
                os.unlink(path)
                self.lock = os.open(path, flags, 0o600)
                _lock(self.lock)
        except BlockingIOError:
            text = f"another launcher uses the uids from {pool[0]}: stop helperd-launcher.service, or use it"
            raise UnavailableError("busy", text) from None
        finally:
            os.close(turn)
        row = processes.row(os.getpid())
        self._words = f"{os.getpid()} {row.started if row else 0} {self.every:.3f} "
        os.ftruncate(self.lock, 0)
        self.at = monotonic()
        self.give()
        return self.old


def _lock(fd: int) -> None:
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _doomed(lock: int) -> int:
    """Return the pid of a lock's holder if that never runs again; one that has missed two beats is killed before."""
    try:
        pid, started, every, last = os.pread(lock, 100, 0).split()
        pidfd = os.pidfd_open(int(pid))
    except (OSError, ValueError):  # of another pid namespace, or its child has the lock: nothing can be told
        return 0
    try:
        row = processes.row(int(pid))
        if row is None or row.started != int(started):
            return 0
        if monotonic() - float(last) > 2 * float(every):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            dying = select.poll()
            dying.register(pidfd, select.POLLIN)
            if dying.poll(KILLED_S * 1000):
                return int(pid)
        return int(pid) if processes.never_runs(int(pid)) else 0
    except OSError as error:
        return int(pid) if error.errno == errno.ESRCH else 0
    finally:
        os.close(pidfd)
