"""All sources: one task each, started, ordered about, reloaded and stopped together.

Rules:
  1. The nursery of sources never sees an exception of a helper; a bug in one source ends that source's try alone.
  2. An order is a message to the source that owns the process; nothing here signals or waits for processes.
  3. Time here is trio's; wall-clock time decides nothing.
"""

from __future__ import annotations

import time
import traceback
from collections import deque
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from helperd import gather, vitals
from helperd.bell import Bell
from helperd.bus import MessageBus
from helperd.claim import devices_of
from helperd.config.whole import KEYS
from helperd.drivers import Drivers, check_definition, driver_for, probe
from helperd.errors import HelperdError, LaunchFailed, UsageError
from helperd.gate import StartGate
from helperd.hotplug import Arrival, Hotplug
from helperd.lifecycle import Event, Plan, State, plan
from helperd.service import Service
from helperd.source import Source, is_end, policy_of
from helperd.tending import Tending
from helperd.tuning import Tuning
from helperd.watch import Moment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from helperd.config.sources import SourceSpec
    from helperd.config.specs import Config, HelperSpec, ServiceSpec
    from helperd.launcher import Launcher
    from helperd.routing import RouteTable


def _slept() -> float:
    """Seconds that the machine was suspended since it booted."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


OPENING_S: Final = 10.0
"""Seconds for which an order waits for a source that may take as long as it likes to open."""
STOP_S: Final = 8.0
USUAL_GRACE_S: Final = 1.0
"""Seconds for the stop of all sources, at the usual ``term_grace``; with what the sinks may take it is less than the
15 s of the unit and of the launcher."""
NEEDS_PROCESS: Final = frozenset((key.table, key.name) for key in KEYS if key.needs_process)
HEARTBEAT_S: Final = 0.25
LAG_S: Final = 0.5
"""A heartbeat later than this means that we, not a helper, were away."""
VITALS_S: Final = 5.0


class UnknownSource(HelperdError):  # noqa: N818
    """No source has that name."""


@dataclass(slots=True)
class _Running:
    source: Source
    left: trio.Event


class Supervisor:
    """The sources of one configuration and what they share."""

    def __init__(
        self, config: Config, launcher: Launcher, table: RouteTable, log: Callable[[str, str, str], None]
    ) -> None:
        self.config = config
        self.launcher = launcher
        self.table = table
        self.room = Bell()
        self.bus = MessageBus()
        self.gate = StartGate()
        self._log = log
        self.lagged_at = -1.0
        self.oom_kills: deque[int | None] = deque([vitals.oom_kills()], maxlen=3)  # one a beat
        self.late_beats = 0
        self.beats = 0
        self.bugs = 0
        self.on_beat: list[tuple[str, Callable[[float], None]]] = []
        self.troubles: list[Callable[[], list[dict[str, str]]]] = []  # of the daemon's other parts
        self.changes = 0
        self.drivers = Drivers()
        self.tuning = Tuning(lambda: self.sources, self.bug)
        self.hotplug = Hotplug(self._on_arrival, self._awaited_paths)
        self.tending = Tending(self.bug, self.say, self.changed)
        self._lot = trio.lowlevel.ParkingLot()
        self.runtime_dir = ""
        self.on_removed: Callable[[str], None] = lambda _: None
        self._awaited: set[str] = set()
        self.stopping = False
        self._running: dict[str, _Running] = {}
        self._serving: dict[str, _Running] = {}
        self._nursery: trio.Nursery | None = None

    @property
    def sources(self) -> list[Source]:
        """All sources, in the order in which they were added."""
        return [running.source for running in self._running.values()]

    @property
    def services(self) -> list[Source]:
        """All services, in the order of the configuration, whatever was replaced; then those that are leaving."""
        order = {spec.name: at for at, spec in enumerate(self.config.services)}
        named = sorted(self._serving, key=lambda name: order.get(name, len(order)))
        return [self._serving[name].source for name in named]

    @property
    def all(self) -> list[Source]:
        """Everything that has processes: sources, then services."""
        return self.sources + self.services

    def source(self, name: str) -> Source:
        """Find a source by name.

        Raises:
            UnknownSource: "unknown-source", with the names there are.
        """
        try:
            return self._running[name].source
        except KeyError:
            known = ", ".join(self._running) or "none"
            raise UnknownSource(
                "unknown-source", f"no source is named {name!r}; there are: {known}"
            ) from None

    def changed(self) -> None:
        """Wake whoever follows the state."""
        self.changes += 1
        self.tuning.changed.ring()
        self._lot.unpark_all()

    async def wait_change(self) -> None:
        """Wait for the next change of state."""
        await self._lot.park()

    # Shell

    def log(self, severity: str, source: str, text: str, /) -> None:
        """Write a log line."""
        self._log(severity, source, text)

    async def choose(self, spec: SourceSpec) -> tuple[HelperSpec, int]:
        """Find the helper for a definition: named, by type, or by probing.

        Raises:
            LaunchFailed: "unknown-helper", "probe-refused".
        """
        helpers = self.config.helpers
        try:
            helper = driver_for(helpers, spec.definition, spec.helper)
        except UsageError as error:
            raise LaunchFailed(error.problem, error.text) from error
        if helper is None:
            assert self._nursery is not None
            programs = self.drivers.programs
            found = await probe(self.launcher, helpers, self._nursery, spec.definition, programs=programs)
            self.drivers.learn_probing(helpers, found)
            if found.helper is None:
                reasons = "; ".join(
                    f"{failure.helper}: {failure.text}" for failure in found.refused + found.failed
                )
                raise LaunchFailed("probe-refused", f"no helper recognises {spec.definition!r} ({reasons})")
            helper = found.helper
            try:
                check_definition(helper, spec.definition)
            except UsageError as error:
                raise LaunchFailed(error.problem, error.text) from error
        return helper, self.config.profile(helper.name)

    def profile_of(self, service: ServiceSpec) -> tuple[HelperSpec, int]:
        """A service as the launcher knows it, and its profile number."""
        return service.as_helper(), self.config.service_profile(service.name)

    # the nursery

    async def run(self) -> None:
        """Keep all sources until cancelled; ``stop`` first, or their processes end by the launcher's hand."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            keep = self.tending.keep
            gather.rooms(keep)  # from the beginning: no descriptors more later
            nursery.start_soon(keep, "the heartbeat", self._heartbeat)
            nursery.start_soon(keep, "the look at processes", self._watch_vitals)
            nursery.start_soon(keep, "tuning", self.tuning.run)
            nursery.start_soon(keep, "the watch for devices", self.hotplug.run)
            for spec in self.config.sources:
                self._add(spec)
            for service in self.config.services:
                self._serve(service)

    def _serve(self, spec: ServiceSpec, *, start: bool = True) -> None:
        assert self._nursery is not None
        running = _Running(Service(spec, self), trio.Event())
        self._serving[spec.name] = running
        self._nursery.start_soon(self._keep, running, self._serving)
        if start:
            running.source.post(Event.START)

    def _add(self, spec: SourceSpec) -> Source:
        assert self._nursery is not None
        source = Source(spec, self)
        running = _Running(source, trio.Event())
        self._running[spec.name] = running
        self._nursery.start_soon(self._keep, running, self._running)
        self.hotplug.look.ring()
        if spec.start == "boot" or (spec.start == "first-consumer" and source.route.taps):
            source.post(Event.START)
        return source

    async def _keep(self, running: _Running, among: dict[str, _Running]) -> None:
        source = running.source
        try:
            kind = "service" if among is self._serving else "source"
            await self.tending.keep(
                f"{kind} {source.name}", source.keep_running, lambda: not source.is_kept(), is_end
            )
        finally:
            running.left.set()
            if not source.is_kept() and among.get(source.name) is running:
                del among[source.name]
                self.table.drop(source.name, counted=among is self._running)
                if among is self._running:
                    self._forget(source.name)
            self.hotplug.look.ring()
            self.changed()

    def _forget(self, name: str) -> None:
        """A source of that name is no more; what is its own goes with it, unless the next one is to have it."""
        if name not in self._running and name not in self._awaited:
            self.on_removed(name)

    def on_consumer(self, wanted: frozenset[str]) -> None:
        """A consumer has connected: start the sources that wait for their first one."""
        for source in self.sources:  # called by a consumer's task: must not fail
            first = source.spec.start == "first-consumer" and source.life.incarnation == 0
            if first and source.life.state is State.DOWN and (not wanted or source.name in wanted):
                source.post(Event.START)

    async def stop(self) -> None:
        """Stop all sources and services side by side; returns when every tree is empty. Nothing begins any more."""
        self.stopping = True
        for source in self.all:
            source.post(Event.STOP)
        while any(source.life.state not in {State.DOWN, State.FAILED} for source in self.all):
            await self.wait_change()

    def left(self) -> list[str]:
        """What ``stop`` still waits for, with the rung of the stop ladder that it stands on."""
        states = {State.DOWN, State.FAILED}
        return [
            f"{source.name} ({source.rung or source.life.state})"
            for source in self.all
            if source.life.state not in states
        ]

    def patience_s(self) -> float:
        """Seconds that ``stop`` may take before what is left is the launcher's, which ends its helpers when we end."""
        graces = [source.helper.term_grace for source in self.all if source.helper is not None]
        return STOP_S + max([USUAL_GRACE_S, *graces]) - USUAL_GRACE_S

    async def _heartbeat(self) -> None:
        """Look after every helper; notice when our own loop was late, or the machine slept."""
        slept = _slept()
        due = trio.current_time() + HEARTBEAT_S
        while True:
            await trio.sleep_until(due)
            now = trio.current_time()
            asleep = _slept()
            lag = max(now - due, asleep - slept)
            slept = asleep
            if lag > LAG_S:
                self.lagged_at = now
                self.late_beats += 1
            else:
                lag = 0.0
            due = max(due + HEARTBEAT_S, now + HEARTBEAT_S / 2)
            self._beat(Moment(now, lag, self.lagged_at))

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel has ended a process for lack of memory within the last beats."""
        before, now = self.oom_kills[0], vitals.oom_kills()
        return before is not None and now is not None and now > before

    def _beat(self, moment: Moment) -> None:
        self.oom_kills.append(vitals.oom_kills())
        for source in self.all:
            try:
                source.tick(moment)
            except Exception as error:  # noqa: BLE001 - a bug in one watch ends that try alone
                self.bug(source.name, error)
                source.post(Event.OUR_FAULT, incarnation=source.life.incarnation, reason="bug")
        self.beats += 1
        for name, call in self.on_beat:
            self.tending.call(name, partial(call, moment.now))

    def say(self, severity: str, text: str) -> None:
        """Tell people something of helperd's own: a message, and a line of the log."""
        self.bus.post(severity, "helperd", text)
        self.log(severity, "helperd", text)

    def bug(self, source: str, error: BaseException) -> None:
        """Log an exception of our own with its traceback, and count it."""
        self.bugs += 1
        told = "".join(traceback.format_exception(error)).strip()
        self.log("error", source, f"bug: {type(error).__name__}: {error}\n{told}")

    async def _watch_vitals(self) -> None:
        """Sample every helper's process tree now and then, in a thread."""
        sampler = vitals.Sampler()
        while True:
            await trio.sleep(VITALS_S)
            pids = [source.incarnation.process.pid for source in self.all if source.incarnation is not None]
            trees = await trio.to_thread.run_sync(sampler.sample, pids, trio.current_time())
            for source in self.all:
                incarnation = source.incarnation
                source.vitals = trees.get(incarnation.process.pid) if incarnation is not None else None

    # devices that come

    def _on_arrival(self, arrival: Arrival) -> None:
        """Try again whoever waits for what has come."""
        for source in self.sources:
            try:
                if source.awaits(arrival):
                    source.post(Event.DEVICE_APPEARED)
            except UsageError:
                continue  # its definition cannot be read: it waits for another one

    def _awaited_paths(self) -> set[str]:
        paths = set()
        for source in self.sources:
            try:
                paths |= {name for name in devices_of(source.spec.definition) if name.startswith("/")}
            except UsageError:
                continue
        return paths

    # what changes

    def plan(self, new: Config) -> Plan:
        """Say what a reload would change of what there is, added sources that are configured now included.

        Raises:
            HelperdError: "duplicate-name", a service has the name of an added source.
        """
        configured = {spec.name for spec in self.config.sources} | {spec.name for spec in new.sources}
        wanted = {spec.name: spec.helper for spec in new.sources}
        there = []
        for source in self.sources:
            if source.is_kept() and source.name in configured:
                named = source.helper is not None and wanted.get(source.name) == source.helper.name
                there.append(replace(source.spec, helper=wanted[source.name]) if named else source.spec)
        services = {service.name for service in new.services}
        for source in self.sources:
            if source.name in services:
                text = f"service {source.name!r} is new, and a source was added that is named so; remove it first"
                raise HelperdError("duplicate-name", text)
        opened_by = {source.name: source.helper.name for source in self.sources if source.helper is not None}
        old = replace(self.config, sources=tuple(there))
        return plan(old, new, needs_process=NEEDS_PROCESS, opened_by=opened_by)

    def await_next(self, what: Plan) -> list[str]:
        """Keep what is the own of sources that end now and are to be again; ``give_up`` undoes it."""
        names = [name for name in what.start if name in self._running]
        self._awaited.update(names)
        return names

    def give_up(self, names: Iterable[str]) -> None:
        """Expect no more sources of these names."""
        for name in names:
            self._awaited.discard(name)
            self._forget(name)

    def names_after(self, new: Config) -> list[str]:
        """The names of all sources that there are after a reload."""
        dropped = {spec.name for spec in self.config.sources} - {spec.name for spec in new.sources}
        names = [source.name for source in self.sources if source.is_kept() and source.name not in dropped]
        return list(dict.fromkeys([*(spec.name for spec in new.sources), *names]))

    def switch(self, new: Config, what: Plan) -> list[trio.Event]:
        """Take a configuration over at once; only what changed restarts.

        Args:
            new: checked by us and accepted by the launcher; profile numbers are its from here on.
            what: the plan for it.

        Returns:
            What is set when those that it removes have ended.
        """
        old = self.config
        self.config = new
        self.drivers.keep(new.helpers)
        specs = {spec.name: spec for spec in new.sources}
        leaving = []
        for name in what.stop:
            self._running[name].source.post(Event.REMOVE)
            leaving.append(self._running[name].left)
        for name in (*what.replace, *what.adjust):
            source = self._running[name].source
            source.spec = specs[name]
            self.hotplug.look.ring()
            source.life.policy = policy_of(specs[name])
            helper = new.helper(source.helper.name) if source.helper is not None else None
            if name in what.replace:
                source.forget()
                source.post(Event.REPLACE)
            elif helper is not None:
                source.adjust(helper)
        for name in what.start:
            self._begin(specs[name])
        leaving += self._switch_services(old, new)
        self.changed()
        return leaving

    def _begin(self, spec: SourceSpec) -> None:
        """Add a configured source; where one of that name still ends, as soon as it has, if it is wanted then."""
        before = self._running.get(spec.name)
        if before is None:
            self._add(spec)
            return

        async def begin_later() -> None:
            await before.left.wait()
            if spec.name not in self._running and spec in self.config.sources:
                self._add(spec)
            if spec not in self.config.sources or spec.name in self._running:
                self.give_up([spec.name])

        assert self._nursery is not None
        self._awaited.add(spec.name)
        self._nursery.start_soon(self.tending.once, f"source {spec.name}", begin_later)

    def _switch_services(self, old: Config, new: Config) -> list[trio.Event]:
        """One that is no longer as it was ends; one that is new, or another now, starts if nobody has stopped it."""
        assert self._nursery is not None
        stopped = {service.name for service in self.services if service.life.wanted == "down"}
        before = {spec.name: spec for spec in old.services}
        after = {spec.name: spec for spec in new.services}
        leaving = []
        for name in before.keys() - {name for name, spec in after.items() if before.get(name) == spec}:
            if name in self._serving:
                self._serving[name].source.post(Event.REMOVE)
                leaving.append(self._serving[name].left)
        for name, spec in after.items():
            if before.get(name) != spec:
                begin = partial(self._serve_next, spec, start=name not in stopped)
                self._nursery.start_soon(self.tending.once, f"service {name}", begin)
        return leaving

    async def _serve_next(self, spec: ServiceSpec, *, start: bool) -> None:
        """Begin a service when the one before it of that name has ended, if it is wanted then."""
        while spec.name in self._serving:
            await self._serving[spec.name].left.wait()
        if spec in self.config.services:
            self._serve(spec, start=start)

    def check_stays(self) -> None:
        """See that the daemon has not been told to end.

        Raises:
            HelperdError: "stopping".
        """
        if self.stopping:
            raise HelperdError("stopping", "helperd has been told to end; nothing is begun any more")

    def check_free(self, name: str) -> None:
        """See that a source may be added with a name.

        Raises:
            HelperdError: "duplicate-name", "stopping".
        """
        self.check_stays()
        if name in self._running or name in self._serving:
            what = "source" if name in self._running else "service"
            raise HelperdError("duplicate-name", f"a {what} is named {name!r} already; choose another name")

    def add(self, spec: SourceSpec) -> Source:
        """Add a source until the daemon ends.

        Raises:
            HelperdError: "duplicate-name".
        """
        self.check_free(spec.name)
        return self._add(spec)

    def remove(self, name: str) -> trio.Event:
        """Stop a source and forget it; returns what is set when its process tree is gone.

        Raises:
            UnknownSource: no such source.
        """
        self.source(name).post(Event.REMOVE)
        return self._running[name].left

    # orders

    async def order(self, name: str, verb: str) -> None:
        """Carry out an operator's order to a source or service and wait until it is done, or its failure known.

        A source that may take as long as it likes to open is waited for ``OPENING_S``.

        Raises:
            UnknownSource: no such source or service.
            HelperdError: what it ended with instead.
        """
        if verb in {"pause", "resume"}:
            self.source(name).route.paused = verb == "pause"
            self.changed()
            return
        source = self._serving[name].source if name in self._serving else self.source(name)
        if verb != "stop":
            self.check_stays()
        source.post(Event(verb))
        life = source.life
        if verb == "stop":
            while life.wanted == "down" and life.state not in {State.DOWN, State.FAILED}:
                await self.wait_change()
            return
        number = life.incarnation + (life.state not in {State.STARTING, State.GREETING, State.OPENING})
        if verb == "start" and life.state is State.RUNNING:
            return
        with trio.CancelScope() as patience:
            while life.ran < number:  # one that ran, however briefly, was started
                failed = (
                    life.state in {State.BACKOFF, State.FAILED, State.DOWN} and life.incarnation >= number
                )
                if failed and not life.woken and life.exit is not None:
                    raise HelperdError(life.exit.problem, f"{name}: {life.exit.text}")
                helper = source.helper
                opens = life.state is State.OPENING and life.incarnation >= number
                if opens and helper is not None and not helper.open_timeout:
                    patience.deadline = life.since + OPENING_S
                await self.wait_change()
