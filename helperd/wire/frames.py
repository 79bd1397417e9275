"""Frames: cuts a stream into frames, a whole read at a time.

Rules:
  1. Data frames become runs, never objects: one ``Run`` stands for all neighbouring data frames of one read.
  2. A run is a slice of one immutable ``bytes`` object, the read itself; a read is never copied whole.
  3. A frame that a read leaves unfinished waits in one bytearray, which holds at most one frame; its
     announced size is judged as soon as its first 12 bytes are there.
  4. Every generation starts its frames with the same 12 bytes: signature, a word that tells the generation,
     length.

Layout: kismet-protocol.md, sections 1.1 to 1.3 and 1.5.
"""

from __future__ import annotations

import enum
import struct
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from helperd.errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from helperd.wire.messages import DataReport, Message, Signal

MAX_FRAME = 1 << 20
"""Largest frame accepted from anybody, header included, in bytes."""

SIGNATURE = 0xDECAFBAD
HEAD = struct.Struct(">III")
"""What all generations share: signature, generation word, payload length."""


class Kind(enum.IntEnum):
    """What the frames of a run hold."""

    PACKETS = 1
    """Data reports, one per frame."""
    BULK = 2
    """Frames of the bulk extension, many packets in each."""


class Run(NamedTuple):
    """Neighbouring data frames of one kind inside one read.

    Attributes:
        kind: what the frames hold.
        data: the read.
        start: offset in ``data`` of the first frame's first byte.
        stop: offset just behind the last frame.
        frames: how many frames.
        packets: how many packets; equals ``frames`` for ``Kind.PACKETS``.
    """

    kind: Kind
    data: bytes
    start: int
    stop: int
    frames: int
    packets: int

    @property
    def nbytes(self) -> int:
        """Bytes of the run, frame headers included."""
        return self.stop - self.start


PACKETS: Final = Kind.PACKETS
"""Looked up once: where a read is one frame, asking the class each time is a part of its price."""
run_of: Final[Callable[[tuple[Kind, bytes, int, int, int, int]], Run]] = partial(tuple.__new__, Run)
"""A run of its fields; NamedTuple's own way is twice as long."""


class ControlFrame(NamedTuple):
    """One frame that is not a data frame, cut out but not decoded.

    Attributes:
        generation: whose framing it came in.
        command: v3 packet type, or the command's name in v0 and v2.
        code: v3 result code; 0 in v0 and v2.
        seqno: sequence number of the header (v0: of the wrapper).
        payload: the message's bytes.
        at: offset of the frame in the peer's stream.
    """

    generation: Generation
    command: int | str
    code: int
    seqno: int
    payload: bytes
    at: int


Packet = tuple["int | None", "int | None", int, int, bytes, "Signal | None"]
"""One packet on its way to pcapng: link type or None (the source's own), seconds or None (stamp it on
arrival), microseconds, original length, content, signal or None."""


def packet_of(report: DataReport) -> Packet | None:
    """The packet of a decoded report, or None when it has none."""
    packet = report.packet
    if packet is None:
        return None
    original = len(packet.content) if packet.original is None else packet.original
    return packet.dlt, packet.sec, packet.usec, original, packet.content, report.signal


def packets_of(records: Iterable[Packet | DataReport]) -> Iterator[Packet]:
    """The packets among ``records``."""
    for record in records:
        packet = record if isinstance(record, tuple) else packet_of(record)
        if packet is not None:
            yield packet


class Scan(Protocol):
    """What a generation's ``scan`` needs to know of the scanner it works for; see ``FrameScanner``."""

    allowed: tuple[Generation, ...]
    max_frame: int
    verify: bool
    bulk: frozenset[int]


class Generation(Protocol):
    """One framing of the protocol. A module of functions is one; so is any object with these names.

    Attributes:
        name: ``"v3"``.
        number: 3.
        header: bytes of a frame's header.
        receiver_limit: largest frame, in bytes, that every Kismet server of this generation accepts.
    """

    @property
    def name(self) -> str:
        """The word for people and for the configuration."""

    @property
    def number(self) -> int:
        """The number."""

    @property
    def header(self) -> int:
        """Size of a frame's header in bytes."""

    @property
    def receiver_limit(self) -> int:
        """Largest frame a foreign server takes, in bytes."""

    def claims(self, word: int) -> bool:
        """Whether a frame whose second 32-bit word is ``word`` is of this generation."""

    def scan(self, data: bytes, start: int, at: int, scan: Scan, out: list[Run | ControlFrame]) -> int:
        """Cut complete frames of this generation out of ``data`` from ``start`` on and append them to
        ``out``.

        Stops without complaint at the first frame that is unfinished, too long, or not of this generation.

        Returns:
            The offset of the frame it stopped at.

        Raises:
            RemoteProtocolError: the frame is complete and wrong; ``at`` is the stream offset of ``data[0]``.
        """

    def is_report(self, data: bytes) -> bool:
        """Whether ``data`` is one data report from its first byte to its last.

        False is no verdict: ``scan`` gives it.
        """

    def decode(self, frame: ControlFrame) -> Message:
        """Say what a control frame means.

        Raises:
            RemoteProtocolError: "bad-payload".
        """

    def encode(self, message: Message, seqno: int) -> bytes:
        """One whole frame.

        Raises:
            LocalProtocolError: "not-supported" when this generation has no such message.
        """

    def packets(self, run: Run) -> Iterator[Packet]:
        """The packets of a run of data reports, in order; reports without a packet yield nothing.

        Raises:
            RemoteProtocolError: "bad-payload"; ``at`` counts from the start of ``run.data``.
        """

    def records(self, run: Run) -> Iterator[Packet | DataReport]:
        """What a run of data reports holds, one item per frame: a packet of a usual layout, or the whole report.

        Raises:
            RemoteProtocolError: as ``packets``.
        """

    def blocks(self, run: Run) -> Iterator[tuple[int, tuple[memoryview, ...], int, int]]:
        """The pcapng blocks of a run of bulk frames: interface number, slices, their bytes, their packets.

        Nothing in a generation that has no such frames.
        """


def alike(data: bytes, at: int, step: int, size: int) -> int:
    """How many whole frames from ``at`` on have the size of the one before them and begin as it does.

    A comparison of slices is half the price of taking a header apart.

    Args:
        data: the read.
        at: offset behind a data frame.
        step: its size, header included.
        size: bytes that all data frames of this size begin with.
    """
    first = at
    head = data[at - step : at - step + size]
    while data[at : at + size] == head:
        at += step
    return (at - first) // step - (at > len(data))


class FrameScanner:
    """Cuts one peer's stream into runs and control frames.

    Attributes:
        current: generation of the last frame, None before the first.
        allowed: generations whose frames are accepted; with ``sticky`` the first frame leaves only its own.
        max_frame: largest frame accepted, header included, in bytes.
        verify: whether v0 checksums are checked.
        bulk: interface numbers of the bulk extension that are agreed.
        at: offset in the peer's stream of the next byte to come, in bytes.
    """

    __slots__ = ("_partial", "allowed", "at", "bulk", "current", "max_frame", "sticky", "verify")

    def __init__(
        self,
        allowed: Sequence[Generation],
        *,
        sticky: bool = True,
        max_frame: int = MAX_FRAME,
        verify: bool = True,
    ) -> None:
        self.allowed: tuple[Generation, ...] = tuple(allowed)
        self.current: Generation | None = None
        self.sticky = sticky
        self.max_frame = max_frame
        self.verify = verify
        self.bulk: frozenset[int] = frozenset()
        self.at = 0
        self._partial = bytearray()

    @property
    def pending(self) -> int:
        """Bytes held of an unfinished frame."""
        return len(self._partial)

    def take_report(self, data: bytes) -> bool:
        """Take a read if it is one data report and nothing else, as those of helpers are that send now and then.

        Returns:
            False: it is something else, or part of something; nothing was taken.
        """
        if self._partial or self.current is None or len(data) > self.max_frame:
            return False
        if not self.current.is_report(data):
            return False
        self.at += len(data)
        return True

    def feed(self, data: bytes) -> list[Run | ControlFrame]:
        """Take one read.

        Args:
            data: bytes as they came, cut anywhere; kept alive by the runs that are returned.

        Returns:
            Runs and control frames in the order of the stream.

        Raises:
            RemoteProtocolError: "bad-signature", "bad-version", "wrong-generation", "frame-too-long", or
            what the
                generation says of a complete frame. Its ``before`` holds what came ahead of the bad frame.
        """
        out: list[Run | ControlFrame] = []
        try:
            start = self._finish_partial(data, out) if self._partial else 0
            if start < len(data):
                stop = self._scan(data, start, self.at, out)
                if stop < len(data):
                    self._partial += memoryview(data)[stop:]
        except RemoteProtocolError as error:
            error.before = list(out)
            raise
        self.at += len(data)
        return out

    def _finish_partial(self, data: bytes, out: list[Run | ControlFrame]) -> int:
        """Complete the waiting frame from the head of ``data``; returns how much of ``data`` it took."""
        partial = self._partial
        held = len(partial)
        at = self.at - held
        took = 0
        wanted = HEAD.size if held < HEAD.size else self._frame_size(partial, 0, at)
        while len(partial) < wanted:
            piece = data[took : took + wanted - len(partial)]
            partial += piece
            took += len(piece)
            if len(partial) < wanted:
                return took
            if wanted == HEAD.size:
                wanted = self._frame_size(partial, 0, at)
        frame = bytes(partial)
        partial.clear()
        self._scan(frame, 0, at, out)
        return took

    def _scan(self, data: bytes, start: int, at: int, out: list[Run | ControlFrame]) -> int:
        """Scan with the current generation, look again when it stops; returns where it stopped."""
        stop = start
        while len(data) - stop >= HEAD.size:
            generation = self.current
            if generation is None:
                generation = self._identify(data, stop, at + stop)
                self._settle(generation)
            moved = generation.scan(data, stop, at, self, out)
            if moved == stop:
                size = self._frame_size(data, stop, at + stop)
                generation = self._identify(data, stop, at + stop)
                if len(data) - stop < size:
                    break
            self._settle(generation)
            stop = moved
        return stop

    def _settle(self, generation: Generation) -> None:
        """Remember whose frames are coming."""
        if self.current is not generation:
            self.current = generation
            if self.sticky:
                self.allowed = (generation,)

    def _frame_size(self, data: bytes | bytearray, start: int, at: int) -> int:
        """Size of the frame whose first 12 bytes are at ``start``; refuses what can never be accepted."""
        generation = self._identify(data, start, at)
        size: int = generation.header + HEAD.unpack_from(data, start)[2]
        if size > self.max_frame:
            raise RemoteProtocolError(
                "frame-too-long",
                f"a frame of {size} bytes is announced, the limit is {self.max_frame}",
                at=at,
                excerpt=bytes(data[start : start + 64]),
            )
        return size

    def _identify(self, data: bytes | bytearray, start: int, at: int) -> Generation:
        """The generation of the frame whose first 12 bytes are at ``start``, if it may come now."""
        signature, word, _ = HEAD.unpack_from(data, start)
        if signature != SIGNATURE:
            problem, text = "bad-signature", f"a frame should start with {SIGNATURE:08x}, not {signature:08x}"
        else:
            for generation in self.allowed:
                if generation.claims(word):
                    return generation
            names = " or ".join(generation.name for generation in self.allowed)
            if word >> 16 in (0xABCD, 0xA9A9) and word not in (0xABCD0002, 0xA9A90003):
                problem, text = "bad-version", f"frame version {word & 0xFFFF} is unknown; expected {names}"
            else:
                problem, text = (
                    "wrong-generation",
                    f"generation word {word:08x} came where {names} was expected",
                )
        raise RemoteProtocolError(problem, text, at=at, excerpt=bytes(data[start : start + 64]))
