"""The newcomer's scripts: what they do when all is well, when nothing is to do, and when they cannot."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.patience import HANGS_S, promptly
from tests.rig import ROOT

BASE = os.path.realpath(sys._base_executable)  # the interpreter that .venv was made with
BARE = (
    "bash",
    "env",
    "cat",
    "sha256sum",
    "readlink",
    "dirname",
    "flock",
    "grep",
    "sed",
    "mkdir",
    "mv",
    "rm",
    "chmod",
    "wc",
    "find",
    "getent",
    "cut",
    "head",
)


def tree(folder: Path, root: Path, pins: str = "") -> Path:
    """A checkout with the real scripts, a package that is all but empty, and these pins: builds without a network."""
    checkout = folder / "a check out"
    (checkout / "helperd").mkdir(parents=True)
    (checkout / "helperd" / "__init__.py").write_text("")
    (checkout / "helperd" / "extcap").mkdir()
    for module, name in (("cli.py", "helperd"), ("extcap/__init__.py", "helperd-extcap")):
        (checkout / "helperd" / module).write_text(
            f"import sys\ndef main():\n    print('{name}', *sys.argv[1:])\n    return 7\n"
        )
    shutil.copytree(root / "scripts", checkout / "scripts")
    (checkout / "scripts" / "requirements.txt").write_text(pins)
    (checkout / "scripts" / "requirements-test.txt").write_text("")
    return checkout


def tools(folder: Path, *names: str) -> Path:
    """A directory to be the whole PATH: these programs and nothing else."""
    place = folder / "bin"
    place.mkdir()
    for name in names:
        found = shutil.which(name)
        assert found, name
        (place / name).symlink_to(found)
    return place


def script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def run(
    checkout: Path, *argv: str, check: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a script of the checkout."""
    env = {**os.environ, "HELPERD_PYTHON": BASE, **environment}
    done = subprocess.run(
        [str(checkout / "scripts" / argv[0]), *argv[1:]],
        env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stderr
    return done


def pins(path: Path) -> dict[str, str]:
    lines = (line.removesuffix("\\").strip() for line in path.read_text().splitlines())
    return dict(line.split("==") for line in lines if line and not line.startswith(("#", "--hash")))


def test_bootstrap_builds_once_and_then_does_nothing_at_once(tmp_path: Path, root: Path) -> None:
    checkout = tree(tmp_path, root)
    assert "making .venv for Python" in run(checkout, "bootstrap").stderr
    for name in ("helperd", "helperd-extcap"):
        done = subprocess.run(
            [checkout / ".venv/bin" / name, "a b"], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (7, f"{name} a b\n")
    with promptly("five that have nothing to do", 0.5):
        for _ in range(5):
            done = run(checkout, "bootstrap")
            assert (done.stdout, done.stderr) == ("", "")

    done = run(
        checkout, "demo", "--as it is", check=False
    )  # in a path with a space, and arguments as they are
    assert (done.returncode, done.stdout) == (7, "helperd demo --as it is\n")

    (checkout / "scripts" / "requirements.txt").write_text("# other pins\n")
    done = run(checkout, "bootstrap")
    assert "making .venv" not in done.stderr  # kept, brought up to date
    assert "ready" in done.stderr

    (checkout / ".venv" / ".unfinished").touch()  # as somebody leaves it who ends a bootstrap half-way
    assert "making .venv anew" in run(checkout, "bootstrap").stderr

    moved = checkout.rename(tmp_path / "elsewhere")
    assert "ready" in run(moved, "bootstrap").stderr
    assert run(moved, "demo", check=False).stdout == "helperd demo\n"


def test_two_bootstraps_at_once_make_one_environment(tmp_path: Path, root: Path) -> None:
    checkout = tree(tmp_path, root)
    argv, env = [str(checkout / "scripts" / "bootstrap")], {**os.environ, "HELPERD_PYTHON": BASE}
    several = [subprocess.Popen(argv, env=env, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    words = [process.communicate(timeout=100)[1] for process in several]
    assert [process.returncode for process in several] == [0, 0, 0], words
    assert sum("making .venv for" in text for text in words) == 1
    assert sum("another bootstrap of this checkout" in text for text in words) == 2
    assert run(checkout, "bootstrap").stderr == ""


def test_a_python_too_old_is_one_line(tmp_path: Path, root: Path) -> None:
    place = tools(tmp_path, *BARE)
    script(place / "python3", "#!/bin/sh\necho /usr/bin/python3.10 3.10\n")
    done = run(tree(tmp_path, root), "bootstrap", check=False, PATH=str(place), HELPERD_PYTHON="")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "needs Python 3.11 or newer (python3 is 3.10)" in done.stderr


def test_no_python_is_said(tmp_path: Path, root: Path) -> None:
    place = tools(tmp_path, *BARE)
    done = run(tree(tmp_path, root), "bootstrap", check=False, PATH=str(place), HELPERD_PYTHON="")
    assert (done.returncode, done.stderr.count("no python3 here")) == (1, 1)


def test_a_newer_python_under_its_own_name_is_found(tmp_path: Path, root: Path) -> None:
    place = tools(tmp_path, *BARE)
    script(place / "python3", "#!/bin/sh\necho /usr/bin/python3.10 3.10\n")
    name = f"python3.{sys.version_info.minor}"
    (place / name).symlink_to(BASE)
    done = run(tree(tmp_path, root), "bootstrap", PATH=str(place), HELPERD_PYTHON="")
    assert f"making .venv for {name.replace('p', 'P', 1).replace('3.', ' 3.')}" in done.stderr


@pytest.mark.parametrize("manager", ["none", "without rights", "failing"])
def test_what_cannot_be_installed_is_named_with_the_command(tmp_path: Path, root: Path, manager: str) -> None:
    checkout, place = tree(tmp_path, root), tools(tmp_path, *BARE, "id", "mktemp", "tail", "true")
    # An interpreter that lacks ensurepip, as Debian's does without python3-venv.
    lacking = tmp_path / "python3"
    script(lacking, f'#!/bin/sh\ncase "$*" in *"import venv"*) exit 1 ;; esac\nexec {BASE} "$@"\n')
    real = tmp_path / "real"
    script(
        real,
        f'#!/bin/sh\ncase "$*" in *_base_executable*) echo "{lacking} 3.11";; *) exec {lacking} "$@";; esac\n',
    )
    if manager != "none":
        script(place / "apt-get", "#!/bin/sh\necho E: no network >&2\nexit 100\n")
    if manager == "without rights":
        script(place / "sudo", "#!/bin/sh\nexit 1\n")
        text = (checkout / "scripts" / "bootstrap").read_text()
        script(checkout / "scripts" / "bootstrap", text.replace("$EUID -eq 0", "1 -eq 0"))
    elif os.geteuid() != 0 and manager == "failing":
        script(place / "sudo", '#!/bin/sh\n[ "$1" = -n ] && shift\nexec "$@"\n')
    done = run(checkout, "bootstrap", check=False, PATH=str(place), HELPERD_PYTHON=str(real))
    assert done.returncode == 1
    assert "python3.11-venv" in done.stderr
    if manager == "none":
        assert "no apt-get here" in done.stderr
    else:
        assert "apt-get install -y --no-install-recommends python3.11-venv" in done.stderr
    if manager == "failing":
        assert "E: no network" in done.stderr
    assert not (checkout / ".venv" / ".ready").exists()


def test_a_directory_that_is_no_environment_is_left_alone(tmp_path: Path, root: Path) -> None:
    checkout = tree(tmp_path, root)
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "precious").touch()
    done = run(checkout, "bootstrap", check=False)
    assert done.returncode == 1
    assert "is no virtual environment; move it away" in done.stderr
    assert (checkout / ".venv" / "precious").exists()


def test_a_pin_that_does_not_hold_is_named(tmp_path: Path, root: Path) -> None:
    checkout = tree(tmp_path, root, "pip==0.1\n")
    done = run(checkout, "bootstrap", check=False, PIP_NO_INDEX="1")
    assert done.returncode == 1
    assert "pip could not install what scripts/requirements.txt names" in done.stderr
    assert (checkout / ".venv" / ".unfinished").exists()


@pytest.mark.parametrize("name", ["bootstrap", "test"])
def test_help_and_usage(root: Path, name: str) -> None:
    done = run(root, name, "--help")
    assert f"scripts/{name}" in done.stdout
    assert "Exit status: 0" in done.stdout


SCRIPTS = sorted(path.name for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.suffix)


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("word", ["--help", "-h"])
def test_every_script_prints_help_and_does_nothing_else(name: str, word: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [ROOT / "scripts" / name, word], cwd=tmp_path, capture_output=True, text=True, timeout=HANGS_S
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert name in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_peer_that_cannot_be_installed_is_one_line(tmp_path: Path) -> None:
    text = (ROOT / "scripts" / "bootstrap").read_text()
    functions = ""
    for name in ("packages", "pinned", "want_apart"):
        function = text[text.index(f"\n{name}() {{") :]
        functions += function[: function.index("\n}\n") + 3]
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "requirements-fuzz.txt").write_text(
        f"helperd-no-such-package==1 \\\n    --hash=sha256:{64 * '0'}\n"
    )
    script = (
        f"set -euo pipefail\nroot={tmp_path}; python={BASE}; build_pins=/dev/null\n"
        f"say() {{ printf 'bootstrap: %s\\n' \"$*\" >&2; }}\n{functions}want_apart fuzz 'the fuzzer will not run'\n"
    )
    done = subprocess.run(
        ["bash", "-c", script], env={**os.environ, "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull},
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        "bootstrap: could not install what requirements-fuzz.txt names: the fuzzer will not run; "
    )
    assert "No matching distribution" in line
    assert not (tmp_path / ".venv-fuzz").exists()


def test_an_unknown_argument_is_usage(root: Path) -> None:
    done = run(root, "bootstrap", "--wiht-tests", check=False)
    assert (done.returncode, "unknown argument '--wiht-tests'" in done.stderr) == (64, True)


def test_every_dependency_is_pinned_within_its_range(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    runtime, tests = (pins(root / "scripts" / name) for name in ("requirements.txt", "requirements-test.txt"))
    for pinned, wanted in (
        (runtime, project["dependencies"] + extras["root"]),
        (tests, extras["test"] + extras["lint"]),
    ):
        for requirement in map(Requirement, wanted):
            assert requirement.specifier.contains(pinned[requirement.name]), requirement
    assert not runtime.keys() & tests.keys()


def test_the_pins_are_complete(root: Path) -> None:
    """Whatever a pinned package needs is pinned too, because pip is told to install nothing else."""
    import importlib.metadata

    def canonical(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    both = pins(root / "scripts" / "requirements.txt") | pins(root / "scripts" / "requirements-test.txt")
    pinned = {canonical(name) for name in both}
    for name in both:
        for text in importlib.metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                assert canonical(requirement.name) in pinned, f"{name} needs {requirement}"


def test_every_pinned_file_is_known_by_its_hash(root: Path) -> None:
    found = sorted((root / "scripts").glob("requirements*.txt"))
    assert len(found) >= 5
    for path in found:
        joined = path.read_text().replace("\\\n", "")
        rows = [line for line in joined.splitlines() if line and not line.startswith("#")]
        assert rows
        for row in rows:
            assert re.fullmatch(r"[\w.-]+==[\w.]+( +--hash=sha256:[0-9a-f]{64})+", row), row
    for name in ("bootstrap", "install"):  # and no way of a script to pip is without them
        text = (root / "scripts" / name).read_text().replace("\\\n", "")
        ways = [line for line in text.splitlines() if "pip install" in line and "say" not in line]
        assert len(ways) == 1, ways
        assert "--require-hashes" in ways[0]
        assert "--no-deps" in ways[0]


def test_a_file_with_another_hash_is_not_installed(tmp_path: Path, root: Path) -> None:
    """A package that somebody has changed on its way: nothing of it runs, and there is no environment."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "changed-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("changed.py", "")
        wheel.writestr("changed-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: changed\nVersion: 1\n")
        wheel.writestr(
            "changed-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("changed-1.dist-info/RECORD", "")
    real = hashlib.sha256((wheels / "changed-1-py3-none-any.whl").read_bytes()).hexdigest()
    known = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull}
    for given, status in ((real, 0), ("0" * 64, 1)):
        checkout = tree(tmp_path / given[:4], root, f"changed==1 \\\n    --hash=sha256:{given}\n")
        done = run(checkout, "bootstrap", check=False, **known)
        assert done.returncode == status, done.stderr
        assert ("DO NOT MATCH THE HASHES" in done.stderr) == (status == 1)
        assert bool(list(checkout.glob(".venv/lib/*/site-packages/changed.py"))) == (status == 0)


def test_ci_runs_the_tests_and_nothing_else(root: Path) -> None:
    lines = [
        line for line in (root / ".ci" / "run").read_text().splitlines() if line and not line.startswith("#")
    ]
    assert len(lines) == 1
    assert lines[0].endswith('/../scripts/test"')


def test_no_script_names_a_registry(root: Path) -> None:
    for path in (*(root / "scripts").iterdir(), root / ".ci" / "run", root / ".pre-commit-config.yaml"):
        if path.is_file():
            assert not re.search(r"https?://(?!127\.0\.0\.1)|index-url", path.read_text()), path
