"""What ``capture`` writes to: packets, JSON, texts, batched into whole frames.

Rules:
  1. ``packet`` costs two appends; frames are joined, numbered and queued when a batch is full or 2 ms old.
  2. One list per batch for ever, emptied by slices from its front: appending a whole packet is one call that
     no other thread can cut in two, so the capture thread never takes the lock for a packet.
  3. What leaves, leaves in the order of the calls.
  4. A packet too long for the peer is cut; its true length stays in the frame. What leaves otherwise than it came, or
     not at all, is counted: in helperd's ledger, and for people the first time and at every tenfold.

The layout of a v3 data report, ready to pack: kismet-protocol.md, sections 1.3 and 2.5.3. Integers go in
their widest form, so that the frame has one layout.
"""

from __future__ import annotations

import struct
import time
from collections import Counter
from operator import index
from typing import TYPE_CHECKING, Any, Final

from helperd.helpers._page import counter
from helperd.helpers._port import HIGH_WATER, Port, Stopped
from helperd.pcapng import LAST_STAMP, MAX_CONTENT, MAX_LENGTH
from helperd.wire.messages import CHANGES, LOSSES, DataReport, Gps, Json, Packet, Severity, Signal, Text
from helperd.wire.record import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from helperd.wire.messages import Message

    Encode = Callable[[Message], bytes]

FRAME_BYTES = 51  # of a frame, about, besides the content
BATCH = 64 << 10  # bytes of content in a batch at most, before the last packet

_MAGIC = bytes.fromhex("decafbada9a90003")
_TYPE = b"\0\x10\0\0"  # data report, code 0
_FRAME = struct.Struct(">8sI4sI5sH2sI2sI2sI2sI")
_OVERHEAD = _FRAME.size - 20  # of the payload, besides the content
_HEADER = struct.Struct(">8sI4sI")
_PACKET = struct.Struct(">4sH2sI2sI2sI2sI")
_MAX_SIGNALS = 4096  # encoded signals kept

_LATE = 10**9 << 32  # nanoseconds: what the seconds of the usual layout do not hold

FOREIGN_V3_LIMIT = 16383  # bytes of a whole frame: what a Kismet server of 2023 and later takes
FOREIGN_OLD_LIMIT = 8191  # the same for the servers of 2020 to 2022, the strictest that speak v0 or v2
ENVELOPE = 512  # bytes kept free for everything in a frame but the content


ODD: Final = {
    "bad-record": "left out: what stands there can be no packet, and no JSON object",
    "bad-stamp": "with the nearest time that a capture can say in place of their own",
    "not-finite": "with null for a number that is none",
}
"""What reading a capture may find, for people."""


def is_round(number: int) -> bool:
    """Whether a count is one that people are told of: 1, 10, 100 and so on."""
    return str(number).rstrip("0") == "1"


class Writer:
    """The way of packets out of a helper. All methods may be called from any thread, ``packet`` from one.

    Args:
        port: where frames go.
        send: encodes and queues one message; takes the port's lock itself.
        encode: encodes one data report into a frame; called with the port's lock held.
        next_seqno: the number of the next frame; called with the port's lock held.
        dlt: link type of packets that do not name theirs.
        limit: longest frame the peer takes, in bytes.

    Attributes:
        written: packets taken; helperd sees the count too, also after a SIGKILL.
        cut: packets whose content was cut because the peer takes no longer frames.
        refused: packets that ``offer`` did not take.
        left_out: JSON records that ``json`` did not take.
    """

    def __init__(
        self, port: Port, send: Callable[[Message], None], encode: Encode, *, dlt: int, limit: int
    ) -> None:
        self._port = port
        self._send = send
        self._encode = encode
        self._room = min(limit - ENVELOPE, MAX_CONTENT)
        self._limit = limit
        self.dlt = dlt
        self.cut = 0
        self.refused = 0
        self.left_out = 0
        self._told = 0
        self._options_told = False
        self._odd: Counter[str] = Counter()
        self._patient = True
        self._page = counter()
        self.idle = True  # the main thread sleeps and must be woken for the next packet
        self._batched = 0

    @property
    def written(self) -> int:
        return self._page[0]

    @written.setter
    def written(self, packets: int) -> None:
        self._page[0] = packets

    # for authors

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
        """Send one packet; waits when the peer does not read fast enough.

        Args:
            data: the captured bytes.
            timestamp_ns: nanoseconds since 1970; None: now.
            dlt: libpcap link type; None: the one ``open`` named.
            original: length on the air or wire, in bytes; None: the length of ``data``.
            signal: what the radio knew of it.
            gps: where it was heard.
            options: what else is known of it: options of a pcapng packet block, as ``pcapng.comments`` and
                ``pcapng.flags`` make them. Only helperd takes them; another server has no place for them.

        Raises:
            Stopped: the helper is ending; let it pass.
        """
        raise NotImplementedError

    def offer(
        self,
        data: bytes,
        timestamp_ns: int | None = None,
        *,
        dlt: int | None = None,
        original: int | None = None,
        signal: Signal | None = None,
        gps: Gps | None = None,
        options: bytes = b"",
    ) -> bool:
        """Send one packet as ``packet`` does, but never wait: for a device that does not.

        Returns:
            Whether it was taken. When the peer does not read fast enough it is not: then it is counted, and the peer is
            told as soon as it reads again.

        Raises:
            Stopped: as ``packet``.
        """
        port = self._port
        if port.queued >= HIGH_WATER:
            port.drain()
            if port.queued >= HIGH_WATER and not port.broken:
                self.refused += 1
                if port.stopping.is_set():
                    raise Stopped
                return False
        self._patient = False
        try:
            if self.refused > self._told:
                self.tell_refused()
            self.packet(
                data, timestamp_ns, dlt=dlt, original=original, signal=signal, gps=gps, options=options
            )
        finally:
            self._patient = True
        return True

    def tell_refused(self) -> None:
        """Tell how many packets ``offer`` has not taken since this was told last."""
        with self._port.lock:
            refused = self.refused - self._told
            self._told += refused
        if refused:
            self.lost(refused, "helper-queue")

    def packets(self, captured: Iterable[Sequence[Any]]) -> None:
        """Send many packets, each ``(link type, nanoseconds or None, bytes, original length, options)``.

        Raises:
            Stopped: as ``packet``.
        """
        packet = self.packet
        for dlt, timestamp_ns, data, original, options in captured:
            packet(data, timestamp_ns, dlt=dlt, original=original, options=options)

    def json(
        self,
        kind: str,
        text: str,
        timestamp_ns: int | None = None,
        *,
        signal: Signal | None = None,
        gps: Gps | None = None,
    ) -> None:
        """Send one JSON record.

        Args:
            kind: which record it is, e.g. ``RTL433``.
            text: the JSON, one object.
            timestamp_ns: nanoseconds since 1970; None: now.
            signal: what the radio knew.
            gps: where it was heard.

        Raises:
            Stopped: as ``packet``.
            ValueError: the record is longer than the peer takes, and counted as lost under ``too-long``; or it is no
                text (it has lone surrogates), and counted under ``bad-record``.
        """
        try:
            size = len(text.encode())
        except UnicodeEncodeError as error:
            self.left_out += 1
            self.count(1, "bad-record")
            raise ValueError(f"a record with a lone surrogate, which is no text: {error}") from None
        if size > self._room:
            self.left_out += 1
            self.count(1, "too-long")
            raise ValueError(f"a record of {len(text)} characters; the peer takes {self._room} bytes at most")
        if timestamp_ns is None:
            timestamp_ns = time.time_ns()
        timestamp_ns, _ = self._possible(timestamp_ns, 0)
        self.report(DataReport(json=self._json(kind, text, timestamp_ns), signal=signal, gps=gps))

    def _json(self, kind: str, text: str, timestamp_ns: int) -> Json:
        """A record as this peer takes it."""
        sec, ns = divmod(timestamp_ns, 1_000_000_000)
        return Json(kind, text, sec, ns // 1000)

    def report(self, report: DataReport) -> None:
        """Send a data report of any shape; its packet is cut, and its time mended, as ``packet`` would.

        Raises:
            Stopped: as ``packet``.
            ValueError: it is longer than the peer takes all the same, and counted as lost under ``too-long``.
        """
        packet = report.packet
        if packet is not None and (len(packet.content) > self._room or (packet.sec or 0) < 0):
            report = replace(report, packet=self._fitting(packet))
        port = self._port
        with port.lock:
            self.seal()
            frame = self._encode(report)
            if len(frame) <= self._limit:
                port.put(frame)
        if len(frame) > self._limit:
            self.count(1, "too-long")
            raise ValueError(f"a report of {len(frame)} bytes; the peer takes {self._limit} at most")
        self._written()

    def _fitting(self, packet: Packet) -> Packet:
        """A packet that the peer can take."""
        content = packet.content
        if len(content) > self._room:
            original = len(content) if packet.original is None else packet.original
            packet = replace(packet, content=self._shorten(bytes(content), self._room), original=original)
        if packet.sec is not None and packet.sec < 0:
            self.count_odd(Counter({"bad-stamp": 1}))
            packet = replace(packet, sec=0, usec=0)
        return packet

    def message(self, text: str, severity: Severity = Severity.INFO) -> None:
        """Show a line to the user."""
        self._send(Text(severity, text))

    def warning(self, text: str) -> None:
        """Show a line that says that something is wrong, though the capture goes on."""
        self._send(Text(Severity.ERROR, text))

    def lost(self, packets: int, reason: str = "kernel") -> None:
        """Tell how many packets the device produced that never came here, since the last call.

        helperd counts them in the source's ledger; another server gets a line for its user.

        Args:
            packets: how many.
            reason: a word of ``messages.LOSSES``.
        """
        self.count(packets, reason)
        if packets:
            self.warning(f"{packets} packets lost ({reason})")

    def count(self, packets: int, word: str) -> None:
        """Count packets in the source's ledger that do not leave, or leave otherwise than they came.

        Only helperd has a ledger. What a user should read, another server's too, is told with ``warning``.

        Args:
            packets: how many, since the last call with this word.
            word: why: of ``messages.LOSSES`` for those that do not leave, of ``messages.CHANGES`` for the others.

        Raises:
            ValueError: it is none of these words, or a number that is none of packets. TypeError: no whole number.
        """
        if not 0 <= index(packets) < 1 << 64:
            raise ValueError(f"{packets} is no number of packets")
        if word not in {*LOSSES, *CHANGES}:
            raise ValueError(f"{word!r} is none of {', '.join((*LOSSES, *CHANGES))}")

    def count_odd(self, odd: Counter[str]) -> None:
        """Count what a reader of captures found odd and mended or left out, tell people of it, and clear it."""
        for word, packets in odd.items():
            before, after = self._odd[word], self._odd[word] + packets
            self._odd[word] = after
            self.count(packets, word)
            if not before or len(str(after)) > len(str(before)):
                self.warning(f"{after} packets {ODD[word]} ({word})")
        odd.clear()

    def _possible(self, timestamp_ns: int, original: int) -> tuple[int, int]:
        """A packet's time and length, or the nearest to them that a capture can say; another time is counted."""
        stamp = min(max(timestamp_ns, 0), LAST_STAMP)
        if stamp != timestamp_ns:
            self.count_odd(Counter({"bad-stamp": 1}))
        return stamp, min(max(original, 0), MAX_LENGTH)

    def _shorten(self, data: bytes, room: int) -> bytes:
        """Cut a packet to what the peer, and readers behind it, take."""
        self.cut += 1
        self.count(1, "cut")
        if is_round(self.cut):
            self.warning(
                f"{self.cut} packets cut because the peer takes no longer frames: to {room} bytes; "
                f"the last had {len(data)}"
            )
        return data[:room]

    def flush(self) -> None:
        """Let everything written so far leave now; waits when the peer does not read fast enough.

        Raises:
            Stopped: as ``packet``.
        """
        port = self._port
        with port.lock:
            self.seal()
        self._batched = 0
        if self._patient:
            self.tell_refused()
            port.wait_for_room()
        else:
            port.drain()
        if port.stopping.is_set() or port.broken:
            raise Stopped

    def wait(self, seconds: float) -> None:
        """Flush, then sleep.

        Raises:
            Stopped: the helper is ending; let it pass.
        """
        self.flush()
        if seconds > 0 and self._port.stopping.wait(seconds):
            raise Stopped

    @property
    def stopping(self) -> bool:
        """Whether the helper is ending."""
        return self._port.stopping.is_set()

    # for the SDK

    def seal(self) -> None:
        """Make frames of the batch and queue them; the caller holds the port's lock."""
        raise NotImplementedError

    @property
    def batched(self) -> bool:
        """Whether packets wait in the batch."""
        raise NotImplementedError

    def _appended(self, size: int) -> None:
        """A packet is in the batch: send the batch when it is full, else see that somebody will."""
        self._page[0] += 1
        self._batched += size + FRAME_BYTES
        if self._batched >= BATCH:
            self.flush()
        elif self.idle:
            self.idle = False
            self._port.wake()

    def _written(self) -> None:
        """A report left by the slow way: count it, wake the main thread, wait for room."""
        self.written += 1
        if self._port.queued >= HIGH_WATER:
            self.flush()
        elif self.idle:
            self.idle = False
            self._port.wake()

    def _leave_out_options(self, why: str = "a data report has no place for them") -> None:
        """A packet goes without its options; this is told once."""
        if not self._options_told:
            self._options_told = True
            self.message(f"comments, flags and other options of packets are left out: {why}")

    def _slow_packet(
        self,
        data: bytes,
        timestamp_ns: int,
        dlt: int,
        original: int,
        signal: Signal | None,
        gps: Gps | None,
    ) -> None:
        sec, ns = divmod(timestamp_ns, 1_000_000_000)
        self.report(DataReport(packet=Packet(data, dlt, sec, ns // 1000, original), signal=signal, gps=gps))


class V3Writer(Writer):
    """Writes a v3 data report per packet."""

    def __init__(
        self,
        port: Port,
        send: Callable[[Message], None],
        encode: Encode,
        *,
        dlt: int,
        limit: int,
        next_seqno: Callable[[], int],
    ) -> None:
        super().__init__(port, send, encode, dlt=dlt, limit=limit)
        self._next_seqno = next_seqno
        self._parts: list[bytes] = []
        self._signals: dict[Signal, bytes] = {}

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
        size = len(data)
        if original is None:
            original = size
        if size > self._room:
            size = self._room
            data = self._shorten(data, self._room)
        if options:
            self._leave_out_options()
        if timestamp_ns is None:
            timestamp_ns = time.time_ns()
        if dlt is None:
            dlt = self.dlt
        if gps is not None or not 0 <= timestamp_ns < _LATE or original >> 32:
            timestamp_ns, original = self._possible(timestamp_ns, original)
            self._slow_packet(data, timestamp_ns, dlt, original, signal, gps)
            return
        sec, ns = divmod(timestamp_ns, 1_000_000_000)
        if signal is not None:
            self._with_signal(signal, (b"\x04\x85\x01\xcd", dlt, sec, ns // 1000, original, size), data)
            return
        head = _FRAME.pack(
            _MAGIC,
            size + _OVERHEAD,
            _TYPE,
            self._next_seqno(),
            b"\x81\x04\x85\x01\xcd",
            dlt,
            b"\x02\xce",
            sec,
            b"\x03\xce",
            ns // 1000,
            b"\x04\xce",
            original,
            b"\x06\xc6",
            size,
        )
        self._parts += (head, data)
        self._appended(size)

    def _with_signal(
        self, signal: Signal, packet: tuple[bytes, int, int, int, int, int], data: bytes
    ) -> None:
        """A packet with a signal block in front; blocks that come again are encoded once."""
        block = self._signals.get(signal)
        if block is None:
            frame = self._encode(DataReport(signal=signal))
            block = b"\x82" + frame[21:]  # two blocks in the map instead of this one
            if len(self._signals) >= _MAX_SIGNALS:
                self._signals.clear()
            self._signals[signal] = block
        key, dlt, sec, usec, original, size = packet
        length = len(block) + _PACKET.size + size
        self._parts += (
            _HEADER.pack(_MAGIC, length, _TYPE, self._next_seqno()) + block,
            _PACKET.pack(
                key, dlt, b"\x02\xce", sec, b"\x03\xce", usec, b"\x04\xce", original, b"\x06\xc6", size
            ),
            data,
        )
        self._appended(length)

    @property
    def batched(self) -> bool:
        return bool(self._parts)

    def seal(self) -> None:
        parts = self._parts
        taken = len(parts)
        if taken:
            self._port.put(b"".join(parts[:taken]))
            del parts[:taken]


class PlainWriter(Writer):
    """Writes a data report per packet in whatever generation the peer speaks, by its general encoder."""

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
        size = len(data)
        if size > self._room:
            data = self._shorten(data, self._room)
        if options:
            self._leave_out_options()
        stamp, length = self._possible(
            time.time_ns() if timestamp_ns is None else timestamp_ns, size if original is None else original
        )
        self._slow_packet(data, stamp, self.dlt if dlt is None else dlt, length, signal, gps)

    @property
    def batched(self) -> bool:
        return False

    def seal(self) -> None:
        """Nothing waits: every report is queued at once."""
