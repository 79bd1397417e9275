"""``helperd check``: every mistake with its line, on the command line and as JSON."""

from __future__ import annotations

import json
import os
import pwd
import re
import socket
import sys
from pathlib import Path

import pytest

from helperd import cli
from helperd.cli import check
from helperd.cli.check import checked
from helperd.config import trust
from helperd.config.profile import Accounts
from helperd.errors import Code, ConfigRefused, RequestRefused

FIVE = """\
[helperd]
sockt_mode = "0660"
[[helper]]
name = "h"
command = ["/bin/true"]
types = ["t"]
capabilities = ["net_rw"]
[[source]]
definition = "x:type=t"
restart = "alwys"
[[source]]
definition = "x:type=t"
[[sink]]
path = "a.sock"
limit = 4.5
"""
GOOD = '[[helper]]\nname = "h"\ncommand = ["/usr/bin/true"]\ntypes = ["t"]\n[[source]]\ndefinition = "x:type=t"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "f.toml"


def test_five_mistakes_are_five_lines_and_a_count(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(FIVE)
    assert cli.main(["check", str(file)]) == Code.CONFIG
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert [line.split(":")[1] for line in lines[:-1]] == ["2", "7", "10", "11", "15"]
    assert [line.split(": ")[1] for line in lines[:-1]] == [
        "unknown-key",
        "bad-value",
        "bad-value",
        "duplicate-name",
        "bad-value",
    ]
    assert 'did you mean "socket_mode"?' in lines[0]
    assert 'did you mean "net_raw"?' in lines[1]
    assert lines[-1] == f"{file}: 5 mistakes"


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ('["builtin:jsonlines", "--", "/bin/echo", "{25}fb2dd58"]', "and {{ or }} for a brace"),
        ('["builtin:pipe", "--", "x~[a", "/bin/cat", "{x}"]', "not a regular expression"),
        ('["builtin:extcap", "--", "nonsense", "/bin/tool"]', "neither name~pattern nor"),
    ],
)
def test_the_words_of_an_adapter_are_checked(
    file: Path, capsys: pytest.CaptureFixture[str], command: str, text: str
) -> None:
    file.write_text(GOOD + f'[[helper]]\nname = "a"\ntypes = ["a"]\ncommand = {command}\n')
    assert cli.main(["check", str(file)]) == Code.CONFIG
    said = capsys.readouterr().err
    assert said.startswith(f"{file}:7: bad-value: ")
    assert text in said


def test_the_same_as_json(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(FIVE)
    assert cli.main(["check", "--json", str(file)]) == Code.CONFIG
    answer = json.loads(capsys.readouterr().out)
    assert answer["file"] == str(file)
    assert answer["ok"] is False
    assert [mistake["line"] for mistake in answer["mistakes"]] == [2, 7, 10, 11, 15]
    assert answer["mistakes"][2]["key"] == "source[1].restart"
    assert answer["warnings"] == []


def test_a_good_file_is_counted(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(GOOD)
    assert cli.main(["check", str(file)]) == 0
    out, err = capsys.readouterr()
    assert out == f"{file}: good: 1 helper, 1 source, 0 sinks\n"
    assert err == ""


def test_a_malformed_definition_is_a_mistake_of_its_line(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(GOOD + "[[source]]\nname = 's'\ndefinition = 'y:a=\"open'\n")
    with pytest.raises(ConfigRefused):
        checked(str(file))
    assert cli.main(["check", str(file)]) == Code.CONFIG
    err = capsys.readouterr().err
    assert f"{file}:7: bad-definition: " in err
    assert err.endswith("1 mistake\n")


def test_what_is_probably_not_meant_is_a_warning(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(
        '[[helper]]\nname = "gone"\ncommand = ["/nonexistent/x"]\n\n'
        '[[helper]]\nname = "data"\ncommand = ["/etc/passwd"]\n\n'
        '[[helper]]\nname = "weak"\ncommand = ["/usr/bin/true"]\nno_new_privs = false\nseal = 0\n'
    )
    assert cli.main(["check", str(file)]) == 0
    out, err = capsys.readouterr()
    assert "3 helpers" in out
    assert [line.split(": warning: ")[0].rpartition(":")[2] for line in err.splitlines()] == [
        "1",
        "5",
        "9",
        "9",
    ]
    assert "does not exist" in err
    assert "cannot be executed" in err
    assert "without filter and sandbox" in err
    assert "without a system call filter" in err
    assert cli.main(["check", "--json", str(file)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [doubt["key"] for doubt in answer["warnings"]] == [
        "helper[1].command",
        "helper[2].command",
        "helper[3].no_new_privs",
        "helper[3].seal",
    ]


def test_what_a_launcher_would_refuse_is_a_warning(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = file.parent
    for name in ("free", "own"):
        (folder / name).write_text("")
    (folder / "free").chmod(0o666)
    (folder / "own").chmod(0o600)
    file.write_text(
        f'[[helper]]\nname = "free"\ncommand = ["/bin/sh", "{folder}/free"]\n\n'
        f'[[helper]]\nname = "own"\ncommand = ["/bin/sh", "{folder}/own"]\n\n'
        '[[helper]]\nname = "group"\ncommand = ["/usr/bin/true"]\n'
    )
    assert cli.main(["check", str(file)]) == 0
    assert "free: " in (err := capsys.readouterr().err)
    assert " refuses it: " in err
    if os.geteuid():
        assert err.endswith("free can be written by others: chmod go-w it\n")
    file.write_text(file.read_text() + 'groups = ["no-such-group"]\n')
    assert cli.main(["check", str(file)]) == 0
    assert f"{file}:9: warning: this machine has no group 'no-such-group'" in capsys.readouterr().err


GIVES = """[helperd]
socket_group = "{0}"
admin_group = "{0}"
[[sink]]
type = "file"
path = "/tmp/x.pcapng"
file_group = "{0}"
"""


def test_a_group_that_a_start_would_refuse_is_a_mistake(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for group, text in (
        ("no-such-group", "this machine has no group"),
        ("root", "the group of root's own files"),
    ):
        file.write_text(GIVES.format(group))
        assert cli.main(["check", "--json", str(file)]) == Code.CONFIG
        mistakes = json.loads(capsys.readouterr().out)["mistakes"]
        assert [mistake["key"] for mistake in mistakes] == [
            "helperd.socket_group",
            "helperd.admin_group",
            "sink[1].file_group",
        ]
        assert [mistake["line"] for mistake in mistakes] == [2, 3, 4]
        assert all(text in mistake["text"] for mistake in mistakes)


def test_a_group_that_nothing_could_be_given_to_is_a_warning(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To this user's supervisor and that of helperd.service; one that root starts is in every group that is named."""

    def warned() -> list[tuple[str, str]]:
        assert cli.main(["check", "--json", str(file)]) == 0
        doubts = json.loads(capsys.readouterr().out)["warnings"]
        return [(doubt["key"], doubt["text"]) for doubt in doubts if doubt["problem"] == "not-permitted"]

    group = file.parent / "group"
    group.write_text("helperd:x:990:\nwith:x:991:other,keeper\nwithout:x:992:other\n")
    (file.parent / "passwd").write_text("keeper:x:990:990::/:\n")
    monkeypatch.setattr(check, "Accounts", lambda: Accounts(str(file.parent)))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getegid", lambda: 1000)
    monkeypatch.setattr(os, "getgroups", lambda: [991])
    monkeypatch.setattr(check, "_user_name", lambda: "me")
    file.write_text(GIVES.format("without"))
    text = "me is not in group 'without' and cannot give it anything: usermod -aG without me"
    assert warned() == [("helperd.socket_group", text), ("sink[1].file_group", text)]
    file.write_text(GIVES.format("with"))
    assert warned() == []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    file.write_text(GIVES.format("without"))
    assert warned() == []

    unit = file.parent / "helperd.service"
    monkeypatch.setattr(check, "SYSTEM_CONFIG", str(file))
    monkeypatch.setattr(check, "_UNITS", (str(unit),))
    assert warned() == []  # only root's `helperd run` is there
    unit.touch()
    file.write_text(GIVES.format("without").replace("[helperd]", '[helperd]\nuser = "keeper"'))
    text = "keeper is not in group 'without' and helperd.service cannot give it anything: usermod -aG without keeper"
    assert warned() == [("helperd.socket_group", text), ("sink[1].file_group", text)]
    for group_name in ("with", "helperd"):
        file.write_text(GIVES.format(group_name).replace("[helperd]", '[helperd]\nuser = "keeper"'))
        assert warned() == []


def test_a_folder_that_the_group_of_its_files_cannot_enter_is_a_warning(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, group = file.parent / "captures", max([os.getegid(), *os.getgroups()]) + 1
    folder.mkdir()
    for mode, gid, warned in ((0o750, group, True), (0o751, group, False), (0o750, os.getegid(), False)):
        folder.chmod(mode)
        file.write_text(f'[[sink]]\ntype = "file"\npath = "{folder}/x.pcapng"\nfile_group = "{gid}"\n')
        if not gid:  # root's own
            continue
        assert cli.main(["check", str(file)]) == 0
        said = capsys.readouterr().err
        assert (
            f"group '{gid}' may not enter {folder}: chgrp {gid} {folder}, or name a folder" in said
        ) == warned


@pytest.mark.need("root")
def test_as_root_it_warns_of_what_only_root_refuses(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    venv = file.parent / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "pyvenv.cfg").touch()
    (venv / "bin" / "python3").symlink_to(os.path.realpath(sys.executable))
    link = f"{venv}/bin/python3 is a symbolic link: make {venv} with python3 -m venv --copies"
    with pytest.raises(RequestRefused, match=link):
        trust.judge(f"{venv}/bin/python3", os.lstat(venv / "bin" / "python3"), root=True)
    with pytest.raises(RequestRefused, match="/tmp can be written by others: move what is used below it"):
        trust.judge("/tmp", os.stat("/tmp"), root=True)
    file.write_text(GOOD.replace("/usr/bin/true", f"{venv}/bin/python3"))
    assert cli.main(["check", str(file)]) == 0
    assert "warning: h: a launcher that is root refuses it: /" in capsys.readouterr().err


def test_a_place_for_files_that_is_not_there_is_a_warning(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sinks = [
        f'[[sink]]\ntype = "file"\npath = "{place}/x.pcapng"\n'
        for place in (f"{tmp_path}/made", str(tmp_path), "/sys/kernel/made", "/sys/kernel")
    ]
    user = pwd.getpwuid(os.geteuid() or 65534).pw_name
    os.chown(tmp_path, pwd.getpwnam(user).pw_uid, -1)
    file.write_text(f'[helperd]\nuser = "{user}"\n' + GOOD + "".join(sinks))
    assert cli.main(["check", str(file)]) == 0
    first, second = capsys.readouterr().err.splitlines()  # what can be made is made, and no matter
    cure = f"sudo install -d -o {user} -m 0751"
    assert first == f"{file}:15: warning: /sys/kernel/made does not exist: {cure} /sys/kernel/made"
    assert second == f"{file}:18: warning: {user} may not make files in /sys/kernel: {cure} /sys/kernel"


@pytest.mark.parametrize(
    ("place", "told"), [("/nowhere/helperd", True), ("{here}", False), ("{here}:/nowhere", True)]
)
def test_a_helper_that_would_not_find_helperd_is_a_warning(
    file: Path, capsys: pytest.CaptureFixture[str], place: str, told: bool
) -> None:
    here = Path(__file__).resolve().parents[2]
    value = place.format(here=here)
    file.write_text(GOOD.replace("types =", f'env = {{ PYTHONPATH = "{value}" }}\ntypes =', 1))
    assert cli.main(["check", str(file)]) == 0
    err = capsys.readouterr().err
    assert told == ("which does not exist" in err)
    assert not told or f"this helperd is in {here}" in err


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ('path = "x.pcapng"', "path of files must be absolute"),
        ('path = "/a/%Y/x.pcapng"', "in its last part only"),
        ('path = "/a/%Q.pcapng"', "has %Q, which is none of %Y"),
        ('path = "/a/%"', "has %, which is none of"),
        ('path = "/a/' + "x" * 250 + '"', "has a name of 250 bytes"),
        ('path = "/a/x"\nkeep = 3', "keep needs a limit for each file"),
        ('path = "/a/x"\nformat = "frames"', "format of files is"),
        ('path = "/a/x"\noverflow = "disconnect"', "nobody to disconnect"),
        ("sources = []", 'a sink of type "file" needs "path"'),
    ],
)
def test_what_files_cannot_be_is_a_mistake(file: Path, lines: str, says: str) -> None:
    file.write_text(f'{GOOD}[[sink]]\ntype = "file"\n{lines}\n')
    with pytest.raises(ConfigRefused) as caught:
        checked(str(file))
    (mistake,) = caught.value.mistakes
    assert says in str(mistake)


def test_keys_of_files_mean_nothing_to_sockets(file: Path) -> None:
    file.write_text(f'{GOOD}[[sink]]\npath = "x.sock"\nkeep = 3\n')
    with pytest.raises(ConfigRefused) as caught:
        checked(str(file))
    assert 'keep is for files; write type = "file"' in str(caught.value)


def test_without_a_file_it_checks_what_run_would_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check"]) == 0
    assert "helpers.toml: good: 2 helpers, 2 sources" in capsys.readouterr().out


def test_a_missing_file_is_one_mistake(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", str(file)]) == Code.CONFIG
    assert f"{file}: no-config: " in capsys.readouterr().err


BUILTIN = """
[[helper]]
name = "synthetic"
command = ["builtin:synthetic"]
types = ["synthetic"]
[[helper]]
name = "feed"
command = ["builtin:pipe", "--", "/usr/bin/true", "--device={device}"]
types = ["feed"]
[[helper]]
name = "foreign"
command = ["/usr/bin/true"]
types = ["foreign"]
"""


@pytest.mark.parametrize(
    ("definition", "says"),
    [
        ("radio0:type=synthetic,rte=5", "synthetic has no option 'rte'; did you mean rate?"),
        ("radio0:type=Synthetic,rte=5", "synthetic has no option 'rte'; did you mean rate?"),
        ("x:type=feed,devise=/dev/x", "feed has no option 'devise'; did you mean device?"),
        ("radio0:type=synthetic,rate=5,channel=6,name=x", ""),
        ("x:type=feed,device=/dev/x", ""),
        ("x:type=foreign,anything=5", ""),  # only the program can tell
    ],
)
def test_an_option_that_the_helper_does_not_know_is_a_mistake(file: Path, definition: str, says: str) -> None:
    file.write_text(f'{BUILTIN}[[source]]\nname = "s"\ndefinition = "{definition}"\n')
    if not says:
        assert checked(str(file)).sources[0].definition == definition
        return
    with pytest.raises(ConfigRefused) as caught:
        checked(str(file))
    (mistake,) = caught.value.mistakes
    assert mistake.line == BUILTIN.count("\n") + 1
    assert says in str(mistake)


def told(file: Path, capsys: pytest.CaptureFixture[str], *lines: str) -> str:
    """What check says of a sink of these lines, in a configuration that is good otherwise."""
    file.write_text(GOOD + "[[sink]]\n" + "".join(f"{line}\n" for line in lines))
    assert cli.main(["check", str(file)]) == 0
    return capsys.readouterr().err


def test_a_socket_that_cannot_be_made_is_a_warning(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert told(file, capsys, f'path = "{tmp_path}/x.sock"') == ""
    assert "does not exist; make it" in told(file, capsys, f'path = "{tmp_path}/none/x.sock"')
    assert "exists and is not a socket" in told(file, capsys, f'path = "{tmp_path}/file"')
    assert "a unix socket path takes 107" in told(
        file, capsys, f'path = "{"x" * 100}"'
    )  # below the runtime directory
    path = f"{tmp_path}/taken.sock"
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(path)
        assert told(file, capsys, f'path = "{path}"') == "", "nobody listens: a daemon replaces it"
        taken.listen()
        assert f"a process already listens at {path}" in told(file, capsys, f'path = "{path}"')
    os.unlink(path)


def test_an_address_that_cannot_be_had_is_a_warning(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(file, capsys, 'type = "tcp"', 'listen = "tcp:127.0.0.1:0"') == ""
    assert "port 80 needs a privilege" in told(file, capsys, 'type = "tcp"', 'listen = "tcp:127.0.0.1:80"')
    other = told(file, capsys, 'type = "tcp"', 'listen = "tcp:192.0.2.1:5000"', "exposed = true")
    assert "cannot listen at tcp:192.0.2.1:5000: Cannot assign requested address" in other
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"tcp:127.0.0.1:{port} is taken" in told(
            file, capsys, 'type = "tcp"', f'listen = "tcp:127.0.0.1:{port}"'
        )


def test_a_runtime_directory_too_long_for_its_sockets_is_a_warning(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "a-source-with-a-rather-long-name"
    source = f'[[source]]\nname = "{name}"\ndefinition = "x:type=t"\n'
    file.write_text(f'[helperd]\nruntime_dir = "/tmp/{"d" * 60}"\n{GOOD}{source}')
    assert cli.main(["check", str(file)]) == 0
    assert "choose a shorter runtime_dir" in capsys.readouterr().err


def test_what_does_not_fit_the_pool_of_uids_is_told_with_one_that_does(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def doubts() -> list[str]:
        assert cli.main(["check", "--json", str(file)]) == 0
        found = json.loads(capsys.readouterr().out)["warnings"]
        return [doubt["text"] for doubt in found if doubt["key"] == "helperd.uid_pool"]

    own = '[[helper]]\nname = "own"\ncommand = ["builtin:synthetic"]\ntypes = ["own"]\n'
    others = own.replace("own", "others") + 'uid = "shared"\n'
    service = '[[service]]\nname = "service{}"\ncommand = ["/bin/true"]\n'
    source = '[[source]]\nname = "{0}{1}"\ndefinition = "{0}{1}:type={0}"\n'
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    fits = own + others + "".join(source.format("own", number) for number in range(222))
    fits += "".join(source.format("others", number) for number in range(99))
    fits += service.format(1) + service.format(2) + service.format(3) + 'user = "nobody"\n'
    file.write_text(fits)
    assert doubts() == []
    one_more = fits + source.format("own", 222)
    shared = "".join(others.replace('"others"', f'"others{number}"') for number in range(40))
    for text, said in (
        (
            one_more,
            "223 sources and 2 services need a uid each, 1 helper one that is shared; the pool has 224 and 32",
        ),
        (
            fits + shared,
            "222 sources and 2 services need a uid each, 41 helpers one that is shared; the pool has 224",
        ),
    ):
        file.write_text(text)
        (doubt,) = doubts()
        assert doubt.startswith(said)
        key = re.search(r'uid_pool = "\d+-\d+"', doubt)
        assert key
        file.write_text(f"[helperd]\n{key[0]}\n{text}")
        assert doubts() == []
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    file.write_text(one_more)
    assert doubts() == [], "without root a helper has its user's uid"
