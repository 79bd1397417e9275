"""An unmodified helper on PyPI's `kismetexternal` 2020.7.1 (wire v0) under a real daemon."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.peers.kismetexternal_helper import packet as packet_of
from tests.rig import Stream, daemon

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv-kismetexternal" / "bin" / "python"
HELPER = ROOT / "tests" / "peers" / "kismetexternal_helper.py"
CONFIG = f"""
[[helper]]
name = "old"
command = ["{PYTHON}", "{HELPER}"]
types = ["old"]
list_timeout = "30s"
probe_timeout = "30s"
[[source]]
name = "old"
definition = "counter:type=old,packets={{count}}"
start = "first-consumer"
[[sink]]
path = "complete.sock"
overflow = "wait"
"""


@pytest.mark.need("kismetexternal")
class TestKismetexternal:
    def test_it_is_listed_and_probed(self, rundir):
        with daemon(rundir, CONFIG.format(count=1)) as rig:
            listed = rig.call("ListDevices")
            assert listed["failed"] == []
            assert [device["definition"] for device in listed["devices"]] == [
                "counter:type=old,packets=20000"
            ]
            found = rig.call("Probe", definition="counter")
            assert (found["helper"], found["channels"]) == ("old", ["1", "6", "11"])
            assert rig.call("Probe", definition="other")["helper"] is None

    def test_twenty_thousand_reports_arrive_whole_and_in_order(self, rundir):
        count = 20_000
        with daemon(rundir, CONFIG.format(count=count)) as rig, rig.connect("complete.sock") as sock:
            packets = Stream(sock).take(count)
            for number, packet in enumerate(packets):
                content, sec, usec = packet_of(number, 200)
                assert packet.content == content
                assert packet.stamp == sec * 10**9 + usec * 1000
            row = rig.source("old")
            assert (row["generation"], row["packets"], row["lost"]) == ("v0", count, {})
            assert rig.call("SetChannel", source="old", channel="6")["source"]["channel"] == "6"
            stopped = rig.call("Stop", source="old")["source"]
            assert (stopped["state"], stopped["exit"]["kind"]) == ("down", "asked")

    def test_what_it_speaks_is_remembered_when_it_is_started_again(self, rundir):
        with daemon(rundir, CONFIG.format(count=100).replace('start = "first-consumer"\n', "")) as rig:
            rig.wait_running("old")
            assert rig.source("old")["incarnation"] == 2
            rig.call("Restart", source="old")
            row = rig.wait_running("old")["sources"][0]
            assert row["incarnation"] == 3, "it was greeted in v0 at once"
