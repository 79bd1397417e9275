"""What is true now, as plain data: the answer of ``status`` and the rows of the live view."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from helperd import __version__
from helperd.ledger import Left
from helperd.lifecycle import State
from helperd.runtime import CONTROL_SOCKET
from helperd.sinks.file import FileSink

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from helperd.ledger import Gone
    from helperd.logs import LogCounts
    from helperd.sinks.consumer import Consumer
    from helperd.sinks.stream import StreamSink
    from helperd.source import Source
    from helperd.standing import StandingOrder
    from helperd.supervisor import Supervisor
    from helperd.vitals import Tree


def source_status(source: Source, now: float, linktypes: list[int]) -> dict[str, object]:
    """One source; ages and times in seconds, None where there is nothing to say."""
    life = source.life
    ledger = source.route.ledger
    incarnation = source.incarnation
    ended = life.exit
    words = source.last_words if incarnation is None else incarnation.stderr.last
    return {
        "name": source.name,
        "definition": source.spec.definition,
        "helper": source.helper.name if source.helper else source.spec.helper,
        "state": str(life.state),
        "wanted": life.wanted,
        "why": life.why,
        "verdict": source.liveness[0],
        "reason": source.liveness[1],
        "rung": source.rung,
        "crash_loop": life.crash_loop,
        "since_s": now - life.since,
        "incarnation": life.incarnation,
        "pid": incarnation.process.pid if incarnation and incarnation.process.pid > 0 else None,
        "round_trip_s": incarnation.channel.round_trip if incarnation else None,
        "round_trip_max_s": incarnation.channel.round_trip_max if incarnation else None,
        "generation": source.opened.generation,
        "uuid": source.identity,
        "hardware": source.opened.hardware,
        "channel": source.opened.channel,
        "channels": list(source.opened.channels),
        "hop_channels": list(source.opened.hop_channels),
        "hop_rate": source.opened.hop_rate,
        "hop_offset": source.opened.hop_offset,
        "tuning": None if source.standing is None else _tuning(source.standing),
        "linktypes": linktypes,
        "packets": ledger.received,
        "bytes": ledger.received_bytes,
        "rate": source.meter.rate if life.state is State.RUNNING else None,
        "produced": ledger.produced,
        "routed": ledger.routed,
        "empty": ledger.empty,
        "offered": ledger.offered,
        "cut": ledger.changed["cut"],
        "changed": dict(ledger.changed),
        "lost": ledger.losses(),
        "restarts": life.history.tally.restarts,
        "age_s": None if source.last_packet_at is None else now - source.last_packet_at,
        "exit": None
        if ended is None
        else {"kind": str(ended.kind), "problem": ended.problem, "text": ended.text},
        "next_try_s": None if life.next_try_at is None else max(0.0, life.next_try_at - now),
        "stderr": list(words),
        "vitals": None if source.vitals is None else _vitals(source.vitals),
        "paused": source.route.paused,
    }


def service_status(service: Source, now: float) -> dict[str, object]:
    """One service: what is true of everything that has processes."""
    row = source_status(service, now, [])
    return {key: row[key] for key in _SERVICE}


_SERVICE: Final = (
    *("name", "state", "wanted", "why", "crash_loop", "since_s", "incarnation", "pid", "restarts", "exit"),
    *("next_try_s", "stderr", "vitals"),
)


def _tuning(order: StandingOrder) -> dict[str, object]:
    return {
        "channel": order.channel,
        "channels": list(order.channels),
        "rate": order.rate,
        "kept": order.kept,
        "text": str(order),
    }


def _vitals(tree: Tree) -> dict[str, object]:
    return {
        "processes": len(tree.members),
        "cpu_percent": tree.cpu_percent,
        "cpu_s": tree.cpu_s,
        "memory": tree.memory,
        "fds": tree.fds,
        "threads": tree.threads,
    }


def sink_status(sink: StreamSink | FileSink, left: Left | None = None) -> dict[str, object]:
    """One sink, and what became of those that have read there."""
    row: dict[str, object] = {
        "name": sink.name,
        "type": "unix" if sink.spec is None else sink.spec.type,
        "path": sink.path,
        "format": sink.form,
        "left": None if left is None else left_status(left),
    }
    if isinstance(sink, FileSink):
        error = sink.error
        row |= {
            "state": sink.state,
            "files": sink.begun,
            "durable": sink.durable,
            "problem": None if error is None else error.problem,
            "text": None if error is None else error.text,
        }
    return row


def consumer_status(consumer: Consumer | FileSink, now: float) -> dict[str, object]:
    """One consumer; ``offered`` = ``packets`` + ``lost`` + ``queued``, always."""
    outbox = consumer.outbox
    return {
        "id": consumer.number,
        "sink": consumer.sink,
        "format": consumer.form,
        "pid": consumer.peer.pid,
        "uid": consumer.peer.uid,
        "offered": outbox.offered,
        "packets": outbox.delivered,
        "bytes": outbox.delivered_bytes,
        "durable": consumer.durable if isinstance(consumer, FileSink) else None,
        "lost": outbox.lost,
        "lost_by": dict(outbox.lost_by),
        "queued": outbox.queued + outbox.inflight,
        "queued_bytes": outbox.pinned,
        "connected_s": now - consumer.connected_at,
    }


def left_status(left: Left) -> dict[str, object]:
    """Readers that have left; ``offered`` = ``packets`` + the sum of ``lost``, always."""
    return {
        "consumers": left.consumers,
        "offered": left.offered,
        "packets": left.delivered,
        "durable": left.durable,
        "bytes": left.nbytes,
        "lost": dict(left.lost),
    }


def gone_status(gone: Gone, sinks: Collection[str]) -> dict[str, object]:
    """Sources that were removed, and readers of sinks that are none of ``sinks``: one sum of each."""
    ledger = gone.ledger
    rest = Left()
    for left in (gone.rest, *(left for name, left in gone.left.items() if name not in sinks)):
        rest.add(left)
    return {
        "sources": gone.sources,
        "produced": ledger.produced,
        "packets": ledger.received,
        "bytes": ledger.received_bytes,
        "routed": ledger.routed,
        "empty": ledger.empty,
        "offered": ledger.offered,
        "changed": dict(ledger.changed),
        "lost": ledger.losses(),
        "left": left_status(rest),
    }


def account(status: Mapping[str, Any]) -> Account:
    """Add up everything that ever was, of a whole status."""
    gone = status["gone"]
    sources = [*status["sources"], gone]
    readers = status["consumers"]
    left = [gone["left"], *(sink["left"] for sink in status["sinks"] if sink["left"])]
    here, away = Counter[str](), Counter[str]()
    for source in sources:
        here.update(source["lost"])
    for reader in readers:
        away.update(reader["lost_by"])
    for account in left:
        away.update(account["lost"])
    produced = sum(source["produced"] for source in sources)
    kept = sum(source["routed"] + source["empty"] for source in sources) + here.total()
    offered = sum(source["offered"] for source in sources) + status["told"]
    taken = sum(row["offered"] for row in (*readers, *left))
    delivered = sum(row["packets"] for row in (*readers, *left))
    queued = sum(reader["queued"] for reader in readers)
    residue = abs(produced - kept) + abs(offered - taken) + abs(taken - delivered - away.total() - queued)
    return Account(produced, here, offered, delivered, queued, away, residue)


class Account(NamedTuple):
    """All packets since the daemon started.

    Attributes:
        produced: by all sources that ever were.
        lost: of these, before any reader was offered them, by reason.
        offered: to readers: each packet once for each of them.
        delivered: of these.
        queued: of these, now.
        lost_after: of these, by reason.
        residue: how many the account cannot explain: 0, or it has an error of helperd's own.
    """

    produced: int
    lost: Counter[str]
    offered: int
    delivered: int
    queued: int
    lost_after: Counter[str]
    residue: int

    def lines(self) -> list[str]:
        """What is told at the end."""
        told = [
            f"{self.produced:,} packets since the start; {_lost(self.lost)} before anybody was offered them",
            f"{self.offered:,} offered to readers and files, {self.delivered:,} delivered; {_lost(self.lost_after)}",
        ]
        if self.queued:
            told.append(f"{self.queued:,} are still queued")
        if self.residue:
            told.append(f"{self.residue:,} are not accounted for: an error of helperd's own")
        return told


def _lost(lost: Counter[str]) -> str:
    where = ", ".join(f"{reason} {number:,}" for reason, number in sorted(lost.items()) if number)
    return f"{lost.total():,} lost" + (f" ({where})" if where else "")


def log_status(counts: LogCounts) -> dict[str, object]:
    """What became of the log's lines."""
    return asdict(counts)


def snapshot(
    supervisor: Supervisor,
    sinks: Iterable[StreamSink | FileSink],
    runtime_dir: str,
    started_at: float,
    now: float,
    leaving: Iterable[StreamSink | FileSink] = (),
) -> dict[str, object]:
    """Everything at once, at one moment of the loop; ``leaving`` are closed sinks whose readers have yet to go."""
    interfaces = supervisor.table.interfaces
    sources = [
        source_status(source, now, [interface.linktype for interface in interfaces.of(source.name)])
        for source in supervisor.sources
    ]
    sick = [
        row["name"] for row in sources if row["wanted"] == "up" and row["state"] not in {"running", "down"}
    ]
    services = [service_status(service, now) for service in supervisor.services]
    sick += [
        row["name"] for row in services if row["wanted"] == "up" and row["state"] not in {"running", "down"}
    ]
    sinks = list(sinks)
    sick += [sink.name for sink in sinks if isinstance(sink, FileSink) and sink.error is not None]
    troubles = supervisor.tending.troubles(now) + [row for found in supervisor.troubles for row in found()]
    gone = supervisor.table.gone
    found = {
        "pid": os.getpid(),
        "version": __version__,
        "uptime_s": now - started_at,
        "config": supervisor.config.file,
        "runtime_dir": runtime_dir,
        "health": "degraded" if sick or troubles else "ok",
        "troubles": troubles,
        "late_beats": supervisor.late_beats,
        "bugs": supervisor.bugs + sum(source.faults + source.life.bugs for source in supervisor.all),
        "sources": sources,
        "services": services,
        "sinks": [
            sink_status(sink, gone.left.get(sink.name)) for sink in sinks if sink.name != CONTROL_SOCKET
        ],
        "consumers": [
            consumer_status(consumer, now) for sink in (*sinks, *leaving) for consumer in sink.consumers
        ],
        "stopping": supervisor.stopping,
        "gone": gone_status(gone, {sink.name for sink in sinks}),
        "told": supervisor.table.told,
        "messages_dropped": supervisor.bus.dropped,
        "launcher": {
            "pid": os.getppid(),
            "profiles": supervisor.launcher.profiles,
            "mode": supervisor.launcher.mode,
            "containment": supervisor.launcher.containment,
            "private_tmp": supervisor.launcher.mode == "root",
        },
    }
    return found | {"residue": account(found).residue}
