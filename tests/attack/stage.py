"""A machine of the test's own: namespaces, a root-owned tree on a tmpfs, users, a launcher as root.

``run(script)`` is called by tests; the script runs as process 1 of new pid, mount, net, uts and ipc namespaces and begins
with ``Stage()``. Nothing of it is left when it ends: killing process 1 kills them all, and the mounts go with them.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.attack.asker import Asker, connect, pair
from tests.patience import HANGS_S

ROOT = Path(__file__).resolve().parent.parent.parent
STAGE = "/run/stage"
LIBRARY = f"{STAGE}/lib"
SOCKET = f"{STAGE}/launcher.sock"
NEEDED = (
    "prctl.py",
    "_prctl*.so",
    "*__mypyc*.so",
    "tomli",
    "trio",
    "outcome",
    "sniffio",
    "attr",
    "attrs",
    "sortedcontainers",
    "idna",
    "google",
    "psutil",
)
DAEMON, ALLOWED, OTHER, STRANGER, READER = 990, 2001, 2002, 2003, 2004
USERS = {"helperd": DAEMON, "allowed": ALLOWED, "other": OTHER, "stranger": STRANGER, "reader": READER}
CAPTURE = 991  # the group of an [[allow]] rule
READERS = 992  # who may read what the daemon captures


@functools.cache
def interpreter() -> str:
    """Return a Python of our version that any user may execute; "" when there is none."""
    for path in (os.path.realpath(sys.executable), "/usr/bin/python3", "/usr/local/bin/python3"):
        real = os.path.realpath(path)
        if not os.path.exists(real) or not real.endswith(f"{sys.version_info[0]}.{sys.version_info[1]}"):
            continue
        above = [str(folder) for folder in Path(real).parents]
        if all(os.stat(folder).st_mode & stat.S_IXOTH for folder in above):
            return real
    return ""


def run(module: str, *args: str, timeout: float | None = 300) -> list[Any]:
    """Run a module as process 1 of new namespaces, one of this package unless named in full; return the JSON it prints."""
    module = module if "." in module else f"tests.attack.{module}"
    flags = ["--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    argv = ["unshare", *flags, sys.executable, "-m", module, *args]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise AssertionError(
            f"{module} ended with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith(("{", "["))]


def say(**values: Any) -> None:
    """Tell the test one thing."""
    print(json.dumps(values), flush=True)


def raised(error: Exception) -> str:
    """How a scene tells the error that ended it."""
    return f"{type(error).__name__}: {error}"


def mutate(package: str, *, inside: bool) -> None:
    """Take the step of tests/attack/mutate.py away, if it is one of the package, or of what lies beside it."""
    file, old, new = json.loads(os.environ.get("HELPERD_MUTATION", '["", "", ""]'))
    if file and inside != file.startswith("../"):
        path = Path(package, file)
        text = path.read_text()
        if old not in text:
            raise AssertionError(f"nothing to mutate in {file}: {old!r}")
        path.write_text(text.replace(old, new, 1))


class Stage:
    """The machine; made once, by process 1."""

    def __init__(self, *, copy: bool = True) -> None:
        assert os.getpid() == 1, "only inside namespaces of its own"
        os.umask(0o022)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"], check=True)
        self.empty_tmp()
        os.makedirs(f"{STAGE}/bin")
        os.mkdir(f"{STAGE}/open", 0o777)
        os.chmod(f"{STAGE}/open", 0o777)
        if copy:
            self.copy()
        for name, line in (("passwd", "{0}:x:{1}:{1}::/:/bin/sh"), ("group", "{0}:x:{1}:")):
            text = Path(f"/etc/{name}").read_text()
            text = (
                "\n".join(
                    row for row in text.splitlines() if row.split(":")[0] not in {*USERS, "helperd-read"}
                )
                + "\n"
            )
            text += "".join(line.format(user, uid) + "\n" for user, uid in USERS.items())
            if name == "group":
                text += f"capture:x:{CAPTURE}:\nhelperd-read:x:{READERS}:helperd,reader\n"
            Path(f"{STAGE}/{name}").write_text(text)
            subprocess.run(["mount", "--bind", f"{STAGE}/{name}", f"/etc/{name}"], check=True)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        shutil.copy(ROOT / "tests/attack/probe.py", f"{STAGE}/bin/probe.py")
        self.log = f"{STAGE}/launcher.log"

    @staticmethod
    def empty_tmp() -> None:
        """Mount folders of its own for temporary files: what others left there is not seen, nothing is left to them."""
        checkout = os.open(ROOT, os.O_PATH | os.O_CLOEXEC)
        for folder in ("/tmp", "/var/tmp", "/dev/shm"):
            subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", folder], check=True)
            if ROOT.is_relative_to(folder):
                os.makedirs(ROOT)
                held = f"/proc/self/fd/{checkout}"
                subprocess.run(["mount", "--bind", held, ROOT], check=True, pass_fds=[checkout])
        os.close(checkout)

    @staticmethod
    def copy() -> None:
        """Copy the package and what it needs to where only root can write."""
        shutil.copytree(ROOT / "helperd", f"{LIBRARY}/helperd", ignore=shutil.ignore_patterns("__pycache__"))
        mutate(f"{LIBRARY}/helperd", inside=True)
        target = f"{LIBRARY}/.venv/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
        os.makedirs(target)
        source = next(Path(place) for place in sys.path if Path(place, "prctl.py").exists())
        for pattern in NEEDED:
            for path in source.glob(pattern):
                (shutil.copytree if path.is_dir() else shutil.copy)(path, f"{target}/{path.name}")

    @staticmethod
    def veth() -> None:
        """Make a pair of devices, hd0 and hd1, both up."""
        for words in ("add hd0 type veth peer name hd1", "set hd0 up", "set hd1 up"):
            subprocess.run(["ip", "link", *words.split()], check=True)

    @staticmethod
    def config(text: str, path: str = f"{STAGE}/helpers.toml") -> str:
        """Write a configuration; PROBE stands for the command of a probe."""
        command = f'["{interpreter()}", "-I", "-S", "{STAGE}/bin/probe.py"]'
        Path(path).write_text(text.replace("PROBE", command))
        return path

    def argv(self, config: str, *args: str) -> list[str]:
        """Return a launcher's command line."""
        return [interpreter(), "-I", "-S", f"{LIBRARY}/helperd/launch.py", f"--config={config}", *args]

    def start(
        self, config: str, *args: str, fds: tuple[int, ...] = (), **options: Any
    ) -> subprocess.Popen[bytes]:
        """Start a launcher, its log in a file."""
        options.setdefault("env", {})
        with open(self.log, "ab") as log:
            return subprocess.Popen(self.argv(config, *args), stderr=log, pass_fds=fds, **options)

    @contextlib.contextmanager
    def launcher(
        self, text: str, *args: str, more_fds: tuple[int, ...] = (), **options: Any
    ) -> Iterator[Asker]:
        """A launcher over a socket pair, and its client after the first PING."""
        ours, theirs = pair()
        with ours:
            with theirs:
                config = self.config(text)
                process = self.start(
                    config,
                    f"--client-fd={theirs.fileno()}",
                    *args,
                    fds=(theirs.fileno(), *more_fds),
                    **options,
                )
            try:
                asker = Asker(ours)
                asker.launcher = process  # type: ignore[attr-defined]
                try:
                    asker.ping()
                except (EOFError, OSError) as error:
                    raise AssertionError(f"the launcher did not start: {self.said()}") from error
                yield asker
            finally:
                ours.close()
                try:
                    process.wait(HANGS_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    raise AssertionError("the launcher did not end with its client") from None

    def answered(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until the launcher takes connections: its socket has a name before it listens."""
        deadline = time.monotonic() + HANGS_S
        while True:
            with contextlib.suppress(OSError), connect(SOCKET):
                return
            assert process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.01)

    @contextlib.contextmanager
    def listening(self, text: str, *args: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
        """A launcher at SOCKET."""
        process = self.start(self.config(text), f"--listen={SOCKET}", *args, **options)
        self.answered(process)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(HANGS_S)

    def said(self) -> str:
        """Return the launcher's log so far."""
        return Path(self.log).read_text(errors="replace") if os.path.exists(self.log) else ""


def own_pool(count: int = 384) -> str:
    """Write a pool that nobody else has: limits by uid count what runs anywhere on the kernel, also in other tests."""
    first = 1_000_000 + int.from_bytes(os.urandom(3)) * 64
    return f'[helperd]\nuid_pool = "{first}-{first + count - 1}"\n'


def status(pid: int) -> dict[str, str]:
    """Return /proc/PID/status by name."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in file)}
