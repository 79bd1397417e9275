"""What a start would refuse although the file itself is good: options nobody knows, sockets that cannot be made.

Nothing is started and nothing stays: an address is bound for a moment, and only where no daemon can have it.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from importlib import import_module
from typing import TYPE_CHECKING

from helperd.cli.defaults import SYSTEM_CONFIG
from helperd.runtime import CONTROL_SOCKET, MAX_PATH, SOURCES_DIR, SYSTEM_DIR, default_runtime_dir
from helperd.wire.definition import COMMON_OPTIONS, SourceDefinition, check_options

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from helperd.config.sinks import SinkSpec
    from helperd.config.sources import SourceSpec
    from helperd.config.specs import Config, HelperSpec

    Doubt = tuple[str, str, str]


def check_definition(source: SourceSpec, settings: Config) -> None:
    """Parse a source's definition, and see whether its helper knows the options.

    Raises:
        UsageError: "bad-definition", with the nearest option.
    """
    definition = SourceDefinition.parse(source.definition)
    helper = _opener(source, definition, settings)
    if helper is None or not set(definition.options) - COMMON_OPTIONS:
        return
    known = _options(helper)
    if known is not None:
        check_options(definition, known, helper.name)


def _opener(source: SourceSpec, definition: SourceDefinition, settings: Config) -> HelperSpec | None:
    """The helper that opens it, where that is clear without asking one."""
    if source.helper:
        return settings.helper(source.helper)
    wanted = definition.get("type").lower()
    serving = [helper for helper in settings.helpers if wanted in map(str.lower, helper.types)]
    return serving[0] if len(serving) == 1 else None


def _options(helper: HelperSpec) -> Collection[str] | None:
    """Names of the options it knows; None: only it can tell, as programs of others and extcap tools."""
    if helper.options is not None:
        return helper.options
    if helper.builtin is None or helper.builtin == "extcap":
        return None
    words = helper.command[helper.command.index("--") + 1 :] if "--" in helper.command else ()
    author = import_module(f"helperd.helpers.{helper.builtin}").HELPER()
    author.words = tuple(words)
    names: Collection[str] = author.known_options()
    return names


def runtime_dir_of(settings: Config) -> str:
    """Where a daemon of this configuration makes its sockets, unless it is told another place."""
    if settings.helperd.runtime_dir:
        return os.path.abspath(settings.helperd.runtime_dir)
    return SYSTEM_DIR if os.path.abspath(settings.file) == SYSTEM_CONFIG else default_runtime_dir()


def implicit_doubt(settings: Config) -> str:
    """Why the sockets that every daemon makes could not be made; empty: they can."""
    place = runtime_dir_of(settings)
    names = [source.name for source in settings.sources] if settings.helperd.implicit_sinks else []
    longest = max((f"{SOURCES_DIR}/{name}.frames.sock" for name in names), key=len, default=CONTROL_SOCKET)
    size = len(os.fsencode(os.path.join(place, longest)))
    if size > MAX_PATH:
        fix = "choose a shorter runtime_dir, or --runtime-dir"
        return f"{place}/{longest} has {size} bytes, a unix socket path takes {MAX_PATH}; {fix}"
    return ""


def socket_doubts(sink: SinkSpec, settings: Config) -> Iterator[Doubt]:
    """Problem, key and text for each reason why a sink's socket could not be made."""
    place = runtime_dir_of(settings)
    if sink.type == "unix":
        yield from _path_doubts(os.path.join(place, sink.path), place, running=_is_running(place))
    elif sink.listen is not None:
        yield from _address_doubts(*sink.listen, running=_is_running(place))


def _path_doubts(path: str, runtime_dir: str, *, running: bool) -> Iterator[Doubt]:
    size = len(os.fsencode(path))
    folder = os.path.dirname(path)
    if size > MAX_PATH:
        text = f"{path} has {size} bytes, a unix socket path takes {MAX_PATH}; shorten it"
        yield "path-too-long", "path", text
    elif not os.path.isdir(folder) and folder not in {runtime_dir, os.path.join(runtime_dir, SOURCES_DIR)}:
        yield "sink-failed", "path", f"{folder} does not exist; make it, for helperd's user to write in"
    elif os.path.lexists(path) and not stat.S_ISSOCK(os.lstat(path).st_mode):
        yield "sink-failed", "path", f"{path} exists and is not a socket; move it away or choose another path"
    elif not running and _somebody_listens(path):  # else most likely the daemon of this very configuration
        yield "socket-in-use", "path", f"a process already listens at {path}; stop it, or choose another path"


def _address_doubts(host: str, port: int, *, running: bool) -> Iterator[Doubt]:
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    free = _first_free_port()
    if 0 < port < free:
        text = f"port {port} needs a privilege that the supervisor does not have; choose one from {free} on"
        yield "not-permitted", "listen", text
        return
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE and running:
                return  # most likely by the daemon of this very configuration
            if error.errno == errno.EADDRINUSE:
                text = f"tcp:{where} is taken; stop who listens there, or choose another port"
                yield "socket-in-use", "listen", text
            else:
                yield "sink-failed", "listen", f"cannot listen at tcp:{where}: {error.strerror}"


def _first_free_port() -> int:
    try:
        with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", encoding="ascii") as file:
            return int(file.read())
    except OSError:
        return 1024


def _is_running(runtime_dir: str) -> bool:
    return _somebody_listens(os.path.join(runtime_dir, CONTROL_SOCKET))


def _somebody_listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except OSError as error:
            return error.errno == errno.EACCES  # it is there, and not for us
    return True
