"""A coroutine in miniature: acts on the answers of a life as the supervisor does, and checks its promises."""

from __future__ import annotations

import random

from helperd.lifecycle import ANSWERS, ARROWS, Answer, Event, Exit, Life, Policy, State, Why

ALIVE = {State.GREETING, State.OPENING, State.RUNNING}
ENDS = [
    Exit(Why.ACCIDENT, "killed", "x"),
    Exit(Why.REFUSAL, "open-refused", "x"),
    Exit(Why.CONFIG, "not-installed", "x"),
    Exit(Why.DONE, "done", "x"),
    Exit(Why.WRONG_GENERATION, "wrong-generation", "x"),
]


class Walker:
    """One life, its process (there is one or there is none), and the model it is held against."""

    def __init__(self, policy: Policy | None = None, seed: int = 0) -> None:
        self.dice = random.Random(seed)
        self.life = Life("s", policy or Policy())
        self.now = 0.0
        self.process = False
        self.left = False
        self.wanted = "down"  # the model's own memory of the last order
        self.ends = 0
        self.seen: set[tuple[State, Event]] = set()

    def enter(self, state: State | None) -> None:
        life = self.life
        before = life.state
        assert state in ARROWS[before]
        life.enter(state, self.now)
        if state is None:
            assert not self.process
            self.left = True
        elif state is State.STARTING:
            assert not self.process, "a second copy"
            assert self.wanted == "up", "policy started what an operator stopped"
            assert life.new_incarnation() == life.incarnation
            assert not life.woken
            assert not life.orders
        elif state is State.GREETING:
            self.process = True
        self.check()

    def post(self, event: Event, incarnation: int | None = None, **detail: object) -> Answer:
        life = self.life
        before = life.state
        self.seen.add((before, event))
        if event in {Event.START, Event.RESTART}:
            self.wanted = "up"
        elif event in {Event.STOP, Event.REMOVE}:
            self.wanted = "down"
        answer = life.post(event, self.now, incarnation, **detail)
        assert life.state is before, "an event moved the state"
        assert answer in Answer
        self.act(event, answer)
        self.check()
        return answer

    def act(self, event: Event, answer: Answer) -> None:
        life = self.life
        if answer is Answer.END:
            self.enter(State.STOPPING)
        elif answer is Answer.WAKE:
            assert life.woken
            self.enter(State.STARTING)
        elif answer is Answer.GO:
            self.go(event)

    def go(self, event: Event) -> None:
        life = self.life
        if event is Event.EMPTY:
            self.process = False
            self.ends += 1
            asked = life.ended_by is not None and life.ended_by[0] in {
                Event.STOP,
                Event.RESTART,
                Event.REPLACE,
            }
            ended = Exit(Why.ASKED, "asked", "x") if asked else self.dice.choice(ENDS)
            self.enter(life.verdict(ended, self.now, self.dice.random()))
        elif event is Event.REMOVE:
            self.enter(None)
        else:
            self.enter(ANSWERS[life.state][event][1])

    def check(self) -> None:
        """What holds at every moment."""
        life = self.life
        assert life.wanted == self.wanted
        if self.process:
            assert life.state in ALIVE | {State.STOPPING}
        if life.state in ALIVE:
            assert self.process
            assert life.wanted == "up"
        if life.state is State.BACKOFF:
            assert life.next_try_at is not None
            assert life.next_try_at <= life.since + life.policy.cap
            assert life.wanted == "up" or not life.kept
        elif life.state is not State.STOPPING:
            assert life.next_try_at is None
        if life.state in {State.DOWN, State.FAILED}:
            assert life.why
            assert life.ended_by is None or not self.process
        if life.state is State.STOPPING:
            assert life.why
        tally = life.history.tally
        counted = (
            tally.asked
            + tally.config
            + tally.accidents
            + tally.refusals
            + tally.clean
            + tally.wrong_generation
        )
        assert counted == self.ends
        assert tally.restarts <= self.ends
        assert life.crash_loop == (life.history.n >= 5)

    def progress(self) -> None:
        """One step of a healthy start, or of a stop."""
        steps = {
            State.STARTING: Event.LAUNCHED,
            State.GREETING: Event.GREETED,
            State.OPENING: Event.OPENED,
            State.RUNNING: Event.ENDED,
            State.STOPPING: Event.EMPTY,
            State.BACKOFF: Event.DUE,
        }
        if self.life.state in steps:
            self.post(steps[self.life.state])

    def until(self, state: State) -> Walker:
        """Make progress until the life stands in ``state``."""
        for _ in range(20):
            if self.life.state is state:
                return self
            self.progress()
        raise AssertionError(f"never came to {state}, stands in {self.life.state}")
