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
from helperd.sinks.disk import Changed, failed
from helperd.sinks.forms import Wants
from helperd.sinks.listen import group_id
from helperd.sinks.naming import PART, Series
from helperd.sinks.written import LineSection, Section, Written, recover
from helperd.sinks.zst import compressor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from helperd.config.sinks import SinkSpec
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
        stays: why a file stays that is one too many.
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
        self.stays: SinkError | None = None
        self._header = header
        self._table = table
        self._leave = leave
        self._now_ns = now_ns
        self._series = Series(spec.path, packed=spec.compress == "zstd")
        self._pack: Callable[[bytes], bytes] | None = None
        self._gid = -1
        self._lines = spec.format == "jsonl"

    def prepare(self) -> list[str]:
        """Make the folder, finish what an earlier process left unfinished, and see that files can be written.

        Returns:
            What people should know.

        Raises:
            SinkError: "disk-full", "disk-error", "sink-failed", "not-installed".
        """
        if self.spec.compress == "zstd":
            self._pack = compressor()
        self._gid = group_id(self.spec.file_group, self.spec.path)
        folder = self._series.folder
        try:
            if not os.path.isdir(folder):
                self._make_folder()
            said = [note for path in self._series.look() if (note := self._recovered(path))]
        except OSError as error:
            raise failed(error, f"cannot write in {folder}", opening=True) from error
        if not os.access(folder, os.W_OK | os.X_OK):
            text = (
                f"uid {os.geteuid()} may not make files in {folder}; give it the directory, or choose another"
            )
            raise SinkError("sink-failed", text)
        return said

    def _make_folder(self) -> None:
        folder = self._series.folder
        os.makedirs(folder, exist_ok=True)
        os.chown(folder, -1, self._gid)
        os.chmod(folder, 0o750)  # noqa: S103 - its group reads the captures

    def _recovered(self, part: str) -> str:
        """Finish a file that was left; says what happened, or nothing if it is being written."""
        path = part.removesuffix(PART)
        try:
            size = recover(part, lines=self._lines)
        except OSError as error:
            self._series.forget(path)
            return f"{part} was left unfinished and cannot be mended: {error.strerror}"
        if size is None:
            return ""
        if size == 0:
            self._series.forget(path)
            return f"{part} was left without a packet; it is removed"
        return f"{part} was left unfinished; it is whole now, with {size:,} bytes"

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
        except Changed:
            self.turn()  # the next one is begun by the next try
        except OSError as error:
            where = self._series.folder if self.current is None else self.current.part
            done.error = failed(error, f"cannot write {where}", opening=self.current is None)
            if done.error.problem != "disk-full":
                self.turn()
        except SinkError as error:
            done.error = error
        done.left, done.untold = list(left), lost
        return done

    def prove(self) -> Written:
        """After a failure: see that the disk takes a file before packets are put at stake; begins one if there is none.

        Raises:
            SinkError: it does not.
        """
        folder = self._series.folder
        file: Written | None = None
        try:
            self._check_room()
            file = self._file_for_now(Outcome())
            try:
                file.sync(file.mark)
            except OSError:
                if file.packets:
                    self.turn()
                else:
                    self._unbegin(file)
                raise
        except Changed:
            self.turn()
            return self.prove()
        except OSError as error:
            raise failed(error, f"cannot write in {folder}", opening=file is None) from error
        return file

    def tick(self) -> None:
        """Leave a file whose time is over, or that is broken or not what it was."""
        file = self.current
        if file is None:
            return
        try:
            file.check()
        except (OSError, Changed):
            self.turn()
        else:
            if file.broken is not None or file.slot != self._slot():
                self.turn()

    def turn(self, lost: Losses | None = None) -> None:
        """Leave the current file; the next is begun by its first packet."""
        file, self.current = self.current, None
        if file is not None:
            file.end(lost or Counter())
            self._leave(file)

    def finished(self, file: Written) -> None:
        """A file that was left is done: it has its name, or is gone."""
        if (file.packets == 0 and file.broken is None) or file.safe.packets == 0:
            self._series.forget(file.path)
        else:
            self._series.finished(file.path)

    def _file_for_now(self, done: Outcome) -> Written:
        file = self.current
        if file is not None and (file.broken is not None or file.slot != self._slot()):
            self.turn()
            file = None
        if file is None:
            try:
                file = self._begin()
            except FileNotFoundError:
                self._make_folder()
                done.said.append(f"{self._series.folder} was gone, and is made again")
                file = self._begin()
            self.current = file
            self.begun += 1
            self.stays = self._forget_oldest()
        return file

    def _unbegin(self, file: Written) -> None:
        file.discard()
        self._series.give_back(file.path)
        self.current = None
        self.begun -= 1

    def _begin(self) -> Written:
        """Begin a file.

        Raises:
            OSError: it cannot be; nothing is left of it.
        """
        spec, stamp = self.spec, self._now_ns()
        while True:
            path = self._series.next_path(time.localtime(stamp // 1_000_000_000))
            wants = Wants(frozenset(spec.sources), frozenset(spec.dlts))
            section: Section | LineSection = LineSection(self._table)
            if not self._lines:
                section = Section(self._header, self._table, wants if spec.sources or spec.dlts else None)
            try:
                return Written(
                    path, section, mode=spec.file_mode, gid=self._gid, pack=self._pack, slot=self._slot()
                )
            except FileExistsError:  # somebody was quicker
                self._series.forget(path)
            except BaseException:
                self._series.give_back(path)
                raise

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
                batch, rest = (cut_lines if self._lines else cut)(batch, room, packets)
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

    def _forget_oldest(self) -> SinkError | None:
        """Keep as many files as were asked for, the current one included."""
        if not self.spec.keep:
            return None
        refused = self._series.remove_oldest(self.spec.keep)
        if not refused:
            return None
        path, error = refused[0]
        return failed(error, f"cannot remove {path}, which is one too many", opening=True)


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


def cut_lines(batch: Batch, room: int | None, packets: int | None) -> tuple[Batch, Batch | None]:
    """The same for lines, of one source each."""
    stop = nbytes = 0
    for part in batch.parts:
        stop += 1
        nbytes += len(part)
        if (room is not None and nbytes >= room) or (packets is not None and stop >= packets):
            break
    if stop == len(batch.parts):
        return batch, None
    ((interface, number),) = batch.counts
    head = batch._replace(parts=batch.parts[:stop], nbytes=nbytes, packets=stop, counts=((interface, stop),))
    rest = batch._replace(
        parts=batch.parts[stop:],
        nbytes=batch.nbytes - nbytes,
        packets=number - stop,
        counts=((interface, number - stop),),
    )
    return head, rest
