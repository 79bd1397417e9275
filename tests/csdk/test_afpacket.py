"""The small packet-socket capture on the loopback interface."""

import socket

import pytest

from helperd.wire.messages import OpenReport, OpenRequest
from tests.csdk.build import helper
from tests.helpers.peer import Peer

pytestmark = pytest.mark.need("cc")


@pytest.mark.need("packet-socket")
@pytest.mark.parametrize("helperd", [True, False])
def test_what_crosses_the_interface_is_captured(helperd):
    with Peer(argv=[helper("afpacket")], helperd=helperd) as peer:
        peer.send(OpenRequest("lo:type=afpacket,promisc=false"))
        report = peer.expect(OpenReport)
        assert (report.success, report.dlt, report.hardware) == (True, 1, "a network interface"), report
        sent = {b"afpacket %d" % number for number in range(50)}
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for data in sent:
                sender.sendto(data, ("127.0.0.1", 9))
        seen = set()
        while seen != sent:
            assert peer.read()
            seen = {content[42:] for _, _, content, _ in peer.packets() if content[42:] in sent}
        peer.terminate()
        peer.until_eof()
        assert peer.wait() == 0


@pytest.mark.parametrize("name", ["nosuch0"])
def test_what_is_no_interface_is_refused(name):
    with Peer(argv=[helper("afpacket")]) as peer:
        peer.send(OpenRequest(f"{name}:type=afpacket"))
        report = peer.expect(OpenReport)
        assert (report.success, report.problem) == (False, "open-refused")
        assert "there is no interface nosuch0" in report.message
