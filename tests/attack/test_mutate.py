"""What is to be taken away is there, and what only a rare process shows."""

from __future__ import annotations

import subprocess
import sys

from helperd.sandbox import processes
from tests.attack.mutate import MUTATIONS
from tests.rig import ROOT

ALONE = """
import ctypes, os, platform, threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
print("ready", flush=True)
ctypes.CDLL(None).syscall({"x86_64": 60, "i686": 1, "armv7l": 1}.get(platform.machine(), 93), 0)  # this thread's end
"""


def test_every_step_that_is_taken_away_is_there():
    """A row whose text the code has no more would notice nothing."""
    missing = [
        row.name
        for row in MUTATIONS
        if row.old not in (ROOT / "helperd" / row.file).read_text(encoding="utf-8")
    ]
    assert not missing


def test_who_has_lost_its_first_thread_alone_runs_on():
    with subprocess.Popen([sys.executable, "-c", ALONE], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            while (found := processes.row(child.pid)) is not None and found.state != "Z":
                pass
            assert found is not None
            assert not processes.never_runs(child.pid)
        finally:
            child.kill()
