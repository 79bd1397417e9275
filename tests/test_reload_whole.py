"""A reload takes all of a configuration over, or nothing: what cannot be had is refused before anything has changed."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helperd.config.whole import UNENDED
from helperd.control.client import ControlError
from tests.faults.witness import listening
from tests.fuse import mounted
from tests.patience import HANGS_S
from tests.rig import HELPERD, Rig, daemon, until_listening

CONFIG = """
[[helper]]
name = "synthetic"
command = ["builtin:synthetic"]
types = ["synthetic"]
"""
SOURCE = """
[[source]]
name = "{name}"
definition = "{name}:type=synthetic,rate=100"
"""
RADIO0 = CONFIG + SOURCE.format(name="radio0")
RADIO1 = SOURCE.format(name="radio1")


def unix(path: str, more: str = "") -> str:
    return f'[[sink]]\npath = "{path}"\n{more}\n'


def tcp(port: int) -> str:
    return f'[[sink]]\ntype = "tcp"\nlisten = "tcp:127.0.0.1:{port}"\n'


def file(path: Path, more: str = "") -> str:
    return f'[[sink]]\ntype = "file"\npath = "{path}"\n{more}\n'


def write(rig: Rig, text: str) -> None:
    new = rig.runtime / "helpers.toml.new"
    new.write_text(text)
    new.replace(rig.runtime / "helpers.toml")  # never seen half written, as editors see to it


def picture(rig: Rig) -> Any:
    """What a refused reload may not change: sources, sinks, descriptors, sockets in the runtime directory."""
    status = rig.status()
    return (
        [(row["name"], row["pid"], row["incarnation"]) for row in status["sources"]],
        [(row["name"], row["path"]) for row in status["sinks"]],
        sorted(
            str(path.relative_to(rig.runtime)) for path in rig.runtime.rglob("*.sock") if path.is_socket()
        ),
        listening(status["pid"]),
    )


@contextlib.contextmanager
def taken_port() -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()[1]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@contextlib.contextmanager
def obstacle(kind: str, folder: Path) -> Iterator[tuple[str, str]]:
    """Something that a reload cannot have: the text that asks for it, and words of the refusal."""
    if kind == "a file where a socket is to be":
        (folder / "x.sock").write_text("")
        yield unix("x.sock"), "is not a socket"
        (folder / "x.sock").unlink()
    elif kind == "a directory that is not there":
        yield unix("nowhere/x.sock"), "No such file or directory"
    elif kind == "a port that is taken":
        with taken_port() as port:
            yield tcp(port), "is taken"
    elif kind == "a path that is too long":
        yield unix("x" * 100 + ".sock"), "a unix socket path"
    elif kind == "a file where a directory is to be":
        (folder / "plain").write_text("")
        yield file(folder / "plain" / "a.pcapng"), "is no directory"
    elif kind == "a definition that cannot be read":
        bad = 'x:type=synthetic,channels="1'
        yield f"[[source]]\nname = 'bad'\ndefinition = '{bad}'\n", "bad-definition"
    elif kind == "a group that no helper can have":
        text = (
            '[[helper]]\nname = "other"\ncommand = ["/bin/true"]\ntypes = ["other"]\ngroups = ["no-such"]\n'
        )
        yield text, "helpers.toml:[0-9]+: bad-value: this machine has no group 'no-such'"
    elif kind == "a name that two helpers have":
        text = '[[helper]]\nname = "synthetic"\ncommand = ["/bin/true"]\ntypes = ["other"]\n'
        yield text, "duplicate-name"
    else:
        raise AssertionError(kind)


OBSTACLES = (
    "a file where a socket is to be",
    "a directory that is not there",
    "a port that is taken",
    "a path that is too long",
    "a file where a directory is to be",
    "a definition that cannot be read",
    "a group that no helper can have",
    "a name that two helpers have",
)


def test_what_cannot_be_had_changes_nothing_and_leaves_no_trace(tmp_path: Path) -> None:
    port = free_port()
    start = RADIO0 + unix("a.sock") + tcp(port) + file(tmp_path / "out" / "a.pcapng")
    with daemon(tmp_path, start) as rig:
        rig.wait_running()
        rig.wait(lambda status: bool(status["consumers"]))
        before = picture(rig)
        for kind in OBSTACLES:
            with obstacle(kind, tmp_path) as (text, words):
                other = CONFIG + RADIO1 + unix("b.sock") + text  # radio0, a.sock, the port: all would go
                write(rig, other)
                for check in (True, False):
                    with pytest.raises(ControlError, match=words):
                        rig.call("Reload", check=check)
                    assert picture(rig) == before, kind
        write(rig, RADIO0 + RADIO1 + unix("a.sock") + unix("b.sock") + tcp(port))
        planned = rig.call("Reload", check=True)
        assert picture(rig) == before, "only said and tried"
        assert rig.call("Reload") == planned
        assert planned["start"] == ["radio1"]
        rig.wait_running("radio0", "radio1")
        assert {row["name"] for row in rig.status()["sinks"]} >= {"b.sock", "sources/radio1.sock"}
        assert rig.status()["bugs"] == 0


def test_the_command_says_what_a_reload_would_do(tmp_path: Path) -> None:
    with daemon(tmp_path, RADIO0) as rig:
        rig.wait_running()
        argv = [*HELPERD, "reload", "--check", f"--runtime-dir={tmp_path}"]
        write(rig, CONFIG + RADIO1)
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=HANGS_S)
        assert (done.returncode, done.stderr) == (0, "")
        assert "would be removed: radio0\nwould be added: radio1\n" in done.stdout
        with obstacle(OBSTACLES[0], tmp_path) as (text, words):
            write(rig, RADIO0 + text)
            done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=HANGS_S)
            assert done.returncode != 0
            assert words in done.stderr
        assert [row["name"] for row in rig.status()["sources"]] == ["radio0"]


CUT = RADIO0 + RADIO1 + unix("a.sock") + unix("b.sock")
PLACES = (CUT.index(SOURCE.format(name="radio1")), CUT.index(unix("a.sock")), CUT.index(unix("b.sock")))
WORDS = ("1 of 2 sources (radio1); 2 of 2 sinks (a.sock, b.sock)", "2 of 2 sinks (", "1 of 2 sinks (b.sock)")


@pytest.mark.parametrize("how", ["order", "signal", "command"])
def test_what_a_file_that_was_cut_between_blocks_takes_away_is_told(tmp_path: Path, how: str) -> None:
    """It is a good file, and shows in nothing else."""
    with daemon(tmp_path, CUT) as rig:
        rig.wait_running()
        for place, words in zip(PLACES, WORDS, strict=True):
            write(rig, CUT)
            assert rig.call("Reload")["gone"] == []
            write(rig, CUT[:place])
            planned = rig.call("Reload", check=True)["gone"]
            before = len(told(rig))
            if how == "order":
                assert rig.call("Reload")["gone"] == planned
            elif how == "command":
                argv = [*HELPERD, "reload", f"--runtime-dir={tmp_path}"]
                done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=HANGS_S)
                assert f"configured no more: {words}" in done.stdout
            else:
                rig.process.send_signal(signal.SIGHUP)
            rig.wait(lambda _, before=before: len(told(rig)) == before + 1)  # type: ignore[misc]
            assert f"reloaded; configured no more: {words}" in told(rig)[-1]
            # the log has it a moment later than the messages
            rig.wait(lambda _, words=words: f"no more: {words}" in (tmp_path / "log").read_text())  # type: ignore[misc]
            assert planned[-1]["kind"] == "sink"
            assert planned[-1]["before"] == 2


def told(rig: Rig) -> list[str]:
    return [
        message["text"]
        for message in rig.call("GetMessages")["messages"]
        for _ in range(message["repeated"] + 1)
        if "configured no more" in message["text"]
    ]


def test_a_file_that_may_be_cut_within_a_line_is_told(tmp_path: Path) -> None:
    """``rotate_packets = 1000`` becomes ``100``: at the start, at a reload, and to who checks it."""
    whole = RADIO0 + file(tmp_path / "a.pcapng", "rotate_packets = 1000")
    cut = whole.rstrip()[:-1]
    words = "does not end with a newline"
    with daemon(tmp_path, cut) as rig:
        rig.wait_running()
        said = [message["text"] for message in rig.call("GetMessages")["messages"]]
        assert [text for text in said if words in text] == [f"{tmp_path}/helpers.toml {UNENDED}"]
        number = rig.call("GetMessages")["last"]
        write(rig, whole)
        rig.call("Reload")
        assert not [row for row in rig.call("GetMessages", since=number)["messages"] if words in row["text"]]
        drop_in = tmp_path / "conf.d" / "more.toml"
        drop_in.parent.mkdir()
        drop_in.write_text(RADIO1.rstrip())
        write(rig, '[helperd]\ninclude = ["conf.d"]\n' + whole)
        rig.call("Reload")
        assert rig.wait(lambda _: f"{drop_in} {words}" in (tmp_path / "log").read_text())
        argv = [*HELPERD, "check", str(tmp_path / "helpers.toml")]
        done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=HANGS_S)
        assert f"{drop_in}:{RADIO1.rstrip().count(chr(10)) + 1}: warning: {UNENDED}" in done.stderr


def test_a_sink_that_stays_where_it_is_keeps_its_socket(tmp_path: Path) -> None:
    """Whoever connects while it changes is served, and its address is never in use by ourselves."""
    port = free_port()
    with daemon(tmp_path, RADIO0 + unix("a.sock") + tcp(port)) as rig:
        rig.wait_running()
        inode = (tmp_path / "a.sock").stat().st_ino
        for awake in (False, True):
            if awake:
                with rig.connect("a.sock") as sock, socket.create_connection(("127.0.0.1", port)) as other:
                    assert sock.recv(100)
                    assert other.recv(100)
            for overflow in ("disconnect", "drop-oldest"):
                more = f'overflow = "{overflow}"'
                write(rig, RADIO0 + unix("a.sock", more) + tcp(port) + more + "\n")
                rig.call("Reload")
                assert (tmp_path / "a.sock").stat().st_ino == inode
                with rig.connect("a.sock") as sock, socket.create_connection(("127.0.0.1", port)) as other:
                    sock.settimeout(HANGS_S)
                    other.settimeout(HANGS_S)
                    assert sock.recv(100)
                    assert other.recv(100)
        write(rig, RADIO0)
        rig.call("Reload")
        assert not (tmp_path / "a.sock").exists()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


def test_a_source_whose_sockets_cannot_be_had_is_not_added(tmp_path: Path) -> None:
    with daemon(tmp_path, RADIO0) as rig:
        rig.wait_running()
        before = picture(rig)
        for name in ("radio1.sock", "radio1.frames.sock", "radio1.jsonl.sock"):
            hindrance = tmp_path / "sources" / name
            hindrance.write_text("")
            with pytest.raises(ControlError, match="is not a socket"):
                rig.call("AddSource", definition="radio1:type=synthetic,rate=10")
            hindrance.unlink()
            assert picture(rig) == before
        rig.call("AddSource", definition="radio1:type=synthetic,rate=10")
        with pytest.raises(ControlError, match="named 'radio1' already"):
            rig.call("AddSource", definition="radio1:type=synthetic,rate=10")
        assert len(rig.status()["sources"]) == 2


def test_an_added_source_that_is_configured_now_is_taken_over(tmp_path: Path) -> None:
    with daemon(tmp_path, RADIO0) as rig:
        rig.call("AddSource", definition="radio1:type=synthetic,rate=100", name="radio1")
        pid = rig.source("radio1")["pid"]
        write(rig, RADIO0 + RADIO1)
        what = rig.call("Reload")
        assert what["start"] == what["replace"] == []
        assert rig.source("radio1")["pid"] == pid
        write(rig, RADIO0)
        assert rig.call("Reload")["stop"] == ["radio1"]
        assert not (tmp_path / "sources" / "radio1.sock").exists()
        rig.call("AddSource", definition="radio2:type=synthetic,rate=100", name="radio2")
        assert rig.call("Reload")["stop"] == [], "one that was only added stays"


def test_a_configured_source_that_was_removed_comes_back(tmp_path: Path) -> None:
    with daemon(tmp_path, RADIO0 + RADIO1) as rig:
        rig.wait_running()
        rig.call("RemoveSource", source="radio1")
        write(rig, (RADIO0 + RADIO1).replace("rate=100", "rate=50"))
        what = rig.call("Reload")
        assert (what["start"], what["replace"]) == (["radio1"], ["radio0"])
        rig.wait_running("radio0", "radio1")
        rig.connect("sources/radio1.sock").close()


def test_the_last_file_wins_however_fast_they_come(tmp_path: Path) -> None:
    """By signal to the launcher and to the supervisor, by order, and all at once."""
    with daemon(tmp_path, RADIO0) as rig:
        rig.wait_running()
        supervisor = rig.status()["pid"]

        def now_has(name: str) -> None:
            rig.wait(lambda status: [row["name"] for row in status["sources"]] == [name])

        for pid in (rig.process.pid, supervisor):
            for name in ("radio1", "radio2", "radio3", "radio0"):
                write(rig, CONFIG + SOURCE.format(name=name))
                os.kill(pid, signal.SIGHUP)
            now_has("radio0")
            write(rig, CONFIG + RADIO1)
            os.kill(pid, signal.SIGHUP)
            now_has("radio1")
        threads = []
        wrong: list[Exception] = []

        def order() -> None:
            try:
                rig.call("Reload")
            except Exception as error:
                wrong.append(error)

        for number in range(12):
            write(rig, CONFIG + SOURCE.format(name=f"radio{number % 4}"))
            threads.append(threading.Thread(target=order))
            threads[-1].start()
            os.kill(supervisor, signal.SIGHUP)
        began = time.monotonic()
        for thread in threads:
            thread.join(HANGS_S)
        assert time.monotonic() - began < HANGS_S
        assert wrong == []
        now_has("radio3")
        assert rig.status()["bugs"] == 0
        assert "reload refused" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGALRM,
        signal.SIGQUIT,
        signal.SIGPIPE,
        signal.SIGSTKFLT,
        signal.SIGRTMAX,
    ],
)
def test_other_signals_do_what_the_manual_says(tmp_path: Path, number: int) -> None:
    """Nothing, at either process."""
    with daemon(tmp_path, RADIO0) as rig:
        status = rig.wait_running()
        before = status["sources"][0]["packets"]
        for pid in (rig.process.pid, status["pid"]):
            os.kill(pid, number)
        rig.wait(lambda now: now["sources"][0]["packets"] > before + 20)
        assert rig.source("radio0")["incarnation"] == 1


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_storm_of_signals_while_it_stops_is_no_reason_for_the_end(tmp_path: Path, number: int) -> None:
    """At both processes, to the last moment of each."""
    log = tmp_path / "log"
    with daemon(tmp_path, RADIO0, log=log) as rig:
        supervisor = rig.wait_running()["pid"]
        rig.process.terminate()
        while rig.process.poll() is None:
            for pid in (
                supervisor,
                rig.process.pid,
            ) * 5_000:  # as fast as they go: handlers in Python would nest
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            time.sleep(0.01)  # or a machine with one free core does nothing else
        assert rig.process.returncode == 0, log.read_text()
        assert "ended by signal" not in log.read_text()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD])
def test_a_storm_of_signals_while_it_runs_costs_nothing_but_time(tmp_path: Path, number: int) -> None:
    with daemon(tmp_path, RADIO0) as rig:
        supervisor = rig.wait_running()["pid"]
        before = rig.source("radio0")["packets"]
        for _ in range(30_000):
            for pid in (supervisor, rig.process.pid):
                os.kill(pid, number)
        write(rig, RADIO0 + RADIO1)
        os.kill(rig.process.pid, signal.SIGHUP)
        rig.wait_running("radio0", "radio1")
        rig.wait(lambda status: status["sources"][0]["packets"] > before + 20)
        assert rig.source("radio0")["incarnation"] == 1
        assert rig.status()["bugs"] == 0


def test_a_hangup_while_it_starts_is_no_end(tmp_path: Path) -> None:
    """To the launcher, which is one as soon as its command line says so, and over it to a supervisor of any age."""
    with daemon(tmp_path, RADIO0, wait=False) as rig:
        limit = time.monotonic() + HANGS_S
        while b"launch.py" not in Path(f"/proc/{rig.process.pid}/cmdline").read_bytes():
            assert time.monotonic() < limit
        while not (tmp_path / "control.sock").exists():
            assert rig.process.poll() is None
            assert time.monotonic() < limit
            os.kill(rig.process.pid, signal.SIGHUP)
        until_listening(rig)
        rig.wait_running("radio0")
        assert rig.status()["bugs"] == 0


@pytest.mark.timeout(120)
@pytest.mark.parametrize("ends", ["closes", "only stops sending", "expects no answer"])
def test_an_order_that_waits_for_a_reload_is_given_up_with_its_client(tmp_path: Path, ends: str) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir()
    with mounted(tmp_path / "disk") as disk:
        disk.path.chmod(0o755)
        file = disk.path / "helpers.toml"
        file.write_text(RADIO0)
        with daemon(runtime, file) as rig:
            rig.wait_running("radio0")
            rig.call("AddSource", definition="radio1:type=synthetic,rate=100")
            disk.freeze("read", "open")
            answers: list[str] = []

            def reload() -> None:
                try:
                    rig.call("Reload")
                except ControlError as error:
                    answers.append(str(error))

            thread = threading.Thread(target=reload)
            thread.start()
            while not disk.held:
                time.sleep(0.01)
            kept: list[socket.socket] = []
            orders = [
                ("AddSource", {"definition": "radio2:type=synthetic,rate=100"}),
                ("RemoveSource", {"source": "radio1"}),
            ]
            for method, parameters in orders:
                with rig.connect("control.sock") as sock:
                    call = {"method": f"io.helperd.{method}", "parameters": parameters}
                    if ends == "expects no answer":
                        call["oneway"] = True
                    sock.sendall(json.dumps(call).encode() + b"\0")
                    if ends == "only stops sending":
                        sock.shutdown(socket.SHUT_WR)
                        kept.append(sock.dup())
                rig.status()  # it has been heard by now
            disk.thaw()
            thread.join(HANGS_S)
            assert not answers
            if ends == "closes":
                rig.call(
                    "AddSource", definition="radio3:type=synthetic,rate=100"
                )  # in the same queue, behind them
                names = {row["name"] for row in rig.status()["sources"]}
                assert names == {"radio0", "radio1", "radio3"}
            else:
                rig.wait(lambda status: {row["name"] for row in status["sources"]} == {"radio0", "radio2"})
            for sock in kept:
                sock.close()


@pytest.mark.timeout(120)
def test_a_configuration_on_a_disk_that_hangs_holds_nothing_up(tmp_path: Path) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir()
    with mounted(tmp_path / "disk") as disk:
        disk.path.chmod(0o755)
        file = disk.path / "helpers.toml"
        file.write_text(RADIO0)
        with daemon(runtime, file) as rig:
            rig.wait_running("radio0")
            disk.freeze("read", "open")
            answers: list[str] = []

            def order() -> None:
                try:
                    rig.call("Reload")
                except ControlError as error:
                    answers.append(str(error))

            threads = [threading.Thread(target=order) for _ in range(3)]
            for thread in threads:
                thread.start()
            before = rig.source("radio0")["packets"]
            rig.wait(lambda status: status["sources"][0]["packets"] > before + 50)
            for thread in threads:
                thread.join(HANGS_S)
            assert len(answers) == 3
            assert all("the disk has not answered" in text for text in answers)
            disk.thaw()
            file.write_text(RADIO0 + RADIO1)
            assert rig.call("Reload")["start"] == ["radio1"]


def test_a_group_that_is_not_there_is_refused(tmp_path: Path) -> None:
    group = "helperd-no-such-group"
    with pytest.raises(KeyError):
        grp.getgrnam(group)
    with daemon(tmp_path, RADIO0) as rig:
        write(rig, RADIO0 + file(tmp_path / "a.pcapng", f'file_group = "{group}"'))
        with pytest.raises(ControlError, match=group):
            rig.call("Reload")
        assert not list(tmp_path.glob("*.pcapng*"))
