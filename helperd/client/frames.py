"""A run of the frames format, frame by frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from helperd.errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from helperd.relay import Record

_HEADERS: Final = {"v3": 20, "v2": 48, "v0": 12}
"""Bytes of a frame's header; its length field is at offset 8 in all of them, big-endian."""


def split_frames(record: Record, generation: str) -> Iterator[bytes]:
    """The frames of a run, whole, header included.

    Args:
        record: of kind PACKETS or BULK.
        generation: as the source's SOURCE record says: "v3", "v2" or "v0".

    Raises:
        RemoteProtocolError: "bad-stream"; the lengths do not add up.
    """
    header = _HEADERS[generation]
    body = record.body
    at = 0
    while at < len(body):
        stop = at + header + int.from_bytes(body[at + 8 : at + 12], "big")
        if stop > len(body):
            raise RemoteProtocolError(
                "bad-stream", "a run ends inside a frame", at=at, excerpt=body[at : at + 64]
            )
        yield body[at:stop]
        at = stop
