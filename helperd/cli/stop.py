"""``helperd stop NAME...``: stop sources, so that their devices are free, and services."""

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
        help="a source or service to stop; it stays stopped until it is started again",
    )
    running.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Give the order, and print what became of each.

    Returns:
        0, or the exit code of the first that failed.
    """
    return running.order(args, "Stop", args.name)
