"""Where the sockets are: one answer for the daemon that makes them and the clients that look for them.

Rules:
  1. Standard library only; a client pays for this import at every start.
  2. The daemon uses ``default_runtime_dir``, then ``claim_runtime_dir``, at its end ``leave_runtime_dir``; a client
     ``find_runtime_dir``.
  3. A directory is believed only if it is ours or root's and nobody else can write it.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from helperd.errors import HelperdError, UnavailableError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SYSTEM_DIR = "/run/helperd"
SESSIONS = "/run/user"
TEMPORARY = "/tmp"  # noqa: S108 - looked at before it is used; not $TMPDIR, which is another for each process
MAX_HOME = 60
"""Bytes of a home directory in which paths of sockets are still short enough."""
LAUNCHER_SOCKET = "/run/helperd-launcher/socket"
"""Where the installed launcher listens: in a directory of root's alone, so that nobody else can take its name."""
CONTROL_SOCKET = "control.sock"
ALL_SOCKET = "all.sock"
ALL_FRAMES_SOCKET = "all.frames.sock"
ALL_JSONL_SOCKET = "all.jsonl.sock"
SOURCES_DIR = "sources"
MAX_PATH = 107
"""Bytes in a unix socket path, from unix(7): 108 with the final zero."""
NO_WAY = ("no-daemon", "not-permitted")
"""Problems with which no daemon can be asked, but perhaps the launcher."""


def default_runtime_dir() -> str:
    """The directory a daemon of this user uses when none is given.

    Returns:
        ``$RUNTIME_DIRECTORY`` (the first of its colon-separated list), else ``/run/helperd`` as root, else
        ``helperd`` in this user's session directory (``$XDG_RUNTIME_DIR``, or ``/run/user/UID`` where the variable is
        missing), else ``.helperd`` in the home directory. These are directories that nobody else can make things in,
        and the same for all of a user's processes, whatever their environment. Without any of them: ``helperd-UID`` in
        ``/tmp``, which somebody else can take first; it is not believed then. The directory need not exist.
    """
    given = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if given:
        return given
    if os.geteuid() == 0:
        return SYSTEM_DIR
    for session in (os.environ.get("XDG_RUNTIME_DIR", ""), f"{SESSIONS}/{os.geteuid()}"):
        if os.path.isabs(session) and _own(session):
            return os.path.join(session, "helperd")
    import pwd  # seldom needed

    try:
        home = pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        home = ""
    if os.path.isabs(home) and len(os.fsencode(home)) <= MAX_HOME and _own(home):
        return os.path.join(home, ".helperd")
    return f"{TEMPORARY}/helperd-{os.geteuid()}"


def find_runtime_dir(given: str | None = None) -> str:
    """The directory of the daemon that a client means.

    Args:
        given: what ``--runtime-dir`` said; it wins.

    Returns:
        This user's own directory when a control socket is in it, else the system daemon's when one is there,
        else this user's own.

    Raises:
        UnavailableError: "unsafe-file", the own directory is somebody else's, and there is no system daemon.
    """
    if given:
        return given
    own = default_runtime_dir()
    if own == SYSTEM_DIR:
        return own
    there = os.path.lexists(own)
    fault = _fault(own) if there else ""
    if there and not fault and os.path.exists(os.path.join(own, CONTROL_SOCKET)):
        return own
    if os.path.exists(os.path.join(SYSTEM_DIR, CONTROL_SOCKET)):
        return SYSTEM_DIR
    if fault:
        raise UnavailableError("unsafe-file", f"{own}: {fault}; name the right one with --runtime-dir")
    return own


def claim_runtime_dir(path: str, mode: int = 0o755) -> list[str]:
    """Make the daemon's directory and its ``sources`` below it, or accept what is there.

    Args:
        path: the directory; its parents are not made.
        mode: of a directory made here. Sockets have their own modes; 0o711 hides their names.

    Returns:
        What was made, for ``leave_runtime_dir``.

    Raises:
        HelperdError: "no-runtime-dir" (cannot be made or written), "unsafe-file" (others can change it).
    """
    fix = "; choose another with --runtime-dir or runtime_dir in [helperd]"
    left = ": if another user's helperd has left it behind, remove it"
    made = []
    for directory in (path, os.path.join(path, SOURCES_DIR)):
        try:
            os.mkdir(directory, mode)
            made.append(directory)
            os.chmod(directory, mode)  # a strict umask must not lock consumers out
        except FileExistsError:
            pass
        except OSError as error:
            raise HelperdError("no-runtime-dir", f"cannot make {directory}: {error.strerror}{fix}") from error
        if not os.path.isdir(directory) or not os.access(directory, os.W_OK | os.X_OK):
            text = f"{directory} is not a directory this user can write{left}{fix}"
            raise HelperdError("no-runtime-dir", text)
        fault = _fault(directory)
        if fault:
            raise HelperdError("unsafe-file", f"{directory}: {fault}{left}{fix}")
    return made


def leave_runtime_dir(made: Sequence[str]) -> None:
    """Remove what a run has made, the last first; a directory that holds anything else stays."""
    for path in reversed(made):
        with suppress(OSError):
            (os.rmdir if os.path.isdir(path) else os.unlink)(path)


def _own(directory: str) -> bool:
    """Whether a directory is this user's, and nobody else can make anything in it."""
    try:
        found = os.stat(directory)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def _fault(path: str) -> str:
    """What makes a directory untrustworthy; empty when nothing does."""
    try:
        found = os.lstat(path)
    except OSError as error:
        return error.strerror or "cannot be looked at"
    if stat.S_ISLNK(found.st_mode):
        resolved = os.stat(path)
        if found.st_uid not in {0, os.geteuid()}:
            return f"is a link made by uid {found.st_uid}"
        found = resolved
    if found.st_uid not in {0, os.geteuid()}:
        return f"belongs to uid {found.st_uid}"
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        return "everybody can write it"
    return ""
