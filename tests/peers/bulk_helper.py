"""A helper that speaks the bulk extension by hand: ``bulk_helper.py --in-fd=N --out-fd=N``.

Definition: ``x:type=bulk,does=WORD``; WORD is a function of this file, which is called once the source is open, and may
keep to the agreement or not. What the supervisor answered to questions for numbers is printed on stderr.

Environment:
  OFFERS  what it offers, separated by spaces; default the version of the checkout.
"""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from helperd import pcapng  # noqa: E402
from helperd.wire import bulk, generations  # noqa: E402
from helperd.wire import messages as m  # noqa: E402
from helperd.wire.frames import FrameScanner  # noqa: E402

V3 = generations.named("v3")
STAMP = 1_700_000_000_123_456_789


class Helper:
    """One conversation."""

    def __init__(self, source: int, target: int) -> None:
        self._source, self._target = source, target
        self._scanner = FrameScanner([V3, generations.named("v2")], sticky=False)
        self._seqno = 0
        self.numbers: dict[int, int | None] = {}
        self.accepted = False

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._target, view) :]

    def say(self, message: m.Message) -> None:
        self._seqno += 1
        self.write(V3.encode(message, self._seqno))

    def hear(self) -> bool:
        """Take one read."""
        data = os.read(self._source, 65536)
        for frame in self._scanner.feed(data) if data else ():
            match frame.generation.decode(frame):
                case m.Ping():
                    first = not self._seqno
                    self.say(m.Pong(frame.seqno))
                    for offer in os.environ.get("OFFERS", bulk.SUBSYSTEM).split() if first else ():
                        self.say(m.Register(offer))
                case m.ProbeRequest():
                    self.say(m.ProbeReport(frame.seqno))
                case m.Register(bulk.SUBSYSTEM, number, dlt):
                    self.accepted = True
                    if dlt is not None:
                        self.numbers[dlt] = number
                        print(f"{dlt} is {number}", file=sys.stderr, flush=True)
                case m.OpenRequest(definition):
                    does = definition.rpartition("does=")[2]
                    if does == "early":
                        self.ask(127)
                    self.say(m.OpenReport(frame.seqno, dlt=1, hardware="x"))
                    DOES[does](self)
                case m.Shutdown():
                    return False
        return bool(data)

    def ask(self, dlt: int) -> None:
        self.say(m.Register(bulk.SUBSYSTEM, None, dlt))

    def number(self, dlt: int) -> int | None:
        """The number of a link type, once it has come."""
        while dlt not in self.numbers:
            if not self.hear():
                sys.exit(1)
        return self.numbers[dlt]

    def send(self, number: int, content: bytes = b"abcd", options: bytes = b"", count: int = 1) -> None:
        made = pcapng.packet_block(number, STAMP, content, len(content), options=options)
        self.write(bulk.encode([made] * count, 1))


def honest(helper: Helper) -> None:
    """Three link types in turn."""
    own = helper.number(1)
    for dlt in (127, 105):
        helper.ask(dlt)
    for round_ in range(30):
        for number in (own, helper.number(127), helper.number(105)):
            helper.send(number, bytes([round_]) * 8, count=1 + round_ % 9)


def unagreed(helper: Helper) -> None:
    """The number of another source's interface, or of nobody's."""
    helper.send(helper.number(1) + 1)


def own_number(helper: Helper) -> None:
    """It names a number itself, and uses that."""
    helper.number(1)
    helper.say(m.Register(bulk.SUBSYSTEM, 99, 127))
    helper.number(127)
    helper.send(99)


def relabel(helper: Helper) -> None:
    """It gives a number that it has to another link type; packets stay under the first."""
    helper.ask(127)
    number = helper.number(127)
    helper.say(m.Register(bulk.SUBSYSTEM, number, 105))
    helper.number(105)
    helper.send(number, count=9)


def twice(helper: Helper) -> None:
    """It asks again and again for what it has."""
    for _ in range(5):
        helper.ask(127)
    helper.send(helper.number(127), count=9)


def overrun(helper: Helper) -> None:
    """An option that runs over its block."""
    helper.send(helper.number(1), options=struct.pack("<HH", 1, 400))


def mixed(helper: Helper) -> None:
    """Two interfaces in one frame, both agreed."""
    helper.ask(127)
    one, two = helper.number(1), helper.number(127)
    blocks = [pcapng.packet_block(number, STAMP, b"abcd", 4) for number in (one, two)]
    helper.write(bulk.encode(blocks, 1))


def many(helper: Helper) -> None:
    """More link types than a source may have, and some that cannot be."""
    kinds = [*range(200, 240), 70_000, 1 << 40]
    for dlt in kinds:
        helper.ask(dlt)
    numbers = [helper.number(dlt) for dlt in kinds]
    for number in (helper.number(1), *numbers):
        if number is not None:
            helper.send(number)


def flood(helper: Helper) -> None:
    """Questions without end, and no look at the answers."""
    helper.number(1)
    while True:
        helper.ask(127)


def early(helper: Helper) -> None:
    """It asked before its source was open."""
    helper.send(helper.number(1))


def reports(helper: Helper) -> None:
    """A packet in a data report, as to any server; it says whether the offer was accepted."""
    content = b"yes" if helper.accepted else b"no"
    helper.say(m.DataReport(m.Packet(content, 127, 1_700_000_000, 123_456, len(content))))


DOES = {
    one.__name__: one
    for one in (honest, unagreed, own_number, relabel, twice, overrun, mixed, many, flood, early, reports)
}


def main() -> None:
    fds = dict(word.removeprefix("--").split("=") for word in sys.argv[1:])
    helper = Helper(int(fds["in-fd"]), int(fds["out-fd"]))
    while helper.hear():
        pass


if __name__ == "__main__":
    main()
