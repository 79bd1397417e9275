"""What the service manager is told: sd_notify(3), one datagram per message; silent when nobody listens."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Notifier:
    """The way to $NOTIFY_SOCKET. Never blocks and never raises: a manager that does not read costs nothing.

    Attributes:
        failed: messages that could not be sent.
        watchdog_s: seconds within which the manager wants a sign of progress; None when it does not.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self.failed = 0
        usec = environ.get("WATCHDOG_USEC", "")
        us = {str(os.getpid()), str(os.getppid())}  # the manager started the launcher; the progress is ours
        ours = environ.get("WATCHDOG_PID", str(os.getpid())) in us
        self.watchdog_s = int(usec) / 1e6 if usec.isdigit() and int(usec) and ours else None

    def send(self, *fields: str) -> bool:
        """Send ``NAME=value`` fields; False when nobody was told."""
        if not self._address:
            return False
        try:
            kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            with socket.socket(socket.AF_UNIX, kind) as sock:
                sock.sendto("\n".join(fields).encode(errors="replace"), self._address)
        except OSError:
            self.failed += 1
            return False
        return True

    def ready(self, status: str = "") -> bool:
        """All sources that start with the daemon have been asked to start; also ends a reload."""
        return self.send("READY=1", *_status(status))

    def status(self, text: str) -> bool:
        """Say in one line how things are."""
        return self.send(*_status(text or "-"))

    def watchdog(self) -> bool:
        """Report real progress of the supervisor's loop."""
        return self.send("WATCHDOG=1")

    def reloading(self, now: float) -> bool:
        """Say that a reload begins at ``now`` (seconds, CLOCK_MONOTONIC); ``ready`` ends it."""
        return self.send("RELOADING=1", f"MONOTONIC_USEC={int(now * 1e6)}")

    def stopping(self, status: str = "") -> bool:
        """Say that the daemon is about to end."""
        return self.send("STOPPING=1", *_status(status))


def _status(text: str) -> list[str]:
    return [f"STATUS={' '.join(text.split())}"] if text else []
