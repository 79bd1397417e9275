"""Helpers that are kept from the processor, by real limits of the kernel: nothing of it is held against them."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helperd import cgroups
from tests.census import FORKED_AHEAD, name_of
from tests.faults.stage import HEAD, PEER, helper
from tests.faults.witness import below
from tests.rig import Rig, daemon


@contextlib.contextmanager
def group(controller: str, *names: str) -> Iterator[list[Path]]:
    """Nested cgroups below this process's own, the outer first."""
    top = cgroups.directory(os.getpid(), controller)
    if top is None:
        pytest.skip(f"no cgroup hierarchy with the controller {controller or 'of version 2'} can be seen")
    made: list[Path] = []
    folder = Path(top)
    try:
        for name in names:
            folder /= f"{name}-{os.getpid()}"
            folder.mkdir()
            made.append(folder)
    except OSError as error:
        for folder in reversed(made):
            folder.rmdir()
        pytest.skip(f"no cgroup can be made: {error}")
    try:
        yield made
    finally:
        for folder in reversed(made):
            for pid in (folder / "cgroup.procs").read_text().split():
                with contextlib.suppress(OSError):
                    (folder.parent / "cgroup.procs").write_text(pid)
            folder.rmdir()


class Limit:
    """A quota of processor time for all in a cgroup; a thousandth, 1 ms in a second, is the least there is."""

    def __init__(self, folder: Path, share: float = 0.001) -> None:
        old = folder / "cpu.cfs_quota_us"
        if old.exists():
            self._set = [(folder / "cpu.cfs_period_us", "1000000"), (old, f"{share * 1e6:.0f}")]
            self._lift = (old, "-1")
        else:
            self._set = [(folder / "cpu.max", f"{share * 1e6:.0f} 1000000")]
            self._lift = (folder / "cpu.max", "max")

    def set(self) -> None:
        try:
            for file, text in self._set:
                file.write_text(text)
        except OSError as error:
            pytest.skip(f"no quota of processor time can be set here: {error}")

    def lift(self) -> None:
        self._lift[0].write_text(self._lift[1])


def cpu_controller() -> str:
    return "cpu" if "cpu" in cgroups.mounts() else cgroups.V2


def starved(row: dict) -> bool:
    return (row["verdict"], row["reason"]) == ("starved", "its")


def only(rig: Rig, true: Callable[[dict], bool]) -> dict:
    return rig.wait(lambda status: true(status["sources"][0]))["sources"][0]


def config(
    more: str = "", *, words: str = "rate=500", block: str = "", command: list[str] | None = None
) -> str:
    """One source that is busy enough to use up a thousandth of a processor."""
    text = HEAD + helper("bad", command=command) + block
    return text + f'[[source]]\nname = "ours"\ndefinition = "bad0:type=bad,{words}"\n{more}'


def is_the_same(row: dict, pid: int) -> None:
    assert (row["pid"], row["incarnation"], row["exit"]) == (pid, 1, None), row


WRAPPED = ["/bin/sh", "-c", f"'{sys.executable}' -I -S '{PEER}' good; exit $?"]


@pytest.mark.parametrize(
    ("depth", "command"),
    [(1, None), (2, None), (1, WRAPPED)],
    ids=["of-its-cgroup", "of-the-one-above", "of-the-child-that-does-the-work"],
)
def test_a_quota_is_not_held_against_a_helper(rundir: Path, depth: int, command: list[str] | None) -> None:
    with group(cpu_controller(), *["helperd-outer", "helperd-inner"][:depth]) as folders:
        limit = Limit(folders[0])
        with daemon(rundir, config(command=command)) as rig:
            pid = rig.wait_running()["sources"][0]["pid"]
            limit.set()
            for one in [pid, *below(pid)]:
                (folders[-1] / "cgroup.procs").write_text(str(one))
            try:
                is_the_same(only(rig, starved), pid)
            finally:
                limit.lift()
            is_the_same(only(rig, lambda row: row["verdict"] == "ok"), pid)


def test_a_start_that_lacks_the_processor_is_not_timed_out(rundir: Path) -> None:
    block = 'greet_timeout = "1s"\n'
    with group(cpu_controller(), "helperd-start") as (folder,):
        limit = Limit(folder)
        with daemon(rundir, config(block=block)) as rig:
            first = rig.wait_running()["sources"][0]["pid"]
            limit.set()
            (ahead,) = (pid for pid in below(rig.process.pid) if name_of(pid) == FORKED_AHEAD)
            (folder / "cgroup.procs").write_text(str(ahead))  # it becomes the next helper
            try:
                os.kill(first, signal.SIGKILL)
                row = only(rig, lambda row: row["state"] == "greeting" and starved(row))
                assert (row["pid"], row["incarnation"]) == (ahead, 2)
            finally:
                limit.lift()
            row = only(rig, lambda row: row["state"] == "running" and row["verdict"] == "ok")
            assert (row["pid"], row["incarnation"]) == (ahead, 2)


@pytest.mark.parametrize(
    ("words", "share"),
    [("mode=silence,at=stream,after=20", 0.001), ("mode=spin,after=20", 0.5)],
    ids=["deadlocks", "spins"],
)
def test_one_that_hangs_is_judged_under_a_quota_too(rundir: Path, words: str, share: float) -> None:
    with group(cpu_controller(), "helperd-hangs") as (folder,):
        limit = Limit(folder, share)
        with daemon(rundir, config(words=f"rate=500,{words}")) as rig:
            pid = rig.wait_running()["sources"][0]["pid"]
            limit.set()
            (folder / "cgroup.procs").write_text(str(pid))
            row = only(rig, lambda row: row["exit"] is not None)
            assert row["exit"]["problem"] == "keepalive", row["exit"]
            limit.lift()


class Freezer:
    """One of the two ways in which the kernel freezes a cgroup."""

    def __init__(self, folder: Path) -> None:
        old = folder / "freezer.state"
        self.file, self.words = (
            (old, ("FROZEN", "THAWED")) if old.exists() else (folder / "cgroup.freeze", "10")
        )

    def freeze(self) -> None:
        self.file.write_text(self.words[0])

    def thaw(self) -> None:
        self.file.write_text(self.words[1])


@pytest.mark.parametrize(
    ("version", "depth"),
    [("freezer", 1), ("freezer", 2), (cgroups.V2, 2)],
    ids=["v1", "v1-the-one-above", "v2-the-one-above"],
)
def test_a_frozen_helper_is_not_judged_and_not_called_stuck(rundir: Path, version: str, depth: int) -> None:
    more = 'silence = "1s"\n'  # shorter than what may be silent before it is asked whether it lives
    with group(version, *["helperd-outer", "helperd-inner"][:depth]) as folders:
        freezer = Freezer(folders[0])
        with daemon(rundir, config(more)) as rig:
            pid = rig.wait_running()["sources"][0]["pid"]
            (folders[-1] / "cgroup.procs").write_text(str(pid))
            freezer.freeze()
            try:
                is_the_same(only(rig, starved), pid)
                time.sleep(3)  # longer than the deadline and the limit on silence
                assert starved(rig.status()["sources"][0])
            finally:
                freezer.thaw()
            is_the_same(only(rig, lambda row: row["verdict"] == "ok"), pid)


def test_a_frozen_helper_that_cannot_end_is_not_called_stuck_in_the_kernel(rundir: Path) -> None:
    """The freezer of version 1 holds up even SIGKILL."""
    with group("freezer", "helperd-ends") as (folder,):
        freezer = Freezer(folder)
        with daemon(rundir, config()) as rig:
            pid = rig.wait_running()["sources"][0]["pid"]
            (folder / "cgroup.procs").write_text(str(pid))
            freezer.freeze()
            stop = threading.Thread(target=rig.call, args=("Stop",), kwargs={"source": "ours"})
            try:
                stop.start()
                row = only(rig, lambda row: row["rung"] == "wait")
                assert starved(row), row
            finally:
                freezer.thaw()
            only(rig, lambda row: row["state"] == "down")
            stop.join()
