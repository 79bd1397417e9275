"""Escalations, exactness, kills and fuzz as root, in namespaces of their own; the tables are printed (one of all attempts by `sudo python -m tests.attack`).

Deep runs: HELPERD_HYPOTHESIS=deep and -o faulthandler_timeout=0 (10,000 profiles, 10^7 parsed requests, 10^6 packets and
10^6 messages to the control socket, in which root waits for less than a second); HELPERD_SEED=N for others than the first.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.attack import abuse, crowd, foreign, stage
from tests.attack.__main__ import table
from tests.attack.scenes import SCENES
from tests.patience import HANGS_S

SEED = os.environ.get("HELPERD_SEED", "1")
DEEP = os.environ.get("HELPERD_HYPOTHESIS") == "deep"
pytestmark = [
    pytest.mark.need("root", "netns", "mountns", "uid65534", "seccomp", "landlock", "ip"),
    pytest.mark.timeout(0 if DEEP else 900),
    pytest.mark.skipif(
        not stage.interpreter(),
        reason="no Python of this version that any user may execute (is it in root's home?)",
    ),
]


@pytest.mark.parametrize("default", ["own", "package"])
def test_no_escalation_succeeds_and_each_works_in_a_weaker_set_up(default):
    rows = stage.run("suite", default, timeout=600)
    for row in rows:
        print(f"{row['position']:11} {row['name']:36} {row['how']:40.40} control: {row['control']:.40}")
    print(table(rows))
    places = {"stranger", "reader", "allowed", "supervisor", "helper", "sealed"}
    places |= {"member"} if default == "own" else set()
    assert {row["position"] for row in rows} == places
    assert len(rows) >= 500
    assert [row for row in rows if row["worked"]] == []
    assert sum(row["live"] for row in rows) >= 0.9 * len(rows)


def test_what_the_kernel_reports_is_what_was_declared_for_random_profiles():
    count = 10_000 if DEEP else 1000
    rows = stage.run("exact", str(count), "7", timeout=800)
    assert rows == [{"profiles": count}]


def killed(mode: str, count: int) -> None:
    """Kill hostile helpers; a time that a busy machine spoils is taken once more, a survivor never."""
    p99 = []
    for _ in range(2):
        (row,) = stage.run("hostile", str(count), mode, timeout=300)
        print(row)
        assert row["kills"] >= count
        assert row["survivors"] == 0
        p99.append(row["p99_ms"])
        if p99[-1] <= 250:
            return
    raise AssertionError(f"p99 {p99} ms, load {os.getloadavg()}")


@pytest.mark.parametrize(("mode", "count"), [("root", 1000), ("weak", 500)])
def test_nothing_is_left_of_killed_hostile_helpers(mode, count):
    killed(mode, count)


@pytest.mark.need("cgroup2")
def test_nothing_is_left_of_killed_hostile_helpers_with_a_cgroup_each():
    killed("cgroup", 140)


def unchanged(row: dict[str, Any]) -> None:
    """Nothing has failed, nothing has grown, and root was served all the time."""
    print(row)
    assert not row["traceback"], row["log"]
    assert row["after"][0] <= row["before"][0] + 2, "descriptors, but for a question under way"
    assert row["after"][1] - row["before"][1] <= 1024, "KiB of memory"
    assert row["root_times"] > 0
    assert row["root_s"] < (1.0 if DEEP else HANGS_S), "root waited"


@pytest.mark.need("pids")
def test_nothing_is_left_of_helpers_that_have_all_processes_there_can_be():
    (row,) = stage.run("hostile", "1000" if DEEP else "32", "full", timeout=800)
    print(row)
    assert row["kills"] >= 32
    assert row["survivors"] == 0
    assert row["p99_ms"] <= 250 or not DEEP, f"load {os.getloadavg()}"


def test_random_requests_change_nothing():
    parsed, sent = (10_000_000, 1_000_000) if DEEP else (500_000, 8000)
    first, second = stage.run("fuzz", str(parsed), str(sent), SEED, timeout=None if DEEP else 800)
    print(first)
    assert first["parsed"] == parsed
    assert second["works"]
    unchanged(second)


def test_random_messages_of_64_users_change_nothing():
    (row,) = stage.run("questions", "1000000" if DEEP else "20000", SEED, timeout=None if DEEP else 800)
    unchanged(row)
    assert row["health"] == {"health": "ok", "troubles": []}


ELSEWHERE = {"delegated": "cgroup2", "no_process_left": "pids", "none_to_take": "pids"}


@pytest.mark.parametrize("name", [name for name in SCENES if name not in {"subuids", *ELSEWHERE}])
def test_scene(name):
    (row,) = stage.run("scenes", name)
    assert row == {"scene": name, "wrong": []}


@pytest.mark.need("userns")
def test_scene_of_a_user_with_many_uids():
    assert stage.run("scenes", "subuids") == [{"scene": "subuids", "wrong": []}]


@pytest.mark.parametrize("name", ELSEWHERE)
def test_scene_in_a_cgroup(name, need):
    need(ELSEWHERE[name])
    assert stage.run("scenes", name) == [{"scene": name, "wrong": []}]


@pytest.mark.parametrize("name", list(foreign.STATES))
def test_foreign_descriptors(name):
    (row,) = stage.run("foreign", name)
    if "skipped" in row:
        pytest.skip(row["skipped"])
    assert row == {"scene": name, "wrong": []}


@pytest.mark.parametrize(
    ("module", "name"),
    [("abuse", name) for name in abuse.SCENES]
    + [("foreign", name) for name in foreign.SCENES]
    + [pytest.param("crowd", name, marks=pytest.mark.need("userns")) for name in crowd.SCENES],
)
def test_abuse(module, name):
    (row,) = stage.run(module, name)
    if "skipped" in row:
        pytest.skip(row["skipped"])
    assert "raised" not in row, row
    counts = {word: len(row[word]) for word in ("attempts", "live", "succeeded")}
    print(f"{name}: {counts}")
    assert row["succeeded"] == []
    assert row["live"] == row["attempts"]
