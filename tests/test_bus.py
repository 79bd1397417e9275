"""What helpers say to people: folded when repeated, within a budget, bounded; nothing dropped in silence."""

from __future__ import annotations

import trio

from helperd.bus import BURST, KEPT, MAX_TEXT, MessageBus


async def test_an_equal_message_within_a_minute_is_folded(autojump_clock):
    bus = MessageBus()
    first = bus.hear("info", "wlan0", "the radio is warm")
    for _ in range(5000):
        assert bus.hear("info", "wlan0", "the radio is warm") is None
    assert (first.repeated, len(bus.notices), bus.dropped) == (5000, 1, 0)
    assert bus.hear("info", "wlan1", "the radio is warm") is not None
    await trio.sleep(61)
    assert bus.hear("info", "wlan0", "the radio is warm").number == 3


async def test_a_helper_that_says_ever_new_things_has_a_budget(autojump_clock):
    bus = MessageBus()
    heard = [bus.hear("info", "wlan0", f"number {number}") for number in range(5000)]
    assert len([notice for notice in heard if notice]) == BURST
    assert bus.dropped == 5000 - BURST
    assert bus.hear("error", "wlan1", "somebody else") is not None
    assert bus.post("alert", "wlan0", "ours is not held back") is not None
    await trio.sleep(1)
    assert bus.hear("info", "wlan0", "later") is not None
    told = [notice.text for notice in bus.notices]
    assert told[-2:] == [f"{5000 - BURST} messages dropped: more than 10 per second", "later"]


async def test_what_is_kept_is_bounded(autojump_clock):
    bus = MessageBus()
    assert len(bus.hear("info", "wlan0", "x" * 1_000_000).text) == MAX_TEXT
    for number in range(3 * KEPT):
        bus.hear("info", f"source{number}", "a" * MAX_TEXT)
    assert len(bus.notices) == KEPT
    assert len(bus._recent) <= KEPT + 1
    assert len(bus._budgets) <= KEPT + 1
    assert [notice.number for notice in bus.since(bus.posted - 2)] == [bus.posted - 1, bus.posted]
