"""The bulk extension: what a helper can put into a frame, and what it cannot."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helperd.errors import LocalProtocolError, RemoteProtocolError
from helperd.wire import bulk, v3
from helperd.wire import messages as m
from helperd.wire.frames import Kind
from helperd.wire.mpack import pack
from helperd.wire.session import Phase, Role, Session

INTERFACE, OTHER = 7, 260
END = b"\0\0\0\0"


def block(
    content, options=b"", *, interface=INTERFACE, stamp=0x1122334455667788, original=None, captured=None
):
    """One Enhanced Packet Block."""
    padded = content + bytes(-len(content) % 4)
    length = 32 + len(padded) + len(options)
    size = len(content) if captured is None else captured
    head = struct.pack(
        "<IIIIIII",
        6,
        length,
        interface,
        stamp >> 32,
        stamp & 0xFFFFFFFF,
        size,
        len(content) if original is None else original,
    )
    return head + padded + options + struct.pack("<I", length)


def option(code, value):
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def opened(*interfaces):
    """A session in which link types 1, 2, ... have these interface numbers."""
    session = Session(Role.SUPERVISOR, generation=v3)
    for dlt, number in enumerate(interfaces or (INTERFACE,), 1):
        session.send(m.Register(bulk.SUBSYSTEM, number, dlt))
    session.phase = Phase.OPEN
    return session


def receive(frame, *interfaces):
    return opened(*interfaces).receive(frame)


def refused(frame, problem="bad-bulk"):
    with pytest.raises(RemoteProtocolError) as caught:
        receive(frame)
    assert caught.value.problem == problem
    return str(caught.value)


def raw_frame(payload):
    return struct.pack(">QIHHI", 0xDECAFBADA9A90003, len(payload), bulk.TYPE, 0, 1) + payload


contents = st.lists(st.binary(max_size=80), min_size=1, max_size=40)
good_options = st.sampled_from(
    [
        b"",
        END,
        option(1, b"a comment"),
        option(1, b"a comment") + END,
        option(2, b"\1\0\0\0") + option(1, b"signal=-60dBm") + END,
        option(4, bytes(8)) + option(5, bytes(8)) + option(6, bytes(4)) + END,
        option(3, b"\2four") + option(8, bytes(8)) + END,
        option(7, b"\1" + bytes(8)) + option(7, b"\0a verdict") + option(7, b"\x09") + END,
        option(2988, b"\1\2\3\4custom") + option(19373, bytes(4)) + END,
        option(600, b"") + option(0x8001, b"somebody's own") + END,
    ]
)


@given(contents, good_options)
def test_blocks_pass_untouched_and_packets_are_counted(contents, options):
    blocks = [block(content, options) for content in contents]
    frame = bulk.encode(blocks, 5)
    (run,) = receive(frame)
    assert (run.kind, run.frames, run.packets, run.nbytes) == (Kind.BULK, 1, len(blocks), len(frame))
    ((interface, slices, nbytes, packets),) = v3.blocks(run)
    assert (interface, packets) == (INTERFACE, len(blocks))
    assert b"".join(slices) == b"".join(blocks)
    assert nbytes == sum(map(len, blocks))
    assert all(piece.obj is run.data for piece in slices)


@given(st.lists(contents, min_size=1, max_size=4), st.data())
def test_a_stream_of_bulk_frames_may_be_cut_anywhere(frames, data):
    session = opened()
    stream = b"".join(bulk.encode([block(content) for content in contents], 1) for contents in frames)
    cut = data.draw(st.integers(0, len(stream)))
    runs = session.receive(stream[:cut]) + session.receive(stream[cut:]) if cut else session.receive(stream)
    assert sum(run.packets for run in runs) == sum(map(len, frames))
    out = b"".join(bytes(piece) for run in runs for _, slices, _, _ in v3.blocks(run) for piece in slices)
    assert out == b"".join(block(content) for contents in frames for content in contents)


@given(st.integers(1, 60), st.binary(min_size=1, max_size=60), good_options, st.data())
def test_no_changed_byte_gets_another_interface_or_a_broken_chain_through(count, content, options, data):
    """Every block is read again by hand after a random change: whatever passed must be whole and ours."""
    blocks = [block(content, options) for _ in range(count)]
    frame = bytearray(bulk.encode(blocks, 1))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(20, len(frame) - 1))
        frame[at] = data.draw(st.integers(0, 255))
    try:
        (run,) = receive(bytes(frame))
    except RemoteProtocolError as error:
        problem = error.problem
    else:
        assert run.packets == audit(run)
        return
    assert problem == "bad-bulk"


def audit(run):
    """Walk what would be passed on as a reader does; returns the number of packets."""
    ((_, (piece,), _, _),) = v3.blocks(run)
    data, at, packets = bytes(piece), 0, 0
    while at < len(data):
        kind, length, interface, _, _, captured, _ = struct.unpack_from("<IIIIIII", data, at)
        assert kind == 6
        assert interface == INTERFACE
        assert length >= 32
        assert length % 4 == 0
        assert struct.unpack_from("<I", data, at + length - 4)[0] == length
        spare = length - 32 - (captured + 3 & ~3)
        assert spare >= 0
        option_at, stop = at + 28 + (captured + 3 & ~3), at + length - 4
        while option_at < stop:
            code, size = struct.unpack_from("<HH", data, option_at)
            assert size in {0: {0}, 2: {4}, 4: {8}, 5: {8}, 6: {4}, 8: {8}}.get(code, {size})
            assert size >= {3: 1, 7: 1, 2988: 4, 2989: 4, 19372: 4, 19373: 4}.get(code, 0)
            assert code != 7 or data[option_at + 4] not in {1, 2} or size == 9
            option_at += 4 + (size + 3 & ~3)
            assert code or option_at == stop
        assert option_at == stop
        packets += 1
        at += length
    assert at == len(data)
    return packets


@given(st.lists(st.tuples(st.sampled_from([INTERFACE, OTHER]), contents), min_size=1, max_size=6))
def test_frames_of_several_interfaces_follow_each_other(frames):
    stream = b"".join(
        bulk.encode([block(content, interface=number) for content in contents], 1)
        for number, contents in frames
    )
    runs = receive(stream, INTERFACE, OTHER)
    found = [(number, packets) for run in runs for number, _, _, packets in v3.blocks(run)]
    assert found == [(number, len(contents)) for number, contents in frames]


@pytest.mark.parametrize("count", [2, 8, 40])
@pytest.mark.parametrize("at", [0, 1, -1])
def test_a_frame_is_of_one_interface(count, at):
    """Both numbers are agreed; what a frame's packets are counted under must hold for all of them."""
    blocks = [block(b"abcd")] * count
    blocks[at] = block(b"abcd", interface=OTHER)
    with pytest.raises(RemoteProtocolError, match="in a frame of interface") as caught:
        receive(bulk.encode(blocks, 1), INTERFACE, OTHER)
    assert caught.value.problem == "bad-bulk"


def test_a_number_counts_from_when_it_is_given():
    session = opened()
    other = bulk.encode([block(b"abcd", interface=OTHER)] * 9, 1)
    session.send(m.Register(bulk.SUBSYSTEM, OTHER, 2))
    (run,) = session.receive(other)
    assert run.packets == 9
    with pytest.raises(RemoteProtocolError, match="interface 261, agreed is 7, 260"):
        session.receive(bulk.encode([block(b"abcd", interface=261)], 1))


def test_a_link_type_that_was_refused_has_no_number():
    session = opened()
    session.send(m.Register(bulk.SUBSYSTEM, None, 2))
    with pytest.raises(RemoteProtocolError, match="agreed is 7"):
        session.receive(bulk.encode([block(b"abcd", interface=0)], 1))


LIES = {
    "another interface": lambda b: block(b"abcd", interface=6),
    "another interface, its number in the second byte": lambda b: block(b"abcd", interface=7 | 1 << 8),
    "a block that is no packet": lambda b: b"\1" + b[1:],
    "a section header": lambda b: b"\x0a\x0d\x0d\x0a" + b[4:],
    "a length that runs over the next block": lambda b: b[:4] + struct.pack("<I", 2 * len(b)) + b[8:],
    "a trailing length that differs": lambda b: b[:-4] + struct.pack("<I", len(b) + 4),
    "more captured than there is": lambda b: b[:20] + struct.pack("<I", 5) + b[24:],
    "far more captured than there is": lambda b: b[:20] + struct.pack("<I", 0xFFFFFFF0) + b[24:],
    "less captured, and the rest no options": lambda b: b[:20] + struct.pack("<I", 0) + b[24:],
}


@pytest.mark.parametrize("count", [1, 3, 8, 40])
@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize("lie", LIES)
def test_a_lying_helper_is_refused(lie, place, count):
    blocks = [block(b"abcd") for _ in range(count)]
    at = {"first": 0, "middle": count // 2, "last": count - 1}[place]
    blocks[at] = LIES[lie](blocks[at])
    refused(bulk.encode(blocks, 1))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (option(2, b"\0" * 8), "option 2 of 8 bytes"),
        (option(3, b""), "option 3"),
        (option(7, b""), "option 7"),
        (option(7, b"\2" + bytes(4)), "option 7 of 5"),
        (option(8, bytes(4)), "option 8 of 4"),
        (option(2989, b"abc"), "option 2989 of 3"),
        (option(19372, b""), "option 19372"),
        (option(1, b"abcd")[:-4], "run over"),
        (struct.pack("<HH", 1, 400), "run over"),
        (END + option(1, b"behind the end"), "options run over"),
        (struct.pack("<HH", 0, 4) + END, "option 0 of 4"),
    ],
)
@pytest.mark.parametrize("count", [1, 20])
def test_options_that_would_break_a_reader_are_refused(options, why, count):
    assert why in refused(bulk.encode([block(b"abc", options)] * count, 1))


def test_a_packet_longer_than_wireshark_reads_is_refused():
    assert receive(bulk.encode([block(bytes(bulk.MAX_PACKET))], 1))
    refused(bulk.encode([block(bytes(bulk.MAX_PACKET + 1))], 1))


def test_captured_lengths_may_differ_within_a_run_when_all_else_is_in_its_place():
    blocks = [block(bytes(50 + at % 3)) for at in range(60)]
    assert {len(one) for one in blocks} == {84}
    (run,) = receive(bulk.encode(blocks, 1))
    assert run.packets == 60
    commented = [block(bytes(50 + at % 3), option(1, b"c" * (1 + at % 4))) for at in range(60)]
    (run,) = receive(bulk.encode(commented, 1))
    assert run.packets == 60


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"", "index is cut"),
        (b"\0" * 7, "index is cut"),
        (struct.pack("<II", 0, 0), "0 runs"),
        (struct.pack("<II", 1, 0xFFFFFFFF), "do not fit"),
        (struct.pack("<II", 1, 1), "do not fit"),
        (struct.pack("<IIII", 1, 1, 36, 1), "1 blocks of 36 bytes"),
        (struct.pack("<IIII", 1, 1, 0, 1), "1 blocks of 0 bytes"),
        (struct.pack("<IIII", 1, 1, 34, 1) + bytes(34), "1 blocks of 34 bytes"),
        (struct.pack("<IIII", 1, 1, 36, 0xFFFFFFFF) + block(b"abcd"), "blocks of 36"),
        (struct.pack("<IIII", 0, 1, 36, 0), "0 blocks"),
        (struct.pack("<IIII", 2, 1, 36, 1) + block(b"abcd"), "2 packets announced, 1 indexed"),
        (struct.pack("<IIII", 0, 1, 36, 1) + block(b"abcd"), "1 blocks of 36"),
        (struct.pack("<IIII", 1, 1, 36, 1) + block(b"abcd") + bytes(4), "4 bytes left"),
        (struct.pack("<IIII", 1, 1, 36, 1) + block(b"abcd") * 2, "36 bytes left"),
    ],
)
def test_an_index_that_does_not_add_up_is_refused(payload, why):
    assert why in refused(raw_frame(payload))


def test_a_bulk_frame_that_was_not_agreed_is_refused():
    session = Session(Role.SUPERVISOR, generation=v3)
    session.phase = Phase.OPEN
    with pytest.raises(RemoteProtocolError, match="no interface number is agreed") as caught:
        session.receive(bulk.encode([block(b"abcd")], 1))
    assert caught.value.problem == "not-allowed-now"


def test_a_bulk_frame_before_the_open_report_is_refused():
    session = opened()
    session.phase = Phase.OPENING
    with pytest.raises(RemoteProtocolError) as caught:
        session.receive(bulk.encode([block(b"abcd")], 1))
    assert caught.value.problem == "not-allowed-now"


@pytest.mark.parametrize(
    "fields", [{1: "kernel", 2: 0}, {1: "moon", 2: 5}, {1: "kernel"}, {2: 5}, {1: "kernel", 2: -1}]
)
def test_a_count_report_that_says_nothing_is_refused(fields):
    payload = pack(fields)
    refused(
        struct.pack(">QIHHI", 0xDECAFBADA9A90003, len(payload), bulk.COUNT, 0, 1) + payload, "bad-payload"
    )


@pytest.mark.parametrize("word", m.CHANGES)
def test_the_word_of_a_count_report_says_whether_packets_are_lost_or_changed(word):
    single = v3.encode_packet(b"abc", 1, 2, 3, 3, 4)
    assert receive(v3.encode(m.Changed(word, 3), 2) + single)[0] == m.Changed(word, 3)


def test_a_count_report_stands_between_the_packets_it_belongs_to():
    single = v3.encode_packet(b"abc", 1, 2, 3, 3, 4)
    first, lost, second = receive(single + v3.encode(m.Lost("device", 12), 2) + single)
    assert (first.packets, lost, second.packets) == (1, m.Lost("device", 12), 1)


def test_single_packets_and_bulk_frames_may_alternate():
    single = v3.encode_packet(b"abc", 1, 2, 3, 3, 4)
    many = bulk.encode([block(b"abcd")] * 9, 1)
    runs = receive(single * 2 + many + many + single)
    assert [(run.kind, run.frames, run.packets) for run in runs] == [
        (Kind.PACKETS, 2, 2),
        (Kind.BULK, 1, 9),
        (Kind.BULK, 1, 9),
        (Kind.PACKETS, 1, 1),
    ]


def test_a_good_run_ahead_of_a_bad_bulk_frame_is_kept():
    single = v3.encode_packet(b"abc", 1, 2, 3, 3, 4)
    with pytest.raises(RemoteProtocolError) as caught:
        receive(single * 3 + bulk.encode([block(b"abcd", interface=1)], 1))
    (run,) = caught.value.before
    assert (run.packets, caught.value.at) == (3, 3 * len(single))


def test_frames_that_cannot_be_sent_are_our_own_mistake():
    for blocks in ([], [block(bytes(60000))] * 20):
        with pytest.raises(LocalProtocolError) as caught:
            bulk.encode(blocks, 1)
        assert caught.value.problem == "bad-bulk"


def test_checking_by_hand_and_by_columns_agree(monkeypatch):
    """On a big-endian machine every block is checked by hand."""
    frame = bulk.encode([block(b"abcd")] * 40, 1)
    monkeypatch.setattr(bulk.sys, "byteorder", "big")
    (run,) = receive(frame)
    assert run.packets == 40
