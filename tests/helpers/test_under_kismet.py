"""docs/writing-a-helper.md, "Under a Kismet server": every step as printed; the server is played from the reference."""

import os
import select
import socket
import subprocess
import sys

import pytest

from helperd.wire.messages import ConfigureReport, ConfigureRequest, Hopping
from tests.helpers.kismet import MAX_FRAME, Refused, Server, printed, texts
from tests.helpers.test_tutorial import free_port
from tests.patience import HANGS_S


@pytest.fixture
def page(root):
    return (root / "docs" / "writing-a-helper.md").read_text()


@pytest.fixture
def place(page, root, tmp_path):
    """The files of the page, in a directory of this test: its programs, its configuration, Kismet's own directory."""

    class Place:
        helpers = tmp_path / "kismet-helpers"
        own = tmp_path / "bin"

        def here(self, text):
            text = text.replace("/opt/kismet-helpers", str(self.helpers)).replace(
                "/usr/bin/python3", sys.executable
            )
            return text.replace("/opt/helperd", str(root)).replace("/opt/helpers", str(tmp_path))

        def put(self, name, text):
            file = self.helpers / name
            file.write_text(self.here(text))
            file.chmod(0o755)

        def server(self, *sources):
            paths = "".join(
                line for line in self.here(config).splitlines(keepends=True) if "source=" not in line
            )
            return Server(paths + "".join(f"source={source}\n" for source in sources), self.own)

    place = Place()
    place.helpers.mkdir()
    place.own.mkdir()
    [config] = printed(page, "ini")
    place.config = config
    place.own_script, place.bundled = printed(page, "sh")
    changed = [
        line.strip()
        for line in page.partition("## Under a Kismet server")[2].splitlines()
        if line.startswith(("    TYPE =", "    return Device(dlt=105"))
    ]
    code = printed(page, "python")[0].replace("#!/usr/bin/python3", f"#!{sys.executable}")
    for line, old in zip(
        changed, ('TYPE = "datagrams"', 'return Device(dlt=147, hardware="a UDP port")'), strict=True
    ):
        assert code.count(old) == 1
        code = code.replace(old, line)
    script = tmp_path / "datagrams.py"
    script.write_text(code)
    script.chmod(0o755)
    return place


def test_a_helper_of_ones_own_runs_there_exactly_as_printed(place):
    place.put("kismet_cap_openbsd_wifi", place.own_script)
    asked = subprocess.run(
        [place.helpers / "kismet_cap_openbsd_wifi", "--help"],
        capture_output=True, text=True, check=True, timeout=HANGS_S,
    )  # fmt: skip
    assert asked.stdout.startswith("openbsdwifi: ")
    port = free_port()
    server = Server(place.here(place.config).replace("5555", str(port)), place.own)
    [source] = server.sources
    with Opened(source) as (helper, report):
        assert source.text == f"{port}:name=roof,type=openbsdwifi"
        assert (report.dlt, report.hardware) == (105, "sniffers on the roof")
        assert texts(helper) == []
        sent = [b"\x80\0" + b"%d" % number * 7 for number in range(20)]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for data in sent:
                sender.sendto(data, ("127.0.0.1", port))
        assert [(dlt, data) for dlt, _, data, _ in helper.until_packets(20)] == [(105, data) for data in sent]
        helper.close()
    assert server.probe(f"{port}:type=openbsdwifi") == ["openbsdwifi"]
    assert server.probe(f"{port}:type=datagrams") == []


class Opened:
    """A source that is opened; its helper is ended."""

    def __init__(self, source):
        self.source = source

    def __enter__(self):
        report = self.source.open()
        return self.source.helper, report

    def __exit__(self, *exc):
        helper = self.source.helper
        helper.end()
        for fd in (helper.to, helper.source):
            if fd is not None:
                os.close(fd)
        helper.process.stderr.close()


def test_a_bundled_helper_runs_there_exactly_as_printed(place):
    place.put("kismet_cap_openbsd_wifi", place.bundled)
    [source] = place.server("radio0:type=openbsdwifi,name=air,rate=100").sources
    with Opened(source) as (helper, report):
        assert (report.dlt, report.hardware) == (127, "synthetic radio 0")
        assert [message for message in texts(helper) if "option" in message or "left out" in message] == []
        helper.until_packets(5)
        helper.send(ConfigureRequest(hopping=Hopping(("1", "6"), rate=5.0)))
        assert helper.expect(ConfigureReport).success
        helper.close()


def test_a_type_or_a_program_that_the_server_does_not_know_cannot_be_opened(place):
    place.put("kismet_cap_datagrams", place.own_script)
    for text, why in (
        ("5:type=datagrams", "no driver for type"),
        ("5:type=openbsdwifi", "no kismet_cap_openbsd_wifi"),
    ):
        [source] = place.server(text).sources
        with pytest.raises(Refused, match=why):
            source.open()
    file = place.helpers / "kismet_cap_openbsd_wifi"
    file.write_text(place.here(place.own_script))
    file.chmod(0o644)
    with pytest.raises(Refused, match="no kismet_cap_openbsd_wifi"):
        source.open()


def test_the_first_directory_that_has_the_program_counts(place):
    place.put("kismet_cap_openbsd_wifi", place.bundled)
    (place.own / "kismet_cap_openbsd_wifi").write_text("#!/bin/sh\nexit 1\n")
    (place.own / "kismet_cap_openbsd_wifi").chmod(0o755)
    assert place.server().program("openbsdwifi").startswith(str(place.helpers))


UUID = "12345678-1234-1234-1234-123456789ABC"
FIXED = f"channel_hoprate=5/sec,signal=,type=openbsdwifi,uuid={UUID}"
LISTS = {
    'radio0:channels="1,6,11",name=syn,rate=100,type=openbsdwifi': [
        "radio0:channels=1,6,11,name=syn,rate=100,type=openbsdwifi",
        "radio0:6,11,name=syn,channels=1,name=syn,rate=100,type=openbsdwifi",
        "radio0:6,11,name=syn,channels=1,name=syn,rate=100,type=openbsdwifi",
    ],
    'radio0:Type=openbsdwifi,channels="1,6,11"': [
        "radio0:channels=1,6,11,type=openbsdwifi",
        "radio0:6,11,type=openbsdwifi,channels=1,type=openbsdwifi",
        "radio0:6,11,type=openbsdwifi,channels=1,type=openbsdwifi",
    ],
    f'radio0:add_channels="1,6",{FIXED}': [
        f"radio0:add_channels=1,6,{FIXED}",
        f"radio0:6,channel_hoprate=5/sec,add_channels=1,{FIXED}",
    ],
    "radio0:type=openbsdwifi,channel_hoprate=fast,vif=mon0": [  # nobody makes anything of these
        "radio0:channel_hoprate=fast,type=openbsdwifi,vif=mon0",
        "radio0:channel_hoprate=fast,type=openbsdwifi,vif=mon0",
    ],
    'radio0:name="roof, north",type=openbsdwifi,retry': [
        "radio0:name=roof, north,type=openbsdwifi",
        "radio0: north,type=openbsdwifi,name=roof,type=openbsdwifi",
    ],
}


@pytest.mark.parametrize("written", LISTS)
def test_a_source_is_opened_again_whatever_the_server_has_made_of_its_definition(place, written):
    """Killed, as at an error, and opened anew: each time the server reads its own text."""
    place.put("kismet_cap_openbsd_wifi", place.bundled)
    [source] = place.server(written).sources
    for text in LISTS[written]:
        with Opened(source) as (helper, report):
            assert source.text == text
            assert report.success
            if "uuid" in text:
                assert report.uuid == "12345678-1234-1234-1234-123456789ABC"
            helper.until_packets(3)
            said = " ".join(texts(helper))
            mangled = text.partition(":")[2].startswith(("6,", " north"))
            assert ("belong to no option" in said) == mangled, said
            assert ("given twice" in said) == mangled, said
            assert ("no option 'vif'" in said) == ("vif" in text)
            assert ("'fast' is not a rate" in said) == ("fast" in text)
            helper.close()


def test_what_it_sends_is_what_the_server_takes(place):
    """A frame longer than the server's limit would end the source; the true length stays."""
    place.put("kismet_cap_openbsd_wifi", place.bundled)
    [source] = place.server("radio0:size=60000,type=openbsdwifi,rate=50").sources
    with Opened(source) as (helper, _):
        frames = 0
        while frames < 3:
            data = os.read(helper.source, 1 << 20)
            assert data, helper.stderr()
            for run in helper.strict.feed(data):
                if hasattr(run, "packets"):
                    frames += run.packets
                    assert (run.stop - run.start) // run.packets <= MAX_FRAME
                    for _, _, _, original, content, _ in helper.strict.current.packets(run):
                        assert len(content) < original == 60000
        helper.close()


@pytest.mark.parametrize("adapter", ["pipe", "jsonlines"])
@pytest.mark.parametrize("stubborn", ["", "trap '' TERM HUP\n"])
def test_a_wrapped_program_ends_with_a_helper_that_is_killed(place, tmp_path, adapter, stubborn):
    """It writes nothing any more, so that no closed pipe would tell it."""
    says = {
        "pipe": r"printf '\324\303\262\241\2\0\4\0\0\0\0\0\0\0\0\0\0\0\1\0\1\0\0\0'",
        "jsonlines": "echo '{}'",
    }
    tool = tmp_path / "tool"
    tool.write_text(
        f"#!/bin/sh\n{stubborn}{says[adapter]}\necho $$ > {tmp_path}/pid\nsleep 1000\nsleep 1000\n"
    )
    tool.chmod(0o755)
    os.mkfifo(tmp_path / "pid")
    place.put("kismet_cap_openbsd_wifi", place.bundled.replace('synthetic "$@"', f'{adapter} -- {tool} "$@"'))
    [source] = place.server("x:type=openbsdwifi").sources
    with Opened(source) as (helper, report):
        assert report.success
        ended = os.pidfd_open(int((tmp_path / "pid").read_text()))
        helper.process.kill()
        helper.process.wait(HANGS_S)
    try:
        assert select.select([ended], [], [], HANGS_S)[0]
    finally:
        os.close(ended)
