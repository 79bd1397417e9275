"""Waiting for many: at once when there is little to wake, together when there is much, and never longer than said."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
import trio.testing

from helperd import gather
from helperd.gather import BUSY, GATHER_S, Gather


@contextmanager
def pipes(count: int) -> Iterator[list[tuple[int, int]]]:
    made = [os.pipe() for _ in range(count)]
    try:
        yield made
    finally:
        for ends in made:
            for fd in ends:
                os.close(fd)


async def test_what_is_alone_is_woken_at_once():
    room = gather.room()
    assert gather.room() is room
    with pipes(1) as [(inside, outside)]:
        for number in range(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(room.readable, inside)
                await trio.testing.wait_all_tasks_blocked()
                os.write(outside, b"x")
            assert room.woken == number + 1
            os.read(inside, 1)
        assert room.rate < BUSY
        room.forget(inside)


async def test_at_an_end_and_with_bytes_already_there_nobody_waits():
    room = gather.room()
    with pipes(1) as [(inside, outside)]:
        os.write(outside, b"x")
        await room.readable(inside)
        os.read(inside, 1)
        os.dup2(inside, outside)  # the last writer goes
        await room.readable(inside)
        assert os.read(inside, 1) == b""
        room.forget(inside)


async def test_much_is_woken_together_and_is_read_in_its_turn():
    room = Gather()
    read = 0

    async def pump(fd: int) -> None:
        nonlocal read
        while True:
            await room.readable(fd)
            read += len(os.read(fd, 4096))

    with pipes(50) as made:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(room.run)
            for inside, _ in made:
                nursery.start_soon(pump, inside)
            await trio.testing.wait_all_tasks_blocked()
            written = 0
            while room.rate < BUSY:
                for _, outside in made:
                    os.write(outside, b"x")
                    written += 1
                await trio.sleep(0.001)
            turns, woken = room.turns, room.woken
            for _ in range(10):
                for _, outside in made:
                    os.write(outside, b"x")
                    written += 1
                    await trio.lowlevel.checkpoint()
            with trio.fail_after(5):
                while read < written:  # noqa: ASYNC110 - what is looked at is how many turns it takes
                    await trio.sleep(GATHER_S / 2)
            assert (room.woken - woken) / (room.turns - turns) > 5, "many in a turn"
            nursery.cancel_scope.cancel()
        for inside, _ in made:
            room._known.discard(inside)  # the room is closed


async def test_who_is_called_back_does_not_wait_on():
    room = gather.room()
    with pipes(2) as [(first, _), (second, other)]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(room.readable, first)
            await trio.testing.wait_all_tasks_blocked()
            room.recall(first)
        room.recall(first)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(room.readable, second)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        os.write(other, b"x")  # an event for nobody
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(5):
            await room.readable(second)
        room.forget(first)
        room.forget(second)
        room.forget(second)


@pytest.mark.parametrize("known", [False, True])
async def test_a_number_that_is_used_again_is_another_descriptor(known):
    room = gather.room()
    with pipes(1) as [(inside, outside)]:
        os.write(outside, b"x")
        await room.readable(inside)
        if known:
            room.forget(inside)
    with pipes(1) as [(inside, outside)]:
        os.write(outside, b"x")
        if known:
            with trio.fail_after(5):
                await room.readable(inside)
        room.forget(inside)
