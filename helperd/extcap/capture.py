"""A capture for Wireshark: packets from the daemon into its FIFO.

Rules:
  1. The connection is the capture: a device that was opened for it is closed by the daemon when the connection ends,
     however this process ends.
  2. SIGTERM and SIGINT end it wherever it stands; so does a reader that closes the FIFO.
  3. Nothing is kept here but one read: who reads slowly loses packets in the daemon, where they are counted.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
from typing import TYPE_CHECKING, Final, NamedTuple

from helperd.control.client import Client
from helperd.errors import Code, HelperdError, UnavailableError, UsageError
from helperd.extcap.answers import alone, tell
from helperd.runtime import NO_WAY

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from helperd.control.client import Upgraded
    from helperd.extcap.words import Place

OPEN_S: Final = 660.0
"""Seconds for an answer: the daemon has the limits, and the longest ``open_timeout`` is 600 s."""
_READ: Final = 1 << 20


class Wanted(NamedTuple):
    """What Wireshark asked for; ``control_in`` and ``control_out`` are empty without a toolbar.

    ``alone``: without a daemon the installed launcher will do.
    """

    control: str
    alone: bool
    place: Place
    options: Mapping[str, str]
    filter: str
    fifo: str
    control_in: str
    control_out: str


class _Stop(BaseException):
    """A signal said to end."""


def capture(wanted: Wanted) -> int:
    """Capture until a signal, the reader's or the daemon's end; return the exit status.

    Raises:
        HelperdError: the FIFO cannot be opened.
    """
    try:
        _on_stop(_stop)  # in here: the first signal may come before the last handler is set
        fifo = _open_fifo(wanted.fifo)
        try:
            _capture_into(wanted, fifo)
        except HelperdError as error:
            tell(error)  # before the FIFO ends: then the reader looks for it
            return error.exit_code
        finally:
            os.close(fifo)
    except _Stop:
        pass
    finally:
        _on_stop(signal.SIG_IGN)  # it is over: nothing is left to break off
    return Code.DONE


def _open_fifo(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY)
    except OSError as error:
        raise HelperdError("sink-failed", f"{path}: {error.strerror}") from None


def _capture_into(wanted: Wanted, fifo: int) -> None:
    with contextlib.ExitStack() as stack:
        try:
            client = stack.enter_context(Client(wanted.control, OPEN_S))
        except HelperdError as error:
            if not wanted.alone or error.problem not in NO_WAY:
                raise
            answers = alone(error)
        else:
            try:
                _capture(wanted, client, fifo, stack)
            except HelperdError as error:
                # the daemon opens devices for its admins alone; the launcher has rules of its own
                if not wanted.alone or not wanted.place.helper or error.problem != "not-permitted":
                    raise
                try:
                    answers = alone(error)
                except HelperdError:
                    raise error from None
            else:
                return
    from helperd.extcap.direct import capture as direct

    direct(answers, wanted.place, wanted.options, wanted.filter, fifo)


def _on_stop(handler: Callable[[int, object], None] | signal.Handlers) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def _stop(_number: int, _frame: object) -> None:
    _on_stop(signal.SIG_IGN)  # a second signal must not break off the end
    raise _Stop


def _capture(wanted: Wanted, client: Client, fifo: int, stack: contextlib.ExitStack) -> None:
    name = _source(client, wanted)
    if name:
        stream = client.upgrade("Stream", sources=[name])
    elif wanted.place.helper:
        stream = _open(client, wanted)
        name = stream.reply["source"]["name"]
    else:
        stream = client.upgrade("Stream")
    stack.enter_context(stream.socket)
    if wanted.control_in and wanted.control_out and name:
        from helperd.extcap.toolbar import Toolbar

        Toolbar(wanted.control, name, wanted.control_in, wanted.control_out).start()
    if _pump(stream.socket, stream.head, fifo):
        return
    if not wanted.place.helper:
        raise UnavailableError("no-daemon", "the daemon has ended the stream")
    with Client(wanted.control) as still_there:  # then the device is done, as a file at its end
        still_there.call("GetHealth")


def _source(client: Client, wanted: Wanted) -> str:
    """The running source that has what is wanted; empty: a device is to be opened, or all sources are wanted."""
    place = wanted.place
    if place.helper:
        return ""
    if wanted.filter:
        raise UsageError(
            "not-supported",
            "a source is shared with its other readers and cannot have a capture filter; use a display filter",
        )
    if place.source and "channel" in wanted.options:
        client.call("SetChannel", source=place.source, channel=wanted.options["channel"])
    return place.source


def _open(client: Client, wanted: Wanted) -> Upgraded:
    """Open a device for as long as the connection lasts."""
    from helperd.extcap.options import definition_of

    definition = definition_of(client, wanted.place, wanted.options, wanted.filter)
    return client.upgrade("Capture", definition=definition)


def _pump(sock: socket.socket, head: bytes, fifo: int) -> bool:
    """Copy; True when the reader has gone, False when the daemon has."""
    os.set_blocking(fifo, False)
    with contextlib.suppress(OSError):  # no FIFO, or above the user's limit
        fcntl.fcntl(fifo, fcntl.F_SETPIPE_SZ, _READ)
    poll = select.poll()
    poll.register(fifo, 0)
    poll.register(sock, select.POLLIN)
    held = memoryview(head)
    reading = True
    while True:
        if held:
            try:
                held = held[os.write(fifo, held) :]
            except BlockingIOError:
                pass
            except BrokenPipeError:
                return True
        if bool(held) == reading:  # one of them at a time: what is read leaves before more is read
            reading = not held
            poll.modify(sock, select.POLLIN if reading else 0)
            poll.modify(fifo, 0 if reading else select.POLLOUT)
        for fd, event in poll.poll():
            if fd == fifo and event & (select.POLLERR | select.POLLHUP):
                return True
            if fd != fifo and reading:
                data = sock.recv(_READ)
                if not data:
                    return False
                held = memoryview(data)
