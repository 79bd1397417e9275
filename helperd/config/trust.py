"""Files that must be trusted: opened component by component, judged by descriptor, and that very descriptor
is used.

Trusted owners are root and, for a launcher without root, its own user; no switch changes that. Nothing
between the check and the use can be exchanged, because nothing is opened twice.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
import struct
import sys
from typing import TYPE_CHECKING

from helperd.errors import RequestRefused

if TYPE_CHECKING:
    from helperd.config.profile import Profile


def unsafe(path: str, text: str, number: int = errno.EKEYREJECTED) -> RequestRefused:
    """Return the refusal of a file."""
    return RequestRefused("unsafe-file", f"{path} {text}", errno=number)


@functools.cache
def roots_face() -> int:
    """The uid that root's files seem to have: 0, except where a user has made a user namespace for itself alone.

    There the user is called something, and everybody else, root included, has the overflow uid (user_namespaces(7)).
    Nobody in there has more rights over the files outside than the user.
    """
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            lines = [[int(word) for word in line.split()] for line in file]
        if len(lines) != 1 or lines[0][1] == 0 or lines[0][2] != 1:
            return 0
        with open("/proc/sys/kernel/overflowuid", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError, IndexError):
        return 0


def judge(path: str, status: os.stat_result, *, root: bool, cure: str = "") -> None:
    """Refuse what somebody untrusted owns or may write; ``cure`` is what to do when it is somebody else's.

    Without root a sticky directory (/tmp) and the caller's own primary group are trusted too: both are its
    usual home.

    Raises:
        RequestRefused: "unsafe-file", EKEYREJECTED, or ELOOP for a symbolic link.
    """
    mode = status.st_mode
    if stat.S_ISLNK(mode):
        venv = os.path.dirname(os.path.dirname(path))
        made = f"make {venv} with python3 -m venv --copies" if os.path.exists(f"{venv}/pyvenv.cfg") else ""
        raise unsafe(path, f"is a symbolic link: {made or f'write {os.path.realpath(path)}'}", errno.ELOOP)
    if status.st_uid != 0 and (root or status.st_uid not in {os.geteuid(), roots_face()}):
        who = "root" if os.geteuid() == 0 else "root or you"
        cure = cure or f"what is used here has to be in a directory of {who}"
        raise unsafe(path, f"belongs to uid {status.st_uid}, not to {who}: {cure}")
    sticky = not root and stat.S_ISDIR(mode) and bool(mode & stat.S_ISVTX)
    own_group = not root and status.st_gid == os.getegid()
    if (mode & stat.S_IWOTH and not sticky) or (mode & stat.S_IWGRP and not sticky and not own_group):
        cure = "chmod go-w it"
        if mode & stat.S_ISVTX and stat.S_ISDIR(mode):
            cure = "move what is used below it to a directory of root's (/opt, /srv)"
        raise unsafe(path, f"can be written by others: {cure}")


def open_checked(path: str, *, root: bool, flags: int = os.O_PATH) -> int:
    """Open a regular file whose every directory only trusted users can change.

    Args:
        path: absolute; without root symbolic links are resolved first, as root they are refused.
        root: trust nobody but root.
        flags: for the file itself.

    Raises:
        RequestRefused: "unsafe-file" (see ``judge``) or "not-installed" (the errno of open).
    """
    path = path if root else os.path.realpath(path)
    here, name = os.open("/", os.O_PATH | os.O_CLOEXEC), ""
    cure = "make a copy of your own"
    if os.geteuid() == 0:
        copy = f"copy it, sudo install -m 755 {path} /usr/local/bin/, and name the copy"
        cure = "run helperd as that user, without sudo" if flags == os.O_RDONLY else copy
    try:
        judge("/", os.fstat(here), root=root)
        parts = [part for part in path.split("/") if part]
        for position, part in enumerate(parts, 1):
            name += f"/{part}"
            judge(name, os.stat(part, dir_fd=here, follow_symlinks=False), root=root, cure=cure)
            step = flags if position == len(parts) else os.O_PATH | os.O_DIRECTORY
            down = os.open(part, step | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=here)
            os.close(here)
            here = down
            judge(name, os.fstat(here), root=root, cure=cure)
        if not stat.S_ISREG(os.fstat(here).st_mode):
            raise unsafe(path, "is not a regular file", errno.EISDIR)
    except OSError as error:
        os.close(here)
        number = error.errno or errno.EIO
        if number == errno.EACCES:
            number = errno.EHOSTUNREACH  # EACCES is the answer to who has no rule
        raise RequestRefused("not-installed", f"{name}: {os.strerror(number)}", errno=number) from None
    except RequestRefused:
        os.close(here)
        raise
    return here


def open_text(path: str, *, root: bool) -> int:
    """Open a configuration file for reading; as ``open_checked``."""
    return open_checked(path, root=root, flags=os.O_RDONLY)


def check_folder(path: str, *, root: bool) -> None:
    """Refuse a directory for a socket of ours that anybody else can change, or give its name to another one.

    Args:
        path: absolute.
        root: without root nothing is refused: what the caller may write is the caller's business.

    Raises:
        RequestRefused: "unsafe-file", naming the first directory from the top; OSError: it does not exist.
    """
    parts = [part for part in path.split("/") if part]
    for number in range(len(parts) + 1 if root else 0):
        name = "/" + "/".join(parts[:number])
        judge(name, os.lstat(name), root=True)


def file_capabilities(fd: int) -> int:
    """Return the permitted file capabilities of an open program as a bit mask; 0 when it has none.

    Layout: struct vfs_cap_data of linux/capability.h.
    """
    try:
        data = os.getxattr(f"/proc/self/fd/{fd}", "security.capability")
    except OSError:
        return 0
    high = struct.unpack_from("<I", data, 12)[0] if len(data) >= 20 else 0
    return int(struct.unpack_from("<I", data, 4)[0] | high << 32)


def _fit(profile: Profile, fd: int) -> None:
    """Refuse a program whose privilege bits are not what its profile says."""
    mode, owner, granted = os.fstat(fd).st_mode, os.fstat(fd).st_uid, file_capabilities(fd)
    text = ""
    if profile.privilege == "ambient" and granted and profile.no_new_privs:
        text = 'has file capabilities, which void the declared ones: setcap -r it, or privilege = "file"'
    elif profile.privilege == "file" and not granted:
        text = 'has no file capabilities, but its profile says privilege = "file"'
    elif profile.privilege == "file" and profile.no_new_privs and granted & ~profile.want:
        text = f"has file capabilities beyond the declared ones (mask {granted & ~profile.want:#x})"
    elif profile.privilege == "suid" and not (mode & stat.S_ISUID and owner == 0):
        text = 'is not set-user-ID root, but its profile says privilege = "suid"'
    if text:
        raise RequestRefused("privilege-mismatch", f"{profile.program} {text}", errno=errno.EUCLEAN)


def open_program(profile: Profile, *, root: bool) -> tuple[int, tuple[str, ...]]:
    """Open what a profile executes; a script's interpreter in its place, since ``#!`` does not work by
    descriptor.

    Returns:
        The descriptor to execute and its argument vector.

    Raises:
        RequestRefused: as ``open_checked``; ENOEXEC not executable or a bad interpreter, EUCLEAN its
        privilege bits.
    """
    if profile.script:
        os.close(open_checked(profile.script, root=root))
    fd = open_checked(profile.program, root=root)
    try:
        if not os.fstat(fd).st_mode & 0o111:
            raise RequestRefused("exec-failed", f"{profile.program} is not executable", errno=errno.ENOEXEC)
        try:
            with open(f"/proc/self/fd/{fd}", "rb") as file:
                head = file.readline(256)
        except PermissionError:
            head = b""  # executable but not readable: no script could run so
        if not head.startswith(b"#!"):
            _fit(profile, fd)
            return fd, profile.argv
        words = os.fsdecode(head[2:]).strip().split(None, 1)
        if not words or not words[0].startswith("/") or profile.privilege != "ambient":
            text = f"{profile.program}: a script needs #!/absolute/path, and the ambient privilege"
            raise RequestRefused("exec-failed", text, errno=errno.ENOEXEC)
        interpreter = open_checked(os.path.realpath(words[0]), root=root)
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return interpreter, (*words, profile.program, *profile.argv[1:])


def loaded_files() -> list[str]:
    """Return every file this process, its children and the helpers of ours run code from, what was compiled of it
    included, and every directory above one, shortest first.
    """
    files = {
        getattr(each, n, None) for each in list(sys.modules.values()) for n in ("__file__", "__cached__")
    }
    for folder, _, names in os.walk(os.path.dirname(os.path.dirname(__file__))):
        files |= {f"{folder}/{name}" for name in names}
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        files |= {words[5].rstrip("\n") for line in maps if len(words := line.split(None, 5)) == 6}
    found = {os.path.realpath(file) for file in files if file and file.startswith("/")}
    for file in list(found):
        while file != "/":
            file = os.path.dirname(file)
            found.add(file)
    return sorted(filter(os.path.exists, found))


def check_closure() -> None:
    """As root: refuse to go on when anybody else can change a file of ours, or one this process has loaded.

    Raises:
        RequestRefused: "unsafe-file", naming the first one.
    """
    script = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))) + "/scripts/install"
    cure = f"as root use an installed copy: sudo {script}" if os.path.exists(script) else ""
    for path in loaded_files():
        judge(path, os.stat(path), root=True, cure=cure)
