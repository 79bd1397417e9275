"""A session at the shell, read from top to bottom: what a member of the group sees, and what an admin does.

The two users are a uid without any privilege, once in the group of the sockets and once in the admins' group as well.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rig import ROOT, Rig, daemon

NOBODY, READERS, ADMINS = 65534, 65531, 65532
CONFIG = f"""
[helperd]
socket_group = "{READERS}"
admin_group = "{ADMINS}"

[[helper]]
name = "synthetic"
command = ["builtin:synthetic"]
types = ["synthetic"]

[[source]]
definition = 'radio0:type=synthetic,rate=500,channels="1,6,11"'

[[source]]
definition = 'radio1:type=synthetic,rate=500,channels="36"'
start = "manual"
"""
HELPERD = """#!{python}
import importlib, os, sys
sys.path[:0] = [{root!r}]
import curses, difflib, getpass, gettext, grp, json, locale, pwd, select, shutil, signal, socket, textwrap
from helperd.cli.commands import COMMANDS
from helperd.cli import parser
from helperd.cli.front import main
next(command for command in COMMANDS if command.name == sys.argv[1]).load()
os.setgroups({groups})
os.setresgid(*[{nobody}] * 3)
os.setresuid(*[{nobody}] * 3)
sys.exit(main())
"""


class Shell:
    """A user's shell; `helperd` in it is a program that has that user's uid and groups."""

    def __init__(self, folder: Path, runtime: Path, groups: list[int]) -> None:
        folder.mkdir()
        program = folder / "helperd"
        text = HELPERD.format(python=sys.executable, root=str(ROOT), groups=groups, nobody=NOBODY)
        program.write_text(text)
        program.chmod(0o755)
        self.home = folder / "home"
        self.home.mkdir()
        self.home.chmod(0o777)
        path = f"{folder}:{os.environ['PATH']}"
        self.environment = {
            "PATH": path,
            "HOME": str(self.home),
            "RUNTIME_DIRECTORY": str(runtime),
            "LC_ALL": "C.UTF-8",
        }

    def run(self, line: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self.home, env=self.environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == status, f"$ {line}\n{done.stdout}{done.stderr}[{done.returncode}]"
        assert "Traceback" not in done.stderr
        return done

    def says(self, line: str) -> str:
        """What a command prints that is to succeed."""
        return self.run(line).stdout

    def json(self, line: str) -> Any:
        return json.loads(self.says(line))

    def refused(self, line: str, status: int) -> str:
        """The one line that a command which is to fail says, and nothing else."""
        done = self.run(line, status)
        assert done.stdout == ""
        (said,) = done.stderr.splitlines()
        return said


@pytest.fixture
def rig(rundir: Path) -> Iterator[Rig]:
    rundir.chmod(0o755)
    before = os.getgroups()
    if os.geteuid() == 0:
        os.setgroups([*before, READERS])  # without capabilities a daemon gives sockets to its own groups only
    try:
        with daemon(rundir, CONFIG) as running:
            running.wait_running("radio0")
            yield running
    finally:
        if os.geteuid() == 0:
            os.setgroups(before)


@pytest.mark.need("root", "uid65534", "tshark")
def test_a_member_of_the_group_looks_and_reads(rig: Rig, rundir: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    me = Shell(rundir / "reader", rundir, [READERS])

    said = me.says("helperd status")
    assert "1 of 2 sources running" in said
    assert "radio0" in said
    assert "radio1" in said

    said = me.says("helperd status radio0")
    assert "definition:    radio0:type=synthetic" in said

    assert me.json("helperd status --json")["health"] == "ok"
    assert me.json("helperd status radio1 --json")["sources"][0]["state"] == "down"

    said = me.says("helperd list")
    assert "radio0" in said
    assert any(row["in_use"] == "radio0" for row in me.json("helperd list --json")["devices"])

    assert "synthetic" in me.says("helperd probe radio3:type=synthetic")

    done = me.run("helperd tap radio0 -w radio0.pcapng -c 100")
    assert done.stderr == "File: radio0.pcapng\nPackets captured: 100\n"
    assert "100" in me.says("capinfos -c -M radio0.pcapng")

    assert me.says("helperd tap --all -q | tshark -r - -c 20 -T fields -e frame.number").split() == [
        str(number) for number in range(1, 21)
    ]
    me.says("helperd messages radio0")
    me.says("helperd wait --running radio0")

    for line in (
        "helperd start radio1",
        "helperd start radio3:type=synthetic",
        "helperd stop radio0",
        "helperd pause radio0",
        "helperd resume radio0",
        "helperd restart radio0",
        "helperd channel radio0 6",
        "helperd hop radio0",
        "helperd reload",
    ):
        said = me.refused(line, 77)
        assert said.startswith("helperd: not-permitted: uid 65534 may look, but not change")
        assert said.endswith(f"that is for root and members of the group '{ADMINS}'")

    assert "did you mean 'radio" in me.refused("helperd status radio", 64)
    assert "did you mean 'radio0'?" in me.refused("helperd tap rdio0 -w x", 64)
    assert "type 'nothing'" in me.refused("helperd probe nothing:type=nothing", 64)
    assert me.refused("helperd wait --stopped radio0 --timeout 100ms", 1)

    stranger = Shell(rundir / "stranger", rundir, [])
    said = stranger.refused("helperd status", 77)
    assert f"for group {READERS}, which has no name here" in said


@pytest.mark.need("root", "uid65534")
def test_an_admin_has_every_verb(rig: Rig, rundir: Path) -> None:
    admin = Shell(rundir / "admin", rundir, [READERS, ADMINS])

    said = admin.says("helperd start radio1")
    assert said.startswith("radio1: running")
    admin.says("helperd wait --running radio0 radio1")

    assert admin.says("helperd channel radio0 6") == "radio0: running, channel 6\n"
    assert admin.json("helperd status radio0 --json")["sources"][0]["channel"] == "6"
    assert "radio0: running" in admin.says("helperd hop radio0 1 11 --rate 5")
    assert "radio0: running" in admin.says("helperd hop radio0")
    assert "99" in admin.refused("helperd channel radio0 99", 1)

    assert "paused" in admin.says("helperd pause radio0")
    assert admin.json("helperd status radio0 --json")["sources"][0]["paused"] is True
    assert "paused" not in admin.says("helperd resume radio0")

    before = admin.json("helperd status radio0 --json")["sources"][0]
    admin.says("helperd restart radio0")
    after = admin.json("helperd status radio0 --json")["sources"][0]
    assert after["pid"] != before["pid"]
    assert after["incarnation"] > before["incarnation"]

    assert admin.says("helperd start radio3:type=synthetic").startswith("radio3: running")
    assert "radio3" in admin.says("helperd status")
    admin.says("helperd tap radio3 radio0 -w both.pcapng -c 50 -q")
    assert "radio3: down" in admin.says("helperd stop radio3")
    done = admin.run("helperd stop radio0 radio1 nothing", 64)
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["radio0", "radio1"]
    assert "unknown-source" in done.stderr
    admin.says("helperd wait --stopped radio0 radio1")
    done = admin.run("helperd tap radio0 -w none.pcapng -a duration:0.2")
    assert "radio0: down" in done.stderr
    assert "Packets captured: 0" in done.stderr

    config = rundir / "helpers.toml"
    config.write_text(CONFIG + "[[source]]\ndefinition = 'radio2:type=synthetic'\n")
    assert "radio2" in admin.says("helperd reload")
    admin.says("helperd wait --running radio2")
    config.write_text(CONFIG + "[[source]]\ndefinition = 'radio8:type=sythetic'\n")
    done = admin.run("helperd reload", 78)
    assert "synthetic" in done.stderr
    assert "radio2" in admin.says("helperd status"), "a refused file changes nothing"
    assert f"uid {NOBODY}" not in admin.says(shlex.join(["helperd", "messages"]))
