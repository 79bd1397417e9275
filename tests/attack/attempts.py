"""The attempts: code that sets ``result`` to something true when it has got what it must not have.

Each one is tried from its positions, and once more, as its control, from a place where it must work: otherwise the attempt
proves nothing. Values in the code: LAUNCHER, SUPERVISOR, VICTIM (pids), VICTIM_UID, STAGE, SOCKET, LIBRARY.
"""

from __future__ import annotations

from typing import NamedTuple


class Attempt(NamedTuple):
    """One attempt.

    Attributes:
        positions: stranger, reader (of the daemon's sockets), member (of the launcher's socket's group, no rule), allowed,
            supervisor, helper, sealed.
        control: the place where it works: root, user (no precaution), helper, allowed, supervisor, or code in
            ``legal`` run from the position itself.
    """

    name: str
    code: str
    positions: tuple[str, ...]
    control: str = "root"
    legal: str = ""


EVERY = ("stranger", "reader", "allowed", "supervisor", "helper", "sealed")
INSIDE = ("supervisor", "helper", "sealed")
HELPER = ("helper", "sealed")

IDENTITY = {
    "setuid 0": "os.setuid(0); result = os.getuid() == 0",
    "setresuid 0": "os.setresuid(0, 0, 0); result = os.geteuid() == 0",
    "seteuid 0": "os.seteuid(0); result = os.geteuid() == 0",
    "setgid 0": "os.setgid(0); result = os.getgid() == 0",
    "setgroups": "os.setgroups([0, 27]); result = 27 in os.getgroups()",
    "become another helper": "os.setresuid(VICTIM_UID, VICTIM_UID, VICTIM_UID); result = True",
    "more permitted": "h = struct.pack('=Ii', 0x20080522, 0); b = 0x1000 | 0x2000\n"
    "call(126, h, struct.pack('=6I', b, b, b, 0, 0, 0)); result = True",
    "ambient net_admin": "h = struct.pack('=Ii', 0x20080522, 0); b = 0x3000\n"
    "call(126, h, struct.pack('=6I', b, b, b, 0, 0, 0)); prctl(47, 2, 12, 0, 0); result = True",
    "unlock securebits": "prctl(28, 0x2, 0, 0, 0); result = True",
    "keep capabilities": "prctl(8, 1, 0, 0, 0); result = True",
    "credentials of root": "a, b = socket.socketpair(); "
    "a.sendmsg([b'x'], [(socket.SOL_SOCKET, 2, struct.pack('3i', os.getpid(), 0, 0))]); "
    "result = os.getuid() or True",
}

DEATH = {  # a helper that a killed launcher leaves behind
    f"parent-death signal {number}": f"prctl(1, {number}, 0, 0, 0); d = ctypes.c_int(); "
    f"libc.prctl(2, ctypes.byref(d), 0, 0, 0); result = d.value == {number}"
    for number in (0, 15, 19)
}

PROCESSES = {
    "signal a helper": "os.kill(VICTIM, 0); result = True",
    "signal the launcher": "os.kill(LAUNCHER, 0); result = True",
    "pidfd signal a helper": "fd = os.pidfd_open(VICTIM); signal.pidfd_send_signal(fd, 0); result = True",
    "trace a helper": "call(101, 0x4206, VICTIM, 0, 0); result = True",
    "read a helper's memory": "result = open(f'/proc/{VICTIM}/mem', 'rb', 0) is not None",
    "read the launcher's memory": "result = open(f'/proc/{LAUNCHER}/mem', 'rb', 0) is not None",
    "the launcher's environment": "result = open(f'/proc/{LAUNCHER}/environ', 'rb').read() is not None",
    "list a helper's descriptors": "result = os.listdir(f'/proc/{VICTIM}/fd')",
    "open a helper's pipe": "result = os.open(f'/proc/{VICTIM}/fd/4', os.O_WRONLY | os.O_NONBLOCK) >= 0",
    "list the launcher's descriptors": "result = os.listdir(f'/proc/{LAUNCHER}/fd')",
    "take a launcher's descriptor": "fd = os.pidfd_open(LAUNCHER); result = call(438, fd, 0, 0) >= 0",
    "take a helper's descriptor": "fd = os.pidfd_open(VICTIM); result = call(438, fd, 4, 0) >= 0",
    "slow a helper down": "os.setpriority(os.PRIO_PROCESS, VICTIM, 1); result = True",
    "pin a helper": "os.sched_setaffinity(VICTIM, os.sched_getaffinity(0)); result = True",
    "copy a helper's memory": "b = ctypes.create_string_buffer(8)\n"
    "m = int(open(f'/proc/{VICTIM}/maps').readline().split('-')[0], 16)\n"
    "iov = lambda a: struct.pack('=QQ', a, 8)\n"
    "result = call(310, VICTIM, iov(ctypes.addressof(b)), 1, iov(m), 1, 0) > 0",
    "a helper's root directory": "result = os.listdir(f'/proc/{VICTIM}/root/')",
}

OTHERS = {
    "signal the supervisor": "os.kill(SUPERVISOR, 0); result = True",
    "the supervisor's descriptors": "result = os.listdir(f'/proc/{SUPERVISOR}/fd')",
    "trace the supervisor": "call(101, 0x4206, SUPERVISOR, 0, 0); result = True",
    "the supervisor's launcher socket": "fd = os.pidfd_open(SUPERVISOR); result = call(438, fd, 3, 0) >= 0",
}

FILES = {
    "write the configuration": "result = os.open(STAGE + '/helpers.toml', os.O_WRONLY) >= 0",
    "write the launcher's code": "result = os.open(LIBRARY + '/helperd/privsep.py', os.O_WRONLY) >= 0",
    "new module beside ours": "result = os.open(LIBRARY + '/helperd/x.py', os.O_WRONLY | os.O_CREAT) >= 0",
    "new program": "result = os.open(STAGE + '/bin/x', os.O_WRONLY | os.O_CREAT) >= 0",
    "replace the helper's program": "os.rename(STAGE + '/bin/probe.py', STAGE + '/bin/y'); "
    "os.rename(STAGE + '/bin/y', STAGE + '/bin/probe.py'); result = True",
    "move the launcher's socket": "os.rename(SOCKET, SOCKET + '.x'); os.rename(SOCKET + '.x', SOCKET); result = True",
    "chmod the launcher's socket": "os.chmod(SOCKET, 0o660); result = True",
    "read the shadow file": "result = os.open('/etc/shadow', os.O_RDONLY) >= 0",
    "write the user list": "result = os.open('/etc/passwd', os.O_WRONLY) >= 0",
    "open the lock": "result = os.open('/run/helperd-launcher/pool-60800.lock', os.O_RDWR) >= 0",
    "give a file to root": "p = f'{STAGE}/open/f{os.getpid()}'; open(p, 'w').close()\n"
    "try:\n  os.chown(p, 0, 0); result = os.getuid() or os.chown(p, 5, 5) is None\nfinally:\n  os.unlink(p)",
    "make a device": "p = f'{STAGE}/open/d{os.getpid()}'; os.mknod(p, 0o600 | stat.S_IFCHR, os.makedev(1, 3))\n"
    "os.unlink(p); result = True",
    "forward packets": "result = os.open('/proc/sys/net/ipv4/ip_forward', os.O_WRONLY) >= 0",
    "core pattern": "result = os.open('/proc/sys/kernel/core_pattern', os.O_WRONLY) >= 0",
    "drop caches": "result = os.open('/proc/sys/vm/drop_caches', os.O_WRONLY) >= 0",
    "a sysctl of the host": "result = os.open('/proc/sys/kernel/panic', os.O_WRONLY) >= 0",
    "kernel messages": "result = os.open('/dev/kmsg', os.O_WRONLY) >= 0",
    "a cgroup of its own": "t = [l.split()[4] for l in open('/proc/self/mountinfo') if ' - cgroup2 ' in l][0]\n"
    "p = t + '/attack'; os.mkdir(p); os.rmdir(p); result = True",
}

KERNEL = {
    "unshare user": "result = call(272, 0x10000000) == 0",
    "unshare mount": "result = call(272, 0x00020000) == 0",
    "unshare net": "result = call(272, 0x40000000) == 0",
    "unshare uts": "result = call(272, 0x04000000) == 0",
    "clone user namespace": "p = call(56, 0x10000000 | 17, 0, 0, 0, 0)\nif p == 0: os._exit(0)\nos.waitpid(p, 0); result = True",
    "clone a child of the launcher's": "p = call(56, 0x8000 | 17, 0, 0, 0, 0)\nif p == 0: os._exit(0)\nresult = p > 0",
    "join process 1's network": "result = call(308, os.open('/proc/1/ns/net', os.O_RDONLY), 0) == 0",
    "mount": "os.makedirs(STAGE + '/open/m', exist_ok=True)\n"
    "call(165, b'tmpfs', (STAGE + '/open/m').encode(), b'tmpfs', 0, None); result = True\n"
    "call(166, (STAGE + '/open/m').encode(), 2)",
    "new mount interface": "result = call(430, b'tmpfs', 0) >= 0",
    "chroot": "os.chroot('/'); result = True",
    "bpf": "result = call(321, 0, struct.pack('=IIII', 2, 4, 4, 1) + bytes(104), 120) >= 0",
    "perf": "result = call(298, struct.pack('=IIQQQQ', 1, 64, 0, 0, 0, 0) + bytes(24), 0, -1, -1, 0) >= 0",
    "add a key": "result = call(248, b'user', b'helperd-test', b'x', 1, -2) > 0",
    "search keys": "result = call(250, 0, -3, 1) != 0",
    "userfaultfd": "result = call(323, 0) >= 0",
    "io_uring": "result = call(425, 4, bytes(120)) >= 0",
    "fanotify": "result = call(300, 0, 0) >= 0",
    "file handle": "b = ctypes.create_string_buffer(struct.pack('=Ii', 128, 0), 140); m = ctypes.create_string_buffer(4)\n"
    "result = call(303, -100, b'/etc', b, m, 0) == 0",
    "personality": "result = call(135, 0x0040000) >= 0 and call(135, 0) >= 0",
    "kernel log": "b = ctypes.create_string_buffer(64); result = call(103, 3, b, 64) >= 0",
    "hostname": "socket.sethostname('owned'); result = True",
    "domain name": "result = call(171, b'owned', 5) == 0",
    "kcmp": "result = call(312, VICTIM, LAUNCHER, 1, 0, 0) >= 0",
    "type into a terminal": "import pty; m, s = pty.openpty(); fcntl.ioctl(s, 0x5412, b'x'); result = True",
    "real-time priority": "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)); result = True",
    "higher priority": "os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) - 1); result = True",
    "vsock family": "result = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) is not None",
    "low port": "s = socket.socket(); s.bind(('127.0.0.1', 80)); result = True; s.close()",
    "device down": "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    "fcntl.ioctl(s, 0x8914, struct.pack('16sh14x', b'hd1', 0x1003)); result = True",
    "address": "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    "a = struct.pack('16sHH4s8x', b'hd1', 2, 0, bytes([10, 9, 9, 1])); fcntl.ioctl(s, 0x8916, a); result = True",
    "force a buffer": "s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, 33, 1 << 20); result = True",
    "tun device": "f = os.open('/dev/net/tun', os.O_RDWR); "
    "fcntl.ioctl(f, 0x400454CA, struct.pack('16sH14x', b'hdtun', 2)); result = True",
}

_MADE = "p = f'{STAGE}/open/i{os.getpid()}-{time.monotonic_ns()}'; b = p.encode(); "
_FILE = _MADE + "f = os.open(p, os.O_RDWR | os.O_CREAT, 0o700); "
_PROVED = "; result = os.stat(p).st_mode & 0o6000 != 0"
SET_ID = {  # what somebody else executes later would have the helper's uid, whoever has that then
    "chmod 4755": _FILE + "call(90, b, 0o4755)" + _PROVED,
    "chmod 2755": _FILE + "call(90, b, 0o2755)" + _PROVED,
    "chmod 7777": _FILE + "call(90, b, 0o7777)" + _PROVED,
    "chmod with high bits": _FILE + "call(90, b, 0x7fff00000ded)" + _PROVED,
    "fchmod 6755": _FILE + "call(91, f, 0o6755)" + _PROVED,
    "fchmodat 6755": _FILE + "call(268, -100, b, 0o6755)" + _PROVED,
    "fchmodat2 6755": _FILE + "call(452, -100, b, 0o6755, 0)" + _PROVED,
    "fchmodat2 of a descriptor": _FILE + "call(452, f, b'', 0o4755, 0x1000)" + _PROVED,
    "a copy of an interpreter": _MADE
    + "import shutil; shutil.copy('/bin/sh', p); os.chmod(p, 0o6755)"
    + _PROVED,
    "open with 6755": _MADE + "call(2, b, os.O_CREAT | os.O_WRONLY, 0o6755)" + _PROVED,
    "openat with 4755": _MADE + "call(257, -100, b, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o4755)" + _PROVED,
    "openat of a nameless file": _MADE
    + "f = call(257, -100, (STAGE + '/open').encode(), os.O_TMPFILE | os.O_RDWR, 0o4755); "
    "result = os.fstat(f).st_mode & 0o6000 != 0",
    "openat2 with 6755": _MADE
    + "call(437, -100, b, struct.pack('=QQQ', os.O_CREAT | os.O_WRONLY, 0o6755, 0), 24)"
    + _PROVED,
    "creat 6755": _MADE + "call(85, b, 0o6755)" + _PROVED,
    "mknod 6755": _MADE + "call(133, b, 0o106755, 0)" + _PROVED,
    "mknodat 6755": _MADE + "call(259, -100, b, 0o106755, 0)" + _PROVED,
    "fifo with 4644": _MADE + "call(133, b, 0o14644, 0)" + _PROVED,
    "mkdir 2777": _MADE + "result = call(83, b, 0o2777) == 0",
    "mkdirat 2777": _MADE + "result = call(258, -100, b, 0o2777) == 0",
    "directory made set-group-ID": _MADE + "os.mkdir(p); os.chmod(p, 0o2777)" + _PROVED,
    "message queue with 6600": _MADE
    + "f = call(240, f'i{os.getpid()}{time.monotonic_ns()}'.encode(), os.O_CREAT | os.O_RDWR, 0o6600, None)\n"
    "result = os.fstat(f).st_mode & 0o6000 != 0",
    "memory file 6755": _MADE
    + "f = os.memfd_create('x'); os.fchmod(f, 0o6755); result = os.fstat(f).st_mode & 0o6000 != 0",
    "socket 6755": _MADE
    + "s = socket.socket(socket.AF_UNIX); os.fchmod(s.fileno(), 0o6755); s.bind(p)"
    + _PROVED,
}

NET_RAW_TOO = {  # what even the declared net_raw must not be in a process that did not declare it
    "packet socket": "result = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3) is not None",
    "raw ip socket": "result = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1) is not None",
}

BY_EXEC = {
    "set-user-ID program": "result = spawn([STAGE + '/bin/suid', '-u']).strip() == '0'",
    "set-group-ID program": "result = spawn([STAGE + '/bin/sgid', '-g']).strip() == '0'",
    "file capabilities": "t = [l.split()[1] for l in spawn([STAGE + '/bin/caps', '/proc/self/status']).splitlines() "
    "if l.startswith('CapEff')]; result = bool(t) and int(t[0], 16) & 0x1000 != 0",
}

SEALED = {
    "read a file": "result = os.open('/etc/hostname', os.O_RDONLY) >= 0",
    "read its own program": "result = os.open(STAGE + '/bin/probe.py', os.O_RDONLY) >= 0",
    "write a file": "result = os.open(f'{STAGE}/open/s{os.getpid()}', os.O_WRONLY | os.O_CREAT) >= 0",
    "stat": "result = os.stat('/etc/hostname') is not None",
    "list a directory": "result = os.listdir('/')",
    "internet socket": "result = socket.socket(socket.AF_INET) is not None",
    "local socket": "result = socket.socket(socket.AF_UNIX) is not None",
    "netlink socket": "result = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) is not None",
    "another packet socket": "result = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3) is not None",
    "socket pair": "result = socket.socketpair() is not None",
    "fork": "p = os.fork()\nif p == 0: os._exit(0)\nos.waitpid(p, 0); result = True",
    "exec": "p = os.posix_spawn('/bin/true', ['true'], {}); os.waitpid(p, 0); result = True",
    "signal itself": "os.kill(os.getpid(), 0); result = True",
    "executable memory": "import mmap; result = mmap.mmap(-1, 4096, prot=7) is not None",
    "make memory executable": "b = mmap_page; call(10, b, 4096, 5); result = True",
    "pipe": "result = os.pipe() is not None",
    "duplicate": "result = os.dup(4) >= 0",
    "memory file": "result = os.memfd_create('x') >= 0",
    "watch files": "result = call(294, 0) >= 0",
    "unlink": "p = f'{STAGE}/open/u{os.getpid()}'; call(87, made.encode()); result = True",
    "mkdir": "os.mkdir(f'{STAGE}/open/k{os.getpid()}'); result = True",
    "chdir": "os.chdir('/tmp'); result = True",
    "umask": "os.umask(0); result = True",
    "new limit": "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)); result = True",
    "lower its guard": "prctl(4, 1, 0, 0, 0); result = True",
    "lock memory": "call(149, mmap_page, 4096); result = True",
    "shared memory": "result = call(29, 0, 4096, 0o1600) >= 0",
    "message queue": "result = call(68, 0, 0o1600) >= 0",
    "bind the open socket elsewhere": "sock.bind(('hd1', 0)); result = True",
    "attach a filter": "sock.setsockopt(socket.SOL_SOCKET, 29, 1); result = True",
    "ask for devices": "fcntl.ioctl(sock, 0x8912, struct.pack('iP', 0, 0)); result = True",
    "new session": "result = os.getsid(0) > 0",
    "change its pages' owner": "result = call(157, 15, b'owned\\0', 0, 0, 0) == 0",
    "schedule": "result = os.sched_getaffinity(0) is not None",
    "timer": "result = call(283, 1, 0) >= 0",
    "event": "result = call(290, 0, 0) >= 0",
    "thread": "import _thread; done = []; _thread.start_new_thread(done.append, (1,)); time.sleep(0.2); result = bool(done)",
    "connect by name": "s = sock2; s.connect(('127.0.0.1', 9)); result = True",
}

FRAME = "\xff" * 6 + "\x02\0\0\0\0\x01" + "\x88\xb5" + "sent by a helper " * 4
PREPARE = """
import mmap, pty, _thread, encodings.idna, encodings.latin_1
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); sock.bind(('hd0', 3))
sock2 = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
left, left2 = socket.socketpair(); pipe = os.pipe(); memory = os.memfd_create('x')
made = f'{STAGE}/open/u{os.getpid()}'; open(made, 'w').close()
page = mmap.mmap(-1, 4096); mmap_page = ctypes.addressof(ctypes.c_char.from_buffer(page))
"""
"""What a helper has open before it is sealed."""
SEAL = "sys.path.append(LIBRARY); from helperd.sandbox import sealing\nresult = list(sealing.seal(3))"

SENDS = {  # FRAME has the broadcast address; ``sock`` is bound to hd0, as a sealed helper's is
    "write": "result = os.write(sock.fileno(), FRAME.encode('latin-1')) > 0",
    "writev": "result = os.writev(sock.fileno(), [FRAME.encode('latin-1')]) > 0",
    "send": "result = sock.send(FRAME.encode('latin-1')) > 0",
    "sendto another interface": "result = sock.sendto(FRAME.encode('latin-1'), ('hd0', 3)) > 0",
    "sendmsg": "result = sock.sendmsg([FRAME.encode('latin-1')]) > 0",
    "sendmmsg": "b = FRAME.encode('latin-1'); c = ctypes.create_string_buffer(b); iov = ctypes.create_string_buffer("
    "struct.pack('=QQ', ctypes.addressof(c), len(b)))\n"
    "result = call(307, sock.fileno(), struct.pack('=QI4xQQQQi4xI4x', 0, 0, ctypes.addressof(iov), 1, 0, 0, 0, 0), 1, 0) == 1",
    "pwritev2": "result = os.pwritev(sock.fileno(), [FRAME.encode('latin-1')], -1, 0) > 0",
    "splice": "os.write(pipe[1], FRAME.encode('latin-1')); result = os.splice(pipe[0], sock.fileno(), 200) > 0",
    "sendfile": "os.write(memory, FRAME.encode('latin-1')); result = os.sendfile(sock.fileno(), memory, 0, len(FRAME)) > 0",
    "its number for the way out": "os.dup2(4, 77); os.dup2(sock.fileno(), 4); n = os.write(4, FRAME.encode('latin-1')); "
    "os.dup2(77, 4); result = n > 0",
    "passed to itself": "left.sendmsg([b'x'], [(socket.SOL_SOCKET, 1, struct.pack('i', sock.fileno()))])\n"
    "c = left2.recvmsg(1, 64)[1]; s = socket.socket(fileno=struct.unpack('i', c[0][2])[0]); result = s.send(FRAME.encode('latin-1')) > 0",
}
"""Ways to transmit by an open packet socket; each is seen at the other end of the wire when there is no seal."""

SEALED_TOO = {  # what no helper has
    "open by the newer call": "result = call(437, -100, b'/etc/hostname', struct.pack('=QQQ', 0, 0, 0), 24) >= 0",
}

BY_OTHERS = {
    "a datagram": "result = sock2.sendto(b'x', ('127.0.0.1', 9)) > 0",
    "a question by netlink": "result = netlink.sendto(struct.pack('=IHHIIBxHiII', 32, 18, 1, 1, 0, 0, 0, 1, 0, 0), (0, 0)) > 0",
    "a word to itself": "result = left.send(b'x') > 0",
    "into a pipe of its own": "result = os.write(pipe[1], b'x') > 0",
    "into a file": "result = os.write(memory, b'x') > 0",
    "to its own input": "result = os.write(1, b'x') > 0",
}

# requests: the code must fail, ``legal`` is the same thing as it is allowed, from the same place
REQUESTS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "connect": (("stranger", "reader", "helper"), "s = connect(SOCKET); result = ask(s, 3)", ""),
    "connect without a rule": (("member",), "s = connect(SOCKET); result = ask(s, 3)", ""),
    "a profile of somebody else": (
        ("allowed",),
        "s, f = ready(); result = launch(s, f, 2)",
        "s, f = ready(); result = launch(s, f, 1)",
    ),
    "profile 0": (
        ("allowed", "supervisor"),
        "s, f = ready(); result = launch(s, f, 0)",
        "s, f = ready(); result = launch(s, f, 1)",
    ),
    "a profile out of range": (
        ("allowed", "supervisor"),
        "s, f = ready(); result = launch(s, f, 99)",
        "s, f = ready(); result = launch(s, f, 1)",
    ),
    "a stale fingerprint": (
        ("allowed", "supervisor"),
        "s, f = ready(); result = launch(s, f ^ 1)",
        "s, f = ready(); result = launch(s, f)",
    ),
    "launch before ping": (
        ("allowed", "supervisor"),
        "s, f = ready(); s2 = connect(SOCKET); result = launch(s2, f)",
        "s, f = ready(); result = launch(s, f)",
    ),
    "five descriptors": (
        ("allowed", "supervisor"),
        "s, f = ready(); fds, _ = pipes(5); result = runs(s, f, fds)",
        "s, f = ready(); fds, e = pipes(3); result = answers(s, f, fds, e)",
    ),
    "250 descriptors": (
        ("allowed", "supervisor"),
        "s, f = ready(); fds, _ = pipes(3); result = runs(s, f, (fds * 84)[:250])",
        "s, f = ready(); fds, e = pipes(3); result = answers(s, f, fds, e)",
    ),
    "one descriptor": (
        ("allowed", "supervisor"),
        "s, f = ready(); fds, _ = pipes(1); result = runs(s, f, fds)",
        "s, f = ready(); fds, e = pipes(2); result = answers(s, f, fds, e)",
    ),
    "a file as a pipe": (
        ("allowed", "supervisor"),
        "s, f = ready(); fds, _ = pipes(); fds[0] = os.open('/etc/passwd', 0); result = runs(s, f, fds)",
        "s, f = ready(); fds, e = pipes(); result = answers(s, f, fds, e)",
    ),
    "a directory as a pipe": (
        ("allowed", "supervisor"),
        "s, f = ready(); fds, _ = pipes(); fds[1] = os.open('/', 0); result = runs(s, f, fds)",
        "s, f = ready(); fds, e = pipes(); result = answers(s, f, fds, e)",
    ),
    "a device as a pipe": (
        ("allowed", "supervisor"),
        "s, f = ready(); fds, _ = pipes(); fds[2] = os.open('/dev/null', 2); result = runs(s, f, fds)",
        "s, f = ready(); fds, e = pipes(); result = answers(s, f, fds, e)",
    ),
    "a pipe the wrong way round": (
        ("allowed", "supervisor"),
        "s, f = ready(); fds, e = pipes(); fds[0] = e[0][1]; result = runs(s, f, fds)",
        "s, f = ready(); fds, e = pipes(); result = answers(s, f, fds, e)",
    ),
    "unsealed memory": (
        ("allowed", "supervisor"),
        "s, f = ready(); fds, _ = pipes(); fds.append(os.memfd_create('x', 2)); result = runs(s, f, fds)",
        (
            "s, f = ready(); fds, e = pipes(); m = os.memfd_create('x', 2); os.ftruncate(m, 4096); "
            "fcntl.fcntl(m, 1033, 6); result = answers(s, f, fds + [m], e)"
        ),
    ),
    "one helper more than its rule allows": (
        ("allowed",),
        "s, f = ready(); [launch(s, f) for _ in range(MOST)]; result = launch(s, f)",
        "s, f = ready(); [launch(s, f) for _ in range(MOST - 1)]; result = launch(s, f)",
    ),
    "one more over another connection": (
        ("allowed",),
        "s, f = ready(); [launch(s, f) for _ in range(MOST - 1)]; t, f = ready(); launch(t, f); result = launch(t, f)",
        "s, f = ready(); [launch(s, f) for _ in range(MOST - 1)]; t, f = ready(); result = launch(t, f)",
    ),
    "kill by another connection": (
        ("allowed", "supervisor"),
        "s, f = ready(); h = launch(s, f)[0]; t, f = ready(); result = ask(t, 2, handle=h, arg=9)",
        "s, f = ready(); h = launch(s, f)[0]; result = ask(s, 2, handle=h, arg=9)",
    ),
    "a handle that never was": (
        ("allowed", "supervisor"),
        "s, f = ready(); result = ask(s, 2, handle=99999, arg=9)",
        "s, f = ready(); h = launch(s, f)[0]; result = ask(s, 2, handle=h, arg=9)",
    ),
    "stop instead of kill": (
        ("allowed", "supervisor"),
        "s, f = ready(); h = launch(s, f)[0]; result = ask(s, 2, handle=h, arg=19)",
        "s, f = ready(); h = launch(s, f)[0]; result = ask(s, 2, handle=h, arg=9)",
    ),
    "its helper by pidfd": (
        ("allowed", "supervisor"),
        "s, f = ready(); p = launch(s, f)[2]; time.sleep(0.1); signal.pidfd_send_signal(p, 9); result = True",
        "s, f = ready(); h = launch(s, f)[0]; result = ask(s, 2, handle=h, arg=9)",
    ),
    "a long packet": (
        ("allowed", "supervisor"),
        "s, f = ready(); result = raw(s, W.pack(b'HDL1', 3, 0, 0, 0, 0, 1) + b'x')",
        "s, f = ready(); result = raw(s, W.pack(b'HDL1', 3, 0, 0, 0, 0, 1))",
    ),
    "a short packet": (
        ("allowed", "supervisor"),
        "s, f = ready(); result = raw(s, W.pack(b'HDL1', 3, 0, 0, 0, 0, 1)[:-1])",
        "s, f = ready(); result = raw(s, W.pack(b'HDL1', 3, 0, 0, 0, 0, 1))",
    ),
    "a wrong magic": (
        ("allowed", "supervisor"),
        "s, f = ready(); result = ask(s, 3, magic=b'HDL2')",
        "s, f = ready(); result = ask(s, 3)",
    ),
    "a dirty padding": (
        ("allowed", "supervisor"),
        "s, f = ready(); result = raw(s, W.pack(b'HDL1', 3, 0, 0, 0, 0, 1)[:-1] + b'x')",
        "s, f = ready(); result = raw(s, W.pack(b'HDL1', 3, 0, 0, 0, 0, 1))",
    ),
    "no cookie": (
        ("allowed", "supervisor"),
        "s, f = ready(); result = ask(s, 3, cookie=0)",
        "s, f = ready(); result = ask(s, 3)",
    ),
    "an unknown request": (
        ("allowed", "supervisor"),
        "s, f = ready(); result = ask(s, 4)",
        "s, f = ready(); result = ask(s, 3)",
    ),
    "descriptors with a ping": (
        ("allowed", "supervisor"),
        "s, f = ready(); result = ask(s, 3, fds=pipes(2)[0])",
        "s, f = ready(); result = ask(s, 3)",
    ),
    "a count that lies": (
        ("allowed", "supervisor"),
        "s, f = ready(); fds, _ = pipes(); result = runs(s, f, fds, n=2)",
        "s, f = ready(); fds, e = pipes(); result = answers(s, f, fds, e)",
    ),
    "a seventeenth connection": (
        ("allowed",),
        "many = [connect(SOCKET) for _ in range(17)]; result = [ask(s, 3) for s in many]",
        "many = [connect(SOCKET) for _ in range(15)]; result = [ask(s, 3) for s in many]",
    ),
    "trace its helper": (
        ("allowed", "supervisor"),
        (
            "s, f = ready(); p = launch(s, f)[2]; time.sleep(0.1)\n"
            "pid = int([l for l in open(f'/proc/self/fdinfo/{p}') if l[:4] == 'Pid:'][0].split()[1])\n"
            "call(101, 0x4206, pid, 0, 0); result = True"
        ),
        "",
    ),
    "its helper's descriptors": (
        ("allowed", "supervisor"),
        (
            "s, f = ready(); p = launch(s, f)[2]; time.sleep(0.1)\n"
            "pid = int([l for l in open(f'/proc/self/fdinfo/{p}') if l[:4] == 'Pid:'][0].split()[1])\n"
            "result = os.listdir(f'/proc/{pid}/fd')"
        ),
        "",
    ),
}


def attempts() -> list[Attempt]:
    """Return every attempt; one per (name, position) is tried."""
    found = [Attempt(name, code, EVERY) for name, code in PROCESSES.items()]
    found += [Attempt(name, code, EVERY) for name, code in FILES.items()]
    found += [
        Attempt(name, code, ("stranger", "reader", "allowed", "helper", "sealed"))
        for name, code in OTHERS.items()
    ]
    found += [Attempt(name, code, INSIDE) for name, code in IDENTITY.items()]
    found += [Attempt(name, code, INSIDE) for name, code in KERNEL.items()]
    found += [Attempt(name, code, ("supervisor",)) for name, code in NET_RAW_TOO.items()]
    found += [Attempt(name, code, INSIDE, "user") for name, code in BY_EXEC.items()]
    found += [Attempt(name, code, INSIDE, "user") for name, code in (DEATH | SET_ID).items()]
    found += [Attempt(name, code, ("sealed",), "helper") for name, code in (SEALED | BY_OTHERS).items()]
    found += [Attempt(name, code, HELPER, "user") for name, code in SEALED_TOO.items()]
    found += [Attempt(f"transmit: {name}", code, ("sealed",), "helper") for name, code in SENDS.items()]
    for name, (positions, code, legal) in REQUESTS.items():
        found.append(Attempt(name, code, positions, "" if legal else "root", legal))
    return found
