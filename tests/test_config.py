"""The configuration room: every key declared once, every mistake of a file with its line, nothing else raised."""

from __future__ import annotations

import dataclasses
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from helperd import config
from helperd.config import check, keys, lines, sinks, sources, specs, values
from helperd.config.whole import KEYS
from helperd.errors import PROBLEMS, Code, ConfigError, ConfigRefused

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "config" / "helpers.toml"
SPECS = {
    "helperd": specs.DaemonSpec,
    "helper": specs.HelperSpec,
    "source": sources.SourceSpec,
    "sink": sinks.SinkSpec,
    "allow": specs.AllowSpec,
    "service": specs.ServiceSpec,
}
WHERE = {"file", "line", "places", "present"}  # where an entry stands, and what was found when it was read
HELPER = '[[helper]]\nname = "h"\ncommand = ["/bin/true"]\ntypes = ["t"]\n'


def refused(text: str) -> list[tuple[int, str, str, str]]:
    """Return the mistakes of a text as (line, problem, key, sentence)."""
    with pytest.raises(ConfigRefused) as caught:
        config.parse(text, "f.toml")
    assert caught.value.exit_code == Code.CONFIG
    assert all(mistake.file == "f.toml" for mistake in caught.value.mistakes)
    return [(mistake.line, mistake.problem, mistake.key, mistake.text) for mistake in caught.value.mistakes]


def only(text: str) -> tuple[int, str, str, str]:
    found = refused(text)
    assert len(found) == 1, found
    return found[0]


# --- the table ----------------------------------------------------------------------------------------------


def test_each_key_is_declared_once_and_each_spec_has_exactly_its_keys() -> None:
    pairs = [(key.table, key.name) for key in KEYS]
    assert len(pairs) == len(set(pairs))
    for table, spec in SPECS.items():
        assert set(keys.keys_of(table, KEYS)) == {field.name for field in dataclasses.fields(spec)} - WHERE
    assert {key.table for key in KEYS} == {table.name for table in config.TABLES} == set(SPECS)


def test_each_default_is_a_value_that_could_be_written_and_equals_the_specs_own_default() -> None:
    for key in KEYS:
        field = SPECS[key.table].__dataclass_fields__[key.name]
        if key.default is None:
            continue
        parsed = key.kind.parse(list(key.default) if isinstance(key.default, tuple) else key.default)
        assert field.default == parsed, f"{key.table}.{key.name}"


def test_each_key_has_a_sentence_for_people() -> None:
    for key in KEYS:
        assert key.meaning.endswith("."), key
        assert key.required or key.default is not None or key.otherwise or key.table == "allow", key
    for table in config.TABLES:
        assert table.meaning.endswith(".")


def test_the_capabilities_are_the_kernels() -> None:
    assert config.CAPABILITIES["net_admin"] == 12
    assert config.CAPABILITIES["net_raw"] == 13
    assert config.CAPABILITIES["checkpoint_restore"] == 40
    header = Path("/usr/include/linux/capability.h")
    if header.exists():
        found = re.findall(r"#define CAP_([A-Z_]+)\s+(\d+)", header.read_text())
        kernel = {name.lower(): int(number) for name, number in found}
        assert config.CAPABILITIES.items() >= kernel.items() or config.CAPABILITIES.items() <= kernel.items()


# --- good files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "\n\n", "# all of it was lost\n", "[helperd]\n", '[helperd]\nsocket_mode = "0666"\n']
)
def test_an_empty_file_is_refused_unless_it_says_that_it_means_it(text: str) -> None:
    with pytest.raises(ConfigRefused, match="empty = true"):
        config.parse(text, "f")
    head = "" if "[helperd]" in text else "[helperd]\n"
    assert config.parse(f"{text}{head}empty = true\n", "f").helperd.empty
    assert config.parse(f"{text}{HELPER}", "f").helpers


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_drop_in_is_a_ruin_and_one_with_a_comment_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "helpers.toml").write_text(f'[helperd]\ninclude = ["d"]\n{HELPER}')
    (tmp_path / "d" / "a.toml").write_text(text)
    with pytest.raises(ConfigRefused, match=r"d/a\.toml: no-config: is empty"):
        config.load(str(tmp_path / "helpers.toml"))
    (tmp_path / "d" / "a.toml").write_text("# it is meant to be\n")
    assert config.load(str(tmp_path / "helpers.toml")).helpers


@pytest.mark.parametrize("kind", ["fifo", "device", "socket", "huge"])
def test_what_is_no_file_of_a_size_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    """Nobody writes into the FIFO: who opened it the usual way would wait for ever."""
    main, other = tmp_path / "helpers.toml", tmp_path / "d" / "a.toml"
    other.parent.mkdir()
    path = tmp_path / "thing"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)
    main.symlink_to(path)
    with pytest.raises(ConfigRefused, match="no-config"):
        config.load(str(main))
    main.unlink()
    main.write_text(f'[helperd]\ninclude = ["d"]\n{HELPER}')
    other.symlink_to(path)
    with pytest.raises(ConfigRefused, match=r"a\.toml: no-config"):
        config.load(str(main))
    path.unlink()


def test_every_key_arrives_in_its_spec() -> None:
    text = """
[helperd]
user = "u"
group = "100"
runtime_dir = "/run/x"
socket_mode = "0666"
socket_group = "g"
admin_group = "adm"
clients_per_user = 7
implicit_sinks = false
log_format = "json"
include = ["site"]
empty = true
log_level = "debug"
uid_pool = "70000-70099"
[[helper]]
name = "h"
command = ["/bin/x", "--one", "two words"]
types = ["A", "b", "a"]
capabilities = ["net_raw", "net_admin"]
groups = ["dialout"]
uid = 60900
privilege = "suid"
no_new_privs = false
seal = 0
env = { B = "2", A = "1" }
limits = { nofile = 64, as = "256MiB" }
devices = ["/dev/ttyUSB0"]
private_tmp = false
wire = "v0"
verify = false
obeys_shutdown = true
status_meaningful = true
needs_child = 1
on_child_gone = "alert"
term_grace = "250ms"
keepalive = "2s"
greet_timeout = "20s"
list_timeout = "1m"
probe_timeout = "30s"
open_timeout = "0s"
configure_timeout = "500ms"
can_list = false
can_probe = true
can_tune = false
can_hop = true
when = "present"
exclusive = false
options = ["Gain", "ppm", "gain"]
[[source]]
definition = 'wlan0:type=a,channels="1,6,11"'
name = "wifi"
helper = "h"
start = "manual"
restart = "temporary"
give_up = true
intensity = 3
period = "2m"
silence = "1.5s"
on_silence = "alert"
hop = false
[[sink]]
type = "unix"
path = "x.sock"
format = "pcapng"
sources = ["wifi"]
overflow = "wait"
limit = "64KiB"
hold = "1h"
[[sink]]
type = "tcp"
listen = "tcp:[::]:7878"
exposed = true
dlts = [127, 1, 127]
[[sink]]
type = "file"
path = "/caps/%Y.pcapng"
rotate_size = "100MiB"
rotate_every = "24h"
rotate_packets = 1000
keep = 7
keep_free = "1GiB"
disk_full = "stop"
compress = "zstd"
file_mode = "0600"
file_group = "capture"
[[allow]]
uid = 1000
helpers = ["h"]
max_running = 2
[[allow]]
group = "capture"
helpers = ["h"]
max_together = 6
"""
    assert config.parse(text, "f") == specs.Config(
        helperd=specs.DaemonSpec(
            "u",
            "100",
            "/run/x",
            0o666,
            "g",
            "adm",
            7,
            False,
            "json",
            "debug",
            ("site",),
            True,
            (70000, 70099),
        ),
        helpers=(
            specs.HelperSpec(
                name="h",
                command=("/bin/x", "--one", "two words"),
                when="present",
                types=("a", "b"),
                capabilities=("net_admin", "net_raw"),
                groups=("dialout",),
                uid=60900,
                privilege="suid",
                no_new_privs=False,
                seal=0,
                env=(("A", "1"), ("B", "2")),
                limits=(("as", 256 << 20), ("nofile", 64)),
                devices=("/dev/ttyUSB0",),
                private_tmp=False,
                wire="v0",
                verify=False,
                obeys_shutdown=True,
                status_meaningful=True,
                needs_child=1,
                on_child_gone="alert",
                term_grace=0.25,
                keepalive=2.0,
                greet_timeout=20.0,
                list_timeout=60.0,
                probe_timeout=30.0,
                open_timeout=0.0,
                configure_timeout=0.5,
                can_list=False,
                can_probe=True,
                can_tune=False,
                can_hop=True,
                options=("gain", "ppm"),
                exclusive=False,
            ),
        ),
        sources=(
            sources.SourceSpec(
                'wlan0:type=a,channels="1,6,11"',
                "wifi",
                "h",
                "manual",
                "temporary",
                True,
                3,
                120.0,
                1.5,
                "alert",
                hop=False,
            ),
        ),
        sinks=(
            sinks.SinkSpec(path="x.sock", sources=("wifi",), overflow="wait", limit=64 << 10, hold=3600.0),
            sinks.SinkSpec(type="tcp", listen=("::", 7878), exposed=True, dlts=(1, 127)),
            sinks.SinkSpec(
                "/caps/%Y.pcapng",
                "file",
                rotate_size=100 << 20,
                rotate_every=86400.0,
                rotate_packets=1000,
                keep=7,
                keep_free=1 << 30,
                disk_full="stop",
                compress="zstd",
                file_mode=0o600,
                file_group="capture",
            ),
        ),
        allow=(
            specs.AllowSpec(("h",), uid=1000, max_running=2),
            specs.AllowSpec(("h",), group="capture", max_together=6),
        ),
    )
    written = set(re.findall(r"^(\w+) = ", text, re.MULTILINE))
    assert written == {key.name for key in KEYS}, "this test shows every key"


def test_comments_order_and_place_change_nothing() -> None:
    one = config.parse(HELPER + '[[source]]\ndefinition = "x:type=t"\nname = "s"\n', "one")
    two = config.parse(f'# moved\n\n[[source]]\nname = "s"\ndefinition = "x:type=t"\n\n{HELPER}', "two")
    assert one == two
    assert one.sources[0].line != two.sources[0].line


def test_a_helper_is_found_by_name_and_numbered_from_one() -> None:
    settings = config.parse(HELPER + HELPER.replace('"h"', '"i"'), "f")
    assert settings.profile("h") == 1
    assert settings.profile("i") == 2
    assert settings.profile("j") == 0
    assert settings.helper("i") is settings.helpers[1]
    assert settings.helper("j") is None


def test_a_builtin_helper_is_trusted_with_what_the_sdk_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "builtins", lambda *_folder: ["pcapfile"])
    text = '[[helper]]\nname = "p"\ncommand = ["builtin:pcapfile", "-x"]\n'
    helper = config.parse(text, "f").helpers[0]
    assert helper.builtin == "pcapfile"
    assert (helper.seal, helper.obeys_shutdown, helper.status_meaningful) == (3, True, True)
    other = config.parse(HELPER, "f").helpers[0]
    assert other.builtin is None
    assert (other.seal, other.obeys_shutdown, other.status_meaningful) == (1, False, False)
    assert only(text.replace("pcapfile", "pcapfil"))[1:] == (
        "unknown-helper",
        "helper[1].command",
        "there is no builtin helper 'pcapfil'; did you mean \"pcapfile\"?",
    )
    assert "leave it" in only(text + 'privilege = "file"\n')[3]


@pytest.mark.parametrize(
    ("definition", "name"),
    [
        ("wlan0", "wlan0"),
        ("wlan0:type=linuxwifi", "wlan0"),
        ("WLAN 0 ", "wlan-0"),
        ("/dev/ttyUSB0:x=y", "dev-ttyusb0"),
        ("/var/a.pcap", "var-a-pcap"),
        ("_._", "source"),
        ("ü", "source"),
        ("a" * 31 + "--b", "a" * 31),
        ("x" * 40, "x" * 32),
    ],
)
def test_a_source_is_named_after_its_interface(definition: str, name: str) -> None:
    assert sources.source_name(definition) == name
    assert values.NAME.fullmatch(name)


@pytest.mark.parametrize(
    ("definition", "kind"),
    [
        ("x", None),
        ("x:type=T", "t"),
        ("x:a=b,type=t,c=d", "t"),
        ('x:a="1,type=no",type="t"', "t"),
        ("x:type=auto", None),
        ("x:type=", None),
        ("x:subtype=t", None),
        ("x:type=a,type=b", "b"),
        ('x:type="t', "t"),
    ],
)
def test_a_type_is_seen_without_parsing_the_definition(definition: str, kind: str | None) -> None:
    assert sources.source_type(definition) == kind


def test_a_source_gets_the_first_helper_that_serves_its_type() -> None:
    text = (
        HELPER
        + HELPER.replace('"h"', '"i"')
        + '[[source]]\ndefinition = "x:TYPE=T"\n[[source]]\ndefinition = "y"\n'
    )
    assert [source.helper for source in config.parse(text, "f").sources] == ["h", None]


# --- the shipped file ---------------------------------------------------------------------------------------


def uncommented_examples() -> list[str]:
    """The shipped file's commented blocks, each a complete array of tables."""
    blocks, block = [], ""
    for line in [*SHIPPED.read_text().split("\n"), ""]:
        if line.startswith("# [[") or (block and line.startswith("# ")):
            block += line[2:] + "\n"
        elif block:
            blocks.append(block)
            block = ""
    return blocks


def test_the_shipped_file_is_good_and_needs_neither_root_nor_hardware() -> None:
    settings = config.load(str(SHIPPED))
    assert [helper.builtin for helper in settings.helpers] == ["pcapfile", "synthetic"]
    assert not any(helper.capabilities or helper.groups for helper in settings.helpers)
    assert [source.name for source in settings.sources] == ["replay", "radio0"]
    assert all(source.helper for source in settings.sources)


def test_every_example_of_the_shipped_file_is_good_when_uncommented() -> None:
    text = re.sub(r"(?m)^# (?=(?:\w+) = )(?=.*)", "", SHIPPED.read_text().partition("# --- helpers")[0])
    shipped = text + "# --- helpers" + SHIPPED.read_text().partition("# --- helpers")[2]
    whole = "".join(uncommented_examples())
    assert len(config.parse(shipped + whole, "f").helpers) >= 4
    for key in KEYS:
        if key.table in ("source", "sink"):
            assert re.search(rf"(?m)^{key.name} = ", shipped + whole) or key.name in (
                "format",
                "type",
                "helper",
            ), key


# --- bad files ----------------------------------------------------------------------------------------------


def test_five_mistakes_are_five_lines() -> None:
    text = '[helperd]\nsockt_mode = "0660"\n[[helper]]\nname = "Bad Name"\n\n'
    text += '[[source]]\n[[sink]]\npath = 3\nlimit="4 MB"\n'
    found = refused(text)
    assert [(line, problem, key) for line, problem, key, _ in found] == [
        (2, "unknown-key", "helperd.sockt_mode"),
        (3, "missing-key", "helper[1]"),
        (4, "bad-value", "helper[1].name"),
        (6, "missing-key", "source[1]"),
        (8, "bad-value", "sink[1].path"),
        (9, "bad-value", "sink[1].limit"),
    ]
    assert {problem for _, problem, _, _ in found} <= PROBLEMS.keys()


BAD: list[tuple[str, int, str, str]] = [
    ("[helperd]\nsockt_mode='0660'", 2, "unknown-key", 'did you mean "socket_mode"'),
    ("[helperd]\nzzz=1", 2, "unknown-key", "the nearest is"),
    ("[helperd]\nrestart='x'", 2, "unknown-key", "it is a key of [[source]]"),
    ("[helpers]\nx=1", 1, "unknown-key", "did you mean [[helper]]"),
    ("restart='x'", 1, "unknown-key", "it belongs below [[source]]"),
    ("[helper]\nname='x'", 1, "bad-value", "write [[helper]]"),
    ("helper=[1]", 1, "bad-value", "write [[helper]]"),
    ("[[helperd]]", 1, "bad-value", "written [helperd]"),
    ("helperd=1", 1, "bad-value", "written [helperd]"),
    ("a = ", 1, "bad-syntax", "not valid TOML"),
    ("\n\n[a\n", 3, "bad-syntax", "not valid TOML"),
    ("a = '''\n\n", 3, "bad-syntax", "not valid TOML"),
    ("a=" + "[" * 5000, 0, "bad-syntax", "nested"),
    ("a=1\na=2", 2, "bad-syntax", "not valid TOML"),
    ("[helperd]\nsocket_mode=0o660", 2, "bad-value", "not an integer"),
    ("[helperd]\nsocket_mode='0999'", 2, "bad-value", "three octal digits"),
    ("[helperd]\nsocket_mode='4755'", 2, "bad-value", "three octal digits"),
    ("[helperd]\nimplicit_sinks='yes'", 2, "bad-value", "true or false"),
    ("[helperd]\nruntime_dir='run'", 2, "bad-value", "absolute"),
    ("[helperd]\nruntime_dir='/a/../b'", 2, "bad-value", '".."'),
    ("[helperd]\nuser=''", 2, "bad-value", "user or group"),
    ("[helperd]\nuser='99999999999'", 2, "bad-value", "user or group"),
    ("[helperd]\nlog_level='warn'", 2, "bad-value", 'did you mean "warning"'),
    ("[helperd]\nlog_level=1", 2, "bad-value", "not an integer"),
    ("[helperd]\nlog_level=1979-05-27", 2, "bad-value", "not a date or time"),
    (HELPER + "capabilities=['CAP_NET_RAW']", 5, "bad-value", 'did you mean "net_raw"'),
    (HELPER + "capabilities=['qqqqqq']", 5, "bad-value", "capabilities(7)"),
    (HELPER + "capabilities='net_raw'", 5, "bad-value", "must be an array"),
    (HELPER + "capabilities=[1.5]", 5, "bad-value", "entry 1 is a float"),
    (HELPER + "groups=['no space']", 5, "bad-value", "group"),
    (HELPER + "uid=0", 5, "bad-value", "owns root's files"),
    (HELPER + "uid=true", 5, "bad-value", '"pool"'),
    (HELPER + "uid='mine'", 5, "bad-value", '"pool"'),
    (HELPER + "seal=4", 5, "bad-value", "from 0 to 3"),
    (HELPER + "seal=true", 5, "bad-value", "not a boolean"),
    (HELPER + "privilege='suid'", 5, "bad-value", "no_new_privs = false"),
    (HELPER + "env='x'", 5, "bad-value", "must be a table"),
    (HELPER + "env={'1'='x'}", 5, "bad-value", "name of a variable"),
    (HELPER + "env={HELPERD_SEAL='0'}", 5, "bad-value", "set by helperd alone"),
    (HELPER + "env={A=1}", 5, "bad-value", "must be a string"),
    (HELPER + 'env={A="\\u0000"}', 5, "bad-value", "without NUL"),
    (HELPER + "limits={nofiles=1}", 5, "bad-value", 'did you mean "nofile"'),
    (HELPER + "limits={nofile='1MiB'}", 5, "bad-value", "integer"),
    (HELPER + "limits={as=-1}", 5, "bad-value", "bytes"),
    (HELPER + "limits=[]", 5, "bad-value", "must be a table"),
    (HELPER + "devices=['tty']", 5, "bad-value", "absolute"),
    ("[[helper]]\nname='h'\ncommand=['/a']\ntypes=['a b']", 4, "bad-value", "source type"),
    ("[[helper]]\nname='h'\ncommand=['/a']\ntypes=['']", 4, "bad-value", "empty"),
    (HELPER + "term_grace=2", 5, "bad-value", "duration"),
    (HELPER + "term_grace='2 s'", 5, "bad-value", "duration"),
    (HELPER + "term_grace='2h'", 5, "bad-value", "from 0s to 60s"),
    (HELPER + HELPER, 6, "duplicate-name", "line 2"),
    ("[[helper]]\nname='h'\ncommand=[]", 3, "bad-value", "must name a program"),
    ("[[helper]]\nname='h'\ncommand=['tcpdump']", 3, "bad-value", "absolute path"),
    ("[[helper]]\nname='h'\ncommand=['/a/../b']", 3, "bad-value", '".."'),
    ('[[helper]]\nname="h"\ncommand=["/a", "\\u0000"]', 3, "bad-value", "NUL"),
    ("[[helper]]\nname='h'\ncommand=['builtin:/x']", 3, "bad-value", "builtin:NAME"),
    ("[[source]]\ndefinition=':type=x'", 2, "bad-value", "begin with an interface"),
    ('[[source]]\ndefinition="a\\u001b"', 2, "bad-value", "control characters"),
    ("[[source]]\ndefinition='x'\nname='" + "a" * 33 + "'", 3, "bad-value", "1 to 32"),
    ("[[source]]\ndefinition='x'\nname='a.b'", 3, "bad-value", "1 to 32"),
    ("[[source]]\ndefinition='x'\n[[source]]\ndefinition='x:a=b'", 3, "duplicate-name", "another name"),
    (HELPER + "[[source]]\ndefinition='x'\nhelper='xyz'", 7, "unknown-helper", "valid: h"),
    (HELPER + "[[source]]\ndefinition='x:type=tt'", 6, "unknown-helper", '"tt"'),
    ("[[source]]\ndefinition='x'\nintensity=0", 3, "bad-value", "from 1 to 1000"),
    ("[[sink]]\npath='../x'", 2, "bad-value", "runtime directory"),
    ("[[sink]]\npath='" + "ü" * 54 + "'", 2, "bad-value", "108 bytes"),
    ("[[sink]]\npath='control.sock'", 2, "duplicate-name", "by itself"),
    ("[[sink]]\npath='all.sock'", 2, "duplicate-name", "by itself"),
    ("[[source]]\ndefinition='x'\n[[sink]]\npath='sources/x.sock'", 4, "duplicate-name", "by itself"),
    ("[[sink]]\npath='a'\n[[sink]]\npath='a'", 4, "duplicate-name", "line 2"),
    ("[[sink]]\npath='a'\nsources=['x']", 3, "unknown-source", "no source"),
    ("[[sink]]\npath='a'\nlimit=true", 3, "bad-value", "not a boolean"),
    ("[[sink]]\npath='a'\nlimit='1B'", 3, "bad-value", "from 4096"),
    ("[[sink]]\npath='a'\nformat='pcap'", 3, "bad-value", 'did you mean "pcapng"'),
    (HELPER + "[[allow]]\nhelpers=['h']", 5, "missing-key", "uid or group"),
    (HELPER + "[[allow]]\nuid=1\ngroup='a'\nhelpers=['h']", 5, "bad-value", "not both"),
    (HELPER + "[[allow]]\nuid=-1\nhelpers=['h']", 6, "bad-value", "from 0"),
    (HELPER + "[[allow]]\nuid=1\nhelpers=['i']", 7, "unknown-helper", "valid: h"),
    (HELPER + "[[allow]]\nuid=1", 5, "missing-key", "helpers"),
]


@pytest.mark.parametrize(("text", "line", "problem", "words"), BAD, ids=[text[-40:] for text, *_ in BAD])
def test_a_mistake_is_told_with_line_and_cure(text: str, line: int, problem: str, words: str) -> None:
    found = only(text)
    assert (found[0], found[1]) == (line, problem), found
    assert words in found[3], found


def test_without_implicit_sockets_their_paths_are_free() -> None:
    assert (
        config.parse("[helperd]\nimplicit_sinks=false\n[[sink]]\npath='all.sock'", "f").sinks[0].name
        == "all.sock"
    )


def test_a_wrong_value_brings_no_second_complaint_about_its_absence() -> None:
    assert only("[[source]]\ndefinition=3")[1] == "bad-value"


# --- reading ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "line", "problem"),
    [
        (b"a\xff", 1, "bad-syntax"),
        (b"\n\n\xc3(", 3, "bad-syntax"),
        (b"#" * (config.MAX_FILE + 1), 0, "no-config"),
    ],
)
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, raw: bytes, line: int, problem: str) -> None:
    file = tmp_path / "f.toml"
    file.write_bytes(raw)
    with pytest.raises(ConfigRefused) as caught:
        config.load(str(file))
    assert [(mistake.line, mistake.problem) for mistake in caught.value.mistakes] == [(line, problem)]


def test_a_missing_file_and_a_directory_are_refused_by_name(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ConfigRefused, match="no-config") as caught:
            config.load(str(path))
        assert str(path) in str(caught.value)


def test_whoever_opens_the_files_decides_what_is_read(tmp_path: Path) -> None:
    """The launcher reads the descriptors whose path it has checked, of the drop-ins too."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.toml").write_text("")
    texts = {"helpers.toml": '[helperd]\ninclude = ["d"]\n', "a.toml": HELPER}
    opened = []

    def opener(path: str) -> int:
        opened.append(path)
        fd = os.memfd_create("x")
        os.write(fd, texts[os.path.basename(path)].encode())
        os.lseek(fd, 0, os.SEEK_SET)
        return fd

    before = os.listdir("/proc/self/fd")
    settings = config.load(f"{tmp_path}/helpers.toml", opener)
    assert opened == [f"{tmp_path}/helpers.toml", f"{tmp_path}/d/a.toml"] == list(settings.files)
    assert settings.helpers[0].file == f"{tmp_path}/d/a.toml"
    assert os.listdir("/proc/self/fd") == before


def test_dos_line_ends_count_as_one_line(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_bytes(b"[helperd]\r\n\r\nx = 1\r\n")
    with pytest.raises(ConfigRefused) as caught:
        config.load(str(file))
    assert caught.value.mistakes[0].line == 3


@given(
    st.text(max_size=200)
    | st.from_regex(
        r"(\[\[?(helper|source|sink|allow|helperd)\]?\]\n(\w{1,9} ?= ?('[^']{0,9}'|\[\]|\d|\{\})\n){0,4}){0,4}"
    )
)
def test_any_text_is_a_configuration_or_refused_and_nothing_else(text: str) -> None:
    mistakes: list[ConfigError] = []
    try:
        config.parse(text, "f")
    except ConfigRefused as error:
        mistakes = error.mistakes
    last = text.count("\n") + 1
    assert all(0 <= mistake.line <= last and mistake.problem in PROBLEMS for mistake in mistakes)


def test_the_room_imports_nothing_but_tomli_and_errors() -> None:
    code = "import sys, helperd.config; print([m for m in sys.modules if 'helperd' in m or m in ('trio', 'json')])"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for word in ("trio", "json", "wire", "cli"):
        assert word not in out


# --- lines --------------------------------------------------------------------------------------------------


def test_lines_follow_tables_arrays_strings_and_comments() -> None:
    text = '''# a comment with [x] and "quotes"
[helperd]   # one
a.b = 1
"quoted.key" = 'x # no comment'
[[helper]]
text = """
[no]
header = "" \\""" still
"""
raw = \'\'\'
[[no]]'\'\'\'
list = [
  "a", # ]
  { x = 1, y.z = [2,
     3] },
]
[helper.env]
"ä\\u0041" = 1
[[helper]]
[[helper.sub]]
k = 2020-01-01 00:00:00
'''
    found = lines.scan_lines(text)
    expected = {
        ("helperd",): 2,
        ("helperd", "a"): 3,
        ("helperd", "a", "b"): 3,
        ("helperd", "quoted.key"): 4,
        ("helper", 0): 5,
        ("helper", 0, "text"): 6,
        ("helper", 0, "raw"): 10,
        ("helper", 0, "list"): 12,
        ("helper", 0, "list", 0): 13,
        ("helper", 0, "list", 1, "x"): 14,
        ("helper", 0, "list", 1, "y", "z", 1): 15,
        ("helper", 0, "env"): 17,
        ("helper", 0, "env", "äA"): 18,
        ("helper", 1): 19,
        ("helper", 1, "sub", 0): 20,
        ("helper", 1, "sub", 0, "k"): 21,
    }
    assert {path: found.get(path) for path in expected} == expected
    tomli.loads(text)


class Writer:
    """Writes a random TOML document and remembers where it put each path."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.text = ""
        self.where: dict[tuple[str | int, ...], int] = {}

    def pick(self, *choices: str) -> str:
        return self.draw(st.sampled_from(choices))

    def put(self, text: str) -> None:
        self.text += text

    def mark(self, path: tuple[str | int, ...]) -> None:
        self.where.setdefault(path, self.text.count("\n") + 1)

    def key(self, name: str) -> str:
        return self.pick(name, f'"{name}"', f"'{name}'") if "." not in name else f'"{name}"'

    def gap(self) -> None:
        self.put(self.pick("", "\n", "# x = [1]\n", "  # '''\n\n", "\t\n"))

    def value(self, path: tuple[str | int, ...], depth: int) -> None:
        kind = (
            self.pick("scalar", "string", "lines", "array", "table")
            if depth
            else self.pick("scalar", "string", "lines")
        )
        if kind == "scalar":
            self.put(self.pick("1", "0x1", "1.5e3", "true", "1979-05-27T07:32:00Z", "inf"))
        elif kind == "string":
            self.put(self.pick('"a"', "'a\\'", '"\\"]"', '"# \\\\"', "''"))
        elif kind == "lines":
            self.put(self.pick('"""\na = 1\n"""', "'''\n[x]\n''''", '"""x""\\""""""', '"""\\\n  a"""'))
        elif kind == "array":
            self.put("[" + self.pick("", " ", "\n"))
            for number in range(self.draw(st.integers(0, 3))):
                self.mark((*path, number))
                self.value((*path, number), depth - 1)
                self.put(self.pick(",", " ,\n", ", # ]\n"))
            self.put("]")
        else:
            self.put("{")
            for number in range(self.draw(st.integers(0, 3))):
                self.put(", " if number else " ")
                self.pair(path, f"k{number}", depth - 1)
            self.put(" }")

    def pair(self, path: tuple[str | int, ...], name: str, depth: int) -> None:
        names = (name, "sub") if self.draw(st.booleans()) else (name,)
        for length in range(1, len(names) + 1):
            self.mark((*path, *names[:length]))
        self.put(self.pick(".", " . ").join(self.key(part) for part in names) + self.pick("=", " = "))
        self.value((*path, *names), depth)

    def body(self, path: tuple[str | int, ...]) -> None:
        for number in range(self.draw(st.integers(0, 3))):
            self.put(self.pick("", "  "))
            self.pair(path, f"p{number}", 2)
            self.put(self.pick("\n", "  # end\n"))
            self.gap()


@st.composite
def documents(draw: st.DrawFn) -> Writer:
    out = Writer(draw)
    out.gap()
    out.body(())
    counts: dict[str, int] = {}
    for number in range(draw(st.integers(0, 4))):
        if draw(st.booleans()):
            name = out.pick("many", "more.much")
            number = counts[name] = counts.get(name, -1) + 1
            out.mark((name,))
            out.mark((name, number))
            out.put(f"[[{out.key(name)}]]\n")
            out.body((name, number))
            if draw(st.booleans()):
                out.mark((name, number, "below"))
                out.put(f"[ {out.key(name)} . below ] # []\n")
                out.body((name, number, "below"))
        else:
            out.mark((f"table{number}",))
            out.put(f"[{out.key(f'table{number}')}]\n")
            out.body((f"table{number}",))
    return out


def paths_of(value: object, path: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    return {path}.union(*(paths_of(entry, (*path, key)) for key, entry in entries))


@given(documents())
def test_every_path_of_a_document_has_the_line_it_was_written_on(document: Writer) -> None:
    found = lines.scan_lines(document.text)
    assert paths_of(tomli.loads(document.text)) - {()} <= found.keys()
    assert found == document.where


@pytest.mark.parametrize("text", ["=", "[a\n", "a = [1", 'a = "', "]"])
def test_the_scan_ends_on_what_is_not_toml(text: str) -> None:
    assert all(line <= text.count("\n") + 1 for line in lines.scan_lines(text).values())


@pytest.mark.parametrize(
    ("command", "more", "removed"),
    [
        ("/usr/bin/true", "", True),
        ("builtin:interface", "", True),
        ("builtin:synthetic", "", True),
        ("builtin:pcapfile", "", False),
        ("builtin:pipe", "", False),
        ("builtin:extcap", "", False),
        ("builtin:jsonlines", "", False),
        ("builtin:pipe", "private_tmp = true", True),
        ("/usr/bin/true", "private_tmp = false", False),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_what_a_helper_leaves_is_removed_unless_its_programs_write_for_others(
    tmp_path: Path, command: str, more: str, *, removed: bool, whole: bool
) -> None:
    path = tmp_path / "helpers.toml"
    path.write_text(f'[[helper]]\nname = "x"\ncommand = ["{command}"]\n{more}\n')
    assert config.load(str(path), whole=whole).helpers[0].private_tmp is removed


def test_a_broken_installation_has_no_builtin_helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "HELPERS_DIR", "/nonexistent")
    assert config.builtins() == []


def test_of_sinks_the_launcher_reads_the_group_of_files_alone(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[[sink]]\nnonsense = 1\nfile_group = "capture"\n[[source]]\nnonsense = 1\n')
    found = config.load(str(path), whole=False)
    assert [(sink.file_group, sink.line) for sink in found.sinks] == [("capture", 1)]
    assert found.sources == ()
    with pytest.raises(ConfigRefused, match="no key"):
        config.load(str(path))
    path.write_text("[[sink]]\nfile_group = 7\n")
    with pytest.raises(ConfigRefused, match="file_group must be a user or group name"):
        config.load(str(path), whole=False)


def test_the_launcher_knows_the_keys_that_it_passes_over_by_name(tmp_path: Path) -> None:
    elsewhere = {key.name for key in KEYS if key.table in {"helper", "helperd"}}
    elsewhere -= set(keys.keys_of("helper")) | set(keys.keys_of("helperd"))
    assert elsewhere == keys.ELSEWHERE
    path = tmp_path / "c.toml"
    block = '[[helper]]\nname = "h"\ncommand = ["/bin/true"]\n'
    path.write_text(block + "wire = 7\n")
    launched = config.load(str(path), whole=False)
    with pytest.raises(ConfigRefused, match="wire must be"):
        config.load(str(path))
    path.write_text(block + 'exclusive = false\nkeepalive = "2s"\n')
    assert config.load(str(path)).fingerprint == launched.fingerprint
    for more in (
        "seal = 2\n",
        'term_grace = "2s"\n',
        "limits = { nproc = 3 }\n",
        'capabilities = ["net_raw"]\n',
    ):
        path.write_text(block + more)
        found = {config.load(str(path), whole=whole).fingerprint for whole in (True, False)}
        assert len(found) == 1
        assert launched.fingerprint not in found
    path.write_text(block + "keepaliv = 7\n")
    with pytest.raises(ConfigRefused, match=r"has no key .keepaliv."):
        config.load(str(path), whole=False)


@pytest.mark.parametrize(
    "value", ["60800", "1-9", "0-100", "65000-65534", "65500-66000", "9-70000", "70000-69000", "x-y", 7]
)
def test_a_pool_of_uids_that_cannot_be_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        values.uid_range(value)


def test_a_pool_is_divided_by_twelfths() -> None:
    own, shared, keepers = specs.DaemonSpec().pool
    assert (own, shared, keepers) == (range(60800, 61024), range(61024, 61056), range(61056, 61184))
    for first, last in ((70000, 70023), (1, 65533), (65536, 131071)):
        assert values.uid_range(f"{first}-{last}") == (first, last)
        own, shared, keepers = specs.DaemonSpec(uid_pool=(first, last)).pool
        assert [*own, *shared, *keepers] == list(range(first, last + 1))
        assert min(map(len, (own, shared, keepers))) >= 2
