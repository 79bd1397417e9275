"""Kismet's logs (``.kismet``): SQLite files with a table of packets.

Rules:
  1. The file is opened read-only and never changed; one that Kismet is still writing to can be read, too.
  2. Packets come in the order in which they were logged, with signal and position where the log has them.

Source of facts: the schema in a log's own ``sqlite_master``; positions before database version 5 are whole
numbers of 1/100,000 degree. ``packet_full_len`` (version 9) is the length in the air.
"""

from __future__ import annotations

import sqlite3
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
        except sqlite3.Error as error:
            raise HelperdError("bad-capture", f"{self._path} is damaged: {error}") from None
        if first is None:
            raise HelperdError("bad-capture", f"{self._path} holds no packet: there is nothing to replay")
        self.dlt = int(first[0])
        self.kind = f"Kismet log, version {version[0]}"
        self._degree = 1.0 if int(version[0]) >= _WHOLE_DEGREES else 100_000.0
        wanted = [name if name in columns else "NULL" for name in WANTED]
        # the names are constants of this file
        self._query = f"SELECT {', '.join((*NEEDED, *wanted))} FROM packets ORDER BY rowid"  # noqa: S608

    def batches(self) -> Iterator[list[Entry]]:
        """All packets from the beginning."""
        entries: list[Entry] = []
        try:
            for row in self._database.execute(self._query):
                if row[3] is not None:
                    entries.append(self._entry(row))
                if len(entries) == ROWS:
                    yield entries
                    entries = []
        except (sqlite3.Error, TypeError, ValueError, OverflowError) as error:
            yield entries
            raise HelperdError("bad-capture", f"{self._path} is damaged: {error}") from None
        yield entries

    def _entry(self, row: tuple[object, ...]) -> Entry:
        numbers = [value if isinstance(value, (int, float)) else 0 for value in row]
        sec, usec, dlt = (int(number) for number in numbers[:3])
        full, dbm, khz, lat, lon, alt, speed, heading = numbers[4:]
        for name, value, most in (
            ("ts_sec", sec, (1 << 32) - 1),
            ("ts_usec", usec, 999_999),
            ("dlt", dlt, (1 << 16) - 1),
            ("packet_full_len", full, (1 << 32) - 1),
        ):
            if not 0 <= value <= most:
                raise ValueError(f"a packet with {name} = {value}; 0 to {most} is possible")
        dbm, khz, lat, lon, alt, speed, heading = (
            value if isfinite(value) else 0 for value in (dbm, khz, lat, lon, alt, speed, heading)
        )
        data = row[3] if isinstance(row[3], bytes) else str(row[3]).encode()
        signal = Signal(dbm=float(dbm) or None, khz=float(khz) or None) if dbm or khz else None
        gps = None
        if lat or lon:
            gps = Gps(
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
        return Entry(dlt, sec * 10**9 + usec * 1000, data, max(int(full), len(data)), signal, gps)

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()
