"""Many sources and consumers, some that stand still, helpers that write a frame at a time; memory over time."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Iterator

from benchmarks.baselines import half_load, hop
from benchmarks.measure import Bench, Case, Figure, WrongError, cpu_ns, drain, rss_mb
from benchmarks.path import V3_TO_PCAPNG, Daemon, definition, run, running

RATE = 200_000
"""Packets per second where the cost of consumers is compared."""


def sources(bench: Bench, *, count: int, rate: float | None = None) -> Figure:
    """So many sources and one consumer: at half load together, or each at ``rate`` with a write for every packet."""
    keys = {"rate": rate, "unit": 1} if rate else half_load(bench.rate_of(V3_TO_PCAPNG), count)
    with running(bench) as path:
        run(path, [definition(bench, "v3", ms=1)])
        begin = beginning(count)
        definitions = [definition(bench, "v3", at=begin, **keys) for _ in range(count)]
        with drain(bench, "pcapng", count, connect=path.rig.runtime / "pcapng.sock") as saw:
            names = path.begin(definitions)
            share = share_of_core(path, begin)
            drained = saw()
            memory = rss_mb(path.pid)
        path.settle(names, drained.total)
    drained.whole()
    return Figure(
        cpu_ns=share * 1e9 / (keys["rate"] * count),
        p50_ms=drained.p50_us / 1000,
        p99_ms=drained.p99_us / 1000,
        rss_mb=memory,
        more={"% of a core": 100 * share},
    )


def beginning(sources: int) -> int:
    """A monotonic time in nanoseconds at which so many sources, started now, can begin together."""
    return time.monotonic_ns() + 500_000_000 + sources * 25_000_000


def share_of_core(path: Daemon, begin: int) -> float:
    """Wait for the middle of a run that begins then, and see how much of a core the supervisor uses in it."""
    until(begin / 1e9 + path.bench.seconds * 0.1)
    before, since = cpu_ns(path.pid), time.monotonic()
    until(begin / 1e9 + path.bench.seconds * 0.9)
    return (cpu_ns(path.pid) - before) / 1e9 / (time.monotonic() - since)


def until(moment: float) -> None:
    """Sleep until a monotonic time."""
    time.sleep(max(0.0, moment - time.monotonic()))


def consumers(bench: Bench, *, count: int, form: str = "v3") -> Figure:
    """What so many consumers of one source cost the supervisor, against one, at the same rate."""
    costs = []
    with running(bench) as path:
        run(path, [definition(bench, form, ms=1)])
        for number in (1, count):
            with contextlib.ExitStack() as stack:
                where = path.rig.runtime / "pcapng.sock"
                saws = [stack.enter_context(drain(bench, "pcapng", connect=where)) for _ in range(number)]
                before = cpu_ns(path.pid)
                names = path.begin([definition(bench, form, rate=RATE, unit=RATE // 1000)])
                [total, *_] = [saw().whole().total for saw in saws]
                costs.append((cpu_ns(path.pid) - before) / total)
                path.settle(names, total)
        memory = rss_mb(path.pid)
    return Figure(cpu_ns=costs[1], rss_mb=memory, more={"x one consumer": costs[1] / costs[0]})


@contextlib.contextmanager
def stopped(path: Daemon, count: int) -> Iterator[Callable[[int], None]]:
    """Consumers that never read; call what it gives with the packets produced: the ledger has to know of each."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(path.rig.connect("pcapng.sock"))
        path.rig.wait(lambda status: len(status["consumers"]) >= count)
        before = {row["id"]: row["offered"] for row in path.rig.status()["consumers"]}

        def check(produced: int) -> None:
            for row in path.rig.status()["consumers"]:
                offered = row["offered"] - before.get(row["id"], 0)
                if row["offered"] != row["packets"] + row["lost"] + row["queued"] or offered != produced:
                    raise WrongError(
                        f"of {produced} packets the ledger of a consumer that stands still says {row}"
                    )

        yield check


def one_stopped(bench: Bench) -> Figure:
    """The rate of one consumer beside one that stands still, against its rate alone; nobody waits for anybody."""
    with running(bench, overflow="drop-oldest") as path:
        run(path, [definition(bench, "v3", ms=1)])
        alone, _ = run(path, [definition(bench, "v3")])
        where = path.rig.runtime / "pcapng.sock"
        with stopped(path, 1) as check, drain(bench, "pcapng", connect=where) as saw:
            before = cpu_ns(path.pid)
            names = path.begin([definition(bench, "v3")])
            beside = saw().whole()
            used = cpu_ns(path.pid) - before
            check(beside.total)
        path.settle(names, beside.total)
        figure = beside.full(bench, cpu_ns=used / beside.total, rss_mb=rss_mb(path.pid))
    if figure.packets_per_s is None or alone.rate is None:
        return figure
    return dataclasses.replace(figure, more={"x alone": figure.packets_per_s / alone.rate})


def framewise(bench: Bench, *, sink: str) -> Figure:
    """A helper that writes a frame at a time and waits in select, against the same into a drain.

    It has the first processor for itself: the consumer is on the second, with us.
    """
    direct, _ = hop(bench, (), "raw", form_of_load="v3", select=1)
    with running(bench) as path:
        run(path, [definition(bench, "v3", ms=1)])
        where = path.rig.runtime / f"{sink}.sock"
        with drain(bench, sink, connect=where, measured=True) as saw:
            before = cpu_ns(path.pid)
            names = path.begin([definition(bench, "v3", select=1)])
            drained = saw().whole()
            used = cpu_ns(path.pid) - before
        path.settle(names, drained.total)
        figure = drained.full(bench, cpu_ns=used / drained.total, rss_mb=rss_mb(path.pid))
    if figure.packets_per_s is None or direct.whole().rate is None:
        return figure
    return dataclasses.replace(figure, more={"x into a drain": figure.packets_per_s / direct.rate})


def memory(bench: Bench, *, count: int, full: bool = False, form: str = "v3") -> Figure:
    """Resident memory over a long run at full speed: how much it moves after the first five seconds, and its peak."""
    seen = []
    settled = min(5.0, bench.long_s / 4)
    with running(bench, overflow="drop-oldest" if full else "wait") as path, contextlib.ExitStack() as stack:
        run(path, [definition(bench, form, ms=1)])
        where = path.rig.runtime / "pcapng.sock"
        check = stack.enter_context(stopped(path, count if full else 0))
        saws = [
            stack.enter_context(drain(bench, "pcapng", connect=where)) for _ in range(1 if full else count)
        ]
        names = path.begin([definition(bench, form, ms=round(bench.long_s * 1000))])
        began = time.monotonic()
        while time.monotonic() < began + bench.long_s:
            time.sleep(bench.long_s / 240)
            if time.monotonic() > began + settled:
                seen.append(rss_mb(path.pid))
        [drained, *_] = [saw() for saw in saws]
        if full and drained.ended:  # what it lost beside them was told to it
            check(drained.total)
        else:
            drained.whole()
        path.settle(names, drained.total)
    figure = drained.full(bench, rss_mb=max(seen))
    last = statistics.median(seen[-10:])
    return dataclasses.replace(
        figure, more={"MB between lowest and highest": max(seen) - min(seen), "MB grown": last - seen[0]}
    )


SMALL = (128,)
CASES = [
    Case("v3 -> pcapng, 16 sources", functools.partial(sources, count=16), ("cc",), SMALL),
    Case("v3 -> pcapng, 128 sources", functools.partial(sources, count=128), ("cc",), SMALL),
    Case(
        "200 sources x 100/s, a write each", functools.partial(sources, count=200, rate=100), ("cc",), SMALL
    ),
    Case("v3 -> pcapng, 8 consumers", functools.partial(consumers, count=8), ("cc",), SMALL),
    Case("v3 -> pcapng, beside a stopped one", one_stopped, ("cc",)),
    Case("frame per write, select -> pcapng", functools.partial(framewise, sink="pcapng"), ("cc",)),
    Case("frame per write, select -> frames", functools.partial(framewise, sink="frames"), ("cc",), SMALL),
    Case("long: 1 consumer", functools.partial(memory, count=1), ("cc",), SMALL, once=True),
    Case("long: 4 consumers", functools.partial(memory, count=4), ("cc",), SMALL, once=True),
    Case("long: 4 full outboxes", functools.partial(memory, count=4, full=True), ("cc",), SMALL, once=True),
    Case(
        "long: bulk, 4 full outboxes",
        functools.partial(memory, count=4, full=True, form="bulk"),
        ("cc",),
        SMALL,
        once=True,
    ),
]
