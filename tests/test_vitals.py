"""What a process uses: read from real processes; what may not be read is None."""

from __future__ import annotations

import os
import signal
import sys
import time

import psutil
import pytest

from helperd import vitals
from helperd.vitals import Sampler, Turn, Vitals, starved


class Child:
    """A real process that says when it is ready, and is gone in the end."""

    def __init__(self, code: str) -> None:
        ours, theirs = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.dup2(theirs, 1)
            os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", code])
        os.close(theirs)
        self.said = os.read(ours, 999).decode().split()
        os.close(ours)

    def end(self) -> None:
        for pid in [*(int(word) for word in self.said if word.isdigit()), self.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        os.waitpid(self.pid, 0)
        while True:  # its orphans come to us
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                return


@pytest.fixture
def spawn():
    children = []

    def start(code: str) -> Child:
        children.append(Child(code))
        return children[-1]

    yield start
    for child in children:
        child.end()


SLEEPER = "print('ready', flush=True); import time; time.sleep(60)"
FAMILY = """
import os, time
def child(then):
    pid = os.fork()
    if not pid:
        then()
        os._exit(0)
    return pid
r, w = os.pipe()
def nested():
    os.write(w, b"%d " % child(lambda: time.sleep(60)))
    time.sleep(60)
one = child(nested)
dead = child(lambda: None)
os.waitid(os.P_PID, dead, os.WEXITED | os.WNOWAIT)
print(one, os.read(r, 99).decode(), flush=True)
time.sleep(60)
"""


def fds_of(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def until(question, wanted, seconds=5.0):
    """Ask the kernel until it says what is wanted."""
    end = time.monotonic() + seconds
    while (answer := question()) != wanted:
        assert time.monotonic() < end, answer
        time.sleep(0.005)


def test_one_process_is_read(spawn):
    child = spawn(SLEEPER)
    until(lambda: vitals.process_state(child.pid), "S")
    found = vitals.sample(child.pid)
    other = psutil.Process(child.pid)
    assert found.pid == child.pid
    assert found.living
    assert found.state == "S"
    assert found.memory == other.memory_info().rss
    assert found.cpu_s == pytest.approx(sum(other.cpu_times()[:2]))
    assert found.fds == fds_of(child.pid) > 2
    assert found.threads == 1
    assert found.children == ()
    assert found.run_delay_s >= 0
    assert abs(found.started - (other.create_time() - psutil.boot_time())) < 2


def test_a_process_whose_pid_was_never_known_is_none():
    assert vitals.sample(-1) is None
    assert Sampler().sample([-1], 0.0) == {}


def test_a_process_that_is_gone_is_none(spawn):
    child = spawn("print('ready', flush=True)")
    until(lambda: vitals.process_state(child.pid), "Z")
    zombie = vitals.sample(child.pid)
    assert (zombie.state, zombie.living) == ("Z", False)
    os.waitpid(child.pid, 0)
    gone = child.pid
    child.pid = os.fork() or os._exit(0)
    assert vitals.sample(gone) is None
    assert vitals.process_state(gone) == ""
    assert vitals.children(gone) is None
    assert vitals.living_descendants(gone) is None
    assert vitals.run_queue(gone) is None
    assert vitals.run_delay(gone) is None
    assert Sampler().sample([gone], 0.0) == {}


@pytest.mark.skipif(os.getuid() != 0, reason="needs root: becomes another user to be refused")
def test_what_may_not_be_read_is_none_and_not_zero(spawn):
    child = spawn(SLEEPER)
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.setresuid(65534, 65534, 65534)
        found = vitals.sample(child.pid)
        os.write(write, b"%r %r %r" % (found.fds, found.threads, found.memory is not None))
        os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    assert os.read(read, 999) == b"None 1 True"
    os.close(read)


def test_a_denied_process_is_all_none(monkeypatch):
    def denied(pid):
        raise psutil.AccessDenied(pid)

    monkeypatch.setattr(psutil, "Process", denied)
    assert vitals.sample(os.getpid()) == Vitals(os.getpid())
    assert vitals._children_by_search(os.getpid()) is None


def test_one_hidden_value_does_not_hide_the_others(monkeypatch):
    def hidden(_process):
        raise PermissionError

    monkeypatch.setattr(psutil.Process, "num_fds", hidden)
    found = vitals.sample(os.getpid())
    assert found.fds is None
    assert found.memory > 0


def test_the_tree_is_added_up_without_zombies(spawn):
    child = spawn(FAMILY)
    one, two = (int(word) for word in child.said)
    tree = Sampler().sample([child.pid], 0.0)[child.pid]
    assert sorted(tree.members) == sorted([child.pid, one, two])
    assert tree.members[0] == child.pid
    assert len(tree.main.children) == 2  # the zombie is its child, but does not live
    assert (tree.fds, tree.threads) == (sum(map(fds_of, tree.members)), 3)
    assert tree.memory > tree.main.memory
    assert tree.cpu_percent is None
    assert vitals.living_descendants(child.pid) == 2
    assert vitals.living_descendants(two) == 0
    os.kill(two, signal.SIGKILL)
    until(lambda: vitals.living_descendants(child.pid), 1)


def test_children_are_found_without_the_kernels_list(spawn, monkeypatch):
    child = spawn(FAMILY)
    real = vitals._read
    expected = sorted(vitals.children(child.pid))
    monkeypatch.setattr(vitals, "_read", lambda path: None if path.endswith("/children") else real(path))
    assert sorted(vitals.children(child.pid)) == expected


def test_a_children_list_that_loops_ends(monkeypatch):
    monkeypatch.setattr(vitals, "children", lambda pid: (pid, pid + 1) if pid < 5000 else ())
    monkeypatch.setattr(vitals, "process_state", lambda _pid: "S")
    monkeypatch.setattr(vitals, "sample", lambda pid: Vitals(pid, "S", children=(pid, pid + 1)))
    assert vitals.living_descendants(1) == vitals.MAX_TREE - 1
    tree = Sampler().sample([1], 0.0)[1]
    assert len(tree.members) == vitals.MAX_TREE
    assert (tree.memory, tree.fds, tree.cpu_s) == (None, None, None)


def test_the_cpu_share_is_of_the_time_between_two_samples(monkeypatch):
    used = {1: 10.0, 2: 5.0}
    tree = {1: (2,), 2: ()}
    monkeypatch.setattr(
        vitals, "sample", lambda p: Vitals(p, "S", 1.0, used.get(p), children=tree.get(p, ()))
    )
    sampler = Sampler()
    assert sampler.sample([1], 100.0)[1].cpu_percent is None
    used.update({1: 10.5, 2: 6.0})
    assert sampler.sample([1], 105.0)[1].cpu_percent == pytest.approx(30.0)
    tree[1] = ()  # a child that ended takes nothing away
    used[1] = 11.0
    assert sampler.sample([1], 106.0)[1].cpu_percent == pytest.approx(50.0)
    tree[1] = (3,)  # a new one began at zero
    used[3] = 0.25
    assert sampler.sample([1], 107.0)[1].cpu_percent == pytest.approx(25.0)
    assert sampler.sample([1], 107.0)[1].cpu_percent is None  # no time passed
    assert sampler.sample([2], 108.0)[2].cpu_percent is None  # the other tree is gone, and forgotten
    assert sampler.sample([1], 110.0)[1].cpu_percent is None


def test_a_reused_pid_is_a_new_process(monkeypatch):
    started = [1.0]
    monkeypatch.setattr(vitals, "sample", lambda p: Vitals(p, "S", started[0], 50.0, children=()))
    sampler = Sampler()
    sampler.sample([1], 0.0)
    started[0] = 2.0
    assert sampler.sample([1], 1.0)[1].cpu_percent is None


def test_a_spinning_process_shows_its_cpu(spawn):
    child = spawn("print('ready', flush=True)\nwhile True: pass")
    sampler = Sampler()
    begun = time.monotonic()
    sampler.sample([child.pid], begun)
    until(lambda: vitals.sample(child.pid).cpu_s > 0.2, wanted=True, seconds=30)
    assert sampler.sample([child.pid], time.monotonic())[child.pid].cpu_percent > 0


# evidence for verdicts


def test_the_state_of_a_stopped_process(spawn):
    child = spawn(SLEEPER)
    os.kill(child.pid, signal.SIGSTOP)
    until(lambda: vitals.process_state(child.pid), "T")
    os.kill(child.pid, signal.SIGCONT)
    until(lambda: vitals.process_state(child.pid), "S")


def test_a_process_name_with_parentheses_does_not_confuse(spawn):
    child = spawn(
        "open('/proc/self/comm', 'w').write('x) Z 1 (y'); print('ready', flush=True); import time; time.sleep(60)"
    )
    until(lambda: vitals.process_state(child.pid), "S")


def test_the_scheduler_is_read(spawn):
    child = spawn(SLEEPER)
    until(lambda: vitals.process_state(child.pid), "S")
    turn = vitals.run_queue(child.pid)
    assert not turn.wanting
    assert turn.ran_ns > 0
    assert vitals.run_delay(child.pid) == turn.delay_ns


SPINNING_THREAD = (
    "import threading, time\n"
    "def spin():\n while True: pass\n"
    "threading.Thread(target=spin, daemon=True).start(); print('ready', flush=True); time.sleep(60)"
)
SPINNING_CHILD = (
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'while True: pass'])\n"
    "print('ready', child.pid, flush=True); child.wait(); time.sleep(60)"
)


def test_threads_that_want_the_processor_are_seen(spawn):
    child = spawn(SPINNING_THREAD)
    until(lambda: len(vitals.run_queue(child.pid).wanting), 1)


def test_descendants_that_want_the_processor_are_seen(spawn):
    child = spawn(SPINNING_CHILD)
    until(lambda: len(vitals.run_queue(child.pid).wanting), 1)
    os.kill(int(child.said[-1]), signal.SIGKILL)
    until(lambda: len(vitals.run_queue(child.pid).wanting), 0)


def turn(*, delay: int = 0, ran: int = 0, **wanting: int) -> Turn:
    return Turn(delay, ran, wanting)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (None, turn(main=0), False),
        (turn(main=0), None, False),
        (turn(main=7), turn(main=7), True),  # still waiting: the kernel has added nothing yet
        (turn(main=7), turn(main=100_000_007), True),  # a quota let it run for a moment
        (turn(main=7), turn(main=100_000_008), False),  # it spins
        (turn(main=7), turn(other=7), False),  # nobody knows since when
        (turn(), turn(main=0), False),
        (turn(main=0), turn(), False),
        (turn(main=0, other=5), turn(other=6, main=10**9), True),
        (turn(), turn(delay=1_000_000_000), False),  # exactly half
        (turn(), turn(delay=1_000_000_001), True),
        (turn(ran=7), turn(delay=1_000_000_001, ran=100_000_007), True),
        (turn(ran=7), turn(delay=1_900_000_000, ran=100_000_008), False),  # it had its chance
        (turn(delay=10**12), turn(delay=10**12 + 10**9), False),
    ],
)
def test_starved_is_who_wanted_the_processor_and_hardly_got_it(before, after, expected):
    assert starved(before, after, 2.0) is expected


def test_ends_for_lack_of_memory_are_counted_where_the_kernel_says_so(monkeypatch):
    monkeypatch.setattr(vitals, "_read", lambda _path: b"nr_free_pages 7\noom_kill 2\n")
    assert vitals.oom_kills() == 2
    monkeypatch.setattr(vitals, "_read", lambda _path: None)
    assert vitals.oom_kills() is None
