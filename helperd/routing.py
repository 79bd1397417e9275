"""Who gets which packets: interfaces, outboxes, routes. Pure.

Rules:
  1. Dispatch is synchronous and per read: one ``Batch`` object per read and consumer format, none per packet.
  2. An outbox is bounded by the bytes that its batches keep alive (a slice keeps its whole read alive).
  3. Every packet offered to an outbox is delivered, lost or still queued; the three always sum to the offer.
  4. An interface is (source, link type). Its number is never reused. Each stream has numbers of its own: the same
     ones, so that blocks pass untouched, unless a source was removed before it began.
  5. Nothing here waits. Who wants to wait hands in callables (``on_ready``, ``on_room``).
"""

from __future__ import annotations

from collections import Counter, deque
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from helperd import pcapng, relay
from helperd.errors import RemoteProtocolError
from helperd.ledger import Gone, Ledger, Left
from helperd.wire.frames import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from helperd.reports import Report
    from helperd.wire.frames import Run

    Translate = Callable[[Sequence[Run], list["Segment"]], None]

Overflow = Literal["drop-oldest", "wait", "disconnect"]
Part = bytes | memoryview
Form = Literal["pcapng", "frames", "jsonl"]

OUTBOX_LIMIT = 4 << 20
"""Default bound of an outbox, in bytes."""
MAX_LINKTYPES = 16
"""Link types that a source may bring, over all its incarnations; more would let one fill every reader's list."""
GONE_KEPT = 1024
"""Interfaces of removed sources, and such sources, that are remembered besides those with packets queued."""
SLOW = "consumer-slow"
"""Why packets do not fit into an outbox, usually."""
LINK_TYPE = "link-type"
"""Why packets do not belong into a stream of one link type."""
Losses = Counter[tuple[int, str]]
"""Packets that a consumer lost, by what its batches count them by (``Batch.counts``), and by the reason."""
BATCH_COST, PART_COST = 120, 200
"""Bytes that a queued batch and each of its parts cost besides their content (measured)."""


class Interface(NamedTuple):
    """One (source, link type), as announced to pcapng readers.

    Attributes:
        number: position in every mixed stream's list of interface blocks.
        source: the source's name.
        linktype: LINKTYPE_ value.
        block: the interface description block, ready to send.
        filler: a block of the same link type, for the place of a number that a stream with this interface lacks.
    """

    number: int
    source: str
    linktype: int
    block: bytes
    filler: bytes


class Interfaces:
    """The interfaces there are, and the last that were, in the order of their numbers.

    Attributes:
        changes: another number after each change.
        is_used: whether somebody has packets of an interface, by its number: it is not forgotten then.
    """

    def __init__(self) -> None:
        self.changes = 0
        self.is_used: Callable[[int], bool] = lambda _number: False
        self._all: dict[int, Interface] = {}
        self._numbers: dict[tuple[str, int], int] = {}
        self._of: dict[str, list[Interface]] = {}
        self._gone: dict[int, None] = {}
        self._next = count()

    def __len__(self) -> int:
        return len(self._all)

    def __getitem__(self, number: int) -> Interface:
        return self._all[number]

    def __contains__(self, number: int) -> bool:
        return number in self._all

    def may_have(self, source: str, linktype: int) -> bool:
        """Whether (source, link type) has a number or can get one."""
        return (source, linktype) in self._numbers or len(self.of(source)) < MAX_LINKTYPES

    def number(self, source: str, linktype: int, *, hardware: str = "", definition: str = "") -> int:
        """Give the number of (source, link type); the first call for a pair makes it and its blocks."""
        known = self._numbers.get((source, linktype))
        if known is not None:
            if known in self._gone:
                del self._gone[known]
                self._of.setdefault(source, []).append(self._all[known])
                self.changes += 1
            return known
        number = next(self._next)
        block = pcapng.interface_block(linktype, name=source, description=definition, hardware=hardware)
        filler = pcapng.interface_block(linktype, name="-", description="not in this stream")
        interface = Interface(number, source, linktype, block, filler)
        self._all[number] = interface
        self._of.setdefault(source, []).append(interface)
        self._numbers[source, linktype] = number
        self.changes += 1
        return number

    def of(self, source: str) -> Sequence[Interface]:
        """The interfaces of one source, oldest first."""
        return self._of.get(source, ())

    def since(self, number: int) -> Sequence[Interface]:
        """Those that there are, from a number on."""
        gone = self._gone
        return [
            each for each in list(self._all.values()) if each.number >= number and each.number not in gone
        ]

    def retire(self, source: str) -> None:
        """A source is removed: no new stream has its interfaces; the last few of them are remembered for open ones."""
        for interface in self._of.pop(source, ()):
            self._gone[interface.number] = None
        for number in list(self._gone)[: max(0, len(self._gone) - GONE_KEPT)]:
            if not self.is_used(number):
                interface = self._all.pop(number)
                del self._gone[number], self._numbers[interface.source, interface.linktype]
        self.changes += 1


class Segment(NamedTuple):
    """Neighbouring packets of one interface, as pcapng blocks; and the JSON reports among them."""

    interface: int
    parts: tuple[Part, ...]
    nbytes: int
    packets: int
    reports: tuple[Report, ...] = ()


class Batch(NamedTuple):
    """What one read became for one kind of consumer.

    Attributes:
        parts: buffers to send, in order.
        nbytes: their sum.
        packets: packets in them.
        pinned: bytes of memory that the batch keeps alive.
        counts: packets by interface number; by source number in the frames format; reports, in the form of lines.
        about: the source's SOURCE record, in the frames format.
    """

    parts: tuple[Part, ...]
    nbytes: int
    packets: int
    pinned: int
    counts: tuple[tuple[int, int], ...]
    about: bytes = b""


segment_of: Final[Callable[[tuple[int, tuple[Part, ...], int, int, tuple[Report, ...]]], Segment]] = partial(
    tuple.__new__, Segment
)
"""A segment of its fields; NamedTuple's own way is twice as long. So it is for batches."""
_batch_of: Final[
    Callable[[tuple[tuple[Part, ...], int, int, int, tuple[tuple[int, int], ...], bytes]], Batch]
] = partial(tuple.__new__, Batch)


def batch_of(segments: Sequence[Segment], read: int) -> Batch:
    """Join the segments of one read; ``read`` is the read's size in bytes, what the slices keep alive."""
    if len(segments) == 1:
        interface, alone, size, held, _ = segments[0]
        pinned = max(read, size) + BATCH_COST + PART_COST * len(alone)
        return _batch_of((alone, size, held, pinned, ((interface, held),), b""))
    counts: Counter[int] = Counter()
    parts: list[Part] = []
    nbytes = 0
    for segment in segments:
        counts[segment.interface] += segment.packets
        parts += segment.parts
        nbytes += segment.nbytes
    pinned = max(read, nbytes) + BATCH_COST + PART_COST * len(parts)
    return Batch(tuple(parts), nbytes, counts.total(), pinned, tuple(counts.items()))


class Outbox:
    """One consumer's bounded queue.

    Args:
        limit: bytes that the queue may keep alive; one batch is always accepted, however large.
        overflow: what happens when a batch does not fit.
        hold: seconds that ``wait`` may hold a source.
        on_ready: called when something can be taken.
        on_room: called when a ``wait`` outbox does not hold its sources any more.
        on_disconnect: called once, when a ``disconnect`` outbox has missed something; the consumer is to go.

    Attributes:
        carried: the interface that a consumer of one link type gets: the first it was offered; None before.
        reason: why the oldest has to go when there is no room.
    """

    __slots__ = (
        "_batches",
        "_limit",
        "_taken",
        "carried",
        "delivered",
        "delivered_bytes",
        "disconnected",
        "given_up",
        "hold",
        "inflight",
        "lost",
        "lost_by",
        "offered",
        "on_disconnect",
        "on_ready",
        "on_room",
        "overflow",
        "pinned",
        "queued",
        "reason",
        "unreported",
    )

    def __init__(
        self,
        *,
        limit: int = OUTBOX_LIMIT,
        overflow: Overflow = "drop-oldest",
        hold: float = 10.0,
        on_ready: Callable[[], None] = lambda: None,
        on_room: Callable[[], None] = lambda: None,
        on_disconnect: Callable[[], None] = lambda: None,
    ) -> None:
        self._batches: deque[Batch] = deque()
        self._limit = limit
        self._taken: Sequence[Batch] = ()
        self.overflow = overflow
        self.hold = hold
        self.on_ready = on_ready
        self.on_room = on_room
        self.on_disconnect = on_disconnect
        self.carried: int | None = None
        self.reason = SLOW
        self.pinned = 0
        self.queued = 0
        self.inflight = 0
        self.offered = 0
        self.delivered = 0
        self.delivered_bytes = 0
        self.lost = 0
        self.lost_by: Counter[str] = Counter()
        self.unreported: Losses = Counter()
        self.given_up = False
        self.disconnected = False

    @property
    def full(self) -> bool:
        """Whether the queue keeps more alive than its limit."""
        return self.pinned > self._limit

    @property
    def holding(self) -> bool:
        """Whether this outbox asks its sources to wait."""
        return self.overflow == "wait" and not self.given_up and self.pinned > self._limit

    def put(self, batch: Batch) -> None:
        """Queue a batch; on overflow drop the oldest, or ask to wait, or mark the consumer for disconnection."""
        self.offered += batch.packets
        if self.disconnected:
            self.count_lost(batch, "disconnected")
            return
        self._batches.append(batch)
        self.queued += batch.packets
        self.pinned += batch.pinned
        if self.pinned > self._limit and len(self._batches) > 1:
            self._overflow()
        self.on_ready()

    def _overflow(self) -> None:
        if self.overflow == "wait" and not self.given_up:
            return
        if self.overflow == "disconnect":
            self.disconnected = True
            self._drop_queue("disconnected")
            self.on_disconnect()
            return
        while self.pinned > self._limit and len(self._batches) > 1:
            oldest = self._batches.popleft()
            self.queued -= oldest.packets
            self.pinned -= oldest.pinned
            self.count_lost(oldest, self.reason)

    def count_lost(self, batch: Batch, reason: str) -> None:
        """Count a whole batch as lost, for the ledger and for the consumer's own statistics blocks."""
        self.lost += batch.packets
        self.lost_by[reason] += batch.packets
        for interface, packets in batch.counts:
            self.unreported[interface, reason] += packets

    def count_refused(self, packets: int) -> None:
        """Count packets of a link type that this consumer's stream does not carry; it is told under the one it does."""
        self.offered += packets
        self.lost += packets
        self.lost_by[LINK_TYPE] += packets
        assert self.carried is not None
        self.unreported[self.carried, LINK_TYPE] += packets

    def give_up(self) -> None:
        """End the waiting: drop oldest, counted, until the queue was empty once."""
        self.given_up = True
        if self.pinned > self._limit:
            self._overflow()
        self.on_room()

    def take(self, nbytes: int) -> list[Batch]:
        """Take whole batches for sending, about ``nbytes`` of them and at least one if there is any."""
        batches = self._batches
        taken: list[Batch] = []
        size = packets = 0
        while batches and (not taken or size + batches[0].nbytes <= nbytes):
            batch = batches.popleft()
            taken.append(batch)
            size += batch.nbytes
            packets += batch.packets
        self.queued -= packets
        self.inflight += packets
        self._taken = taken
        return taken

    def sent(self, taken: Iterable[Batch], left: Sequence[Batch] = ()) -> None:
        """Count taken batches as delivered and free their memory; what is ``left`` of them goes back into the queue."""
        was_full = self.pinned > self._limit
        packets = nbytes = pinned = 0
        for batch in taken:
            packets += batch.packets
            nbytes += batch.nbytes
            pinned += batch.pinned
        self._taken = ()
        self.inflight -= packets
        self.delivered += packets
        self.delivered_bytes += nbytes
        self.pinned -= pinned
        for batch in reversed(left):
            self.delivered -= batch.packets
            self.delivered_bytes -= batch.nbytes
            self.queued += batch.packets
            self.pinned += batch.pinned
            self._batches.appendleft(batch)
        if left and self.pinned > self._limit:
            self._overflow()
        if not self._batches:
            self.given_up = False
        if was_full and self.pinned <= self._limit:
            self.on_room()

    def lose(self, taken: Iterable[Batch], reason: str) -> None:
        """Count taken batches as lost and free their memory."""
        was_full = self.pinned > self._limit
        self._taken = ()
        for batch in taken:
            self.inflight -= batch.packets
            self.pinned -= batch.pinned
            self.count_lost(batch, reason)
        if was_full and self.pinned <= self._limit:
            self.on_room()

    def revoke(self, counts: Mapping[int, int], nbytes: int, reason: str) -> None:
        """Count what was delivered as lost after all: a disk took it, and has not kept it."""
        packets = sum(counts.values())
        self.delivered -= packets
        self.delivered_bytes -= nbytes
        self.lost += packets
        self.lost_by[reason] += packets
        for interface, number in counts.items():
            self.unreported[interface, reason] += number

    def blame(self, reason: str, before: int) -> None:
        """Lay what did not fit into the queue at another door; ``before``: how much had not by then."""
        moved = self.lost_by[SLOW] - before
        if moved <= 0:
            return
        self.lost_by[SLOW] -= moved
        self.lost_by[reason] += moved
        for interface, slow in [key for key in self.unreported if key[1] == SLOW]:
            some = min(moved, self.unreported[interface, slow])
            self.unreported[interface, slow] -= some
            self.unreported[interface, reason] += some
            moved -= some
        self.unreported = +self.unreported
        self.lost_by = +self.lost_by

    def has(self, number: int) -> bool:
        """Whether something queued, in flight or lost and not told yet is counted by this number."""
        queued = (counted for batch in (*self._batches, *self._taken) for counted, _ in batch.counts)
        return any(counted == number for counted in queued) or any(of == number for of, _ in self.unreported)

    def _drop_queue(self, reason: str) -> None:
        for batch in self._batches:
            self.count_lost(batch, reason)
            self.pinned -= batch.pinned
        self._batches.clear()
        self.queued = 0

    def clear(self, reason: str) -> None:
        """Count everything that is queued or in flight as lost: the end of the consumer, who is told nothing more.

        That takes as long for a full queue as for an empty one.
        """
        missed = self.queued + self.inflight
        if missed:
            self.lost += missed
            self.lost_by[reason] += missed
        self._batches.clear()
        self._taken = ()
        self.queued = self.inflight = self.pinned = 0
        self.on_room()

    def account(self, durable: int = 0) -> Left:
        """What became of everything that was offered, once nothing is queued any more; ``durable``: on a disk."""
        return Left(1, self.offered, self.delivered, durable, self.delivered_bytes, self.lost_by.copy())

    def __bool__(self) -> bool:
        return bool(self._batches)


class Tap(NamedTuple):
    """One outbox as a route sees it.

    Attributes:
        outbox: where the packets go.
        single: the stream carries one link type only.
        form: what the stream is made of.
        linktypes: link types it wants (LINKTYPE_ values); none: all. What it does not want is not offered to it.
    """

    outbox: Outbox
    single: bool = False
    form: Form = "pcapng"
    linktypes: frozenset[int] = frozenset()


class Route:
    """The way of one source's packets: its ledger and the outboxes that want it.

    Attributes:
        number: the source's number in the frames format, given once.
        paused: packets are counted under ``paused`` and not passed on.
        about: the SOURCE record of the current incarnation.
    """

    def __init__(self, source: str, interfaces: Interfaces, number: int = 0) -> None:
        self.source = source
        self.number = number
        self.ledger = Ledger()
        self.taps: dict[Outbox, Tap] = {}
        self.paused = False
        self.incarnation = 0
        self.about = b""
        self._interfaces = interfaces
        self._blocks: dict[Outbox, Tap] = {}
        self._frames: dict[Outbox, Tap] = {}
        self._lines: dict[Outbox, Tap] = {}
        self._lossless: dict[Outbox, Tap] = {}
        self._first = 0
        self.describe(0, {})

    def add(self, tap: Tap) -> None:
        """Let an outbox have this source's packets."""
        self.taps[tap.outbox] = self._of(tap.form)[tap.outbox] = tap
        if tap.outbox.overflow == "wait":
            self._lossless[tap.outbox] = tap

    def _of(self, form: Form) -> dict[Outbox, Tap]:
        return {"pcapng": self._blocks, "frames": self._frames, "jsonl": self._lines}[form]

    def remove(self, outbox: Outbox) -> None:
        """Let an outbox have no more; that takes as long among a thousand others as alone."""
        for taps in (self.taps, self._blocks, self._frames, self._lines, self._lossless):
            taps.pop(outbox, None)

    def describe(self, incarnation: int, fields: Mapping[str, str]) -> None:
        """Say what a new incarnation is; readers of the frames format are told before its first packets."""
        self.incarnation = incarnation
        self.about = relay.source_record(self.number, incarnation, {"name": self.source, **fields})

    @property
    def wanted(self) -> bool:
        """Whether anybody gets packets now."""
        return bool(self.taps) and not self.paused

    def deliver(self, runs: Sequence[Run], translate: Translate) -> None:
        """Count one read's packets and hand them to everybody who wants them.

        Args:
            runs: packet runs of one read.
            translate: appends the runs' segments to a list; called only if somebody reads pcapng.

        Raises:
            RemoteProtocolError: of ``translate``; what came before the bad frame has been handed on.
        """
        packets, read = self._receive(runs)
        ledger = self.ledger
        first = self._first
        if self.paused:
            ledger.lost["paused"] += packets
        elif not self.taps:
            ledger.lost["no-consumer"] += packets
        else:
            if self._frames:
                self._forward(runs, first, packets, read)
            if self._blocks or self._lines:
                self._translate(runs, packets, read, translate)

    def refuse(self, runs: Sequence[Run], reason: str = "refused") -> None:
        """Count packets that came from a helper which has opened nothing, or is done; pass on none."""
        self.ledger.lost[reason] += self._receive(runs)[0]

    def _receive(self, runs: Sequence[Run]) -> tuple[int, int]:
        """Count one read's packets; return how many there are, and the bytes of the reads they are slices of."""
        if len(runs) == 1:
            _, data, start, stop, _, packets = runs[0]
            read, nbytes = len(data), stop - start
        else:
            packets = read = nbytes = 0
            seen: bytes | None = None
            for _, data, start, stop, _, held in runs:
                packets += held
                nbytes += stop - start
                if data is not seen:
                    seen = data
                    read += len(data)
        ledger = self.ledger
        self._first = ledger.received
        ledger.received += packets
        ledger.received_bytes += nbytes
        return packets, read

    def _forward(self, runs: Sequence[Run], first: int, packets: int, read: int) -> None:
        """The frames format: slices of the read, a header in front of each run."""
        parts: list[Part] = []
        nbytes = 0
        for kind, data, start, stop, frames, held in runs:
            form = relay.Kind.PACKETS if kind is Kind.PACKETS else relay.Kind.BULK
            size = stop - start
            parts.append(relay.run_header(form, size, self.number, self.incarnation, first, held, frames))
            parts.append(memoryview(data)[start:stop] if size < len(data) else data)
            nbytes += size + relay.HEADER.size
            first += held
        pinned = max(read, nbytes) + BATCH_COST + PART_COST * len(parts)
        batch = Batch(tuple(parts), nbytes, packets, pinned, ((self.number, packets),), self.about)
        self.ledger.routed += packets
        self.ledger.offered += packets * len(self._frames)
        for outbox in self._frames:
            outbox.put(batch)

    def _translate(self, runs: Sequence[Run], packets: int, read: int, translate: Translate) -> None:
        segments: list[Segment] = []
        lost = self.ledger.lost["link-type"]
        try:
            translate(runs, segments)
        except Exception as error:
            rest = self._rest(packets - self.dispatch(segments, read), lost)
            if isinstance(error, RemoteProtocolError):
                self.ledger.lost["refused"] += rest
            else:
                self.ledger.lost["bug"] += rest
            raise
        self.ledger.empty += self._rest(packets - self.dispatch(segments, read), lost)

    def _rest(self, packets: int, lost: int) -> int:
        """Those that are not counted yet of packets that became no block; ``lost``: as it was before, by link type."""
        counted = self.ledger.lost
        if self._frames:  # there they all are
            counted["link-type"] = lost
            return 0
        return packets - (counted["link-type"] - lost)

    def dispatch(self, segments: Sequence[Segment], read: int) -> int:
        """Hand one read's packets to every outbox that wants them as pcapng; returns how many there are."""
        if not segments:
            return 0
        if self._lines:
            self._dispatch_lines(segments)
        batch = batch_of(segments, read)
        ledger = self.ledger
        if not self._frames:
            ledger.routed += batch.packets
        for tap in self._blocks.values():
            if tap.single or tap.linktypes:
                before = tap.outbox.offered
                self._dispatch_some(segments, read, tap, batch)
                ledger.offered += tap.outbox.offered - before
            else:
                ledger.offered += batch.packets
                tap.outbox.put(batch)
        return batch.packets

    def _dispatch_some(self, segments: Sequence[Segment], read: int, tap: Tap, whole: Batch) -> None:
        """For an outbox that gets some of the link types; ``whole`` is the batch of all segments."""
        outbox, single, _, linktypes = tap
        mine = []
        for segment in segments:
            if linktypes and self._interfaces[segment.interface].linktype not in linktypes:
                continue
            if outbox.carried is None:
                outbox.carried = segment.interface
            if single and segment.interface != outbox.carried:
                outbox.count_refused(segment.packets)
            else:
                mine.append(segment)
        if mine:
            outbox.put(whole if len(mine) == len(segments) else batch_of(mine, read))

    def _dispatch_lines(self, segments: Sequence[Segment]) -> None:
        """The JSON reports, as lines; packets are nothing that readers of lines want."""
        for segment in segments:
            if not segment.reports:
                continue
            lines = tuple(report.line(self.source, self._first) for report in segment.reports)
            nbytes = sum(map(len, lines))
            counts = ((segment.interface, len(lines)),)
            batch = Batch(lines, nbytes, len(lines), nbytes + BATCH_COST + PART_COST * len(lines), counts)
            self.ledger.offered += len(lines) * len(self._lines)
            for outbox in self._lines:
                outbox.put(batch)

    def holding(self) -> list[Outbox]:
        """The outboxes that ask this source to wait."""
        return [outbox for outbox in self._lossless if outbox.holding]


class RouteTable:
    """All routes, and who wants which source.

    Attributes:
        gone: the accounts of what is not there any more.
        told: messages that were offered to readers among the packets.
    """

    def __init__(self) -> None:
        self.interfaces = Interfaces()
        self.interfaces.is_used = self._is_used
        self.gone = Gone()
        self.told = 0
        self.routes: dict[str, Route] = {}
        self._wants: dict[Outbox, tuple[Tap, frozenset[str]]] = {}
        self._numbers = count()
        self._gone: dict[int, bytes] = {}

    def route(self, source: str) -> Route:
        """The route of a source; made on first use and kept, so that counters outlive incarnations."""
        route = self.routes.get(source)
        if route is None:
            route = self.routes[source] = Route(source, self.interfaces, next(self._numbers))
            for tap, sources in self._wants.values():
                if not sources or source in sources:
                    route.add(tap)
        return route

    def connect(
        self,
        outbox: Outbox,
        sources: frozenset[str],
        *,
        single: bool,
        form: Form = "pcapng",
        linktypes: frozenset[int] = frozenset(),
    ) -> None:
        """Let an outbox want sources by name (none: all of them, those to come included)."""
        tap = Tap(outbox, single, form, linktypes)
        self._wants[outbox] = tap, sources
        for name, route in self.routes.items():
            if not sources or name in sources:
                route.add(tap)

    def disconnect(self, outbox: Outbox) -> None:
        """Forget an outbox in every route."""
        want = self._wants.pop(outbox, None)
        if want is None:
            return
        for route in map(self.routes.get, want[1]) if want[1] else self.routes.values():
            if route is not None:
                route.remove(outbox)

    def drop(self, source: str, *, counted: bool = True) -> None:
        """Forget a removed source's route; its numbers stay taken, and who they were.

        Args:
            source: its name.
            counted: its account is carried over: it is no service.
        """
        route = self.routes.pop(source, None)
        if route is not None:
            if counted:
                self.gone.remove(route.ledger)
            self.interfaces.retire(source)
            self._gone[route.number] = route.about
            for number in list(self._gone)[: max(0, len(self._gone) - GONE_KEPT)]:
                if not self._is_used(number):
                    del self._gone[number]

    def about(self, number: int) -> bytes:
        """The last SOURCE record of a source, by its number in the frames format."""
        found = (route.about for route in self.routes.values() if route.number == number)
        return next(found, None) or self._gone.get(number) or relay.source_record(number, 0, {"name": "?"})

    def _is_used(self, number: int) -> bool:
        """Whether an outbox has something that is counted by this number, of an interface or of a source."""
        return any(outbox.has(number) for outbox in self._wants)
