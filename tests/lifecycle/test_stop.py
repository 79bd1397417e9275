"""Which rungs a stop climbs."""

from __future__ import annotations

import math

import pytest

from helperd.lifecycle import Rung, ladder

KILL, WAIT = Rung("kill", 5.0), Rung("wait", math.inf)


def test_an_ordinary_stop_asks_with_a_signal_first():
    assert ladder() == (Rung("term", 1.0), KILL, WAIT)
    assert ladder(reason="asked", term_grace=2.0) == (Rung("term", 2.0), KILL, WAIT)


def test_a_helper_that_knows_the_message_is_asked_by_it():
    assert ladder(obeys_shutdown=True) == (Rung("ask", 1.0), Rung("term", 1.0), KILL, WAIT)
    assert ladder(reason="silent", obeys_shutdown=True)[0].name == "ask"


def test_what_answers_nothing_is_not_asked_and_has_half_the_time():
    assert ladder(reason="keepalive", obeys_shutdown=True) == (Rung("term", 0.5), KILL, WAIT)
    assert ladder(reason="keepalive", term_grace=2.0) == (Rung("term", 1.0), KILL, WAIT)


@pytest.mark.parametrize("reason", ["stopped", "stuck-in-kernel", "bug"])
def test_what_cannot_listen_is_not_asked(reason):
    assert ladder(reason=reason, obeys_shutdown=True) == (KILL, WAIT)
