"""Landlock: no file, no TCP, no abstract socket and no signal beyond what is named.

Source of fact: linux/landlock.h. A kernel handles what its ABI knows; what it lacks is in the answer, never
silent. It restricts the calling thread and its later children, so it comes before the first thread.
"""

from __future__ import annotations

import os
import stat
import struct
from typing import TYPE_CHECKING

from helperd.sandbox import kernel

if TYPE_CHECKING:
    from collections.abc import Iterable

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
TRUNCATE, IOCTL_DEV = 1 << 14, 1 << 15
RIGHTS = (
    0,
    (1 << 13) - 1,
    (1 << 14) - 1,
    (1 << 15) - 1,
    (1 << 15) - 1,
    (1 << 16) - 1,
)  # by ABI, the last one goes on
NETWORK, SCOPES = 3, 3  # bind and connect TCP; abstract unix sockets and signals


def abi() -> int:
    """Return the version of Landlock this kernel has; 0: none."""
    try:
        return kernel.syscall("landlock_create_ruleset", None, 0, 1)
    except OSError:
        return 0


def restrict(read: Iterable[str] = (), write: Iterable[str] = ()) -> list[str]:
    """Give up every file but the named ones and what lies below them, and network and signals as far as
    known.

    Args:
        read: paths that stay readable.
        write: paths (devices) that stay readable and writable.

    Returns:
        What this kernel cannot restrict, in words; empty when all of it holds.

    Raises:
        OSError: the kernel refuses (no_new_privs is missing), or a path cannot be opened.
    """
    version = abi()
    if not version:
        return ["no Landlock in this kernel: files stay reachable by their permissions"]
    rights = RIGHTS[min(version, len(RIGHTS) - 1)]
    attributes = struct.pack("=QQQ", rights, NETWORK if version >= 4 else 0, SCOPES if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = kernel.syscall("landlock_create_ruleset", attributes[:size], size, 0)
    try:
        for paths, wanted in (
            (read, READ_FILE | READ_DIR),
            (write, READ_FILE | READ_DIR | WRITE_FILE | IOCTL_DEV | TRUNCATE),
        ):
            for path in paths:
                fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
                try:
                    folder = stat.S_ISDIR(os.fstat(fd).st_mode)
                    given = wanted & rights & (-1 if folder else ~READ_DIR)
                    kernel.syscall("landlock_add_rule", ruleset, 1, struct.pack("=Qi", given, fd), 0)
                finally:
                    os.close(fd)
        kernel.syscall("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)
    lacking = []
    if version < 4:
        lacking.append(f"Landlock {version} does not restrict TCP (4 does)")
    if version < 6:
        lacking.append(f"Landlock {version} does not restrict abstract sockets and signals (6 does)")
    return lacking
