"""One source: its life as one linear coroutine, from first start to removal.

Rules:
  1. The coroutine stands where ``life.state`` says; what an event means there is in ``lifecycle.ANSWERS``.
  2. Whatever goes wrong inside an incarnation ends that incarnation and nothing else.
  3. A new process is asked for only when the old tree is gone.
  4. A bug of ours costs this source one try: it is logged, its processes are killed, and it is tried again later.
"""

from __future__ import annotations

import math
import random
import signal
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypedDict

import trio

from helperd import cgroups, replay
from helperd.asking import MAX_TEXT, cut_names, kept
from helperd.bell import Bell
from helperd.claim import Claim, claim_of, devices_of
from helperd.complaint import with_cure
from helperd.errors import (
    HelperdError,
    LauncherGone,
    LocalProtocolError,
    OpenRefused,
    PeerTimedOut,
    UsageError,
)
from helperd.incarnation import Incarnation, program_of
from helperd.layout import MAX_CONTENT
from helperd.lifecycle import (
    Answer,
    Ending,
    Event,
    Exit,
    Life,
    Policy,
    State,
    Why,
    classify,
)
from helperd.logs import Allowance
from helperd.reports import report_of
from helperd.routing import MAX_LINKTYPES
from helperd.translate import Translator
from helperd.watch import Watch
from helperd.wire import bulk
from helperd.wire.definition import SourceDefinition, channel_plan, for_kismet
from helperd.wire.frames import Kind, Run
from helperd.wire.greeting import attempts
from helperd.wire.identity import canonical, uuid_of
from helperd.wire.messages import (
    BluetoothReport,
    Changed,
    ConfigureReport,
    ConfigureRequest,
    ErrorReport,
    Hopping,
    Lost,
    Message,
    OpenReport,
    OpenRequest,
    Register,
    Severity,
    Shutdown,
    Text,
    WarningReport,
)
from helperd.wire.reasons import reason_word
from helperd.wire.session import Phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from helperd import vitals
    from helperd.bus import MessageBus
    from helperd.config.sources import SourceSpec
    from helperd.config.specs import HelperSpec
    from helperd.drivers import Drivers
    from helperd.gate import StartGate
    from helperd.hotplug import Arrival
    from helperd.launcher import Launcher
    from helperd.routing import Route, RouteTable, Segment
    from helperd.standing import StandingOrder
    from helperd.watch import Finding, Moment
    from helperd.wire.frames import Generation
    from helperd.wire.greeting import Program

BUSY_S: Final = 30.0
"""Seconds that a source waits for another that is opening its device, where that may take as long as it likes."""
_SAMPLE_S: Final = 1.0
MAX_WORDS: Final = 400
"""Characters of last words in the line that says how a helper ended."""


class Shell(Protocol):
    """What a source needs of the daemon around it."""

    launcher: Launcher
    table: RouteTable
    bus: MessageBus
    gate: StartGate
    room: Bell
    lagged_at: float
    drivers: Drivers

    @property
    def sources(self) -> Sequence[Source]:
        """All sources, in the order in which they were added."""

    def changed(self) -> None:
        """Wake whoever follows the state."""

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel has ended a process for lack of memory just now."""

    async def choose(self, spec: SourceSpec) -> tuple[HelperSpec, int]:
        """The helper that opens a definition, and its profile number."""

    def log(self, severity: str, source: str, text: str, /) -> None:
        """Write a log line."""


class _OwnReason(TypedDict):
    """The part of an ``Ending`` that the helper has a say in."""

    said: str | None
    said_problem: str


@dataclass(slots=True)
class Opened:
    """What the helper said when it opened its device, and what it is called with."""

    generation: str = ""
    hardware: str = ""
    channel: str = ""
    capture_interface: str = ""
    version: str = ""
    dlt: int | None = None
    channels: tuple[str, ...] = ()
    hop_channels: tuple[str, ...] = ()
    hop_rate: float | None = None
    hop_offset: int | None = None

    @property
    def tunable(self) -> bool:
        """Whether a configure request makes sense; it ends C helpers without channel control."""
        return bool(self.channels)


@dataclass(slots=True)
class Meter:
    """Packets per second over the last full second, sampled whether anybody looks or not.

    Attributes:
        rate: None until there are samples a second apart.
    """

    rate: float | None = None
    _at: float = 0.0
    _packets: int | None = None

    def tick(self, now: float, packets: int | None) -> None:
        """Take a sample if it is time for one; None: nothing runs."""
        if packets is None:
            self.rate = self._packets = None
        elif self._packets is None:
            self._at, self._packets = now, packets
        elif now - self._at >= _SAMPLE_S:
            self.rate = (packets - self._packets) / (now - self._at)
            self._at, self._packets = now, packets


class Source:
    """One configured definition and what becomes of it."""

    def __init__(self, spec: SourceSpec, shell: Shell) -> None:
        self.spec = spec
        self.shell = shell
        self.route: Route = shell.table.route(spec.name)
        self.life = Life(spec.name, policy_of(spec), since=trio.current_time())
        self.life.on_change = self._on_change
        self.orders = Bell()
        self.helper: HelperSpec | None = None
        self.opened = Opened()
        self.watch: Watch | None = None
        self.faults = 0
        self.last_packet_at: float | None = None
        self.rung = ""
        self.last_words: list[str] = []
        self._allowance = Allowance(trio.current_time())
        self.meter = Meter()
        self.incarnation: Incarnation | None = None
        self.vitals: vitals.Tree | None = None
        self.identity = ""
        self.claim: Claim | None = None
        self.refused_for: Source | None = None
        self.standing: StandingOrder | None = None
        self.hop_rate: float | None = None
        self.reported: tuple[str, ...] = ()
        self._translator: Translator | None = None
        self._scope: trio.CancelScope | None = None
        self._input: replay.Seen | None = None  # the file that it replays, as it was at its last start
        self._gone: Exit | None = None
        self._shutdown: str | None = None
        self._said = ""
        self._failed: ErrorReport | None = None
        self._offers_bulk = False
        self._numbers: dict[int, int] = {}  # of interfaces, by link type, as agreed with this incarnation
        self._accepted = False  # its open report: from then on packets have a way
        self._unacceptable: HelperdError | None = None
        self._program: Program | None = None
        self._last_way = True
        self._has_opened = False
        self._held_since: float | None = None
        self._received_before = 0

    @property
    def name(self) -> str:
        """The source's name."""
        return self.spec.name

    def is_kept(self) -> bool:
        """False once it is to be removed."""
        return self.life.kept

    def post(self, event: Event, *, incarnation: int | None = None, **detail: object) -> Answer:
        """Tell the life that something happened, and act on its answer."""
        answer = self.life.post(event, trio.current_time(), incarnation, **detail)
        if answer is Answer.END and self._scope is not None:
            self._scope.cancel()
        elif answer is Answer.BUG:
            self.shell.log("error", self.name, f"bug: event {event} in state {self.life.state}")
        self.orders.ring()
        return answer

    def adjust(self, helper: HelperSpec) -> None:
        """Take over what a reload changed about the helper and needs no new process."""
        self.helper = helper
        if self.incarnation is not None:
            self.incarnation.helper = helper
        if self.watch is not None:
            self.watch.helper = helper

    def forget(self) -> None:
        """Its definition, or its helper, is another one: what was reported before says nothing of it."""
        self.reported, self._has_opened = (), False

    def _on_change(self, _life: Life) -> None:
        self.shell.changed()

    # the life

    async def keep_running(self) -> None:
        """Live until removed; never raises because of a helper, nor because of a bug of ours.

        Raises:
            LauncherGone: there is no launcher any more, and no helper.
        """
        while self.is_kept():
            try:
                await self._live_on()
            except Exception as error:
                if is_end(error):
                    raise
                await self._recover(error)

    async def _live_on(self) -> None:
        """Go on from wherever the life stands, by one step."""
        life = self.life
        if life.state in {State.DOWN, State.FAILED} and not life.woken:
            await self._park()
            if not self.is_kept():
                life.enter(None, trio.current_time())
        elif life.state is State.BACKOFF and not life.woken:
            await self._rest()
        else:
            await self._guarded_run()

    async def _park(self) -> None:
        """Wait for an order; or, where the file that it replays was at fault, for another one in its place."""
        life = self.life
        waits = life.state is State.DOWN and life.wanted == "up" and life.policy.restart != "temporary"
        if not waits or life.exit is None or life.exit.kind is not Why.INPUT:
            await self.orders.wait()
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wake_when_changed)
            await self.orders.wait()
            nursery.cancel_scope.cancel()

    async def _wake_when_changed(self) -> None:
        await replay.wait_changed(self._interface, self._input)
        self.shell.log("info", self.name, f"{self._interface} has changed: tried again")
        self.post(Event.START)

    @property
    def _interface(self) -> str:
        return SourceDefinition.parse(self.spec.definition).interface

    async def _recover(self, error: Exception) -> None:
        """Our own code failed outside the border: leave no process behind, and go on from a state that is true."""
        self.faults += 1
        self._scope = None
        self.life.post(Event.OUR_FAULT, trio.current_time())
        told = "".join(traceback.format_exception(error)).strip()
        self.shell.log("error", self.name, f"bug: {type(error).__name__}: {error}\n{told}")
        incarnation, self.incarnation = self.incarnation, None
        if incarnation is not None:
            with trio.CancelScope(shield=True):
                try:
                    await incarnation.process.kill()
                    await incarnation.process.empty()
                finally:
                    incarnation.close()
        self.watch = None
        self._translator = None
        self.rung = ""
        self._release()
        bug = Exit(Why.ACCIDENT, "bug", f"a bug of helperd's own: {type(error).__name__}: {error}")
        self.life.recover(bug, trio.current_time(), random.random())
        self._call_the_refused()
        await trio.lowlevel.checkpoint()

    async def _rest(self) -> None:
        life = self.life
        assert life.next_try_at is not None
        with trio.move_on_at(life.next_try_at) as timer:
            await self.orders.wait()
        if timer.cancelled_caught:
            self.post(Event.DUE)
            return
        if not life.kept:
            life.enter(None, trio.current_time())
        elif life.wanted == "down":
            life.enter(State.DOWN, trio.current_time())

    async def _guarded_run(self) -> None:
        life = self.life
        ended = await self._run_once()
        now = trio.current_time()
        order = self.standing
        if order is not None and order.to_blame(ended, now):
            self._drop(order, f"its helper has ended again soon after it: {ended.text}")
        target = life.verdict(ended, now, random.random())
        self._announce_end(ended, target, now)
        life.enter(target, now, why="" if target is not State.FAILED else "gave-up")
        if target is State.STARTING:
            life.woken = True
        else:
            self._call_the_refused()
        await trio.lowlevel.checkpoint()

    def _announce_end(self, ended: Exit, target: State | None, now: float) -> None:
        life = self.life
        after = {
            State.STARTING: "starting again",
            State.DOWN: "stays down"
            + (", until its file has changed" if ended.kind is Why.INPUT and life.wanted == "up" else ""),
            State.FAILED: "given up",
            None: "removed",
        }
        if target is State.BACKOFF and life.next_try_at is not None:
            then = f"next try in {life.next_try_at - now:.1f} s"
        else:
            then = after.get(target, str(target))
        severity = "info" if ended.kind in {Why.ASKED, Why.DONE} else "warning"
        text = self.how_it_ended(ended)
        if severity == "warning":
            self.shell.bus.post(severity, self.name, text)
        self.shell.log(severity, self.name, f"{text}; {then}")

    def how_it_ended(self, ended: Exit) -> str:
        """An end in one line; its helper's last words where it was no good one."""
        words = ""
        if self.last_words and ended.kind not in {Why.ASKED, Why.DONE}:
            words = f"; last words: {_short(self.last_words[-1], MAX_WORDS)}"
        return f"{ended.problem}: {_short(ended.text, MAX_TEXT)}{words}"

    async def _run_once(self) -> Exit:
        """One incarnation, from the launch request to the empty tree, and how it ended."""
        life = self.life
        error: BaseException | None = None
        self._shutdown = None
        self._offers_bulk = self._accepted = False
        self._numbers = {}
        self._unacceptable = None
        self._said = ""
        self._failed = None
        self.refused_for = None
        self.last_words = []
        self.watch = None
        self._received_before = self.route.ledger.received
        if life.state is not State.STARTING:
            life.enter(State.STARTING, trio.current_time())
        number = life.new_incarnation()
        with trio.CancelScope() as scope:
            self._scope = scope
            try:
                await self._start(number)
            except* LauncherGone:
                raise
            except* Exception as group:  # noqa: BLE001 - the border: whatever is wrong inside ends here
                error = _first(group)
        self._scope = None
        if life.ended_by is None:
            life.post(Event.ENDED, trio.current_time(), number)
        reason = self._reason(error)
        if not isinstance(error, HelperdError | None):
            self.shell.log("error", self.name, f"bug: {type(error).__name__}: {error}")
        life.enter(State.STOPPING, trio.current_time(), reason)
        incarnation = self.incarnation
        how, code, climbed = await self._stop(reason)
        life.post(Event.EMPTY, trio.current_time(), number)
        opened = self._accepted
        self._release()
        return classify(
            Ending(
                asked=self._asked(),
                error=error,
                hung=self._hung()[0],
                hung_text=self._hung()[1],
                how="signal" if how == "dumped" else how,
                code=code,
                core=how == "dumped",
                climbed=climbed,
                oom=(how, code, climbed) == ("signal", signal.SIGKILL, False)
                and self.shell.ran_out_of_memory(),
                greeted=bool(self.opened.generation) or self._has_spoken(),
                unread=incarnation is not None and incarnation.channel.unread,
                opened=opened,
                v0_allowed=not self._last_way,
                shutdown=self._shutdown,
                **self._own_reason(),
                status_meaningful=bool(self.helper and self.helper.status_meaningful),
                replay=self._input is not None or bool(self.helper and self.helper.builtin == _REPLAYS),
            )
        )

    async def _start(self, number: int) -> None:
        life = self.life
        shell = self.shell
        self.opened = Opened()
        self.helper, profile = await shell.choose(self.spec)
        self._input = await replay.look(self._interface)
        await self._take_device(self.helper)
        async with shell.gate.slot() as slot:
            ways = self._ways_to_greet()
            self._last_way = len(ways) == 1
            incarnation = await Incarnation.launch(
                shell.launcher,
                self.helper,
                profile,
                deliver=self._deliver,
                on_message=self._on_message,
                generation=ways[0],
            )
            incarnation.on_line = self._on_stderr
            incarnation.holding = self._holding
            incarnation.wait_for_room = self._wait_for_room
            self.incarnation = incarnation
            incarnation.stderr.allowance = self._allowance
            now = trio.current_time()
            watch = Watch(incarnation.channel, incarnation.process.pid, self.helper, self.route, now)
            watch.await_within(
                self.helper.greet_timeout, now, "the answer to the first PING", "greet_timeout"
            )
            self.watch = watch
            life.post(Event.LAUNCHED, trio.current_time(), number)
            life.enter(State.GREETING, trio.current_time())
            async with trio.open_nursery() as inside:
                inside.start_soon(slot.release_soon)
                inside.start_soon(incarnation.channel.keep_writing)
                inside.start_soon(incarnation.read_stderr)
                inside.start_soon(self._watch_end, incarnation, number)
                await incarnation.channel.greet()
                watch.greeted = True
                watch.await_within(
                    self.helper.open_timeout, trio.current_time(), "its open report", "open_timeout"
                )
                slot.release()
                await self._open(incarnation, number, watch)
                inside.start_soon(self._retune)
                await (
                    trio.lowlevel.checkpoint()
                )  # however soon it is done, who waits for it to run sees it run
                await incarnation.channel.pump(self._holding, self._wait_for_room)
                inside.cancel_scope.cancel()

    def _ways_to_greet(self) -> tuple[Generation | None, ...]:
        """How to address the helper now, and what is left to try when it does not understand."""
        helper = self.helper
        assert helper is not None
        self._program = None
        if helper.builtin is not None:
            return (None,)
        self._program = program_of(helper)
        known = self.shell.drivers.programs.get(self._program) if self._program is not None else None
        ways = attempts(helper.wire, known)
        return ways[1:] if self.life.history.v0_tried and len(ways) > 1 else ways

    async def _open(self, incarnation: Incarnation, number: int, watch: Watch) -> None:
        life = self.life
        channel = incarnation.channel
        generation = channel.session.generation
        assert generation is not None
        self.opened.generation = generation.name
        if self._program is not None:
            self.shell.drivers.programs.learn(self._program, generation.name)
        self._translator = Translator(self.name, self.shell.table.interfaces, generation, self.route.ledger)
        self._translator.definition = self.spec.definition
        life.post(Event.GREETED, trio.current_time(), number)
        life.enter(State.OPENING, trio.current_time())
        if self._offers_bulk and channel.session.phase is not Phase.CLOSING:
            channel.send(Register(bulk.SUBSYSTEM))
        report = await channel.request(OpenRequest(self._definition_for_helper()), OpenReport)
        if self._unacceptable is not None:
            raise self._unacceptable
        if not report.success:
            word = reason_word(report.problem, "open-refused")
            raise OpenRefused(word, with_cure(kept(report.message)) or "the helper gave no reason")
        watch.run(trio.current_time())
        life.post(Event.OPENED, trio.current_time(), number)
        life.enter(State.RUNNING, trio.current_time())
        self.shell.log(
            "info", self.name, f"running: {kept(report.message or report.hardware) or self.spec.definition}"
        )

    def _definition_for_helper(self) -> str:
        """The definition in the helper's dialect: who offers helperd's own extension reads ours.

        Raises:
            OpenRefused: "not-supported"; it cannot be said in Kismet's.
        """
        if self._offers_bulk:
            return self.spec.definition
        assert self.helper is not None
        try:
            return for_kismet(self.spec.definition, self.helper.name)
        except UsageError as error:
            raise OpenRefused(error.problem, error.text) from None

    def _number(self, dlt: int) -> None:
        """Tell the helper which interface number its blocks of a link type have; or that it may not have that one."""
        assert self.incarnation is not None
        assert self._translator is not None
        channel = self.incarnation.channel
        if channel.session.phase is not Phase.OPEN:
            return  # it has said goodbye in the same read
        number = self._translator.agree(dlt)
        if number is not None:
            self._numbers[dlt] = number
            self._describe(self.life.incarnation)
        channel.send(Register(bulk.SUBSYSTEM, number, dlt))

    def _on_register(self, message: Register) -> None:
        """The helper offers the bulk extension, or asks for the number of a link type's interface."""
        if message.subsystem == bulk.SUBSYSTEM:
            self._offers_bulk = True
            if message.dlt is not None and self._accepted:
                self._number(message.dlt)
        elif message.subsystem.startswith(bulk.FAMILY):
            text = f"it offers {message.subsystem}, this is {bulk.SUBSYSTEM}"
            self._hear("info", f"{text}: its packets come one per frame, with microseconds")

    def _describe(self, number: int) -> None:
        """What readers of the frames format are told of this incarnation."""
        dlt = self.opened.dlt
        self.route.describe(
            number,
            {
                "definition": self.spec.definition,
                "generation": self.opened.generation,
                "dlt": "" if dlt is None else str(dlt),
                "hardware": self.opened.hardware,
                "interface": self.opened.capture_interface,
                "interfaces": ",".join(f"{number}:{dlt}" for dlt, number in self._numbers.items()),
                "uuid": self.identity,
            },
        )

    # the device and its identity

    def awaits(self, arrival: Arrival) -> bool:
        """Whether what came may be its device."""
        if arrival.unknown:
            return True
        names = devices_of(self.spec.definition)
        if arrival.usb:  # an interface or a path comes under its own name
            interface = self.helper is not None and self.helper.builtin == "interface"
            return not interface and not any(name.startswith("/") for name in names)
        return not arrival.names.isdisjoint(names)

    async def _take_device(self, helper: HelperSpec) -> None:
        """Claim the device, so that no second process disturbs the first; wait while another source is opening it.

        Whether it can be opened, and what else is wrong, is known then: so nobody is refused because of one that is
        refused itself.

        Raises:
            OpenRefused: "busy": another source has it.
            UsageError: "bad-definition": it cannot be read, or its hop rate is none.
        """
        SourceDefinition.parse(self.spec.definition).rate()
        if not helper.exclusive:
            return
        claim = claim_of(helper, self.spec.definition)
        with trio.move_on_after(
            helper.greet_timeout + helper.open_timeout if helper.open_timeout else BUSY_S
        ):
            while (other := self._rival(claim)) is not None and other.claim is not None:
                if other.claim.opened:
                    break
                await other.claim.decided.wait()
        if (other := self._rival(claim)) is not None:
            raise self._refusal(other)
        self.claim = claim

    def _rival(self, claim: Claim) -> Source | None:
        """The source that has a device, or is opening it."""
        for other in self.shell.sources:
            if other is not self and other.claim is not None and other.claim.meets(claim):
                return other
        return None

    def _release(self) -> None:
        """Nothing of the process is left: the device is free."""
        claim, self.claim = self.claim, None
        self._accepted = False
        if claim is not None:
            claim.decided.set()

    def _call_the_refused(self) -> None:
        """Let those try who were refused because of this source, now that it does not try itself."""
        for other in self.shell.sources:
            if other.refused_for is self:
                other.post(Event.DEVICE_APPEARED)

    def _refusal(self, other: Source) -> OpenRefused:
        self.refused_for = other
        interface = SourceDefinition.parse(self.spec.definition).interface
        state = "open already" if other.claim is None or other.claim.opened else "being opened"
        text = f"{interface} is {state}, as source {other.name!r} (UUID {other.identity})"
        assert self.helper is not None
        may = f"if its devices can be open twice, write exclusive = false for the helper {self.helper.name!r}"
        return OpenRefused("busy", f"{text}; stop that one, or, {may}")

    def _identify(self, report: OpenReport) -> None:
        """Settle the source's UUID: its definition's, else its helper's, else one made of its name.

        Where several sources may have one device, the helper's would be the same for all of them.

        Raises:
            OpenRefused: "busy": another source has it open. UsageError: "bad-definition": the definition's is none.
        """
        definition = SourceDefinition.parse(self.spec.definition)
        wished = definition.get("uuid")
        helper = self.helper
        assert helper is not None
        # some helpers report the rest of their definition behind it (kismet-protocol.md, H11)
        uuid = canonical(wished or (report.uuid.partition(",")[0] if helper.exclusive else ""))
        if wished and not uuid:
            text = f"uuid={wished!r} is none; write 8-4-4-4-12 hexadecimal digits"
            raise UsageError("bad-definition", f"{self.name}: {text}")
        if not uuid:
            if report.uuid and helper.exclusive:
                self.say("warning", f"its helper calls itself {report.uuid[:64]!r}, which is no UUID")
            uuid = uuid_of(f"helperd_{helper.name}", self.name)
        for other in self.shell.sources:
            if other is not self and other.accepted and other.identity == uuid:
                raise self._refusal(other)
        self.identity = uuid

    @property
    def accepted(self) -> bool:
        """Whether it has its device now: its helper has said yes, and its process is not gone yet."""
        return self._accepted

    def _take(self, report: OpenReport) -> None:
        opened = self.opened
        opened.hardware = kept(report.hardware)
        opened.channel = kept(report.channel)
        opened.capture_interface = kept(report.capture_interface)
        opened.version = kept(report.version)
        opened.dlt = report.dlt
        opened.channels = self.reported = cut_names(report.channels)
        self._has_opened = True
        assert self.helper is not None
        self.shell.drivers.learn(self.helper, tunes=bool(report.channels), hops=len(report.channels) > 1)
        self._note_hopping(report.hopping)
        if self._translator is not None:
            self._translator.hardware = opened.hardware
            self._translator.dlt = report.dlt

    async def _watch_end(self, incarnation: Incarnation, number: int) -> None:
        await incarnation.wait_ended()
        self.post(Event.ENDED, incarnation=number)

    @property
    def kind(self) -> str:
        """Its source type: as its definition says, else the first that its helper serves."""
        kind = SourceDefinition.parse(self.spec.definition).get("type").lower()
        if kind and kind != "auto":
            return kind
        return "" if self.helper is None else next(iter(self.helper.types), self.helper.name)

    def own_channels(self) -> tuple[str, ...]:
        """What it hops over if nobody says otherwise: what its definition says of what its helper named."""
        return channel_plan(SourceDefinition.parse(self.spec.definition), self.reported)[1]

    def hops(self) -> bool:
        """Whether it is to hop without being told to: it can, and neither its definition nor its block forbids it.

        A definition with ``channel`` and neither ``channels`` nor ``channel_hop=true`` means that channel alone.
        """
        helper = self.helper
        if helper is None or helper.can_tune is False or helper.can_hop is False:
            return False
        if not self.spec.hop or not self.reported:
            return False
        definition = SourceDefinition.parse(self.spec.definition)
        fixed = bool(definition.get("channel")) and not definition.get("channels")
        return definition.flag("channel_hop", default=not fixed) and len(self.own_channels()) > 1

    async def tune(self, order: StandingOrder) -> None:
        """Carry out an operator's order now and after every restart; one that does not run gets it at its next start.

        Raises:
            HelperdError: "bad-value", "not-supported", "timed-out", or what the helper said; what was before stays.
        """
        self._check_order(order)
        if self.life.state is State.RUNNING:
            await self._carry_out(order)
        else:
            order.kept = True
            self.standing = order
        self.shell.changed()

    def _check_order(self, order: StandingOrder) -> None:
        """Refuse what the helper is known not to be able to.

        Raises:
            HelperdError: "bad-value", "not-supported".
        """
        helper = self.helper
        if helper is not None and helper.can_tune is False:
            text = f"{self.name}: can_tune = false stands in the block of its helper, so it cannot be tuned"
            raise HelperdError("not-supported", text)
        if helper is not None and self._has_opened and not self.reported:
            raise HelperdError(
                "not-supported", f"{self.name}: its helper named no channels, so it cannot be tuned"
            )
        if helper is not None and helper.can_hop is False and order.channel is None:
            text = f"{self.name}: can_hop = false stands in the block of its helper; name one channel"
            raise HelperdError("not-supported", text)
        definition = SourceDefinition.parse(self.spec.definition)
        order.check(self.name, channel_plan(definition, self.reported)[0] if self.reported else ())
        if self.reported and order.channel is None and not order.channels and not self.own_channels():
            raise HelperdError("bad-value", f"{self.name}: its definition leaves it no channel to hop over")

    async def _carry_out(self, order: StandingOrder) -> None:
        """Ask the helper, and remember what it said yes to, unless that is what it does by itself.

        Raises:
            HelperdError: as ``tune``.
        """
        order.sent_at = trio.current_time()
        await self._ask_to_tune(order.request(self.own_channels()))
        order.kept = False
        own = order.channel is None and not order.channels
        if own:
            self.hop_rate = order.rate
        self.standing = None if own and self.hops() else order

    async def _retune(self) -> None:
        """Ask for the standing order again at a new start."""
        order = self.standing
        if order is None:
            return
        try:
            self._check_order(order)
            await self._carry_out(order)
        except LocalProtocolError:
            return  # it is ending already
        except HelperdError as error:
            self._drop(order, error.text.removeprefix(f"{self.name}: "))
        self.shell.changed()

    def _drop(self, order: StandingOrder, why: str) -> None:
        """An order that cannot be carried out is told once, and is over."""
        if self.standing is order:
            self.standing = None
            self.say("warning", f"the order to {order} is dropped, its definition counts again: {why}")
            self.shell.changed()

    async def hop(self, hopping: Hopping) -> ConfigureReport:
        """Let a running source hop as the plan has it; not asked for again after a restart.

        Raises:
            HelperdError: "not-allowed-now" (it does not run), "not-supported", "timed-out", or what the helper said.
        """
        return await self._ask_to_tune(ConfigureRequest(hopping=hopping))

    async def _ask_to_tune(self, request: ConfigureRequest) -> ConfigureReport:
        incarnation, helper = self.incarnation, self.helper
        if incarnation is None or helper is None or self.life.state is not State.RUNNING:
            raise HelperdError("not-allowed-now", f"{self.name} does not run; start it first")
        if not self.opened.tunable or helper.can_tune is False:
            raise HelperdError(
                "not-supported", f"{self.name}: its helper named no channels, so it cannot be tuned"
            )
        with trio.move_on_after(helper.configure_timeout):
            report = await incarnation.channel.configure(request)
            if not report.success:
                raise HelperdError(
                    reason_word(report.problem, "open-refused"),
                    f"{self.name}: {kept(report.message) or 'the helper gave no reason'}",
                )
            return report
        raise PeerTimedOut(
            "timed-out",
            f"{self.name}: no answer to the configure request within {helper.configure_timeout:g} s "
            f"(configure_timeout of [[helper]] {helper.name})",
        )

    # packets and messages

    def _deliver(self, runs: list[Run], _size: int) -> None:
        if not self._accepted:
            self.route.refuse(runs)
            return
        if self._shutdown is not None:
            self.route.refuse(runs, "after-shutdown")
            return
        assert self.incarnation is not None
        self.last_packet_at = self.incarnation.channel.life_at
        self.route.deliver(runs, self._translate)

    def _translate(self, runs: Sequence[Run], segments: list[Segment]) -> None:
        assert self._translator is not None
        told, refused = self._translator.cut, len(self._translator.refused)
        self._translator.translate(runs, time.time_ns(), segments)
        if not told and self._translator.cut:
            text = f"a packet was cut to {MAX_CONTENT:,} bytes, the most that readers take; status counts all"
            self.say("warning", text)
        for dlt in self._translator.refused[refused:]:
            text = f"link type {dlt}: its packets are lost; a source may have {MAX_LINKTYPES}, with numbers up to 65535"
            self.say("warning", text)

    def _on_message(self, message: Message) -> None:
        if isinstance(message, Text):
            self._said = kept(message.text)
            self._hear(_SEVERITIES[message.severity], message.text)
        elif isinstance(message, WarningReport):
            self._hear("warning", message.warning)
        elif isinstance(message, ErrorReport):
            self._on_error(message)
        elif isinstance(message, OpenReport):
            if message.success:  # before the packets that came in the same read
                self._accept(message)
        elif isinstance(message, BluetoothReport):
            self._deliver_bluetooth(message)
        elif isinstance(message, Lost | Changed):
            ledger = self.route.ledger
            counted = ledger.upstream if isinstance(message, Lost) else ledger.changed
            counted[message.reason] += message.packets
        elif isinstance(message, Register):
            self._on_register(message)
        elif isinstance(message, Shutdown):
            self._shutdown = kept(message.reason)
            self._hear_the_last()
        elif isinstance(message, ConfigureReport):
            self._note_tuning(message)

    def _on_error(self, report: ErrorReport) -> None:
        """Keep the helper's own reason for its end, and tell it once: helpers say why, and then that it is the end."""
        if not report.success:
            self._failed = report
            self._hear_the_last()
        text = kept(report.message) or "the helper reports an error without words"
        if text != self._said:
            self._hear("error", text)

    def _hear_the_last(self) -> None:
        """The helper says that it is over: so it is, whether its process ends or not."""
        if self.incarnation is not None:
            self.incarnation.leaving = True
        self.post(Event.ENDED, incarnation=self.life.incarnation)

    def _accept(self, report: OpenReport) -> None:
        """Take an open report over; from here on packets have a way. One that cannot be accepted is noted."""
        try:
            self._identify(report)
        except (OpenRefused, UsageError) as error:
            self._unacceptable = error
            return
        self._take(report)
        self._describe(self.life.incarnation)
        self._accepted = True
        if self._offers_bulk and report.dlt is not None:
            self._number(report.dlt)  # before any that it asks for
        if self.claim is not None:
            self.claim.open(report.capture_interface)

    def _deliver_bluetooth(self, message: BluetoothReport) -> None:
        """A report that older Bluetooth helpers send in place of JSON goes the way of JSON."""
        assert self.incarnation is not None
        generation = self.incarnation.channel.session.generation
        assert generation is not None
        frame = generation.encode(report_of(message), 0)
        self._deliver([Run(Kind.PACKETS, frame, 0, len(frame), 1, 1)], len(frame))
        if message.message is not None:
            self._hear(_SEVERITIES[message.message.severity], message.message.text)
        if message.warning:
            self._hear("warning", message.warning)

    def _note_tuning(self, report: ConfigureReport) -> None:
        """Show what the helper says it is tuned to, asked or not."""
        order = self.standing
        if order is not None and not report.request and order.contradicted(report.channel, report.hopping):
            self._drop(order, kept(report.message) or "its helper hops over other channels")
        if report.channel:
            self.opened.channel = kept(report.channel)
            self.opened.hop_channels = ()
            self.opened.hop_rate = self.opened.hop_offset = None
        else:
            self._note_hopping(report.hopping)
        self.shell.changed()

    def _note_hopping(self, hopping: Hopping | None) -> None:
        if hopping is not None and hopping.channels:
            opened = self.opened
            opened.channel = "hopping"
            opened.hop_channels = cut_names(hopping.channels)
            opened.hop_rate, opened.hop_offset = hopping.rate, hopping.offset

    def _hear(self, severity: str, text: str) -> None:
        """Pass on what the helper says: within its budget, equal ones as one."""
        if self.shell.bus.hear(severity, self.name, text) is not None:
            self.shell.log(severity, self.name, text)

    def say(self, severity: str, text: str) -> None:
        """Tell people, and the log, something about this source."""
        self.shell.bus.post(severity, self.name, text)
        self.shell.log(severity, self.name, text)

    def _on_stderr(self, line: str) -> None:
        self.shell.log("info", self.name, f"stderr: {line}")

    # holding and liveness

    def _holding(self) -> bool:
        """Whether a lossless consumer is full; one that has held too long drops from then on."""
        if not self.route.holding():
            self._held_since = None
            return False
        now = trio.current_time()
        if self._held_since is None:
            self._held_since = now
        return True

    async def _wait_for_room(self) -> None:
        assert self._held_since is not None
        limits = [outbox.hold for outbox in self.route.holding()]
        with trio.move_on_at(self._held_since + min(limits)) as timer:
            await self.shell.room.wait()
        if timer.cancelled_caught:
            for outbox in self.route.holding():
                if trio.current_time() >= self._held_since + outbox.hold:
                    outbox.give_up()

    def tick(self, moment: Moment) -> None:
        """Look after the helper's life, and sample its rate; called four times a second."""
        watch, life = self.watch, self.life
        self.meter.tick(moment.now, self.route.ledger.received if life.state is State.RUNNING else None)
        if watch is None or life.state not in _WATCHED or life.ended_by is not None:
            return
        found = watch.turn(moment, self.spec, self.last_packet_at)
        if found is not None:
            self._on_finding(found)
        elif life.history.n and watch.word == "ok" and moment.now >= (life.settles_at or math.inf):
            self.post(Event.SETTLED, incarnation=life.incarnation)
            self.shell.changed()

    def _on_finding(self, found: Finding) -> None:
        number = self.life.incarnation
        if found.word in {"alert", "not-listening"}:
            self.say("alert" if found.word == "alert" else "warning", f"{found.reason}: {found.text}")
        elif found.word == "timed-out":
            self.post(Event.DUE, incarnation=number, reason=found.reason, text=found.text)
        else:
            if self.watch is not None:
                self.watch.word, self.watch.reason = found.word, found.reason
            self.post(Event.HUNG, incarnation=number, reason=found.reason, text=found.text)

    @property
    def liveness(self) -> tuple[str, str]:
        """The word that status shows while there is a process, and the reason beside it."""
        if self.incarnation is None or self.watch is None:
            return "", ""
        if self.rung == "wait":  # for the kernel; a frozen cgroup of v1 lets nobody end
            frozen = cgroups.is_frozen(self.incarnation.process.pid)
            return ("starved", "its") if frozen else ("hung", "stuck-in-kernel")
        if self.watch.word == "ok" and self.life.state is State.RUNNING and self.route.holding():
            return "stalled-by-consumer", ""
        return self.watch.word, self.watch.reason

    # the end

    def _own_reason(self) -> _OwnReason:
        """What the helper itself gave as the reason of its end."""
        failed = self._failed
        if failed is None:
            return {"said": None, "said_problem": ""}
        return {"said": kept(failed.message), "said_problem": reason_word(failed.problem, "")}

    def _has_spoken(self) -> bool:
        """Whether it said that it is over, be it in place of its greeting."""
        return self._failed is not None or self._shutdown is not None

    def _asked(self) -> str:
        if self.life.ended_by is None:
            return ""
        event, _detail = self.life.ended_by
        orders = {Event.STOP, Event.RESTART, Event.REPLACE, Event.REMOVE}
        return event.value if event in orders else ""

    def _hung(self) -> tuple[str, str]:
        if self.life.ended_by is None or self.life.ended_by[0] not in {Event.HUNG, Event.DUE}:
            return "", ""
        detail = self.life.ended_by[1]
        return str(detail.get("reason", "")), str(detail.get("text", ""))

    def _reason(self, error: BaseException | None) -> str:
        """The problem word that decides which rungs of the ladder make sense."""
        if error is not None:
            return error.problem if isinstance(error, HelperdError) else "bug"
        return self._asked() or self._hung()[0] or "exited"

    async def _stop(self, reason: str) -> tuple[str, int | None, bool]:
        incarnation = self.incarnation
        if incarnation is None:
            return "", None, False
        await incarnation.stop(reason=reason, entering=self._on_rung)
        self._count_unsent(incarnation)
        self.last_words = list(incarnation.stderr.last)
        self.incarnation = None
        self._translator = None
        self.rung = ""
        ended = incarnation.ended
        return ("", None, True) if ended is None else (ended.how, ended.code, incarnation.climbed)

    def _count_unsent(self, incarnation: Incarnation) -> None:
        """What the helper had produced and died with: exact for our own, a cut frame at least for others."""
        ledger = self.route.ledger
        counted = incarnation.produced
        if counted is not None:
            received = ledger.received - self._received_before
            if counted > received:
                ledger.upstream["died-unsent"] += counted - received
        elif incarnation.channel.cut:
            ledger.upstream["partial-frame"] += 1

    def _on_rung(self, rung: str) -> None:
        self.rung = rung
        self.shell.changed()


_REPLAYS: Final = "pcapfile"
"""The bundled helper that reads nothing but files, also such as only it may look at."""
_WATCHED: Final = frozenset({State.GREETING, State.OPENING, State.RUNNING})
_SEVERITIES: Final = {
    Severity.DEBUG: "debug",
    Severity.INFO: "info",
    Severity.ERROR: "error",
    Severity.ALERT: "alert",
    Severity.FATAL: "fatal",
}


def policy_of(spec: SourceSpec) -> Policy:
    """The restart policy that a source's configuration asks for."""
    return Policy(restart=spec.restart, give_up=spec.give_up, intensity=spec.intensity, period=spec.period)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first leaf of a group: the error that ended the others."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def is_end(error: BaseException) -> bool:
    """Whether the launcher's end is in it, which is everybody's end."""
    if isinstance(error, BaseExceptionGroup):
        return any(map(is_end, error.exceptions))
    return isinstance(error, LauncherGone)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]} ..."
