"""What the launcher may start: a configured helper turned into numbers and byte strings, once, before anybody
asks.

Pure but for /etc/passwd and /etc/group, which are read as files: no name service module runs in the launcher.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from typing import TYPE_CHECKING, NamedTuple

from helperd.config.capabilities import CAPABILITIES
from helperd.errors import CannotDrop, ConfigError, ConfigRefused

if TYPE_CHECKING:
    from collections.abc import Iterable

    from helperd.config.specs import Config, DaemonSpec, HelperSpec, ServiceSpec

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
LIMITS = {"core": 0, "nofile": 256}
CEILINGS = {"fsize": 1 << 30, "data": 1 << 30}  # bytes; more than a helper needs, less than fills a machine
NPROC = {"pool": 128, "shared": 512}
"""Processes and threads by rule for the uid; the kernel counts by uid, so those of somebody else's are not limited."""
QUESTION_S = 10.0  # a helper that was launched for a question has at least so long to answer and go
END_S = 14.5  # the launcher's patience with its supervisor; then it kills, within the 15 s that its unit has
LEAVE_S = 2.0  # and so long behind the limits that its block gives
ADAPTERS = frozenset({"pipe", "jsonlines", "extcap"})
"""Builtin helpers that start a program."""
INLINE = {"python": "cm", "perl": "eE", "ruby": "e", "node": "ep", "sh": "c", "bash": "c", "dash": "c"}
"""Interpreters, and the options of theirs that take the place of a script."""
_IDLE = "USR1 USR2 ALRM QUIT VTALRM PROF IO PWR PIPE XFSZ STKFLT"
END_SIGNALS = (signal.SIGINT.value, signal.SIGTERM.value)  # numbers, as a forked child is told them
"""What ends a supervisor in order; blocked when it is started, because until it has handlers they would kill it."""
IDLE_SIGNALS = (
    *(int(getattr(signal, f"SIG{word}")) for word in _IDLE.split()),
    *range(signal.SIGRTMIN, signal.SIGRTMAX + 1),
)
"""What does nothing to launcher and supervisor, and would end them if it were left to the system."""
BLOCKED = (*END_SIGNALS, int(signal.SIGHUP), *IDLE_SIGNALS)
HEARD = [signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, *IDLE_SIGNALS]


Becoming = tuple[int, str, bool, int | None, int, tuple[int, ...], tuple[tuple[int, int], ...]]
Same = tuple[tuple[tuple[str, str], ...], int, bool]  # environment, seal, private_tmp


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
        private_tmp: what it leaves in /tmp and its like is removed at its end.
        question_s: seconds after which one that was launched for a question is killed.
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
    question_s: float = QUESTION_S
    private_tmp: bool = True

    @property
    def owner(self) -> tuple[str | int, str, bool]:
        """What its uid depends on."""
        return self.uid, self.name, self.private_tmp

    def becoming(self, uid: int | None) -> tuple[Becoming, Same]:
        """Return what a child that gets ``uid`` becomes; None: it stays who the launcher is. And what each has."""
        gid = self.gid if self.gid >= 0 else uid or 0
        limits = dict(self.limits)
        if uid is not None and (most := NPROC.get(str(self.uid))):
            limits = {resource.RLIMIT_NPROC: most} | limits
            limits |= {resource.RLIMIT_MSGQUEUE: 0} if self.private_tmp else {}  # not to be looked for
        what = self.want, self.privilege, self.no_new_privs, uid, gid, self.groups, tuple(limits.items())
        return what, (self.env, self.seal, self.private_tmp)


class Accounts:
    """Users and groups of this machine, by name."""

    def __init__(self, folder: str = "/etc") -> None:
        self.users = {row[0]: (int(row[2]), int(row[3])) for row in _rows(f"{folder}/passwd")}
        rows = _rows(f"{folder}/group")
        self.groups = {row[0]: int(row[2]) for row in rows}
        self.members = {row[0]: frozenset(row[3].split(",")) - {""} for row in rows}

    def user(self, name: str) -> tuple[int, int] | None:
        """Return uid and primary gid of a user by name or number; None when there is none."""
        if name.isdigit():
            return next(
                ((uid, gid) for uid, gid in self.users.values() if uid == int(name)), (int(name), int(name))
            )
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


def script_of(command: tuple[str, ...]) -> str:
    """Return the script that an interpreter is given: the first absolute path behind it; empty when there is none."""
    inline = INLINE.get(os.path.basename(command[0]).rstrip("0123456789."))
    for word in command[1:] if inline else ():
        if word.startswith("/"):
            return f"{word}/__main__.py" if os.path.isdir(word) else word
        if word.startswith("-") and not word.startswith("--") and word[-1] in (inline or ""):
            break
    return ""


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
        ConfigError("bad-value", f"this machine has no group {group!r}", file=spec.file, line=spec.line)
        for spec in config.helpers
        if spec.when != "present"
        for group in spec.groups
        if accounts.group(group) is None
    ]
    if mistakes:
        raise ConfigRefused(mistakes)
    helpers = tuple(_compile(spec, accounts, package, places) for spec in config.helpers)
    return helpers + tuple(_compile_service(spec, config, accounts, package) for spec in config.services)


def _compile_service(spec: ServiceSpec, config: Config, accounts: Accounts, package: str) -> Profile:
    """A program without capability; it may read the sockets, because it has their group."""
    program, argv, script = spec.command[0], spec.command, script_of(spec.command)
    if spec.builtin:
        program, script = os.path.realpath(sys.executable), f"{package}/services/__main__.py"
        argv = (program, "-I", "-S", script, spec.builtin, *spec.command[1:])
    user = None if spec.user is None else accounts.user(spec.user)
    if spec.user is not None and (user is None or user[0] == 0):
        text = f"user {spec.user!r} " + (
            "does not exist" if user is None else "is root: a service has no privilege"
        )
        raise ConfigRefused([ConfigError("bad-value", text, file=spec.file, line=spec.line)])
    readers = accounts.group(config.helperd.socket_group or config.helperd.group)
    return Profile(
        name=spec.name,
        program=program,
        argv=argv,
        script=script,
        want=0,
        privilege="ambient",
        no_new_privs=True,
        uid="pool" if user is None else user[0],
        gid=-1 if user is None else user[1],
        groups=() if not readers else (readers,),
        env=tuple(sorted(({"PATH": PATH, "LANG": "C.UTF-8"} | dict(spec.env)).items())),
        limits=tuple(sorted((getattr(resource, f"RLIMIT_{word.upper()}"), n) for word, n in LIMITS.items())),
        seal=1,
    )


def _compile(spec: HelperSpec, accounts: Accounts, package: str, places: str) -> Profile:
    program, argv, script = spec.command[0], spec.command, script_of(spec.command)
    if spec.builtin:
        program, script = os.path.realpath(sys.executable), f"{package}/helpers/__main__.py"
        argv = (program, "-I", "-S", script, spec.builtin, *spec.command[1:])
    env = {"PATH": PATH, "LANG": "C.UTF-8", "HELPERD_PATH": places, "HELPERD_SEAL": str(spec.seal)}
    if spec.builtin in ADAPTERS:
        env["HELPERD_TERM_GRACE"] = f"{spec.term_grace:g}"
    if spec.builtin == "extcap":
        env["HELPERD_ASK_TIMEOUT"] = f"{spec.probe_timeout:g}"
    if spec.devices:
        env["HELPERD_DEVICES"] = os.pathsep.join(spec.devices)
    limits = LIMITS | CEILINGS | dict(spec.limits)
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
        groups=tuple(sorted({n for group in spec.groups if (n := accounts.group(group)) is not None})),
        env=tuple(sorted((env | dict(spec.env)).items())),
        limits=tuple(sorted((getattr(resource, f"RLIMIT_{word.upper()}"), n) for word, n in limits.items())),
        seal=spec.seal,
        private_tmp=spec.private_tmp,
        question_s=max(QUESTION_S, max(spec.list_timeout, spec.probe_timeout) + LEAVE_S),
    )


Share = tuple[int, int, str]
"""Of one profile: helpers at once of a user, of all users of the rule, and its group; a rule for a uid names none."""


def admission(config: Config, accounts: Accounts, uid: int, gids: frozenset[int]) -> dict[int, Share] | None:
    """Return which profiles a user may start, and how many helpers of each at once.

    Args:
        config: with ``[[allow]]`` and the supervisor's user.
        accounts: this machine's.
        uid: the peer's; -1: who started the launcher for itself, which counts as root does.
        gids: its primary and supplementary groups.

    Returns:
        Profile number to share, of several rules the one with the highest; None: everything; empty for a stranger.
    """
    daemon = accounts.user(config.helperd.user)
    if uid in {-1, 0} or (daemon is not None and uid == daemon[0]):
        return None
    found = [
        rule
        for rule in config.allow
        if rule.uid == uid or (rule.group and accounts.group(rule.group) in gids)
    ]
    quotas: dict[int, Share] = {}
    for rule in found:
        share = (rule.max_running, rule.max_together, rule.group or "")
        for number in map(config.profile, rule.helpers):
            quotas[number] = max(share, quotas.get(number, share))
    return quotas


def may_reload(config: Config, accounts: Accounts, uid: int, gids: frozenset[int]) -> bool:
    """Whether a user may have the configuration read again: who may start everything, and the daemon's admins."""
    admins = accounts.group(config.helperd.admin_group or "")
    return admins in gids or admission(config, accounts, uid, gids) is None


def needed(profiles: Iterable[Profile], config: Config) -> int:
    """Return the capabilities of all that may be started; not of what is offered and not there."""
    bits = 0
    for profile, spec in zip(profiles, config.programs, strict=True):
        bits |= profile.want * spec.present
    return bits


def weakness(profile: Profile) -> str:
    """Return what about a profile is weaker, or cannot be as declared, and the fix; empty for most."""
    if profile.privilege == "suid":
        return (
            'has privilege = "suid": it runs with euid 0 and owns root\'s files; the ambient privilege is enough '
            "for most programs, remove the key"
        )
    if not profile.no_new_privs:
        return (
            "has no_new_privs = false: no system call filter, and it can gain privilege by exec; install the "
            "launcher, then the ambient privilege is enough"
        )
    if profile.privilege == "file":
        return (
            'has privilege = "file": its bounding set is not empty, and it survives the launcher\'s death; '
            "setcap -r the program and remove the key"
        )
    ceilings = {(getattr(resource, f"RLIMIT_{word.upper()}"), n) for word, n in CEILINGS.items()}
    short = [LIMIT_NAMES[which] for which, value in set(profile.limits) - ceilings if beyond(which, value)]
    if short:
        return f"cannot get its limits {', '.join(short)}: the launcher's own are lower; raise those (LimitNOFILE= ...)"
    return ""


LIMIT_NAMES = {getattr(resource, name): name for name in dir(resource) if name.startswith("RLIMIT_")}


def beyond(which: int, value: int) -> bool:
    """Whether a limit is higher than this process's own hard limit, above which nobody without privilege gets."""
    hard = resource.getrlimit(which)[1]
    return hard != resource.RLIM_INFINITY and value > hard


def daemon_ids(spec: DaemonSpec, accounts: Accounts) -> tuple[int, int]:
    """Return the supervisor's uid and gid.

    Raises:
        CannotDrop: there is no such user or group, or it is root.
    """
    user, group = accounts.user(spec.user), accounts.group(spec.group)
    if user is None or group is None:
        missing = f"user {spec.user!r}" if user is None else f"group {spec.group!r}"
        fix = "useradd --system --user-group --no-create-home --shell /usr/sbin/nologin helperd"
        raise CannotDrop(
            "not-permitted",
            f"there is no {missing} for the supervisor: {fix}; or name others with user and group in [helperd], or try "
            "it with --unprivileged",
        )
    if user[0] == 0 or group == 0:
        raise CannotDrop("not-permitted", "the supervisor must not be root: set [helperd] user and group")
    return user[0], group
