"""Streams for plain code: generators that block until the next packet comes."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import TYPE_CHECKING, Final

from helperd.client.address import parse, unavailable
from helperd.client.packets import PacketReader
from helperd.relay import RecordReader

if TYPE_CHECKING:
    import os
    from collections.abc import Generator, Iterator

    from helperd.client.packets import Packet
    from helperd.relay import Record

_READ: Final = 256 << 10


def packets(
    address: str | os.PathLike[str], reader: PacketReader | None = None
) -> Generator[Packet, None, None]:
    """Packets of a pcapng socket, until helperd ends the stream; connects at the first ``next``.

    Args:
        address: path of a unix socket, or ``tcp:HOST:PORT``.
        reader: hand one in to see interfaces and losses.

    Raises:
        UnavailableError: nobody serves the address, or (problem "busy") there is no place there.
        RemoteProtocolError: what came is no pcapng.
    """
    reader = PacketReader() if reader is None else reader
    for data in _reads(address):
        yield from reader.feed(data)


def records(
    address: str | os.PathLike[str], reader: RecordReader | None = None
) -> Generator[Record, None, None]:
    """Records of a frames socket, until helperd ends the stream; arguments and errors as ``packets``."""
    reader = RecordReader() if reader is None else reader
    for data in _reads(address):
        yield from reader.feed(data)


def _reads(address: str | os.PathLike[str]) -> Iterator[bytes]:
    family, where = parse(address)
    with closing(socket.socket(family, socket.SOCK_STREAM)) as sock:
        try:
            sock.connect(where)
        except OSError as error:
            raise unavailable(address, error) from error
        while data := _receive(sock):
            yield data


def _receive(sock: socket.socket) -> bytes:
    try:
        return sock.recv(_READ)
    except ConnectionResetError:
        return b""
