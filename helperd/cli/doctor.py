"""``helperd doctor``: what this machine can do for helperd, and for every "no" the one line that changes it.

Everything is found out by doing it, never by version. Rows are needed (a "no" makes the exit status 1) or useful.
"""

from __future__ import annotations

import contextlib
import glob
import importlib.util
import os
import select
import shutil
import socket
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from helperd import access, config
from helperd.cli.defaults import SYSTEM_CONFIG, config_file
from helperd.config import request as wire
from helperd.config import trust
from helperd.config.profile import Accounts, compile_profiles, weakness
from helperd.config.specs import DaemonSpec
from helperd.control.client import Client
from helperd.errors import Code, ConfigRefused, HelperdError, RequestRefused
from helperd.launch import cure
from helperd.printing import say, say_json
from helperd.runtime import LAUNCHER_SOCKET as SOCKET
from helperd.runtime import find_runtime_dir
from helperd.sandbox import cgroup, kernel, landlock, numbers, processes

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

MODULES = {
    "trio": "trio",
    "google.protobuf": "protobuf",
    "psutil": "psutil",
    "prctl": "python-prctl",
    "tomli": "tomli",
}


EXTCAP_FOLDERS = (
    "/usr/lib/*/wireshark/extcap",
    "/usr/lib/wireshark/extcap",
    "/usr/lib64/wireshark/extcap",
    "/usr/libexec/wireshark/extcap",
    "~/.config/wireshark/extcap",
    "~/.local/lib/wireshark/extcap",
)


class Row(NamedTuple):
    """One finding; ``fix`` is what to type or do, empty when there is nothing to do."""

    section: str
    what: str
    good: bool
    needed: bool
    text: str
    fix: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        help="the configuration to look at (default: the running daemon's, else the one that run would use)",
    )
    parser.add_argument("--runtime-dir", metavar="DIR", help="of the daemon whose helpers are looked at")
    parser.add_argument("--security", action="store_true", help="only what concerns privilege")
    parser.add_argument("--json", action="store_true", help="print one JSON object for scripts")


def main(args: argparse.Namespace) -> int:
    """Look at everything, print it; 1 when something needed is missing or a helper is not as declared."""
    control = os.path.join(find_runtime_dir(args.runtime_dir), "control.sock")
    status = _status(control)
    if args.config is None and status and os.access(status["config"] or "", os.R_OK):
        args.config = status["config"]
    rows = [*_kernel(), *_accounts(args), *_launcher(), *_config(args), *_helpers(args, control, status)]
    if not args.security:
        rows = [*_packages(), *_programs(), *rows]
    bad = [row for row in rows if row.needed and not row.good]
    if args.json:
        say_json({"ok": not bad, "checks": [row._asdict() for row in rows]})
    else:
        _print(rows)
    return int(Code.NO if bad else Code.DONE)


def _print(rows: list[Row]) -> None:
    section = ""
    for row in rows:
        if row.section != section:
            section = row.section
            say(f"{section}:")
        mark = "yes" if row.good else "NO " if row.needed else "no "
        say(f"  {mark} {row.what}: {row.text}")
        if row.fix and not row.good:
            say(f"      -> {row.fix}")


def _works(call: Callable[[], object]) -> str:
    """Return "" when a call works, else what the kernel said."""
    try:
        call()
    except (OSError, AttributeError) as error:
        return str(error)
    return ""


def _in_child(call: Callable[[], object]) -> str:
    """The same in a child of ours, for what cannot be taken back."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, _works(call).encode()[:400])
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        said = file.read()
    os.waitpid(pid, 0)
    return said


def _kernel() -> Iterator[Row]:
    said = _works(lambda: os.close(os.pidfd_open(os.getpid())))
    yield Row("kernel", "pidfd", not said, needed=True, text=said or "works", fix="Linux 5.3 or newer")
    said = _in_child(lambda: kernel.syscall("close_range", 900, 901, 0))
    yield Row(
        "kernel",
        "close_range",
        not said,
        needed=False,
        text=said or "works",
        fix="Linux 5.9 (slower without)",
    )
    said = _in_child(kernel.no_new_privs)
    yield Row("kernel", "no_new_privs", not said, needed=True, text=said or "works", fix="Linux 3.5 or newer")
    known = numbers.MACHINE in numbers.AUDIT_ARCH
    said = _in_child(_try_filter) if known else f"no table of system calls for {numbers.MACHINE}"
    yield Row("kernel", "system call filter", not said, needed=False, text=said or "tiers 1 and 3 work",
              fix="a kernel with CONFIG_SECCOMP_FILTER, on x86_64 or aarch64")  # fmt: skip
    abi = landlock.abi()
    text = f"version {abi}" if abi else "not in this kernel: tier 2 is off"
    yield Row(
        "kernel", "Landlock", abi > 0, needed=False, text=text, fix="boot with lsm=landlock,... (Linux 5.13)"
    )
    if 0 < abi < 6:
        lack = "TCP, abstract sockets and signals" if abi < 4 else "abstract sockets and signals"
        yield Row(
            "kernel", "Landlock scopes", good=False, needed=False, text=f"{lack} stay open", fix="Linux 6.12"
        )
    folder = cgroup.own_folder()
    yield Row("kernel", "cgroup2", bool(folder), needed=False, text=folder or "not mounted: containment is weak",
              fix="mount cgroup2, and let the unit say Delegate=yes")  # fmt: skip


def _try_filter() -> None:
    from helperd.sandbox import seccomp

    kernel.no_new_privs()
    seccomp.load(seccomp.coarse(seccomp.PLAIN_FAMILIES))


def _packages() -> Iterator[Row]:
    version = ".".join(str(part) for part in sys.version_info[:3])
    yield Row("packages", "python", sys.version_info >= (3, 11), needed=True, text=f"{version} {sys.executable}",
              fix="python 3.11 or newer")  # fmt: skip
    for module, package in MODULES.items():
        try:
            found = importlib.util.find_spec(module)
        except ImportError:
            found = None
        needed = module != "prctl" or os.geteuid() == 0
        text = (
            (found.origin or "found")
            if found
            else "missing"
            if needed
            else "only the launcher of root needs it"
        )
        fix = cure(package.removeprefix("python-"))
        yield Row("packages", package, found is not None, needed=needed, text=text, fix=fix)


def _programs() -> Iterator[Row]:
    for name, package in (("tshark", "tshark"), ("wireshark", "wireshark"), ("tcpdump", "tcpdump")):
        path = shutil.which(name)
        yield Row("consumers", name, path is not None, needed=False, text=path or "not installed",
                  fix=f"apt install {package}")  # fmt: skip
    folders = [folder for pattern in EXTCAP_FOLDERS for folder in glob.glob(os.path.expanduser(pattern))]
    linked = [link for folder in folders if os.access(link := f"{folder}/helperd-extcap", os.X_OK)]
    text = linked[0] if linked else "Wireshark does not list helperd's devices" if folders else "no Wireshark"
    fix = "sudo ./scripts/install" if folders else "apt install wireshark, then sudo ./scripts/install"
    yield Row("consumers", "extcap", bool(linked), needed=False, text=text, fix=fix)


def _accounts(args: argparse.Namespace) -> Iterator[Row]:
    accounts, pool = Accounts(), DaemonSpec().pool.all
    with contextlib.suppress(ConfigRefused):  # _config tells it
        pool = config.load(config_file(args)).helperd.pool.all
    installed = os.path.exists(SYSTEM_CONFIG)
    for what, found in (
        ("user helperd", accounts.user("helperd")),
        ("group helperd", accounts.group("helperd")),
        ("group helperd-read", accounts.group("helperd-read")),
    ):
        text = "exists" if found else "does not exist (an installed launcher and helperd run as root need it)"
        yield Row("accounts", what, bool(found), needed=installed, text=text, fix="sudo ./scripts/install")
    group = accounts.group("helperd")
    if group is not None and os.geteuid():
        member = group in os.getgroups()
        text = "you are a member" if member else "you are not a member: no way to the launcher"
        yield Row("accounts", "membership", member, needed=False, text=text,
                  fix="sudo usermod -aG helperd $USER, then log in again")  # fmt: skip
    strangers = [name for name, (uid, _) in accounts.users.items() if uid in pool]
    text = f"used by {', '.join(strangers)}" if strangers else f"{pool[0]} to {pool[-1]} are free"
    yield Row(
        "accounts",
        "uid pool",
        not strangers,
        needed=True,
        text=text,
        fix="give those users other uids or set uid_pool",
    )


def _launcher() -> Iterator[Row]:
    if not os.path.exists(SOCKET):
        text, _, fix = access.no_launcher().rpartition(": ")
        yield Row("launcher", "socket", good=False, needed=False, text=text, fix=fix)
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(5)
        try:
            sock.connect(SOCKET)
        except OSError as error:
            text, _, fix = access.no_connection(SOCKET, error.errno or 0).partition(": ")
            yield Row("launcher", "answers", good=False, needed=True, text=text, fix=fix)
            return
        data = b""
        with contextlib.suppress(OSError):  # it has closed the connection already
            sock.send(wire.WIRE.pack(wire.MAGIC, wire.PING, 0, 0, 0, 0, 1))
            data = sock.recv(64) if select.select([sock], [], [], 5)[0] else b""
    if len(data) == wire.WIRE.size:
        text = f"{wire.WIRE.unpack(data)[4]} profiles at {SOCKET}"
        yield Row("launcher", "answers", good=True, needed=True, text=text)
    else:
        text, _, fix = access.no_rule(None).partition(": ")
        yield Row("launcher", "answers", good=False, needed=True, text=text, fix=fix)


def _config(args: argparse.Namespace) -> Iterator[Row]:
    try:
        path = config_file(args)
        settings = config.load(path)
        profiles = compile_profiles(settings, Accounts(), config.__path__[0], "")
    except ConfigRefused as refused:
        for mistake in refused.mistakes:
            yield Row(
                "configuration",
                mistake.file,
                good=False,
                needed=True,
                text=str(mistake),
                fix="correct that line",
            )
        return
    root = os.path.abspath(path) == SYSTEM_CONFIG
    with contextlib.suppress(OSError):
        try:
            os.close(trust.open_checked(os.path.abspath(path), root=root, flags=os.O_RDONLY))
            yield Row("configuration", path, good=True, needed=True, text=f"{len(profiles)} helpers")
        except RequestRefused as error:
            what, _, fix = error.text.partition(": ")
            yield Row("configuration", path, good=False, needed=True, text=what, fix=fix)
    for profile in profiles:
        if weak := weakness(profile):
            yield Row(
                "configuration",
                profile.name,
                good=False,
                needed=False,
                text=weak,
                fix=weak.rpartition("; ")[2],
            )


def _status(control: str) -> dict[str, Any] | None:
    """What the running daemon tells of itself; None when there is none."""
    try:
        with Client(control) as client:
            return client.call("GetStatus")
    except HelperdError:
        return None


def _helpers(args: argparse.Namespace, control: str, status: dict[str, Any] | None) -> Iterator[Row]:
    """Declared against observed, for every helper of the running daemon."""
    if status is None:
        yield Row(
            "running helpers",
            "daemon",
            good=False,
            needed=False,
            text=f"none at {control}",
            fix="helperd run",
        )
        return
    try:
        settings = config.load(config_file(args))
    except ConfigRefused:
        return  # _config has told it
    for source in status["sources"]:
        spec = settings.helper(source["helper"] or "")
        found = processes.privilege(source["pid"]) if source["pid"] else None
        if not source["pid"]:
            continue
        if spec is None or found is None:
            text = (
                "not in this configuration" if spec is None else f"/proc shows nothing of pid {source['pid']}"
            )
            fix = "name the daemon's configuration with -c" if spec is None else "sudo helperd doctor"
            yield Row("running helpers", source["name"], good=False, needed=spec is None, text=text, fix=fix)
            continue
        declared = sum(1 << config.CAPABILITIES[name] for name in spec.capabilities)
        off = [
            name
            for name, mask in found._asdict().items()
            if name in {"permitted", "effective", "inheritable", "ambient"} and mask & ~declared
        ]
        off += ["no_new_privs"] if found.no_new_privs != spec.no_new_privs else []
        off += ["filter"] if bool(found.seccomp) != bool(spec.seal and spec.no_new_privs) else []
        weaker = [] if found.bounding == 0 else ["bounding set (without root it cannot be emptied)"]
        own = found.uids[0] in settings.helperd.pool.own
        weaker += [] if own else ["uid of its own (needs the launcher as root)"]
        cleaned = own or found.uids[0] in settings.helperd.pool.shared or not spec.private_tmp
        weaker += [] if cleaned else ["private_tmp (what it leaves stays: needs the launcher as root)"]
        filters = int(processes.status(source["pid"]).get("Seccomp_filters", "0"))
        tier = 0 if not found.seccomp else 3 if filters > 1 else 1
        observed = (
            ", ".join(name for name, bit in config.CAPABILITIES.items() if found.effective >> bit & 1)
            or "none"
        )
        text = f"declared {', '.join(spec.capabilities) or 'none'}; observed {observed}; tier {tier} of {spec.seal}"
        text += f"; off: {', '.join(weaker)}" if weaker else ""
        yield Row("running helpers", source["name"], not off, needed=True, text=text,
                  fix=f"restart it; differs in {', '.join(off)}")  # fmt: skip


__all__ = ["add_arguments", "main"]
