"""All of a configuration: what the launcher reads, and what is not its business."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from helperd.config import daemon, helpers, keys, sinks, sources
from helperd.config.check import Check, Place, fields_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from helperd.config.check import Entry

_FOR_ALL = tuple(key for key in keys.KEYS if key.table != "sink")
KEYS = tuple(
    key
    for table in keys.TABLES
    for key in (*_FOR_ALL, *daemon.DAEMON, *helpers.HELPER, *sources.SOURCE, *sinks.SINK)
    if key.table == table.name
)
"""Every key of every table, in the order of the manual."""


UNENDED = (
    "does not end with a newline, as a file that was cut: see whether its last line is whole, and end it"
)


def unended(files: Iterable[str]) -> dict[str, int]:
    """Return the files whose last line has no end, and its number: one that is cut within a number may be good."""
    found = {}
    for path in files:
        try:
            with open(path, "rb") as file:
                text = file.read()
        except OSError:
            continue  # it was there a moment ago; who reads it next says what is wrong
        if text and not text.endswith(b"\n"):
            found[path] = text.count(b"\n") + 1
    return found


class Whole(Check):
    """Documents on their way to a Config, sources and sinks included."""

    keys = KEYS
    whole = True

    def more(self, found: dict[str, list[Entry]], daemon: dict[str, Any]) -> None:
        """Check [[source]] and [[sink]], and the rest of [[helper]], and that there is anything at all."""
        helpers.fill(found["helper"])
        main = self.documents[0]
        nothing = not any(found[table.name] for table in keys.TABLES if table.name != "helperd")
        if (nothing or not main.content) and not self.mistakes and not daemon.get("empty"):
            text = "is empty, as a power cut leaves files; if it is meant to be, write [helperd] and empty = true"
            self.refuse("no-config", text, Place(main, ()))
        sources.check(self, found["source"], found["helper"])
        sinks.check(self, found["sink"], found["source"], daemon)

    def sources(self, entries: list[Entry]) -> tuple[sources.SourceSpec, ...]:
        """What [[source]] says."""
        return tuple(sources.SourceSpec(**fields_of(entry)) for entry in entries)

    def sinks(self, entries: list[Entry]) -> tuple[sinks.SinkSpec, ...]:
        """What [[sink]] says."""
        return tuple(sinks.SinkSpec(**fields_of(entry)) for entry in entries)
