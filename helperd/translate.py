"""Packet runs of any generation become pcapng blocks: once per source, whatever the number of consumers. Pure.

Rules:
  1. Single-packet frames are rewritten as Enhanced Packet Blocks, one ``join`` per run of neighbours: those of a
     usual layout by their mould, all others by the generation's decoder.
  2. Bulk frames hold such blocks already; their slices pass untouched.
  3. A data report without a packet (only a signal, a position or JSON) makes no block and is told apart in the count.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from helperd import pcapng
from helperd.errors import RemoteProtocolError
from helperd.layout import LAYOUTS, MAX_CONTENT, MAX_MOULDS, mould
from helperd.routing import Interfaces, Segment
from helperd.wire.frames import Kind, Run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from helperd.layout import Layout, Mould
    from helperd.wire.frames import Generation
    from helperd.wire.messages import Signal

LINKTYPES: Final = {11: 100, 12: 101, 14: 101, 15: 102, 16: 103}
"""Link types whose number in memory (DLT_) differs from the one in files (LINKTYPE_), from libpcap's documentation."""

MAX_LINKTYPE: Final = 0xFFFF
MAX_LINKTYPES: Final = 16
"""Link types that one incarnation may bring; more would let one helper fill every reader's list of interfaces."""
UNKNOWN_LINKTYPE: Final = 147
"""DLT_USER0: for packets of a helper that never names a link type."""

_WORTH_A_MOULD: Final = 8
"""Frames in a run from which on looking for usual layouts pays; below it a quiet source needs no memory for them."""
_MISFITS: Final = 16
"""Frames of an unusual layout in one run after which its rest goes the general way at once."""
_LENGTH: Final = struct.Struct(">I").unpack_from


def _close(segments: list[Segment], interface: int, blocks: list[bytes]) -> None:
    """Make what has been gathered a segment, if it is anything."""
    if blocks:
        joined = b"".join(blocks)
        segments.append(Segment(interface, (joined,), len(joined), len(blocks)))
        blocks.clear()


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
        self._layout = LAYOUTS.get(generation.name)
        self._moulds: dict[int, dict[int, Mould]] = {}
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

    def translate(
        self, runs: Sequence[Run], arrived_ns: int, segments: list[Segment] | None = None
    ) -> list[Segment]:
        """Turn one read's runs into segments, in order.

        Args:
            runs: packet runs of one read.
            arrived_ns: nanoseconds since 1970, for packets that carry no time of their own.
            segments: take them one by one as they are made, so that they are there when a later frame is refused.

        Raises:
            RemoteProtocolError: "bad-payload", "bad-bulk": a frame does not hold what its header claims.
        """
        segments = [] if segments is None else segments
        for run in runs:
            if run.kind is Kind.PACKETS:
                self._rewrite(run, arrived_ns, segments)
            else:
                self._pass(run, segments)
        return segments

    def _rewrite(self, run: Run, arrived_ns: int, segments: list[Segment]) -> None:
        """Frames of a usual layout go the short way, in stretches; what it does not take goes the general way."""
        layout = self._layout if run.frames >= _WORTH_A_MOULD else None
        before = sum(segment.packets for segment in segments)
        if layout is None:
            self._rewrite_any(run, arrived_ns, segments)
        else:
            self._rewrite_usual(run, layout, arrived_ns, segments)
        self.empty += run.packets + before - sum(segment.packets for segment in segments)

    def _rewrite_usual(self, run: Run, layout: Layout, arrived_ns: int, segments: list[Segment]) -> None:
        data, position, end = run.data, run.start, run.stop
        header, shape, fill = layout
        blocks: list[bytes] = []
        interface = -1
        moulds: dict[int, Mould] = {}
        misfits = _MISFITS
        try:
            while position < end:
                position = fill(data, position, end, moulds, blocks.append)
                if position == end:
                    break
                length = _LENGTH(data, position + 8)[0]
                stop = position + header + length
                found = shape(data, position, stop)
                if found is not None:
                    number = self.number(found.dlt)
                    if number != interface:
                        _close(segments, interface, blocks)
                        interface = number
                        moulds = self._moulds_of(number)
                    moulds[length] = mould(data, position, found, header, number)
                    position = fill(data, position, stop, moulds, blocks.append)
                if position != stop:
                    _close(segments, interface, blocks)
                    misfits -= 1
                    stop = stop if misfits else end
                    self._rewrite_any(Run(run.kind, data, position, stop, 1, 1), arrived_ns, segments)
                    position = stop
        finally:
            _close(segments, interface, blocks)

    def _moulds_of(self, interface: int) -> dict[int, Mould]:
        """The moulds of an interface; all are thrown away when there are too many."""
        if sum(map(len, self._moulds.values())) >= MAX_MOULDS:
            self._moulds.clear()
        return self._moulds.setdefault(interface, {})

    def _rewrite_any(self, run: Run, arrived_ns: int, segments: list[Segment]) -> None:
        blocks: list[bytes] = []
        current_dlt: int | None = -1
        interface = -1
        try:
            for dlt, sec, usec, original, content, signal in self._generation.packets(run):
                if dlt != current_dlt:
                    _close(segments, interface, blocks)
                    current_dlt = dlt
                    interface = self.number_of(self.dlt) if dlt is None else self.number(dlt)
                stamp = arrived_ns if sec is None else sec * 1_000_000_000 + usec * 1000
                if stamp >> 64 or original >> 32:
                    raise RemoteProtocolError(
                        "bad-payload",
                        f"a packet of {original} bytes at {sec} s and {usec} us: no capture can say that",
                    )
                comment = "" if signal is None else describe(signal)
                blocks.append(
                    pcapng.packet_block(interface, stamp, content[:MAX_CONTENT], original, comment=comment)
                )
        finally:
            _close(segments, interface, blocks)

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
