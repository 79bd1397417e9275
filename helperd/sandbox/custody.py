"""Every running helper, from fork until nothing of its process tree is left: uids, exec, reaping, and the
kill.

Three ways to reach a whole tree, each used where it holds:
    uid       the sweeper, by the helper's own uid, kills all of that uid; root, pool uids that cannot be left
    cgroup    ``cgroup.kill`` in the helper's leaf; where the unit has delegated its subtree
    ancestry  descendants, its session, and orphans that came back to us as subreaper; always possible
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
import zlib
from collections import deque
from resource import RLIMIT_FSIZE
from time import monotonic  # noqa: TID251 - the launcher's shell; kill deadlines are real time
from typing import TYPE_CHECKING, Any

from helperd.errors import RequestRefused
from helperd.sandbox import cgroup, forks, processes
from helperd.sandbox.become import HAS_UID, SETUID, TAKEN, UID_IN_USE, Child, differs
from helperd.sandbox.forks import Blank, failure, fork_blank, fork_taker, quiet_fork
from helperd.sandbox.post import LATE
from helperd.sandbox.standby import Taker
from helperd.sandbox.sweeper import Ranges, Sweeper

if TYPE_CHECKING:
    from collections.abc import Callable

    from helperd.sandbox.loop import Loop
    from helperd.sandbox.post import Client

AHEAD_S = 0.005  # by then whoever has asked for a helper has it
MOST_TAKERS = 64
MANY = 64  # free uids; of fewer none are held for a launch besides its own, in case somebody has that
LOOK_S, MOST_S = 0.1, 1.0  # what is killed is gone by then; a look at all processes takes milliseconds
LATER_S = forks.LATER_MS / 1000  # between two children that take what connections have left
MEASURE_S = 3.0  # between two looks at how much the living have where everybody may write
MOST_TRIES = 3  # to remove what a uid has left
TIDY_S = 1.0  # removing a directory that takes longer is given up


class Helper:
    """One running profile.

    Attributes:
        asker: the uid that asked for it, which its connection's end does not change.
        rule: the group by whose rule it might; empty: by another way.
        until: when one that was launched for a question is killed; 0: it was not.
        errors: the error pipe; -1 once exec is confirmed.
        taken: it has the request that asked for it.
        killed: when all of its uid was killed; 0: not yet, or some of it may have been left.
        swept: nothing of its uid was left after its end.
        mixed: somebody that is not ours has its uid too.
        tidy: what it left in its directory is removed, or has been tried to be.
    """

    def __init__(
        self, handle: int, name: str, child: Child, client: Client, started: tuple[int, int, int]
    ) -> None:
        self.handle = handle
        self.name = name
        self.profile, self.rule, self.until = 0, "", 0.0
        self.child = child
        self.client: Client | None = client
        self.asker = client.uid
        self.pid, self.errors, self.pidfd = started
        self.how = ""  # exited, signal, dumped, exec-failed, unverified
        self.code = 0  # of exec-failed: the errno
        self.taken = self.exited = self.dying = self.swept = self.tidy = self.mixed = self.cleaned = False
        self.remover, self.remover_until = 0, 0.0
        self.killed = 0.0

    @property
    def sweepable(self) -> bool:
        """Whether its uid is its own, and nothing of it could ever have left that uid."""
        pure = self.child.alone and not self.mixed
        return pure and self.child.no_new_privs and not self.child.want & SETUID


class Custody:
    """All helpers, by handle; ``tell`` gets (helper, "exited" | "empty", code of ``how``)."""

    def __init__(
        self,
        loop: Loop,
        say: Callable[[str], None],
        tell: Callable[[Helper, str, int], None],
        *,
        root: bool,
        folder: str,
    ) -> None:
        self.say = say
        self.tell = tell
        self.folder = folder  # our cgroup, when it is delegated to us
        self.helpers: dict[int, Helper] = {}
        self.handles = 0
        self.root, self.old = root, 0  # the pid of a launcher whose lock was taken
        self.ranges: Ranges | None = None  # none before the first configuration
        self.pool = deque[int]()  # those that are free, least recently used first
        self.kept = 0  # of them for who may start everything
        self.shared: dict[str, int] = {}  # uids of helpers with uid = "shared", by name
        self.sweep_at = 0.0  # 0: nothing is dying
        self.pause = 0.001
        self.look_at = self.see_at = self.let_at = 0.0
        self.others = set[int]()  # uids that others have, too, until see_at
        self.meter, self.measure_at = 0, 0.0  # the child that measures what the living leave; the next one
        self.spared: set[int] = {os.getpid()}  # our children that are no helpers
        self.littered: dict[int, int] = {}  # uids whose leavings are to be removed; how often it was tried
        self.soiled: set[int] = set()  # uids of the pool that have left what is to stay
        self.cleaner, self.cleaning = 0, tuple[int, ...]()  # the child that removes it, and for whom
        self.loop = loop
        self.sweeper, self.taker = Sweeper(loop, self.on_swept), Taker(loop)
        self.blank: Blank | None = None  # the next helper, forked ahead
        self.ending = False
        self.ahead_at = 0.0  # when to fork it, and who cleans; 0: nobody has asked for a helper since
        self.takers = set[int]()  # children that take what nobody is to have
        self.leftovers: list[Client] = []  # ended, with such in them: no child could be forked

    def use(self, ranges: Ranges, shared: list[str]) -> None:
        """Take uids over from a configuration: its pool, unless there is one, and those that helpers share."""
        if not self.ranges:
            self.ranges = self.sweeper.ranges = ranges
            self.pool.extend(ranges[0] if self.root else ())
            self.kept = len(self.pool) // 8
        elif ranges != self.ranges:
            self.say("uid_pool is another: it counts when this launcher is started again")
        self.share(shared, self.ranges[1])

    def share(self, names: list[str], uids: range) -> None:
        """Give each of these helpers a uid of its own that its name leads to, wherever it stands in the file.

        Programs that coordinate through files leave them behind; another uid the next time would be kept out. Of two
        names that lead to one number the later in the alphabet has the next. A helper that has one keeps it, also
        when others come or go, for as long as this process lives; of some that are gone one that is new may have it.
        """
        if len(set(self.shared) | set(names)) > len(uids):
            kept = {helper.name for helper in self.helpers.values()} | set(names)
            self.shared = {name: uid for name, uid in self.shared.items() if name in kept}
        for name in sorted(set(names) - set(self.shared)):
            first = zlib.crc32(name.encode()) % len(uids)
            free = [uid for uid in (*uids[first:], *uids[:first]) if uid not in self.shared.values()]
            self.shared.update((name, uid) for uid in free[:1])

    def take_uid(self, rule: str | int, name: str, private: bool, quotas: object = None) -> int:  # noqa: FBT001
        """Return the uid for a new helper of this name; as root only. The last are not for who has quotas.

        Raises:
            OSError: EUSERS, every uid of its kind is in use; EBUSY, what its last holder left is being removed.
        """
        if isinstance(rule, int):
            return rule
        if rule == "shared":
            if name not in self.shared:
                raise OSError(errno.EUSERS, "every uid for uid = shared is in use")
            if self.shared[name] in self.littered:
                raise OSError(errno.EBUSY, f"what {name} has left is being removed")
            return self.shared[name]
        if len(self.pool) <= (0 if quotas is None else self.kept):
            raise OSError(errno.EUSERS, "every uid of the pool is in use")
        return self._next(private)

    def _next(self, private: bool) -> int:  # noqa: FBT001
        """Take the next free uid: one that has left nothing for who is to find nothing, else one that has."""
        uid = next((uid for uid in self.pool if (uid in self.soiled) != private), self.pool[0])
        self.pool.remove(uid)
        return uid

    def empty_pool(self) -> None:
        """Kill whatever an earlier launcher left running under the pool's uids; before the first launch only.

        A uid of which something is left, because the kernel cannot end it, is not used. One that another launcher's
        helper has comes last. Here the sweeper is forked.
        """
        self.sweeper.start()
        others = processes.of_others(range(min(self.pool), max(self.pool) + 1), os.getpid(), self.old)
        self.pool = deque(sorted(self.pool, key=others.__contains__))
        for uid in processes.uids_in_use() & set(self.pool) - others:
            for _ in range(50):
                if self.sweeper.sweep_now(uid):
                    break
                time.sleep(0.005)  # before the loop begins; what is killed is gone in milliseconds
            else:
                self.pool.remove(uid)
        self.littered = dict.fromkeys((*self.pool, *(self.ranges[1] if self.ranges else ())), MOST_TRIES)
        self._clean()
        os.waitpid(self.cleaner, 0)
        self.cleaner, self.littered = 0, {}

    def start(self, name: str, child: Child, client: Client, profile: int, question_s: float) -> Helper:
        """Fork a helper and keep it; one for a question is killed after ``question_s`` seconds; 0: it is for none.

        Raises:
            OSError: no process, descriptor or uid is left.
        """
        leaf = cgroup.make_leaf(self.folder, f"helper-{self.handles + 1}") if self.folder else ""
        folder = f"/tmp/helperd-{os.urandom(12).hex()}"  # noqa: S108 - not to be guessed
        alone = bool(self.ranges and child.uid in self.ranges[0])
        others = tuple(self._next(child.private) for _ in range(3 * (alone and len(self.pool) > MANY)))
        child = child._replace(leaf=leaf, folder=folder, alone=alone, others=others)
        try:
            started = self._become(child)
            self.handles += 1
            helper = Helper(self.handles, name, child, client, started)
        except OSError:
            self._release(child)
            raise
        self.helpers[helper.handle] = helper
        helper.profile, helper.rule = profile, client.share(profile, 0)[2]
        if question_s:
            helper.until = monotonic() + question_s
            self.sweep_at = min(self.sweep_at or helper.until, helper.until)
        self.ahead_at = self.ahead_at or monotonic() + AHEAD_S
        self.measure_at = self.measure_at or monotonic() + MEASURE_S
        self.sweep_at = min(self.sweep_at or self.measure_at, self.measure_at)
        return helper

    def check_quota(self, client: Client, profile: int, question: int) -> None:
        """Refuse a client what no rule gives it, or one more than that; those for questions count by themselves.

        Raises:
            RequestRefused: EACCES, EAGAIN.
        """
        most, together, rule = client.share(profile, question)
        alike = [h for h in self.helpers.values() if (h.profile, h.until > 0) == (profile, question > 0)]
        if not most:
            text = f"no [[allow]] gives it profile {profile}"
            raise RequestRefused("not-permitted", text, errno=errno.EACCES)
        if sum(h.asker == client.uid for h in alike) >= most:
            raise RequestRefused("launcher-busy", f"it has {most} of profile {profile}", errno=errno.EAGAIN)
        if rule and sum(h.rule == rule for h in alike) >= together:
            text = f"the group {rule} has {together} of profile {profile}"
            raise RequestRefused("launcher-busy", text, errno=errno.EAGAIN)

    def pass_over(self, client: Client, *, carries: bool, then: Callable[[], None]) -> None:
        """Take a client's next request away; with descriptors, by a child of which the client has to wait for the end.

        Where none can be forked the one in reserve does it for who may start everything, and calls ``then``; others
        wait until one can be.
        """
        if not carries:
            client.skip()
            return
        client.taker = LATE
        with contextlib.suppress(OSError):
            try:
                client.taker = self._taker(client, all_of_it=False)
            except OSError:
                client.taker = self.taker.take(client.sock, then) if client.quotas is None else LATE
        if client.taker == LATE:
            self.loop.rest(client.sock.fileno())

    def let_go(self, *clients: Client) -> None:
        """Close connections; those with descriptors that were never taken by a child, now or when one can be forked."""
        self.leftovers += [client for client in clients if not client.close()]
        if self.leftovers and len(self.takers) < MOST_TAKERS and monotonic() >= self.let_at:
            with contextlib.suppress(OSError):
                self._taker(*self.leftovers, all_of_it=True)
                for client in self.leftovers:
                    client.sock.close()
                self.leftovers.clear()
            self.let_at = monotonic() + LATER_S
        if self.leftovers:
            self.sweep_at = min(self.sweep_at or self.let_at, self.let_at)

    def check_leftovers(self) -> None:
        """Refuse another connection while too many cannot be closed.

        Raises:
            OSError: EBUSY.
        """
        if len(self.leftovers) >= MOST_TAKERS:
            text = "too many connections have ended with descriptors that hang whoever takes them"
            raise OSError(errno.EBUSY, text)

    def _taker(self, *clients: Client, all_of_it: bool) -> int:
        pid = fork_taker([client.sock.fileno() for client in clients], all_of_it=all_of_it)
        self.spared.add(pid)
        self.takers.add(pid)
        return pid

    def _become(self, child: Child) -> tuple[int, int, int]:
        """Let the blank that is there become the child if nobody has touched it, else one that is forked now."""
        blank, self.blank = self.blank, None
        if blank and blank.untouched:
            self.spared.discard(blank.pid)
            with contextlib.suppress(OSError):  # it has just been killed
                return blank.become(child)
        elif blank:
            blank.end()  # spared until it is reaped
        return fork_blank().become(child)

    def fork_ahead(self) -> bool:
        """Fork the next helper, if it is time to, before it is asked for: a fork takes longer than all else that a
        request waits for; and who cleans. Where it cannot be, the next request tries again, and is told why not.
        """
        if not self.ahead_at or monotonic() < self.ahead_at:
            return False
        self.ahead_at = 0.0
        self._clean()
        if not self.blank and not self.ending:
            with contextlib.suppress(OSError):
                self.blank = fork_blank()
                self.spared.add(self.blank.pid)
        return True

    def close(self) -> None:
        """End the children that wait for orders; no helper is left."""
        self._clean()
        self.sweeper.end()
        self.taker.end()

    def end_blank(self) -> None:
        """End what was forked ahead; nothing more is."""
        self.ending = True
        if self.blank:
            self.blank.end()
            os.waitpid(self.blank.pid, 0)
            self.blank = None

    def _settle(self, helper: Helper, uid: int | None) -> None:
        """Note the uid that a child has, and give back what it might have had; what it was to have is somebody's."""
        child = helper.child
        if uid != child.uid:
            self.pool.append(child.uid or 0)
        self.pool.extendleft(each for each in reversed(child.others) if each != uid)
        if child.others:
            helper.child = child._replace(uid=uid, gid=uid or 0, others=())

    def _release(self, child: Child) -> None:
        self.pool.extendleft(reversed(child.others))
        if child.uid is not None and child.alone:
            if child.private:
                self.littered[child.uid] = 0
                self.ahead_at = self.ahead_at or monotonic() + AHEAD_S
            else:
                self.soiled.add(child.uid)
                self.pool.append(child.uid)
        if child.leaf:
            cgroup.remove(child.leaf)

    def _clean(self) -> None:
        """Let a child remove what the dead have left: one at a time, for all that wait; where none can be, later."""
        if self.littered and self.ranges and not self.cleaner:
            with contextlib.suppress(OSError):
                self.cleaner = fork_cleaner("clean", {*self.littered}, self.ranges[2][0])
                self.cleaning = tuple(self.littered)
                self.spared.add(self.cleaner)

    def _measure(self) -> None:
        """Let a child end who has more where everybody may write than one file of it may have."""
        held = [
            (h.child.uid, h.pidfd, most)
            for h in self.helpers.values()
            if h.child.private and (h.child.alone or h.child.uid in self.shared.values())
            if (most := dict(h.child.limits).get(RLIMIT_FSIZE)) is not None
        ]
        self.measure_at = monotonic() + MEASURE_S if held else 0.0  # where no child can be forked
        with contextlib.suppress(OSError):
            if held and self.ranges:
                self.meter = fork_cleaner("measure", held, self.ranges[2][0])
                self.spared.add(self.meter)

    def _cleaned(self, code: int) -> None:
        """Give back the uids of which nothing is left; others are tried again, then there is no hope."""
        for uid in self.cleaning:
            self.littered[uid] += 1
            if code == 0 or self.littered[uid] > MOST_TRIES:
                del self.littered[uid]
                self.pool.extend([uid] if self.ranges and uid in self.ranges[0] else [])
            if code and uid not in self.littered:
                self.say(f"what uid {uid} has left could not be removed")
        self.cleaner, self.cleaning, self.sweep_at = 0, (), monotonic()

    def on_exec(self, helper: Helper) -> bool:
        """Read what a child says on its way; False: it is not there yet. The end of the pipe means exec, then look at
        what came of it; other words name a failed step.
        """
        lines, ended = list[str](), False
        with contextlib.suppress(BlockingIOError):
            while not ended:
                data = os.read(helper.errors, 256)
                ended = not data
                lines += data.decode().splitlines()
        helper.taken |= TAKEN in lines
        for uid in [int(line.split()[1]) for line in lines if line.startswith(HAS_UID)]:
            self._settle(helper, uid)
        said = next((failure(line) for line in lines if not line.startswith((TAKEN, HAS_UID))), None)
        if not said and not ended:
            return False
        os.close(helper.errors)
        helper.errors = -1
        self._settle(helper, helper.child.uid)
        if said:
            helper.how, helper.code = "exec-failed", said.number
            self.say(f"{helper.name} was not started: {said}")
            if said.step == UID_IN_USE:  # by somebody who is not ours to kill; the next helpers get others
                with contextlib.suppress(OSError):
                    self.pool = deque(sorted(self.pool, key=processes.uids_in_use().__contains__))
            return True
        why = "" if helper.exited else doubt(helper)
        if why and not ends(helper):  # else it was ended before exec, or seen on its way out
            helper.how = "unverified"
            self.say(f"{helper.name} is killed, {why}")
            self.kill(helper)
        return True

    def on_end(self, pid: int, code: int, *, core: bool) -> None:
        """Note that a child of ours has ended and was reaped."""
        self.spared.discard(pid)
        self.takers.discard(pid)
        self.let_go()
        if self.blank and self.blank.pid == pid:
            self.blank.end()
            self.blank = None
        for standby in (self.sweeper, self.taker):
            if standby.pid == pid:
                standby.pid = 0
                standby.end()
        if self.cleaner == pid:
            self._cleaned(code)
        if self.meter == pid:
            self.meter, self.measure_at = 0, monotonic() + MEASURE_S
            self.sweep_at = min(self.sweep_at or self.measure_at, self.measure_at)
        self._clean()
        for helper in list(self.helpers.values()):
            if helper.pid == pid and not helper.exited:
                helper.exited = True
                if not helper.how:
                    died = "dumped" if core else "signal"
                    helper.how, helper.code = ("exited", code) if code >= 0 else (died, -code)
                self.tell(helper, "exited", helper.code)
                self.kill(helper)
            elif helper.remover == pid:
                helper.remover, helper.tidy = 0, True
                self.sweep_at = monotonic()

    def on_swept(self, uid: int, alone: bool) -> None:  # noqa: FBT001
        """Note what the sweeper has found of a uid."""
        for helper in [each for each in self.helpers.values() if each.child.uid == uid and each.dying]:
            helper.swept = helper.exited and alone
            if helper.swept:
                self.sweep_at = monotonic()

    def _see(self, asked: list[Helper], uids: range) -> None:
        """Note whose uid others have, too. A look holds as long as it took: for all that are killed at once."""
        if (began := monotonic()) >= self.see_at:
            self.others = processes.of_others(uids, os.getpid())
            self.see_at = monotonic() * 2 - began
        for helper in asked:
            helper.mixed |= helper.child.uid in self.others

    def _look(self, dying: list[Helper]) -> None:
        """Look for who is left of those with whom the kernel counts others: a container's, or zombies."""
        began = monotonic()
        late = began - (LOOK_S if self.pause >= LOOK_S else MOST_S)  # all are killed that are to be
        found = [h for h in dying if h.exited and not h.swept and 0 < h.killed < late]
        if found and began >= self.look_at:
            left = processes.alive({helper.child.uid or 0 for helper in found})
            for helper in found:
                helper.swept, helper.killed = helper.child.uid not in left, 0.0
            self.look_at = monotonic() * 5 - began * 4

    def kill_all(self, client: Client | None = None) -> None:
        """Kill every helper, or those of a client that is gone."""
        for helper in self.helpers.values():
            if client in {None, helper.client}:
                helper.client = helper.client if client is None else None
                self.kill(helper)

    def kill(self, helper: Helper) -> None:
        """Kill a helper's whole tree, now and until nothing of it is left."""
        helper.dying = True
        if not helper.exited:
            send(helper, signal.SIGKILL)
        if helper.child.leaf:
            cgroup.kill(helper.child.leaf)  # needs no look at who else there is
        self.sweep_at, self.pause = monotonic(), 0.001

    def sweep(self) -> None:
        """Kill what is left of dying helpers, and whose time is over; tell of those of whom nothing is left."""
        for helper in self.helpers.values():
            if helper.until and not helper.dying and monotonic() >= helper.until:
                self.kill(helper)
        if self.measure_at and not self.meter and monotonic() >= self.measure_at:
            self._measure()
        dying = [helper for helper in self.helpers.values() if helper.dying]
        alive = [h for h in dying if h.sweepable and not h.killed and not h.swept]
        try:
            if alive and self.ranges:
                self._see(alive, self.ranges[0])
            strays = set() if all(helper.sweepable for helper in dying) else self._kill_strays()
        except OSError:  # no descriptor to look with: somebody may be left
            strays, alive = {0}, []
        self._look(dying)
        for helper in dying:
            if helper.child.leaf:
                cgroup.kill(helper.child.leaf)
            if helper.sweepable and not helper.swept and (helper.killed or helper in alive):
                helper.killed = self.sweeper.ask(helper.child.uid or 0, helper.killed)
            gone = helper.swept if helper.sweepable else not {helper.pid, 0} & strays
            gone = gone and helper.exited and self._tidied(helper)
            if gone and (not helper.child.leaf or cgroup.remove(helper.child.leaf)):
                del self.helpers[helper.handle]
                os.close(helper.pidfd)
                self._release(helper.child._replace(leaf=""))
                self.tell(helper, "empty", 0)
        self.pause = min(self.pause * 2, LOOK_S)
        ends = [h.until for h in self.helpers.values() if h.until] + [self.let_at] * bool(self.leftovers)
        ends += [monotonic() + self.pause for h in self.helpers.values() if h.dying]
        ends += [self.measure_at] * (self.measure_at > 0 and not self.meter)
        self.sweep_at = min(ends, default=0.0)

    def _tidied(self, helper: Helper) -> bool:
        """Whether nothing is left of the directory that a dead helper may have made; a child of its uid removes it."""
        if helper.remover:
            if monotonic() > helper.remover_until:
                os.kill(helper.remover, signal.SIGKILL)  # ours, and not reaped yet
            return False
        if not helper.tidy and os.path.lexists(helper.child.folder):
            with contextlib.suppress(OSError):  # no process is left: again soon
                helper.remover = fork_cleaner("remove", helper.child.folder, helper.child.uid)
                helper.remover_until = monotonic() + TIDY_S
                self.spared.add(helper.remover)
            return False
        uid = helper.child.uid or 0
        if uid in self.shared.values() and helper.child.private and not helper.cleaned:
            helper.cleaned = True
            if not any(other.child.uid == uid for other in self.helpers.values() if other is not helper):
                self.littered[uid] = 0  # the last of them
                self._clean()
        return uid not in self.littered

    def _kill_strays(self) -> set[int]:
        """Kill the strays of dying helpers; return the main pids that had some, 0 for those that fit none."""
        rows, left = processes.table(), set[int]()
        mains = {helper.pid: helper for helper in self.helpers.values()}
        spared = self.spared | ({self.sweeper.pid, self.taker.pid} - {0})
        for pid, row in rows.items():
            owner = processes.owner(pid, rows, os.getpid(), set(mains) | spared)
            if owner is None or owner in spared or row.state in "ZX":
                continue
            if owner == 0:
                owner = next((main for main, helper in mains.items() if self._by_uid(helper, pid)), 0)
            if owner == 0 or mains[owner].dying:
                left.add(owner)
                processes.kill(pid, row.started)
        return left

    def _by_uid(self, helper: Helper, pid: int) -> bool:
        """Whether an orphan is a helper's, because nobody else has that uid."""
        found = processes.privilege(pid) if helper.child.alone else None
        return found is not None and found.uids[0] == helper.child.uid


def doubt(helper: Helper) -> str:
    """Look at a helper from outside; say what is not as its profile says, or that it cannot be looked at."""
    try:
        found = processes.privilege(helper.pid)
    except OSError as error:
        return f"it cannot be looked at: {error.strerror}"
    if not found:
        return "it cannot be looked at: /proc hides it (hidepid)"
    different = differs(helper.child, found)
    return f"its {different} is not what its profile says: {found}" if different else ""


def send(helper: Helper, number: int) -> bool:
    """Signal a helper's main process; False when we may not (set-user-ID, started without root)."""
    try:
        signal.pidfd_send_signal(helper.pidfd, number)
    except PermissionError:
        return False
    except ProcessLookupError:
        return True  # it has just ended
    return True


def fork_cleaner(call: str, *args: Any) -> int:
    """Fork a child that removes what the dead have left, by a call of ``cleaner``; return its pid."""
    pid = quiet_fork()
    if pid == 0:
        try:
            from helperd.sandbox import cleaner

            getattr(cleaner, call)(*args)
        finally:
            os._exit(1)
    return pid


def ends(helper: Helper) -> bool:
    """Whether a helper is on its way out: nothing of it runs again."""
    try:
        return processes.never_runs(helper.pid)
    except OSError:
        return False
