"""Every recipe of docs/recipes.md is carried out as printed, under root's launcher, unless it needs hardware."""

from __future__ import annotations

from typing import Any

import pytest

from tests.attack import stage
from tests.recipes import COOKS, ELSEWHERE, FOREIGN, NEEDS, sections

pytestmark = pytest.mark.timeout(300)


def test_every_recipe_is_carried_out_or_needs_hardware() -> None:
    said = "give it a cook in tests/recipes.py, or a reason in FOREIGN"
    assert sorted([*COOKS, *ELSEWHERE, *FOREIGN]) == sorted(sections()), said


@pytest.mark.need("root", "netns", "mountns", "seccomp", "landlock", "ip", "overlay")
@pytest.mark.skipif(
    not stage.interpreter(),
    reason="no Python of this version that any user may execute (is it in root's home?)",
)
@pytest.mark.parametrize(
    "heading", [pytest.param(heading, marks=pytest.mark.need(*NEEDS[heading])) for heading in COOKS]
)
def test_a_recipe_as_printed(heading: str) -> None:
    rows: list[Any] = stage.run("tests.recipes", heading, timeout=200)
    assert [row["recipe"] for row in rows] == [heading]
    assert not rows[0]["wrong"], "\n".join(rows[0]["wrong"])
