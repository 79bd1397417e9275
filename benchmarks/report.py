"""What a long run ends with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def report(found: dict[str, Any], wrong: list[str], file: Path | None) -> int:
    """Print what was found and what is wrong, keep the first as JSON; return the exit status: 1 if anything is."""
    for word, value in found.items():
        print(f"{word:20} {value}")
    for line in wrong:
        print(f"WRONG: {line}")
    if file:
        file.write_text(json.dumps(found))
    return 1 if wrong else 0
