"""The replay helper in real processes: every packet, every stamp, every refusal."""

import contextlib
import gzip
import os
import random
import shutil
import sqlite3
import struct
import subprocess
import time

import pytest

from helperd import pcapng
from helperd.wire.messages import (
    Changed,
    ErrorReport,
    OpenReport,
    OpenRequest,
    ProbeReport,
    ProbeRequest,
    Severity,
    Shutdown,
    Text,
)
from tests.helpers.peer import Peer
from tests.helpers.test_capturefile import enhanced, interface, pcap, section

LITTLE, LITTLE_NS = bytes.fromhex("d4c3b2a1"), bytes.fromhex("4d3cb2a1")
BIG_NS = bytes.fromhex("a1b23c4d")
SECOND = 1_600_000_000 * 10**9


def some(count, step_ns=1000, sizes=(60, 9000)):
    """Packets (stamp, bytes, original length) of many sizes, some cut by their recorder."""
    source = random.Random(count)
    return [
        (SECOND + number * step_ns, source.randbytes(source.randint(*sizes)), source.randint(9000, 9100))
        for number in range(count)
    ]


def write(path, data):
    path.write_bytes(data)
    return str(path)


def replay(path, options="realtime=false", **peer_options):
    """All packets of a replay that must end well, and the peer's messages."""
    with Peer("pcapfile", **peer_options) as peer:
        peer.send(OpenRequest(f"{path}:type=pcapfile,{options}"))
        report = peer.expect(OpenReport)
        assert report.success, report.message
        packets = peer.until_eof()
        assert peer.wait() == 0
        return packets, peer.messages, report


@pytest.mark.parametrize(("magic", "linktype"), [(LITTLE, 1), (LITTLE_NS, 105), (BIG_NS, 127)])
def test_every_packet_comes_byte_identical_in_order_with_its_stamp(tmp_path, magic, linktype):
    sent = some(3000, 5000 if magic == LITTLE else 1_001)
    packets, messages, report = replay(write(tmp_path / "x.pcap", pcap(magic, sent, linktype=linktype)))
    assert packets == [(linktype, *packet) for packet in sent]
    assert report.dlt == linktype
    assert report.hardware == "pcap file"
    assert "3000 packets" in next(item.reason for item in messages if isinstance(item, Shutdown))


def test_the_identity_is_the_one_kismets_helper_gives(tmp_path):
    path = write(tmp_path / "x.pcap", pcap(LITTLE, []))
    with Peer("pcapfile", helperd=False) as peer:
        peer.send(OpenRequest(f"{path}:type=pcapfile"))
        report = peer.expect(OpenReport)
    assert report.uuid.startswith("4E1D07C3-0000-0000-0000-0000")
    assert len(report.uuid) == 36


def test_under_helperd_a_file_may_be_replayed_by_many_so_it_identifies_none(tmp_path):
    assert replay(write(tmp_path / "x.pcap", pcap(LITTLE, [])))[2].uuid == ""


def test_several_link_types_each_keep_theirs(tmp_path):
    data = section("<") + interface("<", 127, tsresol=9) + interface("<", 1, tsresol=9)
    data += b"".join(
        enhanced("<", number % 2, number * 1000, bytes([number]) * 60, 60) for number in range(200)
    )
    packets, _, report = replay(write(tmp_path / "x.pcapng", data))
    assert packets == [
        (127 if number % 2 == 0 else 1, number * 1000, bytes([number]) * 60, 60) for number in range(200)
    ]
    assert report.dlt == 127


def test_link_types_of_files_become_those_of_the_wire(tmp_path):
    packets, _, report = replay(write(tmp_path / "x.pcap", pcap(LITTLE, [(0, b"E", 1)], linktype=101)))
    assert report.dlt == 12
    assert packets[0][0] == 12


def test_a_packet_without_a_stamp_gets_the_time_of_reading(tmp_path):
    from tests.helpers.test_capturefile import block

    data = section("<") + interface("<", 1) + block("<", 3, b"\x04\0\0\0abcd")
    packets, _, _ = replay(write(tmp_path / "x.pcapng", data))
    assert abs(packets[0][1] - time.time_ns()) < 60e9


@pytest.mark.parametrize(("options", "rounds"), [("loop=3", 3), ("loop=false", 1), ("loop=1", 1)])
def test_loops_repeat_the_file(tmp_path, options, rounds):
    packets = some(50)
    path = write(tmp_path / "x.pcap", pcap(LITTLE, packets))
    found, messages, _ = replay(path, f"realtime=false,{options}")
    assert found == [(1, *packet) for packet in packets] * rounds
    if rounds > 1:
        assert "150 packets in 3 rounds" in messages[-1].reason


def test_an_endless_loop_goes_on_and_an_empty_capture_does_not_spin(tmp_path):
    path = write(tmp_path / "x.pcap", pcap(LITTLE, some(10)))
    with Peer("pcapfile") as peer:
        peer.send(OpenRequest(f"{path}:realtime=false,loop=true,type=pcapfile"))
        assert len(peer.until_packets(1000)) >= 1000
    found, messages, _ = replay(write(tmp_path / "y.pcap", pcap(LITTLE, [])), "loop=true")
    assert found == []
    assert "0 packets" in messages[-1].reason


def test_at_original_speed_packets_come_when_their_time_has_come(tmp_path):
    path = write(tmp_path / "x.pcap", pcap(LITTLE, some(11, 50_000_000, (60, 60))))
    with Peer("pcapfile") as peer:
        begun = time.monotonic()
        peer.send(OpenRequest(f"{path}:type=pcapfile"))
        peer.until_packets(6)
        assert time.monotonic() - begun >= 0.25
        peer.until_packets(11)
        assert time.monotonic() - begun >= 0.5


def test_a_clock_that_was_set_while_recording_is_not_waited_for(tmp_path):
    stamps = [SECOND, SECOND + 10**13, SECOND + 10**13 + 10**6, SECOND - 10**14]
    path = write(tmp_path / "x.pcap", pcap(LITTLE, [(stamp, b"x", 1) for stamp in stamps]))
    found, _, _ = replay(path, "realtime=true")
    assert [packet[1] for packet in found] == stamps


BAD = {
    "empty": (b"", "is empty"),
    "cut header": (pcap(LITTLE, [])[:20], "ends inside its header, after 20 bytes"),
    "text": (b"hello, I am no capture\n", "is not a capture: it starts with 68 65 6c 6c 6f"),
    "cut first packet": (pcap(LITTLE, some(1))[:60], "is cut"),
}


@pytest.mark.parametrize("name", BAD)
def test_probe_and_open_refuse_what_is_no_capture(tmp_path, name):
    data, words = BAD[name]
    path = write(tmp_path / "x.pcap", data)
    for ask, answer in ((ProbeRequest, ProbeReport), (OpenRequest, OpenReport)):
        with Peer("pcapfile") as peer:
            peer.send(ask(f"{path}:type=pcapfile"))
            report = peer.expect(answer)
            assert not report.success
            assert words in report.message
            assert path in report.message
            peer.until_eof()
            assert peer.wait() == 0


def test_what_cannot_be_opened_is_refused_with_the_reason(tmp_path):
    fifo = tmp_path / "fifo.pcap"
    os.mkfifo(fifo)
    cases = [
        (tmp_path / "none.pcap", "does not exist"),
        (tmp_path, "is a directory"),
        (fifo, "use the pipe helper"),
    ]
    for path, words in cases:
        with Peer("pcapfile") as peer:
            peer.send(OpenRequest(f"{path}:type=pcapfile"))
            assert words in peer.expect(OpenReport).message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("realtime=yes", "realtime=yes: write true or false"),
        ("loop=many", "loop=many: write true, false or a number"),
        ("loop=0", "loop=0"),
        ("stamps=then", "stamps=then: write now or original"),
        ("realtme=true", "did you mean realtime?"),
    ],
)
def test_wrong_options_are_refused(tmp_path, options, words):
    path = write(tmp_path / "x.pcap", pcap(LITTLE, some(1)))
    with Peer("pcapfile") as peer:
        peer.send(OpenRequest(f"{path}:type=pcapfile,{options}"))
        report = peer.expect(OpenReport)
        assert not report.success
        assert words in report.message


@pytest.mark.parametrize(
    ("definition", "success"),
    [
        ("{path}", True),
        ("{path}:type=pcapfile", True),
        ("wlan0", False),
        ("synthetic", False),
        ("/nowhere/x", False),
    ],
)
def test_probe_recognises_captures_by_their_content(tmp_path, definition, success):
    path = write(tmp_path / "odd name", pcap(LITTLE, some(1)))
    with Peer("pcapfile") as peer:
        peer.send(ProbeRequest(definition.format(path=path)))
        assert peer.expect(ProbeReport).success is success


def test_probe_says_why_a_named_capture_is_missing():
    with Peer("pcapfile") as peer:
        peer.send(ProbeRequest("/nowhere/x.pcapng"))
        assert "does not exist" in peer.expect(ProbeReport).message


def test_all_whole_packets_before_a_cut_are_delivered_and_the_cut_is_told(tmp_path):
    packets = some(500)
    path = write(tmp_path / "x.pcap", pcap(LITTLE, packets)[:-10])
    with Peer("pcapfile") as peer:
        peer.send(OpenRequest(f"{path}:type=pcapfile,realtime=false"))
        assert peer.expect(OpenReport).success
        assert peer.until_eof() == [(1, *packet) for packet in packets[:499]]
        texts = [message.text for message in peer.messages if isinstance(message, Text)]
        assert "499 whole packets came before" in texts[-1]
        assert "is cut" in peer.expect(ErrorReport).message
        assert peer.wait() == 1


@pytest.mark.parametrize(
    ("options", "peer_options"), [("", {"helperd": False}), (",hold=true", {"helperd": True})]
)
@pytest.mark.parametrize("how", ["cut", "gzip", "junk"])
def test_who_would_begin_a_damaged_file_anew_has_it_once(tmp_path, options, peer_options, how):
    """A Kismet server opens a source again that ends: it is told what is wrong, and the helper stays."""
    whole = pcap(LITTLE, some(50))
    data = {"cut": whole[:-10], "gzip": gzip.compress(whole)[:-4], "junk": whole + b"\xff" * 99}[how]
    path = write(tmp_path / "x.pcap", data)
    with Peer("pcapfile", **peer_options) as peer:
        peer.send(OpenRequest(f"{path}:type=pcapfile,realtime=false,loop=3{options}"))
        assert peer.expect(OpenReport).success
        packets = peer.until_packets(49 if how == "cut" else 50)
        while not any(isinstance(each, Text) and each.text.startswith("end of ") for each in peer.messages):
            peer.read()
        texts = [each for each in peer.messages if isinstance(each, Text)]
        assert [each.severity for each in texts] == [Severity.ERROR, Severity.INFO]
        assert path in texts[0].text
        assert texts[1].text.startswith(f"end of {path}: {len(packets)} packets")
        assert not any(isinstance(each, ErrorReport | Shutdown) for each in peer.messages)
        peer.ping()


@pytest.mark.parametrize("generation", ["v0", "v2", "v3"])
def test_under_a_kismet_server_long_packets_are_cut_and_the_rest_is_whole(tmp_path, generation):
    packets = [*some(40), (SECOND, bytes(40_000), 40_000)]
    path = write(tmp_path / "x.pcap", pcap(LITTLE, packets))
    limit = 16_383 if generation == "v3" else 8_191
    with Peer("pcapfile", helperd=False, generation=generation) as peer:
        peer.send(OpenRequest(f"{path}:type=pcapfile,realtime=false"))
        found = peer.until_packets(41)
        for (_, stamp, data, _original), (stamp_wanted, whole, _) in zip(found, packets, strict=True):
            assert stamp == stamp_wanted
            assert whole.startswith(data)
            assert len(data) == len(whole) or limit - 600 < len(data) < limit
        assert all(run.nbytes // run.frames <= limit for run in peer.runs)
        assert "cut because the peer takes no longer frames" in peer.expect(Text).text
        peer.ping()


@pytest.mark.need("tshark")
def test_an_outside_reader_sees_the_same_packets_in_the_demo_and_its_replay(tmp_path, root):
    """What arrives from the shipped capture, read by tshark, is what tshark reads from the file itself."""
    demo = root / "helperd" / "share" / "demo.pcapng"
    packets, _, report = replay("demo")
    assert report.capture_interface == str(demo)
    linktypes = list(dict.fromkeys(packet[0] for packet in packets))
    assert set(linktypes) == {127, 1}
    copy = tmp_path / "copy.pcapng"
    copy.write_bytes(
        pcapng.section_header()
        + b"".join(pcapng.interface_block(linktype) for linktype in linktypes)
        + b"".join(
            pcapng.packet_block(linktypes.index(dlt), stamp, data, original)
            for dlt, stamp, data, original in packets
        )
    )
    assert dissect(copy) == dissect(demo)
    assert "[Malformed" not in dissect(demo)


def dissect(path):
    argv = [shutil.which("tshark"), "-r", str(path), "-t", "e", "-x"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def test_the_demo_capture_is_what_its_script_makes(tmp_path, root):
    import sys

    made = tmp_path / "demo.pcapng"
    subprocess.run([sys.executable, str(root / "scripts" / "make-demo-capture"), str(made)], check=True)
    assert made.read_bytes() == (root / "helperd" / "share" / "demo.pcapng").read_bytes()


def compressed(how, data):
    if how == "gzip":
        return gzip.compress(data, 1)
    if how == "gzip of several members":
        half = len(data) // 2
        return gzip.compress(data[:half]) + gzip.compress(b"") + gzip.compress(data[half:]) + bytes(512)
    return subprocess.run([shutil.which("zstd"), "-cq"], input=data, capture_output=True, check=True).stdout


COMPRESSIONS = [
    "gzip",
    "gzip of several members",
    pytest.param(
        "zstd",
        marks=pytest.mark.skipif(shutil.which("zstd") is None, reason="the zstd program is not installed"),
    ),
]


@pytest.mark.parametrize("how", COMPRESSIONS)
def test_compressed_captures_are_replayed_and_looped(tmp_path, how):
    packets = some(400)
    path = write(tmp_path / "any name", compressed(how, pcap(LITTLE_NS, packets)))
    found, _, report = replay(path, "realtime=false,loop=2")
    assert found == [(1, *packet) for packet in packets] * 2
    assert report.hardware == f"pcap file, {how[:4]}"
    with Peer("pcapfile") as peer:
        peer.send(ProbeRequest(path))
        assert peer.expect(ProbeReport).success


@pytest.mark.parametrize("how", [COMPRESSIONS[0], COMPRESSIONS[2]])
def test_whole_packets_before_the_cut_of_a_compressed_file_are_delivered(tmp_path, how):
    packets = some(400)
    data = compressed(how, pcap(LITTLE, packets))
    path = write(tmp_path / "x.pcap.gz", data[: len(data) * 3 // 4])
    with Peer("pcapfile") as peer:
        peer.send(OpenRequest(f"{path}:type=pcapfile,realtime=false"))
        assert peer.expect(OpenReport).success
        found = peer.until_eof()
        assert found == [(1, *packet) for packet in packets[: len(found)]]
        assert 200 < len(found) < 400
        assert path in peer.expect(ErrorReport).message
        assert peer.wait() == 1


@pytest.mark.parametrize("how", [COMPRESSIONS[0], COMPRESSIONS[2]])
def test_what_is_no_capture_inside_is_refused(tmp_path, how):
    path = write(tmp_path / "x.gz", compressed(how, b"hello, I am no capture" * 1000))
    with Peer("pcapfile") as peer:
        peer.send(OpenRequest(f"{path}:type=pcapfile"))
        assert "is not a capture" in peer.expect(OpenReport).message


def test_a_gzip_that_is_damaged_at_its_head_is_refused(tmp_path):
    path = write(tmp_path / "x.gz", gzip.compress(pcap(LITTLE, some(10)))[:9] + b"\xff" * 100)
    with Peer("pcapfile") as peer:
        peer.send(OpenRequest(f"{path}:type=pcapfile"))
        assert "is damaged: gzip" in peer.expect(OpenReport).message


def kismet_log(path, packets, *, version=9, positions=True):
    """A log with the tables that matter here: (seconds, microseconds, link type, bytes, full length, dBm, lat)."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE KISMET (kismet_version TEXT, db_version INT, db_module TEXT)")
        database.execute("INSERT INTO KISMET VALUES ('2025.09', ?, 'kismetlog')", (version,))
        full = ", packet_full_len INT" if version >= 9 else ""
        database.execute(
            "CREATE TABLE packets (ts_sec INT, ts_usec INT, dlt INT, packet BLOB, signal INT, frequency REAL, "
            f"lat REAL, lon REAL, alt REAL, speed REAL, heading REAL{full})"
        )
        for sec, usec, dlt, data, length, dbm, lat in packets:
            row = [sec, usec, dlt, data, dbm, 2437000.0 if dbm else 0, lat, lat, 0, 0, 0]
            row += [length] if version >= 9 else []
            database.execute(f"INSERT INTO packets VALUES ({', '.join('?' * len(row))})", row)
        database.commit()
    return str(path)


@pytest.mark.parametrize(("version", "degree"), [(9, 1), (6, 1), (4, 100_000)])
def test_logs_of_kismet_are_replayed_with_signal_and_position(tmp_path, version, degree):
    rows = [
        (
            1_600_000_000 + n,
            n,
            127,
            bytes([n]) * 60,
            60 + n,
            -50 if n % 2 else 0,
            1.5 * degree if n % 3 == 0 else 0,
        )
        for n in range(200)
    ]
    path = kismet_log(tmp_path / "x.kismet", [*rows, (1, 1, 127, None, 5, 0, 0)], version=version)
    with Peer("pcapfile") as peer:
        peer.send(OpenRequest(f"{path}:type=pcapfile,realtime=false"))
        report = peer.expect(OpenReport)
        assert (report.success, report.dlt, report.hardware) == (True, 127, f"Kismet log, version {version}")
        found = peer.until_eof()
        assert peer.wait() == 0
    assert found == [
        (127, sec * 10**9 + usec * 1000, data, length if version >= 9 else 60)
        for sec, usec, _, data, length, _, _ in rows
    ]
    words = [dict(options).get(1, b"").decode().split() for options in peer.options()]
    assert ["signal=-50dBm" in each for each in words] == [bool(n % 2) for n in range(200)]
    assert ["lat=1.5" in each for each in words] == [n % 3 == 0 for n in range(200)]


def test_databases_that_are_no_logs_or_damaged_are_refused(tmp_path):
    other = tmp_path / "other.db"
    with contextlib.closing(sqlite3.connect(other)) as database:
        database.execute("CREATE TABLE t (x)")
    damaged = write(tmp_path / "damaged.kismet", b"SQLite format 3\0" + b"\xff" * 5000)
    for path, words in (
        (other, "not a log of Kismet"),
        (damaged, "is damaged"),
    ):
        with Peer("pcapfile") as peer:
            peer.send(OpenRequest(f"{path}:type=pcapfile"))
            assert words in peer.expect(OpenReport).message


def empty_captures(tmp_path):
    """Files that are whole and hold no packet."""
    names = struct.pack("<2I4xI", 4, 16, 16)  # a name resolution block without names
    yield write(tmp_path / "section.pcapng", section("<"))
    yield write(tmp_path / "big.pcapng", section(">"))
    yield write(tmp_path / "names.pcapng", section("<") + names + section("<"))
    yield write(tmp_path / "interface.pcapng", section("<") + interface("<", 105))
    yield write(tmp_path / "header.pcap", pcap(LITTLE, []))
    yield write(tmp_path / "packed.pcapng.gz", gzip.compress(section("<")))
    if shutil.which("zstd"):
        yield write(tmp_path / "packed.pcapng.zst", compressed("zstd", section("<")))
        yield write(tmp_path / "packed.pcap.zst", compressed("zstd", pcap(LITTLE, [])))
    yield kismet_log(tmp_path / "log.kismet", [])


@pytest.mark.parametrize("options", ["realtime=false", "realtime=true", "loop=true", "stamps=now"])
def test_a_capture_without_a_packet_is_replayed_and_done(tmp_path, options):
    for path in empty_captures(tmp_path):
        found, messages, _ = replay(path, options)
        assert found == []
        names = "; left out: name resolution blocks (1)" if path.endswith("names.pcapng") else ""
        assert messages[-1] == Shutdown(f"end of {path}: 0 packets{names}")


@pytest.mark.parametrize("options", ["realtime=false", "realtime=true,loop=2"])
def test_with_stamps_of_now_the_first_packet_of_each_round_is_of_now(tmp_path, options):
    stamps = [SECOND, SECOND + 250, SECOND - 10**9, SECOND + 10**6]
    path = write(tmp_path / "x.pcap", pcap(LITTLE_NS, [(stamp, b"x", 1) for stamp in stamps]))
    before = time.time_ns()
    found, _, _ = replay(path, f"{options},stamps=now")
    after = time.time_ns()
    assert len(found) == 4 * (1 + options.endswith("2"))
    for first in range(0, len(found), 4):
        shift = found[first][1] - SECOND
        assert before <= found[first][1] <= after
        assert [packet[1] for packet in found[first : first + 4]] == [stamp + shift for stamp in stamps]


def test_a_shift_out_of_all_time_is_counted_and_told(tmp_path):
    stamps = [2**64 - 1, SECOND]
    path = write(
        tmp_path / "x.pcapng",
        section("<")
        + interface("<", 1, tsresol=9)
        + b"".join(enhanced("<", 0, stamp, b"x", 1) for stamp in stamps),
    )
    with Peer("pcapfile") as peer:
        peer.send(OpenRequest(f"{path}:type=pcapfile,realtime=false,stamps=now"))
        found = peer.until_eof()
        assert [packet[1] for packet in found[1:]] == [0]
        shifted = SECOND + found[0][1] - stamps[0]
        assert [message for message in peer.messages if isinstance(message, Changed)] == [
            Changed("bad-stamp", 1)
        ]
        assert [code_value for options in peer.options() for code_value in options] == [
            (1, f"time stamp {shifted} ns since 1970".encode())
        ]


def test_original_stamps_are_the_default_and_can_be_asked_for(tmp_path):
    path = write(tmp_path / "x.pcap", pcap(LITTLE_NS, [(SECOND, b"x", 1)]))
    assert replay(path)[0] == replay(path, "stamps=original")[0] == [(1, SECOND, b"x", 1)]
