"""What a helper did in time counts, however late the kit looks; what the machine takes of its time does not."""

import os
import select
import sys
from pathlib import Path

import pytest

from helperd.conformance import subject
from helperd.conformance.subject import Fault, Subject
from helperd.wire.messages import ListReport, ListRequest, Ping, Pong
from tests.patience import HANGS_S

BROKEN = Path(__file__).resolve().parent.parent / "peers" / "broken_helper.py"


@pytest.fixture
def talk():
    sound = Subject((sys.executable, str(BROKEN), "none"), answer_s=HANGS_S, definition="x:type=broken")
    with sound.start() as talk:
        yield talk


def late(talk):
    """It looks only when the time is over."""
    talk.subject = talk.subject._replace(answer_s=0.0)


def test_an_answer_that_is_there_when_the_time_is_over(talk):
    number = talk.send(Ping())
    assert select.select([talk.source], [], [], HANGS_S)[0]
    late(talk)
    assert talk.expect(Pong).request == number
    with pytest.raises(Fault, match="no Pong in 0 s"):
        talk.expect(Pong)


def test_packets_that_are_there_when_the_time_is_over(talk):
    talk.open()
    assert select.select([talk.source], [], [], HANGS_S)[0]
    late(talk)
    talk.until_packets(1)


def test_an_end_that_has_come_when_the_time_is_over(talk):
    talk.send(ListRequest())
    talk.expect(ListReport)
    talk.process.wait(HANGS_S)
    late(talk)
    assert talk.must_end("its list report") == 0
    talk.process.terminate()  # nobody: it has ended


def test_a_frame_is_written_when_the_time_is_over(talk):
    late(talk)
    number = talk.send(Ping())
    talk.subject = talk.subject._replace(answer_s=HANGS_S)
    assert talk.expect(Pong).request == number


def test_what_a_process_waits_for_a_processor_does_not_count(monkeypatch):
    starved = iter([1.0, 1.0, 101.0, 0.5, 0.5])  # at first, then; the last two without one that has ended
    monkeypatch.setattr(subject, "_starved_s", lambda _: next(starved))
    patience = subject._Patience(1, 0.0)
    assert patience.left() == 0.0
    assert 50 < patience.left() <= 100
    assert patience.left() > 50
    assert next(patience.turns()) > 50


def test_what_a_process_has_waited_is_read():
    assert subject._starved_s(1) >= 0.0
    assert subject._starved_s(1 << 30) == 0.0


def test_to_read_the_last_words_leaves_the_process_its_place_in_the_file(talk):
    os.write(talk._said.fileno(), b"first\nsecond\n")
    os.lseek(talk._said.fileno(), 6, os.SEEK_SET)
    assert talk.last_words() == "second"
    assert os.lseek(talk._said.fileno(), 0, os.SEEK_CUR) == 6
