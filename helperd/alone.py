"""What a daemon would answer and do for one command, without one: by the launcher, in this process.

    with Alone() as answers:
        answers.call("ListDevices")         # the same shapes as over control.sock
    run_alone(capture, settings, definition, copy)

The configuration is the installed one.
"""

from __future__ import annotations

import os
import signal
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Final, Self

import trio

from helperd import __version__, access, config, pcapng
from helperd.config.sources import SourceSpec, source_name
from helperd.drivers import Drivers, list_devices, probe
from helperd.errors import HelperdError, UnavailableError
from helperd.launchers import find_launcher
from helperd.lifecycle import State, Why
from helperd.routing import RouteTable
from helperd.sinks.consumer import Consumer
from helperd.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from helperd.config.specs import Config
    from helperd.source import Source

LIMIT: Final = 32 << 20
"""Bytes that may wait for the reader; the helper is held meanwhile, so nothing is lost here."""


class Alone:
    """Answers the questions of a client of ``control.sock`` that the launcher's helpers can answer.

    Raises:
        UnavailableError: "no-daemon", the launcher is not there either; ConfigRefused.
    """

    def __init__(self) -> None:
        if not access.installed():
            raise UnavailableError("no-daemon", access.no_launcher())
        self.settings = config.load(config.INSTALLED)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing was opened."""

    def call(self, method: str, /, **parameters: Any) -> dict[str, Any]:
        """Answer ``ListHelpers``, ``ListDevices`` and ``Probe``.

        Raises:
            HelperdError: as over ``control.sock``, and as ``find_launcher``.
        """
        if method == "ListHelpers":
            return {"helpers": describe(self.settings)}
        answer: dict[str, Any] = run_alone(self._ask, method, parameters)
        return answer

    async def _ask(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        helpers = self.settings.helpers
        async with trio.open_nursery() as tail, find_launcher(self.settings) as launcher:
            if method == "ListDevices":
                return dict((await list_devices(launcher, helpers, tail)).as_dict())
            return dict((await probe(launcher, helpers, tail, parameters["definition"])).as_dict())


def describe(settings: Config, drivers: Drivers | None = None) -> list[dict[str, Any]]:
    """The helpers that are there, and what each can: the outputs of ``ListHelpers``."""
    known = drivers or Drivers()
    return [
        {
            "name": helper.name,
            "types": list(helper.types),
            "builtin": helper.builtin,
            "capabilities": list(helper.capabilities),
            **asdict(known.can(helper)),
            "options": None if helper.options is None else list(helper.options),
        }
        for helper in settings.helpers
        if helper.present
    ]


def run_alone(task: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """Run a task and return what it returns; a group of errors of ours becomes the first of them."""
    try:
        return trio.run(task, *args)
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, (HelperdError, BrokenPipeError, KeyboardInterrupt)):
            raise error from None
        raise


async def capture(
    settings: Config,
    definition: str,
    launcher_path: str | None,
    copy: Callable[[trio.socket.SocketType], Awaitable[int | None]],
    say: Callable[[str], None],
) -> str:
    """Run one source with one consumer, this process itself.

    Args:
        settings: the configuration; its sources and sinks are left alone.
        definition: what to open.
        launcher_path: as of ``find_launcher``.
        copy: takes the packets as pcapng from a socket until it ends or enough came; returns how many came, None: as
            many as were wanted.
        say: takes lines for people.

    Returns:
        Why it ended badly, or nothing.

    Raises:
        HelperdError, BrokenPipeError: perhaps in a group. KeyboardInterrupt: SIGINT before the first packet.
    """
    spec = SourceSpec(definition=definition, name=source_name(definition), restart="temporary")
    alone = replace(settings, sources=(spec,), sinks=(), services=())

    def log(severity: str, source: str, text: str) -> None:
        lives = [source.life for supervisor in running for source in supervisor.sources]
        over = any(
            life.exit and life.state is State.STOPPING for life in lives
        )  # how it ended is said at the end
        if severity in {"warning", "error"} and not over:
            say(f"{source}: {text}")

    table = RouteTable()
    came: list[int] = []
    running: list[Supervisor] = []
    packets: int | None = 0
    bad = ""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
        async with trio.open_nursery() as outer:

            async def interrupted() -> None:
                async for number in signals:
                    came.append(number)
                    break
                for supervisor in running:
                    await supervisor.stop()
                if not running:
                    outer.cancel_scope.cancel()

            outer.start_soon(interrupted)
            ours, theirs = trio.socket.socketpair()
            with ours, theirs:
                async with find_launcher(settings, launcher_path) as launcher:
                    supervisor = Supervisor(alone, launcher, table, log)
                    running.append(supervisor)
                    header = pcapng.section_header(
                        os=os.uname().sysname, application=f"helperd {__version__}"
                    )
                    consumer = Consumer("capture", theirs, table, header, frozenset({spec.name}), LIMIT, "wait",
                                        3600.0, supervisor.room, trio.current_time())  # fmt: skip
                    async with trio.open_nursery() as nursery:

                        async def ended() -> None:
                            while (
                                not supervisor.sources or supervisor.source(spec.name).life.incarnation == 0
                            ):
                                await supervisor.wait_change()
                            while not _over(supervisor.source(spec.name).life.state):
                                await supervisor.wait_change()
                            consumer.finish()

                        nursery.start_soon(_serve, consumer, supervisor, spec.name)
                        nursery.start_soon(supervisor.run)
                        nursery.start_soon(ended)
                        packets = await copy(ours)
                        await supervisor.stop()
                        bad = "" if packets is None else _failure(supervisor.source(spec.name), packets)
                        nursery.cancel_scope.cancel()
            outer.cancel_scope.cancel()
    if signal.SIGINT in came and packets == 0:
        raise KeyboardInterrupt  # at the start: there is nothing whose end could be told
    return bad


def _failure(source: Source, packets: int) -> str:
    """Return how the helper ended, if that was no good end."""
    ended = source.life.exit
    if ended is None:
        return "" if packets else source.life.why
    if ended.kind in {Why.DONE, Why.ASKED}:
        return ""
    return source.how_it_ended(ended)


async def _serve(consumer: Consumer, supervisor: Supervisor, name: str) -> None:
    """Let the stream begin when the helper is open, so that a start is in nobody's duration."""
    while not supervisor.sources or not _begun(supervisor.source(name)):
        await supervisor.wait_change()
    await consumer.serve()


def _begun(source: Source) -> bool:
    """Whether its time counts: it is open, or may be silent until it is, or nothing comes of it."""
    state, opened = source.life.state, {State.RUNNING, State.STOPPING}
    patient = source.helper is not None and not source.helper.open_timeout
    over = source.life.incarnation > 0 and _over(state)
    return state in opened or over or (state is State.OPENING and patient)


def _over(state: State) -> bool:
    return state in {State.DOWN, State.FAILED}
