"""Random requests: to the parser, and over the socket of a real launcher, from users of every position, with descriptors of
every kind; its descriptors and memory are watched, and root is served meanwhile.

fuzz.py PARSED SENT [SEED]      as process 1 of namespaces
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import pty
import random
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial

from helperd.config.request import MAGIC, WIRE, Request, parse
from tests.attack.asker import Asker, Running, connect
from tests.attack.stage import ALLOWED, DAEMON, OTHER, SOCKET, STAGE, STRANGER, Stage, say, status
from tests.patience import HANGS_S

LIBC = ctypes.CDLL(None)
CONFIG = f"""
[[helper]]
name = "true"
command = ["/usr/bin/true"]
[[allow]]
uid = {ALLOWED}
helpers = ["true"]
max_running = 4
"""
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


def open_files(pid: int) -> list[str]:
    """What a process has open, by name, numbers left out."""
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/{pid}/fd/{fd}").rstrip("0123456789[]"))
    return sorted(found)


def every_kind() -> list[int]:
    """Descriptors of every kind that a user can have, all closed on exec."""
    reader, writer = os.pipe()
    master, slave = pty.openpty()
    page = os.memfd_create("page", os.MFD_ALLOW_SEALING)
    os.ftruncate(page, 4096)
    fcntl.fcntl(page, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    tree, watch, clock = (
        LIBC.syscall(number, *args) for number, args in ((291, (0,)), (294, (0,)), (283, (1, 0)))
    )
    event = os.eventfd(0)
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    inner = socket.socketpair()
    inner[0].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", inner[1].fileno()))])
    lingers = socket.socket()
    lingers.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 30))
    listens = socket.socket(socket.AF_UNIX)
    listens.bind(f"\0fuzz-{os.getpid()}")
    listens.listen(1)
    sockets = [*pair, *inner, lingers, listens, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)]
    sockets += [
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0),
    ]
    if os.geteuid() == 0:
        sockets.append(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3))
    files = [
        ("/dev/null", os.O_RDWR),
        ("/dev/zero", os.O_RDONLY),
        ("/", os.O_RDONLY),
        ("/etc/passwd", os.O_RDONLY),
    ]
    files += [
        ("/etc/passwd", os.O_PATH),
        ("/proc/self/status", os.O_RDONLY),
        ("/proc/self/ns/user", os.O_RDONLY),
    ]
    files += [(f"{STAGE}/open", os.O_TMPFILE | os.O_RDWR)]
    opened = [os.open(path, flags) for path, flags in files]
    found = [
        reader,
        writer,
        master,
        slave,
        page,
        os.memfd_create("open"),
        event,
        tree,
        watch,
        clock,
        os.pidfd_open(os.getpid()),
    ]
    return found + opened + [each.detach() for each in sockets]


def flood(count: int, dice: random.Random) -> int:
    """Send packets, many with descriptors; connect again whenever the launcher has had enough."""
    kinds = every_kind()
    sent = closed = 0
    while sent < count:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(15)
            try:
                sock.connect(SOCKET)
            except BlockingIOError:
                time.sleep(0.001)
                continue
            except PermissionError:  # a stranger: that was the attempt
                sent += 1
                continue
            asker = Asker(sock)
            with contextlib.suppress(OSError, EOFError):
                if dice.random() < 0.9:
                    asker.ping()
                while sent < count:
                    fds = (
                        dice.sample([*kinds, sock.fileno()], dice.randint(1, 5))
                        if dice.random() < 0.3
                        else []
                    )
                    fds = fds * 50 if fds and dice.random() < 0.02 else fds
                    sent += 1
                    asker.send_raw(packet(dice, asker.fingerprint), fds)
                    if dice.random() < 0.8:
                        found = asker.read()
                        if found is None:
                            raise EOFError
                        if found[1] >= 0:
                            os.close(found[1])
            sent += 1  # a connection that is refused counts, too
            closed += 1
    for fd in kinds:
        os.close(fd)
    return closed


def child(uid: int, groups: list[int], work: Callable[[], object]) -> int:
    """Fork a process of some user that works and ends; return its pid."""
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            os.setgroups(groups)
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def meanwhile(pids: list[int], serve: Callable[[], object]) -> tuple[float, int]:
    """Be served again and again while these children work; return the longest time, and how often.

    Raises:
        AssertionError: a child has met something that it does not know.
    """
    longest, times, left = 0.0, 0, set(pids)
    while left:
        began = time.monotonic()
        serve()
        longest, times = max(longest, time.monotonic() - began), times + 1
        time.sleep(0.02)
        for pid in list(left):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                left.discard(pid)
                assert status == 0, f"a sender ended with {status}"
    return longest, times


def ask_as_root() -> None:
    """Connect as root, and be answered."""
    with connect(SOCKET) as asker:
        assert asker.ping() == 0


def launches() -> bool:
    """Whether root's helper runs."""
    with connect(SOCKET) as asker:
        asker.ping()
        with Running(asker, 1) as helper:
            return asker.exited(helper.handle) == ("exited", 0)


def senders(count: int, seed: int) -> list[int]:
    """Users of every position, who send together."""
    places = [(0, []), (ALLOWED, [DAEMON]), (ALLOWED, [DAEMON]), (OTHER, [DAEMON]), (STRANGER, [])]
    share = count // len(places)
    return [
        child(uid, groups, partial(flood, share, random.Random(seed * 100 + number)))
        for number, (uid, groups) in enumerate(places)
    ]


def over_the_socket(count: int, seed: int) -> None:
    """Flood a real launcher."""
    stage = Stage()
    with stage.listening(CONFIG) as process:
        meanwhile(senders(5000, seed + 1), ask_as_root)
        assert launches(), "one is forked ahead from now on"
        settled(process.pid)
        before, started = vitals(process.pid), time.monotonic()
        longest, times = meanwhile(senders(count, seed), ask_as_root)
        seconds = round(time.monotonic() - started, 1)
        settled(process.pid, before[0] + 2)
        after = vitals(process.pid)
        works = launches()
        said = stage.said()
    say(sent=count, seconds=seconds, before=before, after=after, root_s=round(longest, 3), root_times=times, works=works,
        traceback="Traceback" in said, log=said[-300:])  # fmt: skip


def settled(pid: int, most: int = 0) -> None:
    """Wait until what the last clients left is gone: descriptors do not change any more, and are at most so many.

    What is on its way out on a machine that has other things to do may stand still for seconds; what stays for ever does
    so after the patience, too.
    """
    last, same, limit = 0, 0, time.monotonic() + HANGS_S
    while same < 20 or (most and last > most and time.monotonic() < limit):
        now = len(os.listdir(f"/proc/{pid}/fd"))
        same = same + 1 if now == last else 0
        last = now
        time.sleep(0.05)


def main() -> None:
    """Fuzz both."""
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    parsed(int(sys.argv[1]), random.Random(seed))
    over_the_socket(int(sys.argv[2]), seed)


if __name__ == "__main__":
    main()
