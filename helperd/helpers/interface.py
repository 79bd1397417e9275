"""``interface``: live capture on a network interface of Linux.

::

    definition:  eth0:type=interface,filter="tcp port 443",snaplen=256,promisc=false
                 any:type=interface                    all interfaces at once, those to come included

Rules:
  1. The kernel fills blocks of a shared ring; under helperd their packets leave from where they lie, as ready
     pcapng, without a copy of ours and without an object per packet. Another server gets a frame per packet.
  2. Packets are as they were on the wire: a VLAN tag that the hardware took off is put back. Stamps are the
     kernel's, in nanoseconds. Where it is not certain what a packet begins with, and on all interfaces at once, it
     begins with Linux's cooked header (SLL2).
  3. What the kernel had no room for is counted by it and told at once.
  4. An interface that goes down is waited for. One that vanishes ends the helper; the next start is refused
     until it exists again.
  5. It needs CAP_NET_RAW and nothing else, and gives it up, with all it has not open, before the first packet.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from typing import TYPE_CHECKING, Final

from helperd.errors import HelperdError
from helperd.helpers import _bpf, _packetlink
from helperd.helpers._bulk import BulkWriter
from helperd.helpers._clock import monotonic
from helperd.helpers._packetblock import Blocks
from helperd.helpers._packetlink import ANY
from helperd.helpers._packetring import BLOCK, PacketRing, make_socket
from helperd.helpers._packetsend import BulkSender
from helperd.helpers.sdk import Device, Helper, Interface, Refused, SourceDefinition, Writer
from helperd.wire.identity import uuid_of

if TYPE_CHECKING:
    from collections.abc import Callable

    Emit = Callable[[int, int], None]

MAX_SNAPLEN: Final = 262_144
MIN_SNAPLEN: Final = 16
BUFFER: Final = 32 << 20
MAX_BUFFER: Final = 1 << 30
TIMEOUT_MS: Final = 10
SHOWN: Final = 50  # interfaces whose numbers are told
SETTLE_MS: Final = 200  # after the last block: ask once more what was dropped
UNITS: Final = {
    "": 1,
    "k": 1 << 10,
    "kib": 1 << 10,
    "m": 1 << 20,
    "mib": 1 << 20,
    "g": 1 << 30,
    "gib": 1 << 30,
}


class InterfaceCapture(Helper):
    """The capture."""

    TYPE = "interface"
    SUMMARY = "captures live on a network interface"
    SEALED = True
    SEALED_IOCTLS = _packetlink.IOCTLS
    SHARED = True
    OPTIONS = {  # noqa: RUF012 - a constant of the class, as in Helper
        "snaplen": f"bytes kept of a packet, {MIN_SNAPLEN} to {MAX_SNAPLEN}; default all",
        "promisc": "false: only what is for this station, and what it sends; default true",
        "filter": "capture only what matches, in tcpdump's language, in quotes if it has commas",
        "buffer": f"room in the kernel for packets not read yet, e.g. 64MiB; default {BUFFER >> 20}MiB",
        "timeout": f"milliseconds until packets leave that are few, 1 to 1000; default {TIMEOUT_MS}",
    }

    def probe(self, definition: SourceDefinition) -> Device | bool:
        """Ours: any interface there is, and whatever says ``type=interface``."""
        name = definition.interface
        if definition.get("type").lower() != self.TYPE and name not in {ANY, *_packetlink.names()}:
            return False
        _packetlink.check_name(name)
        link = _packetlink.look(name)
        make_socket().close()
        return _device(link)

    def open(self, definition: SourceDefinition) -> Device:
        """Compile the filter, make the ring, and begin to hear."""
        name = definition.interface
        _packetlink.check_name(name)
        link = _packetlink.look(name)
        snaplen = max(
            _number(definition, "snaplen", MAX_SNAPLEN, MIN_SNAPLEN, MAX_SNAPLEN), link.framing.header + 1
        )
        timeout = _number(definition, "timeout", TIMEOUT_MS, 1, 1000)
        promiscuous = definition.flag("promisc", default=True)
        expression = definition.get("filter")
        program = _bpf.compile_filter(expression, link.linktype, snaplen, name, link.framing)
        if name == ANY:
            program = _bpf.heard_once(program)
        self._link = link
        self._timeout_ms = timeout
        self._watch = _packetlink.Watch(link.number, up=link.up)
        self._ring = PacketRing(
            buffer=_size(definition, "buffer", BUFFER),
            timeout_ms=timeout,
            framing=link.framing,
            program=program,
        )
        self._blocks = Blocks(self._ring, snaplen, ordered=bool(definition.get("snaplen")))
        try:
            self._ring.bind(link.number, promiscuous=promiscuous, loopback=link.loopback)
        except OSError as error:
            raise Refused(f"cannot capture on {name}: {error.strerror}; does it still exist?") from None
        self._dlt = link.dlt
        device = _device(link, expression)
        if name == ANY and promiscuous and definition.get("promisc"):
            return device._replace(
                warning="promisc: not possible on all interfaces at once; name one of them"
            )
        return device

    def list(self) -> list[Interface]:
        """All interfaces; what cannot be used says why and what helps."""
        try:
            make_socket().close()
            forbidden = ""
        except Refused as error:
            forbidden = error.text
        found = []
        for name in _packetlink.names():
            link = _packetlink.look(name)
            reason = forbidden or ("" if link.up else f"down: ip link set {name} up")
            found.append(Interface(name, hardware="; ".join(text for text in (link.driver, reason) if text)))
        found.append(Interface(ANY, hardware="; ".join(filter(None, ("all interfaces at once", forbidden)))))
        return found

    # the capture thread

    def capture(self, writer: Writer) -> str:
        """Hand on blocks until told to stop."""
        self._writer = writer
        self._in_hand = 0
        self._untold = 0
        self._told_at = 0.0
        self._cut = 0
        emit = self._emitter(writer)
        try:
            self._run(emit)
        finally:
            self._leave()
        return f"the capture on {self._link.name} has ended"

    def _emitter(self, writer: Writer) -> Emit:
        """The way a block leaves: in place for helperd, packet by packet for others."""
        blocks, dlt = self._blocks, self._dlt
        if isinstance(writer, BulkWriter):
            sender = BulkSender(writer)

            def in_place(at: int, count: int) -> None:
                for pieces in blocks.pieces(at, count, sender.interface):
                    sender.send(pieces)
                    self._in_hand -= pieces.packets
                if blocks.cut:
                    self._count_cut()

            return in_place

        def one_by_one(at: int, count: int) -> None:
            writer.packets((dlt, *packet, b"") for packet in blocks.packets(at, count))
            writer.flush()
            self._in_hand -= count

        return one_by_one

    def _run(self, emit: Emit) -> None:
        """Wait for blocks, news and the end."""
        ring, watch = self._ring, self._watch
        poll = select.poll()
        poll.register(ring.socket, select.POLLIN)
        poll.register(watch.socket, select.POLLIN)
        poll.register(self.stop_fd, select.POLLIN)
        settled = True
        self._on_news(emit)
        while True:
            if self._drain(emit):
                settled = False
            elif not settled:
                self._count_drops()
                settled = True
            events = dict(poll.poll(None if settled else SETTLE_MS))
            if self.stop_fd in events:
                self._drain(emit)
                return
            if events.get(ring.socket.fileno(), 0) & select.POLLERR:
                self._on_error(ring.error())
            if watch.socket.fileno() in events:
                self._on_news(emit)

    def _drain(self, emit: Emit) -> int:
        """Hand on all blocks that are ready; returns how many."""
        ring = self._ring
        done = 0
        while done < ring.blocks and (block := ring.take()) is not None:
            self._in_hand = block[1]
            if block[1]:
                emit(*block)
            ring.release()
            done += 1
            if ring.losing:
                self._count_drops()
        return done

    def _count_cut(self) -> None:
        """Packets longer than a block of the ring."""
        cut, self._blocks.cut = self._blocks.cut, 0
        before, self._cut = self._cut, self._cut + cut
        self._writer.count(cut, "cut")
        if not before or len(str(self._cut)) > len(str(before)):
            self._writer.warning(
                f"{self._cut} packets cut: they were longer than the {BLOCK} bytes of a block"
            )

    def _count_drops(self) -> None:
        """Ask the kernel, and tell: helperd at once, a server that shows it to a user once a second."""
        self._untold += self._ring.statistics().drops
        now = monotonic()
        if self._untold and (isinstance(self._writer, BulkWriter) or now - self._told_at >= 1.0):
            self._writer.lost(self._untold)
            self._untold = 0
            self._told_at = now

    def _on_error(self, number: int) -> None:
        """The socket's error; that the interface is down is told by the watch."""
        if number not in {0, errno.ENETDOWN}:
            raise HelperdError("exited", f"{self._link.name}: {os.strerror(number)}")

    def _on_news(self, emit: Emit) -> None:
        watch, name = self._watch, self._link.name
        was_up = watch.up
        watch.read()
        if watch.gone:
            self._writer.wait(3 * self._timeout_ms / 1000)  # until the last block has left the kernel
            self._drain(emit)
            self._count_drops()
            raise HelperdError("device-gone", f"no such interface any more: {name} was removed")
        if watch.up and not was_up:
            self._writer.message(f"{name} is up again")
        elif was_up and not watch.up:
            self._writer.warning(f"{name} went down; packets come when it is up: ip link set {name} up")

    def _leave(self) -> None:
        """Count what is left behind, and let go."""
        ring = self._ring
        left = self._in_hand
        if left:
            ring.release()
        for _ in range(ring.blocks):
            if (block := ring.take()) is None:
                break
            left += block[1]
            ring.release()
        self._writer.lost(self._untold + left + ring.statistics().drops)
        ring.close()
        self._watch.close()


def _device(link: _packetlink.Link, expression: str = "") -> Device:
    """What is told of an interface."""
    warning = ""
    if not link.up:
        warning = f"{link.name} is down; packets come when it is up: ip link set {link.name} up"
    what = link.name
    if what == ANY:
        numbered = ", ".join(f"{number} {name}" for number, name in sorted(socket.if_nameindex())[:SHOWN])
        what = f"all interfaces, by their numbers: {numbered}"
    message = f"captures on {what}" + (f", only {expression}" if expression else "")
    return Device(
        dlt=link.dlt,
        hardware=link.driver,
        capture_interface=link.name,
        message=message,
        warning=warning,
        uuid=uuid_of("helperd_interface", f"{link.name} {expression}") if expression else "",
    )


def _number(definition: SourceDefinition, key: str, default: int, least: int, most: int) -> int:
    text = definition.get(key)
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or not least <= int(text[:12]) <= most:
        raise Refused(f"{key}={text[:40]}: write a number from {least} to {most}", "bad-definition")
    return int(text)


def _size(definition: SourceDefinition, key: str, default: int) -> int:
    text = definition.get(key)
    if not text:
        return default
    digits = text.rstrip("KMGkmgiIbB")
    unit = UNITS.get(text[len(digits) :].lower())
    if unit is None or not digits.isascii() or not digits.isdigit() or len(digits) > 12:
        raise Refused(f"{key}={text[:40]}: write a size such as 64MiB", "bad-definition")
    size = int(digits) * unit
    if not 2 * BLOCK <= size <= MAX_BUFFER:
        raise Refused(
            f"{key}={text}: from {2 * BLOCK >> 10}KiB to {MAX_BUFFER >> 20}MiB are possible", "bad-definition"
        )
    return size


HELPER = InterfaceCapture
