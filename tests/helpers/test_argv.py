"""The command line of every helper."""

import os
import subprocess
import sys

import pytest

from helperd.errors import UsageError
from helperd.helpers._argv import parse
from tests.helpers.peer import ENTRY, PYTHON, environment
from tests.patience import HANGS_S


@pytest.fixture
def fds():
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def run(*words):
    return subprocess.run(
        [*PYTHON, str(ENTRY), *words],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=HANGS_S,
        check=False,
    )


def test_descriptors_are_understood_in_both_spellings_and_anywhere(fds):
    a, b = map(str, fds)
    expected = ("run", int(a), int(b))
    assert parse([f"--in-fd={a}", f"--out-fd={b}"])[:3] == expected
    assert parse(["--out-fd", b, "--in-fd", a])[:3] == expected
    assert parse(["--", "tcpdump", "-w", "-", f"--in-fd={a}", f"--out-fd={b}"]) == (
        *expected,
        ("tcpdump", "-w", "-"),
    )


@pytest.mark.parametrize("flag", ["list", "help", "version"])
def test_flags(flag):
    assert parse([f"--{flag}"]) == (flag, -1, -1, ())


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "--in-fd and --out-fd must be given"),
        (["--in-fd=0"], "--out-fd must be given"),
        (["--in-fd=x", "--out-fd=1"], "takes the number of a file descriptor, not 'x'"),
        (["--in-fd="], "not ''"),
        (["--in-fd"], "not ''"),
        (["--in-fd=-1"], "not '-1'"),
        (["--in-fd=999999"], "Bad file descriptor"),
        (["--in-fd=99999999999999999999"], "takes the number"),
        (["--infd=3"], "did you mean --in-fd?"),
        (["--frobnicate"], "unknown option '--frobnicate'; try --help"),
        (["wlan0"], "unknown option 'wlan0'"),
        (["--connect", "host:3501"], "remote capture"),
    ],
)
def test_mistakes_are_named(words, text):
    with pytest.raises(UsageError, match="usage") as caught:
        parse(words)
    assert text in caught.value.text


def test_version_help_and_list_of_a_real_helper():
    version = run("synthetic", "--version")
    assert (version.returncode, version.stderr) == (0, "")
    assert version.stdout.startswith("synthetic (helperd) ")
    shown = run("synthetic", "--help")
    assert shown.returncode == 0
    assert "--in-fd=N" in shown.stdout
    assert "rate " in shown.stdout
    listed = run("synthetic", "--list")
    assert listed.returncode == 0
    assert listed.stdout.splitlines()[0] == "radio0:type=synthetic\tsynthetic radio 0"
    nothing = run("pcapfile", "--list")
    assert (nothing.returncode, nothing.stdout) == (1, "")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "is no helper's name"),
        (("nothing",), "no bundled helper is named 'nothing'"),
        (("_runner",), "is no helper's name"),
        (("sdk",), "is no helper's name"),
        (("../evil",), "is no helper's name"),
        (("synthetic", "--frob"), "unknown option '--frob'"),
        (("synthetic",), "--in-fd and --out-fd must be given"),
        (("synthetic", "--in-fd=0", "--out-fd=1", "--", "word"), "synthetic takes no words: word"),
    ],
)
def test_usage_errors_end_with_64_and_no_traceback(words, text):
    done = run(*words)
    assert done.returncode == 64
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_helpers_never_import_trio_nor_what_costs_start_up_time():
    program = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "import helperd.helpers.sdk, helperd.helpers._runner\n"
        "import helperd.helpers.pcapfile, helperd.helpers.synthetic\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    paths = [path for path in sys.path if path]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, *paths], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "helperd" in loaded
    assert not loaded & {"trio", "asyncio", "argparse", "logging", "google", "subprocess", "socket", "tomli"}
