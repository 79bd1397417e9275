"""The recorded helpers, played by a process through real pipes to a supervisor's session."""

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from helperd.errors import LocalProtocolError, RemoteProtocolError
from helperd.wire.frames import Run
from helperd.wire.generations import named
from helperd.wire.session import Phase, Role, Session
from tests.patience import HANGS_S
from tests.wire import recordings as rec

PLAYER = Path(__file__).resolve().parent.parent / "peers" / "recorded_helper.py"

ENDS = {
    "bytewise": Phase.READY,
    "coalesced": Phase.OPEN,
    "config-channel": Phase.OPEN,
    "list": Phase.READY,
    "open-and-stream": Phase.OPEN,
    "open-and-stream-options": Phase.OPEN,
    "open-and-stream-radiotap": Phase.OPEN,
    "open-and-stream-truncated": Phase.OPEN,
    "open-bad": Phase.CLOSING,
    "ping": Phase.READY,
    "ping-never-sent": Phase.OPEN,
    "probe-bad": Phase.READY,
    "probe-notpcap": Phase.READY,
    "probe-ok": Phase.READY,
    "probe-ok-options": Phase.READY,
    "remote-tcp": Phase.OPEN,
    "server-open": Phase.OPEN,
    "server-open-bad": Phase.CLOSING,
    "server-probe-1": Phase.READY,
    "server-probe-2": Phase.OPEN,
    "server-remote-tcp": Phase.OPEN,
    "shutdown": Phase.CLOSING,
    "unknown-command": Phase.READY,
    "v0-open": Phase.OPEN,
    "v0-ping": Phase.READY,
}
"""Scenario to the phase the conversation must end in."""
EXCEPTIONS = {
    "kismet-2021-08-R1-server-open": Phase.GREETING,
    "kismet-2021-08-R1-server-open-bad": Phase.GREETING,
    "kismet-2021-08-R1-server-remote-tcp": Phase.READY,
    "kismet-2025-09-R1-linux_bluetooth-open-bad": Phase.OPEN,
    "kismet-2025-09-R1-v0-ping": Phase.READY,
}
"""v0 helpers end without a word at a v2 PING, v3 helpers at a v0 PING; a 2025 server drops a v0 helper that dials in;
the Bluetooth helper of 2025 opens a device that is not there."""
PLAYED = [one for one in rec.recordings() if one["scenario"] in ENDS]


def ordered(recording):
    """The frames of both directions; a helper's first word comes before what can only be said because of it.

    The recorder orders by milliseconds, so an answer within the same millisecond may stand behind the next request.
    """
    frames = list(recording["frames"])
    greeted = recording["scenario"].startswith("server-")
    remote = "remote" in recording["scenario"]
    answers = [frame for frame in frames if frame["dir"] == "from_helper"]
    if answers and (greeted or remote):
        frames.remove(answers[0])
        frames.insert(0 if remote else 1, answers[0])
    return frames


class Player:
    """One fake helper and our session with it."""

    def __init__(self, recording):
        self.recording = recording
        to_player, self.to = os.pipe()
        self.source, from_player = os.pipe()
        plan, sent = [], 0
        for frame in ordered(recording):
            if frame["dir"] == "to_helper":
                sent += 1
            else:
                plan.append(f"{sent}:{frame['offset']}:{frame['offset'] + frame['frame_len']}")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-I", str(PLAYER), f"--in-fd={to_player}", f"--out-fd={from_player}"),
                *(str(rec.FOLDER / recording["files"]["received"]), *plan),
            ],
            pass_fds=(to_player, from_player),
        )
        os.close(to_player)
        os.close(from_player)
        first = ordered(recording)[0]["gen"]
        remote = "remote" in recording["scenario"]
        greeted = recording["scenario"].startswith("server-")
        generation = None if remote or greeted else named(first)
        self.session = Session(Role.SUPERVISOR, generation=generation, remote=remote)
        self.heard = []

    def tell(self, frame):
        """Say what the real server said then, by the session where the session may say it."""
        raw = rec.stream(self.recording, "tosend")[frame["offset"] :][: frame["frame_len"]]
        message = rec.message(frame)
        self.session.last_seqno = (frame["seqno"] or 1 << 32) - 1
        if self.session.generation is None:
            assert self.session.greeting()[:43] == raw[:43]
            os.write(self.to, self.session.greeting())
            return
        try:
            os.write(self.to, self.session.send(message))
        except (LocalProtocolError, BrokenPipeError):
            os.write(self.to, raw)

    def hear(self, upto):
        """Read until the session has had so many bytes."""
        while self.session.received < upto:
            ready, _, _ = select.select([self.source], [], [], 10)
            assert ready, "the player is silent"
            data = os.read(self.source, 65536)
            assert data, "the player ended"
            self.heard += self.session.receive(data)

    def close(self):
        os.close(self.to)
        os.close(self.source)
        assert self.process.wait(HANGS_S) in (1, 3)


@pytest.fixture
def play():
    players = []

    def start(recording):
        players.append(Player(recording))
        return players[-1]

    yield start
    for player in players:
        player.close()


def converse(player, recording):
    """Say and hear everything in the order of the recording."""
    for frame in ordered(recording):
        if frame["dir"] == "to_helper":
            player.tell(frame)
        else:
            player.hear(frame["offset"] + frame["frame_len"])


def flat(generation, heard):
    """Messages and packets in order."""
    out = []
    for item in heard:
        out.extend(generation.packets(item) if isinstance(item, Run) else [item])
    return out


@pytest.mark.parametrize("recording", PLAYED, ids=rec.ident)
def test_the_played_helper_ends_where_the_real_one_did(recording, play):
    player = play(recording)
    converse(player, recording)
    player.session.receive_eof()
    expected = [
        rec.packet(f) if rec.is_packet(f) else rec.message(f) for f in rec.frames(recording, "received")
    ]
    assert player.session.phase is EXCEPTIONS.get(recording["id"], ENDS[recording["scenario"]])
    for frame in rec.frames(recording, "received")[:1]:
        assert player.session.generation is named(frame["gen"])
    assert flat(player.session.generation, player.heard) == expected


def test_every_scenario_the_issue_names_is_played():
    played = {one["scenario"] for one in PLAYED}
    assert {"list", "probe-ok", "probe-bad", "open-and-stream", "open-bad", "ping", "shutdown"} <= played
    assert {one["protocol"] for one in PLAYED} == {"v0", "v2", "v3"}


@pytest.mark.parametrize(
    "recording", [r for r in rec.recordings() if r["scenario"] == "open-twice"], ids=rec.ident
)
def test_a_helper_that_opens_twice_is_refused(recording, play):
    """A second open report has no request of ours: whatever follows it belongs to no source we asked for."""
    player = play(recording)
    with pytest.raises(RemoteProtocolError) as caught:
        converse(player, recording)
    assert caught.value.problem == "not-allowed-now"
    assert player.session.phase is Phase.ERROR
