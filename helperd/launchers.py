"""Which launcher serves a helper: one of this process's own, or the installed one for what needs more than its rights.

    async with find_launcher(settings) as launcher:     # for a command: whatever can serve this configuration
    async with with_installed(own, settings) as both:   # for a supervisor whose launcher has been started for it

Rules:
  1. A helper that declares nothing beyond the user's own rights runs with those, and asks nobody.
  2. Any other is asked of the installed launcher, by the number of the helper of the same name in its configuration;
     what makes its process has to be alike in both.
  3. The installed launcher may come, go and change: it is connected to when it is needed, and its end is no more than
     the end of the helpers that it has started.
"""

from __future__ import annotations

import errno
import os
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import trio

from helperd import access, config
from helperd.config.request import MAGIC, PING, WIRE
from helperd.errors import ConfigRefused, HelperdError, LauncherGone, LaunchFailed, RequestRefused
from helperd.launcher import (
    OTHER,
    READ_AGAIN_S,
    REPLY_S,
    Launcher,
    connect_launcher,
    open_launcher,
    own_launcher,
)
from helperd.runtime import LAUNCHER_SOCKET

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from helperd.config import Config, HelperSpec
    from helperd.launcher import Process, Tend


class Launchers(Launcher):
    """A launcher of one's own, and behind it the installed one."""

    def __init__(self, own: Launcher, settings: Config, nursery: trio.Nursery, path: str) -> None:
        self._own = own
        self._ours = settings
        self._nursery = nursery
        self._path = path
        self._lock = trio.Lock()
        self._tend: Tend | None = None
        self._other: tuple[Launcher, Config, trio.CancelScope] | None = None
        self._look()

    def _look(self) -> None:
        self.lent = False
        self.profiles, self.fingerprint = self._own.profiles, self._own.fingerprint
        self.mode, self.containment = self._own.mode, self._own.containment

    @property
    def is_gone(self) -> bool:
        """Whether the own launcher has ended."""
        return self._own.is_gone

    async def gone(self) -> None:
        """Return when the own launcher has ended."""
        await self._own.gone()

    def gone_error(self) -> LauncherGone:
        """As of the own launcher."""
        return self._own.gone_error()

    def abandon(self, why: str) -> None:
        """Wait for neither any more."""
        self._own.abandon(why)
        if self._other is not None:
            self._other[0].abandon(why)

    def tend_with(self, tend: Tend) -> None:
        """As of the own launcher; the installed one's reader, too."""
        self._tend = tend
        self._own.tend_with(tend)

    async def refresh(self, reload: Config | None = None) -> None:
        """As of the own launcher; the installed one is connected to anew when its configuration has changed."""
        await self._own.refresh(reload)
        self._ours = reload or self._ours
        self._look()

    async def launch(self, profile: int, fds: Sequence[int], *, question: bool = False) -> Process:
        """Start a profile of our own configuration.

        Raises:
            LaunchFailed: "no-capability", with the one thing that is missing here; as of ``Launcher``.
            LauncherGone: the own launcher has ended.
        """
        programs = self._ours.programs
        spec = programs[profile - 1] if 0 < profile <= len(programs) else None
        words = access.lacks(spec) if spec else ""
        if spec is None or not words:
            return await self._own.launch(profile, fds, question=question)
        launcher, settings = await self._installed(spec, words)
        number, why = access.number_of(spec, settings)
        if not number:
            raise LaunchFailed("no-capability", f"{spec.name} needs {words}, and {why}")
        try:
            return await launcher.launch(number, fds, question=question)
        except LauncherGone:
            text = f"{spec.name} needs {words}, and the installed launcher has just ended; it is tried again"
            raise LaunchFailed("launcher-busy", text) from None

    async def _installed(self, spec: HelperSpec, words: str) -> tuple[Launcher, Config]:
        """The installed launcher, and the configuration that both have read."""
        async with self._lock:
            if self._other and (
                self._other[0].is_gone or (self._other[0].idle and config.changed(self._other[1]))
            ):
                self._other[2].cancel()
                self._other = None
            if self._other is None:
                try:
                    settings = config.load(config.INSTALLED)
                    fd = await knock(self._path, settings, spec)
                except ConfigRefused as refused:
                    why = f"the installed configuration has a mistake: {refused.mistakes[0]}"
                    if not access.installed():
                        why = access.no_launcher(self._path)
                    raise LaunchFailed("no-capability", f"{spec.name} needs {words}, and {why}") from None
                except HelperdError as error:
                    word = "no-capability" if isinstance(error, LauncherGone) else error.problem
                    raise LaunchFailed(word, f"{spec.name} needs {words}, and {error.text}") from None
                self._other = await self._nursery.start(self._keep, fd, settings)
            return self._other[0], self._other[1]

    async def _keep(
        self,
        fd: int,
        settings: Config,
        task_status: trio.TaskStatus[tuple[Launcher, Config, trio.CancelScope]],
    ) -> None:
        with trio.CancelScope() as scope:
            async with open_launcher(fd, settings=settings, lent=True) as launcher:
                if self._tend is not None:
                    launcher.tend_with(self._tend)
                task_status.started((launcher, settings, scope))
                await launcher.gone()


async def knock(path: str, settings: Config, helper: HelperSpec | None = None) -> int:
    """Connect to a launcher that is to have read a configuration; return the connection, as a descriptor.

    Args:
        path: of its socket.
        settings: the configuration.
        helper: what is wanted of it, for the words of a refusal.

    Raises:
        LauncherGone: nobody listens there, or it is not for us. LaunchFailed: "not-permitted", no rule is for us.
        RequestRefused: "not-allowed-now", it has read another configuration.
    """
    for last in (False, True):
        with trio.socket.from_stdlib_socket(socket.socket(fileno=connect_launcher(path))) as sock:
            data = b""
            with trio.move_on_after(REPLY_S), suppress(OSError):
                await sock.send(WIRE.pack(MAGIC, PING, 0, 0, 0, 0, 1))
                data = await sock.recv(WIRE.size)
            if len(data) != WIRE.size:
                raise LaunchFailed("not-permitted", access.no_rule(helper))
            if WIRE.unpack(data)[5] == settings.fingerprint:
                return sock.detach()
        if not last:
            await trio.sleep(READ_AGAIN_S)
    raise RequestRefused("not-allowed-now", OTHER.format(settings.file), errno=errno.ESTALE)


@asynccontextmanager
async def with_installed(
    own: Launcher, settings: Config, path: str = LAUNCHER_SOCKET
) -> AsyncIterator[Launchers]:
    """Let the installed launcher serve what a launcher of our own cannot."""
    async with trio.open_nursery() as nursery:
        try:
            yield Launchers(own, settings, nursery, path)
        finally:
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def find_launcher(settings: Config, path: str | None = None) -> AsyncIterator[Launcher]:
    """Open what serves a configuration for a command: the installed launcher, one of our own, or both.

    Args:
        settings: the configuration.
        path: of the one launcher's socket that is to be asked; it has to have read that configuration.

    Raises:
        LauncherGone, LaunchFailed, RequestRefused: as ``knock``; perhaps in a group.
    """
    root = os.geteuid() == 0
    beyond = root or all(access.lacks(helper) for helper in settings.helpers if helper.present)
    if path is None and beyond and settings.file == config.INSTALLED and access.listens(LAUNCHER_SOCKET):
        path = LAUNCHER_SOCKET
    if path is not None:
        fd = await knock(path, settings)
        async with open_launcher(fd, settings=settings) as launcher:
            yield launcher
        return
    async with own_launcher(settings.file, settings=settings) as own:
        if root or os.environ.get("HELPERD_UNPRIVILEGED"):
            yield own
            return
        async with with_installed(own, settings) as both:
            yield both
