"""What people were told, as lines for files of lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from helperd.reports import MESSAGES, message_line
from helperd.routing import BATCH_COST, PART_COST, Batch

if TYPE_CHECKING:
    from collections.abc import Callable


class Told(Protocol):
    """One message."""

    @property
    def at(self) -> float:
        """Seconds since 1970."""

    @property
    def severity(self) -> str:
        """Its severity."""

    @property
    def source(self) -> str:
        """Who says it, or of whom it is said."""

    @property
    def text(self) -> str:
        """Its text."""


class Messages(Protocol):
    """Where messages come from."""

    def follow(self, follower: Callable[[Told], None], /) -> None:
        """Call somebody with each new message."""

    def unfollow(self, follower: Callable[[Told], None], /) -> None:
        """Call him no more."""


def line_of(told: Told) -> Batch:
    """A message as a batch of its own."""
    line = message_line(told.source, int(told.at * 1e6) * 1000, told.severity, told.text)
    return Batch((line,), len(line), 1, len(line) + BATCH_COST + PART_COST, ((MESSAGES, 1),))
