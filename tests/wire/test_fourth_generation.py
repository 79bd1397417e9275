"""A fourth generation: one file (fourth/v4.py), one line (the fixture), one folder of vectors (fourth/vectors).

Everything else takes it as it is: scanner, session, both roles.
"""

import json
from pathlib import Path

import pytest

from helperd.errors import RemoteProtocolError
from helperd.wire import generations, session
from helperd.wire import messages as m
from helperd.wire.frames import ControlFrame, FrameScanner, Run
from helperd.wire.session import Phase, Role, Session
from tests.wire.fourth.v4 import V4

VECTORS = Path(__file__).parent / "fourth" / "vectors"


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


@pytest.mark.parametrize("step", [1, 3, 7, 1 << 20], ids=lambda step: f"reads-of-{step}")
@pytest.mark.parametrize("name", ["stream", "bad-payload", "too-long", "cut"])
def test_its_recordings_decode_to_their_index_however_they_are_cut(v4, name, step):
    index = json.loads((VECTORS / "index.json").read_text())[name]
    data = (VECTORS / f"{name}.bin").read_bytes()
    supervisor = Session(Role.SUPERVISOR, generation=v4)
    supervisor.send(m.OpenRequest("a:type=v4"))
    found = []
    try:
        for at in range(0, len(data), step):
            for item in supervisor.receive(data[at : at + step]):
                content = (
                    [content.decode() for *_, content, _ in v4.packets(item)] if isinstance(item, Run) else []
                )
                found += content or [type(item).__name__]
        supervisor.receive_eof()
    except RemoteProtocolError as error:
        found += [
            name
            for item in error.before
            for name in (
                [c.decode() for *_, c, _ in v4.packets(item)]
                if isinstance(item, Run)
                else [type(item).__name__]
            )
        ]
        found.append(error.problem)
    assert found == index
