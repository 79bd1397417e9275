"""Programs of the field under a real daemon, through the adapters: listed, probed, 1,000 packets, stopped in 1 s."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.helpers import sshd
from tests.helpers.sshd import EXTCAPS
from tests.patience import promptly
from tests.rig import Rig, Stream, daemon

PACKETS = 1000
RTL_433_DATA = "{{25}}fb2dd58"
"""Bits of a Chuango sensor, braces doubled for the template; rtl_433 decodes them without a dongle."""


def config(command: list[str], definition: str, more: str = "") -> str:
    words = ", ".join(json.dumps(word) for word in command)
    kind = definition.partition("type=")[2].partition(",")[0]
    return f"""
[[helper]]
name = "tool"
command = [{words}]
types = ["{kind}"]
{more}
[[source]]
name = "tool"
definition = '{definition}'
start = "manual"
restart = "temporary"
"""


def captures(rig: Rig, count: int = PACKETS) -> Stream:
    """Start the source and read so many packets from its socket; then stop it, within a second."""
    with rig.connect("sources/tool.sock") as sock:
        rig.wait(lambda status: len(status["consumers"]) == 1)
        rig.call("Start", source="tool")
        stream = Stream(sock)
        assert len(stream.take(count)) == count
        with promptly("the stop", 1.0):
            stopped = rig.call("Stop", source="tool")["source"]
    assert stopped["state"] == "down"
    assert stopped["exit"]["kind"] in {"asked", "done"}
    assert stopped["lost"].keys() <= {"no-consumer"}
    return stream


def is_listed_and_probed(rig: Rig, definition: str) -> None:
    """A definition without its type finds the helper that lists its interface."""
    interface = definition.partition(":")[0]
    listed = rig.call("ListDevices")
    assert listed["failed"] == []
    assert interface in [device["interface"] for device in listed["devices"]]
    assert rig.call("Probe", definition=definition)["helper"] == "tool"


@contextmanager
def datagrams(port: int) -> Iterator[None]:
    """Send to a port of the loopback for as long as the block runs."""
    ended = threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while not ended.wait(0.0005):
                sender.sendto(b"hello", ("127.0.0.1", port))

    sending = threading.Thread(target=send)
    sending.start()
    try:
        yield
    finally:
        ended.set()
        sending.join()


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as finder:
        finder.bind(("127.0.0.1", 0))
        return int(finder.getsockname()[1])


def lacks(tool: str) -> bool:
    return not (EXTCAPS / tool).exists()


@pytest.mark.skipif(lacks("randpktdump"), reason="Wireshark's randpktdump is not installed")
def test_randpktdump(rundir):
    text = config(
        ["builtin:extcap", "--", str(EXTCAPS / "randpktdump")],
        "randpkt:type=randpkt,count=100000000,maxbytes=300,x-type=arp",
    )
    with daemon(rundir, text) as rig:
        is_listed_and_probed(rig, "randpkt")
        assert captures(rig).interfaces == [(1, "tool")]


@pytest.mark.skipif(lacks("udpdump"), reason="Wireshark's udpdump is not installed")
def test_udpdump(rundir):
    port = free_port()
    text = config(["builtin:extcap", "--", str(EXTCAPS / "udpdump")], f"udpdump:type=udpdump,port={port}")
    with daemon(rundir, text) as rig, datagrams(port):
        is_listed_and_probed(rig, "udpdump")
        captures(rig)


@pytest.mark.skipif(lacks("sshdump"), reason="Wireshark's sshdump is not installed")
@pytest.mark.skipif(bool(sshd.lacks()), reason=sshd.lacks() or "it can")
def test_sshdump_to_a_local_server(rundir, tmp_path):
    capture = tmp_path / "remote.pcap"
    record = struct.pack("<IIII", 1_700_000_000, 5, 60, 60) + bytes(60)
    capture.write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1) + record * PACKETS)
    with sshd.server(tmp_path) as (port, key):
        patterns = ["remote-host~[0-9.]+", "remote-username~[a-z0-9_-]+", "sshkey~/.*"]
        patterns += ["remote-capture-command~cat /[^;|&]*"]
        options = f"remote-host=127.0.0.1,remote-port={port},remote-username={getpass.getuser()},sshkey={key}"
        options += f",remote-capture-command-select=other,remote-capture-command=cat {capture} -"
        text = config(
            ["builtin:extcap", "--", *patterns, str(EXTCAPS / "sshdump")], f"sshdump:type=sshdump,{options}"
        )
        with daemon(rundir, text) as rig:
            is_listed_and_probed(rig, f"sshdump:{options}")
            captures(rig)


STUBBORN = """
import signal, struct, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
out = sys.stdout.buffer
out.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1))
while True:
    out.write(struct.pack("<IIII", 1_700_000_000, 5, 60, 60) + bytes(60))
    out.flush()
    time.sleep(0.0001)
"""


def test_a_program_that_writes_on_after_the_stop_costs_no_packet(rundir, tmp_path):
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    words = ["builtin:pipe", "--", os.path.realpath(sys.executable), str(tmp_path / "stubborn.py")]
    with daemon(rundir, config(words, "x:type=stubborn")) as rig:
        captures(rig)


@pytest.mark.need("root", "tcpdump")
def test_tcpdump_to_its_standard_output(rundir):
    port = free_port()
    tcpdump = shutil.which("tcpdump")
    assert tcpdump is not None
    command = [
        "builtin:pipe",
        "--",
        tcpdump,
        "-Z",
        "root",
        "-U",
        "-w",
        "-",
        "-i",
        "{interface}",
        f"udp port {port}",
    ]
    # as uid 0 it leaves for a user of its own, which takes two capabilities more than under a helper's uid
    text = config(command, "lo:type=tcpdump", 'capabilities = ["net_raw", "net_admin", "setuid", "setgid"]')
    with daemon(rundir, text) as rig, datagrams(port):
        assert captures(rig).interfaces == [(1, "tool")]


@pytest.mark.need("root", "dumpcap")
def test_dumpcap_to_its_standard_output(rundir):
    port = free_port()
    dumpcap = shutil.which("dumpcap")
    assert dumpcap is not None
    command = ["builtin:pipe", "--", dumpcap, "-q", "-w", "-", "-i", "{interface}", "-f", f"udp port {port}"]
    text = config(command, "lo:type=dumpcap", 'capabilities = ["net_raw", "net_admin"]')
    with daemon(rundir, text) as rig, datagrams(port):
        assert captures(rig).interfaces == [(1, "tool")]


@pytest.mark.skipif(shutil.which("rtl_433") is None, reason="rtl_433 is not installed")
def test_rtl_433_on_its_test_data(rundir):
    program = shutil.which("rtl_433")
    assert program is not None
    command = ["builtin:jsonlines", "--", "kind=RTL433", "time=time", program, "-F", "json", "-M", "time:utc"]
    text = config([*command, "-y", RTL_433_DATA], "0:type=rtl433")
    with daemon(rundir, text) as rig, rig.connect("sources/tool.jsonl.sock") as sock:
        rig.wait(lambda status: len(status["consumers"]) == 1)
        rig.call("Start", source="tool")
        with sock.makefile("rb") as file:
            line = json.loads(file.readline())
        assert (line["source"], line["type"], line["number"]) == ("tool", "RTL433", 0)
        assert line["report"]["model"] == "Chuango-Security"
        rig.wait(lambda status: status["sources"][0]["state"] == "down")
