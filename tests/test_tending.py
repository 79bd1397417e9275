"""Tasks that end unasked: told, shown in the health, begun again; and nobody else ends with them."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import subprocess
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from helperd.bell import Bell
from helperd.config.sinks import SinkSpec
from helperd.logs import Log
from helperd.routing import RouteTable
from helperd.sinks.file import FileSink
from helperd.table import render, summary
from helperd.tending import CALM_S, FIRST_S, MOST_S, Tending
from tests.control.fake import FakeDaemon, Wire, served
from tests.patience import HANGS_S
from tests.rig import HELPERD, ROOT, Rig, until_listening


class Heard:
    def __init__(self) -> None:
        self.bugs: list[BaseException] = []
        self.said: list[str] = []
        self.changes = 0
        self.tending = Tending(self.bug, lambda _severity, text: self.said.append(text), self.changed)

    def bug(self, _who: str, error: BaseException) -> None:
        self.bugs.append(error)

    def changed(self) -> None:
        self.changes += 1


async def fails() -> None:
    raise ValueError("three")


async def returns() -> None:
    await trio.lowlevel.checkpoint()


async def fails_inside() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        nursery.start_soon(fails)


async def has_no_thread() -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize(
    ("work", "why", "bugs"),
    [(fails, "ValueError: three", 1), (fails_inside, "ValueError: three", 1), (returns, "nobody had asked", 0),
     (has_no_thread, "can't start new thread", 1)],
)  # fmt: skip
async def test_whatever_ends_it_it_is_told_and_begun_again(autojump_clock, work, why, bugs) -> None:
    heard, begun, here = Heard(), [], trio.Event()

    async def task() -> None:
        begun.append(trio.current_time())
        if len(begun) <= 3:
            await work()
            return
        here.set()
        await trio.sleep_forever()

    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(heard.tending.keep, "work", task)
            await trio.sleep(FIRST_S / 2)
            found = heard.tending.troubles(trio.current_time())
            assert [(each["source"], each["state"], each["problem"]) for each in found] == [
                ("work", "backoff", "bug")
            ]
            assert why in found[0]["text"]
            await here.wait()
            assert [round(later - before) for before, later in pairwise(begun)] == [1, 2, 4]
            assert len(heard.said) == 3
            assert all(text.startswith("work: ") and why in text for text in heard.said)
            assert len(heard.bugs) == 3 * bugs
            assert heard.changes >= 6
            assert heard.tending.troubles(trio.current_time())[0]["state"] == "running"
            await trio.sleep(CALM_S)
            assert heard.tending.troubles(trio.current_time()) == []
            nursery.cancel_scope.cancel()


async def test_it_may_end_when_asked_and_pauses_are_bounded(autojump_clock) -> None:
    heard = Heard()
    with trio.fail_after(1000):
        await heard.tending.keep("work", returns, lambda: True)
        await heard.tending.keep("work", fails, lambda: True)
    assert heard.said == []
    ends = 0

    async def task() -> None:
        nonlocal ends
        ends += 1
        raise ValueError

    began = trio.current_time()
    with trio.fail_after(1000):
        await heard.tending.keep("work", task, lambda: ends == 12)
    assert trio.current_time() - began == FIRST_S * (1 + 2 + 4 + 8 + 16 + 32) + 5 * MOST_S


# a sink of files


async def until(true: Callable[[], object]) -> None:
    """Wait for what a thread does."""
    while not true():  # noqa: ASYNC110 - nothing rings when a sink says something
        await trio.sleep(0.001)


def file_sink(tmp_path: Path, said: list[str], bugs: list[BaseException], **settings: object) -> FileSink:
    spec = SinkSpec(path=str(tmp_path / "all.pcapng"), type="file", **settings)  # type: ignore[arg-type]
    return FileSink(
        spec, RouteTable(), b"", on_room=Bell(), on_connect=lambda _: None, on_change=lambda: None,
        on_bug=bugs.append, say=lambda severity, text: said.append(f"{severity}: {text}"),
    )  # fmt: skip


@pytest.mark.parametrize("policy", ["drop", "stop"])
async def test_a_sink_without_a_thread_is_failed_and_goes_on_when_there_is_one(
    tmp_path, monkeypatch, policy
) -> None:
    said: list[str] = []
    bugs: list[BaseException] = []
    sink = file_sink(tmp_path, said, bugs, disk_full=policy)
    real = trio.to_thread.run_sync

    async def none(*_args: object, **_options: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(trio.to_thread, "run_sync", none)
    monkeypatch.setattr("helperd.sinks.file.RETRY_S", 0.01)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.serve)
        await until(lambda: said)
        assert sink.state == "failed"
        assert sink.error is not None
        assert sink.error.problem == "no-resources"
        assert "no thread can be started" in said[0]
        assert sink.consumers == [sink]
        monkeypatch.setattr(trio.to_thread, "run_sync", real)
        await until(lambda: sink.error is None)
        assert sink.state != "stopped"
        assert "can be written again" in said[1]
        assert bugs == []
        sink.finish()


@pytest.mark.parametrize("step", ["prepare", "tick", "turn"])
async def test_a_bug_in_a_sink_is_a_trouble_and_is_tried_again(tmp_path, monkeypatch, step) -> None:
    said: list[str] = []
    bugs: list[BaseException] = []
    sink = file_sink(tmp_path, said, bugs)
    monkeypatch.setattr("helperd.sinks.file.RETRY_S", 0.01)
    real, once = getattr(sink._files, step), [ZeroDivisionError("ours")]

    class Files:
        def __getattr__(self, name: str) -> object:
            if name == step and once:
                raise once.pop()
            return real if name == step else getattr(files, name)

    files, sink._files = sink._files, Files()  # type: ignore[assignment]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.serve)
        if step == "turn":
            await trio.testing.wait_all_tasks_blocked(0.05)
            sink.finish()
        await until(lambda: bugs)
        if step != "turn":
            await until(lambda: len(said) == 2)
            assert "an error of helperd's own" in said[0]
            assert "can be written again" in said[1]
            assert (sink.error, sink.over) == (None, False)
            sink.finish()
    assert [type(bug) for bug in bugs] == [ZeroDivisionError]


# the control server, the log


async def test_a_bug_in_the_control_server_goes_to_the_daemon(rundir: Path) -> None:
    found: list[tuple[str, BaseException]] = []
    daemon = FakeDaemon()
    daemon.failure = ZeroDivisionError("ours")
    async with served(rundir, daemon, on_bug=lambda *bug: found.append(bug)) as service:
        stream = await trio.open_unix_socket(str(rundir / "control.sock"))
        async with stream:
            wire = Wire(stream)
            await wire.send({"method": "io.helperd.Stop", "parameters": {"source": "radio0"}})
            assert (await wire.message())["error"] == "io.helperd.Failed"
    assert [(who, type(error)) for who, error in found] == [("control", ZeroDivisionError)]
    _ = service


async def test_the_control_server_accepts_again_after_an_error(rundir: Path, monkeypatch) -> None:
    heard, real, once = Heard(), trio.SocketListener.accept, [ValueError("ours")]

    async def accept(self: trio.SocketListener) -> trio.SocketStream:
        if once:
            raise once.pop()
        return await real(self)

    monkeypatch.setattr(trio.SocketListener, "accept", accept)
    async with served(rundir, FakeDaemon(), tend=heard.tending.keep):
        stream = await trio.open_unix_socket(str(rundir / "control.sock"))
        async with stream:
            wire = Wire(stream)
            await wire.send({"method": "io.helperd.ListSources"})
            assert "parameters" in await wire.message()
    assert "the control server: an error of helperd's own: ValueError: ours" in heard.said[0]


def test_a_bug_in_the_logs_thread_costs_a_line(tmp_path: Path, monkeypatch) -> None:
    with (tmp_path / "log").open("wb") as file:
        log = Log(file.fileno(), form="json")
        real, once = log._send, [ZeroDivisionError("ours")]
        told = threading.Event()

        def send(line: object) -> bool:
            if once:
                told.set()
                raise once.pop()
            return real(line)  # type: ignore[arg-type]

        monkeypatch.setattr(log, "_send", send, raising=False)
        log.info("first")
        assert told.wait(10)
        log.info("second")
        assert log.close()
    assert "second" in (tmp_path / "log").read_text()
    assert log.counts.lost == 1


# a whole daemon


FAULTS = [  # file, the line before which it fails once, what is named; and once for what, and when
    ("gather.py", "self.turns += 1", "the reading of helpers", "0", "True"),
    ("source.py", "try:\n                await self._live_on()", "source radio0", "self.name", "True"),
    ("tuning.py", "found = {source.name: source for", "tuning", "0", "True"),
    ("hotplug.py", "while not set(self._paths())", "the watch for devices", "0", "True"),
    ("supervisor.py", "trees = await trio.to_thread", "the look at processes", "0", "True"),
    ("supervisor.py", "due = trio.current_time() + HEARTBEAT_S", "the heartbeat", "0", "True"),
    ("sinks/file.py", "self.consumers.append(self)", "FOLDER/all.pcapng", "0", "True"),
    ("sinks/presence.py", "before, self._troubles = self._troubles", "the look at sockets", "0", "True"),
    ("sinks/doorman.py", "for door, _ in self._doors.poll(0)", "the consumer sockets", "0", "True"),
    ("control/room.py", "await self.daemon.wait_change()", "the control server's changes", "0", "True"),
    ("control/room.py", "await self.daemon.wait_message()", "the control server's messages", "0", "True"),
    ("control/server.py", "stream = await listener.accept()", "the control server", "0", "True"),
    ("control/crowd.py", "if not waiting:", "the control server's refusals", "0", "True"),
    ("daemon.py", "before, done = done, self._done()", "the end of streams", "0", "True"),
    ("daemon.py", "self.told_at = now", "the service manager's watchdog", "0", "True"),
    ("view.py", "width, height = shutil", "the live view", "0", "True"),
    ("launcher.py", "space = socket.CMSG_SPACE", "the launcher's reader", "0", "self._tend is not None"),
]
CONFIG = """
[[helper]]
name = "synthetic"
command = ["builtin:synthetic"]
types = ["synthetic"]
[[source]]
definition = "radio0:type=synthetic,rate=20"
[[service]]
name = "exporter"
command = ["builtin:exporter", "--listen=127.0.0.1:0"]
[[sink]]
type = "file"
path = "FOLDER/all.pcapng"
"""


def faulty(folder: Path) -> None:
    """A copy of the package in which each of these fails once."""
    shutil.copytree(ROOT / "helperd", folder / "helperd", ignore=shutil.ignore_patterns("__pycache__"))
    for number, (file, line, _name, once_for, when) in enumerate(FAULTS):
        path = folder / "helperd" / file
        text = path.read_text()
        assert text.count(line) == 1, (file, line)
        indent = text[: text.index(line)].rpartition("\n")[2]
        fault = (
            f"_told = globals().setdefault('_told{number}', set())\n"
            f"{indent}if {when} and {once_for} not in _told:\n"
            f"{indent}    _told.add({once_for})\n"
            f"{indent}    raise ValueError('ours')\n{indent}"
        )
        path.write_text(text.replace(line, fault + line))


def test_whatever_fails_is_named_and_everything_goes_on(rundir: Path, tmp_path: Path) -> None:
    faulty(tmp_path)
    config = rundir / "helpers.toml"
    config.write_text(CONFIG.replace("FOLDER", str(tmp_path)))
    ours, theirs = pty.openpty()  # of its standard output: there is a live view
    argv = [*HELPERD, "run", f"--runtime-dir={rundir}", "-c", str(config)]
    with (rundir / "log").open("wb") as log:
        env = {**os.environ, "HELPERD_UNPRIVILEGED": "1"}
        process = subprocess.Popen(
            argv, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=theirs, stderr=log, env=env
        )
    os.close(theirs)
    screen = threading.Thread(target=drain, args=(ours,))
    screen.start()
    rig = Rig(process, rundir)
    names = {name.replace("FOLDER", str(tmp_path)) for _, _, name, _, _ in FAULTS if name}
    names |= {"service exporter"}
    try:
        until_listening(rig)
        reader = rig.connect()
        told = "an error of helperd's own: ValueError: ours"
        seen: set[str] = set()
        shown = ""

        def all_told(status: dict[str, Any]) -> bool:
            nonlocal shown
            troubles = status["troubles"]
            for row in troubles:
                assert row["problem"] == "bug"
                assert told in row["text"]
            seen.update(row["source"] for row in troubles)
            if troubles:
                assert status["health"] == "degraded"
                shown = "\n".join(render(status, 200)) + summary(status)
                assert all(row["source"] in shown for row in troubles)
            texts = [row["text"] for row in rig.call("GetMessages")["messages"]]
            return names <= {text.partition(f": {told}")[0] for text in texts if told in text}

        rig.wait(all_told)
        assert names <= seen
        health = rig.call("GetHealth")
        assert health["health"] == "degraded"
        status = rig.wait(
            lambda status: (
                not status["troubles"]
                and status["health"] == "ok"
                and status["services"][0]["state"] == "running"
            )
        )
        assert status["bugs"] >= len(names)
        rig.wait_running()
        reader.close()
        with rig.connect() as again:
            assert len(again.recv(100)) > 0
        assert rig.stop() == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        screen.join(HANGS_S)


def drain(fd: int) -> None:
    """Read what comes to a terminal until its other end is gone."""
    with contextlib.suppress(OSError):
        while os.read(fd, 1 << 16):
            pass
    os.close(fd)


async def test_a_call_that_keeps_failing_comes_ever_more_seldom(autojump_clock) -> None:
    heard = Heard()
    calls: list[float] = []
    bad = True

    def work() -> None:
        calls.append(trio.current_time())
        if bad:
            raise ValueError("three")

    for _ in range(80):
        heard.tending.call("the look", work)
        await trio.sleep(0.1)
    assert [round(later - before) for before, later in pairwise(calls)] == [1, 2, 4]
    assert heard.tending.troubles(trio.current_time())[0]["state"] == "backoff"
    bad = False
    for _ in range(100):
        heard.tending.call("the look", work)
        await trio.sleep(0.1)
    assert heard.tending.troubles(trio.current_time())[0]["state"] == "running"
    await trio.sleep(CALM_S)
    assert heard.tending.troubles(trio.current_time()) == []
    assert len(heard.bugs) == len(heard.said) == 4


async def test_what_is_everybodys_end_is_not_kept(autojump_clock) -> None:
    heard = Heard()
    with pytest.raises(ExceptionGroup) as ended:
        await heard.tending.keep(
            "work", fails_inside, ends_all=lambda error: "three" in str(error.exceptions)
        )
    assert ended.group_contains(ValueError, match="three")
    assert heard.said == []


async def test_a_thing_to_be_done_once_is_tried_until_it_is(autojump_clock) -> None:
    heard = Heard()
    tries = 0

    async def work() -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            await fails()

    await heard.tending.once("work", work)
    assert (tries, len(heard.bugs)) == (3, 2)
