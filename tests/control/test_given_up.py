"""An order whose client has gone is not carried out: every one that the control socket knows."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helperd.control.methods import METHODS
from tests.fuse import mounted
from tests.rig import Rig, daemon, select_a_moment

HELPER = """
[[helper]]
name = "synthetic"
command = ["builtin:synthetic"]
types = ["synthetic"]
"""
SOURCE = """
[[source]]
name = "{0}"
definition = "radio0:type=synthetic,rate=100,uuid=00000000-0000-0000-0000-{1:012}"
"""
CONFIG = HELPER + SOURCE.format("radio0", 1) + SOURCE.format("idle", 2) + 'start = "manual"\n'
MORE = CONFIG + SOURCE.format("radio1", 3)
ADDED = "radio1:type=synthetic,rate=100"

Row = dict[str, Any]
ORDERS: dict[str, tuple[dict[str, Any], str, Callable[[Row | None], bool]]] = {
    # its parameters; whose row in the status tells; whether it has been carried out, or is just being
    "Start": ({"source": "idle"}, "idle", lambda row: bool(row and row["wanted"] == "up")),
    "Stop": ({"source": "radio0"}, "radio0", lambda row: bool(row and row["wanted"] == "down")),
    "Restart": ({"source": "radio0"}, "radio0", lambda row: bool(row and row["incarnation"] == 2)),
    "Pause": ({"source": "radio0"}, "radio0", lambda row: bool(row and row["paused"])),
    "Resume": ({"source": "halted"}, "halted", lambda row: bool(row and not row["paused"])),
    "AddSource": ({"definition": ADDED, "name": "added"}, "added", lambda row: row is not None),
    "RemoveSource": ({"source": "halted"}, "halted", lambda row: row is None),
    "SetChannel": ({"source": "radio0", "channel": "11"}, "radio0", lambda row: bool(row and row["tuning"])),
    "Hop": ({"source": "radio0", "channels": ["1", "6"]}, "radio0", lambda row: bool(row and row["tuning"])),
    "Reload": ({}, "radio1", lambda row: row is not None),
    "Capture": ({"definition": ADDED, "name": "added"}, "added", lambda row: row is not None),
}
KINDS = {"Capture": "upgrade"}


def test_every_method_that_changes_something_is_tried() -> None:
    assert {name for name, entry in METHODS.items() if entry.changes} == set(ORDERS)


def row_of(status: dict[str, Any], name: str) -> Row | None:
    return next((row for row in status["sources"] if row["name"] == name), None)


def send(rig: Rig, method: str) -> socket.socket:
    call: dict[str, Any] = {"method": f"io.helperd.{method}", "parameters": ORDERS[method][0]}
    if method in KINDS:
        call[KINDS[method]] = True
    sock = rig.connect("control.sock")
    sock.sendall(json.dumps(call).encode() + b"\0")
    return sock


@pytest.mark.parametrize("method", ORDERS)
def test_no_order_of_a_client_that_has_gone_is_carried_out(rundir: Path, method: str) -> None:
    """The supervisor stands still while the order comes and its client goes; one that stays is obeyed."""
    _, name, done = ORDERS[method]
    with daemon(rundir, CONFIG) as rig:
        rig.wait_running("radio0")
        rig.call("AddSource", definition="radio2:type=synthetic,rate=100", name="halted")
        rig.call("Pause", source="halted")
        (rundir / "helpers.toml").write_text(MORE)
        supervisor = rig.status()["pid"]
        os.kill(supervisor, signal.SIGSTOP)
        try:
            send(rig, method).close()
        finally:
            os.kill(supervisor, signal.SIGCONT)
        behind = "radio3:type=synthetic,rate=100"
        rig.call("AddSource", definition=behind, name="behind")  # heard, and done, behind it
        assert not done(row_of(rig.status(), name))
        with send(rig, method):
            rig.wait(lambda status: done(row_of(status, name)))


@pytest.mark.timeout(120)
def test_a_reload_that_waits_for_a_disk_is_given_up_with_its_client(tmp_path: Path) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir()
    with mounted(tmp_path / "disk") as disk:
        disk.path.chmod(0o755)
        file = disk.path / "helpers.toml"
        file.write_text(CONFIG)
        with daemon(runtime, file) as rig:
            rig.wait_running("radio0")
            file.write_text(MORE)
            disk.freeze("read", "open")
            with send(rig, "Reload"):
                while not disk.held:
                    select_a_moment()
            rig.status()  # it has been heard that the client has gone
            disk.thaw()
            rig.call(
                "AddSource", definition="radio3:type=synthetic,rate=100", name="behind"
            )  # in the same queue
            assert row_of(rig.status(), "radio1") is None
            rig.call("Reload")
            rig.wait_running("radio1")
