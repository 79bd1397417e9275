"""Sockets and directories that somebody removes, as cleaners of temporary files do, from under a real daemon."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helperd.control.client import Client
from helperd.errors import UnavailableError
from tests.faults.stage import BUILTIN, HEAD
from tests.faults.test_surroundings import synthetic
from tests.patience import HANGS_S
from tests.rig import HELPERD, ROOT, Rig, Stream, daemon, select_a_moment

CONFIG = HEAD + BUILTIN + synthetic("ours")
MAY_ASK = f'[[allow]]\nuid = {os.getuid()}\nhelpers = ["synthetic"]\n'
MAGIC = b"\x0a\x0d\x0d\x0a"


@contextlib.contextmanager
def running(rundir: Path, more: str = "") -> Iterator[Rig]:
    """A daemon whose runtime directory holds nothing but what it has made itself."""
    file = rundir / "helpers.toml"
    file.write_text(CONFIG + more)
    runtime = rundir / "run"
    runtime.mkdir()
    with daemon(runtime, file, log=rundir / "log") as rig:
        rig.wait_running()
        yield rig
    shutil.rmtree(runtime)


def answers(path: Path) -> bool:
    """Whether somebody serves packets there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(HANGS_S)
        try:
            sock.connect(str(path))
        except OSError:
            return False
        return sock.recv(4) == MAGIC


def until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + HANGS_S
    while not true():
        assert time.monotonic() < deadline, f"never: {what}"
        select_a_moment()


def asked(rig: Rig, method: str) -> dict:
    """Ask, once the control socket is there again."""
    deadline = time.monotonic() + HANGS_S
    while True:
        try:
            return rig.call(method)
        except UnavailableError:
            assert time.monotonic() < deadline
            select_a_moment()


def told(rig: Rig) -> list[str]:
    return [row["text"] for row in asked(rig, "GetMessages")["messages"] if row["source"] == "helperd"]


def is_well(rig: Rig) -> bool:
    return asked(rig, "GetHealth") == {"health": "ok", "troubles": []}


def test_sockets_that_are_removed_come_back_and_open_readers_go_on(rundir: Path) -> None:
    with running(rundir) as rig, contextlib.ExitStack() as stack:
        reader = Stream(stack.enter_context(contextlib.closing(rig.connect("all.sock"))))
        client = stack.enter_context(Client(rig.control, timeout_s=HANGS_S))
        assert reader.take(20)
        every = [
            "all.sock",
            "all.frames.sock",
            "sources/ours.sock",
            "control.sock",
        ]  # awake, asleep, and its own
        modes = {name: os.lstat(rig.runtime / name).st_mode for name in every}
        for name in every:
            (rig.runtime / name).unlink()
        until(lambda: answers(rig.runtime / "all.sock"), "a reader may come again")
        until(lambda: answers(rig.runtime / "sources" / "ours.sock"), "also to one that nobody has read from")
        assert {name: os.lstat(rig.runtime / name).st_mode for name in every} == modes
        assert reader.take(20), "who reads goes on"
        assert client.call("GetHealth")["health"] == "ok", "and who asks"
        assert is_well(rig)
        until(lambda: any("made again" in text for text in told(rig)), "it is told")
        assert all(name in " ".join(told(rig)) for name in every)


@pytest.mark.parametrize("what", ["sources", "."])
def test_directories_that_are_removed_come_back_with_all_that_is_in_them(rundir: Path, what: str) -> None:
    with running(rundir) as rig, contextlib.closing(rig.connect("all.sock")) as sock:
        reader = Stream(sock)
        before = sorted(str(path.relative_to(rig.runtime)) for path in rig.runtime.rglob("*.sock"))
        shutil.rmtree(rig.runtime / what)
        until(lambda: answers(rig.runtime / "sources" / "ours.sock"), "the sockets are there")
        until(lambda: answers(rig.runtime / "all.sock"), "the sockets are there")
        assert reader.take(20)
        assert is_well(rig)
        now = sorted(str(path.relative_to(rig.runtime)) for path in rig.runtime.rglob("*.sock"))
        assert now == before
        assert any("made again" in text for text in told(rig))
        added = rig.call("AddSource", definition="radio1:type=synthetic,rate=200", name="later")
        assert added["source"]["state"] == "running"
        assert answers(rig.runtime / "sources" / "later.sock")


def test_a_directory_that_something_is_mounted_over(rundir: Path, need) -> None:
    """As when a container's /run is replaced: the sockets are there, and nobody can see them."""
    need("root", "mountns")
    with running(rundir) as rig:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "x", str(rig.runtime)], check=False, timeout=HANGS_S
        )
        if mounted.returncode:
            pytest.skip("nothing can be mounted here")
        try:
            until(lambda: answers(rig.runtime / "all.sock"), "the sockets are where they can be seen")
            assert is_well(rig)
        finally:
            subprocess.run(["umount", "-l", str(rig.runtime)], check=True, timeout=HANGS_S)
        until(lambda: answers(rig.runtime / "all.sock"), "and again when they have been uncovered")
        assert is_well(rig)


def trouble(rig: Rig, word: str) -> dict:
    """Wait for the one trouble there is to be."""
    deadline = time.monotonic() + HANGS_S
    while True:
        health = asked(rig, "GetHealth")
        if health["troubles"]:
            (row,) = health["troubles"]
            assert (health["health"], row["problem"]) == ("degraded", word), row
            return row
        assert time.monotonic() < deadline
        select_a_moment()


def test_a_place_that_is_gone_is_a_trouble_until_it_is_there_again(rundir: Path) -> None:
    place = rundir / "elsewhere"
    place.mkdir()
    path = place / "own.sock"
    with running(rundir, f'[[sink]]\npath = "{path}"\n') as rig:
        assert answers(path)
        shutil.rmtree(place)
        row = trouble(rig, "sink-failed")
        assert row["source"] == str(path)
        assert "No such file or directory" in row["text"]
        place.mkdir()
        until(lambda: answers(path), "it listens there again")
        until(lambda: is_well(rig), "all is well")
        assert sum("cannot be made again" in text for text in told(rig)) == 1, "it is told once"


@pytest.mark.parametrize("by", ["a file", "a socket"])
def test_a_place_that_somebody_else_has_taken_is_left_to_them(rundir: Path, by: str) -> None:
    with running(rundir) as rig, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as theirs:
        path = rig.runtime / "all.sock"
        path.unlink()
        if by == "a file":
            path.write_text("mine")
        else:
            theirs.bind(str(path))
            theirs.listen(100)
        row = trouble(rig, "sink-failed" if by == "a file" else "socket-in-use")
        assert row["source"] == str(path)
        path.unlink()
        theirs.close()
        until(lambda: answers(path), "it is ours again")
        until(lambda: is_well(rig), "all is well")


def test_a_directory_that_cannot_be_made_again_is_told_with_the_cure(rundir: Path) -> None:
    """A file in its place; for a daemon without root, /run itself would be such a place."""
    with running(rundir) as rig, Client(rig.control, timeout_s=HANGS_S) as client:
        shutil.rmtree(rig.runtime)
        rig.runtime.write_text("in the way")
        row = None
        deadline = time.monotonic() + HANGS_S
        while row is None and time.monotonic() < deadline:
            row = next(iter(client.call("GetHealth")["troubles"]), None)
        assert row is not None
        assert (row["source"], row["problem"]) == (str(rig.runtime), "no-runtime-dir")
        assert f"-m 755 {rig.runtime}, or restart helperd" in row["text"]
        rig.runtime.unlink()
        until(lambda: answers(rig.runtime / "all.sock"), "it is made as soon as it can be")
        assert is_well(rig)


def test_a_stop_leaves_nothing_behind_after_all_that(rundir: Path) -> None:
    file = rundir / "helpers.toml"
    file.write_text(CONFIG)
    runtime = rundir / "run"
    with daemon(runtime, file, log=rundir / "log") as rig:
        rig.wait_running()
        shutil.rmtree(runtime)
        until(lambda: answers(runtime / "all.sock"), "all is there again")
    assert not runtime.exists()


@contextlib.contextmanager
def a_launcher(rundir: Path, path: Path, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """One that listens there, for whoever is this user."""
    file = rundir / "launcher.toml"
    file.write_text(CONFIG + MAY_ASK)
    argv = [*HELPERD, "launcher", "-c", str(file), "--listen", str(path)]
    environment = {**os.environ, "HELPERD_UNPRIVILEGED": "1", **more}
    with subprocess.Popen(argv, cwd=ROOT, env=environment) as launcher:
        try:
            until(path.exists, "the launcher listens")
            yield launcher
        finally:
            launcher.terminate()
            assert launcher.wait(HANGS_S) == 0


def test_the_socket_of_a_launcher_comes_back(rundir: Path) -> None:
    """Whoever is connected goes on meanwhile."""
    folder = rundir / "place" / "of launchers"
    folder.mkdir(parents=True)
    path = folder / "launcher.sock"
    with a_launcher(rundir, path, WATCHDOG_USEC="200000"), contextlib.ExitStack() as stack:
        mode = path.stat().st_mode
        rigs = []
        for name, gone in (("one", path), ("two", folder), ("three", folder.parent)):
            runtime = rundir / name
            runtime.mkdir()
            rig = stack.enter_context(daemon(runtime, rundir / "launcher.toml", f"--launcher={path}"))
            rigs.append(rig)
            rig.wait_running()
            path.unlink() if gone == path else shutil.rmtree(gone)
            until(path.exists, "it is there again")
            assert path.stat().st_mode == mode
        for rig in rigs:
            before = rig.status()["sources"][0]["packets"]
            rig.wait(lambda status, before=before: status["sources"][0]["packets"] > before)  # type: ignore[misc]
            assert rig.status()["sources"][0]["incarnation"] == 1


def test_what_somebody_else_has_put_at_a_launchers_name_stays(rundir: Path) -> None:
    path = rundir / "launcher.sock"
    theirs = rundir / "theirs.sock"
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other,
        a_launcher(rundir, path, WATCHDOG_USEC="10000"),
    ):
        other.bind(str(theirs))
        theirs.rename(path)
        inode = path.stat().st_ino
        for _ in range(20):
            select_a_moment()
        assert path.stat().st_ino == inode


def test_a_launcher_whose_socket_is_gone_ends_in_order(rundir: Path) -> None:
    path = rundir / "launcher.sock"
    with a_launcher(rundir, path):
        path.unlink()
