"""Which test files start no process: what ``scripts/test --quick`` runs, found in what they import."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STARTERS = frozenset({"subprocess", "multiprocessing", "threading", "trio", "helperd.conformance"})
"""Who imports one of these starts processes, or waits for real time."""
CALLS = frozenset({"fork", "posix_spawn", "execv", "socketpair"})


def _names(path: Path) -> Iterator[str]:
    """The modules that a file imports, and the members of `os` and `socket` that it calls."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and node.attr in CALLS:
            yield node.attr


def _file(module: str) -> Path | None:
    """The file of a module of the tests."""
    place = ROOT.joinpath(*module.split("."))
    found = (place.with_suffix(".py"), place / "__init__.py")
    return next((path for path in found if path.exists()), None) if module.startswith("tests.") else None


@functools.cache
def is_pure(path: Path) -> bool:
    """Whether a file, with all of the tests' own that it imports, starts nothing."""
    names = set(_names(path))
    if names & (STARTERS | CALLS):
        return False
    return all(is_pure(file) for name in names if (file := _file(name)) and file != path)


if __name__ == "__main__":
    for found in sorted(ROOT.glob("tests/**/test_*.py")):
        if is_pure(found):
            print(found.relative_to(ROOT))
