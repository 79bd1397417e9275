"""docs/writing-a-helper-in-c.md: its program compiles and runs exactly as printed, and so does its configuration."""

import contextlib
import re
import socket
import threading

import pytest

from helperd import config
from helperd.conformance import table
from helperd.conformance.subject import Subject
from helperd.wire.messages import OpenReport, OpenRequest, ProbeReport, ProbeRequest
from tests.csdk.build import SDK, compile_c
from tests.helpers.peer import Peer
from tests.helpers.test_tutorial import free_port


def printed(root, language):
    page = (root / "docs" / "writing-a-helper-in-c.md").read_text()
    [block] = re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return block


@pytest.fixture(scope="module")
def program(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("tutorial")
    source = folder / "datagrams.c"
    source.write_text(printed(request.config.rootpath, "c"))
    return compile_c(folder / "datagrams", source, SDK / "helperd.c")


@pytest.mark.need("cc")
@pytest.mark.parametrize("helperd", [True, False])
def test_the_helper_runs_exactly_as_printed(program, helperd):
    port = free_port()
    with Peer(argv=[program], helperd=helperd) as peer:
        peer.send(ProbeRequest(f"{port}:type=datagrams"))
        assert peer.expect(ProbeReport).success
    with Peer(argv=[program], helperd=helperd) as peer:
        peer.send(OpenRequest(f"{port}:type=datagrams"))
        report = peer.expect(OpenReport)
        assert (report.success, report.dlt, report.hardware) == (True, 147, "a UDP port")
        sent = [b"%d" % number * 7 for number in range(200)]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for at, data in enumerate(sent, 1):
                sender.sendto(data, ("127.0.0.1", port))
                if at % 20 == 0:
                    peer.until_packets(at)
        assert [content for _, _, content, _ in peer.packets()] == sent
        peer.terminate()
        peer.until_eof()
        assert peer.wait() == 0
        assert peer.stderr() == ""


@pytest.mark.need("cc")
@pytest.mark.timeout(600)
def test_the_kit_finds_no_fault_in_it(program, root):
    """While the command that the page has for it sends datagrams."""
    page = (root / "docs" / "writing-a-helper-in-c.md").read_text()
    assert """python3 -c 'import socket; s = socket.socket(type=socket.SOCK_DGRAM)""" in page
    port, over = free_port(), threading.Event()

    def send():
        with socket.socket(type=socket.SOCK_DGRAM) as sender:
            while not over.wait(0.001):
                for _ in range(20):
                    with contextlib.suppress(ConnectionRefusedError):  # nobody has opened it yet
                        sender.sendto(bytes(200), ("127.0.0.1", port))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        found = table.examine(Subject((program,), answer_s=20.0, definition=f"{port}:type=datagrams"))
    finally:
        over.set()
        thread.join()
    assert [one for one in found if one.verdict == "FAULT"] == []
    assert {one.check for one in found if one.verdict == "-"} == set()


@pytest.mark.need("cc")
@pytest.mark.parametrize(
    ("definition", "why"),
    [
        ("0:type=datagrams", "write a port"),
        ("nonsense:type=datagrams", "write a port"),
        ("5555:type=nonsense", "type=nonsense is not for this helper; write type=datagrams"),
    ],
)
def test_what_is_not_for_it_is_refused(program, definition, why):
    with Peer(argv=[program]) as peer:
        peer.send(OpenRequest(definition))
        report = peer.expect(OpenReport)
        assert (report.success, report.problem) == (False, "bad-definition")
        assert why in report.message


@pytest.mark.need("cc")
def test_its_errors_are_clear(program):
    port = free_port()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken,
        Peer(argv=[program]) as peer,
    ):
        taken.bind(("127.0.0.1", port))
        peer.send(OpenRequest(f"{port}:type=datagrams"))
        report = peer.expect(OpenReport)
        assert (report.success, report.message) == (False, "the port: Address already in use")


def test_its_configuration_is_accepted(root, tmp_path):
    file = tmp_path / "helpers.toml"
    file.write_text(printed(root, "toml"))
    loaded = config.load(str(file))
    assert loaded.helpers[0].command == ("/opt/helpers/datagrams",)
    assert loaded.sources[0].definition == "5555:type=datagrams"
