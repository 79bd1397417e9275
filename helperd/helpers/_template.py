"""The words behind ``--``: a program's argument vector with places that a definition may fill. Pure.

::

    setting=value ...  name~pattern ...  /absolute/program  argument  {place}  --option={place=default}  [ -f {place} ]

    ["builtin:pipe", "--", "interface~[a-z0-9]{1,15}", "/usr/bin/tcpdump", "-U", "-w", "-", "-i", "{interface}",
     "[", "-s", "{snaplen}", "]"]

Rules:
  1. The program and every fixed argument come from the root-owned profile; a definition fills places, one value
     in one argument, whatever it holds. There is no shell.
  2. A value must match its place's pattern as a whole. Without a pattern of its own it may not begin with ``-``
     or ``/`` and holds letters, digits and ``_ . : @ % + -`` only: no option, no path.
  3. What stands between ``[`` and ``]`` is left out unless every place in it has a value.
  4. ``{interface}`` is the definition's interface, every other place an option; ``{{`` and ``}}`` are braces.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from helperd.errors import OpenRefused, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from helperd.wire.definition import SourceDefinition

DEFAULT_PATTERN: Final = r"[A-Za-z0-9_.:@%+][A-Za-z0-9_.:@%+-]{0,127}"
_PLACE: Final = re.compile(r"\{\{|\}\}|\{([a-z][a-z0-9_-]*)(?:=([^{}]*))?\}|[{}]")
_PATTERN: Final = re.compile(r"([a-z][a-z0-9_-]*)~(.*)", re.DOTALL)
_SETTING: Final = re.compile(r"([a-z][a-z0-9_-]*)=(.*)", re.DOTALL)


class Template:
    """The parsed words.

    Args:
        words: what stood behind ``--``.
        settings: names of the settings that may stand in front.

    Attributes:
        program: its absolute path; empty when there are no words but settings.
        settings: the settings given.
        places: names of all places, ``interface`` included.

    Raises:
        UsageError: "usage"; the profile's words make no sense.
    """

    def __init__(self, words: Sequence[str], settings: Sequence[str] = ()) -> None:
        self.settings: dict[str, str] = {}
        self._patterns: dict[str, re.Pattern[str]] = {}
        rest = list(words)
        while rest and not rest[0].startswith("/"):
            self._take(rest.pop(0), settings)
        self.program = rest[0] if rest else ""
        self._words = rest
        names = [match[1] for word in rest for match in _PLACE.finditer(word) if match[1]]
        self.places = tuple(dict.fromkeys(names))
        self._check()

    def _take(self, word: str, settings: Sequence[str]) -> None:
        pattern = _PATTERN.fullmatch(word)
        setting = _SETTING.fullmatch(word)
        if pattern:
            try:
                self._patterns[pattern[1]] = re.compile(pattern[2])
            except re.error as error:
                raise UsageError("usage", f"{word!r}: not a regular expression: {error}") from None
        elif setting and setting[1] in settings:
            self.settings[setting[1]] = setting[2]
        else:
            known = f"; settings are {', '.join(settings)}" if settings else ""
            raise UsageError(
                "usage", f"{word!r} is neither name~pattern nor an absolute path of a program{known}"
            )

    def _check(self) -> None:
        for name in self._patterns:
            if name not in self.places and self.program:
                raise UsageError("usage", f"{name}~ names no place among the arguments")
        depth = 0
        for word in self._words:
            depth += (word == "[") - (word == "]")
            if depth not in {0, 1}:
                raise UsageError("usage", "[ and ] must come in pairs, not one inside the other")
            for match in _PLACE.finditer(word):
                if match[0] in {"{", "}"}:
                    raise UsageError("usage", f"{word!r}: write {{name}}, and {{{{ or }}}} for a brace")
        if depth:
            raise UsageError("usage", "a [ is not closed")

    def options(self) -> dict[str, str]:
        """The options that a definition may have, each with its meaning."""
        return {
            name: f"fills {{{name}}}; matches {self._pattern(name).pattern}"
            for name in self.places
            if name != "interface"
        }

    def pattern(self, name: str) -> re.Pattern[str] | None:
        """The pattern the profile gives for a name, None when it gives none."""
        return self._patterns.get(name)

    def _pattern(self, name: str) -> re.Pattern[str]:
        return self._patterns.get(name) or re.compile(DEFAULT_PATTERN)

    def fill(self, definition: SourceDefinition) -> list[str]:
        """The argument vector for a definition.

        Raises:
            OpenRefused: a place has no value, or a value that its pattern does not allow.
        """
        argv: list[str] = []
        group: list[str] | None = None
        kept = True
        for word in self._words:
            if word == "[":
                group, kept = [], True
            elif word == "]":
                argv += group if kept and group is not None else []
                group = None
            elif group is not None:
                if self._absent(word, definition):
                    kept = False
                elif kept:
                    group.append(self._fill(word, definition))
            else:
                argv.append(self._fill(word, definition))
        return argv

    @staticmethod
    def _absent(word: str, definition: SourceDefinition) -> bool:
        """Whether a place of the word has neither a value nor a default."""
        return any(
            match[2] is None and match[1] != "interface" and not definition.get(match[1])
            for match in _PLACE.finditer(word)
            if match[1]
        )

    def _fill(self, word: str, definition: SourceDefinition) -> str:
        def value(match: re.Match[str]) -> str:
            name = match[1]
            if not name:
                return match[0][0]
            given = definition.interface if name == "interface" else definition.get(name)
            if not given:
                if match[2] is None:
                    raise OpenRefused("bad-definition", f"option {name} is missing: {self.program} needs it")
                return match[2]
            if name != "interface" and not self._pattern(name).fullmatch(given):
                given = definition.word(name)
            if not self._pattern(name).fullmatch(given):
                raise OpenRefused(
                    "bad-definition",
                    f"{name}={given!r} is not allowed: it must match {self._pattern(name).pattern}; "
                    f"{name}~PATTERN in front of the program, in the helper's command, allows what else it may be",
                )
            return given

        return _PLACE.sub(value, word)
