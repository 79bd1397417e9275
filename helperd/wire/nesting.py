"""How deep JSON may nest. Python's own limit is another in each of its versions, and readers have theirs (jq: 256)."""

from __future__ import annotations

import re
from typing import Final

DEEPEST: Final = 256
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKET: Final = re.compile(r"[\[\]{}]")


def too_deep(text: str) -> bool:
    """Whether arrays and objects of a JSON text stand in each other more than ``DEEPEST`` deep."""
    if text.count("[") + text.count("{") <= DEEPEST:
        return False
    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > DEEPEST:
            return True
    return False
