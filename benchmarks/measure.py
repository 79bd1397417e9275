"""What a case is, and the drain that measures it: a process that only reads, and counts afterwards."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Self

from benchmarks.workload import Workload

DRAIN = Path(__file__).with_name("drain.py")


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """One run of one case.

    Attributes:
        seconds: from the first byte at the end of the path to the last.
        packets: packets that arrived.
        nbytes: their captured lengths together.
    """

    seconds: float
    packets: int
    nbytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One row of the table.

    Attributes:
        name: what is measured, in a few words.
        run: does it once, with processes of its own that it ends itself.
        programs: what must be installed for it; without, the row says so.
    """

    name: str
    run: Callable[[Workload], Figure]
    programs: Sequence[str] = ()


class Drain:
    """A reading process: `with Drain(workload, stdin=pipe) as drain: ...; figure = drain.figure()`.

    It reads from `stdin`, or connects to the unix stream socket `connect`, until the end of the stream, or until
    nothing came for `idle` seconds after the first byte. Entering waits until it stands ready (or is connected).
    """

    def __init__(
        self,
        workload: Workload,
        *,
        stdin: IO[bytes] | None = None,
        connect: Path | None = None,
        idle: float = 1.0,
    ) -> None:
        room = workload.pcapng.stat().st_size * 3 // 2 + (16 << 20)
        where = [f"--connect={connect}"] if connect else []
        argv = [sys.executable, "-I", "-S", str(DRAIN), f"--room={room}", f"--idle={idle}", *where]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL if stdin is None else stdin, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError(f"the drain could not start (status {self._process.wait()})")
        return self

    def figure(self, timeout: float = 300) -> Figure:
        """Wait for the end and count.

        Raises:
            subprocess.TimeoutExpired: no end within `timeout` seconds.
            RuntimeError: the drain failed, or what it read is no pcapng.
        """
        text, _ = self._process.communicate(timeout=timeout)
        if self._process.returncode != 0:
            raise RuntimeError(f"the drain ended with status {self._process.returncode}")
        return Figure(**json.loads(text))

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
