"""Who has the pool of uids, and from whom it may be taken."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

from helperd.errors import CannotDrop, UnavailableError
from helperd.sandbox import lock, processes
from helperd.sandbox.lock import Beat
from tests.patience import HANGS_S

POOL = range(60800, 61024)
HOLD = """
import fcntl, os, sys, time
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
fcntl.flock(fd, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The lock's place, in a folder that only its owner writes."""
    if os.geteuid():
        pytest.skip("only root has a pool of uids")
    folder = tmp_path / "state"
    folder.mkdir(0o755)
    monkeypatch.setattr(lock, "STATE", str(folder))
    return folder / "pool-60800.lock"


@pytest.fixture
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Somebody who has the lock."""
    with subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def write(path: Path, pid: int, started: int, every: float, last: float) -> None:
    path.write_text(f"{pid} {started} {every:.3f} {last:015.3f}\n")


def started(pid: int) -> int:
    row = processes.row(pid)
    assert row
    return row.started


def test_the_lock_says_who_has_it_and_that_it_works(path: Path):
    beat = Beat({})
    beat.take(POOL)
    pid, began, every, last = path.read_text().split()
    assert (int(pid), int(began), float(every)) == (os.getpid(), started(os.getpid()), lock.BEAT_S)
    assert beat.at > monotonic()
    beat.give()
    write(path, int(pid), int(began), float(every), 1.0)
    beat.give()
    assert float(path.read_text().split()[3]) == 1, "not before its time"
    beat.at = monotonic()
    beat.give()
    assert path.read_text().split()[:3] == [pid, began, every]
    assert float(path.read_text().split()[3]) >= float(last)
    with pytest.raises(UnavailableError, match="another launcher uses the uids from 60800"):
        Beat({}).take(POOL)
    os.close(beat.lock)


def test_who_works_is_let_be_and_so_is_who_cannot_be_known(path: Path, holder: subprocess.Popen[str]):
    pid, now = holder.pid, monotonic()
    for row in (
        (pid, started(pid), 15.0, now),
        (pid, started(pid), 15.0, now - 29),
        (pid, started(pid) + 1, 15.0, now - 99),
        (1 << 22, 1, 15.0, now - 99),
    ):
        write(path, *row)
        with pytest.raises(UnavailableError):
            Beat({}).take(POOL)
    path.write_text("nonsense\n")
    with pytest.raises(UnavailableError):
        Beat({}).take(POOL)
    assert holder.poll() is None


def test_who_missed_two_beats_is_ended_and_replaced(path: Path, holder: subprocess.Popen[str]):
    holder.send_signal(signal.SIGSTOP)
    write(path, holder.pid, started(holder.pid), 15.0, monotonic() - 31)
    beat = Beat({})
    beat.take(POOL)
    assert holder.wait(HANGS_S) == -signal.SIGKILL
    assert beat.old == holder.pid
    assert int(path.read_text().split()[0]) == os.getpid()
    os.close(beat.lock)


def test_two_successors_do_not_both_take_it(path: Path, holder: subprocess.Popen[str]):
    write(path, holder.pid, started(holder.pid), 15.0, monotonic() - 31)
    turn = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(turn, fcntl.LOCK_EX)
    with pytest.raises(UnavailableError):
        Beat({}).take(POOL)
    os.close(turn)
    assert holder.poll() is None


def test_a_folder_that_others_may_write_holds_no_lock(path: Path):
    path.parent.chmod(0o777)
    with pytest.raises(CannotDrop, match="must be root's alone"):
        Beat({}).take(POOL)


def test_a_service_manager_is_told_twice_as_often_as_it_wants(tmp_path: Path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "n"))
        manager.settimeout(HANGS_S)
        told = {"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "3000000"}
        beat = Beat(told)
        assert beat.every == 1.5
        beat.give()
        assert manager.recv(99) == b"WATCHDOG=1"
        assert beat.at > monotonic()
        for other in (
            Beat({"NOTIFY_SOCKET": told["NOTIFY_SOCKET"]}),
            Beat(told | {"WATCHDOG_PID": "4194305"}),
        ):
            assert (other.at, other.address) == (0.0, "")
    beat.at = monotonic()
    beat.give()  # nobody listens any more
    os.unlink(tmp_path / "n")


def test_the_unit_wants_signs_of_life():
    unit = (Path(__file__).parent.parent / "packaging/helperd-launcher.service").read_text()
    assert "\nWatchdogSec=30s\nKillMode=mixed\n" in unit
    assert "\nRestart=on-failure\n" in unit, "which a missed watchdog is"
