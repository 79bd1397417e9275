"""What a test can leave behind: processes, descriptors, namespaces, mounts, socket files.

Processes are this process's descendants. It is made a child subreaper (`conftest.py`), so that an
orphan does not escape to init but comes back as a child, and is seen.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import stat
import time
from pathlib import Path
from typing import NamedTuple

FORKED_AHEAD = "helperd-next"
"""What a launcher's child is called that waits to become the next helper."""
SWEEPER = "helperd-sweep"
"""What the child of root's launcher is called that ends all of a uid."""
TAKER = "helperd-take"
"""What the child of a launcher is called that takes requests that nobody is to have."""
OWN = {FORKED_AHEAD, SWEEPER, TAKER}
"""A launcher's children that are no helpers."""
GRACE = 3.0
"""Seconds that processes which are about to end may take to do so; nothing waits if none is left."""


class Proc(NamedTuple):
    """One process: its pid and start time (clock ticks since boot) tell it apart for ever."""

    pid: int
    started: int


class Census(NamedTuple):
    """The state of this process and its surroundings at one moment."""

    processes: frozenset[Proc]
    fds: dict[int, str]
    namespaces: frozenset[str]
    own_netns: str
    mounts: frozenset[str]


def take() -> Census:
    """Count everything now."""
    return Census(
        frozenset(descendants()), open_fds(), named_netns(), os.readlink("/proc/self/ns/net"), mounts()
    )


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on (proc(5), field 3 is index 0); None if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def _children(pid: int) -> list[int]:
    """Direct children of every thread of a process."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found


def _children_by_scan() -> dict[int, list[int]]:
    """The same for all processes at once, for kernels built without /proc/PID/task/TID/children."""
    tree: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := _stat(int(name))):
            tree.setdefault(int(fields[1]), []).append(int(name))
    return tree


def name_of(pid: int) -> str:
    """A process's name (proc(5), comm); empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").rstrip("\n")
    except OSError:
        return ""


def descendants() -> list[Proc]:
    """All living processes below this one; zombies do not count, nor a launcher's own while that lives."""
    scan = None if os.path.exists(f"/proc/self/task/{os.getpid()}/children") else _children_by_scan()
    waiting, found = [os.getpid()], []
    while waiting:
        pid = waiting.pop()
        for child in _children(pid) if scan is None else scan.get(pid, []):
            waiting.append(child)
            fields = _stat(child)
            if fields and fields[0] not in "ZX" and (pid == os.getpid() or name_of(child) not in OWN):
                found.append(Proc(child, int(fields[19])))
    return found


def command(proc: Proc) -> str:
    """A process's command line as one would type it, for messages."""
    try:
        line = Path(f"/proc/{proc.pid}/cmdline").read_bytes()
    except OSError:
        return "(gone)"
    return line.replace(b"\0", b" ").decode(errors="replace").strip() or "(no command line)"


def reap() -> None:
    """Collect dead orphans that came back to us. Children that were alive at the start stay their owner's."""
    for pid in _children(os.getpid()):
        if (fields := _stat(pid)) and fields[0] == "Z":
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def await_end(before: frozenset[Proc], seconds: float) -> list[Proc]:
    """Wait until no process is left that was not there before; return those that are after `seconds`."""
    limit = time.monotonic() + seconds
    while left := [proc for proc in descendants() if proc not in before]:
        remaining = limit - time.monotonic()
        if remaining <= 0:
            break
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(left[0].pid)
            try:
                poller = select.poll()
                poller.register(fd, select.POLLIN)
                poller.poll(remaining * 1000)
            finally:
                os.close(fd)
    return left


def kill(procs: list[Proc]) -> None:
    """End exactly these processes, wherever they are."""
    for proc in procs:
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(proc.pid)
            try:
                if (fields := _stat(proc.pid)) and int(fields[19]) == proc.started:
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
            finally:
                os.close(fd)


def open_fds() -> dict[int, str]:
    """Open descriptors of this process and what they lead to."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that listed them is closed by now
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def named_netns() -> frozenset[str]:
    """Network namespaces that have a name."""
    try:
        return frozenset(os.listdir("/run/netns"))
    except OSError:
        return frozenset()


def mounts(base: Path | None = None) -> frozenset[str]:
    """Mount points seen by this process; with the folder of its tests, those of other runs of tests left out."""
    lines = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    points = {line.split()[4] for line in lines}
    return frozenset(
        name for name in points if base is None or "/pytest-of-" not in name or f"{base}/" in name
    )


def sockets_under(directory: Path) -> list[str]:
    """Paths of unix socket files below a directory."""
    found = []
    for folder, _, files in os.walk(directory):
        for name in files:
            path = os.path.join(folder, name)
            with contextlib.suppress(OSError):
                if stat.S_ISSOCK(os.lstat(path).st_mode):
                    found.append(path)
    return sorted(found)


def new_fds(before: dict[int, str]) -> list[str]:
    """Descriptors opened since `before` that no garbage collection closes."""
    for sweep in (False, True):
        if sweep:
            gc.collect()
        left = [f"fd {fd} -> {to}" for fd, to in sorted(open_fds().items()) if before.get(fd) != to]
        if not left:
            break
    return left
