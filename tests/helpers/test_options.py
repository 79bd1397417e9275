"""Options of packets in other people's pcapng: what is kept, what is turned, what is left out and counted."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helperd import pcapng
from helperd.helpers._capturefile import CaptureParser
from helperd.helpers._options import MAX_OPTIONS, packet_options
from helperd.wire import bulk
from tests.helpers.peer import walk
from tests.helpers.test_capturefile import block, interface, section

LITTLE, BIG = "<", ">"


def option(order, code, value, length=None):
    size = len(value) if length is None else length
    return struct.pack(order + "HH", code, size) + value + bytes(-len(value) % 4)


def kept(order, raw):
    """The options that are taken over, and how many are not."""
    found, left_out = packet_options(b"packet.." + raw, 8, order)
    return list(walk(found + bytes(4))) if found else [], left_out


SAME = [(1, b"a comment"), (1, b""), (3, b"\2\1\2\3\4"), (7, b"\0words"), (7, b"\x07")]
TURNED = [
    (2, "I", (0x12345678,)),
    (4, "Q", (0x1122334455667788,)),
    (5, "Q", (7,)),
    (6, "I", (3,)),
    (8, "II", (1234, 5678)),
    (7, "BQ", (1, 0xAABBCCDD)),
    (7, "BQ", (2, 1)),
]
CUSTOM = [2988, 2989, 19372, 19373]


@pytest.mark.parametrize("order", [LITTLE, BIG])
def test_every_kind_of_option_is_kept_and_numbers_keep_their_values(order):
    raw = b"".join(option(order, code, value) for code, value in SAME)
    raw += b"".join(option(order, code, struct.pack(order + form, *value)) for code, form, value in TURNED)
    raw += b"".join(option(order, code, struct.pack(order + "I", 32473) + b"data") for code in CUSTOM)
    expected = [
        *SAME,
        *((code, struct.pack("<" + form, *value)) for code, form, value in TURNED),
        *((code, struct.pack("<I", 32473) + b"data") for code in CUSTOM),
    ]
    assert kept(order, raw) == (expected, 0)
    assert kept(order, raw + option(order, 0, b"") + b"behind the end") == (expected, 0)


@pytest.mark.parametrize("code", [9, 600, 0x7FFF, 0x8000, 0xFFFF])
def test_an_option_nobody_knows_is_kept_where_its_bytes_mean_the_same(code):
    assert kept(LITTLE, option(LITTLE, code, b"\1\2\3")) == ([(code, b"\1\2\3")], 0)
    assert kept(BIG, option(BIG, code, b"\1\2\3")) == ([], 1)


@pytest.mark.parametrize("order", [LITTLE, BIG])
@pytest.mark.parametrize(
    ("code", "value"),
    [
        (2, b"abc"),
        (3, b""),
        (4, b"abcd"),
        (5, b""),
        (6, b"abcdefgh"),
        (7, b""),
        (7, b"\1abcd"),
        (7, b"\2"),
        (8, b"abcd"),
        (2988, b"abc"),
        (19373, b""),
    ],
)
def test_an_option_of_a_wrong_length_is_left_out_alone(order, code, value):
    raw = option(order, 1, b"before") + option(order, code, value) + option(order, 1, b"behind")
    assert kept(order, raw) == ([(1, b"before"), (1, b"behind")], 1)


@pytest.mark.parametrize("order", [LITTLE, BIG])
@pytest.mark.parametrize("length", [5, 8, 100, 0xFFFF])
def test_an_option_that_runs_over_its_block_ends_the_options(order, length):
    raw = option(order, 1, b"before") + option(order, 1, b"over", length)
    assert kept(order, raw) == ([(1, b"before")], 1)


def test_options_are_bounded():
    raw = option(LITTLE, 1, bytes(60_000)) * 20
    found, left_out = packet_options(raw, 0, LITTLE)
    assert len(found) <= MAX_OPTIONS
    assert len(list(walk(found + bytes(4)))) + left_out == 20
    assert left_out > 0


@given(st.binary(max_size=80).map(lambda raw: raw + bytes(-len(raw) % 4)), st.sampled_from([LITTLE, BIG]))
def test_whatever_stands_there_what_is_kept_passes_the_check(raw, order):
    found, _ = packet_options(raw, 0, order)
    made = pcapng.packet_block(7, 5, b"abc", 3, options=found)
    frame = bulk.encode([made], 1)
    assert bulk.check(frame, bulk.HEADER, len(frame), {7}, 0) == 1


def packet(order, options):
    return block(order, 6, struct.pack(order + "5I", 0, 0, 9, 3, 3) + b"abc\0" + options)


@pytest.mark.parametrize("order", [LITTLE, BIG])
@pytest.mark.parametrize("step", [1, 1 << 16])
def test_blocks_that_are_no_packets_are_counted_by_kind_and_options_stay(order, step):
    flags = option(order, 2, struct.pack(order + "I", 2))
    data = section(order) + interface(order, 1)
    data += packet(order, flags) + packet(order, b"") + packet(order, option(order, 2, b"a"))
    for kind in (4, 5, 9, 10, 0xBAD, 0x40000BAD, 0x40000BAD, 0x777, 0x80000001):
        data += block(order, kind, b"\0" * 8)
    data += block(order, 0x777, bytes(17 << 20))  # passed over, not held
    data += block(order, 2, struct.pack(order + "2H4I", 0, 12, 0, 9, 3, 3) + b"abc\0" + flags)
    data += block(order, 2, struct.pack(order + "2H4I", 0, 0xFFFF, 0, 9, 3, 3) + b"abc\0")
    parser = CaptureParser("x")
    found = [
        options
        for at in range(0, len(data), max(step, len(data) // 5000))
        for *_, options in parser.feed(data[at : at + max(step, len(data) // 5000)])
    ]
    parser.finish()
    ours = option(LITTLE, 2, b"\2\0\0\0")
    dropped = option(LITTLE, 4, (12).to_bytes(8, "little"))
    assert found == [ours, b"", b"", dropped + ours, b""]
    assert parser.left_out == {
        "name resolution blocks": 1,
        "interface statistics blocks": 1,
        "systemd journal blocks": 1,
        "decryption secrets blocks": 1,
        "custom blocks": 3,
        "blocks of unknown type": 3,
        "damaged options of packets": 1,
    }
