"""When to try again: pure restart arithmetic.

n counts the ends in a row since health was last proven. The first restart is at once, then 0.25 s doubling to
60 s, uniform in [d/2, d]; a refusal begins at 1 s, and so does a fault in a program's files, which may be in the middle
of an upgrade; any other config fault waits the cap. Slow for ever rather than given up, unless the config says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from helperd.lifecycle.exit import Exit, Why
from helperd.lifecycle.table import State


@dataclass(frozen=True, slots=True)
class Policy:
    """The configured wish.

    Attributes:
        restart: ``permanent`` comes back after every end, ``transient`` after every end but done,
            ``temporary`` never; none of them while its input is at fault, which another try does not mend.
        give_up: ``intensity`` restarts within ``period`` seconds end in FAILED; else it is tried for ever.
        first_delay: seconds before the second restart; it doubles from there.
        cap: longest delay, seconds.
    """

    restart: str = "permanent"
    give_up: bool = False
    intensity: int = 5
    period: float = 60.0
    first_delay: float = 0.25
    cap: float = 60.0


@dataclass(frozen=True, slots=True)
class Tally:
    """Ends and restarts since the daemon started, counted apart."""

    asked: int = 0
    config: int = 0
    accidents: int = 0
    refusals: int = 0
    inputs: int = 0
    wrong_generation: int = 0
    clean: int = 0
    restarts: int = 0


_TALLY_FIELD = {
    Why.ASKED: "asked",
    Why.CONFIG: "config",
    Why.ACCIDENT: "accidents",
    Why.REFUSAL: "refusals",
    Why.INPUT: "inputs",
    Why.WRONG_GENERATION: "wrong_generation",
    Why.DONE: "clean",
}
_REFUSAL_STEP = 3


@dataclass(frozen=True, slots=True)
class History:
    """What ``judge`` needs to remember.

    Attributes:
        n: ends in a row since health was last proven.
        restart_times: when policy last started it again, at most ``intensity`` of them, oldest first.
        last_delay: seconds last waited in BACKOFF.
        v0_tried: this try has had its start in wire generation v0.
        tally: counters for status.
    """

    n: int = 0
    restart_times: tuple[float, ...] = ()
    last_delay: float = 0.0
    v0_tried: bool = False
    tally: Tally = field(default_factory=Tally)

    def settled_after(self) -> float:
        """Seconds in RUNNING, verdict ok, after which health counts as proven."""
        return max(10.0, 2.0 * self.last_delay)

    def proven(self) -> History:
        """The same once health is proven: no ends in a row; ``give_up`` still sees the restarts."""
        return History(restart_times=self.restart_times, tally=self.tally)

    def forgiven(self) -> History:
        """The same when a human tries anew: everything but the counters is forgotten."""
        return History(tally=self.tally)

    def eased(self) -> History:
        """The same when its device has appeared: what failed without it says little of the next try."""
        return replace(self, n=min(self.n, _REFUSAL_STEP), last_delay=0.0)

    def after(self, exit: Exit, decision: Restart | Rest | GiveUp) -> History:  # noqa: A002 - the room's word
        """The history once ``decision`` was taken about ``exit``."""
        name = _TALLY_FIELD[exit.kind]
        tally = replace(self.tally, **{name: getattr(self.tally, name) + 1})
        if not isinstance(decision, Restart):
            return replace(self, tally=tally, v0_tried=False)
        if not decision.counted:
            return replace(self, tally=tally, v0_tried=True)
        return replace(self, n=self.n + 1, last_delay=decision.delay, v0_tried=False, tally=tally)

    def restarted(self, now: float, keep: int) -> History:
        """The same after policy started the source again at ``now``; the last ``keep`` times stay."""
        tally = replace(self.tally, restarts=self.tally.restarts + 1)
        return replace(self, restart_times=(*self.restart_times, now)[-keep:], tally=tally)


@dataclass(frozen=True, slots=True)
class Restart:
    """Start again at ``at`` (seconds, monotonic), ``delay`` seconds from the judgement.

    ``counted`` is False for the one respawn in another wire generation, which is not a failure.
    """

    at: float
    delay: float = 0.0
    counted: bool = True


@dataclass(frozen=True, slots=True)
class Rest:
    """Stay DOWN; ``why`` is ``stopped`` or ``done``."""

    why: str
    state: State = State.DOWN


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The configured limit was reached: FAILED."""

    why: str
    state: State = State.FAILED


def backoff(policy: Policy, n: int, dice: float) -> float:
    """Seconds to wait after ``n`` >= 1 ends in a row: uniform in [d/2, d], d doubling up to the cap."""
    d = min(policy.cap, math.ldexp(policy.first_delay, min(n - 1, 64)))
    return d * (1.0 + dice) / 2.0


def judge(policy: Policy, history: History, exit: Exit, now: float, dice: float) -> Restart | Rest | GiveUp:  # noqa: A002 - the room's word
    """Say what becomes of a source whose incarnation ended and which is wanted up.

    Args:
        policy: the configured wish.
        history: before this end; ``History.after`` gives the one after it.
        exit: how it ended.
        now: seconds, monotonic.
        dice: in [0, 1); chooses the place inside the jitter.
    """
    if exit.kind is Why.ASKED:
        return Rest("stopped")
    if exit.kind is Why.WRONG_GENERATION and not history.v0_tried:
        return Restart(now, counted=False)  # still its first start: the greeting takes two (wire/greeting.py)
    if (
        exit.kind is Why.INPUT
        or policy.restart == "temporary"
        or (policy.restart == "transient" and exit.kind is Why.DONE)
    ):
        return Rest("done")
    recent = [at for at in history.restart_times if now - at < policy.period]
    if policy.give_up and len(recent) >= policy.intensity:
        return GiveUp(f"{len(recent)} restarts within {policy.period:g} s; last: {exit.problem}: {exit.text}")
    if exit.kind is Why.CONFIG and not exit.soon:
        delay = policy.cap * (1.0 + dice) / 2.0
    elif exit.kind in {Why.CONFIG, Why.REFUSAL}:
        delay = backoff(policy, max(history.n, _REFUSAL_STEP), dice)
    elif history.n == 0:
        delay = 0.0
    else:
        delay = backoff(policy, history.n, dice)
    return Restart(now + delay, delay)
