"""The launcher: the only parent of helpers, root in production, one thread, the only privileged code of ours.

Rules:
  1. A request names a profile by number and carries descriptors; never a path, argument, variable, uid or
     capability.
  2. A forked child execs or ends, so fork, per-thread capabilities and the parent-death signal are safe.
  3. Each step of becoming a helper is checked by the child before exec and looked at from outside after it.
  4. A closed connection kills every helper started over it; the launcher's own end kills them all.
  5. The same code runs without root; what the caller's uid cannot give is refused (EPERM).

    launch.py --config=FILE [--runtime-dir=DIR] [-- ARGS]   start the supervisor, end with its status
    launch.py --config=FILE --client-fd=N                   serve the peer of descriptor N, end with it
    launch.py --config=FILE --listen=PATH | --systemd       serve whoever the configuration allows

What it stands on: see "Boxes and arrows" in docs/privsep.md.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import select
import signal
import socket
import sys
from dataclasses import replace
from time import monotonic  # noqa: TID251 - a shell of its own, and kill deadlines are real time
from typing import TYPE_CHECKING

from helperd import config as conf
from helperd.config import profile as profiling
from helperd.config import request as wire
from helperd.config import trust
from helperd.errors import Code, ConfigRefused, HelperdError, RequestRefused, UsageError
from helperd.launch import HERE, cure, places
from helperd.sandbox import cgroup, custody, door, forks, kernel, lock, prctls, seccomp
from helperd.sandbox.become import ASKED, SETGID, SETPCAP, SETUID, Child, child_of
from helperd.sandbox.loop import Log, Loop
from helperd.sandbox.post import LATE, Client, Packet
from helperd.visible import visible

if TYPE_CHECKING:
    from helperd.config.profile import Profile
    from helperd.sandbox.custody import Helper

OWN = 1 << 5 | SETGID | SETUID | SETPCAP  # KILL, and these: what the launcher itself needs as root
MAX_ACCEPTED = 64  # connections in a turn at most
REAPED = 64  # children in a turn at most: their own children come back to us, as many as they like


class Launcher:
    """The event loop and all it owns."""

    def __init__(self, path: str, *, root: bool, delegated: bool = False) -> None:
        self.path, self.root = path, root
        self.have = kernel.capget()[1]
        self.config, self.accounts = conf.Config(), profiling.Accounts()
        self.profiles: tuple[Profile, ...] = ()
        self.last: Profile | None = None  # what was launched last
        self.fingerprint, self.read_at, self.end_at = 0, 0.0, 0.0  # end_at: of patience; 0: not planned
        self.loop = Loop()
        self.say = Log().say
        self.clients, folder = list[Client](), cgroup.own_folder() if delegated else ""
        self.custody = custody.Custody(self.loop, self.say, self.tell, root=root, folder=folder)
        self.ways = wire.AS_ROOT * root + wire.LEAVES * bool(folder)
        self.supervisor = 0  # its pid; 0: none of ours
        self.ending: int | None = None  # exit status, once the end has begun
        self.null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self.beat = lock.Beat()

    def read(self, expected: int = 0) -> conf.Config:
        """Read the configuration and compile its profiles; return all of it. Nothing changes when it is refused.

        Raises:
            RequestRefused: the file cannot be trusted, or is not the expected one. ConfigRefused: it has mistakes.
        """
        self.read_at = monotonic()
        config = conf.load(self.path, lambda path: trust.open_text(path, root=self.root), whole=False)
        if expected not in {0, 1, config.fingerprint}:
            raise RequestRefused("not-allowed-now", "it is another one by now", errno=errno.ESTALE)
        self.accounts, where = profiling.Accounts(), os.pathsep.join(places())
        profiles = profiling.compile_profiles(config, self.accounts, f"{HERE}/helperd", where)
        self.config, self.profiles = replace(config, sources=(), sinks=()), profiles  # not its business
        for client in self.clients:  # numbers and rules are others now
            client.quotas = profiling.admission(config, self.accounts, client.uid, client.gids)
        self.custody.use(config.helperd.pool, [each.name for each in profiles if each.uid == "shared"])
        self.fingerprint = config.fingerprint
        for profile in filter(profiling.weakness, profiles):
            self.say(f"warning: {profile.name} {profiling.weakness(profile)}")
        return config

    def run(self) -> int:
        """Serve until the end; return the exit status."""
        self.loop.on_signals(self.on_signals, profiling.HEARD)
        self.reap()
        self.custody.taker.start()
        while self.ending is None or self.custody.helpers:
            self.loop.turn([self.custody.sweep_at, self.custody.ahead_at, self.end_at, self.beat.at])
            self.beat.give()
            self.fork_ahead()
            if self.custody.sweep_at and monotonic() >= self.custody.sweep_at:
                self.reap()
                self.custody.sweep()
            if self.end_at and monotonic() >= self.end_at:
                if not self.supervisor:
                    self.say(f"the kernel does not end {len(self.custody.helpers)} helpers; left alone")
                    return self.ending or int(Code.SYSTEM)
                os.kill(self.supervisor, signal.SIGKILL)  # ours, and not reaped yet
                self.end_at = monotonic() + 5
        self.custody.close()
        return self.ending

    def fork_ahead(self) -> None:
        """Fork the next helper, if it is time to; then do what a launch does and changes nothing."""
        if self.custody.fork_ahead() and self.last and self.custody.blank:
            with contextlib.suppress(HelperdError, OSError):
                opened = trust.open_program(self.last, root=self.root)
                self.custody.blank.rehearse(child_of(opened, *self.last.becoming(0), self.have, self.null))

    def on_signals(self, numbers: bytes) -> None:
        """Answer the signals that came: children to reap, an order to end, or to the supervisor to read again."""
        if signal.SIGCHLD in numbers:
            self.reap()
        if signal.SIGHUP in numbers and self.supervisor:
            os.kill(self.supervisor, signal.SIGHUP)  # whoever starts `helperd run` knows our pid alone
        alone = any(client.uid < 0 for client in self.clients) and not self.supervisor
        if signal.SIGTERM in numbers or (signal.SIGINT in numbers and not alone):
            # A terminal's ^C also reaches the process that holds --client-fd, which decides.
            self.end(0, signal.SIGTERM if signal.SIGTERM in numbers else signal.SIGINT)

    def end(self, status: int, number: int = signal.SIGTERM) -> None:
        """Begin the end: the supervisor first, by a signal; without one, kill every helper and return ``status``."""
        if self.supervisor:
            os.kill(self.supervisor, number)
            self.end_at = self.end_at or monotonic() + profiling.END_S
            return
        self.ending, self.end_at = status if self.ending is None else self.ending, monotonic() + 5
        self.custody.kill_all()
        self.custody.end_blank()

    def reap(self) -> None:
        """Collect every child that has ended; a helper is looked at before its pid is given back."""
        waiting = {h.pid: h for h in self.custody.helpers.values() if h.errors >= 0}
        for _ in range(REAPED):
            try:
                info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if info is None:
                return
            if info.si_pid in waiting:
                self.on_exec(waiting.pop(info.si_pid))
            code = os.waitstatus_to_exitcode(status := os.waitpid(info.si_pid, 0)[1])
            if info.si_pid == self.supervisor:
                self.supervisor = 0
                self.end(forks.status_of(code, self.say))
            else:
                self.custody.on_end(info.si_pid, code, core=os.WCOREDUMP(status))
                for client in [each for each in self.clients if each.taker == info.si_pid]:
                    self.on_taken(client)
        os.kill(os.getpid(), signal.SIGCHLD)  # others have their turn, then the rest

    # clients

    def admit(self, client: Client) -> None:
        """Serve a connection."""
        self.clients.append(client)
        self.loop.watch(client.sock.fileno(), lambda event: self.on_client(client, event))

    def drop(self, client: Client, why: str = "") -> None:
        """End a connection, and every helper started over it."""
        if client not in self.clients:
            return
        self.clients.remove(client)
        self.loop.unwatch(client.sock.fileno())
        self.custody.let_go(client)
        if why:
            self.say(f"{client.name}: {why}")
        self.custody.kill_all(client)
        if client.uid < 0 and self.supervisor:  # about to end by itself; a TERM would change its status
            self.end_at = self.end_at or monotonic() + 5
        elif client.uid < 0:
            self.end(0)

    def on_client(self, client: Client, event: int) -> None:
        """Send what waits, then look at one request; at none while something waits."""
        self.flush(client)
        if client.taker and event & select.POLLHUP:
            self.drop(client)
        elif client.taker == LATE and client in self.clients:
            self.pass_over(client, carries=True)
            self.flush(client)
        if client.taker or not event & ~select.POLLOUT or client.out or client not in self.clients:
            return
        packet = client.peek(wire.WIRE.size)
        if packet and (packet.data or packet.carries):
            self.answer(client, packet)
        elif packet:
            self.drop(client)

    def flush(self, client: Client) -> None:
        """Send what the socket takes, and wait for what is next."""
        if not client.flush():
            self.drop(client)
        elif client in self.clients:
            self.loop.want(client.sock.fileno(), client.wants)

    def answer(self, client: Client, packet: Packet) -> None:
        """Carry one request out and reply; a refusal is an errno, and a line in the log."""
        data = packet.data
        op = data[4] if len(data) > 4 else 0
        cookie = wire.WIRE.unpack(data)[6] if len(data) == wire.WIRE.size else 0
        number, handle, arg, pidfd = 0, 0, 0, -1
        try:
            request = packet.cut or wire.parse(data, len(self.profiles), carries=packet.carries)
            if isinstance(request, int):
                raise RequestRefused("bad-request", "malformed request", errno=request)
            handle, arg, pidfd = self.obey(client, request)
        except (RequestRefused, OSError) as error:  # OSError: what we lack ourselves
            number = error.errno or errno.EIO
            client.strikes += number in wire.MALFORMED
            if number != errno.ESRCH:  # asked to signal what has just ended: nothing to report
                word = errno.errorcode.get(number, number)
                text = error.text if isinstance(error, RequestRefused) else error.strerror
                self.say(f"{client.name}: op {op} refused, {word}: {text}")
        n = self.ways if op == wire.PING else int(pidfd >= 0)
        client.put(wire.WIRE.pack(wire.MAGIC, op | 0x80, n, number, handle, arg, cookie), pidfd)
        if pidfd < 0:
            self.pass_over(client, carries=packet.carries)
        self.flush(client)
        if client.strikes >= 2:
            self.drop(client, "two malformed requests, connection closed")

    def pass_over(self, client: Client, *, carries: bool) -> None:
        """Leave a request out, and see to it that nobody here gets what may have come with it."""
        self.custody.pass_over(client, carries=carries, then=lambda: self.on_taken(client))

    def on_taken(self, client: Client) -> None:
        """The request that was left out is gone: look at the next."""
        client.taker = 0
        self.flush(client)

    def obey(self, client: Client, request: wire.Request) -> tuple[int, int, int]:
        """Carry a request out; return handle, argument and pidfd of the reply.

        Raises:
            RequestRefused: the errno to answer with.
        """
        if request.op == wire.PING:
            if request.arg and profiling.may_reload(self.config, self.accounts, client.uid, client.gids):
                self.reread(request.arg)
            client.ready = True
            return len(self.profiles), self.fingerprint, -1
        if not client.ready:
            raise RequestRefused("not-allowed-now", "the first request must be PING", errno=errno.EPROTO)
        if request.op == wire.LAUNCH:
            helper = self.launch(client, request)
            return helper.handle, 0, helper.pidfd
        found = self.custody.helpers.get(request.handle)
        if found is None or found.client is not client:
            raise RequestRefused("bad-request", f"no helper {request.handle} here", errno=errno.ESRCH)
        if request.arg == signal.SIGKILL:
            self.custody.kill(found)
        elif found.exited:
            raise RequestRefused("not-allowed-now", "it has ended, only KILL is left", errno=errno.ESRCH)
        elif not custody.send(found, request.arg):
            raise RequestRefused("not-permitted", f"{found.name} has another uid by now", errno=errno.EACCES)
        return found.handle, 0, -1

    def reread(self, expected: int) -> None:
        """PING: read the configuration again, at most once per second."""
        if monotonic() - self.read_at < 1:
            raise RequestRefused("busy", "it was read less than a second ago", errno=errno.EAGAIN)
        try:
            self.read(expected)
        except ConfigRefused as error:
            raise RequestRefused(error.problem, str(error), errno=errno.EINVAL) from None

    def tell(self, helper: Helper, what: str, code: int) -> None:
        """Send an event to whoever started a helper, if it is still there."""
        if helper.client:
            helper.client.put(wire.event(helper.handle, what, helper.how, code))
            self.flush(helper.client)

    def launch(self, client: Client, request: wire.Request) -> Helper:
        """LAUNCH: everything that can be refused is refused before the fork.

        Raises:
            RequestRefused: why not.
        """
        profile = self.profiles[request.profile - 1]
        if self.ending is not None:
            raise RequestRefused("launcher-busy", "it is ending", errno=errno.EAGAIN)
        if request.arg != self.fingerprint:
            raise RequestRefused("busy", "the profiles have changed: PING again", errno=errno.ESTALE)
        self.custody.check_quota(client, request.profile, request.handle)
        lacking = profile.want & ~self.have
        if lacking and (self.root or profile.no_new_privs or profile.privilege == "ambient"):
            words = ", ".join(word for word, bit in conf.CAPABILITIES.items() if lacking >> bit & 1)
            raise RequestRefused("no-capability", f"{profile.name} needs {words}", errno=errno.EPERM)
        opened = trust.open_program(profile, root=self.root)
        try:
            uid = self.custody.take_uid(*profile.owner, client.quotas) if self.root else None
            child = child_of(opened, *profile.becoming(uid), self.have, self.null)
            child = child._replace(asked=request.fds, place=child.place | {ASKED: client.sock.fileno()})
            limit = profile.question_s if request.handle else 0.0
            helper = self.custody.start(profile.name, child, client, request.profile, limit)
        except OSError as error:
            number = errno.EDQUOT if error.errno == errno.EAGAIN else error.errno or errno.ENOMEM
            raise RequestRefused("no-resources", str(error), errno=number) from None
        finally:
            os.close(opened[0])
        self.last, client.taker = profile, helper.pid
        self.loop.watch(helper.errors, lambda _: self.on_exec(helper))
        return helper

    def on_exec(self, helper: Helper) -> None:
        """A child has taken its request; or exec has happened or failed."""
        errors, client = helper.errors, helper.client
        ended = self.custody.on_exec(helper)
        if ended:
            self.loop.unwatch(errors)
        if client and client.taker == helper.pid and (ended or helper.taken):
            client.taker = 0
            if not helper.taken:
                self.pass_over(client, carries=True)
            self.flush(client)

    def on_error(self, errors: int) -> None:
        """The supervisor's exec has happened or failed; then its end follows by itself."""
        self.loop.unwatch(errors)
        if said := forks.read_errors(errors):
            self.say(f"the supervisor was not started: {said}")

    # ways in

    def harden(self) -> None:
        """As root: be the only one, empty the pool, keep only what profiles and the kill ladder need."""
        trust.check_closure()
        needed = profiling.needed(self.profiles, self.config)
        plain = all(profile.no_new_privs for profile in self.profiles)
        self.have = door.harden(OWN | needed, self.custody, self.accounts.users, no_new_privs=plain)

    def start_supervisor(self, args: list[str], ids: tuple[int, int] | None, config: conf.Config) -> None:
        """Start the built-in profile 0 with one end of a socket pair as descriptor 3, and serve the other."""
        from helperd.config import supervisor

        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.beat.address = ""  # the supervisor's to tell
        env = door.environment(root=self.root) | {"HELPERD_PATH": os.pathsep.join(places())}
        profile = supervisor.profile(f"{HERE}/helperd", self.path, args, env, root=self.root)
        fd, words = trust.open_program(profile, root=self.root)
        place = {0: 0, 1: 1, 2: 2, 3: theirs.fileno()}
        child = Child(words, profile.env, place, fd, -1, self.have, os.getpid(), session=False)
        child = child._replace(filter=seccomp.for_profile(1, 0, no_new_privs=True), blocked=profiling.BLOCKED)
        if ids:
            child = child._replace(uid=ids[0], gid=ids[1], groups=supervisor.groups(config, self.accounts))
        self.supervisor, errors, pidfd = forks.fork(child)
        os.close(pidfd)
        self.custody.spared.add(self.supervisor)
        self.loop.watch(errors, lambda _: self.on_error(errors))
        os.close(fd)
        theirs.close()
        self.admit(Client(ours, "supervisor", -1))

    def on_connection(self, listener: socket.socket) -> None:
        """Accept who waits, so many in a turn that nobody can stand in root's way; all refused are let go at once."""
        refused = list[Client]()
        try:
            self.custody.check_leftovers()
            for _ in range(MAX_ACCEPTED):
                refused += self.accept(listener.accept()[0])
        except BlockingIOError:
            pass
        except OSError as error:
            self.say(f"cannot accept: {error.strerror}")
            self.loop.rest(listener.fileno())
        self.custody.let_go(*refused)

    def accept(self, sock: socket.socket) -> list[Client]:
        """Serve who comes from root, the supervisor's user, or has an [[allow]] rule; return others."""
        pid, uid, gids = door.peer(sock)
        if not self.clients and conf.changed(self.config):  # nobody's numbers change under them
            try:
                self.read()
            except HelperdError as error:
                self.say(f"what was read before holds: {error}")
        quotas = profiling.admission(self.config, self.accounts, uid, gids)
        client = Client(sock, f"uid {uid} (pid {pid})", uid, quotas, gids)
        why = "no [[allow]] rule for it" if client.quotas == {} else client.crowded(self.clients)
        if not why:
            self.admit(client)
            return []
        self.say(f"{client.name} refused: {why}")
        return [client]


def serve(options: dict[str, str], rest: list[str]) -> int:
    """Open the way in that the command line names, and serve.

    Raises:
        HelperdError: why not.
    """
    if "--config" not in options:
        raise UsageError("usage", "--config=FILE is needed")
    root = os.geteuid() == 0 and "--unprivileged" not in options
    if root:
        door.check_surroundings(cure("prctl"))
    launcher = Launcher(os.path.abspath(options["--config"]), root=root, delegated="--delegated" in options)
    config = launcher.read()
    prctls.prctl.set_child_subreaper(1)
    if root:
        launcher.custody.old = launcher.beat.take(launcher.config.helperd.pool.all)
    listener = door.from_systemd() if "--systemd" in options else None
    client = None if "--client-fd" not in options else door.inherited(options["--client-fd"], listening=False)
    ids = profiling.daemon_ids(launcher.config.helperd, launcher.accounts) if root and not client else None
    if "--listen" in options:
        trust.check_folder(os.path.dirname(os.path.abspath(options["--listen"])), root=root)
        path, gid = options["--listen"], ids[1] if ids else -1
        listener = door.listen(path, gid, launcher.beat.old)
        launcher.beat.at, launcher.beat.kept = monotonic(), (listener, lambda: door.listen(path, gid, 0))
    own = not listener and not client
    more, made = door.runtime_dir(options, launcher.config.helperd.runtime_dir, ids) if own else ([], "")
    try:
        if root:
            launcher.harden()
        if listener:
            listener.setblocking(False)  # noqa: FBT003
            launcher.loop.watch(listener.fileno(), lambda _: launcher.on_connection(listener))
        elif client:
            launcher.admit(Client(client, "client", -1))
        else:
            launcher.start_supervisor(more + rest, ids, config)
        gc.freeze()  # what is here stays: looking at it again would copy the pages that a fork shares
        return launcher.run()
    finally:
        with contextlib.suppress(OSError):  # removed, or somebody else's files are in it
            os.unlink(options["--listen"]) if "--listen" in options else os.rmdir(made)


def main(argv: list[str]) -> int:
    """Serve as the command line says, return the exit status."""
    try:
        return serve(*door.options(argv))
    except (HelperdError, OSError) as error:
        mistakes = getattr(error, "mistakes", [error])
        sys.stderr.write("".join(f"helperd-launcher: {visible(mistake)}\n" for mistake in mistakes))
        return int(getattr(error, "exit_code", Code.SYSTEM))
