"""``pcapfile``: replays a recording, at the speed it was made or as fast as it is read.

pcap and pcapng, also inside gzip or zstd, and the logs of Kismet (``.kismet``), with their JSON.

::

    definition:  /captures/roof.pcapng:type=pcapfile,realtime=false,loop=3
                 demo:type=pcapfile,loop=true,stamps=now   the capture that comes with helperd, as if it were of now

Rules:
  1. Probe and open look at the head of the file and refuse what is no capture; damage further on ends the
     replay, after every whole packet before it, and is told. Who holds at the end holds then, too.
  2. Packets keep their bytes, their true lengths and their stamps; each carries its own link type, the open
     report names the first. Packets without a stamp get the time of reading.
  3. A loop repeats the file as it is, old stamps included; the pace restarts with it. With ``stamps=now`` all stamps
     of a round are shifted alike, so that its first packet is of the moment at which it is sent.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from helperd.errors import HelperdError
from helperd.helpers._capturefile import BAD_STAMP
from helperd.helpers._clock import monotonic
from helperd.helpers._recording import CaptureRecording, open_file, open_recording
from helperd.helpers._writer import is_round
from helperd.helpers.sdk import Device, Helper, Refused, SourceDefinition, Writer
from helperd.pcapng import LAST_STAMP, comments

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from helperd.helpers._recording import Recording

PLAIN: Final = 5  # fields of an entry without signal and position
MAX_PAUSE_S: Final = 3600.0  # the longest gap that is waited out; longer ones are mistakes in the stamps
DEMO: Final = os.path.join(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "share", "demo.pcapng"
)
SUFFIXES: Final = (".pcap", ".pcapng", ".cap", ".ntar", ".dump", ".kismet")
NAMES: Final = (*SUFFIXES, ".pcap.gz", ".pcapng.gz", ".pcap.zst", ".pcapng.zst")


class PcapFile(Helper):
    """The replay."""

    TYPE = "pcapfile"
    SUMMARY = "replays pcap and pcapng files, also inside gzip or zstd, and logs of Kismet"
    IDENTITY = "kismet_cap_pcapfile"
    SHARED = True
    SEALED = True  # a recording may be anybody's; not where it is read by opening files or starting programs
    OPTIONS = {  # noqa: RUF012 - a constant of the class, as in Helper
        "realtime": "true (default): at the recorded speed; false: as fast as possible",
        "stamps": "now: shifted, so that the first packet is of now; original (default)",
        "loop": "true: for ever; a number: so many times; default once",
        "hold": "true: stay when the file has ended; default only under a Kismet server",
    }

    def probe(self, definition: SourceDefinition) -> Device | bool:
        """Ours: any file that begins like a recording, and whatever says ``type=pcapfile`` or is named like one."""
        path = _path(definition)
        if not os.path.isfile(path):
            if definition.get("type").lower() == self.TYPE or path.lower().endswith(NAMES):
                open_file(path).close()
            return False
        recording = open_recording(path)
        recording.close()
        return _device(path, recording)

    def open(self, definition: SourceDefinition) -> Device:
        """Open the file and look at its head."""
        self._path = _path(definition)
        self._realtime = _flag(definition, "realtime", default=True)
        self._rounds = _rounds(definition)
        self._shifted = _shifted(definition)
        if definition.get("hold"):
            self.hold = _flag(definition, "hold", default=False)
        self._recording = open_recording(self._path)
        self.SEALED = (
            isinstance(self._recording, CaptureRecording) and not self._recording.unpacked_by_program
        )
        return _device(self._path, self._recording)

    def capture(self, writer: Writer) -> str:
        """Replay the file as often as asked."""
        done = 0
        self._odd: Counter[str] = Counter()
        before = writer.written
        try:
            while self._rounds is None or done < self._rounds:
                sent = writer.written
                self._replay(writer)
                done += 1
                if writer.written == sent:
                    break  # nothing in it: once is enough
        except HelperdError as error:
            if not self.hold:
                raise
            writer.warning(error.text)  # whoever would start us anew would read the same
        finally:
            self._recording.close()
        cut = f", {writer.cut} cut because the peer takes no longer frames" if writer.cut else ""
        cut += "".join(f", {packets} with {reason}" for reason, packets in self._odd.items())
        times = f" in {done} rounds" if done > 1 else ""
        left_out = self._recording.left_out.summary
        return f"end of {self._path}: {writer.written - before} packets{times}{cut}{left_out}"

    def _replay(self, writer: Writer) -> None:
        """One round."""
        pace = _Pace(writer) if self._realtime else None
        batches = self._recording.batches()
        try:
            for batch in _from_now(batches, self._recording.odd) if self._shifted else batches:
                if pace is not None:
                    pace.write(batch)
                elif batch and len(batch[0]) == PLAIN:
                    writer.packets(batch)
                else:
                    for entry in batch:
                        _write(writer, entry)
                self._tell(writer)
        finally:
            self._tell(writer)

    def _tell(self, writer: Writer) -> None:
        """Count what is not as the file says, here and in the ledger, and tell what of it is not passed on."""
        odd = self._recording.odd
        if odd:
            self._odd += odd
            writer.count_odd(odd)
        self._recording.left_out.tell(writer)


def _from_now(
    batches: Iterable[Sequence[tuple[Any, ...]]], odd: Counter[str]
) -> Iterator[Sequence[tuple[Any, ...]]]:
    """The batches of a round, shifted so that its first stamp is now; counts what that takes out of all time."""
    shift: int | None = None
    for batch in batches:
        if shift is None:
            first = next((entry[1] for entry in batch if entry[1] is not None), None)
            shift = None if first is None else time.time_ns() - first
        yield [_moved(entry, shift, odd) for entry in batch] if shift is not None else batch


def _moved(entry: tuple[Any, ...], shift: int, odd: Counter[str]) -> tuple[Any, ...]:
    """An entry at another time; where pcapng cannot say it at the nearest one, with its own in the comment."""
    dlt, stamp, data, original, options, *rest = entry
    if stamp is None:
        return entry
    stamp += shift
    if not 0 <= stamp <= LAST_STAMP:
        odd[BAD_STAMP] += 1
        options += comments(f"time stamp {stamp} ns since 1970")
        stamp = LAST_STAMP if stamp > 0 else 0
    return dlt, stamp, data, original, options, *rest


class _Pace:
    """Writes packets when their time has come, counted from the first of them."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._start = monotonic()
        self._first_ns: int | None = None

    def write(self, batch: Sequence[tuple[Any, ...]]) -> None:
        """Write each packet of a batch in its time."""
        for entry in batch:
            stamp = entry[1]
            if stamp is not None:
                if self._first_ns is None:
                    self._first_ns = stamp
                ahead = self._start + (stamp - self._first_ns) / 1e9 - monotonic()
                if ahead > MAX_PAUSE_S or ahead < -MAX_PAUSE_S:
                    self._first_ns, self._start = stamp, monotonic()  # the recorder's clock was set
                elif ahead > 0.001:
                    self._writer.wait(ahead)
            _write(self._writer, entry)


def _write(writer: Writer, entry: tuple[Any, ...]) -> None:
    """Write one entry."""
    if len(entry) == PLAIN:
        writer.packets((entry,))
        return
    dlt, stamp, data, original, options, signal, gps, record = entry
    if not record:
        writer.packet(data, stamp, dlt=dlt, original=original, signal=signal, gps=gps, options=options)
        return
    try:
        writer.json(record, data.decode(), stamp, gps=gps)
    except ValueError as error:
        if is_round(writer.left_out):
            writer.warning(f"{writer.left_out} left out: {error}")


def _path(definition: SourceDefinition) -> str:
    """The file a definition names."""
    return DEMO if definition.interface == "demo" else definition.interface


def _device(path: str, recording: Recording) -> Device:
    return Device(
        dlt=recording.dlt, capture_interface=path, hardware=recording.kind, message=f"replaying {path}"
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


def _shifted(definition: SourceDefinition) -> bool:
    """Whether stamps are to be of now."""
    value = definition.get("stamps").lower()
    if value not in {"", "now", "original"}:
        raise Refused(f"stamps={value}: write now or original", "bad-definition")
    return value == "now"


def _rounds(definition: SourceDefinition) -> int | None:
    """How often to replay; None: for ever."""
    value = definition.get("loop")
    if value.isascii() and value.isdigit() and int(value) > 0:
        return int(value)
    if value and value.lower() not in {"true", "t", "false", "f"}:
        raise Refused(f"loop={value}: write true, false or a number of rounds", "bad-definition")
    return None if _flag(definition, "loop", default=False) else 1


HELPER = PcapFile
