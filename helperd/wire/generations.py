"""Generations: the list of them, newest first. A new one is its file and its line here.

Order matters once: v0 has a checksum where the others have a fixed word, so it claims every frame and comes
last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from helperd.wire import v0, v2, v3

if TYPE_CHECKING:
    from helperd.wire.frames import Generation

GENERATIONS: Final[tuple[Generation, ...]] = (v3, v2, v0)


def named(name: str) -> Generation:
    """The generation of that name.

    Raises:
        KeyError: there is none.
    """
    for generation in GENERATIONS:
        if generation.name == name:
            return generation
    raise KeyError(name)
