"""``helperd start NAME...``: start sources and services, or add definitions that are not in the configuration."""

from __future__ import annotations

from helperd.cli import running
from helperd.printing import say, say_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "name",
        metavar="NAME|DEFINITION",
        nargs="+",
        help="a source or service of the configuration, or interface:key=value,... to run until the daemon ends",
    )
    running.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Start them, one after the other; each is reported when it runs or has failed.

    Returns:
        0, or the exit code of the first that failed.
    """
    code = 0
    definitions = [name for name in args.name if ":" in name or name.startswith('"')]
    names = [name for name in args.name if name not in definitions]
    if names:
        code = running.order(args, "Start", names)
    with running.connect(args, running.ORDER_S) as client:
        for definition in definitions:
            source = client.call("AddSource", definition=definition)["source"]
            if args.json:
                say_json({"sources": [source]}, 2)
            else:
                say(running.said(source))
    return code
