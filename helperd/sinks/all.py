"""All sinks of a daemon: opened beside those that are, then put in their place at once.

Rules:
  1. What can fail is done by ``stage``, and leaves no trace when it does; ``Change.take`` neither fails nor waits.
  2. A sink that is changed and stays where it is keeps its listening socket: nobody who connects meanwhile is refused.
  3. A closed sink's readers are shown and counted until they have gone.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import trio

from helperd.config.sinks import SinkSpec
from helperd.runtime import ALL_FRAMES_SOCKET, ALL_JSONL_SOCKET, ALL_SOCKET, SOURCES_DIR
from helperd.sinks.doorman import Doorman
from helperd.sinks.file import FileSink
from helperd.sinks.listen import UnixListener, listen_tcp, listen_unix
from helperd.sinks.stream import StreamSink

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from helperd.bell import Bell
    from helperd.config.specs import Config, DaemonSpec
    from helperd.places import Entrance
    from helperd.routing import Form, Overflow, RouteTable
    from helperd.sinks.listen import TcpListener
    from helperd.sinks.said import Messages
    from helperd.sinks.stream import Tend

    Listener = UnixListener | TcpListener

Sink = StreamSink | FileSink
SOON_S: Final = 0.02
"""Seconds between two changes among readers that are told."""


class Shell(Protocol):
    """What a sink needs of the daemon."""

    table: RouteTable
    room: Bell

    @property
    def bus(self) -> Messages:
        """What people are told."""

    def on_consumer(self, wanted: frozenset[str], /) -> None:
        """A reader of these sources has come."""

    def changed(self) -> None:
        """Something is to be shown."""

    def bug(self, source: str, error: BaseException, /) -> None:
        """Log an error of our own."""

    def say(self, severity: str, text: str, /) -> None:
        """Tell people."""


@dataclass(slots=True)
class Change:
    """Sinks opened beside those that are there: ``take`` them, or ``undo``.

    Attributes:
        opened: sinks that are to be.
        closing: those that are to go.
        heirs: listeners that stay and change hands, by their identity.
        files: of ``opened``, file sinks that were not there before, to be tried first.
    """

    all: Sinks
    opened: list[Sink] = field(default_factory=list)
    closing: list[Sink] = field(default_factory=list)
    heirs: set[int] = field(default_factory=set)
    files: list[SinkSpec] = field(default_factory=list)

    def undo(self) -> None:
        """Close what was opened; nothing of it is left."""
        for sink in self.opened:
            if isinstance(sink, StreamSink) and id(sink.listener) not in self.heirs:
                sink.listener.close()
        self.opened.clear()

    def take(self) -> None:
        """Put the new sinks in the place of the old ones, at once."""
        for sink in self.opened:
            self.all.shell.table.gone.open(sink.name)  # first: one that is changed has one account
        for sink in self.closing:
            stays = isinstance(sink, StreamSink) and id(sink.listener) in self.heirs
            self.all.close(sink, keep_listener=stays)
        for sink in self.opened:
            self.all.begin(sink)


@dataclass(slots=True, eq=False)
class Sinks:
    """The sinks there are.

    Attributes:
        shell: the daemon.
        spec: its settings.
        runtime_dir: where unix sockets are.
        header: of pcapng streams.
        is_over: of these sources none will have packets again by itself.
        tend: keeps a task going.
        entrance: where readers are let in.
        there: the sinks, in the order in which they were opened.
        leaving: closed ones whose readers have yet to go.
    """

    shell: Shell
    spec: DaemonSpec
    runtime_dir: str
    header: bytes
    is_over: Callable[[frozenset[str]], bool]
    tend: Tend
    entrance: Entrance
    doorman: Doorman = field(default_factory=Doorman)
    there: list[Sink] = field(default_factory=list)
    leaving: list[Sink] = field(default_factory=list)
    _nursery: trio.Nursery | None = None
    _one_by_one: trio.Lock = field(default_factory=trio.Lock)
    _telling: bool = False
    _told_at: float = -math.inf

    def __iter__(self) -> Iterator[Sink]:
        return iter(self.there)

    def start(self, nursery: trio.Nursery, settings: Config) -> None:
        """Open the implicit sockets and those of the configuration.

        Raises:
            SinkError: one of them cannot be opened; then none is.
        """
        self._nursery = nursery
        nursery.start_soon(partial(self.doorman.serve, nursery, self.tend))
        self.stage(settings, {source.name for source in settings.sources}).take()

    def stage(self, settings: Config, sources: Collection[str]) -> Change:
        """Open what a configuration asks for and is not there yet, beside what is.

        Args:
            settings: the configuration.
            sources: names of all sources that there are to be, added ones included.

        Raises:
            SinkError: one of them cannot be opened; then nothing has changed.
        """
        wanted: list[tuple[SinkSpec, str | None]] = []
        if self.spec.implicit_sinks:
            wanted += [
                (SinkSpec(path=ALL_SOCKET), None),
                (SinkSpec(path=ALL_FRAMES_SOCKET, format="frames"), None),
                (SinkSpec(path=ALL_JSONL_SOCKET, format="jsonl"), None),
            ]
            wanted += [own for name in sources for own in own_sockets(name)]
        wanted += [(spec, None) for spec in settings.sinks]
        kept = {(sink.spec, sink.source) for sink in self.there if not sink.over and not _is_lent(sink)}
        asked = set(wanted)
        change = Change(self)
        for sink in self.there:
            changed = sink.over or (sink.spec, sink.source) not in asked
            if changed and sink.source is None and not _is_lent(sink):  # a source's own go when it has ended
                change.closing.append(sink)
        self._open(change, (each for each in wanted if each not in kept))
        return change

    def stage_own(self, source: str) -> Change:
        """Open a source's own sockets.

        Raises:
            SinkError: one of them cannot be opened; then none is.
        """
        change = Change(self)
        if self.spec.implicit_sinks:
            self._open(change, own_sockets(source))
        return change

    def _open(self, change: Change, wanted: Iterable[tuple[SinkSpec, str | None]]) -> None:
        staying = {
            sink.listener.path: sink.listener
            for sink in change.closing
            if isinstance(sink, StreamSink) and not sink.lent
        }
        try:
            for spec, source in wanted:
                if spec.type == "file":
                    if all(
                        spec != sink.spec for sink in change.closing
                    ):  # else it has stopped, and begins again
                        change.files.append(spec)
                    change.opened.append(self._files(spec))
                    continue
                listener = staying.pop(self._address(spec), None)
                if listener is None:
                    listener = self._listen(spec)
                else:
                    change.heirs.add(id(listener))
                change.opened.append(self.stream(spec, source, listener))
        except BaseException:
            change.undo()
            raise

    def _address(self, spec: SinkSpec) -> str:
        if spec.listen is None:
            return os.path.join(self.runtime_dir, spec.path)
        host, port = spec.listen
        return f"tcp:[{host}]:{port}" if ":" in host else f"tcp:{host}:{port}"

    def _listen(self, spec: SinkSpec) -> Listener:
        if spec.listen is not None:
            return listen_tcp(*spec.listen)
        return listen_unix(self._address(spec), mode=self.spec.socket_mode, group=self.spec.socket_group)

    def stream(
        self, spec: SinkSpec, source: str | None, listener: Listener, *, single: bool | None = None
    ) -> StreamSink:
        """Make a sink of live streams; those of a source's own carry one link type unless it is said otherwise."""
        return StreamSink(
            name=spec.name,
            listener=listener,
            table=self.shell.table,
            header=self.header,
            on_room=self.shell.room,
            on_connect=self.shell.on_consumer,
            on_change=self._crowd_changed,
            on_bug=self.shell.bug,
            is_over=self.is_over,
            sources=frozenset(spec.sources),
            source=source,
            single=source is not None if single is None else single,
            spec=spec,
            limit=spec.limit,
            overflow=cast("Overflow", spec.overflow),
            hold=spec.hold,
            form=cast("Form", spec.format),
            linktypes=frozenset(spec.dlts),
            entrance=self.entrance,
            one_by_one=self._one_by_one,
        )

    def _files(self, spec: SinkSpec) -> FileSink:
        return FileSink(
            spec,
            self.shell.table,
            self.header,
            on_room=self.shell.room,
            on_connect=self.shell.on_consumer,
            on_change=self._changed,
            on_bug=partial(self.shell.bug, "helperd"),
            say=self.shell.say,
            bus=self.shell.bus,
        )

    def begin(self, sink: Sink) -> None:
        """Let an opened sink have readers from now on."""
        assert self._nursery is not None
        self.there.append(sink)
        if isinstance(sink, StreamSink):
            self.doorman.watch(sink)
        else:
            self._nursery.start_soon(self.tend, sink.name, sink.serve, sink.may_end)

    def listeners(self) -> list[UnixListener]:
        """The unix sockets that are the sinks' own."""
        streams = (sink for sink in self.there if isinstance(sink, StreamSink) and not sink.lent)
        return [sink.listener for sink in streams if isinstance(sink.listener, UnixListener)]

    def renew(self, listener: UnixListener) -> None:
        """Bind a socket whose path was removed anew.

        Raises:
            SinkError: it cannot be.
        """
        asleep = [
            sink
            for sink in self.there
            if isinstance(sink, StreamSink) and sink.listener is listener and self.doorman.forget(sink)
        ]
        try:
            listener.renew()
        finally:
            for sink in asleep:
                self.doorman.watch(sink)

    def close_own(self, source: str) -> None:
        """Close the sinks that go with a source."""
        for sink in [sink for sink in self.there if sink.source == source]:
            self.close(sink)

    def close(self, sink: Sink, *, keep_listener: bool = False) -> None:
        """Close a sink; its readers have what is queued, in a bounded time. Another one may have its listener."""
        if isinstance(sink, StreamSink):
            self.doorman.forget(sink)
            sink.close(keep_listener=keep_listener)
        else:
            sink.close()
        self.there.remove(sink)
        self.leaving.append(sink)
        self._changed()

    def _crowd_changed(self) -> None:
        """Tell of readers that come and go: of one at once, of a thousand at once a few times."""
        assert self._nursery is not None
        if trio.current_time() >= self._told_at + SOON_S:
            self._tell()
        elif not self._telling:
            self._telling = True
            self._nursery.start_soon(self._tell_soon)

    async def _tell_soon(self) -> None:
        await trio.sleep_until(self._told_at + SOON_S)
        self._tell()

    def _tell(self) -> None:
        self._telling = False
        self._told_at = trio.current_time()
        self._changed()

    def _changed(self) -> None:
        """Forget closed sinks whose last reader has gone; show what has changed."""
        for sink in [sink for sink in self.leaving if not sink.consumers]:
            self.leaving.remove(sink)
            if not _is_lent(sink):
                self.shell.table.gone.close(sink.name)
        self.shell.changed()


def own_sockets(source: str) -> tuple[tuple[SinkSpec, str | None], ...]:
    """The sockets of one source's own."""
    path = f"{SOURCES_DIR}/{source}"
    return (
        (SinkSpec(path=f"{path}.sock", sources=(source,)), source),
        (SinkSpec(path=f"{path}.frames.sock", sources=(source,), format="frames"), source),
        (SinkSpec(path=f"{path}.jsonl.sock", sources=(source,), format="jsonl"), source),
    )


def _is_lent(sink: Any) -> bool:
    """Whether a sink is one connection to the control socket."""
    return isinstance(sink, StreamSink) and sink.lent
