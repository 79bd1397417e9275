"""Children before they become anything: forked without letting them run, told later what to become.

Rules:
  1. A child that waits keeps none of our descriptors but its orders, its errors and the standard three, and ends
     with us.
  2. What it is to become comes whole, once, and from us: in memory that nobody else can reach.
  3. Nothing of it runs that nobody could end: its pidfd is there before it is told.
  4. What somebody has sent to it while it waited must not meet what it becomes: then it is not used.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import marshal
import os
import select
import signal
import socket
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from helperd.errors import Code
from helperd.sandbox import kernel, processes
from helperd.sandbox.become import Child, become
from helperd.sandbox.prctls import prctl

if TYPE_CHECKING:
    from collections.abc import Callable

ALL_SIGNALS = signal.valid_signals()
MAX_PLACES = 16
"""Descriptors that a child can be given."""
MFD_NOEXEC_SEAL = 8
"""From linux/memfd.h; where vm.memfd_noexec is 2, others are refused. Linux before 6.3 refuses this one."""
LATER_MS = 50
_WAITING = "helperd-next"


class Failure(NamedTuple):
    """A step of becoming a helper that did not work, and its errno."""

    step: str
    number: int

    def __str__(self) -> str:
        return f"{self.step}: {os.strerror(self.number)}"


def read_errors(fd: int) -> Failure | None:
    """Read and close an error pipe; None when it says nothing: exec has closed it, or its process was killed."""
    said = ""
    with contextlib.suppress(BlockingIOError):
        said = os.read(fd, 64).decode()
    os.close(fd)
    return failure(said) if said else None


def failure(line: str) -> Failure:
    """Return what a child has said about its end."""
    step, _, number = line.rpartition(" ")
    return Failure(step, int(number) if number.isdigit() else errno.EPERM)


def status_of(code: int, say: Callable[[str], None]) -> int:
    """The exit status that stands for a supervisor's end, as waitpid tells it; who a signal has ended cannot say so."""
    if code < 0:
        say(
            f"the supervisor was ended by signal {-code} ({signal.strsignal(-code)}), and every helper ends with it"
        )
    return code if code >= 0 else 128 - code


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

    @property
    def untouched(self) -> bool:
        """Whether it lives, is not stopped, and no signal waits for it; all are blocked until it becomes something."""
        try:
            lines = processes.status(self.pid)
        except OSError:
            return False
        return lines["State"][0] in "SRD" and not int(lines["SigPnd"] + lines["ShdPnd"], 16)

    def become(self, child: Child) -> tuple[int, int, int]:
        """Tell it what to become; return its pid, the descriptor that tells of its exec, its pidfd.

        Raises:
            OSError: why it cannot; it has ended then, and its descriptors are closed.
        """
        try:
            places, ours = zip(*child.place.items(), strict=True)
            said = _memory(marshal.dumps((places, *child)))
            try:
                socket.send_fds(self.orders, [b"g"], [said, child.program, *ours], socket.MSG_NOSIGNAL)
            finally:
                os.close(said)
        except BrokenPipeError:
            # It has ended by itself and says why, or was killed, as the kernel does for memory.
            failed = read_errors(os.dup(self.errors)) or Failure("orders", errno.ENOMEM)
            self.end()
            raise OSError(failed.number, str(failed)) from None
        except BaseException:
            self.end()
            raise
        self.orders.close()
        return self.pid, self.errors, self.pidfd

    def rehearse(self, child: Child) -> None:
        """Do what comes before it is told, and close the child's program: what it costs is paid before anybody asks.

        A fork leaves all pages shared, and who writes to one first waits for its copy; a launch writes to 190.
        """
        try:
            if self.untouched:
                os.close(_memory(marshal.dumps(((), *child))))
        finally:
            os.close(child.program)

    def end(self) -> None:
        """Kill it and close all that belongs to it; it is still to be reaped."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        self.orders.close()
        os.close(self.errors)
        os.close(self.pidfd)


def _memory(data: bytes) -> int:
    """A descriptor of memory that holds some bytes and cannot be executed, where the kernel knows the difference."""
    try:
        fd = os.memfd_create("orders", os.MFD_CLOEXEC | MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        fd = os.memfd_create("orders", os.MFD_CLOEXEC)
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:
        os.close(fd)
        raise
    return fd


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


def fork_taker(socks: list[int], *, all_of_it: bool) -> int:
    """Fork a child that takes the next request of a connection, or all that is left in some that are shut, and ends.

    What ends with them may take its time, which is the child's; a second, for what a signal ends. What has been forked
    just now still has the connection too, and must not be the last: so it lets go of all of them a little later.
    """
    pid = quiet_fork()
    if pid == 0:
        try:
            kept = sorted(socks)
            for below, fd in zip([2, *kept], kept, strict=False):
                os.closerange(below + 1, fd)
            kernel.close_from(kept[-1] + 1)
            if all_of_it:
                select.poll().poll(LATER_MS)
            else:
                signal.pthread_sigmask(signal.SIG_SETMASK, [])
                signal.alarm(1)
                socket.socket(fileno=kept[0]).recv(1)
        finally:
            os._exit(0)
    return pid


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
