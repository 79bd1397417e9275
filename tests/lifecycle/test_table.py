"""Every (state, event) pair has the answer that was agreed, and the arrows are those of the table."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from helperd.lifecycle import ANSWERS, ARROWS, ORDERS, PROMISES, Answer, Event, State
from helperd.lifecycle.table import TRIES, VERDICTS

WAKE, SAME, END, KEEP, NOTE, BUG = (
    (Answer.WAKE, State.STARTING),
    (Answer.SAME, None),
    (Answer.END, State.STOPPING),
    (Answer.KEEP, None),
    (Answer.NOTE, None),
    (Answer.BUG, None),
)


def go(state):
    return (Answer.GO, state)


# Told state by state, where the code tells it event by event: whoever changes one must think about the other.
AGREED = {
    State.DOWN: {
        WAKE: {"start", "restart", "replace"},
        SAME: {"stop"},
        go(None): {"remove"},
        NOTE: {"our-fault", "device-appeared"},
    },
    State.STARTING: {
        SAME: {"start", "restart"},
        END: {"stop", "replace", "remove", "ended", "due", "our-fault"},
        go(State.GREETING): {"launched"},
        KEEP: {"device-appeared"},
    },
    State.GREETING: {
        SAME: {"start"},
        END: {"restart", "stop", "replace", "remove", "ended", "due", "our-fault"},
        go(State.OPENING): {"greeted"},
        KEEP: {"device-appeared"},
    },
    State.OPENING: {
        SAME: {"start"},
        END: {"restart", "stop", "replace", "remove", "ended", "hung", "due", "our-fault"},
        go(State.RUNNING): {"opened"},
        KEEP: {"device-appeared"},
    },
    State.RUNNING: {
        SAME: {"start"},
        END: {"restart", "stop", "replace", "remove", "ended", "hung", "our-fault"},
        NOTE: {"settled"},
        KEEP: {"device-appeared"},
    },
    State.STOPPING: {
        KEEP: {"start", "restart", "stop", "replace", "remove", "launched", "device-appeared"},
        go(State.STOPPING): {"due", "our-fault"},
        go(None): {"empty"},
        NOTE: {
            "ended",
            "hung",
            "greeted",
            "opened",
            "settled",
        },
    },
    State.BACKOFF: {
        WAKE: {"start", "restart", "replace", "due", "device-appeared"},
        go(State.DOWN): {"stop"},
        go(None): {"remove"},
        NOTE: {"our-fault"},
    },
    State.FAILED: {
        WAKE: {"start", "restart", "replace"},
        go(State.DOWN): {"stop"},
        go(None): {"remove"},
        NOTE: {"our-fault", "device-appeared"},
    },
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_every_pair_is_answered_as_agreed(state, event):
    named = [answer for answer, events in AGREED[state].items() if event.value in events]
    assert ANSWERS[state][event] == (named[0] if named else BUG)
    assert len(named) <= 1


def test_the_arrows_are_those_of_the_table():
    verdicts = {State.STARTING, State.BACKOFF, State.DOWN, State.FAILED, None}
    assert verdicts == VERDICTS
    assert {
        State.DOWN: {State.STARTING, None},
        State.STARTING: {State.GREETING, State.STOPPING},
        State.GREETING: {State.OPENING, State.STOPPING},
        State.OPENING: {State.RUNNING, State.STOPPING},
        State.RUNNING: {State.STOPPING},
        State.STOPPING: {State.STOPPING, *verdicts},
        State.BACKOFF: {State.STARTING, State.DOWN, None},
        State.FAILED: {State.STARTING, State.DOWN, None},
    } == ARROWS


def test_every_state_has_a_promise_and_every_order_is_an_event():
    assert set(PROMISES) == set(State)
    assert all(len(text) > 20 for text in PROMISES.values())
    assert {order.value for order in ORDERS} == {"start", "restart", "stop", "replace", "remove"}
    assert {order.value for order in TRIES} == {"start", "restart", "replace"}


def test_only_orders_and_time_lead_out_of_rest():
    leaving = {
        event
        for state in (State.DOWN, State.FAILED)
        for event, (answer, _) in ANSWERS[state].items()
        if answer in {Answer.WAKE, Answer.GO}
    }
    assert leaving <= ORDERS


def test_the_words_are_those_of_the_control_interface():
    assert [state.value for state in State] == [
        "down",
        "starting",
        "greeting",
        "opening",
        "running",
        "stopping",
        "backoff",
        "failed",
    ]
    assert [answer.value for answer in Answer] == ["wake", "same", "end", "keep", "go", "note", "bug"]
    assert [event.value for event in Event] == [
        "start",
        "restart",
        "stop",
        "replace",
        "remove",
        "ended",
        "hung",
        "due",
        "our-fault",
        "launched",
        "greeted",
        "opened",
        "settled",
        "empty",
        "device-appeared",
    ]


def test_the_document_shows_the_tables_of_the_code():
    root = Path(__file__).parents[2]
    text = (root / "docs" / "supervision.md").read_text()
    assert runpy.run_path(str(root / "scripts" / "tables"))["filled"](text) == text, "run scripts/tables"
