"""One connection of the launcher: packets in, packets out.

Descriptors that come with a request are somebody else's, and to hold one means to wait for its end: of a socket that
lingers, of a file whose file system does not answer. So they are never received here. A request is looked at where it
lies; a child takes it: the one that becomes the helper, or one that ends with it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
from collections import deque
from typing import NamedTuple

QUESTIONS = 4  # of each profile at once, for list and probe
UNLIMITED = 1 << 16  # the pool is smaller
MOST_CLIENTS, MOST_OF_UID, MOST_OF_RULE = 64, 16, 32  # connections
LATE = -1  # no child can take its request now
MOST_QUEUED = 400  # packets in a socket: its buffer has 208 KiB, and each takes 768 bytes of it at least


class Packet(NamedTuple):
    """What a look at a request shows: its bytes, whether descriptors come with it, and the errno of one too long."""

    data: bytes
    carries: bool
    cut: int


class Client:
    """Who is at the other end, what it may start, and what is still to be sent to it.

    Attributes:
        uid: -1: ours alone, its end is the launcher's end.
        gids: its groups when it connected.
        quotas: how many helpers at once of which profile, counted over all connections of its uid, and over all uids
            that have it by the same rule; None: any.
        ready: it has sent a PING.
        strikes: malformed requests so far.
        taker: pid of the child that takes its next request, before which nothing is read; 0: none is to; or ``LATE``.
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
        self.strikes = self.taker = 0
        self.out: deque[tuple[bytes, int]] = deque()  # a packet, and a descriptor to go with it or -1

    def share(self, profile: int, question: int) -> tuple[int, int, str]:
        """How many helpers of a profile it may have at once, and all of its rule's group; as many for questions."""
        if self.quotas is None:
            return UNLIMITED, UNLIMITED, ""
        most, together, rule = self.quotas.get(profile, (0, 0, ""))
        return min(most, 1) * QUESTIONS if question else most, together, rule

    @property
    def rules(self) -> set[str]:
        """The groups by whose rules it may start something."""
        return {rule for _, _, rule in (self.quotas or {}).values() if rule}

    def crowded(self, others: list[Client]) -> str:
        """Why there is no place for it beside others; empty: there is. Who may start everything has its own places."""
        like = [other for other in others if (other.quotas is None) == (self.quotas is None)]
        if sum(other.uid == self.uid for other in like) >= MOST_OF_UID or len(like) >= MOST_CLIENTS:
            return "too many connections"
        full = [r for r in self.rules if sum(r in other.rules for other in like) >= MOST_OF_RULE]
        return f"the group {full[0]} has {MOST_OF_RULE} connections" if full else ""

    @property
    def wants(self) -> int:
        """What to wait for: room while something is to be sent, a request unless a child takes one."""
        return select.POLLOUT if self.out else 0 if self.taker else select.POLLIN

    def peek(self, size: int) -> Packet | None:
        """Look at the next request and leave it there; None when there is none yet, empty data at the end."""
        try:
            data, _, flags, _ = self.sock.recvmsg(size + 1, 0, socket.MSG_PEEK)
        except BlockingIOError:
            return None
        except OSError:
            return Packet(b"", carries=False, cut=0)
        return Packet(data, bool(flags & socket.MSG_CTRUNC), errno.EMSGSIZE * (len(data) > size))

    def skip(self) -> None:
        """Take the next request away, which has no descriptors."""
        with contextlib.suppress(OSError):
            self.sock.recv(1)

    def put(self, packet: bytes, fd: int = -1) -> None:
        """Queue a packet; the descriptor is duplicated. Bounded by one reply and two events per helper."""
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

    def close(self) -> bool:
        """End the connection; what was queued is gone. False when the end of its socket is not ours to wait for:
        something with descriptors has come and was not taken.
        """
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        for _, fd in self.out:
            if fd >= 0:
                os.close(fd)
        self.out.clear()
        for _ in range(MOST_QUEUED):  # an empty packet looks like the end, so what looks like the end is none
            packet = self.peek(0)
            if packet and packet.carries:
                return False
            self.skip()
        self.sock.close()
        return True
