"""A daemon made of plain data, and the control socket served for it in this process or in a thread."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import trio

from helperd.control.api import Reader
from helperd.control.connection import Limits, Service
from helperd.control.server import serve
from helperd.errors import HelperdError, UsageError
from helperd.places import Rank
from tests.patience import HANGS_S


def source(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "definition": f"{name}:type=synthetic",
        "helper": "synthetic",
        "state": "running",
        "wanted": "up",
        "why": "",
        "verdict": "ok",
        "reason": "",
        "rung": "",
        "crash_loop": False,
        "since_s": 12.5,
        "incarnation": 1,
        "pid": 4711,
        "generation": "v3",
        "uuid": "",
        "hardware": "synthetic radio",
        "channel": "6",
        "channels": ["1", "6", "11"],
        "hop_channels": [],
        "linktypes": [127],
        "packets": 1000,
        "bytes": 64000,
        "rate": 99.5,
        "produced": 1003,
        "routed": 1000,
        "lost": {"partial-frame": 3, "no-consumer": 7},
        "restarts": 0,
        "age_s": 0.01,
        "exit": None,
        "next_try_s": None,
        "stderr": ["ready"],
        "vitals": {"rss": 12},
        "paused": False,
    } | changes


class FakeDaemon:
    """What the supervisor would be; orders are noted, and take effect at once."""

    def __init__(self, *names: str) -> None:
        self.sources = {name: source(name) for name in names or ("radio0", "beacons")}
        self.orders: list[tuple[str, str]] = []
        self.questions = 0
        self.snapshots = 0
        self.number = 0
        self.release: trio.Event | None = None
        self.posted: list[dict[str, Any]] = []
        self._changed = trio.lowlevel.ParkingLot()
        self._news = trio.lowlevel.ParkingLot()
        self.failure: BaseException | None = None

    def change_number(self) -> int:
        return self.number

    def snapshot(self) -> dict[str, Any]:
        self.snapshots += 1
        return {
            "pid": os.getpid(),
            "version": "0.1.0",
            "uptime_s": 1.5,
            "config": "/etc/helperd/helpers.toml",
            "runtime_dir": "/run/helperd",
            "health": "ok",
            "late_beats": 0,
            "sources": list(self.sources.values()),
            "sinks": [
                {"name": "all.sock", "type": "unix", "path": "/run/helperd/all.sock", "format": "pcapng"}
            ],
            "consumers": [
                {
                    "id": 1,
                    "sink": "all.sock",
                    "format": "pcapng",
                    "pid": 99,
                    "uid": 65534,
                    "offered": 12,
                    "packets": 10,
                    "bytes": 640,
                    "lost": 1,
                    "lost_by": {"consumer-slow": 1},
                    "queued": 1,
                    "queued_bytes": 64,
                    "connected_s": 3.0,
                }
            ],
            "launcher": {"pid": 1, "profiles": 2, "mode": "unprivileged", "private_tmp": False},
        }

    def change(self, name: str, **changes: Any) -> None:
        self.sources[name] = self.sources[name] | changes
        self.number += 1
        self._changed.unpark_all()

    def post(self, text: str, who: str = "radio0", severity: str = "info") -> None:
        number = len(self.posted) + 1
        self.posted.append(
            {"number": number, "at": 1e9, "severity": severity, "source": who, "text": text, "repeated": 0}
        )
        self._news.unpark_all()

    async def order(self, name: str, verb: str) -> None:
        await trio.lowlevel.checkpoint()
        if self.failure is not None:
            raise self.failure
        if self.release is not None:
            await self.release.wait()
        self.orders.append((name, verb))
        if verb in {"pause", "resume"}:
            self.change(name, paused=verb == "pause")
        else:
            state = "down" if verb == "stop" else "running"
            self.change(name, state=state, why="stopped" if verb == "stop" else "")

    async def reload(self, *, check: bool = False) -> dict[str, Any]:
        return {"stop": [], "start": [], "replace": ["radio0"], "adjust": [], "keep": ["beacons"], "gone": []}

    async def list_devices(self, max_age_s: float | None = None) -> dict[str, Any]:
        self.questions += 1
        if self.release is not None:
            await self.release.wait()
        device = {
            "helper": "synthetic",
            "type": "synthetic",
            "interface": "radio0",
            "definition": "radio0:type=synthetic",
            "hardware": "",
            "flags": "",
            "in_use": "radio0",
        }
        broken = {"helper": "broken", "problem": "exited", "text": "ended without an answer"}
        return {"devices": [device], "failed": [broken], "age_s": 0.0 if max_age_s == 0 else 12.5}

    async def probe(self, definition: str) -> dict[str, Any]:
        self.questions += 1
        if self.release is not None:
            await self.release.wait()
        if "=" not in definition:
            raise UsageError("bad-definition", f"{definition!r} is no definition")
        return {
            "definition": definition,
            "helper": "synthetic",
            "type": "synthetic",
            "hardware": "",
            "channels": ["1", "6"],
            "channel": "6",
            "refused": [],
            "failed": [],
        }

    def messages(self, since: int) -> list[dict[str, Any]]:
        return [message for message in self.posted if message["number"] > since]

    async def wait_message(self) -> None:
        await self._news.park()

    async def wait_change(self) -> None:
        await self._changed.park()


class TunableDaemon(FakeDaemon):
    """One that also tunes and adds."""

    async def set_channel(self, name: str, channel: str) -> None:
        if channel == "99":
            raise HelperdError("not-supported", "channel 99 is not one of this radio's")
        self.change(name, channel=channel)

    async def hop(self, name: str, channels: list[str], rate: float | None) -> None:
        self.change(name, channel=",".join(channels or ["all"]) + f"@{rate}")

    @contextlib.contextmanager
    def stream(
        self, sock: trio.socket.SocketType, sources: frozenset[str], form: str, linktype: int | None = None
    ) -> Iterator[Reader]:
        async def serve() -> None:
            for name in sorted(sources) or ["all"]:
                await sock.send(f"{form}:{name}{'' if linktype is None else linktype}\n".encode())
            while await sock.recv(100):
                pass

        yield Reader(serve, lambda: sock.shutdown(socket.SHUT_RD))

    async def wait_done(self, name: str) -> None:
        await trio.sleep_forever()

    async def add_source(self, definition: str, name: str | None, *, once: bool = False) -> str:
        added = name or definition.partition(":")[0]
        if added in self.sources:
            raise HelperdError("duplicate-name", f"there is a source {added!r} already")
        self.sources[added] = source(added, definition=definition)
        return added

    def free_name(self, definition: str) -> str:
        base = definition.partition(":")[0]
        return f"{base}-2" if base in self.sources else base

    def helpers(self) -> list[dict[str, Any]]:
        shape = {"types": ["synthetic"], "builtin": "synthetic", "capabilities": []}
        return [{"name": "synthetic", "tunes": True, "options": None, **shape}]

    async def remove_source(self, name: str) -> None:
        del self.sources[name]


def listen(path: Path, backlog: int = 1024) -> trio.SocketListener:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    sock.listen(backlog)
    sock.setblocking(False)
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


class As:
    """A policy that takes everybody for one rank."""

    who = "the others"

    def __init__(self, rank: Rank) -> None:
        self.rank = rank

    def __call__(self, _uid: int, gids: frozenset[int]) -> bool:
        return self.rank is Rank.OWNER or (self.rank is Rank.ADMIN and bool(gids))


@contextlib.asynccontextmanager
async def served(
    folder: Path, daemon: FakeDaemon, *, admin: Any = None, limits: Limits | None = None, **options: Any
) -> AsyncIterator[tuple[str, Service]]:
    """Serve in this run; yields the socket's path and the server's counters."""
    path = folder / "control.sock"
    async with trio.open_nursery() as nursery:
        task = lambda task_status: serve(  # noqa: E731
            listen(path), daemon, admin=admin, limits=limits, task_status=task_status, **options
        )
        service = await nursery.start(task)
        try:
            yield str(path), service
        finally:
            nursery.cancel_scope.cancel()
            path.unlink()


@contextlib.contextmanager
def served_in_thread(folder: Path, daemon: FakeDaemon | None = None, **options: Any) -> Iterator[FakeDaemon]:
    """Serve in a thread, for clients that block."""
    ready = threading.Event()
    box: dict[str, Any] = {}

    async def run() -> None:
        box["daemon"] = daemon or FakeDaemon()
        box["token"] = trio.lowlevel.current_trio_token()
        async with served(folder, box["daemon"], **options):
            box["stop"] = trio.Event()
            ready.set()
            await box["stop"].wait()

    thread = threading.Thread(target=trio.run, args=(run,))
    thread.start()
    assert ready.wait(5)
    box["daemon"].run_sync = lambda work, *args: trio.from_thread.run_sync(
        work, *args, trio_token=box["token"]
    )
    try:
        yield box["daemon"]
    finally:
        trio.from_thread.run_sync(box["stop"].set, trio_token=box["token"])
        thread.join(HANGS_S)


class Wire:
    """A raw client: bytes out, messages in."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.received = bytearray()

    async def send(self, *calls: Any) -> None:
        import json

        await self.stream.send_all(
            b"".join(call if isinstance(call, bytes) else json.dumps(call).encode() + b"\0" for call in calls)
        )

    async def message(self) -> dict[str, Any]:
        import json

        while (end := self.received.find(0)) < 0:
            data = await self.stream.receive_some(1 << 16)
            if not data:
                raise EOFError(bytes(self.received))
            self.received += data
        found: dict[str, Any] = json.loads(self.received[:end])
        del self.received[: end + 1]
        return found

    async def ended(self) -> bool:
        try:
            return await self.stream.receive_some(1) == b"" and not self.received
        except trio.BrokenResourceError:
            return True

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        await self.send(
            {"method": method if "." in method else f"io.helperd.{method}", "parameters": parameters}
        )
        return await self.message()


@contextlib.asynccontextmanager
async def wire(path: str) -> AsyncIterator[Wire]:
    async with await trio.open_unix_socket(path) as stream:
        yield Wire(stream)
