"""How it ended: each row of the decision, and which row wins."""

from __future__ import annotations

import errno
import signal

import pytest

from helperd.errors import (
    PROBLEMS,
    HelperdError,
    HelperExited,
    LauncherGone,
    LaunchFailed,
    LocalProtocolError,
    OpenRefused,
    PeerTimedOut,
    RemoteProtocolError,
    UsageError,
)
from helperd.lifecycle import Ending, Exit, Why, classify


def ends(**known) -> tuple[str, str]:
    found = classify(Ending(**known))
    assert found.problem in PROBLEMS or found.problem in {"done", "asked"}
    assert found.text
    return found.kind.value, found.problem


@pytest.mark.parametrize(
    ("known", "problem", "text"),
    [
        (
            {"said": "no radio", "said_problem": "device-gone", "how": "exited", "code": 1},
            "device-gone",
            "no radio",
        ),
        ({"said": "no radio", "how": "exited", "code": 1}, "exited", "no radio"),
        ({"said": "no radio", "shutdown": "bye", "how": "exited", "code": 0}, "exited", "no radio"),
        ({"said": "no radio", "how": "exited", "code": 0, "status_meaningful": True}, "exited", "no radio"),
        (
            {"said": "no radio", "error": HelperExited("exited", "x"), "how": "exited", "code": 1},
            "exited",
            "no radio",
        ),
        ({"said": "", "how": "exited", "code": 2}, "exited", "the helper said that it failed, not why"),
        ({"said": "no radio", "how": "signal", "code": 6}, "killed", "by SIGABRT; it had said: no radio"),
        (
            {"error": OpenRefused("device-gone", "no radio"), "how": "exited", "code": 0},
            "device-gone",
            "no radio",
        ),
    ],
)
def test_what_the_helper_itself_says_is_the_reason(known, problem, text):
    found = classify(Ending(**known))
    assert found.problem == problem
    assert text in found.text
    assert found.kind is (Why.REFUSAL if "error" in known and "said" not in known else Why.ACCIDENT)


def test_the_words():
    assert [why.value for why in Why] == [
        "asked",
        "config",
        "accident",
        "refusal",
        "input",
        "wrong-generation",
        "done",
    ]


@pytest.mark.parametrize(
    ("known", "kind", "problem"),
    [
        ({"asked": "stop"}, "asked", "asked"),
        ({"error": LaunchFailed("not-installed", "x")}, "config", "not-installed"),
        ({"error": LaunchFailed("no-capability", "x")}, "config", "no-capability"),
        ({"error": LaunchFailed("unsafe-file", "x")}, "config", "unsafe-file"),
        ({"error": LaunchFailed("no-resources", "x")}, "accident", "no-resources"),
        ({"error": LaunchFailed("launcher-busy", "x")}, "accident", "launcher-busy"),
        ({"error": LaunchFailed("busy", "x")}, "accident", "busy"),
        ({"error": LaunchFailed("timed-out", "x")}, "accident", "timed-out"),
        ({"error": LaunchFailed("bug", "x")}, "accident", "bug"),
        ({"error": LauncherGone("launcher-gone", "x")}, "accident", "launcher-gone"),
        ({"how": "exec-failed", "code": errno.ENOENT}, "config", "not-installed"),
        ({"how": "exec-failed", "code": errno.ENOTDIR}, "config", "not-installed"),
        ({"how": "exec-failed", "code": errno.ELOOP}, "config", "not-installed"),
        ({"how": "exec-failed", "code": errno.EACCES}, "config", "not-permitted"),
        ({"how": "exec-failed", "code": errno.EPERM}, "config", "not-permitted"),
        ({"how": "exec-failed", "code": errno.ENOEXEC}, "config", "exec-failed"),
        ({"how": "exec-failed", "code": None}, "config", "exec-failed"),
        ({"how": "exec-failed", "code": errno.EMFILE}, "accident", "no-resources"),
        ({"how": "exec-failed", "code": errno.ENFILE}, "accident", "no-resources"),
        ({"how": "exec-failed", "code": errno.EAGAIN}, "accident", "no-resources"),
        ({"how": "exec-failed", "code": errno.ENOMEM}, "accident", "no-resources"),
        ({"how": "exec-failed", "code": errno.ENOSPC}, "accident", "no-resources"),
        ({"how": "unverified", "code": 4}, "config", "privilege-mismatch"),
        ({"how": "exited", "code": 127}, "config", "not-installed"),
        ({"error": UsageError("unknown-helper", "x")}, "config", "unknown-helper"),
        ({"error": UsageError("bad-definition", "x")}, "config", "bad-definition"),
        ({"error": HelperdError("not-supported", "x")}, "config", "not-supported"),
        ({"error": HelperdError("not-installed", "x")}, "config", "not-installed"),
        ({"error": HelperdError("no-capability", "x")}, "config", "no-capability"),
        ({"error": HelperdError("not-permitted", "x")}, "config", "not-permitted"),
        (
            {"error": HelperdError("not-permitted", "x"), "how": "exited", "code": 1},
            "accident",
            "not-permitted",
        ),
        ({"error": HelperdError("probe-refused", "x")}, "refusal", "probe-refused"),
        (
            {"error": OpenRefused("open-refused", "no such device"), "how": "exited", "code": 1},
            "refusal",
            "open-refused",
        ),
        ({"hung": "keepalive"}, "accident", "keepalive"),
        ({"hung": "stopped", "how": "signal", "code": 9}, "accident", "stopped"),
        ({"error": PeerTimedOut("timed-out", "x")}, "accident", "timed-out"),
        ({"error": RemoteProtocolError("frame-too-long", "x")}, "accident", "frame-too-long"),
        (
            {"error": RemoteProtocolError("partial-frame", "x"), "how": "exited", "code": 0},
            "accident",
            "partial-frame",
        ),
        ({"error": LocalProtocolError("bug", "x")}, "accident", "bug"),
        ({"error": ZeroDivisionError("x")}, "accident", "bug"),
        ({"how": "signal", "code": 11}, "accident", "killed"),
        ({"how": "signal", "code": 9, "oom": True}, "accident", "out-of-memory"),
        ({"how": "signal", "code": 15, "climbed": True}, "accident", "exited"),
        ({"shutdown": "end of file", "how": "exited", "code": 1}, "done", "done"),
        ({"how": "exited", "code": 0, "status_meaningful": True}, "done", "done"),
        ({"how": "exited", "code": 0}, "accident", "exited"),
        ({"how": "exited", "code": 1, "status_meaningful": True}, "accident", "exited"),
        ({}, "accident", "exited"),
        ({"error": HelperExited("exited", "x"), "how": "exited", "code": 3}, "accident", "exited"),
    ],
)
def test_each_end(known, kind, problem):
    assert ends(**known) == (kind, problem)


def test_the_first_hit_wins():
    assert ends(asked="stop", how="exited", code=127, hung="silent", oom=True) == ("asked", "asked")
    assert ends(how="exited", code=127, greeted=False, v0_allowed=True)[0] == "config"
    assert ends(how="exec-failed", code=errno.ENOENT, hung="timed-out")[0] == "config"
    assert ends(error=OpenRefused("open-refused", "no"), hung="keepalive")[0] == "refusal"
    assert ends(error=RemoteProtocolError("bad-checksum", "x"), hung="silent")[1] == "silent"
    assert ends(error=RemoteProtocolError("bad-checksum", "x"), how="signal", code=9)[1] == "bad-checksum"
    assert ends(error=ValueError(), shutdown="bye")[1] == "bug"
    assert ends(oom=True, shutdown="bye")[1] == "out-of-memory"
    assert ends(how="signal", code=9, shutdown="bye")[1] == "killed"


def test_another_generation_is_told_from_the_first_bytes():
    word = "wrong-generation"
    error = RemoteProtocolError(word, "x")
    assert ends(error=error, greeted=False, v0_allowed=True) == (word, word)
    assert ends(error=error, greeted=True, v0_allowed=True) == ("accident", word)
    assert ends(error=error, greeted=False, v0_allowed=False) == ("accident", word)


@pytest.mark.parametrize("word", ["bad-version", "bad-signature"])
def test_what_no_v0_helper_would_say_is_not_tried_in_v0(word):
    error = RemoteProtocolError(word, "x")
    assert ends(error=error, greeted=False, v0_allowed=True) == ("accident", word)


def test_a_v0_helper_exits_at_a_v2_ping_and_is_tried_in_v0():
    wrong = ("wrong-generation", "wrong-generation")
    known = {"how": "exited", "code": 1, "greeted": False, "v0_allowed": True}
    assert ends(**known) == wrong
    assert ends(**known, error=HelperExited("exited", "x")) == wrong
    assert ends(**known, error=ValueError()) == ("accident", "bug")
    assert ends(**known, error=RemoteProtocolError("frame-too-long", "x")) == ("accident", "frame-too-long")
    assert ends(**known, hung="timed-out") == ("accident", "timed-out")
    assert ends(**{**known, "how": "signal", "code": 9}) == ("accident", "killed")
    assert ends(**{**known, "v0_allowed": False}) == ("accident", "exited")


def test_a_frame_cut_by_a_death_is_a_death():
    cut = RemoteProtocolError("partial-frame", "x")
    assert ends(error=cut, how="signal", code=9) == ("accident", "killed")
    assert ends(error=cut, how="signal", code=9, climbed=True) == ("accident", "partial-frame")


def test_the_wait_status_is_told_with_every_kind():
    assert classify(Ending(asked="stop", how="exited", code=3)) == Exit(
        Why.ASKED, "asked", "ended by order: stop", code=3
    )
    killed = classify(Ending(how="signal", code=signal.SIGSEGV, core=True))
    assert (killed.code, killed.signal, killed.core) == (None, 11, True)
    assert killed.text == "the helper was ended by SIGSEGV and left a core file"
    assert classify(Ending(how="signal", code=200)).text == "the helper was ended by signal 200"
    assert classify(Ending(how="signal", code=None)).text == "the helper was ended by signal None"
    assert classify(Ending(how="signal", code=9)).text == "the helper was ended by SIGKILL"
    failed = classify(Ending(how="exec-failed", code=2))
    assert (failed.code, failed.signal) == (None, None)
    assert failed.text.startswith("the program could not be executed: the loader or interpreter")
    assert "ELOOP; check the helper's command" in classify(Ending(how="exec-failed", code=errno.ELOOP)).text
    assert "errno 9999" in classify(Ending(how="exec-failed", code=9999)).text
    short = classify(Ending(how="exec-failed", code=errno.EMFILE))
    assert short.text == "the program could not be executed: EMFILE"
    differs = classify(Ending(how="unverified", code=4))
    assert differs.text == "the started process differs from its profile (field 4) and was ended"


@pytest.mark.parametrize(
    ("known", "soon"),
    [
        ({"error": LaunchFailed("not-installed", "x", soon=True)}, True),
        ({"error": LaunchFailed("unsafe-file", "x", soon=True)}, True),
        ({"error": LaunchFailed("no-capability", "x")}, False),
        ({"how": "exec-failed", "code": errno.ENOENT}, True),
        ({"how": "exec-failed", "code": errno.ETXTBSY}, True),
        ({"how": "exec-failed", "code": errno.EACCES}, True),
        ({"how": "exited", "code": 127}, True),
        ({"how": "unverified", "code": 4}, False),
        ({"error": UsageError("unknown-helper", "x")}, False),
        ({"how": "exited", "code": 1}, False),
    ],
)
def test_what_lies_in_the_files_of_a_program_may_be_better_in_a_second(known, soon):
    assert classify(Ending(**known)).soon is soon


def test_the_sentences_carry_what_was_said():
    assert classify(Ending(error=OpenRefused("open-refused", "no such device"))).text == "no such device"
    assert classify(Ending(error=LaunchFailed("not-installed", "no /x"))).text == "no /x"
    assert classify(Ending(error=UsageError("unknown-helper", "no helper h"))).text == "no helper h"
    wire = classify(
        Ending(error=RemoteProtocolError("bad-signature", "not a frame", at=7, excerpt=b"\x01\x02"))
    )
    assert wire.text == "not a frame (at byte 7) [01 02]"
    assert classify(Ending(error=KeyError("k"))).text == "KeyError: 'k'"
    assert classify(Ending(hung="keepalive", hung_text="nothing for 3 s")).text == "nothing for 3 s"
    assert classify(Ending(hung="keepalive")).text == "judged keepalive"
    assert classify(Ending(shutdown="end of file")).text == "the helper said it is done: end of file"
    assert classify(Ending(shutdown="")).text == "the helper said it is done"
    assert (
        classify(Ending(how="exited", code=0, status_meaningful=True)).text == "the helper exited with code 0"
    )
    assert classify(Ending(how="exited", code=3)).text == "the helper exited with code 3"
    assert classify(Ending()).text == "the helper closed its output"
    missing = classify(Ending(how="exited", code=127))
    assert missing.text == "the helper exited with code 127: a program it needs is not installed"
    assert classify(Ending(oom=True)).text == "the kernel ended the helper for lack of memory"
    wrong = classify(Ending(greeted=False, v0_allowed=True, how="exited", code=1))
    assert wrong.text == "no answer to the v2 PING; trying wire generation v0"


def test_nothing_is_assumed():
    assert Ending() == Ending(
        asked="",
        error=None,
        hung="",
        hung_text="",
        how="",
        code=None,
        core=False,
        climbed=False,
        oom=False,
        greeted=True,
        v0_allowed=False,
        shutdown=None,
        status_meaningful=False,
    )


@pytest.mark.parametrize(
    ("known", "kind"),
    [
        ({"said": "it is cut", "said_problem": "bad-capture", "how": "exited", "code": 1}, "input"),
        ({"error": OpenRefused("bad-capture", "it is empty"), "how": "exited", "code": 0}, "input"),
        ({"said": "it is cut", "said_problem": "bad-capture", "asked": "stop"}, "asked"),
        ({"said": "it is cut", "said_problem": "bad-capture", "how": "signal", "code": 9}, "accident"),
        ({"said": "no zstd", "said_problem": "not-installed", "how": "exited", "code": 1}, "accident"),
        ({"shutdown": "end of the file", "how": "exited", "code": 0}, "done"),
    ],
)
def test_a_damaged_file_is_the_fault_of_the_input(known, kind):
    assert classify(Ending(**known, replay=True)).kind == kind
    assert classify(Ending(**known)).kind != "input"


def test_a_helper_that_never_read_its_greeting_is_not_greeted_in_another_generation():
    known = {"how": "exited", "code": 1, "greeted": False, "v0_allowed": True}
    assert ends(**known)[0] == "wrong-generation"
    assert ends(**known, unread=True) == ("accident", "exited")
    assert ends(**known, unread=True, error=HelperExited("exited", "x")) == ("accident", "exited")
    text = classify(Ending(**known, unread=True)).text
    assert text == "the helper exited with code 1 before it had read its greeting"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOEXEC, "it has no #! line, or is not a program for this machine"),
        (errno.ENOENT, "loader or interpreter"),
    ],
)
def test_what_cannot_be_executed_is_told_in_words(number, words):
    assert words in classify(Ending(how="exec-failed", code=number)).text
