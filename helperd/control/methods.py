"""One function per method of ``io.helperd``, and the table that names them.

Rules:
  1. Parameters were checked against the interface before a function here sees them.
  2. A function returns the reply as a message; a stream sends its replies itself, and returns when it ends.
  3. What changes something is marked so in the table, nowhere else.
"""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import trio

from helperd import __version__
from helperd.control.call import OWN, SERVICE, Call, encode_reply, service_error
from helperd.errors import HelperdError

if TYPE_CHECKING:
    from helperd.control.api import AddApi, HelpersApi, Plain, ReloadApi, StreamApi, TuneApi
    from helperd.control.room import Room

FORMATS: Final = ("pcapng", "jsonl", "frames")
GAP_S: Final = 0.1
"""Seconds between two states of one stream at least."""
LONGEST_S: Final = 86400.0
MAX_RATE: Final = 20.0
"""Hops per second: a radio is given 50 ms at least (kismet-protocol.md, section 5.6)."""
_MAX_LINKTYPE: Final = 0xFFFF
_NAME: Final = re.compile("[a-z0-9][a-z0-9_-]{0,31}")

Send = Callable[[bytes], Awaitable[None]]


class Upgrade(NamedTuple):
    """What a connection becomes.

    Attributes:
        reply: the last message.
        serve: has the connection after it, until either side ends.
    """

    reply: bytes
    serve: Callable[[], Awaitable[None]]


class Entry(NamedTuple):
    """A method.

    Attributes:
        answer: gives the one reply.
        stream: gives the replies of ``more``; None: ``more`` gets one reply.
        changes: only admins may call it.
        needs: name of the daemon's function without which it is not implemented; empty: always there.
        attended: it may wait before it has done anything, and is given up when its client goes away meanwhile. What
            is done, or handed to a source, as soon as it is heard needs no such care.
        upgrade: makes something else of the connection, for as long as its context lasts; given up when the client goes
            away before it is made. A method with it needs ``upgrade``, and has no other answer.
    """

    answer: Callable[[Room, Call], Awaitable[bytes]] | None = None
    stream: Callable[[Room, Call, Send], Awaitable[None]] | None = None
    changes: bool = False
    needs: str = ""
    attended: bool = False
    upgrade: Callable[[Room, Call, trio.socket.SocketType], AbstractAsyncContextManager[Upgrade]] | None = (
        None
    )


async def get_status(room: Room, call: Call) -> bytes:
    """Everything, or everything about one source."""
    return room.status(call.parameters.get("source"), continues=False)


async def watch_status(room: Room, call: Call, send: Send) -> None:
    """The state now and after every change; what changes while a slow client reads is told once."""
    name, every = call.parameters.get("source"), call.parameters.get("every_s")
    if every is None:
        every = math.inf
    elif not GAP_S <= every <= LONGEST_S:
        text = f"every_s lies between {GAP_S} and {LONGEST_S:.0f} seconds"
        raise service_error("InvalidParameter", {"parameter": "every_s"}, "bad-value", text)
    while True:
        seen, began = room.changes.count, trio.current_time()
        await send(room.status(name, continues=True))
        with trio.move_on_at(began + every):
            await room.changes.beyond(seen)
        await trio.sleep_until(began + GAP_S)


@asynccontextmanager
async def stream(room: Room, call: Call, sock: trio.socket.SocketType) -> AsyncIterator[Upgrade]:
    """Be a consumer socket."""
    names = call.parameters.get("sources") or []
    for name in names:
        room.source(name)
    form = call.parameters.get("format")
    if form is None:
        form = FORMATS[0]
    elif form not in FORMATS:
        text = f"format is one of {', '.join(FORMATS)}, not {form[:40]!r}"
        raise service_error("InvalidParameter", {"parameter": "format"}, "bad-value", text)
    linktype = call.parameters.get("linktype")
    if linktype is not None and (form != FORMATS[0] or not 0 <= linktype <= _MAX_LINKTYPE):
        text = f"linktype is a number from 0 to {_MAX_LINKTYPE}, and only for format {FORMATS[0]}"
        raise service_error("InvalidParameter", {"parameter": "linktype"}, "bad-value", text)
    with cast("StreamApi", room.daemon).stream(sock, frozenset(names), form, linktype) as reader:
        yield Upgrade(encode_reply({}), reader.serve)


@asynccontextmanager
async def capture(room: Room, call: Call, sock: trio.socket.SocketType) -> AsyncIterator[Upgrade]:
    """Open a definition under a name that is free, and be a consumer of it from its first packet to its last."""
    daemon = cast("AddApi", room.daemon)
    wished = call.parameters.get("name")
    if wished is not None:
        _check_name(wished)
    definition = call.parameters["definition"]
    name = await daemon.add_source(definition, wished or daemon.free_name(definition), once=True)
    try:
        with cast("StreamApi", room.daemon).stream(sock, frozenset({name}), FORMATS[0]) as reader:

            async def finish_when_done() -> None:
                await daemon.wait_done(name)
                reader.finish()

            async def serve() -> None:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(finish_when_done)
                    await reader.serve()
                    nursery.cancel_scope.cancel()

            await room.daemon.order(name, "start")
            room.changes.beat()
            yield Upgrade(_source(room, name), serve)
    finally:
        with trio.CancelScope(shield=True):
            await _take_back(room, name)


async def _take_back(room: Room, name: str) -> None:
    """Close a captured source; somebody may have removed it meanwhile."""
    try:
        await cast("AddApi", room.daemon).remove_source(name)
    except HelperdError as error:
        if error.problem != "unknown-source":
            raise
    finally:
        room.changes.beat()


async def list_sources(room: Room, _call: Call) -> bytes:
    """All names."""
    return encode_reply({"sources": [source["name"] for source in room.snapshot["sources"]]})


async def get_source(room: Room, call: Call) -> bytes:
    """One source."""
    return _source(room, call.parameters["source"])


def _source(room: Room, name: str) -> bytes:
    return encode_reply({"source": room.source(name)})


def _order(verb: str) -> Callable[[Room, Call], Awaitable[bytes]]:
    """A method that is an order to one source, or to one service where that has a meaning."""

    def named(room: Room, name: str) -> dict[str, Any]:
        return {"source": room.source(name)} if verb in {"pause", "resume"} else room.ordered(name)

    async def order(room: Room, call: Call) -> bytes:
        name = call.parameters["source"]
        named(room, name)
        try:
            await room.daemon.order(name, verb)
        finally:
            room.changes.beat()
        return encode_reply(named(room, name))

    return order


async def add_source(room: Room, call: Call) -> bytes:
    """Open a definition, and forget it if it cannot be opened."""
    daemon = cast("AddApi", room.daemon)
    name = call.parameters.get("name")
    if name is not None:
        _check_name(name)
    try:
        name = await daemon.add_source(call.parameters["definition"], name)
        try:
            await room.daemon.order(name, "start")
        except BaseException:  # also when its client has gone
            with trio.CancelScope(shield=True):
                await _take_back(room, name)
            raise
    finally:
        room.changes.beat()
    return _source(room, name)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        text = "a source's name has 1 to 32 of a-z, 0-9, - and _, and begins with a letter or digit"
        raise service_error("InvalidParameter", {"parameter": "name"}, "bad-value", text)


async def remove_source(room: Room, call: Call) -> bytes:
    """Forget an added source."""
    name = call.parameters["source"]
    room.source(name)
    try:
        await cast("AddApi", room.daemon).remove_source(name)
    finally:
        room.changes.beat()
    return encode_reply({})


async def set_channel(room: Room, call: Call) -> bytes:
    """Tune to one channel."""
    name = call.parameters["source"]
    room.source(name)
    await cast("TuneApi", room.daemon).set_channel(name, call.parameters["channel"])
    room.changes.beat()
    return _source(room, name)


async def hop(room: Room, call: Call) -> bytes:
    """Hop over channels."""
    name, rate = call.parameters["source"], call.parameters.get("rate")
    room.source(name)
    if rate is not None and not 0 < rate <= MAX_RATE:
        text = f"rate is in hops per second, above 0 and at most {MAX_RATE:g}"
        raise service_error("InvalidParameter", {"parameter": "rate"}, "bad-value", text)
    await cast("TuneApi", room.daemon).hop(name, call.parameters.get("channels") or (), rate)
    room.changes.beat()
    return _source(room, name)


async def reload(room: Room, call: Call) -> bytes:
    """Read the configuration again."""
    check = bool(call.parameters.get("check"))
    try:
        return encode_reply(await cast("ReloadApi", room.daemon).reload(check=check))
    finally:
        room.changes.beat()


async def list_helpers(room: Room, _call: Call) -> bytes:
    """The configured helpers."""
    return encode_reply({"helpers": cast("HelpersApi", room.daemon).helpers()})


async def list_devices(room: Room, call: Call) -> bytes:
    """The devices of all helpers, as old as the caller allows."""
    max_age_s = call.parameters.get("max_age_s")
    if max_age_s is not None and not 0 <= max_age_s <= LONGEST_S:
        text = f"max_age_s lies between 0 and {LONGEST_S:.0f} seconds"
        raise service_error("InvalidParameter", {"parameter": "max_age_s"}, "bad-value", text)

    async def question() -> Plain:
        return await room.daemon.list_devices(max_age_s)

    return encode_reply(await room.ask(call, ("list", str(max_age_s)), question))


async def probe(room: Room, call: Call) -> bytes:
    """Ask who recognises a definition."""
    definition = call.parameters["definition"]

    async def question() -> Plain:
        return await room.daemon.probe(definition)

    return encode_reply(await room.ask(call, ("probe", definition), question))


class _Reading(NamedTuple):
    """Messages and the number that the next look begins after."""

    messages: list[Plain]
    last: int


def _messages(room: Room, since: int, name: str | None) -> _Reading:
    """A number that has not been reached yet is one of an earlier daemon: then only what is new counts."""
    found = room.daemon.messages(since)
    if not found:
        newest = room.daemon.messages(0)
        return _Reading([], min(since, newest[-1]["number"]) if newest else 0)
    return _Reading([m for m in found if name in {None, m["source"]}], found[-1]["number"])


async def get_messages(room: Room, call: Call) -> bytes:
    """The kept messages."""
    reading = _messages(room, max(0, call.parameters.get("since") or 0), call.parameters.get("source"))
    return encode_reply(reading._asdict())


async def watch_messages(room: Room, call: Call, send: Send) -> None:
    """The kept messages, then each new one."""
    since, name = max(0, call.parameters.get("since") or 0), call.parameters.get("source")
    first = True
    while True:
        seen = room.news.count
        reading = _messages(room, since, name)
        if reading.messages or first:
            await send(encode_reply(reading._asdict(), continues=True))
        since, first = reading.last, False
        await room.news.beyond(seen)


def _chosen(room: Room, call: Call) -> list[Mapping[str, Any]]:
    name = call.parameters.get("source")
    return list(room.snapshot["sources"]) if name is None else [room.source(name)]


async def get_ledger(room: Room, call: Call) -> bytes:
    """Where packets were lost."""
    sources = [
        {
            "source": source["name"],
            "produced": source.get("produced", source["packets"]),
            "packets": source["packets"],
            "routed": source.get("routed"),
            "empty": source.get("empty"),
            "offered": source.get("offered"),
            "lost": source["lost"],
            "changed": source.get("changed"),
        }
        for source in _chosen(room, call)
    ]
    consumers = [
        {
            "id": consumer["id"],
            "sink": consumer["sink"],
            "offered": consumer.get("offered", consumer["packets"] + consumer["lost"]),
            "packets": consumer["packets"],
            "queued": consumer.get("queued", 0),
            "lost": consumer.get("lost_by", {"consumer-slow": consumer["lost"]} if consumer["lost"] else {}),
        }
        for consumer in room.snapshot["consumers"]
    ]
    sinks = [
        {"sink": sink["name"], "left": sink["left"]} for sink in room.snapshot["sinks"] if sink.get("left")
    ]
    whole = {"gone": room.snapshot.get("gone"), "residue": room.snapshot.get("residue")}
    return encode_reply({"sources": sources, "consumers": consumers, "sinks": sinks, **whole})


async def get_vitals(room: Room, call: Call) -> bytes:
    """What the processes of each source use."""
    return encode_reply({"vitals": {source["name"]: source["vitals"] for source in _chosen(room, call)}})


async def get_health(room: Room, _call: Call) -> bytes:
    """Whether all is well, and what is not."""
    troubles = [_trouble(source) for source in room.snapshot["sources"] if _troubled(source)]
    troubles += [_sink_trouble(sink) for sink in room.snapshot["sinks"] if sink.get("problem")]
    troubles += room.snapshot.get("troubles") or []
    health = room.snapshot.get("health") or ("degraded" if troubles else "ok")
    return encode_reply({"health": health, "troubles": troubles})


def _troubled(source: Mapping[str, Any]) -> bool:
    if source["state"] == "running":
        return source.get("verdict") not in {None, "", "ok"}
    return source["state"] in {"backoff", "failed"}


def _trouble(source: Mapping[str, Any]) -> dict[str, str]:
    ended = source.get("exit") or {}
    return {
        "source": source["name"],
        "state": source["state"],
        "problem": source.get("reason") or ended.get("problem") or source.get("verdict") or "",
        "text": ended.get("text") or source.get("why") or "",
    }


def _sink_trouble(sink: Mapping[str, Any]) -> dict[str, str]:
    return {
        "source": sink["name"],
        "state": sink.get("state") or "",
        "problem": sink["problem"],
        "text": sink.get("text") or "",
    }


async def get_info(_room: Room, _call: Call) -> bytes:
    """Who made this service."""
    return encode_reply(
        {
            "vendor": "helperd",
            "product": "helperd",
            "version": __version__,
            "url": "https://pypi.org/project/helperd/",
            "interfaces": [SERVICE, OWN],
        }
    )


METHODS: Final[Mapping[str, Entry]] = {
    "Stream": Entry(upgrade=stream, needs="stream"),
    "Capture": Entry(upgrade=capture, changes=True, needs="stream"),
    "GetStatus": Entry(get_status, stream=watch_status),
    "ListSources": Entry(list_sources),
    "GetSource": Entry(get_source),
    "Start": Entry(_order("start"), changes=True),
    "Stop": Entry(_order("stop"), changes=True),
    "Restart": Entry(_order("restart"), changes=True),
    "Pause": Entry(_order("pause"), changes=True),
    "Resume": Entry(_order("resume"), changes=True),
    "AddSource": Entry(add_source, changes=True, needs="add_source", attended=True),
    "RemoveSource": Entry(remove_source, changes=True, needs="remove_source", attended=True),
    "SetChannel": Entry(set_channel, changes=True, needs="set_channel"),
    "Hop": Entry(hop, changes=True, needs="hop"),
    "Reload": Entry(reload, changes=True, needs="reload", attended=True),
    "ListHelpers": Entry(list_helpers, needs="helpers"),
    "ListDevices": Entry(list_devices, attended=True),
    "Probe": Entry(probe, attended=True),
    "GetMessages": Entry(get_messages, stream=watch_messages),
    "GetLedger": Entry(get_ledger),
    "GetVitals": Entry(get_vitals),
    "GetHealth": Entry(get_health),
}
