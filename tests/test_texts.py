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
COUNT = 5000 if mode == "more" else 1500
CHANNELS = ["c" * 1000 + str(n) for n in range(3)] if mode == "names" else [str(n) for n in range(COUNT)]
class Wordy(Helper):
    TYPE = "wordy"
    def list(self):
        return [Interface("radio" + str(n), hardware=long) for n in range(5 if mode == "more" else 1)]
    def probe(self, definition):
        if mode == "refuses":
            raise Refused(long)
        return Device(dlt=147, channels=tuple(CHANNELS), channel=CHANNELS[0], hardware=long)
    def open(self, definition):
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


def test_an_answer_that_no_server_would_take_is_told_with_its_size(rundir: Path) -> None:
    with daemon(rundir, wordy(rundir, "more")) as rig:
        for method, what in (("Probe", {"definition": "radio0:type=wordy"}), ("ListDevices", {})):
            (failed,) = rig.call(method, **what)["failed"]
            assert "its answer is too long: " in failed["text"]
            assert "bytes, the peer takes 16383" in failed["text"]


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
