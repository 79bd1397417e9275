"""The launcher: the only parent of helpers, root in production, one thread, and the only code of ours with a privilege.

Rules:
  1. A request names a profile by number and carries descriptors; never a path, argument, variable, uid or capability.
  2. The forked child always execs, so fork, per-thread capabilities and the parent-death signal are safe.
  3. Each step of becoming a helper is checked by the child before exec and looked at from outside after it.
  4. A closed connection kills every helper started over it; the launcher's own end kills them all.
  5. The same code runs without root; what the caller's uid cannot give is refused (EPERM).

    privsep.py --config=FILE [--runtime-dir=DIR] [-- ARGS]   start the supervisor, serve it, end with its status
    privsep.py --config=FILE --client-fd=N                   serve the process at the other end of descriptor N

Wire: 32 bytes each way, see ``WIRE``; requests LAUNCH, SIGNAL, PING; events EXITED, EMPTY. docs/privsep.md tells the rest.
"""

from __future__ import annotations

import errno
import fcntl
import getopt
import hashlib
import os
import resource
import select
import signal
import socket
import stat
import struct
import sys
from collections import deque
from time import monotonic  # noqa: TID251 - the launcher is its own shell; kill deadlines are real time
from typing import TYPE_CHECKING, NamedTuple, NoReturn

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def places() -> list[str]:
    """Return the directories in which helperd, prctl and tomli may be; without root, HELPERD_PATH comes first."""
    library = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    near = [HERE, f"{HERE}/.venv/{library}", f"{os.path.dirname(os.path.dirname(sys.executable))}/{library}"]
    named = os.environ.get("HELPERD_PATH", "").split(os.pathsep) if os.geteuid() else []
    found = dict.fromkeys([*named, *near, "/usr/lib/python3/dist-packages"])
    return [place for place in found if place.startswith("/") and os.path.isdir(place)]


if __name__ == "__main__":  # -I -S: nobody else has said where things are
    sys.path += places()

import prctl  # noqa: E402

from helperd import config as conf  # noqa: E402
from helperd import sandbox  # noqa: E402
from helperd.errors import Code, ConfigRefused, HelperdError, RequestRefused  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

WIRE = struct.Struct("!4sBBHIIQ8x")  # magic, op, n, profile or errno, handle, arg, cookie, zero
MAGIC = b"HDL1"
LAUNCH, SIGNAL, PING = 1, 2, 3
EXITED, EMPTY = 0x84, 0x85
BY_EXIT, BY_SIGNAL, NO_EXEC, UNVERIFIED = range(4)
SIGNALS = frozenset(
    {signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGCONT, signal.SIGKILL}
)
MALFORMED = frozenset({errno.EMSGSIZE, errno.EPROTO, errno.EBADMSG, errno.EOPNOTSUPP})
MAX_RUNNING = 256
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
BOOT = (
    "import os, runpy, sys; sys.path[:0] = os.environ['HELPERD_PATH'].split(os.pathsep); "
    "runpy.run_module('helperd.daemon', run_name='__main__', alter_sys=True)"
)


class Request(NamedTuple):
    """One request; ``arg`` is LAUNCH: fingerprint, SIGNAL: signal, PING: 1 = read the configuration again."""

    op: int
    profile: int
    handle: int
    arg: int
    cookie: int


def parse(data: bytes, nfds: int, profiles: int) -> Request | int:
    """Read one packet; the whole surface that untrusted bytes touch.

    Args:
        data: the packet.
        nfds: descriptors that came with it.
        profiles: how many there are.
    Returns:
        The request, or the errno that refuses it.
    """
    if len(data) != WIRE.size:
        return errno.EMSGSIZE
    magic, op, fds, profile, handle, arg, cookie = WIRE.unpack(data)
    if magic != MAGIC or data[24:] != bytes(8) or cookie == 0:
        return errno.EPROTO
    if op not in {LAUNCH, SIGNAL, PING}:
        return errno.EOPNOTSUPP
    if fds != nfds or not (2 <= fds <= 4 if op == LAUNCH else fds == 0):
        return errno.EBADMSG
    fields = {
        LAUNCH: 1 <= profile <= profiles and handle == 0,
        SIGNAL: profile == 0 and handle != 0 and arg in SIGNALS,
        PING: profile == 0 and handle == 0 and arg <= 1,
    }
    return Request(op, profile, handle, arg, cookie) if fields[op] else errno.EINVAL


class Profile(NamedTuple):
    """What may be started, and what it becomes. ``program``: absolute path; ``argv`` without it being resolved."""

    name: str
    program: str
    argv: tuple[str, ...]
    script: str  # a file that the program reads first and that is checked like it; may be empty
    want: int
    privilege: str
    no_new_privs: bool
    uid: str | int
    groups: tuple[int, ...]
    env: tuple[tuple[str, str], ...]
    limits: tuple[tuple[int, int], ...]
    seal: int


def groups_of(names: tuple[str, ...]) -> tuple[int, ...]:
    """Return group numbers from /etc/group read as a file: no NSS module runs in the launcher.

    Raises:
        RequestRefused: "bad-value", the group does not exist.
    """
    with open("/etc/group", encoding="utf-8", errors="replace") as file:
        known = {
            row[0]: int(row[2])
            for row in (line.split(":") for line in file)
            if len(row) > 2 and row[2].isdigit()
        }
    for name in names:
        if name not in known and not name.isdigit():
            raise RequestRefused("bad-value", f"there is no group {name!r} in /etc/group", errno=errno.EINVAL)
    return tuple(sorted({known[name] if name in known else int(name) for name in names}))


def compile_profile(spec: conf.HelperSpec) -> Profile:
    """Turn a configured helper into a profile; files are looked at when it is launched, each time."""
    program, rest, script = spec.command[0], spec.command[1:], ""
    argv = spec.command
    if spec.builtin:
        program, script = os.path.realpath(sys.executable), f"{HERE}/helperd/helpers/__main__.py"
        argv = (program, "-I", "-S", script, spec.builtin, *rest)
    env = {
        "PATH": PATH,
        "LANG": "C.UTF-8",
        "HELPERD_PATH": os.pathsep.join(places()),
        "HELPERD_SEAL": str(spec.seal),
    }
    if spec.devices:
        env["HELPERD_DEVICES"] = os.pathsep.join(spec.devices)
    limits = {"core": 0, "nofile": 256} | dict(spec.limits)
    return Profile(
        name=spec.name,
        program=program,
        argv=(*argv, "--in-fd=3", "--out-fd=4"),
        script=script,
        want=sum(1 << conf.CAPABILITIES[word] for word in spec.capabilities),
        privilege=spec.privilege,
        no_new_privs=spec.no_new_privs,
        uid=spec.uid,
        groups=groups_of(spec.groups),
        env=tuple(sorted((env | dict(spec.env)).items())),
        limits=tuple(
            sorted((getattr(resource, f"RLIMIT_{word.upper()}"), value) for word, value in limits.items())
        ),
        seal=spec.seal,
    )


# -- files that must be trusted


def unsafe(path: str, text: str, number: int = errno.EKEYREJECTED) -> RequestRefused:
    """Return the refusal of a file."""
    return RequestRefused("unsafe-file", f"{path} {text}", errno=number)


def open_checked(path: str, *, root: bool, flags: int = os.O_PATH) -> int:
    """Open a regular file whose every directory only trusted users can change: root, without root also ourselves.

    Raises:
        RequestRefused: "unsafe-file" (EKEYREJECTED, symbolic link ELOOP) or "not-installed" (the errno of open).
    """
    owners = {0} if root else {0, os.geteuid()}
    path = path if root else os.path.realpath(path)
    here, so_far = os.open("/", os.O_PATH | os.O_CLOEXEC), ""
    try:
        parts = [part for part in path.split("/") if part]
        for left, part in zip(range(len(parts), -1, -1), ["", *parts], strict=True):
            if part:
                so_far += f"/{part}"
                step = flags if left == 0 else os.O_PATH
                down = os.open(part, step | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=here)
                os.close(here)
                here = down
            status = os.fstat(here)
            mode, name = status.st_mode, so_far or "/"
            if stat.S_ISLNK(mode):
                raise unsafe(name, f"is a symbolic link; write {os.path.realpath(path)}", errno.ELOOP)
            if status.st_uid not in owners:
                raise unsafe(name, f"belongs to uid {status.st_uid}; chown it to root")
            sticky = stat.S_ISDIR(mode) and mode & stat.S_ISVTX and not root
            own_group = not root and status.st_gid == os.getegid()
            if mode & stat.S_IWOTH and not sticky or mode & stat.S_IWGRP and not (own_group or sticky):
                raise unsafe(name, "can be written by others; chmod go-w it")
        if not stat.S_ISREG(mode):
            raise unsafe(path, "is not a regular file", errno.EACCES)
    except OSError as error:
        os.close(here)
        if error.errno == errno.ELOOP:
            raise unsafe(so_far, f"is a symbolic link; write {os.path.realpath(path)}", errno.ELOOP) from None
        raise RequestRefused(
            "not-installed", f"{so_far}: {error.strerror}", errno=error.errno or errno.EIO
        ) from None
    except RequestRefused:
        os.close(here)
        raise
    return here


def open_program(profile: Profile, *, root: bool) -> tuple[int, tuple[str, ...]]:
    """Open what a profile executes; a script's interpreter in its place, since ``#!`` does not work by descriptor.

    Returns:
        The descriptor to execute and its argument vector.
    Raises:
        RequestRefused: as ``open_checked``; ENOEXEC and EACCES when it cannot be executed.
    """
    if profile.script:
        os.close(open_checked(profile.script, root=root))
    fd = open_checked(profile.program, root=root)
    try:
        if not os.fstat(fd).st_mode & 0o111:
            raise RequestRefused("not-installed", f"{profile.program} is not executable", errno=errno.EACCES)
        try:
            with open(f"/proc/self/fd/{fd}", "rb") as file:
                head = file.readline(256)
        except PermissionError:
            head = b""  # executable but not readable: no script
        if not head.startswith(b"#!"):
            return fd, profile.argv
        words = os.fsdecode(head[2:]).strip().split(None, 1)
        if not words or not words[0].startswith("/"):
            raise RequestRefused("exec-failed", f"{profile.program}: bad interpreter", errno=errno.ENOEXEC)
        interpreter = open_checked(os.path.realpath(words[0]), root=root)
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return interpreter, (*words, profile.program, *profile.argv[1:])


# -- becoming a helper


class Identity(NamedTuple):
    """Who a child becomes; None for uid: it stays who the launcher is."""

    uid: int | None
    gid: int
    groups: tuple[int, ...]


class Child(NamedTuple):
    """All that a forked child needs to become what its profile says."""

    profile: Profile
    argv: tuple[str, ...]
    env: Mapping[str, str]
    place: dict[int, int]  # descriptor in the helper: descriptor here
    program: int
    errors: int
    identity: Identity
    have: int  # the launcher's own capabilities
    parent: int
    session: bool = True


def become(child: Child) -> NoReturn:
    """Become a helper and execute it, in the forked child; what goes wrong is written to ``errors`` as "step errno"."""
    steps = ["start"]
    try:
        _become(child, steps.append)
    except BaseException as error:  # noqa: BLE001 - nothing may leave the child
        number = error.errno if isinstance(error, OSError) and error.errno else errno.EPERM
        os.write(_FAILED[0] if _FAILED else child.errors, f"{steps[-1]} {number}".encode())
    finally:
        os._exit(Code.UNSAFE)


_FAILED: list[int] = []  # in the child: where the error pipe is once the descriptors are placed


def _become(child: Child, step: Callable[[str], None]) -> None:
    profile, have = child.profile, child.have
    step("descriptors")
    last = max(child.place)
    raised = {to: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20) for to, fd in child.place.items()}
    errors, program = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20) for fd in (child.errors, child.program))
    for to, fd in raised.items():
        os.dup2(fd, to)
    errors, program = (
        os.dup2(errors, last + 1, inheritable=False),
        os.dup2(program, last + 2, inheritable=False),
    )
    _FAILED.append(errors)
    sandbox.close_from(last + 3)
    step("surroundings")
    os.umask(0o077)
    os.chdir("/")
    if child.session:
        os.setsid()
    signal.set_wakeup_fd(-1)
    sandbox.default_signals()
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    step("limits")
    for which, value in profile.limits:
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))
    step("no_new_privs")
    if profile.no_new_privs:
        prctl.set_no_new_privs(1)
    step("parent")
    prctl.set_pdeathsig(signal.SIGKILL if child.session else signal.SIGTERM)
    if os.getppid() != child.parent:
        raise ProcessLookupError(errno.ESRCH, "the launcher is gone")
    step("exec")
    os.execve(program, child.argv, dict(child.env))


# -- the launcher


class Client:
    """One connection: who it is, what it may start, what is still to be sent to it."""

    def __init__(self, sock: socket.socket, name: str, allowed: frozenset[int] | None, quota: int) -> None:
        self.sock = sock
        self.name = name
        self.allowed = allowed  # None: every profile
        self.quota = quota
        self.ready = False
        self.strikes = 0
        self.out: deque[tuple[bytes, int]] = deque()  # packet, descriptor to go with it or -1


class Helper:
    """One running profile: from fork until nothing of its process tree is left."""

    def __init__(self, handle: int, profile: Profile, client: Client | None, pid: int, errors: int) -> None:
        self.handle = handle
        self.profile = profile
        self.client = client
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.errors = errors  # the error pipe; -1 once exec is confirmed
        self.refused: tuple[int, int] | None = None  # NO_EXEC or UNVERIFIED, and the code that goes with it
        self.exited = False
        self.dying = False


class Launcher:
    """The event loop and everything it owns."""

    def __init__(self, path: str, *, root: bool = False) -> None:
        self.path = path
        self.root = root
        self.have = sandbox.capget()[1]
        self.profiles: tuple[Profile, ...] = ()
        self.fingerprint = 0
        self.read_at = 0.0
        self.poll = select.poll()
        self.watched: dict[int, Callable[[int], None]] = {}
        self.clients: list[Client] = []
        self.helpers: dict[int, Helper] = {}  # by handle
        self.handles = 0
        self.supervisor = 0  # its pid; 0: none of ours
        self.ending: int | None = None  # exit status, once the end has begun
        self.end_at = 0.0
        self.sweep_at = 0.0  # 0: nothing is dying
        self.pause = 0.001
        self.null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self.lines = 0

    def say(self, text: str) -> None:
        """Write one line to the log; never waits, and a flood is cut."""
        self.lines += 1
        if self.lines < 1000 or self.lines % 1000 == 0:
            waiting = select.poll()
            waiting.register(2, select.POLLOUT)
            if any(event & select.POLLOUT for _, event in waiting.poll(0)):
                os.write(2, f"helperd-launcher: {text}"[:1000].encode(errors="replace") + b"\n")

    # configuration

    def read(self) -> None:
        """Read the configuration and compile its profiles; nothing changes when it is refused.

        Raises:
            RequestRefused: the file cannot be trusted. ConfigRefused: it has mistakes.
        """
        fd = open_checked(self.path, root=self.root, flags=os.O_RDONLY)
        try:
            loaded = conf.load(self.path, fd=fd)
        finally:
            os.close(fd)
        profiles = tuple(compile_profile(spec) for spec in loaded.helpers)
        self.profiles = profiles
        self.fingerprint = int.from_bytes(hashlib.sha256(repr(profiles).encode()).digest()[:4]) or 1
        self.read_at = monotonic()

    # the loop

    def watch(self, fd: int, call: Callable[[int], None], events: int = select.POLLIN) -> None:
        """Call ``call(events)`` whenever ``fd`` has one of ``events``."""
        self.watched[fd] = call
        self.poll.register(fd, events)

    def unwatch(self, fd: int) -> None:
        """Forget a descriptor."""
        if self.watched.pop(fd, None):
            self.poll.unregister(fd)

    def run(self) -> int:
        """Serve until the end; return the exit status."""
        bell, ring = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(ring, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        self.watch(bell, lambda _: self.on_signals(os.read(bell, 256)))
        self.reap()
        while self.ending is None or self.helpers or self.supervisor:
            now = monotonic()
            times = [at for at in (self.sweep_at, self.end_at) if at]
            timeout = max(0.0, min(times) - now) * 1000 if times else None
            for fd, event in self.poll.poll(timeout):
                if fd in self.watched:
                    self.watched[fd](event)
            now = monotonic()
            if self.sweep_at and now >= self.sweep_at:
                self.sweep()
            if self.end_at and now >= self.end_at:
                self.end_at = now + 5
                if not self.supervisor:
                    self.say(f"gave up waiting for {len(self.helpers)} helpers that the kernel does not end")
                    return self.ending or int(Code.SYSTEM)
                os.kill(self.supervisor, signal.SIGKILL)
        return self.ending or 0

    def on_signals(self, numbers: bytes) -> None:
        """Answer the signals that came: children to reap, or an order to end."""
        if signal.SIGCHLD in numbers:
            self.reap()
        asked = signal.SIGTERM in numbers or (signal.SIGINT in numbers and self.supervisor)
        if asked and self.supervisor:
            os.kill(self.supervisor, signal.SIGTERM)  # ours and not reaped yet
            self.end_at = self.end_at or monotonic() + 15
        elif asked:
            self.end(0)

    def end(self, status: int) -> None:
        """Begin the end: kill every helper, leave with ``status`` when all are gone."""
        if self.ending is None:
            self.ending = status
        if not self.supervisor:
            self.end_at = monotonic() + 5
        for helper in self.helpers.values():
            self.kill(helper)

    # clients

    def admit(self, sock: socket.socket, name: str, allowed: frozenset[int] | None, quota: int) -> None:
        """Take a connection over."""
        sock.setblocking(False)
        client = Client(sock, name, allowed, quota)
        self.clients.append(client)
        self.watch(sock.fileno(), lambda event: self.on_client(client, event))

    def drop(self, client: Client, why: str) -> None:
        """End a connection and every helper started over it."""
        if client not in self.clients:
            return
        self.clients.remove(client)
        self.unwatch(client.sock.fileno())
        client.sock.close()
        for _, fd in client.out:
            if fd >= 0:
                os.close(fd)
        client.out.clear()
        if why:
            self.say(f"{client.name}: {why}")
        for helper in self.helpers.values():
            if helper.client is client:
                helper.client = None
                self.kill(helper)
        if not client.quota < 0 and client.allowed is None:
            self.end(0 if not self.supervisor else int(Code.NO))
            if self.supervisor:
                self.end_at = self.end_at or monotonic() + 15

    def on_client(self, client: Client, event: int) -> None:
        """Send what waits, then read one request."""
        self.flush(client)
        if event & ~select.POLLOUT and not client.out and client in self.clients:
            self.receive(client)

    def receive(self, client: Client) -> None:
        """Read one packet, answer it, and leave no descriptor open that came with it."""
        fds: list[int] = []
        try:
            space = socket.CMSG_SPACE(4 * struct.calcsize("i"))
            data, control, flags, _ = client.sock.recvmsg(WIRE.size + 1, space, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            data, control, flags = b"", [], 0
        for level, kind, body in control:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds += struct.unpack(f"{len(body) // 4}i", body[: len(body) // 4 * 4])
        try:
            if not data:
                self.drop(client, "")
                return
            cut = flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC)
            request = errno.EMSGSIZE if cut else parse(data, len(fds), len(self.profiles))
            self.answer(client, request, data, fds)
        finally:
            for fd in fds:
                os.close(fd)

    def answer(self, client: Client, request: Request | int, data: bytes, fds: list[int]) -> None:
        """Carry one request out and reply; a refusal is an errno and a line in the log."""
        op, cookie = data[4] if len(data) > 4 else 0, 0
        if len(data) == WIRE.size:
            cookie = WIRE.unpack(data)[6]
        number, handle, arg, pidfd = 0, 0, 0, -1
        try:
            if isinstance(request, int):
                raise RequestRefused("bad-request", "malformed request", errno=request)
            if not client.ready and request.op != PING:
                raise RequestRefused("not-allowed-now", "the first request must be PING", errno=errno.EPROTO)
            if request.op == PING:
                client.ready = True
                self.reread(wanted=request.arg == 1)
                handle, arg = len(self.profiles), self.fingerprint
            elif request.op == SIGNAL:
                self.on_signal_request(client, request)
                handle = request.handle
            else:
                helper = self.launch(client, request, fds)
                handle, pidfd = helper.handle, helper.pidfd
        except RequestRefused as error:
            number = error.errno
            self.say(f"{client.name}: refused op {op}: {errno.errorcode.get(number, number)}: {error.text}")
            client.strikes += number in MALFORMED
        packet = WIRE.pack(MAGIC, (op | 0x80) & 0xFF, 1 if pidfd >= 0 else 0, number, handle, arg, cookie)
        self.send(client, packet, pidfd)
        if client.strikes >= 2:
            self.drop(client, "two malformed requests, connection closed")

    def reread(self, *, wanted: bool) -> None:
        """PING 1: read the configuration again, at most once per second."""
        if not wanted:
            return
        if monotonic() - self.read_at < 1:
            raise RequestRefused(
                "busy", "the configuration was read less than a second ago", errno=errno.EAGAIN
            )
        try:
            self.read()
        except ConfigRefused as error:
            raise RequestRefused(error.problem, str(error), errno=errno.EINVAL) from None

    def on_signal_request(self, client: Client, request: Request) -> None:
        """SIGNAL: to the main process; KILL to the tree."""
        helper = self.helpers.get(request.handle)
        if helper is None or helper.client is not client:
            raise RequestRefused("bad-request", f"no helper {request.handle} here", errno=errno.ESRCH)
        if request.arg == signal.SIGKILL:
            self.kill(helper)
        elif helper.exited:
            raise RequestRefused("not-allowed-now", "it has ended; only KILL is left", errno=errno.EPROTO)
        else:
            signal.pidfd_send_signal(helper.pidfd, request.arg)

    def send(self, client: Client, packet: bytes, fd: int = -1) -> None:
        """Send a packet, or keep it until the client reads; requests wait meanwhile."""
        client.out.append((packet, os.dup(fd) if fd >= 0 else -1))
        self.flush(client)

    def flush(self, client: Client) -> None:
        """Send what the socket takes."""
        try:
            while client.out:
                packet, fd = client.out[0]
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", fd))] if fd >= 0 else []
                client.sock.sendmsg([packet], rights, socket.MSG_NOSIGNAL)
                client.out.popleft()
                if fd >= 0:
                    os.close(fd)
        except BlockingIOError:
            pass
        except OSError:
            self.drop(client, "")
            return
        if client.sock.fileno() in self.watched:
            self.poll.modify(client.sock.fileno(), select.POLLOUT if client.out else select.POLLIN)

    # helpers

    def launch(self, client: Client, request: Request, fds: list[int]) -> Helper:
        """LAUNCH: everything that can be refused is refused before the fork."""
        profile = self.profiles[request.profile - 1]
        if request.arg != self.fingerprint:
            raise RequestRefused("busy", "the profiles have changed: PING again", errno=errno.ESTALE)
        if client.allowed is not None and request.profile not in client.allowed:
            raise RequestRefused("not-permitted", f"no [[allow]] gives it {profile.name}", errno=errno.EACCES)
        if sum(helper.client is client for helper in self.helpers.values()) >= client.quota:
            raise RequestRefused("launcher-busy", f"{client.quota} helpers are running", errno=errno.EAGAIN)
        lacking = profile.want & ~self.have
        if lacking and not (profile.privilege != "ambient" and not profile.no_new_privs and not self.root):
            words = ", ".join(word for word, bit in conf.CAPABILITIES.items() if lacking >> bit & 1)
            raise RequestRefused("no-capability", f"{profile.name} needs {words}", errno=errno.EPERM)
        check_descriptors(fds)
        program, argv = open_program(profile, root=self.root)
        place = {0: self.null, 1: self.null, 2: self.null} | dict(zip((3, 4, 2, 5), fds, strict=False))
        try:
            return self.fork(profile, argv, dict(profile.env), place, program, client)
        except OSError as error:
            raise RequestRefused("no-resources", str(error), errno=error.errno or errno.EAGAIN) from None
        finally:
            os.close(program)

    def fork(  # noqa: PLR0913 - the parts of one child
        self,
        profile: Profile,
        argv: tuple[str, ...],
        env: dict[str, str],
        place: dict[int, int],
        program: int,
        client: Client | None,
        *,
        session: bool = True,
    ) -> Helper:
        """Fork a child that becomes ``profile``; its error pipe is one more watched descriptor."""
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            identity = Identity(None, os.getegid(), tuple(os.getgroups()))
            child = Child(
                profile, argv, env, place, program, write, identity, self.have, os.getpid(), session
            )
            pid = os.fork()
            if pid == 0:
                become(child)
        except OSError:
            os.close(read)
            raise
        finally:
            os.close(write)
        self.handles += 1
        helper = Helper(self.handles, profile, client, pid, read)
        if session:
            self.helpers[helper.handle] = helper
        self.watch(read, lambda _: self.on_exec(helper))
        return helper

    def on_exec(self, helper: Helper) -> None:
        """Read the error pipe: its end means that exec happened, anything else says which step failed."""
        said = os.read(helper.errors, 64).decode()
        self.unwatch(helper.errors)
        os.close(helper.errors)
        helper.errors = -1
        if said:
            step, number = said.split()
            helper.refused = (NO_EXEC, int(number))
            self.say(f"{helper.profile.name} was not started: {step}: {os.strerror(int(number))}")

    def reap(self) -> None:
        """Collect every child that has ended; a pid stays taken until its helper's last look at it."""
        by_pid = {helper.pid: helper for helper in self.helpers.values() if not helper.exited}
        while True:
            try:
                info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if info is None:
                return
            helper = by_pid.get(info.si_pid)
            if helper and helper.errors >= 0:
                self.on_exec(helper)
            status = os.waitpid(info.si_pid, 0)[1]
            if helper:
                self.on_exit(helper, os.waitstatus_to_exitcode(status))
            elif info.si_pid == self.supervisor:
                code = os.waitstatus_to_exitcode(status)
                self.supervisor = 0
                self.ending = None
                self.end(code if code >= 0 else 128 - code)

    def on_exit(self, helper: Helper, code: int) -> None:
        """Tell how a main process ended, then see to what it left behind."""
        helper.exited = True
        how, value = helper.refused or ((BY_EXIT, code) if code >= 0 else (BY_SIGNAL, -code))
        if helper.client:
            self.send(helper.client, WIRE.pack(MAGIC, EXITED, how, 0, helper.handle, value, 0))
        self.kill(helper)

    def kill(self, helper: Helper) -> None:
        """Kill a helper's whole tree, now and until nothing of it is left."""
        helper.dying = True
        if not helper.exited:
            signal.pidfd_send_signal(helper.pidfd, signal.SIGKILL)
        self.sweep_at = monotonic()
        self.pause = 0.001

    def sweep(self) -> None:
        """Kill what is left of dying helpers; the empty ones are done with."""
        self.reap()
        left = kill_strays(self.supervisor, {helper.pid: helper for helper in self.helpers.values()})
        self.reap()
        for helper in [
            helper for helper in self.helpers.values() if helper.exited and helper.pid not in left
        ]:
            if 0 in left and helper.dying and left[0]:
                continue
            del self.helpers[helper.handle]
            os.close(helper.pidfd)
            if helper.client:
                self.send(helper.client, WIRE.pack(MAGIC, EMPTY, 0, 0, helper.handle, 0, 0))
        self.pause = min(self.pause * 2, 0.1)
        self.sweep_at = (
            monotonic() + self.pause if any(helper.dying for helper in self.helpers.values()) else 0.0
        )

    # the supervisor

    def start_supervisor(self, args: list[str]) -> None:
        """Start the built-in profile 0 with the other end of a socket pair as descriptor 3, and serve it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program = os.path.realpath(sys.executable)
        argv = (program, "-I", "-S", "-c", BOOT, "--launcher-fd=3", f"--config={self.path}", *args)
        profile = Profile("supervisor", program, argv, "", 0, "ambient", True, "self", (), (), (), 0)
        env = dict(os.environ) | {"HELPERD_PATH": os.pathsep.join(places())}
        fd, _ = open_program(profile, root=self.root)
        helper = self.fork(
            profile, argv, env, {0: 0, 1: 1, 2: 2, 3: theirs.fileno()}, fd, None, session=False
        )
        os.close(fd)
        theirs.close()
        self.supervisor = helper.pid
        self.admit(ours, "supervisor", None, MAX_RUNNING)


def check_descriptors(fds: list[int]) -> None:
    """Accept pipes and sockets of the right direction, and as the fourth one sealed memory."""
    for position, fd in enumerate(fds):
        mode, access = os.fstat(fd).st_mode, fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
        good = stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode)
        if stat.S_ISFIFO(mode) and access == (os.O_WRONLY if position == 0 else os.O_RDONLY):
            good = False
        if position == 3:
            try:
                good = bool(fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK)
            except OSError:
                good = False
        if not good:
            text = f"descriptor {position + 1} is not what its place is for"
            raise RequestRefused("bad-request", text, errno=errno.EINVAL)


def kill_strays(supervisor: int, mains: dict[int, Helper]) -> dict[int, int]:
    """Kill the descendants, sessions and orphans of dying helpers, found by their ancestry.

    Returns:
        How many living processes each dying main pid still has; under 0 those that fit no helper.
    """
    me = os.getpid()
    table: dict[int, tuple[str, int, int, int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    words = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            table[int(name)] = (words[0].decode(), int(words[1]), int(words[3]), int(words[19]))
    left: dict[int, int] = {}
    for pid, (state, parent, session, started) in table.items():
        top = pid
        while top in table and top not in mains and table[top][1] not in {me, 0}:
            top = table[top][1]
        if pid == me or state in "ZX" or (top not in mains and (top not in table or table[top][1] != me)):
            continue
        if supervisor in {pid, top} or session == os.getsid(0) and top not in mains:
            continue
        owner = top if top in mains else session if session in mains else 0
        if owner and not mains[owner].dying:
            continue
        left[owner] = left.get(owner, 0) + 1
        kill_exactly(pid, started)
    return left


def kill_exactly(pid: int, started: int) -> None:
    """Kill a process, unless its pid belongs to another one by now."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            same = int(file.read().rpartition(b")")[2].split()[19]) == started
        if same:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except OSError:
        pass
    finally:
        os.close(pidfd)


def main(argv: list[str]) -> int:
    """Read the command line, open the door, serve; return the exit status."""
    words = ["config=", "runtime-dir=", "client-fd=", "unprivileged"]
    try:
        pairs, rest = getopt.getopt(argv, "", words)
    except getopt.GetoptError as error:
        sys.stderr.write(f"helperd-launcher: {error}\n")
        return int(Code.USAGE)
    options = dict(pairs)
    if "--config" not in options:
        sys.stderr.write("helperd-launcher: --config=FILE is needed\n")
        return int(Code.USAGE)
    launcher = Launcher(os.path.abspath(options["--config"]))
    try:
        launcher.read()
        prctl.set_child_subreaper(1)
        if "--client-fd" in options:
            sock = socket.socket(fileno=int(options["--client-fd"]))
            os.set_inheritable(sock.fileno(), False)
            launcher.admit(sock, "client", None, MAX_RUNNING)
        else:
            runtime = [f"--runtime-dir={options['--runtime-dir']}"] if "--runtime-dir" in options else []
            launcher.start_supervisor(runtime + rest)
    except HelperdError as error:
        sys.stderr.write(f"helperd-launcher: {error}\n")
        return int(error.exit_code)
    return launcher.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
