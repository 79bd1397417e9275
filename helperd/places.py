"""Places that clients take, so that nobody takes them all, and turns, so that nobody is heard before all others.

Rules:
  1. A user has so many places, all users together so many, and some are kept for admins and for root and the daemon's
     own user: whoever looks after a machine has a place on it, however many uids somebody else has.
  2. Descriptors are the daemon's first. It gives the kernel's lowest free number to each, so a new one above a bound
     says that few are left, and those above it are never a reader's.
"""

from __future__ import annotations

import os
import resource
from collections import Counter
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

Who = int | str
"""A user by number, or the address of one whom the kernel does not know."""
KEPT: Final = 256
"""Descriptors that the daemon keeps for itself, sources and helpers not counted."""
KEPT_EACH: Final = 16
"""And for each of those: its sockets, pipes and page while it starts."""


class Rank(IntEnum):
    """How much of what is kept somebody may take."""

    READER = 0
    ADMIN = 1
    OWNER = 2


def rank_of(who: Who) -> Rank:
    """Of somebody whose groups do not count: root and our own user, or all others."""
    return Rank.OWNER if who in {0, os.geteuid()} else Rank.READER


def bound(programs: int) -> int:
    """The first number of a descriptor that is not for readers.

    Args:
        programs: sources, services and helpers.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return limit - min(KEPT + KEPT_EACH * programs, limit // 2)


@dataclass(slots=True)
class Places:
    """The places for one kind of client.

    Attributes:
        what: who takes them, for people: "readers".
        most: so many altogether.
        each: so many for each user below ``OWNER``.
        reserve: so many more for each rank above ``READER``.
        key: what says how many each user has; empty: nothing does.
        taken: how many are.
        refused: how many had none, so far.
    """

    what: str
    most: int
    each: int
    reserve: int = 0
    key: str = ""
    taken: int = 0
    refused: int = 0
    by: Counter[Who] = field(default_factory=Counter)

    def copy(self, each: int | None = None) -> Places:
        """The same places, all free; so many for each user if that is given."""
        return Places(self.what, self.most, self.each if each is None else each, self.reserve, self.key)

    def has_all(self, who: Who) -> bool:
        """Whether a user has as many as it may."""
        return self.by[who] >= self.each

    def full(self, rank: Rank) -> bool:
        """Whether there is none left for a rank."""
        return self.taken >= self.most + self.reserve * rank

    def take(self, who: Who, rank: Rank) -> str:
        """Take a place.

        Returns:
            Nothing, or why there is none, in words that end with what to do.
        """
        why = ""
        if rank < Rank.OWNER and self.has_all(who):
            name = f"uid {who}" if isinstance(who, int) else who
            more = f", or raise {self.key} in helpers.toml(5)" if self.key else ""
            why = f"{name} has {self.each} {self.what}: end one{more}"
        elif self.full(rank):
            why = f"there are {self.taken} {self.what}: try again when some have gone"
        if why:
            self.refused += 1
            return why
        self.taken += 1
        self.by[who] += 1
        return ""

    def leave(self, who: Who) -> None:
        """Give a place back."""
        self.taken -= 1
        self.by[who] -= 1
        if not self.by[who]:
            del self.by[who]


@dataclass(slots=True)
class Entrance:
    """Where clients are let in.

    Attributes:
        places: theirs.
        below: gives the first number of a descriptor that is not for readers; None: all are.
        on_refused: told where somebody was not let in, and why.
        above: clients that have another.
    """

    places: Places
    below: Callable[[], int | None] = lambda: None
    on_refused: Callable[[str, str], None] = lambda _where, _why: None
    above: int = 0

    def is_kept(self, fd: int) -> bool:
        """Whether a descriptor is one of the last, which are not for readers."""
        below = self.below()
        return below is not None and fd >= below

    def is_plenty(self, fd: int) -> bool:
        """Whether a descriptor is of the lower half of those for readers: many more are free."""
        below = self.below()
        return below is None or 2 * fd < below

    def admit(self, where: str, who: Who, rank: Rank, *, above: bool, kept: int = 0) -> str:
        """Let somebody in, or say why not.

        Args:
            where: the name of the socket.
            who: who comes.
            rank: its rank.
            above: whether its descriptor is kept from readers.
            kept: so many clients of its rank may have one.
        """
        if above and self.above >= kept:
            self.places.refused += 1
            why = f"the last descriptors are kept: end some {self.places.what}, or raise LimitNOFILE= (ulimit -n)"
        else:
            why = self.places.take(who, rank)
        if why:
            self.on_refused(where, why)
        else:
            self.above += above
        return why

    def leave(self, who: Who, *, above: bool = False) -> None:
        """Let somebody out who was let in."""
        self.places.leave(who)
        self.above -= above


class Turns:
    """One of each user, and one of these, in each turn of the loop: who asks much waits for itself.

    When several wait, each begins as much later as the turn before has taken: whatever they ask for, half of the
    loop's time is for packets and orders.
    """

    MOST_S: Final = 0.05
    """Seconds that one begins later, at most."""

    def __init__(self) -> None:
        self._all = trio.Lock()
        self._each: dict[Who, trio.Lock] = {}
        self._began = 0.0

    async def wait(self, who: Who) -> None:
        """Wait for one's turn; what is done without waiting after it is all of it."""
        mine = self._each.setdefault(who, trio.Lock())
        crowded = mine.locked()
        try:
            async with mine:
                crowded = crowded or self._all.locked()
                async with self._all:
                    if crowded:
                        await trio.sleep(min(self.MOST_S, trio.current_time() - self._began))
                    self._began = trio.current_time()
        finally:
            if not mine.locked():
                self._each.pop(who, None)


class Teller:
    """Says now and then that clients are refused, and how many were.

    Args:
        say: takes a severity and a text for people.
    """

    EVERY_S: Final = 60.0

    def __init__(self, say: Callable[[str, str], None]) -> None:
        self._say = say
        self._after = -self.EVERY_S
        self._left_out = 0

    def refused(self, where: str, why: str, now: float) -> None:
        """Somebody was refused at ``where``."""
        if now - self._after < self.EVERY_S:
            self._left_out += 1
            return
        more = f" ({self._left_out} more since the last time)" if self._left_out else ""
        self._after, self._left_out = now, 0
        self._say("warning", f"{where}: refused, {why}{more}")
