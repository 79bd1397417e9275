"""What every command has in common: its errors become one line and an exit status."""

from __future__ import annotations

import os
import sys

from helperd.errors import Code, ConfigRefused, HelperdError
from helperd.printing import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and say how it ended.

    Args:
        argv: the words after the program's name; None: those of this process.

    Returns:
        The exit status, as listed in ``errors.Code``.
    """
    _fill_standard()
    try:
        status = _command(sys.argv[1:] if argv is None else list(argv))
        sys.stdout.flush()
    except ConfigRefused as error:
        say(*error.mistakes, file=sys.stderr)
        return error.exit_code
    except HelperdError as error:
        say(f"helperd: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        _forget_stdout()
        return Code.DONE
    except KeyboardInterrupt:
        return Code.INTERRUPTED
    except (
        BaseExceptionGroup
    ) as group:  # from a nursery; an interrupt between its tasks is Ctrl-C all the same
        if group.subgroup(KeyboardInterrupt) is None:
            raise
        return Code.INTERRUPTED
    except OSError as error:
        say(f"helperd: a system call failed: {error}", file=sys.stderr)
        try:
            sys.stdout.flush()
        except OSError:
            _forget_stdout()
        return Code.SYSTEM
    except Exception:  # noqa: BLE001 - the last resort: a bug is shown whole and has an exit status of its own
        say(*_trace(), file=sys.stderr)
        say("helperd: bug: an error of helperd's own; please report it with the lines above", file=sys.stderr)
        return Code.BUG
    return status


def _fill_standard() -> None:
    """Open what whoever started us has closed of the standard three, or a socket of ours would become one of them."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # noqa: FBT003 - the lowest that is free: this one
    for name, fd, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - for as long as we run


def _command(argv: list[str]) -> int:
    from helperd.cli.parser import parse

    command, args = parse(argv)
    return command.load().main(args)


def _trace() -> list[str]:
    """The traceback of what is being handled, by lines."""
    import traceback

    return traceback.format_exc().splitlines()


def _forget_stdout() -> None:
    """Keep the interpreter from complaining at exit about what nobody, or no disk, takes any more."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
