"""The trio side of the launcher's socket, against real launchers."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from helperd import config
from helperd.config.request import EMPTY, EXITED, LAUNCH, MAGIC, PING, WIRE
from helperd.errors import LauncherGone, LaunchFailed, RequestRefused
from helperd.launcher import REFUSALS, Exit, connect_launcher, open_launcher, own_launcher
from helperd.sandbox import processes
from tests.patience import HANGS_S

CONFIG = """
[[helper]]
name = "cat"
command = ["/bin/sh", "-c", "cat <&3 >&4"]
[[helper]]
name = "raw"
command = ["/bin/true"]
capabilities = ["mac_admin", "sys_resource"]
[[helper]]
name = "missing"
command = ["/nonexistent"]
[[helper]]
name = "true"
command = ["/bin/true"]
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "helpers.toml"
    path.write_text(CONFIG)
    return str(path)


@contextmanager
def pipes() -> Iterator[tuple[tuple[int, int, int], int, int]]:
    """Three descriptors for a helper, and our ends of the first two."""
    (i, write), (read, o) = os.pipe(), os.pipe()
    null, err = os.pipe()
    try:
        yield (i, o, err), write, read
    finally:
        for fd in (i, o, err, null, write, read):
            os.close(fd)


async def test_a_helper_is_launched_talked_to_and_killed(file: str):
    with trio.fail_after(HANGS_S):
        async with own_launcher(file) as launcher:
            assert launcher.profiles == 4
            with pipes() as (fds, write, read):
                async with await launcher.launch(1, fds) as process:
                    assert process.pid > 0
                    os.write(write, b"hello")
                    await trio.lowlevel.wait_readable(read)
                    assert os.read(read, 99) == b"hello"
                    await process.kill()
                    assert await process.exited() == Exit("signal", signal.SIGKILL)
                    await process.empty()


async def test_leaving_a_process_kills_it(file: str):
    with trio.fail_after(HANGS_S):
        async with own_launcher(file) as launcher:
            with pipes() as (fds, _, _):
                async with await launcher.launch(1, fds) as process:
                    pass
            assert await process.exited() == Exit("signal", signal.SIGKILL)


async def test_signals_to_what_has_ended_are_no_error_and_odd_ones_are_refused(file: str):
    with trio.fail_after(HANGS_S):
        async with own_launcher(file) as launcher:
            with pipes() as (fds, _, _):
                async with await launcher.launch(4, fds) as process:
                    assert await process.exited() == Exit("exited", 0)
                    await process.empty()
                    await process.signal(signal.SIGTERM)
            with pipes() as (fds, _, _):
                async with await launcher.launch(1, fds) as process:
                    with pytest.raises(RequestRefused):
                        await process.signal(signal.SIGSTOP)


async def test_a_refusal_names_the_helper_and_the_fix(file: str):
    settings = config.load(file)
    with trio.fail_after(HANGS_S):
        async with own_launcher(file, settings=settings) as launcher:
            with pipes() as (fds, _, _):
                with pytest.raises(LaunchFailed) as refused:
                    await launcher.launch(2, fds)
                assert refused.value.problem == "no-capability"
                assert refused.value.text.startswith("raw needs ")
                assert "sys_resource" in refused.value.text
                assert ("root does not have" if os.geteuid() == 0 else "--unprivileged") in refused.value.text
                with pytest.raises(LaunchFailed) as refused:
                    await launcher.launch(3, fds)
                assert (refused.value.problem, "missing (/nonexistent)" in refused.value.text) == (
                    "not-installed",
                    True,
                )
                with pytest.raises(LaunchFailed):
                    await launcher.launch(9, fds)


async def test_a_reload_gives_a_new_fingerprint_and_bad_files_change_nothing(file: str):
    with trio.fail_after(HANGS_S):
        async with own_launcher(file) as launcher:
            before, settings = launcher.fingerprint, config.load(file)
            with pytest.raises(RequestRefused) as refused:
                await launcher.refresh(settings)
            assert refused.value.problem == "busy"
            await trio.Path(file).write_text(CONFIG.replace('"cat"', '"dog"'))
            await trio.sleep(1.05)
            with pytest.raises(
                RequestRefused, match=r"has read another configuration than .*helpers\.toml is now"
            ):
                await launcher.refresh(settings)
            await trio.sleep(1.05)
            await launcher.refresh(config.load(file))
            assert launcher.fingerprint != before
            assert (launcher.mode, launcher.containment) == ("unprivileged", "ancestry")


async def test_when_the_launcher_dies_every_wait_says_so(file: str):
    with trio.fail_after(HANGS_S):
        async with own_launcher(file) as launcher:
            with pipes() as (fds, _, _):
                async with await launcher.launch(1, fds) as process:
                    parent = processes.row(process.pid)
                    assert parent
                    os.kill(parent.parent, signal.SIGKILL)
                    await launcher.gone()
                    for wait in (process.exited, process.empty, process.kill):
                        with pytest.raises(LauncherGone):
                            await wait()
                    with pytest.raises(LauncherGone):
                        await launcher.launch(1, fds)


async def test_cancelled_launches_leave_no_process(file: str):
    with trio.fail_after(HANGS_S):
        async with own_launcher(file) as launcher:
            with pipes() as (fds, _, _):
                with trio.CancelScope() as scope:
                    scope.cancel()
                    async with await launcher.launch(1, fds) as process:
                        await trio.sleep_forever()
                assert await process.exited() == Exit("signal", signal.SIGKILL)


async def test_events_that_overtake_the_caller_are_not_lost():
    """A fake launcher answers and reports the end in one breath."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pidfd = os.pidfd_open(os.getpid())

    def answer() -> None:
        data = theirs.recv(64)
        theirs.send(WIRE.pack(MAGIC, PING | 0x80, 0, 0, 1, 77, WIRE.unpack(data)[6]))
        data = theirs.recv(64)
        socket.send_fds(theirs, [WIRE.pack(MAGIC, LAUNCH | 0x80, 1, 0, 5, 0, WIRE.unpack(data)[6])], [pidfd])
        theirs.send(WIRE.pack(MAGIC, EXITED, 0, 0, 5, 3, 0))
        theirs.send(WIRE.pack(MAGIC, EMPTY, 0, 0, 5, 0, 0))

    with theirs, trio.fail_after(HANGS_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, answer)
            async with open_launcher(ours.detach()) as launcher:  # noqa: SIM117 - the second needs the first
                async with await launcher.launch(1, (0, 1)) as process:
                    assert await process.exited() == Exit("exited", 3)
                    await process.empty()
                    assert process.pid == os.getpid()
    os.close(pidfd)


async def test_our_own_standstill_is_not_held_against_the_launcher(monkeypatch: pytest.MonkeyPatch):
    """It answers while this process stands still for longer than an answer may take."""
    monkeypatch.setattr("helperd.launcher.REPLY_S", 0.4)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    asked = threading.Event()

    def answer() -> None:
        for number in (1, 2):
            data = theirs.recv(64)
            if number == 2:
                asked.set()
                standing.wait(HANGS_S)
            theirs.send(WIRE.pack(MAGIC, PING | 0x80, 3, 0, number, 77, WIRE.unpack(data)[6]))

    standing = threading.Event()

    async def stand_still() -> None:
        while not asked.is_set():  # noqa: ASYNC110 - another thread sets it
            await trio.sleep(0.001)
        standing.set()
        time.sleep(0.6)  # noqa: ASYNC251 - the loop, and whatever waits in it

    with theirs, trio.fail_after(HANGS_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, answer)
            async with open_launcher(ours.detach()) as launcher:
                assert (launcher.profiles, launcher.mode, launcher.containment) == (1, "root", "cgroup")
                nursery.start_soon(stand_still)
                await launcher.refresh()
                assert launcher.profiles == 2


def test_nobody_listens(tmp_path: Path):
    with pytest.raises(LauncherGone, match=r"helperd launcher --listen"):
        connect_launcher(str(tmp_path / "none"))


def test_every_refusal_has_a_word_that_is_listed():
    from helperd.errors import PROBLEMS

    assert {word for word, _ in REFUSALS.values()} <= set(PROBLEMS)
    assert sys.platform == "linux"
