"""What the same packets cost without helperd: a `cat` hop, dumpcap and tcpdump, the field's own relays.

load --pipe--> hop --pipe--> drain
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Sequence

from benchmarks.measure import Bench, Case, Drained, Figure, WrongError, drain


def hop(
    bench: Bench, command: Sequence[str], form: str = "pcapng", *, form_of_load: str = "pcapng", **keys: float
) -> tuple[Drained, float]:
    """Send packets as pcapng through a program, from its stdin to its stdout; no program: straight into the drain.

    Returns:
        What the drain saw, and the processor seconds that the program used.

    Raises:
        WrongError: the program failed.
    """
    with contextlib.ExitStack() as stack:
        load = bench.spawn([bench.load, bench.definition(form_of_load, **keys)], stdout=subprocess.PIPE)
        stack.callback(_end, load)
        last = load
        if command:
            program = shutil.which(command[0]) or f"/usr/sbin/{command[0]}"
            last = bench.spawn(
                [program, *command[1:]],
                measured=True,
                stdin=load.stdout,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            stack.callback(_end, last)
            load.stdout.close()
        saw = stack.enter_context(drain(bench, form, stdin=last.stdout, measured=not command))
        last.stdout.close()
        drained = saw()
        _, status, usage = os.wait4(last.pid, 0)
        last.returncode = os.waitstatus_to_exitcode(status)
        if last.returncode != 0:
            raise WrongError(f"{command[0] if command else 'load'} ended with status {last.returncode}")
    return drained, usage.ru_utime + usage.ru_stime


def direct(bench: Bench) -> Figure:
    """The direct path, as far as it could gain: a producer that writes pcapng straight into a consumer's socket.

    A prototype: no supervisor, no control, no counters. The consumer has the processor that the supervisor would have.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs, drain(bench, "pcapng", stdin=ours, measured=True) as saw:  # type: ignore[arg-type]
        load = bench.spawn([bench.load, bench.definition("pcapng")], stdout=theirs)
        try:
            theirs.close()
            ours.close()
            return saw().whole().full(bench)
        finally:
            load.kill()
            load.wait()


def _end(process: subprocess.Popen) -> None:
    if process.returncode is None:
        process.kill()
        process.wait()


def both_speeds(bench: Bench, command: Sequence[str], form: str = "pcapng") -> Figure:
    """At full speed, then at half of it for the latency."""
    full, cpu_s = hop(bench, command, form)
    figure = full.whole().full(bench, cpu_ns=cpu_s / full.packets * 1e9 if command else None)
    if figure.packets_per_s is None:
        return figure
    half, _ = hop(bench, command, form, **half_load(figure.packets_per_s))
    half.whole()
    return Figure(
        figure.packets_per_s,
        figure.mb_per_s,
        figure.cpu_ns,
        half.p50_us / 1000,
        half.p99_us / 1000,
    )


def half_load(rate: float, sources: int = 1, bulk: bool = False) -> dict[str, float]:
    """Keys of a producer at its share of half that rate; all together write about 10,000 times a second.

    Bulk producers, which gather before they write, 1,000 times; so does helperd's own SDK.
    """
    each = rate / 2 / sources
    return {"rate": each, "unit": max(1, round(each * sources / (1_000 if bulk else 10_000)))}


CAT = Case("cat", lambda bench: both_speeds(bench, ("cat",)), ("cat", "cc"))
CASES = [
    CAT,
    Case("producer straight into a drain", lambda bench: both_speeds(bench, ()), ("cc",)),
    Case("direct path (prototype)", direct, ("cc",)),
    Case(
        "dumpcap -i -",
        lambda bench: both_speeds(bench, ("dumpcap", "-q", "-i", "-", "-w", "-")),
        ("dumpcap",),
    ),
    Case(
        "tcpdump -r - -w -",
        lambda bench: both_speeds(bench, ("tcpdump", "-r", "-", "-w", "-"), "pcap"),
        ("tcpdump", "cc"),
    ),
]
