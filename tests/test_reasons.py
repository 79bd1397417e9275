"""A helper's own reason, in its own word, wherever one looks: status, messages, the log, list, probe and capture."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from helperd.errors import PROBLEMS
from helperd.wire.reasons import REASONS, reason_word
from tests.patience import HANGS_S
from tests.rig import HELPERD, ROOT, daemon

RADIO = """
import errno, sys
sys.path.insert(0, {root!r})
from helperd.helpers import sdk

class Radio(sdk.Helper):
    TYPE = "radio"
    OPTIONS = {{"what": "which fault to show"}}

    def fault(self, definition):
        return definition.get("what")

    def probe(self, definition):
        if definition.interface == "absent":
            raise sdk.Refused("absent is not plugged in", "device-gone")
        return True

    def list(self):
        raise sdk.Refused("the bus does not answer", "timed-out")

    def open(self, definition):
        self.what = definition.get("what")
        refusals = {{
            "taken": sdk.Refused("another program has the radio", "busy"),
            "closed": PermissionError(errno.EACCES, "Permission denied", "/dev/radio0"),
            "crowded": OSError(errno.EMFILE, "Too many open files"),
            "plain": sdk.Refused("it does not want to"),
            "strange": sdk.Refused("a word of somebody else's", "launcher-gone"),
        }}
        if self.what in refusals:
            raise refusals[self.what]
        return sdk.Device(dlt=1)

    def capture(self, writer):
        writer.packet(bytes(60))
        if self.what == "unplugged":
            raise OSError(errno.ENODEV, "No such device")
        if self.what == "cut":
            raise sdk.HelperdError("bad-capture", "it ends inside a packet")
        if self.what == "bug":
            raise ZeroDivisionError("once too often")
        raise sdk.HelperdError("launcher-gone", "a word of somebody else's")

sdk.main(Radio)
"""
# What: the problem word, and words of its text.
ENDS = {
    "taken": ("busy", "another program has the radio"),
    "closed": ("not-permitted", "/dev/radio0"),
    "crowded": ("no-resources", "Too many open files"),
    "plain": ("open-refused", "it does not want to"),
    "strange": ("open-refused", "a word of somebody else's"),
    "unplugged": ("device-gone", "No such device"),
    "cut": ("bad-capture", "it ends inside a packet"),
    "bug": ("exited", "once too often"),
    "mistaken": ("exited", "a word of somebody else's"),
}


@pytest.fixture(scope="module")
def radio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("radio") / "radio.py"
    path.write_text(RADIO.format(root=str(ROOT)))
    return path


def config(radio: Path, *sources: str) -> str:
    helper = f'[[helper]]\nname = "radio"\ncommand = ["{sys.executable}", "{radio}"]\ntypes = ["radio"]\n'
    head = '[helperd]\nlog_format = "json"\n'
    return (
        head
        + helper
        + "".join(f'[[source]]\nname = "{name}"\n{rest}\n' for name, rest in (s.split("|") for s in sources))
    )


def test_words_that_a_helper_may_say_are_known_and_no_others_are_taken() -> None:
    assert set(PROBLEMS) >= REASONS
    assert reason_word("device-gone", "exited") == "device-gone"
    for word in ("launcher-gone", "asked", "done", "", "x" * 1000, "device-gone "):
        assert reason_word(word, "exited") == "exited"


def test_the_word_reaches_status_messages_and_log(tmp_path: Path, radio: Path) -> None:
    sources = [f'{what}|definition = "{what}:type=radio,what={what}"\nrestart = "temporary"' for what in ENDS]
    with daemon(tmp_path, config(radio, *sources)) as rig:
        status = rig.wait(lambda now: all(row["state"] == "down" and row["exit"] for row in now["sources"]))
        told = rig.call("GetMessages")["messages"]
    rows = {row["name"]: row for row in status["sources"]}
    log = (tmp_path / "log").read_text()
    for what, (problem, words) in ENDS.items():
        ended = rows[what]["exit"]
        assert (ended["problem"], words in ended["text"]) == (problem, True), ended
        line = f"{problem}: {ended['text']}"
        assert any(message["source"] == what and line in message["text"] for message in told), told
        assert any(
            json.loads(row).get("source") == what and line in json.loads(row)["text"]
            for row in log.splitlines()
        )


@pytest.mark.parametrize("what", ["unplugged", "cut", "taken"])
def test_capture_says_it_too(tmp_path: Path, radio: Path, what: str) -> None:
    file = tmp_path / "helpers.toml"
    file.write_text(config(radio))
    words = ["capture", "--config", str(file), f"r:type=radio,what={what}", "-w", str(tmp_path / "out")]
    done = subprocess.run([*HELPERD, *words], capture_output=True, text=True, timeout=HANGS_S)
    problem, text = ENDS[what]
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"helperd: {problem}: "), done.stderr
    assert text in done.stderr.splitlines()[-1]


def test_list_and_probe_show_it(tmp_path: Path, radio: Path) -> None:
    with daemon(tmp_path, config(radio)) as rig:
        (failed,) = rig.call("ListDevices")["failed"]
        assert (failed["problem"], failed["text"]) == ("timed-out", "the bus does not answer")
        (refused,) = rig.call("Probe", definition="absent")["refused"]
        assert (refused["problem"], refused["text"]) == ("device-gone", "absent is not plugged in")


FOREIGN = """
import os, sys
sys.path.insert(0, {root!r})
from helperd.wire import generations, messages as m
from helperd.wire.frames import FrameScanner
generation = generations.named(sys.argv[1])
fds = dict(word.removeprefix("--").split("=") for word in sys.argv[2:])
source, target = int(fds["in-fd"]), int(fds["out-fd"])
scanner = FrameScanner([generation, generations.named("v2")], sticky=False)
number = 0
def say(message):
    global number
    number += 1
    os.write(target, generation.encode(message, number))
while data := os.read(source, 65536):
    for frame in scanner.feed(data):
        message = frame.generation.decode(frame)
        if isinstance(message, m.Ping):
            say(m.Pong(frame.seqno))
        elif isinstance(message, m.OpenRequest):
            say(m.OpenReport(frame.seqno, dlt=1))
            say(m.ErrorReport(0, "the dongle does not answer"))
            sys.exit(1)
"""


@pytest.mark.parametrize("generation", ["v0", "v2", "v3"])
def test_a_foreign_helper_that_knows_no_words_is_quoted(tmp_path: Path, generation: str) -> None:
    script = tmp_path / "foreign.py"
    script.write_text(FOREIGN.format(root=str(ROOT)))
    text = (
        f'[[helper]]\nname = "f"\ncommand = ["{sys.executable}", "{script}", "{generation}"]\ntypes = ["f"]\n'
        f'wire = "{generation}"\n[[source]]\nname = "s"\ndefinition = "x:type=f"\nrestart = "temporary"\n'
    )
    with daemon(tmp_path, text) as rig:
        (row,) = rig.wait(lambda now: now["sources"][0]["exit"] and now["sources"][0]["state"] == "down")[
            "sources"
        ]
    assert (row["exit"]["problem"], row["exit"]["text"]) == ("exited", "the dongle does not answer")
