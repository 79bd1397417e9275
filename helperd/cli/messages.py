"""``helperd messages [NAME]``: what helpers and helperd said."""

from __future__ import annotations

import sys
import time

from helperd.cli import running
from helperd.errors import Code
from helperd.printing import say, say_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable
    from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "name", metavar="NAME", nargs="?", help="of one source (default: of all, and of helperd)"
    )
    parser.add_argument("-f", "--follow", action="store_true", help="print each new message as it comes")
    parser.add_argument("--since", metavar="N", type=int, default=0, help="only those with a number above N")
    running.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Print the kept messages, and follow them if asked to; with ``--json`` one object a line. None: say so on stderr.

    Returns:
        0; a daemon that ends while it is followed: 69.
    """
    asked = {"source": args.name, "since": args.since}
    with running.connect(args) as client:
        replies: Iterable[dict[str, Any]] = (
            client.more("GetMessages", **asked) if args.follow else [client.call("GetMessages", **asked)]
        )
        for reply in replies:
            for message in reply["messages"]:
                if args.json:
                    say_json(message)
                else:
                    say(line_of(message), flush=args.follow)
            if not reply["messages"] and not args.follow:
                say("no messages", file=sys.stderr)
    return Code.DONE


def line_of(message: dict[str, Any]) -> str:
    """One message as a line: local time, severity, source, text."""
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(message["at"]))
    repeated = message.get("repeated") or 0
    again = f" (repeated {repeated:,} times)" if repeated > 1 else " (repeated once)" if repeated else ""
    return f"{at} {message['severity']:<7} {message['source']}: {message['text']}{again}"
