"""Random requests: to the parser, and over the socket of a real launcher; its descriptors and memory are watched.

fuzz.py PARSED SENT [SEED]      as process 1 of namespaces
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import sys
import time

from helperd.config.request import MAGIC, WIRE, Request, parse
from tests.attack.asker import Asker
from tests.attack.stage import SOCKET, Stage, say, status

CONFIG = '[[helper]]\nname = "true"\ncommand = ["/usr/bin/true"]\n'
EDGES = (0, 1, 2, 3, 4, 5, 9, 19, 127, 128, 255, 65535, 1 << 31, (1 << 32) - 1)


def packet(dice: random.Random, fingerprint: int) -> bytes:
    """Make a request that is nearly right, or not at all."""
    if dice.random() < 0.05:
        return dice.randbytes(dice.choice((0, 1, 5, 16, 31, 32, 33, 64, 4096)))
    op = dice.choice((1, 2, 3, 3, 3, 0, 4, 255))
    edge = lambda top: dice.choice(EDGES) & top  # noqa: E731
    arg = dice.choice((0, 1, 9, 15, fingerprint, edge(0xFFFFFFFF)))
    cookie = dice.choice((1, 1, 1, 0, (1 << 64) - 1))
    data = WIRE.pack(MAGIC, op, edge(255) if dice.random() < 0.3 else 0, edge(65535) if op == 1 else 0,
                     edge(0xFFFFFFFF) if op == 2 else 0, arg, cookie)  # fmt: skip
    if dice.random() < 0.2:
        place = dice.randrange(len(data))
        data = data[:place] + dice.randbytes(1) + data[place + 1 :]
    return data


def parsed(count: int, dice: random.Random) -> None:
    """Feed the parser."""
    pool = [packet(dice, 77) for _ in range(50_000)]
    kinds: dict[str, int] = {}
    started = time.monotonic()
    for number in range(count):
        data = pool[number % len(pool)]
        if number % len(pool) == 0:
            pool = [packet(dice, 77) for _ in range(2000)] + pool[2000:]
        found = parse(data, number % 3, carries=bool(number % 2))
        if not isinstance(found, (Request, int)) or found == 0:
            raise AssertionError(f"{data.hex()}: {found!r}")
        if number % 1000 == 0:
            kinds[type(found).__name__] = kinds.get(type(found).__name__, 0) + 1
    say(parsed=count, seconds=round(time.monotonic() - started, 1), kinds=kinds)


def vitals(pid: int) -> tuple[int, int]:
    """Return a process's descriptors and resident memory in KiB."""
    return len(os.listdir(f"/proc/{pid}/fd")), int(status(pid)["VmRSS"].split()[0])


def flood(count: int, dice: random.Random, pid: int) -> int:
    """Send packets, some with descriptors; connect again whenever the launcher has had enough."""
    ends = [*os.pipe(), *os.pipe(), os.open("/dev/null", os.O_RDWR)]
    sent = closed = 0
    while sent < count:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            try:
                sock.connect(SOCKET)
            except BlockingIOError:
                time.sleep(0.001)
                continue
            asker = Asker(sock)
            with contextlib.suppress(OSError, EOFError):
                if dice.random() < 0.9:
                    asker.ping()
                while sent < count:
                    fds = dice.sample(ends, dice.randint(0, 5)) if dice.random() < 0.2 else []
                    fds = fds * 50 if fds and dice.random() < 0.02 else fds
                    sent += 1
                    asker.send_raw(packet(dice, asker.fingerprint), fds)
                    if dice.random() < 0.8:
                        found = asker.read()
                        if found is None:
                            raise EOFError
                        if found[1] >= 0:
                            os.close(found[1])
            closed += 1
    for fd in ends:
        os.close(fd)
    if os.path.exists(f"/proc/{pid}"):
        return closed
    raise AssertionError("the launcher has died")


def main() -> None:
    """Fuzz both."""
    dice = random.Random(int(sys.argv[3]) if len(sys.argv) > 3 else 1)
    parsed(int(sys.argv[1]), dice)
    stage = Stage()
    with stage.listening(CONFIG) as process:
        flood(5000, dice, process.pid)
        time.sleep(0.5)
        before = vitals(process.pid)
        started = time.monotonic()
        closed = flood(int(sys.argv[2]), dice, process.pid)
        seconds = round(time.monotonic() - started, 1)
        time.sleep(0.5)
        after = vitals(process.pid)
        said = stage.said()
    say(sent=int(sys.argv[2]), seconds=seconds, connections=closed, before=before, after=after,
        traceback="Traceback" in said, log=said[-300:])  # fmt: skip


if __name__ == "__main__":
    main()
