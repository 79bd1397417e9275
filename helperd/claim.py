"""A claim on a device: made before a process is asked for, let go when nothing of that process is left.

Rules:
  1. Only who has a device, or is opening it, has a claim; who waits for its next try, or is down, has none.
  2. Claims are for helpers whose devices one process can have at a time (``exclusive``); the others make none.
  3. Two claims meet when they name one device of one helper, or one path, whoever opens it. A wrapped program's device
     is what that program is told: two hosts that one ``ssh`` reaches both have an eth0.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from helperd.wire.definition import COMMON_OPTIONS, SourceDefinition

WRAPPERS: Final = frozenset({"extcap", "jsonlines", "pipe"})
"""Builtin helpers that run another program."""


if TYPE_CHECKING:
    from helperd.config.specs import HelperSpec


@dataclass(slots=True, eq=False)
class Claim:
    """A claim.

    Attributes:
        helper: name of the helper that opens it.
        told: the options of the definition that a wrapped program is told; nothing for other helpers.
        devices: what the device is called: in the definition, and, once it is open, by its helper.
        opened: the helper has opened it.
        decided: it is open, or it is free again.
    """

    helper: str
    devices: frozenset[str]
    told: frozenset[tuple[str, str]] = frozenset()
    opened: bool = False
    decided: trio.Event = field(default_factory=trio.Event)

    def meets(self, other: Claim) -> bool:
        """Whether both are for one device."""
        common = self.devices & other.devices
        if any(name.startswith("/") for name in common):
            return True
        return bool(common) and (self.helper, self.told) == (other.helper, other.told)

    def open(self, name: str) -> None:
        """The device is open; ``name`` is what its helper calls it, if it does."""
        self.devices |= {name} - {""}
        self.opened = True
        self.decided.set()


def devices_of(text: str) -> frozenset[str]:
    """What a definition calls its device: its option ``device``, else its interface; a link in /dev at both ends.

    Raises:
        UsageError: "bad-definition".
    """
    definition = SourceDefinition.parse(text)
    name = definition.get("device") or definition.interface
    return frozenset({name, os.path.realpath(name)} if name.startswith("/dev/") else {name})


def claim_of(helper: HelperSpec, text: str) -> Claim:
    """What opening a definition claims.

    Raises:
        UsageError: "bad-definition".
    """
    told = frozenset[tuple[str, str]]()
    if helper.builtin in WRAPPERS:
        options = SourceDefinition.parse(text).options.items()
        told = frozenset((key, value) for key, value in options if key not in COMMON_OPTIONS)
    return Claim(helper.name, devices_of(text), told)
