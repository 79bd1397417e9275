"""Where the cgroups of a process are, and whether one is frozen, as the kernel's files say it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from helperd import cgroups

MOUNTS = """\
30 23 0:26 / {top}/unified rw,nosuid - cgroup2 cgroup2 rw,nsdelegate
31 23 0:27 / {top}/freezer rw,nosuid shared:9 - cgroup cgroup rw,freezer
32 23 0:28 /docker/abc {top}/cpu rw,nosuid - cgroup cgroup rw,cpu,cpuacct
33 23 0:29 / /proc rw - proc proc rw
"""


@pytest.fixture
def top(tmp_path, monkeypatch):
    """A machine with both versions; of process 7, files as the kernel would show them."""
    files = {
        "/proc/self/mountinfo": MOUNTS.format(top=tmp_path),
        "/proc/7/cgroup": "9:freezer:/radios/wlan0\n2:cpu,cpuacct:/docker/abc/wlan0\n0::/helperd/wlan0\n",
        "/proc/8/cgroup": "9:freezer:/../elsewhere\n",
    }
    real = cgroups._lines
    monkeypatch.setattr(
        cgroups, "_lines", lambda path: files[path].splitlines() if path in files else real(path)
    )
    cgroups.mounts.cache_clear()
    for name in ("unified/helperd/wlan0", "freezer/radios/wlan0", "cpu/wlan0", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    yield tmp_path
    cgroups.mounts.cache_clear()


def test_each_version_and_controller_has_its_place(top):
    assert cgroups.directory(7) == f"{top}/unified/helperd/wlan0"
    assert cgroups.directory(7, "freezer") == f"{top}/freezer/radios/wlan0"


def test_a_container_that_sees_a_part_sees_its_own(top):
    assert cgroups.directory(7, "cpuacct") == f"{top}/cpu/wlan0"


def test_what_is_outside_of_what_can_be_seen_is_nowhere(top):
    assert cgroups.directory(8, "freezer") is None
    assert cgroups.directory(8) is None
    assert cgroups.directory(7, "memory") is None
    assert not cgroups.is_frozen(8)


def test_a_cgroup_that_has_gone_is_nowhere(top):
    (top / "cpu" / "wlan0").rmdir()
    assert cgroups.directory(7, "cpu") is None


@pytest.mark.parametrize(
    ("file", "text", "frozen"),
    [
        ("unified/helperd/wlan0/cgroup.events", "populated 1\nfrozen 1\n", True),
        ("unified/helperd/wlan0/cgroup.events", "populated 1\nfrozen 0\n", False),
        ("freezer/radios/wlan0/freezer.state", "FROZEN\n", True),
        ("freezer/radios/wlan0/freezer.state", "FREEZING\n", True),
        ("freezer/radios/wlan0/freezer.state", "THAWED\n", False),
    ],
)
def test_either_version_tells_freezing(top, file, text, frozen):
    assert not cgroups.is_frozen(7)
    (top / file).write_text(text)
    assert cgroups.is_frozen(7) is frozen


def test_a_process_that_has_gone_has_none():
    gone = os.getpid() + (1 << 22)
    assert cgroups.directory(gone) is None
    assert not cgroups.is_frozen(gone)


def test_the_places_are_those_of_the_kernels_list():
    for mount in cgroups.mounts().values():
        assert mount.root != "/" or Path(mount.top, "cgroup.procs").exists()
