"""How an incarnation ended, as a value; ``classify`` is the one place that decodes a wait status."""

from __future__ import annotations

import errno as errno_names
import signal as signal_names
from dataclasses import dataclass, replace
from enum import StrEnum

from helperd.errors import (
    NO_PROGRAM,
    HelperdError,
    HelperExited,
    LaunchFailed,
    OpenRefused,
    PrivsepError,
    RemoteProtocolError,
)


class Why(StrEnum):
    """The kind of an end; they are counted apart."""

    ASKED = "asked"
    CONFIG = "config"
    ACCIDENT = "accident"
    REFUSAL = "refusal"
    INPUT = "input"
    WRONG_GENERATION = "wrong-generation"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Exit:
    """How one incarnation ended, as a value.

    Attributes:
        kind: what the policy judges by.
        problem: a word of ``errors.PROBLEMS``, or ``done``, or ``asked``.
        text: the sentence for people.
        code: exit code of the main process, None when it did not exit by itself or is unknown.
        signal: number of the signal that ended it, else None.
        core: the kernel wrote a core file.
        soon: of a config fault: it may be better in a second, for its cause was in the program's files, which somebody
            may be replacing (a package being upgraded).
    """

    kind: Why
    problem: str
    text: str
    code: int | None = None
    signal: int | None = None
    core: bool = False
    soon: bool = False


@dataclass(frozen=True, slots=True)
class Ending:
    """What is known about an end, for ``classify``; leave out what is not known.

    Attributes:
        asked: the order that ended it (``stop``, ``reload``, ...), empty when nobody asked.
        error: what came out of the incarnation, as the exception it was.
        hung: problem word of the liveness verdict, or ``timed-out``; empty when there was none.
        hung_text: the evidence for it, for people.
        how: how the main process ended: ``exited``, ``signal``, ``exec-failed``, ``unverified``; or empty.
        code: exit code, signal number, errno, or the number of the field that differs, as ``how`` says.
        core: the kernel wrote a core file.
        climbed: the stop ladder's TERM or KILL came before the main process ended, so a signal is ours.
        oom: the kernel's count of kills for lack of memory rose just before a SIGKILL that nobody here sent.
        greeted: a valid frame was received.
        unread: it ended without having read its greeting, so that no other greeting would have done better.
        opened: it had said yes to the open request.
        v0_allowed: the driver allows wire generation v0 and this incarnation did not use it.
        shutdown: text of the helper's own Shutdown message; None when none came.
        said: the helper's own reason, in its last ErrorReport; None when none came.
        said_problem: the problem word it gave with it; empty when it gave none, or one that is not for it to say.
        status_meaningful: the driver declares that exit code 0 means done.
        replay: what the helper reads is a file: what is wrong with it stays so until it changes.
    """

    asked: str = ""
    error: BaseException | None = None
    hung: str = ""
    hung_text: str = ""
    how: str = ""
    code: int | None = None
    core: bool = False
    climbed: bool = False
    oom: bool = False
    greeted: bool = True
    opened: bool = True
    unread: bool = False
    v0_allowed: bool = False
    shutdown: str | None = None
    said: str | None = None
    said_problem: str = ""
    status_meaningful: bool = False
    replay: bool = False


_NOT_INSTALLED = frozenset({errno_names.ENOENT, errno_names.ENOTDIR, errno_names.ELOOP})
_NOT_PERMITTED = frozenset({errno_names.EACCES, errno_names.EPERM})
_SHORTAGE = frozenset(
    {errno_names.EMFILE, errno_names.ENFILE, errno_names.EAGAIN, errno_names.ENOMEM, errno_names.ENOSPC}
)
_EXEC_WORDS = {
    errno_names.ENOEXEC: NO_PROGRAM,
    errno_names.ENOENT: "the loader or interpreter that it names does not exist",
    errno_names.ETXTBSY: "somebody is writing it (ETXTBSY)",
}
_PASSING = frozenset({"no-resources", "launcher-busy", "launcher-gone", "busy", "timed-out", "bug"})
_MISCONFIGURED = frozenset(
    {"unknown-helper", "bad-definition", "not-installed", "not-permitted", "no-capability", "not-supported"}
)
_REFUSALS = frozenset({"open-refused", "probe-refused", "busy", "not-supported"})


def classify(ending: Ending) -> Exit:
    """Say how an incarnation ended: the one place that decodes a wait status. First hit wins.

    Order: asked; config (the launcher refused, exec failed, code 127) or a shortage met there; wrong
    generation; refusal; hung or out of time; the wire; our own fault; done; signal; any other exit. A file that the
    helper calls damaged is neither accident nor refusal: its input is at fault.
    """
    found = (
        _by_order(ending)
        or _at_launch(ending)
        or _before_greeting(ending)
        or _by_refusal(ending)
        or _by_verdict(ending)
        or _by_error(ending)
        or _by_itself(ending)
    )
    if ending.replay and found.problem == "bad-capture" and found.kind in {Why.ACCIDENT, Why.REFUSAL}:
        found = replace(found, kind=Why.INPUT)
    code = ending.code if ending.how == "exited" else None
    signal = ending.code if ending.how == "signal" else None
    return replace(found, code=code, signal=signal, core=ending.core)


def _by_order(ending: Ending) -> Exit | None:
    return Exit(Why.ASKED, "asked", f"ended by order: {ending.asked}") if ending.asked else None


def _at_launch(ending: Ending) -> Exit | None:
    """The launcher said no, or the program could not become what its profile says."""
    error = ending.error
    if isinstance(error, LaunchFailed | PrivsepError):
        kind = Why.ACCIDENT if error.problem in _PASSING else Why.CONFIG
        return Exit(kind, error.problem, error.text, soon=isinstance(error, LaunchFailed) and error.soon)
    if isinstance(error, HelperdError) and error.problem in _MISCONFIGURED and not ending.how:
        return Exit(Why.CONFIG, error.problem, error.text)
    if ending.how == "exec-failed":
        code = ending.code or 0
        reason = errno_names.errorcode.get(code, f"errno {code}")
        if code in _SHORTAGE:
            return Exit(Why.ACCIDENT, "no-resources", f"the program could not be executed: {reason}")
        problem = "exec-failed"
        why = _EXEC_WORDS.get(code, reason)
        if code in _NOT_INSTALLED:
            problem = "not-installed"
        elif code in _NOT_PERMITTED:
            problem = "not-permitted"
        text = f"the program could not be executed: {why}; check the helper's command"
        return Exit(Why.CONFIG, problem, text, soon=True)
    if ending.how == "unverified":
        return Exit(
            Why.CONFIG,
            "privilege-mismatch",
            f"the started process differs from its profile (field {ending.code}) and was ended",
        )
    if ending.how == "exited" and ending.code == 127:
        return Exit(
            Why.CONFIG,
            "not-installed",
            "the helper exited with code 127: a program it needs is not installed",
            soon=True,
        )
    return None


def _before_greeting(ending: Ending) -> Exit | None:
    """A v0 helper exits at a v2 PING: try once more in v0, where the driver allows it."""
    if ending.greeted or ending.unread or not ending.v0_allowed or ending.hung:
        return None
    error = ending.error
    wire = isinstance(error, RemoteProtocolError) and error.problem == "wrong-generation"
    left = (error is None or isinstance(error, HelperExited)) and not _died(ending)
    if not wire and not left:
        return None
    return Exit(
        Why.WRONG_GENERATION, "wrong-generation", "no answer to the v2 PING; trying wire generation v0"
    )


def _by_refusal(ending: Ending) -> Exit | None:
    error = ending.error
    if isinstance(error, OpenRefused) or (isinstance(error, HelperdError) and error.problem in _REFUSALS):
        return Exit(Why.REFUSAL, error.problem, error.text)
    if ending.said is not None and not ending.opened:  # an ERROR in place of a report
        return Exit(Why.REFUSAL, ending.said_problem or "open-refused", ending.said or _without_words(ending))
    return None


def _by_verdict(ending: Ending) -> Exit | None:
    if not ending.hung:
        return None
    return Exit(Why.ACCIDENT, ending.hung, ending.hung_text or f"judged {ending.hung}")


def _by_error(ending: Ending) -> Exit | None:
    """The wire refused bytes, time ran out, or our own code failed; not: a frame cut off by a death."""
    error = ending.error
    if error is None or isinstance(error, HelperExited):
        return None
    if isinstance(error, RemoteProtocolError) and error.problem == "partial-frame" and _died(ending):
        return None
    if isinstance(error, HelperdError):
        return Exit(Why.ACCIDENT, error.problem, str(error).removeprefix(f"{error.problem}: "))
    return Exit(Why.ACCIDENT, "bug", f"{type(error).__name__}: {error}")


def _by_itself(ending: Ending) -> Exit:
    """The helper ended, nobody asked it to, and nothing was wrong on the wire."""
    if ending.oom:
        return Exit(Why.ACCIDENT, "out-of-memory", "the kernel ended the helper for lack of memory")
    if _died(ending):
        core = " and left a core file" if ending.core else ""
        said = f"; it had said: {ending.said}" if ending.said else ""
        return Exit(
            Why.ACCIDENT, "killed", f"the helper was ended by {_signal_name(ending.code)}{core}{said}"
        )
    if ending.said is not None:
        return Exit(Why.ACCIDENT, ending.said_problem or "exited", ending.said or _without_words(ending))
    if ending.shutdown is not None:
        return Exit(Why.DONE, "done", f"the helper said it is done: {ending.shutdown}".removesuffix(": "))
    if ending.how != "exited":
        return Exit(Why.ACCIDENT, "exited", "the helper closed its output")
    if ending.status_meaningful and ending.code == 0:
        return Exit(Why.DONE, "done", "the helper exited with code 0")
    when = " before it had read its greeting" if ending.unread and not ending.greeted else ""
    return Exit(Why.ACCIDENT, "exited", f"the helper exited with code {ending.code}{when}")


def _without_words(ending: Ending) -> str:
    status = f" and exited with code {ending.code}" if ending.how == "exited" else ""
    return f"the helper said that it failed, not why{status}"


def _died(ending: Ending) -> bool:
    """True when a signal that was not ours ended it."""
    return ending.how == "signal" and not ending.climbed


def _signal_name(number: int | None) -> str:
    try:
        return signal_names.Signals(number or 0).name
    except ValueError:
        return f"signal {number}"
