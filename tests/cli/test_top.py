"""``helperd top`` in a pseudo-terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.control.fake import FakeDaemon, served_in_thread, source
from tests.patience import HANGS_S
from tests.rig import HELPERD, ROOT


class Terminal:
    """A process on a pseudo-terminal; ``seen`` is all that it wrote."""

    def __init__(self, process: subprocess.Popen[bytes], fd: int) -> None:
        self.process = process
        self.fd = fd
        self.seen = ""

    def until(self, text: str, timeout: float = HANGS_S) -> None:
        deadline = time.monotonic() + timeout
        while text not in self.seen:
            assert select.select([self.fd], [], [], max(0, deadline - time.monotonic()))[0], self.seen[-2000:]
            self.seen += os.read(self.fd, 1 << 16).decode(errors="replace")

    def type(self, keys: str) -> None:
        self.seen = ""
        os.write(self.fd, keys.encode())

    def resize(self, lines: int, columns: int) -> None:
        self.seen = ""
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))
        self.process.send_signal(signal.SIGWINCH)  # the kernel tells only a controlling terminal's processes

    def leave(self) -> int:
        """Wait for the end while the terminal is read."""
        with contextlib.suppress(OSError):
            while os.read(self.fd, 1 << 16):
                pass
        return self.process.wait(HANGS_S)


@contextlib.contextmanager
def top(
    rundir: Path,
    *words: str,
    term: str = "xterm-256color",
    command: str = "top",
    env: dict[str, str] | None = None,
) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    given = {
        name: value for name, value in os.environ.items() if name not in {"LINES", "COLUMNS", "NO_COLOR"}
    }
    env = {**given, "TERM": term, **(env or {})}
    argv = [*HELPERD, command, "--runtime-dir", str(rundir), *words]
    process = subprocess.Popen(
        argv, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(ours)


def test_it_shows_follows_sorts_and_leaves(rundir: Path) -> None:
    with served_in_thread(rundir) as daemon, top(rundir, "-d", "100ms") as terminal:
        terminal.until("q quit")
        assert "radio0" in terminal.seen
        assert "\033[?1049h" in terminal.seen  # its own screen, the shell's comes back
        daemon.run_sync(lambda: daemon.change("radio0", state="backoff", hardware=""))
        terminal.until("backoff")
        terminal.type("r")
        terminal.until("RATEv")
        terminal.type("h")
        terminal.until("page up")
        terminal.type("h\r")
        terminal.until("definition:")
        terminal.type("q")
        assert terminal.leave() == 0


def test_it_takes_the_terminals_new_size(rundir: Path) -> None:
    daemon = FakeDaemon(*(f"s{n}" for n in range(60)))
    with served_in_thread(rundir, daemon), top(rundir, "-s", "n") as terminal:
        terminal.until("1-21 of 60")
        terminal.resize(40, 100)
        terminal.until("1-37 of 60")
        terminal.type("q")
        assert terminal.leave() == 0


def test_a_daemon_that_goes_is_told_and_q_still_quits(rundir: Path) -> None:
    with contextlib.ExitStack() as stack:
        serving = stack.enter_context(contextlib.ExitStack())
        serving.enter_context(served_in_thread(rundir))
        terminal = stack.enter_context(top(rundir))
        terminal.until("q quit")
        serving.close()
        terminal.until("the daemon has gone")
        terminal.type("q")
        assert terminal.leave() == 0


def test_ctrl_c_leaves_an_orderly_terminal(rundir: Path) -> None:
    with served_in_thread(rundir), top(rundir) as terminal:
        terminal.until("q quit")
        terminal.process.send_signal(signal.SIGINT)
        terminal.until("\033[?1049l")
        assert terminal.leave() == 0


def test_what_a_helper_says_cannot_move_the_cursor(rundir: Path) -> None:
    daemon = FakeDaemon("a")
    daemon.sources["a"] = source("a", hardware="x\033[2J\033[31mEVIL")
    with served_in_thread(rundir, daemon), top(rundir) as terminal:
        terminal.until("EVIL")
        assert "\033[2J\033[31mEVIL" not in terminal.seen
        terminal.type("q")
        assert terminal.leave() == 0


@pytest.mark.parametrize("term", ["dumb", "no-such-terminal"])
def test_a_terminal_that_cannot_is_told_what_can(rundir: Path, term: str) -> None:
    with served_in_thread(rundir), top(rundir, term=term) as terminal:
        terminal.until("helperd status")
        assert "Traceback" not in terminal.seen
        assert terminal.leave() == 64


def test_without_a_terminal_it_names_the_command_for_scripts(rundir: Path) -> None:
    argv = [*HELPERD, "top", "--runtime-dir", str(rundir)]
    done = subprocess.run(
        argv, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 64
    assert "status --json" in done.stderr
