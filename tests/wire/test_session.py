"""The session: its table, both roles, what fixes the generation, what it refuses, and in which words."""

import pytest

from helperd.errors import LocalProtocolError, RemoteProtocolError
from helperd.wire import messages as m
from helperd.wire import v0, v2, v3
from helperd.wire.frames import MAX_FRAME, Run
from helperd.wire.generations import GENERATIONS
from helperd.wire.session import ALLOWED, CUT, LATE, V2_PING, Phase, Role, Session, render_table, step
from tests.wire import recordings as rec

each = pytest.mark.parametrize("generation", GENERATIONS, ids=lambda generation: generation.name)

EXAMPLES = {
    m.Ping: m.Ping(),
    m.Pong: m.Pong(1),
    m.Shutdown: m.Shutdown("enough"),
    m.Text: m.Text(m.Severity.INFO, "hello"),
    m.Register: m.Register("x/1"),
    m.Lost: m.Lost("kernel", 7),
    m.Changed: m.Changed("cut", 7),
    m.ListRequest: m.ListRequest(),
    m.ProbeRequest: m.ProbeRequest("a"),
    m.OpenRequest: m.OpenRequest("a"),
    m.ConfigureRequest: m.ConfigureRequest("6"),
    m.CloseRequest: m.CloseRequest(),
    m.ListReport: m.ListReport(1),
    m.ProbeReport: m.ProbeReport(1),
    m.OpenReport: m.OpenReport(1),
    m.ConfigureReport: m.ConfigureReport(1),
    m.ErrorReport: m.ErrorReport(1, "no"),
    m.WarningReport: m.WarningReport("careful"),
    m.NewSource: m.NewSource("a", "b", "c"),
    m.DataReport: m.DataReport(m.Packet(b"x", 1, 1, 1)),
    m.BluetoothReport: m.BluetoothReport(m.BluetoothDevice("00:11")),
    m.EventRegister: m.EventRegister(("*",)),
    m.Event: m.Event("{}"),
    m.EventPublish: m.EventPublish("A", "{}"),
    m.HttpRegister: m.HttpRegister("/a", "GET"),
    m.HttpRequest: m.HttpRequest(0, "/a", "GET"),
    m.HttpCancel: m.HttpCancel(0),
    m.HttpResponse: m.HttpResponse(0, close=True),
    m.AuthRequest: m.AuthRequest(),
    m.AuthToken: m.AuthToken("t"),
    m.Unknown: m.Unknown("WHAT"),
}


def has(generation, message):
    try:
        generation.encode(message, 1)
    except LocalProtocolError:
        return False
    return True


def at(role, phase, generation):
    session = Session(role, generation=generation)
    session.phase = phase
    session.asked = 1
    return session


@each
@pytest.mark.parametrize("kind", EXAMPLES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.ERROR])
@pytest.mark.parametrize("sender", Role)
def test_both_ends_obey_the_same_table(sender, phase, kind, generation):
    """Every role, phase and message: what one may send, the other takes, and both are in the same phase after it."""
    message = EXAMPLES[kind]
    allowed = phase in ALLOWED[sender].get(kind, ())
    after = step(sender, phase, message, 1)
    assert (after is not None) <= allowed
    ours, theirs = at(sender, phase, generation), at(sender.other, phase, generation)
    if not has(generation, message):
        with pytest.raises(LocalProtocolError):
            ours.send(message)
        return
    frame = generation.encode(message, 1)
    if after is None:
        with pytest.raises(LocalProtocolError) as local:
            ours.send(message)
        with pytest.raises(RemoteProtocolError) as remote:
            theirs.receive(frame)
        assert local.value.problem == remote.value.problem == "not-allowed-now"
        assert theirs.phase is Phase.ERROR
        return
    if phase is Phase.CLOSING and kind in LATE[sender]:
        with pytest.raises(LocalProtocolError):
            ours.send(message)
        assert theirs.receive(frame) == [message]
        assert theirs.phase is Phase.CLOSING
        return
    assert ours.send(message) == frame
    (heard,) = theirs.receive(frame)
    assert isinstance(heard, Run) if kind is m.DataReport else heard == message
    assert ours.phase is theirs.phase is after


def test_the_table_answers_every_message():
    known = set(ALLOWED[Role.SUPERVISOR]) | set(ALLOWED[Role.HELPER])
    assert known == set(EXAMPLES)
    assert "| Pong | ready | ready |" in render_table()


def test_a_refusal_leads_to_another_phase_than_a_success():
    for report, phase in ((m.OpenReport(1, success=False), Phase.CLOSING), (m.OpenReport(1), Phase.OPEN)):
        session = at(Role.SUPERVISOR, Phase.OPENING, v3)
        session.receive(v3.encode(report, 1))
        assert session.phase is phase


def test_an_error_report_that_says_success_changes_nothing():
    session = at(Role.SUPERVISOR, Phase.OPEN, v2)
    session.receive(v2.encode(m.ErrorReport(1, "fine", success=True), 1))
    assert session.phase is Phase.OPEN
    session.receive(v2.encode(m.ErrorReport(1, "not fine"), 2))
    assert session.phase is Phase.CLOSING


# the greeting


def test_a_v3_helper_answers_the_greeting_in_v3():
    supervisor, helper = Session(Role.SUPERVISOR), Session(Role.HELPER)
    greeting = supervisor.greeting()
    assert greeting == V2_PING
    assert len(greeting) == 48
    (ping,) = helper.receive(greeting)
    assert (ping, helper.generation) == (m.Ping(), v3)
    pong = helper.send(m.Pong(ping.seqno))
    assert pong.hex() == "decafbada9a90003000000000003000000000000"
    assert supervisor.receive(pong) == [m.Pong(0)]
    assert (supervisor.generation, supervisor.phase, helper.phase) == (v3, Phase.READY, Phase.READY)


@each
def test_a_helper_answers_in_the_generation_of_the_first_frame(generation):
    helper = Session(Role.HELPER)
    assert helper.receive(generation.encode(m.ListRequest(), 9)) == [m.ListRequest()]
    assert helper.asked == 9
    assert helper.send(m.ListReport(9)) == generation.encode(m.ListReport(9), 1)


def test_a_helper_answers_an_ordinary_v2_ping_in_v2():
    helper = Session(Role.HELPER)
    helper.receive(v2.encode(m.Ping(), 5))
    assert helper.send(m.Pong(5)) == v2.encode(m.Pong(5), 1)


def test_a_helper_follows_a_server_to_a_newer_generation_and_not_back():
    helper = Session(Role.HELPER)
    for generation in (v0, v2, v3):
        helper.receive(generation.encode(m.Ping(), 5))
        assert helper.generation is generation
    helper.receive(V2_PING)
    assert helper.generation is v3
    with pytest.raises(RemoteProtocolError) as caught:
        helper.receive(v2.encode(m.ListRequest(), 6))
    assert caught.value.problem == "wrong-generation"


def test_a_v0_supervisor_follows_a_helper_that_answers_in_v2():
    supervisor = Session(Role.SUPERVISOR, generation=v0)
    assert supervisor.greeting() == v0.encode(m.Ping(), 1)
    supervisor.receive(v2.encode(m.Pong(1), 2))
    assert supervisor.generation is v2
    with pytest.raises(RemoteProtocolError) as caught:
        supervisor.receive(v0.encode(m.Pong(1), 2))
    assert caught.value.problem == "wrong-generation"


@pytest.mark.parametrize(("greeted", "answer"), [(None, v0), (v2, v3), (v3, v2), (v0, v3)])
def test_an_answer_in_the_wrong_generation_is_named(greeted, answer):
    supervisor = Session(Role.SUPERVISOR, generation=greeted)
    with pytest.raises(RemoteProtocolError) as caught:
        supervisor.receive(answer.encode(m.Pong(0), 1))
    assert caught.value.problem == "wrong-generation"


@each
def test_a_helper_that_dials_in_speaks_first_in_any_generation(generation):
    supervisor = Session(Role.SUPERVISOR, remote=True)
    with pytest.raises(LocalProtocolError):
        supervisor.send(m.Ping())
    news = m.NewSource("a:b=c", "pcapfile", "u")
    assert supervisor.receive(generation.encode(news, 1)) == [news]
    assert supervisor.send(m.OpenRequest("a:b=c")) == generation.encode(m.OpenRequest("a:b=c"), 1)


def test_only_a_supervisor_that_has_not_spoken_greets():
    with pytest.raises(LocalProtocolError):
        Session(Role.HELPER).greeting()


# numbers


@each
def test_numbers_start_at_one_and_skip_zero(generation):
    session = Session(Role.SUPERVISOR, generation=generation)
    assert session.send(m.Ping()) == generation.encode(m.Ping(), 1)
    session.last_seqno = 0xFFFFFFFF
    assert session.send(m.Ping()) == generation.encode(m.Ping(), 1)


def test_a_refused_message_takes_no_number():
    session = Session(Role.SUPERVISOR, generation=v3)
    with pytest.raises(LocalProtocolError):
        session.send(m.ConfigureRequest("6"))
    with pytest.raises(LocalProtocolError):
        session.send(m.CloseRequest())
    assert session.last_seqno == 0


# after an error


def test_what_came_before_a_bad_frame_is_not_lost():
    session = at(Role.SUPERVISOR, Phase.OPEN, v3)
    packet = v3.encode_packet(b"abc", 1, 2, 3, 3, 4)
    good = packet * 3 + v3.encode(m.Text(m.Severity.INFO, "hi"), 5) + packet
    with pytest.raises(RemoteProtocolError) as caught:
        session.receive(good + b"garbage that is no frame")
    error = caught.value
    assert (error.problem, error.at, error.excerpt) == (
        "bad-signature",
        len(good),
        b"garbage that is no frame",
    )
    first, text, last = error.before
    assert (first.packets, text, last.packets) == (3, m.Text(m.Severity.INFO, "hi"), 1)


def test_a_helper_that_sends_after_an_error_is_not_listened_to():
    session = at(Role.SUPERVISOR, Phase.OPEN, v3)
    with pytest.raises(RemoteProtocolError):
        session.receive(b"x" * 12)
    for call in (lambda: session.receive(v3.encode(m.Pong(1), 1)), lambda: session.send(m.Ping())):
        with pytest.raises(LocalProtocolError) as caught:
            call()
        assert caught.value.problem == "not-allowed-now"
    session.receive_eof()


def test_a_bad_payload_is_placed_in_the_stream():
    session = at(Role.SUPERVISOR, Phase.OPEN, v3)
    session.receive(v3.encode(m.Pong(1), 1))
    bad = bytearray(v3.encode(m.Text(m.Severity.INFO, "hi"), 1))
    bad[20] = 0xC1
    with pytest.raises(RemoteProtocolError, match="MESSAGE") as caught:
        session.receive(bytes(bad))
    assert (caught.value.problem, caught.value.at) == ("bad-payload", 20)


@each
def test_an_end_inside_a_frame_is_named(generation):
    frame = generation.encode(m.Pong(1), 1)
    for cut in range(1, len(frame)):
        session = Session(Role.SUPERVISOR, generation=generation)
        assert session.receive(frame[:cut]) == []
        assert session.pending == cut
        with pytest.raises(RemoteProtocolError) as caught:
            session.receive_eof()
        assert (caught.value.problem, caught.value.at, session.phase) == ("partial-frame", 0, Phase.ERROR)
    session = Session(Role.SUPERVISOR, generation=generation)
    session.receive(frame)
    session.receive_eof()
    assert session.received == len(frame)


@each
@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.ERROR])
@pytest.mark.parametrize("role", Role)
def test_one_report_in_a_read_is_judged_as_any_other(role, phase, generation):
    """What a report meets alone in its read is what it meets with half of another behind it."""
    frame = generation.encode(m.DataReport(m.Packet(b"x", 1, 1, 1)), 1)
    found = []
    for read in (frame, frame + frame[:5]):
        session = at(role, phase, generation)
        try:
            session.receive(frame)  # from then on it is known what the peer speaks
            (run,) = session.receive(read)
            found.append((run.kind, run.data[run.start : run.stop], run.frames, run.packets, session.phase))
        except RemoteProtocolError as error:
            found.append((error.problem, error.at, error.excerpt, session.phase))
    assert found[0] == found[1]


def test_data_before_the_open_report_is_refused_with_its_place():
    session = at(Role.SUPERVISOR, Phase.OPENING, v3)
    with pytest.raises(RemoteProtocolError, match="data") as caught:
        session.receive(v3.encode_packet(b"abc", 1, 2, 3, 3, 4))
    assert caught.value.problem == "not-allowed-now"


# the bulk extension


def agreed(*numbers):
    """A supervisor's session that has given link types 1, 2, ... these interface numbers."""
    supervisor = at(Role.SUPERVISOR, Phase.READY, v3)
    supervisor.receive(v3.encode(m.Register("helperd-bulk/2"), 1))
    supervisor.send(m.Register("helperd-bulk/2"))
    for dlt, number in enumerate(numbers, 1):
        supervisor.send(m.Register("helperd-bulk/2", number, dlt))
    return supervisor


def test_the_number_is_the_supervisors_to_give():
    """A helper that names an interface itself gets nothing by it."""
    supervisor = at(Role.SUPERVISOR, Phase.READY, v3)
    supervisor.receive(v3.encode(m.Register("helperd-bulk/2", 3, 1), 1))
    assert supervisor.bulk is None
    assert not supervisor._scanner.bulk
    assert agreed(7, None, 9).bulk == {1: 7, 2: None, 3: 9}
    assert agreed(7, None, 9)._scanner.bulk == {7, 9}
    helper = at(Role.HELPER, Phase.READY, v3)
    assert helper.bulk is None
    helper.receive(v3.encode(m.Register("helperd-bulk/2"), 1))
    assert helper.bulk == {}
    for number, dlt in ((7, 1), (None, 2), (9, 3), (7, 1)):
        helper.receive(v3.encode(m.Register("helperd-bulk/2", number, dlt), 1))
    assert helper.bulk == {1: 7, 2: None, 3: 9}


@pytest.mark.parametrize(("first", "second"), [(7, 8), (None, 7), (7, None)])
def test_a_number_that_was_given_stays(first, second):
    helper = at(Role.HELPER, Phase.OPEN, v3)
    helper.receive(v3.encode(m.Register("helperd-bulk/2", first, 1), 1))
    with pytest.raises(RemoteProtocolError, match="link type 1") as caught:
        helper.receive(v3.encode(m.Register("helperd-bulk/2", second, 1), 2))
    assert caught.value.problem == "bad-payload"


@pytest.mark.parametrize("subsystem", ["helperd-bulk/1", "helperd-bulk/3", "helperd-bulk/", "weather"])
def test_another_version_agrees_on_nothing(subsystem):
    helper = at(Role.HELPER, Phase.READY, v3)
    helper.receive(v3.encode(m.Register(subsystem, 7, 1), 1))
    assert helper.bulk is None


# limits


@pytest.mark.parametrize(("generation", "limit"), [(v0, 8191), (v2, 8191), (v3, 16383)])
def test_a_packet_too_long_for_the_peer_is_cut_and_counted(generation, limit):
    helper = at(Role.HELPER, Phase.OPEN, generation)
    content = bytes(range(256)) * 80
    frame = helper.send(m.DataReport(m.Packet(content, 1, 2, 3), signal=m.Signal(dbm=-60)))
    assert limit - 32 <= len(frame) <= limit
    supervisor = at(Role.SUPERVISOR, Phase.OPEN, generation)
    (run,) = supervisor.receive(frame)
    ((dlt, sec, usec, original, cut, signal),) = generation.packets(run)
    assert (dlt, sec, usec, original, signal) == (1, 2, 3, len(content), m.Signal(dbm=-60))
    assert content.startswith(cut)
    assert helper.truncated == 1
    helper.send(m.DataReport(m.Packet(b"short", 1, 2, 3)))
    assert helper.truncated == 1


def test_an_original_length_that_is_given_is_kept_when_a_packet_is_cut():
    helper = at(Role.HELPER, Phase.OPEN, v3)
    frame = helper.send(m.DataReport(m.Packet(bytes(20000), 1, 2, 3, 65000)))
    (run,) = at(Role.SUPERVISOR, Phase.OPEN, v3).receive(frame)
    assert next(iter(v3.packets(run)))[3] == 65000


def test_our_own_supervisor_takes_whole_packets():
    helper = at(Role.HELPER, Phase.OPEN, v3)
    helper.bulk = {}
    assert helper.send_limit == MAX_FRAME
    assert len(helper.send(m.DataReport(m.Packet(bytes(200_000), 1, 2, 3)))) > 200_000


@pytest.mark.parametrize(
    ("generation", "phase", "message", "name"),
    [
        (v3, Phase.OPEN, m.Text(m.Severity.INFO, "x" * 20000), "text"),
        (v3, Phase.OPEN, m.Text(m.Severity.INFO, "\u20ac" * 20000), "text"),
        (v3, Phase.OPEN, m.Text(m.Severity.INFO, "x" * 16384), "text"),
        (v2, Phase.OPEN, m.Text(m.Severity.ALERT, "x" * 9000), "text"),
        (v0, Phase.OPEN, m.Text(m.Severity.ALERT, "x" * 9000), "text"),
        (v3, Phase.LISTING, m.ListReport(1, success=False, message="x" * 20000), "message"),
        (v3, Phase.PROBING, m.ProbeReport(1, success=False, message="x" * 20000), "message"),
        (v3, Phase.OPEN, m.ConfigureReport(1, success=False, channel="6", message="x" * 99000), "message"),
        (v3, Phase.OPEN, m.ErrorReport(0, "x" * 20000), "message"),
        (v3, Phase.OPEN, m.Shutdown("x" * 20000), "reason"),
    ],
)
def test_words_too_long_for_the_peer_are_cut_and_marked(generation, phase, message, name):
    helper, supervisor = at(Role.HELPER, phase, generation), at(Role.SUPERVISOR, phase, generation)
    frame = helper.send(message)
    assert helper.send_limit - 200 <= len(frame) <= helper.send_limit
    (heard,) = supervisor.receive(frame)
    words = getattr(heard, name)
    assert words.endswith(CUT)
    assert getattr(message, name).startswith(words.removesuffix(CUT))
    assert type(heard) is type(message)


@pytest.mark.parametrize(
    ("role", "phase", "message"),
    [
        (Role.HELPER, Phase.LISTING, m.ListReport(1, interfaces=(m.Interface("x" * 20000),))),
        (Role.HELPER, Phase.OPEN, m.ConfigureReport(1, channel="x" * 20000, message="why")),
        (Role.HELPER, Phase.OPEN, m.DataReport(m.Packet(b"", 1, 2, 3), json=m.Json("t", "x" * 20000))),
        (Role.SUPERVISOR, Phase.READY, m.OpenRequest("x" * 70000)),
    ],
)
def test_what_cannot_be_cut_is_refused(role, phase, message):
    with pytest.raises(LocalProtocolError) as caught:
        at(role, phase, v3).send(message)
    assert caught.value.problem == "frame-too-long"


# the SDK's side against the recorded requests


@each
def test_answers_to_the_recorded_requests_are_in_their_generation_with_what_the_reference_demands(generation):
    answered = 0
    for recording in rec.recordings():
        if recording["protocol"] != generation.name or recording["scenario"] in rec.VERDICTS:
            continue
        if recording["scenario"].startswith(("server-", "v0-", "v2-", "v3-")):
            continue
        helper, supervisor = Session(Role.HELPER), Session(Role.SUPERVISOR, generation=generation)
        sent = rec.stream(recording, "tosend")
        for frame in rec.frames(recording, "tosend"):
            if recording["scenario"] == "open-twice" and frame["seqno"] == 2:
                break
            (message,) = helper.receive(sent[frame["offset"] : frame["offset"] + frame["frame_len"]])
            reply = answer(message, frame["seqno"])
            if reply is None:
                continue
            supervisor.phase, supervisor.asked = helper.phase, helper.asked
            raw = helper.send(reply)
            assert supervisor.receive(raw) == [reply]
            assert supervisor.generation is generation
            answered += 1
    assert answered >= 40


def answer(message, asked):
    match message:
        case m.Ping(seqno):
            return m.Pong(seqno)
        case m.ListRequest():
            return m.ListReport(asked, interfaces=(m.Interface("wlan0", hardware="x"),), message="one")
        case m.ProbeRequest():
            return m.ProbeReport(asked, success=True, hardware="x", channels=("1", "6"), channel="6")
        case m.OpenRequest():
            return m.OpenReport(asked, dlt=127, channels=("1", "6"), uuid="U", hardware="h", message="open")
        case m.ConfigureRequest(channel):
            return m.ConfigureReport(asked, channel=channel)
        case _:
            return None
