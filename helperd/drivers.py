"""Which helpers exist, which definition belongs to which, and asking all of them at once.

Rules:
  1. Each helper is asked in a process of its own with a time limit of its own; a broken one is one line in the answer.
  2. The answer always comes, and names every helper that failed with its reason.
  3. A probe's winner is the first positive answer in the order of the configuration, not in the order of arrival.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from helperd.errors import HelperdError, HelperError, HelperExited, PeerTimedOut, ProtocolError, UsageError
from helperd.incarnation import Incarnation
from helperd.wire.definition import SourceDefinition
from helperd.wire.greeting import attempts
from helperd.wire.messages import (
    ErrorReport,
    Interface,
    ListReport,
    ListRequest,
    Message,
    ProbeReport,
    ProbeRequest,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from helperd.config.specs import HelperSpec
    from helperd.launcher import Launcher
    from helperd.wire.frames import Generation

ASK_S: Final = 2.0
"""Seconds that one helper has for list or probe, from its launch."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A helper that could not be asked, or did not answer."""

    helper: str
    problem: str
    text: str

    def as_dict(self) -> dict[str, object]:
        """Plain data for the control socket and ``--json``."""
        return {"helper": self.helper, "problem": self.problem, "text": self.text}


@dataclass(frozen=True, slots=True)
class Device:
    """One thing that a helper can open."""

    helper: str
    type: str
    interface: Interface

    def as_dict(self) -> dict[str, object]:
        """Plain data for the control socket and ``--json``."""
        kind = f"type={self.type}" if self.type else ""
        options = ",".join(part for part in (kind, self.interface.flags) if part)
        return {
            "helper": self.helper,
            "type": self.type,
            "interface": self.interface.name,
            "definition": f"{self.interface.name}:{options}" if options else self.interface.name,
            "hardware": self.interface.hardware,
            "flags": self.interface.flags,
        }


@dataclass(slots=True)
class Listing:
    """All devices of all helpers, in the order of the configuration, and who failed."""

    devices: list[Device] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """Plain data for the control socket and ``--json``."""
        return {
            "devices": [device.as_dict() for device in self.devices],
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
            "hardware": report.hardware if report else "",
            "channels": list(report.channels) if report else [],
            "channel": report.channel if report else "",
            "refused": [failure.as_dict() for failure in self.refused],
            "failed": [failure.as_dict() for failure in self.failed],
        }


def driver_for(helpers: Sequence[HelperSpec], definition: str, name: str | None) -> HelperSpec | None:
    """The helper that a definition names by itself: by ``name``, else by ``type=``; None: it has to be probed for.

    Raises:
        UsageError: "bad-definition"; "unknown-helper": the name or the type is served by no configured helper.
    """
    if name is not None:
        found = next((helper for helper in helpers if helper.name == name), None)
        if found is None:
            raise UsageError("unknown-helper", f"no [[helper]] is named {name!r}")
        return found
    kind = SourceDefinition.parse(definition).get("type")
    if not kind or kind.lower() == "auto":
        return None
    for helper in helpers:
        if kind.lower() in (served.lower() for served in helper.types):
            return helper
    known = ", ".join(sorted({served for helper in helpers for served in helper.types}))
    raise UsageError(
        "unknown-helper", f"no [[helper]] serves type {kind!r}; configured types: {known or 'none'}"
    )


async def ask(
    launcher: Launcher,
    helper: HelperSpec,
    profile: int,
    request: ListRequest | ProbeRequest,
    limit: float = ASK_S,
) -> ListReport | ProbeReport:
    """Start a helper, ask it one thing, and stop it; a v0 helper is started twice.

    Returns:
        The ListReport or ProbeReport.

    Raises:
        HelperError: launch failed, it ended first, or ran out of time, with its last words.
        ProtocolError: it broke the protocol.
    """
    deadline = trio.current_time() + limit
    *first, last = (None,) if helper.builtin else attempts(helper.wire)
    for generation in first:
        try:
            return await _ask_once(launcher, helper, profile, request, generation, deadline, limit)
        except _Unheard:
            continue
    return await _ask_once(launcher, helper, profile, request, last, deadline, limit)


class _Unheard(HelperExited):
    """It ended without a byte: perhaps it was greeted in the wrong generation."""


async def _ask_once(
    launcher: Launcher,
    helper: HelperSpec,
    profile: int,
    request: ListRequest | ProbeRequest,
    generation: Generation | None,
    deadline: float,
    limit: float,
) -> ListReport | ProbeReport:
    complaints: list[str] = []

    def hear(message: Message) -> None:
        if isinstance(message, ErrorReport):
            complaints.append(message.message)

    incarnation = await Incarnation.launch(
        launcher,
        helper,
        profile,
        deliver=lambda _runs, _size: None,
        on_message=hear,
        generation=generation,
    )
    kind: type[ListReport | ProbeReport] = ListReport if isinstance(request, ListRequest) else ProbeReport
    reason = "asked"
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(incarnation.channel.keep_writing)
            nursery.start_soon(incarnation.read_stderr)
            with trio.move_on_at(deadline):
                await incarnation.channel.greet()
                report = await incarnation.channel.request(request, kind)
                nursery.cancel_scope.cancel()
                return report
            reason = "timed-out"
            raise PeerTimedOut("timed-out", f"no answer within {limit:g} s{_words(incarnation, complaints)}")
    except* HelperExited as group:
        with trio.move_on_after(0.2):
            await incarnation.wait_ended()
        ended = incarnation.ended
        how = f"{ended.how} {ended.code}" if ended else "it closed its output"
        error = _Unheard if incarnation.channel.session.received == 0 else HelperExited
        raise error("exited", f"ended without an answer ({how}){_words(incarnation, complaints)}") from group
    finally:
        await incarnation.stop(reason=reason)
    raise AssertionError("unreachable")


def _words(incarnation: Incarnation, complaints: list[str]) -> str:
    words = complaints[-1:] or list(incarnation.stderr.last)[-1:]
    return f', last words: "{words[0]}"' if words else ""


def _failure(helper: HelperSpec, error: BaseException) -> Failure:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, HelperdError):
        return Failure(helper.name, error.problem, str(error).removeprefix(f"{error.problem}: "))
    raise error


async def list_devices(launcher: Launcher, helpers: Sequence[HelperSpec]) -> Listing:
    """Ask every helper for its devices, side by side."""
    answers: dict[str, ListReport] = {}
    failures: dict[str, Failure] = {}

    async def one(number: int, helper: HelperSpec) -> None:
        try:
            report = await ask(launcher, helper, number, ListRequest())
        except* (HelperError, ProtocolError) as group:
            failures[helper.name] = _failure(helper, group)
        else:
            assert isinstance(report, ListReport)
            if report.success:
                answers[helper.name] = report
            else:
                failures[helper.name] = Failure(helper.name, "not-supported", report.message or "cannot list")

    async with trio.open_nursery() as nursery:
        for number, helper in enumerate(helpers, 1):
            nursery.start_soon(one, number, helper)
    listing = Listing()
    for helper in helpers:
        if helper.name in failures:
            listing.failed.append(failures[helper.name])
        elif helper.name in answers:
            kind = helper.types[0] if helper.types else ""
            listing.devices += [Device(helper.name, kind, found) for found in answers[helper.name].interfaces]
    return listing


async def probe(
    launcher: Launcher, helpers: Sequence[HelperSpec], definition: str, name: str | None = None
) -> Probing:
    """Find the helper that recognises a definition.

    Raises:
        UsageError: "bad-definition"; "unknown-helper": ``type=`` or ``name`` names none.
    """
    only = driver_for(helpers, definition, name)
    poll = _Poll(
        definition, [(n, helper) for n, helper in enumerate(helpers, 1) if only is None or helper is only]
    )
    if not poll.asked:
        raise UsageError("unknown-helper", "no [[helper]] is configured, so nobody can be asked")
    async with trio.open_nursery() as nursery:
        for number, helper in poll.asked:
            nursery.start_soon(poll.ask, launcher, number, helper)
        await poll.settled.wait()
        nursery.cancel_scope.cancel()
    return poll.result()


class _Poll:
    """One definition, asked of several helpers at once."""

    def __init__(self, definition: str, asked: list[tuple[int, HelperSpec]]) -> None:
        self.definition = definition
        self.asked = asked
        self.answers: dict[str, ProbeReport | Failure] = {}
        self.settled = trio.Event()

    async def ask(self, launcher: Launcher, number: int, helper: HelperSpec) -> None:
        """Ask one helper, and see whether that decides it."""
        try:
            report = await ask(launcher, helper, number, ProbeRequest(self.definition))
        except* (HelperError, ProtocolError) as group:
            self.answers[helper.name] = _failure(helper, group)
        else:
            assert isinstance(report, ProbeReport)
            self.answers[helper.name] = report
        if self.winner() is not None or len(self.answers) == len(self.asked):
            self.settled.set()

    def winner(self) -> HelperSpec | None:
        """The first that said yes, once all before it have answered; None while that is open."""
        for _number, helper in self.asked:
            answer = self.answers.get(helper.name)
            if answer is None:
                return None
            if isinstance(answer, ProbeReport) and answer.success:
                return helper
        return None

    def result(self) -> Probing:
        """Who recognised it, who did not, who failed."""
        found = Probing(self.definition, self.winner())
        for _number, helper in self.asked:
            answer = self.answers.get(helper.name)
            if isinstance(answer, Failure):
                found.failed.append(answer)
            elif answer is not None and not answer.success:
                found.refused.append(Failure(helper.name, "probe-refused", answer.message or "not mine"))
            elif helper is found.helper:
                found.report = answer
        return found
