"""`--connect`: the helper dials, says what it is, and is a helper as over pipes; it dials again."""

import contextlib
import signal
import socket
import subprocess

import pytest

from helperd.wire import v3
from helperd.wire.frames import Run
from helperd.wire.identity import uuid_of
from helperd.wire.messages import NewSource, OpenReport, OpenRequest, Ping, Pong, Shutdown
from helperd.wire.session import Role, Session
from tests.csdk.build import helper
from tests.patience import HANGS_S

pytestmark = pytest.mark.need("cc")


class Link:
    """The server's end of one connection."""

    def __init__(self, sock):
        sock.settimeout(HANGS_S)
        self.sock = sock
        self.session = Session(Role.SUPERVISOR, generation=v3)
        self.messages, self.reports = [], []

    def expect(self, kind):
        while True:
            for at, message in enumerate(self.messages):
                if isinstance(message, kind):
                    return self.messages.pop(at)
            data = self.sock.recv(65536)
            assert data, f"closed before {kind.__name__}: {self.messages}"
            for item in self.session.receive(data):
                if isinstance(item, Run):
                    self.reports += self.session.generation.reports(item)
                else:
                    self.messages.append(item)

    def send(self, message):
        self.sock.sendall(self.session.send(message))


@contextlib.contextmanager
def dialling(*words):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(HANGS_S)
        process = subprocess.Popen(
            [helper("hello"), f"--connect=127.0.0.1:{server.getsockname()[1]}", *words],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            yield process, lambda: Link(server.accept()[0])
        finally:
            process.terminate()
            process.wait(HANGS_S)
            process.stderr.close()


SOURCE = "roof:type=hello,rate=100"


def greeted(link):
    assert link.expect(NewSource) == NewSource(SOURCE, "hello", uuid_of("helperd_hello", "roof"))
    link.send(Ping())
    link.expect(Pong)
    link.send(OpenRequest(SOURCE))
    report = link.expect(OpenReport)
    assert (report.success, report.uuid) == (True, uuid_of("helperd_hello", "roof"))


def test_it_says_what_it_is_and_streams_with_its_place():
    with dialling(
        "--tcp", f"--source={SOURCE}", "--fixed-gps=52.5,-13.25,34", "--gps-name=roof", "--disable-retry"
    ) as (
        process,
        accept,
    ):
        link = accept()
        with link.sock:
            greeted(link)
            while len(link.reports) < 5:
                link.send(Ping())
                link.expect(Pong)
            for report in link.reports:
                assert (report.gps.latitude, report.gps.longitude, report.gps.altitude) == (52.5, -13.25, 34)
                assert (report.gps.fix, report.gps.type, report.gps.name) == (3, "remote-fixed", "roof")
                assert report.packet.content[:4] == bytes(4)
            link.send(Shutdown("enough"))
            assert process.wait(HANGS_S) == 0


def test_it_dials_again_as_the_same_source():
    with dialling(f"--source={SOURCE}") as (process, accept):
        for _ in range(2):
            link = accept()
            with link.sock:
                greeted(link)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(HANGS_S) == 0
        assert "dials again in 5 s" in process.stderr.read()


def test_a_signal_is_told_to_the_server():
    with dialling(f"--source={SOURCE}") as (process, accept):
        link = accept()
        with link.sock:
            greeted(link)
            process.send_signal(signal.SIGTERM)
            assert link.expect(Shutdown).reason == "asked to end by SIGTERM"
            assert process.wait(HANGS_S) == 0
