"""Packets of protobuf data reports, read by hand: what C and Python helpers write, recognised by its bytes.

A report that holds nothing but a packet block with its fields in ascending order is read here:

    1a len  08 sec  10 usec  18 dlt  20 size  2a len content  [30 original]

Everything else is None and goes to the general decoder. The two must agree; a test compares them on the
recordings and on random reports.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from helperd.wire import frames


def varint(data: bytes, at: int) -> tuple[int, int]:
    """One number and the offset behind it.

    Raises:
        IndexError: the data ends inside it.
        ValueError: it has more than ten bytes.
    """
    value = data[at]
    at += 1
    if value < 0x80:
        return value, at
    value &= 0x7F
    for shift in range(7, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise ValueError("a number of more than ten bytes")


@lru_cache(64)
def _second(raw: bytes) -> int | None:
    """The number in ``08`` and five bytes, which is how every second from 1978 on is written; None if it is not."""
    if len(raw) != 6 or raw[0] != 0x08 or raw[5] >= 0x80 or min(raw[1:5]) < 0x80:
        return None
    return varint(raw, 1)[0]


def quick(data: bytes, at: int, stop: int) -> frames.Packet | None:
    """The packet of a report of the usual layout, or None.

    Args:
        data: the read.
        at: offset of the report.
        stop: offset behind it.
    """
    try:
        if data[at] != 0x1A:
            return None
        size = data[at + 1]
        at += 2
        if size > 0x7F:
            if data[at] > 0x7F:
                size, at = varint(data, at - 1)
            else:
                size += (data[at] << 7) - 0x80
                at += 1
        sec = _second(data[at : at + 6])
        if sec is None or at + size != stop or data[at + 6] != 0x10:
            return None
        usec = data[at + 7]
        at += 8
        if usec > 0x7F:
            byte = data[at]
            usec += (byte << 7) - 0x80
            at += 1
            if byte > 0x7F:
                byte = data[at]
                usec += (byte << 14) - 0x4000
                at += 1
                if byte > 0x7F:
                    return None
        return _quick_rest(data, at, stop, sec, usec)
    except (IndexError, ValueError):
        return None


def _quick_rest(data: bytes, at: int, stop: int, sec: int, usec: int) -> frames.Packet | None:
    """From the link type on."""
    dlt = data[at + 1]
    if data[at] != 0x18:
        return None
    at += 2
    if dlt > 0x7F:
        dlt, at = varint(data, at - 1)
        if dlt > 0xFFFFFFFF:
            return None
    if data[at] != 0x20:
        return None
    at += 2
    if data[at - 1] > 0x7F:
        at = at + 1 if data[at] < 0x80 else varint(data, at - 1)[1]
    length = data[at + 1]
    if data[at] != 0x2A:
        return None
    at += 2
    if length > 0x7F:
        if data[at] > 0x7F:
            length, at = varint(data, at - 1)
        else:
            length += (data[at] << 7) - 0x80
            at += 1
    end = at + length
    original = length
    if end != stop:
        if end > stop or data[end] != 0x30:
            return None
        original, last = varint(data, end + 1)
        if last != stop:
            return None
    return dlt, sec, usec, original or length, data[at:end], None
