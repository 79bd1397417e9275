"""Which configuration a command means when none is given."""

from __future__ import annotations

import os

from helperd.errors import ConfigError, ConfigRefused

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Final

SYSTEM_CONFIG: Final = "/etc/helperd/helpers.toml"
"""The same as ``helperd.config.INSTALLED``, which a command that asks a daemon has no need to import."""
_PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_CHECKOUT: Final = os.path.join(os.path.dirname(_PACKAGE), "config", "helpers.toml")
_BUNDLED: Final = os.path.join(_PACKAGE, "share", "helpers.toml")


def add_config(parser: argparse.ArgumentParser) -> None:
    """Declare ``-c FILE``."""
    parser.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        help=f"the configuration (default: config/helpers.toml in a checkout, else {SYSTEM_CONFIG})",
    )


def config_file(args: argparse.Namespace) -> str:
    """The file given, else the default one.

    Raises:
        ConfigRefused: "no-config": none was given and there is no default one.
    """
    given: str | None = args.config
    if given is not None:
        return given
    for path in (_CHECKOUT, SYSTEM_CONFIG):
        if os.path.exists(path):
            return path
    raise ConfigRefused(
        [
            ConfigError(
                "no-config",
                f"there is no configuration; write one or copy {_BUNDLED} there, or name one with -c FILE",
                file=SYSTEM_CONFIG,
            )
        ]
    )


def shipped_config() -> str:
    """The configuration that comes with the program and needs neither root nor hardware."""
    return _CHECKOUT if os.path.exists(_CHECKOUT) else _BUNDLED
