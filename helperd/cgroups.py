"""The cgroups of a process, of both versions, and whether one of them holds it still.

Source of the layouts: cgroups(7), proc(5), and cgroup-v1/freezer-subsystem in the kernel's documentation.
"""

from __future__ import annotations

import os
from functools import cache
from typing import NamedTuple

V2 = ""
"""In place of a controller's name: the one hierarchy of version 2."""


class Mount(NamedTuple):
    """Where a hierarchy can be seen.

    Attributes:
        top: the directory it is mounted at.
        root: the cgroup that stands there, "/" unless a container sees a part only.
    """

    top: str
    root: str


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read().splitlines()
    except OSError:
        return []


@cache
def mounts() -> dict[str, Mount]:
    """Every hierarchy that is mounted, by each of its controllers; ``V2`` for that of version 2."""
    found: dict[str, Mount] = {}
    for line in _lines("/proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        words, kind = before.split(), after.split()
        if kind[:1] == ["cgroup2"]:
            found.setdefault(V2, Mount(words[4], words[3]))
        elif kind[:1] == ["cgroup"]:
            for controller in kind[2].split(","):
                found.setdefault(controller, Mount(words[4], words[3]))
    return found


def directory(pid: int, controller: str = V2) -> str | None:
    """The directory of a process's cgroup under a controller; None when it has none that can be seen."""
    mount = mounts().get(controller)
    if mount is None:
        return None
    for line in _lines(f"/proc/{pid}/cgroup"):
        _, names, path = line.split(":", 2)
        if controller not in names.split(","):
            continue
        if mount.root != "/" and path.startswith(mount.root):
            path = path[len(mount.root) :]
        found = f"{mount.top}/{path.lstrip('/')}".rstrip("/")
        return found if "/.." not in path and os.path.isdir(found) else None
    return None


def is_frozen(pid: int) -> bool:
    """Whether a cgroup of the process, or one above it, is frozen or about to be; that is no fault of its own."""
    new, old = directory(pid), directory(pid, "freezer")
    if new is not None and "frozen 1" in _lines(f"{new}/cgroup.events"):
        return True
    return old is not None and _lines(f"{old}/freezer.state") in (["FROZEN"], ["FREEZING"])
