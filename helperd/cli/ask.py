"""What ``list`` and ``probe`` share: ask the running daemon, or be the launcher's client for a moment."""

from __future__ import annotations

import os

from helperd.cli.defaults import add_config, config_file
from helperd.control.client import Client
from helperd.errors import HelperdError
from helperd.runtime import CONTROL_SOCKET, NO_WAY, find_runtime_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable
    from typing import Any

    from trio import Nursery

    from helperd.config.specs import Config
    from helperd.launcher import Launcher

    Question = Callable[[Launcher, Config, Nursery], Awaitable[dict[str, Any]]]


ANSWER_S = 660.0
"""Seconds for an answer: the daemon has the limits, and the longest that a block can give is 600 s."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of both commands."""
    add_config(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object for scripts")
    parser.add_argument(
        "--runtime-dir", metavar="DIR", help="ask the daemon there (default: see FILES in helperd(8))"
    )


def answer_of(
    args: argparse.Namespace, method: str, parameters: dict[str, Any], question: Question
) -> dict[str, Any]:
    """The running daemon's answer; without one, or with ``-c``, what the launcher's helpers say.

    Raises:
        HelperdError: as the question does.
    """
    if args.config is None:
        path = os.path.join(find_runtime_dir(args.runtime_dir), CONTROL_SOCKET)
        try:
            with Client(path, ANSWER_S) as client:
                return client.call(method, **parameters)
        except HelperdError as error:
            if args.runtime_dir is not None or error.problem not in NO_WAY:
                raise
    return _alone(config_file(args), question)


def _alone(path: str, question: Question) -> dict[str, Any]:
    import trio

    from helperd import config
    from helperd.alone import run_alone
    from helperd.launchers import find_launcher

    settings = config.load(path)

    async def run() -> dict[str, Any]:
        async with trio.open_nursery() as tail, find_launcher(settings) as launcher:
            return await question(launcher, settings, tail)

    answer: dict[str, Any] = run_alone(run)
    return answer
