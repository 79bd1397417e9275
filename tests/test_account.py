"""An account outlives its holder: produced = delivered + lost + queued over everything that ever was."""

from __future__ import annotations

import json
import os
import select
import signal
from collections import Counter
from pathlib import Path
from typing import Any

from helperd.ledger import Gone, Ledger, Left
from helperd.routing import Outbox, RouteTable
from helperd.table import lost_before, render
from tests.faults.witness import Reader, balance
from tests.patience import HANGS_S
from tests.rig import Rig, daemon

CONFIG = """
[[helper]]
name = "synthetic"
command = ["builtin:synthetic"]
types = ["synthetic"]
"""
SOURCE = """
[[source]]
name = "{name}"
definition = "{name}:type=synthetic,rate=2000,size=1000"
"""
SINK = """
[[sink]]
path = "slow.sock"
limit = "64KiB"
{more}
"""


def explained(rig: Rig) -> dict[str, Any]:
    """The status, in which nothing is unexplained."""
    status = rig.status()
    assert balance(status) == []
    assert status["residue"] == 0
    return status


def lose(rig: Rig, name: str) -> int:
    """Connect, read nothing until packets are lost, and leave; returns how many were."""
    with rig.connect(name):
        status = rig.wait(lambda status: any(row["lost"] for row in status["consumers"]))
        lost = max(row["lost"] for row in status["consumers"])
        assert lost
    rig.wait(lambda status: not status["consumers"])
    return lost


def left_at(status: dict[str, Any], sink: str) -> dict[str, Any]:
    return next(row["left"] for row in status["sinks"] if row["name"] == sink)


def test_what_a_reader_has_lost_stays_when_it_has_left(tmp_path: Path) -> None:
    with daemon(tmp_path, CONFIG + SOURCE.format(name="radio0") + SINK.format(more="")) as rig:
        rig.wait_running()
        lost = lose(rig, "slow.sock")
        status = explained(rig)
        assert "consumer-slow" in lost_before(status)
        left = left_at(status, "slow.sock")
        assert left["consumers"] == 1
        assert left["lost"]["consumer-slow"] >= lost
        assert left["lost"]["consumer-left"] > 0, "what was queued when it left"
        assert left["offered"] == left["packets"] + sum(left["lost"].values())
        lose(rig, "slow.sock")
        ledger = rig.call("GetLedger")
        again = next(row["left"] for row in ledger["sinks"] if row["sink"] == "slow.sock")
        assert again["consumers"] == 2
        assert all(again["lost"][word] >= left["lost"][word] for word in left["lost"])
        assert ledger["residue"] == 0


def test_a_sink_that_a_reload_changes_keeps_its_account(tmp_path: Path) -> None:
    source = SOURCE.format(name="radio0")
    folder = tmp_path / "out"
    file_sink = f'[[sink]]\ntype = "file"\npath = "{folder}/a.pcapng"\n'
    with daemon(tmp_path, CONFIG + source + SINK.format(more="") + file_sink) as rig:
        rig.wait(lambda status: any(row["packets"] > 100 for row in status["consumers"]))
        lose_here = "slow.sock"
        with rig.connect(lose_here):
            rig.wait(lambda status: any(row["lost"] for row in status["consumers"]))
        rig.wait(lambda status: len(status["consumers"]) == 1)
        before = explained(rig)
        config = (
            CONFIG
            + source
            + SINK.format(more='overflow = "disconnect"')
            + file_sink
            + "rotate_packets = 100000\n"
        )
        (tmp_path / "helpers.toml").write_text(config)
        rig.call("Reload")
        rig.wait(lambda status: any(row["packets"] > 100 for row in status["consumers"]))
        after = explained(rig)
        assert left_at(after, "slow.sock")["lost"] == left_at(before, "slow.sock")["lost"]
        name = f"{folder}/a.pcapng"
        rig.wait(lambda status: left_at(status, name)["consumers"] == 1)
        written = left_at(explained(rig), name)
        assert written["offered"] == written["packets"] + sum(written["lost"].values()) > 0
        (tmp_path / "helpers.toml").write_text(CONFIG + source)
        rig.call("Reload")
        status = rig.wait(lambda status: status["gone"]["left"]["consumers"] >= 3)
        assert any(line.startswith("lost before: readers that have left ") for line in render(status))
        assert explained(rig)["gone"]["left"]["lost"]["consumer-left"] > 0


def test_a_sink_that_leaves_is_in_the_account_while_its_reader_takes_its_time(tmp_path: Path) -> None:
    source = SOURCE.format(name="radio0")
    with daemon(tmp_path, CONFIG + source + SINK.format(more="")) as rig:
        rig.wait_running()
        lose(rig, "slow.sock")
        with rig.connect("slow.sock"):
            rig.wait(lambda status: any(row["lost"] for row in status["consumers"]))
            (tmp_path / "helpers.toml").write_text(CONFIG + source)
            rig.call("Reload")
            status = explained(rig)
            assert [row["sink"] for row in status["consumers"]] == ["slow.sock"], "it has yet to go"
            assert status["gone"]["left"]["lost"]["consumer-slow"] > 0, "of the one before it"
            rig.wait(lambda status: not status["consumers"])
            assert explained(rig)["gone"]["left"]["consumers"] == 2


def test_sources_that_were_removed_are_in_the_account(tmp_path: Path) -> None:
    with daemon(tmp_path, CONFIG + SOURCE.format(name="radio0")) as rig:
        rig.wait_running()
        reader = Reader(rig.connect())
        reader.start()
        produced = 0
        for name in ("radio1", "radio2"):
            rig.call("AddSource", definition=f"{name}:type=synthetic,rate=500", name=name)
            rig.wait(lambda status, name=name: rig.source(name)["packets"] > 50)
            produced += rig.source(name)["produced"]
            rig.call("RemoveSource", source=name)
            explained(rig)
        (tmp_path / "helpers.toml").write_text(CONFIG)
        rig.call("Reload")
        status = explained(rig)
        assert status["sources"] == []
        assert status["gone"]["sources"] == 3
        assert status["gone"]["produced"] >= produced + 1
        reader.close()


def test_the_account_is_the_last_of_the_log_and_is_told_while_the_daemon_stops(tmp_path: Path) -> None:
    with daemon(tmp_path, CONFIG + SOURCE.format(name="radio0")) as rig:
        rig.wait_running()
        with rig.connect():  # reads nothing: it is waited for, and then cut off
            rig.wait(lambda status: any(row["lost"] for row in status["consumers"]))
            os.kill(rig.status()["pid"], signal.SIGTERM)
            seen = rig.wait(lambda status: status["stopping"])
            assert seen["residue"] == 0
            assert rig.process.wait(HANGS_S) == 0
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines() if line.startswith("{")]
    texts = [next(str(line[key]) for key in ("message", "text", "msg") if key in line) for line in lines[-2:]]
    assert "packets since the start" in texts[0]
    assert "offered to readers and files" in texts[1]
    assert "consumer-left" in texts[1], "what was queued for the one that was cut off"
    assert "not accounted for" not in (tmp_path / "log").read_text()


def test_the_account_is_told_also_when_the_launcher_has_been_killed(tmp_path: Path) -> None:
    with daemon(tmp_path, CONFIG + SOURCE.format(name="radio0"), ends_with=None) as rig:
        rig.wait(lambda status: status["sources"][0]["packets"] > 0)
        supervisor = os.pidfd_open(rig.status()["pid"])
        try:
            rig.process.kill()
            rig.process.wait(HANGS_S)
            assert select.select([supervisor], [], [], HANGS_S)[0], "it ends too"
        finally:
            os.close(supervisor)
    (tmp_path / "control.sock").unlink()  # it stays, so that who finds it knows of the death
    log = (tmp_path / "log").read_text()
    assert "packets since the start" in log
    assert "not accounted for" not in log


def test_what_has_gone_by_name_is_one_sum() -> None:
    gone = Gone()
    for number in range(1000):
        gone.open(f"sources/s{number}.sock")
        gone.leave(f"sources/s{number}.sock", Left(1, 10, 7, 0, 700, Counter({"consumer-left": 3})))
        gone.close(f"sources/s{number}.sock")
        gone.remove(Ledger(received=10, routed=10, offered=10))
    assert not gone.left
    assert gone.rest == Left(1000, 10_000, 7000, 0, 700_000, Counter({"consumer-left": 3000}))
    assert (gone.sources, gone.ledger.produced) == (1000, 10_000)


def test_a_sink_that_is_opened_anew_before_the_old_one_has_ended_keeps_one_account() -> None:
    gone = Gone()
    gone.open("a")
    gone.open("a")
    gone.leave("a", Left(1, 5, 5, 0, 50))
    gone.close("a")
    assert gone.left["a"].offered == 5
    gone.close("a")
    assert (gone.left, gone.rest.offered) == ({}, 5)


def test_a_dropped_route_hands_its_account_over() -> None:
    table = RouteTable()
    outbox = Outbox()
    table.connect(outbox, frozenset(), single=False)
    table.route("radio0").ledger.received = 7
    table.drop("radio0")
    table.drop("radio0")
    assert table.gone.ledger.received == 7
    table.route("service").ledger.received = 9
    table.drop("service", counted=False)
    assert table.gone.ledger.received == 7
