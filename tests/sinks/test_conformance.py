"""The conformance kit: sinks of either form, on either kind of socket, keep the same promises to the same readers."""

from __future__ import annotations

import os
import socket
import struct

import pytest
import trio

from tests.patience import HANGS_S
from tests.sinks.kit import Feeder, balanced, bench

pytestmark = [
    pytest.mark.parametrize("kind", ["unix", "tcp"]),
    pytest.mark.parametrize("form", ["pcapng", "frames"]),
]

LIMIT = 256 << 10
"""Outbox bytes in these tests: small, so that readers overflow it soon."""


async def feed(feeder: Feeder, reads: int, packets: int = 100) -> None:
    for _ in range(reads):
        feeder.feed(packets)
        await trio.lowlevel.checkpoint()


async def emptied(consumer) -> None:
    with trio.fail_after(HANGS_S):
        while consumer.outbox or consumer.outbox.inflight:  # noqa: ASYNC110 - the outbox tells only its sender
            await trio.sleep(0.005)


async def test_a_reader_that_keeps_up_gets_every_packet_and_a_clean_end(tmp_path, kind, form):
    async with bench(tmp_path, kind, form) as one:
        feeder = Feeder(one.table)
        sock = await one.connect()
        [consumer] = one.sink.consumers
        readings = []

        async def read():
            readings.append(await one.read(sock))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await feed(feeder, 200)
            await emptied(consumer)
            one.sink.finish()
        assert readings[0].numbers == list(range(20_000))
        assert readings[0].lost == 0
        assert consumer.outbox.delivered == consumer.outbox.offered == 20_000
        sock.close()
        await one.consumers(0)


async def test_a_slow_reader_is_told_exactly_what_it_lost_and_where(tmp_path, kind, form):
    async with bench(tmp_path, kind, form, limit=LIMIT) as one:
        feeder = Feeder(one.table)
        sock = await one.connect(room=4096)
        [consumer] = one.sink.consumers
        pinned = 0
        for _ in range(400):
            await feed(feeder, 1)
            pinned = max(pinned, consumer.outbox.pinned)
        assert consumer.outbox.lost > 10_000
        assert pinned <= LIMIT + 2 * (256 << 10), "the queue, and what is being sent"
        readings = []

        async def read():
            readings.append(await one.read(sock))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await emptied(consumer)
            await feed(feeder, 3)
            await emptied(consumer)
            one.sink.finish()
        [reading] = readings
        assert balanced(consumer)
        assert reading.lost == consumer.outbox.lost
        assert len(reading.numbers) + reading.lost == feeder.sent == consumer.outbox.offered
        assert reading.numbers == sorted(set(reading.numbers))
        assert reading.numbers[-1] == feeder.sent - 1
        sock.close()


async def test_a_reader_that_never_reads_costs_its_outbox_and_nobody_else(tmp_path, kind, form):
    async with bench(tmp_path, kind, form, limit=LIMIT) as one:
        feeder = Feeder(one.table)
        stuck = await one.connect(room=4096)
        good = await one.connect()
        first, second = one.sink.consumers
        readings = []

        async def read():
            readings.append(await one.read(good, until=39_999))

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                for _ in range(400):
                    await feed(feeder, 1)
                    while second.outbox.pinned > LIMIT // 2:  # noqa: ASYNC110 - as above
                        await trio.sleep(0.001)
        assert readings[0].numbers == list(range(40_000))
        assert first.outbox.lost > 20_000
        assert first.outbox.pinned <= LIMIT + 2 * (256 << 10)
        assert balanced(first)
        stuck.close()
        good.close()
        await one.left(feeder)


async def test_a_reader_that_vanishes_in_the_middle_of_a_send_is_forgotten(tmp_path, kind, form):
    async with bench(tmp_path, kind, form, limit=LIMIT) as one:
        feeder = Feeder(one.table)
        sock = await one.connect(room=4096)
        [consumer] = one.sink.consumers
        await one.stuck(feeder, consumer)
        if kind == "tcp":  # with a reset, as when the machine at the other end dies
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        await one.consumers(0)
        assert consumer.outbox.offered == consumer.outbox.delivered + consumer.outbox.lost
        assert consumer.outbox.lost_by["consumer-left"] > 0
        assert not feeder.route.taps
        feeder.feed(10)
        assert feeder.route.ledger.lost["no-consumer"] == 10


async def test_a_reader_of_one_byte_at_a_time_gets_the_same_stream(tmp_path, kind, form):
    async with bench(tmp_path, kind, form) as one:
        feeder = Feeder(one.table)
        sock = await one.connect()
        feeder.feed(60)
        reading = await one.read(sock, until=59, size=1)
        assert reading.numbers == list(range(60))
        sock.close()


async def test_two_hundred_readers_get_the_same_packets_from_the_same_memory(tmp_path, kind, form):
    async with bench(tmp_path, kind, form, limit=LIMIT) as one:
        feeder = Feeder(one.table)
        socks = [await one.connect() for _ in range(200)]
        readings = []

        async def read(sock):
            readings.append(await one.read(sock, until=1999))

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for sock in socks:
                    nursery.start_soon(read, sock)
                await feed(feeder, 20)
        assert all(reading.numbers == list(range(2000)) for reading in readings)
        assert len(readings) == 200
        for sock in socks:
            sock.close()


async def test_the_end_says_the_totals_even_to_a_reader_that_lost_its_last_packets(tmp_path, kind, form):
    async with bench(tmp_path, kind, form, limit=4096) as one:
        feeder = Feeder(one.table)
        sock = await one.connect(room=4096)
        [consumer] = one.sink.consumers
        await feed(feeder, 100)
        one.sink.finish()
        reading = await one.read(sock)
        assert reading.lost == consumer.outbox.lost > 0
        assert len(reading.numbers) + reading.lost == 10_000
        sock.close()


async def test_disconnect_ends_the_stream_of_a_reader_that_missed_something(
    tmp_path, kind, form, monkeypatch
):
    monkeypatch.setattr("helperd.sinks.consumer.FAREWELL_S", HANGS_S)  # this reader takes what is left
    async with bench(tmp_path, kind, form, limit=LIMIT, overflow="disconnect") as one:
        feeder = Feeder(one.table)
        sock = await one.connect(room=4096)
        [consumer] = one.sink.consumers
        await feed(feeder, 400)
        reading = await one.read(sock)
        await one.consumers(0)
        outbox = consumer.outbox
        assert outbox.disconnected
        assert reading.numbers == list(range(len(reading.numbers))), "what it got has no gap"
        assert outbox.offered == outbox.delivered + outbox.lost
        assert reading.lost == outbox.lost
        assert len(reading.numbers) + reading.lost == outbox.offered
        sock.close()


async def test_wait_holds_the_source_until_there_is_room_and_loses_nothing(tmp_path, kind, form):
    async with bench(tmp_path, kind, form, limit=LIMIT, overflow="wait") as one:
        feeder = Feeder(one.table)
        sock = await one.connect(room=4096)
        [consumer] = one.sink.consumers
        held = 0
        readings = []

        async def read():
            readings.append(await one.read(sock, until=19_999))

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for number in range(200):
                    feeder.feed(100)
                    await trio.lowlevel.checkpoint()
                    while feeder.route.holding():
                        held += 1
                        if not readings and held == 1:
                            nursery.start_soon(read)
                        assert consumer.outbox.pinned <= LIMIT + 3 * (256 << 10), number
                        await one.sink.on_room.wait()
        assert held
        assert readings[0].numbers == list(range(20_000))
        assert consumer.outbox.lost == 0
        sock.close()


async def test_descriptors_go_with_their_readers(tmp_path, kind, form):
    async with bench(tmp_path, kind, form) as one:
        feeder = Feeder(one.table)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            sock = await one.connect()
            feeder.feed(1)
            await one.read(sock, until=feeder.sent - 1)
            sock.close()
            await one.left(feeder)
        assert len(os.listdir("/proc/self/fd")) == before
