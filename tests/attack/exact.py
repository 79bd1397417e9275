"""Random profiles: what the kernel reports of a helper equals what its profile declares, in every field.

exact.py [COUNT] [SEED]     as process 1; prints one JSON line per difference, then {"profiles": COUNT}
"""

from __future__ import annotations

import os
import random
import resource
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helperd.config import CAPABILITIES
from helperd.sandbox import kernel
from tests.attack.asker import Asker, Refused, Running
from tests.attack.stage import STAGE, Stage, interpreter, say, status

INSIDE = """
import resource, signal, struct
fds = {}
for name in os.listdir('/proc/self/fd'):
    try:
        fds[name] = os.readlink('/proc/self/fd/' + name).split(':')[0]
    except OSError:
        pass
import ctypes  # now: libffi 3.5 keeps a descriptor of its own library
libc = ctypes.CDLL(None)
death = ctypes.c_int()
libc.prctl(2, ctypes.byref(death), 0, 0, 0)
result = {
    'fds': fds, 'env': dict(os.environ), 'cwd': os.getcwd(), 'umask': os.umask(0o077), 'session': os.getsid(0) == os.getpid(),
    'securebits': libc.prctl(27, 0, 0, 0, 0), 'death': death.value, 'groups': os.getgroups(),
    'ids': [*os.getresuid(), *os.getresgid()], 'limits': {n: resource.getrlimit(n) for n in range(16)},
    'pending': sorted(signal.sigpending()), 'tty': os.path.exists('/dev/tty') and os.isatty(0),
    'argv': open('/proc/self/cmdline').read().split(chr(0))[:-1],
}
"""
SIZES = {
    "data": (1 << 30, (1 << 30) + 4096),
    "fsize": (0, 1 << 20),
    "memlock": (
        0,
        65536,
        1 << 20,
    ),  # below the usual hard limit, above which no root without sys_resource gets
    "stack": (1 << 20, 8 << 20),
}
GROUPS = {"dialout": 20, "video": 44, "audio": 29, "plugdev": 46, "capture": 991}


def known(names: list[str]) -> list[str]:
    """Leave out what this process itself does not have: it cannot give it."""
    have = kernel.capget()[1]
    return [name for name in names if have >> CAPABILITIES[name] & 1]


def draw(dice: random.Random, number: int) -> dict[str, Any]:
    """Draw one profile."""
    names = known(list(CAPABILITIES))
    groups = [
        name
        for name in GROUPS
        if any(row.startswith(f"{name}:") for row in Path("/etc/group").read_text().splitlines())
    ]
    return {
        "name": f"h{number}",
        "capabilities": sorted(dice.sample(names, dice.choice((0, 0, 1, 1, 2, 3, 7, len(names))))),
        "groups": dice.sample(groups, dice.randint(0, min(3, len(groups)))),
        "uid": dice.choice(("pool", "pool", "pool", "shared", 4711, 65533)),
        "seal": dice.choice((0, 1, 1, 2, 3)),
        "env": {f"V{n}": dice.choice(("", "x", "ä b", "/etc/kismet")) for n in range(dice.randint(0, 3))},
        "limits": {
            name: dice.choice((64, 77, 200) if name.startswith("n") else SIZES[name])
            for name in dice.sample(("nofile", "nproc", *SIZES), dice.randint(0, 4))
        },
        "extra": dice.sample(("--one", "two words", "ünicode", ""), dice.randint(0, 2)),
        "fds": dice.choice((2, 3, 3, 3, 4)),
        "closed": dice.random() < 0.5,
    }


def toml(value: Any) -> str:
    """Write a value."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    return str(value) if isinstance(value, int) else '"' + value + '"'


def text_of(profiles: list[dict[str, Any]]) -> str:
    """Write a configuration."""
    command = [interpreter(), "-I", "-S", f"{STAGE}/bin/probe.py"]
    rows = []
    for profile in profiles:
        rows.append("[[helper]]")
        rows.append(f"command = {toml([*command, *profile['extra']])}")
        keys = ("name", "capabilities", "groups", "uid", "seal", "env", "limits")
        rows += [f"{key} = {toml(profile[key])}" for key in keys]
    return "\n".join(rows) + "\n"


class Helper(Running):
    """A running probe with a drawn number of descriptors."""

    def __init__(self, asker: Asker, number: int, count: int) -> None:
        if count == 3:
            super().__init__(asker, number)
            return
        self.asker = asker
        theirs_in, self.write = os.pipe2(os.O_CLOEXEC)
        self.out, theirs_out = os.pipe2(os.O_CLOEXEC)
        self.err, theirs_err = os.pipe2(os.O_CLOEXEC)
        page = os.memfd_create("page", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(page, 4096)
        import fcntl

        fcntl.fcntl(page, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        fds = (theirs_in, theirs_out, theirs_err, page)
        error, self.handle, self.pidfd = asker.launch(number, fds[:count])
        for fd in fds:
            os.close(fd)
        self.rest = b""
        if error:
            self._close(self.write, self.out, self.err)
            raise Refused(error)


def expected(profile: dict[str, Any], shared: int) -> dict[str, Any]:
    """Say what the kernel must report."""
    mask = sum(1 << CAPABILITIES[name] for name in profile["capabilities"])
    own = profile["uid"] in {"pool", "shared"}
    nproc = {"nproc": 128 if profile["uid"] == "pool" else 512, "msgqueue": 0} if own else {}
    limits = {"core": 0, "nofile": 256, "fsize": 1 << 30, "data": 1 << 30} | nproc | profile["limits"]
    return {
        "mask": mask,
        "groups": sorted(
            {
                int(row.split(":")[2])
                for row in Path("/etc/group").read_text().splitlines()
                if row.split(":")[0] in profile["groups"]
            }
        ),
        "uid": {"shared": shared, "pool": None}.get(str(profile["uid"]), profile["uid"]),
        "limits": {getattr(resource, f"RLIMIT_{name.upper()}"): value for name, value in limits.items()},
    }


def shared_uids(profiles: Sequence[dict[str, Any]]) -> dict[str, int]:
    """The uid that each helper with uid = "shared" must have, by its name."""
    taken: dict[str, int] = {}
    for name in sorted(profile["name"] for profile in profiles if profile["uid"] == "shared"):
        uid = zlib.crc32(name.encode()) % 32
        while 61024 + uid in taken.values():
            uid = (uid + 1) % 32
        taken[name] = 61024 + uid
    return taken


def differences(
    profile: dict[str, Any], helper: Running, shared: dict[str, int], seen: set[int]
) -> list[str]:
    """Compare a running helper with its profile, from inside and from outside."""
    inside = helper.run(INSIDE)
    outside = status(helper.pid)
    want = expected(profile, shared.get(profile["name"], 0))
    wrong: list[str] = []

    def same(what: str, found: Any, wanted: Any) -> None:
        if found != wanted:
            wrong.append(f"{profile['name']}: {what}: {found!r}, declared {wanted!r}")

    ids = {int(word) for word in outside["Uid"].split()} | {int(word) for word in outside["Gid"].split()}
    uid = int(outside["Uid"].split()[0])
    same("one number for all ids", ids, {uid})
    same("ids from inside", set(inside["ids"]), {uid})
    if want["uid"] is None:
        same("a pool uid", uid in range(60800, 61024), True)
        same("a uid of its own", uid in seen, False)
        seen.add(uid)
    else:
        same("uid", uid, want["uid"])
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        same(name, int(outside[name], 16), want["mask"])
    same("CapBnd", int(outside["CapBnd"], 16), 0)
    same("NoNewPrivs", outside["NoNewPrivs"], "1")
    same("Seccomp", outside["Seccomp"], "2" if profile["seal"] else "0")
    same("groups", sorted(int(word) for word in outside["Groups"].split()), want["groups"])
    same("groups from inside", sorted(inside["groups"]), want["groups"])
    same("blocked signals", int(outside["SigBlk"], 16), 0)
    same("ignored signals", int(outside["SigIgn"], 16) & ~(1 << 12 | 1 << 24), 0)  # Python: PIPE and XFSZ
    same("securebits", inside["securebits"], 0xEF)
    same("umask", inside["umask"], 0o077)
    same("directory", inside["cwd"], "/")
    same("session", inside["session"], True)
    same("terminal", inside["tty"], False)
    same("death signal", inside["death"], 9)
    fds = {"0": "/dev/null", "1": "/dev/null", "2": "pipe", "3": "pipe", "4": "pipe"}
    if profile["fds"] == 2:
        fds["2"] = "/dev/null"
    if profile["fds"] == 4:
        fds["5"] = "/memfd"
    same("descriptors", inside["fds"], fds)
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HELPERD_SEAL": str(profile["seal"])}
    found = {
        name: value
        for name, value in inside["env"].items()
        if name not in {"HELPERD_PATH", "HELPERD_DIR", "LC_CTYPE"}
    }
    same("environment", found, env | profile["env"])
    limits = {int(key): value for key, value in inside["limits"].items()}
    for which, value in want["limits"].items():
        same(f"limit {which}", limits[which], [value, value])
    for which in set(limits) - set(want["limits"]):
        same(f"untouched limit {which}", limits[which], list(resource.getrlimit(which)))
    same("arguments", inside["argv"][4:], [*profile["extra"], "--in-fd=3", "--out-fd=4"])
    return wrong


def main() -> None:
    """Draw, launch, compare."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    dice = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    stage = Stage()
    done = 0
    while done < count:
        profiles = [draw(dice, number) for number in range(1, min(32, count - done) + 1)]
        seen: set[int] = set()
        with stage.launcher(text_of(profiles)) as asker:
            for number, profile in enumerate(profiles, 1):
                try:
                    with Helper(asker, number, profile["fds"]) as helper:
                        for wrong in differences(profile, helper, shared_uids(profiles), seen):
                            say(wrong=wrong)
                except (Refused, EOFError, TimeoutError, RuntimeError, OSError) as error:
                    say(wrong=f"{profile}: {type(error).__name__} {error} {stage.said()[-500:]}")
        done += len(profiles)
    say(profiles=done)


if __name__ == "__main__":
    main()
