"""What a reload changes: two configurations compared by value."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from dataclasses import Field


class _Spec(Protocol):
    """A frozen dataclass of the configuration; fields with ``compare=False`` (its line) do not count."""

    __dataclass_fields__: ClassVar[dict[str, Field[object]]]

    @property
    def name(self) -> str: ...


class _Source(_Spec, Protocol):
    @property
    def helper(self) -> str | None: ...


class _Config(Protocol):
    @property
    def helpers(self) -> Sequence[_Spec]: ...

    @property
    def sources(self) -> Sequence[_Source]: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """Source names by what a reload does with them; disjoint, each in its configuration's order.

    Attributes:
        stop: no longer configured: remove.
        start: newly configured.
        replace: needs a new process: its definition, or the command or privilege of its helper, changed.
        adjust: policy, limits or routes changed: taken over in place.
        keep: nothing changed.
    """

    stop: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    replace: tuple[str, ...] = ()
    adjust: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """True when no source is touched."""
        return not (self.stop or self.start or self.replace or self.adjust)


def plan(
    old: _Config,
    new: _Config,
    *,
    needs_process: Collection[tuple[str, str]],
    opened_by: Mapping[str, str] | None = None,
) -> Plan:
    """Say what becomes of each source.

    Args:
        old: the configuration in force.
        new: the checked configuration that is to be.
        needs_process: (table, key) of what needs a new process when it changes; ``config.whole.KEYS`` declares it.
        opened_by: source name -> helper that opened it, for sources that name none and were probed.
    """
    before = {source.name: source for source in old.sources}
    after = {source.name: source for source in new.sources}
    helpers_before = {helper.name: helper for helper in old.helpers}
    helpers_after = {helper.name: helper for helper in new.helpers}
    parts: dict[str, list[str]] = {"replace": [], "adjust": [], "keep": []}
    for name, source in after.items():
        if name not in before:
            continue
        changed = {("source", key) for key in _differences(before[name], source)}
        helper = before[name].helper or (opened_by or {}).get(name)
        if helper is not None and helper in helpers_before:
            if helper not in helpers_after:
                parts["replace"].append(name)
                continue
            changed |= {
                ("helper", key) for key in _differences(helpers_before[helper], helpers_after[helper])
            }
        part = "keep" if not changed else "adjust" if changed.isdisjoint(needs_process) else "replace"
        parts[part].append(name)
    return Plan(
        stop=tuple(name for name in before if name not in after),
        start=tuple(name for name in after if name not in before),
        replace=tuple(parts["replace"]),
        adjust=tuple(parts["adjust"]),
        keep=tuple(parts["keep"]),
    )


def _differences(old: _Spec, new: _Spec) -> list[str]:
    """Names of the fields whose values differ."""
    return [
        field.name
        for field in fields(new)
        if field.compare and getattr(old, field.name) != getattr(new, field.name)
    ]
