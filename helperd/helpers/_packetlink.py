"""Network interfaces: what they are, and when they go down, come back and vanish.

Rules:
  1. The kernel is asked by ``ioctl`` on any socket and by netlink; both need no privilege, and speak of the
     namespace this process is in, as /sys may not.
  2. A watch opens its socket before a sealed helper loses the right to, and only reads afterwards; what it may
     still ask are ``IOCTLS``.

Source of facts: netdevice(7), rtnetlink(7), Linux's include/uapi/linux/if_arp.h and Documentation/ABI/testing/
sysfs-class-net-dsa; link types: libpcap's
documentation of LINKTYPE_ values.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
from enum import IntEnum
from typing import Final, NamedTuple

from helperd.helpers.sdk import Refused

MAX_NAME: Final = 15
ANY: Final = "any"
"""What stands for all interfaces at once, as in tcpdump; one that is really called so cannot be captured on alone."""
RAW_IP: Final = 101


class Framing(IntEnum):
    """What is put in front of a packet that the kernel hands over; the value is its bytes."""

    PLAIN = 0
    """Nothing, but a VLAN tag that was taken off is put back."""
    CAN = 1
    """Nothing, but its fields are put into the byte order that its link type demands."""
    SLL = 16
    """A cooked header of the first version."""
    SLL2 = 20
    """A cooked header of the second version, which has the number of the interface."""

    @property
    def header(self) -> int:
        """Bytes of the header."""
        return self if self >= Framing.SLL else 0


LINKTYPES: Final = {
    1: (1, Framing.PLAIN),  # Ethernet
    772: (1, Framing.PLAIN),  # loopback
    280: (227, Framing.CAN),
    801: (105, Framing.PLAIN),  # 802.11
    802: (119, Framing.PLAIN),  # with a Prism header
    803: (127, Framing.PLAIN),  # with radiotap
    804: (230, Framing.PLAIN),  # 802.15.4, no checksum behind it
    824: (253, Framing.SLL),  # netlink: its family stands in the header
    826: (271, Framing.PLAIN),  # vsock monitor
    65534: (RAW_IP, Framing.PLAIN),  # tun, WireGuard and their like: no header at all
}
"""Kind of hardware (ARPHRD_) to LINKTYPE of its packets and what is put in front of them.

Only where the bytes are certain. So 519 (raw IP, but multiplexed below some modems) and 805 (802.15.4 with a checksum
behind it) are not here, nor are PPP, tunnels and whatever else has a header on some drivers and none on others.
"""
TAGGED: Final = {"brcm": 281, "brcm-prepend": 282, "dsa": 284, "edsa": 285}
"""How an Ethernet interface before a switch marks the switch's ports (DSA), and the LINKTYPE for that. Marks
that keep the shape of an Ethernet packet are not here."""
COOKED: Final = (276, Framing.SLL2)
"""The same for all others, and for all interfaces at once: the kernel takes their own header off."""

_ETHERNET: Final = 1
_DLT_RAW: Final = 12
_NAME, _FLAGS, _ADDRESS, _ETHTOOL = 0x8910, 0x8913, 0x8927, 0x8946
IOCTLS: Final = (_NAME, _FLAGS)
"""What a watch asks when news were lost."""
_DRIVER: Final = 3
_UP, _LOOPBACK = 1, 8
_NEW_LINK, _DEL_LINK = 16, 17
_LINKS: Final = 1
_MESSAGE = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")


class Link(NamedTuple):
    """One interface.

    Attributes:
        name: as the system shows it.
        number: what the kernel calls it; 0: all of them.
        kind: what hardware it is, an ARPHRD_ value; -1: of any kind.
        up: it is up.
        loopback: it is one.
        driver: name and place of its driver; empty: not known.
        tagging: how it marks the ports of the switch behind it; empty: there is none.
    """

    name: str
    number: int
    kind: int
    up: bool
    loopback: bool
    driver: str
    tagging: str = ""

    @property
    def linktype(self) -> int:
        """LINKTYPE of its packets as we hand them on."""
        if self.kind == _ETHERNET and self.tagging in TAGGED:
            return TAGGED[self.tagging]
        return LINKTYPES.get(self.kind, COOKED)[0]

    @property
    def framing(self) -> Framing:
        """What has to be done to its packets for that."""
        return LINKTYPES.get(self.kind, COOKED)[1]

    @property
    def dlt(self) -> int:
        """The link type as libpcap's programs number it in memory."""
        return _DLT_RAW if self.linktype == RAW_IP else self.linktype


def check_name(name: str) -> None:
    """Refuse what cannot be the name of an interface.

    Raises:
        Refused: "bad-definition".
    """
    odd = (
        not name or name in {".", ".."} or any(c in "/:%" or c.isspace() or not c.isprintable() for c in name)
    )
    if odd or len(os.fsencode(name)) > MAX_NAME:
        raise Refused(
            f"{name[:40]!r} is no name of an interface: 1 to {MAX_NAME} characters without spaces, / or :; "
            "ip link shows the names",
            "bad-definition",
        )


def names() -> list[str]:
    """All interfaces, in the order of their numbers."""
    return [name for _, name in sorted(socket.if_nameindex())]


def look(name: str) -> Link:
    """What an interface is now, or ``ANY``.

    Raises:
        Refused: it does not exist.
    """
    if name == ANY:
        return Link(ANY, 0, -1, True, False, "")  # noqa: FBT003 - up, no loopback
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        raw = os.fsencode(name)
        try:
            index = socket.if_nametoindex(name)
            request = struct.pack("16s24x", raw)
            flags = struct.unpack_from("=H", fcntl.ioctl(sock, _FLAGS, request), 16)[0]
            kind = struct.unpack_from("=H", fcntl.ioctl(sock, _ADDRESS, request), 16)[0]
        except OSError as error:
            raise Refused(
                f"no such interface: {name}; there are {', '.join(names()) or 'none'}"
                if error.errno in {None, errno.ENODEV, errno.ENXIO}
                else f"{name}: {error.strerror}"
            ) from None
        up, loopback = bool(flags & _UP), bool(flags & _LOOPBACK)
        return Link(name, index, kind, up, loopback, _driver(sock, raw), tagging(name, index))


def tagging(name: str, index: int, root: str = "/sys/class/net") -> str:
    """How an interface marks the ports of the switch behind it; empty where it does not, or where nobody can tell.

    Args:
        name: of the interface.
        index: its number: /sys may be of another namespace, and speak of another interface of that name.
        root: where the interfaces are.
    """
    said = []
    for file in ("ifindex", "dsa/tagging"):
        try:
            with open(f"{root}/{name}/{file}", encoding="ascii") as lines:
                said.append(lines.readline().strip())
        except (OSError, ValueError):
            return ""
    return said[1] if said[0] == str(index) else ""


def _driver(sock: socket.socket, name: bytes) -> str:
    """Driver and bus address, e.g. ``e1000e 0000:00:1f.6``; empty when the driver does not say."""
    answer = ctypes.create_string_buffer(struct.pack("=I192x", _DRIVER), 196)
    try:
        fcntl.ioctl(sock, _ETHTOOL, struct.pack("16sP16x", name, ctypes.addressof(answer)))
    except OSError:
        return ""
    driver, place = struct.unpack_from("=4x32s64x32s", answer.raw)
    words = [text.split(b"\0")[0].decode("utf-8", "replace") for text in (driver, place)]
    return " ".join(word for word in words if word and word != "N/A")


class Watch:
    """Tells what happens to one interface; all of them at once (0) never go.

    Attributes:
        up: it was up when last heard of.
        gone: it does not exist any more.
    """

    def __init__(self, index: int, *, up: bool) -> None:
        self._index = index
        self.up = up
        self.gone = False
        self._unsure = True  # something may have happened before this socket heard of it
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self.socket = socket.socket(socket.AF_NETLINK, kind, 0)
        try:
            self.socket.bind((0, _LINKS))
        except BaseException:
            self.socket.close()
            raise

    def read(self) -> None:
        """Take the news there is; the first time, and when some were lost, the present state too."""
        while True:
            try:
                data = self.socket.recv(65536)
            except BlockingIOError:
                if not self._unsure:
                    return
                self._unsure = False
                self._look()  # now: what was read before is older
                continue
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._unsure = True  # news were lost
                continue
            self._take(data)

    def _look(self) -> None:
        """Look at the present state, as a sealed helper may: it sends nothing, not even a question."""
        while self._index:
            try:
                name = fcntl.ioctl(self.socket, _NAME, struct.pack("16si20x", b"", self._index))[:16]
            except OSError as error:
                if error.errno not in {errno.ENODEV, errno.ENXIO}:
                    raise
                self.gone = True
                return
            try:
                answer = fcntl.ioctl(self.socket, _FLAGS, name + bytes(24))
            except OSError as error:
                if error.errno != errno.ENODEV:
                    raise
                continue  # it has just been renamed, or removed
            self.up = bool(struct.unpack_from("=H", answer, 16)[0] & _UP)
            return

    def _take(self, data: bytes) -> None:
        at = 0
        while at + _MESSAGE.size <= len(data):
            size, kind, _, _, _ = _MESSAGE.unpack_from(data, at)
            if size < _MESSAGE.size or at + size > len(data):
                return
            body = at + _MESSAGE.size
            if kind in {_NEW_LINK, _DEL_LINK} and size >= _MESSAGE.size + _LINK.size:
                family, _, index, flags, _ = _LINK.unpack_from(data, body)
                if index == self._index and not family:  # a bridge tells of its ports in a family of its own
                    self.up = bool(flags & _UP)
                    self.gone = self.gone or kind == _DEL_LINK
            at += size + 3 & -4

    def close(self) -> None:
        """Stop listening."""
        self.socket.close()
