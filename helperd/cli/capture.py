"""``helperd capture DEFINITION``: one helper, supervised by this process, its packets as pcapng; no daemon.

The installed launcher is asked when there is one and no configuration is named: it gives a user of an [[allow]] rule a
helper with the privilege it declares. Otherwise the helper runs with the caller's own rights.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Final

import trio

from helperd import __version__, config, pcapng
from helperd.cli import tap
from helperd.cli.counter import Counter
from helperd.cli.defaults import SYSTEM_CONFIG, config_file
from helperd.cli.launcher import SOCKET
from helperd.cli.ring import STDOUT, Ring
from helperd.config.specs import Config, SourceSpec
from helperd.errors import Code, HelperdError
from helperd.launcher import Launcher, connect_launcher, open_launcher, own_launcher
from helperd.lifecycle import State, Why
from helperd.routing import RouteTable
from helperd.sinks.consumer import Consumer
from helperd.supervisor import Supervisor
from helperd.wire.definition import SourceDefinition

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from helperd.source import Source

LIMIT: Final = 32 << 20
"""Bytes that may wait for the file; the helper is held meanwhile, so nothing is lost here."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; those that dumpcap has are named and counted as there."""
    parser.add_argument(
        "definition", metavar="DEFINITION", help='what to open, such as "wlan0:type=linuxwifi"'
    )
    parser.add_argument(
        "-w", dest="file", metavar="FILE", help="the file; - is standard output (default: a pipe)"
    )
    parser.add_argument("-c", dest="packets", metavar="N", type=tap.count, help="stop after N packets")
    parser.add_argument(
        "-a",
        dest="stop",
        metavar="LIMIT:N",
        type=tap._limit("duration", "filesize", "packets"),
        action="append",
        default=[],
        help="stop after duration:N seconds, filesize:N kB (1000 bytes) or packets:N",
    )
    parser.add_argument("--config", metavar="FILE", help="the configuration that names the helpers")
    parser.add_argument(
        "--launcher", metavar="SOCKET", help=f"the launcher to ask (default: {SOCKET}, if there is one)"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    parser.set_defaults(ring=[])


def main(args: argparse.Namespace) -> int:
    """Capture until a limit, the helper's end or Ctrl-C.

    Raises:
        UsageError: a malformed definition, or options that do not go together.
        ConfigRefused: the configuration has mistakes. HelperdError: the helper could not be started or opened.
    """
    SourceDefinition.parse(args.definition)
    limits = tap.limits_of(args)
    path = config_file(args)
    settings = config.load(path)
    name = config.source_name(args.definition)
    spec = SourceSpec(definition=args.definition, name=name, restart="temporary")
    settings = replace(settings, sources=(spec,), sinks=())
    installed = args.launcher or (SOCKET if path == SYSTEM_CONFIG and os.path.exists(SOCKET) else None)
    file = args.file or STDOUT
    if file == STDOUT and sys.stdout.isatty():
        raise HelperdError("usage", "standard output is a terminal: -w FILE, or a pipe to tshark -r -")

    counter = Counter(wanted=not args.quiet and file != STDOUT)

    def say(line: str) -> None:
        if not args.quiet:
            counter.clear()
            print(line, file=sys.stderr, flush=True)

    ring = Ring(file, limits, tap._now(),
                on_file=lambda begun: say(f"File: {begun}"))  # fmt: skip
    try:
        problem = trio.run(_capture, settings, path, installed, ring, say, counter)
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, (HelperdError, BrokenPipeError)):
            raise error from None
        raise
    finally:
        counter.clear()
        ring.close()
    if ring.packets or not problem:
        say(f"Packets captured: {ring.packets:,}")
    if problem:
        print(f"helperd: {problem}", file=sys.stderr)
        return int(Code.NO)
    return int(Code.DONE)


def _door(path: str, installed: str | None, settings: Config) -> AbstractAsyncContextManager[Launcher]:
    if installed:
        return open_launcher(connect_launcher(installed), helpers=settings.helpers)
    return own_launcher(path, helpers=settings.helpers)


async def _capture(
    settings: Config,
    path: str,
    installed: str | None,
    ring: Ring,
    say: Callable[[str], None],
    counter: Counter,
) -> str:
    """Run one source with one consumer, this process itself; return why it ended badly, or nothing."""

    def log(severity: str, _source: str, text: str) -> None:
        lives = [source.life for source in supervisor.sources]
        over = any(
            life.exit and life.state is State.STOPPING for life in lives
        )  # how it ended is said at the end
        if severity in {"warning", "error"} and not over:
            say(text)

    (spec,) = settings.sources
    table = RouteTable()
    came: list[int] = []
    ours, theirs = trio.socket.socketpair()
    async with _door(path, installed, settings) as launcher:
        supervisor = Supervisor(settings, launcher, table, log)
        header = pcapng.section_header(os=os.uname().sysname, application=f"helperd {__version__}")
        consumer = Consumer("capture", theirs, table, header, frozenset({spec.name}), LIMIT, "wait", 3600.0,
                            supervisor.room, trio.current_time())  # fmt: skip
        with ours, trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:

                async def interrupted() -> None:
                    async for number in signals:
                        came.append(number)
                        break
                    await supervisor.stop()

                async def ended() -> None:
                    while not supervisor.sources or supervisor.source(spec.name).life.incarnation == 0:
                        await supervisor.wait_change()
                    while not _over(supervisor.source(spec.name).life.state):
                        await supervisor.wait_change()
                    consumer.finish()

                nursery.start_soon(consumer.serve)
                nursery.start_soon(supervisor.run)
                nursery.start_soon(interrupted)
                nursery.start_soon(ended)
                await _copy(ours, ring, counter)
                await supervisor.stop()
                bad = "" if ring.done else _failure(supervisor.source(spec.name), ring.packets)
                nursery.cancel_scope.cancel()
    if signal.SIGINT in came and not ring.packets:
        raise KeyboardInterrupt  # at the start: there is nothing whose end could be told
    return bad


def _failure(source: Source, packets: int) -> str:
    """Return how the helper ended, if that was no good end."""
    ended = source.life.exit
    if ended is None:
        return "" if packets else source.life.why
    if ended.kind in {Why.DONE, Why.ASKED}:
        return ""
    return source.how_it_ended(ended)


def _over(state: State) -> bool:
    return state in {State.DOWN, State.FAILED}


async def _copy(sock: trio.socket.SocketType, ring: Ring, counter: Counter) -> None:
    """Write what comes until it ends or a limit is reached."""
    while not ring.done:
        due = min(inf if (at := ring.due_at()) is None else at, counter.due_at(ring.packets))
        data = None
        with trio.move_on_after(max(0.0, due - tap._now())):
            data = await sock.recv(1 << 20)
        counter.look(ring.packets, tap._now())
        if data is None:
            ring.tick(tap._now())
        elif data:
            ring.feed(data, tap._now())
        else:
            return
