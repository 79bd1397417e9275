"""Frames become pcapng blocks: the short way for usual layouts gives the same bytes as the general one."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helperd import layout, pcapng
from helperd.errors import RemoteProtocolError
from helperd.reports import LINKTYPE_JSON
from helperd.routing import Interfaces, Outbox, RouteTable, Tap
from helperd.translate import LINKTYPES, Translator
from helperd.wire import v0, v2, v3
from helperd.wire.beside import describe
from helperd.wire.frames import FrameScanner, Kind, Run
from helperd.wire.messages import DataReport, Gps, Json, Packet, Signal
from tests.wire import strategies as ours
from tests.wire.recordings import ident, recordings, stream

GENERATIONS = [v3, v2, v0]
SECOND = 1_700_000_000


def small(number: int) -> bytes:
    """A msgpack number in its smallest form, as C helpers write it."""
    for code, form, limit in ((0xCC, ">BB", 1 << 8), (0xCD, ">BH", 1 << 16), (0xCE, ">BI", 1 << 32)):
        if number < 128:
            return bytes([number])
        if number < limit:
            return struct.pack(form, code, number)
    raise ValueError(number)


def report(content: bytes, sec: int, usec: int, original: int, dlt: int) -> DataReport:
    """What a helper tells of one packet."""
    return DataReport(Packet(content, dlt, sec, usec, original or None))


def c_frame(content: bytes, sec: int, usec: int, original: int, dlt: int) -> bytes:
    """A data report as the v3 C helpers pack it."""
    size = len(content)
    binary = b"\xc4" + bytes([size]) if size < 256 else b"\xc5" + struct.pack(">H", size)
    payload = b"\x81\x04\x85\x01" + small(dlt) + b"\x02" + small(sec) + b"\x03" + small(usec)
    payload += b"\x04" + small(original) + b"\x06" + binary + content
    return struct.pack(">QIHHI", 0xDECAFBAD_A9A90003, len(payload), 16, 0, 7) + payload


def runs_of(data: bytes, generation) -> list[Run]:
    scanner = FrameScanner([generation], verify=True)
    found = [item for item in scanner.feed(data) if isinstance(item, Run)]
    assert scanner.pending == 0
    return found


def expected(runs: list[Run], generation, arrived_ns: int) -> list[tuple[int, bytes]]:
    """Interface number and block of each packet or JSON, by the general decoder and ``pcapng.packet_block``."""
    numbers: dict[int, int] = {}
    blocks = []
    for report in (report for run in runs for report in generation.reports(run)):
        packet, json = report.packet, report.json
        words = [] if json is None else [f"json={json.type}"]
        words += [describe(report.signal, report.gps)] if report.signal or report.gps else []
        if packet is not None and json is not None:
            words.append(json.text)
        if packet is None and json is None:
            continue
        if packet is None:
            text = json.text.encode()
            packet = Packet(text, LINKTYPE_JSON, json.sec, json.usec, len(text))
        number = numbers.setdefault(
            147 if packet.dlt is None else LINKTYPES.get(packet.dlt, packet.dlt), len(numbers)
        )
        stamp = arrived_ns if packet.sec is None else packet.sec * 10**9 + packet.usec * 1000
        original = len(packet.content) if packet.original is None else packet.original
        comment = " ".join(filter(None, words))
        options = pcapng.comments(comment)
        blocks.append((number, pcapng.packet_block(number, stamp, packet.content, original, options=options)))
    return blocks


def one_by_one(runs: list[Run], generation) -> list[Run]:
    """The same frames, each in a run of its own, as a quiet helper writes them."""
    singles = []
    for kind, data, at, stop, _, _ in runs:
        while at < stop:
            start, at = at, at + generation.header + int.from_bytes(data[at + 8 : at + 12], "big")
            singles.append(Run(kind, data, start, at, 1, 1))
    return singles


def check(data: bytes, generation) -> int:
    """Translate as runs, the second time all familiar, and frame by frame; compare; return how many packets."""
    runs = runs_of(data, generation)
    singles = one_by_one(runs, generation)
    right = expected(runs, generation, 99)
    familiar = Translator("a", Interfaces(), generation)
    for translator, given_runs in (
        (familiar, runs),
        (familiar, runs),
        (familiar, singles),
        (Translator("a", Interfaces(), generation), singles),
    ):
        segments = translator.translate(given_runs, 99)
        assert b"".join(part for one in segments for part in one.parts) == b"".join(
            block for _, block in right
        )
        assert sum(one.packets for one in segments) == len(right)
        told = [one.interface for one in segments for _ in range(one.packets)]
        assert told == [number for number, _ in right]
        for one in segments:
            kinds = list(pcapng.split(b"".join(one.parts)))
            assert len(kinds) == one.packets
            assert sum(map(len, one.parts)) == one.nbytes
        told = [(one.nth, one.json) for segment in segments for one in segment.reports]
        held = enumerate(report.json for run in runs for report in generation.reports(run))
        assert told == [(nth, json) for nth, json in held if json is not None]
    return len(right)


seconds = st.sampled_from([0, 1, 255, 65536, SECOND, SECOND + 1, 4_294_967, 0xFFFFFFFF])
micros = st.one_of(
    st.integers(0, 999_999),
    st.integers(0, 16_383),
    st.integers(0, 0xFFFFFFFF),
    st.sampled_from([0, 127, 128, 16383, 16384]),
)
dlts = st.sampled_from([1, 1, 1, 105, 127, 128, 192, 256, 272])
originals = st.one_of(st.none(), st.integers(1, 70_000))


json_reports = st.builds(Json, st.text(max_size=8), st.text(max_size=40), ours.u32, st.integers(0, 999_999))

few_types = st.builds(
    DataReport,
    st.none()
    | st.builds(
        Packet,
        st.binary(max_size=400),
        st.integers(0, 9),
        ours.u32,
        st.integers(0, 999_999),
        st.none() | st.integers(1, 1 << 31),
    ),
    st.none() | ours.signals,
    st.none() | ours.positions,
    st.none() | json_reports,
)


@st.composite
def usual(draw):
    """Many packets of few lengths and seconds, as a capture brings them."""
    sizes = draw(st.lists(st.integers(0, 600), min_size=1, max_size=3))
    dlt = draw(dlts)
    count = draw(st.integers(layout.MAX_MOULDS and 8, 60))
    return [
        (
            draw(st.binary(min_size=size, max_size=size)) if size < 20 else bytes([number]) * size,
            draw(seconds),
            draw(micros),
            draw(originals) or size,
            dlt if draw(st.integers(0, 9)) else draw(dlts),
        )
        for number, size in ((number, draw(st.sampled_from(sizes))) for number in range(count))
    ]


@given(usual())
def test_v3_as_c_helpers_write_it_gives_the_same_blocks_both_ways(packets):
    assert check(b"".join(c_frame(*packet) for packet in packets), v3) == len(packets)


@given(usual())
def test_v3_as_our_sdk_writes_it_gives_the_same_blocks_both_ways(packets):
    data = b"".join(
        v3.encode_packet(content, dlt, sec, usec, original, number)
        for number, (content, sec, usec, original, dlt) in enumerate(packets)
    )
    assert check(data, v3) == len(packets)


@pytest.mark.parametrize("generation", GENERATIONS, ids=lambda generation: generation.name)
@given(packets=usual())
def test_reports_of_the_general_encoder_give_the_same_blocks_both_ways(generation, packets):
    data = b"".join(generation.encode(report(*packet), number) for number, packet in enumerate(packets))
    check(data, generation)


@pytest.mark.parametrize("generation", GENERATIONS, ids=lambda generation: generation.name)
@given(reports=st.lists(few_types, min_size=8, max_size=30))
def test_any_reports_give_the_same_blocks_both_ways(generation, reports):
    check(b"".join(generation.encode(report, number) for number, report in enumerate(reports)), generation)


@pytest.mark.parametrize("generation", [v2, v3], ids=lambda generation: generation.name)
@given(packets=usual(), where=st.integers(0), value=st.integers(0, 255))
def test_a_flipped_byte_is_seen_by_both_ways_alike(generation, packets, where, value):
    """Inside payloads: a frame that was usual becomes something else, or stays what the decoder says it is."""
    frames = [
        c_frame(*packet) if generation is v3 else generation.encode(report(*packet), 1) for packet in packets
    ]
    index = where % len(frames)
    frame = bytearray(frames[index])
    frame[generation.header + where % (len(frame) - generation.header)] = value
    frames[index] = bytes(frame)
    data = b"".join(frames)
    runs = runs_of(data, generation)
    try:
        right = b"".join(block for _, block in expected(runs, generation, 5))
    except RemoteProtocolError:
        with pytest.raises(RemoteProtocolError):
            Translator("a", Interfaces(), generation).translate(runs, 5)
        return
    except struct.error:  # a number that no block can hold is the nearest, or costs its packet
        Translator("a", Interfaces(), generation).translate(runs, 5)
        return
    translator = Translator("a", Interfaces(), generation)
    segments = translator.translate(runs, 5)
    if translator.refused:
        return  # a link type that no file can name
    assert b"".join(part for one in segments for part in one.parts) == right


@pytest.mark.parametrize("recording", recordings(), ids=ident)
def test_recorded_helpers_give_the_same_blocks_both_ways(recording):
    data = stream(recording, "received")
    scanner = FrameScanner([v3, v2, v0])
    try:
        runs = [item for item in scanner.feed(data) if isinstance(item, Run)]
    except RemoteProtocolError as error:
        runs = [item for item in error.before if isinstance(item, Run)]
    for run in runs:
        assert scanner.current is not None
        check(run.data[run.start : run.stop] * 8, scanner.current)


@pytest.mark.parametrize("generation", [v3, v2], ids=lambda generation: generation.name)
def test_usual_frames_really_go_the_short_way(generation, monkeypatch):
    """One frame per length and second is taken apart; no packet reaches the decoder."""
    packets = [
        DataReport(
            Packet(bytes([number]) * (100 + number % 3), 105, SECOND + number // 50, 500_000 + number, 200)
        )
        for number in range(100)
    ]
    data = b"".join(generation.encode(packet, number) for number, packet in enumerate(packets))
    runs = runs_of(data, generation)
    looked: list[int] = []
    usual = layout.LAYOUTS[generation.name]
    counting = usual._replace(shape=lambda *where: looked.append(1) or usual.shape(*where))
    monkeypatch.setitem(layout.LAYOUTS, generation.name, counting)
    monkeypatch.setattr(generation, "records", lambda run: pytest.fail("the decoder was asked"))
    [one] = Translator("a", Interfaces(), generation).translate(runs, 0)
    assert one.packets == 100
    assert len(looked) == 6


@pytest.mark.parametrize("generation", [v3, v2], ids=lambda generation: generation.name)
def test_single_frames_of_one_length_go_the_short_way_from_the_second_on(generation, monkeypatch):
    frames = [
        generation.encode(DataReport(Packet(bytes(100), 105, SECOND + number // 10, 500_000, 200)), number)
        for number in range(20)
    ]
    asked: list[Run] = []
    records = generation.records
    monkeypatch.setattr(generation, "records", lambda run: asked.append(run) or records(run))
    translator = Translator("a", Interfaces(), generation)
    for frame in frames:
        [run] = runs_of(frame, generation)
        [one] = translator.translate([run], 0)
        assert one.packets == 1
    assert [run.data for run in asked] == frames[:1]


@pytest.mark.parametrize("count", [2, 5, 7])
def test_a_few_frames_go_the_short_way_together_once_their_moulds_are_there(count, monkeypatch):
    frames = [c_frame(bytes([at]) * (100 + at % 2), SECOND, 500_000 + at, 200, 1) for at in range(count)]
    familiar = Translator("a", Interfaces(), v3)
    for frame in frames[:2] * 2:
        familiar.translate(runs_of(frame * 8, v3), 0)
    runs = runs_of(b"".join(frames), v3)
    expected = Translator("a", Interfaces(), v3).translate(runs, 0)
    monkeypatch.setattr(familiar, "_rewrite_usual", lambda *_: pytest.fail("the longer way"))
    monkeypatch.setattr(familiar, "_rewrite_any", lambda *_: pytest.fail("the longest way"))
    [one], [other] = familiar.translate(runs, 0), expected
    assert (one.interface, one.packets, one.parts) == (other.interface, count, other.parts)


def test_a_bulk_frame_that_looks_like_a_report_stays_one(monkeypatch):
    frame = c_frame(bytes(100), SECOND, 500_000, 200, 1)
    translator = Translator("a", Interfaces(), v3)
    for _ in range(2):
        translator.translate(runs_of(frame, v3), 0)
    run = Run(Kind.BULK, frame, 0, len(frame), 1, 1)
    passed: list[Run] = []
    monkeypatch.setattr(v3, "blocks", lambda run: passed.append(run) or iter(()))
    assert translator.translate([run], 0) == []
    assert passed == [run]


def test_moulds_stay_few_whatever_comes():
    translator, quiet = Translator("a", Interfaces(), v3), Translator("b", Interfaces(), v3)
    for first in range(0, 6000, 100):
        data = b"".join(c_frame(bytes(size), SECOND, 500_000, size, 1) for size in range(first, first + 100))
        runs = runs_of(data, v3)
        translator.translate(runs, 0)
        twice = [run for run in one_by_one(runs, v3) for _ in range(2)]
        assert 0 < sum(map(len, translator._moulds.values())) <= layout.MAX_MOULDS
        quiet.translate(twice, 0)
        assert 0 < sum(map(len, quiet._moulds.values())) <= layout.FEW_MOULDS


@pytest.mark.parametrize("generation", GENERATIONS, ids=lambda generation: generation.name)
@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            {"sec": 1 << 60},
            {"stamp": (1 << 64) - 1, "comment": b"time stamp 1152921504606846976 s and 500000 us"},
        ),
        ({"sec": (1 << 64) - 5}, {"stamp": 0, "comment": b"time stamp 18446744073709551611 s and 500000 us"}),
        ({"sec": 18_446_744_073}, {"stamp": 18_446_744_073_500_000_000}),
        ({"usec": 4_000_000_000}, {"stamp": (SECOND + 4000) * 10**9}),
        ({"original": 1 << 40}, {"original": 0xFFFFFFFF}),
    ],
)
@pytest.mark.parametrize("count", [1, 20])
def test_a_number_that_no_block_can_hold_is_the_nearest_that_it_can(generation, said, shown, count):
    packet = Packet(b"x" * 40, 1, **{"sec": SECOND, "usec": 500_000, "original": 40, **said})
    data = b"".join(generation.encode(DataReport(packet), number) for number in range(count))
    segments = Translator("a", Interfaces(), generation).translate(runs_of(data, generation), 0)
    stream = b"".join(bytes(part) for segment in segments for part in segment.parts)
    wanted = {"stamp": SECOND * 10**9 + 500_000_000, "original": 40, "comment": b"", **shown}
    found = 0
    for _, start, stop in pcapng.split(stream):
        high, low, captured, original = struct.unpack_from("<4I", stream, start + 12)
        assert (high << 32 | low, captured, original) == (wanted["stamp"], 40, wanted["original"])
        assert (wanted["comment"] or stream[start : start + 68]) in stream[start:stop]
        found += 1
    assert found == count


def test_the_two_ways_cut_at_the_same_length():
    assert layout.MAX_CONTENT == pcapng.MAX_CONTENT
    assert len(pcapng.packet_block(0, 0, bytes(pcapng.MAX_CONTENT), 1)) == pcapng.MAX_READ


def test_a_comment_takes_its_room_from_a_long_packet():
    data = v3.encode(DataReport(Packet(bytes(300_000), 1, 1, 0), signal=Signal(dbm=-60)), 1)
    segments = Translator("a", Interfaces(), v3).translate(runs_of(data, v3), 0)
    (block,) = segments[0].parts
    assert b"signal=-60dBm" in block
    assert pcapng.MAX_READ - 4 < len(block) <= pcapng.MAX_READ


@pytest.mark.parametrize("count", [1, 10])
def test_a_packet_longer_than_readers_take_is_cut_and_keeps_its_length(count):
    data = v3.encode_packet(bytes(300_000), 1, SECOND, 500_000, 300_000, 1) * count
    translator = Translator("a", Interfaces(), v3)
    segments = translator.translate(runs_of(data, v3), 0)
    assert (translator.cut, translator.ledger.changed) == (count, {"cut": count})
    assert struct.unpack_from("<II", segments[0].parts[0], 20) == (262_112, 300_000)
    assert sum(one.packets for one in segments) == count


def test_a_report_without_a_packet_or_json_makes_no_block():
    gps = DataReport(gps=Gps(1.0, 2.0, 3.0, 0.0, 0.0, 0.0, 3, SECOND, 0, "t", "n"))
    reports = [gps, DataReport(Packet(b"abc", 1, SECOND, 5, 3))] * 10
    data = b"".join(v3.encode(report, number) for number, report in enumerate(reports))
    translator = Translator("a", Interfaces(), v3)
    segments = translator.translate(runs_of(data, v3), 0)
    assert sum(one.packets for one in segments) == 10


@pytest.mark.parametrize("generation", GENERATIONS, ids=lambda generation: generation.name)
@pytest.mark.parametrize("packets", [0, 1, 40])
def test_json_is_a_packet_of_its_own_link_type_and_knows_its_place(generation, packets):
    packet = DataReport(Packet(b"abc" * 30, 1, SECOND, 500_000, 90))
    json = DataReport(json=Json("RTL433", '{"a":1}', SECOND, 7), signal=Signal(dbm=-60))
    reports = [packet] * packets + [json] + [packet] * packets + [json]
    data = b"".join(generation.encode(report, number) for number, report in enumerate(reports))
    interfaces = Interfaces()
    segments = Translator("a", interfaces, generation).translate(runs_of(data, generation), 0)
    told = [one for segment in segments for one in segment.reports]
    assert [one.nth for one in told] == [packets, 2 * packets + 1]
    assert {interfaces[one.interface].linktype for one in segments if one.reports} == {LINKTYPE_JSON}
    block = b"".join(map(bytes, next(one for one in segments if one.reports).parts))
    assert b'{"a":1}' in block
    assert b"json=RTL433 signal=-60dBm" in block


def test_json_beside_a_packet_stands_in_its_comment_however_long():
    text = '{"a":"' + "\u00e4" * 60_000 + '"}'
    report = DataReport(Packet(b"abc", 1, SECOND, 5, 3), json=Json("x", text, SECOND, 5))
    [one] = Translator("a", Interfaces(), v3).translate(runs_of(v3.encode(report, 1), v3), 0)
    assert (one.packets, [told.json.text for told in one.reports]) == (1, [text])
    block = bytes(one.parts[0])
    assert list(pcapng.split(block)) == [(6, 0, len(block))]
    comments, at = [], 28 + 4
    while (code := int.from_bytes(block[at : at + 2], "little")) != 0:
        size = int.from_bytes(block[at + 2 : at + 4], "little")
        assert code == 1
        comments.append(block[at + 4 : at + 4 + size].decode())
        at += 4 + size + (-size & 3)
    assert len(comments) == 2
    assert "".join(comments) == f"json=x {text}"


def test_signal_and_place_become_a_comment():
    signal = Signal(dbm=-60, channel="6", khz=2_437_000)
    gps = Gps(latitude=52.5, longitude=13.25, altitude=34.0)
    data = v3.encode(DataReport(Packet(b"abc", 127, SECOND, 5, 3), signal=signal, gps=gps), 1)
    [one] = Translator("a", Interfaces(), v3).translate(runs_of(data, v3), 0)
    assert b"signal=-60dBm freq=2437000kHz channel=6 lat=52.5 lon=13.25 alt=34m" in one.parts[0]


def test_link_types_are_few_over_all_incarnations_and_known_ones_stay():
    interfaces = Interfaces()
    first, second = Translator("a", interfaces, v3), Translator("a", interfaces, v3)
    for dlt in range(200, 216):
        first.number(dlt)
    assert [second.number(dlt) for dlt in range(200, 216)] == list(range(16))
    with pytest.raises(RemoteProtocolError):
        second.number(216)
    assert Translator("b", interfaces, v3).number(216) == 16


def test_an_empty_run_is_nothing():
    assert Translator("a", Interfaces(), v3).translate([Run(Kind.PACKETS, b"", 0, 0, 0, 0)], 0) == []


@pytest.mark.parametrize("generation", GENERATIONS, ids=lambda generation: generation.name)
@pytest.mark.parametrize("dlt", [65_536, 1 << 31, 0xFFFFFFFF])
@pytest.mark.parametrize("count", [1, 20])
def test_an_impossible_link_type_costs_its_packets_and_no_other(generation, dlt, count):
    good = DataReport(Packet(b"good", 1, SECOND, 0, 4))
    odd = DataReport(Packet(b"odd", dlt, SECOND, 0, 3))
    data = b"".join(generation.encode(report, 1) for report in [good, *[odd] * count, good] * count)
    table = RouteTable()
    route = table.route("a")
    outbox = Outbox()
    route.add(Tap(outbox))
    translator = Translator("a", table.interfaces, generation, route.ledger)

    def translate(runs, segments):
        translator.translate(runs, 0, segments)

    route.deliver(runs_of(data, generation), translate)
    ledger = route.ledger
    assert (ledger.received, ledger.routed, ledger.empty) == (count * (count + 2), 2 * count, 0)
    assert +ledger.lost == {"link-type": count * count}
    assert translator.refused == [dlt]
    assert sum(batch.packets for batch in outbox.take(1 << 20)) == 2 * count


def test_a_seventeenth_link_type_costs_its_packets_and_no_other():
    data = b"".join(c_frame(b"abc", SECOND, 500_000, 3, dlt) for dlt in [*range(200, 220), 200])
    translator = Translator("a", Interfaces(), v3)
    segments = translator.translate(runs_of(data, v3), 0)
    assert sum(one.packets for one in segments) == 17
    assert translator.ledger.lost == {"link-type": 4}
    assert translator.refused == [216, 217, 218, 219]
