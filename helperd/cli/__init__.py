"""The command line: an argparse front over one module per command, imported only when it is chosen.

``--version``, ``check`` and what asks a running daemon never import trio: they start at once. Nothing else stands
in this file, because commands are named ``list`` and ``open``: as submodules they hide Python's own words here.
"""

from __future__ import annotations

import atexit
import gc
from typing import TYPE_CHECKING

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
