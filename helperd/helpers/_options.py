"""The options of a packet's block in somebody else's pcapng, made ready for ours. Pure.

Rules:
  1. Every option is kept, in its order, whether we know it or not. Numbers in the options of a big-endian section are
     turned, where the format says that they are numbers.
  2. What would make a reader give up on the whole stream is left out, and counted: an option of a length that it cannot
     have, one that runs over its block and what stands behind it, one of unknown layout in the other byte order, and
     what is over ``MAX_OPTIONS``.

Source of facts: draft-ietf-opsawg-pcapng, sections 3.5 and 4.3.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final

from helperd.pcapng import OPT_COMMENT, OPT_END, option
from helperd.wire.bulk import is_sound

MAX_OPTIONS: Final = 1 << 17  # bytes of one packet; half of a block that readers take stays for the packet
_SMALL: Final = 64  # bytes of options that are worth remembering: they come again, as flags do
_HASH, _VERDICT, _THREADS = 3, 7, 8
_WHOLE: Final = frozenset({2, 4, 5, 6})  # flags, drop count, packet id, queue: each one number
_CUSTOM: Final = frozenset(
    {2988, 2989, 19372, 19373}
)  # a number, then bytes whose order is their owner's business


def packet_options(body: bytes, at: int, order: str) -> tuple[bytes, int]:
    """Take over the options of one packet.

    Args:
        body: of the block, without its lengths.
        at: where the options begin.
        order: of the section's numbers, ``<`` or ``>``.

    Returns:
        Little-endian options, each padded, without the mark of their end; and how many were left out.
    """
    raw = body[at:]
    return _remembered(raw, order) if len(raw) <= _SMALL else _convert(raw, order)


def _convert(raw: bytes, order: str) -> tuple[bytes, int]:
    found: list[bytes] = []
    at = size = left_out = 0
    while at + 4 <= len(raw):
        code, length = struct.unpack_from(order + "2H", raw, at)
        if code == OPT_END:
            return b"".join(found), left_out
        value = raw[at + 4 : at + 4 + length]
        at += 4 + length + (-length & 3)
        if len(value) < length:
            return b"".join(found), left_out + 1
        if not is_sound(code, length, value[0] if value else 0):
            left_out += 1
            continue
        turned = value if order == "<" else _turned(code, value)
        if turned is None or size + len(turned) + 8 > MAX_OPTIONS:
            left_out += 1
            continue
        found.append(option(code, turned))
        size += len(found[-1])
    return b"".join(found), left_out + (at < len(raw))


_remembered = lru_cache(1024)(_convert)


def sound(options: bytes) -> bytes:
    """Options that an author has made, as they are.

    Raises:
        ValueError: they are none; helperd would refuse the whole frame.
    """
    if packet_options(options, 0, "<") != (options, 0):
        raise ValueError(
            "options: not as pcapng has them, padded and without an end; pcapng.option makes one"
        )
    return options


def _turned(code: int, value: bytes) -> bytes | None:
    """A value of a big-endian section in little-endian; None: its layout is not known."""
    if code in _WHOLE:
        return value[::-1]
    if code == _THREADS:
        return value[3::-1] + value[:3:-1]
    if code == _VERDICT:
        return value[:1] + (value[:0:-1] if value[0] in {1, 2} else value[1:])
    if code in _CUSTOM:
        return value[3::-1] + value[4:]
    return value if code in {OPT_COMMENT, _HASH} else None
