"""`peers/bad_helper.py` with more ways to be bad, and a device that only one process tree may hold.

Run with `python -I -S`, as that one is, and in the same form. A definition's `device=FILE` is locked when the source
is opened and stays locked as long as one process of the tree lives; who finds it locked already writes its pid into
FILE.second. Nothing else in it tells two copies apart.

More modes
  close-out     closes its output and stays
  close-in      closes its input and streams on
  stderr-flood  good, with a child in a session of its own that writes to standard error without end
  wrong-pong    answers every PING with a number that was not asked for
  pong-flood    answers of nobody's questions as fast as they go, between its packets
  wrap          good, with a child that does the work; `--pid-file` tells which
  early         sends a packet before its open report
  twice         sends its open report twice
  hang-up       ends when it is told to tune
  no-tune       refuses to tune
  eat           takes memory without end, once the file `go=` exists
  ping-garbage  20 packets, a PING and bytes that are no frame, in one write
  farewell      SHUTDOWN in place of the first PONG, 200 packets behind it, and stays
  flood-closed  SHUTDOWN in place of the open report, and packets as fast as they go
"""

import fcntl
import os
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "peers"))

import bad_helper
from bad_helper import CONFIGURE, CONFIGURE_REPORT, OPEN_REPORT, PING, PONG, SHUTDOWN, frame, pack

bad_helper.MODES |= dict.fromkeys(("close-out", "close-in", "eat", "ping-garbage"), "stream")
bad_helper.MODES |= {"farewell": "hello", "flood-closed": "open"}
bad_helper.MODES |= dict.fromkeys(
    ("stderr-flood", "wrong-pong", "pong-flood", "wrap", "early", "twice", "hang-up", "no-tune"), ""
)


class Peer(bad_helper.BadHelper):
    """One more bad helper."""

    def open(self, seqno, definition):
        options = dict(word.partition("=")[::2] for word in definition.partition(":")[2].split(","))
        if path := options.get("device"):
            lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with open(f"{path}.second", "a", encoding="ascii") as file:
                    file.write(f"{os.getpid()}\n")
            os.set_inheritable(lock, True)
        if options.get("mode") == "early":
            self.options |= options
            self.write(self.packet())
        super().open(seqno, definition)
        if self.mode == "twice":
            self.write(frame(OPEN_REPORT, pack({1: seqno, 2: 147}), code=1, seqno=seqno))
        if self.mode in {"stderr-flood", "wrap"}:
            self.child()

    def child(self):
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if self.mode == "stderr-flood":
                os.setsid()
                while True:
                    os.write(2, b"help, I drown\n" * 100)
            while True:
                time.sleep(1)
        if path := self.options.get("pid-file"):
            with open(path + ".new", "w", encoding="ascii") as file:
                file.write(f"{pid}\n")
            os.rename(path + ".new", path)

    def answer(self, kind, seqno, payload):
        if self.mode == "wrong-pong" and kind == PING:
            self.write(frame(PONG, seqno=seqno + 1000))
        elif self.mode == "hang-up" and kind == CONFIGURE:
            os._exit(0)
        elif self.mode == "no-tune" and kind == CONFIGURE:
            self.write(frame(CONFIGURE_REPORT, pack({1: seqno, 3: "no such channel"}), code=0, seqno=seqno))
        else:
            super().answer(kind, seqno, payload)

    def packet(self):
        whole = super().packet()
        return whole + frame(PONG, seqno=7) * 50 if self.mode == "pong-flood" else whole

    def misbehave(self):
        if self.mode == "close-out":
            self.bad, self.streaming = True, False
            os.close(self.out_fd)
            while True:
                time.sleep(1)
        elif self.mode == "eat":
            while not os.path.exists(self.options["go"]):
                time.sleep(0.01)
            eaten = []
            while True:
                eaten.append(b"x" * (1 << 20))
        elif self.mode == "ping-garbage":
            self.bad = True
            packets = b"".join(self.packet() for _ in range(20))
            self.write(packets + frame(PING, seqno=self.next_seqno()) + bytes(range(200, 256)) * 4)
        elif self.mode == "farewell":
            self.bad = True
            self.write(frame(SHUTDOWN, pack({1: "goodbye"})) + b"".join(self.packet() for _ in range(200)))
        elif self.mode == "flood-closed":
            self.bad = True
            self.write(frame(SHUTDOWN, pack({1: "goodbye"})))
            while True:
                self.write(b"".join(self.packet() for _ in range(100)))
        elif self.mode == "close-in":
            self.bad = True
            os.close(self.in_fd)
            self.in_fd = -1
        else:
            super().misbehave()


bad_helper.BadHelper = Peer

if __name__ == "__main__":
    bad_helper.main(sys.argv[1:])
