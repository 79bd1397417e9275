"""What v3 payloads hold: msgpack maps with integer keys, and the messages they mean.

Keys and types: kismet-protocol.md, sections 1.3 and 2.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from helperd.errors import LocalProtocolError
from helperd.wire import bulk
from helperd.wire.messages import (
    CHANGES,
    LOSSES,
    AuthRequest,
    AuthToken,
    Changed,
    ConfigureReport,
    ConfigureRequest,
    DataReport,
    ErrorReport,
    Event,
    EventPublish,
    EventRegister,
    Gps,
    Hopping,
    HttpCancel,
    HttpRegister,
    HttpRequest,
    HttpResponse,
    Interface,
    Json,
    ListReport,
    ListRequest,
    Lost,
    NewSource,
    OpenReport,
    OpenRequest,
    Packet,
    Ping,
    Pong,
    ProbeReport,
    ProbeRequest,
    Register,
    Severity,
    Shutdown,
    Signal,
    Text,
    Unknown,
)
from helperd.wire.mpack import Fields, Malformed, unpack

if TYPE_CHECKING:
    from collections.abc import Callable

    from helperd.wire.frames import ControlFrame
    from helperd.wire.messages import Message


class Type(enum.IntEnum):
    """Packet types of the header."""

    REGISTER = 1
    PING = 2
    PONG = 3
    SHUTDOWN = 4
    MESSAGE = 5
    ERROR = 6
    PROBEREQ = 10
    PROBEREPORT = 11
    OPENREQ = 12
    OPENREPORT = 13
    LISTREQ = 14
    LISTREPORT = 15
    PACKET = 16
    CONFIGREQ = 17
    CONFIGREPORT = 18
    NEWSOURCE = 19
    EVENTREGISTER = 32
    EVENT = 33
    EVENTPUBLISH = 34
    HTTPREGISTER = 64
    HTTPREQUEST = 65
    HTTPCANCEL = 66
    HTTPRESPONSE = 67
    AUTHREQ = 68
    AUTHTOKEN = 69
    BULK = bulk.TYPE
    COUNT = bulk.COUNT


PROBLEM: Final = 64
"""Key of the problem word in a report that says no; helperd's own, beyond the keys of the protocol."""
NANOSECONDS: Final = 64
"""Key of what a JSON report's time has beyond its microseconds; helperd's own, too."""
_SEVERITIES: Final = {severity.value for severity in Severity}


def decode(frame: ControlFrame) -> Message:
    """Say what a frame means.

    Raises:
        Malformed: its payload is not what its type demands.
    """
    kind = frame.command
    if kind == Type.PING:
        return Ping(seqno=frame.seqno)
    if kind == Type.PONG:
        return Pong(frame.seqno)
    if kind == Type.LISTREQ:
        return ListRequest(seqno=frame.seqno)
    if kind == Type.AUTHREQ:
        return AuthRequest(seqno=frame.seqno)
    if kind not in _DECODERS:
        return Unknown(str(kind), seqno=frame.seqno)
    return _DECODERS[kind](unpack(frame.payload), frame)


def _decode_error(fields: Fields, frame: ControlFrame) -> ErrorReport:
    return ErrorReport(frame.seqno, fields.text(1), problem=fields.text(PROBLEM))


def _decode_open(fields: Fields, frame: ControlFrame) -> OpenReport:
    return OpenReport(
        request=fields.required_uint(1),
        success=frame.code != 0,
        dlt=fields.optional_uint(2),
        capture_interface=fields.text(3),
        channels=fields.texts(4),
        channel=fields.text(5),
        hopping=_decode_hopping(fields.fields(6)),
        hardware=fields.text(7),
        uuid=fields.text(8),
        message=fields.text(9),
        version=fields.text(10),
        problem=fields.text(PROBLEM),
    )


def _decode_probe(fields: Fields, frame: ControlFrame) -> ProbeReport:
    inner = fields.fields(2) or Fields([])
    return ProbeReport(
        request=fields.required_uint(1),
        success=frame.code != 0,
        message=fields.text(3),
        hardware=inner.text(3),
        capture_interface=inner.text(4),
        channel=inner.text(5),
        channels=inner.texts(6),
        problem=fields.text(PROBLEM),
    )


def _decode_list(fields: Fields, frame: ControlFrame) -> ListReport:
    return ListReport(
        request=fields.required_uint(1),
        success=frame.code == 0,
        interfaces=tuple(
            Interface(item.required_text(1), item.text(2), item.text(3), item.text(4))
            for item in fields.maps(2)
        ),
        message=fields.text(3),
        version=fields.text(4),
        problem=fields.text(PROBLEM),
    )


def _decode_configure_report(fields: Fields, frame: ControlFrame) -> ConfigureReport:
    return ConfigureReport(
        request=fields.required_uint(1),
        success=frame.code != 0,
        channel=fields.text(2),
        hopping=_decode_hopping(fields.fields(3)),
        message=fields.text(4),
        problem=fields.text(PROBLEM),
    )


def _decode_configure(fields: Fields, frame: ControlFrame) -> ConfigureRequest:
    if (1 in fields) == (2 in fields):
        raise Malformed("exactly one of channel and hopping is required")
    return ConfigureRequest(fields.text(1), _decode_hopping(fields.fields(2)), seqno=frame.seqno)


def _decode_hopping(fields: Fields | None) -> Hopping | None:
    if fields is None:
        return None
    return Hopping(
        channels=fields.texts(5),
        rate=fields.real(1),
        shuffle=fields.flag(2),
        skip=fields.optional_uint(3),
        offset=fields.optional_uint(4),
    )


def _decode_text(fields: Fields, _: ControlFrame) -> Text:
    value = fields.required_uint(1)
    if value not in _SEVERITIES:
        raise Malformed(f"severity {value} is unknown")
    return Text(Severity(value), fields.required_text(2))


def _decode_count(fields: Fields, _: ControlFrame) -> Lost | Changed:
    reason, packets = fields.required_text(1), fields.required_uint(2)
    if reason not in {*LOSSES, *CHANGES} or not 0 < packets < 1 << 64:
        words = ", ".join((*LOSSES, *CHANGES))
        raise Malformed(f"{packets} packets counted under {reason!r}; the words are {words}")
    return Lost(reason, packets) if reason in LOSSES else Changed(reason, packets)


def _decode_http_response(fields: Fields, _: ControlFrame) -> HttpResponse:
    return HttpResponse(
        id=fields.required_uint(1),
        headers=fields.pairs_of_text(2),
        content=fields.binary(3),
        status=fields.optional_uint(4),
        close=fields.flag(5),
    )


def _decode_token(fields: Fields, _: ControlFrame) -> AuthToken:
    """The server writes key 69 where 1 is defined (kismet-protocol.md, S5)."""
    return AuthToken(fields.text(1) if 1 in fields else fields.required_text(69))


def decode_data(payload: bytes) -> DataReport:
    """A data report, in general.

    Raises:
        Malformed: it is none.
    """
    fields = unpack(payload)
    packet, signal, gps, json = (fields.fields(key) for key in (4, 2, 1, 5))
    content = None if packet is None else packet.blob(6)
    return DataReport(
        packet=None
        if packet is None or content is None
        else Packet(
            content=content,
            dlt=packet.optional_uint(1),
            sec=packet.optional_uint(2),
            usec=packet.uint(3),
            original=packet.optional_uint(4),
        ),
        signal=None if signal is None else decode_signal(signal),
        gps=None if gps is None else _decode_gps(gps),
        json=None if json is None else _decode_json(json),
    )


def _decode_json(json: Fields) -> Json:
    nsec = json.uint(NANOSECONDS)
    if nsec > 999:
        raise Malformed(f"{nsec} nanoseconds beyond a microsecond")
    return Json(json.required_text(1), json.required_text(4), json.optional_uint(2), json.uint(3), nsec)


def decode_signal(fields: Fields) -> Signal:
    """The signal block of a data report."""
    return Signal(
        dbm=fields.signed32(1),
        noise_dbm=fields.signed32(2),
        rssi=fields.signed32(3),
        noise_rssi=fields.signed32(4),
        khz=fields.optional_uint(5),
        channel=fields.text(7),
        rate=fields.optional_uint(6),
    )


def _decode_gps(fields: Fields) -> Gps:
    """C helpers write the receiver's name a second time under the type's key (kismet-protocol.md, H16)."""
    tens = [value for key, value in fields.pairs if key == 10]
    doubled = len(tens) == 2 and 11 not in fields
    if len(tens) > 1:
        fields = Fields([pair for pair in fields.pairs if pair[0] != 10] + [(10, tens[0])])
        if doubled:
            fields = Fields([*fields.pairs, (11, tens[1])])
    return Gps(
        latitude=fields.real(1) or 0.0,
        longitude=fields.real(2) or 0.0,
        altitude=fields.real(3) or 0.0,
        fix=fields.uint(4),
        speed=fields.real(5) or 0.0,
        heading=fields.real(6) or 0.0,
        precision=fields.real(7) or 0.0,
        sec=fields.required_uint(8),
        usec=fields.required_uint(9),
        type=fields.text(10),
        name=fields.text(11),
        uuid=fields.text(12),
    )


_DECODERS: Final[dict[int | str, Callable[[Fields, ControlFrame], Message]]] = {
    Type.REGISTER: lambda fields, _: Register(
        fields.required_text(1), fields.optional_uint(bulk.KEY), fields.optional_uint(bulk.KEY_DLT)
    ),
    Type.COUNT: _decode_count,
    Type.SHUTDOWN: lambda fields, _: Shutdown(fields.text(1)),
    Type.MESSAGE: _decode_text,
    Type.ERROR: _decode_error,
    Type.PROBEREQ: lambda fields, frame: ProbeRequest(fields.required_text(1), seqno=frame.seqno),
    Type.PROBEREPORT: _decode_probe,
    Type.OPENREQ: lambda fields, frame: OpenRequest(fields.required_text(1), seqno=frame.seqno),
    Type.OPENREPORT: _decode_open,
    Type.LISTREPORT: _decode_list,
    Type.CONFIGREQ: _decode_configure,
    Type.CONFIGREPORT: _decode_configure_report,
    Type.NEWSOURCE: lambda fields, _: NewSource(*(fields.required_text(key) for key in (1, 2, 3))),
    Type.EVENTREGISTER: lambda fields, _: EventRegister(fields.texts(1)),
    Type.EVENT: lambda fields, _: Event(fields.required_text(1)),
    Type.EVENTPUBLISH: lambda fields, _: EventPublish(fields.required_text(1), fields.required_text(2)),
    Type.HTTPREGISTER: lambda fields, _: HttpRegister(fields.required_text(1), fields.required_text(2)),
    Type.HTTPREQUEST: lambda fields, _: HttpRequest(
        fields.required_uint(1), fields.required_text(2), fields.required_text(3), fields.pairs_of_text(4)
    ),
    Type.HTTPCANCEL: lambda fields, _: HttpCancel(fields.required_uint(1)),
    Type.HTTPRESPONSE: _decode_http_response,
    Type.AUTHTOKEN: _decode_token,
}


Parts = tuple[Type, int, int, "dict[int, object] | None"]


def encode(message: Message, seqno: int) -> Parts:  # noqa: C901, PLR0911, PLR0912 - one arm per message
    """Packet type, result code, header seqno and payload fields (None: no payload) of a message.

    Raises:
        LocalProtocolError: "not-supported" when v3 has no such message.
    """
    match message:
        case Ping():
            return Type.PING, 1, seqno, None
        case Pong(request):
            return Type.PONG, 0, request, None
        case ListRequest():
            return Type.LISTREQ, 1, seqno, None
        case AuthRequest():
            return Type.AUTHREQ, 0, seqno, None
        case Shutdown(reason):
            return Type.SHUTDOWN, 1, seqno, {1: reason}
        case Text(severity, text):
            return Type.MESSAGE, 0, seqno, {1: int(severity), 2: text}
        case Register(subsystem, interface, dlt):
            return Type.REGISTER, 0, seqno, _present({1: subsystem, bulk.KEY: interface, bulk.KEY_DLT: dlt})
        case Lost(reason, packets) | Changed(reason, packets):
            return Type.COUNT, 0, seqno, {1: reason, 2: packets}
        case ProbeRequest(definition):
            return Type.PROBEREQ, 1, seqno, {1: definition}
        case OpenRequest(definition):
            return Type.OPENREQ, 1, seqno, {1: definition}
        case ConfigureRequest(channel, hopping):
            fields: dict[int, object] = {1: channel} if hopping is None else {2: _hopping(hopping)}
            return Type.CONFIGREQ, 1, seqno, fields
        case ListReport():
            return _list_report(message, seqno)
        case ProbeReport():
            return _probe_report(message)
        case OpenReport():
            return _open_report(message)
        case ConfigureReport():
            fields = _texts({2: message.channel, 4: message.message, PROBLEM: message.problem})
            if message.hopping is not None:
                fields[3] = _hopping(message.hopping)
            return Type.CONFIGREPORT, int(message.success), message.request, {1: message.request} | fields
        case ErrorReport(request, text, problem=problem):
            return Type.ERROR, 1, request, _texts({1: text, PROBLEM: problem})
        case NewSource(definition, sourcetype, uuid):
            return Type.NEWSOURCE, 0, seqno, {1: definition, 2: sourcetype, 3: uuid}
        case DataReport():
            return Type.PACKET, 0, seqno, _data_report(message)
        case EventRegister(events):
            return Type.EVENTREGISTER, 0, seqno, {1: events}
        case Event(json):
            return Type.EVENT, 1, seqno, {1: json}
        case EventPublish(kind, json):
            return Type.EVENTPUBLISH, 0, seqno, {1: kind, 2: json}
        case HttpRegister(uri, method):
            return Type.HTTPREGISTER, 0, seqno, {1: uri, 2: method}
        case HttpRequest(ident, uri, method, variables):
            fields = {1: ident, 2: uri, 3: method}
            return Type.HTTPREQUEST, 1, seqno, fields | ({4: dict(variables)} if variables else {})
        case HttpCancel(ident):
            return Type.HTTPCANCEL, 1, seqno, {1: ident}
        case HttpResponse(ident, headers, content, status, close):
            fields = _present({1: ident, 3: content, 4: status, 5: close})
            return Type.HTTPRESPONSE, 0, seqno, fields | ({2: dict(headers)} if headers else {})
        case AuthToken(token):
            return Type.AUTHTOKEN, 1, seqno, {1: token}
        case _:
            raise _not_supported(message)


def _not_supported(message: Message) -> LocalProtocolError:
    return LocalProtocolError("not-supported", f"v3 cannot carry this {type(message).__name__}")


def _present(fields: dict[int, object]) -> dict[int, object]:
    return {key: value for key, value in fields.items() if value is not None}


def _texts(fields: dict[int, str]) -> dict[int, object]:
    return {key: value for key, value in fields.items() if value}


def _list_report(report: ListReport, seqno: int) -> Parts:
    interfaces = [
        {1: item.name, 2: item.flags} | _texts({3: item.hardware, 4: item.capture_interface})
        for item in report.interfaces
    ]
    fields: dict[int, object] = {1: report.request, 2: interfaces}
    return (
        Type.LISTREPORT,
        int(not report.success),
        seqno,
        fields | _texts({3: report.message, 4: report.version, PROBLEM: report.problem}),
    )


def _probe_report(report: ProbeReport) -> Parts:
    inner = _texts({3: report.hardware, 4: report.capture_interface, 5: report.channel})
    if report.channels:
        inner[6] = report.channels
    fields: dict[int, object] = {1: report.request, 2: inner, 3: report.message}
    return (
        Type.PROBEREPORT,
        int(report.success),
        report.request,
        fields | _texts({PROBLEM: report.problem}),
    )


def _open_report(report: OpenReport) -> Parts:
    fields: dict[int, object] = {1: report.request}
    if report.dlt is not None:
        fields[2] = report.dlt
    if report.channels:
        fields[4] = report.channels
    if report.hopping is not None:
        fields[6] = _hopping(report.hopping)
    fields |= _texts({3: report.capture_interface, 5: report.channel, 7: report.hardware})
    fields |= _texts({8: report.uuid, 9: report.message, 10: report.version, PROBLEM: report.problem})
    return Type.OPENREPORT, int(report.success), report.request, fields


def _hopping(hopping: Hopping) -> dict[int, object]:
    fields = _present(
        {1: hopping.rate, 2: hopping.shuffle, 3: hopping.skip, 4: hopping.offset},
    )
    return fields | ({5: hopping.channels} if hopping.channels else {})


def _data_report(report: DataReport) -> dict[int, object]:
    if report.buffer is not None or report.message is not None or report.warning:
        raise _not_supported(report)
    fields: dict[int, object] = {}
    if report.gps is not None:
        fields[1] = _gps(report.gps)
    if report.signal is not None:
        fields[2] = _signal(report.signal)
    if report.packet is not None:
        packet = report.packet
        fields[4] = _present(
            {1: packet.dlt, 2: packet.sec, 3: packet.usec, 4: packet.original, 6: packet.content}
        )
    if report.json is not None:
        json = report.json
        nsec = json.nsec or None
        fields[5] = _present({1: json.type, 2: json.sec, 3: json.usec, 4: json.text, NANOSECONDS: nsec})
    return fields


def _signal(signal: Signal) -> dict[int, object]:
    levels = {1: signal.dbm, 2: signal.noise_dbm, 3: signal.rssi, 4: signal.noise_rssi}
    fields: dict[int, object] = {
        key: round(value) & 0xFFFFFFFF for key, value in levels.items() if value is not None
    }
    fields |= {
        key: round(value) for key, value in {5: signal.khz, 6: signal.rate}.items() if value is not None
    }
    return fields | _texts({7: signal.channel})


def _gps(gps: Gps) -> dict[int, object]:
    fields: dict[int, object] = {
        1: gps.latitude,
        2: gps.longitude,
        3: gps.altitude,
        4: gps.fix,
        5: gps.speed,
        6: gps.heading,
        7: gps.precision,
        8: gps.sec,
        9: gps.usec,
    }
    return fields | _texts({10: gps.type, 11: gps.name, 12: gps.uuid})
