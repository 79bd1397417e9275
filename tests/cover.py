"""Coverage of the processes that helperd really starts: isolated ones (-I -S), out of reach of coverage's hooks.

Two halves, one file. `install()` wraps what starts processes, so that the command line of a Python gets this
file put in front of the program; run so, the file starts measuring, wraps again, runs the program as Python itself
would have done, and writes its data at the end.

    python -I -S privsep.py --config=F    becomes    python -I -S cover.py DATA privsep.py --config=F

Left alone are the tests' own programs and one-liners, and helpers that the launcher starts: they are measured where a
test starts them itself, because here their start is timed and their last word is said in a sandbox. A process that is
killed writes nothing. Data is kept in memory and written through a descriptor from the start: a sealed helper opens
no files. `python cover.py DATA` turns what was written into data files for `coverage combine`.
"""

import atexit
import contextlib
import os
import runpy
import subprocess
import sys
import time
import types

HERE = os.path.abspath(__file__)
ROOT = os.path.dirname(os.path.dirname(HERE))
INTERPRETERS = {
    os.path.realpath(sys.executable),
    os.path.realpath(getattr(sys, "_base_executable", sys.executable)),
}
WITH_VALUE = {"-X", "-W"}
TESTS = os.path.dirname(HERE) + os.sep
DUMP = ".dump"
SUPERVISOR = "--launcher-fd="  # in the command line of a supervisor only


def covered(argv, data):
    """The command line with this file in it; as it was, if it starts no Python, or nothing that is to be measured."""
    if isinstance(argv, (str, bytes)) or not argv or os.path.realpath(str(argv[0])) not in INTERPRETERS:
        return argv
    words, at = [str(word) for word in argv], 1
    while at < len(words) and words[at].startswith("-") and words[at] not in {"-c", "-m"}:
        at += 2 if words[at] in WITH_VALUE else 1
    target = words[at : at + 2]
    if (
        not target
        or target[0].startswith(TESTS)
        or (target[0] == "-m" and target[1].partition(".")[0] != "helperd")
    ):
        return argv
    if target[0] == "-c" and not any(word.startswith(SUPERVISOR) for word in words):
        return argv
    return [*words[:at], HERE, data, *words[at:]]


def install(data, *, before_exec=None):
    """Cover what this process starts from now on.

    Args:
        data: an existing directory that every process may write to.
        before_exec: called before this very process becomes another program.
    """
    popen, execv, execve, first = subprocess.Popen.__init__, os.execv, os.execve, os.getpid()

    def init(self, args, *more, **named):
        popen(self, covered(args, data), *more, **named)

    def become(call, program, argv, *environment):
        if os.getpid() != first and not any(word.startswith(SUPERVISOR) for word in argv):
            call(program, argv, *environment)  # the launcher's child becomes a helper
        if os.getpid() == first and before_exec is not None:
            before_exec()
        call(program, covered(argv, data), *environment)

    subprocess.Popen.__init__ = init
    os.execv = lambda program, argv: become(execv, program, argv)
    os.execve = lambda program, argv, environment: become(execve, program, argv, environment)


def measure(data):
    """Measure this process, which runs tests, and what it starts; return what ends that and writes the data."""
    import coverage

    measured = coverage.Coverage(data_file=os.path.join(data, ".coverage"), data_suffix=True)
    measured.start()
    install(data)

    def end():
        measured.stop()
        measured.save()

    return end


def run(words):
    """Run `-c TEXT ...`, `-m MODULE ...` or `FILE ...` as Python itself would."""
    if words[0] == "-m":
        sys.argv = words[1:]
        if not sys.flags.isolated:
            sys.path.insert(0, os.getcwd())
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        if not sys.flags.isolated:
            sys.path.insert(0, "")
        module = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(words[1], "<string>", "exec"), vars(module))
    else:
        sys.argv = words
        if not sys.flags.isolated:
            sys.path.insert(0, os.path.dirname(os.path.abspath(words[0])))
        runpy.run_path(words[0], run_name="__main__")


def open_still(fd, kept):
    """Whether a descriptor is the file it was; a sealed helper may not ask, and closes nothing."""
    try:
        now = os.fstat(fd)
    except PermissionError:
        return True
    except OSError:
        return False
    return (now.st_dev, now.st_ino) == (kept.st_dev, kept.st_ino)


def gather(data):
    """Turn each dump into a data file."""
    import coverage

    for name in os.listdir(data):
        if name.endswith(DUMP):
            with open(os.path.join(data, name), "rb") as file:
                content = file.read()
            os.unlink(os.path.join(data, name))
            if content:
                found = coverage.CoverageData(os.path.join(data, f".coverage.{name}"))
                found.loads(content)


def main():
    """Measure the program named on the command line."""
    data, *words = sys.argv[1:]
    if not words:
        gather(data)
        return
    if not sys.flags.isolated:
        del sys.path[0]  # this file's directory, which Python put there
    before, site = (
        list(sys.path),
        f"{ROOT}/.venv/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages",
    )
    sys.path.append(site)
    import sqlite3.dump  # noqa: F401 - coverage imports it late, which a sealed process cannot

    import coverage
    import coverage.sqldata

    measured = coverage.Coverage(data_file=None, config_file=os.path.join(ROOT, "pyproject.toml"))
    measured.set_option("run:patch", [])
    measured.set_option("run:source", [os.path.join(ROOT, "helperd")])
    measured.start()
    sys.path[:] = before

    name = os.path.join(data, f"{os.getpid()}-{time.monotonic_ns()}{DUMP}")
    spare = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    kept = os.fstat(spare)

    def save():
        with contextlib.suppress(Exception):  # who closes all descriptors and may open none is not counted
            measured.stop()
            content, fd = measured.get_data().dumps(), spare
            if not open_still(spare, kept):
                fd = os.open(name, os.O_WRONLY)
            os.write(fd, content)

    leave = os._exit

    def leave_saved(status):
        if os.getpid() == pid:
            save()
        leave(status)

    pid = os.getpid()
    os._exit = leave_saved
    install(data, before_exec=save)
    atexit.register(lambda: os.getpid() == pid and save())
    run(words)


if __name__ == "__main__":
    main()
