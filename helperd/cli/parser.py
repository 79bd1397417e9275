"""The argparse tree; only the chosen command's module is imported, all of them for docs and completion."""

from __future__ import annotations

import argparse
import os
import sys

from helperd import __version__
from helperd.cli.commands import COMMANDS, Command
from helperd.errors import Code
from helperd.visible import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, NoReturn

DESCRIPTION = (
    "Runs privileged capture helpers, supervises them, and hands their packets to unprivileged consumers."
)


def columns() -> int:
    """The width of the terminal: COLUMNS, else what standard output's terminal says, else 80."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given):
        return int(given)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    except (OSError, ValueError, AttributeError):  # no terminal; standard output closed
        return 80


class Formatter(argparse.HelpFormatter):
    """argparse makes one for every option; its own way to the width would import shutil and three compressions."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=columns() - 2)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that ends with our exit status for a wrong command line.

    Attributes:
        commands: the parsers of the commands by name, where it has some.
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.commands: dict[str, Parser] = {}

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and where the right words are."""
        mark = "" if message.endswith("?") else ";"
        self.exit(Code.USAGE, f"{self.prog}: usage: {visible(message)}{mark} see {self.prog} --help\n")

    def meant(self, word: str) -> str:
        """The long option that is most like a word; "" when none is."""
        if not word.startswith("--"):
            return ""
        from helperd.config.values import nearest

        option = word.partition("=")[0]
        valid = [known for known in self._option_string_actions if known.startswith("--")]
        return next((known for known in valid if known.startswith(option)), "") or nearest(option, valid)


def parse(argv: Sequence[str]) -> tuple[Command, argparse.Namespace]:
    """Return the chosen command and its arguments.

    Raises:
        SystemExit: 64 for a wrong command line; 0 after --help and --version.
    """
    known = {command.name: command for command in COMMANDS}
    at = next((at for at, word in enumerate(argv) if not word.startswith("-")), len(argv))
    meant = [command.name for command in COMMANDS if command.alias and command.alias in argv[at : at + 1]]
    argv = [*argv[:at], *(meant or argv[at : at + 1]), *argv[at + 1 :]]
    word = argv[at] if at < len(argv) else None
    chosen = () if word is None or word not in known else (known[word],)
    # A parser costs as much as a module: where the command stands first, the others are not asked for.
    parser = build(chosen, chosen if chosen and argv[0] == word else COMMANDS)
    if word is not None and not chosen:
        from helperd.config.values import nearest

        near = next((name for name in known if name.startswith(word)), None) or nearest(word, known)
        tail = f'did you mean "{near}"?' if near else f"there are {', '.join(known)}"
        parser.error(f'no command "{word}"; {tail}')
    args, more = parser.parse_known_args(argv)
    if more:
        asked = parser.commands.get(args.command, parser)  # whose --help it is
        near = next(filter(None, map(asked.meant, more)), "")
        asked.error(f"unrecognized arguments: {' '.join(more)}" + (f"; did you mean {near}?" if near else ""))
    if args.command is None:
        parser.error(f"a command is missing: {', '.join(known)}")
    return known[args.command], args


def build(whole: Iterable[Command] = COMMANDS, listed: Iterable[Command] = COMMANDS) -> Parser:
    """Return the parser; the commands in ``whole`` have their options, others in ``listed`` only their names."""
    parser = Parser(prog="helperd", description=DESCRIPTION, allow_abbrev=False, formatter_class=Formatter)
    parser.add_argument("--version", action="version", version=f"helperd {__version__}")
    chosen = {command.name for command in whole}
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", parser_class=Parser, prog=parser.prog
    )
    for command in listed:
        words = command.help[:1].upper() + command.help[1:] + "."
        sub = commands.add_parser(
            command.name, help=command.help, description=words, allow_abbrev=False, formatter_class=Formatter
        )
        parser.commands[command.name] = sub
        if command.name in chosen:
            command.load().add_arguments(sub)
    return parser
