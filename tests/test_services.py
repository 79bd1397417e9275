"""Services: programs without privilege that live like sources; and the exporter, by what it answers over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helperd import config
from helperd.cli import main
from helperd.config.profile import Accounts, compile_profiles
from helperd.control.interface import load as load_interface
from helperd.errors import ConfigRefused
from helperd.services import exporter
from helperd.table import render
from tests.control.fake import FakeDaemon, source
from tests.patience import HANGS_S
from tests.rig import HELPERD, ROOT, Rig, daemon

CONFIG = """
[[helper]]
name = "synthetic"
command = ["builtin:synthetic"]
types = ["synthetic"]

[[source]]
definition = "radio0:type=synthetic"
"""
METRICS = """
[[service]]
name = "metrics"
command = ["builtin:exporter", "--listen=127.0.0.1:0"]
"""
INTERFACE = load_interface("io.helperd")
SAMPLE = re.compile(
    r'[a-z_]+(\{([a-z_]+="([^"\\]|\\.)*",?)+\})? (-?[0-9]+(\.[0-9]+)?(e-?[0-9]+)?|nan|inf)', re.ASCII
)


def service(status: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in status["services"] if row["name"] == name)


def port_of(rig: Rig) -> int:
    """Where the exporter says it listens."""

    def said(status: dict[str, Any]) -> bool:
        return any("serving" in line for line in service(status, "metrics")["stderr"])

    words = service(rig.wait(said), "metrics")["stderr"]
    return int(
        next(line for line in reversed(words) if "serving" in line).rpartition(":")[2].partition("/")[0]
    )


def get(port: int, path: str = "/metrics") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def samples(text: str) -> dict[str, float]:
    """All samples; every line has to be one, or a comment of the format."""
    found, families = {}, set()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            assert line.split()[2] not in families, "a family begins twice"
            families.add(line.split()[2])
        elif not line.startswith("# HELP "):
            assert SAMPLE.fullmatch(line), line
            name, _, value = line.rpartition(" ")
            assert name.partition("{")[0] in families
            assert name not in found, "one sample twice"
            found[name] = float(value)
    return found


# the configuration


def test_a_service_has_a_number_behind_the_helpers_and_no_privilege() -> None:
    settings = config.parse(CONFIG + METRICS, "f")
    assert settings.service_profile("metrics") == 2
    assert settings.profile("metrics") == 0, "it is no helper: [[allow]] cannot name it"
    profile = compile_profiles(settings, Accounts(), str(ROOT / "helperd"), "")[1]
    assert profile.want == 0
    assert profile.no_new_privs
    assert profile.uid == "pool"
    assert "--in-fd=3" not in profile.argv
    assert profile.argv[-1] == "--listen=127.0.0.1:0"


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ('name = "radio0"\ncommand = ["/bin/true"]', "a source is called"),
        ('name = "x"\ncommand = ["builtin:exprter"]', "exporter"),
        ('name = "x"\ncommand = ["bin/true"]', "absolute path"),
        ('name = "x"\ncommand = ["/bin/true"]\nuser = "root"', "must not be root"),
        ('command = ["/bin/true"]', 'needs "name"'),
        ('name = "x"\ncommand = ["/bin/true"]\nrestart = "always"', "permanent"),
    ],
)
def test_a_mistake_is_told(block: str, words: str) -> None:
    with pytest.raises(ConfigRefused, match=re.escape(words)):
        config.parse(f"{CONFIG}\n[[service]]\n{block}\n", "f")


def test_a_user_that_is_nobody_here_is_refused() -> None:
    settings = config.parse(CONFIG + METRICS + 'user = "nobody-at-all"\n', "f")
    with pytest.raises(ConfigRefused, match="does not exist"):
        compile_profiles(settings, Accounts(), str(ROOT / "helperd"), "")


# the life


def test_a_service_is_kept_running_and_told_where_the_sockets_are(rundir: Path) -> None:
    told = rundir / "told"
    code = f"import os,sys\nline = os.read(3, 4096)\nopen({str(told)!r}, 'wb').write(line)\nos.read(3, 1)"
    own = f"\n[[service]]\nname = 'mine'\ncommand = [{sys.executable!r}, '-c', {json.dumps(code)}]\n"
    failing = '\n[[service]]\nname = "failing"\ncommand = ["/bin/false"]\n'
    once = '\n[[service]]\nname = "once"\ncommand = ["/bin/true"]\nrestart = "transient"\n'
    with daemon(rundir, CONFIG + own + failing + once) as rig:
        rig.wait(lambda status: service(status, "failing")["state"] == "backoff")
        status = rig.wait(lambda status: service(status, "once")["state"] == "down")
        assert service(status, "once")["exit"]["kind"] == "done"
        assert status["health"] == "degraded"
        assert service(status, "failing")["exit"]["problem"] == "exited"
        assert [row["name"] for row in status["sources"]] == ["radio0"], "a service is no source"
        assert any(line.startswith("failing backoff") for line in render(status))
        pid = service(status, "mine")["pid"]
        os.kill(pid, signal.SIGKILL)
        again = rig.wait(
            lambda status: (
                service(status, "mine")["restarts"] == 1 and service(status, "mine")["state"] == "running"
            )
        )
        assert service(again, "mine")["pid"] != pid
        rig.wait(lambda _status: told.exists() and told.read_bytes().endswith(b"\n"))
        assert json.loads(told.read_text()) == {"runtime_dir": str(rundir)}
        left = service(again, "mine")["pid"]
    assert not Path(f"/proc/{left}").exists()


def test_a_reload_touches_the_services_that_changed(rundir: Path) -> None:
    sleeping = '\n[[service]]\nname = "{}"\ncommand = ["/bin/sleep", "{}"]\n'
    with daemon(rundir, CONFIG + sleeping.format("a", 1000) + sleeping.format("b", 1000)) as rig:
        before = rig.wait(lambda status: all(row["state"] == "running" for row in status["services"]))
        file = rundir / "helpers.toml"
        file.write_text(CONFIG + sleeping.format("b", 2000) + sleeping.format("c", 1000))
        rig.call("Reload")
        after = rig.wait(lambda status: [row["name"] for row in status["services"]] == ["b", "c"]
                         and all(row["state"] == "running" for row in status["services"]))  # fmt: skip
        assert service(after, "b")["pid"] != service(before, "b")["pid"]
        b, c = service(after, "b")["pid"], service(after, "c")["pid"]
        file.write_text("# nothing but a comment\n" + file.read_text())
        rig.call("Reload")
        kept = rig.status()
        assert [service(kept, name)["pid"] for name in "bc"] == [b, c]
        assert rig.source("radio0")["restarts"] == 0


def test_an_operator_stops_and_starts_a_service_by_its_name(
    rundir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sleeping = '\n[[service]]\nname = "mine"\ncommand = ["/bin/sleep", "1000"]\n'

    def run(*words: str) -> int:
        return main([*words, "--runtime-dir", str(rundir)])

    with daemon(rundir, CONFIG + sleeping) as rig:
        assert run("wait", "--running", "radio0", "mine") == 0
        first = service(rig.status(), "mine")["pid"]
        assert run("restart", "mine") == 0
        second = service(rig.status(), "mine")["pid"]
        assert second != first
        assert run("stop", "mine", "radio0") == 0
        assert capsys.readouterr().out == "mine: running\nmine: down\nradio0: down\n"
        assert not Path(f"/proc/{second}").exists()
        assert rig.status()["health"] == "ok", "nothing that was stopped by order is in trouble"
        assert run("wait", "--stopped", "mine") == 0

        (rundir / "helpers.toml").write_text(CONFIG + sleeping.replace("1000", "2000"))
        rig.call("Reload")
        assert service(rig.status(), "mine")["state"] == "down", "a reload starts nothing that was stopped"

        assert run("start", "mine", "--json") == 0
        said = json.loads(capsys.readouterr().out)
        assert (said["sources"], said["services"][0]["state"]) == ([], "running")
        for method, state in (("Stop", "down"), ("Start", "running"), ("Restart", "running")):
            reply = rig.call(method, source="mine")
            assert INTERFACE.wrong(reply, INTERFACE.methods[method].outputs) == ""
            assert reply["service"]["state"] == state

        assert run("stop", "min") == 64
        assert "no source or service is named 'min'; did you mean 'mine'?" in capsys.readouterr().err
        assert run("pause", "mine") == 64, "it has no packets"
        assert "no source is named 'mine'" in capsys.readouterr().err


# the exporter


def test_prometheus_gets_what_the_daemon_says(rundir: Path) -> None:
    with daemon(rundir, CONFIG + METRICS) as rig:
        rig.wait_running("radio0")
        port = port_of(rig)
        status, text = get(port)
        assert status == 200
        first = samples(text)
        assert first["helperd_up"] == 1
        assert first['helperd_source_state{source="radio0",state="running"}'] == 1
        assert first['helperd_service_running{service="metrics"}'] == 1
        seen = rig.source("radio0")["packets"]
        later = samples(get(port)[1])
        assert later['helperd_source_packets_total{source="radio0"}'] >= seen
        assert get(port, "/etc/passwd")[0] == 404
        with socket.create_connection(("127.0.0.1", port), 20) as rude:
            rude.sendall(b"\x00\xff nonsense\r\n\r\n")
            rude.recv(1000)
        idle = [socket.create_connection(("127.0.0.1", port), 20) for _ in range(exporter.CLIENTS + 4)]
        for sock in idle:
            sock.close()
        rig.wait(lambda _status: _answers(port))
        assert rig.source("radio0")["restarts"] == 0


def _answers(port: int) -> bool:
    try:
        return get(port)[0] == 200
    except OSError:
        return False


def test_every_number_of_the_status_has_its_sample_and_no_label_can_break_out() -> None:
    pretended = FakeDaemon()
    pretended.sources["odd"] = source("odd", definition='a"b\\c\nd')
    status = pretended.snapshot() | {"services": []}
    found = samples(exporter.page_of(status))
    assert found['helperd_source_lost_packets_total{source="odd",reason="no-consumer"}'] == 7
    assert found['helperd_consumers{sink="all.sock"}'] == 1
    assert any(r'definition="a\"b\\c\nd"' in name for name in found)
    assert samples(exporter.page_of(None)) == {"helperd_up": 0}


def test_counters_of_a_sink_go_on_when_its_readers_leave() -> None:
    status = FakeDaemon().snapshot() | {"services": [], "residue": 0}
    here = status["consumers"][0]
    left = {"consumers": 2, "offered": 9, "packets": 5, "bytes": 99, "lost": {"consumer-left": 4}}
    status["sinks"] = [{**row, "left": left} for row in status["sinks"]]
    found = samples(exporter.page_of(status))
    assert found['helperd_sink_packets_total{sink="all.sock"}'] == 5 + here["packets"]
    assert found['helperd_sink_lost_packets_total{sink="all.sock",reason="consumer-left"}'] == 4
    assert found["helperd_unexplained_packets"] == 0
    later = samples(exporter.page_of(status | {"consumers": []}))
    assert later['helperd_sink_packets_total{sink="all.sock"}'] == 5


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--listen=0.0.0.0:0"], "--exposed"),
        (["--listen=localhost:1"], "127.0.0.1:9747"),
        (["--listen=127.0.0.1:99999"], "127.0.0.1:9747"),
        (["--no-such"], "unrecognized"),
    ],
)
def test_the_exporter_says_what_is_wrong_with_its_options(words: list[str], told: str) -> None:
    argv = [sys.executable, str(ROOT / "helperd/services/__main__.py"), "exporter", *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=HANGS_S)
    assert done.returncode in {2, 64}
    assert told in done.stderr


def test_only_bundled_services_can_be_named() -> None:
    argv = [sys.executable, str(ROOT / "helperd/services/__main__.py"), "_place"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=HANGS_S)
    assert done.returncode == 64
    assert "no service's name" in done.stderr


def test_a_capture_without_a_daemon_starts_no_service(rundir: Path, tmp_path: Path) -> None:
    marker, file, out = (tmp_path / name for name in ("marker", "helpers.toml", "out.pcapng"))
    file.write_text(
        f'{CONFIG}[[service]]\nname = "mark"\ncommand = ["/bin/sh", "-c", "echo >> {marker}; sleep 60"]\n'
    )
    for words in (
        ["capture", "--config", file, "-q", "-c", "500", "-w", out, "radio0:type=synthetic,rate=1000"],
        ["list", "--config", file],
        ["probe", "--config", file, "radio0:type=synthetic"],
    ):  # fmt: skip
        done = subprocess.run(
            [*HELPERD, *words], capture_output=True, text=True, check=False, timeout=HANGS_S
        )
        assert done.returncode == 0, done.stderr
        assert not marker.exists(), words
    assert out.stat().st_size > 500 * 32
    with daemon(rundir, file.read_text()) as rig:  # whereas the daemon does
        rig.wait(lambda _status: marker.exists())
