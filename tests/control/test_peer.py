from __future__ import annotations

import os
import socket

import pytest
import trio

from helperd.control.peer import Admins, Peer, groups_of, peer_of
from helperd.errors import HelperdError


async def test_the_kernel_says_who_it_is() -> None:
    ours, theirs = trio.socket.socketpair()
    with ours, theirs:
        peer = peer_of(ours)
        assert peer == Peer(os.getpid(), os.geteuid(), os.getegid())
        assert groups_of(ours, peer) == {os.getegid(), *os.getgroups()}


@pytest.mark.need("root")
@pytest.mark.parametrize("number", [0, 1, 256, 257, 5000])
async def test_all_groups_count(number: int) -> None:
    groups = set(range(100_000, 100_000 + number))
    before = os.getgroups()
    os.setgroups(sorted(groups))
    try:
        ours, theirs = trio.socket.socketpair()
    finally:
        os.setgroups(before)
    with ours, theirs:
        assert groups_of(ours, peer_of(ours)) == groups | {os.getegid()}


async def test_where_it_does_not_tell_the_groups_the_first_one_counts() -> None:
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert groups_of(sock, Peer(1, 2, 3)) == {3}


def test_root_the_own_user_and_the_group_are_admins() -> None:
    admins = Admins(frozenset({0, 54321}), "radio", 500)
    assert admins(0, frozenset())
    assert admins(54321, frozenset({1}))
    assert admins(7, frozenset({1, 500}))
    assert not admins(7, frozenset({1}))
    assert admins.who == "root and uid 54321 and members of the group 'radio'"


def test_without_a_group_nobody_else_is() -> None:
    admins = Admins.of(None)
    assert not admins(77777, frozenset({0, 77777}))
    assert admins.who.endswith(": sudo does it, or name an admin_group in helpers.toml(5)")
    assert admins.who.startswith("root")


def test_a_group_is_a_name_or_a_number() -> None:
    assert Admins.of("12345").gid == 12345
    assert Admins.of("root").gid == 0
    with pytest.raises(HelperdError, match="no group 'no-such-group'"):
        Admins.of("no-such-group")
