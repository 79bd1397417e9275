"""Who answers when no daemon does, and how it is said when nobody can."""

from __future__ import annotations

import sys

from helperd.errors import HelperdError, UnavailableError
from helperd.printing import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from helperd.alone import Alone


def alone(error: HelperdError) -> Alone:
    """What answers without a daemon, which could not be asked for this reason.

    Raises:
        UnavailableError: nothing does; ConfigRefused.
    """
    try:
        from helperd.alone import Alone
    except ModuleNotFoundError as missing:
        text = f"{error.text}; and without one, this Python lacks {missing.name}: apt install python3-{missing.name}"
        raise UnavailableError("no-daemon", text) from None
    return Alone()


def tell(error: HelperdError) -> None:
    """Say on standard error why something cannot be; Wireshark shows it."""
    say(f"helperd: {error}", file=sys.stderr, flush=True)
