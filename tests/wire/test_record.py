"""Records behave as frozen dataclasses with slots do, without what those cost to import."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from helperd.wire import messages as m
from helperd.wire.record import record, replace, unseen

ROOT = Path(__file__).resolve().parent.parent.parent


@record
class Point:
    """A record of a test's own."""

    x: int
    y: int = 2
    note: str = unseen(default="")

    def shifted(self):
        return replace(self, x=self.x + 1)


def test_fields_come_by_place_by_name_and_by_default():
    assert Point(1) == Point(1, 2) == Point(x=1, y=2) == Point(1, note="not compared")
    assert Point(1) != Point(2)
    assert (Point(1, note="n").note, Point(1).note) == ("n", "")
    assert repr(Point(1)) == "Point(x=1, y=2, note='')"
    assert Point(1, 2, "n").shifted() == Point(2, 2)


@pytest.mark.parametrize("wrong", [{}, {"x": 1, "z": 2}, {"y": 2}])
def test_what_is_missing_or_too_much_is_a_type_error(wrong):
    with pytest.raises(TypeError, match="Point"):
        Point(**wrong)
    with pytest.raises(TypeError):
        Point(1, 2, "n", 4)
    with pytest.raises(TypeError):
        Point(1, x=2)
    with pytest.raises(TypeError):
        replace(Point(1), z=3)


def test_a_record_is_frozen_and_has_no_room_for_more():
    point = Point(1)
    for change in (
        lambda: setattr(point, "x", 2),
        lambda: setattr(point, "z", 2),
        lambda: delattr(point, "x"),
    ):
        with pytest.raises(AttributeError, match="frozen"):
            change()
    assert not hasattr(point, "__dict__")


def test_records_of_two_classes_are_never_equal():
    assert m.HttpCancel(1) != m.Pong(1)
    assert m.Pong(1) != 1
    assert hash(m.Pong(1)) == hash(m.Pong(1))
    assert len({m.Pong(1), m.Pong(1), m.HttpCancel(1)}) == 2


def test_records_can_be_matched_copied_and_pickled():
    match Point(1, 5):
        case Point(x, y):
            assert (x, y) == (1, 5)
    report = m.OpenReport(1, dlt=5, hopping=m.Hopping(("1",)))
    assert copy.deepcopy(report) == pickle.loads(pickle.dumps(report)) == report


def test_importing_the_session_does_not_import_what_is_slow():
    slow = ("dataclasses", "inspect", "google")
    code = f"import sys, helperd.wire.session; print([name for name in {slow} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
