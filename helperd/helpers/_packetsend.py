"""Bulk frames straight out of the ring: the pieces of one frame leave with one system call.

Rules:
  1. A frame begins only when nothing waits in front of it, so frames leave whole and in order.
  2. What the descriptor does not take is copied and queued at the port, which sends it as any frame; the block
     goes back to the kernel at once.
  3. The port's lock is held from the number of a frame to its last byte.

Layout of a frame: ``helperd.wire.bulk``.
"""

from __future__ import annotations

import ctypes
import errno
import select
import struct
from array import array
from typing import TYPE_CHECKING, Final

from helperd.helpers._packetblock import PER_FRAME, WORD
from helperd.helpers._port import Stopped
from helperd.wire import bulk

if TYPE_CHECKING:
    from helperd.helpers._bulk import BulkWriter
    from helperd.helpers._packetblock import Pieces

POLL_MS: Final = 100  # how long a stop may be overlooked while the peer does not read

_libc = ctypes.CDLL(None, use_errno=True)
_writev = _libc.writev
_writev.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
_writev.restype = ctypes.c_ssize_t
_FRAME = struct.Struct(">QIHHI").pack_into
_INDEX = struct.Struct("<II").pack_into


class BulkSender:
    """Sends pieces as bulk frames.

    Args:
        writer: whose numbers and port are used; it must have agreed on bulk.
    """

    def __init__(self, writer: BulkWriter) -> None:
        self._writer = writer
        self._port, self.interface, self._next_seqno = writer.lease()
        self._head = ctypes.create_string_buffer(bulk.HEADER + 8 + 8 * PER_FRAME)
        self._head_at = ctypes.addressof(self._head)
        self._poll = select.poll()
        self._poll.register(self._port.fd, select.POLLOUT)

    def send(self, pieces: Pieces, *, wait: bool = True) -> bool:
        """Send one frame; waits until the peer has room.

        Args:
            pieces: what it holds.
            wait: False: rather lose it than wait.

        Returns:
            False when it had to be lost.

        Raises:
            Stopped: the helper is ending, or its reader is gone.
        """
        port = self._port
        while True:
            with port.lock:
                self._writer.seal()
                if port.drain():
                    if port.broken:
                        raise Stopped
                    if self._write(pieces):
                        return True
            if not wait:
                return False
            if port.stopping.is_set():
                raise Stopped
            self._poll.poll(POLL_MS)

    def _write(self, pieces: Pieces) -> bool:
        """Write a frame, or nothing of it when there is no room at all; the caller holds the lock."""
        head = self._head
        size = bulk.HEADER + 8 + 8 * len(pieces.runs)
        length = size - bulk.HEADER + pieces.nbytes
        _FRAME(head, 0, 0xDECAFBAD_A9A90003, length, bulk.TYPE, 0, self._next_seqno())
        _INDEX(head, bulk.HEADER, pieces.packets, len(pieces.runs))
        at = bulk.HEADER + 8
        for run in pieces.runs:
            _INDEX(head, at, *run)
            at += 8
        table = array(WORD, (self._head_at, size)) + pieces.table
        written = _writev(self._port.fd, table.buffer_info()[0], len(table) // 2)
        if written < 0:
            number = ctypes.get_errno()
            if number not in (errno.EAGAIN, errno.EINTR):
                self._port.broken = True
                raise Stopped
            return False
        self._writer.written += pieces.packets
        if written < size + pieces.nbytes:
            self._port.put(_rest(table, written))
            self._port.wake()
        return True


def _rest(table: array[int], written: int) -> bytes:
    """What is left of a gathered write."""
    parts = []
    for address, size in zip(table[0::2], table[1::2], strict=True):
        if written < size:
            parts.append(ctypes.string_at(address + written, size - written))
            written = 0
        else:
            written -= size
    return b"".join(parts)
