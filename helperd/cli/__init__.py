"""The command line: an argparse front over one module per command, imported only when it is chosen.

``--version``, ``check`` and what asks a running daemon never import trio: they start at once. What ``status`` and
``list`` import does not import ``typing`` at run time either, which costs as much as argparse: TYPE_CHECKING is a
constant of the module's own there, as type checkers allow. Nothing else stands in this file, because commands are
named ``list``: as submodules they hide Python's own words here.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import atexit
import gc
import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status. See ``front.main``.

    With None the process ends with the command: a sixth of a short one's time would go into looking for garbage
    among modules on the way out, so they are taken out of the collector's sight.
    """
    if argv is None:
        _signal.signal(_signal.SIGINT, _end_at_once)
        atexit.register(gc.freeze)
    from helperd.cli import front

    return front.main(argv)


def _end_at_once(_number: int, _frame: object) -> None:
    """Answer Ctrl-C: end with ``errors.Code.INTERRUPTED``; commands that have something to put in order trap it.

    An exception would come out of whatever is being imported just now, or be told and forgotten in a callback.
    ``_signal`` and ``posix`` are built in: nothing is read from a file before this stands.
    """
    posix._exit(130)
