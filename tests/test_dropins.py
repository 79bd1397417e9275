"""Drop-ins: one configuration in several files, and helpers that are offered while their program is there."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from helperd import config
from helperd.cli import defaults
from helperd.config.profile import Accounts, compile_profiles
from helperd.errors import ConfigRefused
from tests.patience import HANGS_S
from tests.rig import HELPERD, ROOT

OFFERED = ROOT / "config" / "helpers.d"
INSTALLED = ROOT / "packaging" / "helpers.toml"
Write = Callable[..., str]


def helper(name: str, program: str = "/bin/true", *more: str) -> str:
    lines = ["[[helper]]", f'name = "{name}"', f'command = ["{program}"]', f'types = ["{name}"]', *more]
    return "\n".join(lines) + "\n"


OFFER = 'when = "present"'


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes files, by name; returns the main one's path."""

    def files(main: str, **others: str) -> str:
        for name, text in others.items():
            folder, _, file = name.partition("__")
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / f"{file}.toml").write_text(text)
        (tmp_path / "helpers.toml").write_text('[helperd]\ninclude = ["site", "packages"]\n' + main)
        (tmp_path / "site").mkdir(exist_ok=True)
        (tmp_path / "packages").mkdir(exist_ok=True)
        return str(tmp_path / "helpers.toml")

    return files


def names(path: str) -> list[str]:
    return [spec.name for spec in config.load(path).helpers]


def mistakes(path: str) -> list[tuple[str, int, str]]:
    with pytest.raises(ConfigRefused) as caught:
        config.load(path)
    return [(os.path.basename(m.file), m.line, m.text) for m in caught.value.mistakes]


def test_files_count_in_the_order_of_directories_and_names(write: Write) -> None:
    path = write(
        helper("main"),
        packages__a=helper("a"),
        site__z=helper("z"),
        site__b=helper("b"),
        packages__z=helper("hidden"),
    )
    assert names(path) == ["main", "b", "z", "a"], "packages/z.toml is hidden by site/z.toml"
    assert [os.path.basename(file) for file in config.load(path).files] == [
        "helpers.toml",
        "b.toml",
        "z.toml",
        "a.toml",
    ]


def test_what_is_no_drop_in_is_not_read(write: Write, tmp_path: Path) -> None:
    path = write("empty = true\n")
    for name in ("notes.txt", ".hidden.toml", "x.toml.dpkg-old", "x.toml~"):
        (tmp_path / "site" / name).write_text("nonsense")
    assert names(path) == []


def test_every_table_may_stand_in_a_drop_in_and_name_what_stands_elsewhere(write: Write) -> None:
    path = write(
        helper("h"),
        site__a='[[source]]\ndefinition = "x:type=h"\n[[allow]]\nuid = 7\nhelpers = ["h"]\n',
        site__b='[helperd]\nlog_level = "debug"\n[[sink]]\npath = "y.sock"\nsources = ["x"]\n',
    )
    settings = config.load(path)
    assert settings.helperd.log_level == "debug"
    assert settings.sources[0].helper == "h"
    assert settings.sinks[0].sources == ("x",)
    assert settings.allow[0].helpers == ("h",)


def test_only_the_installed_configuration_has_drop_ins_by_itself(write: Write, tmp_path: Path) -> None:
    (tmp_path / "helpers.toml").write_text(helper("h"))
    assert config.load(str(tmp_path / "helpers.toml")).files == (str(tmp_path / "helpers.toml"),)
    assert config.INSTALLED == defaults.SYSTEM_CONFIG
    main = config.check.Document("", config.INSTALLED)
    assert {os.path.dirname(file) for file in config.drop_ins(main)} <= set(config.DROP_INS)
    none = config.check.Document("[helperd]\ninclude = []\n", config.INSTALLED)
    assert config.drop_ins(none) == []


@pytest.mark.parametrize(
    ("site", "wanted"),
    [
        ("[helperd\n", ("a.toml", 1, "not valid TOML")),
        ("[[helper]]\n", ("a.toml", 1, 'needs "name"')),
        ("\n[[source]]\nx = 1\ndefinition='y'", ("a.toml", 3, 'no key "x"')),
        ('[[source]]\ndefinition = "x:type=none"', ("a.toml", 2, 'no helper serves type "none"')),
        (helper("main"), ("a.toml", 2, "already in {}/helpers.toml, line 4")),
        (helper("b") + helper("b"), ("a.toml", 6, "already on line 2")),
        ('[helperd]\nlog_level = "info"', ("a.toml", 2, "log_level already in {}/helpers.toml, line 8")),
        ('[helperd]\ninclude = ["x"]', ("a.toml", 2, "include belongs to the main file")),
        ('[[allow]]\nuid = 1\nhelpers = ["maim"]', ("a.toml", 3, 'did you mean "main"?')),
        ('[[sink]]\npath = "x"\nsources = ["s"]', ("a.toml", 3, 'no source is called "s"')),
    ],
)
def test_a_mistake_names_its_own_file_and_line(
    write: Write, tmp_path: Path, site: str, wanted: tuple[str, int, str]
) -> None:
    path = write(helper("main") + '[[source]]\ndefinition = "q:type=main"\n', site__a=site)
    text = Path(path).read_text().replace("[helperd]\n", '[helperd]\nlog_level = "debug"\n')
    Path(path).write_text(text)
    file, line, said = wanted
    said = said.format(tmp_path).replace("line 8", "line 2").replace("line 4", "line 5")
    found = [row for row in mistakes(path) if row[0] == file]
    assert [(row[0], row[1]) for row in found if said in row[2]][:1] == [(file, line)], found


def test_mistakes_of_all_files_are_told_at_once(write: Write) -> None:
    path = write("x = 1\n", site__b="y = 1\n", site__a="z = 1\n", packages__c=helper("c") + "nonsense = 1\n")
    assert [(file, line) for file, line, _ in mistakes(path)] == [
        ("helpers.toml", 3), ("a.toml", 1), ("b.toml", 1), ("c.toml", 5)
    ]  # fmt: skip


def test_a_directory_that_is_named_has_to_be_there(tmp_path: Path) -> None:
    path = tmp_path / "helpers.toml"
    path.write_text('[helperd]\ninclude = ["nowhere"]\n')
    assert mistakes(str(path)) == [
        ("helpers.toml", 2, f"include: {tmp_path}/nowhere: No such file or directory")
    ]


# offers


def test_an_offer_counts_while_its_program_is_there(write: Write, tmp_path: Path) -> None:
    path = write("", packages__a=helper("a", f"{tmp_path}/tool", OFFER) + helper("b"))
    assert [(spec.name, spec.present) for spec in config.load(path).helpers] == [("a", False), ("b", True)]
    (tmp_path / "tool").write_text("")
    assert [(spec.name, spec.present) for spec in config.load(path).helpers] == [("a", True), ("b", True)]


@pytest.mark.parametrize("adapter", ["pipe", "jsonlines", "extcap"])
def test_of_an_adapter_the_program_behind_it_counts(write: Write, adapter: str) -> None:
    text = helper("a", f'builtin:{adapter}", "--", "/nonexistent/tool', OFFER)
    assert [spec.present for spec in config.load(write(text)).helpers] == [False]
    assert [
        spec.present for spec in config.load(write(text.replace("/nonexistent/tool", "/bin/true"))).helpers
    ] == [True]


@pytest.mark.parametrize("site", [helper("a", "/bin/false"), helper("a", "/bin/false", OFFER)])
def test_an_offer_gives_way_to_a_block_of_its_name(write: Write, site: str) -> None:
    offer = helper("a", "/bin/true", OFFER)
    (found,) = config.load(write("", site__x=site, packages__y=offer)).helpers
    assert found.command == ("/bin/false",)
    (found,) = config.load(write(site, site__x="# none", packages__y=offer)).helpers
    assert found.command == ("/bin/false",)


def test_a_type_is_served_by_the_first_that_is_there(write: Write) -> None:
    absent = helper("a", "/nonexistent", OFFER).replace('["a"]', '["t"]')
    source = '[[source]]\ndefinition = "x:type=t"\n'
    both = config.load(write(source, packages__a=absent, packages__b=helper("b").replace('["b"]', '["t"]')))
    assert both.sources[0].helper == "b"
    assert config.load(write(source, packages__a=absent, packages__b="# none")).sources[0].helper == "a", (
        "to wait for it"
    )


def test_numbers_do_not_depend_on_what_is_installed(write: Write, tmp_path: Path) -> None:
    """The launcher and its clients read at different times: a number must mean the same to both."""
    path = write("", packages__a=helper("a", f"{tmp_path}/tool", OFFER) + helper("b"))
    before = config.load(path)
    (tmp_path / "tool").write_text("")
    assert before.profile("b") == config.load(path).profile("b") == 2


def test_groups_that_a_machine_lacks_are_left_out_of_an_offer(write: Write) -> None:
    groups = 'groups = ["root", "nosuchgroup"]'
    settings = config.load(write("", packages__a=helper("a", "/bin/true", OFFER, groups)))
    (profile,) = compile_profiles(settings, Accounts(), "/x", "")
    assert profile.groups == (0,)
    settings = config.load(write("", packages__a=helper("a", "/bin/true", groups)))
    with pytest.raises(ConfigRefused, match="no group 'nosuchgroup'") as caught:
        compile_profiles(settings, Accounts(), "/x", "")
    assert caught.value.mistakes[0].file.endswith("packages/a.toml")


# what is shipped


def check(*words: str) -> subprocess.CompletedProcess[str]:
    argv = [*HELPERD, "check", *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=HANGS_S)


def test_the_installed_configuration_offers_interface_to_the_group_and_captures_nothing() -> None:
    settings = config.load(str(INSTALLED))
    assert [(spec.name, spec.builtin, spec.capabilities) for spec in settings.helpers] == [
        ("interface", "interface", ("net_raw",))
    ]
    assert [(rule.group, rule.helpers) for rule in settings.allow] == [("helperd", ("interface",))]
    assert not settings.sources
    assert (settings.helperd.socket_group, settings.helperd.admin_group) == ("helperd-read", None)
    users = (ROOT / "packaging" / "helperd.sysusers").read_text().splitlines()
    assert {"g helperd-read -", "m helperd helperd-read"} < set(users)


def test_what_is_shipped_is_good_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "helpers.toml"
    include = f'include = ["{OFFERED}"]'  # in the place of a group that this machine need not have
    path.write_text(INSTALLED.read_text().replace('socket_group = "helperd-read"', include))
    done = check("--json", str(path))
    assert done.returncode == 0, done.stdout
    files = json.loads(done.stdout)["files"]
    assert files == [str(path), *sorted(str(file) for file in OFFERED.glob("*.toml"))]
    settings = config.load(str(path))
    assert all(spec.when == "present" for spec in settings.helpers if spec.name != "interface")
    assert {"linuxwifi", "rtl_433", "tcpdump", "sshdump"} <= {spec.name for spec in settings.helpers}


def test_check_says_how_much_it_has_read_and_what_is_there(write: Write) -> None:
    path = write(
        helper("h"),
        site__s="# none",
        packages__p=helper("a", "/nonexistent", OFFER) + helper("b", "/bin/sh", OFFER),
    )
    done = check(path)
    assert done.stdout == (
        f"{path}: good: 1 helper, 0 sources, 0 sinks; with 2 drop-ins; of 2 offered helpers are present: b\n"
    )
    assert "/nonexistent" not in done.stderr, "an offer that is not there is no doubt"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (helper("x", 'builtin:pipe", "--", "rel'), "s.toml:1: bad-value"),
        ('[[source]]\ndefinition = "x:type=h,nosuch=1"\n', "s.toml:1: bad-definition"),
        ('[helperd]\nlog_lebel = "info"\n', "s.toml:2: unknown-key"),
    ],
)
def test_check_names_the_file_of_whatever_it_finds(write: Write, text: str, said: str) -> None:
    done = check(write(helper("h", "/bin/true", 'options = ["rate"]'), site__s=text))
    assert (done.returncode, said in done.stderr) == (78, True), done.stderr
