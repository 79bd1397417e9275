"""The identity of a source: a UUID that is the same after every restart.

``PPPPPPPP-0000-0000-0000-0000DDDDDDDD``: P is the checksum of the helper's name, D of the device's. The
checksum is the protocol's own, so that ``pcapfile`` gives a file the identity that Kismet's helper gives it.
That checksum is 0 for all names of less than 4 bytes: these stand for themselves, so that ``r0`` is not ``r1``.

Source of facts: kismet-protocol.md, sections 1.4, 4.6 and appendix C.
"""

from __future__ import annotations

import re
from itertools import accumulate

_FORM = re.compile(r"[0-9A-F]{8}-[0-9A-F]{4}-[0-9A-F]{4}-[0-9A-F]{4}-[0-9A-F]{12}")


def checksum(data: bytes) -> int:
    """The protocol's checksum, 32 bits; 0 for less than 4 bytes."""
    if len(data) < 4:
        return 0
    return ((sum(data) & 0xFFFF) + (sum(accumulate(data)) << 16)) & 0xFFFFFFFF


def uuid_of(helper: str, device: str) -> str:
    """The UUID of a device, named the way its definition names it.

    Args:
        helper: name of the kind of helper, e.g. ``kismet_cap_pcapfile``.
        device: e.g. the path of a file.
    """
    head = checksum(helper.encode())
    name = device.encode("utf-8", "surrogateescape")
    tail = checksum(name) if len(name) >= 4 else int.from_bytes(name, "big")
    return f"{head:08X}-0000-0000-0000-0000{tail:08X}"


def canonical(text: str) -> str:
    """A UUID as servers print it, in upper case; empty when it is none: some helpers pad theirs with spaces."""
    found = text.strip().upper()
    return found if _FORM.fullmatch(found) else ""
