"""The names of a series of files: of those to come, and of those that are there.

Two ways, told apart by a ``%`` in the name's last part:

* ``dir/out.pcapng`` as dumpcap names a ring: ``dir/out_00001_20261123233512.pcapng``, the number going on after the
  highest there is;
* ``dir/node7-%Y%m%d-%H%M%S.pcapng`` as strftime does; a name that is taken gets ``_2``, ``_3`` and so on.
"""

from __future__ import annotations

import itertools
import os
import re
import stat
import time
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

PART: Final = ".part"
"""What stands behind the name of a file that is not finished."""
PACKED: Final = ".zst"
MAX_NAME: Final = 255
"""Bytes of a file's name on Linux (NAME_MAX)."""
DIRECTIVES: Final = {
    "Y": r"\d{4}",
    "y": r"\d\d",
    "m": r"\d\d",
    "d": r"\d\d",
    "j": r"\d{3}",
    "H": r"\d\d",
    "M": r"\d\d",
    "S": r"\d\d",
    "s": r"\d+",
    "%": "%",
}
"""What strftime may be asked for, and what it looks like: only such names are ever taken for files of the series."""


class Age(NamedTuple):
    """Where a file stands in its series, for sorting; the clock comes last, for it may have been set back.

    Attributes:
        begun: as the how manieth since the start it was begun; 0: before that.
        number: in its name, 0 without one.
        changed: when, in ns since 1970.
    """

    begun: int
    number: int
    changed: int


def ring_name(base: str, extension: str, number: int, at: time.struct_time) -> str:
    """The name of one file of a ring, as dumpcap makes it."""
    return f"{base}_{number:05}_{time.strftime('%Y%m%d%H%M%S', at)}{extension}"


def extensions(name: str) -> tuple[str, str]:
    """Cut ``.pcapng``, or ``.pcapng.zst``, off a name."""
    base, extension = os.path.splitext(name)
    if extension == PACKED:
        base, inner = os.path.splitext(base)
        extension = inner + extension
    return base, extension


class Series:
    """The files that one path stands for.

    Args:
        path: absolute; only its last part may hold directives.
        packed: they are compressed; ``.zst`` is added where the path does not end so.
    """

    def __init__(self, path: str, *, packed: bool = False) -> None:
        self.folder, name = os.path.split(path)
        self._base, self._extension = extensions(name)
        if packed and not self._extension.endswith(PACKED):
            self._extension += PACKED
        self._stamped = "%" in self._base
        pattern = (
            "".join(_patterns(self._base)) if self._stamped else re.escape(self._base) + r"_(\d{5,})_\d{14}"
        )
        again = r"(?:_\d+)?" if self._stamped else ""
        self._pattern = re.compile(pattern + again + re.escape(self._extension))
        self._begun: dict[str, int] = {}

    def next_path(self, at: time.struct_time) -> str:
        """A path that no file of the series has, finished or not: of a file that is begun now."""
        names = {name.removesuffix(PART) for name in os.listdir(self.folder)}
        name = self._stamped_name(names, at) if self._stamped else self._numbered_name(names, at)
        self._begun = {name: count for name, count in self._begun.items() if name in names}
        self._begun[name] = max(self._begun.values(), default=0) + 1
        return os.path.join(self.folder, name)

    def _stamped_name(self, names: set[str], at: time.struct_time) -> str:
        base = time.strftime(self._base, at)
        tails = ("" if again == 1 else f"_{again}" for again in itertools.count(1))
        return next(name for tail in tails if (name := f"{base}{tail}{self._extension}") not in names)

    def _numbered_name(self, names: set[str], at: time.struct_time) -> str:
        numbers = [int(found[1]) for name in names if (found := self._pattern.fullmatch(name))]
        return ring_name(self._base, self._extension, max(numbers, default=0) + 1, at)

    def finished(self) -> list[str]:
        """The paths of the finished files, oldest first."""
        return [path for _, path in sorted(self._find(""))]

    def unfinished(self) -> list[str]:
        """Those that nobody finished, or that somebody writes now; oldest first."""
        return [path for _, path in sorted(self._find(PART))]

    def _find(self, tail: str) -> Iterator[tuple[Age, str]]:
        for entry in os.listdir(self.folder):
            name = entry.removesuffix(tail)
            found = self._pattern.fullmatch(name)
            if not entry.endswith(tail) or not found:
                continue
            path = os.path.join(self.folder, entry)
            try:
                about = os.lstat(path)
            except FileNotFoundError:
                continue
            if stat.S_ISREG(about.st_mode):
                number = 0 if self._stamped else int(found[1])
                yield Age(self._begun.get(name, 0), number, about.st_mtime_ns), path


def _patterns(base: str) -> Iterator[str]:
    """The regular expression that a name with directives becomes, piece by piece."""
    for place, piece in enumerate(re.split("%(.)", base)):
        yield DIRECTIVES[piece] if place % 2 else re.escape(piece)
