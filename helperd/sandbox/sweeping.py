"""What the sweeper does in its own process, by the rules of ``sweeper``. The launcher does not load this."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import signal
import socket
from typing import TYPE_CHECKING, NoReturn

from helperd.sandbox import kernel
from helperd.sandbox.become import SETUID
from helperd.sandbox.prctls import prctl
from helperd.sandbox.sweeper import ORDER

if TYPE_CHECKING:
    from collections.abc import Sequence

_NAME = "helperd-sweep"


def only(orders: int, name: str) -> socket.socket:
    """In a forked child that waits for orders: let go of all else, and end with the launcher; return their socket."""
    orders = os.dup2(fcntl.fcntl(orders, fcntl.F_DUPFD_CLOEXEC, 20), 3, inheritable=False)
    kernel.close_from(orders + 1)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in range(3):
        os.dup2(null, fd)
    prctl.set_name(name)
    prctl.set_pdeathsig(signal.SIGKILL)
    return socket.socket(fileno=orders)


def serve(orders: int, prey: Sequence[int], keeper: int) -> NoReturn:
    """In the forked child: become nobody, then sweep what the launcher names until it is gone."""
    try:
        waiting = only(orders, _NAME)
        prctl.set_keepcaps(1)
        os.setgroups([])
        os.setresgid(keeper, keeper, keeper)
        os.setresuid(keeper, keeper, keeper)
        kernel.capset(SETUID, 0)
        while kernel.capget() == (SETUID, SETUID, 0):
            prctl.set_pdeathsig(signal.SIGKILL)  # a change of ids has cleared it
            data = waiting.recv(ORDER.size)
            if not data:
                break
            uid, kill = ORDER.unpack(data)
            waiting.send(ORDER.pack(uid, uid in prey and _sweep(uid, keeper, kill)))
    finally:
        os._exit(0)


def _sweep(uid: int, keeper: int, kill: bool) -> bool:  # noqa: FBT001
    """Kill all of a uid, if that is the order; return whether nobody has it any more, what is dying included.

    Being alone is asked of the kernel, and takes no process: who becomes a uid of which there are more than its limit
    allows is not let execute anything (EAGAIN), until there are fewer. A directory is never executed (EACCES).
    """
    os.setresuid(keeper, uid, keeper)
    if os.getresuid() != (keeper, uid, keeper):
        return False
    if kill:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 1))  # with one other it is noted that there are too many,
    os.setresuid(uid, uid, keeper)
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))  # and looked at again: with us there may be one
    try:
        os.execve("/", ["/"], {})  # noqa: S606
    except OSError as error:
        alone = error.errno == errno.EACCES
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 1))
    os.setresuid(keeper, keeper, keeper)
    return alone
