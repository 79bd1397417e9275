"""A helper of v3 with one fault: ``broken_helper.py FAULT --in-fd=N --out-fd=N``; FAULT ``none`` is a sound one.

It lists, probes and opens the definition ``x:type=broken``, has channels 1 and 6, and sends packets as fast as
they are taken.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from helperd.errors import RemoteProtocolError
from helperd.wire import generations, v3
from helperd.wire import messages as m
from helperd.wire.frames import FrameScanner

FAULTS = {  # the fault, and the check that finds it
    "pong-with-another-number": "greeting",
    "list-report-without-its-number": "list",
    "stays-after-its-list": "list",
    "probe-says-yes-to-all": "probe",
    "opens-nonsense": "refuse",
    "refuses-without-a-reason": "refuse",
    "packet-before-the-open-report": "open",
    "packet-that-nobody-can-read": "open",
    "dies-when-told-to-tune": "channel",
    "tunes-to-anything": "channel",
    "deaf-to-pings-while-open": "ping",
    "wants-frames-whole": "bytewise",
    "one-frame-per-read": "coalesced",
    "waits-for-any-length": "big",
    "ends-at-what-it-does-not-know": "unknown",
    "cuts-frames-at-a-full-pipe": "full-pipe",
    "hoards-at-a-full-pipe": "full-pipe",
    "overlooks-the-end-of-its-input": "eof",
    "overlooks-that-nobody-reads": "unheard",
    "ignores-sigterm": "sigterm",
    "crashes-at-garbage": "garbage",
}
STARTED = __name__ == "__main__"
FAULT = sys.argv[1] if STARTED else "none"
FDS = dict(word.removeprefix("--").split("=") for word in sys.argv[2:]) if STARTED else {}
IN, OUT = int(FDS.get("in-fd", -1)), int(FDS.get("out-fd", -1))
OPENED = "x:type=broken"


class Broken:
    """The conversation."""

    def __init__(self) -> None:
        self.out = b""
        self.seqno = 0
        self.open = False
        self.leaving = False
        self.limit = 1 << 33 if FAULT == "waits-for-any-length" else 1 << 16
        self.scanner = FrameScanner(generations.GENERATIONS, sticky=False, max_frame=self.limit)
        self.buffer = b""

    def say(self, message: m.Message) -> None:
        self.seqno += 1
        self.out += v3.encode(message, self.seqno)

    def answer(self, message: m.Message) -> None:
        match message:
            case m.Ping():
                if not (FAULT == "deaf-to-pings-while-open" and self.open):
                    self.say(m.Pong(message.seqno + (FAULT == "pong-with-another-number")))
            case m.ListRequest():
                number = message.seqno + (FAULT == "list-report-without-its-number")
                self.say(m.ListReport(number, interfaces=(m.Interface("x", "type=broken"),)))
                self.leaving = FAULT != "stays-after-its-list"
            case m.ProbeRequest(text):
                yes = text == OPENED or FAULT == "probe-says-yes-to-all"
                self.say(m.ProbeReport(message.seqno, success=yes))
                self.leaving = True
            case m.OpenRequest(text) if not self.open:
                if FAULT == "packet-before-the-open-report":
                    self.out += v3.encode_packet(b"early", 1, 0, 0, 5, 1)
                self.open = text == OPENED or FAULT == "opens-nonsense"
                why = "" if self.open or FAULT == "refuses-without-a-reason" else "no such device"
                self.say(m.OpenReport(message.seqno, self.open, dlt=147, channels=("1", "6"), message=why))
                self.leaving = not self.open
            case m.OpenRequest():
                self.say(m.ErrorReport(message.seqno, "once is enough"))
            case m.ConfigureRequest():
                if FAULT == "dies-when-told-to-tune":
                    os.kill(os.getpid(), signal.SIGSEGV)
                good = (
                    message.hopping is not None
                    or message.channel in {"1", "6"}
                    or FAULT == "tunes-to-anything"
                )
                self.say(m.ConfigureReport(message.seqno, good, message.channel, message.hopping))
            case m.Unknown():
                self.leaving = FAULT == "ends-at-what-it-does-not-know"

    def hear(self, data: bytes) -> None:
        if FAULT == "wants-frames-whole" and len(data) < 12:
            return
        if FAULT == "one-frame-per-read":
            self.buffer += data
            if len(self.buffer) < 12:
                return
            head = 48 if self.buffer[4:6] == b"\xab\xcd" else 20
            size = head + int.from_bytes(self.buffer[8:12], "big")
            data, self.buffer = self.buffer[:size], self.buffer[size:]
        for item in self.scanner.feed(data):
            self.answer(item.generation.decode(item))

    def fill(self) -> None:
        """Packets, as many as are wanted at a time."""
        most = 256 << 20 if FAULT == "hoards-at-a-full-pipe" else 32 << 10
        while self.open and len(self.out) < most:
            self.seqno += 1
            frame = v3.encode_packet(bytes(1000), 147, 1_700_000_000, 0, 1000, self.seqno)
            if FAULT == "packet-that-nobody-can-read":
                frame = frame[:20] + b"\xc1" + frame[21:]
            if FAULT == "hoards-at-a-full-pipe":
                self.out += frame * 20000
                break
            self.out += frame

    def run(self) -> int:
        os.set_blocking(OUT, False)
        poll = select.poll()
        listening = True
        while True:
            self.fill()
            if self.leaving and not self.out:
                return 0
            poll.register(IN, select.POLLIN) if listening else None
            poll.register(OUT, select.POLLOUT if self.out else 0)
            for fd, event in poll.poll(20 if FAULT == "hoards-at-a-full-pipe" else None):
                if fd == OUT and event & select.POLLERR and FAULT != "overlooks-that-nobody-reads":
                    return 0
                if fd == OUT and event & select.POLLERR:
                    poll.unregister(OUT)
                    self.out, self.open = b"", False
                    while True:
                        time.sleep(1)
                if fd == OUT and event & select.POLLOUT:
                    self.write()
                if fd == IN and listening:
                    data = os.read(IN, 65536)
                    if not data and FAULT == "overlooks-the-end-of-its-input":
                        poll.unregister(IN)
                        listening = False
                    elif not data:
                        return 0
                    else:
                        self.hear(data)

    def write(self) -> None:
        try:
            wrote = os.write(OUT, self.out)
        except BlockingIOError:
            return
        except OSError:
            wrote = len(self.out)
        if FAULT == "cuts-frames-at-a-full-pipe" and self.open:
            wrote = len(self.out)  # what was not taken is forgotten
        self.out = self.out[wrote:]


def main() -> int:
    if FAULT not in FAULTS and FAULT != "none":
        raise SystemExit(f"no such fault: {FAULT}")
    if FAULT == "ignores-sigterm":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        return Broken().run()
    except RemoteProtocolError as error:
        if FAULT == "crashes-at-garbage":
            os.kill(os.getpid(), signal.SIGSEGV)
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
