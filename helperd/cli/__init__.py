"""The command line: an argparse front over one module per command, imported only when it is chosen.

``--version``, ``check`` and what asks a running daemon never import trio: they start at once. What ``status`` and
``list`` import does not import ``typing`` at run time either, which costs as much as argparse: TYPE_CHECKING is a
constant of the module's own there, as type checkers allow. Nothing else stands in this file, because commands are
named ``list`` and ``open``: as submodules they hide Python's own words here.
"""

from __future__ import annotations

import atexit
import gc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status. See ``front.main``.

    With None the process ends with the command: a sixth of a short one's time would go into looking for garbage
    among modules on the way out, so they are taken out of the collector's sight.
    """
    from helperd.cli import front

    if argv is None:
        atexit.register(gc.freeze)
    return front.main(argv)
