"""Where each key of a TOML file stands: a small scan of the text, because tomli reports no lines.

The text has been read by tomli before, so its syntax is known to be good; the scan only walks it. A path is
a tuple of keys and, below arrays, positions from 0: ``("source", 1, "definition")``. Tables, array tables,
dotted and quoted keys, inline tables, arrays and multi-line strings are followed; an entry's line is that of
its key or header.
"""

from __future__ import annotations

import re

import tomli

Path = tuple[str | int, ...]

_SKIP = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_KEY = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""")
_STRING = re.compile(
    r'''"""(?:[^"\\]|\\.|"{1,2}(?!"))*"{3,5}'''  # several lines, with escapes
    r"""|'''(?:[^']|'{1,2}(?!'))*'{3,5}"""  # several lines, without
    r"""|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""",  # one line, with and without
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\n]*")


def scan_lines(text: str) -> dict[Path, int]:
    """Return the 1-based line of every table, key and array entry of valid TOML.

    A path that is written in several places (a table reopened by dotted keys) keeps its first line.
    """
    scan = _Scan(text)
    scan.document()
    return scan.lines


class _Scan:
    """One walk over one text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.line = 1
        self.counted = 0  # newlines before this offset are in ``line``
        self.lines: dict[Path, int] = {}
        self.lengths: dict[Path, int] = {}  # of arrays of tables, by their path

    def document(self) -> None:
        table: Path = ()
        while self._skip():
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _skip(self) -> bool:
        """Pass white space, comments and newlines; return whether anything is left."""
        self._pass(_SKIP)
        return self.at < len(self.text)

    def _pass(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.at)
        if not found:  # not TOML after all: give up quietly, the entries so far keep their lines
            self.at = len(self.text)
            return ""
        self.at = found.end()
        return found[0]

    def _mark(self, path: Path) -> None:
        self.line += self.text.count("\n", self.counted, self.at)
        self.counted = self.at
        self.lines.setdefault(path, self.line)

    def _key(self) -> list[str]:
        """Read a dotted key."""
        parts = []
        while True:
            self._pass(_SPACE)
            token = self._pass(_KEY)
            parts.append(next(iter(tomli.loads(f"{token} = 0"))) if token[:1] in ("'", '"') else token)
            self._pass(_SPACE)
            if self.text[self.at : self.at + 1] != ".":
                return parts
            self.at += 1

    def _header(self) -> Path:
        many = self.text.startswith("[[", self.at)
        start = self.at
        self.at += 2 if many else 1
        keys = self._key()
        path: Path = ()
        for position, key in enumerate(keys, 1):
            path = (*path, key)
            if many and position == len(keys):
                self.lengths[path] = self.lengths.get(path, 0) + 1
            end, self.at = self.at, start
            self._mark(path)
            if path in self.lengths:
                path = (*path, self.lengths[path] - 1)
                self._mark(path)
            self.at = end
        self.at += 2 if many else 1
        return path

    def _pair(self, table: Path) -> None:
        path, before = table, self.at
        keys = self._key()
        end, self.at = self.at, before
        for key in keys:
            path = (*path, key)
            self._mark(path)
        self.at = end + 1  # the equals sign
        self._pass(_SPACE)
        self._value(path)

    def _value(self, path: Path) -> None:
        sign = self.text[self.at : self.at + 1]
        if sign == "[":
            self.at += 1
            self._entries(path, "]")
        elif sign == "{":
            self.at += 1
            self._entries(path, "}")
        else:
            self._pass(_STRING if sign in ("'", '"') else _SCALAR)

    def _entries(self, path: Path, close: str) -> None:
        """Read what is in an array or an inline table, up to its closing bracket."""
        position = 0
        while self._skip() and self.text[self.at] != close:
            if self.text[self.at] == ",":
                self.at += 1
            elif close == "]":
                self._mark((*path, position))
                self._value((*path, position))
                position += 1
            else:
                self._pair(path)
        self.at += 1
