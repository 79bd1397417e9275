"""A step of the wall clock changes nothing: nobody reads it to decide, and a daemon that is stepped shows it.

Where it is read at all is listed here, function by function: times for people, and stamps of packets.
"""

from __future__ import annotations

import ast
import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.faults.stage import BUILTIN, HEAD, helper
from tests.faults.wall import WallClock
from tests.patience import HANGS_S
from tests.rig import daemon

WALL = {
    "time": {"time", "time_ns", "localtime", "gmtime", "ctime", "asctime", "strftime", "CLOCK_REALTIME"},
    "datetime": {"now", "today", "utcnow"},
    "date": {"today"},
}
STAMPS = {
    "bus.MessageBus.post": "a message is shown with its time",
    "logs.Log.write": "so is a log line",
    "logs.Log._serve": "and the count of those that were folded",
    "view.LiveView.write": "and one on a terminal",
    "source.Source._translate": "packets that come without a time get that of their arrival",
    "sinks.files": "files are named by the clock, and begin at its marks where the user asks for that",
    "sinks.naming": "so their names",
    "sinks.forms": "statistics blocks carry a time",
    "helpers": "helpers stamp packets; they are processes of their own",
    "cli": "commands are processes of their own, and print",
}


def reads(path: Path, module: str) -> Iterator[tuple[str, int]]:
    """Where a file reads the wall clock: the dotted name of the function, and the line."""
    tree = ast.parse(path.read_text(), str(path))
    alias: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in {"time", "datetime"}:
            for name in node.names:
                if name.name in WALL.get(node.module, ()):
                    yield f"{module} import", node.lineno
                alias[name.asname or name.name] = name.name
        elif isinstance(node, ast.Import):
            alias |= {name.asname: name.name for name in node.names if name.asname}

    def walk(node: ast.AST, where: str) -> Iterator[tuple[str, int]]:
        for child in ast.iter_child_nodes(node):
            inner = where
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = f"{where}.{child.name}"
            if isinstance(child, ast.Attribute):
                owner = ast.unparse(child.value).rpartition(".")[2]
                if child.attr in WALL.get(alias.get(owner, owner), ()):
                    yield where, child.lineno
            yield from walk(child, inner)

    yield from walk(tree, module)


def test_nobody_reads_the_wall_clock_to_decide_anything(root: Path) -> None:
    found, used = {}, set()
    for path in sorted((root / "helperd").rglob("*.py")):
        module = ".".join(path.relative_to(root / "helperd").with_suffix("").parts)
        for where, line in reads(path, module):
            stamp = next((name for name in STAMPS if where == name or where.startswith(f"{name}.")), None)
            used.add(stamp)
            if stamp is None:
                found[f"{where}, line {line}"] = path.read_text().splitlines()[line - 1].strip()
    assert not found, f"the wall clock is read where it may decide something: {found}"
    assert set(STAMPS) <= used, f"not so any more: {set(STAMPS) - used}"


def test_the_search_finds_what_it_is_to_find(tmp_path: Path) -> None:
    file = tmp_path / "room.py"
    file.write_text(
        "import time\nimport time as t\nfrom datetime import datetime as d\nfrom time import time_ns\n"
        "class A:\n    def b(self):\n        return time.time(), t.gmtime(), d.now()\n"
        "async def c():\n    time.clock_gettime(time.CLOCK_REALTIME)\n    return time.monotonic()\n"
    )
    assert list(reads(file, "room")) == [
        ("room import", 4),
        ("room.A.b", 7),
        ("room.A.b", 7),
        ("room.A.b", 7),
        ("room.c", 9),
    ]


CONFIG = f"""
{HEAD}
log_format = "json"
{BUILTIN}
{helper("bad")}
[[helper]]
name = "lacking"
command = ["builtin:interface"]
capabilities = ["sys_resource", "mac_admin"]
types = ["lacking"]
[[source]]
name = "streams"
definition = "radio0:type=synthetic,rate=100"
[[source]]
name = "idle"
definition = "radio1:type=synthetic,rate=0.001"
silence = "10m"
[[source]]
name = "theirs"
definition = "bad0:type=bad,rate=0"
[[source]]
name = "tool"
definition = "bad0:type=bad,rate=0"
[[source]]
name = "waits"
definition = "x:type=lacking"
"""


def by_name(status: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in status["sources"]}


def last_stamp(log: Path) -> float:
    """Wall-clock seconds of the log's last line."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return datetime.fromisoformat(lines[-1]["time"]).timestamp()


def test_a_step_of_the_wall_clock_moves_stamps_and_nothing_else(
    rundir: Path, need, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon's own clock, an hour on and two hours back; longer than any deadline, so that a verdict would show."""
    need("gcc")
    wall = WallClock(rundir)
    for name, value in wall.environment.items():
        monkeypatch.setenv(name, value)
    with daemon(rundir, CONFIG) as rig:
        rig.wait_running("streams", "idle", "theirs", "tool")
        before = rig.wait(lambda status: by_name(status)["waits"]["state"] == "backoff")
        before = by_name(before)
        left = before["waits"]["next_try_s"]
        tries_at = time.monotonic() + left
        assert left > 20  # else it is over before anything is seen
        for seconds, verb in ((3600, "Restart"), (-3600, "Stop")):
            wall.step(seconds)
            rig.call(verb, source="tool")  # a line in the log, with its time
            limit = time.monotonic() + HANGS_S
            while abs(last_stamp(rundir / "log") - time.time() - seconds) > 60:
                assert time.monotonic() < limit, "the daemon's clock was not stepped"
                time.sleep(0.05)
            until = time.monotonic() + 3.2  # longer than a silence that is judged
            while time.monotonic() < until:
                now = by_name(rig.status())
                for name in ("streams", "idle", "theirs"):
                    row = now[name]
                    assert (row["pid"], row["verdict"]) == (before[name]["pid"], "ok"), row
                found, expected = now["waits"]["next_try_s"], tries_at - time.monotonic()
                assert expected < 5 or abs(found - expected) < 5, "its next try was moved"
                time.sleep(0.1)
