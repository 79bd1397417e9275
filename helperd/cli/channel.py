"""``helperd channel NAME CHANNEL``: tune a source to one channel, and stay there."""

from __future__ import annotations

from helperd.cli import running

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "name", metavar="NAME", help="a source; one that does not run gets the order at its next start"
    )
    parser.add_argument("channel", metavar="CHANNEL", help="as the helper named it, for example 6 or 36HT40+")
    running.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Tune.

    Returns:
        0, or the exit code of the refusal.
    """
    return running.order(args, "SetChannel", [args.name], channel=args.channel)
