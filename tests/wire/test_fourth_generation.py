"""A fourth generation, made here: one file, one line. Everything else takes it as it is.

0 signature, 4 sentinel CAFE0004, 8 length, 12 one byte of command, 13 payload as JSON
"""

import json
import struct

import pytest

from helperd.errors import LocalProtocolError, RemoteProtocolError
from helperd.wire import generations, session
from helperd.wire import messages as m
from helperd.wire.frames import ControlFrame, FrameScanner, Kind, Run
from helperd.wire.session import Phase, Role, Session

COMMANDS = {1: m.Ping, 2: m.Pong, 3: m.OpenRequest, 4: m.OpenReport, 5: m.Text}


class V4:
    """The whole of it."""

    name = "v4"
    number = 4
    header = 13
    receiver_limit = 65535

    def claims(self, word):
        return word == 0xCAFE0004

    def scan(self, data, start, at, scan, out):
        position = start
        while len(data) - position >= 13:
            signature, word, length, command = struct.unpack_from(">IIIB", data, position)
            stop = position + 13 + length
            if (
                signature != 0xDECAFBAD
                or word != 0xCAFE0004
                or stop > len(data)
                or length + 13 > scan.max_frame
            ):
                break
            if command == 9:
                out.append(Run(Kind.PACKETS, data, position, stop, 1, 1))
            else:
                out.append(ControlFrame(self, command, 0, 0, data[position + 13 : stop], at + position))
            position = stop
        return position

    def decode(self, frame):
        if frame.command not in COMMANDS:
            return m.Unknown(str(frame.command))
        try:
            return COMMANDS[frame.command](**json.loads(frame.payload))
        except (ValueError, TypeError) as error:
            raise RemoteProtocolError("bad-payload", str(error), at=frame.at, excerpt=frame.payload) from None

    def encode(self, message, seqno):
        if isinstance(message, m.DataReport):
            return self.frame(9, message.packet.content)
        for command, kind in COMMANDS.items():
            if type(message) is kind:
                names = (
                    name
                    for name in kind.__slots__
                    if name != "channels" and getattr(message, name) is not None
                )
                return self.frame(
                    command, json.dumps({name: getattr(message, name) for name in names}).encode()
                )
        raise LocalProtocolError("not-supported", f"v4 has no {type(message).__name__}")

    @staticmethod
    def frame(command, payload):
        return struct.pack(">IIIB", 0xDECAFBAD, 0xCAFE0004, len(payload), command) + payload

    def packets(self, run):
        yield None, None, 0, run.nbytes - 13, run.data[run.start + 13 : run.stop], None

    def blocks(self, run):
        return iter(())


@pytest.fixture
def v4(monkeypatch):
    """The one line."""
    generation = V4()
    listed = (generation, *generations.GENERATIONS)
    monkeypatch.setattr(generations, "GENERATIONS", listed)
    monkeypatch.setattr(session, "GENERATIONS", listed)
    return generation


def test_both_roles_speak_it(v4):
    supervisor, helper = Session(Role.SUPERVISOR, generation=v4), Session(Role.HELPER)
    assert helper.receive(supervisor.greeting()) == [m.Ping()]
    assert helper.generation is v4
    assert supervisor.receive(helper.send(m.Pong(1))) == [m.Pong(1)]
    assert helper.receive(supervisor.send(m.OpenRequest("a:b=c"))) == [m.OpenRequest("a:b=c")]
    assert supervisor.receive(helper.send(m.OpenReport(2, dlt=1))) == [m.OpenReport(2, dlt=1)]
    (run,) = supervisor.receive(helper.send(m.DataReport(m.Packet(b"abc"))))
    assert list(v4.packets(run)) == [(None, None, 0, 3, b"abc", None)]
    assert supervisor.phase is Phase.OPEN


def test_a_supervisor_learns_it_from_the_answer_to_its_greeting(v4):
    supervisor = Session(Role.SUPERVISOR)
    assert supervisor.greeting() == session.V2_PING
    assert supervisor.receive(v4.encode(m.Pong(0), 1)) == [m.Pong(0)]
    assert supervisor.generation is v4


def test_streams_of_it_may_be_cut_anywhere_and_limits_hold(v4):
    stream = b"".join(
        v4.encode(message, 1) for message in (m.Pong(1), m.DataReport(m.Packet(b"abc")), m.Pong(2))
    )
    scanner = FrameScanner((v4,))
    items = [item for at in range(len(stream)) for item in scanner.feed(stream[at : at + 1])]
    assert [type(item) for item in items] == [ControlFrame, Run, ControlFrame]
    for bad, problem in (
        (v4.frame(2, b"{"), "bad-payload"),
        (v4.frame(2, b"x" * (1 << 20)), "frame-too-long"),
    ):
        with pytest.raises(RemoteProtocolError) as caught:
            Session(Role.SUPERVISOR, generation=v4).receive(bad)
        assert caught.value.problem == problem


def test_it_is_found_by_its_name(v4):
    assert generations.named("v4") is v4
