"""The blocks for Kismet's capture programs that are shipped: each is right."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from helperd import config
from helperd.config import HelperSpec
from helperd.wire.definition import COMMON_OPTIONS, SourceDefinition
from tests.patience import HANGS_S
from tests.rig import HELPERD, ROOT

SHIPPED = ROOT / "config" / "helpers.d" / "kismet.toml"
DEMO = ROOT / "config" / "helpers.toml"
PROGRAMS = {  # type: program, and what it can: list, probe, tune, hop (kismet-protocol.md, appendix B)
    "linuxwifi": ("linux_wifi", "lpth"),
    "linuxbluetooth": ("linux_bluetooth", "lp"),
    "pcapfile": ("pcapfile", "p"),
    "kismetdb": ("kismetdb", "p"),
    "rtl433": ("sdr_rtl433", "lp"),
    "rtladsb": ("sdr_rtladsb", "lp"),
    "rtlamr": ("sdr_rtlamr", "lpt"),
    "nrfmousejack": ("nrf_mousejack", "lpth"),
    "ubertooth": ("ubertooth_one", "lpt"),
    "ticc2540": ("ti_cc_2540", "lpth"),
    "ticc2531": ("ti_cc_2531", "lpth"),
    "rzkillerbee": ("rz_killerbee", "lpth"),
    "bladerf-wiphy": ("bladerf_wiphy", "lpth"),
    "hak5wificoconut": ("hak5_wifi_coconut", "lp"),
    "radiacode-usb": ("radiacode_usb", "lp"),
    "nrf51822": ("nrf_51822", "p"),
    "nrf52840": ("nrf_52840", "pth"),
    "nxp_kw41z": ("nxp_kw41z", "pth"),
    "catsniffer_zigbee": ("catsniffer_zigbee", "pth"),
    "freaklabszigbee": ("freaklabs_zigbee", "pth"),
    "radview": ("serial_radview", "p"),
    "antsdr-droneid": ("antsdr_droneid", "p"),
}


def blocks() -> list[str]:
    """Each block, with the example of a source that stands behind it uncommented as its reader would."""
    text = re.sub(r"(?m)^# (\[\[source\]\]\n)# ", r"\1", SHIPPED.read_text())
    return [
        part for part in re.split(r"(?m)^(?=\[\[(?:helper|allow)\]\])", text) if part.startswith("[[helper]]")
    ]


def test_every_program_has_its_block() -> None:
    kinds = [config.parse(block, "block").helpers[0].types for block in blocks()]
    assert kinds == [(kind,) for kind in PROGRAMS]


@pytest.mark.parametrize("block", blocks(), ids=lambda block: block.split('"')[1])
def test_a_block_says_what_its_program_is_and_can(block: str) -> None:
    found = config.parse(block, "block")
    helper: HelperSpec = found.helpers[0]
    [kind] = helper.types
    program, can = PROGRAMS[kind]
    assert helper.command == (f"/usr/bin/kismet_cap_{program}",)
    for letter, said in zip("lpt", (helper.can_list, helper.can_probe, helper.can_tune), strict=True):
        assert said in {None, letter in can}
    if "t" in can and "h" not in can:
        assert helper.can_hop is False
    if "t" not in can:
        assert helper.can_tune is False, "a request to tune ends a program without channels"
    assert bool(helper.capabilities) == (kind in {"linuxwifi", "linuxbluetooth"})
    assert "kismet" in helper.groups
    replays = kind in {"pcapfile", "kismetdb"}
    assert bool(helper.silence) != replays, (
        "what a SIGTERM has silenced goes on answering PING; a replay ends so"
    )
    if helper.options is not None:
        assert not set(helper.options) & COMMON_OPTIONS, "these are everybody's"
    for source in found.sources:
        definition = SourceDefinition.parse(source.definition)
        assert definition.get("type") == kind
        assert helper.options is None or set(definition.options) <= {*helper.options, *COMMON_OPTIONS}


def check(path: Path) -> dict:
    done = subprocess.run(
        [*HELPERD, "check", "--json", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=HANGS_S,
        check=False,
    )
    found = json.loads(done.stdout)
    assert done.returncode == 0, found["mistakes"]
    absent = [warning for warning in found["warnings"] if warning["problem"] != "not-installed"]
    assert all("this machine has no group" in warning["text"] for warning in absent), absent
    return found


def test_helperd_checks_each_block_alone_in_another_file(tmp_path: Path) -> None:
    """One process for all of them: check is the same code for every file."""
    from helperd.cli.check import checked

    for number, block in enumerate(blocks()):
        file = tmp_path / f"{number}.toml"
        file.write_text(DEMO.read_text() + "\n" + block)
        settings = checked(str(file))
        assert len(settings.helpers) == 3


def test_helperd_check_likes_them_all_at_once(tmp_path: Path) -> None:
    file = tmp_path / "all.toml"
    file.write_text(DEMO.read_text() + "\n" + "\n".join(blocks()))
    check(file)


def test_a_slip_in_an_option_is_told_by_check(tmp_path: Path) -> None:
    file = tmp_path / "slip.toml"
    block = next(block for block in blocks() if "linuxwifi" in block)
    file.write_text(block.replace('channels="1,6,11"', "chanels=1,filter_mgmnt=true"))
    done = subprocess.run(
        [*HELPERD, "check", str(file)], cwd=ROOT, capture_output=True, text=True, timeout=HANGS_S, check=False
    )
    assert done.returncode == 78
    assert "linuxwifi has no option 'chanels'; did you mean channels?" in done.stderr
