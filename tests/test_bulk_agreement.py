"""Which interface numbers a helper may use: agreed for each link type, and nothing else gets through."""

from __future__ import annotations

import collections
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.peers.bulk_helper import STAMP
from tests.rig import ROOT, Packet, Rig, Stream, daemon

PEER = ROOT / "tests" / "peers" / "bulk_helper.py"
CONFIG = """
[[helper]]
name = "bulk"
command = ["{python}", "{peer}"]
types = ["bulk"]
[helper.env]
OFFERS = "{offers}"

[[helper]]
name = "synthetic"
command = ["builtin:synthetic"]
types = ["synthetic"]

[[source]]
name = "other"
definition = "radio0:type=synthetic,rate=200"

[[source]]
name = "x"
definition = "x:type=bulk,does={does}"
start = "manual"
restart = "temporary"
"""


class Bench:
    """A daemon with an innocent source, and one whose helper does something; a reader of everything."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.sock = rig.connect("all.sock")
        self.stream = Stream(self.sock)
        rig.call("Start", source="x")

    def ended(self) -> dict[str, Any]:
        """The source once its helper is gone."""
        self.rig.wait(lambda status: status["sources"][1]["exit"] is not None)
        return self.rig.source("x")

    def take(self, count: int) -> list[tuple[int, Packet]]:
        """So many packets of the source, each with its link type."""
        found = []
        for packet in self.stream.packets():
            linktype, name = self.stream.interfaces[packet.interface]
            if name == "x":
                found.append((linktype, packet))
                if len(found) == count:
                    return found
        raise AssertionError("the stream has ended")

    def until_linktypes(self, *linktypes: int) -> None:
        """Wait until the source is shown with these, in this order."""
        self.rig.wait(lambda status: status["sources"][1]["linktypes"] == list(linktypes))

    def others_go_on(self) -> None:
        """The innocent source still delivers, under its own name."""
        count = 0
        for packet in self.stream.packets():
            count += self.stream.interfaces[packet.interface][1] == "other"
            if count == 50:
                return

    def said(self) -> list[str]:
        return [message["text"] for message in self.rig.call("GetMessages")["messages"]]


@contextlib.contextmanager
def bench(rundir: Path, does: str, offers: str = "helperd-bulk/2") -> Iterator[Bench]:
    with daemon(rundir, CONFIG.format(python=sys.executable, peer=PEER, does=does, offers=offers)) as rig:
        rig.wait_running("other")
        made = Bench(rig)
        with made.sock:
            yield made


def test_three_link_types_come_as_they_were_sent(rundir):
    with bench(rundir, "honest") as it:
        found = it.take(3 * sum(1 + at % 9 for at in range(30)))
        it.until_linktypes(1, 127, 105)
        it.others_go_on()
    expected = [(dlt, at) for at in range(30) for dlt in (1, 127, 105) for _ in range(1 + at % 9)]
    assert [(linktype, packet.content[0]) for linktype, packet in found] == expected
    assert {packet.stamp for _, packet in found} == {STAMP}


@pytest.mark.parametrize(
    ("does", "words"),
    [
        ("unagreed", "agreed is"),
        ("own_number", "a packet of interface 99, agreed is"),
        ("overrun", "options run over the end of their block"),
        ("mixed", "in a frame of interface"),
    ],
)
def test_a_helper_that_lies_about_interfaces_is_ended_with_the_reason(rundir, does, words):
    with bench(rundir, does) as it:
        source = it.ended()
        assert source["exit"]["problem"] == "bad-bulk"
        assert words in source["exit"]["text"]
        assert (source["routed"], source["produced"]) == (0, 0), "nothing of such a frame is delivered"
        it.others_go_on()


def test_a_number_stays_with_the_link_type_that_it_was_given_for(rundir):
    with bench(rundir, "relabel") as it:
        assert [linktype for linktype, _ in it.take(9)] == [127] * 9


def test_who_asks_again_gets_the_same_answer(rundir):
    with bench(rundir, "twice") as it:
        assert [linktype for linktype, _ in it.take(9)] == [127] * 9
        it.until_linktypes(1, 127)


def test_a_source_has_sixteen_link_types_and_the_others_are_refused(rundir):
    with bench(rundir, "many") as it:
        found = it.take(16)
        assert [linktype for linktype, _ in found] == [1, *range(200, 215)]
        assert it.rig.source("x")["state"] == "running"


def test_a_question_before_the_source_is_open_is_not_answered(rundir):
    with bench(rundir, "early") as it:
        assert [linktype for linktype, _ in it.take(1)] == [1]
        it.until_linktypes(1)


def test_questions_without_end_hold_up_nobody(rundir):
    with bench(rundir, "flood") as it:
        it.until_linktypes(1, 127)
        it.others_go_on()
        it.rig.call("Stop", source="x")
        it.ended()
        it.others_go_on()


@pytest.mark.parametrize("offers", ["helperd-bulk/1", "helperd-bulk/3", "helperd-bulk/"])
def test_another_version_is_told_and_not_accepted(rundir, offers):
    with bench(rundir, "reports", offers) as it:
        ((linktype, packet),) = it.take(1)
        assert (linktype, packet.stamp, packet.content) == (127, STAMP // 1000 * 1000, b"no")
        assert [text for text in it.said() if text.startswith(f"it offers {offers}, this is helperd-bulk/2")]


def test_of_several_offers_the_one_that_is_known_is_taken(rundir):
    with bench(rundir, "honest", "helperd-bulk/3 helperd-bulk/2 helperd-bulk/1") as it:
        counted = collections.Counter(linktype for linktype, _ in it.take(300))
        assert set(counted) == {1, 127, 105}
