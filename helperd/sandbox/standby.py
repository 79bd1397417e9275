"""Children of the launcher that wait for orders, which need no new process: there may be none left."""

from __future__ import annotations

import os
import signal
import socket
from collections import deque
from typing import TYPE_CHECKING

from helperd.sandbox.forks import quiet_fork

if TYPE_CHECKING:
    from collections.abc import Callable

    from helperd.sandbox.loop import Loop


class Standby:
    """The launcher's side of one; what it does, and what an answer of it means, says who inherits.

    Attributes:
        pid: ours to reap; 0: there is none now.
    """

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.pid = 0
        self.orders: socket.socket | None = None

    def start(self) -> socket.socket:
        """Fork it, unless there is one; return the socket it waits at.

        Raises:
            OSError: no process or descriptor is left.
        """
        if self.orders:
            return self.orders
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                pid = quiet_fork()
            except OSError:
                ours.close()
                raise
            if pid == 0:
                try:
                    self.serve(theirs.fileno())
                finally:
                    os._exit(1)
        ours.setblocking(False)  # noqa: FBT003
        self.pid, self.orders = pid, ours
        self.loop.watch(ours.fileno(), lambda _: self.on_answer())
        return ours

    def serve(self, orders: int) -> None:
        """In the forked child: carry orders out until there are no more."""
        raise NotImplementedError

    def on_answer(self) -> None:
        """Read an answer; none means that somebody has killed it."""
        raise NotImplementedError

    def end(self) -> None:
        """End it, whatever it is doing; the next order makes another one."""
        if self.orders:
            self.loop.unwatch(self.orders.fileno())
            self.orders.close()
            self.orders = None
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)  # ours, and not reaped yet
            os.waitpid(self.pid, 0)
        self.pid = 0


class Taker(Standby):
    """Takes requests that nobody is to have, one after the other; each for a second at most."""

    def __init__(self, loop: Loop) -> None:
        super().__init__(loop)
        self.waiting: deque[Callable[[], None]] = deque()

    def take(self, sock: socket.socket, then: Callable[[], None]) -> int:
        """Have the next request of a connection taken, then ``then`` called; return the pid of who does it.

        Raises:
            OSError: it cannot be now.
        """
        socket.send_fds(self.start(), [b"t"], [sock.fileno()], socket.MSG_NOSIGNAL)
        self.waiting.append(then)
        return self.pid

    def serve(self, orders: int) -> None:
        """Do what ``taking`` says."""
        from helperd.sandbox.taking import serve

        serve(orders)

    def on_answer(self) -> None:
        """One is taken."""
        if self.orders and self.orders.recv(1):
            self.waiting.popleft()()
        else:
            self.end()

    def end(self) -> None:
        """End it; who waits for it goes on."""
        super().end()
        while self.waiting:
            self.waiting.popleft()()
