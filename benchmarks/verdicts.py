"""Are helpers judged in time, and never wrongly: `python -m benchmarks.verdicts [--times 5] [--minutes 10]`.

    trouble   helpers with a PING a second that are stopped, deadlocked, spinning, mute: seconds to the verdict, and to
              the first packet of the replacement at a consumer
    calm      nothing is wrong with 50 helpers of ours, but processor hogs run, a lossless consumer does not read, the
              supervisor is stopped and the wall clock jumps an hour on and two back: nobody may be judged

Status 1 when a limit of the design is missed, or a single helper was judged in the calm.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

from helperd.control.client import Client
from tests.faults.stage import BUILTIN, HEAD, helper
from tests.faults.wall import WallClock
from tests.faults.witness import Reader, balance
from tests.rig import ROOT, Rig, daemon

VERDICT_S = 3.0
STREAMING_S = 4.0
STUCK = f"""
[[helper]]
name = "stuck"
command = ["{sys.executable}", "{ROOT}/benchmarks/stuck_helper.py"]
types = ["stuck"]
keepalive = "1s"
exclusive = false
"""
LOSSLESS = """
[[sink]]
path = "complete.sock"
overflow = "wait"
limit = "64KiB"
hold = "120s"
"""
TROUBLE = {  # name: definition, more of its block, whether it is we who stop it
    "stopped (ours)": ("radio0:type=synthetic,rate=500", "", True),
    "stopped (theirs)": ("bad0:type=bad,rate=500", "", True),
    "deadlocked (SDK)": ("stuck:type=stuck,how=deadlock", "", False),
    "deadlocked (theirs)": ("bad0:type=bad,rate=500,mode=silence,at=stream,after=20", "", False),
    "spinning (SDK)": ("stuck:type=stuck,how=spin", "", False),
    "spinning (theirs)": ("bad0:type=bad,rate=500,mode=spin,after=20", "", False),
    "mute (silence limit 2 s)": ("bad0:type=bad,rate=500,mode=mute,after=20", 'silence = "2s"', False),
}


def source(name: str, definition: str, more: str = "", start: str = "boot") -> str:
    return f'[[source]]\nname = "{name}"\ndefinition = "{definition}"\nstart = "{start}"\n{more}\n'


# trouble


def until(
    client: Client, name: str, true: Callable[[dict[str, Any]], Any], timeout: float = 30
) -> dict[str, Any]:
    limit = time.monotonic() + timeout
    while not true(row := client.call("GetSource", source=name)["source"]):
        if time.monotonic() > limit:
            raise TimeoutError(f"never became true; last: {row}")
        time.sleep(0.005)
    return row


def suffer(rig: Rig, reader: Reader, name: str, *, stop: bool) -> tuple[float, float, str]:
    """One round: seconds from the harm to the verdict, and to the first packet of the next life; its reason."""
    with Client(rig.control) as client:
        before = reader.packets[name]
        began = time.monotonic()
        rig.call("Start", source=name)
        base = until(client, name, lambda row: row["state"] == "running")["incarnation"]
        until(client, name, lambda _row: reader.packets[name] > before)
        if stop:
            time.sleep(0.3)
            os.kill(client.call("GetSource", source=name)["source"]["pid"], signal.SIGSTOP)
            harmed = time.monotonic()
        until(client, name, lambda row: row["verdict"] == "hung" or row["incarnation"] > base)
        judged = time.monotonic()
        if not stop:
            harmed = reader.stamps[name]
        before = reader.packets[name]
        until(client, name, lambda _row: reader.packets[name] > before)
        streaming = reader.stamps[name] if stop else time.monotonic()
        row = until(client, name, lambda row: row["exit"])
        assert harmed > began
        rig.call("Stop", source=name)
        return judged - harmed, streaming - harmed, row["exit"]["problem"]


def trouble(times: int) -> tuple[dict[str, object], list[str]]:
    found: dict[str, object] = {}
    wrong = []
    config = HEAD + BUILTIN + helper("bad") + STUCK
    names = {word: f"s{number}" for number, word in enumerate(TROUBLE)}
    config += "".join(source(names[word], made, more, "manual") for word, (made, more, _) in TROUBLE.items())
    with tempfile.TemporaryDirectory(prefix="hd-") as folder, daemon(Path(folder), config) as rig:
        reader = Reader(rig.connect())
        reader.start()
        for word, (_, _, stop) in TROUBLE.items():
            rounds = [suffer(rig, reader, names[word], stop=stop) for _ in range(times)]
            verdict, streaming = max(each[0] for each in rounds), max(each[1] for each in rounds)
            reasons = ", ".join(sorted({each[2] for each in rounds}))
            found[word] = {
                "verdict_s": round(verdict, 2),
                "streaming_s": round(streaming, 2),
                "reason": reasons,
            }
            print(
                f"{word:26} verdict {verdict:5.2f} s  streaming again {streaming:5.2f} s  ({reasons})",
                flush=True,
            )
            if verdict > VERDICT_S or streaming > STREAMING_S:
                wrong.append(f"{word}: later than {VERDICT_S:g} s and {STREAMING_S:g} s")
        reader.close()
    return found, wrong


# calm


@contextlib.contextmanager
def hogs(count: int) -> Iterator[None]:
    """Processes that never let go of a processor, each with a session, and so a share, of its own."""
    argv = [sys.executable, "-I", "-S", "-c", "while True: pass"]
    running = [subprocess.Popen(argv, start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
        for process in running:
            process.wait()


class Calm:
    """What is done to the machine around helpers that are well, and what was said of them meanwhile."""

    def __init__(self, rig: Rig, wall: WallClock | None, seconds: float) -> None:
        self.rig, self.wall, self.seconds = rig, wall, seconds
        self.words: Counter[str] = Counter()
        self.judged: set[str] = set()
        self.slowest = 0.0
        self.asked = 0
        self.supervisor = rig.status()["pid"]
        self.pids = {row["name"]: row["pid"] for row in rig.status()["sources"]}

    def look(self, until: float) -> None:
        """Ask for the status all the time."""
        with Client(self.rig.control, timeout_s=60) as client:
            while time.monotonic() < until:
                began = time.monotonic()
                status = client.call("GetStatus")
                self.slowest = max(self.slowest, time.monotonic() - began)
                self.asked += 1
                for row in status["sources"]:
                    word = " ".join(filter(None, (row["verdict"], row["reason"])))
                    self.words[word] += 1
                    if (
                        row["pid"] != self.pids[row["name"]]
                        or row["exit"] is not None
                        or row["verdict"] == "hung"
                    ):
                        self.judged.add(f"{row['name']}: {row['state']} {word} {row['exit']}")
                time.sleep(0.2)

    def run(self) -> None:
        """The scenario, stretched over the time there is; full length from 5 minutes on."""
        part = min(1.0, self.seconds / 300)
        began = time.monotonic()
        at = lambda share: began + share * self.seconds  # noqa: E731
        self.look(at(0.1))
        with self.rig.connect("complete.sock") as stuck:
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            self.look(time.monotonic() + max(4.0, 60 * part))  # longer than a silence that is judged
        self.look(at(0.4))
        os.kill(self.supervisor, signal.SIGSTOP)
        time.sleep(max(4.0, 20 * part))
        os.kill(self.supervisor, signal.SIGCONT)
        self.look(at(0.6))
        for share, step in ((0.75, 3600), (1.0, -3600)):
            if self.wall is not None:
                self.wall.step(step)
            self.look(at(share))


def calm(minutes: float, helpers: int, busy: int) -> tuple[dict[str, object], list[str]]:
    config = HEAD + BUILTIN + LOSSLESS
    for number in range(helpers):
        rate = (0.001, 20, 100)[number % 3]
        config += source(
            f"s{number}", f"radio{number % 4}:type=synthetic,rate={rate:g},uuid={UUID(int=number)}"
        )
    with tempfile.TemporaryDirectory(prefix="hd-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        wall = None
        try:
            wall = WallClock(folder)
            for word, value in wall.environment.items():
                os.environ[word] = value
                stack.callback(os.environ.pop, word)
        except LookupError as error:
            print(f"{error}: the wall clock is not stepped", file=sys.stderr)
        rig = stack.enter_context(daemon(folder, config))
        rig.wait_running(timeout=120)
        reader = Reader(rig.connect())
        reader.start()
        scene = Calm(rig, wall, minutes * 60)
        with hogs(busy):
            scene.run()
        status = rig.status()
        reader.close()
    wrong = sorted(scene.judged) + balance(status)
    wrong += [f"{row['name']} has restarted" for row in status["sources"] if row["incarnation"] != 1]
    wrong += ["an error of our own is in the log"] if status["bugs"] else []
    found: dict[str, object] = {
        "minutes": minutes,
        "helpers": helpers,
        "hogs": busy,
        "judged": len(scene.judged),
        "status_asked": scene.asked,
        "status_slowest_s": round(scene.slowest, 2),
        "late_beats": status["late_beats"],
        "words": dict(scene.words),
        "wall_clock_stepped": wall is not None,
    }
    return found, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description="Are helpers judged in time, and never wrongly?")
    parser.add_argument("--times", type=int, default=5, help="rounds of each trouble; 0: none")
    parser.add_argument("--minutes", type=float, default=10, help="of calm; 0: none")
    parser.add_argument("--helpers", type=int, default=50)
    parser.add_argument("--hogs", type=int, default=16)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found, wrong = trouble(options.times) if options.times else ({}, [])
    if options.minutes:
        more, bad = calm(options.minutes, options.helpers, options.hogs)
        for word, value in more.items():
            print(f"{word:26} {value}")
        found |= more
        wrong += bad
    for line in wrong:
        print(f"WRONG: {line}")
    if options.json:
        options.json.write_text(json.dumps(found))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
