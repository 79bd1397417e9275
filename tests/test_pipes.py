"""The recipes that pipe reports into other systems: the lines as they are printed, against the real programs."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from tests.patience import HANGS_S
from tests.rig import HELPERD, ROOT, Rig, daemon

RECIPES = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """The text below a heading of the recipes."""
    return RECIPES.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def block(text: str, kind: str) -> str:
    """The first fenced block of a kind, without its fence."""
    fenced = re.split(r"^```", text, flags=re.MULTILINE)[1::2]
    return next(body.partition("\n")[2] for body in fenced if body.partition("\n")[0] == kind)


def line_with(word: str) -> str:
    """The one printed command that has this word in it."""
    (line,) = [line for line in section("Sensors into other systems").splitlines() if f"| {word}" in line]
    return line


@pytest.fixture
def garden(rundir: Path) -> Iterator[Rig]:
    with daemon(rundir, block(section("rtl_433 without a receiver"), "toml")) as rig:
        yield rig


@contextmanager
def piped(rig: Rig, line: str) -> Iterator[Callable[[], tuple[str, str]]]:
    """The printed line in a shell; its `helperd` is ours, and asks this daemon. Yields what waits for its end."""
    text = line.replace("helperd tap", f"{' '.join(HELPERD)} tap --runtime-dir={rig.runtime}", 1)
    process = subprocess.Popen(
        ["/bin/sh", "-c", text], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )

    @cache
    def finish() -> tuple[str, str]:
        out, err = process.communicate(timeout=HANGS_S)
        assert process.returncode == 0, out + err
        return out, err

    try:
        yield finish
        finish()  # the source is done after its one report: so is the pipe
    finally:
        process.kill()
        process.wait()


@pytest.mark.need("rtl_433")
def test_rtl_433_without_a_receiver_as_printed(garden: Rig) -> None:
    with piped(garden, block(section("rtl_433 without a receiver"), "").splitlines()[0]) as finish:
        out, _err = finish()
    report = json.loads(out)["report"]
    assert (report["model"], report["temperature_C"], report["humidity"]) == ("Nexus-TH", 22.9, 45)
    assert garden.source("garden")["why"] == "done"


@pytest.mark.need("rtl_433", "mosquitto")
def test_reports_reach_mqtt_as_printed(garden: Rig, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    conf = tmp_path / "mosquitto.conf"
    conf.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    broker = subprocess.Popen(
        ["mosquitto", "-c", str(conf)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    listener = None
    try:
        until_open(port)
        listen = f"stdbuf -oL mosquitto_sub -d -h 127.0.0.1 -p {port} -t sensors/# -C 1 -v"
        listener = subprocess.Popen(listen.split(), stdout=subprocess.PIPE, text=True)
        assert listener.stdout is not None
        assert any("SUBACK" in line for line in iter(listener.stdout.readline, ""))
        with piped(garden, line_with("mosquitto_pub").replace("-h localhost", f"-h 127.0.0.1 -p {port}")):
            out, _ = listener.communicate(timeout=HANGS_S)
        (message,) = [line for line in out.splitlines() if line.startswith("sensors/garden ")]
        assert json.loads(message.partition(" ")[2])["report"]["temperature_C"] == 22.9
    finally:
        for process in filter(None, (listener, broker)):
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()


@pytest.mark.need("rtl_433", "jq", "nc")
def test_reports_reach_influx_line_protocol_as_printed(garden: Rig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as telegraf:
        telegraf.settimeout(HANGS_S)
        port = telegraf.getsockname()[1]
        with piped(garden, line_with("jq").replace("nc -N localhost 8094", f"nc -N 127.0.0.1 {port}")):
            conn, _ = telegraf.accept()
            with conn, conn.makefile("r", encoding="utf-8") as lines:
                said = lines.read()
    assert re.fullmatch(r"climate,model=Nexus-TH,id=90 temperature=22\.9(00)? [0-9]{13}000000\n", said)
    at_s = int(said.split()[-1]) / 1e9
    assert abs(time.time() - at_s) < 3600  # rtl_433 stamps with the wall clock


@pytest.mark.need("rtl_433")
def test_reports_and_messages_reach_the_log_as_printed(garden: Rig, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(tmp_path / "log"))  # in place of /dev/log
        log.settimeout(HANGS_S)
        logger = f"logger -u {tmp_path}/log"
        with piped(garden, line_with("logger -t sensors").replace("logger", logger)):
            assert re.search(rb"sensors: \{\"source\":\"garden\".*Nexus-TH", log.recv(65536))
        ours = f"{' '.join(HELPERD)} messages --runtime-dir={garden.runtime}"  # without --follow, so that it ends
        text = line_with("logger -t helperd").replace("helperd messages --follow", ours)
        subprocess.run(
            ["/bin/sh", "-c", text.replace("logger", logger)], cwd=ROOT, check=True, timeout=HANGS_S
        )
        assert re.search(rb"helperd: .* garden: ", log.recv(65536))
    (tmp_path / "log").unlink()


def until_open(port: int) -> None:
    """Return once somebody listens there."""
    deadline = time.monotonic() + HANGS_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        else:
            return


METRIC = re.compile(r"helperd_[a-z_]+")


def exported() -> set[str]:
    """The names of all metrics of the exporter."""
    return set(METRIC.findall((ROOT / "helperd" / "services" / "exporter.py").read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", ["grafana/helperd.json", "prometheus/helperd.rules.yml"])
def test_dashboard_and_rules_name_metrics_that_there_are(name: str) -> None:
    named = set(METRIC.findall((ROOT / "packaging" / name).read_text(encoding="utf-8")))
    assert len(named) > 5
    assert named <= exported()


def test_the_dashboard_has_a_place_and_a_question_for_each_panel() -> None:
    dashboard = json.loads((ROOT / "packaging" / "grafana" / "helperd.json").read_text(encoding="utf-8"))
    places = set()
    for panel in dashboard["panels"]:
        where = panel["gridPos"]
        assert where["x"] + where["w"] <= 24
        places.add((where["x"], where["y"]))
        assert all(target["expr"].count("(") == target["expr"].count(")") for target in panel["targets"])
        assert panel["title"]
        assert panel["targets"]
    assert len(places) == len(dashboard["panels"])


@pytest.mark.need("promtool")
def test_prometheus_accepts_rules_and_every_question_of_the_dashboard(tmp_path: Path) -> None:
    rules = ROOT / "packaging" / "prometheus" / "helperd.rules.yml"
    dashboard = json.loads((ROOT / "packaging" / "grafana" / "helperd.json").read_text(encoding="utf-8"))
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    questions = {
        "groups": [
            {
                "name": "dashboard",
                "rules": [
                    {
                        "record": f"r{number}",
                        "expr": text.replace("$__rate_interval", "5m").replace("$node", ".*"),
                    }
                    for number, text in enumerate(asked)
                ],
            }
        ]
    }
    own = tmp_path / "dashboard.yml"
    own.write_text(json.dumps(questions))  # JSON is YAML
    done = subprocess.run(
        ["promtool", "check", "rules", str(rules), str(own)], capture_output=True, text=True, timeout=HANGS_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(asked)} rules found" in done.stdout
