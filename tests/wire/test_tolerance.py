"""What real peers do that they should not: each deviation we accept, or refuse on purpose, has its test.

The letters are the rows of kismet-protocol.md, section 10.
"""

import struct

import pytest

from helperd.errors import LocalProtocolError, RemoteProtocolError
from helperd.wire import messages as m
from helperd.wire import v0, v2, v3
from helperd.wire.definition import SourceDefinition
from helperd.wire.frames import FrameScanner
from helperd.wire.generations import GENERATIONS
from helperd.wire.keepalive import INTERVAL, LIMIT
from helperd.wire.mpack import pack
from helperd.wire.session import V2_PING, Phase, Role, Session


def v3_frame(kind, payload, code=0, seqno=1):
    return struct.pack(">QIHHI", 0xDECAFBADA9A90003, len(payload), kind, code, seqno) + payload


def decode(frame, generation=v3):
    (item,) = FrameScanner((generation,)).feed(frame)
    return generation.decode(item)


def refused(frame, generation=v3):
    with pytest.raises(RemoteProtocolError) as caught:
        decode(frame, generation)
    return caught.value.problem


def packets(frame, generation=v3):
    (run,) = FrameScanner((generation,)).feed(frame)
    found = list(generation.packets(run))
    assert found == list(generation.packets_general(run))
    return found


def opened(generation):
    session = Session(Role.SUPERVISOR, generation=generation)
    session.phase = Phase.OPEN
    return session


# servers


def test_s1_a_list_report_succeeds_with_zero_and_the_others_with_not_zero():
    for code in (0, 1, 7):
        assert decode(v3_frame(15, pack({1: 5}), code)).success is (code == 0)
        for kind in (11, 13, 18):
            assert decode(v3_frame(kind, pack({1: 5}), code)).success is (code != 0)


def test_s3_a_report_is_matched_by_its_payload_whatever_the_header_says():
    report = decode(v3_frame(13, pack({1: 70001}), 1, seqno=70001 & 0xFFFF))
    assert report.request == 70001


def test_s4_an_event_published_with_the_type_in_both_keys_is_read_as_it_is():
    assert decode(v3_frame(34, pack({1: "T", 2: "T"}))) == m.EventPublish("T", "T")


def test_s5_a_token_under_key_69_is_accepted_and_so_is_one_under_key_1():
    assert decode(v3_frame(69, pack({69: "secret"}))) == m.AuthToken("secret")
    assert decode(v3_frame(69, pack({1: "secret"}))) == m.AuthToken("secret")


def test_s13_a_regenerated_definition_with_a_comma_list_without_quotes_keeps_its_list():
    definition = SourceDefinition.parse('wlan0:channels="1,6,11",name=x,type=linuxwifi')
    assert definition.regenerated() == "wlan0:channels=1,6,11,name=x,type=linuxwifi"
    assert SourceDefinition.parse(definition.regenerated()) == definition


def test_s14_a_failed_configure_report_leaves_the_session_open():
    """For a Kismet server it is fatal; here the supervisor decides."""
    session = opened(v3)
    session.receive(v3.encode(m.ConfigureReport(2, success=False, message="no"), 3))
    assert session.phase is Phase.OPEN


def test_s15_a_failed_probe_report_for_something_else_does_not_end_the_probe():
    session = Session(Role.SUPERVISOR, generation=v3)
    session.last_seqno = 8
    session.send(m.ProbeRequest("a"))
    session.receive(v3.encode(m.ProbeReport(3, success=False, message="unsupported"), 1))
    assert session.phase is Phase.PROBING
    session.receive(v3.encode(m.ProbeReport(9), 1))
    assert session.phase is Phase.READY


@pytest.mark.parametrize(
    "gps",
    [{1: 1.0, 2: 2.0}, {1: 1.0, 8: 5}, {1: 1.0, 9: 5}],
    ids=["no time", "no microseconds", "no seconds"],
)
def test_s24_a_position_without_both_times_is_refused(gps):
    (run,) = FrameScanner((v3,)).feed(v3_frame(16, pack({1: gps})))
    with pytest.raises(RemoteProtocolError) as caught:
        list(v3.packets(run))
    assert caught.value.problem == "bad-payload"


def test_s24_a_negative_level_or_a_float_for_an_integer_is_refused():
    for signal in ({1: -60}, {1: -60.0}, {5: 2437000.0}):
        (run,) = FrameScanner((v3,)).feed(v3_frame(16, pack({2: signal, 4: {6: b"x"}})))
        with pytest.raises(RemoteProtocolError):
            list(v3.packets(run))


def test_s24_a_level_is_the_complement_of_a_negative_number():
    ((*_, signal),) = packets(v3_frame(16, pack({2: {1: 0xFFFFFFC4, 5: 2437000}, 4: {1: 1, 6: b"x"}})))
    assert signal == m.Signal(dbm=-60, khz=2437000)
    assert v3.encode(m.DataReport(signal=m.Signal(dbm=-60)), 1)[20:].hex() == "81028101ceffffffc4"


def test_s24_http_content_as_text_is_refused():
    assert refused(v3_frame(67, pack({1: 1, 3: "text"}))) == "bad-payload"
    assert decode(v3_frame(67, pack({1: 1, 3: b"bytes"}))) == m.HttpResponse(1, content=b"bytes")


def test_s25_a_json_block_without_its_text_is_refused_rather_than_losing_the_packet():
    (run,) = FrameScanner((v3,)).feed(v3_frame(16, pack({4: {6: b"x"}, 5: {1: "type"}})))
    with pytest.raises(RemoteProtocolError):
        list(v3.packets(run))


def test_s29_and_s28_are_about_descriptors_and_not_the_wire():
    """Non-blocking pipe ends and inherited ones are the shells' business: a session takes any piece of a stream."""
    session = opened(v3)
    for byte in v3.encode(m.Pong(1), 1):
        heard = session.receive(bytes((byte,)))
    assert heard == [m.Pong(1)]


def test_s33_frames_to_a_server_of_2025_stay_below_16384_bytes():
    helper = Session(Role.HELPER, generation=v3)
    helper.phase = Phase.OPEN
    assert len(helper.send(m.DataReport(m.Packet(bytes(65535), 1, 2, 3)))) <= 16383


def test_s36_what_pads_a_command_is_never_compared():
    garbage = bytearray(V2_PING)
    garbage[43] = 0x6F
    assert decode(bytes(garbage), v2) == m.Ping()
    data = bytearray(v2.encode(m.DataReport(m.Packet(b"x", 1, 2, 3)), 1))
    data[26:44] = bytes(range(1, 19))
    assert packets(bytes(data), v2) == [(1, 2, 3, 1, b"x", None)]


@pytest.mark.parametrize("generation", [v0, v2], ids=["v0", "v2"])
def test_s36_commands_are_taken_in_any_case_as_c_helpers_do(generation):
    frame = generation.encode(m.Ping(), 4).replace(b"PING", b"ping")
    if generation is v0:
        frame = frame[:4] + struct.pack(">I", v0.checksum(frame[12:])) + frame[8:]
    helper = Session(Role.HELPER)
    assert helper.receive(frame) == [m.Ping()]


def colliding(word):
    """A v0 MESSAGE whose checksum is ``word``: its text has the sum of its bytes, moved about until both halves fit."""
    text = bytearray([60] * 1100)
    payload = bytearray(v0.encode(m.Text(m.Severity.INFO, text.decode()), 1)[12:])
    start = len(payload) - len(text)
    missing = (word - sum(payload)) & 0xFFFF
    for at in range(len(text)):
        text[at] += missing // len(text) + (at < missing % len(text))
    payload[start:] = text
    missing = (word - v0.checksum(bytes(payload)) >> 16) & 0xFFFF
    first = 0
    while missing:
        distance = min(missing, 1000)
        units = min(40, missing // distance)
        payload[start + first] += units
        payload[start + first + distance] -= units
        missing -= units * distance
        first += 1
    return struct.pack(">III", 0xDECAFBAD, v0.checksum(bytes(payload)), len(payload)) + bytes(payload)


@pytest.mark.parametrize("word", [0xABCD0002, 0xA9A90003], ids=["v2", "v3"])
def test_s37_a_checksum_that_looks_like_another_generation_is_a_checksum_once_the_peer_is_known(word):
    frame = colliding(word)
    assert frame[4:8] == struct.pack(">I", word)
    session = Session(Role.SUPERVISOR, generation=v0)
    session.receive(v0.encode(m.Pong(1), 1))
    (text,) = session.receive(frame)
    assert isinstance(text, m.Text)


def test_s37_as_a_first_frame_it_is_told_by_what_may_come():
    """An old helper may answer in v0 or v2, so only a checksum that looks like v2 misleads, one in 2**32."""
    (text,) = Session(Role.SUPERVISOR, generation=v0).receive(colliding(0xA9A90003))
    assert isinstance(text, m.Text)
    session = Session(Role.SUPERVISOR, generation=v0)
    assert session.receive(colliding(0xABCD0002)) == []
    with pytest.raises(RemoteProtocolError):
        session.receive_eof()


# C helpers


def test_h1_every_send_is_one_frame_to_be_written_by_itself():
    session = Session(Role.SUPERVISOR, generation=v3)
    for message in (m.Ping(), m.ListRequest()):
        assert len(FrameScanner((v3,)).feed(session.send(message))) == 1


@pytest.mark.parametrize("generation", GENERATIONS, ids=lambda generation: generation.name)
def test_h5_a_command_that_is_not_known_is_answered_by_a_failed_probe_report(generation):
    session = opened(generation)
    session.receive(generation.encode(m.ProbeReport(2, success=False, message="Unsupported request"), 1))
    assert session.phase is Phase.OPEN
    with pytest.raises(RemoteProtocolError) as caught:
        session.receive(generation.encode(m.ProbeReport(2), 1))
    assert caught.value.problem == "not-allowed-now"


def test_h6_pings_after_the_greeting_are_of_the_helpers_generation_and_in_time():
    session = Session(Role.SUPERVISOR)
    session.receive(v3.encode(m.Pong(0), 1))
    assert session.greeting()[:8] == session.send(m.Ping())[:8] == bytes.fromhex("decafbada9a90003")
    assert INTERVAL * 2 < LIMIT == 15


def test_h9_a_link_type_that_is_nonsense_is_passed_on_as_it_is():
    assert decode(v3_frame(13, pack({1: 1, 2: 0xDEADBEEF}), 1)).dlt == 0xDEADBEEF


def test_h10_success_is_what_the_flag_says_whatever_the_callback_returned():
    report = bytes.fromhex("0a0408001009")
    frame = v2.encode(m.OpenReport(9, success=False), 1)
    assert frame[48:] == report
    assert decode(frame, v2).success is False


def test_h11_a_uuid_with_the_rest_of_the_definition_behind_it_is_passed_on_as_text():
    uuid = "12345678-1234-1234-1234-123456789ABC,name=foo"
    assert decode(v3_frame(19, pack({1: "a", 2: "pcapfile", 3: uuid}))).uuid == uuid


def test_h13_a_uuid_padded_with_spaces_is_passed_on_as_text():
    assert (
        decode(v3.encode(m.OpenReport(1, uuid="53640727-0000-0000-0000-    12345678"), 1)).uuid.count(" ")
        == 4
    )


def test_h16_a_position_whose_name_is_under_the_key_of_its_type_a_second_time():
    fields = b"\x84\x08\x05\x09\x06\x0a\xa4gpsd\x0a\xa5outer"
    (run,) = FrameScanner((v3,)).feed(v3_frame(16, b"\x81\x01" + fields))
    (report,) = v3.reports(run)
    assert (report.gps.type, report.gps.name) == ("gpsd", "outer")


def test_h16_a_position_with_a_name_of_its_own_keeps_its_first_type():
    fields = b"\x85\x08\x05\x09\x06\x0a\xa1a\x0a\xa1b\x0b\xa1c"
    (run,) = FrameScanner((v3,)).feed(v3_frame(16, b"\x81\x01" + fields))
    (report,) = v3.reports(run)
    assert (report.gps.type, report.gps.name) == ("a", "c")


def test_h16_a_signal_block_without_its_zeros_is_a_signal():
    ((*_, signal),) = packets(v3_frame(16, pack({2: {}, 4: {1: 1, 6: b"x"}})))
    assert signal == m.Signal()


def test_h19_an_error_frame_answers_a_list_that_failed():
    session = Session(Role.SUPERVISOR, generation=v3)
    session.send(m.ListRequest())
    session.receive(v3_frame(6, pack({1: "no permission"}), 1, seqno=1))
    assert session.phase is Phase.CLOSING
    assert decode(v3_frame(6, pack({}), 1, seqno=4)) == m.ErrorReport(4)


def test_h22_a_report_without_a_message_is_a_report():
    assert decode(v2.encode(m.OpenReport(1), 1), v2).message == ""


def test_h23_a_configure_report_that_nobody_asked_for_is_taken():
    session = opened(v3)
    report = m.ConfigureReport(0, hopping=m.Hopping(("1", "6")), message="removed 2 channels")
    assert session.receive(v3.encode(report, 1)) == [report]


def test_h25_the_greeting_is_one_piece_of_48_bytes():
    assert len(Session(Role.SUPERVISOR).greeting()) == 48


def test_hop_config_with_enabled_as_an_integer_is_taken():
    """25.09 writes true in one report and 1 in the other; nobody reads it (2.3)."""
    for enabled in (True, 1):
        report = decode(v3_frame(18, pack({1: 1, 3: {1: 5.0, 6: enabled}}), 1))
        assert report.hopping == m.Hopping(rate=5.0)


def test_a_number_that_is_a_float_of_either_width_or_an_integer_is_a_rate():
    for raw in (b"\xca\x40\xa0\0\0", b"\xcb\x40\x14\0\0\0\0\0\0", b"\x05"):
        assert decode(v3_frame(17, b"\x81\x02\x82\x05\x91\xa11\x01" + raw)).hopping.rate == 5.0


def test_bytes_behind_a_msgpack_map_are_ignored():
    assert decode(v3_frame(10, pack({1: "a"}) + b"\xc1\xff")) == m.ProbeRequest("a")
    content = {1: 1, 2: 1700000000, 3: 7, 4: 3, 6: b"abc"}
    assert packets(v3_frame(16, b"\x81\x04" + pack(content) + b"junk")) == [
        (1, 1700000000, 7, 3, b"abc", None)
    ]


def test_unknown_keys_are_skipped_and_known_ones_may_not_come_twice():
    assert decode(v3_frame(10, pack({200: "x", 1: "a", 7: [1, 2]}))) == m.ProbeRequest("a")
    assert decode(v3_frame(10, b"\x83\x07\x01\x07\x01\x01\xa1a")) == m.ProbeRequest("a")
    assert refused(v3_frame(10, b"\x82\x01\xa1a\x01\xa1b")) == "bad-payload"


def test_packet_content_as_text_is_taken_and_a_packet_block_without_content_is_none():
    assert packets(v3_frame(16, pack({4: {1: 1, 2: 2, 3: 3, 6: "abc"}}))) == [(1, 2, 3, 3, b"abc", None)]
    assert packets(v3_frame(16, pack({4: {1: 1, 2: 2, 3: 3}}))) == []


def test_a_packet_without_time_or_link_type_leaves_them_to_the_receiver():
    assert packets(v3_frame(16, pack({4: {6: b"abc"}}))) == [(None, None, 0, 3, b"abc", None)]


def test_names_from_the_air_need_not_be_utf8():
    assert decode(v3_frame(5, b"\x82\x01\x02\x02\xa2\xff\xfe")).text == "\\xff\\xfe"
    frame = v2.encode(m.Text(m.Severity.INFO, "??"), 1).replace(b"??", b"\xff\xfe")
    assert decode(frame, v2).text == "\\xff\\xfe"


def test_an_original_length_of_zero_is_the_contents():
    frame = v2.encode(m.DataReport(m.Packet(b"abc", 1, 2, 3, 0)), 1)
    assert packets(frame, v2) == [(1, 2, 3, 3, b"abc", None)]


@pytest.mark.parametrize("payload", [b"", b"\x80", b"\xff" * 20, b"\xc1"])
def test_what_is_never_parsed_may_hold_anything(payload):
    for kind, message in ((2, m.Ping()), (3, m.Pong(1)), (14, m.ListRequest()), (68, m.AuthRequest())):
        assert decode(v3_frame(kind, payload)) == message


def test_an_empty_payload_is_refused_where_a_map_is_due():
    for kind in (4, 5, 10, 11, 12, 13, 15, 17, 18, 19):
        assert refused(v3_frame(kind, b"")) == "bad-payload"


# the public Python client


def test_p2_an_error_report_under_its_wrong_name_is_an_error_report():
    payload = v2.encode(m.ErrorReport(3, "broke"), 1)[48:]
    frame = struct.pack(">QI32sI", 0xDECAFBADABCD0002, len(payload), b"KDSERROR", 1) + payload
    assert decode(frame, v2) == m.ErrorReport(3, "broke")


def test_p5_a_report_with_fields_nobody_reads_is_taken():
    report = (
        v2.encode(m.DataReport(m.Packet(b"abc", 1, 2, 3)), 1)[48:] + b"\x2a\x02\x08\x01" + b"\x49" + bytes(8)
    )
    frame = struct.pack(">QI32sI", 0xDECAFBADABCD0002, len(report), b"KDSDATAREPORT", 1) + report
    assert packets(frame, v2) == [(1, 2, 3, 3, b"abc", None)]


def test_p6_a_ping_from_a_helper_may_be_answered_in_every_phase():
    for phase in Phase:
        if phase is Phase.ERROR:
            continue
        session = Session(Role.SUPERVISOR, generation=v0)
        session.phase = phase
        (ping,) = session.receive(v0.encode(m.Ping(), 0))
        assert session.send(m.Pong(ping.seqno))


def test_p9_quoted_options_stand_last_in_what_we_write():
    definition = SourceDefinition.parse('a:channels="1,6",name=x')
    assert definition.text() == 'a:name=x,channels="1,6"'


def test_p10_a_number_that_is_zero_is_a_number():
    session = Session(Role.SUPERVISOR, generation=v0)
    assert session.receive(v0.encode(m.Pong(1), 0)) == [m.Pong(1)]


# strict on purpose


def test_an_unknown_severity_is_refused_in_every_generation():
    assert refused(v3_frame(5, pack({1: 3, 2: "x"}))) == "bad-payload"
    frame = bytearray(v2.encode(m.Text(m.Severity.INFO, "x"), 1))
    frame[49] = 3
    assert refused(bytes(frame), v2) == "bad-payload"


def test_an_unknown_command_is_a_message_and_no_error():
    assert decode(v3_frame(4242, b"\xff")) == m.Unknown("4242")
    payload = struct.pack(">QI32sI", 0xDECAFBADABCD0002, 0, b"NOSUCHCMD", 1)
    assert decode(payload, v2) == m.Unknown("NOSUCHCMD")
    assert opened(v3).receive(v3_frame(4242, b"")) == [m.Unknown("4242")]
    for generation in GENERATIONS:
        with pytest.raises(LocalProtocolError):
            generation.encode(m.Unknown("4242"), 1)


def test_a_missing_required_field_is_refused():
    for command in (
        b"PONG",
        b"SHUTDOWN",
        b"MESSAGE",
        b"KDSOPENSOURCEREPORT",
        b"KDSNEWSOURCE",
        b"KDSWARNINGREPORT",
    ):
        assert refused(struct.pack(">QI32sI", 0xDECAFBADABCD0002, 0, command, 1), v2) == "bad-payload"


def test_a_configure_request_with_both_or_neither_is_refused():
    for fields in ({}, {1: "6", 2: {5: ["1"]}}):
        assert refused(v3_frame(17, pack(fields))) == "bad-payload"
    assert refused(struct.pack(">QI32sI", 0xDECAFBADABCD0002, 0, b"KDSCONFIGURE", 1), v2) == "bad-payload"
