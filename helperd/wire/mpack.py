"""Mpack: the part of msgpack that v3 uses, read as strictly as the C readers do.

Rules:
  1. A payload is one map whose keys are non-negative integers; whatever follows it is ignored.
  2. Unknown keys are skipped; a key that is looked up and occurs twice is an error.
  3. Unsigned means unsigned: negative integers, floats and nil are refused. Extension types spoil the whole
     payload.
  4. Nothing is allocated for what is announced, only for what is there; nesting ends at ``MAX_DEPTH``,
     values at ``MAX_VALUES``.

Facts: kismet-protocol.md, section 1.3; the encoding itself is the public msgpack specification.
"""

from __future__ import annotations

import struct
from typing import Final

MAX_DEPTH: Final = 8
MAX_VALUES: Final = 8192
"""Values in one payload; the largest real one, a list of devices, has a few hundred."""


_FLOAT32 = struct.Struct(">f")
_FLOAT64 = struct.Struct(">d")
_FIXED: Final = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
_SIGNED: Final = {0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
_LENGTHS: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}


class Malformed(ValueError):  # noqa: N818 - internal; turned into RemoteProtocolError at the edge
    """The payload is not what it should be; the text says how."""


class Text(bytes):
    """A msgpack str, still as bytes; a plain ``bytes`` is a bin."""

    __slots__ = ()


class Fields:
    """A map with integer keys, and how its values may be read.

    Every reader takes a key and returns the value, or the default when the key is absent.

    Raises (all readers):
        Malformed: the value has the wrong type, or the key occurs twice.
    """

    __slots__ = ("pairs", "twice", "values")

    def __init__(self, pairs: list[tuple[object, object]]) -> None:
        self.pairs = pairs
        self.values: dict[object, object] = {}
        self.twice: set[object] = set()
        for key, value in pairs:
            if isinstance(key, (int, Text)) and not isinstance(key, bool):
                if key in self.values:
                    self.twice.add(key)
                self.values[key] = value

    def __contains__(self, key: int) -> bool:
        return key in self.values

    def _value(self, key: int) -> object:
        if key in self.twice:
            raise Malformed(f"key {key} occurs twice")
        return self.values[key]

    def uint(self, key: int, default: int = 0) -> int:
        """An integer that is not negative."""
        value = self.optional_uint(key)
        return default if value is None else value

    def optional_uint(self, key: int) -> int | None:
        """An integer that is not negative, or None."""
        if key not in self.values:
            return None
        value = self._value(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise Malformed(f"key {key} is not an unsigned integer")
        return value

    def required_uint(self, key: int) -> int:
        """An integer that is not negative and must be there."""
        self._require(key)
        return self.uint(key)

    def signed32(self, key: int) -> int | None:
        """A negative number in the clothes of an unsigned one: two's complement in 32 bits."""
        value = self.optional_uint(key)
        if value is None:
            return None
        if value > 0xFFFFFFFF:
            raise Malformed(f"key {key} does not fit into 32 bits")
        return value - (1 << 32) if value >> 31 else value

    def real(self, key: int) -> float | None:
        """A float of either width or an integer, or None."""
        if key not in self.values:
            return None
        value = self._value(key)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise Malformed(f"key {key} is not a number")
        return float(value)

    def flag(self, key: int) -> bool | None:
        """A real boolean, or None."""
        if key not in self.values:
            return None
        value = self._value(key)
        if not isinstance(value, bool):
            raise Malformed(f"key {key} is not a boolean")
        return value

    def text(self, key: int, default: str = "") -> str:
        """A str; or bin, which some readers take too and no reader is hurt by."""
        if key not in self.values:
            return default
        return as_text(self._value(key), f"key {key}")

    def required_text(self, key: int) -> str:
        """A str that must be there."""
        self._require(key)
        return self.text(key)

    def blob(self, key: int) -> bytes | None:
        """A bin or str as bytes, or None."""
        if key not in self.values:
            return None
        value = self._value(key)
        if not isinstance(value, bytes):
            raise Malformed(f"key {key} is not binary")
        return bytes(value)

    def binary(self, key: int) -> bytes | None:
        """A bin, nothing else, or None."""
        value = self._value(key) if key in self.values else None
        if isinstance(value, Text):
            raise Malformed(f"key {key} is text, binary is required")
        return self.blob(key)

    def fields(self, key: int) -> Fields | None:
        """A map, or None."""
        if key not in self.values:
            return None
        value = self._value(key)
        if not isinstance(value, Fields):
            raise Malformed(f"key {key} is not a map")
        return value

    def texts(self, key: int) -> tuple[str, ...]:
        """An array of str; absent is empty."""
        return tuple(as_text(item, f"key {key}") for item in self._array(key))

    def maps(self, key: int) -> tuple[Fields, ...]:
        """An array of maps; absent is empty."""
        items = self._array(key)
        out = tuple(item for item in items if isinstance(item, Fields))
        if len(out) != len(items):
            raise Malformed(f"key {key} holds something that is not a map")
        return out

    def pairs_of_text(self, key: int) -> tuple[tuple[str, str], ...]:
        """A map of str to str, in its order; absent is empty."""
        inner = self.fields(key)
        if inner is None:
            return ()
        return tuple(
            (as_text(name, f"key {key}"), as_text(value, f"key {key}")) for name, value in inner.pairs
        )

    def _array(self, key: int) -> list[object]:
        if key not in self.values:
            return []
        value = self._value(key)
        if not isinstance(value, list):
            raise Malformed(f"key {key} is not an array")
        return value

    def _require(self, key: int) -> None:
        if key not in self.values:
            raise Malformed(f"key {key} is missing")


def as_text(value: object, what: str) -> str:
    """A msgpack str or bin as text; bytes that are not UTF-8 become escapes: names come from the air."""
    if not isinstance(value, bytes):
        raise Malformed(f"{what} is not text")
    return value.decode("utf-8", "backslashreplace")


def unpack(payload: bytes) -> Fields:
    """Read one map.

    Args:
        payload: a frame's payload.

    Raises:
        Malformed: it does not start with a map that obeys the rules.
    """
    return unpack_from(payload, 0)[0]


def unpack_from(data: bytes, at: int) -> tuple[Fields, int]:
    """Read one map that starts at ``at``; returns it and the offset behind it.

    Raises:
        Malformed: as ``unpack``.
    """
    reader = _Reader(data, at)
    try:
        value = reader.read(0)
    except (IndexError, struct.error):
        raise Malformed("the payload ends in the middle of a value") from None
    if not isinstance(value, Fields):
        raise Malformed("the payload is not a map")
    return value, reader.at


class _Reader:
    """One pass over one payload."""

    __slots__ = ("at", "budget", "data")

    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self.at = at
        self.budget = MAX_VALUES

    def read(self, depth: int) -> object:  # noqa: PLR0911 - one flat table of the format
        """One value."""
        byte = self.data[self.at]
        self.at += 1
        if byte <= 0x7F:
            return byte
        if byte >= 0xE0:
            return byte - 256
        if byte <= 0x8F:
            return self.read_map(byte & 0x0F, depth)
        if byte <= 0x9F:
            return self.read_array(byte & 0x0F, depth)
        if byte <= 0xBF:
            return Text(self.take(byte & 0x1F))
        if byte in _FIXED:
            return int.from_bytes(self.take(_FIXED[byte]), "big")
        if byte in _SIGNED:
            return int.from_bytes(self.take(_SIGNED[byte]), "big", signed=True)
        if byte in _LENGTHS:
            return self.read_long(byte, int.from_bytes(self.take(_LENGTHS[byte]), "big"), depth)
        if byte == 0xC0:
            return None
        if byte in (0xC2, 0xC3):
            return byte == 0xC3
        if byte in (0xCA, 0xCB):
            number: float = (
                _FLOAT32.unpack(self.take(4)) if byte == 0xCA else _FLOAT64.unpack(self.take(8))
            )[0]
            return number
        raise Malformed(f"byte {byte:02x} is an extension type or none at all")

    def read_long(self, byte: int, length: int, depth: int) -> object:
        """A value whose length has its own bytes."""
        if byte <= 0xC6:
            return self.take(length)
        if byte <= 0xDB:
            return Text(self.take(length))
        return self.read_array(length, depth) if byte <= 0xDD else self.read_map(length, depth)

    def take(self, length: int) -> bytes:
        """The next bytes."""
        stop = self.at + length
        if stop > len(self.data):
            raise IndexError
        piece = self.data[self.at : stop]
        self.at = stop
        return piece

    def read_array(self, length: int, depth: int) -> list[object]:
        """``length`` values."""
        self.spend(length, depth)
        return [self.read(depth + 1) for _ in range(length)]

    def read_map(self, length: int, depth: int) -> Fields:
        """``length`` pairs."""
        self.spend(2 * length, depth)
        return Fields([(self.read(depth + 1), self.read(depth + 1)) for _ in range(length)])

    def spend(self, values: int, depth: int) -> None:
        """Refuse what would be too deep or too many before it is read."""
        self.budget -= values
        if depth >= MAX_DEPTH or self.budget < 0:
            raise Malformed(f"nested more than {MAX_DEPTH} deep, or more than {MAX_VALUES} values")


def pack(value: object) -> bytes:
    """Write a value in the smallest form.

    Args:
        value: dict, list or tuple, str, bytes (as bin), bool, int, float (as float64).

    Raises:
        TypeError: anything else; ours to prevent.
        OverflowError: an integer of more than 64 bits, or a container of more than 2**32 - 1 items.
    """
    out: list[bytes] = []
    _write(value, out)
    return b"".join(out)


def _write(value: object, out: list[bytes]) -> None:
    match value:
        case bool():
            out.append(b"\xc3" if value else b"\xc2")
        case int():
            out.append(_int(value))
        case float():
            out.append(b"\xcb" + _FLOAT64.pack(value))
        case str():
            raw = value.encode("utf-8", "surrogatepass")
            out += (_head(len(raw), 0xA0, 31, {1: 0xD9, 2: 0xDA, 4: 0xDB}), raw)
        case bytes():
            out += (_head(len(value), 0, -1, {1: 0xC4, 2: 0xC5, 4: 0xC6}), value)
        case list() | tuple():
            out.append(_head(len(value), 0x90, 15, {2: 0xDC, 4: 0xDD}))
            for item in value:
                _write(item, out)
        case dict():
            out.append(_head(len(value), 0x80, 15, {2: 0xDE, 4: 0xDF}))
            for key, item in value.items():
                _write(key, out)
                _write(item, out)
        case _:
            raise TypeError(f"cannot write a {type(value).__name__}")


def _int(value: int) -> bytes:
    if 0 <= value <= 0x7F:
        return bytes((value,))
    if -32 <= value < 0:
        return bytes((value + 256,))
    codes = _FIXED if value >= 0 else _SIGNED
    for code, size in codes.items():
        try:
            return bytes((code,)) + value.to_bytes(size, "big", signed=value < 0)
        except OverflowError:
            continue
    raise OverflowError(f"{value} needs more than 64 bits")


def _head(length: int, fix: int, fix_max: int, codes: dict[int, int]) -> bytes:
    if length <= fix_max:
        return bytes((fix | length,))
    for size, code in codes.items():
        if length < 1 << (8 * size):
            return bytes((code,)) + length.to_bytes(size, "big")
    raise OverflowError(f"{length} items are too many")
