"""The frames format: what is written is read again, wherever the stream is cut; nonsense is refused."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helperd import relay
from helperd.errors import RemoteProtocolError, UnavailableError
from helperd.relay import Kind, Record, RecordReader

u32 = st.integers(0, 0xFFFFFFFF)
records = st.lists(
    st.builds(
        Record,
        st.integers(0, 9).filter(lambda kind: kind != Kind.REFUSED),
        u32,
        u32,
        st.integers(0, 2**64 - 1),
        u32,
        u32,
        u32,
        st.binary(max_size=90),
    ),
    max_size=8,
)


def written(record: Record) -> bytes:
    return relay.HEADER.pack(record.kind, len(record.body), *record[1:-1]) + record.body


@given(records, st.lists(st.integers(0, 1200), max_size=10))
def test_any_cut_gives_the_same_records(found, cuts):
    stream = relay.preface() + b"".join(map(written, found))
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    reader = RecordReader()
    got = [record for start, stop in itertools.pairwise(places) for record in reader.feed(stream[start:stop])]
    assert got == found
    assert reader.pending == 0
    assert reader.at == len(stream)


@given(st.binary(min_size=16, max_size=200))
def test_bytes_either_parse_or_are_refused(data):
    for stream in (data, relay.preface() + data):
        with contextlib.suppress(RemoteProtocolError, UnavailableError):
            RecordReader().feed(stream)


def test_a_longer_header_of_a_later_version_is_skipped():
    stream = relay.PREFACE.pack(relay.MAGIC, 1, 48)
    stream += relay.HEADER.pack(Kind.PACKETS, 3, 1, 1, 0, 1, 1, 0) + bytes(8) + b"abc"
    assert [record.body for record in RecordReader().feed(stream * 1)] == [b"abc"]


@pytest.mark.parametrize(
    "stream",
    [
        relay.PREFACE.pack(b"GARBAGE!", 1, 40),
        relay.PREFACE.pack(relay.MAGIC, 2, 40),
        relay.PREFACE.pack(relay.MAGIC, 1, 39),
        relay.preface() + relay.HEADER.pack(2, 1 << 31, 0, 0, 0, 0, 0, 0),
    ],
)
def test_what_cannot_be_is_refused_at_once(stream):
    with pytest.raises(RemoteProtocolError) as caught:
        RecordReader().feed(stream)
    assert caught.value.problem == "bad-stream"


def test_a_line_end_in_a_value_makes_no_second_line():
    reader = RecordReader()
    reader.feed(relay.preface())
    [record] = reader.feed(relay.source_record(1, 2, {"name": "a", "hardware": "x\nname=b\r\ny", "uuid": ""}))
    assert record.fields() == {"name": "a", "hardware": "x name=b y"}


def test_losses_stand_in_the_header_of_the_run_that_follows():
    reader = RecordReader()
    header = relay.with_loss(relay.run_header(Kind.PACKETS, 2, 1, 1, 7, 1, 1), 1 << 40)
    [run, loss] = reader.feed(relay.preface() + header + b"xy" + relay.loss_record(1, 5))
    assert (run.lost, run.first, run.body) == (1 << 40, 7, b"xy")
    assert (loss.kind, loss.lost, loss.packets) == (Kind.LOSS, 5, 0)
