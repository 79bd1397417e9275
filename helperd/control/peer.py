"""Who is at the other end of a unix socket, and who may change things."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from helperd.errors import HelperdError

if TYPE_CHECKING:
    import trio

SO_PEERGROUPS: Final = 59
"""From Linux's asm-generic/socket.h; Python has no name for it. The groups of the peer when it connected."""
_PYTHON_BYTES: Final = 1024
"""What socket.getsockopt takes at most: 256 groups."""
_MAX_GROUPS: Final = 65536
"""What Linux gives a process at most (NGROUPS_MAX)."""


@dataclass(frozen=True, slots=True)
class Peer:
    """The process that connected, as the kernel noted it then."""

    pid: int
    uid: int
    gid: int


def peer_of(sock: socket.socket | trio.socket.SocketType) -> Peer:
    """The peer's credentials (SO_PEERCRED of unix(7))."""
    return Peer(*struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)))


def groups_of(sock: socket.socket | trio.socket.SocketType, peer: Peer) -> frozenset[int]:
    """All of the peer's groups; its first one alone where the kernel does not tell the others."""
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, _PYTHON_BYTES)
    except OSError as error:
        raw = _very_many_groups(sock.fileno()) if error.errno == errno.ERANGE else b""
    return frozenset({peer.gid, *struct.unpack(f"{len(raw) // 4}I", raw)})


def _very_many_groups(fd: int) -> bytes:
    """The same for more groups than Python's own call takes."""
    import ctypes

    found = ctypes.create_string_buffer(4 * _MAX_GROUPS)
    size = ctypes.c_uint(len(found))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.getsockopt(fd, socket.SOL_SOCKET, SO_PEERGROUPS, found, ctypes.byref(size)) != 0:
        return b""
    return found.raw[: size.value]


class Policy(Protocol):
    """Who may change things."""

    @property
    def who(self) -> str:
        """Those who may, for the sentence that refuses the others."""

    def __call__(self, uid: int, gids: frozenset[int]) -> bool:
        """Whether a caller may."""


@dataclass(frozen=True, slots=True)
class Admins:
    """The usual policy: root, one's own user, and the members of one group.

    Attributes:
        owners: their user ids.
        group: name for people; empty when there is no such group.
        gid: its number, -1 when there is none.
    """

    owners: frozenset[int]
    group: str = ""
    gid: int = -1

    @classmethod
    def of(cls, group: str | None) -> Admins:
        """Root, this process' user, and a group given by name or number.

        Raises:
            HelperdError: "bad-value", there is no such group.
        """
        owners = frozenset({0, os.geteuid()})
        if not group:
            return cls(owners)
        if group.isdecimal():
            return cls(owners, group, int(group))
        try:
            return cls(owners, group, grp.getgrnam(group).gr_gid)
        except KeyError:
            raise HelperdError(
                "bad-value",
                f"admin_group: no group {group!r} on this machine; make it with groupadd --system",
            ) from None

    @property
    def who(self) -> str:
        """Those who may, for the sentence that refuses the others."""
        owners = " and ".join(map(_name, sorted(self.owners)))
        if self.gid < 0:
            return f"{owners}: sudo does it, or name an admin_group in helpers.toml(5)"
        return f"{owners} and members of the group {self.group!r}"

    def __call__(self, uid: int, gids: frozenset[int]) -> bool:
        """Whether a caller may change things."""
        return uid in self.owners or self.gid in gids


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
