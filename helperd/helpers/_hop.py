"""Channel hopping: which channel comes when. Pure; the thread that does it is in ``_tuner``.

Rules:
  1. A round visits every channel once, whatever the stride: 0, s, 2s, ... then 1, 1+s, ... and so on.
  2. ``offset`` is a place in that round, so that radios with spread offsets are never on one channel.
  3. Channels that could not be tuned stay until the round ends, then leave the list together.

Source of facts: kismet-protocol.md, section 5.6.
"""

from __future__ import annotations

from typing import TypeVar

from helperd.errors import UsageError
from helperd.wire.messages import Hopping

_T = TypeVar("_T")

SHORTEST_S = 0.05  # between two hops; the radio needs that
DEFAULT_RATE = 5.0  # hops per second
DEFAULT_STRIDE = 4


class Hopper:
    """A walk over a hop list.

    Args:
        wanted: the list and how to walk it; what is None keeps the value of ``before``.
        before: the walk so far, or None.

    Attributes:
        channels: the hop list as it is now.
        rate: hops per second; 0: do not hop.
        shuffle: whether to stride.
        skip: the stride.
        offset: the place in the round where the walk began.

    Raises:
        UsageError: "bad-definition": the list is empty, or a number is out of range.
    """

    def __init__(self, wanted: Hopping, before: Hopper | None = None) -> None:
        self.channels: tuple[str, ...] = tuple(dict.fromkeys(wanted.channels))
        if not self.channels:
            raise UsageError("bad-definition", "a hop list needs at least one channel")
        self.rate: float = _or(wanted.rate, before.rate if before else DEFAULT_RATE)
        self.shuffle: bool = _or(wanted.shuffle, before.shuffle if before else False)
        self.skip: int = _or(wanted.skip, before.skip if before else DEFAULT_STRIDE)
        self.offset: int = _or(wanted.offset, before.offset if before else 0)
        if not 0 <= self.rate < float("inf"):
            raise UsageError("bad-definition", f"{self.rate} is no hop rate; 0 or more hops per second are")
        self._failed: dict[str, str] = {}
        self._order = self._walk()
        self._place = self.offset % len(self._order)

    @property
    def interval(self) -> float:
        """Seconds between two hops; infinite when the rate is 0."""
        return max(SHORTEST_S, 1 / self.rate) if self.rate else float("inf")

    @property
    def round_s(self) -> float:
        """Seconds for a round."""
        return self.interval * len(self._order)

    def next(self) -> str:
        """The channel to tune to now."""
        channel = self._order[self._place]
        self._place = (self._place + 1) % len(self._order)
        return channel

    def fail(self, channel: str, why: str) -> None:
        """Remember that a channel could not be tuned."""
        self._failed[channel] = why

    def sweep(self) -> dict[str, str]:
        """At the end of a round, take the failed channels off the list.

        Returns:
            The removed channels with the reasons; empty while a round is under way. When all are removed, the
            list is empty and the walk is over.
        """
        if self._place or not self._failed:
            return {}
        removed, self._failed = self._failed, {}
        self.channels = tuple(channel for channel in self.channels if channel not in removed)
        if self.channels:
            self._order = self._walk()
        return removed

    def report(self) -> Hopping:
        """The walk as a report tells it."""
        return Hopping(self.channels, self.rate, self.shuffle, self.skip, self.offset)

    def _walk(self) -> list[str]:
        """One round in order."""
        stride = self.skip if self.shuffle and 1 < self.skip < len(self.channels) else 1
        return [channel for first in range(stride) for channel in self.channels[first::stride]]


def _or(value: _T | None, default: _T) -> _T:
    return default if value is None else value
