"""What the service manager is told."""

from __future__ import annotations

import os
import socket

import pytest

from helperd.notify import Notifier
from tests.patience import HANGS_S


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    """A service manager's socket, and the environment that names it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(HANGS_S)
        name = str(tmp_path / "notify")
        if request.param == "abstract":
            name = f"@helperd-test-{os.getpid()}"
        sock.bind("\0" + name[1:] if name.startswith("@") else name)
        yield sock, {"NOTIFY_SOCKET": name}
    if not name.startswith("@"):
        os.unlink(name)


def test_each_message(manager):
    sock, environ = manager
    notifier = Notifier(environ)
    assert notifier.ready("4 sources, 3 running")
    assert sock.recv(999) == b"READY=1\nSTATUS=4 sources, 3 running"
    assert notifier.ready()
    assert sock.recv(999) == b"READY=1"
    assert notifier.status("two\nlines")
    assert sock.recv(999) == b"STATUS=two lines"
    assert notifier.watchdog()
    assert sock.recv(999) == b"WATCHDOG=1"
    assert notifier.reloading(12.5)
    assert sock.recv(999) == b"RELOADING=1\nMONOTONIC_USEC=12500000"
    assert notifier.stopping("bye")
    assert sock.recv(999) == b"STOPPING=1\nSTATUS=bye"
    assert notifier.failed == 0


def test_nobody_listens():
    notifier = Notifier({})
    assert not notifier.ready("x")
    assert notifier.failed == 0


def test_a_manager_that_is_gone_or_does_not_read_costs_nothing(tmp_path):
    gone = Notifier({"NOTIFY_SOCKET": str(tmp_path / "none")})
    assert not gone.ready()
    assert gone.failed == 1
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "stuck"))
        stuck = Notifier({"NOTIFY_SOCKET": str(tmp_path / "stuck")})
        sent = 0
        while stuck.watchdog():
            sent += 1
            assert sent < 100_000
        assert stuck.failed == 1
    os.unlink(tmp_path / "stuck")


def test_the_watchdog_is_ours_or_nobodys():
    ours = str(os.getpid())
    assert Notifier({"WATCHDOG_USEC": "3000000"}).watchdog_s == 3.0
    assert Notifier({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": ours}).watchdog_s == 3.0
    assert Notifier({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "4194305"}).watchdog_s is None
    for nothing in ({}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": ""}):
        assert Notifier(nothing).watchdog_s is None
