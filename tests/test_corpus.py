"""Every odd feature of pcap and pcapng, replayed through a running daemon, is what Wireshark reads of the file.

Compared are link type, time stamp to the nanosecond, bytes, true length and options of every packet, in order, and
whether something was wrong with the file. Where we read otherwise, ``DIFFERENT`` says so, and why.
"""

from __future__ import annotations

import json
import struct
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.captures import SECOND, captures
from tests.patience import HANGS_S
from tests.rig import daemon

CONFIG = """
[helperd]
implicit_sinks = false
[[helper]]
name = "pcapfile"
command = ["builtin:pcapfile"]
types = ["pcapfile"]
[[sink]]
type = "unix"
path = "corpus.sock"
overflow = "wait"
hold = "60s"
"""
SOURCE = """
[[source]]
name = "{name}"
definition = "{file}:type=pcapfile,realtime=false"
start = "first-consumer"
restart = "transient"
"""
AT, LATER, GOOD = SECOND * 10**9, (SECOND + 1) * 10**9, SECOND * 10**9 + 7000
FIFTH = SECOND * 10**9 + 5000  # of a record of pcap
READ = -1  # of the time at which it was read
LAST = (1 << 64) - 1

# What we read otherwise: why, and the stamps of what we deliver.
DIFFERENT: dict[str, tuple[str, list[int]]] = {
    "pcap-empty": (
        "Wireshark takes an empty file for a capture; a recording has a header at least, or comes yet",
        [],
    ),
    "pcap-linktype-ffff": (
        "Wireshark does not know the link type; readers are told its number",
        [FIFTH, LATER + 5000],
    ),
    "ng-linktype-ffff": ("as above", [GOOD]),
    "ng-many-linktypes": ("a source may have 16 link types; Wireshark cannot write all of these", [AT] * 16),
    "pcap-micros-4294967295": ("Wireshark multiplies in 32 bits", [AT + 4_294_967_295_000, FIFTH]),
    "pcap-nanos-4294967295": (
        "Wireshark shows more than a second of nanoseconds",
        [AT + 4_294_967_295, AT + 5],
    ),
    "pcap-too-long": (
        "Wireshark gives up at a packet over 262,144 bytes; it is cut and counted",
        [FIFTH, FIFTH],
    ),
    "ng-too-long": ("as above", [AT, GOOD]),
    "pcap-size-262144": (
        "Wireshark reads 32 bytes more of a file than its dumpcap takes of a stream; it is cut and counted",
        [FIFTH, FIFTH],
    ),
    "ng-size-262144": ("as above", [AT, GOOD]),
    "pcap-usb-too-long": (
        "Wireshark takes longer packets of USB alone; they are cut and counted",
        [FIFTH, FIFTH],
    ),
    "ng-usb-too-long": ("as above", [AT, GOOD]),
    "pcap-junk-behind": (
        "junk makes Wireshark take it for a variant of pcap with longer heads",
        [FIFTH, LATER + 5000],
    ),
    "pcap-gzip-zeros-behind": (
        "Wireshark takes what is behind a member for more of it",
        [FIFTH, LATER + 5000],
    ),
    "pcap-gzip-junk-behind": ("as above", [FIFTH, LATER + 5000]),
    "pcap-gzip-checksum-wrong": ("the packets are there, and the checksum is told", [FIFTH, LATER + 5000]),
    "pcap-gzip-length-wrong": ("as above", [FIFTH, LATER + 5000]),
    "ng-version-1-1": ("Wireshark knows versions 1.0 and 1.2; a minor version changes no block", [GOOD]),
    "ng-section-option-overrun": ("nothing depends on the option", [GOOD]),
    "ng-interface-option-overrun": ("nothing depends on the option", [GOOD]),
    "ng-interface-too-short": ("its number is known: packets of other interfaces are read", [AT, AT]),
    "ng-interface-unknown": (
        "the place of the next block is known: one packet is left out and counted",
        [GOOD, GOOD],
    ),
    "ng-no-interface": ("as above", []),
    "ng-simple-no-interface": ("as above", []),
    "ng-section-without-interface": ("as above", [GOOD]),
    "ng-longer-than-its-block": ("as above", [GOOD, GOOD]),
    "ng-block-too-short": ("as above", [GOOD, GOOD]),
    "ng-option-overrun": ("the packet is whole: the option is left out and told", [AT, GOOD]),
    "ng-option-flags-of-2-bytes": ("as above", [AT, GOOD]),
    "ng-process-event-between": ("what is in a block that nobody asked for is not judged", [GOOD, GOOD]),
    "ng-resolution-10-127": ("Wireshark computes in 64 bits", [0]),
    "ng-resolution-10-20": ("as above", [100_000_000]),
    "ng-resolution-2-63": ("as above", [1_500_000_000]),
    "ng-resolution-2-64": ("as above", [750_000_000]),
    "ng-resolution-2-127": ("as above", [0]),
    "ng-before-1970": ("pcapng of 1970 on: the nearest stamp, its own in the comment", [0, 10 * 10**9]),
    "ng-offset-least": ("Wireshark computes in 64 bits; as above", [0, 0]),
    "ng-offset-most": ("Wireshark computes in 64 bits; until 2554: as above", [LAST, LAST]),
    "ng-micros-2-64": (
        "nanoseconds in 64 bits end in 2554: the nearest stamp, its own in the comment",
        [LAST, GOOD],
    ),
    "ng-seconds-2-63": ("as above", [LAST, AT]),
    "ng-simple": ("no stamp: an Enhanced Packet Block has to have one", [READ, READ]),
    "ng-simple-cut-by-snaplen": ("as above", [READ]),
    "ng-option-comment-empty": ("editcap drops it", [AT, GOOD]),
    "ng-option-comment-no-utf8": (
        "editcap writes other bytes: a comment goes through as it came",
        [AT, GOOD],
    ),
    "ng-option-hash": ("editcap drops it", [AT, GOOD]),
    "ng-option-unknown": ("editcap drops it", [AT, GOOD]),
    "ng-option-verdict": ("editcap writes a block of the wrong length", [AT, GOOD]),
    "ng-length-without-padding": (
        "Wireshark 4.6 ends there: the place of the next block is known",
        [5000, GOOD],
    ),
}
CHANGED = {
    *("ng-resolution-10-127", "ng-resolution-2-127", "ng-option-comment-no-utf8"),
    *(
        "pcap-junk-behind",
        "pcap-gzip-junk-behind",
        "ng-option-hash",
        "ng-option-verdict",
        "ng-length-without-padding",
    ),
}
"""Read otherwise by Wireshark 4.4 or 4.6 than by 4.0: one of them as we do."""
# What editcap reads but cannot write (4.6: nanoseconds from 1970 beside the old resolution and offset):
# tshark reads it, and shows neither link type nor options.
BY_TSHARK = {
    *("ng-turned", "ng-turned-back", "ng-section-alone", "ng-section-twice", "ng-cut-at-28"),
    *("ng-names-first", "ng-custom-first", "ng-unknown-first", "ng-before-1970", "ng-micros-2-64"),
    *("ng-resolution-10-10", "ng-resolution-10-12", "ng-resolution-10-15", "ng-resolution-10-18"),
    *("ng-resolution-10-19", "ng-resolution-2-30", "ng-resolution-2-33"),
    *("ng-offset-ahead", "ng-offset-behind", "ng-offset-to-1970", "ng-offset-long", "ng-offset-be"),
    "ng-offset-and-resolution",
}


class Packet(NamedTuple):
    """What a reader sees of a packet; link type and options None where it does not show them."""

    stamp_ns: int
    data: bytes
    original: int
    linktype: int | None = None
    options: tuple[tuple[int, bytes], ...] | None = None


class Reading(NamedTuple):
    """What a reader makes of a file."""

    packets: list[Packet]
    trouble: bool


def options(body: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(body):
        code, size = struct.unpack_from("<2H", body, at)
        if code == 0:
            return
        yield code, body[at + 4 : at + 4 + size]
        at += 4 + size + (-size & 3)


def read(stream: bytes) -> Iterator[tuple[str, Packet]]:
    """Packets of a little-endian pcapng stream, with the names of their interfaces, up to what is broken."""
    at = 0
    interfaces: list[tuple[str, int, int, int]] = []
    while at < len(stream):
        kind, size = struct.unpack_from("<2I", stream, at)
        if struct.pack("<I", size) != stream[at + size - 4 : at + size]:
            return
        body = stream[at + 8 : at + size - 4]
        at += size
        if kind == 0x0A0D0D0A:
            interfaces.clear()
        elif kind == 1:
            said = dict(options(body[8:]))
            exponent = said.get(9, b"\6")[0]
            units = 1 << (exponent & 0x7F) if exponent & 0x80 else 10**exponent
            (offset_s,) = struct.unpack("<q", said.get(14, bytes(8)))
            interfaces.append((said.get(2, b"").decode(), *struct.unpack_from("<H", body), units, offset_s))
        elif kind == 6:
            number, high, low, captured, original = struct.unpack_from("<5I", body)
            name, linktype, units, offset_s = interfaces[number]
            stamp = offset_s * 10**9 + (high << 32 | low) * 10**9 // units
            behind = tuple(options(body[20 + (captured + 3 & -4) :]))
            yield name, Packet(stamp, body[20 : 20 + captured], original, linktype, behind)


def by_editcap(file: Path) -> Reading:
    """What Wireshark reads of a file, as editcap writes it."""
    out = file.with_suffix(".out")
    done = subprocess.run(
        ["editcap", "-F", "pcapng", file, out], capture_output=True, timeout=HANGS_S, check=False
    )
    packets = [packet for _, packet in read(out.read_bytes())] if out.exists() else []
    return Reading(packets, bool(done.returncode or done.stderr))


def epoch(shown: str) -> int:
    """Seconds since 1970 of YYYY-MM-DDThh:mm:ss, whose year may have more digits than Python's dates."""
    year, rest = shown.split("-", 1)
    cycles, year_of_cycle = divmod(int(year), 400)  # each has as many days as any other
    within = datetime.fromisoformat(f"{year_of_cycle + 2000}-{rest}+00:00")
    return int(within.timestamp()) + (cycles - 5) * 146_097 * 86_400


def by_tshark(file: Path) -> Reading:
    """What Wireshark reads of a file, as tshark shows it."""
    done = subprocess.run(
        ["tshark", "-n", "-r", file, "-T", "json", "-x", "-j", "frame"],
        capture_output=True, timeout=HANGS_S, check=False,
    )  # fmt: skip
    packets = []
    for shown in json.loads(done.stdout):
        layers = shown["_source"]["layers"]
        if "frame.time_epoch" not in layers["frame"]:
            continue  # a custom block, say
        seconds, _, nanoseconds = layers["frame"]["frame.time_epoch"].removesuffix("Z").partition(".")
        if "T" in seconds:  # as Wireshark 4.6 shows it
            seconds = str(epoch(seconds))
        stamp = int(seconds) * 10**9 + int(nanoseconds)
        packets.append(
            Packet(stamp, bytes.fromhex(layers["frame_raw"][0]), int(layers["frame"]["frame.len"]))
        )
    return Reading(packets, done.returncode != 0)


def replayed(place: Path, files: dict[str, Path]) -> dict[str, Reading]:
    """What one reader of a daemon gets that replays them all."""
    text = CONFIG + "".join(SOURCE.format(name=name, file=file) for name, file in files.items())
    stream = bytearray()

    def take_all() -> None:
        while data := sock.recv(1 << 20):
            stream.extend(data)

    with daemon(place, text) as rig, rig.connect("corpus.sock") as sock:
        reader = threading.Thread(target=take_all)
        reader.start()
        with (place / "log").open() as log:
            ended = 0
            deadline = time.monotonic() + 3 * HANGS_S
            while ended < len(files):
                line = log.readline()
                ended += "; stays down" in line
                assert time.monotonic() < deadline, f"{ended} of {len(files)} have ended"
                if not line:
                    reader.join(0.05)
        rows = {row["name"]: row for row in rig.status()["sources"]}
        rig.stop()
        reader.join(HANGS_S)
    packets: dict[str, list[Packet]] = defaultdict(list)
    for name, packet in read(bytes(stream)):
        packets[name].append(packet)
    assert all(row["incarnation"] == 1 and row["state"] == "down" for row in rows.values())
    return {name: Reading(packets[name], rows[name]["exit"]["problem"] == "bad-capture") for name in files}


def alike(ours: Reading, theirs: Reading) -> bool:
    """Whether two readings agree in all that both show."""
    shown = [packet._fields[: 3 if packet.options is None else None] for packet in theirs.packets]
    return (
        ours.trouble is theirs.trouble
        and len(ours.packets) == len(theirs.packets)
        and all(
            getattr(our, field) == getattr(their, field)
            for our, their, fields in zip(ours.packets, theirs.packets, shown, strict=True)
            for field in fields
        )
    )


@pytest.mark.need("tshark")
def test_every_odd_capture_is_read_as_wireshark_reads_it(tmp_path: Path) -> None:
    place = tmp_path / "files"
    place.mkdir()
    files = {}
    for name, data in captures():
        files[name] = place / name
        files[name].write_bytes(data)
    assert len(files) >= 120
    assert {*DIFFERENT, *BY_TSHARK} <= files.keys()
    began = time.time_ns()
    ours = replayed(tmp_path, files)
    ended = time.time_ns()
    unexplained, agreed = [], []
    for name, file in files.items():
        theirs = by_tshark(file) if name in BY_TSHARK else by_editcap(file)
        if not alike(ours[name], theirs):
            if name not in DIFFERENT:
                unexplained.append((name, ours[name], theirs))
        elif name in DIFFERENT.keys() - CHANGED:
            agreed.append(name)
    for name, our, their in unexplained:
        print(f"{name}\n  ours   {our}\n  theirs {their}")
    assert not [name for name, *_ in unexplained]
    assert not agreed, "these differ no more"
    delivered = {
        name: [
            READ if began <= packet.stamp_ns <= ended else packet.stamp_ns for packet in ours[name].packets
        ]
        for name in DIFFERENT
    }
    assert delivered == {name: stamps for name, (_, stamps) in DIFFERENT.items()}


def test_the_reader_that_compares_sees_options_and_packets() -> None:
    block = next(data for name, data in captures() if name == "ng-options")
    ((_, packet), _) = read(block)
    assert packet.options is not None
    assert [code for code, _ in packet.options] == [1, 2, 4, 5, 6]
