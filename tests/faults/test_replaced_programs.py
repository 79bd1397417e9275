"""A program that is being replaced, as a package does it, is tried again in a second."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.stage import HEAD, PEER
from tests.patience import promptly
from tests.rig import daemon

SHELL = shutil.which("sh") or "/bin/sh"
SCRIPT = f'#!{SHELL}\nexec "{sys.executable}" -I -S "{PEER}" good\n'


def whole(program: Path) -> None:
    """Put the program there, as an installation leaves it."""
    program.parent.mkdir(exist_ok=True)
    program.write_text(SCRIPT)
    program.chmod(0o755)


def compiled(program: Path) -> None:
    """A program without a #! line: the kernel refuses to execute such a file while somebody writes it."""
    shutil.copyfile(Path(SHELL).resolve(), program)
    program.chmod(0o755)


@contextlib.contextmanager
def missing(program: Path) -> Iterator[None]:
    program.unlink()
    yield
    whole(program)


@contextlib.contextmanager
def folder_missing(program: Path) -> Iterator[None]:
    shutil.rmtree(program.parent)
    yield
    whole(program)


@contextlib.contextmanager
def empty(program: Path) -> Iterator[None]:
    program.write_text("")
    yield
    program.write_text(SCRIPT)


@contextlib.contextmanager
def not_executable(program: Path) -> Iterator[None]:
    program.chmod(0o644)
    yield
    program.chmod(0o755)


@contextlib.contextmanager
def half_written(program: Path) -> Iterator[None]:
    compiled(program)
    with program.open("r+b"):
        yield


@contextlib.contextmanager
def no_interpreter(program: Path) -> Iterator[None]:
    program.write_text(SCRIPT.replace(f"#!{SHELL}", f"#!{program}.interpreter", 1))
    yield
    program.write_text(SCRIPT)


@contextlib.contextmanager
def no_part(program: Path) -> Iterator[None]:
    """What it executes, or a library of it, is missing: the shell and the loader both end with 127."""
    program.write_text(f"#!{SHELL}\nexec {program}.part\n")
    yield
    program.write_text(SCRIPT)


@contextlib.contextmanager
def loose(program: Path) -> Iterator[None]:
    program.chmod(0o777)
    yield
    program.chmod(0o755)


FAULTS: dict[str, tuple[Callable[[Path], contextlib.AbstractContextManager[None]], str]] = {
    "missing": (missing, "not-installed"),
    "folder": (folder_missing, "not-installed"),
    "empty": (empty, "exec-failed"),
    "plain": (not_executable, "exec-failed"),
    "busy": (half_written, "exec-failed"),
    "interpreter": (no_interpreter, "not-installed"),
    "part": (no_part, "not-installed"),
    "loose": (loose, "unsafe-file"),
}


def blocks(folder: Path) -> str:
    text = HEAD
    for number, name in enumerate(FAULTS):
        program = folder / name / "program"
        whole(program)
        arguments = f', "-c", \'exec "{sys.executable}" -I -S "{PEER}" good\'' if name == "busy" else ""
        arguments = arguments.replace("'exec", "'''exec").replace("good'", "good'''")
        text += f'[[helper]]\nname = "{name}"\ncommand = ["{program}"{arguments}]\ntypes = ["{name}"]\n'
        text += f'[[source]]\nname = "{name}"\ndefinition = "bad{number}:type={name}"\n'
    return text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    return tmp_path


def test_a_program_that_is_whole_again_is_started_in_a_second(rundir: Path, folder: Path) -> None:
    config = blocks(folder)
    with contextlib.ExitStack() as replaced:
        for name, (fault, _) in FAULTS.items():
            replaced.enter_context(fault(folder / name / "program"))
        with daemon(rundir, config) as rig:
            status = rig.wait(lambda now: all(row["state"] == "backoff" for row in now["sources"]))
            for row in status["sources"]:
                word = FAULTS[row["name"]][1]
                assert (row["exit"]["kind"], row["exit"]["problem"]) == ("config", word), row
                assert row["next_try_s"] <= 1.0 or row["incarnation"] > 4, row
            replaced.close()  # all are whole again
            with promptly("the start of what was replaced", 2.0):
                rig.wait(lambda now: all(row["state"] == "running" for row in now["sources"]))


def test_who_writes_a_program_is_told_as_such(rundir: Path, folder: Path) -> None:
    config = blocks(folder)
    with half_written(folder / "busy" / "program"), daemon(rundir, config) as rig:
        status = rig.wait(
            lambda now: any(row["name"] == "busy" and row["exit"] is not None for row in now["sources"])
        )
        (text,) = (row["exit"]["text"] for row in status["sources"] if row["name"] == "busy")
        assert "somebody is writing it" in text
