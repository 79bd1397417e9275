"""Programs behind one interpreter, on devices of one name: each has the identity of all that it is told."""

from __future__ import annotations

import json
import os
import signal
import sys
from itertools import combinations
from pathlib import Path

import pytest

from helperd.control.client import Client, ControlError
from helperd.wire.identity import canonical, checksum, uuid_of
from tests.patience import HANGS_S
from tests.rig import daemon

WRITER = """
import os, struct, sys, time
out = sys.stdout.buffer
if "json" in sys.argv:
    while True:
        print('{"n": 1}', flush=True)
        time.sleep(0.05)
out.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
while True:
    out.write(struct.pack("<4I", 1_700_000_000, 0, 60, 60) + bytes(60))
    out.flush()
    time.sleep(0.05)
"""
TOOL = f"""#!{sys.executable} -IS
import struct, sys, time
words = sys.argv
if "--extcap-interfaces" in words:
    print("extcap {{version=1}}\\ninterface {{value=eth0}}{{display=x}}")
elif "--extcap-config" in words:
    print("arg {{number=0}}{{call=--host-number}}{{display=Host}}{{type=unsigned}}{{range=0,999}}")
elif "--capture" in words:
    with open(words[words.index("--fifo") + 1], "wb", 0) as out:
        out.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        while True:
            out.write(struct.pack("<4I", 1_700_000_000, 0, 60, 60) + bytes(60))
            time.sleep(0.05)
"""


def helper(name: str, *command: str, env: str = "") -> str:
    return (
        f'[[helper]]\nname = "{name}"\ncommand = {json.dumps(command)}\ntypes = ["{name}"]\n'
        + (f"env = {{ {env} }}\n" if env else "")
        + f'[[source]]\nname = "{name}"\ndefinition = "eth0:type={name}"\n'
    )


def config(folder: Path) -> str:
    for name in ("a", "b"):
        (folder / f"{name}.py").write_text(WRITER)
        (folder / name).mkdir(exist_ok=True)
        tool = folder / name / "tool"
        tool.write_text(TOOL)
        tool.chmod(0o755)
    a, b = str(folder / "a.py"), str(folder / "b.py")
    run = sys.executable
    return "".join(
        [
            helper("pipe-a", "builtin:pipe", "--", run, a),
            helper("pipe-b", "builtin:pipe", "--", run, b),  # another script
            helper("host-121", "builtin:pipe", "--", run, a, "host121"),  # whose checksums are the same
            helper("host-202", "builtin:pipe", "--", run, a, "host202"),
            helper("env-a", "builtin:pipe", "--", run, a, env='HOST = "a"'),  # told by the environment
            helper("env-b", "builtin:pipe", "--", run, a, env='HOST = "b"'),
            helper("json-a", "builtin:jsonlines", "--", run, a, "json"),
            helper("json-b", "builtin:jsonlines", "--", run, b, "json"),
            helper(
                "tool-a", "builtin:extcap", "--", str(folder / "a" / "tool")
            ),  # of one name in two folders
            helper("tool-b", "builtin:extcap", "--", str(folder / "b" / "tool")),
        ]
    )


def test_different_programs_are_different_devices_and_stay_what_they_are(rundir: Path) -> None:
    seen = []
    for _ in range(2):
        with daemon(rundir, config(rundir)) as rig:
            rows = {row["name"]: row["uuid"] for row in rig.wait_running()["sources"]}
            assert len(set(rows.values())) == len(rows)
            os.kill(rig.source("pipe-a")["pid"], signal.SIGKILL)
            rig.wait(
                lambda status: all(
                    row["state"] == "running" and (row["name"] != "pipe-a" or row["incarnation"] == 2)
                    for row in status["sources"]
                )
            )
            assert {row["name"]: row["uuid"] for row in rig.status()["sources"]} == rows
            seen.append(rows)
    assert seen[0] == seen[1]


def test_one_block_reaches_two_hosts_by_the_same_interface(rundir: Path) -> None:
    """As ``ssh hosta`` and ``ssh hostb`` do, both with an eth0: and a third one that is the first again."""
    script = rundir / "a.py"
    script.write_text(WRITER)
    command = json.dumps(["builtin:pipe", "--", sys.executable, str(script), "{host}", "{interface}"])
    text = f'[[helper]]\nname = "ssh"\ncommand = {command}\ntypes = ["ssh"]\n'
    for host in ("hosta", "hostb"):
        text += f'[[source]]\nname = "{host}"\ndefinition = "eth0:type=ssh,host={host}"\n'
    with daemon(rundir, text) as rig:
        rows = rig.wait_running()["sources"]
        assert len({row["uuid"] for row in rows}) == 2
        rig.call("Restart", source="hosta")
        rig.wait_running()
        with (
            Client(rig.control, timeout_s=HANGS_S) as client,
            pytest.raises(ControlError, match="source 'hosta'"),
        ):
            client.call("AddSource", definition="eth0:host=hosta,type=ssh,channel=6", name="again")


ALIKE = [  # the protocol's checksum is the same for both
    ("host121", "host202"),
    ("eth0 udp port 121", "eth0 udp port 202"),
    ("10.0.0.121", "10.0.0.202"),
    ("aca", "bab"),
]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_names_of_one_checksum_are_not_one_device(one: str, other: str) -> None:
    assert checksum(one.encode()) == checksum(other.encode())
    assert uuid_of("helperd_pipe", one) != uuid_of("helperd_pipe", other)
    assert uuid_of(f"helperd_{one}", "x") != uuid_of(f"helperd_{other}", "x")
    for helper in ("helperd_pipe", "kismet_cap_pcapfile"):
        assert canonical(uuid_of(helper, one)) == uuid_of(helper, one)


def test_words_are_told_apart_from_their_neighbours() -> None:
    ways = [("a", "bc"), ("ab", "c"), ("abc",), ("a", "b", "c"), ("", "abc")]
    assert all(
        uuid_of("helperd_x", *one) != uuid_of("helperd_x", *other) for one, other in combinations(ways, 2)
    )


def test_who_stands_in_for_a_helper_of_kismets_gives_its_identity() -> None:
    name = "/captures/tiny.pcap"
    found = uuid_of("kismet_cap_pcapfile", name)
    assert found == f"4E1D07C3-0000-0000-0000-0000{checksum(name.encode()):08X}"
