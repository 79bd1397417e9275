"""A helper that puts what a terminal obeys into every text that a helper may say; and how to see it come through."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from helperd.helpers import sdk

CODES = {
    "clears the screen": "\x1b[2J",
    "sets the title": "\x1b]0;root\x07",
    "makes the terminal answer": "\x1b[6n",
    "C1 introducer": "\x9b31m",
    "backspaces": "ok\x08\x08no",
    "deletes": "\x7f",
    "turns the direction round": "\u202egpj.exe\u2066",
    "hides": "\u200b\ufeff",
    "ends a line otherwise": "\u2028\x85",
}
"""What each does to who looks at it."""
FORGED = "helperd: all is well"
PAYLOAD = f"EVIL{''.join(CODES.values())}\r\n{FORGED}"


def raw(shown: str) -> list[str]:
    """Which of these have come through as they are, and whether a line was forged."""
    found = [name for name, code in CODES.items() if code in shown]
    lines = shown.replace("\r", "\n").split("\n")
    return found + ["forges a line"] * any(line.startswith(FORGED) for line in lines)


def blocks(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and body of each block."""
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from("<II", data, at)
        yield kind, data[at + 8 : at + size - 4]
        at += size


def config(*paths: str) -> str:
    """A configuration with this helper; ``paths``: where its Python finds what it imports."""
    found = f"import sys\nsys.path[:0] = {[*paths]!r}\n"
    code = Path(__file__).read_text().replace("import sys\n", found, 1)
    python = sys.executable
    return (
        f'[[helper]]\nname = "hostile"\ntypes = ["hostile"]\nseal = 0\ncommand = ["{python}", "-c", '
        '"' + code.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"]\n'
    )


class Hostile(sdk.Helper):
    """A definition's interface says what it does: "no" (probe), "refused" (open), "dies"; else it goes on."""

    TYPE = "hostile"

    def list(self):
        return [sdk.Interface(PAYLOAD, "", PAYLOAD)]

    def probe(self, definition):
        if definition.interface == "no":
            raise sdk.Refused(PAYLOAD)
        return sdk.Device(hardware=PAYLOAD, channels=(PAYLOAD, "6"))

    def open(self, definition):
        print(PAYLOAD, file=sys.stderr, flush=True)
        self.say(PAYLOAD)
        self.say(FORGED + PAYLOAD, sdk.Severity.ERROR)
        if definition.interface == "refused":
            raise sdk.Refused(PAYLOAD)
        self.dies = definition.interface == "dies"
        return sdk.Device(
            1, PAYLOAD, PAYLOAD, channels=(PAYLOAD, "6"), channel=PAYLOAD, message=PAYLOAD, warning=PAYLOAD
        )

    def configure(self, channel):
        raise sdk.Refused(PAYLOAD)

    def capture(self, writer):
        signal = sdk.Signal(dbm=-60, channel=PAYLOAD)
        writer.packet(bytes(60), signal=signal, options=sdk.comments(PAYLOAD))
        writer.json(PAYLOAD, "{}")
        writer.flush()
        if self.dies:
            print(PAYLOAD.split("\r")[0], file=sys.stderr, flush=True)
            os._exit(3)
        writer.wait(1e6)


if __name__ == "__main__":
    sdk.main(Hostile)
