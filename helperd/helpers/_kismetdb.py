"""Kismet's logs (``.kismet``): SQLite files with a table of packets, and one of JSON (``data``).

Rules:
  1. The file is opened read-only and never changed; one that Kismet is still writing to can be read, too.
  2. Packets come in the order in which they were logged, with signal and position where the log has them; so does
     JSON, each between the packets of its time.

Source of facts: the schema in a log's own ``sqlite_master``; positions before database version 5 are whole
numbers of 1/100,000 degree. ``packet_full_len`` (version 9) is the length in the air.
"""

from __future__ import annotations

import sqlite3
from heapq import merge
from math import isfinite
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from helperd.errors import HelperdError
from helperd.helpers._recording import Entry
from helperd.wire.messages import Gps, Signal

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS: Final = 256
NEEDED: Final = ("ts_sec", "ts_usec", "dlt", "packet")
WANTED: Final = ("packet_full_len", "signal", "frequency", "lat", "lon", "alt", "speed", "heading")
JSON_NEEDED: Final = ("ts_sec", "ts_usec", "type", "json")
JSON_WANTED: Final = ("lat", "lon", "alt", "speed", "heading")
_SECONDS: Final = (1 << 32) - 1
_MICROS: Final = 999_999
_DLT: Final = (1 << 16) - 1
_LENGTH: Final = (1 << 32) - 1
_WHOLE_DEGREES: Final = 5


class KismetDb:
    """One log.

    Args:
        path: of the file.

    Raises:
        HelperdError: "bad-capture"; it is not a log of Kismet, or has no packets.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._database = self._connect()
        try:
            self._look()
        except BaseException:
            self._database.close()
            raise

    def _connect(self) -> sqlite3.Connection:
        name = f"file:{quote(self._path)}?mode=ro"
        try:
            database = sqlite3.connect(name, uri=True)
            database.execute("SELECT count(*) FROM sqlite_master")
        except sqlite3.Error:
            # a journal beside it that may not be written: read the file as it is
            database = sqlite3.connect(f"{name}&immutable=1", uri=True)
        return database

    def _look(self) -> None:
        """Find out which columns there are, and the first link type."""
        try:
            columns = {row[1] for row in self._database.execute("PRAGMA table_info(packets)")}
            if not columns.issuperset(NEEDED):
                text = f"{self._path} is an SQLite file, but not a log of Kismet: it has no table of packets"
                raise HelperdError("bad-capture", text)
            version = self._database.execute("SELECT db_version FROM KISMET").fetchone() or (0,)
            first = self._database.execute(
                "SELECT dlt FROM packets WHERE packet IS NOT NULL LIMIT 1"
            ).fetchone()
            known = {row[1] for row in self._database.execute("PRAGMA table_info(data)")}
            self._json = known.issuperset(JSON_NEEDED)
            said = self._json and self._database.execute("SELECT 1 FROM data LIMIT 1").fetchone()
        except sqlite3.Error as error:
            raise HelperdError("bad-capture", f"{self._path} is damaged: {error}") from None
        if first is None and not said:
            text = f"{self._path} holds neither a packet nor JSON: there is nothing to replay"
            raise HelperdError("bad-capture", text)
        self.dlt = first[0] if first is not None and isinstance(first[0], int) else None
        self.kind = f"Kismet log, version {version[0]}"
        self._degree = 1.0 if int(version[0]) >= _WHOLE_DEGREES else 100_000.0
        wanted = [name if name in columns else "NULL" for name in WANTED]
        # the names are constants of this file
        self._query = f"SELECT {', '.join((*NEEDED, *wanted))} FROM packets ORDER BY rowid"  # noqa: S608
        wanted = [name if name in known else "NULL" for name in JSON_WANTED]
        self._json_query = f"SELECT {', '.join((*JSON_NEEDED, *wanted))} FROM data ORDER BY rowid"  # noqa: S608

    def batches(self) -> Iterator[list[Entry]]:
        """All packets from the beginning."""
        entries: list[Entry] = []
        try:
            for entry in merge(self._packets(), self._reports(), key=lambda entry: entry.timestamp_ns or 0):
                entries.append(entry)
                if len(entries) == ROWS:
                    yield entries
                    entries = []
        except (sqlite3.Error, TypeError, ValueError, OverflowError) as error:
            yield entries
            raise HelperdError("bad-capture", f"{self._path} is damaged: {error}") from None
        yield entries

    def _packets(self) -> Iterator[Entry]:
        for row in self._database.execute(self._query):
            if row[3] is None:
                continue
            sec, usec, dlt, _, full, dbm, khz, *place = _numbers(row)
            _check("a packet", ("ts_sec", sec, _SECONDS), ("ts_usec", usec, _MICROS), ("dlt", dlt, _DLT))
            _check("a packet", ("packet_full_len", full, _LENGTH))
            data = row[3] if isinstance(row[3], bytes) else str(row[3]).encode()
            signal = Signal(dbm=float(dbm) or None, khz=float(khz) or None) if dbm or khz else None
            stamp = int(sec) * 10**9 + int(usec) * 1000
            yield Entry(
                int(dlt),
                stamp,
                data,
                max(int(full), len(data)),
                signal,
                self._place(int(sec), int(usec), place),
            )

    def _reports(self) -> Iterator[Entry]:
        for row in self._database.execute(self._json_query) if self._json else ():
            sec, usec, _, _, *place = _numbers(row)
            _check("a record of JSON", ("ts_sec", sec, _SECONDS), ("ts_usec", usec, _MICROS))
            text = row[3].decode("utf-8", "replace") if isinstance(row[3], bytes) else str(row[3] or "")
            stamp = int(sec) * 10**9 + int(usec) * 1000
            gps = self._place(int(sec), int(usec), place)
            yield Entry(0, stamp, text.encode(), 0, None, gps, str(row[2] or "JSON"))

    def _place(self, sec: int, usec: int, place: list[float]) -> Gps | None:
        lat, lon, alt, speed, heading = place
        if not lat and not lon:
            return None
        return Gps(
            latitude=lat / self._degree,
            longitude=lon / self._degree,
            altitude=float(alt),
            speed=float(speed),
            heading=float(heading),
            fix=3 if alt else 2,
            sec=sec,
            usec=usec,
            type="kismetdb",
            name="kismetdb",
        )

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()


def _numbers(row: tuple[object, ...]) -> list[float]:
    """What is a number in a row, and 0 for the rest; whole numbers stay whole."""
    return [value if isinstance(value, (int, float)) and isfinite(value) else 0 for value in row]


def _check(what: str, *numbers: tuple[str, float, int]) -> None:
    """Refuse what no frame can hold."""
    for name, value, most in numbers:
        if not 0 <= value <= most:
            raise ValueError(f"{what} with {name} = {value}; 0 to {most} is possible")
