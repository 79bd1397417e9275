"""What every test has: nothing may be left behind, needs are asked for aloud, examples are counted.

Environment:
  HELPERD_TEST_REQUIRE  `all`, or words of `ability.PROBES` with commas: what must not be lacking here. A
                        test that needs it and cannot have it fails instead of being skipped; with `all`,
                        every skip fails.
  HELPERD_COVER         a directory where the tests, and the processes that they start, write their coverage
                        (tests/cover.py).
  HELPERD_HYPOTHESIS    `fast` (the default) or `deep`: how many examples a property is tried on.
"""

from __future__ import annotations

import collections
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import prctl
import pytest

from tests import ability, census, cover

ROOT = Path(__file__).resolve().parent.parent
REQUIRED = frozenset(
    word.strip() for word in os.environ.get("HELPERD_TEST_REQUIRE", "").split(",") if word.strip()
)
FAILED = pytest.StashKey[bool]()
os.environ["HELPERD_UNPRIVILEGED"] = "1"  # `helperd run` keeps the caller's uid, also when that is root

hypothesis.settings.register_profile("fast", max_examples=60, deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.register_profile("deep", max_examples=5000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HELPERD_HYPOTHESIS", "fast"))


def pytest_configure(config: pytest.Config) -> None:
    prctl.set_child_subreaper(1)  # orphans come back to us
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    runs_tests = not config.getoption("tx", None) or hasattr(config, "workerinput")
    if runs_tests and (data := os.environ.pop("HELPERD_COVER", None)):
        config.add_cleanup(cover.measure(data))
    config.addinivalue_line(
        "markers", "need(*words): skip, aloud, where the machine lacks one (see tests/ability.py)"
    )
    if unknown := REQUIRED - ability.PROBES.keys() - {"all"}:
        raise pytest.UsageError(
            f"HELPERD_TEST_REQUIRE: {', '.join(sorted(unknown))} is no ability; see tests/ability.py"
        )


def demand(*words: str) -> None:
    """Skip the running test, or fail it if the word is required, unless the machine can do all of this."""
    for word in words:
        if reason := ability.lacking(word):
            if REQUIRED & {word, "all"}:
                pytest.fail(f"required here, but lacking: {word} ({reason})", pytrace=False)
            pytest.skip(f"needs {word}: {reason}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("need"):
        demand(*marker.args)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.skipped and "all" in REQUIRED and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, but HELPERD_TEST_REQUIRE=all: {report.longrepr}"
    if report.failed:
        item.stash[FAILED] = True
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end what this run did not prove, and why."""
    reasons = collections.Counter(
        str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr).removeprefix(
            "Skipped: "
        )
        for report in terminalreporter.stats.get("skipped", [])
    )
    if reasons:
        terminalreporter.section("not proven here")
        for reason, tests in reasons.most_common():
            terminalreporter.write_line(f"{tests} test{'s' * (tests > 1)} skipped: {reason}", yellow=True)


@pytest.fixture(autouse=True)
def settled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail a test that leaves a process, descriptor, socket file, network namespace or mount behind."""
    base = tmp_path_factory.getbasetemp()
    folder = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    before = census.take()
    yield
    left = census.await_end(before.processes, census.GRACE)
    found = [f"process {proc.pid}: {census.command(proc)}" for proc in left]
    if left:
        census.kill(left)
        census.await_end(before.processes, census.GRACE)
    census.reap()
    found += [f"network namespace {name}" for name in sorted(census.named_netns() - before.namespaces)]
    found += [f"mount {name}" for name in sorted(census.mounts(base) - before.mounts)]
    if os.readlink("/proc/self/ns/net") != before.own_netns:
        found.append("the test process is in another network namespace")
    if folder is not None:
        found += [f"socket {path}" for path in census.sockets_under(folder)]
    if not request.node.stash.get(FAILED, False):  # a failure's traceback keeps descriptors open by right
        found += census.new_fds(before.fds)
    if found:
        pytest.fail("left behind:\n  " + "\n  ".join(found), pytrace=False)


@pytest.fixture
def need() -> Callable[..., None]:
    """`need("root", "tshark")` goes on only where both work; the words are those of `ability.PROBES`."""
    return demand


@pytest.fixture
def rundir() -> Iterator[Path]:
    """A runtime directory with a path short enough for sockets (108 bytes); no socket may be left in it."""
    path = Path(tempfile.mkdtemp(prefix="hd-"))
    yield path
    left = census.sockets_under(path)
    shutil.rmtree(path, ignore_errors=True)
    if left:
        pytest.fail("left behind:\n  " + "\n  ".join(f"socket {name}" for name in left), pytrace=False)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def bad_helper() -> Callable[..., list[str]]:
    """`bad_helper("garbage", after=100)` is the command of a helper that does so (peers/bad_helper.py)."""

    def command(mode: str, **options: object) -> list[str]:
        words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        return [sys.executable, "-I", "-S", str(ROOT / "tests" / "peers" / "bad_helper.py"), mode, *words]

    return command
