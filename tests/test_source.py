"""A source under a real launcher, in this process: bugs of our own cost it one try, and nobody else anything."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.lowlevel

from helperd import config, vitals
from helperd.incarnation import Incarnation
from helperd.launcher import own_launcher
from helperd.lifecycle import Event, Life, State
from helperd.routing import RouteTable
from helperd.source import Source
from helperd.status import source_status
from helperd.supervisor import Supervisor
from helperd.watch import Watch
from helperd.wire.messages import ErrorReport, Severity, Text
from tests import census
from tests.patience import HANGS_S
from tests.rig import ROOT

PEER = ROOT / "tests" / "faults" / "peer.py"
CONFIG = """
[[helper]]
name = "bad"
command = ["{python}", "-I", "-S", "{peer}", "good"]
types = ["bad"]
keepalive = "1s"
term_grace = "300ms"
exclusive = false
[[source]]
name = "victim"
definition = "bad0:type=bad,rate=200"
[[source]]
name = "sibling"
definition = "bad0:type=bad,rate=200"
"""


class Room:
    """A supervisor with two sources, and what it has logged."""

    def __init__(self, supervisor: Supervisor, said: list[tuple[str, str, str]]) -> None:
        self.supervisor = supervisor
        self.said = said

    @property
    def victim(self) -> Source:
        return self.supervisor.source("victim")

    async def until(self, true, seconds: float = 10) -> None:
        with trio.fail_after(seconds):
            while not true():  # noqa: ASYNC110 - many things are waited for, few have an event
                await trio.sleep(0.01)

    async def running(self, name: str = "victim", incarnation: int = 1) -> Source:
        source = self.supervisor.source(name)
        await self.until(
            lambda: source.life.state is State.RUNNING and source.life.incarnation >= incarnation
        )
        return source


@asynccontextmanager
async def room(folder, monkeypatch, more: str = "") -> AsyncIterator[Room]:
    monkeypatch.setenv("HELPERD_UNPRIVILEGED", "1")
    file = folder / "helpers.toml"
    file.write_text(CONFIG.format(python=sys.executable, peer=PEER) + more)
    settings = config.load(str(file))
    said: list[tuple[str, str, str]] = []
    async with own_launcher(str(file), settings=settings) as launcher:
        supervisor = Supervisor(settings, launcher, RouteTable(), lambda *line: said.append(line))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.run)
            found = Room(supervisor, said)
            await trio.lowlevel.checkpoint()
            await found.until(lambda: len(supervisor.sources) >= 2)
            await found.running("victim")
            await found.running("sibling")
            yield found
            with trio.fail_after(HANGS_S):
                await supervisor.stop()
            nursery.cancel_scope.cancel()


def once(monkeypatch, owner, name: str, victim: Source | None = None):
    """Let a function of ours raise the first time the victim comes to it."""
    real = getattr(owner, name)
    left = [1]

    def first(self) -> bool:
        mine = victim is None or self in {victim, victim.life, victim.watch, victim.incarnation}
        if left[0] and mine:
            left[0] -= 1
            return True
        return False

    def broken(self, *args, **kwargs):
        if first(self):
            raise ZeroDivisionError(f"injected into {name}")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, broken)
    return left


PLACES = [
    (Source, "_announce_end"),
    (Source, "_count_unsent"),
    (Source, "_reason"),
    (Source, "_run_once"),
    (Source, "_start"),
    (Source, "_asked"),
    (Source, "_hung"),
    (Source, "_deliver"),
    (Source, "_ways_to_greet"),
    (Source, "_live_on"),
    (Source, "_guarded_run"),
    (Source, "_on_rung"),
    (Source, "tick"),
    (Life, "verdict"),
    (Life, "new_incarnation"),
    (Watch, "turn"),
    (Incarnation, "stop"),
    (Incarnation, "wait_ended"),
    (Incarnation, "_climb"),
    (Incarnation, "close"),
]


@pytest.mark.parametrize(("owner", "name"), PLACES, ids=lambda place: getattr(place, "__name__", place))
async def test_a_bug_of_ours_costs_one_try_and_no_sibling(tmp_path, monkeypatch, owner, name):
    async with room(tmp_path, monkeypatch) as found:
        victim = found.victim
        sibling = await found.running("sibling")
        pid = victim.incarnation.process.pid
        left = once(monkeypatch, owner, name, victim)
        if owner is not Watch:
            os.kill(pid, signal.SIGKILL)
        await found.until(lambda: not left[0])
        await found.running("victim", 2)
        before = victim.route.ledger.received
        await found.until(lambda: victim.route.ledger.received > before)
        assert sibling.life.incarnation == 1
        told = [line for line in found.said if "ZeroDivisionError" in line[2]]
        assert told, "a bug is logged"
        assert victim.life.wanted == "up"


async def test_a_bug_that_stays_is_met_ever_more_slowly_and_an_order_still_counts(tmp_path, monkeypatch):
    async with room(tmp_path, monkeypatch) as found:
        victim = found.victim
        tries = []

        async def broken(self):
            if self is victim:
                tries.append(trio.current_time())
                raise ZeroDivisionError("always")
            return await real(self)

        real = Source._guarded_run
        monkeypatch.setattr(Source, "_guarded_run", broken)
        os.kill(victim.incarnation.process.pid, signal.SIGKILL)
        await found.until(lambda: len(tries) >= 5)
        assert tries[4] - tries[0] > 0.5, tries
        assert victim.life.state is State.BACKOFF
        victim.post(Event.STOP)
        await found.until(lambda: victim.life.state is State.DOWN)
        again = len(tries)
        await trio.sleep(1)
        assert len(tries) == again
        assert found.supervisor.source("sibling").life.state is State.RUNNING


async def test_a_kill_that_fails_once_leaves_no_process(tmp_path, monkeypatch):
    """The stop ladder itself is broken: the tree is killed another way, and only then a new one starts."""
    before = census.take().processes
    async with room(tmp_path, monkeypatch) as found:
        victim = found.victim
        pid = victim.incarnation.process.pid
        left = once(monkeypatch, Incarnation, "_climb", victim)
        victim.post(Event.RESTART)
        await found.until(lambda: not left[0])
        await found.running("victim", 2)
        assert victim.incarnation.process.pid != pid
        assert vitals.process_state(pid) == ""
    assert not census.await_end(before, 3)


async def test_a_source_that_is_removed_while_our_code_fails_leaves(tmp_path, monkeypatch):
    async with room(tmp_path, monkeypatch) as found:
        once(monkeypatch, Life, "verdict", found.victim)
        with trio.fail_after(HANGS_S):
            await found.supervisor.remove("victim").wait()
        assert [source.name for source in found.supervisor.sources] == ["sibling"]


async def test_a_suspended_machine_is_nobodys_fault(tmp_path, monkeypatch):
    """33, simulated: the helper is stopped and the boot clock has gone on as if all had slept."""
    import helperd.supervisor as module

    async with room(tmp_path, monkeypatch) as found:
        victim = found.victim
        pid = victim.incarnation.process.pid
        os.kill(pid, signal.SIGSTOP)
        await trio.sleep(2.0)
        slept = module._slept()
        monkeypatch.setattr(module, "_slept", lambda: slept + 3600)
        await found.until(lambda: victim.liveness == ("starved", "ours") or victim.life.incarnation > 1)
        os.kill(pid, signal.SIGCONT)
        await found.until(lambda: victim.liveness == ("ok", ""))
        assert victim.life.incarnation == 1


async def test_the_rate_is_sampled_whether_anybody_looks_or_not(tmp_path, monkeypatch):
    async with room(tmp_path, monkeypatch) as found:
        victim = found.victim

        def told() -> object:
            return source_status(victim, trio.current_time(), [])["rate"]

        assert told() is None, "nobody knows a rate before there was a second of it"
        await found.until(lambda: victim.meter.rate)
        assert 20 < told() <= 400
        victim.post(Event.STOP)
        await found.until(lambda: victim.life.state is State.DOWN)
        assert told() is None


async def test_an_end_that_nobody_ordered_is_a_message_and_a_failure_told_twice_is_one(tmp_path, monkeypatch):
    async with room(tmp_path, monkeypatch) as found:
        victim, bus = found.victim, found.supervisor.bus
        victim._on_message(Text(Severity.ERROR, "the cable is out"))
        victim._on_message(ErrorReport(0, "the cable is out"))
        os.kill(victim.incarnation.process.pid, signal.SIGKILL)
        await found.running("victim", 2)
        victim.post(Event.RESTART)
        await found.running("victim", 3)
        told = [(notice.severity, notice.text, notice.repeated) for notice in bus.since(0)]
        assert told == [
            ("error", "the cable is out", 0),
            ("warning", "killed: the helper was ended by SIGKILL; it had said: the cable is out", 0),
        ]
