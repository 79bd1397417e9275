"""One odd value in one record costs that record at most, live too: nothing is restarted, and all the rest arrives."""

from __future__ import annotations

import sqlite3
import sys
import threading
from pathlib import Path

from tests.captures import BEGIN, END, GOOD, SECOND, interface, offset, packet, section
from tests.patience import HANGS_S
from tests.rig import ROOT, daemon
from tests.test_corpus import read

CLOCK = """
import sys
sys.path.insert(0, {root!r})
from helperd.helpers import sdk

class Clock(sdk.Helper):
    TYPE = "clock"

    def open(self, definition):
        return sdk.Device(dlt=1)

    def capture(self, writer):
        for number in range(20):
            writer.packet(bytes([number]) * 60, -5_000_000_000 if number == 4 else {second} * 10**9 + number)

sdk.main(Clock)
"""
CONFIG = """
[helperd]
implicit_sinks = false
[[sink]]
path = "odd.sock"
overflow = "wait"
[[helper]]
name = "pcapfile"
command = ["builtin:pcapfile"]
types = ["pcapfile"]
[[helper]]
name = "cat"
command = ["builtin:pipe", "--", "/bin/cat", "{place}/live.pcapng"]
types = ["cat"]
[[helper]]
name = "clock"
command = ["{python}", "{place}/clock.py"]
types = ["clock"]
"""
SOURCE = """
[[source]]
name = "{name}"
definition = "{definition}"
start = "first-consumer"
restart = "transient"
"""


def kismet_log(path: Path) -> None:
    """A log whose fifth row has a clock that was not set."""
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE KISMET (kismet_version TEXT, db_version INT, db_module TEXT)")
        database.execute("INSERT INTO KISMET VALUES ('x', 9, 'kismetlog')")
        columns = "ts_sec INT, ts_usec INT, dlt INT, packet BLOB, packet_full_len INT"
        database.execute(f"CREATE TABLE packets ({columns})")
        for row in range(20):
            seconds = -5 if row == 4 else SECOND + row
            database.execute("INSERT INTO packets VALUES (?, 1, 127, ?, 40)", (seconds, bytes([row]) * 40))
    database.close()


def live_capture(path: Path) -> None:
    """A stamp of the year 2107, which is legal, and one of 1969, which is not."""
    early = interface(offset(-SECOND - 10) + END, snaplen=0xFFFFFFFF)
    path.write_bytes(
        BEGIN + packet(4_323_283_200_000_000) + GOOD + section() + early + packet() + BEGIN + GOOD
    )


def test_one_odd_stamp_costs_its_stamp_alone_in_every_reader(tmp_path: Path) -> None:
    kismet_log(tmp_path / "x.kismet")
    live_capture(tmp_path / "live.pcapng")
    (tmp_path / "clock.py").write_text(CLOCK.format(root=str(ROOT), second=SECOND))
    text = CONFIG.format(place=tmp_path, python=sys.executable)
    for name, definition in (
        ("log", f"{tmp_path}/x.kismet:type=pcapfile,realtime=false"),
        ("live", "x:type=cat"),
        ("clock", "x:type=clock"),
    ):
        text += SOURCE.format(name=name, definition=definition)
    stream = bytearray()

    def take_all() -> None:
        while data := sock.recv(1 << 20):
            stream.extend(data)

    with daemon(tmp_path, text) as rig, rig.connect("odd.sock") as sock:
        reader = threading.Thread(target=take_all)
        reader.start()
        status = rig.wait(
            lambda now: all(row["state"] == "down" and row["incarnation"] for row in now["sources"])
        )
        rig.stop()
        reader.join(HANGS_S)
    rows = {row["name"]: row for row in status["sources"]}
    found = {name: [packet for source, packet in read(bytes(stream)) if source == name] for name in rows}
    for name, wanted in {"log": 20, "live": 4, "clock": 20}.items():
        row = rows[name]
        assert (row["incarnation"], row["exit"]["problem"], row["packets"]) == (1, "done", wanted), row
        assert (row["changed"], row["lost"]) == ({"bad-stamp": 1}, {}), row
        assert len(found[name]) == wanted
    odd = {name: [packet for packet in packets if packet.options] for name, packets in found.items()}
    assert {name: [packet.stamp_ns for packet in packets] for name, packets in odd.items()} == {
        "log": [0],
        "live": [0],
        "clock": [0],
    }
    said = {name: packets[0].options for name, packets in odd.items()}
    assert said["log"] == ((1, b"time stamp -5 s and 1 us"),)
    assert said["live"] == ((1, b"time stamp -10000000000 ns since 1970"),)
    assert said["clock"] == ((1, b"time stamp -5000000000 ns since 1970"),)
    assert found["live"][0].stamp_ns == 4_323_283_200_000_000_000
    for name in ("log", "clock"):
        assert [packet.data[0] for packet in found[name]] == [*range(20)]
