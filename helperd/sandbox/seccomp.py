"""Seccomp programs: the coarse one for every helper before exec, the tight one once a device is open.

A program is a row of 8-byte instructions (code, jump if true, jump if false, constant). Every test is two of
them, "is it this? then return", so no jump is ever longer than a few steps. The machine is checked first,
then x32 is refused.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import socket
import struct
from typing import TYPE_CHECKING

from helperd.sandbox import kernel
from helperd.sandbox.numbers import AUDIT_ARCH, DENIED_NUMBERS, MACHINE, NUMBERS

if TYPE_CHECKING:
    from collections.abc import Iterable

LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NR, ARCH, ARG = 0, 4, 16  # offsets in struct seccomp_data; an argument is 8 bytes, its low half first
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
NAMESPACES = 0x7E020080  # CLONE_NEWTIME, NS, CGROUP, UTS, IPC, USER, PID, NET
CLONE_PARENT = 0x8000  # its child would be the launcher's, which has to reap it
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
PDEATHSIG, SIGKILL = 1, 9  # of prctl: what kills a helper when the launcher dies stays as it is
X32 = 0x40000000
SET_ID = 0o6000  # set-user-ID and set-group-ID: what is executed would be the helper, also after its end
CREATES = os.O_CREAT | os.O_TMPFILE & ~os.O_DIRECTORY  # without them an open has no mode
MODES = {"chmod": 1, "fchmod": 1, "creat": 1, "mkdir": 1, "mknod": 1}  # call: where its mode is
MODES |= {"fchmodat": 2, "mkdirat": 2, "mknodat": 2}
OPENS = {"open": 1, "openat": 2, "mq_open": 1}  # where their flags are; the mode is next
ABSENT = ("clone3", "openat2", "fchmodat2")  # libc does without: flags or mode in memory, or a newer form
Row = tuple[int, int, int, int]

PLAIN_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
RAW = 1 << 12 | 1 << 13  # net_admin, net_raw
RAW_FAMILIES = (socket.AF_PACKET, 31, 38)  # with net_raw or net_admin: also Bluetooth, kernel crypto (wpa)


def refuse(number: int) -> int:
    """Return the verdict that makes a call fail with an errno."""
    return ERRNO | number


def when(value: int, verdict: int, test: int = EQUAL) -> list[Row]:
    """Return: if what was loaded is ``value``, this is the verdict."""
    return [(test, 0, 1, value), (RETURN, 0, 0, verdict)]


def when_argument(call: str, position: int, tests: list[Row], otherwise: int) -> list[Row]:
    """Return: for a call, if there is such a one, load an argument's low half, test it, and end with ``otherwise``."""
    if call not in NUMBERS:
        return []
    body = [(LOAD, 0, 0, ARG + 8 * position), *tests, (RETURN, 0, 0, otherwise)]
    return [(EQUAL, 0, len(body), NUMBERS[call]), *body]


def program(rows: list[Row], verdict: int) -> bytes:
    """Return what the kernel takes: these rows for this machine's own calls, and the verdict on all else."""
    head: list[Row] = [
        (LOAD, 0, 0, ARCH),
        (EQUAL, 1, 0, AUDIT_ARCH[MACHINE]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NR),
    ]
    if MACHINE == "x86_64":
        head += when(X32, KILL, AT_LEAST)
    return b"".join(struct.pack("=HBBI", *row) for row in [*head, *rows, (RETURN, 0, 0, verdict)])


def coarse(families: Iterable[int]) -> bytes:
    """Return the filter of tiers 1 and 1b.

    Args:
        families: address families that ``socket`` may name; any other is EAFNOSUPPORT.

    Returns:
        The program; empty on a machine whose numbers we do not know.
    """
    if not NUMBERS:
        return b""
    rows = [row for number in DENIED_NUMBERS for row in when(number, refuse(errno.EPERM))]
    rows += [row for call in ABSENT for row in when(NUMBERS[call], refuse(errno.ENOSYS))]
    set_id = when(SET_ID, refuse(errno.EPERM), ANY_BIT)
    for call, position in MODES.items():
        rows += when_argument(call, position, set_id, ALLOW)
    for call, position in OPENS.items():
        mode: list[Row] = [(LOAD, 0, 0, ARG + 8 * (position + 1)), *set_id]
        rows += when_argument(call, position, [(ANY_BIT, 0, len(mode), CREATES), *mode], ALLOW)
    other = [(LOAD, 0, 0, ARG + 8), (EQUAL, 1, 0, SIGKILL), (RETURN, 0, 0, refuse(errno.EPERM))]
    rows += when_argument("prctl", 0, [(EQUAL, 0, len(other), PDEATHSIG), *other], ALLOW)
    rows += when_argument("clone", 0, when(NAMESPACES | CLONE_PARENT, refuse(errno.EPERM), ANY_BIT), ALLOW)
    stuffing = [*when(TIOCSTI, refuse(errno.EPERM)), *when(TIOCLINUX, refuse(errno.EPERM))]
    rows += when_argument("ioctl", 1, stuffing, ALLOW)
    known = [row for family in sorted(set(families)) for row in when(family, ALLOW)]
    rows += when_argument("socket", 0, known, refuse(errno.EAFNOSUPPORT))
    return program(rows, ALLOW)


@functools.cache
def _coarse(*, raw: bool) -> bytes:
    return coarse(PLAIN_FAMILIES + (RAW_FAMILIES if raw else ()))


def for_profile(seal: int, want: int, *, no_new_privs: bool) -> bytes:
    """Return the coarse filter of a profile; it needs no_new_privs, and raw sockets go with their capabilities."""
    return _coarse(raw=bool(want & RAW)) if seal and no_new_privs else b""


def load(rows: bytes) -> None:
    """Load a filter into every thread of this process.

    Raises:
        OSError: EACCES without no_new_privs; ENOSYS or EINVAL where the kernel has no filters.
    """
    held = ctypes.create_string_buffer(rows, len(rows))
    head = struct.pack("=HxxxxxxQ", len(rows) // 8, ctypes.addressof(held))
    kernel.syscall("seccomp", 1, 1, head)  # SECCOMP_SET_MODE_FILTER, TSYNC
