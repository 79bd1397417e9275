"""PyPI's varlink, written by others from the specification, as the judge of our service."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.control.fake import TunableDaemon, served_in_thread
from tests.rig import daemon

varlink = pytest.importorskip(
    "varlink", reason="needs PyPI's varlink (pip install varlink), the independent judge"
)


CONFIG = """
[[helper]]
name = "synthetic"
command = ["builtin:synthetic"]
types = ["synthetic"]

[[source]]
definition = "radio0:type=synthetic"
"""


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_an_independent_client_understands_everything(rundir: Path) -> None:
    fake = TunableDaemon()
    fake.post("hello")
    with served_in_thread(rundir, fake):
        client = varlink.Client.new_with_address(f"unix:{rundir}/control.sock")
        with client, client.open("org.varlink.service") as service:
            info = service.GetInfo()
            assert info["interfaces"] == ["org.varlink.service", "io.helperd"]
            text = service.GetInterfaceDescription("io.helperd")["description"]
            assert "method GetStatus" in text
        with client, client.open("io.helperd", namespaced=True) as helperd:
            status = helperd.GetStatus()
            assert [source.name for source in status.sources] == ["radio0", "beacons"]
            assert helperd.Stop("radio0").source.state == "down"
            assert helperd.Hop("radio0", ["1", "6"], 5.0).source.channel == "1,6@5.0"
            assert helperd.GetMessages().messages[0].text == "hello"
            assert helperd.ListDevices().failed[0].problem == "exited"
            assert helperd.GetHealth().health == "ok"
            with pytest.raises(varlink.VarlinkError) as caught:
                helperd.Stop("radio")
            assert caught.value.error() == "io.helperd.UnknownSource"
            assert caught.value.parameters()["nearest"] == "radio0"
            stream = helperd.GetStatus(_more=True)
            assert len(next(stream).sources) == 2
            fake.run_sync(lambda: fake.change("radio0", state="failed"))
            assert next(stream).sources[0].state == "failed"


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_an_independent_client_works_with_the_real_daemon(rundir: Path) -> None:
    with daemon(rundir, CONFIG) as rig:
        rig.wait_running()
        client = varlink.Client.new_with_address(f"unix:{rundir}/control.sock")
        with client, client.open("io.helperd", namespaced=True) as helperd:
            assert helperd.GetStatus().sources[0].state == "running"
            assert helperd.ListHelpers().helpers[0].builtin == "synthetic"
            assert helperd.Stop("radio0").source.state == "down"
            assert helperd.AddSource("radio1:type=synthetic", "extra").source.state == "running"
            assert [row.source for row in helperd.GetLedger().sources] == ["radio0", "extra"]
            helperd.RemoveSource("extra")
            with pytest.raises(varlink.VarlinkError) as caught:
                helperd.AddSource("radio1:type=nothing")
            assert caught.value.parameters()["problem"] == "unknown-helper"
            assert "synthetic" in caught.value.parameters()["text"]
            stream = helperd.GetStatus(every_s=0.2, _more=True)
            assert [len(next(stream).sources) for _ in range(3)] == [1, 1, 1]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_its_parser_reads_our_text_as_ours_does() -> None:
    from varlink.scanner import Interface

    from helperd.control.interface import load as load_interface

    for name in ("io.helperd", "org.varlink.service"):
        ours, theirs = load_interface(name), Interface(load_interface(name).text)
        assert theirs.name == ours.name
        assert set(theirs.members) == {*ours.types, *ours.methods, *ours.errors}


@pytest.mark.skipif(shutil.which("varlinkctl") is None, reason="needs varlinkctl of systemd 255 or newer")
def test_varlinkctl_accepts_us(rundir: Path) -> None:
    with served_in_thread(rundir):
        for words in (["info"], ["introspect"], ["call"]):
            more = {"introspect": ["io.helperd"], "call": ["io.helperd.GetStatus", "{}"]}.get(words[0], [])
            done = subprocess.run(
                ["varlinkctl", *words, f"{rundir}/control.sock", *more],
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
