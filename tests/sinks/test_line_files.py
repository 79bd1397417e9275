"""Files of lines: the reports of a source, and what people were told, whole lines in files that are rotated."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from helperd.reports import MESSAGES
from helperd.routing import Batch
from helperd.sinks.files import cut_lines
from helperd.sinks.written import recover
from tests.rig import ROOT, daemon
from tests.sinks.test_file_sink import consumer, sink, until

PEER = ROOT / "tests" / "peers" / "any_helper.py"
REPORTS = 500
SOURCE = f"""
[[helper]]
name = "foreign"
command = ["{sys.executable}", "{PEER}", "v3"]
types = ["any"]
wire = "v3"
[[source]]
name = "radio"
definition = "x:type=any,packets=2000,json={REPORTS},size=60"
"""


def rows(folder: Path) -> list[dict[str, Any]]:
    """The lines of the finished files, in order."""
    return [
        json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.read_bytes().splitlines()
    ]


@pytest.mark.timeout(120)
def test_reports_and_messages_are_kept_in_files_that_are_rotated(rundir: Path, tmp_path: Path) -> None:
    path = tmp_path / "node.jsonl"
    with daemon(rundir, SOURCE + sink(path, 'format = "jsonl"', "rotate_packets = 100")) as rig:
        rig.wait(lambda _: consumer(rig, path)["packets"] >= REPORTS)
        rig.call("Stop", source="radio")
        rig.wait(lambda _: consumer(rig, path)["queued"] == 0)
        row = consumer(rig, path)
        assert rig.status()["residue"] == 0
        said = rig.call("GetMessages")["messages"]
    found = rows(tmp_path)
    assert len(list(tmp_path.glob("*.jsonl"))) == -(-len(found) // 100)
    reports = [line for line in found if "number" in line]
    assert [line["source"] for line in reports] == ["radio"] * REPORTS
    assert reports == sorted(reports, key=lambda line: line["number"])
    kept = [(line["source"], line["severity"], line["message"]) for line in found if "message" in line]
    for message in said:
        assert (message["source"], message["severity"], message["text"]) in kept
    assert row["packets"] <= len(found)  # the end of the source was told meanwhile
    assert not [line for line in found if "lost" in line]


@pytest.mark.timeout(120)
def test_killed_at_any_moment_lines_are_whole_after_the_next_start(rundir: Path, tmp_path: Path) -> None:
    path = tmp_path / "node.jsonl"
    config = SOURCE + sink(path, 'format = "jsonl"')
    with daemon(rundir, config, ends_with=None) as rig:
        rig.wait(lambda _: consumer(rig, path)["packets"] >= REPORTS)
        os.kill(rig.status()["pid"], signal.SIGKILL)
        rig.process.wait()
    (part,) = tmp_path.glob("*.part")
    with part.open("ab") as file:
        file.write(b'{"source":"radio","ti')
    with daemon(rundir, config):
        until(lambda: list(tmp_path.glob("*.jsonl")))
    assert len([line for line in rows(tmp_path) if "number" in line]) >= REPORTS


@pytest.mark.parametrize("tail", [b"", b'{"half', b"\0" * 4096, b'\0\0{"x":1}\n'])
def test_a_file_of_lines_is_cut_back_to_whole_lines(tmp_path: Path, tail: bytes) -> None:
    part = tmp_path / "node.jsonl.part"
    line = b'{"a":1}\n'
    part.write_bytes(line * 300_000 + tail)
    assert recover(str(part), lines=True) == len(line) * 300_000
    assert (tmp_path / "node.jsonl").read_bytes() == line * 300_000


def test_lines_are_cut_between_lines() -> None:
    parts = tuple(b"%d\n" % n for n in range(10))
    batch = Batch(parts, 20, 10, 500, ((MESSAGES, 10),))
    assert cut_lines(batch, None, 10) == (batch, None)
    head, rest = cut_lines(batch, 5, None)
    assert rest is not None
    assert (head.parts, head.nbytes, head.packets, Counter(dict(head.counts))) == (
        parts[:3],
        6,
        3,
        {MESSAGES: 3},
    )
    assert (rest.parts, rest.nbytes, rest.packets, Counter(dict(rest.counts))) == (
        parts[3:],
        14,
        7,
        {MESSAGES: 7},
    )
