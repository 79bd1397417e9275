"""A helper that answers and sends nothing: the limit of its block, and what a source says instead."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from helperd import config
from tests.rig import ROOT, Rig, daemon

PEER = ROOT / "tests" / "peers" / "bad_helper.py"
HELPER = f"""
[[helper]]
name = "old"
command = {json.dumps([sys.executable, "-I", "-S", str(PEER), "mute-at-term"])}
types = ["old"]
"""


def source(name: str, *more: str) -> str:
    return f'[[source]]\nname = "{name}"\ndefinition = "{name}0:type=old,rate=200"\n' + "".join(
        f"{line}\n" for line in more
    )


def silence(rig: Rig, name: str) -> None:
    """What a stranger's SIGTERM does to it: no packet any more, and PING answered."""
    row = rig.source(name)
    os.kill(row["pid"], signal.SIGTERM)
    before = -1
    while before != (before := rig.source(name)["packets"]):
        rig.wait(lambda status: next(r for r in status["sources"] if r["name"] == name)["age_s"] > 0.2)


def test_one_that_a_stranger_has_silenced_is_started_anew_by_its_blocks_limit(rundir: Path) -> None:
    block = HELPER + 'silence = "1s"\n'
    with daemon(rundir, block + source("a") + source("b", 'silence = "0s"')) as rig:
        rig.wait(lambda status: all(row["packets"] for row in status["sources"]))
        for name in ("b", "a"):
            silence(rig, name)
        status = rig.wait(lambda status: status["sources"][0]["incarnation"] == 2)
        [a, b] = status["sources"]
        assert (a["exit"]["problem"], a["exit"]["text"]) == ("silent", "no packet for 1 s")
        packets = a["packets"]
        rig.wait(lambda status: status["sources"][0]["packets"] > packets)
        assert (b["state"], b["incarnation"], b["verdict"]) == ("running", 1, "ok"), "0s is no limit"


def test_a_block_may_only_say_so_and_a_source_otherwise(rundir: Path) -> None:
    block = HELPER + 'silence = "1s"\non_silence = "alert"\n'
    with daemon(rundir, block + source("a") + source("b", 'on_silence = "restart"')) as rig:
        rig.wait(lambda status: all(row["packets"] for row in status["sources"]))
        for name in ("a", "b"):
            silence(rig, name)
        [a, _] = rig.wait(lambda status: status["sources"][1]["incarnation"] == 2)["sources"]
        assert (a["state"], a["incarnation"]) == ("running", 1)
        texts = [row["text"] for row in rig.call("GetMessages", source="a")["messages"]]
        assert "silent: no packet for 1 s" in texts


def test_a_reload_of_the_block_holds_at_once(rundir: Path) -> None:
    with daemon(rundir, HELPER + source("a")) as rig:
        rig.wait(lambda status: status["sources"][0]["packets"] > 0)
        silence(rig, "a")
        (rundir / "helpers.toml").write_text(HELPER + 'silence = "500ms"\n' + source("a"))
        rig.call("Reload")
        [row] = rig.wait(lambda status: status["sources"][0]["incarnation"] == 2)["sources"]
        assert row["exit"]["problem"] == "silent"


@pytest.mark.parametrize(("text", "seconds"), [("0s", 0.0), ("500ms", 0.5), ("1h", 3600.0)])
def test_no_limit_is_0s(text: str, seconds: float) -> None:
    line = f'silence = "{text}"\n'
    found = config.parse(HELPER + line + source("a", line), "x")
    assert (found.helpers[0].silence, found.sources[0].silence) == (seconds, seconds)


@pytest.mark.parametrize("text", ["100ms", "0.4s"])
def test_a_limit_that_nothing_keeps_is_refused(text: str) -> None:
    with pytest.raises(config.ConfigRefused, match=r"must be 0s, or from 0.5s"):
        config.parse(f'{HELPER}silence = "{text}"\n', "x")
