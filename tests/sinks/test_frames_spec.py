"""The frames format as docs/protocol.md specifies it: readers made from that text alone read what the daemon writes."""

from __future__ import annotations

import collections
import re
import socket
import subprocess
import threading
from typing import Any

import pytest

from helperd import pcapng
from helperd.wire import v0, v2, v3
from tests.patience import HANGS_S
from tests.rig import ROOT, daemon
from tests.sinks.test_overload import CONFIG, victim

SPEC = (ROOT / "docs/protocol.md").read_text().partition("## The frames format")[2]
PROGRAM = re.search(r"```c\n(.*?)```", SPEC, re.DOTALL)[1]
SMALL = """
[[sink]]
path = "small.frames.sock"
format = "frames"
limit = "256KiB"
"""


def table(word: str) -> dict[str, tuple[int, int]]:
    """Offset and size by the field's name, from the table with that word in its head."""
    rows = SPEC.partition(f"| offset | size | {word} | what |\n|---|---|---|---|\n")[2]
    found = {}
    for row in rows.splitlines():
        if not row.startswith("|"):
            break
        offset, size, name, _ = (cell.strip() for cell in row.strip("|").split("|", 3))
        found[name] = (int(offset), int(size))
    return found


PREFACE, RECORD = table("preface"), table("record")
HEADERS = {name: int(size) for name, size in re.findall(r"\| `(v\d)` \| (\d+) \|", SPEC)}


def fields(layout: dict[str, tuple[int, int]], data: bytes) -> dict[str, int]:
    return {name: int.from_bytes(data[at : at + size], "little") for name, (at, size) in layout.items()}


class SpecReader(threading.Thread):
    """Reads a stream to its end and holds it to everything that the specification promises."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(daemon=True)
        sock.settimeout(None)
        self.stream = sock.makefile("rb")
        self.failure: BaseException | None = None
        preface = self.exactly(16)
        assert preface[:8] == b"HDFRAMES"
        assert fields(PREFACE, preface)["version"] == 1
        self.header = fields(PREFACE, preface)["header"]
        self.names: dict[int, dict[str, str]] = {}
        self.lives: collections.Counter[str] = collections.Counter()
        self.packets: collections.Counter[str] = collections.Counter()
        self.lost: collections.Counter[str] = collections.Counter()
        self.begin: dict[str, int] = {}
        self.linktypes: dict[str, collections.Counter[int]] = collections.defaultdict(collections.Counter)
        self.frames: list[bytes] = []

    def run(self) -> None:
        try:
            self.read()
        except BaseException as error:
            self.failure = error
        finally:
            self.stream.close()

    def ended(self) -> None:
        """Wait for the end; raise what went wrong."""
        self.join(HANGS_S)
        assert not self.is_alive()
        if self.failure is not None:
            raise self.failure

    def exactly(self, size: int) -> bytes:
        data = self.stream.read(size)
        assert len(data) == size, "the stream ends inside a record"
        return data

    def read(self) -> None:
        told: collections.Counter[int] = collections.Counter()
        due: dict[int, int] = {}
        lives: dict[int, int] = {}
        while head := self.stream.read(self.header):
            assert len(head) == self.header
            record = fields(RECORD, head)
            body = self.exactly(record["length"])
            assert len(body) <= 1 << 20
            number = record["source"]
            told[number] += record["lost"]
            if record["kind"] == 1:
                self.names[number] = dict(line.split("=", 1) for line in body.decode().splitlines())
                assert body.endswith(b"\n")
                self.lives[self.names[number]["name"]] += lives.get(number) != record["incarnation"]
                lives[number] = record["incarnation"]
                continue
            name = self.names[number]["name"]
            self.lost[name] += record["lost"]
            if record["kind"] == 4:
                assert not any(
                    record[word] for word in ("length", "incarnation", "first", "packets", "frames")
                )
                continue
            assert record["incarnation"] == lives[number], "a SOURCE record comes first"
            assert record["first"] == due.get(number, record["first"]) + (
                told[number] if number in due else 0
            )
            self.begin.setdefault(name, record["first"] - told[number])
            due[number] = record["first"] + record["packets"]
            told[number] = 0
            self.packets[name] += record["packets"]
            frames = self.cut(body, HEADERS[self.names[number]["generation"]])
            assert len(frames) == record["frames"]
            if record["kind"] == 2:
                assert record["packets"] == record["frames"]
            else:
                assert record["kind"] == 3
                held = sum(int.from_bytes(frame[20:24], "little") for frame in frames)
                assert held == record["packets"]
                for frame in frames:
                    self.linktypes[name][self.linktype(number, frame)] += int.from_bytes(
                        frame[20:24], "little"
                    )
            self.frames += frames

    def linktype(self, number: int, frame: bytes) -> int:
        """The link type of a bulk frame: by the interface number of its first block, and what SOURCE says of that."""
        interfaces = dict(pair.split(":") for pair in self.names[number]["interfaces"].split(","))
        first = 20 + 8 + 8 * int.from_bytes(frame[24:28], "little")
        return int(interfaces[str(int.from_bytes(frame[first + 8 : first + 12], "little"))])

    @staticmethod
    def cut(body: bytes, header: int) -> list[bytes]:
        frames = []
        while body:
            size = header + int.from_bytes(body[8:12], "big")
            assert size <= len(body), "a run ends inside a frame"
            frames.append(body[:size])
            body = body[size:]
        return frames


def test_the_tables_are_as_the_code_has_it():
    assert {"v3": v3.header, "v2": v2.header, "v0": v0.header} == HEADERS
    assert list(RECORD) == ["kind", "length", "source", "incarnation", "first", "packets", "frames", "lost"]
    assert max(at + size for at, size in RECORD.values()) == 40


def connected(rig: Any, name: str) -> socket.socket:
    before = len(rig.status()["consumers"])
    sock = rig.connect(name)
    rig.wait(lambda status: len(status["consumers"]) > before)
    return sock


def test_a_reader_from_the_specification_reads_lives_and_bulk(rundir):
    own = victim("rate=0,count=3000,size=100,signal=false", kind="synthetic")
    with daemon(rundir, CONFIG + own) as rig:
        rig.wait_running("bystander")
        with connected(rig, "all.frames.sock") as sock:
            reader = SpecReader(sock)
            reader.start()
            rig.call("Start", source="victim")
            rig.wait(lambda status: any(row["packets"] == 3000 for row in status["sources"]))
            killed = rig.source("bystander")
            rig.call("Restart", source="bystander")
            rig.wait(
                lambda status: any(
                    row["incarnation"] == 2 and row["packets"] > killed["packets"] + 20
                    for row in status["sources"]
                )
            )
            rig.call("Stop", source="bystander")
            rows = {row["name"]: row for row in rig.status()["sources"]}
            rig.stop()
            reader.ended()
    assert reader.lives == {"bystander": 2, "victim": 1}
    assert reader.packets["victim"] == 3000
    assert reader.packets["bystander"] == rows["bystander"]["packets"] - reader.begin["bystander"]
    assert reader.lost.total() == 0
    assert any(frame[12:14] == b"\x48\x44" for frame in reader.frames), "bulk frames were among them"


SEVERAL = """
[[helper]]
name = "pcapfile"
command = ["builtin:pcapfile"]
types = ["pcapfile"]
[[source]]
name = "victim"
definition = "{file}:type=pcapfile,realtime=false"
start = "manual"
restart = "temporary"
"""


def test_a_reader_from_the_specification_knows_the_link_type_of_every_bulk_frame(rundir, tmp_path):
    """Interfaces are numbered while the stream runs; SOURCE says so before the first frame that needs it."""
    linktypes = (1, 113, 127, 195)
    data = pcapng.section_header() + b"".join(map(pcapng.interface_block, linktypes))
    for at in range(4000):
        data += pcapng.packet_block(at * 4 // 4000 if at % 2 else 0, at, bytes(60), 60)
    file = tmp_path / "x.pcapng"
    file.write_bytes(data)
    with daemon(rundir, CONFIG + SEVERAL.format(file=file)) as rig, connected(rig, "all.frames.sock") as sock:
        reader = SpecReader(sock)
        reader.start()
        rig.call("Start", source="victim")
        rig.wait(lambda status: any(row["packets"] == 4000 for row in status["sources"]))
        rig.stop()
        reader.ended()
    assert reader.linktypes["victim"] == {1: 2500, 113: 500, 127: 500, 195: 500}
    assert reader.lives["victim"] == 1


def test_a_reader_from_the_specification_is_told_of_every_loss(rundir):
    sources = victim("rate=0,count=30000,size=200", "own", "synthetic") + victim(
        "rate=max,count=9000,size=200"
    )
    with daemon(rundir, CONFIG + SMALL + sources) as rig:
        rig.wait_running("bystander")
        with connected(rig, "small.frames.sock") as sock:
            for name in ("own", "victim"):
                rig.call("Start", source=name)
            rig.wait(
                lambda status: (
                    [row["packets"] for row in status["sources"] if row["name"] in {"own", "victim"}]
                    == [30000, 9000]
                )
            )
            rig.call("Stop", source="bystander")
            rows = {row["name"]: row for row in rig.status()["sources"]}
            reader = SpecReader(sock)
            reader.start()
            rig.wait(lambda status: not any(row["queued"] for row in status["consumers"]))
            rig.stop()
            reader.ended()
    assert reader.lost["own"] > 0
    assert reader.packets["own"] + reader.lost["own"] == 30000
    assert reader.packets["victim"] + reader.lost["victim"] == 9000
    seen = reader.packets["bystander"] + reader.lost["bystander"]
    assert seen == rows["bystander"]["packets"] - reader.begin["bystander"]


@pytest.mark.need("gcc")
def test_the_reader_in_c_runs_as_printed(rundir):
    source, program = rundir / "frames.c", rundir / "frames"
    source.write_text(PROGRAM)
    subprocess.run(
        ["gcc", "-Wall", "-Wextra", "-Werror", "-O2", "-o", str(program), str(source)], check=True, timeout=60
    )
    with daemon(rundir, CONFIG + victim("rate=max,count=5000")) as rig:
        process = subprocess.Popen([program, rundir / "whole.frames.sock"], stdout=subprocess.PIPE, text=True)
        rig.wait(lambda status: len(status["consumers"]) == 1)
        rig.call("Start", source="victim")
        rig.wait(lambda status: any(row["packets"] == 5000 for row in status["sources"]))
        rig.stop()
        out, _ = process.communicate(timeout=HANGS_S)
    assert process.returncode == 0
    lines = out.splitlines()
    assert lines[0].endswith("life 1")
    assert "name=victim" in lines
    runs = re.findall(r"(?m)^run 2 of \d+: (\d+) packets from (\d+) on, 0 lost before$", out)
    assert sum(int(packets) for packets, _ in runs) == 5000
    assert [int(first) for _, first in runs] == [
        sum(int(packets) for packets, _ in runs[:number]) for number in range(len(runs))
    ]
