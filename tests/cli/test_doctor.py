"""`helperd doctor`: each "no" has one line that changes it, the exit status is for scripts; on this very machine.

What it says on an installed one, to root, a member and a stranger: tests/attack/tools.py.
"""

from __future__ import annotations

import argparse
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helperd.cli import doctor
from helperd.config import request as wire
from helperd.config.profile import Accounts
from tests.rig import daemon

CONFIG = """
[[helper]]
name = "synthetic"
command = ["builtin:synthetic"]
types = ["synthetic"]
[[source]]
name = "radio0"
definition = "radio0:type=synthetic,rate=10"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "helpers.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """This machine may have a launcher of its own; none of this is about it."""
    monkeypatch.setattr(doctor, "SOCKET", str(tmp_path / "launcher.sock"))
    monkeypatch.setattr(doctor, "SYSTEM_CONFIG", str(tmp_path / "none.toml"))


def ask(
    capsys: pytest.CaptureFixture[str],
    config: Path | None,
    *,
    runtime: Path | None = None,
    security: bool = False,
) -> tuple[int, dict[str, Any]]:
    """Return the exit status of --json and its rows by "section/what"; each "no" must have one line."""
    folder = runtime or (config.parent if config else None)
    args = argparse.Namespace(
        config=config and str(config), runtime_dir=folder and str(folder), security=security, json=True
    )
    status = doctor.main(args)
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] == (status == 0)
    for row in told["checks"]:
        assert row["good"] or row["fix"], row
        assert "\n" not in row["text"] + row["fix"], row
        assert set(row) == {"section", "what", "good", "needed", "text", "fix"}
    bad = [row for row in told["checks"] if row["needed"] and not row["good"]]
    assert told["ok"] == (not bad)
    return status, {f"{row['section']}/{row['what']}": row for row in told["checks"]}


def test_what_is_asked_of_this_machine(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    _, rows = ask(capsys, config)
    sections = {name.partition("/")[0] for name in rows}
    assert sections >= {
        "packages",
        "consumers",
        "kernel",
        "accounts",
        "launcher",
        "configuration",
        "running helpers",
    }
    assert rows["kernel/pidfd"]["good"]
    assert rows["packages/python-prctl"]["good"]
    assert rows[f"configuration/{config}"]["text"] == "1 helpers"
    assert not rows["launcher/socket"]["needed"]
    _, rows = ask(capsys, config, security=True)
    assert not any(name.startswith(("packages", "consumers")) for name in rows)


def test_the_page_for_people(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    args = argparse.Namespace(config=str(config), runtime_dir=str(config.parent), security=False, json=False)
    doctor.main(args)
    lines = capsys.readouterr().out.splitlines()
    for number, line in enumerate(lines):
        if line.startswith(("  no ", "  NO ")):
            assert lines[number + 1].startswith("      -> "), line
        else:
            assert line.endswith(":") or line.startswith(("  yes ", "      -> ")), line


def test_what_is_missing_is_named_with_its_fix(
    capsys: pytest.CaptureFixture[str], config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(doctor, "MODULES", {"no_such_module": "psutil", "no.such.parent": "tomli"})
    monkeypatch.setattr(doctor.kernel, "syscall", refused)
    monkeypatch.setattr(doctor.kernel, "no_new_privs", refused)
    monkeypatch.setattr(doctor.landlock, "abi", lambda: 0)
    monkeypatch.setattr(doctor.cgroup, "own_folder", lambda: "")
    monkeypatch.setattr(doctor.shutil, "which", lambda _name: None)
    monkeypatch.setattr(Accounts, "user", lambda *_: None)
    monkeypatch.setattr(Accounts, "group", lambda *_: None)
    status, rows = ask(capsys, config)
    assert status == 1
    for name, fix in (
        ("packages/psutil", "scripts/bootstrap"),
        ("packages/tomli", "scripts/bootstrap"),
        ("kernel/close_range", "Linux 5.9"),
        ("kernel/no_new_privs", "Linux 3.5"),
        ("kernel/system call filter", "CONFIG_SECCOMP_FILTER"),
        ("kernel/Landlock", "lsm=landlock"),
        ("kernel/cgroup2", "Delegate=yes"),
        ("consumers/tshark", "apt install tshark"),
        ("accounts/user helperd", "./scripts/install"),
    ):
        assert (rows[name]["good"], fix in rows[name]["fix"]) == (False, True), rows[name]
    assert "helperd run as root" in rows["accounts/user helperd"]["text"]
    monkeypatch.setattr(doctor.landlock, "abi", lambda: 3)
    _, rows = ask(capsys, config)
    assert rows["kernel/Landlock"]["good"]
    assert rows["kernel/Landlock scopes"]["text"] == "TCP, abstract sockets and signals stay open"


def test_a_machine_where_a_user_has_a_helpers_uid(
    capsys: pytest.CaptureFixture[str], config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Accounts, "__init__", lambda self: vars(self).update(users={"eve": (60801, 5)}, groups={})
    )
    status, rows = ask(capsys, config)
    assert (status, rows["accounts/uid pool"]["text"]) == (1, "used by eve")


@pytest.mark.parametrize(
    ("text", "mode", "what", "fix"),
    [
        ("[[helper]]\nname = 3\n", 0o644, "name", "correct that line"),
        (CONFIG, 0o666, "written by others", "chmod go-w"),
        (
            CONFIG.replace("types", "no_new_privs = false\ntypes", 1),
            0o644,
            "no_new_privs = false",
            "ambient privilege",
        ),
    ],
)
def test_a_configuration_that_is_no_good(
    capsys: pytest.CaptureFixture[str], config: Path, text: str, mode: int, what: str, fix: str
) -> None:
    config.write_text(text)
    config.chmod(mode)
    _, rows = ask(capsys, config)
    bad = [row for row in rows.values() if row["section"] == "configuration" and not row["good"]]
    assert any(what in row["text"] and fix in row["fix"] for row in bad), bad


@pytest.fixture
def door(tmp_path: Path) -> Iterator[socket.socket]:
    """Where the launcher would listen."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(str(tmp_path / "launcher.sock"))
        sock.listen()
        yield sock
    (tmp_path / "launcher.sock").unlink()


@pytest.mark.parametrize(
    ("answer", "good", "text"),
    [
        (wire.WIRE.pack(wire.MAGIC, 0x83, 1, 0, 7, 9, 1), True, "7 profiles"),
        (b"", False, "no [[allow]] rule"),
    ],
)
def test_a_launcher_that_answers_and_one_that_does_not(
    capsys: pytest.CaptureFixture[str],
    config: Path,
    door: socket.socket,
    answer: bytes,
    *,
    good: bool,
    text: str,
) -> None:
    def serve() -> None:
        peer, _ = door.accept()
        with peer:
            peer.recv(64)
            if answer:
                peer.send(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    _, rows = ask(capsys, config)
    thread.join()
    assert (rows["launcher/answers"]["good"], text in rows["launcher/answers"]["text"]) == (good, True)


def test_a_socket_where_nobody_listens(
    capsys: pytest.CaptureFixture[str], config: Path, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(str(tmp_path / "launcher.sock"))
        status, rows = ask(capsys, config)
    (tmp_path / "launcher.sock").unlink()
    assert (status, "no launcher listens at" in rows["launcher/answers"]["text"]) == (1, True)


def test_declared_against_observed(capsys: pytest.CaptureFixture[str], rundir: Path, config: Path) -> None:
    with daemon(rundir, CONFIG) as rig:
        rig.wait_running()
        _, rows = ask(capsys, config, runtime=rig.runtime)
        row = rows["running helpers/radio0"]
        assert row["good"], row
        assert row["text"].startswith("declared none; observed none; tier ")
        config.write_text(CONFIG.replace("types", "seal = 0\ntypes", 1))
        status, rows = ask(capsys, config, runtime=rig.runtime)
        assert (status, rows["running helpers/radio0"]["fix"]) == (1, "restart it; differs in filter")
        _, rows = ask(capsys, None, runtime=rig.runtime)
        assert f"configuration/{rig.runtime}/helpers.toml" in rows  # the daemon's own, when none is named
        assert rows["running helpers/radio0"]["good"]
        config.write_text(CONFIG.replace('"synthetic"', '"other"', 1))
        status, rows = ask(capsys, config, runtime=rig.runtime)
        assert (status, rows["running helpers/radio0"]["text"]) == (1, "not in this configuration")
