"""Each bundled helper, asked to end at every point of its life, ends cleanly and says why.

The points are the calls that its own thread makes: at the n-th it gets the signal, and waits there until its main
thread has answered it.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from helperd.wire.messages import (
    ListReport,
    ListRequest,
    OpenReport,
    OpenRequest,
    ProbeReport,
    ProbeRequest,
    Shutdown,
)
from tests.helpers.peer import ENTRY, PYTHON, Peer, environment
from tests.helpers.test_adapters import LITTLE, PACKETS, program
from tests.helpers.test_capturefile import pcap
from tests.patience import promptly

AT_CALL = f"""
import os, runpy, signal, sys, threading
number = int(sys.argv[1])
sys.argv = [{str(ENTRY)!r}, *sys.argv[2:]]
answered, plain, calls = threading.Event(), os.eventfd_write, 0
def write(fd, value):
    plain(fd, value)
    threading.Timer(0.02, answered.set).start()  # what follows it in the main thread is done by then
os.eventfd_write = write
def trace(frame, event, arg):
    global calls
    if "/helperd/helpers/" in frame.f_code.co_filename and threading.current_thread().name == "capture":
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGTERM)
            answered.wait(0.3)  # not for ever: it may hold the lock that the main thread wants
threading.settrace(trace)
runpy.run_path({str(ENTRY)!r}, run_name="__main__")
"""
TOOL = """
if '--extcap-interfaces' in sys.argv:
    print('extcap {version=1.0}')
    print('interface {value=x}{display=X}')
    print('control {number=0}{type=string}{display=Message}')
elif '--capture' in sys.argv:
    with open(sys.argv[sys.argv.index('--fifo') + 1], 'wb', 0) as file:
        file.write(open(DATA, 'rb').read())
        time.sleep(60)
"""
CALLS = [1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144]
JOBS = ["list", "probe", "open"]


@pytest.fixture
def helpers(tmp_path: Path) -> dict[str, tuple[list[str], str]]:
    """Words and definition of each; all but ``pcapfile`` capture for ever."""
    data = tmp_path / "data.pcap"
    data.write_bytes(pcap(LITTLE, PACKETS[:10]))
    lines = program(tmp_path, "print('{}', flush=True); time.sleep(60)", "lines")
    packets = program(
        tmp_path,
        f"sys.stdout.buffer.write(open({str(data)!r}, 'rb').read())\nsys.stdout.flush(); time.sleep(60)",
        "p",
    )
    return {
        "pcapfile": ([], f"{data}:type=pcapfile"),
        "synthetic": ([], "radio0:type=synthetic,rate=10"),
        "interface": ([], "lo:type=interface"),
        "pipe": (["--", packets], "x:type=pipe"),
        "jsonlines": (["--", lines], "x:type=jsonlines"),
        "extcap": (["--", program(tmp_path, f"DATA = {str(data)!r}\n{TOOL}", "t")], "x:type=extcap"),
    }


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("name", ["pcapfile", "synthetic", "interface", "pipe", "jsonlines", "extcap"])
def test_it_ends_cleanly_at_every_call_and_says_why(
    helpers: dict[str, tuple[list[str], str]], name: str, job: str, request: pytest.FixtureRequest
) -> None:
    if name == "interface":
        request.getfixturevalue("need")("root")
    words, definition = helpers[name]
    asked = {"list": ListRequest(), "probe": ProbeRequest(definition), "open": OpenRequest(definition)}[job]
    report = {"list": ListReport, "probe": ProbeReport, "open": OpenReport}[job]
    reasons = set()
    for number in CALLS if job == "open" else CALLS[:6]:
        with Peer(
            argv=[*PYTHON, "-c", AT_CALL, str(number), name, *words], env={"HELPERD_SEAL": "0"}
        ) as peer:
            peer.send(asked)
            while (
                not any(isinstance(message, report | Shutdown) for message in peer.messages) and not peer.eof
            ):
                peer.read()
            if job == "open" and not peer.eof:  # it made fewer calls, or is past them
                peer.terminate()
            with promptly(f"{name} at call {number} of {job}", 1.5):
                peer.until_eof()
                status = peer.wait()
            own = [
                line for line in peer.stderr().splitlines() if not line.startswith(("p: ", "t: ", "lines: "))
            ]
            assert (status, own) == (0, []), number
            said = [message.reason for message in peer.messages if isinstance(message, Shutdown)]
            answered = any(isinstance(message, report) for message in peer.messages)
            assert said or (job != "open" and answered), number
            reasons.update(said)
    assert "asked to end by SIGTERM" in reasons
    own = {reason for reason in reasons if name == "pcapfile" and "10 packets" in reason}
    assert reasons - own == {"asked to end by SIGTERM"}


@pytest.mark.parametrize("end", ["sigterm", "sigint", "shutdown", "eof"])
@pytest.mark.parametrize("waits", ["the header", "the answer", "the writer"])
def test_an_open_that_would_wait_for_ever_is_ended(tmp_path: Path, waits: str, end: str) -> None:
    begun = tmp_path / "begun"
    body = f"open({str(begun)!r}, 'w').close(); time.sleep(60)"
    if waits == "the writer":
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        begun.touch()
        peer = Peer("pipe")
        definition = f"{fifo}:type=pipe"
    else:
        peer = Peer("pipe" if waits == "the header" else "extcap", "--", program(tmp_path, body))
        definition = "x:type=pipe" if waits == "the header" else "x:type=extcap"
    with peer:
        peer.send(OpenRequest(definition))
        while not begun.exists():
            peer.read(0.01)
        with promptly(f"{end} while it waits for {waits}", 1.0):
            if end == "shutdown":
                peer.send(Shutdown("enough"))
            elif end == "eof":
                peer.close_input()
            else:
                peer.process.send_signal(15 if end == "sigterm" else 2)
            peer.until_eof()
            assert peer.wait() == 0
        assert "Traceback" not in peer.stderr()
        assert not [message for message in peer.messages if isinstance(message, OpenReport)]
        said = [message.reason for message in peer.messages if isinstance(message, Shutdown)]
    assert said == ([f"asked to end by {end.upper()}"] if end.startswith("sig") else [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("at", ["helperd.printing", "helperd.wire.v3", "helperd.helpers._runner"])
def test_one_that_is_ended_while_it_is_imported_says_nothing(number: signal.Signals, at: str) -> None:
    script = f"""
import importlib.abc, os, runpy, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a suite under nohup ignores it
class Ends(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {at!r}:
            os.kill(os.getpid(), {number:d})
sys.meta_path.insert(0, Ends())
sys.argv = [{str(ENTRY)!r}, "synthetic", "--in-fd=0", "--out-fd=1"]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    done = subprocess.run(
        [*PYTHON, "-c", script], env=environment(), capture_output=True, stdin=subprocess.DEVNULL, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (-number, b"", b"")
