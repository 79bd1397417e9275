"""The installed launcher from outside: what a user needs to be served by it, and the one thing that is missing here.

Rules:
  1. A text names what is missing, then the command that mends it; every command has been tried by a test.
  2. Nothing is asked of the launcher: files, groups and the socket's own look are enough.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from helperd import config
from helperd.config.profile import Accounts, admission
from helperd.errors import ConfigRefused
from helperd.runtime import LAUNCHER_SOCKET
from helperd.sandbox import kernel

if TYPE_CHECKING:
    from helperd.config import Config, HelperSpec

_SHOWN = (
    "command",
    "capabilities",
    "groups",
    "uid",
    "privilege",
    "no_new_privs",
    "seal",
    "env",
    "limits",
    "devices",
    "private_tmp",
)
"""What a block of the same name has to have alike: all that its process is made of, and what is left of it."""
SITE = "/etc/helperd/conf.d/site.toml"


def lacks(helper: HelperSpec, accounts: Accounts | None = None) -> str:
    """What a helper declares that this process cannot give it by itself, as words; empty: nothing."""
    mine = kernel.capget()[1]
    words = [word for word in helper.capabilities if not mine >> config.CAPABILITIES[word] & 1]
    if helper.groups and os.geteuid():
        known = accounts or Accounts()
        numbers = {group: known.group(group) for group in helper.groups}
        has = {os.getegid(), *os.getgroups()}
        words += [
            f"group {group}" for group, number in numbers.items() if number is not None and number not in has
        ]
    return ", ".join(words)


def listens(path: str = LAUNCHER_SOCKET) -> bool:
    """Whether there is a launcher's socket."""
    return os.path.exists(path)


PROGRAMS = ("/usr/bin/helperd", "/usr/local/bin/helperd")
"""What the package, and ``scripts/install``, install."""


def installed() -> bool:
    """Whether helperd is installed on this machine, by its configuration."""
    return os.path.exists(config.INSTALLED)


def no_launcher(path: str = LAUNCHER_SOCKET) -> str:
    """What to do when nobody listens at the launcher's socket."""
    if path != LAUNCHER_SOCKET:
        return f"no launcher listens at {path}: start one, as root, with helperd launcher --listen {path}"
    if not (installed() and any(map(os.path.exists, PROGRAMS))):  # a package removed leaves its configuration
        scripts = os.path.join(
            os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "scripts", "install"
        )
        way = (
            f"sudo {scripts}"
            if os.path.exists(scripts)
            else "install helperd's package, or ./scripts/install of a checkout"
        )
        return f"helperd is not installed on this machine: {way}"
    if os.path.isdir("/run/systemd/system"):
        return "the installed launcher is not running: sudo systemctl enable --now helperd-launcher.socket"
    return "the installed launcher is not running: sudo helperd launcher, in another terminal"


def no_connection(path: str, number: int) -> str:
    """Why the launcher's socket cannot be connected to, from the errno of ``connect``."""
    if number not in {errno.EACCES, errno.EPERM}:
        return no_launcher(path)
    try:
        gid = os.stat(path).st_gid
    except OSError:
        return no_launcher(path)
    group = next((name for name, number in Accounts().groups.items() if number == gid), str(gid))
    user = _user()
    if gid in {os.getegid(), *os.getgroups()}:
        return f"{path} cannot be written by its group {group}: sudo chmod g+w {path}"
    if gid == 0:
        return f"{path} is root's alone: sudo chgrp helperd {path}"  # nobody is to join group root
    if user in _members(group):
        return (
            f"this session began before {user} joined group {group}: log in again, or for now: newgrp {group}"
        )
    return f"{user} is not in group {group}: sudo usermod -aG {group} {user}, then log in again"


def no_rule(helper: HelperSpec | None) -> str:
    """No [[allow]] rule serves this user: what to write, unless there is one that the launcher has not read."""
    user, uid = _user(), os.getuid()
    name = helper.name if helper else "interface"
    if helper is not None and helper.name in allowed():
        return (
            "the launcher has too many connections of this user, or, being in use, has not read its configuration "
            "since it was changed: end a capture, or sudo helperd reload"
        )
    rule = f'[[allow]]\\nuid = {uid}\\nhelpers = [\\"{name}\\"]\\n'
    return (
        f"no [[allow]] rule of {config.INSTALLED} gives {user} the helper {name}: "
        f'printf "{rule}" | sudo tee -a {SITE}'
    )


def allowed() -> frozenset[str]:
    """The helpers that the installed configuration, as it is now, gives to this user."""
    try:
        settings = config.load(config.INSTALLED)
    except ConfigRefused:
        return frozenset()
    quotas = admission(settings, Accounts(), os.getuid(), frozenset({os.getegid(), *os.getgroups()}))
    names = {number: helper.name for number, helper in enumerate(settings.helpers, 1)}
    return frozenset(
        names.values() if quotas is None else (names[number] for number in quotas if number in names)
    )


def number_of(helper: HelperSpec, settings: Config) -> tuple[int, str]:
    """The installed launcher's number for a helper of another configuration, or 0 and why there is none."""
    other = settings.helper(helper.name)
    if other is None:
        return 0, (
            f"the installed launcher has no helper {helper.name}: put its [[helper]] block and an [[allow]] rule into "
            f"{SITE}"
        )
    differ = [key for key in _SHOWN if getattr(helper, key) != getattr(other, key)]
    if differ:
        return 0, (
            f"the installed launcher's {helper.name} ({other.file}, line {other.line}) has another {differ[0]}: make "
            "both alike, or give one another name"
        )
    return settings.profile(helper.name), ""


def _user() -> str:
    uid = os.getuid()
    return next((name for name, ids in Accounts().users.items() if ids[0] == uid), str(uid))


def _members(group: str) -> list[str]:
    """Who is in a group by /etc/group."""
    try:
        with open("/etc/group", encoding="utf-8", errors="replace") as file:
            rows = [line.rstrip("\n").split(":") for line in file]
    except OSError:
        return []
    return next((row[3].split(",") for row in rows if len(row) > 3 and row[0] == group), [])
