"""The command line that every helper shares.

Rules:
  1. A server's own words, ``--in-fd=N`` and ``--out-fd=N``, are understood anywhere, also behind ``--``:
     whoever starts us appends them to what the profile says.
  2. What we do not know is an error with the nearest word, never ignored: a typing mistake must not look
     like work.

Source of facts: kismet-protocol.md, section 3.2.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from helperd.errors import UsageError

FLAGS = ("--list", "--help", "--version")
DESCRIPTORS = ("--in-fd", "--out-fd")
REMOTE = (
    "--connect",
    "--host",
    "--source",
    "--disable-retry",
    "--daemonize",
    "--fixed-gps",
    "--gps-name",
    "--autodetect",
    "--tcp",
    "--ssl",
    "--ssl-certificate",
    "--user",
    "--password",
    "--apikey",
    "--endpoint",
)


class Arguments(NamedTuple):
    """What the command line says.

    Attributes:
        action: "run", "list", "help" or "version".
        in_fd: descriptor to read the server's frames from; -1 unless the action is "run".
        out_fd: descriptor to write our frames to; likewise.
        words: what stood behind ``--``.
    """

    action: str
    in_fd: int
    out_fd: int
    words: tuple[str, ...]


def parse(argv: list[str]) -> Arguments:
    """Read the words behind the program's name.

    Raises:
        UsageError: "usage"; the text names the word and what to write instead.
    """
    descriptors: dict[str, int] = {}
    flags: list[str] = []
    words: list[str] = []
    behind = False
    rest = iter(argv)
    for word in rest:
        name, equals, value = word.partition("=")
        if name in DESCRIPTORS:
            descriptors[name] = _number(name, value if equals else next(rest, ""))
        elif behind:
            words.append(word)
        elif word == "--":
            behind = True
        elif word in FLAGS:
            flags.append(word)
        else:
            raise _unknown(name)
    if flags:
        return Arguments(flags[0][2:], -1, -1, tuple(words))
    missing = [name for name in DESCRIPTORS if name not in descriptors]
    if missing:
        raise UsageError(
            "usage",
            f"{' and '.join(missing)} must be given: helperd or a Kismet server starts a helper; try --help",
        )
    return Arguments("run", descriptors["--in-fd"], descriptors["--out-fd"], tuple(words))


def _number(name: str, value: str) -> int:
    """A descriptor that is really open."""
    if not value.isascii() or not value.isdigit() or len(value) > 9:
        raise UsageError("usage", f"{name} takes the number of a file descriptor, not {value!r}")
    try:
        os.fstat(int(value))
    except OSError as error:
        raise UsageError("usage", f"{name}={value}: {error.strerror}") from error
    return int(value)


def _unknown(name: str) -> UsageError:
    if name in REMOTE:
        return UsageError(
            "usage",
            f"{name} belongs to remote capture, which this helper cannot do; run it under helperd instead",
        )
    from difflib import get_close_matches

    near = get_close_matches(name, (*FLAGS, *DESCRIPTORS), 1)
    return UsageError(
        "usage", f"unknown option {name!r}" + (f"; did you mean {near[0]}?" if near else "; try --help")
    )
