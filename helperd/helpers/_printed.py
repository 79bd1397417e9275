"""What an author's ``print`` writes: lines for the server's people, instead of a standard output that goes nowhere."""

from __future__ import annotations

import io
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_LINE = 1000
"""Characters after which a line is told although it has not ended."""


class Printed(io.TextIOBase):
    """A text stream that hands on whole lines.

    Args:
        tell: called with each line, without its end, in the thread that wrote it. Empty lines are left out.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._begun = ""

    def writable(self) -> bool:
        """Yes."""
        return True

    def write(self, text: str) -> int:
        """Tell the lines that end in ``text``; the rest waits for its end."""
        with self._lock:
            *lines, self._begun = (self._begun + text).split("\n")
            if len(self._begun) > MAX_LINE:
                lines.append(self._begun)
                self._begun = ""
        for line in lines:
            for at in range(0, len(line.rstrip()), MAX_LINE):
                self._tell(line[at : at + MAX_LINE].rstrip())
        return len(text)

    def finish(self) -> None:
        """Tell a last line that has no end."""
        if self._begun:
            self.write("\n")
