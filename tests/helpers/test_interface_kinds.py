"""Every kind of network interface: what is captured is what tcpdump captures, to the byte or as tshark reads it."""

import contextlib
import re
import select
import socket
import struct
import subprocess
import time

import pytest

from helperd import pcapng
from helperd.helpers import _bpf, _packetlink
from helperd.helpers._packetlink import Framing
from helperd.helpers.sdk import Refused
from helperd.wire.messages import (
    Changed,
    ListReport,
    ListRequest,
    OpenReport,
    OpenRequest,
    ProbeReport,
    ProbeRequest,
    Text,
)
from tests.helpers.peer import Peer
from tests.helpers.veth import Sender, Tun, frame, ip, namespace, numbers, pair
from tests.patience import HANGS_S

pytestmark = pytest.mark.need("root", "netns", "veth", "packet-socket", "ip", "tcpdump", "tshark")
IPV4 = bytes.fromhex("450000201234000040110000 0a000001 0a000002 0035003500 0c0000 64617461")
IPV6 = bytes.fromhex(f"60000000000c1140fe80{1:028x}fe80{2:028x}00350035000c000064617461")
NETLINK = struct.pack("=IHHII", 32, 18, 0x301, 7, 0) + bytes(16)
CAN = struct.pack("=IB3x8s", 0x80000123, 8, b"canframe")
CAN_FD = struct.pack("=IBB2x12s", 0x123, 12, 4, b"twelve bytes")
BEACON = b"\x80\0\0\0" + b"\xff" * 6 + b"\2\0\0\0\0\1" * 2 + bytes(14) + b"\0\4test"
RADIOTAP = b"\0\0\x08\0\0\0\0\0" + BEACON
LOWPAN = bytes.fromhex("41c801cdabffff01020304050607080102")
VSOCK = struct.pack("<QQIIHHH2x", 2, 3, 1024, 1025, 1, 0, 0)


@pytest.fixture
def bare():
    with namespace():
        ip("link set lo up")
        yield


@contextlib.contextmanager
def dumped(tmp_path, interface, *words):
    """tcpdump at work beside us; yields a function that ends it and returns its file."""
    file = tmp_path / "theirs.pcap"
    argv = ["tcpdump", "-n", "-U", "--immediate-mode", "-Z", "root", "-i", interface, "-w", str(file), *words]
    with subprocess.Popen(argv, stderr=subprocess.PIPE) as tcpdump:
        try:
            said = b""
            while b"listening on" not in said:
                assert select.select([tcpdump.stderr], [], [], HANGS_S)[0]
                said += tcpdump.stderr.read1()

            def done():
                tcpdump.terminate()
                tcpdump.wait(HANGS_S)
                return file

            done.has = lambda: file.stat().st_size if file.exists() else 0
            yield done
        finally:
            tcpdump.kill()


def read(file):
    """A file's link type, and its packets without their stamps."""
    data = file.read_bytes()
    (linktype,) = struct.unpack_from("<I", data, 20)
    at, packets = 24, []
    while at < len(data):
        captured, original = struct.unpack_from("<2I", data, at + 8)
        packets.append((data[at + 16 : at + 16 + captured], original))
        at += 16 + captured
    return linktype, packets


def written(path, linktype, packets):
    """Our packets as a file."""
    blocks = [pcapng.section_header(), pcapng.interface_block(linktype)]
    blocks += [pcapng.packet_block(0, 10**18, content, original) for content, original in packets]
    path.write_bytes(b"".join(blocks))
    return path


def dissected(file):
    """What tshark makes of each packet, the layers of cooked headers left out."""
    fields = ("frame.protocols", "_ws.col.Protocol", "_ws.col.Info")
    argv = [
        "tshark",
        "-n",
        "-r",
        str(file),
        "-T",
        "fields",
        *(word for name in fields for word in ("-e", name)),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=HANGS_S)
    return [re.sub(r"^(sll:|sll2:|raw:|ethertype:)*", "", line) for line in done.stdout.splitlines()]


def opened(definition, **peer):
    helper = Peer("interface", **peer)
    try:
        helper.send(OpenRequest(definition))
        helper.report = helper.expect(OpenReport)
        assert helper.report.success, helper.report.message
    except BaseException:
        helper.__exit__()
        raise
    return helper


KINDS = [
    (65534, 0x0800, IPV4, 101, True),
    (65534, 0x86DD, IPV6, 101, True),
    (824, 0, NETLINK, 253, True),
    (824, 16, NETLINK, 253, True),
    (280, 0x0C, CAN, 227, True),
    (801, 0x04, BEACON, 105, True),
    (803, 0x04, RADIOTAP, 127, True),
    (804, 0xF6, LOWPAN, 230, True),
    (826, 0, VSOCK, 271, True),
    (512, 0x0800, IPV4, 276, False),  # PPP
    (768, 0x0800, IPV4, 276, False),  # IPIP
    (769, 0x86DD, IPV6, 276, False),  # IP6IP6
    (776, 0x86DD, IPV6, 276, False),  # SIT
    (778, 0x0800, IPV4, 276, False),  # GRE
    (823, 0x86DD, IPV6, 276, False),  # GRE over IPv6
    (519, 0x0800, IPV4, 276, False),  # raw IP
    (805, 0xF6, LOWPAN + b"\1\2", 276, False),  # with a checksum
    (32, 0x0800, IPV4, 276, False),  # InfiniBand
    (825, 0x86DD, IPV6, 276, False),  # 6LoWPAN
    (4711, 0x0806, bytes(28), 276, False),  # what nobody knows
]


@pytest.mark.parametrize("helperd", [True, False], ids=["helperd", "kismet"])
@pytest.mark.parametrize(("kind", "protocol", "content", "linktype", "same"), KINDS)
def test_a_packet_of_any_kind_of_interface_is_what_tcpdump_says(
    bare, tmp_path, kind, protocol, content, linktype, same, helperd
):
    with (
        Tun(kind) as tun,
        dumped(tmp_path, "hdt", "-Q", "in") as dump,
        opened("hdt:type=interface", helperd=helperd) as helper,
    ):
        assert _packetlink.look("hdt").linktype == linktype
        found = []
        until = time.monotonic() + HANGS_S
        while len(found) < 10 or dump.has() < 24 + 10 * (16 + len(content)):
            assert time.monotonic() < until
            tun.receive(protocol, content)
            assert helper.read(timeout=0.02)
            found = [(data, original) for _, _, data, original in helper.packets() if content[8:] in data]
        theirs = dump()
    found = found[:10]
    ours = written(tmp_path / "ours.pcapng", linktype, found)
    if same:
        their_type, packets = read(theirs)
        assert (their_type, packets[:10]) == (linktype, found)
    assert dissected(ours) == dissected(theirs)[:10]


def test_a_can_frame_of_the_second_kind_says_so(bare):
    """Not to be compared: libpcap 1.10.3 takes the flag away."""
    with Tun(280) as tun, opened("hdt:type=interface") as helper:
        tun.receive(0x0D, CAN_FD)
        while not helper.packets():
            assert helper.read()
        assert helper.packets()[0][2] == b"\0\0\x01\x23\x0c\x04\0\0twelve bytes"


@pytest.mark.parametrize(
    ("tag", "linktype"), [("edsa", 285), ("dsa", 284), ("brcm", 281), ("rtl4_a", 1), ("none", 1), (None, 1)]
)
def test_the_way_to_a_switch_has_the_link_type_of_its_tag(tmp_path, tag, linktype):
    """Laid out as /sys: there is no such switch here."""
    folder = tmp_path / "eth0"
    (folder / "dsa").mkdir(parents=True)
    (folder / "ifindex").write_text("7\n")
    if tag is not None:
        (folder / "dsa" / "tagging").write_text(f"{tag}\n")
    found = _packetlink.tagging("eth0", 7, str(tmp_path))
    assert found == (tag or "")
    assert _packetlink.Link("eth0", 7, 1, True, False, "", found).linktype == linktype
    assert _packetlink.tagging("eth0", 8, str(tmp_path)) == "", "of another namespace"


def test_tcpdump_calls_every_link_type_what_it_is_here(tmp_path):
    wanted = {
        281: "DSA_TAG_BRCM ",
        282: "DSA_TAG_BRCM_PREPEND ",
        284: "DSA_TAG_DSA ",
        285: "DSA_TAG_EDSA ",
        276: "LINUX_SLL2 ",
    }
    wanted |= {
        253: "NETLINK ",
        227: "CAN_SOCKETCAN ",
        271: "VSOCK ",
        230: "IEEE802_15_4_NOFCS ",
        127: "IEEE802_11_RADIO ",
    }
    wanted |= {1: "EN10MB ", 101: "RAW ", 105: "IEEE802_11 ", 119: "PRISM_HEADER "}
    ours = {
        *_packetlink.TAGGED.values(),
        _packetlink.COOKED[0],
        *(known[0] for known in _packetlink.LINKTYPES.values()),
    }
    assert ours == set(wanted)
    for linktype, name in wanted.items():
        file = tmp_path / "empty.pcap"
        file.write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, linktype))
        done = subprocess.run(["tcpdump", "-r", str(file)], capture_output=True, text=True, check=True)
        assert f"link-type {name}" in done.stderr


# all interfaces at once


def cooked(helper):
    """What came: interface number, hardware, direction, protocol, the packet behind the header."""
    found = []
    for dlt, _, content, original in helper.packets():
        assert (dlt, original >= len(content)) == (276, True)
        protocol, zero, index, hardware, direction, _ = struct.unpack_from(">HHIHBB", content)
        assert not zero
        found.append((index, hardware, direction, protocol, content[20:]))
    return found


def until(helper, true):
    while not true(found := cooked(helper)):
        assert helper.read(), helper.stderr()
    return found


@pytest.fixture
def three(bare):
    pair()
    with Tun(65534) as tun:
        yield tun


@pytest.mark.parametrize("helperd", [True, False], ids=["helperd", "kismet"])
def test_any_hears_every_interface_and_says_which(three, helperd):
    number = {name: index for index, name in socket.if_nameindex()}
    with opened("any", helperd=helperd) as helper, Sender() as sender, Sender("lo") as loop:
        assert helper.report.dlt == 276
        assert helper.report.message.startswith("captures on all interfaces, by their numbers: 1 lo, ")
        sender.send([frame(7, 80)])
        three.receive(0x0800, IPV4)
        loop.send([frame(9, 80)])
        found = until(
            helper,
            lambda found: {number[name] for name in ("hda", "hdb", "hdt", "lo")} <= {f[0] for f in found},
        )
        ours = [packet for packet in found if packet[3] in {0x88B5, 0x0800}]
        assert sorted(packet[:4] for packet in ours) == sorted(
            [
                (number["hda"], 1, 4, 0x88B5),  # sent there
                (number["hdb"], 1, 3, 0x88B5),  # and heard here, meant for somebody else
                (number["hdt"], 65534, 0, 0x0800),
                (number["lo"], 772, 3, 0x88B5),  # once, though it is sent and received
            ]
        )
        assert [packet[4] for packet in ours if packet[0] == number["hdt"]] == [IPV4]
        assert {packet[4] for packet in ours if packet[0] in {number["hda"], number["hdb"]}} == {
            frame(7, 80)[14:]
        }


def clean(content):
    """Without the bytes behind a short address: tcpdump has there whatever was in its memory."""
    return content[:12] + content[12 : 12 + content[11]].ljust(8, b"\0") + content[20:]


def test_any_is_to_the_byte_what_tcpdump_captures(three, tmp_path):
    with (
        dumped(tmp_path, "any") as dump,
        opened("any:type=interface") as helper,
        Sender() as sender,
        Sender("lo") as loop,
    ):
        sent = 0
        deadline = time.monotonic() + HANGS_S
        while len(cooked(helper)) < 60 or dump.has() < 10_000:
            assert time.monotonic() < deadline
            sender.send([frame(sent, 60 + sent % 50)])
            loop.send([frame(sent, 60 + sent % 50)])
            three.receive(0x86DD, IPV6)
            three.receive(0x0800, IPV4)
            sent += 1
            assert helper.read(timeout=0.02)
        linktype, theirs = read(dump())
        assert linktype == 276
        theirs = [(clean(content), original) for content, original in theirs]
        ours = [(content, original) for _, _, content, original in helper.packets()]
        first = next(at for at in range(len(ours)) if ours[at : at + 30] == theirs[:30])
        both = min(len(ours) - first, len(theirs))
        assert ours[first : first + both] == theirs[:both]


def test_an_interface_that_comes_later_is_heard_by_any_and_one_that_goes_ends_nothing(bare):
    with opened("any:type=interface") as helper:
        pair()
        with Sender() as sender:
            sender.send([frame(1)])
            until(helper, lambda found: sum(packet[3] == 0x88B5 for packet in found) == 2)
        ip("link del hda")
        with Sender("lo") as loop:
            loop.send([frame(2)])
            until(helper, lambda found: sum(packet[3] == 0x88B5 for packet in found) == 3)
        helper.terminate()
        assert helper.wait() == 0


def test_a_vlan_tag_is_behind_the_cooked_header(three, tmp_path):
    with opened("any:type=interface") as helper, Sender() as sender:
        sender.send([frame(1, 80, tag=0x2005)])
        found = until(helper, lambda found: sum(packet[3] == 0x8100 for packet in found) == 2)
        assert {packet[4] for packet in found if packet[3] == 0x8100} == {frame(1, 80, tag=0x2005)[14:]}
        packets = [(content, original) for _, _, content, original in helper.packets()]
        file = written(tmp_path / "ours.pcapng", 276, packets)
        assert any("vlan" in line for line in dissected(file))


def test_any_is_probed_and_listed_and_not_promiscuous(three):
    with Peer("interface") as helper:
        helper.send(ProbeRequest("any"))
        assert helper.expect(ProbeReport).success
    with Peer("interface") as helper:
        helper.send(ListRequest())
        found = {one.name: one.hardware for one in helper.expect(ListReport).interfaces}
        assert found["any"] == "all interfaces at once"
    for words, warned in (("", False), (",promisc=false", False), (",promisc=true", True)):
        with opened(f"any:type=interface{words}") as helper:
            shown = subprocess.run(
                ["ip", "-d", "link", "show", "hdb"], capture_output=True, text=True, check=True
            )
            assert "promiscuity 0" in shown.stdout
            if warned:
                assert "promisc: not possible on all interfaces at once" in helper.expect(Text).text


# filters, where the packets lack their header yet


@pytest.mark.parametrize(
    ("expression", "heard"),
    [
        ("ip", {"ip"}),
        ("ip6", {"ip6"}),
        ("udp port 53", {"ip", "ip6"}),
        ("arp", {"arp"}),
        ("host 10.0.0.1 and udp", {"ip"}),
        ("ip[8] = 64", {"ip"}),
        ("ip6[40:2] = 53", {"ip6"}),
        ("not ip and not ip6", {"arp"}),
        ("inbound and ip", {"ip"}),
        ("outbound and ip", set()),
        ("ifindex {hdt} and arp", {"arp"}),
        ("ifindex 4711", set()),
        ("greater 70", {"ip6"}),  # its own bytes and the header's: 52 and 20
        ("less 51", {"arp"}),
        ("len > 48 and len < 53", {"ip"}),
        ("len + 3 > 50 and (udp or greater 53)", {"ip", "ip6"}),
        ("ether proto 0x0806 or link[0:2] = 0x86dd", {"arp", "ip6"}),
    ],
)
@pytest.mark.parametrize("device", ["any", "hdt"])
def test_a_filter_takes_what_it_takes_of_the_capture_file(bare, tmp_path, expression, heard, device):
    packets = {
        "ip": (0x0800, IPV4),
        "ip6": (0x86DD, IPV6),
        "arp": (0x0806, bytes.fromhex("0001080006040001") + bytes(20)),
    }
    with Tun(512) as tun:
        ip("link set lo down")
        number = {name: str(index) for index, name in socket.if_nameindex()}
        expression = expression.replace("{hdt}", number["hdt"])
        end = (0x0800, b"\x45\0\0\x14" + bytes(5) + b"\xfd" + bytes(10))  # of a protocol of its own
        with opened(f'{device}:type=interface,filter="({expression}) or ip proto 253"') as helper:
            for packet in packets.values():
                tun.receive(*packet)
            tun.receive(*end)
            found = until(helper, lambda found: any(packet[4] == end[1] for packet in found))
            got = {name for name, packet in packets.items() if packet[1] in {one[4] for one in found}}
            assert got == heard
    # the same expression, of a file of what was sent
    sent = [
        (struct.pack(">HHIHBB8x", kind, 0, int(number["hdt"]), 512, 0, 0) + body, 0)
        for kind, body in packets.values()
    ]
    file = tmp_path / "sent.pcap"
    with file.open("wb") as out:
        out.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 276))
        for content, _ in sent:
            out.write(struct.pack("<4I", 1, 0, len(content), len(content)) + content)
    argv = ["tcpdump", "-r", str(file), "-w", str(tmp_path / "taken.pcap"), "--", expression]
    subprocess.run(argv, check=True, capture_output=True)
    taken = {content[20:] for content, _ in read(tmp_path / "taken.pcap")[1]}
    assert {name for name, packet in packets.items() if packet[1] in taken} == heard


def test_a_filter_on_netlink_reads_the_family_beside_the_packet(bare):
    with Tun(824) as tun, opened('hdt:type=interface,filter="link[14:2] = 16 and link[16] = 32"') as helper:
        tun.receive(0, NETLINK)
        tun.receive(16, NETLINK)
        while not helper.packets():
            assert helper.read()
        assert [content[14:] for _, _, content, _ in helper.packets()] == [b"\0\x10" + NETLINK]


@pytest.mark.parametrize(
    "expression", ["link[1] = 5", "link[12:4] = 0", "link[ip[0]] = 5", "vlan 5", "link[0:4] = 1"]
)
def test_what_no_filter_knows_of_a_cooked_header_is_refused(expression):
    with pytest.raises(Refused, match="pcap-filter"):
        _bpf.compile_filter(expression, 276, 96, "any", Framing.SLL2)


def test_the_snap_length_counts_the_cooked_header_and_leaves_a_byte_behind_it(three):
    for snaplen, kept in ((16, 21), (60, 60)):
        with opened(f"any:type=interface,snaplen={snaplen}") as helper, Sender() as sender:
            sender.send([frame(1, 200)])
            while not (found := [packet for packet in helper.packets() if packet[3] == 206]):
                assert helper.read()
            assert {len(packet[2]) for packet in found} == {kept}
            assert not [message for message in helper.messages if isinstance(message, Changed)], "as ordered"


@pytest.mark.parametrize("helperd", [True, False], ids=["helperd", "kismet"])
def test_a_packet_longer_than_the_ring_takes_is_cut_and_counted(bare, helperd):
    ip("link set lo mtu 400000")
    with opened("lo:type=interface", helperd=helperd) as helper, Sender("lo") as sender:
        sender.socket.setsockopt(socket.SOL_SOCKET, 32, 4 << 20)  # SO_SNDBUFFORCE
        sender.send([frame(1, 300_000), frame(2, 64)])
        while 2 not in numbers(helper.packets()):
            assert helper.read()
        long = next(packet for packet in helper.packets() if len(packet[2]) > 1000)
        assert long[3] == 300_000
        assert 200_000 < len(long[2]) < 262_144 if helperd else 8000 < len(long[2]) < 16_384
        texts = [message.text for message in helper.messages if isinstance(message, Text)]
        assert any(text.startswith("1 packets cut") for text in texts)
        counted = [message for message in helper.messages if isinstance(message, Changed)]
        assert counted == ([Changed("cut", 1)] if helperd else [])
