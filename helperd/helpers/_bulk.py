"""The writer for helperd itself: ready pcapng blocks, many in a frame, nanosecond stamps and options kept.

Rules:
  1. A bulk frame holds packets of one link type. A packet of another one ends the frame; the number of its interface is
     asked for when it comes first, and waited for.
  2. Signal and position stand in the block's comment, in the words that helperd itself would put there.
  3. Blocks are laid out here in one step; ``pcapng.packet_block`` says what they are, a test compares.
  4. Who may not wait (``offer``) sends packets as data reports, with microseconds, until the number has come. Of the
     two batches, blocks and data reports, one is always empty: the other leaves before it is begun.
  5. Packets of a link type that helperd refuses are counted as lost.

Source of facts: the handshake and the frame are in docs/protocol.md and ``helperd.wire.bulk``.
"""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING, Any

from helperd.errors import HelperdError
from helperd.helpers._options import MAX_OPTIONS, sound
from helperd.helpers._writer import BATCH, V3Writer
from helperd.pcapng import ENHANCED_HEAD, ENHANCED_PACKET, LENGTH, PADDING, comments
from helperd.wire import bulk
from helperd.wire.beside import describe
from helperd.wire.messages import CHANGES, Changed, Json, Lost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from helperd.helpers._port import Port
    from helperd.helpers._writer import Encode
    from helperd.wire.messages import Gps, Message, Signal

_END_OF_OPTIONS = bytes(4)
_MAX_COMMENTS = 4096  # comments kept of signals, which come again
_MANY = 1000  # packets lost after which this is told at once, not with the next batch
_LAST_DLT = 0xFFFF
REFUSED = -1
"""In place of an interface number: packets of that link type are not taken."""


class BulkWriter(V3Writer):
    """Writes bulk frames.

    Args:
        number_of: called with a link type and whether to wait: asks helperd once for the number of its interface.
            Returns that, ``REFUSED``, or None while the answer has not come.
    """

    def __init__(
        self,
        port: Port,
        send: Callable[[Message], None],
        encode: Encode,
        *,
        dlt: int,
        limit: int,
        number_of: Callable[[int, bool], int | None],
        next_seqno: Callable[[], int],
    ) -> None:
        super().__init__(port, send, encode, dlt=dlt, limit=limit, next_seqno=next_seqno)
        self._number_of = number_of
        self._current: int | None = None  # link type of the blocks in the batch
        self._interface = -1  # and the number of its interface
        self._blocks: list[bytes] = []
        self._tails: dict[int, tuple[int, bytes]] = {}
        self._comments: dict[Signal, bytes] = {}
        self._untold = 0

    def packet(
        self,
        data: bytes,
        timestamp_ns: int | None = None,
        *,
        dlt: int | None = None,
        original: int | None = None,
        signal: Signal | None = None,
        gps: Gps | None = None,
        options: bytes = b"",
    ) -> None:
        if dlt is None:
            dlt = self.dlt
        if dlt != self._current:
            number = self._turn_to(dlt)
            if number is None:
                super().packet(
                    data, timestamp_ns, dlt=dlt, original=original, signal=signal, gps=gps, options=options
                )
                return
            if number == REFUSED:
                self._lose()
                return
        size = len(data)
        if original is None:
            original = size
        room, extra = self._room, b""
        if options or signal is not None or gps is not None:
            extra = self._comment(signal, gps) + options
            room = self._room_beside(extra)
        if size > room:
            size = room
            data = self._shorten(data, room)
        if timestamp_ns is None:
            timestamp_ns = time.time_ns()
        if extra:
            total, tail = self._tail_with(size, extra)
        else:
            total, tail = self._tails.get(size) or self._tail(size)
        try:
            head = ENHANCED_HEAD.pack(
                ENHANCED_PACKET,
                total,
                self._interface,
                timestamp_ns >> 32,
                timestamp_ns & 0xFFFFFFFF,
                size,
                original,
            )
        except struct.error:
            stamp, length = self._possible(timestamp_ns, original)
            if (stamp, length) == (timestamp_ns, original):
                raise  # it was another number
            options += b"" if stamp == timestamp_ns else comments(f"time stamp {timestamp_ns} ns since 1970")
            self.packet(data, stamp, dlt=dlt, original=length, signal=signal, gps=gps, options=options)
            return
        self._blocks.append(head + data + tail)
        self._appended(total)

    def _turn_to(self, dlt: int) -> int | None:
        """Let the next blocks be of a link type; returns what ``number_of`` does.

        Both batches leave first. Where there is no number the next packet comes here again.

        Raises:
            ValueError: it cannot be one; asked for it, helperd would refuse the whole channel.
        """
        if not 0 <= dlt <= _LAST_DLT:
            raise ValueError(f"{dlt} is no link type: they are numbers from 0 to {_LAST_DLT}")
        with self._port.lock:
            self.seal()
        number = self._number_of(dlt, self._patient)
        if number is None or number == REFUSED:
            self._current = None
        else:
            self._current, self._interface = dlt, number
        return number

    def _comment(self, signal: Signal | None, gps: Gps | None) -> bytes:
        """Signal and position as an option; signals come again, places hardly."""
        if signal is None or gps is not None:
            return b"" if gps is None else comments(describe(signal, gps))
        known = self._comments.get(signal)
        if known is None:
            if len(self._comments) >= _MAX_COMMENTS:
                self._comments.clear()
            known = self._comments[signal] = comments(describe(signal))
        return known

    def packets(self, captured: Iterable[Sequence[Any]]) -> None:
        room, current, number = self._room, self._current, self._interface
        pack, tails = ENHANCED_HEAD.pack, self._tails
        blocks: list[bytes] = []
        bytes_ = 0
        for dlt, stamp, data, original, options in captured:
            size = len(data)
            if (
                dlt != current
                or size > room
                or stamp is None
                or (options and size > self._room_beside(options))
            ):
                self._take(blocks, bytes_)
                blocks, bytes_ = [], 0
                self.packet(data, stamp, dlt=dlt, original=original, options=options)
                current, number = self._current, self._interface
                continue
            try:
                total, tail = (
                    self._tail_with(size, options) if options else tails.get(size) or self._tail(size)
                )
                head = pack(ENHANCED_PACKET, total, number, stamp >> 32, stamp & 0xFFFFFFFF, size, original)
            except (struct.error, ValueError):  # what no capture can say is mended there, or refused
                self._take(blocks, bytes_)
                blocks, bytes_ = [], 0
                self.packet(data, stamp, dlt=dlt, original=original, options=options)
                current, number = self._current, self._interface
                continue
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

    def _room_beside(self, options: bytes) -> int:
        """Bytes of a packet that fit into a block with these options, as readers take it whole."""
        if len(options) > MAX_OPTIONS:  # they will be left out
            return self._room
        return self._room - len(options) - len(_END_OF_OPTIONS)

    def _tail_with(self, size: int, options: bytes) -> tuple[int, bytes]:
        """The same of a block with options."""
        if len(options) > MAX_OPTIONS:
            self._leave_out_options(f"they have {len(options)} bytes, {MAX_OPTIONS} at most are taken")
            return self._tail(size)
        tail = PADDING[size & 3] + sound(options) + (_END_OF_OPTIONS if options else b"")
        total = 32 + size + len(tail)
        return total, tail + LENGTH.pack(total)

    def _json(self, kind: str, text: str, timestamp_ns: int) -> Json:
        sec, ns = divmod(timestamp_ns, 1_000_000_000)
        return Json(kind, text, sec, ns // 1000, ns % 1000)

    def _lose(self) -> None:
        """Count a packet whose link type helperd has refused."""
        self._untold += 1
        if self._untold >= _MANY:
            self.tell_refused()

    def tell_refused(self) -> None:
        super().tell_refused()
        if self._untold:
            untold, self._untold = self._untold, 0
            self.lost(untold, "link-type")

    def lost(self, packets: int, reason: str = "kernel") -> None:
        self.count(packets, reason)

    def count(self, packets: int, word: str) -> None:
        super().count(packets, word)
        if packets:
            self._send(Changed(word, packets) if word in CHANGES else Lost(word, packets))

    def lease(self) -> tuple[Port, int, Callable[[], int]]:
        """What somebody needs who lays out bulk frames himself: the port, the number of the interface that the open
        report is about, the numbers of frames.

        ``seal`` comes first, and the port's lock is held until the frame is written or queued.

        Raises:
            HelperdError: "not-supported"; there is no such number.
        """
        if self._turn_to(self.dlt) in {None, REFUSED}:
            text = f"helperd takes no packets of link type {self.dlt}: its source has had too many others"
            raise HelperdError("not-supported", text)
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
