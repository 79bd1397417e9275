"""One connection of the launcher: packets in, packets out, and every descriptor that travels with them
accounted for.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections import deque
from typing import NamedTuple

QUESTIONS = 4  # of each profile at once, for list and probe
UNLIMITED = 1 << 16  # the pool is smaller
MOST_FDS = 253  # in one packet: SCM_MAX_FD of the kernel
MOST_QUEUED = 400  # packets in a socket: its buffer has 208 KiB, and each takes 768 bytes of it at least


class Packet(NamedTuple):
    """What was read: the bytes, the descriptors (the reader's to close), and why something was cut off.

    ``cut`` is an errno: EMSGSIZE, it was too long, or had too many descriptors; EMFILE, we have no room for them; 0.
    """

    data: bytes
    fds: list[int]
    cut: int


def discard(fds: list[int]) -> None:
    """Close descriptors that somebody else has made; the end of a socket that lingers is not waited for."""
    for fd in fds:
        with contextlib.suppress(OSError):
            sock = socket.socket(fileno=fd)  # refused if it is none
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
            finally:
                sock.detach()
        os.close(fd)


class Client:
    """Who is at the other end, what it may start, and what is still to be sent to it.

    Attributes:
        uid: -1: ours alone, its end is the launcher's end.
        gids: its groups when it connected.
        quotas: how many helpers at once of which profile, counted over all connections of its uid, and over all uids
            that have it by the same rule; None: any.
        ready: it has sent a PING.
        strikes: malformed requests so far.
    """

    def __init__(
        self,
        sock: socket.socket,
        name: str,
        uid: int,
        quotas: dict[int, tuple[int, int, str]] | None = None,
        gids: frozenset[int] = frozenset(),
    ) -> None:
        sock.setblocking(False)  # noqa: FBT003
        self.sock = sock
        self.name = name
        self.uid = uid
        self.quotas = quotas
        self.gids = gids
        self.ready = False
        self.strikes = 0
        self.out: deque[tuple[bytes, int]] = deque()  # a packet, and a descriptor to go with it or -1

    def share(self, profile: int, question: int) -> tuple[int, int, str]:
        """How many helpers of a profile it may have at once, all of its rule's users, and the rule's group.

        For questions as well as besides them.
        """
        if self.quotas is None:
            return UNLIMITED, UNLIMITED, ""
        most, together, rule = self.quotas.get(profile, (0, 0, ""))
        return min(most, 1) * QUESTIONS if question else most, together, rule

    def receive(self, size: int, max_fds: int) -> Packet | None:
        """Read one packet; None when there is none yet, empty data at the end."""
        try:
            space = socket.CMSG_SPACE(max_fds * struct.calcsize("i"))
            data, control, flags, _ = self.sock.recvmsg(size + 1, space, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return None
        except OSError:
            return Packet(b"", [], 0)
        fds: list[int] = []
        for level, kind, body in control:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds += struct.unpack(f"{len(body) // 4}i", body[: len(body) // 4 * 4])
        if flags & socket.MSG_CTRUNC and not flags & socket.MSG_TRUNC and len(fds) < max_fds:
            return Packet(data, fds, errno.EMFILE)
        return Packet(data, fds, errno.EMSGSIZE if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC) else 0)

    def put(self, packet: bytes, fd: int = -1) -> None:
        """Queue a packet; the descriptor is duplicated. Bounded by one reply and two events per running
        helper.
        """
        self.out.append((packet, os.dup(fd) if fd >= 0 else -1))

    def flush(self) -> bool:
        """Send what the socket takes; False when the other end is gone."""
        try:
            while self.out:
                packet, fd = self.out[0]
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", fd))] if fd >= 0 else []
                self.sock.sendmsg([packet], rights, socket.MSG_NOSIGNAL)
                self.out.popleft()
                if fd >= 0:
                    os.close(fd)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True

    def close(self) -> None:
        """End the connection; what was queued is gone, what has come and was not read too."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        for _ in range(MOST_QUEUED):  # an empty packet looks like the end, so what looks like the end is none
            packet = self.receive(0, MOST_FDS)
            discard(packet.fds if packet else [])
        self.sock.close()
        for _, fd in self.out:
            if fd >= 0:
                os.close(fd)
        self.out.clear()
