"""What helpers leave, in their directories, where everybody may write, and as System V IPC: how much it is while they
live, and that it is gone when they are dead.

Rules:
  1. A child of the launcher does it, that loads this; the launcher does not.
  2. Each thing is removed with the rights of the uid that has it alone: whatever the names mean by then, nothing goes
     that the helper itself could not have removed. No link is followed.
  3. It takes the time that it takes, for all uids at once; nobody waits for it but their next holders.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import stat
from typing import TYPE_CHECKING, NoReturn

from helperd.sandbox import kernel
from helperd.sandbox.become import SETUID
from helperd.sandbox.prctls import prctl

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

PLACES = ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run/lock")  # noqa: S108 - everybody's, hence this
TOLD = "helperd-launcher: uid {} has more in /tmp and its like than its limit of fsize: its helper is ended\n"
ENTRY = 1 << 10  # bytes that a name counts for, besides what its file takes
LONGEST_S = 60
"""After which it is given up: somebody's file system that does not answer."""
_libc = ctypes.CDLL(None)
IPC: dict[str, Callable[[int], int]] = {
    "shm": lambda number: int(_libc.shmctl(number, 0, None)),
    "sem": lambda number: int(_libc.semctl(number, 0, 0)),
    "msg": lambda number: int(_libc.msgctl(number, 0, None)),
}
"""Calls that remove, by the file below /proc/sysvipc that lists them."""


def _alone(keeper: int) -> bool:
    """Become a uid that nobody has, with no capability but SETUID, for a time; return whether that has worked."""
    prctl.set_keepcaps(1)
    os.setgroups([])
    os.setresgid(keeper, keeper, keeper)
    os.setresuid(keeper, keeper, keeper)
    kernel.capset(SETUID, 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    signal.alarm(LONGEST_S)
    return kernel.capget() == (SETUID, SETUID, 0)


def _places() -> list[str]:
    return sorted({os.path.realpath(place) for place in PLACES if os.path.isdir(place)})


def clean(uids: Collection[int], keeper: int) -> NoReturn:
    """In a forked child of root's launcher: remove all that these uids have left; exit 0 when nothing is left of it."""
    left = True
    try:
        if _alone(keeper):
            ends = [*(_files(place, uids, keeper) for place in _places()), _ipc(uids, keeper)]
            left = not all(ends)
    finally:
        os._exit(left)


def measure(held: Collection[tuple[int, int, int]], keeper: int) -> NoReturn:
    """In a forked child of root's launcher: end every helper whose uid has more in these places than it may.

    Args:
        held: uid, pidfd, and how many bytes, of each helper.
        keeper: our own uid.
    """
    try:
        if _alone(keeper):
            sizes, seen = dict.fromkeys((uid for uid, _, _ in held), 0), set[tuple[int, int]]()
            for place in _places():
                _add(place, (sizes, seen), keeper)
            _add_memory(sizes)
            over = [(uid, pidfd) for uid, pidfd, most in held if sizes[uid] > most]
            for uid, pidfd in over:
                _as(uid, keeper, lambda pidfd=pidfd: signal.pidfd_send_signal(pidfd, signal.SIGKILL))  # type: ignore[misc]
            for uid in dict.fromkeys(uid for uid, _ in over):  # whoever reads the log may keep us waiting
                os.write(2, TOLD.format(uid).encode())
    finally:
        os._exit(0)


def remove(folder: str, uid: int | None) -> NoReturn:
    """In a forked child: remove a directory and all in it, as ``uid``; None: as who we are, which is not root.

    What is in it is what a helper put there: no link is followed, and nothing is done that the helper could not do.
    """
    try:
        if uid is not None:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        if uid is None or (uid and kernel.capget() == (0, 0, 0)):
            for place, folders, files in () if os.path.islink(folder) else os.walk(folder, topdown=False):
                for name in files:
                    _attempt(os.unlink, f"{place}/{name}")
                for name in folders:
                    path = f"{place}/{name}"
                    _attempt(os.unlink if os.path.islink(path) else os.rmdir, path)
            _attempt(os.unlink if os.path.islink(folder) else os.rmdir, folder)
    finally:
        os._exit(0)


def _attempt(call: Callable[[str], None], path: str) -> None:
    with contextlib.suppress(OSError):
        call(path)


def _as(uid: int, keeper: int, call: Callable[[], object]) -> bool:
    """Whether something is gone by a call that is made as a uid."""
    os.setresuid(keeper, uid, keeper)
    try:
        call()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    finally:
        os.setresuid(keeper, keeper, keeper)
    return True


def _entries(place: str, uids: Collection[int]) -> Iterator[tuple[str, os.stat_result]]:
    """What is in a place, by path; directories of these uids are not looked into, nor other file systems."""
    waiting, device = [place], os.lstat(place).st_dev
    while waiting:
        try:
            entries = os.scandir(waiting.pop())
        except OSError:
            continue  # not to be looked into, or gone
        with entries:
            for entry in entries:
                try:
                    found = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                if stat.S_ISDIR(found.st_mode) and found.st_uid not in uids and found.st_dev == device:
                    waiting.append(entry.path)
                yield entry.path, found


def _files(place: str, uids: Collection[int], keeper: int) -> bool:
    good = True
    for path, found in _entries(place, uids):
        if found.st_uid in uids:
            call = _remove if stat.S_ISDIR(found.st_mode) else os.unlink
            good &= _as(found.st_uid, keeper, lambda call=call, path=path: call(path))  # type: ignore[misc]
    return good


Sizes = tuple[dict[int, int], set[tuple[int, int]]]
"""Bytes by uid, and what has been counted: files may have several names."""


def _add(place: str, counted: Sizes, keeper: int) -> None:
    """Add what files and directories take to those whose they are."""
    for path, found in _entries(place, counted[0]):
        uid = found.st_uid
        _count(found, counted)
        if stat.S_ISDIR(found.st_mode) and uid in counted[0]:
            _as(uid, keeper, lambda path=path, uid=uid: _add_below(path, counted, uid))  # type: ignore[misc]


def _count(found: os.stat_result, counted: Sizes) -> None:
    sizes, seen = counted
    if found.st_uid in sizes and (found.st_dev, found.st_ino) not in seen:
        seen.add((found.st_dev, found.st_ino))
        sizes[found.st_uid] += found.st_blocks * 512 + ENTRY


def _add_below(folder: str, counted: Sizes, uid: int) -> None:
    """Add what is in a uid's own directory; one that it cannot look into, or not so deep, is more than it may have."""
    try:
        for _, folders, names, fd in os.fwalk(folder, onerror=_unless_gone):
            for name in (*folders, *names):
                with contextlib.suppress(FileNotFoundError):
                    _count(os.stat(name, dir_fd=fd, follow_symlinks=False), counted)
    except (OSError, RecursionError):
        counted[0][uid] += 1 << 62


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _add_memory(sizes: dict[int, int]) -> None:
    """Add the shared memory that uids have made."""
    with contextlib.suppress(OSError, ValueError), open("/proc/sysvipc/shm", encoding="ascii") as file:
        head, *rows = (line.split() for line in file)
        for row in rows:
            named = dict(zip(head, map(int, row), strict=False))
            if named["cuid"] in sizes:
                sizes[named["cuid"]] += named["size"]


def _remove(folder: str) -> None:
    """Remove a directory, however deep: what is below the first level is moved up to it, so that no path gets long.

    Raises:
        OSError: something in it is not its owner's to remove.
    """
    os.chmod(folder, 0o700)
    while names := os.listdir(folder):
        for name in names:
            path = f"{folder}/{name}"
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                os.unlink(path)
                continue
            with contextlib.suppress(PermissionError):  # another's that is empty goes all the same
                os.chmod(path, 0o700)
            for below in os.listdir(path):
                inner = f"{path}/{below}"
                if stat.S_ISDIR(os.lstat(inner).st_mode):
                    with contextlib.suppress(PermissionError):
                        os.chmod(inner, 0o700)
                    os.rename(inner, f"{folder}/{os.urandom(16).hex()}")
                else:
                    os.unlink(inner)
            os.rmdir(path)
    os.rmdir(folder)


def _ipc(uids: Collection[int], keeper: int) -> bool:
    good = True
    for kind, remove in IPC.items():
        try:
            with open(f"/proc/sysvipc/{kind}", encoding="ascii") as file:
                head, *rows = (line.split() for line in file)
        except (OSError, ValueError):
            continue  # this kernel has none
        for row in rows:
            named = dict(zip(head, map(int, row), strict=False))
            owners = {named["uid"], named["cuid"]} & {*uids}
            done = [_as(uid, keeper, lambda: _checked(remove(int(row[1])))) for uid in owners]  # noqa: B023
            good &= not owners or any(done)
    return good


def _checked(result: int) -> None:
    if result < 0:
        raise PermissionError
