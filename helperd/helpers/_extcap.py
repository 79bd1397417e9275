"""What extcap tools print about themselves: sentences, and the options in them. Pure.

::

    interface {value=randpkt}{display=Random packet generator}
    dlt {number=147}{name=randpkt}{display=Generator dependent DLT}
    arg {number=0}{call=--maxbytes}{display=Max bytes}{type=unsigned}{range=1,5000}{default=5000}{required=true}
    value {arg=5}{value=arp}{display=Address Resolution Protocol}
    control {number=0}{type=string}{display=Message}

Source of facts: Wireshark's extcap(4) manual page.
"""

from __future__ import annotations

import math
import re
from typing import Final, NamedTuple

from helperd.errors import OpenRefused

_SENTENCE: Final = re.compile(r"(extcap|interface|dlt|arg|value|control)\s+(\{.*\})\s*")
_PAIR: Final = re.compile(r"\{([A-Za-z_]+)=((?:[^{}\\]|\\.)*)\}")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")
NUMBERS: Final = frozenset({"integer", "unsigned", "long", "double"})
FLAGS: Final = frozenset({"boolean", "boolflag"})
CHOICES: Final = frozenset({"selector", "radio", "multicheck", "editselector"})


class Sentence(NamedTuple):
    """One line: its word and its pairs."""

    word: str
    pairs: dict[str, str]


class Option(NamedTuple):
    """An option of a tool.

    Attributes:
        call: how it is given to the tool, e.g. ``--count``.
        kind: its type, e.g. ``unsigned``.
        meaning: for people.
        required: whether it must be given.
        choices: the values allowed, if they are listed.
        least: lowest number, or None.
        most: highest number, or None.
    """

    call: str
    kind: str
    meaning: str
    required: bool
    choices: tuple[str, ...]
    least: float | None
    most: float | None

    @property
    def name(self) -> str:
        """The option of a definition that stands for it."""
        return self.call.lstrip("-").lower()

    @property
    def closed(self) -> bool:
        """Whether what it takes is so narrow that a definition may fill it without the profile's leave."""
        return self.kind in NUMBERS or self.kind in FLAGS or self.kind == "timestamp" or bool(self.choices)


def sentences(text: str) -> list[Sentence]:
    """The sentences in what a tool printed; lines that are none are left out."""
    found = []
    for line in text.splitlines():
        match = _SENTENCE.fullmatch(line.strip())
        if match:
            pairs = {key.lower(): value for key, value in _PAIR.findall(match[2])}
            found.append(Sentence(match[1], pairs))
    return found


def interfaces(text: str) -> dict[str, str]:
    """Interfaces and their names for people."""
    return {
        pairs["value"]: pairs.get("display", "")
        for word, pairs in sentences(text)
        if word == "interface" and pairs.get("value")
    }


def has_controls(text: str) -> bool:
    """Whether the tool has a toolbar."""
    return any(word == "control" for word, _ in sentences(text))


def loggers(text: str) -> frozenset[int]:
    """Numbers of the toolbar's controls that show lines of text."""
    return frozenset(
        int(pairs["number"])
        for word, pairs in sentences(text)
        if word == "control" and pairs.get("role") == "logger" and pairs.get("number", "").isdecimal()
    )


def first_dlt(text: str) -> int | None:
    """The first link type a tool announces, None when there is none."""
    for word, pairs in sentences(text):
        number = pairs.get("number", "")
        if word == "dlt" and number.isascii() and number.isdigit():
            return int(number)
    return None


def options(text: str) -> dict[str, Option]:
    """The options of an interface by the names they have in a definition."""
    lines = sentences(text)
    found: dict[str, Option] = {}
    for word, pairs in lines:
        call = pairs.get("call", "")
        if word != "arg" or not call.startswith("--") or not _NAME.fullmatch(call[2:].lower()):
            continue
        choices = tuple(
            other["value"]
            for kind, other in lines
            if kind == "value" and other.get("arg") == pairs.get("number") and other.get("value")
        )
        low, _, high = pairs.get("range", "").partition(",")
        option = Option(
            call=call,
            kind=pairs.get("type", "string"),
            meaning=pairs.get("tooltip") or pairs.get("display", ""),
            required=pairs.get("required", "").lower() == "true",
            choices=choices,
            least=_number(low),
            most=_number(high),
        )
        found[option.name] = option
    return found


def arguments(option: Option, value: str) -> list[str]:
    """The words that give an option a value.

    Raises:
        OpenRefused: "bad-definition"; the option cannot have that value.
    """
    if option.kind in FLAGS:
        if value.lower() in {"true", "t"}:
            return [option.call] if option.kind == "boolflag" else [option.call, "true"]
        if value.lower() in {"false", "f"}:
            return [] if option.kind == "boolflag" else [option.call, "false"]
        raise _bad(option, value, "write true or false")
    if option.kind in NUMBERS:
        number = _number(value)
        whole = option.kind == "double" or re.fullmatch(r"-?[0-9]+", value)
        if number is None or not whole:
            raise _bad(option, value, "write a number")
        if (option.kind == "unsigned" and number < 0) or not _within(number, option):
            raise _bad(option, value, f"write a number from {option.least or 0:g}" + _upto(option))
    elif option.choices and option.kind != "editselector":
        for part in value.split(",") if option.kind == "multicheck" else [value]:
            if part not in option.choices:
                raise _bad(option, value, f"write one of {', '.join(option.choices)}")
    if value.startswith("-") and option.kind not in NUMBERS:
        raise _bad(option, value, "a value cannot begin with a hyphen")
    return [option.call, value]


def _within(number: float, option: Option) -> bool:
    return (option.least is None or number >= option.least) and (option.most is None or number <= option.most)


def _upto(option: Option) -> str:
    return "" if option.most is None else f" to {option.most:g}"


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _bad(option: Option, value: str, fix: str) -> OpenRefused:
    return OpenRefused("bad-definition", f"{option.name}={value!r}: {fix}")
