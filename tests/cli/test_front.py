"""The command line's front: what every command has in common."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from helperd import cli
from helperd.cli import commands, parser
from helperd.errors import Code, ConfigError, ConfigRefused, HelperdError

ROOT = Path(__file__).resolve().parent.parent.parent
HELPERD = [sys.executable, "-m", "helperd.cli"]


def helperd(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*HELPERD, *words], cwd=ROOT, capture_output=True, text=True, check=False, **options
    )  # type: ignore[call-overload]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The command ``try``, whose ``main`` a test sets."""
    module = types.ModuleType("helperd.cli.try_")
    module.add_arguments = lambda parser: parser.add_argument("--deep", action="store_true")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    line = commands.Command("try", "try it", module.__name__)
    monkeypatch.setattr(parser, "COMMANDS", (*commands.COMMANDS, line))
    return module


def raising(error: BaseException):
    def main(args: object) -> int:
        raise error

    return main


def test_the_commands_status_is_the_exit_status(command: types.ModuleType) -> None:
    command.main = lambda args: 1 if args.deep else 0
    assert cli.main(["try"]) == 0
    assert cli.main(["try", "--deep"]) == 1


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (HelperdError("busy", "it is in use; close it"), 1, "helperd: busy: it is in use; close it\n"),
        (
            ConfigRefused(
                [ConfigError("bad-value", f"no. {number}", file="f", line=number) for number in (1, 2)]
            ),
            78,
            "f:1: bad-value: no. 1\nf:2: bad-value: no. 2\n",
        ),
        (FileNotFoundError(2, "No such file", "/x"), 111, "a system call failed"),
        (ValueError("oops"), 101, "Traceback"),
        (KeyboardInterrupt(), 130, ""),
    ],
    ids=["known", "config", "system", "bug", "interrupt"],
)
def test_every_error_has_its_status_and_its_line(
    command: types.ModuleType,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
    words: str,
) -> None:
    command.main = raising(error)
    assert cli.main(["try"]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(words) if words.endswith("\n") else words in err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["stat"], 'did you mean "status"'),
        (["xyzzy"], "there are run, demo"),
        ([], "a command is missing"),
        (["check", "--jsn"], "unrecognized arguments: --jsn; did you mean --json? see helperd check --help"),
        (["list", "--config-file=x"], "--config-file=x; did you mean --config?"),
        (["tap", "--rotat", "a"], "unrecognized arguments: --rotat; see helperd tap --help"),
        (["check", "a", "b"], "unrecognized arguments: b"),
        (["probe"], "required: DEFINITION"),
        (["--verison"], "did you mean --version?"),
        (["--js", "check"], "unrecognized arguments"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_command_line_is_64_and_one_line(words: list[str], expected: str) -> None:
    done = helperd(*words)
    assert done.returncode == Code.USAGE
    assert done.stdout == ""
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1
    assert "--help" in done.stderr


def test_version_and_help_are_answers() -> None:
    assert helperd("--version").stdout.startswith("helperd 0.")
    shown = helperd("--help")
    assert shown.returncode == 0
    assert all(command.name in shown.stdout for command in commands.COMMANDS)


@pytest.mark.parametrize("command", commands.COMMANDS, ids=lambda command: command.name)
def test_every_command_helps(command: commands.Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser.parse([command.name, "--help"])
    assert ended.value.code == 0
    assert f"helperd {command.name}" in capsys.readouterr().out


def test_a_reader_that_goes_away_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        done = subprocess.run(
            [*HELPERD, "check", "--json"], cwd=ROOT, stdout=closed, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_full_disk_is_a_system_error() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*HELPERD, "check"], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == Code.SYSTEM
    assert b"No space left" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_with_standard_output_closed_the_command_line_is_read_all_the_same() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", 'unset COLUMNS; exec "$@" >&-', "sh", *HELPERD, "status", "--nonsense"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        Code.USAGE,
        "helperd status: usage: unrecognized arguments: --nonsense; see helperd status --help\n",
    )
