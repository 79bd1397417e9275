"""The stage of ``helperd demo --live``: a user and a network namespace of our own, and a pair of interfaces in it.

Everything vanishes with the last process in the namespaces. Inside, this user is root over the new network and over
nothing else, so the bundled helper can open a real AF_PACKET socket without anybody's leave.

Source of facts: user_namespaces(7), veth(4), rtnetlink(7); linux/if_link.h, linux/veth.h.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from pathlib import Path
from typing import Final

CAPTURED: Final = "demo0"
TALKING: Final = "demo1"
ADDRESS: Final = "192.0.2.1"  # RFC 5737: for documentation
_NEWUSER, _NEWNET = 0x10000000, 0x40000000
_NEWLINK, _REQUEST, _ACK, _CREATE = 16, 1, 4, 0x600
_IFNAME, _LINKINFO, _INFO_KIND, _INFO_DATA, _PEER = 3, 18, 1, 2, 1
_SET_FLAGS, _SET_ADDRESS = 0x8914, 0x8916
_UP, _MULTICAST = 1, 0x1000


def build_stage() -> None:
    """Move this process into namespaces of its own, and make the pair of interfaces there.

    Raises:
        OSError: the system does not allow it, or has no veth; the message names the step.
    """
    uid, gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEWUSER | _NEWNET):
        raise _failed("user namespaces", ctypes.get_errno())
    try:
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1", encoding="ascii")
    except OSError as error:
        raise _failed("the map of the user namespace", error.errno or 0) from None
    _make_pair()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        name = TALKING.encode()
        address = struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(ADDRESS))
        fcntl.ioctl(sock, _SET_ADDRESS, struct.pack("16s16s", name, address))
        for each in (CAPTURED, TALKING):
            fcntl.ioctl(sock, _SET_FLAGS, struct.pack("16sH14x", each.encode(), _UP | _MULTICAST))


def _attribute(kind: int, content: bytes) -> bytes:
    size = 4 + len(content)
    return struct.pack("=HH", size, kind) + content + bytes(-size % 4)


def _make_pair() -> None:
    empty = bytes(16)  # struct ifinfomsg: nothing is asked for
    peer = empty + _attribute(_IFNAME, TALKING.encode() + b"\0")
    info = _attribute(_INFO_KIND, b"veth") + _attribute(_INFO_DATA, _attribute(_PEER, peer))
    body = empty + _attribute(_IFNAME, CAPTURED.encode() + b"\0") + _attribute(_LINKINFO, info)
    head = struct.pack("=IHHII", 16 + len(body), _NEWLINK, _REQUEST | _ACK | _CREATE, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
        link.send(head + body)
        answer = link.recv(4096)
    (number,) = struct.unpack_from("=i", answer, 16)
    if number:
        raise _failed("a veth pair", -number)


def _failed(what: str, number: int) -> OSError:
    return OSError(number, f"{what}: {os.strerror(number)}")
