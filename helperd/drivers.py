"""Which helpers exist, which definition belongs to which, and asking all of them at once.

Rules:
  1. Each helper is asked in a process of its own with a time limit of its own; a broken one is one line in the answer.
  2. The answer always comes, within the longest of the limits that their blocks give, and names every helper that
     failed with its reason.
  3. A probe's winner is the first positive answer in the order of the configuration, not in the order of arrival; but
     one that is later than ``SOON_S`` gives way to one that is not.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import trio

from helperd.asking import Asked, Failure, cut_names, kept
from helperd.config import INSTALLED
from helperd.errors import UsageError
from helperd.threads import in_thread
from helperd.wire.definition import SourceDefinition, check_options, quote
from helperd.wire.greeting import GenerationCache
from helperd.wire.messages import Interface, ListReport, ListRequest, ProbeReport, ProbeRequest
from helperd.wire.reasons import reason_word

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from helperd.config.specs import HelperSpec
    from helperd.launcher import Launcher

SOON_S: Final = 2.0
"""Seconds that a probe waits for the helpers ahead of one that has said yes."""
GONE_S: Final = 0.5
"""Seconds that an answer waits for the processes that gave it to be gone."""
_OWN: Final = frozenset({"interface", "pcapfile", "synthetic"})
"""Source types whose helper comes with helperd and needs nothing but a block."""
_FOR_INTERFACES: Final = frozenset({"net_raw", "net_admin"})
_RADIOS: Final = ("bluetooth", "ieee80211")
_NOBODY: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Device:
    """One thing that a helper can open."""

    helper: str
    type: str
    interface: Interface

    @property
    def definition(self) -> str:
        """What to write to open it; empty when a control character in its name, or a flag, cannot be written."""
        kind = f"type={self.type}" if self.type else ""
        options = ",".join(part for part in (kind, self.interface.flags) if part)
        name = quote(self.interface.name)
        text = f"{name}:{options}" if options else name
        try:
            parsed = SourceDefinition.parse(text)
        except UsageError:
            return ""
        same = parsed.interface == self.interface.name and parsed.get("type") == self.type
        return text if same else ""

    def as_dict(self, in_use: Mapping[str, str] = _NOBODY) -> dict[str, object]:
        """Plain data for the control socket and ``--json``.

        Args:
            in_use: interface to the name of the source that has it.
        """
        found = self.interface
        return {
            "helper": self.helper,
            "type": self.type,
            "interface": found.name,
            "definition": self.definition,
            "hardware": kept(found.hardware),
            "flags": kept(found.flags),
            "in_use": in_use.get(found.name) or in_use.get(found.capture_interface),
        }


@dataclass(slots=True)
class Listing:
    """All devices of all helpers, in the order of the configuration, and who failed."""

    devices: list[Device] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)

    def as_dict(self, in_use: Mapping[str, str] = _NOBODY) -> dict[str, object]:
        """Plain data for the control socket and ``--json``; ``in_use`` as in ``Device``."""
        return {
            "devices": [device.as_dict(in_use) for device in self.devices],
            "failed": [failure.as_dict() for failure in self.failed],
        }


@dataclass(slots=True)
class Probing:
    """Who recognises a definition: ``helper`` is None when nobody does."""

    definition: str
    helper: HelperSpec | None = None
    report: ProbeReport | None = None
    failed: list[Failure] = field(default_factory=list)
    refused: list[Failure] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """Plain data for the control socket and ``--json``."""
        report = self.report
        return {
            "definition": self.definition,
            "helper": self.helper.name if self.helper else None,
            "type": self.helper.types[0] if self.helper and self.helper.types else None,
            "hardware": kept(report.hardware) if report else "",
            "channels": list(cut_names(report.channels)) if report else [],
            "channel": kept(report.channel) if report else "",
            "refused": [failure.as_dict() for failure in self.refused],
            "failed": [failure.as_dict() for failure in self.failed],
        }


@dataclass(slots=True)
class Ability:
    """What a helper can; None: not known yet."""

    lists: bool | None = None
    probes: bool | None = None
    tunes: bool | None = None
    hops: bool | None = None


class Drivers:
    """What each configured helper can: as its block says, else as it has shown.

    Attributes:
        programs: how each program is greeted.
    """

    def __init__(self) -> None:
        self.programs = GenerationCache()
        self._shown: dict[HelperSpec, Ability] = {}

    def learn(self, helper: HelperSpec, **shown: bool) -> None:
        """A helper has shown what it can.

        Args:
            helper: as configured: in another configuration it may be another program.
            shown: ``lists``, ``probes``, ``tunes``, ``hops``.
        """
        ability = self._shown.setdefault(helper, Ability())
        for word, can in shown.items():
            setattr(ability, word, can)

    def keep(self, helpers: Sequence[HelperSpec]) -> None:
        """Forget all but these."""
        self._shown = {helper: shown for helper, shown in self._shown.items() if helper in helpers}

    def can(self, helper: HelperSpec) -> Ability:
        """What a helper can."""
        shown = self._shown.get(helper, Ability())
        return Ability(
            shown.lists if helper.can_list is None else helper.can_list,
            shown.probes if helper.can_probe is None else helper.can_probe,
            shown.tunes if helper.can_tune is None else helper.can_tune,
            shown.hops if helper.can_hop is None else helper.can_hop,
        )

    def learn_listing(self, helpers: Sequence[HelperSpec], listing: Listing) -> None:
        """Who has listed can; who said that it cannot cannot; of the others nothing is learned."""
        failed = {failure.helper: failure.problem for failure in listing.failed}
        for helper in helpers:
            problem = failed.get(helper.name, "")
            if problem in {"", "not-supported"} and helper.can_list is not False:
                self.learn(helper, lists=not problem)

    def learn_probing(self, helpers: Sequence[HelperSpec], probing: Probing) -> None:
        """Who has said yes or no can probe."""
        said = {failure.helper for failure in probing.refused}
        if probing.helper is not None:
            said.add(probing.helper.name)
        for helper in helpers:
            if helper.name in said:
                self.learn(helper, probes=True)


def driver_for(helpers: Sequence[HelperSpec], definition: str, name: str | None) -> HelperSpec | None:
    """The helper that a definition names by itself: by ``name``, else by ``type=``; None: it has to be probed for.

    Raises:
        UsageError: "bad-definition", also for an option that this helper is said not to have; "unknown-helper": the
        name or the type is served by no configured helper.
    """
    helper = _named(helpers, definition, name)
    if helper is not None:
        check_definition(helper, definition)
    return helper


def check_definition(helper: HelperSpec, definition: str) -> None:
    """Refuse a definition with an option that the helper is said not to have.

    Raises:
        UsageError: "bad-definition", with the nearest option.
    """
    if helper.options is not None:
        check_options(SourceDefinition.parse(definition), helper.options, helper.name)


def _named(helpers: Sequence[HelperSpec], definition: str, name: str | None) -> HelperSpec | None:
    if name is not None:
        found = next((helper for helper in helpers if helper.name == name), None)
        if found is None:
            raise UsageError("unknown-helper", f"no [[helper]] is named {name!r}")
        return found
    kind = SourceDefinition.parse(definition).get("type")
    if not kind or kind.lower() == "auto":
        return None
    for helper in sorted(helpers, key=lambda helper: not helper.present):
        if kind.lower() in (served.lower() for served in helper.types):
            return helper
    known = ", ".join(sorted({served for helper in helpers if helper.present for served in helper.types}))
    text = f"no [[helper]] serves type {kind!r}; configured types: {known or 'none'}"
    if kind.lower() in _OWN:
        there = f"--config {INSTALLED} has it, or " if os.path.exists(INSTALLED) else ""
        text += f'; it comes with helperd: {there}write a block with command = ["builtin:{kind.lower()}"]'
    raise UsageError("unknown-helper", text)


async def list_devices(
    launcher: Launcher,
    helpers: Sequence[HelperSpec],
    tail: trio.Nursery,
    programs: GenerationCache | None = None,
) -> Listing:
    """Ask every helper for its devices, side by side.

    Args:
        launcher: starts them.
        helpers: all that are configured; one with ``can_list = false``, or not there, is left alone.
        tail: where the questions run: it ends once the last process is gone, which the answer does not wait for.
        programs: how they are greeted, as far as it is known; learns.
    """
    now = trio.current_time()
    questions = [
        Asked(launcher, helper, number, ListRequest(), now=now, programs=programs)
        for number, helper in enumerate(helpers, 1)
        if helper.can_list is not False and helper.present
    ]
    for asked in questions:
        tail.start_soon(asked.run)
    listing = Listing()
    for asked in questions:
        answer = await asked.answer()
        name = asked.helper.name
        if isinstance(answer, Failure):
            listing.failed.append(answer)
        elif isinstance(answer, ListReport) and answer.success:
            kind = asked.helper.types[0] if asked.helper.types else ""
            listing.devices += [Device(name, kind, found) for found in answer.interfaces]
        else:
            listing.failed.append(_refusal(name, answer, "not-supported", "cannot list"))
    await _gone(questions)
    return listing


def _refusal(name: str, report: ListReport | ProbeReport, problem: str, text: str) -> Failure:
    """A no, in the helper's own word where it gave one that says more than no."""
    word = reason_word(report.problem, problem)
    return Failure(name, problem if word == "open-refused" else word, kept(report.message) or text)


def _says_yes(asked: Asked) -> bool:
    return isinstance(asked.report, ProbeReport) and asked.report.success


async def _one_says_yes(questions: list[Asked], soon_at: float) -> None:
    """Wait for the first in order that says yes, from ``soon_at`` on for any that does, or until all have answered."""
    with trio.move_on_at(soon_at):
        for asked in questions:
            await asked.answered_in_time()
            if _says_yes(asked):
                return
        return
    if any(map(_says_yes, questions)):
        return
    async with trio.open_nursery() as nursery:

        async def wait(asked: Asked) -> None:
            await asked.answered_in_time()
            if _says_yes(asked):
                nursery.cancel_scope.cancel()

        for asked in questions:
            nursery.start_soon(wait, asked)


async def _lacking(helper: HelperSpec, definition: str) -> str:
    """What a helper that says no without a word lacks, where the system knows: the file, or the interface."""
    name = SourceDefinition.parse(definition).interface
    if "/" in name:  # may be on a file system that does not answer
        there = await in_thread(os.path.lexists, name)
        return "" if there else f"no such file: {name}"
    if not _FOR_INTERFACES.isdisjoint(helper.capabilities) and not _is_interface(name):
        return f"no such interface: {name}; there are {', '.join(_interfaces()) or 'none'}"
    return ""


def _interfaces() -> list[str]:
    return [name for _, name in sorted(socket.if_nameindex())]


def _is_interface(name: str) -> bool:
    """Whether the kernel knows an interface, or a radio, of that name."""
    return name in _interfaces() or any(os.path.exists(f"/sys/class/{kind}/{name}") for kind in _RADIOS)


async def _gone(questions: list[Asked]) -> None:
    with trio.move_on_after(GONE_S):
        for asked in questions:
            await asked.gone.wait()


async def probe(
    launcher: Launcher,
    helpers: Sequence[HelperSpec],
    tail: trio.Nursery,
    definition: str,
    name: str | None = None,
    programs: GenerationCache | None = None,
) -> Probing:
    """Find the helper that recognises a definition.

    Args:
        launcher: starts them.
        helpers: all that are configured; unless it is named, one with ``can_probe = false``, or not there, is left
            alone.
        tail: where the questions run.
        definition: what is asked about.
        name: of the one helper to ask.
        programs: how they are greeted, as far as it is known; learns.

    Raises:
        UsageError: "bad-definition"; "unknown-helper": ``type=`` or ``name`` names none.
    """
    only = driver_for(helpers, definition, name)
    now = trio.current_time()
    questions = [
        Asked(launcher, helper, number, ProbeRequest(definition), now=now, programs=programs)
        for number, helper in enumerate(helpers, 1)
        if (helper.can_probe is not False and helper.present if only is None else helper is only)
    ]
    if not questions:
        raise UsageError("unknown-helper", "no [[helper]] is configured, so nobody can be asked")
    for asked in questions:
        tail.start_soon(asked.run)
    await _one_says_yes(questions, now + SOON_S)
    found = Probing(definition)
    decided = any(map(_says_yes, questions))
    for asked in questions:
        if decided and not asked.answered.is_set():
            continue  # another says yes, and this one is late
        answer = await asked.answer()
        if isinstance(answer, Failure):
            found.failed.append(answer)
        elif isinstance(answer, ProbeReport) and answer.success:
            found.helper, found.report = asked.helper, answer
            break
        else:
            lacking = await _lacking(asked.helper, definition)
            found.refused.append(_refusal(asked.helper.name, answer, "probe-refused", lacking or "not mine"))
    for asked in questions:
        asked.cancel()
    await _gone(questions)
    return found
