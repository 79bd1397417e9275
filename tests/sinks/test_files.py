"""The files of a sink, without a daemon: names, limits, what is left after a crash or a full disk."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helperd import pcapng
from helperd.bell import Bell
from helperd.client.packets import PacketReader
from helperd.config.sinks import SinkSpec
from helperd.errors import SinkError
from helperd.routing import Batch, Losses, Outbox, RouteTable
from helperd.sinks import listen, written
from helperd.sinks.file import FileSink
from helperd.sinks.files import Files, cut
from helperd.sinks.naming import Series
from helperd.sinks.written import Written, recover
from helperd.sinks.zst import compressor, whole_frames
from tests.patience import HANGS_S
from tests.sinks.kit import Feeder

HEADER = pcapng.section_header(application="test")
DAY_S = 86400


def batch(first: int, count: int, size: int = 60) -> Batch:
    """Packets of two interfaces in turn; each begins with its number."""
    blocks = [
        pcapng.packet_block(n % 2, n, n.to_bytes(4, "big") + bytes(size), size + 4)
        for n in range(first, first + count)
    ]
    data = b"".join(blocks)
    counts = Counter(n % 2 for n in range(first, first + count))
    return Batch((data,), len(data), count, len(data), tuple(counts.items()))


def table() -> RouteTable:
    found = RouteTable()
    found.interfaces.number("a", 1)
    found.interfaces.number("b", 127)
    return found


def numbers(data: bytes) -> list[int]:
    """The packets of a file, which must be whole."""
    reader = PacketReader()
    found = [int.from_bytes(packet.content[:4], "big") for packet in reader.feed(data)]
    assert not reader.pending
    return found


class Bench:
    """Files with a clock of their own; what is over is finished at once."""

    def __init__(self, folder: Path, name: str = "x.pcapng", **keys: object) -> None:
        self.now = 1_000_000_000
        self.folder = folder
        spec = SinkSpec(str(folder / name), "file", **keys)  # type: ignore[arg-type]
        self.files = Files(spec, HEADER, table(), self.leave, lambda: self.now * 10**9)
        self.said = self.files.prepare()

    def leave(self, file: Written) -> None:
        file.finish()
        self.files.finished(file)

    def write(self, *batches: Batch, lost: Losses | None = None):
        return self.files.write(batches, lost or Counter())

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    def contents(self) -> list[list[int]]:
        return [numbers(path.read_bytes()) for path in sorted(self.folder.iterdir())]


# names


def test_names_go_on_where_an_earlier_process_ended(tmp_path: Path) -> None:
    series = Series(str(tmp_path / "a.b.pcapng"))
    at = time.struct_time((2026, 11, 23, 23, 35, 12, 0, 327, 0))
    assert series.next_path(at) == f"{tmp_path}/a.b_00001_20261123233512.pcapng"
    for name in (
        "a.b_00007_20200101000000.pcapng",
        "a.b_00009_20200101000000.pcapng.part",
        "a.b_00020.pcapng",
    ):
        (tmp_path / name).touch()
    assert [Path(path).name for path in series.look()] == ["a.b_00009_20200101000000.pcapng.part"]
    assert series.next_path(at) == f"{tmp_path}/a.b_00010_20261123233512.pcapng"
    assert [Path(path).name for path in series.files] == [
        "a.b_00007_20200101000000.pcapng",
        "a.b_00009_20200101000000.pcapng",
        "a.b_00010_20261123233512.pcapng",
    ]


def test_names_of_the_time_are_never_used_twice(tmp_path: Path) -> None:
    series = Series(str(tmp_path / "n%%-%Y.%j.pcapng"), packed=True)
    at = time.struct_time((2026, 1, 2, 3, 4, 5, 0, 2, 0))
    for expected in ("n%-2026.002.pcapng.zst", "n%-2026.002_2.pcapng.zst", "n%-2026.002_3.pcapng.zst"):
        path = series.next_path(at)
        assert path == f"{tmp_path}/{expected}"
        Path(path + ".part").touch()
    assert len(series.look()) == 3


@pytest.mark.parametrize("name", ["ring.pcapng", "%Y%m%d-%H%M%S.pcapng"])
def test_files_are_in_the_order_in_which_they_were_begun_whatever_the_clock_says(
    tmp_path: Path, name: str
) -> None:
    days = [time.struct_time((2026, 11, day, 0, 0, 0, 0, 0, 0)) for day in (20, 21, 11, 10)]
    begun = []
    for run in (days[:2], days[2:]):  # the second one after a restart, with the clock set back
        series = Series(str(tmp_path / name))
        series.look()
        for at in run:
            begun.append(series.next_path(at))
            Path(begun[-1]).touch()
            os.utime(begun[-1], (time.mktime(at), time.mktime(at)))
    assert series.files == begun


def test_only_files_of_the_series_are_ever_found(tmp_path: Path) -> None:
    for name in (
        "all.pcapng",
        "all_1.pcapng",
        "ball_00001_20261123233512.pcapng",
        "20261.pcapng",
        "2026.pcapngs",
    ):
        (tmp_path / name).touch()
    (tmp_path / "all_00001_20261123233512.pcapng").mkdir()
    (tmp_path / "all_00002_20261123233512.pcapng").symlink_to("all.pcapng")
    for name in ("all.pcapng", "%Y.pcapng"):
        series = Series(str(tmp_path / name))
        assert (series.look(), series.files) == ([], [])


# limits


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    most=st.none() | st.integers(1, 50),
    nbytes=st.none() | st.integers(300, 3000),
)
def test_every_packet_is_in_one_file_and_no_file_passes_a_limit_by_more_than_one(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], most: int | None, nbytes: int | None
) -> None:
    bench = Bench(tmp_path_factory.mktemp("files"), rotate_packets=most, rotate_size=nbytes)
    first = 0
    for size in sizes:
        assert bench.write(batch(first, size)).error is None
        first += size
    bench.files.turn()
    found = bench.contents()
    assert [n for file in found for n in file] == list(range(first))
    assert all(len(file) <= (most or first) for file in found)
    if nbytes is not None:
        totals = len(pcapng.statistics_block(0, 0, received=1, dropped=0, delivered=1)) * 2
        assert all(path.stat().st_size < nbytes + totals + 100 for path in bench.folder.iterdir())


def test_the_clock_ends_a_file_before_the_next_packet(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "x-%Y%m%d.pcapng", rotate_every=float(DAY_S))
    bench.write(batch(0, 3))
    bench.now += DAY_S
    bench.write(batch(3, 2))
    bench.now += DAY_S
    bench.files.tick()
    assert bench.files.current is None  # what nobody writes to any more is finished
    bench.now -= 2 * DAY_S  # a clock that was stepped back ends a file, too, and takes no name twice
    bench.write(batch(5, 1))
    bench.files.turn()
    assert sorted(map(tuple, bench.contents())) == [(0, 1, 2), (3, 4), (5,)]


def test_the_oldest_go_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "x_important.pcapng").write_bytes(b"")
    bench = Bench(tmp_path, rotate_packets=2, keep=3)
    for n in range(0, 20, 2):
        bench.write(batch(n, 2))
    bench.write(batch(20, 1))
    names = bench.names()
    assert "x_important.pcapng" in names
    assert [name[:8] for name in names if name != "x_important.pcapng"] == [
        "x_00009_",
        "x_00010_",
        "x_00011_",
    ]
    bench.files.turn()
    again = Bench(tmp_path, rotate_packets=2, keep=3)  # a restart counts those that are there
    again.write(batch(0, 1))
    again.files.turn()
    assert [name[:8] for name in again.names()][:3] == ["x_00010_", "x_00011_", "x_00012_"]


def test_files_have_the_mode_asked_for_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        bench = Bench(tmp_path / "made", file_mode=0o644, file_group=str(os.getgid()))
        bench.write(batch(0, 1))
        bench.files.turn()
    finally:
        os.umask(before)
    assert next((tmp_path / "made").iterdir()).stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o750


def test_a_file_that_somebody_removed_is_told_and_the_next_one_begun(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write(batch(0, 3))
    next(tmp_path.iterdir()).unlink()
    file = bench.files.current
    bench.files.tick()
    assert "removed by somebody else" in str(file.broken)
    assert (file.mark.packets, file.safe.packets) == (3, 0)
    bench.write(batch(3, 1))
    bench.files.turn()
    assert bench.contents() == [[3]]


# what goes wrong


def test_an_unfinished_file_is_whole_after_the_next_start(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write(batch(0, 5))
    (part,) = tmp_path.iterdir()
    assert Bench(tmp_path).said == []  # it is being written: nobody touches it
    bench.files.current.leave()  # what is left of a process that was killed
    data = part.read_bytes()
    for end in range(len(data) - 95, len(data)):
        part.write_bytes(data[:end])
        (told,) = Bench(tmp_path).said
        assert "whole now" in told
        (done,) = tmp_path.iterdir()
        assert not done.name.endswith(".part")
        assert numbers(done.read_bytes()) == [0, 1, 2, 3]
        done.unlink()
    part.write_bytes(data + bytes(4096))  # zeros, as after a power failure
    Bench(tmp_path)
    (done,) = tmp_path.iterdir()
    assert numbers(done.read_bytes()) == [0, 1, 2, 3, 4]


def test_an_unfinished_file_without_a_packet_goes(tmp_path: Path) -> None:
    for data in (b"", HEADER[:20], HEADER + pcapng.interface_block(1)):
        part = tmp_path / "x_00001_20261123233512.pcapng.part"
        part.write_bytes(data)
        assert recover(str(part)) == 0
        assert not part.exists()


def test_a_block_longer_than_a_read_is_recovered(tmp_path: Path) -> None:
    part = tmp_path / "x_00001_20261123233512.pcapng.part"
    data = HEADER + pcapng.interface_block(1) + pcapng.packet_block(0, 1, bytes(3 << 20), 3 << 20)
    part.write_bytes(data + data[-100:])
    assert recover(str(part)) == len(data)


def test_a_compressed_file_is_whole_up_to_its_last_frame(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard", reason="needs PyPI's zstandard, the compressor")
    pack = compressor()
    frames = [pack(os.urandom(size)) for size in (0, 10, 300, 70_000, 200_000)] + [pack(bytes(1 << 20))]
    file = tmp_path / "x"
    data = b"".join(frames)
    for end in {*range(0, len(data), 997), *range(len(data) - 40, len(data) + 1)}:
        file.write_bytes(data[:end])
        fd = os.open(file, os.O_RDONLY)
        whole = whole_frames(fd)
        os.close(fd)
        ends = [sum(map(len, frames[:n])) for n in range(len(frames) + 1)]
        assert whole == max(size for size in ends if size <= end)
    bench = Bench(tmp_path / "c", compress="zstd", rotate_size=4096)
    for n in range(0, 4000, 100):
        assert bench.write(batch(n, 100)).error is None
    bench.files.turn()
    found = []
    for path in sorted((tmp_path / "c").iterdir()):
        assert path.name.endswith(".pcapng.zst")
        reader = zstandard.ZstdDecompressor().stream_reader(path.read_bytes(), read_across_frames=True)
        found += numbers(reader.read())
    assert found == list(range(4000))


class Disk:
    """A disk with room for so many bytes more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        self.writev, self.plain = os.writev, os.write
        monkeypatch.setattr(written.os, "writev", lambda fd, parts: self.take(fd, b"".join(parts)))
        monkeypatch.setattr(written.os, "write", self.take)

    def take(self, fd: int, data: bytes) -> int:
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = self.plain(fd, data[: self.room])
        self.room -= done
        return done


def test_a_full_disk_leaves_whole_blocks_and_gives_the_rest_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path)
    outbox = Outbox(limit=1 << 20)
    disk = Disk(monkeypatch, 5000)
    for n in range(0, 100, 10):
        outbox.put(batch(n, 10))
    for _ in range(3):
        taken = outbox.take(1 << 20)
        done = bench.write(*taken)
        outbox.sent(taken, done.left)
        assert done.error is not None
        assert done.error.problem == "disk-full"
    assert outbox.offered == outbox.delivered + outbox.queued == 100
    disk.room = 1 << 20
    taken = outbox.take(1 << 20)
    done = bench.write(*taken, lost=Counter({(0, "disk-full"): 3, (1, "disk-full"): 4}))
    outbox.sent(taken, done.left)
    assert (done.error, done.untold, outbox.delivered, outbox.queued) == (None, Counter(), 100, 0)
    monkeypatch.undo()
    bench.files.turn()
    (path,) = tmp_path.iterdir()
    reader = PacketReader()
    assert [int.from_bytes(p.content[:4], "big") for p in reader.feed(path.read_bytes())] == list(range(100))
    assert sum(reader.lost.values()) == 7


def test_what_does_not_fit_is_lost_under_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path, keep_free=1 << 60)
    outbox = Outbox(limit=5000)
    outbox.reason = "disk-full"
    for n in range(0, 200, 10):
        outbox.put(batch(n, 10))
        taken = outbox.take(1 << 20)
        done = bench.write(*taken)
        assert done.error is not None
        assert "to be kept free" in done.error.text
        outbox.sent(taken, done.left)
    assert outbox.lost_by == {"disk-full": outbox.lost}
    assert outbox.lost + outbox.queued == 200
    assert bench.names() == []


def test_what_cannot_be_written_is_told_with_its_cure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match=r"sink-failed.*cannot write in"):
        Bench(tmp_path / "file" / "below")
    with pytest.raises(SinkError, match="no group 'nosuchgroup'"):
        Bench(tmp_path, file_group="nosuchgroup")


def test_a_group_that_one_is_not_in_is_told_with_its_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of files and of sockets."""
    other = max([os.getegid(), *os.getgroups()]) + 1
    monkeypatch.setattr(listen, "_may_chown", lambda: False)
    cure = rf"is not in group '{other}' .* usermod -aG {other} \S+, then start helperd anew"
    with pytest.raises(SinkError, match=cure):
        Bench(tmp_path, file_group=str(other))
    with pytest.raises(SinkError, match=cure):
        listen.listen_unix(str(tmp_path / "x.sock"), mode=0o660, group=str(other))
    assert not (tmp_path / "x.sock").exists()


def test_a_batch_is_cut_behind_a_packet() -> None:
    whole = batch(0, 10)
    assert cut(whole, None, 10) == (whole, None)
    head, rest = cut(whole, 1, None)
    assert rest is not None
    assert (head.packets, rest.packets) == (1, 9)
    assert (dict(head.counts), dict(rest.counts)) == ({0: 1}, {0: 4, 1: 5})
    assert b"".join(head.parts) + b"".join(rest.parts) == b"".join(whole.parts)


async def test_a_sink_has_threads_of_its_own(tmp_path: Path) -> None:
    """What hangs elsewhere, and keeps every thread that there is for everybody, is nothing to it."""
    table = RouteTable()
    limiter = trio.to_thread.current_default_thread_limiter()
    hung = threading.Event()
    sink = FileSink(
        SinkSpec(type="file", path=str(tmp_path / "a.pcapng")),
        table,
        pcapng.section_header(),
        on_room=Bell(),
        on_connect=lambda _sources: None,
        on_change=lambda: None,
        on_bug=pytest.fail,
        say=lambda *words: pytest.fail(str(words)),
    )
    async with trio.open_nursery() as nursery:
        try:
            for _ in range(int(limiter.total_tokens)):
                nursery.start_soon(trio.to_thread.run_sync, hung.wait)
            nursery.start_soon(sink.serve)
            await trio.testing.wait_all_tasks_blocked()
            assert limiter.available_tokens == 0
            feeder = Feeder(table)
            feeder.feed(100)
            with trio.fail_after(HANGS_S):
                while sink.outbox.delivered < 100:  # noqa: ASYNC110 - the outbox tells only its sender
                    await trio.sleep(0.01)
                sink.finish()
                while sink.consumers:  # noqa: ASYNC110
                    await trio.sleep(0.01)
        finally:
            hung.set()
    [name] = os.listdir(tmp_path)
    with open(tmp_path / name, "rb") as file:  # noqa: ASYNC230 - nobody waits for this
        assert sum(1 for _ in PacketReader().feed(file.read())) == 100


@pytest.mark.parametrize("keep", [0, 5])
def test_a_file_costs_the_same_calls_however_many_there_are(tmp_path: Path, keep: int) -> None:
    costs = []
    for there in (10, 20_000):
        folder = tmp_path / f"{there}"
        folder.mkdir()
        for number in range(1, there + 1):
            (folder / f"x_{number:05}_20261123233512.pcapng").touch()
        bench = Bench(folder, rotate_packets=1, keep=keep and there)
        bench.write(batch(0, 1))
        calls: Counter[str] = Counter()

        def note(_frame: object, event: str, what: object, calls: Counter[str] = calls) -> None:
            if event == "c_call" and getattr(what, "__module__", "") in {"posix", "fcntl"}:
                calls[what.__name__] += 1  # type: ignore[attr-defined]

        sys.setprofile(note)
        try:
            bench.write(batch(1, 5))
        finally:
            sys.setprofile(None)
        costs.append(calls)
    assert costs[0] == costs[1]
    assert costs[0]["rename"] == 5
    assert costs[0]["unlink"] == (5 if keep else 0)
    assert not {"listdir", "scandir"} & set(costs[0])
