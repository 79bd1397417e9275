"""An operator's order to tune one source: checked, remembered, asked again at each start, dropped when it fails.

Rules:
  1. An order that cannot be carried out changes nothing: it is refused with the reason, and what was before stays.
  2. One for a source that does not run is kept for its next start, as far as it can be checked before.
  3. One that the helper refuses at a new start is dropped. So is one with which the helper ends soon after it was
     given, twice in a row and for no other reason that is known: a healthy radio is worth more than an order.

Pure: no trio, no descriptors, no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from helperd.errors import HelperdError
from helperd.lifecycle import Exit, Why
from helperd.lifecycle.hopping import DEFAULT_RATE
from helperd.wire.messages import ConfigureRequest, Hopping

if TYPE_CHECKING:
    from collections.abc import Sequence

TRIAL_S: Final = 10.0
"""Seconds, and a round of hops, after which an order is not to blame for the end of its helper."""
TRIALS: Final = 2
_SHOWN: Final = 12
_INNOCENT: Final = frozenset(
    {"device-gone", "out-of-memory", "no-resources", "launcher-busy", "launcher-gone"}
)


@dataclass(slots=True, eq=False)
class StandingOrder:
    """What a source is to be tuned to.

    Attributes:
        channel: to stay on; None: it hops.
        channels: to hop over; empty: over its own, as its definition says.
        rate: hops per second; None: the helper's own.
        kept: it has not been carried out yet: the source did not run.
        sent_at: when the present helper was given it, seconds, monotonic.
        ends: helpers in a row that have ended soon after.
    """

    channel: str | None = None
    channels: tuple[str, ...] = ()
    rate: float | None = None
    kept: bool = False
    sent_at: float | None = None
    ends: int = 0

    def check(self, source: str, supported: Sequence[str]) -> None:
        """Refuse what cannot be carried out; take over how the helper spells its channels.

        Args:
            source: its name, for the refusal.
            supported: the channels that the helper named, and its definition; empty: not known yet.

        Raises:
            HelperdError: "bad-value".
        """
        spelled = {channel.lower(): channel for channel in supported}

        def checked(channel: str) -> str:
            name = channel.strip()
            if not name:
                raise HelperdError("bad-value", f"{source}: a channel's name is not empty")
            if supported and name.lower() not in spelled:
                shown = ", ".join(supported[:_SHOWN]) + (", ..." if len(supported) > _SHOWN else "")
                text = f"it has no channel {name[:40]!r}; its helper named {shown}"
                cure = "a channel that it does not name has to stand in add_channels= of the definition"
                raise HelperdError("bad-value", f"{source}: {text}; {cure}")
            return spelled.get(name.lower(), name)

        if self.channel is not None:
            self.channel = checked(self.channel)
        self.channels = tuple(dict.fromkeys(checked(channel) for channel in self.channels))

    def request(self, own: tuple[str, ...]) -> ConfigureRequest:
        """The order as the helper is told; ``own``: what the source hops over by itself."""
        if self.channel is not None:
            return ConfigureRequest(channel=self.channel)
        return ConfigureRequest(hopping=Hopping(self.channels or own, self.rate, offset=0))

    def to_blame(self, ended: Exit, now: float) -> bool:
        """Note that a helper has ended; whether this order is the reason, as far as one can know."""
        sent_at, self.sent_at = self.sent_at, None
        if sent_at is None or ended.kind is not Why.ACCIDENT:
            return False
        round_s = len(self.channels) / (self.rate or DEFAULT_RATE)
        if now - sent_at > TRIAL_S + round_s:
            self.ends = 0
            return False
        if ended.problem in _INNOCENT or (ended.problem, ended.signal) == ("killed", 9):
            return False
        self.ends += 1
        return self.ends >= TRIALS

    def contradicted(self, channel: str, hopping: Hopping | None) -> bool:
        """Whether what a helper reports by itself is nothing of what it was told to hop over."""
        if not self.channels or not (channel or hopping):
            return False
        return hopping is None or set(self.channels).isdisjoint(hopping.channels)

    def __str__(self) -> str:
        if self.channel is not None:
            return f"channel {self.channel}"
        pace = "" if self.rate is None else f", {self.rate:g} a second"
        return f"hop over {', '.join(self.channels) or 'its own channels'}{pace}"
