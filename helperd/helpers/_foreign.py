"""Captures that are not read here: what they are, and which tool makes of them what is. Pure.

Source of facts: the first bytes of what editcap (Wireshark 4.0) writes in each format, and that editcap reads it back;
older record heads of pcap: as ``editcap -F`` nokiapcap, rh6_1pcap and suse6_3pcap writes them.
"""

from __future__ import annotations

import shlex
import struct
from typing import Final

FOREIGN: Final = {
    b"snoop\0\0\0": "a capture of snoop",
    b"RTSS": "a capture of Microsoft's Network Monitor 1",
    b"GMBU": "a capture of Microsoft's Network Monitor 2",
    b"TRSNIFF data    \x1a": "a capture of Sniffer",
    b"XCP\0": "a capture of NetXRay or Sniffer",
    b"\xaa\xaa\xaa\xaa": "a capture of 5View",
    b"\x01\x10L\0\x01\x05": "a capture of LANalyzer",
    b"\x05VNF": "a capture of Visual Networks",
    b"\xac\x01\0\x1c": "a capture of Ixia",
    b"\xab\x01\0\x1c": "a capture of Ixia",
}
"""How captures of other programs begin."""
PACKED: Final = {
    b"\xfd7zXZ\0": ("compressed with xz", "xz -dc {0} > {0}.unpacked"),
    b"BZh": ("compressed with bzip2", "bzip2 -dc {0} > {0}.unpacked"),
    b"\x04\x22\x4d\x18": ("compressed with lz4", "lz4 -dc {0} > {0}.unpacked"),
    b"PK\3\4": ("a ZIP archive", "python3 -m zipfile -e {0} {0}.unpacked"),
}
"""How files begin that are not unpacked here, what they are and how to unpack them."""
GAPS: Final = (0, 4, 8, 12)
"""Bytes between a record's head and its packet that there are in pcap files: none but in those of some old programs."""

_HEADER: Final = 24
_RECORD: Final = 16
_ENOUGH: Final = 4  # records in a row that fit are no accident
_LARGEST: Final = 262_144
_SECOND: Final = 1_000_000_000
_YEARS: Final = 100_000_000  # seconds


def describe(name: str, data: bytes) -> str:
    """What a stream is that begins neither like pcap nor like pcapng, as far as that is known, and what to do."""
    for magic, (what, command) in PACKED.items():
        if data.startswith(magic):
            return f"is {what}; unpack it: {command.format(_file(name))}"
    for magic, what in FOREIGN.items():
        if data.startswith(magic):
            return f"is {what}, neither pcap nor pcapng; Wireshark's {_cure(name)}"
    start = data[:8].hex(" ")
    return (
        f"is not a capture: it starts with {start}, which is neither pcap nor pcapng; "
        f"if Wireshark opens it, its {_cure(name)}"
    )


def describe_variant(name: str, head: bytes, order: str, gap: int) -> str:
    """What is wrong with a pcap file whose record heads are longer than they should be, and what to do; else nothing.

    Args:
        name: of the file.
        head: its first bytes, more than two records.
        order: byte order, ``<`` or ``>``.
        gap: bytes between a record's head and its packet that its magic stands for.
    """
    if _fits(head, order, gap):
        return ""
    others = [other for other in GAPS if other != gap and _fits(head, order, other, surely=True)]
    if not others:
        return ""
    more = others[0] - gap
    how = f"{abs(more)} bytes {'more' if more > 0 else 'fewer'} in each record's head"
    return f"is pcap of an old variant, with {how}; Wireshark's {_cure(name)}"


def _fits(head: bytes, order: str, gap: int, *, surely: bool = False) -> bool:
    """Whether the records are plausible one after the other when their heads are so long.

    ``surely``: not by accident, as zeros would be; they are no packets of nothing, and of one time.
    """
    unpack = struct.Struct(f"{order}4I").unpack_from
    at, records = _HEADER, 0
    first = None
    while at + _RECORD <= len(head) and records < _ENOUGH:
        seconds, fraction, captured, original = unpack(head, at)
        first = seconds if first is None else first
        if fraction >= _SECOND or captured > original or captured > _LARGEST:
            return False
        if surely and (not captured or abs(seconds - first) > _YEARS):
            return False
        at += _RECORD + gap + captured
        records += 1
    return records > 1 or at == len(head)


def _file(name: str) -> str:
    return shlex.quote(name) if "/" in name else "OLD"


def _cure(name: str) -> str:
    file = _file(name)
    return f"editcap converts it: editcap -F pcapng {file} {file}.pcapng"
