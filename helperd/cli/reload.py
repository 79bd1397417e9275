"""``helperd reload``: read the configuration again; only what changed restarts."""

from __future__ import annotations

from helperd.cli import running
from helperd.errors import Code
from helperd.printing import say, say_json
from helperd.table import gone

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Final

_WORDS: Final = {"stop": "removed", "start": "added", "replace": "restarted", "adjust": "adjusted"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    running.add_arguments(parser)
    parser.add_argument(
        "--check",
        action="store_true",
        help="change nothing: try what a reload needs, and say what it would do",
    )


def main(args: argparse.Namespace) -> int:
    """Reload, and print what became of the sources.

    Returns:
        0; a refused file changes nothing and ends with 78, and what cannot be had with the code of its error.
    """
    with running.connect(args, running.ORDER_S) as client:
        plan = client.call("Reload", **({"check": True} if args.check else {}))
    if args.json:
        say_json(plan, 2)
        return Code.DONE
    if plan.get("gone"):
        say(f"configured no more: {gone(plan['gone'])}")
    for key, word in _WORDS.items():
        if plan.get(key):
            say(f"{'would be ' * args.check}{word}: {', '.join(plan[key])}")
    kept = len(plan.get("keep") or [])
    say(f"unchanged: {kept} source{'' if kept == 1 else 's'}")
    return Code.DONE
