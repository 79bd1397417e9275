"""Frames of a usual layout, from the wire's bytes to pcapng blocks in one step. Pure.

C helpers write a data report as a fixed sequence of fields. For one payload length and one second, everything but
the microseconds and the content is the same bytes from frame to frame. So a frame is taken apart once, by hand, and
becomes a ``Mould``; the next frame of that length must agree with it byte by byte in all but those two, and then one
``unpack`` and one ``pack`` make its block.

Rules:
  1. What a mould does not recognise is not its business: the general decoder takes it. Both give the same bytes;
     tests compare them on recordings and on random frames.
  2. A mould belongs to one interface and one payload length; it is made anew when the second changes.
  3. No object per packet but the block itself.

::

    v3  | 20 header | 81 04 85 01 dlt 02 ce sec 03 ce | usec  | 04 original 06 size | content |
    v2  | 48 header | 1a len 08 sec 10                | usec  | 18 dlt 20 n 2a size | content | [30 original] |
                      `---------- the same ----------'  2 to 4  `----- the same ----'             `- the same -'
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    Unpack = Callable[[bytes, int], tuple[Any, ...]]
    Pack = Callable[..., bytes]

    Mould = tuple[
        Unpack, bytes, bytes, bytes, Pack, bytes, int, int, bytes, int, "tuple[dict[int, int], ...]"
    ]
    """Unpack a frame; what must stand before the microseconds, behind them and behind the content; pack a block;
    its first words, high and low word of the second, captured and original length, total length; nanoseconds by each
    byte of the microseconds, where they are unpacked as bytes."""

    Fill = Callable[[bytes, int, int, dict[int, Mould], Callable[[bytes], None]], int]

MAX_CONTENT: Final = 262_144 - 32
"""Captured bytes above which a packet is left to the general way, which cuts it: ``pcapng.MAX_CONTENT``."""
MAX_MOULDS: Final = 2048
"""Moulds kept of one source, about 0.5 KB each."""
FEW_MOULDS: Final = 32
"""Moulds kept of one that is quiet: there may be hundreds of those."""

_LENGTH = struct.Struct(">I").unpack_from
_LENGTHS = struct.Struct("<II").pack
_FIRST = struct.Struct("<III").pack
_MASK: Final = 0xFFFFFFFF
_MAX_SECONDS: Final = 0x1_0000_0000
"""Seconds from here on (the year 2106) go the general way, which knows what does not fit into a stamp."""


class Shape(NamedTuple):
    """One frame taken apart.

    Attributes:
        usec: how the microseconds are unpacked.
        nanoseconds: tables for them, when that gives bytes.
        dlt: libpcap link type.
        sec: seconds since 1970.
        original: length on the air or wire, in bytes.
        before: offset of the microseconds.
        behind: offset of what follows them.
        content: offset of the content.
        end: offset behind the content.
        stop: offset behind the frame.
    """

    usec: str
    nanoseconds: tuple[dict[int, int], ...]
    dlt: int
    sec: int
    original: int
    before: int
    behind: int
    content: int
    end: int
    stop: int


@lru_cache(4096)
def _unpacker(header: int, before: int, usec: str, behind: int, size: int, after: int) -> Unpack:
    """Cut a frame into: what comes before, microseconds, what comes behind them, content, the rest."""
    layout = struct.Struct(f">{header}x{before}s{usec}{behind}s{size}s{after}s")
    return layout.unpack_from


@lru_cache(4096)
def _packer(size: int) -> Pack:
    """Write a block around a content of this size: first words, stamp, lengths, content, total length."""
    return struct.Struct(f"<12sII8s{size}s{-size & 3}xI").pack


def mould(data: bytes, position: int, shape: Shape, header: int, interface: int) -> Mould:
    """Make the mould for frames like this one.

    Args:
        data: the read.
        position: offset of the frame.
        shape: what stands in it.
        header: bytes of the generation's frame header.
        interface: number of the interface that its packets belong to.
    """
    usec, nanoseconds, _, sec, original, before, behind, content, end, stop = shape
    size = end - content
    start = position + header
    total = 32 + size + (-size & 3)
    base = sec * 1_000_000_000
    return (
        _unpacker(header, before - start, usec, content - behind, size, stop - end),
        data[start:before],
        data[behind:content],
        data[end:stop],
        _packer(size),
        _FIRST(6, total, interface),
        base >> 32,
        base & _MASK,
        _LENGTHS(size, original),
        total,
        nanoseconds,
    )


# v3


def shape_v3(data: bytes, position: int, stop: int) -> Shape | None:
    """Take a v3 data report apart if it holds a packet alone, with its fields in the usual order."""
    at = position + 20
    if data[at : at + 4] != b"\x81\x04\x85\x01":
        return None
    try:
        dlt, at = _number(data, at + 4)
        if data[at : at + 2] != b"\x02\xce":
            return None
        sec, at = _number(data, at + 1)
        if data[at] != 3:
            return None
        usec, width = _USEC[data[at + 1]]
        before = at + 2
        behind = at = before + width
        if data[at] != 4:
            return None
        original, at = _number(data, at + 1)
        if data[at] != 6:
            return None
        size, at = _number(data, at + 2, _BINARY[data[at + 1]])
    except (IndexError, KeyError):
        return None
    end = at + size
    if end != stop or size > MAX_CONTENT:
        return None
    return Shape(usec, (), dlt, sec, original, before, behind, at, end, stop)


_USEC: Final = {0xCD: ("H", 2), 0xCE: ("I", 4)}
_BINARY: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_UNSIGNED: Final = {0xCC: 1, 0xCD: 2, 0xCE: 4}


def _number(data: bytes, at: int, width: int = 0) -> tuple[int, int]:
    """One unsigned msgpack number of at most 32 bits, or one of a known width, and the offset behind it."""
    if not width:
        code = data[at]
        at += 1
        if code < 0x80:
            return code, at
        width = _UNSIGNED[code]
    return int.from_bytes(data[at : at + width], "big"), at + width


def fill_v3(
    data: bytes, position: int, stop: int, moulds: dict[int, Mould], add: Callable[[bytes], None]
) -> int:
    """Turn frames into blocks as long as they fit their moulds.

    Args:
        data: the read.
        position: offset of the first frame.
        stop: offset behind the last one.
        moulds: by payload length.
        add: takes each block.

    Returns:
        The offset of the first frame that does not fit.
    """
    length_at = _LENGTH
    while position < stop:
        length = length_at(data, position + 8)[0]
        try:
            unpack, before, behind, _, pack, first, high, low, lengths, total, _ = moulds[length]
        except KeyError:
            break
        while True:
            head, usec, middle, content, _ = unpack(data, position)
            if head != before or middle != behind:
                return position
            stamp = low + usec * 1000
            if stamp > _MASK:
                add(pack(first, high + (stamp >> 32), stamp & _MASK, lengths, content, total))
            else:
                add(pack(first, high, stamp, lengths, content, total))
            position += length + 20
            if position >= stop or length_at(data, position + 8)[0] != length:
                break
    return position


# v2


def shape_v2(data: bytes, position: int, stop: int) -> Shape | None:  # noqa: PLR0911 - one field after the other
    """Take a v2 data report apart if it holds a packet alone, with its fields in the usual order."""
    try:
        at = position + 48
        if data[at] != 0x1A:
            return None
        size, at = _varint(data, at + 1)
        if at + size != stop or data[at] != 0x08:
            return None
        sec, at = _varint(data, at + 1)
        if data[at] != 0x10 or sec >= _MAX_SECONDS:
            return None
        before = at + 1
        usec, at = _varint(data, before)
        if at - before not in _NANOSECONDS or not usec >> 7 * (at - before - 1) or data[at] != 0x18:
            return None
        nanoseconds = _NANOSECONDS[at - before]
        dlt, at = _varint(data, at + 1)
        if data[at] != 0x20 or dlt > _MASK:
            return None
        _, at = _varint(data, at + 1)
        if data[at] != 0x2A:
            return None
        size, at = _varint(data, at + 1)
        end = at + size
        original = size
        if end != stop:
            if end > stop or data[end] != 0x30:
                return None
            original, last = _varint(data, end + 1)
            if last != stop or original > _MASK:
                return None
    except IndexError:
        return None
    if size > MAX_CONTENT:
        return None
    return Shape("3B", nanoseconds, dlt, sec, original or size, before, before + 3, at, end, stop)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """One protobuf number of at most five bytes, and the offset behind it."""
    value = shift = 0
    for _ in range(5):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise IndexError


def fill_v2(
    data: bytes, position: int, stop: int, moulds: dict[int, Mould], add: Callable[[bytes], None]
) -> int:
    """Turn frames into blocks as long as they fit their moulds; as ``fill_v3``.

    The microseconds are two or three bytes of seven bits, the lowest first; tables turn each into nanoseconds. Behind
    two of them the next field's tag, always the same, is unpacked in the place of the third.
    """
    length_at = _LENGTH
    while position < stop:
        length = length_at(data, position + 8)[0]
        try:
            unpack, before, behind, after, pack, first, high, low, lengths, total, tables = moulds[length]
        except KeyError:
            break
        lowest, second, highest = tables
        while True:
            head, one, two, three, middle, content, tail = unpack(data, position)
            if head != before or middle != behind or tail != after:
                return position
            try:
                stamp = low + lowest[one] + second[two] + highest[three]
            except KeyError:
                return position
            if stamp > _MASK:
                add(pack(first, high + (stamp >> 32), stamp & _MASK, lengths, content, total))
            else:
                add(pack(first, high, stamp, lengths, content, total))
            position += length + 48
            if position >= stop or length_at(data, position + 8)[0] != length:
                break
    return position


_LOWEST: Final = {0x80 | bits: bits * 1000 for bits in range(128)}
_NANOSECONDS: Final = {
    2: (_LOWEST, {bits: (bits << 7) * 1000 for bits in range(1, 128)}, {0x18: 0}),
    3: (
        _LOWEST,
        {0x80 | bits: (bits << 7) * 1000 for bits in range(128)},
        {bits: (bits << 14) * 1000 for bits in range(1, 128)},
    ),
}
"""What the bytes of a number of microseconds say, the lowest first, when it has exactly so many."""


class Layout(NamedTuple):
    """What a generation's usual layout needs: size of the header, taking apart, turning into blocks."""

    header: int
    shape: Callable[[bytes, int, int], Shape | None]
    fill: Fill


LAYOUTS: Final[dict[str, Layout]] = {
    "v3": Layout(20, shape_v3, fill_v3),
    "v2": Layout(48, shape_v2, fill_v2),
}
"""By the generation's name. v0 has none: its sequence number moves everything behind it."""
