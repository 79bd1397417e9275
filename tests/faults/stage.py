"""One daemon on which faults are played: a bystander that must not notice, and victims that come and go."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from helperd.control.client import Client, ControlError
from helperd.errors import HelperdError
from tests.faults.witness import UPSTREAM, Account, Reader, Witness, state_of
from tests.patience import HANGS_S
from tests.rig import ROOT, Rig, daemon

PEER = ROOT / "tests" / "faults" / "peer.py"
PYTHON = [sys.executable, "-I", "-S"]

HEAD = """
[helperd]
implicit_sinks = true
"""
HELPER = """
[[helper]]
name = "{name}"
command = [{command}]
types = ["{name}"]
keepalive = "1s"
term_grace = "{grace}"
needs_child = {children}
on_child_gone = "{reaction}"
exclusive = {exclusive}
"""
BYSTANDER = """
[[source]]
name = "bystander"
definition = "bad0:type=bad,rate=100"
"""
FIXED = """
[[source]]
name = "{name}"
definition = "bad0:type={kind},rate=500,{words}"
start = "manual"
{more}
"""
FIXED_SOURCES = {  # those that do not come to run: a source that is added must
    "quiet": ("bad", "mode=mute,after=20", 'silence = "500ms"'),
    "mute": ("mute", "mode=good", ""),
    "strange": ("strange", "mode=good", ""),
    "missing": ("missing", "mode=good", ""),
    "plain": ("plain", "mode=good", ""),
    "homeless": ("homeless", "mode=good", ""),
    "lacking": ("lacking", "mode=good", ""),
    "refused": ("bad", "mode=refuse-open,text=no-such-radio", ""),
    "early": ("bad", "mode=early", ""),
    "twice": ("bad", "mode=twice", ""),
    "slow": ("bad", "mode=slow-open,delay=1", ""),
    "farewell": ("farewell", "mode=good", ""),
    "flood": ("bad", "mode=flood-closed", 'restart = "temporary"'),
    "namesake": ("thief", "together=20,named=00000000-0000-4000-8000-000000000001", 'restart = "temporary"'),
}
BUILTIN = """
[[helper]]
name = "synthetic"
command = ["builtin:synthetic"]
types = ["synthetic"]
"""


def helper(
    name: str,
    *words: str,
    command: list[str] | None = None,
    grace: str = "300ms",
    children: int = 0,
    reaction: str = "restart",
    exclusive: bool = False,
) -> str:
    """A [[helper]] that runs the peer with these words."""
    argv = command or [*PYTHON, str(PEER), *(words or ("good",))]
    quoted = ", ".join(f'"{word}"' for word in argv)
    return HELPER.format(
        name=name,
        command=quoted,
        grace=grace,
        children=children,
        reaction=reaction,
        exclusive=str(exclusive).lower(),
    )


class Stage:
    """The daemon, its reader and its devices. ``victim`` opens a source; ``settled`` says what it left behind."""

    def __init__(self, rig: Rig, folder: Path) -> None:
        self.rig = rig
        self.devices = folder / "devices"
        self.devices.mkdir()
        self.numbers = itertools.count(1)
        self.asking: list[threading.Thread] = []
        rig.wait_running("bystander")
        self.supervisor: int = rig.status()["pid"]
        self.reader = Reader(rig.connect())
        self.reader.start()
        self.wait(lambda: self.reader.packets["bystander"] > 0, "the bystander streams")
        self.before = Account.of(rig, self.supervisor)
        self.bugs = 0

    def close(self) -> None:
        self.reader.close()

    @contextlib.contextmanager
    def witnessed(self) -> Iterator[Witness]:
        """Let a witness look on meanwhile; what it saw is an assertion at the end."""
        witness = Witness(self.rig, self.devices)
        witness.start()
        try:
            yield witness
        finally:
            witness.close()
        assert not witness.lies, witness.lies
        assert witness.asked > 0

    # what a test does

    def victim(self, mode: str = "good", kind: str = "bad", **options: Any) -> Victim:
        """Open a source; `mode` and options of the peer (``pid_file`` is ``pid-file``)."""
        name = f"v{next(self.numbers)}"
        options = {"mode": mode, "rate": 500, "device": self.devices / name, **options}
        words = ",".join(f"{key.replace('_', '-')}={value}" for key, value in options.items())
        return self.add(name, f"bad0:type={kind},{words}")

    def synthetic(self, **options: Any) -> Victim:
        """Open a source of our own kind of helper."""
        name = f"v{next(self.numbers)}"
        words = ",".join(f"{key}={value}" for key, value in ({"rate": 2000} | options).items())
        return self.add(name, f"radio0:type=synthetic,{words}")

    def fixed(self, name: str) -> Victim:
        """Start a configured source, and do not wait for what comes of it."""
        victim = Victim(self, name)
        victim.base = victim.row["incarnation"]
        self.order("Start", name)
        victim.until(lambda row: row["incarnation"] > victim.base)
        return victim

    def order(self, verb: str, name: str) -> None:
        """Order something, and do not wait until it is done."""

        def ask() -> None:
            with contextlib.suppress(HelperdError):
                self.rig.call(verb, source=name)

        self.asking.append(threading.Thread(target=ask))
        self.asking[-1].start()

    def add(self, name: str, definition: str) -> Victim:
        """Add a source and wait until it is known, not until it runs: the answer comes later, or never."""

        def ask() -> None:
            with contextlib.suppress(HelperdError):
                self.rig.call("AddSource", definition=definition, name=name)

        self.asking.append(threading.Thread(target=ask))
        self.asking[-1].start()
        self.wait(
            lambda: any(row["name"] == name for row in self.rig.status()["sources"]), f"{name} is known"
        )
        return Victim(self, name)

    def wait(self, true: Callable[[], Any], what: str, timeout: float = HANGS_S) -> Any:
        """Wait until something is true; looked at every 10 ms."""
        limit = time.monotonic() + timeout
        while not (found := true()):
            assert time.monotonic() < limit, f"not within {timeout:g} s: {what}"
            time.sleep(0.01)
        return found

    def recover(self) -> None:
        """After a failure: let the victims go, so that the next kind is judged by itself."""
        for row in self.rig.status()["sources"]:
            if row["name"] in FIXED_SOURCES:
                self.rig.call("Stop", source=row["name"])
            elif row["name"] != "bystander":
                self.rig.call("RemoveSource", source=row["name"])
        self.reader.lost_between.clear()
        for path in self.devices.glob("*.second"):
            path.unlink()
        with contextlib.suppress(AssertionError):  # what has leaked is the failed kind's, not the next one's
            self.rest()
        self.before = Account.of(self.rig, self.supervisor)
        self.bugs = self.rig.status()["bugs"]

    def rest(self) -> None:
        """Wait until every order is answered and there is no process, zombie or descriptor more than before."""
        while self.asking:
            self.asking.pop().join(HANGS_S)
        self.wait(lambda: Account.of(self.rig, self.supervisor) == self.before, "everything as before")

    def settled(self) -> None:
        """No process, zombie or descriptor more than before; nothing lost; the bystander as before."""
        try:
            self.rest()
        except AssertionError:
            raise AssertionError(
                f"left behind: {Account.of(self.rig, self.supervisor)}, before: {self.before}"
            ) from None
        seconds = [path.name for path in self.devices.glob("*.second")]
        assert not seconds, f"two copies on one device: {seconds}"
        assert self.reader.failure is None, repr(self.reader.failure)
        assert not self.reader.lost_between, f"gaps at the consumer: {self.reader.lost_between}"
        bystander = self.rig.source("bystander")
        assert (bystander["state"], bystander["incarnation"]) == ("running", 1), bystander
        assert self.rig.status()["bugs"] == self.bugs, "an error of our own is in the log"


class Victim:
    """One source of a stage."""

    def __init__(self, stage: Stage, name: str) -> None:
        self.stage = stage
        self.name = name
        self.base = 0  # incarnations it had before
        self.pid_file = stage.devices / f"{name}.pid"

    @property
    def row(self) -> dict[str, Any]:
        return self.stage.rig.source(self.name)

    def until(self, true: Callable[[dict[str, Any]], Any], timeout: float = HANGS_S) -> dict[str, Any]:
        """Follow its status until it fulfils ``true``."""
        limit = time.monotonic() + timeout
        while True:
            row = self.row
            if true(row):
                return row
            assert time.monotonic() < limit, f"never became true; last: {row}"
            time.sleep(0.01)

    def running(self, incarnation: int = 1, timeout: float = 12.0) -> dict[str, Any]:
        """Wait until it runs, in this incarnation or a later one."""
        return self.until(
            lambda row: row["state"] == "running" and row["incarnation"] >= incarnation, timeout
        )

    def streaming(self, timeout: float = 12.0) -> None:
        """Wait for the next packet at the consumer."""
        packets = self.stage.reader.packets
        before = packets[self.name]
        self.stage.wait(lambda: packets[self.name] > before, f"{self.name} streams", timeout)

    def signal(self, number: int) -> int:
        """Send a signal to its main process; returns its pid."""
        pid: int = self.row["pid"]
        os.kill(pid, number)
        return pid

    def order(self, verb: str) -> None:
        self.stage.rig.call(verb, source=self.name)

    def leave(self) -> dict[str, Any]:
        """Remove it, and hold its ledger against what the consumer got; returns its last row."""
        with contextlib.suppress(ControlError):
            self.order("Stop")
        row = self.row
        assert row["pid"] is None
        lost = {word: count for word, count in row["lost"].items() if word not in UPSTREAM}
        assert lost == {}, f"lost before the consumer: {lost}"
        got = self.stage.reader.packets
        self.stage.wait(lambda: got[self.name] >= row["routed"], f"{row['routed']} packets at the consumer")
        assert got[self.name] == row["routed"] == row["packets"], (got[self.name], row)
        self.remove()
        return row

    def ended(self, timeout: float = 12.0) -> dict[str, Any]:
        """Wait for the end of its first life."""
        return self.until(
            lambda row: row["exit"] and (row["incarnation"] >= self.base + 2 or row["state"] == "backoff"),
            timeout,
        )

    def remove(self) -> None:
        """Forget it, unless it is configured."""
        if self.name not in FIXED_SOURCES:
            self.stage.rig.call("RemoveSource", source=self.name)


@contextlib.contextmanager
def stage(folder: Path, *more: str, log: Path | None = None) -> Iterator[Stage]:
    """A daemon with the usual helpers, and more configuration."""
    config = "".join((HEAD, helper("bad"), BUILTIN, *more, BYSTANDER))
    with daemon(folder, config, log=log) as rig:
        scene = Stage(rig, folder)
        try:
            yield scene
        finally:
            scene.close()


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    return state_of(pid) in {"", "Z", "X"}


def end(pid: int) -> None:
    """End a process that a test has started itself."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def fixed(*names: str) -> str:
    """[[source]]s that are started by order."""
    chosen = [(name, FIXED_SOURCES[name]) for name in names or FIXED_SOURCES]
    return "".join(
        FIXED.format(name=name, kind=kind, words=words, more=more) for name, (kind, words, more) in chosen
    )


__all__ = ["Client", "Stage", "Victim", "end", "gone", "helper", "stage"]
