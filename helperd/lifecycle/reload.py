"""What a reload changes: two configurations compared by value."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

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

    @property
    def sinks(self) -> Sequence[_Spec]: ...

    @property
    def services(self) -> Sequence[_Spec]: ...


class Gone(NamedTuple):
    """What was configured and is no more, of one kind.

    Attributes:
        kind: ``helper``, ``source``, ``sink`` or ``service``.
        names: in the order of the old configuration; a sink's is its path or address.
        before: how many there were.
    """

    kind: str
    names: tuple[str, ...]
    before: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Source names by what a reload does with them; disjoint, each in its configuration's order.

    Attributes:
        stop: no longer configured: remove.
        start: newly configured.
        replace: needs a new process: its definition, or the command or privilege of its helper, changed.
        adjust: policy, limits or routes changed: taken over in place.
        keep: nothing changed.
        gone: of every kind, what the old configuration had and the new one has not. A file that was cut between two
            blocks is a good one: only this shows it.
    """

    stop: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    replace: tuple[str, ...] = ()
    adjust: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    gone: tuple[Gone, ...] = field(default=(), compare=False)

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
        gone=_gone(old, new),
    )


def _gone(old: _Config, new: _Config) -> tuple[Gone, ...]:
    """What is configured no more."""
    kinds: tuple[tuple[str, Sequence[_Spec], Sequence[_Spec]], ...] = (
        ("helper", old.helpers, new.helpers),
        ("source", old.sources, new.sources),
        ("sink", old.sinks, new.sinks),
        ("service", old.services, new.services),
    )
    found = []
    for kind, before, after in kinds:
        names = tuple(spec.name for spec in before if spec.name not in {other.name for other in after})
        if names:
            found.append(Gone(kind, names, len(before)))
    return tuple(found)


def _differences(old: _Spec, new: _Spec) -> list[str]:
    """Names of the fields whose values differ."""
    return [
        each.name
        for each in fields(new)
        if each.compare and getattr(old, each.name) != getattr(new, each.name)
    ]
