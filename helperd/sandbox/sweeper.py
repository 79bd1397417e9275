"""The sweeper: a child of root's launcher that ends all of a helper's uid, forked before there is anything to end.

Rules:
  1. A kill needs no new process: whoever is to be killed may have taken all that there can be.
  2. Between two orders its uids are a keeper's, which no helper has; its only capability is SETUID.
  3. It kills by its effective uid alone: real and saved one stay the keeper's, so that its prey cannot signal it.
  4. It never waits for its prey: whether some of it is left is told, and asked again by the launcher.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
from time import monotonic  # noqa: TID251 - the launcher's shell; kill deadlines are real time
from typing import TYPE_CHECKING

from helperd.sandbox.forks import quiet_fork

if TYPE_CHECKING:
    from collections.abc import Callable

    from helperd.sandbox.loop import Loop

ORDER = struct.Struct("=I?")  # a uid; in the answer: whether nobody else has it
STUCK_S = 0.5  # one that has not answered for so long was stopped


Ranges = tuple[range, range, range]
"""Uids of what may be swept, one for each process; of helpers that share theirs; of sweepers."""


class Sweeper:
    """The launcher's side.

    Attributes:
        pid: ours to reap; 0: there is none now.
        asked: uids that it has not answered for yet.
    """

    def __init__(
        self, loop: Loop, answered: Callable[[int, bool], None], ranges: Ranges | None = None
    ) -> None:
        self.loop = loop
        self.answered = answered
        self.ranges = ranges
        self.pid, self.asked = 0, set[int]()
        self.heard_at = 0.0
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
                    from helperd.sandbox.sweeping import serve

                    prey, _, keepers = self.ranges or ((), (), ())
                    keepers = keepers[1:]  # the first is the cleaner's, which it would kill
                    serve(theirs.fileno(), prey, keepers[os.urandom(1)[0] % len(keepers)])
                finally:
                    os._exit(1)
        ours.setblocking(False)  # noqa: FBT003
        self.pid, self.orders = pid, ours
        self.loop.watch(ours.fileno(), self._on_answer)
        return ours

    def ask(self, uid: int) -> None:
        """Have a uid swept; ``answered`` is called with what came of it. Where it cannot be now: nothing, ask again."""
        if self.asked and monotonic() > self.heard_at + STUCK_S:
            self.end()
        if uid in self.asked:
            return
        with contextlib.suppress(OSError):
            self.start().send(ORDER.pack(uid, False))  # noqa: FBT003
            self.heard_at = self.heard_at if self.asked else monotonic()
            self.asked.add(uid)

    def sweep_now(self, uid: int) -> bool:
        """Sweep a uid and wait; return whether nothing of it is left. Before the loop begins only."""
        self.ask(uid)
        ready = select.select([self.start()], [], [], STUCK_S)[0]
        return bool(ready) and self._receive() == (uid, True)

    def _receive(self) -> tuple[int, bool] | None:
        data = b""
        if self.orders:
            with contextlib.suppress(ConnectionError):
                data = self.orders.recv(ORDER.size)
        if not data:
            self.end()  # somebody killed it
            return None
        uid, alone = ORDER.unpack(data)
        self.asked.discard(uid)
        self.heard_at = monotonic()
        return uid, alone

    def _on_answer(self, _: int) -> None:
        if found := self._receive():
            self.answered(*found)

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
        self.asked.clear()
