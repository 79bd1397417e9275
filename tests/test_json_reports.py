"""JSON reports of real helpers reach every kind of consumer of a real daemon, in order and whole."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys

import pytest

from helperd.control.client import Client
from tests.patience import HANGS_S
from tests.peers.any_helper import SECOND, content, text
from tests.rig import HELPERD, ROOT, Stream, daemon

PEER = ROOT / "tests" / "peers" / "any_helper.py"
JSON_LINKTYPE = 162
READY = """
[[sink]]
path = "lines.sock"
format = "jsonl"
overflow = "wait"
[[sink]]
path = "mixed.sock"
overflow = "wait"
"""


def config(generation: str, packets: int, reports: int) -> str:
    return f"""
[[helper]]
name = "foreign"
command = ["{sys.executable}", "{PEER}", "{generation}"]
types = ["any"]
wire = "{generation}"
[[source]]
name = "radio"
definition = "x:type=any,packets={packets},json={reports},size=60"
start = "manual"
{READY}"""


def lines(sock: socket.socket, count: int) -> list[dict]:
    with sock.makefile("rb") as file:
        return [json.loads(file.readline()) for _ in range(count)]


@pytest.mark.parametrize("generation", ["v0", "v2", "v3"])
def test_reports_of_every_generation_reach_lines_and_the_mixed_stream(rundir, generation):
    packets, reports = 2000, 500
    with daemon(rundir, config(generation, packets, reports)) as rig:
        with (
            rig.connect("lines.sock") as lined,
            rig.connect("all.jsonl.sock") as every,
            rig.connect("sources/radio.jsonl.sock") as own,
            rig.connect("mixed.sock") as mixed,
        ):
            rig.wait(lambda status: len(status["consumers"]) == 4)
            rig.call("Start", source="radio")
            got = lines(lined, reports)
            assert [one["number"] for one in got] == [number * 5 + 1 for number in range(reports)]
            for number, one in enumerate(got):
                assert one["source"] == "radio"
                assert one["type"] == "SENSOR"
                assert one["report"] == json.loads(text(number))
                assert one["time"] == pytest.approx(SECOND + number / 1e6, abs=1e-7)
            assert lines(every, reports) == got
            assert lines(own, reports) == got
            stream = Stream(mixed)
            taken = stream.take(packets + reports)
            assert sorted(stream.interfaces) == [(1, "radio"), (JSON_LINKTYPE, "radio")]
            kinds = [stream.interfaces[packet.interface][0] for packet in taken]
            assert kinds == [1, JSON_LINKTYPE, 1, 1, 1] * reports
            assert [packet.content.decode() for packet in taken[1::5]] == [text(n) for n in range(reports)]
            plain = [packet.content for at, packet in enumerate(taken) if at % 5 != 1]
            assert plain == [content(number, 60) for number in range(packets)]
        row = rig.source("radio")
        assert (row["packets"], row["lost"]) == (packets + reports, {})


@pytest.mark.parametrize("generation", ["v0", "v2"])
def test_what_older_bluetooth_helpers_say_is_json_too(rundir, generation):
    text = config(generation, 0, 0).replace("json=0", "bluetooth=3")
    with daemon(rundir, text) as rig, rig.connect("lines.sock") as lined, rig.connect("mixed.sock") as mixed:
        rig.wait(lambda status: len(status["consumers"]) == 2)
        rig.call("Start", source="radio")
        got = lines(lined, 3)
        assert [one["number"] for one in got] == [0, 1, 2]
        assert {one["type"] for one in got} == {"linuxbthci"}
        assert got[1]["report"] == {"addr": "02:00:00:00:00:01", "name": "Ohrhörer", "type": 1}
        assert len(Stream(mixed).take(3)) == 3
        rig.wait(lambda status: status["sources"][0]["packets"] == 3)  # a status may be 20 ms old
        assert rig.source("radio")["lost"] == {}


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_wireshark_opens_a_file_of_both_and_decodes_the_json(rundir, tmp_path):
    file = tmp_path / "both.pcapng"
    with daemon(rundir, config("v3", 10, 5)) as rig:
        argv = [*HELPERD, "tap", "--all", "-q", "-w", str(file), "-c", "15", "--runtime-dir", str(rundir)]
        with subprocess.Popen(argv, cwd=ROOT) as tap:
            rig.wait(lambda status: status["consumers"])
            rig.call("Start", source="radio")
            assert tap.wait(HANGS_S) == 0
    user = 'uat:user_dlts:"User 15 (DLT=162)","json","0","","0",""'
    fields = ["-T", "fields", "-e", "json.value.number", "-e", "frame.comment"]
    done = subprocess.run(
        ["tshark", "-r", str(file), "-o", user, "-Y", "json", *fields],
        capture_output=True,
        text=True,
        check=True,
        timeout=HANGS_S,
    )
    assert done.stdout.splitlines() == [f"{number}\tjson=SENSOR" for number in range(5)]


def test_tap_writes_lines_to_a_file_and_stops_where_it_is_told(rundir, tmp_path):
    file = tmp_path / "reports.jsonl"
    with daemon(rundir, config("v3", 10, 10)) as rig:
        argv = [*HELPERD, "tap", "--jsonl", "radio", "-w", str(file), "-c", "7", "--runtime-dir", str(rundir)]
        with subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.PIPE, text=True) as tap:
            rig.wait(lambda status: status["consumers"])
            rig.call("Start", source="radio")
            said = tap.communicate(timeout=HANGS_S)[1]
            assert tap.returncode == 0
    assert "Reports captured: 7" in said
    assert [json.loads(line)["report"]["id"] for line in file.read_text().splitlines()] == list(range(7))


def test_a_control_connection_becomes_a_stream_of_lines(rundir):
    with (
        daemon(rundir, config("v3", 10, 10)) as rig,
        Client(rig.control) as client,
        client.upgrade("Stream", sources=["radio"], format="jsonl").socket as sock,
    ):
        rig.call("Start", source="radio")
        assert [one["report"]["id"] for one in lines(sock, 10)] == list(range(10))


def test_a_program_that_prints_lines_is_read_from_stdout_to_consumer(rundir, tmp_path):
    program = tmp_path / "sensor"
    program.write_text(
        "#!/bin/sh\ni=0\nwhile [ $i -lt 1000 ]; do echo '{\"id\": '$i', \"time\": 1700000000.5}'; i=$((i+1)); done\n"
    )
    program.chmod(0o755)
    text = f"""
[[helper]]
name = "sensor"
command = ["builtin:jsonlines", "--", "kind=SENSOR", "time=time", "{program}"]
types = ["jsonlines"]
[[source]]
name = "sensor"
definition = "x:type=jsonlines"
start = "first-consumer"
restart = "temporary"
{READY}"""
    with daemon(rundir, text) as rig, rig.connect("lines.sock") as lined:
        got = lines(lined, 1000)
        assert [one["report"]["id"] for one in got] == list(range(1000))
        assert {(one["source"], one["type"], one["time"]) for one in got} == {
            ("sensor", "SENSOR", 1700000000.5)
        }
        with rig.connect("mixed.sock") as mixed:
            stream = Stream(mixed)
            done = rig.wait(lambda status: status["sources"][0]["state"] == "down")["sources"][0]
            assert rig.stop() == 0
            assert list(stream.packets()) == []
            assert stream.interfaces == [(JSON_LINKTYPE, "sensor")]
        assert (done["packets"], done["lost"]) == (1000, {})
