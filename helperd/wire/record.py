"""Records: frozen classes with slots, made without ``dataclasses``.

A helper pays for its imports at every restart. The standard module compiles six methods for each class and brings
``inspect`` along: 20 ms for the messages of the protocol, of 35 in all. These methods are written once; the price is a
microsecond or two for each object, and control messages are few.

Type checkers see a frozen dataclass. What is left out: default factories, ordering, inheritance of fields.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast, dataclass_transform

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")


class _Unseen:
    """A default whose field does not count in comparisons."""

    __slots__ = ("default",)

    def __init__(self, default: object) -> None:
        self.default = default


def unseen(*, default: T) -> T:
    """Field specifier: the field has this default and does not count when two records are compared."""
    return cast("T", _Unseen(default))


class _Methods:
    """What every record can do."""

    __slots__ = ()
    _names: tuple[str, ...]
    _seen: tuple[str, ...]
    _defaults: dict[str, object]

    def __init__(self, *values: object, **named: object) -> None:
        names = self._names
        if len(values) > len(names):
            raise TypeError(f"{type(self).__name__} takes {len(names)} values, {len(values)} were given")
        for name, value in zip(names, values, strict=False):
            object.__setattr__(self, name, value)
        for name in names[len(values) :]:
            if name in named:
                object.__setattr__(self, name, named.pop(name))
            elif name in self._defaults:
                object.__setattr__(self, name, self._defaults[name])
            else:
                raise TypeError(f"{type(self).__name__} needs {name}")
        if named:
            raise TypeError(f"{type(self).__name__} has no {', '.join(named)}, or was given it twice")

    def _values(self) -> Iterator[object]:
        return (getattr(self, name) for name in self._seen)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(mine == theirs for mine, theirs in zip(self._values(), other._values(), strict=True))

    def __hash__(self) -> int:
        return hash((type(self), *self._values()))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._names)
        return f"{type(self).__name__}({fields})"

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be set: records are frozen")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be deleted: records are frozen")

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), tuple(getattr(self, name) for name in self._names)


@dataclass_transform(frozen_default=True, field_specifiers=(unseen,))
def record(plain: type[T]) -> type[T]:
    """Make a frozen class with slots out of one that only declares fields, and methods if it likes."""
    body = dict(vars(plain))
    names = tuple(plain.__annotations__)  # from Python 3.14 on they are not in the body
    given = {name: body.pop(name) for name in names if name in body}
    body.pop("__dict__", None)
    body.pop("__weakref__", None)
    body |= {
        "__slots__": names,
        "__match_args__": names,
        "_names": names,
        "_seen": tuple(name for name in names if not isinstance(given.get(name), _Unseen)),
        "_defaults": {
            name: value.default if isinstance(value, _Unseen) else value for name, value in given.items()
        },
    }
    return cast("type[T]", type(plain.__name__, (_Methods,), body))


def replace(old: T, **changes: object) -> T:
    """A copy of a record with some fields changed.

    Raises:
        TypeError: it has no such field.
    """
    assert isinstance(old, _Methods)
    values = {name: getattr(old, name) for name in old._names}
    return cast("T", type(old)(**values | changes))
