"""``synthetic``: a radio that needs no hardware. It hears 802.11 beacons that it makes itself.

::

    definition:  radio0:type=synthetic,channels="1,6,11",rate=500,count=20000,seed=7,size=200

    byte  0  radiotap header: flags, rate, channel, signal in dBm, antenna          16 bytes
         16  beacon header: type, addresses                                         24 bytes
         40  THE COUNTER, 64 bits, little-endian: 0, 1, 2, ... without a gap          8 bytes
         48  beacon interval, capabilities, SSID, rates, channel, filling

Rules:
  1. The counter is the beacon's own timestamp field, so every tool shows it (tshark: wlan.fixed.timestamp): a
     consumer that sees n, then n+1+k has lost k packets, and one that sees less than before was given them out
     of order. It starts at 0 with every open and counts all channels together.
  2. The air is made from the seed: same seed and same channel at the same count, same bytes.
  3. A radio hears the networks of the channel that it is tuned to, nothing else.
"""

from __future__ import annotations

import random
import struct
import time
from typing import Final, NamedTuple

from helperd.helpers._clock import monotonic
from helperd.helpers.sdk import (
    Device,
    Helper,
    Hopping,
    Interface,
    Refused,
    Signal,
    SourceDefinition,
    Writer,
)

DLT_RADIOTAP: Final = 127
RADIOS: Final = 4
COUNTER_AT: Final = 40
NETWORKS: Final = 3  # on every channel
LEVELS: Final = 8  # signal strengths per network
STEP_S: Final = 0.005  # packets that are due within one step leave together
BEHIND_S: Final = 1.0  # a radio further behind its rate than this does not try to catch up

FREQUENCIES: Final[dict[str, int]] = {
    **{str(channel): 2407 + 5 * channel for channel in range(1, 14)},
    "14": 2484,
    **{str(channel): 5000 + 5 * channel for channel in (36, 40, 44, 48, 149, 153, 157, 161)},
}
"""Channel to centre frequency in MHz: what the radio can tune to."""

_RADIOTAP = struct.Struct("<BBHIBBHHbB")
_PRESENT = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 11
_SMALLEST = 96
_LARGEST = 65000


class Heard(NamedTuple):
    """A beacon without its counter.

    Attributes:
        head: the bytes in front of the counter.
        tail: the bytes behind it.
        signal: what the radio knows of it; the strength stands in ``head`` too.
    """

    head: bytes
    tail: bytes
    signal: Signal


def make_air(seed: int, radio: int, channel: str, size: int | None) -> list[Heard]:
    """What a radio hears on one channel, in the order in which it is repeated.

    Args:
        seed: of the whole air.
        radio: number of the radio; each stands somewhere else and hears other strengths.
        channel: a key of ``FREQUENCIES``.
        size: bytes of every packet; None: as long as they come.
    """
    networks = random.Random(f"{seed}/{channel}")
    place = random.Random(f"{seed}/{radio}/{channel}")
    heard = []
    for number in range(NETWORKS):
        bssid = bytes([0x02, *networks.randbytes(5)])
        ssid = f"synthetic-{channel}-{number}".encode()
        elements = bytes([0, len(ssid)]) + ssid + b"\x01\x04\x82\x84\x8b\x96" + bytes([3, 1, int(channel)])
        tail = struct.pack("<HH", 100, 0x0421) + elements
        if size is not None:
            tail += _filling(size - COUNTER_AT - 8 - len(tail), networks)
        beacon = struct.pack("<HH", 0x0080, 0) + b"\xff" * 6 + bssid + bssid + b"\0\0"
        strength = place.randint(-85, -40)
        for level in range(LEVELS):
            dbm = strength + level - LEVELS // 2
            frequency = FREQUENCIES[channel]
            flags = 0x00A0 if frequency < 5000 else 0x0140
            radiotap = _RADIOTAP.pack(
                0, 0, _RADIOTAP.size, _PRESENT, 0, 2, frequency, flags, dbm, radio & 0xFF
            )
            signal = Signal(dbm=dbm, khz=frequency * 1000, channel=channel)
            heard.append(Heard(radiotap + beacon, tail, signal))
    place.shuffle(heard)
    return heard


def _filling(size: int, source: random.Random) -> bytes:
    """Vendor elements that are together exactly so long."""
    elements = b""
    while size > 0:
        length = min(size, 257)
        if 0 < size - length < 5:
            length -= 5
        body = b"\x02\x48\x44" + source.randbytes(max(0, length - 5))
        elements += bytes([221, length - 2]) + body[: length - 2]
        size -= length
    return elements


class Synthetic(Helper):
    """The radio."""

    TYPE = "synthetic"
    SHARED = True
    SEALED = True
    SUMMARY = "a radio without hardware: seeded 802.11 beacons with a counter in each"
    OPTIONS = {  # noqa: RUF012 - a constant of the class, as in Helper
        "rate": "packets per second; 0: as fast as they are taken; default 100",
        "count": "packets in all; default without end",
        "seed": "number the air is made from; default 0",
        "size": f"bytes of every packet, {_SMALLEST} to {_LARGEST}; default as long as they come, about 80",
        "signal": "true: a signal block with every packet; false, the default: its radiotap header says it all",
        "dead": "channels that cannot be tuned to, to see a radio fail",
        "hold": "true: stay when the count is reached; default only under a Kismet server",
    }

    def probe(self, definition: SourceDefinition) -> Device | bool:
        """Ours: ``synthetic``, ``radio0`` to ``radio3``, and whatever says ``type=synthetic``."""
        if _radio(definition.interface) is None:
            if definition.get("type").lower() == self.TYPE:
                raise Refused(
                    f"{definition.interface}: the radios are radio0 to radio{RADIOS - 1}, or synthetic"
                )
            return False
        return self.open(definition)

    def open(self, definition: SourceDefinition) -> Device:
        """Make the air and tune."""
        radio = _radio(definition.interface)
        if radio is None:
            raise Refused(f"{definition.interface}: the radios are radio0 to radio{RADIOS - 1}, or synthetic")
        self._rate = _number(definition, "rate", default=100.0, least=0, most=10_000_000)
        count = _number(definition, "count", default=0, least=0, most=2**63)
        self._count = int(count) or None
        seed = int(_number(definition, "seed", default=0, least=-(2**63), most=2**63))
        size = int(_number(definition, "size", default=0, least=0, most=_LARGEST)) or None
        if size is not None and size < _SMALLEST:
            raise Refused(f"size={size}: packets are {_SMALLEST} to {_LARGEST} bytes long", "bad-definition")
        self._signals = definition.flag("signal", default=False)
        if definition.get("hold"):
            self.hold = definition.flag("hold", default=False)
        self._dead = frozenset(definition.channels("dead"))
        wished = definition.channels() or tuple(FREQUENCIES)
        fixed = definition.get("channel")
        for channel in (*wished, *([fixed] if fixed else [])):
            if channel not in FREQUENCIES:
                raise Refused(f"channel {channel} is none of {', '.join(FREQUENCIES)}", "bad-definition")
        self._air = {channel: make_air(seed, radio, channel, size) for channel in FREQUENCIES}
        channel = fixed or wished[0]
        self._tuned = self._air[channel]
        hopping = None
        if not fixed and len(wished) > 1 and definition.flag("channel_hop", default=True):
            hopping = Hopping(wished, definition.rate())
        return Device(
            dlt=DLT_RADIOTAP,
            hardware=f"synthetic radio {radio}",
            capture_interface=f"radio{radio}",
            channels=tuple(FREQUENCIES),
            channel=channel,
            hopping=hopping,
            message=f"radio{radio} makes its own air from seed {seed}",
        )

    def list(self) -> list[Interface]:
        """Four radios."""
        return [
            Interface(f"radio{number}", "", f"synthetic radio {number}", f"radio{number}")
            for number in range(RADIOS)
        ]

    def configure(self, channel: str) -> None:
        """Tune; takes no time."""
        if channel not in FREQUENCIES:
            raise Refused(f"there is no channel {channel}", "not-supported")
        if channel in self._dead:
            raise Refused(f"channel {channel} is dead", "not-supported")
        self._tuned = self._air[channel]

    def capture(self, writer: Writer) -> str:
        """Hear beacons."""
        count = self._count
        sent = 0
        start = monotonic()
        while count is None or sent < count:
            if self._rate:
                ahead = start + sent / self._rate - monotonic()
                if ahead > 0:
                    writer.wait(max(ahead, STEP_S))
                elif ahead < -BEHIND_S:
                    start -= ahead
                due = int((monotonic() - start) * self._rate) + 1
            else:
                due = sent + 1024
            sent = self._hear(writer, sent, due if count is None else min(due, count))
        return f"{sent} packets, as many as wished"

    def _hear(self, writer: Writer, first: int, stop: int) -> int:
        """Hear the packets that are due; returns how many were heard in all."""
        packet, now, signals = writer.packet, time.time_ns, self._signals
        for number in range(first, stop):
            air = self._tuned
            heard = air[number % len(air)]
            data = heard.head + number.to_bytes(8, "little") + heard.tail
            packet(data, now(), signal=heard.signal if signals else None)
        return stop


def _radio(interface: str) -> int | None:
    """The number of a radio; ``synthetic`` is the first."""
    if interface == "synthetic":
        return 0
    number = interface.removeprefix("radio")
    if number != interface and number.isascii() and number.isdigit() and int(number) < RADIOS:
        return int(number)
    return None


def _number(definition: SourceDefinition, key: str, *, default: float, least: float, most: float) -> float:
    value = definition.number(key, default=default)
    if not least <= value <= most:
        raise Refused(f"{key}={definition.get(key)}: write a number from {least} to {most}", "bad-definition")
    return value


HELPER = Synthetic
