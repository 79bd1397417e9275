"""Five kinds of helper times three consumers: 20,000 packets each, byte for byte, in order, none lost.

The helpers are processes that write v0, v2 and v3 frames one at a time, an extcap tool that writes pcap into a FIFO,
and a program that writes pcap to its stdout; the consumers are the mixed socket, the source's own, and a file.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from helperd import pcapng
from tests.patience import HANGS_S
from tests.peers.any_helper import SECOND, content
from tests.rig import HELPERD, ROOT, Packet, Rig, Stream, daemon

PEER = ROOT / "tests" / "peers" / "any_helper.py"
COUNT = int(os.environ.get("HELPERD_FIVE_KINDS", "20000"))
SIZE = 60
TOOL = """#!{python} -IS
import os, sys
args = sys.argv[1:]
if "--extcap-interfaces" in args:
    print("extcap {{version=1.0}}\\ninterface {{value=x}}{{display=A fake}}")
elif "--extcap-dlts" in args:
    print("dlt {{number=1}}{{name=EN10MB}}{{display=Ethernet}}")
elif "--capture" in args:
    with open({pcap!r}, "rb") as data, open(args[args.index("--fifo") + 1], "wb") as fifo:
        while piece := data.read(65536):
            fifo.write(piece)
"""


def write_pcap(path: Path) -> None:
    """The packets as a file, with microseconds."""
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1))
        for number in range(COUNT):
            file.write(struct.pack("<IIII", SECOND, number % 1_000_000, SIZE, SIZE) + content(number, SIZE))


def helper(kind: str, folder: Path) -> str:
    """The `[[helper]]` of one kind."""
    capture = folder / "packets.pcap"
    if kind in {"v0", "v2", "v3"}:
        command = [sys.executable, str(PEER), kind]
        more = f'wire = "{kind}"'
    elif kind == "extcap":
        write_pcap(capture)
        tool = folder / "tool"
        tool.write_text(TOOL.format(python=sys.executable, pcap=str(capture)))
        tool.chmod(0o755)
        command = ["builtin:extcap", "--", str(tool)]
        more = ""
    else:
        write_pcap(capture)
        command = ["builtin:pipe", "--", "/bin/cat", str(capture)]
        more = ""
    words = ", ".join(f'"{word}"' for word in command)
    return f'[[helper]]\nname = "one"\ncommand = [{words}]\ntypes = ["any"]\n{more}\n'


def config(kind: str, folder: Path) -> str:
    options = f",packets={COUNT},size={SIZE}" if kind.startswith("v") else ""
    return f"""{helper(kind, folder)}
[[source]]
name = "one"
definition = "x:type=any{options}"
start = "manual"
restart = "temporary"
"""


class Reader(threading.Thread):
    """Takes all packets from a socket."""

    def __init__(self, rig: Rig, name: str) -> None:
        super().__init__()
        self.stream = Stream(rig.connect(name))
        self.packets: list[Packet] = []
        self.start()

    def run(self) -> None:
        with self.stream.sock:
            self.packets = self.stream.take(COUNT)


def of_file(path: Path) -> list[Packet]:
    data = path.read_bytes()
    found = []
    for kind, start, _ in pcapng.split(data):
        if kind == pcapng.ENHANCED_PACKET:
            interface, high, low, size, original = struct.unpack_from("<5I", data, start + 8)
            found.append(Packet(interface, high << 32 | low, data[start + 28 : start + 28 + size], original))
    return found


@pytest.mark.parametrize("kind", ["v0", "v2", "v3", "extcap", "pipe"])
def test_every_packet_of_every_kind_reaches_every_consumer(rundir, tmp_path, kind):
    file = tmp_path / "one.pcapng"
    with daemon(rundir, config(kind, tmp_path)) as rig:
        argv = [*HELPERD, "tap", "one", "-q", "-w", str(file), "-c", str(COUNT), "--runtime-dir", str(rundir)]
        with subprocess.Popen(argv, cwd=ROOT) as tap:
            try:
                readers = [Reader(rig, "all.sock"), Reader(rig, "sources/one.sock")]
                rig.wait(lambda status: len(status["consumers"]) == 3)
                rig.call("Start", source="one")
                for reader in readers:
                    reader.join(60)
                assert tap.wait(HANGS_S) == 0
            finally:
                tap.kill()
        row = rig.source("one")
        assert (row["packets"], row["lost"]) == (COUNT, {})
    for packets in (*(reader.packets for reader in readers), of_file(file)):
        assert len(packets) == COUNT
        for number, packet in enumerate(packets):
            assert packet.content == content(number, SIZE)
            assert packet.original == SIZE
            assert packet.stamp == (SECOND * 1_000_000 + number % 1_000_000) * 1000
