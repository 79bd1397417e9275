"""``pcapfile``: replays a capture file, pcap or pcapng, at the speed it was recorded or as fast as it is read.

::

    definition:  /captures/roof.pcapng:type=pcapfile,realtime=false,loop=3
                 demo:type=pcapfile,loop=true          the capture that comes with helperd

Rules:
  1. Probe and open look at the head of the file and refuse what is no capture; damage further on ends the
     replay with an error, after every whole packet before it.
  2. Packets keep their bytes, their true lengths and their stamps; each carries its own link type, the open
     report names the first. Packets without a stamp get the time of reading.
  3. A loop repeats the file as it is, old stamps included; the pace restarts with it.
"""

from __future__ import annotations

import os
import stat
from io import FileIO
from typing import TYPE_CHECKING, Final

from helperd.errors import HelperdError
from helperd.helpers._capturefile import CaptureParser
from helperd.helpers._clock import monotonic
from helperd.helpers._writer import TO_DLT
from helperd.helpers.sdk import Device, Helper, Refused, SourceDefinition, Writer

if TYPE_CHECKING:
    from helperd.helpers._capturefile import Captured

READ: Final = 256 << 10
MAX_PAUSE_S: Final = 3600.0  # the longest gap that is waited out; longer ones are mistakes in the stamps
DEMO: Final = os.path.join(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "share", "demo.pcapng"
)
NAMES: Final = (".pcap", ".pcapng", ".cap", ".ntar", ".dump")


class PcapFile(Helper):
    """The replay."""

    TYPE = "pcapfile"
    SUMMARY = "replays a pcap or pcapng file"
    IDENTITY = "kismet_cap_pcapfile"
    OPTIONS = {  # noqa: RUF012 - a constant of the class, as in Helper
        "realtime": "true (default): at the recorded speed; false: as fast as possible",
        "loop": "true: for ever; a number: so many times; default once",
        "hold": "true: stay when the file has ended; default only under a Kismet server",
    }

    def probe(self, definition: SourceDefinition) -> Device | bool:
        """Ours: any file that begins like a capture, and whatever says ``type=pcapfile`` or is named like one."""
        path = _path(definition)
        if not os.path.isfile(path):
            claimed = definition.get("type").lower() == self.TYPE or path.lower().endswith(NAMES)
            if claimed:
                _open(path)
            return False
        with _open(path) as file:
            return _look(path, file.read(READ))

    def open(self, definition: SourceDefinition) -> Device:
        """Open the file and look at its head."""
        self._path = _path(definition)
        self._realtime = _flag(definition, "realtime", default=True)
        self._rounds = _rounds(definition)
        if definition.get("hold"):
            self.hold = _flag(definition, "hold", default=False)
        self._file = _open(self._path)
        self._head = self._file.read(READ)
        return _look(self._path, self._head)

    def capture(self, writer: Writer) -> str:
        """Replay the file as often as asked."""
        done = 0
        packets = 0
        with self._file:
            while self._rounds is None or done < self._rounds:
                parser = CaptureParser(self._path)
                self._replay(writer, parser)
                packets += parser.packets
                done += 1
                if not parser.packets:
                    break
                if self._rounds is None or done < self._rounds:
                    self._file.seek(0)
                    self._head = self._file.read(READ)
        cut = f", {writer.cut} cut because the peer takes no longer frames" if writer.cut else ""
        times = f" in {done} rounds" if done > 1 else ""
        return f"end of {self._path}: {packets} packets{times}{cut}"

    def _replay(self, writer: Writer, parser: CaptureParser) -> None:
        """One round."""
        pace = _Pace(writer) if self._realtime else None
        data = self._head
        while data:
            captured = parser.feed(data)
            if pace is None:
                _write(writer, captured)
            else:
                pace.write(captured)
            data = self._file.read(READ)
        parser.finish()


def _write(writer: Writer, captured: list[Captured]) -> None:
    packet, dlts = writer.packet, TO_DLT
    for linktype, stamp, data, original in captured:
        packet(data, stamp, dlt=dlts.get(linktype, linktype), original=original)


class _Pace:
    """Writes packets when their time has come, counted from the first of them."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._start = monotonic()
        self._first_ns: int | None = None

    def write(self, captured: list[Captured]) -> None:
        for linktype, stamp, data, original in captured:
            if stamp is not None:
                if self._first_ns is None:
                    self._first_ns = stamp
                ahead = self._start + (stamp - self._first_ns) / 1e9 - monotonic()
                if ahead > MAX_PAUSE_S or ahead < -MAX_PAUSE_S:
                    self._first_ns, self._start = stamp, monotonic()  # the recorder's clock was set
                elif ahead > 0.001:
                    self._writer.wait(ahead)
            self._writer.packet(data, stamp, dlt=TO_DLT.get(linktype, linktype), original=original)


def _path(definition: SourceDefinition) -> str:
    """The file a definition names."""
    return DEMO if definition.interface == "demo" else definition.interface


def _open(path: str) -> FileIO:
    """Open a regular file for reading, or say why not; never waits for a FIFO's other end."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise Refused(f"{path} does not exist") from None
    except PermissionError:
        raise Refused(
            f"{path} may not be read by uid {os.getuid()}; give the helper's user or group read access",
            "not-permitted",
        ) from None
    except (OSError, ValueError) as error:
        raise Refused(f"{path} cannot be opened: {error}") from None
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return FileIO(fd)
    os.close(fd)
    if stat.S_ISDIR(mode):
        raise Refused(f"{path} is a directory, not a capture file")
    raise Refused(f"{path} is not a regular file; for FIFOs and programs use the pipe helper")


def _look(path: str, head: bytes) -> Device:
    """What the first bytes of a file tell; refuses what is no capture or damaged at its head."""
    parser = CaptureParser(path)
    try:
        captured = parser.feed(head) if head else []
        if len(head) < READ and not captured:
            parser.finish()
    except HelperdError as error:
        raise Refused(error.text, error.problem) from None
    linktype = captured[0].linktype if captured else parser.linktype
    if linktype is None:
        raise Refused(
            f"{path} holds neither a packet nor an interface: there is nothing to replay", "bad-capture"
        )
    return Device(
        dlt=TO_DLT.get(linktype, linktype),
        capture_interface=path,
        hardware=f"{parser.format} file",
        message=f"replaying {path}",
    )


def _flag(definition: SourceDefinition, key: str, *, default: bool) -> bool:
    """A boolean option that is taken seriously: what is neither true nor false is refused."""
    value = definition.get(key).lower()
    if value in {"true", "t"}:
        return True
    if value in {"false", "f"}:
        return False
    if value:
        raise Refused(f"{key}={value}: write true or false", "bad-definition")
    return default


def _rounds(definition: SourceDefinition) -> int | None:
    """How often to replay; None: for ever."""
    value = definition.get("loop")
    if value.isascii() and value.isdigit() and int(value) > 0:
        return int(value)
    if value and value.lower() not in {"true", "t", "false", "f"}:
        raise Refused(f"loop={value}: write true, false or a number of rounds", "bad-definition")
    return None if _flag(definition, "loop", default=False) else 1


HELPER = PcapFile
