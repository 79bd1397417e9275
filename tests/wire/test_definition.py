"""Source definitions in both dialects."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helperd.errors import UsageError
from helperd.wire.definition import SourceDefinition, channel_plan, parse_flag, parse_rate

keys = st.text("abcdefghijklmnopqrstuvwxyz_0123456789", min_size=1, max_size=8)
values = st.text(
    st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters='"\x7f'), max_size=12
).map(str.strip)
words = st.text("abcdefghijklmnopqrstuvwxyz0123456789+-", min_size=1, max_size=6)
interfaces = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=":,"), min_size=1, max_size=12
)


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
    ],
)
def test_a_malformed_definition_is_refused_with_the_grammar(text):
    with pytest.raises(UsageError, match="interface:key=value") as caught:
        SourceDefinition.parse(text)
    assert caught.value.problem == "bad-definition"


@given(interfaces, st.dictionaries(keys, values, max_size=6))
def test_what_is_written_is_read_again(interface, options):
    definition = SourceDefinition(interface, options)
    assert SourceDefinition.parse(definition.text()) == definition


@given(interfaces, st.dictionaries(keys, st.lists(words, min_size=1, max_size=4).map(",".join), max_size=6))
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


def test_what_cannot_be_written_is_refused():
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
