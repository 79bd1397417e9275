"""Waiting for many: at once when there is little to read, together when there is much, and never longer than said."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
import trio.testing

from helperd import gather
from helperd.gather import BUSY, GATHER_S, TURN, Gather
from tests.patience import HANGS_S


@contextmanager
def pipes(count: int) -> Iterator[list[tuple[int, int]]]:
    made = [os.pipe() for _ in range(count)]
    try:
        yield made
    finally:
        for ends in made:
            for fd in ends:
                os.close(fd)


async def test_what_is_alone_is_read_at_once():
    room = gather.rooms().prompt
    assert gather.rooms().prompt is room
    got = []
    with pipes(1) as [(inside, outside)]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(room.attend, inside, lambda: got.append(os.read(inside, 1)) is None)
            await trio.testing.wait_all_tasks_blocked()
            for number in range(5):
                os.write(outside, b"x")
                with trio.fail_after(HANGS_S):
                    while len(got) == number:
                        await trio.testing.wait_all_tasks_blocked()
                assert room.rate < BUSY
            nursery.cancel_scope.cancel()
    assert got == [b"x"] * 5
    assert room.read == 5


async def test_at_an_end_and_with_bytes_already_there_nobody_waits():
    room = gather.rooms().prompt
    got = []
    with pipes(1) as [(inside, outside)], trio.fail_after(HANGS_S):
        os.write(outside, b"x")
        await room.attend(inside, lambda: got.append(os.read(inside, 1)))
        os.dup2(inside, outside)  # the last writer goes
        await room.attend(inside, lambda: got.append(os.read(inside, 1)))
    assert got == [b"x", b""]


async def test_who_is_cancelled_in_its_own_turn_leaves_once():
    room = gather.rooms().prompt
    with pipes(1) as [(inside, outside)], trio.CancelScope() as scope, trio.fail_after(HANGS_S):
        os.write(outside, b"x")
        await room.attend(inside, scope.cancel)  # which returns None: it does not stay either
    assert scope.cancelled_caught
    await trio.testing.wait_all_tasks_blocked()


async def test_much_is_read_together():
    room = Gather(patient=True)
    read = 0

    async def attend(fd: int) -> None:
        def turn() -> bool:
            nonlocal read
            read += len(os.read(fd, 4096))
            return True

        await room.attend(fd, turn)

    with pipes(50) as made:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(room.run)
            for inside, _ in made:
                nursery.start_soon(attend, inside)
            await trio.testing.wait_all_tasks_blocked()
            written = 0
            while room.rate < BUSY:
                for _, outside in made:
                    os.write(outside, b"x")
                    written += 1
                await trio.sleep(0.001)
            turns, before = room.turns, room.read
            for _ in range(10):
                for _, outside in made:
                    os.write(outside, b"x")
                    written += 1
                    await trio.lowlevel.checkpoint()
            with trio.fail_after(HANGS_S):
                while read < written:  # noqa: ASYNC110 - what is looked at is how many turns it takes
                    await trio.sleep(GATHER_S / 2)
            assert (room.read - before) / (room.turns - turns) > 5, "many in a turn"
            nursery.cancel_scope.cancel()


async def test_in_the_prompt_room_others_have_their_turn_after_so_many():
    room = gather.rooms().prompt
    turns = []
    with pipes(TURN + 5) as made, trio.fail_after(HANGS_S):
        async with trio.open_nursery() as nursery:
            for inside, _ in made:
                nursery.start_soon(room.attend, inside, lambda: turns.append(room.turns))
            await trio.testing.wait_all_tasks_blocked()
            for _, outside in made:
                os.write(outside, b"x")
    assert sorted(Counter(turns).values()) == [5, TURN]


async def test_who_is_called_back_does_not_wait_on():
    room = gather.rooms().prompt
    with pipes(2) as [(first, _), (second, other)], trio.fail_after(HANGS_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(room.attend, first, lambda: True)
            await trio.testing.wait_all_tasks_blocked()
            room.recall(first)
            room.recall(first)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(room.attend, second, lambda: True)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        os.write(other, b"x")  # an event for nobody
        await trio.testing.wait_all_tasks_blocked()
        await room.attend(second, lambda: False)


async def test_who_is_called_back_by_another_s_turn_has_none():
    room = gather.rooms().prompt
    seen = []
    with pipes(2) as made, trio.fail_after(HANGS_S):
        for _, outside in made:
            os.write(outside, b"x")
        [one, other] = [inside for inside, _ in made]

        def turn(me: int, them: int) -> bool:
            seen.append(me)
            room.recall(them)
            return False

        async with trio.open_nursery() as nursery:
            nursery.start_soon(room.attend, one, lambda: turn(one, other))
            nursery.start_soon(room.attend, other, lambda: turn(other, one))
    assert len(seen) == 1


async def test_who_calls_itself_back_ends_after_its_turn():
    room = gather.rooms().prompt
    with pipes(1) as [(inside, outside)], trio.fail_after(HANGS_S):
        os.write(outside, b"x")
        await room.attend(inside, lambda: room.recall(inside) is None)
        await room.attend(inside, lambda: os.read(inside, 1) == b"")


async def test_what_a_turn_raises_is_its_own_affair():
    room = gather.rooms().prompt
    with pipes(2) as [(first, bad), (second, good)], trio.fail_after(HANGS_S):
        os.write(bad, b"x")
        with pytest.raises(ZeroDivisionError):
            await room.attend(first, lambda: bool(room.recall(first)) or 1 // 0 == 1)
        os.write(good, b"x")
        await room.attend(second, lambda: False)
