"""Packets read by hand: real senders' layouts are recognised, the others left alone, all are read the same."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helperd.wire import messages as m
from helperd.wire import pbpackets, v0, v2, v3, v3packets
from helperd.wire.frames import FrameScanner, Run
from helperd.wire.mpack import pack

SMALL = (0, 1, 127, 128, 255, 256, 65535, 65536, 999_999)
SECOND = 1_700_000_000


def v3_frame(payload):
    return struct.pack(">QIHHI", 0xDECAFBADA9A90003, len(payload), 16, 0, 1) + payload


def wide(content, dlt=127, sec=SECOND, usec=5, original=9, lead=b"\x81"):
    """What our SDK writes: every number in its widest form."""
    head = struct.pack(
        ">H2sI2sI2sI2sI",
        dlt,
        b"\x02\xce",
        sec,
        b"\x03\xce",
        usec,
        b"\x04\xce",
        original,
        b"\x06\xc6",
        len(content),
    )
    return lead + b"\x04\x85\x01\xcd" + head + content


def smallest(content, dlt=127, sec=SECOND, usec=5, original=9, lead=b"\x81"):
    """What C helpers write."""
    return lead + b"\x04" + pack({1: dlt, 2: sec, 3: usec, 4: original, 6: content})


def both(payload):
    """What the quick and the general reader say."""
    frame = v3_frame(payload)
    run = Run(1, frame, 0, len(frame), 1, 1)
    (general,) = v3.packets_general(run)
    return v3packets.quick(frame, 20, len(frame)), general


@pytest.mark.parametrize("layout", [wide, smallest])
@pytest.mark.parametrize("usec", SMALL)
@pytest.mark.parametrize("original", [0, 60, 200, 1514, 65535])
@pytest.mark.parametrize("dlt", [1, 127, 195, 283])
def test_every_width_of_both_layouts_is_read_by_hand(layout, usec, original, dlt):
    content = bytes(original % 600)
    quick, general = both(layout(content, dlt, SECOND, usec, original))
    assert quick == general == (dlt, SECOND, usec, original, content, None)


@pytest.mark.parametrize("layout", [wide, smallest])
def test_a_signal_block_in_front_is_read_by_hand(layout):
    for level in (-30, -90):
        signal = m.Signal(dbm=level, khz=2437000, channel="6")
        lead = v3.encode(m.DataReport(signal=signal), 1)[20:].replace(b"\x81\x02", b"\x82\x02", 1)
        quick, general = both(layout(b"abc", lead=lead))
        assert quick == general == (127, SECOND, 5, 9, b"abc", signal)


def test_a_signal_block_that_holds_the_packets_first_bytes_is_left_to_the_general_reader():
    signal = b"\x82\x02\x81\x07\xa3" + b"\x04\x85\x01"[:1] + b"ab"
    quick, general = both(smallest(b"abc", lead=signal))
    assert quick == general
    tricky = b"\x82\x02\x81\x05\xcf\x04\x85\x01\x7f\x02\xce\x00\x00"
    frame = v3_frame(tricky + b"\x04" + pack({1: 1, 2: 2, 3: 3, 4: 4, 6: b"x"}))
    assert v3packets.quick(frame, 20, len(frame)) is None


@pytest.mark.parametrize(
    "payload",
    [
        pack({4: {1: 127, 2: 5, 3: 5, 4: 9, 6: b"abc"}}),
        pack({4: {1: 70000, 2: SECOND, 3: 5, 4: 9, 6: b"abc"}}),
        pack({4: {1: 127, 2: SECOND, 3: 5, 4: 70000, 6: b"abc"}}),
        pack({4: {1: 127, 2: SECOND, 3: 5, 4: 9, 6: bytes(70000)}}),
        pack({4: {1: 127, 2: SECOND, 3: 5, 4: 9, 6: "text"}}),
        pack({4: {1: 127, 3: 5, 2: SECOND, 4: 9, 6: b"abc"}}),
        pack({4: {1: 127, 2: SECOND, 4: 9, 6: b"abc"}}),
        pack({4: {1: 127, 2: SECOND, 3: 1 << 40, 4: 9, 6: b"abc"}}),
        pack({4: {6: b"abc"}}),
        pack({1: {8: 1, 9: 2}, 4: {1: 127, 2: SECOND, 3: 5, 4: 9, 6: b"abc"}}),
        b"\x82\x02\x80" + b"\x05" + pack({1: "t", 4: "{}"}),
        b"\x82\x02" + pack({7: "x" * 200}) + b"\x04" + pack({6: b"abc"}),
    ],
)
def test_other_layouts_are_left_to_the_general_reader(payload):
    frame = v3_frame(payload)
    assert v3packets.quick(frame, 20, len(frame)) is None
    run = Run(1, frame, 0, len(frame), 1, 1)
    assert list(v3.packets(run)) == list(v3.packets_general(run))


@given(st.sampled_from([wide, smallest]), st.binary(max_size=300), st.data())
def test_a_cut_payload_is_never_read_over_its_end(layout, content, data):
    payload = layout(content)
    cut = data.draw(st.integers(0, len(payload) - 1))
    frame = v3_frame(payload[:cut]) + v3_frame(payload)
    assert v3packets.quick(frame, 20, 20 + cut) is None


VARINTS = [0, 1, 127, 128, 16383, 16384, 999_999, 1 << 21, 1 << 28, (1 << 32) - 1]


@pytest.mark.parametrize("generation", [v0, v2], ids=["v0", "v2"])
@pytest.mark.parametrize("size", [0, 1, 90, 127, 128, 1500, 17000])
@pytest.mark.parametrize("usec", VARINTS[:8])
@pytest.mark.parametrize("original", [None, 1, 200, 70000])
def test_every_width_of_protobuf_is_read_alike(generation, size, usec, original):
    content = bytes(size)
    frame = generation.encode(m.DataReport(m.Packet(content, 195, SECOND, usec, original)), 300)
    (run,) = FrameScanner((generation,)).feed(frame)
    (found,) = generation.packets(run)
    assert [found] == list(generation.packets_general(run))
    assert found == (195, SECOND, usec, original or size, content, None)


def test_the_usual_protobuf_layout_is_read_by_hand_and_others_are_not():
    def read(report):
        return pbpackets.quick(report, 0, len(report))

    usual = v2.encode(m.DataReport(m.Packet(bytes(200), 127, SECOND, 123_456)), 1)[48:]
    assert read(usual) == (127, SECOND, 123_456, 200, bytes(200), None)
    for sec in (5, 1 << 40):
        assert read(v2.encode(m.DataReport(m.Packet(b"a", 1, sec, 3)), 1)[48:]) is None
    fields = [b"\x08" + usual[4:9], b"\x10\x05", b"\x18\x7f", b"\x20\x03", b"\x2a\x03abc"]
    packet = b"".join(fields)
    assert read(b"\x1a" + bytes((len(packet),)) + packet) == (127, SECOND, 5, 3, b"abc", None)
    for at in range(5):
        swapped = fields[:at] + fields[at + 1 :] + [fields[at]]
        packet = b"".join(swapped)
        expected = None if at < 4 else (127, SECOND, 5, 3, b"abc", None)
        assert read(b"\x1a" + bytes((len(packet),)) + packet) == expected
    for tail in (b"\x38\x01", b"\x30\x05\x38\x01", b"\x30"):
        packet = b"".join(fields) + tail
        assert read(b"\x1a" + bytes((len(packet),)) + packet) is None
    for broken in (b"", b"\x1a", b"\x22\x00", usual[:-1], usual + b"\x08\x01"):
        assert read(broken) is None
    huge = b"".join([fields[0], fields[1], b"\x18" + b"\xff" * 9 + b"\x01", fields[3], fields[4]])
    assert read(b"\x1a" + bytes((len(huge),)) + huge) is None


def test_a_number_of_protobuf_ends():
    assert pbpackets.varint(b"\x96\x01", 0) == (150, 2)
    assert pbpackets.varint(b"\xff" * 9 + b"\x01", 0) == ((1 << 64) - 1, 10)
    with pytest.raises(ValueError, match="ten bytes"):
        pbpackets.varint(b"\xff" * 11, 0)
    with pytest.raises(IndexError):
        pbpackets.varint(b"\xff", 0)
