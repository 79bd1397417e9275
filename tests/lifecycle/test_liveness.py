"""A verdict needs evidence: the rows, which comes first, and the clocks that stand still."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from helperd.errors import PROBLEMS
from helperd.lifecycle import ChildWatch, Evidence, Patience, Verdict, verdict

MUTE = Evidence(now=100.0, life_at=97.0, pinged_at=98.0)  # nothing for 3 s, the PING is 2 s old
DEADLINE = 2.5


def judged(**changes) -> tuple[str, str, float]:
    found = verdict(replace(MUTE, **changes), DEADLINE)
    return found.word, found.reason, found.life_at


def test_nothing_came_and_nobody_else_is_to_blame():
    assert judged() == ("hung", "keepalive", 97.0)
    assert judged(proc_state="S") == ("hung", "keepalive", 97.0)
    assert judged(proc_state="R") == ("hung", "keepalive", 97.0)
    assert judged(proc_state="Z") == ("hung", "keepalive", 97.0)
    assert judged(proc_state="T") == ("hung", "stopped", 97.0)
    assert judged(proc_state="t") == ("hung", "stopped", 97.0)
    assert judged(proc_state="D") == ("hung", "stuck-in-kernel", 97.0)
    assert verdict(MUTE, DEADLINE).hung
    assert not Verdict("ok", "", 0.0).hung


def test_within_the_deadline_all_is_well():
    assert judged(life_at=97.5, proc_state="T", holding=True, readable=True) == ("ok", "", 97.5)
    assert judged(life_at=97.49)[0] == "hung"


def test_without_a_ping_half_a_deadline_ago_there_is_no_verdict():
    assert judged(pinged_at=None) == ("ok", "", 97.0)
    assert judged(pinged_at=98.76) == ("ok", "", 97.0)
    assert judged(pinged_at=98.75)[0] == "hung"


def test_each_excuse_begins_a_new_window():
    assert judged(holding=True) == ("stalled-by-consumer", "", 100.0)
    assert judged(our_lag=True) == ("starved", "ours", 100.0)
    assert judged(readable=True) == ("ok", "", 100.0)
    assert judged(runnable_starved=True) == ("starved", "its", 100.0)


def test_the_first_row_decides():
    everything = {
        "holding": True,
        "our_lag": True,
        "readable": True,
        "runnable_starved": True,
        "proc_state": "T",
    }
    answers = []
    for row in ("holding", "our_lag", "readable", "runnable_starved", "proc_state"):
        answers.append(judged(**everything)[:2])
        everything[row] = "" if row == "proc_state" else False
    assert answers == [
        ("stalled-by-consumer", ""),
        ("starved", "ours"),
        ("ok", ""),
        ("starved", "its"),
        ("hung", "stopped"),
    ]


@given(
    silent=st.floats(0, 100),
    pinged=st.none() | st.floats(0, 100),
    excuses=st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()),
    state=st.sampled_from(["", "R", "S", "D", "T", "t", "Z"]),
    deadline=st.floats(0.1, 60),
)
def test_hung_only_with_evidence_and_without_excuse(silent, pinged, excuses, state, deadline):
    pinged_at = None if pinged is None else 1000.0 - pinged
    found = verdict(Evidence(1000.0, 1000.0 - silent, pinged_at, *excuses, proc_state=state), deadline)
    if found.hung:
        assert not any(excuses)
        assert silent > deadline * 0.999
        assert pinged is not None
        assert pinged >= deadline * 0.499
        assert found.reason in PROBLEMS
    assert found.word in {"ok", "stalled-by-consumer", "starved", "hung"}
    assert found.life_at in {1000.0, 1000.0 - silent}


def test_patience_ends_after_its_limit():
    patience = Patience(10.0, since=100.0)
    assert not patience.over(110.0)
    assert patience.over(110.01)
    patience.seen(105.0)
    assert patience.waited(110.0) == 5.0
    assert not patience.over(115.0)


def test_patience_stands_still_while_somebody_else_is_to_blame():
    patience = Patience(10.0, since=100.0)
    patience.hold(105.0, held=True)
    patience.hold(150.0, held=True)
    assert patience.waited(200.0) == 5.0
    patience.hold(200.0, held=False)
    patience.hold(201.0, held=False)
    assert patience.waited(202.0) == 7.0
    assert patience.over(205.5)


def test_patience_that_is_held_is_renewed_by_what_comes():
    patience = Patience(10.0, since=100.0)
    patience.hold(105.0, held=True)
    patience.seen(120.0)
    assert patience.waited(130.0) == 0.0
    patience.hold(140.0, held=False)
    assert patience.waited(141.0) == 1.0


def test_a_child_is_missed_only_once_it_was_seen():
    watch = ChildWatch(needed=1)
    assert not watch.gone(0, 0.0)
    assert not watch.gone(0, 100.0)
    assert not watch.gone(1, 101.0)
    assert not watch.gone(0, 102.0)
    assert not watch.gone(0, 102.49)
    assert watch.gone(0, 102.5)


def test_a_child_that_is_replaced_in_time_was_never_gone():
    watch = ChildWatch(needed=2, grace=1.0)
    assert not watch.gone(2, 0.0)
    assert not watch.gone(1, 0.5)
    assert not watch.gone(2, 1.4)
    assert not watch.gone(1, 1.5)
    assert not watch.gone(1, 2.4)
    assert watch.gone(1, 2.5)


def test_what_cannot_be_read_is_no_evidence():
    watch = ChildWatch(needed=1)
    assert not watch.gone(None, 0.0)
    assert not watch.complete
    assert not watch.gone(0, 1.0)
    assert not watch.gone(3, 2.0)
    assert not watch.gone(0, 3.0)
    assert not watch.gone(None, 3.5)
    assert not watch.gone(0, 3.6)
    assert watch.gone(0, 4.2)
