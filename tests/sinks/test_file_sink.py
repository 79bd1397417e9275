"""The file sink of a real daemon, and ``tap``: killed at random moments, on a full disk, reloaded.

HELPERD_KILLS=N: rounds of kill -9 for each of the two (default 6).
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helperd.client.packets import PacketReader
from tests.patience import HANGS_S
from tests.rig import HELPERD, ROOT, Rig, daemon, select_a_moment

KILLS = int(os.environ.get("HELPERD_KILLS", "6"))
COUNTER = 40  # where a synthetic packet has its number, 64 bits, little-endian
SOURCES = """
[[helper]]
name = "synthetic"
command = ["builtin:synthetic"]
types = ["synthetic"]
[[source]]
definition = 'radio0:type=synthetic,rate=3000,channels="1"'
[[source]]
definition = 'radio1:type=synthetic,rate=1000,channels="6"'
"""


def sink(path: Path, *lines: str) -> str:
    return "\n".join(["[[sink]]", 'type = "file"', f'path = "{path}"', *lines, ""])


def until(true: Any, timeout: float = HANGS_S) -> Any:
    """Look until something is true."""
    deadline = time.monotonic() + timeout
    while not (found := true()):
        assert time.monotonic() < deadline, "never became true"
        select_a_moment()
    return found


def whole(data: bytes) -> bytes:
    """A file up to its last whole block."""
    at = 0
    while at + 12 <= len(data) and at + (total := struct.unpack_from("<I", data, at + 4)[0]) <= len(data):
        at += total
    return data[:at]


def packets(data: bytes) -> dict[str, list[int]]:
    """The numbers of a whole file's packets, by source."""
    reader = PacketReader()
    found: dict[str, list[int]] = {}
    for packet in reader.feed(data):
        number = struct.unpack_from("<Q", packet.content, COUNTER)[0]
        found.setdefault(packet.interface.name, []).append(number)
    assert not reader.pending
    return found


def joined(files: list[bytes]) -> dict[str, list[int]]:
    """The same for several files, one after the other."""
    every: dict[str, list[int]] = {}
    for data in files:
        for name, numbers in packets(data).items():
            every.setdefault(name, []).extend(numbers)
    return every


def gapless(numbers: list[int]) -> bool:
    return numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def judged(files: list[Path]) -> None:
    """Let Wireshark's capinfos read finished files, without a warning; there may be none yet."""
    if not files or not shutil.which("capinfos"):
        return
    done = subprocess.run(["capinfos", "-c", *map(str, files)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.replace(ROOT_WARNING, "")) == (0, "")


ROOT_WARNING = 'Running as user "root" and group "root". This could be dangerous.\n'


def consumer(rig: Rig, path: Path) -> dict[str, Any]:
    return next(row for row in rig.status()["consumers"] if row["sink"] == str(path))


def sink_row(rig: Rig, path: Path) -> dict[str, Any]:
    return next(row for row in rig.status()["sinks"] if row["name"] == str(path))


@pytest.mark.need("tshark")
@pytest.mark.timeout(60 + KILLS * 20)
def test_killed_at_any_moment_a_sink_leaves_whole_files(rundir: Path, tmp_path: Path) -> None:
    for attempt in range(KILLS):
        folder = tmp_path / str(attempt)
        path = folder / "x.pcapng"
        config = SOURCES + sink(path, 'rotate_size = "30KiB"')
        with daemon(rundir, config, ends_with=None) as rig:
            pid = rig.status()["pid"]
            until(lambda folder=folder: folder.is_dir() and len(list(folder.iterdir())) >= 3)
            time.sleep(random.random() * 0.1)
            os.kill(pid, signal.SIGKILL)
            rig.process.wait(HANGS_S)
        judged(sorted(folder.glob("*.pcapng")))
        files = sorted(folder.iterdir())
        kept = joined([whole(file.read_bytes()) for file in files])
        assert all(numbers[0] == 0 and gapless(numbers) for numbers in kept.values())
        if attempt == 0:
            with daemon(rundir, config) as rig:  # the next start finishes what was left
                until(
                    lambda files=files: (
                        not any(file.name.endswith(".part") and file.exists() for file in files)
                    )
                )
                rig.wait_running()
            assert not list(folder.glob("*.part"))
            mended = sorted(folder.iterdir())
            judged(mended)
            names = {file.name.removesuffix(".part") for file in files}
            assert joined([file.read_bytes() for file in mended if file.name in names]) == kept
        for socket_file in rundir.rglob("*.sock"):
            socket_file.unlink()


@pytest.mark.need("tshark")
@pytest.mark.timeout(60 + KILLS * 10)
def test_killed_at_any_moment_a_ring_of_tap_is_whole(rundir: Path, tmp_path: Path) -> None:
    limits = ["-b", "filesize:20", "-b", "files:5"]
    with daemon(rundir, SOURCES.replace("3000", "20000")) as rig:
        rig.wait_running()
        for attempt in range(KILLS):
            folder = tmp_path / str(attempt)
            folder.mkdir()
            argv = [*HELPERD, "tap", "--all", "-q", "-w", str(folder / "x.pcapng"), *limits]
            with subprocess.Popen([*argv, "--runtime-dir", str(rundir)], cwd=ROOT) as process:
                try:
                    until(
                        lambda folder=folder: (
                            max((path.name for path in folder.iterdir()), default="") > "x_00003"
                        )
                    )
                    time.sleep(random.random() * 0.1)
                finally:
                    process.kill()
            files = sorted(folder.iterdir())
            assert 3 <= len(files) <= 6  # the one that is one too many may not be gone yet
            judged(files[:-1])
            kept = joined([file.read_bytes() for file in files[:-1]] + [whole(files[-1].read_bytes())])
            assert all(gapless(numbers) for numbers in kept.values())


def test_what_is_sent_is_in_the_files_or_in_the_ledger(rundir: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.pcapng"
    text = SOURCES.replace("rate=3000", "rate=3000,count=6000").replace("rate=1000", "rate=1000,count=2000")
    text = text.replace("\n[[source]]", '\n[[source]]\nrestart = "temporary"')
    with daemon(rundir, text + sink(path, 'rotate_size = "100KiB"', "keep = 100")) as rig:
        rig.wait(lambda status: sum(row["packets"] for row in status["consumers"]) == 8000)
        assert consumer(rig, path)["lost"] == 0
    kept = joined([file.read_bytes() for file in sorted(tmp_path.glob("*.pcapng"))])
    assert kept == {"radio0": list(range(6000)), "radio1": list(range(2000))}


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 1 MiB, mounted for the length of a test."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "helperd-test", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.need("root")
def test_a_full_disk_costs_nobody_else_and_is_written_again_when_there_is_room(
    rundir: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        path, other = disk / "x.pcapng", tmp_path / "other" / "y.pcapng"
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(700 << 10))
        keys = ('limit = "256KiB"',)
        with daemon(rundir, SOURCES + sink(path, *keys) + sink(other, *keys)) as rig:
            rig.wait(
                lambda status: any(
                    row["problem"] == "disk-full" for row in status["sinks"] if row["type"] == "file"
                )
            )
            status = rig.wait(
                lambda status: any("disk-full" in row["lost_by"] for row in status["consumers"])
            )
            assert status["health"] == "degraded"
            health = rig.call("GetHealth")
            assert health["troubles"][0]["source"] == str(path)
            assert health["troubles"][0]["problem"] == "disk-full"
            ballast.unlink()
            rig.wait(
                lambda status: all(
                    row["state"] == "writing" for row in status["sinks"] if row["type"] == "file"
                )
            )
            written = consumer(rig, path)["packets"]
            rig.wait(lambda _status: consumer(rig, path)["packets"] > written)
            said = [message["text"] for message in rig.call("GetMessages")["messages"]]
            assert any("No space left" in text for text in said)
            assert any("can be written again" in text for text in said)
            rig.call("Stop", source="radio0")
            rig.call("Stop", source="radio1")
            rig.wait(lambda status: not any(row["queued"] for row in status["consumers"]))
            rows = {row["sink"]: row for row in rig.status()["consumers"]}
            sent = sum(row["packets"] for row in rig.status()["sources"])
            assert rows[str(other)]["packets"] == sent
            assert rows[str(path)]["packets"] + rows[str(path)]["lost"] == sent
            assert set(rows[str(path)]["lost_by"]) == {"disk-full"}
            lost = rows[str(path)]["lost"]
        data = [file.read_bytes() for file in sorted(disk.glob("*.pcapng"))]
        judged(sorted(disk.glob("*.pcapng")))
        assert sum(map(len, joined(data).values())) + lost == sent
        reader = PacketReader()
        for _ in reader.feed(data[0]):
            pass
        assert sum(reader.lost.values()) == lost, "the file tells what is not in it"


@pytest.mark.need("root")
def test_a_sink_that_is_to_stop_on_a_full_disk_stops_until_the_next_reload(
    rundir: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        path = disk / "x.pcapng"
        (disk / "ballast").write_bytes(bytes(900 << 10))
        with daemon(rundir, SOURCES + sink(path, 'disk_full = "stop"', 'limit = "64KiB"')) as rig:
            rig.wait(lambda status: any(row.get("state") == "stopped" for row in status["sinks"]))
            rig.wait(lambda status: status["consumers"] == [])  # a moment later: its last write has to end
            assert sink_row(rig, path)["problem"] == "disk-full"
            (disk / "ballast").unlink()
            rig.call("Reload")
            rig.wait(lambda status: any(row.get("state") == "writing" for row in status["sinks"]))


def test_reload_adds_changes_and_removes_sinks(rundir: Path, tmp_path: Path) -> None:
    path, second = tmp_path / "a" / "x.pcapng", tmp_path / "b" / "y.pcapng"
    with daemon(rundir, SOURCES) as rig:
        file = rundir / "helpers.toml"
        file.write_text(SOURCES + sink(path))
        rig.call("Reload")
        rig.wait(lambda status: any(row["packets"] > 100 for row in status["consumers"]))
        file.write_text(SOURCES + sink(path, 'rotate_size = "20KiB"', 'sources = ["radio1"]') + sink(second))
        rig.call("Reload")
        until(lambda: len(list(path.parent.glob("*.pcapng"))) >= 3)
        first, *others = sorted(path.parent.glob("*.pcapng"))
        assert set(packets(first.read_bytes())) == {"radio0", "radio1"}
        assert set(joined([other.read_bytes() for other in others])) == {"radio1"}
        file.write_text(SOURCES)
        rig.call("Reload")
        until(lambda: not list(tmp_path.rglob("*.part")))
        assert all(row["type"] == "unix" for row in rig.status()["sinks"])
        judged(sorted(tmp_path.rglob("*.pcapng")))


def test_a_place_that_is_refused_is_told_and_tried_again(rundir: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.touch()
    path = blocked / "x.pcapng"
    with daemon(rundir, SOURCES + sink(path)) as rig:
        row = rig.wait(lambda status: any(row.get("problem") == "sink-failed" for row in status["sinks"]))
        assert str(blocked) in next(found["text"] for found in row["sinks"] if found.get("problem"))
        done = subprocess.run(
            [*HELPERD, "status", "--runtime-dir", str(rundir)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert f"{path}: failed: sink-failed" in done.stdout
        blocked.unlink()
        rig.wait(lambda status: any(row.get("state") == "writing" for row in status["sinks"]))
