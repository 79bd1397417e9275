"""System calls that Python does not offer, each one checked: what the kernel refuses raises OSError."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from helperd.sandbox.numbers import MACHINE, NUMBERS

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
_CAP_VERSION = 0x20080522
KEEP_CAPS = 0x10
SECUREBITS = 0xEF  # all of securebits(7) but KEEP_CAPS, each with its lock


def syscall(name: str, *args: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """Call the kernel by name.

    Raises:
        OSError: its errno; ENOSYS also when the machine's table lacks the name.
    """
    if name not in NUMBERS:
        raise OSError(errno.ENOSYS, f"{name} is unknown on {MACHINE}")
    ctypes.set_errno(0)
    result = int(_libc.syscall(NUMBERS[name], *(ctypes.c_long(a) if isinstance(a, int) else a for a in args)))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    return result


def prctl(option: int, arg: int = 0, arg2: int = 0) -> int:
    """Call for the options of sets, which python-prctl does not know, and for ``attributes``.

    Raises:
        OSError: its errno.
    """
    result = int(_libc.prctl(option, arg, arg2, 0, 0))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}: {os.strerror(ctypes.get_errno())}")
    return result


def capget() -> tuple[int, int, int]:
    """Return this thread's effective, permitted and inheritable capabilities as bit masks."""
    data = ctypes.create_string_buffer(24)
    syscall("capget", struct.pack("=Ii", _CAP_VERSION, 0), data)
    low = struct.unpack("=6I", data.raw)
    return low[0] | low[3] << 32, low[1] | low[4] << 32, low[2] | low[5] << 32


def capset(permitted: int, inheritable: int) -> None:
    """Set this thread's permitted and effective capabilities to one mask, the inheritable ones to another."""
    low = (permitted & 0xFFFFFFFF, permitted & 0xFFFFFFFF, inheritable & 0xFFFFFFFF)
    high = (permitted >> 32, permitted >> 32, inheritable >> 32)
    syscall("capset", struct.pack("=Ii", _CAP_VERSION, 0), struct.pack("=6I", *low, *high))


def ambient(mask: int) -> None:
    """Make the ambient set exactly ``mask``; each bit must be permitted and inheritable."""
    prctl(47, 4)
    for number in bits(mask):
        prctl(47, 2, number)


def ambient_set() -> int:
    """Return the ambient set as a bit mask."""
    return sum(1 << number for number in range(last_capability() + 1) if prctl(47, 1, number))


def securebits(value: int | None = None) -> int:
    """Set the securebits if a value is given; return those in force."""
    if value is not None:
        prctl(28, value)
    return prctl(27)


def bits(mask: int) -> list[int]:
    """Return the numbers of the bits set in a mask, lowest first."""
    return [number for number in range(mask.bit_length()) if mask >> number & 1]


def close_from(first: int) -> None:
    """Close every descriptor from ``first`` up."""
    try:
        syscall("close_range", first, 0xFFFFFFFF, 0)
    except OSError as error:
        if error.errno != errno.ENOSYS:  # only a kernel before 5.9 lacks it
            raise
        for name in os.listdir("/proc/self/fd"):
            if int(name) >= first:
                try:
                    os.close(int(name))
                except OSError:
                    continue  # the listing's own descriptor


def default_signals() -> None:
    """Give every signal its default action; libc's wrapper would refuse 32 and 33."""
    for number in range(1, 65):
        if number not in (9, 19):
            syscall("rt_sigaction", number, bytes(32), None, 8)


def no_new_privs() -> None:
    """Make sure that no program executed from here on can gain privilege."""
    prctl(38, 1)


def last_capability() -> int:
    """Return the highest capability this kernel knows; asked of it, since a unit may hide /proc/sys."""
    if not _last:
        number = 0
        while _libc.prctl(23, number, 0, 0, 0) >= 0:
            number += 1
        _last.append(number - 1)
    return _last[0]


_last: list[int] = []


def drop_bounding(number: int) -> None:
    """Take a capability out of the bounding set."""
    prctl(24, number)


def bounding_set() -> int:
    """Return the bounding set as a bit mask."""
    return sum(1 << number for number in range(last_capability() + 1) if prctl(23, number))
