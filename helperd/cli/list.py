"""``helperd list``: every device that a configured helper can open, and every helper that could not say."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from helperd.cli import ask
from helperd.errors import Code
from helperd.table import clean

if TYPE_CHECKING:
    import argparse

    from trio import Nursery

    from helperd.config.specs import Config
    from helperd.launcher import Launcher

add_arguments = ask.add_arguments


async def _question(launcher: Launcher, settings: Config, tail: Nursery) -> dict[str, Any]:
    from helperd.drivers import list_devices

    return (await list_devices(launcher, settings.helpers, tail)).as_dict()


def main(args: argparse.Namespace) -> int:
    """Print the devices; broken helpers go to stderr, one line each.

    Returns:
        0, or 1 when nothing can be listed.
    """
    answer = ask.answer_of(args, "io.helperd.ListDevices", {}, _question)
    devices = answer["devices"]
    if args.json:
        print(json.dumps(answer, indent=2))
    else:
        wide = max([len(device["definition"]) for device in devices] + [10])
        for device in devices:
            words = f"{clean(device['definition']):<{wide}}  {clean(device['helper']):<16}  {clean(device['hardware'])}"
            print(words.rstrip())
        if not devices:
            print("no devices found", file=sys.stderr)
        for failure in answer["failed"]:
            print(
                f"{clean(failure['helper'])}: {failure['problem']}: {clean(failure['text'])}", file=sys.stderr
            )
    return Code.DONE if devices else Code.NO
