"""``helperd-extcap``: every device and source of a running helperd in Wireshark's and tshark's list of interfaces.

Wireshark starts it often, and waits for it: it imports next to nothing, and asks the control socket only.
"""

import _signal  # type: ignore[import-not-found]
import atexit
import gc
import posix


def main() -> int:
    """Answer the question in this process' own words; return its exit status. See ``shim.main``.

    Nothing is collected at the end, which for a listing would be a sixth of its time: see ``helperd.cli``.
    """
    _signal.signal(_signal.SIGINT, _end_at_once)
    atexit.register(gc.freeze)
    from helperd.extcap import shim

    return shim.main()


def _end_at_once(_number: int, _frame: object) -> None:
    """Answer Ctrl-C, which a terminal sends to tshark and to us, like ``helperd.cli``; a capture traps it."""
    posix._exit(130)
