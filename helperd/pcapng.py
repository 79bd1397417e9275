"""pcapng blocks: write them, and walk and check a chain of them. Pure.

Rules:
  1. We write little-endian sections, nanosecond stamps (``if_tsresol`` 9), and section length "unknown",
     because a live stream has no length.
  2. Every function returns whole blocks; joining them in order makes a stream.
  3. Text is cut to what a 16-bit option length takes; nothing that a peer sent can make a block invalid.

::

    block = type u32 | total length u32 | body, padded to 4 | total length u32

    section header   0A0D0D0A   byte order magic, version 1.0, section length, options
    interface        00000001   link type u16, 0 u16, snap length u32, options
    enhanced packet  00000006   interface, stamp high, stamp low, captured, original, data, options
    statistics       00000005   interface, stamp high, stamp low, options

Source of facts: draft-ietf-opsawg-pcapng (sections 3.1, 3.5, 4.1 to 4.3 and 4.6).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from helperd.errors import RemoteProtocolError
from helperd.visible import visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SECTION_HEADER = 0x0A0D0D0A
INTERFACE_DESCRIPTION = 0x00000001
PACKET_OLD = 0x00000002
SIMPLE_PACKET = 0x00000003
NAME_RESOLUTION = 0x00000004
INTERFACE_STATISTICS = 0x00000005
ENHANCED_PACKET = 0x00000006
JOURNAL_ENTRY = 0x00000009
DECRYPTION_SECRETS = 0x0000000A
CUSTOM_COPY = 0x00000BAD
CUSTOM_NO_COPY = 0x40000BAD

BYTE_ORDER_MAGIC = 0x1A2B3C4D
SECTION_MAGIC = SECTION_HEADER.to_bytes(4, "little")  # a palindrome of bytes: the same in both orders

OPT_END = 0
OPT_COMMENT = 1
SHB_HARDWARE, SHB_OS, SHB_APPLICATION = 2, 3, 4
IF_NAME, IF_DESCRIPTION, IF_TSRESOL, IF_FILTER, IF_TSOFFSET, IF_HARDWARE = 2, 3, 9, 11, 14, 15
EPB_FLAGS, EPB_DROPCOUNT = 2, 4
ISB_RECEIVED, ISB_DROPPED, ISB_DELIVERED = 4, 5, 8

LOST = "lost: "
"""What the comment of our statistics blocks begins with: ``lost: consumer-slow 12, link-type 3``."""
REFUSED = "refused: "
"""What the comment of a section begins with whose reader is not served."""
MAX_OPTION = 0xFFFC  # longest option value, in bytes: what 16 bits take, cut to a multiple of 4
MIN_BLOCK = 12
LAST_STAMP = (1 << 64) - 1  # nanoseconds since 1970 that a packet's block holds at most: in the year 2554
MAX_READ = (
    262_144  # bytes of a whole block that dumpcap takes of a pipe or socket; at a longer one it gives up
)
MAX_CONTENT = MAX_READ - 32  # of a packet in a block without options; Wireshark itself would take 32 more
MAX_LENGTH = (1 << 32) - 1  # bytes that a packet can be said to have had at most

PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")  # by length modulo 4

ENHANCED_HEAD = struct.Struct(
    "<7I"
)  # type, total length, interface, stamp high, stamp low, captured, original
LENGTH = struct.Struct("<I")
_HEAD = struct.Struct("<2I")
_NUMBERED = struct.Struct("<3I")
_WITH_INTERFACE = frozenset({ENHANCED_PACKET, INTERFACE_STATISTICS})
_OPTION = struct.Struct("<2H")
_END_OF_OPTIONS = bytes(4)


def _block(kind: int, body: bytes) -> bytes:
    """Put type and both lengths around a body that is already a multiple of 4."""
    total = len(body) + MIN_BLOCK
    return _HEAD.pack(kind, total) + body + LENGTH.pack(total)


def option(code: int, value: bytes) -> bytes:
    """One option, padded to 4."""
    return _OPTION.pack(code, len(value)) + value + PADDING[len(value) & 3]


def _text(code: int, value: str) -> bytes:
    """One text option, or nothing when the text is empty; cut between characters."""
    if not value:
        return b""
    raw = visible(value).encode()
    if len(raw) > MAX_OPTION:
        raw = raw[:MAX_OPTION].decode("utf-8", "ignore").encode()
    return option(code, raw)


def comments(text: str) -> bytes:
    """A packet's comment, whole, in as many options as it takes: for the options of ``packet_block`` and a writer."""
    raw = visible(text).encode()
    options = b""
    while len(raw) > MAX_OPTION:
        part = raw[:MAX_OPTION].decode("utf-8", "ignore").encode()
        options += option(OPT_COMMENT, part)
        raw = raw[len(part) :]
    return options + (option(OPT_COMMENT, raw) if raw else b"")


def flags(word: int) -> bytes:
    """The option with a packet's 32-bit flags: direction, reception, length of the FCS, errors."""
    return option(EPB_FLAGS, word.to_bytes(4, "little"))


def _counter(code: int, value: int | None) -> bytes:
    """One 64-bit counter option, or nothing."""
    return b"" if value is None else option(code, value.to_bytes(8, "little"))


def _closed(options: bytes) -> bytes:
    """A list of options with its end mark; an empty list needs none."""
    return options + _END_OF_OPTIONS if options else b""


def section_header(*, hardware: str = "", os: str = "", application: str = "", comment: str = "") -> bytes:
    """The block that begins a stream; capinfos shows its texts as hardware, OS, application and comment."""
    fixed = struct.pack("<IHHq", BYTE_ORDER_MAGIC, 1, 0, -1)
    options = _text(OPT_COMMENT, comment) + _text(SHB_HARDWARE, hardware)
    options += _text(SHB_OS, os) + _text(SHB_APPLICATION, application)
    return _block(SECTION_HEADER, fixed + _closed(options))


def interface_block(
    linktype: int,
    snaplen: int = 0,
    *,
    name: str = "",
    description: str = "",
    hardware: str = "",
    filter: str = "",  # noqa: A002 - the option's own name in the format
) -> bytes:
    """Announce the next interface; interfaces are numbered by the order of these blocks in the section.

    Args:
        linktype: a LINKTYPE number, 0 to 65535 (127: 802.11 with radiotap, 1: Ethernet).
        snaplen: bytes kept of a packet at most; 0: no limit.
        name: e.g. ``wlan0``.
        description: free text.
        hardware: e.g. the chipset.
        filter: a capture filter in libpcap's language.
    """
    options = _text(IF_NAME, name) + _text(IF_DESCRIPTION, description) + option(IF_TSRESOL, b"\x09")
    if filter:
        options += option(IF_FILTER, (b"\0" + visible(filter).encode())[:MAX_OPTION])
    options += _text(IF_HARDWARE, hardware)
    return _block(INTERFACE_DESCRIPTION, struct.pack("<HHI", linktype, 0, snaplen) + _closed(options))


def packet_block(
    interface: int,
    timestamp_ns: int,
    data: bytes | bytearray | memoryview,
    original: int,
    *,
    options: bytes = b"",
) -> bytes:
    """One packet.

    Args:
        interface: number of the interface within the section.
        timestamp_ns: nanoseconds since 1970, 0 to 2**64 - 1.
        data: the captured bytes.
        original: length on the wire or in the air, in bytes.
        options: little-endian, each padded to 4 bytes, without the mark of their end: what ``comments``, ``flags`` and
            ``option`` make.
    """
    options = _closed(options)
    captured = len(data)
    padding = PADDING[captured & 3]
    total = 32 + captured + len(padding) + len(options)
    head = ENHANCED_HEAD.pack(
        ENHANCED_PACKET, total, interface, timestamp_ns >> 32, timestamp_ns & 0xFFFFFFFF, captured, original
    )
    return b"".join((head, data, padding, options, LENGTH.pack(total)))


def statistics_block(
    interface: int,
    timestamp_ns: int,
    *,
    received: int | None = None,
    dropped: int | None = None,
    delivered: int | None = None,
    comment: str = "",
) -> bytes:
    """What was counted on one interface since its start; every counter is 64 bits wide and optional.

    Args:
        interface: number of the interface within the section.
        timestamp_ns: when it was counted, nanoseconds since 1970.
        received: packets that arrived at the interface.
        dropped: packets lost by the interface for lack of room.
        delivered: packets delivered to the reader of this stream.
        comment: text that Wireshark shows with the block.
    """
    options = (
        _text(OPT_COMMENT, comment)
        + _counter(ISB_RECEIVED, received)
        + _counter(ISB_DROPPED, dropped)
        + _counter(ISB_DELIVERED, delivered)
    )
    fixed = struct.pack("<3I", interface, timestamp_ns >> 32, timestamp_ns & 0xFFFFFFFF)
    return _block(INTERFACE_STATISTICS, fixed + _closed(options))


def split(
    data: bytes | memoryview, start: int = 0, stop: int | None = None
) -> Iterator[tuple[int, int, int]]:
    """Walk a chain of whole little-endian blocks and check both lengths of each.

    Args:
        data: holds the blocks, back to back.
        start: where the first block starts.
        stop: where the last block ends; None: the end of ``data``.

    Yields:
        ``(block type, start, stop)`` per block, as offsets into ``data``.

    Raises:
        RemoteProtocolError: "bad-pcapng"; ``at`` is the offset into ``data`` of the block that is wrong.
    """
    end = len(data) if stop is None else stop
    at = start
    while at < end:
        if end - at < MIN_BLOCK:
            raise _refused(data, at, end, f"{end - at} bytes are too few for a pcapng block")
        kind, total = _HEAD.unpack_from(data, at)
        if total < MIN_BLOCK or total & 3:
            raise _refused(data, at, end, f"a pcapng block cannot be {total} bytes long")
        if total > end - at:
            raise _refused(data, at, end, f"a pcapng block of {total} bytes is cut after {end - at}")
        (again,) = LENGTH.unpack_from(data, at + total - 4)
        if again != total:
            raise _refused(data, at, end, f"a pcapng block starts with length {total} and ends with {again}")
        yield kind, at, at + total
        at += total


def renumbered(data: bytes, numbers: Mapping[int, int]) -> memoryview:
    """A chain of whole blocks with other interface numbers; those that are not in ``numbers`` stay."""
    out = bytearray(data)
    at, stop = 0, len(out)
    while at < stop:
        kind, total, interface = _NUMBERED.unpack_from(out, at)
        if kind in _WITH_INTERFACE and interface in numbers:
            LENGTH.pack_into(out, at + 8, numbers[interface])
        at += total
    return memoryview(out)


def _refused(data: bytes | memoryview, at: int, end: int, text: str) -> RemoteProtocolError:
    return RemoteProtocolError("bad-pcapng", text, at=at, excerpt=bytes(data[at : min(at + 64, end)]))
