"""Work that may block for ever (a file system that does not answer, a terminal that is stopped), in a thread.

trio has a new word since 0.23 for a thread that is left to itself when its caller is cancelled, and Debian 12 has 0.22.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final, TypeVar, TypeVarTuple

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

_Args = TypeVarTuple("_Args")
_Result = TypeVar("_Result")


def left_alone(run_sync: Callable[..., object]) -> dict[str, Any]:
    """How this ``trio.to_thread.run_sync`` is told to leave a thread alone when its caller is cancelled."""
    known = inspect.signature(run_sync).parameters
    return {"abandon_on_cancel" if "abandon_on_cancel" in known else "cancellable": True}


_LEFT_ALONE: Final = left_alone(trio.to_thread.run_sync)


async def in_thread(
    work: Callable[[*_Args], _Result],
    *args: *_Args,
    limiter: trio.CapacityLimiter | None = None,
) -> _Result:
    """Return what ``work`` returns; when the caller is cancelled meanwhile, the thread is left to itself."""
    return await trio.to_thread.run_sync(work, *args, limiter=limiter, **_LEFT_ALONE)
