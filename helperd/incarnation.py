"""One process tree of one helper: from the launch request to the empty tree.

Rules:
  1. Once launched, a process has an owner on every path; leaving means the stop ladder, shielded.
  2. What still arrives while it stops is delivered.
  3. A descriptor has one owner: the pairs are made here, the helper's ends are closed here once sent.
"""

from __future__ import annotations

import errno
import math
import os
import resource
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from helperd.channel import FOREIGN_READ, OWN_READ, Channel
from helperd.config.profile import script_of
from helperd.errors import LaunchFailed, LocalProtocolError
from helperd.lifecycle import ladder
from helperd.logs import StderrLines
from helperd.page import make_page, produced
from helperd.wire.greeting import Program
from helperd.wire.messages import Message, Shutdown
from helperd.wire.session import Role, Session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from helperd.config.specs import HelperSpec
    from helperd.launcher import Exit as ProcessExit
    from helperd.launcher import Launcher, Process
    from helperd.wire.frames import Generation, Run

OWN_BUFFER: Final = 4 << 20
"""Socket buffer asked for our own helpers' output, in bytes; the kernel may give less."""
RESERVED_FDS: Final = 32
"""Descriptors that a start leaves free: for control clients, and for stopping."""
_AFTER_EMPTY_S: Final = 0.5
_STRANGER_TURNS: Final = 10
_LEAVE_S: Final = 0.25
_SAID_S: Final = 1.0
_HELD_LOOK_S: Final = 0.1


@dataclass(slots=True)
class Ends:
    """The descriptors of one helper: ours, and those it is given (in, out, err; ours get the page too, or -1)."""

    to_helper: int
    from_helper: int
    stderr: int
    page: int
    given: tuple[int, ...]

    def close_given(self) -> None:
        """Close the helper's ends in this process."""
        for fd in self.given[:3]:
            os.close(fd)

    def close_ours(self) -> None:
        """Close our ends."""
        for fd in (self.to_helper, self.from_helper, self.stderr, self.page):
            if fd >= 0:
                os.close(fd)


def program_of(helper: HelperSpec) -> Program | None:
    """The file whose change makes a helper another program, or its script; None when it cannot be looked at."""
    path = script_of(helper.command) or helper.command[0]
    try:
        found = os.stat(path)
    except OSError:
        return None
    return Program(path, found.st_dev, found.st_ino, found.st_mtime_ns)


def make_ends(*, own: bool) -> Ends:
    """Make the descriptors for one helper.

    Our own helpers send many packets per write and get a socket with large buffers. A foreign C helper writes a frame
    at a time and waits in ``select``: an ordinary pipe, never enlarged (docs/performance.md).

    Raises:
        OSError: EMFILE, ENFILE: no descriptors left; nothing stays open then.
    """
    opened: list[int] = []
    try:
        child_in, to_helper = os.pipe2(os.O_CLOEXEC)
        opened += [child_in, to_helper]
        stderr, child_err = os.pipe2(os.O_CLOEXEC)
        opened += [stderr, child_err]
        if own:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, OWN_BUFFER)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, OWN_BUFFER)
            from_helper, child_out = ours.detach(), theirs.detach()
            opened += [from_helper, child_out]
            page = make_page()
        else:
            page = -1
            from_helper, child_out = os.pipe2(os.O_CLOEXEC)
            opened += [from_helper, child_out]
        if max(*opened, page) >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVED_FDS:
            opened += [page] if own else []
            raise OSError(errno.EMFILE, f"the last {RESERVED_FDS} descriptors are for control and stopping")
    except OSError:
        for fd in opened:
            os.close(fd)
        raise
    os.set_blocking(stderr, False)
    given = (child_in, child_out, child_err, page)
    return Ends(to_helper, from_helper, stderr, page, given if own else given[:3])


class Incarnation:
    """A launched helper: its process, its channel and what it says on stderr.

    Attributes:
        ended: how the main process ended, once it is known.
        climbed: a TERM or KILL of ours came before that.
        leaving: it has said that it ends.
        on_line: called with each line it writes to stderr.
        holding, wait_for_room: whether reading is to wait for a consumer, and the wait itself.
    """

    def __init__(self, helper: HelperSpec, process: Process, channel: Channel, ends: Ends) -> None:
        self.helper = helper
        self.process = process
        self.channel = channel
        self.stderr = StderrLines(trio.current_time())
        self.ended: ProcessExit | None = None
        self.climbed = False
        self.leaving = False
        self.on_line: Callable[[str], None] = lambda _line: None
        self.holding: Callable[[], bool] = lambda: False
        self.wait_for_room: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        self._stderr_fd = ends.stderr
        self._page_fd = ends.page
        self._produced: int | None = None
        self._emptied = False

    @classmethod
    async def launch(
        cls,
        launcher: Launcher,
        helper: HelperSpec,
        profile: int,
        *,
        deliver: Callable[[list[Run], int], None],
        on_message: Callable[[Message], None],
        generation: Generation | None = None,
        question: bool = False,
    ) -> Incarnation:
        """Ask the launcher for a process of this profile; shielded, so that its answer always finds an owner.

        ``generation`` is what to greet it in; None: the PING that v2 and v3 helpers answer. ``question``: it is asked
        one thing, and does not count among those that run.

        Raises:
            LaunchFailed: it said no, with the reason; or there are no descriptors left here.
            LauncherGone: there is no launcher any more.
        """
        own = helper.builtin is not None
        try:
            ends = make_ends(own=own)
        except OSError as error:
            raise LaunchFailed(
                "no-resources", f"cannot make pipes for {helper.name}: {error.strerror}"
            ) from error
        try:
            with trio.CancelScope(shield=True):
                process = await launcher.launch(profile, ends.given, question=question)
        except BaseException:
            ends.close_ours()
            raise
        finally:
            ends.close_given()
        session = Session(Role.SUPERVISOR, generation=generation, verify=helper.verify)
        channel = Channel(
            ends.to_helper,
            ends.from_helper,
            session,
            read_size=OWN_READ if own else FOREIGN_READ,
            deliver=deliver,
            on_message=on_message,
        )
        return cls(helper, process, channel, ends)

    @property
    def produced(self) -> int | None:
        """Packets that a helper of ours has counted, also once it is gone; None for others."""
        if self._page_fd >= 0:
            self._produced = produced(self._page_fd)
        return self._produced

    async def read_stderr(self, limit: float = math.inf) -> None:
        """Hand on what the helper writes to stderr, line by line and within its budget, until the pipe ends.

        Args:
            limit: bytes after which no more is read, so that a helper that writes on has to wait.
        """
        while limit > 0:
            with suppress(trio.ClosedResourceError):
                await trio.lowlevel.wait_readable(self._stderr_fd)
            if self._stderr_fd < 0:
                return
            try:
                data = os.read(self._stderr_fd, 16384)
            except BlockingIOError:
                continue
            limit -= len(data)
            lines = (
                self.stderr.feed(data, trio.current_time())
                if data
                else self.stderr.close(trio.current_time())
            )
            for line in lines:
                self.on_line(line)
            if not data:
                return

    async def wait_ended(self) -> ProcessExit:
        """Wait for the end of the main process."""
        if self.ended is None:
            self.ended = await self.process.exited()
        return self.ended

    async def stop(self, *, reason: str, entering: Callable[[str], None] = lambda _rung: None) -> None:
        """Climb the stop ladder until the process tree is empty and its output read; close everything.

        Args:
            reason: the problem word that ended it; decides which rungs make sense.
            entering: called with each rung's name.
        """
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                drained = trio.Event()
                nursery.start_soon(self._drain, drained)
                nursery.start_soon(self.channel.keep_writing)
                await self._climb(reason, entering)
                self._emptied = True
                await self._finish(drained)
                nursery.cancel_scope.cancel()
        self.close()

    async def _finish(self, drained: trio.Event) -> None:
        """Wait until what a dead tree has written is read; a stranger that holds its pipe open is not waited for."""
        for _ in range(_STRANGER_TURNS):
            with trio.move_on_after(_AFTER_EMPTY_S):
                await drained.wait()
            if drained.is_set() or not self.channel.readable():
                return

    async def _drain(self, drained: trio.Event) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.read_stderr)
            await self.channel.drain(self._held_up)
        drained.set()

    async def _held_up(self) -> None:
        """Wait for a lossless consumer, but not once the tree is empty: what the pipe holds then is little."""
        while self.holding() and not self._emptied:
            with trio.move_on_after(_HELD_LOOK_S):
                await self.wait_for_room()

    async def _climb(self, reason: str, entering: Callable[[str], None]) -> None:
        steps = ladder(
            reason=reason,
            obeys_shutdown=self.helper.obeys_shutdown or self.helper.builtin is not None,
            term_grace=self.helper.term_grace,
        )
        if self.channel.eof or self.leaving:  # let it leave, so that its status is its own
            with trio.move_on_after(_LEAVE_S if self.channel.eof else _SAID_S):
                await self.wait_ended()
        for rung in steps:
            if self.ended is not None and rung.name in {"ask", "term"}:
                continue
            if self.leaving and rung.name == "ask":
                continue
            entering(rung.name)
            self.climbed = self.climbed or (self.ended is None and rung.name in {"term", "kill"})
            with trio.move_on_after(rung.upto):
                if rung.name == "ask":
                    try:
                        self.channel.send(Shutdown("stopped by helperd"))
                    except LocalProtocolError:
                        continue
                    await self.wait_ended()
                elif rung.name == "term":
                    self.channel.close_input()
                    await self.process.signal(signal.SIGTERM)
                    await self.process.signal(signal.SIGCONT)
                    await self.wait_ended()
                elif rung.name == "kill":
                    await self.process.kill()
                    await self.process.empty()
                    await self.wait_ended()
                    return
                else:
                    await self.process.empty()
                    await self.wait_ended()

    def close(self) -> None:
        """Close our descriptors; harmless when done twice."""
        self.channel.close()
        if self._stderr_fd >= 0:
            trio.lowlevel.notify_closing(self._stderr_fd)
            os.close(self._stderr_fd)
            self._stderr_fd = -1
        if self._page_fd >= 0:
            self._produced = produced(self._page_fd)
            os.close(self._page_fd)
            self._page_fd = -1
