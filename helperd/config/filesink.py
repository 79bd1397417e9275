"""What a sink of type "file" may say, and what only such a sink may."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping

    Refuse = Callable[[str, str], None]

KEYS: Final = (
    "rotate_size",
    "rotate_every",
    "rotate_packets",
    "keep",
    "keep_free",
    "disk_full",
    "compress",
    "file_mode",
    "file_group",
)
"""Keys that mean nothing for a socket."""
DIRECTIVES: Final = "YymdjHMSs%"
_LONGEST: Final = 255 - len("_00001_20261123233512.zst.part")
_DIRECTIVE: Final = re.compile("%(.?)")


def check_path(entry: Mapping[str, Any], refuse: Refuse) -> None:
    """Check what the names of files are made of."""
    path = entry.get("path", "")
    folder, name = os.path.split(path)
    wrong = [found for found in _DIRECTIVE.findall(name) if not found or found not in DIRECTIVES]
    if not path.startswith("/"):
        refuse("path", f'of files must be absolute, such as "/var/lib/helperd/all.pcapng", not {path!r}')
    elif "%" in folder:
        refuse("path", f"may have % in its last part only, not in the directory {folder!r}")
    elif wrong:
        known = ", ".join(f"%{letter}" for letter in DIRECTIVES)
        refuse("path", f"has %{wrong[0]}, which is none of {known}")
    elif len(os.fsencode(name)) > _LONGEST:
        refuse("path", f"has a name of {len(os.fsencode(name))} bytes; {_LONGEST} are possible")


def check(entry: Mapping[str, Any], written: Container[str], refuse: Refuse) -> None:
    """Check the keys of one sink against its type.

    Args:
        entry: the sink's values, defaults included.
        written: the keys that stand in the file.
        refuse: takes a key and what is wrong with its value.
    """
    if entry.get("type") != "file":
        for key in KEYS:
            if key in written:
                refuse(key, 'is for files; write type = "file" or leave it out')
        return
    if entry.get("format") not in {"pcapng", "jsonl"}:
        refuse("format", 'of files is "pcapng" or "jsonl"; frames can be read from a socket')
    if entry.get("overflow") == "disconnect":
        refuse("overflow", 'of files is "drop-oldest" or "wait"; there is nobody to disconnect')
    limits = ("rotate_size", "rotate_every", "rotate_packets")
    if entry.get("keep") and not any(entry.get(key) for key in limits):
        refuse("keep", f"needs a limit for each file: {', '.join(limits[:-1])} or {limits[-1]}")
