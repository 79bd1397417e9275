"""helperd.pcapng: the blocks, read back by ourselves and by readers that are not ours."""

import contextlib
import io
import shutil
import struct
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helperd import pcapng
from helperd.errors import RemoteProtocolError
from helperd.visible import visible

scanner = pytest.importorskip("pcapng", reason="python-pcapng, the second reader, is not installed")
pytestmark = pytest.mark.filterwarnings(
    "ignore:Field type should not be:DeprecationWarning"
)  # python-pcapng's own


def stream(*blocks: bytes) -> bytes:
    return b"".join(blocks)


def read(data: bytes):
    return list(scanner.FileScanner(io.BytesIO(data)))


def test_section_header_carries_its_texts():
    (section,) = read(pcapng.section_header(hardware="a radio", os="Linux 6", application="helperd 1"))
    assert section.options["shb_hardware"] == "a radio"
    assert section.options["shb_os"] == "Linux 6"
    assert section.options["shb_userappl"] == "helperd 1"
    assert section.section_length == -1


def test_section_header_without_texts_has_no_options():
    assert len(pcapng.section_header()) == 28


def test_interface_block_carries_what_was_given():
    _, interface = read(
        stream(
            pcapng.section_header(),
            pcapng.interface_block(
                127, 4096, name="wlan0", description="the roof", hardware="ath9k", filter="type mgt"
            ),
        )
    )
    assert interface.link_type == 127
    assert interface.snaplen == 4096
    assert interface.options["if_name"] == "wlan0"
    assert interface.options["if_description"] == "the roof"
    assert interface.options["if_hardware"] == "ath9k"
    assert interface.timestamp_resolution == 1e-9


@given(
    data=st.binary(max_size=70),
    stamp=st.integers(0, 2**64 - 1),
    extra=st.integers(0, 9000),
    comment=st.text(st.characters(codec="utf-8"), max_size=40),
    flags=st.none() | st.integers(0, 2**32 - 1),
)
def test_packet_block_keeps_bytes_stamp_and_lengths(data, stamp, extra, comment, flags):
    options = pcapng.comments(comment) + (b"" if flags is None else pcapng.flags(flags))
    block = pcapng.packet_block(0, stamp, data, len(data) + extra, options=options)
    head = pcapng.ENHANCED_HEAD.unpack_from(block)
    assert head[:3] == (pcapng.ENHANCED_PACKET, len(block), 0)
    assert head[3] << 32 | head[4] == stamp
    assert head[5:] == (len(data), len(data) + extra)
    assert block[28 : 28 + len(data)] == data
    assert list(pcapng.split(block)) == [(pcapng.ENHANCED_PACKET, 0, len(block))]
    packet = read(stream(pcapng.section_header(), pcapng.interface_block(1), block))[2]
    assert packet.packet_data == data
    assert packet.packet_len == len(data) + extra
    if comment:
        assert packet.options["opt_comment"] == visible(comment)
    if flags is not None:
        assert packet.options.get_raw("epb_flags") == flags.to_bytes(4, "little")


def test_packet_block_takes_views():
    data = bytes(range(100))
    assert pcapng.packet_block(3, 5, memoryview(data)[10:20], 10) == pcapng.packet_block(
        3, 5, data[10:20], 10
    )
    assert pcapng.packet_block(3, 5, bytearray(data), 10) == pcapng.packet_block(3, 5, data, 10)


def test_a_comment_too_long_is_cut_between_characters():
    block = pcapng.packet_block(0, 0, b"", 0, options=pcapng.comments("\N{SNOWMAN}" * 40000))
    packet = read(stream(pcapng.section_header(), pcapng.interface_block(1), block))[2]
    assert packet.options["opt_comment"] == "\N{SNOWMAN}" * (pcapng.MAX_OPTION // 3)


def test_lone_surrogates_in_texts_do_no_harm():
    _, interface = read(stream(pcapng.section_header(), pcapng.interface_block(1, name="a\udc80b")))
    assert interface.options["if_name"] == r"a\udc80b"


def test_statistics_block_carries_the_counters_that_were_given():
    block = pcapng.statistics_block(0, 7 << 32 | 9, received=2**40, dropped=0, delivered=5, comment="lost 3")
    statistics = read(stream(pcapng.section_header(), pcapng.interface_block(1), block))[2]
    assert statistics.options["isb_ifrecv"] == 2**40
    assert statistics.options["isb_ifdrop"] == 0
    assert statistics.options["isb_usrdeliv"] == 5
    assert statistics.options["opt_comment"] == "lost 3"
    assert struct.unpack_from("<2I", block, 12) == (7, 9)
    bare = pcapng.statistics_block(2, 0)
    assert len(bare) == 24


def test_split_walks_a_part_of_a_buffer():
    blocks = [pcapng.section_header(), pcapng.interface_block(1), pcapng.packet_block(0, 1, b"abc", 3)]
    data = b"junk" + b"".join(blocks) + b"junk"
    found = [(kind, data[start:stop]) for kind, start, stop in pcapng.split(data, 4, len(data) - 4)]
    assert found == [
        (pcapng.SECTION_HEADER, blocks[0]),
        (pcapng.INTERFACE_DESCRIPTION, blocks[1]),
        (pcapng.ENHANCED_PACKET, blocks[2]),
    ]
    assert list(pcapng.split(b"")) == []


@pytest.mark.parametrize(
    ("data", "at", "words"),
    [
        (b"\x06\0\0\0", 0, "too few"),
        (struct.pack("<3I", 6, 8, 8), 0, "cannot be 8 bytes"),
        (struct.pack("<3I", 6, 13, 13) + b"\0", 0, "cannot be 13 bytes"),
        (struct.pack("<3I", 6, 400, 0), 0, "cut after 12"),
        (struct.pack("<3I", 6, 12, 16), 0, "ends with 16"),
        (struct.pack("<3I", 6, 12, 12) + b"\0\0\0\0", 12, "too few"),
    ],
)
def test_split_refuses_what_does_not_add_up(data, at, words):
    with pytest.raises(RemoteProtocolError, match=words) as caught:
        list(pcapng.split(data))
    assert caught.value.problem == "bad-pcapng"
    assert caught.value.at == at
    assert caught.value.excerpt == data[at:][:64]


@given(st.binary(max_size=200))
def test_any_bytes_split_or_are_refused(data):
    spans = []
    with contextlib.suppress(RemoteProtocolError):
        spans.extend(pcapng.split(data))
        assert b"".join(data[start:stop] for _, start, stop in spans) == data


def test_tshark_reads_the_stream(tmp_path):
    tshark = shutil.which("tshark")
    if tshark is None:
        pytest.skip("tshark is not installed: the outside reader's verdict is missing")
    file = tmp_path / "x.pcapng"
    file.write_bytes(
        stream(
            pcapng.section_header(application="helperd"),
            pcapng.interface_block(1, name="eth7"),
            pcapng.packet_block(
                0, 1_600_000_000_123_456_789, bytes(60), 1500, options=pcapng.comments("hello")
            ),
            pcapng.statistics_block(0, 1_600_000_001_000_000_000, received=1, dropped=4),
        )
    )
    fields = ["frame.time_epoch", "frame.len", "frame.cap_len", "frame.interface_name", "frame.comment"]
    argv = [tshark, "-r", str(file), "-T", "fields"]
    for field in fields:
        argv += ["-e", field]
    out = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split("\t")
    assert out == ["1600000000.123456789", "1500", "60", "eth7", "hello\n"]
