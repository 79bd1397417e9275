"""``helperd launcher``: what it says where its socket cannot be made."""

from __future__ import annotations

import importlib
import os
import pkgutil
from pathlib import Path

import pytest

import helperd
from helperd import cli
from helperd.cli import launcher
from helperd.runtime import LAUNCHER_SOCKET
from tests.rig import ROOT, let_in

ROOTS = "this machine's launcher is root's: sudo helperd launcher; for one of your own: --listen PATH"


@pytest.mark.need("root", "uid65534")
@pytest.mark.parametrize(
    ("path", "says"),
    [
        (LAUNCHER_SOCKET, ROOTS),
        ("/nowhere/of/mine/socket", "/nowhere/of/mine does not exist; mkdir -p /nowhere/of/mine"),
        ("/sys/socket", "this user may not make a socket there; choose another --listen PATH"),
        ("{tmp}/closed/socket", "this user may not make a socket there; choose another --listen PATH"),
    ],
)
def test_a_launcher_says_where_its_socket_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str, says: str
) -> None:
    (tmp_path / "closed").mkdir(mode=0o755)
    let_in(tmp_path)
    listen = path.format(tmp=tmp_path)
    assert launcher.SOCKET == LAUNCHER_SOCKET
    for module in pkgutil.walk_packages(helperd.__path__, "helperd."):  # while this user may read them
        if module.name.startswith(("helperd.cli.", "helperd.config.")) and "__" not in module.name:
            importlib.import_module(module.name)
    os.seteuid(65534)
    try:
        config = str(ROOT / "config" / "helpers.toml")
        assert cli.main(["launcher", "--config", config, "--listen", listen]) == 69
    finally:
        os.seteuid(0)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"helperd: no-runtime-dir: {listen}: ")
    assert line.endswith(says)
