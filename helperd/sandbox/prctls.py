"""``prctl``: python-prctl, or what stands in for it; and why it is not the former.

The launcher of root insists on python-prctl; see ``door.check_surroundings``.
"""

from __future__ import annotations

from typing import Final

try:
    import prctl

    _reason = ""
except ImportError as error:  # absent, made for another Python, or without its library
    from helperd.sandbox import attributes as prctl  # type: ignore[no-redef]

    _reason = str(error)

LACKING: Final = _reason

__all__ = ["LACKING", "prctl"]
