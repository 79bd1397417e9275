"""Tasks that end unasked: told, shown in the health, begun again; and nobody else ends with them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import trio
import trio.testing

from helperd.bell import Bell
from helperd.config.sinks import SinkSpec
from helperd.logs import Log
from helperd.routing import RouteTable
from helperd.sinks.file import FileSink
from helperd.tending import CALM_S, FIRST_S, MOST_S, Tending
from tests.control.fake import FakeDaemon, Wire, served


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

    async with trio.open_nursery() as nursery:
        nursery.start_soon(heard.tending.keep, "work", task)
        while not heard.said:
            await trio.lowlevel.checkpoint()
        (trouble,) = heard.tending.troubles(trio.current_time())
        assert (trouble["source"], trouble["state"], trouble["problem"]) == ("work", "backoff", "bug")
        assert why in trouble["text"]
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
    await heard.tending.keep("work", returns, lambda: True)
    await heard.tending.keep("work", fails, lambda: True)
    assert heard.said == []
    ends = 0

    async def task() -> None:
        nonlocal ends
        ends += 1
        raise ValueError

    began = trio.current_time()
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
