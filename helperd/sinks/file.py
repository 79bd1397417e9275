"""A file sink: an outbox like a consumer's, emptied into files by a thread.

Rules:
  1. The loop never waits for a disk; the thread has a bounded amount in hand, the outbox the rest of the bound.
  2. A disk that is full or broken costs this sink's packets, counted, and nobody else's: it is tried again every
     second ("drop"), or the sink ends and says so ("stop").
  3. What the disk keeps of it is another's affair (``keeping``), beside the writing.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, cast

import trio

from helperd.bell import Bell
from helperd.errors import SinkError
from helperd.reports import OWN
from helperd.routing import SLOW, Outbox, Overflow, RouteTable
from helperd.sinks.consumer import Peer, next_number
from helperd.sinks.disk import mount_of
from helperd.sinks.files import Files
from helperd.sinks.hands import LOOK_S, STUCK_LOOKS, Hands
from helperd.sinks.keeping import MOST_S, RETRY_S, Keeper
from helperd.sinks.said import line_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from helperd.config.sinks import SinkSpec
    from helperd.routing import Batch, Form, Losses
    from helperd.sinks.files import Outcome
    from helperd.sinks.said import Messages, Told
    from helperd.sinks.written import Written

TAKE_BYTES: Final = 1 << 20
"""Bytes handed to the thread at once."""
GATHER_S: Final = 0.1
"""Seconds that few packets may wait for more before they are written."""
GATHER_PACKED_S: Final = 1.0
"""The same where they are compressed: small frames compress badly."""
_OURS: Final = frozenset({"no-resources", "bug"})
"""What is no fault of the disk, so that its policy does not count: it is tried again."""
TICK_S: Final = 1.0
SYNC_S: Final = 10.0
"""Seconds after which what was written is brought to the disk, though its file goes on."""
FLUSH_S: Final = 5.0
"""Seconds that a sink that is closed has for what is queued."""


@dataclass(slots=True, eq=False)
class FileSink:
    """One ``[[sink]]`` of type "file"; it is its own one consumer.

    Attributes:
        on_connect: called when it wants packets, for sources that start with their first consumer.
        on_change: called when its state has changed.
        on_bug: takes an error of our own, which ends this sink alone.
        say: takes a severity and a text for people.
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
    bus: Messages | None = None
    source: str | None = None
    number: int = field(default_factory=next_number)
    peer: Peer = field(default_factory=lambda: Peer(os.getpid(), os.getuid()))
    connected_at: float = field(default_factory=trio.current_time)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    consumers: list[FileSink] = field(default_factory=list)
    outbox: Outbox = field(init=False)
    _files: Files = field(init=False)
    _hands: Hands = field(init=False)
    _keeper: Keeper = field(init=False)
    _bell: Bell = field(default_factory=Bell)
    _closing: trio.Event = field(default_factory=trio.Event)
    _began: bool = False
    _writer: trio.CapacityLimiter = (
        field(  # its own: a disk that hangs keeps threads, and nobody else waits for them
            default_factory=lambda: trio.CapacityLimiter(1)
        )
    )
    _error: SinkError | None = None
    _stuck: SinkError | None = None
    _beside: dict[str, SinkError] = field(default_factory=dict)
    _ended: bool = False
    _wrote: bool = False
    _again_at: float = 0.0
    _lost_before: int = 0
    _stuck_before: int = 0
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
        over: list[Written] = []
        self._files = Files(spec, self.header, self.table, over.append)
        self._hands = Hands(mount_of(os.path.dirname(spec.path)), lambda: self._keeper.drop_all())
        self._keeper = Keeper(self, self.outbox, self._files, self._hands, self._closing, over)

    @property
    def form(self) -> Form:
        """What is in the files: "pcapng" or "jsonl"."""
        return cast("Form", self.spec.format)

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
    def durable(self) -> int:
        """Packets that fsync has confirmed, of those delivered."""
        return self._keeper.durable

    @property
    def begun(self) -> int:
        """Files begun so far."""
        return self._files.begun

    @property
    def over(self) -> bool:
        """Whether it has ended by itself."""
        return self._ended

    @property
    def error(self) -> SinkError | None:
        """What is wrong with it now; with the files that are over, too."""
        return self._stuck or self._error or next(iter(self._beside.values()), None)

    @property
    def state(self) -> str:
        """One of "idle" (nothing was written yet), "writing", "failed" (tried every second), "stuck", "stopped"."""
        if self._ended:
            return "stopped"
        if self._stuck is not None:
            return "stuck"
        if self._error is not None:
            return "failed"
        return "writing" if self._wrote else "idle"

    def close(self) -> None:
        """Take no more packets, and end soon: what is queued is written if the disk lets it."""
        self.table.disconnect(self.outbox)
        self.scope.deadline = trio.current_time() + FLUSH_S
        self.finish()

    def may_end(self) -> bool:
        """Whether it ends because somebody, or its policy, wants that."""
        return self._ended or self._closing.is_set()

    def finish(self) -> None:
        """Write what is queued, finish the file, end."""
        self._closing.set()
        self._bell.ring()

    async def serve(self) -> None:
        """Take packets and write them, until ``finish``, the cancellation of ``scope``, or a policy's end."""
        spec = self.spec
        linktypes = frozenset(spec.dlts)
        if self._began:  # an error of our own has ended it before
            self.scope = trio.CancelScope(deadline=self.scope.deadline)
        self._began = True
        self.table.connect(
            self.outbox, frozenset(spec.sources), single=False, form=self.form, linktypes=linktypes
        )
        follows = self.bus if self.form == "jsonl" else None
        if follows is not None:
            follows.follow(self._on_message)
        self.consumers.append(self)
        self.on_change()
        stays = True  # what it has, for when it is begun again
        try:
            with self.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._watch)
                    pause = RETRY_S
                    while not await self._work():
                        await self._rest(pause)
                        pause = min(pause * 2, MOST_S)
                    nursery.cancel_scope.cancel()
            stays = False
        except trio.Cancelled:
            stays = False
            raise
        finally:
            self.table.disconnect(self.outbox)
            if follows is not None:
                follows.unfollow(self._on_message)
            if not stays:
                self._leave_behind()
                self.table.gone.leave(self.name, self.outbox.account(self.durable))
            self.consumers.clear()
            self.on_change()

    def _on_message(self, told: Told) -> None:
        """Keep what people are told, among the reports: of its own sources, and of helperd's."""
        if not self.spec.sources or told.source in {*self.spec.sources, OWN}:
            self.table.told += 1
            self.outbox.put(line_of(told))

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
        self.fail(failure)
        return False

    def _leave_behind(self) -> None:
        """Account for what is not done: a thread that hangs is left to itself."""
        hangs = self._hands.leave()
        reason = self.error.problem if self.error is not None else "disk-stuck" if hangs else "consumer-left"
        self._keeper.settle_all(reason)
        self.outbox.clear(reason)
        if not hangs:
            self._keeper.drop_all()

    # the disk's state

    async def _watch(self) -> None:
        """Notice a call that does not return, and one that does at last."""
        while True:
            await trio.sleep(LOOK_S)
            call = self._hands.look()
            if call is not None and self._stuck is None:
                self.outbox.blame("disk-stuck", call.before)
                self._hang(f"{call.doing} has not returned for {STUCK_LOOKS * LOOK_S:g} s")
            elif call is None and self._stuck is not None and not self._hands.in_the_way:
                self._stuck = None
                self._note()
                lost = self.outbox.lost - self._stuck_before
                self.say(
                    "info", f"{self.name}: the disk answers again; {lost:,} packets are not in the files"
                )

    def _hang(self, text: str) -> None:
        if self._stuck is None:
            self._stuck_before = self.outbox.lost
            self._stuck = SinkError("disk-stuck", f"{text}: the disk hangs; see the kernel's log (dmesg)")
            policy = "what does not fit into its queue is dropped and counted until the disk answers"
            self.say("error", f"{self.name}: {self._stuck.text}; {policy}")
            self._note()

    def fail(self, error: SinkError) -> None:
        """Note why nothing can be written; say it once."""
        before = self._error
        self._error = error
        self._again_at = trio.current_time() + RETRY_S
        if before is None:
            self._lost_before = self.outbox.lost
        if before is None or before.problem != error.problem:
            self._complain(error)
        self._note()

    def _complain(self, error: SinkError) -> None:
        """Say what is wrong, and what follows from it."""
        ends = self.spec.disk_full == "stop" and error.problem not in _OURS
        self._ended = self._ended or ends
        policy = (
            "the sink has ended; `helperd reload` starts it again"
            if ends
            else "what does not fit into its queue is dropped and counted until it can write again"
        )
        self.say("error", f"{self.name}: {error.text}; {policy}")

    def _note(self) -> None:
        """Its state has changed, or what is wrong."""
        self.outbox.reason = SLOW if self.error is None else self.error.problem
        self.on_change()

    def _recover(self) -> None:
        """It can write."""
        if self._error is not None:
            lost = self.outbox.lost - self._lost_before
            self._error = None
            self.say("info", f"{self.name} can be written again; {lost:,} packets are not in it")
            self._note()

    def set_beside(self, what: str, error: SinkError | None) -> None:
        """Note what is wrong beside the writing, or that it is not any more."""
        before = self._beside.pop(what, None)
        if error is not None:
            self._beside[what] = error
            if before is None:
                self.say("error", f"{self.name}: {error.text}")
                if self.spec.disk_full == "stop" and error.problem not in _OURS:
                    self.fail(error)
        if (before is None) != (error is None):
            self._note()

    # writing

    async def _prepare(self) -> None:
        """Make ready to write, and try until that works."""
        while True:
            if self._hands.in_the_way:
                self._hang(f"an earlier sink still waits for {self._hands.place}")
            else:
                try:
                    said = await self._hands.do(
                        self._files.prepare, f"the first look at {os.path.dirname(self.name)}", self._writer
                    )
                except SinkError as error:
                    self.fail(error)
                    if self._ended:
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
        tick_at = trio.current_time()
        sync_at = tick_at + SYNC_S
        while not self._ended and (outbox or not self._closing.is_set()):
            now = trio.current_time()
            if self._error is not None and not await self._mend(nursery):
                if self._closing.is_set():
                    break
                continue
            taken = outbox.take(TAKE_BYTES)
            if taken:
                await self._write(taken)
                if self._error is not None and self._closing.is_set():
                    break
            if now >= tick_at:
                tick_at = now + TICK_S
                await self._tick()
            if now >= sync_at:
                sync_at = now + SYNC_S
                self._keeper.sync_soon(nursery)
            await self._keeper.finish_all(nursery)
            if not taken and not outbox and not self._closing.is_set():
                self._idle = True
                with trio.move_on_at(tick_at):
                    await self._bell.wait()
                self._idle = False
            elif not self._plenty and not self._closing.is_set():
                await self._gather()
        untold = self._untold()
        await self._do(partial(self._files.turn, untold), "the end of")
        await self._keeper.finish_all(nursery)

    async def _mend(self, nursery: trio.Nursery) -> bool:
        """After a failure: wait for the next try, and see that the disk keeps what it is given; whether it does."""
        await self._rest(max(0.0, self._again_at - trio.current_time()))
        proven = await self._prove()
        await self._keeper.finish_all(nursery)
        if proven and not self.outbox:
            self._recover()
        return proven

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

    async def _do(self, work: Callable[[], object], doing: str) -> bool:
        """Let the writing thread do something with its file; whether that went well."""
        try:
            await self._hands.do(work, f"{doing} {self.path}", self._writer, self.outbox.lost_by[SLOW])
        except SinkError as error:
            self.fail(error)
            return False
        return True

    async def _prove(self) -> bool:
        """See that the disk keeps what it is given, and count what it has kept."""
        if not await self._do(self._files.prove, "a write to"):
            return False
        if self._files.current is not None:
            self._keeper.settle(self._files.current)
        return True

    async def _tick(self) -> None:
        await self._do(self._files.tick, "a look at")

    async def _write(self, taken: list[Batch]) -> None:
        outbox = self.outbox
        untold = self._untold()
        try:
            done: Outcome = await self._hands.do(
                partial(self._files.write, taken, untold),
                f"a write to {self.path}",
                self._writer,
                outbox.lost_by[SLOW],
            )
        except SinkError as error:  # nothing was begun
            self.fail(error)
            outbox.sent(taken, taken)
            outbox.unreported += untold
            return
        except Exception:
            outbox.lose(taken, "bug")  # how many are in the file is not known
            outbox.unreported += untold
            raise
        for text in done.said:
            self.say("warning", text)
        outbox.sent(taken, done.left)
        outbox.unreported += done.untold
        self.set_beside("keep", self._files.stays)
        if done.error is not None:
            self.fail(done.error)
        elif self._error is not None and await self._prove():
            self._recover()
        if done.error is None and not self._wrote:
            self._wrote = True
            self.on_change()

    def _untold(self) -> Losses:
        lost, self.outbox.unreported = self.outbox.unreported, Counter()
        return lost
