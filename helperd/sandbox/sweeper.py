"""The sweeper: a child of root's launcher that ends all of a helper's uid, forked before there is anything to end.

Rules:
  1. A kill needs no new process: whoever is to be killed may have taken all that there can be.
  2. Between two orders its uids are a keeper's, which no helper has; its only capability is SETUID.
  3. It kills by its effective uid alone: real and saved one stay the keeper's, so that its prey cannot signal it.
  4. It never waits for its prey: whether some of it is left is told, and asked again by the launcher. One kill is
     enough: the kernel lets nobody fork whom it has reached.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import struct
from time import monotonic  # noqa: TID251 - the launcher's shell; kill deadlines are real time
from typing import TYPE_CHECKING

from helperd.sandbox.standby import Standby

if TYPE_CHECKING:
    from collections.abc import Callable

    from helperd.sandbox.loop import Loop

ORDER = struct.Struct("=I?")  # a uid; whether it is to be killed; in the answer: whether nobody else has it
STUCK_S = 0.5  # one that has not answered for so long may have been stopped


Ranges = tuple[range, range, range]
"""Uids of what may be swept, one for each process; of helpers that share theirs; of sweepers."""


class Sweeper(Standby):
    """The launcher's side.

    Attributes:
        asked: uids that it has not answered for yet.
    """

    def __init__(
        self, loop: Loop, answered: Callable[[int, bool], None], ranges: Ranges | None = None
    ) -> None:
        super().__init__(loop)
        self.answered = answered
        self.ranges = ranges
        self.asked = set[int]()
        self.heard_at = 0.0

    def serve(self, orders: int) -> None:
        """Do what ``sweeping`` says."""
        from helperd.sandbox.sweeping import serve

        prey, _, keepers = self.ranges or ((), (), ())
        keepers = keepers[1:]  # the first is the cleaner's, which it would kill
        serve(orders, prey, keepers[os.urandom(1)[0] % len(keepers)])

    def ask(self, uid: int, killed: float = 0.0) -> float:
        """Have all of a uid killed, unless it was; ``answered`` is told whether it is gone. Return when it was killed.

        Where it cannot be now: 0, ask again. A sweeper that does not answer goes on: it waits for a processor, or was
        stopped. There may be no room for another.
        """
        if self.asked and self.pid and monotonic() > self.heard_at + STUCK_S:
            os.kill(self.pid, signal.SIGCONT)  # ours, and not reaped yet
        if uid not in self.asked:
            with contextlib.suppress(OSError):
                self.start().send(ORDER.pack(uid, not killed))
                self.heard_at = self.heard_at if self.asked else monotonic()
                self.asked.add(uid)
                return killed or monotonic()
        return killed

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

    def on_answer(self) -> None:
        """Tell what came of an order."""
        if found := self._receive():
            self.answered(*found)

    def end(self) -> None:
        """End it; what it was asked is asked again."""
        super().end()
        self.asked.clear()
