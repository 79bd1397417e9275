"""From the helper's input to a reader's stream: nanoseconds, link types and options arrive as they were."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest

from helperd import pcapng
from tests.helpers.peer import walk
from tests.rig import Stream, daemon

BEGIN = 1_700_000_000_000_000_000
STEP = 1_000_000_007
COUNT = 40


def block(kind: int, body: bytes) -> bytes:
    size = len(body) + 12
    return struct.pack("<2I", kind, size) + body + struct.pack("<I", size)


def interface(linktype: int) -> bytes:
    """With stamps in nanoseconds."""
    return pcapng.interface_block(linktype)


def capture(*numbers: int, options: bytes = b"", linktypes: tuple[int, ...] = (1, 113, 127)) -> bytes:
    """Packets of these interfaces in turn."""
    data = pcapng.section_header() + b"".join(map(interface, linktypes))
    for at in range(COUNT):
        number = numbers[at % len(numbers)]
        data += pcapng.packet_block(number, BEGIN + at * STEP, bytes([at]) * 20, 60, options=options)
    return data


def seen(rig, words: str = "all.sock", count: int = COUNT) -> list[tuple[int, int, bytes, list]]:
    """Link type, stamp, bytes and options of what a reader gets."""
    found = []
    interfaces: list[int] = []
    sock = rig.connect(words)
    rig.call("Start", source="x")
    for kind, body in Stream(sock).blocks():
        if kind == pcapng.INTERFACE_DESCRIPTION:
            interfaces.append(struct.unpack_from("<H", body)[0])
        elif kind == pcapng.ENHANCED_PACKET:
            number, high, low, size, _ = struct.unpack_from("<5I", body)
            behind = 20 + (size + 3 & ~3)
            options = list(walk(body[behind:])) if behind < len(body) else []
            found.append((interfaces[number], high << 32 | low, body[20 : 20 + size], options))
            if len(found) == count:
                sock.close()
                return found
    raise AssertionError(f"only {len(found)} came")


PIPE = """
[[helper]]
name = "program"
command = ["builtin:pipe", "--", "{python}", "{program}"]
types = ["program"]
[[source]]
name = "x"
definition = "x:type=program"
start = "manual"
"""
FILE = """
[[helper]]
name = "pcapfile"
command = ["builtin:pcapfile"]
types = ["pcapfile"]
[[source]]
name = "x"
definition = "{file}:type=pcapfile,realtime=false"
start = "manual"
restart = "transient"
"""
LIVE = """
import sys, time
data = open({data!r}, 'rb').read()
for at in range(0, len(data), 61):
    sys.stdout.buffer.write(data[at:at + 61])
    sys.stdout.buffer.flush()
sys.stdin.read()
time.sleep(3600)
"""


def config(tmp_path: Path, data: bytes, way: str) -> str:
    file = tmp_path / "x.pcapng"
    file.write_bytes(data)
    if way == "file":
        return FILE.format(file=file)
    program = tmp_path / "live.py"
    program.write_text(LIVE.format(data=str(file)))
    return PIPE.format(python=sys.executable, program=program)


@pytest.mark.parametrize("way", ["pipe", "file"])
@pytest.mark.parametrize(
    "numbers",
    [(1,), (0, 1), (2, 1, 0), (0,)],
    ids=["first unused", "two", "three, last first", "first alone"],
)
def test_every_link_type_keeps_its_nanoseconds(tmp_path, rundir, numbers, way):
    with daemon(rundir, config(tmp_path, capture(*numbers), way)) as rig:
        found = seen(rig)
    linktypes = (1, 113, 127)
    assert found == [
        (linktypes[numbers[at % len(numbers)]], BEGIN + at * STEP, bytes([at]) * 20, [])
        for at in range(COUNT)
    ]


@pytest.mark.parametrize("way", ["pipe", "file"])
def test_comments_directions_and_what_nobody_knows_stay_with_their_packet(tmp_path, rundir, way):
    own = pcapng.comments("one") + pcapng.flags(0x12) + pcapng.comments("two")
    own += pcapng.option(4, bytes(8)) + pcapng.option(0x8123, b"odd")
    with daemon(rundir, config(tmp_path, capture(0, 2, options=own), way)) as rig:
        found = seen(rig)
    expected = [(1, b"one"), (2, b"\x12\0\0\0"), (1, b"two"), (4, bytes(8)), (0x8123, b"odd")]
    assert [options for *_, options in found] == [expected] * COUNT


def test_what_a_stream_has_no_place_for_is_told(tmp_path, rundir):
    data = capture(0)
    data += block(4, bytes(8)) + block(4, bytes(8)) + block(9, b"a=b\n") + block(0xBAD, bytes(8))
    with daemon(rundir, config(tmp_path, data, "file")) as rig:
        seen(rig)
        rig.wait(lambda status: status["sources"][0]["why"] == "done")
        texts = [message["text"] for message in rig.call("GetMessages")["messages"]]
    kinds = "name resolution blocks, systemd journal blocks, custom blocks"
    assert [text for text in texts if text.endswith(f"place for them: {kinds}")]
    counts = "name resolution blocks (2), systemd journal blocks (1), custom blocks (1)"
    assert [text for text in texts if text.endswith(f"{COUNT} packets; left out: {counts}")]


def test_a_source_of_too_many_link_types_loses_some_of_them_counted(tmp_path, rundir):
    linktypes = (*range(147, 162), 1, 113, 127)
    data = capture(*range(18), linktypes=linktypes)
    with daemon(rundir, config(tmp_path, data, "file")) as rig:
        kept = [at for at in range(COUNT) if at % 18 < 16]
        found = seen(rig, count=len(kept))
        status = rig.wait(lambda status: status["sources"][0]["why"] == "done")
    assert [content[0] for _, _, content, _ in found] == kept
    (source,) = status["sources"]
    assert source["lost"] == {"link-type": COUNT - len(kept)}
