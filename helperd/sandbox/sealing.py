"""How a helper that is written with the SDK seals itself once its device is open; after that it has what is open, and
nothing else.

    tier 1   coarse filter: no namespaces, mounts, modules, tracing, clocks; socket families as declared
    tier 2   and Landlock: no file but the named ones, no TCP, no abstract socket, no signal to others
    tier 3   and an allow list of forty calls: read, write to its outputs, wait, memory without PROT_EXEC, exit
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NamedTuple

from helperd.sandbox import kernel, landlock, seccomp
from helperd.sandbox.numbers import (
    ALLOWED_NUMBERS,
    HIDDEN_NUMBERS,
    MACHINE,
    NUMBERS,
    PASSING_NUMBERS,
    WRITING,
)
from helperd.sandbox.seccomp import ALLOW, ANY_BIT, KILL, program, refuse, when, when_argument

if TYPE_CHECKING:
    from collections.abc import Iterable


PROT_EXEC = 4


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
        rows = tight(ioctls, outputs)
        if rows:
            seccomp.load(rows)
            reached = 3
        else:
            lacking.append(f"no table of system calls for {MACHINE}")
    return Sealed(reached, tuple(lacking))


def tight(ioctls: Iterable[int] = (), outputs: Iterable[int] = ()) -> bytes:
    """Return the filter of tier 3.

    Args:
        ioctls: request numbers that stay possible, for tuning.
        outputs: descriptors that can be written to; whatever else is open is for reading.

    Returns:
        The program; empty on a machine whose numbers we do not know.
    """
    if not NUMBERS:
        return b""
    rows = [row for number in ALLOWED_NUMBERS for row in when(number, ALLOW)]
    written = [row for fd in outputs for row in when(fd, ALLOW)]
    for entry in WRITING.split():
        rows += when_argument(entry.split(":")[0], 0, written, refuse(errno.EPERM))
    rows += [row for number in PASSING_NUMBERS for row in when(number, refuse(errno.EPERM))]
    for call in ("mmap", "mprotect"):
        rows += when_argument(call, 2, when(PROT_EXEC, refuse(errno.EACCES), ANY_BIT), ALLOW)
    rows += when_argument(
        "ioctl", 1, [row for request in ioctls for row in when(request, ALLOW)], refuse(errno.EPERM)
    )
    rows += [row for number in HIDDEN_NUMBERS for row in when(number, refuse(errno.EACCES))]
    return program(rows, KILL)
