"""Hostile helpers, killed: how long until nothing is left of each, what is left at all, and how much the launcher reads
for each (a look at all processes reads once for each of them): that does not depend on how busy the machine is.

hostile.py COUNT MODE     as process 1 of namespaces, or by itself as root, which makes them; MODE:
    root     ends by uid
    weak     without root: by ancestry
    cgroup   by a cgroup each
    full     by uid; all have as many processes as they may, and one of them whatever is left on the machine
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

from helperd.config.request import EMPTY
from helperd.sandbox import cgroup, processes
from tests.attack.asker import Asker, Running
from tests.attack.pids import few_pids
from tests.attack.stage import Stage, interpreter, own_pool, say

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
GREEDY = """
import os, sys, time
first = os.getpid()
while True:
    try:
        os.fork()
    except BlockingIOError:
        if os.getpid() == first: os.write(4, b'up\\n'); time.sleep(600)
        time.sleep(float(sys.argv[1]))
"""
"""Takes every process that it is let have, and says so; its children try again after some seconds."""
FULL, NPROC, PIDS = 16, 32, 800  # helpers at a time, processes of each but one, processes in all


def greedy(nproc: int, again_s: float) -> str:
    """Write a profile that takes what it is let have."""
    script = GREEDY.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    command = f'["{interpreter()}", "-I", "-S", "-c", "{script}", "{again_s}"]'
    return f'[[helper]]\nname = "greedy{nproc}"\ncommand = {command}\nlimits = {{ nproc = {nproc} }}\n'


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
        if "sleep 600" in words or "up >&4" in words or "BlockingIOError" in words:
            found.append(words[:80])
    return found


def reads(pid: int) -> int:
    """How often a process has read something in its life."""
    with open(f"/proc/{pid}/io", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("syscr"))


def batch(asker: Asker, times: list[float], profiles: list[int]) -> None:
    """Start some, kill them all at once."""
    running = [Running(asker, profile) for profile in profiles]
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
    if os.getpid() != 1:
        flags = ["--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
        os.execvp("unshare", ["unshare", *flags, sys.executable, "-m", "tests.attack.hostile", *sys.argv[1:]])
    stage = Stage()
    times: list[float] = []
    survivors = read = 0
    args = {"weak": ["--unprivileged"], "cgroup": ["--delegated"]}.get(mode, [])
    text, profiles = own_pool() + config(), [1 + number % len(KINDS) for number in range(BATCH)]
    if mode == "full":
        text, profiles = own_pool() + greedy(NPROC, 600) + greedy(4 * PIDS, 0.05), [1] * (FULL - 1) + [2]
    with contextlib.ExitStack() as stack:
        preexec = None
        if mode == "full":
            preexec = stack.enter_context(few_pids(PIDS))
        if mode == "cgroup":
            folder = cgroup.own_folder() + "/helperd-test"
            os.makedirs(folder, exist_ok=True)
            stack.callback(os.rmdir, folder)

            def preexec() -> None:
                with open(f"{folder}/cgroup.procs", "w") as file:
                    file.write("0")

        asker = stack.enter_context(stage.launcher(text, *args, preexec_fn=preexec))
        launcher = asker.launcher.pid  # type: ignore[attr-defined]
        while len(times) < count:
            before = reads(launcher)
            batch(asker, times, profiles)
            read += reads(launcher) - before
            survivors += len(left())
    times.sort()
    pick = lambda share: round(times[min(len(times) - 1, int(len(times) * share))] * 1000, 1)  # noqa: E731
    say(
        kills=len(times),
        survivors=survivors,
        reads_each=round(read / len(times)),
        p50_ms=pick(0.5),
        p99_ms=pick(0.99),
        max_ms=pick(1.0),
        log=stage.said()[-800:],
    )


if __name__ == "__main__":
    main()
