"""``jsonlines``: any program that prints one JSON object per line, rtl_433 first; lines become JSON reports.

::

    command = ["builtin:jsonlines", "--", "kind=RTL433", "time=time", "/usr/bin/rtl_433", "-F", "json", "-M", "utc",
               "-d", "{interface}", "[", "-f", "{channel}", "]"]
    definition:  0:type=rtl433,channel=433.92M

Settings in front of the program: ``kind=`` is the record's type (default JSON), ``time=`` the key that holds its
time stamp: seconds since 1970, or ISO 8601 (without a zone: UTC). Without one, or when it cannot be read, a
record gets the time of reading.

Rules:
  1. What is no JSON object, and what is longer than ``MAX_LINE`` or than the peer takes, is counted and left
     out; the first of each kind is shown, then the count at every tenfold.
  2. The program's end is the helper's end: status 0 is a good end, anything else an error with its last words.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Final

from helperd.errors import HelperdError
from helperd.helpers._program import Program
from helperd.helpers._template import Template
from helperd.helpers.sdk import Device, Helper, SourceDefinition, Writer
from helperd.wire.identity import uuid_of

if TYPE_CHECKING:
    from collections.abc import Mapping

READ: Final = 256 << 10
MAX_LINE: Final = 256 << 10
EXCERPT: Final = 80
SETTINGS: Final = ("kind", "time")
_TICK_S: Final = 0.2


class LineCutter:
    """Cuts a stream into lines; a line longer than the limit is passed over without being held.

    Attributes:
        long: how many lines were too long.
        excerpt: the start of the first of them.
    """

    def __init__(self, limit: int = MAX_LINE) -> None:
        self.long = 0
        self.excerpt = b""
        self._limit = limit
        self._held = bytearray()
        self._passing = False

    def feed(self, data: bytes) -> list[bytes]:
        """Take a read; returns the lines that are whole now, without their ends."""
        first, newline, rest = data.partition(b"\n")
        if not newline:
            self._hold(data)
            return []
        self._hold(first)
        found = [] if self._passing else [bytes(self._held)]
        self._held.clear()
        self._passing = False
        *lines, last = rest.split(b"\n")
        for line in lines:
            if len(line) > self._limit:
                self._too_long(line)
            else:
                found.append(line)
        self._hold(last)
        return found

    def _hold(self, data: bytes) -> None:
        if self._passing:
            return
        self._held += data
        if len(self._held) > self._limit:
            self._too_long(bytes(self._held))
            self._held.clear()
            self._passing = True

    def _too_long(self, line: bytes) -> None:
        self.long += 1
        self.excerpt = self.excerpt or line[:EXCERPT]

    def finish(self) -> list[bytes]:
        """The stream has ended: the last line, if it has no end."""
        return [bytes(self._held)] if self._held else []


class Left:
    """Counts what is left out and says so, not too often."""

    def __init__(self, what: str) -> None:
        self._what = what
        self.count = 0
        self._next = 1

    def add(self, writer: Writer, excerpt: bytes, number: int = 1) -> None:
        """Count, and tell the first and every tenfold."""
        self.count += number
        if number and self.count >= self._next:
            shown = excerpt[:EXCERPT].decode("utf-8", "replace")
            writer.warning(f"{self.count} lines left out: {self._what}; e.g. {shown!r}")
            while self._next <= self.count:
                self._next *= 10


def stamp_ns(value: object) -> int | None:
    """Nanoseconds since 1970 of a JSON time stamp; None when it is none.

    Args:
        value: a number or text with seconds since 1970, or ISO 8601 text; without a zone it is UTC.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return _iso_ns(str(value))
    if isinstance(value, (int, float)) and 0 <= value < 1 << 33:
        return round(value * 1_000_000) * 1000
    return None


def _iso_ns(text: str) -> int | None:
    from datetime import UTC, datetime

    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    whole = round(when.timestamp() * 1_000_000) * 1000
    return whole if whole >= 0 else None


class JsonLines(Helper):
    """The adapter."""

    TYPE = "jsonlines"
    SUMMARY = "reads one JSON object per line from a program's stdout"
    WORDS = "[kind=TYPE] [time=KEY] [NAME~PATTERN ...] /PROGRAM [ARGUMENT ...]"

    def _template(self) -> Template:
        template = Template(self.words, SETTINGS)
        if not template.program:
            from helperd.helpers.sdk import Refused

            raise Refused(
                f'no program is configured; write command = ["builtin:jsonlines", "--", {self.WORDS}]'
            )
        return template

    def known_options(self) -> Mapping[str, str]:
        """The places of the program's arguments."""
        return Template(self.words, SETTINGS).options()

    def probe(self, definition: SourceDefinition) -> Device | bool:
        """Ours when it says so."""
        if definition.get("type").lower() != self.TYPE:
            return False
        return Device(hardware=" ".join(self._template().fill(definition)))

    def open(self, definition: SourceDefinition) -> Device:
        """Start the program."""
        template = self._template()
        self._kind = template.settings.get("kind", "JSON")
        self._time_key = template.settings.get("time", "")
        self._program = Program(template.fill(definition))
        return Device(
            hardware=self._program.name,
            capture_interface=definition.interface,
            uuid=uuid_of(f"helperd_{os.path.basename(template.program)}", definition.interface),
        )

    def capture(self, writer: Writer) -> str:
        """Read lines until the program ends."""
        cutter = LineCutter()
        self._records = 0
        self._no_json = Left("not a JSON object")
        self._too_long = Left("too long")
        try:
            while True:
                data = self._program.read(READ, _TICK_S)
                if data is None:
                    if writer.stopping:
                        break
                    continue
                for line in cutter.feed(data) if data else cutter.finish():
                    self._report(writer, line)
                if cutter.long:
                    self._too_long.add(writer, cutter.excerpt, cutter.long)
                    cutter.long = 0
                if not data:
                    break
        finally:
            status = self._program.close()
        if status:
            raise HelperdError("child-gone", self._program.reason())
        left = self._no_json.count + self._too_long.count
        return f"{self._program.name} has ended after {self._records} records" + (
            f", {left} left out" if left else ""
        )

    def _report(self, writer: Writer, line: bytes) -> None:
        """One line."""
        text = line.strip()
        if not text:
            return
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            self._no_json.add(writer, text)
            return
        when = stamp_ns(record.get(self._time_key)) if self._time_key else None
        try:
            writer.json(self._kind, text.decode(), time.time_ns() if when is None else when)
        except ValueError:
            self._too_long.add(writer, text)
        else:
            self._records += 1

    def stop(self) -> None:
        """End the program."""
        program = getattr(self, "_program", None)
        if program is not None:
            program.stop()


HELPER = JsonLines
