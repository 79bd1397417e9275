"""Reload with many real sources: only what changed restarts, nobody else loses a packet, a broken file changes nothing.

HELPERD_RELOAD_SOURCES=200   how many sources (200 C helpers; 40 of ours where there is no compiler)
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.restart import compiled
from helperd.control.client import ControlError
from tests.faults.witness import Reader, balance
from tests.patience import HANGS_S
from tests.rig import HELPERD, Rig, daemon

HEAD = """
[helperd]
implicit_sinks = true

[[helper]]
name = "radio"
command = ["{command}"]
types = ["{kind}"]
exclusive = false
"""
SOURCE = """
[[source]]
name = "r{number}"
definition = "radio{radio}:type={kind},rate={rate},uuid=00000000-0000-0000-0000-{number:012}"
"""


class Scene:
    """The daemon, its file, and a consumer of everything."""

    def __init__(self, rig: Rig, command: str, sources: int, reader: Reader) -> None:
        self.rig, self.command, self.reader = rig, command, reader
        self.kind = "synthetic" if command.startswith("builtin:") else "radio"
        self.numbers = list(range(sources))
        self.file = rig.runtime / "helpers.toml"

    def text(self, *, order: int = 1, **rates: int) -> str:
        each = (
            SOURCE.format(number=number, radio=number % 4, kind=self.kind, rate=rates.get(f"r{number}", 20))
            for number in self.numbers[::order]
        )
        return HEAD.format(command=self.command, kind=self.kind) + "".join(each)

    def pids(self) -> dict[str, int]:
        return {row["name"]: row["pid"] for row in self.rig.status()["sources"]}

    def reload(self, text: str) -> dict[str, Any]:
        """As often as one likes: the launcher reads its file once a second, and is waited for."""
        self.file.write_text(text)
        return self.rig.call("Reload")

    def streams_on(self) -> None:
        """Wait for another packet of every source."""
        before = dict(self.reader.packets)
        limit = time.monotonic() + HANGS_S
        while any(
            self.reader.packets[f"r{number}"] <= before.get(f"r{number}", 0) for number in self.numbers
        ):
            assert time.monotonic() < limit
            assert self.reader.failure is None, repr(self.reader.failure)
            time.sleep(0.02)


@contextlib.contextmanager
def scene(folder: Path) -> Iterator[Scene]:
    """A daemon to which the sources came by a reload already."""
    program = compiled(folder)
    count = int(os.environ.get("HELPERD_RELOAD_SOURCES", "200" if program else "40"))
    command = str(program or "builtin:synthetic")
    with daemon(folder, HEAD.format(command=command, kind="radio" if program else "synthetic")) as rig:
        reader = Reader(rig.connect())
        reader.start()
        found = Scene(rig, command, count, reader)
        try:
            assert len(found.reload(found.text())["start"]) == count
            rig.wait_running(timeout=60)
            found.streams_on()
            yield found
        finally:
            reader.close()


def unhurt(scene: Scene, *but: str) -> None:
    """Everybody streams on, and no packet is missing: at the consumer, and in the ledger."""
    scene.streams_on()
    for name in but:
        scene.reader.lost_between.pop(name, None)
    assert not scene.reader.lost_between
    status = scene.rig.status()
    assert balance(status) == []
    assert not any(consumer["lost"] for consumer in status["consumers"])
    assert {row["name"] for row in status["sources"] if row["lost"].keys() - {"no-consumer"}} <= set(but)


def comments_and_order_change_nothing(scene: Scene) -> None:
    before = scene.pids()
    for text in (f"# a remark\n{scene.text()}\n# another\n", scene.text(order=-1)):
        what = scene.reload(text)
        assert {word: names for word, names in what.items() if names and word != "keep"} == {}
        assert len(what["keep"]) == len(before)
        assert scene.pids() == before
    unhurt(scene)


def one_changed_source_is_one_changed_process(scene: Scene) -> None:
    before = scene.pids()
    what = scene.reload(scene.text(r7=40))
    assert (what["replace"], what["start"], what["stop"], what["adjust"]) == (["r7"], [], [], [])
    limit = time.monotonic() + HANGS_S
    while (after := scene.pids())["r7"] in {before["r7"], None}:
        assert time.monotonic() < limit
        time.sleep(0.01)
    assert {name for name in before if after[name] != before[name]} == {"r7"}
    unhurt(scene, "r7")
    assert {row["name"] for row in scene.rig.status()["sources"] if row["incarnation"] != 1} == {"r7"}


def a_broken_file_changes_nothing_and_is_told_with_its_line(scene: Scene) -> None:
    before, good = scene.pids(), scene.file.read_text()
    broken = good.replace('name = "r5"', 'name = "r5"\nspeed = 3')
    line = broken[: broken.index("speed")].count("\n") + 1
    with pytest.raises(ControlError) as refused:
        scene.reload(broken)
    assert f"helpers.toml:{line}" in str(refused.value)
    argv = [*HELPERD, "reload", f"--runtime-dir={scene.rig.runtime}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=HANGS_S)
    assert done.returncode == 78, done
    assert f"helpers.toml:{line}" in done.stderr
    assert "speed" in done.stderr
    scene.rig.process.send_signal(signal.SIGHUP)  # to the launcher, as whoever has started `helperd run` does
    limit = time.monotonic() + HANGS_S
    while "reload refused, nothing changed" not in (scene.rig.runtime / "log").read_text():
        assert time.monotonic() < limit
        time.sleep(0.02)
    assert scene.pids() == before
    unhurt(scene, "r7")
    scene.reload(good)
    assert scene.pids() == before


@pytest.mark.timeout(150)
def test_a_reload_of_many_sources_touches_what_changed_alone(rundir: Path) -> None:
    with scene(rundir) as found:
        comments_and_order_change_nothing(found)
        one_changed_source_is_one_changed_process(found)
        a_broken_file_changes_nothing_and_is_told_with_its_line(found)
    (rundir / "streamer").unlink(missing_ok=True)
