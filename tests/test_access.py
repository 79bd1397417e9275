"""What a user is told who is not served by the installed launcher: one thing that is missing here, and what to do.

The whole road, each cure carried out: the scene ``road`` of tests/attack/tools.py.
"""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helperd import access, config
from helperd.config.whole import KEYS
from tests.rig import ROOT, let_in

BLOCK = """
[[helper]]
name = "h"
command = ["/bin/true"]
types = ["h"]
"""
HELPER = config.parse(BLOCK, "mine.toml").helpers[0]
OTHERS: dict[str, Any] = {
    "command": ("/bin/false",),
    "capabilities": ("net_raw",),
    "groups": ("tty",),
    "uid": 7,
    "privilege": "file",
    "no_new_privs": False,
    "seal": 0,
    "env": (("X", "1"),),
    "limits": (("nofile", 3),),
    "devices": ("/dev/x",),
    "private_tmp": False,
}


def test_all_that_a_process_is_made_of_has_to_be_alike() -> None:
    made = {key.name for key in KEYS if key.table == "helper" and key.needs_process}
    assert made - {"wire"} <= set(OTHERS), "wire is how we talk to it"


@pytest.mark.parametrize("key", OTHERS)
def test_a_block_of_the_same_name_that_differs_is_named_with_its_place(key: str) -> None:
    installed = config.parse(BLOCK, "/etc/x.toml")
    assert access.number_of(HELPER, installed) == (1, "")
    number, why = access.number_of(replace(HELPER, **{key: OTHERS[key]}), installed)
    assert number == 0
    assert f"h (/etc/x.toml, line 2) has another {key}" in why


def test_what_is_only_ours_may_differ() -> None:
    installed = config.parse(BLOCK + 'term_grace = "3s"\nwire = "v0"\n', "/etc/x.toml")
    assert access.number_of(HELPER, installed) == (1, "")


def test_a_helper_that_is_not_installed_is_named_with_the_file_for_it() -> None:
    number, why = access.number_of(replace(HELPER, name="other"), config.parse(BLOCK, "/etc/x.toml"))
    assert (number, "no helper other" in why, access.SITE in why) == (0, True, True)


@pytest.mark.parametrize(
    ("installed", "systemd", "said"),
    [
        ((), True, f"not installed on this machine: sudo {ROOT}/scripts/install"),
        (
            (config.INSTALLED,),
            True,
            f"not installed on this machine: sudo {ROOT}/scripts/install",
        ),  # removed, kept
        (("/usr/bin/helperd",), False, f"not installed on this machine: sudo {ROOT}/scripts/install"),
        (
            (config.INSTALLED, "/usr/bin/helperd"),
            True,
            "sudo systemctl enable --now helperd-launcher.socket",
        ),
        ((config.INSTALLED, "/usr/local/bin/helperd"), False, "sudo helperd launcher, in another terminal"),
    ],
)
def test_where_nobody_listens_the_way_to_start_it_is_this_machines(
    monkeypatch: pytest.MonkeyPatch, *, installed: tuple[str, ...], systemd: bool, said: str
) -> None:
    exists, isdir = os.path.exists, os.path.isdir
    places = {config.INSTALLED, *access.PROGRAMS}
    monkeypatch.setattr(os.path, "exists", lambda path: path in installed if path in places else exists(path))
    monkeypatch.setattr(os.path, "isdir", lambda path: systemd if "systemd" in str(path) else isdir(path))
    for number in (errno.ENOENT, errno.ECONNREFUSED):
        assert access.no_connection(access.LAUNCHER_SOCKET, number).endswith(said)


def test_who_is_in_the_group_is_told_of_the_socket_itself(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
    told = access.no_connection(path, errno.EACCES)
    os.unlink(path)
    assert told.endswith(f"sudo chmod g+w {path}")


@pytest.mark.need("root", "uid65534")
def test_nobody_is_told_to_join_the_group_of_root(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
    let_in(tmp_path)
    told = []
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        told.append(access.no_connection(path, errno.EACCES))
        os._exit(0 if told == [f"{path} is root's alone: sudo chgrp helperd {path}"] else 1)
    status = os.waitpid(child, 0)[1]
    os.unlink(path)
    assert status == 0


def test_what_one_has_is_not_lacking() -> None:
    mine = [name for name in ("tty", "daemon") if access.Accounts().group(name) in os.getgroups()]
    assert access.lacks(replace(HELPER, groups=tuple(mine))) == ""
    assert access.lacks(replace(HELPER, groups=("nosuchgroup",))) == "", "an offer's group that is not here"
    words = access.lacks(replace(HELPER, capabilities=("mac_admin", "net_raw")))
    status = Path("/proc/self/status").read_text()
    permitted = int(status.partition("CapPrm:")[2].split()[0], 16)
    wanted = [name for name in ("mac_admin", "net_raw") if not permitted >> config.CAPABILITIES[name] & 1]
    assert words == ", ".join(wanted)
