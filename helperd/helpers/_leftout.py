"""What an adapter reads and does not pass on: counted by kind, each kind told once, all of them at the end."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from helperd.helpers._writer import Writer


class LeftOut(Counter[str]):
    """How many of each kind; a kind is a plural, e.g. ``custom blocks``."""

    def __init__(self) -> None:
        super().__init__()
        self._told = 0

    def tell(self, writer: Writer) -> None:
        """Say which kinds have come up since the last call."""
        if len(self) > self._told:
            fresh = list(self)[self._told :]
            self._told = len(self)
            writer.message(f"left out, for a stream of packets has no place for them: {', '.join(fresh)}")

    @property
    def summary(self) -> str:
        """All of it, to stand behind a sentence; nothing when there is nothing."""
        kinds = ", ".join(f"{kind} ({number:,})" for kind, number in self.items())
        return f"; left out: {kinds}" if kinds else ""
