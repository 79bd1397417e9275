"""Becoming a helper: the privilege sequence, in the one order that works, and its two checks.

The forked child walks the steps, asserts each from the kernel's own answers, then executes; the launcher
looks at it once more from outside. docs/privsep.md says what each step is for. Only the launcher imports
this.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import socket
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from helperd.errors import Code
from helperd.sandbox import PRIVATE_DIR, kernel, processes, seccomp
from helperd.sandbox.prctls import prctl

if TYPE_CHECKING:
    from collections.abc import Callable

    from helperd.sandbox.processes import Privilege

    Becoming = tuple[int, str, bool, int | None, int, tuple[int, ...], tuple[tuple[int, int], ...]]
    Same = tuple[tuple[tuple[str, str], ...], int, bool]

SETGID, SETUID, SETPCAP = 1 << 6, 1 << 7, 1 << 8
PRIORITY = -10  # the launcher's own: whoever ends helpers does not wait for a thousand of theirs
UID_IN_USE = "uid-in-use"
"""The step at which a child finds that somebody else has the uid that is to be its own."""
TAKEN = "taken"
"""What a child says when it has its request."""
HAS_UID = "has-uid"
"""What it says when it has found the uid that is its own."""
ASKED = -1
PLACES = (3, 4, 2, 5)
"""Where the descriptors of a request belong, in their order."""
PAGE = 3
F_GETPIPE_SZ = 1032


class Child(NamedTuple):
    """All that a forked child needs; numbers, strings and bytes that were checked before the fork.

    Attributes:
        place: descriptor in the helper: descriptor here; ``ASKED``: the connection whose next request is to be taken.
        program: descriptor that is executed.
        errors: descriptor that is told "step errno", and closed by exec.
        have: the launcher's own capabilities; without setpcap no bounding set and no securebits.
        uid: None: it stays who the launcher is.
        session: False for the supervisor: it keeps the terminal, and gets a TERM when the launcher dies.
        blocked: signals that wait until the program has handlers for them.
        alone: nobody else may have its uid; where somebody does, it takes one of the others.
        asked: descriptors that come with that request.
        folder: a directory that it may make for itself, told in HELPERD_DIR; empty: none.
        private: what it leaves is removed at its end.
        filter: seccomp program; empty: none.
    """

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    place: dict[int, int]
    program: int
    errors: int
    have: int
    parent: int
    want: int = 0
    privilege: str = "ambient"
    no_new_privs: bool = True
    uid: int | None = None
    gid: int = 0
    groups: tuple[int, ...] = ()
    limits: tuple[tuple[int, int], ...] = ()
    session: bool = True
    blocked: tuple[int, ...] = ()
    leaf: str = ""
    folder: str = ""
    alone: bool = False
    private: bool = False
    filter: bytes = b""
    asked: int = 0
    others: tuple[int, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether the launcher can do all of it."""
        return bool(self.have & SETPCAP)

    @property
    def sets(self) -> tuple[int, int, int]:
        """What it has before exec: permitted = effective, inheritable = ambient, bounding."""
        want = self.want & self.have
        if self.privilege == "ambient":
            return want, want, 0
        return (want, 0, want) if self.privilege == "file" else (0, 0, want)


def child_of(opened: tuple[int, tuple[str, ...]], what: Becoming, same: Same, have: int, null: int) -> Child:
    """What a helper is: the program that was opened for it, and its arguments; what a profile says of it."""
    (env, seal, private), place = same, dict.fromkeys(range(3), null)
    rules = seccomp.for_profile(seal, what[0], no_new_privs=what[2])
    child = Child(opened[1], env, place, opened[0], -1, have, os.getpid(), *what)
    return child._replace(filter=rules, private=private)


def become(child: Child) -> NoReturn:
    """In the forked child: become a helper and execute it; what fails goes to the error pipe: "step errno"."""
    told, steps = [child.errors], ["start"]
    try:
        if child.asked:
            child = child._replace(place=_take(child, steps.append))
        program = _descriptors(child, told, steps.append)
        steps.append(UID_IN_USE)
        if child.alone:
            taken = processes.uids_in_use()
            uid = next((uid for uid in (child.uid, *child.others) if uid not in taken), None)
            if uid is None:
                raise BlockingIOError(errno.EAGAIN, "others have them all")
            child = child._replace(uid=uid, gid=uid)
            os.write(told[-1], f"{HAS_UID} {uid}\n".encode())
        _surroundings(child, steps.append)
        _privilege(child, steps.append)
        _doors(child, steps.append)
        for name, good in check(child).items():
            steps.append(f"check:{name}")
            if not good:
                raise PermissionError(errno.EPERM, name)
        steps.append("exec")
        env = dict(child.env) | ({PRIVATE_DIR: child.folder} if child.folder else {})
        os.execve(program, child.argv, env)  # noqa: S606 - what this process is for
    except BaseException as error:  # noqa: BLE001 - nothing may leave the child
        number = error.errno if isinstance(error, OSError) and error.errno else errno.EPERM
        os.write(told[-1], f"{steps[-1]} {number}".encode())
    finally:
        os._exit(Code.UNSAFE)


def _take(child: Child, step: Callable[[str], None]) -> dict[int, int]:
    """Receive the request, which nobody has taken before, and its descriptors; return the whole place.

    They are looked at without a question to whoever made them: a file of another kind may never answer.

    Raises:
        OSError: EBADMSG, there are others than were said; EINVAL, one is not what its place is for.
    """
    step("request")
    place = dict(child.place)
    sock = socket.socket(fileno=place.pop(ASKED))
    _, fds, flags, _ = socket.recv_fds(sock, 1, child.asked)
    os.write(child.errors, f"{TAKEN}\n".encode())
    if len(fds) != child.asked or flags & socket.MSG_CTRUNC:
        raise OSError(errno.EBADMSG, "other descriptors than were said")
    for position, fd in enumerate(fds):
        step(f"descriptor {position + 1} of the request")
        if not fits(position, fd):
            raise OSError(errno.EINVAL, "not what its place is for")
    return place | dict(zip(PLACES, fds, strict=False))


def fits(position: int, fd: int) -> bool:
    """Whether it is what its place is for: pipes and unix sockets of the right direction, the fourth sealed memory."""
    access = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
    if access == os.O_ACCMODE:
        return False
    try:
        if position == PAGE:
            return bool(fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK)
        fcntl.fcntl(fd, F_GETPIPE_SZ)
        return access != (os.O_WRONLY if position == 0 else os.O_RDONLY)
    except OSError:  # no memory that could be sealed, no pipe
        pass
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        return False
    sock.detach()
    return position != PAGE and sock.family == socket.AF_UNIX


def _descriptors(child: Child, told: list[int], step: Callable[[str], None]) -> int:
    """Leave exactly the declared descriptors, and two that exec closes; return the program's."""
    step("descriptors")
    last = max(child.place)
    raised = {to: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20) for to, fd in child.place.items()}
    errors, program = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20) for fd in (child.errors, child.program))
    for to, fd in raised.items():
        os.dup2(fd, to)
    told.append(os.dup2(errors, last + 1, inheritable=False))
    program = os.dup2(program, last + 2, inheritable=False)
    kernel.close_from(last + 3)
    return program


def _surroundings(child: Child, step: Callable[[str], None]) -> None:
    step("surroundings")
    if child.leaf:
        with open(f"{child.leaf}/cgroup.procs", "w", encoding="ascii") as file:
            file.write("0")
    os.umask(0o077)
    if os.getpriority(os.PRIO_PROCESS, 0) == PRIORITY:
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    os.chdir("/")
    if child.session:
        os.setsid()
    signal.set_wakeup_fd(-1)
    kernel.default_signals()
    signal.pthread_sigmask(signal.SIG_SETMASK, child.blocked)
    for which, value in child.limits:
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))


def _privilege(child: Child, step: Callable[[str], None]) -> None:
    granted, inherited, bounding = child.sets
    step("capabilities")
    kernel.capset(granted | child.have & (SETPCAP | SETUID | SETGID), inherited)  # later it is EPERM
    if child.whole:
        for number in set(range(kernel.last_capability() + 1)) - set(kernel.bits(bounding)):
            kernel.drop_bounding(number)  # the wanted ones too: ambient survives it
    step("ids")
    if child.uid is not None:
        prctl.set_keepcaps(1)
        os.setgroups(child.groups)
        os.setresgid(child.gid, child.gid, child.gid)
        os.setresuid(child.uid, child.uid, child.uid)
    step("ambient")
    kernel.capset(granted | child.have & SETPCAP, inherited)
    kernel.ambient(inherited)
    if child.whole and child.privilege != "suid":
        kernel.securebits(kernel.SECUREBITS)
    kernel.capset(granted, inherited)  # trimmed: no_new_privs compares with what the caller has


def _doors(child: Child, step: Callable[[str], None]) -> None:
    step("doors")
    prctl.set_pdeathsig(signal.SIGKILL if child.session else signal.SIGTERM)  # the change of ids cleared it
    if child.no_new_privs:
        prctl.set_no_new_privs(1)
    if child.filter:
        seccomp.load(child.filter)
    if os.getppid() != child.parent:
        raise ProcessLookupError(errno.ESRCH, "the launcher is gone")


def check(child: Child) -> dict[str, bool]:
    """Ask the kernel, in the child, whether every step has taken effect; in the order of reporting."""
    granted, inherited, bounding = child.sets
    changed = child.uid is not None
    return {
        "uid": not changed or os.getresuid() == (child.uid,) * 3,
        "gid": not changed or os.getresgid() == (child.gid,) * 3,
        "groups": not changed or sorted(os.getgroups()) == sorted(child.groups),
        "capabilities": kernel.capget() == (granted, granted, inherited),
        "ambient": kernel.ambient_set() == inherited,
        "bounding": not child.whole or kernel.bounding_set() == bounding,
        "securebits": not child.whole
        or kernel.securebits()
        == (kernel.SECUREBITS if child.privilege != "suid" else kernel.KEEP_CAPS * changed),
        "no_new_privs": prctl.get_no_new_privs() == child.no_new_privs,
        "session": os.getsid(0) == os.getpid() or not child.session,
        "priority": os.getpriority(os.PRIO_PROCESS, 0) != PRIORITY,
        "way-back": child.uid in {None, 0} or bool(granted & SETUID) or not _regains_root(),
    }


def _regains_root() -> bool:
    """Try to become root again; it must not work."""
    try:
        os.setresuid(0, 0, 0)
    except PermissionError:
        return False
    return True


def differs(child: Child, found: Privilege) -> str:
    """Compare, after exec and from outside, what a process is with what it should be; "" when nothing
    differs.

    The capability sets may be smaller than declared: the helper may have dropped some already.
    """
    granted, inherited, bounding = child.sets
    suid = child.privilege == "suid"
    same = child.uid is None
    by_installer = same and not child.no_new_privs
    good = {
        "uid": same or found.uids == ((child.uid, 0, 0, 0) if suid else (child.uid,) * 4),
        "gid": same or found.gids == (child.gid,) * 4,
        "groups": same or found.groups == tuple(sorted(child.groups)),
        "permitted": by_installer
        or not (found.permitted | found.effective) & ~(child.want if suid else granted),
        "inheritable": not (found.inheritable | found.ambient) & ~inherited,
        "bounding": not child.whole or found.bounding == bounding,
        "no_new_privs": found.no_new_privs == child.no_new_privs,
        "seccomp": found.seccomp == (2 if child.filter else 0),
    }
    return ", ".join(name for name, fine in good.items() if not fine)
