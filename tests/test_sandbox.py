"""Filters and Landlock: the programs in a small interpreter of ours, and what they do to a real process."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from helperd.sandbox import kernel, landlock, numbers, sealing, seccomp
from helperd.sandbox.processes import Row, owner, privilege, row, table
from helperd.sandbox.sealing import seal, wanted_tier

ROOT = Path(__file__).resolve().parent.parent
EPERM, EACCES, ENOSYS, EAFNOSUPPORT = (seccomp.ERRNO | number for number in (1, 13, 38, 97))
known = pytest.mark.skipif(not numbers.NUMBERS, reason=f"no table of system calls for {numbers.MACHINE}")


def judge(program: bytes, number: int, *args: int, arch: int | None = None) -> int:
    """Run a program over one system call; return its verdict."""
    wanted = numbers.AUDIT_ARCH[numbers.MACHINE] if arch is None else arch
    data = struct.pack("=IIQ6Q", number, wanted, 0, *args, *[0] * (6 - len(args)))
    rows = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    at = loaded = 0
    while True:
        code, yes, no, value = rows[at]
        at += 1
        if code == seccomp.RETURN:
            return value
        if code == seccomp.LOAD:
            loaded = struct.unpack_from("=I", data, value)[0]
        else:
            good = {seccomp.EQUAL: loaded == value, seccomp.AT_LEAST: loaded >= value}
            at += yes if good.get(code, bool(loaded & value)) else no


@known
def test_the_coarse_filter_refuses_what_its_table_says_and_nothing_else():
    program = seccomp.coarse([socket.AF_UNIX, socket.AF_PACKET])
    n = numbers.NUMBERS
    special = {n[name] for name in ("clone", "ioctl", "socket", "prctl", *seccomp.ABSENT)}
    for number in set(range(520)) - special:
        assert judge(program, number) == (EPERM if number in numbers.DENIED_NUMBERS else seccomp.ALLOW), (
            number
        )
    assert {judge(program, n[name]) for name in seccomp.ABSENT} == {ENOSYS}
    assert judge(program, n["clone"], 17) == seccomp.ALLOW
    for bit in (0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert judge(program, n["clone"], bit | 17) == EPERM
    assert judge(program, n["prctl"], 1, 9) == judge(program, n["prctl"], 4, 0) == seccomp.ALLOW
    assert {
        judge(program, n["prctl"], option, number) for option in (1, 1 << 32 | 1) for number in (0, 1, 15, 19)
    } == {EPERM}
    assert judge(program, n["ioctl"], 0, seccomp.TIOCSTI) == EPERM
    assert judge(program, n["ioctl"], 0, 0x5413) == seccomp.ALLOW
    assert judge(program, n["socket"], socket.AF_PACKET) == seccomp.ALLOW
    assert judge(program, n["socket"], socket.AF_INET) == EAFNOSUPPORT


@known
@pytest.mark.parametrize("name", [name for name in seccomp.MODES if name in numbers.NUMBERS])
def test_no_call_sets_a_set_id_bit(name: str):
    program, at = seccomp.coarse([1]), seccomp.MODES[name]
    for mode, wanted in (
        (0o1777, seccomp.ALLOW), (0o755, seccomp.ALLOW), (0, seccomp.ALLOW), (0o100644, seccomp.ALLOW),
        (0o4755, EPERM), (0o2755, EPERM), (0o6000, EPERM), (0o7777, EPERM), (0xFFFF_FFFF_0000_0800, EPERM),
    ):  # fmt: skip
        assert judge(program, numbers.NUMBERS[name], *[6 << 9] * at, mode) == wanted, oct(mode)


@known
@pytest.mark.parametrize("name", [name for name in seccomp.OPENS if name in numbers.NUMBERS])
def test_no_open_makes_a_file_with_a_set_id_bit(name: str):
    program, before = seccomp.coarse([1]), [6 << 9] * seccomp.OPENS[name]
    temporary = os.O_TMPFILE | os.O_RDWR
    for flags, mode, wanted in (
        (os.O_CREAT | os.O_WRONLY, 0o4755, EPERM), (temporary, 0o2755, EPERM), (os.O_CREAT, 0o6000, EPERM),
        (os.O_CREAT | os.O_EXCL, 0o1777, seccomp.ALLOW), (temporary, 0o600, seccomp.ALLOW),
        (os.O_RDONLY, 0o7777, seccomp.ALLOW),  # no file is made: the mode is whatever the register held
        (os.O_DIRECTORY, 0o6000, seccomp.ALLOW),
    ):  # fmt: skip
        assert judge(program, numbers.NUMBERS[name], *before, flags, mode) == wanted, (flags, mode)


@pytest.mark.need("seccomp")
def test_ordinary_programs_do_not_notice(tmp_path: Path):
    """Whoever wants a set-user-ID bit is told so; temporary files, copies, modes and directories go on as ever."""
    code = f"""
import shutil, stat, tempfile
from helperd.sandbox import kernel, seccomp
kernel.no_new_privs()
seccomp.load(seccomp.coarse(seccomp.PLAIN_FAMILIES))
os.chdir({str(tmp_path)!r})
mode = lambda path: oct(stat.S_IMODE(os.lstat(path).st_mode))
os.umask(0)
with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as a, tempfile.NamedTemporaryFile() as b:
    a.write(b"x"), b.write(b"x")
os.mkdir("sticky", 0o1777); os.makedirs("a/b"); os.chmod("a", 0o750); os.mkfifo("fifo", 0o640)
with open("file", "w") as file:
    os.fchmod(file.fileno(), 0o640)
os.utime("file", (1, 1)); shutil.copystat("file", "a/b"); shutil.copy2("file", "copy"); shutil.copytree("a", "c")
os.symlink("file", "link"); shutil.copystat("link", "link", follow_symlinks=False)
fd = os.open(".", os.O_RDONLY); os.chmod("copy", 0o604, dir_fd=fd); os.mkdir("below", 0o700, dir_fd=fd)
print(mode("sticky"), mode("a"), mode("a/b"), mode("fifo"), mode("copy"), mode("c"), mode("below"))
os.environ["PATH"] = "/usr/bin:/bin"
import subprocess
os.environ["LC_ALL"] = "C"
subprocess.run("install -m 1755 file a/program && cp -p file d && tar c a | tar x -C sticky && mkdir -m 755 f",
    shell=True, check=True)
done = subprocess.run(["install", "-m", "2755", "file", "g"], capture_output=True, text=True)
print(mode("a/program"), mode("sticky/a/b"), done.returncode, "Operation not permitted" in done.stderr, mode("g"))
"""
    done = inside(code)
    first, second = done.stdout.splitlines() or ["", done.stderr]
    assert first == "0o1777 0o750 0o640 0o640 0o604 0o750 0o700"
    assert second.split()[:4] == ["0o1755", "0o640", "1", "True"]
    assert not int(second.split()[4], 8) & 0o6000


@known
def test_the_tight_filter_allows_its_list_and_hides_files():
    program = sealing.tight([0x8B04], [2, 7])
    n = numbers.NUMBERS
    writing = ("write", "writev", "sendto", "sendmsg", "sendmmsg")
    special = {n[name] for name in ("mmap", "mprotect", "ioctl", *writing)}
    for number in set(range(520)) - special:
        wanted = seccomp.ALLOW if number in numbers.ALLOWED_NUMBERS else seccomp.KILL
        wanted = EACCES if number in numbers.HIDDEN_NUMBERS else wanted
        assert judge(program, number) == wanted, number
    assert judge(program, n["mmap"], 0, 0, 3) == seccomp.ALLOW
    assert judge(program, n["mmap"], 0, 0, 7) == EACCES
    assert judge(program, n["mprotect"], 0, 0, 5) == EACCES
    assert judge(program, n["ioctl"], 3, 0x8B04) == seccomp.ALLOW
    assert judge(program, n["ioctl"], 3, 0x8912) == EPERM
    for name in writing:
        passing = name in {"sendmsg", "sendmmsg"}  # descriptors too
        assert (
            judge(program, n[name], 2) == judge(program, n[name], 7) == (EPERM if passing else seccomp.ALLOW)
        )
        assert {judge(program, n[name], fd) for fd in (0, 1, 3, 4, 6, 8, 0x102, 0xFFFFFFFF)} == {EPERM}, name


@known
@pytest.mark.parametrize("program", [seccomp.coarse([1]), sealing.tight()], ids=["coarse", "tight"])
def test_a_foreign_machine_is_killed(program: bytes):
    assert judge(program, 0, arch=0x40000003) == seccomp.KILL
    if numbers.MACHINE == "x86_64":
        assert judge(program, seccomp.X32) == seccomp.KILL


def test_no_filter_where_no_new_privs_is_not_wanted():
    assert seccomp.for_profile(1, 0, no_new_privs=False) == b""
    assert seccomp.for_profile(0, 0, no_new_privs=True) == b""
    assert seccomp.for_profile(1, 1 << 13, no_new_privs=True) != seccomp.for_profile(1, 0, no_new_privs=True)


def inside(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run code in an isolated Python that knows our package."""
    start = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import os, socket\nfrom helperd.sandbox import sealing"
    text = f"{start}\n{code}"
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", text], capture_output=True, text=True, check=False, env=env
    )


@pytest.mark.need("seccomp", "landlock")
def test_a_sealed_process_keeps_what_is_open_and_gets_nothing_new():
    code = """
r, w = os.pipe()
sealed = sealing.seal(3, outputs=(1, w))
os.write(w, b"x")
try:
    os.write(2, b"x")
except PermissionError:
    pass
assert os.read(r, 1) == b"x"
for path in ("/etc/hostname", "/etc/passwd"):
    try:
        open(path)
    except PermissionError:
        continue
    raise SystemExit("opened " + path)
try:
    raise ValueError("a traceback inside")
except ValueError:
    import traceback
    text = traceback.format_exc()
import gc
gc.collect()
keep = [bytearray(1 << 20) for _ in range(20)]
print(sealed.tier, "inside" in text, len(keep))
"""
    done = inside(code)
    assert (done.returncode, done.stdout) == (0, "3 True 20\n"), done.stderr


@pytest.mark.need("seccomp")
@pytest.mark.parametrize(
    "code", ["os.fork()", "socket.socket()", "os.pipe()", "os.kill(0, 0)", "os.execv('/bin/true', ['x'])"]
)
def test_a_sealed_process_that_wants_more_is_killed(code: str):
    done = inside(f"sealing.seal(3)\n{code}\nprint('still here')")
    assert (done.returncode, done.stdout) == (-31, "")


@pytest.mark.need("landlock")
def test_tier_2_leaves_the_named_files(tmp_path: Path):
    (tmp_path / "a").write_text("yes")
    code = f"""
print(sealing.seal(2, read=[{str(tmp_path)!r}]).tier, open({str(tmp_path / "a")!r}).read())
try:
    open("/etc/hostname")
except PermissionError:
    print("refused")
"""
    assert inside(code).stdout == "2 yes\nrefused\n"


@pytest.mark.parametrize(("value", "tier"), [("0", 0), ("2", 2), ("nonsense", 3)])
def test_the_tier_comes_from_the_launcher(monkeypatch: pytest.MonkeyPatch, value: str, tier: int):
    monkeypatch.setenv("HELPERD_SEAL", value)
    assert wanted_tier() == tier


def test_tier_0_changes_nothing_but_no_new_privs():
    assert inside("print(list(sealing.seal(0)), open('/etc/passwd').readable())").stdout == "[0, ()] True\n"


def test_who_belongs_to_whom():
    rows = {
        1: Row("S", 0, 1, 0), 10: Row("S", 1, 10, 0),  # 10: the launcher
        20: Row("S", 10, 20, 0), 21: Row("S", 20, 20, 0), 22: Row("S", 21, 22, 0),  # 20: a main process
        31: Row("S", 10, 20, 0), 32: Row("S", 10, 32, 0), 40: Row("S", 1, 40, 0),
    }  # fmt: skip
    found = {pid: owner(pid, rows, 10, {20}) for pid in rows}
    assert found == {1: None, 10: None, 20: 20, 21: 20, 22: 20, 31: 20, 32: 0, 40: None}


def test_what_the_kernel_says_of_this_process():
    found = privilege(os.getpid())
    assert found
    assert (found.uids, found.effective) == ((*os.getresuid(), os.geteuid()), kernel.capget()[0])
    assert row(os.getpid()) == table()[os.getpid()]
    assert privilege(2**22 + 1) is None
    assert kernel.last_capability() >= 40
    assert kernel.bits(0b1010) == [1, 3]


def test_an_unknown_call_is_an_error_not_a_crash():
    with pytest.raises(OSError, match="unknown"):
        kernel.syscall("no_such_call")
    assert landlock.abi() >= 0
    assert seal.__doc__
