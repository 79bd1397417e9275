"""The rungs of a stop: ask, term, kill, wait."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rung:
    """One step of a stop: ``ask``, ``term``, ``kill`` or ``wait``, and how long it may take, seconds."""

    name: str
    upto: float


def ladder(*, reason: str = "", obeys_shutdown: bool = False, term_grace: float = 1.0) -> tuple[Rung, ...]:
    """The rungs to climb for a stop.

    Args:
        reason: the problem word that ended the incarnation; ``asked`` or empty for an order.
        obeys_shutdown: the driver knows the Shutdown message.
        term_grace: seconds between TERM and KILL; half of it for a helper that answers nothing any more.
    """
    rungs = [Rung("kill", 5.0), Rung("wait", math.inf)]
    if reason in {"stopped", "stuck-in-kernel", "bug"}:
        return tuple(rungs)
    if reason == "keepalive":
        return (Rung("term", term_grace / 2), *rungs)
    rungs.insert(0, Rung("term", term_grace))
    if obeys_shutdown:
        rungs.insert(0, Rung("ask", 1.0))
    return tuple(rungs)
