"""The argument vector of an adapter's program: places, patterns, groups."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helperd.errors import HelperdError, OpenRefused, UsageError
from helperd.helpers._template import Template
from helperd.wire.definition import SourceDefinition

TCPDUMP = [
    "interface~[a-z0-9]{1,15}",
    "/usr/bin/tcpdump",
    "-U",
    "-w",
    "-",
    "-i",
    "{interface}",
    "[",
    "-s",
    "{snap}",
    "]",
]


def fill(words, definition, settings=()):
    return Template(words, settings).fill(SourceDefinition.parse(definition))


def test_places_are_filled_and_groups_left_out():
    assert fill(TCPDUMP, "eth0") == ["/usr/bin/tcpdump", "-U", "-w", "-", "-i", "eth0"]
    assert fill(TCPDUMP, "eth0:snap=96") == ["/usr/bin/tcpdump", "-U", "-w", "-", "-i", "eth0", "-s", "96"]


def test_defaults_braces_and_several_places_in_one_word():
    words = ["/p", "{a=1}", "--x={a=2}:{interface}", "{{a}}", "[", "{b}", "{c=9}", "]", "[", "{c=9}", "]"]
    assert fill(words, "if") == ["/p", "1", "--x=2:if", "{a}", "9"]
    assert fill(words, "if:a=7,b=8") == ["/p", "7", "--x=7:if", "{a}", "8", "9", "9"]


def test_one_value_is_one_argument_whatever_it_holds():
    words = ["f~.*", "/p", "{f}"]
    assert fill(words, 'x:f="; rm -rf / $(id) `id` a b"') == ["/p", "; rm -rf / $(id) `id` a b"]


@pytest.mark.parametrize(
    "value", ["-w", "--x", "/etc/passwd", "a b", "a;b", "$(x)", "é", "a/../b", "x" * 129]
)
def test_without_a_pattern_no_option_and_no_path_gets_in(value):
    with pytest.raises(OpenRefused, match="not allowed"):
        fill(["/p", "{f}"], f'x:f="{value}"')


@given(st.text(max_size=20))
def test_a_pattern_must_match_the_whole_value(value):
    definition = SourceDefinition("x", {"f": value})
    template = Template(["f~[a-z]{2,5}", "/p", "{f}"])
    if value.isascii() and value.isalpha() and value.islower() and 2 <= len(value) <= 5:
        assert template.fill(definition) == ["/p", value]
    else:
        with pytest.raises(HelperdError):
            template.fill(definition)


def test_a_missing_value_is_named():
    with pytest.raises(OpenRefused, match="option snap is missing"):
        fill(["/p", "{snap}"], "x")


def test_settings_and_options_are_told():
    template = Template(["kind=RTL433", "f~[0-9]+", "/p", "{interface}", "{f}", "{g=1}"], ("kind",))
    assert template.settings == {"kind": "RTL433"}
    assert list(template.options()) == ["f", "g"]
    assert "[0-9]+" in template.options()["f"]
    assert Template([]).program == ""


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["tcpdump"], "neither name~pattern nor an absolute path"),
        (["kind=x", "/p"], "neither"),
        (["f~[", "/p", "{f}"], "not a regular expression"),
        (["f~x", "/p"], "names no place"),
        (["/p", "["], "not closed"),
        (["/p", "]"], "in pairs"),
        (["/p", "[", "[", "]", "]"], "in pairs"),
        (["/p", "{Upper}"], "for a brace"),
        (["/p", "a{"], "for a brace"),
    ],
)
def test_a_profile_that_makes_no_sense_is_refused(words, text):
    with pytest.raises(UsageError) as caught:
        Template(words)
    assert text in caught.value.text
