"""What the control socket costs: `python -m benchmarks.control [--seconds N]`.

Four tables: how long a command takes from its start to its end; what capture loses when many clients are idle, slow or
rude; what an order and a file feel of one user who does their worst; and what one `top` costs the supervisor. The
baseline of each stands beside it, taken in the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from helperd.control.client import Client
from tests.rig import ROOT, Rig, daemon

BIN = Path(sys.executable).parent
"""Where bootstrap puts the commands, as users start them."""
RUNS = 50
TICK = os.sysconf("SC_CLK_TCK")
HELPER = """
[helperd]
implicit_sinks = true

[[helper]]
name = "synthetic"
command = ["builtin:synthetic"]
types = ["synthetic"]
"""


def config(sources: int, rate: int) -> str:
    blocks = [
        f'\n[[source]]\nname = "s{n}"\n'
        f'definition = "radio{n % 4}:type=synthetic,rate={rate},channels=1,uuid={uuid.UUID(int=n + 1)}"\n'
        for n in range(sources)
    ]
    return HELPER + "".join(blocks)


def cpu_s(pid: int) -> float:
    """Processor seconds that a process has used."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / TICK


@contextlib.contextmanager
def running(text: str) -> Iterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="hd-") as folder, daemon(Path(folder), text) as rig:
        rig.wait_running(timeout=60)
        yield rig


def commands() -> dict[str, dict[str, float]]:
    """Wall-clock milliseconds of whole processes."""
    with running(config(2, 100)) as rig:
        where = ["--runtime-dir", str(rig.runtime)]
        cases = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "helperd status --json": [str(BIN / "helperd"), "status", "--json", *where],
            "helperd list": [str(BIN / "helperd"), "list", *where],
            "helperd-extcap --extcap-interfaces": [str(BIN / "helperd-extcap"), "--extcap-interfaces"],
        }
        asks = {**os.environ, "RUNTIME_DIRECTORY": str(rig.runtime)}
        times: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(RUNS):
            for name, argv in cases.items():
                begin = time.perf_counter()
                subprocess.run(
                    argv, cwd=ROOT, env=asks, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True
                )
                times[name].append((time.perf_counter() - begin) * 1000)
    return {
        name: {"p50_ms": statistics.median(found), "p95_ms": sorted(found)[int(len(found) * 0.95) - 1]}
        for name, found in times.items()
    }


def connected(rig: Rig, clients: int, first: bytes) -> list[socket.socket]:
    """Clients that say something and then neither read nor write."""
    found = []
    for _ in range(clients):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(rig.control)
        sock.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            sock.sendall(first)
        found.append(sock)
    return found


CROWDS: dict[str, tuple[int, bytes]] = {
    "nobody": (0, b""),
    "1,000 idle": (1000, b""),
    "100 that read nothing of a stream": (
        100,
        b'{"method":"io.helperd.GetStatus","more":true,"parameters":{"every_s":0.1}}\0',
    ),
    "100 that ask much and read nothing": (100, b'{"method":"io.helperd.GetStatus"}\0' * 500),
    "1,000 that never finish": (1000, b'{"method":'),
}


def interference(seconds: float) -> dict[str, dict[str, float]]:
    """Packets per second that reach a consumer while a crowd is connected; one round for each crowd, three times."""
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in CROWDS}
    with running(config(2, 20_000)) as rig:
        stop = threading.Event()

        def read() -> None:
            with rig.connect() as sock:
                while not stop.is_set() and sock.recv(1 << 20):
                    pass

        reader = threading.Thread(target=read)
        reader.start()
        pid = rig.status()["pid"]
        for _ in range(3):
            for name, (clients, first) in CROWDS.items():
                crowd = connected(rig, clients, first)
                time.sleep(0.5)
                before, used, begin = delivered(rig), cpu_s(pid), time.perf_counter()
                time.sleep(seconds)
                took = time.perf_counter() - begin
                figures[name].append(((delivered(rig) - before) / took, (cpu_s(pid) - used) / took))
                for sock in crowd:
                    sock.close()
                time.sleep(0.5)
        stop.set()
        reader.join()
    return {
        name: {
            "packets_per_s": statistics.median(rate for rate, _ in found),
            "supervisor_cpu": statistics.median(cpu for _, cpu in found),
        }
        for name, found in figures.items()
    }


HOSTILE: dict[str, str] = {
    "nobody": "",
    "1,000 that come, stand still and leave at once": """
while True:
    held = []
    for _ in range(1000):
        held.append(reach("all.sock"))
    time.sleep(0.5)
    for sock in held:
        sock.close()
""",
    "1,000 that ask for everything all the time": """
held = [reach("control.sock") for _ in range(1000)]
while True:
    for sock in held:
        try:
            sock.sendall(b'{"method":"io.helperd.GetLedger"}' + bytes(1))
            sock.recv(1 << 20)
        except BlockingIOError:
            pass
        except OSError:
            held[held.index(sock)] = reach("control.sock")
""",
    "one that asks, leaves, comes again": """
while True:
    try:
        sock = reach("control.sock")
        sock.sendall(b'{"method":"io.helperd.GetLedger"}' + bytes(1))
        sock.close()
    except OSError:
        pass
""",
    "one over the bound, back at each refusal": """
held = [reach("control.sock") for _ in range(128)]
while True:
    sock = reach("control.sock")
    sock.settimeout(60)
    try:
        sock.sendall(b'{"method":"io.helperd.GetLedger"}' + bytes(1))
        sock.recv(1 << 16)
    except OSError:
        pass
    sock.close()
""",
}
"""What one user does meanwhile: nobody's when this runs as root, else the daemon's own, who has no bound."""
REACH = """
import os, resource, socket, sys, time
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
def reach(name):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(os.path.join(sys.argv[1], name))
    sock.settimeout(0)
    return sock
"""


def hostile(seconds: float) -> dict[str, dict[str, float]]:
    """How long an order takes, and what a file of 40,000 packets per second loses, while one user does its worst."""
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = f'\n[[sink]]\ntype = "file"\npath = "{folder}/all.pcapng"\n'
        with running(config(2, 20_000).replace("implicit", 'socket_mode = "0666"\nimplicit') + file) as rig:
            os.chmod(rig.runtime, 0o755)
            for name, code in HOSTILE.items():
                argv = [sys.executable, "-c", REACH + (code or "time.sleep(3600)"), str(rig.runtime)]
                crowd = subprocess.Popen(argv)
                try:
                    time.sleep(1)
                    lost, times, until = lost_by_file(rig), [], time.perf_counter() + 2 * seconds
                    while time.perf_counter() < until:
                        began = time.perf_counter()
                        with Client(rig.control) as client:
                            client.call("Resume", source=client.call("ListSources")["sources"][0])
                        times.append(1000 * (time.perf_counter() - began))
                        time.sleep(0.01)
                    times.sort()
                    figures[name] = {
                        "p50_ms": statistics.median(times),
                        "p99_ms": times[int(len(times) * 0.99) - 1],
                        "max_ms": times[-1],
                        "packets_lost": lost_by_file(rig) - lost,
                    }
                finally:
                    crowd.kill()
                    crowd.wait()
                time.sleep(0.5)
    return figures


def lost_by_file(rig: Rig) -> float:
    with Client(rig.control) as client:
        rows = client.call("GetStatus")["consumers"]
    return sum(int(row["lost"]) for row in rows if row["sink"].endswith("all.pcapng"))


def delivered(rig: Rig) -> int:
    with Client(rig.control) as client:
        return sum(int(row["packets"]) for row in client.call("GetStatus")["consumers"])


def top(seconds: float) -> dict[str, dict[str, float]]:
    """Share of a core that the supervisor uses with 50 sources, without and with somebody who watches."""
    found: dict[str, dict[str, float]] = {}
    with running(config(50, 10)) as rig:
        pid = rig.status()["pid"]
        time.sleep(2)
        for name in ("nobody watches", "top"):
            stopped = threading.Event()
            watcher = threading.Thread(target=watch, args=(rig, stopped))
            if name == "top":
                watcher.start()
            used = cpu_s(pid)
            time.sleep(seconds * 3)
            found[name] = {"supervisor_cpu": (cpu_s(pid) - used) / (seconds * 3)}
            stopped.set()
            if name == "top":
                watcher.join()
    return found


def watch(rig: Rig, stopped: threading.Event) -> None:
    with Client(rig.control) as client:
        for _status in client.more("GetStatus", every_s=1.0):
            if stopped.is_set():
                return


def main() -> int:
    """Measure, print, and write the figures if asked to."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.control", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="of one measurement (default 4)")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    args = parser.parse_args()
    parts: dict[str, Callable[[], dict[str, dict[str, float]]]] = {
        "commands": commands,
        "capture while clients are": lambda: interference(args.seconds),
        "an order and a file while one user is": lambda: hostile(args.seconds),
        "a watcher of 50 sources": lambda: top(args.seconds),
    }
    figures: dict[str, Any] = {}
    for title, part in parts.items():
        figures[title] = part()
        print(f"\n{title}")
        for name, row in figures[title].items():
            print(
                f"  {name:<40}" + "".join(f"  {key} {number:>10,.3f}" for key, number in row.items()),
                flush=True,
            )
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
