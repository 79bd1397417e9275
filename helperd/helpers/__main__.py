"""The entry of every bundled helper: ``python -I -S helperd/helpers/__main__.py NAME --in-fd=3 --out-fd=4``.

Rules:
  1. It finds the package by its own place and further directories by HELPERD_PATH, never by the current
     directory: isolated mode has no search path of a user's making.
  2. Ctrl-C ends it at once while it is being imported; later it is a signal among others (_runner).
  3. A helper is ``helperd/helpers/NAME.py`` with ``HELPER = ClassName``; nothing else can be started here.
"""

from __future__ import annotations

import os
import signal
import sys


def find_packages() -> None:
    """Make the package importable under ``-I -S``, then what HELPERD_PATH lists."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path or ".") != here]
    for path in (package, *os.environ.get("HELPERD_PATH", "").split(os.pathsep)):
        if path and path not in sys.path:
            sys.path.append(path)


def main() -> None:
    """Start the helper that the first word names."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    find_packages()
    from helperd.printing import say

    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if not name.isidentifier() or name.startswith("_") or name == "sdk":
        say(f"usage: __main__.py NAME --in-fd=N --out-fd=N; {name!r} is no helper's name", file=sys.stderr)
        sys.exit(64)
    from importlib import import_module

    try:
        module = import_module(f"helperd.helpers.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"helperd.helpers.{name}":
            raise
        say(f"no bundled helper is named {name!r}", file=sys.stderr)
        sys.exit(64)
    from helperd.helpers import sdk

    sys.argv[:2] = [f"helperd-{name}"]
    sdk.main(module.HELPER)


if __name__ == "__main__":
    main()
