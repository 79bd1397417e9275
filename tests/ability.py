"""What this machine can do, found out by doing it: the words of the `need` fixture.

A probe returns None if the thing works, else the reason in a few words. It runs once a session.
"""

from __future__ import annotations

import functools
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable

from tests.attack import pids
from tests.patience import HANGS_S

KISMETEXTERNAL = os.path.join(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))), ".venv-kismetexternal", "bin", "python"
)
"""The interpreter of the environment that scripts/bootstrap --with-tests makes for the old public client."""
PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))


def _runs(*argv: str) -> str | None:
    """None if the command ends with status 0 within 10 s."""
    program = shutil.which(argv[0], path=PATH)
    if program is None:
        return f"{argv[0]} is not installed"
    try:
        done = subprocess.run(
            (program, *argv[1:]),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=HANGS_S,
            check=False,
            text=True,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{' '.join(argv)}: {error}"
    return None if done.returncode == 0 else f"{' '.join(argv)}: {(done.stderr or done.stdout).strip()[:120]}"


def _installed(*programs: str) -> str | None:
    """None if all are there; for those that answer no harmless question."""
    absent = [program for program in programs if shutil.which(program, path=PATH) is None]
    return f"{', '.join(absent)}: not installed" if absent else None


def _root() -> str | None:
    return None if os.geteuid() == 0 else f"runs as uid {os.geteuid()}"


def _uid65534() -> str | None:
    return _python(
        "import os; os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)"
    )


def _python(text: str) -> str | None:
    """None if these statements run in a process of their own."""
    done = subprocess.run(
        (sys.executable, "-I", "-S", "-c", text), capture_output=True, text=True, check=False
    )
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it died"])[-1][:120]


def _packet_socket() -> str | None:
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    except OSError as error:
        return f"AF_PACKET: {error.strerror}"
    return None


def _bluetooth() -> str | None:
    if not hasattr(socket, "AF_BLUETOOTH"):
        return "this Python was built without AF_BLUETOOTH"
    try:
        socket.socket(socket.AF_BLUETOOTH, socket.SOCK_RAW, 1).close()
    except OSError as error:
        return f"AF_BLUETOOTH: {error.strerror}"
    return None


def _landlock() -> str | None:
    # landlock_create_ruleset(NULL, 0, LANDLOCK_CREATE_RULESET_VERSION) answers the version, from 1 on.
    return _python("import ctypes; assert ctypes.CDLL(None).syscall(444, None, 0, 1) > 0, 'no landlock'")


def _seccomp() -> str | None:
    # PR_GET_SECCOMP answers 0; the filter mode with a null program says EFAULT (14) where it exists.
    return _python(
        "import ctypes; c = ctypes.CDLL(None, use_errno=True); c.prctl(38, 1, 0, 0, 0);"
        "assert c.prctl(22, 2, None, 0, 0) == -1 and ctypes.get_errno() == 14, ctypes.get_errno()"
    )


def _cgroup2() -> str | None:
    """A cgroup v2 folder in which this process may make another one, with a `cgroup.kill`."""
    try:
        with open("/proc/self/cgroup", encoding="ascii") as lines:
            own = next(line.strip().split("::", 1)[1] for line in lines if line.startswith("0::"))
        with open("/proc/self/mountinfo", encoding="utf-8") as lines:
            top = next(line.split()[4] for line in lines if " - cgroup2 " in line)
        child = f"{top}{own.rstrip('/')}/helperd-probe-{os.getpid()}"
        os.mkdir(child)
        killable = os.path.exists(f"{child}/cgroup.kill")
        os.rmdir(child)
    except StopIteration:
        return "no cgroup v2 is mounted"
    except OSError as error:
        return f"cgroup v2: {error}"
    return None if killable else "cgroup v2 has no cgroup.kill (Linux 5.14)"


def _cc() -> str | None:
    """None if a program in C with threads can be built."""
    program = next((name for name in ("cc", "gcc", "clang") if shutil.which(name, path=PATH)), None)
    if program is None:
        return "no C compiler (cc, gcc, clang)"
    return _runs("sh", "-c", f"echo '#include <pthread.h>' | {program} -pthread -x c -fsyntax-only -")


def _pids() -> str | None:
    """A cgroup, of version 1 or 2, that counts processes, and in which this process may make another one."""
    try:
        child = f"{pids.folder() or '/nowhere'}/helperd-probe-{os.getpid()}"
        os.mkdir(child)
        os.rmdir(child)
    except OSError as error:
        return f"no cgroup counts processes: {error.strerror}"
    return None


PROBES: dict[str, Callable[[], str | None]] = {
    "root": _root,
    "uid65534": _uid65534,
    "packet-socket": _packet_socket,
    "netns": lambda: _runs("unshare", "-n", "true"),
    "userns": lambda: _runs("unshare", "-r", "-n", "true"),
    "mountns": lambda: _runs("unshare", "-m", "true"),
    "overlay": lambda: _runs(
        "unshare",
        "-m",
        "sh",
        "-c",
        "mount -t tmpfs x /mnt; cd /mnt; mkdir a b; mount -t overlay -o lowerdir=/usr,upperdir=a,workdir=b x /usr",
    ),
    "veth": lambda: _runs("unshare", "-n", "ip", "link", "add", "hd0", "type", "veth", "peer", "name", "hd1"),
    "user-veth": lambda: _runs(
        "unshare", "-r", "-n", "ip", "link", "add", "hd0", "type", "veth", "peer", "name", "hd1"
    ),
    "tun": lambda: (
        None if os.path.exists("/dev/net/tun") else "there is no /dev/net/tun: modprobe tun makes it"
    ),
    "bluetooth": _bluetooth,
    "landlock": _landlock,
    "seccomp": _seccomp,
    "pids": _pids,
    "cgroup2": _cgroup2,
    "tshark": lambda: _runs("tshark", "--version"),
    "dumpcap": lambda: _runs("dumpcap", "--version"),
    "capinfos": lambda: _runs("capinfos", "--version"),
    "editcap": lambda: _runs("editcap", "--version"),
    "randpktdump": lambda: _runs("randpktdump", "--version"),
    "tcpdump": lambda: _runs("tcpdump", "--version"),
    "tcpreplay": lambda: _runs("tcpreplay", "--version"),
    "ip": lambda: _runs("ip", "-V"),
    "mandoc": lambda: None if shutil.which("mandoc", path=PATH) else "mandoc is not installed",
    "gcc": lambda: _runs("gcc", "--version"),
    "cc": _cc,
    "go": lambda: _runs("go", "version"),
    "rustc": lambda: _runs("rustc", "--version"),
    "node": lambda: _runs("node", "--version"),
    "rtl_433": lambda: _runs("rtl_433", "-V"),
    "jq": lambda: _runs("jq", "--version"),
    "mosquitto": lambda: _installed("mosquitto", "mosquitto_pub", "mosquitto_sub"),
    "nc": lambda: _installed("nc"),
    "promtool": lambda: _runs("promtool", "--version"),
    "git": lambda: _runs("git", "--version"),
    "kismetexternal": lambda: _runs(KISMETEXTERNAL, "-W", "ignore", "-c", "import kismetexternal"),
    "protoc": lambda: _runs("protoc", "--version"),
}


@functools.cache
def lacking(word: str) -> str | None:
    """The reason why the machine cannot do what `word` says, or None if it can.

    Raises:
        LookupError: the word is not in `PROBES`.
    """
    if word not in PROBES:
        raise LookupError(f"need({word!r}): no such ability; known: {', '.join(sorted(PROBES))}")
    return PROBES[word]()
