"""The bytes that every case moves: one set of packets, as a pcap file and as a pcapng stream.

Made with struct alone, so that a figure does not depend on the code it judges.
"""

from __future__ import annotations

import dataclasses
import random
import struct
from pathlib import Path

LINKTYPE_ETHERNET = 1
SNAP = 262144
BASE = 1_700_000_000  # seconds since 1970 of the first packet; the others follow 10 us apart


@dataclasses.dataclass(frozen=True, slots=True)
class Workload:
    """The packets of one benchmark run.

    Attributes:
        pcap: a classic pcap file with them (nanosecond stamps, Ethernet).
        pcapng: the same packets as pcapng, one interface.
        packets: how many.
        nbytes: the sum of their captured lengths.
    """

    pcap: Path
    pcapng: Path
    packets: int
    nbytes: int


def make(folder: Path, *, packets: int, size: int | None) -> Workload:
    """Write the files into `folder`.

    Args:
        folder: an existing directory.
        packets: how many.
        size: bytes of each; None mixes 60 to 1514, most of them small or full, as on a network.
    """
    dice = random.Random(1)
    sizes = [size or dice.choice((60, 60, 90, 200, 590, 1514)) for _ in range(packets)]
    filler = dice.randbytes(max(sizes) + 256)
    pcap, pcapng = folder / "workload.pcap", folder / "workload.pcapng"
    with pcap.open("wb") as old, pcapng.open("wb") as new:
        old.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, SNAP, LINKTYPE_ETHERNET))
        new.write(struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28))
        tsresol = struct.pack("<HHB3xHH", 9, 1, 9, 0, 0)  # if_tsresol 9, end of options
        length = 20 + len(tsresol)
        new.write(
            struct.pack("<IIHHI", 1, length, LINKTYPE_ETHERNET, 0, SNAP) + tsresol + struct.pack("<I", length)
        )
        for number, nbytes in enumerate(sizes):
            content = number.to_bytes(8, "big") + filler[number % 256 : number % 256 + nbytes - 8]
            stamp = BASE * 10**9 + number * 10_000
            old.write(struct.pack("<IIII", stamp // 10**9, stamp % 10**9, nbytes, nbytes) + content)
            padding = -nbytes % 4
            total = 32 + nbytes + padding
            head = struct.pack("<7I", 6, total, 0, stamp >> 32, stamp & 0xFFFFFFFF, nbytes, nbytes)
            new.write(head + content + bytes(padding) + struct.pack("<I", total))
    return Workload(pcap, pcapng, packets, sum(sizes))
