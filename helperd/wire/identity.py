"""The identity of a source: a UUID that is the same after every restart.

``PPPPPPPP-0000-0000-0000-DDDDDDDDDDDD``: P is the protocol's checksum of the helper's name, D stands for the device.

Rules:
  1. A helper that stands in for Kismet's (``kismet_cap_...``) gives what that one gives: D is the checksum of the
     device's name, and the name itself where it is so short (less than 4 bytes) that the checksum is 0.
  2. Everybody else's D is a hash of the helper's name and of all that tells the device from others. The checksum is
     too weak for that: it is the same for ``host121`` and ``host202``, and would make one device of two.

Source of facts: kismet-protocol.md, sections 1.4, 4.6 and appendix C. The hash is FNV-1a of Fowler, Noll and Vo.
"""

from __future__ import annotations

import re
from itertools import accumulate

_FORM = re.compile(r"[0-9A-F]{8}-[0-9A-F]{4}-[0-9A-F]{4}-[0-9A-F]{4}-[0-9A-F]{12}")
_KISMET = "kismet_cap_"


def checksum(data: bytes) -> int:
    """The protocol's checksum, 32 bits; 0 for less than 4 bytes."""
    if len(data) < 4:
        return 0
    return ((sum(data) & 0xFFFF) + (sum(accumulate(data)) << 16)) & 0xFFFFFFFF


def uuid_of(helper: str, *device: str) -> str:
    """The UUID of a device.

    Args:
        helper: name of the kind of helper, e.g. ``kismet_cap_pcapfile``.
        device: all that tells it from other devices of such helpers: the path of a file; a program's arguments.
    """
    head = checksum(helper.encode())
    names = [name.encode("utf-8", "surrogateescape") for name in device]
    if helper.startswith(_KISMET):
        name = b"\0".join(names)
        tail = checksum(name) if len(name) >= 4 else int.from_bytes(name, "big")
    else:
        tail = _hash(b"\0".join([helper.encode(), *names]))
    return f"{head:08X}-0000-0000-0000-{tail:012X}"


def _hash(data: bytes) -> int:
    """64-bit FNV-1a, folded to 48 bits."""
    found = 0xCBF29CE484222325
    for byte in data:
        found = (found ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return (found >> 48) ^ (found & 0xFFFFFFFFFFFF)


def canonical(text: str) -> str:
    """A UUID as servers print it, in upper case; empty when it is none: some helpers pad theirs with spaces."""
    found = text.strip().upper()
    return found if _FORM.fullmatch(found) else ""
