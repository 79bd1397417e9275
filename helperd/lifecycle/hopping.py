"""Who hops where: radios of one type that hop over the same channels share them by even offsets.

Every radio of a group gets the same list, in one order that puts neighbours far apart, and its own place in it to begin
at. So each visits every channel once a round, no two are on one channel, and together they visit every channel once in
a round's part. The order is made here, not by the helper: Kismet's walks leave channels out at some strides, and
forget an offset after the first pass.

Rules:
  1. When a radio joins or leaves, the whole group is told again, so that all begin at one time.
  2. A radio that is on its way back keeps its place for ``BACK_S`` seconds; when it is back in time it alone is told,
     at the place where it would be by now. A radio that fails again and again disturbs nobody.
  3. A radio that is in a crash loop hops by itself, outside of any group.

Source of facts: kismet-protocol.md, section 5.6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

BACK_S: Final = 0.6
"""Seconds for which the place of a radio that has gone is kept."""
STRIDE: Final = 4
DEFAULT_RATE: Final = 5.0
"""Hops per second, as Kismet's."""


@dataclass(frozen=True, slots=True)
class Radio:
    """A source that may hop.

    Attributes:
        name: of the source.
        number: of its incarnation.
        here: it runs; else it is on its way back.
        kind: its source type.
        channels: what it hops over, in the order of its definition or report.
        rate: hops per second.
        trusted: it is in no crash loop.
    """

    name: str
    number: int
    here: bool
    kind: str
    channels: tuple[str, ...]
    rate: float
    trusted: bool = True


@dataclass(frozen=True, slots=True)
class Walk:
    """What a radio is told: a list, a rate, and the index to begin at.

    Attributes:
        of: how many radios share the list.
    """

    channels: tuple[str, ...]
    rate: float
    offset: int
    of: int


class _Group:
    """The radios that share a list, as last told."""

    def __init__(self, names: tuple[str, ...], channels: tuple[str, ...], rate: float, now: float) -> None:
        self.names = names
        self.channels = spread(channels)
        self.rate = rate
        self.began = now
        self.told: dict[str, int] = {}

    def walk(self, name: str, now: float) -> Walk:
        """The walk of one radio that begins now."""
        length, count = len(self.channels), len(self.names)
        place = length * self.names.index(name) // count
        gone = round((now - self.began) * self.rate)
        return Walk(self.channels, self.rate, (place + gone) % length, count)


class Splitter:
    """Remembers who was told what."""

    def __init__(self) -> None:
        self._groups: dict[tuple[object, ...], _Group] = {}
        self._missing: dict[str, float] = {}

    def look(self, radios: list[Radio], now: float) -> tuple[dict[str, Walk], float]:
        """Say who has to be told to hop how.

        Args:
            radios: all that may hop, in the order of the configuration.
            now: seconds, monotonic.

        Returns:
            The new walks by name; and the time by which to look again even if nothing happens, infinite for never.
        """
        for radio in radios:
            if radio.here:
                self._missing.pop(radio.name, None)
            else:
                self._missing.setdefault(radio.name, now)
        again = float("inf")
        members: dict[tuple[object, ...], list[Radio]] = {}
        for radio in radios:
            alone = "" if radio.trusted else radio.name
            key: tuple[object, ...] = (alone, radio.kind, frozenset(radio.channels), radio.rate)
            group = self._groups.get(key)
            if not radio.here:
                until = self._missing[radio.name] + BACK_S
                if group is None or radio.name not in group.names or now >= until:
                    continue
                again = min(again, until)
            members.setdefault(key, []).append(radio)
        present = {radio.name for radio in radios}
        self._missing = {name: at for name, at in self._missing.items() if name in present}
        self._groups = {key: group for key, group in self._groups.items() if key in members}
        walks: dict[str, Walk] = {}
        for key, found in members.items():
            self._tell(key, found, now, walks)
        return walks, again

    def _tell(self, key: tuple[object, ...], radios: list[Radio], now: float, walks: dict[str, Walk]) -> None:
        names = tuple(radio.name for radio in radios)
        group = self._groups.get(key)
        if group is None or group.names != names:
            told = {} if group is None else group.told
            if group is not None and len(names) == 1 and told.get(names[0]) == radios[0].number:
                group.names = names  # the last one left goes on as it does
                return
            group = self._groups[key] = _Group(names, radios[0].channels, radios[0].rate, now)
        for radio in radios:
            if radio.here and group.told.get(radio.name) != radio.number:
                group.told[radio.name] = radio.number
                walks[radio.name] = group.walk(radio.name, now)


def spread(channels: tuple[str, ...]) -> tuple[str, ...]:
    """One round in an order that puts neighbours apart: 0, 4, 8, ... then 1, 5, 9, ... and so on."""
    stride = STRIDE if len(channels) > STRIDE else 1
    return tuple(channel for first in range(stride) for channel in channels[first::stride])
