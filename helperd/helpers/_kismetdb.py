"""Kismet's logs (``.kismet``): SQLite files with a table of packets, and one of JSON (``data``).

Rules:
  1. The file is data: see ``_database``.
  2. Packets come in the order in which they were logged, with signal and position where the log has them; so does
     JSON, each between the packets of its time.
  3. Only a database that cannot be read on ends the log. What one row says that cannot be is told for that row alone:
     a stamp becomes the nearest that can be (``bad-stamp``), a row without a possible link type or without bytes
     is left out (``bad-record``), anything else is left out of its packet. JSON is read as that of programs is: what
     is none is left out, and of a number that is none null is passed on (``not-finite``).

Source of facts: the schema in a log's own ``sqlite_master``; positions before database version 5 are whole
numbers of 1/100,000 degree. ``packet_full_len`` (version 9) is the length in the air.
"""

from __future__ import annotations

from collections import Counter
from heapq import merge
from math import isfinite
from typing import TYPE_CHECKING, Final

from helperd.errors import HelperdError
from helperd.helpers._capturefile import BAD_RECORD, BAD_STAMP
from helperd.helpers._database import FAULTS, Database
from helperd.helpers._jsonrecord import NoRecord, Reader
from helperd.helpers._leftout import LeftOut
from helperd.helpers._recording import Entry
from helperd.pcapng import LAST_STAMP, comments
from helperd.wire.messages import Gps, Signal

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS: Final = 256
NEEDED: Final = ("ts_sec", "ts_usec", "dlt", "packet")
WANTED: Final = ("packet_full_len", "signal", "frequency", "lat", "lon", "alt", "speed", "heading")
JSON_NEEDED: Final = ("ts_sec", "ts_usec", "type", "json")
JSON_WANTED: Final = ("lat", "lon", "alt", "speed", "heading")
OTHERS: Final = ("alerts", "datasources", "devices", "messages", "snapshots")
"""Tables whose rows are neither packets nor JSON; they are counted, each as what it is called."""
NOT_FINITE: Final = "not-finite"
_DLT: Final = (1 << 16) - 1
_LENGTH: Final = (1 << 32) - 1
_WHOLE_DEGREES: Final = 5
_TODAY: Final = 9


class KismetDb:
    """One log.

    Args:
        path: of the file.

    Raises:
        HelperdError: "bad-capture"; it is not a log of Kismet.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.odd: Counter[str] = Counter()
        self.left_out = LeftOut()
        self._database = Database(path)
        try:
            self._look()
        except BaseException:
            self._database.close()
            raise

    def _look(self) -> None:
        """Find out which columns there are, and the first link type."""
        database = self._database
        try:
            columns = database.columns("packets")
            if not columns.issuperset(NEEDED):
                text = f"{self._path} is an SQLite file, but not a log of Kismet: it has no table of packets"
                raise HelperdError("bad-capture", text)
            version = self._version()
            first = database.first("SELECT dlt FROM packets WHERE packet IS NOT NULL LIMIT 1")
            known = database.columns("data")
            self._others = [table for table in OTHERS if database.columns(table)]
        except FAULTS as error:
            raise database.damaged(error) from None
        self._json = known.issuperset(JSON_NEEDED)
        self.dlt = _whole(first[0], _DLT) if first is not None else None
        self.kind = f"Kismet log, version {version}"
        self._degree = 1.0 if version >= _WHOLE_DEGREES else 100_000.0
        wanted = [name if name in columns else "NULL" for name in WANTED]
        # the names are constants of this file
        self._query = f"SELECT rowid, {', '.join((*NEEDED, *wanted))} FROM packets ORDER BY rowid"  # noqa: S608
        wanted = [name if name in known else "NULL" for name in JSON_WANTED]
        self._json_query = f"SELECT rowid, {', '.join((*JSON_NEEDED, *wanted))} FROM data ORDER BY rowid"  # noqa: S608

    def _version(self) -> int:
        """The version of the database; where it does not say, that of today's logs."""
        if "db_version" not in self._database.columns("KISMET"):
            return _TODAY
        row = self._database.first("SELECT db_version FROM KISMET")
        version = None if row is None else _whole(row[0], _LENGTH)
        return _TODAY if version is None else version

    def batches(self) -> Iterator[list[Entry]]:
        """All packets from the beginning."""
        entries: list[Entry] = []
        try:
            self._count_others()
            for entry in merge(self._packets(), self._reports(), key=lambda entry: entry.timestamp_ns or 0):
                entries.append(entry)
                if len(entries) == ROWS:
                    yield entries
                    entries = []
        except FAULTS as error:
            yield entries
            raise self._database.damaged(error) from None
        yield entries

    def _count_others(self) -> None:
        for table in self._others:
            # the names are constants of this file
            row = self._database.first(f"SELECT count(*) FROM {table}")  # noqa: S608
            if row is not None and row[0]:
                self.left_out[table] += row[0]

    def _packets(self) -> Iterator[Entry]:
        for row in self._database.rows(self._query):
            dlt = _whole(row[2], _DLT)
            if row[3] is None or dlt is None:
                self.odd[BAD_RECORD] += 1
                continue
            stamp, note = self._stamp(row)
            data = row[3] if isinstance(row[3], bytes) else str(row[3]).encode("utf-8", "surrogateescape")
            full = _whole(row[4], _LENGTH) or 0
            dbm, khz, *place = map(_number, row[5:])
            signal = Signal(dbm=dbm or None, khz=khz or None) if dbm or khz else None
            gps = self._place(stamp, place)
            yield Entry(dlt, stamp, data, max(full, len(data)), note, signal, gps)

    def _reports(self) -> Iterator[Entry]:
        read = Reader().read
        for row in self._database.rows(self._json_query) if self._json else ():
            raw = row[3] if isinstance(row[3], bytes) else str(row[3]).encode("utf-8", "surrogateescape")
            try:
                record = read(raw)
            except NoRecord:
                record = None
            if record is None:
                self.odd[BAD_RECORD] += 1
                continue
            if not record.finite:
                self.odd[NOT_FINITE] += 1
            stamp, _ = self._stamp(row)
            gps = self._place(stamp, [_number(value) for value in row[4:]])
            kind = str(row[2] or "JSON").encode("utf-8", "replace").decode()
            yield Entry(0, stamp, record.text.encode(), 0, b"", None, gps, kind)

    def _stamp(self, row: tuple[object, ...]) -> tuple[int, bytes]:
        """The time of a row, in nanoseconds since 1970; where it is none the nearest possible one, counted, and its own
        as the comment of a packet.
        """
        sec, usec = row[0], row[1]
        if isinstance(sec, float) and isfinite(sec):
            sec = int(sec)
        if isinstance(usec, float) and isfinite(usec):
            usec = int(usec)
        stamp = -1
        if isinstance(sec, int) and isinstance(usec, int):
            stamp = sec * 10**9 + usec * 1000
        if 0 <= stamp <= LAST_STAMP:
            return stamp, b""
        self.odd[BAD_STAMP] += 1
        return LAST_STAMP if stamp > 0 else 0, comments(f"time stamp {row[0]!s:.40} s and {row[1]!s:.40} us")

    def _place(self, stamp: int, place: list[float]) -> Gps | None:
        sec, ns = divmod(stamp, 10**9)
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
            usec=ns // 1000,
            type="kismetdb",
            name="kismetdb",
        )

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()


def _number(value: object) -> float:
    """A measured value; 0 for what is none."""
    try:
        number = float(value) if isinstance(value, (int, float)) else 0.0
    except OverflowError:
        return 0.0
    return number if isfinite(number) else 0.0


def _whole(value: object, most: int) -> int | None:
    """A whole number from 0 to ``most``; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and 0 <= value <= most else None
