"""Faults of the system around helperd and of its own processes; each has a daemon of its own."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import time
from pathlib import Path
from uuid import UUID

import pytest

from helperd import cgroups
from helperd.control.client import ControlError
from tests.census import OWN, name_of
from tests.faults.stage import BUILTIN, HEAD, gone, helper, stage
from tests.faults.witness import Reader, below, fds, few_descriptors, state_of
from tests.patience import HANGS_S, promptly
from tests.rig import Stream, daemon

DEEP = int(os.environ.get("HELPERD_FAULT_RUNS", "3")) > 3
WAITING = """
[[sink]]
path = "complete.sock"
overflow = "wait"
limit = "64KiB"
hold = "20s"
"""


def synthetic(name: str, options: str = "rate=200", more: str = "") -> str:
    own = UUID(bytes=name.encode().ljust(16)[:16])
    return f'[[source]]\nname = "{name}"\ndefinition = "radio0:type=synthetic,{options},uuid={own}"\n{more}\n'


def test_26_without_descriptors_a_start_is_refused_and_a_stop_still_works(rundir):
    with stage(rundir) as scene:
        stays = scene.victim()
        stays.streaming()
        before = resource.prlimit(scene.supervisor, resource.RLIMIT_NOFILE)
        taken = fds(scene.supervisor)
        resource.prlimit(scene.supervisor, resource.RLIMIT_NOFILE, (taken + 34, before[1]))
        fixed = scene.victim
        with pytest.raises(ControlError, match="no-resources"):
            scene.rig.call("AddSource", definition="bad0:type=bad", name="refused")
        stays.streaming()
        stays.order("Stop")
        assert stays.row["state"] == "down"
        resource.prlimit(scene.supervisor, resource.RLIMIT_NOFILE, before)
        later = fixed()
        later.streaming()
        later.leave()
        stays.leave()
        scene.settled()


def test_27_without_descriptors_in_the_launcher_nothing_starts_and_nothing_ends(rundir):
    with stage(rundir) as scene:
        with few_descriptors(scene.rig.process.pid) as leave:
            for room in range(2):  # a launch takes no more than these from the launcher
                leave(room)
                with pytest.raises(ControlError, match="no-resources"):
                    scene.rig.call("AddSource", definition="bad0:type=bad", name=f"refused{room}")
                assert scene.rig.source("bystander")["state"] == "running"
        later = scene.victim()
        later.streaming()
        later.leave()
        scene.settled()


def test_28_a_full_log_disk_costs_log_lines_only(rundir):
    with stage(rundir, log=Path("/dev/full")) as scene:
        victim = scene.victim("chatter", after=20)
        victim.running()
        time.sleep(0.3)
        victim.leave()
        killed = scene.victim()
        killed.streaming()
        killed.signal(signal.SIGKILL)
        killed.running(2)
        killed.streaming()
        killed.leave()
        scene.settled()


def test_29_a_log_that_nobody_reads_costs_log_lines_only(rundir):
    pipe = rundir / "log.fifo"
    os.mkfifo(pipe)
    held = os.open(pipe, os.O_RDWR)
    try:
        with stage(rundir, log=pipe) as scene:
            victim = scene.victim("stderr-flood")
            victim.streaming()
            time.sleep(0.3)
            victim.streaming()
            victim.leave()
            scene.settled()
    finally:
        os.read(held, 1 << 20)
        os.set_blocking(held, False)
        try:
            while os.read(held, 1 << 20):
                pass
        except BlockingIOError:
            os.close(held)


@pytest.mark.parametrize(
    "seconds", [5, pytest.param(20, marks=pytest.mark.skipif(not DEEP, reason="20 s: HELPERD_FAULT_RUNS"))]
)
def test_35_after_the_supervisor_was_stopped_nobody_is_judged_for_it(rundir, seconds):
    config = HEAD + BUILTIN + synthetic("streams") + synthetic("idle", "rate=0.001")
    with daemon(rundir, config) as rig:
        status = rig.wait_running()
        pids = {row["name"]: row["pid"] for row in status["sources"]}
        os.kill(status["pid"], signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(status["pid"], signal.SIGCONT)
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline:
            rows = rig.status()["sources"]
            assert {row["name"]: row["pid"] for row in rows} == pids
            time.sleep(0.1)
        assert rig.status()["late_beats"] >= 1


def test_35b_a_killed_supervisor_leaves_nobody_and_its_successor_has_one_of_each(rundir):
    config = HEAD + BUILTIN + helper("bad", "ignore-term") + synthetic("ours")
    config += f'[[source]]\nname = "theirs"\ndefinition = "bad0:type=bad,device={rundir}/lock"\n'
    for _ in range(2):
        with daemon(rundir, config) as rig:
            supervisor = rig.wait_running()["pid"]
            children = below(rig.process.pid)
            assert sum(name_of(pid) not in OWN for pid in children) == 3
            with promptly("the end of all", 2.0):
                os.kill(supervisor, signal.SIGKILL)
                assert rig.process.wait(HANGS_S) != 0
                assert all(map(gone, children))
            rig.process.returncode = 0  # as expected
    with daemon(rundir, config) as rig:  # and this one puts the sockets of those away
        rig.wait_running()
    assert not Path(f"{rundir}/lock.second").exists()


def test_49_a_killed_launcher_ends_everything(rundir):
    config = HEAD + BUILTIN + helper("bad", "ignore-term") + synthetic("ours")
    config += '[[source]]\nname = "theirs"\ndefinition = "bad0:type=bad"\n'
    with daemon(rundir, config) as rig:
        rig.wait_running()
        children = below(rig.process.pid)
        os.kill(rig.process.pid, signal.SIGKILL)
        rig.process.wait(HANGS_S)
        deadline = time.monotonic() + HANGS_S
        while not all(map(gone, children)):
            assert time.monotonic() < deadline, [(pid, state_of(pid)) for pid in children]
            time.sleep(0.02)
        rig.process.returncode = 0
    assert (rundir / "control.sock").exists(), "a reader can tell a death from an end in order"
    with daemon(rundir, config) as rig:  # and this one puts it away
        rig.wait_running()


def test_50_a_launcher_that_does_not_answer_for_a_while_delays_a_start_and_nothing_else(rundir):
    with stage(rundir) as scene:
        victim = scene.victim()
        victim.streaming()
        os.kill(scene.rig.process.pid, signal.SIGSTOP)
        victim.signal(signal.SIGKILL)
        time.sleep(2)
        with promptly("the status", 0.1):
            scene.rig.status()
        os.kill(scene.rig.process.pid, signal.SIGCONT)
        victim.running(2)
        victim.streaming()
        victim.leave()
        scene.settled()


def page_of(pid: int) -> int:
    """What the one helper of ours has counted, read from the memory that its supervisor holds."""
    folder, found = Path(f"/proc/{pid}/fd"), []
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found += [name] if "helperd-produced" in os.readlink(folder / name) else []
    [page] = found
    with open(folder / page, "rb") as file:
        return int.from_bytes(file.read(8), "little")


def test_3c_what_died_unsent_is_counted(rundir):
    """A helper of ours whose reader holds is killed: what it had made and not sent is in the ledger, to the packet."""
    config = HEAD + BUILTIN + WAITING
    config += synthetic("load", "rate=1000000,size=1000", 'start = "manual"\nrestart = "temporary"')
    with daemon(rundir, config) as rig:
        for _ in range(3):
            before = rig.source("load")
            with rig.connect("complete.sock"):
                rig.call("Start", source="load")
                supervisor, made = rig.status()["pid"], -1
                while made != (made := page_of(supervisor)):
                    time.sleep(0.3)  # longer than the capture may overlook room
                os.kill(rig.source("load")["pid"], signal.SIGKILL)
                row = rig.wait(lambda status: status["sources"][0]["state"] == "down")["sources"][0]
            unsent = row["lost"]["died-unsent"] - before["lost"].get("died-unsent", 0)
            assert row["produced"] - before["produced"] == made
            assert row["packets"] - before["packets"] + unsent == made
            assert unsent >= 64, "it waited for room, so 64 KiB at least had not left"


def test_a_full_lossless_consumer_stalls_its_source_and_is_not_held_against_the_helper(rundir):
    config = HEAD + BUILTIN + WAITING + synthetic("load", "rate=20000,size=500")
    with daemon(rundir, config) as rig:
        rig.wait_running()
        with rig.connect("complete.sock") as sock:
            rig.wait(lambda status: status["sources"][0]["verdict"] == "stalled-by-consumer")
            deadline = time.monotonic() + 6
            while time.monotonic() < deadline:
                row = rig.source("load")
                assert (row["incarnation"], row["verdict"]) == (1, "stalled-by-consumer"), row
                time.sleep(0.1)
            packets = Stream(sock).take(5000)
            numbers = [int.from_bytes(packet.content[40:48], "little") for packet in packets]
            assert numbers == list(range(numbers[0], numbers[0] + 5000))
        rig.wait(lambda status: status["sources"][0]["verdict"] == "ok")


def test_what_it_was_tuned_to_is_asked_for_again_after_a_restart(rundir):
    config = HEAD + BUILTIN + synthetic("radio", 'rate=100,channels=\\"1,6,11\\"')
    with daemon(rundir, config) as rig:
        rig.wait_running()
        rig.call("SetChannel", source="radio", channel="11")
        os.kill(rig.source("radio")["pid"], signal.SIGKILL)
        rig.wait(lambda status: status["sources"][0]["incarnation"] == 2)
        rig.wait(lambda status: status["sources"][0]["channel"] == "11")


def test_reload_restarts_what_changed_and_nothing_else(rundir):
    sources = "".join(synthetic(f"radio{number}", f"rate={100 + number}") for number in range(12))
    config = HEAD + BUILTIN + sources
    with daemon(rundir, config) as rig:
        reader = Reader(rig.connect())
        reader.start()
        try:
            before = {row["name"]: row["pid"] for row in rig.wait_running()["sources"]}
            file = rundir / "helpers.toml"

            def reload(text: str) -> dict[str, int]:
                time.sleep(1.05)  # the launcher reads it once a second at most
                file.write_text(text)
                rig.call("Reload")
                rows = rig.wait_running()["sources"]
                return {row["name"]: row["pid"] for row in rows}

            assert reload(f"# a comment\n{config}") == before
            shuffled = (
                HEAD
                + BUILTIN
                + "".join(
                    synthetic(f"radio{number}", f"rate={100 + number}") for number in reversed(range(12))
                )
            )
            assert reload(shuffled) == before
            changed = config.replace("rate=103", "rate=203")
            after = reload(changed)
            assert {name for name in before if after[name] != before[name]} == {"radio3"}
            with pytest.raises(ControlError, match="unknown"):
                reload(f"{changed}\n[helperd2]\nx = 1\n")
            time.sleep(1.05)
            os.kill(rig.status()["pid"], signal.SIGHUP)
            time.sleep(0.3)
            assert {row["name"]: row["pid"] for row in rig.status()["sources"]} == after
            reader.lost_between.pop("radio3", None)
            assert not reader.lost_between
        finally:
            reader.close()
    assert "reload refused, nothing changed" in (rundir / "log").read_text()


def test_the_service_manager_is_told_of_progress(rundir, monkeypatch):
    path = f"{rundir}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.settimeout(HANGS_S)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        monkeypatch.setenv("WATCHDOG_USEC", "1000000")
        with daemon(rundir, HEAD + BUILTIN + synthetic("ours")) as rig:
            rig.wait_running()
            told = []
            while told.count("WATCHDOG=1") < 4 or "STATUS=1 of 1 sources running" not in told:
                told += sock.recv(4096).decode().splitlines()
            assert "READY=1" in told
            supervisor = rig.status()["pid"]
            os.kill(supervisor, signal.SIGSTOP)
            time.sleep(0.6)
            sock.settimeout(0.05)
            try:
                while True:
                    sock.recv(4096)
            except TimeoutError:
                pass  # a supervisor that stands still feeds no watchdog
            os.kill(supervisor, signal.SIGCONT)
            sock.settimeout(HANGS_S)
            assert sock.recv(4096)
    os.unlink(path)


def test_34_a_helper_whose_cgroup_is_frozen_is_not_judged(rundir, need):
    need("cgroup2")
    group = Path(str(cgroups.directory(os.getpid()))) / f"helperd-test-{os.getpid()}"
    group.mkdir()
    try:
        with daemon(rundir, HEAD + BUILTIN + synthetic("ours", "rate=10")) as rig:
            pid = rig.wait_running()["sources"][0]["pid"]
            (group / "cgroup.procs").write_text(str(pid))
            (group / "cgroup.freeze").write_text("1")
            rig.wait(lambda status: status["sources"][0]["verdict"] == "starved")
            time.sleep(3)
            (group / "cgroup.freeze").write_text("0")
            row = rig.wait(lambda status: status["sources"][0]["verdict"] == "ok")["sources"][0]
            assert (row["pid"], row["incarnation"]) == (pid, 1)
    finally:
        group.rmdir()


def memory_group(name: str, limit: int) -> Path:
    """A cgroup with a limit on memory, of whatever version."""
    old = Path("/sys/fs/cgroup/memory")
    group = (old if old.is_dir() else Path(cgroups.mounts()[cgroups.V2].top)) / name
    group.mkdir()
    for file in ("memory.limit_in_bytes", "memory.max"):
        if (group / file).exists():
            (group / file).write_text(str(limit))
            return group
    group.rmdir()
    raise LookupError("no controller for memory in this cgroup")


def test_5b_a_helper_that_the_kernel_ends_for_lack_of_memory_is_told_as_such(rundir):
    try:
        group = memory_group(f"helperd-test-{os.getpid()}", 40 << 20)
    except (OSError, LookupError) as error:
        pytest.skip(f"no limit on memory can be set here: {error}")
    try:
        with stage(rundir) as scene:
            go = rundir / "go"
            victim = scene.victim("eat", after=20, go=go)
            (group / "cgroup.procs").write_text(str(victim.running()["pid"]))
            go.touch()
            row = victim.until(lambda row: row["exit"])
            go.unlink()
            assert (row["exit"]["kind"], row["exit"]["problem"]) == ("accident", "out-of-memory"), row["exit"]
            time.sleep(1)  # longer than the memory of that
            os.kill(victim.running(2)["pid"], signal.SIGKILL)  # by somebody: that is told apart
            row = victim.until(lambda row: row["exit"]["problem"] != "out-of-memory")
            assert row["exit"]["problem"] == "killed"
            victim.leave()
            scene.settled()
    finally:
        group.rmdir()
