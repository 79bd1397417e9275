"""What the same bytes cost without helperd: a `cat` hop, and dumpcap, the field's own relay.

    producer process --pipe--> hop --pipe--> drain process

Also the parts other cases build on: `producer` and `through`.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.measure import Case, Drain, Figure
from benchmarks.workload import Workload

PRODUCER = """
import os, sys
data = memoryview(open(sys.argv[1], "rb").read())
sys.stdin.buffer.read(1)
while data:
    data = data[os.write(1, data[:1 << 20]):]
"""


@contextlib.contextmanager
def producer(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process with the file in its memory, which writes it to its stdout once its stdin ends."""
    argv = [sys.executable, "-I", "-S", "-c", PRODUCER, str(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def through(workload: Workload, hop: Sequence[str]) -> Figure:
    """Send the workload's pcapng through one program, from its stdin to its stdout.

    Raises:
        RuntimeError: the program failed, or its output is no pcapng.
    """
    program = shutil.which(hop[0]) or f"/usr/sbin/{hop[0]}"
    with producer(workload.pcapng) as source, contextlib.ExitStack() as stack:
        relay = stack.enter_context(
            subprocess.Popen(
                [program, *hop[1:]], stdin=source.stdout, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        )
        stack.callback(relay.kill)
        drain = stack.enter_context(Drain(workload, stdin=relay.stdout, idle=30))
        for end in (source.stdout, relay.stdout, source.stdin):  # the last one is the starting shot
            assert end is not None
            end.close()
        figure = drain.figure()
        if relay.wait(30) != 0:
            raise RuntimeError(f"{hop[0]} ended with status {relay.returncode}")
    return figure


CASES = [
    Case("cat", lambda workload: through(workload, ("cat",)), ("cat",)),
    Case(
        "dumpcap -i -",
        lambda workload: through(workload, ("dumpcap", "-q", "-i", "-", "-w", "-")),
        ("dumpcap",),
    ),
]
