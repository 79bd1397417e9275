"""Where a stream is: the path of a unix socket, or ``tcp:HOST:PORT``."""

from __future__ import annotations

import os
import socket

from helperd.errors import UnavailableError


def parse(address: str | os.PathLike[str]) -> tuple[int, str | tuple[str, int]]:
    """Say what to connect to: address family, and the address as the socket module wants it.

    Raises:
        ValueError: a TCP address without a port.
    """
    text = os.fspath(address)
    if not text.startswith("tcp:"):
        return socket.AF_UNIX, text
    host, _, port = text[4:].rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal():
        raise ValueError(f'{text}: write "tcp:HOST:PORT"')
    return socket.AF_INET6 if ":" in host else socket.AF_INET, (host, int(port))


def unavailable(address: str | os.PathLike[str], error: OSError) -> UnavailableError:
    """The error that says that nobody serves the address."""
    return UnavailableError(
        "not-available",
        f"no stream at {os.fspath(address)}: {error.strerror or error}; does helperd run there?",
    )
