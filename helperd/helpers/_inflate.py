"""Compressed files as a stream of bytes: gzip with the standard library, zstd with the zstd program.

Rules:
  1. What could be unpacked before a fault is returned; the fault is raised by the next read.
  2. A read returns a bounded piece, however small the file and however much is in it.
"""

from __future__ import annotations

import contextlib
import shutil
import zlib
from typing import TYPE_CHECKING, Final, Protocol

from helperd.errors import HelperdError
from helperd.helpers._program import Program

if TYPE_CHECKING:
    from io import FileIO

READ: Final = 256 << 10
_GZIP_WINDOW: Final = 31  # zlib's word for "gzip, largest window"


class Source(Protocol):
    """Bytes of a recording.

    Attributes:
        compression: what they are compressed with, empty when they are not.
    """

    compression: str

    def read(self) -> bytes:
        """The next bytes; empty at the end.

        Raises:
            HelperdError: "bad-capture"; the compressed file is damaged or cut here.
        """

    def rewind(self) -> None:
        """Begin anew."""

    def close(self) -> None:
        """Let go of the file."""


class Gzip:
    """A gzip file of one member or several.

    Args:
        path: for error texts.
        file: the compressed file; owned from now on.
    """

    compression = "gzip"

    def __init__(self, path: str, file: FileIO) -> None:
        self._path = path
        self._file = file
        self._member = zlib.decompressobj(_GZIP_WINDOW)
        self._packed = b""
        self._fault: HelperdError | None = None

    def read(self) -> bytes:
        """The next piece."""
        if self._fault is not None:
            raise self._fault
        while True:
            if not self._packed:
                self._packed = self._file.read(READ) or b""
            if not self._packed:
                if self._member.eof or self._file.tell() == 0:
                    return b""
                raise HelperdError("bad-capture", f"{self._path} is cut: its gzip stream has no end")
            if self._member.eof:
                if not self._packed.strip(b"\0"):
                    self._packed = b""  # padding
                    continue
                self._member = zlib.decompressobj(_GZIP_WINDOW)
            before = self._member.copy()
            try:
                data = self._member.decompress(self._packed, READ)
            except zlib.error as error:
                self._fault = HelperdError("bad-capture", f"{self._path} is damaged: gzip: {error}")
                data = self._before_the_fault(before)
                if not data:
                    raise self._fault from None
                return data
            self._packed = self._member.unconsumed_tail or self._member.unused_data
            if data:
                return data

    def _before_the_fault(self, member: zlib._Decompress) -> bytes:
        """What the bytes in hand give up to the fault, which may be no more than a wrong checksum at their end."""
        found = bytearray()
        with contextlib.suppress(zlib.error):
            for at in range(len(self._packed)):
                found += member.decompress(self._packed[at : at + 1])
        return bytes(found)

    def rewind(self) -> None:
        """Begin anew."""
        self._fault = None
        self._file.seek(0)
        self._member = zlib.decompressobj(_GZIP_WINDOW)
        self._packed = b""

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


class Zstd:
    """A zstd file, unpacked by the zstd program.

    Args:
        path: for error texts; the program reads the open file, so the path is not looked up again.
        file: the compressed file; owned from now on.
    """

    compression = "zstd"

    def __init__(self, path: str, file: FileIO) -> None:
        self._path = path
        self._file = file
        program = shutil.which("zstd")
        if program is None:
            text = f"{path} is compressed with zstd, and the zstd program is not there; install zstd"
            raise HelperdError("not-installed", text)
        self._argv = [program, "-dcq"]
        self._program: Program | None = None
        self._ended = False

    def read(self) -> bytes:
        """The next piece."""
        if self._ended:  # asked once more, as about a file that has no packets: the program is gone
            return b""
        if self._program is None:
            self._file.seek(0)
            self._program = Program(self._argv, stdin=self._file.fileno())
        data = self._program.read(READ)
        if not data:
            self._ended = True
            if self._program.close():
                reason = self._program.reason()
                raise HelperdError("bad-capture", f"{self._path} is damaged or cut: {reason}")
        return data or b""

    def rewind(self) -> None:
        """Begin anew."""
        self._ended = False
        if self._program is not None:
            self._program.close()
            self._program = None

    def close(self) -> None:
        """Let go of the file and the program."""
        self.rewind()
        self._file.close()
