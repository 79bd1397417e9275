"""What must hold at every moment, looked at from outside while faults happen.

Reader     a consumer: counts packets per source, and sees every gap in their numbers
Witness    a thread that asks for the status all the time and holds it against /proc and the devices' locks
Account    processes, zombies and descriptors of supervisor and launcher at one moment
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from helperd.control.client import Client
from tests.census import OWN, name_of
from tests.patience import HANGS_S
from tests.rig import Rig, Stream

NO_PROCESS = {"down", "backoff", "failed"}


class Reader(threading.Thread):
    """Reads a consumer socket to its end; by source name: packets, and gaps in the numbers of one incarnation."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(daemon=True)
        self.sock = sock
        self.packets: collections.Counter[str] = collections.Counter()
        self.lost_between: collections.Counter[str] = collections.Counter()
        self.stamps: dict[str, float] = {}
        self.failure: BaseException | None = None
        self._next: dict[str, int] = {}

    def run(self) -> None:
        stream = Stream(self.sock)
        self.sock.settimeout(None)
        try:
            for packet in stream.packets():
                name = stream.interfaces[packet.interface][1].partition(":")[0]
                self.packets[name] += 1
                self.stamps[name] = time.monotonic()
                number = number_of(packet.content)
                if number is None:
                    continue
                wanted = self._next.get(name, number)
                if number not in {0, wanted}:
                    self.lost_between[name] += number - wanted
                self._next[name] = number + 1
        except OSError:
            pass
        except BaseException as error:
            self.failure = error

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.join(HANGS_S)
        self.sock.close()


def number_of(content: bytes) -> int | None:
    """The number in a packet of a bad helper or of the synthetic radio."""
    if content.startswith(b"BADHELPR"):
        return int.from_bytes(content[8:16], "big")
    return int.from_bytes(content[40:48], "little") if len(content) >= 48 else None


def balance(status: dict[str, Any]) -> list[str]:
    """What does not add up in a status; [] when everything does."""
    wrong = []
    for row in status["sources"]:
        if row["produced"] != row["packets"] + sum(row["lost"].get(word, 0) for word in UPSTREAM):
            wrong.append(
                f"{row['name']}: produced {row['produced']}, {row['packets']} came, lost {row['lost']}"
            )
        here = sum(row["lost"].values()) - sum(row["lost"].get(word, 0) for word in UPSTREAM)
        if row["packets"] != row["routed"] + row["empty"] + here:
            wrong.append(f"{row['name']}: {row['packets']} came, {row['routed']} routed, lost {row['lost']}")
    return wrong + [
        f"consumer {row['id']}: {row}"
        for row in status["consumers"]
        if row["offered"] != row["packets"] + row["lost"] + row["queued"]
    ]


UPSTREAM = ("kernel", "helper-queue", "died-unsent", "partial-frame")


def state_of(pid: int) -> str:
    """Letter of /proc/PID/stat; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return ""


class Witness(threading.Thread):
    """Asks for the status without end; ``lies`` holds what it said that was not so."""

    def __init__(self, rig: Rig, devices: Path, pause: float = 0.05) -> None:
        super().__init__(daemon=True)
        self.rig = rig
        self.devices = devices
        self.pause = pause
        self.asked = 0
        self.slowest = 0.0
        self.lies: list[str] = []
        self.excused = False
        self._ending = threading.Event()

    def run(self) -> None:
        while not self.asked or not self._ending.wait(self.pause):
            try:
                self._look()
            except Exception as error:
                if not self._ending.is_set() and not self.excused:
                    self.lies.append(f"status could not be had: {error!r}")
                    return

    def _look(self) -> None:
        with Client(self.rig.control, timeout_s=HANGS_S) as client:
            began = time.monotonic()
            status = client.call("GetStatus")
            if not self.excused:
                self.slowest = max(self.slowest, time.monotonic() - began)
            self.asked += 1
            self.lies += balance(status)
            for row in status["sources"]:
                if lie := self._lie(row):
                    self._confirm(client, row, lie)

    def _lie(self, row: dict[str, Any]) -> str:
        """What a row says that is not so at this moment."""
        if row["state"] in NO_PROCESS:
            if row["pid"] is not None:
                return f"{row['state']} with pid {row['pid']}"
            if self._locked(row["name"]):
                return f"{row['state']}, but its device is held"
        if row["state"] == "running" and state_of(row["pid"]) in {"", "Z", "X"}:
            return f"running, but pid {row['pid']} is not"
        if row["state"] == "backoff" and row["next_try_s"] is None:
            return "backoff without a time"
        return ""

    def _confirm(self, client: Client, row: dict[str, Any], lie: str) -> None:
        """The world may have moved since the answer: a lie is what is said again, of the same life, and again."""
        for _ in range(10):
            time.sleep(0.05)
            again = [each for each in client.call("GetStatus")["sources"] if each["name"] == row["name"]]
            same = again and (again[0]["state"], again[0]["incarnation"]) == (
                row["state"],
                row["incarnation"],
            )
            if not same or not self._lie(again[0]):
                return
        if not self.excused:
            self.lies.append(f"{row['name']}: {lie}")

    def _locked(self, name: str) -> bool:
        """Whether a living process holds the source's device; looked at, never touched."""
        try:
            inode = os.stat(self.devices / name).st_ino
        except OSError:
            return False
        return any(
            line.split()[5].endswith(f":{inode}") for line in Path("/proc/locks").read_text().splitlines()
        )

    def close(self) -> None:
        self._ending.set()
        self.join(HANGS_S)


@dataclasses.dataclass(frozen=True)
class Account:
    """Living processes below the launcher, zombies among them, and descriptors by what they lead to.

    Without the child that the launcher forks ahead, which comes a moment after each launch.
    """

    processes: frozenset[int]
    zombies: frozenset[int]
    supervisor_fds: int
    launcher_fds: int

    @classmethod
    def of(cls, rig: Rig, supervisor: int) -> Account:
        family = {pid: name_of(pid) for pid in below(rig.process.pid)}
        tree = [pid for pid, name in family.items() if name not in OWN]
        states = {pid: state_of(pid) for pid in tree}
        return cls(
            frozenset(pid for pid, state in states.items() if state not in {"Z", "X", ""}),
            frozenset(pid for pid, state in states.items() if state == "Z"),
            fds(supervisor),
            fds(rig.process.pid) - 3 * (len(family) - len(tree)),  # its orders, its errors, its pidfd
        )


def fds(pid: int) -> int:
    """Open descriptors, without connections of control clients, which come and go."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def listening(pid: int) -> int:
    """Sockets that a process listens at."""
    inodes = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/{pid}/fd/{name}")
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    found = 0
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        words = line.split()
        found += words[6] in inodes and words[3] == "00010000"
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            found += words[9] in inodes and words[3] == "0A"
    return found


@contextlib.contextmanager
def few_descriptors(pid: int) -> Iterator[Callable[[int], None]]:
    """Call with how many descriptors a process may open beside those it has; as before in the end."""
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    taken = os.listdir(f"/proc/{pid}/fd")
    free = [fd for fd in range(100) if str(fd) not in taken]
    try:
        yield lambda room: resource.prlimit(pid, resource.RLIMIT_NOFILE, (free[room], limits[1]))
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


def below(pid: int) -> list[int]:
    """Every descendant of a process, zombies too."""
    children: dict[int, list[int]] = collections.defaultdict(list)
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                words = Path(f"/proc/{name}/stat").read_text(errors="replace").rpartition(")")[2].split()
                children[int(words[1])].append(int(name))
    found, waiting = [], [pid]
    while waiting:
        mine = children.get(waiting.pop(), [])
        found += mine
        waiting += mine
    return found
