"""The units of systemd: what each must hold, and what its exposure is made of."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import defaultdict

import pytest

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
        "ProtectProc": "invisible", "LimitNOFILE": "4096",
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
