"""When to ping, and when a peer is lost; time is handed in."""

from hypothesis import given
from hypothesis import strategies as st

from helperd.wire.keepalive import Due, Keepalive
from helperd.wire.session import Role


def test_a_supervisor_pings_every_interval():
    keepalive = Keepalive(100.0, interval=5, limit=15)
    assert keepalive.next_at == 105.0
    assert keepalive.due(104.9) is Due.NOTHING
    assert keepalive.due(105.0) is Due.PING
    assert keepalive.due(105.0) is Due.NOTHING
    assert keepalive.next_at == 110.0


def test_bytes_are_life_and_silence_is_not():
    keepalive = Keepalive(0.0, interval=5, limit=15)
    keepalive.on_bytes(14.0)
    assert keepalive.due(15.0) is Due.PING
    assert keepalive.due(28.9) is Due.PING
    assert keepalive.next_at == 29.0
    assert keepalive.due(29.0) is Due.LOST
    keepalive.on_bytes(29.5)
    assert keepalive.due(30.0) is Due.NOTHING


def test_a_helper_sends_no_pings_and_watches_for_them():
    keepalive = Keepalive(0.0, Role.HELPER)
    assert keepalive.next_at == 15.0
    assert keepalive.due(14.0) is Due.NOTHING
    assert keepalive.due(15.0) is Due.LOST


@given(st.lists(st.tuples(st.floats(0.01, 4.9), st.booleans()), max_size=60))
def test_a_peer_that_speaks_at_least_every_limit_is_never_lost_and_asking_in_time_is_enough(steps):
    keepalive, now, pings = Keepalive(0.0), 0.0, 0
    for pause, speaks in steps:
        now += pause
        if speaks:
            keepalive.on_bytes(now)
        heard = keepalive._heard_at
        due = keepalive.due(now)
        assert (due is Due.LOST) == (now >= heard + 15.0)
        pings += due is Due.PING
        if due is not Due.LOST:
            assert now < keepalive.next_at <= now + 5.0
    assert pings <= now / 5.0 + 1


def test_time_that_goes_backwards_is_not_taken_back():
    keepalive = Keepalive(10.0)
    keepalive.on_bytes(5.0)
    assert keepalive.due(24.9) is Due.PING
    assert keepalive.due(25.0) is Due.LOST
