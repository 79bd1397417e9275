"""The installed product as its users meet it: scripts/install, `helperd capture`, `helperd doctor`, the uninstall.

tools.py NAME... as process 1 of new namespaces; prints {"scene", "wrong"}. /etc, /opt, /usr/local and /run are copies of
the stage's own, so that the real install script runs and nothing of this machine changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from helperd.config.request import MAGIC, PING, WIRE
from helperd.sandbox import processes
from tests.attack.scenes import Wrong
from tests.attack.stage import (
    ALLOWED,
    LIBRARY,
    OTHER,
    ROOT,
    STAGE,
    STRANGER,
    Stage,
    interpreter,
    mutate,
    raised,
    say,
)
from tests.patience import HANGS_S

HELPERD = "/usr/local/bin/helperd"
SOCKET = "/run/helperd-launcher/socket"
CONFIG = "/etc/helperd/helpers.toml"
SITE_CONFIG = "/etc/helperd/conf.d/test.toml"
SITE_HELPERS = """
[[helper]]
name = "pcapfile"
command = ["builtin:pcapfile"]
types = ["pcapfile"]
groups = ["tty"]                    # nobody's here: so the launcher is asked
[[helper]]
name = "synthetic"
command = ["builtin:synthetic"]
types = ["synthetic"]
groups = ["tty"]
[[allow]]
group = "helperd"
helpers = ["pcapfile", "synthetic"]
"""
SOURCES = """
[[source]]
name = "replay"
definition = "demo:type=pcapfile,loop=true"
[[source]]
definition = "radio0:type=synthetic"
"""
SYSTEM_PYTHON = "/usr/bin/python3"
SITE = "/opt/helperd/.venv/lib/python{}.{}/site-packages".format(*sys.version_info[:2])
SCENES: dict[str, Callable[[Stage], list[str]]] = {}
DEMO = "demo:type=pcapfile"
RADIO = "radio0:type=synthetic"


def scene(function: Callable[[Stage], list[str]]) -> Callable[[Stage], list[str]]:
    """Put a scene on the list."""
    SCENES[function.__name__] = function
    return function


def linked(place: str) -> None:
    """Put a directory of links into the real one in its place: what is made there does not reach the machine."""
    real, copy = f"{STAGE}/real{place}", f"{STAGE}/copy{place}"
    os.makedirs(real)
    os.makedirs(copy)
    subprocess.run(["mount", "--bind", place, real], check=True)
    for name in os.listdir(place):
        if name != "helperd":
            os.symlink(f"{real}/{name}", f"{copy}/{name}")
    subprocess.run(["mount", "--bind", copy, place], check=True)


def machine() -> None:
    """Give this mount namespace what an installation writes to, of its own, without a user helperd."""
    for name in ("passwd", "group"):
        subprocess.run(["umount", f"/etc/{name}"], check=True)
    plugins = [str(path) for path in Path("/usr/lib").glob("**/wireshark/extcap")]
    linked("/usr/share")
    linked("/var/lib")
    for folder in ("/etc", "/opt", "/usr/local", *plugins):
        copy = f"{STAGE}/copy{folder}"
        if folder in {"/etc", *plugins}:
            shutil.copytree(folder, copy, symlinks=True)
        else:
            os.makedirs(copy)
        subprocess.run(["mount", "--bind", copy, folder], check=True)
    for name in ("passwd", "group", "shadow", "gshadow"):
        path = Path(f"/etc/{name}")
        rows = [
            row
            for row in path.read_text().splitlines()
            if row.split(":")[0] not in {"helperd", "helperd-read", "me", "third"} and f":{ME}:" not in row
        ]
        path.write_text("\n".join(rows) + "\n")
    os.makedirs("/usr/local/bin")
    fetched()
    os.makedirs(f"{STAGE}/checkout")
    for name in ("helperd", "config", "packaging", "scripts"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, f"{STAGE}/checkout/{name}", ignore=ignore)
    subprocess.run(["chmod", "-R", "go-w", f"{STAGE}/checkout"], check=True)
    mutate(f"{STAGE}/checkout/helperd", inside=False)


def fetched() -> None:
    """Put what an earlier install would have fetched into its place: there is no network here."""
    library = next(Path(f"{LIBRARY}/.venv").glob("lib/python*/site-packages"))
    shutil.copytree(library, SITE, symlinks=True)
    pins = (ROOT / "scripts/requirements.txt").read_bytes()
    Path("/opt/helperd/.venv/pins").write_text(hashlib.sha256(pins).hexdigest() + "\n")


def tree(*folders: str) -> dict[str, tuple[int, int, int, int]]:
    """Return mode, owner and (for files) size of everything below some directories; byte code left out."""
    found = {}
    for folder in folders:
        for place, _, names in os.walk(folder):
            if "__pycache__" in place or place.startswith((STAGE, "/opt/helperd/.venv")):
                continue
            for path in (place, *(f"{place}/{name}" for name in names)):
                status = os.lstat(path)
                size = 0 if os.path.isdir(path) else status.st_size
                found[path] = (status.st_mode, status.st_uid, status.st_gid, size)
    return found


def install(*words: str, status: int = 0) -> str:
    """Run the install script, return what it says."""
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
    done = subprocess.run(
        [f"{STAGE}/checkout/scripts/install", *words],
        env=env, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == status, done.stdout
    return done.stdout


def ids(uid: int, *groups: int) -> dict[str, Any]:
    """Return the options that make a process another user's."""
    return {"user": uid, "group": uid, "extra_groups": list(groups)} if uid else {}


def run(uid: int, groups: tuple[int, ...], *words: str, timeout: float = HANGS_S) -> tuple[int, bytes, str]:
    """Run the installed command as some user; return status, standard output and error."""
    done = subprocess.run(
        [HELPERD, *words],
        env={"PATH": "/usr/bin:/bin"}, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, check=False,
        timeout=timeout, **ids(uid, *groups),
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr.decode()


@contextmanager
def launcher() -> Iterator[int]:
    """`helperd launcher`, as any init would start it; yields the gid of the socket."""
    with open(f"{STAGE}/launcher.log", "ab") as log:
        process = subprocess.Popen([HELPERD, "launcher"], env={"PATH": "/usr/bin:/bin"}, cwd="/", stderr=log)
    deadline = time.monotonic() + HANGS_S
    while True:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            if sock.connect_ex(SOCKET) == 0:
                break
        said = Path(f"{STAGE}/launcher.log").read_text()
        assert process.poll() is None, said
        assert time.monotonic() < deadline, said
        time.sleep(0.01)
    try:
        yield os.stat(SOCKET).st_gid
    finally:
        process.terminate()
        process.wait(HANGS_S)


def launcher_pid() -> int:
    """The running launcher's pid; it listens before it has its lock, and answers after it has shed its capabilities."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(HANGS_S)
        sock.connect(SOCKET)
        sock.send(WIRE.pack(MAGIC, PING, 0, 0, 0, 0, 1))
        assert sock.recv(WIRE.size)
    return int(Path("/run/helperd-launcher/pool-60800.lock").read_text().split()[0])


def packets(data: bytes) -> int:
    """Return how many packets a whole pcapng stream has; raises AssertionError when it ends inside a block."""
    at = count = 0
    while at < len(data):
        kind, size = (int.from_bytes(data[at + n : at + n + 4], "little") for n in (0, 4))
        assert size >= 12, "no block"
        assert at + size <= len(data), "cut inside a block"
        count += kind == 6
        at += size
    return count


def helpers() -> list[int]:
    """Return the pids of processes with a uid of the pool; not the launcher's own child that ends helpers."""
    pool = range(60800, 61184)
    found = [pid for pid in processes.table() if (each := processes.privilege(pid)) and each.uids[0] in pool]
    return [pid for pid in found if b"/launch.py\0" not in cmdline(pid)]


def cmdline(pid: int) -> bytes:
    """A process's arguments; empty when it has gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@scene
def installed(stage: Stage) -> list[str]:
    """Install, install again, uninstall, install, purge: each leaves what it says, and a purge nothing."""
    wrong = Wrong()
    machine()
    roots = ("/etc", "/opt", "/usr/local", "/run", "/usr/share")
    before = tree(*roots)
    said = install("--nonsense", status=64)
    wrong.same("usage", "usage:" in said, True)
    said = install()
    for text in (
        "helperd is in /opt/helperd",
        "made user helperd and groups helperd and helperd-read",
        f"wrote {CONFIG}",
        "done",
    ):
        wrong.same(f"says {text!r}", text in said, True)
    first = tree(*roots)
    for path, (mode, uid, gid, _) in first.items():
        if path.startswith("/opt/helperd") and (uid or gid or mode & 0o022) and not os.path.islink(path):
            wrong.append(f"{path} is not root's alone: {mode:o} {uid}:{gid}")
    wrong.same("version", run(STRANGER, (), "--version")[0], 0)
    time.sleep(0.01)
    said = install()
    wrong.same("the second time", "kept" in said and "made user" not in said, True)
    second = tree(*roots)
    wrong.same(
        "changes of the second time",
        {p for p in first.keys() | second if first.get(p) != second.get(p)},
        set(),
    )
    with launcher():
        said = install("--uninstall", status=1)
        wrong.same("beside a running launcher", "is running" in said, True)
        wrong.same("nothing was removed", os.path.exists(HELPERD), True)
    said = install("--uninstall")
    wrong.same("the configuration is kept", os.path.exists(CONFIG), True)
    left = {path for path in tree(*roots) if path not in before}
    kept = ["/etc/helperd", "/etc/helperd/conf.d", CONFIG]
    wrong.same("left by --uninstall", sorted(left), kept)
    install("--uninstall")  # twice is no error
    Path("/usr/local/bin/helperd").write_text("somebody else's")
    fetched()
    said = install()
    wrong.same(
        "another's command", (Path(HELPERD).read_text(), "not ours" in said), ("somebody else's", True)
    )
    wrong.same("the old configuration", f"kept {CONFIG}" in said, True)
    install("--purge")
    wrong.same("another's command after --purge", Path(HELPERD).read_text(), "somebody else's")
    os.unlink(HELPERD)
    spared = {"/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/subuid-", "/etc/subgid-"}
    left = {path for path in tree(*roots) if path not in before} - spared
    wrong.same("left by --purge", sorted(left), [])
    for name in ("passwd", "group"):
        wrong.same(f"helperd in {name}", "helperd:" in Path(f"/etc/{name}").read_text(), False)
    return wrong


def gid_of(group: str) -> int:
    """The number of a group."""
    return int(subprocess.getoutput(f"getent group {group}").split(":")[2])


def stand_in(name: str, text: str) -> None:
    """A program of the machine's, replaced for the install script."""
    os.makedirs(f"{STAGE}/stand-ins", exist_ok=True)
    path = Path(f"{STAGE}/stand-ins/{name}")
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)


@scene
def failed_install(stage: Stage) -> list[str]:
    """An install that fails, or is ended, wherever that happens, leaves nothing; an update, what was there before."""
    wrong = Wrong()
    machine()
    roots = ("/etc", "/opt", "/usr/local", "/run", "/usr/share", "/var/lib")
    spared = {"/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/subuid-", "/etc/subgid-"}

    def machine_now() -> dict[str, Any]:
        found = {path: row for path, row in tree(*roots).items() if path not in spared}
        users = [sorted(Path(f"/etc/{name}").read_text().splitlines()) for name in ("passwd", "group")]
        return {"users": users} | {
            path: (row, Path(path).read_bytes() if os.path.isfile(path) and "helperd" in path else b"")
            for path, row in found.items()
            if path not in {"/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow"}
        }

    at = 'case "$*" in *{0}*) {1} ;; esac\nexec /usr/bin/{2} "$@"\n'
    failures = {
        "no library, and no network": None,
        "no user can be made": ("useradd", "exit 9\n"),
        "no group can be made": ("groupadd", "exit 9\n"),
        "the disk is full at the code": ("cp", at.format("checkout/helperd", "exit 1", "cp")),
        "the disk is full at the configuration": ("mv", at.format("helpers.toml", "exit 1", "mv")),
        "the disk is full at a unit": ("mv", at.format("helperd.service", "exit 1", "mv")),
        "the last link": ("ln", at.format("sockets.target.wants", "exit 1", "ln")),
        "ended at the configuration": ("mv", at.format("helpers.toml", "kill -TERM $PPID; sleep 1", "mv")),
        "interrupted at the last link": ("ln", at.format("wants", "kill -INT $PPID; sleep 1", "ln")),
    }
    stand_in("systemd-sysusers", "exit 1\n")  # so that useradd and groupadd are asked
    stand_in("apt-get", "exit 100\n")
    for when in ("new", "an update"):
        if when != "new":
            install()
            Path("/opt/helperd/helperd/old").write_text("of the version before")
            Path("/etc/systemd/system/helperd.service").write_text("of the version before")
            kept = ("useradd", "groupadd", "helpers.toml")  # users and the configuration are there already
            failures = {
                name: how
                for name, how in failures.items()
                if how and not any(word in " ".join(how) for word in kept)
            }
        before = machine_now()
        for name, how in failures.items():
            if how:
                stand_in(*how)
            else:
                os.rename("/opt/helperd", "/opt/hidden")
                before = machine_now()
            done = attempt_install(f"{STAGE}/stand-ins:")
            wrong.same(f"{when}, {name}: failed {done.stdout[-300:]!r}", done.returncode > 0, True)
            after = machine_now()
            changed = {path for path in before.keys() | after if before.get(path) != after.get(path)}
            wrong.same(f"{when}, {name}: left", changed, set())
            if how:
                os.unlink(f"{STAGE}/stand-ins/{how[0]}")
            else:
                os.rename("/opt/hidden", "/opt/helperd")
                before = machine_now()
    install()
    wrong.same("afterwards", os.path.exists("/opt/helperd/helperd/old"), False)
    return wrong


def attempt_install(first: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the install script, wherever that leads, with other programs first in its path."""
    return subprocess.run(
        [f"{STAGE}/checkout/scripts/install"],
        env={"PATH": f"{first}/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "PIP_NO_INDEX": "1", **environment}, cwd="/",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=120,
    )  # fmt: skip


@scene
def whose_checkout(stage: Stage) -> list[str]:
    """Nothing of a checkout that somebody else may write is run or installed by root, neither by install nor by bootstrap."""
    wrong = Wrong()
    machine()
    checkout = f"{STAGE}/checkout"
    subprocess.run(["useradd", "--uid", "2010", "--user-group", "me"], check=True)
    of_group = lambda path: (os.chown(path, 0, OTHER), os.chmod(path, 0o775))  # noqa: E731
    plants: dict[str, Callable[[], object]] = {
        "a module of another user": lambda: os.chown(f"{checkout}/helperd/privsep.py", OTHER, 0),
        "a module that all may write": lambda: os.chmod(f"{checkout}/helperd/errors.py", 0o666),
        "a folder that all may write": lambda: os.chmod(f"{checkout}/helperd/sandbox", 0o777),
        "a folder that all may write, sticky": lambda: os.chmod(f"{checkout}/helperd/wire", 0o1777),
        "a folder of a group": lambda: of_group(f"{checkout}/helperd/config"),
        "pins that a group may write": lambda: of_group(f"{checkout}/scripts/requirements.txt"),
        "the checkout itself": lambda: os.chmod(checkout, 0o777),
    }
    by_install: dict[str, Callable[[], object]] = {
        "a unit of another user": lambda: os.chown(f"{checkout}/packaging/helperd.service", OTHER, 0),
        "a ready helper": lambda: os.chmod(f"{checkout}/config/helpers.d/tcpdump.toml", 0o666),
        "the folder above": lambda: os.chmod(STAGE, 0o777),
        "a link": lambda: os.symlink("/home", f"{checkout}/helperd/link"),
    }
    shutil.copytree(checkout, f"{STAGE}/clean", symlinks=True)
    stand_in("apt-get", "exit 100\n")  # who goes on, goes on to nothing
    path = f"{STAGE}/stand-ins:"
    before = tree("/opt", "/etc/helperd", "/etc/systemd/system")
    for name, plant in (plants | by_install).items():
        plant()
        done = attempt_install(path)
        wrong.same(
            f"install, {name}: {done.stdout!r}", (done.returncode, "checkout" in done.stdout), (77, True)
        )
        wrong.same(
            f"install, {name}: nothing changed", tree("/opt", "/etc/helperd", "/etc/systemd/system"), before
        )
        if name in plants:
            done = subprocess.run(
                [f"{checkout}/scripts/bootstrap"], env={"PATH": f"{path}/usr/bin:/bin", "PIP_NO_INDEX": "1"}, capture_output=True, text=True, check=False
            )  # fmt: skip
            wrong.same(
                f"bootstrap, {name}: {done.stderr!r}",
                (done.returncode, "root's rights" in done.stderr),
                (1, True),
            )
            wrong.same(f"bootstrap, {name}: no .venv", os.path.exists(f"{checkout}/.venv"), False)
        shutil.rmtree(checkout)
        shutil.copytree(f"{STAGE}/clean", checkout, symlinks=True)
        os.chmod(STAGE, 0o755)
    subprocess.run(["chown", "-R", "2010:2010", checkout], check=True)
    subprocess.run(["chmod", "-R", "g+w", checkout], check=True)  # as a umask of 002 leaves it
    for caller, fine in (("", False), ("2010", True), (str(OTHER), False)):
        done = attempt_install(path, **({"SUDO_UID": caller} if caller else {}))
        wrong.same(f"a user's own, called by {caller or 'root'}: {done.stdout!r}", done.returncode == 0, fine)
    subprocess.run(["useradd", "--uid", "2011", "--groups", "me", "third"], check=True)
    done = attempt_install(path, SUDO_UID="2010")
    wrong.same(f"a group with two members: {done.stdout!r}", done.returncode, 77)
    return wrong


@scene
def reading(stage: Stage) -> list[str]:
    """Members of helperd-read read what the daemon captures, and that is all; of helperd, capture, and that is all."""
    wrong = Wrong()
    machine()
    install()
    Stage.veth()
    Path("/etc/helperd/conf.d/node.toml").write_text(
        '[[helper]]\nname = "synthetic"\ncommand = ["builtin:synthetic"]\ntypes = ["synthetic"]\n'
        '[[source]]\nname = "radio0"\ndefinition = "radio0:type=synthetic,rate=500"\n'
    )
    uid, read = int(subprocess.getoutput("id -u helperd")), gid_of("helperd-read")
    wrong.same(
        "the supervisor's user is in it",
        read in map(int, subprocess.getoutput("id -G helperd").split()),
        True,
    )
    with launcher() as group:
        os.makedirs("/run/helperd")
        os.chown("/run/helperd", uid, group)
        argv = [HELPERD, "run", "-c", CONFIG, "--launcher", SOCKET, "--runtime-dir", "/run/helperd"]
        with open(f"{STAGE}/daemon.log", "ab") as log:
            daemon = subprocess.Popen(
                argv, env={"PATH": "/usr/bin:/bin"}, stderr=log, stdout=log, user=uid, group=group, extra_groups=[read]
            )  # fmt: skip
        try:
            deadline = time.monotonic() + HANGS_S
            while not os.path.exists("/run/helperd/sources/radio0.sock"):
                assert daemon.poll() is None, Path(f"{STAGE}/daemon.log").read_text()
                assert time.monotonic() < deadline, Path(f"{STAGE}/daemon.log").read_text()
                time.sleep(0.02)
            reader, member = (OTHER, (read,)), (ALLOWED, (group,))
            live = ["capture", "hd0:type=interface", "-w", "-", "-a", "duration:1"]
            for who, name, words, good in (
                (reader, "a reader", ["status"], True),
                (reader, "a reader", ["tap", "radio0", "-w", "-", "-c", "3"], True),
                (reader, "a reader", ["stop", "radio0"], False),
                (reader, "a reader", ["restart", "radio0"], False),
                (reader, "a reader", ["reload"], False),
                (reader, "a reader", live, False),
                (member, "a member", live, True),
                (member, "a member", ["status"], False),
                (member, "a member", ["tap", "radio0", "-w", "-", "-c", "3"], False),
                (member, "a member", ["stop", "radio0"], False),
                ((STRANGER, ()), "a stranger", ["status"], False),
                ((STRANGER, ()), "a stranger", live, False),
                ((uid, (group, read)), "the supervisor's user", ["stop", "radio0"], True),
            ):
                status, out, told = run(*who, *words)
                wrong.same(f"{name}: {words[0]} {out[:60]!r} {told!r}", status == 0, good)
                if words[0] == "tap" and good:
                    wrong.same(f"{name}: packets", packets(out), 3)
                if not good:
                    wrong.same(
                        f"{name}: {words[0]}, a cure in {told!r}", "sudo" in told or "group" in told, True
                    )
            deadline = time.monotonic() + HANGS_S
            while helpers() and time.monotonic() < deadline:  # the last one has been told to end
                time.sleep(0.01)
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                wrong.same("helpers left", helpers(), [])
                wrong.same("root asks the launcher", sock.connect_ex(SOCKET), 0)
        finally:
            daemon.terminate()
            daemon.wait(HANGS_S)
    return wrong


@scene
def capture(stage: Stage) -> list[str]:
    """`helperd capture` as members of the group and as others; every way to end it; nothing is left running."""
    wrong = Wrong()
    machine()
    install()
    Path(SITE_CONFIG).write_text(SITE_HELPERS)
    text = Path(CONFIG).read_text()
    Path(CONFIG).write_text(text.replace('group = "helperd"', f"uid = {ALLOWED}", 1))
    Stage.veth()
    with launcher() as group:
        member: tuple[int, tuple[int, ...]] = (OTHER, (group,))
        place = f"{STAGE}/open/capture.pcapng"
        wrong.same(
            "group of the socket", group, int(subprocess.getoutput("getent group helperd").split(":")[2])
        )
        status, _, said = run(*member, "capture", DEMO, "-w", place, "-c", "5")
        wrong.same("-w FILE -c", (status, packets(Path(place).read_bytes())), (0, 5))
        wrong.same("its owner", os.stat(place).st_uid, OTHER)
        wrong.same("what it says", "Packets captured: 5" in said, True)
        status, out, said = run(*member, "capture", DEMO, "-w", "-", "-q")
        wrong.same("-w - to the end", (status, packets(out) > 100, said), (0, True, ""))
        began = time.monotonic()
        status, out, _ = run(*member, "capture", RADIO, "-w", "-", "-a", "duration:1")
        wrong.same("-a duration", (status, packets(out) > 0, time.monotonic() - began >= 1), (0, True, True))
        status, out, _ = run(*member, "capture", RADIO, "-w", "-", "-a", "packets:7")
        wrong.same("-a packets", (status, packets(out)), (0, 7))
        rows = [
            ("a malformed definition", (*member, "capture", ":::", "-w", "-"), 64, "bad-definition"),
            ("an unknown type", (*member, "capture", "x:type=nosuch", "-w", "-"), 1, "nosuch"),
            ("a missing file", (*member, "capture", "/none.pcap:type=pcapfile", "-w", "-"), 1, "/none.pcap"),
            ("a helper of no rule", (*member, "capture", "hd0:type=interface", "-w", "-"), 1, "[[allow]]"),
            ("a full disk", (*member, "capture", DEMO, "-w", "/dev/full"), 111, "No space left"),
            ("a directory that is missing", (*member, "capture", DEMO, "-w", "/none/x"), 111, "No such file"),
            ("no member", (STRANGER, (), "capture", DEMO, "-w", "-"), 1, "sudo usermod -aG helperd 2003"),
        ]
        for name, words, wanted, text in rows:
            status, out, said = run(*words)
            wrong.same(f"{name}: status", status, wanted)
            wrong.same(f"{name}: {said!r} says", text in said and "Traceback" not in said, True)
        argv, env = [HELPERD, "capture", f"{DEMO},loop=true", "-w", "-"], {"PATH": "/usr/bin:/bin"}
        for name, wanted in (("the reader goes", 0), ("TERM", 0), ("INT", 0)):
            with subprocess.Popen(
                argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **ids(*member[:1], *member[1])
            ) as process:
                assert process.stdout
                assert process.stderr
                process.stdout.read(4096)
                wrong.same(f"{name}: helpers meanwhile", len(helpers()), 1)
                if name == "the reader goes":
                    process.stdout.close()
                else:
                    process.send_signal(getattr(signal, f"SIG{name}"))
                    while select.select([process.stdout], [], [], 20)[0] and process.stdout.read(65536):
                        pass
                said = process.stderr.read().decode()
                wrong.same(f"{name}: status", process.wait(HANGS_S), wanted)
                wrong.same(f"{name}: says {said!r}", "Traceback" in said or "bug" in said, False)
        with subprocess.Popen(
            argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **ids(OTHER, group)
        ) as process:
            assert process.stdout
            assert process.stderr
            process.stdout.read(4096)
            os.kill(helpers()[0], signal.SIGKILL)
            while process.stdout.read(65536):
                pass
            said = process.stderr.read().decode()
            wrong.same("a helper that dies: status", process.wait(HANGS_S), 1)
            wrong.same(f"a helper that dies: {said!r} says why", "SIGKILL" in said or "signal" in said, True)
        sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        sender.bind(("hd1", 0))
        argv = [HELPERD, "capture", "hd0:type=interface", "-w", place + "2", "-c", "3"]
        with subprocess.Popen(argv, env=env, stderr=subprocess.PIPE, **ids(ALLOWED, group)) as process:
            deadline = time.monotonic() + HANGS_S
            while process.poll() is None and time.monotonic() < deadline:
                sender.send(b"\xff" * 6 + b"\x02\0\0\0\0\x01" + b"\x88\xb5" + bytes(60))
                time.sleep(0.005)
            assert process.stderr
            said = process.stderr.read().decode()
            wrong.same(f"live, without any right of its own: {said!r}", process.wait(HANGS_S), 0)
        sender.close()
        wrong.same("its packets", packets(Path(place + "2").read_bytes()), 3)
        deadline = time.monotonic() + HANGS_S
        while helpers() and time.monotonic() < deadline:
            time.sleep(0.01)
        wrong.same("helpers left", helpers(), [])
    return wrong


def checks(uid: int, groups: tuple[int, ...], *words: str) -> tuple[int, dict[str, Any]]:
    """Run `helperd doctor --json` as some user; return its status, and its rows by "section/what"."""
    status, out, said = run(uid, groups, "doctor", "--json", *words)
    assert out, said
    told = json.loads(out)
    assert told["ok"] == (status == 0)
    for row in told["checks"]:
        assert row["good"] or row["fix"], row
        assert "\n" not in row["fix"] + row["text"], row
    return status, {f"{row['section']}/{row['what']}": row for row in told["checks"]}


@scene
def doctor(stage: Stage) -> list[str]:
    """What doctor says on an installed machine: to root, to a member, to a stranger; of healthy helpers, of one that is not."""
    wrong = Wrong()
    machine()
    install()
    _, rows = checks(STRANGER, ())
    wrong.same("no launcher yet", rows["launcher/socket"]["good"], False)
    with launcher() as group:
        status, rows = checks(OTHER, (group,))
        wrong.same(
            "a member's status",
            (status, [row for row in rows.values() if row["needed"] and not row["good"]]),
            (0, []),
        )
        wrong.same("a member's launcher", f"profiles at {SOCKET}" in rows["launcher/answers"]["text"], True)
        status, rows = checks(STRANGER, ())
        wrong.same("a stranger's status", status, 1)
        wrong.same("a stranger's launcher", "not in group helperd" in rows["launcher/answers"]["text"], True)
        wrong.same("a stranger's membership", rows["accounts/membership"]["good"], False)
        wrong.same("to root", checks(0, ())[1]["launcher/answers"]["good"], True)
    text = Path(CONFIG).read_text()
    Path(CONFIG).write_text(text[: text.index("[[allow]]\ngroup")])
    hidden = "/etc/helperd/conf.d/{}.toml".format  # hides the one of the package that has a rule of its own
    for name in ("rtl_433", "tcpdump"):
        Path(hidden(name)).write_text("# nothing\n")
    with launcher() as group:
        status, rows = checks(OTHER, (group,))
        wrong.same("without a rule", (status, "[[allow]]" in rows["launcher/answers"]["fix"]), (1, True))
    for name in ("rtl_433", "tcpdump"):
        os.unlink(hidden(name))
    Path(CONFIG).write_text(text + "\n[[helper]]\nname = 3\n")
    status, rows = checks(0, ())
    wrong.same(
        "a mistake",
        (status, any("name" in row["text"] for row in rows.values() if not row["good"])),
        (1, True),
    )
    Path(CONFIG).write_text(text)
    os.chmod(CONFIG, 0o666)
    status, rows = checks(0, ())
    wrong.same(
        "a writable configuration",
        (status, "written by others" in rows[f"configuration/{CONFIG}"]["text"]),
        (1, True),
    )
    os.chmod(CONFIG, 0o644)
    text += SITE_HELPERS.replace('groups = ["tty"]', "") + SOURCES
    Path(CONFIG).write_text(text)
    uid = int(subprocess.getoutput("id -u helperd"))
    wrong.same("uid of helperd is no helper's", uid < 60800, True)
    with launcher() as group:
        env = {"PATH": "/usr/bin:/bin", "RUNTIME_DIRECTORY": "/run/helperd"}
        os.makedirs("/run/helperd")
        os.chown("/run/helperd", uid, group)
        argv = [HELPERD, "run", "-c", CONFIG, "--launcher", SOCKET, "--runtime-dir", "/run/helperd"]
        with open(f"{STAGE}/daemon.log", "ab") as log:
            daemon = subprocess.Popen(
                argv,
                env=env,
                stderr=log,
                stdout=log,
                user=uid,
                group=group,
                extra_groups=[gid_of("helperd-read")],
            )
        deadline = time.monotonic() + HANGS_S
        while len(helpers()) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        found: dict[str, Any] = {}
        while time.monotonic() < deadline:
            status, rows = checks(0, (), "--security", "--runtime-dir", "/run/helperd")
            found = {name: row for name, row in rows.items() if name.startswith("running helpers/")}
            if len(found) == 2 and all("tier 3 of 3" in row["text"] for row in found.values()):
                break
        wrong.same("running helpers", sorted(found), ["running helpers/radio0", "running helpers/replay"])
        wrong.same("as declared", (status, [row["good"] for row in found.values()]), (0, [True, True]))
        texts = [row["text"] for row in found.values()]
        wrong.same("their words", texts, ["declared none; observed none; tier 3 of 3"] * 2)
        changed = text.replace('types = ["synthetic"]', 'types = ["synthetic"]\nseal = 0', 1)
        Path(CONFIG).write_text(changed)  # the file now says something else than what runs
        status, rows = checks(0, (), "--security", "--runtime-dir", "/run/helperd")
        bad = [row for row in rows.values() if row["section"] == "running helpers" and not row["good"]]
        wrong.same("a difference", (status, [row["what"] for row in bad]), (1, ["radio0"]))
        wrong.same("its fix", "filter" in bad[0]["fix"] if bad else "", True)
        daemon.terminate()
        daemon.wait(HANGS_S)
    return wrong


ME, MY_GROUP = 2010, 2010
HOME = "/home/me"
CHECKOUT = f"{HOME}/helperd"
MINE = f"{CHECKOUT}/my.toml"


def a_home() -> None:
    """A plain user with a checkout in a home that others of its group may write; a stand-in for sudo."""
    os.makedirs(f"{STAGE}/home")
    subprocess.run(["mount", "--bind", f"{STAGE}/home", "/home"], check=True)
    subprocess.run(["useradd", "--uid", str(ME), "--create-home", "me"], check=True)
    os.symlink(f"{STAGE}/checkout", f"{STAGE}/unused")  # the stage's own is root's
    shutil.copytree(f"{STAGE}/checkout", CHECKOUT)
    library = next(Path(f"{LIBRARY}/.venv").glob("lib/python*/site-packages"))
    shutil.copytree(library, f"{CHECKOUT}/.venv/lib/{library.parent.name}/site-packages")
    os.makedirs(f"{CHECKOUT}/.venv/bin")
    for name, module in (("helperd", "helperd.cli"), ("helperd-extcap", "helperd.extcap")):
        path = Path(f"{CHECKOUT}/.venv/bin/{name}")
        path.write_text(
            f"#!{interpreter()} -IS\nimport sys\n\nsys.path += ['{CHECKOUT}', "
            f"'{CHECKOUT}/.venv/lib/{library.parent.name}/site-packages']\nfrom {module} import main\n\nsys.exit(main())\n"
        )
        path.chmod(0o755)
    config = Path(f"{CHECKOUT}/config/helpers.toml").read_text()
    begin, end = config.index('# [[helper]]\n# name = "interface"'), config.index("# --- sources")
    block = config[begin:end].replace("# [[", "[[").replace("\n# ", "\n").replace("eth0:", "hd0:")
    Path(MINE).write_text(config[:begin] + block.replace("\n#\n", "\n\n") + config[end:])
    subprocess.run(["chown", "-R", f"{ME}:{MY_GROUP}", HOME], check=True)
    sudo = Path("/usr/local/bin/sudo")
    sudo.write_text(f'#!/bin/sh\nSUDO_UID={ME} exec "$@"\n')
    sudo.chmod(0o755)


def my_groups() -> list[int]:
    """The groups that a new login of the user would have."""
    return [int(word) for word in subprocess.getoutput("id -G me").split() if int(word) != MY_GROUP]


def mine(
    *words: str, groups: list[int] | None = None, program: str = "", **options: Any
) -> subprocess.Popen[str]:
    """Start a command of the user's, with the groups of a new login."""
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "XDG_RUNTIME_DIR": f"{HOME}/run", "HOME": HOME}
    given = my_groups() if groups is None else groups
    argv = [program or f"{CHECKOUT}/.venv/bin/helperd", *words]
    return subprocess.Popen(
        argv, cwd=CHECKOUT, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        user=ME, group=MY_GROUP, extra_groups=given, **options,
    )  # fmt: skip


def said(*words: str, program: str = "", groups: list[int] | None = None) -> str:
    """Run a command of the user's and return all that it says."""
    return mine(*words, program=program, groups=groups).communicate(timeout=60)[0]


def carry_out(text: str, running: list[subprocess.Popen[bytes]]) -> str:
    """Do what the end of a refusal says, as root would; return the command."""
    command = "sudo " + text[text.rindex("sudo ") :].removeprefix("sudo ").splitlines()[0]
    if 'printf "' in text:
        command = text[text.index('printf "') :].splitlines()[0]
    command, _, then = command.partition(", ")
    env = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
    if then == "in another terminal":
        running.append(subprocess.Popen(command.split(), env=env, stderr=subprocess.DEVNULL, cwd="/"))
        deadline = time.monotonic() + HANGS_S
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            while sock.connect_ex(SOCKET) != 0:
                assert time.monotonic() < deadline, command
                time.sleep(0.01)
    else:
        done = subprocess.run(
            ["sh", "-c", command], env=env, cwd="/", capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    return command


@contextmanager
def my_daemon() -> Iterator[None]:
    """`helperd run -c my.toml` of the user's, until it ends."""
    with mine("run", "-c", MINE) as process:
        try:
            out = said("wait", "--running", "replay", "--timeout", "20s")
            assert process.poll() is None, process.communicate()[0]
            assert "replay" in said("status"), out
            yield
        finally:
            process.terminate()
            process.communicate(timeout=HANGS_S)


def flood() -> tuple[threading.Event, threading.Thread]:
    """Send frames to the other end of the pair until told otherwise."""
    enough = threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
            sender.bind(("hd1", 0))
            while not enough.wait(0.01):
                sender.send(b"\xff" * 6 + b"\x02\0\0\0\0\x01" + b"\x88\xb5" + bytes(60))

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return enough, thread


def walk(wrong: Wrong, steps: list[str], attempt: Callable[[], str]) -> None:
    """Try, do what the refusal says, try again, until it works; the cures have to be these, in this order."""
    running: list[subprocess.Popen[bytes]] = []
    taken: list[str] = []
    try:
        for _ in range(len(steps) + 1):
            out = attempt()
            if "sudo" not in out:
                break
            for word in ("chown", "--unprivileged"):
                wrong.same(f"{word} in {out!r}", word in out, False)
            taken.append(carry_out(out, running))
        wrong.same("the road", taken, steps)
        wrong.same(f"at its end {out!r}", "packets" in out, True)
    finally:
        for process in running:
            process.terminate()
            process.wait(HANGS_S)


def my_capture(*options: str) -> str:
    """`helperd capture` on hd0 as a new login of the user's would: what it says, and whether packets came."""
    place = f"{HOME}/out.pcapng"
    out = said("capture", *options, "hd0:type=interface", "-c", "3", "-w", place)
    return out.lower() if "Packets captured: 3" in out else out


def my_run() -> str:
    """`helperd run` with hd0 among the sources: what status says of it, once it runs or has failed."""
    with my_daemon():
        deadline = time.monotonic() + HANGS_S
        while time.monotonic() < deadline:
            (row,) = (row for row in json.loads(said("status", "--json"))["sources"] if row["name"] == "hd0")
            if row["state"] == "running" and row["packets"]:
                return "packets"
            if row["state"] in {"backoff", "failed", "down"} and row["exit"]:
                return str(row["exit"]["text"])
            time.sleep(0.05)
    return "nothing came of it"


INSTALL = f"sudo {CHECKOUT}/scripts/install"
START, JOIN = "sudo helperd launcher", "sudo usermod -aG helperd me"
RULE = 'printf "[[allow]]\\nuid = 2010\\nhelpers = [\\"interface\\"]\\n" | sudo tee -a /etc/helperd/conf.d/site.toml'


@scene
def road(stage: Stage) -> list[str]:
    """From the demo to one's own interface: each cure carried out as printed, until packets flow; by run and by capture."""
    wrong = Wrong()
    machine()
    a_home()
    Stage.veth()
    enough, thread = flood()
    try:
        walk(wrong, [INSTALL, START, JOIN], my_run)
        install("--purge")
        fetched()
        subprocess.run(["gpasswd", "-d", "me", "helperd"], check=False, capture_output=True)
        walk(wrong, [INSTALL, START, JOIN], partial(my_capture, "--config", MINE))
        Path(CONFIG).write_text(Path(CONFIG).read_text().partition("[[allow]]")[0])
        for name in ("rtl_433", "tcpdump"):
            Path(f"/etc/helperd/conf.d/{name}.toml").write_text("# nothing of it here\n")
        walk(wrong, [START, RULE], my_run)
        os.unlink("/etc/helperd/conf.d/site.toml")
        with launcher():
            out = my_run()  # other users' rules: the connection is answered
            wrong.same("the rule alone", RULE in out, True)
            walk(wrong, [RULE], partial(my_capture, "--config", MINE))
        with launcher():
            before = my_groups()
            subprocess.run(["gpasswd", "-d", "me", "helperd"], check=True, capture_output=True)
            subprocess.run(["usermod", "-aG", "helperd", "me"], check=True)
            out = said(
                "capture", "--config", MINE, "hd0:type=interface", "-c", "3", "-w", f"{HOME}/old", groups=[]
            )
            wrong.same(f"an old session: {out!r}", "log in again" in out and "usermod" not in out, True)
            wrong.same("the groups are back", my_groups(), before)
        text = Path(MINE).read_text()
        for change, said_of_it in (
            (
                ('capabilities = ["net_raw"]', 'capabilities = ["net_raw", "net_admin"]'),
                "another capabilities",
            ),
            (('name = "interface"', 'name = "other"'), "has no helper other"),
        ):
            Path(MINE).write_text(text.replace(*change))
            with launcher():
                out = my_capture("--config", MINE)
                wrong.same(f"{said_of_it}: {out!r}", said_of_it in out, True)
        Path(MINE).write_text(text)
    finally:
        enough.set()
        thread.join()
    return wrong


def queries() -> tuple[threading.Event, threading.Thread]:
    """Send to UDP port 53 of the loopback interface, and to others, until told otherwise."""
    enough = threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while not enough.wait(0.01):
                for port in (53, 54, 55):
                    with suppress(OSError):
                        sender.sendto(bytes(20), ("127.0.0.1", port))

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return enough, thread


def by_root(program: str, *words: str) -> tuple[int, str]:
    """Run a command as root; return its status and what it says."""
    done = subprocess.run(
        [program, *words],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, (done.stdout + done.stderr).strip()


@scene
def by_sudo(stage: Stage) -> list[str]:
    """What root is told about files that are a user's: never to give them away, and what it is told works."""
    wrong = Wrong()
    machine()
    a_home()
    install()
    own = f"{CHECKOUT}/.venv/bin/helperd"
    for words in (("run", "-c", MINE), ("run", "-c", MINE, "--unprivileged"), ("launcher", "-c", MINE)):
        status, told = by_root(HELPERD, *words)
        wrong.same(
            f"{words}: {told!r}", (status > 0, "run helperd as that user, without sudo" in told), (True, True)
        )
    status, told = by_root(own, "launcher", "-c", CONFIG)
    wrong.same(f"its own code: {told!r}", told.endswith(f"as root use an installed copy: {INSTALL}"), True)
    os.makedirs(f"{HOME}/bin")
    shutil.copy("/bin/true", f"{HOME}/bin/tool")
    subprocess.run(["chown", "-R", f"{ME}:{MY_GROUP}", f"{HOME}/bin"], check=True)
    block = '[[helper]]\nname = "tool"\ncommand = ["PATH"]\ntypes = ["tool"]\n'
    Path(SITE_CONFIG).write_text(block.replace("PATH", f"{HOME}/bin/tool"))
    status, told = by_root(HELPERD, "check")
    cure = f"copy it, sudo install -m 755 {HOME}/bin/tool /usr/local/bin/, and name the copy"
    wrong.same(f"a program: {told!r}", cure in told, True)
    carried = subprocess.run(cure.split(", ")[1].split()[1:], check=False).returncode
    Path(SITE_CONFIG).write_text(block.replace("PATH", "/usr/local/bin/tool"))
    status, told = by_root(HELPERD, "check")
    wrong.same(
        f"carried out: {told!r}",
        (carried, status, re.findall(r"warning(?!: .* this machine has no)", told)),
        (0, 0, []),
    )
    Path("/etc/helperd/conf.d/mine.toml").write_text(
        block.replace("tool", "mine").replace("PATH", "/bin/true")
    )
    os.chown("/etc/helperd/conf.d/mine.toml", ME, MY_GROUP)
    status, told = by_root(HELPERD, "launcher")
    wrong.same(
        f"a drop-in: {told!r}", (status > 0, "/etc/helperd/conf.d/mine.toml belongs to" in told), (True, True)
    )
    wrong.same("chown", "chown" in told, False)
    return wrong


@scene
def comes_and_goes(stage: Stage) -> list[str]:
    """A user's daemon outlives the installed launcher: its helpers end with it, and come back when it does."""
    wrong = Wrong()
    machine()
    a_home()
    install()
    subprocess.run(["usermod", "-aG", "helperd", "me"], check=True)
    Stage.veth()
    enough, thread = flood()

    def row() -> dict[str, Any]:
        rows = json.loads(said("status", "--json"))["sources"]
        return next(each for each in rows if each["name"] == "hd0")

    def becomes(true: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + HANGS_S
        while not true(found := row()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    try:
        with launcher(), my_daemon():
            first = becomes(lambda found: found["state"] == "running" and found["packets"] > 0)
            wrong.same("runs", first["state"], "running")
            pool = helpers()
            wrong.same("in the pool", len(pool), 1)
            os.kill(launcher_pid(), signal.SIGKILL)
            gone = becomes(lambda found: found["state"] != "running" and bool(found["exit"]))
            wrong.same("without it", (gone["state"] != "running", bool(gone["exit"])), (True, True))
            failed = becomes(lambda found: "not running" in str((found["exit"] or {}).get("text")))
            wrong.same(f"it says {failed['exit']}", "sudo helperd launcher" in failed["exit"]["text"], True)
            (replay,) = (
                each for each in json.loads(said("status", "--json"))["sources"] if each["name"] == "replay"
            )
            wrong.same("another source goes on", (replay["state"], replay["restarts"]), ("running", 0))
            with launcher():
                said("restart", "hd0")
                back = becomes(
                    lambda found: found["state"] == "running" and found["packets"] > first["packets"]
                )
                wrong.same("it is back", back["state"], "running")
    finally:
        enough.set()
        thread.join()
    return wrong


@scene
def analyst(stage: Stage) -> list[str]:
    """Installed, a member of the group, nothing edited: tshark, list, probe and capture, without a daemon and with one."""
    wrong = Wrong()
    if not shutil.which("tshark"):
        return wrong
    machine()
    a_home()
    Stage.veth()
    extcap = "/usr/bin/tshark"
    out = said("-D", program=extcap)
    wrong.same("not installed: nothing of ours", "helperd" in out, False)
    install()
    out = said("-D", program=extcap)
    wrong.same(
        f"no launcher: {out!r}",
        "net_raw, and the installed launcher is not running: sudo helperd launcher" in out,
        True,
    )
    enough, thread = queries()
    try:
        with launcher() as group:
            found = processes.privilege(launcher_pid())
            wanted = 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 13  # kill, setgid, setuid, setpcap, net_raw
            wrong.same("what the launcher keeps", found and found.permitted, wanted)
            out = said("-D", program=extcap, groups=[0])
            wrong.same(
                f"no member: {out!r}", "net_raw, and me is not in group helperd: sudo usermod" in out, True
            )
            wrong.same("once", out.count("(helperd: "), 1)
            subprocess.run(["usermod", "-aG", "helperd", "me"], check=True)

            def works(when: str) -> None:
                out = said("-D", program=extcap)
                wrong.same(f"{when}: listed {out!r}", "helperd.interface.lo (helperd: lo" in out, True)
                out = said("-i", "helperd.interface.lo", "-f", "udp port 53", "-c", "10", "-T", "fields", "-e",
                           "udp.dstport", "-Q", program=extcap)  # fmt: skip
                wrong.same(f"{when}: captured {out!r}", out.removeprefix("tshark: ").split(), ["53"] * 10)
                out = said("-i", "helperd.interface.lo", "-f", "nonsense here", "-c", "1", program=extcap)
                wrong.same(
                    f"{when}: a bad filter {out!r}", "Traceback" in out or "nonsense" not in out, False
                )
                out = said("list", program=HELPERD)
                wrong.same(f"{when}: list {out!r}", "lo:type=interface" in out, True)
                out = said("probe", "lo:type=interface", program=HELPERD)
                wrong.same(f"{when}: probe {out!r}", "yes, by interface" in out, True)
                place = f"{HOME}/lo.pcapng"
                out = said("capture", "lo:type=interface", "-c", "10", "-w", place, program=HELPERD)
                wrong.same(f"{when}: capture {out!r}", packets(Path(place).read_bytes()), 10)

            works("without a daemon")
            Path("/etc/helperd/conf.d/node.toml").write_text(
                '[[source]]\nname = "mine"\ndefinition = "hd0:type=interface"\n'
            )
            uid = int(subprocess.getoutput("id -u helperd"))
            os.makedirs("/run/helperd")
            os.chown("/run/helperd", uid, group)
            argv = [HELPERD, "run", "-c", CONFIG, "--launcher", SOCKET, "--runtime-dir", "/run/helperd"]
            with open(f"{STAGE}/daemon.log", "ab") as log:
                daemon = subprocess.Popen(
                    argv,
                    env={"PATH": "/usr/bin:/bin"},
                    stderr=log,
                    stdout=log,
                    user=uid,
                    group=group,
                    extra_groups=[group, gid_of("helperd-read")],
                )
            try:
                subprocess.run(["usermod", "-aG", "helperd-read", "me"], check=True)
                out = said("wait", "--running", "mine", "--timeout", "20s", program=HELPERD)
                out = said("-D", program=extcap)
                wrong.same(f"its source: {out!r}", "helperd.mine (helperd: mine" in out, True)
                works("beside a daemon")
            finally:
                daemon.terminate()
                daemon.wait(HANGS_S)
    finally:
        enough.set()
        thread.join()
    return wrong


def main() -> None:
    """Play the named scenes."""
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # whoever was started in the background ignores it, with its children
    stage = Stage()
    for name in sys.argv[1:]:
        try:
            wrong = SCENES[name](stage)
        except Exception as error:
            log = Path(f"{STAGE}/launcher.log")
            wrong = [traceback.format_exc()[-1500:] + (log.read_text()[-800:] if log.exists() else "")]
            say(scene=name, wrong=wrong, raised=raised(error))
        else:
            say(scene=name, wrong=wrong)


if __name__ == "__main__":
    main()
