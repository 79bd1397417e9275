"""The benchmark command runs, its producer and its consumer agree to the packet, and a fault gives no figure."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import __main__ as benchmark
from benchmarks import baselines, crowd, growth, path, price
from benchmarks.measure import Bench, Case, Figure
from tests.attack.stage import interpreter

SECONDS = 0.03


@pytest.fixture
def bench(need: Callable[..., None], tmp_path: Path) -> Bench:
    need("gcc")
    return Bench(tmp_path, seconds=SECONDS, long_s=0.2)


def test_one_command_prints_one_table(need: Callable[..., None], root: Path, tmp_path: Path) -> None:
    need("gcc")
    argv = [sys.executable, "-m", "benchmarks", "--quick", "--seconds=0.03", "--size=128", "--case=cat"]
    for _ in range(2):
        command = [*argv, f"--json={tmp_path / 'rows'}", f"--add={tmp_path / 'all'}"]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=60)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["medians;", "path", "cat"]
    [row] = json.loads((tmp_path / "rows").read_text())["cases"]
    assert (row["case"], row["rounds"], row["fault"], row["to_cat"]) == ("cat", 2, None, 1.0)


@pytest.mark.parametrize("size", [128, 1400])
def test_the_baselines_lose_nothing(bench: Bench, size: int) -> None:
    bench.size = size
    for command in ((), ("cat",)):
        drained, _ = baselines.hop(bench, command)
        assert drained.whole().packets == drained.total > 0


@pytest.mark.parametrize(
    ("form", "sink"), [("v3", "pcapng"), ("v2", "frames"), ("trusted", "frames"), ("bulk", "frames")]
)
def test_every_kind_of_producer_is_counted_to_the_packet(bench: Bench, form: str, sink: str) -> None:
    with path.running(bench) as daemon:
        drained, cost = path.run(daemon, [path.definition(bench, form)], sink)
    assert drained.packets == drained.total > 0
    assert cost > 0


def test_sources_consumers_and_those_that_stand_still_are_counted_to_the_packet(bench: Bench) -> None:
    assert crowd.sources(bench, count=3, rate=100).more["% of a core"] > 0
    assert crowd.consumers(bench, count=2).more["x one consumer"] > 0
    assert crowd.memory(bench, count=2, full=True).rss_mb
    crowd.framewise(bench, sink="pcapng")
    assert growth.share(bench, rate=20_000, sources=2, consumers=2) > 0


def test_a_bundled_helper_alone_is_counted_to_the_packet(bench: Bench) -> None:
    path.pcapfile_alone(bench)


def test_the_plot_has_a_bar_for_each_and_the_longest_fills_it() -> None:
    assert growth.plot({1: 10.0, 1000: 20.0}) == [
        f"        1 | {'#' * 25}{' ' * 25}  10.0 %",
        f"    1,000 | {'#' * 50}  20.0 %",
    ]


def test_a_case_that_fails_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    def broken(_: object) -> Figure:
        raise RuntimeError("no such luck")

    cases = [
        Case("cat", lambda _: Figure(200.0, 1.0)),
        Case("broken", broken),
        Case("absent", broken, ("no-such-program",)),
        Case("half", lambda _: Figure(100.0, 1.0)),
        Case("too short for a rate", lambda _: Figure()),
    ]
    runs, faults = benchmark.measure(cases, Bench(tmp_path), [128], rounds=3)
    assert faults == {"broken @128": "failed: no such luck", "absent @128": "not installed: no-such-program"}
    rows = {row["case"]: row for row in benchmark.summarise(runs, faults)}
    assert rows["half"]["to_cat"] == 0.5
    assert rows["half"]["packets_per_s"] == 100
    assert rows["too short for a rate"]["packets_per_s"] is None
    assert "(failed: no such luck)" in benchmark.table(list(rows.values()))


def test_a_case_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        benchmark.main(["--case=nonsense"])
    assert caught.value.code == 2
    assert "there are: cat, producer straight" in capsys.readouterr().err


def test_every_guarantee_that_has_a_price_is_there(root: Path) -> None:
    for name, steps in price.GUARANTEES.items():
        for step in steps:
            text = (root / "helperd" / step.file).read_text()
            assert step.old in text, name
            compile(text.replace(step.old, step.new, 1), name, "exec")


def test_a_launch_has_its_prices() -> None:
    words = [[0.5, 4.0], [20.0, 30.0], [3.0, 9.0]]
    lines = price.table({"all": words, "limits": [[0.25, 4.0], [20.5, 30.0], [3.0, 9.0]]}).splitlines()
    assert lines[2].split() == ["limits", "0.25", "+0.25", "4.00", "20.50", "-0.50", "3.00", "+0.00"]


@pytest.mark.need("root", "netns", "mountns", "seccomp", "ip")
def test_launches_are_measured_without_each_guarantee(root: Path) -> None:
    if not interpreter():
        pytest.skip("no Python of this version that any user may execute")
    argv = [sys.executable, "benchmarks/privsep.py", "--price", "5", "--rounds=1"]
    done = subprocess.run(argv, cwd=root, capture_output=True, text=True, check=True, timeout=120)
    assert len(done.stdout.splitlines()) == len(price.GUARANTEES) + 2


def test_the_benchmark_of_launches_says_how_it_is_asked(root: Path) -> None:
    argv = [sys.executable, "benchmarks/privsep.py", "--help"]
    done = subprocess.run(argv, cwd=root, capture_output=True, text=True, check=True, timeout=60)
    assert "--price" in done.stdout
