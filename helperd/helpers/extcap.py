"""``extcap``: any Wireshark extcap tool as a helper.

::

    command = ["builtin:extcap", "--", "remote-host~[a-z0-9.-]{1,255}", "remote-username~[a-z0-9_]{1,32}",
               "/usr/lib/x86_64-linux-gnu/wireshark/extcap/sshdump"]
    definition:  sshdump:type=sshdump,remote-host=host.example,remote-username=capture,remote-count=1000

Rules:
  1. The tool's interfaces are listed, its options are the definition's options without the hyphens; what the
     tool says about a value's type, range and choices is checked before it is started.
     One whose name is a server's word (type, name) is written with ``x-`` in front: ``x-type=arp``.
  2. An option that takes free text or a path (a command to run on the way, a file to write) may be filled only
     if the profile has a pattern for it. Numbers, flags and choices are free.
  3. Packets come through a FIFO that the tool, or a program that it starts, opens as its ``--fifo``. What it prints
     while it captures goes to stderr, its control messages and the lines for its logger become texts; nothing of
     that touches the data.
  4. A tool is asked each thing once, with the time limit of its block; one that prints nonsense or nothing is refused
     with what it said. With its packets it may take as long as it likes.

Source of facts: Wireshark's extcap(4) manual page.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from typing import TYPE_CHECKING, Final

from helperd.errors import HelperdError, UsageError
from helperd.helpers import _extcap
from helperd.helpers._fifo import Fifos
from helperd.helpers._program import GRACE_S, Program, ask, identity
from helperd.helpers._template import Template
from helperd.helpers.pipe import READ, TELL_S, CaptureStream
from helperd.helpers.sdk import (
    Device,
    Helper,
    Interface,
    Refused,
    Severity,
    SourceDefinition,
    Writer,
)
from helperd.sandbox import ASK_TIMEOUT
from helperd.wire.definition import COMMON_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

KEY: Final = "probe_timeout"
"""Which key of a [[helper]] says how long one question to the tool may take; it comes in the environment."""
MAX_CONTROL: Final = 1 << 16
_TICK_S: Final = 0.2
_INTERFACES: Final = ("--extcap-interfaces", "--extcap-version=4.0")
_LINES: Final = frozenset({1, 2})
"""Control commands that give a logger its lines: set, add."""
_SEVERITIES: Final = {6: Severity.INFO, 7: Severity.INFO, 8: Severity.ALERT, 9: Severity.ERROR}
"""Control commands: a line for the status bar, information, a warning, an error."""
_NONSENSE: Final = "the tool's control messages make no sense; they are not listened to any more"


class Extcap(Helper):
    """The adapter."""

    TYPE = "extcap"
    SUMMARY = "runs a Wireshark extcap tool"
    WORDS = "[NAME~PATTERN ...] /PATH/OF/TOOL"

    STOP_GRACE_S = GRACE_S + 0.2
    _program: Program | None = None
    _control: Control | None = None
    _fifos: Fifos | None = None

    def __init__(self) -> None:
        self._answers: dict[tuple[str, ...], str] = {}

    def _tool(self) -> Template:
        """The configured tool.

        Raises:
            UsageError: "usage"; there is none, or there are arguments behind it.
        """
        allowed = [word for word in self.words if not word.startswith("/")]
        paths = [word for word in self.words if word.startswith("/")]
        if len(paths) != 1 or self.words[-1] != paths[0]:
            raise UsageError("usage", f'write command = ["builtin:extcap", "--", {self.WORDS}]')
        template = Template(allowed)
        template.program = paths[0]
        return template

    def _ask(self, *words: str) -> str:
        """Ask the tool, each thing once.

        Raises:
            Refused: it does not answer, or with nothing that can be understood.
        """
        if words in self._answers:
            return self._answers[words]
        tool = self._tool().program
        try:
            answer = ask([tool, *words], _patience(), wake=self.stop_fd)
        except HelperdError as error:
            text = f"{error.text} ({KEY} of its [[helper]])" if error.problem == "timed-out" else error.text
            raise Refused(text, error.problem) from None
        if not _extcap.sentences(answer.text) and (answer.status or answer.text.strip()):
            said = (answer.text.strip() or answer.errors.strip()).replace("\n", " ")[:120]
            raise Refused(f"{tool} {' '.join(words)} ended with status {answer.status} and said {said!r}")
        self._answers[words] = answer.text
        return answer.text

    def known_options(self) -> Mapping[str, str]:
        """All options of all the tool's interfaces; none when it does not answer."""
        try:
            names = list(_extcap.interfaces(self._ask(*_INTERFACES)))
            return {
                _name(option): option.meaning for name in names for option in self._options(name).values()
            }
        except HelperdError:
            return {}

    def options_for(self, definition: SourceDefinition) -> Mapping[str, str]:
        """Those of its interface: to ask for all of them may take a slow tool long."""
        try:
            if definition.interface not in _extcap.interfaces(self._ask(*_INTERFACES)):
                return definition.options  # there is no such interface: that is the reason, and is told
            return {_name(option): option.meaning for option in self._options(definition.interface).values()}
        except HelperdError:
            return {}

    def _options(self, interface: str) -> dict[str, _extcap.Option]:
        return _extcap.options(self._ask("--extcap-interface", interface, "--extcap-config"))

    def list(self) -> list[Interface]:
        """The tool's interfaces."""
        text = self._ask(*_INTERFACES)
        found = _extcap.interfaces(text)
        if not found:
            raise Refused(f"{self._tool().program} names no interface")
        return [Interface(name, "", display) for name, display in found.items()]

    def probe(self, definition: SourceDefinition) -> Device | bool:
        """Ours when the tool has an interface of that name."""
        name = definition.interface
        text = self._ask(*_INTERFACES)
        found = _extcap.interfaces(text)
        if name not in found:
            if definition.get("type").lower() == self.TYPE:
                raise Refused(f"{name}: the tool has {', '.join(found) or 'no interface'}")
            return False
        self._arguments(definition)
        return Device(hardware=found[name], capture_interface=name)

    def _arguments(self, definition: SourceDefinition) -> Sequence[str]:
        """The tool's arguments for a definition's options.

        Raises:
            Refused: one is missing, not allowed or wrong.
        """
        tool = self._tool()
        known = {_name(option): option for option in self._options(definition.interface).values()}
        argv: list[str] = []
        for key, value in definition.options.items():
            option = known.get(key)
            if option is None:
                if key in COMMON_OPTIONS:
                    continue  # the server's own
                raise Refused(
                    f"{tool.program} has no option {key!r}; it has {', '.join(known)}", "bad-definition"
                )
            pattern = tool.pattern(key)
            if pattern is None and not option.closed:
                raise Refused(
                    f"option {key} takes free text: the profile must allow it with a pattern, {key}~PATTERN",
                    "not-permitted",
                )
            if pattern is not None and not pattern.fullmatch(value):
                raise Refused(
                    f"{key}={value!r} is not allowed: it must match {pattern.pattern}; "
                    f"{key}~PATTERN in front of the tool, in the helper's command, allows what else it may be",
                    "bad-definition",
                )
            lists = option.kind == "multicheck" or not option.closed
            argv += _extcap.arguments(option, value if lists else definition.word(key))
        for option in known.values():
            if option.required and _name(option) not in definition.options:
                raise Refused(f"option {option.name} is missing: {option.meaning}", "bad-definition")
        return tuple(argv)

    def open(self, definition: SourceDefinition) -> Device:
        """Start the tool and wait for the capture header."""
        tool = self._tool().program
        name = definition.interface
        text = self._ask(*_INTERFACES)
        found = _extcap.interfaces(text)
        if name not in found:
            raise Refused(f"{name}: {tool} has {', '.join(found) or 'no interface'}")
        options = self._arguments(definition)
        self._start([tool, *options, "--capture", "--extcap-interface", name], text)
        program, stream = self._program, self._stream
        assert program is not None
        try:
            dlt = stream.read_header(
                self, lambda rest: program.read(READ, rest, until_stop=True), lambda: self._announced(name)
            )
            if dlt is None and not stream.parser.format:
                program.close()
                raise Refused(f"{program.reason()}, before any packet", "child-gone")
        except BaseException:
            self._close()
            raise
        return Device(
            dlt=dlt,
            hardware=found[name],
            capture_interface=name,
            uuid=identity([tool, *options], name),
        )

    def _start(self, argv: Sequence[str], interfaces: str) -> None:
        """Start the tool, with a FIFO for its packets and two more if it has a toolbar."""
        self._fifos = Fifos()
        try:
            fifo = self._fifos.make("packets")
            control: Sequence[str] = ()
            if _extcap.has_controls(interfaces):
                self._control = Control(self._fifos, _extcap.loggers(interfaces), self.say)
                control = self._control.arguments
            self._program = Program([*argv, *control, "--fifo", fifo], fifo=fifo, stop_fd=self.stop_fd)
            self._stream = CaptureStream(self._program.name)
        except BaseException:
            self._close()
            raise

    def _announced(self, name: str) -> int | None:
        """The link type that a tool announces which writes its capture header with its first packet."""
        dlt: int | None = None
        with contextlib.suppress(HelperdError):
            dlt = _extcap.first_dlt(self._ask("--extcap-interface", name, "--extcap-dlts"))
        if dlt is None:
            self.say(f"{self._stream.parser.name} has written nothing for {TELL_S:g} s; still waiting")
        return dlt

    def capture(self, writer: Writer) -> str:
        """Read until the tool ends."""
        stream, program = self._stream, self._program
        assert program is not None
        fault: HelperdError | None = None
        try:
            stream.write(writer, stream.first)
            stream.first = []
            while not stream.ended:
                data = program.read(READ, _TICK_S)
                if data is not None:
                    stream.write(writer, stream.feed(data))
                elif writer.stopping:
                    break
        except HelperdError as error:
            fault = error
        finally:
            status = self._close()
        if status:
            raise HelperdError("child-gone", program.reason())
        if fault is not None:
            raise fault
        packets = f"{stream.parser.packets} packets{stream.parser.left_out.summary}"
        return f"{program.name} has ended after {packets}"

    def _close(self) -> int:
        """Let go of everything; returns the tool's status."""
        status = 0 if self._program is None else self._program.close()
        control, self._control = self._control, None
        if control is not None:
            control.close()
        if self._fifos is not None:
            self._fifos.close()
        return status

    def stop(self) -> None:
        """End the tool; its output then ends too."""
        if self._program is not None:
            self._program.stop()


def _patience() -> float | None:
    """Seconds that a question to the tool may take; None: any number, as under a server with limits of its own."""
    seconds = float(os.environ.get(ASK_TIMEOUT, "0") or "0")
    return seconds or None


def _name(option: _extcap.Option) -> str:
    """The option of a definition; ``channel`` means the same to a server and a tool, other shared names do not."""
    return f"x-{option.name}" if option.name in COMMON_OPTIONS - {"channel"} else option.name


class Control:
    """The two control FIFOs of a tool that has a toolbar: what it says becomes texts, it is told nothing.

    Args:
        fifos: where they are made.
        loggers: numbers of the controls that show lines.
        say: called with each text and its severity, by a thread.

    Attributes:
        arguments: what the tool is given, to find them.
    """

    def __init__(self, fifos: Fifos, loggers: Collection[int], say: Callable[[str, Severity], None]) -> None:
        self._loggers = loggers
        self._say = say
        said, told = fifos.make("control-out"), fifos.make("control-in")
        self.arguments = ("--extcap-control-out", said, "--extcap-control-in", told)
        # Open at both ends: the tool need not wait for us, nor we for it, and it may come and go as it likes.
        self._out = os.open(said, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._in = os.open(told, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._over = os.eventfd(0, os.EFD_CLOEXEC)
        os.write(self._in, control_message(0, 0))  # "initialized": the toolbar has no values to set
        self._thread = threading.Thread(target=self._listen, name="control", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        poll = select.poll()
        poll.register(self._out, select.POLLIN)
        poll.register(self._over, select.POLLIN)
        held = b""
        sane = True
        while True:
            ready = dict(poll.poll())
            if self._out in ready:  # first: what it said before its end is heard
                data = os.read(self._out, 65536)
                held = self._take(held + data) if sane else b""
                if sane and held[:1] not in {b"", b"T"}:
                    sane = False
                    self._say(_NONSENSE, Severity.ALERT)
            elif self._over in ready:
                return

    def _take(self, held: bytes) -> bytes:
        """Hear whole messages; returns the rest, which begins with no sync byte if it makes no sense."""
        while len(held) >= 6:
            length = int.from_bytes(held[1:4], "big")
            if held[:1] != b"T" or length < 2 or length > MAX_CONTROL:
                return b"?"
            if len(held) < 4 + length:
                break
            self._hear(held[4], held[5], held[6 : 4 + length].decode("utf-8", "replace"))
            held = held[4 + length :]
        return held

    def _hear(self, number: int, command: int, text: str) -> None:
        """One message: for the status bar or a dialogue, or lines for a logger."""
        if command in _SEVERITIES and text:
            self._say(text, _SEVERITIES[command])
        elif command in _LINES and number in self._loggers:
            for line in filter(None, map(str.strip, text.splitlines())):
                self._say(line, Severity.INFO)

    def close(self) -> None:
        """The tool has ended: so does its talk."""
        os.eventfd_write(self._over, 1)
        self._thread.join()
        for fd in (self._in, self._out, self._over):
            os.close(fd)


def control_message(number: int, command: int, payload: bytes = b"") -> bytes:
    """A control message: sync byte, 24-bit length, control number, command, payload."""
    return b"T" + (len(payload) + 2).to_bytes(3, "big") + bytes([number, command]) + payload


HELPER = Extcap
