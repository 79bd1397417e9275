"""Orders to tune: what cannot be carried out is refused or dropped, never repeated at the cost of a healthy radio."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helperd.cli.running import said
from helperd.control.client import ControlError
from helperd.errors import Code, HelperdError
from helperd.lifecycle import Exit, Why
from helperd.standing import TRIAL_S, StandingOrder
from helperd.wire.messages import Hopping
from tests.patience import HANGS_S
from tests.rig import HELPERD, ROOT, Rig, daemon

SYNTHETIC = """
[[helper]]
name = "synthetic"
command = ["builtin:synthetic"]
types = ["synthetic"]
[[source]]
name = "r"
definition = 'radio0:type=synthetic,channels="1,6,11"'
"""
RADIO = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from helperd.helpers.sdk import Device, Helper, Refused, main
class Radio(Helper):
    TYPE = "radio"
    OPTIONS = {{"room": "a folder"}}
    def has(self, word):
        return os.path.exists(os.path.join(self.room, word))
    def open(self, definition):
        self.room = definition.get("room")
        with open(os.path.join(self.room, "starts"), "a") as log:
            log.write("x")
        few = self.has("few")
        return Device(dlt=147, channels=("1", "2") if few else ("1", "2", "3a"), channel="1")
    def configure(self, channel):
        if self.has("refuses"):
            raise Refused("the synthesizer does not lock")
        if self.has("dies"):
            os._exit(3)
    def capture(self, writer):
        while True:
            writer.wait(60)
main(Radio)
"""


def radio(folder: Path, more: str = "") -> str:
    script = folder / "radio.py"
    script.write_text(RADIO)
    command = json.dumps([sys.executable, str(script)])
    return (
        f'[[helper]]\nname = "radio"\ncommand = {command}\ntypes = ["radio"]\n'
        f'[[source]]\nname = "r"\ndefinition = "usb0:type=radio,room={folder}"\nhop = false\n{more}'
    )


def helperd(rundir: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*HELPERD, *words, f"--runtime-dir={rundir}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=HANGS_S,
        check=False,
    )


def tuned(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["channel"], row["hop_channels"], row["tuning"]


def dropped(rig: Rig) -> list[str]:
    texts = [message["text"] for message in rig.call("GetMessages", source="r")["messages"]]
    return [text for text in texts if "is dropped" in text]


IMPOSSIBLE = [
    ("hop", "r", "998", "999"),
    ("hop", "r", "6", "999"),
    ("hop", "r", ""),
    ("hop", "r", " "),
    ("channel", "r", "998"),
    ("channel", "r", ""),
    *[
        ("hop", "r", "1", "6", f"--rate={rate}")
        for rate in ("0", "-1", "20.1", "1000", "nan", "inf", "often")
    ],
]


def test_an_impossible_order_is_refused_and_what_was_before_stays(rundir: Path) -> None:
    with daemon(rundir, SYNTHETIC) as rig:
        rig.wait(lambda status: status["sources"][0]["hop_offset"] is not None)
        assert helperd(rundir, "hop", "r", "6", "11", "--rate", "20").returncode == 0
        before = tuned(rig.source("r"))
        assert before[1:] == (
            ["6", "11"],
            {
                "channel": None,
                "channels": ["6", "11"],
                "rate": 20.0,
                "kept": False,
                "text": "hop over 6, 11, 20 a second",
            },
        )
        for words in IMPOSSIBLE:
            said = helperd(rundir, *words)
            wrong_rate = words[-1].startswith("--rate")
            assert said.returncode == (Code.USAGE if wrong_rate else Code.NO), (words, said)
            assert not said.stdout, words
            assert any(word in said.stderr for word in ("it has no channel", "is not empty", "rate")), (
                said.stderr
            )
            assert tuned(rig.source("r")) == before, words
        assert "its helper named 1, 2, 3" in helperd(rundir, "channel", "r", "998").stderr
        rig.call("Restart", source="r")
        rig.wait(lambda status: status["sources"][0]["hop_channels"] == ["6", "11"])
        assert rig.source("r")["incarnation"] == 2
        assert helperd(rundir, "hop", "r").returncode == 0
        rig.wait(lambda status: status["sources"][0]["tuning"] is None)


def test_a_channel_may_be_spelled_otherwise_and_stands_in_the_definition_or_the_report(rundir: Path) -> None:
    with daemon(rundir, radio(rundir).replace(",room=", ",add_channels=7,room=")) as rig:
        rig.wait_running()
        assert rig.call("SetChannel", source="r", channel=" 3A ")["source"]["channel"] == "3a"
        assert rig.call("SetChannel", source="r", channel="7")["source"]["channel"] == "7"
        with pytest.raises(ControlError, match="add_channels= of the definition"):
            rig.call("SetChannel", source="r", channel="8")


def test_an_order_for_a_source_that_does_not_run_is_kept_for_its_next_start_and_says_so(rundir: Path) -> None:
    with daemon(rundir, radio(rundir, 'start = "manual"\n')) as rig:
        said = helperd(rundir, "channel", "r", "2")
        assert (said.returncode, said.stdout) == (0, "r: down, channel 2 from its next start on\n")
        assert rig.call("Start", source="r")["source"]["state"] == "running"
        rig.wait(lambda status: status["sources"][0]["channel"] == "2")
        assert rig.source("r")["tuning"]["kept"] is False
        rig.call("Stop", source="r")
        with pytest.raises(ControlError, match="it has no channel '9'"):  # known from its last start
            rig.call("SetChannel", source="r", channel="9")
        assert rig.source("r")["tuning"]["channel"] == "2"
        said = helperd(rundir, "hop", "r", "1", "2")
        assert said.stdout == "r: down, hop over 1, 2 from its next start on\n"
        rig.call("Start", source="r")
        rig.wait(lambda status: status["sources"][0]["hop_channels"] == ["1", "2"])
        rig.call("Stop", source="r")
        said = helperd(rundir, "hop", "r")
        assert said.stdout == "r: down, hop over its own channels from its next start on\n"
        rig.call("Start", source="r")
        rig.wait(lambda status: status["sources"][0]["hop_channels"] == ["1", "2", "3a"])
        assert not dropped(rig)


def test_an_order_that_nobody_could_check_before_is_dropped_at_the_start(rundir: Path) -> None:
    with daemon(rundir, radio(rundir, 'start = "manual"\n')) as rig:
        rig.call("SetChannel", source="r", channel="9")
        rig.call("Start", source="r")
        rig.wait(lambda status: status["sources"][0]["tuning"] is None)
        assert rig.source("r")["state"] == "running"
        assert rig.source("r")["channel"] == "1"
        (text,) = dropped(rig)
        assert text.startswith(
            "the order to channel 9 is dropped, its definition counts again: it has no channel '9'"
        )


@pytest.mark.parametrize("what", ["few", "refuses"])
def test_a_remembered_order_that_fails_at_a_new_start_is_dropped_and_told_once(
    rundir: Path, what: str
) -> None:
    with daemon(rundir, radio(rundir)) as rig:
        rig.wait_running()
        rig.call("SetChannel", source="r", channel="3a")
        (rundir / what).touch()
        rig.call("Restart", source="r")
        rig.wait(lambda status: status["sources"][0]["tuning"] is None)
        row = rig.source("r")
        assert (row["state"], row["channel"], row["incarnation"]) == ("running", "1", 2)
        rig.call("Restart", source="r")
        assert rig.source("r")["tuning"] is None
        assert len(dropped(rig)) == 1


@pytest.mark.parametrize(
    ("key", "method"), [("can_tune", "SetChannel"), ("can_tune", "Hop"), ("can_hop", "Hop")]
)
def test_what_a_helper_is_said_not_to_be_able_to_is_refused_running_or_not(
    rundir: Path, key: str, method: str
) -> None:
    text = radio(rundir).replace('types = ["radio"]\n', f'types = ["radio"]\n{key} = false\n')
    order = {"channel": "2"} if method == "SetChannel" else {"channels": ["1", "2"]}
    with daemon(rundir, text) as rig:
        rig.wait_running()
        for _ in range(2):
            with pytest.raises(ControlError, match=f"{key} = false stands in the block"):
                rig.call(method, source="r", **order)
            rig.call("Stop", source="r")
        assert rig.source("r")["tuning"] is None


def test_an_order_that_a_running_helper_refuses_is_not_remembered(rundir: Path) -> None:
    with daemon(rundir, radio(rundir)) as rig:
        rig.wait_running()
        rig.call("SetChannel", source="r", channel="2")
        (rundir / "refuses").touch()
        with pytest.raises(ControlError, match="does not lock"):
            rig.call("SetChannel", source="r", channel="3a")
        assert (rig.source("r")["channel"], rig.source("r")["tuning"]["channel"]) == ("2", "2")


def test_a_radio_that_dies_of_an_order_is_rid_of_it_after_two_tries(rundir: Path) -> None:
    with daemon(rundir, radio(rundir)) as rig:
        rig.wait_running()
        rig.call("SetChannel", source="r", channel="2")
        (rundir / "dies").touch()
        rig.call("Restart", source="r")
        rig.wait(lambda status: status["sources"][0]["tuning"] is None)
        rig.wait_running()
        assert len((rundir / "starts").read_text()) == 4, "one, two with the order, one without"
        assert len(dropped(rig)) == 1
        (rundir / "dies").unlink()
        assert rig.call("SetChannel", source="r", channel="2")["source"]["channel"] == "2"


def test_what_dies_for_other_reasons_keeps_its_order(rundir: Path) -> None:
    with daemon(rundir, radio(rundir)) as rig:
        rig.wait_running()
        rig.call("SetChannel", source="r", channel="2")
        for number in range(2, 6):
            os.kill(rig.source("r")["pid"], signal.SIGKILL)
            rig.wait(
                lambda status, number=number: (
                    status["sources"][0]["incarnation"] == number and status["sources"][0]["channel"] == "2"
                )
            )
        assert not dropped(rig)


def test_a_bad_order_can_be_withdrawn_while_the_source_fails(rundir: Path) -> None:
    with daemon(rundir, radio(rundir)) as rig:
        rig.wait_running()
        rig.call("SetChannel", source="r", channel="2")
        rig.call("Stop", source="r")
        (rundir / "dies").touch()
        rig.call("SetChannel", source="r", channel="1")
        rig.call("Hop", source="r")
        assert rig.source("r")["tuning"]["text"] == "hop over its own channels"


def test_a_radio_none_of_whose_channels_work_does_again_what_it_did_before(rundir: Path) -> None:
    with daemon(rundir, SYNTHETIC.replace('1,6,11"', '1,6,11",dead="3,4"')) as rig:
        rig.wait(lambda status: status["sources"][0]["hop_offset"] is not None)
        rig.call("Hop", source="r", channels=["3", "4"], rate=20.0)
        rig.wait(lambda status: status["sources"][0]["tuning"] is None)
        (text,) = dropped(rig)
        assert "none of the channels can be tuned: 3: channel 3 is dead; 4: channel 4 is dead" in text
        rig.wait(lambda status: status["sources"][0]["hop_channels"] == ["1", "6", "11"])
        row = rig.source("r")
        assert (row["state"], row["incarnation"]) == ("running", 1)


# a pause


def test_a_pause_is_shown_beside_every_state_and_stays(rundir: Path) -> None:
    with daemon(rundir, SYNTHETIC) as rig:
        rig.wait_running()
        assert helperd(rundir, "pause", "r").stdout.startswith("r: running, paused")
        assert helperd(rundir, "stop", "r").stdout == "r: down, paused\n"
        row = rig.source("r")
        assert (row["state"], row["paused"]) == ("down", True)
        shown = helperd(rundir, "status", "r").stdout
        assert "down" in shown
        assert "paused; stopped" in shown
        assert helperd(rundir, "start", "r").stdout.startswith("r: running, paused")
        assert helperd(rundir, "resume", "r").stdout.startswith("r: running, channel")


# the order itself

CRASHED = Exit(Why.ACCIDENT, "exited", "x", code=3)


def test_an_order_is_to_blame_for_two_ends_in_a_row_soon_after_it_was_given() -> None:
    order = StandingOrder(channel="6")
    assert not order.to_blame(CRASHED, 0.0), "it has not been given"
    for _ in range(2):
        order.sent_at = 100.0
        assert not order.to_blame(CRASHED, 100.1)
        order.sent_at = 200.0
        assert not order.to_blame(CRASHED, 200.0 + TRIAL_S + 0.3), "it worked for long enough"
    order.sent_at = 300.0
    assert not order.to_blame(CRASHED, 300.1)
    order.sent_at = 301.0
    assert order.to_blame(CRASHED, 301.1)


@pytest.mark.parametrize(
    "innocent",
    [
        Exit(Why.ACCIDENT, "killed", "x", signal=9),
        Exit(Why.ACCIDENT, "device-gone", "x"),
        Exit(Why.ACCIDENT, "out-of-memory", "x", signal=9),
        Exit(Why.ASKED, "asked", "x"),
        Exit(Why.DONE, "done", "x"),
        Exit(Why.REFUSAL, "busy", "x"),
    ],
)
def test_an_order_is_not_to_blame_for_what_it_cannot_have_done(innocent: Exit) -> None:
    order = StandingOrder(channel="6")
    for at in (1.0, 2.0, 3.0):
        order.sent_at = at
        assert not order.to_blame(innocent, at + 0.1)


def test_a_hop_list_is_on_trial_for_a_round() -> None:
    order = StandingOrder(channels=tuple(str(n) for n in range(50)), rate=1.0)
    for _ in range(2):
        order.sent_at = 0.0
        blamed = order.to_blame(CRASHED, 55.0)
    assert blamed


def test_a_helper_contradicts_an_order_to_hop_when_it_does_nothing_of_it() -> None:
    order = StandingOrder(channels=("1", "6"))
    assert not order.contradicted("", Hopping(("6",)))
    assert not order.contradicted("", None)
    assert order.contradicted("", Hopping(("11",)))
    assert order.contradicted("11", None)
    assert not StandingOrder(channel="6").contradicted("11", None)
    assert not StandingOrder().contradicted("", Hopping(("11",)))


def test_what_is_not_known_cannot_be_checked_but_an_empty_name_never_is_one() -> None:
    StandingOrder(channels=("1", "2", "1")).check("r", ())
    with pytest.raises(HelperdError, match="not empty"):
        StandingOrder(channels=("1", "")).check("r", ())


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ({"state": "running", "channel": "6"}, "r: running, channel 6"),
        (
            {"state": "running", "channel": "hopping", "tuning": {"kept": True, "text": "channel 6"}},
            "r: running, channel hopping, channel 6 soon",
        ),
        (
            {"state": "down", "channel": "1", "tuning": {"kept": True, "text": "channel 6"}},
            "r: down, channel 6 from its next start on",
        ),
        (
            {"state": "down", "why": "done", "paused": True},
            "r: done, paused, nothing more comes; `helperd start r` begins it again",
        ),
    ],
)
def test_the_line_about_an_order_says_what_is_so_now(facts: dict[str, Any], line: str) -> None:
    row = {"name": "r", "why": "", "wanted": "up", "reason": "", "verdict": "", "paused": False, **facts}
    assert said({"crash_loop": False, "next_try_s": None, "exit": None, **row}) == line


@pytest.mark.parametrize(
    "options", ['add_channels="99,é"', 'channels="1,6",add_channels="99,é"', 'channel=6,add_channels="99,é"']
)
def test_a_channel_that_stands_in_add_channels_is_taken_as_the_refusal_says(
    rundir: Path, options: str
) -> None:
    config = SYNTHETIC.replace('channels="1,6,11"', options)
    with daemon(rundir, config) as rig:
        rig.wait_running()
        for words in (("hop", "r", "99", "6"), ("hop", "r", "é")):
            said = helperd(rundir, *words)
            assert "add_channels" not in said.stderr, said
