"""The launcher's ways in: listening sockets, who is at the other end; its own surroundings when it is root."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
import sys

from helperd.errors import CannotDrop, UnavailableError, UsageError
from helperd.sandbox import cgroup, custody, kernel, processes
from helperd.sandbox.become import PRIORITY
from helperd.sandbox.prctls import LACKING, prctl

SO_PEERGROUPS = 59
KEPT = {"TERM", "COLUMNS", "NO_COLOR", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}
KEPT |= {"RUNTIME_DIRECTORY", "JOURNAL_STREAM", "INVOCATION_ID"}
WORDS = {"config=", "runtime-dir=", "client-fd=", "listen=", "systemd", "unprivileged", "delegated"}


def options(argv: list[str]) -> tuple[dict[str, str], list[str]]:
    """Read ``--name`` and ``--name=value`` up to the first other word; a ``--`` before that is left out."""
    found: dict[str, str] = {}
    for position, word in enumerate(argv):
        name, equals, value = word.removeprefix("--").partition("=")
        if word == "--" or not word.startswith("--"):
            return found, argv[position + (word == "--") :]
        if f"{name}{equals}" not in WORDS:
            raise UsageError("usage", f"no option {word}")
        found[f"--{name}"] = value
    return found, []


def environment(*, root: bool) -> dict[str, str]:
    """What a supervisor inherits; of root's, only what is told to a service and to a terminal."""
    return {name: value for name, value in os.environ.items() if not root or name in KEPT}


def check_surroundings(cure: str) -> None:
    """As root: refuse an interpreter that is not isolated, an environment that could have steered it, no python-prctl.

    Raises:
        CannotDrop: "unsafe-file", exit status 100. UnavailableError: "not-installed".
    """
    if not (sys.flags.isolated and sys.flags.no_site):
        raise CannotDrop("unsafe-file", "as root the launcher must be started with python3 -I -S")
    found = [name for name in os.environ if name.startswith(("PYTHON", "LD_"))]
    if found:
        text = f"as root the launcher takes no {', '.join(found)} in its environment"
        raise CannotDrop("unsafe-file", text)
    if LACKING:
        text = f"the launcher of root needs python-prctl, {LACKING}: {cure}"
        raise UnavailableError("not-installed", text)


def shrink(keep: int, *, no_new_privs: bool) -> int:
    """As root: give up every capability but ``keep``, for good; return what is left.

    Raises:
        CannotDrop: the kernel's answer is not what was asked for.
    """
    _, permitted, _ = kernel.capget()
    keep &= permitted
    if kernel.securebits() & 1 << 1:
        raise CannotDrop("bug", "securebits are locked by whoever started the launcher")
    for number in range(kernel.last_capability() + 1):
        if not keep >> number & 1:
            kernel.drop_bounding(number)
    with contextlib.suppress(OSError):  # where a unit's filter or a container forbids it
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    kernel.capset(keep, 0)
    if no_new_privs:
        prctl.set_no_new_privs(1)
    prctl.set_dumpable(0)
    prctl.set_name(processes.LAUNCHER)
    if kernel.capget() != (keep, keep, 0):
        raise CannotDrop("privilege-mismatch", "the launcher could not give up its own capabilities")
    return keep


def harden(
    keep: int, helpers: custody.Custody, names: dict[str, tuple[int, int]], *, no_new_privs: bool
) -> int:
    """As the only launcher, of root: end what an earlier one left, keep a few capabilities; return these.

    Args:
        keep: the capabilities.
        helpers: ours, none yet; uids of its pool that cannot be used are taken out.
        names: this machine's users, with uid and gid.
        no_new_privs: whether no program started from here may gain privilege by exec.

    Raises:
        CannotDrop: a helper's uid is somebody's, or the kernel does not do what was asked.
    """
    ours = range(helpers.ranges[0][0], helpers.ranges[2][-1] + 1) if helpers.ranges else range(0)
    taken = [name for name, ids in names.items() if ids[0] in ours or ids[1] in ours]
    if taken:
        text = f"uids {ours[0]} to {ours[-1]} are for helpers, but used by {', '.join(taken)}: change those or uid_pool"
        raise CannotDrop("not-permitted", text)
    helpers.empty_pool()
    if helpers.folder:
        cgroup.clear(helpers.folder)
    return shrink(keep, no_new_privs=no_new_privs)


def runtime_dir(
    options: dict[str, str], configured: str | None, ids: tuple[int, int] | None
) -> tuple[list[str], str]:
    """Return the supervisor's option that says where its sockets are; as root, make that directory its own.

    Without root the supervisor finds a place by itself.

    Returns:
        The option, and the directory if it was made here: to be removed at the end.
    """
    path, made = options.get("--runtime-dir"), ""
    if ids:
        path = path or os.environ.get("RUNTIME_DIRECTORY") or configured or "/run/helperd"
        try:
            os.mkdir(path, 0o755)
            made = path
            os.chown(path, *ids, follow_symlinks=False)
        except FileExistsError:
            pass  # ours from before, or a unit's; not ours to give away
    return [f"--runtime-dir={path}"] if path else [], made


def listen(path: str, gid: int, old: int) -> socket.socket:
    """Make the launcher's own listening socket, root:gid 0660; gid -1: the caller's own. ``old`` may listen there: a
    launcher that never runs again.

    The node is born with its group and mode: changing them afterwards, by name, could reach another file.

    Raises:
        UnavailableError: "socket-in-use", or something else has that name; OSError: it cannot be made.
    """
    if os.path.lexists(path):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise UnavailableError("usage", f"{path} exists and is no socket: name another place")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
            if probe.connect_ex(path) != errno.ECONNREFUSED and not (old and peer(probe)[0] == old):
                raise UnavailableError("socket-in-use", f"somebody listens at {path} already")
        os.unlink(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    before, own = os.umask(0), os.getegid()
    try:
        os.fchmod(sock.fileno(), 0o660)
        if gid >= 0:
            os.setegid(gid)
        sock.bind(path)
    finally:
        os.setegid(own)
        os.umask(before)
    sock.listen(16)
    return sock


def inherited(number: int | str, *, listening: bool) -> socket.socket:
    """Take over a socket we were started with.

    Raises:
        UnavailableError: it is no unix SEQPACKET socket, or not (or already) listening.
    """
    try:
        fd = int(number)
        sock = socket.socket(fileno=fd)
        os.set_inheritable(fd, False)  # noqa: FBT003
        kinds = sock.family, sock.type, sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except (OSError, ValueError) as error:
        raise UnavailableError("usage", f"descriptor {number}: {error}") from None
    if kinds != (socket.AF_UNIX, socket.SOCK_SEQPACKET, int(listening)):
        word = "listening" if listening else "connected"
        raise UnavailableError("usage", f"descriptor {fd} is no {word} unix socket of type SEQPACKET")
    return sock


def from_systemd() -> socket.socket:
    """Take over the socket of helperd-launcher.socket.

    Raises:
        UnavailableError: we were not started by it.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        text = "no socket from systemd: start helperd-launcher.socket, or use --listen"
        raise UnavailableError("usage", text)
    return inherited(3, listening=True)


def peer(sock: socket.socket) -> tuple[int, int, frozenset[int]]:
    """Return pid, uid and all gids of whoever made the connection, as the kernel noted them then.

    Somebody with more than 256 groups counts with the primary one only.
    """
    pid, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    try:
        data = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 1024)
    except OSError as error:
        if error.errno not in {errno.ERANGE, errno.ENOPROTOOPT}:
            raise
        data = b""
    return pid, uid, frozenset({gid, *struct.unpack(f"{len(data) // 4}I", data)})
