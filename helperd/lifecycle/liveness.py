"""Is a helper alive? A verdict needs evidence: first rule out ourselves, our consumers and a lack of cpu."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that a liveness verdict may look at. Times are seconds, monotonic.

    Attributes:
        now: when this was gathered.
        life_at: when the last byte was read from the helper (or the window began anew).
        pinged_at: when the *first* PING after ``life_at`` left, or could not leave; None if none was due.
        holding: reads are held because a lossless consumer is full.
        our_lag: our loop was late, or the machine slept, and this was found after the last starved verdict.
        readable: bytes wait in the helper's pipe.
        runnable_starved: the helper wanted the processor and hardly got it, or its cgroup is frozen; found after the
            last starved verdict.
        proc_state: the letter of /proc/PID/stat; empty when it may not be read.
    """

    now: float
    life_at: float
    pinged_at: float | None
    holding: bool = False
    our_lag: bool = False
    readable: bool = False
    runnable_starved: bool = False
    proc_state: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said about a helper's liveness.

    Attributes:
        word: ``ok``, ``stalled-by-consumer``, ``starved`` or ``hung``.
        reason: for hung a problem word; for starved ``ours`` or ``its``; else empty.
        life_at: the window's new beginning; the caller takes it over.
    """

    word: str
    reason: str
    life_at: float

    @property
    def hung(self) -> bool:
        """True when the incarnation is to be ended."""
        return self.word == "hung"


def verdict(evidence: Evidence, deadline: float) -> Verdict:
    """Judge a helper from which nothing came for a while; rule out ourselves and our consumers first.

    Args:
        evidence: gathered at one moment.
        deadline: seconds of silence that are allowed.
    """
    e = evidence
    waited = e.pinged_at is not None and e.now - e.pinged_at >= deadline / 2
    if e.now - e.life_at <= deadline or not waited:
        return Verdict("ok", "", e.life_at)
    if e.holding:
        return Verdict("stalled-by-consumer", "", e.now)
    if e.our_lag:
        return Verdict("starved", "ours", e.now)
    if e.readable:
        return Verdict("ok", "", e.now)
    if e.runnable_starved:
        return Verdict("starved", "its", e.now)
    reason = {"T": "stopped", "t": "stopped", "D": "stuck-in-kernel"}.get(e.proc_state, "keepalive")
    return Verdict("hung", reason, e.life_at)


@dataclass(slots=True)
class Patience:
    """A limit on waiting whose clock stands still while somebody else is to blame.

    Used for ``silence``: ``seen`` at each packet, ``hold`` while a consumer or our own lag is the cause.

    Attributes:
        limit: seconds.
        since: when the wait began, moved on by the time that was held.
    """

    limit: float
    since: float
    held_at: float | None = None

    def seen(self, now: float) -> None:
        """What was waited for came."""
        self.since = now
        if self.held_at is not None:
            self.held_at = now

    def hold(self, now: float, *, held: bool) -> None:
        """Stop the clock, or let it run again; saying the same twice is harmless."""
        if held:
            self.held_at = now if self.held_at is None else self.held_at
        elif self.held_at is not None:
            self.since += now - self.held_at
            self.held_at = None

    def waited(self, now: float) -> float:
        """Seconds waited, without what was held."""
        return (now if self.held_at is None else self.held_at) - self.since

    def over(self, now: float) -> bool:
        """True when the limit is passed."""
        return self.waited(now) > self.limit


@dataclass(slots=True)
class ChildWatch:
    """Watches that a helper which wraps a program keeps its children.

    Attributes:
        needed: living (non-zombie) descendants that must be there once they have been seen.
        grace: seconds with fewer before the helper is judged ``child-gone``.
    """

    needed: int
    grace: float = 0.5
    complete: bool = False
    missing_at: float | None = None

    def gone(self, living: int | None, now: float) -> bool:
        """True when fewer than needed have lived for ``grace``; None (not readable) is no evidence."""
        if living is None or living >= self.needed:
            self.complete = self.complete or living is not None
            self.missing_at = None
            return False
        if not self.complete:
            return False
        if self.missing_at is None:
            self.missing_at = now
        return now - self.missing_at >= self.grace
