"""The interface helper in real processes, on veth pairs in namespaces of the test's own."""

import os
import re
import socket
import struct
import subprocess
import sys
import time

import pytest

from helperd.helpers import _bpf, _packetlink
from helperd.helpers.sdk import Refused
from helperd.wire.messages import (
    ErrorReport,
    ListReport,
    ListRequest,
    Lost,
    OpenReport,
    OpenRequest,
    ProbeReport,
    ProbeRequest,
    Text,
)
from tests.helpers.peer import ENTRY, Peer
from tests.helpers.veth import Sender, frame, ip, namespace, numbers, pair, statistic
from tests.patience import HANGS_S

pytestmark = pytest.mark.need("root", "netns", "veth", "packet-socket", "ip")
WITHOUT = [
    *("setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw"),
    *(sys.executable, "-I", "-S", str(ENTRY), "interface"),
]


@pytest.fixture
def veth():
    with namespace():
        pair()
        yield


@pytest.fixture
def bare():
    with namespace():
        yield


def opened(options="", interface="hdb", **peer):
    """A helper that captures already."""
    helper = Peer("interface", **peer)
    try:
        helper.send(OpenRequest(f"{interface}:type=interface{',' if options else ''}{options}"))
        report = helper.expect(OpenReport)
        assert report.success, report.message
    except BaseException:
        helper.__exit__()
        raise
    helper.report = report
    return helper


def until(helper, count):
    """Our own packets, once so many have come."""
    while len(found := numbers(helper.packets())) < count:
        assert helper.read(), f"ended early: {helper.messages} {helper.stderr()}"
    return found


def refused(definition, **peer):
    with Peer("interface", **peer) as helper:
        helper.send(OpenRequest(definition))
        report = helper.expect(OpenReport)
        assert not report.success
        return report.message


# packets


@pytest.mark.parametrize("helperd", [True, False], ids=["helperd", "kismet"])
def test_every_packet_comes_in_order_byte_for_byte(veth, helperd):
    sent = [frame(number, 60 + number % 1400) for number in range(3000)]
    before = time.time_ns()
    with opened(helperd=helperd) as helper, Sender() as sender:
        sender.send(sent)
        until(helper, 3000)
        got = [packet for packet in helper.packets() if packet[2][12:14] == b"\x88\xb5"]
        assert helper.linktype == 1
        assert [content for _, _, content, _ in got] == sent
        assert all(original == len(content) for _, _, content, original in got)
        stamps = [stamp for _, stamp, _, _ in got]
        assert stamps == sorted(stamps)
        assert before - 2000 <= stamps[0] <= stamps[-1] <= time.time_ns()
        if helperd:
            assert any(stamp % 1000 for stamp in stamps), "nanoseconds"
        helper.terminate()
        assert helper.wait() == 0


def test_a_flood_of_equal_packets_takes_the_fast_way_unharmed(veth):
    sent = [frame(number, 200) for number in range(20_000)]
    with opened() as helper, Sender() as sender:
        sender.send(sent)
        until(helper, 20_000)
        assert [packet[2] for packet in helper.packets() if packet[2][12:14] == b"\x88\xb5"] == sent


def test_what_the_interface_sends_is_heard_too(veth):
    with opened() as helper, Sender("hdb") as sender:
        sender.send([frame(number) for number in range(10)])
        assert until(helper, 10) == list(range(10))


@pytest.mark.parametrize("helperd", [True, False], ids=["helperd", "kismet"])
def test_a_vlan_tag_is_where_it_was(veth, helperd):
    with opened(helperd=helperd) as helper, Sender() as sender:
        sent = [frame(number, 100, tag=0x2000 | number if number % 3 else None) for number in range(30)]
        sender.send(sent)
        while len(got := [p[2] for p in helper.packets() if p[2][:12] == sent[0][:12]]) < 30:
            assert helper.read()
        assert got == sent


def test_the_snap_length_cuts_and_tells_the_true_length(veth):
    with opened("snaplen=60") as helper, Sender() as sender:
        sender.send([frame(1, 500), frame(2, 60), frame(3, 500, tag=5)])
        until(helper, 2)
        while len(helper.packets()) < 3:
            helper.read()
        assert [(len(content), original) for _, _, content, original in helper.packets()] == [
            (60, 500),
            (60, 60),
            (60, 500),
        ]


def test_a_filter_lets_nothing_else_through_not_even_at_the_start(veth):
    flood = subprocess.Popen([sys.executable, "-c", FLOOD], stdout=subprocess.PIPE)
    try:
        flood.stdout.read(1)
        with opened('filter="ether proto 0x88b5 and ether[17] = 7"') as h:
            until(h, 50)
            assert set(numbers(h.packets())) == {7}
            assert len(numbers(h.packets())) == len(h.packets())
    finally:
        flood.kill()
        flood.wait()
        flood.stdout.close()


FLOOD = """
import socket, struct, sys
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
sock.bind(("hda", 0))
frames = [(b"\\2" * 12 + struct.pack(">HI", 0x88b5, n)).ljust(64, b"x") for n in range(16)]
print("!", end="", flush=True)
while True:
    for frame in frames:
        sock.send(frame)
"""


@pytest.mark.need("tcpdump")
def test_words_that_read_beside_the_packet_are_compiled_for_the_interface(veth):
    with opened('filter="vlan 5"') as helper, Sender() as sender:
        sender.send([frame(1), frame(2, tag=6), frame(3, tag=5), frame(4)])
        while not helper.packets():
            helper.read()
        assert [content for _, _, content, _ in helper.packets()] == [frame(3, tag=5)]


@pytest.mark.need("tcpdump")
@pytest.mark.parametrize("expression", ["prto 5", "tcp port", "-w /tmp/never", "ether[", "$(id)"])
def test_a_wrong_filter_is_refused_in_tcpdumps_words(veth, expression):
    message = refused(f'hdb:type=interface,filter="{expression}"')
    assert "filter" in message
    assert "pcap-filter" in message
    assert not os.path.exists("/tmp/never")


def test_loopback_is_heard_once(bare):
    ip("link set lo up")
    with opened(interface="lo") as helper, Sender("lo") as sender:
        sender.send([frame(number) for number in range(20)])
        assert until(helper, 20) == list(range(20))
        assert helper.linktype == 1
        helper.terminate()
        helper.wait()
        helper.until_eof()
        assert numbers(helper.packets()) == list(range(20))


def test_two_sources_on_one_interface_hear_the_same(veth):
    with opened() as one, Peer("interface") as two, Sender() as sender:
        two.send(OpenRequest('hdb:type=interface,filter="ether[17] > 4"'))
        assert two.expect(OpenReport).success
        sender.send([frame(number) for number in range(10)])
        assert until(one, 10) == list(range(10))
        assert until(two, 5) == list(range(5, 10))


# losses


@pytest.mark.parametrize("size", [60, 0], ids=["alike", "mixed"])
def test_sent_is_received_plus_lost_to_the_packet(veth, size):
    with opened("buffer=512KiB") as helper, Sender() as sender:
        total = 30_000
        sender.send(frame(number, size or 60 + number * 7 % 1400) for number in range(total))
        sent = total - statistic("hda", "tx_dropped")
        lost = lambda: sum(m.packets for m in helper.messages if isinstance(m, Lost))  # noqa: E731
        while sum(run.packets for run in helper.runs) + lost() < sent:
            assert helper.read()
        assert lost() > 0, "nobody read, so the ring must have been too small"
        assert {m.reason for m in helper.messages if isinstance(m, Lost)} == {"kernel"}
        got = numbers(helper.packets())
        assert got == sorted(set(got))
        assert len(got) + lost() == sent
        helper.terminate()
        helper.wait()
        helper.until_eof()
        assert sum(run.packets for run in helper.runs) + lost() == sent


# the interface goes and comes


def texts(helper):
    return [m.text for m in helper.messages if isinstance(m, Text)]


def until_text(helper, pattern):
    while not any(re.search(pattern, text) for text in texts(helper)):
        assert helper.read(), f"ended early: {helper.messages}"


def until_heard(helper, sender, number):
    """Send until it is heard: the other end's carrier comes back when the kernel gets to it."""
    until = time.monotonic() + HANGS_S
    while number not in (found := numbers(helper.packets())):
        assert time.monotonic() < until
        sender.send([frame(number)])
        helper.read(timeout=0.05)
    return found


def test_an_interface_that_goes_down_is_waited_for(veth):
    with opened() as helper, Sender() as sender:
        sender.send([frame(1)])
        until(helper, 1)
        ip("link set hdb down")
        until_text(helper, "hdb went down.*ip link set hdb up")
        helper.ping()
        ip("link set hdb up")
        until_text(helper, "hdb is up again")
        assert until_heard(helper, sender, 2)[:2] == [1, 2]


def test_one_that_is_down_from_the_start_is_opened_with_a_warning(veth):
    ip("link set hdb down")
    with opened() as helper, Sender() as sender:
        until_text(helper, "hdb is down; packets come when it is up: ip link set hdb up")
        ip("link set hdb up")
        until_text(helper, "up again")
        assert until_heard(helper, sender, 1)[0] == 1


def test_one_that_is_removed_ends_the_helper_after_the_last_packet(veth):
    with opened() as helper, Sender() as sender:
        sender.send([frame(number) for number in range(100)])
        ip("link del hdb")
        error = helper.expect(ErrorReport)
        assert "no such interface any more: hdb was removed" in error.message
        helper.until_eof()
        assert numbers(helper.packets()) == list(range(100))
        assert helper.wait() == 1
    assert "no such interface: hdb; there are lo" in refused("hdb:type=interface")


def test_another_interface_that_goes_changes_nothing(veth):
    with opened() as helper, Sender() as sender:
        ip("link add other type veth peer name third")
        ip("link set other up")
        ip("link del other")
        sender.send([frame(1)])
        assert until(helper, 1) == [1]
        assert not [m for m in helper.messages if isinstance(m, ErrorReport)]


# privilege


def test_it_keeps_no_privilege_once_it_captures(veth):
    with opened() as helper, Sender() as sender:
        sender.send([frame(1)])
        until(helper, 1)
        threads = os.listdir(f"/proc/{helper.process.pid}/task")
        assert len(threads) == 2
        for thread in threads:
            with open(f"/proc/{helper.process.pid}/task/{thread}/status") as lines:
                status = dict(line.rstrip("\n").split(":\t", 1) for line in lines if ":\t" in line)
            assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {0}
            assert status["NoNewPrivs"] == "1"
            assert status["Seccomp"] == "2"


def test_net_raw_is_all_it_needs(veth):
    argv = [
        *("setpriv", "--bounding-set=-all,+net_raw", "--inh-caps=-all"),
        *(sys.executable, "-I", "-S", str(ENTRY), "interface"),
    ]
    with opened("promisc=true", argv=argv) as helper, Sender() as sender:
        sender.send([frame(1)])
        assert until(helper, 1) == [1]


def test_without_permission_the_fix_is_named(veth):
    assert 'capabilities = ["net_raw"]' in refused("hdb:type=interface", argv=WITHOUT)
    with Peer(argv=WITHOUT) as helper:
        helper.send(ListRequest())
        report = helper.expect(ListReport)
    assert {i.name for i in report.interfaces} >= {"lo", "hda", "hdb"}
    assert all('capabilities = ["net_raw"]' in interface.hardware for interface in report.interfaces)


# questions


def test_all_interfaces_are_listed_with_what_keeps_them_from_use(veth):
    ip("link set hda down")
    with Peer("interface") as helper:
        helper.send(ListRequest())
        found = {i.name: i.hardware for i in helper.expect(ListReport).interfaces}
    assert found["hda"] == "veth; down: ip link set hda up"
    assert found["hdb"] == "veth"
    assert "down: ip link set lo up" in found["lo"]


@pytest.mark.parametrize(
    ("definition", "answer", "words"),
    [
        ("hdb", True, "captures on hdb"),
        ("hdb:type=interface,snaplen=100", True, ""),
        ("hdb:snaplan=100", False, "did you mean snaplen"),
        ("nosuch", False, ""),
        ("nosuch:type=interface", False, "no such interface: nosuch"),
    ],
)
def test_probing(veth, definition, answer, words):
    with Peer("interface") as helper:
        helper.send(ProbeRequest(definition))
        report = helper.expect(ProbeReport)
    assert report.success is answer
    assert words in report.message


@pytest.mark.parametrize(
    "name", ["", "..", "a b", "a/b", "much-too-long-for-it", "tab\there", "ü" * 8, "x%d", "\x7f"]
)
def test_odd_names_are_refused(name):
    with pytest.raises(Refused, match="no name of an interface"):
        _packetlink.check_name(name)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("snaplen=15", "from 16"),
        ("snaplen=x", "a number"),
        ("buffer=1", "512KiB to 1024MiB"),
        ("buffer=9999GiB", "512KiB to"),
        ("buffer=big", "such as 64MiB"),
        ("timeout=0", "from 1 to 1000"),
    ],
)
def test_options_out_of_range_are_refused(veth, option, words):
    assert words in refused(f"hdb:type=interface,{option}")


# filters, without an interface


def test_without_an_expression_everything_is_kept():
    assert _bpf.compile_filter("  ", 1, 96, "x") == [(6, 0, 0, 96)]


@pytest.mark.need("tcpdump")
def test_the_link_type_and_the_snap_length_reach_the_compiler():
    ethernet = _bpf.compile_filter("ip", 1, 96, "x")
    raw = _bpf.compile_filter("ip", 101, 96, "x")
    assert ethernet[0] == (40, 0, 0, 12)
    assert ethernet != raw
    assert {row[3] for row in ethernet if row[0] == 6} == {0, 96}


@pytest.mark.need("tcpdump")
@pytest.mark.parametrize("expression", ["x" * 9000, "ip\nand tcp"])
def test_absurd_expressions_are_refused(expression):
    with pytest.raises(Refused, match="filter"):
        _bpf.compile_filter(expression, 1, 96, "x")


def test_a_watch_looks_when_it_may_have_missed_something():
    """The first time, and whenever the kernel has dropped news; without sending anything."""
    number = socket.if_nametoindex("lo")
    up = _packetlink.look("lo").up
    for index, gone in ((number, False), (2**31 - 1, True), (0, False)):
        watch = _packetlink.Watch(index, up=not up)
        try:
            watch.read()
            assert (watch.up, watch.gone) == (up if index == number else not up, gone)
            watch.up, watch._unsure = not up, True
            watch.read()
            assert watch.up == (up if index == number else not up)
        finally:
            watch.close()


def test_news_of_others_and_garbage_change_nothing():
    watch = _packetlink.Watch(5, up=True)
    try:
        link = struct.pack("=IHHIIBxHiII", 32, 17, 0, 0, 0, 0, 1, 6, 0, 0)
        bridge = struct.pack("=IHHIIBxHiII", 32, 17, 0, 0, 0, 7, 1, 5, 0, 0)
        for data in (b"", b"x", bytes(16), link, bridge, link[:20], struct.pack("=IHHII", 8, 17, 0, 0, 0)):
            watch._take(data)
        assert (watch.up, watch.gone) == (True, False)
        watch._take(link + struct.pack("=IHHIIBxHiII", 32, 17, 0, 0, 0, 0, 1, 5, 0, 0))
        assert watch.gone
    finally:
        watch.close()
