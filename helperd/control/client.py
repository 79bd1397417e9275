"""The client side of the control socket; standard library only, so that a command starts at once.

Every failure is a ``HelperdError`` whose problem word, text and exit code are the daemon's, or, when there is
no daemon to ask, ``UnavailableError``.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import struct

from helperd.errors import Code, HelperdError, UnavailableError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Any, Final, Self

MAX_REPLY: Final = 64 << 20
"""Bytes of one reply at most; more is no daemon of ours."""


class ControlError(HelperdError):
    """The daemon answered with an error.

    Attributes:
        error: the qualified Varlink name, e.g. ``io.helperd.UnknownSource``.
        parameters: its fields.
    """

    def __init__(
        self, problem: str, text: str, *, code: Code, error: str, parameters: dict[str, Any]
    ) -> None:
        super().__init__(problem, text)
        self.exit_code = code
        self.error = error
        self.parameters = parameters

    def __str__(self) -> str:
        """One line; of a refused configuration its mistakes, each with its own word behind its place."""
        return self.text if self.exit_code == Code.CONFIG else super().__str__()


class Upgraded:
    """A connection that carries something else now.

    Attributes:
        socket: the caller's from now on.
        head: what was received behind the reply.
        reply: the reply's parameters.
    """

    __slots__ = ("head", "reply", "socket")

    def __init__(self, sock: socket.socket, head: bytes, reply: dict[str, Any]) -> None:
        self.socket = sock
        self.head = head
        self.reply = reply


class Client:
    """A connection to the control socket.

    Args:
        path: of the socket.
        timeout_s: how long one reply may take; None: for ever.

    Attributes:
        silence_s: how long the next reply of a stream may take; None: for ever. May be changed between replies.

    Raises:
        UnavailableError: "no-daemon".
        HelperdError: "not-permitted", "path-too-long".
    """

    def __init__(self, path: str, timeout_s: float | None = 30.0) -> None:
        self.path = path
        self.silence_s: float | None = None
        self._timeout_s = timeout_s
        self._received = bytearray()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        if (
            timeout_s is not None
        ):  # a blocking connect waits for a full backlog, a non-blocking one fails at once
            wait = struct.pack("ll", int(timeout_s), int(timeout_s % 1 * 1e6))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise _unreachable(path, error) from error

    def call(self, method: str, /, **parameters: Any) -> dict[str, Any]:
        """Ask once.

        Args:
            method: e.g. ``GetStatus``; without a dot it is one of ``io.helperd``.
            parameters: of the method.

        Returns:
            The parameters of the reply.

        Raises:
            ControlError: the daemon's answer is an error.
            UnavailableError: "no-daemon" (the connection ended), "timed-out".
        """
        self._send(method, parameters)
        return self._receive(method, self._timeout_s)[0]

    def more(self, method: str, /, **parameters: Any) -> Iterator[dict[str, Any]]:
        """Ask for a stream of replies; use the connection for nothing else until it ends.

        Raises:
            ControlError: the daemon's answer is an error.
            UnavailableError: "no-daemon" (the connection ended), "timed-out" (see ``silence_s``).
        """
        self._send(method, parameters, more=True)
        continues = True
        while continues:
            reply, continues = self._receive(method, self.silence_s)
            yield reply

    def upgrade(self, method: str, /, **parameters: Any) -> Upgraded:
        """Ask, and then use the connection for something else.

        Raises:
            ControlError: the daemon's answer is an error; the connection can be used further.
            UnavailableError: "no-daemon", "timed-out".
        """
        self._send(method, parameters, upgrade=True)
        reply, _continues = self._receive(method, self._timeout_s)
        taken = socket.socket(fileno=self._socket.detach())
        taken.settimeout(None)
        return Upgraded(taken, bytes(self._received), reply)

    def fileno(self) -> int:
        """The socket's descriptor, to wait for."""
        return self._socket.fileno()

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, method: str, parameters: dict[str, Any], **flags: bool) -> None:
        name = method if "." in method else f"io.helperd.{method}"
        given = {key: value for key, value in parameters.items() if value is not None}
        call = {"method": name, "parameters": given, **flags}
        self._socket.settimeout(self._timeout_s)
        try:
            self._socket.sendall(json.dumps(call).encode() + b"\0")
        except TimeoutError:
            raise self._timed_out(method) from None
        except OSError:
            return  # the daemon closed; what it said about that is still to be read

    def _receive(self, method: str, timeout_s: float | None) -> tuple[dict[str, Any], bool]:
        self._socket.settimeout(timeout_s)
        message = self._message(method)
        try:
            reply = json.loads(message)
            parameters = reply.get("parameters") or {}
            error, continues = reply.get("error"), bool(reply.get("continues"))
        except (ValueError, AttributeError, RecursionError) as fault:
            raise UnavailableError(
                "bad-request", f"{self.path}: what listens there does not speak Varlink; is it helperd?"
            ) from fault
        if error:
            raise _error_of(str(error), parameters)
        return parameters, continues

    def _message(self, method: str) -> bytes:
        """Receive up to the next NUL byte."""
        received = self._received
        scanned = 0
        while (end := received.find(0, scanned)) < 0:
            scanned = len(received)
            if scanned > MAX_REPLY:
                raise UnavailableError("bad-request", f"{self.path}: the answer to {method} never ends")
            try:
                data = self._socket.recv(1 << 16)
            except TimeoutError:
                raise self._timed_out(method) from None
            except OSError:
                data = b""
            if not data:
                raise UnavailableError(
                    "no-daemon", f"{self.path}: the daemon closed the connection without an answer"
                )
            received += data
        message = bytes(received[:end])
        del received[: end + 1]
        return message

    def _timed_out(self, method: str) -> UnavailableError:
        return UnavailableError(
            "timed-out",
            f"{self.path}: no answer to {method} within {self._socket.gettimeout():g} s; the daemon may be overloaded",
        )


def _error_of(error: str, parameters: dict[str, Any]) -> ControlError:
    """A Varlink error as an exception; the service's own errors carry our words nested."""
    own = parameters.get("io.helperd")
    words = own if isinstance(own, dict) else parameters
    try:
        code = Code(words.get("code", Code.NO))
    except ValueError:
        code = Code.NO
    problem = str(words.get("problem", "bad-request"))
    text = str(words.get("text") or f"{error} {json.dumps(parameters)}")
    return ControlError(problem, text, code=code, error=error, parameters=parameters)


def _unreachable(path: str, error: OSError) -> HelperdError:
    fix = "start it with `helperd run`, or name its directory with --runtime-dir"
    if error.errno in {errno.EACCES, errno.EPERM}:
        refused = HelperdError("not-permitted", f"{path}: this user may not connect{_group_hint(path)}")
        refused.exit_code = Code.NOT_PERMITTED
        return refused
    if isinstance(error, TimeoutError) or error.errno == errno.EAGAIN:
        return UnavailableError("timed-out", f"{path}: the daemon accepts no connection; it may be stopped")
    if error.errno == errno.ECONNREFUSED:
        return UnavailableError("no-daemon", f"{path}: no daemon listens any more; {fix}")
    if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ENOTSOCK, errno.EPROTOTYPE}:
        return UnavailableError("no-daemon", f"{path}: no daemon listens there; {fix}")
    if error.errno is None:  # Python's own check of the length
        return UnavailableError(
            "path-too-long", f"{path}: too long for a unix socket; use a shorter --runtime-dir"
        )
    return UnavailableError("no-daemon", f"{path}: {error.strerror}; {fix}")


def _group_hint(path: str) -> str:
    """Which group would open the door, if a group would."""
    try:
        found = os.stat(path)
    except OSError:
        return f"; the directory {os.path.dirname(path)} is closed to it"
    if not found.st_mode & 0o020:
        return "; the socket is for its owner only, see socket_mode in helpers.toml(5)"
    if found.st_gid == 0:
        return "; it is root's alone: the daemon's configuration may name a socket_group, see helpers.toml(5)"
    import grp
    import pwd

    try:
        group = grp.getgrgid(found.st_gid)
    except KeyError:
        return (
            f"; it is for group {found.st_gid}, which has no name here: see socket_group in helpers.toml(5)"
        )
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = str(os.geteuid())
    name = group.gr_name
    if user in group.gr_mem:
        return (
            f"; this session began before {user} joined group {name}: log in again, or for now: newgrp {name}"
        )
    return f"; {user} is not in group {name}: sudo usermod -aG {name} {user}, then log in again"
