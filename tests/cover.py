"""Coverage of the processes that helperd really starts: isolated ones (-I -S), out of reach of coverage's hooks.

Two halves, one file. `install()` wraps what starts processes, so that the command line of a Python gets this
file put in front of the program; run so, the file starts measuring, wraps again, runs the program as Python itself
would have done, and writes its data at the end.

    python -I -S privsep.py --config=F    becomes    python -I -S cover.py DATA privsep.py --config=F

Left alone are the tests' own programs and one-liners, and helpers that the launcher starts: they are measured where a
test starts them itself, because here their start is timed and their last word is said in a sandbox. A process that is
killed writes nothing. Data is kept in memory and written through a descriptor from the start: a sealed helper opens
no files. `python cover.py DATA` turns what was written into data files for `coverage combine`.

The import of coverage takes ten times as long as the start of Python, and the tests start thousands of processes: a
process loads its C tracer alone, and only what gathers the data knows the rest of it.
"""

import atexit
import contextlib
import importlib.machinery
import importlib.util
import marshal
import os
import runpy
import subprocess
import sys
import threading
import time
import types

HERE = os.path.abspath(__file__)
ROOT = os.path.dirname(os.path.dirname(HERE))
INTERPRETERS = {
    os.path.realpath(sys.executable),
    os.path.realpath(getattr(sys, "_base_executable", sys.executable)),
}
WITH_VALUE = {"-X", "-W"}
OURS = os.path.join(ROOT, "helperd") + os.sep
GENERATED = os.path.join(OURS, "wire", "pb") + os.sep
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


class Light:
    """coverage's C tracer without coverage: arcs of our files, as `{file name: {packed arc}}`.

    Args:
        tracer: the module that has it.
    """

    def __init__(self, tracer):
        self.module, self.data, self.known, self.started = tracer, {}, {}, []

    def judge(self, filename, _frame):
        found = self.module.CFileDisposition()
        path = os.path.abspath(filename)
        found.original_filename = filename
        found.canonical_filename = found.source_filename = path
        found.trace = path.startswith(OURS) and not path.startswith(GENERATED)
        found.reason, found.file_tracer, found.has_dynamic_filename = "", None, False
        return found

    def one(self):
        """Measure this thread; returns its trace function."""
        tracer = self.module.CTracer()
        tracer.data, tracer.trace_arcs = self.data, True
        tracer.should_trace, tracer.should_trace_cache = self.judge, self.known
        tracer.lock_data = tracer.unlock_data = lambda: (
            None
        )  # nothing runs between two looks at the data: the GIL
        tracer.warn = lambda *_: None
        tracer.check_include = lambda *_: True
        tracer.concur_id_func = tracer.should_start_context = tracer.switch_context = None
        tracer.disable_plugin, tracer.file_tracers = lambda _: None, {}
        self.started.append(tracer)
        return tracer.start()

    def start(self):
        def first(frame, event, argument):
            sys.settrace(None)
            trace = self.one()
            return trace and trace(frame, event, argument)

        threading.settrace(first)
        self.one()

    def stop(self):
        threading.settrace(None)
        sys.settrace(None)

    def dumps(self):
        return marshal.dumps({name: set(arcs) for name, arcs in self.data.copy().items()})


def unpacked(arc):
    """The two line numbers of an arc as the C tracer packs it."""
    before, after = arc & 0xFFFFFFF, arc >> 28 & 0xFFFFFFF
    return (-before if arc & 1 << 56 else before, -after if arc & 1 << 57 else after)


def gather(data):
    """Turn each dump into a data file."""
    import coverage

    for name in os.listdir(data):
        if name.endswith(DUMP):
            with open(os.path.join(data, name), "rb") as file:
                content = file.read()
            os.unlink(os.path.join(data, name))
            with contextlib.suppress(EOFError):  # of one that was killed while it wrote
                arcs = marshal.loads(content)
                found = coverage.CoverageData(os.path.join(data, f".coverage.{name}"))
                found.add_arcs({file: [unpacked(arc) for arc in those] for file, those in arcs.items()})
                found.write()


def main():
    """Measure the program named on the command line."""
    data, *words = sys.argv[1:]
    if not words:
        gather(data)
        return
    if not sys.flags.isolated:
        del sys.path[0]  # this file's directory, which Python put there
    place = f"{ROOT}/.venv/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages/coverage"
    file = f"{place}/tracer{importlib.machinery.EXTENSION_SUFFIXES[0]}"
    loader = importlib.machinery.ExtensionFileLoader("coverage.tracer", file)
    tracer = importlib.util.module_from_spec(importlib.util.spec_from_loader("coverage.tracer", loader))
    loader.exec_module(tracer)
    measured = Light(tracer)
    measured.start()

    name = os.path.join(data, f"{os.getpid()}-{time.monotonic_ns()}{DUMP}")
    spare = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    kept = os.fstat(spare)

    def save():
        with contextlib.suppress(Exception):  # who closes all descriptors and may open none is not counted
            measured.stop()
            content, fd = measured.dumps(), spare
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
