"""What the tests' own measure of started processes finds is what coverage finds."""

import os
import subprocess
import sys
from pathlib import Path

import coverage
import pytest

from tests import cover

PROGRAMS = {
    "a command": ["-m", "helperd.cli", "check", "config/helpers.toml"],
    "a refusal": ["-m", "helperd.cli", "check", "/nowhere"],
    "threads": ["-m", "helperd.helpers", "pcapfile", "--list"],
}


def arcs(data: coverage.CoverageData) -> dict[str, set[tuple[int, int]]]:
    own = [name for name in data.measured_files() if not name.startswith(cover.GENERATED)]
    return {name: set(found) for name in own if (found := data.arcs(name))}


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_light_measure_finds_what_coverage_finds(program: str, root: Path, tmp_path: Path) -> None:
    words = PROGRAMS[program]
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")} | {
        "COVERAGE_CORE": "ctrace"
    }
    light = tmp_path / "light"
    light.mkdir()
    whole = tmp_path / "whole"
    run = [
        sys.executable,
        "-m",
        "coverage",
        "run",
        "--branch",
        f"--source={root / 'helperd'}",
        f"--data-file={whole}",
    ]
    for command in ([sys.executable, cover.HERE, str(light), *words], [*run, *words]):
        subprocess.run(
            command, cwd=root, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
        )
    cover.gather(str(light))
    found: dict[str, set[tuple[int, int]]] = {}
    for name in light.glob(".coverage.*"):
        data = coverage.CoverageData(str(name))
        data.read()
        for file, those in arcs(data).items():
            found.setdefault(file, set()).update(those)
    expected = coverage.CoverageData(str(next(tmp_path.glob("whole*"))))
    expected.read()
    assert found == arcs(expected)
    assert sum(map(len, found.values())) > 300
