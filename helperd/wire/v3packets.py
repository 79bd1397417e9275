"""Packets of v3 data reports, read by hand: the layouts that C helpers and our SDK write, known by their bytes.

Everything else is None and goes to the general decoder. The two must agree; a test compares them on the recordings,
on random reports and on damaged ones.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from helperd.wire.mpack import Malformed, unpack_from
from helperd.wire.v3codec import decode_signal

if TYPE_CHECKING:
    from helperd.wire import frames
    from helperd.wire.messages import Signal

_U1 = struct.Struct(">BBB").unpack_from
_U2 = struct.Struct(">HBB").unpack_from
_U4 = struct.Struct(">IBB").unpack_from
_TIME = struct.Struct(">HIBB").unpack_from
_SHORT = struct.Struct(">H").unpack_from
_WIDE = struct.Struct(">2sH2sI2sI2sI2sI").unpack_from
_WIDE_SIZE: Final = 28
_WIDE_KEYS: Final = (b"\x01\xcd", b"\x02\xce", b"\x03\xce", b"\x04\xce", b"\x06\xc6")


@lru_cache(4096)
def _signal_of(head: bytes) -> Signal | None:
    """The signal block between the report's map head and its packet block, if it is that and nothing else."""
    try:
        fields, used = unpack_from(head, 2)
        return decode_signal(fields) if used == len(head) else None
    except Malformed:
        return None


def quick(data: bytes, at: int, stop: int) -> frames.Packet | None:
    """One payload of a usual layout: a packet block, alone or behind a signal block; else None.

    The packet block is ``85 01 dlt 02 sec 03 usec 04 original 06 content``, with numbers in the smallest
    form as C helpers write them, or all in the widest as our SDK does.
    """
    if data[at : at + 4] == b"\x81\x04\x85\x01":
        signal = None
        at += 3
    elif data[at : at + 2] == b"\x82\x02":
        block = data.find(b"\x04\x85\x01", at, min(at + 128, stop))
        if block < 0:
            return None
        signal = _signal_of(data[at:block])
        if signal is None:
            return None
        at = block + 2
    else:
        return None
    if stop - at < _WIDE_SIZE or data[at + 1] != 0xCD or data[at + 5] != 0xCE or data[at + 11] != 0xCE:
        return _quick_small(data, at, stop, signal)
    one, dlt, two, sec, three, usec, four, original, six, size = _WIDE(data, at)
    end = at + _WIDE_SIZE + size
    if (one, two, three, four, six) != _WIDE_KEYS or end > stop:
        return _quick_small(data, at, stop, signal)
    return dlt, sec, usec, original, data[at + _WIDE_SIZE : end], signal


def _quick_small(  # noqa: C901, PLR0912 - unrolled for speed
    data: bytes, at: int, stop: int, signal: Signal | None
) -> frames.Packet | None:
    """A packet block with its numbers in the smallest form; ``at`` is its first key."""
    if stop - at < 14:
        return None
    dlt = data[at + 1]
    if dlt < 0x80:
        at += 2
    elif dlt == 0xCC:
        dlt = data[at + 2]
        at += 3
    elif dlt == 0xCD:
        dlt = _SHORT(data, at + 2)[0]
        at += 4
    else:
        return None
    try:
        two, sec, three, code = _TIME(data, at)
        if code == 0xCE:
            usec, four, code = _U4(data, at + 8)
            at += 14
        elif code == 0xCD:
            usec, four, code = _U2(data, at + 8)
            at += 12
        elif code < 0x80:
            usec = code
            four, code = data[at + 8 : at + 10]
            at += 10
        elif code == 0xCC:
            usec, four, code = _U1(data, at + 8)
            at += 11
        else:
            return None
        if code == 0xCD:
            original, six, code = _U2(data, at)
            at += 4
        elif code == 0xCC:
            original, six, code = _U1(data, at)
            at += 3
        elif code < 0x80:
            original = code
            six, code = data[at : at + 2]
            at += 2
        else:
            return None
        if two != 0x02CE or three != 3 or four != 4 or six != 6:
            return None
        if code == 0xC4:
            size = data[at]
            at += 1
        elif code == 0xC5:
            size = _SHORT(data, at)[0]
            at += 2
        else:
            return None
    except (IndexError, ValueError, struct.error):
        return None
    end = at + size
    return (dlt, sec, usec, original, data[at:end], signal) if end <= stop else None
