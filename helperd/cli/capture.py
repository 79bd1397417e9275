"""``helperd capture DEFINITION``: one helper, supervised by this process, its packets as pcapng; no daemon.

A helper that needs more than the caller's own rights is asked of the installed launcher, which gives it to whom an
[[allow]] rule names; see ``helperd.launchers``.
"""

from __future__ import annotations

import sys
from math import inf
from typing import TYPE_CHECKING, Final

import trio

from helperd import config, printing
from helperd.alone import capture, run_alone
from helperd.cli import tap
from helperd.cli.counter import Counter
from helperd.cli.defaults import config_file
from helperd.cli.ring import STDOUT, Ring
from helperd.errors import Code, UsageError
from helperd.runtime import LAUNCHER_SOCKET
from helperd.wire.definition import SourceDefinition

if TYPE_CHECKING:
    import argparse


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
        "--launcher",
        metavar="SOCKET",
        help=f"the launcher to ask for every helper (default: {LAUNCHER_SOCKET}, for those beyond your own rights)",
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
    file = args.file or STDOUT
    if file == STDOUT and sys.stdout.isatty():
        raise UsageError("usage", "standard output is a terminal: -w FILE, or a pipe to tshark -r -")

    counter = Counter(wanted=not args.quiet and file != STDOUT)

    def say(line: str) -> None:
        if not args.quiet:
            counter.clear()
            printing.say(line, file=sys.stderr, flush=True)

    ring = Ring(file, limits, inf,  # begins with what arrives: a helper's start is not in its duration
                on_file=lambda begun: say(f"File: {begun}"))  # fmt: skip

    async def copy(sock: trio.socket.SocketType) -> int | None:
        await _copy(sock, ring, counter)
        return None if ring.done else ring.packets

    try:
        problem = run_alone(capture, settings, args.definition, args.launcher, copy, say)
    finally:
        counter.clear()
        ring.close()
    if ring.packets or not problem:
        say(f"Packets captured: {ring.packets:,}")
    if problem:
        printing.say(f"helperd: {problem}", file=sys.stderr)
        return int(Code.NO)
    return int(Code.DONE)


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
            ring.started_at = min(ring.started_at, tap._now())
            ring.feed(data, tap._now())
        else:
            return
