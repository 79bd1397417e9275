"""A file sink: an outbox like a consumer's, emptied into files by a thread.

Rules:
  1. The loop never waits for a disk; the thread has a bounded amount in hand, the outbox the rest of the bound.
  2. A disk that is full or broken costs this sink's packets, counted, and nobody else's: it is tried again every
     second ("drop"), or the sink ends and says so ("stop").
  3. Files that are over are brought to the disk beside the one that is being written.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar, cast

import trio

from helperd.bell import Bell
from helperd.errors import SinkError
from helperd.routing import SLOW, Outbox, Overflow, RouteTable
from helperd.sinks.consumer import Peer, next_number
from helperd.sinks.files import Files
from helperd.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from helperd.config.specs import SinkSpec
    from helperd.routing import Batch, Form, Losses
    from helperd.sinks.files import Outcome
    from helperd.sinks.written import Written

TAKE_BYTES: Final = 1 << 20
"""Bytes handed to the thread at once."""
GATHER_S: Final = 0.1
"""Seconds that few packets may wait for more before they are written."""
GATHER_PACKED_S: Final = 1.0
"""The same where they are compressed: small frames compress badly."""
RETRY_S: Final = 1.0
"""Seconds between tries of a sink that cannot write."""
MOST_S: Final = 60.0
"""The longest pause: tries after an error of our own come ever more seldom."""
_OURS: Final = frozenset({"no-resources", "bug"})
"""What is no fault of the disk, so that its policy does not count: it is tried again."""
TICK_S: Final = 1.0
FLUSH_S: Final = 5.0
"""Seconds that a sink that is closed has for what is queued."""
FINISHING: Final = 2
"""Files that may be brought to the disk at once, beside the one being written."""

_Result = TypeVar("_Result")


@dataclass(slots=True, eq=False)
class FileSink:
    """One ``[[sink]]`` of type "file"; it is its own one consumer.

    Attributes:
        on_connect: called when it wants packets, for sources that start with their first consumer.
        on_change: called when its state has changed.
        on_bug: takes an error of our own, which ends this sink alone.
        say: takes a severity and a text for people.
        state: "idle" until something is written, "writing", "failed" (tried again every second), "stopped".
        error: why it is failed or stopped.
        consumers: itself, while it takes packets.
    """

    spec: SinkSpec
    table: RouteTable
    header: bytes
    on_room: Bell
    on_connect: Callable[[frozenset[str]], None]
    on_change: Callable[[], None]
    on_bug: Callable[[BaseException], None]
    say: Callable[[str, str], None]
    state: str = "idle"
    error: SinkError | None = None
    source: str | None = None
    form: Form = "pcapng"
    number: int = field(default_factory=next_number)
    peer: Peer = field(default_factory=lambda: Peer(os.getpid(), os.getuid()))
    connected_at: float = field(default_factory=trio.current_time)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    consumers: list[FileSink] = field(default_factory=list)
    outbox: Outbox = field(init=False)
    _files: Files = field(init=False)
    _bell: Bell = field(default_factory=Bell)
    _closing: trio.Event = field(default_factory=trio.Event)
    _over: list[Written] = field(default_factory=list)
    _finishing: int = 0
    _threads: trio.CapacityLimiter = (
        field(  # its own: a disk that hangs keeps threads, and nobody else waits for them
            default_factory=lambda: trio.CapacityLimiter(FINISHING + 1)
        )
    )
    _finished: Bell = field(default_factory=Bell)
    _lost_before: int = 0
    _idle: bool = False

    def __post_init__(self) -> None:
        spec = self.spec
        self.outbox = Outbox(
            limit=spec.limit,
            overflow=cast("Overflow", spec.overflow),
            hold=spec.hold,
            on_ready=self._on_ready,
            on_room=self.on_room.ring,
        )
        self._files = Files(spec, self.header, self.table, self._over.append)

    @property
    def name(self) -> str:
        """The path as configured."""
        return self.spec.name

    @property
    def sink(self) -> str:
        """The same, as its consumer's."""
        return self.spec.name

    @property
    def path(self) -> str:
        """The file being written, or the path as configured."""
        current = self._files.current
        return self.spec.path if current is None else current.part

    @property
    def begun(self) -> int:
        """Files begun so far."""
        return self._files.begun

    @property
    def over(self) -> bool:
        """Whether it has ended by itself."""
        return self.state == "stopped"

    def close(self) -> None:
        """Take no more packets, and end soon: what is queued is written if the disk lets it."""
        self.table.disconnect(self.outbox)
        self.scope.deadline = trio.current_time() + FLUSH_S
        self.finish()

    def finish(self) -> None:
        """Write what is queued, finish the file, end."""
        self._closing.set()
        self._bell.ring()

    async def serve(self) -> None:
        """Take packets and write them, until ``finish``, the cancellation of ``scope``, or a policy's end."""
        spec = self.spec
        linktypes = frozenset(spec.dlts)
        self.table.connect(self.outbox, frozenset(spec.sources), single=False, linktypes=linktypes)
        self.consumers.append(self)
        self.on_change()
        try:
            with self.scope:
                pause = RETRY_S
                while not await self._work():
                    await self._rest(pause)
                    pause = min(pause * 2, MOST_S)
        finally:
            self.table.disconnect(self.outbox)
            self.outbox.clear("consumer-left" if self.error is None else self.error.problem)
            self.table.gone.leave(self.name, self.outbox.account())
            self.consumers.clear()
            self.on_change()

    async def _work(self) -> bool:
        """Take packets and write them; False when an error of our own has ended that: it is to be tried again."""
        failure: SinkError | None = None
        try:
            async with trio.open_nursery() as nursery:
                self.on_connect(frozenset(self.spec.sources))
                await self._prepare()
                await self._write_all(nursery)
        except* Exception as bugs:  # noqa: BLE001 - one sink's bug ends no other's capture, nor its own
            for bug in bugs.exceptions:
                self.on_bug(bug)
                failure = SinkError("bug", f"an error of helperd's own, which the log has: {bug!r:.200}")
        if failure is None or self._closing.is_set():
            return True
        self._fail(failure)
        return False

    async def _in_thread(self, work: Callable[[], _Result]) -> _Result:
        """Let the thread do something; when the sink is cancelled meanwhile, the thread is left to itself.

        Raises:
            SinkError: "no-resources"; no thread can be started, and nothing was done.
        """
        begun = False

        def run() -> _Result:
            nonlocal begun
            begun = True
            return work()

        try:
            return await in_thread(run, limiter=self._threads)
        except (RuntimeError, MemoryError) as error:
            if begun:
                raise
            text = f"no thread can be started ({error}); see TasksMax= of the unit, and `ulimit -u`"
            raise SinkError("no-resources", text) from None

    async def _prepare(self) -> None:
        """Make ready to write, and try until that works."""
        while True:
            try:
                said = await self._in_thread(self._files.prepare)
            except SinkError as error:
                self._fail(error)
                if self.state == "stopped":
                    return
            else:
                self._recover()
                for text in said:
                    self.say("warning", text)
                return
            with trio.move_on_after(RETRY_S):
                await self._closing.wait()
                return

    async def _write_all(self, nursery: trio.Nursery) -> None:
        outbox = self.outbox
        tried_at = tick_at = trio.current_time()
        while self.state != "stopped" and (outbox or not self._closing.is_set()):
            now = trio.current_time()
            if self.state == "failed" and now - tried_at < RETRY_S and not self._closing.is_set():
                await self._rest(tried_at + RETRY_S - now)
                continue
            taken = outbox.take(TAKE_BYTES)
            if taken:
                tried_at = now
                await self._write(taken)
                if self.state == "failed" and self._closing.is_set():
                    break
            if now >= tick_at:
                tick_at = now + TICK_S
                try:
                    for text in await self._in_thread(self._files.tick):
                        self.say("warning", text)
                except SinkError as error:
                    self._fail(error)
            await self._finish_files(nursery)
            if not taken and not outbox and not self._closing.is_set():
                self._idle = True
                with trio.move_on_at(tick_at):
                    await self._bell.wait()
                self._idle = False
            elif not self._plenty and not self._closing.is_set():
                await self._gather()
        untold = self._untold()
        try:
            await self._in_thread(partial(self._files.turn, untold))
        except SinkError as error:
            self._fail(error)
        await self._finish_files(nursery)

    def _on_ready(self) -> None:
        if self._idle or self._plenty:
            self._bell.ring()

    @property
    def _plenty(self) -> bool:
        """Whether so much is queued that it does not wait for more."""
        return self.outbox.pinned >= self.spec.limit // 4

    async def _gather(self) -> None:
        """Wait a moment for more packets, unless there are plenty."""
        with trio.move_on_after(GATHER_PACKED_S if self.spec.compress == "zstd" else GATHER_S):
            await self._bell.wait()

    async def _rest(self, seconds: float) -> None:
        """Wait for the next try; packets that do not fit meanwhile are dropped by the outbox's own rule."""
        with trio.move_on_after(seconds):
            await self._closing.wait()

    async def _write(self, taken: list[Batch]) -> None:
        outbox = self.outbox
        untold = self._untold()
        try:
            done: Outcome = await self._in_thread(partial(self._files.write, taken, untold))
        except SinkError as error:  # nothing was begun
            self._fail(error)
            outbox.sent(taken, taken)
            outbox.unreported += untold
            return
        except Exception:
            outbox.lose(taken, "bug")  # how many are in the file is not known
            outbox.unreported += untold
            raise
        for text in done.said:
            self.say("warning", text)
        if done.error is None:
            self._recover()
        else:
            self._fail(done.error)
        outbox.sent(taken, done.left)
        outbox.unreported += done.untold

    def _untold(self) -> Losses:
        lost, self.outbox.unreported = self.outbox.unreported, Counter()
        return lost

    def _fail(self, error: SinkError) -> None:
        """Note why nothing can be written; say it once."""
        before = self.state
        policy_ends = self.spec.disk_full == "stop" and error.problem not in _OURS
        self.state = "stopped" if policy_ends else "failed"
        self.error = error
        self.outbox.reason = error.problem
        if before != self.state:
            self._lost_before = self.outbox.lost
            policy = (
                "the sink has ended; `helperd reload` starts it again"
                if self.state == "stopped"
                else "what does not fit into its queue is dropped and counted until it can write again"
            )
            self.say("error", f"{self.name}: {error.text}; {policy}")
            self.on_change()

    def _recover(self) -> None:
        """It can write."""
        if self.state == "failed":
            lost = self.outbox.lost - self._lost_before
            self.say("info", f"{self.name} can be written again; {lost:,} packets are not in it")
            self.outbox.reason = SLOW
        state = "idle" if self._files.current is None and self.state != "writing" else "writing"
        self.error = None
        if state != self.state:
            self.state = state
            self.on_change()

    async def _finish_files(self, nursery: trio.Nursery) -> None:
        """Bring files that are over to the disk, a few side by side."""
        while self._over:
            while self._finishing >= FINISHING:
                await self._finished.wait()
            self._finishing += 1
            nursery.start_soon(self._finish, self._over.pop(0))

    async def _finish(self, file: Written) -> None:
        pause = RETRY_S
        try:
            while True:
                try:
                    await self._in_thread(file.finish)
                except SinkError as error:
                    self.say("error", f"{file.part} is whole, and not finished yet: {error.text}")
                    if self._closing.is_set():
                        return
                    await self._rest(pause)
                    pause = min(pause * 2, MOST_S)
                else:
                    return
        except OSError as error:
            self.say("error", f"{file.part} is whole, but cannot be finished: {error.strerror or error}")
        finally:
            self._finishing -= 1
            self._finished.ring()
