"""What a stream is made of besides packets: its head, what a reader must know first, and what it lost."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Protocol

from helperd import pcapng, relay, reports
from helperd.routing import GONE_KEPT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from helperd.routing import Batch, Form, Interface, Losses, Outbox, Part, RouteTable


class StreamForm(Protocol):
    """What a consumer sends, in the order of time."""

    def preface(self) -> list[Part]:
        """What leaves as soon as somebody connects."""

    def parts(self, taken: Sequence[Batch], lost: Losses) -> list[Part]:
        """What to send for these batches, what is in ``lost`` having been lost before them."""

    def ending(self, lost: Losses) -> list[Part]:
        """What is said last."""


def refusal(form: Form, why: str) -> bytes:
    """All that a reader gets who is not served."""
    if form == "frames":
        return relay.refusal(why)
    if form == "jsonl":
        return reports.refusal(why)
    return pcapng.section_header(application="helperd", comment=f"{pcapng.REFUSED}{why}")


def form_of(form: Form, header: bytes, table: RouteTable, wants: Wants | None) -> StreamForm:
    """The form of a new stream; the arguments are those of ``Pcapng``."""
    if form == "frames":
        return Frames(table)
    return Lines(table) if form == "jsonl" else Pcapng(header, table, wants)


class Wants:
    """Which interfaces a stream of less than everything carries.

    Args:
        sources: their names; none: all.
        linktypes: LINKTYPE_ values; none: all.
        single: of a stream that carries one link type, whichever comes first: its outbox, which knows the interface.
    """

    def __init__(
        self,
        sources: frozenset[str] = frozenset(),
        linktypes: frozenset[int] = frozenset(),
        single: Outbox | None = None,
    ) -> None:
        self._sources = sources
        self._linktypes = linktypes
        self._single = single

    @property
    def carried(self) -> int | None:
        """The one interface, once it is known."""
        return None if self._single is None else self._single.carried

    def __call__(self, interface: Interface) -> bool:
        """Whether packets of an interface are carried."""
        if self._single is not None:
            return interface.number == self._single.carried
        return (not self._sources or interface.source in self._sources) and (
            not self._linktypes or interface.linktype in self._linktypes
        )


class Pcapng:
    """A pcapng section: interface blocks before the packets that need them, losses as statistics blocks.

    A stream begins with the interfaces that there are. Their numbers here are the daemon's, and blocks pass untouched,
    as long as there is none missing: in the place of one that the stream does not carry stands one of the link type
    that it has first, so that readers that take one link type only (tcpdump) read it. Behind one that is gone, numbers
    are the stream's own, and four bytes of each packet's block are written anew.

    Args:
        header: the section header block.
        table: knows the interfaces.
        wants: which of them are carried; None: all.
    """

    def __init__(self, header: bytes, table: RouteTable, wants: Wants | None) -> None:
        self._header = header
        self._table = table
        self._wants = wants
        self._next = 0
        self._seen = 0
        self._looked: tuple[int, int | None] = (0, None)
        self._filler = b""
        self._here: dict[int, int] = {}
        self._moved: dict[int, int] = {}
        self._delivered: Counter[int] = Counter()
        self._dropped: Losses = Counter()

    def preface(self) -> list[Part]:
        """What leaves as soon as somebody connects."""
        return [self._header]

    def parts(self, taken: Sequence[Batch], lost: Losses) -> list[Part]:
        """What to send for these batches, ``lost`` packets by interface having been lost before them."""
        parts: list[Part] = self._announcements()
        here, moved = self._here, self._moved
        for batch in taken:
            for interface, _ in batch.counts:
                if interface not in here:  # gone, and some of its packets were still queued
                    parts.append(self._announce(self._table.interfaces[interface]))
        if lost:
            self._dropped.update(lost)
            parts += self._statistics({interface for interface, _ in lost})
        delivered = self._delivered
        for batch in taken:
            if moved and any(interface in moved for interface, _ in batch.counts):
                parts.append(pcapng.renumbered(b"".join(batch.parts), moved))
            else:
                parts += batch.parts
            for interface, packets in batch.counts:
                delivered[interface] += packets
        return parts

    def ending(self, lost: Losses) -> list[Part]:
        """The totals."""
        self._dropped += lost
        return self._statistics({*self._delivered, *(interface for interface, _ in self._dropped)})

    def _announcements(self) -> list[Part]:
        """The blocks of interfaces that this reader has not been told of, up to the last that it gets packets of."""
        interfaces, wants = self._table.interfaces, self._wants
        look = interfaces.changes, None if wants is None else wants.carried
        if look == self._looked:
            return []
        self._looked = look
        blocks = self._forget()
        fresh = interfaces.since(self._seen)
        carried = fresh if wants is None else [interface for interface in fresh if wants(interface)]
        if not carried:
            return blocks
        self._filler = self._filler or carried[0].filler
        self._seen = carried[-1].number + 1
        wanted = {interface.number for interface in carried}
        for interface in fresh:
            if interface.number in wanted and interface.number not in self._here:
                blocks.append(self._announce(interface))
            elif interface.number == self._next < self._seen:
                blocks.append(self._filler)
                self._next += 1
        return blocks

    def _announce(self, interface: Interface) -> bytes:
        self._here[interface.number] = self._next
        if interface.number != self._next:
            self._moved[interface.number] = self._next
        self._next += 1
        return interface.block

    def _forget(self) -> list[Part]:
        """Tell the totals of interfaces that nobody remembers any more, and forget them."""
        kept = self._table.interfaces
        gone = {number for number in self._here if number not in kept}
        if not gone:
            return []
        dropped = [key for key in self._dropped if key[0] in gone]
        blocks = self._statistics(gone & ({interface for interface, _ in dropped} | self._delivered.keys()))
        for number in gone:
            del self._here[number], self._delivered[number]
            self._moved.pop(number, None)
        for key in dropped:
            del self._dropped[key]
        return blocks

    def _statistics(self, interfaces: Iterable[int]) -> list[Part]:
        now = time.time_ns()
        blocks: list[Part] = []
        for interface in sorted(interfaces):
            here = self._here.get(interface)
            if here is None:
                continue
            delivered = self._delivered[interface]
            reasons = {reason: lost for (of, reason), lost in self._dropped.items() if of == interface}
            dropped = sum(reasons.values())
            words = ", ".join(f"{reason} {lost}" for reason, lost in sorted(reasons.items()))
            blocks.append(
                pcapng.statistics_block(
                    here,
                    now,
                    received=delivered + dropped,
                    dropped=dropped,
                    delivered=delivered,
                    comment=f"{pcapng.LOST}{words}" if words else "",
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

    def parts(self, taken: Sequence[Batch], lost: Losses) -> list[Part]:
        """What to send for these batches, ``lost`` packets by source having been lost before them."""
        parts: list[Part] = []
        told = self._told
        due = _by_number(lost)
        if len(told) > GONE_KEPT:
            told.clear()  # they are told again
        for batch in taken:
            source = batch.counts[0][0]
            if told.get(source) is not batch.about:
                told[source] = batch.about
                parts.append(batch.about)
            missing = due.pop(source, 0) if due else 0
            if missing:
                parts.append(relay.with_loss(bytes(batch.parts[0]), missing))
                parts += batch.parts[1:]
            else:
                parts += batch.parts
        return parts + self._records(due)

    def ending(self, lost: Losses) -> list[Part]:
        """Losses that no run followed."""
        return self._records(_by_number(lost))

    def _records(self, lost: Counter[int]) -> list[Part]:
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

    def parts(self, taken: Sequence[Batch], lost: Losses) -> list[Part]:
        """What to send for these batches, ``lost`` reports by interface having been lost before them."""
        parts = self.ending(lost)
        for batch in taken:
            parts += batch.parts
        return parts

    def ending(self, lost: Losses) -> list[Part]:
        """Losses that no report followed."""
        missed: Counter[str] = Counter()
        for (interface, _), number in lost.items():
            source = reports.OWN if interface == reports.MESSAGES else self._interfaces[interface].source
            missed[source] += number
        now = time.time_ns()
        return [reports.loss_line(source, number, now) for source, number in sorted(missed.items())]


def _by_number(lost: Losses) -> Counter[int]:
    """Losses of all reasons together."""
    found: Counter[int] = Counter()
    for (number, _), packets in lost.items():
        found[number] += packets
    return found
