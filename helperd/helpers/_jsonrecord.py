"""JSON records that others have made, of a line or of a table: what is passed on is what was read.

Rules:
  1. A record is decoded once, as strict UTF-8 (a byte order mark is passed over), and the text that was parsed is the
     text that is passed on. Where it says what JSON cannot, a number that is none (NaN, infinite) or one name twice, it
     is written anew: with null, and with the last value, as every reader of JSON takes it.
  2. What is no JSON object or no text is none, and the reason is said by name.
"""

from __future__ import annotations

import json
import re
from math import isfinite
from typing import Any, Final, NamedTuple

from helperd.wire.nesting import DEEPEST, too_deep

_ESCAPED: Final = re.compile(r"\\u[dD]")
_SURROGATE: Final = "a lone surrogate, which is no character"


class NoRecord(ValueError):  # noqa: N818 - a finding, not a failure
    """It is no record; the text says what it is not."""


class Record(NamedTuple):
    """One record.

    Attributes:
        text: what is passed on.
        values: what it says.
        finite: every number in it was one; else it says null instead.
    """

    text: str
    values: dict[str, Any]
    finite: bool


class Reader:
    """Reads JSON objects, one at a time."""

    def __init__(self) -> None:
        self._infinite = self._twice = False
        self._decode = json.JSONDecoder(
            object_pairs_hook=self._object, parse_float=self._float, parse_constant=self._constant
        ).decode

    def read(self, line: bytes) -> Record | None:
        """One line, or one value of a table; None when it is blank.

        Raises:
            NoRecord: it is no record.
        """
        try:
            text = line.decode().removeprefix("\ufeff").strip()
        except UnicodeDecodeError as error:
            raise NoRecord(_no_text(line, error)) from None
        if not text:
            return None
        if too_deep(text):
            raise NoRecord(f"nested deeper than {DEEPEST}")
        self._infinite = self._twice = False
        try:
            values = self._decode(text)
            if isinstance(values, dict) and (self._infinite or self._twice):
                text = _written(values)
            elif isinstance(values, dict) and _ESCAPED.search(text):
                _written(values)
        except UnicodeEncodeError:
            raise NoRecord(f"{_SURROGATE} (an escape)") from None
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            raise NoRecord("not a JSON object")
        return Record(text, values, not self._infinite)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        self._twice = self._twice or len(found) < len(pairs)
        return found

    def _float(self, digits: str) -> float | None:
        value = float(digits)
        if isfinite(value):
            return value
        self._infinite = True
        return None

    def _constant(self, _: str) -> None:
        self._infinite = True


def _no_text(line: bytes, error: UnicodeDecodeError) -> str:
    at = error.start
    if line[at] == 0xED and line[at + 1 : at + 2] >= b"\xa0":
        return f"{_SURROGATE} (byte {at})"
    return f"not UTF-8 (byte {at}, {line[at]:#04x}: {error.reason})"


def _written(values: dict[str, Any]) -> str:
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    text.encode()
    return text
