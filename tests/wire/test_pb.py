"""The generated protobuf code: up to date, importable with every runtime we allow, and imported only when needed.

HELPERD_PB_RUNTIMES names virtual environments (with colons) that hold other protobuf runtimes; the range is 3.20.2 to
7.x. Without it only the runtime of the tests is tried.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
RUNTIMES = [path for path in os.environ.get("HELPERD_PB_RUNTIMES", "").split(":") if path]

EXERCISE = """
import google.protobuf
from helperd.wire import messages as m, v0, v2
from helperd.wire.frames import FrameScanner, Run
report = m.DataReport(m.Packet(b"abc", 1, 2, 3), m.Signal(-60.0), m.Gps(1.0, 2.0), m.Json("t", "{}", 1, 2))
said = [
    m.OpenReport(1, dlt=127, channels=("1", "6"), hopping=m.Hopping(("1",), 5.0, True, 1, 0), message="hi", uuid="u"),
    m.Text(m.Severity.ALERT, "x"), m.ErrorReport(1, "no"), m.HttpRequest(1, "/", "GET", (("a", "b"),)),
    m.BluetoothReport(m.BluetoothDevice("00:11")), m.EventRegister(("*",)), m.AuthToken("t"), report,
]
for generation in (v0, v2):
    stream = b"".join(generation.encode(one, 7) for one in said)
    heard = []
    for item in FrameScanner((generation,)).feed(stream):
        heard += generation.reports(item) if isinstance(item, Run) else [generation.decode(item)]
    assert heard == said, heard
    try:
        for item in FrameScanner((generation,)).feed(generation.encode(m.Pong(1), 1).replace(b"PONG", b"KDSP")):
            generation.decode(item)
    except Exception as error:
        assert type(error).__name__ == "RemoteProtocolError", error
    broken = v2.encode(m.Pong(1), 1)[:11] + b"\\x00" + v2.encode(m.Pong(1), 1)[12:48]
    try:
        (item,) = FrameScanner((v2,)).feed(broken)
        v2.decode(item)
        raise SystemExit("a missing field passed")
    except Exception as error:
        assert getattr(error, "problem", "") == "bad-payload", error
print(google.protobuf.__version__)
"""


def run(python, *words):
    done = subprocess.run(
        [python, "-W", "error", *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def test_the_generated_code_is_what_proto_says():
    assert "up to date" in run(sys.executable, "scripts/proto", "--check")


def test_this_runtime_takes_the_generated_code():
    assert run(sys.executable, "-c", EXERCISE)


def test_other_runtimes_take_the_generated_code():
    if not RUNTIMES:
        pytest.skip("HELPERD_PB_RUNTIMES names no environments with other protobuf runtimes (3.20.2 to 7.x)")
    for folder in RUNTIMES:
        assert run(str(Path(folder) / "bin" / "python"), "-c", EXERCISE)


def test_v3_needs_no_protobuf_and_no_msgpack():
    """A helper that is addressed in v3 pays for neither when it starts."""
    told = run(
        sys.executable,
        "-c",
        "import sys; from helperd.wire.session import Role, Session, V2_PING; from helperd.wire import messages as m\n"
        "s = Session(Role.HELPER); s.receive(V2_PING); s.send(m.Pong(0))\n"
        "print([name for name in sys.modules if name.startswith(('google', 'msgpack', 'helperd.wire.pb.', 'trio'))])",
    )
    assert told == "[]"
