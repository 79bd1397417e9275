"""What can be asked of the launcher, and how: 32 bytes each way, one message per packet, at most 4 descriptors.

| field    | request                                          | reply (op + 0x80), event                         |
|----------|--------------------------------------------------|--------------------------------------------------|
| 4s magic | HDL1                                             | HDL1                                             |
| B op     | 1 LAUNCH, 2 SIGNAL, 3 PING                       | 0x81, 0x82, 0x83; events EXITED 0x84, EMPTY 0x85 |
| B n      | descriptors attached                             | EXITED: how (``HOW``); LAUNCH: 1 = with a pidfd; |
|          |                                                  | PING: 1 = as root, + 2 = cgroup per helper       |
| H number | LAUNCH: profile, else 0                          | errno, 0 = fine                                  |
| I handle | SIGNAL: handle; LAUNCH: 1 = for a question       | handle; PING: number of profiles                 |
| I arg    | LAUNCH: fingerprint; SIGNAL: signal; PING: below | EXITED: code, signal, errno; PING: fingerprint   |
| Q cookie | the client's own, never 0                        | echoed; 0 = event                                |
| 8x       | zero                                             | zero                                             |

PING asks for 0: nothing more; 1: to read the configuration again; above: so, and to take it over if that is its
fingerprint.

``parse`` is all of the launcher that untrusted bytes touch.
"""

from __future__ import annotations

import errno
import signal
import struct
from typing import NamedTuple

WIRE = struct.Struct("!4sBBHIIQ8x")
MAGIC = b"HDL1"
LAUNCH, SIGNAL, PING = 1, 2, 3
EXITED, EMPTY = 0x84, 0x85
MAX_FDS = 4
BY_EXIT, BY_SIGNAL, NO_EXEC, UNVERIFIED, BY_CORE = range(5)
HOW = (
    "exited",
    "signal",
    "exec-failed",
    "unverified",
    "dumped",
)  # dumped: by a signal, and a core file was written
AS_ROOT, LEAVES = 1, 2
PASSED = frozenset(
    {signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGCONT, signal.SIGKILL}
)
MALFORMED = frozenset({errno.EMSGSIZE, errno.EPROTO, errno.EBADMSG, errno.EOPNOTSUPP})


class Request(NamedTuple):
    """One request; ``arg`` is LAUNCH: fingerprint, SIGNAL: signal, PING: as above.

    A helper that is launched for a question (``handle`` 1) is ended soon, and does not count among the running ones.
    ``fds`` is what it says of its descriptors; the child that receives them counts.
    """

    op: int
    profile: int
    handle: int
    arg: int
    cookie: int
    fds: int = 0


def event(handle: int, what: str, how: str, code: int) -> bytes:
    """Return what a client is told of a helper: "exited", or "empty"."""
    fields = (EXITED, HOW.index(how), 0, handle, code, 0) if what == "exited" else (EMPTY, 0, 0, handle, 0, 0)
    return WIRE.pack(MAGIC, *fields)


def parse(data: bytes, profiles: int, *, carries: bool) -> Request | int:
    """Read one packet.

    Args:
        data: the packet.
        profiles: how many there are.
        carries: whether descriptors come with it.

    Returns:
        The request, or the errno that refuses it.
    """
    if len(data) != WIRE.size:
        return errno.EMSGSIZE
    magic, op, fds, profile, handle, arg, cookie = WIRE.unpack(data)
    if magic != MAGIC or data[24:] != bytes(8) or cookie == 0:
        return errno.EPROTO
    if op not in {LAUNCH, SIGNAL, PING}:
        return errno.EOPNOTSUPP
    if bool(fds) != carries or not (2 <= fds <= MAX_FDS if op == LAUNCH else fds == 0):
        return errno.EBADMSG
    fields = {
        LAUNCH: 1 <= profile <= profiles and handle <= 1,
        SIGNAL: profile == 0 and handle != 0 and arg in PASSED,
        PING: profile == 0 and handle == 0,
    }
    return Request(op, profile, handle, arg, cookie, fds) if fields[op] else errno.EINVAL
