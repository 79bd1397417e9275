"""`helperd-extcap` as Wireshark uses it: real tshark, real daemon, nothing but the control socket in between.

Environment:
  HELPERD_EXTCAP_S  seconds that the capture through tshark lasts; 3 when absent, 60 for the long one.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helperd.config import INSTALLED
from helperd.errors import UsageError
from helperd.extcap import toolbar
from helperd.extcap.words import Place, interface_of, parse, place_of, sentence
from tests.control.fake import FakeDaemon, served_in_thread
from tests.patience import HANGS_S
from tests.rig import ROOT, Rig, Stream, daemon

CAPTURE_S = float(os.environ.get("HELPERD_EXTCAP_S", "3"))
CONFIG = """
[[helper]]
name = "synthetic"
command = ["builtin:synthetic"]
types = ["synthetic"]

[[helper]]
name = "interface"
command = ["builtin:interface"]
types = ["interface"]
capabilities = ["net_raw"]

[[source]]
definition = 'radio0:type=synthetic,rate=500'

[[source]]
name = "quiet"
definition = "radio3:type=synthetic,rate=1"
start = "manual"
"""


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    path = Path(tempfile.mkdtemp(prefix="hd-"))
    path.chmod(0o755)
    try:
        with daemon(path, '[helperd]\nsocket_mode = "0666"\n' + CONFIG) as running:
            running.wait_running("radio0")
            yield running
    finally:
        shutil.rmtree(path)


def program(folder: Path) -> Path:
    """The shim as it is installed: one file that finds its package, and what that needs."""
    path = folder / "helperd-extcap"
    path.write_text(
        f"#!{sys.executable} -IS\nimport sys\n\nsys.path[:0] = {[str(ROOT), *filter(os.path.isabs, sys.path)]!r}\n"
        "from helperd.extcap import main\n\nraise SystemExit(main())\n"
    )
    path.chmod(0o755)
    return path


@pytest.fixture
def shim(tmp_path: Path) -> Path:
    return program(tmp_path)


def environment(runtime: Path) -> dict[str, str]:
    return {**os.environ, "RUNTIME_DIRECTORY": str(runtime)}


def ask(shim: Path, runtime: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(shim), *words],
        env=environment(runtime),
        capture_output=True,
        text=True,
        check=False,
        timeout=HANGS_S,
    )


def names(text: str) -> list[str]:
    return [
        line.partition("{value=")[2].partition("}")[0]
        for line in text.splitlines()
        if line.startswith("interface")
    ]


# words


@given(st.text(min_size=1, max_size=40))
def test_every_device_has_a_name_that_leads_back(device: str) -> None:
    device = device.encode("utf-8", "replace").decode()
    place = Place(helper="wifi", device=device)
    name = interface_of(place)
    found = place_of(name)
    assert (found.source, found.helper, found.device) == ("", "wifi", device)
    assert not set(name) & set("{} \t\n=.") - {"."}


@pytest.mark.parametrize("name", ["eth0", "", "helperd.", "helperd..x", "helperdx", "other.x"])
def test_what_is_no_interface_of_ours_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="no interface of helperd"):
        place_of(name)


def test_a_command_line_is_read_in_both_spellings() -> None:
    words = parse(
        ["--capture", "--fifo", "/f", "--extcap-interface=helperd.a", "--channel", "6", "--rate", ""]
    )
    assert words.flags == {"capture"}
    assert words.values == {"fifo": "/f", "extcap-interface": "helperd.a"}
    assert words.options == {"channel": "6"}


@pytest.mark.parametrize("argv", [["x"], ["--"], ["--fifo"], ["--extcap-nonsense", "1"], ["--channel"]])
def test_a_wrong_command_line_is_told(argv: list[str]) -> None:
    with pytest.raises(UsageError, match="usage"):
        parse(argv)


def test_no_value_can_break_out_of_its_sentence() -> None:
    said = sentence("interface", value="a}{display=evil\n", display="x\x1b[31m")
    assert said.count("{") == said.count("}") == 2
    assert said.isprintable()


def test_toolbar_messages_survive_every_cut() -> None:
    messages = [(0, toolbar.SET, "6"), (1, toolbar.SET, ""), (2, toolbar.ADD, "grüße")]
    stream = b"".join(toolbar.encode(*message) for message in messages)
    for cut in range(len(stream)):
        buffer, got = bytearray(), []
        for piece in (stream[:cut], stream[cut:]):
            buffer += piece
            got += list(toolbar.decode(buffer))
        assert got == messages
    nonsense = bytearray(b"Xnonsense")
    assert list(toolbar.decode(nonsense)) == []
    assert not nonsense


# listing


@pytest.mark.skipif(
    os.path.exists(INSTALLED), reason="helperd is installed here: tests/attack/tools.py has that"
)
def test_without_daemon_and_launcher_the_list_has_one_entry_that_says_what_to_do(
    shim: Path, tmp_path: Path
) -> None:
    done = ask(shim, tmp_path, "--extcap-interfaces", "--extcap-version=4.0")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("extcap {version=")
    assert names(done.stdout) == ["helperd"]
    wanted = f"helperd is not installed on this machine: sudo {ROOT}/scripts/install"
    assert wanted in done.stdout
    (tmp_path / "fifo").touch()
    done = ask(shim, tmp_path, "--extcap-interface=helperd", "--capture", f"--fifo={tmp_path}/fifo")
    assert (done.returncode, wanted in done.stderr) == (69, True), done.stderr


def test_sources_and_devices_are_listed_once_each(shim: Path, rig: Rig) -> None:
    done = ask(shim, rig.runtime, "--extcap-interfaces", "--extcap-version=4.0")
    assert done.stderr == ""
    found = names(done.stdout)
    assert found[:3] == ["helperd", "helperd.radio0", "helperd.quiet"]
    assert "helperd.synthetic.radio1" in found
    assert "helperd.synthetic.radio0" not in found, "it is open, and listed as the source"
    assert len(found) == len(set(found))


def test_listing_imports_next_to_nothing(rig: Rig) -> None:
    code = (
        "import sys\nfrom helperd.extcap.shim import main\nmain(['--extcap-interfaces'])\n"
        "heavy = {'trio', 'argparse', 'typing', 'subprocess', 'asyncio', 'tomli', 'helperd.wire'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment(rig.runtime),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.endswith("[]\n")


def test_link_types_are_those_that_were_seen(shim: Path, rig: Rig) -> None:
    assert (
        "{number=127}"
        in ask(shim, rig.runtime, "--extcap-interface", "helperd.radio0", "--extcap-dlts").stdout
    )
    unknown = ask(shim, rig.runtime, "--extcap-interface", "helperd.synthetic.radio1", "--extcap-dlts").stdout
    assert unknown.startswith("dlt {number=147}")


def test_the_dialog_is_made_of_the_drivers_options(shim: Path, rig: Rig) -> None:
    device = ("--extcap-interface", "helperd.synthetic.radio1", "--extcap-config")
    text = ask(shim, rig.runtime, *device).stdout
    for option in ("channel", "rate", "seed", "size"):
        assert f"{{call=--{option}}}" in text
    assert "{reload=true}" in text
    assert text.count("value {") == 1, "asking a device takes a while: only when the user wants it"
    again = ask(shim, rig.runtime, *device, "--extcap-reload-option", "channel").stdout
    assert "value {arg=0}{value=11}{display=11}" in again
    source = ask(shim, rig.runtime, "--extcap-interface", "helperd.radio0", "--extcap-config").stdout
    assert source.count("arg {") == 1
    assert "value {arg=0}{value=11}{display=11}" in source


@pytest.mark.need("tcpdump", "root")
def test_a_capture_filter_goes_to_the_driver_or_is_refused_in_words(shim: Path, rig: Rig) -> None:
    def check(interface: str, text: str) -> str:
        return ask(shim, rig.runtime, "--extcap-interface", interface, "--extcap-capture-filter", text).stdout

    assert check("helperd.interface.lo", "udp port 53") == ""
    words = ("--extcap-capture-filter", "no such thing")
    with capturing(shim, rig, "helperd.interface.lo", *words) as (capture, _reader):
        _, errors = capture.process.communicate(timeout=HANGS_S)
        assert "filter" in errors
    assert "display filter" in check("helperd.radio0", "udp")
    assert "cannot filter" in check("helperd.synthetic.radio1", "udp")


# captures


class Capture:
    """A capture of the shim alone, with a FIFO of ours."""

    def __init__(self, shim: Path, runtime: Path, interface: str, *words: str) -> None:
        self.fifo = shim.parent / "fifo"
        if not self.fifo.exists():
            os.mkfifo(self.fifo)
        argv = [str(shim), "--extcap-interface", interface, "--capture", "--fifo", str(self.fifo), *words]
        self.process = subprocess.Popen(argv, env=environment(runtime), stderr=subprocess.PIPE, text=True)

    def end(self, number: int = signal.SIGTERM) -> tuple[int, float, str]:
        """Stop it: status, seconds, stderr."""
        began = time.monotonic()
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=HANGS_S)
        return self.process.returncode, time.monotonic() - began, errors


@contextlib.contextmanager
def capturing(shim: Path, rig: Rig, interface: str, *words: str) -> Iterator[tuple[Capture, int]]:
    """A capture, and the reading end of its FIFO."""
    capture = Capture(shim, rig.runtime, interface, *words)
    reader = os.open(capture.fifo, os.O_RDONLY)
    try:
        yield capture, reader
    finally:
        os.close(reader)
        capture.process.kill()
        capture.process.communicate()


def test_it_obeys_stop_at_once_wherever_it_stands(shim: Path, rig: Rig) -> None:
    waiting = Capture(shim, rig.runtime, "helperd.radio0")  # nobody opens the FIFO
    until_it_listens(waiting.process.pid)
    status, took_waiting, errors = waiting.end()
    assert (status, errors) == (0, "")
    with capturing(shim, rig, "helperd.radio0") as (idle, reader):
        os.read(reader, 1)
        status, took_idle, errors = idle.end()
        assert (status, errors) == (0, "")
    with capturing(shim, rig, "helperd.synthetic.radio2", "--rate", "0") as (stuck, reader):
        full = fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ)
        while True:  # until it waits for us
            (held,) = struct.unpack("i", fcntl.ioctl(reader, 0x541B, b"\0" * 4))
            if held >= full // 2:
                break
            os.sched_yield()
        status, took_stuck, errors = stuck.end(signal.SIGINT)
        assert (status, errors) == (0, "")
    print(f"waiting {took_waiting:.3f} s, idle {took_idle:.3f}, stuck {took_stuck:.3f}; aimed at 0.1")
    assert max(took_waiting, took_idle, took_stuck) < 5, "even on a machine that others use too"
    rig.wait(lambda status: {row["name"] for row in status["sources"]} == {"radio0", "quiet"})


IMPATIENT = """
import os, signal, sys
from helperd.extcap import shim

plain, sent = signal.signal, []

def signal_and_send(number, handler):
    before = plain(number, handler)
    if (number, handler) not in sent:
        sent.append((number, handler))
        for each in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(each) not in (signal.SIG_DFL, signal.default_int_handler):
                os.kill(os.getpid(), each)
    return before

signal.signal = signal_and_send
raise SystemExit(shim.main(sys.argv[1:]))
"""
"""The shim, told to stop as soon as it takes each signal, and again while it stops."""


def test_a_signal_between_any_two_steps_of_its_start_and_end_is_a_stop(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    words = ["--extcap-interface", "helperd.radio0", "--capture", "--fifo", str(tmp_path / "fifo")]
    ended = subprocess.run(
        [sys.executable, "-c", IMPATIENT, *words],
        capture_output=True,
        text=True,
        timeout=HANGS_S,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def until_it_listens(pid: int) -> None:
    """Wait until the process has taken SIGTERM into its own hands."""
    deadline = time.monotonic() + HANGS_S
    while True:
        caught = Path(f"/proc/{pid}/status").read_text().partition("SigCgt:")[2].split()[0]
        if int(caught, 16) >> (signal.SIGTERM - 1) & 1:
            return
        assert time.monotonic() < deadline
        os.sched_yield()


def test_a_reader_that_closes_the_fifo_ends_it(shim: Path, rig: Rig) -> None:
    with capturing(shim, rig, "helperd.radio0") as (capture, reader):
        os.read(reader, 1)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, reader)
        os.close(null)
        assert capture.process.wait(HANGS_S) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_device_is_open_for_the_capture_and_not_longer(shim: Path, rig: Rig, number: int) -> None:
    words = ("--channel", "11", "--rate", "200")
    with capturing(shim, rig, "helperd.synthetic.radio1", *words) as (capture, reader):
        assert os.read(reader, 65536)
        assert rig.source("radio1")["channel"] == "11"
        capture.end(number)
    rig.wait(lambda status: all(row["name"] != "radio1" for row in status["sources"]))


def test_what_cannot_be_is_said_on_stderr_with_a_code(shim: Path, rig: Rig) -> None:
    with capturing(shim, rig, "helperd.nobody") as (capture, _reader):
        _, errors = capture.process.communicate(timeout=HANGS_S)
        assert capture.process.returncode == 64
        assert "unknown-source" in errors
    with capturing(shim, rig, "helperd.synthetic.radio1", "--colour", "red") as (capture, _reader):
        _, errors = capture.process.communicate(timeout=HANGS_S)
        assert capture.process.returncode == 1
        assert "colour" in errors


def test_a_device_is_captured_from_its_first_packet_to_its_last(shim: Path, rundir: Path) -> None:
    """Its first packets come with the word that it is open, and it is done before anybody has looked."""
    words = [
        sys.executable,
        "-I",
        "-S",
        str(ROOT / "tests/peers/bad_helper.py"),
        "--together=50",
        "--count=60",
    ]
    helper = f'[[helper]]\nname = "eager"\ncommand = {json.dumps(words)}\ntypes = ["bad"]\nstatus_meaningful = true\n'
    with daemon(rundir, helper) as rig:
        with capturing(shim, rig, "helperd.eager.bad0") as (capture, reader):
            packets = list(Stream(_File(reader)).packets())
            assert [int.from_bytes(packet.content[8:16]) for packet in packets] == list(range(60))
            _, errors = capture.process.communicate(timeout=HANGS_S)
            assert (capture.process.returncode, errors) == (0, ""), "what is done ends the capture, and well"
        rig.wait(lambda status: not status["sources"])


def test_a_daemon_that_ends_is_told_by_a_capture_of_a_device(shim: Path, rundir: Path) -> None:
    words = [sys.executable, "-I", "-S", str(ROOT / "tests/peers/bad_helper.py")]
    helper = f'[[helper]]\nname = "bad"\ncommand = {json.dumps(words)}\ntypes = ["bad"]\n'
    with (
        daemon(rundir, helper, ends_with=None) as rig,
        capturing(shim, rig, "helperd.bad.bad0") as (capture, reader),
    ):
        assert os.read(reader, 1)
        os.kill(rig.status()["pid"], signal.SIGKILL)
        while os.read(reader, 65536):
            pass
        _, errors = capture.process.communicate(timeout=HANGS_S)
        assert capture.process.returncode == 69
        assert "no-daemon" in errors
        rig.process.wait(HANGS_S)
        for path in rundir.glob("**/*.sock"):
            path.unlink()


@pytest.mark.need("uid65534")
def test_who_may_only_look_can_read_but_not_open(rig: Rig) -> None:
    folder = Path(tempfile.mkdtemp(prefix="hd-", dir="/tmp"))
    folder.chmod(0o777)
    shim = program(folder)
    try:

        def run(*words: str) -> subprocess.CompletedProcess[bytes]:
            code = (
                f"import os, sys; sys.path[:0] = [{str(ROOT)!r}]\n"
                "import helperd.extcap.capture, helperd.extcap.options, helperd.wire.definition\n"
                "from helperd.extcap.shim import main\n"
                "os.setgroups([]); os.setresgid(*[65534] * 3); os.setresuid(*[65534] * 3)\nsys.exit(main())"
            )
            return subprocess.run(
                [sys.executable, "-I", "-S", "-c", code, *words],
                env=environment(rig.runtime), capture_output=True, check=False, timeout=HANGS_S,
            )  # fmt: skip

        assert "helperd.radio0" in run("--extcap-interfaces").stdout.decode()
        refused = run("--extcap-interface", "helperd.synthetic.radio1", "--capture", "--fifo", "/dev/null")
        assert refused.returncode == 77
        assert b"uid 65534 may look, but not change" in refused.stderr
        assert b"\n" not in refused.stderr[:-1]
    finally:
        shim.unlink()
        folder.rmdir()


def test_the_toolbar_tunes_and_shows_what_is_said(shim: Path, rig: Rig) -> None:
    to_shim, to_bar = shim.parent / "in", shim.parent / "out"
    os.mkfifo(to_shim)
    os.mkfifo(to_bar)
    words = ("--extcap-control-in", str(to_shim), "--extcap-control-out", str(to_bar))
    bar = os.open(to_bar, os.O_RDWR)
    try:
        with capturing(shim, rig, "helperd.radio0", *words) as (capture, reader):
            user = os.open(to_shim, os.O_WRONLY)
            os.write(user, toolbar.encode(0, toolbar.INITIALIZED))
            drain = threading.Thread(target=lambda: [None for _ in iter(lambda: os.read(reader, 65536), b"")])
            drain.start()
            buffer, heard = bytearray(), []
            os.write(user, toolbar.encode(toolbar.CHANNEL, toolbar.SET, "11"))

            def until(wanted: tuple[int, int, str]) -> None:
                while wanted not in heard:
                    buffer.extend(os.read(bar, 65536))
                    heard.extend(toolbar.decode(buffer))

            until((toolbar.CHANNEL, toolbar.SET, "11"))
            assert (toolbar.CHANNEL, toolbar.ADD, "11\x0011") in heard
            assert rig.source("radio0")["channel"] == "11"
            os.write(user, toolbar.encode(toolbar.CHANNEL, toolbar.SET, "no such channel"))
            while not any(command == toolbar.STATUS and "no such" in text for _, command, text in heard):
                buffer.extend(os.read(bar, 65536))
                heard.extend(toolbar.decode(buffer))
            assert capture.process.poll() is None, "a channel that cannot be ends no capture"
            capture.end()
            drain.join(HANGS_S)
            os.close(user)
    finally:
        os.close(bar)


def test_the_toolbar_shows_what_a_helper_says_and_goes_on_without_the_daemon(rundir: Path) -> None:
    os.mkfifo(rundir / "in")
    os.mkfifo(rundir / "out")
    bar = os.open(rundir / "out", os.O_RDWR)
    code = "import sys; from helperd.extcap.toolbar import Toolbar; Toolbar(*sys.argv[1:]).start(); sys.stdin.read()"
    pretended = FakeDaemon("radio0")
    pretended.post("the antenna {is} loose\nreally", severity="warning")
    words = [str(rundir / "control.sock"), "radio0", str(rundir / "in"), str(rundir / "out")]
    with served_in_thread(rundir, pretended):
        process = subprocess.Popen([sys.executable, "-c", code, *words], cwd=ROOT, stdin=subprocess.PIPE)
        buffer, heard = bytearray(), []
        while (toolbar.MESSAGES, toolbar.ADD, "warning: the antenna (is) loose\\nreally\n") not in heard:
            buffer.extend(os.read(bar, 65536))
            heard.extend(toolbar.decode(buffer))
    while not any(command == toolbar.STATUS and "no-daemon" in text for _, command, text in heard):
        buffer.extend(os.read(bar, 65536))
        heard.extend(toolbar.decode(buffer))
    assert process.poll() is None
    process.communicate(b"", timeout=HANGS_S)
    os.close(bar)


# tshark


def in_tshark(
    shim: Path, *words: str, runtime: Path, become: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run tshark where our shim is the only one in the folder that it looks into; ``become`` runs it."""
    folder = shim.parent / "extcap"
    folder.mkdir(exist_ok=True)
    link = folder / "helperd-extcap"
    if not link.exists():
        link.symlink_to(shim)
    told = subprocess.run(["tshark", "-G", "folders"], capture_output=True, text=True, check=True).stdout
    places = [line.partition(":")[2].strip() for line in told.splitlines() if "xtcap path" in line]
    place = next(
        place for place in places if os.path.isdir(place)
    )  # the user's own, since Wireshark 4, seldom is
    script = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    argv = ["unshare", "-m", "sh", "-c", script, "sh", str(folder), place, *become, "tshark", *words]
    return subprocess.run(
        argv, env=environment(runtime), capture_output=True, text=True, check=False, timeout=CAPTURE_S + 60
    )


@pytest.mark.need("tshark", "mountns", "root")
def test_tshark_lists_them_and_captures_identical_packets(shim: Path, rig: Rig, tmp_path: Path) -> None:
    listed = in_tshark(shim, "-D", runtime=rig.runtime).stdout
    assert "helperd.radio0 (helperd: radio0" in listed
    assert "helperd.synthetic.radio1" in listed
    file = tmp_path / "captured.pcapng"
    witness = rig.connect("sources/radio0.sock")
    seen: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):
            seen.extend(packet.content for packet in Stream(witness).packets())

    reader = threading.Thread(target=read)
    reader.start()
    done = in_tshark(
        shim,
        "-i",
        "helperd.radio0",
        "-a",
        f"duration:{CAPTURE_S:.0f}",
        "-w",
        str(file),
        "-q",
        runtime=rig.runtime,
    )
    witness.shutdown(2)
    reader.join(HANGS_S)
    witness.close()
    assert done.returncode == 0, done.stderr
    captured = [packet.content for packet in Stream(_of(file)).packets()]
    assert len(captured) > 300 * CAPTURE_S * 0.5, done.stderr
    first = seen.index(captured[0])
    assert seen[first : first + len(captured)] == captured, "not the same bytes, or not in the same order"


@pytest.mark.need("tshark", "mountns", "root")
def test_an_analyst_without_root_captures_through_tshark(rig: Rig) -> None:
    """All that uid 65534 needs is the shim, a Python and the control socket."""
    everybodys = Path("/usr/bin/python3")
    if not everybodys.exists():
        pytest.skip("there is no /usr/bin/python3 that another user could run")
    analyst = (
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--inh-caps=-all",
        "env",
        "HOME=/",
    )
    with tempfile.TemporaryDirectory(prefix="hd-", dir="/tmp") as path:
        folder = Path(path)
        folder.chmod(0o755)
        shutil.copytree(ROOT / "helperd", folder / "helperd", ignore=shutil.ignore_patterns("__pycache__"))
        shim = program(folder)
        shim.write_text(shim.read_text().replace(sys.executable, str(everybodys)).replace(str(ROOT), path))
        listed = in_tshark(shim, "-D", runtime=rig.runtime, become=analyst)
        assert "helperd.radio0 (helperd: radio0" in listed.stdout, listed.stderr
        done = in_tshark(
            shim, "-i", "helperd.radio0", "-c", "50", "-T", "fields", "-e", "frame.number",
            runtime=rig.runtime, become=analyst,
        )  # fmt: skip
        assert done.stdout.split() == [str(number) for number in range(1, 51)], done.stderr


class _File:
    """A file that reads like a socket."""

    def __init__(self, path: Path | int) -> None:
        self.file = open(path, "rb", buffering=0, closefd=not isinstance(path, int))  # noqa: SIM115

    def recv(self, size: int) -> bytes:
        return self.file.read(size) or self.file.close() or b""


def _of(path: Path) -> _File:
    return _File(path)


@pytest.mark.need("tshark", "mountns", "root")
def test_tshark_gets_the_whole_of_a_file(shim: Path, rundir: Path) -> None:
    recording, lister, file = (rundir / name for name in ("r.pcap", "files.py", "captured.pcapng"))
    head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 147)
    records = (struct.pack("<IIIII", 1_700_000_000, at * 100, 4, 4, at) for at in range(3000))
    recording.write_bytes(head + b"".join(records))
    lister.write_text(
        f"import sys\n\nsys.path[:0] = [{str(ROOT)!r}]\nfrom helperd.helpers.pcapfile import PcapFile\n"
        "from helperd.helpers.sdk import Interface, main\n\n\nclass Files(PcapFile):\n    def list(self):\n"
        f"        return [Interface({str(recording)!r})]\n\n\nmain(Files)\n"
    )
    words = json.dumps([sys.executable, str(lister)])
    with daemon(rundir, f'[[helper]]\nname = "files"\ncommand = {words}\ntypes = ["pcapfile"]\n') as rig:
        name = interface_of(Place(helper="files", device=str(recording)))
        done = in_tshark(shim, "-i", name, "-w", str(file), "-q", runtime=rig.runtime)
    assert done.returncode == 0, done.stderr
    numbers = [int.from_bytes(packet.content, "little") for packet in Stream(_of(file)).packets()]
    assert numbers == list(range(3000)), done.stderr
    told = subprocess.run(["capinfos", "-TMrc", str(file)], capture_output=True, text=True, check=True).stdout
    assert told.split()[-1] == "3000"


@pytest.mark.need("tshark", "mountns", "root")
def test_tshark_opens_a_device_with_options_and_gives_it_back(shim: Path, rig: Rig) -> None:
    name = "helperd.synthetic.radio1"
    done = in_tshark(
        shim, "-i", name, "-o", f"extcap.{name.replace('.', '_')}.channel:6", "-c", "20", "-T", "fields",
        "-e", "frame.number", runtime=rig.runtime,
    )  # fmt: skip
    assert done.stdout.split() == [str(number) for number in range(1, 21)], done.stderr
    rig.wait(lambda status: all(row["name"] != "radio1" for row in status["sources"]))
