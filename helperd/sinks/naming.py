"""The names of a series of files: of those to come, and of those that are there.

Two ways, told apart by a ``%`` in the name's last part:

* ``dir/out.pcapng`` as dumpcap names a ring: ``dir/out_00001_20261123233512.pcapng``, the number going on after the
  highest there is;
* ``dir/node7-%Y%m%d-%H%M%S.pcapng`` as strftime does; a name that is taken gets ``_2``, ``_3`` and so on.
"""

from __future__ import annotations

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


class Found(NamedTuple):
    """A file of the series; ``at`` orders them by age, in ns."""

    at: int
    path: str


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

    def next_path(self, at: time.struct_time) -> str:
        """A path that no file of the series has, finished or not."""
        names = set(os.listdir(self.folder))
        if self._stamped:
            base, again = time.strftime(self._base, at), 1
            while True:
                name = f"{base}{f'_{again}' if again > 1 else ''}{self._extension}"
                if name not in names and name + PART not in names:
                    return os.path.join(self.folder, name)
                again += 1
        numbers = [
            int(found[1]) for name in names if (found := self._pattern.fullmatch(name.removesuffix(PART)))
        ]
        name = ring_name(self._base, self._extension, max(numbers, default=0) + 1, at)
        return os.path.join(self.folder, name)

    def finished(self) -> list[Found]:
        """The finished files, oldest first."""
        return sorted(self._find(""))

    def unfinished(self) -> list[Found]:
        """Those that nobody finished, or that somebody writes now; oldest first."""
        return sorted(self._find(PART))

    def _find(self, tail: str) -> Iterator[Found]:
        for name in os.listdir(self.folder):
            if name.endswith(tail) and self._pattern.fullmatch(name.removesuffix(tail) if tail else name):
                path = os.path.join(self.folder, name)
                try:
                    about = os.lstat(path)
                except FileNotFoundError:
                    continue
                if stat.S_ISREG(about.st_mode):
                    yield Found(about.st_mtime_ns, path)


def _patterns(base: str) -> Iterator[str]:
    """The regular expression that a name with directives becomes, piece by piece."""
    for place, piece in enumerate(re.split("%(.)", base)):
        yield DIRECTIVES[piece] if place % 2 else re.escape(piece)
