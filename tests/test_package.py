"""The Debian package: built from this checkout, judged by lintian, and, when asked for, tried in a fresh Debian.

Environment:
  HELPERD_TEST_PACKAGE  `yes`: install, run and purge it in a tree made by debootstrap; takes minutes and the network.
  HELPERD_TRIAL_BASE    such a tree, made before.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.rig import ROOT


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("needs dpkg-deb: this is no Debian")
    done = subprocess.run(
        [str(ROOT / "scripts" / "package"), str(tmp_path_factory.mktemp("dist"))],
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def field(package: Path, name: str) -> str:
    return subprocess.run(
        ["dpkg-deb", "-f", str(package), name], capture_output=True, text=True, check=True
    ).stdout.strip()


def contents(package: Path) -> dict[str, str]:
    """Path to mode of everything in it."""
    lines = subprocess.run(
        ["dpkg-deb", "-c", str(package)], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert all(" root/root " in line for line in lines)
    return {line.split()[5].removeprefix("."): line.split()[0] for line in lines}


def test_it_asks_for_what_the_program_asks_for(package: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    depends = dict(re.findall(r"([a-z0-9-]+) \(>= ([0-9.]+)\)", field(package, "Depends")))
    wished = [*project["dependencies"], *project["optional-dependencies"]["root"]]
    for text in wished:
        wanted = Requirement(text)
        debian = "python3-" + wanted.name.removeprefix("python-")
        (least,) = wanted.specifier
        assert least.operator == ">="
        assert depends[debian] == least.version, text
    assert len([name for name in depends if name.startswith("python3-")]) == len(wished)
    assert f">={depends['python3']}" == project["requires-python"]


def test_it_holds_all_that_is_installed(package: Path) -> None:
    found = contents(package)
    for path in (
        "/usr/bin/helperd",
        "/usr/bin/helperd-extcap",
        "/etc/helperd/helpers.toml",
        "/usr/lib/systemd/system/helperd.service",
        "/usr/lib/systemd/system/helperd-launcher.service",
        "/usr/lib/systemd/system/helperd-launcher.socket",
        "/usr/lib/sysusers.d/helperd.conf",
        "/usr/share/man/man1/helperd-extcap.1.gz",
        "/usr/share/man/man5/helpers.toml.5.gz",
        "/usr/share/man/man8/helperd.8.gz",
        "/usr/share/bash-completion/completions/helperd",
        "/usr/share/zsh/vendor-completions/_helperd",
        "/usr/share/fish/vendor_completions.d/helperd.fish",
        "/usr/lib/helperd/helperd/control/io.helperd.varlink",
        "/usr/lib/helperd/helperd/share/helpers.toml",
        "/usr/lib/helperd/helperd/share/demo.pcapng",
    ):
        assert path in found, path
    assert any(path.endswith("/wireshark/extcap/helperd-extcap") for path in found)
    assert not [path for path, mode in found.items() if "w" in mode[4:] and not mode.startswith("l")]
    for source in (ROOT / "helperd").rglob("*.py"):
        assert f"/usr/lib/helperd/{source.relative_to(ROOT)}" in found
    assert not [path for path in found if "__pycache__" in path or path.endswith(".pyc")]


def test_the_same_checkout_gives_the_same_package(package: Path, tmp_path: Path) -> None:
    subprocess.run(
        [str(ROOT / "scripts" / "package"), str(tmp_path)],
        env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}, check=True, capture_output=True, timeout=100,
    )  # fmt: skip
    again = tmp_path / package.name
    assert contents(again) == contents(package)


def test_lintian_has_no_error_and_no_warning(package: Path) -> None:
    if shutil.which("lintian") is None:
        pytest.skip("needs lintian: apt install lintian")
    done = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error,warning", str(package)],
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


if os.environ.get("HELPERD_TEST_PACKAGE") == "yes":

    @pytest.mark.need("root", "mountns")
    def test_it_installs_runs_and_goes_without_a_trace(package: Path) -> None:
        done = subprocess.run(
            [str(ROOT / "scripts" / "package-trial"), str(package)],
            capture_output=True, text=True, check=False, timeout=900,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert "no trace" in done.stdout
