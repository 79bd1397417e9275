"""The exception tree and the problem words.

Rules:
  1. Every error carries a problem word: short, hyphenated, stable, listed once in ``PROBLEMS``.
  2. The sentence next to the word says what was wrong and, if known, ends in the fix.
  3. The class says whose fault it is: Local is our bug, Remote the peer's.
"""

from __future__ import annotations

import enum

PROBLEMS: dict[str, str] = {
    # the wire
    "bad-signature": "bytes from a helper do not start with the protocol's signature",
    "bad-version": "a frame names a protocol generation that this peer may not use",
    "bad-checksum": "a v0 frame's checksum does not match its payload",
    "bad-payload": "a frame's payload cannot be decoded as the message it claims to be",
    "bad-bulk": "a bulk frame's packet index and its blocks do not add up",
    "bad-pcapng": "a chain of pcapng blocks does not add up",
    "bad-stream": "what a consumer reads is not a stream of the frames format",
    "frame-too-long": "a frame announces more bytes than the limit allows",
    "babble": "a helper sends one message after the other instead of its answer",
    "partial-frame": "the stream ended inside a frame",
    "not-allowed-now": "the message is known but not allowed in the present phase of the session",
    "stopping": "the daemon has been told to end; it begins nothing any more",
    "wrong-generation": "the helper does not speak the protocol generation it was addressed in",
    # starting a helper
    "not-installed": "the program does not exist or cannot be executed",
    "not-permitted": "the caller may not do this",
    "no-capability": "a declared capability is not available to the launcher",
    "no-resources": "the system lacks file descriptors, processes or memory",
    "unsafe-file": "a file or directory that must be trusted can be changed by somebody else",
    "exec-failed": "the program was found but could not be executed",
    "privilege-mismatch": "a started helper's privilege differs from what its profile declares",
    "launcher-gone": "the launcher process has ended",
    "launcher-busy": "the launcher's quota for this caller is used up",
    # a source's life
    "open-refused": "the helper was asked to open its device and said no",
    "probe-refused": "no helper recognises the definition",
    "exited": "the helper ended by itself",
    "killed": "the helper was ended by a signal",
    "timed-out": "the helper did not answer within its time limit",
    "keepalive": "nothing came from the helper, no data and no answer to PING",
    "silent": "no packet came for longer than the source's silence limit",
    "device-gone": "the device was taken away while it was captured from",
    "child-gone": "a process the helper depends on has ended",
    "stopped": "the helper is stopped by a signal",
    "stuck-in-kernel": "the helper waits inside the kernel and cannot be ended",
    "out-of-memory": "the kernel ended the helper for lack of memory",
    "bad-capture": "a capture file is empty, damaged or not a capture",
    "not-supported": "the helper cannot do this",
    "bug": "an error of helperd's own; please report it with the traceback",
    # consumers and sockets
    "consumer-slow": "a consumer did not read fast enough and lost its oldest packets",
    "socket-in-use": "another process already listens at this socket path",
    "path-too-long": "a unix socket path is longer than the kernel takes",
    "no-runtime-dir": "the runtime directory cannot be made or written",
    "sink-failed": "a sink cannot be opened",
    "disk-full": "the disk that a sink writes its files to has no room left",
    "disk-error": "the disk that a sink writes its files to refuses what it is given, or does not keep it",
    "disk-stuck": "the disk that a sink writes its files to does not answer",
    # configuration and usage
    "unknown-key": "the configuration has a key that helperd does not know",
    "bad-value": "a value has the wrong type or is out of range",
    "missing-key": "a required key is absent",
    "duplicate-name": "two entries have one name",
    "bad-syntax": "the configuration file is not valid TOML",
    "no-config": "the configuration file does not exist or cannot be read",
    "bad-definition": "a source definition does not follow interface:key=value,...",
    "unknown-helper": "no helper of that name or source type is configured",
    "unknown-source": "no source has that name",
    "usage": "the command line is wrong",
    "no-daemon": "no daemon answers at the control socket",
    "bad-request": "a control request is malformed",
    "busy": "the thing asked for is in use",
}

NO_PROGRAM = "it has no #! line, or is not a program for this machine"
"""What ENOEXEC means."""


class Code(enum.IntEnum):
    """Exit codes of helperd's programs; stable, documented in helperd(8)."""

    DONE = 0
    NO = 1
    USAGE = 64
    UNAVAILABLE = 69
    NOT_PERMITTED = 77
    CONFIG = 78
    UNSAFE = 100
    BUG = 101
    SYSTEM = 111
    INTERRUPTED = 130


class HelperdError(Exception):
    """What went wrong, in a word and a sentence.

    Attributes:
        problem: a key of ``PROBLEMS``.
        text: the sentence for people; what was wrong, where, what to do.
    """

    exit_code: Code = Code.NO

    def __init__(self, problem: str, text: str) -> None:
        super().__init__(problem, text)
        self.problem = problem
        self.text = text

    def __str__(self) -> str:
        return f"{self.problem}: {self.text}"


class UsageError(HelperdError):
    """The command line, or a definition on it, is wrong."""

    exit_code = Code.USAGE


class UnavailableError(HelperdError):
    """No daemon, or no launcher, to talk to."""

    exit_code = Code.UNAVAILABLE


class ConfigError(HelperdError):
    """One mistake in a configuration file.

    Attributes:
        file: path as the user gave it.
        line: 1-based line, 0 when the whole file is meant.
        key: dotted key, e.g. ``source[1].restart``; empty when no key is meant.
    """

    exit_code = Code.CONFIG

    def __init__(self, problem: str, text: str, *, file: str, line: int = 0, key: str = "") -> None:
        super().__init__(problem, text)
        self.file = file
        self.line = line
        self.key = key

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.problem}: {self.text}"


class ConfigRefused(HelperdError):  # noqa: N818 - named after what happened, as the whole tree is
    """All the mistakes of one configuration file; nothing of it is used.

    Attributes:
        mistakes: at least one ``ConfigError``, in the order of the file's lines.
    """

    exit_code = Code.CONFIG

    def __init__(self, mistakes: list[ConfigError]) -> None:
        super().__init__(mistakes[0].problem, "\n".join(str(mistake) for mistake in mistakes))
        self.mistakes = mistakes

    def __str__(self) -> str:
        return self.text


class ProtocolError(HelperdError):
    """The helper protocol was broken by one side."""


class LocalProtocolError(ProtocolError):
    """We tried to send what the session's table does not allow: a bug of ours."""


class RemoteProtocolError(ProtocolError):
    """The peer sent what cannot be, or may not be now.

    Attributes:
        at: offset in the peer's stream of the frame that was refused, in bytes since the stream began.
        excerpt: the first bytes of what was refused, at most 64.
        before: messages and runs of the same read that came ahead of it, in order; they are good.
    """

    def __init__(self, problem: str, text: str, *, at: int = 0, excerpt: bytes = b"") -> None:
        super().__init__(problem, text)
        self.at = at
        self.excerpt = excerpt[:64]
        self.before: list[object] = []

    def __str__(self) -> str:
        tail = f" [{self.excerpt.hex(' ')}]" if self.excerpt else ""
        return f"{self.problem}: {self.text} (at byte {self.at}){tail}"


class HelperError(HelperdError):
    """A helper could not be started, opened, or kept."""


class LaunchFailed(HelperError):  # noqa: N818
    """The launcher refused, or the program could not be executed.

    Attributes:
        soon: it may be better in a second, for its cause was in files that somebody may be replacing.
    """

    def __init__(self, problem: str, text: str, *, soon: bool = False) -> None:
        super().__init__(problem, text)
        self.soon = soon


class OpenRefused(HelperError):  # noqa: N818
    """The helper answered the open request with no."""


class PeerTimedOut(HelperError):  # noqa: N818
    """The helper did not answer in time."""


class HelperExited(HelperError):  # noqa: N818
    """The helper closed its output, or ended, when an answer was due."""


class PrivsepError(HelperdError):
    """The launcher, or the way to it."""

    exit_code = Code.NOT_PERMITTED


class RequestRefused(PrivsepError):  # noqa: N818
    """The launcher answered a request with an errno.

    Attributes:
        errno: the errno of the answer.
    """

    def __init__(self, problem: str, text: str, *, errno: int) -> None:
        super().__init__(problem, text)
        self.errno = errno


class LauncherGone(PrivsepError):  # noqa: N818
    """The connection to the launcher has ended; all its helpers end with it."""

    exit_code = Code.UNAVAILABLE


class CannotDrop(PrivsepError):  # noqa: N818
    """Privilege could not be given up as declared; always ends the process."""

    exit_code = Code.UNSAFE


class SinkError(HelperdError):
    """A consumer, or the place it connects to."""
