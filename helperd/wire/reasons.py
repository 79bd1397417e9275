"""The problem words that a helper may give with a reason of its own."""

from __future__ import annotations

REASONS: frozenset[str] = frozenset(
    {
        *("open-refused", "device-gone", "bad-capture", "child-gone", "timed-out", "not-supported"),
        *("not-installed", "exec-failed", "not-permitted", "no-resources", "busy", "bad-definition"),
        *("exited", "bug"),
    }
)
"""The problem words that a helper may give with its own reason (docs/protocol.md)."""


def reason_word(word: str, otherwise: str) -> str:
    """The word that a helper gave as its reason, unless it may not give that one, or gave none."""
    return word if word in REASONS else otherwise
