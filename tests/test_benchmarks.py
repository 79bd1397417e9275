"""The benchmark command runs, and its figures are about the bytes it says they are about."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import __main__ as benchmark
from benchmarks import baselines
from benchmarks.measure import Case, Figure
from benchmarks.workload import make


def test_one_command_prints_one_table(root: Path, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "benchmarks", "--packets=500", "--rounds=2", "--case=cat"]
    argv += [f"--json={tmp_path / 'figures.json'}"]
    done = subprocess.run(argv, cwd=root, capture_output=True, text=True, check=True, timeout=60)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["500", "case", "cat"]
    [row] = json.loads((tmp_path / "figures.json").read_text())["cases"]
    assert (row["case"], row["rounds"], row["fault"], row["to_cat"]) == ("cat", 2, None, 1.0)


def test_the_two_files_hold_the_same_packets(need: Callable[..., None], tmp_path: Path) -> None:
    need("tshark")
    workload = make(tmp_path, packets=300, size=None)
    fields = ["-T", "fields", "-e", "frame.time_epoch", "-e", "frame.len", "-e", "frame.md5_hash"]
    hashing = ["-o", "frame.generate_md5_hash:TRUE"]
    seen = [
        subprocess.run(
            ["tshark", "-r", str(path), *hashing, *fields], capture_output=True, text=True, check=True
        ).stdout
        for path in (workload.pcap, workload.pcapng)
    ]
    assert seen[0] == seen[1]
    assert len(seen[0].splitlines()) == 300
    assert sum(int(line.split("\t")[1]) for line in seen[0].splitlines()) == workload.nbytes


@pytest.mark.parametrize("case", baselines.CASES, ids=lambda case: case.name)
def test_the_baselines_lose_nothing(case: Case, need: Callable[..., None], tmp_path: Path) -> None:
    if "dumpcap" in case.programs:
        need("dumpcap")
    workload = make(tmp_path, packets=2000, size=200)
    figure = case.run(workload)
    assert (figure.packets, figure.nbytes) == (2000, 400_000)
    assert figure.seconds > 0


def test_a_case_that_fails_or_loses_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    workload = make(tmp_path, packets=100, size=100)

    def broken(_: object) -> Figure:
        raise RuntimeError("no such luck")

    cases = [
        Case("cat", lambda _: Figure(0.5, 100, 10_000)),
        Case("broken", broken),
        Case("leaky", lambda _: Figure(1.0, 99, 9_900)),
        Case("absent", broken, ("no-such-program",)),
        Case("half", lambda _: Figure(1.0, 100, 10_000)),
    ]
    figures, faults = benchmark.measure(cases, workload, rounds=3)
    assert faults == {
        "broken": "failed: no such luck",
        "leaky": "lost 1 of 100 packets",
        "absent": "not installed: no-such-program",
    }
    rows = {row["case"]: row for row in benchmark.summarise(figures, faults)}
    assert rows["half"]["to_cat"] == 0.5
    assert rows["half"]["packets_per_s"] == 100
    assert "(lost 1 of 100 packets)" in benchmark.table(list(rows.values()))


def test_a_case_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        benchmark.main(["--case=nonsense"])
    assert caught.value.code == 2
    assert "there are: cat, dumpcap -i -" in capsys.readouterr().err
