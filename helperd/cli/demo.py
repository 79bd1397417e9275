"""``helperd demo``: the shipped configuration, as real processes, without root and without hardware.

``--live`` and ``--chaos`` add blocks to it; the whole then stands as ``demo.toml`` in the runtime directory.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from helperd.cli.defaults import shipped_config
from helperd.cli.run import become_launcher
from helperd.printing import say
from helperd.runtime import claim_runtime_dir, default_runtime_dir

if TYPE_CHECKING:
    import argparse

LIVE: Final = """
[[helper]]
name = "interface"
command = ["builtin:interface"]
types = ["interface"]
capabilities = ["net_raw"]

[[source]]
name = "live"
definition = "{captured}:type=interface"

[[service]]
name = "talker"
command = ["builtin:talker", "--address={address}"]
"""
CHAOS: Final = """
[[service]]
name = "chaos"
command = ["builtin:chaos"]
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--live",
        action="store_true",
        help="capture live too: real packets on a pair of interfaces in namespaces of its own, without root",
    )
    parser.add_argument(
        "--chaos", action="store_true", help="kill a helper every few seconds, to see it come back"
    )
    parser.add_argument(
        "--runtime-dir", metavar="DIR", help="where the sockets are made (default: see FILES in helperd(8))"
    )


def main(args: argparse.Namespace) -> int:
    """Become the launcher of the demo; returns only by an error.

    Raises:
        HelperdError: "no-runtime-dir", "unsafe-file".
    """
    if not args.live and not args.chaos:
        become_launcher(shipped_config(), args.runtime_dir, "--demo", unprivileged=True)
    place = os.path.abspath(args.runtime_dir or default_runtime_dir())  # as this user is called outside
    made = claim_runtime_dir(place)
    text = Path(shipped_config()).read_text(encoding="utf-8")
    text += (_live() if args.live else "") + (CHAOS if args.chaos else "")
    file = Path(place, "demo.toml")
    file.write_text(text, encoding="utf-8")
    file.chmod(0o644)
    made = [f"--made={path}" for path in (*made, file)]
    become_launcher(str(file), place, "--demo", *made, unprivileged=True)


def _live() -> str:
    """Set the stage; the blocks for it, or none when the system does not allow it."""
    from helperd.cli import stage

    try:
        stage.build_stage()
    except OSError as error:
        cure = "sysctl kernel.apparmor_restrict_unprivileged_userns=0"
        fix = f"the demo goes on without it; where namespaces are forbidden, try: {cure}"
        say(f"helperd: no live capture: {error.strerror}; {fix}", file=sys.stderr)
        return ""
    return LIVE.format(captured=stage.CAPTURED, address=stage.ADDRESS)
