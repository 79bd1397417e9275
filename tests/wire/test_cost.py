"""The benchmark of the wire runs, and the shapes it compares keep their order; ratios only, machines differ."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def test_runs_beat_objects_and_bulk_beats_runs():
    words = [sys.executable, "-m", "benchmarks.wire", "--json", "--rounds=15"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    cost = {row["name"]: row["ns"] for row in json.loads(done.stdout)["rows"]}
    assert 2.5 * cost["v3 frame"] < cost["an object a packet (v3), the baseline"]
    assert 4 * cost["bulk packet, 1000 a frame"] < cost["v3 frame"]
    assert cost["v0 frame, checksum verified"] < 1.5 * cost["  its payload by sum and accumulate"]
    assert cost["bulk packet, 1000 a frame"] < cost["bulk packet, lengths at random"]
