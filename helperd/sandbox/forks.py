"""Children before they become anything: forked without letting them run, told later what to become.

Rules:
  1. A child that waits keeps none of our descriptors but its orders, its errors and the standard three, and ends with
     us: whoever holds the other end of its orders is this process alone.
  2. What it is to become comes whole, once, and from us: in memory that nobody else can reach.
  3. Nothing of it runs that nobody could end: its pidfd is there before it is told.
"""

from __future__ import annotations

import errno
import fcntl
import marshal
import os
import signal
import socket
from typing import NamedTuple, NoReturn

import prctl

from helperd.errors import Code
from helperd.sandbox import kernel
from helperd.sandbox.become import Child, become

ALL_SIGNALS = signal.valid_signals()
MAX_PLACES = 16
"""Descriptors that a child can be given."""
_WAITING = "helperd-next"


class Failure(NamedTuple):
    """A step of becoming a helper that did not work, and its errno."""

    step: str
    number: int

    def __str__(self) -> str:
        return f"{self.step}: {os.strerror(self.number)}"


def read_errors(fd: int) -> Failure | None:
    """Read and close an error pipe; None when exec closed it."""
    said = os.read(fd, 64).decode()
    os.close(fd)
    step, _, number = said.partition(" ")
    return Failure(step, int(number) if number.isdigit() else errno.EPERM) if said else None


class Blank(NamedTuple):
    """A forked child that waits for its orders.

    Attributes:
        pid: ours to reap.
        errors: descriptor that tells of its exec, or of the step that failed.
        pidfd: of it.
        orders: the socket it waits at; closed without a word, it ends.
    """

    pid: int
    errors: int
    pidfd: int
    orders: socket.socket

    def become(self, child: Child) -> tuple[int, int, int]:
        """Tell it what to become; return its pid, the descriptor that tells of its exec, its pidfd.

        Raises:
            OSError: it has gone, or no descriptor is left; it ends then, and its descriptors are closed.
        """
        try:
            places, ours = zip(*child.place.items(), strict=True)
            said = os.memfd_create("orders", os.MFD_CLOEXEC)
            try:
                with open(said, "wb", closefd=False) as file:
                    file.write(marshal.dumps((places, *child)))
                socket.send_fds(self.orders, [b"g"], [said, child.program, *ours], socket.MSG_NOSIGNAL)
            finally:
                os.close(said)
        except OSError:
            self.end()
            raise
        self.orders.close()
        return self.pid, self.errors, self.pidfd

    def end(self) -> None:
        """Close all that belongs to it; it ends by that."""
        self.orders.close()
        os.close(self.errors)
        os.close(self.pidfd)


def fork_blank() -> Blank:
    """Fork a child that becomes something else once it is told what.

    Raises:
        OSError: no process or descriptor is left; then there is no child.
    """
    opened: list[int] = []
    orders = None
    try:
        opened += (ends := os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK))
        orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        opened.append(theirs.detach())
        pid = quiet_fork()
        if pid == 0:
            _wait(opened[2], ends[1])
        blank = Blank(pid, ends[0], os.pidfd_open(pid), orders)
        opened.remove(ends[0])
    except OSError:
        if orders:
            orders.close()
        raise
    finally:
        for fd in opened:
            os.close(fd)
    return blank


def fork(child: Child) -> tuple[int, int, int]:
    """Fork a child and let it become something else at once; as ``fork_blank`` and ``Blank.become``."""
    return fork_blank().become(child)


def _wait(orders: int, errors: int) -> NoReturn:
    """In the forked child: wait for orders, and carry them out."""
    told = b""
    try:
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20) for fd in (orders, errors)]
        orders, errors = (os.dup2(fd, low, inheritable=False) for low, fd in enumerate(high, 3))
        kernel.close_from(errors + 1)
        prctl.set_name(_WAITING)
        prctl.set_pdeathsig(signal.SIGKILL)  # stopped, it would not see the end of its orders
        waiting = socket.socket(fileno=orders)
        told, fds, _, _ = socket.recv_fds(waiting, 1, MAX_PLACES)
        if told:
            with open(fds[0], "rb") as file:
                file.seek(0)
                places, *words = marshal.load(file)  # noqa: S302 - from ourselves, in memory that only we have had
            place = dict(zip(places, fds[2:], strict=True))
            become(Child(*words)._replace(place=place, program=fds[1], errors=errors))
    except BaseException as error:  # noqa: BLE001 - nothing may leave the child
        number = error.errno if isinstance(error, OSError) and error.errno else errno.EPERM
        os.write(errors, f"orders {number}".encode())
    finally:
        os._exit(Code.UNSAFE if told else 0)


def quiet_fork() -> int:
    """Fork; in the child all signals stay blocked.

    A signal that is meant for the child must not run a handler of ours there: its wake-up byte would reach us, and a
    helper's TERM would be taken for the launcher's own.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ALL_SIGNALS)
    pid = -1
    try:
        pid = os.fork()
    finally:
        if pid:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid
