"""``helperd launcher``: the privileged process alone, for an init that is not systemd; others connect to its socket."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from helperd.cli.defaults import add_config, config_file
from helperd.cli.run import become_launcher
from helperd.errors import UnavailableError
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
        UnavailableError: "no-runtime-dir", the socket cannot be made.
    """
    if not args.systemd and args.listen == SOCKET and os.geteuid() == 0:
        os.makedirs(os.path.dirname(SOCKET), 0o755, exist_ok=True)
    if not args.systemd:
        _must_have_a_place(os.path.abspath(args.listen))
    door = ["--systemd"] if args.systemd else [f"--listen={os.path.abspath(args.listen)}"]
    become_launcher(config_file(args), None, unprivileged=os.geteuid() != 0, own_door=door)


def _must_have_a_place(path: str) -> None:
    folder = os.path.dirname(path)
    if os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        return
    if path == SOCKET:
        cure = "this machine's launcher is root's: sudo helperd launcher; for one of your own: --listen PATH"
    elif os.path.isdir(folder):
        cure = "choose another --listen PATH"
    else:
        cure = f"mkdir -p {folder}"
    why = "this user may not make a socket there" if os.path.isdir(folder) else f"{folder} does not exist"
    raise UnavailableError("no-runtime-dir", f"{path}: {why}; {cure}")
