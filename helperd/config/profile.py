"""What the launcher may start: a configured helper turned into numbers and byte strings, once, before anybody
asks.

Pure but for /etc/passwd and /etc/group, which are read as files: no name service module runs in the launcher.
"""

from __future__ import annotations

import os
import resource
import sys
from typing import TYPE_CHECKING, NamedTuple

from helperd.config.capabilities import CAPABILITIES
from helperd.errors import ConfigError, ConfigRefused

if TYPE_CHECKING:
    from helperd.config.specs import AllowSpec, Config, HelperSpec

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
LIMITS = {"core": 0, "nofile": 256}
POOL_NPROC = 64  # only where the uid is the helper's own: the kernel counts by uid


class Profile(NamedTuple):
    """One thing that may be started, and what it becomes.

    Attributes:
        program: absolute path; a script's interpreter is found at each launch.
        argv: complete, with the options that name the descriptors.
        script: a file the program reads first, checked like it; may be empty.
        want: capabilities as a bit mask.
        uid: "pool", "shared" or a number.
        gid: -1 = the uid's own number.
        limits: (RLIMIT_ number, value).
    """

    name: str
    program: str
    argv: tuple[str, ...]
    script: str
    want: int
    privilege: str
    no_new_privs: bool
    uid: str | int
    gid: int
    groups: tuple[int, ...]
    env: tuple[tuple[str, str], ...]
    limits: tuple[tuple[int, int], ...]
    seal: int


class Accounts:
    """Users and groups of this machine, by name."""

    def __init__(self, folder: str = "/etc") -> None:
        self.users = {row[0]: (int(row[2]), int(row[3])) for row in _rows(f"{folder}/passwd")}
        self.groups = {row[0]: int(row[2]) for row in _rows(f"{folder}/group")}

    def user(self, name: str) -> tuple[int, int] | None:
        """Return uid and primary gid of a user by name or number; None when there is none."""
        if name.isdigit():
            return next(((uid, gid) for uid, gid in self.users.values() if uid == int(name)), (int(name),
            int(name)))
        return self.users.get(name)

    def group(self, name: str) -> int | None:
        """Return the number of a group by name or number; None when there is none."""
        return self.groups.get(name, int(name) if name.isdigit() else None)


def _rows(path: str) -> list[list[str]]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            rows = [line.rstrip("\n").split(":") for line in file]
    except FileNotFoundError:
        return []
    return [row for row in rows if len(row) > 3 and row[2].isdigit() and (row[3].isdigit() or len(row) == 4)]


def compile_profiles(config: Config, accounts: Accounts, package: str, places: str) -> tuple[Profile, ...]:
    """Turn every configured helper into a profile; number n is entry n - 1.

    Args:
        config: a checked configuration.
        accounts: for group names.
        package: the directory of the helperd package.
        places: HELPERD_PATH for children.

    Raises:
        ConfigRefused: a group does not exist.
    """
    mistakes = [
        ConfigError("bad-value", f"there is no group {group!r} on this machine", file=config.file,
        line=spec.line) for spec in config.helpers
        for group in spec.groups
        if accounts.group(group) is None
    ]
    if mistakes:
        raise ConfigRefused(mistakes)
    return tuple(_compile(spec, accounts, package, places) for spec in config.helpers)


def _compile(spec: HelperSpec, accounts: Accounts, package: str, places: str) -> Profile:
    program, argv, script = spec.command[0], spec.command, ""
    if spec.builtin:
        program, script = os.path.realpath(sys.executable), f"{package}/helpers/__main__.py"
        argv = (program, "-I", "-S", script, spec.builtin, *spec.command[1:])
    env = {"PATH": PATH, "LANG": "C.UTF-8", "HELPERD_PATH": places, "HELPERD_SEAL": str(spec.seal)}
    if spec.devices:
        env["HELPERD_DEVICES"] = os.pathsep.join(spec.devices)
    limits = LIMITS | dict(spec.limits)
    owner = accounts.user(str(spec.uid)) if isinstance(spec.uid, int) else None
    return Profile(
        name=spec.name,
        program=program,
        argv=(*argv, "--in-fd=3", "--out-fd=4"),
        script=script,
        want=sum(1 << CAPABILITIES[word] for word in spec.capabilities),
        privilege=spec.privilege,
        no_new_privs=spec.no_new_privs,
        uid=spec.uid,
        gid=owner[1] if owner else -1,
        groups=tuple(sorted({accounts.group(group) or 0 for group in spec.groups})),
        env=tuple(sorted((env | dict(spec.env)).items())),
        limits=tuple(sorted((getattr(resource, f"RLIMIT_{word.upper()}"), value) for word, value in
        limits.items())), seal=spec.seal,
    )


def supervisor_profile(package: str, args: list[str], *, env: dict[str, str]) -> Profile:
    """Return the built-in profile 0: the supervisor, without any capability, with its socket as descriptor
    3.""" program = os.path.realpath(sys.executable)
    boot = (
        "import os, runpy, sys; sys.path[:0] = os.environ['HELPERD_PATH'].split(os.pathsep); "
        "runpy.run_module('helperd.daemon', run_name='__main__', alter_sys=True)"
    )
    argv = (program, "-I", "-S", "-c", boot, "--launcher-fd=3", *args)
    script = f"{package}/daemon.py"
    return Profile(
        "supervisor", program, argv, script, 0, "ambient", True, "self", -1, (), tuple(env.items()), (), 0
    )  # fmt: skip


def allowed(rules: tuple[AllowSpec, ...], names: list[str], uid: int, gids: set[int], accounts: Accounts) ->
tuple[frozenset[int], int]:
    """Return which profiles a user may start, and how many helpers at once; an empty set: a stranger.

    Args:
        rules: ``[[allow]]``.
        names: of the profiles, in order.
        uid: the peer's.
        gids: its primary and supplementary groups.
        accounts: for group names.
    """
    found = [rule for rule in rules if rule.uid == uid or (rule.group and accounts.group(rule.group) in gids)]
    numbers = {names.index(name) + 1 for rule in found for name in rule.helpers if name in names}
    return frozenset(numbers), max((rule.max_running for rule in found), default=0)
