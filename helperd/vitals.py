"""What a process uses, and what state it is in; the only importer of psutil.

Rules:
  1. What may not be read (another uid's fds, a hidden /proc) is None, never 0.
  2. Vitals explain; ``lifecycle.liveness`` judges.
  3. Reading blocks a little: whole trees are sampled in a worker thread, in slices.

Source of the layouts: proc(5), cgroups(7), and sched-stats in the kernel's documentation.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
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
    """What the scheduler did with a process's main thread, to be compared with a later one.

    Attributes:
        state: letter of /proc/PID/stat.
        delay_ns: runnable and not run, nanoseconds so far; grows only when it gets to run.
        slices: times it was put on a cpu.
        ran_ns: on a cpu, nanoseconds so far.
    """

    state: str
    delay_ns: int
    slices: int
    ran_ns: int = 0


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
        turn = run_queue(pid)
        words = _stat(pid)
        return Vitals(
            pid=pid,
            state=words[0] if words else "",
            started=int(words[19]) / _TICKS if words else None,
            cpu_s=_get(lambda: sum(process.cpu_times()[:2])),
            memory=_get(lambda: process.memory_info().rss),
            fds=_get(process.num_fds),
            threads=_get(process.num_threads),
            children=children(pid),
            run_delay_s=None if turn is None else turn.delay_ns / 1e9,
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


def _stat(pid: int) -> list[str]:
    """The words of /proc/PID/stat from the third, the state, on; empty when it is gone or hidden."""
    raw = _read(f"/proc/{pid}/stat") or b""
    return raw[raw.rfind(b")") + 1 :].decode().split()


def process_state(pid: int) -> str:
    """Return the state letter of a process; empty when it is gone or hidden."""
    return (_stat(pid) or [""])[0]


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
    """Read what the scheduler did with the main thread; None when it may not be read."""
    words = (_read(f"/proc/{pid}/schedstat") or b"").split()
    if len(words) != 3:
        return None
    return Turn(process_state(pid), int(words[1]), int(words[2]), int(words[0]))


def run_delay(pid: int) -> int | None:
    """Return the nanoseconds the main thread has waited for a cpu so far; None when it may not be read."""
    turn = run_queue(pid)
    return None if turn is None else turn.delay_ns


def starved(before: Turn | None, after: Turn | None, window: float) -> bool:
    """Say whether a process wanted the cpu and did not get it for more than half of a window.

    One that did get to run for a while and answered nothing had its chance: on a machine that is busy, a process that
    spins waits for most of its life too.

    Args:
        before: at the window's beginning.
        after: at its end.
        window: seconds between the two.
    """
    if before is None or after is None:
        return False
    if after.state == "R" and after.slices == before.slices and before.state == "R":
        return True  # still waiting: the kernel adds the delay only when it runs
    if after.ran_ns - before.ran_ns > max(CHANCE_S, window / 20) * 1e9:
        return False
    return after.delay_ns - before.delay_ns > window / 2 * 1e9


@cache
def cgroup_root() -> str:
    """Where cgroup v2 is mounted, also beside v1; empty when it is not."""
    rows = [
        line.split() for line in (_read("/proc/self/mountinfo") or b"").decode(errors="replace").splitlines()
    ]
    return next((row[4] for row in rows if row[row.index("-") + 1] == "cgroup2"), "")


def cgroup(pid: int) -> str | None:
    """Return the directory of the process's cgroup v2; None when it has none that can be seen."""
    for line in (_read(f"/proc/{pid}/cgroup") or b"").decode(errors="surrogateescape").splitlines():
        if line.startswith("0::/") and cgroup_root():
            path = f"{cgroup_root()}/{line[4:]}".rstrip("/")
            return path if os.path.exists(f"{path}/cgroup.events") else None
    return None


def frozen(directory: str | None) -> bool:
    """Say whether a cgroup is frozen: its processes are neither stopped nor at fault."""
    return directory is not None and _counter(f"{directory}/cgroup.events", "frozen") == 1


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
