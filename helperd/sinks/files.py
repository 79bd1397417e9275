"""A file sink's files: one being written, the finished ones, and when the next one begins.

Rules:
  1. Called in a thread, by one task: it waits for the disk and for nothing else, and no loop waits for it.
  2. Every packet given to ``write`` is in a file or in the outcome's ``left``.
  3. A file is over by a limit with the packet that reaches it, by the clock before the packet behind the mark.
  4. Only regular files whose names are the series' own are ever removed.
"""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from helperd import pcapng
from helperd.errors import SinkError
from helperd.sinks.forms import Wants
from helperd.sinks.listen import group_id
from helperd.sinks.naming import Series
from helperd.sinks.written import Section, Written, failed, recover
from helperd.sinks.zst import compressor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from helperd.config.specs import SinkSpec
    from helperd.routing import Batch, Losses, RouteTable

_PACK_BYTES: Final = 256 << 10
"""Bytes in one compressed frame at most, before compression, but for one read."""


@dataclass(slots=True)
class Outcome:
    """What became of batches.

    Attributes:
        nbytes: of the batches that were written.
        left: those that were not, in order; the first may be the rest of one.
        untold: losses that no file tells yet, by interface.
        error: why some are left.
        said: what people should know.
    """

    nbytes: int = 0
    left: list[Batch] = field(default_factory=list)
    untold: Losses = field(default_factory=Counter)
    error: SinkError | None = None
    said: list[str] = field(default_factory=list)


class Files:
    """The files of one sink.

    Args:
        spec: of type "file".
        header: the section header block that each file begins with.
        table: knows the interfaces.
        leave: takes each file that is over; it is to be finished.
        now_ns: the wall clock.

    Attributes:
        current: the file being written.
        begun: files begun so far.
    """

    def __init__(
        self,
        spec: SinkSpec,
        header: bytes,
        table: RouteTable,
        leave: Callable[[Written], None],
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.spec = spec
        self.current: Written | None = None
        self.begun = 0
        self._header = header
        self._table = table
        self._leave = leave
        self._now_ns = now_ns
        self._series = Series(spec.path, packed=spec.compress == "zstd")
        self._pack: Callable[[bytes], bytes] | None = None
        self._gid = -1

    def prepare(self) -> list[str]:
        """Make the folder, finish what an earlier process left unfinished, and see that files can be written.

        Returns:
            What people should know.

        Raises:
            SinkError: "disk-full", "sink-failed", "not-installed".
        """
        if self.spec.compress == "zstd":
            self._pack = compressor()
        self._gid = group_id(self.spec.file_group, self.spec.path)
        folder = self._series.folder
        try:
            if not os.path.isdir(folder):
                os.makedirs(folder, exist_ok=True)
                os.chown(folder, -1, self._gid)
                os.chmod(folder, 0o750)  # noqa: S103 - its group reads the captures
            said = [note for path in self._series.unfinished() if (note := _recovered(path))]
        except OSError as error:
            raise failed(error, f"cannot write in {folder}") from error
        if not os.access(folder, os.W_OK | os.X_OK):
            text = (
                f"uid {os.geteuid()} may not make files in {folder}; give it the directory, or choose another"
            )
            raise SinkError("sink-failed", text)
        return said

    def write(self, batches: Iterable[Batch], lost: Losses) -> Outcome:
        """Write batches, in as many files as the limits ask for.

        Args:
            batches: of packets, as pcapng blocks.
            lost: packets lost before them, by interface, that no file tells yet.
        """
        done = Outcome()
        left = deque(batches)
        try:
            self._check_room()
            while left:
                file = self._file_for_now(done)
                group = self._take(left, file)
                try:
                    file.put(group, lost)
                except BaseException:
                    left.extendleft(reversed(group))
                    raise
                lost = Counter()
                done.nbytes += sum(batch.nbytes for batch in group)
                if self._reached(file):
                    self.turn()
        except OSError as error:
            where = self._series.folder if self.current is None else self.current.part
            done.error = failed(error, f"cannot write {where}")
            if done.error.problem != "disk-full":
                self._abandon()
        except SinkError as error:
            done.error = error
        done.left, done.untold = list(left), lost
        return done

    def tick(self) -> list[str]:
        """Leave a file whose time is over; notice when somebody has removed it. Says what people should know."""
        file = self.current
        if file is None:
            return []
        if file.removed:
            self._abandon()
            return [f"{file.part} was removed while it was written, and {file.packets:,} packets with it"]
        if file.slot != self._slot():
            self.turn()
        return []

    def turn(self, lost: Losses | None = None) -> None:
        """Leave the current file; the next is begun by its first packet."""
        file, self.current = self.current, None
        if file is not None:
            file.end(lost or Counter())
            self._leave(file)

    def _abandon(self) -> None:
        """Leave a file that cannot be finished now; it keeps its temporary name, and is finished at the next start."""
        if self.current is not None:
            self.current.leave()
            self.current = None

    def _file_for_now(self, done: Outcome) -> Written:
        file = self.current
        if file is not None and file.slot != self._slot():
            self.turn()
            file = None
        if file is None:
            spec, stamp = self.spec, self._now_ns()
            path = self._series.next_path(time.localtime(stamp // 1_000_000_000))
            wants = Wants(frozenset(spec.sources), frozenset(spec.dlts))
            section = Section(self._header, self._table, wants if spec.sources or spec.dlts else None)
            file = self.current = Written(
                path, section, mode=spec.file_mode, gid=self._gid, pack=self._pack, slot=self._slot()
            )
            self.begun += 1
            done.said += self._forget_oldest()
        return file

    def _slot(self) -> int:
        """Number of the stretch of local time that it is now; always 0 when time is no limit."""
        every = self.spec.rotate_every
        if every is None:
            return 0
        now = self._now_ns() // 1_000_000_000
        return int((now + time.localtime(now).tm_gmtoff) // every)

    def _take(self, left: deque[Batch], file: Written) -> list[Batch]:
        """The batches that go into this file now: up to a limit, the packet that reaches it included."""
        spec = self.spec
        room = None if spec.rotate_size is None else max(1, spec.rotate_size - file.nbytes)
        if self._pack is not None:
            room = _PACK_BYTES  # what the file will grow by is known afterwards
        packets = None if spec.rotate_packets is None else spec.rotate_packets - file.packets
        group: list[Batch] = []
        while left and (room is None or room > 0) and (packets is None or packets > 0):
            batch = left.popleft()
            over = room is not None and batch.nbytes > room and self._pack is None
            if over or (packets is not None and batch.packets > packets):
                batch, rest = cut(batch, room, packets)
                if rest is not None:
                    left.appendleft(rest)
            group.append(batch)
            room = None if room is None else room - batch.nbytes
            packets = None if packets is None else packets - batch.packets
        return group

    def _reached(self, file: Written) -> bool:
        size, packets = self.spec.rotate_size, self.spec.rotate_packets
        return (size is not None and file.nbytes >= size) or (packets is not None and file.packets >= packets)

    def _check_room(self) -> None:
        """Leave others what was promised to them.

        Raises:
            SinkError: "disk-full".
        """
        if self.spec.keep_free:
            about = os.statvfs(self._series.folder)
            free = about.f_bavail * about.f_frsize
            if free < self.spec.keep_free:
                text = f"{self._series.folder} has {free:,} bytes left, {self.spec.keep_free:,} are to be kept free"
                raise SinkError("disk-full", f"{text}; make room, or let the sink keep fewer files")

    def _forget_oldest(self) -> list[str]:
        """Keep as many files as were asked for, the current one included."""
        if not self.spec.keep:
            return []
        said = []
        files = self._series.finished()
        begun = len(self._series.unfinished())
        for path in files[: max(0, len(files) + begun - self.spec.keep)]:
            try:
                os.unlink(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                said.append(f"cannot remove {path}: {error.strerror}; it is one too many")
        return said


def cut(batch: Batch, room: int | None, packets: int | None) -> tuple[Batch, Batch | None]:
    """Cut a batch behind the packet that makes it ``room`` bytes or more, or that many packets; at least one stays."""
    data = memoryview(b"".join(batch.parts))
    counts: Counter[int] = Counter()
    stop = seen = 0
    for kind, start, end in pcapng.split(data):
        stop = end
        if kind == pcapng.ENHANCED_PACKET:
            counts[int.from_bytes(data[start + 8 : start + 12], "little")] += 1
            seen += 1
        if (room is not None and stop >= room) or (packets is not None and seen >= packets):
            break
    if stop == len(data):
        return batch, None
    others = Counter(dict(batch.counts))
    others.subtract(counts)
    head = batch._replace(parts=(data[:stop],), nbytes=stop, packets=seen, counts=tuple(counts.items()))
    rest = batch._replace(
        parts=(data[stop:],),
        nbytes=len(data) - stop,
        packets=batch.packets - seen,
        counts=tuple((interface, number) for interface, number in others.items() if number),
    )
    return head, rest


def _recovered(part: str) -> str:
    """Finish a file that was left; says what happened, or nothing if it is being written."""
    try:
        size = recover(part)
    except OSError as error:
        return f"{part} was left unfinished and cannot be mended: {error.strerror}"
    if size is None:
        return ""
    if size == 0:
        return f"{part} was left without a packet; it is removed"
    return f"{part} was left unfinished; it is whole now, with {size:,} bytes"
