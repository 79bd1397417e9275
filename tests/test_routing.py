"""Interfaces, outboxes and routes, without a loop and without sockets."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helperd import relay
from helperd.errors import RemoteProtocolError
from helperd.routing import BATCH_COST, PART_COST, Batch, Outbox, RouteTable, Segment, batch_of
from helperd.wire.frames import Kind, Run
from tests.sinks.kit import Feeder


def batch(packets: int = 1, nbytes: int = 100, interface: int = 0, pinned: int | None = None) -> Batch:
    return Batch(
        (b"x" * nbytes,), nbytes, packets, nbytes if pinned is None else pinned, ((interface, packets),)
    )


def segment(interface: int, packets: int, nbytes: int = 40) -> Segment:
    return Segment(interface, (bytes(nbytes),), nbytes, packets)


def run(packets: int, nbytes: int, kind: Kind = Kind.PACKETS) -> Run:
    return Run(kind, bytes(nbytes), 0, nbytes, packets, packets)


def giving(*segments: Segment):
    """A translation with a known result."""
    return lambda _runs, into: into.extend(segments)


def never(_runs, _into) -> None:
    pytest.fail("nobody reads pcapng")


def balanced(outbox: Outbox) -> bool:
    return outbox.offered == outbox.delivered + outbox.lost + outbox.queued + outbox.inflight


class TestOutbox:
    def test_overflow_drops_the_oldest_and_counts_every_packet(self):
        outbox = Outbox(limit=250)
        for number in range(5):
            outbox.put(batch(packets=number + 1))
        assert [one.packets for one in outbox.take(10_000)] == [4, 5]
        assert outbox.lost == 1 + 2 + 3
        assert outbox.lost_by == {"consumer-slow": 6}
        assert outbox.unreported == {(0, "consumer-slow"): 6}
        assert balanced(outbox)

    def test_a_batch_larger_than_the_limit_is_accepted_alone(self):
        outbox = Outbox(limit=10)
        outbox.put(batch(nbytes=1000))
        assert outbox.lost == 0
        assert len(outbox.take(1)) == 1

    def test_the_limit_counts_what_slices_keep_alive(self):
        outbox = Outbox(limit=1000)
        outbox.put(batch(nbytes=10, pinned=900))
        outbox.put(batch(nbytes=10, pinned=900))
        assert outbox.lost == 1

    def test_wait_asks_to_hold_and_tells_when_there_is_room(self):
        rung = []
        outbox = Outbox(limit=150, overflow="wait", on_room=lambda: rung.append(1))
        outbox.put(batch())
        assert not outbox.holding
        outbox.put(batch())
        assert outbox.holding
        assert outbox.lost == 0
        taken = outbox.take(100)
        assert outbox.holding, "what is being sent still counts"
        outbox.sent(taken)
        assert not outbox.holding
        assert rung

    def test_wait_that_gave_up_drops_until_it_was_empty_once(self):
        outbox = Outbox(limit=150, overflow="wait")
        for _ in range(4):
            outbox.put(batch())
        outbox.give_up()
        assert outbox.lost == 3
        assert not outbox.holding
        outbox.sent(outbox.take(1000))
        outbox.put(batch())
        outbox.put(batch())
        assert outbox.holding
        assert balanced(outbox)

    def test_disconnect_gives_everything_up_at_once(self):
        outbox = Outbox(limit=150, overflow="disconnect")
        for _ in range(3):
            outbox.put(batch())
        assert outbox.disconnected
        assert outbox.lost == 3
        assert balanced(outbox)

    def test_disconnect_leaves_what_is_being_sent_to_its_sender(self):
        told = []
        outbox = Outbox(limit=250, overflow="disconnect", on_disconnect=lambda: told.append(1))
        outbox.put(batch(packets=2))
        taken = outbox.take(1)
        for _ in range(4):
            outbox.put(batch(packets=5))
        assert told == [1]
        assert (outbox.inflight, outbox.queued, outbox.lost) == (2, 0, 20)
        assert outbox.unreported == {(0, "disconnected"): 20}
        assert balanced(outbox)
        outbox.sent(taken)
        assert (outbox.delivered, outbox.pinned) == (2, 0)
        outbox.clear("consumer-left")
        assert outbox.lost_by == {"disconnected": 20}
        assert outbox.offered == outbox.delivered + outbox.lost

    def test_giving_up_tells_all_the_sources_that_wait(self):
        rung = []
        outbox = Outbox(limit=150, overflow="wait", on_room=lambda: rung.append(1))
        outbox.put(batch())
        outbox.put(batch())
        outbox.give_up()
        assert rung == [1]

    def test_clear_counts_what_is_queued_and_what_is_in_flight(self):
        outbox = Outbox()
        outbox.put(batch(packets=2))
        outbox.put(batch(packets=3))
        outbox.take(1)
        outbox.clear("consumer-left")
        assert outbox.lost_by == {"consumer-left": 5}
        assert balanced(outbox)

    @given(
        st.sampled_from(["drop-oldest", "wait", "disconnect"]),
        st.lists(
            st.one_of(
                st.tuples(st.just("put"), st.integers(1, 50), st.integers(1, 400)),
                st.tuples(st.just("take"), st.integers(1, 1000), st.just(0)),
                st.tuples(st.just("sent"), st.just(0), st.just(0)),
                st.tuples(st.just("give_up"), st.just(0), st.just(0)),
            ),
            max_size=60,
        ),
    )
    def test_offered_is_always_delivered_plus_lost_plus_queued(self, overflow, steps):
        outbox = Outbox(limit=1000, overflow=overflow)
        taken: list[Batch] = []
        for step, first, second in steps:
            if step == "put":
                outbox.put(batch(packets=first, nbytes=second))
            elif step == "take" and not taken:
                taken = outbox.take(first)
            elif step == "sent":
                outbox.sent(taken)
                taken = []
            elif step == "give_up":
                outbox.give_up()
            assert balanced(outbox)
            assert min(outbox.inflight, outbox.queued, *outbox.lost_by.values(), 0) == 0
            held = outbox.pinned - sum(one.pinned for one in taken)
            assert overflow == "wait" or held <= 1000 or len(outbox._batches) == 1
        outbox.sent(taken)
        assert outbox.pinned == sum(one.pinned for one in outbox._batches)
        outbox.clear("end")
        assert outbox.pinned == 0
        assert outbox.offered == outbox.delivered + outbox.lost


class TestInterfaces:
    def test_numbers_are_given_once_and_kept(self):
        table = RouteTable()
        first = table.interfaces.number("wlan0", 127)
        second = table.interfaces.number("eth0", 1)
        assert (first, second) == (0, 1)
        assert table.interfaces.number("wlan0", 127) == 0
        assert table.interfaces.number("wlan0", 105) == 2
        assert [interface.number for interface in table.interfaces.of("wlan0")] == [0, 2]

    def test_a_late_reader_gets_the_blocks_it_has_not_seen(self):
        table = RouteTable()
        table.interfaces.number("a", 1)
        table.interfaces.number("b", 1)
        assert len(table.interfaces.since(0)) == 2
        assert table.interfaces.since(1) == [table.interfaces[1]]
        assert table.interfaces.since(2) == []


class TestRoute:
    def test_every_wanting_outbox_gets_the_same_buffers(self):
        table = RouteTable()
        route = table.route("a")
        every, other, mine = Outbox(), Outbox(), Outbox()
        table.connect(every, frozenset(), single=False)
        table.connect(other, frozenset({"b"}), single=False)
        table.connect(mine, frozenset({"a"}), single=True)
        route.deliver([run(3, 120)], giving(segment(0, 3)))
        assert every.take(1)[0].parts[0] is mine.take(1)[0].parts[0]
        assert not other
        assert route.ledger.received == route.ledger.routed == 3

    def test_a_source_that_comes_later_is_wanted_by_those_who_want_all(self):
        table = RouteTable()
        every = Outbox()
        table.connect(every, frozenset(), single=False)
        assert table.route("late").wanted
        table.disconnect(every)
        assert not table.route("late").wanted
        assert not table.route("later").wanted

    def test_packets_that_nobody_wants_are_counted(self):
        route = RouteTable().route("a")
        route.deliver([run(7, 700)], never)
        assert route.ledger.losses() == {"no-consumer": 7}

    def test_a_paused_source_counts_what_it_does_not_pass_on(self):
        table = RouteTable()
        route = table.route("a")
        table.connect(Outbox(), frozenset(), single=False)
        route.paused = True
        route.deliver([run(4, 1)], never)
        assert not route.wanted
        assert route.ledger.losses() == {"paused": 4}

    def test_a_single_stream_refuses_a_second_link_type_and_counts_it(self):
        table = RouteTable()
        route = table.route("a")
        mixed, single = Outbox(), Outbox()
        table.connect(mixed, frozenset(), single=False)
        table.connect(single, frozenset({"a"}), single=True)
        route.dispatch([segment(0, 2), segment(1, 5), segment(0, 1)], 300)
        assert mixed.offered == 8
        assert single.queued == 3
        assert single.lost_by == {"link-type": 5}
        assert single.unreported == {(0, "link-type"): 5}, "told under the interface that the stream has"
        assert balanced(single)
        route.dispatch([segment(1, 4)], 100)
        assert single.queued == 3
        assert single.lost == 9

    def test_a_single_stream_carries_the_link_type_that_it_meets_first(self):
        table = RouteTable()
        route = table.route("a")
        early, late = Outbox(), Outbox()
        table.connect(early, frozenset({"a"}), single=True)
        route.dispatch([segment(0, 2)], 300)
        table.connect(late, frozenset({"a"}), single=True)  # the source has become another since
        route.dispatch([segment(1, 3), segment(0, 1)], 300)
        assert (early.carried, early.queued, early.lost_by) == (0, 3, {"link-type": 3})
        assert (late.carried, late.queued, late.lost_by) == (1, 3, {"link-type": 1})

    def test_link_types_that_a_sink_does_not_want_are_not_offered_to_it(self):
        table = RouteTable()
        route = table.route("a")
        table.interfaces.number("a", 1)
        table.interfaces.number("a", 127)
        radio = Outbox()
        table.connect(radio, frozenset(), single=False, linktypes=frozenset({127}))
        route.dispatch([segment(0, 2), segment(1, 5)], 300)
        route.dispatch([segment(0, 2)], 300)
        assert radio.offered == radio.queued == 5
        assert radio.lost == 0

    def test_frames_are_slices_of_the_read_behind_a_header_each(self):
        table = RouteTable()
        table.route("other")
        route = table.route("a")
        first, second = Outbox(), Outbox()
        for outbox in (first, second):
            table.connect(outbox, frozenset(), single=False, form="frames")
        route.describe(3, {"generation": "v3"})
        data = b"0123456789"
        runs = [Run(Kind.PACKETS, data, 0, 4, 2, 2), Run(Kind.BULK, data, 4, 10, 1, 60)]
        route.deliver(runs, never)
        route.deliver(runs, never)
        [one, two] = first.take(1000)
        assert one.parts[1].obj is data
        assert one.parts == second.take(1)[0].parts
        assert one.pinned == max(10, one.nbytes) + BATCH_COST + 4 * PART_COST
        reader = relay.RecordReader()
        records = reader.feed(relay.preface() + one.about + b"".join(one.parts) + b"".join(two.parts))
        assert [record.kind for record in records] == [1, 2, 3, 2, 3]
        assert [record.first for record in records[1:]] == [0, 2, 62, 64]
        assert {record.source for record in records} == {1}
        assert {record.incarnation for record in records} == {3}
        assert records[0].fields() == {"name": "a", "generation": "v3"}
        assert [record.body for record in records[1:3]] == [b"0123", b"456789"]
        assert route.ledger.received == route.ledger.routed == 124

    @pytest.mark.parametrize(
        ("error", "word"),
        [(RemoteProtocolError("bad-payload", "no packet"), "refused"), (ValueError("a bug"), "bug")],
    )
    def test_packets_of_a_refused_read_are_all_in_the_ledger(self, error, word):
        table = RouteTable()
        route = table.route("a")
        outbox = Outbox()
        table.connect(outbox, frozenset(), single=False)

        def half(_runs, into):
            into.append(segment(0, 4))
            raise error

        with pytest.raises(type(error)):
            route.deliver([run(10, 100)], half)
        ledger = route.ledger
        assert outbox.queued == 4
        assert (ledger.received, ledger.routed, ledger.losses()) == (10, 4, {word: 6})

    def test_a_report_without_a_packet_is_no_loss(self):
        table = RouteTable()
        route = table.route("a")
        table.connect(Outbox(), frozenset(), single=False)
        route.deliver([run(10, 100)], giving(segment(0, 7)))
        assert (route.ledger.routed, route.ledger.empty, route.ledger.losses()) == (7, 3, {})
        table.connect(Outbox(), frozenset(), single=False, form="frames")  # a reader of frames gets them too
        route.deliver([run(10, 100)], giving(segment(0, 7)))
        assert (route.ledger.routed, route.ledger.empty, route.ledger.losses()) == (17, 3, {})

    def test_a_waiting_outbox_holds_its_sources(self):
        table = RouteTable()
        route = table.route("a")
        slow = Outbox(limit=10, overflow="wait")
        table.connect(slow, frozenset(), single=False)
        route.dispatch([segment(0, 1)], 40)
        assert route.holding() == [slow]


@pytest.mark.parametrize("form", ["pcapng", "frames"])
@pytest.mark.parametrize("packets", [1, 10])
def test_an_outbox_of_small_reads_costs_no_more_than_it_says(form, packets):
    table = RouteTable()
    outbox = Outbox(limit=1 << 19)
    table.connect(outbox, frozenset(), single=False, form=form)
    feeder = Feeder(table, size=64)
    feeder.feed(packets)
    feeder.feed(packets)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0] - outbox.pinned
    try:
        while outbox.lost < 2000:
            feeder.feed(packets)
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert used < 1.2 * (1 << 19), used


def test_a_read_with_two_interfaces_is_one_batch():
    joined = batch_of([segment(0, 2, 10), segment(1, 3, 20)], 25)
    assert joined.packets == 5
    assert joined.nbytes == 30
    assert joined.pinned == 30 + BATCH_COST + 2 * PART_COST
    assert dict(joined.counts) == {0: 2, 1: 3}


@pytest.mark.parametrize("size", [0, 1, 4096])
def test_take_gives_at_least_one_batch(size):
    outbox = Outbox()
    outbox.put(batch(nbytes=5000))
    outbox.put(batch(nbytes=5000))
    assert len(outbox.take(size)) == 1


def steps(work: Callable[[], object]) -> int:
    """How many instructions of Python a call takes; none of what a dict or a deque does inside."""
    count = 0

    def trace(frame, event, _arg):
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("named", [False, True])
def test_leaving_takes_as_long_among_many_and_with_a_full_queue_as_alone(named):
    """By count: of others, of what is queued, and, for a reader of one source, of the other sources."""
    counted = []
    rehearsed = (0, 0, 1)  # Python 3.13 traces the opcodes of a function from its second call on
    for others, queued, sources in (
        rehearsed,
        (0, 0, 1),
        (1000, 0, 1),
        (10, 1000, 1),
        (10, 10, 500 if named else 1),
    ):
        table = RouteTable()
        for number in range(sources):
            table.route(f"s{number}")
        wanted = frozenset({"s0"}) if named else frozenset()
        for _ in range(others):
            table.connect(Outbox(overflow="wait"), wanted, single=False)
        leaver = Outbox(limit=1 << 30)
        table.connect(leaver, wanted, single=False)
        for _ in range(queued):
            leaver.put(batch())
        taken = leaver.take(1)

        def leave(table: RouteTable = table, leaver: Outbox = leaver) -> None:
            table.disconnect(leaver)
            leaver.clear("consumer-left")

        counted.append(steps(leave) - (10 if taken else 0))  # with something to count
        assert (leaver.lost, leaver.queued, leaver.inflight, leaver.pinned) == (queued, 0, 0, 0)
        assert all(leaver not in route.taps for route in table.routes.values())
    _, *found = counted
    assert max(found) - min(found) < 20, found
    assert min(found) > 20
