from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helperd import pcapng
from helperd.cli.ring import Limits, Ring
from helperd.errors import HelperdError, RemoteProtocolError

HEAD = (
    pcapng.section_header(application="test")
    + pcapng.interface_block(1, name="a")
    + pcapng.interface_block(127, name="b")
)


def packet(number: int, size: int = 60) -> bytes:
    return pcapng.packet_block(number % 2, number, number.to_bytes(4, "big") + bytes(size), size + 4)


def stream(packets: int, size: int = 60) -> bytes:
    return HEAD + b"".join(packet(number, size) for number in range(packets))


def numbers(data: bytes) -> list[int]:
    """The numbers of the packets in a file, which must be whole."""
    kinds = []
    found = []
    for kind, start, _stop in pcapng.split(data):
        kinds.append(kind)
        if kind == pcapng.ENHANCED_PACKET:
            found.append(struct.unpack_from(">I", data, start + 28)[0])
    assert kinds[:3] == [pcapng.SECTION_HEADER, pcapng.INTERFACE_DESCRIPTION, pcapng.INTERFACE_DESCRIPTION]
    return found


def numbers_of_any(data: bytes) -> list[int]:
    """The same for a file that may hold several sections."""
    found = pcapng.split(data)
    return [
        struct.unpack_from(">I", data, at + 28)[0] for kind, at, _ in found if kind == pcapng.ENHANCED_PACKET
    ]


def files(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def ring(folder: Path, **limits: object) -> Ring:
    return Ring(str(folder / "out.pcapng"), Limits(**limits), 100.0)  # type: ignore[arg-type]


def test_one_file_is_the_stream_itself(tmp_path: Path) -> None:
    it = ring(tmp_path)
    it.feed(stream(50), 100.0)
    it.close()
    assert files(tmp_path) == [stream(50)]
    assert (tmp_path / "out.pcapng").stat().st_mode & 0o777 == 0o600
    assert it.packets == 50


def test_the_head_is_in_the_file_before_any_packet(tmp_path: Path) -> None:
    it = ring(tmp_path)
    it.feed(HEAD, 100.0)
    assert files(tmp_path) == [HEAD]
    it.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 6000), max_size=30), size=st.integers(0, 200), limit=st.integers(1, 20))
def test_cutting_the_stream_anywhere_changes_nothing(
    tmp_path: Path, cuts: list[int], size: int, limit: int
) -> None:
    for old in tmp_path.iterdir():
        old.unlink()
    data = stream(40, size)
    it = ring(tmp_path, next_packets=limit)
    last = 0
    for cut in [*sorted(min(cut, len(data)) for cut in cuts), len(data)]:
        it.feed(data[last:cut], 100.0)
        last = cut
    it.close()
    parts = [numbers(file) for file in files(tmp_path)]
    assert [number for part in parts for number in part] == list(range(40))
    assert all(len(part) == limit for part in parts[:-1])
    assert not it.cut


def test_files_rotate_by_size_and_pass_it_by_one_packet_at_most(tmp_path: Path) -> None:
    it = ring(tmp_path, next_bytes=1000)
    it.feed(stream(100), 100.0)
    it.close()
    found = files(tmp_path)
    assert [n for file in found for n in numbers(file)] == list(range(100))
    assert all(1000 <= len(file) < 1000 + len(packet(0)) for file in found[:-1])
    assert min(tmp_path.iterdir()).name.startswith("out_00001_2")


def test_only_the_newest_files_are_kept(tmp_path: Path) -> None:
    it = ring(tmp_path, next_packets=10, files=3)
    it.feed(stream(95), 100.0)
    it.close()
    assert [numbers(file)[0] for file in files(tmp_path)] == [70, 80, 90]
    assert numbers(files(tmp_path)[-1])[-1] == 94


def test_a_file_that_somebody_removed_is_no_fault(tmp_path: Path) -> None:
    it = ring(tmp_path, next_packets=10, files=2)
    it.feed(stream(15), 100.0)
    next(iter(tmp_path.iterdir())).unlink()
    it.feed(b"".join(map(packet, range(15, 40))), 100.0)
    it.close()


def test_it_stops_at_the_packet_asked_for(tmp_path: Path) -> None:
    it = ring(tmp_path, stop_packets=7)
    it.feed(stream(50), 100.0)
    assert it.done
    it.close()
    assert numbers(files(tmp_path)[0]) == list(range(7))


def test_it_stops_at_a_size_and_after_a_number_of_files(tmp_path: Path) -> None:
    it = ring(tmp_path, stop_bytes=2000)
    it.feed(stream(100), 100.0)
    it.close()
    assert it.done
    assert 2000 <= len(files(tmp_path)[0]) < 2000 + len(packet(0))
    (tmp_path / "out.pcapng").unlink()
    it = ring(tmp_path, next_packets=10, stop_files=3)
    it.feed(stream(100), 100.0)
    assert it.done
    assert [len(numbers(file)) for file in files(tmp_path)] == [10, 10, 10]


def test_time_is_an_argument(tmp_path: Path) -> None:
    it = ring(tmp_path, next_s=5.0, stop_s=12.0)
    assert it.due_at() == 112.0
    it.feed(stream(1), 101.0)
    assert it.due_at() == 106.0
    it.tick(105.9)
    it.feed(packet(1), 105.9)
    it.tick(106.0)
    assert it.due_at() == 111.0
    it.tick(111.5)  # as dumpcap does: each stretch of time has its file, be it empty
    assert it.due_at() == 112.0
    it.feed(packet(2), 111.6)
    it.tick(112.0)
    assert it.done
    it.feed(packet(3), 112.0)
    assert [numbers(file) for file in files(tmp_path)] == [[0, 1], [], [2]]


def test_an_interval_ends_at_multiples_of_the_clock(tmp_path: Path) -> None:
    clock = [1000.0]
    told: list[str] = []
    limits = Limits(next_multiple=60.0)
    it = Ring(str(tmp_path / "out.pcapng"), limits, 5.0, on_whole=told.append, clock=lambda: clock[0])
    it.feed(stream(1), 5.0)
    assert it.due_at() == 25.0  # 1020 is the next multiple of 60
    clock[0] = 1020.0
    it.feed(packet(1), 25.0)
    assert it.due_at() == 85.0
    it.close()
    assert [numbers(file) for file in files(tmp_path)] == [[0], [1]]
    assert told == [str(path) for path in sorted(tmp_path.iterdir())]
    assert sorted(tmp_path.iterdir())[1].name.startswith("out_00002_19700101")


def test_losses_are_added_up_over_interfaces(tmp_path: Path) -> None:
    it = ring(tmp_path)
    told = [(0, 3, "consumer-slow 3"), (1, 4, "link-type 4"), (0, 10, "consumer-slow 9, link-type 1")]
    blocks = [
        pcapng.statistics_block(i, 1, received=20, dropped=n, comment=f"lost: {words}")
        for i, n, words in told
    ]
    blocks.append(pcapng.statistics_block(0, 1, comment="somebody else's words 7"))
    it.feed(HEAD + b"".join(blocks) + pcapng.statistics_block(1, 1, delivered=5), 100.0)
    it.close()
    assert it.lost_by() == {"consumer-slow": 9, "link-type": 5}
    assert files(tmp_path)[0].endswith(pcapng.statistics_block(1, 1, delivered=5))


@pytest.mark.parametrize(
    "garbage",
    [
        b"HTTP/1.1 400 Bad Request",
        struct.pack("<II", 6, 4) + bytes(8),
        struct.pack("<II", 6, 1 << 30) + bytes(8),
        packet(0),
    ],
)
def test_what_is_not_pcapng_is_refused(tmp_path: Path, garbage: bytes) -> None:
    it = ring(tmp_path)
    with pytest.raises(RemoteProtocolError, match="bad-pcapng"):
        it.feed(garbage, 100.0)
    it.close()
    it = ring(tmp_path)
    if garbage != packet(0):
        with pytest.raises(RemoteProtocolError):
            it.feed(stream(3) + garbage, 100.0)
    it.close()


def test_a_stream_cut_inside_a_block_leaves_whole_ones(tmp_path: Path) -> None:
    it = ring(tmp_path)
    it.feed(stream(3)[:-5], 100.0)
    assert it.cut
    it.close()
    assert numbers(files(tmp_path)[0]) == [0, 1]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    it = Ring(str(tmp_path / "missing" / "x.pcapng"), Limits(), 100.0)
    with pytest.raises(HelperdError, match=r"missing/x\.pcapng: No such file") as caught:
        it.feed(HEAD, 100.0)
    assert caught.value.exit_code == 111


def test_a_full_disk_leaves_whole_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = ring(tmp_path)
    it.feed(stream(5), 100.0)
    real, room = os.write, 100

    def write(fd: int, data: memoryview) -> int:
        nonlocal room
        if room == 0:
            raise OSError(28, "No space left on device")
        done = real(fd, data[:room])
        room -= done
        return done

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(HelperdError, match="No space left") as caught:
        it.feed(packet(5) + packet(6), 100.0)
    monkeypatch.undo()
    it.close()
    assert caught.value.exit_code == 111
    assert numbers(files(tmp_path)[0]) == list(range(5))


def test_a_second_section_begins_the_head_anew(tmp_path: Path) -> None:
    it = ring(tmp_path, next_packets=2)
    it.feed(stream(3) + stream(3), 100.0)
    it.close()
    assert [numbers(file) for file in files(tmp_path)[:1]] == [[0, 1]]
    assert [n for file in files(tmp_path) for n in numbers_of_any(file)] == [0, 1, 2, 0, 1, 2]
