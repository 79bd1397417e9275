"""A sink of files on a disk that fails, hangs, forgets, or is tampered with: state, ledger and files agree.

The disk is our own file system (``tests.fuse``), or a loop device whose backing file is cut.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helperd.control.client import ControlError
from helperd.errors import Code
from tests.fuse import mounted
from tests.rig import HELPERD, ROOT, Rig, daemon
from tests.sinks.test_file_sink import SOURCES, consumer, packets, sink, sink_row, until

pytestmark = pytest.mark.timeout(180)


def held(folder: Path) -> int:
    """Packets of the finished files."""
    return sum(
        len(numbers) for file in folder.rglob("*.pcapng") for numbers in packets(file.read_bytes()).values()
    )


def quiet(rig: Rig) -> dict[str, Any]:
    """Stop the sources, wait until nothing is on its way; the state then."""
    for name in ("radio0", "radio1"):
        rig.call("Stop", source=name)
    return rig.wait(lambda status: not any(row["queued"] for row in status["consumers"]))


def balanced(status: dict[str, Any], path: Path) -> dict[str, Any]:
    """A sink's row of the ledger, which has to add up."""
    row = next(row for row in status["consumers"] if row["sink"] == str(path))
    sent = sum(source["packets"] for source in status["sources"])
    assert row["offered"] == sent
    assert row["packets"] + row["lost"] + row["queued"] == sent
    assert row["durable"] <= row["packets"]
    assert status["residue"] == 0
    return row


def remove(rig: Rig, path: Path) -> None:
    """Take the sink out of the configuration; its last file is finished then."""
    (rig.runtime / "helpers.toml").write_text(SOURCES)
    rig.call("Reload")
    until(lambda: not list(path.parent.glob("*.part")))


def messages(rig: Rig) -> list[str]:
    return [message["text"] for message in rig.call("GetMessages")["messages"]]


def troubles(rig: Rig, path: Path) -> list[dict[str, str]]:
    return [row for row in rig.call("GetHealth")["troubles"] if row["source"] == str(path)]


@contextlib.contextmanager
def running(rundir: Path, path: Path, *keys: str) -> Iterator[Rig]:
    with daemon(rundir, SOURCES + sink(path, *keys)) as rig:
        rig.wait(lambda status: any(row["packets"] > 100 for row in status["consumers"]))
        yield rig


def in_trouble(path: Path, problem: str) -> Callable[[dict[str, Any]], bool]:
    return lambda status: any(
        row["name"] == str(path) and row["problem"] == problem for row in status["sinks"]
    )


@pytest.mark.parametrize(
    ("operations", "number", "problem"),
    [
        (("fsync",), errno.EIO, "disk-error"),
        (("fsync",), errno.ENOSPC, "disk-full"),
        (("fsync",), errno.EDQUOT, "disk-full"),
        (("write",), errno.EIO, "disk-error"),
        (("write",), errno.EDQUOT, "disk-full"),
        (("rename", "rename2"), errno.EIO, "disk-error"),
        (("rename", "rename2"), errno.ENOSPC, "disk-full"),
        (("flush",), errno.EIO, "disk-error"),
        (("create",), errno.EROFS, "disk-error"),
        (("create",), errno.EACCES, "sink-failed"),
        (("fsyncdir",), errno.EIO, "disk-error"),
        (("unlink",), errno.EIO, "disk-error"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else str(value),
)
def test_what_the_disk_refuses_is_trouble_and_never_durable(
    rundir: Path, tmp_path: Path, operations: tuple[str, ...], number: int, problem: str
) -> None:
    with mounted(tmp_path / "disk") as disk:
        path = disk.path / "x.pcapng"
        keep = "keep = 2" if "unlink" in operations else "keep = 0"
        with running(rundir, path, 'rotate_size = "50KiB"', 'limit = "256KiB"', keep) as rig:
            until(lambda: sink_row(rig, path)["durable"])
            disk.fail(*operations, number=number)
            rig.wait(in_trouble(path, problem))
            (trouble,) = troubles(rig, path)
            assert trouble["problem"] == problem
            assert os.strerror(number) in trouble["text"]
            assert rig.status()["health"] == "degraded"
            balanced(rig.status(), path)
            disk.thaw()
            rig.wait(lambda status: all(not row.get("problem") for row in status["sinks"]))
            written = consumer(rig, path)["packets"]
            rig.wait(lambda _: consumer(rig, path)["packets"] > written)
            row = balanced(quiet(rig), path)
            assert not troubles(rig, path)
            remove(rig, path)
        disk.power_cut()
        if "unlink" not in operations:
            assert held(disk.path) == row["packets"]
        assert set(row["lost_by"]) <= {problem}


@pytest.mark.parametrize("how", ["broken", "smaller than it says"])
def test_a_dying_card_delivers_no_more_than_can_be_read(rundir: Path, tmp_path: Path, how: str) -> None:
    """Writes go on into the kernel's memory, and fsync says no."""
    with mounted(tmp_path / "card") as card, loop_mounted(card.path, tmp_path / "disk") as folder:
        path = folder / "x.pcapng"
        with running(rundir, path, 'rotate_size = "200KiB"', 'limit = "256KiB"') as rig:
            until(lambda: sink_row(rig, path)["durable"])
            if how == "broken":
                card.fail("write")
            else:
                card.fail("write", number=errno.ENOSPC)
            rig.wait(lambda _: consumer(rig, path)["lost"] > 0)
            for name in ("radio0", "radio1"):
                rig.call("Stop", source=name)
            rig.wait(lambda _: consumer(rig, path)["durable"] == consumer(rig, path)["packets"])
            row = balanced(rig.status(), path)
            assert sum(row["lost_by"].values()) == row["lost"]
            assert set(row["lost_by"]) == {"disk-error" if how == "broken" else "disk-full"}
            assert rig.status()["health"] == "degraded"
        card.thaw()
        subprocess.run(["umount", str(folder)], check=True)
        subprocess.run(["mount", "-o", "loop", str(card.path / "image"), str(folder)], check=True)
        assert held(folder) == row["packets"]


@contextlib.contextmanager
def loop_mounted(disk: Path, folder: Path) -> Iterator[Path]:
    """A file system of 16 MiB in a file of another."""
    make = shutil.which("mkfs.ext4", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if make is None:
        pytest.skip("a file system in a file needs mkfs.ext4")
    folder.mkdir()
    image = disk / "image"
    image.write_bytes(bytes(16 << 20))
    subprocess.run([make, "-q", "-O", "^has_journal", str(image)], check=True)
    argv = ["mount", "-o", "loop", str(image), str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted from a file here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


@pytest.mark.need("root")
def test_a_file_system_without_inodes_is_full(rundir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    options = "size=8m,nr_inodes=5"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "helperd-test", str(folder)], check=True)
    try:
        path = folder / "x.pcapng"
        with running(rundir, path, 'rotate_size = "30KiB"', 'limit = "128KiB"') as rig:
            rig.wait(in_trouble(path, "disk-full"))
            rig.wait(lambda _: consumer(rig, path)["lost_by"].get("disk-full", 0) > 0)
            balanced(rig.status(), path)
            subprocess.run(["mount", "-o", "remount,nr_inodes=1000", str(folder)], check=True)
            rig.wait(lambda status: all(not row.get("problem") for row in status["sinks"]))
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_policy_to_stop_holds_for_what_fsync_refuses(rundir: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk") as disk:
        path = disk.path / "x.pcapng"
        with running(rundir, path, 'rotate_size = "50KiB"', 'disk_full = "stop"') as rig:
            disk.fail("fsync")
            rig.wait(lambda status: any(row.get("state") == "stopped" for row in status["sinks"]))
            assert sink_row(rig, path)["problem"] == "disk-error"


# a disk that hangs


@pytest.mark.parametrize("operation", ["write", "fsync", "create"])
def test_a_disk_that_hangs_is_told_and_its_losses_are_the_disks(
    rundir: Path, tmp_path: Path, operation: str
) -> None:
    with mounted(tmp_path / "disk") as disk:
        path = disk.path / "x.pcapng"
        with running(rundir, path, 'rotate_size = "50KiB"', 'limit = "64KiB"') as rig:
            before = Counter(
                consumer(rig, path)["lost_by"]
            )  # a machine under load may be late without any fault
            disk.freeze(operation)
            rig.wait(in_trouble(path, "disk-stuck"))
            assert sink_row(rig, path)["state"] == "stuck"
            (trouble,) = troubles(rig, path)
            assert (trouble["state"], trouble["problem"]) == ("stuck", "disk-stuck")
            assert str(disk.path) in trouble["text"]
            if operation == "write":
                rig.wait(lambda _: consumer(rig, path)["lost_by"].get("disk-stuck", 0) > 100)
            since = Counter(consumer(rig, path)["lost_by"]) - before
            assert set(since) <= {"disk-stuck", "consumer-slow"}
            assert since["consumer-slow"] <= since["disk-stuck"] // 10  # what was lost as it froze
            disk.thaw()
            rig.wait(lambda status: all(not row.get("problem") for row in status["sinks"]))
            assert any("answers again" in text for text in messages(rig))
            row = balanced(quiet(rig), path)
            assert set(row["lost_by"]) <= {"disk-stuck", "consumer-slow"}  # the latter while it catches up
            remove(rig, path)
        assert held(disk.path) == row["packets"]


def test_threads_do_not_pile_up_with_reloads_of_a_disk_that_hangs(rundir: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk") as disk:
        path = disk.path / "x.pcapng"
        with running(rundir, path, 'rotate_size = "50KiB"') as rig:
            pid = rig.status()["pid"]
            fds = f"/proc/{pid}/fd"
            disk.freeze("write", "fsync", "create", "getattr", "opendir", "lookup")
            rig.wait(in_trouble(path, "disk-stuck"))
            before = threads(pid)
            for size in range(60, 68):
                config = SOURCES + sink(disk.path / f"{size}.pcapng", f'rotate_size = "{size}KiB"')
                (rig.runtime / "helpers.toml").write_text(config)
                with pytest.raises(ControlError, match="the disk has not answered"):
                    rig.call("Reload")
            assert threads(pid) <= before + 2  # those that read the configuration wait a while for more work
            (rig.runtime / "helpers.toml").write_text(SOURCES)
            rig.call("Reload")
            rig.wait(lambda status: not status["consumers"])
            assert rig.status()["residue"] == 0
            disk.thaw()
            until(lambda: not any(str(disk.path) in link(f"{fds}/{fd}") for fd in os.listdir(fds)))
            (rig.runtime / "helpers.toml").write_text(config)
            rig.call("Reload")
            rig.wait(lambda status: any(row.get("state") == "writing" for row in status["sinks"]))


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def link(path: str) -> str:
    try:
        return os.readlink(path)
    except FileNotFoundError:
        return ""


# somebody else at the file


def removed(part: Path) -> None:
    part.unlink()


def moved(part: Path) -> None:
    part.rename(part.parent.parent / "elsewhere")


def replaced(part: Path) -> None:
    part.unlink()
    part.write_bytes(b"of somebody else")


def linked(part: Path) -> None:
    other = part.parent.parent / "other"
    other.write_bytes(bytes(4 << 20))
    part.unlink()
    part.hardlink_to(other)


def cut(part: Path) -> None:
    os.truncate(part, 2000)


def emptied(part: Path) -> None:
    os.truncate(part, 0)


def folder_removed(part: Path) -> None:
    shutil.rmtree(part.parent)


def folder_moved(part: Path) -> None:
    part.parent.rename(part.parent.with_name("gone"))


@pytest.mark.parametrize(
    "how", [removed, moved, replaced, linked, cut, emptied, folder_removed, folder_moved]
)
def test_a_file_that_somebody_else_changes_is_told_and_counted(
    rundir: Path, tmp_path: Path, how: Callable[[Path], None]
) -> None:
    path = tmp_path / "a" / "x.pcapng"
    with running(rundir, path) as rig:
        quiet(rig)
        (part,) = path.parent.glob("*.part")
        before = consumer(rig, path)
        how(part)
        rig.wait(lambda _: consumer(rig, path)["lost_by"].get("file-changed", 0) > 0)
        lost = consumer(rig, path)["lost"]
        assert lost <= before["packets"]
        assert (lost == before["packets"]) == (how is not cut)
        assert any("by somebody else" in text and f"{lost:,} packets" in text for text in messages(rig))
        rig.call("Start", source="radio0")
        rig.wait(lambda _: consumer(rig, path)["packets"] > before["packets"] - lost + 100)
        row = balanced(quiet(rig), path)
        if how in {replaced, linked}:
            assert part.read_bytes() == (b"of somebody else" if how is replaced else bytes(4 << 20))
            part.unlink()
        remove(rig, path)
        assert held(path.parent) == row["packets"]


def test_a_file_in_the_directorys_place_is_no_fault_of_the_disk(rundir: Path, tmp_path: Path) -> None:
    path = tmp_path / "a" / "x.pcapng"
    with running(rundir, path) as rig:
        before = quiet(rig)["consumers"][0]["packets"]
        path.parent.rename(tmp_path / "gone")
        path.parent.write_text("of somebody else")
        rig.wait(lambda _: consumer(rig, path)["lost_by"] == {"file-changed": before})
        rig.call("Start", source="radio0")
        rig.wait(in_trouble(path, "sink-failed"))
        assert path.parent.read_text() == "of somebody else"
        path.parent.unlink()
        rig.wait(lambda _: consumer(rig, path)["packets"] > 100)
        row = balanced(quiet(rig), path)
        assert "disk-error" not in row["lost_by"]
        remove(rig, path)
    assert held(path.parent) == row["packets"]


def by_a_file(name: Path) -> None:
    name.write_text("of somebody else")


def by_a_folder(name: Path) -> None:
    name.mkdir()


def by_a_link(name: Path) -> None:
    name.symlink_to("nowhere")


@pytest.mark.parametrize("taken", [by_a_file, by_a_folder, by_a_link])
def test_what_somebody_has_put_at_a_files_name_stays(
    rundir: Path, tmp_path: Path, taken: Callable[[Path], None]
) -> None:
    """The file waits for its name, and holds up neither the next ones nor their number."""
    path = tmp_path / "x.pcapng"
    with running(rundir, path, 'rotate_size = "50KiB"', "keep = 3") as rig:
        quiet(rig)
        while not (parts := list(tmp_path.glob("*.part"))):  # the last packet was the last of a file
            rig.call("Start", source="radio1")
            quiet(rig)
        name = parts[0].with_suffix("")
        taken(name)
        there = os.lstat(name).st_ino
        rig.call("Start", source="radio0")
        rig.wait(in_trouble(path, "sink-failed"))
        (trouble,) = troubles(rig, path)
        assert f"somebody else has put {name} there; move that away" in trouble["text"]
        begun = sink_row(rig, path)["files"]
        rig.wait(lambda _: sink_row(rig, path)["files"] > begun + 6)
        assert os.lstat(name).st_ino == there
        until(lambda: len(list(tmp_path.glob("x_*.pcapng"))) <= 3)
        name.rename(tmp_path / "elsewhere")
        rig.wait(lambda status: all(not row.get("problem") for row in status["sinks"]))
        balanced(quiet(rig), path)


def test_a_file_is_never_cut_by_what_somebody_else_has_put_behind_it(rundir: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.pcapng"
    with running(rundir, path) as rig:
        row = balanced(quiet(rig), path)
        (part,) = tmp_path.glob("*.part")
        with part.open("ab") as file:
            file.write(b"no block")
        remove(rig, path)
        assert held(tmp_path) == row["packets"]
        assert row["lost"] == 0


def test_a_number_is_never_used_twice(rundir: Path, tmp_path: Path) -> None:
    """Whoever ships files away and removes them gets each name once, over reloads, too."""
    path = tmp_path / "x.pcapng"
    seen: list[str] = []
    with running(rundir, path, 'rotate_size = "20KiB"') as rig:
        for size in (20, 21, 22):
            for _ in range(3):
                until(lambda: list(tmp_path.glob("*.pcapng")))
                for file in tmp_path.glob("*.pcapng"):
                    seen.append(file.name[:7])
                    file.unlink()
            (rig.runtime / "helpers.toml").write_text(SOURCES + sink(path, f'rotate_size = "{size}KiB"'))
            rig.call("Reload")
    seen += [file.name[:7] for file in tmp_path.glob("*.pcapng")]
    assert len(seen) == len(set(seen)) > 9


def test_what_is_delivered_is_durable_soon_though_its_file_goes_on(rundir: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk") as disk:
        path = disk.path / "x.pcapng"
        with running(rundir, path) as rig:
            quiet(rig)
            rig.wait(lambda _: consumer(rig, path)["durable"] == consumer(rig, path)["packets"])
            disk.power_cut()
            (part,) = disk.path.glob("*.part")
            found = packets(part.read_bytes())
            assert sum(map(len, found.values())) == consumer(rig, path)["durable"]


def test_a_disk_that_is_gone_is_told_and_ends_nothing(rundir: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk") as disk:
        path = disk.path / "x.pcapng"
        with running(rundir, path, 'rotate_size = "50KiB"', 'limit = "64KiB"') as rig:
            disk.kill()
            rig.wait(in_trouble(path, "disk-error"))
            rig.wait(lambda _: consumer(rig, path)["lost_by"].get("disk-error", 0) > 0)
            balanced(rig.status(), path)
            assert all(row["state"] == "running" for row in rig.status()["sources"])


@pytest.mark.parametrize("operation", ["flush", "write", "create"])
def test_tap_calls_no_file_whole_that_the_disk_refused(rundir: Path, tmp_path: Path, operation: str) -> None:
    with mounted(tmp_path / "disk") as disk, daemon(rundir, SOURCES) as rig:
        rig.wait_running()
        disk.fail(operation)
        argv = [*HELPERD, "tap", "--all", "-c", "50", "-w", str(disk.path / "x.pcapng")]
        done = subprocess.run(
            [*argv, "--runtime-dir", str(rundir)], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == Code.SYSTEM, done.stderr
        assert "Input/output error" in done.stderr
        assert "Traceback" not in done.stderr
