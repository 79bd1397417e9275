"""Places to attack from: a process of any uid that runs the code it is given, as ``probe.py`` does inside a helper."""

from __future__ import annotations

import json
import os
import select
import subprocess
from typing import Any

from tests.attack.stage import STAGE, interpreter

PRELUDE = """
import array, ctypes, errno, fcntl, json, resource, select, signal, socket, stat, struct, time
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(number, *args):
    args = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    got = libc.syscall(number, *args)
    if got < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return got
def prctl(*args):
    got = libc.prctl(*(ctypes.c_ulong(a) for a in args))
    if got < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return got
def spawn(argv, **env):
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(w, 1)
            os.execve(argv[0], argv, env)
        finally:
            os._exit(99)
    os.close(w)
    with os.fdopen(r) as file:
        said = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code == 99:
        raise PermissionError(1, "exec")
    return said
W = struct.Struct("!4sBBHIIQ8x")
def connect(path):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.settimeout(10)
    s.connect(path)
    return s
def raw(s, data, fds=()):
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    s.sendmsg([data], rights)
    while True:
        data, control, _, _ = s.recvmsg(64, 64)
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "closed")
        reply = W.unpack(data)
        if reply[6] or reply[1] not in (0x84, 0x85):
            break
    got = array.array("i")
    for _, _, body in control:
        got.frombytes(body)
    if reply[3]:
        raise OSError(reply[3], os.strerror(reply[3]))
    return reply[4], reply[5], (got[0] if got else -1)
def ask(s, op, profile=0, handle=0, arg=0, fds=(), cookie=1, magic=b"HDL1", n=None):
    return raw(s, W.pack(magic, op, len(fds) if n is None else n, profile, handle, arg, cookie), fds)
def pipes(count=3):
    ends = [os.pipe() for _ in range(count)]
    return [ends[0][0]] + [w for _, w in ends[1:]], ends
def ready():
    s = connect(SOCKET)
    return s, ask(s, 3)[1]
def launch(s, fingerprint, profile=1, **more):
    fds, _ = pipes()
    return ask(s, 1, profile, arg=fingerprint, fds=fds, **more)
def runs(s, fingerprint, fds, n=None):
    handle = ask(s, 1, 1, arg=fingerprint, fds=fds, n=n)[0]
    while select.select([s], [], [], 10)[0]:
        _, op, how, _, which, code, _ = W.unpack(s.recv(64))
        if (op, which) == (0x84, handle):
            if how == 2:
                raise OSError(code, os.strerror(code))
            break
    return True
def answers(s, fingerprint, fds, ends):
    ask(s, 1, 1, arg=fingerprint, fds=fds)
    os.write(ends[0][1], json.dumps({"code": "result = 7", "values": {}}).encode() + b"\\n")
    return b"7" in os.read(ends[1][0], 99)
"""
"""``runs``: a launch that is granted is refused when its descriptors are none for a helper; ``answers``: it is a probe."""


class Seat:
    """A process that runs code; made by ``seat`` or over the standard streams of something else."""

    def __init__(self, process: subprocess.Popen[bytes], write: int, read: int) -> None:
        self.process = process
        self.write, self.read, self.rest = write, read, b""
        self.pid = process.pid

    def run(self, code: str, timeout: float = 20, **values: Any) -> Any:
        """Run code, return its ``result``; what the kernel said comes as OSError, its death as EOFError."""
        os.write(self.write, json.dumps({"code": code, "values": values}).encode() + b"\n")
        while b"\n" not in self.rest:
            if not select.select([self.read], [], [], timeout)[0]:
                raise TimeoutError("no answer")
            data = os.read(self.read, 65536)
            if not data:
                raise EOFError("it is dead")
            self.rest += data
        line, self.rest = self.rest.split(b"\n", 1)
        answer = json.loads(line)
        if answer.get("errno"):
            raise OSError(answer["errno"], answer["error"])
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]

    def close(self) -> None:
        """End it."""
        os.close(self.write)
        os.close(self.read)
        self.process.kill()
        self.process.wait()


def seat(uid: int = 0, groups: tuple[int, ...] = (), **values: Any) -> Seat:
    """Start a process of some uid (0: all of root's capabilities) without any of our precautions."""
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()

    def place() -> None:
        for fd, to in ((theirs_in, 203), (theirs_out, 204)):
            os.dup2(fd, to)
        os.dup2(203, 3)
        os.dup2(204, 4)

    ids: dict[str, Any] = {"user": uid, "group": uid, "extra_groups": list(groups)} if uid else {}
    process = subprocess.Popen(
        [interpreter(), "-I", "-S", f"{STAGE}/bin/probe.py"], close_fds=False, preexec_fn=place, **ids
    )
    os.close(theirs_in)
    os.close(theirs_out)
    made = Seat(process, ours_out, ours_in)
    made.run(PRELUDE, **values)
    return made
