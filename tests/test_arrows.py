"""The arrows between the rooms point down only: read from the imports themselves, conditional ones included."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "helperd"

LAYERS: tuple[tuple[str, ...], ...] = (  # a room may import any room of a later line
    ("cli", "extcap", "services"),
    ("daemon",),
    ("reloading",),
    ("status", "control", "view", "notify", "inventory", "alone"),
    ("supervisor",),
    ("service",),
    ("tuning",),
    ("source",),
    ("claim", "standing"),
    ("watch",),
    ("drivers",),
    ("asking", "launchers"),
    ("incarnation", "replay"),
    (
        "channel",
        "sinks",
        "launcher",
        "vitals",
        "cgroups",
        "logs",
        "bus",
        "gate",
        "page",
        "hotplug",
        "tending",
    ),
    ("access",),
    ("signals",),
    ("translate", "lifecycle"),
    ("routing",),
    ("pcapng", "layout", "relay", "reports", "ledger"),
    ("wire",),
    ("config", "sandbox", "runtime", "table", "bell", "gather", "complaint", "threads", "places", "trimming"),
    ("errors", "printing"),
    ("visible",),
)

ONLY: dict[str, set[str]] = {  # rooms that are held to less than their layer would allow
    "helpers": {"wire", "pcapng", "sandbox", "errors", "printing", "visible"},
    "privsep": {"launch", "config", "sandbox", "errors", "visible"},
    "launch": {"privsep"},
    "config": {"errors"},
    "sandbox": {"errors", "visible"},
    "control": {"errors", "runtime", "places"},
    "services": {"control", "runtime", "errors", "printing", "visible"},
    "extcap": {"alone", "control", "runtime", "wire", "helpers", "errors", "printing", "visible"},
    "lifecycle": {"errors"},
    "pcapng": {"errors", "visible"},
    "wire": {"errors"},
    "client": {"errors", "pcapng", "relay"},
    "conformance": {"wire", "errors"},
    "errors": set(),
    "printing": {"visible"},
    "visible": set(),
}

SAME: dict[str, set[str]] = {  # neighbours that may see each other, in this direction
    "channel": {"logs"},
    "bus": {"logs"},
    "cli": {
        "helpers",
        "launch",
        "conformance",
    },  # check reads an adapter's words as the adapter will; doctor names its cures
}

FOREIGN: dict[str, set[str]] = {  # each third-party package has its rooms
    "trio": {
        "cli",
        "alone",
        "extcap",
        "daemon",
        "reloading",
        "control",
        "view",
        "supervisor",
        "tuning",
        "source",
        "service",
        "drivers",
        "inventory",
        "asking",
        "incarnation",
        "replay",
    }
    | {
        "channel",
        "sinks",
        "launcher",
        "launchers",
        "bus",
        "gate",
        "hotplug",
        "claim",
        "bell",
        "tending",
        "gather",
        "logs",
        "notify",
        "status",
        "vitals",
        "client",
        "threads",
        "places",
        "signals",
    },
    "tomli": {"config"},
    "prctl": {"sandbox"},
    "psutil": {"vitals"},
    "google": {"wire"},
    "zstandard": {"sinks"},
}

PROCESSES = {
    "subprocess",
    "multiprocessing",
}  # the launcher is the only parent; an adapter may start a program
STARTERS = {
    "privsep",
    "helpers",
    "conformance",
}  # the kit is a server for a moment: with the caller's own rights


@cache
def imports() -> dict[str, set[str]]:
    """Every module of the package with all it imports, as dotted names; built-in groups keep their full name."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if "pb" in path.relative_to(PACKAGE).parts:
            continue
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = ".".join(parts).removesuffix(".__init__")
        names: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module} imports relatively"
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
        found[module] = names
    return found


def room(module: str) -> str:
    """The room of a module: the second part of its name; "" for the package itself."""
    return module.partition(".")[2].partition(".")[0]


def rooms() -> set[str]:
    return {room(module) for module in imports()} - {""}


def edges() -> set[tuple[str, str, str]]:
    """(importing module, its room, imported room)."""
    known = rooms()
    return {
        (module, room(module), room(name))
        for module, names in imports().items()
        for name in names
        if name.startswith("helperd.") and room(name) in known and room(name) != room(module)
    }


def allowed(name: str) -> set[str]:
    if name in ONLY:
        return ONLY[name]
    place = next(number for number, layer in enumerate(LAYERS) if name in layer)
    return {below for layer in LAYERS[place + 1 :] for below in layer} | SAME.get(name, set())


def test_every_room_has_its_place_in_the_picture() -> None:
    placed = {name for layer in LAYERS for name in layer} | set(ONLY)
    assert rooms() <= placed, f"give these a line in LAYERS: {sorted(rooms() - placed)}"


def test_arrows_point_down_only() -> None:
    wrong = [
        f"{module} imports {below}"
        for module, above, below in sorted(edges())
        if above and below not in allowed(above)
    ]
    assert not wrong, "\n".join(wrong)


def test_each_foreign_package_stays_in_its_rooms() -> None:
    wrong = [
        f"{module} imports {name}"
        for module, names in sorted(imports().items())
        for name in sorted({name.partition(".")[0] for name in names})
        if name in FOREIGN and room(module) not in FOREIGN[name]
    ]
    assert not wrong, "\n".join(wrong)


def test_no_other_package_than_the_declared_ones_is_imported() -> None:
    known = set(sys.stdlib_module_names) | set(FOREIGN) | {"helperd", "__future__"}
    wrong = [
        f"{module} imports {name}"
        for module, names in sorted(imports().items())
        for name in sorted({name.partition(".")[0] for name in names} - known)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_dependencies_are_what_is_imported() -> None:
    """Of the package and of each extra: nothing that nobody imports, nothing that only a user of an extra has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    named = {"google": "protobuf", "prctl": "python-prctl"}  # the import, and what the index calls it
    imported = {
        named.get(name, name)
        for names in imports().values()
        for name in {name.partition(".")[0] for name in names} & set(FOREIGN)
    }
    plain, root, zstd = (
        {Requirement(text).name for text in texts}
        for texts in (project["dependencies"], extras["root"], extras["zstd"])
    )
    assert plain | root | zstd == imported
    assert not plain & (root | zstd)
    assert (root, zstd) == ({"python-prctl"}, {"zstandard"})


def test_only_the_launcher_and_adapters_start_processes() -> None:
    wrong = [
        f"{module} imports {name}"
        for module, names in sorted(imports().items())
        for name in sorted({name.partition(".")[0] for name in names} & PROCESSES)
        if room(module) not in STARTERS
    ]
    assert not wrong, "\n".join(wrong)


def test_pure_rooms_read_no_clock_and_own_no_descriptor() -> None:
    forbidden = {"time", "os", "socket", "select", "selectors", "threading", "asyncio"}
    wrong = [
        f"{module} imports {name}"
        for module, names in sorted(imports().items())
        if room(module) in {"wire", "pcapng", "lifecycle", "routing", "translate"}
        for name in sorted({name.partition(".")[0] for name in names} & forbidden)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_control_client_needs_the_standard_library_alone() -> None:
    own = {name for name in imports()["helperd.control"] if name != "__future__.annotations"}
    assert not own, f"helperd/control/__init__.py imports {own}"
    used = {room(name) for name in imports()["helperd.control.client"] if name.startswith("helperd.")}
    assert used <= {"errors", "control"}


def test_one_place_knows_trios_word_for_a_thread_that_is_left_alone() -> None:
    """Debian 12's trio has another than today's: a call that says either breaks on one of them."""
    words = ("abandon_on_cancel", "cancellable=")
    said = {path.name for path in PACKAGE.rglob("*.py") if any(word in path.read_text() for word in words)}
    assert said == {"threads.py"}


def loaded(code: str, *argv: str) -> set[str]:
    """The modules that an interpreter of its own has loaded after some code."""
    code += "\nimport sys; print('LOADED:', *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], cwd=ROOT, capture_output=True, text=True, check=True
    )
    said, found, names = done.stdout.rpartition("LOADED:")
    assert found, said + done.stderr
    return set(names.split())


COMMAND = "import sys; from helperd.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass"
QUICK = (["--version"], ["--help"], ["check"], ["status", "--runtime-dir", "/nonexistent"])


@pytest.mark.parametrize("argv", QUICK, ids=[words[0].lstrip("-") for words in QUICK])
def test_what_must_start_at_once_does_not_import_trio(argv: list[str]) -> None:
    assert not loaded(COMMAND, *argv) & {"trio", "psutil", "google", "prctl"}


@pytest.mark.parametrize("command", ["status", "list"])
def test_what_asks_a_daemon_imports_less_still(command: str) -> None:
    """Each of these costs such a command between a twentieth and a third of its time."""
    heavy = {"typing", "dataclasses", "inspect", "shutil", "subprocess", "tomllib", "tomli", "ctypes"}
    heavy -= loaded(
        "import argparse; argparse.ArgumentParser().add_argument('--x')"
    )  # Python 3.14 wants some itself
    assert not loaded(COMMAND, command, "--runtime-dir", "/nonexistent") & heavy


def test_a_helper_starts_without_trio() -> None:
    assert not loaded("import helperd.helpers.sdk") & {"trio", "google", "tomli", "psutil", "prctl"}
