"""The toolbar of a capture: its channel, hopping, and what the helper says.

Rules:
  1. It runs in threads beside the capture, each with a connection of its own; whatever fails here is shown in the
     status bar, and the packets go on.
  2. A toolbar that does not read loses messages, it never holds us up.

Source of facts: Wireshark's extcap(4) manual page, and "Extcap control" in its developers' guide.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Final

from helperd.control.client import Client
from helperd.errors import HelperdError
from helperd.extcap.words import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHANNEL, HOP, MESSAGES = range(3)
INITIALIZED, SET, ADD, REMOVE, ENABLE, DISABLE, STATUS, INFORMATION, WARNING, ERROR = range(10)
HOPPING: Final = "hopping"
_ORDER_S: Final = 660.0
_MAX: Final = 0xFFFF


def encode(control: int, command: int, text: str = "") -> bytes:
    """One message to the toolbar."""
    payload = text.encode("utf-8", "replace")[: _MAX - 2]
    return b"T" + (len(payload) + 2).to_bytes(3, "big") + bytes((control, command)) + payload


def decode(buffer: bytearray) -> Iterator[tuple[int, int, str]]:
    """Take the whole messages out of a buffer; what is no message empties it."""
    while len(buffer) >= 6:
        size = int.from_bytes(buffer[1:4], "big")
        if buffer[0] != ord("T") or not 2 <= size <= _MAX:
            buffer.clear()
            return
        if len(buffer) < 4 + size:
            return
        yield buffer[4], buffer[5], buffer[6 : 4 + size].decode("utf-8", "replace")
        del buffer[: 4 + size]


class Toolbar:
    """The toolbar of one source.

    Args:
        control: path of the daemon's control socket.
        source: its name.
        read: the FIFO with what the user does.
        write: the FIFO with what the user sees.
    """

    def __init__(self, control: str, source: str, read: str, write: str) -> None:
        self._control = control
        self._source = source
        self._read = os.open(read, os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(self._read, True)
        # both ways: opening never waits for the reader, and there is none to lose
        self._write = os.open(write, os.O_RDWR | os.O_NONBLOCK)
        self._known: list[str] | None = None

    def start(self) -> None:
        """Work until the process ends."""
        for work in (self._obey, self._follow, self._relay):
            threading.Thread(target=self._guarded, args=(work,), daemon=True).start()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except HelperdError as error:
            self._say(CHANNEL, STATUS, f"helperd: {plain(error)}")
        except OSError:
            return  # the toolbar is gone

    def _say(self, control: int, command: int, text: str = "") -> None:
        try:
            os.write(self._write, encode(control, command, text))
        except BlockingIOError:
            return

    def _obey(self) -> None:
        """Do what the user chooses."""
        import select

        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        buffer = bytearray()
        while True:
            poll.poll()
            data = os.read(self._read, 1 << 16)
            if not data:
                return
            buffer += data
            for control, command, text in decode(buffer):
                if command == SET and control == CHANNEL and text == HOPPING:
                    self._order("Hop")
                elif command == SET and control == CHANNEL and text:
                    self._order("SetChannel", channel=text)
                elif command == SET and control == HOP:
                    self._order("Hop")

    def _order(self, method: str, **parameters: str) -> None:
        try:
            with Client(self._control, _ORDER_S) as client:
                source = client.call(method, source=self._source, **parameters)["source"]
        except HelperdError as error:
            self._say(CHANNEL, STATUS, f"helperd: {plain(error)}")
        else:
            tuned = parameters.get("channel") or "all channels in turn"
            self._say(CHANNEL, STATUS, plain(f"{source['name']}: {tuned}"))

    def _follow(self) -> None:
        """Keep the list of channels and the present one as they are."""
        told = None
        with Client(self._control) as client:
            for status in client.more("GetStatus", source=self._source):
                source = status["sources"][0]
                channels = source.get("channels") or []
                if channels != self._known:
                    self._known = channels
                    self._say(CHANNEL, REMOVE)
                    for name in [HOPPING, *channels] if channels else []:
                        self._say(CHANNEL, ADD, f"{name}\0{plain(name)}")
                    self._say(CHANNEL, ENABLE if channels else DISABLE)
                    self._say(HOP, ENABLE if channels else DISABLE)
                    told = None
                shown = HOPPING if source.get("hop_channels") else source.get("channel") or ""
                if channels and shown != told:
                    told = shown
                    self._say(CHANNEL, SET, shown)

    def _relay(self) -> None:
        """Show what the helper says."""
        with Client(self._control) as client:
            for news in client.more("GetMessages", source=self._source):
                for message in news["messages"]:
                    self._say(MESSAGES, ADD, plain(f"{message['severity']}: {message['text']}") + "\n")
