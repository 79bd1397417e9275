"""The public Python client, unmodified, at the other end of real pipes."""

import os
import select
import signal
import subprocess
import time
from pathlib import Path

import pytest

from helperd.wire import messages as m
from helperd.wire import v0
from helperd.wire.frames import Run
from helperd.wire.session import Phase, Role, Session
from tests.ability import KISMETEXTERNAL
from tests.patience import HANGS_S
from tests.peers.kismetexternal_helper import packet

HELPER = Path(__file__).resolve().parent.parent / "peers" / "kismetexternal_helper.py"
PACKETS = 20_000


class Running:
    """The helper's process and our session with it."""

    def __init__(self, python):
        to_helper, self.to = os.pipe()
        self.source, from_helper = os.pipe()
        self.process = subprocess.Popen(
            [python, str(HELPER), f"--in-fd={to_helper}", f"--out-fd={from_helper}"],
            pass_fds=(to_helper, from_helper),
            stderr=subprocess.PIPE,
        )
        os.close(to_helper)
        os.close(from_helper)
        self.session = Session(Role.SUPERVISOR, generation=v0)
        self.heard = []
        self.runs = []

    def read(self):
        assert select.select([self.source], [], [], 20)[0], "the helper is silent"
        data = os.read(self.source, 65536)
        for item in self.session.receive(data) if data else ():
            (self.runs if isinstance(item, Run) else self.heard).append(item)
        return data

    def ask(self, message, kind):
        os.write(self.to, self.session.send(message))
        return self.wait(kind)

    def wait(self, kind):
        while not any(isinstance(item, kind) for item in self.heard):
            assert self.read(), self.process.stderr.read().decode()
        found = next(item for item in self.heard if isinstance(item, kind))
        self.heard.remove(found)
        return found

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(HANGS_S)
        self.process.stderr.close()
        os.close(self.to)
        os.close(self.source)


@pytest.fixture
def start(need):
    need("kismetexternal")
    running = []

    def one():
        running.append(Running(KISMETEXTERNAL))
        return running[-1]

    yield one
    for helper in running:
        helper.close()


def test_it_lists(start):
    helper = start()
    assert helper.ask(m.Ping(), m.Pong) == m.Pong(1)
    report = helper.ask(m.ListRequest(), m.ListReport)
    assert report == m.ListReport(
        2, interfaces=(m.Interface("counter", "packets=20000", "a counter"),), message="one device"
    )


@pytest.mark.parametrize(("definition", "mine"), [("counter:name=x", True), ("wlan0", False)])
def test_it_probes(start, definition, mine):
    report = start().ask(m.ProbeRequest(definition), m.ProbeReport)
    assert (report.request, report.success) == (1, mine)
    assert report.channels == (("1", "6", "11") if mine else ())


def test_it_ends_at_the_v2_greeting_and_says_nothing(start):
    helper = start()
    os.write(helper.to, Session(Role.SUPERVISOR).greeting())
    assert helper.read() == b""
    helper.process.wait(HANGS_S)


def test_it_opens_tunes_sends_every_packet_whole_and_ends_at_sigterm(start):
    helper = start()
    report = helper.ask(m.OpenRequest(f"counter:packets={PACKETS},after=0.2"), m.OpenReport)
    assert (report.success, report.dlt, report.capture_interface) == (True, 1, "counter0")
    tuned = helper.ask(m.ConfigureRequest("11"), m.ConfigureReport)
    assert (tuned.success, tuned.channel) == (True, "11")
    began = time.perf_counter()
    assert helper.wait(m.Text) == m.Text(m.Severity.INFO, "that was all")
    rate = PACKETS / (time.perf_counter() - began)
    assert helper.session.phase is Phase.OPEN
    assert sum(run.packets for run in helper.runs) == PACKETS
    got = [found for run in helper.runs for found in v0.packets(run)]
    for number, (dlt, sec, usec, original, content, signal_block) in enumerate(got):
        assert (content, sec, usec) == packet(number, 200)
        assert (dlt, original, signal_block) == (1, 200, None)
    print(f"{rate:.0f} reports/s")
    helper.process.send_signal(signal.SIGTERM)
    assert helper.process.wait(HANGS_S) == 0
