from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helperd.table import (
    columns_of,
    count,
    fit,
    note_of,
    pad,
    rate,
    render,
    size,
    span,
    state_of,
    summary,
)
from helperd.visible import visible
from tests.control.fake import FakeDaemon, source

ESCAPES = re.compile("\033\\[[0-9;]*m")


def snapshot(*sources: dict[str, Any], consumers: int = 1) -> dict[str, Any]:
    found = FakeDaemon().snapshot()
    return found | {"sources": list(sources), "consumers": found["consumers"] * consumers}


def test_one_line_per_source_and_consumers_below() -> None:
    lines = render(snapshot(source("radio0"), source("beacons")), 80)
    assert lines[0].split() == ["SOURCE", "STATE", "RATE", "PACKETS", "LOST", "RESTARTS", "LAST"]
    assert lines[1].split()[:7] == ["radio0", "running", "100/s", "1,000", "3", "0", "0.0s"]
    assert lines[2].startswith("beacons")
    assert lines[3] == ""
    assert lines[4].startswith("CONSUMER")
    assert "pid 99 uid 65534" in lines[5]


def test_nothing_below_without_consumers_and_a_hint_without_sources() -> None:
    assert len(render(snapshot(source("a"), consumers=0), 80)) == 2
    assert "[[source]]" in render(snapshot(consumers=0), 80)[1]


def test_eighty_columns_hold_all_numbers_even_of_busy_sources() -> None:
    busy = source(
        "a-name-of-thirty-two-characters-x", packets=10**14, rate=1e7, lost={"x": 10**9}, restarts=123456
    )
    line = render(snapshot(busy), 80)[1]
    assert len(line) <= 80
    assert line.split()[:7] == [
        "a-name-of-thirty-two-ch~",
        "running",
        "10.0M/s",
        "100.0T",
        "1.0G",
        "123,456",
        "0.0s",
    ]


def test_colour_only_repeats_what_words_say() -> None:
    what = snapshot(source("a", state="backoff", restarts=3), source("b"))
    plain, painted = render(what, 100), render(what, 100, color=True)
    assert [ESCAPES.sub("", line) for line in painted] == plain
    assert "\033[31mbackoff" in painted[1]


TEXT = st.text(max_size=40)
NUMBER = st.none() | st.integers(-5, 10**20) | st.floats()


@given(
    name=TEXT, state=TEXT, rate=NUMBER, packets=NUMBER, age=NUMBER, problem=TEXT, text=TEXT, hardware=TEXT,
    width=st.integers(1, 200),
)  # fmt: skip
def test_whatever_a_helper_says_each_line_is_one_line_and_fits(
    name: str,
    state: str,
    rate: Any,
    packets: Any,
    age: Any,
    problem: str,
    text: str,
    hardware: str,
    width: int,
) -> None:
    said = {"kind": "accident", "problem": problem, "text": text}
    odd = source(name, state=state, rate=rate, packets=packets, age_s=age, exit=said, hardware=hardware)
    lines = render(snapshot(odd), width)
    assert len(lines) == 5
    for line in lines:
        assert line.isprintable()
        assert columns_of(line) <= width


@given(st.text(), st.integers(0, 60))
def test_padding_is_exact_whatever_the_script(text: str, width: int) -> None:
    assert columns_of(pad(visible(text), width)) == width
    assert columns_of(fit(visible(text), width)) <= width


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1234567, "1,234,567"), (10**12, "1.0T"), (-5, "-5"), (None, "-"), ("x", "-")],
)
def test_counts(value: object, text: str) -> None:
    assert count(value) == text


def test_sizes_rates_and_spans_are_short() -> None:
    assert [size(v) for v in (0, 1023, 1024, 4 << 20, None)] == ["0B", "1023B", "1.0KiB", "4.0MiB", "-"]
    assert [rate(v) for v in (0, 0.25, 12.4, 123456, 1e9, None)] == [
        "0/s",
        "0.2/s",
        "12/s",
        "123,456/s",
        "1.0G/s",
        "-",
    ]
    assert [span(v) for v in (0, 9.96, 59.4, 61, 3700, 200000, None, float("nan"))] == [
        "0.0s", "10s", "59s", "1m01", "1h01", "2d", "-", "-",
    ]  # fmt: skip
    assert span(59.6) == "1m00"
    assert span(-1) == "0.0s"


def test_a_source_says_what_is_wrong_with_it() -> None:
    assert note_of(source("a", paused=True)).startswith("paused, ")
    stalled = source("a", verdict="stalled-by-consumer", reason="")
    assert state_of(stalled).text == "stalled"
    assert note_of(stalled).startswith("stalled-by-consumer")
    ended = {"kind": "accident", "problem": "exited", "text": "the helper exited with code 3"}
    waiting = source("a", state="backoff", exit=ended, next_try_s=2.04, stderr=[])
    assert note_of(waiting) == "exited; retry in 2.0s: the helper exited with code 3"
    assert note_of(waiting | {"stderr": ["x", "no port"]}) == "exited; retry in 2.0s: code 3: no port"
    refused = {"kind": "refusal", "problem": "open-refused", "text": "no such device"}
    assert (
        note_of(waiting | {"exit": refused, "stderr": ["x"]}) == "open-refused; retry in 2.0s: no such device"
    )
    stopped = source(
        "a", state="down", why="stopped", exit={"kind": "asked", "problem": "asked", "text": "stop"}
    )
    assert note_of(stopped) == "stopped"


@pytest.mark.parametrize("state", ["down", "starting", "opening", "running", "stopping", "backoff", "failed"])
def test_a_pause_hides_no_state_and_no_reason(state: str) -> None:
    """State and pause are two facts."""
    ended = {"kind": "accident", "problem": "killed", "text": "the helper was ended by SIGKILL"}
    row = source("a", state=state, why="", exit=ended, next_try_s=3.0 if state == "backoff" else None)
    paused = row | {"paused": True}
    assert state_of(paused).text == state_of(row).text
    assert state_of(paused).color == state_of(row).color
    note = note_of(row)
    separator = ", " if state == "running" else "; "
    assert note_of(paused).removeprefix("paused").removeprefix(separator).removeprefix(
        ": "
    ) == note.removeprefix(": ")
    assert note_of(paused).startswith("paused")


def test_a_pause_shows_beside_a_bad_verdict() -> None:
    hung = source("a", verdict="hung", reason="keepalive", paused=True)
    assert state_of(hung).text == "hung"
    assert note_of(hung).startswith("paused, hung keepalive")


def test_the_summary_counts_and_tells_bad_health() -> None:
    text = summary(snapshot(source("a"), source("b", state="down")) | {"health": "degraded"})
    assert text == "helperd 0.1.0, up 1.5s, degraded: 1 of 2 sources running, 199/s, 1 consumer"
    assert "0 of 1 sources running, 0/s" in summary(snapshot(source("a", state="down", rate=None)))
    assert "1 of 1 sources running, -, " in summary(snapshot(source("a", rate=None)))
    assert summary({}) == "helperd ?, up -: 0 of 0 sources running, 0/s, 0 consumers"


def test_what_was_lost_by_who_is_gone_is_one_line_and_nothing_lost_is_none() -> None:
    def last(sinks: list[dict[str, Any]], gone: dict[str, Any]) -> str:
        return render(snapshot(source("a"), consumers=0) | {"sinks": sinks, "gone": gone}, 400)[-1]

    slow, quiet = {"lost": {"consumer-slow": 1200, "consumer-left": 3}}, {"lost": {"consumer-slow": 0}}
    assert last([{"left": slow}, {"left": None}], {"left": slow, "lost": {}}) == (
        "lost before: readers that have left 2,406 (consumer-left 6, consumer-slow 2,400)"
    )
    assert last([{"left": quiet}], {"left": quiet, "lost": {"bad-frame": 2, "paused": 9}}) == (
        "lost before: sources that were removed 2 (bad-frame 2)"
    )
    both = last([{"left": slow}], {"left": quiet, "lost": {"gone\x1b": 1}})
    assert both.endswith("; sources that were removed 1 (gone\\x1b 1)")
    for nothing in ({}, {"left": quiet, "lost": {"no-consumer": 5}}):
        assert last([{"left": quiet}, {}], nothing).startswith("a  ")
