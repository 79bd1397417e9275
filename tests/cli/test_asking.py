"""The commands that ask a running daemon, against a fake one on a real socket."""

from __future__ import annotations

import io
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helperd.cli import main
from helperd.control.peer import Admins
from tests.control.fake import FakeDaemon, TunableDaemon, served_in_thread, source
from tests.patience import HANGS_S

Run = Callable[..., int]


@pytest.fixture
def daemon(rundir: Path) -> Iterator[FakeDaemon]:
    fake = TunableDaemon()
    ended = {"kind": "accident", "problem": "exited", "text": "the helper exited with code 3"}
    fake.sources["bad"] = source("bad", state="backoff", exit=ended, next_try_s=2.0, stderr=["oh\033[2J"])
    fake.post("hello")
    fake.post("bye", who="bad", severity="error")
    with served_in_thread(rundir, fake):
        yield fake


@pytest.fixture
def run(rundir: Path) -> Run:
    return lambda *words: main([*words, "--runtime-dir", str(rundir)])


def test_status_shows_one_line_per_source(
    daemon: FakeDaemon, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("status") == 0
    out = capsys.readouterr().out.splitlines()
    assert "2 of 3 sources running" in out[0]
    assert out[2].split()[:2] == ["radio0", "running"]
    assert out[4].endswith("exited; retry in 2.0s: code 3: oh\\x1b[2J")
    assert "all.sock" in out[-1]
    assert "\033" not in "".join(out)


def test_status_of_one_source_has_its_details(
    daemon: FakeDaemon, run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.sources["bad"]["vitals"] = {"cpu_percent": None, "fds": 7}
    whole = daemon.snapshot
    service = {"name": "exporter", "state": "running"}
    monkeypatch.setattr(daemon, "snapshot", lambda: whole() | {"services": [service]})
    assert run("status", "bad") == 0
    out = capsys.readouterr().out
    assert "vitals:        fds 7\n" in out
    assert "exporter" not in out
    assert "definition:    bad:type=synthetic" in out
    assert "lost:          3 (partial-frame 3)" in out
    assert "not asked for: no-consumer 7" in out
    assert r"  oh\x1b[2J" in out
    assert "all.sock" not in out


def test_status_for_scripts_is_what_the_daemon_said(
    daemon: FakeDaemon, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("status", "--json") == 0
    status = json.loads(capsys.readouterr().out)
    assert status["sources"] == list(daemon.sources.values())
    assert status["consumers"][0]["sink"] == "all.sock"


def test_an_unknown_source_is_a_usage_error_with_the_nearest_name(
    daemon: FakeDaemon, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("status", "radio1") == 64
    assert capsys.readouterr().err == (
        "helperd: unknown-source: no source is named 'radio1'; did you mean 'radio0'?\n"
    )


@pytest.mark.parametrize(
    "words", [("status",), ("stop", "x"), ("messages",), ("reload",), ("tap", "--all"), ("hop", "x")]
)
def test_without_a_daemon_every_command_says_so(
    rundir: Path, run: Run, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    more = ("-w", str(rundir / "x.pcapng")) if words[0] == "tap" else ()
    assert run(*words, *more) == 69
    err = capsys.readouterr().err
    assert err.startswith(f"helperd: no-daemon: {rundir}/control.sock: no daemon listens there")
    assert "helperd run" in err


def test_a_session_of_orders(daemon: FakeDaemon, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (("stop", "radio0", "beacons"), "radio0: down\nbeacons: down\n"),
        (("start", "radio0"), "radio0: running, channel 6\n"),
        (("pause", "radio0"), "radio0: running, paused, channel 6\n"),
        (("resume", "radio0"), "radio0: running, channel 6\n"),
        (("restart", "bad"), "bad: running, channel 6\n"),
        (("channel", "radio0", "11"), "radio0: running, channel 11\n"),
        (("hop", "radio0", "1", "6", "--rate", "3"), "radio0: running, channel 1,6@3.0\n"),
        (("start", "new:type=synthetic"), "new: running, channel 6\n"),
        (("reload",), "restarted: radio0\nunchanged: 1 source\n"),
    ):
        assert run(*words) == 0
        assert capsys.readouterr().out == said
    assert [verb for _, verb in daemon.orders] == [
        *["stop", "stop", "start", "pause", "resume", "restart", "start"]
    ]


def test_a_source_that_refuses_does_not_keep_the_others_from_theirs(
    daemon: FakeDaemon, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("stop", "nobody", "radio0", "--json") == 64
    said = capsys.readouterr()
    assert "unknown-source" in said.err
    assert [row["name"] for row in json.loads(said.out)["sources"]] == ["radio0"]
    assert run("channel", "radio0", "99") == 1
    assert "not-supported" in capsys.readouterr().err


def test_who_may_not_change_is_told_who_may(
    rundir: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with served_in_thread(rundir, admin=Admins(frozenset(), "wheel", 4242)):
        assert run("status") == 0
        assert run("stop", "radio0") == 77
        assert "members of the group 'wheel'" in capsys.readouterr().err


def test_messages_are_lines_or_json_lines(
    daemon: FakeDaemon, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("messages") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[20:] for line in lines] == ["info    radio0: hello", "error   bad: bye"]
    assert run("messages", "bad", "--json") == 0
    assert json.loads(capsys.readouterr().out)["text"] == "bye"
    assert run("messages", "--since", "2") == 0
    assert capsys.readouterr() == ("", "no messages\n")


class Heard(io.StringIO):
    """What a command in another thread prints, line by line; pytest's own capture may only be read when it rests."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: queue.Queue[str] = queue.Queue()

    def write(self, text: str) -> int:
        for line in filter(None, text.splitlines()):
            self.lines.put(line)
        return len(text)


def test_messages_are_followed_until_the_daemon_ends(
    rundir: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes: list[int] = []
    heard = Heard()
    monkeypatch.setattr(sys, "stdout", heard)
    fake = FakeDaemon()
    fake.post("before")
    with served_in_thread(rundir, fake):
        thread = threading.Thread(target=lambda: codes.append(run("messages", "-f")))
        thread.start()
        assert heard.lines.get(timeout=5).split(": ")[1] == "before"
        fake.run_sync(lambda: fake.post("after"))
        assert heard.lines.get(timeout=5).split(": ")[1] == "after"
    thread.join(HANGS_S)
    assert codes == [69]
    assert heard.lines.empty()


def test_wait_returns_when_the_source_runs(daemon: FakeDaemon, run: Run) -> None:
    assert run("wait", "--running", "radio0", "beacons") == 0
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(run("wait", "--running", "bad", "--timeout", "5s")))
    thread.start()
    time.sleep(0.1)
    assert not codes
    daemon.run_sync(lambda: daemon.change("bad", state="running"))
    thread.join(HANGS_S)
    assert codes == [0]


def test_wait_gives_up_with_the_reason(
    daemon: FakeDaemon, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("wait", "--running", "bad", "--timeout", "50ms") == 1
    assert capsys.readouterr().err == ("helperd: bad is backoff: exited; retry in 2.0s: code 3: oh\\x1b[2J\n")
    daemon.run_sync(lambda: daemon.change("bad", state="failed"))
    assert run("wait", "--running", "bad", "--timeout", "1h") == 1
    assert "bad is failed" in capsys.readouterr().err
    assert run("wait", "--stopped", "bad") == 0


def test_wait_refuses_at_once_a_name_that_no_source_has(
    daemon: FakeDaemon, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for goal in ("--running", "--stopped"):
        assert run("wait", goal, "radio00", "--timeout", "1h") == 64
        said = capsys.readouterr().err
        assert said == "helperd: unknown-source: no source is named 'radio00'; did you mean 'radio0'?\n"


def test_wait_waits_for_a_daemon_that_has_no_source_yet(
    rundir: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = TunableDaemon()
    fake.sources.clear()
    with served_in_thread(rundir, fake):
        assert run("wait", "--running", "radio0", "--timeout", "50ms") == 64
        assert "there are: none" in capsys.readouterr().err


def test_wait_waits_for_the_daemon_too(rundir: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("wait", "--running", "radio0", "--timeout", "100ms") == 69
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(run("wait", "--running", "radio0")))
    thread.start()
    with served_in_thread(rundir):
        thread.join(HANGS_S)
    assert codes == [0]


def test_list_and_probe_ask_the_daemon_when_there_is_one(
    daemon: FakeDaemon, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("list") == 0
    assert "radio0:type=synthetic" in capsys.readouterr().out
    assert run("probe", "x:type=synthetic") == 0
    assert daemon.questions == 2


@pytest.mark.parametrize(
    "words",
    [
        ("wait",),
        ("wait", "--running", "--timeout", "soon"),
        ("tap", "x", "-b", "files:soon"),
        ("hop", "x", "--rate", "fast"),
    ],
)
def test_a_wrong_command_line_is_a_usage_error(run: Run, words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*words)
    assert caught.value.code == 64


def test_status_at_a_terminal_is_as_wide_as_the_terminal(daemon: FakeDaemon, rundir: Path) -> None:
    import pty
    import subprocess
    import sys

    ours, theirs = pty.openpty()
    try:
        os.set_blocking(ours, True)
        env = os.environ | {"COLUMNS": "72", "TERM": "xterm"}
        env.pop("NO_COLOR", None)
        argv = [sys.executable, "-m", "helperd.cli", "status", "--runtime-dir", str(rundir)]
        with subprocess.Popen(argv, stdout=theirs, env=env) as process:
            assert process.wait(HANGS_S) == 0
        text = os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert "\033[32mrunning" in text
    import re

    lines = re.sub("\033\\[[0-9;]*m", "", text).splitlines()
    assert max(map(len, lines)) <= 72
