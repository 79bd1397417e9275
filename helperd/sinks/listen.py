"""Listening sockets: unix paths bound safely, with mode and group, and TCP addresses; a path goes with its socket."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import trio

from helperd.errors import SinkError
from helperd.runtime import MAX_PATH

BACKLOG: Final = 4096
"""Consumers that may be waiting to be accepted; a unix socket refuses more at once (the kernel caps it: somaxconn)."""


@dataclass(slots=True)
class UnixListener:
    """A bound unix stream socket, and its path."""

    path: str
    socket: trio.socket.SocketType
    inode: tuple[int, int]
    mode: int
    group: str | None
    closed: bool = False

    @property
    def is_there(self) -> bool:
        """Whether who looks for its path finds this socket."""
        try:
            found = os.lstat(self.path)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self.inode

    def renew(self) -> None:
        """Bind another socket to the path, in the old one's place; who waits at that sees ClosedResourceError.

        Raises:
            SinkError: as ``listen_unix``; nothing has changed.
        """
        fresh = listen_unix(self.path, mode=self.mode, group=self.group)
        before, self.socket, self.inode = self.socket, fresh.socket, fresh.inode
        before.close()

    def close(self, *, unlink: bool = True) -> None:
        """Stop listening and remove the socket file; nothing the second time, for the path may be another's."""
        if self.closed:
            return
        self.closed = True
        self.socket.close()
        if unlink:
            self.unlink()

    def unlink(self) -> None:
        """Remove the socket file if it is still ours: nobody can come any more."""
        if self.is_there:
            with suppress(OSError):  # its directory is somebody else's by now
                os.unlink(self.path)


@dataclass(slots=True)
class TcpListener:
    """A bound TCP socket; ``path`` is its address as ``tcp:HOST:PORT``, with the port it really has."""

    path: str
    socket: trio.socket.SocketType
    closed: bool = False

    def close(self) -> None:
        """Stop listening."""
        self.closed = True
        self.socket.close()


def listen_tcp(host: str, port: int, *, backlog: int = BACKLOG) -> TcpListener:
    """Bind and listen on a TCP address; port 0 takes a free one.

    Raises:
        SinkError: "socket-in-use", "sink-failed" (no such address here, a port that needs privilege).
    """
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(backlog)
        listener.setblocking(False)  # noqa: FBT003 - the library's own signature
        port = listener.getsockname()[1]
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise SinkError(
                "socket-in-use", f"tcp:{where} is taken; stop who listens there, or choose another port"
            ) from error
        raise SinkError("sink-failed", f"cannot listen at tcp:{where}: {error.strerror}") from error
    name = f"tcp:[{host}]:{port}" if ":" in host else f"tcp:{host}:{port}"
    return TcpListener(name, trio.socket.from_stdlib_socket(listener))


def listen_unix(path: str, *, mode: int, group: str | None, backlog: int = BACKLOG) -> UnixListener:
    """Bind and listen on a unix stream socket.

    A socket file that nobody listens at is left from a killed daemon and is replaced.

    Raises:
        SinkError: "path-too-long", "socket-in-use", "sink-failed" (not a socket, no such directory, unknown group).
    """
    size = len(os.fsencode(path))
    if size > MAX_PATH:
        raise SinkError(
            "path-too-long",
            f"{path}: a unix socket path may have {MAX_PATH} bytes, this one has {size}; choose a shorter runtime "
            "directory with --runtime-dir",
        )
    _clear_stale(path)
    gid = group_id(group, path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        umask = os.umask(0o177)
        try:
            listener.bind(path)
        finally:
            os.umask(umask)
        if gid != -1:
            os.chown(path, -1, gid)
        os.chmod(path, mode)
        listener.listen(backlog)
        listener.setblocking(False)  # noqa: FBT003 - the library's own signature
        found = os.lstat(path)
    except OSError as error:
        listener.close()
        raise SinkError("sink-failed", f"cannot listen at {path}: {error.strerror}") from error
    inode = found.st_dev, found.st_ino
    return UnixListener(path, trio.socket.from_stdlib_socket(listener), inode, mode, group)


class Door(trio.abc.Listener[trio.SocketStream]):
    """Accepts at a unix socket, also when another one has taken its place."""

    def __init__(self, listener: UnixListener) -> None:
        self._listener = listener

    @property
    def socket(self) -> trio.socket.SocketType:
        """The one that listens now."""
        return self._listener.socket

    async def accept(self) -> trio.SocketStream:
        """The next connection.

        Raises:
            trio.ClosedResourceError: the listener is closed.
        """
        while True:
            sock = self._listener.socket
            try:
                return await trio.SocketListener(sock).accept()
            except trio.ClosedResourceError:
                if sock is self._listener.socket:
                    raise

    async def aclose(self) -> None:
        """Listen no more; the path stays."""
        self._listener.socket.close()
        await trio.lowlevel.checkpoint()


def group_id(group: str | None, path: str) -> int:
    """The number of a group by name or number, to which this process can give its files; -1 for None.

    Raises:
        SinkError: "sink-failed": there is no such group, or this process is not in it.
    """
    if group is None:
        return -1
    try:
        gid = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise SinkError(
            "sink-failed",
            f"{path}: no group {group!r} on this machine; add it, or name another in the configuration",
        ) from None
    if gid not in {os.getegid(), *os.getgroups()} and not _may_chown():
        user = _user_name()
        raise SinkError(
            "sink-failed",
            f"{path}: {user} is not in group {group!r} and cannot give files to it: usermod -aG {group} {user}, then "
            "start helperd anew; or name another group in the configuration",
        )
    return gid


def _may_chown() -> bool:
    """Whether this process may give files to groups it is not in (CAP_CHOWN, the lowest bit)."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        found = next((line for line in status if line.startswith("CapEff:")), "CapEff: 0")
    return bool(int(found.split()[1], 16) & 1)


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _clear_stale(path: str) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise SinkError("sink-failed", f"cannot look at {path}: {error.strerror}") from error
    if not stat.S_ISSOCK(found.st_mode):
        raise SinkError(
            "sink-failed", f"{path} exists and is not a socket; move it away or choose another path"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # noqa: FBT003 - the library's own signature
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError as error:
            if error.errno == errno.ENOENT:
                return
            if error.errno not in {errno.EAGAIN, errno.EINPROGRESS}:
                raise SinkError("sink-failed", f"cannot look at {path}: {error.strerror}") from error
    raise SinkError(
        "socket-in-use", f"a process already listens at {path}; stop it, or choose another --runtime-dir"
    )
