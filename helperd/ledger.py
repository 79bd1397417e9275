"""Where packets went: the accounts of a source, of readers that have left, and of what is gone. Pure.

Rules:
  1. An account outlives its holder: what a source that is removed, a reader that leaves or a sink that a reload changes
     has counted is carried over in the moment in which it goes, so that these hold for the life of the daemon:
         produced = routed + empty + lost            over all sources that ever were
         offered by sources = offered to readers     over all of either that ever were
         offered = delivered + lost + queued         of each reader, and over all that ever were
  2. Memory is bounded: what is gone by name is one sum. Sinks keep their readers' sum by name for as long as they are.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Ledger:
    """What one source's packets became, over all its incarnations.

    ``received`` packets were scanned; each was routed (to the consumers there were) or counted under ``lost`` with a
    reason. Losses in front of us (died with the helper, dropped by the kernel) are in ``upstream``, and then
    ``produced`` is more than ``received``. ``empty`` data reports of those received held no packet: a position.
    Where somebody reads frames, they are routed as they are. ``offered`` counts what readers were offered: a packet
    once for each of them. ``changed`` are packets that left otherwise than they came, by what was changed (a word of
    ``messages.CHANGES``): in the helper, or here for readers of pcapng.
    """

    received: int = 0
    received_bytes: int = 0
    routed: int = 0
    empty: int = 0
    offered: int = 0
    changed: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    upstream: Counter[str] = field(default_factory=Counter)

    @property
    def produced(self) -> int:
        """Packets that are known to have been produced by the helper."""
        return self.received + self.upstream.total()

    def losses(self) -> dict[str, int]:
        """All losses by reason, the places before us included."""
        return dict(self.upstream + self.lost)

    def add(self, other: Ledger) -> None:
        """Carry another account over into this one."""
        self.received += other.received
        self.received_bytes += other.received_bytes
        self.routed += other.routed
        self.empty += other.empty
        self.offered += other.offered
        for mine, theirs in (
            (self.changed, other.changed),
            (self.lost, other.lost),
            (self.upstream, other.upstream),
        ):
            mine.update(theirs)


@dataclass(slots=True)
class Left:
    """What readers that have left were offered, and what became of it: offered = delivered + lost.

    ``durable`` are those of the delivered that are known to be on a disk.
    """

    consumers: int = 0
    offered: int = 0
    delivered: int = 0
    durable: int = 0
    nbytes: int = 0
    lost: Counter[str] = field(default_factory=Counter)

    def add(self, other: Left) -> None:
        """Carry another account over into this one."""
        self.consumers += other.consumers
        self.offered += other.offered
        self.delivered += other.delivered
        self.durable += other.durable
        self.nbytes += other.nbytes
        self.lost.update(other.lost)


@dataclass(slots=True)
class Gone:
    """The accounts of what is not there any more.

    Attributes:
        sources: how many were removed.
        ledger: the sum of theirs.
        left: by the name of a sink: of readers that have left it, or of the files that it wrote as it was before.
        rest: the sum of those whose sink has gone, too.
    """

    sources: int = 0
    ledger: Ledger = field(default_factory=Ledger)
    left: dict[str, Left] = field(default_factory=dict)
    rest: Left = field(default_factory=Left)
    _open: Counter[str] = field(default_factory=Counter)

    def open(self, sink: str) -> None:
        """Note that there is a sink of that name; one more, while an earlier one still ends."""
        self._open[sink] += 1
        self.left.setdefault(sink, Left())

    def close(self, sink: str) -> None:
        """Note that a sink has gone, with its readers; the last of its name hands its account over."""
        self._open[sink] -= 1
        if self._open[sink] <= 0:
            del self._open[sink]
            self.rest.add(self.left.pop(sink, Left()))

    def leave(self, sink: str, account: Left) -> None:
        """Take over the account of a reader that leaves."""
        self.left.get(sink, self.rest).add(account)

    def remove(self, ledger: Ledger) -> None:
        """Take over the account of a source that is removed."""
        self.sources += 1
        self.ledger.add(ledger)
