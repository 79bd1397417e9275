"""``helperd conformance COMMAND...``: lead a helper in any language through the protocol, and say what it did wrong."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

from helperd.conformance import table
from helperd.conformance.checks import CHECKS
from helperd.conformance.subject import Fault, Subject, command_of
from helperd.errors import Code, UsageError
from helperd.printing import say, say_json, write
from helperd.wire.definition import SourceDefinition

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; what stands behind the program is its own."""
    parser.add_argument(
        "--definition",
        metavar="DEF",
        default="",
        help="what it shall open (default: the first device that it lists)",
    )
    parser.add_argument(
        "--check",
        metavar="NAME",
        action="append",
        default=[],
        choices=[check.name for check in CHECKS],
        help="this check alone; repeatable",
    )
    parser.add_argument(
        "--limit",
        metavar="SECONDS",
        type=float,
        default=5.0,
        help="how long an answer, and an end, may take (default: 5)",
    )
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=int,
        default=1,
        help="checks at a time, for a helper whose device may be open several times at once (default: 1)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object for scripts")
    parser.add_argument(
        "helper",
        metavar="COMMAND",
        nargs="...",
        help="the helper: a program and its arguments, or builtin:NAME",
    )


def main(args: argparse.Namespace) -> int:
    """Run the checks and print the table.

    Returns:
        0 when there was no fault, 1 when there was one.

    Raises:
        UsageError: no command, one that cannot be run, or a malformed definition.
    """
    words = args.helper[1:] if args.helper[:1] == ["--"] else args.helper
    if not words:
        raise UsageError("usage", "which helper? helperd conformance ./my-helper, or builtin:synthetic")
    command = command_of(words)
    if shutil.which(command[0]) is None:
        raise UsageError("not-installed", f"{command[0]} does not exist, or is no program")
    if args.definition:
        SourceDefinition.parse(args.definition)
    if not 0.1 <= args.limit <= 600:
        raise UsageError("usage", f"--limit {args.limit:g}: from 0.1 to 600 seconds")

    if not 1 <= args.jobs <= 64:
        raise UsageError("usage", f"--jobs {args.jobs}: from 1 to 64")

    def progress(text: str) -> None:
        if sys.stderr.isatty():
            write(f"\r{text}\x1b[K", sys.stderr, flush=True)

    subject = Subject(command, answer_s=args.limit, definition=args.definition)
    try:
        findings = table.examine(subject, args.check, progress, args.jobs)
    except OSError as error:
        raise UsageError("exec-failed", f"{command[0]}: {error.strerror}") from error
    except Fault as fault:
        say(
            f"helperd: {' '.join(words)}: {fault}; it was greeted with a PING in v2 and in v0",
            file=sys.stderr,
        )
        return int(Code.NO)
    finally:
        progress("")
    if args.json:
        say_json({"command": list(words), "findings": [finding._asdict() for finding in findings]}, 2)
    else:
        say(*table.lines(findings))
    return int(Code.NO if any(finding.verdict == table.BAD for finding in findings) else Code.DONE)
