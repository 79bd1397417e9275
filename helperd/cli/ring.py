"""A live pcapng stream written to one file, or to a ring of them; cut between blocks, never inside one.

Rules:
  1. Only whole blocks are written; each file begins with the section header and every interface block so far.
  2. A file that is left is complete. A full disk leaves the last file whole up to its last block.
  3. Time is an argument. Limits are looked at after each packet: a file may pass its size by one packet.
  4. With the end of a file the next one begins, so that each stretch of time has its own, be it empty.

Names, units and rotation are dumpcap's: ``out.pcapng`` becomes ``out_00001_20261123233512.pcapng``, and so on.
"""

from __future__ import annotations

import os
import re
import struct
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Final

from helperd import pcapng
from helperd.errors import Code, HelperdError, RemoteProtocolError
from helperd.sinks.naming import ring_name

if TYPE_CHECKING:
    from collections.abc import Callable

STDOUT: Final = "-"
_SLOW: Final = "consumer-slow"
MAX_BLOCK: Final = 16 << 20
_PACKETS: Final = frozenset({pcapng.ENHANCED_PACKET, pcapng.SIMPLE_PACKET, pcapng.PACKET_OLD})
_HEAD: Final = frozenset({pcapng.SECTION_HEADER, pcapng.INTERFACE_DESCRIPTION})


@dataclass(frozen=True, slots=True)
class Limits:
    """When to end (``stop_*``) and when to begin the next file (``next_*``); None: never.

    Attributes:
        stop_packets: in all files together.
        stop_bytes: of one file.
        stop_s: seconds since the start.
        stop_files: files begun.
        next_packets: of one file; so are ``next_bytes`` and ``next_s``.
        next_multiple: seconds, at whose multiples since 1970 the next file begins.
        files: how many are kept, older ones are removed; 0: all.
    """

    stop_packets: int | None = None
    stop_bytes: int | None = None
    stop_s: float | None = None
    stop_files: int | None = None
    next_packets: int | None = None
    next_bytes: int | None = None
    next_s: float | None = None
    next_multiple: float | None = None
    files: int = 0

    @property
    def rotates(self) -> bool:
        """Whether there may be more than one file."""
        limits = (self.next_packets, self.next_bytes, self.next_s, self.next_multiple)
        return any(limit is not None for limit in limits)


@dataclass(slots=True)
class _File:
    """The file being written; ``nbytes`` of it are whole blocks, and its time is over at ``due_at``."""

    name: str
    fd: int
    due_at: float | None
    nbytes: int = 0
    packets: int = 0


@dataclass(slots=True)
class Ring:
    """Takes a stream in pieces of any size.

    Attributes:
        path: of the file, or the pattern of the files' names; ``-`` is standard output.
        limits: see there.
        started_at: seconds, monotonic.
        on_file: called with each file's name when it is begun.
        on_whole: called with each file's name when it is complete.
        mode: of the files that are made.
        clock: seconds since 1970.
        packets: written, in all files together.
        done: a stop limit was reached; what still comes is not written.
    """

    unit: ClassVar[str] = "Packets"
    path: str
    limits: Limits
    started_at: float
    on_file: Callable[[str], None] = lambda _name: None
    on_whole: Callable[[str], None] = lambda _name: None
    mode: int = 0o600
    clock: Callable[[], float] = time.time  # noqa: TID251 - names and -b interval are the wall clock's
    packets: int = 0
    done: bool = False
    _file: _File | None = None
    _begun: int = 0
    _now: float = 0.0
    _head: bytearray = field(default_factory=bytearray)
    _rest: bytearray = field(default_factory=bytearray)
    _names: list[str] = field(default_factory=list)
    _dropped: dict[int, dict[str, int]] = field(default_factory=dict)

    def lost_by(self) -> dict[str, int]:
        """Packets that the daemon says this stream has lost, by reason."""
        reasons: dict[str, int] = {}
        for of_one in self._dropped.values():
            for reason, packets in of_one.items():
                reasons[reason] = reasons.get(reason, 0) + packets
        return reasons

    @property
    def cut(self) -> bool:
        """Whether the stream so far ends inside a block."""
        return bool(self._rest)

    def due_at(self) -> float | None:
        """When ``tick`` is due; None: never."""
        times = []
        if self.limits.stop_s is not None:
            times.append(self.started_at + self.limits.stop_s)
        if self._file is not None and self._file.due_at is not None:
            times.append(self._file.due_at)
        return min(times, default=None)

    def tick(self, now: float) -> None:
        """Do what is due by time: end, or begin the next file.

        Raises:
            HelperdError: "sink-failed".
        """
        self._now = now
        limits, file = self.limits, self._file
        if limits.stop_s is not None and now - self.started_at >= limits.stop_s:
            self.close()
        elif file is not None and file.due_at is not None and now >= file.due_at:
            self._turn()

    def feed(self, data: bytes, now: float) -> None:
        """Write the whole blocks of what came; keep the beginning of the next one.

        Raises:
            RemoteProtocolError: "bad-pcapng".
            HelperdError: "sink-failed": it cannot be written; what was written ends with a whole block.
            BrokenPipeError: nobody reads standard output any more.
        """
        self.tick(now)
        buffer = self._rest
        buffer += data
        start = at = 0
        while not self.done and (total := self._whole(buffer, at)):
            kind = int.from_bytes(buffer[at : at + 4], "little")
            if kind in _HEAD:
                self._write(buffer[start:at])
                self._begin(kind, buffer[at : at + total])
                start = at + total
            elif kind == pcapng.INTERFACE_STATISTICS:
                self._note_losses(buffer[at : at + total])
            at += total
            if kind in _PACKETS and self._count_packet(at - start):
                self._write(buffer[start:at])
                start = at
                self._turn()
        if not self.done:
            self._write(buffer[start:at])
            self._rest = buffer[at:]

    def close(self) -> None:
        """End: the last file is complete, and nothing more is written."""
        self.done = True
        self._leave()

    def _whole(self, buffer: bytearray, at: int) -> int:
        """Length of the whole block at ``at``; 0 when it is not all there yet."""
        if len(buffer) - at < pcapng.MIN_BLOCK:
            return 0
        kind, total = struct.unpack_from("<II", buffer, at)
        if total < pcapng.MIN_BLOCK or total & 3 or total > MAX_BLOCK:
            text = f"a block of {total} bytes cannot be; is it helperd that listens there?"
            raise RemoteProtocolError("bad-pcapng", text, at=at, excerpt=bytes(buffer[at : at + 32]))
        if not self._head and kind != pcapng.SECTION_HEADER:
            text = "the stream does not begin with a section header; is it helperd that listens there?"
            raise RemoteProtocolError("bad-pcapng", text, at=at, excerpt=bytes(buffer[at : at + 32]))
        return total if total <= len(buffer) - at else 0

    def _begin(self, kind: int, block: bytearray) -> None:
        """Note what every file begins with; the first section header begins the first file."""
        if kind == pcapng.SECTION_HEADER:
            self._head.clear()
        self._head += block
        if self._file is not None:
            self._write(block)
        elif not self._begun:
            self._open()

    def _count_packet(self, unwritten: int) -> bool:
        """Count a packet; True when it was the last of its file or of all."""
        file, limits = self._file or self._open(), self.limits
        self.packets += 1
        file.packets += 1
        nbytes = file.nbytes + unwritten
        self.done = _reached(self.packets, limits.stop_packets) or _reached(nbytes, limits.stop_bytes)
        return self.done or _reached(file.packets, limits.next_packets) or _reached(nbytes, limits.next_bytes)

    def _note_losses(self, block: bytearray) -> None:
        """Remember how many packets were dropped, and why, as an interface statistics block says in its comment."""
        (interface,) = struct.unpack_from("<I", block, 8)
        at, end = 20, len(block) - 4
        while at + 4 <= end:
            code, size = struct.unpack_from("<HH", block, at)
            text = bytes(block[at + 4 : at + 4 + size]).decode("utf-8", "replace")
            if code == pcapng.OPT_END:
                return
            if code == pcapng.OPT_COMMENT and text.startswith(pcapng.LOST):
                found = _REASON.findall(text)
                self._dropped[interface] = {reason: int(packets) for reason, packets in found}
            at += 4 + (size + 3 & ~3)

    def _turn(self) -> None:
        """Leave this file, and begin the next."""
        self._leave()
        self.done = self.done or _reached(self._begun, self.limits.stop_files)
        if not self.done:
            self._open()

    def _open(self) -> _File:
        self._begun += 1
        name = self._name()
        if name == STDOUT:
            file = _File(name, os.dup(1), None)
        else:
            try:
                fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, self.mode)
            except OSError as error:
                raise _failed(f"cannot write {name}: {error.strerror}") from error
            file = _File(name, fd, self._file_due())
            self._names.append(name)
            self.on_file(name)
            self._forget_oldest()
        self._file = file
        self._write(self._head)
        return file

    def _name(self) -> str:
        if not self.limits.rotates:
            return self.path
        base, extension = os.path.splitext(self.path)
        return ring_name(base, extension, self._begun, time.localtime(self.clock()))

    def _file_due(self) -> float | None:
        """When the time of a file that begins now is over."""
        times = []
        if self.limits.next_s is not None:
            times.append(self._now + self.limits.next_s)
        if self.limits.next_multiple is not None:
            times.append(self._now + self.limits.next_multiple - self.clock() % self.limits.next_multiple)
        return min(times, default=None)

    def _forget_oldest(self) -> None:
        """Keep as many files as were asked for; one that somebody else removed is gone already."""
        while self.limits.rotates and self.limits.files and len(self._names) > self.limits.files:
            try:
                os.unlink(self._names.pop(0))
            except FileNotFoundError:
                continue
            except OSError as error:
                raise _failed(f"cannot remove {error.filename}: {error.strerror}") from error

    def _leave(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            try:
                os.close(file.fd)
            except OSError as error:
                text = f"cannot finish {file.name}: {error.strerror}; what of it is on the disk is not known"
                raise _failed(text) from error
            self.on_whole(file.name)

    def _write(self, blocks: bytearray) -> None:
        """Write whole blocks, or none of those that do not fit."""
        if not blocks:
            return
        file = self._file or self._open()
        view = memoryview(blocks)
        written = 0
        try:
            while written < len(view):
                written += os.write(file.fd, view[written:])
        except BrokenPipeError:
            raise
        except OSError as error:
            self._cut_back(file)
            text = f"cannot write {file.name}: {error.strerror}; {self.packets:,} packets came, the last are missing"
            raise _failed(text) from error
        file.nbytes += written

    def _cut_back(self, file: _File) -> None:
        """Make the file end with a whole block again; a pipe cannot be cut."""
        try:
            os.ftruncate(file.fd, file.nbytes)
        except OSError:
            return


_REASON: Final = re.compile(r"([a-z-]+) ([0-9]+)(?=, |$)")
_LOSS: Final = re.compile(rb'\{"source":"(?:[^"\\]|\\.)*","time":[0-9.]+,"lost":([0-9]+)\}\s*')


class LineRing(Ring):
    """Takes a stream of JSON reports, one per line; the counts and limits of packets are those of reports."""

    __slots__ = ()
    unit: ClassVar[str] = "Reports"

    def feed(self, data: bytes, now: float) -> None:
        """Write the whole lines of what came; keep the beginning of the next one.

        Raises:
            HelperdError, BrokenPipeError: as ``Ring.feed``.
        """
        self.tick(now)
        buffer = self._rest
        buffer += data
        start = at = 0
        while not self.done and (stop := buffer.find(b"\n", at) + 1):
            loss = _LOSS.fullmatch(buffer, at, stop)
            at = stop
            if loss is not None:
                before = self._dropped.get(0, {}).get(_SLOW, 0)
                self._dropped[0] = {_SLOW: before + int(loss[1])}
            elif self._count_packet(at - start):
                self._write(buffer[start:at])
                start = at
                self._turn()
        if not self.done:
            self._write(buffer[start:at])
            self._rest = buffer[at:]


def _reached(count: int, limit: int | None) -> bool:
    return limit is not None and count >= limit


def _failed(text: str) -> HelperdError:
    error = HelperdError("sink-failed", text)
    error.exit_code = Code.SYSTEM
    return error
