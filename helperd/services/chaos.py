"""``chaos``: kills a helper every few seconds, so that restart and back-off can be seen; for ``helperd demo --chaos``.

It can kill what its own user can: in a demo every helper, under an installed helperd none.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from typing import TYPE_CHECKING

from helperd.control.client import Client
from helperd.errors import Code, HelperdError
from helperd.printing import say
from helperd.services._place import control_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any


def build() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="chaos", description="Kills helpers.", allow_abbrev=False)
    parser.add_argument(
        "--every", type=float, default=4.0, metavar="SECONDS", help="between two (default: 4)"
    )
    parser.add_argument(
        "--runtime-dir", metavar="DIR", help="of the daemon, when it did not start this service"
    )
    return parser


def victim(sources: Sequence[Mapping[str, Any]], dice: random.Random) -> Mapping[str, Any] | None:
    """A running source, every third time the same one as ever: only that one comes to know back-off."""
    running = [source for source in sources if source["state"] == "running" and source["pid"]]
    if not running:
        return None
    return running[-1] if dice.random() < 1 / 3 else dice.choice(running)


def main(argv: list[str]) -> int:
    """Kill until SIGTERM or the daemon's end; return the exit status."""
    args = build().parse_args(argv)
    if not 0.1 <= args.every <= 3600:
        say("--every is between 0.1 and 3600 seconds", file=sys.stderr)
        return Code.USAGE
    dice = random.Random()
    path = control_path(args.runtime_dir)
    try:
        while True:
            time.sleep(args.every)
            with Client(path) as client:
                chosen = victim(client.call("GetStatus")["sources"], dice)
            if chosen is None:
                continue
            try:
                os.kill(chosen["pid"], signal.SIGKILL)
            except OSError as error:
                say(f"cannot kill {chosen['name']}: {error.strerror}", file=sys.stderr, flush=True)
            else:
                say(f"killed {chosen['name']}, process {chosen['pid']}", file=sys.stderr, flush=True)
    except HelperdError as error:
        say(error, file=sys.stderr)
        return error.exit_code
