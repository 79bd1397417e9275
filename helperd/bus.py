"""What helpers and helperd say to people: one ring of messages with severity, source and time."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from helperd.logs import Bucket
from helperd.visible import visible

if TYPE_CHECKING:
    from collections.abc import Callable

KEPT: Final = 1000
"""Messages kept; the oldest goes first."""
MAX_TEXT: Final = 4096
"""Characters of a text that are kept."""
KEPT_BYTES: Final = 4 << 20
"""Bytes of their texts; the same."""
BURST: Final = 100
RATE: Final = 10.0
"""Messages that pass at once, and then per second, of what one helper says."""
BURST_BYTES: Final = 64 << 10
RATE_BYTES: Final = 1 << 10
"""Bytes of them, as they are logged: at once, and then per second."""
_FOLD_S: Final = 60.0


@dataclass(slots=True)
class Notice:
    """One message; repeats within a minute are folded into ``repeated``.

    Attributes:
        number: position since the daemon's start, from 1.
        at: wall-clock seconds since the epoch, for people only.
        severity: ``debug``, ``info``, ``warning``, ``error``, ``alert`` or ``fatal``.
        source: the source's or helper's name, ``helperd`` for ourselves.
    """

    number: int
    at: float
    severity: str
    source: str
    text: str
    repeated: int = 0

    def as_dict(self) -> dict[str, object]:
        """The message as the control socket shows it."""
        return {
            "number": self.number,
            "at": self.at,
            "severity": self.severity,
            "source": self.source,
            "text": self.text,
            "repeated": self.repeated,
        }


@dataclass(slots=True)
class MessageBus:
    """The ring, and the wake-up of those who follow it.

    Attributes:
        posted: messages so far.
        dropped: of helpers that said more than their budget.
    """

    notices: deque[Notice] = field(default_factory=deque)
    posted: int = 0
    dropped: int = 0
    _followers: list[Callable[[Notice], None]] = field(default_factory=list)
    _nbytes: int = 0
    _recent_bytes: int = 0
    _budgets: dict[str, tuple[Bucket, Bucket]] = field(default_factory=dict)
    _unsaid: Counter[str] = field(default_factory=Counter)
    _recent: dict[tuple[str, str], tuple[Notice, float]] = field(default_factory=dict)
    _lot: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)

    def hear(self, severity: str, source: str, text: str) -> Notice | None:
        """Add what a helper says, as ``post`` does, within its budget; what is dropped is counted, and told of later.

        Returns:
            None when it was folded or dropped.
        """
        now = trio.current_time()
        text = text[:MAX_TEXT]
        if self._folded(source, text, now):
            return None
        if len(self._budgets) > KEPT:
            self._budgets.clear()
        if source not in self._budgets:
            burst = Bucket(BURST_BYTES, RATE_BYTES, BURST_BYTES, now)
            self._budgets[source] = Bucket(BURST, RATE, BURST, now), burst
        budget, nbytes = self._budgets[source]
        budget.fill(now)
        nbytes.fill(now)
        if budget.tokens < 1 or nbytes.tokens < 1:
            self.dropped += 1
            self._unsaid[source] += 1
            return None
        budget.tokens -= 1
        nbytes.tokens -= len(visible(text).encode(errors="replace"))
        if unsaid := self._unsaid.pop(source, 0):
            self.post("warning", source, f"{unsaid} messages dropped: more than {RATE:g} per second")
        return self.post(severity, source, text)

    def _folded(self, source: str, text: str, now: float) -> bool:
        known = self._recent.get((source, text))
        if known is None or now - known[1] >= _FOLD_S:
            return False
        known[0].repeated += 1
        return True

    def post(self, severity: str, source: str, text: str) -> Notice | None:
        """Add a message and wake the followers.

        Returns:
            None when it was folded into an equal one of the last minute.
        """
        now = trio.current_time()
        text = text[:MAX_TEXT]
        if self._folded(source, text, now):
            return None
        self.posted += 1
        notice = Notice(self.posted, time.time(), severity, source, text)  # noqa: TID251 - printed, never compared
        if len(self._recent) > KEPT or self._recent_bytes > KEPT_BYTES:
            self._recent.clear()
            self._recent_bytes = 0
        self._recent_bytes += len(text)
        self._recent[source, text] = (notice, now)
        self._nbytes += len(text.encode(errors="replace"))
        while self.notices and (len(self.notices) >= KEPT or self._nbytes > KEPT_BYTES):
            self._nbytes -= len(self.notices.popleft().text.encode(errors="replace"))
        self.notices.append(notice)
        self._lot.unpark_all()
        for follower in list(self._followers):
            follower(notice)
        return notice

    def since(self, number: int) -> list[Notice]:
        """The kept messages with a higher number."""
        return [notice for notice in self.notices if notice.number > number]

    def follow(self, follower: Callable[[Notice], None]) -> None:
        """Call somebody with each new message, at once; he neither waits nor raises."""
        self._followers.append(follower)

    def unfollow(self, follower: Callable[[Notice], None]) -> None:
        """Call him no more."""
        self._followers.remove(follower)

    async def wait(self) -> None:
        """Wait for the next message."""
        await self._lot.park()
