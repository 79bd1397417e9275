"""Capture files, pcap and pcapng, cut into packets: bytes in, packets out, no file and no clock.

Rules:
  1. Only what makes the next record's place unknowable ends a stream: a length that cannot be, a section without a
     byte order. Every whole packet before it is delivered; the fault is raised by the next call.
  2. A packet whose record says what cannot be is delivered with the nearest value that can (a stamp), or left out (no
     such interface, longer than its block), and counted in ``odd``. Fields that nothing depends on are not judged.
  3. Nothing a file claims makes us allocate: memory is bounded by ``MAX_BLOCK`` plus one read; of longer packets the
     first ``KEPT`` bytes are held, and what follows is passed over.
  4. A packet keeps its block's options. Blocks that are neither packets nor needed to read them are passed over, and
     counted by kind in ``left_out``.
  5. Link types are given in libpcap's numbers (DLT), which differ from those in files for a few; stamps are
     nanoseconds since 1970.

::

    pcap    magic, version, zone, sigfigs, snap length, link type
            then per packet: seconds, fraction, captured, original, bytes
    pcapng  section header, then blocks
            interface blocks give link type, stamp resolution and offset, by number

Source of facts: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng; the order of lengths before pcap 2.4 and in 543.0,
and the longer records of magic A1B2CD34: pcap-savefile(5) and the notes of the libpcap project. What peers make of
the rest was tried with tshark 4.0 and tcpdump 4.99.
"""

from __future__ import annotations

import struct
from collections import Counter
from typing import Final, NamedTuple

from helperd import pcapng
from helperd.errors import HelperdError
from helperd.helpers._leftout import LeftOut
from helperd.helpers._options import packet_options

MAX_PACKET: Final = 128 << 20
"""Bytes; a packet that claims more is damage. The most that any reader takes, of the link types of ``GIANTS``."""
MAX_BLOCK: Final = 16 << 20
"""Bytes; of longer packets only ``KEPT`` bytes are held. A record of pcap that claims more is damage, but for
``GIANTS``: nothing else in it could tell."""
GIANTS: Final = frozenset({231, 249, 279})  # D-Bus, USBPcap, EBHSCR
KEPT: Final = 1 << 20
BAD_STAMP: Final = "bad-stamp"
BAD_RECORD: Final = "bad-record"

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
AIX = {
    6: 1,
    9: 6,
    15: 10,
    24: 0,
}  # its tcpdump writes version 2.2, nanoseconds, and the kernel's numbers for links

_PCAP_HEADER = 24
_RECORD = 16
_LONGEST_MAGIC = 16  # of what is told by name, though not read here

Captured = tuple[int, "int | None", bytes, int, bytes]
"""One packet: link type, nanoseconds since 1970 or None when the file has no stamp, captured bytes, true length,
options of its block as ``pcapng.packet_block`` takes them."""

LEFT_OUT: Final = {
    pcapng.NAME_RESOLUTION: "name resolution blocks",
    pcapng.INTERFACE_STATISTICS: "interface statistics blocks",
    pcapng.JOURNAL_ENTRY: "systemd journal blocks",
    pcapng.DECRYPTION_SECRETS: "decryption secrets blocks",
    pcapng.CUSTOM_COPY: "custom blocks",
    pcapng.CUSTOM_NO_COPY: "custom blocks",
}
UNKNOWN_BLOCK: Final = "blocks of unknown type"
BAD_OPTION: Final = "damaged options of packets"


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
        odd: packets delivered with another stamp than their own (``BAD_STAMP``), or left out (``BAD_RECORD``).
        left_out: what was passed over, by kind, in words.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.format = ""
        self.dlt: int | None = None
        self.packets = 0
        self.odd: Counter[str] = Counter()
        self.left_out = LeftOut()
        self._rest = bytearray()
        self._need = 4  # bytes to have before parsing makes sense again
        self._skip = 0  # bytes of an uninteresting block still to be passed over
        self._at = 0  # offset in the stream of the first byte of _rest
        self._fault: HelperdError | None = None
        self._order = "<"
        self._head, self._word, self._fields = _UNPACK["<"]
        self._unit = 1000
        self._gap = 0
        self._lengths_swapped = False
        self._maybe_swapped = False
        self._record = struct.Struct("<4I")
        self._interfaces: list[_Interface | None] = []  # None: a block too short to say what

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

    def check_variant(self, head: bytes) -> None:
        """Refuse a pcap file with record heads of another length than its magic stands for.

        Args:
            head: the beginning of the file; more than a record or two.

        Raises:
            HelperdError: "bad-capture".
        """
        if self.format == "pcap" and not (self._lengths_swapped or self._maybe_swapped):
            from helperd.helpers._foreign import describe_variant

            if text := describe_variant(self.name, head, self._order, self._gap):
                raise self._bad(text)

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
            elif len(data) < _LONGEST_MAGIC:
                self._need = _LONGEST_MAGIC
                return 0
            else:
                raise self._unknown(data)
        if self.format == "pcap":
            return self._parse_records(data, 0, found)
        return self._parse_blocks(data, found)

    def _begin_pcap(self, data: bytes) -> None:
        """Read the file header."""
        self._order, self._unit, self._gap = PCAP_MAGICS[data[:4]]
        major, minor, _, _, _, linktype = struct.unpack_from(self._order + "HHiIII", data, 4)
        if major < 2:
            raise self._bad(f"is pcap of version {major}.{minor}; no program reads versions before 2")
        self._lengths_swapped = (major == 2 and minor < 3) or major == 543
        self._maybe_swapped = (major, minor) == (2, 3)
        self._record = struct.Struct(self._order + "4I")
        linktype &= 0xFFFF  # the upper half says how long the FCS is
        if (major, minor) == (2, 2) and linktype in AIX:
            linktype, self._unit = AIX[linktype], 1
        self.dlt = TO_DLT.get(linktype, linktype)
        self.format = "pcap"

    def _parse_records(self, data: bytes, at: int, found: list[Captured]) -> int:
        dlt = self.dlt
        assert dlt is not None
        unpack, unit, gap = self._record.unpack_from, self._unit, self._gap
        swapped = self._lengths_swapped or self._maybe_swapped
        longest = MAX_PACKET if dlt in GIANTS else MAX_BLOCK
        end = len(data)
        while True:
            begin = at + _RECORD + gap
            if begin > end:
                self._need = _RECORD + gap
                return at
            seconds, fraction, captured, original = unpack(data, at)
            if swapped and (self._lengths_swapped or captured > original):
                captured, original = original, captured
            stop = begin + captured
            if captured > KEPT:
                if captured > longest:
                    raise self._bad(
                        f"is damaged: the record at byte {self._at + at} claims a packet of {captured} bytes"
                    )
                stop = begin + KEPT
            if stop > end:
                self._need = stop - at
                return at
            found.append((dlt, seconds * 1_000_000_000 + fraction * unit, data[begin:stop], original, b""))
            at = begin + captured
            if at > end:
                return self._pass_over(at - end, end)

    def _pass_over(self, more: int, end: int) -> int:
        """What begins before ``end`` has ``more`` bytes behind it that nobody wants."""
        self._skip, self._need = more, 1
        return end

    def _parse_blocks(self, data: bytes, found: list[Captured]) -> int:
        at, end = 0, len(data)
        while True:
            if at + 12 > end:
                self._need = 12
                return at
            if data[at : at + 4] == pcapng.SECTION_MAGIC:
                self._begin_section(data, at)
            kind, total = self._head(data, at)
            if total < pcapng.MIN_BLOCK or total > _LONGEST.get(kind, total):
                raise self._bad(
                    f"is damaged: the block at byte {self._at + at} claims a length of {total} bytes"
                )
            stop = held = at + (total + 3 & ~3)  # some writers forget the padding in the length, but write it
            giant = total > MAX_BLOCK
            if giant:
                held = at + (KEPT if kind in _PACKETS else pcapng.MIN_BLOCK)
            if held > end:
                self._need = held - at
                return at
            if not giant and self._word(data, stop - 4)[0] != total:
                raise self._bad(f"is damaged: the two lengths of the block at byte {self._at + at} differ")
            if kind == pcapng.ENHANCED_PACKET and not giant and self._read_plain(data, at, stop, found):
                pass
            elif kind in _READ:
                body = data[at + 8 : held if giant else held - 4]
                self._read_block(kind, body, stop - at - pcapng.MIN_BLOCK, found)
            else:
                self.left_out[LEFT_OUT.get(kind, UNKNOWN_BLOCK)] += 1
            if stop > end:
                return self._pass_over(stop - end, end)
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
        self._head, self._word, self._fields = _UNPACK[self._order]
        self._interfaces = []

    def _read_plain(self, data: bytes, at: int, stop: int, found: list[Captured]) -> bool:
        """Take in an Enhanced Packet Block without options and with nothing odd, as most are; False: it is another."""
        begin = at + 28
        if begin + 4 > stop:
            return False
        number, high, low, captured, original = self._fields(data, at + 8)
        if begin + (captured + 3 & ~3) + 4 != stop or number >= len(self._interfaces):
            return False
        interface = self._interfaces[number]
        if interface is None:
            return False
        dlt, _, multiply, divide, offset_ns = interface
        stamp = (high << 32 | low) * multiply // divide + offset_ns
        if not 0 <= stamp <= pcapng.LAST_STAMP:
            return False
        found.append((dlt, stamp, data[begin : begin + captured], original, b""))
        return True

    def _read_block(self, kind: int, body: bytes, size: int, found: list[Captured]) -> None:
        """Take in one block of a kind in ``_READ``: ``body`` is its beginning, ``size`` the length of all of it."""
        try:
            if kind in _PACKETS:
                self._read_packet(kind, body, size, found)
            elif kind == pcapng.INTERFACE_DESCRIPTION:
                self._interfaces.append(self._read_interface(body))
            else:
                major, minor = struct.unpack_from(self._order + "2H", body, 4)
                if major != 1:
                    raise self._bad(f"is pcapng of version {major}.{minor}; only version 1 is known")
        except struct.error:
            if kind == pcapng.SECTION_HEADER:
                raise self._bad("is damaged: a section's header is too short") from None
            if kind == pcapng.INTERFACE_DESCRIPTION:
                self._interfaces.append(None)  # it has a number all the same
            else:
                self.odd[BAD_RECORD] += 1
        if self.dlt is None and self._interfaces and self._interfaces[-1] is not None:
            self.dlt = self._interfaces[-1].dlt

    def _read_packet(self, kind: int, body: bytes, size: int, found: list[Captured]) -> None:
        order = self._order
        units: int | None = None
        number, begin, options = 0, 20, b""
        if kind == pcapng.ENHANCED_PACKET:
            number, high, low, captured, original = struct.unpack_from(order + "5I", body)
            units = high << 32 | low
        elif kind == pcapng.PACKET_OLD:
            number, drops, high, low, captured, original = struct.unpack_from(order + "2H4I", body)
            units = high << 32 | low
            if drops != _UNKNOWN_DROPS:
                options = pcapng.option(pcapng.EPB_DROPCOUNT, drops.to_bytes(8, "little"))
        else:
            (original,) = struct.unpack_from(order + "I", body)
            captured, begin = original, 4
        interface = self._interfaces[number] if number < len(self._interfaces) else None
        if interface is None:
            self.odd[BAD_RECORD] += 1
            return
        if kind == pcapng.SIMPLE_PACKET:
            captured = min(original, interface.snaplen or original, size - 4)
        if captured > size - begin:
            self.odd[BAD_RECORD] += 1
            return
        data = body[begin : begin + captured]
        stamp = None
        if units is not None:  # a Simple Packet Block has neither stamp nor options
            options += self._options(body, begin + captured + (-captured & 3), size)
            stamp = units * interface.multiply // interface.divide + interface.offset_ns
            if not 0 <= stamp <= pcapng.LAST_STAMP:
                self.odd[BAD_STAMP] += 1
                options += pcapng.comments(f"time stamp {stamp} ns since 1970")
                stamp = pcapng.LAST_STAMP if stamp > 0 else 0
        found.append((interface.dlt, stamp, data, original, options))

    def _options(self, body: bytes, at: int, size: int) -> bytes:
        """The options of a packet, from ``at`` on; those of a giant, whose end is not held, are left out."""
        if at >= size:
            return b""
        options, broken = packet_options(body, at, self._order) if size == len(body) else (b"", 1)
        if broken:
            self.left_out[BAD_OPTION] += broken
        return options

    def _read_interface(self, body: bytes) -> _Interface:
        linktype, _, snaplen = struct.unpack_from(self._order + "HHI", body)
        dlt = TO_DLT.get(linktype, linktype)
        resolution: int | None = None
        offset: int | None = None
        at = 8
        while at + 4 <= len(body):
            code, length = struct.unpack_from(self._order + "HH", body, at)
            value = body[at + 4 : at + 4 + length]
            if code == pcapng.OPT_END:
                break
            if code == pcapng.IF_TSRESOL and length == len(value) == 1 and resolution is None:
                resolution = value[0]
            elif code == pcapng.IF_TSOFFSET and len(value) == 8 and offset is None:
                offset = int.from_bytes(value, "little" if self._order == "<" else "big", signed=True)
            at += 4 + length + (-length & 3)
        resolution = 6 if resolution is None else resolution
        offset_ns = (offset or 0) * 1_000_000_000
        exponent = resolution & 0x7F
        if resolution & 0x80:
            return _Interface(dlt, snaplen, 1_000_000_000, 1 << exponent, offset_ns)
        if exponent <= 9:
            return _Interface(dlt, snaplen, 10 ** (9 - exponent), 1, offset_ns)
        return _Interface(dlt, snaplen, 1, 10 ** (exponent - 9), offset_ns)

    def _bad(self, text: str) -> HelperdError:
        return HelperdError("bad-capture", f"{self.name} {text}")

    def _unknown(self, data: bytes) -> HelperdError:
        from helperd.helpers._foreign import describe

        return self._bad(describe(self.name, data))


_UNPACK = {
    order: tuple(struct.Struct(order + fields).unpack_from for fields in ("2I", "I", "5I"))
    for order in ("<", ">")
}
"""Of a section's byte order: how to read the head of a block, its last word, and the fields of a packet."""
_UNKNOWN_DROPS = 0xFFFF
_PACKETS = frozenset({pcapng.PACKET_OLD, pcapng.SIMPLE_PACKET, pcapng.ENHANCED_PACKET})
_LONGEST = {
    pcapng.SECTION_HEADER: MAX_BLOCK,
    pcapng.INTERFACE_DESCRIPTION: MAX_BLOCK,
    **dict.fromkeys(_PACKETS, MAX_PACKET),
}
_READ = frozenset(_LONGEST)
