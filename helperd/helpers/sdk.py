"""Write a capture helper: one class, no frames, no descriptors, no pings.

::

    class Thermometer(Helper):
        TYPE = "thermometer"

        def probe(self, definition):            # is this mine?
            return definition.interface.startswith("ttyUSB")

        def open(self, definition):             # open the device, or raise Refused("why; what to do")
            self.port = open("/dev/" + definition.interface, "rb", buffering=0)
            return Device(dlt=147, hardware="a thermometer")

        def capture(self, writer):              # read until told to stop; runs in its own thread
            while True:
                writer.packet(self.port.readline())

    HELPER = Thermometer

Rules:
  1. ``open`` and ``capture`` run in one thread of their own and may block, or run an event loop. ``probe`` and
     ``list`` run in such a thread too. ``configure`` runs in a third. ``stop`` runs in the main thread.
  2. Whatever the author's code raises becomes a clear report to the server; ``HelperdError`` with its own text.
  3. Every method of the writer may raise ``Stopped``: let it pass, and clean up in ``finally``.

What the SDK does with the rest: docs/writing-a-helper.md.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from helperd import __version__, printing
from helperd.errors import Code, HelperdError, OpenRefused, UsageError
from helperd.helpers._port import Stopped
from helperd.helpers._writer import Writer
from helperd.pcapng import comments, flags
from helperd.visible import visible
from helperd.wire.definition import SourceDefinition, quote
from helperd.wire.messages import DataReport, Gps, Hopping, Interface, Json, Packet, Severity, Signal, Text

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping

__all__ = [
    "DataReport",
    "Device",
    "Gps",
    "Helper",
    "Hopping",
    "Interface",
    "Json",
    "Packet",
    "Refused",
    "Severity",
    "Signal",
    "SourceDefinition",
    "Stopped",
    "Writer",
    "comments",
    "flags",
    "main",
    "run",
]


class Refused(OpenRefused):
    """The device cannot be opened, or the definition is not for this helper: say why and what to do."""

    def __init__(self, text: str, problem: str = "open-refused") -> None:
        super().__init__(problem, text)


class Device(NamedTuple):
    """What ``probe`` and ``open`` tell about a device.

    Attributes:
        dlt: libpcap link type of its packets (127: 802.11 with radiotap, 1: Ethernet); None: it has no packets.
        hardware: chipset or model.
        capture_interface: the lower-level name, when it differs from the definition's.
        channels: what it can tune to.
        channel: what it is tuned to.
        hopping: a hop list to start with until the server sends another.
        uuid: identity; empty: made of the helper's type and the definition's interface.
        message: a line for the user.
        warning: a line for the user about what is not as it should be.
    """

    dlt: int | None = None
    hardware: str = ""
    capture_interface: str = ""
    channels: tuple[str, ...] = ()
    channel: str = ""
    hopping: Hopping | None = None
    uuid: str = ""
    message: str = ""
    warning: str = ""


class Helper:
    """The author's part of a helper.

    Attributes:
        TYPE: the source type it serves, e.g. ``linuxwifi``.
        SUMMARY: one line for ``--help``.
        OPTIONS: options of a definition that it understands, each with its meaning; others are refused.
        WORDS: what the words behind ``--`` on the command line mean; empty: there must be none.
        IDENTITY: what ``uuid`` starts from; empty: ``helperd_TYPE``.
        SHARED: any number of sources may open one device at a time, as with files: under helperd each source then has
            an identity of its own, made of its name. The helper's block says ``exclusive = false``.
        words: the words behind ``--``.
    """

    TYPE: ClassVar[str] = ""
    SUMMARY: ClassVar[str] = ""
    OPTIONS: ClassVar[Mapping[str, str]] = {}
    WORDS: ClassVar[str] = ""
    IDENTITY: ClassVar[str] = ""
    SHARED: ClassVar[bool] = False

    words: tuple[str, ...] = ()
    hold: bool | None = None
    """Whether to stay after ``capture`` has returned; None: only under a Kismet server, which would start
    the source anew. When ``capture`` is called this has been decided."""

    SEALED: bool = False
    """True: between ``open`` and ``capture`` the process gives up its capabilities and everything it has not open:
    files, sockets, programs, threads (``helperd.sandbox.sealing.seal``). What ``capture`` needs must be open by then;
    ``open`` may still set it for one device. What is open can be read and waited for; nothing is sent but to the server
    and to standard error, so ``tune`` works by ``SEALED_IOCTLS``, not by netlink."""

    SEALED_IOCTLS: tuple[int, ...] = ()
    """Requests of ioctl(2) that a sealed helper can still make, on whatever is open."""

    STOP_GRACE_S: float = 0.5
    """Seconds that a job may take to return once the helper shall end; helperd waits a second, then ``term_grace``."""

    stop_fd: int = -1
    """A descriptor that becomes readable, and stays so, when the helper shall end: for a ``poll`` in ``list``,
    ``probe``, ``open`` or ``capture`` that would wait for ever. -1 while nothing can end it."""

    _sdk_tell: Callable[[Text], None] | None = None

    def say(self, text: str, severity: Severity = Severity.INFO) -> None:
        """Tell the user something now, from any thread: what ``open`` waits for, for instance.

        What the writer tells stands in order with its packets; this does not.
        """
        if self._sdk_tell is None:
            printing.say(f"{self.TYPE}: {text}", file=sys.stderr, flush=True)
        else:
            self._sdk_tell(Text(severity, text))

    def known_options(self) -> Mapping[str, str]:
        """The options of a definition, each with its meaning; ``OPTIONS`` unless the command line has a say."""
        return self.OPTIONS

    def options_for(self, definition: SourceDefinition) -> Mapping[str, str]:
        """The options that this definition may have; ``known_options`` unless they differ from device to device."""
        return self.known_options()

    def probe(self, definition: SourceDefinition) -> Device | bool:
        """Say whether a definition is for this helper, without opening the device for long.

        Raises:
            Refused: it is, but cannot be used; the text says why.
        """
        return definition.get("type").lower() == self.TYPE

    def open(self, definition: SourceDefinition) -> Device:
        """Open the device.

        Raises:
            Refused: it cannot be opened; the text says why and what to do.
        """
        raise NotImplementedError

    def capture(self, writer: Writer) -> str | Coroutine[Any, Any, str | None] | None:
        """Read packets and hand them to ``writer``, until there are no more.

        It may be ``async def``: then it runs under asyncio, and is cancelled when the helper shall end.

        Returns:
            Why there are no more, for the user.
        """
        raise NotImplementedError

    def list(self) -> Iterable[Interface]:
        """The devices there are, each with what to put in front of a definition's colon."""
        return ()

    def configure(self, channel: str) -> None:
        """Tune to a channel.

        Raises:
            Refused: it cannot; the text says why.
        """
        raise Refused(f"{self.TYPE} has no channels", "not-supported")

    def stop(self) -> None:
        """Make a blocking ``open`` or ``capture`` end.

        Called in the main thread, at most once, when the helper shall end. It may come at any time after the helper
        was made: before ``open``, while that runs, after it has failed.
        """


def run(helper_class: type[Helper], argv: list[str] | None = None) -> int:
    """Be a helper, from the command line to the end.

    Args:
        helper_class: the author's class; made without arguments.
        argv: the words behind the program's name; None: those of this process.

    Returns:
        The exit status: 0 whenever the conversation ended as it should, whatever was answered.
    """
    return _run(helper_class, argv, last=False)


def _run(helper_class: type[Helper], argv: list[str] | None, *, last: bool) -> int:
    from helperd.helpers import _argv

    try:
        arguments = _argv.parse(sys.argv[1:] if argv is None else argv)
        helper = helper_class()
        if arguments.words and not helper.WORDS:
            raise UsageError("usage", f"{helper.TYPE} takes no words: {' '.join(arguments.words)}")
        helper.words = arguments.words
        if arguments.action == "run":
            from helperd.helpers._runner import Runner

            return Runner(helper, arguments.in_fd, arguments.out_fd).run(last=last)
        return _tell(helper, arguments.action)
    except HelperdError as error:
        printing.say(f"{helper_class.TYPE}: {error}", file=sys.stderr)
        return int(error.exit_code)


def main(helper_class: type[Helper]) -> None:
    """Be a helper and end the process with its status.

    Its memory, where packets are, is nobody else's, whoever has its uid now or later.
    """
    from helperd.sandbox.attributes import set_dumpable

    set_dumpable(0)
    status = _run(helper_class, None, last=True)
    sys.stdout.flush()
    sys.stderr.flush()
    if sys.modules.get("threading") is not None:
        import threading

        if threading.active_count() > 1:
            import os

            os._exit(status)  # a thread still waits for its device; the interpreter would wait for nothing
    sys.exit(status)


def _tell(helper: Helper, action: str) -> int:
    """``--version``, ``--help`` and ``--list``: text on stdout."""
    if action == "version":
        printing.say(f"{helper.TYPE} (helperd) {__version__}")
    elif action == "help":
        printing.say(*_help(helper))
    else:
        found = False
        for interface in helper.list():
            found = True
            flags = ",".join(filter(None, (f"type={helper.TYPE}", interface.flags)))
            shown = map(visible, (f"{quote(interface.name)}:{flags}", interface.hardware))
            printing.write("\t".join(shown).rstrip() + "\n")
        return Code.DONE if found else Code.NO
    return Code.DONE


def _help(helper: Helper) -> list[str]:
    lines = [
        f"{helper.TYPE}: {helper.SUMMARY or 'a capture helper'}",
        "",
        "Started by helperd or a Kismet server: --in-fd=N --out-fd=N"
        + (f" -- {helper.WORDS}" if helper.WORDS else ""),
        "",
        "  --in-fd=N    descriptor to read the server's frames from",
        "  --out-fd=N   descriptor to write frames to",
        "  --list       print the devices, one a line; status 1 when there is none",
        "  --version    print the version",
        "  --help       print this",
    ]
    options = helper.known_options()
    if options:
        width = max(map(len, options))
        lines += ["", "Options of a definition:", ""]
        lines += [f"  {key:{width}}  {meaning}" for key, meaning in options.items()]
    return lines
