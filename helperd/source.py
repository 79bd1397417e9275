"""One source: its life as one linear coroutine, from first start to removal.

Rules:
  1. The coroutine stands where ``life.state`` says; what an event means there is in ``lifecycle.ANSWERS``.
  2. Whatever goes wrong inside an incarnation ends that incarnation and nothing else.
  3. A new process is asked for only when the old tree is gone.
"""

from __future__ import annotations

import random
import select
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import trio

from helperd import vitals
from helperd.bell import Bell
from helperd.errors import HelperdError, LauncherGone, OpenRefused, PeerTimedOut
from helperd.incarnation import Incarnation, program_of
from helperd.lifecycle import (
    Answer,
    ChildWatch,
    Ending,
    Event,
    Evidence,
    Exit,
    Life,
    Patience,
    Policy,
    State,
    Why,
    classify,
    verdict,
)
from helperd.translate import Translator
from helperd.wire import bulk
from helperd.wire.greeting import attempts
from helperd.wire.messages import (
    ConfigureReport,
    ConfigureRequest,
    ErrorReport,
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
from helperd.wire.session import Phase

if TYPE_CHECKING:
    from helperd.bus import MessageBus
    from helperd.config.specs import HelperSpec, SourceSpec
    from helperd.gate import StartGate
    from helperd.launcher import Launcher
    from helperd.routing import Route, RouteTable
    from helperd.wire.frames import Generation, Run
    from helperd.wire.greeting import GenerationCache, Program

GREET_S: Final = 5.0
OPEN_S: Final = 15.0
CONFIGURE_S: Final = 10.0
OWN_PING_S: Final = 1.0
FOREIGN_PING_S: Final = 5.0
OWN_DEADLINE_S: Final = 2.5
FOREIGN_DEADLINE_S: Final = 15.0
_RATE_S: Final = 2.0


class Shell(Protocol):
    """What a source needs of the daemon around it."""

    launcher: Launcher
    table: RouteTable
    bus: MessageBus
    gate: StartGate
    room: Bell
    programs: GenerationCache
    lagged_at: float

    def changed(self) -> None:
        """Wake whoever follows the state."""

    async def choose(self, spec: SourceSpec) -> tuple[HelperSpec, int]:
        """The helper that opens a definition, and its profile number."""

    def log(self, severity: str, source: str, text: str, /) -> None:
        """Write a log line."""


@dataclass(slots=True)
class Opened:
    """What the helper said when it opened its device, and what it is called with."""

    generation: str = ""
    hardware: str = ""
    channel: str = ""
    uuid: str = ""
    capture_interface: str = ""
    version: str = ""
    channels: tuple[str, ...] = ()
    hop_channels: tuple[str, ...] = ()

    @property
    def tunable(self) -> bool:
        """Whether a configure request makes sense; it ends C helpers without channel control."""
        return bool(self.channels)


@dataclass(slots=True)
class Meter:
    """Packets per second over the last seconds, sampled when asked."""

    samples: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=64))

    def rate(self, now: float, packets: int) -> float:
        """Packets per second since about ``_RATE_S`` seconds ago."""
        samples = self.samples
        if not samples or now - samples[-1][0] >= 0.2:
            samples.append((now, packets))
        while len(samples) > 1 and now - samples[0][0] > _RATE_S:
            samples.popleft()
        then, before = samples[0]
        return (packets - before) / (now - then) if now > then else 0.0


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
        self.liveness = ("ok", "")
        self.last_packet_at: float | None = None
        self.rung = ""
        self.last_words: list[str] = []
        self.meter = Meter()
        self.incarnation: Incarnation | None = None
        self.vitals: vitals.Tree | None = None
        self.tuned: ConfigureRequest | None = None
        self._translator: Translator | None = None
        self._scope: trio.CancelScope | None = None
        self._gone: Exit | None = None
        self._shutdown: str | None = None
        self._offers_bulk = False
        self._program: Program | None = None
        self._last_way = True
        self._held_since: float | None = None

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

    def _on_change(self, _life: Life) -> None:
        self.shell.changed()

    # the life

    async def keep_running(self) -> None:
        """Live until removed; never raises because of a helper."""
        life = self.life
        while self.is_kept():
            if life.state in {State.DOWN, State.FAILED} and not life.woken:
                await self.orders.wait()
                if not self.is_kept():
                    life.enter(None, trio.current_time())
                continue
            if life.state is State.BACKOFF and not life.woken:
                await self._rest()
            else:
                await self._guarded_run()

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
        target = life.verdict(ended, now, random.random())
        self._announce_end(ended, target, now)
        life.enter(target, now, why="" if target is not State.FAILED else "gave-up")
        if target is State.STARTING:
            life.woken = True
        await trio.lowlevel.checkpoint()

    def _announce_end(self, ended: Exit, target: State | None, now: float) -> None:
        life = self.life
        after = {
            State.STARTING: "starting again",
            State.DOWN: "stays down",
            State.FAILED: "given up",
            None: "removed",
        }
        if target is State.BACKOFF and life.next_try_at is not None:
            then = f"next try in {life.next_try_at - now:.1f} s"
        else:
            then = after.get(target, str(target))
        severity = "info" if ended.kind in {Why.ASKED, Why.DONE} else "warning"
        words = f"; last words: {self.last_words[-1]}" if self.last_words and severity == "warning" else ""
        self.shell.log(severity, self.name, f"{ended.problem}: {ended.text}{words}; {then}")

    async def _run_once(self) -> Exit:
        """One incarnation, from the launch request to the empty tree, and how it ended."""
        life = self.life
        error: BaseException | None = None
        self._shutdown = None
        self._offers_bulk = False
        self.last_words = []
        self.liveness = ("ok", "")
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
        reason = self._reason(error)
        if not isinstance(error, HelperdError | None):
            self.shell.log("error", self.name, f"bug: {type(error).__name__}: {error}")
        life.enter(State.STOPPING, trio.current_time(), reason)
        how, code, climbed = await self._stop(reason)
        return classify(
            Ending(
                asked=self._asked(),
                error=error,
                hung=self._hung()[0],
                hung_text=self._hung()[1],
                how=how,
                code=code,
                climbed=climbed,
                greeted=bool(self.opened.generation),
                v0_allowed=not self._last_way,
                shutdown=self._shutdown,
                status_meaningful=bool(self.helper and self.helper.status_meaningful),
            )
        )

    async def _start(self, number: int) -> None:
        life = self.life
        shell = self.shell
        self.opened = Opened()
        self.helper, profile = await shell.choose(self.spec)
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
            self.incarnation = incarnation
            life.post(Event.LAUNCHED, trio.current_time(), number)
            life.enter(State.GREETING, trio.current_time())
            async with trio.open_nursery() as inside:
                inside.start_soon(slot.release_soon)
                inside.start_soon(incarnation.channel.keep_writing)
                inside.start_soon(incarnation.read_stderr, self._on_stderr)
                inside.start_soon(self._watch_end, incarnation, number)
                with self._limit(GREET_S, "the answer to PING"):
                    await incarnation.channel.greet()
                slot.release()
                await self._open_and_pump(incarnation, number, inside)
                inside.cancel_scope.cancel()

    def _ways_to_greet(self) -> tuple[Generation | None, ...]:
        """How to address the helper now, and what is left to try when it does not understand."""
        helper = self.helper
        assert helper is not None
        self._program = None
        if helper.builtin is not None:
            return (None,)
        self._program = program_of(helper)
        known = self.shell.programs.get(self._program) if self._program is not None else None
        ways = attempts(helper.wire, known)
        return ways[1:] if self.life.history.v0_tried and len(ways) > 1 else ways

    async def _open_and_pump(self, incarnation: Incarnation, number: int, inside: trio.Nursery) -> None:
        life = self.life
        channel = incarnation.channel
        generation = channel.session.generation
        assert generation is not None
        self.opened.generation = generation.name
        if self._program is not None:
            self.shell.programs.learn(self._program, generation.name)
        self._translator = Translator(self.name, self.shell.table.interfaces, generation)
        self._translator.definition = self.spec.definition
        life.post(Event.GREETED, trio.current_time(), number)
        life.enter(State.OPENING, trio.current_time())
        inside.start_soon(self._keep_alive, incarnation, number)
        if self._offers_bulk:
            channel.send(Register(bulk.SUBSYSTEM))
        with self._limit(OPEN_S, "its open report"):
            report = await channel.request(OpenRequest(self.spec.definition), OpenReport)
        if not report.success:
            raise OpenRefused("open-refused", report.message or "the helper gave no reason")
        self._take(report)
        if (
            self._offers_bulk and channel.session.phase is Phase.OPEN
        ):  # else it has said goodbye in the same read
            channel.send(Register(bulk.SUBSYSTEM, self._translator.number_of(report.dlt)))
        life.post(Event.OPENED, trio.current_time(), number)
        life.enter(State.RUNNING, trio.current_time())
        self.shell.log(
            "info", self.name, f"running: {report.message or report.hardware or self.spec.definition}"
        )
        if self.tuned is not None and self.opened.tunable:
            channel.send(self.tuned)
        await channel.pump(self._holding, self._wait_for_room)
        self.post(Event.ENDED, incarnation=number)

    def _take(self, report: OpenReport) -> None:
        opened = self.opened
        opened.hardware = report.hardware
        opened.channel = report.channel
        opened.uuid = report.uuid
        opened.capture_interface = report.capture_interface
        opened.version = report.version
        opened.channels = report.channels
        if self._translator is not None:
            self._translator.hardware = report.hardware
            self._translator.dlt = report.dlt

    def _limit(self, seconds: float, what: str) -> _Limit:
        return _Limit(seconds, f"{what} did not come within {seconds:g} s")

    async def _watch_end(self, incarnation: Incarnation, number: int) -> None:
        await incarnation.wait_ended()
        self.post(Event.ENDED, incarnation=number)

    async def configure(self, request: ConfigureRequest) -> ConfigureReport:
        """Tune a running source; what it was tuned to is asked for again after a restart.

        Raises:
            HelperdError: "not-allowed-now" (it does not run), "not-supported", "timed-out", or what the helper said.
        """
        incarnation = self.incarnation
        if incarnation is None or self.life.state is not State.RUNNING:
            raise HelperdError("not-allowed-now", f"{self.name} does not run; start it first")
        if not self.opened.tunable:
            raise HelperdError(
                "not-supported", f"{self.name}: its helper named no channels, so it cannot be tuned"
            )
        with trio.move_on_after(CONFIGURE_S):
            report = await incarnation.channel.configure(request)
            if not report.success:
                raise HelperdError(
                    "open-refused", f"{self.name}: {report.message or 'the helper gave no reason'}"
                )
            self.tuned = request
            return report
        raise PeerTimedOut(
            "timed-out", f"{self.name}: no answer to the configure request in {CONFIGURE_S:g} s"
        )

    # packets and messages

    def _deliver(self, runs: list[Run], size: int) -> None:
        route = self.route
        packets = nbytes = 0
        for run in runs:
            packets += run.packets
            nbytes += run.stop - run.start
        route.count(packets, nbytes)
        self.last_packet_at = trio.current_time()
        if route.wanted and self._translator is not None:
            route.dispatch(self._translator.translate(runs, time.time_ns()), size)

    def _on_message(self, message: Message) -> None:
        if isinstance(message, Text):
            self._say(_SEVERITIES[message.severity], message.text)
        elif isinstance(message, WarningReport):
            self._say("warning", message.warning)
        elif isinstance(message, ErrorReport):
            self._say("error", message.message or "the helper reports an error without words")
        elif isinstance(message, Lost):
            self.route.ledger.upstream[message.reason] += message.packets
        elif isinstance(message, Register):
            self._offers_bulk = message.subsystem == bulk.SUBSYSTEM
        elif isinstance(message, Shutdown):
            self._shutdown = message.reason
        elif isinstance(message, ConfigureReport):
            self._note_tuning(message)

    def _note_tuning(self, report: ConfigureReport) -> None:
        """Show what the helper says it is tuned to, asked or not."""
        if report.channel:
            self.opened.channel = report.channel
        elif report.hopping is not None and report.hopping.channels:
            self.opened.channel = "hopping"
            self.opened.hop_channels = report.hopping.channels
        self.shell.changed()

    def _say(self, severity: str, text: str) -> None:
        self.shell.bus.post(severity, self.name, text)
        self.shell.log(severity, self.name, text)

    def _on_stderr(self, line: str) -> None:
        self.shell.log("info", self.name, f"stderr: {line}")

    # holding and liveness

    def _holding(self) -> bool:
        """Whether a lossless consumer is full; one that has held too long drops from then on."""
        holding = self.route.holding()
        if not holding:
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

    async def _keep_alive(self, incarnation: Incarnation, number: int) -> None:
        """Send PING, judge silence, watch the children; until cancelled."""
        helper = incarnation.helper
        channel = incarnation.channel
        own = helper.builtin is not None
        interval = OWN_PING_S if own else FOREIGN_PING_S
        deadline = OWN_DEADLINE_S if own else FOREIGN_DEADLINE_S
        children = ChildWatch(helper.needs_child) if helper.needs_child else None
        silence = Patience(self.spec.silence, trio.current_time()) if self.spec.silence else None
        pinged_at: float | None = None
        next_ping_at = trio.current_time() + interval  # the greeting was one already
        turn = vitals.run_queue(incarnation.process.pid)
        while True:
            now = trio.current_time()
            if now >= next_ping_at:
                next_ping_at = now + interval
                if not own or now - channel.life_at >= interval * 0.9:
                    channel.ping()
                    if pinged_at is None or pinged_at < channel.life_at:
                        pinged_at = now
            if pinged_at is not None and pinged_at < channel.life_at:
                pinged_at = None
                turn = vitals.run_queue(incarnation.process.pid)
            judged = verdict(self._evidence(incarnation, now, pinged_at, turn, deadline), deadline)
            self.liveness = (judged.word, judged.reason)
            if judged.life_at > channel.life_at:
                channel.life_at = judged.life_at
                pinged_at = None
                turn = vitals.run_queue(incarnation.process.pid)
            if judged.hung:
                text = f"no byte for {now - channel.life_at:.1f} s, PING unanswered"
                self.post(Event.HUNG, incarnation=number, reason=judged.reason, text=text)
                return
            if self._is_silent(silence, now) and self._on_silence(number, silence):
                return
            if children is not None and children.gone(
                vitals.living_descendants(incarnation.process.pid), now
            ):
                self.post(
                    Event.HUNG,
                    incarnation=number,
                    reason="child-gone",
                    text="a process the helper depends on is gone",
                )
                return
            self._settle(number, now, judged.word)
            wake_at = min(next_ping_at, max(channel.life_at + deadline, now) + 0.02)
            if children is not None or silence is not None:
                wake_at = min(wake_at, now + 0.25)
            await trio.sleep_until(wake_at)

    def _evidence(
        self,
        incarnation: Incarnation,
        now: float,
        pinged_at: float | None,
        turn: vitals.Turn | None,
        deadline: float,
    ) -> Evidence:
        channel = incarnation.channel
        pid = incarnation.process.pid
        if now - channel.life_at <= deadline:
            return Evidence(now, channel.life_at, pinged_at)
        starved = vitals.starved(turn, vitals.run_queue(pid), now - channel.life_at)
        return Evidence(
            now,
            channel.life_at,
            pinged_at,
            holding=bool(self.route.holding()),
            our_lag=self.shell.lagged_at > channel.life_at,
            readable=_readable(channel.from_helper),
            runnable_starved=starved or vitals.frozen(vitals.cgroup(pid)),
            proc_state=vitals.process_state(pid),
        )

    def _is_silent(self, silence: Patience | None, now: float) -> bool:
        if silence is None:
            return False
        if self.last_packet_at is not None and self.last_packet_at > silence.since:
            silence.seen(self.last_packet_at)
        silence.hold(now, held=bool(self.route.holding()) or self.shell.lagged_at > now - 1.0)
        return self.life.state is State.RUNNING and silence.over(now)

    def _on_silence(self, number: int, silence: Patience | None) -> bool:
        assert silence is not None
        text = f"no packet for {silence.limit:g} s"
        if self.spec.on_silence == "alert":
            self._say("alert", f"silent: {text}")
            silence.seen(trio.current_time())
            return False
        self.post(Event.HUNG, incarnation=number, reason="silent", text=text)
        return True

    def _settle(self, number: int, now: float, word: str) -> None:
        life = self.life
        if life.history.n and word == "ok" and life.settles_at is not None and now >= life.settles_at:
            self.post(Event.SETTLED, incarnation=number)

    # the end

    def _asked(self) -> str:
        if self.life.ended_by is None:
            return ""
        event, _detail = self.life.ended_by
        orders = {Event.STOP, Event.RESTART, Event.REPLACE, Event.REMOVE}
        return event.value if event in orders else ""

    def _hung(self) -> tuple[str, str]:
        if self.life.ended_by is None or self.life.ended_by[0] is not Event.HUNG:
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
        if incarnation.channel.cut:
            self.route.ledger.upstream["partial-frame"] += 1
        self.last_words = list(incarnation.stderr.last)
        self.incarnation = None
        self._translator = None
        self.rung = ""
        ended = incarnation.ended
        return ("", None, True) if ended is None else (ended.how, ended.code, incarnation.climbed)

    def _on_rung(self, rung: str) -> None:
        self.rung = rung
        self.shell.changed()


@dataclass(slots=True)
class _Limit:
    """A time limit whose passing is the peer's fault."""

    seconds: float
    text: str
    _scope: trio.CancelScope | None = None

    def __enter__(self) -> None:
        self._scope = trio.move_on_after(self.seconds)
        self._scope.__enter__()

    def __exit__(self, *exc: object) -> bool:
        assert self._scope is not None
        swallowed = bool(self._scope.__exit__(*exc))  # type: ignore[arg-type]
        if self._scope.cancelled_caught:
            raise PeerTimedOut("timed-out", self.text)
        return swallowed


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


def _readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
