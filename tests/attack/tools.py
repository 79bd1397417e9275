"""The installed product as its users meet it: scripts/install, `helperd capture`, `helperd doctor`, the uninstall.

tools.py NAME... as process 1 of new namespaces; prints {"scene", "wrong"}. /etc, /opt, /usr/local and /run are copies of
the stage's own, so that the real install script runs and nothing of this machine changes.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helperd.sandbox import processes
from tests.attack.scenes import Wrong
from tests.attack.stage import ALLOWED, LIBRARY, OTHER, ROOT, STAGE, STRANGER, Stage, say

HELPERD = "/usr/local/bin/helperd"
SOCKET = "/run/helperd-launcher/socket"
CONFIG = "/etc/helperd/helpers.toml"
SYSTEM_PYTHON = "/usr/bin/python3"
SITE = "/opt/helperd/.venv/lib/python{}.{}/site-packages".format(*sys.version_info[:2])
SCENES: dict[str, Callable[[Stage], list[str]]] = {}
DEMO = "demo:type=pcapfile"
RADIO = "radio0:type=synthetic"


def scene(function: Callable[[Stage], list[str]]) -> Callable[[Stage], list[str]]:
    """Put a scene on the list."""
    SCENES[function.__name__] = function
    return function


def machine() -> None:
    """Give this mount namespace an /etc, /opt and /usr/local of its own, without a user helperd."""
    for name in ("passwd", "group"):
        subprocess.run(["umount", f"/etc/{name}"], check=True)
    plugins = [str(path) for path in Path("/usr/lib").glob("**/wireshark/extcap")]
    for folder in ("/etc", "/opt", "/usr/local", *plugins):
        copy = f"{STAGE}/copy{folder}"
        if folder in {"/etc", *plugins}:
            shutil.copytree(folder, copy, symlinks=True)
        else:
            os.makedirs(copy)
        subprocess.run(["mount", "--bind", copy, folder], check=True)
    for name in ("passwd", "group", "shadow", "gshadow"):
        path = Path(f"/etc/{name}")
        rows = [row for row in path.read_text().splitlines() if row.split(":")[0] != "helperd"]
        path.write_text("\n".join(rows) + "\n")
    os.makedirs("/usr/local/bin")
    os.makedirs(os.path.dirname(SITE))
    library = next(Path(f"{LIBRARY}/.venv").glob("lib/python*/site-packages"))
    shutil.copytree(library, SITE, symlinks=True)  # no network here: what install would have fetched
    os.makedirs(f"{STAGE}/checkout")
    for name in ("helperd", "config", "packaging", "scripts"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, f"{STAGE}/checkout/{name}", ignore=ignore)


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


def run(uid: int, groups: tuple[int, ...], *words: str, timeout: float = 30) -> tuple[int, bytes, str]:
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
    deadline = time.monotonic() + 15
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
        process.wait(15)


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
    """Return the pids of processes with a uid of the pool."""
    pool = range(60800, 61184)
    return [pid for pid in processes.table() if (each := processes.privilege(pid)) and each.uids[0] in pool]


@scene
def installed(stage: Stage) -> list[str]:
    """Install, install again, uninstall, install, purge: each leaves what it says, and a purge nothing."""
    wrong = Wrong()
    machine()
    roots = ("/etc", "/opt", "/usr/local", "/run")
    before = tree(*roots)
    said = install("--nonsense", status=64)
    wrong.same("usage", "usage:" in said, True)
    said = install()
    for text in ("helperd is in /opt/helperd", "made user and group helperd", f"wrote {CONFIG}", "done"):
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
    wrong.same("left by --uninstall", sorted(left), ["/etc/helperd", CONFIG])
    install("--uninstall")  # twice is no error
    Path("/usr/local/bin/helperd").write_text("somebody else's")
    shutil.copytree(next(Path(f"{LIBRARY}/.venv").glob("lib/python*/site-packages")), SITE, symlinks=True)
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


@scene
def capture(stage: Stage) -> list[str]:
    """`helperd capture` as members of the group and as others; every way to end it; nothing is left running."""
    wrong = Wrong()
    machine()
    install()
    text = Path(CONFIG).read_text()
    text += '\n[[helper]]\nname = "interface"\ncommand = ["builtin:interface"]\ntypes = ["interface"]\n'
    text += (
        f'capabilities = ["net_raw"]\n[[allow]]\nuid = {ALLOWED}\nhelpers = ["interface"]\nmax_running = 1\n'
    )
    Path(CONFIG).write_text(text)
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
            ("no member", (STRANGER, (), "capture", DEMO, "-w", "-"), 69, "join group helperd"),
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
                wrong.same(f"{name}: status", process.wait(15), wanted)
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
            wrong.same("a helper that dies: status", process.wait(15), 1)
            wrong.same(f"a helper that dies: {said!r} says why", "SIGKILL" in said or "signal" in said, True)
        sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        sender.bind(("hd1", 0))
        argv = [HELPERD, "capture", "hd0:type=interface", "-w", place + "2", "-c", "3"]
        with subprocess.Popen(argv, env=env, stderr=subprocess.PIPE, **ids(ALLOWED, group)) as process:
            deadline = time.monotonic() + 15
            while process.poll() is None and time.monotonic() < deadline:
                sender.send(b"\xff" * 6 + b"\x02\0\0\0\0\x01" + b"\x88\xb5" + bytes(60))
                time.sleep(0.005)
            assert process.stderr
            said = process.stderr.read().decode()
            wrong.same(f"live, without any right of its own: {said!r}", process.wait(15), 0)
        sender.close()
        wrong.same("its packets", packets(Path(place + "2").read_bytes()), 3)
        deadline = time.monotonic() + 15
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
        wrong.same("a member's launcher", rows["launcher/answers"]["text"], f"2 profiles at {SOCKET}")
        status, rows = checks(STRANGER, ())
        wrong.same("a stranger's status", status, 1)
        wrong.same("a stranger's launcher", "Permission denied" in rows["launcher/answers"]["text"], True)
        wrong.same("a stranger's membership", rows["accounts/membership"]["good"], False)
        wrong.same("to root", checks(0, ())[1]["launcher/answers"]["good"], True)
    text = Path(CONFIG).read_text()
    Path(CONFIG).write_text(text[: text.index("[[allow]]\ngroup")])
    with launcher() as group:
        status, rows = checks(OTHER, (group,))
        wrong.same("without a rule", (status, "[[allow]]" in rows["launcher/answers"]["fix"]), (1, True))
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
    uid = int(subprocess.getoutput("id -u helperd"))
    wrong.same("uid of helperd is no helper's", uid < 60800, True)
    with launcher() as group:
        env = {"PATH": "/usr/bin:/bin", "RUNTIME_DIRECTORY": "/run/helperd"}
        os.makedirs("/run/helperd")
        os.chown("/run/helperd", uid, group)
        argv = [HELPERD, "run", "-c", CONFIG, "--launcher", SOCKET, "--runtime-dir", "/run/helperd"]
        with open(f"{STAGE}/daemon.log", "ab") as log:
            daemon = subprocess.Popen(
                argv, env=env, stderr=log, stdout=log, user=uid, group=group, extra_groups=[]
            )
        deadline = time.monotonic() + 15
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
        daemon.wait(15)
    return wrong


def main() -> None:
    """Play the named scenes."""
    stage = Stage()
    for name in sys.argv[1:]:
        try:
            wrong = SCENES[name](stage)
        except Exception:
            log = Path(f"{STAGE}/launcher.log")
            wrong = [traceback.format_exc()[-1500:] + (log.read_text()[-800:] if log.exists() else "")]
        say(scene=name, wrong=wrong)


if __name__ == "__main__":
    main()
