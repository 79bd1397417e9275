"""helpers.toml -> frozen specs, or every mistake of the file with line, key and suggestion.

The only room that imports tomli. The launcher reads its profiles through it as root, so it imports
nothing but the standard library, tomli and ``helperd.errors``.

    load(path)          read, check, return a Config; raises ConfigRefused
    parse(text, file)   the same for a text at hand
    KEYS, TABLES        every key, declared once
"""

from __future__ import annotations

from helperd.config.capabilities import CAPABILITIES
from helperd.config.check import builtins, parse, source_name, source_type
from helperd.config.keys import KEYS, TABLES, Key, Table
from helperd.config.specs import AllowSpec, Config, DaemonSpec, HelperSpec, SinkSpec, SourceSpec
from helperd.errors import ConfigError, ConfigRefused

MAX_FILE = 1 << 20


def load(path: str, *, fd: int | None = None) -> Config:
    """Read and check a configuration file.

    Args:
        path: the file; with ``fd`` only its name in messages.
        fd: an open descriptor to read instead, from its present position; it stays open. The launcher reads
        the very
            descriptor whose owner and directories it has checked.

    Raises:
        ConfigRefused: every mistake of the file; "no-config" when it cannot be read.
    """
    try:
        with open(path if fd is None else fd, "rb", closefd=fd is None) as file:
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
    return parse(text.replace("\r\n", "\n"), path)


__all__ = [
    "CAPABILITIES",
    "KEYS",
    "TABLES",
    "AllowSpec",
    "Config",
    "ConfigError",
    "ConfigRefused",
    "DaemonSpec",
    "HelperSpec",
    "Key",
    "SinkSpec",
    "SourceSpec",
    "Table",
    "builtins",
    "load",
    "parse",
    "source_name",
    "source_type",
]
