"""Generation v2: a 48-byte header with the command's name in it, and a protobuf message.

    0 signature, 4 sentinel and version, 8 length, 12 command, NUL padded to 32 bytes, 44 seqno, 48 payload

Rules:
  1. A command ends at its first NUL; what pads it is never compared, because servers leave garbage there.
  2. There is no checksum.

Layout: kismet-protocol.md, section 1.2.
"""

from __future__ import annotations

import struct
import sys
from typing import TYPE_CHECKING, Final, cast

from helperd.errors import RemoteProtocolError
from helperd.wire.frames import PACKETS, ControlFrame, Run, alike, packets_of, run_of
from helperd.wire.messages import Ping
from helperd.wire.pbpackets import quick

if TYPE_CHECKING:
    from collections.abc import Iterator

    from helperd.wire import frames
    from helperd.wire.frames import Generation, Scan
    from helperd.wire.messages import DataReport, Message

name: Final = "v2"
number: Final = 2
header: Final = 48
receiver_limit: Final = 8191
"""Servers of 2022 refuse a frame of 8192 bytes (kismet-protocol.md, 1.8)."""

WORD: Final = 0xABCD0002
_MAGIC: Final = 0xDECAFBAD_ABCD0002
_SCAN = struct.Struct(">QI14s").unpack_from
_HEADER = struct.Struct(">QI32sI")
_LENGTH = struct.Struct(">I").unpack_from
_DATA: Final = b"KDSDATAREPORT\0"


def claims(word: int) -> bool:
    """Whether a frame's second 32-bit word is v2's."""
    return word == WORD


def scan(data: bytes, start: int, at: int, scan: Scan, out: list[Run | ControlFrame]) -> int:
    """Cut v2 frames out of ``data``; the contract is ``Generation.scan``."""
    position = first = start
    frames = 0
    before = -1
    end = len(data)
    last = end - 48
    limit = scan.max_frame - 48
    while position <= last:
        magic, length, command = _SCAN(data, position)
        stop = position + 48 + length
        if magic != _MAGIC or stop > end or length > limit:
            break
        if command == _DATA:
            frames += 1
            if length == before:
                more = alike(data, stop, 48 + length, 26)
                frames += more
                stop += more * (48 + length)
            before = length
            position = stop
            continue
        if frames:
            out.append(run_of((PACKETS, data, first, position, frames, frames)))
            frames = 0
        _, _, field, seqno = _HEADER.unpack_from(data, position)
        text = field.partition(b"\0")[0].decode("latin-1")
        out.append(ControlFrame(_SELF, text, 0, seqno, data[position + 48 : stop], at + position))
        position = first = stop
    if frames:
        out.append(run_of((PACKETS, data, first, position, frames, frames)))
    return position


def is_report(data: bytes) -> bool:
    """Whether it is one v2 data report; the contract is ``Generation.is_report``."""
    if len(data) < 48:
        return False
    magic, length, command = _SCAN(data)
    return bool(command == _DATA and magic == _MAGIC and length + 48 == len(data))


def decode(frame: ControlFrame) -> Message:
    """Say what a control frame means; the contract is ``Generation.decode``."""
    if frame.command == "PING":
        return Ping(
            seqno=frame.seqno
        )  # the greeting, which every v3 helper gets, must not cost it protobuf's import
    from helperd.wire import pbcodec

    try:
        return pbcodec.decode(str(frame.command), frame.seqno, frame.payload)
    except pbcodec.Malformed as error:
        raise RemoteProtocolError(
            "bad-payload", f"v2 {frame.command}: {error}", at=frame.at, excerpt=frame.payload
        ) from None


def encode(message: Message, seqno: int) -> bytes:
    """One whole frame; the contract is ``Generation.encode``."""
    from helperd.wire import pbcodec

    command, payload = pbcodec.encode(name, message)
    return _HEADER.pack(_MAGIC, len(payload), command.encode("ascii"), seqno & 0xFFFFFFFF) + payload


def reports(run: Run) -> Iterator[DataReport]:
    """The data reports of a run, whole, with GPS and JSON; the slow and complete way.

    Raises:
        RemoteProtocolError: "bad-payload"; ``at`` counts from the start of ``run.data``.
    """
    from helperd.wire import pbcodec

    data, position = run.data, run.start
    while position < run.stop:
        stop = position + 48 + _LENGTH(data, position + 8)[0]
        try:
            report = pbcodec.decode(pbcodec.DATA, 0, data[position + 48 : stop])
        except pbcodec.Malformed as error:
            raise RemoteProtocolError(
                "bad-payload", f"v2 KDSDATAREPORT: {error}", at=position, excerpt=data[position:stop]
            ) from None
        yield cast("DataReport", report)
        position = stop


def packets_general(run: Run) -> Iterator[frames.Packet]:
    """The packets of a run by the general decoder; what ``packets`` is measured against."""
    return packets_of(reports(run))


def records(run: Run) -> Iterator[frames.Packet | DataReport]:
    """What the frames of a run hold; the contract is ``Generation.records``."""
    data, position, end = run.data, run.start, run.stop
    while position < end:
        stop = position + 48 + _LENGTH(data, position + 8)[0]
        found = quick(data, position + 48, stop)
        if found is not None:
            yield found
        else:
            yield from reports(Run(run.kind, data, position, stop, 1, 1))
        position = stop


def packets(run: Run) -> Iterator[frames.Packet]:
    """The packets of a run; the contract is ``Generation.packets``."""
    return packets_of(records(run))


def blocks(run: Run) -> Iterator[tuple[int, tuple[memoryview, ...], int, int]]:
    """Nothing: v2 has no bulk frames."""
    return iter(())


_SELF: Final = cast("Generation", sys.modules[__name__])
"""This module is the generation."""
