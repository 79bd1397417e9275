"""How a connection ends, and how it does not: half-closed readers, lack of memory, a source that becomes another."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections import Counter

import pytest
import trio

from helperd.relay import RecordReader
from helperd.routing import RouteTable, Segment
from helperd.sinks import consumer as consumers
from helperd.sinks.forms import Frames
from tests.sinks.kit import Feeder, bench


@pytest.mark.parametrize("kind", ["unix", "tcp"])
async def test_a_reader_that_closed_its_writing_side_reads_on_until_it_goes(tmp_path, kind):
    async with bench(tmp_path, kind, "pcapng") as one:
        feeder = Feeder(one.table)
        sock = await one.connect()
        sock.shutdown(socket.SHUT_WR)
        await trio.testing.wait_all_tasks_blocked()
        feeder.feed(50)
        reading = await one.read(sock, until=49)
        assert reading.numbers == list(range(50))
        if kind == "tcp":  # an ordinary close says nothing new to us; a reset does
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        await one.consumers(0)  # without a packet that finds nobody


@pytest.mark.parametrize("kind", ["unix", "tcp"])
async def test_what_a_consumer_writes_is_ignored(tmp_path, kind):
    async with bench(tmp_path, kind, "frames") as one:
        feeder = Feeder(one.table)
        sock = await one.connect()
        await sock.send(b"GET / HTTP/1.1\r\n" * 1000)
        feeder.feed(10)
        assert (await one.read(sock, until=9)).numbers == list(range(10))
        sock.close()
        await one.left(feeder)


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM])
async def test_a_machine_short_of_memory_delays_and_loses_nothing(tmp_path, monkeypatch, number):
    async with bench(tmp_path, "unix", "pcapng") as one:
        feeder = Feeder(one.table)
        sock = await one.connect()
        [consumer] = one.sink.consumers
        real = os.writev
        failures = [OSError(number, "no memory")] * 3

        def short(fd, parts):
            if failures:
                raise failures.pop()
            return real(fd, parts)

        monkeypatch.setattr(os, "writev", short)
        feeder.feed(30)
        assert (await one.read(sock, until=29)).numbers == list(range(30))
        assert not failures
        assert consumer.outbox.lost == 0
        sock.close()
        await one.consumers(0)


async def test_a_reader_that_is_to_go_and_does_not_read_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(consumers, "FAREWELL_S", 0.05)
    async with bench(tmp_path, "unix", "pcapng", limit=64 << 10, overflow="disconnect") as one:
        feeder = Feeder(one.table)
        sock = await one.connect(room=4096)
        [consumer] = one.sink.consumers
        await one.stuck(feeder, consumer)
        await one.consumers(0)
        outbox = consumer.outbox
        assert outbox.disconnected
        assert set(outbox.lost_by) == {"disconnected", "consumer-left"}
        assert min(outbox.lost_by.values()) > 0
        assert outbox.offered == outbox.delivered + outbox.lost == feeder.sent
        sock.close()


async def test_a_sources_own_socket_tells_refused_packets_under_the_interface_it_has(tmp_path):
    async with bench(tmp_path, "unix", "pcapng", sources=frozenset({"a"}), single=True) as one:
        one.table.interfaces.number("other", 105)
        feeder = Feeder(one.table)
        sock = await one.connect()
        feeder.feed(10)
        strange = one.table.interfaces.number("a", 127)
        feeder.route.dispatch([Segment(strange, (b"",), 0, 7)], 0)
        feeder.feed(10)
        one.sink.finish()
        reading = await one.read(sock)
        assert reading.numbers == list(range(20))
        assert reading.lost == 7
        sock.close()


def test_who_lost_packets_is_said_before_the_loss_even_when_the_source_is_gone():
    table = RouteTable()
    table.route("a").describe(3, {"dlt": "1"})
    table.route("b").describe(1, {})
    table.drop("a")
    form = Frames(table)
    reader = RecordReader()
    reader.feed(b"".join(map(bytes, form.preface())))
    told = reader.feed(b"".join(map(bytes, form.ending(Counter({(0, "x"): 3, (0, "y"): 2, (1, "x"): 7})))))
    assert [(one.kind, one.source, one.lost) for one in told] == [(1, 0, 0), (4, 0, 5), (1, 1, 0), (4, 1, 7)]
    assert told[0].fields() == {"name": "a", "dlt": "1"}
    assert len(form.ending(Counter({(0, "x"): 1}))) == 1, "said once"


async def test_a_reader_that_comes_in_mid_run_gets_whole_blocks_and_is_told_of_no_loss(tmp_path):
    async with bench(tmp_path, "unix", "pcapng") as one, bench_frames(tmp_path / "f") as two:
        for each in (one, two):
            feeder = Feeder(each.table)
            early = await each.connect()
            for _ in range(20):
                feeder.feed(7)
                await trio.lowlevel.checkpoint()
            late = await each.connect()
            feeder.feed(7)
            reading = await each.read(late, until=146)
            assert reading.numbers == list(range(140, 147))
            assert reading.lost == 0
            assert (await each.read(early, until=146)).numbers == list(range(147))
            early.close()
            late.close()


def bench_frames(folder):
    folder.mkdir()
    return bench(folder, "unix", "frames")


async def test_a_closed_sink_frees_its_address_at_once_and_lets_its_readers_finish(tmp_path, monkeypatch):
    monkeypatch.setattr(consumers, "FAREWELL_S", 0.2)
    async with bench(tmp_path, "unix", "pcapng", limit=64 << 10) as one:
        feeder = Feeder(one.table)
        good, stuck = await one.connect(), await one.connect(room=4096)
        await one.stuck(feeder, one.sink.consumers[1])
        reading = await one.read(good, until=feeder.sent - 1 - one.sink.consumers[0].outbox.queued)
        before = feeder.sent
        one.sink.close()
        async with bench(tmp_path, "unix", "pcapng") as two:
            feeder.feed(10)
            assert feeder.sent == before + 10
            while data := await good.recv(1 << 16):
                reading.feed(data)
            assert not reading.pending
            assert reading.numbers[-1] == before - 1
            await one.consumers(0)
            again = await two.connect()
            again.close()
            await two.consumers(0)
        good.close()
        stuck.close()


async def test_an_error_of_our_own_in_one_stream_ends_that_one_alone(tmp_path):
    async with bench(tmp_path, "unix", "pcapng") as one:
        feeder = Feeder(one.table)
        victim, other = await one.connect(), await one.connect()
        one.sink.consumers[0]._form.parts = None
        feeder.feed(10)
        assert (await one.read(other, until=9)).numbers == list(range(10))
        await one.consumers(1)
        [(name, error)] = one.bugs
        assert name == "test"
        assert isinstance(error.exceptions[0], ExceptionGroup | TypeError)
        victim.close()
        other.close()
        await one.consumers(0)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EPROTO, errno.EPERM, errno.ENETDOWN])
async def test_a_connection_that_cannot_be_accepted_is_counted_and_nobody_else_s_trouble(
    tmp_path, monkeypatch, number
):
    """accept(2): errors of the network that were pending on the new socket come from it, and what a firewall says."""
    async with bench(tmp_path, "tcp", "pcapng") as one:
        feeder = Feeder(one.table)
        first = await one.connect()
        errors = [number]
        accept = one.sink.listener.socket.accept

        async def refused():
            if errors:
                raise OSError(errors[0], os.strerror(errors.pop()))
            return await accept()

        monkeypatch.setattr(one.sink.listener.socket, "accept", refused)
        second, third = await one.connect(), await one.connect()
        feeder.feed(10)
        for sock in (first, second, third):
            assert (await one.read(sock, until=9)).numbers == list(range(10))
            sock.close()
        assert one.sink.refused == 1
        assert one.bugs == []
        await one.left(feeder)
