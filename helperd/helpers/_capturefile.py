"""Capture files, pcap and pcapng, cut into packets: bytes in, packets out, no file and no clock.

Rules:
  1. Every whole packet before a fault is delivered; the fault is raised by the next call.
  2. Nothing a file claims makes us allocate: memory is bounded by ``MAX_PACKET`` plus one read.
  3. Link types are given in libpcap's numbers (DLT), which differ from those in files for a few; stamps are
     nanoseconds since 1970.

::

    pcap    magic, version, zone, sigfigs, snap length, link type
            then per packet: seconds, fraction, captured, original, bytes
    pcapng  section header, then blocks
            interface blocks give link type, stamp resolution and offset, by number

Source of facts: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng; the order of lengths before pcap 2.4 and
the longer records of magic A1B2CD34: pcap-savefile(5) and the notes of the libpcap project.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from helperd import pcapng
from helperd.errors import HelperdError

MAX_PACKET = 16 << 20  # bytes; a record that claims more is damage
MAX_STAMP = 1_000_000_000 << 32  # nanoseconds; frames hold seconds in 32 bits, as pcap does
MAX_SNAPLEN = 128 << 20  # bytes; the largest limit any capture library writes

# magic in file order -> (byte order, nanoseconds per fraction unit, bytes between record header and packet)
PCAP_MAGICS: dict[bytes, tuple[str, int, int]] = {
    bytes.fromhex("d4c3b2a1"): ("<", 1000, 0),
    bytes.fromhex("a1b2c3d4"): (">", 1000, 0),
    bytes.fromhex("4d3cb2a1"): ("<", 1, 0),
    bytes.fromhex("a1b23c4d"): (">", 1, 0),
    bytes.fromhex("34cdb2a1"): ("<", 1000, 8),
    bytes.fromhex("a1b2cd34"): (">", 1000, 8),
}
TO_DLT = {100: 11, 101: 12, 102: 15, 103: 16}  # LINKTYPE of files -> DLT, where they differ on Linux
MAGICS = (*PCAP_MAGICS, pcapng.SECTION_MAGIC)

_PCAP_HEADER = 24
_RECORD = 16


Captured = tuple[int, "int | None", bytes, int]
"""One packet: link type, nanoseconds since 1970 or None when the file has no stamp, captured bytes, true length."""


class _Interface(NamedTuple):
    dlt: int
    snaplen: int
    multiply: int  # stamp units to nanoseconds: units * multiply // divide + offset_ns
    divide: int
    offset_ns: int


class CaptureParser:
    """Cuts one capture stream into packets.

    Args:
        name: what to call the stream in error texts, e.g. its path.

    Attributes:
        format: "pcap" or "pcapng" once known, else "".
        dlt: link type of the first interface, None while unknown.
        packets: packets delivered so far.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.format = ""
        self.dlt: int | None = None
        self.packets = 0
        self._rest = bytearray()
        self._need = 4  # bytes to have before parsing makes sense again
        self._skip = 0  # bytes of an uninteresting block still to be passed over
        self._at = 0  # offset in the stream of the first byte of _rest
        self._fault: HelperdError | None = None
        self._order = "<"
        self._unit = 1000
        self._gap = 0
        self._lengths_swapped = False
        self._maybe_swapped = False
        self._record = struct.Struct("<4I")
        self._interfaces: list[_Interface] = []

    def feed(self, data: bytes) -> list[Captured]:
        """Take the next bytes of the stream.

        Returns:
            The packets that are whole now, in order.

        Raises:
            HelperdError: "bad-capture"; only when there are no whole packets left to return.
        """
        if self._fault is not None:
            raise self._fault
        if self._skip:
            passed = min(self._skip, len(data))
            self._skip -= passed
            self._at += passed
            data = data[passed:]
        if len(self._rest) + len(data) < self._need:
            self._rest += data
            return []
        if self._rest:
            data = bytes(self._rest) + data
            self._rest.clear()
        found: list[Captured] = []
        try:
            used = self._parse(data, found)
        except HelperdError as fault:
            self._fault = fault
            if not found:
                raise
        else:
            self._rest += memoryview(data)[used:]
            self._at += used
        self.packets += len(found)
        return found

    def finish(self) -> None:
        """The stream has ended.

        Raises:
            HelperdError: "bad-capture"; it was empty, ended inside something, or has a fault not told yet.
        """
        if self._fault is not None:
            raise self._fault
        have = len(self._rest)
        if not self.format:
            if self._at + have == 0:
                raise self._bad("is empty: not even a capture file's header is there")
            if any(magic.startswith(bytes(self._rest[:4])) for magic in MAGICS):
                raise self._bad(f"ends inside its header, after {self._at + have} bytes")
            raise self._unknown(bytes(self._rest))
        if have or self._skip:
            missing = self._skip or self._need - have
            raise self._bad(
                f"is cut: it ends inside what starts at byte {self._at}, "
                f"at least {missing} bytes are missing; {self.packets} whole packets came before"
            )

    # pcap and pcapng share nothing but these two questions

    def _parse(self, data: bytes, found: list[Captured]) -> int:
        """Parse what is whole; set ``_need`` for the rest; return the bytes used up."""
        if not self.format:
            magic = data[:4]
            if magic == pcapng.SECTION_MAGIC:
                self.format = "pcapng"
            elif magic in PCAP_MAGICS:
                if len(data) < _PCAP_HEADER:
                    self._need = _PCAP_HEADER
                    return 0
                self._begin_pcap(data)
                return self._parse_records(data, _PCAP_HEADER, found)
            else:
                raise self._unknown(data)
        if self.format == "pcap":
            return self._parse_records(data, 0, found)
        return self._parse_blocks(data, found)

    def _begin_pcap(self, data: bytes) -> None:
        """Read the file header."""
        self._order, self._unit, self._gap = PCAP_MAGICS[data[:4]]
        major, minor, _, _, snaplen, linktype = struct.unpack_from(self._order + "HHiIII", data, 4)
        if major != 2:
            raise self._bad(f"is pcap of version {major}.{minor}; only version 2 is known")
        self._check_snaplen(snaplen)
        self._lengths_swapped = minor < 3
        self._maybe_swapped = minor == 3
        self._record = struct.Struct(self._order + "4I")
        linktype &= 0xFFFF  # the upper half says how long the FCS is
        self.dlt = TO_DLT.get(linktype, linktype)
        self.format = "pcap"

    def _parse_records(self, data: bytes, at: int, found: list[Captured]) -> int:
        dlt = self.dlt
        assert dlt is not None
        unpack, unit, gap = self._record.unpack_from, self._unit, self._gap
        odd = self._lengths_swapped or self._maybe_swapped
        end = len(data)
        while True:
            begin = at + _RECORD + gap
            if begin > end:
                self._need = _RECORD + gap
                return at
            seconds, fraction, captured, original = unpack(data, at)
            if odd and (self._lengths_swapped or captured > original):
                captured, original = original, captured
            if captured > MAX_PACKET:
                raise self._bad(
                    f"is damaged: the record at byte {self._at + at} claims a packet of {captured} bytes"
                )
            stop = begin + captured
            if stop > end:
                self._need = stop - at
                return at
            stamp = seconds * 1_000_000_000 + fraction * unit
            if stamp >= MAX_STAMP:
                raise self._no_clock(len(found), stamp)
            found.append((dlt, stamp, data[begin:stop], original))
            at = stop

    def _parse_blocks(self, data: bytes, found: list[Captured]) -> int:
        at, end = 0, len(data)
        while True:
            if at + 12 > end:
                self._need = 12
                return at
            if data[at : at + 4] == pcapng.SECTION_MAGIC:
                self._begin_section(data, at)
            kind, total = struct.unpack_from(self._order + "2I", data, at)
            if total < pcapng.MIN_BLOCK or total & 3:
                raise self._bad(
                    f"is damaged: the block at byte {self._at + at} claims a length of {total} bytes"
                )
            stop = at + total
            if total > MAX_PACKET:
                if kind in _READ:
                    raise self._bad(
                        f"is damaged: the block at byte {self._at + at} claims {total} bytes, "
                        f"{MAX_PACKET} at most are taken"
                    )
                if stop > end:
                    self._skip = stop - end
                    self._need = 1
                    return end
            elif stop > end:
                self._need = total
                return at
            if struct.unpack_from(self._order + "I", data, stop - 4)[0] != total:
                raise self._bad(f"is damaged: the two lengths of the block at byte {self._at + at} differ")
            if kind in _READ:
                try:
                    self._read_block(kind, data[at + 8 : stop - 4], found)
                except struct.error:
                    raise self._bad(f"is damaged: the block at byte {self._at + at} is too short") from None
            at = stop

    def _begin_section(self, data: bytes, at: int) -> None:
        """Learn the byte order of the section; interfaces are numbered anew in each."""
        magic = data[at + 8 : at + 12]
        if magic == b"\x4d\x3c\x2b\x1a":
            self._order = "<"
        elif magic == b"\x1a\x2b\x3c\x4d":
            self._order = ">"
        else:
            raise self._bad(f"is damaged: the section at byte {self._at + at} has no byte order")
        self._interfaces = []

    def _read_block(self, kind: int, body: bytes, found: list[Captured]) -> None:
        """Take in one whole block of a kind in ``_READ``."""
        order = self._order
        if kind == pcapng.ENHANCED_PACKET:
            number, high, low, captured, original = struct.unpack_from(order + "5I", body)
            self._add(self._interface(number), high << 32 | low, body, 20, captured, original, found)
        elif kind == pcapng.SIMPLE_PACKET:
            (original,) = struct.unpack_from(order + "I", body)
            interface = self._interface(0)
            captured = min(original, interface.snaplen or original, len(body) - 4)
            self._add(interface, None, body, 4, captured, original, found)
        elif kind == pcapng.PACKET_OLD:
            number, _, high, low, captured, original = struct.unpack_from(order + "2H4I", body)
            self._add(self._interface(number), high << 32 | low, body, 20, captured, original, found)
        elif kind == pcapng.INTERFACE_DESCRIPTION:
            self._interfaces.append(self._read_interface(body))
            if self.dlt is None:
                self.dlt = self._interfaces[0].dlt
        else:
            major, minor = struct.unpack_from(order + "2H", body, 4)
            if major != 1:
                raise self._bad(f"is pcapng of version {major}.{minor}; only version 1 is known")

    def _add(
        self,
        interface: _Interface,
        units: int | None,
        body: bytes,
        begin: int,
        captured: int,
        original: int,
        found: list[Captured],
    ) -> None:
        if captured > len(body) - begin:
            raise self._bad(f"is damaged: packet {self.packets + len(found) + 1} is longer than its block")
        stamp = (
            None if units is None else units * interface.multiply // interface.divide + interface.offset_ns
        )
        if stamp is not None and not 0 <= stamp < MAX_STAMP:
            raise self._no_clock(len(found), stamp)
        found.append((interface.dlt, stamp, body[begin : begin + captured], original))

    def _interface(self, number: int) -> _Interface:
        if number >= len(self._interfaces):
            raise self._bad(
                f"is damaged: a packet names interface {number}, but only {len(self._interfaces)} exist"
            )
        return self._interfaces[number]

    def _read_interface(self, body: bytes) -> _Interface:
        linktype, _, snaplen = struct.unpack_from(self._order + "HHI", body)
        dlt = TO_DLT.get(linktype, linktype)
        self._check_snaplen(snaplen)
        resolution, offset = 6, 0
        at = 8
        while at + 4 <= len(body):
            code, length = struct.unpack_from(self._order + "HH", body, at)
            value = body[at + 4 : at + 4 + length]
            if code == pcapng.OPT_END:
                break
            if code == pcapng.IF_TSRESOL and length == 1:
                resolution = value[0]
            elif code == pcapng.IF_TSOFFSET and len(value) == 8:
                offset = int.from_bytes(value, "little" if self._order == "<" else "big", signed=True)
            at += 4 + length + (-length & 3)
        exponent = resolution & 0x7F
        if resolution & 0x80:
            return _Interface(dlt, snaplen, 1_000_000_000, 1 << exponent, offset * 1_000_000_000)
        if exponent <= 9:
            return _Interface(dlt, snaplen, 10 ** (9 - exponent), 1, offset * 1_000_000_000)
        return _Interface(dlt, snaplen, 1, 10 ** (exponent - 9), offset * 1_000_000_000)

    def _check_snaplen(self, snaplen: int) -> None:
        if snaplen > MAX_SNAPLEN:
            raise self._bad(
                f"has an absurd snap length of {snaplen} bytes, {MAX_SNAPLEN} at most are taken; "
                "rewrite it with editcap (from Wireshark)"
            )

    def _no_clock(self, more: int, stamp: int) -> HelperdError:
        seconds = stamp // 1_000_000_000
        return self._bad(
            f"is damaged: packet {self.packets + more + 1} is of second {seconds} since 1970, "
            "which no frame can hold (years 1970 to 2106)"
        )

    def _bad(self, text: str) -> HelperdError:
        return HelperdError("bad-capture", f"{self.name} {text}")

    def _unknown(self, data: bytes) -> HelperdError:
        return self._bad(
            f"is not a capture: it starts with {data[:8].hex(' ')}, which is neither pcap nor pcapng"
        )


_READ = frozenset(
    {
        pcapng.SECTION_HEADER,
        pcapng.INTERFACE_DESCRIPTION,
        pcapng.PACKET_OLD,
        pcapng.SIMPLE_PACKET,
        pcapng.ENHANCED_PACKET,
    }
)
