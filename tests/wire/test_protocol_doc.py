"""docs/protocol.md says what the code does."""

import re
import subprocess
import sys
from pathlib import Path

from helperd.errors import PROBLEMS
from helperd.wire import bulk
from helperd.wire.frames import MAX_FRAME
from helperd.wire.generations import GENERATIONS
from helperd.wire.session import ALLOWED, render_table

ROOT = Path(__file__).resolve().parent.parent.parent
TEXT = (ROOT / "docs" / "protocol.md").read_text()


def test_the_state_table_is_the_codes():
    done = subprocess.run(
        [sys.executable, "scripts/protocol-table", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_table_has_every_message_of_both_roles_once():
    lines = [line.split("|")[1].strip() for line in render_table().splitlines() if line.startswith("| ")]
    for role, table in ALLOWED.items():
        assert sorted(kind.__name__ for kind in table) == sorted(lines[1 : len(table) + 1]), role
        del lines[: len(table) + 1]
    assert not lines


def test_the_words_of_refusal_are_problem_words():
    section = TEXT.partition("## Refusals")[2].partition("## ")[0]
    words = re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE)
    assert len(words) == 9
    assert set(words) <= set(PROBLEMS)


def test_the_numbers_are_the_codes():
    assert f"`0x{bulk.TYPE:04X}`" in TEXT
    assert f"`{bulk.SUBSYSTEM}`" in TEXT
    assert f"key {bulk.KEY}" in TEXT
    assert f"at most {bulk.MAX_PACKET:,}" in TEXT
    assert MAX_FRAME == 1 << 20
    for generation in GENERATIONS:
        assert f"{generation.receiver_limit:,} bytes per frame" in TEXT
        assert f"wire/{generation.name}.py" in TEXT
