"""The one exit for what people see: nothing else in this package prints (tests/test_visible.py)."""

from __future__ import annotations

import sys

from helperd.visible import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO


def say(*lines: object, file: TextIO | None = None, flush: bool = False) -> None:
    """Print each text as one visible line.

    Args:
        lines: what to print.
        file: where people look; None: standard output.
        flush: whether it is to be seen now.

    Raises:
        OSError: it cannot be written.
    """
    write("".join(f"{visible(line)}\n" for line in lines), file, flush=flush)


def say_json(value: object, indent: int | None = None) -> None:
    """Print a value for programs; JSON has escapes of its own, and all of them are used."""
    import json

    write(json.dumps(value, indent=indent) + "\n", flush=indent is None)


def write(text: str, file: TextIO | None = None, *, flush: bool = False) -> None:
    """Print what has been put together from visible texts and is to have its line ends, tabs and colours.

    A letter that the terminal does not have becomes an escape, too.
    """
    out = sys.stdout if file is None else file
    if not text.isascii() and (encoding := out.encoding or "ascii").lower() not in {"utf-8", "utf8"}:
        text = text.encode(encoding, "backslashreplace").decode(encoding)
    out.write(text)
    if flush:
        out.flush()
