"""Generation v3: a 20-byte header and a msgpack map with integer keys.

    0 signature, 4 sentinel and version, 8 length, 12 packet type, 14 result code, 16 seqno, 20 payload

Rules:
  1. The number of the request a report answers is read from the payload; the header's copy is only PONG's and
     ERROR's.
  2. Result codes: a list report succeeds with 0, every other report with non-zero (kismet-protocol.md, S1).
  3. Payloads of PING, PONG, the list and the token request are never looked at.

Layout and keys: kismet-protocol.md, sections 1.3 and 2.
"""

from __future__ import annotations

import enum
import struct
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Final, cast

from helperd.errors import LocalProtocolError, RemoteProtocolError
from helperd.wire import bulk
from helperd.wire.frames import ControlFrame, Kind, Run
from helperd.wire.messages import (
    AuthRequest,
    AuthToken,
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
from helperd.wire.mpack import Fields, Malformed, pack, unpack, unpack_from

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from helperd.wire import frames
    from helperd.wire.frames import Generation, Scan
    from helperd.wire.messages import Message

name: Final = "v3"
number: Final = 3
header: Final = 20
receiver_limit: Final = 16383
"""Servers from 2025 on refuse a frame of 16384 bytes (kismet-protocol.md, S33)."""

WORD: Final = 0xA9A90003
_MAGIC: Final = 0xDECAFBAD_A9A90003
_HEADER = struct.Struct(">QIHHI")
_SCAN = struct.Struct(">QIH").unpack_from
_LENGTH = struct.Struct(">I").unpack_from


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


_NAMES: Final[dict[int | str, str]] = {kind.value: kind.name for kind in Type}
_SEVERITIES: Final = {severity.value for severity in Severity}


def claims(word: int) -> bool:
    """Whether a frame's second 32-bit word is v3's."""
    return word == WORD


def scan(data: bytes, start: int, at: int, scan: Scan, out: list[Run | ControlFrame]) -> int:
    """Cut v3 frames out of ``data``; the contract is ``Generation.scan``."""
    position = first = start
    frames = 0
    end = len(data)
    last = end - 20
    limit = scan.max_frame - 20
    while position <= last:
        magic, length, kind = _SCAN(data, position)
        stop = position + 20 + length
        if magic != _MAGIC or stop > end or length > limit:
            break
        if kind == 16:
            frames += 1
            position = stop
            continue
        if frames:
            out.append(Run(Kind.PACKETS, data, first, position, frames, frames))
            frames = 0
        if kind == bulk.TYPE and scan.bulk is not None:
            packets = bulk.check(data, position + 20, stop, scan.bulk, at + position)
            out.append(Run(Kind.BULK, data, position, stop, 1, packets))
        else:
            _, _, _, code, seqno = _HEADER.unpack_from(data, position)
            out.append(ControlFrame(_SELF, kind, code, seqno, data[position + 20 : stop], at + position))
        position = first = stop
    if frames:
        out.append(Run(Kind.PACKETS, data, first, position, frames, frames))
    return position


def decode(frame: ControlFrame) -> Message:
    """Say what a control frame means; the contract is ``Generation.decode``."""
    if frame.command == Type.PING:
        return Ping(seqno=frame.seqno)
    if frame.command == Type.PONG:
        return Pong(frame.seqno)
    if frame.command == Type.LISTREQ:
        return ListRequest(seqno=frame.seqno)
    if frame.command == Type.AUTHREQ:
        return AuthRequest(seqno=frame.seqno)
    if frame.command == Type.BULK:
        raise RemoteProtocolError(
            "not-allowed-now",
            "a bulk frame came, but the extension is not agreed",
            at=frame.at,
            excerpt=frame.payload,
        )
    decoder = _DECODERS.get(frame.command)
    if decoder is None:
        return Unknown(str(frame.command), seqno=frame.seqno)
    try:
        return decoder(unpack(frame.payload), frame)
    except Malformed as error:
        raise RemoteProtocolError(
            "bad-payload",
            f"v3 {_NAMES[frame.command]}: {error}",
            at=frame.at,
            excerpt=frame.payload,
        ) from None


def _decode_error(fields: Fields, frame: ControlFrame) -> ErrorReport:
    return ErrorReport(frame.seqno, fields.text(1))


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
    )


def _decode_configure_report(fields: Fields, frame: ControlFrame) -> ConfigureReport:
    return ConfigureReport(
        request=fields.required_uint(1),
        success=frame.code != 0,
        channel=fields.text(2),
        hopping=_decode_hopping(fields.fields(3)),
        message=fields.text(4),
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
        signal=None if signal is None else _decode_signal(signal),
        gps=None if gps is None else _decode_gps(gps),
        json=None
        if json is None
        else Json(json.required_text(1), json.required_text(4), json.optional_uint(2), json.uint(3)),
    )


def _decode_signal(fields: Fields) -> Signal:
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
    Type.REGISTER: lambda fields, _: Register(fields.required_text(1), fields.optional_uint(bulk.KEY)),
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


def encode(message: Message, seqno: int) -> bytes:
    """One whole frame; the contract is ``Generation.encode``.

    Args:
        message: what to say.
        seqno: number of the frame; PONG, ERROR and the probe, open and configure reports carry their
            request's.
    """
    kind, code, number, fields = _parts(message, seqno)
    payload = b"" if fields is None else pack(fields)
    return _HEADER.pack(_MAGIC, len(payload), kind, code, number & 0xFFFFFFFF) + payload


def encode_packet(content: bytes, dlt: int, sec: int, usec: int, original: int, seqno: int) -> bytes:
    """A data report with nothing but a packet, as C helpers send it; the quick way for the SDK.

    Args:
        content: captured bytes.
        dlt: libpcap link type.
        sec: seconds since 1970.
        usec: microseconds.
        original: length on the air in bytes.
        seqno: number of the frame.
    """
    payload = b"\x81\x04" + pack({1: dlt, 2: sec, 3: usec, 4: original, 6: content})
    return _HEADER.pack(_MAGIC, len(payload), 16, 0, seqno & 0xFFFFFFFF) + payload


_Parts = tuple[Type, int, int, "dict[int, object] | None"]


def _parts(message: Message, seqno: int) -> _Parts:  # noqa: C901, PLR0911, PLR0912 - one arm per message
    """Packet type, code, header seqno and payload of a message."""
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
        case Register(subsystem, interface):
            return Type.REGISTER, 0, seqno, _present({1: subsystem, bulk.KEY: interface})
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
            fields = _texts({2: message.channel, 4: message.message})
            if message.hopping is not None:
                fields[3] = _hopping(message.hopping)
            return Type.CONFIGREPORT, int(message.success), message.request, {1: message.request} | fields
        case ErrorReport(request, text):
            return Type.ERROR, 1, request, _texts({1: text})
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
            raise not_supported(name, message)


def not_supported(generation: str, message: Message) -> LocalProtocolError:
    """The refusal to encode what a generation does not have."""
    return LocalProtocolError("not-supported", f"{generation} has no {type(message).__name__}")


def _present(fields: dict[int, object]) -> dict[int, object]:
    return {key: value for key, value in fields.items() if value is not None}


def _texts(fields: dict[int, str]) -> dict[int, object]:
    return {key: value for key, value in fields.items() if value}


def _list_report(report: ListReport, seqno: int) -> _Parts:
    interfaces = [
        {1: item.name, 2: item.flags} | _texts({3: item.hardware, 4: item.capture_interface})
        for item in report.interfaces
    ]
    fields: dict[int, object] = {1: report.request, 2: interfaces}
    return (
        Type.LISTREPORT,
        int(not report.success),
        seqno,
        fields | _texts({3: report.message, 4: report.version}),
    )


def _probe_report(report: ProbeReport) -> _Parts:
    inner = _texts({3: report.hardware, 4: report.capture_interface, 5: report.channel})
    if report.channels:
        inner[6] = report.channels
    fields: dict[int, object] = {1: report.request, 2: inner, 3: report.message}
    return Type.PROBEREPORT, int(report.success), report.request, fields


def _open_report(report: OpenReport) -> _Parts:
    fields: dict[int, object] = {1: report.request}
    if report.dlt is not None:
        fields[2] = report.dlt
    if report.channels:
        fields[4] = report.channels
    if report.hopping is not None:
        fields[6] = _hopping(report.hopping)
    fields |= _texts({3: report.capture_interface, 5: report.channel, 7: report.hardware})
    fields |= _texts({8: report.uuid, 9: report.message, 10: report.version})
    return Type.OPENREPORT, int(report.success), report.request, fields


def _hopping(hopping: Hopping) -> dict[int, object]:
    fields = _present(
        {1: hopping.rate, 2: hopping.shuffle, 3: hopping.skip, 4: hopping.offset},
    )
    return fields | ({5: hopping.channels} if hopping.channels else {})


def _data_report(report: DataReport) -> dict[int, object]:
    if report.buffer is not None or report.message is not None or report.warning:
        raise not_supported(name, report)
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
        fields[5] = _present({1: json.type, 2: json.sec, 3: json.usec, 4: json.text})
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


def reports(run: Run) -> Iterator[DataReport]:
    """The data reports of a run, whole, with GPS and JSON; the slow and complete way.

    Raises:
        RemoteProtocolError: "bad-payload"; ``at`` counts from the start of ``run.data``.
    """
    data, position = run.data, run.start
    while position < run.stop:
        stop = position + 20 + _LENGTH(data, position + 8)[0]
        try:
            yield decode_data(data[position + 20 : stop])
        except Malformed as error:
            raise RemoteProtocolError(
                "bad-payload", f"v3 PACKET: {error}", at=position, excerpt=data[position:stop]
            ) from None
        position = stop


def packets_general(run: Run) -> Iterator[frames.Packet]:
    """The packets of a run by the general decoder; what ``packets`` is measured against."""
    for report in reports(run):
        packet = report.packet
        if packet is not None:
            original = len(packet.content) if packet.original is None else packet.original
            yield packet.dlt, packet.sec, packet.usec, original, packet.content, report.signal


def packets(run: Run) -> Iterator[frames.Packet]:
    """The packets of a run; the contract is ``Generation.packets``.

    The layouts that C helpers and our SDK write are recognised by their constant bytes and read by offset;
    whatever differs goes to the general decoder.
    """
    data, position, end = run.data, run.start, run.stop
    while position < end:
        start = position + 20
        stop = start + _LENGTH(data, position + 8)[0]
        found = _quick(data, start, stop)
        if found is not None:
            yield found
        else:
            yield from packets_general(Run(run.kind, data, position, stop, 1, 1))
        position = stop


_U1 = struct.Struct(">BBB").unpack_from
_U2 = struct.Struct(">HBB").unpack_from
_U4 = struct.Struct(">IBB").unpack_from
_TIME = struct.Struct(">HIBB").unpack_from
_SHORT = struct.Struct(">H").unpack_from
_WIDE = struct.Struct(">2sH2sI2sI2sI2sI").unpack_from
_WIDE_SIZE: Final = 28


@lru_cache(4096)
def _signal_of(head: bytes) -> Signal | None:
    """The signal block between the report's map head and its packet block, if it is that and nothing else."""
    try:
        fields, used = unpack_from(head, 2)
        return _decode_signal(fields) if used == len(head) else None
    except Malformed:
        return None


def _quick(data: bytes, at: int, stop: int) -> frames.Packet | None:
    """One payload of a usual layout: a packet block, alone or behind a signal block; else None.

    The packet block is ``85 01 dlt 02 sec 03 usec 04 original 06 content``, with numbers in the smallest
    form as C helpers write them, or all in the widest as our SDK does.
    """
    if data[at : at + 4] == b"\x81\x04\x85\x01":
        signal = None
        at += 3
    elif data[at : at + 2] == b"\x82\x02":
        block = data.find(b"\x04\x85\x01", at, min(at + 128, stop))
        if block < 0:
            return None
        signal = _signal_of(data[at:block])
        if signal is None:
            return None
        at = block + 2
    else:
        return None
    if stop - at < _WIDE_SIZE or data[at + 1] != 0xCD or data[at + 5] != 0xCE or data[at + 11] != 0xCE:
        return _quick_small(data, at, stop, signal)
    one, dlt, two, sec, three, usec, four, original, six, size = _WIDE(data, at)
    end = at + _WIDE_SIZE + size
    if (one, two, three, four, six) != _WIDE_KEYS or end > stop:
        return _quick_small(data, at, stop, signal)
    return dlt, sec, usec, original, data[at + _WIDE_SIZE : end], signal


_WIDE_KEYS: Final = (b"\x01\xcd", b"\x02\xce", b"\x03\xce", b"\x04\xce", b"\x06\xc6")


def _quick_small(  # noqa: C901, PLR0912 - unrolled for speed
    data: bytes, at: int, stop: int, signal: Signal | None
) -> frames.Packet | None:
    """A packet block with its numbers in the smallest form; ``at`` is its first key."""
    if stop - at < 16:
        return None
    dlt = data[at + 1]
    if dlt < 0x80:
        at += 2
    elif dlt == 0xCC:
        dlt = data[at + 2]
        at += 3
    elif dlt == 0xCD:
        dlt = _SHORT(data, at + 2)[0]
        at += 4
    else:
        return None
    try:
        two, sec, three, code = _TIME(data, at)
        if code == 0xCE:
            usec, four, code = _U4(data, at + 8)
            at += 14
        elif code == 0xCD:
            usec, four, code = _U2(data, at + 8)
            at += 12
        elif code < 0x80:
            usec = code
            four, code = data[at + 8 : at + 10]
            at += 10
        elif code == 0xCC:
            usec, four, code = _U1(data, at + 8)
            at += 11
        else:
            return None
        if code == 0xCD:
            original, six, code = _U2(data, at)
            at += 4
        elif code == 0xCC:
            original, six, code = _U1(data, at)
            at += 3
        elif code < 0x80:
            original = code
            six, code = data[at : at + 2]
            at += 2
        else:
            return None
        if two != 0x02CE or three != 3 or four != 4 or six != 6:
            return None
        if code == 0xC4:
            size = data[at]
            at += 1
        elif code == 0xC5:
            size = _SHORT(data, at)[0]
            at += 2
        else:
            return None
    except (IndexError, ValueError, struct.error):
        return None
    end = at + size
    return (dlt, sec, usec, original, data[at:end], signal) if end <= stop else None


def blocks(run: Run) -> Iterator[tuple[int, tuple[memoryview, ...], int, int]]:
    """The pcapng blocks of a bulk run; see ``bulk.blocks``."""
    return bulk.blocks(run)


_SELF: Final = cast("Generation", sys.modules[__name__])
"""This module is the generation."""
