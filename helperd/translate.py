"""Packet runs of any generation become pcapng blocks: once per source, whatever the number of consumers. Pure.

Rules:
  1. Single-packet frames are rewritten as Enhanced Packet Blocks, one ``join`` per run of neighbours.
  2. Bulk frames hold such blocks already; their slices pass untouched.
  3. A data report without a packet (only a signal, a position or JSON) makes no block and is told apart in the count.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from helperd import pcapng
from helperd.errors import RemoteProtocolError
from helperd.routing import Interfaces, Segment
from helperd.wire.frames import Kind, Run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from helperd.wire.frames import Generation
    from helperd.wire.messages import Signal

LINKTYPES: Final = {11: 100, 12: 101, 14: 101, 15: 102, 16: 103}
"""Link types whose number in memory (DLT_) differs from the one in files (LINKTYPE_), from libpcap's documentation."""

MAX_LINKTYPE: Final = 0xFFFF
MAX_LINKTYPES: Final = 16
"""Link types that one incarnation may bring; more would let one helper fill every reader's list of interfaces."""
UNKNOWN_LINKTYPE: Final = 147
"""DLT_USER0: for packets of a helper that never names a link type."""

_HEAD: Final = struct.Struct("<IIIIIII").pack
_TAIL: Final = struct.Struct("<I").pack
_PAD: Final = (b"", b"\0\0\0", b"\0\0", b"\0")


class Translator:
    """Blocks of one incarnation of a source.

    Args:
        source: the source's name.
        interfaces: the daemon's interfaces; the first packet of a link type takes its number there.
        generation: what the helper speaks.
    """

    def __init__(self, source: str, interfaces: Interfaces, generation: Generation) -> None:
        self._source = source
        self._interfaces = interfaces
        self._generation = generation
        self._numbers: dict[int, int] = {}
        self.dlt: int | None = None
        self.hardware = ""
        self.definition = ""
        self.empty = 0

    def number(self, dlt: int) -> int:
        """The interface number of a libpcap link type (DLT_)."""
        known = self._numbers.get(dlt)
        if known is None:
            if not 0 <= dlt <= MAX_LINKTYPE or len(self._numbers) >= MAX_LINKTYPES:
                raise RemoteProtocolError(
                    "bad-payload",
                    f"link type {dlt}: a source may have {MAX_LINKTYPES} of them, numbers up to {MAX_LINKTYPE}",
                )
            known = self._numbers[dlt] = self._interfaces.number(
                self._source, LINKTYPES.get(dlt, dlt), hardware=self.hardware, definition=self.definition
            )
        return known

    def translate(self, runs: Sequence[Run], arrived_ns: int) -> list[Segment]:
        """Turn one read's runs into segments, in order.

        Args:
            runs: packet runs of one read.
            arrived_ns: nanoseconds since 1970, for packets that carry no time of their own.

        Raises:
            RemoteProtocolError: "bad-payload", "bad-bulk": a frame does not hold what its header claims.
        """
        segments: list[Segment] = []
        for run in runs:
            if run.kind is Kind.PACKETS:
                self._rewrite(run, arrived_ns, segments)
            else:
                self._pass(run, segments)
        return segments

    def _rewrite(self, run: Run, arrived_ns: int, segments: list[Segment]) -> None:
        parts: list[bytes | memoryview] = []
        add = parts.append
        current_dlt: int | None = -1
        interface = -1
        packets = 0
        done = 0
        nbytes = 0
        for dlt, sec, usec, original, content, signal in self._generation.packets(run):
            if dlt != current_dlt:
                if packets:
                    segments.append(Segment(interface, (b"".join(parts),), nbytes, packets))
                    parts.clear()
                    done += packets
                    packets = nbytes = 0
                current_dlt = dlt
                interface = self.number_of(self.dlt) if dlt is None else self.number(dlt)
            stamp = arrived_ns if sec is None else sec * 1_000_000_000 + usec * 1000
            if signal is not None:
                block = pcapng.packet_block(interface, stamp, content, original, comment=describe(signal))
                add(block)
                nbytes += len(block)
            else:
                size = len(content)
                pad = _PAD[size & 3]
                total = 32 + size + len(pad)
                add(_HEAD(6, total, interface, stamp >> 32, stamp & 0xFFFFFFFF, size, original))
                add(content)
                add(pad)
                add(_TAIL(total))
                nbytes += total
            packets += 1
        if packets:
            segments.append(Segment(interface, (b"".join(parts),), nbytes, packets))
            done += packets
        self.empty += run.packets - done

    def number_of(self, dlt: int | None) -> int:
        """The interface number of the link type in an open report, which may be absent or nonsense."""
        return self.number(dlt if dlt is not None and 0 <= dlt <= MAX_LINKTYPE else UNKNOWN_LINKTYPE)

    def _pass(self, run: Run, segments: list[Segment]) -> None:
        for interface, slices, nbytes, packets in self._generation.blocks(run):
            segments.append(Segment(interface, slices, nbytes, packets))


def describe(signal: Signal) -> str:
    """A packet comment that keeps a signal block for readers: ``signal=-60dBm channel=6 freq=2437000kHz``."""
    fields = (
        ("signal", signal.dbm, "dBm"),
        ("noise", signal.noise_dbm, "dBm"),
        ("rssi", signal.rssi, ""),
        ("noise_rssi", signal.noise_rssi, ""),
        ("freq", signal.khz, "kHz"),
        ("rate", signal.rate, ""),
    )
    words = [f"{name}={value:.15g}{unit}" for name, value, unit in fields if value is not None]
    if signal.channel:
        words.append(f"channel={signal.channel}")
    return " ".join(words)
