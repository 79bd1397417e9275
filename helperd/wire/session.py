"""Session: one peer, from its first byte to its end.

Rules:
  1. Nothing outside this file changes a phase.
  2. The table speaks of SUPERVISOR and HELPER, never of us and them: one table judges what we send and what
     they send.
  3. What may arrive late, because it was on its way when the other side spoke, is allowed in the next phase
     too.
  4. After a protocol error a session stays in ERROR for good: it neither listens nor speaks.
  5. Nothing is coalesced: ``send`` returns one frame, to be written by itself, because helpers up to 2025
     handle one frame per read (kismet-protocol.md, H1) and need the first PING in one piece (H25).

The life of a helper, as its supervisor sees it:

    GREETING --Pong--> READY --ListRequest--> LISTING --ListReport--> READY
                       READY --ProbeRequest-> PROBING --ProbeReport-> READY
                       READY --OpenRequest--> OPENING --OpenReport--> OPEN, or CLOSING when refused
                       any   --Shutdown-----> CLOSING
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from helperd.errors import LocalProtocolError, RemoteProtocolError
from helperd.wire import bulk
from helperd.wire.frames import MAX_FRAME, PACKETS, ControlFrame, FrameScanner, Run, run_of
from helperd.wire.generations import GENERATIONS, named
from helperd.wire.messages import (
    AuthRequest,
    AuthToken,
    BluetoothReport,
    Changed,
    CloseRequest,
    ConfigureReport,
    ConfigureRequest,
    DataReport,
    ErrorReport,
    Event,
    EventPublish,
    EventRegister,
    HttpCancel,
    HttpRegister,
    HttpRequest,
    HttpResponse,
    ListReport,
    ListRequest,
    Lost,
    NewSource,
    OpenReport,
    OpenRequest,
    Ping,
    Pong,
    ProbeReport,
    ProbeRequest,
    Register,
    Shutdown,
    Text,
    Unknown,
    WarningReport,
)
from helperd.wire.record import replace

if TYPE_CHECKING:
    from helperd.wire.frames import Generation
    from helperd.wire.messages import Message


class Role(enum.Enum):
    """Which end of the connection."""

    SUPERVISOR = "supervisor"
    HELPER = "helper"

    @property
    def other(self) -> Role:
        """The opposite end."""
        return Role.HELPER if self is Role.SUPERVISOR else Role.SUPERVISOR


class Phase(enum.Enum):
    """Where the conversation stands."""

    GREETING = "greeting"
    """Nobody has spoken, or the first PING has not been answered."""
    READY = "ready"
    """Nothing is asked."""
    LISTING = "listing"
    PROBING = "probing"
    OPENING = "opening"
    OPEN = "open"
    """Data flows."""
    CLOSING = "closing"
    """The end was announced, or the open request refused; late frames are still read."""
    ERROR = "error"
    """A protocol error; nothing more is read or written."""


_G, _R, _L, _P, _N, _O, _C, _E = Phase
_BOTH: Final = dict.fromkeys((_G, _R, _L, _P, _N, _O, _C))

Table = dict[type, "dict[Phase, Phase | None]"]
"""Message to phases it is allowed in, each with the next phase; None is the same phase."""

ALLOWED: Final[dict[Role, Table]] = {
    Role.SUPERVISOR: {
        Ping: {**_BOTH},
        Pong: {**_BOTH},
        ListRequest: {_G: _L, _R: _L, _C: None},
        ProbeRequest: {_G: _P, _R: _P, _C: None},
        OpenRequest: {_G: _N, _R: _N, _C: None},
        ConfigureRequest: {_O: None, _C: None},
        CloseRequest: {_N: _C, _O: _C, _C: None},
        Register: {_G: None, _R: None, _O: None, _C: None},
        Shutdown: {**_BOTH, _G: _C, _R: _C, _L: _C, _P: _C, _N: _C, _O: _C},
        Event: {**_BOTH},
        HttpRequest: {**_BOTH},
        HttpCancel: {**_BOTH},
        AuthToken: {**_BOTH},
        Unknown: {**_BOTH},
    },
    Role.HELPER: {
        Ping: {**_BOTH},
        Pong: {**_BOTH, _G: _R},
        NewSource: {_G: _R, _R: None},
        ListReport: {_L: _R, _C: None},
        ProbeReport: {**_BOTH, _P: _R},
        OpenReport: {_N: _O, _C: None},
        ConfigureReport: {_N: None, _O: None, _C: None},
        DataReport: {_O: None, _C: None},
        BluetoothReport: {_O: None, _C: None},
        ErrorReport: {**_BOTH, _L: _C, _P: _C, _N: _C, _O: _C},
        WarningReport: {**_BOTH},
        Text: {**_BOTH},
        Register: {**_BOTH},
        Lost: {_O: None, _C: None},
        Changed: {_O: None, _C: None},
        Shutdown: {**_BOTH, _G: _C, _R: _C, _L: _C, _P: _C, _N: _C, _O: _C},
        EventRegister: {**_BOTH},
        EventPublish: {**_BOTH},
        HttpRegister: {**_BOTH},
        HttpResponse: {**_BOTH},
        AuthRequest: {**_BOTH},
        Unknown: {**_BOTH},
    },
}
"""Who may say what, when, and where it leads. A missing entry is a protocol error of whoever sent it."""

_OF_DATA: Final = tuple(ALLOWED[Role.HELPER][DataReport])
"""Phases of data, looked at in each read: members of a tuple are found by identity, keys of a dict by hashing."""

LATE: Final = {
    Role.SUPERVISOR: (ListRequest, ProbeRequest, OpenRequest, ConfigureRequest, CloseRequest, Register),
    Role.HELPER: (ListReport, OpenReport),
}
"""What may arrive in CLOSING, because it was on its way, but may not be sent any more."""


def step(role: Role, phase: Phase, message: Message, asked: int = 0) -> Phase | None:
    """The phase after ``role`` sent ``message`` in ``phase``, or None when it may not.

    Args:
        role: who sent it.
        phase: where the conversation stood.
        message: what was sent.
        asked: number of the last list, probe or open request.

    Two kinds of message look at their content: a report that may refuse, and the failed probe report with
    which C helpers answer every command they do not know (kismet-protocol.md, H5), which changes nothing.
    """
    allowed = ALLOWED[role].get(type(message))
    if allowed is None or phase not in allowed:
        return None
    after = allowed[phase] or phase
    match message:
        case OpenReport(success=False) if phase is _N:
            return _C
        case ErrorReport(success=True):
            return phase
        case ProbeReport(request, success) if phase is not _P or request != asked:
            return None if success and phase is not _C else phase
        case _:
            return after


CUT: Final = " ... (cut here: more than a frame takes)"
HELPER_LIMIT: Final = (1 << 16) - 1
"""Largest frame a C helper takes (kismet-protocol.md, 1.8)."""


def _shorter(message: Message, excess: int) -> Message | None:
    """A message with its longest words for people cut by so many bytes and some; None when that is not enough."""
    words = {name: getattr(message, name, None) for name in ("text", "reason", "message", "warning")}
    raw = {name: text.encode(errors="replace") for name, text in words.items() if isinstance(text, str)}
    name = max(raw, key=lambda each: len(raw[each]), default="")
    if not name or len(raw[name]) < excess + len(CUT) + 16:
        return None
    kept = raw[name][: -(excess + len(CUT) + 16)].decode(errors="ignore")
    return replace(message, **{name: kept + CUT})


class Session:
    """One peer.

    Attributes:
        role: which end we are.
        phase: where the conversation stands.
        generation: what we send in; None until it is known.
        last_seqno: number of the last frame we sent, 0 before the first.
        bulk: interface numbers of the bulk extension by link type, None for a link type that was refused one; itself
            None until the extension is accepted.
        truncated: packets we cut because the peer would not take the whole frame.
        asked: number of the last list, probe or open request, whoever sent it; 0 before the first.
    """

    __slots__ = (
        "_listens",
        "_scanner",
        "asked",
        "bulk",
        "generation",
        "last_seqno",
        "phase",
        "role",
        "truncated",
    )

    def __init__(
        self,
        role: Role,
        *,
        generation: Generation | None = None,
        verify: bool = True,
        max_frame: int = MAX_FRAME,
        remote: bool = False,
    ) -> None:
        """Begin.

        Args:
            role: which end we are.
            generation: what to speak. A supervisor without one greets with the v2 PING and learns it from the
                answer; a helper without one learns it from the supervisor's first frame.
            verify: whether checksums of v0 frames are checked.
            max_frame: largest frame accepted, in bytes.
            remote: the helper dialled in and speaks first, in any generation (supervisor only).
        """
        self.role = role
        self.generation = generation
        self._listens = role is Role.SUPERVISOR  # to reports
        self.phase = Phase.GREETING
        self.last_seqno = 0
        self.bulk: dict[int, int | None] | None = None
        self.asked = 0
        self.truncated = 0
        self._scanner = FrameScanner(
            GENERATIONS if remote else self._expected(),
            sticky=role is Role.SUPERVISOR,
            max_frame=max_frame,
            verify=verify,
        )
        if generation is not None and role is Role.SUPERVISOR:
            self.phase = Phase.READY

    def _expected(self) -> tuple[Generation, ...]:
        """Generations the peer's frames may be in.

        A helper that is addressed in v0 may answer in v2 (kismet-protocol.md, 1.5); one that is greeted
        with the v2 PING cannot speak v0. A supervisor may greet in v2 and go on in v3.
        """
        if self.role is Role.HELPER:
            return GENERATIONS
        if self.generation is None:
            return tuple(generation for generation in GENERATIONS if generation.name != "v0")
        if self.generation.name == "v0":
            return tuple(generation for generation in GENERATIONS if generation.name in ("v2", "v0"))
        return (self.generation,)

    @property
    def received(self) -> int:
        """Bytes received, whole frames or not."""
        return self._scanner.at

    @property
    def pending(self) -> int:
        """Bytes held of an unfinished frame."""
        return self._scanner.pending

    def greeting(self) -> bytes:
        """The supervisor's first frame; to be written in one piece.

        Returns:
            The v2 PING with number 0, which v2 and v3 helpers answer; or a PING in the generation that was
            given.
        """
        if self.generation is not None:
            return self.send(Ping())
        if self.phase is not Phase.GREETING or self.role is not Role.SUPERVISOR:
            raise LocalProtocolError(
                "not-allowed-now", f"{self.role.value} cannot greet in phase {self.phase.value}"
            )
        return V2_PING

    def send(self, message: Message) -> bytes:
        """Encode a message, if it may be sent now.

        Returns:
            One frame.

        Raises:
            LocalProtocolError: "not-allowed-now" by the table or before the generation is known,
            "not-supported"
                when the generation has no such message.
        """
        if self.phase is Phase.ERROR:
            raise LocalProtocolError("not-allowed-now", "the session ended with a protocol error")
        after = step(self.role, self.phase, message, self.asked)
        late = self.phase is Phase.CLOSING and isinstance(message, LATE[self.role])
        if after is None or late or self.generation is None:
            raise LocalProtocolError(
                "not-allowed-now",
                f"{self.role.value} may not send {type(message).__name__} in phase {self.phase.value}",
            )
        seqno = self.last_seqno % 0xFFFFFFFF + 1
        frame = self._fit(message, self.generation, seqno)
        self._note(self.role, message, seqno)
        self.last_seqno = seqno
        self.phase = after
        return frame

    def _fit(self, message: Message, generation: Generation, seqno: int) -> bytes:
        """Encode a message so that the peer takes it: a packet is cut, its length kept; words, too, and marked."""
        frame = generation.encode(message, seqno)
        limit = self.send_limit
        if len(frame) <= limit:
            return frame
        if isinstance(message, DataReport) and message.packet is not None:
            packet = message.packet
            # Lengths shrink with the content, so what the frame has too much is enough to take away.
            content = packet.content[: max(0, len(packet.content) - (len(frame) - limit) - 16)]
            original = len(packet.content) if packet.original is None else packet.original
            cut = replace(message, packet=replace(packet, content=content, original=original))
            frame = generation.encode(cut, seqno)
            if len(frame) <= limit:
                self.truncated += 1
                return frame
        elif shorter := _shorter(message, len(frame) - limit):
            frame = generation.encode(shorter, seqno)
            if len(frame) <= limit:
                return frame
        raise LocalProtocolError(
            "frame-too-long", f"{type(message).__name__} needs {len(frame)} bytes, the peer takes {limit}"
        )

    @property
    def send_limit(self) -> int:
        """Largest frame the peer takes, in bytes.

        A foreign server's by its generation; ours once it accepted the bulk extension; C helpers read into
        64 KiB.
        """
        if self.role is Role.SUPERVISOR:
            return HELPER_LIMIT
        return (
            MAX_FRAME if self.bulk is not None or self.generation is None else self.generation.receiver_limit
        )

    def receive(self, data: bytes) -> list[Message | Run]:
        """Take one read.

        Args:
            data: bytes as they came, cut anywhere; not empty.

        Returns:
            Messages and runs in the order of the stream.

        Raises:
            RemoteProtocolError: the peer broke the protocol; ``at`` and ``excerpt`` say where, ``before``
            holds what
                came ahead of it in the same read.
            LocalProtocolError: this session has already ended with an error.
        """
        if self._listens and self.phase in _OF_DATA and self._scanner.take_report(data):
            return [run_of((PACKETS, data, 0, len(data), 1, 1))]
        if self.phase is Phase.ERROR:
            raise LocalProtocolError("not-allowed-now", "the session ended with a protocol error")
        out: list[Message | Run] = []
        base = self._scanner.at
        try:
            try:
                items = self._scanner.feed(data)
            except RemoteProtocolError as error:
                self._take(
                    [item for item in error.before if isinstance(item, (Run, ControlFrame))], out, base
                )
                raise
            self._take(items, out, base)
        except RemoteProtocolError as error:
            self.phase = Phase.ERROR
            error.before = list(out)
            raise
        return out

    def receive_eof(self) -> None:
        """The peer's stream has ended.

        Raises:
            RemoteProtocolError: "partial-frame"; it ended inside a frame.
        """
        if self.phase is not Phase.ERROR and self._scanner.pending:
            self.phase = Phase.ERROR
            raise RemoteProtocolError(
                "partial-frame",
                f"the stream ended after {self._scanner.pending} bytes of a frame",
                at=self._scanner.at - self._scanner.pending,
            )

    def _take(self, items: list[Run | ControlFrame], out: list[Message | Run], base: int) -> None:
        """Judge what the scanner found, in order."""
        for item in items:
            if isinstance(item, Run):
                if self.role is not Role.SUPERVISOR or self.phase not in _OF_DATA:
                    raise self._refusal("data", base, item.data[item.start : item.start + 64])
                self.generation = self._scanner.current
                out.append(item)
                continue
            message = item.generation.decode(item)
            after = step(self.role.other, self.phase, message, self.asked)
            if after is None:
                raise self._refusal(type(message).__name__, item.at, item.payload)
            self._learn(item, message)
            self._note(self.role.other, message, item.seqno)
            self.phase = after
            out.append(message)

    def _refusal(self, what: str, at: int, excerpt: bytes) -> RemoteProtocolError:
        return RemoteProtocolError(
            "not-allowed-now",
            f"{self.role.other.value} sent {what} in phase {self.phase.value}",
            at=at,
            excerpt=excerpt,
        )

    def _learn(self, frame: ControlFrame, message: Message) -> None:
        """Fix our generation by the peer's frame.

        A supervisor follows its helper. A helper answers the v2 probe PING, which has number 0, in v3, and
        anything else in the generation of the first frame. It follows a supervisor that moves on to a newer
        one, and tolerates v2 PINGs among v3 frames; nothing else that is older.
        """
        if self.role is Role.SUPERVISOR or self.generation is None:
            probe = self.role is Role.HELPER and frame.seqno == 0 and isinstance(message, Ping)
            self.generation = named("v3") if probe and frame.generation.name == "v2" else frame.generation
        elif frame.generation.number > self.generation.number:
            self.generation = frame.generation
        elif frame.generation is not self.generation and not (
            isinstance(message, Ping) and (self.generation.name, frame.generation.name) == ("v3", "v2")
        ):
            raise RemoteProtocolError(
                "wrong-generation",
                f"a {frame.generation.name} frame came in a {self.generation.name} conversation",
                at=frame.at,
                excerpt=frame.payload,
            )

    def _note(self, sender: Role, message: Message, seqno: int) -> None:
        """Remember what was asked and agreed; an interface number is the supervisor's to give, never the helper's."""
        match message:
            case ListRequest() | ProbeRequest() | OpenRequest():
                self.asked = seqno
            case Register(bulk.SUBSYSTEM, interface, dlt) if sender is Role.SUPERVISOR:
                self._agree(interface, dlt)
            case _:
                pass

    def _agree(self, interface: int | None, dlt: int | None) -> None:
        """Take what the supervisor says of the bulk extension; what it has said once of a link type stays true."""
        numbers = self.bulk = {} if self.bulk is None else self.bulk
        if dlt is None:
            return
        if numbers.setdefault(dlt, interface) != interface and self.role is Role.HELPER:
            text = f"link type {dlt} is to have interface number {interface}, but has {numbers[dlt]}"
            raise RemoteProtocolError("bad-payload", text)
        if interface is not None and self.role is Role.SUPERVISOR:
            self._scanner.bulk |= {interface}


def render_table() -> str:
    """The state table as Markdown, one table per role; ``docs/protocol.md`` holds a copy that a test
    compares.
    """
    lines: list[str] = []
    for role, table in ALLOWED.items():
        phases = [phase for phase in Phase if phase is not Phase.ERROR]
        lines += [
            f"Sent by the {role.value}:",
            "",
            "| message | " + " | ".join(p.value for p in phases) + " |",
        ]
        lines.append("|---|" + "---|" * len(phases))
        for message, allowed in table.items():
            late = {Phase.CLOSING} if message in LATE[role] else set()
            cells = [
                "" if p not in allowed else "late" if p in late else (allowed[p] or p).value for p in phases
            ]
            lines.append(f"| {message.__name__} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


V2_PING: Final = bytes.fromhex("decafbadabcd000200000000") + b"PING".ljust(32, b"\0") + bytes(4)
"""The probe: a v2 PING with number 0 and no payload (kismet-protocol.md, 1.6)."""
