"""A foreign helper of any generation: ``any_helper.py v0|v2|v3 --in-fd=N --out-fd=N``.

Definition: ``x:type=any,packets=N,json=N,bluetooth=N,size=N``; its packets and JSON reports are numbered, the reports
come evenly among the packets. It writes a frame at a time, as C helpers do, and then stays until it is told to end.
Its interface ends at the first colon, as in Kismet's helpers; the open report names it.

Environment:
  STRICT  like the real ones of v0 it ends at a frame of another generation, with status 1 and without an answer.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SECOND = 1_700_000_000


def content(number: int, size: int) -> bytes:
    """The packet of a number."""
    return number.to_bytes(4, "big") + bytes((number * 7 + at) & 0xFF for at in range(size - 4))


def text(number: int) -> str:
    """The report of a number."""
    return f'{{"model": "Sensor", "id": {number}}}'


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from helperd.errors import RemoteProtocolError
    from helperd.wire import generations
    from helperd.wire import messages as m
    from helperd.wire.definition import SourceDefinition
    from helperd.wire.frames import FrameScanner

    generation = generations.named(sys.argv[1])
    fds = dict(word.removeprefix("--").split("=") for word in sys.argv[2:])
    source, target = int(fds["in-fd"]), int(fds["out-fd"])
    understood = [generation] if "STRICT" in os.environ else [generation, generations.named("v2")]
    scanner = FrameScanner(understood, sticky=False)
    seqno = 0

    def say(message: m.Message) -> None:
        nonlocal seqno
        seqno += 1
        data = memoryview(generation.encode(message, seqno))
        while data:
            data = data[os.write(target, data) :]

    def capture(definition: SourceDefinition) -> None:
        packets, reports, size = (int(definition.get(key) or 0) for key in ("packets", "json", "size"))
        every = max(1, packets // reports) if reports else 0
        told = 0
        for number in range(packets):
            say(m.DataReport(m.Packet(content(number, size), 1, SECOND, number % 1_000_000, size)))
            if every and number % every == 0 and told < reports:
                say(m.DataReport(json=m.Json("SENSOR", text(told), SECOND, told)))
                told += 1
        for number in range(int(definition.get("bluetooth") or 0)):
            say(
                m.BluetoothReport(
                    m.BluetoothDevice(f"02:00:00:00:00:{number:02X}", "Ohrhörer", SECOND, number, 0, 1)
                )
            )
        for number in range(told, reports):
            say(m.DataReport(json=m.Json("SENSOR", text(number), SECOND, number)))

    while data := os.read(source, 65536):
        try:
            frames = scanner.feed(data)
        except RemoteProtocolError:
            sys.exit(1)
        for frame in frames:
            message = frame.generation.decode(frame)
            match message:
                case m.Ping():
                    say(m.Pong(frame.seqno))
                case m.ProbeRequest():
                    say(m.ProbeReport(frame.seqno, success=True))
                case m.OpenRequest(definition):
                    interface, _, rest = definition.partition(":")
                    say(m.OpenReport(frame.seqno, dlt=1, capture_interface=interface, hardware=interface))
                    capture(SourceDefinition.parse(f"x:{rest}"))
                case m.Shutdown() | m.CloseRequest():
                    return


if __name__ == "__main__":
    main()
