"""Keepalive: when to send PING, and when a peer counts as lost. Time is an argument.

Rules:
  1. The supervisor sends PING every ``interval`` seconds. Any byte from the helper is life, data included,
     because a helper's PONG may wait behind megabytes of data or be dropped.
  2. The helper sends none of its own; a supervisor that sends nothing for ``limit`` seconds is lost. C
     helpers watch PINGs alone, so the supervisor's interval must stay well under their 15 s.

Times: kismet-protocol.md, section 4.
"""

from __future__ import annotations

import enum
from typing import Final

from helperd.wire.session import Role

INTERVAL: Final = 5.0
LIMIT: Final = 15.0


class Due(enum.Enum):
    """What is to be done now."""

    NOTHING = "nothing"
    PING = "ping"
    """Send a Ping."""
    LOST = "lost"
    """The peer is gone; the problem word is "keepalive"."""


class Keepalive:
    """Two absolute times for one peer, in seconds of any one clock.

    Attributes:
        interval: seconds between PINGs.
        limit: seconds of silence after which the peer is lost.
    """

    __slots__ = ("_heard_at", "_ping_at", "_pings", "interval", "limit")

    def __init__(
        self, now: float, role: Role = Role.SUPERVISOR, *, interval: float = INTERVAL, limit: float = LIMIT
    ) -> None:
        self.interval = interval
        self.limit = limit
        self._pings = role is Role.SUPERVISOR
        self._heard_at = now
        self._ping_at = now + interval

    @property
    def next_at(self) -> float:
        """When ``due`` should be asked again; it never moves backwards while bytes come."""
        lost_at = self._heard_at + self.limit
        return min(self._ping_at, lost_at) if self._pings else lost_at

    def on_bytes(self, now: float) -> None:
        """Bytes came from the peer."""
        self._heard_at = max(self._heard_at, now)

    def due(self, now: float) -> Due:
        """What is to be done at ``now``; a PING that is due counts as sent once this said so."""
        if now >= self._heard_at + self.limit:
            return Due.LOST
        if self._pings and now >= self._ping_at:
            self._ping_at = now + self.interval
            return Due.PING
        return Due.NOTHING
