"""`helperd demo --live` and `--chaos`: real packets without root, and helpers that come back."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helperd import config
from helperd.cli.demo import CHAOS, LIVE
from helperd.config import trust
from tests.patience import HANGS_S
from tests.rig import ROOT, Stream, daemon

SHIPPED = ROOT / "config" / "helpers.toml"


@pytest.mark.parametrize("options", [(), ("--chaos",)])
def test_it_leaves_nothing_behind(rundir: Path, options: tuple[str, ...]) -> None:
    with daemon(rundir / "r", SHIPPED, *options, command="demo", log=rundir / "log") as rig:
        with rig.connect() as sock:
            stream = Stream(sock)
            ages = {}
            for packet in stream.packets():
                ages[stream.interfaces[packet.interface][1]] = abs(packet.stamp / 1e9 - time.time())
                if len(ages) == 2:
                    break
            assert max(ages.values()) < 2 * HANGS_S, "what is replayed is of now"
        assert (rundir / "r" / "demo.toml").exists() == bool(options)
    assert not (rundir / "r").exists()
    (said,) = [
        line for line in (rundir / "log").read_text().splitlines() if line.startswith("helperd demo: ")
    ]
    assert said.startswith("helperd demo: 2 sources, each a real process; ")


def test_the_hints_fit_a_terminal_and_can_be_copied(rundir: Path) -> None:
    with daemon(rundir / "r", SHIPPED, command="demo", log=rundir / "log") as rig:
        rig.wait_running()
        text = (rundir / "log").read_text()
        head, *_ = text.partition('{"time"')
        assert all(len(line) <= 80 for line in head.splitlines() if str(rundir) not in line), head
        joined = re.sub(r" \\\n +", " ", head)
        hints = [line for line in joined.splitlines() if line.startswith("  ")]
        tshark, tap, status = hints
        assert tshark.split() == ["tshark", "-i", f"{rundir}/r/all.sock"]
        assert re.search(r" tap --runtime-dir=\S+ radio0 \| tcpdump -n -r -$", tap)
        done = subprocess.run(status, shell=True, capture_output=True, text=True, timeout=HANGS_S)
        assert done.returncode == 0
        assert "radio0" in done.stdout


def test_what_the_options_add_is_good() -> None:
    text = SHIPPED.read_text() + LIVE.format(captured="demo0", address="192.0.2.1") + CHAOS
    settings = config.parse(text, "demo.toml")
    assert [service.name for service in settings.services] == ["talker", "chaos"]
    assert settings.helper("interface").capabilities == ("net_raw",)


@pytest.mark.need("user-veth")
def test_live_captures_real_packets_in_namespaces_of_its_own(rundir: Path) -> None:
    with daemon(rundir, SHIPPED, "--live", command="demo") as rig:
        rig.wait_running("live")
        with rig.connect("sources/live.sock") as sock:
            packets = Stream(sock).take(10)
        talked = [packet.content for packet in packets if b"helperd talker, packet " in packet.content]
        assert len(talked) >= 5
        numbers = [int(content.rsplit(b" ", 1)[1]) for content in talked]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        pid = rig.status()["pid"]  # its helpers, which are not dumpable, show this to root only
        for kind in ("user", "net"):
            assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")


def test_where_namespaces_are_forbidden_the_demo_says_so_and_goes_on(rundir: Path) -> None:
    code = (
        "import sys\nfrom helperd.cli import stage, main\n"
        "def forbidden():\n    raise OSError(1, 'user namespaces: Operation not permitted')\n"
        "stage.build_stage = forbidden\n"
        "import helperd.cli.demo as demo\n"
        "def shown(file, *rest, **more):\n    print(open(file).read()); raise SystemExit(0)\n"
        "demo.become_launcher = shown\nmain(sys.argv[1:])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "demo", "--live", "--runtime-dir", str(rundir / "r")],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=HANGS_S,
    )  # fmt: skip
    assert "no live capture: user namespaces: Operation not permitted; the demo goes on" in done.stderr
    assert done.stdout.strip() == SHIPPED.read_text().strip()


def test_chaos_kills_helpers_and_they_come_back(rundir: Path) -> None:
    with daemon(rundir, SHIPPED, "--chaos", command="demo") as rig:
        status = rig.wait(lambda status: sum(row["restarts"] for row in status["sources"]) >= 1, timeout=60)
        rig.wait_running()
        (chaos,) = status["services"]
        assert any(line.startswith("killed ") for line in chaos["stderr"])
        (died,) = [row["exit"] for row in status["sources"] if row["exit"]][:1]
        assert died["problem"] == "killed"


def test_roots_files_are_trusted_under_their_face_in_a_namespace_of_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    maps = {"0 1000 1\n": 65534, "0 0 1\n": 0, "0 0 4294967295\n": 0, "0 1000 1\n1 100000 65536\n": 0, "": 0}
    real = open
    for text, expected in maps.items():
        file = tmp_path / "map"
        file.write_text(text)

        def pretended(path: str, *rest: object, _file: Path = file, **more: object) -> object:
            return real(_file if path == "/proc/self/uid_map" else path, *rest, **more)

        monkeypatch.setattr(trust, "open", pretended, raising=False)
        trust.roots_face.cache_clear()
        assert trust.roots_face() == expected, text
    monkeypatch.undo()
    trust.roots_face.cache_clear()
