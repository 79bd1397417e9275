"""``helperd wait --running NAME``: return when sources and services are in a state, for scripts."""

from __future__ import annotations

import sys
import time

from helperd.cli import running
from helperd.errors import Code, UnavailableError
from helperd.printing import say
from helperd.table import note_of, state_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any, Final

    from helperd.control.client import Client

_RETRY_S: Final = 0.05
_DOWN: Final = frozenset({"down", "failed"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    goal = parser.add_mutually_exclusive_group(required=True)
    goal.add_argument(
        "--running",
        metavar="NAME",
        nargs="*",
        help="until these run, or all sources if none is named; a name that nobody has is refused once there are any",
    )
    goal.add_argument("--stopped", metavar="NAME", nargs="*", help="until these are down")
    parser.add_argument(
        "--timeout",
        metavar="TIME",
        type=running.seconds,
        default=30.0,
        help="give up after this (default: 30s)",
    )
    running.add_arguments(parser, printing=False)


def main(args: argparse.Namespace) -> int:
    """Wait for a daemon, then for what it runs.

    Returns:
        0 when all are there; 1 when one failed for good or the time is up; 69 when no daemon came up in time.

    Raises:
        ControlError: "unknown-source"; only a daemon without any source is waited for, because it may be starting.
    """
    deadline = _now() + args.timeout
    running_wanted = args.running is not None
    names: list[str] = args.running if running_wanted else args.stopped
    lacking: list[dict[str, Any]] = []
    try:
        client = _connect(args, deadline)
        with client:
            client.silence_s = max(deadline - _now(), 0.001)
            for snapshot in client.more("GetStatus"):
                sources = _chosen(snapshot, names)
                lacking = [source for source in sources if not _there(source, running_wanted=running_wanted)]
                if not lacking:
                    return Code.DONE
                hopeless = {"failed"} if running_wanted else set()
                if snapshot["sources"] or snapshot.get("services"):
                    hopeless.add("unknown")
                if any(source["state"] in hopeless for source in lacking):
                    break
                client.silence_s = deadline - _now()
                if client.silence_s <= 0:
                    break
    except UnavailableError as error:
        if error.problem != "timed-out":
            raise
    for source in lacking:
        if source["state"] == "unknown":
            with running.connect(args) as client:
                client.call("GetSource", source=source["name"])  # says which names there are
        say(f"helperd: {source['name']} is {state_of(source).text}: {note_of(source)}", file=sys.stderr)
    return Code.NO


def _now() -> float:
    return time.monotonic()  # noqa: TID251 - a client's own deadline


def _connect(args: argparse.Namespace, deadline: float) -> Client:
    """Connect as soon as the daemon is there."""
    while True:
        try:
            return running.connect(args)
        except UnavailableError as error:
            if error.problem != "no-daemon" or _now() >= deadline:
                raise
        time.sleep(_RETRY_S)


def _chosen(snapshot: dict[str, Any], names: list[str]) -> list[dict[str, Any]]:
    """The sources and services named, or all sources; one that does not exist (yet) counts as lacking."""
    if not names:
        return list(snapshot["sources"])
    by_name = {row["name"]: row for row in [*snapshot["sources"], *(snapshot.get("services") or [])]}
    return [by_name.get(name, {"name": name, "state": "unknown"}) for name in names]


def _there(source: dict[str, Any], *, running_wanted: bool) -> bool:
    return source["state"] == "running" if running_wanted else source["state"] in _DOWN
