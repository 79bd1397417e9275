"""``jsonlines``: any program that prints one JSON object per line, rtl_433 first; lines become JSON reports.

::

    command = ["builtin:jsonlines", "--", "kind=RTL433", "time=time", "/usr/bin/rtl_433", "-F", "json", "-M", "utc",
               "-d", "{interface}", "[", "-f", "{channel}", "]"]
    definition:  0:type=rtl433,channel=433.92M

Settings in front of the program: ``kind=`` is the record's type (default JSON), ``time=`` the key that holds its
time stamp: seconds since 1970, or ISO 8601 (without a zone: UTC). Without one, or when it cannot be read or is no
plausible time, a record gets the time of reading.

Rules:
  1. What is passed on of a line is what was read of it: ``_jsonrecord`` says how.
  2. What is no JSON object or no text, and what is longer than ``MAX_LINE`` or than the peer takes, is left out and
     counted in the ledger; the first of each kind is shown, then the count at every tenfold.
  3. The program's end is the helper's end: status 0 is a good end, anything else an error with its last words.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Final

from helperd.errors import HelperdError
from helperd.helpers._jsonrecord import NoRecord, Reader
from helperd.helpers._program import GRACE_S, Program, identity
from helperd.helpers._template import Template
from helperd.helpers._writer import is_round
from helperd.helpers.sdk import Device, Helper, SourceDefinition, Writer

if TYPE_CHECKING:
    from collections.abc import Mapping

READ: Final = 256 << 10
MAX_LINE: Final = 256 << 10
EXCERPT: Final = 80
SETTINGS: Final = ("kind", "time")
PLAUSIBLE_S: Final = (100_000_000, (1 << 32) - 1)
"""Numbers that can be seconds since 1970: 1973 to 2106. Smaller ones are uptimes, counters or a date written as digits,
larger ones milliseconds."""
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

    def __init__(self) -> None:
        self.count = 0
        self._of: Counter[str] = Counter()

    def add(self, writer: Writer, what: str, excerpt: bytes, number: int = 1) -> None:
        """Count, and tell the first and every tenfold of each kind; ``what`` it is, more of it in brackets."""
        kind = what.partition(" (")[0]
        before = self._of[kind]
        after = self._of[kind] = before + number
        self.count += number
        if not before or len(str(after)) > len(str(before)):
            shown = excerpt[:EXCERPT].decode("utf-8", "backslashreplace")
            writer.warning(f"{after} lines left out: {what}; e.g. {shown!r}")


def stamp_ns(value: object) -> int | None:
    """Nanoseconds since 1970 of a JSON time stamp; None when it is none, or no plausible one.

    Args:
        value: a number or text with seconds since 1970, or ISO 8601 text; without a zone it is UTC.
    """
    if isinstance(value, str):
        text = value.strip()
        when = _number_ns(float(text)) if _NUMBER.fullmatch(text) else None
        return _iso_ns(text) if when is None else when
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _number_ns(value)
    return None


_NUMBER: Final = re.compile(r"[0-9]{1,20}(\.[0-9]{0,20})?([eE]\+?[0-9]{1,2})?", re.ASCII)


def _number_ns(seconds: float) -> int | None:
    least, most = PLAUSIBLE_S
    return round(seconds * 1_000_000) * 1000 if least <= seconds <= most else None


def _iso_ns(text: str) -> int | None:
    from datetime import UTC, datetime

    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    seconds = when.timestamp()
    return round(seconds * 1_000_000) * 1000 if 0 <= seconds <= PLAUSIBLE_S[1] else None


class JsonLines(Helper):
    """The adapter."""

    TYPE = "jsonlines"
    SUMMARY = "reads one JSON object per line from a program's stdout"
    WORDS = "[kind=TYPE] [time=KEY] [NAME~PATTERN ...] /PROGRAM [ARGUMENT ...]"

    STOP_GRACE_S = GRACE_S + 0.2
    _program: Program | None = None

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
        argv = template.fill(definition)
        self._program = Program(argv, stop_fd=self.stop_fd)
        return Device(
            hardware=self._program.name,
            capture_interface=definition.interface,
            uuid=identity(argv, definition.interface),
        )

    def capture(self, writer: Writer) -> str:
        """Read lines until the program ends."""
        cutter = LineCutter()
        program = self._program
        assert program is not None
        self._records = 0
        self._left = Left()
        self._infinite = 0
        reader = Reader()
        try:
            while True:
                data = program.read(READ, _TICK_S)
                if data is None:
                    if writer.stopping:
                        break
                    continue
                for line in cutter.feed(data) if data else cutter.finish():
                    self._report(writer, reader, line)
                if cutter.long:
                    writer.count(cutter.long, "too-long")
                    self._left.add(writer, "too long", cutter.excerpt, cutter.long)
                    cutter.long = 0
                if not data:
                    break
        finally:
            status = program.close()
        if status:
            raise HelperdError("child-gone", program.reason())
        left = self._left.count
        return f"{program.name} has ended after {self._records} records" + (
            f", {left} left out" if left else ""
        )

    def _report(self, writer: Writer, reader: Reader, line: bytes) -> None:
        """One line."""
        try:
            record = reader.read(line)
        except NoRecord as error:
            writer.count(1, "bad-record")
            self._left.add(writer, str(error), line)
            return
        if record is None:
            return
        when = stamp_ns(record.values.get(self._time_key)) if self._time_key else None
        try:
            writer.json(self._kind, record.text, when)
        except ValueError:
            self._left.add(writer, "too long", line)
            return
        self._records += 1
        if not record.finite:
            writer.count(1, "not-finite")
            self._infinite += 1
            if is_round(self._infinite):
                shown = line[:EXCERPT].decode("utf-8", "backslashreplace")
                writer.warning(
                    f"{self._infinite} records with null for a number that is none; e.g. {shown!r}"
                )

    def stop(self) -> None:
        """End the program."""
        if self._program is not None:
            self._program.stop()


HELPER = JsonLines
