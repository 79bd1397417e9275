"""The C SDK under AddressSanitizer and UndefinedBehaviorSanitizer, fed with damaged recordings.

HELPERD_FUZZ_EXECUTIONS=1000000 runs that many; otherwise it takes 20 s.
"""

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from helperd.wire import bulk, v3
from helperd.wire.messages import (
    ConfigureRequest,
    Hopping,
    ListRequest,
    OpenRequest,
    Ping,
    ProbeRequest,
    Register,
)
from helperd.wire.session import Role, Session
from tests.csdk.build import BUILD_S, compile_c, folder

SANITIZERS = (
    "-std=c99",
    "-O1",
    "-g",
    "-pthread",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
)
ROOT = Path(__file__).resolve().parents[2]
SECONDS = 20


def ours(tmp_path):
    """Conversations that no recording has: helperd's own messages, hop lists, long definitions."""
    hello = Session(Role.SUPERVISOR).greeting()
    accepted = [
        Ping(),
        Register(bulk.SUBSYSTEM),
        OpenRequest('"a:b":number=5,flag=true,name="x, y"'),
        Register(bulk.SUBSYSTEM, 3, 147),
    ]
    hops = Hopping(("1", "2", "x", "36HT40+"), rate=5.5, shuffle=True, skip=3, offset=2)
    talks = {
        "helperd": [
            *accepted,
            ConfigureRequest("6"),
            ConfigureRequest(hopping=hops),
            Register(bulk.SUBSYSTEM, None, 100),
        ],
        "kismet": [
            Ping(),
            OpenRequest("x:6,11,name=a,channels=1,number=3,name=a"),
            ConfigureRequest(hopping=hops),
        ],
        "list": [Ping(), ListRequest(), Ping()],
        "rates": [
            Ping(),
            OpenRequest("x:type=fuzz"),
            *(
                ConfigureRequest(hopping=Hopping(("1", "2"), rate=rate))
                for rate in (5e-324, 1e-300, 1e-9, 9e8)
            ),
        ],
        "probe": [ProbeRequest("x:type=fuzz," + "o=" + "v" * 3000), Ping()],
        "long": [
            Ping(),
            OpenRequest("x:type=fuzz"),
            ConfigureRequest(hopping=Hopping(tuple(map(str, range(900))))),
        ],
    }
    for name, messages in talks.items():
        data = hello + b"".join(v3.encode(message, number) for number, message in enumerate(messages, 1))
        (tmp_path / name).write_bytes(data)
        yield str(tmp_path / name)


@pytest.fixture(scope="session")
def fuzzer(request):
    cc = next((name for name in ("clang", "gcc", "cc") if shutil.which(name) and sanitizes(name)), None)
    if cc is None:
        pytest.skip("no compiler with sanitizers: apt install gcc libasan8 libubsan1, or clang")
    return compile_c(folder() / "fuzz", Path(__file__).with_name("fuzz.c"), cc=cc, flags=SANITIZERS)


def sanitizes(cc):
    """Whether it can build a program with both, and that runs here."""
    program = folder() / f"sane-{cc}"
    built = subprocess.run(
        [cc, *SANITIZERS, "-x", "c", "-o", str(program), "-"], input="int main(void) { return 0; }", text=True,
        capture_output=True, timeout=BUILD_S, check=False,
    )  # fmt: skip
    return (
        built.returncode == 0 and subprocess.run([program], capture_output=True, check=False).returncode == 0
    )


@pytest.mark.need("cc")
@pytest.mark.timeout(3600)
def test_nothing_that_a_supervisor_says_is_read_beyond_its_end(fuzzer, tmp_path):
    executions = int(os.environ.get("HELPERD_FUZZ_EXECUTIONS", "0"))
    files = [*map(str, sorted((ROOT / "tests" / "vectors").glob("*.tosend.bin"))), *ours(tmp_path)]
    files += map(str, sorted((ROOT / "tests" / "fuzz" / "corpus").iterdir()))
    seed = random.SystemRandom().randrange(1 << 30)
    argv = [fuzzer, str(0 if executions else SECONDS), str(executions), str(seed), *files]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=3000, check=False)
    assert done.returncode == 0, f"seed {seed}: {done.stderr[-4000:]}"
    count, captures, tuned = map(int, done.stdout.split())
    assert count >= max(1000, executions)
    assert captures > count // 100  # it is not stopped at the door
    assert tuned > count // 1000
    print(f"{count:,} executions, {captures:,} captures, {tuned:,} tuned, seed {seed}")
