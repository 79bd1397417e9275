"""The whole path: producers as helpers under a real daemon, and drains at its sockets.

    load --> supervisor --consumer socket--> drain        (the launcher looks on)

Sinks wait where every packet has to arrive: what is measured is how fast, not how much is dropped. After each run the
ledger is asked: it must have received exactly what was produced, and lost nothing that the run did not mean to lose.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.baselines import half_load
from benchmarks.measure import Bench, Case, Drained, Figure, WrongError, cpu_ns, drain, rss_mb
from benchmarks.workload import make
from helperd.channel import BULK_PIPE
from helperd.wire.bulk import SUBSYSTEM
from helperd.wire.messages import OpenReport, OpenRequest, Register
from tests.helpers.peer import Peer
from tests.rig import Rig, daemon

CONFIG = """
[helperd]
implicit_sinks = false
log_level = "warning"
{helpers}
[[sink]]
path = "pcapng.sock"
overflow = "{overflow}"
[[sink]]
path = "frames.sock"
format = "frames"
overflow = "{overflow}"
"""
HELPER = """
[[helper]]
name = "{name}"
command = ["{program}"]
types = ["{type}"]
wire = "{wire}"
verify = {verify}
keepalive = "4s"
exclusive = false
"""
OWN = f"""
[[helper]]
name = "sdk"
command = ["{sys.executable}", "{Path(__file__).with_name("sdk_helper.py")}"]
types = ["producer"]
exclusive = false
[[helper]]
name = "pcapfile"
command = ["builtin:pcapfile"]
types = ["pcapfile"]
"""


@dataclasses.dataclass(slots=True)
class Daemon:
    """A running daemon and what it is measured with."""

    bench: Bench
    rig: Rig
    pid: int

    def begin(self, definitions: list[str]) -> list[str]:
        """Open sources; their names."""
        names = []
        for number, definition in enumerate(definitions):
            own = definition.replace("load:", f"load{number}:", 1)
            own += f",uuid=00000000-0000-0000-0000-{number:012}" if len(definitions) > 1 else ""
            names.append(self.rig.call("AddSource", definition=own, name=f"s{number}")["source"]["name"])
        return names

    def settle(self, names: list[str], produced: int, *, routed: bool = True) -> None:
        """Ask the ledger, and stop the sources.

        Raises:
            WrongError: it does not say what was produced.
        """
        deadline = time.monotonic() + 2  # a status may be a moment old
        while True:
            rows = [row for row in self.rig.status()["sources"] if row["name"] in names]
            received = sum(row["packets"] for row in rows)
            if received == produced:
                break
            if time.monotonic() > deadline:
                raise WrongError(f"the ledger says {received} packets of {produced} were received")
            time.sleep(0.02)
        if routed and (lost := {name: n for row in rows for name, n in row["lost"].items() if n}):
            raise WrongError(f"the ledger says lost: {lost}")
        for name in names:
            self.rig.call("RemoveSource", source=name)


@contextlib.contextmanager
def running(bench: Bench, *, overflow: str = "wait") -> Iterator[Daemon]:
    """A daemon whose supervisor has its processor."""
    helpers = OWN
    for name, wire, verify in (
        ("v3", "v3", True),
        ("v2", "v2", True),
        ("v0", "v0", True),
        ("trusted", "v0", False),
        ("bulk", "v3", True),
    ):
        program = bench.folder / f"load-{'bulk' if name == 'bulk' else wire}"
        if not program.exists():
            program.symlink_to(bench.load)
        helpers += HELPER.format(
            name=name, program=program, wire=wire, verify=str(verify).lower(), type=f"load{name}"
        )
    with (
        tempfile.TemporaryDirectory(prefix="hd-bench-") as folder,
        daemon(Path(folder), CONFIG.format(helpers=helpers, overflow=overflow)) as rig,
    ):
        path = Daemon(bench, rig, rig.status()["pid"])
        bench.pin(rig.process.pid)
        bench.pin(path.pid, measured=True)
        yield path


def definition(bench: Bench, form: str, **keys: float) -> str:
    """Of a source; ``form`` is v3, v2, v0, trusted (v0), bulk."""
    if form == "bulk":
        keys.setdefault("unit", max(1, (63 << 10) // (bench.size + 36)))
    wire = "v0" if form == "trusted" else form
    return bench.definition(wire, **keys).replace("type=load", f"type=load{form}")


def run(path: Daemon, definitions: list[str], sink: str = "pcapng") -> tuple[Drained, float]:
    """Run sources with one consumer to their ends; what it saw, and the supervisor's nanoseconds per packet."""
    with drain(path.bench, sink, len(definitions), connect=path.rig.runtime / f"{sink}.sock") as saw:
        before = cpu_ns(path.pid)
        names = path.begin(definitions)
        drained = saw()
        used = cpu_ns(path.pid) - before
    path.settle(names, drained.total)
    return drained.whole(), used / max(1, drained.total)


def both_speeds(bench: Bench, form: str, sink: str) -> Figure:
    """At full speed, then at half of it for the latency."""
    with running(bench) as path:
        run(path, [definition(bench, form, ms=1)], sink)  # what is loaded with the first packet is loaded now
        full, cost = run(path, [definition(bench, form)], sink)
        figure = full.full(bench, cpu_ns=cost, rss_mb=rss_mb(path.pid))
        if figure.packets_per_s is None:
            return figure
        keys = half_load(figure.packets_per_s, bulk=form == "bulk")
        half, _ = run(path, [definition(bench, form, **keys)], sink)
    return dataclasses.replace(figure, p50_ms=half.p50_us / 1000, p99_ms=half.p99_us / 1000)


def pcapfile(bench: Bench) -> Figure:
    """The bundled pcapfile helper, as fast as it can."""
    file = make(bench.folder, packets=int(400_000 * bench.seconds) + 1000, size=bench.size)
    with running(bench) as path:
        full, cost = run(path, [f"{file}:type=pcapfile,realtime=false"])
        return full.full(bench, cpu_ns=cost, rss_mb=rss_mb(path.pid))


def pcapfile_alone(bench: Bench) -> Figure:
    """The same helper, its bulk frames straight into a drain: what a direct path could give at most."""
    file = make(bench.folder, packets=int(400_000 * bench.seconds) + 1000, size=bench.size)
    with Peer("pcapfile", interface=None) as helper:
        bench.pin(helper.process.pid)
        fcntl.fcntl(helper.source, fcntl.F_SETPIPE_SZ, BULK_PIPE)
        helper.send(OpenRequest(f"{file}:type=pcapfile,realtime=false"))
        helper.expect(OpenReport)  # packets come once their interface has a number
        with (
            os.fdopen(os.dup(helper.source), "rb") as output,
            drain(bench, "raw", stdin=output, measured=True) as saw,
        ):
            helper.send(Register(SUBSYSTEM, 0))
            return saw().whole().full(bench)


def one_by_one(bench: Bench) -> Figure:
    """A helper of somebody's own, on the SDK: a call of ``writer.packet`` for each packet."""
    file = make(bench.folder, packets=int(150_000 * bench.seconds) + 1000, size=bench.size)
    with running(bench) as path:
        full, cost = run(path, [f"{file}:type=producer"])
        return full.full(bench, cpu_ns=cost, rss_mb=rss_mb(path.pid))


def case(name: str, form: str, sink: str) -> Case:
    return Case(name, functools.partial(both_speeds, form=form, sink=sink), ("cc",))


V3_TO_PCAPNG = case("v3 frames -> pcapng", "v3", "pcapng")
CASES = [
    case("v3 frames -> frames", "v3", "frames"),
    case("v2 frames -> frames", "v2", "frames"),
    case("v0 frames, trusted -> frames", "trusted", "frames"),
    case("v0 frames, verified -> frames", "v0", "frames"),
    V3_TO_PCAPNG,
    case("v2 frames -> pcapng", "v2", "pcapng"),
    case("v0 frames, trusted -> pcapng", "trusted", "pcapng"),
    case("bulk -> pcapng", "bulk", "pcapng"),
    case("bulk -> frames", "bulk", "frames"),
    Case("builtin:pcapfile -> pcapng", pcapfile, ("cc",)),
    Case("builtin:pcapfile straight into a drain", pcapfile_alone, ("cc",)),
    Case("SDK, writer.packet() -> pcapng", one_by_one, ("cc",)),
]
