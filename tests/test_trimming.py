"""Memory that is free again goes back to the system, also where what is left is scattered over all of it."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from helperd.trimming import EVERY_S, Trimming
from tests.patience import HANGS_S

BURST = """
import threading, sys
sys.path[:0] = {path!r}
from helperd.trimming import EVERY_S, Trimming

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20

trimming = Trimming()
trimming.beat(1.0)
kept, before = [], resident()

def burst():
    buffers = [bytes(1000 + number % 3000) for number in range(40_000)]
    kept.append(buffers[::100])  # one in every 100 stays

for work in {work}:
    work()
grown = resident() - before
trimming.beat(2.0)
print(before, grown, resident() - before, end=" ")
trimming.beat(1.0 + EVERY_S)
print(resident() - before)
"""
IN_A_THREAD = "[(lambda: (t := threading.Thread(target=burst), t.start(), t.join()))] * 2"


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="a C library without malloc_trim")
@pytest.mark.parametrize("work", ["[burst]", IN_A_THREAD, "[burst, *" + IN_A_THREAD + "]"])
def test_what_a_burst_leaves_is_given_back(work: str) -> None:
    code = BURST.format(path=sys.path, work=work)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=HANGS_S, check=True
    )
    _, grown, sooner, left = map(int, done.stdout.split())
    assert grown > 50
    assert sooner > grown // 2, "not at every beat"
    assert left < grown // 4


def test_a_library_without_a_word_for_it_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        """One as musl is."""

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Library())
    trimming = Trimming()
    trimming.beat(0.0)
    trimming.beat(2 * EVERY_S)
