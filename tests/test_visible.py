"""What people see of what others say: every command, a terminal or not, with a helper that says the worst."""

from __future__ import annotations

import ast
import io
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helperd import logs, pcapng, table
from helperd.extcap.words import plain
from helperd.helpers import sdk
from helperd.printing import say, say_json, write
from helperd.visible import visible
from tests import hostile
from tests.cli.test_top import top
from tests.control.fake import FakeDaemon, served_in_thread, source
from tests.hostile import CODES, PAYLOAD, blocks, raw
from tests.patience import HANGS_S
from tests.rig import HELPERD, ROOT, Rig, daemon

SOURCES = "".join(
    f'[[source]]\nname = "{name}"\ndefinition = "{name}:type=hostile"\n'
    for name in ("runs", "refused", "dies")
)


@given(st.text())
def test_a_text_becomes_one_printable_line_and_stays_it(text: str) -> None:
    shown = visible(text)
    assert shown.isprintable()
    assert visible(shown) == shown
    assert shown == text or not text.isprintable()


def test_what_each_becomes() -> None:
    assert visible("a\033[2Jb\nc\u202ed\u2028\x85\udc80") == r"a\x1b[2Jb\nc\u202ed\u2028\x85\udc80"
    assert visible(None) == ""
    assert visible(7) == "7"
    assert visible("Büro 2 \N{SNOWMAN}") == "Büro 2 \N{SNOWMAN}"
    for code in CODES.values():
        assert not visible(code).count(code)


def test_a_terminal_without_a_letter_gets_its_escape() -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="")
    say("caf\xe9", "\x1b", file=file, flush=True)
    write("\u2603\t1\n", file, flush=True)
    assert file.buffer.getvalue() == b"caf\\xe9\n\\x1b\n\\u2603\t1\n"  # type: ignore[attr-defined]


def test_json_stays_json(capsys: pytest.CaptureFixture[str]) -> None:
    for value in (PAYLOAD, {PAYLOAD: [PAYLOAD]}):
        say_json(value)
        say_json(value, 2)
        one, more = capsys.readouterr().out.split("\n", 1)
        assert json.loads(one) == json.loads(more) == value
        assert (one + more).replace("\n", "").isprintable()


def printing(path: Path) -> list[str]:
    """Where a module prints by itself."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        words = ast.unparse(node.func)
        if words == "print" or words.endswith(
            ("stdout.write", "stderr.write", "stdout.buffer.write", "excepthook")
        ):
            found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    return found


def test_nothing_else_prints() -> None:
    """The launcher loads little, and prints twice before it has its log; a count is drawn over itself."""
    found = [place for path in sorted((ROOT / "helperd").rglob("*.py")) for place in printing(path)]
    assert [place.rpartition(":")[0] for place in found] == ["helperd/launch.py", "helperd/privsep.py"]
    assert [path.name for path in (ROOT / "helperd").rglob("*.py") if "_out.write(" in path.read_text()] == [
        "counter.py"
    ]


# a real daemon, a real helper


@pytest.fixture
def rig(rundir: Path) -> Iterator[Rig]:
    with daemon(rundir, hostile.config(str(ROOT)) + SOURCES) as rig:
        rig.wait(
            lambda status: (
                status["sources"][0]["state"] == "running"
                and status["sources"][1]["exit"] is not None
                and status["sources"][2]["restarts"] > 0
            )
        )
        yield rig


def told(words: list[str], env: dict[str, str] | None = None, *, worst: bool = True) -> str:
    """All that a command prints; and that it has met the worst, unless that is looked at by the caller."""
    argv = [*HELPERD, *words]
    done = subprocess.run(
        argv, capture_output=True, check=False, timeout=HANGS_S, cwd=ROOT, env={**os.environ, **(env or {})}
    )
    shown = done.stdout.decode("utf-8", "surrogateescape") + done.stderr.decode("utf-8", "surrogateescape")
    assert "EVIL" in shown or not worst, shown
    return shown


ASKED = [
    ("status",),
    ("status", "runs"),
    ("status", "refused"),
    ("messages",),
    ("messages", "refused"),
    ("list", "--fresh"),
    ("probe", "yes:type=hostile"),
    ("probe", "no:type=hostile"),
    ("start", "refused:type=hostile,name=again"),
    ("start", "other:type=hostile,name=other"),
    ("channel", "runs", "6"),
    ("restart", "runs"),
    ("wait", "--running", "refused", "--timeout", "1s"),
    ("stop", "EVIL" + PAYLOAD.replace("\0", "")),
    ("tap", "-w", "/dev/null", PAYLOAD),
]


def test_every_command_and_the_log_show_it_as_escapes(rig: Rig) -> None:
    where = f"--runtime-dir={rig.runtime}"
    for words in ASKED:
        shown = ""
        while "EVIL" not in shown:
            rig.wait_running("runs")  # an order before this one may have begun it again
            shown = told([words[0], where, *words[1:]], worst=words[0] != "channel")
            assert raw(shown) == [], words  # a channel is an order for later when it does not run just then
    for words in ASKED[:6]:
        shown = told([words[0], where, "--json", *words[1:]])
        assert raw(shown) == [], words
        rows = shown.splitlines() if words[0] == "messages" else [shown]
        assert any(PAYLOAD in text for row in rows for text in texts_in(json.loads(row))), words
    shown = (rig.runtime / "log").read_text()
    assert "EVIL" in shown
    assert all(line.isprintable() for line in shown.splitlines())


def texts_in(value: Any) -> Iterator[str]:
    """Every text of a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from texts_in(each)


def test_the_log_on_a_terminal_and_the_table_below_it(tmp_path: Path, rundir: Path) -> None:
    file = tmp_path / "helpers.toml"
    file.write_text(hostile.config(str(ROOT)) + SOURCES)
    with top(
        rundir, "-c", str(file), command="run", env={"HELPERD_UNPRIVILEGED": "1", "NO_COLOR": "1"}
    ) as terminal:
        terminal.until("EVIL")
        terminal.until("stderr: EVIL")
        terminal.process.terminate()
        assert terminal.leave() == 0
        assert raw(terminal.seen) == []


@pytest.mark.parametrize("definition", ["runs", "refused", "dies"])
def test_capture_and_what_it_writes(tmp_path: Path, definition: str) -> None:
    file, out = tmp_path / "helpers.toml", tmp_path / "out.pcapng"
    file.write_text(hostile.config(str(ROOT)))
    words = ["capture", f"--config={file}", f"{definition}:type=hostile", "-w", str(out), "-a", "packets:2"]
    done = subprocess.run([*HELPERD, *words], capture_output=True, check=False, timeout=HANGS_S, cwd=ROOT)
    shown = done.stderr.decode("utf-8", "surrogateescape")
    assert raw(shown) == []
    if definition == "refused":
        assert "EVIL" in shown
        return
    texts = [text for block in blocks(out.read_bytes()) for text in texts_of(*block)]
    assert sum("EVIL" in text for text in texts) >= 5
    assert [text for text in texts if not text.isprintable()] == []


def texts_of(kind: int, body: bytes) -> Iterator[str]:
    """The texts among a block's options: comments, names, hardware."""
    head = {0x0A0D0D0A: 16, 1: 8, 5: 12}.get(kind)
    if kind == 6:
        (captured,) = struct.unpack_from("<I", body, 12)
        head = 20 + (captured + 3 & ~3)
    numbers = {1: {1, 2, 3, 12, 15}, 0x0A0D0D0A: {1, 2, 3, 4}}.get(kind, {1})
    assert head is not None
    while head + 4 <= len(body):
        code, size = struct.unpack_from("<HH", body, head)
        if code in numbers:
            yield body[head + 4 : head + 4 + size].decode()
        head += 4 + (size + 3 & ~3)


# what no helper of ours could say, but another daemon


EVERYTHING = {
    **dict.fromkeys(("definition", "helper", "reason", "hardware", "channel", "generation", "uuid"), PAYLOAD),
    "state": "failed",
    "verdict": PAYLOAD,
    "why": PAYLOAD,
    "rung": PAYLOAD,
    "stderr": [PAYLOAD],
    "channels": [PAYLOAD],
    "hop_channels": [PAYLOAD],
    "lost": {PAYLOAD: 3},
    "vitals": {PAYLOAD: PAYLOAD},
    "changed": {PAYLOAD: 1},
    "exit": {"problem": PAYLOAD, "text": PAYLOAD, "kind": "accident"},
}


@pytest.fixture
def liar(rundir: Path) -> Iterator[FakeDaemon]:
    """A daemon whose every text is the worst."""
    pretended = FakeDaemon()
    pretended.sources = {
        "bad": source(PAYLOAD, **EVERYTHING),
        "odd": source(
            PAYLOAD,
            **EVERYTHING,
        ),
    }
    pretended.sources["odd"] |= {"name": "odd", "state": "running", "verdict": "ok"}
    pretended.post(PAYLOAD, PAYLOAD, PAYLOAD)
    with served_in_thread(rundir, pretended):
        yield pretended


TOLD = [
    ("status",),
    ("status", "odd"),
    ("messages",),
    ("wait", "--running", "odd", PAYLOAD, "--timeout", "1s"),
]


@pytest.mark.parametrize("words", TOLD, ids=lambda words: " ".join(words)[:10])
def test_a_daemon_that_lies(liar: FakeDaemon, rundir: Path, words: tuple[str, ...]) -> None:
    assert raw(told([words[0], f"--runtime-dir={rundir}", *words[1:]])) == []


def test_top_draws_escapes(liar: FakeDaemon, rundir: Path) -> None:
    with top(rundir, term="xterm-256color") as terminal:
        terminal.until("q quit")
        seen = terminal.seen
        for key, text in (("\r", "definition:"), ("\rc", "CONSUMER"), ("q", "")):
            terminal.type(key)
            terminal.until(text)
            seen += terminal.seen
        terminal.leave()
    assert "EVIL" in seen
    ours = {"clears the screen"}  # curses does that itself
    assert set(raw(seen)) <= ours
    assert "\\x1b[2J" in seen


def test_check_doctor_and_a_wrong_command_line(tmp_path: Path) -> None:
    file = tmp_path / "helpers.toml"
    text = json.dumps(PAYLOAD)
    file.write_text(
        f"[[helper]]\nname = {text}\n{text} = 1\n[[source]]\ndefinition = {text}\n".replace("\x7f", "\\u007f")
    )
    where = f"--runtime-dir={tmp_path}"
    for words in (
        ["check", str(file)],
        ["doctor", "-c", str(file), where],
        ["run", "-c", str(file), where],
        ["capture", f"--config={file}", "x:type=y", "-w", "/dev/null"],
        ["status", f"--runtime-dir=/none/{PAYLOAD}"],
        ["status", "--EVIL\x1b[2J\u202e"],
        [PAYLOAD],
    ):
        assert raw(told(words)) == [], words


def test_what_the_launcher_says_of_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "helpers.toml"
    path.write_text('[[helper]]\nname = "x"\n"\\u001b[2J\\u009b31m\\u202e" = 1\n')
    code = "import sys; from helperd.privsep import main; sys.exit(main(sys.argv[1:]))"
    argv = [sys.executable, "-c", code, f"--config={path}", "--unprivileged"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=HANGS_S)
    assert done.returncode == 78
    assert "unknown-key" in done.stderr
    assert hostile.raw(done.stderr) == []


def test_the_list_of_a_helper_run_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    sdk._tell(hostile.Hostile(), "list")
    said = capsys.readouterr().out
    assert "EVIL" in said
    assert hostile.raw(said) == []


def test_what_wireshark_is_told_and_what_a_recording_keeps() -> None:
    said = plain(hostile.PAYLOAD)
    assert "EVIL" in said
    assert hostile.raw(said) == []
    kept = pcapng.interface_block(1, filter=hostile.PAYLOAD, name=hostile.PAYLOAD, hardware=hostile.PAYLOAD)
    shown = kept.decode("latin-1")
    assert shown.count("EVIL") == 3
    assert hostile.raw(shown) == []
    assert hostile.CODES["turns the direction round"].encode() not in kept


def test_each_field_of_a_line_of_the_log() -> None:
    evil = hostile.PAYLOAD.replace("\x85", "").replace("\u2028", "")  # these end a row of a traceback
    fields = {"source": evil, "problem": evil, "traceback": evil}
    line = logs.Line(datetime.now(tz=UTC), "error", evil, fields)
    rows = logs.as_text(line).decode().split("\n")
    assert "\n".join(rows).count("EVIL") == 4
    assert hostile.raw("\n".join(row.removeprefix("    ") for row in rows)) in ([], ["forges a line"])
    assert not any(row.startswith(hostile.FORGED) for row in rows)
    for some in (fields, {"x": 1}):
        record = logs.as_journal(logs.Line(line.at, "error", hostile.PAYLOAD, some))
        (message,) = (row for row in record.split(b"\n") if row.startswith(b"MESSAGE="))
        assert hostile.raw(message.decode()) == []
        assert b"EVIL" in message


def test_each_cell_of_the_table() -> None:
    evil = hostile.PAYLOAD
    source = dict.fromkeys(("name", "state", "verdict", "channel", "hardware", "definition", "text"), evil)
    consumer = {
        "id": evil,
        "sink": evil,
        "lost": 3,
        "lost_by": {evil: 3},
        "comm": evil,
        "uid": evil,
        "pid": evil,
    }
    trouble = dict.fromkeys(("source", "state", "problem", "text"), evil)
    gone = {"lost": {evil: 3}, "left": {"lost": {evil: 3}}}
    service = {"name": evil, "state": "running", "stderr": [evil], "exit": {"text": evil}}
    sinks = [{"path": evil, "problem": evil, "text": evil, "name": evil, "type": evil}]
    for state in (evil, "running", "backoff"):
        snapshot = {
            "sources": [source | {"state": state}], "consumers": [consumer], "services": [service | {"state": state}],
            "sinks": sinks, "version": evil, "health": evil,
            "troubles": [trouble], "gone": gone,
        }  # fmt: skip
        rows = [*table.render(snapshot, 20_000), table.summary(snapshot)]
        assert hostile.raw("\n".join(rows)) == []
        assert "\n".join(rows).count("EVIL") >= 16


@pytest.mark.parametrize("indent", [None, 2])
def test_json_for_programs_is_read_on_terminals_too(
    indent: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    say_json({hostile.PAYLOAD: hostile.PAYLOAD}, indent=indent)
    said = capsys.readouterr().out
    assert hostile.raw(said) == []
    assert json.loads(said) == {hostile.PAYLOAD: hostile.PAYLOAD}
