"""A type that no helper serves: what would serve it, where helperd has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from helperd import config, drivers
from helperd.errors import UsageError

BLOCK = '[[helper]]\nname = "other"\ncommand = ["/usr/bin/true"]\ntypes = ["other"]\n'
SAID = "no [[helper]] serves type {!r}; configured types: other"


@pytest.mark.parametrize("kind", ["interface", "pcapfile", "synthetic", "nosuch"])
@pytest.mark.parametrize("installed", [True, False])
def test_a_type_of_ours_comes_with_the_block_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, installed: bool
) -> None:
    there = tmp_path / "helpers.toml"
    if installed:
        there.write_text("")
    monkeypatch.setattr(drivers, "INSTALLED", str(there))
    helpers = config.parse(BLOCK, "x.toml").helpers
    with pytest.raises(UsageError) as caught:
        drivers._named(helpers, f"x:type={kind}", None)
    said = SAID.format(kind)
    if kind != "nosuch":
        file = f"--config {there} has it, or " if installed else ""
        said += f'; it comes with helperd: {file}write a block with command = ["builtin:{kind}"]'
    assert caught.value.text == said
