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
from typing import TYPE_CHECKING, Final, cast

import trio

from helperd import __version__, config, pcapng
from helperd.alone import describe
from helperd.config.profile import END_SIGNALS
from helperd.config.sources import source_name
from helperd.config.specs import Config, DaemonSpec, SinkSpec, SourceSpec
from helperd.control.api import Reader
from helperd.control.peer import Admins
from helperd.control.server import serve as serve_control
from helperd.drivers import probe
from helperd.errors import Code, ConfigRefused, HelperdError, LauncherGone, RequestRefused
from helperd.inventory import Inventory
from helperd.launcher import Launcher, open_launcher
from helperd.launchers import with_installed
from helperd.lifecycle import State
from helperd.logs import Log
from helperd.notify import Notifier
from helperd.printing import say, write
from helperd.routing import Form, Overflow, RouteTable
from helperd.runtime import (
    ALL_FRAMES_SOCKET,
    ALL_JSONL_SOCKET,
    ALL_SOCKET,
    CONTROL_SOCKET,
    SOURCES_DIR,
    claim_runtime_dir,
    default_runtime_dir,
    leave_runtime_dir,
)
from helperd.sinks.doorman import Doorman
from helperd.sinks.file import FLUSH_S as FILE_FLUSH_S
from helperd.sinks.file import FileSink
from helperd.sinks.listen import TcpListener, UnixListener, listen_tcp, listen_unix
from helperd.sinks.stream import StreamSink
from helperd.standing import StandingOrder
from helperd.status import log_status, snapshot
from helperd.supervisor import Supervisor
from helperd.view import LiveView
from helperd.wire.definition import SourceDefinition, split_interface

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence

FLUSH_S: Final = 1.0
"""Seconds that consumers have to read what is queued when the daemon stops."""


@dataclass(slots=True, eq=False)
class Daemon:
    """The parts of a running daemon, and what the control socket may ask of it."""

    supervisor: Supervisor
    launcher: Launcher
    runtime_dir: str
    spec: DaemonSpec
    log: Log
    started_at: float
    sinks: list[StreamSink | FileSink] = field(default_factory=list)
    header: bytes = b""
    configured: dict[str, StreamSink | FileSink] = field(default_factory=dict)
    nursery: trio.Nursery | None = None
    doorman: Doorman = field(default_factory=Doorman)
    control: UnixListener | None = None
    inventory: Inventory = field(init=False)

    def __post_init__(self) -> None:
        supervisor = self.supervisor
        self.inventory = Inventory(
            self.launcher, lambda: supervisor.config, supervisor.drivers, supervisor.hotplug
        )

    # sinks

    def open_sinks(self, nursery: trio.Nursery) -> None:
        """Open the implicit consumer sockets and those of the configuration.

        Raises:
            SinkError: one of them cannot be opened; those before it are closed by the nursery's cancellation.
        """
        self.nursery = nursery
        nursery.start_soon(partial(self.doorman.serve, nursery, self.supervisor.tending.keep))
        for sink, source in self._implicit() if self.spec.implicit_sinks else []:
            self._open(sink, source)
        for spec in self.supervisor.config.sinks:
            self.configured[spec.name] = self._open(spec, None)

    def _implicit(self) -> list[tuple[SinkSpec, str | None]]:
        every: list[tuple[SinkSpec, str | None]] = [
            (SinkSpec(path=ALL_SOCKET), None),
            (SinkSpec(path=ALL_FRAMES_SOCKET, format="frames"), None),
            (SinkSpec(path=ALL_JSONL_SOCKET, format="jsonl"), None),
        ]
        for source in self.supervisor.config.sources:
            every += self._own_sockets(source.name)
        return every

    def _own_sockets(self, name: str) -> list[tuple[SinkSpec, str | None]]:
        path = f"{SOURCES_DIR}/{name}"
        return [
            (SinkSpec(path=f"{path}.sock", sources=(name,)), name),
            (SinkSpec(path=f"{path}.frames.sock", sources=(name,), format="frames"), name),
            (SinkSpec(path=f"{path}.jsonl.sock", sources=(name,), format="jsonl"), name),
        ]

    def _open_own_sockets(self, name: str) -> None:
        for spec, source in self._own_sockets(name):
            self._open(spec, source)

    def _open(self, spec: SinkSpec, source: str | None) -> StreamSink | FileSink:
        sink: StreamSink | FileSink
        if spec.type == "file":
            sink = self._files(spec)
        elif spec.listen is not None:
            sink = self._sink(spec, source, listen_tcp(*spec.listen))
        else:
            path = os.path.join(self.runtime_dir, spec.path)
            mode, group = self.spec.socket_mode, self.spec.socket_group
            sink = self._sink(spec, source, listen_unix(path, mode=mode, group=group))
        self.sinks.append(sink)
        assert self.nursery is not None
        if isinstance(sink, StreamSink):
            self.doorman.watch(sink)
        else:
            self.nursery.start_soon(sink.serve)
        return sink

    def _sink(
        self,
        spec: SinkSpec,
        source: str | None,
        listener: UnixListener | TcpListener,
        *,
        single: bool | None = None,
    ) -> StreamSink:
        """A sink of live streams; those of a source's own carry one link type unless it is said otherwise."""
        return StreamSink(
            name=spec.name,
            listener=listener,
            table=self.supervisor.table,
            header=self.header,
            on_room=self.supervisor.room,
            on_connect=self.supervisor.on_consumer,
            on_change=self.supervisor.changed,
            on_bug=self.supervisor.bug,
            is_over=self._are_done,
            sources=frozenset(spec.sources),
            source=source,
            single=source is not None if single is None else single,
            spec=spec,
            limit=spec.limit,
            overflow=cast("Overflow", spec.overflow),
            hold=spec.hold,
            form=cast("Form", spec.format),
            linktypes=frozenset(spec.dlts),
        )

    def _files(self, spec: SinkSpec) -> FileSink:
        supervisor = self.supervisor
        return FileSink(
            spec,
            supervisor.table,
            self.header,
            on_room=supervisor.room,
            on_connect=supervisor.on_consumer,
            on_change=supervisor.changed,
            on_bug=partial(supervisor.bug, "helperd"),
            say=supervisor.say,
        )

    # ControlApi

    def change_number(self) -> int:
        """Another number after every change."""
        return self.supervisor.changes

    def snapshot(self) -> dict[str, object]:
        """Everything that is true now."""
        now = trio.current_time()
        found = snapshot(self.supervisor, self.sinks, self.runtime_dir, self.started_at, now)
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
        """Open a definition until the daemon ends; returns the source's name, before the source has begun."""
        SourceDefinition.parse(definition)
        restart = "transient" if once else "permanent"
        spec = SourceSpec(definition=definition, name=name or source_name(definition), restart=restart)
        self.supervisor.add(spec)
        if self.spec.implicit_sinks:
            self._open_own_sockets(spec.name)
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
        sink = self._sink(spec, source, self.control, single=False)
        sink.lent = True
        consumer = sink.admit(sock)
        self.sinks.append(sink)

        async def serve() -> None:
            with sink.scope:
                await sink.attend(consumer)

        try:
            yield Reader(serve, consumer.finish)
        finally:
            sink.dismiss(consumer)
            if sink in self.sinks:  # its source has not been removed
                self.sinks.remove(sink)

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
        """Stop a source and forget it; its own socket goes with it."""
        await self.supervisor.remove(name)
        self._close_own_socket(name)

    async def reload(self) -> dict[str, object]:
        """Read the configuration again; a broken one changes nothing.

        Raises:
            ConfigRefused: with all mistakes.
            RequestRefused: the launcher refuses it.
        """
        new = await self._read_again()
        before = {source.name for source in self.supervisor.sources}
        if self.spec.implicit_sinks:
            for spec in new.sources:
                if spec.name not in before:
                    self._open_own_sockets(spec.name)
        what = await self.supervisor.reload(new)
        for name in what.stop:
            self._close_own_socket(name)
        self._reload_sinks(new)
        return {field.name: list(getattr(what, field.name)) for field in fields(what)}

    async def _read_again(self) -> Config:
        """Read the configuration and let the launcher do so, which it does once a second at most and is waited for."""
        for wait_s in (0.3, 0.4, 0.5, None):
            new = config.load(self.supervisor.config.file)
            try:
                await self.launcher.refresh(new)
            except RequestRefused as error:
                if error.problem != "busy" or wait_s is None:
                    raise
                await trio.sleep(wait_s)
            else:
                return new
        raise AssertionError("unreachable")

    def _reload_sinks(self, new: Config) -> None:
        wanted = {spec.name: spec for spec in new.sinks}
        for name, sink in list(self.configured.items()):
            if wanted.get(name) != sink.spec or sink.over:
                self._close(sink)
                del self.configured[name]
        for name, spec in wanted.items():
            if name not in self.configured:
                self.configured[name] = self._open(spec, None)

    def _close_own_socket(self, name: str) -> None:
        for sink in [sink for sink in self.sinks if sink.source == name]:
            self._close(sink)

    def _close(self, sink: StreamSink | FileSink) -> None:
        if not (isinstance(sink, StreamSink) and self.doorman.forget(sink)):
            sink.close()
        self.sinks.remove(sink)

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
    serve = partial(serve_control, admin=admins, on_bug=supervisor.bug, tend=supervisor.tending.keep)
    daemon.control = listener
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, trio.SocketListener(listener.socket), daemon)
            yield
            nursery.cancel_scope.cancel()
    finally:
        listener.close()


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
    early: _EarlySignals,
) -> Code:
    """Run until SIGINT or SIGTERM.

    Raises:
        SinkError: a socket cannot be opened.
        LauncherGone: the launcher ended; so have all helpers.
    """
    notifier = Notifier()
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
        daemon = Daemon(
            supervisor, launcher, runtime_dir, settings.helperd, log, trio.current_time(), header=header
        )
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            early.listening = True
            async with trio.open_nursery() as outer, _control(daemon):
                daemon.open_sinks(outer)
                await outer.start(daemon.inventory.run)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(supervisor.run)
                    if view is not None:
                        view.snapshot = daemon.snapshot
                        nursery.start_soon(view.show)
                    nursery.start_soon(supervisor.tending.keep, "the end of streams", daemon.end_readers)
                    nursery.start_soon(_end_with_launcher, launcher)
                    supervisor.on_beat.append(_Pulse(notifier, supervisor).beat)
                    notifier.ready(f"{len(settings.sources)} sources")
                    async for number in signals:
                        if number != signal.SIGHUP:
                            break
                        await _reload(daemon, notifier, write)
                    notifier.stopping()
                    write("info", "helperd", "stopping")
                    await supervisor.stop()
                    await _flush(daemon)
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


async def _reload(daemon: Daemon, notifier: Notifier, write: Callable[[str, str, str], None]) -> None:
    """Reload for a signal: what it did, or why it did nothing, goes to the log."""
    notifier.reloading(trio.current_time())
    try:
        what = await daemon.reload()
    except HelperdError as error:
        write("error", "helperd", f"reload refused, nothing changed: {error}")
    except Exception as error:  # noqa: BLE001 - a bug in a reload does not end what runs
        daemon.supervisor.bug("helperd", error)
    else:
        parts = [f"{word} {len(names)}" for word, names in what.items() if isinstance(names, list) and names]
        write("info", "helperd", f"reloaded: {', '.join(parts) or 'nothing to do'}")
    notifier.ready()


async def _end_with_launcher(launcher: Launcher) -> None:
    await launcher.gone()
    raise LauncherGone("launcher-gone", "the launcher process has ended, and every helper with it")


async def _flush(daemon: Daemon) -> None:
    """Let consumers read what is queued; those that do not read lose it, counted."""
    for sink in daemon.sinks:
        sink.finish()
    sockets = [sink for sink in daemon.sinks if isinstance(sink, StreamSink)]
    files = [sink for sink in daemon.sinks if isinstance(sink, FileSink)]
    for sinks, limit in ((sockets, FLUSH_S), (files, FILE_FLUSH_S)):
        with trio.move_on_after(limit):
            while any(sink.consumers for sink in sinks):  # noqa: ASYNC110 - for so long at most
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
    early = _EarlySignals()
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
        view = LiveView() if sys.stdout.isatty() else None
        with Log(form=settings.helperd.log_format, level=settings.helperd.log_level) as log:
            if options.demo:
                _invite(runtime_dir, settings)
            return trio.run(
                _run_quietly, settings, options.launcher_fd, options.installed, runtime_dir, log, view, early
            )
    except ConfigRefused as refused:
        say(*refused.mistakes, file=sys.stderr)
        return refused.exit_code
    except HelperdError as error:
        say(f"helperd: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        leave_runtime_dir(made)


class _EarlySignals:
    """Ends in order before the loop listens; afterwards a second signal (terminal and launcher) changes nothing.

    Whoever started this process has blocked the signals: one that came while modules were imported is answered now.
    """

    def __init__(self) -> None:
        self.listening = False
        for number in END_SIGNALS:
            signal.signal(number, self._answer)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)

    def _answer(self, number: int, _frame: object) -> None:
        if not self.listening:
            raise SystemExit(Code.INTERRUPTED if number == signal.SIGINT else Code.DONE)


async def _run_quietly(
    settings: Config,
    launcher_fd: int,
    installed: str | None,
    runtime_dir: str,
    log: Log,
    view: LiveView | None,
    early: _EarlySignals,
) -> Code:
    """Turn a group of one into the error it holds."""
    try:
        return await run(settings, launcher_fd, installed, runtime_dir, log, view, early)
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
