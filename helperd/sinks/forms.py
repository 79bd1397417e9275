"""What a stream is made of besides packets: its head, what a reader must know first, and what it lost."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Protocol

from helperd import pcapng, relay, reports

if TYPE_CHECKING:
    from collections.abc import Sequence

    from helperd.routing import Batch, Form, Outbox, Part, RouteTable


class StreamForm(Protocol):
    """What a consumer sends, in the order of time."""

    def preface(self) -> list[Part]:
        """What leaves as soon as somebody connects."""

    def parts(self, taken: Sequence[Batch], lost: Counter[int]) -> list[Part]:
        """What to send for these batches, what is in ``lost`` having been lost before them."""

    def ending(self, lost: Counter[int]) -> list[Part]:
        """What is said last."""


def form_of(form: Form, header: bytes, table: RouteTable, single: Outbox | None) -> StreamForm:
    """The form of a new stream; the arguments are those of ``Pcapng``."""
    if form == "frames":
        return Frames(table)
    return Lines(table) if form == "jsonl" else Pcapng(header, table, single)


class Pcapng:
    """A pcapng section: interface blocks before the packets that need them, losses as statistics blocks.

    Args:
        header: the section header block.
        table: knows the interfaces.
        single: of a stream that carries one link type, its outbox, which knows the interface; None for a mixed one.
    """

    def __init__(self, header: bytes, table: RouteTable, single: Outbox | None) -> None:
        self._header = header
        self._table = table
        self._single = single
        self._announced = 0
        self._delivered: Counter[int] = Counter()
        self._dropped: Counter[int] = Counter()

    def preface(self) -> list[Part]:
        """What leaves as soon as somebody connects."""
        return [self._header]

    def parts(self, taken: Sequence[Batch], lost: Counter[int]) -> list[Part]:
        """What to send for these batches, ``lost`` packets by interface having been lost before them."""
        parts: list[Part] = self._announcements()
        if lost:
            self._dropped += lost
            parts += self._statistics(lost)
        delivered = self._delivered
        for batch in taken:
            parts += batch.parts
            for interface, packets in batch.counts:
                delivered[interface] += packets
        return parts

    def ending(self, lost: Counter[int]) -> list[Part]:
        """The totals."""
        self._dropped += lost
        return self._statistics(self._delivered | self._dropped)

    def _announcements(self) -> list[Part]:
        """The blocks of interfaces that this reader has not been told of."""
        interfaces = self._table.interfaces
        if self._single is None:
            if self._announced == len(interfaces):
                return []
            blocks: list[Part] = list(interfaces.blocks(self._announced))
            self._announced += len(blocks)
            return blocks
        if self._announced:
            return []
        carried = self._single.carried
        if carried is None:
            return []
        self._announced = carried + 1
        return [interfaces.single(carried)]

    def _statistics(self, interfaces: Counter[int]) -> list[Part]:
        now = time.time_ns()
        blocks: list[Part] = []
        for interface in sorted(interfaces):
            if interface >= self._announced:
                continue
            delivered, dropped = self._delivered[interface], self._dropped[interface]
            blocks.append(
                pcapng.statistics_block(
                    interface, now, received=delivered + dropped, dropped=dropped, delivered=delivered
                )
            )
        return blocks


class Frames:
    """The frames format: a source's record before all else of it, losses in the header of the run that follows."""

    def __init__(self, table: RouteTable) -> None:
        self._table = table
        self._told: dict[int, bytes] = {}

    def preface(self) -> list[Part]:
        """What leaves as soon as somebody connects."""
        return [relay.preface()]

    def parts(self, taken: Sequence[Batch], lost: Counter[int]) -> list[Part]:
        """What to send for these batches, ``lost`` packets by source having been lost before them."""
        parts: list[Part] = []
        told = self._told
        for batch in taken:
            source = batch.counts[0][0]
            if told.get(source) is not batch.about:
                told[source] = batch.about
                parts.append(batch.about)
            missing = lost.pop(source, 0) if lost else 0
            if missing:
                parts.append(relay.with_loss(bytes(batch.parts[0]), missing))
                parts += batch.parts[1:]
            else:
                parts += batch.parts
        return parts + self.ending(lost)

    def ending(self, lost: Counter[int]) -> list[Part]:
        """Losses that no run followed."""
        parts: list[Part] = []
        for source, packets in sorted(lost.items()):
            if source not in self._told:
                self._told[source] = self._table.about(source)
                parts.append(self._told[source])
            parts.append(relay.loss_record(source, packets))
        return parts


class Lines:
    """JSON reports, one per line; losses as lines of their own, before the reports that follow them."""

    def __init__(self, table: RouteTable) -> None:
        self._interfaces = table.interfaces

    def preface(self) -> list[Part]:
        """Nothing: the first report is the first line."""
        return []

    def parts(self, taken: Sequence[Batch], lost: Counter[int]) -> list[Part]:
        """What to send for these batches, ``lost`` reports by interface having been lost before them."""
        parts = self.ending(lost)
        for batch in taken:
            parts += batch.parts
        return parts

    def ending(self, lost: Counter[int]) -> list[Part]:
        """Losses that no report followed."""
        missed: Counter[str] = Counter()
        for interface, number in lost.items():
            missed[self._interfaces[interface].source] += number
        now = time.time_ns()
        return [reports.loss_line(source, number, now) for source, number in sorted(missed.items())]
