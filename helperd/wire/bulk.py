"""The bulk extension: many packets in one frame, as ready pcapng blocks that are passed on untouched.

A bulk frame is a v3 frame of type 0x4844 whose payload is little-endian throughout:

    0 packets   4 runs   8 runs x (block length, count)   then the blocks, back to back, nothing behind them

Rules:
  1. Every block is an Enhanced Packet Block. All of a frame are of one interface, whose number the supervisor has given
     for a link type of the source.
  2. Neighbouring blocks of one length are one run of the index; the counts add up to ``packets``.
  3. Nothing in a frame is believed: whatever passes ``check`` can stand in a stream beside other sources' blocks,
     neither breaking it nor speaking for another source. Type, interface, both lengths, captured length and
     the shape of every option of every block are looked at.
  4. Blocks of a long run are checked as columns: the first one by hand, then each word that gives a block
     its shape must equal the one a block earlier. One comparison of two strided views does that for all
     blocks at once, about 1.5 ns a block and word (benchmarks/wire.py). Where a column differs, every block
     is checked by hand.

The handshake around it is in docs/protocol.md; block layouts are those of the pcapng specification.
"""

from __future__ import annotations

import struct
import sys
from itertools import groupby
from typing import TYPE_CHECKING, Final

from helperd.errors import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from helperd.wire.frames import Run

TYPE: Final = 0x4844
"""v3 packet type of a bulk frame, "HD"."""
COUNT: Final = 0x4845
"""v3 packet type of a count report: packets that the helper does not send, or sends otherwise than they came."""
KEY: Final = 64
"""Key of an interface number in the supervisor's REGISTER."""
KEY_DLT: Final = 65
"""Key of the link type that a number is asked for, or given for, in a REGISTER."""
FAMILY: Final = "helperd-bulk/"
"""What an offer of any version begins with."""
SUBSYSTEM: Final = f"{FAMILY}2"
"""What the helper offers and the supervisor accepts."""
MAX_PACKET: Final = 262_144
"""Largest captured length: Wireshark refuses a file that has more."""

HEADER: Final = 20
_EPB: Final = 6
_FIXED: Final = 32
"""Bytes of a block beside its packet and its options."""
_SIZES: Final = {0: 0, 2: 4, 4: 8, 5: 8, 6: 4, 8: 8}
"""Options with one right length: end, flags, drop count, packet id, queue, process and thread."""
_LEAST: Final = {3: 1, 7: 1, 2988: 4, 2989: 4, 19372: 4, 19373: 4}
"""Options with a shortest length: hash, verdict, custom ones, which begin with a number."""
_VERDICT: Final = 7
_WIDE_VERDICTS: Final = frozenset({1, 2})
"""Kinds of verdict that are a 64-bit number: of a Linux TC or XDP program."""
_CAPTURED: Final = 5
"""Index of the word with the captured length."""
_COLUMNS: Final = 8
"""Shortest run that is worth checking as columns."""

_V3 = struct.Struct(">QIHHI")
_V3_LENGTH = struct.Struct(">I").unpack_from
_HEAD = struct.Struct("<II")
_BLOCK = struct.Struct("<III8xI").unpack_from
_WORD = struct.Struct("<I").unpack_from
_OPTION = struct.Struct("<HH").unpack_from


def is_sound(code: int, size: int, first: int) -> bool:
    """Whether an option of a packet's block has a length that every reader takes.

    Wireshark gives a whole file up for one that has not; what it does not know it passes over.

    Args:
        code: of the option.
        size: bytes of its value.
        first: the value's first byte; 0 when there is none.
    """
    right = _SIZES.get(code)
    if right is not None:
        return size == right
    if size < _LEAST.get(code, 0):
        return False
    return code != _VERDICT or first not in _WIDE_VERDICTS or size == 9


class _Wrong(ValueError):  # noqa: N818 - internal
    """What is wrong, and the offset of it in the data."""


def check(data: bytes, start: int, stop: int, interfaces: Collection[int], at: int) -> int:
    """Check one frame's payload.

    Args:
        data: the read.
        start: offset of the payload.
        stop: offset behind it.
        interfaces: the numbers that were agreed.
        at: offset of the frame in the peer's stream, for the error.

    Returns:
        How many packets it holds, exactly.

    Raises:
        RemoteProtocolError: "bad-bulk"; anything is not as the rules say.
    """
    try:
        return _check(data, start, stop, interfaces)
    except _Wrong as error:
        text, where = error.args
        raise RemoteProtocolError(
            "bad-bulk",
            f"{text}, {where - start} bytes into the payload",
            at=at,
            excerpt=data[where : min(where + 64, stop)],
        ) from None


def _check(data: bytes, start: int, stop: int, interfaces: Collection[int]) -> int:
    if stop - start < 8:
        raise _Wrong("the index is cut", start)
    packets: int
    packets, runs = _HEAD.unpack_from(data, start)
    blocks = start + 8 + 8 * runs
    if not runs or blocks > stop:
        raise _Wrong(f"{runs} runs do not fit", start)
    interface = -1
    position = blocks
    left = packets
    view = memoryview(data)
    for length, count in _HEAD.iter_unpack(view[start + 8 : blocks]):
        end = position + length * count
        left -= count
        if length < _FIXED or length & 3 or not count or left < 0 or end > stop:
            raise _Wrong(f"the index says {count} blocks of {length} bytes", position)
        if interface < 0:
            interface = _interface(data, position, interfaces)
        if count >= _COLUMNS and _same(view[position:end], data, position, length, interface):
            position = end
        while position < end:
            kind, total, number, captured = _BLOCK(data, position)
            following = position + length
            if (
                kind != _EPB
                or total != length
                or number != interface
                or captured + 35 & -4 != length
                or captured > MAX_PACKET
                or _WORD(data, following - 4)[0] != length
            ):
                _shape(data, position, length, interface)
            position = following
    if position != stop or left:
        raise _Wrong(
            f"{packets} packets announced, {packets - left} indexed, {stop - position} bytes left", position
        )
    return packets


def _interface(data: bytes, first: int, interfaces: Collection[int]) -> int:
    """The interface number of a frame, which is that of its first block."""
    number: int = _WORD(data, first + 8)[0]
    if number not in interfaces:
        agreed = ", ".join(map(str, sorted(interfaces)))
        raise _Wrong(f"a packet of interface {number}, agreed is {agreed}", first)
    return number


def _same(blocks: memoryview, data: bytes, start: int, length: int, interface: int) -> bool:
    """Whether all blocks of a run have the shape of the first, which is checked by hand."""
    if sys.byteorder != "little":
        return False
    columns = _shape(data, start, length, interface)
    words = blocks.cast("I")
    stride = length // 4
    for column in columns:
        values = words[column::stride]
        if values[1:] != values[:-1] and not (column == _CAPTURED and _same_padded(values.tolist())):
            return False
    return True


def _same_padded(lengths: list[int]) -> bool:
    """Whether captured lengths fill the same number of words, so that all that follows is in the same place."""
    return min(lengths) + 3 >> 2 == max(lengths) + 3 >> 2


def _shape(data: bytes, start: int, length: int, interface: int) -> list[int]:
    """Check one block by hand, whole.

    Returns:
        Indexes of the 32-bit words that give the block its shape.
    """
    kind, total, number, captured = _BLOCK(data, start)
    trailer = _WORD(data, start + length - 4)[0]
    if kind != _EPB or total != length or trailer != length:
        raise _Wrong(f"a block of type {kind} and length {total}, {trailer} where {length} is due", start)
    if number != interface:
        raise _Wrong(f"a packet of interface {number} in a frame of interface {interface}", start)
    option = start + 28 + (captured + 3 & -4)
    stop = start + length - 4
    if captured > MAX_PACKET or option > stop:
        raise _Wrong(f"{captured} captured bytes in a block of {length}", start)
    columns = [0, 1, 2, _CAPTURED, length // 4 - 1]
    while option < stop:
        code, size = _OPTION(data, option)
        following = option + 4 + (size + 3 & -4)
        if following > stop or (not code and following != stop):
            raise _Wrong("options run over the end of their block, or do not reach it", start)
        columns.append((option - start) // 4)
        if code == _VERDICT and size:
            columns.append((option - start) // 4 + 1)
        if not is_sound(code, size, data[option + 4] if size else 0):
            raise _Wrong(f"option {code} of {size} bytes", option)
        option = following
    return columns


def blocks(run: Run) -> Iterator[tuple[int, tuple[memoryview, ...], int, int]]:
    """The blocks of a run of checked bulk frames, frame by frame, as slices of the read.

    Yields:
        Interface number, slices of pcapng blocks, their bytes, their packets.
    """
    view = memoryview(run.data)
    position = run.start
    while position < run.stop:
        stop = position + HEADER + _V3_LENGTH(run.data, position + 8)[0]
        packets, runs = _HEAD.unpack_from(run.data, position + HEADER)
        start = position + HEADER + 8 + 8 * runs
        yield _WORD(run.data, start + 8)[0], (view[start:stop],), stop - start, packets
        position = stop


def encode(packets: Sequence[bytes], seqno: int) -> bytes:
    """One bulk frame.

    Args:
        packets: Enhanced Packet Blocks, one packet each, little-endian, all of one agreed interface.
        seqno: number of the frame.

    Raises:
        LocalProtocolError: "bad-bulk"; there are none, or more than a frame holds.
    """
    index = [(length, sum(1 for _ in same)) for length, same in groupby(map(len, packets))]
    size = 8 + 8 * len(index) + sum(length * count for length, count in index)
    if not packets or HEADER + size > 1 << 20:
        raise LocalProtocolError(
            "bad-bulk", f"a frame of {len(packets)} packets and {size} bytes cannot be sent"
        )
    head = _V3.pack(0xDECAFBAD_A9A90003, size, TYPE, 0, seqno & 0xFFFFFFFF)
    pairs = struct.pack(f"<{2 * len(index)}I", *(number for pair in index for number in pair))
    return b"".join((head, _HEAD.pack(len(packets), len(index)), pairs, *packets))
