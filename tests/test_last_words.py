"""A helper that says that it is over, and whose process does not end: its incarnation ends, with its words."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.rig import ROOT, Rig, Stream, daemon

PEER = ROOT / "tests" / "peers" / "bad_helper.py"


def config(words: str, more: str = "") -> str:
    command = json.dumps([sys.executable, "-I", "-S", str(PEER), "good"])
    return (
        f'[[helper]]\nname = "bad"\ncommand = {command}\ntypes = ["bad"]\n'
        f'[[source]]\nname = "s"\ndefinition = "bad0:type=bad,{words}"\n{more}'
    )


def ended(rig: Rig) -> tuple[str, str, str]:
    row = rig.wait(lambda status: status["sources"][0]["exit"] is not None)["sources"][0]
    return row["exit"]["kind"], row["exit"]["problem"], row["exit"]["text"]


@pytest.mark.parametrize(
    ("mode", "at", "end"),
    [
        ("says-error", "stream", ("accident", "exited", "the antenna fell off")),
        ("says-error", "open", ("refusal", "open-refused", "the antenna fell off")),
        ("says-shutdown", "stream", ("done", "done", "the helper said it is done: the antenna fell off")),
        ("says-shutdown", "open", ("done", "done", "the helper said it is done: the antenna fell off")),
    ],
)
def test_the_words_are_the_reason_and_the_next_incarnation_comes(
    rundir: Path, mode: str, at: str, end: tuple[str, str, str]
) -> None:
    with daemon(rundir, config(f"mode={mode},at={at},after=5,text=the antenna fell off")) as rig:
        assert ended(rig) == end
        rig.wait(lambda status: status["sources"][0]["incarnation"] >= 2)


@pytest.mark.parametrize("mode", ["says-error", "says-shutdown"])
def test_so_it_is_before_it_has_greeted(rundir: Path, mode: str) -> None:
    text = config("rate=10", 'restart = "temporary"\n').replace(
        '"good"', f'"{mode}", "--at=hello", "--text=no"'
    )
    with daemon(rundir, text) as rig:
        kind, _problem, words = ended(rig)
        assert kind == ("refusal" if mode == "says-error" else "done")
        assert words.endswith("no")
        assert rig.source("s")["incarnation"] == 1


def test_one_that_says_nothing_with_it_is_ended_too(rundir: Path) -> None:
    with daemon(rundir, config("mode=says-error,after=5,text=", 'restart = "temporary"\n')) as rig:
        kind, problem, text = ended(rig)
        assert (kind, problem) == ("accident", "exited")
        assert text.startswith("the helper said that it failed, not why")


def test_one_that_does_not_end_for_anything_is_ended_by_force(rundir: Path) -> None:
    script = rundir / "deaf.py"
    script.write_text(
        "import os, runpy, sys, time\n"
        "os._exit = lambda status: time.sleep(1000)\n"  # what it does at SIGTERM and at the end of its input
        f"sys.argv = [{str(PEER)!r}, *sys.argv[1:]]\n"
        f"runpy.run_path({str(PEER)!r}, run_name='__main__')\n"
    )
    text = config("mode=says-error,after=5,text=enough", 'restart = "temporary"\n')
    with daemon(rundir, text.replace(str(PEER), str(script))) as rig:
        assert ended(rig) == ("accident", "exited", "enough")
        assert rig.source("s")["pid"] is None


def test_what_comes_behind_a_shutdown_is_counted_and_not_delivered(rundir: Path) -> None:
    """70 packets, then in one write SHUTDOWN and 30 more, and others after that."""
    words = "mode=says-shutdown,after=70,behind=30,rate=2000,text=done"
    with daemon(rundir, config(words, 'restart = "temporary"\nstart = "first-consumer"\n')) as rig:
        with rig.connect("sources/s.sock") as sock:
            stream = Stream(sock)
            first = stream.take(70)
            assert [int.from_bytes(packet.content[8:16], "big") for packet in first] == list(range(70))
            rig.wait(lambda status: status["sources"][0]["state"] == "down")
        row = rig.source("s")
        assert row["routed"] == 70
        assert row["lost"]["after-shutdown"] >= 30
        assert row["packets"] == row["routed"] + sum(row["lost"].values())


def test_what_comes_in_front_of_a_shutdown_in_the_same_write_is_delivered(rundir: Path) -> None:
    words = "mode=says-shutdown,before=20,behind=30,rate=10,text=done"
    with daemon(rundir, config(words, 'restart = "temporary"\nstart = "first-consumer"\n')) as rig:
        with rig.connect("sources/s.sock") as sock:
            taken = Stream(sock).take(20)
            assert [int.from_bytes(packet.content[8:16], "big") for packet in taken] == list(range(20))
            rig.wait(lambda status: status["sources"][0]["state"] == "down")
        row = rig.source("s")
        assert row["routed"] == 20
        assert row["lost"]["after-shutdown"] >= 30
