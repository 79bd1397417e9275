"""Who gets which packets, and where packets are lost: interfaces, outboxes, routes, the ledger. Pure.

Rules:
  1. Dispatch is synchronous and per read: one ``Batch`` object per read and consumer format, none per packet.
  2. An outbox is bounded by the bytes that its batches keep alive (a slice keeps its whole read alive).
  3. Every packet offered to an outbox is delivered, lost or still queued; the three always sum to the offer.
  4. An interface is (source, link type). Its number is given once for the daemon's life and never reused.
  5. Nothing here waits. Who wants to wait hands in callables (``on_ready``, ``on_room``).
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from helperd import pcapng

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

Overflow = Literal["drop-oldest", "wait", "disconnect"]
Part = bytes | memoryview

OUTBOX_LIMIT = 4 << 20
"""Default bound of an outbox, in bytes."""


class Interface(NamedTuple):
    """One (source, link type), as announced to pcapng readers.

    Attributes:
        number: position in every mixed stream's list of interface blocks.
        source: the source's name.
        linktype: LINKTYPE_ value.
        block: the interface description block, ready to send.
        filler: a block of the same link type, for the place of a number that a single source's stream lacks.
    """

    number: int
    source: str
    linktype: int
    block: bytes
    filler: bytes


class Interfaces:
    """All interfaces of a daemon's life, in the order of their numbers."""

    def __init__(self) -> None:
        self._all: list[Interface] = []
        self._numbers: dict[tuple[str, int], int] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __getitem__(self, number: int) -> Interface:
        return self._all[number]

    def number(self, source: str, linktype: int, *, hardware: str = "", definition: str = "") -> int:
        """Give the number of (source, link type); the first call for a pair makes it and its blocks."""
        known = self._numbers.get((source, linktype))
        if known is not None:
            return known
        number = len(self._all)
        block = pcapng.interface_block(linktype, name=source, description=definition, hardware=hardware)
        filler = pcapng.interface_block(linktype, name="-", description="not in this stream")
        self._all.append(Interface(number, source, linktype, block, filler))
        self._numbers[source, linktype] = number
        return number

    def of(self, source: str) -> list[Interface]:
        """The interfaces of one source, oldest first."""
        return [interface for interface in self._all if interface.source == source]

    def blocks(self, after: int) -> list[bytes]:
        """The description blocks of all interfaces from number ``after`` on."""
        return [interface.block for interface in self._all[after:]]

    def single(self, number: int) -> bytes:
        """Description blocks for a stream that carries interface ``number`` alone.

        The numbers before it are filled with blocks of the same link type, so that packets need no rewriting and
        readers that accept one link type only (tcpdump) accept the stream.
        """
        interface = self._all[number]
        return interface.filler * number + interface.block


class Segment(NamedTuple):
    """Neighbouring packets of one interface, as pcapng blocks."""

    interface: int
    parts: tuple[Part, ...]
    nbytes: int
    packets: int


class Batch(NamedTuple):
    """What one read became for one kind of consumer.

    Attributes:
        parts: buffers to send, in order.
        nbytes: their sum.
        packets: packets in them.
        pinned: bytes of memory that the parts keep alive.
        counts: packets by interface number.
    """

    parts: tuple[Part, ...]
    nbytes: int
    packets: int
    pinned: int
    counts: tuple[tuple[int, int], ...]


def batch_of(segments: Sequence[Segment], read: int) -> Batch:
    """Join the segments of one read; ``read`` is the read's size in bytes, what the slices keep alive."""
    if len(segments) == 1:
        one = segments[0]
        return Batch(
            one.parts, one.nbytes, one.packets, max(read, one.nbytes), ((one.interface, one.packets),)
        )
    counts: Counter[int] = Counter()
    parts: list[Part] = []
    nbytes = 0
    for segment in segments:
        counts[segment.interface] += segment.packets
        parts += segment.parts
        nbytes += segment.nbytes
    return Batch(tuple(parts), nbytes, counts.total(), max(read, nbytes), tuple(counts.items()))


class Outbox:
    """One consumer's bounded queue.

    Args:
        limit: bytes that the queue may keep alive; one batch is always accepted, however large.
        overflow: what happens when a batch does not fit.
        hold: seconds that ``wait`` may hold a source.
        on_ready: called when something can be taken.
        on_room: called when a full ``wait`` outbox has room again.
    """

    __slots__ = (
        "_batches",
        "_limit",
        "delivered",
        "delivered_bytes",
        "disconnected",
        "given_up",
        "hold",
        "inflight",
        "lost",
        "lost_by",
        "offered",
        "on_ready",
        "on_room",
        "overflow",
        "pinned",
        "queued",
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
    ) -> None:
        self._batches: deque[Batch] = deque()
        self._limit = limit
        self.overflow = overflow
        self.hold = hold
        self.on_ready = on_ready
        self.on_room = on_room
        self.pinned = 0
        self.queued = 0
        self.inflight = 0
        self.offered = 0
        self.delivered = 0
        self.delivered_bytes = 0
        self.lost = 0
        self.lost_by: Counter[str] = Counter()
        self.unreported: Counter[int] = Counter()
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
            self.clear("disconnected")
            return
        while self.pinned > self._limit and len(self._batches) > 1:
            oldest = self._batches.popleft()
            self.queued -= oldest.packets
            self.pinned -= oldest.pinned
            self.count_lost(oldest, "consumer-slow")

    def count_lost(self, batch: Batch, reason: str) -> None:
        """Count a whole batch as lost, for the ledger and for the consumer's own statistics blocks."""
        self.lost += batch.packets
        self.lost_by[reason] += batch.packets
        for interface, packets in batch.counts:
            self.unreported[interface] += packets

    def count_refused(self, interface: int, packets: int, reason: str) -> None:
        """Count packets that this consumer's stream cannot carry (a second link type)."""
        self.offered += packets
        self.lost += packets
        self.lost_by[reason] += packets
        self.unreported[interface] += packets

    def give_up(self) -> None:
        """End the waiting: drop oldest, counted, until the queue was empty once."""
        self.given_up = True
        if self.pinned > self._limit:
            self._overflow()

    def take(self, nbytes: int) -> list[Batch]:
        """Take whole batches for sending, about ``nbytes`` of them and at least one if there is any."""
        batches = self._batches
        taken: list[Batch] = []
        size = 0
        while batches and (not taken or size + batches[0].nbytes <= nbytes):
            batch = batches.popleft()
            taken.append(batch)
            size += batch.nbytes
            self.queued -= batch.packets
            self.inflight += batch.packets
        return taken

    def sent(self, taken: Iterable[Batch]) -> None:
        """Count taken batches as delivered and free their memory."""
        was_full = self.pinned > self._limit
        for batch in taken:
            self.inflight -= batch.packets
            self.delivered += batch.packets
            self.delivered_bytes += batch.nbytes
            self.pinned -= batch.pinned
        if not self._batches:
            self.given_up = False
        if was_full and self.pinned <= self._limit:
            self.on_room()

    def clear(self, reason: str) -> None:
        """Count everything that is queued or in flight as lost."""
        for batch in self._batches:
            self.count_lost(batch, reason)
            self.pinned -= batch.pinned
        self._batches.clear()
        self.queued = 0
        if self.inflight:
            self.lost += self.inflight
            self.lost_by[reason] += self.inflight
            self.inflight = 0
        self.on_room()

    def __bool__(self) -> bool:
        return bool(self._batches)


@dataclass(slots=True)
class Ledger:
    """What one source's packets became, over all its incarnations.

    ``received`` packets were scanned; each was routed (to the consumers there were) or counted under ``lost`` with a
    reason. Losses in front of us (died with the helper, dropped by the kernel) are in ``lost`` too, and then
    ``produced`` is more than ``received``.
    """

    received: int = 0
    received_bytes: int = 0
    routed: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    upstream: Counter[str] = field(default_factory=Counter)

    @property
    def produced(self) -> int:
        """Packets that are known to have been produced by the helper."""
        return self.received + self.upstream.total()

    def losses(self) -> dict[str, int]:
        """All losses by reason, the places before us included."""
        return dict(self.upstream + self.lost)


class Tap(NamedTuple):
    """One outbox as one source's route sees it; ``single`` streams carry one link type only."""

    outbox: Outbox
    single: bool


class Route:
    """The way of one source's packets: its ledger and the outboxes that want it.

    Attributes:
        paused: packets are counted under ``paused`` and not passed on.
        carried: the interface that single-link-type consumers of this source get: its first.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.ledger = Ledger()
        self.taps: list[Tap] = []
        self.paused = False
        self.carried: int | None = None

    @property
    def wanted(self) -> bool:
        """Whether translating packets has any use now."""
        return bool(self.taps) and not self.paused

    def count(self, packets: int, nbytes: int) -> None:
        """Count packets as received; those that nobody wants are lost here and now."""
        ledger = self.ledger
        ledger.received += packets
        ledger.received_bytes += nbytes
        if self.paused:
            ledger.lost["paused"] += packets
        elif not self.taps:
            ledger.lost["no-consumer"] += packets

    def dispatch(self, segments: Sequence[Segment], read: int) -> None:
        """Hand one read's packets to every outbox that wants this source."""
        if not segments:
            return
        if self.carried is None:
            self.carried = segments[0].interface
        batch = batch_of(segments, read)
        self.ledger.routed += batch.packets
        alone: Batch | None = batch if len(batch.counts) == 1 and batch.counts[0][0] == self.carried else None
        for outbox, single in self.taps:
            if not single or alone is not None:
                outbox.put(batch)
                continue
            mine = [segment for segment in segments if segment.interface == self.carried]
            for segment in segments:
                if segment.interface != self.carried:
                    outbox.count_refused(segment.interface, segment.packets, "link-type")
            if mine:
                outbox.put(batch_of(mine, read))

    def holding(self) -> list[Outbox]:
        """The outboxes that ask this source to wait."""
        return [tap.outbox for tap in self.taps if tap.outbox.holding]


class RouteTable:
    """All routes, and who wants which source."""

    def __init__(self) -> None:
        self.interfaces = Interfaces()
        self.routes: dict[str, Route] = {}
        self._wants: list[tuple[Outbox, frozenset[str], bool]] = []

    def route(self, source: str) -> Route:
        """The route of a source; made on first use and kept, so that counters outlive incarnations."""
        route = self.routes.get(source)
        if route is None:
            route = self.routes[source] = Route(source)
            for outbox, sources, single in self._wants:
                if not sources or source in sources:
                    route.taps.append(Tap(outbox, single))
        return route

    def connect(self, outbox: Outbox, sources: frozenset[str], *, single: bool) -> None:
        """Let an outbox want sources by name (none: all of them, those to come included)."""
        self._wants.append((outbox, sources, single))
        for name, route in self.routes.items():
            if not sources or name in sources:
                route.taps.append(Tap(outbox, single))

    def disconnect(self, outbox: Outbox) -> None:
        """Forget an outbox in every route."""
        self._wants = [want for want in self._wants if want[0] is not outbox]
        for route in self.routes.values():
            route.taps = [tap for tap in route.taps if tap.outbox is not outbox]

    def drop(self, source: str) -> None:
        """Forget a removed source's route; its interface numbers stay taken."""
        self.routes.pop(source, None)
