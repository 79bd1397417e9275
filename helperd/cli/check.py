"""``helperd check``: every mistake of a configuration, with file, line and suggestion, before it is used."""

from __future__ import annotations

import os
import pwd
import stat
import sys
from importlib.util import find_spec
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, TypeVar

from helperd import config
from helperd.cli.defaults import SYSTEM_CONFIG, config_file
from helperd.cli.feasible import check_definition, implicit_doubt, socket_doubts
from helperd.config import supervisor, trust
from helperd.config.profile import Accounts, compile_profiles
from helperd.config.sources import source_name
from helperd.config.whole import UNENDED, unended
from helperd.errors import Code, ConfigError, ConfigRefused, RequestRefused, UsageError
from helperd.helpers._template import Template
from helperd.helpers.jsonlines import SETTINGS
from helperd.printing import say, say_json
from helperd.wire.definition import SourceDefinition

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from helperd.config import Config, HelperSpec
    from helperd.config.profile import Profile
    from helperd.config.sinks import SinkSpec
    from helperd.config.sources import SourceSpec

    _Entry = TypeVar("_Entry", HelperSpec, SourceSpec, SinkSpec)


_PLACE = os.path.dirname(os.path.dirname(config.__path__[0]))
SPARE_UIDS = 16
"""For lists and probes beside the sources."""
WIDE_POOL = 66000
"""Where a wider pool fits: behind what systemd gives out, before subordinate uids."""
_UNITS = ("/usr/lib/systemd/system/helperd.service", "/etc/systemd/system/helperd.service")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "config",
        metavar="FILE",
        nargs="?",
        help="the configuration, read with its drop-ins (default: the one that run would use)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object for scripts")


def checked(path: str) -> Config:
    """Load a configuration and parse the templates and definitions in it, which the config room leaves as text.

    Raises:
        ConfigRefused: every mistake, in the order of files and lines.
    """
    settings = config.load(path)
    mistakes = []
    for number, helper in _numbered(settings.helpers):
        try:
            _parse_template(helper)
        except UsageError as error:
            key = f"helper[{number}].command"
            mistakes.append(ConfigError("bad-value", error.text, file=helper.file, line=helper.line, key=key))
    for number, source in _numbered(settings.sources):
        try:
            check_definition(source, settings)
        except UsageError as error:
            key = f"source[{number}].definition"
            mistakes.append(
                ConfigError(error.problem, error.text, file=source.file, line=source.line, key=key)
            )
    try:
        supervisor.groups(settings, Accounts())
    except ConfigRefused as refused:
        mistakes += refused.mistakes
    if mistakes:
        raise ConfigRefused(
            sorted(mistakes, key=lambda mistake: (settings.files.index(mistake.file), mistake.line))
        )
    return settings


def _numbered(entries: Iterable[_Entry]) -> Iterator[tuple[int, _Entry]]:
    """Entries of one table with their numbers, from 1 in each file."""
    counts: dict[str, int] = {}
    for entry in entries:
        counts[entry.file] = counts.get(entry.file, 0) + 1
        yield counts[entry.file], entry


def _parse_template(helper: HelperSpec) -> None:
    """Parse the words behind ``--`` of a helper that runs another program.

    Raises:
        UsageError: they make no sense.
    """
    words = helper.command[helper.command.index("--") + 1 :] if "--" in helper.command else ()
    if helper.builtin == "jsonlines":
        Template(words, SETTINGS)
    elif helper.builtin == "pipe":
        Template(words)
    elif helper.builtin == "extcap":  # a tool has no arguments of ours, so no places either
        Template([word for word in words if not word.startswith("/")])


def warnings(settings: Config) -> Iterator[ConfigError]:
    """What is allowed but probably not meant: weakened helpers, programs that are absent or that a launcher refuses.

    The launcher meant is the one this user would start, for the installed configuration the installed one.
    """
    root = os.geteuid() == 0 or os.path.abspath(settings.file) == SYSTEM_CONFIG
    profiles: tuple[Profile, ...] = ()
    try:
        profiles = compile_profiles(settings, Accounts(), config.__path__[0], "")
    except ConfigRefused as refused:
        yield from refused.mistakes
    for (number, helper), profile in zip_longest(
        _numbered(settings.helpers), profiles[: len(settings.helpers)]
    ):
        for problem, key, text in _doubts(helper, profile, root=root) if helper.present else ():
            yield ConfigError(
                problem, text, file=helper.file, line=helper.line, key=f"helper[{number}].{key}"
            )
    for number, source in _numbered(settings.sources):
        named = SourceDefinition.parse(source.definition).get("name")
        if named and source.name != source_name(source.definition):
            text = f'name = "{source.name}" counts, not the definition\'s name={named}; write one of them'
            yield ConfigError(
                "bad-definition", text, file=source.file, line=source.line, key=f"source[{number}].name"
            )
    for file, line in unended(settings.files).items():
        yield ConfigError("bad-syntax", UNENDED, file=file, line=line)
    yield from _group_doubts(settings)
    too_long = implicit_doubt(settings)
    if too_long:
        yield ConfigError("path-too-long", too_long, file=settings.file, line=1, key="helperd.runtime_dir")
    if root and (few := _few_uids(settings)):
        file, line = settings.helperd.places.get("uid_pool", (settings.file, 1))
        yield ConfigError("no-resources", few, file=file, line=line, key="helperd.uid_pool")
    for number, sink in _numbered(settings.sinks):
        for problem, key, text in chain(_sink_doubts(sink, settings), socket_doubts(sink, settings)):
            yield ConfigError(problem, text, file=sink.file, line=sink.line, key=f"sink[{number}].{key}")


def _few_uids(settings: Config) -> str:
    """Say that not all sources and services can run at once, because each takes a uid of the launcher's pool."""
    helpers = {helper.name: helper for helper in settings.helpers}
    pool, uid = settings.helperd.pool, "pool"
    sources = sum(getattr(helpers.get(source.helper or ""), "uid", uid) == uid for source in settings.sources)
    services = sum(service.user is None for service in settings.services)
    shared = sum(helper.uid == "shared" for helper in settings.helpers)
    if sources + services <= len(pool.own) and shared <= len(pool.shared):
        return ""
    size = 12 * max(-(-(sources + services + SPARE_UIDS) // 7), shared)
    have = f"{len(pool.own)} and {len(pool.shared)}"
    return (
        f"{_count(sources, 'source')} and {_count(services, 'service')} need a uid each, {_count(shared, 'helper')} "
        f'one that is shared; the pool has {have}: uid_pool = "{WIDE_POOL}-{WIDE_POOL + size - 1}"'
    )


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _group_doubts(settings: Config) -> Iterator[ConfigError]:
    """Groups to which a supervisor could not give anything.

    One that root starts is in all of them. This user's own, and that of helperd.service, has to be a member.
    """
    accounts, spec = Accounts(), settings.helperd
    installed = os.path.abspath(settings.file) == SYSTEM_CONFIG
    if os.geteuid() == 0 and not (installed and any(map(os.path.exists, _UNITS))):
        return
    who = spec.user if installed else _user_name()
    own = {accounts.group(spec.group)} if installed else {os.getegid(), *os.getgroups()}
    for name, key, file, line in supervisor.given(settings):
        member = accounts.group(name) in own or (installed and who in accounts.members.get(name, ()))
        if not member and not key.endswith("admin_group"):
            cure = f"usermod -aG {name} {who}"
            what = "helperd.service cannot give it anything" if installed else "cannot give it anything"
            text = f"{who} is not in group {name!r} and {what}: {cure}"
            yield ConfigError("not-permitted", text, file=file, line=line, key=key)


def _maker(settings: Config) -> str:
    """Who makes the files: the supervisor's user, where root or the installed unit starts it; else this one."""
    other = os.geteuid() == 0 or os.path.abspath(settings.file) == SYSTEM_CONFIG
    who = settings.helperd.user
    return who if other and Accounts().user(who) else _user_name()


def _may_make(folder: str, who: str) -> bool:
    """Whether a user may make files in a folder that exists, as far as its mode tells."""
    accounts, found = Accounts(), os.stat(folder)
    ids = accounts.user(who)
    if ids is None or ids[0] == os.geteuid():
        return os.access(folder, os.W_OK | os.X_OK)
    gids = {ids[1], *(gid for name, gid in accounts.groups.items() if who in accounts.members.get(name, ()))}
    shift = 6 if found.st_uid == ids[0] else 3 if found.st_gid in gids else 0
    return found.st_mode >> shift & 0o3 == 0o3


def _sink_doubts(sink: SinkSpec, settings: Config) -> Iterator[tuple[str, str, str]]:
    if sink.type != "file":
        return
    folder = there = os.path.dirname(sink.path)
    while not os.path.isdir(there):
        there = os.path.dirname(there)
    who = _maker(settings)
    if not _may_make(there, who):
        why = f"{who} may not make files in {folder}" if there == folder else f"{folder} does not exist"
        yield "sink-failed", "path", f"{why}: sudo install -d -o {who} -m 0751 {folder}"
    if sink.file_group is not None and os.path.isdir(folder):
        found, gid = os.stat(folder), Accounts().group(sink.file_group)
        if found.st_gid != gid and not found.st_mode & stat.S_IXOTH:
            text = f"group {sink.file_group!r} may not enter {folder}: chgrp {sink.file_group} {folder}"
            yield (
                "not-permitted",
                "file_group",
                f"{text}, or name a folder below it, which the supervisor makes for the group",
            )
    if sink.compress == "zstd" and find_spec("zstandard") is None:
        yield "not-installed", "compress", "needs Python's zstandard; apt install python3-zstandard"


def _doubts(helper: HelperSpec, profile: Profile | None, *, root: bool) -> Iterator[tuple[str, str, str]]:
    program = helper.command[0]
    if helper.builtin is None and not os.path.exists(program):
        yield "not-installed", "command", f"{helper.name}: {program} does not exist on this machine"
    elif helper.builtin is None and not os.access(program, os.X_OK):
        yield "not-installed", "command", f"{helper.name}: {program} cannot be executed by this user"
    elif helper.builtin is None and profile is not None:
        try:
            os.close(trust.open_program(profile, root=root)[0])
        except RequestRefused as error:
            who = "a launcher that is root" if root else "the launcher"
            yield error.problem, "command", f"{helper.name}: {who} refuses it: {error.text}"
    for place in dict(helper.env).get("PYTHONPATH", "").split(":"):
        if place.startswith("/") and not os.path.exists(place):
            text = (
                f"{helper.name}: PYTHONPATH names {place}, which does not exist; this helperd is in {_PLACE}"
            )
            yield "not-installed", "env", text
    if not helper.no_new_privs:
        text = f"{helper.name}: no_new_privs = false leaves it without filter and sandbox"
        yield "not-permitted", "no_new_privs", f'{text}; privilege = "ambient" is enough for most programs'
    lacking = [
        group for group in helper.groups if helper.when == "present" and Accounts().group(group) is None
    ]
    if lacking:
        yield (
            "bad-value",
            "groups",
            f"{helper.name}: this machine has no group {', '.join(lacking)}: left out",
        )
    if helper.seal == 0:
        yield "not-permitted", "seal", f"{helper.name}: seal = 0 leaves it without a system call filter"


def main(args: argparse.Namespace) -> int:
    """Print the verdict; mistakes and warnings go to stderr, one line each.

    Returns:
        0, or 78 when the file has a mistake.
    """
    path = config_file(args)
    if (
        os.path.dirname(os.path.abspath(path)) in config.DROP_INS
    ):  # alone it says nothing: it belongs to the whole
        path = config.INSTALLED
    mistakes: list[ConfigError] = []
    doubts: list[ConfigError] = []
    settings = config.Config()
    try:
        settings = checked(path)
        doubts = list(warnings(settings))
    except ConfigRefused as error:
        mistakes = error.mistakes
    if args.json:
        answer = {
            "file": path,
            "files": list(settings.files or (path,)),
            "ok": not mistakes,
            "mistakes": [_as_dict(mistake) for mistake in mistakes],
            "warnings": [_as_dict(doubt) for doubt in doubts],
        }
        say_json(answer, 2)
        return Code.CONFIG if mistakes else Code.DONE
    for mistake in mistakes:
        say(mistake, file=sys.stderr)
    for doubt in doubts:
        say(f"{doubt.file}:{doubt.line}: warning: {doubt.text}", file=sys.stderr)
    if mistakes:
        say(f"{path}: {_count(len(mistakes), 'mistake')}", file=sys.stderr)
        return Code.CONFIG
    offers = [helper for helper in settings.helpers if helper.when == "present"]
    found = (
        (len(settings.helpers) - len(offers), "helper"),
        (len(settings.sources), "source"),
        (len(settings.sinks), "sink"),
    )
    good = f"{path}: good: {', '.join(_count(number, noun) for number, noun in found)}"
    if len(settings.files) > 1:
        good += f"; with {_count(len(settings.files) - 1, 'drop-in')}"
    if offers:
        there = ", ".join(helper.name for helper in offers if helper.present) or "none"
        good += f"; of {_count(len(offers), 'offered helper')} are present: {there}"
    say(good)
    return Code.DONE


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _as_dict(mistake: ConfigError) -> dict[str, str | int]:
    return {
        "file": mistake.file,
        "line": mistake.line,
        "key": mistake.key,
        "problem": mistake.problem,
        "text": mistake.text,
    }
