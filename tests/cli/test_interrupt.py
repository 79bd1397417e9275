"""Ctrl-C at every point of a command's start: status 130, and not a word of a traceback."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.patience import HANGS_S
from tests.rig import ROOT

STARTS = [
    ["status"],
    ["list", "-c", "config/helpers.toml"],
    ["capture", "radio0:type=synthetic", "--config", "config/helpers.toml", "-w", "{place}/x.pcapng"],
    ["demo", "--runtime-dir", "{place}/run"],
    ["doctor"],
]
QUESTIONS = [  # of Wireshark, which hands its terminal's Ctrl-C on
    ["--extcap-interfaces"],
    ["--extcap-interface", "helperd.interface.lo", "--extcap-config"],
    ["--extcap-interface", "helperd.interface.lo", "--extcap-dlts"],
]
CODE = """
import _signal, sys
_signal.signal(_signal.SIGINT, _signal.SIG_IGN)
print("imported", file=sys.stderr, flush=True)
sys.path += {places}
from {package} import main
sys.exit(main())
"""
"""As installed: ``main`` without arguments, in a process of its own. What comes before it is Python's own start."""


@pytest.mark.parametrize("words", STARTS, ids=lambda words: words[0])
def test_an_interrupt_in_a_commands_start_is_130_without_a_traceback(words, tmp_path):
    interrupted("helperd.cli", words, tmp_path)


@pytest.mark.parametrize("words", QUESTIONS, ids=lambda words: words[-1])
def test_an_interrupt_while_wireshark_asks_is_130_without_a_traceback(words, tmp_path):
    interrupted("helperd.extcap", words, tmp_path)


def interrupted(package, words, tmp_path):
    """Start it eight times and interrupt it, each time a little later; at once again until one was not over before."""
    statuses: set[int] = set()
    code = CODE.format(
        package=package, places=[str(ROOT), *(place for place in sys.path if place.startswith("/"))]
    )
    for at in (*range(8), *[0] * 40):
        if at == 0 and 130 in statuses:
            break
        ours = [word.format(place=tmp_path) for word in words]
        process = subprocess.Popen(
            [sys.executable, "-IS", "-c", code, *ours],
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert process.stderr is not None
        process.stderr.readline()
        until_it_traps(process)
        time.sleep(at * 0.04)  # the point of the start that is tried, not something that is waited for
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: launcher and helpers get it too
        out, err = process.communicate(timeout=HANGS_S)
        assert b"Traceback" not in out + err, (at, err.decode())
        assert b"KeyboardInterrupt" not in out + err, (at, err.decode())
        statuses.add(process.returncode)
    assert 130 in statuses
    # a command that was quicker has its own status; in the interpreter's own end the signal has its default action
    assert statuses <= {130, 0, 69, 1, -signal.SIGINT}, statuses


def until_it_traps(process: "subprocess.Popen[bytes]") -> None:
    """Return once the command answers an interrupt, or is over."""
    deadline = time.monotonic() + HANGS_S
    while process.poll() is None:
        with open(f"/proc/{process.pid}/status", encoding="ascii") as status:
            caught = next(int(line.split()[1], 16) for line in status if line.startswith("SigCgt"))
        if caught >> (signal.SIGINT - 1) & 1:
            return
        assert time.monotonic() < deadline
        time.sleep(0.001)
