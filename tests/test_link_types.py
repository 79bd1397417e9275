"""Sources of several link types: a recorder keeps all of them, who takes one only gets one, and losses say why."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helperd import pcapng
from helperd.routing import Outbox, RouteTable
from helperd.sinks.forms import Pcapng, Wants
from tests.patience import HANGS_S
from tests.rig import HELPERD, ROOT, Rig, Stream, daemon, options

PROGRAM = """
import sys, time
sys.path.insert(0, {root!r})
from helperd import pcapng
out = sys.stdout.buffer
out.write(pcapng.section_header() + b"".join(map(pcapng.interface_block, {linktypes})))
number = 0
while True:
    for interface in range(len({linktypes})):
        number += 1
        out.write(pcapng.packet_block(interface, 10**18 + number, number.to_bytes(4, "big") * 10, 40))
    out.flush()
    time.sleep(0.002)
"""
HELPER = """
[[helper]]
name = "{name}"
command = ["builtin:pipe", "--", "{python}", "{program}"]
types = ["{name}"]
[[source]]
name = "{name}"
definition = "{name}:type={name}"
"""
LINKTYPES = {"both": (1, 113), "plain": (1,), "radio": (127,)}


@pytest.fixture
def rig(rundir: Path, tmp_path: Path) -> Iterator[Rig]:
    config = ""
    for name, linktypes in LINKTYPES.items():
        program = tmp_path / f"{name}.py"
        program.write_text(PROGRAM.format(root=str(ROOT), linktypes=linktypes))
        config += HELPER.format(name=name, python=sys.executable, program=program)
    sink = f'[[sink]]\ntype = "file"\npath = "{tmp_path}/kept.pcapng"\ndlts = [113]\n'
    socket = '[[sink]]\npath = "cooked.sock"\ndlts = [113]\n'
    with daemon(rundir, config + sink + socket) as running:
        running.wait(
            lambda status: all(
                set(row["linktypes"]) == set(LINKTYPES[row["name"]]) for row in status["sources"]
            )
        )
        yield running


def tap(rig: Rig, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [*HELPERD, "tap", *words, "--runtime-dir", str(rig.runtime)]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=HANGS_S, check=False)


def linktypes_of(file: Path) -> list[int]:
    """The link type of each packet."""
    data = file.read_bytes()
    interfaces, found = [], []
    for kind, start, _ in pcapng.split(data):
        if kind == pcapng.INTERFACE_DESCRIPTION:
            interfaces.append(int.from_bytes(data[start + 8 : start + 10], "little"))
        elif kind == pcapng.ENHANCED_PACKET:
            found.append(interfaces[int.from_bytes(data[start + 8 : start + 12], "little")])
    return found


def tcpdump(file: Path) -> int:
    """How many packets tcpdump reads, which takes one link type only."""
    if shutil.which("tcpdump") is None:
        pytest.skip("needs tcpdump")
    done = subprocess.run(
        ["tcpdump", "-n", "-r", str(file)], capture_output=True, text=True, timeout=HANGS_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return len([line for line in done.stdout.splitlines() if re.match(r"\d\d:\d\d", line)])


def test_a_recorder_keeps_every_link_type_of_a_source(rig: Rig, tmp_path: Path) -> None:
    file = tmp_path / "x.pcapng"
    done = tap(rig, "both", "-c", "40", "-w", str(file))
    assert (done.returncode, done.stderr) == (0, f"File: {file}\nPackets captured: 40\n")
    found = linktypes_of(file)
    assert (found.count(1), found.count(113)) == (20, 20)


@pytest.mark.parametrize("linktype", [1, 113])
def test_a_reader_of_one_link_type_asks_for_it(rig: Rig, tmp_path: Path, linktype: int) -> None:
    file = tmp_path / "x.pcapng"
    done = tap(rig, "both", "--linktype", str(linktype), "-c", "40", "-w", str(file))
    assert (done.returncode, done.stderr) == (0, f"File: {file}\nPackets captured: 40\n")
    assert linktypes_of(file) == [linktype] * 40
    assert tcpdump(file) == 40


def test_one_link_type_of_several_sources_is_read_by_who_takes_one(rig: Rig, tmp_path: Path) -> None:
    file = tmp_path / "x.pcapng"
    assert tap(rig, "--all", "--linktype", "1", "-c", "60", "-w", str(file)).returncode == 0
    assert linktypes_of(file) == [1] * 60
    assert tcpdump(file) == 60


def test_a_sink_of_one_link_type_is_read_by_who_takes_one(rig: Rig, tmp_path: Path) -> None:
    with rig.connect("cooked.sock") as sock:
        stream = Stream(sock)
        assert {stream.interfaces[packet.interface][0] for packet in stream.take(50)} == {113}
        assert {linktype for linktype, _ in stream.interfaces} == {113}
    rig.stop()
    (file,) = tmp_path.glob("kept*.pcapng")
    assert set(linktypes_of(file)) == {113}
    assert tcpdump(file) == len(linktypes_of(file)) > 50


@pytest.mark.parametrize("name", ["plain", "radio"])
def test_a_source_of_one_link_type_needs_no_asking(rig: Rig, tmp_path: Path, name: str) -> None:
    """Other sources of other link types are there, and their interfaces have numbers."""
    file = tmp_path / "x.pcapng"
    assert tap(rig, name, "-c", "30", "-w", str(file)).returncode == 0
    assert tcpdump(file) == 30


def test_a_link_type_that_a_source_has_not_is_told(rig: Rig, tmp_path: Path) -> None:
    file = tmp_path / "x.pcapng"
    done = tap(rig, "both", "--linktype", "105", "-a", "duration:0.2", "-w", str(file))
    assert done.returncode == 0
    assert done.stderr.startswith("both: no packet of link type 105 so far, but of 1, 113\n")
    assert done.stderr.endswith("Packets captured: 0\n")


def test_into_a_pipe_several_link_types_are_pointed_out(rig: Rig) -> None:
    argv = [*HELPERD, "tap", "both", "-c", "4", "--runtime-dir", str(rig.runtime)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, timeout=HANGS_S, check=False)
    assert done.stderr.startswith(
        b"both has link types 1, 113; for a reader that takes one only: --linktype 1\n"
    )


def test_a_sources_own_socket_carries_one_and_says_what_became_of_the_others(rig: Rig) -> None:
    sock = rig.connect("sources/both.sock")
    stream = Stream(sock)
    found = stream.packets()
    first = next(found)
    for _ in range(50):
        next(found)
    (consumer,) = (row for row in rig.status()["consumers"] if row["sink"] == "sources/both.sock")
    assert set(consumer["lost_by"]) == {"link-type"}
    rig.call("Stop", source="both")
    rig.process.terminate()
    rest = list(stream.blocks())
    sock.close()
    linktypes = [linktype for linktype, _ in stream.interfaces]
    assert len(set(linktypes)) == 1, "who takes one link type only reads it"
    kind, body = rest[-1]
    assert kind == pcapng.INTERFACE_STATISTICS
    assert int.from_bytes(body[:4], "little") == first.interface
    assert re.search(rb"lost: link-type [0-9]+", body)
    assert rig.process.wait(HANGS_S) == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("both", "--linktype", "70000"), "from 0 to 65535"),
        (("both", "--linktype", "EN10MB"), "must be a number"),
        (("both", "--linktype", "-1"), "must be a number"),
        (("both", "--linktype", "1", "--jsonl"), "leave one of the two out"),
    ],
)
def test_link_types_that_cannot_be_are_refused(rundir: Path, words: tuple[str, ...], says: str) -> None:
    done = tap(Rig(None, rundir), *words)  # type: ignore[arg-type]
    assert done.returncode == 64
    assert says in done.stderr


# the form alone


def heads(parts: list) -> list[tuple[int, str]]:
    """Link types and names of the interface blocks in what is sent."""
    found = []
    data = b"".join(map(bytes, parts))
    for kind, start, stop in pcapng.split(data):
        if kind == pcapng.INTERFACE_DESCRIPTION:
            name = options(data[start + 16 : stop - 4])[pcapng.IF_NAME].decode()
            found.append((int.from_bytes(data[start + 8 : start + 10], "little"), name))
    return found


def test_interfaces_that_a_stream_lacks_have_the_link_type_that_it_has_first() -> None:
    table = RouteTable()
    of = table.interfaces
    form = Pcapng(b"", table, Wants(frozenset({"a"})))
    of.number("other", 105)
    assert heads(form.parts([], {})) == []
    of.number("a", 1)
    of.number("other", 127)
    assert heads(form.parts([], {})) == [(1, "-"), (1, "a")]
    assert heads(form.parts([], {})) == []
    of.number("a", 113)
    assert heads(form.parts([], {})) == [(1, "-"), (113, "a")]


def test_of_a_single_stream_only_what_it_carries_is_announced() -> None:
    table = RouteTable()
    of = table.interfaces
    outbox = Outbox()
    form = Pcapng(b"", table, Wants(frozenset({"a"}), single=outbox))
    for linktype in (105, 1, 127):
        of.number("a", linktype)
    assert heads(form.parts([], {})) == []
    outbox.carried = 1
    assert heads(form.parts([], {})) == [(1, "-"), (1, "a")]
    of.number("a", 9)
    assert heads(form.parts([], {})) == []


def test_a_sink_of_one_link_type_names_no_other() -> None:
    table = RouteTable()
    of = table.interfaces
    for source, linktype in (("a", 1), ("b", 127), ("a", 127), ("c", 1)):
        of.number(source, linktype)
    form = Pcapng(b"", table, Wants(linktypes=frozenset({127})))
    assert heads(form.parts([], {})) == [(127, "-"), (127, "b"), (127, "a")]
