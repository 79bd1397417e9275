"""``helperd top``: the sources live, full screen."""

from __future__ import annotations

import contextlib
import curses
import os
import select
import signal
import sys
from typing import TYPE_CHECKING, Any, Final

from helperd.cli import running
from helperd.cli.screen import SORTS, Screen
from helperd.cli.signals import woken_by
from helperd.errors import Code, UnavailableError, UsageError
from helperd.table import DIM, GREEN, RED, STATE_COLORS, YELLOW

if TYPE_CHECKING:
    import argparse
    import socket
    from collections.abc import Iterator

    from helperd.control.client import Client

_KEYS: Final = {
    curses.KEY_UP: "up",
    curses.KEY_DOWN: "down",
    curses.KEY_PPAGE: "page-up",
    curses.KEY_NPAGE: "page-down",
    curses.KEY_HOME: "home",
    curses.KEY_END: "end",
    curses.KEY_ENTER: "enter",
    10: "enter",
    13: "enter",
    27: "escape",
}
_PAIRS: Final = {GREEN: curses.COLOR_GREEN, RED: curses.COLOR_RED, YELLOW: curses.COLOR_YELLOW}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "-d",
        "--delay",
        metavar="TIME",
        type=running.seconds,
        default=1.0,
        help="between two pictures (default: 1s)",
    )
    parser.add_argument(
        "-s",
        "--sort",
        metavar="KEY",
        choices=[*SORTS],
        default="",
        help="sort by the column that has this key; h shows them: %(choices)s",
    )
    running.add_arguments(parser, printing=False)


def main(args: argparse.Namespace) -> int:
    """Show until ``q``.

    Returns:
        0.

    Raises:
        UsageError: not on a terminal that can place text.
        UnavailableError: no daemon.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("usage", "top needs a terminal; for scripts there is `helperd status --json`")
    if not 0.1 <= args.delay <= 3600:
        raise UsageError("usage", "--delay lies between 100ms and 1h")
    screen = Screen(sort=args.sort)
    with running.connect(args) as client:
        stream = client.more("GetStatus", every_s=args.delay)
        screen.take(next(stream))
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the terminal is to be put back
        with contextlib.suppress(KeyboardInterrupt), woken_by(signal.SIGWINCH) as resized:
            try:
                curses.setupterm()
                if not curses.tigetstr("cup"):
                    raise curses.error("it cannot place text")
                curses.wrapper(_show, screen, client, stream, resized)
            except curses.error as error:
                terminal = os.environ.get("TERM", "")
                text = f"this terminal ({terminal!r}) cannot show it ({error}); use `helperd status`"
                raise UsageError("usage", text) from error
    return Code.DONE


def _show(
    window: curses.window,
    screen: Screen,
    client: Client,
    stream: Iterator[dict[str, Any]],
    resized: socket.socket,
) -> None:
    """Draw, wait for whatever comes first, and again."""
    curses.set_escdelay(25)
    with contextlib.suppress(curses.error):
        curses.curs_set(0)
    colors = _colors()
    window.nodelay(True)  # noqa: FBT003 - curses' own call
    poll = select.poll()
    for waited in (sys.stdin, resized, client):
        poll.register(waited, select.POLLIN)
    while True:
        _draw(window, screen, colors)
        events = dict(poll.poll())
        ready = events.keys()
        if resized.fileno() in ready:
            _drain(resized)
            size = os.get_terminal_size(sys.stdout.fileno())
            curses.resizeterm(size.lines, size.columns)
            window.clear()
        if not screen.ended and client.fileno() in ready:
            try:
                screen.take(next(stream))
            except (UnavailableError, StopIteration):
                screen.ended = "the daemon has gone"
                poll.unregister(client)
        if events.get(sys.stdin.fileno(), 0) & select.POLLHUP or not _typed(window, screen):
            return


def _typed(window: curses.window, screen: Screen) -> bool:
    """Hand all waiting keys to the screen; False when one of them leaves."""
    while (code := window.getch()) != -1:
        name = _KEYS.get(code) or (chr(code) if 32 <= code < 127 else "")
        if not screen.key(name):
            return False
    return True


def _drain(sock: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while sock.recv(64):
            pass


def _colors() -> dict[str, int]:
    """Attributes by state word; none where the terminal has no colours or the user wants none."""
    if "NO_COLOR" in os.environ or not curses.has_colors():
        return {}
    curses.use_default_colors()
    inks = {DIM: curses.A_DIM}
    for number, (color, ink) in enumerate(_PAIRS.items(), 1):
        curses.init_pair(number, ink, -1)
        inks[color] = curses.color_pair(number)
    return {word: inks[color] for word, color in STATE_COLORS.items()}


def _draw(window: curses.window, screen: Screen, colors: dict[str, int]) -> None:
    height, width = window.getmaxyx()
    window.erase()
    for row, text in enumerate(screen.lines(width - 1, height)):
        strong = curses.A_BOLD if row == 1 and screen.view in {"sources", "consumers"} else curses.A_NORMAL
        chosen = curses.A_REVERSE if text.startswith("> ") and screen.view == "sources" else curses.A_NORMAL
        with contextlib.suppress(curses.error):  # the last cell of the last line cannot be written
            window.addstr(row, 0, text, strong | chosen)
            if screen.view == "sources" and row > 1:
                _paint(window, row, text, colors)
    window.refresh()


def _paint(window: curses.window, row: int, text: str, colors: dict[str, int]) -> None:
    """Colour the state, the second word of a line of the table."""
    words = text[2:].split(maxsplit=2)
    if len(words) > 1 and words[1] in colors:
        window.chgat(row, text.index(f" {words[1]}", 2) + 1, len(words[1]), colors[words[1]])
