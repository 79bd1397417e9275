"""What ``scripts/test --quick`` runs starts nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import pure


@pytest.mark.parametrize(
    ("line", "is_pure"),
    [
        ("import json", True),
        ("import subprocess", False),
        ("from subprocess import run", False),
        ("import os\nos.fork()", False),
        ("import trio", False),
        ("from tests.patience import HANGS_S", True),
        ("from tests.rig import daemon", False),
        ("from tests.helpers import peer", False),
        ("from tests import pure, rig", False),
    ],
)
def test_a_file_is_known_by_what_it_and_its_own_import(tmp_path: Path, line: str, is_pure: bool) -> None:
    file = tmp_path / "test_x.py"
    file.write_text(line + "\n")
    assert pure.is_pure(file) is is_pure


def test_the_wire_is_pure_and_a_daemon_is_not() -> None:
    found = {
        str(path.relative_to(pure.ROOT))
        for path in pure.ROOT.glob("tests/**/test_*.py")
        if pure.is_pure(path)
    }
    assert {"tests/wire/test_frames.py", "tests/lifecycle/test_life.py", "tests/test_relay.py"} <= found
    assert not {"tests/test_soak.py", "tests/cli/test_tap.py", "tests/attack/test_attack.py"} & found
