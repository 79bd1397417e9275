r"""Text for people: what a terminal would obey and the eye would miss is shown as an escape.

Names, reasons, messages and last words come from devices, files and programs that nobody vouches for. One text is one
line: control characters, marks of direction, line ends and all else that Unicode calls not printable become ``\x1b``,
``\u202e``, ``\n``. Nothing is left out, and to do it twice changes nothing.
"""

from __future__ import annotations


def visible(text: object) -> str:
    """A text as one line that is safe on a terminal; None: an empty one."""
    raw = text if isinstance(text, str) else "" if text is None else str(text)
    if raw.isprintable():
        return raw
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in raw)
