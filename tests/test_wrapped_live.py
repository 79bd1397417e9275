"""Wrapped programs under a daemon: what they could do to it, and what is left of a helper that was killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.helpers.test_adapters import LITTLE, PACKETS, children, program
from tests.helpers.test_capturefile import pcap
from tests.rig import daemon

# Writes to every descriptor that it was not meant to have, above all to a counter in shared memory.
BURGLAR = """
import struct
found = []
for number in range(3, 64):
    try:
        found.append(os.readlink(f'/proc/self/fd/{number}'))
        os.pwrite(number, struct.pack('<Q', 10**15), 0)
    except OSError:
        continue
found = [name for name in found if not name.startswith('/proc/')]  # the listing itself, where there is one
open(TOLD, 'w').write(repr(found))
if '--extcap-interfaces' in sys.argv:
    print('interface {value=x}{display=X}')
elif '--capture' in sys.argv:
    with open(sys.argv[sys.argv.index('--fifo') + 1], 'wb', 0) as file:
        file.write(open(DATA, 'rb').read())
elif '--extcap-interface' not in sys.argv:
    sys.stdout.buffer.write(open(DATA, 'rb').read())
"""


@pytest.mark.parametrize("adapter", ["pipe", "jsonlines", "extcap"])
def test_a_program_cannot_falsify_the_ledger(tmp_path: Path, adapter: str) -> None:
    data, told = tmp_path / "data", tmp_path / "told"
    data.write_bytes(b'{"a": 1}\n' * 40 if adapter == "jsonlines" else pcap(LITTLE, PACKETS[:40]))
    tool = program(tmp_path, f"DATA, TOLD = {str(data)!r}, {str(told)!r}\n{BURGLAR}")
    text = f'[[helper]]\nname = "h"\ncommand = ["builtin:{adapter}", "--", "{tool}"]\ntypes = ["h"]\n'
    text += '[[source]]\nname = "s"\ndefinition = "x:type=h"\nrestart = "temporary"\n'
    with daemon(tmp_path, text) as rig:
        (row,) = rig.wait(lambda now: now["sources"][0]["exit"] and now["sources"][0]["state"] == "down")[
            "sources"
        ]
    assert row["exit"]["kind"] == "done", row["exit"]
    assert told.read_text() == "[]"
    assert (row["packets"], row["produced"], row["lost"]) == (40, 40, {"no-consumer": 40})


TOOL = """
if '--extcap-interfaces' in sys.argv:
    print('interface {value=x}{display=X}')
    print('control {number=0}{type=string}{display=M}')
elif '--capture' in sys.argv:
    fifo = sys.argv[sys.argv.index('--fifo') + 1]
    with open(NAMED, 'a') as file:
        print(fifo, file=file)
    with open(fifo, 'wb', 0) as file:
        file.write(open(DATA, 'rb').read())
        time.sleep(60)
"""


@pytest.mark.parametrize("victim", ["helper", "tool"])
def test_the_fifos_of_what_is_killed_are_gone_when_it_runs_again(tmp_path: Path, victim: str) -> None:
    data, named = tmp_path / "data", tmp_path / "named"
    data.write_bytes(pcap(LITTLE, PACKETS))
    tool = program(tmp_path, f"DATA, NAMED = {str(data)!r}, {str(named)!r}\n{TOOL}")
    text = f'[[helper]]\nname = "h"\ncommand = ["builtin:extcap", "--", "{tool}"]\ntypes = ["h"]\n'
    text += '[[source]]\nname = "s"\ndefinition = "x:type=h"\n'
    with daemon(tmp_path, text) as rig:
        rig.wait_running("s")
        pid = rig.source("s")["pid"]
        (child,) = children(pid)
        os.kill(pid if victim == "helper" else int(child), signal.SIGKILL)
        rig.wait(
            lambda now: now["sources"][0]["state"] == "running" and now["sources"][0]["incarnation"] == 2
        )
        first, second = (Path(line).parent for line in named.read_text().splitlines())
        assert first != second
        assert not first.exists()
        assert sorted(path.name for path in second.iterdir()) == ["control-in", "control-out", "packets"]
    assert not second.exists()
