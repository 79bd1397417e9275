"""A sink without a daemon: real sockets, a route fed by hand, readers that misbehave in known ways."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from functools import partial

import trio
import trio.testing

from helperd import pcapng
from helperd.bell import Bell
from helperd.client import Kind, PacketReader, RecordReader, split_frames
from helperd.routing import RouteTable
from helperd.sinks.listen import listen_tcp, listen_unix
from helperd.sinks.stream import StreamSink
from helperd.translate import Translator
from helperd.wire import v3
from helperd.wire.frames import FrameScanner
from tests.patience import HANGS_S

SECOND = 1_700_000_000


class Feeder:
    """A source whose helper is the test: numbered packets, a read at a time."""

    def __init__(self, table: RouteTable, name: str = "a", size: int = 200) -> None:
        self.route = table.route(name)
        self.route.describe(1, {"generation": "v3"})
        self.size = size
        self.sent = 0
        self._scanner = FrameScanner([v3])
        self._translator = Translator(name, table.interfaces, v3)

    def feed(self, packets: int) -> None:
        """One read of so many packets."""
        data = b"".join(
            v3.encode_packet(
                number.to_bytes(8, "big") + bytes(self.size - 8), 1, SECOND, 100_000, self.size, number
            )
            for number in range(self.sent, self.sent + packets)
        )
        self.sent += packets
        runs = self._scanner.feed(data)
        self.route.deliver(runs, partial(self._translate, self._translator))

    @staticmethod
    def _translate(translator: Translator, runs: list, into: list) -> None:
        translator.translate(runs, 0, into)


class Reading:
    """What a reader of either format understood.

    Attributes:
        numbers: of the packets, in order.
        lost: packets the stream says are lost.
    """

    def __init__(self, form: str) -> None:
        self.form = form
        self.numbers: list[int] = []
        self.lost = 0
        self._blocks = PacketReader()
        self._records = RecordReader()

    @property
    def pending(self) -> int:
        return self._blocks.pending + self._records.pending

    def feed(self, data: bytes) -> None:
        if self.form == "pcapng":
            for packet in self._blocks.feed(data):
                self.numbers.append(int.from_bytes(packet.content[:8], "big"))
            self.lost = sum(self._blocks.lost.values())
            return
        for record in self._records.feed(data):
            if record.kind == Kind.SOURCE:
                continue
            expected = self.numbers[-1] + 1 if self.numbers else None
            self.lost += record.lost
            if record.packets and expected is not None:
                assert record.first == expected + record.lost, "a loss is not told where it happened"
            for number, frame in enumerate(split_frames(record, "v3"), record.first):
                self.numbers.append(int.from_bytes(frame[-200:-192], "big"))
                assert self.numbers[-1] == number


class Bench:
    """One sink, open."""

    def __init__(self, sink: StreamSink, table: RouteTable, form: str, nursery: trio.Nursery) -> None:
        self.sink = sink
        self.table = table
        self.form = form
        self.nursery = nursery
        self.bugs: list = []
        self.changed = Bell()
        sink.on_change = self.changed.ring

    async def consumers(self, count: int) -> list:
        """Wait until so many are connected."""
        with trio.fail_after(HANGS_S):
            while len(self.sink.consumers) != count:
                await self.changed.wait()
        return list(self.sink.consumers)

    async def connect(self, room: int | None = None) -> trio.socket.SocketType:
        """A connected reader; ``room``: bytes its kernel buffer may hold, about."""
        family = self.sink.listener.socket.family
        sock = trio.socket.socket(family, trio.socket.SOCK_STREAM)
        if room is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        before = len(self.sink.consumers)
        await sock.connect(self.sink.listener.socket.getsockname())
        await self.consumers(before + 1)
        await trio.testing.wait_all_tasks_blocked()  # it stands in the table, its head is sent
        return sock

    async def stuck(self, feeder: Feeder, consumer) -> None:
        """Feed until nothing more goes into the consumer's socket."""
        while not consumer.outbox.lost:
            feeder.feed(100)
            await trio.testing.wait_all_tasks_blocked()
        assert consumer.outbox.inflight, "a send is under way"

    async def left(self, feeder: Feeder) -> None:
        """Wait until all have been noticed to be gone; a TCP peer's going is seen at the next packets."""
        with trio.fail_after(HANGS_S):
            while self.sink.consumers:
                feeder.feed(1)
                await trio.sleep(0.002)

    async def read(
        self, sock: trio.socket.SocketType, until: int | None = None, size: int = 1 << 16
    ) -> Reading:
        """Read to the end, or until that packet has come."""
        reading = Reading(self.form)
        with trio.fail_after(60):
            while data := await sock.recv(size):
                reading.feed(data)
                if until is not None and reading.numbers and reading.numbers[-1] >= until:
                    break
            else:
                assert not reading.pending, "the stream was cut inside a block"
        return reading


async def untended(_name, work, _is_over) -> None:
    """A task that ends by an error fails its test."""
    await work()


@asynccontextmanager
async def bench(tmp_path, kind: str, form: str, **settings):
    """An open sink on a unix path or a TCP port."""
    table = RouteTable()
    path = str(tmp_path / "s")
    listener = listen_tcp("127.0.0.1", 0) if kind == "tcp" else listen_unix(path, mode=0o600, group=None)
    async with trio.open_nursery() as nursery:
        sink = StreamSink(
            is_over=lambda _names: False,
            name="test",
            listener=listener,
            table=table,
            header=pcapng.section_header(application="test"),
            on_room=Bell(),
            on_connect=lambda _sources: None,
            on_change=lambda: None,
            on_bug=lambda *bug: made.bugs.append(bug),
            form=form,
            **settings,
        )
        made = Bench(sink, table, form, nursery)
        nursery.start_soon(sink.serve, untended)
        yield made
        sink.scope.cancel()


def balanced(consumer) -> bool:
    """Whether the consumer's ledger adds up."""
    outbox = consumer.outbox
    return outbox.offered == outbox.delivered + outbox.lost + outbox.queued + outbox.inflight
