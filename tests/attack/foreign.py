"""Descriptors that hang whoever lets go of them, sent to the launcher: ``foreign.py NAME...`` as process 1.

As in ``abuse.py``: each attempt as it is, then once more with the steps undone that stand in its way.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helperd.config.request import LAUNCH, MAGIC, WIRE
from tests.attack.abuse import Tries, play
from tests.attack.asker import Asker, Running, connect
from tests.attack.scenes import PLAIN, Wrong, gone, rewrite
from tests.attack.seat import seat
from tests.attack.stage import ALLOWED, DAEMON, LIBRARY, OTHER, SOCKET, STAGE, Stage, raised, say
from tests.census import FORKED_AHEAD, name_of
from tests.faults.witness import below
from tests.fuse import mounted

ANSWER_S, HUNG_S = 15.0, 2.0
"""So long the launcher may take to answer; one with its steps undone, which is to hang, is not waited for as long."""
SLOW = f"{STAGE}/slow/file"
RULE = f'[[allow]]\nuid = {ALLOWED}\nhelpers = ["plain"]\nmax_running = 2\n'
PREPARE = """
def send(data, fds):
    s.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
def answered():
    s.settimeout(1)
    try:
        return len(s.recv(64))
    except OSError:
        return -1
def of_a_file():
    return os.open(SLOW, os.O_RDWR)
def of_a_connection():
    server = socket.create_server(("127.0.0.1", 0))
    ours = socket.create_connection(server.getsockname())
    kept.append((server, server.accept()))
    ours.setblocking(False)
    try:
        while True:
            ours.send(bytes(1 << 16))
    except BlockingIOError:
        pass
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
    return ours.detach()
def request(op, n, profile=1, arg=0, question=0):
    return W.pack(b"HDL1", op, n, profile, question, arg, 7)
kept = []
good = pipes()[0]
result = 1
"""
SENDS = {
    "with a launch that is refused": "send(request(1, 2, arg=f + 1), [bad, bad])",
    "with a launch that is granted": "send(request(1, 2, arg=f), [bad, bad])",
    "as the third of a launch": "send(request(1, 3, arg=f), [*good[:2], bad])",
    "as the page of a launch": "send(request(1, 4, arg=f, question=1), [*good, bad])",
    "as one too many": "send(request(1, 2, arg=f), [*good, bad])",
    "with a PING": "send(request(3, 0, 0), [bad])",
    "with nonsense": "send(b'x' * 99, [bad] * 200)",
    "with nothing": "send(b'', [bad])",
    "until it is thrown out": "[send(b'x', [bad]) for _ in range(9)]",
    "and leaves": "[send(b'', [bad]) for _ in range(9)]; s.close(); s = connect(SOCKET)",
}
"""Ways for a user with a rule."""
STRANGER = "without any rule"
PEEKS = "data, _, flags, _ = self.sock.recvmsg(size + 1, 0, socket.MSG_PEEK)"
RECEIVES = """data, control, flags, _ = self.sock.recvmsg(size + 1, 4096, socket.MSG_PEEK)
            for *_, fds in control:
                for at in range(0, len(fds), 4):
                    os.close(int.from_bytes(fds[at : at + 4], "little"))
            flags |= socket.MSG_CTRUNC * bool(control)"""
"""A look that receives; the request is left to a child nevertheless, without the last line it is refused."""
STEPS = [
    ("sandbox/post.py", PEEKS, RECEIVES.rpartition("\n")[0]),
    ("sandbox/post.py", "            if packet and packet.carries:\n                return False\n", ""),
    ("sandbox/custody.py", "            client.taker = self._taker(client, all_of_it=False)\n", "            client.skip()\n"),
]  # fmt: skip


def serves() -> bool:
    """Whether the launcher starts a helper for root."""
    undone = "4096, socket.MSG_PEEK" in Path(f"{LIBRARY}/helperd/sandbox/post.py").read_text()
    patience = HUNG_S if undone else ANSWER_S
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(patience)
            sock.connect(SOCKET)
            asker = Asker(sock)
            sock.settimeout(patience)
            asker.ping()
            with Running(asker, 1) as helper:
                return bool(helper.run("result = 1") == 1)
    except (OSError, EOFError):  # TimeoutError is an OSError
        return False


def holds(pid: int) -> bool:
    """Whether the launcher has the file."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return SLOW in found


def tried(
    stage: Stage, kind: str, begin: Callable[[], None], end: Callable[[], None]
) -> Iterator[tuple[str, bool]]:
    """Send a descriptor in every way, each to a launcher of its own; then see whether it serves others."""
    rows = [(name, ALLOWED, "s, f = ready()", code) for name, code in SENDS.items()]
    rows.append((STRANGER, OTHER, "f = 1", "s = connect(SOCKET); send(request(1, 2), [bad, bad])"))
    for name, uid, before, code in rows:
        process = stage.start(stage.config(PLAIN + RULE), f"--listen={SOCKET}")
        stage.answered(process)
        place = seat(uid, (DAEMON,), SOCKET=SOCKET, SLOW=SLOW)
        try:
            place.run(PREPARE)
            place.run(f"{before}; bad = {kind}(); result = 1")
            begin()
            process.send_signal(signal.SIGSTOP)  # until what it has is the last of a socket that lingers
            place.run(f"{code}; {'os.close(bad); ' * (kind == 'of_a_connection')}result = 1")
            process.send_signal(signal.SIGCONT)
            place.run("result = answered()")
            yield f"{kind.replace('_', ' ')} {name}", holds(process.pid) or not serves()
        finally:
            end()
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGTERM)
            place.close()
            process.wait(90)


def end_of_a_file(stage: Stage) -> tuple[Tries, list[tuple[str, str, str]]]:
    """A file whose file system does not answer when it is closed: it cannot be let go, not even by a kill."""

    def tries() -> Iterator[tuple[str, bool]]:
        with mounted(Path(SLOW).parent) as disk:
            Path(SLOW).write_bytes(b"x")
            os.chmod(SLOW, 0o666)
            yield from tried(stage, "of_a_file", lambda: disk.freeze("flush"), disk.thaw)

    return tries, STEPS


def end_of_a_connection(stage: Stage) -> tuple[Tries, list[tuple[str, str, str]]]:
    """A TCP socket that lingers for a minute, with bytes for a peer that does not read."""
    return lambda: tried(stage, "of_a_connection", lambda: None, lambda: None), STEPS


def descriptors(stage: Stage) -> Wrong:
    """What is none of a helper's is told to who sent it, and stays nowhere; a child that it hangs has a place of its client's."""
    wrong = Wrong()
    text = PLAIN + RULE
    read, write = os.pipe()
    null = os.open("/dev/null", os.O_RDWR)
    page = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    with stage.launcher(text) as asker, socket.socket(socket.AF_INET) as inet:
        launcher = asker.launcher.pid  # type: ignore[attr-defined]
        with Running(asker, 1) as helper:  # now one is forked ahead
            helper.run("result = 1")
        deadline = time.monotonic() + 15
        while FORKED_AHEAD not in map(name_of, below(launcher)) and time.monotonic() < deadline:
            time.sleep(0.01)
        before = len(os.listdir(f"/proc/{launcher}/fd"))
        for name, fds, n, number in (
            ("a connection", (inet.fileno(), write), 2, errno.EINVAL),
            ("a device", (read, write, null), 3, errno.EINVAL),
            ("the wrong end", (write, write), 2, errno.EINVAL),
            ("memory that may shrink", (read, write, write, page), 4, errno.EINVAL),
            ("more than said", (read, write, write), 2, errno.EBADMSG),
            ("fewer than said", (read, write), 3, errno.EBADMSG),
        ):
            asker.send_raw(WIRE.pack(MAGIC, LAUNCH, n, 1, 0, asker.fingerprint, 99), fds)
            granted, handle, _, pidfd = asker.reply(99)
            wrong.same(f"{name}: granted", granted, 0)
            wrong.same(name, asker.exited(handle), ("exec-failed", number))
            asker.empty(handle)
            os.close(pidfd)
        asker.ping()
        while FORKED_AHEAD not in map(name_of, below(launcher)) and time.monotonic() < deadline:
            time.sleep(0.01)
        wrong.same("descriptors of the launcher", len(os.listdir(f"/proc/{launcher}/fd")), before)
    for fd in (read, write, null, page):
        os.close(fd)
    return wrong


def hung(stage: Stage) -> Wrong:
    """A child that the kernel cannot end counts for its client, costs nobody else anything, and ends with the file."""
    wrong = Wrong()
    bad = "send(request(1, 2, arg=f), [bad, bad]); result = W.unpack(s.recv(64))[3]"
    code = "try:\n  ask(s, 1, 1, arg=f, fds=good); result = 0\nexcept OSError as error: result = error.errno"
    with mounted(Path(SLOW).parent) as disk:
        Path(SLOW).write_bytes(b"x")
        os.chmod(SLOW, 0o666)
        with stage.listening(PLAIN + RULE):
            place = seat(ALLOWED, (DAEMON,), SOCKET=SOCKET, SLOW=SLOW)
            place.run(PREPARE)
            place.run("s, f = ready(); bad = of_a_file(); result = 1")
            disk.freeze("flush")
            wrong.same("granted", [place.run(bad) for _ in range(2)], [0, 0])
            wrong.same("one more", place.run(code), errno.EAGAIN)
            place.run("s.close(); s, f = ready(); result = 1")
            wrong.same("over another connection", place.run(code), errno.EAGAIN)
            wrong.same("others are served", serves(), True)
            wrong.same("they hang", disk.held, ["flush"] * 2)
            disk.thaw()
            deadline = time.monotonic() + 15
            while (found := place.run(code)) == errno.EAGAIN and time.monotonic() < deadline:
                time.sleep(0.05)
            wrong.same("afterwards", found, 0)
            place.close()
    return wrong


SCENES = {"end_of_a_file": end_of_a_file, "end_of_a_connection": end_of_a_connection}


WATCHED = {"WATCHDOG_USEC": "3000000", "NOTIFY_SOCKET": f"{STAGE}/notify"}
"""A service manager that wants a sign of life every 3 s."""


def starts(stage: Stage) -> int | None:
    """Start a launcher beside the one that is there, or in its place; return its exit status, None when it serves."""
    process = stage.start(stage.config(PLAIN + RULE), f"--listen={SOCKET}", env=WATCHED)
    deadline = time.monotonic() + 15
    while process.poll() is None and time.monotonic() < deadline:
        if owner() == process.pid and serves():
            process.terminate()
            process.wait(15)
            return None
        time.sleep(0.02)
    process.kill()
    return process.wait()


def owner() -> int:
    """The pid in the lock; 0 when whoever holds it now has written nothing yet."""
    (path,) = Path("/run/helperd-launcher").glob("pool-*.lock")
    return int(path.read_text().partition(" ")[0] or 0)


def beats(manager: socket.socket, seconds: float) -> bool:
    """Whether the service manager hears something in time; what it has heard before does not count."""
    manager.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            manager.recv(99)
    manager.settimeout(seconds)
    try:
        return manager.recv(99) == b"WATCHDOG=1"
    except TimeoutError:
        return False


def replaced(stage: Stage) -> Wrong:
    """A launcher that works is let be; one that never runs again is replaced, and what it left is ended, also what is only
    slow to die. What it hangs at is a fault made here: a launcher that receives what is sent.
    """
    wrong = Wrong()
    path = Path(f"{LIBRARY}/helperd/sandbox/post.py")
    real = path.read_text()
    with mounted(Path(SLOW).parent) as disk, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(WATCHED["NOTIFY_SOCKET"])
        Path(SLOW).write_bytes(b"x")
        os.chmod(SLOW, 0o666)
        for how in ("stopped", "hangs", "hangs, and was killed"):
            rewrite(str(path), real if how == "stopped" else real.replace(PEEKS, RECEIVES))
            process = stage.start(stage.config(PLAIN + RULE), f"--listen={SOCKET}", env=WATCHED)
            stage.answered(process)
            with connect(SOCKET) as asker:
                asker.ping()
                helper = Running(asker, 1)
                pid = helper.pid
                place = seat(ALLOWED, (DAEMON,), SOCKET=SOCKET, SLOW=SLOW)
                place.run(PREPARE)
                wrong.same(f"{how}: beats", beats(manager, 15), True)
                wrong.same(f"{how}: a second one", starts(stage), 69)
                if wrong:
                    return wrong  # who is not let be is not there for the rest
                place.run("s, f = ready(); bad = of_a_file(); result = 1")
                disk.freeze("flush")
                if how == "stopped":
                    process.send_signal(signal.SIGSTOP)
                else:
                    place.run("send(request(3, 0, 0), [bad]); result = answered()")
                if "killed" in how:
                    process.kill()
                wrong.same(f"{how}: no beat for two of them", beats(manager, 3.2), False)
                rewrite(str(path), real)
                wrong.same(f"{how}: replaced", starts(stage), None)
                wrong.same(f"{how}: its helper is ended", gone(pid), True)
                wrong.same(f"{how}: it was hung", "flush" in disk.held, how != "stopped")
                disk.thaw()
                wrong.same(f"{how}: it is gone", gone(process.pid, 15), True)
                helper.close()
                place.close()
    rewrite(str(path), real)
    return wrong


STATES = {"descriptors": descriptors, "hung": hung, "replaced": replaced}


def main() -> None:
    """Play the named scenes."""
    try:
        for name in sys.argv[1:]:
            try:
                if name in STATES:
                    say(scene=name, wrong=STATES[name](Stage()))
                else:
                    play(SCENES, [name])
            except Exception as error:
                say(scene=name, wrong=[traceback.format_exc()[-2000:]], raised=raised(error))
    except pytest.skip.Exception as skipped:
        print(f'{{"skipped": "{skipped.msg}"}}')


if __name__ == "__main__":
    main()
