"""What a burst has left in the C library's heap is given back: a node that was busy once is not a big one for ever.

The library keeps what is freed, scattered over pages between what is still in use, and for each thread apart. Python's
own small objects are not in there; buffers, batches of packets, lists and what is sent are.
"""

from __future__ import annotations

import ctypes
from typing import Final

EVERY_S: Final = 10.0
_ARENA_MAX: Final = -8  # of <malloc.h>


class Trimming:
    """Gives the pages back that nothing is in, now and then; does nothing where the library has no word for it."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        self._trim = getattr(library, "malloc_trim", None)
        self._due = 0.0
        if hasattr(library, "mallopt"):
            library.mallopt(_ARENA_MAX, 1)  # our threads wait for disks: a heap each would buy no speed

    def beat(self, now: float) -> None:
        """Give back what can be, once in ``EVERY_S``."""
        if self._trim is not None and now >= self._due:
            self._due = now + EVERY_S
            self._trim(0)
