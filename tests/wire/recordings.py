"""The recordings in tests/vectors: what real helpers and a real server said, and what each frame means as a message."""

from __future__ import annotations

import base64
import functools
import itertools
import json
import random
from pathlib import Path

from helperd.wire import messages as m

FOLDER = Path(__file__).resolve().parent.parent / "vectors"

VERDICTS = {
    "bad-checksum": "bad-checksum",
    "bad-payload": "bad-payload",
    "bad-payload-not-a-map": "bad-payload",
    "bad-payload-truncated-map": "bad-payload",
    "bad-payload-wrong-type": "bad-payload",
    "bad-signature": "bad-signature",
    "empty-payload": "bad-payload",
    "garbage-8k": "bad-signature",
    "oversize-length": "frame-too-long",
    "oversize-length-70000": "partial-frame",
    "partial-then-eof": "partial-frame",
    "short-header-then-eof": "partial-frame",
    "v0-ping-bad-checksum": "bad-checksum",
    "wrong-version": "bad-version",
}
"""Scenario to the problem word of what was sent to the helper; all other streams are good."""


@functools.cache
def index() -> dict:
    return json.loads((FOLDER / "index.json").read_text())


def recordings() -> list[dict]:
    return index()["recordings"]


def ident(recording: dict) -> str:
    return recording["id"].removeprefix("kismet-")


def stream(recording: dict, side: str) -> bytes:
    """The bytes of one direction: "tosend" or "received"."""
    return (FOLDER / recording["files"][side]).read_bytes()


def frames(recording: dict, side: str) -> list[dict]:
    """The index's frames of one direction, in the order of the stream."""
    direction = {"tosend": "to_helper", "received": "from_helper"}[side]
    found = [frame for frame in recording["frames"] if frame["dir"] == direction]
    return sorted(found, key=lambda frame: frame["offset"])


def cuts(data: bytes, way: str, seed: object = 0) -> list[bytes]:
    """A stream as reads: "whole", "bytewise", or cut at random places."""
    if way == "whole":
        return [data] if data else []
    if way == "bytewise":
        return [data[at : at + 1] for at in range(len(data))]
    dice = random.Random(str(seed))
    places = sorted({0, len(data), *(dice.randrange(len(data) + 1) for _ in range(1 + len(data) // 60))})
    return [data[start:stop] for start, stop in itertools.pairwise(places)]


def is_packet(frame: dict) -> bool:
    return frame["command"] in ("KDSDATAREPORT", "KDS_PACKET")


def packet(frame: dict) -> tuple:
    """What ``Generation.packets`` must yield for a data frame."""
    fields = frame["fields"]["packet"]
    if frame["gen"] == "v3":
        content = base64.b64decode(fields["content"]["base64"])
        return fields["dlt"], fields["ts_s"], fields["ts_us"], fields["length"], content, None
    content = base64.b64decode(fields["data"]["base64"])
    return fields["dlt"], fields["time_sec"], fields["time_usec"], len(content), content, None


def message(frame: dict) -> m.Message | None:
    """What a control frame must decode to; None where the index has no meaning for it."""
    if frame["gen"] == "v3":
        return _v3(frame)
    if frame["command"] in ("PING", "ping"):
        return m.Ping(frame["seqno"])
    if frame.get("undecodable"):
        return m.Unknown(frame["command"]) if "KeyError" in frame["undecodable"] else None
    return _protobuf(frame["command"], frame["seqno"], frame["fields"])


def _severity(said: dict, *, success: bool) -> m.Severity | None:
    severity = m.Severity(said["msgtype"])
    return None if severity is m.usual_severity(success) or not said["msgtext"] else severity


def _protobuf(command: str, seqno: int, fields: dict) -> m.Message | None:
    answer = fields.get("success", {})
    said = fields.get("message")
    report = {"request": answer.get("seqno"), "success": answer.get("success")}
    if said:
        report["message"] = said["msgtext"]
        report["severity"] = _severity(said, success=answer["success"])
    hopping = fields.get("hopping")
    if hopping is not None:
        hopping = m.Hopping(
            (), hopping["rate"], hopping["shuffle"], hopping["shuffle_skip"], hopping["offset"]
        )
    match command:
        case "PONG":
            return m.Pong(fields["ping_seqno"])
        case "SHUTDOWN":
            return m.Shutdown(fields["reason"])
        case "MESSAGE":
            return m.Text(m.Severity(fields["msgtype"]), fields["msgtext"])
        case "KDSLISTINTERFACES":
            return m.ListRequest()
        case "KDSINTERFACESREPORT":
            return m.ListReport(**report)
        case "KDSPROBESOURCE":
            return m.ProbeRequest(fields["definition"]) if fields else None
        case "KDSPROBESOURCEREPORT":
            return m.ProbeReport(**report, hardware=fields.get("hardware", ""))
        case "KDSOPENSOURCE":
            return m.OpenRequest(fields["definition"])
        case "KDSOPENSOURCEREPORT":
            return m.OpenReport(**report, dlt=fields.get("dlt"), uuid=fields.get("uuid", ""))
        case "KDSCONFIGURE":
            return m.ConfigureRequest(fields["channel"]["channel"])
        case "KDSCONFIGUREREPORT":
            return m.ConfigureReport(**report, hopping=hopping)
        case "KDSNEWSOURCE":
            return m.NewSource(fields["definition"], fields["sourcetype"], fields["uuid"])
        case _:
            return m.Unknown(command)


def _v3(frame: dict) -> m.Message | None:
    fields = frame["fields"]
    if frame["command"] == "PING":
        return m.Ping()
    if not isinstance(fields, dict):
        return None
    success = frame["code"] != 0
    request = fields.get("seqno")
    text = fields.get("msg", "")
    match frame["command"]:
        case "PONG":
            return m.Pong(frame["seqno"])
        case "SHUTDOWN":
            return m.Shutdown(fields["reason"])
        case "MESSAGE":
            return m.Text(m.Severity(fields["type"]), fields["string"])
        case "KDS_LISTREQ":
            return m.ListRequest()
        case "KDS_LISTREPORT":
            return m.ListReport(request, success=not success, message=text, version=fields["version"])
        case "KDS_PROBEREQ":
            definition = fields.get("definition")
            return m.ProbeRequest(definition) if isinstance(definition, str) else None
        case "KDS_PROBEREPORT":
            return m.ProbeReport(request, success, text)
        case "KDS_OPENREQ":
            return m.OpenRequest(fields["definition"])
        case "KDS_OPENREPORT":
            return m.OpenReport(
                request,
                success,
                fields.get("dlt"),
                message=text,
                version=fields.get("version", ""),
                uuid=fields.get("uuid", ""),
            )
        case "KDS_CONFIGREQ":
            return m.ConfigureRequest(fields["channel"])
        case "KDS_NEWSOURCE":
            return m.NewSource(fields["definition"], fields["sourcetype"], fields["uuid"])
        case _:
            return m.Unknown(frame["command"])
