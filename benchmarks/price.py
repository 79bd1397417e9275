"""What each guarantee costs a launch: launchers with one step taken away, beside one that has them all.

Run by ``benchmarks/privsep.py --price``, as root. They stand side by side and are asked in turn, five launches each, in
an order that is drawn anew every time: what else the machine does meets all of them alike. Medians of the rounds.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import statistics
import time
from pathlib import Path
from typing import NamedTuple

from tests.attack.asker import Asker, Running
from tests.attack.stage import LIBRARY, STAGE, Stage, interpreter, own_pool

BECOME, CUSTODY, SECCOMP = (f"sandbox/{name}.py" for name in ("become", "custody", "seccomp"))
LAUNCHER = "privsep.py"
BURST = 5
HELLO = "import os; os.write(4, b'up\\\\n'); os.read(3, 1)"
CONFIG = """
[[helper]]
name = "python"
command = ["{python}", "-I", "-S", "-c", "{hello}"]
capabilities = ["net_raw"]
"""
COLUMNS = ("request to pidfd", "request to first byte", "kill to empty")


class Step(NamedTuple):
    """Text of a file of the package, and what stands there without the guarantee."""

    file: str
    old: str
    new: str


ROWS = "    rows += [row for call in ABSENT for row in when(NUMBERS[call], refuse(errno.ENOSYS))]\n"
DIED = "        if blank and blank.untouched:\n"
GUARANTEES: dict[str, list[Step]] = {
    "all": [],
    "the child receives the descriptors": [
        Step(
            LAUNCHER,
            "asked=request.fds, place=child.place | {ASKED: client.sock.fileno()})\n",
            "place=child.place | dict(zip((3, 4, 2, 5), fds := socket.recv_fds(client.sock, 33, 4)[1])))\n",
        ),
        Step(
            LAUNCHER,
            "        self.last, client.taker = profile, helper.pid\n",
            "        self.last, helper.taken = profile, True\n        [os.close(fd) for fd in fds]\n",
        ),
    ],
    "a uid that nobody has, asked at its use": [
        Step(BECOME, "        if child.alone:\n", "        if False:\n"),
        Step(CUSTODY, "range(3 * (alone and len(self.pool) > MANY))", "range(0)"),
    ],
    "no set-ID mode (rows of the filter)": [
        Step(SECCOMP, "in MODES.items():", "in ():"),
        Step(SECCOMP, "in OPENS.items():", "in ():"),
        Step(SECCOMP, ROWS, ""),
    ],
    "limits": [Step(BECOME, "in child.limits:", "in ():")],
    "what is left is removed": [
        Step(
            CUSTODY,
            "                self.littered[child.uid] = 0\n",
            "                self.pool.append(child.uid)\n",
        )
    ],
    "what the living leave is measured": [
        Step(CUSTODY, "            self._measure()\n", "            self.measure_at = 0.0\n")
    ],
    "who else has the uid, asked at a kill": [
        Step(CUSTODY, "                self._see(alive, self.ranges[0])\n", "                pass\n")
    ],
    "the death signal stays": [
        Step(
            BECOME, "    prctl.set_pdeathsig(signal.SIGKILL if child.session else signal.SIGTERM)", "    pass"
        ),
        Step(SECCOMP, '    rows += when_argument("prctl", 0,', '    when_argument("prctl", 0,'),
    ],
    "each step is asked back by the child": [Step(BECOME, "in check(child).items():", "in ():")],
    "the look from outside": [
        Step(CUSTODY, '        why = "" if helper.exited else doubt(helper)\n', '        why = ""\n')
    ],
    "(without the fork ahead)": [
        Step(CUSTODY, "        if not self.blank and not self.ending:\n", "        if False:\n")
    ],
    "(without its rehearsal)": [
        Step(
            LAUNCHER,
            "                self.custody.blank.rehearse(",
            "                (lambda child: os.close(child.program))(",
        )
    ],
}
"""What each takes away; the last two make a launch fast, and cost something only where they are missing."""


def mutated(name: str, steps: list[Step]) -> str:
    """A copy of the package without a guarantee; return where it is."""
    place = f"{STAGE}/without-{len(os.listdir(STAGE))}"
    shutil.copytree(LIBRARY, place, symlinks=True)
    for step in steps:
        path = Path(place, "helperd", step.file)
        text = path.read_text()
        if step.old not in text:
            raise AssertionError(f"nothing to take away: {name}: {step.old!r}")
        path.write_text(text.replace(step.old, step.new, 1))
    return place


def launches(asker: Asker) -> list[tuple[float, ...]]:
    """Launch some, one after the other; return the seconds of each."""
    found = []
    for _ in range(BURST):
        began = time.perf_counter()
        helper = Running(asker, 1)
        answered = time.perf_counter()
        helper.line()
        spoke = time.perf_counter()
        helper.kill()
        found.append((answered - began, spoke - began, time.perf_counter() - spoke))
        helper.close()
    return found


class At(Stage):
    """The stage, with another copy of the package."""

    library = LIBRARY

    def argv(self, config: str, *args: str) -> list[str]:
        """Return a launcher's command line."""
        return [word.replace(f"{LIBRARY}/", f"{self.library}/") for word in super().argv(config, *args)]


def prices(count: int, rounds: int) -> dict[str, list[list[float]]]:
    """Per guarantee and column: p50 and p99 in milliseconds without it, the medians of the rounds."""
    stage, dice = At(), random.Random(1)
    ballast = bytearray(os.urandom(1 << 20) * 300)  # what a supervisor with full queues weighs
    text = CONFIG.format(python=interpreter(), hello=HELLO)
    times: dict[str, list[list[tuple[float, ...]]]] = {name: [] for name in GUARANTEES}
    with contextlib.ExitStack() as stack:
        askers = {}
        for name, steps in GUARANTEES.items():
            stage.library = mutated(name, steps)
            askers[name] = stack.enter_context(stage.launcher(own_pool() + text))
            launches(askers[name])
        for _ in range(rounds):
            for each in times.values():
                each.append([])
            for _ in range(max(1, count // BURST)):
                for name in dice.sample(list(askers), len(askers)):
                    times[name][-1] += launches(askers[name])
                    time.sleep(0.01)
    assert len(ballast) == 300 << 20
    return {
        name: [
            [
                statistics.median(
                    1000 * sorted(row[column] for row in one)[len(one) * share // 100] for one in all_
                )
                for share in (50, 99)
            ]
            for column in range(len(COLUMNS))
        ]
        for name, all_ in times.items()
    }


def table(found: dict[str, list[list[float]]]) -> str:
    """What was found, and what each costs beside all of them."""
    heads = ("pidfd p50", "(cost)", "p99", "byte p50", "(cost)", "empty p50", "(cost)")
    lines = [f"{'without':48}" + "".join(f"{head:>10}" for head in heads)]
    for name, columns in found.items():
        (p50, p99), (byte, _), (empty, _) = columns
        costs = [base[0] - value[0] for base, value in zip(found["all"], columns, strict=True)]
        values = (p50, costs[0], p99, byte, costs[1], empty, costs[2])
        forms = ("10.2f", "+10.2f", "10.2f", "10.2f", "+10.2f", "10.2f", "+10.2f")
        lines.append(f"{name:48}" + "".join(format(*each) for each in zip(values, forms, strict=True)))
    return "\n".join(lines)
