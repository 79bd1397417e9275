"""What a helper is led through: a check raises ``Fault``, or ``Untried`` when there is nothing to try.

A check starts the helper anew, so that none depends on another; its docstring is what the table says.
"""

from __future__ import annotations

import contextlib
import random
import signal
from time import monotonic  # noqa: TID251 - one process at a time is watched, without trio
from typing import TYPE_CHECKING, NamedTuple

from helperd.conformance.subject import PIPE, Fault
from helperd.wire import bulk, generations
from helperd.wire.identity import checksum
from helperd.wire.messages import (
    ConfigureReport,
    ConfigureRequest,
    ErrorReport,
    Hopping,
    ListReport,
    ListRequest,
    OpenReport,
    OpenRequest,
    Ping,
    Pong,
    ProbeReport,
    ProbeRequest,
    Register,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from helperd.conformance.subject import Conversation, Subject

GROWTH_KIB = 32 << 10
"""Resident memory that nobody's not reading may cost a helper."""

GREETED_S, GREETED_TIMES = 2.0, 20.0
"""Who has answered one greeting gets so many seconds for the next, or so many times as long if that is more."""


class Untried(Exception):  # noqa: N818 - no fault
    """There is nothing to try, and why."""


class Check(NamedTuple):
    """One row of the table."""

    name: str
    what: str
    run: Callable[[Subject], None]


def _opened(subject: Subject, **how: bool) -> tuple[Conversation, OpenReport]:
    """A helper with its definition open."""
    if not subject.definition:
        raise Untried("no definition is known: --definition")
    talk = subject.start(**how)
    try:
        return talk, talk.open()
    except BaseException:
        talk.close()
        raise


def _listed(talk: Conversation) -> ListReport:
    """Its list report; a helper of v3 that cannot list may answer with an error instead."""
    number = talk.send(ListRequest())
    while True:
        for at, message in enumerate(talk.messages):
            if isinstance(message, ListReport):
                del talk.messages[at]
                talk.match(number, message.request)
                return message
            if isinstance(message, ErrorReport):
                raise Untried(f"it does not list: {message.message}")
        talk.messages.append(talk.expect(ListReport | ErrorReport))  # type: ignore[arg-type]


def greeting(subject: Subject) -> None:
    """PONG with the number of the PING."""
    with subject.start() as talk:
        talk.ping()


def listing(subject: Subject) -> None:
    """A list report that names its request, then the end."""
    with subject.start() as talk:
        _listed(talk)
        talk.must_end("its list report")


def probing(subject: Subject) -> None:
    """Yes to its own definition, no to nonsense, then the end."""
    for definition, wanted in ((subject.definition, True), (subject.nonsense, False)):
        if not definition:
            continue
        with subject.start() as talk:
            number = talk.send(ProbeRequest(definition))
            report = talk.expect(ProbeReport)
            talk.match(number, report.request)
            if report.success != wanted:
                raise Fault(f"it says {'yes' if report.success else 'no'} to {definition}: {report.message}")
            talk.must_end("its probe report")


def opening(subject: Subject) -> None:
    """A report, then packets or records that can be read."""
    talk, _ = _opened(subject)
    with talk:
        talk.until_packets(1)
        talk.look_at_packets()
        talk.ping()


def refusing(subject: Subject) -> None:
    """Nonsense is refused with a reason, then the end."""
    with subject.start() as talk:
        number = talk.send(OpenRequest(subject.nonsense))
        report = talk.expect(OpenReport)
        talk.match(number, report.request)
        if report.success:
            raise Fault(f"it opens {subject.nonsense}")
        if not report.message:
            raise Fault("it gives no reason")
        talk.must_end("its refusal")


def channel(subject: Subject) -> None:
    """An order to tune is answered, also when it cannot be done."""
    talk, report = _opened(subject)
    with talk:
        names = [*report.channels[:1], "no-such-channel"]
        for name in names:
            number = talk.send(ConfigureRequest(name))
            told = talk.expect(ConfigureReport)
            talk.match(number, told.request)
            if told.success != (name in report.channels):
                raise Fault(f"channel {name}: {'done' if told.success else told.message}")
        talk.ping()


def hopping(subject: Subject) -> None:
    """An order to hop is answered, and it stays there."""
    talk, report = _opened(subject)
    with talk:
        channels = report.channels[:3] or ("1", "6")
        number = talk.send(
            ConfigureRequest(hopping=Hopping(channels, rate=20.0, shuffle=False, skip=1, offset=0))
        )
        told = talk.expect(ConfigureReport)
        talk.match(number, told.request)
        if report.channels and not told.success:
            raise Fault(f"it does not hop over its own channels: {told.message}")
        talk.ping()


def pinging(subject: Subject) -> None:
    """PONG in every state: greeted, open, while packets come."""
    with subject.start() as talk:
        for _ in range(3):
            talk.ping()
    if subject.definition:
        talk, _ = _opened(subject)
        with talk:
            for _ in range(5):
                talk.ping()


def bytewise(subject: Subject) -> None:
    """Frames that come and go a byte at a time."""
    with subject.start(greet=False) as talk:
        hello = talk.session.greeting() if subject.generation is None else talk.session.send(Ping())
        talk.write_bytewise(hello)
        talk.expect(Pong)
        talk.write_bytewise(talk.session.send(ProbeRequest(subject.nonsense)))
        talk.expect(ProbeReport, 1)


def coalesced(subject: Subject) -> None:
    """Several frames in one write, each answered."""
    with subject.start() as talk:
        talk.write(b"".join(talk.raw(Ping(), number) for number in (101, 102, 103)))
        got = {talk.expect(Pong).request for _ in range(3)}
        if got != {101, 102, 103}:
            raise Fault(f"PONG {sorted(got)} for PING 101, 102, 103")


def big(subject: Subject) -> None:
    """A definition of 4,000 bytes has an answer; a frame of 2 GB is the end, not memory."""
    with subject.start() as talk:
        talk.send(ProbeRequest(subject.nonsense + ",name=" + "x" * 4000))
        talk.expect(ProbeReport)
    with subject.start() as talk:
        frame = talk.raw(Ping(), 5)
        talk.write(frame[:8] + b"\x7f\xff\xff\xff" + frame[12:])
        with contextlib.suppress(Fault):  # it does not read on, which is right
            for _ in range(32):
                talk.write(bytes(8192))
        talk.must_end("a frame of 2 GB was announced")


def unknown(subject: Subject) -> None:
    """A command that nobody knows ends nothing."""
    with subject.start() as talk:
        talk.hand_over(_strange(talk))
        for _ in range(2):  # who leaves may still have answered the first
            talk.ping()


def _strange(talk: Conversation) -> bytes:
    generation = talk.session.generation
    assert generation is not None
    if generation.name == "v3":
        return bytes.fromhex("decafbada9a90003000000017777000100000063") + b"\x80"
    frame = talk.raw(Ping(), 99).replace(b"PING", b"NOPE")
    if generation.name == "v0":
        return frame[:4] + checksum(frame[12:]).to_bytes(4, "big") + frame[8:]
    return frame


def twice(subject: Subject) -> None:
    """A second open request is no crash and no second stream."""
    talk, _ = _opened(subject)
    with talk:
        try:
            talk.hand_over(talk.raw(OpenRequest(subject.definition), 999))
            talk.ping()
        except Fault:
            talk.must_end("a second open request")


def full_pipe(subject: Subject) -> None:
    """Nobody reads for a while: no frame is broken, nothing grows, and it goes on."""
    talk, _ = _opened(subject)
    with talk:
        talk.until_packets(1)
        before = talk.resident_kib()
        held = talk.stall()
        if talk.process.poll() is not None and held >= PIPE:
            raise Fault("it ended while nobody read")
        grown = talk.resident_kib() - before
        if grown > GROWTH_KIB:
            raise Fault(f"it grew by {grown >> 10} MB while nobody read")
        if held < PIPE:
            raise Untried("it sends too little to fill a pipe")
        talk.ping()
        talk.until_packets(talk.packets + 1)
        talk.look_at_packets()


def eof(subject: Subject) -> None:
    """The end of its input is its end: fresh, greeted, open."""
    with subject.start(greet=False) as talk:
        talk.close_input()
        talk.must_end("its input was closed, before anything was said")
    with subject.start() as talk:
        talk.close_input()
        talk.must_end("its input was closed")
    if subject.definition:
        talk, _ = _opened(subject)
        with talk:
            talk.close_input()
            talk.must_end("its input was closed, while it captured")


def unheard(subject: Subject) -> None:
    """Nobody is there to read: that is its end."""
    talk, _ = _opened(subject)
    with talk:
        talk.until_packets(1)
        talk.close_output()
        status = talk.process
        try:
            talk.must_end("its reader was gone", reading=False)
        except Fault:
            if status.poll() != -signal.SIGPIPE:  # the usual end of a program
                raise


def terminated(subject: Subject) -> None:
    """SIGTERM ends it at every point: greeted, open, with a full pipe."""
    with subject.start() as talk:
        talk.process.terminate()
        talk.must_end("SIGTERM", crash=True)
    for full in (False, True):
        if not subject.definition:
            return
        talk, _ = _opened(subject)
        with talk:
            if full:
                talk.stall()
            talk.process.terminate()
            talk.must_end("SIGTERM" + (" with a full pipe" if full else ""), crash=True, reading=not full)


def garbage(subject: Subject) -> None:
    """Bytes that are no frames are its end, without a crash."""
    noise = random.Random(23).randbytes(8192)
    for begin in (b"", b"\xde\xca\xfb\xad"):
        with subject.start() as talk:
            with contextlib.suppress(Fault):  # it has ended, or reads no more: that is the point
                talk.write(begin + noise)
            talk.must_end("bytes that are no frames")
    with subject.start() as talk:
        frame = talk.raw(OpenRequest("x" * 40), 7)
        talk.write(frame[:-9])
        talk.close_input()
        talk.must_end("half a frame and the end of its input")


def payload(subject: Subject) -> None:
    """A request with nothing in it, or nonsense, is no crash."""
    with subject.start() as talk:
        frame = talk.raw(OpenRequest("x"), 7)
        generation = talk.session.generation
        assert generation is not None
        if generation.name == "v0":
            raise Untried("v0 payloads have a checksum of their own")
        size = generation.header
        broken = frame[:8] + (12).to_bytes(4, "big") + frame[12:size] + b"\xdf\xff\xff\xff\xff" + bytes(7)
        talk.write(broken)
        try:
            talk.ping()
        except Fault:
            talk.must_end("a request that is none")


def extension(subject: Subject) -> None:
    """The bulk extension, where it is offered: frames that hold what they say."""
    talk, report = _opened(subject, bulk_frames=False)
    with talk:
        offered = any(
            isinstance(item, Register) and item.subsystem == bulk.SUBSYSTEM for item in talk.messages
        )
    if not offered or report.dlt is None:
        raise Untried("it does not offer it")
    talk, _ = _opened(subject, bulk_frames=True)
    with talk:
        talk.until_packets(1)


def _told(text: str) -> str:
    """A docstring as the table has it."""
    text = text.strip().removesuffix(".")
    return text if text.split()[0].isupper() and len(text.split()[0]) > 1 else text[:1].lower() + text[1:]


CHECKS: tuple[Check, ...] = tuple(
    Check(name, _told(run.__doc__ or ""), run)
    for name, run in (
        ("greeting", greeting),
        ("list", listing),
        ("probe", probing),
        ("open", opening),
        ("refuse", refusing),
        ("channel", channel),
        ("hop", hopping),
        ("ping", pinging),
        ("bytewise", bytewise),
        ("coalesced", coalesced),
        ("big", big),
        ("unknown", unknown),
        ("twice", twice),
        ("full-pipe", full_pipe),
        ("eof", eof),
        ("unheard", unheard),
        ("sigterm", terminated),
        ("garbage", garbage),
        ("payload", payload),
        ("bulk", extension),
    )
)


def generations_of(subject: Subject) -> list[Subject]:
    """The subject, once for each generation that it can be addressed in: as a newcomer is greeted, and in v0.

    Raises:
        Fault: it answers in none.
    """
    found: list[Subject] = []
    said: list[str] = []
    patience = subject.answer_s
    for generation in (None, generations.named("v0")):
        candidate = subject._replace(generation=generation)
        began = monotonic()
        try:
            with candidate._replace(answer_s=patience).start():
                found.append(candidate)
        except Fault as fault:
            said.append(str(fault))
        else:
            patience = min(patience, max(GREETED_S, GREETED_TIMES * (monotonic() - began)))
    if not found:
        raise Fault(said[0])
    return found


def definition_of(subject: Subject) -> str:
    """The first device that it lists, as a definition; empty: it lists none."""
    try:
        with subject.start() as talk:
            report = _listed(talk)
    except (Fault, Untried):
        return ""
    for device in report.interfaces:
        return device.name + (f":{device.flags}" if device.flags else "")
    return ""
