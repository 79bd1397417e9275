"""Greeting: which generation to address an unknown helper in, and what was learnt about its program. Pure.

Rules:
  1. The v2 PING first: v2 and v3 helpers answer it, a v0 helper ends within milliseconds; then it is
     started again and addressed in v0. A v0 frame first would end a v3 helper, a v3 frame first both
     others.
  2. The outcome belongs to the program file, so it is remembered under path, device, inode and modification
     time; a new version of the program is a new key.

Facts: kismet-protocol.md, section 1.6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from helperd.wire.generations import GENERATIONS, named

if TYPE_CHECKING:
    from helperd.wire.frames import Generation

AUTO: Final = "auto"
WIRES: Final = (AUTO, *(generation.name for generation in GENERATIONS))
"""What a configuration may say about a helper."""


class Program(NamedTuple):
    """A program file as it was when its generation was learnt.

    Attributes:
        path: what is executed; for a script the script, not its interpreter.
        device: ``st_dev``.
        inode: ``st_ino``.
        mtime_ns: ``st_mtime_ns``.
    """

    path: str
    device: int
    inode: int
    mtime_ns: int


class GenerationCache:
    """What is known about programs; the longest unused is forgotten first.

    Attributes:
        size: how many programs are remembered.
    """

    __slots__ = ("_known", "size")

    def __init__(self, size: int = 256) -> None:
        self.size = size
        self._known: dict[Program, str] = {}

    def __len__(self) -> int:
        return len(self._known)

    def get(self, program: Program) -> str | None:
        """The generation a program is known to speak, or None."""
        known = self._known.pop(program, None)
        if known is not None:
            self._known[program] = known
        return known

    def learn(self, program: Program, generation: str) -> None:
        """A program spoke; what was known of older files at its path is forgotten."""
        for other in [known for known in self._known if known.path == program.path]:
            del self._known[other]
        self._known[program] = generation
        while len(self._known) > self.size:
            del self._known[next(iter(self._known))]

    def forget(self, program: Program) -> None:
        """What was known turned out wrong."""
        self._known.pop(program, None)


def attempts(wire: str = AUTO, known: str | None = None) -> tuple[Generation | None, ...]:
    """How to address a helper: one entry for each start that may be needed, in order.

    An entry is what ``Session(Role.SUPERVISOR, generation=...)`` takes; None greets with the v2 PING. The
    next one is tried when a helper ends, or stays silent, without having sent a whole frame.

    Args:
        wire: what the configuration says: ``"auto"`` or a generation.
        known: what ``GenerationCache.get`` says.

    Raises:
        KeyError: ``wire`` is no generation.
    """
    if wire != AUTO:
        return (named(wire),)
    if known is None:
        return None, named("v0")
    return (named("v0"), None) if known == "v0" else (None,)
