"""Kismet's logs that are damaged or hold the absurd: one odd row costs no other; damage is told after what is whole."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from helperd.pcapng import LAST_STAMP
from helperd.wire import v3
from helperd.wire.frames import Kind
from helperd.wire.messages import Changed, DataReport, ErrorReport, Json, OpenReport, OpenRequest
from tests.helpers.peer import Peer
from tests.helpers.test_pcapfile import kismet_log, replay

SECOND = 1_600_000_000
GOOD = (SECOND, 1, 1, b"x" * 60, 60, 0, 0)
GOOD_PACKET = (1, SECOND * 10**9 + 1000, b"x" * 60, 60)


def fails(path: str) -> tuple[list, str]:
    """Packets of a replay that ends badly, and the reason."""
    with Peer("pcapfile") as peer:
        peer.send(OpenRequest(f"{path}:type=pcapfile,realtime=false"))
        assert peer.expect(OpenReport).success
        packets = peer.until_eof()
        text = peer.expect(ErrorReport).message
        assert peer.wait() == 1
    return packets, text


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({0: -5}, (1, 0, b"x" * 60, 60)),
        ({0: 1 << 60}, (1, LAST_STAMP, b"x" * 60, 60)),
        ({0: 5_000_000_000}, (1, 5_000_000_000_000_001_000, b"x" * 60, 60)),
        ({0: None}, (1, 0, b"x" * 60, 60)),
        ({0: 1.75, 1: 2.5}, (1, 1_000_002_000, b"x" * 60, 60)),
        ({1: 1_500_000}, (1, (SECOND + 1) * 10**9 + 500_000_000, b"x" * 60, 60)),
        ({0: 0, 1: -1}, (1, 0, b"x" * 60, 60)),
        ({0: 1, 1: -1}, (1, 999_999_000, b"x" * 60, 60)),
        ({2: -1}, None),
        ({2: 1 << 40}, None),
        ({2: "radiotap"}, None),
        ({2: None}, None),
        ({2: 127.0}, (127, SECOND * 10**9 + 1000, b"x" * 60, 60)),
        ({3: None}, None),
        ({3: "text"}, (1, SECOND * 10**9 + 1000, b"text", 60)),
        ({4: 1 << 50}, (1, SECOND * 10**9 + 1000, b"x" * 60, 60)),
        ({4: -7}, (1, SECOND * 10**9 + 1000, b"x" * 60, 60)),
        ({4: 3}, (1, SECOND * 10**9 + 1000, b"x" * 60, 60)),
        ({4: "long"}, (1, SECOND * 10**9 + 1000, b"x" * 60, 60)),
        ({5: 10**30, 6: 1e300}, (1, SECOND * 10**9 + 1000, b"x" * 60, 60)),
        ({5: float("inf"), 6: float("-inf")}, (1, SECOND * 10**9 + 1000, b"x" * 60, 60)),
        ({5: "strong", 6: "north"}, (1, SECOND * 10**9 + 1000, b"x" * 60, 60)),
    ],
)
def test_what_one_row_says_that_cannot_be_is_told_of_that_row_alone(tmp_path: Path, changes, found):
    row = list(GOOD)
    for column, value in changes.items():
        row[column] = float(value) if column > 4 and isinstance(value, int) else value
    packets, _, _ = replay(kismet_log(tmp_path / "x.kismet", [*[GOOD] * 300, tuple(row), *[GOOD] * 3]))
    odd = [packet for packet in packets if packet != GOOD_PACKET]
    assert len(packets) - len(odd) == 303 + (found == GOOD_PACKET)
    assert odd == ([found] if found not in {None, GOOD_PACKET} else [])


@pytest.mark.parametrize(
    "statement", ["DROP TABLE KISMET", "DELETE FROM KISMET", "UPDATE KISMET SET db_version='x'"]
)
def test_a_log_that_does_not_say_its_version_is_read_as_one_of_today(tmp_path: Path, statement: str):
    path = kismet_log(tmp_path / "x.kismet", [GOOD])
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute(statement)
        database.commit()
    packets, _, report = replay(path)
    assert (packets, report.hardware) == ([GOOD_PACKET], "Kismet log, version 9")


def test_text_that_is_no_utf8_costs_no_other_row(tmp_path: Path):
    path = kismet_log(tmp_path / "x.kismet", [GOOD, GOOD, GOOD])
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE packets SET packet = CAST(x'ff41fe' AS TEXT) WHERE rowid = 2")
        database.commit()
    found = [GOOD_PACKET, (1, SECOND * 10**9 + 1000, b"\xffA\xfe", 60), GOOD_PACKET]
    assert replay(path)[0] == found


def test_words_where_numbers_should_be_and_signals_without_end_are_left_out(tmp_path: Path):
    rows = [
        GOOD,
        ("hello", "x", 1, "text", None, "strong", "north"),
        (1, 1, 1, b"y", 1, float("inf"), float("inf")),
    ]
    packets, _, _ = replay(kismet_log(tmp_path / "x.kismet", rows))
    assert [content for _, _, content, _ in packets] == [b"x" * 60, b"text", b"y"]


def test_a_log_damaged_in_the_middle_gives_what_stands_before(tmp_path: Path):
    file = Path(
        kismet_log(tmp_path / "x.kismet", [(n, n, 1, bytes([n & 255]) * 500, 500, 0, 0) for n in range(2000)])
    )
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 20_000] = b"\xff" * 20_000
    file.write_bytes(data)
    packets, text = fails(str(file))
    assert [stamp // 10**9 for _, stamp, _, _ in packets] == list(range(len(packets)))
    assert 900 < len(packets) < 1000
    assert "is damaged: database disk image is malformed" in text


def test_what_a_log_has_besides_is_told(tmp_path: Path):
    path = kismet_log(tmp_path / "x.kismet", [GOOD] * 3)
    with contextlib.closing(sqlite3.connect(path)) as database:
        for table, rows in (("devices", 4), ("alerts", 1), ("messages", 0), ("somebodys_own", 9)):
            database.execute(f"CREATE TABLE {table} (ts_sec INT, json BLOB)")
            database.executemany(f"INSERT INTO {table} VALUES (?, '{{}}')", [(n,) for n in range(rows)])
        database.commit()
    found, messages, _ = replay(path, "realtime=false")
    assert len(found) == 3
    assert messages[-1].reason.endswith(": 3 packets; left out: alerts (1), devices (4)")
    assert any(getattr(message, "text", "").endswith("alerts, devices") for message in messages)


def test_a_log_that_was_cut_is_refused(tmp_path: Path):
    file = Path(kismet_log(tmp_path / "x.kismet", [GOOD] * 2000))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with Peer("pcapfile") as peer:
        peer.send(OpenRequest(f"{file}:type=pcapfile"))
        report = peer.expect(OpenReport)
    assert not report.success
    assert f"{file} is damaged: " in report.message


def with_json(path: str, records: list[tuple]) -> str:
    """Add the table of JSON: (seconds, microseconds, latitude, type, text)."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute(
            "CREATE TABLE data (ts_sec INT, ts_usec INT, phyname TEXT, devmac TEXT, lat REAL, lon REAL, alt REAL, "
            "speed REAL, heading REAL, datasource TEXT, type TEXT, json BLOB)"
        )
        for sec, usec, lat, kind, text in records:
            row = [sec, usec, "Sensor", "", lat, lat, 0, 0, 0, "", kind, text]
            database.execute(f"INSERT INTO data VALUES ({', '.join('?' * len(row))})", row)
        database.commit()
    return path


def data_reports(path: str) -> list[DataReport]:
    with Peer("pcapfile") as peer:
        peer.send(OpenRequest(f"{path}:type=pcapfile,realtime=false"))
        report = peer.expect(OpenReport)
        assert report.success, report.message
        peer.until_eof()
        assert peer.wait() == 0
        return [item for run in peer.runs if run.kind is Kind.PACKETS for item in v3.reports(run)]


def test_json_in_a_log_comes_between_the_packets_of_its_time(tmp_path: Path):
    packets = [(SECOND + n, 0, 1, bytes([n]) * 60, 60, -50, 0) for n in range(10)]
    records = [(SECOND + n, 500_000, 52.5 if n else 0, "RTL433", f'{{"n":{n}}}') for n in range(10)]
    path = with_json(kismet_log(tmp_path / "x.kismet", packets), records)
    with Peer("pcapfile") as peer:
        peer.send(OpenRequest(f"{path}:type=pcapfile,realtime=false"))
        assert len(peer.until_eof()) == 10
    order = [run.kind for run in peer.runs for _ in range(run.packets)]
    assert order == [Kind.BULK, Kind.PACKETS] * 10
    said = [item for run in peer.runs if run.kind is Kind.PACKETS for item in v3.reports(run)]
    assert [report.json for report in said] == [
        Json("RTL433", text, sec, usec) for sec, usec, _, _, text in records
    ]
    assert [report.gps.latitude if report.gps else 0 for report in said] == [0] + [52.5] * 9


def test_json_in_a_log_is_read_as_that_of_programs_is(tmp_path: Path):
    """What is passed on is what was read; what is none is left out, and both are counted."""
    texts = {
        b'{"a": 1}': '{"a": 1}',
        b'\xef\xbb\xbf{"bom": 1}': '{"bom": 1}',
        b'{"a": NaN, "b": 1e999}': '{"a":null,"b":null}',
        b'{"a": 1, "a": 2}': '{"a":2}',
        b'{"lines":\n1}': '{"lines":\n1}',
        b'{"latin": "\xe9"}': None,
        b'{"surrogate": "\\ud800"}': None,
        b"[1]": None,
        b"no JSON": None,
        b"[" * 5000: None,
        b"": None,
        None: None,
    }
    rows = [(SECOND + n, 0, 0, "T", text) for n, text in enumerate(texts)]
    path = with_json(kismet_log(tmp_path / "x.kismet", [GOOD]), rows)
    with Peer("pcapfile") as peer:
        peer.send(OpenRequest(f"{path}:type=pcapfile,realtime=false"))
        assert peer.until_eof()[0] == GOOD_PACKET
        assert peer.wait() == 0
    said = [item for run in peer.runs if run.kind is Kind.PACKETS for item in v3.reports(run)]
    assert [report.json.text for report in said] == [text for text in texts.values() if text is not None]
    assert peer.lost() == {"bad-record": 7}
    assert sum(change.packets for change in peer.messages if isinstance(change, Changed)) == 1


def test_a_log_of_json_alone_is_replayed_and_bad_ones_are_named(tmp_path: Path):
    path = with_json(
        kismet_log(tmp_path / "x.kismet", []), [(SECOND, 1, 0, "RTL433", "{}"), (SECOND, 2, 0, None, "{}")]
    )
    assert [report.json for report in data_reports(path)] == [
        Json("RTL433", "{}", SECOND, 1),
        Json("JSON", "{}", SECOND, 2),
    ]
    bad = with_json(kismet_log(tmp_path / "y.kismet", [GOOD]), [(-1, 0, 0, "RTL433", "{}")])
    assert [report.json for report in data_reports(bad)] == [Json("RTL433", "{}", 0, 0)]
