"""Every kind of fault, in real processes under a real daemon; and what must hold of all of them.

HELPERD_FAULT_RUNS=50   how often each kind is played (3)
"""

from __future__ import annotations

import collections
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.kinds import KINDS, Kind
from tests.faults.stage import Stage, fixed, helper, stage

RUNS = int(os.environ.get("HELPERD_FAULT_RUNS", "3"))
TABLE: dict[str, tuple[str, int, float]] = collections.OrderedDict()


def unstartable(folder: Path) -> Iterator[str]:
    """Helpers that cannot start; what is wrong with their files comes about after the daemon has read the file."""
    for name, text in (
        ("missing", "#!/bin/sh\n"),
        ("plain", "no code\n"),
        ("homeless", "#!/no/such/thing\n"),
    ):
        file = folder / name
        file.write_text(text)
        file.chmod(0o755)
        yield helper(name, command=[str(file)])
    yield helper("lacking", command=["/bin/sh", "-c", "exit 127"])


@pytest.fixture(scope="module")
def scene() -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="hd-") as name:
        folder = Path(name)
        small = helper("small").replace("needs_child", 'limits = { as = "120MiB" }\nneeds_child')
        more = (
            *unstartable(folder),
            small,
            helper("brief", grace="100ms"),
            helper("owner", exclusive=True),
            helper("thief", grace="100ms", exclusive=True),
            helper("mute", "silence"),
            helper("strange", "wrong-version"),
            helper("farewell", "farewell"),
            helper("wrapper", children=1),
            helper("careless", children=1, reaction="alert"),
            fixed(),
        )
        with stage(folder, *more) as found:
            (folder / "missing").unlink()
            (folder / "plain").chmod(0o644)
            yield found


@pytest.mark.timeout(60 + 30 * RUNS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.number}-{kind.name.replace(' ', '-')}")
def test_a_fault_costs_its_own_helper_and_nothing_else(scene: Stage, kind: Kind) -> None:
    runs = 1 if kind.slow and RUNS <= 3 else RUNS
    began = time.monotonic()
    for _ in range(runs):
        try:
            with scene.witnessed() as witness:
                kind.play(scene)
            scene.settled()
        except BaseException:
            scene.recover()
            raise
    TABLE[kind.number] = (kind.name, runs, (time.monotonic() - began) / runs)
    print(f"asked {witness.asked} times, slowest {witness.slowest * 1000:.0f} ms")


def test_the_catalogue_is_complete() -> None:
    """The last in this file: prints the table."""
    print()
    for number, (name, runs, seconds) in TABLE.items():
        print(f"{number:>4}  {name:60} {runs:4} runs  {seconds:6.2f} s each")
    assert len(KINDS) >= 35
