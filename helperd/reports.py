"""JSON reports: what helpers hear that is no packet, as lines and as packets of a link type of their own. Pure.

::

    {"source":"rtl","time":1700000000.123456,"number":7,"type":"RTL433","report":{"model":"Acurite"}}
    {"source":"rtl","time":1700000001.000001,"lost":12}
    {"source":"rtl","time":1700000002.000000,"severity":"error","message":"the stick was pulled"}

Rules:
  1. One line is one report. ``report`` is the helper's own text, byte for byte unless it holds line ends; what is no
     JSON comes as a string under ``text``: nothing a helper says can break a line or pose as another key.
  2. ``number`` counts a source's data reports, packets included, over all its incarnations from 0, as ``first`` does
     in the frames format.
  3. A line with ``lost`` says how many reports of the source this reader missed since the line before, and stands
     where they would have stood.
  4. In files, messages stand among them: a line with ``severity`` and ``message``, without ``number``.
  5. A line with ``refused`` alone says why this reader is not served.
  6. In pcapng a report is a packet of ``LINKTYPE_JSON`` whose content is the text and whose comment names the type.
"""

from __future__ import annotations

import json
from math import isfinite
from typing import TYPE_CHECKING, Final, NamedTuple

from helperd.wire.messages import DataReport, Json
from helperd.wire.nesting import too_deep

if TYPE_CHECKING:
    from helperd.wire.messages import BluetoothReport, Gps, Signal

LINKTYPE_JSON: Final = 162
"""LINKTYPE_USER15: private use, so that every reader of pcapng keeps the reports and none takes them for packets."""

MESSAGES: Final = -1
"""Stands for an interface where messages are counted."""
OWN: Final = "helperd"
"""Whose messages are lost, where messages are."""


class Report(NamedTuple):
    """One JSON report.

    Attributes:
        nth: how many data reports of the same read came before it.
        time_ns: nanoseconds since 1970.
        json: its type and text.
        signal: what the radio knew.
        gps: where it was heard.
    """

    nth: int
    time_ns: int
    json: Json
    signal: Signal | None
    gps: Gps | None

    def line(self, source: str, first: int) -> bytes:
        """The report as a line; ``first`` is the number of its read's first data report."""
        kind, text = json.dumps(self.json.type), _embedded(self.json.text)
        more = ""
        if self.signal is not None:
            more += ',"signal":' + json.dumps(_known(self.signal), separators=(",", ":"))
        if self.gps is not None:
            more += ',"gps":' + json.dumps(_known(self.gps), separators=(",", ":"))
        head = f'{{"source":{json.dumps(source)},"time":{_seconds(self.time_ns)},"number":{first + self.nth}'
        return f'{head},"type":{kind},{text}{more}}}\n'.encode("utf-8", "replace")


def report_of(bluetooth: BluetoothReport) -> DataReport:
    """What older Bluetooth helpers of Kismet say in a message of its own, as the JSON that later ones send."""
    device = bluetooth.device
    record: dict[str, object] = {"addr": device.address, "name": device.name, "type": device.type}
    if device.txpower:
        record["txpower"] = device.txpower
    if device.uuids:
        record["uuids"] = device.uuids
    text = json.dumps(record, ensure_ascii=False)
    return DataReport(
        json=Json("linuxbthci", text, device.sec, device.usec), signal=bluetooth.signal, gps=bluetooth.gps
    )


def message_line(source: str, time_ns: int, severity: str, text: str) -> bytes:
    """A message of a helper's or of helperd's own."""
    head = f'{{"source":{json.dumps(source)},"time":{_seconds(time_ns)},"severity":{json.dumps(severity)}'
    return f'{head},"message":{json.dumps(text)}}}\n'.encode("ascii", "replace")


def loss_line(source: str, lost: int, time_ns: int) -> bytes:
    """Tells a reader how many reports of a source it missed here."""
    return f'{{"source":{json.dumps(source)},"time":{_seconds(time_ns)},"lost":{lost}}}\n'.encode()


def refusal(why: str) -> bytes:
    """The one line of a reader that is not served."""
    return json.dumps({"refused": why}).encode() + b"\n"


def _seconds(time_ns: int) -> str:
    """Seconds since 1970 as a JSON number that loses nothing: with six places, or nine where there are nanoseconds."""
    sec, ns = divmod(time_ns, 1_000_000_000)
    return f"{sec}.{ns:09d}" if ns % 1000 else f"{sec}.{ns // 1000:06d}"


def _known(block: Signal | Gps) -> dict[str, object]:
    """The fields of a block that say something JSON can say."""
    fields = {name: getattr(block, name) for name in type(block).__match_args__}
    return {
        name: value
        for name, value in fields.items()
        if value not in {None, ""} and not (isinstance(value, float) and not isfinite(value))
    }


def _embedded(text: str) -> str:
    """``"report":`` and the text, if it is JSON; else ``"text":`` and a string."""
    try:
        value = _refuse(text) if too_deep(text) else json.loads(text, parse_constant=_refuse)
        if "\n" in text or "\r" in text:
            text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    except (ValueError, RecursionError):
        return f'"text":{json.dumps(text)}'
    return f'"report":{text.strip()}'


def _refuse(word: str) -> object:
    """What readers of JSON do not take: NaN and Infinity, which are words of Python's, and very deep texts."""
    raise ValueError(word)
