"""The frames format: helper frames as they came, in runs with a small header each. Pure.

::

    stream   = preface record record ...
    preface  = "HDFRAMES"  version u32 = 1  size of a record header u32 = 40             16 bytes
    record   = kind u32  length u32  source u32  incarnation u32
               first u64  packets u32  frames u32  lost u64                              40 bytes, then ``length`` bytes

    kind 1  SOURCE   lines ``key=value`` about the source, before its first run and whenever they change
    kind 2  PACKETS  a run of data frames, each with one packet at most
    kind 3  BULK     a run of frames of the bulk extension
    kind 4  LOSS     no bytes: ``lost`` packets of the source will not come any more
    kind 5  REFUSED  text: why this reader is not served; the last record

Rules:
  1. Everything is little-endian and fixed; a reader skips kinds it does not know by their length.
  2. ``first`` counts a source's packets over all its incarnations from 0. Whoever keeps ``first + packets`` sees every
     gap, whoever started it.
  3. ``lost`` is what this consumer lost of this source since the record before, because it read too slowly.

For consumers, docs/protocol.md says the same with an example.
"""

from __future__ import annotations

import enum
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from helperd.errors import RemoteProtocolError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAGIC: Final = b"HDFRAMES"
VERSION: Final = 1
PREFACE: Final = struct.Struct("<8sII")
HEADER: Final = struct.Struct("<IIIIQIIQ")
MAX_LENGTH: Final = 64 << 20
"""Bytes that a reader believes a record to have; ours are never longer than a read, 1 MiB and a frame."""


class Kind(enum.IntEnum):
    """What a record holds."""

    SOURCE = 1
    PACKETS = 2
    BULK = 3
    LOSS = 4
    REFUSED = 5


class Record(NamedTuple):
    """One record as read.

    Attributes:
        kind: a ``Kind``, or an unknown number.
        source: number of the source, given once in a daemon's life.
        incarnation: which life of the source's helper, from 1.
        first: number of the first packet.
        packets: how many packets.
        frames: how many frames.
        lost: packets lost before this record.
        body: the frames, or the lines of a SOURCE record.
    """

    kind: int
    source: int
    incarnation: int
    first: int
    packets: int
    frames: int
    lost: int
    body: bytes

    def fields(self) -> dict[str, str]:
        """The lines of a SOURCE record."""
        lines = self.body.decode("utf-8", "replace").splitlines()
        return {key: value for key, _, value in (line.partition("=") for line in lines)}


def preface() -> bytes:
    """What a stream begins with."""
    return PREFACE.pack(MAGIC, VERSION, HEADER.size)


def source_record(source: int, incarnation: int, fields: Mapping[str, str]) -> bytes:
    """A SOURCE record; line ends inside values become spaces, empty values are left out."""
    lines = [f"{key}={' '.join(value.splitlines())}\n" for key, value in fields.items() if value]
    body = "".join(lines).encode("utf-8", "replace")
    return HEADER.pack(Kind.SOURCE, len(body), source, incarnation, 0, 0, 0, 0) + body


def run_header(
    kind: Kind, nbytes: int, source: int, incarnation: int, first: int, packets: int, frames: int
) -> bytes:
    """The header of a run, for consumers that lost nothing before it."""
    return HEADER.pack(kind, nbytes, source, incarnation, first & (1 << 64) - 1, packets, frames, 0)


def with_loss(header: bytes, lost: int) -> bytes:
    """The same header for a consumer that lost packets before this run."""
    return header[:-8] + lost.to_bytes(8, "little")


def loss_record(source: int, lost: int) -> bytes:
    """A LOSS record, for the end of a stream."""
    return HEADER.pack(Kind.LOSS, 0, source, 0, 0, 0, 0, lost)


def refusal(why: str) -> bytes:
    """A whole stream, for a reader that is not served."""
    body = why.encode("utf-8", "replace")
    return preface() + HEADER.pack(Kind.REFUSED, len(body), 0, 0, 0, 0, 0, 0) + body


class RecordReader:
    """Cuts a stream into records.

    Attributes:
        at: offset in the stream of the next byte to come.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._begun = False
        self._header = HEADER.size
        self.at = 0

    @property
    def pending(self) -> int:
        """Bytes held of an unfinished record."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Record]:
        """Take bytes as they came, cut anywhere; return what is complete.

        Raises:
            RemoteProtocolError: "bad-stream"; this is no frames stream, or one of another version.
            UnavailableError: "busy"; helperd does not serve this reader, and says why.
        """
        buffer = self._buffer
        buffer += data
        start = 0
        records = []
        if not self._begun:
            if len(buffer) < PREFACE.size:
                return []
            start = self._begin()
        view = memoryview(buffer)
        try:
            while len(buffer) - start >= self._header:
                kind, length, source, incarnation, first, packets, frames, lost = HEADER.unpack_from(
                    buffer, start
                )
                if length > MAX_LENGTH:
                    raise self._refused(f"a record of {length} bytes", start)
                stop = start + self._header + length
                if stop > len(buffer):
                    break
                body = bytes(view[start + self._header : stop])
                if kind == Kind.REFUSED:
                    raise UnavailableError("busy", body.decode("utf-8", "replace"))
                records.append(Record(kind, source, incarnation, first, packets, frames, lost, body))
                start = stop
        finally:
            view.release()
        self.at += start
        del buffer[:start]
        return records

    def _begin(self) -> int:
        magic, version, header = PREFACE.unpack_from(self._buffer)
        if magic != MAGIC:
            raise self._refused(f"a frames stream starts with {MAGIC!r}, not {magic!r}", 0)
        if version != VERSION or not HEADER.size <= header <= 4096:
            raise self._refused(f"version {version} with headers of {header} bytes is unknown", 0)
        self._begun = True
        self._header = header
        return PREFACE.size

    def _refused(self, text: str, start: int) -> RemoteProtocolError:
        excerpt = bytes(self._buffer[start : start + 64])
        return RemoteProtocolError("bad-stream", text, at=self.at + start, excerpt=excerpt)
