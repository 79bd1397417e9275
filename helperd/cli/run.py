"""``helperd run``: check the configuration, then become the launcher, which starts the supervisor."""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Final, NoReturn

from helperd.access import no_connection
from helperd.cli.check import checked
from helperd.cli.defaults import add_config, config_file
from helperd.config import supervisor
from helperd.config.profile import BLOCKED
from helperd.errors import UnavailableError
from helperd.runtime import LAUNCHER_SOCKET

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

_FLAGS: Final = ("-I", "-S")
_KEPT_FOR_ROOT: Final = frozenset(
    {"TERM", "COLUMNS", "NO_COLOR", "NOTIFY_SOCKET", "RUNTIME_DIRECTORY", "JOURNAL_STREAM", "INVOCATION_ID"}
    | {"LISTEN_FDS", "LISTEN_PID", "WATCHDOG_USEC", "WATCHDOG_PID"}
)
_LAUNCHER: Final = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "launch.py")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_config(parser)
    parser.add_argument(
        "--runtime-dir", metavar="DIR", help="where the sockets are made (default: see FILES in helperd(8))"
    )
    parser.add_argument(
        "--launcher", metavar="SOCKET", help="use the launcher that listens there instead of starting one"
    )
    parser.add_argument(
        "--unprivileged",
        action="store_true",
        help="use the caller's own rights alone: no installed launcher; as root: one process tree of root's, without "
        "uids of their own for supervisor and helpers",
    )


def main(args: argparse.Namespace) -> int:
    """Check, then exec; returns only by an error.

    Raises:
        ConfigRefused: the configuration has mistakes; all of them are in it.
    """
    if args.launcher:
        become_supervisor(config_file(args), args.runtime_dir, args.launcher)
    alone = args.unprivileged or os.environ.get("HELPERD_UNPRIVILEGED") or os.geteuid() == 0
    more = [] if alone else [f"--installed={LAUNCHER_SOCKET}"]
    become_launcher(config_file(args), args.runtime_dir, *more, unprivileged=args.unprivileged)


def become_supervisor(path: str, runtime_dir: str | None, launcher: str) -> NoReturn:
    """Replace this process by a supervisor that uses a launcher which runs already.

    Raises:
        ConfigRefused: the configuration has mistakes. UnavailableError: nobody listens there, or not for us.
    """
    checked(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.connect(launcher)
    except OSError as error:
        raise UnavailableError("launcher-gone", no_connection(launcher, error.errno or 0)) from None
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    places = dict.fromkeys(
        [os.path.dirname(package), *(place for place in sys.path if place.startswith("/"))]
    )
    options = [] if runtime_dir is None else [f"--runtime-dir={os.path.abspath(runtime_dir)}"]
    environment = dict(os.environ) | {"HELPERD_PATH": os.pathsep.join(places)}
    profile = supervisor.profile(package, os.path.abspath(path), options, environment)
    if sock.fileno() != 3:
        os.dup2(sock.fileno(), 3)
    os.set_inheritable(3, True)  # noqa: FBT003
    sys.stdout.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)  # until what starts now has handlers
    os.execve(profile.program, profile.argv, environment)  # noqa: S606 - there is no shell, and none is wanted


def become_launcher(
    path: str, runtime_dir: str | None, *more: str, unprivileged: bool, own_door: Sequence[str] = ()
) -> NoReturn:
    """Replace this process by the launcher for a configuration that has been checked.

    Args:
        path: the configuration file.
        runtime_dir: where the sockets go; None: the launcher's own choice.
        more: arguments for the supervisor.
        unprivileged: keep the caller's uid for everything, also as root; HELPERD_UNPRIVILEGED asks for it too.
        own_door: the launcher's options when it is not to start a supervisor.
    """
    checked(path)
    sys.stdout.flush()
    argv = [sys.executable, *_FLAGS, _LAUNCHER, f"--config={os.path.abspath(path)}"]
    if runtime_dir is not None:
        argv.append(f"--runtime-dir={os.path.abspath(runtime_dir)}")
    argv += own_door
    root = os.geteuid() == 0 and not unprivileged and not os.environ.get("HELPERD_UNPRIVILEGED")
    if not root:
        argv.append("--unprivileged")
    if more:
        argv += ["--", *more]
    environment = {name: value for name, value in os.environ.items() if not root or name in _KEPT_FOR_ROOT}
    signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)  # until what starts now has handlers
    os.execve(sys.executable, argv, environment)  # noqa: S606 - there is no shell, and none is wanted
