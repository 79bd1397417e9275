"""A live pcapng stream becomes packets, losses and interfaces. Pure.

Reads what helperd writes: one little-endian section, nanosecond stamps.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from helperd import pcapng
from helperd.errors import RemoteProtocolError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEAD = struct.Struct("<II").unpack_from
_PACKET = struct.Struct("<5I").unpack_from
_OPTION = struct.Struct("<HH").unpack_from
_MAX_BLOCK: Final = 2 << 20


class Interface(NamedTuple):
    """One source and link type.

    Attributes:
        name: the source's name.
        linktype: LINKTYPE_ value, 127: 802.11 with radiotap.
        description: its definition.
        hardware: what the helper says it is.
    """

    name: str
    linktype: int
    description: str
    hardware: str


class Packet(NamedTuple):
    """One packet.

    Attributes:
        interface: where it was captured.
        timestamp_ns: nanoseconds since 1970.
        content: the captured bytes.
        original: length on the air or wire, in bytes.
        comment: signal and position, where the helper told them apart from the content, and what comments it has; of
            several, one a line.
        options: all options of its pcapng block, comments among them, as code and value.
    """

    interface: Interface
    timestamp_ns: int
    content: bytes
    original: int
    comment: str
    options: tuple[tuple[int, bytes], ...] = ()


class PacketReader:
    """Cuts a stream into packets.

    Attributes:
        interfaces: seen so far, by number.
        lost: packets of this stream that this reader did not get, by number of the interface; what helperd says.
        at: offset in the stream of the next byte to come.
    """

    def __init__(self) -> None:
        self.interfaces: list[Interface] = []
        self.lost: dict[int, int] = {}
        self.at = 0
        self._buffer = bytearray()

    @property
    def pending(self) -> int:
        """Bytes held of an unfinished block."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Packet]:
        """Take bytes as they came, cut anywhere; return the packets that are complete.

        Raises:
            RemoteProtocolError: "bad-pcapng".
            UnavailableError: "busy"; helperd does not serve this reader, and says why.
        """
        buffer = self._buffer
        buffer += data
        whole = bytes(buffer)
        packets: list[Packet] = []
        start = 0
        while len(whole) - start >= 12:
            kind, length = _HEAD(whole, start)
            if length < 12 or length & 3 or length > _MAX_BLOCK or (not self.at + start and kind != _SECTION):
                raise self._refused(f"a block of type {kind:#x} and {length} bytes", whole, start)
            stop = start + length
            if stop > len(whole):
                break
            if _HEAD(whole, stop - 8)[1] != length:
                raise self._refused("a block ends with another length than it starts with", whole, start)
            try:
                self._block(kind, whole, start, stop, packets)
            except (struct.error, IndexError) as error:
                raise self._refused(f"a block of type {kind:#x}: {error}", whole, start) from None
            start = stop
        self.at += start
        del buffer[:start]
        return packets

    def _block(self, kind: int, data: bytes, start: int, stop: int, packets: list[Packet]) -> None:
        if kind == pcapng.ENHANCED_PACKET:
            number, high, low, size, original = _PACKET(data, start + 8)
            end = start + 28 + size
            option = end + (-size & 3)
            if end > stop - 4:
                raise IndexError(f"{size} captured bytes do not fit")
            comment = ""
            options: tuple[tuple[int, bytes], ...] = ()
            if option < stop - 4:
                options = tuple(_options(data, option, stop - 4))
                comment = "\n".join(_text(value) for code, value in options if code == pcapng.OPT_COMMENT)
            packets.append(
                Packet(
                    self.interfaces[number],
                    high << 32 | low,
                    data[start + 28 : end],
                    original,
                    comment,
                    options,
                )
            )
        elif kind == pcapng.SECTION_HEADER:
            said = _text(dict(_options(data, start + 24, stop - 4)).get(pcapng.OPT_COMMENT, b""))
            if said.startswith(pcapng.REFUSED):
                raise UnavailableError("busy", said.removeprefix(pcapng.REFUSED))
        elif kind == pcapng.INTERFACE_DESCRIPTION:
            linktype = struct.unpack_from("<H", data, start + 8)[0]
            told = dict(_options(data, start + 16, stop - 4))
            words = (
                told.get(code, b"") for code in (pcapng.IF_NAME, pcapng.IF_DESCRIPTION, pcapng.IF_HARDWARE)
            )
            name, description, hardware = map(_text, words)
            self.interfaces.append(Interface(name, linktype, description, hardware))
        elif kind == pcapng.INTERFACE_STATISTICS:
            number = struct.unpack_from("<I", data, start + 8)[0]
            told = dict(_options(data, start + 20, stop - 4))
            self.lost[number] = int.from_bytes(told.get(pcapng.ISB_DROPPED, b""), "little")

    def _refused(self, text: str, data: bytes, start: int) -> RemoteProtocolError:
        return RemoteProtocolError("bad-pcapng", text, at=self.at + start, excerpt=data[start : start + 64])


_SECTION: Final = pcapng.SECTION_HEADER


def _options(data: bytes, at: int, stop: int) -> Iterator[tuple[int, bytes]]:
    while at + 4 <= stop:
        code, size = _OPTION(data, at)
        if not code:
            return
        yield code, data[at + 4 : min(at + 4 + size, stop)]
        at += 4 + size + (-size & 3)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
