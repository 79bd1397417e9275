"""The command line that Wireshark writes, the sentences it reads, and the names of our interfaces. Pure.

Rules:
  1. An interface is ``helperd`` (all sources), ``helperd.SOURCE`` or ``helperd.HELPER.DEVICE``: names of sources and
     helpers have no dot. What Wireshark might stumble over in a device's name is written as ``%XX``.
  2. A sentence is one line of ``{key=value}``; no value has a brace, a line end or a control character.
  3. Options that are not Wireshark's own are the driver's.

Source of facts: Wireshark's extcap(4) manual page.
"""

from __future__ import annotations

import re

from helperd.errors import UsageError
from helperd.visible import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

ALL: Final = "helperd"
_UNSAFE: Final = re.compile("[^A-Za-z0-9:@/+_-]")
_FLAGS: Final = frozenset(
    {"extcap-interfaces", "extcap-dlts", "extcap-config", "capture", "help", "version", "debug"}
)
_VALUES: Final = frozenset(
    {
        "extcap-version",
        "extcap-interface",
        "extcap-reload-option",
        "extcap-capture-filter",
        "extcap-control-in",
        "extcap-control-out",
        "fifo",
        "runtime-dir",
        "debug-file",
    }
)


class Words:
    """A command line, taken apart.

    Attributes:
        flags: Wireshark's words without a value, without hyphens.
        values: Wireshark's words with one.
        options: the driver's, in the order given; empty ones are left out.
    """

    __slots__ = ("flags", "options", "values")

    def __init__(self, flags: frozenset[str], values: dict[str, str], options: dict[str, str]) -> None:
        self.flags = flags
        self.values = values
        self.options = options


class Place:
    """What an interface's name means: all sources, one source, or a helper's device."""

    __slots__ = ("device", "helper", "source")

    def __init__(self, source: str = "", helper: str = "", device: str = "") -> None:
        self.source = source
        self.helper = helper
        self.device = device


def parse(argv: list[str]) -> Words:
    """Take a command line apart.

    Raises:
        UsageError: "usage"; a word that is no option, or lacks its value.
    """
    flags, values, options = set(), {}, {}
    rest = iter(argv)
    for word in rest:
        name, equals, value = word.partition("=")
        if not name.startswith("--") or len(name) < 3:
            raise UsageError("usage", f"{word!r} is no option; helperd-extcap --help lists them")
        name = name[2:]
        if name in _FLAGS and not equals:
            flags.add(name)
            continue
        if not equals:
            found = next(rest, None)
            if found is None and name == "extcap-version":
                found = ""
            if found is None:
                raise UsageError("usage", f"--{name} needs a value")
            value = found
        if name in _VALUES:
            values[name] = value
        elif name.startswith("extcap-"):
            raise UsageError("usage", f"--{name}: no such option; helperd-extcap --help lists them")
        elif value:
            options[name] = value
    return Words(frozenset(flags), values, options)


def interface_of(place: Place) -> str:
    """The name that Wireshark knows a place by."""
    if place.helper:
        device = _UNSAFE.sub(
            lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), place.device
        )
        return f"{ALL}.{place.helper}.{device}"
    return f"{ALL}.{place.source}" if place.source else ALL


def place_of(interface: str) -> Place:
    """What a name means.

    Raises:
        UsageError: "usage"; it is none of ours.
    """
    head, *parts = interface.split(".", 2)
    if head == ALL and all(parts):
        if not parts:
            return Place()
        if len(parts) == 1:
            return Place(source=parts[0])
        raw = re.sub(rb"%([0-9A-F]{2})", lambda found: bytes([int(found[1], 16)]), parts[1].encode())
        return Place(helper=parts[0], device=raw.decode("utf-8", "replace"))
    raise UsageError("usage", f"{interface!r} is no interface of helperd; --extcap-interfaces lists them")


def sentence(word: str, **pairs: object) -> str:
    """One line for Wireshark; pairs that are None are left out."""
    said = "".join(f"{{{key}={plain(value)}}}" for key, value in pairs.items() if value is not None)
    return f"{word} {said}"


def plain(value: object) -> str:
    """A value without what would end it."""
    text = str(value).translate({ord("{"): "(", ord("}"): ")"})
    return visible(text)[:200]
