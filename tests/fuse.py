"""A file system of our own, in memory, that fails, hangs and forgets as it is told: what a dying disk does.

The server speaks the kernel's protocol over ``/dev/fuse`` in a process of its own (``python -m tests.fuse``); a test
mounts it with ``mounted`` and tells it what to do. What was not brought to the disk is gone after ``power_cut``.

Source of facts: the kernel's own header, include/uapi/linux/fuse.h, protocol 7.31.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).resolve().parent.parent
OPERATIONS: Final = {
    **dict(enumerate(("lookup", "forget", "getattr", "setattr", "readlink", "symlink"), 1)),
    **dict(enumerate(("mkdir", "unlink", "rmdir", "rename", "link", "open", "read", "write", "statfs"), 9)),
    **dict(enumerate(("release", "", "fsync"), 18)),
    **dict(enumerate(("flush", "init", "opendir", "readdir", "releasedir", "fsyncdir"), 25)),
    34: "access",
    35: "create",
    38: "destroy",
    45: "rename2",
}
_UNANSWERED: Final = (2, 36, 42)  # forget, interrupt, batch-forget
_IN, _OUT = struct.Struct("<IIQQIIII"), struct.Struct("<IiQ")
_ATTR = struct.Struct("<6Q10I")
_ENTRY, _ATTR_HEAD = struct.Struct("<4Q2I"), struct.Struct("<Q2I")
_OPENED = struct.pack("<QII", 0, 1, 0)  # FOPEN_DIRECT_IO: the kernel caches nothing
_MAX_WRITE: Final = 128 << 10
_SETATTR = struct.Struct("<IIQQQQQQIIIIIIII")
_MODE, _UID, _GID, _SIZE, _MTIME = 1, 2, 4, 8, 32


@dataclass(eq=False)
class Node:
    """A file or a folder: what it is, and what of a file would outlive a power cut."""

    number: int
    mode: int
    uid: int
    gid: int
    data: bytearray = field(default_factory=bytearray)
    stable: bytes = b""
    names: dict[str, Node] = field(default_factory=dict)
    target: bytes = b""
    links: int = 1
    changed: int = field(default_factory=time.time_ns)

    def attr(self) -> bytes:
        sec, ns = divmod(self.changed, 1_000_000_000)
        size = len(self.data)
        return _ATTR.pack(
            *(self.number, size, (size + 511) // 512, sec, sec, sec, ns, ns, ns),
            *(self.mode, self.links, self.uid, self.gid, 0, 4096, 0),
        )


class Refusal(Exception):
    """An operation that fails, by its errno."""


class Server:
    """Answers the kernel, one request at a time."""

    def __init__(self, device: int) -> None:
        self.device = device
        self.root = Node(1, stat.S_IFDIR | 0o777, os.geteuid(), os.getegid(), links=2)
        self.nodes = {1: self.root}
        self.failing: dict[str, tuple[int, int | None]] = {}
        self.frozen: set[str] = set()
        self.held: list[tuple[str, bytes]] = []
        self.calls: dict[str, int] = {}
        self.room: int | None = None

    def serve(self) -> None:
        """Until the file system is unmounted, or nobody tells it anything any more."""
        orders = b""
        while True:
            ready, _, _ = select.select([self.device, 0], [], [])
            if 0 in ready:
                more = os.read(0, 65536)
                if not more:
                    return
                orders += more
                while b"\n" in orders:
                    line, orders = orders.split(b"\n", 1)
                    print(json.dumps(self.obey(json.loads(line))), flush=True)
            if self.device in ready:
                try:
                    request = os.read(self.device, _MAX_WRITE + 4096)
                except OSError as error:
                    if error.errno in {errno.ENOENT, errno.EINTR, errno.EAGAIN}:
                        continue
                    return  # ENODEV: unmounted
                self.take(request)

    def obey(self, order: dict[str, Any]) -> object:
        what = order["do"]
        if what == "fail":
            for operation in order["operations"]:
                self.failing[operation] = (order["errno"], order["times"])
        elif what == "freeze":
            self.frozen |= set(order["operations"])
        elif what == "thaw":
            self.frozen.clear()
            self.failing.clear()
            held, self.held = self.held, []
            for _, request in held:
                self.take(request)
        elif what == "power_cut":
            for node in self.nodes.values():
                node.data = bytearray(node.stable)
        elif what == "room":
            self.room = order["bytes"]
        return {"calls": self.calls, "held": [operation for operation, _ in self.held]}

    def take(self, request: bytes) -> None:
        _, opcode, unique, node, uid, gid, _, _ = _IN.unpack_from(request)
        if opcode in _UNANSWERED:
            return
        operation = OPERATIONS.get(opcode, "")
        self.calls[operation] = self.calls.get(operation, 0) + 1
        if operation in self.frozen:
            self.held.append((operation, request))
            return
        try:
            if operation in self.failing:
                number, times = self.failing[operation]
                if times == 1:
                    del self.failing[operation]
                elif times is not None:
                    self.failing[operation] = (number, times - 1)
                raise Refusal(number)
            work: Callable[[Node, bytes, int, int], bytes] | None = getattr(self, f"do_{operation}", None)
            if work is None or node not in self.nodes | {0: self.root}:
                raise Refusal(errno.ENOSYS if work is None else errno.ESTALE)
            answer, error = work(self.nodes.get(node, self.root), request[_IN.size :], uid, gid), 0
        except Refusal as refusal:
            answer, error = b"", refusal.args[0]
        with contextlib.suppress(FileNotFoundError):  # whoever asked was killed meanwhile
            os.write(self.device, _OUT.pack(_OUT.size + len(answer), -error, unique) + answer)

    # what the kernel asks for

    def do_init(self, _node: Node, body: bytes, _uid: int, _gid: int) -> bytes:
        ahead = struct.unpack_from("<4I", body)[2]
        big_writes = 1 << 5
        return struct.pack("<4I2H2I2H8I", 7, 31, ahead, big_writes, 12, 9, _MAX_WRITE, 1, 32, *([0] * 9))

    def do_destroy(self, *_: object) -> bytes:
        return b""

    def entry(self, node: Node) -> bytes:
        return _ENTRY.pack(node.number, 0, 0, 0, 0, 0) + node.attr()

    def do_lookup(self, node: Node, body: bytes, _uid: int, _gid: int) -> bytes:
        return self.entry(self.child(node, body))

    @staticmethod
    def child(node: Node, body: bytes) -> Node:
        found = node.names.get(os.fsdecode(body.split(b"\0")[0]))
        if found is None:
            raise Refusal(errno.ENOENT)
        return found

    def do_getattr(self, node: Node, _body: bytes, _uid: int, _gid: int) -> bytes:
        return _ATTR_HEAD.pack(0, 0, 0) + node.attr()

    def do_setattr(self, node: Node, body: bytes, uid: int, gid: int) -> bytes:
        valid, _, _, size, _, _, mtime, _, _, mtime_ns, _, mode, _, owner, group, _ = _SETATTR.unpack_from(
            body
        )
        if valid & _MODE:
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(mode)
        if valid & _UID:
            node.uid = owner
        if valid & _GID:
            node.gid = group
        if valid & _SIZE:
            del node.data[size:]
            node.data.extend(bytes(size - len(node.data)))
            node.stable = node.stable[:size]
        if valid & _MTIME:
            node.changed = mtime * 1_000_000_000 + mtime_ns
        return self.do_getattr(node, b"", uid, gid)

    def make(self, folder: Node, name: bytes, mode: int, uid: int, gid: int) -> Node:
        if os.fsdecode(name) in folder.names:
            raise Refusal(errno.EEXIST)
        node = Node(max(self.nodes) + 1, mode, uid, gid)
        self.nodes[node.number] = node
        folder.names[os.fsdecode(name)] = node
        return node

    def do_mkdir(self, node: Node, body: bytes, uid: int, gid: int) -> bytes:
        mode = struct.unpack_from("<I", body)[0]
        return self.entry(
            self.make(node, body[8:].split(b"\0")[0], stat.S_IFDIR | stat.S_IMODE(mode), uid, gid)
        )

    def do_symlink(self, node: Node, body: bytes, uid: int, gid: int) -> bytes:
        name, target = body.split(b"\0")[:2]
        made = self.make(node, name, stat.S_IFLNK | 0o777, uid, gid)
        made.target = target
        return self.entry(made)

    def do_readlink(self, node: Node, _body: bytes, _uid: int, _gid: int) -> bytes:
        return node.target

    def do_link(self, node: Node, body: bytes, _uid: int, _gid: int) -> bytes:
        old = self.nodes[struct.unpack_from("<Q", body)[0]]
        old.links += 1
        node.names[os.fsdecode(body[8:].split(b"\0")[0])] = old
        return self.entry(old)

    def do_create(self, node: Node, body: bytes, uid: int, gid: int) -> bytes:
        mode = struct.unpack_from("<2I", body)[1]
        made = self.make(node, body[16:].split(b"\0")[0], stat.S_IFREG | stat.S_IMODE(mode), uid, gid)
        return self.entry(made) + _OPENED

    def do_unlink(self, node: Node, body: bytes, _uid: int, _gid: int) -> bytes:
        gone = self.child(node, body)
        del node.names[os.fsdecode(body.split(b"\0")[0])]
        gone.links -= 1
        return b""

    do_rmdir = do_unlink

    def moved(self, node: Node, folder: int, names: bytes) -> bytes:
        old, new = (os.fsdecode(name) for name in names.split(b"\0")[:2])
        if old not in node.names:
            raise Refusal(errno.ENOENT)
        target = self.nodes[folder].names
        if new in target:
            target[new].links -= 1
        target[new] = node.names.pop(old)
        return b""

    def do_rename(self, node: Node, body: bytes, _uid: int, _gid: int) -> bytes:
        return self.moved(node, struct.unpack_from("<Q", body)[0], body[8:])

    def do_rename2(self, node: Node, body: bytes, _uid: int, _gid: int) -> bytes:
        return self.moved(node, struct.unpack_from("<Q", body)[0], body[16:])

    def do_open(self, *_: object) -> bytes:
        return _OPENED

    do_opendir = do_open

    def do_read(self, node: Node, body: bytes, _uid: int, _gid: int) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        return bytes(node.data[offset : offset + size])

    def do_write(self, node: Node, body: bytes, _uid: int, _gid: int) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        if self.room is not None and sum(len(each.data) for each in self.nodes.values()) + size > self.room:
            raise Refusal(errno.ENOSPC)
        node.data.extend(bytes(max(0, offset - len(node.data))))
        node.data[offset : offset + size] = body[40 : 40 + size]
        node.changed = time.time_ns()
        return struct.pack("<II", size, 0)

    def do_fsync(self, node: Node, _body: bytes, _uid: int, _gid: int) -> bytes:
        node.stable = bytes(node.data)
        return b""

    def do_nothing(self, *_: object) -> bytes:
        return b""

    do_flush = do_release = do_releasedir = do_fsyncdir = do_access = do_nothing

    def do_statfs(self, *_: object) -> bytes:
        return struct.pack("<5Q10I", *([1 << 20] * 5), 4096, 255, 4096, *([0] * 7))

    def do_readdir(self, node: Node, body: bytes, _uid: int, _gid: int) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        found = b""
        for at, (name, child) in enumerate(list(node.names.items())[offset:], offset + 1):
            raw = os.fsencode(name)
            row = struct.pack("<QQII", child.number, at, len(raw), child.mode >> 12) + raw
            row += bytes(-len(row) % 8)
            if len(found) + len(row) > size:
                break
            found += row
        return found


@dataclass
class FileSystem:
    """The mounted file system, as a test sees it.

    Operations are named as in ``OPERATIONS``: "write", "fsync", "rename2", "flush" (close), "create", "unlink".
    """

    path: Path
    process: subprocess.Popen[str]

    def fail(self, *operations: str, number: int = errno.EIO, times: int | None = None) -> None:
        """Refuse operations from now on, or the next few of them."""
        self._tell(do="fail", operations=operations, errno=number, times=times)

    def freeze(self, *operations: str) -> None:
        """Answer these no more."""
        self._tell(do="freeze", operations=operations)

    def thaw(self) -> None:
        """Answer everything again, also what was asked meanwhile, and fail nothing."""
        self._tell(do="thaw")

    def power_cut(self) -> None:
        """Forget what was never brought to the disk."""
        self._tell(do="power_cut")

    def give_room(self, nbytes: int | None) -> None:
        """Bytes that all files together may have; None: any."""
        self._tell(do="room", bytes=nbytes)

    @property
    def calls(self) -> dict[str, int]:
        """How often each operation was asked for."""
        found: dict[str, int] = self._tell(do="look")["calls"]
        return found

    @property
    def held(self) -> list[str]:
        """Operations that were asked for and are not answered."""
        found: list[str] = self._tell(do="look")["held"]
        return found

    def kill(self) -> None:
        """End the server: the disk is gone."""
        self.process.kill()
        self.process.wait()

    def _tell(self, **order: object) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found


@contextlib.contextmanager
def mounted(path: Path) -> Iterator[FileSystem]:
    """Mount one at a folder; where this machine does not let us, the test is skipped and says so."""
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("a file system of our own needs root and /dev/fuse")
    path.mkdir(exist_ok=True)
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
    argv = ["mount", "-i", "-t", "fuse", "-o", options, "helperd-test", str(path)]
    try:
        done = subprocess.run(argv, pass_fds=[device], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a file system of our own cannot be mounted here: {done.stderr.strip()}")
        argv = [sys.executable, "-m", "tests.fuse", str(device)]
        process = subprocess.Popen(
            argv, cwd=ROOT, pass_fds=[device], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    finally:
        os.close(device)
    try:
        yield FileSystem(path, process)
    finally:
        process.kill()  # what waits for an answer has an error
        process.communicate()
        subprocess.run(["umount", "-l", str(path)], check=False, capture_output=True)


if __name__ == "__main__":
    Server(int(sys.argv[1])).serve()
