"""Compressed files: a chain of whole zstd frames, each of which holds whole blocks.

So a file that was not finished is good up to its last whole frame, and needs no state to be continued. Source of facts:
RFC 8878, section 3.1.1. The compressor is PyPI's ``zstandard``, which is imported only when a sink asks for it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from helperd.errors import SinkError

if TYPE_CHECKING:
    from collections.abc import Callable

MAGIC: Final = 0xFD2FB528
LEVEL: Final = 3
_CONTENT_SIZE: Final = (0, 2, 4, 8)
_DICTIONARY: Final = (0, 1, 2, 4)
_RLE: Final = 1
_RESERVED: Final = 3


def compressor() -> Callable[[bytes], bytes]:
    """What makes one frame of some bytes.

    Raises:
        SinkError: "not-installed".
    """
    try:
        import zstandard
    except ImportError:
        text = 'compress = "zstd" needs Python\'s zstandard; apt install python3-zstandard, or pip install zstandard'
        raise SinkError("not-installed", text) from None
    return zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compress


def whole_frames(fd: int) -> int:
    """Bytes at the beginning of a file that are whole frames."""
    size = os.fstat(fd).st_size
    at = 0
    while (end := _frame_end(fd, at)) and end <= size:
        at = end
    return at


def _frame_end(fd: int, at: int) -> int:
    """Where the frame that begins here would end; 0: none begins here, or it is cut inside a header."""
    head = os.pread(fd, 5, at)
    if len(head) < 5 or int.from_bytes(head[:4], "little") != MAGIC:
        return 0
    flags = head[4]
    single, checksum = flags >> 5 & 1, flags >> 2 & 1
    at += 5 + (not single) + _DICTIONARY[flags & 3] + max(_CONTENT_SIZE[flags >> 6], single)
    last = False
    while not last:
        block = os.pread(fd, 3, at)
        if len(block) < 3:
            return 0
        word = int.from_bytes(block, "little")
        last, kind, length = bool(word & 1), word >> 1 & 3, word >> 3
        if kind == _RESERVED:
            return 0
        at += 3 + (1 if kind == _RLE else length)
    return at + 4 * checksum
