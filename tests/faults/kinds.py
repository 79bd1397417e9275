"""The catalogue: each kind of fault, how it is done to a helper, and what must come of it.

A kind is a function of a stage. It opens its victim, does the harm, waits for what must follow, and lets the victim
leave; everything that must hold of all kinds is held against it by `test_faults.py`. Numbers are those of the design's
catalogue; those above 35 stand beside it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import NamedTuple

import pytest

from helperd.control.client import ControlError
from tests.faults.stage import Stage, Victim, gone
from tests.patience import promptly


class Kind(NamedTuple):
    """One line of the catalogue."""

    number: str
    name: str
    play: Callable[[Stage], None]
    slow: bool = False


KINDS: list[Kind] = []


def kind(number: str, name: str, *, slow: bool = False) -> Callable[[Callable[[Stage], None]], None]:
    """Enter a function into the catalogue."""

    def enter(play: Callable[[Stage], None]) -> None:
        KINDS.append(Kind(number, name, play, slow))

    return enter


def comes_back(victim: Victim, problem: str) -> None:
    """The victim's first life ended for that reason, and the next one streams."""
    row = victim.until(lambda row: row["incarnation"] >= 2 and row["state"] == "running")
    assert row["exit"]["problem"] == problem, row["exit"]
    victim.streaming()


# --- ends ---------------------------------------------------------------------------------------------------


@kind("1", "exits with 0, early")
def exits(stage: Stage) -> None:
    victim = stage.victim("exit", after=50)
    comes_back(victim, "exited")
    victim.leave()


@kind("2", "exits with 3")
def exits_badly(stage: Stage) -> None:
    victim = stage.victim("exit", after=50, status=3)
    row = victim.until(lambda row: row["exit"])
    assert "code 3" in row["exit"]["text"]
    comes_back(victim, "exited")
    victim.leave()


@kind("3", "SIGKILL")
def killed(stage: Stage) -> None:
    victim = stage.victim()
    victim.streaming()
    victim.signal(signal.SIGKILL)
    comes_back(victim, "killed")
    victim.leave()


@kind("3b", "SIGKILL of a helper of ours, with packets not sent yet")
def own_killed(stage: Stage) -> None:
    victim = stage.synthetic(rate=20_000)
    victim.streaming()
    victim.signal(signal.SIGKILL)
    comes_back(victim, "killed")
    row = victim.leave()
    assert set(row["lost"]) <= {"died-unsent"}


@kind("4", "SIGSEGV")
def crashes(stage: Stage) -> None:
    victim = stage.victim("crash", after=20)
    row = victim.until(lambda row: row["exit"])
    assert "SIGSEGV" in row["exit"]["text"], row["exit"]
    comes_back(victim, "killed")
    victim.leave()


@kind("5", "no memory left to it (RLIMIT_AS)")
def no_memory(stage: Stage) -> None:
    victim = stage.victim("good", kind="small", size=50_000_000, rate=1)
    row = victim.until(lambda row: row["exit"])
    assert row["exit"]["problem"] == "exited", row["exit"]
    victim.leave()


# --- lives without working ----------------------------------------------------------------------------------


@kind("6", "stopped (SIGSTOP)")
def stopped(stage: Stage) -> None:
    victim = stage.victim()
    victim.streaming()
    with promptly("the verdict", 3.6):
        victim.signal(signal.SIGSTOP)
        row = victim.until(lambda row: row["exit"])
    assert row["exit"]["problem"] == "stopped"
    comes_back(victim, "stopped")
    victim.leave()


@kind("7", "stopped, and continued before the deadline")
def paused(stage: Stage) -> None:
    victim = stage.victim()
    victim.streaming()
    victim.signal(signal.SIGSTOP)
    time.sleep(1.0)
    victim.signal(signal.SIGCONT)
    victim.streaming()
    row = victim.row
    assert (row["incarnation"], row["verdict"]) == (1, "ok")
    victim.leave()


@kind("8", "spins")
def spins(stage: Stage) -> None:
    victim = stage.victim("spin", after=20)
    comes_back(victim, "keepalive")
    victim.leave()


@kind("9", "deadlocks with open pipes")
def silent(stage: Stage) -> None:
    victim = stage.victim("silence", at="stream", after=20)
    comes_back(victim, "keepalive")
    victim.leave()


@kind("10", "closes its output and stays")
def closes_output(stage: Stage) -> None:
    victim = stage.victim("close-out", after=20)
    comes_back(victim, "exited")
    victim.leave()


@kind("11", "closes its input and streams on")
def closes_input(stage: Stage) -> None:
    victim = stage.victim("close-in", after=20)
    victim.streaming()
    time.sleep(1.5)  # longer than a PING takes
    victim.streaming()
    assert victim.row["incarnation"] == 1
    victim.leave()


@kind("12", "ignores SIGTERM")
def ignores_term(stage: Stage) -> None:
    victim = stage.victim("ignore-term")
    pid = victim.running()["pid"]
    with promptly("the stop; TERM has 0.3 s", 0.4):
        victim.order("Stop")
    assert gone(pid)
    victim.leave()


# --- families -----------------------------------------------------------------------------------------------


@kind("13", "forks, and its parent exits; the child holds the pipes")
def leaves_child(stage: Stage) -> None:
    victim = stage.victim("hold-fd", after=20, pid_file=stage.devices / "held.pid")
    comes_back(victim, "exited")
    victim.leave()


@kind("14", "a child with a session of its own outlives it")
def orphans(stage: Stage) -> None:
    victim = stage.victim("orphan", after=20)
    victim.streaming()
    victim.signal(signal.SIGKILL)
    comes_back(victim, "killed")
    victim.leave()


@kind("15", "a grandchild floods standard error")
def floods_stderr(stage: Stage) -> None:
    victim = stage.victim("stderr-flood")
    victim.streaming()
    victim.streaming()
    row = victim.row
    assert (row["state"], len(row["stderr"]) <= 20) == ("running", True)
    victim.leave()


# --- breaks the wire ----------------------------------------------------------------------------------------


@kind("16", "dies inside a frame")
def half_a_frame(stage: Stage) -> None:
    victim = stage.victim("half-frame", after=20)
    victim.until(lambda row: row["incarnation"] >= 2 and row["state"] == "running")
    victim.order("Stop")
    row = victim.row
    assert row["lost"] == {"partial-frame": row["packets"] // 20}, row
    victim.leave()


@kind("17", "sends garbage")
def garbage(stage: Stage) -> None:
    victim = stage.victim("garbage", after=20)
    victim.until(lambda row: row["incarnation"] >= 2)
    assert victim.row["exit"]["problem"] in {"bad-signature", "bad-version"}
    victim.leave()


@kind("18", "announces a frame of 2 GB")
def oversized(stage: Stage) -> None:
    victim = stage.victim("oversized", after=20)
    comes_back(victim, "frame-too-long")
    victim.leave()


@kind("18b", "sends a payload that is none")
def bad_payload(stage: Stage) -> None:
    victim = stage.victim("bad-payload", after=20)
    victim.until(lambda row: row["incarnation"] >= 2 or row["packets"] > 100)
    victim.order("Stop")
    row = victim.row
    assert row["produced"] == row["packets"]
    stage.rig.call("RemoveSource", source=victim.name)


@kind("19", "answers with wrong numbers")
def wrong_numbers(stage: Stage) -> None:
    victim = stage.victim("wrong-pong", rate=0)
    victim.running()
    time.sleep(3.2)  # longer than the deadline of a mute helper
    assert victim.row["incarnation"] == 1
    victim.leave()


@kind("20", "floods PONGs")
def pong_flood(stage: Stage) -> None:
    victim = stage.victim("pong-flood")
    victim.streaming()
    assert victim.row["incarnation"] == 1
    victim.leave()


@kind("20b", "floods packets")
def packet_flood(stage: Stage) -> None:
    victim = stage.victim("flood", kind="brief")
    victim.running()
    victim.order("Pause")
    victim.until(lambda row: row["lost"].get("paused"))
    victim.order("Stop")
    row = victim.row
    assert row["packets"] == row["routed"] + row["lost"]["paused"]
    stage.wait(lambda: stage.rig.status()["consumers"][0]["queued"] == 0, "the consumer has read all")
    stage.rig.call("RemoveSource", source=victim.name)
    consumer = stage.rig.status()["consumers"][0]
    if consumer["lost"]:  # the reader was slower than the flood: gaps then, as many as counted
        assert stage.reader.lost_between[victim.name] <= consumer["lost"]
        stage.reader.lost_between.pop(victim.name, None)


@kind("20c", "floods text messages")
def chatter(stage: Stage) -> None:
    victim = stage.victim("chatter", after=20)
    victim.running()
    time.sleep(0.3)
    assert len(stage.rig.call("GetMessages")["messages"]) <= 1000
    victim.order("Stop")
    assert victim.leave()["packets"] == 20


@kind("21", "never greets", slow=True)
def never_greets(stage: Stage) -> None:
    victim = stage.fixed("mute")
    row = victim.ended(30)  # greet_timeout is 15 s
    assert row["exit"]["problem"] == "timed-out", row["exit"]
    victim.leave()


@kind("22", "greets in a version nobody knows")
def wrong_version(stage: Stage) -> None:
    victim = stage.fixed("strange")
    row = victim.until(lambda row: row["state"] == "backoff" and row["incarnation"] >= victim.base + 2)
    assert row["exit"]["kind"] == "accident", row["exit"]
    victim.leave()


# --- cannot start -------------------------------------------------------------------------------------------


def cannot_start(stage: Stage, name: str, *words: str) -> None:
    """A config fault: told with its fix, no process, no hot loop; its files may be in the middle of an upgrade."""
    victim = stage.fixed(name)
    row = victim.until(lambda row: row["state"] == "backoff")
    assert row["exit"]["problem"] in words, row["exit"]
    assert row["exit"]["kind"] == "config"
    assert row["next_try_s"] <= 1.0 or row["incarnation"] > victim.base + 4, row
    victim.leave()


@kind("23", "its program is missing")
def missing(stage: Stage) -> None:
    cannot_start(stage, "missing", "not-installed")


@kind("24", "its program is not executable")
def not_executable(stage: Stage) -> None:
    cannot_start(stage, "plain", "exec-failed", "not-permitted")


@kind("24b", "its interpreter is missing")
def no_interpreter(stage: Stage) -> None:
    cannot_start(stage, "homeless", "not-installed", "exec-failed")


@kind("25", "what it needs is not installed (status 127)")
def status_127(stage: Stage) -> None:
    cannot_start(stage, "lacking", "not-installed")


# --- beside the catalogue -----------------------------------------------------------------------------------


@kind("36", "the device refuses")
def refuses(stage: Stage) -> None:
    victim = stage.fixed("refused")
    row = victim.ended()
    assert (row["exit"]["kind"], row["exit"]["problem"]) == ("refusal", "open-refused")
    assert "no-such-radio" in row["exit"]["text"]
    victim.until(lambda row: row["state"] == "backoff")
    assert victim.leave()["packets"] == 0


@kind("37", "a packet before the open report")
def early(stage: Stage) -> None:
    victim = stage.fixed("early")
    row = victim.ended()
    assert (row["exit"]["kind"], row["exit"]["problem"]) == ("accident", "not-allowed-now"), row["exit"]
    victim.leave()


@kind("38", "a second open report")
def twice(stage: Stage) -> None:
    victim = stage.fixed("twice")
    row = victim.ended()
    assert (row["exit"]["kind"], row["exit"]["problem"]) == ("accident", "not-allowed-now"), row["exit"]
    victim.leave()


@kind("39", "its worker child dies while PONGs go on")
def child_gone(stage: Stage) -> None:
    path = stage.devices / "worker.pid"
    path.unlink(missing_ok=True)
    victim = stage.victim("wrap", kind="wrapper", pid_file=path)
    victim.streaming()
    stage.wait(path.exists, "the worker's pid")
    time.sleep(0.6)  # let the watch see it once
    with promptly("the verdict", 2.0):
        os.kill(int(path.read_text()), signal.SIGKILL)
        row = victim.until(lambda row: row["exit"])
    assert row["exit"]["problem"] == "child-gone", row["exit"]
    comes_back(victim, "child-gone")
    victim.leave()


@kind("39b", "the same, where an alert was asked for")
def child_gone_alert(stage: Stage) -> None:
    path = stage.devices / "worker.pid"
    path.unlink(missing_ok=True)
    victim = stage.victim("wrap", kind="careless", pid_file=path)
    victim.streaming()
    stage.wait(path.exists, "the worker's pid")
    time.sleep(0.6)  # let the watch see it once
    os.kill(int(path.read_text()), signal.SIGKILL)

    def told() -> list[str]:
        messages = stage.rig.call("GetMessages")["messages"]
        return [each["severity"] for each in messages if each["source"] == victim.name]

    stage.wait(told, "an alert")
    time.sleep(1)
    assert told() == ["alert"]
    victim.streaming()
    assert (victim.row["incarnation"], victim.row["state"]) == (1, "running")
    victim.leave()


@kind("40", "answers PING and sends nothing (silence limit)")
def mute(stage: Stage) -> None:
    victim = stage.fixed("quiet")
    row = victim.until(lambda row: row["incarnation"] >= victim.base + 2)
    assert row["exit"]["problem"] == "silent", row["exit"]
    victim.order("Stop")
    assert victim.row["state"] == "down"


@kind("41", "answers no PING, but streams")
def no_pong(stage: Stage) -> None:
    victim = stage.victim("no-pong")
    victim.streaming()
    time.sleep(3.2)
    row = victim.row
    assert (row["incarnation"], row["verdict"]) == (1, "ok"), "any byte is life"
    victim.leave()


@kind("42", "ends when it is told to tune")
def hangs_up(stage: Stage) -> None:
    victim = stage.victim("hang-up")
    victim.streaming()
    with pytest.raises(ControlError):
        stage.rig.call("SetChannel", source=victim.name, channel="6")
    victim.leave()


@kind("43", "stopped while it opens")
def stop_in_opening(stage: Stage) -> None:
    victim = stage.fixed("slow")
    victim.until(lambda row: row["state"] == "opening")
    with promptly("the stop", 1.0):
        victim.order("Stop")
    row = victim.row
    assert (row["state"], row["why"]) == ("down", "stopped")
    victim.leave()


@kind("44", "killed while it opens")
def killed_in_opening(stage: Stage) -> None:
    victim = stage.fixed("slow")
    victim.until(lambda row: row["state"] == "opening")
    victim.signal(signal.SIGKILL)
    row = victim.until(lambda row: row["state"] == "running")
    assert (row["exit"]["problem"], row["incarnation"]) == ("killed", victim.base + 2)
    victim.leave()


@kind("45", "a storm of orders")
def storm(stage: Stage) -> None:
    victim = stage.victim()
    for verb in ("Restart", "Stop", "Start", "Restart", "Restart", "Stop"):
        victim.order(verb)
    row = victim.row
    assert (row["state"], row["wanted"], row["pid"]) == ("down", "down", None)
    victim.order("Start")
    victim.streaming()
    victim.leave()


@kind("46", "stopped by an order while it is in back-off")
def stop_in_backoff(stage: Stage) -> None:
    victim = stage.victim("exit", after=1)
    victim.until(lambda row: row["state"] == "backoff")
    victim.order("Stop")
    time.sleep(0.6)
    row = victim.row
    assert (row["state"], row["wanted"]) == ("down", "down"), "policy never undoes an operator"
    victim.leave()


@kind("47", "paused: nothing is passed on, everything is counted")
def paused_by_order(stage: Stage) -> None:
    victim = stage.victim()
    victim.streaming()
    victim.order("Pause")
    victim.until(lambda row: row["lost"].get("paused", 0) > 10)
    victim.order("Resume")
    victim.streaming()
    victim.order("Stop")
    row = victim.row
    stage.wait(lambda: stage.reader.packets[victim.name] == row["routed"], "every routed packet")
    assert stage.reader.lost_between.pop(victim.name) == row["lost"]["paused"]
    stage.rig.call("RemoveSource", source=victim.name)


@kind("48", "its consumer vanishes without a word")
def consumer_vanishes(stage: Stage) -> None:
    victim = stage.victim()
    victim.streaming()
    for _ in range(3):
        stage.rig.connect().close()
    stage.rig.connect(f"sources/{victim.name}.sock").close()
    victim.streaming()
    stage.wait(lambda: len(stage.rig.status()["consumers"]) == 1, "the consumers that left are forgotten")
    victim.leave()


@kind("49", "packets, a PING and garbage in one read")
def ping_and_garbage(stage: Stage) -> None:
    victim = stage.victim("ping-garbage", after=50)
    row = victim.ended()
    assert (row["exit"]["kind"], row["exit"]["problem"]) == ("accident", "bad-signature"), row["exit"]
    row = victim.leave()
    assert row["packets"] % 70 == 0, "what came before the garbage counts"


def refused(victim: Victim, least: int) -> None:
    """The packets of a source that never opened: counted, and none passed on."""
    victim.order("Stop")
    row = victim.row
    assert (row["routed"], row["lost"]) == (0, {"refused": row["packets"]}), row
    assert row["packets"] >= least
    assert not victim.stage.reader.packets[victim.name]
    victim.remove()


@kind("50", "packets behind a goodbye that comes before everything")
def goodbye_first(stage: Stage) -> None:
    victim = stage.fixed("farewell")
    victim.ended()
    refused(victim, 200)


@kind("51", "a goodbye in place of the open report, and a flood")
def flood_of_the_closed(stage: Stage) -> None:
    victim = stage.fixed("flood")
    victim.until(lambda row: row["lost"].get("refused", 0) > 1_000)  # more than a pipe holds
    refused(victim, 1_000)


@kind("52", "opens the device of another, with packets")
def namesake(stage: Stage) -> None:
    first = stage.victim("good", kind="owner", named="00000000-0000-4000-8000-000000000001")
    first.streaming()
    victim = stage.fixed("namesake")
    victim.until(lambda row: row["exit"] and row["exit"]["problem"] == "busy")
    refused(victim, 20)
    first.streaming()
    first.leave()


@kind("30", "a consumer stops reading")
def consumer_stuck(stage: Stage) -> None:
    victim = stage.victim(size=2000, rate=4000)
    with stage.rig.connect(f"sources/{victim.name}.sock"):

        def dropping() -> bool:
            return any(row["lost"] for row in stage.rig.status()["consumers"])

        stage.wait(dropping, "the stuck consumer's outbox drops")
        victim.streaming()
    stage.wait(lambda: len(stage.rig.status()["consumers"]) == 1, "the stuck consumer is gone")
    victim.leave()
