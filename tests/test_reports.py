"""JSON reports as lines: whatever a helper says, a line stays one line and says what is ours and what is its."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helperd import pcapng, reports
from helperd.errors import RemoteProtocolError
from helperd.reports import Report
from helperd.routing import Outbox, RouteTable
from helperd.sinks.forms import Lines
from helperd.translate import Translator
from helperd.wire import v3
from helperd.wire.frames import FrameScanner
from helperd.wire.messages import DataReport, Gps, Json, Packet, Signal

SECOND = 1_700_000_000


def line_of(text: str, kind: str = "RTL433", **more) -> bytes:
    report = Report(3, SECOND * 10**9 + 123_456_789, Json(kind, text), more.get("signal"), more.get("gps"))
    return report.line("radio", 40)


def test_a_line_says_who_when_which_and_what():
    assert line_of('{"model": "Acurite", "id": 7}') == (
        b'{"source":"radio","time":1700000000.123456789,"number":43,"type":"RTL433",'
        b'"report":{"model": "Acurite", "id": 7}}\n'
    )


@pytest.mark.parametrize(("nsec", "time"), [(0, b"1700000000.000007"), (5, b"1700000000.000007005")])
def test_a_time_has_as_many_places_as_it_needs(nsec, time):
    """On its way through a frame too, and in the block that readers of packets get."""
    frame = v3.encode(DataReport(json=Json("T", "{}", SECOND, 7, nsec)), 1)
    table = RouteTable()
    translator = Translator("radio", table.interfaces, v3)
    (segment,) = translator.translate(FrameScanner([v3]).feed(frame), 0)
    (report,) = segment.reports
    assert b'"time":' + time + b"," in report.line("radio", 0)
    _, _, _, high, low, _, _ = pcapng.ENHANCED_HEAD.unpack_from(segment.parts[0])
    assert high << 32 | low == SECOND * 10**9 + 7000 + nsec


def test_nanoseconds_that_are_more_than_a_microsecond_are_refused():
    frame = v3.encode(DataReport(json=Json("T", "{}", SECOND, 7, 1000)), 1)
    with pytest.raises(RemoteProtocolError, match="1000 nanoseconds") as caught:
        Translator("radio", RouteTable().interfaces, v3).translate(FrameScanner([v3]).feed(frame), 0)
    assert caught.value.problem == "bad-payload"


def test_signal_and_place_come_along():
    line = json.loads(line_of("{}", signal=Signal(dbm=-60, rate=float("nan")), gps=Gps(latitude=52.5, fix=3)))
    assert line["signal"] == {"dbm": -60}
    assert (line["gps"]["latitude"], line["gps"]["fix"]) == (52.5, 3)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        '{"a":1',
        '{"a":NaN}',
        "[Infinity]",
        '{},"number":0',
        '{"a":1}}\n{"source":"other"',
        "[" * 100_000,
        "1" * 10_000,
        "\x00\x1b[2J",
    ],
)
def test_what_is_no_json_is_a_string_and_breaks_nothing(text):
    raw = line_of(text)
    assert raw.count(b"\n") == 1
    line = json.loads(raw)
    assert line["text"] == text
    assert "report" not in line
    assert (line["source"], line["number"]) == ("radio", 43)


@pytest.mark.parametrize("text", ['{\n  "a": 1,\r\n  "b": [2]\n}', ' {"a":1,"b":[2]}\n'])
def test_line_ends_between_the_words_of_json_are_taken_out(text):
    raw = line_of(text)
    assert raw.count(b"\n") == 1
    assert b"\r" not in raw
    assert json.loads(raw)["report"] == {"a": 1, "b": [2]}


@given(st.text(max_size=60), st.text(max_size=20))
def test_any_text_of_any_type_is_one_line_of_json(text, kind):
    raw = line_of(text, kind)
    assert raw.endswith(b"\n")
    assert raw.count(b"\n") == 1
    line = json.loads(raw)
    assert line["type"] == kind
    if "text" in line:
        assert line["text"] == text
    else:
        assert line["report"] == json.loads(text)


class Feed:
    """A route fed with data reports."""

    def __init__(self) -> None:
        self.table = RouteTable()
        self.route = self.table.route("radio")
        self.scanner = FrameScanner([v3])
        self.translator = Translator("radio", self.table.interfaces, v3)

    def reader(self, form: str = "jsonl", limit: int = 1 << 20) -> Outbox:
        outbox = Outbox(limit=limit)
        self.table.connect(outbox, frozenset(), single=False, form=form)
        return outbox

    def feed(self, *data: DataReport) -> None:
        runs = self.scanner.feed(b"".join(v3.encode(report, 1) for report in data))
        self.route.deliver(runs, lambda runs, into: self.translator.translate(runs, 5, into))


def report(number: int) -> DataReport:
    return DataReport(json=Json("t", f'{{"n":{number}}}', SECOND, number))


PACKET = DataReport(Packet(b"abc" * 20, 1, SECOND, 5, 60))


def lines(outbox: Outbox, form: Lines) -> list[dict]:
    taken = outbox.take(1 << 20)
    lost, outbox.unreported = outbox.unreported, type(outbox.unreported)()
    parts = form.parts(taken, lost)
    outbox.sent(taken)
    return [json.loads(line) for line in b"".join(map(bytes, parts)).splitlines()]


def test_readers_of_lines_get_reports_alone_with_the_numbers_of_the_source():
    feed = Feed()
    outbox, form = feed.reader(), Lines(feed.table)
    assert form.preface() == []
    feed.feed(PACKET, report(1), PACKET)
    feed.feed(*[PACKET] * 20, report(2), report(3))
    assert [(one["number"], one["report"]["n"]) for one in lines(outbox, form)] == [(1, 1), (23, 2), (24, 3)]
    assert (outbox.offered, outbox.delivered, outbox.lost) == (3, 3, 0)
    ledger = feed.route.ledger
    assert (ledger.received, ledger.routed, ledger.empty, ledger.lost.total()) == (25, 25, 0, 0)


def test_what_a_slow_reader_of_lines_missed_is_a_line_where_it_was():
    feed = Feed()
    outbox, form = feed.reader(limit=2000), Lines(feed.table)
    for number in range(100):
        feed.feed(report(number))
    got = lines(outbox, form)
    assert got[0] == {"source": "radio", "time": got[0]["time"], "lost": outbox.lost}
    assert [one["report"]["n"] for one in got[1:]] == list(range(outbox.lost, 100))
    assert outbox.lost == 100 - outbox.delivered > 0
    feed.feed(report(100))
    assert [one["report"]["n"] for one in lines(outbox, form)] == [100]


def test_the_mixed_stream_has_packets_and_reports_in_order():
    feed = Feed()
    pcapng, lined = feed.reader("pcapng"), feed.reader()
    feed.feed(PACKET, report(1), PACKET)
    [batch] = pcapng.take(1 << 20)
    assert batch.packets == 3
    assert [feed.table.interfaces[number].linktype for number, _ in batch.counts] == [
        1,
        reports.LINKTYPE_JSON,
    ]
    assert lined.queued == 1


def test_a_bad_frame_costs_no_report_in_front_of_it():
    feed = Feed()
    outbox = feed.reader()
    runs = feed.scanner.feed(
        v3.encode(report(1), 1) + v3.encode(DataReport(json=Json("T", "{}", 1, 1, 1000)), 1)
    )
    with pytest.raises(RemoteProtocolError):
        feed.route.deliver(runs, lambda runs, into: feed.translator.translate(runs, 5, into))
    assert outbox.queued == 1
