"""A real `helperd run` in a runtime directory of its own, and readers for what comes out of it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from helperd.control.client import Client
from helperd.errors import UnavailableError
from tests.patience import HANGS_S

ROOT = Path(__file__).resolve().parent.parent
HELPERD = [sys.executable, "-m", "helperd.cli"]


class Rig:
    """One daemon: the launcher is our child, the supervisor its child."""

    def __init__(self, process: subprocess.Popen[bytes], runtime: Path) -> None:
        self.process = process
        self.runtime = runtime

    @property
    def control(self) -> str:
        return str(self.runtime / "control.sock")

    def status(self) -> dict[str, Any]:
        with Client(self.control, timeout_s=HANGS_S) as client:
            return client.call("GetStatus")

    def source(self, name: str) -> dict[str, Any]:
        return next(row for row in self.status()["sources"] if row["name"] == name)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        with Client(self.control, timeout_s=HANGS_S) as client:
            return client.call(method, **parameters)

    def wait(self, true: Callable[[dict[str, Any]], bool], timeout: float = HANGS_S) -> dict[str, Any]:
        """Follow the status until it fulfils ``true``."""
        deadline = time.monotonic() + timeout
        with Client(self.control, timeout_s=HANGS_S) as client:
            for status in client.more("GetStatus", every_s=0.1):
                if true(status):
                    return status
                assert time.monotonic() < deadline, f"never became true; last: {status}"
        raise AssertionError("the stream of states ended")

    def wait_running(self, *names: str, timeout: float = HANGS_S) -> dict[str, Any]:
        return self.wait(
            lambda status: all(
                row["state"] == "running" for row in status["sources"] if not names or row["name"] in names
            ),
            timeout,
        )

    def connect(self, name: str = "all.sock") -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(HANGS_S)
        sock.connect(str(self.runtime / name))
        return sock

    def stop(self, number: int = signal.SIGTERM, timeout: float = HANGS_S) -> int:
        """End it and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout)


@contextlib.contextmanager
def daemon(
    runtime: Path,
    config: str | Path,
    *args: str,
    command: str = "run",
    wait: bool = True,
    log: Path | None = None,
    ends_with: int | None = 0,
) -> Iterator[Rig]:
    """Run `helperd run` with a configuration text (or file); stops it at the end.

    Its status then has to be `ends_with`; None takes any."""
    if isinstance(config, str):
        file = runtime / "helpers.toml"
        file.write_text(config)
    else:
        file = config
    argv = [*HELPERD, command, f"--runtime-dir={runtime}", *args]
    if command == "run":
        argv += ["-c", str(file)]
    path = log or runtime / "log"
    environment = {
        **os.environ,
        "HELPERD_UNPRIVILEGED": "1",
    }  # a configuration of the test's own, as any user's
    with path.open("wb") as out:
        process = subprocess.Popen(
            argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment
        )
    rig = Rig(process, runtime)
    try:
        if wait:
            until_listening(rig)
        yield rig
        status = rig.stop()
        assert ends_with is None or status == ends_with, path.read_text()
    except BaseException:
        sys.stderr.write(path.read_text(errors="replace")[-4000:])
        raise
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(HANGS_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def until_listening(rig: Rig, timeout: float = HANGS_S) -> None:
    """Wait until the control socket answers."""
    deadline = time.monotonic() + timeout
    while True:
        assert rig.process.poll() is None, f"ended with {rig.process.returncode}"
        try:
            rig.status()
        except UnavailableError:
            assert time.monotonic() < deadline, "the control socket never answered"
            os.sched_yield()
            select_a_moment()
        else:
            return


def select_a_moment() -> None:
    """Give the processor away for a moment; there is nothing to wait for before the socket exists."""
    import select

    select.select([], [], [], 0.01)


class Packet:
    """One enhanced packet block as read."""

    __slots__ = ("content", "interface", "original", "stamp")

    def __init__(self, interface: int, stamp: int, content: bytes, original: int) -> None:
        self.interface, self.stamp, self.content, self.original = interface, stamp, content, original


class Stream:
    """Reads a live pcapng stream from a socket: packets, interfaces, and the losses it tells."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = bytearray()
        self.interfaces: list[tuple[int, str]] = []
        self.dropped: dict[int, int] = {}
        self.received: dict[int, int] = {}
        self.sections = 0

    def blocks(self) -> Iterator[tuple[int, bytes]]:
        while True:
            while len(self.buffer) >= 12:
                kind, length = struct.unpack_from("<II", self.buffer)
                assert length % 4 == 0
                assert 12 <= length <= 1 << 24, (kind, length)
                if len(self.buffer) < length:
                    break
                body = bytes(self.buffer[8 : length - 4])
                assert struct.unpack_from("<I", self.buffer, length - 4) == (length,)
                del self.buffer[:length]
                yield kind, body
            data = self.sock.recv(1 << 20)
            if not data:
                assert not self.buffer, "the stream was cut inside a block"
                return
            self.buffer += data

    def packets(self) -> Iterator[Packet]:
        for kind, body in self.blocks():
            if kind == 0x0A0D0D0A:
                self.sections += 1
            elif kind == 1:
                linktype, _, _snaplen = struct.unpack_from("<HHI", body)
                self.interfaces.append((linktype, options(body[8:]).get(2, b"").decode()))
            elif kind == 5:
                interface = struct.unpack_from("<I", body)[0]
                told = options(body[12:])
                self.dropped[interface] = struct.unpack("<Q", told[5])[0]
                self.received[interface] = struct.unpack("<Q", told[4])[0]
            elif kind == 6:
                interface, high, low, size, original = struct.unpack_from("<IIIII", body)
                assert interface < len(self.interfaces), "a packet of an interface that was never announced"
                yield Packet(interface, high << 32 | low, body[20 : 20 + size], original)
            else:
                raise AssertionError(f"block of type {kind:#x}")

    def take(self, count: int) -> list[Packet]:
        packets = self.packets()
        return [next(packets) for _ in range(count)]


def options(data: bytes) -> dict[int, bytes]:
    """Options of a block by code."""
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        code, size = struct.unpack_from("<HH", data, at)
        if code == 0:
            break
        found[code] = data[at + 4 : at + 4 + size]
        at += 4 + size + (-size & 3)
    return found


def let_in(place: Path) -> None:
    """Let every user reach a temporary folder of pytest's, which are all its user's alone."""
    for folder in (place, *place.parents):
        if folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(0o755)
