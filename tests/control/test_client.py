from __future__ import annotations

import grp
import json
import os
import pwd
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from helperd.control import client as client_module
from helperd.control.client import Client, ControlError
from helperd.errors import Code, ConfigError, ConfigRefused, HelperdError, UnavailableError
from tests.control.fake import FakeDaemon, TunableDaemon, served_in_thread
from tests.patience import HANGS_S


@contextmanager
def answering(path: Path, *replies: bytes) -> Iterator[None]:
    """A daemon that says these bytes to its one client, whatever was asked, then hangs up."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def run() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(4096)
                for reply in replies:
                    peer.sendall(reply)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            thread.join(HANGS_S)
            path.unlink()


def test_ask_order_and_follow(rundir: Path) -> None:
    with served_in_thread(rundir) as daemon, Client(str(rundir / "control.sock")) as client:
        assert client.call("ListSources") == {"sources": ["radio0", "beacons"]}
        assert client.call("io.helperd.Stop", source="radio0")["source"]["state"] == "down"
        assert client.call("GetStatus", source=None)["pid"] == os.getpid()
        assert daemon.orders == [("radio0", "stop")]
        stream = client.more("GetStatus")
        assert next(stream)["sources"][0]["state"] == "down"
        daemon.run_sync(lambda: daemon.change("radio0", state="running"))
        assert next(stream)["sources"][0]["state"] == "running"


def test_an_error_has_the_daemons_words_and_exit_code(rundir: Path) -> None:
    with served_in_thread(rundir), Client(str(rundir / "control.sock")) as client:
        with pytest.raises(ControlError, match="did you mean 'radio0'") as caught:
            client.call("Stop", source="radio")
        assert caught.value.problem == "unknown-source"
        assert caught.value.exit_code == Code.USAGE
        assert caught.value.parameters["nearest"] == "radio0"
        with pytest.raises(ControlError, match="SetChannel") as caught:
            client.call("SetChannel", source="radio0", channel="6")
        assert caught.value.problem == "not-supported"
        assert client.call("ListSources")["sources"]


def test_a_refused_configuration_tells_each_mistake_once(rundir: Path) -> None:
    fake = FakeDaemon()
    fake.failure = ConfigRefused([ConfigError("unknown-key", "no key 'x'", file="a.toml", line=3)])
    with served_in_thread(rundir, fake), Client(str(rundir / "control.sock")) as client:
        with pytest.raises(ControlError) as caught:
            client.call("Start", source="radio0")
        assert str(caught.value) == "a.toml:3: unknown-key: no key 'x'"
        assert caught.value.problem == "unknown-key"


def test_an_order_that_is_too_long_is_refused_not_hung(rundir: Path) -> None:
    definition = "x" * (10 << 20)
    with served_in_thread(rundir), Client(str(rundir / "control.sock")) as client:  # noqa: SIM117
        with pytest.raises(ControlError, match="65536 bytes"):
            client.call("Probe", definition=definition)


def test_a_connection_becomes_a_stream(rundir: Path) -> None:
    with served_in_thread(rundir, TunableDaemon()), Client(str(rundir / "control.sock")) as client:
        with pytest.raises(ControlError, match="nobody"):
            client.upgrade("Stream", sources=["nobody"])
        stream = client.upgrade("Stream", sources=["radio0"])
        data = stream.head
        with stream.socket as sock:
            while len(data) < 14:
                data += sock.recv(100)
    assert data == b"pcapng:radio0\n"


def test_no_daemon_is_told_with_the_path_and_the_fix(rundir: Path) -> None:
    path = str(rundir / "control.sock")
    with pytest.raises(UnavailableError, match="helperd run") as caught:
        Client(path)
    assert caught.value.problem == "no-daemon"
    assert caught.value.exit_code == 69
    assert path in str(caught.value)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
    with pytest.raises(UnavailableError, match="listens any more"):
        Client(path)
    os.unlink(path)
    Path(path).write_text("not a socket")
    with pytest.raises(UnavailableError, match="no-daemon"):
        Client(path)
    with pytest.raises(UnavailableError, match="too long for a unix socket"):
        Client("/tmp/" + "x" * 200)


def test_a_daemon_that_is_stopped_does_not_hang_the_client(rundir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(rundir / "control.sock"))
        listener.listen()
        with Client(str(rundir / "control.sock"), timeout_s=0.05) as client:
            with pytest.raises(UnavailableError, match=r"within 0\.05 s") as caught:
                client.call("GetStatus")
            assert caught.value.problem == "timed-out"
            client.silence_s = 0.05
            with pytest.raises(UnavailableError, match="timed-out"):
                next(client.more("GetStatus"))
    os.unlink(rundir / "control.sock")


@pytest.mark.need("root")
def test_a_closed_door_names_the_group_that_has_the_key(rundir: Path) -> None:
    path = rundir / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        rundir.chmod(0o755)
        os.chown(path, 0, 4242)
        path.chmod(0o660)
        os.seteuid(65534)
        try:
            with pytest.raises(HelperdError, match="for group 4242, which has no name here") as caught:
                Client(str(path))
        finally:
            os.seteuid(0)
        os.chown(path, 0, grp.getgrnam("daemon").gr_gid)
        os.seteuid(65534)
        try:
            user = pwd.getpwuid(65534).pw_name
            cure = f"{user} is not in group daemon: sudo usermod -aG daemon {user}, then log in again"
            with pytest.raises(HelperdError, match=cure):
                Client(str(path))
        finally:
            os.seteuid(0)
        assert caught.value.exit_code == 77
        os.chown(path, 0, 0)
        hint = client_module._group_hint(str(path))
        assert "root's alone" in hint
        assert "usermod" not in hint  # nobody is to join that group
        path.chmod(0o600)
        os.seteuid(65534)
        try:
            with pytest.raises(HelperdError, match="owner only"):
                Client(str(path))
        finally:
            os.seteuid(0)
    path.unlink()


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\0", "bad-request"),
        (b"[1]\0", "bad-request"),
        (b'"x"\0', "bad-request"),
        (b'{"parameters":{', "no-daemon"),
        (b"", "no-daemon"),
        (b'{"error":"org.example.Odd","parameters":{"why":1,"code":3}}\0', "bad-request"),
    ],
)
def test_whatever_answers_is_a_clear_error(rundir: Path, reply: bytes, problem: str) -> None:
    with answering(rundir / "x.sock", reply), Client(str(rundir / "x.sock")) as client:  # noqa: SIM117
        with pytest.raises(HelperdError) as caught:
            client.call("GetStatus")
    assert caught.value.problem == problem


def test_an_answer_without_an_end_is_given_up(rundir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helperd.control.client.MAX_REPLY", 1000)
    with answering(rundir / "x.sock", b"x" * 5000), Client(str(rundir / "x.sock")) as client:  # noqa: SIM117
        with pytest.raises(UnavailableError, match="never ends"):
            client.call("GetStatus")


def test_replies_cut_anywhere_are_put_together(rundir: Path) -> None:
    whole = b"".join(
        json.dumps({"parameters": {"n": n}, "continues": n < 3}).encode() + b"\0" for n in range(4)
    )
    with (
        answering(rundir / "x.sock", *(bytes([byte]) for byte in whole)),
        Client(str(rundir / "x.sock")) as client,
    ):
        assert [reply["n"] for reply in client.more("Count")] == [0, 1, 2, 3]


def test_the_client_needs_the_standard_library_only() -> None:
    import subprocess
    import sys

    script = (
        "import sys, helperd.control.client, helperd.cli.status; "
        "print([m for m in ('trio', 'google', 'psutil', 'tomli', 'msgpack') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_two_admins_at_once_are_both_heard(rundir: Path) -> None:
    daemon = FakeDaemon()
    with served_in_thread(rundir, daemon):
        clients = [Client(str(rundir / "control.sock")) for _ in range(2)]

        def work(client: Client, verb: str) -> None:
            for _ in range(50):
                client.call(verb, source="radio0")

        threads = [
            threading.Thread(target=work, args=pair) for pair in zip(clients, ("Stop", "Start"), strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(HANGS_S)
        for client in clients:
            client.close()
    assert sorted(daemon.orders) == [("radio0", "start")] * 50 + [("radio0", "stop")] * 50
