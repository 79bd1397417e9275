"""What is to be taken away is there, and what only a rare process shows."""

from __future__ import annotations

import ast
import builtins
import json
import subprocess
import symtable
import sys

import pytest

from helperd.sandbox import processes
from tests.attack import mutate
from tests.attack.mutate import BROKEN, GREEN, MUTATIONS, RED, Mutation, Outcome
from tests.rig import ROOT

ALONE = """
import ctypes, os, platform, threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
print("ready", flush=True)
ctypes.CDLL(None).syscall({"x86_64": 60, "i686": 1, "armv7l": 1}.get(platform.machine(), 93), 0)  # this thread's end
"""


def test_every_step_that_is_taken_away_is_there():
    """A row whose text the code has no more would notice nothing."""
    missing = [
        row.name
        for row in MUTATIONS
        if row.old not in (ROOT / "helperd" / row.file).read_text(encoding="utf-8")
    ]
    assert not missing


def unknown(source: str) -> set[str]:
    """Names that a program uses and nobody has given it."""
    asked, given = set[str](), {*dir(builtins), "__file__", "__name__", "__doc__"}

    def look(table: symtable.SymbolTable) -> None:
        names = table.get_symbols()
        asked.update(each.get_name() for each in names if each.is_global() or table.get_type() == "module")
        given.update(each.get_name() for each in names if table.get_type() == "module" and each.is_assigned())
        given.update(each.get_name() for each in names if table.get_type() == "module" and each.is_imported())
        given.update(
            each.get_name() for each in names if table.get_type() == "module" and each.is_namespace()
        )
        for child in table.get_children():
            look(child)

    look(symtable.symtable(source, "mutated", "exec"))
    return asked - given


def test_what_is_left_is_a_program():
    """A row that takes away too little, or a name that is used elsewhere, is red by an error of its own."""
    for row in MUTATIONS:
        if row.file.endswith(".py"):
            source = (ROOT / "helperd" / row.file).read_text(encoding="utf-8")
            mutated = source.replace(row.old, row.new, 1)
            ast.parse(mutated, row.name)
            assert unknown(mutated) == set(), row.name


def line(**values: object) -> str:
    return json.dumps(values) + "\n"


@pytest.mark.parametrize(
    ("code", "out", "err", "wanted"),
    [
        (0, line(scene="x", wrong=[]), "", GREEN),
        (0, line(scene="x", wrong=["umask: 18 instead of 63"]), "", RED),
        (0, line(scene="x", succeeded=["end_of_a_file"]), "", RED),
        (0, line(scene="x", succeeded=[]), "", GREEN),
        (0, line(scene="x", wrong=["Traceback ..."], raised="AssertionError: it lives"), "", RED),
        (0, line(scene="x", wrong=["Traceback ..."], raised="EOFError: the launcher is gone"), "", RED),
        (0, line(scene="x", wrong=["Traceback ..."], raised="FileNotFoundError: x"), "", BROKEN),
        (
            0,
            line(scene="x", wrong=["no start: NameError: uid"], raised="AssertionError: no start"),
            "",
            BROKEN,
        ),
        (0, line(scene="x", wrong=["helperd-launcher: ImportError: stat"]), "", BROKEN),
        (0, line(skipped="no FUSE here"), "", BROKEN),
        (0, "", "", BROKEN),
        (1, "", "Traceback\nAssertionError: nothing to mutate in tending.py: 'x'", BROKEN),
        (1, line(scene="x", wrong=["a"]), "unshare failed", BROKEN),
    ],
)
def test_only_what_a_scene_has_noticed_is_red(code, out, err, wanted):
    assert mutate.of_scenes(code, out, err).kind == wanted


@pytest.mark.parametrize(
    ("code", "out", "wanted"),
    [
        (0, "1 passed", GREEN),
        (1, "E       assert 1 == 2\nFAILED a.py::b - assert 1 == 2", RED),
        (1, "E       AssertionError: they are here\nE       assert 1 == 2", RED),
        (1, "E   Failed: DID NOT RAISE <class 'OSError'>", RED),
        (1, "E   ExceptionGroup: nursery (1 sub-exception)\nE   | AssertionError: lost", RED),
        (1, "  | ExceptionGroup: 1\n    | Traceback\n      |     assert x\n      | KeyError: 'x'", BROKEN),
        (1, "  | ExceptionGroup: 1\n    | Traceback\n      |     f()\n      | AssertionError: lost", RED),
        (1, "E   trio.TooSlowError", RED),
        (1, "E   ModuleNotFoundError: No module named 'x'", BROKEN),
        (1, "E   SyntaxError: invalid syntax", BROKEN),
        (1, "E   NameError: name 'x' is not defined\nE   assert None", BROKEN),
        (1, "E   Failed: Timeout (>60.0s) from pytest-timeout.", BROKEN),
        (1, "E   KeyError: 'x'", BROKEN),
        (2, "E   AssertionError: while collecting", BROKEN),
        (4, "ERROR: file or directory not found", BROKEN),
        (5, "no tests ran", BROKEN),
        (-9, "", BROKEN),
    ],
)
def test_only_what_a_test_has_noticed_is_red(code, out, wanted):
    assert mutate.of_tests(code, out).kind == wanted


def test_an_error_that_a_step_keeps_back_is_noticed_where_the_row_says_so():
    out = "E   UnicodeEncodeError: 'ascii' codec can't encode"
    assert mutate.of_tests(1, out).kind == BROKEN
    assert mutate.of_tests(1, out, "UnicodeEncodeError").kind == RED


def test_what_hangs_has_noticed_nothing(monkeypatch):
    def hangs(argv, timeout, **_):
        raise subprocess.TimeoutExpired(argv, timeout)

    monkeypatch.setattr(subprocess, "run", hangs)
    for scenes in ("doors", mutate.EXACT, "tests/test_visible.py"):
        assert mutate.tried(Mutation("x", "", "", "", scenes)) == Outcome(BROKEN, "hung")


def test_a_text_that_is_not_there_is_told():
    assert mutate.tried(Mutation("x", "tending.py", "not there", "", "tests/test_visible.py")).kind == BROKEN


def test_who_has_lost_its_first_thread_alone_runs_on():
    with subprocess.Popen([sys.executable, "-c", ALONE], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            while (found := processes.row(child.pid)) is not None and found.state != "Z":
                pass
            assert found is not None
            assert not processes.never_runs(child.pid)
        finally:
            child.kill()
