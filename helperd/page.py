"""The produced page: memory that a helper of ours counts into and we read, so that a SIGKILL leaves a truth.

    byte 0  produced: packets handed over for sending, 64 bits, the machine's byte order

The helper finds it as descriptor 5 (helperd/helpers/_page.py). Its size is sealed: a helper cannot make our read
fail. What it writes there is its word and is used as such: for the count of what died with it, and for nothing else.
"""

from __future__ import annotations

import fcntl
import os
import struct

SIZE = 4096
_PRODUCED = struct.Struct("=Q")


def make_page() -> int:
    """Return a descriptor of sealed memory full of zeros.

    Raises:
        OSError: no descriptor or memory is left.
    """
    fd = os.memfd_create("helperd-produced", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, SIZE)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except OSError:
        os.close(fd)
        raise
    return fd


def produced(fd: int) -> int:
    """Return how many packets the helper has counted."""
    (packets,) = _PRODUCED.unpack(os.pread(fd, _PRODUCED.size, 0))
    return int(packets)
