"""One device, two sources: whatever is done to their helpers and to the device, both run again when they can.

Environment:
  HELPERD_NODE_STEPS  how often something is done to them (default 8; when it is set, 2 s are a limit).
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helperd.control.client import ControlError
from tests.helpers.veth import Sender, frame, ip, namespace, pair
from tests.patience import HANGS_S
from tests.rig import Rig, daemon

pytestmark = pytest.mark.need("root", "netns", "veth", "packet-socket", "ip")

STEPS = int(os.environ.get("HELPERD_NODE_STEPS", "8"))
PROMISED_S = 2.0 if "HELPERD_NODE_STEPS" in os.environ else 20.0
"""So long after its shown next try, or after its device is back, whichever is later, a source runs: 2 s on a machine
that does nothing else; a busy one may take its time to start an interpreter."""
CONFIG = """
[[helper]]
name = "interface"
command = ["builtin:interface"]
types = ["interface"]
capabilities = ["net_raw"]
[[source]]
name = "all"
definition = "hdb:type=interface"
[[source]]
name = "some"
definition = 'hdb:type=interface,filter="ether[17] >= 5"'
"""
NAMES = ("all", "some")


@pytest.fixture
def veth() -> Iterator[None]:
    with namespace():
        pair()
        yield


class Node:
    """The node, its device, and who does what to them."""

    def __init__(self, rig: Rig, seed: int) -> None:
        self.rig = rig
        self.dice = random.Random(seed)
        self.told: list[str] = []
        self.longest = 0.0

    def restart(self) -> None:
        name = self.dice.choice(NAMES)
        with contextlib.suppress(ControlError):  # a kill that comes in between is answered with its reason
            self.rig.call("Restart", source=name)

    def kill(self) -> None:
        for name in self.dice.sample(NAMES, self.dice.choice((1, 2))):
            pid = self.rig.source(name)["pid"]
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def remove(self) -> None:
        ip("link del hdb")
        pause = self.dice.choice((0.0, 0.05, 0.3, 1.0))
        if pause:
            until = time.monotonic() + pause  # a device that is away, not a wait for something to happen
            while (left := until - time.monotonic()) > 0:
                signal.sigtimedwait((), left)
        pair()

    def step(self) -> None:
        """Do one to three things in a row, then see everybody run in time."""
        for do in self.dice.choices((self.restart, self.kill, self.remove), k=self.dice.choice((1, 1, 2, 3))):
            self.told.append(do.__name__)
            do()
        due = dict.fromkeys(NAMES, time.monotonic())  # at once, unless a later time is shown

        def all_run(status: dict[str, Any]) -> bool:
            now = time.monotonic()
            lacking = []
            for row in status["sources"]:
                if row["next_try_s"] is not None:
                    due[row["name"]] = max(due[row["name"]], now + row["next_try_s"])
                if row["state"] != "running":
                    lacking.append(row)
            for row in lacking:
                late = now - due[row["name"]]
                assert late < PROMISED_S, f"{row['name']} is {late:.1f} s late after {self.told[-6:]}: {row}"
                self.longest = max(self.longest, late)
            return not lacking and self.alive(status)

        self.rig.wait(all_run, timeout=120)

    @staticmethod
    def alive(status: dict[str, Any]) -> bool:
        """Whether what is told to run does: a kill is noticed a moment later."""
        for row in status["sources"]:
            try:
                os.kill(row["pid"], 0)
            except (ProcessLookupError, TypeError):
                return False
        return True


@pytest.mark.timeout(120 + 5 * STEPS)
def test_two_sources_of_one_device_survive_all_that_is_done_to_them(veth: None, tmp_path: Path) -> None:
    with daemon(tmp_path, CONFIG) as rig:
        rig.wait_running()
        node = Node(rig, seed=STEPS)
        for _ in range(STEPS):
            node.step()
        before = {row["name"]: row["packets"] for row in rig.status()["sources"]}
        with Sender() as sender:
            sender.send([frame(number) for number in range(10)])
        rig.wait(
            lambda status: (
                {row["name"]: row["packets"] - before[row["name"]] for row in status["sources"]}
                == {"all": 10, "some": 5}
            )
        )
        assert rig.status()["bugs"] == 0
        print(f"{STEPS} steps; at most {node.longest:.2f} s behind what was shown")


def test_an_order_is_tried_at_once(veth: None, tmp_path: Path) -> None:
    with daemon(tmp_path, CONFIG) as rig:
        rig.wait_running()
        ip("link del hdb")
        rig.wait(lambda status: all((row["next_try_s"] or 0) > 0.5 for row in status["sources"]))
        for name in NAMES:
            number = rig.source(name)["incarnation"]
            with pytest.raises(ControlError, match="no such interface: hdb"):
                rig.call("Start", source=name)
            assert rig.source(name)["incarnation"] == number + 1


def test_the_real_reason_is_never_hidden_behind_the_other_source(veth: None, tmp_path: Path) -> None:
    bad = CONFIG.replace("ether[17] >= 5", "no such word")
    with daemon(tmp_path, bad) as rig:
        rig.wait(lambda status: all(row["state"] == "running" or row["exit"] for row in status["sources"]))
        row = rig.source("some")
        assert "no such word" in row["exit"]["text"]
        assert row["exit"]["problem"] != "busy"
        assert rig.source("all")["state"] == "running"
        ip("link del hdb")
        rig.wait(
            lambda status: all("no such interface" in str(row["exit"]) for row in status["sources"]), HANGS_S
        )
