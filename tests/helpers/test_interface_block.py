"""Blocks of the ring: whatever lies in one, the pieces gathered are the blocks that pcapng.py would write."""

import ctypes
import mmap
import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helperd import pcapng
from helperd.helpers._packetblock import PER_FRAME, Blocks
from helperd.helpers._packetlink import Framing
from helperd.helpers._packetring import BLOCK
from helperd.wire import bulk

SNAPLEN = 262144
FIRST = 48


class Ring:
    """Memory laid out as the kernel lays it out, one block and the beginning of the next."""

    def __init__(self, packets, *, framing=Framing.PLAIN, hardware=778, protocol=0x0800):
        """``packets``: (sec, nsec, content, original, mac, status, tag, kind)."""
        self.memory = mmap.mmap(-1, 2 * BLOCK)
        self.anchor = ctypes.c_char.from_buffer(self.memory)
        self.address = ctypes.addressof(self.anchor)
        self.framing = framing
        self.count = 0
        at = FIRST
        last = None
        for sec, nsec, content, original, mac, status, tag, kind in packets:
            size = mac + len(content) + 7 & ~7
            if at + size > BLOCK:
                break
            fields = (size, sec, nsec, len(content), original, status, mac, mac + 14, tag, kind, 0)
            struct.pack_into("=6I2H4xI2H", self.memory, at, *fields)
            address = (17, protocol.to_bytes(2, "big"), 3, hardware, 4, 4, b"\1\2\3\4junk")
            struct.pack_into("=H2siHBB8s", self.memory, at + 48, *address)
            self.memory[at + mac : at + mac + len(content)] = content
            # stale bytes, as the last use of the block left them
            self.memory[at + mac + len(content) : at + size] = b"\xee" * (size - mac - len(content))
            last = at
            at += size
            self.count += 1
        struct.pack_into("=I", self.memory, last, 0)
        self.memory[BLOCK : BLOCK + 64] = b"\xaa" * 64


def gathered(ring, interface=5, snaplen=SNAPLEN):
    """Everything the pieces say, as bytes; the index is checked on the way."""
    out = []
    for pieces in Blocks(ring, snaplen).pieces(FIRST, ring.count, interface):
        assert 0 < pieces.packets <= PER_FRAME
        table = pieces.table.tolist()
        assert len(table) // 2 <= 1023
        data = b"".join(map(ctypes.string_at, table[0::2], table[1::2]))
        assert len(data) == pieces.nbytes == sum(length * times for length, times in pieces.runs)
        assert pieces.packets == sum(times for _, times in pieces.runs)
        index = struct.pack("<II", pieces.packets, len(pieces.runs))
        frame = index + b"".join(struct.pack("<II", *run) for run in pieces.runs) + data
        assert bulk.check(frame, 0, len(frame), {interface}, 0) == pieces.packets
        out.append(data)
    assert ring.memory[BLOCK : BLOCK + 64] == b"\xaa" * 64, "the next block of the ring was written to"
    return b"".join(out)


def expected(packets, interface=5):
    return b"".join(
        pcapng.packet_block(interface, sec * 10**9 + nsec, content, original)
        for sec, nsec, content, original, *_ in packets
    )


def alike(count, size, *, mac=84, start=1_700_000_000):
    return [
        (start + n // 700, n % 700 * 1_000_003, bytes([n & 255]) * size, size + n % 3, mac, 1, 0, 0)
        for n in range(count)
    ]


@pytest.mark.parametrize("size", [*range(1, 12), 60, 61, 62, 63, 64, 200, 1514, 9000])
@pytest.mark.parametrize("mac", [84, 82, 96, 98])
@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 50, 1000, 5000])
def test_packets_that_are_alike(size, mac, count):
    packets = alike(count, size, mac=mac)
    ring = Ring(packets)
    assert gathered(ring) == expected(packets[: ring.count])


@pytest.mark.parametrize("size", [60, 61, 62, 63, 64, 65, 66, 67])
def test_a_packet_that_ends_with_its_block_leaves_the_next_block_alone(size):
    room = BLOCK - FIRST
    stride = 84 + size + 7 & ~7
    packets = alike(room // stride - 1, size)
    rest = room - len(packets) * stride - 84
    packets += [(1_700_000_009, 1, b"z" * rest, rest, 84, 1, 0, 0)]
    ring = Ring(packets)
    assert ring.count == len(packets)
    assert gathered(ring) == expected(packets)


def test_a_clock_that_is_set_back_and_forth_within_a_block():
    packets = [(5 + (n == 9), n, bytes(60), 60, 84, 1, 0, 0) for n in range(20)]
    assert gathered(Ring(packets)) == expected(packets)


PACKET = st.builds(
    lambda sec, nsec, size, more, mac, byte: (sec, nsec, bytes([byte]) * size, size + more, mac, 1, 0, 0),
    st.integers(0, 2**32 - 1),
    st.integers(0, 999_999_999),
    st.sampled_from([0, 1, 42, 60, 60, 60, 61, 62, 63, 200, 1514]) | st.integers(0, 3000),
    st.integers(0, 2000),
    st.sampled_from([84, 84, 84, 82, 96, 98]),
    st.integers(0, 255),
)


@given(st.lists(PACKET, min_size=1, max_size=60))
def test_packets_of_any_kind(packets):
    assert gathered(Ring(packets)) == expected(packets)


@given(st.lists(PACKET, min_size=1, max_size=30), st.integers(1, 40))
def test_a_stretch_of_alike_ones_between_others(packets, times):
    packets = packets + [packets[-1]] * times + packets[:1]
    assert gathered(Ring(packets)) == expected(packets)


@given(st.lists(PACKET, min_size=1, max_size=30))
def test_the_way_with_copies_gives_the_same(packets):
    ring = Ring(packets)
    copied = list(Blocks(ring, SNAPLEN).packets(FIRST, ring.count))
    assert copied == [(sec * 10**9 + nsec, content, original) for sec, nsec, content, original, *_ in packets]


@pytest.mark.parametrize("count", [1, 3, 20])
@pytest.mark.parametrize(
    ("status", "kind", "word"), [(1 | 16, 0, b"\x81\0"), (1 | 16 | 64, 0x88A8, b"\x88\xa8")]
)
def test_a_tag_is_put_back(count, status, kind, word):
    bodies = [bytes(range(12)) + bytes([8, n]) + b"body" for n in range(count)]
    packets = [(1, n, body, len(body), 84, status, 0x2005, kind) for n, body in enumerate(bodies)]
    packets.append((1, 99, bytes(20), 20, 84, 1, 0, 0))
    tagged = [
        (1, n, body[:12] + word + b"\x20\x05" + body[12:], len(body) + 4) for n, body in enumerate(bodies)
    ]
    assert gathered(Ring(packets)) == expected([*tagged, packets[-1]])


def test_one_tag_among_packets_that_are_alike_otherwise():
    packets = alike(40, 64)
    packets[17] = (*packets[17][:5], 1 | 16, 7, 0)
    sec, nsec, content, original = packets[17][:4]
    tagged = list(packets)
    tagged[17] = (sec, nsec, content[:12] + b"\x81\0\0\7" + content[12:], original + 4)
    assert gathered(Ring(packets)) == expected(tagged)


def test_the_snap_length_holds_with_a_tag():
    body = bytes(range(100))
    ring = Ring([(1, 1, body, 1000, 84, 1 | 16, 5, 0)])
    wanted = (body[:12] + b"\x81\0\0\5" + body[12:])[:100]
    assert gathered(ring, snaplen=100) == expected([(1, 1, wanted, 1004)])


def test_a_packet_too_short_for_a_tag_stays_as_it_is():
    ring = Ring([(1, 1, b"short", 5, 84, 1 | 16, 5, 0)])
    assert gathered(ring) == expected([(1, 1, b"short", 5)])


SLL = struct.pack(">HHH8s2s", 4, 778, 4, b"\1\2\3\4\0\0\0\0", b"\x08\x00")
SLL2 = struct.pack(">2sHIHBB8s", b"\x08\x00", 0, 3, 778, 4, 4, b"\1\2\3\4\0\0\0\0")


@pytest.mark.parametrize("count", [1, 30])
@pytest.mark.parametrize(("framing", "header"), [(Framing.SLL, SLL), (Framing.SLL2, SLL2)])
def test_a_cooked_header_says_who_sent_it_how(count, framing, header):
    packets = [(1, n, b"payload", 7, 106, 1, 0, 0) for n in range(count)]
    cooked = [(1, n, header + b"payload", framing.header + 7) for n in range(count)]
    assert gathered(Ring(packets, framing=framing)) == expected(cooked)


@pytest.mark.parametrize(("status", "kind", "word"), [(17, 0, b"\x81\0"), (81, 0x88A8, b"\x88\xa8")])
def test_a_tag_stands_behind_a_cooked_header(status, kind, word):
    packets = [(1, n, b"payload", 7, 106, status, 0x2005, kind) for n in range(9)]
    cooked = [(1, n, word + SLL2[2:] + b"\x20\x05\x08\0payload", 31) for n in range(9)]
    assert gathered(Ring(packets, framing=Framing.SLL2)) == expected(cooked)


@pytest.mark.parametrize(
    ("protocol", "ours", "files"),
    [
        (0x0C, (0x80000123, b"\x83\x04\0\0abc"), (0x80000123, b"\x03\0\0\0abc")),
        (0x0D, (0x123, b"\x03\0\0\0abc"), (0x123, b"\x03\x04\0\0abc")),
        (0x0E, (0x456, b"\0\x07\x03\0\x01\0\0\0abc"), (0x456, b"\x80\x07\x03\0\x01\0\0\0abc")),
    ],
)
def test_a_can_frame_has_the_byte_order_and_the_flags_of_its_link_type(protocol, ours, files):
    if protocol == 0x0E and sys.byteorder == "big":
        ours = (ours[0], b"\0\x07\0\x03\0\0\0\x01abc")
    content = struct.pack("=I", ours[0]) + ours[1]
    packets = [(1, n, content, len(content), 82, 1, 0, 0) for n in range(9)]
    packets.append((2, 0, b"short", 5, 82, 1, 0, 0))
    wanted = [(1, n, struct.pack(">I", files[0]) + files[1], len(content)) for n in range(9)]
    ring = Ring(packets, framing=Framing.CAN, hardware=280, protocol=protocol)
    assert gathered(ring) == expected([*wanted, (2, 0, b"short", 5)])


@pytest.mark.parametrize(("ordered", "cut"), [(False, 2), (True, 1)])
@pytest.mark.parametrize("way", ["pieces", "packets"])
def test_what_nobody_asked_to_shorten_is_counted_when_it_is_short(ordered, cut, way):
    sizes = [(60, 60), (100, 500), (90, 500)]  # a snap length of 100: one cut as ordered, one shorter still
    ring = Ring([(1, n, bytes(size), original, 84, 1, 0, 0) for n, (size, original) in enumerate(sizes)])
    blocks = Blocks(ring, 100, ordered=ordered)
    arguments = (FIRST, ring.count, 0) if way == "pieces" else (FIRST, ring.count)
    assert list(getattr(blocks, way)(*arguments))
    assert blocks.cut == cut


def test_more_packets_than_one_frame_takes_become_several():
    packets = alike(1800, 60)
    ring = Ring(packets)
    assert ring.count == 1800
    assert [pieces.packets for pieces in Blocks(ring, SNAPLEN).pieces(FIRST, 1800, 0)] == [1000, 800]
    mixed = [*alike(1700, 60), *alike(1, 61)]
    ring = Ring(mixed)
    assert gathered(ring) == expected(mixed)
