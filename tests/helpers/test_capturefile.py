"""helperd.helpers._capturefile: every kind of capture file, whole, in pieces, cut and damaged."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helperd import pcapng
from helperd.errors import HelperdError
from helperd.helpers._capturefile import KEPT, MAX_BLOCK, MAX_PACKET, PCAP_MAGICS, CaptureParser
from helperd.pcapng import LAST_STAMP

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
        found += [packet[:4] for packet in parser.feed(data[at : at + step])]
    parser.finish()
    return parser, found


def refused(data: bytes, step: int = 1 << 16):
    """The packets before the fault, and the fault's text."""
    parser = CaptureParser("x.cap")
    found = []

    def run() -> None:
        for at in range(0, len(data), step):
            found.extend(packet[:4] for packet in parser.feed(data[at : at + step]))
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
    size = MAX_BLOCK + 4096
    giant = struct.pack("<2I", 4, size) + bytes(size - 12) + struct.pack("<I", size)
    data = section("<") + giant + interface("<", 1) + enhanced("<", 0, 1, b"end", 3)
    parser = CaptureParser("x.cap")
    found = []
    for at in range(0, len(data), 1 << 20):
        found += parser.feed(data[at : at + (1 << 20)])
        assert len(parser._rest) <= 1 << 20
    parser.finish()
    assert found == [(1, 1000, b"end", 3, b"")]


GOOD = (1, 1_000_000, b"good", 4)


@pytest.mark.parametrize("step", [1, 7, 1 << 16])
@pytest.mark.parametrize(
    ("odd", "found", "counted"),
    [
        (
            interface("<", 1, tsresol=0) + enhanced("<", 1, 1 << 63, b"x", 1),
            (1, LAST_STAMP, b"x", 1),
            "bad-stamp",
        ),
        (interface("<", 1, tsoffset=-1) + enhanced("<", 1, 5, b"x", 1), (1, 0, b"x", 1), "bad-stamp"),
        (
            interface("<", 1, tsoffset=1 << 62) + enhanced("<", 1, 5, b"x", 1),
            (1, LAST_STAMP, b"x", 1),
            "bad-stamp",
        ),
        (enhanced("<", 0, (1 << 64) // 1000 + 1, b"x", 1), (1, LAST_STAMP, b"x", 1), "bad-stamp"),
        (enhanced("<", 0, (1 << 64) // 1000, b"x", 1), (1, (1 << 64) // 1000 * 1000, b"x", 1), ""),
        (enhanced("<", 9, 5, b"x", 1), None, "bad-record"),
        (block("<", 2, struct.pack("<2H4I", 9, 0, 0, 5, 0, 0)), None, "bad-record"),
        (block("<", 6, struct.pack("<5I", 0, 0, 0, 50, 50)), None, "bad-record"),
        (block("<", 6, bytes(8)), None, "bad-record"),
        (block("<", 3, b""), None, "bad-record"),
        (block("<", 1, b"\1\0") + enhanced("<", 1, 5, b"x", 1), None, "bad-record"),
        (interface("<", 9, snaplen=0xFFFFFFFF) + enhanced("<", 1, 5, b"x", 1), (9, 5000, b"x", 1), ""),
        (enhanced("<", 0, 5, b"abc", 1), (1, 5000, b"abc", 1), ""),
        (struct.pack("<2I5I4sI", 6, 33, 0, 0, 5, 1, 1, b"x", 33), (1, 5000, b"x", 1), ""),
    ],
)
def test_what_one_record_says_that_cannot_be_is_told_of_that_record_alone(odd, found, counted, step):
    good = enhanced("<", 0, 1000, b"good", 4)
    parser, packets = parse(section("<") + interface("<", 1) + good + odd + good, step)
    assert packets == [GOOD, *([found] if found else []), GOOD]
    assert dict(parser.odd) == ({counted: 1} if counted else {})


@pytest.mark.parametrize("step", [1, 1 << 16])
@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ((0xFFFFFFFF, 999_999, 4, 4), (1, 4_294_967_295_999_999_000, b"same", 4)),
        ((1, 1_500_000, 4, 4), (1, 2_500_000_000, b"same", 4)),
        ((0xFFFFFFFF, 0xFFFFFFFF, 4, 4), (1, 4_294_967_295_000_000_000 + 4_294_967_295_000, b"same", 4)),
        ((1, 0, 4, 2), (1, 10**9, b"same", 2)),
        ((1, 0, 4, 0xFFFFFFFF), (1, 10**9, b"same", 0xFFFFFFFF)),
    ],
)
def test_pcap_takes_whatever_a_record_can_say(fields, found, step):
    good = (10**9, b"good", 4)
    whole = pcap(b"\xd4\xc3\xb2\xa1", [good]) + struct.pack("<4I", *fields) + b"same"
    parser, packets = parse(whole + pcap(b"\xd4\xc3\xb2\xa1", [good])[24:], step)
    assert packets == [(1, *good), found, (1, *good)]
    assert not parser.odd


@pytest.mark.parametrize("snaplen", [0, 10, 128 << 20, (128 << 20) + 1, 0x7FFFFFFF, 0xFFFFFFFF])
@pytest.mark.parametrize("version", [(2, 4), (2, 9), (3, 0), (543, 1)])
def test_what_nothing_depends_on_in_a_header_is_not_judged(snaplen, version):
    packet = (10**9, b"good", 4)
    assert parse(pcap(b"\xd4\xc3\xb2\xa1", [packet], snaplen=snaplen, version=version))[1] == [(1, *packet)]


@pytest.mark.parametrize(("kernels", "linktype"), [(6, 1), (9, 6), (15, 10), (24, 0)])
def test_aix_writes_nanoseconds_and_its_kernels_numbers(kernels, linktype):
    data = pcap(b"\xa1\xb2\xc3\xd4", [(7000, b"abc", 3)], linktype=kernels, version=(2, 2))
    assert parse(data)[1] == [(linktype, 7, b"abc", 3)]


@pytest.mark.parametrize("size", [KEPT, KEPT + 1, MAX_BLOCK + 12])
@pytest.mark.parametrize("step", [1 << 20, 1 << 26])
def test_of_a_giant_packet_the_beginning_is_kept_and_the_next_is_found(size, step):
    giant = b"\1" * size
    whole = pcap(b"\xd4\xc3\xb2\xa1", [(10**9, giant, size), (10**9, b"good", 4)], linktype=249)
    assert parse(whole, step)[1] == [(249, 10**9, giant[:KEPT], size), (249, 10**9, b"good", 4)]
    data = section("<") + interface("<", 1) + enhanced("<", 0, 5, giant, size) + enhanced("<", 0, 5, b"x", 1)
    first, second = parse(data, step)[1]
    assert (first[1], first[3], second) == (5000, size, (1, 5000, b"x", 1))
    assert len(first[2]) >= min(size, KEPT - 100)
    assert giant.startswith(first[2])


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
        (pcap(b"\xd4\xc3\xb2\xa1", [], version=(1, 0)), "version 1.0"),
        (section("<", (2, 0)), "pcapng of version 2.0"),
        (section("<")[:8] + b"abcd" + section("<")[12:], "no byte order"),
        (section("<") + struct.pack("<3I", 6, 8, 8), "claims a length of 8"),
        (section("<") + struct.pack("<4I", 6, 16, 0, 12), "two lengths"),
        (section("<") + struct.pack("<3I", 6, MAX_PACKET + 4, 0), f"claims a length of {MAX_PACKET + 4}"),
        (section("<") + struct.pack("<3I", 1, MAX_BLOCK + 4, 0), f"claims a length of {MAX_BLOCK + 4}"),
        (section("<") + struct.pack("<3I", 4, MAX_PACKET + 4, 0), "is cut"),
        (b"\x0a\x0d\x0d\x0a" + struct.pack("<3I", 16, 0x1A2B3C4D, 16), "header is too short"),
        (b"snoop\0\0\0" + bytes(8), "is a capture of snoop"),
        (b"BZh91AY", "is compressed with bzip2; unpack it: bzip2 -dc OLD > OLD.unpacked"),
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
    found, text = refused(good + struct.pack("<4I", 1, 1, MAX_BLOCK + 1, 9) + bytes(100))
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
