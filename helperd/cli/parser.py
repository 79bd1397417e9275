"""The argparse tree; only the chosen command's module is imported, all of them for docs and completion."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NoReturn

from helperd import __version__
from helperd.cli.commands import COMMANDS, Command
from helperd.errors import Code

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

DESCRIPTION = (
    "Runs privileged capture helpers, supervises them, and hands their packets to unprivileged consumers."
)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that ends with our exit status for a wrong command line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and where the right words are."""
        self.exit(Code.USAGE, f"{self.prog}: usage: {message}; see {self.prog} --help\n")


def parse(argv: Sequence[str]) -> tuple[Command, argparse.Namespace]:
    """Return the chosen command and its arguments.

    Raises:
        SystemExit: 64 for a wrong command line; 0 after --help and --version.
    """
    known = {command.name: command for command in COMMANDS}
    word = next((word for word in argv if not word.startswith("-")), None)
    parser = build(() if word is None or word not in known else (known[word],))
    if word is not None and word not in known:
        from helperd.config.values import nearest

        near = nearest(word, known)
        tail = f'did you mean "{near}"?' if near else f"there are {', '.join(known)}"
        parser.error(f'no command "{word}"; {tail}')
    args = parser.parse_args(argv)
    if args.command is None:
        parser.error(f"a command is missing: {', '.join(known)}")
    return known[args.command], args


def build(whole: Iterable[Command] = COMMANDS) -> Parser:
    """Return the parser; the commands in ``whole`` have their options, the others only their names."""
    parser = Parser(prog="helperd", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"helperd {__version__}")
    chosen = {command.name for command in whole}
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", parser_class=Parser)
    for command in COMMANDS:
        words = command.help[:1].upper() + command.help[1:] + "."
        sub = commands.add_parser(command.name, help=command.help, description=words, allow_abbrev=False)
        if command.name in chosen:
            command.load().add_arguments(sub)
    return parser
