"""What a reload touches: only what changed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from helperd.lifecycle import Plan, plan


@dataclass(frozen=True)
class Helper:
    name: str
    command: str = "/x"
    term_grace: float = 1.0
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Source:
    name: str
    definition: str = "d"
    helper: str | None = "h"
    restart: str = "permanent"
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Thing:
    """A sink, or a service."""

    name: str
    limit: int = 1


@dataclass(frozen=True)
class Config:
    helpers: tuple[Helper, ...] = (Helper("h"), Helper("other"))
    sources: tuple[Source, ...] = (Source("a"), Source("b"))
    sinks: tuple[Thing, ...] = (Thing("s"), Thing("t"), Thing("u"))
    services: tuple[Thing, ...] = (Thing("e"),)


NEEDS = {("source", "definition"), ("source", "helper"), ("helper", "command")}
OLD = Config()


def planned(new: Config, **more) -> Plan:
    return plan(OLD, new, needs_process=NEEDS, **more)


def test_nothing_changed():
    assert planned(OLD) == Plan(keep=("a", "b"))
    assert planned(OLD).empty


def test_what_is_configured_no_more_is_told_by_kind():
    assert planned(OLD).gone == ()
    more = replace(OLD, sources=(*OLD.sources, Source("c")), sinks=(*OLD.sinks, Thing("v")))
    assert planned(more).gone == ()
    assert planned(replace(OLD, sinks=(Thing("t", 2), Thing("s"), Thing("u")))).gone == ()
    less = Config((Helper("other"),), (Source("b"),), (Thing("t"), Thing("new")), ())
    assert planned(less).gone == (
        ("helper", ("h",), 2),
        ("source", ("a",), 2),
        ("sink", ("s", "u"), 3),
        ("service", ("e",), 1),
    )


def test_comments_and_order_change_nothing():
    moved = Config(
        (Helper("other", line=9), Helper("h", line=3)), (Source("b", line=7), Source("a", line=30))
    )
    assert planned(moved) == Plan(keep=("b", "a"))


def test_one_of_two_changed():
    assert planned(Config(sources=(Source("a"), Source("b", "e")))) == Plan(replace=("b",), keep=("a",))
    assert planned(Config(sources=(Source("a"), Source("b", restart="temporary")))) == Plan(
        adjust=("b",), keep=("a",)
    )
    assert planned(Config(sources=(Source("a"),))) == Plan(stop=("b",), keep=("a",))
    assert planned(Config(sources=(*OLD.sources, Source("c")))) == Plan(start=("c",), keep=("a", "b"))


def test_a_plan_that_touches_something_is_not_empty():
    for part in ("stop", "start", "replace", "adjust"):
        assert not Plan(**{part: ("a",)}).empty
    assert Plan().empty


def test_a_helpers_change_reaches_its_sources_only():
    changed = (Helper("h", command="/y"), Helper("other"))
    assert planned(Config(changed)) == Plan(replace=("a", "b"))
    assert planned(Config((Helper("h", term_grace=3.0), Helper("other")))) == Plan(adjust=("a", "b"))
    assert planned(Config((Helper("h"), Helper("other", command="/y")))) == Plan(keep=("a", "b"))


def test_a_source_of_another_helper_is_replaced():
    assert planned(Config(sources=(Source("a", helper="other"), Source("b")))) == Plan(
        replace=("a",), keep=("b",)
    )


def test_a_probed_source_follows_the_helper_that_opened_it():
    probed = Config(sources=(Source("a", helper=None),))
    changed = replace(probed, helpers=(Helper("h", command="/y"), Helper("other")))
    assert plan(probed, changed, needs_process=NEEDS) == Plan(keep=("a",))
    assert plan(probed, changed, needs_process=NEEDS, opened_by={"a": "other"}) == Plan(keep=("a",))
    assert plan(probed, changed, needs_process=NEEDS, opened_by={"a": "h"}) == Plan(replace=("a",))
    gone = replace(probed, helpers=(Helper("other"),))
    assert plan(probed, gone, needs_process=NEEDS, opened_by={"a": "h"}) == Plan(replace=("a",))
    assert plan(probed, probed, needs_process=NEEDS, opened_by={"a": "unheard"}) == Plan(keep=("a",))


def configs():
    names = st.sampled_from(["a", "b", "c", "d"])
    sources = st.builds(
        Source,
        names,
        st.sampled_from("de"),
        st.sampled_from(["h", "g"]),
        st.sampled_from(["permanent", "temporary"]),
    )
    helpers = st.tuples(*[st.builds(Helper, st.just(n), st.sampled_from(["/x", "/y"])) for n in "hg"])
    many = st.lists(sources, max_size=4, unique_by=lambda s: s.name).map(tuple)
    return st.builds(Config, helpers, many)


@given(configs(), configs())
def test_the_parts_are_disjoint_and_complete(old, new):
    found = plan(old, new, needs_process=NEEDS)
    staying = [*found.replace, *found.adjust, *found.keep]
    assert sorted([*found.stop, *staying]) == sorted(s.name for s in old.sources)
    assert sorted([*found.start, *staying]) == sorted(s.name for s in new.sources)
    before = {s.name: s for s in old.sources}
    after = {s.name: s for s in new.sources}
    assert all(before[name] == after[name] for name in found.keep)
    assert plan(new, new, needs_process=NEEDS).empty
