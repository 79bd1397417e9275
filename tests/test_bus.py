"""What helpers say to people: folded when repeated, within a budget, bounded; nothing dropped in silence."""

from __future__ import annotations

import pytest
import trio

from helperd.bus import BURST, BURST_BYTES, KEPT, KEPT_BYTES, MAX_TEXT, RATE_BYTES, MessageBus
from helperd.visible import visible


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


async def test_a_helper_that_says_long_things_has_a_budget_of_bytes(autojump_clock):
    bus = MessageBus()
    for number in range(BURST):
        bus.hear("info", "wlan0", f"{number} " + "\u202e" * 4000)  # six bytes each in the log
    heard = [len(visible(notice.text)) for notice in bus.notices]
    assert sum(heard) <= BURST_BYTES + 6 * MAX_TEXT
    assert bus.dropped == BURST - len(heard) > 0
    day = 0
    for second in range(0, 3600, 10):
        await trio.sleep(10)
        for number in range(20):
            notice = bus.hear("info", "wlan0", f"{second} {number} " + "x" * 3000)
            day += len(notice.text) if notice else 0
    assert day <= 3600 * RATE_BYTES + 4 * MAX_TEXT


@pytest.mark.parametrize("text", ["a" * MAX_TEXT, "\N{PILE OF POO}" * MAX_TEXT, "\0" * MAX_TEXT])
async def test_the_texts_that_are_kept_are_bounded_by_bytes(autojump_clock, text):
    bus = MessageBus()
    for number in range(2 * KEPT):
        bus.post("info", f"source{number}", text)
    kept = sum(len(notice.text.encode()) for notice in bus.notices)
    assert max(kept, len(bus.notices) * KEPT_BYTES // KEPT) >= KEPT_BYTES - 5 * MAX_TEXT
    assert kept <= KEPT_BYTES
    assert bus.notices[-1].number == bus.posted == 2 * KEPT
