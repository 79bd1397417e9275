"""helperd.helpers._hop: the walk over a hop list."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helperd.errors import UsageError
from helperd.helpers._hop import SHORTEST_S, Hopper
from helperd.wire.messages import Hopping

THIRTEEN = tuple(str(number) for number in range(1, 14))


def walk(hopper, hops):
    return [hopper.next() for _ in range(hops)]


def test_without_shuffle_the_list_is_walked_in_order_and_again():
    assert walk(Hopper(Hopping(("1", "6", "11"))), 5) == ["1", "6", "11", "1", "6"]


def test_offset_says_where_to_begin():
    assert walk(Hopper(Hopping(("1", "6", "11"), offset=2)), 4) == ["11", "1", "6", "11"]
    assert walk(Hopper(Hopping(("1", "6", "11"), offset=4)), 1) == ["6"]


@given(st.integers(1, 60), st.integers(0, 70), st.integers(0, 99), st.booleans())
def test_every_round_visits_every_channel_once(channels, skip, offset, shuffle):
    names = tuple(map(str, range(channels)))
    hopper = Hopper(Hopping(names, shuffle=shuffle, skip=skip, offset=offset))
    for _ in range(3):
        assert sorted(walk(hopper, channels)) == sorted(names)


def test_shuffle_strides():
    hopper = Hopper(Hopping(THIRTEEN, shuffle=True, skip=4))
    assert walk(hopper, 13) == ["1", "5", "9", "13", "2", "6", "10", "3", "7", "11", "4", "8", "12"]


@given(st.integers(2, 8), st.booleans())
def test_radios_with_spread_offsets_are_never_on_one_channel_and_cover_all_together(radios, shuffle):
    hoppers = [
        Hopper(Hopping(THIRTEEN, shuffle=shuffle, offset=len(THIRTEEN) // radios * number))
        for number in range(radios)
    ]
    for _ in range(30):
        assert len({hopper.next() for hopper in hoppers}) == radios


def test_repeated_channels_count_once():
    assert Hopper(Hopping(("1", "1", "6"))).channels == ("1", "6")


@pytest.mark.parametrize(
    ("rate", "interval"), [(5, 0.2), (0.5, 2.0), (20, SHORTEST_S), (1e9, SHORTEST_S), (0, float("inf"))]
)
def test_the_interval_has_a_floor(rate, interval):
    assert Hopper(Hopping(("1",), rate=rate)).interval == interval


def test_what_a_request_leaves_out_keeps_its_value():
    first = Hopper(Hopping(("1", "6"), rate=2.0, shuffle=True, skip=3, offset=1))
    second = Hopper(Hopping(("36", "40")), first)
    assert second.report() == Hopping(("36", "40"), 2.0, shuffle=True, skip=3, offset=1)


@pytest.mark.parametrize(
    "wanted", [Hopping(()), Hopping(("1",), rate=-1.0), Hopping(("1",), rate=float("nan"))]
)
def test_a_walk_that_cannot_be_is_refused(wanted):
    with pytest.raises(UsageError) as caught:
        Hopper(wanted)
    assert caught.value.problem == "bad-definition"


def test_failed_channels_leave_together_at_the_end_of_a_round():
    hopper = Hopper(Hopping(("1", "2", "3", "4")))
    swept = []
    for _ in range(4):
        channel = hopper.next()
        if channel in "24":
            hopper.fail(channel, "dead")
        swept.append(hopper.sweep())
    assert swept == [{}, {}, {}, {"2": "dead", "4": "dead"}]
    assert walk(hopper, 4) == ["1", "3", "1", "3"]
    assert hopper.report().channels == ("1", "3")


def test_when_all_fail_the_list_is_empty():
    hopper = Hopper(Hopping(("1",)))
    hopper.fail(hopper.next(), "dead")
    assert hopper.sweep() == {"1": "dead"}
    assert hopper.channels == ()
