"""A pcap file for the helper that plays one. Made with struct alone: no figure depends on the code it judges."""

from __future__ import annotations

import struct
from pathlib import Path

SNAP = 262144
BASE = 1_700_000_000  # seconds since 1970 of the first packet; the others follow 10 us apart


def make(folder: Path, *, packets: int, size: int) -> Path:
    """Write classic pcap, nanosecond stamps, Ethernet, or find it written; the last packet as drain.c wants it."""
    file = folder / f"{packets}-{size}.pcap"
    if file.exists():
        return file
    filler = bytes(range(256)) * (size // 256 + 1)
    with file.open("wb") as out:
        out.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, SNAP, 1))
        for number in range(1, packets + 1):
            stamp = BASE * 10**9 + number * 10_000
            mark = packets if number == packets else 0
            out.write(struct.pack("<IIIIQQ", stamp // 10**9, stamp % 10**9, size, size, mark, 0))
            out.write(filler[: size - 16])
    return file
