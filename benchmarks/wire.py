"""What a frame costs on the supervisor's side: `python -m benchmarks.wire [--size=200] [--json]`.

One read of many data frames goes through a session that is open, and the decision where the run goes is made; nothing
is copied or written. Each figure is the best of many rounds on one core, in nanoseconds a frame (or a packet, where a
frame holds many). Beside them:

* one frozen object a packet, with its content copied, which is the usual way;
* for v0, `sum` and `accumulate` over the same payloads, which is what its checksum costs in any case;
* for bulk, the same frame checked block by block, as it must be when lengths are mixed.

The processor and the interpreter's build belong to a figure: quote them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import random
import struct
import sys
import sysconfig
import time
from collections.abc import Callable
from itertools import accumulate

from helperd.wire import bulk, v0, v2, v3
from helperd.wire import messages as m
from helperd.wire.frames import Run
from helperd.wire.session import Phase, Role, Session

READ = 256 * 1024
INTERFACE = 7


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: what, nanoseconds per frame or packet, and the bar it has to stay under, if any."""

    name: str
    ns: float
    bar: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """The object per packet of the baseline."""

    seqno: int
    at: int
    content: bytes


def best(work: Callable[[], object], packets: int, rounds: int) -> float:
    """Nanoseconds per packet in the quickest round."""
    quickest = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        quickest = min(quickest, time.perf_counter() - start)
    return quickest / packets * 1e9


def session(generation, *, verify=True) -> Session:
    """A supervisor's session whose helper is open, with the bulk extension where there is one."""
    made = Session(Role.SUPERVISOR, generation=generation, verify=verify)
    if generation is v3:
        made.send(m.Register(bulk.SUBSYSTEM, INTERFACE, 1))
    made.phase = Phase.OPEN
    return made


def route(made: Session, data: bytes, outboxes: list[list[Run]]) -> None:
    """One read, to all who want it."""
    for item in made.receive(data):
        if isinstance(item, Run):
            for outbox in outboxes:
                outbox.append(item)
    for outbox in outboxes:
        outbox.clear()


def objects(data: bytes) -> list[Report]:
    """The usual way: an object and a copy for each frame."""
    out, position = [], 0
    unpack = struct.Struct(">QIHHI").unpack_from
    while len(data) - position >= 20:
        _, length, _, _, seqno = unpack(data, position)
        out.append(Report(seqno, position, data[position + 20 : position + 20 + length]))
        position += 20 + length
    return out


def block(content: bytes, options: bytes = b"") -> bytes:
    """One Enhanced Packet Block."""
    padded = content + bytes(-len(content) % 4) + options
    size = len(content)
    return (
        struct.pack("<7I", 6, 32 + len(padded), INTERFACE, 0, 0, size, size)
        + padded
        + struct.pack("<I", 32 + len(padded))
    )


def bulk_frame(sizes: list[int], options: bytes = b"") -> bytes:
    """One frame of packets of these sizes."""
    return bulk.encode([block(bytes(size), options) for size in sizes], 1)


def rows(size: int, rounds: int) -> list[Row]:
    """Measure everything."""
    out = []
    content = random.Random(1).randbytes(size)
    outboxes: list[list[Run]] = [[]]
    streams = {}
    for generation in (v3, v2, v0):
        frame = generation.encode(m.DataReport(m.Packet(content, 127, 1_700_000_000, 123_456, size)), 7)
        frames = READ // len(frame)
        streams[generation.name] = (generation, frame, frames)
        made = session(generation, verify=False)
        word = "" if generation is not v0 else ", checksum not looked at"
        cost = best(lambda made=made, data=frame * frames: route(made, data, outboxes), frames, rounds)
        out.append(Row(f"{generation.name} frame{word}", cost, 200))
    _, frame, frames = streams["v0"]
    payloads = [frame[12:]] * frames
    plain = best(
        lambda: [(sum(payload), sum(accumulate(payload))) for payload in payloads], frames, rounds // 4 + 1
    )
    made = session(v0)
    cost = best(lambda: route(made, frame * frames, outboxes), frames, rounds // 4 + 1)
    out += [
        Row("v0 frame, checksum verified", cost, 1.2 * plain),
        Row("  its payload by sum and accumulate", plain),
    ]
    _, frame, frames = streams["v3"]
    out.append(
        Row("an object a packet (v3), the baseline", best(lambda: objects(frame * frames), frames, rounds))
    )
    packets = 270
    dice = random.Random(2)
    mixed = [dice.choice((60, 90, 200, 1514, dice.randint(60, 1514))) for _ in range(packets)]
    comment = struct.pack("<HH", 1, 14) + b"signal=-60dBm  " + b"\0" + bytes(4)
    for name, data, bar in (
        (f"bulk packet, {packets} a frame", bulk_frame([size] * packets), 20.0),
        ("bulk packet with a comment", bulk_frame([size] * packets, comment), None),
        ("bulk packet, 1000 a frame", bulk_frame([size] * 1000), 20.0),
        ("bulk packet, lengths at random", bulk_frame(mixed), None),
    ):
        made = session(v3)
        count = 1000 if "1000" in name else packets
        out.append(
            Row(name, best(lambda made=made, data=data: route(made, data, outboxes), count, rounds), bar)
        )
    for generation, frame, _ in streams.values():
        run = Run(1, frame * 1000, 0, len(frame) * 1000, 1000, 1000)
        few = rounds // 10 + 1
        quick = best(lambda g=generation, run=run: [None for _ in g.packets(run)], 1000, few)
        slow = best(lambda g=generation, run=run: [None for _ in g.packets_general(run)], 1000, few)
        out += [
            Row(f"{generation.name} packet, to be made pcapng", quick),
            Row("  by the general decoder", slow),
        ]
    return out


def build() -> str:
    """How the interpreter was built, in a few words."""
    arguments = str(sysconfig.get_config_var("CONFIG_ARGS") or "")
    guided = "with" if "enable-optimizations" in arguments else "without"
    return f"CPython {platform.python_version()} {guided} profile guidance, {platform.machine()}"


def main() -> int:
    """Print the table; the status is 1 if a figure is over its bar and ``--check`` was given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=200, help="bytes of content in a packet")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--check", action="store_true", help="fail when a figure is over its bar")
    options = parser.parse_args()
    found = rows(options.size, options.rounds)
    if options.json:
        print(
            json.dumps(
                {"build": build(), "size": options.size, "rows": [dataclasses.asdict(row) for row in found]}
            )
        )
    else:
        print(f"{build()}; packets of {options.size} bytes, reads of {READ // 1024} KiB\n")
        for row in found:
            bar = "" if row.bar is None else f"   bar {row.bar:8.0f}  {'ok' if row.ns <= row.bar else 'OVER'}"
            print(f"{row.name:42} {row.ns:9.1f} ns{bar}")
    over = [row.name for row in found if row.bar is not None and row.ns > row.bar]
    return 1 if over and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
