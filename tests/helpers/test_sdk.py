"""The SDK in real processes over pipes: answers, back-pressure, and every way to end."""

import contextlib
import os
import re
import textwrap
import time
from collections import Counter

import pytest

from helperd.wire import bulk, v3
from helperd.wire.frames import Kind
from helperd.wire.messages import (
    Changed,
    ConfigureReport,
    ConfigureRequest,
    ErrorReport,
    Hopping,
    Json,
    ListReport,
    ListRequest,
    Lost,
    OpenReport,
    OpenRequest,
    ProbeReport,
    ProbeRequest,
    Register,
    Severity,
    Shutdown,
    Text,
)
from tests.helpers.peer import PYTHON, Peer, environment
from tests.patience import HANGS_S, promptly

FULL = 750
"""Packets of 100 bytes that are more than a pipe, what is queued for it, and less than makes a capture wait."""

FOREVER = "radio0:type=synthetic,channel=6,rate=0,size=200,signal=false"


def written(tmp_path, body, **options):
    """A peer for a helper whose class body is given."""
    file = tmp_path / "written.py"
    file.write_text(
        "import sys\nsys.path[:0] = __import__('os').environ['HELPERD_PATH'].split(':')\n"
        "import time, threading, os\n"
        "from helperd.helpers.sdk import *\n"
        "class Written(Helper):\n"
        "    TYPE = 'written'\n"
        "    OPTIONS = {'mode': 'a test option'}\n"
        + textwrap.indent(textwrap.dedent(body), "    ")
        + "\nmain(Written)\n"
    )
    return Peer(argv=[*PYTHON, str(file)], **options)


@pytest.fixture(params=["helperd", "kismet"])
def either(request):
    """Options of a peer: helperd, and a server that knows nothing of helperd."""
    return {"helperd": request.param == "helperd"}


def test_list_is_answered_and_the_helper_leaves(either):
    with Peer("synthetic", **either) as peer:
        number = peer.send(ListRequest())
        report = peer.expect(ListReport)
        assert report.request == number
        assert report.success
        assert [item.name for item in report.interfaces] == ["radio0", "radio1", "radio2", "radio3"]
        assert report.version.startswith("helperd ")
        peer.until_eof()
        assert peer.wait() == 0


def test_what_an_author_prints_is_told_line_by_line(tmp_path, either):
    body = """
        def list(self):
            print("looking for", "devices")
            print("\\n  two\\nlines", end="")
            return [Interface("one", "")]
    """
    with written(tmp_path, body, **either) as peer:
        peer.send(ListRequest())
        told = [peer.expect(Text) for _ in range(2)]
        assert [(text.severity, text.text) for text in told] == [
            (Severity.INFO, "looking for devices"),
            (Severity.INFO, "  two"),
        ]
        assert peer.expect(ListReport).success
        assert peer.expect(Text).text == "lines"  # told at the end of the work: it has no end of its own
        peer.until_eof()
        assert peer.wait() == 0


def test_an_endless_line_is_told_in_pieces(tmp_path):
    body = """
        def list(self):
            print("x" * 2500)
            return ()
    """
    with written(tmp_path, body) as peer:
        peer.send(ListRequest())
        assert [len(peer.expect(Text).text) for _ in range(3)] == [1000, 1000, 500]


def test_a_helper_without_devices_lists_none():
    with Peer("pcapfile") as peer:
        peer.send(ListRequest())
        report = peer.expect(ListReport)
        assert report.success
        assert report.interfaces == ()
        peer.until_eof()


@pytest.mark.parametrize(
    ("definition", "success", "words"),
    [
        ("synthetic", True, ""),
        ("radio3", True, ""),
        ("radio4", False, ""),
        ("wlan0", False, ""),
        ("wlan0:type=synthetic", False, "radio0 to radio3"),
        ("radio1:rat=5", False, "no option 'rat'; did you mean rate?"),
        ("radio1:rate=-5", False, "write a number from 0"),
        ("radio1:size=20", False, "96 to 65000"),
        ('radio1:channels="1,99"', False, "channel 99 is none of"),
        (",", False, "interface"),
    ],
)
def test_probe(definition, success, words):
    with Peer("synthetic") as peer:
        number = peer.send(ProbeRequest(definition))
        report = peer.expect(ProbeReport)
        assert report.request == number
        assert report.success is success
        assert words in report.message
        if success:
            assert report.hardware.startswith("synthetic radio")
            assert "11" in report.channels
        peer.until_eof()
        assert peer.wait() == 0


def test_a_server_that_is_not_helperd_may_have_made_an_option_up_itself():
    with Peer("synthetic", helperd=False) as peer:
        peer.send(OpenRequest("radio1:count=1,6,11,name=x"))
        assert peer.expect(OpenReport).success  # as a helper of Kismet's reads it: up to the comma
        assert len(peer.until_packets(1)) == 1
    with Peer("synthetic") as peer:
        peer.send(OpenRequest("radio1:count=1,6,11,name=x"))
        assert "not a number" in peer.expect(OpenReport).message
    with Peer("synthetic", helperd=False) as peer:
        peer.send(OpenRequest("radio1:11=12,count=1"))
        assert peer.expect(OpenReport).success
        assert "no option '11'" in peer.expect(Text).text


def test_a_refused_open_is_reported_and_the_helper_leaves():
    with Peer("pcapfile") as peer:
        peer.send(OpenRequest("/nowhere.pcap:type=pcapfile"))
        report = peer.expect(OpenReport)
        assert not report.success
        assert "/nowhere.pcap does not exist" in report.message
        peer.until_eof()
        assert peer.wait() == 0


@pytest.mark.parametrize("blocking", [True, False])
def test_ping_is_answered_in_every_state(tmp_path, blocking):
    """While probing hangs, while opening hangs, while capturing."""
    with written(
        tmp_path,
        """
        def open(self, definition):
            time.sleep(0.3)
            return Device(dlt=1)
        def capture(self, writer):
            writer.wait(100)
        """,
        blocking=blocking,
    ) as peer:
        peer.ping()
        peer.send(OpenRequest("x:type=written"))
        peer.ping()
        assert not any(isinstance(message, OpenReport) for message in peer.messages)
        assert peer.expect(OpenReport).success
        peer.ping()


def test_ping_is_answered_beside_a_flood():
    with Peer("synthetic") as peer:
        peer.send(OpenRequest(FOREVER))
        peer.until_packets(50_000)
        with promptly("a PING beside a flood", 0.1):
            peer.ping()
        assert sum(run.packets for run in peer.runs) > 50_000


def test_a_reader_that_stops_stops_the_helper_and_loses_nothing():
    with Peer("synthetic") as peer:
        peer.send(OpenRequest(FOREVER))
        peer.until_packets(1000)
        time.sleep(0.3)  # nobody reads: pipe and batch fill, then the capture waits
        with open(f"/proc/{peer.process.pid}/stat") as file:
            before = sum(map(int, file.read().split()[13:15]))
        time.sleep(0.5)
        with open(f"/proc/{peer.process.pid}/stat") as file:
            assert (
                sum(map(int, file.read().split()[13:15])) - before <= 5
            )  # ticks of 10 ms: it waits, not spins
        counters = [int.from_bytes(packet[2][40:48], "little") for packet in peer.until_packets(20_000)]
        assert counters == list(range(len(counters)))


ENDS = ["shutdown", "sigterm", "sigint", "eof", "epipe", "garbage", "unknown-generation"]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("state", ["greeted", "idle-capture", "flood", "stuck-flood"])
def test_every_end_is_prompt(end, state):
    with Peer("synthetic") as peer:
        if state == "idle-capture":
            peer.send(OpenRequest("radio0:type=synthetic,rate=0.001"))
            peer.expect(OpenReport)
        elif state != "greeted":
            peer.send(OpenRequest(FOREVER))
            peer.until_packets(1000)
            if state == "stuck-flood":
                time.sleep(0.2)
        with promptly(f"{end} when {state}", 1.5):
            if end == "shutdown":
                peer.send(Shutdown("enough"))
            elif end == "sigterm":
                peer.terminate()
            elif end == "sigint":
                peer.process.send_signal(2)
            elif end == "eof":
                peer.close_input()
            elif end == "epipe":
                peer.close_output()
            else:
                os.write(
                    peer.to,
                    b"garbage!" * 10 if end == "garbage" else bytes.fromhex("decafbada9a90009") + bytes(40),
                )
            if end != "epipe" and state != "stuck-flood":
                peer.until_eof()
            status = peer.wait()
        assert status == (1 if end in {"garbage", "unknown-generation"} else 0)
        said = peer.stderr()
        assert "Traceback" not in said
        if end == "garbage":
            assert "bad-signature" in said


def test_a_signal_that_comes_as_soon_as_it_is_taken_ends_it(tmp_path):
    with written(
        tmp_path,
        """
        import signal
        def taken(number, handler, plain=signal.signal, seen=set()):
            before = plain(number, handler)
            if number not in seen:
                seen.add(number)
                os.kill(os.getpid(), number)
            return before
        signal.signal = taken
        """,
        greet=False,
    ) as peer:
        with contextlib.suppress(BrokenPipeError):
            os.write(peer.to, peer.session.greeting())
        peer.until_eof()
        assert peer.wait() == 0
        assert peer.stderr() == ""


@pytest.mark.parametrize("end", ["sigterm", "eof"])
def test_what_was_written_before_the_end_still_leaves(tmp_path, end):
    with written(
        tmp_path,
        """
        def open(self, definition):
            return Device(dlt=1)
        def capture(self, writer):
            for number in range(100):
                writer.packet(bytes([number]), number)
            open(self.words[0], 'w').close() if self.words else None
            threading.Event().wait()
        def stop(self):
            pass
        """,
    ) as peer:
        peer.send(OpenRequest("x:type=written"))
        peer.until_packets(1)
        peer.terminate() if end == "sigterm" else peer.close_input()
        assert [packet[2][0] for packet in peer.until_eof()] == list(range(100))
        assert peer.wait() == 0


def test_stop_is_called_so_that_a_blocking_capture_can_end(tmp_path):
    with written(
        tmp_path,
        """
        def open(self, definition):
            self.pipe = os.pipe()
            return Device(dlt=1)
        def capture(self, writer):
            os.read(self.pipe[0], 1)
            print('woken', file=sys.stderr)
        def stop(self):
            os.write(self.pipe[1], b'x')
        """,
    ) as peer:
        peer.send(OpenRequest("x:type=written"))
        peer.expect(OpenReport)
        with promptly("the end of one that waits elsewhere", 0.4):
            peer.terminate()
            peer.until_eof()
            assert peer.wait() == 0
        assert "woken" in peer.stderr()


def test_the_watchdog_ends_a_helper_whose_kismet_server_is_silent(tmp_path):
    with written(
        tmp_path,
        """
        import helperd.helpers._runner as runner
        runner.WATCHDOG_S = 0.5
        def open(self, definition):
            return Device(dlt=1)
        def capture(self, writer):
            writer.wait(100)
        """,
        helperd=False,
    ) as peer:
        peer.send(OpenRequest("x:type=written"))
        peer.until_eof()
        assert peer.wait() == 0


def test_helperd_may_be_silent_longer(tmp_path):
    with written(
        tmp_path,
        """
        import helperd.helpers._runner as runner
        runner.WATCHDOG_S = 0.3
        def open(self, definition):
            return Device(dlt=1)
        def capture(self, writer):
            writer.wait(1)
            return 'done'
        """,
    ) as peer:
        peer.send(OpenRequest("x:type=written"))
        assert peer.expect(Shutdown).reason == "done"


def test_under_helperd_a_finished_capture_says_shutdown_and_leaves():
    with Peer("synthetic") as peer:
        peer.send(OpenRequest("radio0:type=synthetic,rate=0,count=10"))
        assert len(peer.until_eof()) == 10
        texts = [message for message in peer.messages if isinstance(message, Text)]
        assert texts[-1] == Text(Severity.INFO, "10 packets, as many as wished")
        assert peer.expect(Shutdown).reason == "10 packets, as many as wished"
        assert peer.wait() == 0


def test_under_a_kismet_server_a_finished_capture_stays_and_answers():
    with Peer("synthetic", helperd=False) as peer:
        peer.send(OpenRequest("radio0:type=synthetic,rate=0,count=10"))
        assert len(peer.until_packets(10)) == 10
        assert "as many as wished" in peer.expect(Text).text
        peer.ping()
        assert peer.process.poll() is None


@pytest.mark.parametrize(("hold", "helperd"), [("true", True), ("false", False)])
def test_hold_overrides_that(hold, helperd):
    with Peer("synthetic", helperd=helperd) as peer:
        peer.send(OpenRequest(f"radio0:type=synthetic,rate=0,count=10,hold={hold}"))
        peer.until_packets(10)
        peer.expect(Text)
        if hold == "true":
            peer.ping()
        else:
            peer.expect(Shutdown)
            assert peer.wait() == 0


@pytest.mark.parametrize(
    ("method", "body", "words"),
    [
        ("probe", "raise Refused('no such port; plug it in')", "no such port; plug it in"),
        ("probe", "raise ValueError('oops')", "ValueError: oops (written.py:"),
        ("probe", "return False", ""),
        ("open", "raise Refused('no such port; plug it in')", "no such port; plug it in"),
        ("open", "return open('/nowhere/at/all')", "No such file or directory: /nowhere/at/all"),
        ("open", "1 / 0", "ZeroDivisionError: division by zero (written.py:"),
        ("list", "raise Refused('usb is gone')", "usb is gone"),
        ("list", "return [][0]", "IndexError: list index out of range (written.py:"),
    ],
)
def test_what_the_authors_code_raises_is_the_answer(tmp_path, method, body, words):
    kinds = {
        "probe": (ProbeRequest, ProbeReport),
        "open": (OpenRequest, OpenReport),
        "list": (ListRequest, ListReport),
    }
    ask, answer = kinds[method]
    with written(tmp_path, f"def {method}(self, *args):\n    {body}") as peer:
        peer.send(ask("x:type=written") if method != "list" else ask())
        report = peer.expect(answer)
        assert not report.success
        assert words in report.message
        peer.until_eof()
        assert peer.wait() == 0
        assert ("Traceback" in peer.stderr()) == ("(written.py:" in words), "only of what nobody foresaw"


def test_a_capture_that_fails_is_told_and_ends_the_helper(tmp_path):
    with written(
        tmp_path,
        """
        def open(self, definition):
            return Device(dlt=1)
        def capture(self, writer):
            writer.packet(b'one')
            raise OSError(5, 'the cable is out')
        """,
    ) as peer:
        peer.send(OpenRequest("x:type=written"))
        assert [packet[2] for packet in peer.until_eof()] == [b"one"]
        assert peer.expect(Text) == Text(Severity.ERROR, "the cable is out")
        assert peer.expect(ErrorReport).message == "the cable is out"
        assert peer.wait() == 1
        assert "Traceback" in peer.stderr()


def test_a_second_open_breaks_the_protocol():
    with Peer("synthetic") as peer:
        peer.send(OpenRequest("radio0:rate=1"))
        peer.expect(OpenReport)
        os.write(peer.to, v3.encode(OpenRequest("radio0:rate=1"), 9))
        peer.until_eof()
        assert peer.wait() == 1
        assert "not-allowed-now" in peer.stderr()


def test_messages_warnings_json_signal_and_gps(tmp_path):
    with written(
        tmp_path,
        """
        def open(self, definition):
            return Device(dlt=1, warning='antenna missing', channels=('1', '2'), channel='1', hardware='h')
        def capture(self, writer):
            writer.message('hello')
            writer.warning('careful')
            writer.packet(b'plain', 1_600_000_000_123_456_789)
            writer.packet(b'other', 5, dlt=127, original=99)
            writer.packet(b'heard', 6, signal=Signal(dbm=-60, khz=2437000, channel='6'))
            writer.packet(b'there', 7, gps=Gps(latitude=1.5, longitude=2.5, fix=3, sec=9))
            writer.packet(b'both', 8, signal=Signal(rssi=30), gps=Gps(latitude=1.5, sec=9), options=flags(2))
            writer.packet(b'said', 9, options=comments('x' * 5) + comments('\N{SNOWMAN}'))
            writer.packet(b'now')
            writer.json('RTL433', '{"a": 1}', 8_000_001_000)
            return 'that was all'
        """,
    ) as peer:
        peer.send(OpenRequest("x:type=written,uuid=12345678-0000-0000-0000-000000000000"))
        report = peer.expect(OpenReport)
        assert (report.dlt, report.hardware, report.channels, report.channel) == (1, "h", ("1", "2"), "1")
        assert report.uuid == "12345678-0000-0000-0000-000000000000"
        packets = peer.until_eof()
        names = [b"plain", b"other", b"heard", b"there", b"both", b"said", b"now"]
        assert [packet[2] for packet in packets] == names
        assert packets[0][:2] == (1, 1_600_000_000_123_456_789)
        assert packets[1] == (127, 5, b"other", 99)
        assert [packet[1] for packet in packets[2:6]] == [6, 7, 8, 9]
        assert abs(packets[6][1] - time.time_ns()) < 60e9
        texts = [message.text for message in peer.messages if isinstance(message, Text)]
        assert texts == ["antenna missing", "hello", "careful", "that was all"]
        reports = [report for run in peer.runs for report in whole(run)]
        heard, there, both, said = peer.options()[2:6]
        assert heard == [(1, b"signal=-60dBm freq=2437000kHz channel=6")]
        place = b"lat=1.5 lon=2.5 alt=0m speed=0km/h heading=0 precision=0m"
        assert there == [(1, place)]
        assert both == [(1, b"rssi=30 " + place.replace(b"2.5", b"0")), (2, bytes([2, 0, 0, 0]))]
        assert said == [(1, b"xxxxx"), (1, "\N{SNOWMAN}".encode())]
        assert peer.options()[:2] == [[], []]
        record = next(report.json for report in reports if report.json)
        assert (record.type, record.text, record.sec, record.usec) == ("RTL433", '{"a": 1}', 8, 1)


def whole(run):
    return v3.reports(run) if run.kind is Kind.PACKETS else []


@pytest.mark.parametrize("helperd", [True, False])
def test_link_types_signals_and_plain_packets_keep_their_order_when_mixed(tmp_path, helperd):
    with written(
        tmp_path,
        """
        def open(self, definition):
            return Device(dlt=1)
        def capture(self, writer):
            for number in range(5000):
                data = number.to_bytes(2, 'big')
                kind = number * 7919 // 64 % 5
                if kind == 1:
                    writer.packet(data, number * 1001, dlt=127)
                elif kind == 2:
                    writer.packet(data, number * 1001, signal=Signal(dbm=-50))
                elif kind == 3:
                    writer.packet(data, number * 1001, gps=Gps(sec=1))
                else:
                    writer.packet(data, number * 1001)
        """,
        helperd=helperd,
    ) as peer:
        peer.send(OpenRequest("x:type=written"))
        packets = peer.until_packets(5000)
        assert [int.from_bytes(packet[2], "big") for packet in packets] == list(range(5000))
        for number, (dlt, stamp, _, _) in enumerate(packets):
            kind = number * 7919 // 64 % 5
            assert dlt == (127 if kind == 1 else 1)
            unit = 1 if helperd else 1000
            assert stamp == number * 1001 // unit * unit


@pytest.mark.parametrize(("helperd", "kept"), [(False, 15_871), (True, 100_000)])
def test_a_packet_too_long_for_the_peer_is_cut_and_keeps_its_true_length(tmp_path, helperd, kept):
    with written(
        tmp_path,
        """
        def open(self, definition):
            return Device(dlt=1)
        def capture(self, writer):
            writer.packet(bytes(100_000), 5)
            writer.packet(bytes(2_000_000), 5)
            writer.message(f'{writer.cut} cut')
        """,
        helperd=helperd,
    ) as peer:
        peer.send(OpenRequest("x:type=written"))
        packets = peer.until_packets(2)
        assert (len(packets[0][2]), packets[0][3]) == (kept, 100_000)
        assert packets[1][3] == 2_000_000
        assert len(packets[1][2]) == (kept if not helperd else 262_112)
        while not any(text.endswith(" cut") for text in texts(peer)):
            assert peer.read()
        size = 100_000 if not helperd else 2_000_000
        room = kept if not helperd else 262_112
        assert texts(peer)[:2] == [  # behind them, perhaps, that it has ended
            f"1 packets cut because the peer takes no longer frames: to {room} bytes; the last had {size}",
            "1 cut" if helperd else "2 cut",
        ]
        counted = [message for message in peer.messages if isinstance(message, Changed)]
        assert counted == ([Changed("cut", 1)] if helperd else [])
        if not helperd:
            assert all(run.nbytes / run.frames < 16_384 for run in peer.runs)


def texts(peer):
    return [message.text for message in peer.messages if isinstance(message, Text)]


@pytest.mark.parametrize("helperd", [True, False], ids=["helperd", "kismet"])
def test_what_does_not_leave_or_leaves_otherwise_is_counted_with_its_word(tmp_path, helperd):
    with written(
        tmp_path,
        """
        def open(self, definition):
            return Device(dlt=1)
        def capture(self, writer):
            for text in ('{"long": "' + 'x' * 300_000 + '"}', '{"lone": "' + chr(0xd800) + '"}'):
                try:
                    writer.json('T', text)
                except ValueError as error:
                    writer.message(str(error)[:30])
            writer.packet(bytes(300_000), 5, signal=Signal(dbm=-60))
            writer.packet(bytes(300_000), 5, gps=Gps(1.0, 2.0))
            writer.packet(bytes(300_000), 5, dlt=127)
            writer.count(3, 'bad-stamp')
            writer.lost(4, 'device')
            try:
                writer.count(1, 'no-such-word')
            except ValueError as error:
                writer.message(str(error)[:30])
            return 'enough'
        """,
        helperd=helperd,
    ) as peer:
        peer.send(OpenRequest("x:type=written"))
        if helperd:
            peer.until_eof()
        else:
            while not any("no-such-word" in text for text in texts(peer)):
                assert peer.read()
        counted = Counter()
        for message in peer.messages:
            if isinstance(message, Lost | Changed):
                counted[message.reason] += message.packets
        exact = {"too-long": 1, "bad-record": 1, "cut": 3, "bad-stamp": 3, "device": 4}
        assert counted == (exact if helperd else {})
        said = texts(peer)
        assert sum("packets cut because" in text for text in said) == 1
        assert [text for text in said if "a record" in text] == [
            "a record of 300012 characters;",
            "a record with a lone surrogate",
        ]
        assert ("4 packets lost (device)" in said) is not helperd
        assert "'no-such-word' is none of kern" in said


ODD_CALLS = {
    "writer.report(DataReport(packet=Packet(bytes(2_000_000), 1, 1, 1)))": "cut",
    "writer.report(DataReport(packet=Packet(b'x', 1, -1, 1, 1)))": "bad-stamp",
    "writer.report(DataReport(json=Json('T', '{\"x\": \"' + 'y' * 2_000_000 + '\"}', 1, 1)))": "too-long",
    "writer.json('T' * 2_000_000, '{}', 5)": "too-long",
    "writer.lost(-5)": "",
    "writer.count(1.5, 'cut')": "",
    "writer.packet(b'x', 5, options=b'junk')": "",
    "writer.packet(b'x', 5, options=b'\\1\\0\\xff\\xffabcd')": "",
    "writer.packets([(1, 5, b'x', 1, b'\\1\\0\\4\\0abc')])": "",
    "writer.packets([(1, -5, b'x', 1, b'')])": "bad-stamp",
    "writer.packet(b'x', 5, dlt=-1)": "",
    "writer.packet(b'x', 5, dlt=1 << 20)": "",
    "writer.offer(b'x', 5, dlt=-1)": "",
}
"""What an author may get wrong, and the word that it is counted under; without one it is refused where it is said."""


@pytest.mark.parametrize("call", ODD_CALLS)
def test_an_odd_call_ends_no_channel(tmp_path, call):
    with written(
        tmp_path,
        f"""
        def open(self, definition):
            return Device(dlt=1)
        def capture(self, writer):
            try:
                {call}
            except (ValueError, TypeError) as error:
                writer.message("refused")
            writer.packet(b"after", 7)
            return "enough"
        """,
    ) as peer:
        peer.send(OpenRequest("x:type=written"))
        packets = peer.until_eof()
        word = ODD_CALLS[call]
        counted = [message.reason for message in peer.messages if isinstance(message, Lost | Changed)]
        assert counted == ([word] if word else [])
        assert ("refused" in texts(peer)) is (word in {"", "too-long"})
        assert packets[-1][2] == b"after"
        assert len(packets) == (2 if word in {"cut", "bad-stamp"} else 1)


def test_a_lone_packet_leaves_within_milliseconds(tmp_path):
    with written(
        tmp_path,
        """
        def open(self, definition):
            return Device(dlt=1)
        def capture(self, writer):
            while True:
                writer.packet(b'tick')
                time.sleep(0.05)
        """,
    ) as peer:
        peer.send(OpenRequest("x:type=written"))
        peer.until_packets(2)
        ages = []
        for count in range(3, 12):
            packets = peer.until_packets(count)
            ages.append(time.time_ns() - packets[-1][1])
        assert sorted(ages)[2] < 25e6, "they wait for the next one"


def test_channels_fixed_and_hopping(tmp_path):
    with Peer("synthetic") as peer:
        peer.send(OpenRequest('radio0:type=synthetic,channels="1,6,11",rate=200'))
        report = peer.expect(OpenReport)
        assert report.hopping.channels == ("1", "6", "11")
        number = peer.send(ConfigureRequest("6"))
        answer = peer.expect(ConfigureReport)
        assert (answer.request, answer.success, answer.channel) == (number, True, "6")
        peer.runs.clear()
        peer.until_packets(20)
        assert {frequency(packet) for packet in peer.packets()[5:]} == {2437}
        number = peer.send(ConfigureRequest("99"))
        answer = peer.expect(ConfigureReport)
        assert (answer.request, answer.success) == (number, False)
        assert "cannot tune to channel 99: there is no channel 99" in answer.message
        number = peer.send(ConfigureRequest(hopping=Hopping(("1", "11"), rate=20.0, shuffle=False, offset=1)))
        answer = peer.expect(ConfigureReport)
        assert (answer.request, answer.success) == (number, True)
        assert answer.hopping.channels == ("1", "11")
        peer.runs.clear()
        peer.until_packets(100)
        assert {frequency(packet) for packet in peer.packets()[20:]} == {2412, 2462}
        peer.send(ConfigureRequest(hopping=Hopping((), rate=1.0)))
        assert "at least one channel" in peer.expect(ConfigureReport).message


def frequency(packet):
    return int.from_bytes(packet[2][10:12], "little")


def test_dead_channels_are_removed_and_reported():
    with Peer("synthetic") as peer:
        peer.send(OpenRequest('radio0:type=synthetic,channels="1,6,11",channel_hoprate=20/sec,dead=6'))
        peer.expect(OpenReport)
        report = peer.expect(ConfigureReport)
        assert (report.request, report.success) == (0, True)
        assert report.hopping.channels == ("1", "11")
        assert "removed 1 channels" in report.message
        assert "6: channel 6 is dead" in report.message


@pytest.mark.parametrize("fixed", ["", ",channel=11"])
def test_when_every_channel_that_was_asked_for_is_dead_it_does_as_before(fixed):
    with Peer("synthetic") as peer:
        peer.send(
            OpenRequest(f'radio0:type=synthetic,channels="1,6",channel_hoprate=20/sec,dead="3,4"{fixed}')
        )
        peer.expect(OpenReport)
        peer.until_packets(20)
        for _ in range(2):  # and once more: it is no worse for it
            peer.send(ConfigureRequest(hopping=Hopping(("3", "4"), rate=20.0)))
            assert peer.expect(ConfigureReport).success
            report = peer.expect(ConfigureReport)
            assert (report.request, report.success) == (0, True)
            assert "none of the channels can be tuned: 3: channel 3 is dead" in report.message
            if fixed:
                assert report.channel == "11"
            else:
                assert report.hopping.channels == ("1", "6")
        peer.until_packets(len(peer.packets()) + 50)
        heard = {frequency(packet) for packet in peer.packets()[-30:]}
        assert heard <= ({2462} if fixed else {2412, 2437})


def test_when_every_channel_is_dead_the_helper_ends():
    with Peer("synthetic") as peer:
        peer.send(OpenRequest('radio0:type=synthetic,channels="1,6",channel_hoprate=20/sec,dead="1,6"'))
        peer.expect(OpenReport)
        assert "none of the channels can be tuned" in peer.expect(ErrorReport).message
        peer.until_eof()
        assert peer.wait() == 1


def test_a_helper_without_channels_says_so(tmp_path):
    with written(
        tmp_path,
        """
        def open(self, definition):
            return Device(dlt=1)
        def capture(self, writer):
            writer.wait(100)
        """,
    ) as peer:
        peer.send(OpenRequest("x:type=written"))
        peer.expect(OpenReport)
        number = peer.send(ConfigureRequest("6"))
        report = peer.expect(ConfigureReport)
        assert (report.request, report.success) == (number, False)
        assert "written has no channels" in report.message
        peer.ping()


@pytest.mark.need("root")  # a helper is not dumpable: its descriptors are shown to nobody else
def test_the_helper_leaves_no_descriptor_open_that_it_was_not_given():
    with Peer("synthetic") as peer:
        peer.send(OpenRequest("radio0:rate=10"))
        peer.until_packets(1)
        folder = f"/proc/{peer.process.pid}/fd"
        files = [os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)]
        ours = [
            file for file in files if not file.endswith(".dump") and "libffi" not in file
        ]  # tests/cover.py, ctypes
        assert len(ours) <= 3 + 2 + 2 + 1  # stdio, in and out, the waker, stop_fd


def test_environment_is_what_the_launcher_gives():
    assert "HELPERD_PATH" in environment()


def test_bulk_blocks_carry_the_number_that_helperd_gave():
    with Peer("synthetic", interface=7) as peer:
        peer.send(OpenRequest("radio0:type=synthetic,rate=0,count=500,signal=false"))
        assert len(peer.until_eof()) == 500
        assert {run.kind for run in peer.runs} == {Kind.BULK}
        assert {number for run in peer.runs for number, *_ in bulk.blocks(run)} == {7}


def test_a_helper_that_is_given_no_number_writes_data_reports():
    with Peer("synthetic", interface=None) as peer:
        peer.send(OpenRequest("radio0:type=synthetic,rate=0,count=50,signal=false"))
        assert len(peer.until_eof()) == 50
        assert {run.kind for run in peer.runs} == {Kind.PACKETS}


def test_each_link_type_is_asked_for_once_and_keeps_its_nanoseconds(tmp_path):
    with written(
        tmp_path,
        """
        def open(self, definition):
            return Device(dlt=1)
        def capture(self, writer):
            for number in range(3000):
                writer.packet(number.to_bytes(2, 'big'), number, dlt=(127, 1, 105, 195)[number // 7 % 4])
        """,
        interface=7,
    ) as peer:
        peer.send(OpenRequest("x:type=written"))
        found = peer.until_eof()
        asked = [message.dlt for message in peer.messages if isinstance(message, Register) and message.dlt]
    assert [(dlt, stamp) for dlt, stamp, _, _ in found] == [
        ((127, 1, 105, 195)[number // 7 % 4], number) for number in range(3000)
    ]
    assert asked == [127, 105, 195]
    assert {run.kind for run in peer.runs} == {Kind.BULK}


@pytest.mark.parametrize(("helperd", "nsec"), [(True, 789), (False, 0)])
def test_the_time_of_a_record_keeps_its_nanoseconds_for_helperd(tmp_path, helperd, nsec):
    with written(
        tmp_path,
        """
        def open(self, definition):
            return Device()
        def capture(self, writer):
            writer.json('x', '{}', 1_700_000_000_123_456_789)
        """,
        helperd=helperd,
    ) as peer:
        peer.send(OpenRequest("x:type=written"))
        while not peer.runs:
            assert peer.read()
        (report,) = whole(peer.runs[0])
        assert report.json == Json("x", "{}", 1_700_000_000, 123_456, nsec)


def test_a_helper_without_a_link_type_asks_for_what_it_sends(tmp_path):
    with written(
        tmp_path,
        """
        def open(self, definition):
            return Device()
        def capture(self, writer):
            writer.json('x', '{}', 5)
            writer.packet(b'late', 1_000_000_007, dlt=127)
        """,
        interface=3,
    ) as peer:
        peer.send(OpenRequest("x:type=written"))
        assert peer.until_eof() == [(127, 1_000_000_007, b"late", 4)]


def test_packets_of_a_refused_link_type_are_counted_and_the_others_go_on(tmp_path):
    with written(
        tmp_path,
        """
        def open(self, definition):
            return Device(dlt=1)
        def capture(self, writer):
            for number in range(4500):
                writer.packet(b'x', number, dlt=127 if number % 3 else 1)
        """,
        refuse={127},
    ) as peer:
        peer.send(OpenRequest("x:type=written"))
        assert [packet[:2] for packet in peer.until_eof()] == [(1, number) for number in range(0, 4500, 3)]
        assert peer.lost() == {"link-type": 3000}
        assert peer.wait() == 0


def test_a_helper_that_waits_for_a_number_ends_when_it_shall(tmp_path):
    """A server that never answers: nothing but the end is left to wait for, and it comes at once."""
    with written(
        tmp_path,
        """
        def open(self, definition):
            return Device(dlt=1)
        def capture(self, writer):
            writer.packet(b'x', dlt=127)
        """,
        mute={127},
    ) as peer:
        peer.send(OpenRequest("x:type=written"))
        asked = peer.expect(Register)
        assert asked == Register(bulk.SUBSYSTEM, None, 127)
        peer.ping()
        peer.send(Shutdown("enough"))
        peer.until_eof()
        assert peer.wait() == 0


def test_who_may_not_wait_sends_reports_until_the_number_has_come(tmp_path):
    with written(
        tmp_path,
        """
        def open(self, definition):
            return Device(dlt=1)
        def capture(self, writer):
            taken = 0
            while not os.path.exists(os.environ['ENOUGH']):
                taken += writer.offer(b'x', 1234, dlt=127)
                writer.wait(0.001)
            writer.offer(b'last', 1234, dlt=127, options=comments('words'))
            return str(taken + 1)
        """,
        env={"ENOUGH": str(tmp_path / "enough")},
    ) as peer:
        peer.send(OpenRequest("x:type=written"))
        while not any(run.kind is Kind.BULK for run in peer.runs):
            assert peer.read()
        (tmp_path / "enough").touch()
        found = peer.until_eof()
        assert len(found) == int(peer.expect(Text).text)
    kinds = [run.kind for run in peer.runs]
    assert kinds == sorted(kinds)  # data reports come first, if there are any at all
    assert {stamp for dlt, stamp, _, _ in found if dlt == 127} <= {1000, 1234}
    assert found[-1] == (127, 1234, b"last", 4)
    assert peer.options()[-1] == [(1, b"words")]


def test_options_that_a_server_has_no_place_for_are_told_once(tmp_path):
    with written(
        tmp_path,
        """
        def open(self, definition):
            return Device(dlt=1)
        def capture(self, writer):
            for number in range(9):
                writer.packet(b'x', number, options=flags(1))
        """,
        helperd=False,
    ) as peer:
        peer.send(OpenRequest("x:type=written"))
        assert len(peer.until_packets(9)) == 9
        assert "left out" in peer.expect(Text).text
        peer.ping()
        told = [message.text for message in peer.messages if isinstance(message, Text)]
        assert not any("left out" in text for text in told)


@pytest.mark.parametrize("generation", ["v0", "v2", "v3"])
def test_every_generation_of_server_is_answered_in_its_own(generation):
    with Peer("synthetic", helperd=False, generation=generation) as peer:
        peer.send(OpenRequest("radio0:type=synthetic,rate=0,count=300,size=300"))
        assert peer.expect(OpenReport).success
        assert [number(packet) for packet in peer.until_packets(300)] == list(range(300))
        assert peer.session.generation.name == generation
        peer.ping()


def number(packet):
    return int.from_bytes(packet[2][40:48], "little")


@pytest.mark.parametrize("helperd", [True, False])
def test_a_device_that_cannot_wait_offers_and_what_is_not_taken_is_counted(tmp_path, helperd):
    """The reader stands still: nothing waits, memory is bounded, and taken plus lost is all there was."""
    total = 20_000
    with written(
        tmp_path,
        f"""
        def open(self, definition):
            return Device(dlt=1)
        def capture(self, writer):
            begun = time.monotonic()
            taken = sum(writer.offer(number.to_bytes(4, 'big') * 50) for number in range({total}))
            print(taken, writer.refused, writer._port.queued, time.monotonic() - begun, file=sys.stderr, flush=True)
            return 'done'
        """,
        helperd=helperd,
    ) as peer:
        peer.send(OpenRequest("x:type=written"))
        assert peer.expect(OpenReport).success
        words = peer.process.stderr.readline().split()  # nobody reads its packets until it is done
        taken, refused, queued, seconds = (float(word) for word in words)
        assert taken + refused == total
        assert 0 < taken < total
        assert queued < 256 << 10
        assert seconds < HANGS_S / 2
        packets = peer.until_packets(int(taken))
        numbers = [int.from_bytes(packet[2][:4], "big") for packet in packets]
        assert numbers == sorted(set(numbers))
        if helperd:
            peer.until_eof()
            told = [message for message in peer.messages if isinstance(message, Lost)]
            assert {message.reason for message in told} == {"helper-queue"}
            assert sum(message.packets for message in told) == refused
        else:
            lost = 0
            while lost < refused:  # told as often as there is room for it
                lost += int(re.fullmatch(r"(\d+) packets lost \(helper-queue\)", peer.expect(Text).text)[1])
            assert lost == refused


def test_a_coroutine_that_fails_is_told_and_one_that_ends_is_done(tmp_path):
    body = """
        def open(self, definition):
            return Device(dlt=1)
        async def capture(self, writer):
            import asyncio
            await asyncio.sleep(0)
            if {fails}:
                raise OSError(5, 'the dongle is gone')
            writer.packet(b'last')
            return 'the tape is over'
        """
    with written(tmp_path, body.format(fails=True)) as peer:
        peer.send(OpenRequest("x:type=written"))
        peer.until_eof()
        assert peer.wait() == 1
        assert "the dongle is gone" in next(m.message for m in peer.messages if isinstance(m, ErrorReport))
    with written(tmp_path, body.format(fails=False)) as peer:
        peer.send(OpenRequest("x:type=written"))
        assert [packet[2] for packet in peer.until_eof()] == [b"last"]
        assert peer.wait() == 0
        assert next(m.reason for m in peer.messages if isinstance(m, Shutdown)) == "the tape is over"


def test_radios_that_share_a_list_keep_their_distance_when_one_is_held_up(tmp_path):
    """A radio that was held up for some hops catches up, instead of being late for ever."""
    with written(
        tmp_path,
        """
        def open(self, definition):
            self.tuned = []
            return Device(dlt=1, channels=tuple('abcdefgh'), hopping=Hopping(tuple('abcdefgh'), 10.0))
        def configure(self, channel):
            self.tuned.append((channel, time.monotonic()))
            if len(self.tuned) == 4:
                time.sleep(0.35)
        def capture(self, writer):
            while len(self.tuned) < 16:
                time.sleep(0.01)
            first = self.tuned[0][1]
            for channel, at in self.tuned[:16]:
                writer.packet(channel.encode(), int((at - first) * 1e9))
        """,
    ) as peer:
        peer.send(OpenRequest("x:type=written"))
        packets = peer.until_eof()
    assert b"".join(packet[2] for packet in packets) == b"abcdefghabcdefgh"
    late = [packet[1] / 1e9 - number * 0.1 for number, packet in enumerate(packets)]
    assert max(late[4:7]) > 0.2
    assert min(map(abs, late[10:])) < 0.1, "late for ever"


def test_what_a_failing_capture_has_in_its_batch_leaves_behind_a_full_pipe(tmp_path, either):
    """A capture that ends by an exception does not flush; the main thread does, also once the queue is empty again."""
    body = f"""
        def list(self):
            return [Listed("written0", "x")]
        def open(self, definition):
            return Device(dlt=1)
        def capture(self, writer):
            for number in range({FULL}):
                writer.packet(bytes(100), number)
            sys.stderr.write("written" + chr(10))
            while not writer.stopping:
                time.sleep(0.001)
            sys.stderr.write("ended" + chr(10))
            raise OSError("gone")
    """
    with written(tmp_path, body, **either) as peer:
        peer.send(OpenRequest("written0:type=written"))
        peer.expect(OpenReport)
        assert peer.process.stderr.readline() == b"written\n"
        peer.send(Shutdown("enough"))
        assert peer.process.stderr.readline() == b"ended\n"
        peer.until_eof()
        assert sum(run.packets for run in peer.runs) == FULL


@pytest.mark.parametrize("generation", ["helperd", "v3", "v2", "v0"])
def test_a_number_that_no_capture_can_say_costs_no_packet(tmp_path, generation):
    """A clock that is not set, or a driver's nonsense: the nearest stamp or length, counted; the capture goes on."""
    peer_options = {} if generation == "helperd" else {"helperd": False, "generation": generation}
    with written(
        tmp_path,
        """
        def open(self, definition):
            return Device(dlt=1)
        def capture(self, writer):
            heard = {'signal': Signal(dbm=-60)}
            for stamp in (5_000, -5, -1 << 70, 1 << 64, 1 << 70, 9 << 60):
                writer.packet(b'odd', stamp)
                writer.packet(b'odd', stamp, **heard)
            writer.packet(b'odd', 5_000, original=1 << 40)
            writer.packet(b'odd', 5_000, original=-1)
            writer.json('RTL433', '{}', -5)
            writer.packet(b'end', 6_000)
        """,
        **peer_options,
    ) as peer:
        peer.send(OpenRequest("x:type=written"))
        assert peer.expect(OpenReport).success
        packets = peer.until_packets(15)
        if packets[-1][2] != b"end":  # JSON counts, where it is a report
            packets = peer.until_packets(16)
        last = (1 << 64) - 1
        nearest = [5_000, 0, 0, last, last, 9 << 60]
        precise = 1 if generation == "helperd" else 1000
        wanted = [stamp // precise * precise for stamp in nearest for _ in range(2)] + [5_000, 5_000, 6_000]
        assert [packet[1] for packet in packets if packet[2] != b"{}"] == wanted
        assert [packet[3] for packet in packets if packet[2] == b"odd"][-2:] in (
            [0xFFFFFFFF, 0],
            [0xFFFFFFFF, 3],
        )
        if generation == "helperd":
            counted = Counter()
            for change in (message for message in peer.messages if isinstance(message, Changed)):
                counted[change.reason] += change.packets
            assert counted == {"bad-stamp": 9}
            texts = [value for found in peer.options() for code, value in found if b"time stamp" in value]
            assert texts == [
                f"time stamp {stamp} ns since 1970".encode()
                for stamp in (-5, -1 << 70, 1 << 64, 1 << 70)
                for _ in range(2)
            ]
