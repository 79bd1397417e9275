"""docs/writing-a-helper.md: the helper in it runs exactly as printed, and so does its configuration."""

import re
import socket
import subprocess
import sys
import time

import pytest

from helperd import config
from helperd.wire.messages import OpenReport, OpenRequest, ProbeReport, ProbeRequest
from tests.helpers.peer import Peer
from tests.patience import HANGS_S, promptly


@pytest.fixture
def blocks(root):
    """The fenced blocks: the first of each language by that, those in Python by their class too."""
    text = (root / "docs" / "writing-a-helper.md").read_text()
    found = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    classes = {re.search(r"class (\w+)", body)[1]: body for kind, body in found if kind == "python"}
    return dict(reversed(found)) | classes


@pytest.fixture
def printed(blocks, tmp_path):
    file = tmp_path / "datagrams.py"
    file.write_text(blocks["python"])
    return [sys.executable, str(file)]


def free_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as finder:
        finder.bind(("127.0.0.1", 0))
        return finder.getsockname()[1]


def test_it_is_a_dozen_lines(blocks):
    body = [line for line in blocks["python"].splitlines() if line.strip() and "import" not in line]
    assert len(body) <= 12


@pytest.mark.parametrize("helperd", [True, False])
def test_the_helper_runs_exactly_as_printed(printed, helperd):
    port = free_port()
    with Peer(argv=printed, helperd=helperd) as peer:
        peer.send(ProbeRequest(f"{port}:type=datagrams"))
        assert peer.expect(ProbeReport).success
    with Peer(argv=printed, helperd=helperd) as peer:
        peer.send(OpenRequest(f"{port}:type=datagrams"))
        report = peer.expect(OpenReport)
        assert (report.success, report.dlt, report.hardware) == (True, 147, "a UDP port")
        sent = [b"%d" % number * 7 for number in range(200)]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for at, data in enumerate(sent, 1):
                sender.sendto(data, ("127.0.0.1", port))
                if at % 20 == 0:
                    peer.until_packets(at)
        packets = peer.packets()
        assert [packet[2] for packet in packets] == sent
        assert all(abs(packet[1] - time.time_ns()) < 60e9 for packet in packets)
        peer.ping()
        with promptly("the end", 1.0):
            peer.terminate()
            peer.until_eof()
            assert peer.wait() == 0


def test_its_errors_are_clear(printed):
    port = free_port()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", port))
        with Peer(argv=printed) as peer:
            peer.send(OpenRequest(f"{port}:type=datagrams"))
            report = peer.expect(OpenReport)
            assert (report.success, report.message) == (False, "Address already in use")
    shown = subprocess.run([*printed, "--help"], capture_output=True, text=True, check=True).stdout
    assert shown.startswith("datagrams: ")


def test_its_configuration_is_accepted(blocks, tmp_path):
    file = tmp_path / "helpers.toml"
    file.write_text(blocks["toml"])
    loaded = config.load(str(file))
    assert loaded.helpers[0].types == ("datagrams",)
    assert loaded.sources[0].definition == "5555:type=datagrams"


def runs(blocks, tmp_path, name):
    file = tmp_path / f"{name.lower()}.py"
    file.write_text(blocks[name])
    return [sys.executable, str(file)]


def ends_well(peer):
    """Within a second, with status 0 and nothing on stderr."""
    with promptly("the end", 1.0):
        peer.terminate()
        peer.until_eof()
        assert peer.wait() == 0
    assert peer.stderr() == ""


@pytest.mark.parametrize("helperd", [True, False])
def test_a_coroutine_captures_as_printed(blocks, tmp_path, helperd):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(HANGS_S)
        with Peer(argv=runs(blocks, tmp_path, "Lines"), helperd=helperd) as peer:
            peer.send(OpenRequest(f"{server.getsockname()[1]}:type=lines"))
            assert peer.expect(OpenReport).success
            with server.accept()[0] as sender:
                sender.sendall(b"one\ntwo\nthree\n")
                packets = peer.until_packets(3)
                assert [packet[2] for packet in packets] == [b"one\n", b"two\n", b"three\n"]
                peer.ping()
                ends_well(peer)


@pytest.mark.parametrize("helperd", [True, False])
def test_trio_captures_as_printed(blocks, tmp_path, helperd):
    with Peer(argv=runs(blocks, tmp_path, "Ticks"), helperd=helperd) as peer:
        peer.send(OpenRequest("clock:type=ticks,every=0.01"))
        assert peer.expect(OpenReport).success
        assert {packet[2] for packet in peer.until_packets(20)} == {b"tick"}
        peer.ping()
        ends_well(peer)
