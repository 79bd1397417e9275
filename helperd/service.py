"""One service: an unprivileged program that is a client of the sockets, kept running like a source.

Rules:
  1. It has a source's life: the same states, restart policy, stop ladder and border; only its start differs. It speaks
     no protocol, and runs as soon as its process does.
  2. On descriptor 3 it is told where the sockets are, as one line of JSON; the end of that is helperd's end.
  3. Its privilege is none: no capability, a uid of the pool or the configured user's, the sockets' group.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Protocol

import trio

from helperd.config.sources import SourceSpec
from helperd.incarnation import Incarnation
from helperd.lifecycle import Event, State
from helperd.source import Opened, Shell, Source

if TYPE_CHECKING:
    from helperd.config.specs import HelperSpec, ServiceSpec
    from helperd.watch import Moment


class ServiceShell(Shell, Protocol):
    """What a service needs of the daemon around it."""

    runtime_dir: str

    def profile_of(self, service: ServiceSpec) -> tuple[HelperSpec, int]:
        """The service as the launcher knows it, and its profile number."""


class Service(Source):
    """One configured service."""

    shell: ServiceShell

    def __init__(self, spec: ServiceSpec, shell: ServiceShell) -> None:
        super().__init__(source_spec(spec), shell)
        self.service = spec

    async def _start(self, number: int) -> None:
        life, shell = self.life, self.shell
        self.opened = Opened(generation="none")
        self.helper, profile = shell.profile_of(self.service)
        async with shell.gate.slot() as slot:
            incarnation = await Incarnation.launch(
                shell.launcher, self.helper, profile, deliver=self._deliver, on_message=self._on_message
            )
            incarnation.on_line = self._on_stderr
            self.incarnation = incarnation
            for event, state in (
                (Event.LAUNCHED, State.GREETING),
                (Event.GREETED, State.OPENING),
                (Event.OPENED, State.RUNNING),
            ):
                life.post(event, trio.current_time(), number)
                life.enter(state, trio.current_time())
            slot.release()
            await trio.lowlevel.checkpoint()  # however soon it ends, who waits for it to run sees it run
            incarnation.channel.tell(json.dumps({"runtime_dir": shell.runtime_dir}).encode() + b"\n")
            async with trio.open_nursery() as inside:
                inside.start_soon(incarnation.channel.keep_writing)
                inside.start_soon(incarnation.read_stderr)
                ended = await incarnation.wait_ended()
                inside.cancel_scope.cancel()
            if ended is not None:
                self.post(Event.ENDED, incarnation=number)

    def tick(self, moment: Moment) -> None:
        """Forget its failures once it has run for long enough; nothing else can be judged from outside."""
        life = self.life
        settles = life.settles_at or math.inf
        if life.state is State.RUNNING and life.history.n and moment.now >= settles:
            self.post(Event.SETTLED, incarnation=life.incarnation)
            self.shell.changed()


def source_spec(spec: ServiceSpec) -> SourceSpec:
    """A service's policy in a source's words."""
    return SourceSpec(definition=spec.name, name=spec.name, restart=spec.restart, hop=False)
