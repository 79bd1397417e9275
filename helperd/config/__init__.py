"""helpers.toml -> frozen specs, or every mistake of the file with line, key and suggestion.

The only room that imports tomli. The launcher reads its profiles through it as root, so it imports
nothing but the standard library, tomli and ``helperd.errors``.

    load(path)          read, check, return a Config; raises ConfigRefused
    default_file()      what ``helperd run`` uses without -c
    KEYS, TABLES        every key, declared once
"""

from __future__ import annotations

import os

from helperd.config.capabilities import CAPABILITIES
from helperd.config.check import builtins, parse, source_name, source_type
from helperd.config.keys import KEYS, TABLES, Key, Table
from helperd.config.specs import AllowSpec, Config, DaemonSpec, HelperSpec, SinkSpec, SourceSpec
from helperd.errors import ConfigError, ConfigRefused

MAX_FILE = 1 << 20
INSTALLED_FILE = "/etc/helperd/helpers.toml"
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


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
        if isinstance(error, FileNotFoundError) and path == INSTALLED_FILE:
            text += f"; begin with a copy of {shipped_file()}, or name a file with -c"
        raise ConfigRefused([ConfigError("no-config", text, file=path)]) from None
    if len(raw) > MAX_FILE:
        raise ConfigRefused([ConfigError("no-config", f"longer than {MAX_FILE} bytes", file=path)])
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigRefused([ConfigError("bad-syntax", "not valid UTF-8", file=path, line=line)]) from None
    return parse(text.replace("\r\n", "\n"), path)


def default_file() -> str:
    """Return the file used when none is named: a checkout's config/helpers.toml, else INSTALLED_FILE."""
    checkout = _checkout_file()
    return checkout if os.path.exists(checkout) else INSTALLED_FILE


def shipped_file() -> str:
    """Return the example that comes with helperd, in a checkout or in an installed package."""
    checkout = _checkout_file()
    return checkout if os.path.exists(checkout) else os.path.join(_PACKAGE, "share", "helpers.toml")


def _checkout_file() -> str:
    return os.path.join(os.path.dirname(_PACKAGE), "config", "helpers.toml")


__all__ = [
    "CAPABILITIES",
    "INSTALLED_FILE",
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
    "default_file",
    "load",
    "parse",
    "shipped_file",
    "source_name",
    "source_type",
]
