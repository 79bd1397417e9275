"""Kismet's logs that are damaged or hold the absurd: a clear error, after every whole packet before it."""

from __future__ import annotations

from pathlib import Path

import pytest

from helperd.wire.messages import ErrorReport, OpenReport, OpenRequest
from tests.helpers.peer import Peer
from tests.helpers.test_pcapfile import kismet_log, replay

GOOD = (1_600_000_000, 1, 1, b"x" * 60, 60, 0, 0)


def fails(path: str) -> tuple[list, str]:
    """Packets of a replay that ends badly, and the reason."""
    with Peer("pcapfile") as peer:
        peer.send(OpenRequest(f"{path}:type=pcapfile,realtime=false"))
        assert peer.expect(OpenReport).success
        packets = peer.until_eof()
        text = peer.expect(ErrorReport).message
        assert peer.wait() == 1
    return packets, text


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        (0, -5, "ts_sec = -5; 0 to 4294967295 is possible"),
        (0, 1 << 60, "ts_sec = 1152921504606846976"),
        (1, 1_000_000, "ts_usec = 1000000"),
        (2, -1, "dlt = -1; 0 to 65535 is possible"),
        (2, 1 << 40, "dlt = 1099511627776"),
        (4, 1 << 50, "packet_full_len = 1125899906842624"),
    ],
)
def test_numbers_that_no_packet_has_are_refused_where_they_stand(tmp_path: Path, column, value, words):
    bad = list(GOOD)
    bad[column] = value
    packets, text = fails(kismet_log(tmp_path / "x.kismet", [*[GOOD] * 300, tuple(bad), GOOD]))
    assert len(packets) == 300
    assert text.startswith(f"{tmp_path}/x.kismet is damaged: a packet with {words}")


def test_words_where_numbers_should_be_and_signals_without_end_are_left_out(tmp_path: Path):
    rows = [
        GOOD,
        ("hello", "x", 1, "text", None, "strong", "north"),
        (1, 1, 1, b"y", 1, float("inf"), float("inf")),
    ]
    packets, _, _ = replay(kismet_log(tmp_path / "x.kismet", rows))
    assert [content for _, _, content, _ in packets] == [b"x" * 60, b"text", b"y"]


def test_a_log_damaged_in_the_middle_gives_what_stands_before(tmp_path: Path):
    file = Path(
        kismet_log(tmp_path / "x.kismet", [(n, n, 1, bytes([n & 255]) * 500, 500, 0, 0) for n in range(2000)])
    )
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 20_000] = b"\xff" * 20_000
    file.write_bytes(data)
    packets, text = fails(str(file))
    assert [stamp // 10**9 for _, stamp, _, _ in packets] == list(range(len(packets)))
    assert 900 < len(packets) < 1000
    assert "is damaged: database disk image is malformed" in text


def test_a_log_that_was_cut_is_refused(tmp_path: Path):
    file = Path(kismet_log(tmp_path / "x.kismet", [GOOD] * 2000))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with Peer("pcapfile") as peer:
        peer.send(OpenRequest(f"{file}:type=pcapfile"))
        report = peer.expect(OpenReport)
    assert not report.success
    assert f"{file} is damaged: " in report.message
