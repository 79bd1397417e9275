"""The file that a source replays: what is wrong with it stays so until it changes, so it is watched instead of retried.

Rules:
  1. A file that still changes is not there yet: it is tried again when it has been the same for ``SETTLE_S``.
  2. Looking may take as long as a dead network file system likes: it is done in a thread, and nobody waits for that.
"""

from __future__ import annotations

import os
import stat
from typing import Final, NamedTuple

import trio

from helperd.threads import in_thread

LOOK_S: Final = 1.0
SETTLE_S: Final = 2.0


class Seen(NamedTuple):
    """What tells one state of a file from another."""

    device: int
    inode: int
    size: int
    changed_ns: int


def _look(path: str) -> Seen | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return Seen(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


async def look(path: str) -> Seen | None:
    """The state of a regular file; None when there is none that we may look at."""
    if "/" not in path:  # an interface
        await trio.lowlevel.checkpoint()
        return None
    return await in_thread(_look, path)


async def wait_changed(path: str, before: Seen | None) -> None:
    """Wait until a file is another than it was, and stays so for a while."""
    last, since = before, trio.current_time()
    while True:
        await trio.sleep(LOOK_S)
        seen, now = await look(path), trio.current_time()
        if seen != last:
            last, since = seen, now
        elif seen not in {None, before} and now - since >= SETTLE_S:
            return
