"""What a reader does to all others, to admins and to root, with one uid or with all that it can have: ``crowd.py NAME...``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from tests.attack.abuse import Tries, play
from tests.attack.scenes import subordinate
from tests.attack.seat import Seat, seat
from tests.attack.stage import CAPTURE, OTHER, STAGE, STRANGER, Stage

CROWD = f"""
[helperd]
socket_group = "capture"
[[helper]]
name = "synthetic"
command = ["builtin:synthetic"]
types = ["synthetic"]
[[helper]]
name = "mute"
command = PROBE
types = ["mute"]
[[source]]
definition = "radio0:type=synthetic,rate=1000"
[[sink]]
type = "file"
path = "{STAGE}/open/crowd.pcapng"
[[allow]]
group = "capture"
helpers = ["mute"]
"""
TALK = """
import json
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
held = []
def reach(name):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(20)
    held.append(s)
    s.connect('/run/helperd/' + name)
    return s
def call(s, method, **parameters):
    s.sendall(json.dumps({'method': 'io.helperd.' + method, 'parameters': parameters}).encode() + bytes(1))
def reply(s):
    data = b''
    while not data.endswith(bytes(1)):
        more = s.recv(1 << 16)
        if not more:
            return {'error': 'closed'}
        data += more
    return json.loads(data[:-1])
def asked(method, **parameters):
    s = reach('control.sock')
    call(s, method, **parameters)
    return reply(s)
def answered(count):
    while len(select.select(held, [], [], 20)[0]) < count:
        time.sleep(0.01)
def leave():
    while held:
        held.pop().close()
def with_uids(count, each, come):
    for at in range(count):
        os.seteuid(at // each)
        try:
            come()
        finally:
            os.seteuid(0)
result = 1
"""
SERVED = "result = 'error' not in asked('GetStatus')"
READS = "result = b'refused' not in reach('all.sock').recv(4096)"


@contextmanager
def daemon(stage: Stage) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon that root has started, with its sockets in /run/helperd."""
    process = stage.start(
        stage.config(CROWD), "--runtime-dir=/run/helperd", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 30
        while True:
            with suppress(OSError, ValueError), talker(0) as root:
                if root.run("result = asked('GetStatus')['parameters']['sources'][0]['state']") == "running":
                    break
            assert process.poll() is None, stage.said()
            assert time.monotonic() < deadline, stage.said()
            time.sleep(0.05)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@contextmanager
def talker(uid: int, *, many: bool = False) -> Iterator[Seat]:
    """Somebody who may look, with one uid or with many."""
    with closing(subordinate((CAPTURE,)) if many else seat(uid, (CAPTURE,))) as place:
        place.run(TALK)
        yield place


def crowd(stage: Stage) -> tuple[Tries, list[tuple[str, str, str]]]:
    """A reader takes every place, question, or turn, with one uid or with all that it can have."""

    def tries() -> Iterator[tuple[str, bool]]:
        with (
            daemon(stage) as process,
            talker(OTHER) as hostile,
            talker(0, many=True) as legion,
            talker(STRANGER) as reader,
            talker(0) as root,
        ):
            root.run("status = lambda: asked('GetStatus')['parameters']; result = 1")
            hostile.run("for _ in range(1200): reach('control.sock')\nresult = 1")
            yield "connections of one uid, for another reader", not reader.run(SERVED)
            hostile.run("leave(); result = 1")
            hostile.run("for _ in range(1060): reach('all.sock')\nheld[-1].recv(1); result = 1")
            found = root.run("result = sum(row['uid'] > 0 for row in status()['consumers'])")
            yield "readers of one uid", found > 200
            yield "readers of one uid, for another reader", not reader.run(READS)
            hostile.run("leave(); result = 1")
            for place in (hostile, reader, root):
                place.run("leave(); result = 1")
            hostile.run(
                "for n in range(20): call(reach('control.sock'), 'Probe', definition=f'x{n}:type=mute')\nanswered(14); result = 1"
            )
            busy = "result = asked('Probe', definition='w:type=mute').get('error') == 'io.helperd.Busy'"
            yield "questions of one uid, for another reader", reader.run(busy)
            legion.run(
                "with_uids(40, 1, lambda: call(reach('control.sock'), 'Probe', definition=f'y{len(held)}:type=mute'))\nanswered(34); result = 1"
            )
            yield "questions of all uids, for root", root.run(busy)
            for place in (hostile, legion, reader, root):
                place.run("leave(); result = 1")
            legion.run("with_uids(1300, 100, lambda: reach('control.sock'))\nresult = 1")
            yield "connections of all uids, for root", not root.run(SERVED)
            legion.run("leave(); result = 1")
            legion.run("with_uids(1100, 100, lambda: reach('all.sock'))\nheld[-1].recv(1); result = 1")
            yield "readers of all uids, for root", not root.run(READS)
            legion.run("leave(); result = 1")
            supervisor = root.run("result = status()['pid']")
            os.kill(supervisor, signal.SIGSTOP)  # as when it has much to do
            root.run("leave(); call(reach('control.sock'), 'Stop', source='radio0'); leave(); result = 1")
            os.kill(supervisor, signal.SIGCONT)
            for _ in range(20):  # whichever of the two the daemon takes first
                state = root.run("result = status()['sources'][0]['wanted']")
                if state != "up":
                    break
                time.sleep(0.1)
            yield "an order that was given up", state != "up"
            assert process.poll() is None

    return tries, [
        ("places.py", "return self.by[who] >= self.each", "return False"),
        ("places.py", "self.most + self.reserve * rank", "self.most"),
        ("control/connection.py", "if not call.oneway and self._hung_up():", "if False:"),
        ("control/connection.py", "        if silent:\n", "        if False:\n"),
    ]


SCENES = {"crowd": crowd}


if __name__ == "__main__":
    play(SCENES, sys.argv[1:])
