"""A source's life: states, events, how it ended, when to try again, and whether a helper still lives.

Pure: no trio, no fds, no clock. Every function that needs the time takes ``now`` (seconds, monotonic), and
what needs chance takes ``dice`` in [0, 1). The supervisor's coroutine stands where the state says it stands;
this file says what an event means there.

Rules:
  1. Events never move the state. ``Life.post`` looks up ``ANSWERS``; the coroutine acts on the answer and
     walks to ``Life.enter``, which accepts only arrows found in the same table.
  2. Only orders change ``wanted``. Policy never starts what an operator stopped.
  3. An event of an older incarnation is counted and dropped before the look-up.

The table, with what each answer asks of the coroutine:
  wake  go to STARTING.                       same  already so; tell the caller.
  end   leave the incarnation, to STOPPING.   keep  remembered; acted on when the process tree is empty.
  go    go to the state named.                note  counted and shown, nothing else.
  bug   cannot happen: traceback, counter; the state stays.
"""

from __future__ import annotations

import errno as errno_names
import math
import signal as signal_names
from collections import Counter
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from helperd.errors import (
    HelperdError,
    HelperExited,
    LaunchFailed,
    OpenRefused,
    PrivsepError,
    RemoteProtocolError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class State(StrEnum):
    """Where a source's coroutine stands."""

    DOWN = "down"
    STARTING = "starting"
    GREETING = "greeting"
    OPENING = "opening"
    RUNNING = "running"
    STOPPING = "stopping"
    BACKOFF = "backoff"
    FAILED = "failed"


PROMISES: dict[State, str] = {
    State.DOWN: "no process, tree empty, device free; why: never-started, stopped or done",
    State.STARTING: "waits for a slot or for the launcher; at most one process is about to exist",
    State.GREETING: "one process with exactly its profile's privilege; only a PING was sent",
    State.OPENING: "generation fixed, open request sent; text may come, packets may not",
    State.RUNNING: "the helper said yes; packets flow; the verdict on its liveness is current",
    State.STOPPING: "nothing new is asked, what still arrives is delivered, the ladder climbs",
    State.BACKOFF: "no process, tree empty; the next try has one fixed time, which is shown",
    State.FAILED: "no process; the configured limit was reached; only an order leads out",
}


class Event(StrEnum):
    """What can happen to a source; the first five are orders."""

    START = "start"
    RESTART = "restart"
    STOP = "stop"
    REPLACE = "replace"
    REMOVE = "remove"
    ENDED = "ended"
    HUNG = "hung"
    DUE = "due"
    OUR_FAULT = "our-fault"
    LAUNCHED = "launched"
    LAUNCH_REFUSED = "launch-refused"
    GREETED = "greeted"
    OPENED = "opened"
    OPEN_REFUSED = "open-refused"
    SETTLED = "settled"
    EMPTY = "empty"
    DEVICE_APPEARED = "device-appeared"


ORDERS = frozenset({Event.START, Event.RESTART, Event.STOP, Event.REPLACE, Event.REMOVE})
_TRIES = frozenset({Event.START, Event.RESTART, Event.REPLACE})


class Answer(StrEnum):
    """What the coroutine does about an event; see the head of this file."""

    WAKE = "wake"
    SAME = "same"
    END = "end"
    KEEP = "keep"
    GO = "go"
    NOTE = "note"
    BUG = "bug"


# One column per state, in State's order. "go:NAME" names a state, or: leave (the source is removed), rung
# (the next one of the stop ladder), verdict (what Life.verdict says).
_TABLE: dict[Event, str] = {
    #                       DOWN     STARTING    GREETING   OPENING    RUNNING STOPPING   BACKOFF  FAILED
    Event.START: "          wake     same        same       same       same    keep       wake     wake",
    Event.RESTART: "        wake     same        end        end        end     keep       wake     wake",
    Event.STOP: "           same     end         end        end        end     keep       go:down  go:down",
    Event.REPLACE: "        wake     end         end        end        end     keep       wake     wake",
    Event.REMOVE: "         go:leave end         end        end        end     keep       go:leave go:leave",
    Event.ENDED: "          bug      bug         end        end        end     note       bug      bug",
    Event.HUNG: "           bug      bug         bug        bug        end     note       bug      bug",
    Event.DUE: "            bug      end         end        end        bug     go:rung    wake     bug",
    Event.OUR_FAULT: "      note     end         end        end        end     go:rung    note     note",
    Event.LAUNCHED: "       bug      go:greeting bug        bug        bug     keep       bug      bug",
    Event.LAUNCH_REFUSED: " bug      end         bug        bug        bug     note       bug      bug",
    Event.GREETED: "        bug      bug         go:opening bug        bug     note       bug      bug",
    Event.OPENED: "         bug      bug         bug        go:running bug     note       bug      bug",
    Event.OPEN_REFUSED: "   bug      bug         bug        end        bug     note       bug      bug",
    Event.SETTLED: "        bug      bug         bug        bug        note    note       bug      bug",
    Event.EMPTY: "          bug      bug         bug        bug        bug     go:verdict bug      bug",
    Event.DEVICE_APPEARED: "note     note        note       note       note    note       wake     note",
}
_WHITHER: dict[str, State | None] = {
    "wake": State.STARTING,
    "end": State.STOPPING,
    "go:leave": None,
    "go:verdict": None,
    "go:rung": State.STOPPING,
    "go:down": State.DOWN,
    "go:greeting": State.GREETING,
    "go:opening": State.OPENING,
    "go:running": State.RUNNING,
}

ANSWERS: dict[State, dict[Event, tuple[Answer, State | None]]] = {
    state: {
        event: (Answer(row.split()[column].partition(":")[0]), _WHITHER.get(row.split()[column]))
        for event, row in _TABLE.items()
    }
    for column, state in enumerate(State)
}
"""Every (state, event) pair: the answer, and the state it leads to. None as the state of a ``go`` is leave
(event remove) or what the verdict says (event empty). The one pair that needs a second look: ``replace`` of a
source that is DOWN and not wanted up is kept, not woken."""

VERDICTS: frozenset[State | None] = frozenset({State.STARTING, State.BACKOFF, State.DOWN, State.FAILED, None})
"""Where a stopped incarnation can lead; None is leave."""

ARROWS: dict[State, frozenset[State | None]] = {
    state: frozenset(
        target
        for event, (answer, whither) in row.items()
        if answer in {Answer.WAKE, Answer.END, Answer.GO}
        for target in (VERDICTS if event is Event.EMPTY else {whither})
    )
    for state, row in ANSWERS.items()
}
"""The moves ``Life.enter`` accepts, read out of ``ANSWERS``."""


# How it ended.


class Why(StrEnum):
    """The kind of an end; they are counted apart."""

    ASKED = "asked"
    CONFIG = "config"
    ACCIDENT = "accident"
    REFUSAL = "refusal"
    WRONG_GENERATION = "wrong-generation"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Exit:
    """How one incarnation ended, as a value.

    Attributes:
        kind: what the policy judges by.
        problem: a word of ``errors.PROBLEMS``, or ``done``, or ``asked``.
        text: the sentence for people.
        code: exit code of the main process, None when it did not exit by itself or is unknown.
        signal: number of the signal that ended it, else None.
        core: the kernel wrote a core file.
    """

    kind: Why
    problem: str
    text: str
    code: int | None = None
    signal: int | None = None
    core: bool = False


@dataclass(frozen=True, slots=True)
class Ending:
    """What is known about an end, for ``classify``; leave out what is not known.

    Attributes:
        asked: the order that ended it (``stop``, ``reload``, ...), empty when nobody asked.
        error: what came out of the incarnation, as the exception it was.
        hung: problem word of the liveness verdict, or ``timed-out``; empty when there was none.
        hung_text: the evidence for it, for people.
        how: how the main process ended: ``exited``, ``signal``, ``exec-failed``, ``unverified``; empty: unknown.
        code: exit code, signal number, errno, or the number of the field that differs, as ``how`` says.
        core: the kernel wrote a core file.
        oom: the count of kills for lack of memory rose in the helper's cgroup.
        greeted: a valid frame was received.
        v0_allowed: the driver allows wire generation v0 and this incarnation did not use it.
        shutdown: text of the helper's own Shutdown message; None when none came.
        status_meaningful: the driver declares that exit code 0 means done.
    """

    asked: str = ""
    error: BaseException | None = None
    hung: str = ""
    hung_text: str = ""
    how: str = ""
    code: int | None = None
    core: bool = False
    oom: bool = False
    greeted: bool = True
    v0_allowed: bool = False
    shutdown: str | None = None
    status_meaningful: bool = False


_NOT_INSTALLED = frozenset({errno_names.ENOENT, errno_names.ENOTDIR, errno_names.ELOOP})
_NOT_PERMITTED = frozenset({errno_names.EACCES, errno_names.EPERM})
_SHORTAGE = frozenset(
    {errno_names.EMFILE, errno_names.ENFILE, errno_names.EAGAIN, errno_names.ENOMEM, errno_names.ENOSPC}
)
_SHORT_OF = frozenset({"no-resources", "launcher-busy", "launcher-gone", "busy", "timed-out", "bug"})
_OTHER_GENERATION = frozenset({"wrong-generation", "bad-version", "bad-signature"})


def classify(ending: Ending) -> Exit:
    """Say how an incarnation ended: the one place that decodes a wait status. First hit wins.

    Order: asked; config (the launcher refused, exec failed, code 127) or a shortage met there; wrong
    generation; refusal; hung or out of time; the wire; our own fault; done; signal; any other exit.
    """
    for rule in (_by_order, _at_launch, _before_greeting, _by_refusal, _by_verdict, _by_error, _by_itself):
        found = rule(ending)
        if found is not None:
            return replace(found, code=_code(ending), signal=_signal(ending), core=ending.core)
    text = "the helper closed its output" if ending.how == "" else f"the helper {_ended_how(ending)}"
    return Exit(Why.ACCIDENT, "exited", text, _code(ending), None, ending.core)


def _code(ending: Ending) -> int | None:
    return ending.code if ending.how == "exited" else None


def _signal(ending: Ending) -> int | None:
    return ending.code if ending.how == "signal" else None


def _ended_how(ending: Ending) -> str:
    """The wait status in words."""
    if ending.how == "signal" and ending.code is not None:
        try:
            name = signal_names.Signals(ending.code).name
        except ValueError:
            name = f"signal {ending.code}"
        return f"was ended by {name}" + (" and left a core file" if ending.core else "")
    if ending.how == "exited":
        return f"exited with code {ending.code}"
    return "ended; how is unknown"


def _by_order(ending: Ending) -> Exit | None:
    return Exit(Why.ASKED, "asked", f"ended by order: {ending.asked}") if ending.asked else None


def _at_launch(ending: Ending) -> Exit | None:
    """The launcher said no, or the program could not become what its profile says."""
    error = ending.error
    if isinstance(error, LaunchFailed | PrivsepError):
        kind = Why.ACCIDENT if error.problem in _SHORT_OF else Why.CONFIG
        return Exit(kind, error.problem, error.text)
    if ending.how == "exec-failed":
        code = ending.code or 0
        reason = errno_names.errorcode.get(code, f"errno {code}")
        if code in _SHORTAGE:
            return Exit(Why.ACCIDENT, "no-resources", f"the program could not be executed: {reason}")
        problem = "exec-failed"
        if code in _NOT_INSTALLED:
            problem = "not-installed"
        elif code in _NOT_PERMITTED:
            problem = "not-permitted"
        return Exit(
            Why.CONFIG, problem, f"the program could not be executed: {reason}; check the helper's command"
        )
    if ending.how == "unverified":
        return Exit(
            Why.CONFIG,
            "privilege-mismatch",
            f"the started process differs from its profile (field {ending.code}) and was ended",
        )
    if ending.how == "exited" and ending.code == 127:
        return Exit(
            Why.CONFIG,
            "not-installed",
            "the helper exited with code 127: a program it needs is not installed",
        )
    return None


def _before_greeting(ending: Ending) -> Exit | None:
    """A v0 helper exits at a v2 PING: try once more in v0, where the driver allows it."""
    if ending.greeted or not ending.v0_allowed or ending.hung:
        return None
    error = ending.error
    wire = isinstance(error, RemoteProtocolError) and error.problem in _OTHER_GENERATION
    left = (error is None or isinstance(error, HelperExited)) and ending.how == "exited"
    if not wire and not left:
        return None
    return Exit(
        Why.WRONG_GENERATION, "wrong-generation", "no answer to the v2 PING; trying wire generation v0"
    )


def _by_refusal(ending: Ending) -> Exit | None:
    error = ending.error
    if isinstance(error, OpenRefused):
        return Exit(Why.REFUSAL, error.problem, error.text)
    return None


def _by_verdict(ending: Ending) -> Exit | None:
    if not ending.hung:
        return None
    return Exit(Why.ACCIDENT, ending.hung, ending.hung_text or f"judged {ending.hung}")


def _by_error(ending: Ending) -> Exit | None:
    """The wire refused bytes, time ran out, or our own code failed."""
    error = ending.error
    if error is None or isinstance(error, HelperExited):
        return None
    if isinstance(error, HelperdError):
        return Exit(Why.ACCIDENT, error.problem, str(error).removeprefix(f"{error.problem}: "))
    return Exit(Why.ACCIDENT, "bug", f"{type(error).__name__}: {error}")


def _by_itself(ending: Ending) -> Exit | None:
    """The helper ended with nobody asking and nothing wrong on the wire."""
    if ending.oom:
        return Exit(Why.ACCIDENT, "out-of-memory", "the kernel ended the helper for lack of memory")
    if ending.how == "signal":
        return Exit(Why.ACCIDENT, "killed", f"the helper {_ended_how(ending)}")
    if ending.shutdown is not None:
        return Exit(Why.DONE, "done", f"the helper said it is done: {ending.shutdown}".removesuffix(": "))
    if ending.status_meaningful and ending.how == "exited" and ending.code == 0:
        return Exit(Why.DONE, "done", "the helper exited with code 0")
    return None


# When to try again.


@dataclass(frozen=True, slots=True)
class Policy:
    """The configured wish.

    Attributes:
        restart: ``permanent`` comes back after every end, ``transient`` after every end but done,
            ``temporary`` never.
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
    wrong_generation: int = 0
    clean: int = 0
    restarts: int = 0


_TALLY_FIELD = {
    Why.ASKED: "asked",
    Why.CONFIG: "config",
    Why.ACCIDENT: "accidents",
    Why.REFUSAL: "refusals",
    Why.WRONG_GENERATION: "wrong_generation",
    Why.DONE: "clean",
}
_CRASH_LOOP = 5
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
    if policy.restart == "temporary" or (policy.restart == "transient" and exit.kind is Why.DONE):
        return Rest("done")
    if exit.kind is Why.WRONG_GENERATION and not history.v0_tried:
        return Restart(now, counted=False)
    recent = [at for at in history.restart_times if now - at < policy.period]
    if policy.give_up and len(recent) >= policy.intensity:
        return GiveUp(f"{len(recent)} restarts within {policy.period:g} s; last: {exit.problem}: {exit.text}")
    if exit.kind is Why.CONFIG:
        delay = policy.cap * (1.0 + dice) / 2.0
    elif exit.kind is Why.REFUSAL:
        delay = backoff(policy, max(history.n, _REFUSAL_STEP), dice)
    elif history.n == 0:
        delay = 0.0
    else:
        delay = backoff(policy, history.n, dice)
    return Restart(now + delay, delay)


# One source.


@dataclass(slots=True, eq=False)
class Life:
    """One source's life as plain data, and the walker of the table.

    Attributes:
        name: the source's.
        policy: may be replaced in place by a reload.
        state: where the coroutine stands; ``since`` when it came there.
        why: in DOWN and FAILED, the reason; in STOPPING what ended the incarnation; else empty.
        incarnation: number of the present or last process tree, from 1; 0 before the first.
        wanted: ``up`` or ``down``; changed by orders alone.
        kept: False once removed.
        woken: an order, a due time or a device asks for STARTING; level, not edge: the parked coroutine
            goes to STARTING when it finds it set, whatever was answered in between.
        ended_by: the event that ended the present incarnation and its detail; None while it lives.
        exit: how the last incarnation ended.
        next_try_at: in BACKOFF, seconds, monotonic; else None.
        notes: events answered with note; ``bugs``: with bug; ``stale``: dropped, of an older incarnation.
        on_change: called after every enter and every order that changed something.
    """

    name: str
    policy: Policy = field(default_factory=Policy)
    since: float = 0.0
    state: State = State.DOWN
    why: str = "never-started"
    incarnation: int = 0
    wanted: str = "down"
    kept: bool = True
    woken: bool = False
    orders: set[Event] = field(default_factory=set)
    ended_by: tuple[Event, Mapping[str, object]] | None = None
    exit: Exit | None = None
    next_try_at: float | None = None
    history: History = field(default_factory=History)
    notes: Counter[Event] = field(default_factory=Counter)
    bugs: int = 0
    stale: int = 0
    device_at: float | None = None
    on_change: Callable[[Life], object] | None = field(default=None, repr=False)

    @property
    def crash_loop(self) -> bool:
        """At least five ends in a row and health not proven since."""
        return self.history.n >= _CRASH_LOOP

    @property
    def settles_at(self) -> float | None:
        """When this incarnation, if its verdict stays ok, has proven health; None outside RUNNING."""
        return self.since + self.history.settled_after() if self.state is State.RUNNING else None

    def new_incarnation(self) -> int:
        """Number the process tree that is about to exist."""
        self.incarnation += 1
        self.ended_by = None
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
            self.stale += 1
            return Answer.NOTE
        answer = self._look_up(event, now)
        if event in ORDERS:
            self._obey(event, answer)
        if answer is Answer.WAKE:
            self.woken = True
        elif answer is Answer.END:
            if self.ended_by is None:
                self.ended_by = (event, detail)
        elif answer is Answer.NOTE:
            self.notes[event] += 1
            if event is Event.SETTLED and self.state is State.RUNNING:
                self.history = self.history.proven()
        elif answer is Answer.BUG:
            self.bugs += 1
        if event in ORDERS or answer is Answer.END:
            self._changed()
        return answer

    def _look_up(self, event: Event, now: float) -> Answer:
        """The table, and its two footnotes: a kept replace, and one device a second."""
        state = self.state
        if event in ORDERS and self.ended_by is not None:
            state = State.STOPPING  # told to end, not there yet: an order is for what comes after
        answer, _ = ANSWERS[state][event]
        if event is Event.REPLACE and state is State.DOWN and self.wanted == "down":
            return Answer.KEEP
        if event is Event.DEVICE_APPEARED and answer is Answer.WAKE:
            if self.device_at is not None and now - self.device_at < 1.0:
                return Answer.NOTE
            self.device_at = now
        return answer

    def _obey(self, order: Event, answer: Answer) -> None:
        """Set the wish, remember a kept order, and let a human's try be a new first try."""
        if order in {Event.START, Event.RESTART}:
            self.wanted = "up"
        elif order in {Event.STOP, Event.REMOVE}:
            self.wanted = "down"
            self.woken = False
            self.orders.clear()
        if order is Event.REMOVE:
            self.kept = False
        if answer in {Answer.KEEP, Answer.END}:
            self.orders.add(order)
        if order in _TRIES and answer is not Answer.SAME:
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
        if state is not State.BACKOFF:
            self.next_try_at = None
        if state is State.STARTING:
            if self.history.n and not self.history.v0_tried:
                self.history = self.history.restarted(now, self.policy.intensity)
            self.woken = False
            self.ended_by = None
            self.orders.clear()
        if state in {State.DOWN, State.FAILED}:
            self.woken = False
            self.orders.clear()
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
        decision = self._decide(exit, now, dice)
        self.history = self.history.after(exit, decision)
        if self.orders & _TRIES:
            self.history = self.history.forgiven()
        if not self.kept:
            return None
        if not isinstance(decision, Restart):
            return decision.state
        if decision.at <= now:
            return State.STARTING
        self.next_try_at = decision.at
        return State.BACKOFF

    def _decide(self, exit: Exit, now: float, dice: float) -> Restart | Rest | GiveUp:  # noqa: A002
        if self.wanted == "down":
            return Rest("stopped")
        if self.orders & _TRIES:
            return Restart(now, counted=False)
        return judge(self.policy, self.history, exit, now, dice)

    def _changed(self) -> None:
        if self.on_change is not None:
            self.on_change(self)


# Is it alive?


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that a liveness verdict may look at. Times are seconds, monotonic.

    Attributes:
        now: when this was gathered.
        life_at: when the last byte was read from the helper (or the window began anew).
        pinged_at: when the *first* PING after ``life_at`` left, or could not leave; None if none was due.
        holding: reads are held because a lossless consumer is full.
        our_lag: our loop was late, or the machine slept, and this was found after the last starved verdict.
        readable: bytes wait in the helper's pipe.
        runnable_starved: the helper was runnable and not run for more than half the window, or its cgroup is
            frozen; found after the last starved verdict.
        proc_state: the letter of /proc/PID/stat; empty when it may not be read.
    """

    now: float
    life_at: float
    pinged_at: float | None
    holding: bool = False
    our_lag: bool = False
    readable: bool = False
    runnable_starved: bool = False
    proc_state: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said about a helper's liveness.

    Attributes:
        word: ``ok``, ``stalled-by-consumer``, ``starved`` or ``hung``.
        reason: for hung a problem word; for starved ``ours`` or ``its``; else empty.
        life_at: the window's new beginning; the caller takes it over.
    """

    word: str
    reason: str
    life_at: float

    @property
    def hung(self) -> bool:
        """True when the incarnation is to be ended."""
        return self.word == "hung"


def verdict(evidence: Evidence, deadline: float) -> Verdict:
    """Judge a helper from which nothing came for a while; rule out ourselves and our consumers first.

    Args:
        evidence: gathered at one moment.
        deadline: seconds of silence that are allowed.
    """
    e = evidence
    waited = e.pinged_at is not None and e.now - e.pinged_at >= deadline / 2
    if e.now - e.life_at <= deadline or not waited:
        return Verdict("ok", "", e.life_at)
    if e.holding:
        return Verdict("stalled-by-consumer", "", e.now)
    if e.our_lag:
        return Verdict("starved", "ours", e.now)
    if e.readable:
        return Verdict("ok", "", e.now)
    if e.runnable_starved:
        return Verdict("starved", "its", e.now)
    reason = {"T": "stopped", "t": "stopped", "D": "stuck-in-kernel"}.get(e.proc_state, "keepalive")
    return Verdict("hung", reason, e.life_at)


@dataclass(slots=True)
class Patience:
    """A limit on waiting whose clock stands still while somebody else is to blame.

    Used for ``silence``: ``seen`` at each packet, ``hold`` while a consumer or our own lag is the cause.

    Attributes:
        limit: seconds.
        since: when the wait began, moved on by the time that was held.
    """

    limit: float
    since: float
    held_at: float | None = None

    def seen(self, now: float) -> None:
        """What was waited for came."""
        self.since = now
        if self.held_at is not None:
            self.held_at = now

    def hold(self, now: float, *, held: bool) -> None:
        """Stop the clock, or let it run again; saying the same twice is harmless."""
        if held:
            self.held_at = now if self.held_at is None else self.held_at
        elif self.held_at is not None:
            self.since += now - self.held_at
            self.held_at = None

    def waited(self, now: float) -> float:
        """Seconds waited, without what was held."""
        return (now if self.held_at is None else self.held_at) - self.since

    def over(self, now: float) -> bool:
        """True when the limit is passed."""
        return self.waited(now) > self.limit


@dataclass(slots=True)
class ChildWatch:
    """Watches that a helper which wraps a program keeps its children.

    Attributes:
        needed: living (non-zombie) descendants that must be there once they have been seen.
        grace: seconds with fewer before the helper is judged ``child-gone``.
    """

    needed: int
    grace: float = 0.5
    complete: bool = False
    missing_at: float | None = None

    def gone(self, living: int | None, now: float) -> bool:
        """True when fewer than needed have lived for ``grace``; None (not readable) is no evidence."""
        if living is None or living >= self.needed:
            self.complete = self.complete or living is not None
            self.missing_at = None
            return False
        if not self.complete:
            return False
        if self.missing_at is None:
            self.missing_at = now
        return now - self.missing_at >= self.grace


# The stop ladder.


@dataclass(frozen=True, slots=True)
class Rung:
    """One step of a stop: ``ask``, ``term``, ``kill`` or ``wait``, and how long it may take, seconds."""

    name: str
    upto: float


def ladder(*, reason: str = "", obeys_shutdown: bool = False, term_grace: float = 1.0) -> tuple[Rung, ...]:
    """The rungs to climb for a stop.

    Args:
        reason: the problem word that ended the incarnation; ``asked`` or empty for an order.
        obeys_shutdown: the driver knows the Shutdown message.
        term_grace: seconds between TERM and KILL.
    """
    rungs = [Rung("kill", 5.0), Rung("wait", math.inf)]
    if reason in {"stopped", "stuck-in-kernel", "bug"}:
        return tuple(rungs)
    rungs.insert(0, Rung("term", term_grace))
    if obeys_shutdown:
        rungs.insert(0, Rung("ask", 1.0))
    return tuple(rungs)
