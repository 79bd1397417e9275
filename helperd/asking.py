"""One helper asked one thing, for list or probe, in a process of its own that ends with the answer.

Rules:
  1. The answer is known by the deadline, whatever the helper does: crash, hang, or talk without end.
  2. The answer does not wait for the process: that is ended behind it, by SIGKILL if it does not go by itself, since a
     helper that opened nothing has nothing to put in order.
  3. A bug of ours is the answer's error, and nobody else's.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from helperd.errors import (
    HelperdError,
    HelperError,
    HelperExited,
    LauncherGone,
    OpenRefused,
    ProtocolError,
    RemoteProtocolError,
    UsageError,
)
from helperd.incarnation import Incarnation, program_of
from helperd.lifecycle import Ending, classify
from helperd.wire import bulk
from helperd.wire.definition import for_kismet
from helperd.wire.greeting import attempts
from helperd.wire.messages import (
    ErrorReport,
    ListReport,
    ListRequest,
    Message,
    ProbeReport,
    ProbeRequest,
    Register,
    Shutdown,
)
from helperd.wire.reasons import reason_word
from helperd.wire.session import Phase

if TYPE_CHECKING:
    from helperd.config.specs import HelperSpec
    from helperd.launcher import Launcher
    from helperd.wire.frames import Generation
    from helperd.wire.greeting import GenerationCache, Program

LATE_S: Final = 0.5
"""Seconds past the deadline after which an answer is not waited for any more, were the launcher that slow."""
LEAVE_S: Final = 0.25
"""Seconds that a helper has to end by itself behind its answer."""
CLOSED_S: Final = 2.0
"""Seconds for which one that closed its output is waited for: how it ended says more, and comes a little later."""
MAX_NAMES: Final = 1024
MAX_NAME: Final = 100
"""Names of channels that a helper may have, and characters of one."""
MAX_TEXT: Final = 1000
"""Characters that are kept of what a helper says about itself."""
MAX_MESSAGES: Final = 1000
"""Messages that a helper may send before its answer."""
MAX_STDERR: Final = 256 << 10
"""Bytes of standard error that are read before the answer; a helper that writes more waits."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A helper that could not be asked, or did not answer."""

    helper: str
    problem: str
    text: str

    def as_dict(self) -> dict[str, object]:
        """Plain data for the control socket and ``--json``."""
        return {"helper": self.helper, "problem": self.problem, "text": self.text}


class Asked:
    """A question on its way; ``run`` is a task of its own.

    Args:
        launcher: starts the process.
        helper: who is asked.
        profile: its number there.
        request: what.
        now: when it is asked, in the loop's time.
        programs: what is known of how programs are greeted; learns what comes out.

    Attributes:
        answered: set once ``report`` or ``failure`` is known.
        gone: set once no process of it is left.
        report: the ListReport or ProbeReport.
        failure: why there is none.
        error: a bug of ours, or LauncherGone.
    """

    def __init__(
        self,
        launcher: Launcher,
        helper: HelperSpec,
        profile: int,
        request: ListRequest | ProbeRequest,
        *,
        now: float,
        programs: GenerationCache | None = None,
    ) -> None:
        self.helper = helper
        self.answered = trio.Event()
        self.gone = trio.Event()
        self.report: ListReport | ProbeReport | None = None
        self.failure: Failure | None = None
        self.error: Exception | None = None
        self._launcher = launcher
        self._profile = profile
        self._request = request
        lists = isinstance(request, ListRequest)
        self._limit = helper.list_timeout if lists else helper.probe_timeout
        self._key = "list_timeout" if lists else "probe_timeout"
        self._deadline = now + self._limit
        self._scope = trio.CancelScope()
        self._unheard: Failure | None = None
        self._programs = programs
        self._program: Program | None = None

    def cancel(self) -> None:
        """The answer is not wanted any more; the process ends, ``gone`` tells when."""
        self._scope.cancel()

    async def answer(self) -> ListReport | ProbeReport | Failure:
        """Wait for the answer, a little longer than until the deadline at most.

        Raises:
            Exception: ``error``.
        """
        await self.answered_in_time()
        if self.error is not None:
            raise self.error
        if self.report is not None:
            return self.report
        return self.failure or self._timed_out()

    async def answered_in_time(self) -> None:
        """Wait for the answer, or until it is too late for one."""
        while not self.answered.is_set() and trio.current_time() < self._deadline + LATE_S:
            with trio.move_on_at(self._deadline + LATE_S):
                await self.answered.wait()

    async def run(self) -> None:
        """Ask; returns when no process is left."""
        try:
            with self._scope:
                await self._ask()
        except Exception as error:  # noqa: BLE001 - handed to whoever asks for the answer
            first = _first(error)
            if not self.answered.is_set():
                if isinstance(first, HelperError | ProtocolError):
                    self._fail(first)
                else:
                    self.error = error
            elif not isinstance(first, LauncherGone):
                self.error = error
        finally:
            self.answered.set()
            self.gone.set()

    async def _ask(self) -> None:
        for generation in self._ways_to_greet():
            if await self._ask_once(generation):
                return
            self._deadline = trio.current_time() + self._limit  # each start has the time of one
        self.failure = self._unheard

    def _ways_to_greet(self) -> tuple[Generation | None, ...]:
        if self.helper.builtin:
            return (None,)
        known = None
        if self._programs is not None:
            self._program = program_of(self.helper)
            known = self._programs.get(self._program) if self._program is not None else None
        return attempts(self.helper.wire, known)

    async def _ask_once(self, generation: Generation | None) -> bool:
        """Ask in one generation of the protocol.

        Returns:
            False when it ended without a byte: perhaps it was greeted in the wrong one. How it ended is kept, since a
            helper that simply fails may well say nothing when it is greeted in another.
        """
        talk = _Talk()
        incarnation = await Incarnation.launch(
            self._launcher,
            self.helper,
            self._profile,
            deliver=lambda _runs, _size: None,
            on_message=talk.hear,
            generation=generation,
            question=True,
        )
        ended, text = False, ""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(incarnation.channel.keep_writing)
                nursery.start_soon(incarnation.read_stderr, MAX_STDERR)
                with trio.move_on_at(self._deadline):
                    await incarnation.channel.greet()
                    found = incarnation.channel.session.generation
                    if self._programs is not None and self._program is not None and found is not None:
                        self._programs.learn(self._program, found.name)
                    talks = incarnation.channel.session.phase is not Phase.CLOSING
                    if talk.is_ours and talks:  # its answer may be as long as any frame of ours then
                        incarnation.channel.send(Register(bulk.SUBSYSTEM))
                    kind = ListReport if isinstance(self._request, ListRequest) else ProbeReport
                    self.report = await incarnation.channel.request(self._question(talk), kind)
                nursery.cancel_scope.cancel()
            if self.report is None:
                self.failure = self._timed_out(incarnation, talk)
        except* HelperExited:
            ended = True
            with trio.move_on_after(CLOSED_S):
                await incarnation.wait_ended()
            text = _how(incarnation)
        except* ProtocolError as group:
            self._fail(_first(group), talk.words(incarnation))
        except* OpenRefused as group:
            self._fail(_first(group))
        finally:
            await self._end(incarnation)
        if not ended:
            return True
        if incarnation.ended is not None and incarnation.ended.how == "exec-failed":
            exit_ = classify(Ending(how="exec-failed", code=incarnation.ended.code))
            self.failure = Failure(self.helper.name, exit_.problem, exit_.text)
            return True
        self._unheard = self._unheard or Failure(
            self.helper.name,
            talk.problem or "exited",
            f"ended without an answer{text}{talk.words(incarnation)}",
        )
        killed = incarnation.ended is not None and incarnation.ended.how == "signal"
        if killed or incarnation.channel.unread or incarnation.channel.session.received:
            self.failure = self._unheard
        return self.failure is not None

    def _question(self, talk: _Talk) -> ListRequest | ProbeRequest:
        """The request in the helper's dialect.

        Raises:
            OpenRefused: "not-supported"; the definition cannot be said in Kismet's.
        """
        request = self._request
        if talk.is_ours or not isinstance(request, ProbeRequest):
            return request
        try:
            return ProbeRequest(for_kismet(request.definition, self.helper.name))
        except UsageError as error:
            raise OpenRefused(error.problem, error.text) from None

    async def _end(self, incarnation: Incarnation) -> None:
        """Let it go by itself for a moment if it has answered, then kill it."""
        if self.report is not None or self.failure is not None:
            self.answered.set()
        with trio.CancelScope(shield=True):
            if self.report is not None:
                with trio.move_on_after(LEAVE_S):
                    await incarnation.wait_ended()
            await incarnation.stop(reason="stopped")

    def _timed_out(self, incarnation: Incarnation | None = None, talk: _Talk | None = None) -> Failure:
        within = f"within {self._limit:g} s ({self._key} of [[helper]] {self.helper.name})"
        text = f"no answer {within}"
        if incarnation is None or talk is None:
            return Failure(
                self.helper.name, "timed-out", f"{text}: the launcher was not even done starting it"
            )
        if self._unheard is not None:
            return self._unheard
        if not incarnation.channel.session.received:
            text = f"not a byte came {within}"
        return Failure(self.helper.name, "timed-out", text + talk.words(incarnation))

    def _fail(self, error: BaseException, words: str = "") -> None:
        assert isinstance(error, HelperdError)
        text = str(error).removeprefix(f"{error.problem}: ")
        self.failure = Failure(self.helper.name, error.problem, text + words)


def kept(text: str) -> str:
    """As much as is kept of a text of a helper's."""
    return text[:MAX_TEXT]


def cut_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """As many names as are kept of what a helper says, each as long as is kept."""
    return tuple(name[:MAX_NAME] for name in names[:MAX_NAMES])


class _Talk:
    """What a helper says before its answer; ``is_ours``: it offers helperd's own extension."""

    def __init__(self) -> None:
        self.messages = 0
        self.complaint = ""
        self.problem = ""
        self.is_ours = False

    def hear(self, message: Message) -> None:
        """Take a message.

        Raises:
            RemoteProtocolError: "babble": it talks without end.
        """
        self.messages += 1
        if isinstance(message, ErrorReport):
            self.complaint = kept(message.message)
            self.problem = reason_word(message.problem, "")
        elif isinstance(message, Register):
            self.is_ours = message.subsystem == bulk.SUBSYSTEM
        elif isinstance(message, Shutdown):
            self.complaint = self.complaint or kept(message.reason)
        if self.messages > MAX_MESSAGES:
            raise RemoteProtocolError("babble", f"{MAX_MESSAGES} messages came instead of an answer")

    def words(self, incarnation: Incarnation) -> str:
        """Its last words, as the end of a sentence."""
        words = self.complaint or next(iter(incarnation.stderr.last[-1:]), "")
        return f', last words: "{words[:200]}"' if words else ""


def _how(incarnation: Incarnation) -> str:
    """How it ended, in brackets."""
    ended = incarnation.ended
    if ended is None:
        return " (it closed its output)"
    return f" (by {_signal(ended.code)})" if ended.how == "signal" else f" ({ended.how} {ended.code})"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _first(error: BaseException) -> BaseException:
    """The first leaf of a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
