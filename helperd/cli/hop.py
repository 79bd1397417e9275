"""``helperd hop NAME [CHANNEL...]``: let a source hop over channels."""

from __future__ import annotations

from helperd.cli import running

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("name", metavar="NAME", help="a source")
    parser.add_argument(
        "channels", metavar="CHANNEL", nargs="*", help="channels to visit (default: all it has)"
    )
    parser.add_argument("--rate", metavar="N", type=float, help="hops per second (default: the helper's own)")
    running.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Hop.

    Returns:
        0, or the exit code of the refusal.
    """
    return running.order(args, "Hop", [args.name], channels=args.channels or None, rate=args.rate)
