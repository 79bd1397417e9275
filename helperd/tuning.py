"""Lets the sources that can hop do so, sharing their channels, and tells them again when one comes or goes.

Rules:
  1. An operator's order counts more than the plan: a source that was tuned by hand is left alone until it is told to
     hop over what it has.
  2. A helper that refuses to hop is not asked again before it is started again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from helperd.bell import Bell
from helperd.errors import HelperdError
from helperd.lifecycle import Radio, Splitter, State, Walk
from helperd.lifecycle.hopping import DEFAULT_RATE
from helperd.wire.definition import SourceDefinition
from helperd.wire.messages import Hopping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from helperd.source import Source

SETTLE_S: Final = 0.2
"""Seconds from a change to the look: sources that start together are told together."""
_ON_ITS_WAY: Final = frozenset({State.STARTING, State.GREETING, State.OPENING, State.STOPPING})


class Tuning:
    """The plan for all sources.

    Args:
        sources: gives the sources in the order of the configuration.
        bug: told of an error of ours that has cost one source an order.
    """

    def __init__(
        self, sources: Callable[[], Iterable[Source]], bug: Callable[[str, BaseException], None]
    ) -> None:
        self.changed = Bell()
        self._sources = sources
        self._bug = bug
        self._splitter = Splitter()
        self._refused: dict[str, int] = {}

    async def run(self) -> None:
        """Keep everybody on the plan until cancelled."""
        async with trio.open_nursery() as nursery:
            again = trio.current_time()
            while True:
                with trio.move_on_at(again):
                    await self.changed.wait()
                    await trio.sleep(SETTLE_S)
                again = self._look(nursery)

    def _look(self, nursery: trio.Nursery) -> float:
        """Tell those who have to be told; returns by when to look again."""
        found = {source.name: source for source in self._sources()}
        radios = [radio for source in found.values() if (radio := self._radio(source))]
        walks, again = self._splitter.look(radios, trio.current_time())
        for name, walk in walks.items():
            nursery.start_soon(self._tell, found[name], walk)
        return again

    def _radio(self, source: Source) -> Radio | None:
        """What the plan has to know of a source; None: it does not hop."""
        life = source.life
        here = life.state is State.RUNNING
        if not here and not (life.state in _ON_ITS_WAY and life.wanted == "up"):
            return None
        if self._refused.get(source.name) == life.incarnation:
            return None
        if source.standing is not None or not source.hops():
            return None
        return Radio(
            source.name,
            life.incarnation,
            here,
            source.kind,
            source.own_channels(),
            source.hop_rate or SourceDefinition.parse(source.spec.definition).rate() or DEFAULT_RATE,
            trusted=not life.crash_loop,
        )

    async def _tell(self, source: Source, walk: Walk) -> None:
        number = source.life.incarnation
        hopping = Hopping(walk.channels, walk.rate, shuffle=False, skip=1, offset=walk.offset)
        try:
            await source.hop(hopping)
        except HelperdError as error:
            if source.life.incarnation == number and source.life.state is State.RUNNING:
                self._refused[source.name] = number
                source.say("warning", f"does not hop: {error.text}")
                self.changed.ring()
        except Exception as error:  # noqa: BLE001 - radios that hop worse are better than none
            self._bug(source.name, error)
