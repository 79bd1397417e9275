"""What a helper, or the author of a file, does to who looks at it: ``abuse.py NAME...`` as process 1.

Each attempt is tried as it is, and once more with the one step undone that stands in its way: that is its live control.
Prints {"scene", "attempts", "live", "succeeded"} with the names of each.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import hostile
from tests.attack.scenes import rewrite
from tests.attack.stage import LIBRARY, OTHER, STAGE, Stage, interpreter, say
from tests.bombs import BOMBS, ROWS
from tests.hostile import blocks

SITE = f"{LIBRARY}/.venv/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
Tries = Callable[[], Iterator[tuple[str, bool]]]
SCENES: dict[str, Callable[[Stage], tuple[Tries, list[tuple[str, str, str]]]]] = {}


def scene(function: Callable[[Stage], tuple[Tries, list[tuple[str, str, str]]]]) -> object:
    """Put a scene on the list: it returns its attempts, and the (file, old, new) of the steps that stand in their way."""
    SCENES[function.__name__] = function
    return function


@contextmanager
def without(steps: list[tuple[str, str, str]]) -> Iterator[None]:
    """The package with some steps less."""
    before = {}
    for name, old, new in steps:
        path = f"{LIBRARY}/helperd/{name}"
        text = Path(path).read_text()
        before.setdefault(path, text)
        assert old in text, (name, old)
        rewrite(path, text.replace(old, new))
    yield
    for path, text in before.items():
        rewrite(path, text)


def run(*words: str, timeout: float = 60) -> str:
    """All that a command of the stage's package prints, as root."""
    code = (
        f"import sys; sys.path[:0] = [{LIBRARY!r}, {SITE!r}]; from helperd.cli import main; sys.exit(main())"
    )
    done = subprocess.run(
        [interpreter(), "-c", code, *words],
        env={"PATH": "/usr/bin:/bin", "HELPERD_PATH": SITE}, cwd="/", capture_output=True, check=False, timeout=timeout,
    )  # fmt: skip
    return (done.stdout + done.stderr).decode("utf-8", "surrogateescape")


@scene
def terminal(stage: Stage) -> tuple[Tries, list[tuple[str, str, str]]]:
    """A helper's texts reach the terminal of root."""
    text = hostile.config(LIBRARY, SITE).replace(sys.executable, interpreter())
    config = stage.config(text)
    mistakes = stage.config(
        f"[[helper]]\nname = '{hostile.FORGED}'\n\"\\u001b[2J\\u009b31m\\u202e\" = 1\n", f"{STAGE}/m.toml"
    )
    out = f"{STAGE}/open/out.pcapng"
    words = {
        "a device's name": ("list", "-c", config),
        "its hardware": ("probe", "-c", config, "yes:type=hostile"),
        "a refused probe": ("probe", "-c", config, "no:type=hostile"),
        "a message, and what was captured": ("capture", "--config", config, "-a", "packets:1", "-w", out, "x:type=hostile"),
        "a refused open": ("capture", "--config", config, "-w", out, "refused:type=hostile"),
        "last words": ("capture", "--config", config, "-w", out, "dies:type=hostile"),
        "a key of a file": ("check", mistakes),
        "a word of the command line": ("status", "--\x1b[2J\u202e"),
    }  # fmt: skip

    def tries() -> Iterator[tuple[str, bool]]:
        for name, each in words.items():
            yield name, bool(hostile.raw(run(*each)))
        with open(out, "rb") as file:
            yield "a packet's comment", hostile.CODES["sets the title"].encode() in file.read()

    return tries, [
        ("visible.py", "if raw.isprintable():", "if True:"),
        ("logs.py", "visible(raw.", "str(raw."),
    ]


@scene
def recordings(stage: Stage) -> tuple[Tries, list[tuple[str, str, str]]]:
    """A file that is opened carries something out: it fills memory, never ends, or makes up packets."""
    config = stage.config(
        '[[helper]]\nname = "pcapfile"\ncommand = ["builtin:pcapfile"]\ntypes = ["pcapfile"]\n'
    )
    out = f"{STAGE}/open/replayed.pcapng"
    for number, make in enumerate(BOMBS.values()):
        make(Path(f"{STAGE}/open/{number}.kismet"))

    def tries() -> Iterator[tuple[str, bool]]:
        for number, name in enumerate(BOMBS):
            definition = f"{STAGE}/open/{number}.kismet:type=pcapfile,realtime=false"
            Path(out).write_bytes(b"")
            try:
                said = run("capture", "--config", config, "-w", out, definition, timeout=12)
            except subprocess.TimeoutExpired:
                yield name, True
                continue
            packets = sum(kind == 6 for kind, _body in blocks(Path(out).read_bytes()))
            yield (
                name,
                packets > ROWS
                or "memory" in said
                or (("computed" in name or "module" in name) and packets > 0),
            )

    step = "helpers/_database.py"
    return tries, [
        (step, 'if kind != "table":', "if False:"),
        (step, "inside is None and (", "True or ("),
        (step, "monotonic() > self._due", "False"),
        (step, "row[0] <= before", "False"),
        (step, "table_info", "table_xinfo"),
    ]


SINK = """
import resource, sys, os
sys.path[:0] = [LIB, SITE]
import trio
from helperd.bell import Bell
from helperd.config.sinks import SinkSpec
from helperd.routing import RouteTable
from helperd.sinks.file import FileSink
hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
async def main():
    spec = SinkSpec(path=sys.argv[1], type='file', disk_full=sys.argv[2])
    told = trio.Event()
    def say(severity, text): told.set()
    def bug(error): told.set()
    sink = FileSink(spec, RouteTable(), b'', on_room=Bell(), on_connect=lambda _: None, on_change=lambda: None,
                    on_bug=bug, say=say)
    resource.setrlimit(resource.RLIMIT_NPROC, (0, hard))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.serve)
        await told.wait()
        await trio.testing.wait_all_tasks_blocked(0.1)
        dead = sink.error is None or sink.over
        resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
        with trio.move_on_after(5):
            while sink.error is not None or sink.over:
                await trio.sleep(0.05)
        print('dead' if dead or not sink.consumers else 'alive')
        sink.finish()
import trio.testing
trio.run(main)
"""


@scene
def threads(stage: Stage) -> tuple[Tries, list[tuple[str, str, str]]]:
    """Whoever takes all processes of a user ends a sink of files for good, and nobody is told."""
    code = SINK.replace("LIB", repr(LIBRARY)).replace("SITE", repr(SITE))

    def tries() -> Iterator[tuple[str, bool]]:
        for policy in ("drop", "stop"):
            argv = [interpreter(), "-c", code, f"{STAGE}/open/threads.pcapng", policy]
            done = subprocess.run(
                argv, capture_output=True, text=True, check=False, timeout=60, user=OTHER, group=OTHER
            )
            assert done.stdout in {"dead\n", "alive\n"}, done.stderr[-2000:]
            yield f"no thread can start, {policy}", done.stdout == "dead\n"

    return tries, [
        ("sinks/hands.py", "            if begun:\n                raise\n", "            raise\n"),
        (
            "sinks/file.py",
            "        self.fail(failure)\n        return False",
            "        self._ended = True\n        return True",
        ),
    ]


def play(
    scenes: dict[str, Callable[[Stage], tuple[Tries, list[tuple[str, str, str]]]]], names: list[str]
) -> None:
    """Play the named scenes, or all of them."""
    stage = Stage()
    for name in names or scenes:
        tries, steps = scenes[name](stage)
        found = dict(tries())
        live = dict[str, bool]()
        if "HELPERD_MUTATION" not in os.environ:
            with without(steps):
                live = dict(tries())
        say(
            scene=name,
            attempts=list(found),
            live=[each for each, worked in live.items() if worked],
            succeeded=[each for each, worked in found.items() if worked],
        )


if __name__ == "__main__":
    play(SCENES, sys.argv[1:])
