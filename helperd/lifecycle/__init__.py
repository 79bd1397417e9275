"""A source's life: states, events, how it ended, when to try again, and whether its helper still lives.

Pure: no trio, no fds, no clock. What needs the time takes ``now`` (seconds, monotonic), what needs chance
takes ``dice`` in [0, 1). The supervisor's coroutine stands where the state says; this room says what an
event means there.

    table      State, Event, Answer, ANSWERS: every pair answered
    life       Life: one source as plain data, the walker of the table
    exit       Exit, classify(): how an incarnation ended
    policy     Policy, History, judge(): when to try again
    liveness   Evidence, verdict(): does the helper live
    hopping    Splitter: who hops where
    stop       ladder(): the rungs of a stop
    reload     plan(): what a reload changes
"""

from __future__ import annotations

from helperd.lifecycle.exit import Ending, Exit, Why, classify
from helperd.lifecycle.hopping import Radio, Splitter, Walk
from helperd.lifecycle.life import Life
from helperd.lifecycle.liveness import ChildWatch, Evidence, Patience, Verdict, verdict
from helperd.lifecycle.policy import GiveUp, History, Policy, Rest, Restart, Tally, backoff, judge
from helperd.lifecycle.reload import Plan, plan
from helperd.lifecycle.stop import Rung, ladder
from helperd.lifecycle.table import ANSWERS, ARROWS, ORDERS, PROMISES, Answer, Event, State

__all__ = [
    "ANSWERS",
    "ARROWS",
    "ORDERS",
    "PROMISES",
    "Answer",
    "ChildWatch",
    "Ending",
    "Event",
    "Evidence",
    "Exit",
    "GiveUp",
    "History",
    "Life",
    "Patience",
    "Plan",
    "Policy",
    "Radio",
    "Rest",
    "Restart",
    "Rung",
    "Splitter",
    "State",
    "Tally",
    "Verdict",
    "Walk",
    "Why",
    "backoff",
    "classify",
    "judge",
    "ladder",
    "plan",
    "verdict",
]
