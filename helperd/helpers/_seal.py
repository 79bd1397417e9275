"""Seal a helper whose device is open: capabilities first, then files, then system calls.

The launcher says in HELPERD_SEAL how far to go (``helperd.sandbox``); under a Kismet server it is as far as
the kernel can.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from helperd.sandbox import kernel, landlock
from helperd.sandbox.sealing import seal, wanted_tier, warm_up

if TYPE_CHECKING:
    from collections.abc import Iterable


def restrict_thread() -> None:
    """Take from the calling thread what each thread has for itself: capabilities and the view of files.

    Raises:
        OSError: the kernel refuses what it has.
    """
    kernel.capset(0, 0)
    kernel.ambient(0)
    kernel.no_new_privs()
    if wanted_tier() >= 2:
        landlock.restrict((), ())


def seal_process(outputs: Iterable[int], ioctls: Iterable[int]) -> list[str]:
    """Take the same from the calling thread, and narrow the system calls of all threads.

    Args:
        outputs: the descriptors that can still be written to.
        ioctls: the requests that can still be made.

    Returns:
        What the kernel lacks, in words for the user; empty: nothing.

    Raises:
        OSError: the kernel refuses what it has.
    """
    warm_up()
    kernel.capset(0, 0)
    kernel.ambient(0)
    sealed = seal(outputs=outputs, ioctls=ioctls)
    wanted = wanted_tier()
    if sealed.tier >= wanted and not sealed.lacking:
        return []
    lacking = "; ".join(sealed.lacking) or "see helperd doctor"
    return [f"sealed to tier {sealed.tier} of {wanted}: {lacking}"]
