"""The launcher without root: the request wire, launching, the leash; root mode is played in tests/attack/scenes.py."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import marshal
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helperd import launch
from helperd.config.profile import Accounts, daemon_ids, script_of
from helperd.config.request import LAUNCH, MAGIC, SIGNAL, WIRE, Request, parse
from helperd.config.specs import DaemonSpec
from helperd.errors import CannotDrop
from helperd.privsep import Launcher
from helperd.sandbox import attributes, forks, processes
from helperd.sandbox.become import Child, fits
from helperd.sandbox.custody import LOOK_S, Custody, Helper
from helperd.sandbox.loop import Loop
from helperd.sandbox.post import Client
from tests.attack.asker import Asker, Refused, Running, connect, pair
from tests.census import FORKED_AHEAD, name_of
from tests.faults.witness import below, fds, few_descriptors
from tests.patience import HANGS_S

ROOT = Path(__file__).resolve().parent.parent
PRIVSEP = ROOT / "helperd" / "privsep.py"
SCRIPT = ROOT / "helperd" / "launch.py"
PIP = "/v/bin/python -m pip install"
COMPILED = "(which is compiled: apt install gcc libcap-dev python3-dev)"
SLEEPER = "echo up >&4; (setsid sleep 471 &); (setsid sh -c 'sleep 471 & sleep 471' &); exec sleep 471"
CONFIG = f"""
[[helper]]
name = "probe"
command = ["{os.path.realpath(sys.executable)}", "-I", "-S", "{ROOT}/tests/attack/probe.py"]
[[helper]]
name = "family"
command = ["/bin/sh", "-c", "{SLEEPER}"]
[[helper]]
name = "missing"
command = ["/nonexistent/program"]
[[helper]]
name = "raw"
command = ["/bin/true"]
capabilities = ["sys_resource", "mac_admin"]
[[helper]]
name = "script"
command = ["{{folder}}/script"]
[[helper]]
name = "nonsense"
command = ["{{folder}}/nonsense"]
[[helper]]
name = "free"
command = ["/bin/sh", "{{folder}}/free"]
"""


def without(library: str) -> list[str]:
    """The command line of a launcher, without its options, whose interpreter lacks a library."""
    code = (
        "import runpy, sys\n"
        "class Without:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {library!r}: raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)\n"
        "sys.meta_path.insert(0, Without())\n"
        f"sys.argv[0] = {str(SCRIPT)!r}\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    return [sys.executable, "-I", "-S", "-c", code]


@pytest.fixture(params=["python-prctl", "ctypes"])
def asker(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Asker]:
    """A launcher of our own, over a socket pair, after the first PING; with python-prctl and without."""
    for name, text in (("script", "#!/bin/sh\necho script $1 >&4\n"), ("nonsense", "hello"), ("free", "")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o666 if name == "free" else 0o755)
    config = tmp_path / "helpers.toml"
    config.write_text(CONFIG.replace("{folder}", str(tmp_path)))
    ours, theirs = pair()
    with ours:
        with theirs:
            plain = [sys.executable, "-I", "-S", str(SCRIPT)]
            argv = without("prctl") if request.param == "ctypes" else plain
            argv += [f"--config={config}", f"--client-fd={theirs.fileno()}"]
            process = subprocess.Popen(
                [*argv, "--unprivileged"], pass_fds=(theirs.fileno(),), stderr=subprocess.PIPE
            )
        made = Asker(ours)
        made.process = process  # type: ignore[attr-defined]
        try:
            assert made.ping() == 0
            yield made
        finally:
            ours.close()
            process.wait(HANGS_S)
            assert process.stderr
            process.stderr.close()


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + HANGS_S
    while not true():
        assert time.monotonic() < deadline
        os.sched_yield()


def answers(path: str) -> bool:
    with contextlib.suppress(OSError), connect(path) as asker:
        return asker.ping() == 0
    return False


def strays() -> list[int]:
    """Processes of the family that are left."""
    found = []
    for pid in processes.table():
        with contextlib.suppress(OSError):
            if b"sleep\x00471" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def test_a_helper_gets_its_descriptors_and_nothing_else(asker: Asker):
    with Running(asker, 1) as helper:
        inside = helper.run("result = [sorted(os.listdir('/proc/self/fd')), os.getcwd(), sorted(os.environ)]")
        assert inside[0] == ["0", "1", "2", "3", "4", "5"]  # 5 is the listing itself
        assert inside[1] == "/"
        assert set(inside[2]) - {"LC_CTYPE"} == {
            "PATH",
            "LANG",
            "HELPERD_PATH",
            "HELPERD_SEAL",
            "HELPERD_DIR",
        }
        found = processes.privilege(helper.pid)
        assert found
        assert (found.no_new_privs, found.seccomp, found.effective, found.permitted) == (1, 2, 0, 0)


LITTER = """
folder = os.environ["HELPERD_DIR"]
if kind == "link":
    os.symlink(victim, folder)
else:
    os.mkdir(folder, 0o700)
    os.mkfifo(f"{folder}/packets", 0o600)
    if kind == "deep":
        os.makedirs(f"{folder}/a/b")
        os.symlink(victim, f"{folder}/a/there")
        open(f"{folder}/a/b/file", "w").close()
result = folder
"""


@pytest.mark.parametrize("kind", ["fifo", "deep", "link"])
def test_the_directory_of_a_killed_helper_is_gone_before_it_is_called_empty(
    asker: Asker, tmp_path: Path, kind: str
):
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "file").write_text("mine")
    folders = []
    for _ in range(2):
        helper = Running(asker, 1)
        folders.append(helper.run(LITTER, kind=kind, victim=str(tmp_path / "victim")))
        assert os.path.lexists(folders[-1])
        os.kill(helper.pid, signal.SIGKILL)
        assert asker.exited(helper.handle) == ("signal", signal.SIGKILL)
        asker.empty(helper.handle)
        assert not os.path.lexists(folders[-1])
        helper.close()
    assert folders[0] != folders[1]
    assert (tmp_path / "victim" / "file").read_text() == "mine"


def test_exit_status_and_signal_are_told_once_and_then_empty(asker: Asker):
    helper = Running(asker, 1)
    os.write(helper.write, b'{"code": "os._exit(7)", "values": {}}\n')
    assert asker.exited(helper.handle) == ("exited", 7)
    asker.empty(helper.handle)
    helper.close()
    helper = Running(asker, 1)
    helper.run("result = 1")
    assert asker.signal(helper.handle, signal.SIGTERM) == 0
    assert asker.exited(helper.handle) == ("signal", 15)
    asker.empty(helper.handle)
    helper.close()
    assert asker.events == []


def test_kill_reaches_children_with_sessions_of_their_own(asker: Asker):
    helper = Running(asker, 2)
    assert helper.line() == b"up"
    deadline = time.monotonic() + HANGS_S
    while len(strays()) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    helper.kill()
    helper.close()
    assert strays() == []


def test_a_closed_connection_kills_every_tree(asker: Asker):
    helpers = [Running(asker, 2) for _ in range(3)]
    for helper in helpers:
        assert helper.line() == b"up"
    asker.sock.close()
    assert asker.process.wait(HANGS_S) == 0  # type: ignore[attr-defined]
    assert strays() == []
    for helper in helpers:
        helper.close()


def test_a_launcher_that_is_killed_takes_its_helpers_with_it(asker: Asker):
    helper = Running(asker, 1)
    helper.run("result = 1")
    pid = helper.pid
    asker.process.kill()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 2
    while (row := processes.row(pid)) and row.state not in "ZX" and time.monotonic() < deadline:
        time.sleep(0.005)
    assert row is None or row.state in "ZX"
    helper.close()


@pytest.mark.parametrize(
    ("profile", "number"),
    [
        (3, errno.ENOENT),
        (4, errno.EPERM),
        (6, errno.ENOEXEC),
        (7, errno.EKEYREJECTED),
        (8, errno.EINVAL),
        (0, errno.EINVAL),
    ],
)
def test_what_cannot_be_is_refused_with_an_errno(asker: Asker, profile: int, number: int):
    try:
        helper = Running(asker, profile)
    except Refused as error:
        found = error.errno
    else:
        how, found = asker.exited(helper.handle)
        asker.empty(helper.handle)
        helper.close()
        assert how == "exec-failed"
    assert found == number


def test_a_script_runs_under_its_interpreter(asker: Asker):
    helper = Running(asker, 5)
    assert helper.line() == b"script --in-fd=3"
    assert asker.exited(helper.handle) == ("exited", 0)
    asker.empty(helper.handle)
    helper.close()


@pytest.mark.parametrize(
    ("command", "script"),
    [
        ("/usr/bin/python3.11 -I -W ignore /opt/a.py /data", "/opt/a.py"),
        ("/bin/sh -e /opt/a.sh", "/opt/a.sh"),
        ("/usr/bin/perl -I/opt/lib -w /opt/a.pl", "/opt/a.pl"),
        ("/usr/bin/python3 /usr/bin", "/usr/bin/__main__.py"),
        ("/usr/bin/python3 -Im tool /data", ""),
        ("/bin/bash -ec /opt/a.sh", ""),
        ("/usr/bin/perl -e code /data", ""),
        ("/usr/bin/shark -r /data", ""),
        ("/opt/a.py /data", ""),
        ("/usr/bin/python3", ""),
    ],
)
def test_an_interpreters_script_is_checked_like_a_program(command: str, script: str):
    assert script_of(tuple(command.split())) == script


def test_two_malformed_requests_end_the_connection(asker: Asker):
    fingerprint, asker.fingerprint = asker.fingerprint, 1
    read, write = os.pipe()
    assert asker.launch(1, (read, write))[0] == errno.ESTALE
    asker.fingerprint = fingerprint
    os.close(read)
    os.close(write)
    for _ in range(2):
        asker.send_raw(b"x")
    replies = [asker.read(), asker.read()]
    assert [reply[0][2] for reply in replies if reply] == [errno.EMSGSIZE] * 2
    assert asker.read() is None


def test_without_descriptors_it_refuses_and_loses_nobody(asker: Asker):
    """A launcher that has no room is asked twice at each number of descriptors left, from none to enough."""
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(Running(asker, 1)) for _ in range(16)]
        for helper in running:
            helper.run("result = 1")
        launcher = asker.process.pid  # type: ignore[attr-defined]
        until(lambda: FORKED_AHEAD in map(name_of, below(launcher)))
        before = fds(launcher)
        outcomes = []
        with few_descriptors(launcher) as leave:
            for room in [room for room in range(16) for _ in range(2)]:
                leave(room)
                try:
                    with Running(asker, 1) as helper:
                        outcomes.append(helper.run("result = 0"))
                except Refused as error:
                    outcomes.append(error.errno)
                except (EOFError, BrokenPipeError):  # its own limit is the launcher's
                    assert asker.exited(helper.handle)[0] == "exec-failed"
        for helper in running:
            assert helper.run("result = 1") == 1
        asker.ping()
        until(lambda: FORKED_AHEAD in map(name_of, below(launcher)))
        assert fds(launcher) == before
    assert outcomes[:2] == [errno.EMFILE] * 2
    assert outcomes[-2:] == [0, 0]
    assert set(outcomes) <= {errno.EMFILE, errno.EINVAL, 0}


BLIND = """
import os, resource, select, socket
from helperd.sandbox.become import Child
from helperd.sandbox.custody import Custody
from helperd.sandbox.loop import Loop
from helperd.sandbox.post import Client

ours, theirs = socket.socketpair()
told = []
custody = Custody(Loop(), print, lambda helper, what, code: told.append((what, helper.how)), root=False, folder="")
program = os.open("/bin/sleep", os.O_PATH)
child = Child(("sleep", "100"), (), {0: program, 1: program, 2: program}, program, -1, 0, os.getpid())
helper = custody.start("h", child, Client(ours, "c", 0), 1, 0)
select.select([helper.errors], [], [])
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
custody.on_exec(helper)
custody.on_end(helper.pid, os.waitstatus_to_exitcode(os.waitpid(helper.pid, 0)[1]), core=False)
custody.sweep()
assert custody.helpers == {helper.handle: helper}, "somebody may be left"
resource.setrlimit(resource.RLIMIT_NOFILE, limits)
custody.sweep()
assert custody.helpers == {}
assert told == [("exited", "unverified"), ("empty", "unverified")], told
"""


def test_a_helper_that_cannot_be_looked_at_is_killed_and_not_given_up():
    done = subprocess.run(
        [sys.executable, "-c", BLIND], capture_output=True, text=True, check=False, timeout=HANGS_S
    )
    assert done.stderr == ""
    assert done.stdout == "h is killed, it cannot be looked at: Too many open files\n"


def test_signals_that_were_blocked_when_it_was_started_reach_it(tmp_path: Path):
    (tmp_path / "helpers.toml").write_text("")
    argv = [sys.executable, "-I", "-S", str(SCRIPT), f"--config={tmp_path}/helpers.toml", "--unprivileged"]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGCHLD])
    try:
        process = subprocess.Popen([*argv, f"--listen={tmp_path}/sock"])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    until((tmp_path / "sock").exists)
    process.terminate()
    assert process.wait(HANGS_S) == 0


def test_a_descriptor_whose_end_takes_a_minute_holds_nobody_up(asker: Asker):
    """A TCP socket that lingers, with bytes for a peer that does not read; the launcher's copy is the last."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        lingers = socket.create_connection(server.getsockname())
        peer, _ = server.accept()
        lingers.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                lingers.send(bytes(1 << 16))
        lingers.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
        launcher = asker.process.pid  # type: ignore[attr-defined]
        os.kill(launcher, signal.SIGSTOP)  # until the last descriptor of it is in the launcher's socket
        asker.send_raw(WIRE.pack(MAGIC, LAUNCH, 2, 1, 0, 1, 77), [lingers.fileno(), lingers.fileno()])
        lingers.close()
        os.kill(launcher, signal.SIGCONT)
        assert asker.reply(77)[0] == errno.ESTALE
        assert asker.ping() == 0
        peer.close()


def test_the_log_of_a_terminal_that_nobody_reads_waits_for_nobody():
    ours, theirs = os.openpty()
    code = "from helperd.sandbox.loop import Log\nlog = Log()\nfor _ in range(180): log.say('x' * 77)"
    try:
        done = subprocess.run([sys.executable, "-c", code], stderr=theirs, check=False, timeout=HANGS_S)
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 0


def test_without_descriptors_a_connection_waits_and_costs_nothing(tmp_path: Path):
    config = tmp_path / "helpers.toml"
    config.write_text(
        f'[[helper]]\nname = "h"\ncommand = ["/bin/true"]\n[[allow]]\nuid = {os.getuid()}\nhelpers = ["h"]\n'
    )
    argv = [sys.executable, "-I", "-S", str(SCRIPT), f"--config={config}", f"--listen={tmp_path}/sock"]
    with subprocess.Popen([*argv, "--unprivileged"], stderr=subprocess.PIPE, text=True) as process:
        try:
            until(lambda: answers(f"{tmp_path}/sock"))
            limits = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
            held = {int(name) for name in os.listdir(f"/proc/{process.pid}/fd")}
            free = next(number for number in range(len(held) + 1) if number not in held)
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (free, limits[1]))  # poll() wants no fewer
            with connect(f"{tmp_path}/sock") as asker:
                assert process.stderr
                assert process.stderr.readline() == "helperd-launcher: cannot accept: Too many open files\n"
                resource.prlimit(process.pid, resource.RLIMIT_NOFILE, limits)
                assert asker.ping() == 0
        finally:
            process.terminate()
            assert process.stderr
            assert process.stderr.read() == ""


def test_a_configuration_that_others_may_write_is_refused(tmp_path: Path):
    config = tmp_path / "helpers.toml"
    config.write_text("")
    config.chmod(0o666)
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(SCRIPT), f"--config={config}", "--unprivileged"],
        capture_output=True, text=True, check=False, timeout=HANGS_S,
    )  # fmt: skip
    assert done.returncode == 77
    assert f"{config} can be written by others: chmod go-w it" in done.stderr


@pytest.mark.parametrize(
    ("argv", "status"), [([], 64), (["--nonsense"], 64), (["--unprivileged", "--config=/nonexistent"], 77)]
)
def test_a_wrong_command_line_says_so(argv: list[str], status: int):
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(SCRIPT), *argv], capture_output=True, check=False, timeout=HANGS_S
    )
    assert done.returncode == status


def test_a_missing_library_is_named_with_what_installs_it():
    done = subprocess.run(
        [*without("tomli"), "--config=/none"], capture_output=True, text=True, check=False, timeout=HANGS_S
    )
    assert done.returncode == 69
    (line,) = done.stderr.splitlines()
    assert line == f"helperd-launcher: {sys.executable!a} has no tomli: {ROOT}/scripts/bootstrap"


@pytest.mark.parametrize(
    ("here", "python", "prctl", "tomli"),
    [
        (str(ROOT), "/usr/bin/python3", f"{ROOT}/scripts/bootstrap", f"{ROOT}/scripts/bootstrap"),
        ("/usr/lib/helperd", "/usr/bin/python3", "apt install python3-prctl", "apt install python3-tomli"),
        ("/v/lib", "/v/bin/python", f"{PIP} 'helperd[root]' {COMPILED}", f"{PIP} 'helperd'"),
    ],
    ids=["checkout", "Debian", "pip"],
)
def test_the_cure_is_the_one_of_this_place(
    monkeypatch: pytest.MonkeyPatch, here: str, python: str, prctl: str, tomli: str
):
    monkeypatch.setattr(launch, "HERE", here)
    monkeypatch.setattr(sys, "executable", python)
    assert (launch.cure("prctl"), launch.cure("tomli")) == (prctl, tomli)


@pytest.mark.need("root")
def test_the_launcher_of_root_insists_on_python_prctl(tmp_path: Path):
    environment = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [*without("prctl"), f"--config={tmp_path}/none", "--client-fd=0"],
        env=environment, capture_output=True, text=True, check=False, timeout=HANGS_S,
    )  # fmt: skip
    assert done.returncode == 69
    (line,) = done.stderr.splitlines()
    assert line == (
        "helperd-launcher: not-installed: the launcher of root needs python-prctl, No module named 'prctl': "
        f"{ROOT}/scripts/bootstrap"
    )


def test_what_stands_in_for_python_prctl_does_the_same():
    """Each call in a process of its own, through either; the kernel is asked what came of it."""
    code = """
import ctypes, importlib, os, sys
calls = importlib.import_module(sys.argv[1])
libc = ctypes.CDLL(None)
death, name = ctypes.c_int(), ctypes.create_string_buffer(16)
before = calls.get_no_new_privs()
calls.set_pdeathsig(15); calls.set_dumpable(0); calls.set_keepcaps(1); calls.set_name("a long name, cut here")
calls.set_child_subreaper(1); calls.set_no_new_privs(1)
libc.prctl(2, ctypes.byref(death), 0, 0, 0); libc.prctl(16, name, 0, 0, 0)
reaper = ctypes.c_int(); libc.prctl(37, ctypes.byref(reaper), 0, 0, 0)
kept = [libc.prctl(number, 0, 0, 0, 0) for number in (3, 7, 39)]
print(before, calls.get_no_new_privs(), death.value, name.value, reaper.value, kept)
"""
    said = [
        subprocess.run(
            [sys.executable, "-c", code, module],
            cwd=ROOT, capture_output=True, text=True, check=True, timeout=HANGS_S,
        ).stdout
        for module in ("prctl", "helperd.sandbox.attributes")
    ]  # fmt: skip
    assert said[0] == said[1] == "0 1 15 b'a long name, cu' 1 [0, 1, 1]\n"


def test_what_the_kernel_refuses_is_an_error_there_too():
    for call in ("set_pdeathsig", "set_dumpable", "set_no_new_privs"):
        with pytest.raises(OSError, match="Invalid argument"):
            getattr(attributes, call)(999)


@pytest.mark.need("root")
@pytest.mark.parametrize("ready", [True, False])
def test_where_no_process_can_be_made_a_helper_is_ended_all_the_same(
    monkeypatch: pytest.MonkeyPatch, *, ready: bool
):
    """With a sweeper at once; without one as soon as there can be one again."""

    def refused() -> int:
        raise BlockingIOError(errno.EAGAIN, "no process")

    told = []
    ours, theirs = pair()
    loop = Loop()
    custody = Custody(loop, pytest.fail, lambda _, what, __: told.append(what), root=False, folder="")
    custody.use(DaemonSpec().pool, [])
    program = os.open("/bin/true", os.O_PATH)
    child = Child(("true",), (), dict.fromkeys(range(3), program), program, -1, 0, os.getpid())
    with ours, theirs:
        if ready:
            custody.sweeper.start()
        helper = custody.start("h", child, Client(ours, "c", 0), 1, 0)
        code = os.waitstatus_to_exitcode(os.waitpid(helper.pid, 0)[1])
        helper.child = child._replace(
            uid=DaemonSpec().pool.own[-1], alone=True
        )  # nobody's: as if it had run under that
        custody.on_end(helper.pid, code, core=False)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fork", refused)
            custody.sweep()
            while ready and custody.helpers:
                loop.turn([time.monotonic() + HANGS_S])
                custody.sweep()
        assert told == ["exited", "empty"] if ready else told == ["exited"]
        while custody.helpers:
            loop.turn([custody.sweep_at])
            custody.sweep()
        custody.sweeper.end()
    os.close(program)
    os.close(helper.errors)
    assert told == ["exited", "empty"]


@pytest.mark.parametrize("failing", ["pidfd_open", "fork"])
def test_no_child_runs_that_nobody_could_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failing: str):
    def refused(*_: object) -> int:
        raise OSError(errno.ENFILE, "no descriptor")

    before = len(os.listdir("/proc/self/fd"))
    program = os.open("/bin/sh", os.O_PATH)
    words = ("sh", "-c", f"echo > {tmp_path}/ran")
    place = {0: program, 1: program, 2: program}
    child = Child(words, (), place, program, -1, 0, os.getpid())
    with monkeypatch.context() as patch:
        patch.setattr(os, failing, refused)
        with pytest.raises(OSError, match="no descriptor"):
            forks.fork(child)
    os.close(program)
    if failing == "pidfd_open":
        assert os.waitstatus_to_exitcode(os.waitpid(-1, 0)[1]) == 0
    assert not (tmp_path / "ran").exists()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_child_that_cannot_take_orders_says_why():
    code = (
        "import os, resource; from helperd.sandbox import forks; from helperd.sandbox.become import Child, fits\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))\n"
        "for _ in range(20):\n"
        "    before = len(os.listdir('/proc/self/fd'))\n"
        "    blank = forks.fork_blank()\n"
        "    os.waitid(os.P_PID, blank.pid, os.WEXITED | os.WNOWAIT)\n"
        "    try: blank.become(Child(('true',), (), {0: 0}, 0, -1, 0, os.getpid()))\n"
        "    except OSError as error: print(error)\n"
        "    os.wait()\n"
        "    assert len(os.listdir('/proc/self/fd')) == before"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=HANGS_S
    )
    assert done.stderr == ""
    assert done.stdout == "[Errno 22] orders: Invalid argument\n" * 20


def test_what_a_child_is_to_become_can_be_told():
    """Of plain values only: whatever ``Child`` has, marshal has to take it."""
    child = Child(
        ("a",),
        (("b", "c"),),
        {0: 1},
        2,
        3,
        4,
        5,
        6,
        "file",
        False,
        7,
        8,
        (9,),
        ((1, 2),),
        False,
        "d",
        "e",
        True,
        b"f",
    )
    assert len(child) == len(Child._fields)
    assert Child(*marshal.loads(marshal.dumps(tuple(child)))) == child


def test_without_the_supervisors_user_every_way_out_is_named(tmp_path: Path):
    with pytest.raises(
        CannotDrop, match=r"no user 'helperd'.*useradd.*user and group in .helperd.*--unprivileged"
    ):
        daemon_ids(DaemonSpec(), Accounts(str(tmp_path)))


def test_the_launcher_loads_little():
    """What it loads of ours, in lines; sources and sinks are not its business."""
    code = (
        "import sys, helperd.privsep\n"
        "from helperd import config\n"
        "config.load(sys.argv[1], whole=False)\n"
        "for name, module in list(sys.modules.items()):\n"
        "    if name.startswith('helperd'): print(name, module.__file__)"
    )
    argv = [sys.executable, "-c", code, str(PRIVSEP.parent.parent / "config" / "helpers.toml")]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=HANGS_S)
    loaded = dict(line.split() for line in done.stdout.splitlines())
    assert "helperd.config.check" in loaded
    assert not {
        f"helperd.config.{name}" for name in ("helpers", "sources", "sinks", "filesink", "whole")
    } & set(loaded)
    lines = sum(Path(file).read_text().count("\n") for file in loaded.values())
    assert lines <= 5737, f"{lines} lines"


def test_the_launcher_is_small():
    lines = PRIVSEP.read_text().count("\n")
    assert lines <= 450, f"privsep.py has {lines} lines"


# the parser


@given(st.binary(max_size=64), st.integers(0, 70000), st.booleans())
def test_any_packet_is_a_request_or_an_errno(data: bytes, profiles: int, carries: bool):
    found = parse(data, profiles, carries=carries)
    assert isinstance(found, Request) or found in errno.errorcode


def test_every_field_is_checked():
    good = (MAGIC, LAUNCH, 3, 2, 0, 7, 1)
    assert parse(WIRE.pack(*good), 2, carries=True) == Request(LAUNCH, 2, 0, 7, 1, 3)
    assert parse(WIRE.pack(*good), 2, carries=False) == errno.EBADMSG
    for change, number in (
        ({0: b"HDL2"}, errno.EPROTO), ({1: 4}, errno.EOPNOTSUPP), ({1: 0}, errno.EOPNOTSUPP), ({2: 1}, errno.EBADMSG),
        ({2: 0}, errno.EBADMSG),
        ({2: 5}, errno.EBADMSG), ({3: 0}, errno.EINVAL), ({3: 3}, errno.EINVAL), ({4: 2}, errno.EINVAL),
        ({6: 0}, errno.EPROTO),
    ):  # fmt: skip
        fields = list(good)
        for place, value in change.items():
            fields[place] = value
        assert parse(WIRE.pack(*fields), 2, carries=True) == number, change
    assert (
        parse(WIRE.pack(MAGIC, SIGNAL, 0, 0, 5, 19, 1), 2, carries=False) == errno.EINVAL
    )  # STOP is not passed on
    assert parse(WIRE.pack(MAGIC, SIGNAL, 0, 0, 5, 15, 1), 2, carries=False) == Request(SIGNAL, 0, 5, 15, 1)
    assert parse(WIRE.pack(*good)[:-1] + b"x", 2, carries=True) == errno.EPROTO
    assert parse(WIRE.pack(*good) + b"x", 2, carries=True) == errno.EMSGSIZE


def test_descriptors_of_a_wrong_kind_or_direction_are_refused():
    """And of none is asked what its file system, or its peer, would have to answer."""
    read, write = os.pipe()
    near, far = socket.socketpair()
    null = os.open("/dev/null", os.O_RDWR)
    path = os.open("/dev/null", os.O_PATH)
    with socket.socket(socket.AF_INET) as inet, tempfile.TemporaryFile() as file, near, far:
        page, sealed = (os.memfd_create("x", os.MFD_ALLOW_SEALING) for _ in range(2))
        fcntl.fcntl(sealed, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        kinds = {"read": read, "write": write, "unix": near.fileno(), "sealed": sealed}
        kinds |= {"null": null, "path": path, "inet": inet.fileno(), "file": file.fileno(), "page": page}
        good = [{"read", "unix"}, {"write", "unix"}, {"write", "unix"}, {"sealed"}]
        for position, names in enumerate(good):
            assert {name for name, fd in kinds.items() if fits(position, fd)} == names
    for fd in (read, write, null, path, page, sealed):
        os.close(fd)


def shares(*rounds: list[str]) -> dict[str, int]:
    custody = Custody(Loop(), pytest.fail, lambda *_: None, root=True, folder="")
    for names in rounds:
        custody.share(names, DaemonSpec().pool.shared)
    return {name: custody.take_uid("shared", name, True) for name in rounds[-1]}


def test_a_shared_uid_comes_from_the_helpers_name_wherever_it_stands():
    alone = shares(["linuxwifi"])["linuxwifi"]
    assert alone in DaemonSpec().pool.shared
    for names in (["other", "linuxwifi"], ["linuxwifi", "third", "other"], ["a", "b", "c", "d", "linuxwifi"]):
        found = shares(names)
        assert found["linuxwifi"] == alone
        assert len(set(found.values())) == len(names)
        assert shares(list(reversed(names))) == found


def test_a_helper_keeps_its_shared_uid_while_others_come_and_go():
    names = [f"helper-{number}" for number in range(20)]  # so many that some names lead to one number
    before = shares(names)
    assert len(set(before.values())) == len(names)
    assert shares(names, ["helper-3", "aaa", "bbb"])["helper-3"] == before["helper-3"]
    assert shares(names, [], names) == before


def test_who_is_no_longer_configured_gives_its_shared_uid_back_when_it_is_needed():
    full = [f"helper-{number}" for number in range(len(DaemonSpec().pool.shared))]
    assert set(shares(full).values()) == set(DaemonSpec().pool.shared)
    found = shares(full, [*full[1:], "new"])
    assert set(found.values()) == set(DaemonSpec().pool.shared)
    with pytest.raises(OSError, match="every uid for uid = shared"):
        shares([*full, "one too many"])


def test_what_a_launch_does_is_done_for_nothing_after_a_fork(tmp_path, monkeypatch):
    """Else the next launch waits for a copy of each page that the fork has left shared."""
    (tmp_path / "helpers.toml").write_text('[[helper]]\nname = "x"\ncommand = ["/usr/bin/env", "x"]\n')
    launcher = Launcher(str(tmp_path / "helpers.toml"), root=False)
    launcher.read()
    launcher.last, launcher.custody.ahead_at = launcher.profiles[0], 1.0
    seen, real, before = list[Child](), forks.Blank.rehearse, len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(forks.Blank, "rehearse", lambda *args: real(*args) or seen.append(args[1]))
    launcher.fork_ahead()
    blank = launcher.custody.blank
    assert blank is not None
    try:
        assert [child.argv[:2] for child in seen] == [("/usr/bin/env", "x")]
        assert blank.untouched
        left = len(os.listdir("/proc/self/fd")) - before
        assert left == 3, "its orders, its errors, its pidfd"
        launcher.fork_ahead()
        assert len(seen) == 1
    finally:
        blank.end()
        os.waitpid(blank.pid, 0)
        os.close(launcher.null)


def test_who_is_left_after_a_kill_is_killed_again(monkeypatch: pytest.MonkeyPatch):
    """The sweeper may have been killed with its order; nobody is asked about for ever."""
    held = Custody(Loop(), print, lambda *_: None, root=True, folder="")
    held.ranges = (range(60800, 60810), range(0), range(60810, 60812))
    orders = list[float]()
    monkeypatch.setattr(held.sweeper, "ask", lambda _uid, killed: orders.append(killed) or killed or 1.0)
    monkeypatch.setattr(processes, "of_others", lambda *_: set[int]())
    monkeypatch.setattr(processes, "alive", lambda uids: uids)
    child = Child((), (), {}, -1, -1, 0, os.getpid(), uid=60800, alone=True)
    ours, theirs = pair()
    with ours, theirs:
        helper = Helper(1, "it", child, Client(ours, "somebody", -1), (1 << 30, -1, -1))
        helper.exited = helper.dying = True
        held.helpers[1], held.pause = helper, LOOK_S
        for _ in range(3):  # killed; looked for, and found; killed again
            held.sweep()
    assert orders == [0.0, 0.0]
