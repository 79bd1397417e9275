"""What a program gets that an adapter wraps, and what is left of it: descriptors, signals, environment, FIFOs, talk."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from helperd.wire.messages import OpenReport, OpenRequest, ProbeReport, ProbeRequest, Severity, Shutdown, Text
from tests.helpers.peer import ENTRY, PYTHON, Peer
from tests.helpers.test_adapters import LITTLE, PACKETS, opened, program
from tests.helpers.test_capturefile import pcap
from tests.patience import promptly

LIBC = 1 << 31 | 1 << 32  # signals 32 and 33, which the C library keeps for itself; the launcher resets them
ADAPTERS = ["pipe", "jsonlines", "extcap"]
# Starts a helper as badly as a server can: with a counter page, a directory and a socket open, and signals ignored.
LEAKY = """
import os, signal, socket, sys
page = os.memfd_create("page"); os.ftruncate(page, 4096)
ends = socket.socketpair()
for number, fd in ((205, page), (217, os.open("/", os.O_RDONLY)), (218, ends[0].fileno())):
    os.dup2(fd, number)
for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD, signal.SIGINT, signal.SIGTSTP, signal.SIGPIPE):
    signal.signal(number, signal.SIG_IGN)
os.execv(sys.argv[1], sys.argv[1:])
"""
# Says what it finds when it begins, then does an adapter's work.
CURIOUS = """#!/bin/sh
{{ ls -l /proc/$$/fd; while read -r line; do echo "$line"; done < /proc/$$/status; env; }} > {told}
case "$*" in
*--extcap-interfaces*) echo 'extcap {{version=1}}'; echo 'interface {{value=x}}{{display=X}}';;
*--extcap-dlts*) echo 'dlt {{number=1}}{{name=E}}{{display=E}}';;
*--extcap-config*) ;;
*--fifo*) while [ "$1" != --fifo ]; do shift; done; cat {data} > "$2";;
*) cat {data};;
esac
"""


@pytest.mark.parametrize(("adapter", "job"), [*((one, "open") for one in ADAPTERS), ("extcap", "probe")])
def test_a_program_inherits_its_standard_descriptors_and_no_more(
    tmp_path: Path, adapter: str, job: str
) -> None:
    data, told, script = tmp_path / "data", tmp_path / "told", tmp_path / "tool"
    data.write_bytes(b'{"a": 1}\n' if adapter == "jsonlines" else pcap(LITTLE, PACKETS))
    script.write_text(CURIOUS.format(told=told, data=data))
    script.chmod(0o755)
    argv = [sys.executable, "-c", LEAKY, *PYTHON, str(ENTRY), adapter, "--", str(script)]
    with Peer(argv=argv, env={"HELPERD_SEAL": "0", "SECRET": "kept"}) as peer:
        if job == "probe":
            peer.send(ProbeRequest("x:type=x"))
            assert peer.expect(ProbeReport).success
        else:
            opened(peer, f"x:type={adapter}")
        peer.until_eof()
        peer.wait()
    lines = told.read_text().splitlines()
    links = dict(line.split(" -> ") for line in lines if " -> " in line)
    fds = {name.split()[-1]: where for name, where in links.items()}
    assert fds.pop("0") == "/dev/null"
    assert fds.pop("1") == str(told)  # the block's own; outside of it, and 2, a pipe of the adapter's
    assert fds.pop("2").startswith("pipe:")
    saved = {
        name: where for name, where in fds.items() if where != str(script) and not where.startswith("pipe:")
    }
    assert saved == {}
    assert (
        len([where for where in fds.values() if where.startswith("pipe:")]) <= 1
    )  # where the shell keeps its 1
    masks = dict(line.split(":\t") for line in lines if line.startswith("Sig"))
    assert {name: int(masks[name], 16) & ~LIBC for name in ("SigBlk", "SigIgn")} == {"SigBlk": 0, "SigIgn": 0}
    assert "SECRET=kept" in lines
    assert not [line for line in lines if line.startswith("HELPERD_")]


TOOL = """
import struct, subprocess
args = sys.argv[1:]
if '--extcap-interfaces' in args:
    print('extcap {version=1.0}')
    print('interface {value=fake0}{display=A fake}')
    CONTROLS
elif '--extcap-dlts' in args:
    print('dlt {number=147}{name=USER0}{display=Fake}')
elif '--capture' in args:
    def after(name):
        return args[args.index(name) + 1]
    fifo = after('--fifo')
    def capture(path=fifo):
        with open(path, 'wb', buffering=0) as file:
            file.write(open(DATA, 'rb').read())
    BODY
"""
WAYS = {
    "itself": "capture()",
    "a child": "subprocess.run(['/bin/sh', '-c', f'exec cat {DATA} > {fifo}'], check=True)",
    "a grandchild that outlives it": "subprocess.Popen(['/bin/sh', '-c', f'(sleep 0.3; cat {DATA}) > {fifo} &'])",
    "a grandchild that comes late": "subprocess.Popen(['/bin/sh', '-c', f'(sleep 0.3; exec cat {DATA} > {fifo}) &'])",
    "another name": "os.symlink(fifo, DATA + '.link'); capture(DATA + '.link')",
    "a second look": "open(fifo, 'wb').close(); time.sleep(0.05); open(fifo, 'wb').close(); capture()",
    "a child in another session": "subprocess.run(['setsid', '-w', 'cp', DATA, fifo], check=True)",
}


def tool(tmp_path: Path, body: str, controls: str = "pass") -> str:
    data = tmp_path / "data.pcap"
    data.write_bytes(pcap(LITTLE, PACKETS, linktype=147))
    text = TOOL.replace("BODY", body).replace("CONTROLS", controls)
    return program(tmp_path, f"DATA = {str(data)!r}\n{text}")


@pytest.fixture(params=["named", "own"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, dict[str, str]]:
    """Where a helper makes its directory, and what it is told of it: by helperd's launcher, or by nobody."""
    place = tmp_path / "place"
    place.mkdir()
    return place, {"HELPERD_DIR": str(place / "given")} if request.param == "named" else {
        "TMPDIR": str(place)
    }


@pytest.mark.parametrize("way", WAYS)
def test_extcap_packets_come_through_a_fifo_that_any_process_can_open(
    tmp_path: Path, folder: tuple[Path, dict[str, str]], way: str
) -> None:
    place, env = folder
    with Peer("extcap", "--", tool(tmp_path, WAYS[way]), env=env) as peer:
        assert opened(peer, "fake0:type=fake").dlt == 147
        assert peer.until_eof() == [(147, *packet) for packet in PACKETS]
        assert peer.wait() == 0
    assert list(place.iterdir()) == []


SEEN = "import stat; s = os.stat(fifo); d = os.stat(os.path.dirname(fifo)); "
SEEN += "print(stat.S_ISFIFO(s.st_mode), oct(s.st_mode & 0o777), oct(d.st_mode & 0o777), file=sys.stderr); capture()"
ENDS = {
    "the tool's end": ("capture()", "fake0:type=fake", lambda peer: None),
    "a tool that fails": ("sys.exit(3)", "fake0:type=fake", lambda peer: None),
    "a signal": ("capture(); time.sleep(60)", "fake0:type=fake", Peer.terminate),
    "the end of the input": ("capture(); time.sleep(60)", "fake0:type=fake", Peer.close_input),
    "a signal before the header": ("time.sleep(60)", "fake0:type=fake", None),
    "a wrong option": ("capture()", "fake0:type=fake,speed=9", lambda peer: None),
}


@pytest.mark.parametrize("end", ENDS)
def test_extcap_leaves_no_fifo_behind(tmp_path: Path, folder: tuple[Path, dict[str, str]], end: str) -> None:
    place, env = folder
    body, definition, act = ENDS[end]
    begun = tmp_path / "begun"
    controls = "print('control {number=0}{type=string}{display=Message}')"
    body = f"open({str(begun)!r}, 'w').close(); {body}"
    with Peer("extcap", "--", tool(tmp_path, body, controls), env=env) as peer:
        peer.send(OpenRequest(definition))
        if act is None:
            while not begun.exists():
                peer.read(0.01)
            assert [path.name for path in sorted(next(place.iterdir()).iterdir())] == [
                "control-in",
                "control-out",
                "packets",
            ]
            peer.terminate()
        else:
            peer.expect(OpenReport)
            act(peer)
        with promptly(end, 1.5):
            peer.until_eof()
            peer.wait()
        assert "Traceback" not in peer.stderr()
    assert list(place.iterdir()) == []


def test_extcap_fifo_is_for_its_user_alone(tmp_path: Path) -> None:
    with Peer("extcap", "--", tool(tmp_path, SEEN)) as peer:
        opened(peer, "fake0:type=fake")
        peer.until_eof()
        peer.wait()
        assert "True 0o600 0o700" in peer.stderr()


def test_extcap_says_when_it_cannot_make_its_fifos(tmp_path: Path) -> None:
    env = {"HELPERD_DIR": str(tmp_path / "no" / "such")}
    with Peer("extcap", "--", tool(tmp_path, "capture()"), env=env) as peer:
        peer.send(OpenRequest("fake0:type=fake"))
        report = peer.expect(OpenReport)
        assert (report.success, report.problem) == (False, "no-resources")
        assert f"cannot make a FIFO for the program ({tmp_path}/no/such): No such file" in report.message


LOGGER = "print('control {number=0}{type=string}{display=M}'); "
LOGGER += "print('control {number=3}{type=button}{role=logger}{display=Log}')"
# Each message is written by a process of its own, which opens the FIFO and closes it again.
TALK = """
    def say(number, command, text):
        body = bytes([number, command]) + text.encode()
        message = b'T' + len(body).to_bytes(3, 'big') + body
        words = ''.join(f'\\\\%03o' % byte for byte in message)
        subprocess.run(['/bin/sh', '-c', f"printf '{words}' > {after('--extcap-control-out')}"], check=True)
    say(3, 2, 'tuned to 868 MHz\\nlistening\\n')
    say(3, 1, 'begun again\\n\\n')
    say(0, 1, 'a value, not a line')
    say(3, 8, 'antenna loose')
    say(0, 6, 'in the status bar')
    say(3, 2, 'the last')
    capture()
"""


def test_extcap_lines_for_the_logger_and_messages_reach_the_user(tmp_path: Path) -> None:
    with Peer("extcap", "--", tool(tmp_path, TALK.strip(), LOGGER)) as peer:
        opened(peer, "fake0:type=fake")
        peer.until_eof()
        assert peer.wait() == 0
        texts = [message for message in peer.messages if isinstance(message, Text)]
    said = ["tuned to 868 MHz", "listening", "begun again", "in the status bar", "the last"]
    assert [text.text for text in texts if text.severity is Severity.INFO][:5] == said
    assert Text(Severity.ALERT, "antenna loose") in texts
    assert not [text for text in texts if "a value" in text.text]


@pytest.mark.parametrize(
    "nonsense", ["'x' * 100", "'T\\\\377\\\\377\\\\377\\\\3\\\\2abc'", "'T\\\\0\\\\0\\\\1\\\\3\\\\2'"]
)
def test_extcap_control_nonsense_is_told_once_and_disturbs_nothing(tmp_path: Path, nonsense: str) -> None:
    body = f"out = open(after('--extcap-control-out'), 'wb', 0)\n    text = {nonsense}\n"
    body += (
        "    out.write(text.encode().decode('unicode_escape').encode('latin-1')); out.write(b'T' * 300000)\n"
    )
    body += "    capture()"
    with Peer("extcap", "--", tool(tmp_path, body, LOGGER)) as peer:
        opened(peer, "fake0:type=fake")
        assert len(peer.until_eof()) == len(PACKETS)
        texts = [message.text for message in peer.messages if isinstance(message, Text)]
    assert sum("make no sense" in text for text in texts) == 1


LEAVES_SLOWLY = """
def leave(*_):
    time.sleep(0.6)  # it puts its device in order
    open(MARK, 'w').close()
    os._exit(0)
signal.signal(signal.SIGTERM, leave)
sys.stdout.buffer.write(open(DATA, 'rb').read())
sys.stdout.flush()
while True:
    time.sleep(0.05)  # signal.pause() would sleep through one that comes just before it
"""


@pytest.mark.parametrize("end", ["sigterm", "eof", "shutdown"])
@pytest.mark.parametrize("grace", ["10", "0.1"])
@pytest.mark.parametrize("adapter", ["pipe", "jsonlines"])
def test_a_program_has_the_grace_of_its_block_to_end(
    tmp_path: Path, adapter: str, grace: str, end: str
) -> None:
    data, mark = tmp_path / "data", tmp_path / "mark"
    data.write_bytes(b'{"a": 1}\n' if adapter == "jsonlines" else pcap(LITTLE, PACKETS))
    tool = program(tmp_path, f"DATA, MARK = {str(data)!r}, {str(mark)!r}\n{LEAVES_SLOWLY}")
    with Peer(adapter, "--", tool, env={"HELPERD_TERM_GRACE": grace}) as peer:
        opened(peer, f"x:type={adapter}")
        while not peer.runs:  # its output comes behind its handler
            assert peer.read()
        if end == "shutdown":
            peer.send(Shutdown("enough"))
        else:
            peer.terminate() if end == "sigterm" else peer.close_input()
        peer.until_eof()
        assert peer.wait() == 0
    assert mark.exists() is (grace == "10")
