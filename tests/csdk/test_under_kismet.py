"""The C SDK under a Kismet server: the recorded bytes of 2025-09, and definitions that such a server has mangled."""

import contextlib
import json
import os
import socket
import tty
from pathlib import Path

import pytest

from helperd.wire import v3
from helperd.wire.frames import FrameScanner, Run
from helperd.wire.generations import GENERATIONS
from helperd.wire.messages import ListReport, OpenReport, OpenRequest, Ping, Pong, ProbeReport
from tests.csdk import test_serial
from tests.csdk.build import helper
from tests.helpers.kismet import DRIVERS, MAX_FRAME, Server, texts
from tests.helpers.peer import Peer
from tests.helpers.test_recorded_servers import Listener

pytestmark = pytest.mark.need("cc")
HELPERS = ["hello", "serial", "afpacket"]
VECTORS = Path(__file__).parents[1] / "vectors"
RECORDED = {
    entry["id"]: entry
    for entry in json.loads((VECTORS / "index.json").read_text())["recordings"]
    if entry["helper"] == "kismet_cap_pcapfile"
}
GOOD = {
    "open-and-stream", "open-and-stream-radiotap", "open-and-stream-options", "server-open", "server-probe-1",
    "server-probe-2", "probe-ok", "probe-ok-options", "list", "ping", "bytewise", "coalesced", "extra-fields",
    "long-definition", "unknown-command", "v2-ping-discovery",
}  # fmt: skip
BAD = {
    "bad-signature": "bad-signature", "garbage-8k": "bad-signature", "wrong-version": "bad-version",
    "v0-ping": "wrong-generation", "v2-list": "wrong-generation", "bad-payload": "bad-payload",
    "bad-payload-not-a-map": "bad-payload", "bad-payload-truncated-map": "bad-payload",
    "bad-payload-wrong-type": "bad-payload", "empty-payload": "bad-payload", "oversize-length": "frame-too-long",
    "oversize-length-70000": "frame-too-long",
}  # fmt: skip


def named(scenarios):
    return [
        name
        for name, entry in RECORDED.items()
        if name.startswith("kismet-2025-09") and entry["scenario"] in scenarios
    ]


def asked(name):
    """What was sent, and the requests in it."""
    data = (VECTORS / RECORDED[name]["files"]["tosend"]).read_bytes()
    requests = [
        item
        for item in FrameScanner(GENERATIONS, sticky=False).feed(data)
        if not isinstance(item, Run) and item.generation is v3
    ]
    return data, requests


@pytest.mark.parametrize("name", named(GOOD))
@pytest.mark.parametrize("program", HELPERS)
def test_what_a_server_of_2025_sent_is_answered(program, name):
    """Each PING, and the request with its number; what its own capture helper answered decides nothing but that."""
    data, requests = asked(name)
    pings = [frame.seqno for frame in requests if frame.command == 2]
    wanted = [frame for frame in requests if frame.command in {10, 12, 14}]
    ours = Listener()
    with Peer(argv=[helper(program)], greet=False, helperd=False) as peer:
        os.write(peer.to, data)

        def answered():
            told = ours.of(ListReport, ProbeReport, OpenReport)
            pongs = {pong.request for pong in ours.of(Pong)}
            return len(told) >= len(wanted) and (
                pongs >= set(pings) or (len(wanted) and wanted[0].command != 12)
            )

        while not answered():
            got = os.read(peer.source, 65536)
            assert got, f"{ours.messages} {peer.stderr()}"
            ours.feed(got)
        for report, request in zip(ours.of(ListReport, ProbeReport, OpenReport), wanted, strict=False):
            assert report.request == request.seqno
    assert ours.scanner.current is v3


@pytest.mark.parametrize("name", named(BAD))
@pytest.mark.parametrize("program", HELPERS)
def test_what_no_server_may_send_ends_it_with_a_word(program, name):
    data = (VECTORS / RECORDED[name]["files"]["tosend"]).read_bytes()
    with Peer(argv=[helper(program)], greet=False, helperd=False) as peer:
        os.write(peer.to, data)
        assert peer.wait() == 1
        assert BAD[RECORDED[name]["scenario"]] in peer.stderr()


@pytest.mark.parametrize(
    "name", [name for name in RECORDED if "2021-08-R1-ping" in name or "2023-07-R2-v0-ping" in name]
)
@pytest.mark.parametrize("program", HELPERS)
def test_an_older_server_is_told_that_this_is_no_helper_for_it(program, name):
    data = (VECTORS / RECORDED[name]["files"]["tosend"]).read_bytes()
    if data[4:8] in {bytes.fromhex("abcd0002"), bytes.fromhex("a9a90003")}:
        pytest.skip("it begins in v2 or v3")
    with Peer(argv=[helper(program)], greet=False, helperd=False) as peer:
        os.write(peer.to, data)
        assert peer.wait() == 1
        assert "wrong-generation" in peer.stderr()


@pytest.fixture
def place(tmp_path):
    """A server's helper directory with our program as one of its own: hello as OpenBSD's, unless said otherwise."""
    folder = tmp_path / "helpers"
    folder.mkdir()

    def make(*sources, program="hello", kind="openbsdwifi"):
        (folder / DRIVERS[kind]).symlink_to(helper(program, None, f'-DTYPE="{kind}"'))
        return Server(
            f"helper_binary_path={folder}\n" + "".join(f"source={source}\n" for source in sources), tmp_path
        )

    return make


MANGLED = [
    'radio0:channels="1,6,11",name=syn,rate=100,type=openbsdwifi',
    'radio0:Type=openbsdwifi,rate=100,channels="1,6,11"',
    'radio0:name="roof, north",type=openbsdwifi,rate=100,retry',
    "radio0:type=openbsdwifi,vif=mon0,rate=100",
]


@pytest.mark.parametrize("written", MANGLED)
def test_it_is_opened_again_whatever_the_server_has_made_of_the_definition(place, written):
    [source] = place(written).sources
    for _ in range(3):
        with opened(source) as peer:
            peer.until_packets(3)
            said = " ".join(texts(peer))
            mangled = source.text.partition(":")[2].startswith(("6,", " north"))
            assert ("belong to no option" in said) == mangled, (source.text, said)
            assert ("given twice" in said) == mangled
            assert ("no option 'vif'" in said) == ("vif" in source.text)


@contextlib.contextmanager
def opened(source):
    """The helper of a source that the server has opened, until the server closes it."""
    report = source.open()
    peer = source.helper
    try:
        assert report.success, report
        yield peer
        peer.close()
    finally:
        peer.end()
        for fd in (peer.to, peer.source):
            if fd is not None:
                os.close(fd)
        peer.process.stderr.close()


@pytest.mark.parametrize("options", ['channels="11,15",name=syn', "vif=mon0", 'name="roof, north",retry'])
def test_the_serial_sniffer_is_opened_again_by_a_server(place, options):
    ours, theirs = os.openpty()
    tty.setraw(ours)
    try:
        text = f"{os.ttyname(theirs)}:{options},dlt=230,type=radview"
        [source] = place(text, program="serial", kind="radview").sources
        for number in range(3):
            with opened(source) as peer:
                packet = b"\xc0packet %d" % number
                os.write(ours, test_serial.frame(15, -60, packet))
                assert [(dlt, content) for dlt, _, content, _ in peer.until_packets(1)] == [(230, packet)]
                peer.ping()
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.need("packet-socket")
@pytest.mark.parametrize("options", ["promisc=false,name=syn", 'channels="1,6",promisc=false', "vif=mon0"])
def test_the_packet_socket_is_opened_again_by_a_server(place, options):
    [source] = place(f"lo:{options},type=linuxwifi", program="afpacket", kind="linuxwifi").sources
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in range(3):
            with opened(source) as peer:
                wanted = b"under a server %d" % number
                sender.sendto(wanted, ("127.0.0.1", 9))
                while wanted not in [content[42:] for _, _, content, _ in peer.packets()]:
                    assert peer.read()
                peer.ping()


def test_frames_are_what_the_server_takes(place):
    [source] = place("radio0:size=60000,type=openbsdwifi,rate=50").sources
    with source.server.start("openbsdwifi") as peer:
        peer.send(OpenRequest("radio0:size=60000,type=openbsdwifi,rate=50"))
        assert peer.expect(OpenReport).success
        frames = 0
        while frames < 3:
            data = os.read(peer.source, 1 << 20)
            for run in peer.strict.feed(data):
                if hasattr(run, "packets"):
                    frames += run.packets
                    assert (run.stop - run.start) // run.packets <= MAX_FRAME
        os.write(peer.to, v3.encode(Ping(), 9))
