"""pipe, jsonlines and extcap around real programs: well-behaved ones, misbehaving ones, and those of others."""

import json
import os
import re
import shutil
import stat
import sys
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from helperd.helpers._jsonrecord import NoRecord, Reader
from helperd.helpers.jsonlines import LineCutter, stamp_ns
from helperd.wire import v3
from helperd.wire.frames import Kind
from helperd.wire.messages import (
    Changed,
    ErrorReport,
    ListReport,
    ListRequest,
    Lost,
    OpenReport,
    OpenRequest,
    ProbeReport,
    ProbeRequest,
    Severity,
    Shutdown,
    Text,
)
from tests.helpers import sshd
from tests.helpers.peer import Peer
from tests.helpers.test_capturefile import interface, pcap, section
from tests.patience import promptly

LITTLE = bytes.fromhex("d4c3b2a1")
PACKETS = [(1_600_000_000 * 10**9 + n * 1000, n.to_bytes(2, "big") * 100, 200) for n in range(1000)]
EXTCAPS = next((path for path in Path("/usr/lib").glob("*/wireshark/extcap")), Path("/nowhere"))


def program(tmp_path, body, name="tool"):
    """An executable Python script."""
    path = tmp_path / name
    path.write_text(f"#!{sys.executable} -IS\nimport os, sys, time, signal\n" + textwrap.dedent(body))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def opened(peer, definition):
    peer.send(OpenRequest(definition))
    report = peer.expect(OpenReport)
    assert report.success, report.message
    return report


def refused(words, definition):
    with Peer(*words) as peer:
        peer.send(OpenRequest(definition))
        report = peer.expect(OpenReport)
        assert not report.success
        peer.until_eof()
        assert peer.wait() == 0
        return report.message


def children(pid):
    return [
        child for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()
    ]


# pipe


def capture_tool(tmp_path, after=""):
    data = tmp_path / "data.pcap"
    data.write_bytes(pcap(LITTLE, PACKETS))
    return program(
        tmp_path, f"sys.stdout.buffer.write(open({str(data)!r}, 'rb').read())\nsys.stdout.flush()\n{after}"
    )


def test_pipe_passes_every_packet_on_and_ends_with_its_program(tmp_path):
    with Peer("pipe", "--", capture_tool(tmp_path)) as peer:
        report = opened(peer, "x:type=pipe")
        assert (report.dlt, report.hardware) == (1, "tool")
        assert peer.until_eof() == [(1, *packet) for packet in PACKETS]
        assert peer.expect(Shutdown).reason == "tool has ended after 1000 packets"
        assert peer.wait() == 0


@pytest.mark.parametrize(
    ("data", "dlt"),
    [
        (section("<"), None),
        (section(">") + section("<"), None),
        (section("<") + interface("<", 105), 105),
        (pcap(LITTLE, [], snaplen=0xFFFFFFFF), 1),
    ],
)
def test_pipe_takes_a_capture_without_a_packet(tmp_path, data, dlt):
    tool = program(tmp_path, f"sys.stdout.buffer.write({data!r})")
    with Peer("pipe", "--", tool) as peer:
        assert opened(peer, "x:type=pipe").dlt == dlt
        assert peer.until_eof() == []
        assert peer.expect(Shutdown).reason == "tool has ended after 0 packets"
        assert peer.wait() == 0


def test_pipe_reports_a_program_that_fails_with_its_last_words(tmp_path):
    tool = capture_tool(tmp_path, "print('the antenna fell off', file=sys.stderr); sys.exit(3)")
    with Peer("pipe", "--", tool) as peer:
        opened(peer, "x:type=pipe")
        assert len(peer.until_eof()) == 1000
        assert peer.expect(ErrorReport).message == "tool ended with status 3: the antenna fell off"
        assert peer.wait() == 1
        assert "tool: the antenna fell off" in peer.stderr()


def test_pipe_prefers_the_programs_reason_to_the_cut_it_left(tmp_path):
    data = tmp_path / "data.pcap"
    data.write_bytes(pcap(LITTLE, PACKETS)[:-7])
    tool = program(
        tmp_path, f"os.write(1, open({str(data)!r}, 'rb').read()); os.kill(os.getpid(), signal.SIGSEGV)"
    )
    with Peer("pipe", "--", tool) as peer:
        opened(peer, "x:type=pipe")
        assert len(peer.until_eof()) == 999
        assert "ended by SIGSEGV" in peer.expect(ErrorReport).message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            "print('no such device', file=sys.stderr); sys.exit(1)",
            "tool ended with status 1: no such device, before",
        ),
        ("print('hello, I am no capture')", "is not a capture"),
        ("pass", "tool ended with status 0, before any packet"),
    ],
)
def test_pipe_refuses_a_program_without_a_capture(tmp_path, body, words):
    assert words in refused(["pipe", "--", program(tmp_path, body)], "x:type=pipe")


def test_pipe_refuses_what_cannot_be_started(tmp_path):
    assert "/nowhere/tool does not exist" in refused(["pipe", "--", "/nowhere/tool"], "x:type=pipe")
    plain = tmp_path / "plain"
    plain.write_text("")
    assert "may not be executed by this user" in refused(["pipe", "--", str(plain)], "x:type=pipe")
    plain.chmod(0o700)
    assert "no #! line, or is not a program for this machine" in refused(
        ["pipe", "--", str(plain)], "x:type=pipe"
    )
    plain.write_text("#!/nowhere/python\n")
    assert "the interpreter that its first line names does not exist" in refused(
        ["jsonlines", "--", str(plain)], "x:type=jsonlines"
    )
    plain.write_bytes(
        Path("/bin/true").read_bytes()[:18] + b"\xff\xff" + bytes(200)
    )  # an ELF file of no machine
    assert "not a program for this machine" in refused(["extcap", "--", str(plain)], "x:type=extcap")
    assert f"{tmp_path} is a directory" in refused(["pipe", "--", str(tmp_path)], "x:type=pipe")
    for line, words in {"#!/nowhere/python": ": /nowhere/python", "#!/bin/sh\r": "carriage return"}.items():
        plain.write_bytes(line.encode() + b"\n")
        assert words in refused(["extcap", "--", str(plain)], "x:type=extcap")
    os.system(f"sed -i 's/\\r$//' {plain}")  # as the text says
    assert plain.read_bytes() == b"#!/bin/sh\n"


def test_pipe_fills_places_from_the_definition_and_refuses_the_rest(tmp_path):
    tool = capture_tool(tmp_path, "print(*sys.argv[1:], file=sys.stderr)")
    words = ["pipe", "--", "interface~[a-z0-9]+", tool, "-i", "{interface}", "[", "-s", "{snap}", "]"]
    with Peer(*words) as peer:
        opened(peer, "eth0:type=pipe,snap=99")
        peer.until_eof()
        peer.wait()
        assert "tool: -i eth0 -s 99" in peer.stderr()
    said = refused(words, "e/th:type=pipe")
    assert "interface='e/th' is not allowed" in said
    assert "interface~PATTERN in front of the program" in said
    assert "ended with status" in refused(
        ["pipe", "--", "interface~[a-z/]+", "/bin/echo", "{interface}"], "e/th:type=pipe"
    )
    assert "did you mean snap?" in refused(words, "eth0:type=pipe,snip=9")


@pytest.mark.parametrize("stubborn", [False, True])
def test_pipe_ends_its_program_and_what_that_started(tmp_path, stubborn):
    tool = capture_tool(
        tmp_path,
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" if stubborn else "")
        + "os.fork()\nwhile True: time.sleep(100)",
    )
    with Peer("pipe", "--", tool) as peer:
        opened(peer, "x:type=pipe")
        peer.until_packets(1000)
        assert children(peer.process.pid)
        with promptly("the end", 1.2):
            peer.terminate()
            peer.until_eof()
            assert peer.wait() == 0


def test_pipe_reads_a_fifo_until_its_writer_closes_it(tmp_path):
    fifo = tmp_path / "capture"
    os.mkfifo(fifo)

    def feed():
        with open(fifo, "wb") as file:
            file.write(pcap(LITTLE, PACKETS))

    with Peer("pipe") as peer:
        peer.send(ProbeRequest(str(fifo)))
        assert peer.expect(ProbeReport).success
    feeder = threading.Thread(target=feed)
    feeder.start()
    with Peer("pipe") as peer:
        opened(peer, f"{fifo}:type=pipe")
        assert len(peer.until_eof()) == 1000
        assert "the writer closed" in peer.expect(Shutdown).reason
    feeder.join()
    assert "is no FIFO" in refused(["pipe"], "/etc/passwd:type=pipe")


@pytest.mark.skipif(
    shutil.which("tcpdump") is None, reason="tcpdump is not installed: the outside program is missing"
)
def test_pipe_runs_tcpdump(tmp_path):
    data = tmp_path / "data.pcap"
    data.write_bytes(pcap(LITTLE, PACKETS))
    tcpdump = shutil.which("tcpdump")
    with Peer("pipe", "--", "interface~/.*", tcpdump, "-U", "-w", "-", "-r", "{interface}") as peer:
        opened(peer, f"{data}:type=pipe")
        assert peer.until_eof() == [(1, *packet) for packet in PACKETS]


@pytest.mark.need("root")
@pytest.mark.skipif(
    shutil.which("dumpcap") is None, reason="dumpcap is not installed: the outside program is missing"
)
def test_pipe_runs_dumpcap_live_on_the_loopback():
    import socket

    with Peer(
        "pipe", "--", shutil.which("dumpcap"), "-q", "-w", "-", "-i", "{interface}", "-f", "udp port 9"
    ) as peer:
        opened(peer, "lo:type=pipe")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for number in range(2000):
                sender.sendto(b"%08d" % number, ("127.0.0.1", 9))
                if sum(run.packets for run in peer.runs) >= 100:
                    break
                peer.read(0.01)
        assert sum(run.packets for run in peer.runs) >= 100
        with promptly("the end", 1.2):
            peer.terminate()
            peer.until_eof()
            assert peer.wait() == 0


# jsonlines


def records(peer):
    return [report.json for run in peer.runs if run.kind is Kind.PACKETS for report in v3.reports(run)]


def test_jsonlines_turns_each_object_into_a_report_with_its_stamp(tmp_path):
    tool = program(
        tmp_path,
        """
        print('{"time": "2023-11-14T22:13:20.5", "temperature": 21.5}')
        print('{"time": 1700000001.25}')
        print('')
        print('{"time": "nonsense"}')
        print('{"n": 4}', end='')
        """,
    )
    with Peer("jsonlines", "--", "kind=RTL433", "time=time", tool) as peer:
        assert opened(peer, "0:type=jsonlines").dlt is None
        peer.until_eof()
        found = records(peer)
        assert [record.type for record in found] == ["RTL433"] * 4
        assert [json.loads(record.text) for record in found][3] == {"n": 4}
        assert [(record.sec, record.usec) for record in found[:2]] == [
            (1_700_000_000, 500_000),
            (1_700_000_001, 250_000),
        ]
        assert all(abs(record.sec - time.time()) < 60 for record in found[2:])
        assert peer.expect(Shutdown).reason == "tool has ended after 4 records"


def test_jsonlines_counts_what_it_leaves_out_and_shows_the_first(tmp_path):
    tool = program(
        tmp_path,
        """
        print('{"n": 1}')
        for n in range(25): print('this is no json', n)
        print('[1, 2]')
        print('{"big": "' + 'x' * 10_000_000 + '"}')
        print('[' * 100_000)
        print('{"n": 2}')
        """,
    )
    with Peer("jsonlines", "--", tool) as peer:
        opened(peer, "0:type=jsonlines")
        peer.until_eof()
        assert [json.loads(record.text) for record in records(peer)] == [{"n": 1}, {"n": 2}]
        said = [message.text for message in peer.messages if isinstance(message, Text)]
        assert "1 lines left out: not a JSON object; e.g. 'this is no json 0'" in said
        assert any(text.startswith("10 lines left out") for text in said)
        assert any("too long" in text and '{"big"' in text for text in said)
        assert len(said) <= 5
        assert peer.expect(Shutdown).reason == "tool has ended after 2 records, 28 left out"


LINES = {
    b'{"a": NaN, "b": [-Infinity, 1e999, 1.50]}': '{"a":null,"b":[null,null,1.5]}',
    b'{"n": 1.50, "big": 123456789012345678901234567890}': '{"n": 1.50, "big": 123456789012345678901234567890}',
    b'\xef\xbb\xbf{"bom": 1}': '{"bom": 1}',
    b'{"twice": 1, "twice": {"x": 1, "x": 2}}': '{"twice":{"x":2}}',
    '{"schön": "\U0001f600\u2028"}'.encode(): '{"schön": "\U0001f600\u2028"}',
    b'{"pair": "\\ud83d\\ude00"}': '{"pair": "\\ud83d\\ude00"}',
    b'  {"blanks": 1}\t\r': '{"blanks": 1}',
}
"""What a program prints, and what is passed on of it."""
NO_RECORDS = {
    b'{"lone": "\\ud83d"}': "a lone surrogate, which is no character (an escape)",
    b'{"raw": "\xed\xa0\xbd"}': "a lone surrogate, which is no character (byte 9)",
    b'{"latin": "\xfc"}': "not UTF-8 (byte 11, 0xfc: invalid start byte)",
    '{"utf": 16}'.encode("utf-16"): "not UTF-8 (byte 0, 0xff: invalid start byte)",
    b'{"two": 1} {"objects": 2}': "not a JSON object",
    b'{"digits": ' + b"9" * 5000 + b"}": "not a JSON object",
    b'{"deep": ' + b"[" * 50_000 + b"NaN" + b"]" * 50_000 + b"}": "nested deeper than 256",
}
"""What a program prints, and why it is left out."""


def test_jsonlines_passes_on_the_text_that_it_has_parsed():
    reader = Reader()
    for line, text in LINES.items():
        record = reader.read(line)
        assert record.text == text
        assert json.loads(record.text, parse_constant=pytest.fail) == record.values
        assert record.finite is (b"NaN" not in line)


def test_jsonlines_says_why_a_line_is_no_record():
    reader = Reader()
    for line, words in NO_RECORDS.items():
        with pytest.raises(NoRecord, match="^" + re.escape(words) + "$"):
            reader.read(line)
        assert reader.read(b'{"after": 1}').text == '{"after": 1}'
    assert [reader.read(blank) for blank in (b"", b" \r", b"\xef\xbb\xbf")] == [None] * 3


def test_jsonlines_takes_what_every_reader_of_json_does():
    """256 deep; brackets in strings, or beside each other, are no depth."""
    for text in (
        "{" + '"a":{' * 255 + "}" * 256,
        '{"a":' + "[" * 255 + "]" * 255 + "}",
        '{"' + "[{" * 500 + '\\"": [' + "[],{}," * 500 + "[]]}",
    ):
        assert Reader().read(text.encode()).text == text
    with pytest.raises(NoRecord, match="nested deeper than 256"):
        Reader().read(("{" + '"a":{' * 256 + "}" * 257).encode())


def test_jsonlines_counts_in_the_ledger_what_it_changes_and_leaves_out(tmp_path):
    (tmp_path / "lines").write_bytes(
        b"\n".join([*LINES, *NO_RECORDS, b'{"long": "' + b"x" * 300_000 + b'"}', b""])
    )
    tool = program(tmp_path, f"sys.stdout.buffer.write(open({str(tmp_path / 'lines')!r}, 'rb').read())")
    with Peer("jsonlines", "--", tool) as peer:
        opened(peer, "0:type=jsonlines")
        peer.until_eof()
        assert [record.text for record in records(peer)] == list(LINES.values())
        counted = Counter()
        for message in peer.messages:
            if isinstance(message, Lost | Changed):
                counted[message.reason] += message.packets
        assert counted == {"bad-record": len(NO_RECORDS), "too-long": 1, "not-finite": 1}
        said = [message.text for message in peer.messages if isinstance(message, Text)]
        assert len(said) == 7, "the first of each kind, and the end"


def test_jsonlines_leaves_out_what_a_kismet_server_cannot_take(tmp_path):
    tool = program(tmp_path, "print('{\"x\": \"' + 'y' * 20_000 + '\"}'); print('{}')")
    with Peer("jsonlines", "--", tool, helperd=False) as peer:
        opened(peer, "0:type=jsonlines")
        assert "too long" in peer.expect(Text).text
        while not records(peer):
            peer.read()
        assert [record.text for record in records(peer)] == ["{}"]


def test_jsonlines_ends_with_its_program(tmp_path):
    with Peer("jsonlines", "--", program(tmp_path, "print('{}', flush=True); sys.exit(7)")) as peer:
        opened(peer, "0:type=jsonlines")
        peer.until_eof()
        assert peer.expect(ErrorReport).message == "tool ended with status 7"
    assert "no program is configured" in refused(["jsonlines"], "0:type=jsonlines")


def test_lines_are_cut_wherever_the_reads_end():
    data = b"one\n\ntwo\r\n" + b"x" * 50 + b"\nthree\n" + b"y" * 49 + b"\nlast"
    for step in range(1, len(data)):
        cutter = LineCutter(40)
        found = [line for at in range(0, len(data), step) for line in cutter.feed(data[at : at + step])]
        assert found + cutter.finish() == [b"one", b"", b"two\r", b"three", b"last"]
        assert cutter.long == 2
        assert cutter.excerpt == (b"x" * 50)[: len(cutter.excerpt)]


@pytest.mark.parametrize(
    ("value", "stamp"),
    [
        (1_700_000_005, 1_700_000_005 * 10**9),
        ("1700000005.25", 1_700_000_005_250_000_000),
        (" 1.7e9 ", 1_700_000_000 * 10**9),
        (20240507, None),  # a date written as digits is no number of seconds
        ("20240507", 1_715_040_000 * 10**9),  # and as text it is ISO 8601
        (12.5, None),  # an uptime
        (1_700_000_000_000, None),  # milliseconds
        (4_294_967_296, None),
        ("1_700_000_000", None),
        (10**400, None),
        ("2107-01-01", None),
        ("9999-12-31T23:59:59-23:59", None),
        ("1970-01-01 00:00:07", 7 * 10**9),
        ("1970-01-01T01:00:07+01:00", 7 * 10**9),
        ("1970-01-01T00:00:07Z", 7 * 10**9),
        (True, None),
        (None, None),
        (-1, None),
        ("nan", None),
        (1e300, None),
        (float("nan"), None),
        (float("inf"), None),
        ("Infinity", None),
        ("yesterday", None),
        ("1950-01-01", None),
        ([], None),
    ],
)
def test_time_stamps(value, stamp):
    assert stamp_ns(value) == stamp


@pytest.mark.skipif(
    shutil.which("rtl_433") is None, reason="rtl_433 is not installed: the outside program is missing"
)
def test_jsonlines_runs_rtl_433_on_its_test_data():
    words = ["kind=RTL433", "time=time", shutil.which("rtl_433"), "-F", "json", "-M", "time:utc"]
    with Peer("jsonlines", "--", *words, "-y", "{{25}}fb2dd58") as peer:
        opened(peer, "test:type=jsonlines")
        peer.until_eof()
        assert {json.loads(record.text)["model"] for record in records(peer)} >= {"Chuango-Security"}
        assert "rtl_433 has ended after" in peer.expect(Shutdown).reason


# extcap


GOOD = """
args = sys.argv[1:]
if '--extcap-interfaces' in args:
    print('extcap {version=1.0}')
    print('interface {value=fake0}{display=A fake}')
    print('control {number=0}{type=string}{display=Message}')
elif '--extcap-dlts' in args:
    print('dlt {number=147}{name=USER0}{display=Fake}')
elif '--extcap-config' in args:
    print('arg {number=0}{call=--count}{display=Count}{type=unsigned}{range=1,5000}{required=true}')
    print('arg {number=1}{call=--mode}{display=Mode}{type=selector}')
    print('value {arg=1}{value=slow}{display=S}')
    print('value {arg=1}{value=fast}{display=F}{default=true}')
    print('arg {number=2}{call=--command}{display=Command}{type=string}')
    print('arg {number=3}{call=--flag}{display=Flag}{type=boolflag}')
    print('arg {number=4}{call=--type}{display=Type}{type=selector}')
    print('value {arg=4}{value=odd}{display=O}')
elif '--capture' in args:
    print('chatter on stdout', flush=True)
    print(*args, file=sys.stderr, flush=True)
    fifo = open(args[args.index('--fifo') + 1], 'wb', buffering=0)
    out = open(args[args.index('--extcap-control-out') + 1], 'wb', buffering=0)
    into = open(args[args.index('--extcap-control-in') + 1], 'rb', buffering=0)
    assert into.read(6) == b'T\\0\\0\\x02\\0\\0'
    out.write(b'T\\0\\0\\x07\\0\\x08hello')
    fifo.write(open(DATA, 'rb').read())
    time.sleep(LAST)
"""


def extcap_tool(tmp_path, last=0):
    data = tmp_path / "data.pcap"
    data.write_bytes(pcap(LITTLE, PACKETS, linktype=147))
    return program(tmp_path, f"DATA, LAST = {str(data)!r}, {last}\n" + GOOD)


def test_extcap_lists_probes_and_captures(tmp_path):
    tool = extcap_tool(tmp_path)
    with Peer("extcap", "--", tool) as peer:
        peer.send(ListRequest())
        (interface,) = peer.expect(ListReport).interfaces
        assert (interface.name, interface.hardware) == ("fake0", "A fake")
    with Peer("extcap", "--", tool) as peer:
        peer.send(ProbeRequest("fake0:count=5"))
        assert peer.expect(ProbeReport).hardware == "A fake"
    with Peer("extcap", "--", tool) as peer:
        report = opened(peer, "fake0:type=fake,count=5,mode=fast,flag=true,x-type=odd")
        assert report.dlt == 147
        assert peer.until_eof() == [(147, *packet) for packet in PACKETS]
        texts = [message for message in peer.messages if isinstance(message, Text)]
        assert Text(Severity.ALERT, "hello") in texts
        assert peer.wait() == 0
        said = peer.stderr()
        assert "tool: --count 5 --mode fast --flag --type odd --capture --extcap-interface fake0" in said
        assert "tool: chatter on stdout" in said


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        ("fake0:type=fake", "option count is missing"),
        ("fake0:type=fake,count=0", "write a number from 1 to 5000"),
        ("fake0:type=fake,count=many", "write a number"),
        ("fake0:type=fake,count=5,mode=odd", "write one of slow, fast"),
        ("fake0:type=fake,count=5,flag=maybe", "write true or false"),
        ("fake0:type=fake,count=5,command=id", "the profile must allow it with a pattern"),
        ("fake0:type=fake,count=5,cuont=5", "did you mean count?"),
        ("fake1:type=fake,count=5", "fake1: "),
    ],
)
def test_extcap_checks_options_before_it_starts_the_tool(tmp_path, definition, words):
    assert words in refused(["extcap", "--", extcap_tool(tmp_path)], definition)


def opened_under_kismet(words, text):
    """What the program's stderr said, once it has ended; the helper stays for such a server until it is told to go."""
    with Peer(*words, helperd=False) as peer:
        peer.send(OpenRequest(text))
        report = peer.expect(OpenReport)
        assert report.success, report.message
        while "has ended after 1000 packets" not in peer.expect(Text).text:
            pass
        peer.terminate()
        assert peer.wait() == 0
        return peer.stderr()


def test_extcap_opens_what_a_kismet_server_has_made_of_a_definition(tmp_path):
    words = ["extcap", "--", extcap_tool(tmp_path)]
    text = "fake0:count=5,6,11,mode=fast,vif=mon0,flag=true,x,mode=fast,type=linuxwifi"
    assert "--count 5 --mode fast --flag --capture" in opened_under_kismet(words, text)
    assert "'5,6,11': write a number" in refused(words, "fake0:count=5,6,11")


def test_pipe_opens_what_a_kismet_server_has_made_of_a_definition(tmp_path):
    tool = capture_tool(tmp_path, "print(*sys.argv[1:], file=sys.stderr)")
    words = ["pipe", "--", tool, "{interface}", "--count={count}"]
    assert "eth0 --count=5" in opened_under_kismet(words, "eth0:count=5,6,11,type=pcapfile,x,count=5")
    assert "'5,6,11' is not allowed" in refused(words, "eth0:count=5,6,11")


def test_extcap_fills_free_text_only_by_the_profiles_pattern(tmp_path):
    words = ["extcap", "--", "command~[a-z]+", extcap_tool(tmp_path)]
    with Peer(*words) as peer:
        opened(peer, "fake0:type=fake,count=5,command=tcpdump")
        peer.until_eof()
        peer.wait()
        assert "--command tcpdump" in peer.stderr()
    assert "must match [a-z]+" in refused(words, "fake0:type=fake,count=5,command=rm -rf")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("print('usage: nonsense')", "and said 'usage: nonsense'"),
        ("time.sleep(100)", "did not answer within 1.5 s (probe_timeout of its [[helper]])"),
        ("print('boom', file=sys.stderr); sys.exit(4)", "ended with status 4 and said 'boom'"),
        ("while True: print('x' * 10000)", "answers with more than"),
        ("pass", "names no interface"),
    ],
)
def test_extcap_refuses_a_tool_that_does_not_answer_sensibly(tmp_path, body, words):
    with Peer("extcap", "--", program(tmp_path, body), env={"HELPERD_ASK_TIMEOUT": "1.5"}) as peer:
        with promptly("the refusal", 2.0):
            peer.send(ListRequest())
            report = peer.expect(ListReport)
        assert not report.success
        assert words in report.message


def test_extcap_stops_within_a_second(tmp_path):
    with Peer("extcap", "--", extcap_tool(tmp_path, last=100)) as peer:
        opened(peer, "fake0:count=5")
        peer.until_packets(1000)
        with promptly("the end", 1.0):
            peer.terminate()
            peer.until_eof()
            assert peer.wait() == 0


@pytest.mark.skipif(not (EXTCAPS / "randpktdump").exists(), reason="Wireshark's randpktdump is not installed")
def test_extcap_runs_randpktdump():
    tool = str(EXTCAPS / "randpktdump")
    with Peer("extcap", "--", tool) as peer:
        peer.send(ListRequest())
        assert [item.name for item in peer.expect(ListReport).interfaces] == ["randpkt"]
    with Peer("extcap", "--", tool) as peer:
        opened(peer, "randpkt:type=randpkt,count=1000,maxbytes=300,x-type=arp")
        assert len(peer.until_eof()) == 1000
        assert peer.wait() == 0


@pytest.mark.skipif(not (EXTCAPS / "udpdump").exists(), reason="Wireshark's udpdump is not installed")
def test_extcap_runs_udpdump():
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as finder:
        finder.bind(("127.0.0.1", 0))
        port = finder.getsockname()[1]
    with Peer("extcap", "--", str(EXTCAPS / "udpdump")) as peer:
        opened(peer, f"udpdump:type=udpdump,port={port}")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for number in range(20_000):
                if sum(run.packets for run in peer.runs) >= 1000:
                    break
                sender.sendto(b"%08d" % number, ("127.0.0.1", port))
                peer.read(0.0005)
        assert sum(run.packets for run in peer.runs) >= 1000
        with promptly("the end", 1.0):
            peer.terminate()
            peer.until_eof()
            assert peer.wait() == 0


@pytest.fixture
def ssh(tmp_path):
    with sshd.server(tmp_path) as where:
        yield where


@pytest.mark.skipif(not (EXTCAPS / "sshdump").exists(), reason="Wireshark's sshdump is not installed")
@pytest.mark.skipif(bool(sshd.lacks()), reason=sshd.lacks() or "it can")
def test_extcap_runs_sshdump_to_a_local_server(tmp_path, ssh):
    import getpass

    port, key = ssh
    data = tmp_path / "remote.pcap"
    data.write_bytes(pcap(LITTLE, PACKETS))
    words = [
        "remote-host~[0-9.]+",
        "remote-username~[a-z0-9_]+",
        "sshkey~/.*",
        "remote-capture-command~cat /[^;|&]*",
    ]
    options = f"remote-host=127.0.0.1,remote-port={port},remote-username={getpass.getuser()},sshkey={key}"
    options += ",remote-capture-command-select=other,remote-capture-command="
    with Peer("extcap", "--", *words, str(EXTCAPS / "sshdump")) as peer:
        peer.send(OpenRequest(f"sshdump:type=sshdump,{options}cat {data}; id"))
        assert "must match cat /" in peer.expect(OpenReport).message
    with Peer("extcap", "--", *words, str(EXTCAPS / "sshdump")) as peer:
        opened(peer, f"sshdump:type=sshdump,{options}cat {data} -")  # and then waits for its input
        assert peer.until_packets(1000) == [(1, *packet) for packet in PACKETS]
        with promptly("the end", 1.0):
            peer.terminate()
            peer.until_eof()
            assert peer.wait() == 0
