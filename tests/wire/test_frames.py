"""The scanner: runs, partial frames, limits; and the invariant that whatever comes is parsed or refused by name."""

import itertools
import random
import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helperd.errors import PROBLEMS, RemoteProtocolError
from helperd.wire import bulk, v0, v2, v3
from helperd.wire import messages as m
from helperd.wire.frames import MAX_FRAME, ControlFrame, FrameScanner, Kind, Run
from helperd.wire.generations import GENERATIONS, named
from helperd.wire.session import V2_PING, Phase, Role, Session
from tests.wire import recordings as rec
from tests.wire.test_bulk import block

each = pytest.mark.parametrize("generation", GENERATIONS, ids=lambda generation: generation.name)


def data_frame(generation, content=b"abc", seqno=1):
    return generation.encode(m.DataReport(m.Packet(content, 1, 1700000000, 3)), seqno)


@each
def test_neighbouring_data_frames_are_one_run_of_the_read_itself(generation):
    text = generation.encode(m.Text(m.Severity.INFO, "hi"), 5)
    frame = data_frame(generation)
    read = frame * 4 + text + frame * 2 + frame[:7]
    scanner = FrameScanner((generation,))
    first, control, second = scanner.feed(read)
    assert isinstance(control, ControlFrame)
    assert first == Run(Kind.PACKETS, read, 0, 4 * len(frame), 4, 4)
    assert first.data is read
    assert second[2:] == (first.stop + len(text), len(read) - 7, 2, 2)
    assert (second.nbytes, control.at, scanner.pending) == (2 * len(frame), first.stop, 7)


@each
def test_a_partial_frame_is_completed_and_the_rest_of_the_read_is_not_copied(generation):
    frame = data_frame(generation)
    scanner = FrameScanner((generation,))
    assert scanner.feed(frame[:20]) == []
    read = frame[20:] + frame * 3
    completed, rest = scanner.feed(read)
    assert bytes(completed.data) == frame
    assert rest.data is read
    assert rest.packets == 3
    assert scanner.pending == 0


@each
def test_a_length_over_the_limit_is_refused_as_soon_as_twelve_bytes_are_there(generation):
    frame = data_frame(generation)
    for limit in (len(frame), len(frame) - 1):
        scanner = FrameScanner((generation,), max_frame=limit)
        if limit == len(frame):
            assert scanner.feed(frame)[0].frames == 1
        else:
            with pytest.raises(RemoteProtocolError) as whole:
                scanner.feed(frame)
            scanner = FrameScanner((generation,), max_frame=limit)
            assert scanner.feed(frame[:11]) == []
            with pytest.raises(RemoteProtocolError) as early:
                scanner.feed(frame[11:12])
            assert whole.value.problem == early.value.problem == "frame-too-long"
            assert (whole.value.at, early.value.at) == (0, 0)


@each
def test_a_frame_of_exactly_the_limit_passes_and_memory_stays_below_two_limits(generation):
    content = bytes(MAX_FRAME - len(data_frame(generation, bytes(1 << 19))) + (1 << 19) - 8)
    frame = data_frame(generation, content)
    assert MAX_FRAME - 16 <= len(frame) <= MAX_FRAME
    scanner = FrameScanner((generation,), verify=False)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        runs = [item for at in range(0, len(frame), 65536) for item in scanner.feed(frame[at : at + 65536])]
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert [run.packets for run in runs] == [1]
    assert peak < 3.5 * MAX_FRAME  # the bytearray, its over-allocation, the frame, one read


@each
def test_a_read_of_one_report_is_taken_only_if_it_is_that_and_nothing_else(generation):
    """The short way says yes to nothing that the scanner would not have called one report."""
    frame = data_frame(generation)
    short = generation is not v0  # there is a checksum to be looked at
    cases = [
        (frame, short),
        (frame[:-1], False),
        (frame[:11], False),
        (b"", False),
        (frame * 2, False),
        (frame + b"\0", False),
        (bytes([frame[0] ^ 1]) + frame[1:], False),
        (generation.encode(m.Text(m.Severity.INFO, "hi"), 5), False),
        (generation.encode(m.Ping(), 5), False),
    ]
    for read, taken in cases:
        scanner = FrameScanner((generation,))
        assert not scanner.take_report(read), "it has not said yet what it speaks"
        assert scanner.feed(frame) == [Run(Kind.PACKETS, frame, 0, len(frame), 1, 1)]
        assert (scanner.take_report(read), scanner.at) == (taken, len(frame) * (1 + taken)), read
        scanner.feed(frame[:5])
        assert not scanner.take_report(frame), "it stands in the middle of another"
    scanner = FrameScanner((generation,), max_frame=len(frame))
    scanner.feed(frame)
    longer = data_frame(generation, b"abcd")
    assert not scanner.take_report(longer)
    with pytest.raises(RemoteProtocolError, match="limit"):
        scanner.feed(longer)


def test_an_unfinished_frame_never_holds_more_than_it_announced():
    scanner = FrameScanner((v3,))
    scanner.feed(struct.pack(">QIHHI", 0xDECAFBADA9A90003, 1000, 5, 0, 1))
    for _ in range(99):
        scanner.feed(bytes(10))
    assert scanner.pending == 1010
    assert len(scanner.feed(bytes(10))) == 1
    assert scanner.pending == 0


def test_the_first_frame_fixes_the_generation_for_good():
    scanner = FrameScanner((v3, v2))
    scanner.feed(v2.encode(m.Pong(1), 1))
    assert scanner.current is v2
    with pytest.raises(RemoteProtocolError) as caught:
        scanner.feed(v2.encode(m.Pong(1), 1) + v3.encode(m.Pong(1), 1))
    assert caught.value.problem == "wrong-generation"
    assert [frame.command for frame in caught.value.before] == ["PONG"]


def test_a_scanner_for_a_helper_follows_every_generation():
    scanner = FrameScanner(GENERATIONS, sticky=False)
    stream = b"".join(generation.encode(m.Ping(), 1) for generation in (v0, v3, v2, v0, v2, v3))
    names = [frame.generation.name for frame in scanner.feed(stream)]
    assert names == ["v0", "v3", "v2", "v0", "v2", "v3"]
    scanner = FrameScanner(GENERATIONS, sticky=False)
    names = [
        frame.generation.name for at in range(len(stream)) for frame in scanner.feed(stream[at : at + 1])
    ]
    assert names == ["v0", "v3", "v2", "v0", "v2", "v3"]


@pytest.mark.parametrize(
    ("head", "problem"),
    [
        ("deadbeefa9a9000300000000", "bad-signature"),
        ("decafbada9a9000400000000", "bad-version"),
        ("decafbadabcd000300000000", "bad-version"),
        ("decafbad0000000000000000", "wrong-generation"),
        ("decafbada9a90003fffffff0", "frame-too-long"),
    ],
)
def test_twelve_bytes_are_enough_to_say_what_is_wrong(head, problem):
    with pytest.raises(RemoteProtocolError) as caught:
        FrameScanner((v3, v2)).feed(bytes.fromhex(head))
    assert caught.value.problem == problem
    assert caught.value.excerpt.hex() == head


def test_the_checksum_is_kismets_and_not_zlibs():
    """kismet-protocol.md, appendix A."""
    cases = {
        b"": 0,
        b"abc": 0,
        b"abcd": 0x03D4018A,
        b"abcde": 0x05C301EF,
        b"Kismet!!": 0x0D5D02AF,
        bytes(range(256)): 0xAA807F80,
        b"\xff" * 1000: 0x70ECE418,
    }
    assert {data: v0.checksum(data) for data in cases} == cases


def test_the_vectors_of_the_reference():
    """kismet-protocol.md, appendix A."""
    assert v0.encode(m.Ping(), 1).hex() == "decafbad08b501670000000a0a0450494e4710011a00"
    assert v2.encode(m.Ping(), 1).hex() == "decafbadabcd00020000000050494e47" + "00" * 28 + "00000001"
    assert v3.encode(m.Ping(), 1)[:14].hex() == "decafbada9a90003000000000002"
    assert v2.encode(m.Ping(), 0) == V2_PING
    report = bytes.fromhex("810485017f02ce5f5e100003cd04d2045006c446") + bytes(70)
    frame = struct.pack(">QIHHI", 0xDECAFBADA9A90003, len(report), 16, 0, 9) + report
    (run,) = FrameScanner((v3,)).feed(frame)
    assert list(v3.packets(run)) == [(127, 1600000000, 1234, 80, bytes(70), None)]
    assert v3.encode_packet(bytes(70), 127, 1600000000, 1234, 80, 9) == frame


def test_a_checksum_is_checked_unless_it_is_said_otherwise():
    frame = bytearray(data_frame(v0))
    frame[-1] ^= 1
    with pytest.raises(RemoteProtocolError) as caught:
        FrameScanner((v0,)).feed(data_frame(v0) + bytes(frame))
    assert (caught.value.problem, caught.value.at) == ("bad-checksum", len(frame))
    assert [run.packets for run in caught.value.before] == [1]
    (run,) = FrameScanner((v0,), verify=False).feed(bytes(frame))
    assert run.packets == 1


def test_a_v0_data_report_whose_wrapper_is_in_another_order_is_a_data_report_all_the_same():
    """Protobuf may write fields in any order; no known helper does."""
    report = v2.encode(m.DataReport(m.Packet(b"abc", 1, 2, 3)), 1)[48:]
    payload = b"\x10\x07" + b"\x1a" + bytes((len(report),)) + report + b"\x0a\x0dKDSDATAREPORT"
    frame = struct.pack(">III", 0xDECAFBAD, v0.checksum(payload), len(payload)) + payload
    (run,) = FrameScanner((v0,)).feed(data_frame(v0) + frame + data_frame(v0))
    assert run.packets == 3
    assert [packet[:4] for packet in v0.packets(run)][1] == (1, 2, 3, 3)
    assert list(v0.packets(run)) == list(v0.packets_general(run))


def test_a_v0_data_report_with_an_unknown_field_in_its_wrapper_is_read_by_the_general_reader():
    report = v2.encode(m.DataReport(m.Packet(b"abc", 1, 2, 3)), 1)[48:]
    payload = b"\x0a\x0dKDSDATAREPORT\x10\x07\x20\x05\x1a" + bytes((len(report),)) + report
    frame = struct.pack(">III", 0xDECAFBAD, v0.checksum(payload), len(payload)) + payload
    (run,) = FrameScanner((v0,)).feed(frame)
    assert list(v0.packets(run)) == [(1, 2, 3, 3, b"abc", None)]


def test_a_v0_wrapper_that_is_none_is_refused():
    for payload in (b"", b"\xff", b"\x0a\x04PING\x10\x01", b"\x0a\x0dKDSDATAREPORT\x10"):
        frame = struct.pack(">III", 0xDECAFBAD, v0.checksum(payload), len(payload)) + payload
        scanner = FrameScanner((v0,))
        try:
            (run,) = scanner.feed(data_frame(v0) + frame)
        except RemoteProtocolError as error:
            problem, before = error.problem, error.before
            assert [one.packets for one in before] == [1]
        else:
            with pytest.raises(RemoteProtocolError) as caught:
                list(v0.packets(run))
            problem = caught.value.problem
        assert problem == "bad-payload"


def test_old_generations_have_no_bulk_frames():
    assert (
        list(v0.blocks(Run(Kind.BULK, b"", 0, 0, 0, 0)))
        == list(v2.blocks(Run(Kind.BULK, b"", 0, 0, 0, 0)))
        == []
    )
    with pytest.raises(KeyError):
        named("v1")


# the invariant


def listen(reads, *, role, generation=None, phase=None, interface=None, verify=True):
    """Feed reads to a session and take everything apart; returns how it ended."""
    session = Session(role, generation=generation, verify=verify)
    if phase is not None:
        session.phase = phase
    if interface is not None:
        session._scanner.bulk = frozenset({interface})
    heard = 0
    try:
        for read in reads:
            for item in session.receive(read):
                heard += 1
                take_apart(session, item)
            assert session.pending < MAX_FRAME
        session.receive_eof()
    except RemoteProtocolError as error:
        verdict = error
    else:
        return heard
    assert verdict.problem in PROBLEMS
    assert 0 <= verdict.at <= session.received + MAX_FRAME
    assert len(verdict.excerpt) <= 64
    for item in verdict.before:
        take_apart(session, item)
    return verdict.problem


def take_apart(session, item):
    if not isinstance(item, Run):
        assert isinstance(item, m.Message)
        return
    if item.kind is Kind.BULK:
        assert sum(packets for _, _, _, packets in v3.blocks(item)) == item.packets
        return
    generation = session.generation
    assert item.frames == item.packets > 0
    for take in (generation.packets, generation.reports):
        try:
            found = list(take(item))
        except RemoteProtocolError as error:
            found, problem = [], error.problem
        else:
            problem = "bad-payload"
        assert len(found) <= item.packets
        assert problem == "bad-payload"


def seeds():
    """Streams worth damaging: every recording, and bulk frames."""
    streams = [rec.stream(one, side) for one in rec.recordings() for side in ("received", "tosend")]
    streams.append(bulk.encode([block(bytes(at)) for at in range(40)] + [block(b"x")] * 40, 1))
    return sorted({stream[:3000] for stream in streams if stream}, key=lambda stream: (len(stream), stream))


@pytest.mark.parametrize("role", Role)
@given(st.lists(st.binary(max_size=200), max_size=6), st.sampled_from([None, *GENERATIONS]))
def test_whatever_bytes_arrive_they_are_parsed_or_refused_by_name(role, reads, generation):
    listen([read for read in reads if read], role=role, generation=generation)


@pytest.mark.parametrize("generation", [None, *GENERATIONS], ids=lambda one: getattr(one, "name", "any"))
@pytest.mark.parametrize("role", Role)
@given(data=st.data())
def test_whatever_is_damaged_in_a_real_stream_it_is_parsed_or_refused_by_name(role, generation, data):
    seed = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(seed) - 1))
        seed[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
        if not seed:
            return
    places = sorted({0, len(seed), *data.draw(st.lists(st.integers(0, len(seed)), max_size=5))})
    reads = [bytes(seed[start:stop]) for start, stop in itertools.pairwise(places)]
    phase = data.draw(st.sampled_from([None, Phase.OPEN, Phase.READY, Phase.OPENING]))
    listen(reads, role=role, generation=generation, phase=phase, interface=7, verify=data.draw(st.booleans()))


def test_a_session_never_loops_on_what_it_does_not_take():
    """Every prefix of every recording, as one read: bounded work, and nothing but a verdict."""
    dice = random.Random(7)
    for stream in SEEDS:
        for _ in range(8):
            cut = dice.randrange(1, len(stream) + 1)
            for role in Role:
                listen([stream[:cut]], role=role)


SEEDS = seeds()
