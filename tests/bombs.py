"""Files that look like logs of Kismet and are programs: what a reader would carry out, or never come to the end of."""

from __future__ import annotations

import contextlib
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path

ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"
PACKETS = "CREATE TABLE packets (ts_sec INT, ts_usec INT, dlt INT, packet BLOB);"
ROW = "INSERT INTO packets VALUES (1, 1, 1, x'00112233');"
VERSION = "CREATE TABLE KISMET (db_version INT); INSERT INTO KISMET VALUES (9);"
DATA = "SELECT x AS ts_sec, 0 AS ts_usec, 'a' AS type, '{}' AS json FROM c"
ROWS = 41


def _of(script: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.executescript(script)

    return make


def _round(path: Path) -> None:
    """A table whose pages are one page, again and again."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.executescript(f"PRAGMA page_size = 512; {VERSION} {PACKETS}")
        database.executemany(
            "INSERT INTO packets VALUES (1, ?, 1, zeroblob(100))", [(n,) for n in range(ROWS)]
        )
        database.commit()
        (root,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'packets'").fetchone()
    data = bytearray(path.read_bytes())
    at = (root - 1) * 512
    assert data[at] == 5, "an interior page of a table"
    (cells,) = struct.unpack_from(">H", data, at + 3)
    places = [at + struct.unpack_from(">H", data, at + 12 + 2 * cell)[0] for cell in range(cells)]
    first = bytes(data[places[0] : places[0] + 4])
    for place in (*places, at + 8):
        data[place : place + 4] = first
    path.write_bytes(data)


_VIEW = (
    f"CREATE VIEW packets AS {ENDLESS} SELECT x AS ts_sec, 0 AS ts_usec, 1 AS dlt, x'0011' AS packet FROM c;"
)
_COLUMNS = (
    "CREATE TABLE packets (ts_sec INT, ts_usec INT, dlt INT, seed INT, packet BLOB AS (zeroblob(seed)));"
)
BOMBS: dict[str, Callable[[Path], None]] = {
    "packets are an endless view": _of(f"{VERSION} {_VIEW}"),
    "records are an endless view": _of(f"{VERSION} {PACKETS} {ROW} CREATE VIEW data AS {ENDLESS} {DATA};"),
    "what is only counted is an endless view": _of(
        f"{VERSION} {PACKETS} {ROW} CREATE VIEW alerts AS {ENDLESS} SELECT x FROM c;"
    ),
    "the version is an endless view": _of(
        f"{PACKETS} {ROW} CREATE VIEW KISMET AS {ENDLESS} SELECT max(x) AS db_version FROM c;"
    ),
    "a view behind a view": _of(
        f"{VERSION} {_VIEW.replace('packets', 'inner')} CREATE VIEW packets AS SELECT * FROM inner;"
    ),
    "packets are a view that hides": _of(f"{VERSION} {_VIEW.replace('packets', 'PACKETS')}"),
    "packets are computed": _of(f"{VERSION} {_COLUMNS} INSERT INTO packets VALUES (1, 1, 1, 60000000);"),
    "packets are a module's": _of(
        f"{VERSION} CREATE VIRTUAL TABLE packets USING fts5(ts_sec, ts_usec, dlt, packet); {ROW}"
    ),
    "pages go round in circles": _round,
}
