"""The commands, one line each; a command is a module with ``add_arguments(parser)`` and ``main(args)``."""

from __future__ import annotations

import importlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Protocol

    class CommandModule(Protocol):
        """What a command's module offers."""

        def add_arguments(self, parser: argparse.ArgumentParser) -> None:
            """Declare the command's options."""

        def main(self, args: argparse.Namespace) -> int:
            """Do it; return the exit status. Raises HelperdError."""


class Command:
    """One command.

    Attributes:
        name: the word after ``helperd``.
        help: what it does, for the list of commands.
        module: imported only when the command is chosen.
        alias: another word for it that fingers know from other tools; understood, listed nowhere. Empty: none.
    """

    __slots__ = ("alias", "help", "module", "name")

    def __init__(self, name: str, help: str, module: str, alias: str = "") -> None:  # noqa: A002 - argparse's word
        self.name = name
        self.help = help
        self.module = module
        self.alias = alias

    def load(self) -> CommandModule:
        """Import the command's module."""
        return importlib.import_module(self.module)


COMMANDS: tuple[Command, ...] = (
    Command("run", "run the sources of a configuration", "helperd.cli.run"),
    Command("demo", "run a replay and a synthetic radio; needs no root, no hardware", "helperd.cli.demo"),
    Command("status", "show what a running helperd is doing", "helperd.cli.status", alias="ps"),
    Command("top", "show sources live, full screen", "helperd.cli.top"),
    Command("list", "list the devices that the configured helpers can open", "helperd.cli.list"),
    Command("probe", "ask which helper recognises a definition", "helperd.cli.probe"),
    Command("start", "start sources and services", "helperd.cli.start"),
    Command("stop", "stop sources, which gives their devices back, and services", "helperd.cli.stop"),
    Command("pause", "pass no packets of a source on", "helperd.cli.pause"),
    Command("resume", "pass packets on again", "helperd.cli.resume"),
    Command("restart", "stop and start sources and services", "helperd.cli.restart"),
    Command("channel", "tune a source to one channel", "helperd.cli.channel"),
    Command("hop", "let a source hop over channels", "helperd.cli.hop"),
    Command("tap", "write live packets to a file or a pipe", "helperd.cli.tap"),
    Command(
        "messages",
        "show what helpers and helperd said, and why helpers ended",
        "helperd.cli.messages",
        alias="logs",
    ),
    Command("wait", "wait until sources and services run, for scripts", "helperd.cli.wait"),
    Command("reload", "read the configuration again", "helperd.cli.reload"),
    Command("capture", "capture from one device without a daemon, as pcapng", "helperd.cli.capture"),
    Command("launcher", "be the launcher alone, for other processes", "helperd.cli.launcher"),
    Command(
        "doctor",
        "show what this machine can do for helperd, and how to fix what it cannot",
        "helperd.cli.doctor",
    ),
    Command("check", "check a configuration file", "helperd.cli.check"),
    Command(
        "conformance",
        "lead a helper through the protocol, and say what it does wrong",
        "helperd.cli.conformance",
    ),
)
