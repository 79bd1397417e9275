"""Random messages to the control socket of a real daemon, from 64 users at once; root is served meanwhile.

questions.py MESSAGES [SEED]      as process 1 of namespaces
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from functools import partial
from typing import Any

from helperd.sandbox import processes
from tests.attack.fuzz import child, meanwhile, open_files, settled, vitals
from tests.attack.stage import DAEMON, Stage, say

CONTROL = "/run/helperd/control.sock"
USERS = 64
CONFIG = """
[helperd]
socket_mode = "0666"
[[helper]]
name = "synthetic"
command = ["builtin:synthetic"]
types = ["synthetic"]
[[source]]
definition = "radio0:type=synthetic,rate=200"
"""
READ = (
    "GetStatus",
    "ListSources",
    "GetSource",
    "ListHelpers",
    "GetMessages",
    "GetLedger",
    "GetVitals",
    "GetHealth",
    "GetInfo",
)
ORDERS = (
    "Start",
    "Stop",
    "Restart",
    "Pause",
    "Resume",
    "AddSource",
    "RemoveSource",
    "SetChannel",
    "Hop",
    "Reload",
    "Capture",
)
RARE = ("Probe", "ListDevices", "Stream")
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1 << 63, 1e308, "", "radio0", "all", "x" * 300, "\x1b[2J\u202e", "\ud800", "../../etc", [], ["radio0"],
    [[[]]], {}, {"source": {}}, "radio0:type=synthetic", ":::",
)  # fmt: skip
KEYS = (
    "source",
    "sources",
    "every_s",
    "definition",
    "name",
    "channel",
    "channels",
    "rate",
    "since",
    "format",
    "linktype",
    "max_age_s",
    "x",
)


def message(dice: random.Random) -> bytes:
    """One message that is nearly right, or not at all, with its end or without."""
    kind = dice.random()
    if kind < 0.02:
        return dice.randbytes(dice.choice((1, 2, 30, 300))).replace(b"\0", b"") + b"\0"
    method: Any = f"io.helperd.{dice.choice(READ if kind < 0.6 else ORDERS)}"
    if kind > 0.998:
        method = f"io.helperd.{dice.choice(RARE)}"
    elif kind > 0.95:
        method = dice.choice(("org.varlink.service.GetInfo", "io.helperd.", "", 5, None, "a.b.C"))
    call: Any = {"method": method}
    if dice.random() < 0.7:
        call["parameters"] = {dice.choice(KEYS): dice.choice(VALUES) for _ in range(dice.randint(0, 3))}
    for flag in ("more", "oneway", "upgrade"):
        if dice.random() < 0.03:
            call[flag] = dice.choice((True, False, 1, None))
    data = json.dumps(call).encode()
    if dice.random() < 0.01:
        place = dice.randrange(len(data))
        data = data[:place] + dice.randbytes(1) + data[place + dice.randint(0, 3) :]
    return data.replace(b"\0", b"") + b"\0" * (dice.random() < 0.995)


def ask(count: int, dice: random.Random) -> None:
    """Send messages over one connection after the other; read what comes, or do not, and leave without a word."""
    sent = 0
    while sent < count:
        with socket.socket(socket.AF_UNIX) as sock, contextlib.suppress(OSError):
            sock.settimeout(0.5)
            sock.connect(CONTROL)
            for _ in range(dice.randint(1, 20)):
                several = dice.randint(1, 20)
                sock.sendall(b"".join(message(dice) for _ in range(several)))
                sent += several
                missing = several if dice.random() < 0.8 else 0
                while missing > 0:
                    data = sock.recv(1 << 16)
                    missing = missing - data.count(b"\0") if data else -1
                if missing == -1:
                    break
        sent += 1


def served() -> dict[str, Any]:
    """What root is told about the daemon's health, over a connection of its own."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(CONTROL)
        sock.sendall(b'{"method":"io.helperd.GetHealth"}\0')
        data = b""
        while not data.endswith(b"\0"):
            more = sock.recv(1 << 16)
            assert more, "closed"
            data += more
    answer = json.loads(data[:-1])
    assert "error" not in answer, answer
    return dict(answer["parameters"])


def users(count: int, seed: int) -> list[int]:
    """All of them, at work."""
    return [
        child(3000 + n, [], partial(ask, count // USERS, random.Random(seed * 1000 + n)))
        for n in range(USERS)
    ]


def main() -> None:
    """Ask."""
    count, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    stage = Stage()
    process = stage.start(
        stage.config(CONFIG),
        "--runtime-dir=/run/helperd",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 30
    while not os.path.exists("/run/helperd/sources/radio0.sock"):
        assert process.poll() is None, stage.said()
        assert time.monotonic() < deadline, stage.said()
        time.sleep(0.02)
    (daemon,) = (
        pid for pid in processes.table() if (each := processes.privilege(pid)) and each.uids[0] == DAEMON
    )
    meanwhile(users(max(count // 10, 6400), seed + 1), served)
    settled(daemon)
    had = open_files(daemon)
    before, started = vitals(daemon), time.monotonic()
    longest, times = meanwhile(users(count, seed), served)
    seconds = round(time.monotonic() - started, 1)
    settled(daemon)
    have = open_files(daemon)
    after, health, said = vitals(daemon), served(), stage.said()
    say(sent=count, seconds=seconds, before=before, after=after, root_s=round(longest, 3), root_times=times, health=health,
        opened=[name for name in set(have) if have.count(name) > had.count(name)],
        traceback="Traceback" in said, log=said[-300:])  # fmt: skip
    process.terminate()
    process.wait(20)


if __name__ == "__main__":
    main()
