"""``helperd demo``: the shipped configuration, as real processes, without root and without hardware."""

from __future__ import annotations

from typing import TYPE_CHECKING

from helperd.cli.defaults import shipped_config
from helperd.cli.run import become_launcher

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--runtime-dir", metavar="DIR", help="where the sockets are made (default: see FILES in helperd(8))"
    )


def main(args: argparse.Namespace) -> int:
    """Become the launcher of the demo; returns only by an error."""
    become_launcher(shipped_config(), args.runtime_dir, "--demo", unprivileged=True)
