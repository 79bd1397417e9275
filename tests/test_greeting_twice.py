"""A helper of generation v0 is started twice to be greeted: that is no restart, and is done once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import HANGS_S
from tests.rig import HELPERD, ROOT, daemon

PEER = ROOT / "tests" / "peers" / "any_helper.py"
HELPER = f"""
[[helper]]
name = "old"
command = {json.dumps([sys.executable, str(PEER), "v0"])}
types = ["old"]
env = {{ STRICT = "1" }}
"""
SOURCE = '[[source]]\nname = "a"\ndefinition = "x:type=old,packets=5,size=60"\n'


@pytest.mark.parametrize(
    "policy",
    [
        'restart = "permanent"',
        'restart = "transient"',
        'restart = "temporary"',
        "give_up = true\nintensity = 1",
    ],
)
def test_it_runs_after_its_second_start_whatever_the_policy(rundir: Path, policy: str) -> None:
    with daemon(rundir, HELPER + SOURCE + policy + "\n") as rig:
        [row] = rig.wait_running()["sources"]
        assert (row["generation"], row["incarnation"], row["restarts"]) == ("v0", 2, 0)
        rig.call("Stop", source="a")
        again = rig.call("Start", source="a")["source"]
        assert (again["state"], again["incarnation"]) == ("running", 3), "it is remembered"


def test_it_is_remembered_for_every_source_and_question(rundir: Path) -> None:
    with daemon(rundir, HELPER) as rig:
        assert rig.call("Probe", definition="x")["helper"] == "old"
        for name in ("a", "b"):
            row = rig.call("AddSource", definition=f"{name}0:type=old", name=name)["source"]
            assert (row["state"], row["generation"], row["incarnation"]) == ("running", "v0", 1)


def test_each_start_has_the_time_of_one(rundir: Path) -> None:
    """One that is slow to start is not said to have failed because its first start was of no use."""
    slow = json.dumps(["/bin/sh", "-c", 'sleep 2.2; exec "$0" "$@"', sys.executable, str(PEER), "v0"])
    text = HELPER.replace(HELPER.splitlines()[3], f"command = {slow}")
    with daemon(rundir, text + 'probe_timeout = "4s"\n') as rig:
        assert rig.call("Probe", definition="x")["helper"] == "old"


def test_another_file_is_greeted_anew(rundir: Path) -> None:
    script = rundir / "helper.py"
    script.write_text(
        PEER.read_text().replace("Path(__file__).resolve().parent.parent.parent", repr(str(ROOT)))
    )
    text = HELPER.replace(str(PEER), str(script))
    with daemon(rundir, text) as rig:
        assert rig.call("AddSource", definition="x:type=old", name="a")["source"]["incarnation"] == 2
        script.write_text(script.read_text() + "# a new version\n")
        assert rig.call("AddSource", definition="y:type=old", name="b")["source"]["incarnation"] == 2


@pytest.mark.parametrize("definition", ["x:type=old,packets=5,size=60", "x:packets=5,size=60"])
def test_one_is_captured_from(rundir: Path, definition: str) -> None:
    (rundir / "helpers.toml").write_text(HELPER)
    argv = [
        *HELPERD,
        "capture",
        "--config",
        str(rundir / "helpers.toml"),
        "-c",
        "5",
        "-w",
        str(rundir / "out"),
    ]
    done = subprocess.run(
        [*argv, definition], capture_output=True, text=True, timeout=HANGS_S, check=False, cwd=ROOT
    )
    assert (done.returncode, done.stderr.count("Packets captured: 5")) == (0, 1), done.stderr
