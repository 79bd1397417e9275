"""What ``helperd run`` is: configuration, launcher, sources, sinks and control put together in one process.

Started by the launcher, which hands over its socket as a descriptor. Order of a stop: sources (their helpers end, what
still comes is delivered), consumers (what is queued is sent), sockets.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Final

import trio

from helperd import __version__, config, pcapng
from helperd.alone import describe
from helperd.bell import Bell
from helperd.config.sinks import SinkSpec
from helperd.config.sources import SourceSpec, source_name
from helperd.config.whole import UNENDED, unended
from helperd.control.api import Reader
from helperd.control.peer import Admins
from helperd.control.server import PLACES
from helperd.control.server import serve as serve_control
from helperd.drivers import probe
from helperd.errors import Code, ConfigRefused, HelperdError, LauncherGone
from helperd.inventory import Inventory
from helperd.launcher import Launcher, open_launcher
from helperd.launchers import with_installed
from helperd.lifecycle import State
from helperd.logs import Log
from helperd.notify import Notifier
from helperd.places import Entrance, Places, Teller, bound
from helperd.printing import say, write
from helperd.reloading import Reloading
from helperd.routing import RouteTable
from helperd.runtime import (
    ALL_SOCKET,
    CONTROL_SOCKET,
    claim_runtime_dir,
    default_runtime_dir,
    leave_runtime_dir,
)
from helperd.signals import Signals
from helperd.sinks.all import Sinks
from helperd.sinks.file import FLUSH_S as FILE_FLUSH_S
from helperd.sinks.file import FileSink
from helperd.sinks.listen import Door, UnixListener, listen_unix
from helperd.sinks.presence import Presence
from helperd.sinks.stream import MOST, RESERVE, StreamSink
from helperd.standing import StandingOrder
from helperd.status import account, log_status, snapshot
from helperd.supervisor import Supervisor
from helperd.trimming import Trimming
from helperd.view import LiveView
from helperd.wire.definition import SourceDefinition, split_interface

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence

    from helperd.config.specs import Config, DaemonSpec

FLUSH_S: Final = 1.0
GIVEN_UP_S: Final = 0.2
"""Seconds that consumers have to read what is queued when the daemon stops; and files to go when they did not end."""


@dataclass(slots=True, eq=False)
class Daemon:
    """The parts of a running daemon, and what the control socket may ask of it.

    Attributes:
        serving: it is ready, and has not ended in order: an end now is a death.
    """

    supervisor: Supervisor
    launcher: Launcher
    runtime_dir: str
    spec: DaemonSpec
    log: Log
    started_at: float
    header: bytes = b""
    nursery: trio.Nursery | None = None
    control: UnixListener | None = None
    sinks: Sinks = field(init=False)
    reloading: Reloading = field(init=False)
    serving: bool = False
    inventory: Inventory = field(init=False)
    presence: Presence = field(init=False)
    teller: Teller = field(init=False)

    def __post_init__(self) -> None:
        supervisor = self.supervisor
        self.teller = Teller(supervisor.say)
        places = Places(
            "readers of packets", MOST, self.spec.clients_per_user, RESERVE, "[helperd] clients_per_user"
        )
        self.sinks = Sinks(
            supervisor,
            self.spec,
            self.runtime_dir,
            self.header,
            self._are_done,
            supervisor.tending.keep,
            Entrance(places, self.readers_below, self.refused),
        )
        self.reloading = Reloading(supervisor, self.launcher, self.sinks)
        supervisor.on_removed = self.sinks.close_own
        self.presence = Presence(
            self.runtime_dir, self._listeners, self.sinks.renew, supervisor.say, supervisor.changed
        )
        supervisor.troubles.append(self.presence.troubles)
        self.inventory = Inventory(
            self.launcher, lambda: supervisor.config, supervisor.drivers, supervisor.hotplug
        )

    def _listeners(self) -> list[UnixListener]:
        return self.sinks.listeners() + ([] if self.control is None else [self.control])

    def readers_below(self) -> int:
        """The first number of a descriptor that is not for readers."""
        return bound(len(self.supervisor.all) + len(self.supervisor.config.helpers))

    def refused(self, where: str, why: str) -> None:
        """Tell that somebody was not served, but not each time."""
        self.teller.refused(where, why, trio.current_time())

    # ControlApi

    def change_number(self) -> int:
        """Another number after every change."""
        return self.supervisor.changes

    def snapshot(self) -> dict[str, object]:
        """Everything that is true now."""
        now = trio.current_time()
        found = snapshot(
            self.supervisor, self.sinks, self.runtime_dir, self.started_at, now, self.sinks.leaving
        )
        return found | {"log": log_status(self.log.counts)}

    async def order(self, name: str, verb: str) -> None:
        """Carry out start, stop, restart, pause or resume."""
        await self.supervisor.order(name, verb)

    async def set_channel(self, source: str, channel: str) -> None:
        """Tune a source to one channel."""
        await self.supervisor.source(source).tune(StandingOrder(channel=channel))

    async def hop(self, source: str, channels: Sequence[str], rate: float | None) -> None:
        """Let a source hop over channels; none named: over its own, shared with the others of its type."""
        await self.supervisor.source(source).tune(StandingOrder(channels=tuple(channels), rate=rate))

    async def add_source(self, definition: str, name: str | None, *, once: bool = False) -> str:
        """Open a definition until the daemon ends; returns the source's name, before the source has begun.

        Raises:
            HelperdError: "duplicate-name", "bad-definition". SinkError: it has no sockets. Nothing has changed.
        """
        SourceDefinition.parse(definition)
        restart = "transient" if once else "permanent"
        spec = SourceSpec(definition=definition, name=name or source_name(definition), restart=restart)
        async with self.reloading.still():
            self.supervisor.check_free(spec.name)
            own = self.sinks.stage_own(spec.name)
            self.supervisor.add(spec)
            own.take()
        return spec.name

    def free_name(self, definition: str) -> str:
        """The name that a definition gives by itself, with a number behind it where it is taken."""
        taken = {source.name for source in self.supervisor.all}
        base = name = source_name(definition)
        for number in count(2):
            if name not in taken:
                break
            tail = f"-{number}"
            name = base[: 32 - len(tail)] + tail
        return name

    @contextmanager
    def stream(
        self, sock: trio.socket.SocketType, sources: frozenset[str], form: str, linktype: int | None = None
    ) -> Iterator[Reader]:
        """Make a control connection a consumer's; one of a single source ends with it."""
        assert self.control is not None
        dlts = () if linktype is None else (linktype,)
        spec = SinkSpec(path=CONTROL_SOCKET, sources=tuple(sorted(sources)), format=form, dlts=dlts)
        source = next(iter(sources)) if len(sources) == 1 else None
        sink = self.sinks.stream(spec, source, self.control, single=False)
        sink.lent = True
        consumer = sink.admit(sock)
        self.sinks.there.append(sink)

        async def serve() -> None:
            with sink.scope:
                await sink.attend(consumer)

        try:
            yield Reader(serve, consumer.finish)
        finally:
            sink.dismiss(consumer)
            if sink in self.sinks.there:  # its source has not been removed
                self.sinks.there.remove(sink)

    async def wait_done(self, source: str) -> None:
        """Wait until a source has ended by itself, for good."""
        while not self._are_done({source}):
            await self.supervisor.wait_change()

    def _are_done(self, names: Collection[str]) -> bool:
        """Whether all of these have ended by themselves, for good: a file at its end, for one."""
        return set(names) <= self._done()

    def _done(self) -> set[str]:
        lives = ((source.name, source.life) for source in self.supervisor.sources)
        return {name for name, life in lives if (life.state, life.why) == (State.DOWN, "done")}

    async def end_readers(self) -> None:
        """Give readers of sources that are done their end, whenever one has become so."""
        done: set[str] = set()
        while True:
            before, done = done, self._done()
            for sink in self.sinks if done - before else ():
                if isinstance(sink, StreamSink):
                    sink.end_if_over()
            await self.supervisor.wait_change()

    async def remove_source(self, name: str) -> None:
        """Stop a source and forget it; its own sockets go with it."""
        async with self.reloading.still():
            left = self.supervisor.remove(name)
        await left.wait()

    async def reload(self, *, check: bool = False) -> dict[str, object]:
        """Read the configuration again and take all of it over, or nothing.

        Args:
            check: only say what would be done.

        Raises:
            ConfigRefused: with all mistakes. HelperdError: what cannot be had.
        """
        what = await (self.reloading.check() if check else self.reloading.reload())
        parts: dict[str, object] = {each.name: list(getattr(what, each.name)) for each in fields(what)}
        return parts | {"gone": [row._asdict() for row in what.gone]}

    async def list_devices(self, max_age_s: float | None = None) -> dict[str, object]:
        """The devices of all helpers; those of running sources are marked ``in_use``."""
        running = {}
        for source in self.supervisor.sources:
            if source.life.state is State.RUNNING:
                running[source.opened.capture_interface] = source.name
                running[split_interface(source.spec.definition)[0]] = source.name
        running.pop("", None)
        return await self.inventory.devices(running, max_age_s)

    def helpers(self) -> list[dict[str, object]]:
        """The configured helpers, and what each can."""
        return describe(self.supervisor.config, self.supervisor.drivers)

    async def probe(self, definition: str) -> dict[str, object]:
        """Ask who recognises a definition."""
        assert self.nursery is not None
        helpers = self.supervisor.config.helpers
        drivers = self.supervisor.drivers
        found = await probe(self.launcher, helpers, self.nursery, definition, programs=drivers.programs)
        drivers.learn_probing(helpers, found)
        return found.as_dict()

    def messages(self, since: int) -> list[dict[str, object]]:
        """Kept messages with a number above ``since``."""
        return [notice.as_dict() for notice in self.supervisor.bus.since(since)]

    async def wait_message(self) -> None:
        """Wait for the next message."""
        await self.supervisor.bus.wait()

    async def wait_change(self) -> None:
        """Wait for the next change of state."""
        await self.supervisor.wait_change()


@asynccontextmanager
async def _control(daemon: Daemon) -> AsyncIterator[None]:
    path = os.path.join(daemon.runtime_dir, CONTROL_SOCKET)
    admins = Admins.of(daemon.spec.admin_group)
    listener = listen_unix(path, mode=daemon.spec.socket_mode, group=daemon.spec.socket_group)
    supervisor = daemon.supervisor
    serve = partial(
        serve_control,
        admin=admins,
        entrance=Entrance(PLACES.copy(daemon.spec.clients_per_user), daemon.readers_below, daemon.refused),
        on_bug=supervisor.bug,
        tend=supervisor.tending.keep,
    )
    daemon.control = listener
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, Door(listener), daemon)
            yield
            listener.unlink()  # before it is closed: who finds it, and nobody behind it, knows that we have died
            nursery.cancel_scope.cancel()
    finally:
        listener.close(unlink=not daemon.serving)


@asynccontextmanager
async def _launchers(fd: int, settings: Config, installed: str | None) -> AsyncIterator[Launcher]:
    async with open_launcher(fd, settings=settings, reread=True) as own:
        if installed is None:
            yield own
        else:
            async with with_installed(own, settings, installed) as both:
                yield both


async def run(
    settings: Config,
    launcher_fd: int,
    installed: str | None,
    runtime_dir: str,
    log: Log,
    view: LiveView | None,
    signals: Signals,
) -> Code:
    """Run until SIGINT or SIGTERM.

    Raises:
        SinkError: a socket cannot be opened.
        LauncherGone: the launcher ended; so have all helpers.
    """
    notifier, trimming = Notifier(), Trimming()
    async with _launchers(launcher_fd, settings, installed) as launcher:
        table = RouteTable()
        write = partial(_write, log) if view is None else view.write
        supervisor = Supervisor(settings, launcher, table, write)
        header = pcapng.section_header(
            hardware=os.uname().machine,
            os=f"{os.uname().sysname} {os.uname().release}",
            application=f"helperd {__version__}",
        )
        supervisor.runtime_dir = runtime_dir
        for path in unended(settings.files):
            supervisor.say("warning", f"{path} {UNENDED}")
        launcher.tend_with(supervisor.tending.keep)
        daemon = Daemon(
            supervisor, launcher, runtime_dir, settings.helperd, log, trio.current_time(), header=header
        )
        reloads = _Reloads(daemon, notifier, write)
        tell_account = partial(_tell_account, daemon, write)
        async with trio.open_nursery() as outer, _control(daemon):
            daemon.nursery = daemon.inventory.nursery = outer
            daemon.sinks.start(outer, settings)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(supervisor.run)
                if view is not None:
                    view.snapshot = daemon.snapshot
                    nursery.start_soon(supervisor.tending.keep, "the live view", view.show)
                nursery.start_soon(supervisor.tending.keep, "the end of streams", daemon.end_readers)
                nursery.start_soon(supervisor.tending.keep, "reloads for signals", reloads.run)
                nursery.start_soon(_end_with_launcher, launcher, tell_account)
                supervisor.on_beat += [
                    ("the service manager's watchdog", _Pulse(notifier, supervisor).beat),
                    ("the look at sockets", daemon.presence.look),
                    ("memory that is free again", trimming.beat),
                ]
                notifier.ready(f"{len(settings.sources)} sources")
                daemon.serving = True
                while await signals.next() == signal.SIGHUP:
                    reloads.asked.ring()
                notifier.stopping()
                write("info", "helperd", "stopping")
                with trio.move_on_after(supervisor.patience_s()):
                    await supervisor.stop()
                left = supervisor.left()
                await _flush(daemon)
                tell_account()
                daemon.serving = launcher.is_gone  # its end may be why we were told to end
                if left:
                    raise _abandoned(launcher, left)
                nursery.cancel_scope.cancel()
            outer.cancel_scope.cancel()
    return Code.DONE


@dataclass(slots=True)
class _Pulse:
    """What the service manager is told while the loop makes progress: that it does, and how things are."""

    notifier: Notifier
    supervisor: Supervisor
    told: str = ""
    told_at: float = 0.0

    def beat(self, now: float) -> None:
        """Feed the watchdog four times within its limit; say how things are when that changed, once a second."""
        limit = self.notifier.watchdog_s
        due = 1.0 if limit is None else min(1.0, limit / 4)
        if now - self.told_at < due:
            return
        self.told_at = now
        if limit is not None:
            self.notifier.watchdog()
        states = [source.life.state for source in self.supervisor.sources]
        text = f"{states.count(State.RUNNING)} of {len(states)} sources running"
        if text != self.told:
            self.told = text
            self.notifier.status(text)


_LEVELS: Final = {"alert": "error", "fatal": "error"}


def _write(log: Log, severity: str, source: str, text: str) -> None:
    log.write(_LEVELS.get(severity, severity), text, {"source": source})


@dataclass(slots=True)
class _Reloads:
    """Reloads for SIGHUP: what one did, or why it did nothing, goes to the log. One that comes meanwhile is next."""

    daemon: Daemon
    notifier: Notifier
    write: Callable[[str, str, str], None]
    asked: Bell = field(default_factory=Bell)

    async def run(self) -> None:
        """Reload whenever that was asked for, until cancelled."""
        while True:
            await self.asked.wait()
            self.notifier.reloading(trio.current_time())
            try:
                what = await self.daemon.reload()
            except HelperdError as error:
                self.write("error", "helperd", f"reload refused, nothing changed: {error}")
            else:
                parts = [
                    f"{word} {len(names)}"
                    for word, names in what.items()
                    if isinstance(names, list) and names and word != "gone"
                ]
                self.write("info", "helperd", f"reloaded: {', '.join(parts) or 'nothing to do'}")
            finally:
                self.notifier.ready()


def _tell_account(daemon: Daemon, write: Callable[[str, str, str], None]) -> None:
    """Say where all packets went: the last of what is said."""
    found = account(daemon.snapshot())
    for text in found.lines():
        write("error" if found.residue else "info", "helperd", text)


async def _end_with_launcher(launcher: Launcher, tell_account: Callable[[], None]) -> None:
    await launcher.gone()
    tell_account()
    raise launcher.gone_error()


def _abandoned(launcher: Launcher, left: list[str]) -> LauncherGone:
    """Nobody waits longer for a launcher that does not answer, or a kernel that does not let a helper end."""
    text = f"not ended in time: {', '.join(left)}; left to the launcher, which ends them when it can"
    launcher.abandon(text)
    return launcher.gone_error()


async def _flush(daemon: Daemon) -> None:
    """Let consumers read what is queued; those that do not read lose it, counted."""
    for sink in daemon.sinks:
        sink.finish()
    all_sinks = [*daemon.sinks, *daemon.sinks.leaving]
    sockets = [sink for sink in all_sinks if isinstance(sink, StreamSink)]
    files = [sink for sink in all_sinks if isinstance(sink, FileSink)]
    for sinks, limit in ((sockets, FLUSH_S), (files, FILE_FLUSH_S)):
        with trio.move_on_after(limit):
            while any(sink.consumers for sink in sinks):  # noqa: ASYNC110 - for so long at most
                await trio.sleep(0.01)
    for sink in sockets:
        for consumer in list(sink.consumers):
            sink.dismiss(consumer)
    for file in files:
        file.scope.cancel()
    with trio.move_on_after(GIVEN_UP_S):
        while any(file.consumers for file in files):  # noqa: ASYNC110 - for so long at most
            await trio.sleep(0.01)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the supervisor process: the launcher's child."""
    parser = argparse.ArgumentParser(
        prog="helperd-supervisor", description="Started by the launcher; not by hand."
    )
    parser.add_argument("--launcher-fd", type=int, required=True)
    parser.add_argument("--installed")  # socket of the launcher that serves what ours cannot
    parser.add_argument("--config", required=True)
    parser.add_argument("--runtime-dir")
    parser.add_argument("--demo", action="store_true")
    parser.add_argument("--made", action="append", default=[])  # for this run; goes with it
    options = parser.parse_args(argv)
    signals = Signals()
    made: list[str] = options.made
    try:
        settings = config.load(options.config)
        if options.demo:
            settings = replace(settings, helperd=replace(settings.helperd, socket_mode=0o666))
        runtime_dir = os.path.abspath(
            options.runtime_dir or settings.helperd.runtime_dir or default_runtime_dir()
        )
        made += claim_runtime_dir(runtime_dir)
        _raise_fd_limit()
        signals.block()
        view = LiveView() if sys.stdout.isatty() else None
        with Log(form=settings.helperd.log_format, level=settings.helperd.log_level) as log:
            if options.demo:
                _invite(runtime_dir, settings)
            return trio.run(
                _run_quietly,
                settings,
                options.launcher_fd,
                options.installed,
                runtime_dir,
                log,
                view,
                signals,
            )
    except ConfigRefused as refused:
        say(*refused.mistakes, file=sys.stderr)
        return refused.exit_code
    except HelperdError as error:
        say(f"helperd: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        signals.block()
        leave_runtime_dir(made)


async def _run_quietly(
    settings: Config,
    launcher_fd: int,
    installed: str | None,
    runtime_dir: str,
    log: Log,
    view: LiveView | None,
    signals: Signals,
) -> Code:
    """Turn a group of one into the error it holds."""
    try:
        return await run(settings, launcher_fd, installed, runtime_dir, log, view, signals)
    except BaseExceptionGroup as group:
        known, other = group.split(HelperdError)
        if other is None and known is not None:
            error: BaseException = known
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            raise error from None
        raise


def _raise_fd_limit() -> None:
    """Take every descriptor that the hard limit gives; six go to each helper."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _invite(runtime_dir: str, settings: Config) -> None:
    """Print what to try next, ready to be copied."""
    checkout = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    command = os.path.join(checkout, ".venv", "bin", "helperd")
    if not os.access(command, os.X_OK):
        command = "helperd"
    found = runtime_dir == default_runtime_dir() and "RUNTIME_DIRECTORY" not in os.environ
    where = [] if found else [f"--runtime-dir={runtime_dir}"]
    say(f"helperd demo: {len(settings.sources)} sources, each a real process; no root, no hardware.")
    say("In another terminal, try:")
    for words in (
        ["tshark", "-i", f"{runtime_dir}/{ALL_SOCKET}"],
        [command, "tap", *where, "radio0", "|", "tcpdump -n -r -"],
        [command, "status", *where],
    ):
        write(f"{_fitting(words)}\n", flush=True)


def _fitting(words: list[str], width: int = 80) -> str:
    """A command line, continued where a terminal ends: it can be copied all the same."""
    line, lines = " ", []
    for word in words:
        if len(line) + len(word) + 3 > width and line.strip():
            lines.append(line + " \\")
            line = "     "
        line += f" {word}"
    return "\n".join([*lines, line])


if __name__ == "__main__":
    raise SystemExit(main())
