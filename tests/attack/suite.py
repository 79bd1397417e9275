"""Runs every attempt from its positions, each beside its control; prints one JSON line per attempt. Process 1 only.

suite.py own|package [NAME...]    under a configuration made for it, or under that of the package, in which every member of
                                  group helperd may run ``interface``
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from helperd.config.specs import DaemonSpec
from helperd.sandbox import processes
from tests.attack.asker import Asker, Running
from tests.attack.attempts import FRAME, PREPARE, SEAL, Attempt, attempts
from tests.attack.seat import PRELUDE, Seat, seat
from tests.attack.stage import (
    ALLOWED,
    DAEMON,
    LIBRARY,
    OTHER,
    READER,
    READERS,
    ROOT,
    SOCKET,
    STAGE,
    STRANGER,
    Stage,
    interpreter,
    say,
    status,
)
from tests.patience import HANGS_S

CONFIG = f"""
[[helper]]
name = "raw"
command = PROBE
capabilities = ["net_raw"]
[[helper]]
name = "plain"
command = PROBE
[[allow]]
uid = {ALLOWED}
helpers = ["raw"]
max_running = 2
"""
MOST = {"own": 2, "package": 8}
"""Helpers of a user at once."""


def package() -> str:
    """The package's configuration; its helper is a probe, and behind it is one that no rule names."""
    shutil.copy(f"{STAGE}/bin/probe.py", f"{LIBRARY}/helperd/helpers/__main__.py")
    text = (ROOT / "packaging/helpers.toml").read_text()
    assert 'command = ["builtin:interface"]' in text
    assert text.count("[[helper]]") == text.count("[[allow]]") == 1
    assert f"max_running = {MOST['package']}" in text
    return f'{text}\n[[helper]]\nname = "plain"\ncommand = PROBE\n'


class Scene:
    """The launcher, its victims, and a process in every position."""

    def __init__(self, stage: Stage, default: str) -> None:
        self.stage = stage
        self.programs()
        self.config = stage.config(CONFIG if default == "own" else package())
        self.launcher = stage.start(self.config, f"--listen={SOCKET}")
        stage.answered(self.launcher)
        self.victims = self.connect()
        self.victim = Running(self.victims, 2)
        self.victim.run("result = 1")
        self.values: dict[str, Any] = {
            "LAUNCHER": self.launcher.pid,
            "VICTIM": self.victim.pid,
            "VICTIM_UID": int(status(self.victim.pid)["Uid"].split()[0]),
            "SOCKET": SOCKET,
            "STAGE": STAGE,
            "LIBRARY": LIBRARY,
            "MOST": MOST[default],
        }
        self.supervisor = self.start_supervisor()
        self.values["SUPERVISOR"] = self.supervisor.run("result = os.getpid()")
        self.seats: dict[str, Seat] = {}

    @staticmethod
    def programs() -> None:
        for name, source, mode in (
            ("suid", "/usr/bin/id", 0o4755),
            ("sgid", "/usr/bin/id", 0o2755),
            ("caps", "/bin/cat", 0o755),
        ):
            shutil.copy(os.path.realpath(source), f"{STAGE}/bin/{name}")
            os.chmod(f"{STAGE}/bin/{name}", mode)
        caps = struct.pack("<IIIII", 0x02000001, 0x3000, 0, 0, 0)
        os.setxattr(f"{STAGE}/bin/caps", "security.capability", caps)

    def connect(self) -> Asker:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(SOCKET)
        asker = Asker(sock)
        asker.ping()
        return asker

    def start_supervisor(self) -> Seat:
        """A real profile 0, started by a second launcher without a pool of its own, with our code as its daemon."""
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        library = f"{STAGE}/lib2"
        shutil.copytree(LIBRARY, library, symlinks=True)
        code = (
            Path(f"{STAGE}/bin/probe.py")
            .read_text()
            .replace("fdopen(3", "fdopen(0")
            .replace("write(4,", "write(1,")
        )
        Path(f"{library}/helperd/daemon.py").write_text(code)
        text = Path(
            self.config
        ).read_text()  # a pool of its own, so that both launchers can live side by side
        pool = '[helperd]\nuid_pool = "62000-62119"\n'
        text = text.replace("[helperd]\n", pool) if "[helperd]\n" in text else pool + text
        config = self.stage.config(text, f"{STAGE}/second.toml")
        argv = [interpreter(), "-I", "-S", f"{library}/helperd/launch.py", f"--config={config}"]
        log = open(self.stage.log, "ab")  # noqa: SIM115 - the launcher has it for its life
        process = subprocess.Popen(argv, stdin=theirs_in, stdout=theirs_out, stderr=log, env={})
        os.close(theirs_in)
        os.close(theirs_out)
        made = Seat(process, ours_out, ours_in)
        made.run(PRELUDE, **self.values)
        return made

    def place(self, position: str) -> Any:
        """Return something with ``run`` in a position; helpers are new each time, users as long as they live."""
        if position in {"helper", "sealed"}:
            helper = Running(self.victims, 1)
            helper.run(PRELUDE, **self.values)
            helper.run(PREPARE, FRAME=FRAME)
            if position == "sealed":
                assert helper.run(SEAL)[0] == 3
            return helper
        if position not in self.seats or self.seats[position].process.poll() is not None:
            uid, groups = {
                "root": (0, ()),
                "user": (STRANGER, ()),
                "stranger": (STRANGER, ()),
                "reader": (READER, (READERS,)),
                "member": (OTHER, (DAEMON,)),
                "allowed": (ALLOWED, (DAEMON,)),
            }[position]
            self.seats[position] = seat(uid, groups, **self.values)
        return self.seats[position]

    def settle(self) -> None:
        """Wait until the helpers of the last attempt are gone: a quota counts them until then."""
        deadline = time.monotonic() + HANGS_S
        while time.monotonic() < deadline:
            found = [
                found
                for pid in processes.table()
                if (found := processes.privilege(pid)) and found.uids[0] in DaemonSpec().pool.own
            ]
            if len(found) <= 1:  # the victim
                return
            time.sleep(0.005)

    def attempt(self, code: str, position: str) -> tuple[bool, str]:
        """Try code from a position; return whether it worked, and what stood in the way."""
        place = self.supervisor if position == "supervisor" else self.place(position)
        try:
            worked = place.run(f"s = t = s2 = many = p = fds = e = None\n{code}")
            how = "worked" if worked else "no effect"
        except OSError as error:
            worked, how = False, os.strerror(error.errno or 0)
        except (EOFError, TimeoutError):
            worked, how = False, "killed"
        except RuntimeError as error:
            worked, how = False, str(error)
        finally:
            if isinstance(place, Running):
                place.__exit__()
            elif "ready()" in code or "connect(" in code:
                place.run("s = t = s2 = many = fds = e = None; result = 1")
                self.settle()
        return bool(worked), how


def fresh_root(scene: Scene, code: str) -> tuple[bool, str]:
    """The control: the same code as root without precautions, in a process that ends with it."""
    place = seat(0, **scene.values)
    try:
        return bool(place.run(code)), "worked"
    except (OSError, RuntimeError, EOFError, TimeoutError) as error:
        return False, str(error)
    finally:
        place.close()


def control(scene: Scene, attempt: Attempt, position: str) -> tuple[bool, str]:
    """Show that the attempt can work on this machine, in a weaker set-up."""
    if attempt.legal:
        return scene.attempt(attempt.legal, position)
    if attempt.control == "root":
        return fresh_root(scene, attempt.code)
    return scene.attempt(attempt.code, attempt.control)


def main() -> None:
    """Try everything."""
    stage = Stage()
    stage.veth()
    default, *only = sys.argv[1:] or ["own"]
    scene = Scene(stage, default)
    controls: dict[tuple[str, str], tuple[bool, str]] = {}
    for attempt in attempts():
        if only and attempt.name not in only:
            continue
        for position in attempt.positions:
            if position == "member" and default == "package":
                continue  # each is named by the rule: "allowed"
            key = (attempt.name, position if attempt.legal else attempt.control)
            if key not in controls:
                controls[key] = control(scene, attempt, position)
            worked, how = scene.attempt(attempt.code, position)
            live, why = controls[key]
            say(name=attempt.name, position=position, worked=worked, how=how, live=live, control=why)
        if scene.victim.pid < 0 or scene.launcher.poll() is not None:
            raise AssertionError(f"{attempt.name} ended the launcher or the victim: {stage.said()}")


if __name__ == "__main__":
    main()
