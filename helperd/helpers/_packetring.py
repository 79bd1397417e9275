"""A packet socket and its ring of blocks, which the kernel fills and we read without a copy.

Rules:
  1. The socket hears nothing until ``bind``: the filter is in place by then, so no packet slips past it.
  2. A block is ours from the moment its status says so until ``release``; the kernel looks at nothing in it
     meanwhile, so it may be written to.
  3. A dead interface leaves the socket as it is; once the interface is up again, packets come again.

::

    block    version u32 | offset to private u32 | status u32 | packets u32 | offset of the first u32 | ...
    packet   next u32 | seconds | nanoseconds | captured | original | status u32 | mac u16 | net u16
             | hash u32 | vlan tag u32 | vlan type u16 | ...  sockaddr_ll at 48  ...  the bytes at ``mac``

Source of facts: Linux, Documentation/networking/packet_mmap.rst and include/uapi/linux/if_packet.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import socket
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from helperd.helpers.sdk import Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from helperd.helpers._packetlink import Framing

BLOCK: Final = 256 << 10
"""Bytes of a block; also the longest packet, with its head. One block becomes one or two frames."""
HEAD: Final = 48
"""Bytes of a packet's head."""

_SOL_PACKET: Final = 263
_ADD_MEMBERSHIP, _RX_RING, _STATISTICS, _VERSION, _RESERVE, _IGNORE_OUTGOING = 1, 5, 6, 10, 12, 23
_V3: Final = 2
_MR_PROMISC: Final = 1
_SO_ATTACH_FILTER: Final = 26
_ETH_P_ALL: Final = 3
_FRAME: Final = 2048  # only its product with the number of frames matters to the third version
_RESERVED: Final = 2  # moves the bytes of an Ethernet packet to a multiple of 4
_STATUS_AT: Final = 8
_USER, _LOSING = 1, 4
_SET = struct.Struct("=I").pack_into
_BLOCK_HEAD = struct.Struct("=3I").unpack_from
_STATISTICS_V3 = struct.Struct("=3I")


_libc = ctypes.CDLL(None, use_errno=True)


class Statistics(NamedTuple):
    """What the kernel counted since it was asked last: packets past the filter, and those without room."""

    packets: int
    drops: int


class PacketRing:
    """An AF_PACKET socket with a receive ring.

    Args:
        buffer: bytes of the ring; rounded up to whole blocks, two at least.
        timeout_ms: how long a block may wait for more packets once it has one.
        framing: what is put in front of the packets; with a cooked header, the kernel takes theirs off.
        program: BPF instructions ``(code, jt, jf, k)``; what the last one returns is the snap length.

    Raises:
        Refused: there is no permission, or no memory.
    """

    def __init__(
        self,
        *,
        buffer: int,
        timeout_ms: int,
        framing: Framing,
        program: Sequence[tuple[int, int, int, int]],
    ) -> None:
        self.framing = framing
        with contextlib.ExitStack() as undo:
            sock = make_socket(cooked=framing.header > 0)
            undo.callback(sock.close)
            sock.setsockopt(_SOL_PACKET, _VERSION, _V3)
            sock.setsockopt(_SOL_PACKET, _RESERVE, _RESERVED + framing.header)
            _attach(sock, program)
            self.blocks = max(2, -(-buffer // BLOCK))
            size = self.blocks * BLOCK
            request = struct.pack("=7I", BLOCK, self.blocks, _FRAME, size // _FRAME, timeout_ms, 0, 0)
            try:
                sock.setsockopt(_SOL_PACKET, _RX_RING, request)
                self.memory = mmap.mmap(sock.fileno(), size, mmap.MAP_SHARED)
            except OSError as error:
                if error.errno not in (errno.ENOMEM, errno.EINVAL, errno.EAGAIN):
                    raise
                raise Refused(
                    f"the kernel has no room for a ring of {size >> 20} MiB ({error.strerror}); "
                    "write a smaller buffer= into the definition",
                    "no-resources",
                ) from None
            undo.pop_all()
        self.socket = sock
        self._anchor = ctypes.c_char.from_buffer(self.memory)
        self.address = ctypes.addressof(self._anchor)
        self.words = memoryview(self.memory).cast("I")
        self._next = 0
        self.losing = False

    def bind(self, index: int, *, promiscuous: bool, loopback: bool) -> None:
        """Begin to hear.

        Args:
            index: number of the interface; 0: all of them.
            promiscuous: also what is for other stations.
            loopback: leave out what is sent, which is heard again as it is received.

        Raises:
            OSError: ENODEV; the interface has gone.
        """
        if promiscuous and index:
            membership = struct.pack("=iHH8x", index, _MR_PROMISC, 0)
            self.socket.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, membership)
        if loopback:
            self.socket.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
        address = struct.pack("=HHi12x", socket.AF_PACKET, socket.htons(_ETH_P_ALL), index)
        if _libc.bind(self.socket.fileno(), address, len(address)):  # Python's own knows no number 0
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def take(self) -> tuple[int, int] | None:
        """The next block.

        Returns:
            The offset in ``memory`` of its first packet, and how many it has, 0 or more; None: the kernel still has
            it.
        """
        at = self._next * BLOCK
        status, packets, first = _BLOCK_HEAD(self.memory, at + _STATUS_AT)
        if not status & _USER:
            return None
        if status & _LOSING:
            self.losing = True
        return at + first, packets

    def release(self) -> None:
        """Give the block that was taken back to the kernel."""
        _SET(self.memory, self._next * BLOCK + _STATUS_AT, 0)
        self._next = (self._next + 1) % self.blocks

    def statistics(self) -> Statistics:
        """What was counted since the last time."""
        self.losing = False
        raw = self.socket.getsockopt(_SOL_PACKET, _STATISTICS, _STATISTICS_V3.size)
        packets, drops, _ = _STATISTICS_V3.unpack(raw)
        return Statistics(packets, drops)

    def error(self) -> int:
        """The socket's pending error (ENETDOWN), which this clears; 0: none."""
        return self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def close(self) -> None:
        """Let go of the interface."""
        self.socket.close()


def make_socket(*, cooked: bool = False) -> socket.socket:
    """A packet socket that hears nothing yet.

    Raises:
        Refused: "no-capability".
    """
    kind = socket.SOCK_DGRAM if cooked else socket.SOCK_RAW
    try:
        return socket.socket(socket.AF_PACKET, kind, 0)
    except OSError as error:
        # The launcher's filter hides the family from helpers that do not declare the capability.
        if error.errno not in {errno.EPERM, errno.EACCES, errno.EAFNOSUPPORT}:
            raise
        raise Refused(
            'no permission to capture: give the helper capabilities = ["net_raw"] in its [[helper]] block',
            "no-capability",
        ) from None


def _attach(sock: socket.socket, program: Sequence[tuple[int, int, int, int]]) -> None:
    rows = b"".join(struct.pack("=HBBI", *row) for row in program)
    memory = ctypes.create_string_buffer(rows, len(rows))
    head = struct.pack("HL" if struct.calcsize("L") == 4 else "H6xQ", len(program), ctypes.addressof(memory))
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, head)
    except OSError as error:
        raise Refused(
            f"the kernel refuses the filter, {len(program)} instructions: {error.strerror}; write a shorter one",
            "bad-definition",
        ) from None
