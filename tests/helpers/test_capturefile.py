"""helperd.helpers._capturefile: every kind of capture file, whole, in pieces, cut and damaged."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helperd import pcapng
from helperd.errors import HelperdError
from helperd.helpers._capturefile import MAX_PACKET, PCAP_MAGICS, CaptureParser

SECOND = 1_600_000_000


def pcap(magic: bytes, packets, *, linktype=1, snaplen=65535, version=(2, 4)) -> bytes:
    order, unit, gap = PCAP_MAGICS[magic]
    out = [magic + struct.pack(order + "HHiIII", *version, 0, 0, snaplen, linktype)]
    for stamp, data, original in packets:
        fields = [stamp // 10**9, stamp % 10**9 // unit, len(data), original]
        if version < (2, 3):
            fields[2:] = fields[:1:-1]
        out += (struct.pack(order + "4I", *fields), bytes(gap), data)
    return b"".join(out)


def block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    return struct.pack(order + "2I", kind, len(body) + 12) + body + struct.pack(order + "I", len(body) + 12)


def section(order: str, version=(1, 0)) -> bytes:
    return block(order, pcapng.SECTION_HEADER, struct.pack(order + "IHHq", 0x1A2B3C4D, *version, -1))


def interface(order: str, linktype: int, *, snaplen=0, tsresol=None, tsoffset=None) -> bytes:
    options = b""
    if tsresol is not None:
        options += struct.pack(order + "HHB3x", 9, 1, tsresol)
    if tsoffset is not None:
        options += struct.pack(order + "HHq", 14, 8, tsoffset)
    options += bytes(4)
    return block(order, 1, struct.pack(order + "HHI", linktype, 0, snaplen) + options)


def enhanced(order: str, number: int, units: int, data: bytes, original: int) -> bytes:
    head = struct.pack(order + "5I", number, units >> 32, units & 0xFFFFFFFF, len(data), original)
    return block(order, 6, head + data)


def parse(data: bytes, step: int = 1 << 16):
    parser = CaptureParser("x.cap")
    found = []
    for at in range(0, len(data), step):
        found += parser.feed(data[at : at + step])
    parser.finish()
    return parser, found


def refused(data: bytes, step: int = 1 << 16):
    """The packets before the fault, and the fault's text."""
    parser = CaptureParser("x.cap")
    found = []

    def run() -> None:
        for at in range(0, len(data), step):
            found.extend(parser.feed(data[at : at + step]))
        parser.finish()

    with pytest.raises(HelperdError) as caught:
        run()
    assert caught.value.problem == "bad-capture"
    assert caught.value.text.startswith("x.cap ")
    with pytest.raises(HelperdError):
        parser.finish()
    return found, caught.value.text


@pytest.mark.parametrize("magic", PCAP_MAGICS, ids=lambda magic: magic.hex())
@pytest.mark.parametrize("step", [1, 7, 1 << 16])
def test_every_pcap_magic(magic, step):
    unit = PCAP_MAGICS[magic][1]
    packets = [(SECOND * 10**9 + i * unit, bytes([i]) * (i * 3), 5000 + i) for i in range(20)]
    parser, found = parse(pcap(magic, packets, linktype=105), step)
    assert found == [(105, *packet) for packet in packets]
    assert (parser.format, parser.dlt, parser.packets) == ("pcap", 105, 20)


def test_pcap_keeps_the_link_type_beside_the_length_of_the_fcs():
    parser, _ = parse(pcap(b"\xd4\xc3\xb2\xa1", [], linktype=0x44000001))
    assert parser.dlt == 1


def test_old_pcap_versions_have_their_lengths_the_other_way_round():
    little = bytes.fromhex("d4c3b2a1")
    packets = [(SECOND * 10**9, b"abc", 10)]
    assert parse(pcap(little, packets, version=(2, 2)))[1] == [(1, *packets[0])]
    assert parse(pcap(little, packets, version=(2, 3)))[1] == [(1, *packets[0])]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("step", [1, 13, 1 << 16])
def test_pcapng_of_both_byte_orders_with_all_packet_blocks(order, step):
    old = struct.pack(order + "2H4I", 1, 0, 0, 77, 3, 9) + b"old"
    data = (
        section(order)
        + interface(order, 127)
        + interface(order, 1, snaplen=4, tsresol=9)
        + enhanced(order, 0, 1_000_001, b"beacon", 6)
        + block(order, 0x0BAD, b"somebody's own")
        + enhanced(order, 1, 1_000_001, b"frame", 1500)
        + block(order, 2, old)
        + block(order, 5, bytes(12))
        + block(order, 3, struct.pack(order + "I", 2) + b"ab")
    )
    parser, found = parse(data, step)
    assert parser.format == "pcapng"
    assert parser.dlt == 127
    assert found == [
        (127, 1_000_001_000, b"beacon", 6),
        (1, 1_000_001, b"frame", 1500),
        (1, 77, b"old", 9),
        (127, None, b"ab", 2),
    ]


def test_a_simple_packet_is_as_long_as_the_snap_length_says():
    data = section("<") + interface("<", 1, snaplen=5) + block("<", 3, struct.pack("<I", 99) + b"12345")
    assert parse(data)[1] == [(1, None, b"12345", 99)]


@pytest.mark.parametrize(
    ("options", "units", "stamp"),
    [
        ({}, 5, 5_000),
        ({"tsresol": 9}, 5, 5),
        ({"tsresol": 3}, 5, 5_000_000),
        ({"tsresol": 0}, 5, 5 * 10**9),
        ({"tsresol": 12}, 5_999, 5),
        ({"tsresol": 0x80 | 10}, 1536, 1_500_000_000),
        ({"tsresol": 9, "tsoffset": SECOND}, 5, SECOND * 10**9 + 5),
        ({"tsresol": 9, "tsoffset": -1}, 2 * 10**9, 10**9),
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_stamp_resolution_and_offset(order, options, units, stamp):
    data = section(order) + interface(order, 1, **options) + enhanced(order, 0, units, b"", 0)
    assert parse(data)[1] == [(1, stamp, b"", 0)]


def test_a_second_section_starts_its_interfaces_anew_and_may_turn_the_bytes_round():
    data = (
        section("<")
        + interface("<", 1)
        + enhanced("<", 0, 1, b"one", 3)
        + section(">")
        + interface(">", 127, tsresol=9)
        + enhanced(">", 0, 2, b"two", 3)
    )
    assert parse(data)[1] == [(1, 1000, b"one", 3), (127, 2, b"two", 3)]


def test_a_giant_block_of_no_interest_is_passed_over_without_holding_it():
    size = MAX_PACKET + 4096
    giant = struct.pack("<2I", 4, size) + bytes(size - 12) + struct.pack("<I", size)
    data = section("<") + giant + interface("<", 1) + enhanced("<", 0, 1, b"end", 3)
    parser = CaptureParser("x.cap")
    found = []
    for at in range(0, len(data), 1 << 20):
        found += parser.feed(data[at : at + (1 << 20)])
        assert len(parser._rest) <= 1 << 20
    parser.finish()
    assert found == [(1, 1000, b"end", 3)]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"\xd4", "ends inside its header, after 1 bytes"),
        (b"\x0a\x0d", "ends inside its header"),
        (pcap(b"\xd4\xc3\xb2\xa1", [])[:23], "ends inside its header, after 23 bytes"),
        (section("<")[:11], "is cut"),
        (b"PK", "is not a capture: it starts with 50 4b"),
        (b"GIF89a and more", "is not a capture: it starts with 47 49 46 38"),
        (b"\0" * 100, "is not a capture"),
        (pcap(b"\xd4\xc3\xb2\xa1", [], version=(3, 0)), "version 3.0"),
        (section("<", (2, 0)), "pcapng of version 2.0"),
        (pcap(b"\xd4\xc3\xb2\xa1", [], snaplen=0xFFFFFFFF), "absurd snap length of 4294967295"),
        (section("<") + interface("<", 1, snaplen=0x7FFFFFFF), "absurd snap length"),
        (section("<")[:8] + b"abcd" + section("<")[12:], "no byte order"),
        (section("<") + struct.pack("<3I", 6, 8, 8), "claims a length of 8"),
        (section("<") + struct.pack("<4I", 6, 13, 13, 13), "claims a length of 13"),
        (section("<") + struct.pack("<4I", 6, 16, 0, 12), "two lengths"),
        (section("<") + struct.pack("<3I", 6, MAX_PACKET + 4, 0), f"{MAX_PACKET} at most"),
        (section("<") + struct.pack("<3I", 1, 12, 12), "too short"),
        (section("<") + enhanced("<", 0, 1, b"", 0), "names interface 0, but only 0 exist"),
        (
            section("<") + interface("<", 1) + block("<", 6, struct.pack("<5I", 0, 0, 0, 50, 50)),
            "packet 1 is longer than its block",
        ),
        (section("<") + struct.pack("<3I", 4, MAX_PACKET + 4, 0), "is cut"),
        (
            section("<") + interface("<", 1, tsresol=0) + enhanced("<", 0, (1 << 64) - 1, b"", 0),
            "packet 1 is of second 18446744073709551615",
        ),
        (
            section("<") + interface("<", 1, tsoffset=-1) + enhanced("<", 0, 5, b"", 0),
            "is of second -1 since",
        ),
        (
            pcap(b"\xd4\xc3\xb2\xa1", [])[:24] + struct.pack("<4I", 0xFFFFFFFF, 1_000_000, 0, 0),
            "of second 4294967296",
        ),
    ],
)
@pytest.mark.parametrize("step", [1, 1 << 16])
def test_what_is_not_a_whole_capture_is_refused_clearly(data, words, step):
    found, text = refused(data, step)
    assert found == []
    assert words in text


@pytest.mark.parametrize("step", [1, 5, 1 << 16])
def test_whole_packets_before_a_cut_are_delivered(step):
    packets = [(SECOND * 10**9 + i * 1000, bytes([i]) * 50, 50) for i in range(10)]
    whole = pcap(b"\xd4\xc3\xb2\xa1", packets)
    found, text = refused(whole[:-1], step)
    assert found == [(1, *packet) for packet in packets[:9]]
    assert "9 whole packets came before" in text
    assert "at least 1 bytes are missing" in text


def test_whole_packets_before_damage_are_delivered():
    good = pcap(b"\xd4\xc3\xb2\xa1", [(10**9, b"good", 4)])
    found, text = refused(good + struct.pack("<4I", 1, 1, MAX_PACKET + 1, 9) + bytes(100))
    assert found == [(1, 10**9, b"good", 4)]
    assert "record at byte 44 claims" in text


@given(st.binary(max_size=120), st.sampled_from(["", "<", ">", *PCAP_MAGICS]), st.integers(1, 50))
def test_any_bytes_parse_or_are_refused(data, start, step):
    prefix = {"": b"", "<": section("<") + interface("<", 1), ">": section(">") + interface(">", 1)}
    data = (prefix[start] if isinstance(start, str) else pcap(start, [])) + data
    parser = CaptureParser("x.cap")
    try:
        for at in range(0, len(data), step):
            parser.feed(data[at : at + step])
        parser.finish()
    except HelperdError as error:
        problem = error.problem
    else:
        problem = "bad-capture"
    assert problem == "bad-capture"


@given(
    st.lists(st.tuples(st.integers(0, 2**60), st.binary(max_size=99), st.integers(0, 2**32 - 1))), st.data()
)
def test_cutting_the_stream_anywhere_changes_nothing(packets, draw):
    data = pcapng.section_header() + pcapng.interface_block(1)
    data += b"".join(pcapng.packet_block(0, *packet) for packet in packets)
    step = draw.draw(st.integers(1, len(data)))
    assert parse(data, step)[1] == [(1, *packet) for packet in packets]
