"""Tasks that go on for as long as the daemon does: one that ends unasked is told, shown, and tried again.

Rules:
  1. Whatever ends a task, an error or a plain return: the others go on, and it begins anew after a pause that doubles
     while it keeps ending.
  2. Meanwhile, and until it has gone on for a while, it is a trouble in ``GetHealth`` and in the health of the status;
     it is a line among the messages, and its error is logged and counted like every bug.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

FIRST_S: Final = 1.0
MOST_S: Final = 60.0
"""Seconds of the first pause, and of the longest."""
CALM_S: Final = 10.0
"""Seconds after which a task that goes on again is no trouble any more."""


@dataclass(slots=True)
class Trouble:
    """A task that has ended unasked.

    Attributes:
        name: what it does, for people.
        text: why it ended.
        ends: how often it has, in a row.
        again_at: when it began anew; None while it waits for that.
    """

    name: str
    text: str
    ends: int = 1
    again_at: float | None = None


@dataclass(slots=True)
class Tending:
    """The tasks, and what is wrong with them.

    Attributes:
        bug: takes who, and an error of our own: logs and counts it.
        say: takes a severity and a text for people.
        changed: called when a task has ended or begun anew.
    """

    bug: Callable[[str, BaseException], None]
    say: Callable[[str, str], None]
    changed: Callable[[], None]
    _troubles: dict[str, Trouble] = field(default_factory=dict)
    _rests: dict[str, float] = field(default_factory=dict)

    async def keep(
        self,
        name: str,
        work: Callable[[], Awaitable[object]],
        is_over: Callable[[], bool] = lambda: False,
        ends_all: Callable[[BaseException], bool] = lambda _error: False,
    ) -> None:
        """Keep a task going until it is cancelled, or ends when it may.

        Args:
            name: what it does: "tuning".
            work: begins it.
            is_over: whether it has ended because somebody wanted that.
            ends_all: whether an error is everybody's end, and raised.
        """
        while True:
            began = trio.current_time()
            text = "it has ended, and nobody had asked for that"
            try:
                await work()
            except* Exception as errors:
                if ends_all(errors):
                    raise
                if not is_over():
                    self.bug("helperd", errors)
                    text = f"an error of helperd's own: {_words(errors)}"
            if is_over():
                return
            await trio.sleep(self._note(name, text, began))
            if name in self._troubles:
                self._troubles[name].again_at = trio.current_time()
                self.changed()

    async def once(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        """Do something, and again as ``keep`` does until it returns."""
        done = False

        async def until_done() -> None:
            nonlocal done
            await work()
            done = True

        await self.keep(name, until_done, lambda: done)

    def call(self, name: str, work: Callable[[], object]) -> None:
        """Call something that is called again and again; while it keeps failing, ever more seldom."""
        now = trio.current_time()
        if now < self._rests.get(name, now):
            return
        try:
            work()
        except Exception as error:  # noqa: BLE001 - the border: whoever calls goes on
            self.bug("helperd", error)
            self._rests[name] = now + self._note(name, f"an error of helperd's own: {_words(error)}", now)
        else:
            if self._rests.pop(name, None) is not None and name in self._troubles:
                self._troubles[name].again_at = now
                self.changed()

    def _note(self, name: str, text: str, began: float) -> float:
        """Tell that a task has ended; return how long to wait."""
        known = self._troubles.get(name)
        lasted = trio.current_time() - began
        ends = 1 if known is None or lasted >= CALM_S else known.ends + 1
        pause = min(FIRST_S * 2.0 ** min(ends - 1, 30), MOST_S)
        self._troubles[name] = Trouble(name, text, ends)
        self.say("error", f"{name}: {text}; begun again in {pause:g} s; the log has the traceback")
        self.changed()
        return pause

    def troubles(self, now: float) -> list[dict[str, str]]:
        """What is wrong now, as ``GetHealth`` shows it."""
        for trouble in list(self._troubles.values()):
            if trouble.again_at is not None and now - trouble.again_at >= CALM_S:
                del self._troubles[trouble.name]
        return [
            {
                "source": trouble.name,
                "state": "backoff" if trouble.again_at is None else "running",
                "problem": "bug",
                "text": f"{trouble.text} ({trouble.ends} times in a row)"
                if trouble.ends > 1
                else trouble.text,
            }
            for trouble in self._troubles.values()
        ]


def _words(error: BaseException) -> str:
    """An error in a few words; of a group, its first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
