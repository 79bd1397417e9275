"""The client's examples run as docs/protocol.md prints them; only the runtime directory is another."""

from __future__ import annotations

import re
import subprocess
import sys
import threading

import pytest

from helperd.client import Kind, PacketReader, split_frames
from helperd.client import trio as trio_client
from helperd.client.sync import packets, records
from helperd.errors import UnavailableError
from tests.patience import HANGS_S
from tests.rig import ROOT, daemon
from tests.test_main_job import SYNTHETIC, counter_of

EXAMPLES = re.findall(
    r"```python\n(.*?)```",
    (ROOT / "docs/protocol.md").read_text().partition("## The frames format")[2],
    re.DOTALL,
)
COUNTED = (
    SYNTHETIC.replace("rate={rate}", "rate=2000,count=1500")
    + 'start = "first-consumer"\nrestart = "temporary"\n'
)


def test_there_is_an_example_of_each_kind():
    assert len(EXAMPLES) == 2
    assert "helperd.client.sync" in EXAMPLES[0]
    assert "helperd.client.trio" in EXAMPLES[1]


@pytest.mark.parametrize("number", [0, 1])
def test_examples_run_as_printed(rundir, number):
    code = EXAMPLES[number].replace("/run/helperd", str(rundir))
    with daemon(rundir, COUNTED) as rig:
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        rig.wait(
            lambda status: status["sources"][0]["packets"] == 1500 and status["sources"][0]["state"] == "down"
        )
        rig.stop()
        out, err = process.communicate(timeout=HANGS_S)
    assert process.returncode == 0, err
    lines = out.splitlines()
    if number == 0:
        assert sum(int(line.split()[1]) for line in lines) == 1500
        assert all(line.startswith("radio0 ") and line.endswith(", 0 lost before them") for line in lines)
    else:
        assert len(lines) == 1501
        assert all(line.startswith("radio0 1") for line in lines[:-1])
        assert lines[-1] == "lost: 0"


def test_both_formats_bring_the_same_packets_over_tcp_and_unix(rundir):
    config = (
        COUNTED.replace("2000", "2000,signal=false")
        + '[[sink]]\ntype = "tcp"\nlisten = "tcp:127.0.0.1:0"\nformat = "frames"\n'
    )
    found: list = []
    runs: list = []
    reader = PacketReader()
    with daemon(rundir, config.replace('start = "first-consumer"', 'start = "manual"')) as rig:
        address = next(row["path"] for row in rig.status()["sinks"] if row["type"] == "tcp")
        assert not address.endswith(":0")
        threads = [
            threading.Thread(target=lambda: found.extend(packets(rundir / "all.sock", reader))),
            threading.Thread(target=lambda: runs.extend(records(address))),
        ]
        for thread in threads:
            thread.start()
        rig.wait(lambda status: len(status["consumers"]) == 2)
        assert {row["format"] for row in rig.status()["consumers"]} == {"pcapng", "frames"}
        rig.call("Start", source="radio0")
        rig.wait(
            lambda status: status["sources"][0]["packets"] == 1500 and status["sources"][0]["state"] == "down"
        )
        assert rig.source("radio0")["lost"] == {}
        rig.stop()
        for thread in threads:
            thread.join(HANGS_S)
    assert [counter_of(packet.content) for packet in found] == list(range(1500))
    assert {packet.interface.linktype for packet in found} == {127}
    about, *rest = runs
    assert about.kind == Kind.SOURCE
    assert about.fields()["generation"] == "v3"
    assert about.fields()["dlt"] == "127"
    assert [record.first for record in rest] == [
        sum(other.packets for other in rest[:number]) for number in range(len(rest))
    ]
    assert sum(record.packets for record in rest) == 1500
    frames = [frame for record in rest for frame in split_frames(record, "v3")]
    assert len(frames) == sum(record.frames for record in rest)
    assert sum(packet.content in b"".join(frames) for packet in found[:20]) == 20


async def test_nobody_there_is_said_in_both_worlds(rundir):
    with pytest.raises(UnavailableError):
        next(packets(rundir / "none.sock"))
    with pytest.raises(UnavailableError):
        async with trio_client.records(rundir / "none.sock"):
            pytest.fail("connected to nobody")
    with pytest.raises(ValueError, match="HOST:PORT"):
        next(records("tcp:localhost"))
