"""The built-in profile 0, the supervisor, and the groups that it gives something to. Whoever starts one loads this; a
launcher that only answers, as the installed one, does not.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from helperd.config.profile import PATH, Profile
from helperd.errors import ConfigError, ConfigRefused

if TYPE_CHECKING:
    from helperd.config.profile import Accounts
    from helperd.config.specs import Config


def profile(package: str, path: str, args: list[str], env: dict[str, str], *, root: bool = False) -> Profile:
    """Return the built-in profile 0: the supervisor, without any capability, its socket as descriptor 3."""
    program = os.path.realpath(sys.executable)
    boot = (
        "import os, runpy, sys; sys.path[:0] = os.environ['HELPERD_PATH'].split(os.pathsep); "
        "sys.modules.update(ssl=type(sys)('ssl'), _hashlib=None); "  # OpenSSL: 5 MB that trio loads and nobody uses
        "runpy.run_module('helperd.daemon', run_name='__main__', alter_sys=True)"
    )
    argv = (program, "-I", "-S", "-c", boot, "--launcher-fd=3", f"--config={path}", *args)
    return Profile(
        name="supervisor",
        program=program,
        argv=argv,
        script=f"{package}/daemon.py",
        want=0,
        privilege="ambient",
        no_new_privs=True,
        uid="self",
        gid=-1,
        groups=(),
        env=tuple((env | ({"PATH": PATH} if root else {})).items()),
        limits=(),
        seal=0,
    )


def given(config: Config) -> list[tuple[str, str, str, int]]:
    """Return the groups that the supervisor gives something to, or lets change things: (name, key, file, line)."""
    daemon = config.helperd
    keys = [(daemon.socket_group, "socket_group"), (daemon.admin_group, "admin_group")]
    found = [(name, f"helperd.{key}", *daemon.places.get(key, (config.file, 0))) for name, key in keys]
    numbers: dict[str, int] = {}  # in each file
    for sink in config.sinks:
        number = numbers[sink.file] = numbers.get(sink.file, 0) + 1
        found.append((sink.file_group, f"sink[{number}].file_group", sink.file, sink.line))
    return [(name, key, file, line) for name, key, file, line in found if name is not None]


def groups(config: Config, accounts: Accounts) -> tuple[int, ...]:
    """Return the supervisor's supplementary groups when root starts it: those that its configuration names, no other.

    Raises:
        ConfigRefused: one does not exist, or is root's.
    """
    numbers, mistakes = set[int](), []
    for name, key, file, line in given(config):
        number = accounts.group(name)
        if number:
            numbers.add(number)
            continue
        text = f"this machine has no group {name!r}: groupadd --system {name}, or name another"
        if number == 0:
            text = f"{name} is the group of root's own files: name another"
        mistakes.append(ConfigError("bad-value", text, file=file, line=line, key=key))
    if mistakes:
        raise ConfigRefused(mistakes)
    return tuple(sorted(numbers - {accounts.group(config.helperd.group)}))
