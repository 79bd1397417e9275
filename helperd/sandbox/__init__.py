"""What confines a helper: seccomp filters, Landlock rules, and the system calls that Python lacks.

The launcher's child loads the coarse filter before exec. A helper that is written with the SDK calls ``seal``
once its device is open; after that it has what is open, and nothing else.

    tier 1   coarse filter: no namespaces, mounts, modules, tracing, clocks; socket families as declared
    tier 2   and Landlock: no file but the named ones, no TCP, no abstract socket, no signal to others
    tier 3   and an allow list of forty calls: read, write to its outputs, wait, memory without PROT_EXEC, exit
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from helperd.sandbox import kernel, numbers, seccomp

if TYPE_CHECKING:
    from collections.abc import Iterable


PRIVATE_DIR = "HELPERD_DIR"
"""The variable that names a directory that a helper may make for itself; the launcher removes it with the helper."""

ASK_TIMEOUT = "HELPERD_ASK_TIMEOUT"
"""The variable that says how many seconds an adapter gives its program to answer a question; 0: any number."""

TERM_GRACE = "HELPERD_TERM_GRACE"
"""The variable that says how many seconds an adapter gives its program between SIGTERM and SIGKILL."""


class Sealed(NamedTuple):
    """What ``seal`` reached: the tier in force, and in words what of the wanted one is lacking."""

    tier: int
    lacking: tuple[str, ...]


def wanted_tier() -> int:
    """Return the tier the launcher asked for in HELPERD_SEAL; 3 when nobody did (under a Kismet server)."""
    text = os.environ.get("HELPERD_SEAL", "3")
    return int(text) if text in {"0", "1", "2", "3"} else 3


def warm_up() -> None:
    """Import what Python opens late, while files can still be opened: tracebacks, codecs."""
    import encodings.ascii
    import encodings.latin_1
    import encodings.utf_8
    import linecache
    import traceback

    linecache.lazycache("", {})
    traceback.format_exc()
    _ = encodings


def seal(
    tier: int | None = None,
    *,
    read: Iterable[str] = (),
    write: Iterable[str] = (),
    ioctls: Iterable[int] = (),
    outputs: Iterable[int] = (2, 4),
) -> Sealed:
    """Give up everything this process has not open already; there is no way back.

    Call it in the only thread (Landlock and filters go to later threads, which tier 3 does not allow to
    begin).

    Args:
        tier: 0 to 3; None: ``wanted_tier()``.
        read: files and directories that stay readable (tier 2 only: tier 3 opens nothing).
        write: the same, writable.
        ioctls: request numbers that stay possible in tier 3, for tuning.
        outputs: the descriptors that can be written to in tier 3: standard error, and where the launcher puts the
            frames' way out. Whatever else is open, such as a packet socket, can be read and waited for.

    Returns:
        The tier in force and what is lacking; below ``tier`` only where the kernel or the machine lacks
        something.

    Raises:
        OSError: the kernel refuses what it has. The process must end then.
    """
    from helperd.sandbox import landlock  # which the launcher does without

    tier = wanted_tier() if tier is None else tier
    lacking: list[str] = []
    reached = min(tier, 1)
    warm_up()
    kernel.no_new_privs()
    if tier >= 2:
        lacking = landlock.restrict(read, write)
        if landlock.abi():
            reached = 2
    if tier >= 3:
        program = seccomp.tight(ioctls, outputs)
        if program:
            seccomp.load(program)
            reached = 3
        else:
            lacking.append(f"no table of system calls for {numbers.MACHINE}")
    return Sealed(reached, tuple(lacking))


__all__ = ["ASK_TIMEOUT", "PRIVATE_DIR", "TERM_GRACE", "Sealed", "seal", "wanted_tier", "warm_up"]
