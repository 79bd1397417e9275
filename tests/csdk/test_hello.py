"""The C SDK by its smallest helper: what the Python SDK does at each point, this one does."""

import os
import re
import shutil
import struct
import subprocess

import pytest

from helperd.wire import identity, v3
from helperd.wire.frames import Kind
from helperd.wire.messages import (
    ConfigureReport,
    ConfigureRequest,
    ErrorReport,
    Hopping,
    Interface,
    ListReport,
    ListRequest,
    OpenReport,
    OpenRequest,
    Ping,
    Pong,
    ProbeReport,
    ProbeRequest,
    Shutdown,
    Text,
)
from tests.csdk.build import SDK, helper
from tests.helpers.peer import Peer
from tests.patience import HANGS_S, promptly

pytestmark = pytest.mark.need("cc")


@pytest.fixture
def hello():
    return [helper("hello")]


def numbers(packets):
    return [struct.unpack(">Q", content[:8])[0] for _, _, content, _ in packets]


@pytest.mark.parametrize("cc", ["gcc", "clang", "musl-gcc"])
def test_it_builds_without_a_warning(cc):
    if shutil.which(cc) is None:
        pytest.skip(f"{cc} is not installed")
    shown = subprocess.run([helper("hello", cc), "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("hello 1 (helperd C SDK")


@pytest.mark.parametrize("name", ["hello", "serial", "afpacket"])
def test_a_helper_is_short(name):
    assert len((SDK / f"{name}.c").read_text().splitlines()) < 150


def says_something(line):
    """Whether a line of C is more than brackets; its comments are gone already."""
    return re.search(r"\w", line)


def test_the_framework_is_small():
    """Lines, and lines of code (no comment, not empty, no lone bracket): what there is to maintain and to audit."""
    texts = [(SDK / name).read_text() for name in ("helperd.h", "helperd.c")]
    code = [re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL).splitlines() for text in texts]
    assert sum(len(list(filter(says_something, lines))) for lines in code) < 1300
    assert sum(len(text.splitlines()) for text in texts) < 1700
    assert max(len(line) for text in texts for line in text.splitlines()) <= 120


@pytest.mark.parametrize("helperd", [True, False])
def test_it_lists(hello, helperd):
    with Peer(argv=hello, helperd=helperd) as peer:
        number = peer.send(ListRequest())
        report = peer.expect(ListReport)
        assert (report.request, report.interfaces) == (
            number,
            (Interface("hello", "", "a counter"),),
        )
        peer.until_eof()
        assert peer.wait() == 0


@pytest.mark.parametrize(
    ("definition", "mine"),
    [("hello", True), ("x:type=hello", True), ("x:type=other", False), ("wlan0", False)],
)
def test_it_probes(hello, definition, mine):
    with Peer(argv=hello) as peer:
        peer.send(ProbeRequest(definition))
        report = peer.expect(ProbeReport)
        assert (report.success, report.hardware, report.problem) == (mine, "a counter", "")
        assert report.channels == ("1", "2", "3", "4", "13")
        peer.until_eof()
        assert peer.wait() == 0


@pytest.mark.parametrize("helperd", [True, False])
@pytest.mark.parametrize("size", [8, 64, 1500, 15000])
def test_it_sends_every_packet_in_order(hello, helperd, size):
    with Peer(argv=hello, helperd=helperd) as peer:
        peer.send(OpenRequest(f"hello:type=hello,count=5000,size={size}"))
        report = peer.expect(OpenReport)
        assert (report.success, report.dlt, report.hardware) == (True, 147, "a counter")
        assert report.uuid == identity.uuid_of("helperd_hello", "hello")
        packets = peer.until_packets(5000)
        assert numbers(packets) == list(range(5000))
        assert {(dlt, len(content), original) for dlt, _, content, original in packets} == {(147, size, size)}
        if helperd:
            assert peer.expect(Text).text == "counted to 5000"
            assert peer.expect(Shutdown).reason == "counted to 5000"
            peer.until_eof()
        else:  # a Kismet server would begin anew: it stays
            peer.ping()
            peer.terminate()
            assert peer.expect(Shutdown).reason == "asked to end by SIGTERM"
            peer.until_eof()
        assert peer.wait() == 0
        assert peer.stderr() == ""


@pytest.mark.parametrize("how", ["refuse", "mute"])
def test_without_a_number_for_its_link_type_packets_go_as_data_reports(hello, how):
    with Peer(argv=hello, **{how: {147}}) as peer:
        peer.send(OpenRequest("hello:type=hello,count=2000"))
        assert numbers(peer.until_packets(2000)) == list(range(2000))
        assert {run.kind for run in peer.runs} == {Kind.PACKETS}


@pytest.mark.parametrize(("helperd", "kept"), [(True, 262144 - 32), (False, 16383 - 512)])
def test_a_packet_that_the_peer_does_not_take_is_cut_and_counted(hello, helperd, kept):
    with Peer(argv=hello, helperd=helperd) as peer:
        peer.send(OpenRequest("hello:type=hello,count=12,size=300000"))
        packets = peer.until_packets(12)
        assert [(len(content), original) for _, _, content, original in packets] == [(kept, 300000)] * 12
        texts = []
        while len(texts) < 2:
            texts.append(peer.expect(Text).text)
        assert texts[0].startswith("1 packets cut because the peer takes no longer frames")


def test_tuning(hello):
    with Peer(argv=hello) as peer:
        peer.send(OpenRequest("hello:type=hello,rate=100,channel=3"))
        assert peer.expect(OpenReport).channel == "3"
        number = peer.send(ConfigureRequest("2"))
        assert peer.expect(ConfigureReport) == ConfigureReport(number, channel="2")
        for channel, why in (("13", "no crystal"), ("x", "no channel"), ("y" * 70, "no name of a channel")):
            number = peer.send(ConfigureRequest(channel))
            report = peer.expect(ConfigureReport)
            assert (report.request, report.success, report.problem) == (number, False, "not-supported")
            assert why in report.message
        peer.until_packets(5)


@pytest.mark.parametrize(("shuffle", "skip"), [(False, 1), (True, 2), (True, 99)])
def test_hopping_removes_what_cannot_be_tuned_and_tells(hello, shuffle, skip):
    with Peer(argv=hello) as peer:
        peer.send(OpenRequest("hello:type=hello,rate=100"))
        peer.expect(OpenReport)
        wanted = Hopping(("1", "13", "2", "no"), rate=1000.0, shuffle=shuffle, skip=skip, offset=1)
        number = peer.send(ConfigureRequest(hopping=wanted))
        assert peer.expect(ConfigureReport) == ConfigureReport(number, hopping=wanted)
        report = peer.expect(ConfigureReport)
        assert (report.request, report.success, report.hopping.channels) == (0, True, ("1", "2"))
        assert report.message.startswith("removed 2 channels from the hop list: ")


def test_a_list_with_nothing_in_it_leaves_things_as_they_were(hello):
    with Peer(argv=hello) as peer:
        peer.send(OpenRequest("hello:type=hello,rate=100,channel=2"))
        peer.expect(OpenReport)
        peer.send(ConfigureRequest(hopping=Hopping(("13", "14"), rate=20.0)))
        assert peer.expect(ConfigureReport).success
        report = peer.expect(ConfigureReport)
        assert (report.request, report.channel) == (0, "2")
        assert "none of the channels can be tuned" in report.message
        number = peer.send(ConfigureRequest(hopping=Hopping((), rate=20.0)))
        report = peer.expect(ConfigureReport)
        assert (report.request, report.success, report.problem) == (number, False, "bad-definition")
        peer.ping()


@pytest.mark.parametrize(
    ("definition", "problem", "why"),
    [
        ("hello:type=hello,cuont=5", "bad-definition", "no option 'cuont'; it knows count"),
        ("hello:type=hello,count=x", "bad-definition", "count=x: not a whole number"),
        ("hello:type=hello,size=5", "bad-definition", "size=5: from 8"),
        (":type=hello", "bad-definition", "the interface is missing"),
        ("hello,type=hello", "bad-definition", "a comma before the first colon"),
        ("hello:nothing", "bad-definition", "not key=value"),
        ('hello:name="x', "bad-definition", "a quote is not closed"),
        ("hello:name=\tx", "bad-definition", "control character"),
        ("hello:name=" + "x" * 9000, "bad-definition", "too long"),
        ("hello:type=hello,channel=13", "not-supported", "no crystal"),
    ],
)
def test_what_cannot_be_opened_is_refused_with_word_and_reason(hello, definition, problem, why):
    with Peer(argv=hello) as peer:
        number = peer.send(OpenRequest(definition))
        report = peer.expect(OpenReport)
        assert (report.request, report.success, report.problem) == (number, False, problem)
        assert why in report.message
        peer.until_eof()
        assert peer.wait() == 0


def test_quoted_definitions(hello):
    with Peer(argv=hello) as peer:
        peer.send(
            OpenRequest(
                '"a:b,""c""":type=hello,count=3,name="x, y",uuid=12345678-1234-1234-1234-123456789ABC'
            )
        )
        report = peer.expect(OpenReport)
        assert (report.success, report.uuid) == (True, "12345678-1234-1234-1234-123456789ABC")
        assert len(peer.until_packets(3)) == 3


def test_a_second_request_is_refused(hello):
    with Peer(argv=hello) as peer:
        peer.send(OpenRequest("hello:type=hello,rate=100"))
        assert peer.expect(OpenReport).success
        os.write(peer.to, v3.encode(OpenRequest("hello:type=hello"), 77))
        report = peer.expect(ErrorReport)
        assert (report.request, report.problem) == (77, "busy")


@pytest.mark.parametrize("blocking", [True, False])
def test_signals_end_and_are_named(hello, blocking):
    with Peer(argv=hello, blocking=blocking) as peer:
        peer.send(OpenRequest("hello:type=hello,rate=50"))
        peer.until_packets(3)
        with promptly("the end", 1.5):
            peer.terminate()
            assert peer.expect(Shutdown).reason == "asked to end by SIGTERM"
            peer.until_eof()
            assert peer.wait() == 0


def test_the_end_of_the_input_ends_it(hello):
    with Peer(argv=hello) as peer:
        peer.send(OpenRequest("hello:type=hello"))
        peer.until_packets(1000)
        peer.close_input()
        peer.until_eof()
        assert peer.wait() == 0


def test_a_reader_that_is_gone_ends_it(hello):
    with Peer(argv=hello) as peer:
        peer.send(OpenRequest("hello:type=hello"))
        peer.until_packets(1000)
        peer.close_output()
        assert peer.wait() == 0


def test_shutdown_ends_it(hello):
    with Peer(argv=hello) as peer:
        peer.send(OpenRequest("hello:type=hello,rate=10"))
        peer.expect(OpenReport)
        peer.send(Shutdown("enough"))
        peer.until_eof()
        assert peer.wait() == 0


def test_pings_are_answered_whatever_it_does(hello):
    with Peer(argv=hello, helperd=False) as peer:
        for _ in range(20):
            peer.ping()
        peer.send(OpenRequest("hello:type=hello"))
        peer.expect(OpenReport)
        for _ in range(5):
            peer.send(Ping())
            peer.expect(Pong)


@pytest.mark.parametrize(
    ("argv", "status", "says"),
    [
        (["--help"], 0, "hello: numbered packets"),
        (["--version"], 0, "hello 1 (helperd C SDK"),
        (["--list"], 0, "hello:type=hello\ta counter\n"),
        ([], 64, "--in-fd and --out-fd must be given"),
        (["--lsit"], 64, "unknown option '--lsit'"),
        (["--in-fd=99", "--out-fd=1"], 64, "--in-fd=99: Bad file descriptor"),
        (["--in-fd=x", "--out-fd=1"], 64, "--in-fd takes the number"),
        (["--connect=h:1"], 64, "--connect needs --source"),
        (["--connect=h", "--source=hello", "--disable-retry"], 64, "write HOST:PORT"),
        (
            ["--ssl", "--connect=h:1"],
            64,
            "unknown option '--ssl'; try --help. Remote capture is by plain TCP only",
        ),
        (["--daemonize", "--connect=h:1"], 64, "in foreground"),
        (["--autodetect=10.0.0.1", "--source=hello"], 64, "to the server of --connect"),
        (["--list=x"], 64, "unknown option '--list=x'"),
        (["--connect=h:1", "--source=hello", "--fixed-gps=north"], 64, "write latitude,longitude"),
        (
            ["--connect=127.0.0.1:1", "--source=hello", "--disable-retry"],
            69,
            "cannot reach 127.0.0.1:1: Connection refused",
        ),
        (["--connect=127.0.0.1:1", "--source=x:type=y", "--disable-retry"], 1, "not for this helper"),
    ],
)
def test_the_command_line(hello, argv, status, says):
    done = subprocess.run([*hello, *argv], capture_output=True, text=True, timeout=HANGS_S, check=False)
    assert (done.returncode, says in done.stdout + done.stderr) == (status, True), done


@pytest.mark.parametrize(
    "port", ["", "0", "65536", "65537", "4294967297", "18446744073709551617", "-1", "+1", "http"]
)
def test_a_port_is_a_number_up_to_65535(hello, port):
    """The C library would take 65537 for port 1."""
    argv = [*hello, f"--connect=127.0.0.1:{port}", "--source=hello", "--disable-retry"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=HANGS_S, check=False)
    assert (done.returncode, "write HOST:PORT" in done.stderr) == (64, True), done


@pytest.mark.parametrize(
    "place", ["91,0", "0,-181", "nan,0", "0,inf", "1,2,nan", "1,2,-inf", "1,2,1e300", "1,2,", "1,2,3x"]
)
def test_a_place_is_finite_and_on_earth(hello, place):
    argv = [*hello, "--connect=127.0.0.1:1", "--source=hello", f"--fixed-gps={place}", "--disable-retry"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=HANGS_S, check=False)
    assert (done.returncode, "in degrees and metres" in done.stderr) == (64, True), done


@pytest.mark.parametrize("number", ["-1", "1048577", "2147483648", "4294967297", "9" * 30, "1.5", "0x1"])
def test_a_descriptor_is_a_small_number(hello, number):
    argv = [*hello, f"--in-fd={number}", "--out-fd=1"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=HANGS_S, check=False)
    assert (done.returncode, "takes the number of a file descriptor" in done.stderr) == (64, True), done


@pytest.mark.parametrize("count", ["-1", "1000000001", "2147483648", "9" * 19, "9" * 30, "1e3", "0x10", ""])
def test_a_number_of_a_definition_is_within_its_bounds(hello, count):
    with Peer(argv=hello) as peer:
        peer.send(OpenRequest(f"hello:type=hello,count={count}"))
        report = peer.expect(OpenReport)
        assert (report.success, report.problem) == (False, "bad-definition")
        assert f"count={count}: " in report.message
