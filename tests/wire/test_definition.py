"""Source definitions in both dialects."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helperd.config.sources import source_name, source_type
from helperd.errors import UsageError
from helperd.wire.definition import (
    SourceDefinition,
    channel_plan,
    for_kismet,
    parse_flag,
    parse_rate,
    split_interface,
    unknown_options,
)

keys = st.text("abcdefghijklmnopqrstuvwxyz_0123456789", min_size=1, max_size=8)
values = st.text(
    st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters='"\x7f'), max_size=12
).map(str.strip)
words = st.text("abcdefghijklmnopqrstuvwxyz0123456789+-", min_size=1, max_size=6)
interfaces = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_categories=("Cc", "Z")),
    min_size=1,
    max_size=12,
)
plain = interfaces.filter(lambda text: not set(text) & set(':,"'))


@pytest.mark.parametrize(
    ("text", "interface", "options"),
    [
        ("wlan0", "wlan0", {}),
        ("wlan0:", "wlan0", {}),
        ("wlan0:type=linuxwifi", "wlan0", {"type": "linuxwifi"}),
        ('wlan0:channels="1,6,11",name=x', "wlan0", {"channels": "1,6,11", "name": "x"}),
        ("wlan0:channels=1,6,11,name=x", "wlan0", {"channels": "1,6,11", "name": "x"}),
        ('wlan0:name="the, one",type=a', "wlan0", {"name": "the, one", "type": "a"}),
        ('wlan0:name=a"b,c"d', "wlan0", {"name": "ab,cd"}),
        ("wlan0:NAME=x,Name=y", "wlan0", {"name": "y"}),
        ("wlan0:a=b=c", "wlan0", {"a": "b=c"}),
        ("wlan0:a=", "wlan0", {"a": ""}),
        ("wlan0:a=1,,b=2,", "wlan0", {"a": "1", "b": "2"}),
        (" wlan0 : a = 1 , b = 2", "wlan0", {"a": "1", "b": "2"}),
        ("/tmp/a file.pcap:realtime=true", "/tmp/a file.pcap", {"realtime": "true"}),
        ("a:url=http://host:80/x", "a", {"url": "http://host:80/x"}),
        ('"/dev/ttyACM0:115200":type=tool', "/dev/ttyACM0:115200", {"type": "tool"}),
        ('"phone-10.0.0.5:5555"', "phone-10.0.0.5:5555", {}),
        ('"a,b" : type=x', "a,b", {"type": "x"}),
        ('"say ""a:b"", twice":a=1', 'say "a:b", twice', {"a": "1"}),
        ('"plain":a=1', "plain", {"a": "1"}),
        ('a"b:c=d', 'a"b', {"c": "d"}),
        (
            "tiny.pcap:name=foo,uuid=12345678-1234-1234-1234-123456789ABC",
            "tiny.pcap",
            {"name": "foo", "uuid": "12345678-1234-1234-1234-123456789ABC"},
        ),
    ],
)
def test_both_dialects_are_read(text, interface, options):
    definition = SourceDefinition.parse(text)
    assert (definition.interface, dict(definition.options)) == (interface, options)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":a=b",
        " : a=b",
        "a,b",
        "a,b:c=d",
        "wlan0:channel",
        'wlan0:"a=b',
        'wlan0:a="b',
        "a\nb",
        "a:b=c\0",
        "wlan0:=x",
        '"a:b',
        '"a:b"c:d=e',
        '"":d=e',
        '" ":d=e',
        "a:b:c=d",
    ],
)
def test_a_malformed_definition_is_refused_with_the_grammar(text):
    with pytest.raises(UsageError, match="interface:key=value") as caught:
        SourceDefinition.parse(text)
    assert caught.value.problem == "bad-definition"


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ('"a\\"b":type=x', "a quote inside of it twice"),
        ('"a"b":type=x', "a quote inside of it twice"),
        ("a\tb:type=x", "by a symbolic link"),
        ('"a\nb":type=x', "by a symbolic link"),
    ],
)
def test_what_an_interface_cannot_hold_is_refused_with_the_cure(text, cure):
    with pytest.raises(UsageError, match=cure):
        SourceDefinition.parse(text)
    assert SourceDefinition.parse('"a""b":type=x').interface == 'a"b'


@given(interfaces, st.dictionaries(keys, values, max_size=6))
def test_what_is_written_is_read_again(interface, options):
    definition = SourceDefinition(interface, options)
    assert SourceDefinition.parse(definition.text()) == definition


@given(plain, st.dictionaries(keys, st.lists(words, min_size=1, max_size=4).map(",".join), max_size=6))
def test_the_servers_regenerated_form_is_read_again(interface, options):
    definition = SourceDefinition(interface, options)
    again = SourceDefinition.parse(definition.regenerated())
    assert again == definition
    assert again.regenerated() == definition.regenerated()


@given(st.text(max_size=40))
def test_any_text_is_a_definition_or_bad_definition(text):
    try:
        definition = SourceDefinition.parse(text)
    except UsageError as error:
        problem = error.problem
    else:
        assert definition.interface
        return
    assert problem == "bad-definition"


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("2024-05-07T10:00:00.pcap", '"2024-05-07T10:00:00.pcap":key=value'),
        ("2024-05-07T10:00:00.pcap:type=pcapfile", '"2024-05-07T10:00:00.pcap":type=pcapfile'),
        ("/dev/ttyACM0:115200:type=tool,a=1", '"/dev/ttyACM0:115200":type=tool,a=1'),
        ("phone-10.0.0.5:5555", '"phone-10.0.0.5:5555":key=value'),
        ("a,b:type=x", '"a,b":type=x'),
    ],
)
def test_a_name_that_is_cut_at_its_own_colon_or_comma_is_refused_with_the_cure(text, cure):
    with pytest.raises(UsageError) as caught:
        SourceDefinition.parse(text)
    assert caught.value.text.endswith(cure)
    assert SourceDefinition.parse(cure).interface == split_interface(cure)[0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("wlan0:type=x,channels=1,6", "wlan0:type=x,channels=1,6"),
        ('"wlan0":type=x', "wlan0:type=x"),
        ('"a,b" :type=x,channels="1,6"', 'a,b:type=x,channels="1,6"'),
        ('"a,b"', "a,b"),
        ('"a ""b"" c":d=e', 'a "b" c:d=e'),
    ],
)
def test_kismets_programs_are_told_what_their_dialect_can_say(text, told):
    assert for_kismet(text, "old") == told


@pytest.mark.parametrize("name", ["/dev/ttyACM0:115200", "phone-10.0.0.5:5555", "2024-05-07T10:00:00.pcap"])
def test_what_kismets_programs_cannot_be_told_is_refused_with_the_reason(name):
    with pytest.raises(
        UsageError, match=r"old cannot be told the interface .*first colon; give it a name"
    ) as caught:
        for_kismet(f'"{name}":type=x', "old")
    assert caught.value.problem == "not-supported"


MANGLED = [  # what the user wrote, what the helper gets (kismet-protocol.md: 5.1, 5.2, S8, S13, H8, H11)
    ("quotes lost", "r:channels=1,6,11,name=x", {"channels": "1,6,11", "name": "x"}, []),
    (
        "the server's own text read again",
        "radio0:6,11,name=syn,channels=1,name=syn,rate=100,type=linuxwifi",
        {"name": "syn", "channels": "1", "rate": "100", "type": "linuxwifi"},
        ["6, 11", "twice.* name"],
    ),
    (
        "once more",
        "r:6,11,type=l,6,11,type=l,channels=1,type=l",
        {"type": "l", "channels": "1"},
        ["6, 11", "type"],
    ),
    (
        "channels that sort behind the options",
        "r:channels=x,name=n,rate=5,type=t,y,z,name=n",
        {"channels": "x", "name": "n", "rate": "5", "type": "t"},
        ["y, z", "twice.* name"],
    ),
    (
        "behind an option of the helper's",
        "r:channels=x,rate=5,y,z,rate=5",
        {"channels": "x", "rate": "5"},
        ["y, z"],
    ),
    ("the option swallowed", "r:6,11,type=l,channels=1", {"type": "l", "channels": "1"}, ["6, 11"]),
    ("a list at the end", "r:add_channels=36,40", {"add_channels": "36,40"}, []),
    ("the last one empty", "r:a=,type=x,b=", {"a": "", "type": "x", "b": ""}, []),
    ("a word at the end", "r:type=x,retry", {"type": "x"}, ["retry"]),
    ("a word alone", "r:monitor", {}, ["monitor"]),
    ("in capitals", "r:Type=x,CHANNEL=6", {"type": "x", "channel": "6"}, []),
    ("twice, differently", "r:channel=6,channel=11", {"channel": "6"}, ["the first counts: channel"]),
    ("a list twice", "r:channels=1,6,a=1,channels=7,8", {"channels": "1,6", "a": "1"}, ["twice.* channels"]),
    ("a rate that the server ignores", "r:channel_hoprate=5/sec", {"channel_hoprate": "5/sec"}, []),
    (
        "a rate that is none",
        "r:channel_hoprate=fast,a=1",
        {"a": "1"},
        ["channel_hoprate .* 'fast' is not a rate"],
    ),
    ("a prefix of a key", "r:chan=6,n=x", {"chan": "6", "n": "x"}, []),
    ("uuid not last", "r:uuid=X,name=n", {"uuid": "X", "name": "n"}, []),
    ("a word behind the uuid", "r:uuid=X,6,name=n", {"uuid": "X", "name": "n"}, ["6"]),
    ("a quote left open", 'r:channels="1,6,name=x', {"channels": "1,6", "name": "x"}, []),
    ("a key in quotes", 'r:"name"=x', {"name": "x"}, []),
    ("a key with a comma", "r:,,=x,a=1", {"a": "1"}, ["=x"]),
    ("an annotation with a comma", "r:name=roof, north,type=x", {"name": "roof,north", "type": "x"}, []),
]


@pytest.mark.parametrize(
    ("text", "options", "told"), [row[1:] for row in MANGLED], ids=[row[0] for row in MANGLED]
)
def test_what_a_server_has_made_of_a_definition_is_read_and_told(text, options, told):
    definition, left_out = SourceDefinition.read_tolerantly(text)
    assert dict(definition.options) == options
    assert all(re.search(words, " ".join(left_out)) for words in told), left_out
    assert bool(told) == bool(left_out)


@given(st.text(max_size=40))
def test_a_server_is_refused_for_nothing_but_a_missing_interface(text):
    try:
        definition, _ = SourceDefinition.read_tolerantly(text)
    except UsageError as error:
        why = error.text
    else:
        assert definition.interface
        return
    assert "interface is missing" in why


@given(plain, st.dictionaries(keys, values, max_size=6))
def test_a_helper_reads_what_nobody_has_mangled_as_the_supervisor_does(interface, options):
    definition = SourceDefinition(interface, options)
    read, left_out = SourceDefinition.read_tolerantly(definition.text())
    assert (read.interface, read.options, left_out) == (interface, options, [])


def test_words_behind_a_number_a_rate_or_a_boolean_are_no_part_of_it_when_a_server_put_them_there():
    text = "r:count=1,6,11,hold=true,6,speed=5/sec,x,list=1,6"
    read, _ = SourceDefinition.read_tolerantly(text)
    assert (read.number("count"), read.flag("hold", default=False), read.rate("speed")) == (1, True, 5)
    assert read.channels("list") == ("1", "6")
    strict = SourceDefinition.parse(text)
    assert strict.flag("hold", default=False) is False
    for read_number in (lambda: strict.number("count"), lambda: strict.rate("speed")):
        with pytest.raises(UsageError):
            read_number()


def test_every_unknown_option_is_told_with_the_nearest():
    definition = SourceDefinition.parse("r:chan=6,type=x,rat=5,rate=3")
    assert unknown_options(definition, ["rate"], "syn") == {
        "chan": "syn has no option 'chan'; did you mean channel?",
        "rat": "syn has no option 'rat'; did you mean rate?",
    }


@given(interfaces, st.dictionaries(st.sampled_from(["type", "a", "retry"]), values, max_size=3))
def test_the_configuration_looks_at_a_definition_as_it_is_parsed(interface, options):
    definition = SourceDefinition(interface, options)
    kind = definition.get("type").lower()
    assert source_type(definition.text()) == (None if kind in {"", "auto"} else kind)
    named = SourceDefinition(interface, {**options, "name": "Roof, North"})
    assert source_name(named.text()) == "roof-north"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("wlan0:type=linuxwifi", "wlan0"),
        ("wlan0:type=linuxwifi,name=roof", "roof"),
        ("wlan0:NAME=My Roof", "my-roof"),
        ('wlan0:name="north, east",type=x', "north-east"),
        ("wlan0:name=north,east,type=x", "north-east"),
        ("wlan0:name=", "wlan0"),
        ("wlan0:name=...", "wlan0"),
        ('"/dev/ttyACM0:115200":type=x', "dev-ttyacm0-115200"),
        ('"a,b":name=c', "c"),
    ],
)
def test_a_source_is_called_as_its_definition_says(text, name):
    assert source_name(text) == name


def test_what_cannot_be_written_is_refused():
    with pytest.raises(UsageError, match="cannot be written"):
        SourceDefinition("two\nlines").text()
    for options in ({"a": 'b"c'}, {"a=b": "c"}, {"": "c"}, {"A": "c"}, {"a": "x\ny"}):
        with pytest.raises(UsageError):
            SourceDefinition("wlan0", options).text()


def test_options_are_read_by_kind():
    definition = SourceDefinition.parse(
        "w:retry=false,hop=T,odd=1,channels= 1 , 6,,11 ,gain=2.5,bad=x,channel_hoprate=30/min"
    )
    assert definition.flag("retry", default=True) is False
    assert definition.flag("hop", default=False) is True
    assert definition.flag("odd", default=True) is True
    assert definition.flag("none", default=False) is False
    assert definition.channels() == ("1", "6", "11")
    assert definition.number("gain") == 2.5
    assert definition.number("gain", default=1.0) == 2.5
    assert definition.number("none") is None
    assert definition.number("none", default=0.2) == 0.2
    assert definition.rate() == 0.5
    assert definition.rate("none") is None
    assert definition.get("none", "d") == "d"
    for key in ("bad",):
        with pytest.raises(UsageError):
            definition.number(key)
    with pytest.raises(UsageError):
        SourceDefinition("w", {"n": "nan"}).number("n")


def test_copies_with_and_without_options():
    definition = SourceDefinition.parse("w:a=1,b=2")
    assert definition.with_options(a="3", c="4").options == {"a": "3", "b": "2", "c": "4"}
    assert definition.without("a").options == {"b": "2"}
    assert definition.options == {"a": "1", "b": "2"}


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("T", True), ("False", False), ("f", False), (" TRUE ", True)]
)
def test_booleans_are_words(text, value):
    assert parse_flag(text, default=not value) is value


@pytest.mark.parametrize("text", ["0", "1", "yes", "no", "", "truey"])
def test_anything_else_is_the_default(text):
    assert parse_flag(text, default=True) is True
    assert parse_flag(text, default=False) is False


@pytest.mark.parametrize(
    ("text", "rate"),
    [("5/sec", 5.0), ("30/min", 0.5), ("0.5/dwell", 2.0), ("2/DWELL", 0.5), (" 1.5 / sec ", 1.5)],
)
def test_rates_are_hops_per_second(text, rate):
    assert math.isclose(parse_rate(text), rate)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "5/hour",
        "/sec",
        "-1/sec",
        "0/sec",
        "0/dwell",
        "1e3/sec",
        "nan/sec",
        "9" * 400 + "/sec",
        "0." + "0" * 320 + "1/dwell",
        "٣/sec",
    ],
)
def test_a_rate_that_is_none_is_refused(text):
    with pytest.raises(UsageError) as caught:
        parse_rate(text)
    assert caught.value.problem == "bad-definition"


@pytest.mark.parametrize(
    ("options", "supported", "hop"),
    [
        ("", "1 6 11", "1 6 11"),
        ("channel=6", "1 6 11", "1 6 11"),
        ("channel=36", "1 6 11 36", "1 6 11"),
        ('channels="1,36,36"', "1 6 11 36", "1 36"),
        ('channels="1,36",block_channels=1', "1 6 11 36", "1 36"),
        ('channels="1,36",add_channels="99,6"', "1 6 11 36 99", "1 36"),
        ('add_channels="36,1"', "1 6 11 36", "1 6 11 36"),
        ('block_channels="6"', "1 6 11", "1 11"),
        ('block_channels="6,11",add_channels="6"', "1 6 11", "1 6"),
    ],
)
def test_channel_lists_are_added_and_blocked(options, supported, hop):
    definition = SourceDefinition.parse(f"wlan0:{options}")
    assert channel_plan(definition, ("1", "6", "11")) == (tuple(supported.split()), tuple(hop.split()))


def test_names_are_blocked_in_any_case():
    assert channel_plan(SourceDefinition.parse("w:block_channels=6ht40+"), ("6HT40+", "6"))[1] == ("6",)
