"""Every recording, cut in three ways, in both directions: what our receiver decodes is what the index says."""

import pytest

from helperd.errors import RemoteProtocolError
from helperd.wire.frames import FrameScanner, Run
from helperd.wire.generations import GENERATIONS, named
from helperd.wire.messages import Ping, Pong, Unknown
from tests.wire import recordings as rec

WAYS = ("whole", "bytewise", "random")
RECORDINGS = rec.recordings()


def receive(data, way, seed, *, sticky, verify=True):
    """All a scanner makes of a stream: messages and packet tuples in order, and the problem word, if any."""
    scanner = FrameScanner(GENERATIONS, sticky=sticky, verify=verify)
    out = []
    problem = None

    def take(items):
        for item in items:
            if isinstance(item, Run):
                generation = scanner.current
                packets = list(generation.packets(item))
                assert packets == list(generation.packets_general(item))
                assert len(packets) == item.packets == item.frames
                out.extend(packets)
            else:
                out.append(item.generation.decode(item))

    try:
        for read in rec.cuts(data, way, seed):
            take(scanner.feed(read))
    except RemoteProtocolError as error:
        if error.before:
            take(error.before)
        problem = error.problem
    if problem is None and scanner.pending:
        problem = "partial-frame"
    return out, problem


def test_there_are_all_145():
    assert len(RECORDINGS) == 145
    assert {recording["protocol"] for recording in RECORDINGS} == {"v0", "v2", "v3"}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("recording", RECORDINGS, ids=rec.ident)
def test_what_a_helper_said_is_what_the_index_says(recording, way):
    frames = rec.frames(recording, "received")
    out, problem = receive(rec.stream(recording, "received"), way, recording["id"], sticky=True)
    assert problem is None
    assert out == [rec.packet(frame) if rec.is_packet(frame) else rec.message(frame) for frame in frames]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("recording", RECORDINGS, ids=rec.ident)
def test_what_a_helper_was_told_is_what_the_index_says_and_bad_frames_have_their_name(recording, way):
    expected = []
    for frame in rec.frames(recording, "tosend"):
        message = rec.message(frame) if frame.get("command") is not None else None
        if message is None or frame.get("checksum_ok") is False or frame.get("version", 3) != 3:
            break
        expected.append(message)
    out, problem = receive(rec.stream(recording, "tosend"), way, recording["id"], sticky=False)
    assert problem == rec.VERDICTS.get(recording["scenario"])
    if recording["scenario"] == "command-lowercase":
        assert isinstance(expected[0], Ping)
    assert out == expected


@pytest.mark.parametrize("recording", RECORDINGS, ids=rec.ident)
def test_what_was_decoded_encodes_to_a_frame_that_decodes_the_same(recording):
    """Not the same bytes: servers and helpers differ in what they write of the optional fields."""
    for side in ("received", "tosend"):
        for frame in rec.frames(recording, side):
            message = None if frame.get("command") is None or rec.is_packet(frame) else rec.message(frame)
            if message is None or isinstance(message, Unknown):
                continue
            generation = named(frame["gen"])
            again = FrameScanner((generation,)).feed(generation.encode(message, frame["seqno"]))
            assert [generation.decode(item) for item in again] == [message]
            if isinstance(message, Pong):
                continue
            assert again[0].seqno == frame["seqno"] or generation.name == "v3"


@pytest.mark.parametrize("generation", GENERATIONS, ids=lambda generation: generation.name)
def test_requests_are_written_byte_for_byte_as_the_recorded_server_wrote_them(generation):
    """Only v3's result code differs: the recorder wrote 0, servers write 1."""
    seen = 0
    for recording in RECORDINGS:
        sent = rec.stream(recording, "tosend")
        for frame in rec.frames(recording, "tosend"):
            if frame["gen"] != generation.name or not frame.get("fields") or frame.get("trailing"):
                continue
            if recording["scenario"].startswith(("bad-", "extra-fields")) or isinstance(
                rec.message(frame), Unknown
            ):
                continue
            raw = sent[frame["offset"] : frame["offset"] + frame["frame_len"]]
            ours = generation.encode(rec.message(frame), frame["seqno"])
            if generation.name == "v3":
                ours, raw = ours[:14] + ours[16:], raw[:14] + raw[16:]
            if generation.name == "v2":
                ours, raw = ours[:43] + ours[44:], raw[:43] + raw[44:]
            assert ours == raw
            seen += 1
    assert seen > 20
