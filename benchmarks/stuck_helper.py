"""A helper of our SDK that gets stuck as a whole, interpreter lock and all: `stuck:type=stuck,how=deadlock,after=20`.

deadlock    waits in C code that keeps the lock: no thread of it runs any more
spin        a regular expression that backtracks for ever: the same, and a processor burns
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
import time
from typing import ClassVar

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from helperd.helpers.sdk import Device, Helper, SourceDefinition, Writer, main


class Stuck(Helper):
    """Streams a little, then nothing of it moves."""

    TYPE = "stuck"
    OPTIONS: ClassVar = {"how": "deadlock or spin", "after": "packets before"}

    def probe(self, definition: SourceDefinition) -> bool:
        return definition.interface == "stuck"

    def open(self, definition: SourceDefinition) -> Device:
        self.how = definition.options.get("how", "deadlock")
        self.after = int(definition.options.get("after", "20"))
        return Device(dlt=147, hardware="about to get stuck")

    def capture(self, writer: Writer) -> None:
        for number in range(self.after):
            writer.packet(b"STUCK" + bytes(35) + number.to_bytes(8, "little"))
            time.sleep(0.002)
        time.sleep(0.05)  # what was written leaves
        if self.how == "spin":
            re.match(r"(a+)+$", "a" * 64 + "b")
        ctypes.PyDLL(None).sleep(3600)


HELPER = Stuck

if __name__ == "__main__":
    main(Stuck)
