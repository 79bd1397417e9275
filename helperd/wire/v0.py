"""Generation v0: a 12-byte header with a checksum, and a protobuf wrapper that names the command.

    0 signature, 4 checksum of the payload, 8 length, 12 payload: Command {command, seqno, content}

Rules:
  1. The checksum is Kismet's own, not zlib's; it is checked unless the scanner is told not to.
  2. The word that tells the generations apart is the checksum here, so v0 claims every frame and is asked
     last. Once a conversation is v0 and nothing else is allowed, a checksum that looks like another
     generation's word is only a checksum (kismet-protocol.md, S37).

Layout and checksum: kismet-protocol.md, sections 1.1 and 1.4.
"""

from __future__ import annotations

import struct
import sys
from itertools import accumulate
from typing import TYPE_CHECKING, Final, cast

from helperd.errors import RemoteProtocolError
from helperd.wire.frames import HEAD, SIGNATURE, ControlFrame, Kind, Run, packets_of
from helperd.wire.pbpackets import quick, varint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from helperd.wire import frames
    from helperd.wire.frames import Generation, Scan
    from helperd.wire.messages import DataReport, Message

name: Final = "v0"
number: Final = 0
header: Final = 12
receiver_limit: Final = 8191
"""Servers of 2020 to 2022 refuse a frame of 8192 bytes (kismet-protocol.md, 1.8)."""

_SCAN = struct.Struct(">III16s").unpack_from
_LENGTH = struct.Struct(">I").unpack_from
_SIGNATURE: Final = SIGNATURE.to_bytes(4, "big")
_DATA: Final = b"\x0a\x0dKDSDATAREPORT\x10"
"""How the wrapper of a data report starts: field 1, 13 characters, field 2."""
_SENTINELS: Final = (0xABCD, 0xA9A9)


def checksum(payload: bytes) -> int:
    """Kismet's sum over a payload: two running sums from 0, modulo 2**32; below 4 bytes it is 0."""
    if len(payload) < 4:
        return 0
    return (sum(payload) & 0xFFFF) + (sum(accumulate(payload)) << 16) & 0xFFFFFFFF


def claims(word: int) -> bool:
    """Every word can be a checksum."""
    return 0 <= word <= 0xFFFFFFFF


def scan(data: bytes, start: int, at: int, scan: Scan, out: list[Run | ControlFrame]) -> int:
    """Cut v0 frames out of ``data``; the contract is ``Generation.scan``."""
    position = first = start
    frames = 0
    before = -1
    end = len(data)
    limit = scan.max_frame - 12
    verify = scan.verify
    alone = len(scan.allowed) == 1
    while end - position >= 12:
        if end - position >= 28:
            signature, word, length, head = _SCAN(data, position)
        else:
            signature, word, length = HEAD.unpack_from(data, position)
            head = b""
        stop = position + 12 + length
        if signature != SIGNATURE or stop > end or length > limit or (not alone and _foreign(scan, word)):
            break
        try:
            if verify:
                _verify(data, position, stop, word, at)
            if head == _DATA and length >= 16:
                frames += 1
                if length == before and alone and not verify:
                    more = _alike(data, stop, 12 + length)
                    frames += more
                    stop += more * (12 + length)
                before = length
                position = stop
                continue
            frame = _unwrap(data, position, stop, at)
        except RemoteProtocolError:
            if frames:
                out.append(Run(Kind.PACKETS, data, first, position, frames, frames))
            raise
        if frame.command == "KDSDATAREPORT":
            frames += 1
            position = stop
            continue
        if frames:
            out.append(Run(Kind.PACKETS, data, first, position, frames, frames))
            frames = 0
        out.append(frame)
        position = first = stop
    if frames:
        out.append(Run(Kind.PACKETS, data, first, position, frames, frames))
    return position


def _alike(data: bytes, at: int, step: int) -> int:
    """How many whole data reports from ``at`` on have the size of the one before them; see ``frames.alike``."""
    first = at
    head = data[at - step + 8 : at - step + 28]
    while data[at + 8 : at + 28] == head and data[at : at + 4] == _SIGNATURE:
        at += step
    return (at - first) // step - (at > len(data))


def _foreign(scan: Scan, word: int) -> bool:
    """Whether another generation that is allowed here claims the frame."""
    return any(other.name != name and other.claims(word) for other in scan.allowed)


def _verify(data: bytes, position: int, stop: int, word: int, at: int) -> None:
    right = checksum(data[position + 12 : stop])
    if right != word:
        problem, text = "bad-checksum", f"the checksum is {word:08x}, the payload's is {right:08x}"
        if word in (0xABCD0002, 0xA9A90003):
            problem, text = (
                "wrong-generation",
                f"a frame with generation word {word:08x} came where v0 was expected",
            )
        elif word >> 16 in _SENTINELS:
            problem, text = (
                "bad-version",
                f"frame version {word & 0xFFFF} is unknown, and as a checksum it is wrong",
            )
        raise RemoteProtocolError(
            problem, text, at=at + position, excerpt=data[position : min(stop, position + 64)]
        )


def _unwrap(data: bytes, position: int, stop: int, at: int) -> ControlFrame:
    """Open the wrapper, in general."""
    from helperd.wire import pbcodec
    from helperd.wire.pb import core_pb2

    try:
        wrapper = pbcodec.parse(core_pb2.Command, data[position + 12 : stop])
    except pbcodec.Malformed as error:
        raise RemoteProtocolError(
            "bad-payload",
            f"v0 wrapper: {error}",
            at=at + position,
            excerpt=data[position : min(stop, position + 64)],
        ) from None
    command = wrapper.command.decode("latin-1")
    return ControlFrame(_SELF, command, 0, wrapper.seqno, wrapper.content, at + position)


def is_report(_data: bytes) -> bool:
    """False: there is a checksum to be looked at; the contract is ``Generation.is_report``."""
    return False


def decode(frame: ControlFrame) -> Message:
    """Say what a control frame means; the contract is ``Generation.decode``."""
    from helperd.wire import pbcodec

    try:
        return pbcodec.decode(str(frame.command), frame.seqno, frame.payload)
    except pbcodec.Malformed as error:
        raise RemoteProtocolError(
            "bad-payload", f"v0 {frame.command}: {error}", at=frame.at, excerpt=frame.payload
        ) from None


def encode(message: Message, seqno: int) -> bytes:
    """One whole frame; the contract is ``Generation.encode``."""
    from helperd.wire import pbcodec
    from helperd.wire.pb import core_pb2

    command, content = pbcodec.encode(name, message)
    wrapper = core_pb2.Command(command=command.encode("ascii"), seqno=seqno & 0xFFFFFFFF, content=content)
    payload: bytes = wrapper.SerializeToString()
    return HEAD.pack(SIGNATURE, checksum(payload), len(payload)) + payload


def _content(data: bytes, position: int, stop: int) -> tuple[int, int] | None:
    """Where the report of a data frame is, when the wrapper's fields are in their usual order; else None."""
    if data[position + 12 : position + 28] != _DATA:
        return None
    try:
        _, at = varint(data, position + 28)
        if data[at] != 0x1A:
            return None
        length, at = varint(data, at + 1)
    except (IndexError, ValueError):
        return None
    return (at, stop) if at + length == stop else None


def reports(run: Run) -> Iterator[DataReport]:
    """The data reports of a run, whole, with GPS and JSON; the slow and complete way.

    Raises:
        RemoteProtocolError: "bad-payload"; ``at`` counts from the start of ``run.data``.
    """
    data, position = run.data, run.start
    while position < run.stop:
        stop = position + 12 + _LENGTH(data, position + 8)[0]
        yield cast("DataReport", decode(_unwrap(data, position, stop, 0)))
        position = stop


def packets_general(run: Run) -> Iterator[frames.Packet]:
    """The packets of a run by the general decoder; what ``packets`` is measured against."""
    return packets_of(reports(run))


def records(run: Run) -> Iterator[frames.Packet | DataReport]:
    """What the frames of a run hold; the contract is ``Generation.records``."""
    data, position, end = run.data, run.start, run.stop
    while position < end:
        stop = position + 12 + _LENGTH(data, position + 8)[0]
        content = _content(data, position, stop)
        found = None if content is None else quick(data, *content)
        if found is not None:
            yield found
        else:
            yield from reports(Run(run.kind, data, position, stop, 1, 1))
        position = stop


def packets(run: Run) -> Iterator[frames.Packet]:
    """The packets of a run; the contract is ``Generation.packets``."""
    return packets_of(records(run))


def blocks(run: Run) -> Iterator[tuple[int, tuple[memoryview, ...], int, int]]:
    """Nothing: v0 has no bulk frames."""
    return iter(())


_SELF: Final = cast("Generation", sys.modules[__name__])
"""This module is the generation."""
