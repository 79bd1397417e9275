"""Bytes that real Kismet servers, and drivers of real helpers, sent: our helper does with them what Kismet's did.

The recordings are those of ``tests/vectors``. The packets that Kismet's helper answered with are put into a
capture of our own; our helper, given the same bytes on its input, must answer with the same.

Left out is what a server said in v2 after the v2 greeting: it did so because that helper had answered in v2, and
ours answers in v3.
"""

import json
import os
from pathlib import Path

import pytest

from helperd.wire.frames import FrameScanner, Run
from helperd.wire.generations import GENERATIONS
from helperd.wire.messages import ListReport, OpenReport, Pong, ProbeReport
from tests.helpers.peer import Peer
from tests.helpers.test_capturefile import pcap

VECTORS = Path(__file__).parents[1] / "vectors"
SCENARIOS = {
    "open-and-stream",
    "open-and-stream-radiotap",
    "open-and-stream-truncated",
    "open-and-stream-options",
    "server-open",
    "server-open-bad",
    "server-probe",
    "server-probe-1",
    "server-probe-2",
    "open-bad",
    "probe-ok",
    "probe-ok-options",
    "probe-bad",
    "probe-notpcap",
    "list",
    "ping",
    "bytewise",
    "coalesced",
}
RECORDINGS = {
    entry["id"]: entry
    for entry in json.loads((VECTORS / "index.json").read_text())["recordings"]
    if entry["helper"] == "kismet_cap_pcapfile"
    and entry["scenario"] in SCENARIOS
    and not (entry["protocol"] == "v2" and entry["scenario"].startswith("server-"))
}


class Listener:
    """What one side said: messages by class, and packets."""

    def __init__(self):
        self.scanner = FrameScanner(GENERATIONS, sticky=False)
        self.messages = []
        self.packets = []

    def feed(self, data):
        for item in self.scanner.feed(data):
            if isinstance(item, Run):
                self.packets += [
                    (dlt, sec * 10**9 + usec * 1000, bytes(content), original)
                    for dlt, sec, usec, original, content, _ in self.scanner.current.packets(item)
                ]
            else:
                self.messages.append(item.generation.decode(item))

    def of(self, *kinds):
        return [message for message in self.messages if isinstance(message, kinds)]


@pytest.mark.parametrize("name", RECORDINGS)
def test_our_helper_answers_as_kismets_did(name, tmp_path, monkeypatch):
    entry = RECORDINGS[name]
    theirs = Listener()
    theirs.feed((VECTORS / entry["files"]["received"]).read_bytes())
    asked = (VECTORS / entry["files"]["tosend"]).read_bytes()
    linktype = theirs.packets[0][0] if theirs.packets else 1
    replayed = pcap(bytes.fromhex("d4c3b2a1"), [packet[1:] for packet in theirs.packets], linktype=linktype)
    for file in ("tiny.pcap", "tiny-radiotap.pcap", "tiny-truncated.pcap"):
        (tmp_path / file).write_bytes(replayed)
    (tmp_path / "notes.txt").write_text("text, not a capture\n")
    monkeypatch.chdir(tmp_path)

    ours = Listener()
    answers = len(theirs.of(ListReport, ProbeReport, OpenReport))
    with Peer("pcapfile", greet=False) as peer:
        os.write(peer.to, asked)
        while (
            len(ours.packets) < len(theirs.packets)
            or len(ours.of(ListReport, ProbeReport, OpenReport)) < answers
            or len(ours.of(Pong)) < min(1, len(theirs.of(Pong)))
        ):
            data = os.read(peer.source, 65536)
            assert data, f"{ours.messages} {peer.stderr()}"
            ours.feed(data)

    assert ours.scanner.current is theirs.scanner.current or entry["protocol"] == "v2"
    if not any(word in asked for word in (b"pps=", b"realtime=true")):
        assert without_sizes(ours.packets) == without_sizes(theirs.packets)
    for kind in (ListReport, ProbeReport, OpenReport):
        told, wanted = ours.of(kind), theirs.of(kind)
        assert [(report.request, report.success) for report in told] == [
            (report.request, report.success) for report in wanted
        ]
        if kind is OpenReport:
            for mine, other in zip(told, wanted, strict=True):
                if other.success:
                    assert mine.dlt == other.dlt
                    assert mine.uuid == other.uuid


def without_sizes(packets):
    """v0 and v2 helpers of Kismet never say the true length (kismet-protocol.md, 2.5.3); ours does."""
    return [packet[:3] for packet in packets]
