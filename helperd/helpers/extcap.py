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
  3. Packets come through a pipe that the tool opens as its ``--fifo``. What it prints while it captures goes to
     stderr, its control messages become texts; nothing of that touches the data.
  4. A tool is asked with a time limit; one that prints nonsense or nothing is refused with what it said.

Source of facts: Wireshark's extcap(4) manual page.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Final

from helperd.errors import HelperdError, UsageError
from helperd.helpers import _extcap
from helperd.helpers._clock import monotonic
from helperd.helpers._program import Program, ask, identity
from helperd.helpers._template import Template
from helperd.helpers.pipe import HEADER_S, READ, CaptureStream
from helperd.helpers.sdk import (
    Device,
    Helper,
    Interface,
    Refused,
    Severity,
    SourceDefinition,
    Writer,
)
from helperd.wire.definition import COMMON_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ASK_S: Final = 1.5  # listing and probing have 2 s, interpreter included
FIFO: Final = 200  # descriptor numbers that the tool finds under /dev/fd
CONTROL_OUT: Final = 201
CONTROL_IN: Final = 202
MAX_CONTROL: Final = 1 << 16
_TICK_S: Final = 0.2
_QUIET = 6  # control command: status bar message; 7 information, 8 warning, 9 error


class Extcap(Helper):
    """The adapter."""

    TYPE = "extcap"
    SUMMARY = "runs a Wireshark extcap tool"
    WORDS = "[NAME~PATTERN ...] /PATH/OF/TOOL"

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
        """Ask the tool.

        Raises:
            Refused: it does not answer, or with nothing that can be understood.
        """
        tool = self._tool().program
        try:
            answer = ask([tool, *words], ASK_S)
        except HelperdError as error:
            raise Refused(error.text, error.problem) from None
        if not _extcap.sentences(answer.text) and (answer.status or answer.text.strip()):
            said = (answer.text.strip() or answer.errors.strip()).replace("\n", " ")[:120]
            raise Refused(f"{tool} {' '.join(words)} ended with status {answer.status} and said {said!r}")
        return answer.text

    def known_options(self) -> Mapping[str, str]:
        """All options of all the tool's interfaces; none when it does not answer."""
        try:
            names = list(_extcap.interfaces(self._ask("--extcap-interfaces", "--extcap-version=4.0")))
            return {
                _name(option): option.meaning for name in names for option in self._options(name).values()
            }
        except HelperdError:
            return {}

    def _options(self, interface: str) -> dict[str, _extcap.Option]:
        return _extcap.options(self._ask("--extcap-interface", interface, "--extcap-config"))

    def list(self) -> list[Interface]:
        """The tool's interfaces."""
        text = self._ask("--extcap-interfaces", "--extcap-version=4.0")
        found = _extcap.interfaces(text)
        if not found:
            raise Refused(f"{self._tool().program} names no interface")
        return [Interface(name, "", display) for name, display in found.items()]

    def probe(self, definition: SourceDefinition) -> Device | bool:
        """Ours when the tool has an interface of that name."""
        name = definition.interface
        text = self._ask("--extcap-interfaces", "--extcap-version=4.0")
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
                    f"{key}={value!r} is not allowed: it must match {pattern.pattern}", "bad-definition"
                )
            argv += _extcap.arguments(option, value)
        for option in known.values():
            if option.required and _name(option) not in definition.options:
                raise Refused(f"option {option.name} is missing: {option.meaning}", "bad-definition")
        return tuple(argv)

    def open(self, definition: SourceDefinition) -> Device:
        """Start the tool and wait for the capture header."""
        tool = self._tool().program
        name = definition.interface
        text = self._ask("--extcap-interfaces", "--extcap-version=4.0")
        found = _extcap.interfaces(text)
        if name not in found:
            raise Refused(f"{name}: {tool} has {', '.join(found) or 'no interface'}")
        options = self._arguments(definition)
        argv = [tool, *options, "--capture", "--extcap-interface", name, "--fifo", f"/dev/fd/{FIFO}"]
        self._control = None
        if any(sentence.word == "control" for sentence in _extcap.sentences(text)):
            self._control = Control()
            argv += ["--extcap-control-out", f"/dev/fd/{CONTROL_OUT}"]
            argv += ["--extcap-control-in", f"/dev/fd/{CONTROL_IN}"]
        try:
            more = self._control.theirs if self._control is not None else {}
            self._program = Program(argv, fifo=FIFO, more=more)
        finally:
            if self._control is not None:
                self._control.close_theirs()
        self._stream = CaptureStream(self._program.name)
        try:
            dlt = self._wait_for_header(name)
        except BaseException:
            self._close()
            raise
        return Device(
            dlt=dlt,
            hardware=found[name],
            capture_interface=name,
            uuid=identity([tool, *options], name),
        )

    def _wait_for_header(self, name: str) -> int | None:
        """The link type: from the capture header, or, while the tool waits for its first packet, announced.

        None: it has ended without any.
        """
        until = monotonic() + HEADER_S
        stream = self._stream
        while stream.parser.dlt is None and not stream.ended:
            data = self._program.read(READ, max(0.0, until - monotonic()))
            if data is None:
                announced = _extcap.first_dlt(self._ask("--extcap-interface", name, "--extcap-dlts"))
                if announced is None:
                    raise Refused(f"{self._program.name} wrote nothing within {HEADER_S:g} s", "timed-out")
                return announced
            if not data and not stream.parser.format:
                self._program.close()
                raise Refused(f"{self._program.reason()}, before any packet", "child-gone")
            try:
                stream.first += stream.feed(data)
            except HelperdError as error:
                raise Refused(error.text, error.problem) from None
        return stream.parser.dlt

    def capture(self, writer: Writer) -> str:
        """Read until the tool ends."""
        stream = self._stream
        fault: HelperdError | None = None
        if self._control is not None:
            self._control.listen(writer)
        try:
            stream.write(writer, stream.first)
            stream.first = []
            while not stream.ended:
                data = self._program.read(READ, _TICK_S)
                if data is not None:
                    stream.write(writer, stream.feed(data))
                elif writer.stopping:
                    break
        except HelperdError as error:
            fault = error
        finally:
            status = self._close()
        if status:
            raise HelperdError("child-gone", self._program.reason())
        if fault is not None:
            raise fault
        packets = f"{stream.parser.packets} packets{stream.parser.left_out.summary}"
        return f"{self._program.name} has ended after {packets}"

    def _close(self) -> int:
        status = self._program.close()
        if self._control is not None:
            self._control.close()
        return status

    def stop(self) -> None:
        """End the tool; its output then ends too."""
        program = getattr(self, "_program", None)
        if program is not None:
            program.stop()


def _name(option: _extcap.Option) -> str:
    """The option of a definition; ``channel`` means the same to a server and a tool, other shared names do not."""
    return f"x-{option.name}" if option.name in COMMON_OPTIONS - {"channel"} else option.name


class Control:
    """The two control pipes of a tool that has a toolbar: what it says becomes texts, it is told nothing.

    Attributes:
        theirs: the tool's ends by the numbers it has them under.
    """

    def __init__(self) -> None:
        self._out, out_end = os.pipe2(os.O_CLOEXEC)
        in_end, self._in = os.pipe2(os.O_CLOEXEC)
        self.theirs = {CONTROL_OUT: out_end, CONTROL_IN: in_end}
        self._thread: threading.Thread | None = None
        os.write(self._in, control_message(0, 0))  # "initialized": the toolbar has no values to set

    def close_theirs(self) -> None:
        """Close the tool's ends here."""
        for fd in self.theirs.values():
            os.close(fd)
        self.theirs = {}

    def listen(self, writer: Writer) -> None:
        """Begin to pass messages on."""
        self._thread = threading.Thread(target=self._listen, args=(writer,), name="control", daemon=True)
        self._thread.start()

    def _listen(self, writer: Writer) -> None:
        held = b""
        while data := os.read(self._out, 4096):
            held += data
            while len(held) >= 6:
                length = int.from_bytes(held[1:4], "big")
                if held[:1] != b"T" or length < 2 or length > MAX_CONTROL:
                    writer.warning(
                        "the tool's control messages make no sense; they are not listened to any more"
                    )
                    while os.read(self._out, 65536):
                        pass
                    return
                if len(held) < 4 + length:
                    break
                command, payload = held[5], held[6 : 4 + length]
                held = held[4 + length :]
                if command >= _QUIET and payload:
                    severity = {8: Severity.ALERT, 9: Severity.ERROR}.get(command, Severity.INFO)
                    writer.message(payload.decode("utf-8", "replace"), severity)

    def close(self) -> None:
        """The tool has ended: so does its talk."""
        os.close(self._in)
        if self._thread is not None:
            self._thread.join(0.2)
        os.close(self._out)


def control_message(number: int, command: int, payload: bytes = b"") -> bytes:
    """A control message: sync byte, 24-bit length, control number, command, payload."""
    return b"T" + (len(payload) + 2).to_bytes(3, "big") + bytes([number, command]) + payload


HELPER = Extcap
