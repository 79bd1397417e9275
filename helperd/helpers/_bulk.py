"""The writer for helperd itself: ready pcapng blocks, many in a frame, nanosecond stamps kept.

Rules:
  1. A bulk frame holds packets of one link type, that of the open report. Packets of another, and packets
     with a signal or a position, go as data reports between two bulk frames, in order, with microseconds.
  2. Of the two batches, blocks and data reports, one is always empty: the other leaves before it is begun.
  3. Blocks are laid out here in one step; ``pcapng.packet_block`` says what they are, a test compares.

Source of facts: the handshake and the frame are in docs/protocol.md and ``helperd.wire.bulk``.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from helperd.helpers._writer import BATCH, V3Writer
from helperd.pcapng import ENHANCED_HEAD, ENHANCED_PACKET, LENGTH, PADDING
from helperd.wire import bulk
from helperd.wire.messages import CHANGES, Changed, Lost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from helperd.helpers._port import Port
    from helperd.helpers._writer import Encode
    from helperd.wire.messages import Gps, Message, Signal


class BulkWriter(V3Writer):
    """Writes bulk frames.

    Args:
        interface: the number the supervisor gave the source's interface.
    """

    def __init__(
        self,
        port: Port,
        send: Callable[[Message], None],
        encode: Encode,
        *,
        dlt: int,
        limit: int,
        interface: int,
        next_seqno: Callable[[], int],
    ) -> None:
        super().__init__(port, send, encode, dlt=dlt, limit=limit, next_seqno=next_seqno)
        self._interface = interface
        self._blocks: list[bytes] = []
        self._tails: dict[int, tuple[int, bytes]] = {}

    def packet(
        self,
        data: bytes,
        timestamp_ns: int | None = None,
        *,
        dlt: int | None = None,
        original: int | None = None,
        signal: Signal | None = None,
        gps: Gps | None = None,
    ) -> None:
        if signal is not None or gps is not None or (dlt is not None and dlt != self.dlt):
            if self._blocks:
                with self._port.lock:
                    self.seal()
            super().packet(data, timestamp_ns, dlt=dlt, original=original, signal=signal, gps=gps)
            return
        if self._parts:
            with self._port.lock:
                self.seal()
        size = len(data)
        if original is None:
            original = size
        if size > self._room:
            size = self._room
            data = self._shorten(data)
        if timestamp_ns is None:
            timestamp_ns = time.time_ns()
        known = self._tails.get(size)
        if known is None:
            known = self._tail(size)
        total, tail = known
        head = ENHANCED_HEAD.pack(
            ENHANCED_PACKET,
            total,
            self._interface,
            timestamp_ns >> 32,
            timestamp_ns & 0xFFFFFFFF,
            size,
            original,
        )
        self._blocks.append(head + data + tail)
        self._appended(total)

    def packets(self, captured: Iterable[Sequence[Any]]) -> None:
        own, room, number = self.dlt, self._room, self._interface
        pack, tails = ENHANCED_HEAD.pack, self._tails
        blocks: list[bytes] = []
        bytes_ = 0
        for dlt, stamp, data, original in captured:
            size = len(data)
            if dlt != own or size > room or stamp is None or self._parts:
                self._take(blocks, bytes_)
                blocks, bytes_ = [], 0
                self.packet(data, stamp, dlt=dlt, original=original)
                continue
            total, tail = tails.get(size) or self._tail(size)
            head = pack(ENHANCED_PACKET, total, number, stamp >> 32, stamp & 0xFFFFFFFF, size, original)
            blocks.append(head + data + tail)
            bytes_ += total
            if bytes_ >= BATCH:
                self._take(blocks, bytes_)
                blocks, bytes_ = [], 0
        self._take(blocks, bytes_)

    def _take(self, blocks: list[bytes], size: int) -> None:
        """Append whole blocks to the batch, in one step."""
        if blocks:
            self._blocks += blocks
            self.written += len(blocks) - 1
            self._appended(size)

    def _tail(self, size: int) -> tuple[int, bytes]:
        """Length of the block of a packet of this size, and what stands behind its bytes."""
        padding = PADDING[size & 3]
        total = 32 + size + len(padding)
        if len(self._tails) >= 2048:
            self._tails.clear()
        known = self._tails[size] = (total, padding + LENGTH.pack(total))
        return known

    def lost(self, packets: int, reason: str = "kernel") -> None:
        self.count(packets, reason)

    def count(self, packets: int, word: str) -> None:
        super().count(packets, word)
        if packets:
            self._send(Changed(word, packets) if word in CHANGES else Lost(word, packets))

    def lease(self) -> tuple[Port, int, Callable[[], int]]:
        """What somebody needs who lays out bulk frames himself: the port, the interface number, the numbers of
        frames.

        ``seal`` comes first, and the port's lock is held until the frame is written or queued.
        """
        return self._port, self._interface, self._next_seqno

    @property
    def batched(self) -> bool:
        return bool(self._blocks or self._parts)

    def seal(self) -> None:
        blocks = self._blocks
        taken = len(blocks)
        if taken:
            self._port.put(bulk.encode(blocks[:taken], self._next_seqno()))
            del blocks[:taken]
        super().seal()
