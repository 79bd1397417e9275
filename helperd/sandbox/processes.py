"""What /proc says of processes: privilege, and who is whose; how to kill exactly the one that is meant."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import NamedTuple

LAUNCHER = "helperd-launch"
"""What a launcher of root calls itself."""
PF_EXITING = 4
"""From linux/sched.h."""


class Privilege(NamedTuple):
    """A process's privilege as the kernel reports it; capability sets as bit masks."""

    uids: tuple[int, ...]
    gids: tuple[int, ...]
    groups: tuple[int, ...]
    inheritable: int
    permitted: int
    effective: int
    bounding: int
    ambient: int
    no_new_privs: int
    seccomp: int


def alive(uids: set[int]) -> set[int]:
    """Return the uids of which a process runs, or may: a zombie that a stranger does not reap is none."""
    try:
        return uids if hidden() else uids & uids_in_use()
    except OSError:  # they cannot be looked at now
        return uids


def uids_in_use() -> set[int]:
    """Return every uid that a thread of this machine has in any way: real, effective, saved, of files.

    Raises:
        OSError: they cannot be looked at now; EMFILE.
    """
    found = set[int]()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            for thread in os.listdir(f"/proc/{pid}/task"):  # one may have another uid, or outlive the first
                found.update(_who(f"{pid}/task/{thread}")[1])
    return found


def _who(pid: int | str) -> tuple[int, list[int]]:
    """The parent and the uids of a process or thread, by one look; no uids of one that has ended."""
    with open(f"/proc/{pid}/status", "rb", buffering=0) as file:
        text = file.read(1 << 12)
    words = (b"\nPPid:", b"\nUid:")
    parent, uids = (text[text.index(word) + len(word) :].split(maxsplit=4)[:4] for word in words)
    ended = b"\nState:\tZ" in text or b"\nState:\tX" in text
    return int(parent[0]), [] if ended else [*map(int, uids)]


def of_others(uids: range, launcher: int, old: int | None = None) -> set[int]:
    """Return which of some uids processes have that a launcher has not started: its own descend from it, for ever.

    Args:
        uids: those that are asked about.
        launcher: its pid.
        old: what no launcher has started that lives, but this one, and that is in our pid namespace, is not meant
            either: an earlier launcher has left it; 0: there is no such one any more.

    Raises:
        OSError: they cannot be looked at now; EMFILE.
    """
    found, ours = set[int](), {launcher}  # what somebody descends from is looked at once
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            parent, own = _who(pid)
            has, above = {uid for uid in own if uid in uids}, [pid] + [parent] * (parent > 0)
            while has and above[-1] not in ours and (found_row := row(above[-1])) and found_row.parent:
                above.append(found_row.parent)
            if not has or above[-1] in ours:
                ours.update(above * bool(has))
                continue
            left = old is not None and len(status(pid)["NSpid"].split()) == 1
            left = left and not any(_is_launcher(each) for each in above[1:] if each != old)
            found |= set() if left else has
    return found


def _is_launcher(pid: int) -> bool:
    return status(pid)["Name"] == LAUNCHER and 0 in _who(pid)[1]


def hidden() -> bool:
    """Whether ``/proc`` may hide other users' processes from us: mounted with hidepid."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        rows = [line.split() for line in file]
    return any(row[4] == "/proc" and "hidepid=" in row[-1] for row in rows)


class Row(NamedTuple):
    """One process: state letter, parent, session, start time in clock ticks since boot."""

    state: str
    parent: int
    session: int
    started: int


def status(pid: int | str) -> dict[str, str]:
    """Return the lines of /proc/PID/status by name.

    Raises:
        OSError: the process is gone.
    """
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in file)}


def privilege(pid: int | str) -> Privilege | None:
    """Return what a process, or a thread (PID/task/TID), is; None when it has ended or is hidden from us (hidepid).

    Raises:
        OSError: it cannot be looked at now; EMFILE.
    """
    try:
        lines = status(pid)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    if lines["State"][0] in "ZX":
        return None
    inh, prm, eff, bnd, amb = (int(lines[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb"))
    uids, gids, groups = (tuple(map(int, lines[name].split())) for name in ("Uid", "Gid", "Groups"))
    others = int(lines.get("NoNewPrivs", "0")), int(lines.get("Seccomp", "0"))
    return Privilege(uids, gids, groups, inh, prm, eff, bnd, amb, *others)


def row(pid: int) -> Row | None:
    """Return one process's row; None when it is gone, or hidden from us.

    Raises:
        OSError: it cannot be looked at now; EMFILE.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            words = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    return Row(words[0].decode(), int(words[1]), int(words[3]), int(words[19]))


def never_runs(pid: int) -> bool:
    """Whether a process never comes back from the kernel: it has SIGKILL pending, or its last thread is on its way out.

    Raises:
        OSError: it is gone.
    """
    lines = status(pid)
    with open(f"/proc/{pid}/stat", "rb") as file:
        words = file.read().rpartition(b")")[2].split()
    pending = int(lines["SigPnd"], 16) | int(lines["ShdPnd"], 16)
    return bool(pending >> (signal.SIGKILL - 1) & 1 or (int(words[6]) & PF_EXITING and int(words[17]) <= 1))


def table() -> dict[int, Row]:
    """Return every process of this machine by pid.

    Raises:
        OSError: there is no descriptor to look with.
    """
    rows = {int(name): row(int(name)) for name in os.listdir("/proc") if name.isdigit()}
    return {pid: found for pid, found in rows.items() if found}


def owner(pid: int, rows: dict[int, Row], launcher: int, mains: set[int]) -> int | None:
    """Return the helper a process belongs to, by ancestry, then by session.

    Args:
        pid: the process.
        rows: ``table()``.
        launcher: the subreaper, to which orphans come.
        mains: pids of helpers' main processes, those that have ended included.

    Returns:
        The main pid; 0 for an orphan that fits none; None for a process that is no descendant of the
        launcher.
    """
    top = pid
    for _ in range(len(rows)):
        if top in mains:
            return top
        if top not in rows or top == launcher:
            return None
        if rows[top].parent == launcher:
            break
        top = rows[top].parent
    if rows[top].parent != launcher:
        return None
    return next((rows[each].session for each in (pid, top) if rows[each].session in mains), 0)


def kill(pid: int, started: int) -> None:
    """Kill a process, unless its pid belongs to another one by now."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        found = row(pid)
        if found and found.started == started:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except OSError:
        pass  # it ended by itself, or became somebody we may not kill; the next look tells
    finally:
        os.close(pidfd)
