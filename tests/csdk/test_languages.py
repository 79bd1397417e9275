"""docs/helpers-in-other-languages.md: each program builds as printed, and the conformance kit finds no fault in it."""

import os
import re
import subprocess

import pytest

from helperd.conformance import table
from helperd.conformance.subject import Subject
from tests.csdk.build import BUILD_S


def printed(root, language):
    page = (root / "docs" / "helpers-in-other-languages.md").read_text()
    [block] = re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return block


BUILDS = {
    "go": ("ticks.go", ["go", "build", "-o", "ticks", "ticks.go"]),
    "rust": ("ticks.rs", ["rustc", "--edition=2021", "-O", "-o", "ticks", "ticks.rs"]),
    "javascript": ("ticks", ["node", "--check", "ticks"]),
}


@pytest.mark.parametrize("language", BUILDS)
def test_it_is_60_lines(root, language):
    """Lines that say something; brackets say nothing."""
    assert len([line for line in printed(root, language).splitlines() if re.search(r"\w", line)]) <= 60


@pytest.mark.timeout(900)
@pytest.mark.parametrize("language", BUILDS)
def test_the_kit_finds_no_fault_in_it(root, language, tmp_path, need):
    need({"go": "go", "rust": "rustc", "javascript": "node"}[language])
    name, build = BUILDS[language]
    (tmp_path / name).write_text(printed(root, language))
    env = {**os.environ, "GOCACHE": str(tmp_path / "cache"), "GO111MODULE": "off", "GOFLAGS": ""}
    done = subprocess.run(
        build, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=BUILD_S, check=False
    )
    assert done.returncode == 0, done.stderr
    (tmp_path / "ticks").chmod(0o755)
    command = (str(tmp_path / "ticks"),) if language != "javascript" else ("node", str(tmp_path / "ticks"))
    found = table.examine(Subject(command, answer_s=20.0, definition="clock:type=ticks"), jobs=6)
    assert [one for one in found if one.verdict == "FAULT"] == []
    untried = {one.check for one in found if one.verdict == "-"}
    assert untried <= {"full-pipe", "bulk"}
