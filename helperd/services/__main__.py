"""The entry of every bundled service: ``python -I -S helperd/services/__main__.py NAME [OPTION ...]``.

A service is ``helperd/services/NAME.py`` with ``main(argv) -> exit status``; nothing else can be started here.
"""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Start the service that the first word names; return its exit status."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path or ".") != here]
    sys.path.append(os.path.dirname(os.path.dirname(here)))
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if not name.isidentifier() or name.startswith("_") or not os.path.exists(f"{here}/{name}.py"):
        from helperd.printing import say

        say(f"usage: __main__.py NAME [OPTION ...]; {name!r} is no service's name", file=sys.stderr)
        return 64
    from importlib import import_module

    status: int = import_module(f"helperd.services.{name}").main(sys.argv[2:])
    return status


if __name__ == "__main__":
    sys.exit(main())
