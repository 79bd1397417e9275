"""How the daemon's processes end when a signal, a closed descriptor or one that does not answer is in the way."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helperd.config.profile import END_S
from helperd.daemon import FLUSH_S, GIVEN_UP_S
from helperd.sinks.file import FLUSH_S as FILE_FLUSH_S
from helperd.supervisor import STOP_S
from tests.faults.stage import BUILTIN, HEAD, gone, helper
from tests.faults.test_starved_helpers import Freezer, group
from tests.faults.test_surroundings import synthetic
from tests.faults.witness import below, state_of
from tests.patience import HANGS_S, promptly
from tests.rig import HELPERD, ROOT, Rig, daemon, select_a_moment, until_listening

CONFIG = HEAD + BUILTIN + synthetic("ours")
MAY_ASK = f'[[allow]]\nuid = {os.getuid()}\nhelpers = ["synthetic"]\n'


def until(true: Callable[[], object], what: str) -> None:
    for _ in range(int(HANGS_S * 100)):
        if true():
            return
        select_a_moment()
    raise AssertionError(f"never: {what}")


def put_away(rundir: Path, config: str = CONFIG) -> None:
    """Let a daemon that ends in order remove what one that died has left."""
    with daemon(rundir, config) as rig:
        rig.wait_running()


# --- ended by a signal ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS],
    ids=["KILL", "SEGV", "ABRT", "BUS"],
)
def test_a_supervisor_that_a_signal_ends_leaves_a_line_that_says_so(rundir: Path, number: int) -> None:
    log = rundir / "log.of.the.dead"
    with daemon(rundir, CONFIG, ends_with=None, log=log) as rig:
        supervisor = rig.wait_running()["pid"]
        os.kill(supervisor, number)
        assert rig.process.wait(HANGS_S) == 128 + number
    put_away(rundir)
    (line,) = (line for line in log.read_text().splitlines() if "ended by signal" in line)
    assert line.startswith(f"helperd-launcher: the supervisor was ended by signal {int(number)} (")


def test_one_that_is_told_to_end_leaves_no_such_line(rundir: Path) -> None:
    with daemon(rundir, CONFIG) as rig:
        rig.wait_running()
        os.kill(rig.status()["pid"], signal.SIGTERM)
        assert rig.process.wait(HANGS_S) == 0
    assert "ended by signal" not in (rundir / "log").read_text()


# --- closed descriptors ---------------------------------------------------------------------------------------


def closed(words: str, *argv: str) -> list[str]:
    """A command line with some of its standard descriptors closed."""
    return ["/bin/sh", "-c", f'exec "$@" {words}', "sh", *argv]


EVERY = "0<&- 1>&- 2>&-"


@pytest.mark.parametrize("words", ["0<&-", "1>&-", "2>&-", EVERY])
def test_it_runs_whatever_descriptors_are_closed(rundir: Path, words: str) -> None:
    file = rundir / "helpers.toml"
    file.write_text(CONFIG)
    argv = closed(words, *HELPERD, "run", f"--runtime-dir={rundir}", "-c", str(file))
    environment = {**os.environ, "HELPERD_UNPRIVILEGED": "1"}
    with subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.DEVNULL, env=environment) as process:
        rig = Rig(process, rundir)
        try:
            until_listening(rig)
            status = rig.wait_running()
            assert status["sources"][0]["pid"] > 0
            with rig.connect() as reader:
                assert reader.recv(4) == b"\x0a\x0d\x0d\x0a"
        finally:
            process.terminate()
        assert process.wait(HANGS_S) == 0


def test_commands_work_whatever_descriptors_are_closed(rundir: Path, tmp_path: Path) -> None:
    with daemon(rundir, CONFIG) as rig:
        rig.wait_running()
        where = f"--runtime-dir={rundir}"
        file = tmp_path / "x.pcapng"
        for argv in (
            ["status", where],
            ["tap", "ours", "-c", "3", "-w", str(file), where],
            ["check", str(rundir / "helpers.toml")],
        ):
            done = subprocess.run(closed(EVERY, *HELPERD, *argv), cwd=ROOT, timeout=HANGS_S, check=False)
            assert done.returncode == 0, argv
        assert file.read_bytes().startswith(b"\x0a\x0d\x0d\x0a")


# --- the daemon dies under its readers ------------------------------------------------------------------------


@contextlib.contextmanager
def reader_of(rundir: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    argv = [*HELPERD, *words, f"--runtime-dir={rundir}"]
    with subprocess.Popen(
        argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("victim", ["supervisor", "launcher"])
def test_who_reads_from_a_daemon_that_dies_ends_with_69(rundir: Path, tmp_path: Path, victim: str) -> None:
    packets, reports = tmp_path / "x.pcapng", tmp_path / "x.jsonl"
    config = CONFIG + helper("bad", "chatter")
    config += '[[source]]\nname = "chatter"\ndefinition = "bad0:type=bad"\n'
    with contextlib.ExitStack() as stack, daemon(rundir, config, ends_with=None) as rig:
        pid = rig.wait_running()["pid"] if victim == "supervisor" else rig.process.pid
        readers = {
            "tap": stack.enter_context(reader_of(rundir, "tap", "ours", "-w", str(packets))),
            "tap --jsonl": stack.enter_context(
                reader_of(rundir, "tap", "ours", "--jsonl", "-w", str(reports))
            ),
            "messages": stack.enter_context(reader_of(rundir, "messages", "--follow")),
        }
        until(lambda: packets.exists() and packets.stat().st_size > 5000, "packets are written")
        rig.wait(lambda now: len(now["consumers"]) == 2)
        assert readers["messages"].stdout
        assert "chatter" in readers["messages"].stdout.readline()
        os.kill(pid, signal.SIGKILL)
        for name, reader in readers.items():
            _, said = reader.communicate(timeout=HANGS_S)
            assert reader.returncode == 69, (name, said)
            if name == "tap":  # the others may be at their start still
                assert "no-daemon: the daemon has died" in said, said
                assert said.endswith("what was written is whole\n"), said
        rig.process.wait(HANGS_S)
    put_away(rundir, config)


def test_a_daemon_that_has_taken_the_place_of_a_dead_one_is_not_taken_for_it(
    rundir: Path, tmp_path: Path
) -> None:
    file = tmp_path / "x.pcapng"
    with contextlib.ExitStack() as stack:
        with daemon(rundir, CONFIG, ends_with=None) as rig:
            supervisor = rig.wait_running()["pid"]
            reader = stack.enter_context(reader_of(rundir, "tap", "ours", "-w", str(file)))
            until(lambda: file.exists() and file.stat().st_size > 5000, "packets are written")
            reader.send_signal(signal.SIGSTOP)
            until(lambda: state_of(reader.pid) == "T", "the reader stands still")
            os.kill(supervisor, signal.SIGKILL)
            rig.process.wait(HANGS_S)
        with daemon(rundir, CONFIG) as rig:
            rig.wait_running()
            reader.send_signal(signal.SIGCONT)
            _, said = reader.communicate(timeout=HANGS_S)
    assert reader.returncode == 69
    assert "the daemon has died" in said


# --- an end that somebody holds up ----------------------------------------------------------------------------


def ended(pid: int) -> bool:
    """Whether a process is over; its parent may not be able to reap it."""
    return gone(pid) or state_of(pid) == "Z"


def test_a_supervisor_ends_although_the_launcher_stands_still(rundir: Path, tmp_path: Path) -> None:
    sink = f'[[sink]]\ntype = "file"\npath = "{tmp_path}/x.pcapng"\n'
    config = CONFIG + helper("bad", "ignore-term") + sink
    config += '[[source]]\nname = "theirs"\ndefinition = "bad0:type=bad,rate=200"\n'
    with daemon(rundir, config, ends_with=None) as rig:
        supervisor = rig.wait_running()["pid"]
        helpers = [pid for pid in below(rig.process.pid) if pid != supervisor]
        until(lambda: any(tmp_path.glob("x*")), "the file is begun")
        rig.process.send_signal(signal.SIGSTOP)
        try:
            with promptly("the end of the supervisor", 15.0):
                os.kill(supervisor, signal.SIGTERM)
                until(lambda: ended(supervisor), "the supervisor ends")
            assert not list(tmp_path.glob("*.part")), "files are whole"
            assert not (rundir / "control.sock").exists()
        finally:
            rig.process.send_signal(signal.SIGCONT)
        assert rig.process.wait(HANGS_S) == 69
        assert all(map(gone, helpers))
    assert "theirs (" in (rundir / "log").read_text()
    assert "left to the launcher" in (rundir / "log").read_text()


def test_the_launcher_ends_although_the_supervisor_stands_still(rundir: Path) -> None:
    log = rundir / "log.of.the.dead"
    with daemon(rundir, CONFIG, ends_with=None, log=log) as rig:
        supervisor = rig.wait_running()["pid"]
        others = below(rig.process.pid)
        os.kill(supervisor, signal.SIGSTOP)
        with promptly("the end of the launcher", 15.0):
            rig.process.terminate()
            assert rig.process.wait(HANGS_S) == 128 + signal.SIGKILL
        assert all(map(gone, others))
    put_away(rundir)
    assert "the supervisor was ended by signal 9 (" in log.read_text()


@pytest.mark.parametrize("unit", ["helperd.service", "helperd-launcher.service"])
def test_all_patience_together_is_less_than_the_units(unit: str) -> None:
    """One that stands still is waited for, and killed, before the service manager kills all of us."""
    text = (ROOT / "packaging" / unit).read_text()
    (patience,) = re.findall(r"(?m)^TimeoutStopSec=(\d+)s$", text)
    ours = STOP_S + FLUSH_S + FILE_FLUSH_S + GIVEN_UP_S
    assert ours + 0.2 < END_S, "the supervisor says what is left before it is killed"
    assert int(patience) > END_S + 0.4, "its helpers are killed, and the launcher ends"


def test_a_supervisor_ends_although_an_installed_launcher_stands_still(rundir: Path) -> None:
    file = rundir / "helpers.toml"
    file.write_text(CONFIG + MAY_ASK)
    socket = rundir / "launcher.sock"
    environment = {**os.environ, "HELPERD_UNPRIVILEGED": "1"}
    argv = [*HELPERD, "launcher", "-c", str(file), "--listen", str(socket)]
    with subprocess.Popen(argv, cwd=ROOT, env=environment) as launcher:
        try:
            until(socket.exists, "the launcher listens")
            with daemon(rundir, file, f"--launcher={socket}", ends_with=None) as rig:
                rig.wait_running()
                launcher.send_signal(signal.SIGSTOP)
                with promptly("the end of the supervisor", 15.0):
                    rig.process.send_signal(signal.SIGTERM)
                    assert rig.process.wait(HANGS_S) == 69
                launcher.send_signal(signal.SIGCONT)
        finally:
            launcher.send_signal(signal.SIGCONT)
            launcher.terminate()
            launcher.wait(HANGS_S)


def test_a_supervisor_ends_although_the_kernel_holds_a_helper(rundir: Path) -> None:
    with group("freezer", "helperd-held") as (folder,):
        freezer = Freezer(folder)
        with daemon(rundir, CONFIG, ends_with=None) as rig:
            status = rig.wait_running()
            pid = status["sources"][0]["pid"]
            (folder / "cgroup.procs").write_text(str(pid))
            freezer.freeze()
            thaw = threading.Timer(HANGS_S, freezer.thaw)
            thaw.start()
            try:
                with promptly("the end of the supervisor", 15.0):
                    os.kill(status["pid"], signal.SIGTERM)
                    until(lambda: ended(status["pid"]), "the supervisor ends")
                assert rig.process.wait(HANGS_S) == 69
            finally:
                thaw.cancel()
                freezer.thaw()
            until(lambda: gone(pid) or state_of(pid) == "Z", "the helper is dead once it may be")
    assert "ours (wait)" in (rundir / "log").read_text()
