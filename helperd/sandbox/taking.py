"""What the taker in reserve does in its own process. The launcher does not load this.

What comes with a request ends here. That may take its time, as the end of a socket that lingers does. A signal cuts it
short: after ``LONGEST_S`` the next one has its turn.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from typing import NoReturn

from helperd.sandbox import kernel
from helperd.sandbox.sweeping import only

LONGEST_S = 1
_NAME = "helperd-take"


def serve(orders: int) -> NoReturn:
    """In the forked child: give up every capability, then take a request of each connection that comes."""
    try:
        waiting = only(orders, _NAME)
        kernel.capset(0, 0)
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
        while fds := socket.recv_fds(waiting, 1, 1)[1]:
            signal.alarm(LONGEST_S)
            with contextlib.suppress(OSError), socket.socket(fileno=fds[0]) as sock:
                sock.recv(1)
            signal.alarm(0)
            waiting.send(b"t")
    finally:
        os._exit(0)
