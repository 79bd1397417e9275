"""Generation v3: a 20-byte header and a msgpack map with integer keys.

    0 signature, 4 sentinel and version, 8 length, 12 packet type, 14 result code, 16 seqno, 20 payload

Rules:
  1. The number of the request a report answers is read from the payload; the header's copy is only PONG's and
     ERROR's.
  2. Result codes: a list report succeeds with 0, every other report with non-zero (kismet-protocol.md, S1).
  3. Payloads of PING, PONG, the list and the token request are never looked at.

Layout and keys: kismet-protocol.md, sections 1.3 and 2.
"""

from __future__ import annotations

import struct
import sys
from typing import TYPE_CHECKING, Final, cast

from helperd.errors import RemoteProtocolError
from helperd.wire import bulk, v3codec
from helperd.wire.frames import PACKETS, ControlFrame, Kind, Run, alike, packets_of, run_of
from helperd.wire.mpack import Malformed, pack
from helperd.wire.v3codec import Type
from helperd.wire.v3packets import quick

if TYPE_CHECKING:
    from collections.abc import Iterator

    from helperd.wire import frames
    from helperd.wire.frames import Generation, Scan
    from helperd.wire.messages import DataReport, Message

name: Final = "v3"
number: Final = 3
header: Final = 20
receiver_limit: Final = 16383
"""Servers from 2025 on refuse a frame of 16384 bytes (kismet-protocol.md, S33)."""

WORD: Final = 0xA9A90003
_MAGIC: Final = 0xDECAFBAD_A9A90003
_HEADER = struct.Struct(">QIHHI")
_SCAN = struct.Struct(">QIH").unpack_from
_LENGTH = struct.Struct(">I").unpack_from


def claims(word: int) -> bool:
    """Whether a frame's second 32-bit word is v3's."""
    return word == WORD


def scan(data: bytes, start: int, at: int, scan: Scan, out: list[Run | ControlFrame]) -> int:
    """Cut v3 frames out of ``data``; the contract is ``Generation.scan``."""
    position = first = start
    frames = 0
    before = -1
    end = len(data)
    last = end - 20
    limit = scan.max_frame - 20
    while position <= last:
        magic, length, kind = _SCAN(data, position)
        stop = position + 20 + length
        if magic != _MAGIC or stop > end or length > limit:
            break
        if kind == 16:
            frames += 1
            if length == before:
                more = alike(data, stop, 20 + length, 14)
                frames += more
                stop += more * (20 + length)
            before = length
            position = stop
            continue
        if frames:
            out.append(run_of((PACKETS, data, first, position, frames, frames)))
            frames = 0
        if kind == bulk.TYPE and scan.bulk:
            packets = bulk.check(data, position + 20, stop, scan.bulk, at + position)
            out.append(Run(Kind.BULK, data, position, stop, 1, packets))
        else:
            _, _, _, code, seqno = _HEADER.unpack_from(data, position)
            out.append(ControlFrame(_SELF, kind, code, seqno, data[position + 20 : stop], at + position))
        position = first = stop
    if frames:
        out.append(run_of((PACKETS, data, first, position, frames, frames)))
    return position


def is_report(data: bytes) -> bool:
    """Whether it is one v3 data report; the contract is ``Generation.is_report``."""
    if len(data) < 20:
        return False
    magic, length, kind = _SCAN(data)
    return bool(kind == 16 and magic == _MAGIC and length + 20 == len(data))


def decode(frame: ControlFrame) -> Message:
    """Say what a control frame means; the contract is ``Generation.decode``."""
    if frame.command == Type.BULK:
        raise RemoteProtocolError(
            "not-allowed-now",
            "a bulk frame came, but no interface number is agreed",
            at=frame.at,
            excerpt=frame.payload,
        )
    try:
        return v3codec.decode(frame)
    except Malformed as error:
        raise RemoteProtocolError(
            "bad-payload", f"v3 {Type(int(frame.command)).name}: {error}", at=frame.at, excerpt=frame.payload
        ) from None


def encode(message: Message, seqno: int) -> bytes:
    """One whole frame; the contract is ``Generation.encode``.

    Args:
        message: what to say.
        seqno: number of the frame; PONG, ERROR and the probe, open and configure reports carry their
            request's.
    """
    kind, code, number, fields = v3codec.encode(message, seqno)
    payload = b"" if fields is None else pack(fields)
    return _HEADER.pack(_MAGIC, len(payload), kind, code, number & 0xFFFFFFFF) + payload


def encode_packet(content: bytes, dlt: int, sec: int, usec: int, original: int, seqno: int) -> bytes:
    """A data report with nothing but a packet, as C helpers send it; the quick way for the SDK.

    Args:
        content: captured bytes.
        dlt: libpcap link type.
        sec: seconds since 1970.
        usec: microseconds.
        original: length on the air in bytes.
        seqno: number of the frame.
    """
    payload = b"\x81\x04" + pack({1: dlt, 2: sec, 3: usec, 4: original, 6: content})
    return _HEADER.pack(_MAGIC, len(payload), 16, 0, seqno & 0xFFFFFFFF) + payload


def reports(run: Run) -> Iterator[DataReport]:
    """The data reports of a run, whole, with GPS and JSON; the slow and complete way.

    Raises:
        RemoteProtocolError: "bad-payload"; ``at`` counts from the start of ``run.data``.
    """
    data, position = run.data, run.start
    while position < run.stop:
        stop = position + 20 + _LENGTH(data, position + 8)[0]
        try:
            yield v3codec.decode_data(data[position + 20 : stop])
        except Malformed as error:
            raise RemoteProtocolError(
                "bad-payload", f"v3 PACKET: {error}", at=position, excerpt=data[position:stop]
            ) from None
        position = stop


def packets_general(run: Run) -> Iterator[frames.Packet]:
    """The packets of a run by the general decoder; what ``packets`` is measured against."""
    return packets_of(reports(run))


def records(run: Run) -> Iterator[frames.Packet | DataReport]:
    """What the frames of a run hold; the contract is ``Generation.records``.

    The layouts that C helpers and our SDK write are recognised by their constant bytes and read by offset;
    whatever differs goes to the general decoder.
    """
    data, position, end = run.data, run.start, run.stop
    while position < end:
        start = position + 20
        stop = start + _LENGTH(data, position + 8)[0]
        found = quick(data, start, stop)
        if found is not None:
            yield found
        else:
            yield from reports(Run(run.kind, data, position, stop, 1, 1))
        position = stop


def packets(run: Run) -> Iterator[frames.Packet]:
    """The packets of a run; the contract is ``Generation.packets``."""
    return packets_of(records(run))


def blocks(run: Run) -> Iterator[tuple[int, tuple[memoryview, ...], int, int]]:
    """The pcapng blocks of a bulk run; see ``bulk.blocks``."""
    return bulk.blocks(run)


_SELF: Final = cast("Generation", sys.modules[__name__])
"""This module is the generation."""
