"""The serial sniffer on a pseudo-terminal: the framing that docs/writing-a-helper-in-c.md explains."""

import contextlib
import os
import select
import tty

import pytest

from helperd.wire.messages import ConfigureReport, ConfigureRequest, ErrorReport, OpenReport, OpenRequest
from tests.csdk.build import helper
from tests.helpers.peer import Peer
from tests.patience import HANGS_S

pytestmark = pytest.mark.need("cc")


def frame(channel, dbm, packet):
    """One frame as the sniffer sends it."""
    total = channel ^ dbm & 0xFF
    for byte in packet:
        total ^= byte
    data = bytes([channel, dbm & 0xFF, total]) + packet
    return data.replace(b"\xdb", b"\xdb\xdd").replace(b"\xc0", b"\xdb\xdc") + b"\xc0"


@contextlib.contextmanager
def sniffer(**how):
    """The line's other end, and the helper that has opened it."""
    ours, theirs = os.openpty()
    tty.setraw(ours)
    path = os.ttyname(theirs)
    try:
        with Peer(argv=[helper("serial")], **how) as peer:
            peer.send(OpenRequest(f"{path}:type=serial,dlt=230"))
            report = peer.expect(OpenReport)
            assert (report.success, report.dlt, len(report.channels)) == (True, 230, 16), report
            yield peer, ours
    finally:
        for fd in (ours, theirs):
            with contextlib.suppress(OSError):
                os.close(fd)


@pytest.mark.parametrize("helperd", [True, False])
def test_packets_of_every_byte_arrive_with_their_signal(helperd):
    sent = [bytes(range(number, 256)) + b"\xc0\xdb\xdc\xdd" for number in range(0, 250, 10)]
    with sniffer(helperd=helperd) as (peer, line):
        for at, packet in enumerate(sent):
            os.write(line, frame(11 + at % 16, -40 - at, packet))
            peer.until_packets(at + 1)
        assert [(dlt, content) for dlt, _, content, _ in peer.packets()] == [(230, packet) for packet in sent]
        if helperd:
            comments = [dict(options)[1].decode() for options in peer.options()]
            assert comments[:2] == ["signal=-40dBm channel=11", "signal=-41dBm channel=12"]


def test_damaged_frames_are_counted_and_the_next_one_is_read():
    good = frame(11, -50, b"whole")
    spoilt = bytearray(frame(11, -50, b"spoilt"))
    spoilt[4] ^= 1
    with sniffer() as (peer, line):
        os.write(line, b"ttled" + b"\xc0" + good)  # the end of a frame that began before
        os.write(line, bytes(spoilt) + good)
        os.write(line, b"\x01\xc0" + good)
        for _ in range(6):
            os.write(line, b"\x22" * 500)
            select.select([], [], [], 0.01)
        os.write(line, b"\xc0\xc0\xc0" + good)
        peer.until_packets(4)
        assert [content for _, _, content, _ in peer.packets()] == [b"whole"] * 4
        assert peer.lost() == {"bad-record": 4}


def test_tuning_sends_an_order():
    with sniffer() as (peer, line):
        number = peer.send(ConfigureRequest("15"))
        assert peer.expect(ConfigureReport) == ConfigureReport(number, channel="15")
        assert select.select([line], [], [], HANGS_S)[0]
        assert os.read(line, 100) == b"c\x0f\xc0"
        peer.send(ConfigureRequest("27"))
        assert "11 to 26 are" in peer.expect(ConfigureReport).message


def test_a_line_that_is_gone_is_told():
    with sniffer() as (peer, line):
        os.close(line)
        report = peer.expect(ErrorReport)
        assert (report.problem, report.message) == ("device-gone", "the serial line is gone")
        peer.until_eof()
        assert peer.wait() == 1


@pytest.mark.parametrize(
    ("definition", "why"),
    [
        ("/no/such/tty:type=serial", "/no/such/tty: No such file"),
        ("/dev/null:type=serial", "is no serial line"),
        ("/dev/ttyUSB0:type=serial,baudrate=1234", "57600, 115200 and 230400"),
    ],
)
def test_what_is_no_line_is_refused(definition, why):
    with Peer(argv=[helper("serial")]) as peer:
        peer.send(OpenRequest(definition))
        report = peer.expect(OpenReport)
        assert not report.success
        assert why in report.message
