"""A local SSH server with keys of its own, a child of the test: somebody for sshdump to talk to."""

from __future__ import annotations

import contextlib
import getpass
import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

SSHD_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin"))
EXTCAPS = Path("/usr/lib/x86_64-linux-gnu/wireshark/extcap")
EMPTY = Path("/run/sshd")
"""Where it locks its unprivileged part in."""


def lacks() -> str:
    """Why a local SSH server cannot be started here, or nothing."""
    if shutil.which("sshd", path=SSHD_PATH) is None or shutil.which("ssh-keygen") is None:
        return "no OpenSSH server is installed: sshdump has nobody to talk to"
    if os.getuid() == 0 and "sshd" not in {entry.pw_name for entry in pwd.getpwall()}:
        return "the user sshd, which the OpenSSH server needs, does not exist"
    return ""


@contextlib.contextmanager
def server(folder: Path) -> Iterator[tuple[int, Path]]:
    """Run it on a free port of the loopback; yields the port and the path of the client's key."""
    for name in ("host", "client"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-m", "PEM", "-N", "", "-f", folder / name], check=True
        )
    shutil.copy(folder / "client.pub", folder / "authorized")
    with socket.socket() as finder:
        finder.bind(("127.0.0.1", 0))
        port = finder.getsockname()[1]
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
        f"StrictModes no\nUsePAM no\nPasswordAuthentication no\nPidFile none\nAllowUsers {getpass.getuser()}\n"
        "PermitRootLogin yes\n"
    )
    ours = os.getuid() == 0 and not EMPTY.exists()
    if ours:
        EMPTY.mkdir(mode=0o755)
    program = shutil.which("sshd", path=SSHD_PATH)
    assert program is not None
    running = subprocess.Popen([program, "-D", "-e", "-f", folder / "config"], stderr=subprocess.PIPE)
    assert running.stderr is not None
    try:
        if not any(b"listening on" in line for line in running.stderr):
            raise AssertionError("sshd did not begin to listen")
        yield port, folder / "client"
    finally:
        running.terminate()
        running.wait()
        running.stderr.close()
        if ours:
            EMPTY.rmdir()
