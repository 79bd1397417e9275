"""The ring between capture and server: a server that reads nothing for a while costs a waiting capture no packet,
and one that cannot wait exactly what is told."""

import os
import select
import struct
import time

import pytest

from helperd.wire import v3
from helperd.wire.messages import OpenReport, OpenRequest, Ping, Pong
from tests.csdk.build import helper
from tests.helpers.peer import Peer

pytestmark = [pytest.mark.need("cc"), pytest.mark.timeout(600)]
STALL_S = float(os.environ.get("HELPERD_STALL_S", "1"))
"""How long nobody reads; 10 on demand."""


def stall(peer):
    """Read nothing, until the helper writes nothing more, and for a while beyond."""
    began = time.monotonic()
    poll = select.poll()
    poll.register(peer.process.stderr, 0)
    while time.monotonic() - began < STALL_S:
        poll.poll(100)


def numbers(peer):
    return [struct.unpack(">Q", content[:8])[0] for _, _, content, _ in peer.packets()]


@pytest.mark.parametrize("helperd", [True, False])
def test_a_waiting_capture_loses_nothing(helperd):
    with Peer(argv=[helper("hello")], helperd=helperd) as peer:
        peer.send(OpenRequest("hello:type=hello"))
        peer.expect(OpenReport)
        stall(peer)
        peer.until_packets(50_000)
        assert numbers(peer) == list(range(len(numbers(peer))))
        assert peer.lost() == {}


def test_what_a_capture_that_cannot_wait_loses_is_told_exactly():
    with Peer(argv=[helper("hello")]) as peer:
        peer.send(OpenRequest("hello:type=hello,wait=false,count=1000000"))
        peer.expect(OpenReport)
        stall(peer)
        peer.until_eof()
        got = numbers(peer)
        lost = peer.lost()
        assert got == sorted(set(got))
        assert set(lost) == {"helper-queue"}
        assert len(got) + lost["helper-queue"] == 1_000_000


def test_pings_are_answered_behind_a_full_ring_and_the_end_is_bounded():
    with Peer(argv=[helper("hello")], helperd=False) as peer:
        peer.send(OpenRequest("hello:type=hello"))
        peer.expect(OpenReport)
        stall(peer)
        peer.ping()
        peer.terminate()
        assert peer.wait() == 0  # nobody reads, and it does not wait for ever


def test_a_flood_of_pings_that_nobody_reads_the_answers_of_grows_nothing():
    """Its input waits until somebody reads; then each has its answer."""
    with Peer(argv=[helper("hello")], helperd=False) as peer:
        os.set_blocking(peer.to, False)
        frames, sent, data = 0, 0, b""
        while True:
            frames += 1
            data = v3.encode(Ping(), frames)
            try:
                assert os.write(peer.to, data) == len(data)
            except BlockingIOError:
                if not select.select([], [peer.to], [], 0.5)[1]:
                    break
                frames -= 1
                continue
            sent += 1
        with open(f"/proc/{peer.process.pid}/status") as file:
            resident = next(int(line.split()[1]) for line in file if line.startswith("VmRSS:"))
        assert resident < 4096
        while len([message for message in peer.messages if isinstance(message, Pong)]) < sent:
            assert peer.read()
