"""What a helper shortens, leaves out or changes is in the source's ledger, with its reason, wherever one looks."""

from __future__ import annotations

import json
import sqlite3
import struct
import subprocess
import sys

import pytest

from helperd.services.exporter import page_of
from tests.patience import HANGS_S
from tests.rig import HELPERD, ROOT, Stream, daemon

USB = 249
LONG = 1_048_603
LITTLE = 0xA1B2C3D4


def capture(path, sizes, linktype=USB):
    """A pcap file with packets of these sizes."""
    data = struct.pack("<IHHiIII", LITTLE, 2, 4, 0, 0, 128 << 20, linktype)
    for number, size in enumerate(sizes):
        data += struct.pack("<4I", 1_700_000_000 + number, 0, size, size) + bytes([number + 1]) * size
    path.write_bytes(data)
    return path


def lines(path, *texts):
    """A program that prints these lines."""
    path.write_text(f"#!{sys.executable} -IS\nfor text in {texts!r}: print(text)\n")
    path.chmod(0o755)
    return path


def kismet_log(path, texts):
    """A log of Kismet's with JSON records and one packet."""
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE KISMET (kismet_version TEXT, db_version INT, db_module TEXT)")
        database.execute("INSERT INTO KISMET VALUES ('test', 9, 'kismetlog')")
        database.execute(
            "CREATE TABLE packets (ts_sec INT, ts_usec INT, dlt INT, packet BLOB, packet_full_len INT)"
        )
        database.execute("CREATE TABLE data (ts_sec INT, ts_usec INT, type TEXT, json TEXT)")
        database.execute("INSERT INTO packets VALUES (1700000000, 0, 1, ?, 60)", (bytes(60),))
        for text in texts:
            database.execute("INSERT INTO data VALUES (1700000001, 0, 'SENSOR', ?)", (text,))
    database.close()
    return path


def config(*sources):
    text = """
[[helper]]
name = "replay"
command = ["builtin:pcapfile"]
types = ["pcapfile"]
[[sink]]
path = "everything.sock"
overflow = "wait"
"""
    for name, definition, helper in sources:
        if helper:
            text += f'[[helper]]\nname = "{name}"\ncommand = {json.dumps(helper)}\ntypes = ["{name}"]\n'
        text += f"[[source]]\nname = {name!r}\ndefinition = {definition!r}\n"
        text += 'start = "manual"\nrestart = "temporary"\n'
    return text


def run(rig, *names):
    """Start sources while somebody reads, and wait for their ends; returns the packets and the rows."""
    with rig.connect("everything.sock") as sock:
        rig.wait(lambda status: status["consumers"])
        for name in names:
            rig.call("Start", source=name)
        rig.wait(
            lambda status: all(
                row["state"] == "down" and row["incarnation"]
                for row in status["sources"]
                if row["name"] in names
            )
        )
        rows = {name: rig.source(name) for name in names}
        return Stream(sock).take(sum(row["packets"] for row in rows.values())), rows


def said(rig, source):
    return [message["text"] for message in rig.call("GetMessages", source=source)["messages"]]


def test_a_packet_longer_than_readers_take_is_cut_and_said_to_be_everywhere(rundir, tmp_path):
    path = capture(tmp_path / "usb.pcap", [60, LONG, 100])
    sources = (
        ("file", f"{path}:type=pcapfile,realtime=false", None),
        ("live", "x:type=live", ["builtin:pipe", "--", "/bin/cat", str(path)]),
    )
    with daemon(rundir, config(*sources)) as rig:
        for name, _, _ in sources:
            packets, rows = run(rig, name)
            row = rows[name]
            assert [(len(packet.content), packet.original) for packet in packets] == [
                (60, 60),
                (262_112, LONG),
                (100, 100),
            ]
            assert (row["cut"], row["changed"], row["lost"]) == (1, {"cut": 1}, {})
            assert (row["packets"], row["routed"], row["produced"]) == (3, 3, 3)
            assert [text for text in said(rig, name) if "1 packets cut because" in text]
            argv = [*HELPERD, "status", name, "--runtime-dir", str(rundir)]
            shown = subprocess.run(
                argv, cwd=ROOT, capture_output=True, text=True, check=True, timeout=HANGS_S
            )
            assert "changed:       cut 1\n" in shown.stdout
        for ledger in rig.call("GetLedger")["sources"]:
            assert (ledger["changed"], ledger["lost"]) == ({"cut": 1}, {})
        metrics = page_of(rig.status())
        assert 'helperd_source_changed_packets_total{source="live",reason="cut"} 1\n' in metrics


def test_what_adapters_and_logs_leave_out_is_lost_with_its_reason(rundir, tmp_path):
    long = '{"long": "' + "x" * 270_000 + '"}'
    tool = lines(tmp_path / "tool", '{"n": 1}', "no json", '{"n": NaN}', long, "[]")
    log = kismet_log(tmp_path / "x.kismet", ['{"n": 1}', *[long] * 12])
    sources = (
        ("tool", "0:type=tool", ["builtin:jsonlines", "--", str(tool)]),
        ("log", f"{log}:type=pcapfile,realtime=false", None),
    )
    with daemon(rundir, config(*sources)) as rig:
        packets, rows = run(rig, "tool", "log")
        assert len(packets) == 4
        assert (rows["tool"]["lost"], rows["tool"]["changed"]) == (
            {"bad-record": 2, "too-long": 1},
            {"not-finite": 1},
        )
        assert rows["tool"]["produced"] == 5
        assert (rows["log"]["lost"], rows["log"]["produced"]) == ({"too-long": 12}, 14)
        assert any("1 lines left out: not a JSON object" in text for text in said(rig, "tool"))
        told = [text for text in said(rig, "log") if "left out: a record of 270012 characters" in text]
        assert [text.split()[0] for text in told] == ["1", "10"]


def odd_capture(path):
    """A pcapng file with a packet of no interface, one whose time is beyond 2554, and a good one."""
    section = struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28)
    interface = struct.pack("<IIHHII", 1, 20, 1, 0, 0, 20)
    packets = b"".join(
        struct.pack("<7I4sI", 6, 36, number, high, 0, 4, 4, b"abcd", 36)
        for number, high in ((7, 0x60000), (0, 0xFFFFFFFF), (0, 0x60000))
    )
    path.write_bytes(section + interface + packets)
    return path


def test_what_readers_of_captures_mend_or_leave_out_is_counted_file_and_live(rundir, tmp_path):
    path = odd_capture(tmp_path / "odd.pcapng")
    sources = (
        ("file", f"{path}:type=pcapfile,realtime=false", None),
        ("live", "x:type=live", ["builtin:pipe", "--", "/bin/cat", str(path)]),
    )
    with daemon(rundir, config(*sources)) as rig:
        _, rows = run(rig, "file", "live")
        for name, row in rows.items():
            assert (row["packets"], row["produced"]) == (2, 3)
            assert (row["lost"], row["changed"]) == ({"bad-record": 1}, {"bad-stamp": 1})
            texts = said(rig, name)
            assert any(text.startswith("1 packets left out") for text in texts)
            assert any(text.startswith("1 packets with the nearest time") for text in texts)


@pytest.mark.need("tshark")
def test_a_live_reader_of_wiresharks_goes_on_behind_a_packet_that_is_cut(rundir, tmp_path):
    path = capture(tmp_path / "usb.pcap", [60, LONG, 262_112, 262_113, 100])
    text = config(("file", f"{path}:type=pcapfile,realtime=false", None))
    with daemon(rundir, text.replace('start = "manual"', 'start = "first-consumer"')) as rig:
        fields = ["-T", "fields", "-e", "frame.cap_len", "-e", "frame.len"]
        tap = subprocess.Popen(
            [*HELPERD, "tap", "file", "--runtime-dir", str(rundir)], cwd=ROOT, stdout=subprocess.PIPE
        )
        try:
            # dumpcap takes what comes from a pipe, as from a socket, block by block; tshark -r - is more lenient
            done = subprocess.run(
                ["tshark", "-n", "-i", "-", *fields],
                stdin=tap.stdout, capture_output=True, text=True, timeout=HANGS_S,
            )  # fmt: skip
        finally:
            tap.kill()
            tap.wait()
            assert tap.stdout is not None
            tap.stdout.close()
        assert [tuple(map(int, line.split())) for line in done.stdout.splitlines()] == [
            (60, 60),
            (262_112, LONG),
            (262_112, 262_112),
            (262_112, 262_113),
            (100, 100),
        ], done.stderr
        assert rig.source("file")["changed"] == {"cut": 2}


def test_what_foreign_helpers_send_too_long_is_told_too(rundir):
    helper = [sys.executable, str(ROOT / "tests" / "peers" / "bad_helper.py")]
    with daemon(rundir, config(("huge", "x:type=huge,size=300000,rate=max,count=12", helper))) as rig:
        packets, rows = run(rig, "huge")
        assert {len(packet.content) for packet in packets} == {262_112}
        assert (rows["huge"]["cut"], rows["huge"]["changed"]) == (12, {"cut": 12})
        assert len([text for text in said(rig, "huge") if "cut to 262,112 bytes" in text]) == 1
