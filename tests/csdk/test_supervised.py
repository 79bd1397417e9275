"""The C SDK's counter under a real daemon: whole, in order, small, tuned and ended as any helper."""

import struct
from pathlib import Path

import pytest

from helperd.control.client import ControlError
from tests.csdk.build import helper
from tests.rig import Stream, daemon

pytestmark = pytest.mark.need("cc")
CONFIG = """
[[helper]]
name = "hello"
command = ["{program}"]
types = ["hello"]
exclusive = false
[[sink]]
path = "complete.sock"
overflow = "wait"
"""
COUNT = 200_000


@pytest.fixture
def config():
    return CONFIG.format(program=helper("hello"))


def test_packets_arrive_whole_and_in_order_and_it_stays_small(rundir, config):
    with daemon(rundir, config) as rig, rig.connect("complete.sock") as sock:
        rig.call("AddSource", definition="hello:type=hello,size=64", name="hello")
        stream = Stream(sock).packets()
        for number in range(COUNT):
            packet = next(stream)
            assert struct.unpack(">Q", packet.content[:8])[0] == number
        row = rig.source("hello")
        assert (row["generation"], row["lost"], row["hardware"]) == ("v3", {}, "a counter")
        assert row["packets"] >= COUNT
        lines = Path(f"/proc/{row['pid']}/status").read_text().splitlines()
        own = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))
        assert own <= 512, "of the C library the kernel maps what it likes: benchmarks/csdk.py looks at all"


def test_it_is_listed_probed_tuned_and_stopped(rundir, config):
    with daemon(rundir, config) as rig:
        listed = rig.call("ListDevices")
        assert (listed["failed"], [device["definition"] for device in listed["devices"]]) == (
            [],
            ["hello:type=hello"],
        )
        assert rig.call("Probe", definition="hello")["helper"] == "hello"
        rig.call("AddSource", definition="hello:type=hello,rate=20", name="hello")
        rig.wait_running("hello")
        assert rig.call("SetChannel", source="hello", channel="3")["source"]["channel"] == "3"
        stopped = rig.call("Stop", source="hello")["source"]
        assert (stopped["state"], stopped["exit"]["kind"]) == ("down", "asked")


def test_its_reasons_are_shown(rundir, config):
    with (
        daemon(rundir, config) as rig,
        pytest.raises(ControlError, match=r"bad-definition: .*size=3: from 8"),
    ):
        rig.call("AddSource", definition="hello:type=hello,size=3", name="bad")
