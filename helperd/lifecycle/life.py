"""One source's life as plain data, and the walker of the table.

Rules:
  1. Events never move the state. ``post`` answers; the coroutine acts on it and calls ``enter``.
  2. Only orders change ``wanted``. Policy never starts what an operator stopped.
  3. An event of an older incarnation is dropped before the look-up.
  4. A device that appears is tried at once, and no more often than every ``DEVICE_GAP_S``: one that appears sooner
     again is tried after that gap. One that appears while it is being tried is tried again when that has failed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from helperd.errors import HelperdError
from helperd.lifecycle.policy import GiveUp, History, Policy, Rest, Restart, backoff, judge
from helperd.lifecycle.table import ANSWERS, ARROWS, ORDERS, TRIES, Answer, Event, State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from helperd.lifecycle.exit import Exit


CRASH_LOOP = 5  # ends in a row
DEVICE_GAP_S = 1.0  # a helper may itself make its device come and go


@dataclass(slots=True, eq=False)
class Life:
    """One source's life as plain data, and the walker of the table.

    Attributes:
        name: the source's.
        policy: may be replaced in place by a reload.
        state: where the coroutine stands; ``since`` when it came there.
        why: in DOWN and FAILED, the reason; in STOPPING what ended the incarnation; else empty.
        incarnation: number of the present or last process tree, from 1; 0 before the first.
        ran: number of the last one that came to RUNNING; it may have left it since; 0 before the first.
        wanted: ``up`` or ``down``; changed by orders alone.
        kept: False once removed.
        woken: an order, a due time or a device asks for STARTING; level, not edge: the parked coroutine
            goes to STARTING when it finds it set, whatever was answered in between.
        ended_by: the event that ended the present incarnation and its detail; None while it lives.
        exit: how the last incarnation ended.
        next_try_at: in BACKOFF, seconds, monotonic; else None.
        bugs: events answered with bug.
        appeared: its device has appeared since the present incarnation was asked for.
        device_at: when the device was last tried, or is to be tried, because it had appeared.
        on_change: called after every enter and every order that changed something.
    """

    name: str
    policy: Policy = field(default_factory=Policy)
    since: float = 0.0
    state: State = State.DOWN
    why: str = "never-started"
    incarnation: int = 0
    ran: int = 0
    wanted: str = "down"
    kept: bool = True
    woken: bool = False
    orders: set[Event] = field(default_factory=set)
    ended_by: tuple[Event, Mapping[str, object]] | None = None
    exit: Exit | None = None
    next_try_at: float | None = None
    history: History = field(default_factory=History)
    bugs: int = 0
    appeared: bool = False
    device_at: float | None = None
    on_change: Callable[[Life], object] | None = field(default=None, repr=False)

    @property
    def crash_loop(self) -> bool:
        """At least five ends in a row and health not proven since."""
        return self.history.n >= CRASH_LOOP

    @property
    def settles_at(self) -> float | None:
        """When this incarnation, if its verdict stays ok, has proven health; None outside RUNNING."""
        return self.since + self.history.settled_after() if self.state is State.RUNNING else None

    def new_incarnation(self) -> int:
        """Number the process tree that is about to exist; call it once in STARTING."""
        self.incarnation += 1
        return self.incarnation

    def post(self, event: Event, now: float, incarnation: int | None = None, **detail: object) -> Answer:
        """Look up what ``event`` means here, remember what must be remembered, and answer.

        Args:
            event: what happened.
            now: seconds, monotonic.
            incarnation: whose event it is; None for orders and for what belongs to no process.
            detail: kept beside the event when it ends the incarnation (``reason=...``).
        """
        if incarnation is not None and incarnation != self.incarnation:
            return Answer.NOTE
        answer = self._look_up(event, now)
        if event in ORDERS:
            self._obey(event, answer)
        if answer is Answer.WAKE:
            self.woken = True
        elif answer is Answer.END:
            if self.ended_by is None:
                self.ended_by = (event, detail)
        elif event is Event.DEVICE_APPEARED and answer is Answer.KEEP:
            self.appeared = True
        elif event is Event.SETTLED and self.state is State.RUNNING:
            self.history = self.history.proven()
        elif answer is Answer.BUG:
            self.bugs += 1
        if event in ORDERS or answer is Answer.END:
            self._changed()
        return answer

    def _look_up(self, event: Event, now: float) -> Answer:
        """The table, and its two footnotes: a kept replace, and a device that appears too soon again."""
        state = self.state
        if event in ORDERS and self.ended_by is not None:
            state = State.STOPPING  # told to end, not there yet: an order is for what comes after
        answer, _ = ANSWERS[state][event]
        if event is Event.REPLACE and state is State.DOWN and self.wanted == "down":
            return Answer.KEEP
        if event is Event.DEVICE_APPEARED and answer is Answer.WAKE:
            self.history = self.history.eased()
            at = self._device_try(now)
            if at > now:
                self.next_try_at = at if self.next_try_at is None else min(self.next_try_at, at)
                self._changed()
                return Answer.NOTE
        return answer

    def _device_try(self, now: float) -> float:
        """When a device that has appeared may be tried."""
        if self.device_at is None or now >= self.device_at + DEVICE_GAP_S:
            self.device_at = now
        elif self.device_at <= now:
            self.device_at += DEVICE_GAP_S
        return self.device_at

    def _obey(self, order: Event, answer: Answer) -> None:
        """Set the wish, remember a kept order, and let a human's try be a new first try."""
        if order in {Event.START, Event.RESTART}:
            self.wanted = "up"
        elif order in {Event.STOP, Event.REMOVE}:
            self.wanted = "down"
            self.woken = False
        if order is Event.REMOVE:
            self.kept = False
        if answer in {Answer.KEEP, Answer.END}:
            self.orders.add(order)
        if order in TRIES and answer is not Answer.SAME:
            self.history = self.history.forgiven()

    def enter(self, state: State | None, now: float, why: str = "") -> None:
        """Announce that the coroutine stands in ``state`` now; None leaves: the source is removed.

        Raises:
            HelperdError: "bug", the table has no such arrow, or a source that is not wanted would start.
        """
        if state not in ARROWS[self.state]:
            target = "leave" if state is None else state
            raise HelperdError("bug", f"{self.name}: no arrow leads from {self.state} to {target}")
        if state is State.STARTING and self.wanted != "up":
            raise HelperdError("bug", f"{self.name}: would start although it is not wanted up")
        if state is None:
            self._changed()
            return
        if state is not self.state:
            self.since = now
        self._arrive(state, now, why)
        self.state = state
        self._changed()

    def _arrive(self, state: State, now: float, why: str) -> None:
        """Bring what belongs to a state in line with it."""
        if state is State.RUNNING:
            self.ran = self.incarnation
        if state is not State.BACKOFF:
            self.next_try_at = None
        if state is State.STARTING and self.history.n and not self.history.v0_tried:
            self.history = self.history.restarted(now, self.policy.intensity)
        if state is State.STARTING:
            self.appeared = False
        if state is not State.STOPPING:
            self.ended_by = None
            self.woken = False
            self.orders.clear()
        if state in {State.DOWN, State.FAILED}:
            default = "gave-up" if state is State.FAILED else "stopped" if self.wanted == "down" else "done"
            self.why = why or default
        elif state is State.STOPPING:
            self.why = why or (self.ended_by[0].value if self.ended_by else self.why)
        else:
            self.why = why

    def verdict(self, exit: Exit, now: float, dice: float) -> State | None:  # noqa: A002 - the room's word
        """Say where the ended incarnation leads: the one decision taken in STOPPING.

        Removed: None (leave). Not wanted up: DOWN. A restart, replace or start was ordered: STARTING.
        Otherwise ``judge`` says STARTING, BACKOFF (``next_try_at`` is set), DOWN or FAILED.
        """
        self.exit = exit
        decision: Restart | Rest | GiveUp
        if self.wanted == "down":
            decision = Rest("stopped")
        elif self.orders & TRIES:
            decision = Restart(now)
        else:
            decision = judge(self.policy, self.history, exit, now, dice)
        self.history = self.history.after(exit, decision)
        if self.orders & TRIES:
            self.history = self.history.forgiven()
        if not self.kept:
            return None
        if not isinstance(decision, Restart):
            return decision.state
        at = decision.at
        if at > now and self.appeared:
            self.history = self.history.eased()
            at = min(at, self._device_try(now))
        if at <= now:
            return State.STARTING
        self.next_try_at = at
        return State.BACKOFF

    def recover(self, exit: Exit, now: float, dice: float) -> None:  # noqa: A002 - the room's word
        """Stand where it is true to stand after a bug of ours, when no process is left: wherever that happened.

        It counts as an accident whose restart is never at once. A source that is not wanted up goes DOWN, one that is
        to be removed stays for the loop to leave.
        """
        self.exit = exit
        self.history = self.history.after(exit, Restart(now, counted=False))
        self.history = replace(self.history, n=self.history.n + 1, v0_tried=False)
        self.ended_by = None
        self.woken = False
        self.orders.clear()
        self.since = now
        if self.wanted == "up" and self.state is not State.FAILED:
            delay = backoff(self.policy, self.history.n, dice)
            self.history = replace(self.history, last_delay=delay)
            self.state, self.why, self.next_try_at = State.BACKOFF, "", now + delay
        elif self.state is not State.FAILED:
            self.state, self.why, self.next_try_at = State.DOWN, "stopped", None
        self._changed()

    def _changed(self) -> None:
        if self.on_change is not None:
            self.on_change(self)
