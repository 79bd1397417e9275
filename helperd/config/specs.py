"""What a configuration says, frozen and compared by value; the rooms below take these and nothing else.

``file`` and ``line`` are where an entry stands; they do not take part in comparisons, so that moved and
commented entries are equal.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from helperd.config.sinks import SinkSpec
    from helperd.config.sources import SourceSpec

Stamp = tuple[tuple[str, int, int, int], ...]
"""Path, inode, size and time of change of each file and directory; 0 where there is none."""


class Pool(NamedTuple):
    """Uids of what root's launcher starts: one for each process, one for each helper with uid = "shared", its own."""

    own: range
    shared: range
    keepers: range

    @property
    def all(self) -> range:
        """All of them."""
        return range(self.own[0], self.keepers[-1] + 1)


LAUNCHED = (
    *(
        "name",
        "command",
        "when",
        "capabilities",
        "groups",
        "uid",
        "privilege",
        "no_new_privs",
        "seal",
        "env",
        "limits",
    ),
    *("devices", "term_grace", "list_timeout", "probe_timeout"),
)
"""What of a [[helper]] is the launcher's business."""


@dataclass(frozen=True, slots=True)
class DaemonSpec:
    """``[helperd]``. ``include``, ``runtime_dir``, ``socket_group``, ``admin_group``: None when not configured.

    Attributes:
        places: file and line of each key that is written.
    """

    user: str = "helperd"
    group: str = "helperd"
    runtime_dir: str | None = None
    socket_mode: int = 0o660
    socket_group: str | None = None
    admin_group: str | None = None
    clients_per_user: int = 128
    implicit_sinks: bool = True
    log_format: str = "auto"
    log_level: str = "info"
    include: tuple[str, ...] | None = None
    empty: bool = False
    uid_pool: tuple[int, int] = (60800, 61183)
    places: Mapping[str, tuple[str, int]] = field(default_factory=dict, compare=False)

    @property
    def pool(self) -> Pool:
        """The uids of ``uid_pool`` by their use."""
        first, end = self.uid_pool[0], self.uid_pool[1] + 1
        shared = first + (end - first) * 7 // 12
        keepers = shared + (end - first) // 12
        return Pool(range(first, shared), range(shared, keepers), range(keepers, end))


@dataclass(frozen=True, slots=True)
class HelperSpec:
    """``[[helper]]``: a driver and its profile, whose number is its position in ``Config.helpers``, from 1.

    Attributes:
        command: absolute path or ``builtin:NAME``, then arguments.
        uid: "pool", "shared" or a uid.
        env: (name, value), sorted by name.
        limits: (name of the limit as in RLIMIT_*, lower case; number), sorted by name.
        private_tmp: what it leaves in /tmp and its like is removed at its end.
        term_grace: seconds.
        exclusive: one source at a time may have one of its devices.
        keepalive: seconds between PINGs; None: 1 for builtin helpers, 5 for others.
        greet_timeout, list_timeout, probe_timeout, open_timeout, configure_timeout: seconds for an answer; 0: no limit.
        can_list, can_probe, can_tune, can_hop: what to ask it for; None: whatever it answers counts.
        options: that its definitions may have, lower case, besides everybody's; None: not known.
        when: "always", or "present": it is offered, and counts while its program is there.
        silence: seconds without a packet, for sources that say nothing else; None or 0: no limit.
        present: whether it counted when the configuration was read. It keeps its number either way.
    """

    name: str
    command: tuple[str, ...]
    when: str = "always"
    types: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    uid: str | int = "pool"
    privilege: str = "ambient"
    no_new_privs: bool = True
    seal: int = 1
    env: tuple[tuple[str, str], ...] = ()
    limits: tuple[tuple[str, int], ...] = ()
    devices: tuple[str, ...] = ()
    private_tmp: bool = True
    wire: str = "auto"
    verify: bool = True
    obeys_shutdown: bool = False
    status_meaningful: bool = False
    needs_child: int = 0
    on_child_gone: str = "restart"
    term_grace: float = 1.0
    keepalive: float | None = None
    greet_timeout: float = 15.0
    list_timeout: float = 2.0
    probe_timeout: float = 2.0
    open_timeout: float = 30.0
    configure_timeout: float = 10.0
    can_list: bool | None = None
    can_probe: bool | None = None
    can_tune: bool | None = None
    can_hop: bool | None = None
    options: tuple[str, ...] | None = None
    silence: float | None = None
    on_silence: str = "restart"
    exclusive: bool = True
    present: bool = field(default=True, compare=False, repr=False)
    line: int = field(default=0, compare=False, repr=False)
    file: str = field(default="", compare=False, repr=False)

    @property
    def builtin(self) -> str | None:
        """The NAME of ``builtin:NAME``, or None for an external program."""
        head, _, name = self.command[0].partition(":")
        return name if head == "builtin" else None


class FileGroup(NamedTuple):
    """All that the launcher reads of a ``[[sink]]``: who the supervisor gives its files to."""

    file_group: str | None = None
    line: int = 0
    file: str = ""


@dataclass(frozen=True, slots=True)
class AllowSpec:
    """``[[allow]]``: exactly one of ``uid`` and ``group`` is set; ``helpers`` are names, never empty."""

    helpers: tuple[str, ...]
    uid: int | None = None
    group: str | None = None
    max_running: int = 4
    max_together: int = 64
    line: int = field(default=0, compare=False, repr=False)
    file: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """``[[service]]``: its profile number follows those of the helpers.

    Attributes:
        command: absolute path or ``builtin:NAME``, then arguments.
        user: name; None: a uid of the launcher's pool, and the group of the sockets.
        env: (name, value), sorted by name.
    """

    name: str
    command: tuple[str, ...]
    user: str | None = None
    env: tuple[tuple[str, str], ...] = ()
    restart: str = "permanent"
    line: int = field(default=0, compare=False, repr=False)
    file: str = field(default="", compare=False, repr=False)

    @property
    def builtin(self) -> str | None:
        """The NAME of ``builtin:NAME``, or None for an external program."""
        head, _, name = self.command[0].partition(":")
        return name if head == "builtin" else None

    def as_helper(self) -> HelperSpec:
        """The service as a program without privilege, protocol and page."""
        command = (f"service:{self.builtin}", *self.command[1:]) if self.builtin else self.command
        return HelperSpec(self.name, command, env=self.env, status_meaningful=True)


@dataclass(frozen=True, slots=True)
class Config:
    """One checked configuration. ``file`` is the main one's path as given, ``files`` are all that were read, in order,
    ``stamp`` is how these and their directories looked then; none takes part in comparisons.
    """

    file: str = field(default="", compare=False)
    files: tuple[str, ...] = field(default=(), compare=False)
    stamp: Stamp = field(default=(), compare=False)
    helperd: DaemonSpec = DaemonSpec()
    helpers: tuple[HelperSpec, ...] = ()
    sources: tuple[SourceSpec, ...] = ()
    sinks: tuple[SinkSpec, ...] = ()  # in the launcher: FileGroup
    allow: tuple[AllowSpec, ...] = ()
    services: tuple[ServiceSpec, ...] = ()

    @property
    def fingerprint(self) -> int:
        """A number for what the launcher may start, by number: the same for it and for whoever has read the same."""
        helpers = [[getattr(helper, word) for word in LAUNCHED] for helper in self.helpers]
        return zlib.crc32(repr((helpers, self.services)).encode()) or 1

    def helper(self, name: str) -> HelperSpec | None:
        """Return the helper of that name, or None."""
        return next((helper for helper in self.helpers if helper.name == name), None)

    @property
    def programs(self) -> tuple[HelperSpec, ...]:
        """All that the launcher may start, in the order of its numbers: helpers, then services."""
        return self.helpers + tuple(service.as_helper() for service in self.services)

    def service_profile(self, name: str) -> int:
        """Return the launcher's number for the service of that name, 0 when absent."""
        numbers = enumerate(self.services, len(self.helpers) + 1)
        return next((number for number, service in numbers if service.name == name), 0)

    def profile(self, name: str) -> int:
        """Return the launcher's number for the helper of that name: its position from 1, 0 when absent."""
        return next((number for number, helper in enumerate(self.helpers, 1) if helper.name == name), 0)
