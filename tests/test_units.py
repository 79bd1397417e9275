"""The units of systemd: what each must hold, and what its exposure is made of."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.patience import HANGS_S
from tests.rig import ROOT

UNITS = ("helperd", "helperd-launcher")
HARD = {
    "NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes", "PrivateTmp": "yes",
    "PrivateMounts": "yes",
    "ProtectKernelTunables": "yes", "ProtectKernelModules": "yes", "ProtectKernelLogs": "yes", "ProtectClock": "yes",
    "ProtectHostname": "yes", "RestrictNamespaces": "yes", "RestrictRealtime": "yes", "RestrictSUIDSGID": "yes",
    "LockPersonality": "yes", "MemoryDenyWriteExecute": "yes", "KeyringMode": "private", "RemoveIPC": "yes",
    "SystemCallArchitectures": "native", "SystemCallErrorNumber": "EPERM", "DevicePolicy": "closed",
    "IPAddressDeny": "any",
    "LimitCORE": "0", "UMask": "0077", "Restart": "on-failure", "RestartPreventExitStatus": "78",
}  # fmt: skip
"""What no change may take away from either."""
LINES = {
    "helperd": HARD | {
        "CapabilityBoundingSet": "", "AmbientCapabilities": "", "PrivateDevices": "yes", "PrivateNetwork": "yes",
        "ProtectControlGroups": "yes", "User": "helperd", "Group": "helperd", "TasksMax": "1024", "MemoryMax": "50%",
        "WatchdogSec": "30s", "Type": "notify", "RestrictAddressFamilies": "AF_UNIX AF_NETLINK",
    },
    "helperd-launcher": HARD | {
        "Delegate": "yes", "KillMode": "mixed", "TasksMax": "4096", "MemoryMax": "75%", "OOMPolicy": "continue",
        "ProtectProc": "invisible", "LimitNOFILE": "4096", "WatchdogSec": "30s",
    },
}  # fmt: skip
MOST = {"helperd": 0.7, "helperd-launcher": 3.2}
"""Exposure, of 10."""


def lines(unit: str) -> dict[str, str]:
    """Key and last value of each line."""
    text = (ROOT / "packaging" / f"{unit}.service").read_text()
    return dict(line.split("=", 1) for line in text.splitlines() if re.match(r"[A-Z]\w+=", line))


@pytest.mark.parametrize("unit", UNITS)
def test_what_a_unit_must_hold(unit: str) -> None:
    found = lines(unit)
    assert {key: found.get(key) for key in LINES[unit]} == LINES[unit]


def named() -> dict[str, set[str]]:
    """The points that docs/privsep.md gives a reason for, by unit."""
    text = (ROOT / "docs" / "privsep.md").read_text()
    section = text[text.index("## Exposure of the units") :].split("\n## ", 1)[0]
    found = defaultdict(set)
    for row in section.splitlines():
        cells = re.split(r"(?<!\\)\|", row)
        if len(cells) == 5 and cells[1].strip() in UNITS:
            points = re.findall(r"`([^`]+)`", cells[2].replace("\\|", "|"))
            assert cells[3].strip(), row
            found[cells[1].strip()].update(points)
    return found


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze: apt install systemd"
)
@pytest.mark.parametrize("unit", UNITS)
def test_each_point_of_its_exposure_has_a_reason(unit: str) -> None:
    argv = [
        "systemd-analyze",
        "security",
        "--offline=true",
        "--no-pager",
        str(ROOT / "packaging" / f"{unit}.service"),
    ]
    told = subprocess.run([*argv, "--json=short"], capture_output=True, text=True, check=False)
    if told.returncode and "unrecognized option" in told.stderr:
        pytest.skip("this systemd-analyze reads no files: systemd 250 is needed")
    points = {row["name"] for row in json.loads(told.stdout) if row["set"] is False and row.get("exposure")}
    assert len(points) >= 5
    assert points <= named()[unit], "name them, with the reason, in docs/privsep.md"
    said = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    print(said.splitlines()[-1])
    (figure,) = re.findall(r"Overall exposure level for .*: ([0-9.]+)", said)
    assert float(figure) <= MOST[unit]


def test_the_points_that_are_named_are_points() -> None:
    assert {unit: len(points) for unit, points in named().items()} == {"helperd": 8, "helperd-launcher": 18}


WITHOUT = {  # what would take points away: lines that go, lines that come, and the figure then
    "SystemCallFilter=~@chown": (("SystemCallFilter=@chown",), (), 0.6),
    "PrivateUsers=yes": ((), ("PrivateUsers=yes",), 0.5),
    "both": (("SystemCallFilter=@chown",), ("PrivateUsers=yes",), 0.4),
}


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze: apt install systemd"
)
@pytest.mark.parametrize("change", WITHOUT)
def test_what_would_lower_the_exposure_of_the_supervisor(tmp_path: Path, change: str) -> None:
    """The points whose price docs/privsep.md says are all there is between the figure and 0.4."""
    gone, more, most = WITHOUT[change]
    text = (ROOT / "packaging" / "helperd.service").read_text().splitlines()
    assert set(gone) <= set(text)
    kept = [line for line in text if line not in gone]
    at = kept.index("PrivateMounts=yes")
    file = tmp_path / "helperd.service"
    file.write_text("\n".join([*kept[:at], *more, *kept[at:]]) + "\n")
    argv = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(file)]
    told = subprocess.run(argv, capture_output=True, text=True, check=False)
    if told.returncode and "unrecognized option" in told.stderr:
        pytest.skip("this systemd-analyze reads no files: systemd 250 is needed")
    (figure,) = re.findall(r"Overall exposure level for .*: ([0-9.]+)", told.stdout)
    assert float(figure) <= most


DAEMON, READERS = 60000, 60001
IN_A_NAMESPACE = f"""
import ctypes, errno, os, socket, struct, sys
uids, peer, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
os.chmod(folder, 0o777)
path = os.path.join(folder, "socket")
ready, mapped = os.pipe(), os.pipe()
if os.fork() == 0:
    os.setgroups([{READERS}])
    os.setresgid({DAEMON}, {DAEMON}, {DAEMON})
    os.setresuid({DAEMON}, {DAEMON}, {DAEMON})
    ctypes.CDLL(None).prctl(4, 1)  # dumpable: its map is in a file of its own in /proc
    if uids:
        if ctypes.CDLL(None, use_errno=True).unshare(0x10000000):
            print("unshare:", os.strerror(ctypes.get_errno()), file=sys.stderr, flush=True)
            os._exit(1)
    os.write(ready[1], b"x")
    os.read(mapped[0], 1)
    head, none = struct.pack("Ii", 0x20080522, 0), bytes(24)
    assert ctypes.CDLL(None).capset(head, none) == 0  # as the unit: without any capability
    door = socket.socket(socket.AF_UNIX)
    door.bind(path)
    os.chmod(path, 0o666)
    door.listen()
    os.write(ready[1], b"x")
    sock, _ = door.accept()
    seen = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
    def tried(work):
        try:
            work()
        except OSError as error:
            return errno.errorcode[error.errno]
        return "done"
    print(seen, tried(lambda: os.chown(path, -1, {READERS})), tried(lambda: os.setegid({READERS})), flush=True)
    os.unlink(path)
    os._exit(0)
os.close(ready[1])  # so that the end of a child that could not is seen
if not os.read(ready[0], 1):
    sys.exit(1)
child = int(open(f"/proc/self/task/{{os.getpid()}}/children").read().split()[0])
if uids:
    for kind in ("uid_map", "gid_map"):
        with open(f"/proc/{{child}}/{{kind}}", "w") as file:
            file.write(uids)
os.write(mapped[1], b"x")
os.read(ready[0], 1)
os.setresgid(peer, peer, peer)
os.setresuid(peer, peer, peer)
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect(path)
    os.waitpid(child, 0)
"""
ONLY_ITSELF = f"0 0 1\n{DAEMON} {DAEMON} 1\n"
IDENTITY = "0 0 65536\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: maps the ids of a user namespace")
@pytest.mark.parametrize(
    ("ids", "peer", "seen", "given"),
    [
        ("", 60005, 60005, "done"),
        (ONLY_ITSELF, 60005, 65534, "EINVAL"),
        (ONLY_ITSELF, DAEMON, DAEMON, "EINVAL"),
        (IDENTITY, 60005, 60005, "done"),
        (IDENTITY, 200_000, 65534, "done"),
    ],
    ids=["no namespace", "yes", "yes, the daemon itself", "identity", "identity, a user of a directory"],
)
def test_what_private_users_costs(rundir: Path, ids: str, peer: int, seen: int, given: str) -> None:
    """Who asks has no name, and no group but the unit's own can be had; nor can a process take a group for a moment."""
    argv = [sys.executable, "-c", IN_A_NAMESPACE, ids, str(peer), str(rundir)]
    told = subprocess.run(argv, capture_output=True, text=True, timeout=HANGS_S, check=False)
    if "unshare" in told.stderr:
        pytest.skip("this machine has no user namespaces")
    denied = "EINVAL" if ids == ONLY_ITSELF else "EPERM"
    assert told.stdout.split() == [str(seen), given, denied], told.stderr
