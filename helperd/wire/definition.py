"""Source definitions: ``wlan0:type=linuxwifi,channels="1,6,11"``, ``"/dev/ttyACM0:115200":type=sniffer``.

    definition = interface [ ":" option *( "," option ) ]        option = key "=" value
    interface  = text without ":" and "," | DQUOTE text with DQUOTE doubled DQUOTE

Rules:
  1. The interface ends at the first colon; one that holds a colon or a comma stands in quotes, where ``""`` is a quote.
     Keys are lower-cased; of two equal keys the last one counts.
  2. A quote toggles quoting anywhere in a value and is removed; a comma inside quotes is literal; nothing
     escapes a quote.
  3. A part without ``=`` continues the value before it, because servers send unquoted comma lists
     (kismet-protocol.md, 5.2).
  4. Text that we write quotes what needs it and puts quoted options last, because old readers stumble
     behind them.
  5. Kismet's programs know no quoted interface: theirs ends at the first colon, whatever it holds (``for_kismet``).
  6. A helper under a Kismet server takes what such a server has made of a definition (``read_tolerantly``): it tells
     what it left out, and refuses nothing that Kismet's own helpers open.

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
_LISTS = {"channels", "add_channels", "block_channels"}
_TEXTS = {"name", "info_antenna_type", "info_amp_type"}
_ONE_WORD = COMMON_OPTIONS - _LISTS - _TEXTS
"""Options whose value never holds a comma, so that no word continues it."""
_QUOTED = re.compile(r'\s*"((?:[^"]|"")*)"\s*(?::|$)')
_RATE = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*/\s*(sec|min|dwell)\s*", re.ASCII)

_CONTROL_CURE = "write interface:key=value without one (a file or device file: by a symbolic link)"


def _malformed(text: str, why: str, cure: str = "") -> UsageError:
    return UsageError("bad-definition", f"{text!r}: {why}; {cure or 'write interface:key=value,key=value'}")


@record
class SourceDefinition:
    """A source and its options.

    Attributes:
        interface: what to open; never empty, without control characters.
        options: key to value, keys in lower case, in the order written.
        loose: it was read tolerantly: words that a server has put behind a number, rate or boolean are no part of it.
    """

    interface: str
    options: Mapping[str, str] = MappingProxyType({})
    loose: bool = False

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
        interface, rest = split_interface(text)
        if _has_control(text):
            raise _malformed(text, "a control character", _CONTROL_CURE)
        options: dict[str, str] = {}
        if rest.strip():
            key = ""
            for part in _split(rest, text):
                name, equals, value = part.partition("=")
                name = name.strip().lower()
                if equals and name and '"' not in name:
                    if ":" in name:
                        raise _malformed(text, f"{name!r} is no key", _cure(text))
                    key = name
                    options[key] = value.replace('"', "").strip()
                elif not part.strip():
                    continue
                elif key:
                    options[key] += "," + part.replace('"', "").strip()
                else:
                    raise _malformed(text, f"{part!r} is not key=value", _cure(text))
        return cls(interface, options)

    @classmethod
    def read_tolerantly(cls, text: str) -> tuple[SourceDefinition, list[str]]:
        """Read what a Kismet server sends, whatever it has made of the definition that its user wrote.

        That server takes quotes away, sorts the options, and reads its own text again before it opens a source anew: a
        list is cut to its first word, the others become words in front of another option that is there twice
        (kismet-protocol.md, 5.1, 5.2, S13). Such words, and others that belong to no option, are left out; of two
        equal keys the first counts, as with Kismet's helpers.

        Args:
            text: an open or probe request's definition.

        Returns:
            The definition, and a sentence for each kind of thing that was left out.

        Raises:
            UsageError: "bad-definition"; the interface is missing.
        """
        quoted = _QUOTED.match(text)
        if quoted:
            interface, rest = quoted[1].replace('""', '"'), text[quoted.end() :]
        else:
            interface, _, rest = text.partition(":")
            interface = interface.strip()
        if not interface.strip():
            raise _malformed(text, "the interface is missing")
        if rest.count('"') % 2:
            rest = rest.replace('"', "")
        return _read_options(interface, [part.replace('"', "") for part in _split(rest, text)])

    def text(self) -> str:
        """The definition with everything quoted that needs it.

        Raises:
            UsageError: "bad-definition"; a value holds a quote, a key holds what ends a key, or there is a control
                character.
        """
        if _has_control(self.interface):
            raise _malformed(
                self.interface, "a control character cannot be written in a definition", _CONTROL_CURE
            )
        plain, quoted = [], []
        for key, value in self.options.items():
            if '"' in value or _has_control(value) or not _is_key(key):
                raise _malformed(f"{key}={value}", "cannot be written in a definition")
            if "," in value or value != value.strip():
                quoted.append(f'{key}="{value}"')
            else:
                plain.append(f"{key}={value}")
        return _join(quote(self.interface), plain + quoted)

    def regenerated(self) -> str:
        """The definition as servers from 2022 on send it: options sorted, nothing quoted."""
        return _join(self.interface, [f"{key}={self.options[key]}" for key in sorted(self.options)])

    def get(self, key: str, default: str = "") -> str:
        """The value of an option."""
        return self.options.get(key, default)

    def flag(self, key: str, *, default: bool) -> bool:
        """A boolean option: ``true``, ``t``, ``false`` or ``f``; anything else is the default."""
        return parse_flag(self.word(key), default=default)

    def channels(self, key: str = "channels") -> tuple[str, ...]:
        """A comma list, stripped, without empty parts."""
        return tuple(part for part in (piece.strip() for piece in self.get(key).split(",")) if part)

    def rate(self, key: str = "channel_hoprate") -> float | None:
        """A rate in hops per second, or None when the option is absent.

        Raises:
            UsageError: "bad-definition"; see ``parse_rate``.
        """
        return parse_rate(self.word(key)) if key in self.options else None

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
            value = float(self.word(key))
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise _malformed(f"{key}={self.options[key]}", "not a number")
        return value

    def word(self, key: str) -> str:
        """The value of an option that cannot hold a comma."""
        value = self.options.get(key, "")
        return value.partition(",")[0] if self.loose else value

    def with_options(self, **options: str) -> SourceDefinition:
        """A copy with options added or replaced."""
        return replace(self, options={**self.options, **options})

    def without(self, *keys: str) -> SourceDefinition:
        """A copy without some options."""
        return replace(self, options={key: value for key, value in self.options.items() if key not in keys})


def split_interface(text: str) -> tuple[str, str]:
    """Cut a definition behind its interface.

    Returns:
        The interface, without quotes, and the text of the options.

    Raises:
        UsageError: "bad-definition"; it is empty, or holds what only a quoted one may.
    """
    quoted = _QUOTED.match(text)
    if quoted:
        interface, rest = quoted[1].replace('""', '"'), text[quoted.end() :]
    else:
        interface, _, rest = text.partition(":")
        interface = interface.strip()
        if interface.startswith('"'):
            raise _malformed(
                text,
                "a quoted interface ends with a quote and a colon",
                'write interface:key=value or "interface":key=value, and a quote inside of it twice',
            )
        if "," in interface:
            raise _malformed(text, "a comma before the first colon", _cure(text))
    if not interface.strip():
        raise _malformed(text, "the interface is missing")
    return interface, rest


def quote(interface: str) -> str:
    """An interface as it stands in a definition: in quotes if it has to be."""
    plain = (
        interface == interface.strip() and not interface.startswith('"') and not set(interface) & set(":,")
    )
    return interface if plain else '"' + interface.replace('"', '""') + '"'


def for_kismet(text: str, who: str) -> str:
    """A definition as a program can read it that knows Kismet's grammar only; options stay as they were written.

    Args:
        text: a definition that can be parsed.
        who: what the program is called.

    Raises:
        UsageError: "not-supported"; its interface holds a colon, where Kismet's programs end it.
    """
    interface, rest = split_interface(text)
    if ":" in interface:
        raise UsageError(
            "not-supported",
            f"{who} cannot be told the interface {interface!r}: Kismet's programs end it at the first colon; give it a "
            "name without one (a symbolic link, for a file or a device file)",
        )
    if not text.lstrip().startswith('"'):
        return text
    return f"{interface}:{rest}" if rest else interface


def check_options(definition: SourceDefinition, own: Iterable[str], who: str) -> None:
    """Refuse an option that neither the server nor a helper knows.

    Args:
        definition: what is to be opened.
        own: the options that the helper knows.
        who: what the helper is called.

    Raises:
        UsageError: "bad-definition", with the nearest option.
    """
    for text in unknown_options(definition, own, who).values():
        raise UsageError("bad-definition", text)


def unknown_options(definition: SourceDefinition, own: Iterable[str], who: str) -> dict[str, str]:
    """The options that neither the server nor a helper knows, each with a sentence that names the nearest."""
    known = sorted(own)
    told = {}
    for key in definition.options:
        if key not in COMMON_OPTIONS and key not in known:
            from difflib import get_close_matches

            near = get_close_matches(key, [*known, *sorted(COMMON_OPTIONS)], 1)
            fix = f"did you mean {near[0]}?" if near else f"it knows {', '.join(known) or 'none of its own'}"
            told[key] = f"{who} has no option {key!r}; {fix}"
    return told


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
    added and ``block_channels`` taken away (names compared without case). ``channel`` and ``add_channels`` are
    always among the supported ones.

    Args:
        definition: the source's definition.
        reported: channels of the open report.

    Returns:
        Supported channels and hop list, each without repetition.
    """
    blocked = {channel.lower() for channel in definition.channels("block_channels")}
    added = definition.channels("add_channels")
    supported = [*reported, *definition.channels("channel")]
    wished = definition.channels()
    if wished:
        return _unique([*supported, *wished, *added]), _unique(wished)
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


def _cure(text: str) -> str:
    """How a name is written that was cut at its own colon or comma."""
    name = re.split(r":(?=[\w-]+=)", text, maxsplit=1)[0].strip()
    more = ":key=value" if name == text.strip() else text[len(name) :]
    return f"write interface:key=value, and a name with a colon or comma in quotes: {quote(name)}{more}"


def _read_options(interface: str, parts: list[str]) -> tuple[SourceDefinition, list[str]]:
    """The options among the parts of a definition, and what was left out of it."""
    pairs = [_pair(part) for part in parts]
    options: dict[str, str] = {}
    stray: list[str] = []
    twice: list[str] = []
    held: list[str] = []
    key = ""

    def settle(*, remnant: bool) -> None:
        """Words that have been held continue the option before them, or belong to none."""
        if remnant or not key or key in _ONE_WORD:
            stray.extend(held)
        else:
            options[key] = ",".join([options[key], *held])
        held.clear()

    for at, (name, value) in enumerate(pairs):
        if not name:
            held += [value] if value else []
            continue
        settle(remnant=name in options or (name, value) in pairs[at + 1 :])
        key = name
        if name in options:
            twice.append(name)
            key = ""  # what continues a value that does not count does not count
        else:
            options[name] = value
    settle(remnant=False)
    told = []
    try:
        SourceDefinition(interface, options, loose=True).rate()
    except UsageError as error:  # the server's own: no helper of Kismet's reads it
        told.append(f"channel_hoprate is left out: {error.text}")
        del options["channel_hoprate"]
    if stray:
        words = ", ".join(stray)
        told.append(f"words that belong to no option are left out, perhaps the end of a list: {words}")
    if twice:
        told.append(f"given twice, the first counts: {', '.join(dict.fromkeys(twice))}")
    return SourceDefinition(interface, options, loose=True), told


def _pair(part: str) -> tuple[str, str]:
    """Key and value of a part; the key of a mere word is empty."""
    name, equals, value = part.partition("=")
    name = name.strip().lower()
    return (name, value.strip()) if equals and name else ("", part.strip())


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
