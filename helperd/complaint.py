"""What programs of other people complain of, where the cure lies outside them: their words, and what to do here.

Rules:
  1. The helper's own words come first and stay as they are; what we know is put behind them.
  2. Each entry says where it can be looked up.
"""

from __future__ import annotations

import os
import re
from typing import Final

WIFI_LOCK: Final = "/tmp/.kismet_cap_linux_wifi_interface_lock"  # noqa: S108 - where that program has it
"""Made by Kismet's Wi-Fi helper at each start, with a mode that lets in its owner alone, and never removed; in a
directory with the sticky bit nobody else but root can remove it either (kismet-protocol.md, H20; Kismet's own
documentation of its Wi-Fi source, "Lockfiles")."""


def with_cure(text: str) -> str:
    """A helper's reason, with the cure behind it if we know one."""
    if re.search(r"lock ?file", text, re.IGNORECASE) and "interface" in text.lower():
        return f"{text.rstrip('. ')}; {_wifi_lock()}"
    return text


def _wifi_lock() -> str:
    try:
        owner = f"is user {os.lstat(WIFI_LOCK).st_uid}'s, who alone may open it"
    except OSError:
        owner = "may be opened by its owner alone"
    return (
        f"{WIFI_LOCK} {owner}: remove it (sudo rm {WIFI_LOCK}), let no Kismet server capture here, and let all blocks "
        'of kismet_cap_linux_wifi have uid = "shared"'
    )
