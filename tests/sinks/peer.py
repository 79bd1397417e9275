"""`peers/bad_helper.py` as the data plane fears it. Run with `python -I -S`, as that one is, and in the same form.

More modes
  drip       good, one byte per write
  huge       good, every frame of exactly --frame bytes (default 1,048,576: the limit)
  together   its open report and its first --count packets in one write; these name no link type and no time
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "peers"))

import bad_helper
from bad_helper import HEAD, OPEN_REPORT, PACKET, frame, pack

bad_helper.MODES |= dict.fromkeys(("drip", "huge", "together"), "")


class Peer(bad_helper.BadHelper):
    """One more bad helper."""

    held = None

    def write(self, data):
        if self.held is not None:
            self.held += data
        elif self.mode == "drip":
            for byte in data:
                super().write(bytes([byte]))
        else:
            super().write(data)

    def open(self, seqno, definition):
        if "mode=together" in definition:
            self.held = b""
        super().open(seqno, definition)
        if self.mode == "huge":
            self.options["size"] = self.number("frame", 1 << 20) - self.rest()
        elif self.mode == "together":
            assert self.held[12:14] == OPEN_REPORT.to_bytes(2, "big")
            self.stream()
            data, self.held = self.held, None
            self.write(data)

    def rest(self):
        """Bytes of a frame besides its content."""
        self.options["size"] = 4096
        size = len(self.packet()) - 4096
        self.sent = 0
        return size

    def packet(self):
        if self.mode != "together":
            return super().packet()
        content = b"BADHELPR" + self.sent.to_bytes(8, "big")
        self.sent += 1
        return frame(PACKET, pack({4: {4: len(content), 6: content}}), seqno=self.next_seqno())

    def stream(self):
        if self.mode != "together":
            return super().stream()
        while self.sent < self.number("count", 50):
            self.write(self.packet())
        return None


bad_helper.BadHelper = Peer
assert HEAD.size == 20

if __name__ == "__main__":
    bad_helper.main(sys.argv[1:])
