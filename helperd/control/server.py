"""The control socket's server: who comes is looked at, and served, refused, or left to wait with the crowd.

Rules:
  1. A turn of the loop takes in a bounded number, and what cannot be served there costs no task: who has gone again,
     and who has all of a user's places and keeps coming.
  2. Root and the daemon's own user wait for nobody else's refusals.
"""

from __future__ import annotations

import errno
import socket
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import trio

from helperd.control.call import OWN, SERVICE, error_of
from helperd.control.connection import Limits, Service, hung_up, no_log, serve_one
from helperd.control.crowd import Crowd
from helperd.control.interface import load
from helperd.control.peer import Admins, Peer, Policy, groups_of, peer_of
from helperd.control.room import Room
from helperd.errors import HelperdError
from helperd.places import Entrance, Places, Rank

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from helperd.control.api import ControlApi

_AT_ONCE: Final = 512
_SERVED_AT_ONCE: Final = 64
"""Clients taken in within a turn of the loop, and those of them that get a task: others cost 20 us each."""
_SHORTAGE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})

PLACES: Final = Places("connections to control.sock", 1100, 128, 32, "[helperd] clients_per_user")
"""What is there for connections. When root and the daemon's own user have none, a silent one goes for them."""


async def _just(_name: str, work: Callable[[], Awaitable[object]]) -> None:
    """Nobody tends a task: its error is the server's."""
    await work()


def _waiting(listener: Any) -> Iterator[socket.socket]:
    """Who waits at a listener now: a crowd at the door costs few turns of the loop."""
    with (
        suppress(OSError),
        socket.fromfd(listener.socket.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as also,
    ):
        also.setblocking(False)  # noqa: FBT003 - the library's own signature
        for _ in range(_AT_ONCE):
            yield also.accept()[0]


def _rank(service: Service, sock: socket.socket, peer: Peer) -> Rank:
    if service.admin(peer.uid, frozenset()):
        return Rank.OWNER
    return Rank.ADMIN if service.admin(peer.uid, groups_of(sock, peer)) else Rank.READER


def _turned_away(service: Service, sock: socket.socket, peer: Peer, rank: Rank) -> bool:
    """Let one go, or wait, that needs no task: it has gone itself, or is one more of those who were refused."""
    if rank is Rank.READER and hung_up(sock.fileno()):
        sock.close()
        return True
    entrance = service.entrance
    if rank is Rank.OWNER or not (entrance.places.has_all(peer.uid) or entrance.places.full(rank)):
        return False
    told, now = service.told, trio.current_time()
    while told and told[0] <= now - service.limits.hold_s:
        told.popleft()
    if len(told) < service.limits.lingering:
        told.append(now)
        return False
    why = entrance.admit("control.sock", peer.uid, rank, above=False)
    service.refused += 1
    service.crowd.hold(sock, _refusal(why), now=not entrance.is_plenty(sock.fileno()))
    return True


@lru_cache(64)
def _refusal(why: str) -> bytes:
    return error_of(HelperdError("busy", why)).encode()


async def serve(
    listener: trio.abc.Listener[trio.SocketStream],
    daemon: ControlApi,
    *,
    admin: Policy | None = None,
    entrance: Entrance | None = None,
    limits: Limits | None = None,
    on_bug: Callable[[str, BaseException], None] = no_log,
    tend: Callable[[str, Callable[[], Awaitable[object]]], Awaitable[None]] = _just,
    task_status: trio.TaskStatus[Service] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the control socket until cancelled; then every connection is closed.

    Args:
        listener: of a unix socket; closed at the end, its path is the caller's to remove.
        daemon: answers. Functions of ``ReloadApi``, ``TuneApi`` and ``AddApi`` are used where it has them.
        admin: who may change things; None: root and this process' own user.
        entrance: where clients are let in; None: with ``PLACES``.
        limits: None: the defaults.
        on_bug: takes who, and an error of our own that one client has met.
        tend: keeps a task going, by its name, whatever ends it.
        task_status: started with the service's counters.
    """
    interfaces = {name: load(name) for name in (SERVICE, OWN)}
    async with listener, trio.open_nursery() as nursery:
        room = Room(daemon, nursery)
        entrance = entrance or Entrance(PLACES.copy())
        policy = admin or Admins.of(None)
        limits = limits or Limits()
        crowd = Crowd(limits.held, limits.hold_s)
        service = Service(room, policy, limits, interfaces, entrance, crowd, on_bug=on_bug)
        nursery.start_soon(tend, "the control server's changes", room.follow_changes)
        nursery.start_soon(tend, "the control server's messages", room.follow_news)
        nursery.start_soon(tend, "the control server's refusals", crowd.serve)
        task_status.started(service)

        def come(sock: socket.socket) -> bool:
            try:
                peer = peer_of(sock)
                rank = _rank(service, sock, peer)
                if not _turned_away(service, sock, peer, rank):
                    sock.setblocking(False)  # noqa: FBT003 - the library's own signature
                    stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
                    nursery.start_soon(serve_one, service, stream, peer, rank)
                    return True
            except Exception as error:  # noqa: BLE001 - one client's connection never ends another's
                sock.close()
                service.bug(error)
            return False

        async def accept() -> None:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as error:
                    if error.errno not in _SHORTAGE and error.errno != errno.ECONNABORTED:
                        raise
                    await trio.sleep(0.1)  # no descriptor is free; one may be soon
                else:
                    served: int = come(socket.socket(fileno=stream.socket.detach()))
                    for sock in _waiting(listener):
                        served += come(sock)
                        if served >= _SERVED_AT_ONCE:
                            break

        await tend("the control server", accept)
