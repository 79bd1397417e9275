"""``helperd launcher``: the privileged process alone, for an init that is not systemd; others connect to its socket."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from helperd.cli.defaults import add_config, config_file
from helperd.cli.run import become_launcher
from helperd.runtime import LAUNCHER_SOCKET as SOCKET

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_config(parser)
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--listen",
        metavar="PATH",
        default=SOCKET,
        help=f"the socket to make, root:helperd 0660 (default: {SOCKET})",
    )
    where.add_argument("--systemd", action="store_true", help="use the socket that systemd has made")


def main(args: argparse.Namespace) -> int:
    """Become the launcher; returns only by an error.

    Raises:
        ConfigRefused: the configuration has mistakes; all of them are in it.
    """
    if not args.systemd and args.listen == SOCKET and os.geteuid() == 0:
        os.makedirs(os.path.dirname(SOCKET), 0o755, exist_ok=True)
    door = ["--systemd"] if args.systemd else [f"--listen={os.path.abspath(args.listen)}"]
    become_launcher(config_file(args), None, unprivileged=os.geteuid() != 0, own_door=door)
