"""Packet runs of any generation become pcapng blocks: once per source, whatever the number of consumers. Pure.

Rules:
  1. Single-packet frames are rewritten as Enhanced Packet Blocks, one ``join`` per run of neighbours: those of a
     usual layout by their mould, all others by the generation's decoder.
  2. Bulk frames hold such blocks already; their slices pass untouched.
  3. A JSON report becomes a packet of a link type of its own, and goes along as it is for readers of lines. One that
     comes with a packet stands in the packet's comment: one frame, one packet.
  4. A data report with neither (only a signal or a position) makes no block and is told apart in the count.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from helperd import pcapng
from helperd.errors import RemoteProtocolError
from helperd.layout import FEW_MOULDS, LAYOUTS, MAX_MOULDS, mould
from helperd.ledger import Ledger
from helperd.reports import LINKTYPE_JSON, Report
from helperd.routing import MAX_LINKTYPES, Interfaces, Segment, segment_of
from helperd.wire.beside import describe
from helperd.wire.frames import PACKETS, Run, packet_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from helperd.layout import Layout, Mould
    from helperd.wire.frames import Generation, Packet
    from helperd.wire.messages import DataReport

LINKTYPES: Final = {11: 100, 12: 101, 14: 101, 15: 102, 16: 103}
"""Link types whose number in memory (DLT_) differs from the one in files (LINKTYPE_), from libpcap's documentation."""

MAX_LINKTYPE: Final = 0xFFFF
UNKNOWN_LINKTYPE: Final = 147
"""DLT_USER0: for packets of a helper that never names a link type."""

_WORTH_A_MOULD: Final = 8
"""Frames in a run from which on looking for usual layouts pays; below it only for a length that came just before."""
_MISFITS: Final = 16
"""Frames of an unusual layout in one run after which its rest goes the general way at once."""
_LENGTH: Final = struct.Struct(">I").unpack_from


def _close(
    segments: list[Segment], interface: int, blocks: list[bytes], reports: list[Report] | None = None
) -> None:
    """Make what has been gathered a segment, if it is anything."""
    if blocks:
        joined = b"".join(blocks) if len(blocks) > 1 else blocks[0]
        told = tuple(reports) if reports else ()
        segments.append(segment_of((interface, (joined,), len(joined), len(blocks), told)))
        blocks.clear()
        if reports:
            reports.clear()


class Translator:
    """Blocks of one incarnation of a source.

    Args:
        source: the source's name.
        interfaces: the daemon's interfaces; the first packet of a link type takes its number there.
        generation: what the helper speaks.
        ledger: where packets that are longer than readers take are counted; they are cut.

    Attributes:
        cut: how many of them there were.
        refused: link types that it may not have, the first few; packets of theirs are lost as ``link-type``.
    """

    def __init__(
        self, source: str, interfaces: Interfaces, generation: Generation, ledger: Ledger | None = None
    ) -> None:
        self._source = source
        self._interfaces = interfaces
        self._generation = generation
        self._numbers: dict[int, int] = {}
        self._layout = LAYOUTS.get(generation.name)
        self._moulds: dict[int, dict[int, Mould]] = {}
        self._interface = -1  # of the last frame of a usual layout
        self._length = -1  # of the first frame of the last short run
        self.dlt: int | None = None
        self.hardware = ""
        self.definition = ""
        self.ledger = ledger or Ledger()
        self.cut = 0
        self.refused: list[int] = []

    def number(self, dlt: int) -> int:
        """The interface number of a libpcap link type (DLT_)."""
        known = self._numbers.get(dlt)
        if known is None:
            linktype = LINKTYPES.get(dlt, dlt)
            if not 0 <= dlt <= MAX_LINKTYPE or not self._interfaces.may_have(self._source, linktype):
                raise RemoteProtocolError(
                    "bad-payload",
                    f"link type {dlt}: a source may have {MAX_LINKTYPES} of them, numbers up to {MAX_LINKTYPE}",
                )
            definition = f"JSON reports of {self.definition}" if dlt == LINKTYPE_JSON else self.definition
            known = self._numbers[dlt] = self._interfaces.number(
                self._source, linktype, hardware=self.hardware, definition=definition
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
        index = 0
        for run in runs:
            if run.kind is not PACKETS:
                self._pass(run, segments)
            elif run.frames < _WORTH_A_MOULD and self._fill(run, segments):
                pass
            elif self._layout is not None and (
                run.frames >= _WORTH_A_MOULD or (run.frames and self._again(run))
            ):
                self._rewrite_usual(run, self._layout, arrived_ns, segments, index)
            else:
                self._rewrite_any(run, arrived_ns, segments, index)
            index += run.packets
        return segments

    def _fill(self, run: Run, segments: list[Segment]) -> bool:
        """Whether the few frames of a run fit the moulds that there are; then their segment is made."""
        moulds = self._moulds.get(self._interface)
        if not moulds or self._layout is None:
            return False
        blocks: list[bytes] = []
        if self._layout.fill(run.data, run.start, run.stop, moulds, blocks.append) != run.stop:
            return False
        _close(segments, self._interface, blocks)
        return True

    def _again(self, run: Run) -> bool:
        """Whether a short run begins with a frame as long as that of the one before: a mould for it may pay."""
        before, self._length = self._length, _LENGTH(run.data, run.start + 8)[0]
        return self._length == before

    def _rewrite_usual(
        self, run: Run, layout: Layout, arrived_ns: int, segments: list[Segment], index: int
    ) -> None:
        """Frames of a usual layout go the short way, in stretches; what it does not take goes the general way."""
        data, position, end = run.data, run.start, run.stop
        header, shape, fill = layout
        blocks: list[bytes] = []
        interface = self._interface
        moulds = self._moulds.get(interface, {})
        misfits = _MISFITS
        limit = MAX_MOULDS if run.frames >= _WORTH_A_MOULD else FEW_MOULDS
        try:
            while position < end:
                position = fill(data, position, end, moulds, blocks.append)
                if position == end:
                    break
                length = _LENGTH(data, position + 8)[0]
                stop = position + header + length
                found = shape(data, position, stop)
                number = None if found is None else self.agree(found.dlt)
                if found is not None and number is not None:
                    if number != interface:
                        index += len(blocks)
                        _close(segments, interface, blocks)
                        interface = self._interface = number
                    moulds = self._moulds_of(number, limit)
                    moulds[length] = mould(data, position, found, header, number)
                    position = fill(data, position, stop, moulds, blocks.append)
                if position != stop:
                    index += len(blocks)
                    _close(segments, interface, blocks)
                    misfits -= 1
                    stop = stop if misfits else end
                    self._rewrite_any(Run(run.kind, data, position, stop, 1, 1), arrived_ns, segments, index)
                    position = stop
                    index += 1
        finally:
            _close(segments, interface, blocks)

    def _moulds_of(self, interface: int, limit: int) -> dict[int, Mould]:
        """The moulds of an interface, with room for one more; all are thrown away when there are too many."""
        if sum(map(len, self._moulds.values())) >= limit:
            self._moulds.clear()
        return self._moulds.setdefault(interface, {})

    def _rewrite_any(self, run: Run, arrived_ns: int, segments: list[Segment], index: int) -> None:
        blocks: list[bytes] = []
        reports: list[Report] = []
        current_dlt: int | None = -1
        interface = -1
        try:
            for at, record in enumerate(self._generation.records(run), index):
                report = None
                comment = ""
                nsec = 0
                packet = record if isinstance(record, tuple) else None
                if packet is None:
                    assert not isinstance(record, tuple)
                    report = _report_of(record, at, arrived_ns)
                    packet = packet_of(record)
                    if packet is None and report is not None:
                        packet, nsec = _packet_of(report), report.json.nsec
                    if packet is None:
                        continue
                    comment = _comment_of(record)
                dlt, sec, usec, original, content, signal = packet
                if dlt != current_dlt:
                    _close(segments, interface, blocks, reports)
                    current_dlt = dlt
                    number = self.number_of(self.dlt) if dlt is None else self.agree(dlt)
                    interface = -1 if number is None else number
                if interface < 0:
                    self._lose(dlt)
                    continue
                if signal is not None and not comment:
                    comment = describe(signal)
                stamp = arrived_ns if sec is None else sec * 1_000_000_000 + usec * 1000 + nsec
                if stamp >> 64:
                    comment = f"{comment} time stamp {sec} s and {usec} us".lstrip()
                    self.ledger.changed["bad-stamp"] += 1
                    stamp = 0 if stamp < 0 or (sec or 0) >> 63 else pcapng.LAST_STAMP  # 64 bits, signed
                original = min(original, pcapng.MAX_LENGTH)
                options = pcapng.comments(comment) if comment else b""
                room = max(0, pcapng.MAX_CONTENT - (len(options) + 4 if options else 0))  # 4: their end
                if len(content) > room:
                    content = content[:room]
                    self.ledger.changed["cut"] += 1
                    self.cut += 1
                blocks.append(pcapng.packet_block(interface, stamp, content, original, options=options))
                if report is not None:
                    reports.append(report)
        finally:
            _close(segments, interface, blocks, reports)

    def _lose(self, dlt: int | None) -> None:
        """Count a packet of a link type that the source may not have."""
        self.ledger.lost["link-type"] += 1
        if dlt is not None and dlt not in self.refused and len(self.refused) < MAX_LINKTYPES:
            self.refused.append(dlt)

    def agree(self, dlt: int) -> int | None:
        """The interface number of a link type; None: the source may not have it."""
        try:
            return self.number(dlt)
        except RemoteProtocolError:
            return None

    def number_of(self, dlt: int | None) -> int:
        """The interface number of the link type in an open report, which may be absent or nonsense."""
        return self.number(dlt if dlt is not None and 0 <= dlt <= MAX_LINKTYPE else UNKNOWN_LINKTYPE)

    def _pass(self, run: Run, segments: list[Segment]) -> None:
        for interface, slices, nbytes, packets in self._generation.blocks(run):
            segments.append(Segment(interface, slices, nbytes, packets))


def _report_of(record: DataReport, index: int, arrived_ns: int) -> Report | None:
    """The JSON of a data report, ready for lines."""
    json = record.json
    if json is None:
        return None
    stamp = arrived_ns
    if json.sec is not None:
        stamp = json.sec * 1_000_000_000 + json.usec * 1000 + json.nsec
    return Report(index, stamp, json, record.signal, record.gps)


def _packet_of(report: Report) -> Packet:
    """A JSON report as a packet."""
    text = report.json.text.encode("utf-8", "replace")
    return LINKTYPE_JSON, report.json.sec, report.json.usec, len(text), text, report.signal


def _comment_of(record: DataReport) -> str:
    """What a data report says besides its packet: the type of its JSON, or all of it beside a packet, signal, place."""
    json = record.json
    words = ["" if json is None else f"json={json.type}", describe(record.signal, record.gps)]
    if json is not None and record.packet is not None:
        words.append(json.text)
    return " ".join(filter(None, words))
