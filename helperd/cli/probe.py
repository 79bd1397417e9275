"""``helperd probe DEFINITION``: which helper recognises it, and what it would open."""

from __future__ import annotations

import sys
from functools import partial

from helperd.cli import ask
from helperd.errors import Code
from helperd.printing import say, say_json
from helperd.wire.definition import SourceDefinition

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from trio import Nursery

    from helperd.config.specs import Config
    from helperd.launcher import Launcher


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "definition", metavar="DEFINITION", help="interface:key=value,...; for example demo:type=pcapfile"
    )
    ask.add_arguments(parser)


async def _question(definition: str, launcher: Launcher, settings: Config, tail: Nursery) -> dict[str, Any]:
    from helperd.drivers import probe

    return (await probe(launcher, settings.helpers, tail, definition)).as_dict()


def main(args: argparse.Namespace) -> int:
    """Ask, and print who said yes.

    Returns:
        0 for yes, 1 when no helper recognises it; a definition that nobody could parse or serve is a usage error, 64.
    """
    SourceDefinition.parse(args.definition)
    answer = ask.answer_of(
        args, "io.helperd.Probe", {"definition": args.definition}, partial(_question, args.definition)
    )
    if args.json:
        say_json(answer, 2)
    elif answer["helper"]:
        hardware = f" ({answer['hardware']})" if answer["hardware"] else ""
        say(f"{args.definition}: yes, by {answer['helper']}{hardware}")
        if answer["channels"]:
            say(f"  channels: {', '.join(answer['channels'])}")
    else:
        say(f"{args.definition}: no helper recognises it", file=sys.stderr)
        for failure in [*answer["refused"], *answer["failed"]]:
            say(
                f"  {failure['helper']}: {failure['problem']}: {failure['text']}",
                file=sys.stderr,
            )
    return Code.DONE if answer["helper"] else Code.NO
