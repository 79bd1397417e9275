"""What helpers say is kept within bounds, wherever it is shown: names, texts, reasons, last words."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from helperd.asking import MAX_NAME, MAX_NAMES, MAX_TEXT
from helperd.bus import MAX_TEXT as MAX_MESSAGE
from helperd.control.client import ControlError
from helperd.source import MAX_WORDS
from tests.rig import ROOT, Rig, daemon

LONG = 5_000
WORDY = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from helperd.helpers.sdk import Device, Helper, Interface, Refused, main
mode, long = "MODE", "x" * {LONG}
COUNT = {{"more": 5000, "most": 200_000}}.get(mode, 1500)
CHANNELS = ["c" * 1000 + str(n) for n in range(3)] if mode == "names" else [str(n) for n in range(COUNT)]
class Wordy(Helper):
    TYPE = "wordy"
    def list(self):
        return [Interface("radio" + str(n), hardware=long) for n in range({{"more": 5, "most": 500}}.get(mode, 1))]
    def probe(self, definition):
        if mode == "refuses":
            raise Refused(long)
        return Device(dlt=147, channels=tuple(CHANNELS), channel=CHANNELS[0], hardware=long)
    def open(self, definition):
        if mode == "opens":
            self.say("x" * 20_000)
            self.say("y" * 2_000_000)
        if mode == "refuses":
            raise Refused(long)
        return Device(dlt=147, channels=tuple(CHANNELS), channel=CHANNELS[0], hardware=long)
    def configure(self, channel):
        raise Refused(long)
    def capture(self, writer):
        if mode == "says":
            self.say(long)
        if mode in ("dies", "fails"):
            os.write(2, b"w" * 3000 + b"\\n")
            if mode == "dies":
                os._exit(3)
            raise RuntimeError(long)
        while True:
            writer.wait(60)
main(Wordy)
"""


def wordy(folder: Path, mode: str) -> str:
    script = folder / "wordy.py"
    script.write_text(WORDY.replace("MODE", mode))
    command = json.dumps([sys.executable, str(script)])
    return (
        f'[[helper]]\nname = "wordy"\ncommand = {command}\ntypes = ["wordy"]\n'
        'list_timeout = "30s"\nprobe_timeout = "30s"\n'
        '[[source]]\nname = "r"\ndefinition = "radio0:type=wordy"\nhop = false\nrestart = "temporary"\n'
    )


def longest(value: Any, least: int = 500) -> int:
    """Characters of the longest text in a reply."""
    if isinstance(value, dict):
        return max([least, *(longest(one, least) for one in value.values())])
    if isinstance(value, list):
        return max([least, *(longest(one, least) for one in value)])
    return len(value) if isinstance(value, str) else least


@pytest.mark.parametrize(("mode", "count", "each"), [("names", 3, MAX_NAME), ("many", MAX_NAMES, 4)])
def test_names_of_channels(rundir: Path, mode: str, count: int, each: int) -> None:
    with daemon(rundir, wordy(rundir, mode)) as rig:
        rig.wait_running()
        row = rig.source("r")
        assert (len(row["channels"]), max(map(len, row["channels"]))) == (count, each)
        assert len(row["channel"]) <= MAX_TEXT == len(row["hardware"])
        probed = rig.call("Probe", definition="radio0:type=wordy")
        assert (len(probed["channels"]), max(map(len, probed["channels"]))) == (count, each)
        assert longest(probed) == MAX_TEXT
        assert longest(rig.call("ListDevices")) == MAX_TEXT
        assert longest(rig.status()) == MAX_TEXT


def test_an_answer_that_only_helperd_takes_is_heard(rundir: Path) -> None:
    """Kismet's servers refuse a frame of 16 KiB; helperd says before it asks that it takes more."""
    with daemon(rundir, wordy(rundir, "more")) as rig:
        probed = rig.call("Probe", definition="radio0:type=wordy")
        assert (probed["failed"], len(probed["channels"])) == ([], MAX_NAMES)
        listed = rig.call("ListDevices")
        assert (listed["failed"], len(listed["devices"])) == ([], 5)


def test_an_answer_that_is_longer_than_a_frame_is_told_with_its_size(rundir: Path) -> None:
    with daemon(rundir, wordy(rundir, "most")) as rig:
        for method, what in (("Probe", {"definition": "radio0:type=wordy"}), ("ListDevices", {})):
            (failed,) = rig.call(method, **what)["failed"]
            assert "its answer is too long: " in failed["text"]
            assert "bytes, the peer takes 1048576" in failed["text"]


def test_the_reasons_of_refusals(rundir: Path) -> None:
    with daemon(rundir, wordy(rundir, "refuses")) as rig:
        row = rig.wait(lambda status: status["sources"][0]["exit"] is not None)["sources"][0]
        assert 500 < len(row["exit"]["text"]) <= MAX_TEXT + 50
        assert longest(rig.call("Probe", definition="radio0:type=wordy")) == MAX_TEXT
        assert longest(rig.call("GetMessages")) <= MAX_MESSAGE
    with daemon(rundir, wordy(rundir, "good")) as rig:
        rig.wait_running()
        with pytest.raises(ControlError) as refused:
            rig.call("SetChannel", source="r", channel="2")
        assert 500 < len(str(refused.value)) <= MAX_TEXT + 100


def test_messages(rundir: Path) -> None:
    with daemon(rundir, wordy(rundir, "says")) as rig:
        rig.wait_running()
        assert longest(said(rig, "xxx")) == MAX_MESSAGE


def test_messages_longer_than_a_frame(rundir: Path) -> None:
    """Also before it is told that helperd takes more than others."""
    with daemon(rundir, wordy(rundir, "opens")) as rig:
        rig.wait_running()
        assert longest(said(rig, "xxx")) == MAX_MESSAGE
        assert longest(said(rig, "yyy")) == MAX_MESSAGE


@pytest.mark.parametrize("mode", ["dies", "fails"])
def test_last_words_in_the_line_that_says_how_it_ended(rundir: Path, mode: str) -> None:
    """400 characters of the last line and 1,000 of its own reason, whatever else it said."""
    with daemon(rundir, wordy(rundir, mode)) as rig:
        ended = rig.wait(lambda status: status["sources"][0]["exit"] is not None)["sources"][0]
        assert max(map(len, ended["stderr"])) >= 3000, "what it wrote itself is kept"
        (line,) = (row["text"] for row in said(rig, "last words: "))
        assert line.endswith(" ...")
        assert len(line.partition("last words: ")[2]) == MAX_WORDS + len(" ...")
        assert len(line) <= MAX_TEXT + MAX_WORDS + 100


def said(rig: Rig, words: str) -> list[dict[str, Any]]:
    """What people were told of the source that has such words in it."""
    rig.wait(lambda _status: any(words in row["text"] for row in rig.call("GetMessages")["messages"]))
    return [row for row in rig.call("GetMessages")["messages"] if words in row["text"]]
