"""One capture file on the disk: whole blocks or nothing, and a name of its own only when it is finished.

Rules:
  1. While it is written it is called ``NAME.part`` and locked (flock); it is on the disk before it is called NAME.
  2. What is put in is written whole, or cut off again.
  3. A file that was left unfinished is cut back to its last whole block, and then finished.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import threading
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from helperd import pcapng
from helperd.reports import MESSAGES
from helperd.sinks.disk import GONE, Changed, sync_folder
from helperd.sinks.forms import Lines, Pcapng
from helperd.sinks.naming import PACKED, PART
from helperd.sinks.zst import whole_frames

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from helperd.routing import Batch, Losses, Part

_IOV_MAX: Final = 1024
_READ: Final = 1 << 20
_MAX_BLOCK: Final = 64 << 20
_HEAD, _INTERFACE = struct.Struct("<2I"), struct.Struct("<I")


class Mark(NamedTuple):
    """How far a file was at one moment.

    Attributes:
        size: bytes of the file.
        packets: in it.
        nbytes: bytes of them, as they were queued.
        counts: packets by what batches count them by.
    """

    size: int = 0
    packets: int = 0
    nbytes: int = 0
    counts: Mapping[int, int] = {}


class Section(Pcapng):
    """A pcapng section whose state can be put back, when what it made was not written."""

    def parts_or_none(
        self, taken: Sequence[Batch], lost: Losses, put: Callable[[Sequence[Part]], None]
    ) -> None:
        """Make the parts and put them somewhere; if that raises, they were never made."""
        plain = self._next, self._seen, self._looked, self._filler
        counted = self._here.copy(), self._moved.copy(), self._delivered.copy(), self._dropped.copy()
        try:
            put(self.parts(taken, lost))
        except BaseException:
            self._next, self._seen, self._looked, self._filler = plain
            self._here, self._moved, self._delivered, self._dropped = counted
            raise

    def whole(self, fd: int) -> Mark:
        """How far a file that somebody has cut is whole."""
        size, counts = _whole_blocks(fd)
        whose = {here: number for number, here in self._here.items()}
        return Mark(
            size, counts.total(), size, {whose.get(here, here): number for here, number in counts.items()}
        )


class LineSection(Lines):
    """Lines, of which one is like another."""

    def parts_or_none(
        self, taken: Sequence[Batch], lost: Losses, put: Callable[[Sequence[Part]], None]
    ) -> None:
        """Make the parts and put them somewhere."""
        put(self.parts(taken, lost))

    @staticmethod
    def whole(fd: int) -> Mark:
        """How far a file that somebody has cut is whole: whose lines are left is not known."""
        size, lines = _whole_lines(fd)
        return Mark(size, lines, size, {MESSAGES: lines})


class Written:
    """A file being written.

    Args:
        path: its name when it is finished.
        section: what stands in it.
        mode: its permissions; the umask does not count.
        gid: its group; -1: as the system decides.
        pack: makes a compressed frame of some bytes; None: as they are.

    Attributes:
        nbytes: written, whole blocks.
        packets: in them.
        slot: the stretch of the clock that it was begun in.
        safe: how far it is known to be on the disk.
        broken: why no more can be, and the file is over.
        settled: packets of it that its sink has counted as durable.
        revoked: and as lost, by what batches count them by.

    Raises:
        OSError: it cannot be made, or its first block does not fit; nothing is left then.
    """

    def __init__(
        self,
        path: str,
        section: Section | LineSection,
        *,
        mode: int = 0o640,
        gid: int = -1,
        pack: Callable[[bytes], bytes] | None = None,
        slot: int = 0,
    ) -> None:
        self.path = path
        self.part = path + PART
        self.section = section
        self.slot = slot
        self.nbytes = 0
        self.packets = 0
        self.safe = Mark()
        self.broken: Exception | None = None
        self.settled = 0
        self.revoked: Counter[int] = Counter()
        self._content = 0
        self._counts: Counter[int] = Counter()
        self._named = False
        self._syncing = threading.Lock()
        self._pack = pack
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self.part, flags, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if gid != -1:
                os.fchown(self._fd, -1, gid)
            os.fchmod(self._fd, mode)
            self._put([*section.preface(), *section.parts([], Counter())])
        except BaseException:
            self.discard()
            raise
        about = os.fstat(self._fd)
        self._identity = about.st_dev, about.st_ino

    @property
    def mark(self) -> Mark:
        """How far it is now; not to be asked for while it is put into."""
        return Mark(self.nbytes, self.packets, self._content, dict(self._counts))

    def put(self, taken: Sequence[Batch], lost: Losses) -> None:
        """Write batches, after what was ``lost`` before them; all or nothing.

        Raises:
            OSError: nothing of it is in the file.
            Changed: the same; the file is over.
        """
        self.check()
        self.section.parts_or_none(taken, lost, self._put)
        for batch in taken:
            self.packets += batch.packets
            self._content += batch.nbytes
            self._counts.update(dict(batch.counts))

    def end(self, lost: Losses) -> None:
        """Write the totals; where there is no room for them the file goes without."""
        if self.broken is None:
            with contextlib.suppress(OSError):
                self._put(self.section.ending(lost))

    def check(self) -> None:
        """See that the file of this name is the one that was written, and as long.

        Raises:
            Changed: it is not.
            OSError: nobody knows.
        """
        if isinstance(self.broken, Changed):
            raise self.broken
        about = os.fstat(self._fd)
        try:
            there = os.lstat(self.part)
        except GONE:
            how = "moved away" if about.st_nlink else "removed"
        else:
            if (there.st_dev, there.st_ino) != self._identity:
                how = "replaced"
            elif about.st_size < self.nbytes:
                how = "cut"
            else:
                return
        self.broken = Changed(f"{self.part} was {how} by somebody else while it was written")
        raise self.broken

    def sync(self, mark: Mark) -> None:
        """Bring what was written to the disk; ``mark`` is how far that was before the call.

        Raises:
            OSError: what is behind ``safe`` may be there or not, and never will be known to; the file is over.
            Changed: the same.
        """
        with self._syncing:  # the kernel tells an error of a file once: two calls at a time would share it
            if self.broken is not None:
                raise self.broken
            try:
                self.check()
                os.fsync(self._fd)
                if not self._named:
                    sync_folder(os.path.dirname(self.path))
                    self._named = True
            except OSError as error:
                self.broken = error
                raise
            self.safe = mark

    def finish(self) -> None:
        """Bring it to the disk and give it its name; an empty one is removed. May be tried again.

        Of one that is broken only what is known to be on the disk stays: ``safe`` tells how much that is.

        Raises:
            OSError: it keeps its temporary name.
        """
        if self._fd >= 0:
            if self.broken is None and self.packets:
                self._sync_all()
            if self.broken is not None:
                self._salvage()
        if isinstance(self.broken, Changed) and not self._is_mine():
            self.leave()
            return
        if not self.safe.packets:
            with contextlib.suppress(*GONE):
                os.unlink(self.part)
        else:
            try:
                publish(self.part, self.path)
            except GONE:
                self.broken, self.safe = Changed(f"{self.part} was removed before it was finished"), Mark()
        self.leave()

    def _sync_all(self) -> None:
        """Bring all of it to the disk, or be broken."""
        try:
            if os.fstat(self._fd).st_size > self.nbytes:
                os.ftruncate(self._fd, self.nbytes)  # what somebody else has put behind it
            self.sync(self.mark)
        except OSError as error:
            self.broken = self.broken or error
        except Changed:
            pass

    def _salvage(self) -> None:
        """Cut it back to what is known to be on the disk; of one that somebody has cut, to whole blocks."""
        if isinstance(self.broken, Changed):
            try:
                self.safe = self._whole(os.fstat(self._fd).st_size) if self._is_mine() else Mark()
            except OSError:
                self.safe = Mark()
        if self.safe.packets:
            self._open_again()
            os.ftruncate(self._fd, self.safe.size)
            os.fsync(self._fd)

    def _is_mine(self) -> bool:
        """Whether the file of this name is still the one that was written."""
        try:
            there = os.lstat(self.part)
        except GONE:
            return False
        return (there.st_dev, there.st_ino) == self._identity

    def _open_again(self) -> None:
        """Where the file system went away beneath it, and another is there now: it may be that one's file."""
        try:
            os.fstat(self._fd)
        except OSError:
            fd = os.open(self.part, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            self.drop()
            self._fd = fd
            if os.fstat(fd).st_ino != self._identity[1]:
                self.drop()
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.part) from None

    def _whole(self, size: int) -> Mark:
        """What is left of it in so many bytes."""
        if size >= self.safe.size and self.safe.packets:
            return self.safe
        if self._pack is not None:
            return Mark()
        return self.section.whole(self._fd)

    def discard(self) -> None:
        """Remove it."""
        with contextlib.suppress(OSError):
            os.unlink(self.part)
        self.drop()

    def leave(self) -> None:
        """Close it as it is.

        Raises:
            OSError: the system says that something was not written; it is closed all the same.
        """
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def drop(self) -> None:
        """Close it as it is, whatever the system says; it keeps its temporary name until the next start."""
        with contextlib.suppress(OSError):
            self.leave()

    def _put(self, parts: Sequence[Part]) -> None:
        if not parts:
            return
        if self._pack is not None:
            parts = [self._pack(b"".join(parts))]
        try:
            written = sum(
                self._write(list(parts[first : first + _IOV_MAX])) for first in range(0, len(parts), _IOV_MAX)
            )
        except BaseException:
            self._back()
            raise
        self.nbytes += written

    def _back(self) -> None:
        """Cut off what was written in part; where even that fails, the file is over."""
        try:
            os.ftruncate(self._fd, self.nbytes)
            os.lseek(self._fd, self.nbytes, os.SEEK_SET)
        except OSError as error:
            self.broken = self.broken or error

    def _write(self, parts: list[Part]) -> int:
        """Write all of a few parts; a disk that fills up takes the first of them, and refuses the next call."""
        total = sum(map(len, parts))
        done = os.writev(self._fd, parts)
        if done < total:
            rest = memoryview(b"".join(parts))
            while done < total:
                done += os.write(self._fd, rest[done:])
        return total


def publish(part: str, path: str) -> None:
    """Give a file on the disk its name, and bring that to the disk too. What somebody else has put there stays.

    Raises:
        OSError: it has it not, or not for certain; it may be tried again.
    """
    if os.path.lexists(path) and os.path.lexists(part):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
    try:
        os.rename(part, path)
    except FileNotFoundError:
        if not os.path.lexists(path):  # else: it was done, and what came behind it was not
            raise
    sync_folder(os.path.dirname(path))


def recover(part: str, *, lines: bool = False) -> int | None:
    """Finish a file that its writer could not: cut it back to its last whole block, or to its last whole line.

    Returns:
        Bytes of the finished file; 0: it held no packet, and is gone; None: it is being written.

    Raises:
        OSError: it is left as it is.
    """
    path = part.removesuffix(PART)
    fd = os.open(part, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        about = os.fstat(fd)
        packed = path.endswith(PACKED)
        size, packets = (whole_frames(fd), None) if packed else (_whole_lines if lines else _whole_blocks)(fd)
        if not size or (packets is not None and not packets):
            os.unlink(part)
            return 0
        if size < about.st_size:
            os.ftruncate(fd, size)
            os.utime(fd, ns=(about.st_atime_ns, about.st_mtime_ns))
        os.fsync(fd)
        publish(part, path)
        return size
    finally:
        os.close(fd)


def _whole_lines(fd: int) -> tuple[int, int]:
    """Bytes at the beginning of a file that are whole lines, and how many there are; zeros are no line."""
    at = size = lines = 0
    while data := os.pread(fd, _READ, at):
        text, zero, _ = data.partition(b"\0")
        lines += text.count(b"\n")
        end = text.rfind(b"\n")
        size = at + end + 1 if end >= 0 else size
        if zero:
            break
        at += len(data)
    return size, lines


def _whole_blocks(fd: int) -> tuple[int, Counter[int]]:
    """Bytes at the beginning of a file that are whole blocks, and the packets among them, by interface."""
    at = 0
    counts: Counter[int] = Counter()
    while True:
        data = os.pread(fd, _READ, at)
        start = 0
        while len(data) - start >= pcapng.MIN_BLOCK:
            kind, total = _HEAD.unpack_from(data, start)
            if total < pcapng.MIN_BLOCK or total & 3 or total > _MAX_BLOCK:
                return at + start, counts
            long = start + total > len(data)
            if long and not (start == 0 and len(data) == _READ):
                break
            end = os.pread(fd, 4, at + total - 4) if long else data[start + total - 4 : start + total]
            if end != data[start + 4 : start + 8]:
                return at + start, counts
            if kind == pcapng.ENHANCED_PACKET:
                counts[_INTERFACE.unpack_from(data, start + 8)[0]] += 1
            start += total
        if start == 0:
            return at, counts
        at += start
