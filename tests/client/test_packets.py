"""The client's pcapng reader: any cut gives the same packets, nonsense is refused."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helperd import pcapng
from helperd.client import PacketReader, Record, split_frames
from helperd.errors import RemoteProtocolError
from helperd.visible import visible

HEAD = pcapng.section_header(application="x") + pcapng.interface_block(
    127, name="a", description="d", hardware="h"
)
packets = st.lists(
    st.tuples(
        st.integers(0, 2**64 - 1), st.binary(max_size=70), st.integers(0, 2**32 - 1), st.text(max_size=9)
    ),
    max_size=8,
)


@given(packets, st.lists(st.integers(0, 1500), max_size=8))
def test_any_cut_gives_the_same_packets(found, cuts):
    stream = HEAD + b"".join(
        pcapng.packet_block(0, *one[:3], options=pcapng.comments(one[3])) for one in found
    )
    stream += pcapng.statistics_block(0, 1, received=9, dropped=4, delivered=5)
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    reader = PacketReader()
    got = [packet for start, stop in itertools.pairwise(places) for packet in reader.feed(stream[start:stop])]
    seen = [(*one[:3], visible(one[3])) for one in found]  # what is written for people is safe on a terminal
    assert [(one.timestamp_ns, one.content, one.original, one.comment) for one in got] == seen
    assert {one.interface for one in got} <= {("a", 127, "d", "h")}
    assert reader.lost == {0: 4}
    assert (reader.pending, reader.at) == (0, len(stream))


def test_all_options_of_a_packet_are_there_and_comments_in_their_order():
    own = pcapng.comments("one") + pcapng.flags(2) + pcapng.comments("two")
    (packet,) = PacketReader().feed(HEAD + pcapng.packet_block(0, 1, b"abc", 3, options=own))
    assert packet.comment == "one\ntwo"
    assert packet.options == ((1, b"one"), (2, bytes([2, 0, 0, 0])), (1, b"two"))


@given(st.binary(max_size=200))
def test_bytes_either_parse_or_are_refused(data):
    for stream in (data, HEAD + data):
        with contextlib.suppress(RemoteProtocolError):
            PacketReader().feed(stream)


@pytest.mark.parametrize(
    "stream",
    [
        b"HTTP/1.1 200 OK\r\n",
        HEAD + pcapng.packet_block(7, 1, b"x", 1),
        HEAD + pcapng.packet_block(0, 1, b"x" * 8, 8)[:-4] + b"\0\0\0\1",
        HEAD + b"\6\0\0\0\xff\xff\xff\xfc" + bytes(8),
    ],
)
def test_nonsense_is_refused_at_once(stream):
    with pytest.raises(RemoteProtocolError) as caught:
        PacketReader().feed(stream)
    assert caught.value.problem == "bad-pcapng"


def test_a_run_that_ends_inside_a_frame_is_refused():
    with pytest.raises(RemoteProtocolError):
        list(split_frames(Record(2, 0, 1, 0, 1, 1, 0, bytes(8) + b"\0\0\0\x09" + bytes(10)), "v3"))
