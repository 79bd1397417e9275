"""Source definitions: ``wlan0:type=linuxwifi,channels="1,6,11"``.

    definition = interface [ ":" option *( "," option ) ]        option = key "=" value

Rules:
  1. The interface ends at the first colon. Keys are lower-cased; of two equal keys the last one counts.
  2. A quote toggles quoting anywhere in a value and is removed; a comma inside quotes is literal; nothing
     escapes a quote.
  3. A part without ``=`` continues the value before it, because servers send unquoted comma lists
     (kismet-protocol.md, 5.2).
  4. Text that we write quotes what needs it and puts quoted options last, because old readers stumble
     behind them.

Facts: kismet-protocol.md, section 5.
"""

from __future__ import annotations

import math
import re
from types import MappingProxyType
from typing import TYPE_CHECKING, overload

from helperd.errors import UsageError
from helperd.wire.record import record, replace

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

COMMON_OPTIONS = frozenset(
    {
        "type",
        "name",
        "uuid",
        "retry",
        "timestamp",
        "channel",
        "channels",
        "add_channels",
        "block_channels",
        "channel_hop",
        "channel_hoprate",
        "metagps",
        "info_antenna_type",
        "info_antenna_gain",
        "info_antenna_orientation",
        "info_antenna_beamwidth",
        "info_amp_type",
        "info_amp_gain",
    }
)
"""Options that belong to the server, whatever the helper (kismet-protocol.md, 5.3)."""
_RATE = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*/\s*(sec|min|dwell)\s*", re.ASCII)


def _malformed(text: str, why: str) -> UsageError:
    return UsageError("bad-definition", f"{text!r}: {why}; write interface:key=value,key=value")


@record
class SourceDefinition:
    """A source and its options.

    Attributes:
        interface: what to open; never empty, holds no colon.
        options: key to value, keys in lower case, in the order written.
    """

    interface: str
    options: Mapping[str, str] = MappingProxyType({})

    @classmethod
    def parse(cls, text: str) -> SourceDefinition:
        """Read a definition in either dialect.

        Args:
            text: what the user or the server wrote.

        Raises:
            UsageError: "bad-definition"; the interface is empty or looks like an option list, a quote is
            open, or
                options do not start with ``key=``.
        """
        interface, colon, rest = text.partition(":")
        interface = interface.strip()
        if not interface:
            raise _malformed(text, "the interface is missing")
        if "," in interface or _has_control(text):
            raise _malformed(text, "a comma before the first colon, or a control character")
        options: dict[str, str] = {}
        if colon and rest.strip():
            key = ""
            for part in _split(rest, text):
                name, equals, value = part.partition("=")
                name = name.strip().lower()
                if equals and name and '"' not in name:
                    key = name
                    options[key] = value.replace('"', "").strip()
                elif not part.strip():
                    continue
                elif key:
                    options[key] += "," + part.replace('"', "").strip()
                else:
                    raise _malformed(text, f"{part!r} is not key=value")
        return cls(interface, options)

    def text(self) -> str:
        """The definition with every value quoted that needs it.

        Raises:
            UsageError: "bad-definition"; a value holds a quote, or a key holds what ends a key.
        """
        plain, quoted = [], []
        for key, value in self.options.items():
            if '"' in value or _has_control(value) or not _is_key(key):
                raise _malformed(f"{key}={value}", "cannot be written in a definition")
            if "," in value or value != value.strip():
                quoted.append(f'{key}="{value}"')
            else:
                plain.append(f"{key}={value}")
        return _join(self.interface, plain + quoted)

    def regenerated(self) -> str:
        """The definition as servers from 2022 on send it: options sorted, nothing quoted."""
        return _join(self.interface, [f"{key}={self.options[key]}" for key in sorted(self.options)])

    def get(self, key: str, default: str = "") -> str:
        """The value of an option."""
        return self.options.get(key, default)

    def flag(self, key: str, *, default: bool) -> bool:
        """A boolean option: ``true``, ``t``, ``false`` or ``f``; anything else is the default."""
        return parse_flag(self.options.get(key, ""), default=default)

    def channels(self, key: str = "channels") -> tuple[str, ...]:
        """A comma list, stripped, without empty parts."""
        return tuple(part for part in (piece.strip() for piece in self.get(key).split(",")) if part)

    def rate(self, key: str = "channel_hoprate") -> float | None:
        """A rate in hops per second, or None when the option is absent.

        Raises:
            UsageError: "bad-definition"; see ``parse_rate``.
        """
        return parse_rate(self.options[key]) if key in self.options else None

    @overload
    def number(self, key: str) -> float | None: ...

    @overload
    def number(self, key: str, *, default: float) -> float: ...

    def number(self, key: str, *, default: float | None = None) -> float | None:
        """A finite decimal number, or the default when the option is absent.

        Raises:
            UsageError: "bad-definition"; it is none.
        """
        if key not in self.options:
            return default
        try:
            value = float(self.options[key])
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise _malformed(f"{key}={self.options[key]}", "not a number")
        return value

    def with_options(self, **options: str) -> SourceDefinition:
        """A copy with options added or replaced."""
        return replace(self, options={**self.options, **options})

    def without(self, *keys: str) -> SourceDefinition:
        """A copy without some options."""
        return replace(self, options={key: value for key, value in self.options.items() if key not in keys})


def check_options(definition: SourceDefinition, own: Iterable[str], who: str) -> None:
    """Refuse an option that neither the server nor a helper knows.

    Args:
        definition: what is to be opened.
        own: the options that the helper knows.
        who: what the helper is called.

    Raises:
        UsageError: "bad-definition", with the nearest option.
    """
    known = sorted(own)
    for key in definition.options:
        if key not in COMMON_OPTIONS and key not in known:
            from difflib import get_close_matches

            near = get_close_matches(key, [*known, *sorted(COMMON_OPTIONS)], 1)
            fix = f"did you mean {near[0]}?" if near else f"it knows {', '.join(known) or 'none of its own'}"
            raise UsageError("bad-definition", f"{who} has no option {key!r}; {fix}")


def parse_flag(value: str, *, default: bool) -> bool:
    """A boolean as Kismet reads it: true, t, false, f in any case; all else, even 0 and 1, is the default."""
    match value.strip().lower():
        case "true" | "t":
            return True
        case "false" | "f":
            return False
        case _:
            return default


def parse_rate(text: str) -> float:
    """Hops per second.

    Args:
        text: ``5/sec`` (hops), ``30/min`` (hops) or ``0.5/dwell`` (seconds per hop).

    Raises:
        UsageError: "bad-definition"; anything else, or a number that is zero or too large.
    """
    match = _RATE.fullmatch(text.lower())
    value = float(match[1]) if match else 0.0
    unit = match[2] if match else "sec"
    if value > 0 and math.isfinite(value):
        rate = {"sec": value, "min": value / 60, "dwell": 1 / value}[unit]
        if 0 < rate < math.inf:
            return rate
    raise UsageError("bad-definition", f"{text!r} is not a rate; write 5/sec, 30/min or 0.5/dwell")


def channel_plan(
    definition: SourceDefinition, reported: Iterable[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a source can tune to, and what it should hop over.

    ``channels`` replaces the hop list; otherwise it is what the helper reported, with ``add_channels``
    added and ``block_channels`` taken away (names compared without case). ``channel`` is always among the
    supported ones.

    Args:
        definition: the source's definition.
        reported: channels of the open report.

    Returns:
        Supported channels and hop list, each without repetition.
    """
    blocked = {channel.lower() for channel in definition.channels("block_channels")}
    supported = [*reported, *definition.channels("channel")]
    wished = definition.channels()
    if wished:
        return _unique([*supported, *wished]), _unique(wished)
    added = definition.channels("add_channels")
    hop = [channel for channel in reported if channel.lower() not in blocked]
    return _unique([*supported, *added]), _unique([*hop, *added])


def _unique(channels: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(channels))


def _join(interface: str, options: list[str]) -> str:
    return f"{interface}:{','.join(options)}" if options else interface


def _is_key(key: str) -> bool:
    return bool(key) and key == key.strip().lower() and not set(key) & set('=,":')


def _has_control(text: str) -> bool:
    return any(ord(character) < 0x20 or ord(character) == 0x7F for character in text)


def _split(rest: str, text: str) -> list[str]:
    """Cut at the commas that are not quoted."""
    parts, start, quoted = [], 0, False
    for at, character in enumerate(rest):
        if character == '"':
            quoted = not quoted
        elif character == "," and not quoted:
            parts.append(rest[start:at])
            start = at + 1
    if quoted:
        raise _malformed(text, "a quote is not closed")
    return [*parts, rest[start:]]
