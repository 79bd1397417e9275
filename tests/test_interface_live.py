"""Live capture end to end: packets sent into a veth pair arrive at a consumer's socket, or in the ledger."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.veth import Sender, frame, ip, namespace, pair, statistic
from tests.patience import HANGS_S
from tests.rig import Rig, Stream, daemon

pytestmark = pytest.mark.need("root", "netns", "veth", "packet-socket", "ip")

CONFIG = """
[[helper]]
name = "interface"
command = ["builtin:interface"]
types = ["interface"]
capabilities = ["net_raw"]
"""
SOURCE = """
[[source]]
name = "{0}"
definition = '{1}'
"""
WAITING = """
[[sink]]
path = "complete.sock"
overflow = "wait"
"""


@pytest.fixture
def veth() -> Iterator[None]:
    with namespace():
        pair()
        yield


def replay(folder: Path, packets: int, size: int, speed: str) -> int:
    """Send numbered packets with tcpreplay; returns how many the wire took."""
    import struct

    file = folder / "sent.pcap"
    with file.open("wb") as out:
        out.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1))
        for number in range(packets):
            out.write(struct.pack("<IIII", 1, 0, size, size) + frame(number, size))
    before = statistic("hda", "tx_packets")
    said = subprocess.run(
        ["tcpreplay", "-q", "-K", "-i", "hda", speed, str(file)], check=True, capture_output=True, text=True
    ).stdout
    assert "Successful packets:" in said, (
        said
    )  # how many it does not know: 4.5.4 leaves some out and counts them
    return statistic("hda", "tx_packets") - before


class Reader(threading.Thread):
    """Reads a live stream to its end and keeps what matters of each packet."""

    def __init__(self, rig: Rig, name: str) -> None:
        super().__init__(daemon=True)
        self.stream = Stream(rig.connect(name))
        self.contents: list[bytes] = []
        self.start()

    def run(self) -> None:
        for packet in self.stream.packets():
            self.contents.append(packet.content)
        self.stream.sock.close()


def ledger(rig: Rig, name: str = "veth") -> dict[str, int]:
    found: dict[str, int] = next(
        row["lost"] for row in rig.call("GetLedger")["sources"] if row["source"] == name
    )
    return found


@pytest.mark.need("tcpreplay")
def test_everything_arrives(veth: None, tmp_path: Path) -> None:
    with daemon(tmp_path, CONFIG + SOURCE.format("veth", "hdb:type=interface") + WAITING) as rig:
        rig.wait_running()
        reader = Reader(rig, "complete.sock")
        rig.wait(lambda status: bool(status["consumers"]))
        sent = replay(tmp_path, 50_000, 200, "--pps=50000")
        rig.wait(lambda status: status["sources"][0]["packets"] >= sent)
        assert rig.stop() == 0
        reader.join(HANGS_S)
        mine = [content for content in reader.contents if content[12:14] == b"\x88\xb5"]
        whole = iter([frame(number, 200) for number in range(50_000)])
        assert len(mine) == sent > 49_000
        assert all(content in whole for content in mine)  # in order: what was passed by is not found again
        assert reader.stream.interfaces[0] == (1, "veth")


@pytest.mark.need("tcpreplay")
def test_at_top_speed_sent_is_received_plus_lost_in_the_ledger(veth: None, tmp_path: Path) -> None:
    """The smallest ring, so that something is lost on any machine; nobody reads, so the loss is the kernel's."""
    definition = 'hdb:type=interface,buffer=512KiB,filter="ether proto 0x88b5"'
    with daemon(tmp_path, CONFIG + SOURCE.format("veth", definition)) as rig:
        rig.wait_running()
        sent = replay(tmp_path, 200_000, 200, "--topspeed")
        status = rig.wait(
            lambda status: (
                status["sources"][0]["packets"] + status["sources"][0]["lost"].get("kernel", 0) >= sent
            )
        )
        row = status["sources"][0]
        lost = ledger(rig)
        assert row["packets"] + lost.get("kernel", 0) == sent
        assert set(lost) <= {"kernel", "no-consumer"}
        assert lost["no-consumer"] == row["packets"]


def test_an_interface_that_was_removed_is_captured_on_again_when_it_is_back(
    veth: None, tmp_path: Path
) -> None:
    with daemon(tmp_path, CONFIG + SOURCE.format("veth", "hdb:type=interface")) as rig:
        rig.wait_running()
        ip("link del hdb")
        rig.wait(lambda status: status["sources"][0]["state"] == "backoff")
        rig.wait(lambda status: "no such interface: hdb" in str(status["sources"][0]))
        pair()
        rig.call("Restart", source="veth")
        rig.wait_running()
        with Sender() as sender:
            sender.send([frame(number) for number in range(10)])
            rig.wait(lambda status: status["sources"][0]["packets"] >= 10)


def test_two_sources_on_one_interface(veth: None, tmp_path: Path) -> None:
    sources = SOURCE.format("all", "hdb:type=interface") + SOURCE.format(
        "some", 'hdb:type=interface,filter="ether[17] >= 5"'
    )
    with daemon(tmp_path, CONFIG + sources) as rig:
        rig.wait_running()
        with Sender() as sender:
            sender.send([frame(number) for number in range(10)])
        rig.wait(
            lambda status: (
                {row["name"]: row["packets"] for row in status["sources"]} == {"all": 10, "some": 5}
            )
        )
