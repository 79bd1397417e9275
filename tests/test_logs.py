"""The log never blocks; what a helper writes to stderr is cut, escaped, folded and counted."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import resource
import socket
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helperd.logs import (
    DAY_BYTES,
    LEVELS,
    Allowance,
    Bucket,
    Fold,
    Line,
    Log,
    StderrLines,
    as_journal,
    as_json,
    as_text,
    choose_form,
)
from helperd.visible import visible
from tests.patience import HANGS_S

AT = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)


def line(text: str = "text", level: str = "info", **fields) -> Line:
    return Line(AT, level, text, fields)


# stderr of helpers


def test_lines_come_out_whole_however_they_are_cut():
    lines = StderrLines(0.0)
    assert lines.feed(b"usb", 0.0) == []
    assert lines.feed(b"_open error -3\nsecond\nthi", 0.0) == ["usb_open error -3", "second"]
    assert lines.feed(b"", 0.0) == []
    assert lines.feed(b"rd\r\n", 0.0) == ["third"]
    assert lines.feed(b"no end", 0.0) == []
    assert lines.close(0.0) == ["no end"]
    assert lines.close(0.0) == []
    assert lines.last == ["usb_open error -3", "second", "third", "no end"]
    assert (lines.passed, lines.folded, lines.dropped, lines.cut) == (4, 0, 0, 0)


def test_nothing_reaches_the_terminal_unescaped():
    lines = StderrLines(0.0)
    assert lines.feed(b"\x1b[2Jgone\t\xff\x00\x07\n", 0.0) == ["\\x1b[2Jgone\\t\\xff\\x00\\x07"]
    assert lines.feed("caf\u00e9 \u202egpj.exe\u2028\n".encode(), 0.0) == ["caf\u00e9 \\u202egpj.exe\\u2028"]
    assert visible("plain") == "plain"
    assert visible("a\x9b\x7f\U000e0001") == "a\\x9b\\x7f\\U000e0001"


def test_long_lines_are_cut_at_4_kib_and_cost_no_memory():
    lines = StderrLines(0.0)
    for _ in range(1000):
        assert lines.feed(b"x" * 4000, 0.0) == []
    assert lines.feed(b"x\nshort\n", 0.0) == ["x" * 4096, "short"]
    assert lines.cut == 1
    assert lines.feed(b"y" * 4096 + b"\n", 0.0) == ["y" * 4096]
    assert lines.cut == 1
    assert lines.feed(b"z" * 4097 + b"\n", 0.0) == ["z" * 4096]
    assert lines.cut == 2
    assert [len(kept) for kept in lines.last] == [4096, 5, 4096, 4096]


def test_equal_neighbours_are_folded():
    lines = StderrLines(0.0)
    assert lines.feed(b"no signal\n" * 215, 0.0) == ["no signal"]
    assert lines.feed(b"locked\n", 1.0) == ["(repeated 214 times)", "locked"]
    assert lines.last == ["no signal (repeated 214 times)", "locked"]
    assert (lines.passed, lines.folded) == (2, 214)
    lines.feed(b"locked\nlocked\n", 2.0)
    assert lines.close(2.0) == ["(repeated 2 times)"]


def test_an_endless_repetition_is_told_every_ten_seconds():
    lines = StderrLines(0.0)
    assert lines.feed(b"a\na\n", 0.0) == ["a"]
    assert lines.feed(b"a\n", 9.9) == []
    assert lines.feed(b"a\n", 10.0) == ["(repeated 3 times)"]
    assert lines.feed(b"a\n", 19.0) == []
    assert lines.feed(b"", 20.0) == ["(repeated once)"]
    assert lines.feed(b"", 40.0) == []


def test_a_burst_of_100_lines_then_10_a_second():
    lines = StderrLines(0.0)
    flood = b"".join(b"line %d\n" % n for n in range(1000))
    assert len(lines.feed(flood, 0.0)) == 100
    assert (lines.passed, lines.dropped) == (100, 900)
    assert lines.feed(flood, 0.05) == []
    out = lines.feed(flood, 1.0)
    assert out[0] == "(1900 lines dropped: more than the budget)"
    assert out[1:] == [f"line {n}" for n in range(10)]
    assert lines.last == [f"line {n}" for n in range(980, 1000)]
    assert lines.close(1.0) == ["(990 lines dropped: more than the budget)"]
    out = lines.feed(flood, 1000.0)
    assert len(out) == 100


def test_64_kib_then_64_kib_a_second():
    lines = StderrLines(0.0)
    flood = b"".join(b"%d %s\n" % (n, b"x" * 4000) for n in range(60))
    passed = lines.feed(flood, 0.0)
    assert 65536 / 4096 <= len(passed) <= 65536 / 4000 + 1
    assert len(lines.feed(flood, 1.0)) in {16, 17, 18}
    assert lines.passed + lines.dropped == 120


@given(
    st.lists(
        st.tuples(st.binary(max_size=300) | st.sampled_from([b"a\n", b"a\na\na\n", b"\n"]), st.floats(0, 3))
    )
)
def test_every_line_is_passed_folded_or_dropped(reads):
    lines = StderrLines(0.0)
    now, out, data = 0.0, [], b""
    for read, pause in reads:
        now += pause
        data += read
        out += lines.feed(read, now)
    out += lines.close(now)
    total = data.count(b"\n") + (not data.endswith(b"\n") and bool(data))
    assert lines.passed + lines.folded + lines.dropped == total
    assert all(row.isprintable() for row in out)
    assert len(lines.last) <= 20
    told = sum(1 for row in out if not row.startswith("("))
    assert told <= lines.passed


@given(st.lists(st.binary(max_size=50)), st.data())
def test_cutting_the_stream_anywhere_changes_nothing(pieces, data):
    whole = b"\n".join(pieces)
    cut = data.draw(st.integers(0, len(whole)))
    one, two = StderrLines(0.0), StderrLines(0.0)
    assert one.feed(whole, 0.0) + one.close(0.0) == two.feed(whole[:cut], 0.0) + two.feed(
        whole[cut:], 0.0
    ) + two.close(0.0)
    assert one.last == two.last


def test_a_bucket_fills_up_to_its_size():
    bucket = Bucket(size=10, rate=2, tokens=0, at=100.0)
    bucket.fill(102.0)
    assert bucket.tokens == 4
    bucket.fill(200.0)
    assert bucket.tokens == 10


# forms


def test_text_is_for_people():
    stamp = f"{AT.astimezone():%Y-%m-%d %H:%M:%S}.123"
    assert as_text(line("up")) == f"{stamp} info    up\n".encode()
    told = as_text(line("bad\x1b", "warning", source="wlan0", problem="keepalive", code=None))
    assert told == f"{stamp} warning wlan0: bad\\x1b (problem=keepalive)\n".encode()
    traced = as_text(line("oops", "error", traceback="Traceback:\n  x\n"))
    assert traced == f"{stamp} error   oops\n    Traceback:\n      x\n".encode()


def test_json_is_one_object_a_line():
    raw = as_json(line("two\nlines \udcff", source="wlan0", code=3))
    assert raw.endswith(b"}\n")
    assert raw.count(b"\n") == 1
    assert json.loads(raw) == {
        "time": "2026-01-31T12:00:00.123Z",
        "level": "info",
        "text": "two\nlines \udcff",
        "source": "wlan0",
        "code": 3,
    }
    assert json.loads(as_json(line(odd=AT)))["odd"] == str(AT)


def test_the_journal_gets_fields():
    assert as_journal(line("up", "warning", source="wlan0", code=None)) == (
        b"MESSAGE=wlan0: up\nPRIORITY=4\nSYSLOG_IDENTIFIER=helperd\nHELPERD_SOURCE=wlan0\n"
    )
    assert as_journal(line("a\nb\x1b", "error", source="w\x07", traceback="c\nd")) == (
        b"MESSAGE=w\\x07: a\\nb\\x1b\nPRIORITY=3\nSYSLOG_IDENTIFIER=helperd\nHELPERD_SOURCE=w\x07\n"
        b"HELPERD_TRACEBACK\n\x03\0\0\0\0\0\0\0c\nd\n"
    )


def test_the_form_is_chosen_by_who_reads():
    read, write = os.pipe()
    ours, theirs = pty.openpty()
    try:
        status = os.fstat(write)
        named = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert choose_form(write, {}) == "json"
        assert choose_form(write, {"JOURNAL_STREAM": "1:2"}) == "json"
        assert choose_form(write, named) == "journal"
        assert choose_form(theirs, named) == "text"
    finally:
        for fd in (read, write, ours, theirs):
            os.close(fd)
    assert choose_form(write, {}) == "json"  # closed


# folding


def test_repeats_within_the_window_are_counted():
    fold = Fold(window=10.0)
    assert fold.admit(line("a"), 0.0) == [line("a")]
    assert fold.admit(line("b"), 1.0) == [line("b")]
    assert fold.admit(line("a"), 2.0) == []
    assert fold.admit(line("a"), 9.9) == []
    assert fold.repeats == 2
    assert fold.admit(line("a"), 10.0) == [line("a (repeated 2 times)"), line("a")]
    assert fold.repeats == 0
    assert fold.due(100.0, AT) == []


def test_what_differs_in_source_or_level_is_not_equal():
    fold = Fold()
    for one in (line("a", source="x"), line("a", source="y"), line("a", "error", source="x")):
        assert fold.admit(one, 0.0) == [one]


def test_counts_are_told_when_their_window_is_over():
    fold = Fold(window=10.0)
    for now in (0.0, 1.0):
        fold.admit(line("a"), now)
    for now in (5.0, 6.0):
        fold.admit(line("b"), now)
    assert fold.due(9.0, AT) == []
    later = AT + timedelta(seconds=10)
    assert fold.due(10.0, later) == [Line(later, "info", "a (repeated once)", {})]
    assert fold.due(11.0, AT, all_of_them=True) == [line("b (repeated once)")]
    assert fold.repeats == 0


def test_only_so_many_different_lines_are_remembered():
    fold = Fold(size=3)
    for _ in range(2):
        fold.admit(line("first"), 0.0)
    assert fold.admit(line("second"), 0.0) == [line("second")]
    assert fold.admit(line("third"), 0.0) == [line("third")]
    assert fold.admit(line("fourth"), 0.0) == [line("first (repeated once)"), line("fourth")]
    assert fold.admit(line("second"), 0.0) == []


# the log


@pytest.fixture
def pipe():
    """A pipe whose both ends are closed in the end."""
    read, write = os.pipe()
    yield read, write
    for fd in (read, write):
        with suppress(OSError):
            os.close(fd)


def records(read: int) -> list[dict[str, object]]:
    os.set_blocking(read, False)
    raw = b""
    with suppress(BlockingIOError):
        while piece := os.read(read, 65536):
            raw += piece
    return [json.loads(row) for row in raw.splitlines() if row]


def test_lines_are_written_in_order_with_their_fields(pipe):
    read, write = pipe
    with Log(write, form="json", level="debug") as log:
        log.debug("one")
        log.info("two", source="wlan0")
        log.warning("three", problem="keepalive")
        log.error("four", code=3)
        try:
            raise KeyError("k")
        except KeyError as error:
            log.bug("five", error, source="s")
    found = records(read)
    assert [(r["level"], r["text"]) for r in found] == [
        ("debug", "one"),
        ("info", "two"),
        ("warning", "three"),
        ("error", "four"),
        ("error", "five"),
    ]
    assert found[1]["source"] == "wlan0"
    assert (found[2]["problem"], found[3]["code"]) == ("keepalive", 3)
    assert found[4]["problem"] == "bug"
    assert "KeyError: 'k'" in found[4]["traceback"]
    assert log.counts.written == 5


@pytest.mark.parametrize("level", LEVELS)
def test_the_level_decides_what_is_written(pipe, level):
    read, write = pipe
    with Log(write, form="json", level=level) as log:
        for name in LEVELS:
            log.write(name, name, {})
    assert [r["text"] for r in records(read)] == [n for n, p in LEVELS.items() if p <= LEVELS[level]]


def test_repeats_are_folded_and_told_at_the_end(pipe):
    read, write = pipe
    with Log(write, form="json", clock=lambda: 5.0) as log:
        for _ in range(215):
            log.info("no signal", source="s")
    assert [r["text"] for r in records(read)] == ["no signal", "no signal (repeated 214 times)"]
    assert (log.counts.written, log.counts.folded) == (2, 214)


def test_repeats_are_told_when_nothing_else_comes(pipe):
    read, write = pipe
    now = [0.0]
    log = Log(write, form="json", clock=lambda: now[0])
    log._fold.window = 0.05
    log.info("a")
    log.info("a")
    first = json.loads(os.read(read, 999))
    while not log.counts.folded:
        threading.Event().wait(0.001)
    now[0] = 1.0
    second = json.loads(os.read(read, 999))
    assert (first["text"], second["text"]) == ("a", "a (repeated once)")
    assert log.close()


def test_a_count_has_the_time_at_which_it_is_written_so_that_lines_are_in_order(pipe):
    read, write = pipe
    now = [0.0]
    log = Log(write, form="json", clock=lambda: now[0])
    for text in ("a", "a", "b"):
        log.info(text)
    while log._queue.qsize() or log.counts.written < 2:
        threading.Event().wait(0.001)
    now[0] = 11.0
    log.info("a")
    assert log.close()
    found = records(read)
    assert [one["text"] for one in found] == ["a", "b", "a (repeated once)", "a"]
    assert found[2]["time"] == found[3]["time"]


def test_a_stuck_reader_costs_lines_and_never_blocks(pipe):
    read, write = pipe
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    log = Log(write, form="json", max_lines=50)
    for n in range(1000):
        log.write("info", f"line {n} {'x' * 1000}", {})
    assert log.counts.dropped >= 1000 - 50 - 6
    assert not log.close(timeout=0.05)
    text: list[bytes] = []
    reader = threading.Thread(target=lambda: text.extend(iter(lambda: os.read(read, 65536), b"")))
    reader.start()
    assert log.close(timeout=10)
    os.close(write)
    reader.join(HANGS_S)
    rows = [json.loads(row)["text"] for row in b"".join(text).splitlines()]
    told = [row for row in rows if "dropped" in row]
    assert told == [f"{log.counts.dropped} log lines were dropped: the log is read too slowly"]
    assert len(rows) - 1 + log.counts.dropped == 1000


def test_a_reader_that_does_not_block_is_waited_for(pipe):
    read, write = pipe
    os.set_blocking(write, False)
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    log = Log(write, form="json")
    for n in range(100):
        log.write("info", f"line {n} {'x' * 500}", {})
    closer = threading.Thread(target=log.close, args=(5.0,))
    closer.start()
    raw = b""
    while raw.count(b"\n") < 100:
        raw += os.read(read, 65536)
    closer.join(HANGS_S)
    assert [json.loads(row)["text"].split()[1] for row in raw.splitlines()] == [str(n) for n in range(100)]


def test_a_full_disk_costs_lines_and_is_owned_up_to(tmp_path):
    path = tmp_path / "log"
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    done = threading.Event()
    log = Log(fd, form="json", clock=lambda: 0.0)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))  # writing beyond it fails, as on a full disk
        for n in range(20):
            log.write("info", f"line {n}", {})
        while log.counts.written + log.counts.lost < 20:
            done.wait(0.01)
        assert log.counts.lost > 10
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        log.info("room again")
        assert log.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        os.close(fd)
    rows = path.read_bytes().splitlines()
    good = []
    for row in rows:
        with suppress(ValueError):
            good.append(json.loads(row)["text"])
    assert len(rows) - len(good) <= 1  # the one that was cut when the room ended
    assert good[-2:] == ["room again", f"{log.counts.lost} log lines could not be written: File too large"]
    assert log.counts.why == "File too large"


def test_a_closed_descriptor_is_survived():
    read, write = os.pipe()
    os.close(read)
    log = Log(write, form="text")
    log.info("to nobody")
    assert log.close()
    os.close(write)
    assert (log.counts.lost, log.counts.why) == (1, "Broken pipe")


def test_the_journal_is_spoken_to_by_datagram(tmp_path):
    path = str(tmp_path / "journal")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(path)
        journal.settimeout(HANGS_S)
        with Log(form="journal", journal=path) as log:
            log.warning("x", source="s")
            assert b"MESSAGE=s: x\nPRIORITY=4\n" in journal.recv(4096)
    os.unlink(path)
    with Log(form="journal", journal=str(tmp_path / "none")) as log:
        log.warning("x")
    assert (log.counts.lost, log.counts.why) == (1, "No such file or directory")


def test_a_text_is_never_longer_than_8_kib(pipe):
    read, write = pipe
    with Log(write, form="json") as log:
        log.info("x" * 10000)
    assert len(records(read)[0]["text"]) == 8192


def test_a_crash_loop_has_no_more_of_the_log_a_day_than_one_that_stays():
    """A new helper every 30 s, which writes 64 KiB of new lines each time; one source, one day."""
    allowance, passed = Allowance(0.0), 0
    for start in range(0, 86400, 30):
        lines = StderrLines(float(start))
        lines.allowance = allowance
        data = b"".join(b"%d %d %s\n" % (start, n, b"\x1b" * 600) for n in range(100))
        passed += sum(map(len, lines.feed(data, float(start))))
        assert sum(map(len, lines.last)) <= StderrLines.KEPT_BYTES
    assert DAY_BYTES < passed < 2 * DAY_BYTES + 10_000


@pytest.mark.parametrize("raw", [b"x" * 5000, b"\0" * 5000, b"\xff" * 5000])
def test_last_words_are_bounded_by_bytes_and_never_none(raw):
    lines = StderrLines(0.0)
    for n in range(50):
        lines.feed(b"%d" % n + raw + b"\n", 0.0)
    assert 1 <= len(lines.last) <= StderrLines.KEPT
    assert sum(map(len, lines.last)) <= max(StderrLines.KEPT_BYTES, len(lines.last[0]))
    assert lines.last[-1].startswith("49")
