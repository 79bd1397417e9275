"""Streams for trio: asynchronous context managers that give an iterator."""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from helperd.client.address import parse, unavailable
from helperd.client.packets import PacketReader
from helperd.relay import RecordReader

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, AsyncIterator

    from helperd.client.packets import Packet
    from helperd.relay import Record

_READ: Final = 256 << 10


@asynccontextmanager
async def packets(
    address: str | os.PathLike[str], reader: PacketReader | None = None
) -> AsyncIterator[AsyncGenerator[Packet, None]]:
    """Connect; inside, iterate over the packets until helperd ends the stream.

    Args:
        address: path of a unix socket, or ``tcp:HOST:PORT``.
        reader: hand one in to see interfaces and losses.

    Raises:
        UnavailableError: nobody serves the address, or (problem "busy") there is no place there.
        RemoteProtocolError: what came is no pcapng.
    """
    async with _connected(address) as sock, aclosing(_packets(sock, reader or PacketReader())) as found:
        yield found


@asynccontextmanager
async def records(
    address: str | os.PathLike[str], reader: RecordReader | None = None
) -> AsyncIterator[AsyncGenerator[Record, None]]:
    """Connect; inside, iterate over the records of a frames socket; arguments and errors as ``packets``."""
    async with _connected(address) as sock, aclosing(_records(sock, reader or RecordReader())) as found:
        yield found


async def _packets(sock: trio.socket.SocketType, reader: PacketReader) -> AsyncGenerator[Packet, None]:
    while data := await _receive(sock):
        for packet in reader.feed(data):
            yield packet


async def _records(sock: trio.socket.SocketType, reader: RecordReader) -> AsyncGenerator[Record, None]:
    while data := await _receive(sock):
        for record in reader.feed(data):
            yield record


async def _receive(sock: trio.socket.SocketType) -> bytes:
    try:
        return await sock.recv(_READ)
    except ConnectionResetError:
        return b""


@asynccontextmanager
async def _connected(address: str | os.PathLike[str]) -> AsyncIterator[trio.socket.SocketType]:
    family, where = parse(address)
    sock = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    with sock:
        try:
            await sock.connect(where)
        except OSError as error:
            raise unavailable(address, error) from error
        yield sock
