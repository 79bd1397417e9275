"""Captures that are not read: each is refused with what it is, and the command that is named makes one that is."""

from __future__ import annotations

import bz2
import contextlib
import io
import lzma
import shutil
import struct
import subprocess
import zipfile
from pathlib import Path

import pytest

from helperd.errors import HelperdError, OpenRefused
from helperd.helpers._capturefile import CaptureParser
from helperd.helpers._foreign import FOREIGN, PACKED
from helperd.helpers._recording import open_recording
from tests.captures import MODIFIED, SECOND, header, pcap, record
from tests.patience import HANGS_S

FRAME = bytes(12) + b"\x08\0" + bytes(range(46))
SOME = pcap(*[record("<", SECOND + number, number * 1000, FRAME) for number in range(4)])
WRITTEN = {  # by editcap, in its words: how the refusal calls it
    "snoop": "is a capture of snoop, neither pcap nor pcapng",
    "netmon1": "is a capture of Microsoft's Network Monitor 1",
    "netmon2": "is a capture of Microsoft's Network Monitor 2",
    "ngsniffer": "is a capture of Sniffer",
    "ngwsniffer_1_1": "is a capture of NetXRay",
    "ngwsniffer_2_0": "is a capture of NetXRay",
    "5views": "is a capture of 5View",
    "lanalyzer": "is a capture of LANalyzer",
    "visual": "is a capture of Visual Networks",
    "nokiapcap": "is pcap of an old variant, with 4 bytes more in each record's head",
    "rh6_1pcap": "is pcap of an old variant, with 8 bytes more in each record's head",
    "suse6_3pcap": "is pcap of an old variant, with 4 bytes more in each record's head",
}


def erf() -> bytes:
    """Records of an Endace card: Ethernet, a fixed-point stamp, and no header of a file at all."""
    out = b""
    for number in range(4):
        size = 16 + 2 + len(FRAME)
        out += struct.pack("<Q", (SECOND + number) << 32)
        out += struct.pack(">BBHHH", 2, 4, size, 0, len(FRAME) + 4) + bytes(2) + FRAME
    return out


def ixia(magic: int) -> bytes:
    body = SOME[24:]
    return header(magic=magic) + struct.pack("<I", len(body)) + body


def zipped(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("some.pcap", data)
    return out.getvalue()


OWN = {
    "erf": (erf(), "is not a capture: it starts with 00 00 00 00"),
    "ixia-hardware": (ixia(0x1C0001AC), "is a capture of Ixia"),
    "ixia-software": (ixia(0x1C0001AB), "is a capture of Ixia"),
}
COMPRESSED = {
    "xz": (lzma.compress(SOME), "is compressed with xz"),
    "bzip2": (bz2.compress(SOME), "is compressed with bzip2"),
    "python3": (zipped(SOME), "is a ZIP archive"),
}


def refusal(path: Path) -> str:
    with pytest.raises(OpenRefused) as caught:
        open_recording(str(path))
    assert caught.value.problem == "bad-capture"
    assert caught.value.text.startswith(f"{path} ")
    return caught.value.text


def frames(path: Path) -> list[bytes]:
    recording = open_recording(str(path))
    try:
        return [entry[2] for batch in recording.batches() for entry in batch]
    finally:
        recording.close()


def do(command: str) -> None:
    subprocess.run(command, shell=True, check=True, capture_output=True, timeout=HANGS_S)


@pytest.mark.need("tshark")
@pytest.mark.parametrize("form", WRITTEN)
def test_what_editcap_writes_in_other_formats_is_named_and_converted(tmp_path: Path, form: str) -> None:
    file = tmp_path / f"it's a {form}"
    (tmp_path / "some.pcap").write_bytes(SOME)
    subprocess.run(["editcap", "-F", form, tmp_path / "some.pcap", file], check=True, timeout=HANGS_S)
    text = refusal(file)
    assert WRITTEN[form] in text
    do(text.partition("editcap converts it: ")[2])
    found = frames(tmp_path / f"it's a {form}.pcapng")
    if form == "nokiapcap" and found != [FRAME] * 4:
        pytest.skip("this Wireshark does not read back what it writes of this format: seen with 4.6")
    assert found == [FRAME] * 4


@pytest.mark.need("tshark")
@pytest.mark.parametrize("form", OWN)
def test_what_other_devices_write_is_named_and_converted(tmp_path: Path, form: str) -> None:
    file = tmp_path / form
    data, words = OWN[form]
    file.write_bytes(data)
    text = refusal(file)
    assert words in text
    do(text.partition("editcap converts it: ")[2])
    found = frames(tmp_path / f"{form}.pcapng")
    assert [FRAME in each for each in found] == [True] * 4  # ERF keeps its own heads


@pytest.mark.parametrize("program", COMPRESSED)
def test_what_is_packed_otherwise_is_named_and_unpacked(tmp_path: Path, program: str) -> None:
    file = tmp_path / "it's packed"
    data, words = COMPRESSED[program]
    file.write_bytes(data)
    text = refusal(file)
    assert words in text
    if shutil.which(program) is None:
        pytest.skip(f"there is no {program}")
    do(text.partition("unpack it: ")[2])
    unpacked = tmp_path / "it's packed.unpacked"
    assert frames(unpacked / "some.pcap" if unpacked.is_dir() else unpacked) == [FRAME] * 4


@pytest.mark.parametrize("magic", [*FOREIGN, *PACKED], ids=lambda magic: magic.hex())
def test_a_program_that_writes_such_is_refused_with_the_same_words(magic: bytes) -> None:
    parser = CaptureParser("tool")
    with pytest.raises(HelperdError) as caught:
        parser.feed(magic + bytes(16))
    assert "OLD" in caught.value.text
    assert "is not a capture" not in caught.value.text


def test_a_variant_is_not_seen_where_there_is_none(tmp_path: Path) -> None:
    """Odd records of a usual file: stamps, lengths and cuts that would make one think of longer heads."""
    odd = [
        pcap(record(fraction=0xFFFFFFFF), record()),
        pcap(record(original=10), record()),
        pcap(record(data=bytes(60)), record(data=bytes(60), original=0), record()),
        pcap(record(data=b"")),
        pcap(*[record(gap=8)] * 3, magic=MODIFIED),
        SOME[:-1],
        SOME[:30],
    ]
    for number, data in enumerate(odd):
        file = tmp_path / str(number)
        file.write_bytes(data)
        with contextlib.suppress(OpenRefused):
            open_recording(str(file)).close()
            continue
        assert "is cut" in refusal(file)
