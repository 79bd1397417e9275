"""The shell completions, asked as the shells ask them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

COMPLETIONS = Path(__file__).resolve().parent.parent / "completions"


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    (tmp_path / "sources").mkdir()
    for name in ("roof.sock", "radio0.sock", "roof.jsonl.sock"):
        (tmp_path / "sources" / name).touch()
    return tmp_path


def bash(runtime: Path, *words: str) -> list[str]:
    """What Tab offers behind these words; the last one is being typed."""
    script = (
        f'source {COMPLETIONS}/helperd.bash; compopt() {{ :; }}; COMP_WORDS=(helperd "$@"); COMP_CWORD=$#; '
    )
    script += '_helperd; printf "%s\\n" "${COMPREPLY[@]}"'
    environ = {**os.environ, "RUNTIME_DIRECTORY": str(runtime)}
    done = subprocess.run(
        ["bash", "-c", script, "bash", *words],
        capture_output=True,
        text=True,
        check=True,
        cwd=runtime,
        env=environ,
    )
    assert done.stderr == ""
    return sorted(done.stdout.split())


def test_bash_completes_commands_options_files_and_live_sources(runtime: Path) -> None:
    assert "status" in bash(runtime, "st")
    assert "--version" in bash(runtime, "--")
    assert bash(runtime, "check", "--j") == ["--json"]
    assert bash(runtime, "status", "r") == ["radio0", "roof"]
    assert bash(runtime, "restart", "roof", "ra") == ["radio0"]
    assert bash(runtime, "wait", "--running", "ro") == ["roof"]
    assert bash(runtime, "run", "-c", "sou") == ["sources"]
    assert bash(runtime, "run", "--runtime-dir", "s") == ["sources"]
    assert bash(runtime, "probe", "x") == []


def test_bash_offers_nothing_where_no_daemon_runs(tmp_path: Path) -> None:
    (tmp_path / "sources").mkdir()
    assert bash(tmp_path, "status", "") == []


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
def test_zsh_reads_its_file() -> None:
    done = subprocess.run(
        ["zsh", "-n", str(COMPLETIONS / "_helperd")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
def test_fish_completes_commands_and_live_sources(runtime: Path) -> None:
    def offered(line: str) -> list[str]:
        script = f"source {COMPLETIONS}/helperd.fish; complete -C '{line}'"
        environ = {**os.environ, "RUNTIME_DIRECTORY": str(runtime), "HOME": str(runtime)}
        done = subprocess.run(["fish", "-c", script], capture_output=True, text=True, check=True, env=environ)
        return sorted(row.partition("\t")[0] for row in done.stdout.splitlines())

    assert "status" in offered("helperd st")
    assert offered("helperd status r") == ["radio0", "roof"]
