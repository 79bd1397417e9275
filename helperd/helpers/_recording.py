"""Recordings on disk: capture files, plain or compressed, and Kismet's logs; each can be read again and again.

Rules:
  1. The first bytes decide what a file is, never its name.
  2. Opening looks at the head and refuses what is no recording; what is wrong further on is raised after every
     whole packet before it.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from io import FileIO
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from helperd.errors import HelperdError, OpenRefused
from helperd.helpers._capturefile import CaptureParser
from helperd.helpers._leftout import LeftOut

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from helperd.helpers._capturefile import Captured
    from helperd.helpers._inflate import Source
    from helperd.wire.messages import Gps, Signal

READ: Final = 256 << 10
GZIP: Final = b"\x1f\x8b\x08"
ZSTD: Final = b"\x28\xb5\x2f\xfd"
SQLITE: Final = b"SQLite format 3\0"


class Entry(NamedTuple):
    """One packet of a recording, or one JSON record: then ``record`` is its type and ``data`` its text.

    ``signal`` and ``gps`` only where the recording has them.
    """

    dlt: int
    timestamp_ns: int | None
    data: bytes
    original: int
    options: bytes = b""
    signal: Signal | None = None
    gps: Gps | None = None
    record: str = ""


class Recording(Protocol):
    """A file that can be replayed.

    Attributes:
        dlt: link type of the first packet; None: it has no packets.
        kind: what the file is, for people.
        odd: packets that are not as the file says, by reason, as in ``CaptureParser``; ``batches`` counts on.
        left_out: what of it is not passed on; ``batches`` counts on.
    """

    dlt: int | None
    kind: str
    odd: Counter[str]
    left_out: LeftOut

    def batches(self) -> Iterator[Sequence[tuple[Any, ...]]]:
        """All packets from the beginning, some at a time, in order: ``Entry``, or its first five fields.

        Raises:
            HelperdError: "bad-capture"; the file is damaged here.
        """

    def close(self) -> None:
        """Let go of the file."""


def open_recording(path: str) -> Recording:
    """Open a file and look at its head.

    Raises:
        OpenRefused: it cannot be opened, or is no recording; the text says why and what to do.
    """
    file = open_file(path)
    try:
        head = file.read(16)
        file.seek(0)
        try:
            if head == SQLITE:
                from helperd.helpers._kismetdb import KismetDb

                file.close()
                return KismetDb(path)
            return CaptureRecording(path, _source(path, file, head))
        except HelperdError as error:
            raise OpenRefused(error.problem, error.text) from None
    except BaseException:
        file.close()
        raise


def _source(path: str, file: FileIO, head: bytes) -> Source:
    """The file's bytes, whatever they are compressed with."""
    if head.startswith(GZIP):
        from helperd.helpers._inflate import Gzip

        return Gzip(path, file)
    if head.startswith(ZSTD):
        from helperd.helpers._inflate import Zstd

        return Zstd(path, file)
    return Plain(file)


def open_file(path: str) -> FileIO:
    """Open a regular file for reading, or say why not; never waits for a FIFO's other end.

    Raises:
        OpenRefused: "open-refused", "not-permitted".
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise OpenRefused("open-refused", f"{path} does not exist") from None
    except PermissionError:
        text = f"{path} may not be read by uid {os.getuid()}; give the helper's user or group read access"
        raise OpenRefused("not-permitted", text) from None
    except (OSError, ValueError) as error:
        raise OpenRefused("open-refused", f"{path} cannot be opened: {error}") from None
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return FileIO(fd)
    os.close(fd)
    if stat.S_ISDIR(mode):
        raise OpenRefused("open-refused", f"{path} is a directory, not a capture file")
    raise OpenRefused(
        "open-refused", f"{path} is not a regular file; for FIFOs and programs use the pipe helper"
    )


class Plain:
    """An uncompressed file."""

    compression = ""

    def __init__(self, file: FileIO) -> None:
        self._file = file

    def read(self) -> bytes:
        """The next bytes; empty at the end."""
        return self._file.read(READ) or b""

    def rewind(self) -> None:
        """Begin anew."""
        self._file.seek(0)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


class CaptureRecording:
    """A pcap or pcapng file.

    Args:
        path: for error texts.
        source: its bytes; owned from now on.
    """

    def __init__(self, path: str, source: Source) -> None:
        self._path = path
        self._source = source
        self._head: bytes | None = source.read()
        parser = CaptureParser(path)
        captured = parser.feed(self._head) if self._head else []
        while not captured and parser.dlt is None:
            data = source.read()
            if not data:
                parser.finish()
                break
            self._head = None  # a long preamble: read again from the beginning
            captured = parser.feed(data)
        else:
            if not captured and self._head is not None and len(self._head) < READ and not source.compression:
                parser.finish()
        if self._head is None:
            source.rewind()
        else:
            parser.check_variant(self._head)
        self.dlt: int | None = captured[0][0] if captured else parser.dlt
        self.odd: Counter[str] = Counter()
        self.left_out = LeftOut()
        self.unpacked_by_program = source.compression == "zstd"
        self.kind = f"{parser.format} file" + (f", {source.compression}" if source.compression else "")

    def batches(self) -> Iterator[list[Captured]]:
        """All packets from the beginning."""
        parser = CaptureParser(self._path)
        parser.odd, parser.left_out = self.odd, self.left_out
        data = self._head if self._head is not None else self._source.read()
        self._head = None
        while data:
            yield parser.feed(data)
            data = self._source.read()
        parser.finish()
        self._source.rewind()

    def close(self) -> None:
        """Let go of the file."""
        self._source.close()
