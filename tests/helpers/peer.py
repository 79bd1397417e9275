"""The supervisor's end of one real helper process over pipes: what every test of the helper side talks through."""

import collections
import contextlib
import os
import select
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import helperd
from helperd import pcapng
from helperd.wire import bulk
from helperd.wire.frames import Kind, Run
from helperd.wire.generations import named
from helperd.wire.messages import Lost, OpenReport, Ping, Pong, Register
from helperd.wire.session import Phase, Role, Session
from tests.patience import HANGS_S

ENTRY = Path(helperd.__file__).parent / "helpers" / "__main__.py"
BULK = bulk.SUBSYSTEM
PYTHON = [sys.executable, "-I", "-S"]  # as the launcher starts them


def environment():
    """What the launcher gives a built-in helper: no site directory, but the way to what it may import."""
    return {**os.environ, "HELPERD_PATH": os.pathsep.join(path for path in sys.path if path)}


class Peer:
    """Speaks to one helper; every wait is bounded.

    Args:
        *words: the helper's name and further words.
        argv: instead of a bundled helper: the whole command.
        helperd: whether to say that we are helperd (accept the bulk offer) or act as a Kismet server.
        interface: interface number of the link type in the open report, others are numbered from there on; None: none
            is given.
        refuse: link types that get no number.
        mute: link types that get no answer.
        greet: whether to greet at once.
        env: more environment.
        generation: what to speak; None: found out by the greeting.
        blocking: whether the helper's ends of the pipes are blocking.
    """

    def __init__(
        self,
        *words,
        argv=None,
        helperd=True,
        interface=0,
        greet=True,
        env=None,
        generation=None,
        blocking=True,
        refuse=(),
        mute=(),
    ):
        child_in, self.to = os.pipe()
        self.source, child_out = os.pipe()
        os.set_blocking(child_in, blocking)
        os.set_blocking(child_out, blocking)
        argv = argv or [*PYTHON, str(ENTRY), *words]
        self.process = subprocess.Popen(
            [*argv, f"--in-fd={child_in}", f"--out-fd={child_out}"],
            pass_fds=(child_in, child_out),
            env={**environment(), **(env or {})},
            stderr=subprocess.PIPE,
        )
        os.close(child_in)
        os.close(child_out)
        self.session = Session(Role.SUPERVISOR, generation=named(generation) if generation else None)
        self.helperd = helperd
        self.interface = interface
        self.refuse = refuse
        self.mute = mute
        self.numbers = {}
        self.messages = []
        self.linktype = None
        self.runs = []
        self.eof = False
        self.deadline_s = HANGS_S
        if greet:
            try:
                self.greet()
            except BaseException:
                self.__exit__()
                raise

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.end()
        for fd in (self.to, self.source):
            if fd is not None:
                os.close(fd)
        self.process.stderr.close()

    def greet(self):
        os.write(self.to, self.session.greeting())
        self.expect(Pong)
        if self.helperd:
            offer = self.expect(Register)
            assert offer.subsystem == BULK
            self.send(Register(BULK))

    def send(self, message):
        frame = self.session.send(message)
        os.write(self.to, frame)
        return self.session.last_seqno

    def read(self, timeout=None):
        """One read, if something comes; True unless the output has ended."""
        ready, _, _ = select.select([self.source], [], [], self.deadline_s if timeout is None else timeout)
        if not ready:
            assert timeout is not None, f"nothing came from the helper in {self.deadline_s} s"
            return True
        data = os.read(self.source, 1 << 20)
        if not data:
            self.eof = True
            self.session.receive_eof()
            return False
        for item in self.session.receive(data):
            if isinstance(item, OpenReport) and item.success:
                self.linktype = item.dlt
                if item.dlt is not None:
                    self._number(item.dlt)
            elif isinstance(item, Register) and item.dlt is not None:
                self._number(item.dlt)
            (self.runs if isinstance(item, Run) else self.messages).append(item)
        return True

    def _number(self, dlt):
        """Give a link type's number, as helperd does."""
        if not self.helperd or self.interface is None or dlt in self.mute:
            return
        if self.session.phase is Phase.CLOSING:  # its goodbye came in the same read
            return
        with contextlib.suppress(BrokenPipeError):  # it has ended meanwhile, as the next read will tell
            self._answer(dlt)

    def _answer(self, dlt):
        if dlt in self.refuse:
            self.send(Register(BULK, None, dlt))
            return
        number = self.numbers.setdefault(dlt, self.interface + len(self.numbers))
        self.send(Register(BULK, number, dlt))

    def expect(self, kind):
        """The next message of a kind; earlier ones stay in ``messages``."""
        while True:
            for at, message in enumerate(self.messages):
                if isinstance(message, kind):
                    return self.messages.pop(at)
            assert self.read(), f"the helper ended before {kind.__name__}: {self.messages} {self.stderr()}"

    def until_packets(self, count):
        """Read until that many packets have come."""
        while sum(run.packets for run in self.runs) < count:
            assert self.read(), f"the helper ended early: {self.messages} {self.stderr()}"
        return self.packets()

    def until_eof(self):
        while self.read():
            pass
        return self.packets()

    def packets(self):
        """All packets so far: (dlt, stamp in ns, content, original length)."""
        found = []
        for run in self.runs:
            if run.kind is Kind.PACKETS:
                found += [
                    (dlt, sec * 10**9 + usec * 1000, bytes(content), original)
                    for dlt, sec, usec, original, content, _ in self.session.generation.packets(run)
                ]
            else:
                found += bulk_packets(run, {number: dlt for dlt, number in self.numbers.items()})
        return found

    def options(self):
        """The options of the packets in bulk frames, one list of (code, value) each."""
        return [options for run in self.runs if run.kind is Kind.BULK for options in bulk_options(run)]

    def lost(self):
        """What the helper says that was lost, by reason."""
        lost = collections.Counter()
        for message in self.messages:
            if isinstance(message, Lost):
                lost[message.reason] += message.packets
        return lost

    def wait(self, timeout=HANGS_S):
        """The exit status."""
        return self.process.wait(timeout)

    def end(self):
        """End the process, whatever it does."""
        if "HELPERD_COVER" in os.environ:  # who is killed writes no coverage
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
        self.process.kill()
        self.process.wait()

    def stderr(self):
        self.end()
        return self.process.stderr.read().decode()

    def ping(self):
        started = time.monotonic()
        self.send(Ping())
        self.expect(Pong)
        return time.monotonic() - started

    def close_input(self):
        os.close(self.to)
        self.to = None

    def close_output(self):
        os.close(self.source)
        self.source = None

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)


def bulk_packets(run, linktypes):
    """The packets of a run of bulk frames, as ``Peer.packets`` gives them."""
    found = []
    for number, slices, _, packets in bulk.blocks(run):
        data = b"".join(slices)
        spans = list(pcapng.split(data))
        assert len(spans) == packets
        for _, start, _ in spans:
            _, _, _, high, low, size, original = pcapng.ENHANCED_HEAD.unpack_from(data, start)
            found.append(
                (linktypes[number], high << 32 | low, data[start + 28 : start + 28 + size], original)
            )
    return found


def bulk_options(run):
    """The options of each packet of a run of bulk frames."""
    for _, slices, _, _ in bulk.blocks(run):
        data = b"".join(slices)
        for _, start, stop in pcapng.split(data):
            size = pcapng.ENHANCED_HEAD.unpack_from(data, start)[5]
            yield list(walk(data[start + 28 + (size + 3 & ~3) : stop - 4]))


def walk(data):
    """The options of a block, as code and value."""
    at = 0
    while at < len(data):
        code, size = struct.unpack_from("<HH", data, at)
        if not code:
            assert at + 4 == len(data)
            return
        yield code, data[at + 4 : at + 4 + size]
        at += 4 + size + (-size & 3)
    assert not data, "options that do not end"
