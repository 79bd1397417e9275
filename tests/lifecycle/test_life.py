"""One source's life: every pair walked, orders obeyed, and random walks that find no illegal state."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from helperd.errors import HelperdError
from helperd.lifecycle import ANSWERS, ARROWS, Answer, Event, Exit, History, Life, Policy, State, Tally, Why

from .walker import ENDS, Walker

KILLED, ASKED, DONE = ENDS[0], Exit(Why.ASKED, "asked", "x"), ENDS[3]


def standing(state: State, policy: Policy | None = None) -> Walker:
    """A wanted source that stands in ``state``, its clock at 100."""
    walker = Walker(policy)
    if state is State.DOWN:
        return walker
    walker.post(Event.START)
    walker.now = 100.0
    if state is State.FAILED:
        walker.life.policy = Policy(give_up=True, intensity=1)
        walker.life.history = History(n=1, restart_times=(100.0,))
        walker.dice.choice = lambda _ends: KILLED
    if state is State.BACKOFF:
        walker.life.history = History(n=3)
        walker.dice.choice = lambda _ends: KILLED
    return walker.until(state)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_every_pair_walked_gives_the_tables_answer(state, event):
    walker = standing(state)
    life = walker.life
    life.wanted = walker.wanted = "up"
    life.device_at = None
    expected, target = ANSWERS[state][event]
    bugs = life.bugs
    assert walker.post(event) is expected
    assert life.bugs == bugs + (expected is Answer.BUG)
    if expected in {Answer.NOTE, Answer.BUG, Answer.SAME, Answer.KEEP}:
        assert life.state is state
    elif target is not None:
        assert life.state is target


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("target", [*State, None])
def test_only_the_tables_arrows_are_walked(state, target):
    walker = standing(state)
    life = walker.life
    life.wanted = "up"
    if target in ARROWS[state]:
        life.enter(target, 200.0)
        assert life.state is (state if target is None else target)
        return
    with pytest.raises(
        HelperdError, match=f"s: no arrow leads from {state} to {target or 'leave'}$"
    ) as caught:
        life.enter(target, 200.0)
    assert caught.value.problem == "bug"
    assert life.state is state


def test_a_new_life_has_never_started():
    life = Life("a")
    assert (life.state, life.why, life.wanted, life.kept, life.incarnation) == (
        State.DOWN,
        "never-started",
        "down",
        True,
        0,
    )
    assert (life.exit, life.next_try_at, life.settles_at, life.crash_loop) == (None, None, None, False)
    assert life.history == History()
    assert (life.since, life.history.last_delay) == (0.0, 0.0)
    assert (life.woken, life.orders, life.ended_by, life.bugs, life.appeared) == (
        False,
        set(),
        None,
        0,
        False,
    )


def test_since_is_when_the_state_was_entered():
    walker = standing(State.RUNNING)
    assert walker.life.since == 100.0
    walker.now = 110.0
    walker.post(Event.ENDED)
    assert walker.life.since == 110.0
    walker.now = 111.0
    walker.post(Event.DUE)  # the next rung is no new state
    assert (walker.life.state, walker.life.since) == (State.STOPPING, 110.0)


def test_events_of_another_incarnation_are_dropped():
    walker = standing(State.RUNNING)
    life = walker.life
    assert life.post(Event.ENDED, 101.0, life.incarnation - 1) is Answer.NOTE
    assert life.post(Event.ENDED, 101.0, life.incarnation + 1) is Answer.NOTE
    assert (life.ended_by, life.bugs) == (None, 0)
    assert life.post(Event.ENDED, 101.0, life.incarnation) is Answer.END


def test_incarnations_are_numbered_from_one():
    walker = standing(State.RUNNING)
    assert walker.life.incarnation == 1
    walker.post(Event.RESTART)
    walker.until(State.RUNNING)
    assert walker.life.incarnation == 2


def test_the_first_reason_that_ends_an_incarnation_is_kept():
    life = standing(State.RUNNING).life
    assert life.post(Event.HUNG, 1.0, reason="stopped") is Answer.END
    assert life.post(Event.ENDED, 1.0) is Answer.END
    assert life.ended_by == (Event.HUNG, {"reason": "stopped"})
    life.enter(State.STOPPING, 2.0)
    assert life.why == "hung"
    assert life.post(Event.ENDED, 3.0) is Answer.NOTE
    assert life.ended_by == (Event.HUNG, {"reason": "stopped"})


def test_the_reason_of_a_stop_can_be_said():
    life = standing(State.RUNNING).life
    life.post(Event.HUNG, 1.0)
    life.enter(State.STOPPING, 2.0, "keepalive")
    assert life.why == "keepalive"
    life.enter(State.STOPPING, 3.0)
    assert life.why == "hung"


def test_a_new_incarnation_does_not_inherit_the_old_ones_end():
    walker = standing(State.RUNNING)
    walker.post(Event.ENDED)
    assert walker.life.ended_by is not None
    walker.until(State.STARTING)
    assert walker.life.ended_by is None
    assert walker.life.why == ""


# orders


def test_start_wakes_and_stop_rests():
    walker = standing(State.RUNNING)
    walker.post(Event.STOP)
    assert (walker.life.state, walker.life.why) == (State.STOPPING, "stop")
    walker.until(State.DOWN)
    assert (walker.life.why, walker.life.wanted, walker.life.exit) == ("stopped", "down", ASKED)


@pytest.mark.parametrize("order", [Event.RESTART, Event.REPLACE])
def test_restart_and_replace_come_back_at_once_as_a_first_try(order):
    walker = standing(State.RUNNING)
    walker.life.history = History(n=7, restart_times=(1.0,), last_delay=8.0)
    walker.post(order)
    assert walker.life.state is State.STOPPING
    walker.post(Event.EMPTY)
    assert walker.life.state is State.STARTING
    assert walker.life.history == History(tally=Tally(asked=1))


@pytest.mark.parametrize("order", [Event.START, Event.RESTART, Event.REPLACE])
def test_an_order_during_the_stop_is_kept_until_the_tree_is_empty(order):
    walker = standing(State.RUNNING)
    walker.life.history = History(n=7)
    walker.post(Event.ENDED)
    walker.dice.choice = lambda _ends: KILLED
    assert walker.post(order) is Answer.KEEP
    assert walker.life.orders == {order}
    walker.post(Event.EMPTY)
    assert walker.life.state is State.STARTING
    assert walker.life.orders == set()
    assert walker.life.history == History(tally=Tally(accidents=1))


def test_the_last_word_counts():
    walker = standing(State.RUNNING)
    walker.post(Event.STOP)
    walker.post(Event.START)
    walker.post(Event.EMPTY)
    assert walker.life.state is State.STARTING
    walker.until(State.RUNNING)
    walker.post(Event.RESTART)
    walker.post(Event.STOP)
    walker.post(Event.EMPTY)
    assert walker.life.state is State.DOWN


def test_a_replace_of_a_source_that_is_being_stopped_does_not_start_it():
    walker = standing(State.RUNNING)
    walker.post(Event.STOP)
    assert walker.post(Event.REPLACE) is Answer.KEEP
    walker.post(Event.EMPTY)
    assert walker.life.state is State.DOWN
    assert walker.post(Event.REPLACE) is Answer.KEEP
    assert (walker.life.state, walker.life.woken) == (State.DOWN, False)


def test_a_replace_wakes_a_source_that_is_done_but_wanted():
    walker = standing(State.RUNNING, Policy("transient"))
    walker.dice.choice = lambda _ends: DONE
    walker.until(State.DOWN)
    assert (walker.life.why, walker.life.wanted) == ("done", "up")
    assert walker.post(Event.REPLACE) is Answer.WAKE


def test_an_order_after_the_end_was_told_is_for_what_comes_after():
    life = standing(State.RUNNING).life
    assert life.post(Event.STOP, 1.0) is Answer.END
    assert life.post(Event.START, 1.0) is Answer.KEEP  # the coroutine has not moved yet
    assert life.wanted == "up"
    life.enter(State.STOPPING, 1.0)
    assert life.verdict(ASKED, 1.0, 0.0) is State.STARTING


def test_an_order_to_stop_takes_back_the_waking():
    life = Life("a")
    assert life.post(Event.START, 0.0) is Answer.WAKE
    assert life.woken
    assert life.post(Event.STOP, 0.0) is Answer.SAME
    assert (life.woken, life.wanted) == (False, "down")
    with pytest.raises(HelperdError, match=r"a: would start although it is not wanted up$") as caught:
        life.enter(State.STARTING, 0.0)
    assert caught.value.problem == "bug"
    assert life.state is State.DOWN


def test_a_stop_in_backoff_forgets_the_next_try():
    walker = standing(State.BACKOFF)
    assert walker.life.next_try_at is not None
    walker.post(Event.STOP)
    assert (walker.life.state, walker.life.next_try_at, walker.life.why) == (State.DOWN, None, "stopped")


def test_a_start_in_backoff_is_a_new_first_try():
    walker = standing(State.BACKOFF)
    assert walker.life.history.n == 4
    walker.post(Event.START)
    assert (walker.life.state, walker.life.next_try_at) == (State.STARTING, None)
    assert walker.life.history.n == 0
    assert walker.life.history.tally.restarts == 0


def test_a_start_of_what_runs_changes_nothing():
    walker = standing(State.RUNNING)
    walker.life.history = History(n=7)
    assert walker.post(Event.START) is Answer.SAME
    assert walker.life.history == History(n=7)
    assert walker.life.orders == set()


@pytest.mark.parametrize("state", State)
def test_a_removed_source_leaves_when_its_tree_is_empty(state):
    walker = standing(state)
    walker.post(Event.REMOVE)
    assert not walker.life.kept
    if not walker.left:
        assert walker.life.state is State.STOPPING
        walker.post(Event.START)  # too late
        walker.post(Event.EMPTY)
    assert walker.left
    assert not walker.process


def test_a_removed_source_that_died_is_not_judged():
    life = standing(State.RUNNING).life
    life.post(Event.ENDED, 1.0)
    life.enter(State.STOPPING, 1.0)
    life.post(Event.REMOVE, 1.0)
    assert life.verdict(KILLED, 1.0, 0.0) is None
    assert (life.exit, life.history.tally.accidents, life.next_try_at) == (KILLED, 1, None)


# the verdict


def test_the_verdict_sets_the_one_time_of_the_next_try():
    life = standing(State.RUNNING).life
    life.history = History(n=3)
    life.post(Event.ENDED, 200.0)
    life.enter(State.STOPPING, 200.0)
    assert life.verdict(KILLED, 201.0, 0.5) is State.BACKOFF
    assert life.next_try_at == 201.75
    life.enter(State.BACKOFF, 201.0)
    assert (life.next_try_at, life.history.n, life.history.last_delay) == (201.75, 4, 0.75)
    assert life.exit is KILLED
    assert life.post(Event.DUE, 201.75) is Answer.WAKE
    life.enter(State.STARTING, 201.75)
    assert life.next_try_at is None
    assert life.history.restart_times == (201.75,)


def test_the_first_failure_starts_again_without_backoff():
    walker = standing(State.RUNNING)
    walker.dice.choice = lambda _ends: KILLED
    walker.post(Event.ENDED)
    walker.post(Event.EMPTY)
    assert walker.life.state is State.STARTING
    assert (walker.life.history.n, walker.life.history.tally.restarts) == (1, 1)
    assert walker.life.history.restart_times == (100.0,)


def test_a_try_in_another_generation_is_no_restart():
    walker = standing(State.GREETING)
    walker.life.history = History(n=2)
    walker.dice.choice = lambda _ends: ENDS[4]
    walker.post(Event.ENDED)
    walker.post(Event.EMPTY)
    assert walker.life.state is State.STARTING
    assert walker.life.history == History(n=2, v0_tried=True, tally=Tally(wrong_generation=1))


def test_giving_up_waits_for_an_order():
    walker = standing(State.FAILED)
    assert walker.life.why == "gave-up"
    for event in set(Event) - {Event.START, Event.RESTART, Event.STOP, Event.REPLACE, Event.REMOVE}:
        walker.post(event)
        assert walker.life.state is State.FAILED
    walker.post(Event.START)
    assert walker.life.state is State.STARTING
    assert walker.life.history.restart_times == ()


def test_only_intensity_restarts_are_remembered():
    walker = Walker(Policy(intensity=2))
    walker.dice.choice = lambda _ends: KILLED
    walker.post(Event.START)
    for _ in range(40):
        walker.now += 1
        walker.progress()
    assert len(walker.life.history.restart_times) == 2


def test_proven_health_forgets_the_failures():
    walker = standing(State.RUNNING)
    walker.life.history = History(n=6, restart_times=(9.0,), last_delay=8.0)
    assert walker.life.crash_loop
    assert walker.life.settles_at == 116.0
    assert walker.post(Event.SETTLED) is Answer.NOTE
    assert walker.life.history == History(restart_times=(9.0,))
    assert not walker.life.crash_loop
    assert walker.life.settles_at == 110.0


def test_a_late_proof_is_no_proof():
    walker = standing(State.RUNNING)
    walker.life.history = History(n=6)
    walker.post(Event.ENDED)
    assert walker.life.settles_at is None
    assert walker.post(Event.SETTLED) is Answer.NOTE
    assert walker.life.history.n == 6


def test_five_ends_in_a_row_are_a_crash_loop():
    life = Life("a", history=History(n=4))
    assert not life.crash_loop
    life.history = History(n=5)
    assert life.crash_loop


def waiting(now: float, n: int = 9) -> Walker:
    """A life that has failed again and again, and has just begun a long wait."""
    walker = standing(State.BACKOFF)
    walker.now = now
    walker.life.history = replace(walker.life.history, n=n, last_delay=60.0)
    walker.life.next_try_at = now + 60.0
    return walker


def test_a_device_that_appears_wakes_at_once_and_what_failed_without_it_counts_little():
    walker = waiting(100.0)
    assert walker.post(Event.DEVICE_APPEARED) is Answer.WAKE
    assert walker.life.state is State.STARTING
    assert (walker.life.history.n, walker.life.history.last_delay) == (3, 0.0)


def test_a_device_that_appears_again_within_a_second_is_tried_when_the_second_is_over():
    walker = waiting(100.0)
    walker.post(Event.DEVICE_APPEARED)
    walker.until(State.BACKOFF)
    walker.now = 100.25
    walker.life.next_try_at = 150.0
    for _ in range(3):  # not a second later each time
        assert walker.post(Event.DEVICE_APPEARED) is Answer.NOTE
        assert (walker.life.state, walker.life.next_try_at) == (State.BACKOFF, 101.0)
    walker.now = 101.0
    walker.life.next_try_at = 150.0
    assert walker.post(Event.DEVICE_APPEARED) is Answer.NOTE, "that try was at 101 already"
    assert walker.life.next_try_at == 102.0
    walker.now = 103.5
    walker.life.next_try_at = 150.0
    assert walker.post(Event.DEVICE_APPEARED) is Answer.WAKE


def test_an_earlier_try_is_not_put_off_by_a_device():
    walker = waiting(100.0)
    walker.post(Event.DEVICE_APPEARED)
    walker.until(State.BACKOFF)
    walker.now, walker.life.next_try_at = 100.25, 100.5
    assert walker.post(Event.DEVICE_APPEARED) is Answer.NOTE
    assert walker.life.next_try_at == 100.5


@pytest.mark.parametrize(
    "state", [State.STARTING, State.GREETING, State.OPENING, State.RUNNING, State.STOPPING]
)
def test_a_device_that_appears_while_it_is_tried_is_tried_again_at_once(state):
    walker = standing(state)
    walker.life.history = History(n=9)
    assert walker.post(Event.DEVICE_APPEARED) is Answer.KEEP
    assert walker.life.state is state
    if state is not State.STOPPING:
        walker.post(Event.ENDED)
    walker.life.verdict(KILLED, walker.now, 1.0)
    assert walker.life.next_try_at is None
    assert walker.life.history.n == 3


def test_a_device_that_appeared_before_this_try_does_not_count_for_it():
    walker = standing(State.OPENING)
    walker.post(Event.DEVICE_APPEARED)
    walker.life.history = replace(walker.life.history, n=9)
    walker.dice.choice = lambda _ends: KILLED
    walker.post(Event.ENDED)
    walker.post(Event.EMPTY)
    assert walker.life.state is State.STARTING
    walker.until(State.RUNNING)
    walker.life.history = replace(walker.life.history, n=9)
    walker.post(Event.ENDED)
    walker.post(Event.EMPTY)
    assert walker.life.state is State.BACKOFF


def test_a_device_that_its_helper_makes_come_and_go_is_not_tried_without_a_pause():
    walker = waiting(100.0)
    walker.dice.choice = lambda _ends: KILLED
    tries = []
    for _ in range(2000):
        walker.now += 0.005
        if walker.life.state is State.OPENING:
            walker.post(Event.DEVICE_APPEARED)
            walker.post(Event.ENDED)
        elif walker.life.state is State.BACKOFF:
            walker.post(Event.DEVICE_APPEARED)
            if walker.life.state is State.BACKOFF and walker.now >= walker.life.next_try_at:
                walker.post(Event.DUE)
        elif walker.life.state is State.STARTING:
            tries.append(walker.now)
            walker.progress()
        else:
            walker.progress()
    assert 8 <= len(tries) <= 20, "in ten seconds"


@pytest.mark.parametrize("state", [State.DOWN, State.FAILED])
def test_a_device_starts_nothing_that_nobody_wants(state):
    walker = standing(state)
    assert walker.post(Event.DEVICE_APPEARED) is Answer.NOTE
    assert (walker.life.state, walker.life.device_at) == (state, None)


def test_changes_are_announced():
    told = []
    life = Life("a", on_change=lambda life: told.append((life.state, life.wanted)))
    life.post(Event.START, 0.0)
    life.enter(State.STARTING, 0.0)
    life.new_incarnation()
    life.post(Event.LAUNCHED, 0.0)
    assert told == [(State.DOWN, "up"), (State.STARTING, "up")]
    life.enter(State.GREETING, 0.0)
    life.post(Event.ENDED, 1.0)
    life.enter(State.STOPPING, 1.0)
    life.post(Event.REMOVE, 1.0)
    life.enter(None, 1.0)
    assert told[2:] == [
        (State.GREETING, "up"),
        (State.GREETING, "up"),
        (State.STOPPING, "up"),
        (State.STOPPING, "down"),
        (State.STOPPING, "down"),
    ]


def test_a_life_without_a_listener_is_fine_and_prints_itself():
    assert "on_change" not in repr(Life("a"))


# random walks


class LifeMachine(RuleBasedStateMachine):
    """Any events in any order; ``Walker.check`` holds after each."""

    def __init__(self) -> None:
        super().__init__()
        self.walker = Walker()

    @property
    def gone(self) -> bool:
        return self.walker.left

    @precondition(lambda self: not self.gone)
    @rule(event=st.sampled_from(sorted(set(Event) - {Event.REMOVE})), old=st.booleans())
    def anything_happens(self, event, old):
        self.walker.post(event, -1 if old and event not in list(Event)[:5] else None)

    @precondition(lambda self: not self.gone)
    @rule()
    def progress_is_made(self):
        self.walker.progress()

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds):
        self.walker.now += seconds

    @precondition(lambda self: not self.gone)
    @rule()
    def it_is_removed(self):
        self.walker.post(Event.REMOVE)

    @precondition(lambda self: not self.gone)
    @rule(
        policy=st.builds(
            Policy, st.sampled_from(["permanent", "transient", "temporary"]), give_up=st.booleans()
        )
    )
    def a_reload_changes_the_policy(self, policy):
        self.walker.life.policy = policy

    @invariant()
    def promises_hold(self):
        self.walker.check()

    def teardown(self):
        walker = self.walker
        if not walker.left:
            walker.post(Event.REMOVE)
            if not walker.left:
                walker.post(Event.EMPTY)
        assert walker.left
        assert not walker.process


def test_any_events_in_any_order_keep_the_promises():
    run_state_machine_as_test(
        LifeMachine, settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
    )


def test_random_steps_find_no_illegal_state_and_visit_every_pair():
    """HELPERD_STEPS=1000000 for the long walk."""
    steps = int(os.environ.get("HELPERD_STEPS", "20000"))
    seen: set[tuple[State, Event]] = set()
    walker = Walker(seed=1)
    dice = walker.dice
    likely = sorted(set(Event) - {Event.REMOVE})
    for step in range(steps):
        walker.now += dice.random() * 5
        if dice.random() < 0.5:
            walker.progress()
        else:
            walker.post(dice.choice(likely) if dice.random() < 0.999 else Event.REMOVE)
        if walker.left or step % 500 == 499:
            seen |= walker.seen
            walker = Walker(
                Policy(dice.choice(["permanent", "transient"]), give_up=dice.random() < 0.5, intensity=2),
                step,
            )
    missing = {(s, e) for s in State for e in Event} - seen - {(s, Event.REMOVE) for s in State}
    assert not missing or steps < 20000


# a bug of ours, outside the border


BUG = Exit(Why.ACCIDENT, "bug", "a bug of helperd's own")


@pytest.mark.parametrize("state", [state for state in State if state not in {State.DOWN, State.FAILED}])
def test_after_a_bug_of_ours_a_wanted_source_is_tried_again_later_from_wherever_it_stood(
    state: State,
) -> None:
    life = standing(state).life
    changes: list[State] = []
    life.on_change = lambda life: changes.append(life.state)
    life.woken, life.ended_by = True, (Event.HUNG, {})
    life.orders.add(Event.RESTART)
    ends, accidents = life.history.n, life.history.tally.accidents
    life.recover(BUG, 200.0, 1.0)
    assert (life.state, life.why, life.exit, life.since) == (State.BACKOFF, "", BUG, 200.0)
    assert (life.woken, life.ended_by, life.orders) == (False, None, set())
    assert (life.history.n, life.history.tally.accidents) == (ends + 1, accidents + 1)
    assert life.next_try_at == 200.0 + 0.25 * 2**ends, "never at once"
    assert life.history.last_delay == life.next_try_at - 200.0
    assert not life.history.v0_tried
    assert changes == [State.BACKOFF]
    assert life.wanted == "up"


def test_a_bug_that_stays_is_met_ever_more_slowly() -> None:
    life = standing(State.RUNNING).life
    waits = []
    for _ in range(12):
        life.recover(BUG, 0.0, 1.0)
        waits.append(life.next_try_at)
    assert waits[:4] == [0.25, 0.5, 1.0, 2.0]
    assert waits[-1] == 60.0


@pytest.mark.parametrize("state", [State.DOWN, State.STOPPING, State.BACKOFF])
def test_after_a_bug_of_ours_a_source_that_is_not_wanted_is_down(state: State) -> None:
    life = standing(state).life
    life.wanted = "down"
    changes: list[State] = []
    life.on_change = lambda life: changes.append(life.state)
    life.recover(BUG, 200.0, 0.0)
    assert (life.state, life.why, life.next_try_at) == (State.DOWN, "stopped", None)
    assert changes == [State.DOWN]


@pytest.mark.parametrize("wanted", ["up", "down"])
def test_a_bug_of_ours_brings_no_source_back_that_was_given_up(wanted: str) -> None:
    life = standing(State.FAILED).life
    life.wanted = wanted
    why = life.why
    life.recover(BUG, 200.0, 0.0)
    assert (life.state, life.why, life.next_try_at) == (State.FAILED, why, None)
