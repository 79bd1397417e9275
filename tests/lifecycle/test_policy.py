"""When it is tried again: the arithmetic, its properties, and a day of crashing in milliseconds."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helperd.lifecycle import Exit, GiveUp, History, Policy, Rest, Restart, State, Tally, Why, backoff, judge

ACCIDENT = Exit(Why.ACCIDENT, "killed", "x")
REFUSAL = Exit(Why.REFUSAL, "open-refused", "x")
CONFIG = Exit(Why.CONFIG, "not-installed", "x")
DONE = Exit(Why.DONE, "done", "x")
ASKED = Exit(Why.ASKED, "asked", "x")
INPUT = Exit(Why.INPUT, "bad-capture", "x")
WRONG = Exit(Why.WRONG_GENERATION, "wrong-generation", "x")
POLICY = Policy()


def test_the_defaults_are_those_of_the_manual():
    assert Policy() == Policy(
        "permanent", give_up=False, intensity=5, period=60.0, first_delay=0.25, cap=60.0
    )


@pytest.mark.parametrize(
    ("n", "d"),
    [(1, 0.25), (2, 0.5), (3, 1), (4, 2), (5, 4), (6, 8), (7, 16), (8, 32), (9, 60), (10, 60), (10**6, 60)],
)
def test_the_delay_doubles_up_to_its_cap(n, d):
    assert backoff(POLICY, n, 0.0) == d / 2
    assert backoff(POLICY, n, 0.5) == d * 0.75
    assert backoff(POLICY, n, 1.0) == d
    assert judge(POLICY, History(n=n), ACCIDENT, 1000.0, 0.5) == Restart(1000.0 + d * 0.75, d * 0.75)


@given(st.integers(1, 5000), st.floats(0, 1, exclude_max=True), st.floats(0.01, 10), st.floats(0.01, 600))
def test_the_jitter_stays_inside_the_cap(n, dice, first, cap):
    delay = backoff(Policy(first_delay=first, cap=cap), n, dice)
    assert min(first, cap) / 2 <= delay <= cap


def test_the_first_restart_is_at_once():
    assert judge(POLICY, History(), ACCIDENT, 7.0, 0.9) == Restart(7.0, 0.0, counted=True)


@pytest.mark.parametrize(("n", "d"), [(0, 1), (1, 1), (2, 1), (3, 1), (4, 2), (5, 4), (20, 60)])
def test_a_refusal_begins_at_one_second(n, d):
    assert judge(POLICY, History(n=n), REFUSAL, 0.0, 0.0) == Restart(d / 2, d / 2)


@pytest.mark.parametrize("n", [0, 1, 50])
def test_a_config_fault_waits_the_cap(n):
    assert judge(POLICY, History(n=n), CONFIG, 10.0, 0.0) == Restart(40.0, 30.0)
    assert judge(POLICY, History(n=n), CONFIG, 10.0, 0.5) == Restart(55.0, 45.0)
    assert judge(Policy(cap=10), History(n=n), CONFIG, 0.0, 1.0) == Restart(10.0, 10.0)


@pytest.mark.parametrize(("n", "d"), [(0, 1), (1, 1), (3, 1), (4, 2), (20, 60)])
def test_a_fault_in_the_files_of_a_program_begins_at_one_second(n, d):
    assert judge(POLICY, History(n=n), replace(CONFIG, soon=True), 0.0, 0.0) == Restart(d / 2, d / 2)


def test_what_was_asked_for_rests():
    for restart in ("permanent", "transient", "temporary"):
        assert judge(Policy(restart), History(n=9), ASKED, 0.0, 0.0) == Rest("stopped")
    assert Rest("stopped").state is State.DOWN


def test_done_rests_unless_permanent():
    assert judge(Policy("transient"), History(), DONE, 0.0, 0.0) == Rest("done")
    assert judge(Policy("permanent"), History(), DONE, 5.0, 0.0) == Restart(5.0)
    assert judge(Policy("permanent"), History(n=1), DONE, 5.0, 0.0) == Restart(5.125, 0.125)
    assert judge(Policy("transient"), History(), ACCIDENT, 5.0, 0.0) == Restart(5.0)


@pytest.mark.parametrize("ended", [ACCIDENT, REFUSAL, CONFIG, DONE])
def test_temporary_never_comes_back(ended):
    assert judge(Policy("temporary"), History(), ended, 0.0, 0.0) == Rest("done")


@pytest.mark.parametrize("restart", ["permanent", "transient", "temporary"])
@pytest.mark.parametrize("give_up", [True, False])
def test_an_input_at_fault_is_not_read_again(restart, give_up):
    policy = Policy(restart, give_up=give_up)
    decision = judge(policy, History(n=3), INPUT, 1.0, 0.5)
    assert decision == Rest("done")
    assert History().after(INPUT, decision).tally == Tally(inputs=1)


@pytest.mark.parametrize("restart", ["permanent", "transient", "temporary"])
def test_the_second_start_of_a_greeting_is_no_restart(restart):
    policy = Policy(restart, give_up=True, intensity=1)
    again = judge(policy, History(restart_times=(0.0,)), WRONG, 0.5, 0.0)
    assert again == Restart(0.5, counted=False)
    after = History(restart_times=(0.0,)).after(WRONG, again)
    assert judge(policy, after, WRONG, 0.6, 0.0) != Restart(0.6, counted=False), (
        "one, not one after the other"
    )


def test_another_generation_is_tried_once_and_not_counted():
    history = History(n=2)
    first = judge(POLICY, history, WRONG, 3.0, 0.5)
    assert first == Restart(3.0, 0.0, counted=False)
    after = history.after(WRONG, first)
    assert (after.n, after.v0_tried, after.tally.wrong_generation) == (2, True, 1)
    second = judge(POLICY, after, WRONG, 4.0, 0.0)
    assert second == Restart(4.25, 0.25)
    again = after.after(WRONG, second)
    assert (again.n, again.v0_tried) == (3, False)


def test_a_counted_end_is_remembered():
    history = History().after(ACCIDENT, Restart(9.0, 2.0))
    assert history == History(n=1, last_delay=2.0, tally=Tally(accidents=1))
    history = (
        history.after(REFUSAL, Restart(9.0, 4.0)).after(CONFIG, Restart(9.0, 5.0)).after(DONE, Restart(9.0))
    )
    assert (history.n, history.last_delay) == (4, 0.0)
    assert history.tally == Tally(accidents=1, refusals=1, config=1, clean=1)
    rested = history.after(ASKED, Rest("stopped"))
    assert (rested.n, rested.tally.asked) == (4, 1)
    assert History(v0_tried=True).after(ACCIDENT, GiveUp("x")) == History(tally=Tally(accidents=1))


def test_health_is_proven_after_ten_seconds_or_twice_the_last_delay():
    assert History().settled_after() == 10.0
    assert History(last_delay=5.0).settled_after() == 10.0
    assert History(last_delay=6.0).settled_after() == 12.0
    assert History(last_delay=60.0).settled_after() == 120.0


def test_proof_forgets_failures_and_a_human_forgets_the_limit_too():
    history = History(3, (1.0, 2.0), 9.0, v0_tried=True, tally=Tally(accidents=4))
    assert history.proven() == History(restart_times=(1.0, 2.0), tally=Tally(accidents=4))
    assert history.forgiven() == History(tally=Tally(accidents=4))


def test_restarts_are_remembered_up_to_the_limit():
    history = History()
    for now in range(10):
        history = history.restarted(float(now), 3)
    assert history.restart_times == (7.0, 8.0, 9.0)
    assert history.tally.restarts == 10


def test_giving_up_needs_the_configured_wish_and_the_full_number():
    full = History(n=9, restart_times=(0.0, 1.0, 2.0))
    policy = Policy(give_up=True, intensity=3, period=10.0)
    verdict = judge(policy, full, ACCIDENT, 9.9, 0.0)
    assert isinstance(verdict, GiveUp)
    assert verdict.state is State.FAILED
    assert verdict.why == "3 restarts within 10 s; last: killed: x"
    assert isinstance(judge(policy, full, ACCIDENT, 10.0, 0.0), Restart)
    assert isinstance(judge(policy, History(n=9, restart_times=(1.0, 2.0)), ACCIDENT, 3.0, 0.0), Restart)
    assert isinstance(judge(Policy(intensity=3, period=10.0), full, ACCIDENT, 9.9, 0.0), Restart)


@given(
    intensity=st.integers(1, 8),
    period=st.floats(1, 300),
    lives=st.lists(
        st.tuples(
            st.floats(0, 100),
            st.floats(0, 1, exclude_max=True),
            st.sampled_from([ACCIDENT, REFUSAL, CONFIG, DONE]),
        ),
        max_size=60,
    ),
    eager=st.booleans(),
)
def test_with_give_up_never_more_than_intensity_restarts_in_any_period(intensity, period, lives, eager):
    policy = Policy(give_up=True, intensity=intensity, period=period)
    history, now, restarts = History(), 0.0, []
    for lived, dice, ended in lives:
        now += lived
        if lived >= history.settled_after():
            history = history.proven()
        decision = judge(policy, history, ended, now, dice)
        history = history.after(ended, decision)
        if isinstance(decision, GiveUp):
            break
        now = now if eager else decision.at  # a device that appears may cut the rest short
        restarts.append(now)
        history = history.restarted(now, intensity)
    for first in restarts:
        assert sum(first <= at < first + period for at in restarts) <= intensity


def crash_loop(seed: int, until: float, lifetime: float = 0.02) -> list[float]:
    """Start times of a helper that dies ``lifetime`` seconds after every start."""
    dice = random.Random(seed)
    history, now, starts = History(), 0.0, [0.0]
    while now < until:
        now += lifetime
        decision = judge(POLICY, history, ACCIDENT, now, dice.random())
        history = history.after(ACCIDENT, decision)
        now = decision.at
        starts.append(now)
    return starts[:-1]


@pytest.mark.parametrize("seed", range(20))
def test_a_crash_loop_starts_six_to_ten_times_in_thirty_seconds_and_goes_on_all_day(seed):
    starts = crash_loop(seed, 86400.0)
    assert 6 <= sum(at <= 30 for at in starts) <= 10
    late = [at for at in starts if at > 180]
    assert all(30 <= b - a <= 60.1 for a, b in pairwise(late))
    assert 86400 / 60.1 - 5 <= len(starts) <= 86400 / 30 + 12
    assert starts[-1] > 86400 - 61


def test_fifty_crash_loops_do_not_synchronise():
    after_the_fifth = sorted(at for seed in range(50) for at in crash_loop(seed, 120.0)[5:])
    busiest = max(sum(at <= other < at + 0.1 for other in after_the_fifth) for at in after_the_fifth)
    assert busiest <= 0.2 * len(after_the_fifth)
