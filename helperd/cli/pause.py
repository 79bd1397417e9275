"""``helperd pause NAME...``: pass no packets of these sources on; their helpers keep running."""

from __future__ import annotations

from helperd.cli import running

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "name",
        metavar="NAME",
        nargs="+",
        help="a source; what comes meanwhile is counted as lost under paused",
    )
    running.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Give the order, and print what became of each source.

    Returns:
        0, or the exit code of the first source that failed.
    """
    return running.order(args, "Pause", args.name)
