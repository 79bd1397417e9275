"""The kit finds what is wrong with a helper, in the check that is about it, and nothing in a sound one."""

import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from helperd.cli import main
from helperd.conformance import table
from helperd.conformance.checks import CHECKS
from helperd.conformance.subject import Fault, Subject, command_of
from tests.ability import KISMETEXTERNAL
from tests.csdk.build import helper
from tests.helpers.test_adapters import LITTLE, PACKETS, program
from tests.helpers.test_capturefile import pcap
from tests.peers.broken_helper import FAULTS

PEERS = Path(__file__).resolve().parent.parent / "peers"
JOBS = 6
"""Checks at a time: most of their time they wait."""
LIMIT_S = 5.0
"""Seconds for an answer from a helper that gives none; what is sound gets more."""


def broken(fault, limit_s):
    return Subject(
        (sys.executable, str(PEERS / "broken_helper.py"), fault), answer_s=limit_s, definition="x:type=broken"
    )


@pytest.mark.timeout(600)
def test_a_sound_helper_has_no_fault():
    found = table.examine(broken("none", 20.0), jobs=JOBS)
    assert [finding for finding in found if finding.verdict == "FAULT" and finding.check != "bulk"] == []
    assert {finding.check for finding in found if finding.verdict == "ok"} >= set(FAULTS.values())


def test_each_planted_fault_is_found_by_the_check_that_is_about_it():
    """All at a time: where a helper is deaf, the kit waits."""

    def found(fault):
        check = FAULTS[fault]
        try:
            [finding] = table.examine(broken(fault, LIMIT_S), [check])
        except Fault as told:
            return "greeting", "v3", "FAULT" if "PING 0 was answered with PONG 1" in str(told) else str(told)
        return finding.check, finding.generation, finding.verdict if finding.text else "no text"

    with ThreadPoolExecutor(JOBS) as pool:
        verdicts = dict(zip(FAULTS, pool.map(found, FAULTS), strict=True))
    assert verdicts == {fault: (check, "v3", "FAULT") for fault, check in FAULTS.items()}


def test_what_is_no_helper_is_told(capsys):
    assert main(["conformance", "--limit", "1", "true"]) == 1
    assert "ended" in capsys.readouterr().err
    assert main(["conformance", "--limit", "0.3", "sleep", "60"]) == 1
    assert main(["conformance", "/no/such/program"]) == 64
    assert "does not exist" in capsys.readouterr().err
    assert main(["conformance"]) == 64
    assert "which helper?" in capsys.readouterr().err
    assert main(["conformance", "--definition", ":", "true"]) == 64
    assert main(["conformance", "--limit", "0", "true"]) == 64
    assert main(["conformance", "--jobs", "0", "true"]) == 64


def test_the_command_prints_the_table_and_its_faults(capsys):
    command = [sys.executable, str(PEERS / "broken_helper.py"), "tunes-to-anything"]
    words = ["conformance", "--definition", "x:type=broken", "--check", "channel", "--check", "list"]
    assert main([*words, *command]) == 1
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split()[:2] == ["check", "v3"]
    assert [line.split()[:2] for line in shown[1:3]] == [["list", "ok"], ["channel", "FAULT"]]
    assert shown[3] == "channel (v3): channel no-such-channel: done"
    assert main([*words, "--json", "--jobs", "2", *command]) == 1
    assert [row["verdict"] for row in json.loads(capsys.readouterr().out)["findings"]] == ["ok", "FAULT"]


SUBJECTS = ["C SDK", "Python SDK", "pipe", "jsonlines", "kismetexternal"]


def subject(name, tmp_path):
    data = tmp_path / "data.pcap"
    data.write_bytes(pcap(LITTLE, PACKETS[:10]))
    read = f"DATA = open({str(data)!r}, 'rb').read()\nsys.stdout.buffer.write(DATA[:24])"
    forever = "DATA = DATA[24:]\nwhile True: sys.stdout.buffer.write(DATA); sys.stdout.flush()"
    copy = f"{read}\n{forever}"
    lines = "while True: print('{\"a\": 1}', flush=True)"
    words, definition = {
        "C SDK": lambda: ((helper("hello"),), ""),
        "Python SDK": lambda: (("builtin:synthetic",), ""),
        "pipe": lambda: (
            ("builtin:pipe", "--", "interface~x", program(tmp_path, copy, "p"), "{interface}"),
            "x:type=pipe",
        ),
        "jsonlines": lambda: (
            ("builtin:jsonlines", "--", "interface~x", program(tmp_path, lines, "l"), "{interface}"),
            "x:type=jsonlines",
        ),
        "kismetexternal": lambda: ((KISMETEXTERNAL, str(PEERS / "kismetexternal_helper.py")), "counter"),
    }[name]()
    return Subject(
        command_of(words), definition=definition, answer_s=10.0 if name != "kismetexternal" else 4.0
    )


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SUBJECTS)
def test_the_table_in_the_docs_is_what_it_finds(name, tmp_path, root, need):
    """What is ``ok`` there must be so; a check that a busy machine might tip over is not looked for a fault."""
    if name == "kismetexternal":
        need("kismetexternal")
    if name == "C SDK":
        need("cc")
    rows = printed(root)
    found = table.examine(subject(name, tmp_path), jobs=JOBS)
    told = {}
    for finding in found:
        told.setdefault(finding.check, set()).add(finding.verdict)
    for check in CHECKS:
        worst = "FAULT" if "FAULT" in told[check.name] else "ok" if "ok" in told[check.name] else "-"
        assert worst == rows[check.name][name], [one for one in found if one.check == check.name]


def printed(root):
    """The table of the docs: check to subject to verdict."""
    text = (root / "docs" / "conformance.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in re.findall(r"^\|.*\|$", text, re.MULTILINE)
    ]
    heads = next(row for row in rows if row[0] == "check" and row[1] == SUBJECTS[0])
    return {
        row[0]: dict(zip(heads[1:], row[1:], strict=True))
        for row in rows
        if row[0] in {check.name for check in CHECKS}
    }


def test_every_check_is_in_the_docs(root):
    assert set(printed(root)) == {check.name for check in CHECKS}
