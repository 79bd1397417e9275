"""A helper of the v3 protocol that misbehaves as it is told: `bad_helper.py MODE [--option=value ...]`.

A real process for the supervisor to suffer from. It is run with `python -I -S`, imports nothing of helperd
and speaks the wire by itself, so that no mistake of ours can hide in it. Without arguments MODE comes from
the environment (BAD_HELPER, and BAD_HELPER_OPTIONS in the same form); once the source is opened, `mode=` and
any option in its definition win.

When it misbehaves is `--at=hello` (in place of the first PONG), `open` (in place of the open report) or
`stream` (after `--after=N` packets of good streaming, 0 by default). Every mode has its usual place, in MODES
below.

Modes
  good           streams counted packets, answers everything, ends in order
  silence        says nothing any more, and reads on
  mute           sends no packet any more, but answers PING: alive and useless; `mute-after-N` with --after=N
  no-pong        answers no PING any more; packets go on (with --rate=0 there are none)
  garbage        bytes that are no frame
  oversized      a frame head that announces --length bytes (default 2,147,483,647)
  half-frame     a frame's first --length bytes (default half), then ends; with --stay it waits instead
  wrong-version  a frame of generation 9
  bad-payload    a frame whose payload is no msgpack
  flood          packets as fast as the pipe takes them, whatever --rate says
  ignore-term    good, but SIGTERM, end of input and SHUTDOWN do not end it
  mute-at-term   good, but once it streams SIGTERM ends its packets alone: it goes on answering PING
  exit           ends with --status (default 0); `exit-N` means the same
  crash          ends by --signal (default 11)
  orphan         good, with a child in a session of its own that outlives it (--pid-file tells which)
  hold-fd        as orphan, but the child keeps both pipe ends open, and the helper ends with --status
  refuse-open    answers the open request with no, and --text
  slow-open      answers the open request after --delay seconds (default 3)
  spin           burns the processor and does nothing else
  stop-self      SIGSTOP to itself
  says-error     an ERROR with --text, and then goes on as if nothing were
  says-shutdown  SHUTDOWN with --text, and then goes on as if nothing were
  chatter        text messages as fast as they go, no packets

Options
  --rate=N       packets a second (default 100); 0 sends none; `max` as fast as possible
  --count=N      packets until the helper is done and ends with status 0 (default: no end)
  --together=N   so many of them in the same write as the open report (default 0)
  --size=N       bytes in a packet (default 64, at least 16)
  --dlt=N        link type (default 147, USER0)
  --start=N      number of the first packet (default 0)
  --before=N     packets in the same write in front of it (default 0)
  --behind=N     packets in the same write behind what says-error and says-shutdown say (default 0)
  --named=UUID   what the open report calls the device (default: nothing)
  --pid-file=F   where the pid of a child is written
  --list=a,b     interfaces of the list report (default bad0)
  --probe=no     refuse the probe; mute: without a word

A packet holds b"BADHELPR", its number as a 64-bit big-endian integer, and fill bytes, each of the number's
lowest eight bits.
"""

import os
import select
import signal
import struct
import sys
import time

HEAD = struct.Struct(">IHHIHHI")  # signature, sentinel, version, length, type, code, seqno
SIGNATURE, SENTINEL, VERSION = 0xDECAFBAD, 0xA9A9, 3
PING, PONG, SHUTDOWN, MESSAGE, ERROR = 2, 3, 4, 5, 6
PROBE, PROBE_REPORT, OPEN, OPEN_REPORT, LIST, LIST_REPORT, PACKET, CONFIGURE, CONFIGURE_REPORT = range(10, 19)
V2_HEAD = 48

# mode: where it usually misbehaves
MODES = {
    "good": "", "silence": "hello", "mute": "stream", "no-pong": "stream", "garbage": "stream",
    "oversized": "stream", "half-frame": "stream", "wrong-version": "hello", "bad-payload": "stream",
    "flood": "stream", "ignore-term": "", "exit": "stream", "crash": "stream", "orphan": "stream",
    "hold-fd": "stream", "refuse-open": "open", "slow-open": "open", "spin": "stream", "stop-self": "stream",
    "chatter": "stream", "mute-at-term": "", "says-error": "stream", "says-shutdown": "stream",
}  # fmt: skip


def pack(value):
    """msgpack of None, bool, int, str, bytes, list and dict; the general forms are enough for a peer."""
    match value:
        case None:
            return b"\xc0"
        case bool():
            return b"\xc3" if value else b"\xc2"
        case int() if 0 <= value < 128:
            return bytes([value])
        case int() if value >= 0:
            return b"\xcf" + value.to_bytes(8, "big")
        case int():
            return b"\xd3" + value.to_bytes(8, "big", signed=True)
        case str():
            text = value.encode()
            return b"\xdb" + struct.pack(">I", len(text)) + text
        case bytes():
            return b"\xc6" + struct.pack(">I", len(value)) + value
        case list():
            return b"\xdd" + struct.pack(">I", len(value)) + b"".join(map(pack, value))
        case dict():
            body = b"".join(pack(key) + pack(item) for key, item in value.items())
            return b"\xdf" + struct.pack(">I", len(value)) + body
    raise TypeError(value)


def first_text(payload):
    """The string under key 1 of a request's map, which is all that a helper has to read."""
    at = {0xDE: 3, 0xDF: 5}.get(payload[0], 1) + 1  # behind the map's head and the key
    kind = payload[at]
    if 0xA0 <= kind <= 0xBF:
        size, at = kind & 0x1F, at + 1
    else:
        width = {0xD9: 1, 0xDA: 2, 0xDB: 4}[kind]
        size, at = int.from_bytes(payload[at + 1 : at + 1 + width], "big"), at + 1 + width
    return payload[at : at + size].decode()


def frame(kind, body=b"", *, code=0, seqno=0, version=VERSION, length=None):
    """One v3 frame; `length` overrides the true one."""
    return (
        HEAD.pack(SIGNATURE, SENTINEL, version, len(body) if length is None else length, kind, code, seqno)
        + body
    )


class BadHelper:
    """The peer: a loop of select, due packets, and one place where it stops being good."""

    def __init__(self, mode, options):
        self.options = options
        self.in_fd, self.out_fd = int(options.get("in-fd", 3)), int(options.get("out-fd", 4))
        self.pending, self.seqno, self.sent = b"", 1, 0
        self.streaming, self.bad = False, False
        self.become(mode)

    def become(self, mode):
        """Take a mode; `exit-3` is `exit` with --status=3, `mute-after-9` is `mute` with --after=9."""
        for head, option in (("exit-", "status"), ("mute-after-", "after")):
            if mode.startswith(head):
                self.options[option] = mode.removeprefix(head)
                mode = head.partition("-")[0]
        if mode not in MODES:
            sys.exit(f"bad_helper: no mode {mode!r}; there are: {', '.join(MODES)}")
        self.mode = mode
        self.where = self.options.get("at", MODES[mode])

    def on_term(self, *_):
        if self.mode == "mute-at-term":
            self.streaming = False
        elif self.mode != "ignore-term":
            os._exit(0)

    def number(self, name, default):
        return float(self.options.get(name, default))

    def write(self, data):
        """All of it, however long the reader takes; no reader means the end."""
        try:
            while data:
                data = data[os.write(self.out_fd, data) :]
        except BrokenPipeError:
            if self.mode != "ignore-term":
                os._exit(1)
            self.streaming = False

    def next_seqno(self):
        self.seqno += 1
        return self.seqno

    # --- conversation ---------------------------------------------------------------------------------

    def read(self):
        """Whatever has come; whole frames are handled."""
        data = os.read(self.in_fd, 65536)
        if not data:
            if self.mode != "ignore-term":
                os._exit(0)
            self.in_fd = -1
            return
        self.pending += data
        while len(self.pending) >= 12:
            _, sentinel, _, length = struct.unpack_from(">IHHI", self.pending)
            head = V2_HEAD if sentinel == 0xABCD else HEAD.size
            if len(self.pending) < head + length:
                return
            taken, self.pending = self.pending[: head + length], self.pending[head + length :]
            if sentinel == 0xABCD:
                self.hello(int.from_bytes(taken[44:48], "big"))
            else:
                kind, _, seqno = struct.unpack_from(">HHI", taken, 12)
                self.answer(kind, seqno, taken[HEAD.size :])

    def hello(self, seqno):
        if self.where == "hello":
            self.misbehave()
        else:
            self.write(frame(PONG, seqno=seqno))

    def answer(self, kind, seqno, payload):
        if self.bad and self.mode in {"silence", "half-frame"}:
            return
        if kind == PING and not (self.bad and self.mode == "no-pong"):
            self.write(frame(PONG, seqno=seqno))
        elif kind == LIST:
            names = self.options.get("list", "bad0").split(",")
            found = [{1: name, 2: "", 3: "misbehaving"} for name in names if name]
            self.write(frame(LIST_REPORT, pack({1: seqno, 2: found, 4: "bad"}), seqno=self.next_seqno()))
        elif kind == PROBE:
            yes = self.options.get("probe", "yes") == "yes"
            words = "not mine" if self.options.get("probe") == "no" else ""
            body = pack({1: seqno, 2: {1: "bad0", 3: "misbehaving"}, 3: words})
            self.write(frame(PROBE_REPORT, body, code=int(yes), seqno=seqno))
        elif kind == OPEN:
            self.open(seqno, first_text(payload))
        elif kind == CONFIGURE:
            self.write(frame(CONFIGURE_REPORT, pack({1: seqno, 2: "1"}), code=1, seqno=seqno))
        elif kind == SHUTDOWN and self.mode != "ignore-term":
            os._exit(0)

    def open(self, seqno, definition):
        for option in definition.partition(":")[2].split(","):
            name, _, value = option.partition("=")
            if name == "mode":
                self.become(value)
            elif name:
                self.options[name] = value
        self.where = self.options.get("at", MODES[self.mode])
        if self.where == "open":
            if self.mode == "refuse-open":
                body = pack({1: seqno, 9: self.options.get("text", "the device is broken")})
                self.write(frame(OPEN_REPORT, body, code=0, seqno=seqno))
                return
            if self.mode != "slow-open":
                self.misbehave()
                return
            time.sleep(self.number("delay", 3))
        body = {1: seqno, 2: int(self.number("dlt", 147)), 3: "bad0", 7: "misbehaving", 9: "", 10: "bad"}
        if "named" in self.options:
            body[8] = self.options["named"]
        report = frame(OPEN_REPORT, pack(body), code=1, seqno=seqno)
        self.write(report + b"".join(self.packet() for _ in range(int(self.number("together", 0)))))
        self.streaming, self.began = True, time.monotonic()

    # --- packets ---------------------------------------------------------------------------------------

    def packet(self):
        """The next counted packet as a frame."""
        number = int(self.number("start", 0)) + self.sent
        content = b"BADHELPR" + number.to_bytes(8, "big")
        content += bytes([number & 0xFF]) * (int(self.number("size", 64)) - len(content))
        now = time.time_ns() // 1000
        body = {
            1: int(self.number("dlt", 147)),
            2: now // 1_000_000,
            3: now % 1_000_000,
            4: len(content),
            6: content,
        }
        self.sent += 1
        return frame(PACKET, pack({4: body}), seqno=self.next_seqno())

    def stream(self):
        """Send what is due. Returns the seconds until something is due again, None for never."""
        if self.where == "stream" and not self.bad and self.sent >= self.number("after", 0):
            self.misbehave()
        if not self.streaming or (self.bad and self.mode in {"silence", "mute", "half-frame"}):
            return None
        if self.bad and self.mode == "chatter":
            self.write(frame(MESSAGE, pack({1: 2, 2: "chatter"}), seqno=self.next_seqno()) * 100)
            return 0
        fastest = self.options.get("rate") == "max" or (self.bad and self.mode == "flood")
        rate = 0.0 if fastest else self.number("rate", 100)
        if not fastest and rate <= 0:
            return None
        last = self.number("count", float("inf"))
        border = self.number("after", 0) if self.where == "stream" and not self.bad else float("inf")
        due = self.sent + 100 if fastest else int((time.monotonic() - self.began) * rate) + 1
        until = min(due, last, border)
        batch = []
        while self.sent < until:
            batch.append(self.packet())
        self.write(b"".join(batch))
        if self.sent >= last:
            os._exit(0)
        if fastest or self.sent >= border:
            return 0
        return max(0.0, self.sent / rate - (time.monotonic() - self.began))

    # --- the other way ---------------------------------------------------------------------------------

    def misbehave(self):
        """Be bad from here on."""
        self.bad = True
        match self.mode:
            case "garbage":
                self.write(bytes(range(200, 256)) * 40)
            case "oversized":
                self.write(frame(PACKET, bytes(64), length=int(self.number("length", 0x7FFFFFFF))))
            case "half-frame":
                whole = self.packet()
                self.write(whole[: int(self.number("length", len(whole) // 2))])
                if "stay" not in self.options:
                    os._exit(0)
            case "wrong-version":
                self.write(frame(PONG, version=9))
            case "bad-payload":
                self.write(frame(PACKET, b"\xc1" * 32, seqno=self.next_seqno()))
            case "exit":
                os._exit(int(self.number("status", 0)))
            case "crash":
                number = int(self.number("signal", signal.SIGSEGV))
                signal.signal(number, signal.SIG_DFL) if number not in {9, 19} else None
                os.kill(os.getpid(), number)
                while True:
                    time.sleep(1)
            case "orphan" | "hold-fd":
                self.fork(keep=self.mode == "hold-fd")
            case "says-error" | "says-shutdown":
                kind = ERROR if self.mode == "says-error" else SHUTDOWN
                words = pack({1: self.options.get("text", "that was that")})
                first = b"".join(self.packet() for _ in range(int(self.number("before", 0))))
                said = frame(kind, words, seqno=self.next_seqno())
                more = b"".join(self.packet() for _ in range(int(self.number("behind", 0))))
                self.write(first + said + more)
            case "spin":
                while True:
                    pass
            case "stop-self":
                os.kill(os.getpid(), signal.SIGSTOP)

    def fork(self, *, keep):
        """Leave a child behind: in its own session, deaf to SIGTERM and SIGHUP, with or without the pipes."""
        ready, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            os.close(ready)
            if not keep:
                os.close(self.in_fd)
                os.close(self.out_fd)
            os.write(told, b"!")
            os.close(told)
            while True:
                time.sleep(1)
        os.close(told)
        os.read(ready, 1)
        os.close(ready)
        if path := self.options.get("pid-file"):
            with open(path + ".new", "w", encoding="ascii") as file:
                file.write(f"{pid}\n")
            os.rename(path + ".new", path)
        if keep:
            os._exit(int(self.number("status", 0)))

    def run(self):
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self.on_term)
        os.set_blocking(self.out_fd, True)
        while True:
            wait = self.stream() if self.streaming or (self.where == "stream" and self.bad) else None
            watched = [self.in_fd] if self.in_fd >= 0 else []
            if select.select(watched, [], [], wait)[0]:
                self.read()


def main(argv):
    words = [word for word in argv if not word.startswith("--")] or [os.environ.get("BAD_HELPER", "good")]
    options = {}
    given = (
        os.environ.get("BAD_HELPER_OPTIONS", "").split() if words == [os.environ.get("BAD_HELPER")] else []
    )
    for word in (*given, *argv):
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            options[name] = value
    BadHelper(words[0], options).run()


if __name__ == "__main__":
    main(sys.argv[1:])
