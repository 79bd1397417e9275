"""A file of SQLite is data: what its author would have carried out is refused, in time, with nothing on the disk."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from helperd.errors import HelperdError
from helperd.helpers import _database
from helperd.helpers._database import Database, _only_reading
from helperd.helpers._kismetdb import KismetDb
from tests.bombs import BOMBS, PACKETS, ROW, VERSION


def read(path: Path) -> None:
    with contextlib.closing(KismetDb(str(path))) as log:
        for _ in log.batches():
            pass


@pytest.mark.parametrize("name", list(BOMBS))
def test_a_program_is_refused_with_its_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.kismet"
    BOMBS[name](path)
    before = path.read_bytes()
    with pytest.raises(HelperdError) as refused:
        read(path)
    assert refused.value.problem == "bad-capture"
    words = {"view": "is a view", "module": "is a virtual table", "circles": "the same rows come again"}
    wanted = next((text for word, text in words.items() if word in name), "it has no table of packets")
    assert wanted in refused.value.text
    assert [file.name for file in tmp_path.iterdir()] == ["x.kismet"]
    assert path.read_bytes() == before


def database(path: Path, script: str) -> Database:
    with contextlib.closing(sqlite3.connect(path)) as made:
        made.executescript(script)
    return Database(str(path))


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM v",
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c",
        "SELECT zeroblob(9), load_extension('x') FROM packets",
        "SELECT randomblob(9) FROM packets",
        "ATTACH 'other' AS other",
        "INSERT INTO packets VALUES (1, 1, 1, 1)",
        "CREATE TEMP TABLE t (x)",
        "PRAGMA writable_schema = ON",
        "VACUUM INTO 'copy'",
    ],
)
def test_nothing_but_reading_is_allowed(tmp_path: Path, query: str) -> None:
    found = database(tmp_path / "x", f"{PACKETS} {ROW} CREATE VIEW v AS SELECT * FROM packets;")
    with contextlib.closing(found), pytest.raises((sqlite3.Error, MemoryError)):
        list(found.rows(query, numbered=False))
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


def test_a_row_has_so_much_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = database(tmp_path / "x", f"{PACKETS} {ROW}")
    found._database.set_authorizer(None)
    now = iter(range(10**9))
    monkeypatch.setattr(_database, "monotonic", lambda: float(next(now)))
    endless = (
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 3000000) SELECT count(*) FROM c"
    )
    with contextlib.closing(found), pytest.raises(sqlite3.OperationalError) as refused:
        found.first(endless)
    assert "no next row within 20 s" in found.damaged(refused.value).text


def test_what_is_kept_has_so_much_memory_and_no_file(tmp_path: Path) -> None:
    found = database(tmp_path / "x", f"{PACKETS} {ROW}")
    found._database.set_authorizer(None)
    sorting = (
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 400) "
        "SELECT x, zeroblob(1000000) AS z FROM c ORDER BY -x, z"
    )
    with contextlib.closing(found), pytest.raises((sqlite3.Error, MemoryError)) as refused:
        found.first(sorting)
    assert "memory" in found.damaged(refused.value).text
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


def test_each_fence_stands_without_the_others(tmp_path: Path) -> None:
    """What the authorizer and a file that is open for reading keep out is kept out by SQLite's own switches, too."""
    found = database(tmp_path / "x", f"{PACKETS} {ROW}")
    with contextlib.closing(found):
        found._database.set_authorizer(None)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            found.first("CREATE TEMP TABLE t (x)")
        with pytest.raises(sqlite3.OperationalError, match="too many attached"):
            found.first("ATTACH ':memory:' AS other")
        assert found.first("PRAGMA trusted_schema") == (0,)


def test_a_value_too_long_is_refused(tmp_path: Path) -> None:
    script = f"{VERSION} {PACKETS} INSERT INTO packets VALUES (1, 1, 1, zeroblob({65 << 20}));"
    found = database(tmp_path / "x", script)
    with contextlib.closing(found), pytest.raises((sqlite3.Error, MemoryError)):
        found.first("SELECT packet FROM packets")


def test_whoever_asks_from_inside_is_refused() -> None:
    assert _only_reading(sqlite3.SQLITE_READ, "packets", "dlt", "main", None) == sqlite3.SQLITE_OK
    assert _only_reading(sqlite3.SQLITE_READ, "packets", "dlt", "main", "v") == sqlite3.SQLITE_DENY
    assert _only_reading(sqlite3.SQLITE_RECURSIVE, None, None, None, None) == sqlite3.SQLITE_DENY
