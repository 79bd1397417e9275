"""``pipe``: any program that writes pcap or pcapng to its stdout, or anybody who writes it to a FIFO.

::

    command = ["builtin:pipe", "--", "/usr/bin/tcpdump", "-U", "-w", "-", "-i", "{interface}"]
    definition:  eth0:type=tcpdump                       the program is started and read

    command = ["builtin:pipe"]
    definition:  /run/sniffer.fifo:type=pipe             the FIFO is read

Rules:
  1. The source is open when the program's capture header has come; then its link type is known.
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
from helperd.helpers._program import Program, identity
from helperd.helpers._template import Template
from helperd.helpers.sdk import Device, Helper, Refused, SourceDefinition, Writer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from helperd.helpers._capturefile import Captured

READ: Final = 256 << 10
HEADER_S: Final = 10.0
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


class Pipe(Helper):
    """The adapter."""

    TYPE = "pipe"
    SUMMARY = "reads pcap or pcapng from a program's stdout or from a FIFO"
    WORDS = "[NAME~PATTERN ...] /PROGRAM [ARGUMENT ...]"

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
        self._program: Program | None = None
        if template.program:
            argv = template.fill(definition)
            self._program = Program(argv)
            self._fd = self._program.fd
            name = self._program.name
        else:
            name = definition.interface
            argv = [name]
            self._fd = _open_fifo(name)
        self._stream = CaptureStream(name)
        try:
            dlt = self._wait_for_header(name)
        except BaseException:
            self._close()
            raise
        return Device(
            dlt=dlt,
            hardware=name,
            capture_interface=definition.interface,
            uuid=identity(argv, definition.interface),
        )

    def _wait_for_header(self, name: str) -> int | None:
        """Read until the link type is known; None: it has ended without any."""
        until = monotonic() + HEADER_S
        stream = self._stream
        while stream.parser.dlt is None and not stream.ended:
            data = self._read(max(0.0, until - monotonic()))
            if data is None:
                raise Refused(
                    f"{name} wrote no capture header within {HEADER_S:g} s; if it collects its output, turn that off "
                    "(tcpdump: -U)",
                    "timed-out",
                )
            if not data and self._program is not None and not stream.parser.format:
                self._program.close()
                raise Refused(f"{self._program.reason()}, before any packet", "child-gone")
            try:
                stream.first += stream.feed(data)
            except HelperdError as error:
                raise Refused(error.text, error.problem) from None
        return stream.parser.dlt

    def _read(self, timeout: float) -> bytes | None:
        """One read; None when nothing came in time."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return os.read(self._fd, READ) if poll.poll(timeout * 1000) else None

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
        program = getattr(self, "_program", None)
        if program is not None:
            program.stop()


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
