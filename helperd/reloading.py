"""Reload: all of a new configuration, or nothing of it.

Rules:
  1. Everything that can fail is done first, beside what runs, and undone without a trace; the launcher is asked last.
     Then comes one switch, which neither waits nor fails.
  2. The last file wins: one who asks gets what was read after that. Who asks while another one is being read waits for
     the next; all who wait share it.
"""

from __future__ import annotations

import math
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from helperd import config
from helperd.config.profile import Accounts, compile_profiles
from helperd.config.whole import UNENDED, unended
from helperd.drivers import driver_for
from helperd.errors import ConfigError, ConfigRefused, HelperdError, RequestRefused, SinkError, UsageError
from helperd.sinks.hands import hangs
from helperd.sinks.trial import trial
from helperd.table import gone
from helperd.threads import in_thread
from helperd.wire.definition import SourceDefinition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from helperd.config import Config
    from helperd.launcher import Launcher
    from helperd.lifecycle import Plan
    from helperd.sinks.all import Change, Sinks
    from helperd.supervisor import Supervisor

READ_S: Final = 5.0
"""Seconds that a disk has for a configuration, and for what is tried on it."""
TRIES: Final = 20
WAIT_S: Final = 0.25
PAUSE_S: Final = 1.05
"""The launcher reads its file once a second at most: seconds from one time to the next; and, as others may have asked
it, how often it is tried, and seconds between the tries."""


_Result = TypeVar("_Result")


def _load(path: str) -> tuple[Config, dict[str, int]]:
    """Read a configuration, and see what the launcher and the helpers would say of it; and its files that have no end.

    Raises:
        ConfigRefused: with all mistakes.
    """
    new = config.load(path)
    mistakes = []
    for spec in new.sources:
        try:
            SourceDefinition.parse(spec.definition)
            driver_for(new.helpers, spec.definition, spec.helper)
        except UsageError as error:
            if error.problem == "bad-definition":  # where no helper is there yet, the source says so
                key = "source.definition"
                mistakes.append(
                    ConfigError(error.problem, error.text, file=spec.file, line=spec.line, key=key)
                )
    if mistakes:
        raise ConfigRefused(mistakes)
    compile_profiles(new, Accounts(), config.__path__[0], "")
    return new, unended(new.files)


@dataclass(slots=True, eq=False)
class Reloading:
    """Reads the configuration again for whoever asks."""

    supervisor: Supervisor
    launcher: Launcher
    sinks: Sinks
    _lock: trio.Lock = field(default_factory=trio.Lock)
    _asked: int = 0
    _begun: int = 0
    _outcome: Plan | HelperdError | None = None
    _asked_at: float = -math.inf
    _unended: dict[str, int] = field(default_factory=dict)
    _threads: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(2))

    async def reload(self) -> Plan:
        """Take over what the file says; returns when what is removed has ended.

        Raises:
            ConfigRefused: with all mistakes. SinkError, RequestRefused, HelperdError: what cannot be had. Nothing has
                changed then.
        """
        self._asked += 1
        mine = self._asked
        leaving: list[trio.Event] = []
        async with self._lock:
            if self._outcome is None or self._begun < mine:
                self._begun, self._outcome = self._asked, None
                try:
                    self._outcome, leaving = await self._take_over()
                except HelperdError as error:
                    self._outcome = error
            outcome = self._outcome
        if isinstance(outcome, HelperdError):
            raise outcome
        for left in leaving:
            await left.wait()
        return outcome

    @asynccontextmanager
    async def still(self) -> AsyncIterator[None]:
        """No reload is under way: sources may be added and removed, without waiting."""
        async with self._lock:
            yield

    async def check(self) -> Plan:
        """Say what a reload would do, and try what it needs; nothing stays of that.

        Raises:
            HelperdError: as of ``reload``.
        """
        async with self._lock:
            _, what, change = await self._prepare()
            change.undo()
        return what

    async def _take_over(self) -> tuple[Plan, list[trio.Event]]:
        refused: dict[int, RequestRefused] = {}  # by what we had read
        while True:
            new, what, change = await self._prepare()
            expected = self.supervisor.await_next(what)
            try:
                if new.fingerprint in refused or len(refused) > TRIES:
                    raise next(reversed(refused.values()))
                await self._ask_launcher(new)
                self.supervisor.check_stays()
            except BaseException as error:
                change.undo()
                self.supervisor.give_up(expected)
                if not isinstance(error, RequestRefused) or error.problem != "not-allowed-now":
                    raise
                if error in refused.values():
                    raise
                refused[new.fingerprint] = error  # it has read another one, perhaps the next one
            else:
                change.take()
                leaving = self.supervisor.switch(new, what)
                if what.gone:
                    text = gone([row._asdict() for row in what.gone])
                    self.supervisor.say("warning", f"reloaded; configured no more: {text}")
                for path in self._unended:
                    self.supervisor.say("warning", f"{path} {UNENDED}")
                return what, leaving

    async def _prepare(self) -> tuple[Config, Plan, Change]:
        """Do everything that can fail but for the launcher's part."""
        supervisor = self.supervisor
        supervisor.check_stays()
        new = await self._read(supervisor.config.file)
        what = supervisor.plan(new)
        names = supervisor.names_after(new)
        change = self.sinks.stage(new, names)
        try:
            for spec in change.files:
                stuck = SinkError("disk-stuck", f"{spec.path}: the disk has not answered for {READ_S:g} s")
                if hangs(os.path.dirname(spec.path)):
                    raise stuck
                await self._in_time(partial(trial, spec), stuck)
        except BaseException:
            change.undo()
            raise
        return new, what, change

    async def _read(self, path: str) -> Config:
        """Read the configuration in a thread.

        Raises:
            ConfigRefused: with all mistakes; "no-config", the disk does not answer.
        """
        text = f"cannot read the configuration: the disk has not answered for {READ_S:g} s"
        stuck = ConfigRefused([ConfigError("no-config", text, file=path)])
        new, self._unended = await self._in_time(partial(_load, path), stuck)
        return new

    async def _in_time(self, work: Callable[[], _Result], stuck: HelperdError) -> _Result:
        with trio.move_on_after(READ_S):
            return await in_thread(work, limiter=self._threads)
        raise stuck

    async def _ask_launcher(self, new: Config) -> None:
        """Let the launcher take over what we have read.

        Raises:
            RequestRefused: "not-allowed-now": it finds another file there; "bad-value": it takes something for wrong.
        """
        await trio.sleep_until(self._asked_at + PAUSE_S)
        for last in (*[False] * TRIES, True):
            self._asked_at = trio.current_time()
            try:
                await self.launcher.refresh(new)
            except RequestRefused as error:
                if error.problem != "busy" or last:
                    raise
                await trio.sleep(WAIT_S)
            else:
                return
