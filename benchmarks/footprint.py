"""What a daemon with many idle helpers costs: `python -m benchmarks.footprint [--helpers 200] [--seconds 20]`.

Prints resident and proportional memory of supervisor and launcher, descriptors per helper
(without the consumer sockets of its source), and the share of one
core that each used while nothing happened but keepalive (a PING per helper and second) and vitals. Status 1 when
a limit of the design is missed: 40 MB, 16 MB, 6 descriptors, 4 % of a core (launcher and supervisor together).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.census import FORKED_AHEAD, name_of
from tests.faults.witness import below
from tests.rig import Rig, daemon

MB = 1 << 20
LIMITS = {"supervisor_mb": 40.0, "launcher_mb": 16.0, "fds_per_helper": 6.0, "cpu_percent": 4.0}

HELPER = """
[[helper]]
name = "synthetic"
command = ["builtin:synthetic"]
types = ["synthetic"]
"""
SOURCE = """
[[source]]
name = "radio{number}"
definition = "radio{radio}:type=synthetic,rate=0.001,uuid=00000000-0000-0000-0000-{number:012}"
"""


def configuration(helpers: int) -> str:
    """So many sources, each with a helper that hears nothing."""
    return HELPER + "".join(SOURCE.format(number=number, radio=number % 4) for number in range(helpers))


def memory_mb(pid: int, field: str = "Rss") -> float:
    """Resident (Rss) or proportional (Pss) memory of a process, in MB of 2**20 bytes."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise ValueError(field)


def cpu_s(pid: int) -> float:
    """Processor time used so far, user and system, in seconds."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def fds(pid: int) -> int:
    """Open descriptors."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def all_fds(rig: Rig) -> int:
    """Descriptors of supervisor and launcher, those of listening sockets left out."""
    sockets = sum(1 for _ in rig.runtime.rglob("*.sock"))
    return fds(rig.process.pid) + fds(rig.status()["pid"]) - sockets


def fixed_fds() -> int:
    """Descriptors of a daemon without sources."""
    with tempfile.TemporaryDirectory(prefix="hd-") as folder, daemon(Path(folder), HELPER) as rig:
        return all_fds(rig)


def measure(rig: Rig, helpers: int, seconds: float, fixed: int) -> dict[str, float]:
    """Watch an idle daemon; times in seconds, memory in MB."""
    status = rig.status()
    (ahead,) = (pid for pid in below(rig.process.pid) if name_of(pid) == FORKED_AHEAD)
    pids = {"supervisor": status["pid"], "launcher": rig.process.pid, "forked_ahead": ahead}
    before = {name: cpu_s(pid) for name, pid in pids.items()}
    began = time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    spent = {name: 100 * (cpu_s(pid) - before[name]) / took for name, pid in pids.items()}
    found = {f"{name}_mb": memory_mb(pid) for name, pid in pids.items()}
    found |= {f"{name}_pss_mb": memory_mb(pid, "Pss") for name, pid in pids.items()}
    found |= {f"{name}_fds": float(fds(pid)) for name, pid in pids.items()}
    found |= {f"{name}_cpu_percent": share for name, share in spent.items()}
    found["fds_per_helper"] = (all_fds(rig) - fixed) / helpers
    found["cpu_percent"] = sum(spent.values())
    found["running"] = float(sum(row["state"] == "running" for row in rig.status()["sources"]))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Memory, descriptors and idle cpu of a daemon with many helpers."
    )
    parser.add_argument("--helpers", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    fixed = fixed_fds()
    with tempfile.TemporaryDirectory(prefix="hd-") as folder:
        began = time.monotonic()
        with daemon(Path(folder), configuration(options.helpers)) as rig:
            rig.wait_running(timeout=120)
            up = time.monotonic() - began
            time.sleep(2)
            found = measure(rig, options.helpers, options.seconds, fixed) | {"up_s": up}
    missed = [name for name, limit in LIMITS.items() if found[name] > limit]
    for name, value in found.items():
        limit = (
            f"  (at most {LIMITS[name]:g}{', MISSED' if name in missed else ''})" if name in LIMITS else ""
        )
        print(f"{name:24} {value:8.2f}{limit}")
    if options.json:
        options.json.write_text(json.dumps(found))
    return 1 if missed or found["running"] != options.helpers else 0


if __name__ == "__main__":
    sys.exit(main())
