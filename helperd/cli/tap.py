"""``helperd tap NAME...|--all``: write live packets to a file, a ring of files or a pipe, as dumpcap would."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import sys
import time
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Final

from helperd import printing
from helperd.cli import running
from helperd.cli.counter import Counter
from helperd.cli.ring import STDOUT, Limits, LineRing, Ring
from helperd.cli.signals import woken_by
from helperd.errors import Code, HelperdError, UnavailableError, UsageError
from helperd.table import in_words

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, TextIO

_READ: Final = 1 << 20
_WHOLE: Final = "what was written is whole"
_JSON: Final = 162  # reports; their interface is in the stream beside that of the packets
_MAX_LINKTYPE: Final = 0xFFFF
_KILO: Final = 1000  # dumpcap's filesize counts in units of 1000 bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; those that dumpcap has are named and counted as there."""
    parser.add_argument(
        "names", metavar="NAME", nargs="*", help="the sources; of several, each is an interface of its own"
    )
    parser.add_argument("--all", action="store_true", help="all sources, those that come later included")
    parser.add_argument(
        "-w", dest="file", metavar="FILE", help="the file; - is standard output (default: a pipe)"
    )
    parser.add_argument("-c", dest="packets", metavar="N", type=count, help="stop after N packets")
    parser.add_argument(
        "-a",
        dest="stop",
        metavar="LIMIT:N",
        type=_limit("duration", "filesize", "packets", "files"),
        action="append",
        default=[],
        help="stop after duration:N seconds, filesize:N kB (1000 bytes), packets:N or files:N",
    )
    parser.add_argument(
        "-b",
        dest="ring",
        metavar="LIMIT:N",
        type=_limit("duration", "interval", "filesize", "packets", "files", "printname"),
        action="append",
        default=[],
        help="begin the next file after duration:N seconds, filesize:N kB, packets:N, or when the clock passes a "
        "multiple of interval:N seconds; keep files:N of them; printname:FILE gets their names (- is standard output)",
    )
    parser.add_argument(
        "-g", dest="mode", action="store_const", const=0o640, default=0o600, help="let the group read"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    parser.add_argument(
        "--jsonl",
        action="store_true",
        help="JSON reports, one per line, instead of packets; N counts reports",
    )
    parser.add_argument(
        "--linktype",
        metavar="N",
        type=_linktype,
        help="packets of this link type only, by number as in pcapng files (1 Ethernet, 127 802.11 with radiotap), for "
        "readers that take one only, as tcpdump does (default: all, each an interface of its own)",
    )
    running.add_arguments(parser, printing=False)


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {text!r}")
    return number


def count(text: str) -> int:
    """The number of ``-c``, which in commands that start something is the configuration."""
    try:
        return _positive(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(
            f"{error}; -c is how many packets here, as in dumpcap: the configuration is --config FILE"
        ) from error


def _linktype(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= _MAX_LINKTYPE):
        raise argparse.ArgumentTypeError(f"must be a number from 0 to {_MAX_LINKTYPE}, not {text!r}")
    return int(text)


def _limit(*words: str) -> Callable[[str], tuple[str, float | str]]:
    """The parser of ``word:number``; seconds may be fractions."""

    def parse(text: str) -> tuple[str, float | str]:
        word, colon, number = text.partition(":")
        if word not in words or not colon:
            raise argparse.ArgumentTypeError(
                f"must be one of {', '.join(words)}, a colon and a number, not {text!r}"
            )
        if word == "printname":
            if not number:
                raise argparse.ArgumentTypeError("printname needs the name of a file, or -")
            return word, number
        if word not in {"duration", "interval"}:
            return word, _positive(number)
        try:
            seconds = float(number)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds < float("inf"):
            raise argparse.ArgumentTypeError(f"{word} must be seconds above 0, not {number!r}")
        return word, seconds

    return parse


def limits_of(args: argparse.Namespace) -> Limits:
    """What the options say about ends and rotation.

    Raises:
        UsageError: "usage": options that do not go together.
    """
    stop, ring = dict(args.stop), dict(args.ring)
    packets = [int(number) for number in (args.packets, stop.get("packets")) if number is not None]
    if ring and "filesize" in stop:  # as in dumpcap: with several files it is the size of each
        ring["filesize"] = min(stop.pop("filesize"), ring.get("filesize", float("inf")))
    limits = Limits(
        stop_packets=min(packets, default=None),
        stop_bytes=_whole(stop.get("filesize"), _KILO),
        stop_s=stop.get("duration"),
        stop_files=_whole(stop.get("files")),
        next_packets=_whole(ring.get("packets")),
        next_bytes=_whole(ring.get("filesize"), _KILO),
        next_s=ring.get("duration"),
        next_multiple=ring.get("interval"),
        files=int(ring.get("files", 0)),
    )
    if (ring or limits.stop_files is not None) and not limits.rotates:
        raise UsageError(
            "usage",
            "several files need a limit for each: -b filesize:N, -b duration:N, -b interval:N or -b packets:N",
        )
    if limits.rotates and args.file in {None, STDOUT}:
        raise UsageError("usage", "-b needs the files' name: -w FILE")
    return limits


def _whole(number: float | None, unit: int = 1) -> int | None:
    return None if number is None else int(number) * unit


def main(args: argparse.Namespace) -> int:
    """Write until a limit, the daemon's end, SIGINT or SIGTERM; all of these leave complete files.

    Returns:
        0, also when the daemon has ended in order; 69 when it has died, 111 when the file cannot be written.

    Raises:
        UsageError: options that do not go together.
        UnavailableError: no daemon.
        HelperdError: no such source; the file cannot be written.
    """
    if bool(args.names) == args.all:
        raise UsageError("usage", "name the sources, or say --all; `helperd status` shows which there are")
    if args.jsonl and args.linktype is not None:
        raise UsageError("usage", "--jsonl has no packets, so no --linktype either: leave one of the two out")
    limits = limits_of(args)
    file = args.file or STDOUT
    if file == STDOUT and sys.stdout.isatty():
        raise UsageError(
            "usage", "packets do not go to a terminal; write a file with -w FILE, or pipe to tshark -r -"
        )
    counter = Counter(wanted=not args.quiet and file != STDOUT, unit="Reports" if args.jsonl else "Packets")

    def say(line: str) -> None:
        if not args.quiet:
            counter.clear()
            printing.say(line, file=sys.stderr)

    with (
        woken_by(signal.SIGINT, signal.SIGTERM) as stopped,
        _names_to(args) as tell,
        _connect(args, say) as (stream, head, daemon),
    ):
        ring = (LineRing if args.jsonl else Ring)(
            file, limits, _now(), on_file=lambda name: say(f"File: {name}"), on_whole=tell, mode=args.mode
        )
        try:
            ring.feed(head, _now())
            ended = _copy(stream, ring, stopped, counter)
        finally:
            counter.clear()
            ring.close()
    say(f"{ring.unit} captured: {ring.packets:,}{_lost(ring)}")
    if ended and ring.cut:
        raise UnavailableError("no-daemon", f"the daemon has died inside a packet; {_WHOLE}")
    if ended:
        for line in _why_it_ended(args, daemon):
            say(line)
    return Code.DONE


def _why_it_ended(args: argparse.Namespace, daemon: int) -> list[str]:
    """Ask what became of the sources of a stream that has ended.

    Raises:
        UnavailableError: "no-daemon": it has died; one that ends in order removes its control socket first.
    """
    try:
        with running.connect(args) as client:
            status = client.call("GetStatus")
    except HelperdError:
        if os.path.lexists(running.control_path(args)):
            raise UnavailableError("no-daemon", f"the daemon has died; {_WHOLE}") from None
        return ["the daemon has ended"]
    if status["pid"] != daemon:
        raise UnavailableError("no-daemon", f"the daemon has died, and another runs in its place; {_WHOLE}")
    rows = {row["name"]: row for row in status["sources"]}
    over = [rows[name] for name in args.names if name in rows and running.is_done(rows[name])]
    if over and len(over) == len(set(args.names)):
        return [f"{running.said(row)}, for who reads by then: `helperd tap --all`" for row in over]
    return ["the daemon has ended the stream"]


def _lost(ring: Ring) -> str:
    """What this stream has lost, and why."""
    return "".join(f"; {number:,} lost: {in_words(reason)}" for reason, number in ring.lost_by().items())


def _copy(stream: socket.socket, ring: Ring, stopped: socket.socket, counter: Counter) -> bool:
    """Feed the ring; True when the stream ended, False when we did."""
    poll = select.poll()
    poll.register(stream, select.POLLIN)
    poll.register(stopped, select.POLLIN)
    while not ring.done:
        due = min(inf if (at := ring.due_at()) is None else at, counter.due_at(ring.packets))
        timeout = None if due == inf else max(0.0, due - _now()) * 1000 + 1
        ready = {fd for fd, _event in poll.poll(timeout)}
        if stopped.fileno() in ready:
            return False
        counter.look(ring.packets, _now())
        if stream.fileno() not in ready:
            ring.tick(_now())
            continue
        try:
            data = stream.recv(_READ)
        except ConnectionResetError:
            data = b""
        if not data:
            return True
        ring.feed(data, _now())
    return False


def _name(out: TextIO, name: str) -> None:
    """Hand a file's name to a program, as it is."""
    printing.write(f"{name}\n", out, flush=True)


@contextlib.contextmanager
def _names_to(args: argparse.Namespace) -> Iterator[Callable[[str], None]]:
    """Who is told the name of each file that is complete.

    Raises:
        HelperdError: "sink-failed".
    """
    target = dict(args.ring).get("printname")
    if target is None:
        yield lambda _name: None
        return
    if target in {STDOUT, "stdout", "stderr"}:
        yield partial(_name, sys.stderr if target == "stderr" else sys.stdout)
        return
    try:
        with open(target, "w", encoding="utf-8", errors="surrogateescape") as out:
            yield partial(_name, out)
    except OSError as error:
        if error.filename != target:
            raise
        raise HelperdError("sink-failed", f"cannot write {target}: {error.strerror}") from error


@contextlib.contextmanager
def _connect(
    args: argparse.Namespace, say: Callable[[str], None]
) -> Iterator[tuple[socket.socket, bytes, int]]:
    """Turn a control connection into a stream, with its first bytes and the daemon's pid.

    Says which of its sources have no packets now.

    Raises:
        HelperdError: no daemon, no such source.
    """
    names = list(dict.fromkeys(args.names))
    with running.connect(args) as client:
        status = client.call("GetStatus")
        sources = status["sources"]
        form = "jsonl" if args.jsonl else None
        stream = client.upgrade("Stream", sources=names or None, format=form, linktype=args.linktype)
    with stream.socket:
        for source in sources:
            if running.is_done(source) and source["name"] in names:
                continue  # the stream ends at once, and then it is said
            if args.all or source["name"] in names:
                _tell(args, source, say)
        yield stream.socket, stream.head, status["pid"]


def _tell(args: argparse.Namespace, source: dict[str, Any], say: Callable[[str], None]) -> None:
    """Say what may surprise about a source: it does not run, or its link types."""
    name, linktypes = source["name"], [number for number in source["linktypes"] if number != _JSON]
    if source["state"] != "running":
        say(f"{running.said(source)}; its packets come when it runs")
    elif args.linktype is not None and linktypes and args.linktype not in linktypes:
        say(f"{name}: no packet of link type {args.linktype} so far, but of {_listed(linktypes)}")
    elif args.linktype is None and len(linktypes) > 1 and args.file in {None, STDOUT} and not args.jsonl:
        say(
            f"{name} has link types {_listed(linktypes)}; for a reader that takes one only: --linktype {linktypes[0]}"
        )


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


def _now() -> float:
    return time.monotonic()  # noqa: TID251 - a client's own limits
