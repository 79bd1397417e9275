"""Which generation an unknown helper is addressed in."""

import pytest

from helperd.wire import v0, v2, v3
from helperd.wire.greeting import WIRES, GenerationCache, Program, attempts


def program(path="/usr/bin/a", inode=1, mtime=1):
    return Program(path, 9, inode, mtime)


def test_an_unknown_helper_is_greeted_and_then_tried_in_v0():
    assert attempts() == (None, v0)


def test_a_known_helper_is_addressed_at_once():
    assert attempts("auto", "v3") == (None,)
    assert attempts("auto", "v2") == (None,)
    assert attempts("auto", "v0") == (v0, None)


@pytest.mark.parametrize(("wire", "generation"), [("v0", v0), ("v2", v2), ("v3", v3)])
def test_what_the_configuration_says_is_not_questioned(wire, generation):
    assert attempts(wire, "v2") == (generation,)
    assert wire in WIRES


def test_an_unknown_wire_is_a_key_error():
    with pytest.raises(KeyError):
        attempts("v9")


def test_a_new_version_of_a_program_is_unknown_and_replaces_the_old():
    cache = GenerationCache()
    cache.learn(program(), "v0")
    assert cache.get(program()) == "v0"
    assert cache.get(program(mtime=2)) is None
    cache.learn(program(mtime=2), "v3")
    assert cache.get(program()) is None
    assert cache.get(program(mtime=2)) == "v3"
    assert len(cache) == 1


def test_what_was_wrong_is_forgotten():
    cache = GenerationCache()
    cache.learn(program(), "v0")
    cache.forget(program())
    cache.forget(program())
    assert cache.get(program()) is None


def test_the_longest_unused_is_forgotten_first():
    cache = GenerationCache(2)
    for name in "ab":
        cache.learn(program(name), "v2")
    assert cache.get(program("a")) == "v2"
    cache.learn(program("c"), "v3")
    assert [cache.get(program(name)) for name in "abc"] == ["v2", None, "v3"]
