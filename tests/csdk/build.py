"""Programs of the C SDK, compiled once a session."""

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SDK = Path(__file__).resolve().parents[2] / "sdk" / "c"
STRICT = ("-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror", "-O2", "-pthread")
BUILD_S = 300
"""Seconds that a build may take on a machine that has much else to do."""


@functools.cache
def folder():
    """Where this session's programs are; the census of left-over files looks at no directory of the process."""
    path = tempfile.mkdtemp(prefix="helperd-csdk-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return Path(path)


def compiler():
    """The compiler there is, or None."""
    return next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)


def compile_c(program, *sources, cc=None, flags=STRICT):
    """Compile, warnings being errors."""
    argv = [cc or compiler(), *flags, f"-I{SDK}", "-o", str(program), *map(str, sources)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=BUILD_S, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return str(program)


@functools.cache
def helper(name, cc=None, *flags):
    """One of the SDK's own helpers."""
    program = folder() / "-".join(
        [name, os.path.basename(cc or "cc"), *(str(abs(hash(flag))) for flag in flags)]
    )
    return compile_c(program, SDK / f"{name}.c", SDK / "helperd.c", cc=cc, flags=(*STRICT, *flags))
