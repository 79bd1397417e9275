"""What foreign programs complain of is told in their words, with the cure behind it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from helperd import complaint
from helperd.control.client import Client, ControlError
from tests.patience import HANGS_S
from tests.rig import ROOT, daemon

PEER = ROOT / "tests" / "peers" / "bad_helper.py"
SAID = "Could not acquire the interface lockfile (Operation not permitted), see the documentation."
COMMAND = json.dumps([sys.executable, "-I", "-S", str(PEER), "refuse-open", f"--text={SAID}"])


def test_kismets_lock_is_named_with_its_cure_wherever_the_refusal_is_told(rundir: Path) -> None:
    text = f'[[helper]]\nname = "wifi"\ncommand = {COMMAND}\ntypes = ["linuxwifi"]\n'
    with daemon(rundir, text + '[[source]]\nname = "roof"\ndefinition = "wlan0:type=linuxwifi"\n') as rig:
        rig.wait(lambda status: status["sources"][0]["exit"] is not None)
        row = rig.source("roof")
        assert row["exit"]["problem"] == "open-refused"
        messages = [message["text"] for message in rig.call("GetMessages", source="roof")["messages"]]
        with Client(rig.control, timeout_s=HANGS_S) as client, pytest.raises(ControlError) as caught:
            client.call("AddSource", definition="wlan1:type=linuxwifi", name="other")
        for told in (row["exit"]["text"], messages[-1], str(caught.value)):
            assert SAID.rstrip(".") in told
            assert f"sudo rm {complaint.WIFI_LOCK}" in told
            assert 'uid = "shared"' in told


def test_its_owner_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "lock"
    monkeypatch.setattr(complaint, "WIFI_LOCK", str(lock))
    assert "may be opened by its owner alone" in complaint.with_cure(SAID)
    lock.touch()
    assert f"is user {lock.stat().st_uid}'s" in complaint.with_cure(SAID)


@pytest.mark.parametrize("text", ["no such interface", "the database is locked", "", "interface is blocked"])
def test_other_words_stay_as_they_are(text: str) -> None:
    assert complaint.with_cure(text) == text
