"""A reader that comes late gets what there is: numbers of its own, and nothing of what has gone; memory is bounded."""

from __future__ import annotations

import gc
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest

from helperd import pcapng
from helperd.client.packets import PacketReader
from helperd.routing import GONE_KEPT, Batch, Outbox, RouteTable, Segment
from helperd.sinks.forms import Frames, Pcapng, Wants
from helperd.sinks.written import Section, Written
from tests.rig import daemon
from tests.sinks.test_file_sink import SOURCES, packets, sink, until

HEADER = pcapng.section_header(application="test")


def blocks(numbers: list[int]) -> bytes:
    """A packet of each interface in turn, which has the interface's number as its content."""
    return b"".join(pcapng.packet_block(n, 1, n.to_bytes(4, "big"), 4) for n in numbers)


def batch(*numbers: int) -> Batch:
    data = blocks(list(numbers))
    return Batch((data,), len(data), len(numbers), len(data), tuple(Counter(numbers).items()))


def read(parts: list[bytes | memoryview]) -> tuple[PacketReader, dict[str, list[int]]]:
    """What a reader makes of a stream: packets by the interface's name."""
    reader = PacketReader()
    found: dict[str, list[int]] = {}
    for packet in reader.feed(b"".join(parts)):
        found.setdefault(packet.interface.name, []).append(int.from_bytes(packet.content, "big"))
    assert not reader.pending
    return reader, found


def node(sources: int, *, removed: range) -> RouteTable:
    """A table whose sources have an interface each, some of them removed again."""
    table = RouteTable()
    for number in range(sources):
        table.route(f"s{number}")
        assert table.interfaces.number(f"s{number}", 1) == number
    for number in removed:
        table.drop(f"s{number}")
    return table


@pytest.mark.parametrize("removed", [range(1), range(3, 5), range(7), range(8, 9)])
def test_a_stream_begins_with_what_there_is(removed: range) -> None:
    table = node(10, removed=removed)
    there = [number for number in range(10) if number not in removed]
    stream = Pcapng(HEADER, table, None)
    sent = [
        *stream.preface(),
        *stream.parts([batch(*there)], Counter({(9, "consumer-slow"): 3})),
        *stream.ending(Counter()),
    ]
    reader, found = read(sent)
    assert [interface.name for interface in reader.interfaces] == [f"s{number}" for number in there]
    assert found == {f"s{number}": [number] for number in there}
    assert sum(reader.lost.values()) == 3


def test_blocks_pass_untouched_where_nothing_is_gone() -> None:
    table = node(4, removed=range(0))
    stream = Pcapng(HEADER, table, Wants(frozenset({"s1", "s3"})))
    whole = batch(1, 3)
    assert stream.parts([whole], Counter())[-1] is whole.parts[0]
    assert sum(1 for _ in pcapng.split(b"".join(stream.preface()))) == 1


def test_numbers_are_fixed_while_a_stream_is_open() -> None:
    table = node(3, removed=range(0))
    stream = Pcapng(HEADER, table, None)
    sent = [*stream.preface(), *stream.parts([batch(0, 1, 2)], Counter())]
    table.drop("s0")
    table.route("s3")
    assert table.interfaces.number("s3", 127) == 3
    sent += stream.parts([batch(0, 3)], Counter())  # of one that has just gone, too
    reader, found = read(sent)
    assert found == {"s0": [0, 0], "s1": [1], "s2": [2], "s3": [3]}
    assert len(reader.interfaces) == 4
    table.route("s0")
    assert table.interfaces.number("s0", 1) == 0  # it is back, and is who it was
    _, found = read(
        [*(late := Pcapng(HEADER, table, None)).preface(), *late.parts([batch(0, 1, 2, 3)], Counter())]
    )
    assert set(found) == {"s0", "s1", "s2", "s3"}


@pytest.mark.parametrize("single", [False, True])
def test_a_stream_of_one_source_behind_those_that_are_gone(single: bool) -> None:
    table = node(20, removed=range(18))
    outbox = Outbox()
    outbox.carried = 19
    wants = Wants(frozenset({"s19"}), single=outbox if single else None)
    stream = Pcapng(HEADER, table, wants)
    reader, found = read([*stream.preface(), *stream.parts([batch(19, 19)], Counter())])
    assert [interface.name for interface in reader.interfaces] == ["s19"]
    assert found == {"s19": [19, 19]}


def test_packets_that_are_queued_outlive_their_source_however_many_go_after_it() -> None:
    table = RouteTable()
    outbox = Outbox()
    table.connect(outbox, frozenset(), single=False)
    route = table.route("slow")
    assert table.interfaces.number("slow", 1) == 0
    data = blocks([0])
    route.dispatch([Segment(0, (data,), len(data), 1)], len(data))
    table.drop("slow")
    for number in range(1, 2 * GONE_KEPT):
        table.route(f"s{number}")
        table.interfaces.number(f"s{number}", 1)
        table.drop(f"s{number}")
    stream = Pcapng(HEADER, table, None)
    taken = outbox.take(1 << 20)
    _, found = read([*stream.preface(), *stream.parts(taken, Counter())])
    assert found == {"slow": [0]}
    outbox.sent(taken)
    table.route("last")
    table.interfaces.number("last", 1)
    table.drop("last")
    assert 0 not in table.interfaces
    assert len(table.interfaces) == GONE_KEPT


def test_a_year_of_containers_costs_no_memory_and_a_late_reader_nothing() -> None:
    """Sources come and go; one stream of each form stays open, and is told of every one."""
    table = RouteTable()
    outbox = Outbox()
    table.connect(outbox, frozenset(), single=False)
    stream, frames = Pcapng(HEADER, table, None), Frames(table)
    sizes = []
    tracemalloc.start()
    try:
        for number in range(4 * GONE_KEPT):
            route = table.route(f"veth{number}")
            assert table.interfaces.number(f"veth{number}", 1) == number
            stream.parts([batch(number)], Counter({(number, "consumer-slow"): 1}))
            about = batch(route.number)._replace(counts=((route.number, 1),), about=route.about)
            frames.parts([about], Counter())
            table.drop(f"veth{number}")
            if number % GONE_KEPT == GONE_KEPT - 1:
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert max(sizes[2:]) - sizes[1] < 200_000, sizes
    late = Pcapng(HEADER, table, None)
    assert b"".join([*late.preface(), *late.parts([], Counter())]) == HEADER


def test_a_file_behind_removed_sources_tells_what_is_left_of_it_when_it_is_cut(tmp_path: Path) -> None:
    table = node(6, removed=range(3))
    file = Written(str(tmp_path / "x.pcapng"), Section(HEADER, table, None))
    file.put([batch(3, 4)], Counter())
    size = file.nbytes
    file.put([batch(5, 5)], Counter())
    with open(file.part, "r+b") as other:
        other.truncate(size)
    file.finish()
    assert dict(file.safe.counts) == {3: 1, 4: 1}
    _, found = read([(tmp_path / "x.pcapng").read_bytes()])
    assert found == {"s3": [3], "s4": [4]}


@pytest.mark.timeout(120)
def test_a_new_file_has_nothing_of_a_source_that_was_removed(rundir: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.pcapng"
    with daemon(rundir, SOURCES + sink(path, 'rotate_size = "40KiB"')) as rig:
        rig.wait_running()
        until(lambda: len(list(tmp_path.glob("*.pcapng"))) >= 1)
        head, _, tail = SOURCES.rpartition("[[source]]")
        first, _, _ = head.rpartition("[[source]]")
        (rundir / "helpers.toml").write_text(
            first + "[[source]]" + tail + sink(path, 'rotate_size = "40KiB"')
        )
        rig.call("Reload")
        there = len(list(tmp_path.glob("*.pcapng")))
        until(lambda: len(list(tmp_path.glob("*.pcapng"))) >= there + 3)
        last = max(tmp_path.glob("*.pcapng")).read_bytes()
        reader = PacketReader()
        assert list(reader.feed(last))
        assert [interface.name for interface in reader.interfaces] == ["radio1"]
        assert set(packets(last)) == {"radio1"}
        assert rig.status()["residue"] == 0
