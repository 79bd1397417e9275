"""scripts/install, `helperd capture` and `helperd doctor` as root, a member of the group and a stranger meet them."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.attack import stage
from tests.attack.tools import SCENES, SYSTEM_PYTHON


def unfit() -> str:
    """Why scripts/install cannot be tried here; empty when it can."""
    if os.path.realpath(SYSTEM_PYTHON) != stage.interpreter():
        return f"{SYSTEM_PYTHON}, which install uses, is not the Python version of these tests"
    lacking = [name for name in ("useradd", "groupadd", "flock") if shutil.which(name) is None]
    return f"{', '.join(lacking)} missing" if lacking else ""


pytestmark = [
    pytest.mark.need("root", "netns", "mountns", "uid65534", "seccomp", "landlock", "ip"),
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(unfit()), reason=unfit() or "fit"),
]


@pytest.mark.parametrize("name", list(SCENES))
def test_scene(name):
    assert stage.run("tools", name) == [{"scene": name, "wrong": []}]
