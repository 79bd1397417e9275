"""A launcher's client without trio, for tests and benchmarks: one connection, blocking, every packet by hand."""

from __future__ import annotations

import array
import contextlib
import itertools
import json
import os
import select
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any, Self

from helperd.config.request import EMPTY, EXITED, HOW, LAUNCH, MAGIC, PING, SIGNAL, WIRE
from tests.patience import HANGS_S


class Asker:
    """One connection to a launcher."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(HANGS_S)
        self.events: list[tuple[int, int, int, int]] = []  # op, how, handle, code
        self.cookies = itertools.count(1)
        self.profiles = self.fingerprint = 0

    def send_raw(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send whatever."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([data], rights)

    def read(self) -> tuple[tuple[int, int, int, int, int, int], int] | None:
        """Return ((op, n, number, handle, arg, cookie), fd or -1); None at the end."""
        data, control, _, _ = self.sock.recvmsg(64, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
        if not data:
            return None
        fds = array.array("i")
        for _, _, body in control:
            fds.frombytes(body)
        return WIRE.unpack(data)[1:], fds[0] if fds else -1

    def reply(self, cookie: int) -> tuple[int, int, int, int]:
        """Return (errno, handle, arg, fd) of the reply with a cookie; events meanwhile are kept."""
        while True:
            found = self.read()
            if found is None:
                raise EOFError("the launcher closed the connection")
            (op, how, number, handle, arg, seen), fd = found
            if seen == 0:
                self.events.append((op, how, handle, arg))
            elif seen == cookie:
                return number, handle, arg, fd

    def ask(
        self, op: int, profile: int = 0, handle: int = 0, arg: int = 0, fds: Sequence[int] = ()
    ) -> tuple[int, int, int, int]:
        """Send one request, return its reply."""
        cookie = next(self.cookies)
        self.send_raw(WIRE.pack(MAGIC, op, len(fds), profile, handle, arg, cookie), fds)
        return self.reply(cookie)

    def ping(self, *, reload: bool = False) -> int:
        """PING; return the errno."""
        number, self.profiles, fingerprint, _ = self.ask(PING, arg=int(reload))
        if not number:
            self.fingerprint = fingerprint
        return number

    def launch(self, profile: int, fds: Sequence[int]) -> tuple[int, int, int]:
        """LAUNCH; return errno, handle, pidfd."""
        number, handle, _, fd = self.ask(LAUNCH, profile, 0, self.fingerprint, fds)
        return number, handle, fd

    def signal(self, handle: int, number: int) -> int:
        """SIGNAL; return the errno."""
        return self.ask(SIGNAL, handle=handle, arg=int(number))[0]

    def wait(self, op: int, handle: int, timeout: float = HANGS_S) -> tuple[str, int]:
        """Wait for an event; return how and code."""
        deadline = time.monotonic() + timeout
        while True:
            for event in self.events:
                if event[0] == op and event[2] == handle:
                    self.events.remove(event)
                    return HOW[event[1]], event[3]
            if not select.select([self.sock], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"no event {op:#x} for handle {handle}")
            found = self.read()
            if found is None:
                raise EOFError("the launcher closed the connection")
            (seen, how, _, which, arg, _), _ = found
            self.events.append((seen, how, which, arg))

    def exited(self, handle: int, timeout: float = HANGS_S) -> tuple[str, int]:
        """Wait for EXITED."""
        return self.wait(EXITED, handle, timeout)

    def empty(self, handle: int, timeout: float = HANGS_S) -> None:
        """Wait for EMPTY."""
        self.wait(EMPTY, handle, timeout)


class Refused(Exception):
    """The launcher's errno."""

    def __init__(self, number: int) -> None:
        super().__init__(number, os.strerror(number))
        self.errno = number


class Running:
    """A launched helper and our ends of its pipes."""

    def __init__(self, asker: Asker, profile: int) -> None:
        self.asker = asker
        theirs_in, self.write = os.pipe2(os.O_CLOEXEC)
        self.out, theirs_out = os.pipe2(os.O_CLOEXEC)
        self.err, theirs_err = os.pipe2(os.O_CLOEXEC)
        try:
            number, self.handle, self.pidfd = asker.launch(profile, (theirs_in, theirs_out, theirs_err))
        finally:
            for fd in (theirs_in, theirs_out, theirs_err):
                os.close(fd)
        if number:
            self._close(self.write, self.out, self.err)
            raise Refused(number)
        self.rest = b""

    @staticmethod
    def _close(*fds: int) -> None:
        for fd in fds:
            os.close(fd)

    @property
    def pid(self) -> int:
        with open(f"/proc/self/fdinfo/{self.pidfd}", encoding="ascii") as file:
            return int(next(line for line in file if line.startswith("Pid:")).split()[1])

    def line(self, timeout: float = HANGS_S) -> bytes:
        """Read one line of its output."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self.rest:
            if not select.select([self.out], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError("the helper says nothing")
            data = os.read(self.out, 65536)
            if not data:
                raise EOFError(self.errors())
            self.rest += data
        line, self.rest = self.rest.split(b"\n", 1)
        return line

    def errors(self) -> str:
        """Return what it has said on standard error so far."""
        os.set_blocking(self.err, False)
        with contextlib.suppress(BlockingIOError):
            return os.read(self.err, 65536).decode(errors="replace")
        return ""

    def run(self, code: str, **values: Any) -> Any:
        """Let a probe run Python code; return what it set ``result`` to. Raises what the kernel said, as OSError."""
        try:
            os.write(self.write, json.dumps({"code": code, "values": values}).encode() + b"\n")
        except BrokenPipeError:
            raise EOFError("the helper is gone") from None
        answer = json.loads(self.line())
        if answer.get("errno"):
            raise OSError(answer["errno"], answer["error"])
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]

    def kill(self) -> None:
        """KILL, and wait until nothing is left."""
        self.asker.signal(self.handle, signal.SIGKILL)
        self.asker.empty(self.handle)

    def close(self) -> None:
        """Close our descriptors."""
        self._close(self.write, self.out, self.err, self.pidfd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(EOFError, TimeoutError, OSError):
            self.kill()
        self.close()


def pair() -> tuple[socket.socket, socket.socket]:
    """Return a launcher's socket pair."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


@contextlib.contextmanager
def connect(path: str) -> Iterator[Asker]:
    """Connect to a listening launcher."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(path)
        yield Asker(sock)
