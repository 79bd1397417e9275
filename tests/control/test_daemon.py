"""The real daemon keeps what the interface promises: its answers are checked against the text it gives out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helperd.control.call import OWN
from helperd.control.client import Client, ControlError
from helperd.control.interface import load as load_interface
from tests.patience import HANGS_S
from tests.rig import Rig, daemon

INTERFACE = load_interface(OWN)
CONFIG = """
[[helper]]
name = "synthetic"
command = ["builtin:synthetic"]
types = ["synthetic"]

[[source]]
definition = "radio0:type=synthetic"
name = "radio0"

[[source]]
definition = "radio1:type=synthetic"
name = "radio1"
start = "manual"

[[source]]
definition = "nothing:type=synthetic"
name = "broken"
"""


@pytest.fixture
def rig(rundir: Path) -> Iterator[Rig]:
    with daemon(rundir, CONFIG) as running:
        running.wait_running("radio0")
        yield running


def asked(rig: Rig, method: str, **parameters: Any) -> dict[str, Any]:
    """Ask, and check the answer's shape."""
    with Client(rig.control) as client:
        reply = client.call(method, **parameters)
    assert INTERFACE.wrong(reply, INTERFACE.methods[method].outputs) == ""
    return reply


def test_every_answer_of_the_real_daemon_follows_the_interface(rig: Rig) -> None:
    with rig.connect() as reader:
        assert reader.recv(1)
        status = asked(rig, "GetStatus")
    assert status["consumers"]
    assert asked(rig, "ListSources")["sources"] == ["radio0", "radio1", "broken"]
    for method in ("GetMessages", "GetLedger", "GetVitals", "GetHealth", "ListDevices"):
        asked(rig, method)
    assert asked(rig, "Probe", definition="radio3:type=synthetic")["helper"] == "synthetic"
    assert asked(rig, "Stop", source="radio0")["source"]["state"] == "down"
    assert asked(rig, "Start", source="radio0")["source"]["state"] == "running"
    before = asked(rig, "GetSource", source="radio0")["source"]["pid"]
    assert asked(rig, "Restart", source="radio0")["source"]["pid"] != before
    assert asked(rig, "Pause", source="radio0")["source"]["paused"] is True
    assert asked(rig, "Resume", source="radio0")["source"]["paused"] is False
    channel = asked(rig, "GetSource", source="radio0")["source"]["channels"][-1]
    assert asked(rig, "SetChannel", source="radio0", channel=channel)["source"]["channel"] == channel
    asked(rig, "Hop", source="radio0")
    added = asked(rig, "AddSource", definition="radio3:type=synthetic", name="extra")
    assert added["source"]["name"] == "extra"
    asked(rig, "RemoveSource", source="extra")
    assert asked(rig, "Reload")["keep"]


@pytest.mark.parametrize(
    ("method", "parameters", "problem"),
    [
        ("Stop", {"source": "radio9"}, "unknown-source"),
        ("SetChannel", {"source": "radio1", "channel": ""}, "bad-value"),
        ("SetChannel", {"source": "radio0", "channel": "no such"}, "bad-value"),
        ("Hop", {"source": "radio0", "channels": ["6", "998"]}, "bad-value"),
        ("Hop", {"source": "radio0", "rate": 20.5}, "bad-value"),
        ("AddSource", {"definition": "::"}, "bad-definition"),
        ("AddSource", {"definition": "x:type=unheard"}, "unknown-helper"),
        ("AddSource", {"definition": "nothing:type=synthetic"}, "open-refused"),
        ("AddSource", {"definition": "radio3:type=synthetic", "name": "radio0"}, "duplicate-name"),
        ("AddSource", {"definition": "radio3:type=synthetic", "name": "../x"}, "bad-value"),
        ("RemoveSource", {"source": "nobody"}, "unknown-source"),
        ("Start", {"source": "broken"}, "open-refused"),
        ("Probe", {"definition": ""}, "bad-definition"),
        ("Probe", {"definition": "x:type=unheard"}, "unknown-helper"),
    ],
)
def test_what_the_real_daemon_refuses_it_refuses_in_words(
    rig: Rig, method: str, parameters: dict[str, str], problem: str
) -> None:
    with Client(rig.control, timeout_s=HANGS_S) as client, pytest.raises(ControlError) as caught:
        client.call(method, **parameters)
    assert caught.value.problem == problem
    assert [row["name"] for row in rig.status()["sources"]] == ["radio0", "radio1", "broken"]
