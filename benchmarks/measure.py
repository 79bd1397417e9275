"""What a case is, who runs on which processor, and the programs that produce and count.

    load (load.c) --> whatever is measured --> drain (drain.c)

Whatever is measured - `cat`, dumpcap, the supervisor - has one processor to itself; producers, consumers and all else
share the first. With one processor, or ``--free``, the scheduler decides.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

HERE = Path(__file__).parent
COMPILER = "cc"


class WrongError(Exception):
    """A run that lost a packet, or did not end: there is no figure then."""


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """One run of one case; None where it says nothing.

    Attributes:
        packets_per_s: at full speed, from the first read with a packet to the last at the end of the path.
        mb_per_s: the same in 10**6 bytes of packet content.
        cpu_ns: processor time of what is measured, per packet.
        p50_ms, p99_ms: from a packet's write to its arrival, at half of the full speed.
        rss_mb: resident memory of the supervisor, 2**20 bytes.
        more: other figures by name, shown beside the row.
    """

    packets_per_s: float | None = None
    mb_per_s: float | None = None
    cpu_ns: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    rss_mb: float | None = None
    more: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(slots=True)
class Bench:
    """What a case needs to run.

    Attributes:
        folder: for its files.
        size: bytes of each packet.
        seconds: length of a run.
        long_s: length of a run that watches memory.
        cpus: the processor of producers and consumers, and the one of what is measured; None: no matter.
        rates: full-speed rates of this round by case, packets per second; others start from them.
    """

    folder: Path
    size: int = 128
    seconds: float = 1.0
    long_s: float = 60.0
    cpus: tuple[int, int] | None = None
    rates: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def load(self) -> Path:
        """The producer; its name may tell the generation it speaks as a helper."""
        return self._program("load")

    @property
    def drain(self) -> Path:
        """The consumer."""
        return self._program("drain")

    def _program(self, name: str) -> Path:
        program = self.folder / name
        if not program.exists():
            compiler = shutil.which(COMPILER) or shutil.which("gcc") or COMPILER
            argv = [compiler, "-O2", "-pthread", "-o", str(program), str(HERE / f"{name}.c")]
            subprocess.run(argv, check=True)
        return program

    def definition(self, form: str, **keys: float) -> str:
        """What a producer is told; see load.c."""
        keys = {"size": self.size, "ms": round(self.seconds * 1000), **keys}
        return f"load:type=load,form={form}," + ",".join(
            f"{key}={value if isinstance(value, int) else f'{value:.12g}'}" for key, value in keys.items()
        )

    def pin(self, pid: int, *, measured: bool = False) -> None:
        """Give a process its processor, all of its threads."""
        if self.cpus is None:
            return
        with contextlib.suppress(ProcessLookupError):
            for task in os.listdir(f"/proc/{pid}/task"):
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(int(task), {self.cpus[1] if measured else self.cpus[0]})

    def spawn(
        self, argv: Sequence[str | Path], *, measured: bool = False, **pipes: object
    ) -> subprocess.Popen:
        """Start a process on its processor."""
        words = [str(word) for word in argv]
        if self.cpus is not None:
            words = ["taskset", "-c", str(self.cpus[measured]), *words]
        return subprocess.Popen(words, **pipes)  # type: ignore[call-overload]

    def rate_of(self, case: Case) -> float:
        """The full speed of a case in this round; measured now if it has not been."""
        key = f"{case.name} {self.size}"
        if key not in self.rates:
            self.rates[key] = case.run(self).packets_per_s or 0.0
        return self.rates[key]


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One row of the table.

    Attributes:
        name: what is measured, in a few words.
        run: does it once, with processes of its own that it ends itself.
        programs: what must be installed for it; without, the row says so.
        sizes: packet sizes it is run with.
        once: takes long; run in the first round only.
    """

    name: str
    run: Callable[[Bench], Figure]
    programs: Sequence[str] = ()
    sizes: Sequence[int] = (128, 1400)
    once: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Drained:
    """What a drain saw; see drain.c."""

    seconds: float
    timed: int
    packets: int
    lost: int
    total: int
    ended: bool
    p50_us: float
    p99_us: float
    max_us: float
    cpu_s: float

    @property
    def rate(self) -> float | None:
        """Packets per second; None when all came in one read."""
        return self.timed / self.seconds if self.seconds > 0 else None

    def whole(self) -> Drained:
        """Itself, if every packet has come.

        Raises:
            WrongError: with how many are missing.
        """
        if not self.ended or self.lost:
            told = f"{self.lost} told" if self.ended else f"{self.lost} told, no end"
            raise WrongError(f"lost {self.total - self.packets} of {self.total} packets ({told})")
        return self

    def full(self, bench: Bench, **more: float | None) -> Figure:
        """As a run at full speed."""
        rate = self.rate
        return Figure(rate, None if rate is None else rate * bench.size / 1e6, **more)  # type: ignore[arg-type]


@contextlib.contextmanager
def drain(
    bench: Bench,
    form: str,
    sources: int = 1,
    *,
    stdin: IO[bytes] | None = None,
    connect: Path | None = None,
    measured: bool = False,
) -> Iterator[Callable[[], Drained]]:
    """A reading process, which stands ready (or is connected) inside; call what it gives for what it saw."""
    words: list[str | Path] = [bench.drain, form, str(bench.size), str(sources)]
    process = bench.spawn(
        [*words, connect] if connect else words,
        measured=measured,
        stdin=subprocess.DEVNULL if stdin is None else stdin,
        stdout=subprocess.PIPE,
        bufsize=0,  # nothing is read ahead of the first line: a quick drain has said all by then
    )

    def saw() -> Drained:
        text, _ = process.communicate(timeout=bench.long_s + 120)
        if process.returncode != 0:
            raise WrongError(f"the drain ended with status {process.returncode}")
        return Drained(**json.loads(text))

    try:
        if process.stdout.readline() != b"ready\n":
            raise WrongError(f"the drain could not start (status {process.wait()})")
        yield saw
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def cpu_ns(pid: int) -> int:
    """Processor time that a process has used, all threads, in nanoseconds."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            total += int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0])
    return total


def rss_mb(pid: int) -> float:
    """Resident memory of a process, 2**20 bytes."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) / 1024
    raise ValueError(pid)
