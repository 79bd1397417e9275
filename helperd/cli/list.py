"""``helperd list``: every device that a configured helper can open, and every helper that could not say."""

from __future__ import annotations

import sys

from helperd.cli import ask
from helperd.errors import Code
from helperd.printing import say, say_json
from helperd.visible import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any, Final

    from trio import Nursery

    from helperd.config.specs import Config
    from helperd.launcher import Launcher

_OLD_S: Final = 3.0
"""Seconds from which on an answer's age is told: a new one takes up to two by itself."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    ask.add_arguments(parser)
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="ask every helper now (default: an answer of the last minute will do)",
    )


async def _question(launcher: Launcher, settings: Config, tail: Nursery) -> dict[str, Any]:
    from helperd.drivers import list_devices

    return (await list_devices(launcher, settings.helpers, tail)).as_dict()


def main(args: argparse.Namespace) -> int:
    """Print the devices; broken helpers go to stderr, one line each.

    Returns:
        0, or 1 when nothing can be listed.
    """
    fresh = {"max_age_s": 0} if args.fresh else {}
    answer = ask.answer_of(args, "io.helperd.ListDevices", fresh, _question)
    devices = answer["devices"]
    if args.json:
        say_json(answer, 2)
        return Code.DONE if devices else Code.NO
    names = [device["definition"] or device["interface"] for device in devices]
    wide = max([len(visible(name)) for name in names] + [10])
    for name, device in zip(names, devices, strict=True):
        words = [device["hardware"]]
        if not device["definition"]:
            words.append("(its name cannot be written in a definition)")
        if device["in_use"]:
            words.append(f"(in use by {device['in_use']})")
        text = " ".join(filter(None, words))
        say(f"{visible(name):<{wide}}  {visible(device['helper']):<16}  {text}".rstrip())
    if not devices:
        say("no devices found", file=sys.stderr)
    for failure in answer["failed"]:
        say(f"{failure['helper']}: {failure['problem']}: {failure['text']}", file=sys.stderr)
    age = answer.get("age_s") or 0.0
    if age >= _OLD_S:
        say(f"helperd: this was so {age:.0f} s ago; ask again with --fresh", file=sys.stderr)
    return Code.DONE if devices else Code.NO
