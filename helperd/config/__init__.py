"""helpers.toml and its drop-ins -> frozen specs, or every mistake with file, line, key and suggestion.

The only room that imports tomli. The launcher reads its profiles through it as root, so it imports
nothing but the standard library, tomli and ``helperd.errors``.

    load(path)          read, check, return a Config; raises ConfigRefused
    parse(text, file)   the same for a text at hand
    whole.KEYS          every key, declared once
"""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from typing import TYPE_CHECKING

from helperd.config.capabilities import CAPABILITIES
from helperd.config.check import Check, Document, builtins
from helperd.config.keys import TABLES, Key, Table
from helperd.config.specs import AllowSpec, Config, DaemonSpec, HelperSpec
from helperd.errors import ConfigError, ConfigRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from helperd.config.specs import Stamp

MAX_FILE = 1 << 20
INSTALLED = "/etc/helperd/helpers.toml"
DROP_INS = ("/etc/helperd/conf.d", "/usr/share/helperd/helpers.d")
"""What the installed configuration includes when it does not say: the site's own files, then those of packages."""


HOLLOW = (
    "is empty, as a power cut leaves files: remove it; one that is to hide another of its name has a comment"
)


def _open(path: str) -> int:
    return os.open(
        path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    )  # a FIFO without a writer would be waited for


def parse(text: str, file: str) -> Config:
    """Check a configuration's text, without drop-ins.

    Raises:
        ConfigRefused: as ``load``.
    """
    from helperd.config.whole import Whole

    return Whole([Document(text, file)]).run()


def load(path: str, opener: Callable[[str], int] = _open, *, whole: bool = True) -> Config:
    """Read and check a configuration: a file, and the drop-ins that it includes.

    Args:
        path: the main file.
        opener: returns an open descriptor for a path. The launcher reads the very descriptors whose owner and
            directories it has checked.
        whole: without it sources are passed over, and sinks but for ``file_group``.

    Raises:
        ConfigRefused: every mistake of every file; "no-config" when one cannot be read.
        Exception: what ``opener`` raises, besides OSError.
    """
    documents = [Document(_text(path, opener), path)]
    mistakes: list[ConfigError] = []
    folders = includes(documents[0])
    files = drop_ins(documents[0])
    looks = stamp([path, *folders, *files])
    for file in files:
        try:
            text = _text(file, opener)
            if not text.strip():
                raise ConfigRefused([ConfigError("no-config", HOLLOW, file=file)])
            documents.append(Document(text, file))
        except ConfigRefused as refused:
            mistakes += refused.mistakes
    if mistakes:
        raise ConfigRefused(mistakes)
    check = Check(documents)
    if whole:
        from helperd.config.whole import Whole

        check = Whole(documents)
    return replace(check.run(), stamp=looks)


def stamp(paths: Iterable[str]) -> Stamp:
    """Return how files and directories look now: when it is another one, they are worth reading again."""
    found = []
    for path in paths:
        try:
            status = os.stat(path)
            found.append((path, status.st_ino, status.st_size, status.st_mtime_ns))
        except OSError:
            found.append((path, 0, 0, 0))
    return tuple(found)


def changed(config: Config) -> bool:
    """Whether a configuration, or what it includes, looks other than when it was read."""
    return stamp(path for path, *_ in config.stamp) != config.stamp


def includes(main: Document) -> tuple[str, ...]:
    """Return the directories that a main file includes, there or not."""
    table = main.content.get("helperd")
    written = table.get("include") if isinstance(table, dict) else None
    if written is None:
        return DROP_INS if os.path.abspath(main.file) == INSTALLED else ()
    here = os.path.dirname(os.path.abspath(main.file))
    given = written if isinstance(written, list) else []  # what is no path is the check's business
    return tuple(os.path.join(here, word) for word in given if isinstance(word, str))


def drop_ins(main: Document) -> list[str]:
    """Return the files that a main one includes, in the order in which they count.

    Each directory gives its ``*.toml`` in the order of their names. A file hides those of the same name in later
    directories, so that a site can replace one of a package's.

    Raises:
        ConfigRefused: "bad-value", an included directory cannot be read.
    """
    found: dict[str, str] = {}
    for folder in includes(main):
        try:
            names = sorted(os.listdir(folder))
        except OSError as error:
            if folder in DROP_INS and isinstance(error, FileNotFoundError):
                continue
            line, text = main.line(("helperd", "include")), f"include: {folder}: {error.strerror}"
            raise ConfigRefused(
                [ConfigError("bad-value", text, file=main.file, line=line, key="helperd.include")]
            ) from None
        for name in names:
            if name.endswith(".toml") and not name.startswith("."):
                found.setdefault(name, f"{folder}/{name}")
    return list(found.values())


def _text(path: str, opener: Callable[[str], int]) -> str:
    """Read one file.

    Raises:
        ConfigRefused: "no-config", "bad-syntax".
    """
    try:
        with open(path, "rb", opener=lambda name, _: opener(name)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigRefused([ConfigError("no-config", "is not a regular file", file=path)])
            raw = file.read(MAX_FILE + 1)
    except OSError as error:
        text = f"cannot read the configuration: {error.strerror or error}"
        raise ConfigRefused([ConfigError("no-config", text, file=path)]) from None
    if len(raw) > MAX_FILE:
        raise ConfigRefused([ConfigError("no-config", f"longer than {MAX_FILE} bytes", file=path)])
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigRefused([ConfigError("bad-syntax", "not valid UTF-8", file=path, line=line)]) from None
    return text.replace("\r\n", "\n")


__all__ = [
    "CAPABILITIES",
    "DROP_INS",
    "INSTALLED",
    "TABLES",
    "AllowSpec",
    "Config",
    "ConfigError",
    "ConfigRefused",
    "DaemonSpec",
    "HelperSpec",
    "Key",
    "Table",
    "builtins",
    "changed",
    "drop_ins",
    "load",
    "parse",
]
