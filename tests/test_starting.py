"""Helpers that end before they begin: told once, with their own last line, and not started again in another dialect."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.rig import daemon

# Each writes a line per start to the file that {starts} names.
BROKEN = {
    "import": (
        f"#!{sys.executable} -IS\nopen({{starts!r}}, 'a').write('x')\nimport nowhere_to_be_found\n",
        "No module named",
    ),
    "syntax": (f"#!/bin/sh\nprintf x >> {{starts}}\nexec {sys.executable} -c 'def'\n", "SyntaxError"),
    "quiet": (
        "#!/bin/sh\nprintf x >> {starts}\nexit 3\n",
        "exited with code 3 before it had read its greeting",
    ),
    "usage": ("#!/bin/sh\nprintf x >> {starts}\necho 'unknown option' >&2; exit 64\n", "unknown option"),
    "missing": (
        "#!/bin/sh\nprintf x >> {starts}\nexec /nowhere/program\n",
        "a program it needs is not installed",
    ),
}
NO_PROGRAM = "it has no #! line, or is not a program for this machine"


def helper(tmp_path: Path, name: str, content: bytes | str | None) -> str:
    """The block of a program with that content; None: a directory."""
    path = tmp_path / name
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(0o755)
    return f'[[helper]]\nname = "{name}"\ncommand = ["{path}"]\ntypes = ["{name}"]\n'


def source(name: str) -> str:
    return f'[[source]]\nname = "{name}"\ndefinition = "x:type={name}"\nrestart = "temporary"\n'


def starts(tmp_path: Path, name: str) -> int:
    return len((tmp_path / f"{name}.starts").read_text())


def test_a_helper_that_ends_before_it_reads_its_greeting_is_started_once(tmp_path: Path) -> None:
    config = ""
    for name, (text, _) in BROKEN.items():
        config += helper(tmp_path, name, text.format(starts=str(tmp_path / f"{name}.starts"))) + source(name)
    with daemon(tmp_path, config) as rig:
        status = rig.wait(lambda now: all(row["exit"] and row["state"] == "down" for row in now["sources"]))
        told = [message["text"] for message in rig.call("GetMessages")["messages"]]
        seen = {row["name"]: row for row in status["sources"]}
        for name in BROKEN:
            assert starts(tmp_path, name) == 1, name
            assert seen[name]["exit"]["problem"] == ("not-installed" if name == "missing" else "exited")
        assert all(sum(words in text for text in told) == 1 for _, words in BROKEN.values()), told
        failed = {row["helper"]: row for row in rig.call("ListDevices")["failed"]}
        for name, (_, words) in BROKEN.items():
            assert starts(tmp_path, name) == 2, name
            assert failed[name]["problem"] == "exited"
            assert words in failed[name]["text"] or name in {"quiet", "missing"}


def test_a_helper_that_has_read_its_greeting_is_still_greeted_in_v0(tmp_path: Path) -> None:
    """As helpers of the first generation do: they end at bytes that they cannot read."""
    told = tmp_path / "told"
    body = f"import os\nwith open({str(told)!r}, 'ab') as file: file.write(os.read(3, 12))\nraise SystemExit(1)\n"
    config = helper(tmp_path, "old", f"#!{sys.executable} -IS\n{body}") + source("old")
    with daemon(tmp_path, config) as rig:
        rig.wait(lambda now: all(row["exit"] and row["state"] == "down" for row in now["sources"]))
    data = told.read_bytes()
    assert data[:8].hex() == "decafbadabcd0002"
    assert data[12:16].hex() == "decafbad"
    assert data[16:20].hex() != "abcd0002"
    assert len(data) == 24


@pytest.mark.parametrize(
    ("content", "problem", "words"),
    [
        (None, "exec-failed", "the program is a directory"),
        ("print('no first line')\n", "exec-failed", NO_PROGRAM),
        (Path("/bin/true").read_bytes()[:18] + b"\xff\xff" + bytes(200), "exec-failed", NO_PROGRAM),
        ("#!/nowhere/python\n", "not-installed", "does not exist"),
        ("#!python3\n", "exec-failed", "#! line names no absolute path"),
        (b"", "exec-failed", NO_PROGRAM),
    ],
)
def test_what_cannot_be_executed_is_told_with_its_reason(
    tmp_path: Path, content: bytes | str | None, problem: str, words: str
) -> None:
    with daemon(tmp_path, helper(tmp_path, "odd", content) + source("odd")) as rig:
        status = rig.wait(lambda now: all(row["exit"] and row["state"] == "down" for row in now["sources"]))
        (row,) = status["sources"]
        assert (row["exit"]["problem"], row["exit"]["kind"]) == (problem, "config")
        assert words in row["exit"]["text"]
        (failed,) = rig.call("ListDevices")["failed"]
        assert (failed["problem"], words in failed["text"]) == (problem, True), failed
