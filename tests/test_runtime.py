from __future__ import annotations

import os
import pwd
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from helperd import runtime
from helperd.errors import HelperdError, UnavailableError
from helperd.runtime import claim_runtime_dir, default_runtime_dir, find_runtime_dir, leave_runtime_dir


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(runtime, "TEMPORARY", str(tmp_path / "tmp"))
    monkeypatch.setattr(runtime, "SESSIONS", str(tmp_path / "user"))
    monkeypatch.setattr(
        pwd, "getpwuid", lambda uid: SimpleNamespace(pw_dir=str(tmp_path / "homes" / str(uid)))
    )
    monkeypatch.setattr(runtime, "MAX_HOME", 200)
    monkeypatch.setattr(runtime, "SYSTEM_DIR", str(tmp_path / "system"))
    (tmp_path / "tmp").mkdir()
    return monkeypatch


def bound(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def test_the_unit_decides_first(plain: pytest.MonkeyPatch) -> None:
    plain.setenv("RUNTIME_DIRECTORY", "/run/one:/run/two")
    assert default_runtime_dir() == "/run/one"


def test_root_uses_the_system_directory(plain: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain.setattr(os, "geteuid", lambda: 0)
    plain.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert default_runtime_dir() == find_runtime_dir() == str(tmp_path / "system")


@pytest.mark.need("root")
def test_a_user_has_a_session_directory_or_else_one_at_home(
    plain: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each place that is missing, or is somebody else's, or can be written by others, is passed over."""
    plain.setattr(os, "geteuid", lambda: 1234)
    plain.setenv("TMPDIR", str(tmp_path))  # another for each process: a client would look elsewhere
    assert default_runtime_dir() == str(tmp_path / "tmp" / "helperd-1234")
    places = {
        tmp_path / "homes" / "1234": tmp_path / "homes" / "1234" / ".helperd",
        tmp_path / "user" / "1234": tmp_path / "user" / "1234" / "helperd",
        tmp_path / "session": tmp_path / "session" / "helperd",
    }
    plain.setenv("XDG_RUNTIME_DIR", str(tmp_path / "session"))
    before = default_runtime_dir()
    for place, expected in places.items():
        place.mkdir(parents=True, mode=0o755)
        assert default_runtime_dir() == before, "root's"
        os.chown(place, 1234, 1234)
        for mode in (0o777, 0o1777, 0o775):
            place.chmod(mode)
            assert default_runtime_dir() == before, oct(mode)
        place.chmod(0o711)
        assert default_runtime_dir() == str(expected)
        before = str(expected)
    plain.setattr(runtime, "MAX_HOME", 5)
    plain.delenv("XDG_RUNTIME_DIR")
    os.chown(tmp_path / "user" / "1234", 4321, 4321)
    assert default_runtime_dir() == str(tmp_path / "tmp" / "helperd-1234"), (
        "paths of sockets would be too long"
    )


def test_a_user_finds_the_own_daemon_then_the_systems(plain: pytest.MonkeyPatch, tmp_path: Path) -> None:
    user = os.geteuid() or 1234
    plain.setattr(os, "geteuid", lambda: user)
    own = tmp_path / "tmp" / f"helperd-{user}"
    assert find_runtime_dir() == str(own)
    bound(tmp_path / "system" / "control.sock")
    assert find_runtime_dir() == str(tmp_path / "system")
    bound(own / "control.sock")
    assert find_runtime_dir() == str(own)
    assert find_runtime_dir("/elsewhere") == "/elsewhere"
    for path in tmp_path.rglob("*.sock"):
        path.unlink()


@pytest.mark.need("root")
def test_a_directory_that_somebody_else_made_is_not_believed(
    plain: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain.setattr(os, "geteuid", lambda: 1234)
    own = tmp_path / "tmp" / "helperd-1234"
    bound(own / "control.sock")
    os.chown(own, 4321, 4321)
    with pytest.raises(UnavailableError, match="belongs to uid 4321"):
        find_runtime_dir()
    bound(tmp_path / "system" / "control.sock")
    assert find_runtime_dir() == str(tmp_path / "system"), "and takes nobody's daemon away"
    (own / "control.sock").unlink()
    os.rmdir(own)
    os.symlink(tmp_path / "system", own)
    os.lchown(own, 4321, 4321)
    assert find_runtime_dir() == str(tmp_path / "system")
    (tmp_path / "system" / "control.sock").unlink()
    with pytest.raises(UnavailableError, match="link made by uid 4321"):
        find_runtime_dir()
    with pytest.raises(HelperdError, match="uid 4321"):
        claim_runtime_dir(str(own))


def test_claiming_makes_the_directory_and_accepts_it_again(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        claim_runtime_dir(str(tmp_path / "run"))
    finally:
        os.umask(old)
    assert claim_runtime_dir(str(tmp_path / "run")) == []
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "run" / "sources").is_dir()


def test_leaving_removes_what_was_made_and_nothing_else(tmp_path: Path) -> None:
    leave_runtime_dir(claim_runtime_dir(str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    leave_runtime_dir(claim_runtime_dir(str(tmp_path / "run")))
    assert list((tmp_path / "run").iterdir()) == []
    made = claim_runtime_dir(str(tmp_path / "run"))
    assert made == [str(tmp_path / "run" / "sources")]
    (tmp_path / "run" / "sources" / "another").touch()
    leave_runtime_dir(made)
    assert (tmp_path / "run" / "sources" / "another").exists()


@pytest.mark.need("root")
def test_what_another_users_run_has_left_is_refused_with_a_cure(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    os.chown(tmp_path / "run", 4321, 4321)
    with pytest.raises(
        HelperdError, match="belongs to uid 4321: if another user's helperd has left it behind, remove it"
    ):
        claim_runtime_dir(str(tmp_path / "run"))


def test_a_directory_that_cannot_be_is_refused_with_a_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in ("missing/run", "file", "file/run"):
        with pytest.raises(HelperdError, match="--runtime-dir") as caught:
            claim_runtime_dir(str(tmp_path / path))
        assert caught.value.problem == "no-runtime-dir"


def test_a_directory_that_everybody_can_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o777)
    with pytest.raises(HelperdError, match="everybody") as caught:
        claim_runtime_dir(str(tmp_path / "run"))
    assert caught.value.problem == "unsafe-file"


@pytest.mark.need("root")
def test_a_link_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "real")
    os.lchown(tmp_path / "run", 4321, 4321)
    with pytest.raises(HelperdError, match="link made by uid 4321"):
        claim_runtime_dir(str(tmp_path / "run"))
