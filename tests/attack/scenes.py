"""What the launcher does as root, one scene each: ``scenes.py NAME...`` as process 1; prints {"scene", "wrong"}.

A scene returns a list of what was not as it must be, in words; empty is good.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helperd.config.request import EMPTY, EXITED
from helperd.sandbox import cgroup, kernel, processes
from helperd.sandbox.become import PRIORITY
from helperd.wire.messages import OpenReport, OpenRequest, Pong
from helperd.wire.session import Role, Session
from tests.attack.asker import Asker, Refused, Running, connect, pair
from tests.attack.attempts import BY_OTHERS, DEATH, FRAME, PREPARE, SEAL, SENDS, SET_ID
from tests.attack.exact import INSIDE
from tests.attack.pids import few_pids
from tests.attack.seat import PRELUDE, Seat, seat
from tests.attack.stage import (
    ALLOWED,
    CAPTURE,
    DAEMON,
    LIBRARY,
    OTHER,
    READERS,
    SOCKET,
    STAGE,
    STRANGER,
    Stage,
    interpreter,
    own_pool,
    raised,
    say,
    status,
)
from tests.census import FORKED_AHEAD, name_of
from tests.census import SWEEPER as SWEEPING
from tests.census import TAKER as TAKING
from tests.patience import HANGS_S

PLAIN = '[[helper]]\nname = "plain"\ncommand = PROBE\n'
RAW = '[[helper]]\nname = "raw"\ncommand = PROBE\ncapabilities = ["net_raw"]\n'
SCENES: dict[str, Callable[[Stage], list[str]]] = {}


def scene(function: Callable[[Stage], list[str]]) -> Callable[[Stage], list[str]]:
    """Put a scene on the list."""
    SCENES[function.__name__] = function
    return function


def in_the_library(code: str) -> str:
    """Run code beside the stage's library, which it knows as LIB and SITE; return what it prints."""
    site = f"{LIBRARY}/.venv/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    code = code.replace("LIB", repr(LIBRARY)).replace("SITE", repr(site))
    return subprocess.run(
        [interpreter(), "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    ).stdout


class Wrong(list[str]):
    """What was not as it must be."""

    def same(self, what: str, found: Any, wanted: Any) -> None:
        """Note a difference."""
        if found != wanted:
            self.append(f"{what}: {found!r} instead of {wanted!r}")


def rewrite(path: str, text: str) -> None:
    """Change a module; what was compiled of it goes, since its age counts in whole seconds."""
    Path(path).write_text(text)
    shutil.rmtree(f"{os.path.dirname(path)}/__pycache__", ignore_errors=True)


def gone(pid: int, seconds: float = 1.0) -> bool:
    """Whether a process ends within some time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            os.waitpid(-1, os.WNOHANG)
        found = processes.row(pid)
        if found is None or found.state in "ZX":
            return True
        time.sleep(0.005)
    return False


def refused(asker: Asker, profile: int) -> int:
    """Return the errno of a launch, or of its exec; 0 when it runs."""
    try:
        with Running(asker, profile) as helper:
            try:
                helper.run("result = 1")
            except (EOFError, BrokenPipeError):
                how, code = asker.exited(helper.handle)
                return code if how == "exec-failed" else -1
    except Refused as error:
        return error.errno
    return 0


@scene
def launcher_itself(stage: Stage) -> list[str]:
    """The launcher keeps four capabilities and what its profiles declare."""
    wrong = Wrong()
    with stage.launcher(RAW) as asker:
        found = processes.privilege(asker.launcher.pid)  # type: ignore[attr-defined]
        assert found
        wrong.same("effective", found.effective, 0x21E0)
        wrong.same("permitted", found.permitted, 0x21E0)
        wrong.same("bounding", found.bounding, 0x21E0)
        wrong.same("inheritable", found.inheritable, 0)
        wrong.same("no_new_privs", found.no_new_privs, 1)
        wrong.same("threads", status(asker.launcher.pid)["Threads"], "1")  # type: ignore[attr-defined]
        wrong.same("priority", os.getpriority(os.PRIO_PROCESS, asker.launcher.pid), PRIORITY)  # type: ignore[attr-defined]
        with Running(asker, 1) as helper:
            wrong.same("priority of what it starts", helper.run("result = os.getpriority(0, 0)"), 0)
    return wrong


@scene
def loaded_modules(stage: Stage) -> list[str]:
    """The running process holds nothing but stdlib, prctl, tomli and our own three rooms."""
    code = (
        "import sys, runpy; sys.argv = ['privsep.py']; sys.path.append(LIB); sys.path.append(SITE)\n"
        "import helperd.privsep\nprint('\\n'.join(sorted(sys.modules)))"
    )
    wrong = Wrong()
    for name in in_the_library(code).split():
        top = name.split(".")[0]
        ours = top == "helperd" and (
            name == "helperd"
            or name.split(".")[1] in {"launch", "privsep", "config", "sandbox", "errors", "visible"}
        )
        if not (
            ours
            or top in sys.stdlib_module_names
            or top in {"__main__", "prctl", "_prctl", "tomli"}
            or "mypyc" in top
        ):
            wrong.append(f"the launcher has loaded {name}")
    return wrong


@scene
def programs(stage: Stage) -> list[str]:
    """Set-user-ID programs, file capabilities and scripts: each as section 7 of the design says."""
    wrong = Wrong()
    cat, folder = os.path.realpath("/bin/cat"), f"{STAGE}/bin"
    for name, gid, mode in (
        ("plain", 0, 0o755),
        ("kismet", CAPTURE, 0o4550),
        ("suid", 0, 0o4755),
        ("caps", 0, 0o755),
        ("more", 0, 0o755),
    ):
        shutil.copy(cat, f"{folder}/{name}")
        os.chown(f"{folder}/{name}", 0, gid)
        os.chmod(f"{folder}/{name}", mode)
    for name, mask in (("caps", 0x3000), ("more", 0x3400)):
        os.setxattr(
            f"{folder}/{name}", "security.capability", struct.pack("<IIIII", 0x02000001, mask, 0, 0, 0)
        )
    for name, line in (("script", "#!/bin/sh"), ("relative", "#!sh")):
        with open(f"{folder}/{name}", "w") as file:
            file.write(f"{line}\ncat /proc/$$/status >&4\n")
        os.chmod(f"{folder}/{name}", 0o755)
    rows = [
        ("plain", '"net_admin", "net_raw"', "", 0x3000, 0, "pool"),
        ("kismet", '"net_admin", "net_raw"', 'groups = ["capture"]', 0x3000, 0, "pool"),
        ("caps", '"net_admin", "net_raw"', "", errno.EUCLEAN, 0, ""),
        ("caps", '"net_admin", "net_raw"', 'privilege = "file"', 0x3000, 0x3000, "pool"),
        ("more", '"net_admin", "net_raw"', 'privilege = "file"', errno.EUCLEAN, 0, ""),
        ("plain", '"net_raw"', 'privilege = "file"', errno.EUCLEAN, 0, ""),
        ("suid", '"net_raw"', 'privilege = "suid"\nno_new_privs = false', 0x2000, 0x2000, "root"),
        ("plain", '"net_raw"', 'privilege = "suid"\nno_new_privs = false', errno.EUCLEAN, 0, ""),
        ("script", '"net_raw"', "", 0x2000, 0, "pool"),
        ("relative", '"net_raw"', "", errno.ENOEXEC, 0, ""),
    ]
    text = ""
    for number, (name, capabilities, more, *_) in enumerate(rows):
        command = (
            [f"{folder}/{name}"]
            if name in {"script", "relative"}
            else [f"{folder}/{name}", "/proc/self/status", "-"]
        )
        words = ", ".join(f'"{word}"' for word in command)
        text += (
            f'[[helper]]\nname = "n{number}"\ncommand = [{words}]\ncapabilities = [{capabilities}]\n{more}\n'
        )
    text = text.replace("/bin/cat", "/bin/cat")
    with stage.launcher(text) as asker:
        for number, (name, _, more, wanted, bounding, _who) in enumerate(rows, 1):
            label = f"{name} {more!r}"
            try:
                helper = Running(asker, number)
            except Refused as error:
                wrong.same(label, error.errno, wanted)
                continue
            if wanted < 0x1000:
                wrong.append(f"{label} was not refused")
            with helper:
                time.sleep(0.1)  # cat refuses --in-fd and ends; a script ends too: what counts is what it was
                said = os.read(helper.out, 65536).decode() if name == "script" else ""
                if name == "script":
                    lines = {
                        key: value.strip()
                        for key, _, value in (row.partition(":") for row in said.splitlines())
                    }
                    wrong.same(
                        label, (int(lines["CapEff"], 16), int(lines["CapBnd"], 16)), (wanted, bounding)
                    )
    # what lives: the same programs without an argument they refuse, looked at from outside
    for number, (name, capabilities, more, wanted, bounding, who) in enumerate(rows):
        if wanted < 0x1000 or name == "script":
            continue
        shutil.copy2(f"{folder}/{name}", f"{folder}/live{number}")
        os.chown(f"{folder}/live{number}", 0, os.stat(f"{folder}/{name}").st_gid)
        shutil.copy(os.path.realpath(interpreter()), f"{folder}/live{number}")
        os.chown(f"{folder}/live{number}", 0, os.stat(f"{folder}/{name}").st_gid)
        os.chmod(f"{folder}/live{number}", os.stat(f"{folder}/{name}").st_mode & 0o7777)
        if name == "caps":
            os.setxattr(
                f"{folder}/live{number}",
                "security.capability",
                struct.pack("<IIIII", 0x02000001, 0x3000, 0, 0, 0),
            )
        command = f'["{folder}/live{number}", "-I", "-S", "{STAGE}/bin/probe.py"]'
        text = f'[[helper]]\nname = "live"\ncommand = {command}\ncapabilities = [{capabilities}]\n{more}\n'
        with stage.launcher(text) as asker, Running(asker, 1) as helper:
            label = f"live {name} {more!r}"
            try:
                helper.run("result = 1")
            except EOFError as error:
                wrong.append(f"{label} died: {error} {stage.said()[-400:]}")
                continue
            found = processes.privilege(helper.pid)
            assert found
            wrong.same(f"{label} effective", found.effective, wanted)
            wrong.same(f"{label} bounding", found.bounding, bounding)
            wrong.same(f"{label} uid", found.uids[1], 0 if who == "root" else found.uids[0])
            wrong.same(f"{label} real uid from the pool", found.uids[0] in range(60800, 61024), True)
    if "warning: n3 " not in stage.said() or "warning: n6 " not in stage.said():
        wrong.append("no warning about the profiles that are weaker")
    return wrong


FAULTS: dict[str, tuple[Callable[[], object], int | str]] = {
    "program missing": (lambda: os.unlink(f"{STAGE}/t/p"), errno.ENOENT),
    "program of another user": (lambda: os.chown(f"{STAGE}/t/p", OTHER, 0), errno.EKEYREJECTED),
    "program writable by all": (lambda: os.chmod(f"{STAGE}/t/p", 0o757), errno.EKEYREJECTED),
    "program writable by its group": (lambda: os.chmod(f"{STAGE}/t/p", 0o775), errno.EKEYREJECTED),
    "program not executable": (lambda: os.chmod(f"{STAGE}/t/p", 0o644), errno.ENOEXEC),
    "program a symbolic link": (lambda: relink(f"{STAGE}/t/p"), errno.ELOOP),
    "program a directory": (lambda: (os.unlink(f"{STAGE}/t/p"), os.mkdir(f"{STAGE}/t/p")), errno.EISDIR),
    "program a fifo": (lambda: (os.unlink(f"{STAGE}/t/p"), os.mkfifo(f"{STAGE}/t/p")), errno.EISDIR),
    "directory of another user": (lambda: os.chown(f"{STAGE}/t", OTHER, 0), errno.EKEYREJECTED),
    "directory writable by all": (lambda: os.chmod(f"{STAGE}/t", 0o757), errno.EKEYREJECTED),
    "directory sticky and writable": (lambda: os.chmod(f"{STAGE}/t", 0o1777), errno.EKEYREJECTED),
    "directory writable by its group": (lambda: os.chmod(f"{STAGE}/t", 0o775), errno.EKEYREJECTED),
    "directory a symbolic link": (lambda: relink(f"{STAGE}/t"), errno.ELOOP),
    "no code in it": (lambda: Path(f"{STAGE}/t/p").write_text("hello"), errno.ENOEXEC),
}


def compiled() -> None:
    """Let everybody write where Python looks for what is compiled of a library that the launcher loads."""
    (folder,) = Path(LIBRARY).glob(".venv/lib/python*/site-packages")
    os.makedirs(folder / "__pycache__", exist_ok=True)
    os.chmod(folder / "__pycache__", 0o777)


START_FAULTS: dict[str, tuple[Callable[[], object], int]] = {
    "configuration missing": (lambda: os.unlink(f"{STAGE}/t/c.toml"), 77),
    "configuration of another user": (lambda: os.chown(f"{STAGE}/t/c.toml", OTHER, 0), 77),
    "configuration writable": (lambda: os.chmod(f"{STAGE}/t/c.toml", 0o646), 77),
    "configuration writable by its group": (lambda: os.chmod(f"{STAGE}/t/c.toml", 0o664), 77),
    "configuration a symbolic link": (lambda: relink(f"{STAGE}/t/c.toml"), 77),
    "configuration's directory writable": (lambda: os.chmod(f"{STAGE}/t", 0o777), 77),
    "configuration's directory of another user": (lambda: os.chown(f"{STAGE}/t", OTHER, 0), 77),
    "configuration with a mistake": (
        lambda: Path(f"{STAGE}/t/c.toml").write_text("[[helper]]\ncapabilities = [1]\n"),
        78,
    ),
    "configuration a fifo": (lambda: (os.unlink(f"{STAGE}/t/c.toml"), os.mkfifo(f"{STAGE}/t/c.toml")), 77),
    "module writable": (lambda: os.chmod(f"{LIBRARY}/helperd/errors.py", 0o666), 77),
    "module of another user": (lambda: os.chown(f"{LIBRARY}/helperd/sandbox/kernel.py", OTHER, 0), 77),
    "module that a child loads writable": (
        lambda: os.chmod(f"{LIBRARY}/helperd/sandbox/cleaner.py", 0o666),
        77,
    ),
    "module of a helper writable": (lambda: os.chmod(f"{LIBRARY}/helperd/helpers/sdk.py", 0o666), 77),
    "what is compiled writable": (compiled, 77),
    "package directory writable": (lambda: os.chmod(f"{LIBRARY}/helperd", 0o777), 77),
    "library directory writable": (lambda: os.chmod(LIBRARY, 0o777), 77),
}


def relink(path: str) -> None:
    """Put a symbolic link in a file's place."""
    os.rename(path, f"{path}-real")
    os.symlink(f"{path}-real", path)


def temporary() -> None:
    """Make the folder that faults are planted in."""
    for name in ("t", "t-real"):
        path = f"{STAGE}/{name}"
        if os.path.islink(path):
            os.unlink(path)
        shutil.rmtree(path, ignore_errors=True)
    os.mkdir(f"{STAGE}/t")
    shutil.copy(os.path.realpath("/bin/true"), f"{STAGE}/t/p")
    os.chmod(f"{STAGE}/t/p", 0o755)
    with open(f"{STAGE}/t/c.toml", "w") as file:
        file.write(f'[[helper]]\nname = "p"\ncommand = ["{STAGE}/t/p"]\n')


@scene
def planted_faults(stage: Stage) -> list[str]:
    """A weakness in any file that must be trusted is refused, at each launch or at the start."""
    wrong = Wrong()
    temporary()
    shell = f'[[helper]]\nname = "p"\ncommand = ["{os.path.realpath("/bin/sh")}", "{STAGE}/t/p"]\n'
    of_scripts = {name: fault for name, fault in FAULTS.items() if fault[1] != errno.ENOEXEC}
    for config, faults in (
        (f'[[helper]]\nname = "p"\ncommand = ["{STAGE}/t/p"]\n', FAULTS),
        (shell, of_scripts),
    ):
        with stage.launcher(config) as asker:
            for name, (plant, number) in {"no fault": (lambda: None, 0), **faults}.items():
                temporary()
                plant()
                try:
                    with Running(asker, 1) as helper:
                        how, code = asker.exited(helper.handle)
                        found = 0 if how == "exited" else code
                except Refused as error:
                    found = error.errno
                wrong.same(f"{name}, {config}", found, number)
    for name, (plant, number) in START_FAULTS.items():
        temporary()
        shutil.rmtree(LIBRARY)
        Stage.copy()
        plant()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                process = stage.start(
                    f"{STAGE}/t/c.toml", f"--client-fd={theirs.fileno()}", fds=(theirs.fileno(),)
                )
            with contextlib.suppress(EOFError, ConnectionError):  # it has ended
                Asker(ours).ping()
                wrong.append(f"{name}: started")
        wrong.same(name, process.wait(HANGS_S), number)
    shutil.rmtree(LIBRARY)
    Stage.copy()
    os.chmod(LIBRARY, 0o755)
    return wrong


@scene
def surroundings(stage: Stage) -> list[str]:
    """As root the launcher refuses a steered environment, an interpreter that is not isolated, and a second launcher."""
    wrong = Wrong()
    config = stage.config(PLAIN)
    for env in (
        {"PYTHONPATH": "/tmp"},
        {"LD_PRELOAD": "x.so"},
        {"PYTHONHOME": "/x"},
        {"LD_LIBRARY_PATH": "/tmp"},
        {"PYTHONINSPECT": "1"},
    ):
        argv = stage.argv(config, f"--listen={SOCKET}")
        done = subprocess.run(argv, env=env, capture_output=True, check=False, timeout=HANGS_S)
        wrong.same(f"with {env}", done.returncode in {100, 1}, True)
    for flags in ([], ["-I"], ["-S"], ["-E", "-s"]):
        argv = [interpreter(), *flags, *stage.argv(config, f"--listen={SOCKET}")[3:]]
        done = subprocess.run(argv, env={}, capture_output=True, check=False, timeout=HANGS_S)
        wrong.same(f"with {flags}", done.returncode, 100)
    with stage.listening(PLAIN):
        argv = stage.argv(config, f"--listen={SOCKET}2")
        done = subprocess.run(argv, env={}, capture_output=True, text=True, check=False, timeout=HANGS_S)
        wrong.same("a second launcher", done.returncode, 69)
    return wrong


@scene
def places(stage: Stage) -> list[str]:
    """Where a socket is made: never over a file or somebody's socket, never where others could exchange it."""
    wrong = Wrong()
    config = stage.config(PLAIN)
    os.makedirs(f"{STAGE}/theirs")
    os.chown(f"{STAGE}/theirs", ALLOWED, ALLOWED)
    os.symlink(STAGE, f"{STAGE}/link")
    Path(f"{STAGE}/precious").write_text("precious")
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(f"{STAGE}/taken")
        taken.listen()
        for name, status in (
            ("precious", 69),
            ("taken", 69),
            ("open/sock", 77),
            ("theirs/sock", 77),
            ("link/sock", 77),
            ("none/sock", 111),
        ):
            argv = stage.argv(config, f"--listen={STAGE}/{name}")
            done = subprocess.run(argv, env={}, capture_output=True, text=True, check=False, timeout=HANGS_S)
            wrong.same(f"status at {name}", done.returncode, status)
            wrong.same(f"lines at {name}", done.stderr.count("\n"), 1)
        with socket.socket(socket.AF_UNIX) as still:
            wrong.same("who listened before", still.connect_ex(f"{STAGE}/taken"), 0)
    wrong.same("the file", Path(f"{STAGE}/precious").read_text(), "precious")
    for name in ("open/sock", "theirs/sock", "sock", "none"):
        wrong.same(f"{name} was made", os.path.lexists(f"{STAGE}/{name}"), False)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stale:
        stale.bind(SOCKET)
    with stage.listening(PLAIN):  # nobody listens at that one any more: it is replaced
        wrong.same("mode", oct(os.stat(SOCKET).st_mode & 0o777), "0o660")
    return wrong


@scene
def log_flood(stage: Stage) -> list[str]:
    """A flood of refusals does not silence the log for longer than it lasts; how many lines are missing is said."""
    wrong = Wrong()
    ends = os.pipe()
    with stage.launcher(PLAIN) as asker:
        for _ in range(3000):
            asker.launch(99, ends)
        said = stage.said()
        wrong.same("lines of a flood", 150 < said.count("\n") < 1500, True)
        deadline = time.monotonic() + HANGS_S
        while "lines were left out" not in stage.said()[len(said) :] and time.monotonic() < deadline:
            asker.launch(99, ends)
            time.sleep(0.1)
        wrong.same("the count", "lines were left out" in stage.said()[len(said) :], True)
    for fd in ends:
        os.close(fd)
    return wrong


@scene
def dirty_start(stage: Stage) -> list[str]:
    """Whatever the launcher was started with, its helpers start clean."""
    wrong = Wrong()

    many = tuple(fcntl.fcntl(0, fcntl.F_DUPFD, number) for number in (17, 99, 250))

    def dirty() -> None:
        os.umask(0)
        os.chdir("/tmp")
        for number in (signal.SIGUSR1, signal.SIGALRM, signal.SIGHUP, 34, 63):
            signal.signal(number, signal.SIG_IGN)
        for number in (32, 33):  # libc's own, which the launcher itself has no handler for
            kernel.syscall("rt_sigaction", number, struct.pack("=QQQQ", signal.SIG_IGN, 0, 0, 0), None, 8)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGTERM, 40})

    with (
        stage.launcher(RAW, more_fds=many, preexec_fn=dirty, stdin=subprocess.DEVNULL) as asker,
        Running(asker, 1) as helper,
    ):
        inside = helper.run(INSIDE)
        outside = status(helper.pid)
        wrong.same("descriptors", sorted(inside["fds"]), ["0", "1", "2", "3", "4"])
        wrong.same("umask", inside["umask"], 0o077)
        wrong.same("directory", inside["cwd"], "/")
        wrong.same("blocked", int(outside["SigBlk"], 16), 0)
        wrong.same("ignored", int(outside["SigIgn"], 16) & ~(1 << 12 | 1 << 24), 0)
        wrong.same("death signal", inside["death"], 9)
        wrong.same("session", inside["session"], True)
    with (
        stage.launcher(PLAIN, env={"SECRET": "x", "HOME": "/root", "TERM": "y"}) as asker,
        Running(asker, 1) as helper,
    ):
        found = set(helper.run(INSIDE)["env"]) - {"LC_CTYPE"}
        wrong.same("environment", found, {"PATH", "LANG", "HELPERD_PATH", "HELPERD_SEAL", "HELPERD_DIR"})
    for closed in ((0,), (1,), (0, 1), (0, 1, 2)):

        def close(closed: tuple[int, ...] = closed) -> None:
            for fd in closed:
                os.close(fd)

        with stage.launcher(PLAIN, preexec_fn=close) as asker, Running(asker, 1) as helper:
            fds = helper.run(INSIDE)["fds"]
            wrong.same(f"descriptors with {closed} closed", fds.get("3"), "pipe")
            wrong.same(f"standard input with {closed} closed", fds.get("0"), "/dev/null")
    return wrong


@scene
def leash(stage: Stage) -> list[str]:
    """Client gone: helpers gone. Launcher killed: helpers gone. Supervisor killed: helpers and launcher gone."""
    wrong = Wrong()
    fork = "import subprocess\nsubprocess.Popen(['/usr/bin/setsid', '/usr/bin/sleep', '600']); time = __import__('time'); result = 1"
    with stage.launcher(PLAIN) as asker:
        helpers = [Running(asker, 1) for _ in range(3)]
        for helper in helpers:
            helper.run(fork)
        pids = [helper.pid for helper in helpers]
        asker.sock.close()
        for pid in pids:
            wrong.same("helper after its client's end", gone(pid), True)
        wrong.same("launcher after its client's end", asker.launcher.wait(HANGS_S), 0)  # type: ignore[attr-defined]
        for helper in helpers:
            helper.close()
    wrong.same("setsid children", [row for row in sleeping() if row], [])
    with stage.listening(PLAIN):
        with connect(SOCKET) as asker:
            asker.ping()
            helper = Running(asker, 1)
            pid = helper.run(fork) and helper.pid
        wrong.same("helper after one client's end", gone(pid), True)
        helper.close()
        with connect(SOCKET) as asker:
            wrong.same("the launcher goes on", asker.ping(), 0)
    with contextlib.suppress(AssertionError), stage.launcher(PLAIN) as asker:
        helpers = [Running(asker, 1) for _ in range(3)]
        pids = [helper.run("result = 1") and helper.pid for helper in helpers]
        asker.launcher.kill()  # type: ignore[attr-defined]
        for pid in pids:
            wrong.same("helper after the launcher's death", gone(pid), True)
        for helper in helpers:
            helper.close()
    return wrong


def sleeping() -> list[str]:
    """Return the command lines of sleeping strays."""
    found = []
    for pid in processes.table():
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().replace(b"\0", b" ").decode()
            if "sleep 600" in words:
                found.append(words)
    return found


@scene
def stale_pool(stage: Stage) -> list[str]:
    """A new launcher ends what runs under a pool uid before it starts anything."""
    wrong = Wrong()
    old = subprocess.Popen(["/usr/bin/sleep", "600"], user=60805, group=60805, extra_groups=[])
    with stage.launcher(PLAIN):
        wrong.same("a process left in the pool", old.wait(HANGS_S), -9)
    return wrong


FIGHTER = (
    "import ctypes, os, threading\n"
    "kill = ctypes.CDLL(None).kill\n"
    "def fight(number):\n"
    "    while True: kill(-1, number)\n"
    "for number in (9, 19, 9): threading.Thread(target=fight, args=(number,)).start()\n"
    "os.write(1, b'!')"
)
"""Kills and stops whatever it may, without end; in threads, which no signal of its own reaches."""


@scene
def fought_back(stage: Stage) -> list[str]:
    """What fights its sweeper is gone at once all the same, and none of its kind gets the better of a later launcher."""
    wrong = Wrong()
    for uid in (60801, 60802, 60803):
        prey = subprocess.Popen(
            [interpreter(), "-I", "-S", "-c", FIGHTER],
            stdout=subprocess.PIPE, user=uid, group=uid, extra_groups=[],
        )  # fmt: skip
        assert prey.stdout
        prey.stdout.read(1)
        with stage.launcher(PLAIN):
            wrong.same("what fought", prey.wait(HANGS_S), -9)
        prey.stdout.close()
    return wrong


SWEEPER = """
import os, signal, sys; sys.path[:0] = [LIB, SITE]
from helperd.config.specs import DaemonSpec
from helperd.sandbox import kernel, sweeper
from helperd.sandbox.loop import Loop
kill = os.kill
def noted(pid, number):
    if pid == -1: os.write(50, f"{os.getresuid()}".encode() + b"\\n")
    kill(pid, number)
os.kill, kernel.close_from = noted, lambda first: None
os.dup2(1, 50)
os.setgroups([4711])
made = sweeper.Sweeper(Loop(), print, DaemonSpec().pool)
made.start()
prey = os.fork()
if prey == 0:
    signal.alarm(20)  # one that is not swept is not waited for without end
    os.setresuid(60807, 60807, 60807)
    while True: os.read(os.pipe()[0], 1)
while os.stat(f"/proc/{prey}").st_uid != 60807: pass
print(made.sweep_now(60807), flush=True)
print(os.waitpid(prey, 0)[1], made.sweep_now(60807), made.sweep_now(0), made.sweep_now(1000), flush=True)
print(open(f"/proc/{made.pid}/status").read())
made.end()
"""


@scene
def sweepers(stage: Stage) -> list[str]:
    """A sweeper is nobody whom its prey may signal, has one capability, and knows when it is alone."""
    wrong = Wrong()
    noted, *now = in_the_library(SWEEPER).split("Name:")
    uids, left, _, gone = noted.splitlines()
    real, effective, saved = map(int, uids.strip("()").split(", "))
    wrong.same("it kills by its effective uid", effective, 60807)
    wrong.same("its prey could signal it", {real, saved} & {0, 60807}, set())
    wrong.same("what is killed and not reaped is left", left, "False")
    wrong.same(
        "then it is alone; who is no helper's is left alone", gone.split(), ["9", "True", "False", "False"]
    )
    found = {name: value.split() for name, _, value in (line.partition(":") for line in now[0].splitlines())}
    wrong.same("its uids while it waits", set(found["Uid"]), {str(real)})
    wrong.same("groups", (found["Groups"], set(found["Gid"])), ([], {str(real)}))
    wrong.same("capabilities", {found[name][0] for name in ("CapPrm", "CapEff")}, {f"{1 << 7:016x}"})
    return wrong


HOG = """
import time
def take():
    while True:
        try:
            if os.fork() == 0: pass
        except BlockingIOError: time.sleep(0.002)
if os.fork() == 0: take()
result = 1
"""
"""Forks without end, and so does whatever it has forked: what is freed it takes."""


def can_fork(join: Callable[[], None]) -> bool:
    """Whether there is room for one more process where ``join`` puts somebody."""
    pid = os.fork()
    if pid == 0:
        join()
        try:
            os._exit(1 if os.fork() else 0)
        except BlockingIOError:
            os._exit(2)
    return os.waitpid(pid, 0)[1] >> 8 != 2


@scene
def no_process_left(stage: Stage) -> list[str]:
    """A helper has every process there can be: others are ended all the same, and so is that one."""
    wrong = Wrong()
    hog = PLAIN.replace("plain", "hog") + "limits = { nproc = 1000 }\n"
    with few_pids(60) as join, stage.launcher(own_pool() + PLAIN + hog, preexec_fn=join) as asker:
        there, deadline = set[str](), time.monotonic() + HANGS_S
        while there != {SWEEPING, TAKING} and time.monotonic() < deadline:
            rows = processes.table().items()
            there = {name_of(pid) for pid, row in rows if row.parent == asker.launcher.pid}  # type: ignore[attr-defined]
        wrong.same("a sweeper and a taker are there before they are needed", there, {SWEEPING, TAKING})
        plain, other = Running(asker, 1), Running(asker, 2)
        plain.run("result = 1")
        other.run(HOG)
        deadline = time.monotonic() + HANGS_S
        while can_fork(join) and time.monotonic() < deadline:
            time.sleep(0.01)
        wrong.same("the control: something can be forked", can_fork(join), False)
        rows = processes.table().items()
        mine = [pid for pid, row in rows if row.parent == asker.launcher.pid and name_of(pid) == SWEEPING]  # type: ignore[attr-defined]
        os.kill(mine[0], signal.SIGSTOP)  # or it waits for a processor
        for name, helper in (("beside it", plain), ("the one that has them all", other)):
            asker.signal(helper.handle, signal.SIGKILL)
            try:
                asker.empty(helper.handle)
            except (TimeoutError, AssertionError) as error:
                wrong.append(f"{name}: {error}")
            helper.close()
        with Running(asker, 1) as again:
            wrong.same("and then", again.run("result = 1"), 1)
    return wrong


LINGERS = """
server = socket.create_server(("127.0.0.1", 0))
bad = socket.create_connection(server.getsockname())
accepted = server.accept()
bad.setblocking(False)
try:
    while True: bad.send(bytes(1 << 16))
except BlockingIOError: pass
bad.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 600))
result = 1
"""
SEND_IT = """
rights = array.array("i", [bad.fileno()] * 2)
s.sendmsg([W.pack(b"HDL1", 1, 2, 1, 0, f, 7)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
bad.close()
result = 1
"""
"""A socket whose end takes ten minutes, and a launch that comes with it, which is the last that has it."""


@scene
def none_to_take(stage: Stage) -> list[str]:
    """No process is left, and what is refused comes with descriptors: nobody's connection ends for it, and root's waits
    for nothing; who leaves meanwhile is let go.
    """
    wrong = Wrong()
    hog = PLAIN.replace("plain", "hog") + "limits = { nproc = 1000 }\n"
    rules = f'[[allow]]\nuid = {ALLOWED}\nhelpers = ["plain"]\nmax_running = 9\n'
    told = "try: launch(s, f); result = 0\nexcept OSError as error: result = error.errno"
    with (
        few_pids(70) as join,
        stage.listening(own_pool() + PLAIN + hog + rules, preexec_fn=join) as launcher,
        connect(SOCKET) as asker,
        contextlib.closing(seat(ALLOWED, (DAEMON,), SOCKET=SOCKET)) as member,
        contextlib.closing(seat(ALLOWED, (DAEMON,), SOCKET=SOCKET)) as leaver,
        contextlib.closing(seat(0, (), SOCKET=SOCKET)) as root,
    ):
        asker.ping()
        member.run("s, f = ready(); result = 1")
        root.run("s, f = ready(); result = 1")
        root.run(LINGERS)
        helper = leaver.run(
            "s, f = ready(); fd = launch(s, f)[2]\n"
            "result = int(open(f'/proc/self/fdinfo/{fd}').read().split('Pid:')[1].split()[0])"
        )
        other, kept = Running(asker, 2), list[Running]()
        other.run(HOG)
        deadline = time.monotonic() + HANGS_S
        while can_fork(join) and time.monotonic() < deadline:
            time.sleep(0.01)
        wrong.same("the control: something can be forked", can_fork(join), False)
        with contextlib.suppress(Refused):
            while True:  # those that were forked ahead
                kept.append(Running(asker, 1))
        for _ in range(3):
            wrong.same("root is refused", refused(asker, 1), errno.EDQUOT)
            wrong.same("and served", asker.ping(), 0)
        wrong.same("a member is refused", member.run(told), errno.EDQUOT)
        wrong.same("and not thrown out", member.run("result = select.select([s], [], [], 0.1)[0]"), [])
        wrong.same("another is refused", leaver.run(told), errno.EDQUOT)
        wrong.same("its helper", gone(helper), False)
        leaver.run("s.close(); result = 1")
        wrong.same("its helper, when it has left", gone(helper, HANGS_S), True)
        launcher.send_signal(signal.SIGSTOP)
        root.run(SEND_IT)
        launcher.send_signal(signal.SIGCONT)
        code = "result = W.unpack(s.recv(64))[3]"
        wrong.same("what lingers is refused", root.run(code), errno.EDQUOT)
        wrong.same("and root is served", root.run("result = ask(s, 3)[1] == f"), True)
        asker.signal(other.handle, signal.SIGKILL)
        asker.empty(other.handle)
        wrong.same("then the member is served", member.run("result = ask(s, 3)[1] == f"), True)
        wrong.same("and has helpers", member.run(told), 0)
        for each in (other, *kept):
            each.close()
    return wrong


@scene
def how_many(stage: Stage) -> list[str]:
    """Processes, threads, memory and files of a helper end where its block says, or the defaults."""
    wrong = Wrong()
    count = """
def tries(what):
    done = 0
    try:
        while done < 600: what(); done += 1
    except (OSError, RuntimeError, MemoryError): pass
    return done
kept = []
def fork():
    pid = os.fork()
    if pid == 0:
        while True: os.read(os.pipe()[0], 1)
    kept.append(pid)
def memory(): kept.append(bytearray(8 << 20))
def size():
    import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if not kept: kept.append(os.open(f"{folder}/{os.getpid()}", os.O_RDWR | os.O_CREAT))
    os.truncate(kept[0], 1 << 20 << len(kept)); kept.append(0)
result = tries(WHAT)
"""
    text = (
        PLAIN + PLAIN.replace("plain", "few") + 'limits = { nproc = 20, data = "128MiB", fsize = "8MiB" }\n'
    )
    text += PLAIN.replace("plain", "shared") + 'uid = "shared"\n'
    with stage.launcher(text) as asker:
        for what, plain, few in (("fork", 127, 19), ("memory", 127, 15), ("size", 10, 3)):
            for profile, most in ((1, plain), (2, few)):
                with Running(asker, profile) as helper:
                    found = helper.run(count.replace("WHAT", what), folder=f"{STAGE}/open")
                    wrong.same(f"{what} of {profile}", most * 0.7 < found <= most, True)
        with Running(asker, 3) as one, Running(asker, 3) as two:
            found = (
                one.run(count.replace("WHAT", "fork"), folder=""),
                two.run(count.replace("WHAT", "fork"), folder=""),
            )
            wrong.same("of one shared uid", (sum(found), found[1]), (510, 0))
    return wrong


@scene
def hidden_proc(stage: Stage) -> list[str]:
    """Where /proc hides other users' processes no helper can be verified: it is killed, and the log says why."""
    wrong = Wrong()
    subprocess.run(["/usr/bin/mount", "-o", "remount,hidepid=2,gid=12345", "/proc"], check=True)
    try:
        with stage.launcher(PLAIN) as asker, Running(asker, 1) as helper:
            wrong.same("a helper that cannot be seen", asker.exited(helper.handle)[0], "unverified")
            asker.empty(helper.handle)
            wrong.same("why", "/proc hides it (hidepid)" in stage.said(), True)
    finally:
        subprocess.run(["/usr/bin/mount", "-o", "remount,hidepid=0,gid=0", "/proc"], check=True)
    return wrong


LEAVES = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def tried(call, *words):
    try: call(*words)
    except OSError: pass
for place in ("/tmp", "/var/tmp", "/dev/shm", "/run/lock"):
    if not os.path.isdir(place): continue
    open(f"{place}/left.lock", "w").close()
    os.mkdir(f"{place}/left.dir")
    for name in ("plain", "-rf", "new\\nline", "x" * 255): open(f"{place}/left.dir/{name}", "w").close()
    os.mkdir(f"{place}/left.dir/closed")
    open(f"{place}/left.dir/closed/inside", "w").close()
    os.chmod(f"{place}/left.dir/closed", 0)
    os.chmod(f"{place}/left.dir", 0)
    os.symlink("/etc/passwd", f"{place}/left.link")
    os.symlink(kept, f"{place}/left.link2")
    os.mkfifo(f"{place}/left.fifo")
    tried(open, f"{place}/others/left.inside", "w")
    tried(open, f"{place}/others/deep/left.inside", "w")
here = os.getcwd()
os.mkdir("/tmp/left.deep"); os.chdir("/tmp/left.deep")
for _ in range(1500): os.mkdir("d" * 100); os.chdir("d" * 100)
open("end", "w").close(); os.chdir(here)
os.mkdir("/tmp/left.many")
for number in range(3000): open(f"/tmp/left.many/{number}", "w").close()
made = [libc.shmget(4711, 4096, 0o1666), libc.semget(4711, 1, 0o1666), libc.msgget(4711, 0o1666)]
queue = libc.mq_open(b"/left%d" % os.getuid(), 0o102, 0o666, None)
result = [os.geteuid(), min(made) >= 0, queue >= 0]
"""
FINDS = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
found = [f"{place}/{name}" for top in ("/tmp", "/var/tmp", "/dev/shm", "/run/lock", "/dev/mqueue")
         for place, folders, files in os.walk(top) for name in folders + files if name.startswith("left")]
found += [name for name, call in (("shm", lambda: libc.shmget(4711, 0, 0)), ("sem", lambda: libc.semget(4711, 0, 0)),
                                  ("msg", lambda: libc.msgget(4711, 0))) if call() >= 0]
result = found
"""


def leaves_and_finds(asker: Asker, kept: str) -> tuple[list[str], list[str], bool]:
    """Let a helper leave all that it can, look right away, and when the next holder of its uid looks."""
    with Running(asker, 1) as helper:
        uid, made, queue = helper.run(LEAVES, kept=kept)
        during = helper.run(FINDS)
        assert made
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with Running(asker, 1) as helper:
                if helper.run("result = os.geteuid()") == uid:
                    return during, helper.run(FINDS), queue
        except Refused:
            time.sleep(0.01)  # all uids wait for what they have left to be removed
    raise AssertionError("that uid did not come again")


@scene
def next_holder(stage: Stage) -> list[str]:
    """Nothing that a helper leaves in any way is there for the next holder of its uid, and nothing of others goes."""
    wrong = Wrong()
    for place in ("/tmp", "/var/tmp", "/dev/shm", "/run/lock"):
        os.makedirs(place, exist_ok=True)
        subprocess.run(["/usr/bin/mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", place], check=True)
        os.makedirs(f"{place}/others/deep")
        os.chmod(f"{place}/others/deep", 0o777)
        Path(f"{place}/others/kept").write_text("")
    kept = f"{STAGE}/open/kept"
    Path(kept).write_text("kept")
    os.chmod(kept, 0o666)
    mine = [f"{place}/others/kept" for place in ("/tmp", "/var/tmp", "/dev/shm", "/run/lock")]
    few = own_pool(24)  # so that each comes again soon
    for rule in ("", 'uid = "shared"\n'):
        for private in (True, False):
            with stage.launcher(f"{few}{PLAIN}{rule}private_tmp = {str(private).lower()}\n") as asker:
                during, found, queue = leaves_and_finds(asker, kept)
                what = f"{rule}{private}"
                wrong.same(f"{what}: the control, it has left something", len(during) > 20, True)
                wrong.same(f"{what}: a message queue", queue, not private)
                if private:
                    wrong.same(f"{what}: what the next holder finds", found, [])
                else:
                    wrong.same(
                        f"{what}: what is to stay",
                        {"shm", "sem", "msg", "/tmp/left.lock"} <= set(found),
                        True,
                    )
            wrong.same(
                f"{what}: others' files",
                [path for path in [*mine, kept, "/etc/passwd"] if not os.path.exists(path)],
                [],
            )
    with stage.launcher(few + PLAIN) as asker:
        last = Running(asker, 1)
        last.run("open('/tmp/last', 'w').close(); result = 1")
    last.close()
    deadline = time.monotonic() + 15  # the child that cleans is not waited for
    while os.path.exists("/tmp/last") and time.monotonic() < deadline:
        time.sleep(0.01)
    wrong.same("what the last has left when the launcher ends", os.path.exists("/tmp/last"), False)
    with (
        stage.launcher(few + PLAIN) as asker,
        Running(asker, 1) as helper,
    ):  # an earlier launcher's have left them
        wrong.same("after a new start", helper.run(FINDS), [])
    return wrong


@scene
def lock_file(stage: Stage) -> list[str]:
    """A program that is alone by a lock file, always the same: helpers after it, and others' of the same uid beside it."""
    wrong = Wrong()
    take = "os.close(os.open('/tmp/tool.lock', os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)); result = 1"
    look = "result = os.access('/tmp/tool.lock', os.R_OK | os.W_OK)"
    with stage.launcher(PLAIN + PLAIN.replace("plain", "shared") + 'uid = "shared"\n') as asker:
        for _ in range(
            5
        ):  # each has another uid, which can neither open nor remove what the one before has left
            for _ in range(400):
                if not os.path.exists("/tmp/tool.lock"):
                    break
                time.sleep(0.01)
            with Running(asker, 1) as helper:
                wrong.same("each in its turn", helper.run(take), 1)
        for _ in range(5):
            first, second = Running(asker, 2), Running(asker, 2)
            wrong.same("shared: the first", first.run(take), 1)
            wrong.same("shared: the second sees it", second.run(look), True)
            first.kill()
            wrong.same("shared: also when the first is gone", second.run(look), True)
            second.kill()
            wrong.same("shared: the last takes it along", os.path.exists("/tmp/tool.lock"), False)
            first.close()
            second.close()
    return wrong


LITTER = """
folder = os.environ["HELPERD_DIR"]
os.mkdir(folder, 0o700)
os.mkfifo(f"{folder}/packets", 0o600)
os.makedirs(f"{folder}/a/b")
os.symlink(victim, f"{folder}/a/there")
open(f"{folder}/a/b/file", "w").close()
result = [folder, os.geteuid()]
"""


@scene
def left_behind(stage: Stage) -> list[str]:
    """What a killed helper has left in its directory is removed with the helper's own rights, whoever's uid it has."""
    wrong = Wrong()
    victim = "/tmp/victim"
    os.makedirs(victim)
    os.chmod(victim, 0o777)
    Path(f"{victim}/file").write_text("root's")
    uids = ("", 'uid = "shared"\n', "uid = 60700\n")
    blocks = [f'[[helper]]\nname = "h{n}"\ncommand = PROBE\n{uid}' for n, uid in enumerate(uids)]
    with stage.launcher("".join(blocks)) as asker:
        for number in range(1, 4):
            helper = Running(asker, number)
            folder, uid = helper.run(LITTER, victim=victim)
            wrong.same(f"owner of {number}'s directory", os.lstat(folder).st_uid, uid)
            wrong.same(f"mode of {number}'s directory", os.lstat(folder).st_mode & 0o777, 0o700)
            os.kill(helper.pid, signal.SIGKILL)
            asker.exited(helper.handle)
            asker.empty(helper.handle)
            wrong.same(f"{number}'s directory is there", os.path.lexists(folder), False)
            helper.close()
    wrong.same("what a link of it leads to", os.listdir(victim), ["file"])
    return wrong


TOOL = """#!/bin/sh
case "$*" in
*--extcap-interfaces*) echo 'interface {value=x}{display=X}'; echo 'control {number=0}{type=string}{display=M}';;
*--fifo*)
    while [ "$1" != --fifo ]; do shift; done
    sh -c "printf '\\324\\303\\262\\241\\2\\0\\4\\0\\0\\0\\0\\0\\0\\0\\0\\0\\377\\377\\0\\0\\1\\0\\0\\0' > $2; sleep 60";;
esac
"""


def answer(helper: Running, session: Session, kind: type[Any]) -> Any:
    """Read what a helper says until a message of a kind comes."""
    while data := os.read(helper.out, 65536):
        for message in session.receive(data):
            if isinstance(message, kind):
                return message
    raise EOFError(helper.errors())


@scene
def wrapped_tool(stage: Stage) -> list[str]:
    """An extcap tool under a uid of the pool captures through FIFOs of that uid, which are gone with a killed helper."""
    wrong = Wrong()
    tool = Path(f"{STAGE}/bin/tool")
    tool.write_text(TOOL)
    tool.chmod(0o755)
    with stage.launcher(f'[[helper]]\nname = "t"\ncommand = ["builtin:extcap", "--", "{tool}"]\n') as asker:
        helper = Running(asker, 1)
        session = Session(Role.SUPERVISOR)
        os.write(helper.write, session.greeting())
        answer(helper, session, Pong)
        os.write(helper.write, session.send(OpenRequest("x:type=extcap")))
        report = answer(helper, session, OpenReport)
        wrong.same("it opens", (report.success, report.message, report.dlt), (True, "", 1))
        uid = int(status(helper.pid)["Uid"].split()[0])
        (folder,) = Path("/tmp").glob("helperd-*")
        found = {path.name: (path.stat().st_uid, path.is_fifo()) for path in folder.iterdir()}
        wrong.same("its FIFOs", found, dict.fromkeys(("packets", "control-in", "control-out"), (uid, True)))
        wrong.same("who may enter", (folder.stat().st_uid, folder.stat().st_mode & 0o777), (uid, 0o700))
        os.kill(helper.pid, signal.SIGKILL)
        asker.exited(helper.handle)
        asker.empty(helper.handle)
        wrong.same("it is there", folder.exists(), False)
        helper.close()
    return wrong


MUCH = {
    "one file after the other": "for n in range(9): open(f'PLACE/NAME-{n}', 'wb').write(bytes(1 << 20))",
    "in a closed directory": "os.mkdir('PLACE/NAME')\n"
    "for n in range(9): os.mkdir(f'PLACE/NAME/{n}'); open(f'PLACE/NAME/{n}/x', 'wb').write(bytes(1 << 20))",
    "without a byte": "for n in range(9000): open(f'PLACE/NAME-{n}', 'wb').close()",
    "where nobody can look": "os.mkdir('PLACE/NAME'); os.chmod('PLACE/NAME', 0)",
}
"""More than 8 MiB, which is what one file may have, or nobody knows how much."""
SHARED_MEMORY = "for n in range(3): assert ctypes.CDLL(None).shmget(0, 4 << 20, 0o1600) >= 0"
LITTLE = (
    "f = f'/tmp/little-{os.getpid()}'; open(f, 'wb').write(bytes(6 << 20)); os.link(f, f + '-2'); result = 1"
)


@scene
def too_much(stage: Stage) -> list[str]:
    """Who has more where everybody may write than a file of it may have is ended, whatever it is; others go on."""
    wrong = Wrong()
    limited = f'{PLAIN}limits = {{ fsize = "8MiB" }}\n'
    ways = {
        f"{name}, {place}": code.replace("PLACE", place)
        for place in ("/tmp", "/var/tmp", "/dev/shm")
        for name, code in MUCH.items()
    }
    ways["shared memory"] = SHARED_MEMORY
    shared = limited.replace("plain", "shared") + 'uid = "shared"\n'
    with stage.launcher(own_pool() + limited + shared) as asker:
        little = [Running(asker, profile) for profile in (1, 2)]
        for helper in little:  # the control: less is let be, also when it has several names
            helper.run(LITTLE)
        running = {}
        for name, code in ways.items():
            helper = running[name] = Running(asker, 1)
            helper.run(f"import ctypes\n{code.replace('NAME', str(helper.handle))}\nresult = 1")
        for name, helper in running.items():
            wrong.same(name, asker.exited(helper.handle), ("signal", signal.SIGKILL))
            asker.empty(helper.handle)
            helper.close()
        for helper in little:
            wrong.same("little", helper.run("result = 1"), 1)
            helper.kill()
            helper.close()
        wrong.same("the log", stage.said().count("than its limit of fsize"), len(ways))
    return wrong


def cleaned(launcher: int) -> None:
    """Wait until nothing of the dead is being removed: of a launcher's children none has its own name any more."""
    deadline = time.monotonic() + HANGS_S
    while time.monotonic() < deadline:
        ours = [pid for pid, row in processes.table().items() if row.parent == launcher]
        if processes.LAUNCHER not in {name_of(pid) for pid in ours}:
            return
        time.sleep(0.01)


@scene
def own_uids(stage: Stage) -> list[str]:
    """A uid is used again only after all others, and never by two at once."""
    wrong = Wrong()
    with stage.launcher(PLAIN) as asker:
        seen = []
        for _ in range(6):
            with Running(asker, 1) as helper:
                helper.run("result = 1")
                seen.append(status(helper.pid)["Uid"].split()[0])
            cleaned(asker.launcher.pid)  # type: ignore[attr-defined]
        wrong.same("uids one after the other", len(set(seen)), 6)
        both = [Running(asker, 1) for _ in range(2)]
        uids = [both[n].run("result = os.getuid()") for n in range(2)]
        wrong.same("two at once", len(set(uids)), 2)
        for helper in both:
            helper.kill()
            helper.close()
    return wrong


@scene
def set_id(stage: Stage) -> list[str]:
    """No helper leaves a program behind that runs as itself; each way to make one works where there is no filter."""
    wrong = Wrong()
    free = seat(STRANGER, STAGE=STAGE)

    def tried(place: Any, code: str) -> Any:
        try:
            return place.run(code)
        except OSError as error:
            return errno.errorcode[error.errno or 0]  # EPERM is 1, and so is True

    with stage.launcher(PLAIN) as asker, Running(asker, 1) as helper:
        helper.run(PRELUDE, STAGE=STAGE)
        for name, code in SET_ID.items():
            newer = name.startswith(("fchmodat2", "openat2"))
            live = tried(free, code)
            if not (newer and live == "ENOSYS"):  # Linux before 5.6, 6.6
                wrong.same(f"{name}, unfiltered", live, True)
            wrong.same(name, tried(helper, code), "ENOSYS" if newer else "EPERM")
        for code in ("os.mkdir(p, 0o1777)", "os.open(p, os.O_CREAT, 0o1755)", "os.mkfifo(p, 0o666)"):
            made = f"p = f'{{STAGE}}/open/n{{time.monotonic_ns()}}'; {code}; os.chmod(p, 0o1700); result = os.stat(p).st_mode & 0o7777"
            wrong.same(code, tried(helper, made), 0o1700)
    free.close()
    return wrong


@scene
def silent(stage: Stage) -> list[str]:
    """A sealed helper with an open packet socket cannot transmit; what it sends unsealed is seen at the other end."""
    wrong = Wrong()
    Stage.veth()
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5))
    wire.bind(("hd1", 0x88B5))

    def tried(place: Running, code: str) -> Any:
        try:
            return place.run(code)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        except (EOFError, BrokenPipeError):
            return "killed"

    def heard(seconds: float) -> bool:
        wire.settimeout(seconds)
        with contextlib.suppress(TimeoutError):
            while True:
                if b"sent by a helper" in wire.recv(2000):
                    return True
        return False

    with stage.launcher(RAW) as asker:
        for name, code in (SENDS | BY_OTHERS).items():
            for sealed in (False, True):
                with Running(asker, 1) as helper:
                    helper.run(PRELUDE, STAGE=STAGE, LIBRARY=LIBRARY)
                    helper.run(PREPARE, FRAME=FRAME)
                    if sealed:
                        wrong.same("tier", helper.run(SEAL)[0], 3)
                    got = tried(helper, code)
                    if sealed:
                        wrong.same(f"{name}, sealed", got in {"EPERM", "killed"}, True)
                    elif got != "EINVAL" or name not in {"splice", "sendfile"}:  # which some kernels cannot
                        wrong.same(f"{name}, unsealed", got, True)
                    wanted = not sealed and name in SENDS and got is True
                    wrong.same(f"{name}, heard", heard(5.0 if wanted else 0.05), wanted)
        with Running(asker, 1) as helper:
            helper.run(PRELUDE, STAGE=STAGE, LIBRARY=LIBRARY)
            helper.run(PREPARE, FRAME=FRAME)
            helper.run(SEAL)
            code = "p = select.poll(); p.register(sock, 1); p.poll(5000); os.write(2, b'e'); result = len(sock.recv(2000, 64))"
            wire.send(FRAME.encode("latin-1"))
            wrong.same("reads, says", (helper.run(code) > 0, helper.errors()), (True, "e"))
    return wrong


@scene
def death_signal(stage: Stage) -> list[str]:
    """No helper can outlive a killed launcher by changing its parent-death signal; without a filter it could."""
    wrong = Wrong()
    free, ended = seat(STRANGER), False
    with (
        contextlib.suppress(AssertionError, OSError, EOFError),
        stage.launcher(PLAIN) as asker,
        Running(asker, 1) as helper,
    ):
        helper.run(PRELUDE)
        for name, code in DEATH.items():
            wrong.same(f"{name}, unfiltered", free.run(code), True)
            with contextlib.suppress(PermissionError):
                wrong.same(name, helper.run(code), "refused")
        wrong.same("the one it has", helper.run("prctl(1, 9, 0, 0, 0); result = 1"), 1)
        pid = helper.pid
        asker.launcher.kill()  # type: ignore[attr-defined]
        wrong.same("gone with the launcher", gone(pid), True)
        ended = True
    wrong.same("came to the end", ended, True)
    free.close()
    return wrong


SQUATTERS = {
    "in every way": "os.setresuid({0}, {0}, {0})",
    "real": "os.setresuid({0}, 2003, 2003)",
    "effective": "os.setresuid(2003, {0}, 2003)",
    "saved": "os.setresuid(2003, 2003, {0})",
    "of files": "ctypes.CDLL(None).setfsuid({0})",
    "in a thread": "done = threading.Event()\nthreading.Thread(target=lambda: (ctypes.CDLL(None).syscall(117, 2003, {0}, 2003), "
    "done.set(), time.sleep(600))).start()\ndone.wait()",
    "in a thread that outlives the first": "threading.Thread(target=lambda: (ctypes.CDLL(None).syscall(117, {0}, {0}, {0}), "
    "time.sleep(0.2), os.write(1, b'!'), time.sleep(600))).start(); ctypes.CDLL(None).syscall(60, 0)",
}
"""Ways to have a uid; the last two leave the first thread root, or dead."""


def beside(stage: Stage, sock: socket.socket, *namespaces: str) -> subprocess.Popen[bytes]:
    """Start a launcher with a lock of its own, in namespaces of its own: as in a container on this kernel."""
    hide = 'mount -t tmpfs -o mode=755 tmpfs /run/helperd-launcher && "$@"; exec sleep 600'
    argv = ["unshare", "--mount", *namespaces, "--fork", "--kill-child", "sh", "-c", hide, "sh"]
    argv += stage.argv(stage.config(PLAIN), f"--client-fd={sock.fileno()}")
    with open(stage.log, "ab") as log:
        return subprocess.Popen(
            argv, stderr=log, pass_fds=[sock.fileno()], env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        )


@scene
def two_launchers(stage: Stage) -> list[str]:
    """Two launchers on one kernel, with one pool of uids: neither ends what the other has started, in any of its ways."""
    wrong = Wrong()
    os.makedirs("/run/helperd-launcher", 0o755)
    for name, namespaces in (("in a container", ("--pid", "--mount-proc")), ("in a place of its own", ())):
        with stage.launcher(PLAIN) as host, Running(host, 1) as first, contextlib.ExitStack() as end:
            ours, theirs = pair()
            end.callback(ours.close)
            before = first.run("result = os.getuid()")
            with theirs:
                process = beside(stage, theirs, *namespaces)
            other = Asker(ours)
            other.ping()
            wrong.same(f"{name}: its start", first.run("result = os.getuid()"), before)
            guest = end.enter_context(Running(other, 1))
            uid = guest.run("result = os.getuid()")
            if not namespaces:
                wrong.same(f"{name}: uids differ", uid != before, True)
            while uid != before and namespaces:  # until both have one
                guest.kill()
                guest = end.enter_context(Running(other, 1))
                uid = guest.run("result = os.getuid()")
            first.kill()
            wrong.same(f"{name}: the end of ours", guest.run("result = os.getuid()"), uid)
            with Running(host, 1) as second:
                second.run("result = 1")
                guest.kill()
                wrong.same(f"{name}: the end of theirs", second.run("result = 1"), 1)
                guest = end.enter_context(Running(other, 1))
                guest.run("result = 1")
            host.launcher.kill()  # type: ignore[attr-defined]
            host.launcher.wait()  # type: ignore[attr-defined]
            with stage.launcher(PLAIN) as again:
                wrong.same(f"{name}: our next start", guest.run("result = 1"), 1)
                with Running(again, 1) as third:
                    third.run("result = 1")
            wrong.same(f"{name}: after it", guest.run("result = 1"), 1)
            uid = guest.run("result = os.getuid()")
            guest.run("import os, time\npid = os.fork()\nwhile pid == 0: time.sleep(9)\nresult = pid")
            row = processes.row(guest.pid)
            assert row
            os.kill(row.parent, signal.SIGKILL)  # what the helper has forked stays, without any launcher
            wrong.same(f"{name}: gone with its launcher", gone(guest.pid), True)
            with stage.launcher(PLAIN):
                wrong.same(
                    f"{name}: what is left of theirs", uid in processes.uids_in_use(), bool(namespaces)
                )
            process.kill()
            process.wait(15)
    return wrong


@scene
def uid_in_use(stage: Stage) -> list[str]:
    """A uid that somebody has in any way is no helper's, which gets another; nobody is killed. When somebody has all that
    were held for a launch, that one fails.
    """
    wrong = Wrong()
    with stage.launcher(PLAIN) as asker:
        uid = 60800
        for name, code in SQUATTERS.items():
            with Running(asker, 1) as helper:
                wrong.same("before", helper.run("result = os.getuid()"), uid)
            uid += 1
            code = (
                f"import ctypes, os, threading, time\n{code.format(uid)}\nos.write(1, b'!')\ntime.sleep(600)"
            )
            argv = [interpreter(), "-I", "-S", "-c", code]
            with subprocess.Popen(argv, stdout=subprocess.PIPE) as squatter, contextlib.ExitStack() as end:
                end.callback(squatter.kill)
                assert squatter.stdout
                squatter.stdout.read(1)
                with Running(asker, 1) as helper:
                    wrong.same(f"{name}: the next", helper.run("result = os.getuid()"), uid + 1)
                wrong.same(f"{name}: the other", squatter.poll(), None)
            uid += 2
        wrong.same("said", "not started" in stage.said(), False)
        threads = "\n".join(SQUATTERS["in a thread"].format(each) for each in range(uid, uid + 4))
        code = f"import ctypes, os, threading, time\n{threads}\nos.write(1, b'!')\ntime.sleep(600)"
        with subprocess.Popen([interpreter(), "-I", "-S", "-c", code], stdout=subprocess.PIPE) as squatter:
            assert squatter.stdout
            squatter.stdout.read(1)
            wrong.same("all of them", refused(asker, 1), errno.EAGAIN)
            with Running(asker, 1) as helper:
                wrong.same("the next launch", helper.run("result = os.getuid()"), uid + 4)
            squatter.kill()
    wrong.same("said", stage.said().count("plain was not started: uid-in-use:"), 1)
    return wrong


@scene
def verification(stage: Stage) -> list[str]:
    """A helper that is not what its profile says is killed, and the client is told."""
    wrong = Wrong()
    path = f"{LIBRARY}/helperd/sandbox/become.py"
    text = Path(path).read_text()
    broken = text.replace("    os.umask(0o077)\n", "    os.umask(0o077)\n    child = child\n", 1)
    broken = broken.replace(
        "        for name, good in check(child).items():", "        for name, good in {}.items():", 1
    )
    broken = broken.replace("        os.setgroups(child.groups)\n", "        os.setgroups([27])\n", 1)
    assert broken != text
    rewrite(path, broken)
    try:
        with stage.launcher(PLAIN) as asker, Running(asker, 1) as helper:
            how, _ = asker.exited(helper.handle)
            wrong.same("a helper with a group too many", how, "unverified")
            asker.empty(helper.handle)
    finally:
        rewrite(path, text)
    return wrong


@scene
def self_check(stage: Stage) -> list[str]:
    """A child that could not become what it should never reaches exec; nor does one whose launcher has died."""
    wrong = Wrong()
    code = (
        "import os, sys; sys.path[:0] = [LIB, SITE]\n"
        "from helperd.sandbox.become import Child, become\nfrom helperd.sandbox import kernel\n"
        "def told(child):\n"
        "    r, w = os.pipe()\n    pid = os.fork()\n"
        "    if pid == 0: become(child._replace(errors=w))\n"
        "    os.close(w); os.waitpid(pid, 0); return os.read(r, 99).decode()\n"
        "exe = os.open('/usr/bin/true', os.O_PATH); null = os.open('/dev/null', 2)\n"
        "child = Child(('true',), (), {0: null, 1: null, 2: null}, exe, -1, kernel.capget()[1], os.getpid(), uid=60900, gid=60900)\n"
        "print(repr(told(child)), repr(told(child._replace(parent=1 << 20))))\n"
    )
    wrong.same("without a parent", in_the_library(code).split("\n")[0], "'' 'doors 3'")
    for step in ("    kernel.ambient(inherited)\n", "        kernel.securebits(kernel.SECUREBITS)\n"):
        path = f"{LIBRARY}/helperd/sandbox/become.py"
        text = Path(path).read_text()
        assert step in text, step
        rewrite(path, text.replace(step, step.split("kernel")[0] + "pass\n", 1))
        try:
            with (
                stage.launcher(RAW.replace("seal", "seal") + "seal = 0\n") as asker,
                Running(asker, 1) as helper,
            ):
                wrong.same(
                    f"without {step.strip()}", asker.exited(helper.handle), ("exec-failed", errno.EPERM)
                )
        finally:
            rewrite(path, text)
    return wrong


@scene
def no_new_privs(stage: Stage) -> list[str]:
    """Also a launcher that may not have no_new_privs itself, because of one weak profile, gives it to the others."""
    wrong = Wrong()
    weak = PLAIN.replace("plain", "weak") + "no_new_privs = false\n"
    with stage.launcher(PLAIN + weak) as asker:
        found = processes.privilege(asker.launcher.pid)  # type: ignore[attr-defined]
        wrong.same("the launcher's own", found and found.no_new_privs, 0)
        for number, wanted in ((1, (1, 2)), (2, (0, 0))):
            with Running(asker, number) as helper:
                helper.run("result = 1")
                found = processes.privilege(helper.pid)
                assert found
                wrong.same(f"profile {number}", (found.no_new_privs, found.seccomp), wanted)
    return wrong


@scene
def doors(stage: Stage) -> list[str]:
    """Who may ask: root and the supervisor's user everything, [[allow]] what it says, nobody else anything."""
    wrong = Wrong()
    rules = f'[[allow]]\nuid = {ALLOWED}\nhelpers = ["raw"]\nmax_running = 1\n[[allow]]\ngroup = "capture"\nhelpers = ["plain"]\n'
    code = "s, f = ready(); result = launch(s, f, N)[0]; s.close()"
    with stage.listening(RAW + PLAIN + rules):
        wrong.same("mode of the socket", oct(os.stat(SOCKET).st_mode & 0o777), "0o660")
        wrong.same("owner of the socket", (os.stat(SOCKET).st_uid, os.stat(SOCKET).st_gid), (0, DAEMON))
        rows = [
            ("root", 0, (), (1, 1)),
            ("the supervisor's user", DAEMON, (), (1, 1)),
            ("a user with a rule", ALLOWED, (DAEMON,), (1, 0)),
            ("a member of a group with a rule", OTHER, (DAEMON, CAPTURE), (0, 1)),
            ("a member of the socket's group", OTHER, (DAEMON,), (0, 0)),
            ("a stranger", STRANGER, (), (0, 0)),
        ]
        for name, uid, groups, wanted in rows:
            place = seat(uid, groups, SOCKET=SOCKET)
            heard = 0
            with contextlib.suppress(OSError):
                heard = int(bool(place.run("s = connect(SOCKET); ask(s, 3); result = 1; s.close()")))
            wrong.same(f"{name} is answered", heard, int(any(wanted)))
            for number in (1, 2):
                found = 0
                with contextlib.suppress(OSError):
                    found = int(bool(place.run(code.replace("N", str(number)))))
                wrong.same(f"{name}, profile {number}", found, wanted[number - 1])
            place.close()
    return wrong


@scene
def quotas(stage: Stage) -> list[str]:
    """max_running is of each helper, over all connections of a user; questions have places of their own, and little time."""
    wrong = Wrong()
    second = PLAIN.replace("plain", "second")
    rules = f'[[allow]]\nuid = {ALLOWED}\nhelpers = ["plain", "second"]\nmax_running = 3\n'
    code = "result = launch(s, f, N, handle=Q)[0]"

    def tries(place: Seat, number: int, times: int, *, question: bool = False) -> list[int]:
        found = []
        for _ in range(times):
            try:
                place.run(code.replace("N", str(number)).replace("Q", str(int(question))))
                found.append(0)
            except OSError as error:
                found.append(error.errno or -1)
        return found

    full = errno.EAGAIN
    with (
        stage.listening(PLAIN + second + rules),
        contextlib.closing(seat(ALLOWED, (DAEMON,), SOCKET=SOCKET)) as place,
        contextlib.closing(seat(ALLOWED, (DAEMON,), SOCKET=SOCKET)) as other,
    ):
        for each in (place, other):
            each.run("s, f = ready(); result = 1")
        wrong.same("of one helper", tries(place, 1, 4), [0, 0, 0, full])
        wrong.same("over another connection", tries(other, 1, 1), [full])
        wrong.same("of the other helper", tries(other, 2, 4), [0, 0, 0, full])
        began = time.monotonic()
        wrong.same("questions beside them", tries(place, 1, 5, question=True), [0, 0, 0, 0, full])
        wrong.same("of the other helper, too", tries(other, 2, 5, question=True), [0, 0, 0, 0, full])
        deadline = time.monotonic() + HANGS_S
        while (last := tries(place, 1, 1, question=True)) == [full] and time.monotonic() < deadline:
            time.sleep(0.1)
        wrong.same(
            "a question that is never answered ends", (last, time.monotonic() - began > 5), ([0], True)
        )
        wrong.same("what runs goes on", tries(place, 1, 1), [full])
    return wrong


def subordinate(groups: tuple[int, ...]) -> Seat:
    """A member's process in a user namespace with 1,000 more uids, as newuidmap gives them: 0 is OTHER, 1 is 100000."""
    place = seat(OTHER, groups, SOCKET=SOCKET)
    place.run("call(272, 0x10000000); result = 1")  # unshare(CLONE_NEWUSER)
    for kind in ("uid", "gid"):
        Path(f"/proc/{place.pid}/{kind}_map").write_text(f"0 {OTHER} 1\n1 100000 1000\n")
    place.run(
        """
mine = {}
def come(uid):
    os.seteuid(uid)
    try:
        mine[uid] = ready()
    finally:
        os.seteuid(0)
def tries(numbers, then):
    found = []
    for number in numbers:
        try:
            then(number)
            found.append(0)
        except OSError as error:
            found.append(error.errno)
    return found
result = 1
"""
    )
    return place


@scene
def subuids(stage: Stage) -> list[str]:
    """One user with as many uids as it likes: a rule of its group holds for all of them, and root has its places."""
    wrong = Wrong()
    rules = '[[allow]]\ngroup = "capture"\nhelpers = ["plain"]\nmax_running = 1\nmax_together = 5\n'
    both = (
        rules
        + rules.replace("capture", "helperd-read")
        + f'[[allow]]\nuid = {ALLOWED}\nhelpers = ["plain"]\n'
    )
    full, few = errno.EAGAIN, '[helperd]\nuid_pool = "60800-60823"\n'
    with (
        stage.listening(PLAIN + PLAIN.replace("plain", "second") + both),
        contextlib.closing(subordinate((DAEMON, CAPTURE))) as place,
        contextlib.closing(subordinate((DAEMON, READERS))) as second,
        contextlib.closing(seat(ALLOWED, (DAEMON,), SOCKET=SOCKET)) as allowed,
    ):
        found = place.run("result = tries(range(70), come)")
        wrong.same("connections of a group that are served", found.count(0), 32)
        allowed.run(
            "kept = []\nwhile len(kept) < 40:\n  try: kept.append(ready())\n  except OSError: break\nresult = 1"
        )
        wrong.same("connections of a user beside it", allowed.run("result = len(kept)"), 16)
        found = second.run("result = tries(range(70), come)")
        wrong.same("connections of another group beside these", found.count(0), 16)
        for name, uid in (("root", 0), ("the supervisor's user", DAEMON)):
            with contextlib.closing(seat(uid, (), SOCKET=SOCKET)) as other:
                code = "s, f = ready(); result = launch(s, f, 1)[0] > 0 and launch(s, f, 2)[0] > 0"
                with contextlib.suppress(OSError):
                    wrong.same(f"{name} is served", other.run(code), True)
                    continue
                wrong.append(f"{name} is shut out")
        code = "result = tries(list(mine)[:9], lambda uid: launch(*mine[uid], handle=Q))"
        for name, question in (("helpers", "0"), ("questions", "1")):
            found = place.run(code.replace("Q", question))
            wrong.same(f"{name} of a group", found, [0] * 5 + [full] * 4)
    with (
        stage.listening(few + PLAIN + rules.replace("max_together = 5", "max_together = 64")),
        contextlib.closing(subordinate((DAEMON, CAPTURE))) as place,
        contextlib.closing(seat(0, (), SOCKET=SOCKET)) as root,
    ):
        found = place.run("result = tries(range(15), come) and tries(mine, lambda uid: launch(*mine[uid]))")
        wrong.same("of 14 uids", found, [0] * 13 + [errno.EUSERS] * 2)
        code = "s, f = ready(); result = launch(s, f)[0] > 0"
        wrong.same("the last is root's", root.run(code), True)
    return wrong


@scene
def rereading(stage: Stage) -> list[str]:
    """Between an edit and a reload all goes on with what was read; only who may reload can have it read again."""
    wrong = Wrong()
    rule = f'[[allow]]\nuid = {ALLOWED}\nhelpers = ["plain"]\n'
    second = PLAIN.replace("plain", "second")
    daemon = '[helperd]\nadmin_group = "capture"\n'
    with stage.listening(daemon + PLAIN + rule):
        rows = [
            ("a user with a rule", ALLOWED, (DAEMON,), 1),
            ("root", 0, (), 2),
            ("the supervisor's user", DAEMON, (), 2),
            ("an admin with a rule", ALLOWED, (DAEMON, CAPTURE), 2),
        ]
        with contextlib.closing(seat(DAEMON, (), SOCKET=SOCKET)) as supervisor:
            supervisor.run("s, f = ready(); result = 1")
            for name, uid, groups, wanted in rows:
                stage.config(daemon + PLAIN + second + rule)
                with contextlib.closing(seat(uid, groups, SOCKET=SOCKET)) as place:
                    time.sleep(1.05)  # a launcher reads its file once a second
                    found = place.run("s = connect(SOCKET); result = ask(s, 3, arg=1)[0]")
                    wrong.same(f"{name}: profiles after an edit", found, wanted)
                    for _ in range(5 * (wanted == 1)):
                        place.run("ask(s, 3, arg=1); result = 1")
                if wanted == 1:
                    wrong.same(
                        "what was read is started", supervisor.run("result = launch(s, f)[0] > 0"), True
                    )
                    found = supervisor.run("result = ask(s, 3, arg=1)[0]")
                    wrong.same("an admin's reload just behind", found, 2)
                stage.config(daemon + PLAIN + rule)
                time.sleep(1.05)
                wrong.same("as before", supervisor.run("_, f, _ = ask(s, 3, arg=1); result = _ > 0 or 1"), 1)
    return wrong


@scene
def read_when_idle(stage: Stage) -> list[str]:
    """A launcher that nobody uses reads a changed configuration when somebody connects, and while it is used does not."""
    wrong = Wrong()
    rule = f'[[allow]]\nuid = {ALLOWED}\nhelpers = ["plain"]\n'
    profiles = "s = connect(SOCKET); result = ask(s, 3)[0]"
    with (
        stage.listening(PLAIN + rule),
        contextlib.closing(seat(ALLOWED, (DAEMON,), SOCKET=SOCKET)) as place,
        contextlib.closing(seat(0, (), SOCKET=SOCKET)) as root,
    ):

        def seen(wanted: int) -> int:
            """How many there are for a new connection; the end of the one before may not have been noticed yet."""
            deadline = time.monotonic() + HANGS_S
            while (found := place.run(profiles)) != wanted and time.monotonic() < deadline:
                place.run("s.close(); result = 1")
                time.sleep(0.02)
            return int(found)

        def leave(*places: Seat) -> None:
            for each in places:
                each.run("s.close(); result = 1")

        wrong.same("before", seen(1), 1)
        leave(place)
        stage.config(PLAIN + PLAIN.replace("plain", "second") + rule)
        wrong.same("after a change", seen(2), 2)
        stage.config(PLAIN + rule)
        wrong.same("while it is used", root.run(profiles), 2)
        leave(place, root)
        wrong.same("afterwards", seen(1), 1)
        for text, mode in (("nonsense = 1\n", 0o644), (RAW, 0o666)):
            leave(place)
            os.chmod(stage.config(PLAIN + text + rule), mode)
            deadline = time.monotonic() + HANGS_S
            told = stage.said().count("what was read before holds")
            while told == stage.said().count("what was read before holds") and time.monotonic() < deadline:
                wrong.same(f"with mode {mode:o} and {text!r}", place.run(profiles), 1)
                leave(place)
            wrong.same("it is told", stage.said().count("what was read before holds") > told, True)
            wrong.same("what was there goes on", place.run(profiles), 1)
        leave(place)
        os.chmod(stage.config(PLAIN + RAW + rule), 0o644)
        wrong.same("mended", seen(2), 2)
    return wrong


@scene
def reload(stage: Stage) -> list[str]:
    """PING 1 reads the configuration again: good is taken, bad is refused, old fingerprints are stale, nothing comes back."""
    wrong = Wrong()
    with stage.launcher(PLAIN) as asker:
        running = Running(asker, 1)
        running.run("result = 1")
        old = asker.fingerprint
        wrong.same("at once", asker.ping(reload=True), errno.EAGAIN)
        time.sleep(1.05)
        stage.config(PLAIN + PLAIN.replace("plain", "second"))
        wrong.same("a good one", (asker.ping(reload=True), asker.profiles), (0, 2))
        wrong.same("another fingerprint", asker.fingerprint != old, True)
        new, asker.fingerprint = asker.fingerprint, old
        wrong.same("the old fingerprint", refused(asker, 1), errno.ESTALE)
        asker.fingerprint = new
        wrong.same("the new one", refused(asker, 2), 0)
        time.sleep(1.05)
        stage.config(PLAIN + "nonsense = 1\n")
        wrong.same("a bad one", asker.ping(reload=True), errno.EINVAL)
        wrong.same("the table after it", refused(asker, 2), 0)
        time.sleep(1.05)
        stage.config(PLAIN + RAW)
        wrong.same("one with a capability", asker.ping(reload=True), 0)
        wrong.same("what was given up", refused(asker, 2), errno.EPERM)
        wrong.same("who ran all the time", running.run("result = 2"), 2)
        running.kill()
        running.close()
    return wrong


@scene
def new_rules(stage: Stage) -> list[str]:
    """After a reload the numbers and rules of the new file hold, also over a connection that was made before it."""
    wrong = Wrong()
    rule = f'[[allow]]\nuid = {ALLOWED}\nhelpers = ["plain"]\nmax_running = 2\n'
    code = "result = launch(s, ask(s, 3)[1], N)[0]"
    with (
        stage.listening(PLAIN + RAW + rule),
        contextlib.closing(seat(ALLOWED, (DAEMON,), SOCKET=SOCKET)) as place,
        contextlib.closing(seat(0, (), SOCKET=SOCKET)) as root,
    ):

        def tries() -> list[int]:
            found = []
            for number in (1, 2):
                try:
                    found.append(int(bool(place.run(code.replace("N", str(number))))))
                except OSError as error:
                    found.append(-(error.errno or 0))
            return found

        for each in (place, root):
            each.run("s, f = ready(); result = 1")
        wrong.same("before", tries(), [1, -errno.EACCES])
        time.sleep(1.05)  # a launcher reads its file once a second
        stage.config(RAW + PLAIN + rule)
        root.run("ask(s, 3, arg=1); result = 1")
        wrong.same("after the numbers changed", tries(), [-errno.EACCES, 1])
        time.sleep(1.05)
        stage.config(RAW + PLAIN)
        root.run("ask(s, 3, arg=1); result = 1")
        wrong.same("after the rule went", tries(), [-errno.EACCES] * 2)
    return wrong


@scene
def plain_capture(stage: Stage) -> list[str]:
    """A plain helper captures on a veth with its one capability; what it says from inside is what was declared."""
    wrong = Wrong()
    if not os.path.exists("/sys/class/net/hd0"):
        Stage.veth()
    inside = (
        "import socket\n"
        "lines = dict(line.split(':', 1) for line in open('/proc/self/status'))\n"
        "sets = {name: int(lines['Cap' + name], 16) for name in ('Eff', 'Prm', 'Amb', 'Inh', 'Bnd')}\n"
        "fds = sorted(int(n) for n in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{n}'))\n"
        "import ctypes\n"  # now: libffi 3.5 keeps a descriptor of its own library
        "result = [sets, int(lines['NoNewPrivs']), ctypes.CDLL(None).prctl(27, 0, 0, 0, 0), os.getresuid(), fds]"
    )
    with stage.launcher(RAW) as asker, Running(asker, 1) as helper:
        sets, no_new_privs, bits, uids, fds = helper.run(inside)
        wrong.same("sets", sets, {"Eff": 0x2000, "Prm": 0x2000, "Amb": 0x2000, "Inh": 0x2000, "Bnd": 0})
        wrong.same("no_new_privs", no_new_privs, 1)
        wrong.same("securebits", bits, 0xEF)
        wrong.same("its own uid", uids[0] in range(60800, 61024) and len(set(uids)) == 1, True)
        wrong.same("descriptors", fds, [0, 1, 2, 3, 4])
        helper.run(
            "s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)); s.bind(('hd0', 0)); s.settimeout(10)"
        )
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
            sender.bind(("hd1", 0))
            sender.send(b"\xff" * 6 + b"\x02\0\0\0\0\x01" + b"\x88\xb5" + b"to a plain helper" + bytes(40))
        code = "got = b''\nwhile b'to a plain helper' not in got: got = s.recv(2000)\nresult = True"
        wrong.same("the frame", helper.run(code), True)
    return wrong


@scene
def signals(stage: Stage) -> list[str]:
    """TERM reaches the main process, KILL the tree; events come once each, in order, and EMPTY frees the handle."""
    wrong = Wrong()
    with stage.launcher(PLAIN) as asker:
        helper = Running(asker, 1)
        helper.run("import signal\nsignal.signal(signal.SIGTERM, lambda *_: os._exit(7)); result = 1")
        wrong.same("TERM", asker.signal(helper.handle, signal.SIGTERM), 0)
        wrong.same("its end", asker.exited(helper.handle), ("exited", 7))
        asker.empty(helper.handle)
        wrong.same("afterwards", asker.signal(helper.handle, signal.SIGKILL), errno.ESRCH)
        helper.close()
        helper = Running(asker, 1)
        helper.run("result = 1")
        asker.signal(helper.handle, signal.SIGKILL)
        wrong.same("KILL", asker.exited(helper.handle), ("signal", 9))
        asker.empty(helper.handle)
        helper.close()
        wrong.same("left-over events", asker.events, [])
        before = len(os.listdir(f"/proc/{asker.launcher.pid}/task"))  # type: ignore[attr-defined]
        wrong.same("threads", before, 1)
    return wrong


@scene
def early_signals(stage: Stage) -> list[str]:
    """A signal that comes before exec ends that child, and never reaches the launcher; nor does one to a sweeper."""
    wrong = Wrong()
    storm = (
        "import signal\nfor n in (1, 2, 15, 10): signal.signal(n, signal.SIG_IGN)\n"
        "for _ in range(2):\n  if os.fork() == 0:\n    while True:\n"
        "      for n in (15, 1, 2):\n        os.kill(-1, n)\nresult = 1"
    )
    with stage.launcher(PLAIN) as asker:
        for _ in range(100):
            helper = Running(asker, 1)
            asker.signal(helper.handle, signal.SIGTERM)
            wrong.same("ended", asker.exited(helper.handle), ("signal", 15))
            asker.empty(helper.handle)
            helper.close()
        for _ in range(10):
            helper = Running(asker, 1)
            helper.run(storm)
            helper.kill()
            helper.close()
        wrong.same("the launcher", asker.ping(), 0)
        wrong.same("its log", stage.said(), "")
    return wrong


def waiting(launcher: int, seconds: float = 2.0) -> int:
    """Return the pid of the child that a launcher has forked ahead; 0 when there is none within some time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for pid, row in processes.table().items():
            if row.parent == launcher and name_of(pid) == FORKED_AHEAD:
                return pid
        time.sleep(0.005)
    return 0


@scene
def forked_ahead(stage: Stage) -> list[str]:
    """The next helper waits with nothing of the launcher's, is what comes next, may die, and ends with the launcher."""
    wrong = Wrong()
    with contextlib.suppress(AssertionError), stage.launcher(PLAIN) as asker:
        launcher = asker.launcher.pid  # type: ignore[attr-defined]
        wrong.same("one before anybody has asked", waiting(launcher, 0.2), 0)
        with Running(asker, 1) as helper:
            helper.run("result = 1")
            blank = waiting(launcher)
            wrong.same("one after the first launch", blank > 0, True)
            wrong.same("its descriptors", sorted(os.listdir(f"/proc/{blank}/fd")), list("01234"))
            wrong.same("while it waits, its orders", os.readlink(f"/proc/{blank}/fd/3")[:7], "socket:")
        with Running(asker, 1) as helper:
            wrong.same("what it becomes", helper.run("result = 1") and helper.pid, blank)
            os.kill(waiting(launcher), signal.SIGKILL)
            with Running(asker, 1) as another:
                wrong.same("after its death", another.run("result = 1"), 1)
        for number in (signal.SIGHUP, signal.SIGSTOP):
            blank = waiting(launcher)
            os.kill(blank, number)
            while number == signal.SIGSTOP and (row := processes.row(blank)) and row.state != "T":
                time.sleep(0.001)  # until then the signal waits for it, which is seen too
            with Running(asker, 1) as helper:
                wrong.same(f"after {number.name} to it, it is another", helper.pid != blank, True)
                if helper.pid != blank:
                    wrong.same(f"after {number.name} to it", helper.run("result = 1"), 1)
            wrong.same("what was not used", gone(blank), True)
        blank = waiting(launcher)
        os.kill(blank, signal.SIGSTOP)
        asker.launcher.kill()  # type: ignore[attr-defined]
        wrong.same("after the launcher's death", gone(blank), True)
    with stage.launcher(PLAIN) as asker:
        with Running(asker, 1):
            blank = waiting(asker.launcher.pid)  # type: ignore[attr-defined]
        asker.sock.close()
        wrong.same("the launcher's end", asker.launcher.wait(HANGS_S), 0)  # type: ignore[attr-defined]
        wrong.same("is its end too", processes.row(blank), None)
    return wrong


@scene
def resources(stage: Stage) -> list[str]:
    """A thousand launches and refusals later the launcher holds the same descriptors, and hardly more memory."""
    wrong = Wrong()
    text = '[[helper]]\nname = "true"\ncommand = ["/usr/bin/true"]\n[[helper]]\nname = "none"\ncommand = ["/nonexistent"]\n'
    with stage.launcher(text) as asker:

        def look() -> tuple[int, int]:
            pid = asker.launcher.pid  # type: ignore[attr-defined]
            asker.ping()  # what the request before it had brought is closed when this is answered
            wrong.same("the next helper waits", waiting(pid) > 0, True)
            return len(os.listdir(f"/proc/{pid}/fd")), int(status(pid)["VmRSS"].split()[0])

        def work(count: int) -> None:
            for _ in range(count):
                helper = Running(asker, 1)
                asker.exited(helper.handle)
                asker.empty(helper.handle)
                helper.close()
                wrong.same("a missing program", refused(asker, 2), errno.ENOENT)

        work(50)
        before = look()
        work(300)
        after = look()
        wrong.same(
            "descriptors grow", after[0] > before[0], False
        )  # fewer: the last helper had not all gone before
        wrong.same("memory grows", after[1] - before[1] > 1024, False)
    return wrong


@scene
def delegated(stage: Stage) -> list[str]:
    """With a delegated cgroup each helper has a leaf of its own, which is gone with it."""
    wrong = Wrong()
    folder = f"{cgroup.own_folder()}/helperd-test-{os.getppid()}-{time.monotonic_ns()}"
    os.makedirs(folder)

    def inside() -> None:
        with open(f"{folder}/cgroup.procs", "w") as file:
            file.write("0")

    try:
        with stage.launcher(PLAIN, "--delegated", preexec_fn=inside) as asker:
            with Running(asker, 1) as helper:
                helper.run("result = 1")
                leaves = [name for name in os.listdir(folder) if name.startswith("helper-")]
                wrong.same("leaves", len(leaves), 1)
                with open(f"{folder}/{leaves[0]}/cgroup.procs") as file:
                    wrong.same("who is in it", len(file.read().split()), 1)
            wrong.same("leaves afterwards", [n for n in os.listdir(folder) if n.startswith("helper-")], [])
    finally:
        os.rmdir(folder)
    return wrong


@scene
def supervisor(stage: Stage) -> list[str]:
    """The supervisor has its own uid, no capability, no way back; its end is the launcher's end, with its status."""
    wrong = Wrong()
    path = f"{LIBRARY}/helperd/daemon.py"
    real = Path(path).read_text()
    probe = (
        Path(f"{STAGE}/bin/probe.py")
        .read_text()
        .replace("fdopen(3", "fdopen(0")
        .replace("write(4,", "write(1,")
    )
    rewrite(path, probe)
    try:
        for how, wanted in (
            ("os._exit(5)", 5),
            ("os.kill(os.getpid(), 9)", 137),
            ("os.close(3); __import__('time').sleep(9)", 137),
        ):
            process = stage.start(
                stage.config(PLAIN),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={"TERM": "x", "HOME": "/root"},
            )
            assert process.stdin
            assert process.stdout
            place = Seat(process, os.dup(process.stdin.fileno()), os.dup(process.stdout.fileno()))
            process.stdin.close()
            process.stdout.close()
            place.run(PRELUDE)
            pid = place.run("result = os.getpid()")
            found = processes.privilege(pid)
            assert found
            wrong.same("uid", set(found.uids) | set(found.gids), {DAEMON})
            wrong.same("groups", found.groups, ())
            wrong.same(
                "sets",
                [found.permitted, found.effective, found.inheritable, found.ambient, found.bounding],
                [0] * 5,
            )
            wrong.same("no_new_privs, filter", (found.no_new_privs, found.seccomp), (1, 2))
            wrong.same(
                "environment",
                sorted(place.run("result = list(os.environ)")),
                ["HELPERD_PATH", "LC_CTYPE", "PATH", "TERM"],
            )
            launch = (
                "s = socket.socket(fileno=os.dup(3)); ask(s, 3); f = ask(s, 3)[1]; keep = launch(s, f, 1)[2]\n"
                "result = int([l for l in open(f'/proc/self/fdinfo/{keep}') if l[:4] == 'Pid:'][0].split()[1])"
            )
            helper = place.run(launch)
            with contextlib.suppress(EOFError, OSError):
                place.run("s.close()\n" + how, timeout=3)
            try:
                code = process.wait(HANGS_S)
            except subprocess.TimeoutExpired:
                code = None
            wrong.same(f"status after {how}", code, wanted)
            wrong.same(f"helper after {how}", gone(helper), True)
            with contextlib.suppress(OSError):
                place.close()
    finally:
        rewrite(path, real)
    return wrong


LIVE = """
[helperd]
socket_mode = "0666"
[[helper]]
name = "interface"
command = ["builtin:interface"]
types = ["interface"]
capabilities = ["net_raw"]
[[source]]
name = "wire"
definition = "hd0:type=interface"
"""


@scene
def live_capture(stage: Stage) -> list[str]:
    """As root, the main job: packets of a veth reach a consumer of a third uid, and nobody has a capability too many."""
    wrong = Wrong()
    Stage.veth()
    process = stage.start(
        stage.config(LIVE), "--runtime-dir=/run/helperd", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        path = "/run/helperd/all.sock"
        deadline = time.monotonic() + HANGS_S
        while not os.path.exists(path):
            assert process.poll() is None, stage.said()
            assert time.monotonic() < deadline, stage.said()
            time.sleep(0.02)
        reader = seat(STRANGER)
        reader.run(
            f"s = socket.socket(socket.AF_UNIX); s.connect({path!r}); s.settimeout(0.2); got = b''; result = 1"
        )
        sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        sender.bind(("hd1", 0))
        marker = b"helperd live capture " + bytes(range(40))
        code = "try:\n  got += s.recv(1 << 20)\nexcept TimeoutError:\n  pass\nresult = got.count(b'helperd live capture ')"
        seen = 0
        while seen < 5 and time.monotonic() < deadline:
            sender.send(b"\xff" * 6 + b"\x02\0\0\0\0\x01" + b"\x88\xb5" + marker)
            seen = reader.run(code)
        sender.close()
        reader.close()
        wrong.same("packets seen by a third uid", seen >= 5, True)
        found = {pid: each for pid in processes.table() if (each := processes.privilege(pid))}
        helpers = {pid: each for pid, each in found.items() if each.uids[0] in range(60800, 61024)}
        wrong.same("helpers", len(helpers), 1)
        for pid, each in helpers.items():
            wrong.same("own ids", set(each.uids + each.gids), {each.uids[0]})
            wrong.same(
                "capabilities beyond net_raw", (each.permitted | each.effective | each.ambient) & ~0x2000, 0
            )
            wrong.same("bounding", each.bounding, 0)
            wrong.same("no_new_privs, filter", (each.no_new_privs, each.seccomp), (1, 2))
            memory, thief = f"/proc/{pid}/mem", seat(each.uids[0])
            code = "result = open({0!r}, 'rb', 0) is not None"
            with contextlib.suppress(PermissionError):
                wrong.same("its memory, to its own uid", thief.run(code.format(memory)), "refused")
            other = seat(each.uids[0])
            wrong.same("that of others of its uid", thief.run(code.format(f"/proc/{other.pid}/mem")), True)
            thief.close()
            other.close()
            wrong.same("sealed by a second filter", int(status(pid)["Seccomp_filters"]) >= 2, True)
        supervisors = [each for each in found.values() if each.uids[0] == DAEMON]
        wrong.same("supervisors", len(supervisors), 1)
        for each in supervisors:
            wrong.same(
                "its sets",
                [each.permitted, each.effective, each.inheritable, each.ambient, each.bounding],
                [0] * 5,
            )
    finally:
        process.send_signal(signal.SIGTERM)
        wrong.same("status after TERM", process.wait(HANGS_S), 0)
    wrong.same(
        "left",
        [pid for pid in processes.table() if (each := processes.privilege(pid)) and each.uids[0] != 0],
        [],
    )
    return wrong


GIVING = """
[helperd]
{helperd}
[[helper]]
name = "synthetic"
command = ["builtin:synthetic"]
types = ["synthetic"]
[[source]]
definition = "radio0:type=synthetic,rate=500"
{sink}
"""
FILES = '[[sink]]\ntype = "file"\npath = "/run/captures/a.pcapng"\nrotate_packets = 100\n'


@scene
def given_groups(stage: Stage) -> list[str]:
    """The supervisor that root starts is in the groups that its configuration names, and gives them what they are to have."""
    wrong = Wrong()
    os.mkdir("/run/captures", 0o755)
    os.chown("/run/captures", DAEMON, DAEMON)
    all_three = 'socket_group = "capture"\nadmin_group = "2500"', FILES + 'file_group = "other"\n'
    for helperd, sink, groups, sockets, files in (
        ("", FILES, (), DAEMON, DAEMON),
        ('socket_group = "capture"', "", (CAPTURE,), CAPTURE, 0),
        ('admin_group = "capture"\nsocket_group = "helperd"', FILES, (CAPTURE,), DAEMON, DAEMON),
        ("", FILES + 'file_group = "capture"\n', (CAPTURE,), DAEMON, CAPTURE),
        (*all_three, (CAPTURE, OTHER, 2500), CAPTURE, OTHER),
    ):
        config = stage.config(GIVING.format(helperd=helperd, sink=sink))
        process = stage.start(
            config, "--runtime-dir=/run/helperd", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        try:
            deadline = time.monotonic() + HANGS_S
            paths = ["/run/helperd/all.sock", "/run/helperd/control.sock", "/run/helperd/sources/radio0.sock"]
            while not all(map(os.path.exists, paths)) or (files and not os.listdir("/run/captures")):
                assert process.poll() is None, stage.said()
                assert time.monotonic() < deadline, stage.said()
                time.sleep(0.02)
            (supervisor,) = (
                each
                for pid in processes.table()
                if (each := processes.privilege(pid)) and each.uids[0] == DAEMON
            )
            wrong.same(f"its groups with {helperd} {sink}", supervisor.groups, groups)
            wrong.same("groups of the sockets", {os.stat(path).st_gid for path in paths}, {sockets})
            for name in os.listdir("/run/captures"):
                wrong.same("group of a file", os.stat(f"/run/captures/{name}").st_gid, files)
            reader, stranger = seat(OTHER, (sockets,)), seat(STRANGER, (DAEMON,) if sockets != DAEMON else ())
            code = (
                f"s = socket.socket(socket.AF_UNIX); s.connect({paths[0]!r}); result = len(s.recv(100)) > 0"
            )
            wrong.same("a member reads", reader.run(code), True)
            with contextlib.suppress(PermissionError):
                wrong.same("somebody else reads", stranger.run(code), "refused")
            reader.close()
            stranger.close()
        finally:
            process.send_signal(signal.SIGTERM)
            wrong.same("status after TERM", process.wait(HANGS_S), 0)
            for name in os.listdir("/run/captures"):
                os.unlink(f"/run/captures/{name}")
    for helperd, sink in (
        ('socket_group = "nosuch"', ""),
        ('admin_group = "root"', ""),
        ("", FILES + 'file_group = "0"\n'),
    ):
        process = stage.start(
            stage.config(GIVING.format(helperd=helperd, sink=sink)), "--runtime-dir=/run/helperd"
        )
        wrong.same(f"status with {helperd} {sink}", process.wait(HANGS_S), 78)
    said = stage.said()
    for text in (
        "helpers.toml:3: bad-value: this machine has no group 'nosuch'",
        "root is the group of root's own",
    ):
        wrong.same(f"said {text}", text in said, True)
    return wrong


def main() -> None:
    """Play the named scenes, or all of them."""
    stage = Stage()
    for name in sys.argv[1:] or SCENES:
        try:
            wrong = SCENES[name](stage)
        except Exception as error:
            say(
                scene=name, wrong=[traceback.format_exc()[-1500:] + stage.said()[-800:]], raised=raised(error)
            )
        else:
            say(scene=name, wrong=wrong)
        with contextlib.suppress(OSError):
            os.unlink(stage.log)


_ = EMPTY, EXITED, connect

if __name__ == "__main__":
    main()
