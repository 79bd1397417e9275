"""The fixtures that every test relies on: what is left behind is seen, named and ended; skips are heard."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ability, census

LEAKY = """
import os, socket, subprocess, sys, time
import pytest

KEPT = []

def test_orphan_of_a_child():
    text = "import os; os.fork() or (os.setsid(), os.execvp('sleep', ['sleep', '97']))"
    subprocess.run([sys.executable, "-I", "-S", "-c", text], check=True)

def test_process():
    KEPT.append(subprocess.Popen(["sleep", "98"]))

def test_fd():
    KEPT.append(os.pipe())

def test_socket_file(tmp_path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "left.sock"))

def test_socket_in_rundir(rundir):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(rundir / "left.sock"))

def test_failure_keeps_its_own_words():
    os.dup(0)
    assert 1 == 2

def test_clean(tmp_path, rundir):
    subprocess.run(["true"], check=True)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(rundir / "gone.sock"))
    (rundir / "gone.sock").unlink()

def test_orphan_that_ends_soon_enough():
    text = "import os; os.fork() or (os.setsid(), os.execvp('sleep', ['sleep', '0.1']))"
    subprocess.run([sys.executable, "-I", "-S", "-c", text], check=True)

def test_skip(need):
    need("no-machine-has-this")

@pytest.mark.need("no-machine-has-this")
def test_skip_by_mark():
    raise AssertionError

def test_misspelt(need):
    need("nettns")
"""
PLUGIN = """
from tests import ability, census
ability.PROBES["no-machine-has-this"] = lambda: "it is a test"
census.GRACE = 0.7
"""


def run(folder: Path, root: Path, **environment: str) -> tuple[dict[str, str], str]:
    (folder / "test_leaky.py").write_text(LEAKY)
    (folder / "lacks.py").write_text(PLUGIN)
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        str(root / "pyproject.toml"),
        "--rootdir",
        str(root),
        "-v",
        "-rA",
    ]
    argv += ["-p", "tests.conftest", "-p", "lacks", "-p", "no:cacheprovider", str(folder / "test_leaky.py")]
    paths = os.pathsep.join((str(root), str(folder)))
    env = {**os.environ, "PYTHONPATH": paths, "HELPERD_TEST_REQUIRE": "", **environment}
    done = subprocess.run(argv, env=env, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    verdicts: dict[str, str] = {}
    for verdict, name in re.findall(r"^(PASSED|FAILED|ERROR|SKIPPED) \S+::(\w+)", done.stdout, re.MULTILINE):
        verdicts[name] = "ERROR" if "ERROR" in (verdict, verdicts.get(name)) else verdict
    return verdicts, done.stdout + done.stderr


def test_what_is_left_behind_fails_the_test_that_left_it(tmp_path: Path, root: Path) -> None:
    verdicts, text = run(tmp_path, root)
    assert verdicts == {
        "test_orphan_of_a_child": "ERROR",
        "test_process": "ERROR",
        "test_fd": "ERROR",
        "test_socket_file": "ERROR",
        "test_socket_in_rundir": "ERROR",
        "test_failure_keeps_its_own_words": "FAILED",
        "test_clean": "PASSED",
        "test_orphan_that_ends_soon_enough": "PASSED",
        "test_misspelt": "FAILED",
    }, text
    assert ": sleep 97" in text
    assert ": sleep 98" in text
    assert re.search(r"fd \d+ -> pipe:", text)
    assert text.count("left.sock") >= 2
    assert "2 tests skipped: needs no-machine-has-this: it is a test" in text
    assert "no such ability; known: " in text
    assert not [proc for proc in census.descendants() if "sleep 9" in census.command(proc)]


def test_what_is_required_fails_instead_of_being_skipped(tmp_path: Path, root: Path) -> None:
    verdicts, text = run(tmp_path, root, HELPERD_TEST_REQUIRE="all")
    assert verdicts["test_skip"] == "FAILED", text
    assert verdicts["test_skip_by_mark"] in {"FAILED", "ERROR"}, text
    assert "required here, but lacking: no-machine-has-this (it is a test)" in text


def test_a_required_word_that_does_not_exist_is_refused(tmp_path: Path, root: Path) -> None:
    _, text = run(tmp_path, root, HELPERD_TEST_REQUIRE="root,nettns")
    assert "HELPERD_TEST_REQUIRE: nettns is no ability" in text


def test_descendants_are_found_with_and_without_the_kernels_list(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["sleep", "96"]) as child:
        assert [proc.pid for proc in census.descendants()] == [child.pid]
        exists = os.path.exists
        monkeypatch.setattr(
            os.path, "exists", lambda path: not str(path).endswith("/children") and exists(path)
        )
        assert [proc.pid for proc in census.descendants()] == [child.pid]
        child.kill()


@pytest.mark.parametrize("word", sorted(ability.PROBES))
def test_every_probe_gives_an_answer_in_one_line(word: str) -> None:
    reason = ability.lacking(word)
    assert reason is None or (reason and "\n" not in reason)
