"""The C SDK under AddressSanitizer and UndefinedBehaviorSanitizer, fed with damaged recordings.

HELPERD_FUZZ_EXECUTIONS=1000000 runs that many; otherwise it takes 20 s.
"""

import math
import os
import random
import shutil
import struct
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
    """Conversations that no recording has: helperd's own messages, hop lists, odd numbers, long definitions."""
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
        "channel": [Ping(), OpenRequest("x:type=fuzz,channel=6"), ConfigureRequest(hopping=hops)],
        "channel too long": [Ping(), OpenRequest("x:type=fuzz,channel=" + "6" * 64)],
        "list": [Ping(), ListRequest(), Ping()],
        "rates": [
            Ping(),
            OpenRequest("x:type=fuzz"),
            *(
                ConfigureRequest(hopping=Hopping(("1", "2"), rate=rate))
                for rate in (5e-324, 1e-300, 1e-9, 9e8, 3.0)
            ),
        ],
        **{
            f"option {text}": [Ping(), OpenRequest(f"x:type=fuzz,number={text}")]
            for text in (
                "-5",
                "1000",
                "-6",
                "1001",
                "9" * 18,
                "9" * 19,
                "9" * 20,
                "-" + "9" * 30,
                "0x10",
                "1e3",
            )
        },
        "probe": [ProbeRequest("x:type=fuzz," + "o=" + "v" * 3000), Ping()],
        "long": [
            Ping(),
            OpenRequest("x:type=fuzz"),
            ConfigureRequest(hopping=Hopping(tuple(map(str, range(900))))),
        ],
    }
    said = {
        name: hello + b"".join(v3.encode(message, number) for number, message in enumerate(messages, 1))
        for name, messages in talks.items()
    }
    for name, data in {**said, **dict(odd_numbers(hello)), **dict(odd_sizes(hello))}.items():
        (tmp_path / name).write_bytes(data)
        yield str(tmp_path / name)


def frame(kind, payload, size=None):
    """A frame of v3, made by hand: what our own encoder would refuse."""
    return (
        struct.pack(">IIIHHI", 0xDECAFBAD, 0xA9A90003, len(payload) if size is None else size, kind, 0, 9)
        + payload
    )


REGISTER, OPEN, CONFIGURE = 1, 12, 17
NUMBERS = [
    *(bytes([0xCC + at]) + b"\xff" * (1 << at) for at in range(4)),  # the largest of each width, unsigned
    *(bytes([0xD0 + at]) + b"\x80" + bytes((1 << at) - 1) for at in range(4)),  # the least, signed
    *(b"\xcf" + struct.pack(">Q", (1 << bits) + more) for bits in (31, 32, 53, 63) for more in (-1, 0, 147)),
    *(b"\xca" + struct.pack(">f", real) for real in (math.nan, math.inf, -math.inf, 1e-45, 3e38)),
    *(
        b"\xcb" + struct.pack(">d", real)
        for real in (
            math.nan,
            math.inf,
            -math.inf,
            -0.0,
            -1.0,
            5e-324,
            1e-300,
            1e9 - 1,
            1e9,
            2.0**63,
            1.7e308,
        )
    ),
    b"\x00",
    b"\x7f",
    b"\xff",
]
"""Values that a conversion may break at, in msgpack."""


def odd_numbers(hello):
    """Each of them at each place where a supervisor chooses a number."""
    subsystem = b"\x01" + bytes([0xA0 | len(bulk.SUBSYSTEM)]) + bulk.SUBSYSTEM.encode()
    begin = hello + frame(REGISTER, b"\x81" + subsystem) + frame(OPEN, b"\x81\x01\xabx:type=fuzz")
    lists = b"\x05\x93\xa11\xa12\xa13"
    for at, number in enumerate(NUMBERS):
        for key in (1, 2, 3, 4):  # rate, shuffle, skip, offset
            hop = b"\x83" + bytes([key]) + number + (b"" if key == 2 else b"\x02\xc3") + lists
            if key == 2:
                hop = b"\x82" + hop[1:]
            yield f"hop {key} {at}", begin + 2 * frame(CONFIGURE, b"\x81\x02" + hop)
        yield f"number {at}", begin + frame(REGISTER, b"\x83" + subsystem + b"\x40" + number + b"\x41\x64")
        yield f"dlt {at}", begin + frame(REGISTER, b"\x83" + subsystem + b"\x40\x03\x41" + number)


def odd_sizes(hello):
    """Sizes of frames, texts, lists, and maps: next to a limit, or beyond all that follows."""
    for size in (0, 1, 65516, 65517, 65536, 1 << 31, (1 << 32) - 21, (1 << 32) - 1):
        yield f"frame {size}", hello + frame(OPEN, b"\x81\x01\xa1x", size) + bytes(2000)
        yield f"v2 {size}", hello[:8] + struct.pack(">I", size) + hello[12:] + bytes(2000)
    for code in (0xC4, 0xC5, 0xC6, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF):
        for size in (0x7F, 0x80, 0xFF):
            head = bytes([code]) + bytes([size]) + b"\xff" * 3
            yield f"head {code} {size}", hello + frame(OPEN, b"\x81\x01" + head + b"x" * 40)
            yield f"unknown {code} {size}", hello + frame(OPEN, b"\x82\x09" + head + b"x" * 40)
            hop = b"\x82\x01\x05\x05" + head
            yield f"list {code} {size}", hello + frame(CONFIGURE, b"\x81\x02" + hop + b"\xa1x" * 20)


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
