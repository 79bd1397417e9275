"""Who hops where: pure arithmetic of lists, offsets and time."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from helperd.lifecycle.hopping import BACK_S, Radio, Splitter, Walk, spread

THIRTEEN = tuple(str(number) for number in range(1, 14))


def radio(
    number: int, incarnation: int = 1, *, here: bool = True, channels=THIRTEEN, trusted: bool = True
) -> Radio:
    return Radio(f"radio{number}", incarnation, here, "wifi", tuple(channels), 5.0, trusted=trusted)


def offsets(walks: dict[str, Walk]) -> list[int]:
    return [walks[name].offset for name in sorted(walks)]


def at(walk: Walk, hops: int) -> str:
    return walk.channels[(walk.offset + hops) % len(walk.channels)]


@given(st.integers(2, 60))
def test_the_order_has_everything_once_and_neighbours_apart(count: int) -> None:
    channels = tuple(map(str, range(count)))
    order = spread(channels)
    assert sorted(order) == sorted(channels)
    if count > 8:
        assert all(abs(int(a) - int(b)) > 1 for a, b in pairwise(order))


@given(st.integers(1, 30), st.integers(1, 12))
def test_radios_of_one_set_are_apart_and_cover_it_together_in_a_part_of_a_round(
    channels: int, count: int
) -> None:
    names = tuple(map(str, range(channels)))
    walks, again = Splitter().look([radio(number, channels=names) for number in range(count)], 0.0)
    assert again == float("inf")
    part = -(-channels // count)
    for begin in range(channels):
        if count <= channels:
            assert len({at(walk, begin) for walk in walks.values()}) == count
        heard = {at(walk, begin + hop) for walk in walks.values() for hop in range(part)}
        assert heard == set(names)


def test_nobody_is_told_twice() -> None:
    splitter = Splitter()
    radios = [radio(number) for number in range(4)]
    assert offsets(splitter.look(radios, 0.0)[0]) == [0, 3, 6, 9]
    assert splitter.look(radios, 1.0) == ({}, float("inf"))


def test_who_has_gone_for_good_is_split_among_the_rest_at_once() -> None:
    splitter = Splitter()
    splitter.look([radio(number) for number in range(4)], 0.0)
    walks, _ = splitter.look([radio(0), radio(1), radio(3)], 10.0)
    assert offsets(walks) == [0, 4, 8]
    assert {walk.of for walk in walks.values()} == {3}


def test_who_comes_back_in_time_disturbs_nobody_and_finds_its_place() -> None:
    splitter = Splitter()
    radios = [radio(number) for number in range(4)]
    before, _ = splitter.look(radios, 0.0)
    gone = [*radios[:3], radio(3, here=False)]
    assert splitter.look(gone, 4.0) == ({}, 4.0 + BACK_S)
    walks, again = splitter.look([*radios[:3], radio(3, 2)], 4.4)
    assert (list(walks), again) == (["radio3"], float("inf"))
    hops = round(4.4 * 5)
    assert at(walks["radio3"], 0) == at(before["radio3"], hops)


def test_who_does_not_come_back_in_time_is_missed_within_a_second() -> None:
    splitter = Splitter()
    radios = [radio(number) for number in range(4)]
    splitter.look(radios, 0.0)
    _, again = splitter.look([*radios[:3], radio(3, here=False)], 4.0)
    assert again - 4.0 < 1.0
    walks, again = splitter.look([*radios[:3], radio(3, here=False)], again)
    assert (offsets(walks), again) == ([0, 4, 8], float("inf"))
    walks, _ = splitter.look([*radios[:3], radio(3, 2)], 9.0)
    assert offsets(walks) == [0, 3, 6, 9]


def test_a_radio_in_a_crash_loop_disturbs_nobody_until_it_has_settled() -> None:
    splitter = Splitter()
    radios = [radio(number) for number in range(3)]
    splitter.look(radios, 0.0)
    for incarnation in range(6, 9):
        walks, _ = splitter.look([*radios, radio(3, incarnation, trusted=False)], incarnation)
        assert list(walks) == ["radio3"]
        assert (
            splitter.look([*radios, radio(3, incarnation, here=False, trusted=False)], incarnation + 0.5)[0]
            == {}
        )
    walks, _ = splitter.look([*radios, radio(3, 8)], 20.0)
    assert offsets(walks) == [0, 3, 6, 9]


def test_the_last_one_left_goes_on_as_it_does() -> None:
    splitter = Splitter()
    splitter.look([radio(0), radio(1)], 0.0)
    assert splitter.look([radio(1)], 1.0) == ({}, float("inf"))
    assert offsets(splitter.look([radio(0, 2), radio(1)], 2.0)[0]) == [0, 6]


def test_another_set_another_type_or_rate_is_another_group() -> None:
    other = Radio("other", 1, True, "zigbee", THIRTEEN, 5.0)
    slow = Radio("slow", 1, True, "wifi", THIRTEEN, 1.0)
    walks, _ = Splitter().look([radio(0), radio(1, channels=("1", "6")), other, slow], 0.0)
    assert [walk.of for walk in walks.values()] == [1, 1, 1, 1]


def test_the_order_of_channels_makes_no_other_set() -> None:
    walks, _ = Splitter().look([radio(0), radio(1, channels=THIRTEEN[::-1])], 0.0)
    assert walks["radio0"].channels == walks["radio1"].channels
    assert {walk.of for walk in walks.values()} == {2}
