"""A network namespace of the test's own with a veth pair in it: hda sends, hdb is captured on."""

import contextlib
import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import time
from pathlib import Path

from tests.conftest import demand
from tests.patience import HANGS_S

CLONE_NEWNET = 0x40000000
PROTOCOL = 0x88B5  # for local experiments
SIOCGIFFLAGS, IFF_RUNNING = 0x8913, 0x40
_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def namespace():
    """The calling thread, and all it starts, live in a fresh namespace; it vanishes with the last of them."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        assert _libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        try:
            for name in ("default", "all"):
                Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
            yield
        finally:
            assert _libc.setns(home, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    finally:
        os.close(home)


def ip(words):
    """Run ip(8)."""
    subprocess.run(["ip", *words.split()], check=True, capture_output=True)


def pair():
    """Make the pair, both ends up and, what the kernel does some time later, carrying: until then it drops frames."""
    ip("link add hda type veth peer name hdb")
    ip("link set hda up")
    ip("link set hdb up")
    until = time.monotonic() + HANGS_S
    while not (carries("hda") and carries("hdb")):
        assert time.monotonic() < until, "no carrier"
        time.sleep(0.002)


def carries(interface):
    """Whether an interface is up and has a carrier."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        found = fcntl.ioctl(asked, SIOCGIFFLAGS, struct.pack("16sh14x", interface.encode(), 0))
    return bool(struct.unpack_from("H", found, 16)[0] & IFF_RUNNING)


def frame(number, size=64, *, tag=None, kind=PROTOCOL):
    """A numbered Ethernet frame: the number is in the four bytes behind the protocol."""
    addresses = b"\2\0\0\0\0\2\2\0\0\0\0\1"
    vlan = b"" if tag is None else struct.pack(">HH", 0x8100, tag)
    return (addresses + vlan + struct.pack(">HI", kind, number)).ljust(size, bytes([number & 255]))


class Sender:
    """Sends whole frames from one end."""

    def __init__(self, interface="hda"):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.socket.bind((interface, 0))
        self.interface = interface

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.socket.close()

    def send(self, frames):
        for content in frames:
            self.socket.send(content)


def numbers(packets):
    """The numbers of our own frames among captured packets, in order."""
    mark = struct.pack(">H", PROTOCOL)
    return [
        struct.unpack_from(">I", content, 14)[0] for _, _, content, _ in packets if content[12:14] == mark
    ]


def statistic(interface, name):
    """One of an interface's own counters, e.g. ``tx_dropped``."""
    shown = subprocess.run(["ip", "-s", "-j", "link", "show", interface], check=True, capture_output=True)
    side, word = name.split("_")
    return json.loads(shown.stdout)[0]["stats64"][side][word]


class Tun:
    """A tun device whose hardware is of any kind, and a writer of packets that it then receives.

    Args:
        kind: an ARPHRD_ value.
        name: of the device.
    """

    SET_DEVICE, SET_KIND = 0x400454CA, 0x400454CD  # TUNSETIFF, TUNSETLINK
    TUN = 1

    def __init__(self, kind, name="hdt"):
        demand("tun")
        self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(self.fd, self.SET_DEVICE, struct.pack("16sH22x", name.encode(), self.TUN))
            fcntl.ioctl(self.fd, self.SET_KIND, kind)
            ip(f"link set {name} up")
        except BaseException:
            os.close(self.fd)
            raise

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        os.close(self.fd)

    def receive(self, protocol, content):
        """Let the device receive a packet of an Ethernet protocol, or whatever its kind has in that place."""
        os.write(self.fd, struct.pack(">HH", 0, protocol) + content)
