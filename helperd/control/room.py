"""What all connections share: the daemon, its latest state as bytes, and questions that several ask at once."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

import trio

from helperd.control.call import encode_reply, error_of
from helperd.errors import HelperdError, UsageError
from helperd.places import Places

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from helperd.control.api import ControlApi, Plain
    from helperd.control.call import Call

FRESH_S: Final = 0.02
"""How long a snapshot may be shown again when nothing is known to have changed: rates and counters are this old."""
QUESTIONS: Final = 6
"""Questions to helpers under way at once, of all readers; each starts processes."""
QUESTIONS_EACH: Final = 2
"""Of one user."""
QUESTIONS_KEPT: Final = 2
"""And so many more of admins, and twice so many of root and the daemon's own user."""


class Pulse:
    """A count that goes up, and the wait for it. Nobody who looks at the count misses a step."""

    def __init__(self) -> None:
        self.count = 0
        self._lot = trio.lowlevel.ParkingLot()

    def beat(self) -> None:
        """Count one more and wake who waits."""
        self.count += 1
        self._lot.unpark_all()

    async def beyond(self, seen: int) -> None:
        """Wait until the count is above ``seen``."""
        while self.count <= seen:
            await self._lot.park()


class _Question:
    """One answer for all who asked the same thing while it was being found."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.answer: Plain = {}
        self.error: Exception | None = None


class Room:
    """The daemon, seen through caches that many clients share.

    Attributes:
        changes: beats when a state changed.
        news: beats when a message came.
    """

    def __init__(self, daemon: ControlApi, nursery: trio.Nursery) -> None:
        self.daemon = daemon
        self.changes = Pulse()
        self.news = Pulse()
        self._nursery = nursery
        self._questions: dict[tuple[str, ...], _Question] = {}
        self._places = Places("questions to helpers", QUESTIONS, QUESTIONS_EACH, QUESTIONS_KEPT)
        self._snapshot: Plain = {}
        self._encoded: dict[tuple[str | None, bool], bytes] = {}
        self._taken: tuple[tuple[int, int], float] = ((-1, -1), 0.0)

    async def follow_changes(self) -> None:
        """Turn the daemon's wake-ups into beats, until cancelled."""
        while True:
            await self.daemon.wait_change()
            self.changes.beat()

    async def follow_news(self) -> None:
        """The same for messages."""
        while True:
            await self.daemon.wait_message()
            self.news.beat()

    @property
    def snapshot(self) -> Plain:
        """The daemon's state: what changed is in it at once, counters and rates are at most ``FRESH_S`` old."""
        now = trio.current_time()
        count, at = self._taken
        number = (self.daemon.change_number(), self.changes.count)
        if count != number or now - at >= FRESH_S:
            self._taken = (number, now)
            self._snapshot = self.daemon.snapshot()
            self._encoded.clear()
        return self._snapshot

    def status(self, name: str | None, *, continues: bool) -> bytes:
        """The state, or that with one source alone, as a reply; one object for all who ask within ``FRESH_S``.

        Raises:
            CallError: UnknownSource, with the nearest name.
        """
        snapshot = self.snapshot
        encoded = self._encoded.get((name, continues))
        if encoded is None:
            some = snapshot if name is None else {**snapshot, "sources": [self.source(name)]}
            encoded = self._encoded[name, continues] = encode_reply(some, continues=continues)
        return encoded

    def source(self, name: str) -> dict[str, Any]:
        """One source of the snapshot.

        Raises:
            CallError: UnknownSource, with the nearest name.
        """
        return self._find(name, "source")["source"]

    def ordered(self, name: str) -> dict[str, dict[str, Any]]:
        """What an order names: a ``source`` or a ``service``, which share their names.

        Raises:
            CallError: UnknownSource, with the nearest name.
        """
        return self._find(name, "source", "service")

    def _find(self, name: str, *kinds: str) -> dict[str, dict[str, Any]]:
        names = []
        for kind in kinds:
            for row in self.snapshot.get(f"{kind}s") or ():
                if row["name"] == name:
                    return {kind: dict(row)}
                names.append(row["name"])
        near = next(iter(get_close_matches(name[:64], names, 1, 0.5)), None)
        hint = f"did you mean {near!r}?" if near else f"there are: {', '.join(names[:20]) or 'none'}"
        error = UsageError("unknown-source", f"no {' or '.join(kinds)} is named {name[:64]!r}; {hint}")
        raise error_of(error, source=name, nearest=near)

    async def ask(self, call: Call, key: tuple[str, ...], question: Callable[[], Awaitable[Plain]]) -> Plain:
        """Ask the helpers; who asks the same meanwhile gets the same answer.

        Args:
            call: by whom.
            key: the same for the same question.
            question: asks it.

        Raises:
            HelperdError: "busy", or what the question raised.
        """
        asked = self._questions.get(key)
        if asked is None:
            why = self._places.take(call.who, call.rank)
            if why:
                raise HelperdError("busy", why)
            asked = self._questions[key] = _Question()
            self._nursery.start_soon(self._answer, call.who, key, asked, question)
        await asked.done.wait()
        if asked.error is not None:
            raise asked.error
        return asked.answer

    async def _answer(
        self, who: int, key: tuple[str, ...], asked: _Question, question: Callable[[], Awaitable[Plain]]
    ) -> None:
        """Find the answer in a task of its own: it does not end with the client that asked first."""
        try:
            asked.answer = await question()
        except Exception as error:  # noqa: BLE001 - handed to those who asked
            asked.error = error
        finally:
            del self._questions[key]
            self._places.leave(who)
            asked.done.set()
