"""``pipe``: any program that writes pcap or pcapng to its stdout, or anybody who writes it to a FIFO.

::

    command = ["builtin:pipe", "--", "/usr/bin/tcpdump", "-U", "-w", "-", "-i", "{interface}"]
    definition:  eth0:type=tcpdump                       the program is started and read

    command = ["builtin:pipe"]
    definition:  /run/sniffer.fifo:type=pipe             the FIFO is read

Rules:
  1. The source is open when the program's capture header has come, however long that takes; then its link type is
     known. After a while it is told what is waited for.
  2. The program's end is the helper's end: status 0 is a good end, anything else an error with its last words.
  3. Packets keep their bytes, lengths and stamps; each carries its own link type.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
from typing import TYPE_CHECKING, Final

from helperd.errors import HelperdError
from helperd.helpers._capturefile import CaptureParser
from helperd.helpers._clock import monotonic
from helperd.helpers._program import GRACE_S, Program, identity, readable
from helperd.helpers._template import Template
from helperd.helpers.sdk import Device, Helper, Refused, SourceDefinition, Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from helperd.helpers._capturefile import Captured

READ: Final = 256 << 10
TELL_S: Final = 5.0
"""Seconds without a capture header after which is told what is waited for; how long it is waited is not ours to say."""
_TICK_S: Final = 0.2


class CaptureStream:
    """What a program or a FIFO writes, cut into packets.

    Args:
        name: for error texts.
    """

    def __init__(self, name: str) -> None:
        self.parser = CaptureParser(name)
        self.first: list[Captured] = []
        self.ended = False

    def feed(self, data: bytes) -> list[Captured]:
        """Take a read; empty is the end.

        Raises:
            HelperdError: "bad-capture".
        """
        if data:
            return self.parser.feed(data)
        self.ended = True
        self.parser.finish()
        return []

    def write(self, writer: Writer, packets: list[Captured]) -> None:
        """Send packets, and what was found odd on the way to them.

        Raises:
            Stopped: as the writer's methods.
        """
        writer.packets(packets)
        if self.parser.odd:
            writer.count_odd(self.parser.odd)
        self.parser.left_out.tell(writer)

    def read_header(
        self,
        helper: Helper,
        read: Callable[[float | None], bytes | None],
        on_silent: Callable[[], int | None],
    ) -> int | None:
        """Read until the link type is known, however long that takes: a program may be silent for as long as it lives.

        Args:
            helper: whose end ends the wait.
            read: one read, empty at the end, with a time limit; None: nothing came yet.
            on_silent: called once, when nothing has come for ``TELL_S``: tells the user, and may know the link type.

        Returns:
            The link type; None: the stream has ended before there was any (without a format: nothing was in it).

        Raises:
            Refused: what came is no capture, or the helper is to end.
        """
        until = monotonic() + TELL_S
        told = False
        while self.parser.dlt is None and not self.ended:
            data = read(None if told else max(0.0, until - monotonic()))
            if data is None:
                if helper.stop_fd >= 0 and readable(helper.stop_fd, 0.0):
                    raise Refused(
                        f"it was ended before the capture header of {self.parser.name} came", "exited"
                    )
                if not told and monotonic() >= until:
                    told = True
                    known = on_silent()
                    if known is not None:
                        return known
                continue
            if not data and not self.parser.format:
                return None
            try:
                self.first += self.feed(data)
            except HelperdError as error:
                raise Refused(error.text, error.problem) from None
        return self.parser.dlt


class Pipe(Helper):
    """The adapter."""

    TYPE = "pipe"
    SUMMARY = "reads pcap or pcapng from a program's stdout or from a FIFO"
    WORDS = "[NAME~PATTERN ...] /PROGRAM [ARGUMENT ...]"

    STOP_GRACE_S = GRACE_S + 0.2
    _program: Program | None = None
    _fd = -1

    def known_options(self) -> Mapping[str, str]:
        """The places of the program's arguments."""
        return Template(self.words).options()

    def probe(self, definition: SourceDefinition) -> Device | bool:
        """Ours when it says so, or when it names a FIFO and no program is configured."""
        template = Template(self.words)
        if not template.program:
            with contextlib.suppress(OSError):
                return stat.S_ISFIFO(os.stat(definition.interface).st_mode)
            return False
        if definition.get("type").lower() != self.TYPE:
            return False
        return Device(hardware=" ".join(template.fill(definition)))

    def open(self, definition: SourceDefinition) -> Device:
        """Start the program, or open the FIFO, and wait for the capture header."""
        template = Template(self.words)
        if template.program:
            argv = template.fill(definition)
            self._program = Program(argv, stop_fd=self.stop_fd)
            self._fd = self._program.fd
            name = self._program.name
        else:
            name = definition.interface
            argv = [name]
            self._fd = _open_fifo(name)
        self._stream = CaptureStream(name)
        try:
            dlt = self._stream.read_header(
                self, lambda rest: self._read(rest, until_stop=True), self._on_silent
            )
            if not self._stream.parser.format and self._program is not None:
                self._program.close()
                raise Refused(f"{self._program.reason()}, before any packet", "child-gone")
        except BaseException:
            self._close()
            raise
        return Device(
            dlt=dlt,
            hardware=name,
            capture_interface=definition.interface,
            uuid=identity(argv, definition.interface),
        )

    def _on_silent(self) -> None:
        name = self._stream.parser.name
        if self._program is None:
            self.say(f"nobody has written a capture header to {name} for {TELL_S:g} s; still waiting")
        else:
            hint = "if it collects its output, turn that off (tcpdump: -U)"
            self.say(f"{name} has written no capture header for {TELL_S:g} s; still waiting; {hint}")

    def _read(self, timeout: float | None, *, until_stop: bool = False) -> bytes | None:
        """One read; None when nothing came in time."""
        if self._program is not None:
            return self._program.read(READ, timeout, until_stop=until_stop)
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        if until_stop and self.stop_fd >= 0:
            poll.register(self.stop_fd, select.POLLIN)
        ready = dict(poll.poll(None if timeout is None else timeout * 1000))
        return os.read(self._fd, READ) if self._fd in ready else None

    def capture(self, writer: Writer) -> str:
        """Read until the program ends."""
        stream = self._stream
        fault: HelperdError | None = None
        try:
            stream.write(writer, stream.first)
            stream.first = []
            while not stream.ended:
                data = self._read(_TICK_S)
                if data is not None:
                    stream.write(writer, stream.feed(data))
                elif writer.stopping:
                    break
        except HelperdError as error:
            fault = error
        finally:
            status = self._close()
        if status and self._program is not None:
            raise HelperdError("child-gone", self._program.reason())
        if fault is not None:
            raise fault
        packets = f"{stream.parser.packets} packets{stream.parser.left_out.summary}"
        if self._program is None:
            return f"the writer closed {stream.parser.name} after {packets}"
        return f"{self._program.name} has ended after {packets}"

    def _close(self) -> int:
        """Let go of the program or the FIFO; returns the program's status."""
        if self._program is not None:
            return self._program.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        return 0

    def stop(self) -> None:
        """End the program; its output then ends too."""
        if self._program is not None:
            self._program.stop()


def _open_fifo(path: str) -> int:
    """Open a FIFO for reading without waiting for its writer."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise Refused(f"{path} cannot be opened: {error}") from None
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        os.close(fd)
        raise Refused(f"{path} is no FIFO; make one with mkfifo, or replay files with type=pcapfile")
    os.set_blocking(fd, True)
    return fd


HELPER = Pipe
