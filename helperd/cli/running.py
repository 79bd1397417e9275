"""What the commands that ask a running daemon share: its options, the way to it, and how answers are printed."""

from __future__ import annotations

import argparse
import os
import re
import sys

from helperd.control.client import Client
from helperd.errors import Code, HelperdError
from helperd.printing import say, say_json
from helperd.runtime import CONTROL_SOCKET, find_runtime_dir
from helperd.table import state_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Final

ORDER_S: Final = 720.0
"""Seconds that an order may take: a stop ladder, and an open request whose limit a block may set to 600 s."""
_UNITS: Final = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}


def add_arguments(parser: argparse.ArgumentParser, *, printing: bool = True) -> None:
    """Declare ``--runtime-dir`` and, for a command that prints, ``--json``."""
    parser.add_argument(
        "--runtime-dir", metavar="DIR", help="ask the daemon there (default: see FILES in helperd(8))"
    )
    if printing:
        parser.add_argument("--json", action="store_true", help="print JSON for scripts")


def control_path(args: argparse.Namespace) -> str:
    """The control socket that the command line means."""
    return os.path.join(find_runtime_dir(args.runtime_dir), CONTROL_SOCKET)


def connect(args: argparse.Namespace, timeout_s: float = 30.0) -> Client:
    """Connect to the daemon that the command line means.

    Raises:
        UnavailableError: "no-daemon".
    """
    return Client(control_path(args), timeout_s)


def seconds(text: str) -> float:
    """A duration on the command line: ``30``, ``30s``, ``250ms``, ``2m``, ``1h``."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f'a duration is like "30s", "250ms" or "2m", not {text!r}')
    return float(found[1]) * _UNITS[found[2]]


def order(args: argparse.Namespace, method: str, names: Iterable[str], **parameters: Any) -> int:
    """Give one order to all who are named, one after the other; who refuses does not keep the others from theirs.

    Returns:
        0, or the exit code of the first that failed.
    """
    code = 0
    done: dict[str, list[dict[str, Any]]] = {"sources": []}
    with connect(args, ORDER_S) as client:
        for name in names:
            try:
                answer = client.call(method, source=name, **parameters)
            except HelperdError as error:
                if error.exit_code == Code.UNAVAILABLE:
                    raise
                code = code or error.exit_code
                say(f"helperd: {error}", file=sys.stderr)
                continue
            for kind, row in answer.items():  # a source, or a service
                done.setdefault(f"{kind}s", []).append(row)
                if not args.json:
                    say(said(row))
    if args.json:
        say_json(done, 2)
    return code


def said(source: dict[str, Any]) -> str:
    """One line about a source or service after an order."""
    channel = (
        f", channel {source['channel']}" if source["state"] == "running" and source.get("channel") else ""
    )
    paused = ", paused" if source.get("paused") else ""
    if is_done(source):
        name = source["name"]
        return f"{name}: done{paused}, nothing more comes; `helperd start {name}` begins it again"
    tuning = source.get("tuning") or {}
    when = "soon" if source["state"] == "running" else "from its next start on"
    kept = f", {tuning['text']} {when}" if tuning.get("kept") else ""
    return f"{source['name']}: {state_of(source).text}{paused}{channel}{kept}"


def is_done(source: dict[str, Any]) -> bool:
    """Whether a source has ended by itself, for good: a file at its end, for one."""
    return source["state"] == "down" and source.get("why") == "done"
