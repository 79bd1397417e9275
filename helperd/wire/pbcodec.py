"""Protobuf payloads: what v0 and v2 share. Imported only when one of them has a control frame to read or
write.

Rules:
  1. A required field that is missing spoils the message; so does a severity that is not one of the five.
  2. Command names are compared in any case, as C helpers do (kismet-protocol.md, S36).
  3. Fields that only v3 has are left out in silence; messages that only v3 has are refused by ``encode``.

Commands: kismet-protocol.md, section 2.1. The classes come from ``proto/``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError, EncodeError

from helperd.errors import LocalProtocolError
from helperd.wire import messages as m
from helperd.wire.pb import bluetooth_pb2, core_pb2, event_pb2, http_pb2, source_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

DATA: Final = "KDSDATAREPORT"


class Malformed(ValueError):  # noqa: N818 - internal; turned into RemoteProtocolError at the edge
    """The payload is not the message it claims to be; the text says how."""


def parse(kind: type[Any], payload: bytes) -> Any:
    """Read one protobuf message.

    Raises:
        Malformed: it cannot be read, or a required field is missing.
    """
    try:
        message = kind.FromString(payload)
    except DecodeError as error:
        raise Malformed(str(error) or "not protobuf") from None
    if not message.IsInitialized():
        raise Malformed(f"missing {', '.join(message.FindInitializationErrors())}")
    return message


def decode(command: str, seqno: int, payload: bytes) -> m.Message:
    """Say what a command means.

    Args:
        command: its name.
        seqno: number of the frame.
        payload: its protobuf.

    Raises:
        Malformed: the payload is not that command's message.
    """
    name = command.upper()
    if name in _BARE:
        return _BARE[name](seqno)
    if name not in _DECODERS:
        return m.Unknown(command, seqno=seqno)
    kind, decoder = _DECODERS[name]
    return decoder(parse(kind, payload), seqno)


def _text(value: bytes) -> str:
    """Names come from the air: bytes that are not UTF-8 become escapes."""
    return value.decode("utf-8", "backslashreplace")


def _texts(values: Iterable[bytes]) -> tuple[str, ...]:
    return tuple(_text(value) for value in values)


def _bytes(value: str) -> bytes:
    return value.encode("utf-8", "surrogatepass")


def _optional(message: Any, field: str) -> Any:
    return getattr(message, field) if message.HasField(field) else None


def _channel(message: Any) -> str:
    return _text(message.channel.channel)


def _hopping(message: Any) -> m.Hopping | None:
    if not message.HasField("hopping"):
        return None
    hopping = message.hopping
    rate, shuffle, skip, offset = (
        _optional(hopping, field) for field in ("rate", "shuffle", "skip", "offset")
    )
    return m.Hopping(_texts(hopping.channels), rate, shuffle, skip, offset)


def _said(report: Any) -> tuple[str, m.Severity | None]:
    """A report's message, and its severity when it is not the usual one."""
    if not report.HasField("message"):
        return "", None
    severity = m.Severity(report.message.severity)
    text = _text(report.message.text)
    usual = m.usual_severity(report.success.success)
    return text, None if severity is usual or not text else severity


def _line(message: Any) -> m.Text | None:
    if not message.HasField("message"):
        return None
    return m.Text(m.Severity(message.message.severity), _text(message.message.text))


def _list_report(report: Any, _: int) -> m.ListReport:
    text, severity = _said(report)
    return m.ListReport(
        request=report.success.seqno,
        success=report.success.success,
        interfaces=tuple(
            m.Interface(_text(one.name), _text(one.flags), _text(one.hardware), _text(one.capture_interface))
            for one in report.interfaces
        ),
        message=text,
        severity=severity,
    )


def _probe_report(report: Any, _: int) -> m.ProbeReport:
    text, severity = _said(report)
    return m.ProbeReport(
        request=report.success.seqno,
        success=report.success.success,
        message=text,
        hardware=_text(report.hardware),
        channel=_channel(report),
        channels=_texts(report.channels.channels),
        severity=severity,
    )


def _open_report(report: Any, _: int) -> m.OpenReport:
    text, severity = _said(report)
    return m.OpenReport(
        request=report.success.seqno,
        success=report.success.success,
        dlt=_optional(report, "dlt"),
        capture_interface=_text(report.capture_interface),
        channels=_texts(report.channels.channels),
        channel=_channel(report),
        hopping=_hopping(report),
        hardware=_text(report.hardware),
        message=text,
        uuid=_text(report.uuid),
        warning=_text(report.warning),
        severity=severity,
    )


def _configure(request: Any, seqno: int) -> m.ConfigureRequest:
    if request.HasField("channel") == request.HasField("hopping"):
        raise Malformed("exactly one of channel and hopping is required")
    return m.ConfigureRequest(_channel(request), _hopping(request), seqno=seqno)


def _configure_report(report: Any, _: int) -> m.ConfigureReport:
    text, severity = _said(report)
    return m.ConfigureReport(
        request=report.success.seqno,
        success=report.success.success,
        channel=_channel(report),
        hopping=_hopping(report),
        message=text,
        warning=_text(report.warning),
        severity=severity,
    )


def _error_report(report: Any, _: int) -> m.ErrorReport:
    text, severity = _said(report)
    return m.ErrorReport(report.success.seqno, text, report.success.success, severity=severity)


def _new_source(request: Any, _: int) -> m.NewSource:
    return m.NewSource(_text(request.definition), _text(request.sourcetype), _text(request.uuid))


def _signal(report: Any) -> m.Signal | None:
    if not report.HasField("signal"):
        return None
    signal = report.signal
    names = ("dbm", "noise_dbm", "rssi", "noise_rssi", "khz", "rate")
    return m.Signal(channel=_text(signal.channel), **{name: _optional(signal, name) for name in names})


def _gps(report: Any) -> m.Gps | None:
    if not report.HasField("gps"):
        return None
    gps = report.gps
    names = ("latitude", "longitude", "altitude", "speed", "heading", "precision", "fix", "sec", "usec")
    return m.Gps(type=_text(gps.type), name=_text(gps.name), **{name: getattr(gps, name) for name in names})


def _data_report(report: Any, _: int) -> m.DataReport:
    packet, json, buffer = (_optional(report, field) for field in ("packet", "json", "buffer"))
    return m.DataReport(
        packet=None
        if packet is None
        else m.Packet(
            packet.content, packet.dlt, packet.sec, packet.usec, _optional(packet, "original") or None
        ),
        signal=_signal(report),
        gps=_gps(report),
        json=None if json is None else m.Json(_text(json.type), _text(json.text), json.sec, json.usec),
        buffer=None
        if buffer is None
        else m.Buffer(_text(buffer.type), buffer.content, buffer.sec, buffer.usec),
        message=_line(report),
        warning=_text(report.warning),
    )


def _bluetooth(report: Any, _: int) -> m.BluetoothReport:
    device = report.device
    return m.BluetoothReport(
        device=m.BluetoothDevice(
            address=_text(device.address),
            name=_text(device.name),
            sec=device.sec,
            usec=device.usec,
            txpower=device.txpower,
            type=device.type,
            uuids=_texts(device.uuids),
        ),
        signal=_signal(report),
        gps=_gps(report),
        message=_line(report),
        warning=_text(report.warning),
    )


def _http_request(request: Any, _: int) -> m.HttpRequest:
    variables = tuple((_text(one.field), _text(one.content)) for one in request.variables)
    return m.HttpRequest(request.id, _text(request.uri), _text(request.method), variables)


def _http_response(response: Any, _: int) -> m.HttpResponse:
    headers = tuple((_text(one.header), _text(one.content)) for one in response.headers)
    content, status, close = (_optional(response, field) for field in ("content", "status", "close"))
    return m.HttpResponse(response.id, headers, content, status, close)


_BARE: Final[dict[str, Callable[[int], m.Message]]] = {
    "PING": lambda seqno: m.Ping(seqno=seqno),
    "KDSLISTINTERFACES": lambda seqno: m.ListRequest(seqno=seqno),
    "KDSCLOSEDATASOURCE": lambda seqno: m.CloseRequest(seqno=seqno),
    "HTTPAUTHREQ": lambda seqno: m.AuthRequest(seqno=seqno),
}
"""Commands whose payload is never looked at: old helpers answer a PING with junk in it (recording ping-with-junk)."""

_DECODERS: Final[dict[str, tuple[type[Any], Callable[[Any, int], m.Message]]]] = {
    "PONG": (core_pb2.Pong, lambda p, _: m.Pong(p.ping_seqno)),
    "SHUTDOWN": (core_pb2.Shutdown, lambda p, _: m.Shutdown(_text(p.reason))),
    "MESSAGE": (core_pb2.Text, lambda p, _: m.Text(m.Severity(p.severity), _text(p.text))),
    "SYSTEMREGISTER": (core_pb2.Register, lambda p, _: m.Register(_text(p.subsystem))),
    "KDSPROBESOURCE": (source_pb2.ProbeRequest, lambda p, n: m.ProbeRequest(_text(p.definition), seqno=n)),
    "KDSPROBESOURCEREPORT": (source_pb2.ProbeReport, _probe_report),
    "KDSOPENSOURCE": (source_pb2.OpenRequest, lambda p, n: m.OpenRequest(_text(p.definition), seqno=n)),
    "KDSOPENSOURCEREPORT": (source_pb2.OpenReport, _open_report),
    "KDSINTERFACESREPORT": (source_pb2.ListReport, _list_report),
    DATA: (source_pb2.DataReport, _data_report),
    "KDSCONFIGURE": (source_pb2.Configure, _configure),
    "KDSCONFIGUREREPORT": (source_pb2.ConfigureReport, _configure_report),
    "KDSNEWSOURCE": (source_pb2.NewSource, _new_source),
    "KDSERRORREPORT": (source_pb2.ErrorReport, _error_report),
    "KDSERROR": (source_pb2.ErrorReport, _error_report),
    "KDSWARNINGREPORT": (source_pb2.WarningReport, lambda p, _: m.WarningReport(_text(p.warning))),
    "LBTDATAREPORT": (bluetooth_pb2.Report, _bluetooth),
    "EVENTBUSREGISTER": (event_pb2.Register, lambda p, _: m.EventRegister(_texts(p.events))),
    "EVENT": (event_pb2.Event, lambda p, _: m.Event(_text(p.json))),
    "EVENTBUSPUBLISH": (event_pb2.Publish, lambda p, _: m.EventPublish(_text(p.type), _text(p.json))),
    "HTTPREGISTERURI": (http_pb2.Register, lambda p, _: m.HttpRegister(_text(p.uri), _text(p.method))),
    "HTTPREQUEST": (http_pb2.Request, _http_request),
    "HTTPREQUESTCANCEL": (http_pb2.Cancel, lambda p, _: m.HttpCancel(p.id)),
    "HTTPRESPONSE": (http_pb2.Response, _http_response),
    "HTTPAUTH": (http_pb2.AuthToken, lambda p, _: m.AuthToken(_text(p.token))),
}


def encode(generation: str, message: m.Message) -> tuple[str, bytes]:
    """Command name and payload of a message.

    Args:
        generation: whose name to put into the refusal.
        message: what to say.

    Raises:
        LocalProtocolError: "not-supported"; only v3 has it, or a packet or record lacks its time or link
        type.
    """
    try:
        command, proto = _proto(generation, message)
        return command, b"" if proto is None else proto.SerializeToString()
    except (EncodeError, TypeError, ValueError) as error:
        raise LocalProtocolError(
            "not-supported", f"{generation} cannot carry this {type(message).__name__}: {error}"
        ) from None


def _proto(generation: str, message: m.Message) -> tuple[str, Any]:  # noqa: C901, PLR0911, PLR0912
    """The command and the filled-in class; one arm per message."""
    match message:
        case m.Ping():
            return "PING", None
        case m.ListRequest():
            return "KDSLISTINTERFACES", None
        case m.CloseRequest():
            return "KDSCLOSEDATASOURCE", None
        case m.AuthRequest():
            return "HTTPAUTHREQ", None
        case m.Pong(request):
            return "PONG", core_pb2.Pong(ping_seqno=request)
        case m.Shutdown(reason):
            return "SHUTDOWN", core_pb2.Shutdown(reason=_bytes(reason))
        case m.Text():
            return "MESSAGE", _to_text(message)
        case m.Register(subsystem, None):
            return "SYSTEMREGISTER", core_pb2.Register(subsystem=_bytes(subsystem))
        case m.ProbeRequest(definition):
            return "KDSPROBESOURCE", source_pb2.ProbeRequest(definition=_bytes(definition))
        case m.OpenRequest(definition):
            return "KDSOPENSOURCE", source_pb2.OpenRequest(definition=_bytes(definition))
        case m.ConfigureRequest(channel, None):
            return "KDSCONFIGURE", source_pb2.Configure(channel=_to_channel(channel))
        case m.ConfigureRequest(_, m.Hopping() as hopping):
            return "KDSCONFIGURE", source_pb2.Configure(hopping=_to_hopping(hopping))
        case m.ListReport():
            return "KDSINTERFACESREPORT", _to_list_report(message)
        case m.ProbeReport():
            return "KDSPROBESOURCEREPORT", _to_probe_report(message)
        case m.OpenReport():
            return "KDSOPENSOURCEREPORT", _to_open_report(message)
        case m.ConfigureReport():
            return "KDSCONFIGUREREPORT", _to_configure_report(message)
        case m.ErrorReport():
            return "KDSERRORREPORT", source_pb2.ErrorReport(**_to_answer(message))
        case m.WarningReport(warning):
            return "KDSWARNINGREPORT", source_pb2.WarningReport(warning=_bytes(warning))
        case m.NewSource():
            fields = ("definition", "sourcetype", "uuid")
            return "KDSNEWSOURCE", source_pb2.NewSource(
                **{name: _bytes(getattr(message, name)) for name in fields}
            )
        case m.DataReport():
            return DATA, _to_data_report(message)
        case m.BluetoothReport():
            return "LBTDATAREPORT", _to_bluetooth(message)
        case m.EventRegister(events):
            return "EVENTBUSREGISTER", event_pb2.Register(events=[_bytes(event) for event in events])
        case m.Event(json):
            return "EVENT", event_pb2.Event(json=_bytes(json))
        case m.EventPublish(kind, json):
            return "EVENTBUSPUBLISH", event_pb2.Publish(type=_bytes(kind), json=_bytes(json))
        case m.HttpRegister(uri, method):
            # 2018 servers require the flag, later ones ignore it (kismet-protocol.md, 2.7).
            return "HTTPREGISTERURI", http_pb2.Register(
                uri=_bytes(uri), method=_bytes(method), auth_required=True
            )
        case m.HttpRequest(ident, uri, method, variables):
            pairs = [
                http_pb2.Variable(field=_bytes(name), content=_bytes(value)) for name, value in variables
            ]
            return "HTTPREQUEST", http_pb2.Request(
                id=ident, uri=_bytes(uri), method=_bytes(method), variables=pairs
            )
        case m.HttpCancel(ident):
            return "HTTPREQUESTCANCEL", http_pb2.Cancel(id=ident)
        case m.HttpResponse(ident, headers, content, status, close):
            items = [http_pb2.Header(header=_bytes(name), content=_bytes(value)) for name, value in headers]
            return "HTTPRESPONSE", http_pb2.Response(
                id=ident, headers=items, content=content, status=status, close=close
            )
        case m.AuthToken(token):
            return "HTTPAUTH", http_pb2.AuthToken(token=_bytes(token))
        case _:
            raise LocalProtocolError("not-supported", f"{generation} has no {type(message).__name__}")


def _to_text(text: m.Text) -> Any:
    return core_pb2.Text(severity=int(text.severity), text=_bytes(text.text))


def _to_channel(channel: str) -> Any:
    return source_pb2.Channel(channel=_bytes(channel))


def _to_hopping(hopping: m.Hopping) -> Any:
    return source_pb2.Hopping(
        channels=[_bytes(channel) for channel in hopping.channels],
        rate=hopping.rate,
        shuffle=hopping.shuffle,
        skip=hopping.skip,
        offset=hopping.offset,
    )


def _to_answer(
    report: m.ListReport | m.ProbeReport | m.OpenReport | m.ConfigureReport | m.ErrorReport,
) -> dict[str, Any]:
    """What all reports share: the request, the success, a line for people."""
    fields: dict[str, Any] = {"success": source_pb2.Success(success=report.success, seqno=report.request)}
    if report.message:
        severity = m.usual_severity(report.success) if report.severity is None else report.severity
        fields["message"] = _to_text(m.Text(severity, report.message))
    return fields


def _to_texts(**texts: str) -> dict[str, Any]:
    return {name: _bytes(text) for name, text in texts.items() if text}


def _to_tuning(report: m.ProbeReport | m.OpenReport | m.ConfigureReport) -> dict[str, Any]:
    """Channel, channels and hopping, each where the report has it."""
    fields: dict[str, Any] = {}
    if report.channel:
        fields["channel"] = _to_channel(report.channel)
    if not isinstance(report, m.ConfigureReport) and report.channels:
        fields["channels"] = source_pb2.Channels(channels=[_bytes(channel) for channel in report.channels])
    if not isinstance(report, m.ProbeReport) and report.hopping is not None:
        fields["hopping"] = _to_hopping(report.hopping)
    return fields


def _to_list_report(report: m.ListReport) -> Any:
    interfaces = [
        source_pb2.Interface(
            name=_bytes(one.name),
            flags=_bytes(one.flags),
            **_to_texts(hardware=one.hardware, capture_interface=one.capture_interface),
        )
        for one in report.interfaces
    ]
    return source_pb2.ListReport(interfaces=interfaces, **_to_answer(report))


def _to_probe_report(report: m.ProbeReport) -> Any:
    return source_pb2.ProbeReport(
        **_to_answer(report), **_to_tuning(report), **_to_texts(hardware=report.hardware)
    )


def _to_open_report(report: m.OpenReport) -> Any:
    texts = _to_texts(
        capture_interface=report.capture_interface,
        hardware=report.hardware,
        uuid=report.uuid,
        warning=report.warning,
    )
    return source_pb2.OpenReport(dlt=report.dlt, **_to_answer(report), **_to_tuning(report), **texts)


def _to_configure_report(report: m.ConfigureReport) -> Any:
    return source_pb2.ConfigureReport(
        **_to_answer(report), **_to_tuning(report), **_to_texts(warning=report.warning)
    )


def _to_signal(signal: m.Signal | None) -> Any:
    if signal is None:
        return None
    names = ("dbm", "noise_dbm", "rssi", "noise_rssi", "khz", "rate")
    return source_pb2.Signal(
        **{name: getattr(signal, name) for name in names}, **_to_texts(channel=signal.channel)
    )


def _to_gps(gps: m.Gps | None) -> Any:
    if gps is None:
        return None
    names = ("latitude", "longitude", "altitude", "speed", "heading", "precision", "fix", "sec", "usec")
    return source_pb2.Gps(
        **{name: getattr(gps, name) for name in names}, type=_bytes(gps.type), name=_bytes(gps.name)
    )


def _to_data_report(report: m.DataReport) -> Any:
    fields: dict[str, Any] = {"signal": _to_signal(report.signal), "gps": _to_gps(report.gps)}
    if report.packet is not None:
        packet = report.packet
        fields["packet"] = source_pb2.Packet(
            sec=packet.sec,
            usec=packet.usec,
            dlt=packet.dlt,
            size=len(packet.content),
            content=packet.content,
            original=packet.original,
        )
    if report.json is not None:
        json = report.json
        fields["json"] = source_pb2.Json(
            sec=json.sec, usec=json.usec, type=_bytes(json.type), text=_bytes(json.text)
        )
    if report.buffer is not None:
        buffer = report.buffer
        fields["buffer"] = source_pb2.Buffer(
            sec=buffer.sec, usec=buffer.usec, type=_bytes(buffer.type), content=buffer.content
        )
    if report.message is not None:
        fields["message"] = _to_text(report.message)
    return source_pb2.DataReport(**fields, **_to_texts(warning=report.warning))


def _to_bluetooth(report: m.BluetoothReport) -> Any:
    device = report.device
    return bluetooth_pb2.Report(
        device=bluetooth_pb2.Device(
            sec=device.sec,
            usec=device.usec,
            address=_bytes(device.address),
            name=_bytes(device.name),
            txpower=device.txpower,
            type=device.type,
            uuids=[_bytes(uuid) for uuid in device.uuids],
        ),
        signal=_to_signal(report.signal),
        gps=_to_gps(report.gps),
        message=None if report.message is None else _to_text(report.message),
        **_to_texts(warning=report.warning),
    )
