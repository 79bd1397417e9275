"""A Varlink interface text, read into types, and values checked against them. Pure.

The text is the only list of methods and parameters: the server checks every call with it, the tests every
reply.

::

    type      bool int float string object  []T  [string]T  ?T  Name  (field: T, ...)  (word, word, ...)
    member    "type" Name T | "method" Name (...) "->" (...) | "error" Name (...)

Source of facts: varlink.org, "Interface Definition".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

_TOKEN: Final = re.compile(
    r"(?:\s|\#[^\n]*)*(?:(?P<word>[A-Za-z][A-Za-z0-9_.-]*)|(?P<sign>->|\[\]|\[string\]|[():,?])|(?P<end>\Z))"
)
_AROUND: Final = {"?": "maybe", "[]": "array", "[string]": "dict"}
_BASIC: Final = frozenset({"bool", "int", "float", "string", "object"})


@dataclass(frozen=True, slots=True)
class Type:
    """A type of the language.

    Attributes:
        kind: a basic type's name, ``maybe``, ``array``, ``dict``, ``struct``, ``enum`` or ``name``.
        name: of a named type.
        inner: of maybe, array and dict.
        fields: of a struct; an enum's words have no type of their own.
    """

    kind: str
    name: str = ""
    inner: Type | None = None
    fields: Mapping[str, Type] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Method:
    """What goes in and what comes out; both are structs."""

    name: str
    inputs: Type
    outputs: Type


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface and the text it was read from."""

    name: str
    text: str
    types: Mapping[str, Type]
    methods: Mapping[str, Method]
    errors: Mapping[str, Type]

    def wrong(self, value: Any, expected: Type, path: str = "") -> str:
        """Where a value differs from its type first.

        Args:
            value: as JSON gave it.
            expected: a type of this interface.
            path: what to call the value.

        Returns:
            The path of what is wrong, e.g. ``sources[2].name``; empty when all is right. Fields that the type
            does not have are wrong too.
        """
        if expected.kind == "name":
            expected = self.types[expected.name]
        if expected.kind == "struct":
            return self._wrong_struct(value, expected, path)
        if expected.kind in {"maybe", "array", "dict"}:
            return self._wrong_inside(value, expected, path)
        if expected.kind == "enum":
            good = isinstance(value, str) and value in expected.fields
        else:
            good = _is_basic(value, expected.kind)
        return "" if good else path or "."

    def _wrong_inside(self, value: Any, expected: Type, path: str) -> str:
        """Check a nullable value, or the items of an array or a dictionary."""
        assert expected.inner is not None
        inner = expected.inner
        if expected.kind == "maybe":
            return "" if value is None else self.wrong(value, inner, path)
        items: Iterable[tuple[object, object]]
        if expected.kind == "array" and isinstance(value, list | tuple):
            items = enumerate(value)
        elif expected.kind == "dict" and isinstance(value, Mapping):
            items = value.items()
        else:
            return path or "."
        return next((bad for at, item in items if (bad := self.wrong(item, inner, f"{path}[{at}]"))), "")

    def _wrong_struct(self, value: Any, expected: Type, path: str) -> str:
        if not isinstance(value, Mapping):
            return path or "."
        dot = f"{path}." if path else ""
        for name, type_ in expected.fields.items():
            if name not in value:
                if type_.kind != "maybe":
                    return dot + name
                continue
            bad = self.wrong(value[name], type_, dot + name)
            if bad:
                return bad
        return next((f"{dot}{name}" for name in value if name not in expected.fields), "")


def _is_basic(value: Any, kind: str) -> bool:
    """Whether a JSON value is of a basic type; text must be storable as UTF-8 and hold no NUL."""
    match kind:
        case "bool":
            return isinstance(value, bool)
        case "int":
            return isinstance(value, int) and not isinstance(value, bool)
        case "float":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "string":
            return isinstance(value, str) and "\0" not in value and not _has_surrogate(value)
        case _:
            return isinstance(value, Mapping)


def _has_surrogate(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text)


class _Reader:
    """The tokens of a text, one ahead."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.ahead = ""
        self.next()

    def next(self) -> str:
        """Step on; return the token left behind. The text's end is an empty token."""
        left = self.ahead
        found = _TOKEN.match(self.text, self.at)
        if found is None:
            self.fail("a name or a sign")
        self.at = found.end()
        self.ahead = found["word"] or found["sign"] or ""
        return left

    def expect(self, word: str) -> None:
        """Step over one token that must be there."""
        if self.next() != word:
            self.fail(repr(word))

    def fail(self, expected: str) -> NoReturn:
        rest = self.text[self.at :]
        line = self.text.count("\n", 0, len(self.text) - len(rest.lstrip())) + 1
        raise ValueError(f"line {line}: expected {expected} before {self.text[self.at : self.at + 20]!r}")

    def type(self) -> Type:
        word = self.next()
        if word in _AROUND:
            return Type(_AROUND[word], inner=self.type())
        if word == "(":
            return self.struct()
        if word in _BASIC:
            return Type(word)
        if not word[:1].isupper():
            self.fail("a type")
        return Type("name", name=word)

    def struct(self) -> Type:
        """The rest of a struct or an enum, after its opening bracket."""
        fields: dict[str, Type] = {}
        words = False
        while self.ahead != ")":
            name = self.next()
            if self.ahead == ":":
                self.next()
                fields[name] = self.type()
            else:
                words = True
                fields[name] = Type("enum")
            if self.ahead != ")":
                self.expect(",")
        self.next()
        return Type("enum" if words else "struct", fields=fields)


def parse(text: str) -> Interface:
    """Read an interface.

    Raises:
        ValueError: the text does not follow the language; the line is named.
    """
    reader = _Reader(text)
    reader.expect("interface")
    name = reader.next()
    types: dict[str, Type] = {}
    methods: dict[str, Method] = {}
    errors: dict[str, Type] = {}
    while reader.ahead:
        member, known = reader.next(), reader.next()
        if member == "type":
            types[known] = reader.type()
        elif member == "error":
            errors[known] = reader.type()
        elif member == "method":
            inputs = reader.type()
            reader.expect("->")
            methods[known] = Method(known, inputs, reader.type())
        else:
            reader.fail("type, method or error")
    return Interface(name, text, types, methods, errors)


def load(name: str) -> Interface:
    """Read one of the interfaces that come with this package."""
    return parse(Path(__file__).with_name(f"{name}.varlink").read_text(encoding="utf-8"))
