"""What a process uses, and what state it is in; the only importer of psutil.

Rules:
  1. What may not be read (another uid's fds, a hidden /proc) is None, never 0.
  2. Vitals explain; ``lifecycle.liveness`` judges.
  3. Reading blocks a little: whole trees are sampled in a worker thread, in slices.

Source of the layouts: proc(5), and sched-stats in the kernel's documentation.
"""

from __future__ import annotations

import math
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_T = TypeVar("_T", int, float)

CHANCE_S = 0.1
"""Seconds on a cpu in which any helper would have answered; it takes a thousandth of one."""
_TICKS = os.sysconf("SC_CLK_TCK")
MAX_TREE = 1024
"""Members of one process tree that are looked at; a fork bomb must not cost more."""


@dataclass(frozen=True, slots=True)
class Vitals:
    """One process at one moment; None is what may not be read.

    Attributes:
        pid: its number in our pid namespace.
        state: letter of /proc/PID/stat: R S D T t Z; empty when unreadable.
        started: start time, seconds since boot; tells a reused pid.
        cpu_s: user and system time used so far, seconds.
        memory: resident, bytes.
        fds: open file descriptors.
        threads: of the process.
        children: pids of its direct children, zombies too.
        run_delay_s: time its main thread was runnable and did not run, seconds so far.
    """

    pid: int
    state: str = ""
    started: float | None = None
    cpu_s: float | None = None
    memory: int | None = None
    fds: int | None = None
    threads: int | None = None
    children: tuple[int, ...] | None = None
    run_delay_s: float | None = None

    @property
    def living(self) -> bool:
        """True unless it is a zombie or just leaving."""
        return self.state not in {"Z", "X"}


@dataclass(frozen=True, slots=True)
class Tree:
    """A process and its living descendants, added up; None where nothing could be read.

    Attributes:
        main: the process itself.
        members: pids of those that live, the main process first.
        cpu_percent: of one core since the last sample; None in the first.
        cpu_s: seconds, of those alive now.
        memory: bytes, resident; what is shared counts in each.
        fds: open file descriptors.
        threads: of all members.
    """

    main: Vitals
    members: tuple[int, ...]
    cpu_percent: float | None
    cpu_s: float | None
    memory: int | None
    fds: int | None
    threads: int | None


class Turn(NamedTuple):
    """What the scheduler did with a process, to be compared with a later one.

    Attributes:
        delay_ns: its main thread was runnable and did not run, nanoseconds so far; grows only when it gets to run.
        ran_ns: that thread was on a cpu, nanoseconds so far.
        wanting: threads that run or want to, now, its descendants' too: how long each has been on a cpu, nanoseconds so
            far.
    """

    delay_ns: int
    ran_ns: int
    wanting: dict[str, int]


def sample(pid: int) -> Vitals | None:
    """Read what may be read about one process; None when there is none, or its pid was never known (-1)."""
    if pid < 0:
        return None
    try:
        process = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None
    except psutil.Error:
        return Vitals(pid)
    with process.oneshot():
        delay = run_delay(pid)
        words = _stat(f"/proc/{pid}")
        return Vitals(
            pid=pid,
            state=words[0] if words else "",
            started=int(words[19]) / _TICKS if words else None,
            cpu_s=_get(lambda: sum(process.cpu_times()[:2])),
            memory=_get(lambda: process.memory_info().rss),
            fds=_get(process.num_fds),
            threads=_get(process.num_threads),
            children=children(pid),
            run_delay_s=None if delay is None else delay / 1e9,
        )


def _get(read: Callable[[], _T]) -> _T | None:
    try:
        return read()
    except (psutil.Error, OSError, ValueError):
        return None


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None


def _stat(task: str) -> list[str]:
    """The words of a process's or thread's ``stat`` from the third, the state, on; empty when it is gone or hidden."""
    raw = _read(f"{task}/stat") or b""
    return raw[raw.rfind(b")") + 1 :].decode().split()


def _state(task: str) -> str:
    """The state letter of a process or thread; empty when it is gone or hidden."""
    return (_stat(task) or [""])[0]


def process_state(pid: int) -> str:
    """Return the state letter of a process; empty when it is gone or hidden."""
    return _state(f"/proc/{pid}")


def children(pid: int) -> tuple[int, ...] | None:
    """Return the pids of the direct children, of whatever thread; None when they may not be read."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return None
    found: list[int] = []
    for thread in threads:
        raw = _read(f"/proc/{pid}/task/{thread}/children")
        if raw is None:
            return _children_by_search(pid)
        found += map(int, raw.split())
    return tuple(found)


def _children_by_search(pid: int) -> tuple[int, ...] | None:
    """The same for a kernel without /proc/PID/task/TID/children."""
    try:
        return tuple(child.pid for child in psutil.Process(pid).children())
    except psutil.Error:
        return None


def living_descendants(pid: int) -> int | None:
    """Count the descendants that live, zombies left out; None when they may not be read."""
    first = children(pid)
    if first is None:
        return None
    living = 0
    seen = {pid}
    open_ends = list(first)
    while open_ends and len(seen) < MAX_TREE:
        child = open_ends.pop()
        if child in seen:
            continue
        seen.add(child)
        living += process_state(child) not in {"", "Z", "X"}
        open_ends += children(child) or ()
    return living


def run_queue(pid: int) -> Turn | None:
    """Read what the scheduler did with a process; None when it may not be read."""
    main = _schedstat(f"/proc/{pid}")
    if main is None:
        return None
    wanting = {}
    for task in _tasks(pid):
        if _state(task) == "R" and (times := _schedstat(task)) is not None:
            wanting[task] = times[0]
    return Turn(main[1], main[0], wanting)


def _tasks(pid: int) -> list[str]:
    """The directories of all threads of a process and its descendants, of which one may do the work; not endless."""
    found: list[str] = []
    open_ends = [pid]
    seen = {pid}
    while open_ends and len(found) < MAX_TREE:
        process = open_ends.pop()
        with suppress(OSError):
            found += [f"/proc/{process}/task/{thread}" for thread in os.listdir(f"/proc/{process}/task")]
        open_ends += set(children(process) or ()) - seen
        seen.update(open_ends)
    return found


def _schedstat(task: str) -> tuple[int, int] | None:
    """Nanoseconds that a thread was on a cpu, and that it waited for one; None when it may not be read."""
    words = (_read(f"{task}/schedstat") or b"").split()
    return (int(words[0]), int(words[1])) if len(words) == 3 else None


def run_delay(pid: int) -> int | None:
    """Return the nanoseconds the main thread has waited for a cpu so far; None when it may not be read."""
    times = _schedstat(f"/proc/{pid}")
    return None if times is None else times[1]


def starved(before: Turn | None, after: Turn | None, window: float) -> bool:
    """Say whether a process wanted the cpu and hardly got it, whatever kept it: others, a low share, a quota.

    The kernel adds what a thread waits, for others or for its quota, only when it runs at last. So a thread that wants
    the cpu in both readings and was hardly on one between them counts too. One that did get to run for a while and
    answered nothing had its chance: on a machine that is busy, a process that spins waits for most of its life.

    Args:
        before: at the window's beginning.
        after: at its end.
        window: seconds between the two.
    """
    if before is None or after is None:
        return False
    chance = max(CHANCE_S, window / 20) * 1e9
    if any(ran - before.wanting.get(thread, -math.inf) <= chance for thread, ran in after.wanting.items()):
        return True
    return after.ran_ns - before.ran_ns <= chance and after.delay_ns - before.delay_ns > window / 2 * 1e9


def oom_kills() -> int | None:
    """Return how many processes the kernel has ended for lack of memory, its own or a cgroup's; None when unknown.

    The kernel counts before it sends SIGKILL: who was ended so is counted already when its end is seen.
    """
    return _counter("/proc/vmstat", "oom_kill")


def _counter(path: str, name: str) -> int | None:
    """The number after ``name`` in a flat-keyed file."""
    for line in (_read(path) or b"").decode().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return None


class Sampler:
    """Samples process trees, and knows the cpu share since the last time. Used by one thread at a time."""

    def __init__(self) -> None:
        self._before: dict[int, tuple[float, dict[tuple[int, float | None], float]]] = {}

    def sample(self, pids: Iterable[int], now: float) -> dict[int, Tree]:
        """Sample the trees below ``pids`` at ``now`` (seconds, monotonic); leave out what is gone.

        What was remembered of any other tree is forgotten.
        """
        trees: dict[int, Tree] = {}
        for pid in pids:
            main = sample(pid)
            if main is not None:
                trees[pid] = self._add_up(main, _members(main), now)
        self._before = {pid: self._before[pid] for pid in trees}
        return trees

    def _add_up(self, main: Vitals, members: list[Vitals], now: float) -> Tree:
        used = {(v.pid, v.started): v.cpu_s for v in members if v.cpu_s is not None}
        before = self._before.get(main.pid)
        percent = None
        if before is not None and now > before[0] and used and (main.pid, main.started) in before[1]:
            spent = sum(cpu_s - before[1].get(key, 0.0) for key, cpu_s in used.items())
            percent = 100.0 * spent / (now - before[0])
        self._before[main.pid] = (now, used)
        return Tree(
            main=main,
            members=tuple(v.pid for v in members),
            cpu_percent=percent,
            cpu_s=_sum(v.cpu_s for v in members),
            memory=_sum(v.memory for v in members),
            fds=_sum(v.fds for v in members),
            threads=_sum(v.threads for v in members),
        )


def _members(main: Vitals) -> list[Vitals]:
    """The process and its living descendants; one that ends meanwhile is left out."""
    members = {main.pid: main}
    open_ends = list(main.children or ())
    while open_ends and len(members) < MAX_TREE:
        pid = open_ends.pop()
        found = None if pid in members else sample(pid)
        if found is not None:
            members[pid] = found
            open_ends += found.children or ()
    return [member for member in members.values() if member.living]


def _sum(values: Iterable[_T | None]) -> _T | None:
    """The sum of what is known; None when nothing is."""
    known = [value for value in values if value is not None]
    return sum(known[1:], known[0]) if known else None
