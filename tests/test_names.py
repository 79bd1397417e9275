"""Devices whose names hold what ends a name in a definition, and sources that their definitions name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helperd.control.client import Client, ControlError
from tests.helpers.test_capturefile import pcap
from tests.patience import HANGS_S
from tests.rig import HELPERD, ROOT, Rig, Stream, daemon
from tests.test_extcap import ask, environment, names, program

PEER = ROOT / "tests" / "peers" / "any_helper.py"
TOOL = f"""#!{sys.executable} -IS
import struct, sys, time
words = sys.argv
if "--extcap-interfaces" in words:
    print("extcap {{version=1}}")
    print("interface {{value=/dev/ttyACM7:115200}}{{display=Thread sniffer}}")
    print("interface {{value=phone-10.0.0.5:5555}}{{display=Phone}}")
    print("interface {{value=left,right}}{{display=Two}}")
    print('interface {{value=the "big" one:1}}{{display=Quoted}}')
elif "--extcap-dlts" in words:
    print("dlt {{number=195}}{{name=W}}{{display=W}}")
elif "--capture" in words:
    name = words[words.index("--extcap-interface") + 1].encode().ljust(20, b".")
    with open(words[words.index("--fifo") + 1], "wb", 0) as out:
        out.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 195))
        while True:
            out.write(struct.pack("<4I", 1_700_000_000, 0, len(name), len(name)) + name)
            time.sleep(0.02)
"""
NAMES = ["/dev/ttyACM7:115200", "phone-10.0.0.5:5555", "left,right", 'the "big" one:1']
DEFINITIONS = [
    '"/dev/ttyACM7:115200":type=tool',
    '"phone-10.0.0.5:5555":type=tool',
    '"left,right":type=tool',
    '"the ""big"" one:1":type=tool',
]


def blocks(folder: Path) -> str:
    tool = folder / "tool"
    tool.write_text(TOOL)
    tool.chmod(0o755)
    command = json.dumps(["builtin:extcap", "--", str(tool)])
    text = f'[[helper]]\nname = "tool"\ncommand = {command}\ntypes = ["tool"]\n'
    for kind in ("v0", "v2", "v3"):
        command = json.dumps([sys.executable, str(PEER), kind])
        text += f'[[helper]]\nname = "{kind}"\ncommand = {command}\ntypes = ["{kind}"]\nwire = "{kind}"\n'
    text += '[[helper]]\nname = "pcapfile"\ncommand = ["builtin:pcapfile"]\ntypes = ["pcapfile"]\n'
    return text


@pytest.fixture
def rig(rundir: Path) -> Iterator[Rig]:
    with daemon(rundir, blocks(rundir)) as running:
        yield running


def cli(rundir: Path, *words: str) -> subprocess.CompletedProcess[str]:
    where = (
        [f"--runtime-dir={rundir}"] if words[0] != "capture" else ["--config", str(rundir / "helpers.toml")]
    )
    argv = [*HELPERD, words[0], *where, *words[1:]]
    return subprocess.run(argv, capture_output=True, text=True, timeout=HANGS_S, check=False, cwd=ROOT)


def test_what_is_listed_is_what_opens_it(rig: Rig, rundir: Path) -> None:
    listed = [row for row in rig.call("ListDevices")["devices"] if row["helper"] == "tool"]
    assert [row["interface"] for row in listed] == NAMES
    assert [row["definition"] for row in listed] == DEFINITIONS
    printed = cli(rundir, "list").stdout
    for text in DEFINITIONS:
        assert text in printed
        done = cli(rundir, "start", text)
        assert (done.returncode, done.stderr) == (0, "")
    rows = rig.wait_running()["sources"]
    assert {row["definition"] for row in rows} == set(DEFINITIONS)
    assert {row["name"] for row in rows} == {
        "dev-ttyacm7-115200",
        "phone-10-0-0-5-5555",
        "left-right",
        "the-big-one-1",
    }
    assert all(
        row["in_use"] for row in rig.call("ListDevices", max_age_s=0)["devices"] if row["helper"] == "tool"
    )
    with rig.connect("sources/left-right.sock") as sock:
        assert Stream(sock).take(1)[0].content == b"left,right.........."


def test_wireshark_captures_from_it(rig: Rig, rundir: Path, tmp_path: Path) -> None:
    shim = program(tmp_path)
    shown = names(ask(shim, rundir, "--extcap-interfaces").stdout)
    devices = [name for name in shown if name.startswith("helperd.tool.")]
    assert len(devices) == len(NAMES)
    for name, interface in zip(devices, NAMES, strict=True):
        fifo = tmp_path / f"fifo-{len(name)}"
        os.mkfifo(fifo)
        argv = [str(shim), "--extcap-interface", name, "--capture", "--fifo", str(fifo)]
        process = subprocess.Popen(argv, env=environment(rundir))
        try:
            with fifo.open("rb") as reader:
                seen = b""
                while interface.encode().ljust(20, b".") not in seen:
                    data = reader.read1(65536)
                    assert data, "the capture ended"
                    seen += data
        finally:
            process.terminate()
            process.wait(HANGS_S)


def test_a_file_is_captured_from_by_the_command(rundir: Path, tmp_path: Path) -> None:
    (rundir / "helpers.toml").write_text(blocks(rundir))
    file = tmp_path / "2024-05-07T10:00:00,roof.pcap"
    file.write_bytes(pcap(bytes.fromhex("d4c3b2a1"), [(10**18, b"p" * 60, 60)] * 7, linktype=1))
    out = tmp_path / "out.pcapng"
    for text in (f'"{file}":type=pcapfile', f'"{file}"'):  # the second is found by asking
        done = cli(rundir, "capture", text, "-w", str(out))
        assert done.returncode == 0, done.stderr
        assert "Packets captured: 7" in done.stderr
    done = cli(rundir, "capture", str(file), "-w", str(out))
    assert done.returncode == 64
    assert f'in quotes: "{file}":key=value' in done.stderr


def test_a_configured_source_has_such_a_name(rundir: Path) -> None:
    text = blocks(rundir) + f"[[source]]\ndefinition = '{DEFINITIONS[0]}'\n"
    with daemon(rundir, text) as rig:
        [row] = rig.wait_running()["sources"]
        assert (row["name"], row["hardware"]) == ("dev-ttyacm7-115200", "Thread sniffer")
        checked = cli_check(rundir)
        assert checked.returncode == 0, checked.stderr


def cli_check(rundir: Path) -> subprocess.CompletedProcess[str]:
    argv = [*HELPERD, "check", str(rundir / "helpers.toml")]
    return subprocess.run(argv, capture_output=True, text=True, timeout=HANGS_S, check=False, cwd=ROOT)


@pytest.mark.parametrize("wire", ["v0", "v2", "v3"])
def test_an_old_helper_is_told_in_its_own_dialect_or_the_reason_is(rig: Rig, wire: str) -> None:
    row = rig.call("AddSource", definition=f'"left,right":type={wire}', name="two")["source"]
    assert (row["state"], row["hardware"]) == ("running", "left,right")
    with Client(rig.control, timeout_s=HANGS_S) as client, pytest.raises(ControlError) as caught:
        client.call("AddSource", definition=f'"10.0.0.5:5555":type={wire}', name="phone")
    assert caught.value.problem == "not-supported"
    assert f"{wire} cannot be told the interface '10.0.0.5:5555'" in str(caught.value)
    asked = rig.call("Probe", definition='"10.0.0.5:5555"')
    assert asked["helper"] is None
    failed = {row["helper"]: (row["problem"], row["text"]) for row in asked["failed"]}
    assert failed[wire][0] == "not-supported"
    assert "first colon" in failed[wire][1]
    assert rig.call("Probe", definition='"left,right":type=v2')["helper"] == "v2"


def test_a_definition_names_its_source_and_a_clash_is_told(rig: Rig, rundir: Path) -> None:
    done = cli(rundir, "start", "a:type=v3,name=Roof North")
    assert (done.returncode, done.stdout.partition(":")[0]) == (0, "roof-north")
    done = cli(rundir, "start", "b:type=v3,name=roof_north", "c:type=v3,name=roof north")
    assert done.returncode != 0
    assert "a source is named 'roof-north' already; choose another name" in done.stderr
    assert {row["name"] for row in rig.status()["sources"]} == {"roof-north", "roof_north"}
    with Client(rig.control, timeout_s=HANGS_S) as client:  # who names it in the call means that
        assert client.call("AddSource", definition="d:type=v3,name=x", name="y")["source"]["name"] == "y"


def test_a_clash_of_names_is_told_with_its_lines(rundir: Path) -> None:
    both = '[[source]]\ndefinition = "a:type=v3,name=roof"\n[[source]]\ndefinition = "b:type=v3,name=Roof"\n'
    (rundir / "helpers.toml").write_text(blocks(rundir) + both)
    done = cli_check(rundir)
    assert done.returncode == 78
    assert 'a source name "roof" is already on line' in done.stderr
    two = '[[source]]\nname = "attic"\ndefinition = "a:type=v3,name=roof"\n'
    (rundir / "helpers.toml").write_text(blocks(rundir) + two)
    done = cli_check(rundir)
    assert done.returncode == 0
    assert 'name = "attic" counts, not the definition\'s name=roof' in done.stderr
