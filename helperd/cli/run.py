"""``helperd run``: check the configuration, then become the launcher, which starts the supervisor."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final, NoReturn

from helperd import config
from helperd.cli.defaults import add_config, config_file

if TYPE_CHECKING:
    import argparse

_FLAGS: Final = ("-I", "-S")
_LAUNCHER: Final = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "privsep.py")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_config(parser)
    parser.add_argument(
        "--runtime-dir", metavar="DIR", help="where the sockets are made (default: see FILES in helperd(8))"
    )


def main(args: argparse.Namespace) -> int:
    """Check, then exec; returns only by an error.

    Raises:
        ConfigRefused: the configuration has mistakes; all of them are in it.
    """
    become_launcher(config_file(args), args.runtime_dir)


def become_launcher(path: str, runtime_dir: str | None, *more: str) -> NoReturn:
    """Replace this process by the launcher for a configuration that has been checked.

    Args:
        path: the configuration file.
        runtime_dir: where the sockets go; None: the launcher's own choice.
        more: arguments for the supervisor.
    """
    config.load(path)
    sys.stdout.flush()
    argv = [sys.executable, *_FLAGS, _LAUNCHER, f"--config={os.path.abspath(path)}"]
    if runtime_dir is not None:
        argv.append(f"--runtime-dir={os.path.abspath(runtime_dir)}")
    if more:
        argv += ["--", *more]
    os.execv(sys.executable, argv)  # noqa: S606 - there is no shell, and none is wanted
