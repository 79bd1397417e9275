from __future__ import annotations

import pytest

from helperd.control.interface import Type, parse

TEXT = """
# A comment (with brackets) -> and signs
interface org.example.more
type Colour (red, green)
type Point (x: int, y: ?int) # more
type Deep (points: []Point, by_name: [string]Point, inline: (a: bool, b: ?[]string),
  colour: Colour, any: object, f: float)
method Draw(deep: Deep) -> ()
method Ping(text: string) -> (text: string)
error Broken (why: string)
error Plain ()
"""
DEEP = {
    "points": [{"x": 1}],
    "by_name": {"a": {"x": 1, "y": None}},
    "inline": {"a": True},
    "colour": "red",
    "any": {"q": [1]},
    "f": 1,
}


def test_a_text_is_read_whole() -> None:
    interface = parse(TEXT)
    assert interface.name == "org.example.more"
    assert list(interface.types) == ["Colour", "Point", "Deep"]
    assert list(interface.methods) == ["Draw", "Ping"]
    assert list(interface.errors) == ["Broken", "Plain"]
    assert interface.types["Point"].fields["y"].kind == "maybe"


def test_a_right_value_is_right() -> None:
    interface = parse(TEXT)
    assert interface.wrong({"deep": DEEP}, interface.methods["Draw"].inputs) == ""
    assert interface.wrong({}, interface.methods["Draw"].outputs) == ""


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"points": [{"x": 1}, {"y": 2}]}, "deep.points[1].x"),
        ({"points": {}}, "deep.points"),
        ({"points": [{"x": True}]}, "deep.points[0].x"),
        ({"points": [{"x": 1.5}]}, "deep.points[0].x"),
        ({"by_name": {"a": {"x": "1"}}}, "deep.by_name[a].x"),
        ({"by_name": []}, "deep.by_name"),
        ({"inline": {"a": 1}}, "deep.inline.a"),
        ({"inline": {"a": True, "b": [1]}}, "deep.inline.b[0]"),
        ({"inline": []}, "deep.inline"),
        ({"colour": "blue"}, "deep.colour"),
        ({"colour": 1}, "deep.colour"),
        ({"any": []}, "deep.any"),
        ({"f": "1"}, "deep.f"),
        ({"f": True}, "deep.f"),
        ({"more": 1}, "deep.more"),
        ({"colour": None}, "deep.colour"),
    ],
)
def test_a_wrong_value_is_named_by_its_path(change: dict[str, object], path: str) -> None:
    interface = parse(TEXT)
    assert interface.wrong({"deep": DEEP | change}, interface.methods["Draw"].inputs) == path


def test_a_value_that_is_wrong_as_a_whole_is_called_a_dot() -> None:
    interface = parse(TEXT)
    assert interface.wrong([], interface.types["Point"]) == "."
    assert interface.wrong(3, Type("string")) == "."
    assert interface.wrong(3, interface.types["Colour"]) == "."
    assert interface.wrong({}, Type("array", inner=Type("int"))) == "."


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("interfac x.y", 1),
        ("interface x.y\nmethod M() - ()", 2),
        ("interface x.y\nmethod M() ()", 2),
        ("interface x.y\nthing T ()", 2),
        ("interface x.y\ntype T (a: )", 2),
        ("interface x.y\ntype T (a: int b: int)", 2),
        ("interface x.y\n\ntype T (a: small)", 3),
        ("interface x.y\ntype T (a: int", 2),
        ("interface x.y\n!", 2),
    ],
)
def test_a_broken_text_is_refused_with_its_line(text: str, line: int) -> None:
    with pytest.raises(ValueError, match=f"line {line}"):
        parse(text)
