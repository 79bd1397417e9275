"""The whole path: a helper under a real daemon, and a drain at a consumer socket.

    helper process --> supervisor --consumer socket--> drain process        (the launcher looks on)

The sink waits, so that every packet arrives: what is measured is how fast, not how much is dropped.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Case, Drain, Figure
from benchmarks.workload import Workload
from tests.rig import daemon

FRAMES = Path(__file__).with_name("frames_helper.py")
SDK = Path(__file__).with_name("sdk_helper.py")

CONFIG = """
[[helper]]
name = "producer"
command = [{command}]
types = ["producer"]
[[source]]
name = "load"
definition = "{definition}"
start = "first-consumer"
restart = "temporary"
[[sink]]
path = "drain.sock"
overflow = "wait"
"""


def through_helperd(workload: Workload, command: list[str], definition: str) -> Figure:
    """Run one helper of one source until the drain has everything."""
    words = ", ".join(f'"{word}"' for word in command)
    with tempfile.TemporaryDirectory(prefix="hd-bench-") as folder:
        config = CONFIG.format(command=words, definition=definition)
        with (
            daemon(Path(folder), config) as rig,
            Drain(workload, connect=Path(folder) / "drain.sock", idle=2) as drain,
        ):
            figure = drain.figure()
            lost = rig.source("load")["lost"]
        if lost:
            raise RuntimeError(f"the ledger says lost: {lost}")
    return figure


def replay(workload: Workload) -> Figure:
    """The bundled pcapfile helper, as fast as possible."""
    return through_helperd(workload, ["builtin:pcapfile"], f"{workload.pcap}:type=producer,realtime=false")


def frames(workload: Workload) -> Figure:
    """Frames of one packet each, made beforehand, from a stand-in for a foreign helper."""
    command = [sys.executable, "-I", "-S", str(FRAMES)]
    return through_helperd(workload, command, f"{workload.pcap}:type=producer")


def one_by_one(workload: Workload) -> Figure:
    """A helper of somebody's own, on the SDK: a call of ``writer.packet`` for each packet."""
    return through_helperd(workload, [sys.executable, str(SDK)], f"{workload.pcap}:type=producer")


CASES = [
    Case("helperd, pcapfile", replay),
    Case("helperd, v3 frames", frames),
    Case("helperd, writer.packet()", one_by_one),
]
