"""Every key of helpers.toml, declared once; those that are not the launcher's business: helpers.py, sources.py,
sinks.py.

The check, the manual page, docs/configuration.md and "did you mean" all read this table; a key that is not in
it does not exist, and one that is in it works.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from helperd.config import values as v

if TYPE_CHECKING:
    from collections.abc import Iterable

ELSEWHERE = {
    *("socket_mode", "clients_per_user", "implicit_sinks", "log_format", "log_level"),  # of [helperd]
    *("types", "wire", "verify", "obeys_shutdown", "status_meaningful", "needs_child", "on_child_gone"),
    *("keepalive", "greet_timeout", "open_timeout", "configure_timeout", "can_list", "can_probe", "can_tune"),
    *("can_hop", "options", "silence", "on_silence", "exclusive"),
}
"""Keys of [helperd] and [[helper]] that the launcher knows by name alone."""
MAX_TIMEOUT_S = 600.0
"""The longest time limit for an answer that a block can give; 0 where a key allows it: none."""


class Key(NamedTuple):
    """One key.

    Attributes:
        table: the TOML table it belongs to: helperd, helper, source, sink, service, allow.
        name: the key, and the field of the table's spec.
        kind: which values it takes.
        default: what an absent key means, as it would be written in the file; None when nothing or
            something derived.
        meaning: one or two sentences for people.
        required: the table is refused without it.
        needs_process: a change needs a new helper process; other changes are taken over by a reload.
        otherwise: words for the default when ``default`` is None, e.g. "from the definition".
    """

    table: str
    name: str
    kind: v.Kind
    meaning: str
    default: object = None
    required: bool = False
    needs_process: bool = False
    otherwise: str = ""


class Table(NamedTuple):
    """One table of the file.

    Attributes:
        name: as in the file.
        many: written ``[[name]]``, any number of times; else ``[name]``, at most once.
        meaning: one or two sentences for people.
    """

    name: str
    many: bool
    meaning: str


TABLES: tuple[Table, ...] = (
    Table("helperd", many=False, meaning="The daemon itself."),
    Table(
        "helper",
        many=True,
        meaning="A program that captures, and the privilege it gets. Nothing is started by naming it here; "
        "sources start it.",
    ),
    Table(
        "source",
        many=True,
        meaning="Something to capture from: one definition, kept open by one helper process.",
    ),
    Table(
        "sink",
        many=True,
        meaning="Where packets leave: a socket for consumers besides the implicit ones (all.sock and "
        "sources/NAME.sock in the runtime directory), or files.",
    ),
    Table(
        "service",
        many=True,
        meaning="A program without any privilege that helperd keeps running, and that is a client of its sockets.",
    ),
    Table(
        "allow",
        many=True,
        meaning="Who, besides the supervisor, may ask an installed launcher for helpers. Without any: "
        "nobody.",
    ),
)

KEYS: tuple[Key, ...] = (
    # helperd: what the launcher is to know; the rest: whole.py
    Key(
        "helperd",
        "empty",
        v.BOOLEAN,
        "This configuration is meant to have nothing in it. Without this key an empty one is refused: a power cut "
        "leaves such files, and taking one over would end every source.",
        default=False,
    ),
    Key(
        "helperd",
        "include",
        v.INCLUDES,
        "Directories of drop-ins: every *.toml in them belongs to this configuration, in the order of directories and "
        "names. One with the name of an earlier one is not read. A relative path begins at this file's directory. Only "
        "the main file has this key.",
        otherwise="/etc/helperd/conf.d and /usr/share/helperd/helpers.d for /etc/helperd/helpers.toml, else none",
    ),
    Key(
        "helperd",
        "user",
        v.ACCOUNT,
        "The user the supervisor becomes when helperd is started as root.",
        default="helperd",
    ),
    Key(
        "helperd",
        "group",
        v.ACCOUNT,
        "The group the supervisor gets when helperd is started as root.",
        default="helperd",
    ),
    Key(
        "helperd",
        "uid_pool",
        v.UID_RANGE,
        "The uids for what root's launcher starts, nobody else's: of 12, 7 are for helpers and services, one for each "
        "process (an eighth of these is kept for root and the supervisor), one is for helpers that share theirs, and 4 "
        "are the launcher's own. Two launchers on one kernel, as of a container and its host, are to have different "
        "ones. What is changed counts when the launcher starts again.",
        default="60800-61183",
    ),
    Key(
        "helperd",
        "runtime_dir",
        v.PATH,
        "Where the sockets are.",
        otherwise="$RUNTIME_DIRECTORY, else /run/helperd as root, else $XDG_RUNTIME_DIR/helperd, else "
        "/run/user/UID/helperd, else ~/.helperd, else /tmp/helperd-UID",
    ),
    Key(
        "helperd",
        "socket_group",
        v.ACCOUNT,
        "Group of the sockets. A supervisor that root starts is in it; another has to be made a member (usermod -aG).",
        otherwise="the supervisor's own group",
    ),
    Key(
        "helperd",
        "admin_group",
        v.ACCOUNT,
        "Members who can open control.sock (see socket_group) may change things over it, besides the supervisor's own "
        "user and root.",
        otherwise="nobody else",
    ),
    # helper: what it is started as; how it is spoken to, and for how long: helpers.py
    Key(
        "helper",
        "name",
        v.NAME_KIND,
        "What the helper is called in sources, status and log: 1 to 32 characters a-z 0-9 _ -.",
        required=True,
    ),
    Key(
        "helper",
        "command",
        v.COMMAND,
        "The program's argument vector, an absolute path first; never read by a shell. builtin:NAME "
        "is a helper that comes with helperd. --in-fd=3 --out-fd=4 are appended.",
        required=True,
        needs_process=True,
    ),
    Key(
        "helper",
        "when",
        v.choice("always", "present"),
        "present: the block is an offer. It counts while its program is there (the first absolute path in command), "
        "it gives way to a block of the same name in another file, and groups that this machine lacks are left out.",
        default="always",
    ),
    Key(
        "helper",
        "capabilities",
        v.CAPABILITY_NAMES,
        "The Linux capabilities the helper gets, exactly these: lower case, without cap_ (net_raw).",
        default=(),
        needs_process=True,
    ),
    Key(
        "helper",
        "groups",
        v.ACCOUNTS,
        "Supplementary groups the helper gets (dialout, plugdev).",
        default=(),
        needs_process=True,
    ),
    Key(
        "helper",
        "uid",
        v.UID_RULE,
        "Whose uid a helper runs under when the launcher is root. pool: one of its own for each "
        "process; shared: one for all processes of this helper, for programs that coordinate through "
        "files, which its name leads to; a number: that one.",
        default="pool",
        needs_process=True,
    ),
    Key(
        "helper",
        "privilege",
        v.choice("ambient", "file", "suid"),
        "How the program comes by its capabilities. ambient: given by the launcher, set-user-ID bits "
        "are void; file: by the program's own file capabilities; suid: by its set-user-ID bit (needs "
        "no_new_privs = false).",
        default="ambient",
        needs_process=True,
    ),
    Key(
        "helper",
        "no_new_privs",
        v.BOOLEAN,
        "No program the helper executes can gain privilege. false weakens every other measure and "
        "warns at each start.",
        default=True,
        needs_process=True,
    ),
    Key(
        "helper",
        "seal",
        v.integer(0, 3),
        "How tightly the process is locked. 0: not; 1: a coarse system call filter; 2: also files and "
        "sockets; 3: also an allow list once the device is open (helpers written with helperd's SDK "
        "only).",
        needs_process=True,
        otherwise="3 for builtin helpers, else 1",
    ),
    Key(
        "helper",
        "env",
        v.ENVIRONMENT,
        "Environment variables, besides PATH and LANG. Nothing is inherited from helperd's own environment.",
        default={},
        needs_process=True,
    ),
    Key(
        "helper",
        "limits",
        v.RESOURCE_LIMITS,
        "Resource limits as in setrlimit(2): as, data, fsize, memlock, stack (sizes), nofile, nproc "
        "(numbers). fsize also bounds all together that private_tmp would remove. Without: nofile 256, fsize and data "
        "1GiB; nproc, which counts threads too, 128, with "
        'uid = "shared" 512 for all its processes, with a uid by number no limit. Core dumps are always off.',
        default={},
        needs_process=True,
    ),
    Key(
        "helper",
        "devices",
        v.PATHS,
        "Device files the helper may open; handed to it, and checked by a sealed one.",
        default=(),
        needs_process=True,
    ),
    Key(
        "helper",
        "private_tmp",
        v.BOOLEAN,
        "What it leaves where everybody may write (/tmp, /var/tmp, /dev/shm, /run/lock) and as System V IPC is removed "
        'at its end, with uid = "shared" at the end of the last, before anybody has its uid; POSIX message queues it '
        "cannot make. Works where the launcher is root, not for a uid by number.",
        needs_process=True,
        otherwise="true; false for builtin:pcapfile, builtin:pipe, builtin:extcap, builtin:jsonlines: their programs "
        "may write files that somebody wants",
    ),
    Key(
        "helper",
        "term_grace",
        v.duration(0.0, 60.0),
        "Time between SIGTERM and SIGKILL, also for the program that pipe, jsonlines and extcap run. Wi-Fi helpers "
        "want 2s, to remove the monitor interface they made.",
        default="1s",
    ),
    Key(
        "helper",
        "list_timeout",
        v.duration(0.1, MAX_TIMEOUT_S),
        "How long it may take to name its devices, its start included, for each if it is started twice to be greeted. "
        "What it has named is remembered, so that a slow one is waited for once.",
        otherwise="10s for builtin:extcap, whose tools may ask their devices first; else 2s",
    ),
    Key(
        "helper",
        "probe_timeout",
        v.duration(0.1, MAX_TIMEOUT_S),
        "How long it may take to say whether a definition is its own, its start included, for each when it is started "
        "twice to be greeted; and how long the tool of builtin:extcap may take to answer one question.",
        otherwise="10s for builtin:extcap, whose tools may ask their devices first; else 2s",
    ),
    # sink: the launcher gives the supervisor that group
    Key(
        "sink",
        "file_group",
        v.ACCOUNT,
        "Group of the files; who has to be in it: see socket_group.",
        otherwise="the supervisor's own group",
    ),
    # service
    Key(
        "service",
        "name",
        v.NAME_KIND,
        "What status and the log call it. No source may have the same name.",
        required=True,
    ),
    Key(
        "service",
        "command",
        v.COMMAND,
        "The program's argument vector, an absolute path first; never read by a shell. builtin:exporter comes with "
        "helperd. Descriptor 3 tells it where the sockets are, as one line of JSON, and ends with helperd.",
        required=True,
        needs_process=True,
    ),
    Key(
        "service",
        "user",
        v.ACCOUNT,
        "The user it runs as; never root.",
        otherwise="a uid of its own, with the group of the sockets",
        needs_process=True,
    ),
    Key(
        "service",
        "env",
        v.ENVIRONMENT,
        "Environment variables, besides PATH and LANG. Nothing is inherited from helperd's own environment.",
        default={},
        needs_process=True,
    ),
    Key(
        "service",
        "restart",
        v.choice("permanent", "transient", "temporary"),
        "When it is started again. permanent: after every end; transient: after every end but exit status 0; "
        "temporary: never.",
        default="permanent",
    ),
    # allow
    Key(
        "allow",
        "uid",
        v.UID,
        "The user, by number. Exactly one of uid and group is needed.",
    ),
    Key(
        "allow",
        "group",
        v.ACCOUNT,
        "The group, by name. Exactly one of uid and group is needed.",
    ),
    Key(
        "allow",
        "helpers",
        v.NAMES,
        "The helpers they may start, by name.",
        required=True,
    ),
    Key(
        "allow",
        "max_running",
        v.integer(1, 256),
        "How many of each helper each user may run at once. The short starts of list and probe do not count: they have "
        "four of each helper.",
        default=4,
    ),
    Key(
        "allow",
        "max_together",
        v.integer(1, 1024),
        "How many of each helper all users of the group may run at once: a user with subordinate uids counts as many. "
        "An eighth of all places is for root and the supervisor, whatever is said here.",
        default=64,
    ),
)


def keys_of(table: str, keys: Iterable[Key] = KEYS) -> dict[str, Key]:
    """Return the keys of one table by name, in the order of the manual."""
    return {key.name: key for key in keys if key.table == table}
