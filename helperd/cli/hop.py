"""``helperd hop NAME [CHANNEL...]``: let a source hop over channels."""

from __future__ import annotations

import argparse

from helperd.cli import running


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "name", metavar="NAME", help="a source; one that does not run gets the order at its next start"
    )
    parser.add_argument(
        "channels",
        metavar="CHANNEL",
        nargs="*",
        help="channels to visit, as its helper named them (default: those of its definition, else all it has)",
    )
    parser.add_argument(
        "--rate",
        metavar="N",
        type=_rate,
        help="hops per second, above 0 and at most 20 (default: the helper's own)",
    )
    running.add_arguments(parser)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):  # how much is too much is for the daemon to say
        raise argparse.ArgumentTypeError(f"a rate is a number of hops per second, above 0, not {text!r}")
    return rate


def main(args: argparse.Namespace) -> int:
    """Hop.

    Returns:
        0, or the exit code of the refusal.
    """
    return running.order(args, "Hop", [args.name], channels=args.channels or None, rate=args.rate)
