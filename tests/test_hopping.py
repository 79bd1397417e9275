"""Radios that share one set of channels, under a real daemon: what each hears says where it was, and when."""

from __future__ import annotations

import os
import signal
import struct
import time
from itertools import pairwise
from pathlib import Path

from helperd.lifecycle.hopping import spread
from tests.patience import HANGS_S, promptly
from tests.rig import Rig, Stream, daemon

CHANNELS = tuple(range(1, 14))
RATE = 10
RADIO = """
[[source]]
definition = 'radio{n}:type=synthetic,channels="1,2,3,4,5,6,7,8,9,10,11,12,13",channel_hoprate={rate}/sec,rate=400'
{more}
"""
HELPER = '[[helper]]\nname = "synthetic"\ncommand = ["builtin:synthetic"]\ntypes = ["synthetic"]\n'


def radios(count: int = 4, **more: str) -> str:
    blocks = [RADIO.format(n=n, rate=RATE, more=more.get(f"radio{n}", "")) for n in range(count)]
    return HELPER + "".join(blocks)


Visit = tuple[str, int, float]
"""Who was on which channel from when on, in seconds since 1970."""


def channel_of(content: bytes) -> int:
    """From the radiotap header: flags, rate, then the frequency in MHz."""
    return (struct.unpack_from("<H", content, 10)[0] - 2407) // 5


def visits(rig: Rig, seconds: float) -> dict[str, list[Visit]]:
    """Follow all radios for a while, from the packets alone; not before all have had time to do what they were told."""
    found: dict[str, list[Visit]] = {}
    with rig.connect() as sock:
        stream = Stream(sock)
        begin = time.time() + 0.3
        end = begin + seconds
        for packet in stream.packets():
            name = stream.interfaces[packet.interface][1].split()[0]
            channel, at = channel_of(packet.content), packet.stamp / 1e9
            mine = found.setdefault(name, [])
            if at > begin and (not mine or mine[-1][1] != channel):
                mine.append((name, channel, at))
            if at > end:
                return found
    raise AssertionError("the stream ended")


def walks_in_rounds(mine: list[Visit]) -> int:
    """Check that a radio goes through the whole list, in one order, again and again; returns how often.

    A helper that gets no processor for a visit's time hears nothing there: a few such visits are forgiven.
    """
    seen = [channel for _, channel, _ in mine[1:-1]]  # the first and the last are cut
    order = spread(tuple(map(str, CHANNELS)))
    steps = [
        (order.index(str(later)) - order.index(str(earlier))) % len(CHANNELS)
        for earlier, later in pairwise(seen)
    ]
    assert sum(step != 1 for step in steps) <= len(steps) // 5, seen
    assert max(steps) <= len(CHANNELS) // 2, seen
    return len(seen) // len(CHANNELS)


def until_split(rig: Rig, count: int, timeout: float = HANGS_S) -> float:
    """Wait until so many radios share the channels; returns when that was."""

    def split(status: dict) -> bool:
        told = [
            row for row in status["sources"] if row["state"] == "running" and row["hop_offset"] is not None
        ]
        want = {len(CHANNELS) * n // count for n in range(count)}
        return len(told) == count and {row["hop_offset"] for row in told} == want

    rig.wait(split, timeout)
    return time.time()


def longest_gap(found: dict[str, list[Visit]]) -> float:
    """The longest time in which nobody came to some channel, in hops."""
    every = sorted((visit for mine in found.values() for visit in mine[1:-1]), key=lambda visit: visit[2])
    gaps = []
    for channel in CHANNELS:
        times = [at for _, where, at in every if where == channel]
        assert times, f"nobody was on {channel}"
        gaps += [(later - earlier) * RATE for earlier, later in pairwise(times)]
    return max(gaps)


def test_four_radios_cover_thirteen_channels_and_three_go_on_when_one_is_killed(rundir: Path) -> None:
    with daemon(rundir, radios(radio2='restart = "temporary"')) as rig:
        rig.wait_running()
        until_split(rig, 4)
        four = visits(rig, 4.0)
        assert len(four) == 4
        for mine in four.values():  # every radio visits every channel once a round
            assert walks_in_rounds(mine) >= 2
        # a round is shared: somebody comes to every channel every 13/4 hops, so after 4 at the latest
        assert longest_gap(four) < len(CHANNELS) - 2, "no better than one radio alone"
        with promptly("three share", 1.5):
            os.kill(rig.source("radio2")["pid"], signal.SIGKILL)
            until_split(rig, 3)
        three = visits(rig, 2.4)
        assert set(three) - {"radio2"} == {"radio0", "radio1", "radio3"}
        three.pop("radio2", None)
        for mine in three.values():
            assert walks_in_rounds(mine) >= 1
        assert longest_gap(three) < len(CHANNELS) - 2, "no better than one radio alone"
        rig.call("Start", source="radio2")  # back again: four share
        until_split(rig, 4)


def test_one_that_is_restarted_at_once_finds_its_place_and_disturbs_nobody(rundir: Path) -> None:
    with daemon(rundir, radios()) as rig:
        rig.wait_running()
        until_split(rig, 4)
        before = {row["name"]: row["hop_offset"] for row in rig.status()["sources"]}
        os.kill(rig.source("radio3")["pid"], signal.SIGKILL)
        rig.wait(
            lambda status: any(
                row["name"] == "radio3" and row["incarnation"] == 2 and row["hop_offset"] is not None
                for row in status["sources"]
            )
        )
        after = {row["name"]: row["hop_offset"] for row in rig.status()["sources"]}
        assert [after[name] for name in ("radio0", "radio1", "radio2")] == [
            before[name] for name in ("radio0", "radio1", "radio2")
        ]
        found = visits(rig, 1.6)
        for mine in found.values():
            assert walks_in_rounds(mine) >= 1


def test_who_is_tuned_by_hand_or_told_not_to_hop_leaves_the_others_more(rundir: Path) -> None:
    with daemon(rundir, radios(radio1="hop = false")) as rig:
        rig.wait_running()
        until_offsets(rig, {"radio0": 0, "radio2": 4, "radio3": 8})
        rig.call("SetChannel", source="radio0", channel="6")
        until_offsets(rig, {"radio2": 0, "radio3": 6})
        row = rig.source("radio0")
        assert (row["channel"], row["hop_channels"]) == ("6", [])
        rig.call("Hop", source="radio0")
        until_offsets(rig, {"radio0": 0, "radio2": 4, "radio3": 8})
        rig.call("Hop", source="radio0", channels=["1", "6"])
        until_offsets(rig, {"radio2": 0, "radio3": 6})
        assert rig.source("radio0")["hop_channels"] == ["1", "6"]


def until_offsets(rig: Rig, want: dict[str, int]) -> None:
    rig.wait(
        lambda status: all(
            row["hop_offset"] == want[row["name"]] for row in status["sources"] if row["name"] in want
        )
    )


def test_a_hop_rate_that_is_none_costs_that_source_alone(rundir: Path) -> None:
    bad = """
[[helper]]
name = "other"
command = ["builtin:synthetic"]
types = ["other"]
[[source]]
name = "bad"
definition = "radio3:type=other,channel_hoprate=often"
"""
    with daemon(rundir, radios(2) + bad) as rig:
        status = rig.wait(
            lambda status: any(row["exit"] for row in status["sources"] if row["name"] == "bad")
        )
        row = next(row for row in status["sources"] if row["name"] == "bad")
        assert row["exit"]["problem"] == "bad-definition"
        assert "'often' is not a rate; write 5/sec" in row["exit"]["text"]
        until_split(rig, 2)
