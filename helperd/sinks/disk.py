"""What an error of the file system means to a sink of files, and which disk a path is on."""

from __future__ import annotations

import errno
import os
from typing import Final

from helperd.errors import SinkError

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_BROKEN: Final = frozenset(
    {errno.EIO, errno.ENXIO, errno.ENODEV, errno.EREMOTEIO, errno.EUCLEAN, errno.ESTALE, errno.ETIMEDOUT}
    | {errno.ENOTCONN, errno.ECONNABORTED, errno.EBADMSG, errno.EHOSTDOWN, errno.EROFS}
)
"""Errors that no permission and no name explains: the device, or the way to it (a card that dies is read-only then)."""


GONE: Final = (FileNotFoundError, NotADirectoryError)
"""What a path says that somebody has removed, or a directory of it; a file may be in the directory's place."""


class Changed(Exception):  # noqa: N818 - nobody has failed here
    """Somebody else has removed, moved, replaced or cut the file that is being written; says which."""


def failed(error: OSError, doing: str, *, opening: bool = False) -> SinkError:
    """What an error of the file system means to a sink.

    Args:
        error: what a call said.
        doing: in which words it is told.
        opening: no file is open; the way may be wrong rather than the disk.
    """
    why = error.strerror or str(error)
    if error.errno in FULL:
        return SinkError("disk-full", f"{doing}: {why}; make room, or let the sink keep fewer files")
    if error.errno == errno.EEXIST:
        return SinkError(
            "sink-failed", f"{doing}: somebody else has put {error.filename} there; move that away"
        )
    if opening and error.errno not in _BROKEN:
        return SinkError("sink-failed", f"{doing}: {why}")
    return SinkError(
        "disk-error", f"{doing}: {why}; see the kernel's log (dmesg), and have another disk ready"
    )


def mount_of(folder: str) -> str:
    """What hangs together with a folder: the mount that it lies in, or for the root's the folder itself.

    Asks the kernel's table, and never the disk, which may hang.
    """
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
            points = [line.split(" ", 5)[4] for line in table]
    except OSError:
        return folder
    plain = (point.replace("\\040", " ") for point in points)
    found = max(
        (point for point in plain if (folder + "/").startswith(point.rstrip("/") + "/")), key=len, default="/"
    )
    return folder if found == "/" else found


def sync_folder(folder: str) -> None:
    """Bring the names in a folder to the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
