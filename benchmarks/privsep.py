"""How long a launch takes, beside a supervisor of 300 MB: request to pidfd, and to a Python helper's first byte.

    sudo .venv/bin/python benchmarks/privsep.py [COUNT]     as root in namespaces of its own: the whole sequence
    .venv/bin/python benchmarks/privsep.py [COUNT]          without root: what is left of it
    sudo .venv/bin/python benchmarks/privsep.py --price     what each guarantee costs of it

Bars: request to pidfd p50 <= 1 ms, p99 <= 5 ms; to the first byte of a Python helper p50 <= 60 ms.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.price import HELLO, prices, table  # noqa: E402
from tests.attack.asker import Asker, Running, pair  # noqa: E402
from tests.attack.stage import Stage, interpreter  # noqa: E402

CONFIG = """
[[helper]]
name = "python"
command = ["{python}", "-I", "-S", "-c", "{hello}"]
capabilities = [{capabilities}]
[[helper]]
name = "true"
command = ["/usr/bin/true"]
"""


def measure(asker: Asker, count: int) -> None:
    """Launch, print."""
    ballast = bytearray(os.urandom(1 << 20) * 300)  # what a supervisor with full queues weighs
    answers, bytes_, gone = [], [], []
    for _ in range(count):
        started = time.perf_counter()
        helper = Running(asker, 1)
        answers.append(time.perf_counter() - started)
        helper.line()
        bytes_.append(time.perf_counter() - started)
        started = time.perf_counter()
        helper.kill()
        gone.append(time.perf_counter() - started)
        helper.close()
    for name, times in (
        ("request to pidfd", answers),
        ("request to first byte", bytes_),
        ("kill to empty", gone),
    ):
        times.sort()
        p50, p99 = times[len(times) // 2] * 1000, times[int(len(times) * 0.99)] * 1000
        print(f"{name:24} p50 {p50:7.2f} ms   p99 {p99:7.2f} ms   max {times[-1] * 1000:7.2f} ms")
    print(f"{count} launches beside {len(ballast) >> 20} MB; load {os.getloadavg()[0]:.1f}")


def main() -> None:
    """Choose a door."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("count", type=int, nargs="?", default=300, help="how many launches; 300")
    parser.add_argument("--price", action="store_true", help="what each guarantee costs; as root")
    parser.add_argument("--rounds", type=int, default=3, help="of --price; 3")
    options = parser.parse_args()
    count = options.count
    if options.price and not (os.geteuid() == 0 and interpreter()):
        parser.error("--price needs root, and a Python that any user may execute")
    if options.price and os.getpid() == 1:
        print(table(prices(count, options.rounds)))
        print(f"{options.rounds} rounds of {count} launches each; load {os.getloadavg()[0]:.1f}")
    elif os.getpid() == 1:
        text = CONFIG.format(python=interpreter(), hello=HELLO, capabilities='"net_raw"')
        with Stage().launcher(text) as asker:
            measure(asker, count)
    elif os.geteuid() == 0 and interpreter():
        flags = ["--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
        os.execvp("unshare", ["unshare", *flags, sys.executable, __file__, *sys.argv[1:]])
    else:
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            file.write(CONFIG.format(python=os.path.realpath(sys.executable), hello=HELLO, capabilities=""))
            file.flush()
            ours, theirs = pair()
            argv = [sys.executable, "-I", "-S", str(ROOT / "helperd/privsep.py"), f"--config={file.name}"]
            process = subprocess.Popen(
                [*argv, f"--client-fd={theirs.fileno()}", "--unprivileged"], pass_fds=(theirs.fileno(),)
            )
            theirs.close()
            asker = Asker(ours)
            asker.ping()
            measure(asker, count)
            ours.close()
            process.wait(10)


if __name__ == "__main__":
    main()
