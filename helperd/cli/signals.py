"""Signals as something to poll, so that neither a write nor a picture is broken off."""

from __future__ import annotations

import contextlib
import signal
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def woken_by(*numbers: signal.Signals) -> Iterator[socket.socket]:
    """A socket that becomes readable at these signals, which do nothing else meanwhile."""
    ours, theirs = socket.socketpair()
    ours.settimeout(0)
    theirs.settimeout(0)
    wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)  # first: one just now counts
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    try:
        yield ours
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        ours.close()
        theirs.close()
