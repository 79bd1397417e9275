"""The supervisor's side of the launcher's socket, in trio; and the start of a launcher of one's own.

    async with open_launcher(fd) as launcher:
        process = await launcher.launch(profile, (in_fd, out_fd, err_fd))
        exit = await process.exited()      # how the main process ended
        await process.empty()              # nothing of its tree is left

One task reads; replies find their request by cookie, events their process by handle. When the connection ends, every
wait raises LauncherGone: the launcher has killed all helpers, or is about to.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple, Self

import trio

from helperd import access
from helperd.config import INSTALLED
from helperd.config.profile import script_of
from helperd.config.request import AS_ROOT, EMPTY, EXITED, HOW, LAUNCH, LEAVES, MAGIC, PING, SIGNAL, WIRE
from helperd.errors import LauncherGone, LaunchFailed, RequestRefused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from helperd.config import Config

    Tend = Callable[[str, Callable[[], Awaitable[object]], Callable[[], bool]], Awaitable[None]]

REPLY_S = 20.0
READ_AGAIN_S = 1.1
"""After so long a launcher reads its configuration again: it does once a second at most."""
_SLICES = 40
"""Of that time; when we stood still ourselves, one of them is over, and not the launcher's time to answer."""
PACKAGE = os.path.dirname(os.path.abspath(__file__))

OTHER = "the launcher has read another configuration than {} is now: `sudo helperd reload`, if a daemon of root's runs"

# errno of a refusal -> problem word and what to do; texts may name the helper
REFUSALS: dict[int, tuple[str, str]] = {
    errno.EPERM: (
        "no-capability",
        "the launcher kept what the helpers that were there at its start declare, not this one's: restart it",
    ),
    errno.EACCES: (
        "not-permitted",
        "no [[allow]] rule of the launcher's configuration gives this user the helper",
    ),
    errno.EAGAIN: ("launcher-busy", "so many as max_running allows are running; stop one first"),
    errno.ESTALE: ("not-allowed-now", "the launcher has read a changed configuration; reload this side too"),
    errno.ENOENT: ("not-installed", "the program, or the interpreter that its #! line names, does not exist"),
    errno.ENOTDIR: ("not-installed", "the program's directory does not exist"),
    errno.EISDIR: ("exec-failed", "the program is a directory, or no regular file: name the program itself"),
    errno.EHOSTUNREACH: (
        "not-permitted",
        "the launcher may not open the program: look at its mode, and that of the directories above it",
    ),
    errno.ENOEXEC: (
        "exec-failed",
        "the program is not executable (chmod +x it, or name what runs it), or its #! line names no absolute path",
    ),
    errno.EKEYREJECTED: (
        "unsafe-file",
        "another user can change it or a directory above it; helperd check, as root, says which",
    ),
    errno.ELOOP: (
        "unsafe-file",
        "a symbolic link is in the path: name the real one; for a virtual environment, python3 -m venv --copies",
    ),
    errno.EUCLEAN: (
        "privilege-mismatch",
        "its file capabilities, or its set-user-ID bit, are not what its block says; the launcher's log has more",
    ),
    errno.EDQUOT: ("no-resources", "no further process may be made: a limit on processes is reached"),
    errno.EMFILE: ("no-resources", "the launcher has no descriptor left"),
    errno.ENFILE: ("no-resources", "the system has no descriptor left"),
    errno.ENOMEM: ("no-resources", "the system has no memory left"),
    errno.EUSERS: (
        "no-resources",
        "no uid is left in the launcher's pool: stop something, or set a wider uid_pool in [helperd]",
    ),
}
FILE_REFUSALS = frozenset(
    number
    for number, (word, _) in REFUSALS.items()
    if word in {"not-installed", "unsafe-file", "exec-failed", "privilege-mismatch"}
    or number == errno.EHOSTUNREACH
)
"""Those for which the files that the program consists of are named."""
LASTING = frozenset({errno.EPERM, errno.EACCES})
"""Those that another try a second later does not mend; the others may come of files that are being replaced."""


class Exit(NamedTuple):
    """How a main process ended: one of HOW, with the exit code, signal, errno of exec, or number of the field."""

    how: str
    code: int


class Reply(NamedTuple):
    """One answer of the launcher; ``ways`` is the reply's n."""

    errno: int
    handle: int
    arg: int
    pidfd: int
    ways: int = 0


class Process:
    """One launched helper; made by ``Launcher.launch``.

    Attributes:
        handle: the launcher's number for it.
        pid: for display; never signalled. -1 when it had ended already.
    """

    def __init__(self, launcher: Launcher, handle: int, pidfd: int) -> None:
        self.handle = handle
        self.pid = _pid_of(pidfd)
        os.close(pidfd)  # the launcher keeps one and tells us of the end: one descriptor less for each helper
        self._launcher = launcher
        self._exit: Exit | None = None
        self._exited = trio.Event()
        self._empty = trio.Event()

    async def exited(self) -> Exit:
        """Return how the main process ended, once it has.

        Raises:
            LauncherGone: the connection ended before it was told.
        """
        await self._exited.wait()
        if self._exit is None:
            raise self._launcher.gone_error()
        return self._exit

    async def empty(self) -> None:
        """Return once nothing of the helper's process tree is left.

        Raises:
            LauncherGone: the connection ended before it was told.
        """
        await self._empty.wait()
        if self._launcher.is_gone and not self._launcher.lent:
            raise self._launcher.gone_error()

    async def signal(self, number: int) -> None:
        """Send HUP, INT, TERM, USR1 or CONT to the main process, or KILL to the tree; one that has ended is left alone.

        Raises:
            LauncherGone: the connection has ended. RequestRefused: no such signal is passed on.
        """
        if self._launcher.lent and self._launcher.is_gone:
            return
        reply = await self._launcher.ask(SIGNAL, handle=self.handle, arg=int(number))
        if reply.errno not in {0, errno.ESRCH, errno.EPROTO}:
            raise RequestRefused(
                "bad-request", f"signal {number}: {os.strerror(reply.errno)}", errno=reply.errno
            )

    async def kill(self) -> None:
        """Kill the whole tree; ``empty`` tells when it is gone."""
        await self.signal(signal.SIGKILL)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        with trio.CancelScope(shield=True):
            try:
                if not self._empty.is_set():
                    await self.kill()
                    await self.empty()
            except LauncherGone:
                pass  # then it is dead or dying, and nobody is left to ask


class Launcher:
    """An open connection.

    Attributes:
        profiles: how many there are.
        fingerprint: which reading of the configuration.
        mode: ``root`` (each helper has a uid of its own) or ``unprivileged`` (all have the caller's).
        containment: how a process tree is ended as a whole: ``cgroup``, ``uid`` or ``ancestry``.
        lent: others use it too, so that its end is no more to us than the end of our helpers.
    """

    def __init__(self, sock: trio.socket.SocketType, settings: Config | None, *, lent: bool = False) -> None:
        self.profiles = 0
        self.fingerprint = 0
        self.mode = self.containment = ""
        self.lent = lent
        self._why = "the launcher has ended, and with it every helper"
        self._sock = sock
        self._settings = settings
        self._cookie = 0
        self._waiting: dict[int, trio.MemorySendChannel[Reply]] = {}
        self._processes: dict[int, Process] = {}
        self._early: dict[int, list[tuple[int, int, int]]] = {}
        self._gone = trio.Event()
        self._turn = trio.Lock()
        self._tend: Tend | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing runs that was started over this connection."""
        return not self._processes

    @property
    def is_gone(self) -> bool:
        """Whether the connection has ended."""
        return self._gone.is_set()

    async def gone(self) -> None:
        """Return when the connection has ended."""
        await self._gone.wait()

    def gone_error(self) -> LauncherGone:
        """Return what every wait raises from then on."""
        return LauncherGone("launcher-gone", self._why)

    def abandon(self, why: str) -> None:
        """Wait for it no more: every wait raises LauncherGone with this text. It ends our helpers when it sees that."""
        self._why = why
        self._sock.close()

    async def refresh(self, reload: Config | None = None) -> None:
        """Ask for the number of profiles and the fingerprint.

        Args:
            reload: our new configuration; the launcher is to read its own again, too.

        Raises:
            LauncherGone: the connection has ended. RequestRefused: "bad-value" the new configuration is refused
            (EINVAL) and the old one stays, "busy" it was read less than a second ago (EAGAIN); "not-allowed-now" it has
            read another configuration than we have, so that its numbers mean something else.
        """
        reply = await self.ask(PING, arg=0 if reload is None else reload.fingerprint)
        if reply.errno == errno.ESTALE and reload is not None:
            raise RequestRefused("not-allowed-now", OTHER.format(reload.file), errno=errno.ESTALE)
        if reply.errno:
            word = "busy" if reply.errno == errno.EAGAIN else "bad-value"
            text = f"the launcher did not take its configuration over: {os.strerror(reply.errno)}; its log says why"
            raise RequestRefused(word, text, errno=reply.errno)
        settings = reload or self._settings
        if settings is not None and reply.arg != settings.fingerprint:
            raise RequestRefused("not-allowed-now", OTHER.format(settings.file), errno=errno.ESTALE)
        self._settings = settings
        self.profiles, self.fingerprint = reply.handle, reply.arg
        root = bool(reply.ways & AS_ROOT)
        self.mode = "root" if root else "unprivileged"
        self.containment = "cgroup" if reply.ways & LEAVES else "uid" if root else "ancestry"

    async def launch(self, profile: int, fds: Sequence[int], *, question: bool = False) -> Process:
        """Start a profile.

        Args:
            profile: its number, from 1.
            fds: what the helper gets as 3 (in), 4 (out), 2 (err) and, if sealed memory, 5; stay the caller's.
            question: it is asked one thing and ends; the launcher kills it soon after the
                limits of its block.

        Raises:
            LaunchFailed: the launcher refused; a problem word of ``REFUSALS``.
            LauncherGone: the connection has ended.
        """
        with trio.CancelScope(shield=True):  # once asked for, a process always has an owner
            reply = await self.ask(
                LAUNCH, profile=profile, handle=int(question), arg=self.fingerprint, fds=fds
            )
            if reply.errno:
                raise self._refusal(profile, reply.errno)
            process = Process(self, reply.handle, reply.pidfd)
            self._processes[reply.handle] = process
            for op, how, code in self._early.pop(reply.handle, []):
                self._on_event(op, how, reply.handle, code)
        return process

    def _refusal(self, profile: int, number: int) -> LaunchFailed:
        programs = self._settings.programs if self._settings else ()
        spec = programs[profile - 1] if 0 < profile <= len(programs) else None
        name = spec.name if spec else f"profile {profile}"
        word, text = REFUSALS.get(number, ("bad-request", f"the launcher refused: {os.strerror(number)}"))
        if number == errno.EPERM and spec and spec.capabilities and self.mode == "unprivileged":
            return LaunchFailed(
                word, f"{name} needs {access.lacks(spec) or ', '.join(spec.capabilities)}, {without()}"
            )
        if number == errno.EACCES and self._settings and self._settings.file == INSTALLED:
            return LaunchFailed(word, f"{name}: {access.no_rule(spec)}")
        files = ""
        if spec and number in FILE_REFUSALS:
            files = f" ({' '.join(filter(None, (spec.command[0], script_of(spec.command))))})"
        return LaunchFailed(word, f"{name}{files}: {text}", soon=number not in LASTING)

    async def ask(
        self, op: int, *, profile: int = 0, handle: int = 0, arg: int = 0, fds: Sequence[int] = ()
    ) -> Reply:
        """Send one request and return its reply.

        Raises:
            LauncherGone: the connection has ended, or no reply came for 20 s (it is closed then).
        """
        if self.is_gone:
            raise self.gone_error()
        self._cookie += 1
        cookie = self._cookie
        packet = WIRE.pack(MAGIC, op, len(fds), profile, handle, arg, cookie)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
        send, receive = trio.open_memory_channel[Reply](1)
        self._waiting[cookie] = send
        try:
            with trio.CancelScope(shield=True):
                with trio.move_on_after(REPLY_S):
                    async with self._turn:
                        await self._sock.sendmsg([packet], rights)
                for _ in range(_SLICES):
                    with trio.move_on_after(REPLY_S / _SLICES):
                        return await receive.receive()
        except (OSError, trio.EndOfChannel, trio.ClosedResourceError):
            raise self.gone_error() from None
        finally:
            self._waiting.pop(cookie, None)
        self._sock.close()  # it hangs: without it every helper ends
        raise self.gone_error()

    def tend_with(self, tend: Tend) -> None:
        """Let somebody know from now on when the reader has ended by an error of our own, and let it go on."""
        self._tend = tend

    async def keep_reading(self) -> None:
        """Read until the connection ends: the one reader task."""
        errors: list[Exception] = []
        try:
            await self._read()
        except Exception as error:
            if self._tend is None:
                raise
            errors.append(error)

        async def go_on() -> None:
            if errors:
                raise errors.pop()
            await self._read()

        if errors and self._tend is not None:
            await self._tend("the launcher's reader", go_on, lambda: self.is_gone)

    async def _read(self) -> None:
        """Read replies and events until the connection ends; an error of our own leaves it as it is."""
        try:
            while True:
                space = socket.CMSG_SPACE(struct.calcsize("i"))
                data, control, _, _ = await self._sock.recvmsg(WIRE.size, space, socket.MSG_CMSG_CLOEXEC)
                fds = [fd for _, _, body in control for fd in struct.unpack(f"{len(body) // 4}i", body)]
                if len(data) != WIRE.size:
                    break
                self._on_packet(data, fds[0] if fds else -1)
        except (OSError, trio.ClosedResourceError):
            pass  # the same as its end
        except trio.Cancelled:
            self._end()
            raise
        self._end()

    def _on_packet(self, data: bytes, fd: int) -> None:
        _, op, how, number, handle, arg, cookie = WIRE.unpack(data)
        if cookie == 0:
            self._on_event(op, how, handle, arg)
            return
        waiting = self._waiting.get(cookie)
        if waiting is None:
            if fd >= 0:
                os.close(fd)
            return
        if op == LAUNCH | 0x80 and not number:
            self._early[handle] = []  # its events may come before its owner runs
        waiting.send_nowait(Reply(number, handle, arg, fd, how))

    def _on_event(self, op: int, how: int, handle: int, code: int) -> None:
        if handle in self._early and handle not in self._processes:
            self._early[handle].append((op, how, code))
            return
        process = self._processes.get(handle)
        if process is None:
            return
        if op == EXITED:
            process._exit = Exit(HOW[how] if how < len(HOW) else "exited", code)
            process._exited.set()
        elif op == EMPTY:
            process._empty.set()
            del self._processes[handle]

    def _end(self) -> None:
        self._gone.set()
        for waiting in self._waiting.values():
            waiting.close()
        for process in self._processes.values():
            if self.lent and process._exit is None:
                process._exit = Exit("signal", signal.SIGKILL)  # by whoever has ended it
            process._exited.set()
            process._empty.set()


def without() -> str:
    """Why this process' own rights are all there is."""
    if os.geteuid() == 0:
        return "which root does not have here: a container, for one, has to be given it"
    return "which --unprivileged, or HELPERD_UNPRIVILEGED in the environment, forgoes: leave that out"


def _pid_of(pidfd: int) -> int:
    """Return the pid behind a pidfd, as the kernel tells it; -1 when the process is gone."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
        for line in file:
            if line.startswith("Pid:"):
                return int(line.split()[1])
    return -1


@asynccontextmanager
async def open_launcher(
    fd: int, *, settings: Config | None = None, lent: bool = False, reread: bool = False
) -> AsyncIterator[Launcher]:
    """Talk to the launcher at the other end of ``fd``, which belongs to the connection from then on.

    Args:
        fd: a SOCK_SEQPACKET socket.
        settings: our configuration: it has to be the launcher's, whose refusals then name the helpers.
        lent: others use it too.
        reread: one that has read another configuration is told to read it again; a supervisor may.

    Raises:
        LauncherGone: nobody answers there. RequestRefused: "not-allowed-now", it has read another configuration.
    """
    sock = trio.socket.from_stdlib_socket(socket.socket(fileno=fd))
    launcher = Launcher(sock, settings, lent=lent)
    with sock:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(launcher.keep_reading)
            try:
                try:
                    await launcher.refresh()
                except RequestRefused:
                    if not reread:
                        raise
                    await trio.sleep(READ_AGAIN_S)
                    await launcher.refresh(settings)
                yield launcher
            finally:
                nursery.cancel_scope.cancel()


def launcher_argv(config: str, *args: str) -> list[str]:
    """Return the command line of a launcher, isolated from the environment and from site-packages."""
    return [sys.executable, "-I", "-S", os.path.join(PACKAGE, "launch.py"), f"--config={config}", *args]


def launcher_env() -> dict[str, str]:
    """Return this process's environment with HELPERD_PATH: where isolated children find helperd and its libraries."""
    places = dict.fromkeys([os.path.dirname(PACKAGE), *(path for path in sys.path if path.startswith("/"))])
    return dict(os.environ) | {"HELPERD_PATH": os.pathsep.join(places)}


def connect_launcher(path: str) -> int:
    """Connect to a launcher that listens; return the descriptor, the caller's to close.

    Raises:
        LauncherGone: nobody listens there, or not for this user.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.connect(path)
    except OSError as error:
        sock.close()
        raise LauncherGone("launcher-gone", access.no_connection(path, error.errno or 0)) from None
    return sock.detach()


def start_launcher(config: str) -> tuple[int, int]:
    """Start a launcher with this process's own rights as a child.

    Returns:
        Its pid and our end of its socket, whose end is its end; both are the caller's to reap and close.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        argv = [*launcher_argv(os.path.abspath(config)), f"--client-fd={theirs.fileno()}", "--unprivileged"]
        os.set_inheritable(theirs.fileno(), True)  # noqa: FBT003
        # A terminal's ^C is for us; the child has no answer to it until it listens, and then none but our end.
        pid = os.posix_spawn(argv[0], argv, launcher_env(), setsigmask=[signal.SIGINT])
    return pid, ours.detach()


def end_launcher(pid: int, pidfd: int) -> None:
    """Reap a launcher of ours, killing it if it still runs; close its pidfd."""
    if not os.waitpid(pid, os.WNOHANG)[0]:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitpid(pid, 0)
    os.close(pidfd)


@asynccontextmanager
async def own_launcher(config: str, *, settings: Config | None = None) -> AsyncIterator[Launcher]:
    """Start a launcher with this process's own rights as a child, and talk to it; it ends with the block.

    Raises:
        LauncherGone: it did not start; its standard error says why.
    """
    pid, fd = start_launcher(config)
    pidfd = os.pidfd_open(pid)
    try:
        async with open_launcher(fd, settings=settings) as launcher:
            yield launcher
    finally:
        with trio.CancelScope(shield=True), trio.move_on_after(6):
            await trio.lowlevel.wait_readable(pidfd)
        end_launcher(pid, pidfd)
