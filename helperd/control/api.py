"""What the daemon does for the control room; plain data only, its shapes are the types of ``io.helperd.varlink``.

Rules:
  1. ``snapshot`` and ``messages`` are synchronous and cheap: they are asked often, and never wait.
  2. ``wait_change`` and ``wait_message`` may wake too often, never too seldom: whoever waits looks again.
  3. A refusal is a ``HelperdError``; its problem word, text and exit code reach the caller as they are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import trio

Plain = Mapping[str, Any]
Verb = Literal["start", "stop", "restart", "pause", "resume"]


class ControlApi(Protocol):
    """The daemon, as the control room sees it."""

    def change_number(self) -> int:
        """A number that is another one after every change of state, connection or disconnection."""

    def snapshot(self) -> Plain:
        """The outputs of ``GetStatus``, all sources in it."""

    async def order(self, name: str, verb: str) -> None:
        """Carry out a ``Verb`` on a source, or a service, and return when it is done.

        Raises:
            HelperdError: "unknown-source", or what the source ended with instead.
        """

    async def list_devices(self, max_age_s: float | None) -> Plain:
        """The outputs of ``ListDevices``."""

    async def probe(self, definition: str) -> Plain:
        """The outputs of ``Probe``.

        Raises:
            HelperdError: "bad-definition", "unknown-helper".
        """

    def messages(self, since: int) -> Sequence[Plain]:
        """The kept messages with a number above ``since``, oldest first, each a ``Message``."""

    async def wait_message(self) -> None:
        """Wait for the next message."""

    async def wait_change(self) -> None:
        """Wait for the next change of any source's state, or of the set of sources, sinks or consumers."""


class ReloadApi(Protocol):
    """A daemon that can read its configuration again."""

    async def reload(self, *, check: bool = False) -> Plain:
        """The outputs of ``Reload``; with ``check``, only said and tried.

        Raises:
            ConfigRefused: nothing was changed.
        """


class TuneApi(Protocol):
    """A daemon whose sources can be tuned."""

    async def set_channel(self, source: str, channel: str) -> None:
        """Stay on one channel.

        Raises:
            HelperdError: "not-supported", "unknown-source".
        """

    async def hop(self, source: str, channels: Sequence[str], rate: float | None) -> None:
        """Hop over channels (none named: all there are), ``rate`` times a second (None: the helper's own).

        Raises:
            HelperdError: "not-supported", "unknown-source".
        """


class Reader(NamedTuple):
    """A consumer at a control connection.

    Attributes:
        serve: sends what is queued and what comes, until the reader or the daemon ends.
        finish: what is queued is still sent, then the stream ends.
    """

    serve: Callable[[], Awaitable[None]]
    finish: Callable[[], None]


class StreamApi(Protocol):
    """A daemon that can make a consumer of a control connection."""

    def stream(
        self, sock: trio.socket.SocketType, sources: frozenset[str], form: str, linktype: int | None = None
    ) -> AbstractContextManager[Reader]:
        """Have a consumer like any other, and shown as one, for which packets are queued from now on.

        Args:
            sock: the reader's; the caller closes it afterwards.
            sources: all exist; empty means all.
            form: ``pcapng``, ``jsonl`` or ``frames``.
            linktype: the one that it gets (LINKTYPE_); None: all.
        """


class HelpersApi(Protocol):
    """A daemon that tells which helpers it has."""

    def helpers(self) -> Sequence[Plain]:
        """The configured helpers, in their order, each a ``Helper``."""


class AddApi(Protocol):
    """A daemon that opens definitions which are not in its configuration."""

    async def add_source(self, definition: str, name: str | None, *, once: bool = False) -> str:
        """Open a definition; return the source's name, before the source has begun.

        Args:
            definition: what to open.
            name: None: the one that the definition gives.
            once: what says that it is done, as a file at its end, is not opened again.

        Raises:
            HelperdError: "bad-definition", "unknown-helper", "duplicate-name", or why it did not open.
        """

    def free_name(self, definition: str) -> str:
        """The name that a definition gives by itself, with a number behind it where it is taken."""

    async def wait_done(self, source: str) -> None:
        """Wait until a source has ended by itself and is not opened again."""

    async def remove_source(self, source: str) -> None:
        """Stop an added source and forget it.

        Raises:
            HelperdError: "unknown-source", "not-supported" (it is configured).
        """
