"""The pump between a helper's descriptors and its wire session, with real pipes and a helper that is the test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
import trio.testing

from helperd.channel import CHATTY_READ, FOREIGN_READ, Channel
from helperd.errors import RemoteProtocolError
from helperd.wire import v3
from helperd.wire.frames import Run
from helperd.wire.messages import OpenReport, OpenRequest, Ping, Pong, Severity, Text
from helperd.wire.session import Role, Session

SECOND = 1_700_000_000


class Helper:
    """The other end of a channel.

    Attributes:
        came: what the channel handed on, in its order: numbers of packets in a read, or messages.
    """

    def __init__(self, read_size: int) -> None:
        self.inside, ours = os.pipe()
        theirs, self.outside = os.pipe()
        self.came: list = []
        self.channel = Channel(
            ours,
            theirs,
            Session(Role.SUPERVISOR, generation=v3),
            read_size=read_size,
            deliver=self._deliver,
            on_message=self.came.append,
        )

    def _deliver(self, runs: list[Run], _size: int) -> None:
        self.came.append(sum(run.packets for run in runs))

    def write(self, *frames: bytes) -> None:
        os.write(self.outside, b"".join(frames))

    def hang_up(self) -> None:
        os.close(self.outside)
        self.outside = -1

    async def open(self) -> None:
        """Come to the phase in which packets may come."""
        self.channel._write(self.channel.session.greeting())
        self.write(v3.encode(Pong(1), 1))
        await self.channel.expect(Pong)
        self.channel.send(OpenRequest("x"))

    def report(self) -> bytes:
        return v3.encode(OpenReport(self.channel.session.last_seqno, dlt=1), 2)


def packet(number: int, size: int = 100) -> bytes:
    return v3.encode_packet(bytes(size), 1, SECOND, 100_000, size, number)


@contextmanager
def helper(read_size: int = FOREIGN_READ) -> Iterator[Helper]:
    made = Helper(read_size)
    try:
        yield made
    finally:
        made.channel.close()
        os.close(made.inside)
        if made.outside >= 0:
            made.hang_up()


async def test_a_report_is_heard_before_the_packets_of_the_same_read():
    with helper() as one:
        await one.open()
        one.came.clear()
        one.write(one.report(), packet(1), packet(2), v3.encode(Ping(), 9), packet(3))
        await one.channel.expect(OpenReport)
        assert isinstance(one.came[0], OpenReport)
        assert one.came[1:] == [3]
        assert os.read(one.inside, 4096).endswith(v3.encode(Pong(9), one.channel.session.last_seqno))


async def test_one_read_per_turn_however_much_there_is():
    with helper(4096) as flooding, helper(4096) as quiet:
        for one in (flooding, quiet):
            await one.open()
            one.write(one.report())
            await one.channel.expect(OpenReport)
            one.came.clear()
        order: list[str] = []
        for name, one in (("f", flooding), ("q", quiet)):
            one.channel._deliver = lambda *_, name=name: order.append(name)
        flooding.write(*(packet(number) for number in range(400)))

        async def pump(one: Helper) -> None:
            await one.channel.pump(lambda: False, trio.lowlevel.checkpoint)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump, flooding)
            nursery.start_soon(pump, quiet)
            for number in range(5):
                quiet.write(packet(number))
                before = order.count("f")
                while order.count("q") == number:
                    await trio.lowlevel.checkpoint()
                assert order.count("f") - before <= 3, "turns that the flooding one had meanwhile"
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert order.count("f") > 10


async def test_a_helper_that_does_not_read_costs_a_bounded_buffer():
    with helper() as one:
        await one.open()
        sent = 0
        while one.channel.send(Pong(7)):
            sent += 1
        assert len(one.channel._unsent) < 80 << 10
        one.channel.ping()
        assert one.channel.pings_stuck == 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.channel.keep_writing)
            got = 0
            while one.channel._unsent or got == 0:
                got += len(os.read(one.inside, 1 << 20))
                await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert one.channel.send(Pong(7))


async def test_closing_the_input_with_words_unsent_is_no_error():
    with helper() as one:
        await one.open()
        while one.channel.send(Pong(7)):
            pass
        async with trio.open_nursery() as nursery:
            one.channel.close_input()
            nursery.start_soon(one.channel.keep_writing)
            await trio.testing.wait_all_tasks_blocked()
            assert not one.channel._unsent
            nursery.cancel_scope.cancel()


async def test_the_round_trip_of_a_ping_is_measured():
    with helper() as one:
        await one.open()
        one.write(one.report())
        await one.channel.expect(OpenReport)
        assert one.channel.round_trip is None
        one.channel.ping()
        one.write(v3.encode(Pong(one.channel.session.last_seqno), 3))
        await one.channel.expect(Pong)
        assert 0 < one.channel.round_trip == one.channel.round_trip_max < 10


async def test_bytes_one_by_one_are_the_same_conversation():
    with helper() as one:
        await one.open()
        one.came.clear()
        for byte in one.report() + packet(1) + packet(2):
            one.write(bytes([byte]))
            await one.channel._turn()
        assert [each for each in one.came if isinstance(each, int)] == [1, 1]
        assert one.channel.session.pending == 0


@pytest.mark.parametrize("cut", [1, 11, 12, 19, 20, 60])
async def test_an_end_inside_a_frame_is_said_and_what_came_before_is_handed_on(cut):
    with helper() as one:
        await one.open()
        one.write(one.report(), packet(1), packet(2)[:cut])
        one.hang_up()
        with pytest.raises(RemoteProtocolError, match="partial-frame"):
            await one.channel.pump(lambda: False, trio.lowlevel.checkpoint)
        assert one.came[-1] == 1
        assert one.channel.cut
        assert one.channel.eof


async def test_a_helper_that_says_much_and_sends_nothing_holds_nobody_up_for_long():
    """One read may be large; then it is known what kind of helper this is, until it sends packets."""
    with helper(FOREIGN_READ) as one:
        await one.open()
        one.write(one.report())
        await one.channel.expect(OpenReport)
        sizes: list[int] = []
        keep_pace = one.channel._keep_pace

        def noted(size: int) -> None:
            sizes.append(size)
            keep_pace(size)

        one.channel._keep_pace = noted
        said = v3.encode(Text(Severity.INFO, "so it goes"), 9)
        pipe = said * (FOREIGN_READ // len(said) - 1)

        async def read_all(*frames: bytes) -> list[int]:
            sizes.clear()
            one.write(*frames)
            while sum(sizes) < sum(map(len, frames)):
                await trio.lowlevel.checkpoint()
            return sizes

        async def pump() -> None:
            await one.channel.pump(lambda: False, trio.lowlevel.checkpoint)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump)
            assert await read_all(pipe) == [len(pipe)]
            assert max(await read_all(pipe)) == CHATTY_READ
            await read_all(packet(1))
            assert await read_all(pipe) == [len(pipe)]
            one.hang_up()
