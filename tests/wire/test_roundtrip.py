"""Messages go through a generation and come back equal; streams may be cut anywhere."""

import itertools
import typing

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from helperd.errors import LocalProtocolError
from helperd.wire import messages as m
from helperd.wire.frames import FrameScanner, Run
from helperd.wire.generations import GENERATIONS
from tests.wire import strategies as s

each = pytest.mark.parametrize("generation", GENERATIONS, ids=lambda generation: generation.name)


def through(generation, message, seqno=1):
    """A message after a trip over the wire."""
    (item,) = FrameScanner((generation,)).feed(generation.encode(message, seqno))
    if isinstance(item, Run):
        (report,) = generation.reports(item)
        return report
    assert item.seqno == seqno or generation.name == "v3"
    return generation.decode(item)


def test_every_message_has_a_strategy():
    kinds = set(typing.get_args(m.Message))
    assert kinds - {m.Unknown} == set(s.COMMON) | set(s.PROTOBUF_ONLY) | set(s.V3_ONLY)


@each
@given(data=st.data())
def test_every_message_comes_back_equal(generation, data):
    message = data.draw(s.messages(generation))
    assert through(generation, message, data.draw(s.u32)) == message


@given(s.common)
def test_a_message_is_the_same_through_all_generations(message):
    assert len({repr(type(through(generation, message))) for generation in GENERATIONS}) == 1
    assert all(through(generation, message) == message for generation in GENERATIONS)


@each
@given(data=st.data())
def test_cutting_a_stream_anywhere_changes_nothing(generation, data):
    messages = data.draw(st.lists(s.messages(generation), min_size=1, max_size=6))
    stream = b"".join(generation.encode(message, number) for number, message in enumerate(messages))
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=12))
    places = sorted({0, len(stream), *places})
    scanner = FrameScanner((generation,))
    out = []
    for start, stop in itertools.pairwise(places):
        for item in scanner.feed(stream[start:stop]):
            out.extend(generation.reports(item) if isinstance(item, Run) else [generation.decode(item)])
    assert out == messages
    assert scanner.pending == 0


@each
@given(st.lists(s.data_reports, min_size=1, max_size=5))
def test_the_quick_way_to_packets_agrees_with_the_general_one(generation, reports):
    stream = b"".join(generation.encode(report, 7) for report in reports)
    (run,) = FrameScanner((generation,)).feed(stream)
    assert list(generation.packets(run)) == list(generation.packets_general(run))
    assert [found[4] for found in generation.packets(run)] == [r.packet.content for r in reports if r.packet]


@each
@given(s.data_reports, st.data())
def test_the_quick_way_to_packets_agrees_with_the_general_one_on_damaged_reports(generation, report, data):
    """Whatever byte is changed, both say the same or both refuse."""
    frame = bytearray(generation.encode(report, 7))
    assume(len(frame) > generation.header)
    at = data.draw(st.integers(generation.header, len(frame) - 1))
    frame[at] = data.draw(st.integers(0, 255))
    run = Run(1, bytes(frame), 0, len(frame), 1, 1)
    assert outcome(generation.packets, run) == outcome(generation.packets_general, run)


def outcome(packets, run):
    try:
        return repr(list(packets(run)))
    except Exception as error:
        return type(error), getattr(error, "problem", None)


@pytest.mark.parametrize(
    "report",
    [
        m.DataReport(warning="w"),
        m.DataReport(buffer=m.Buffer("t", b"")),
        m.DataReport(message=m.Text(m.Severity.INFO, "")),
    ],
)
def test_blocks_that_v3_does_not_have_are_refused(report):
    with pytest.raises(LocalProtocolError, match="DataReport"):
        GENERATIONS[0].encode(report, 1)


@pytest.mark.parametrize(
    "message", [m.CloseRequest(), m.WarningReport("w"), m.BluetoothReport(m.BluetoothDevice("a"))]
)
def test_what_v3_does_not_have_is_refused_by_name(message):
    generation = GENERATIONS[0]
    with pytest.raises(LocalProtocolError, match=type(message).__name__) as caught:
        generation.encode(message, 1)
    assert caught.value.problem == "not-supported"


@pytest.mark.parametrize("generation", GENERATIONS[1:], ids=lambda generation: generation.name)
@pytest.mark.parametrize(
    "message",
    [
        m.Register("helperd-bulk/2", 3),
        m.Lost("kernel", 3),
        m.Changed("cut", 3),
        m.DataReport(m.Packet(b"x")),
        m.DataReport(json=m.Json("t", "{}")),
        m.Pong(1 << 40),
    ],
)
def test_what_protobuf_cannot_carry_is_refused_by_name(generation, message):
    with pytest.raises(LocalProtocolError) as caught:
        generation.encode(message, 1)
    assert caught.value.problem == "not-supported"
