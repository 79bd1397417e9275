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
from collections import Counter
from typing import TYPE_CHECKING, Final

from helperd import pcapng
from helperd.errors import SinkError
from helperd.sinks.forms import Pcapng
from helperd.sinks.naming import PACKED, PART
from helperd.sinks.zst import whole_frames

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from helperd.routing import Batch, Losses, Part

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_IOV_MAX: Final = 1024
_READ: Final = 1 << 20
_MAX_BLOCK: Final = 64 << 20
_HEAD: Final = struct.Struct("<2I")


def failed(error: OSError, doing: str) -> SinkError:
    """What an error of the file system means to a sink."""
    why = error.strerror or str(error)
    if error.errno in FULL:
        return SinkError("disk-full", f"{doing}: {why}; make room, or let the sink keep fewer files")
    return SinkError("sink-failed", f"{doing}: {why}")


class Section(Pcapng):
    """A pcapng section whose state can be put back, when what it made was not written."""

    def parts_or_none(
        self, taken: Sequence[Batch], lost: Losses, put: Callable[[Sequence[Part]], None]
    ) -> None:
        """Make the parts and put them somewhere; if that raises, they were never made."""
        before = self._announced, self._looked, self._delivered.copy(), self._dropped.copy()
        try:
            put(self.parts(taken, lost))
        except BaseException:
            self._announced, self._looked, self._delivered, self._dropped = before
            raise


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

    Raises:
        OSError: it cannot be made, or its first block does not fit; nothing is left then.
    """

    def __init__(
        self,
        path: str,
        section: Section,
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
        self._pack = pack
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
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

    def put(self, taken: Sequence[Batch], lost: Losses) -> None:
        """Write batches, after what was ``lost`` before them; all or nothing.

        Raises:
            OSError: nothing of it is in the file.
        """
        self.section.parts_or_none(taken, lost, self._put)
        self.packets += sum(batch.packets for batch in taken)

    def end(self, lost: Losses) -> None:
        """Write the totals; where there is no room for them the file goes without."""
        with contextlib.suppress(OSError):
            self._put(self.section.ending(lost))

    def finish(self) -> None:
        """Bring it to the disk and give it its name; an empty one is removed. The last that is done with it.

        Raises:
            OSError: it keeps its temporary name.
        """
        try:
            if self.packets == 0:
                os.unlink(self.part)
                return
            os.fsync(self._fd)
            publish(self.part, self.path)
        finally:
            self.leave()

    def discard(self) -> None:
        """Remove it."""
        with contextlib.suppress(OSError):
            os.unlink(self.part)
        self.leave()

    def leave(self) -> None:
        """Close it as it is."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def removed(self) -> bool:
        """Whether somebody has removed it."""
        return os.fstat(self._fd).st_nlink == 0

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
            os.ftruncate(self._fd, self.nbytes)
            os.lseek(self._fd, self.nbytes, os.SEEK_SET)
            raise
        self.nbytes += written

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
    """Give a file on the disk its name, and bring that to the disk too."""
    os.rename(part, path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def recover(part: str) -> int | None:
    """Finish a file that its writer could not: cut it back to its last whole block.

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
        size, packets = (whole_frames(fd), True) if packed else _whole_blocks(fd)
        if not size or not packets:
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


def _whole_blocks(fd: int) -> tuple[int, bool]:
    """Bytes at the beginning of a file that are whole blocks, and whether there is a packet among them."""
    at, packets = 0, False
    while True:
        data = os.pread(fd, _READ, at)
        start = 0
        while len(data) - start >= pcapng.MIN_BLOCK:
            kind, total = _HEAD.unpack_from(data, start)
            if total < pcapng.MIN_BLOCK or total & 3 or total > _MAX_BLOCK:
                return at + start, packets
            if start + total > len(data):
                if start == 0 and len(data) == _READ:  # longer than one read
                    if os.pread(fd, 4, at + total - 4) != data[4:8]:
                        return at, packets
                    start, packets = total, packets or kind == pcapng.ENHANCED_PACKET
                break
            if data[start + total - 4 : start + total] != data[start + 4 : start + 8]:
                return at + start, packets
            packets = packets or kind == pcapng.ENHANCED_PACKET
            start += total
        if start == 0:
            return at, packets
        at += start
