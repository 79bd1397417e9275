"""The end of a replay is an end: a file that is damaged is delivered once, and again only when it has changed."""

from __future__ import annotations

import contextlib
import gzip
import os
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from helperd import replay
from tests.helpers.test_capturefile import enhanced, interface, pcap, section
from tests.helpers.test_pcapfile import kismet_log
from tests.patience import HANGS_S
from tests.rig import Rig, daemon

LITTLE = bytes.fromhex("d4c3b2a1")
SECOND = 1_700_000_000
PACKETS = [((SECOND + number) * 10**9, bytes([number]) * 60, 60) for number in range(5)]
WHOLE = pcap(LITTLE, PACKETS)


def damaged_log(path: Path) -> None:
    rows = [(SECOND + n, 0, 1, bytes([n & 255]) * 500, 500, 0, 0) for n in range(2000)]
    data = bytearray(Path(kismet_log(path, rows)).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 20_000] = b"\xff" * 20_000
    path.write_bytes(data)


def bytes_of(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


# What is wrong with the file: who writes it, how many packets can be read of it, None: not known before.
FAULTS: dict[str, tuple[Callable[[Path], object], int | None]] = {
    "cut": (bytes_of(WHOLE[:-7]), 4),
    "cut-in-a-head": (bytes_of(WHOLE[:-70]), 4),
    "damaged": (bytes_of(WHOLE[: 24 + 2 * 76] + b"\xff" * 200), 2),
    "cut-pcapng": (
        bytes_of((section("<") + interface("<", 1) + enhanced("<", 0, 5, b"abc", 3) * 3)[:-3]),
        2,
    ),
    "cut-gz": (bytes_of(gzip.compress(WHOLE)[:-4]), 5),
    "kismet": (damaged_log, None),
    "empty": (bytes_of(b""), 0),
    "text": (bytes_of(b"no capture at all, but a text"), 0),
}
SINK = '[[sink]]\ntype = "unix"\npath = "kept.sock"\noverflow = "wait"\n'


def source(name: str, file: Path, restart: str) -> str:
    return (
        f'[[source]]\nname = "{name}"\ndefinition = "{file}:type=pcapfile,realtime=false"\n'
        f'start = "first-consumer"\nrestart = "{restart}"\n'
    )


HELPER = '[[helper]]\nname = "pcapfile"\ncommand = ["builtin:pcapfile"]\ntypes = ["pcapfile"]\n'


def rows(rig: Rig, ready: Callable[[dict[str, Any]], bool]) -> dict[str, dict[str, Any]]:
    status = rig.wait(lambda now: all(map(ready, now["sources"])))
    return {row["name"]: row for row in status["sources"]}


def ended(row: dict[str, Any], *, incarnation: int = 1) -> bool:
    return row["incarnation"] == incarnation and row["state"] == "down"


def test_a_damaged_file_is_delivered_once_and_again_when_it_has_changed(tmp_path: Path) -> None:
    text = HELPER + SINK
    policies = ("transient", "permanent")
    for number, (fault, (write, _)) in enumerate(FAULTS.items()):
        write(tmp_path / fault)
        text += source(fault, tmp_path / fault, policies[number % 2])
    with daemon(tmp_path, text) as rig, rig.connect("kept.sock") as sock:
        found = rows(rig, ended)
        for fault, (_, packets) in FAULTS.items():
            row = found[fault]
            assert (row["why"], row["wanted"], row["crash_loop"]) == ("done", "up", False), row
            assert (row["exit"]["kind"], row["exit"]["problem"]) == ("input", "bad-capture"), row
            assert str(tmp_path / fault) in row["exit"]["text"], row
            assert packets is None or row["packets"] == packets, row
        assert found["kismet"]["packets"] > 500
        rig.call("Restart", source="cut")
        again = rig.wait(
            lambda now: all(row["name"] != "cut" or ended(row, incarnation=2) for row in now["sources"])
        )
        assert next(row["packets"] for row in again["sources"] if row["name"] == "cut") == 8
        before = {name: row["packets"] for name, row in found.items()} | {"cut": 8}
        for fault in FAULTS:
            fresh = tmp_path / "fresh"
            fresh.write_bytes(WHOLE)
            os.replace(fresh, tmp_path / fault)
        done = rig.wait(
            lambda now: all(
                row["packets"] >= before[row["name"]] + 5 and row["exit"]["problem"] == "done"
                for row in now["sources"]
            )
        )
        assert all(row["packets"] == before[row["name"]] + 5 for row in done["sources"][::2]), (
            "transient: once"
        )
        told = (tmp_path / "log").read_text()
        assert "stays down, until its file has changed" in told
        assert f"{tmp_path / 'cut'} has changed: tried again" in told
        sock.close()


def test_a_temporary_source_is_not_tried_again_and_an_order_to_stop_is_kept(tmp_path: Path) -> None:
    for name in ("once", "stopped", "witness"):
        (tmp_path / name).write_bytes(WHOLE[:-7])
    text = HELPER + source("once", tmp_path / "once", "temporary")
    text += "".join(source(name, tmp_path / name, "transient") for name in ("stopped", "witness"))
    with daemon(tmp_path, text.replace("first-consumer", "boot")) as rig:
        rows(rig, ended)
        rig.call("Stop", source="stopped")
        for name in ("once", "stopped", "witness"):
            (tmp_path / name).write_bytes(WHOLE)
        rig.wait(lambda now: next(row for row in now["sources"] if row["name"] == "witness")["packets"] >= 9)
        found = {row["name"]: row for row in rig.status()["sources"]}
        assert [found[name]["incarnation"] for name in ("once", "stopped")] == [1, 1]


PROGRAM = """
import sys
sys.stdout.buffer.write(open({file!r}, "rb").read())
"""


@pytest.mark.parametrize("how", ["program", "fifo"])
def test_a_damaged_stream_of_something_that_lives_is_an_accident(tmp_path: Path, how: str) -> None:
    file = tmp_path / "cut"
    file.write_bytes(WHOLE[:-7])
    if how == "program":
        script = tmp_path / "program.py"
        script.write_text(PROGRAM.format(file=str(file)))
        command = f'["builtin:pipe", "--", "{sys.executable}", "{script}"]'
        name = "live"
    else:
        command, name = '["builtin:pipe"]', str(tmp_path / "live")
        os.mkfifo(name)
    text = (
        f'[[helper]]\nname = "live"\ncommand = {command}\ntypes = ["live", "pipe"]\n'
        f'[[source]]\nname = "live"\ndefinition = "{name}:type={"live" if how == "program" else "pipe"}"\n'
        'restart = "transient"\n'
    )
    with daemon(tmp_path, text) as rig:
        for turn in (1, 2):
            if how == "fifo":
                with open(name, "wb") as fifo:
                    fifo.write(WHOLE[:-7])
            rig.wait(lambda now, turn=turn: now["sources"][0]["packets"] >= 4 * turn)
        row = rig.wait(lambda now: now["sources"][0]["exit"] is not None)["sources"][0]
        assert (row["exit"]["kind"], row["exit"]["problem"]) == ("accident", "bad-capture")


async def test_a_file_that_still_changes_is_not_tried(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Any
) -> None:
    before = replay.Seen(1, 1, 1, 1)
    file: list[replay.Seen | None] = [before]

    async def look(_path: str) -> replay.Seen | None:
        await trio.lowlevel.checkpoint()
        return file[-1]

    monkeypatch.setattr(replay, "look", look)
    came = trio.Event()

    async def wait() -> None:
        await replay.wait_changed("/x", before)
        came.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(30)
        assert not came.is_set(), "it has not changed"
        for size in range(2, 12):
            file.append(replay.Seen(1, 1, size, size))
            await trio.sleep(1.5)
        assert not came.is_set(), "it is still being written"
        file.append(None)
        await trio.sleep(30)
        assert not came.is_set(), "it is not there"
        file.append(replay.Seen(1, 2, 5, 99))
        written_at = trio.current_time()
        with trio.fail_after(HANGS_S):
            await came.wait()
        assert replay.SETTLE_S <= trio.current_time() - written_at <= replay.SETTLE_S + 3 * replay.LOOK_S


async def test_what_is_no_regular_file_is_not_looked_at(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in ("wlan0", str(tmp_path), str(tmp_path / "fifo"), "/nowhere/x", "/with\0nul"):
        assert await replay.look(path) is None
    with contextlib.closing(sqlite3.connect(tmp_path / "db")) as database:
        database.execute("CREATE TABLE t (x)")
    assert await replay.look(str(tmp_path / "db")) is not None
