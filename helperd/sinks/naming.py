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
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

PART: Final = ".part"
"""What stands behind the name of a file that is not finished."""
PACKED: Final = ".zst"
MAX_NAME: Final = 255
"""Bytes of a file's name on Linux (NAME_MAX)."""
_REMEMBERED: Final = 4096
"""Stamps whose names are remembered, of a series; and the latest of them is never forgotten."""
_GIVEN: Final[dict[tuple[str, str], dict[str, int]]] = {}
"""How often each stamp was given, or the last number, by series: longer than a sink lives that a reload changes, so
that a name that was shipped away never comes again."""
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

    The folder is read once, by ``look``; from then on a file costs the same few calls however many there are.

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
        self._given = _GIVEN.setdefault((self.folder, self._base + self._extension), {})
        self._files: deque[str] = deque()
        self._unfinished: set[str] = set()
        self._stubborn: deque[str] = deque()

    def look(self) -> list[str]:
        """Read the folder: what is there counts as of the series. Returns the unfinished files, oldest first."""
        found: list[tuple[int, int, str, str]] = []
        for entry in os.listdir(self.folder):
            name = entry.removesuffix(PART)
            match = self._pattern.fullmatch(name)
            if not match:
                continue
            try:
                about = os.lstat(os.path.join(self.folder, entry))
            except FileNotFoundError:
                continue
            if stat.S_ISREG(about.st_mode):
                # The clock comes last, for it may have been set back.
                number = 0 if self._stamped else int(match[1])
                found.append((number, about.st_mtime_ns, name, entry))
        found.sort()
        self._files = deque(os.path.join(self.folder, name) for _, _, name, _ in found)
        if found and not self._stamped:
            self._given[""] = max(found[-1][0], self._given.get("", 0))
        return [os.path.join(self.folder, entry) for _, _, _, entry in found if entry.endswith(PART)]

    def next_path(self, at: time.struct_time) -> str:
        """The path of a file that is begun now: one that no file has, and that none has had in this process."""
        while True:
            path = os.path.join(self.folder, self._next_name(at))
            if not os.path.lexists(path) and not os.path.lexists(path + PART):
                self._files.append(path)
                self._unfinished.add(path)
                return path

    def _next_name(self, at: time.struct_time) -> str:
        base = time.strftime(self._base, at) if self._stamped else ""
        number = self._given[base] = self._given.pop(base, 0) + 1
        while len(self._given) > _REMEMBERED:
            del self._given[next(iter(self._given))]
        if not self._stamped:
            return ring_name(self._base, self._extension, number, at)
        return f"{base}{'' if number == 1 else f'_{number}'}{self._extension}"

    def give_back(self, path: str) -> None:
        """The file that was begun last has come to nothing, and nobody has seen its name: the next may have it."""
        self.forget(path)
        last = next(reversed(self._given))
        self._given[last] -= 1

    def forget(self, path: str) -> None:
        """A file is not of the series any more."""
        self._unfinished.discard(path)
        if path in self._files:
            self._files.remove(path)

    def finished(self, path: str) -> None:
        """A file has its name now."""
        self._unfinished.discard(path)

    @property
    def files(self) -> list[str]:
        """The files of the series, oldest first, by the names that they have, or will have when they are finished."""
        return list(self._files)

    def remove_oldest(self, keep: int) -> list[tuple[str, OSError]]:
        """Remove finished files until ``keep`` are left, those included that are not finished.

        Returns:
            Those that could not be removed; they are tried again, one each time.
        """
        files, stubborn = self._files, self._stubborn
        if stubborn:
            files.appendleft(stubborn.popleft())
        refused = []
        unfinished: list[str] = []  # few: no more are begun when too many wait
        while files and len(files) + len(stubborn) + len(unfinished) > keep:
            path = files.popleft()
            if path in self._unfinished:
                unfinished.append(path)
                continue
            try:
                os.unlink(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                stubborn.append(path)
                refused.append((path, error))
        files.extendleft(reversed(unfinished))
        return refused


def _patterns(base: str) -> Iterator[str]:
    """The regular expression that a name with directives becomes, piece by piece."""
    for place, piece in enumerate(re.split("%(.)", base)):
        yield DIRECTIVES[piece] if place % 2 else re.escape(piece)
