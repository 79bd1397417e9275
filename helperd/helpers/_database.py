"""A SQLite file that somebody else made, read as data: nothing that stands in it is carried out.

Rules:
  1. Tables are read, and nothing else: a view, a virtual table or a computed column is a program of the file's author,
     and is refused before it runs; so is whatever SQLite would run unasked (the authorizer).
  2. What is kept meanwhile stays in memory and is bounded, and so is the time for one row: rows come in the order of
     their numbers, each number once, or the file is damaged.
  3. The file is opened read-only and never changed; one that is being written to can be read, too.

Source of facts: sqlite.org, "Defense Against The Dark Arts", and the pages on PRAGMA and sqlite3_set_authorizer.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from helperd.errors import HelperdError
from helperd.helpers._clock import monotonic

if TYPE_CHECKING:
    from collections.abc import Iterator

ROW_S: Final = 20.0
"""Seconds that one row, or one number, may take: far more than any disk needs for the gaps of a real log."""
_STEPS: Final = 50_000  # of SQLite's machine between two looks at the clock: some milliseconds
_HEAP: Final = 256 << 20
_LONGEST: Final = 64 << 20  # bytes of one value, and of one row
_PREPARED: Final = ("temp_store = MEMORY", "trusted_schema = OFF", "query_only = ON", "cache_size = -8192")
FAULTS: Final = (sqlite3.Error, MemoryError)
"""What reading may raise: the file is damaged, or wants more than it gets."""


class Database:
    """One file.

    Args:
        path: of the file.

    Raises:
        HelperdError: "bad-capture".
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._due = monotonic() + ROW_S
        self._database = self._connect()
        try:
            self._harden()
            self._kinds = self._look()
        except FAULTS as error:
            self._database.close()
            raise self.damaged(error) from None

    def _connect(self) -> sqlite3.Connection:
        name = f"file:{quote(self._path)}?mode=ro"
        try:
            database = sqlite3.connect(name, uri=True)
            database.execute("SELECT 1 FROM sqlite_master")
        except sqlite3.Error:
            # a journal beside it that may not be written: read the file as it is
            database = sqlite3.connect(f"{name}&immutable=1", uri=True)
        database.text_factory = _text
        return database

    def _harden(self) -> None:
        database = self._database
        for pragma in (*_PREPARED, f"hard_heap_limit = {_HEAP}"):
            database.execute(f"PRAGMA {pragma}")
        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST)
        database.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        database.set_progress_handler(lambda: monotonic() > self._due, _STEPS)
        database.set_authorizer(_only_reading)

    def _look(self) -> dict[str, str]:
        """What each name of the file is: "table", or what it must not be."""
        found = {}
        for name, kind, page in self.rows("SELECT name, type, rootpage FROM sqlite_master", numbered=False):
            if kind in {"table", "view"}:
                found[str(name).lower()] = kind if page or kind == "view" else "virtual table"
        return found

    def columns(self, table: str) -> set[str]:
        """The columns of a table that are stored; none: there is no such table.

        Raises:
            HelperdError: "bad-capture"; it is no table.
        """
        kind = self._kinds.get(table.lower())
        if kind is None:
            return set()
        if kind != "table":
            text = f"{self._path}: {table} is a {kind}, where a log has a table; files are read, never carried out"
            raise HelperdError("bad-capture", text)
        return {
            row[1] for row in self.rows(f"PRAGMA table_info({table})", numbered=False)
        }  # computed ones are not in it

    def first(self, query: str) -> tuple[Any, ...] | None:
        """The first row of an answer."""
        return next(self.rows(query, numbered=False), None)

    def rows(self, query: str, *, numbered: bool = True) -> Iterator[tuple[Any, ...]]:
        """The rows of an answer; ``numbered``: the first column is the row's number and is left out.

        Raises:
            sqlite3.Error, MemoryError: the file is damaged, or a row took too long.
        """
        self._due = monotonic() + ROW_S
        before: int | None = None
        for row in self._database.execute(query):
            if numbered:
                if before is not None and row[0] <= before:
                    raise sqlite3.DatabaseError("the same rows come again")
                before = row[0]
                yield row[1:]
            else:
                yield row
            self._due = monotonic() + ROW_S

    def damaged(self, error: BaseException) -> HelperdError:
        """What to say of a fault of the file."""
        words = str(error) or "it wants more memory than a log needs"
        if words == "interrupted":
            words = f"no next row within {ROW_S:g} s"
        return HelperdError("bad-capture", f"{self._path} is damaged: {words}")

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()


def _only_reading(
    action: int, one: str | None, two: str | None, _database: str | None, inside: str | None
) -> int:
    """Whether SQLite may do something; ``inside`` names the view or trigger that asks for it."""
    allowed = inside is None and (
        action in {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ}
        or (action == sqlite3.SQLITE_FUNCTION and two == "count")
        or (action == sqlite3.SQLITE_PRAGMA and one == "table_info")
    )
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def _text(raw: bytes) -> str:
    """A text as it stands, also where it is no UTF-8: SQLite promises nothing."""
    return raw.decode("utf-8", "surrogateescape")
