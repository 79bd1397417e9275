"""A minute of the soak, and small runs of the other measurements of supervision: they work, and find nothing wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def run(root: Path, *words: str, timeout: float) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=root, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(150)
def test_a_minute_of_trouble_loses_no_packet_and_leaves_nothing(root, tmp_path):
    file = tmp_path / "soak.json"
    told = run(root, "benchmarks.soak", "--minutes=1", "--helpers=20", f"--json={file}", timeout=140)
    print(told)
    found = json.loads(file.read_text())
    assert found["fault_count"] >= 50
    assert found["consumer_got"] > 0


@pytest.mark.timeout(300)
def test_half_a_minute_of_a_year(root, tmp_path):
    """The whole: `python -m benchmarks.year --minutes 60`."""
    file = tmp_path / "year.json"
    told = run(root, "benchmarks.year", "--minutes=0.5", f"--json={file}", timeout=280)
    print(told)
    found = json.loads(file.read_text())
    assert found["kinds"] >= 40
    assert found["happened"] >= 5
    assert found["on_disk"] == found["delivered_to_files"] > 0


def test_nobody_who_is_well_is_judged(root, tmp_path):
    """The calm of ten minutes, in a third of one; the whole: `python -m benchmarks.verdicts`."""
    file = tmp_path / "verdicts.json"
    words = ["--times=0", "--minutes=0.3", "--helpers=12", "--hogs=8", f"--json={file}"]
    print(run(root, "benchmarks.verdicts", *words, timeout=100))
    found = json.loads(file.read_text())
    assert found["judged"] == 0
    assert found["late_beats"] >= 1, "the supervisor was stopped, and has not noticed"


def test_killed_helpers_come_back(root, tmp_path):
    file = tmp_path / "restart.json"
    words = ["--kills=3", "--helpers=10", "--loops=5", "--loop-seconds=2", f"--json={file}"]
    subprocess.run([sys.executable, "-m", "benchmarks.restart", *words], cwd=root, check=False, timeout=90)
    found = json.loads(file.read_text())
    assert found["python_p50_ms"] > 0
    assert found["starts_30s_max"] <= 6


def test_the_footprint_is_measured(root, tmp_path):
    file = tmp_path / "footprint.json"
    words = ["--helpers=8", "--seconds=1", f"--json={file}"]
    subprocess.run([sys.executable, "-m", "benchmarks.footprint", *words], cwd=root, check=False, timeout=60)
    found = json.loads(file.read_text())
    assert found["running"] == 8
    assert found["fds_per_helper"] <= 6.0
    assert found["launcher_mb"] <= (17 if sys.version_info < (3, 14) else 19)
