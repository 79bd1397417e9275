"""A long run with trouble: `python -m benchmarks.soak --minutes 20 --helpers 50 [--faults-per-second 1]`.

Half of the helpers are ours, half speak the wire by themselves. Every second something happens to one of them, or to a
consumer: SIGKILL, SIGSTOP, SIGSEGV, SIGTERM, restart, stop and start, pause and resume, a consumer that vanishes or
stops reading, a reload. At the end everything runs again. Status 1 unless: resident memory of the supervisor grew by 2
MB at most, descriptors are exactly as at first, no zombie and no orphan is left, the status was true whenever asked,
and every packet is accounted for: produced = delivered + lost, at the source, at the consumer, and as counted by the
consumer itself.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks.footprint import cpu_s, memory_mb
from benchmarks.report import report
from helperd.errors import HelperdError
from tests.faults.stage import BUILTIN, HEAD, helper
from tests.faults.witness import Account, Reader, Witness, balance
from tests.rig import Rig, daemon

GROWTH_MB = 2.0
WARM_S = 300.0  # the peaks of what can come together are reached by then; a leak goes on


class Trouble:
    """What can happen, by name; each thing is done to a source chosen by chance."""

    def __init__(self, rig: Rig, names: list[str], dice: random.Random) -> None:
        self.rig = rig
        self.names = names
        self.dice = dice
        self.done: Counter[str] = Counter()
        self.stuck: list[tuple[float, socket.socket]] = []
        self.reloaded_at = 0.0
        self.kinds: dict[str, Callable[[str], None]] = {
            "SIGKILL": lambda name: self.signal(name, signal.SIGKILL),
            "SIGSTOP": lambda name: self.signal(name, signal.SIGSTOP),
            "SIGSEGV": lambda name: self.signal(name, signal.SIGSEGV),
            "SIGTERM": lambda name: self.signal(name, signal.SIGTERM),
            "restart": lambda name: self.order("Restart", name),
            "stop and start": lambda name: self.order("Stop", name) or self.order("Start", name),
            "pause and resume": lambda name: self.order("Pause", name) or self.order("Resume", name),
            "a consumer vanishes": self.vanish,
            "a consumer is stuck": self.stick,
            "reload": self.reload,
        }

    def happen(self) -> None:
        """Let one thing happen."""
        now = time.monotonic()
        for until, sock in [each for each in self.stuck if each[0] <= now]:
            sock.close()
            self.stuck.remove((until, sock))
        kind = self.dice.choice(list(self.kinds))
        with contextlib.suppress(HelperdError, ProcessLookupError):
            self.kinds[kind](self.dice.choice(self.names))
        self.done[kind] += 1

    def signal(self, name: str, number: int) -> None:
        row = self.rig.source(name)
        if row["pid"] and row["state"] == "running":
            os.kill(row["pid"], number)

    def order(self, verb: str, name: str) -> None:
        self.rig.call(verb, source=name)

    def vanish(self, name: str) -> None:
        self.rig.connect(f"sources/{name}.sock").close()

    def stick(self, _name: str) -> None:
        self.stuck.append((time.monotonic() + 3, self.rig.connect()))

    def reload(self, _name: str) -> None:
        if time.monotonic() - self.reloaded_at > 1.1:
            self.reloaded_at = time.monotonic()
            self.rig.call("Reload")

    def end(self) -> None:
        for _, sock in self.stuck:
            sock.close()
        self.stuck.clear()


def configuration(helpers: int, rate: float) -> str:
    text = HEAD + BUILTIN + helper("bad")
    for number in range(helpers):
        kind = ("synthetic", "bad")[number % 2]
        name = f"s{number}"
        definition = (
            f"radio{number // 2 % 4}:type={kind},rate={rate:g},uuid=00000000-0000-0000-0000-{number:012}"
        )
        text += f'[[source]]\nname = "{name}"\ndefinition = "{definition}"\n'
    return text


def steady(rig: Rig, supervisor: int) -> tuple[Account, float]:
    """Wait until everything runs, and take the account and the supervisor's memory."""
    rig.wait(
        lambda status: (
            all(row["state"] == "running" for row in status["sources"]) and len(status["consumers"]) == 1
        ),
        timeout=150,
    )
    accounts = []
    for _ in range(10):  # whoever asks for the status has a descriptor while it asks
        time.sleep(0.1)
        accounts.append(Account.of(rig, supervisor))
    return min(accounts, key=lambda account: account.supervisor_fds), memory_mb(supervisor)


def run(options: argparse.Namespace, folder: Path) -> tuple[dict[str, object], list[str]]:
    seconds = options.minutes * 60
    names = [f"s{number}" for number in range(options.helpers)]
    wrong: list[str] = []
    with daemon(folder, configuration(options.helpers, options.rate)) as rig:
        supervisor = rig.wait_running(timeout=60)["pid"]
        reader = Reader(rig.connect())
        reader.start()
        trouble = Trouble(rig, names, random.Random(options.seed))
        witness = Witness(rig, folder, pause=0.25)
        witness.start()
        warm, began = min(WARM_S, seconds / 3), time.monotonic()
        before: tuple[Account, float] | None = None
        memory: list[float] = []  # one a minute
        while (now := time.monotonic() - began) < seconds:
            if before is None and now > warm:
                trouble.end()
                before = steady(rig, supervisor)
            if now >= 60 * len(memory):
                memory.append(round(memory_mb(supervisor), 2))
            trouble.happen()
            time.sleep(max(0.0, 1 / options.faults - (time.monotonic() - began - now)))
        trouble.end()
        witness.close()
        assert before is not None
        after = steady(rig, supervisor)
        for name in names:
            rig.call("Stop", source=name)
        rig.wait(lambda status: status["consumers"][0]["queued"] == 0)
        status = rig.status()
        time.sleep(0.5)
        grown = after[1] - before[1]
        wrong += witness.lies + balance(status)
        consumer = status["consumers"][0]
        if grown > GROWTH_MB:
            wrong.append(f"memory grew by {grown:.1f} MB")
        if (after[0].supervisor_fds, after[0].launcher_fds) != (
            before[0].supervisor_fds,
            before[0].launcher_fds,
        ):
            wrong.append(f"descriptors: {before[0]} -> {after[0]}")
        if after[0].zombies or len(after[0].processes) != options.helpers + 1:
            wrong.append(f"processes: {after[0]}")
        if reader.packets.total() != consumer["packets"]:
            wrong.append(f"the consumer read {reader.packets.total()}, the ledger says {consumer['packets']}")
        routed = sum(row["routed"] for row in status["sources"])
        lost: Counter[str] = Counter()
        for row in status["sources"]:
            lost.update(row["lost"])
        found: dict[str, object] = {
            "seconds": seconds,
            "helpers": options.helpers,
            "faults": dict(trouble.done),
            "fault_count": trouble.done.total(),
            "status_asked": witness.asked,
            "status_slowest_ms": round(witness.slowest * 1000),
            "produced": sum(row["produced"] for row in status["sources"]),
            "routed": routed,
            "consumer_got": reader.packets.total(),
            "consumer_lost": consumer["lost"],
            "lost": dict(lost),
            "incarnations": sum(row["incarnation"] for row in status["sources"]),
            "bugs": status["bugs"],
            "rss_mb": [round(before[1], 2), round(after[1], 2)],
            "rss_mb_by_minute": memory,
            "fds": [before[0].supervisor_fds, after[0].supervisor_fds],
            "cpu_s": round(cpu_s(supervisor) + cpu_s(rig.process.pid), 1),
        }
        if status["bugs"]:
            log = (folder / "log").read_text(errors="replace").splitlines()
            wrong.append(f"{status['bugs']} errors of our own")
            wrong += [line for line in log if "bug: " in line]
        reader.close()
    return found, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description="Many helpers, a fault a second, for a long time.")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--helpers", type=int, default=50)
    parser.add_argument("--faults", type=float, default=1.0, help="per second")
    parser.add_argument("--rate", type=float, default=50, help="packets a second and helper")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hd-") as name:
        found, wrong = run(options, Path(name))
    return report(found, wrong, options.json)


if __name__ == "__main__":
    sys.exit(main())
