"""Fuzz the control server: mutated and made-up messages on real sockets; nothing escapes, memory stays.

    python tests/fuzz/fuzz_control.py [MESSAGES] [SEED]

Ends with status 1 when the server had an error of its own, did not answer, or grew.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import trio

from tests.patience import HANGS_S

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from helperd.control.call import OWN  # noqa: E402 - the path above is what finds it
from helperd.control.connection import Limits  # noqa: E402
from helperd.control.interface import load as load_interface  # noqa: E402
from tests.control.fake import TunableDaemon, served, source  # noqa: E402

BATCH = 200
GROWTH_KB = 8192
METHODS = sorted(load_interface(OWN).methods)
WORDS = [
    "source",
    "every_s",
    "definition",
    "name",
    "since",
    "channels",
    "rate",
    "radio0",
    "beacons",
    "new:x=y",
    "",
    "\0",
]


def value(dice: random.Random, depth: int = 0) -> Any:
    """Any JSON value."""
    kind = dice.randrange(9 if depth < 3 else 7)
    if kind == 7:
        return [value(dice, depth + 1) for _ in range(dice.randrange(4))]
    if kind == 8:
        return {dice.choice(WORDS): value(dice, depth + 1) for _ in range(dice.randrange(4))}
    simple = [
        None,
        True,
        False,
        dice.randrange(-(1 << 70), 1 << 70),
        dice.uniform(-1e300, 1e300),
        dice.choice(WORDS),
    ]
    return [*simple, "".join(chr(dice.randrange(0x11000)) for _ in range(dice.randrange(20)))][kind]


def message(dice: random.Random) -> bytes:
    """One message, with its NUL byte: likely right, likely wrong, or noise."""
    kind = dice.randrange(400)  # noise ends the connection, so it is rare
    if kind == 0:
        return dice.randbytes(dice.randrange(60)).replace(b"\0", b"") + b"\0"
    call: Any = {"method": f"{OWN}.{dice.choice(METHODS)}"}
    if call["method"].endswith("Stream") or kind % 20 == 1:
        call["method"] = value(dice)
    if dice.random() < 0.8:
        call["parameters"] = {dice.choice(WORDS): value(dice) for _ in range(dice.randrange(4))}
    if dice.random() < 0.05:
        call["oneway"] = dice.choice([True, False, 1, None])
    if kind % 20 == 2:
        call = value(dice)
    raw = bytearray(json.dumps(call).encode())
    if kind == 3 and raw:
        for _ in range(dice.randrange(1, 4)):
            raw[dice.randrange(len(raw))] = dice.randrange(1, 256)
    return bytes(raw) + b"\0"


def batches(dice: random.Random, messages: int) -> Iterator[bytes]:
    """The messages of one connection after the other."""
    for _ in range(0, messages, BATCH):
        yield b"".join(message(dice) for _ in range(BATCH))


async def talk(path: str, data: bytes) -> int:
    """Send all, read all; returns the number of replies."""
    replies = 0

    async def read(stream: trio.SocketStream) -> None:
        nonlocal replies
        try:
            while received := await stream.receive_some(1 << 16):
                replies += received.count(0)
        except trio.BrokenResourceError:
            return

    with trio.fail_after(HANGS_S):
        async with await trio.open_unix_socket(path) as stream, trio.open_nursery() as nursery:
            nursery.start_soon(read, stream)
            try:
                await stream.send_all(data)
                await stream.send_eof()
            except trio.BrokenResourceError:
                pass  # refused at a message that was none, as it should be
    return replies


async def run(messages: int, seed: int) -> int:
    dice = random.Random(seed)
    daemon = TunableDaemon()
    with tempfile.TemporaryDirectory(prefix="hd-") as folder:
        async with served(Path(folder), daemon, limits=Limits(linger_s=0.2)) as (path, service):
            sent = replies = early = 0
            for number, data in enumerate(batches(dice, messages)):
                replies += await talk(path, data)
                sent += BATCH
                daemon.sources = {name: source(name) for name in ("radio0", "beacons")}
                daemon.number += 1
                daemon.orders.clear()
                if number == messages // BATCH // 10:
                    early = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - early
    print(
        f"{sent} messages, seed {seed}: {replies} replies, {service.bugs} bugs, {grown} KiB more than after a tenth"
    )
    return int(service.bugs > 0 or replies == 0 or grown > GROWTH_KB)


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:3]]
    raise SystemExit(trio.run(run, *(numbers + [20_000, 1][len(numbers) :])))
