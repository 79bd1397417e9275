"""System call numbers of the two machines we know, and what the filters do with each: pure tables.

Source of fact: asm/unistd_64.h (x86_64) and asm-generic/unistd.h (aarch64) of Linux 6.1; "-" where a machine
has none. On any other machine ``NUMBERS`` is empty, and every tier is reported as unavailable.
"""

from __future__ import annotations

import os

MACHINE = os.uname().machine
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# tier 1: refused with EPERM; nothing that captures packets has a use for them
DENIED = """
unshare:272:97 setns:308:268 mount:165:40 umount2:166:39 pivot_root:155:41 chroot:161:51 open_tree:428:428
move_mount:429:429 fsopen:430:430 fsconfig:431:431 fsmount:432:432 fspick:433:433 mount_setattr:442:442
bpf:321:280 perf_event_open:298:241 io_uring_setup:425:425 io_uring_enter:426:426 io_uring_register:427:427
userfaultfd:323:282 add_key:248:217 request_key:249:218 keyctl:250:219 ptrace:101:117 process_vm_readv:310:270
process_vm_writev:311:271 kcmp:312:272 pidfd_getfd:438:438 init_module:175:105 finit_module:313:273
delete_module:176:106 kexec_load:246:104 kexec_file_load:320:294 reboot:169:142 swapon:167:224 swapoff:168:225
iopl:172:- ioperm:173:- modify_ldt:154:- acct:163:89 quotactl:179:60 quotactl_fd:443:443
open_by_handle_at:304:265 name_to_handle_at:303:264 memfd_secret:447:447 settimeofday:164:170
clock_settime:227:112 adjtimex:159:171 clock_adjtime:305:266 fanotify_init:300:262 personality:135:92
syslog:103:116 sethostname:170:161 setdomainname:171:162 vhangup:153:58 uselib:134:-
"""

# tier 3: on its outputs only; those of the second row on none, for they can pass descriptors on
WRITING = "write:1:64 writev:20:66 sendto:44:206"
PASSING = "sendmsg:46:211 sendmmsg:307:269"

# tier 3: all else that a helper with an open device still needs
ALLOWED = """
read:0:63 readv:19:65 recvfrom:45:207 recvmsg:47:212 recvmmsg:299:243 poll:7:-
ppoll:271:73 select:23:- pselect6:270:72 epoll_wait:232:-
epoll_pwait:281:22 epoll_ctl:233:21 close:3:57 lseek:8:62 munmap:11:215 brk:12:214 madvise:28:233
mremap:25:216 futex:202:98 getpid:39:172 gettid:186:178 rt_sigaction:13:134 rt_sigprocmask:14:135
rt_sigreturn:15:139 clock_gettime:228:113 clock_nanosleep:230:115 nanosleep:35:101 getrandom:318:278
exit:60:93 exit_group:231:94 sched_yield:24:124 restart_syscall:219:128 shutdown:48:210 fstat:5:80
getsockopt:55:209
"""

# tier 3: refused with EACCES, so that a library that looks for a file goes on without it
HIDDEN = """
open:2:- openat:257:56 openat2:437:437 stat:4:- lstat:6:- newfstatat:262:79 statx:332:291 access:21:-
faccessat:269:48 faccessat2:439:439 readlink:89:- readlinkat:267:78
"""

OTHER = """
clone:56:220 clone3:435:435 socket:41:198 ioctl:16:29 mmap:9:222 mprotect:10:226 capget:125:90 capset:126:91
close_range:436:436 seccomp:317:277 landlock_create_ruleset:444:444 landlock_add_rule:445:445
landlock_restrict_self:446:446 chmod:90:- fchmod:91:52 fchmodat:268:53 fchmodat2:452:452 creat:85:- mkdir:83:-
mkdirat:258:34 mknod:133:- mknodat:259:33 mq_open:240:180 prctl:157:167
"""


def _column(text: str) -> dict[str, int]:
    """Return name -> number of this machine."""
    column = list(AUDIT_ARCH).index(MACHINE) + 1 if MACHINE in AUDIT_ARCH else 0
    rows = (entry.split(":") for entry in text.split())
    return {row[0]: int(row[column]) for row in rows if column and row[column] != "-"}


NUMBERS: dict[str, int] = _column(" ".join((DENIED, WRITING, PASSING, ALLOWED, HIDDEN, OTHER)))
DENIED_NUMBERS = tuple(_column(DENIED).values())
ALLOWED_NUMBERS = tuple(_column(ALLOWED).values())
PASSING_NUMBERS = tuple(_column(PASSING).values())
HIDDEN_NUMBERS = tuple(_column(HIDDEN).values())
