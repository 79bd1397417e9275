"""Hostile helpers, killed: how long until nothing is left of each, and what is left at all.

hostile.py COUNT MODE     MODE: root (uid sweep), weak (no root: ancestry), cgroup; as process 1 of namespaces
"""

from __future__ import annotations

import os
import signal
import sys
import time

from helperd.config.request import EMPTY
from helperd.sandbox import processes
from tests.attack.asker import Asker, Running
from tests.attack.stage import Stage, say

KINDS = {
    "ignores-term": "trap '' TERM INT HUP; echo up >&4; while :; do sleep 600; done",
    "stopped": "echo up >&4; kill -STOP $$; sleep 600",
    "double-fork": "(setsid sh -c 'setsid sleep 600 & setsid sleep 600 & sleep 600' &); echo up >&4; sleep 600",
    "orphans": "(setsid sleep 600 &); (setsid sleep 600 &); (sleep 600 &); sleep 0.02; echo up >&4; sleep 600",
    "floods-stderr": "echo up >&4; while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx >&2; done",
    "leaves-early": "(setsid sh -c 'trap \"\" TERM; while :; do sleep 600; done' &); echo up >&4; exit 0",
    "many": "n=0; while [ $n -lt 25 ]; do setsid sleep 600 & n=$((n+1)); done; echo up >&4; wait",
}
BATCH = 14


def config() -> str:
    """Write one profile per kind."""
    rows = []
    for name, script in KINDS.items():
        escaped = script.replace("\\", "\\\\").replace('"', '\\"')
        rows.append(f'[[helper]]\nname = "{name}"\ncommand = ["/usr/bin/dash", "-c", "{escaped}"]\n')
    return "\n".join(rows)


def left() -> list[str]:
    """Return what runs beside process 1, the launcher and us."""
    found = []
    for pid in processes.table():
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if "sleep 600" in words or "up >&4" in words:
            found.append(words[:80])
    return found


def batch(asker: Asker, times: list[float]) -> None:
    """Start some of every kind, kill them all at once."""
    running = [Running(asker, 1 + number % len(KINDS)) for number in range(BATCH)]
    for helper in running:
        assert helper.line() == b"up"
    started: dict[int, float] = {}
    for helper in running:
        started[helper.handle] = time.monotonic()
        asker.signal(helper.handle, signal.SIGKILL)
    while started:
        for event in [event for event in asker.events if event[0] == EMPTY]:
            asker.events.remove(event)
            if event[2] in started:
                times.append(time.monotonic() - started.pop(event[2]))
        if started and not asker.events:
            found = asker.read()
            assert found is not None
            (op, how, _, handle, arg, _), _ = found
            asker.events.append((op, how, handle, arg))
        asker.events = [event for event in asker.events if event[0] == EMPTY]
    for helper in running:
        helper.close()


def main() -> None:
    """Kill them all."""
    count, mode = int(sys.argv[1]), sys.argv[2]
    stage = Stage()
    times: list[float] = []
    survivors = 0
    args = {"root": [], "weak": ["--unprivileged"], "cgroup": ["--delegated"]}[mode]
    preexec = None
    if mode == "cgroup":
        from helperd.sandbox import cgroup

        folder = cgroup.own_folder() + "/helperd-test"
        os.makedirs(folder, exist_ok=True)

        def preexec() -> None:
            with open(f"{folder}/cgroup.procs", "w") as file:
                file.write("0")

    with stage.launcher(config(), *args, preexec_fn=preexec) as asker:
        while len(times) < count:
            batch(asker, times)
            survivors += len(left())
    if mode == "cgroup":
        os.rmdir(folder)
    times.sort()
    pick = lambda share: round(times[min(len(times) - 1, int(len(times) * share))] * 1000, 1)  # noqa: E731
    say(
        kills=len(times),
        survivors=survivors,
        p50_ms=pick(0.5),
        p99_ms=pick(0.99),
        max_ms=pick(1.0),
        log=stage.said()[-800:],
    )


if __name__ == "__main__":
    main()
