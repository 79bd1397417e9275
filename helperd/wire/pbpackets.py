"""Packets of protobuf data reports, read by hand: what C and Python helpers write, recognised by its bytes.

A report that holds nothing but a packet block with its fields in ascending order is read here:

    1a len  08 sec  10 usec  18 dlt  20 size  2a len content  [30 original]

Everything else is None and goes to the general decoder. The two must agree; a test compares them on the
recordings and on random reports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from helperd.wire import frames
    from helperd.wire.messages import DataReport


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


def quick(data: bytes, at: int, stop: int) -> frames.Packet | None:  # noqa: PLR0911 - unrolled for speed
    """The packet of a report of the usual layout, or None.

    Args:
        data: the read.
        at: offset of the report.
        stop: offset behind it.
    """
    try:
        if data[at] != 0x1A:
            return None
        size, at = varint(data, at + 1)
        if at + size != stop or data[at] != 0x08:
            return None
        sec, at = varint(data, at + 1)
        if data[at] != 0x10:
            return None
        usec, at = varint(data, at + 1)
        if data[at] != 0x18:
            return None
        dlt, at = varint(data, at + 1)
        if data[at] != 0x20 or dlt > 0xFFFFFFFF:
            return None
        _, at = varint(data, at + 1)
        if data[at] != 0x2A:
            return None
        length, at = varint(data, at + 1)
        end = at + length
        original = length
        if end != stop:
            if end > stop or data[end] != 0x30:
                return None
            original, last = varint(data, end + 1)
            if last != stop:
                return None
    except (IndexError, ValueError):
        return None
    return dlt, sec, usec, original or length, data[at:end], None


def general(report: DataReport) -> frames.Packet | None:
    """The packet of a decoded report, or None when it has none."""
    packet = report.packet
    if packet is None:
        return None
    original = len(packet.content) if packet.original is None else packet.original
    return packet.dlt, packet.sec, packet.usec, original, packet.content, report.signal
