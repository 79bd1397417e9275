from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from helperd.cli.screen import SORTS, Screen
from tests.control.fake import FakeDaemon, source


def screen(*names: str, **changes: dict[str, object]) -> Screen:
    daemon = FakeDaemon(*names)
    for name, change in changes.items():
        daemon.sources[name] = source(name, **change)
    shown = Screen()
    shown.take(daemon.snapshot())
    return shown


def press(it: Screen, *keys: str) -> None:
    for key in keys:
        assert it.key(key)


def column(it: Screen, at: int = 0, height: int = 24) -> list[str]:
    return [text[2:].split()[at] for text in it.lines(120, height)[2:-1] if text.strip()]


def test_the_picture_has_the_daemon_the_table_and_the_keys() -> None:
    lines = screen("a", "b").lines(80, 24)
    assert len(lines) == 24
    assert "2 of 2 sources running" in lines[0]
    assert lines[1].split()[:2] == ["SOURCE", "STATE"]
    assert lines[2].startswith("> a ")
    assert lines[3].startswith("  b ")
    assert "q quit" in lines[-1]


def test_each_key_sorts_by_its_column_and_again_turns_round() -> None:
    it = screen(
        "radio10",
        "radio9",
        "radio1",
        radio9={"rate": 5000, "restarts": 2},
        radio1={"packets": 9, "age_s": None},
    )
    assert column(it) == ["radio10", "radio9", "radio1"]
    press(it, "n")
    assert column(it) == ["radio1", "radio9", "radio10"]
    assert "SOURCE^" in it.lines(80, 24)[1]
    press(it, "n")
    assert column(it) == ["radio10", "radio9", "radio1"]
    assert "SOURCEv" in it.lines(80, 24)[1]
    press(it, "r")
    assert column(it)[0] == "radio9"
    assert "RATEv" in it.lines(80, 24)[1]
    press(it, "p")
    assert column(it)[-1] == "radio1"
    press(it, "t")
    assert column(it)[0] == "radio9"
    press(it, "a")
    assert column(it)[-1] == "radio1"
    press(it, "f")
    assert column(it) == ["radio10", "radio9", "radio1"]


def test_two_hundred_sources_scroll_and_the_selected_one_is_always_seen() -> None:
    it = screen(*(f"s{n}" for n in range(200)))
    assert column(it)[:2] == ["s0", "s1"]
    assert "1-21 of 200" in it.lines(80, 24)[-1]
    press(it, *["down"] * 25)
    assert any(line.startswith("> s25 ") for line in it.lines(80, 24))
    press(it, "end")
    assert it.lines(80, 24)[-2].startswith("> s199")
    press(it, "page-up")
    assert any(line.startswith("> s178 ") for line in it.lines(80, 24))
    press(it, "home", "up")
    assert it.lines(80, 24)[2].startswith("> s0 ")


def test_the_selection_follows_its_source_when_the_order_changes() -> None:
    it = screen("a", "b", "c", c={"rate": 9000})
    it.lines(80, 24)
    press(it, "r")
    assert it.lines(80, 24)[2].startswith("  c ")
    assert any(line.startswith("> a ") for line in it.lines(80, 24))


def test_details_consumers_and_help_come_and_go() -> None:
    it = screen("a", "b")
    it.lines(80, 24)
    press(it, "down", "enter")
    text = "\n".join(it.lines(80, 24))
    assert "definition:    b:type=synthetic" in text
    press(it, "enter", "c")
    assert "all.sock" in it.lines(80, 24)[2]
    press(it, "h")
    assert any("page up" in line for line in it.lines(80, 24))
    press(it, "escape")
    assert it.lines(80, 24)[1].split()[0] == "SOURCE"
    assert not it.key("q")


def test_a_held_picture_stays() -> None:
    it = screen("a")
    press(it, " ")
    it.take(FakeDaemon("b").snapshot())
    assert column(it) == ["a"]
    assert it.lines(80, 24)[-1].startswith("HELD")
    press(it, " ")
    it.take(FakeDaemon("b").snapshot())
    assert column(it) == ["b"]


def test_a_daemon_that_has_gone_is_told() -> None:
    it = screen("a")
    it.ended = "the daemon has gone"
    assert it.lines(80, 24)[-1] == "the daemon has gone; q quits"


KEYS = st.sampled_from(
    [*SORTS, "f", "c", "h", "?", "enter", " ", "up", "down", "page-up", "page-down", "home", "end", "x"]
)


@given(
    st.lists(KEYS, max_size=30),
    st.integers(1, 120),
    st.integers(0, 40),
    st.integers(0, 60),
    st.integers(0, 3),
)
def test_any_keys_at_any_size_give_a_whole_picture(
    keys: list[str], width: int, height: int, sources: int, left: int
) -> None:
    it = Screen()
    daemon = FakeDaemon(*(f"s{n}" for n in range(sources)))
    it.take(daemon.snapshot() if sources else {})
    for key in keys:
        press(it, key)
        lines = it.lines(width, height)
        assert len(lines) == (height if height >= 4 else min(1, height))
        assert all(len(line) <= width for line in lines)
    daemon.sources = dict(list(daemon.sources.items())[:left])
    it.take(daemon.snapshot())
    assert len(it.lines(width, 24)) == 24
