"""A capture for Wireshark without a daemon: one helper of the installed launcher, supervised by this process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from typing import TYPE_CHECKING, Final

import trio

from helperd.alone import capture as capture_alone
from helperd.alone import run_alone
from helperd.errors import HelperdError, UnavailableError
from helperd.extcap.options import definition_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from helperd.alone import Alone
    from helperd.extcap.words import Place

_READ: Final = 1 << 20


def capture(answers: Alone, place: Place, options: Mapping[str, str], filter_text: str, fifo: int) -> None:
    """Capture into an open FIFO until a signal, the reader's or the helper's end.

    Raises:
        HelperdError: why not, or why no longer.
    """
    if not place.helper:
        raise UnavailableError("no-daemon", _nothing(answers, place))
    definition = definition_of(answers, place, options, filter_text)
    os.set_blocking(fifo, False)
    with contextlib.suppress(OSError):  # no FIFO, or above the user's limit
        fcntl.fcntl(fifo, fcntl.F_SETPIPE_SZ, _READ)
    signal.pthread_sigmask(
        signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM)
    )  # until those of the capture listen
    bad = run_alone(capture_alone, answers.settings, definition, None, _Copy(fifo), lambda _line: None)
    if bad:
        raise HelperdError("exited", bad)


def _nothing(answers: Alone, place: Place) -> str:
    """Why there is nothing to capture by this name: what the list has said of it."""
    if not place.source:
        failed = answers.call("ListDevices")["failed"]
        if failed:
            return str(failed[0]["text"])
    return "no daemon runs here, so it has no sources: sudo systemctl start helperd"


class _Copy:
    """Copies to the FIFO; a reader that goes away ends it well."""

    def __init__(self, out: int) -> None:
        self._out = out

    async def __call__(self, sock: trio.socket.SocketType) -> int | None:
        """Copy until either side ends; returns None when the reader has gone."""
        came, ended = 0, False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, nursery.cancel_scope)
            while data := await sock.recv(_READ):
                came += len(data)
                await self._write(data, nursery.cancel_scope)
            ended = True
            nursery.cancel_scope.cancel()
        return came if ended else None

    async def _watch(self, scope: trio.CancelScope) -> None:
        """The end of the reader is an error on the FIFO, which is all that there is to read on it."""
        await trio.lowlevel.wait_readable(self._out)
        scope.cancel()

    async def _write(self, data: bytes, scope: trio.CancelScope) -> None:
        held = memoryview(data)
        while held:
            try:
                held = held[os.write(self._out, held) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._out)
            except BrokenPipeError:
                scope.cancel()
                await trio.lowlevel.checkpoint()
