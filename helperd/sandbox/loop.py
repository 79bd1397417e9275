"""The launcher's event loop, in two small parts: what wakes it, and what it says."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from time import monotonic  # noqa: TID251 - the launcher's shell; kill deadlines are real time
from typing import TYPE_CHECKING

from helperd.visible import visible

if TYPE_CHECKING:
    from collections.abc import Callable

BURST, LINES_PER_S = 200, 20
REST_S = 0.5


class Loop:
    """Descriptors and what to call for them, signals included; one thread, one poll."""

    def __init__(self) -> None:
        self.poll = select.poll()
        self.calls: dict[int, Callable[[int], None]] = {}
        self.resting: dict[int, float] = {}

    def watch(self, fd: int, call: Callable[[int], None]) -> None:
        """Call ``call(events)`` whenever ``fd`` is readable or at its end."""
        self.calls[fd] = call
        self.poll.register(fd, select.POLLIN)

    def unwatch(self, fd: int) -> None:
        """Forget a descriptor."""
        self.resting.pop(fd, None)
        if self.calls.pop(fd, None):
            self.want(fd, 0)

    def rest(self, fd: int) -> None:
        """Look away from a descriptor that cannot be served now, for ``REST_S``: it stays ready meanwhile."""
        self.want(fd, 0)
        self.resting[fd] = monotonic() + REST_S

    def want(self, fd: int, events: int) -> None:
        """Wait for other events from now on; for none, not even for its end."""
        if events:
            self.poll.register(fd, events)
        else:
            with contextlib.suppress(KeyError):
                self.poll.unregister(fd)

    def on_signals(self, call: Callable[[bytes], None], numbers: list[int]) -> None:
        """Call ``call(numbers)`` after signals came, in the loop and never in between."""
        bell, ring = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(ring, warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, dict[int, object]().get)  # not in Python: those would nest in a storm
        self.watch(bell, lambda _: call(os.read(bell, 256)))
        signal.pthread_sigmask(signal.SIG_SETMASK, [])  # whoever started us may have blocked some

    def turn(self, times: list[float]) -> None:
        """Wait for the first event, or the first of ``times`` that is not 0, and make the calls."""
        for fd in [fd for fd, until in self.resting.items() if until <= monotonic()]:
            del self.resting[fd]
            self.poll.register(fd, select.POLLIN)
        due = [at for at in (*times, *self.resting.values()) if at]
        wait = max(0.0, min(due) - monotonic()) * 1000 if due else None
        ready = [(fd, event, self.calls.get(fd)) for fd, event in self.poll.poll(wait)]
        for fd, event, call in ready:
            if call is not None and self.calls.get(fd) is call:  # else an earlier call ended or replaced it
                call(event)


class Log:
    """Lines on standard error; never waits, and a flood is cut."""

    def __init__(self) -> None:
        self.level, self.at, self.left_out = 0.0, 0.0, 0
        self.fd = 2
        if os.isatty(2):
            # One that has room for some of a line waits for whoever reads it with the rest; opened anew it does not.
            with contextlib.suppress(OSError):
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
                self.fd = os.open("/proc/self/fd/2", flags)

    def say(self, text: str) -> None:
        """Write one line, unless nobody reads or too many came; the next one says how many that were."""
        now = monotonic()
        self.level, self.at = max(0.0, self.level - (now - self.at) * LINES_PER_S), now
        waiting = select.poll()
        waiting.register(self.fd, select.POLLOUT)
        if self.level + 1 >= BURST or not any(event & select.POLLOUT for _, event in waiting.poll(0)):
            self.left_out += 1
            return
        self.level += 1
        if self.left_out:
            text, self.left_out = f"{text} (before this, {self.left_out} lines were left out)", 0
        line = visible(f"helperd-launcher: {text}")
        with contextlib.suppress(OSError):  # nobody reads it any more
            os.write(self.fd, line[:1000].encode(errors="replace") + b"\n")
