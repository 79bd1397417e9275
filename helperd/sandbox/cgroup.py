"""A leaf cgroup per helper, where the unit has delegated its subtree: killing it reaches every descendant."""

from __future__ import annotations

import errno
import os
import time


def own_folder() -> str:
    """Return this process's cgroup2 directory; empty when there is none."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            inside = next((line[3:].strip() for line in file if line.startswith("0::")), "")
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            rows = [line.split() for line in file]
    except OSError:
        return ""
    mounts = [row[4] for row in rows if row[row.index("-") + 1] == "cgroup2" and row[3] == "/"]
    return f"{mounts[0]}{inside.rstrip('/')}" if mounts and inside else ""


def make_leaf(folder: str, name: str) -> str:
    """Make a helper's leaf; return its directory, or "" when the kernel says no."""
    leaf = f"{folder}/{name}"
    try:
        os.mkdir(leaf, 0o755)
    except OSError:
        return ""
    if os.path.exists(f"{leaf}/cgroup.kill"):
        return leaf
    os.rmdir(leaf)  # before Linux 5.14
    return ""


def kill(leaf: str) -> None:
    """Kill everything in a leaf, however it forked; one that somebody has removed was empty.

    Without a descriptor to do it with, nothing happens: the leaf cannot be removed then, and is tried again.
    """
    try:
        with open(f"{leaf}/cgroup.kill", "w", encoding="ascii") as file:
            file.write("1")
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENODEV, errno.EMFILE, errno.ENFILE, errno.ENOMEM}:
            raise


def remove(leaf: str) -> bool:
    """Remove a leaf; False while a process is still in it."""
    try:
        os.rmdir(leaf)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def clear(folder: str) -> None:
    """Kill what an earlier launcher left in our subtree, and wait for it: the names are used again."""
    leaves = [f"{folder}/{name}" for name in os.listdir(folder) if os.path.isdir(f"{folder}/{name}")]
    for leaf in leaves:
        kill(leaf)
    for leaf in leaves:
        for _ in range(200):
            if remove(leaf):
                break
            time.sleep(0.005)  # before the loop begins; what is killed is gone in milliseconds
