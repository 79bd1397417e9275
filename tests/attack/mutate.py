"""Takes one step of the privilege sequence away at a time; the scenes must notice every one. Prints the score.

    sudo python -m tests.attack.mutate [WORD]     only mutations whose name has WORD; --help says what else

What is to notice runs first without any mutation, and must be green then: else its red would say nothing. Red is what a scene
or test has found not to be as it must be. A mutation that is not there, that is no program any more, or with which the scene
stumbles or hangs has shown nothing: its row is broken. Works on the copy that each stage makes for itself, and on one for tests
that need no stage: the checkout is never touched.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from helperd.sandbox.seccomp import ABSENT, MODES, OPENS
from tests.attack.foreign import PEEKS, RECEIVES
from tests.attack.stage import ROOT

BECOME, CUSTODY, DOOR, FORKS = (f"sandbox/{name}.py" for name in ("become", "custody", "door", "forks"))
TRUST = "config/trust.py"
LAUNCHER, PROCESSES, REQUEST = "privsep.py", "sandbox/processes.py", "config/request.py"
SECCOMP, SWEEPING, CLEANER = "sandbox/seccomp.py", "sandbox/sweeping.py", "sandbox/cleaner.py"
POST, LOCK, SEALING = "sandbox/post.py", "sandbox/lock.py", "sandbox/sealing.py"


class Mutation(NamedTuple):
    """One step taken away: ``old`` becomes ``new`` in a file of the package; which scenes, or files of tests, are to notice.

    Attributes:
        lets: the error that the step keeps from coming through, where that is what is to be noticed.
    """

    name: str
    file: str
    old: str
    new: str
    scenes: str
    lets: str = ""


EXACT = "exact"
OWNED, INSTALL = "../scripts/owned.sh", "../scripts/install"
TENDING, DATABASE = "tending.py", "helpers/_database.py"
TENDED, READ, SHOWN = (
    "tests/test_tending.py --deselect tests/test_tending.py::test_whatever_fails_is_named_and_everything_goes_on",
    "tests/helpers/test_database.py",
    "tests/test_visible.py",
)
KEEP = """            await trio.sleep(self._note(name, text, began))
"""


AGAIN = ("cli/list.py", "cli/status.py", "cli/screen.py", "logs.py:    return visible(raw")
"""Lines whose texts pass another exit further out, too: here they are made visible for their width, or to be kept."""


def exits() -> list[tuple[str, str]]:
    """Every line of the package that makes a text visible: each is a way to a terminal, or into a recording."""
    package = ROOT / "helperd"
    found = []
    for path in sorted(package.rglob("*.py")):
        name = str(path.relative_to(package))
        lines = path.read_text().splitlines() if name != "visible.py" else []
        shown = [line for line in lines if re.search(r"\bvisible\(|\(visible,", line)]
        found += [(name, line + "\n") for line in shown if not f"{name}:{line}".startswith(AGAIN)]
    return found


MUTATIONS = [
    Mutation("close the rest", BECOME, "    kernel.close_from(last + 3)\n", "", "dirty_start"),
    Mutation("umask", BECOME, "    os.umask(0o077)\n", "", "dirty_start"),
    Mutation("directory", BECOME, '    os.chdir("/")\n', "", "dirty_start"),
    Mutation("session", BECOME, "        os.setsid()\n", "        pass\n", EXACT),
    Mutation("default signals", BECOME, "    kernel.default_signals()\n", "", "dirty_start"),
    Mutation("signal mask", BECOME, "    signal.pthread_sigmask(signal.SIG_SETMASK, child.blocked)\n", "", "dirty_start"),
    Mutation("limits", BECOME, "        resource.setrlimit(which, (value, value))\n", "        pass\n", EXACT),
    Mutation("first capset", BECOME,
             "    kernel.capset(granted | child.have & (SETPCAP | SETUID | SETGID), inherited)", "    pass", EXACT),
    Mutation("bounding set", BECOME, "            kernel.drop_bounding(number)", "            pass", EXACT),
    Mutation("keep capabilities", BECOME, "        prctl.set_keepcaps(1)\n", "", EXACT),
    Mutation("groups", BECOME, "        os.setgroups(child.groups)\n", "", EXACT),
    Mutation("gid", BECOME, "        os.setresgid(child.gid, child.gid, child.gid)\n", "", EXACT),
    Mutation("uid", BECOME, "        os.setresuid(child.uid, child.uid, child.uid)\n", "", EXACT),
    Mutation("saved uid", BECOME, "os.setresuid(child.uid, child.uid, child.uid)", "os.setresuid(child.uid, child.uid, 0)", EXACT),
    Mutation("second capset", BECOME, "    kernel.capset(granted | child.have & SETPCAP, inherited)\n", "", EXACT),
    Mutation("ambient", BECOME, "    kernel.ambient(inherited)\n", "", EXACT),
    Mutation("securebits", BECOME, "        kernel.securebits(kernel.SECUREBITS)\n", "        pass\n", EXACT),
    Mutation("last capset", BECOME, "    kernel.capset(granted, inherited)", "    pass", EXACT),
    Mutation("no_new_privs", BECOME, "        prctl.set_no_new_privs(1)\n", "        pass\n", "no_new_privs"),
    Mutation("filter", BECOME, "        seccomp.load(child.filter)\n", "        pass\n", EXACT),
    Mutation("nobody else has its uid", BECOME, "if uid not in taken), None)", "), None)", "uid_in_use"),
    Mutation("uids of others stay theirs", CUSTODY, "set(self.pool) - others:", "set(self.pool):", "two_launchers"),
    Mutation("another pid namespace is another's", PROCESSES, "old is not None and len(status(pid)[\"NSpid\"].split()) == 1", "old is not None", "two_launchers"),
    Mutation("a launcher that lives is another", PROCESSES, "            left = left and not any(_is_launcher(each) for each in above[1:] if each != old)\n", "", "two_launchers"),
    Mutation("only ours are killed by uid", CUSTODY, "            helper.mixed |= helper.child.uid in self.others\n", "            pass\n", "two_launchers"),
    Mutation("for pool uids", CUSTODY, "alone = bool(self.ranges and child.uid in self.ranges[0])", "alone = False", "uid_in_use"),
    Mutation("every thread", PROCESSES, "os.listdir(f\"/proc/{pid}/task\")", "[pid]", "uid_in_use"),
    Mutation("every kind of uid", PROCESSES, "split(maxsplit=4)[:4]", "split(maxsplit=4)[:1]", "uid_in_use"),
    Mutation("the next uid is free", CUSTODY, "key=processes.uids_in_use().__contains__", "key=lambda uid: uid", "uid_in_use"),
    Mutation("memory is nobody else's", "helpers/sdk.py", "    set_dumpable(0)\n", "", "live_capture"),
    Mutation("set-ID bits", SECCOMP, "SET_ID = 0o6000", "SET_ID = 0", "set_id"),
    Mutation("set-user-ID bit", SECCOMP, "SET_ID = 0o6000", "SET_ID = 0o2000", "set_id"),
    Mutation("set-group-ID bit", SECCOMP, "SET_ID = 0o6000", "SET_ID = 0o4000", "set_id"),
    *(Mutation(f"mode of {name}", SECCOMP, f'"{name}": {at}', f'"no {name}": {at}', "set_id") for name, at in (MODES | OPENS).items()),
    *(Mutation(f"no {name}", SECCOMP, f', "{name}"', "", "set_id") for name in ABSENT[1:]),
    Mutation("a file that an open makes", SECCOMP, "CREATES = os.O_CREAT |", "CREATES =", "set_id"),
    Mutation("a nameless file", SECCOMP, "CREATES = os.O_CREAT | os.O_TMPFILE & ~os.O_DIRECTORY", "CREATES = os.O_CREAT", "set_id"),
    Mutation("death signal stays", SECCOMP, '    rows += when_argument("prctl", 0,', '    when_argument("prctl", 0,', "death_signal"),
    *(Mutation(f"sealed: {name}", SEALING, "0, written, refuse(errno.EPERM))", f"0, written, ALLOW if '{name}:' in entry else refuse(1))", "silent")
      for name in ("write", "writev", "sendto")),
    *(Mutation(f"sealed: {name}", SEALING, "PASSING_NUMBERS for row in when(number, refuse(errno.EPERM))",
               f"PASSING_NUMBERS for row in when(number, ALLOW if number == NUMBERS['{name}'] else refuse(1))", "silent")
      for name in ("sendmsg", "sendmmsg")),
    Mutation("sealed: outputs", SEALING, "outputs: Iterable[int] = (2, 4)", "outputs: Iterable[int] = range(64)", "silent"),
    Mutation("death signal", BECOME, "    prctl.set_pdeathsig(signal.SIGKILL if child.session else signal.SIGTERM)", "    pass", EXACT),
    Mutation("look at the parent", BECOME, "    if os.getppid() != child.parent:", "    if False:", "self_check"),
    Mutation("own check", BECOME, "        for name, good in check(child).items():", "        for name, good in ():", "self_check"),
    Mutation("environment", BECOME, "dict(child.env)", "dict(os.environ)", "dirty_start"),
    Mutation("look from outside", CUSTODY, "        if why and not ends(", "        if False and not ends(", "verification"),
    Mutation("kill what differs", CUSTODY, '            self.kill(helper)\n        return True\n', '            pass\n        return True\n', "verification"),
    Mutation("quiet fork", FORKS, "signal.pthread_sigmask(signal.SIG_BLOCK, ALL_SIGNALS)", "signal.pthread_sigmask(signal.SIG_BLOCK, [])", "early_signals"),
    Mutation("nothing open while it waits", FORKS, "        kernel.close_from(errors + 1)\n", "", "forked_ahead"),
    Mutation("pages are copied before", LAUNCHER, "                self.custody.blank.rehearse(", "                (lambda child: os.close(child.program))(", "tests/test_privsep.py -k for_nothing"),
    Mutation("who cleans does so at the end", CUSTODY, "        self._clean()\n        self.sweeper.end()\n", "        self.sweeper.end()\n", "next_holder"),
    Mutation("a waiting child's death signal", FORKS, "        prctl.set_pdeathsig(signal.SIGKILL)", "        pass", "forked_ahead"),
    Mutation("touched while it waited", FORKS, "and not int(lines[\"SigPnd\"] + lines[\"ShdPnd\"], 16)", "", "forked_ahead"),
    Mutation("stopped while it waited", FORKS, "in \"SRD\"", "in \"SRDT\"", "forked_ahead"),
    Mutation("own uids", CUSTODY, "        self.pool.remove(uid)\n        return uid", "        return uid", "own_uids"),
    Mutation("least recently used", CUSTODY, "                self.pool.extend([uid] if", "                self.pool.extendleft([uid] if", "own_uids"),
    Mutation("empty the pool", DOOR, "    helpers.empty_pool()\n", "", "stale_pool"),
    Mutation("sweepers nobody can signal", SWEEPING, "    os.setresuid(keeper, uid, keeper)\n    if os.getresuid() != (keeper, uid, keeper):", "    os.setresuid(uid, uid, keeper)\n    if False:", "sweepers"),
    Mutation("sweepers of one capability", SWEEPING, "        kernel.capset(SETUID, 0)\n        while kernel.capget() == (SETUID, SETUID, 0):", "        kernel.capset(SETUID | 1 << 6, 0)\n        while True:", "sweepers"),
    Mutation("sweepers of no group", SWEEPING, "        os.setgroups([])\n", "", "sweepers"),
    Mutation("sweepers of pool uids", SWEEPING, "uid in prey and _sweep", "_sweep", "sweepers"),
    Mutation("a sweeper knows whether it is alone", SWEEPING, "alone = error.errno == errno.EACCES", "alone = True", "sweepers"),
    Mutation("processes of a pool uid", "config/profile.py", '"pool": 128, ', "", EXACT),
    Mutation("processes of a shared uid", "config/profile.py", ', "shared": 512', "", EXACT),
    Mutation("ceilings", "config/profile.py", "LIMITS | CEILINGS | ", "LIMITS | ", EXACT),
    Mutation("a sweeper is there before", CUSTODY, "        self.sweeper.start()\n", "", "no_process_left"),
    Mutation("a sweeper goes on", "sandbox/sweeper.py", "            os.kill(self.pid, signal.SIGCONT)", "            pass", "no_process_left"),
    Mutation("a taker is there before", LAUNCHER, "        self.custody.taker.start()\n", "", "none_to_take"),
    Mutation("it takes for root", CUSTODY, "self.taker.take(client.sock, then) if client.quotas is None else LATE", "LATE", "none_to_take"),
    Mutation("for a second", "sandbox/taking.py", "            signal.alarm(LONGEST_S)\n", "", "none_to_take"),
    Mutation("others wait for it to be", CUSTODY, "            self.loop.rest(client.sock.fileno())\n", "            pass\n", "none_to_take"),
    Mutation("who leaves meanwhile is let go", LAUNCHER, "        if client.taker and event & select.POLLHUP:\n", "        if False:\n", "none_to_take"),
    Mutation("what is left is removed", CUSTODY, "                self.littered[child.uid] = 0\n                self.ahead_at", "                self.pool.append(child.uid)\n                self.ahead_at", "next_holder"),
    Mutation("before anybody has the uid", CUSTODY, "                self.littered[child.uid] = 0\n", "                self.littered[child.uid] = 0\n                self.pool.appendleft(child.uid)\n", "next_holder"),
    Mutation("when the last of a shared uid ends", CUSTODY, "                self.littered[uid] = 0  # the last of them\n", "                pass\n", "lock_file"),
    Mutation("not before the last", CUSTODY, "            if not any(other.child.uid == uid for", "            if True or any(other.child.uid == uid for", "lock_file"),
    Mutation("what was left before", CUSTODY, "        self.littered = dict.fromkeys((*self.pool, *(self.ranges[1] if self.ranges else ())), MOST_TRIES)\n", "        self.littered = {1: 9}\n", "next_holder"),
    Mutation("System V IPC", CLEANER, ", _ipc(uids, keeper)]", "]", "next_holder"),
    *(Mutation(f"System V IPC: {kind}", CLEANER, f'    "{kind}": lambda', f'    "no{kind}": lambda', "next_holder") for kind in ("shm", "sem", "msg")),
    *(Mutation(f"left in {place}", CLEANER, f'"{place}"', '"/nowhere"', "next_holder") for place in ("/tmp", "/var/tmp", "/dev/shm", "/run/lock")),
    Mutation("closed directories", CLEANER, "    os.chmod(folder, 0o700)\n", "", "next_holder"),
    Mutation("closed directories inside", CLEANER, "                os.chmod(path, 0o700)\n", "                pass\n", "next_holder"),
    Mutation("it is measured", CUSTODY, "            self._measure()\n", "            pass\n", "too_much"),
    Mutation("again and again", CUSTODY, "            self.meter, self.measure_at = 0, monotonic() + MEASURE_S\n", "            self.meter = 0\n", "too_much"),
    Mutation("who has much ends", CLEANER, "signal.pidfd_send_signal(pidfd, signal.SIGKILL))", "pidfd)", "too_much"),
    Mutation("names count", CLEANER, " + ENTRY\n", "\n", "too_much"),
    Mutation("several names of a file", CLEANER, "        seen.add((found.st_dev, found.st_ino))\n", "        pass\n", "too_much"),
    Mutation("what lies deeper", CLEANER, "lambda path=path, uid=uid: _add_below(path, counted, uid))", "lambda: None)", "too_much"),
    Mutation("where nobody can look", CLEANER, "        counted[0][uid] += 1 << 62\n", "        pass\n", "too_much"),
    Mutation("shared memory counts", CLEANER, "            _add_memory(sizes)\n", "            pass\n", "too_much"),
    Mutation("in others' directories", CLEANER, "                    waiting.append(entry.path)\n", "                    pass\n", "next_holder"),
    Mutation("by its uid's rights alone", CLEANER, "    kernel.capset(SETUID, 0)\n    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])\n    signal.alarm(LONGEST_S)\n    return kernel.capget() == (SETUID, SETUID, 0)", "    return True", "next_holder"),
    Mutation("message queues", "config/profile.py", "{resource.RLIMIT_MSGQUEUE: 0} if", "{} if", "next_holder"),
    Mutation("what /proc hides", CUSTODY, "        return \"it cannot be looked at: /proc hides it (hidepid)\"", "        return \"\"", "hidden_proc"),
    Mutation("one launcher", LOCK, "    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)\n", "    pass\n", "surroundings"),
    Mutation("isolated", DOOR, "    if not (sys.flags.isolated and sys.flags.no_site):", "    if False:", "surroundings"),
    Mutation("steered environment", DOOR, "    if found:\n", "    if False:\n", "surroundings"),
    Mutation("own capabilities", DOOR, "    kernel.capset(keep, 0)\n", "", "launcher_itself"),
    Mutation("own bounding set", DOOR, "            kernel.drop_bounding(number)\n", "            pass\n", "launcher_itself"),
    Mutation("own no_new_privs", DOOR, "        prctl.set_no_new_privs(1)\n", "        pass\n", "launcher_itself"),
    Mutation("socket's mode", DOOR, "        os.fchmod(sock.fileno(), 0o660)\n", "        os.fchmod(sock.fileno(), 0o666)\n", "doors"),
    Mutation("socket's group", DOOR, "            os.setegid(gid)\n", "            pass\n", "doors"),
    Mutation("import closure", LAUNCHER, "        trust.check_closure()\n", "", "planted_faults"),
    Mutation("who may write what it compiles", "launch.py", "    os.umask(0o022)", "    pass", "dirty_start"),
    Mutation("priority", BECOME, "        os.setpriority(os.PRIO_PROCESS, 0, 0)\n", "        pass\n", EXACT),
    Mutation("before what it has started", "sandbox/door.py", "        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)\n", "        pass\n", "launcher_itself"),
    Mutation("a kill by uid", "sandbox/sweeping.py", "            os.kill(-1, signal.SIGKILL)\n", "            pass\n", "no_process_left"),
    Mutation("again, where somebody is left", CUSTODY, "helper.swept, helper.killed = helper.child.uid not in left, 0.0", "helper.swept = helper.child.uid not in left", "tests/test_privsep.py -k left_after_a_kill"),
    Mutation("what is compiled", TRUST, ', "__cached__")', ",)", "planted_faults"),
    Mutation("all of ours", TRUST, '        files |= {f"{folder}/{name}" for name in names}\n', "        pass\n", "planted_faults"),
    Mutation("owner", TRUST, "    if status.st_uid != 0 and (root or status.st_uid not in {os.geteuid(), roots_face()}):", "    if False:", "planted_faults"),
    Mutation("writable by others", TRUST, "    if (mode & stat.S_IWOTH and not sticky)", "    if (False)", "planted_faults"),
    Mutation("writable by the group", TRUST, "(mode & stat.S_IWGRP and not sticky and not own_group)", "False", "planted_faults"),
    Mutation("sticky is no excuse", TRUST, "    sticky = not root and ", "    sticky = ", "planted_faults"),
    Mutation("symbolic links", TRUST, "    path = path if root else os.path.realpath(path)", "    path = os.path.realpath(path)", "planted_faults"),
    Mutation("program fits privilege", TRUST, "            _fit(profile, fd)\n", "", "programs"),
    Mutation("rules", LAUNCHER, "if client.quotas == {} else", "if False else", "doors"),
    Mutation("profiles of a rule", "sandbox/post.py", "self.quotas.get(profile, (0, 0, \"\"))", "(9, 9, \"\")", "doors"),
    Mutation("stale fingerprint", LAUNCHER, "        if request.arg != self.fingerprint:", "        if False:", "reload"),
    Mutation("quota of a helper", CUSTODY, ">= most:", ">= 99:", "quotas"),
    Mutation("quota of each helper", CUSTODY, "(h.profile, h.until > 0) ==", "(profile, h.until > 0) ==", "quotas"),
    Mutation("questions of their own", CUSTODY, "(h.profile, h.until > 0) ==", "(h.profile, question > 0) ==", "quotas"),
    Mutation("quota of a group", CUSTODY, "h.rule == rule for h in alike) >= together", "h.rule == rule for h in alike) >= 999", "subuids"),
    Mutation("who is counted for a group", CUSTODY, "helper.profile, helper.rule = profile, client.share(profile, 0)[2]", "helper.profile = profile", "subuids"),
    Mutation("uids kept", CUSTODY, "0 if quotas is None else self.kept", "0", "subuids"),
    Mutation("connections kept", POST, "if (other.quotas is None) == (self.quotas is None)]", "]", "subuids"),
    Mutation("connections of a group", POST, ">= MOST_OF_RULE]", ">= 999]", "subuids"),
    Mutation("connections of a user", POST, ">= MOST_OF_UID or", ">= 999 or", "subuids"),
    Mutation("connections of all", POST, "len(like) >= MOST_CLIENTS:", "len(like) >= 999:", "subuids"),
    Mutation("who has it read again", LAUNCHER, "if request.arg and profiling.may_reload(self.config, self.accounts, client.uid, client.gids):", "if request.arg:", "rereading"),
    Mutation("end of a question", CUSTODY, "            helper.until = monotonic() + question_s\n", "            helper.until = monotonic() + 1e6\n", "quotas"),
    Mutation("not while it is used", LAUNCHER, "        if not self.clients and conf.changed", "        if conf.changed", "read_when_idle"),
    Mutation("drop-ins are checked", TRUST, "    return open_checked(path, root=root, flags=os.O_RDONLY)\n", "    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)\n", "read_when_idle"),
    Mutation("rules follow the table", LAUNCHER, "            client.quotas = profiling.admission(config, self.accounts, client.uid, client.gids)\n", "            pass\n", "new_rules"),
    Mutation("place of the socket", LAUNCHER, "        trust.check_folder(os.path.dirname(os.path.abspath(options[\"--listen\"])), root=root)\n", "", "places"),
    Mutation("only over a dead socket", DOOR, "            if probe.connect_ex(path) != errno.ECONNREFUSED and", "            if False and", "places"),
    Mutation("only over a socket", DOOR, "        if not stat.S_ISSOCK(os.lstat(path).st_mode):\n", "        if False:\n", "places"),
    Mutation("given up is given up", LAUNCHER, "        lacking = profile.want & ~self.have", "        lacking = 0", "reload"),
    Mutation("nothing is received", POST, PEEKS, RECEIVES, "foreign end_of_a_file"),
    Mutation("a refused request is a child's", CUSTODY, "            client.taker = self._taker(client, all_of_it=False)\n", "            client.skip()\n", "foreign end_of_a_connection"),
    Mutation("what is left in a connection is a child's", POST, "            if packet and packet.carries:\n                return False\n", "", "foreign end_of_a_connection"),
    Mutation("it beats", LAUNCHER, "            self.beat.give()\n", "", "foreign replaced"),
    Mutation("who beats is let be", LOCK, "        if monotonic() - float(last) > 2 * float(every):", "        if True:", "foreign replaced"),
    Mutation("who does not beat is killed", LOCK, "            signal.pidfd_send_signal(pidfd, signal.SIGKILL)\n", "", "foreign replaced"),
    Mutation("who was killed is replaced", LOCK, "return int(pid) if processes.never_runs(int(pid)) else 0", "return 0", "foreign replaced"),
    Mutation("other threads run on", PROCESSES, " and int(words[17]) <= 1", "", "tests/attack/test_mutate.py::test_who_has_lost_its_first_thread_alone_runs_on"),
    Mutation("who was not killed is not", PROCESSES, "    return bool(pending >> (signal.SIGKILL - 1) & 1 or (int(words[6]) & PF_EXITING and int(words[17]) <= 1))", "    return True", "foreign replaced"),
    Mutation("a socket of who was replaced", DOOR, " and not (old and peer(probe)[0] == old)", "", "foreign replaced"),
    Mutation("descriptors fit their places", BECOME, "        if not fits(position, fd):", "        if False:", "foreign descriptors"),
    Mutation("as many descriptors as said", BECOME, "    if len(fds) != child.asked or flags & socket.MSG_CTRUNC:", "    if False:", "foreign descriptors"),
    Mutation("client gone, helpers gone", LAUNCHER, "        self.custody.kill_all(client)\n", "", "leash"),
    Mutation("supervisor gone, all gone", LAUNCHER, "                self.supervisor = 0\n                self.end(", "                self.supervisor = 0\n                (lambda _: 0)(", "supervisor"),
    *(Mutation(f"shown: {file}: {line.strip()[:40]}", file, line, re.sub(r"\bvisible([(,])", r"str\1", line), SHOWN) for file, line in exits()),
    Mutation("control characters", "visible.py", "    if raw.isprintable():\n", "    if True:\n", SHOWN),
    Mutation("marks of direction", "visible.py", "if letter.isprintable() else ascii", "if letter > ' ' else ascii", SHOWN),
    Mutation("a terminal without a letter", "printing.py", "    if not text.isascii() and", "    if False and", SHOWN, "UnicodeEncodeError"),
    Mutation("escapes in JSON", "printing.py", "indent=indent) +", "indent=indent, ensure_ascii=False) +", SHOWN),
    Mutation("a task is begun anew", TENDING, KEEP, KEEP + "            return\n", TENDED),
    Mutation("an error ends one task", TENDING, "except* Exception as errors", "except* KeyError as errors", TENDED, "ValueError: three"),
    Mutation("an error is counted", TENDING, '                    self.bug("helperd", errors)\n', "", TENDED),
    Mutation("it is told", TENDING, '        self.say("error", f"{name}', '        (lambda *_: 0)("error", f"{name}', TENDED),
    Mutation("it is shown", TENDING, "        self._troubles[name] = Trouble(name, text, ends)\n", "", TENDED),
    Mutation("a longer pause each time", TENDING, "known.ends + 1", "1", TENDED),
    Mutation("no pause without end", TENDING, "min(FIRST_S * 2.0 ** min(ends - 1, 30), MOST_S)", "FIRST_S * 2.0 ** min(ends - 1, 30)", TENDED),
    Mutation("a trouble ends", TENDING, "                del self._troubles[trouble.name]", "                pass", TENDED),
    Mutation("what may end ends", TENDING, "            if is_over():\n                return\n", "", TENDED),
    Mutation("only tables", DATABASE, '        if kind != "table":', "        if False:", READ),
    Mutation("virtual tables", DATABASE, 'kind if page or kind == "view" else "virtual table"', "kind", READ),
    Mutation("what asks inside", DATABASE, "    allowed = inside is None and (", "    allowed = (", READ),
    Mutation("what SQLite may do", DATABASE, "if allowed else sqlite3.SQLITE_DENY", "if True else 1", READ),
    Mutation("computed columns", DATABASE, "table_info({table})", "table_xinfo({table})", READ),
    Mutation("rows in their order", DATABASE, "row[0] <= before", "False", READ),
    Mutation("time for a row", DATABASE, "monotonic() > self._due", "False", READ),
    Mutation("temporary storage", DATABASE, '"temp_store = MEMORY", ', "", READ),
    Mutation("a schema that is not trusted", DATABASE, '"trusted_schema = OFF", ', "", READ),
    Mutation("a file that is only read", DATABASE, '"query_only = ON", ', "", READ),
    Mutation("bounded memory", DATABASE, ', f"hard_heap_limit = {_HEAP}"', ",", READ),
    Mutation("bounded values", DATABASE, "        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST)\n", "", READ),
    Mutation("no other file", DATABASE, "        database.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)\n", "", READ),
    Mutation("a checkout's owners", OWNED, "            ! -uid 0 ! -uid \"$caller\" -printf", "            -false -printf", "tools whose_checkout"),
    Mutation("a checkout that all may write", OWNED, "-perm -002 $sticky", "-false", "tools whose_checkout"),
    Mutation("a checkout of a group", OWNED, "-perm -020 ! -gid 0", "-false", "tools whose_checkout"),
    Mutation("a group that has others in it", OWNED, '&& [ "$(getent passwd | cut -d: -f4', '|| [ "$(getent passwd | cut -d: -f4', "tools whose_checkout"),
    Mutation("sticky inside is no excuse", OWNED, '[ -n "$depth" ] || sticky=\n', ":\n", "tools whose_checkout"),
    Mutation("folders above", INSTALL, '; others_write_above "$CHECKOUT"', "", "tools whose_checkout"),
    Mutation("links of a checkout", INSTALL, " -type l | head -n 1)", " -false)", "tools whose_checkout"),
    Mutation("bootstrap looks, too", "../scripts/bootstrap", "    [[ -z $found ]] || die", "    true || die", "tools whose_checkout"),
    Mutation("what fails is undone", INSTALL, '        eval "$UNDO"\n', "        :\n", "tools failed_install"),
    Mutation("the new tree goes", INSTALL, '    rm -rf "$NEW" "$KEEP"\n', "", "tools failed_install"),
    Mutation("what was replaced is kept", INSTALL, "        later \"cp -dp --remove-destination '$KEEP/$NUMBER' '$1'\"\n", "", "tools failed_install"),
    Mutation("the old tree comes back", INSTALL, "; [ ! -d '$HOME_DIR.old' ] || mv '$HOME_DIR.old' '$HOME_DIR'", "", "tools failed_install"),
    Mutation("a folder is taken away", INSTALL, "later \"rmdir '$each'\"; ", "", "tools failed_install"),
    Mutation("a group that reads", "../packaging/helpers.toml", 'socket_group = "helperd-read"', "", "tools reading"),
    Mutation("a refusal is held", "control/server.py", "now=not entrance.is_plenty(sock.fileno())", "now=True", "tests/test_places.py"),
    Mutation("refusals at once are few", "control/server.py", "if len(told) < service.limits.lingering:", "if True:", "tests/test_places.py"),
    Mutation("who has gone gets no task", "control/server.py", "if rank is Rank.READER and hung_up(sock.fileno()):", "if False:", "tests/test_places.py"),
    Mutation("half of the time for packets", "places.py", "                    if crowded:\n", "                    if False:\n", "tests/test_places.py"),
    Mutation("a user's own place", "runtime.py", "and found.st_uid == os.geteuid() and not", "and not", "tests/test_runtime.py"),
    Mutation("a place nobody else writes", "runtime.py", " and not found.st_mode & 0o022", "", "tests/test_runtime.py"),
    Mutation("a stranger's directory is no daemon", "runtime.py", "if there and not fault and os", "if there and os", "tests/test_runtime.py"),
    Mutation("a capture has no services", "alone.py", ", services=()", "", "tests/test_services.py -k capture_without"),
]  # fmt: skip


NO_PROGRAM = re.compile(
    r"\b(Syntax|Indentation|Name|UnboundLocal|Import|ModuleNotFound|Attribute)Error\b|nothing to mutate"
)
"""What a step that was taken away with too much, or too little, leads to, wherever it is told."""
NOTICES = re.compile(
    r"(AssertionError|EOFError|TimeoutError|trio\.TooSlowError|Refused|Failed: DID NOT RAISE)\b|assert "
)
"""How a scene or a test ends that has noticed: an assertion, a launcher or helper that has gone, or does not answer."""
RED, GREEN, BROKEN = "red", "GREEN", "broken row"
APART = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
LONGEST_S = 400
"""No scene takes as long: it waits for nothing without end, whatever was taken away."""


class Outcome(NamedTuple):
    """Whether what was to notice did, and what it said."""

    kind: str
    how: str = ""


def judged(raised: str, said: str, lets: str = "") -> Outcome:
    """What an error says of a mutation: ``raised`` is how it is told at its end, ``said`` all that is known of it."""
    if found := NO_PROGRAM.search(said):
        return Outcome(BROKEN, said[max(0, found.start() - 20) :][:100])
    noticed = NOTICES.match(raised) or (lets and raised.startswith(lets))
    return Outcome(RED if noticed else BROKEN, raised[:100])


def of_scenes(code: int, out: str, err: str) -> Outcome:
    """What scenes have found: each prints a line, and ends with an error only when it could not be played."""
    if code:
        return Outcome(BROKEN, (err.strip().splitlines() or [f"status {code}"])[-1][:100])
    rows = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    if not rows or any("skipped" in row for row in rows):
        return Outcome(BROKEN, "nothing was played here")
    for row in rows:
        for wrong in row.get("wrong") or row.get("succeeded") or ():
            return judged(row.get("raised") or f"AssertionError: {wrong}", str(wrong))
    return Outcome(GREEN)


def of_tests(code: int, out: str, lets: str = "") -> Outcome:
    """What the first test that failed says; of pytest's statuses only 1 means that one did."""
    if code == 0:
        return Outcome(GREEN)
    errors = [
        re.sub(r"^[E |+-]*", "", line) for line in out.splitlines() if re.match(r"E |[ |]+\| [\w.]+: ", line)
    ]
    if code != 1 or not errors:
        return Outcome(BROKEN, (out.strip().splitlines() or [f"status {code}"])[-1][:100])
    noticed = [line for line in errors if NOTICES.match(line)]
    return judged(noticed[0] if noticed else errors[-1], "\n".join(errors), lets)


def by_tests(mutation: Mutation) -> Outcome:
    """Run the files of tests on a mutated copy."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("helperd", "tests", "config", "packaging"):
            shutil.copytree(ROOT / name, f"{folder}/{name}", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        if mutation.file:
            path = Path(folder, "helperd", mutation.file)
            text = path.read_text()
            if mutation.old not in text:
                return Outcome(BROKEN, "nothing to mutate")
            path.write_text(text.replace(mutation.old, mutation.new, 1))
        words = ["-x", "-q", "-n0", "-p", "no:cacheprovider", *mutation.scenes.split()]
        argv = [*APART, sys.executable, "-m", "pytest", *words]
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": folder}
        done = subprocess.run(
            argv, cwd=folder, env=env, capture_output=True, text=True, timeout=LONGEST_S, check=False
        )
    return of_tests(done.returncode, done.stdout, mutation.lets)


def by_scenes(mutation: Mutation) -> Outcome:
    """Play scenes, whose stage makes the mutated copy."""
    env = dict(os.environ) | {"HELPERD_MUTATION": json.dumps(mutation[1:4])}
    module = ["scenes", *mutation.scenes.split()]
    if mutation.scenes == EXACT:
        module = [EXACT, "48", "3"]
    elif mutation.scenes.split()[0] in {"foreign", "tools"}:
        module = mutation.scenes.split()
    argv = [*APART, "--net", "--uts", "--ipc", sys.executable, "-m", f"tests.attack.{module[0]}", *module[1:]]
    done = subprocess.run(
        argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=LONGEST_S, check=False
    )
    return of_scenes(done.returncode, done.stdout, done.stderr)


def tried(mutation: Mutation) -> Outcome:
    """Run what is to notice."""
    try:
        return (by_tests if mutation.scenes.startswith("tests/") else by_scenes)(mutation)
    except subprocess.TimeoutExpired:
        return Outcome(BROKEN, "hung")


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.attack.mutate", description=__doc__.splitlines()[0]
    )
    parser.add_argument("word", nargs="?", default="", help="only mutations whose name has it")
    parser.add_argument("--first", type=int, default=1, help="the number of the first row")
    parser.add_argument("--last", type=int, default=len(MUTATIONS), help="the number of the last one")
    parser.add_argument("--jobs", type=int, default=1, help="how many at once")
    return parser.parse_args()


def main() -> int:
    """Mutate, print, return 1 when something survived or says nothing."""
    options = arguments()
    chosen = [
        (number, row)
        for number, row in enumerate(MUTATIONS, 1)
        if options.word in row.name and options.first <= number <= options.last
    ]

    def told(number: int, row: Mutation) -> Outcome:
        began = time.monotonic()
        found = tried(row)
        took = f"{time.strftime('%H:%M:%S')} {time.monotonic() - began:6.1f} s"
        print(f"{took} {number:3} {found.kind:10} {row.name:32} {found.how!r}", flush=True)
        return found

    with ThreadPoolExecutor(options.jobs) as pool:
        controls = [
            Mutation("the control", "", "", "", scenes)
            for scenes in dict.fromkeys(row.scenes for _, row in chosen)
        ]
        green = list(pool.map(lambda control: tried(control), controls))
        for control, found in zip(controls, green, strict=True):
            if found.kind != GREEN:
                print(f"BROKEN without any mutation: {control.scenes}: {found.how}", flush=True)
        found = list(pool.map(lambda row: told(*row), chosen))
    count = sum(each.kind == RED for each in found)
    print(f"{count} of {len(chosen)} noticed: {100 * count // max(1, len(chosen))} %")
    for (number, row), each in zip(chosen, found, strict=True):
        if each.kind != RED:
            print(f"{each.kind} {number} {row.name}: {each.how}")
    return int(count < len(chosen) or any(each.kind != GREEN for each in green))


if __name__ == "__main__":
    sys.exit(main())
