"""`helperd capture` without root: every way to name a file and to end, and what it says when it cannot.

With a launcher of its own and with one that listens. As another user than root: tests/attack/tools.py.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.census import OWN, name_of
from tests.patience import HANGS_S

CONFIG = """
[[helper]]
name = "pcapfile"
command = ["builtin:pcapfile"]
types = ["pcapfile"]
[[helper]]
name = "synthetic"
command = ["builtin:synthetic"]
types = ["synthetic"]
[[helper]]
name = "raw"
command = ["builtin:interface"]
types = ["interface"]
capabilities = ["sys_resource", "mac_admin"]
"""
DEMO, ENDLESS, RADIO = "demo:type=pcapfile", "demo:type=pcapfile,loop=true", "radio0:type=synthetic"
HELPERD = (sys.executable, "-m", "helperd.cli")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("capture") / "helpers.toml"
    path.write_text(CONFIG)
    return path


def capture(config: Path, *words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*HELPERD, "capture", "--config", str(config), *words],
        capture_output=True,
        check=False,
        timeout=60,
        **options,
    )


def packets(data: bytes) -> int:
    """How many packets a pcapng stream has; it must end with a whole block."""
    at = count = 0
    while at < len(data):
        kind, size = (int.from_bytes(data[at + n : at + n + 4], "little") for n in (0, 4))
        assert size >= 12
        assert at + size <= len(data)
        count += kind == 6
        at += size
    return count


def test_a_file_with_so_many_packets(config: Path, tmp_path: Path) -> None:
    done = capture(config, DEMO, "-w", str(tmp_path / "out"), "-c", "5")
    assert done.returncode == 0, done.stderr
    assert packets((tmp_path / "out").read_bytes()) == 5
    assert done.stderr.decode().splitlines() == [f"File: {tmp_path}/out", "Packets captured: 5"]


def test_standard_output_to_the_end_of_the_recording(config: Path) -> None:
    done = capture(config, DEMO, "-w", "-", "-q")
    assert done.returncode == 0
    assert packets(done.stdout) == 119
    assert done.stderr == b""


@pytest.mark.parametrize(("limit", "wanted"), [("duration:1", None), ("packets:7", 7), ("filesize:2", None)])
def test_limits(config: Path, limit: str, wanted: int | None) -> None:
    done = capture(config, RADIO, "-w", "-", "-a", limit)
    assert done.returncode == 0, done.stderr
    found = packets(done.stdout)
    assert found == wanted if wanted else found > 0


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        ((":::", "-w", "-"), 64, "the interface is missing"),
        (("x:type=nosuch", "-w", "-"), 1, "no [[helper]] serves type 'nosuch'"),
        (("/none.pcap:type=pcapfile", "-w", "-"), 1, "/none.pcap does not exist"),
        (
            ("lo:type=interface", "-w", "-"),
            1,
            "helperd: no-capability: raw needs sys_resource",
        ),
        ((DEMO, "-w", "/dev/full"), 111, "No space left on device"),
        ((DEMO, "-w", "/none/file"), 111, "cannot write /none/file"),
        ((DEMO, "-w", "-", "--launcher", "/none/socket"), 69, "helperd launcher --listen /none/socket"),
        ((DEMO, "-w", "-", "-a", "nonsense:1"), 64, "must be one of duration, filesize, packets"),
    ],
)
def test_what_cannot_be_is_said(config: Path, words: tuple[str, ...], status: int, text: str) -> None:
    if "sys_resource" in text and "\nCapEff:\t000001ffffffffff" in Path("/proc/self/status").read_text():
        pytest.skip("has every capability: nothing is beyond it")
    done = capture(config, *words)
    said = done.stderr.decode()
    assert (done.returncode, text in said) == (status, True), said
    assert said.count(text) == 1, "said once"
    assert "stays down" not in said
    assert "Packets captured" not in said
    assert "Traceback" not in said


def test_a_terminal_gets_no_packets(config: Path) -> None:
    ours, theirs = os.openpty()
    try:
        argv = [*HELPERD, "capture", "--config", str(config), DEMO]
        done = subprocess.run(argv, stdout=theirs, stderr=subprocess.PIPE, check=False, timeout=HANGS_S)
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode in {1, 64}
    assert b"standard output is a terminal" in done.stderr


def started(config: Path, *words: str) -> subprocess.Popen[bytes]:
    """A capture without end, after its first packets."""
    argv = [*HELPERD, "capture", "--config", str(config), ENDLESS, "-w", "-", *words]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.read(4096)
    return process


def finished(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    assert process.stdout
    assert process.stderr
    if not process.stdout.closed:
        while process.stdout.read(65536):
            pass
    said = process.stderr.read().decode()
    with process:
        return process.wait(HANGS_S), said


def test_a_reader_that_goes_away_ends_it_well(config: Path) -> None:
    process = started(config)
    assert process.stdout
    process.stdout.close()
    status, said = finished(process)
    assert (status, said.count("\n")) == (0, 0), said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_well(config: Path, number: int) -> None:
    process = started(config)
    process.send_signal(number)
    status, said = finished(process)
    assert status == 0, said
    assert "Packets captured: " in said


def test_a_helper_that_is_killed_is_a_failure_although_packets_came(config: Path) -> None:
    process = started(config)
    (helper,) = (pid for pid in children(child_of(process.pid)) if name_of(pid) not in OWN)
    os.kill(helper, signal.SIGKILL)
    status, said = finished(process)
    assert status == 1
    assert "SIGKILL" in said


def child_of(pid: int) -> int:
    """The only child of a process: here its launcher."""
    (child,) = children(pid)
    return child


def children(pid: int) -> list[int]:
    return [int(child) for child in read(f"/proc/{pid}/task/{pid}/children").split()]


def read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


@pytest.fixture
def listening(config: Path, tmp_path: Path) -> Iterator[str]:
    """A launcher that listens, with our own rights."""
    path = str(tmp_path / "launcher.sock")
    argv = [*HELPERD, "launcher", "--config", str(config), "--listen", path]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE)
    deadline = time.monotonic() + HANGS_S
    while True:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            if sock.connect_ex(path) == 0:
                break
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield path
    process.terminate()
    with process:
        assert process.wait(HANGS_S) == 0


@pytest.mark.skipif(
    os.geteuid() != 0, reason="without root only an [[allow]] rule lets one in: tests/attack/tools.py"
)
def test_a_launcher_that_listens_is_asked(config: Path, listening: str) -> None:
    done = capture(config, DEMO, "-w", "-", "-c", "5", "--launcher", listening)
    assert done.returncode == 0, done.stderr
    assert packets(done.stdout) == 5
