"""A year in an hour: `python -m benchmarks.year --minutes 60 --seed 1 [--a-second 2]`.

More than 60 kinds of operation and fault (see ``happenings``), drawn by chance from a seed, against a daemon with 20
sources, 6 sinks and readers that come and go. Now and then everything is brought back to where it began, and looked at.
Status 1 unless, all the time:

* the ledger explains every packet, over everything that ever was (``residue`` 0), also in the last lines of the log;
* what is in the files on the disk is what the ledger calls delivered to them, and durable;
* what must be refused is, and nothing else; every trouble is told, and none without a cause;
* descriptors, threads, listening sockets and processes are exactly as at first, and nobody is left behind;
* resident memory of supervisor and launcher at rest stays within 2 MB from minute 10 on (in shorter runs it is shown).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.footprint import cpu_s, memory_mb
from benchmarks.happenings import SOURCES, Happenings, Settings, packets_in
from benchmarks.report import report
from benchmarks.restart import compiled
from helperd.trimming import EVERY_S
from tests.faults.witness import Account, Reader, balance, listening
from tests.rig import Rig, daemon

GROWTH_MB: Final = 2.0
WARM_S: Final = 600.0
CALM_S: Final = 60.0
"""Seconds between two looks at a node that is at rest."""
SETTLES_S: Final = 60.0
"""Seconds in which what was done to it has to be over: a helper that hangs is noticed within its limits."""
SMALL: Final = "64m"


class Look(NamedTuple):
    """What must not change; threads that have nothing to do for a while end, and may be fewer."""

    supervisor_fds: int
    launcher_fds: int
    threads: int
    listening: int
    processes: int
    zombies: int

    @classmethod
    def at(cls, rig: Rig, supervisor: int) -> Look:
        account = Account.of(rig, supervisor)
        return cls(
            account.supervisor_fds,
            account.launcher_fds,
            len(os.listdir(f"/proc/{supervisor}/task")),
            listening(supervisor),
            len(account.processes),
            len(account.zombies),
        )

    def is_like(self, first: Look, name: str) -> bool:
        """Whether one of its numbers is as at first."""
        ours, theirs = getattr(self, name), getattr(first, name)
        return bool(ours <= theirs if name == "threads" else ours == theirs)


def lies(status: dict[str, Any]) -> list[str]:
    """What a status says that cannot be, whenever it is asked."""
    wrong = balance(status)
    if status["residue"]:
        wrong.append(f"{status['residue']} packets are not accounted for: {status['gone']}")
    ill = [
        row["name"]
        for row in status["sources"]
        if row["state"] in {"backoff", "failed"} and row["wanted"] == "up"
    ]
    ill += [row["name"] for row in status["sinks"] if row.get("problem")]
    if ill and status["health"] == "ok":
        wrong.append(f"health is ok, and {ill} are not")
    if status["bugs"]:
        wrong.append(f"{status['bugs']} errors of helperd's own")
    return wrong


def kinds_of_descriptors(pid: int) -> Counter[str]:
    """What a process has open: paths, and kinds of what has none."""
    found: Counter[str] = Counter()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found[os.readlink(entry).partition(":[")[0]] += 1
    return found


class Year:
    """The run."""

    def __init__(self, rig: Rig, settings: Settings, seed: int) -> None:
        self.rig = rig
        self.happenings = Happenings(rig, settings, random.Random(seed))
        self.supervisor = int(rig.status()["pid"])
        self.reader = Reader(rig.connect())
        self.reader.start()
        self.memory: list[tuple[float, float, float]] = []
        self.wrong: list[str] = []
        self.began = time.monotonic()
        self.well(None)
        self.before = self.least()
        self.descriptors = kinds_of_descriptors(self.supervisor)

    def well(self, look: Look | None) -> None:
        """Wait until all is as at first."""

        def at_rest(status: dict[str, Any]) -> bool:
            return (
                status["health"] == "ok"
                and not status["troubles"]
                and len(status["sources"]) == SOURCES
                and all(row["state"] == "running" and not row["paused"] for row in status["sources"])
                and len(status["consumers"]) == 3  # this reader, and the two sinks of files
            )

        try:
            self.rig.wait(at_rest, SETTLES_S)
        except AssertionError as error:
            status = self.rig.status()
            rows = [row for row in status["sources"] if row["state"] != "running"]
            troubles = (status["troubles"], [row for row in status["sinks"] if row.get("problem")], rows)
            readers = [(row["sink"], row["queued"]) for row in status["consumers"]]
            self.wrong.append(f"not well after {SETTLES_S:g} s: {troubles}, {readers}; {error!r:.60}")
            return
        if look is None:
            return
        limit = time.monotonic() + SETTLES_S
        other = set(look._fields)
        while True:  # each by itself: what is just finished is one more for a moment, or for a while
            now = Look.at(self.rig, self.supervisor)
            other = {name for name in other if not now.is_like(look, name)}
            if not other or time.monotonic() >= limit:
                break
            time.sleep(0.2)
        if other:
            more = kinds_of_descriptors(self.supervisor) - self.descriptors
            self.wrong.append(
                f"as at first: {look}\n  now: {now}, after {self.happenings.last}: {dict(more)}"
            )

    def least(self) -> Look:
        """How it looks when nothing is under way."""
        looks = []
        for _ in range(60):
            time.sleep(0.2)
            looks.append(Look.at(self.rig, self.supervisor))
        least = min(looks, key=lambda look: (look.supervisor_fds, look.threads))
        return least._replace(threads=max(look.threads for look in looks))

    def weigh(self) -> None:
        """Take the memory of a node at rest: what a burst has left in the heap goes back once in ``EVERY_S``."""
        age = time.monotonic() - self.began
        seen = []
        for _ in range(int(EVERY_S) + 2):
            seen.append((memory_mb(self.supervisor), memory_mb(self.rig.process.pid)))
            time.sleep(1)
        self.memory.append((age, min(row[0] for row in seen), min(row[1] for row in seen)))

    def run(self, seconds: float, a_second: float) -> None:
        """Let things happen."""
        calm_at = min(CALM_S, seconds)
        while (age := time.monotonic() - self.began) < seconds:
            self.happenings.happen()
            found = lies(self.rig.status())
            if found:
                status = self.rig.status()
                readers = [
                    (row["sink"], row["offered"], row["packets"], row["lost"], row["queued"])
                    for row in status["consumers"]
                ]
                self.wrong += [*found, f"after {self.happenings.last}: {readers}"]
            if age >= calm_at:
                calm_at = age + CALM_S
                self.happenings.calm()
                self.well(self.before)
                self.weigh()
                self.happenings.harvest()
            if self.wrong or self.happenings.wrong:
                return  # what comes now is its consequence
            time.sleep(max(0.0, 1 / a_second - (time.monotonic() - self.began - age)))
        self.happenings.calm()
        self.well(self.before)
        self.weigh()

    def grown(self) -> tuple[float, float]:
        """How much memory of supervisor and launcher has grown since it was warm, in MB."""
        warm = [row for row in self.memory if row[0] >= WARM_S]
        if len(warm) < 2:
            return 0.0, 0.0
        return max(row[1] for row in warm) - warm[0][1], max(row[2] for row in warm) - warm[0][2]


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A small file system at a folder, where this user may mount one."""
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(words, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=False)


def files_of(settings: Settings) -> int:
    return sum(
        packets_in(path) for place in (settings.out, settings.small) for path in place.glob("a*.pcapng*")
    )


def settled_files(rig: Rig, settings: Settings, happenings: Happenings) -> tuple[int, int, int]:
    """Let the sinks of files finish what they have: packets on the disk, delivered, durable."""

    def rows() -> list[dict[str, Any]]:
        return [row for row in rig.status()["sinks"] if row["type"] == "file"]

    before = {row["name"]: row["left"]["consumers"] for row in rows()}
    settings.rotate += 1  # others now: those that were there finish
    (rig.runtime / "helpers.toml").write_text(settings.text())
    rig.call("Reload")
    limit = time.monotonic() + SETTLES_S
    while any(row["left"]["consumers"] <= before[row["name"]] for row in rows()) and time.monotonic() < limit:
        time.sleep(0.1)
    left = [row["left"] for row in rows()]
    on_disk = files_of(settings) + happenings.removed
    return on_disk, sum(row["packets"] for row in left), sum(row["durable"] for row in left)


def run(options: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], list[str]]:
    runtime = folder / "run"
    for place in (runtime / "sinks", folder / "out"):
        place.mkdir(parents=True)
    program = compiled(folder)
    settings = Settings(folder, str(program or "builtin:synthetic"), options.rate)
    with small_disk(settings.small) as mounted, daemon(runtime, settings.text(), ends_with=None) as rig:
        year = Year(rig, settings, options.seed)
        year.run(options.minutes * 60, options.a_second)
        happenings, wrong = year.happenings, year.wrong
        wrong += happenings.wrong
        for row in rig.status()["sources"]:
            with contextlib.suppress(Exception):
                rig.call("Stop", source=row["name"])
        try:
            rig.wait(lambda status: not any(row["queued"] for row in status["consumers"]), SETTLES_S)
        except AssertionError:
            wrong.append("what is queued does not leave")
        status = rig.status()
        wrong += lies(status)
        on_disk, delivered, durable = settled_files(rig, settings, happenings)
        consumer = next(row for row in status["consumers"] if row["pid"] == os.getpid())
        cpu = cpu_s(year.supervisor) + cpu_s(rig.process.pid)
        code = rig.stop()
        year.reader.close()
        log = (runtime / "log").read_text(errors="replace")
    if code:
        wrong.append(f"it ended with {code}")
    if not on_disk == delivered == durable:
        wrong.append(f"{on_disk} packets are in the files, {delivered} delivered to them, {durable} durable")
    if year.reader.packets.total() != consumer["packets"]:
        wrong.append(f"the reader has {year.reader.packets.total()}, the ledger says {consumer['packets']}")
    if "packets since the start" not in log or "not accounted for" in log:
        wrong.append("the end of the log has no account, or one with a residue")
    wrong += [line for line in log.splitlines() if "bug: " in line or "Traceback" in line]
    grown = year.grown()
    if max(grown) > GROWTH_MB:
        wrong.append(f"memory of supervisor and launcher grew by {grown[0]:.1f} and {grown[1]:.1f} MB")
    lost = {row["name"]: row["lost"] for row in status["sources"] if row["lost"]}
    return {
        "seed": options.seed,
        "seconds": options.minutes * 60,
        "kinds": len(happenings.kinds),
        "kinds_done": len(happenings.done),
        "happened": happenings.done.total(),
        "small_disk": mounted,
        "produced": sum(row["produced"] for row in status["sources"]) + status["gone"]["produced"],
        "sources_gone": status["gone"]["sources"],
        "readers_gone": sum((row["left"] or {}).get("consumers", 0) for row in status["sinks"]),
        "delivered_to_files": delivered,
        "durable": durable,
        "on_disk": on_disk,
        "grown_mb": grown,
        "memory_mb": [[round(value, 1) for value in row] for row in year.memory],
        "cpu_s": round(cpu, 1),
        "lost": lost,
        "done": dict(happenings.done),
    }, wrong


def main(argv: list[str] | None = None) -> int:
    """Run, print what was found.

    Returns:
        0, or 1 when something is wrong.
    """
    parser = argparse.ArgumentParser(description="A node's year in an hour.")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--a-second", type=float, default=2.0, help="things that happen")
    parser.add_argument("--rate", type=float, default=40, help="packets a second and source")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="hd-") as name:
        found, wrong = run(options, Path(name))
    return report(found, wrong, options.json)


if __name__ == "__main__":
    sys.exit(main())
