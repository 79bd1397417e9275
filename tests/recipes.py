"""Carries out recipes of docs/recipes.md as printed, root's launcher and all: ``recipes.py HEADING...`` as process 1.

Prints {"recipe", "wrong"} for each. A cook gets its recipe's configuration and command lines from the page itself; a
line that it neither carries out nor names as left out is wrong. Nothing stays: what is written is in this namespace.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.attack.stage import CAPTURE, DAEMON, LIBRARY, OTHER, Stage, interpreter, say

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "recipes.md"
ADMIN = 992
HOME = "/run/home"
PATIENCE_S = 20.0
PROGRAM = """#!{python} -IS
import sys

sys.path += [{library!r}, {site!r}, "/usr/lib/python3/dist-packages"]
from {module} import main

sys.exit(main())
"""
RADIO = """
[[helper]]
name = "synthetic"
command = ["builtin:synthetic"]
types = ["synthetic"]
"""
INTERFACE = """
[[helper]]
name = "interface"
command = ["builtin:interface"]
types = ["interface"]
capabilities = ["net_raw"]
"""


def source(name: str, number: int = 0) -> str:
    return f'[[source]]\nname = "{name}"\ndefinition = "radio{number}:type=synthetic,rate=200"\n'


def sections(page: Path = PAGE) -> dict[str, str]:
    """Every recipe by its heading."""
    parts = re.split(r"(?m)^## (.*)\n", page.read_text())
    return dict(zip(parts[1::2], parts[2::2], strict=True))


class Recipe:
    """One section: what is to stand in files, and what is to be typed."""

    def __init__(self, text: str) -> None:
        found = re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", text)
        self.files = [body for language, body in found if language]
        self.lines = [line for language, body in found if not language for line in body.splitlines()]
        self.done: set[str] = set()

    def line(self, start: str) -> str:
        """The printed line that starts so; it counts as carried out."""
        found = next(line for line in self.lines if line.startswith(start))
        self.done.add(found)
        return found

    def leave_out(self, start: str, why: str) -> None:
        assert why
        self.line(start)


class Kitchen:
    """The machine, made once: helperd installed, the groups of the page, and somebody who is in all of them."""

    def __init__(self) -> None:
        for place in ("/etc", "/usr", "/var"):  # what is written there is written beside it
            here = f"/tmp/over{place}"
            os.makedirs(f"{here}/up")
            os.mkdir(f"{here}/work")
            options = f"lowerdir={place},upperdir={here}/up,workdir={here}/work"
            subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", place], check=True)
        self.stage = Stage()
        with open("/etc/group", "a") as file:
            file.write(f"capture-admin:x:{ADMIN}:\n")
        site = f"{LIBRARY}/.venv/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
        for found in Path(importlib.util.find_spec("zstandard").origin).parents[1].glob("zstandard*"):
            shutil.copytree(found, f"{site}/{found.name}")
        for name, module in (("helperd", "helperd.cli"), ("helperd-extcap", "helperd.extcap")):
            text = PROGRAM.format(python=interpreter(), library=LIBRARY, site=site, module=module)
            executable(f"/usr/bin/{name}", text)
        for path, owner in (
            (HOME, OTHER),
            ("/etc/helperd", 0),
            ("/var/lib/helperd", DAEMON),
            ("/var/captures", 0),
        ):
            shutil.rmtree(
                path, ignore_errors=True
            )  # of this machine's own helperd; it stays, under the overlay
            os.mkdir(path)
            os.chown(path, owner, owner)
        self.environment = {
            "PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": HOME,
            "LC_ALL": "C.UTF-8",
        }

    @contextmanager
    def daemon(self, config: str, *running: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        """`helperd run` of root with the installed configuration, until these sources run; has to end well."""
        Path("/etc/helperd/helpers.toml").write_text(config)
        self.says("helperd check", root=True)
        with open("/run/log", "wb") as log:
            process = subprocess.Popen(
                ["helperd", "run"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment | environment,
            )
        try:
            words = " ".join(f"--running {name}" for name in running)
            while not os.path.exists("/run/helperd/control.sock"):
                assert process.poll() is None, Path("/run/log").read_text()
                time.sleep(0.01)
            if words:
                self.says(f"helperd wait {words} --timeout {PATIENCE_S:.0f}s", root=True)
            yield process
        finally:
            process.terminate()
            status = process.wait(PATIENCE_S)
        assert status == 0, Path("/run/log").read_text()

    def start(self, line: str, *, root: bool = False, **more: Any) -> subprocess.Popen[str]:
        """Start a command line as root, or as a member of both groups; in a session of its own."""
        ids: dict[str, Any] = (
            {} if root else {"user": OTHER, "group": OTHER, "extra_groups": [DAEMON, CAPTURE, ADMIN]}
        )
        return subprocess.Popen(
            ["bash", "-c", line], cwd="/run" if root else HOME, env=self.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **ids, **more,
        )  # fmt: skip

    def says(self, line: str, *, root: bool = False) -> str:
        """What a command line prints that is to succeed."""
        process = self.start(line, root=root)
        out, err = process.communicate(timeout=PATIENCE_S * 2)
        assert process.returncode == 0, f"$ {line}\n{out}{err}[{process.returncode}]"
        return out

    def shows(self, line: str, *, lines: int = 3, busy: Callable[[], None] = lambda: None) -> list[str]:
        """The first lines of a command that goes on until it is ended, with something done meanwhile."""
        process = self.start(line)
        assert process.stdout
        os.set_blocking(process.stdout.fileno(), False)
        read, got, deadline = b"", "", time.monotonic() + PATIENCE_S
        try:
            while got.count("\n") < lines:
                busy()
                select.select([process.stdout], [], [], 0.05)
                read += process.stdout.buffer.read() or b""
                got = read.decode(errors="ignore")  # what has arrived may end within a character
                assert process.poll() is None or got.count("\n") >= lines, (
                    f"$ {line}\n{got}{process.stderr.read()}"
                )
                assert time.monotonic() < deadline, f"$ {line}\n{got}"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.stdout.close()
            process.stderr.close()
            process.wait(PATIENCE_S)
        return got.splitlines()[: got.count("\n")]  # whole ones

    def status(self) -> dict[str, Any]:
        return json.loads(self.says("helperd status --json", root=True))

    def counts(self, name: str) -> int:
        """How many packets a source has sent."""
        return next(row["packets"] for row in self.status()["sources"] if row["name"] == name)


def executable(path: str, text: str) -> None:
    Path(path).write_text(text)
    os.chmod(path, 0o755)


def wire(*names: str) -> Callable[[], None]:
    """Make interfaces with these names, each with a peer; what is returned sends some packets to all of them."""
    senders = []
    for name in names:
        for words in (f"add {name} type veth peer name {name}-peer", f"set {name} up", f"set {name}-peer up"):
            subprocess.run(["ip", "link", *words.split()], check=True)
        sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        sender.bind((f"{name}-peer", 0))
        senders.append(sender)
    packets = [udp(53), tcp(443)]

    def send() -> None:
        for sender in senders:
            for packet in packets:
                sender.send(packet)

    return send


def ip4(protocol: int, body: bytes) -> bytes:
    head = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 0, 0, 64, protocol, 0, b"\x0a\0\0\1", b"\x0a\0\0\2"
    )
    total = sum(struct.unpack(">10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack(">H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF) + head[12:]
    return b"\xff" * 6 + b"\x02\0\0\0\0\x01" + b"\x08\0" + head + body


def udp(port: int) -> bytes:
    return ip4(17, struct.pack(">HHHH", 40000, port, 8 + 12, 0) + bytes(12))


def tcp(port: int) -> bytes:
    return ip4(6, struct.pack(">HHIIBBHHH", 40000, port, 1, 0, 5 << 4, 2, 1024, 0, 0))


COOKS: dict[str, Callable[[Kitchen, Recipe], None]] = {}
NEEDS: dict[str, tuple[str, ...]] = {}


def cook(heading: str, *needs: str) -> Callable[[Callable[[Kitchen, Recipe], None]], None]:
    """Put a recipe on the list; ``needs`` are abilities of tests/ability.py."""

    def enter(function: Callable[[Kitchen, Recipe], None]) -> None:
        COOKS[heading], NEEDS[heading] = function, needs

    return enter


FOREIGN = {
    "Wi-Fi": "a radio, and Kismet's program for it",
    "Several radios on one band": "radios, and Kismet's program for them",
    "Bluetooth": "an adapter, and Kismet's program for it",
    "rtl_433: sensors as JSON lines": "a receiver",
    "rtl_433 through Kismet's helper": "a receiver, and Kismet's program for it",
}
ELSEWHERE = {"Sensors into other systems": "tests/test_pipes.py"}


@cook("Wireshark without root", "tshark", "tcpdump")
def wireshark(kitchen: Kitchen, recipe: Recipe) -> None:
    (groups,) = recipe.files
    send = wire("eth0")
    with kitchen.daemon(groups + RADIO + INTERFACE + source("roof"), "roof"):
        recipe.leave_out("wireshark", "a window")
        for name, gid in (("all.sock", CAPTURE), ("control.sock", CAPTURE), ("sources/roof.sock", CAPTURE)):
            assert os.stat(f"/run/helperd/{name}").st_gid == gid, name
        assert "Beacon" in kitchen.shows(recipe.line("tshark -i /run"))[0]
        for line in [line for line in recipe.lines if line.startswith("helperd tap")]:
            assert "Beacon" in kitchen.shows(recipe.line(line))[0]
        kitchen.says(recipe.line("mkdir"))
        for line in [line for line in recipe.lines if line.startswith("ln -s")]:
            kitchen.says(recipe.line(line).replace("/path/to/helperd/.venv/bin/", "/usr/bin/"))
        listed = kitchen.says("tshark -D")
        assert all(f" helperd.{name}" in listed for name in ("roof", "interface.eth0")), listed
        assert "Beacon" in kitchen.shows(recipe.line("tshark -i helperd.roof"))[0]
        assert "DNS" in kitchen.shows(recipe.line("tshark -i helperd.interface"), lines=1, busy=send)[0]
        kitchen.says("helperd stop roof")


@cook("A network interface, live", "tcpdump")
def interface(kitchen: Kitchen, recipe: Recipe) -> None:
    send = wire("eth0", "lab0")
    with kitchen.daemon(*recipe.files, "uplink", "lab"):
        deadline = time.monotonic() + PATIENCE_S
        while kitchen.counts("uplink") < 5 or kitchen.counts("lab") < 10:
            send()
            assert time.monotonic() < deadline, kitchen.status()
        listed = kitchen.says("helperd list")
        assert "eth0" in listed, listed
        assert "lab0" in listed, listed
        packets = kitchen.shows("helperd tap uplink -q | tcpdump -n -r -", busy=send)
        assert all(".443: " in line for line in packets), packets


@cook("Any program that writes a capture", "tcpdump", "tshark")
def programs(kitchen: Kitchen, recipe: Recipe) -> None:
    send = wire("eth0")
    os.makedirs("/etc/helperd", exist_ok=True)
    Path("/etc/helperd/key").touch()
    with kitchen.daemon(
        *recipe.files, "eth"
    ):  # "router" is somebody else's machine: it is tried again and again
        deadline = time.monotonic() + PATIENCE_S
        while kitchen.counts("eth") < 5:
            send()
            assert time.monotonic() < deadline, kitchen.status()
        if os.path.exists("/usr/lib/x86_64-linux-gnu/wireshark/extcap/randpktdump"):
            assert "randpkt" in kitchen.says("helperd list")


@cook("rtl_433 without a receiver", "rtl_433")
def test_data(kitchen: Kitchen, recipe: Recipe) -> None:
    with kitchen.daemon(*recipe.files):
        (line,) = kitchen.shows(recipe.line("helperd tap"), lines=1)[:1]
        assert json.loads(line)["report"]["model"]
        kitchen.says(recipe.line("helperd start"), root=True)


@cook("A replay that must be complete", "tshark")
def replay(kitchen: Kitchen, recipe: Recipe) -> None:
    shutil.copy(ROOT / "helperd" / "share" / "demo.pcapng", "/var/captures/evidence.pcapng")
    os.chmod("/var/captures/evidence.pcapng", 0o644)

    def lengths(path: str) -> list[str]:
        return kitchen.start(f"tshark -r {path} -T fields -e frame.len").communicate()[0].split()

    there = lengths("/var/captures/evidence.pcapng")
    assert len(there) > 100
    with kitchen.daemon(*recipe.files):
        process = kitchen.start(recipe.line("tshark -i"))
        deadline = time.monotonic() + PATIENCE_S
        while process.poll() is None and lengths(f"{HOME}/copy.pcapng") != there:
            assert time.monotonic() < deadline, kitchen.status()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)
        assert lengths(f"{HOME}/copy.pcapng") == there


@cook("Recording without loss beside live viewers")
def recording(kitchen: Kitchen, recipe: Recipe) -> None:
    with kitchen.daemon(*recipe.files, "radio0"):
        code = (
            "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/helperd/recorder.sock'); n = 0\n"
            "while n < 500_000: n += len(s.recv(1 << 20))"
        )
        kitchen.says(f'{interpreter()} -c "{code}"')
        (sink,) = (row for row in kitchen.status()["sinks"] if row["name"] == "recorder.sock")
        assert sink["type"] == "unix"


@cook("Files on a node that runs for months")
def node(kitchen: Kitchen, recipe: Recipe) -> None:
    recipe.leave_out("sudo systemctl", "the daemon is started by hand here")
    printed = "".join(recipe.files).replace("# compress", "compress")
    with kitchen.daemon(printed + source("radio1", 1), "radio0", "radio1"):
        deadline = time.monotonic() + PATIENCE_S
        kitchen.says(recipe.line("helperd check"))
        shown, status = "", recipe.line("helperd status")
        while "radio0 running" not in shown:  # on a busy machine it may be "starved" for a while
            assert time.monotonic() < deadline, shown
            shown = kitchen.says(status)
        kitchen.says(recipe.line("sudo helperd reload").removeprefix("sudo "), root=True)
        while not any(name.endswith(".part") for name in os.listdir("/var/lib/helperd")):
            assert time.monotonic() < deadline, kitchen.status()
            time.sleep(0.02)
        process = kitchen.start(recipe.line("helperd tap"))
        # a reader, not a file, which counts what is durable
        while not any(
            row["packets"] > 100 for row in kitchen.status()["consumers"] if row["durable"] is None
        ):
            assert time.monotonic() < deadline, kitchen.status()
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, said
        (file,) = (name for name in os.listdir(HOME) if name.startswith("air"))
        assert os.path.getsize(f"{HOME}/{file}") > 10_000
    (file,) = os.listdir("/var/lib/helperd")
    assert re.fullmatch(r"air-\d{8}-\d{6}\.pcapng\.zst", file), file
    assert os.stat(f"/var/lib/helperd/{file}").st_mode & 0o777 == 0o640


@cook("Test data of any rate", "tshark")
def rate(kitchen: Kitchen, recipe: Recipe) -> None:
    with kitchen.daemon(*recipe.files, "radio0"):
        line = "tshark -i /run/helperd/sources/radio0.sock -T fields -e wlan.fixed.timestamp -Y wlan.fc.type_subtype==8"
        stamps = [int(stamp, 0) for stamp in kitchen.shows(line, lines=200)[:200]]
        assert stamps == list(range(stamps[0], stamps[0] + 200))


@cook("In scripts", "jq")
def scripts(kitchen: Kitchen, recipe: Recipe) -> None:
    executable("/usr/local/bin/start-my-consumer", "#!/bin/sh\necho started\n")
    recipe.leave_out("helperd probe", "a radio")
    with kitchen.daemon(RADIO + source("roof"), "roof"):
        assert kitchen.says(recipe.line("helperd wait")) == "started\n"
        name, state, packets = kitchen.says(recipe.line("helperd status --json | jq")).split()
        assert (name, state, packets.isdigit()) == ("roof", "running", True)


@cook("Running it from a unit")
def unit(kitchen: Kitchen, recipe: Recipe) -> None:
    settings = dict(line.split("=", 1) for line in recipe.files[0].splitlines()[1:])
    assert settings["ExecStart"] == "/usr/bin/helperd run"
    told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    told.bind("/run/notify")
    os.chmod("/run/notify", 0o666)
    told.settimeout(PATIENCE_S)
    os.mkdir(f"/run/{settings['RuntimeDirectory']}")
    os.chown(f"/run/{settings['RuntimeDirectory']}", DAEMON, DAEMON)
    environment = {
        "NOTIFY_SOCKET": "/run/notify",
        "RUNTIME_DIRECTORY": f"/run/{settings['RuntimeDirectory']}",
    }

    def until(word: bytes) -> None:
        while word not in told.recv(4096):
            pass

    with kitchen.daemon(RADIO + source("roof"), "roof", **environment) as process:
        until(b"READY=1")
        Path("/etc/helperd/helpers.toml").write_text(RADIO + source("roof") + source("yard", 1))
        kitchen.says(settings["ExecReload"].replace("$MAINPID", str(process.pid)), root=True)
        deadline = time.monotonic() + PATIENCE_S
        while len(kitchen.status()["sources"]) < 2:
            assert time.monotonic() < deadline, kitchen.status()
        kitchen.says("helperd wait --running yard --timeout 20s")


METRICS = ("helperd_up 1", "helperd_source_state{", "helperd_source_lost_packets_total{")


@cook("Prometheus")
def prometheus(kitchen: Kitchen, recipe: Recipe) -> None:
    with kitchen.daemon(*recipe.files, "radio0"):
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                with urllib.request.urlopen("http://127.0.0.1:9747/metrics", timeout=PATIENCE_S) as answer:
                    text = answer.read().decode()
                if all(f"\n{name}" in text for name in METRICS):  # there is none of a source without a packet
                    break
            except OSError:
                text = ""
            assert time.monotonic() < deadline, text or kitchen.status()
            time.sleep(0.05)


@cook("A program of your own, kept running")
def watcher(kitchen: Kitchen, recipe: Recipe) -> None:
    executable(
        "/usr/local/bin/my-watcher",
        '#!/bin/sh\nread line <&3\necho "$* $(id -un) $line" >&2\nread line <&3\n',
    )
    with kitchen.daemon(*recipe.files, "radio0", "watcher"):
        kitchen.says("helperd stop watcher", root=True)
        kitchen.says("helperd start watcher", root=True)
        kitchen.says("helperd wait --running watcher --timeout 20s", root=True)
    assert '--quiet nobody {\\"runtime_dir\\": \\"/run/helperd\\"}' in Path("/run/log").read_text()


def main() -> None:
    """Carry out the recipes that are named."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", "/tmp"], check=True)
    kitchen, found = Kitchen(), sections()
    for heading in sys.argv[1:]:
        wrong: list[str] = []
        recipe = Recipe(found[heading])
        try:
            COOKS[heading](kitchen, recipe)
            wrong = [f"nobody carries out: {line}" for line in recipe.lines if line not in recipe.done]
        except Exception:
            log = Path("/run/log").read_text() if os.path.exists("/run/log") else ""
            wrong = [traceback.format_exc()[-3000:] + log[-2000:]]
        say(recipe=heading, wrong=wrong)


if __name__ == "__main__":
    main()
