"""What happens to a node in a year: each kind a method of ``Happenings``, done to what is chosen by chance.

Each leaves the node so that ``calm`` can bring it back to where it began; each says what it expects, and a refusal that
has to come and does not is as wrong as one that comes without a cause.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from helperd.control.client import Client
from helperd.errors import HelperdError
from tests.faults.witness import Reader
from tests.patience import HANGS_S
from tests.rig import Rig, until_listening

SOURCES: Final = 20
TUNABLE: Final = 4
HEAD: Final = """
[helperd]
implicit_sinks = true

[[helper]]
name = "streamer"
command = ["{streamer}"]
types = ["{kind}"]
exclusive = false

[[helper]]
name = "synthetic"
command = ["builtin:synthetic"]
types = ["synthetic"]
exclusive = false
"""
SOURCE: Final = """
[[source]]
name = "s{number}"
definition = "radio{radio}:type={kind},rate={rate},uuid=00000000-0000-0000-0000-{number:012}"
"""
REFUSED: Final = "refused, as it had to be"


class Settings:
    """The configuration, as it is and as it may become; ``text`` is its file."""

    def __init__(self, folder: Path, streamer: str, rate: float) -> None:
        self.streamer, self.rate = streamer, rate
        self.kind = "synthetic" if streamer.startswith("builtin:") else "c"
        self.small = folder / "small"
        self.out = folder / "out"
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]
        self.reset()

    def reset(self) -> None:
        """As at first."""
        self.rates = dict.fromkeys(range(SOURCES), self.rate)
        self.limits = {"sinks/slow.sock": "64KiB", "sinks/frames.sock": "1MiB", "sinks/lines.sock": "1MiB"}
        self.rotate = 5000
        self.more = ""

    def text(self) -> str:
        kinds = [self.kind if number >= TUNABLE else "synthetic" for number in range(SOURCES)]
        text = HEAD.format(streamer=self.streamer, kind="streamed" if self.kind == "synthetic" else "c")
        for number, rate in self.rates.items():
            text += SOURCE.format(number=number, radio=number % 4, kind=kinds[number], rate=f"{rate:g}")
        forms = {"sinks/slow.sock": "pcapng", "sinks/frames.sock": "frames", "sinks/lines.sock": "jsonl"}
        for path, limit in self.limits.items():
            text += f'[[sink]]\npath = "{path}"\nlimit = "{limit}"\nformat = "{forms[path]}"\n'
        text += f'[[sink]]\ntype = "tcp"\nlisten = "tcp:127.0.0.1:{self.port}"\n'
        for place in (self.out, self.small):
            text += f'[[sink]]\ntype = "file"\npath = "{place}/a.pcapng"\nrotate_packets = {self.rotate}\n'
        return text + self.more


class Happenings:
    """The node and who does what to it.

    Attributes:
        done: how often each kind has happened.
        wrong: what went otherwise than it has to.
        removed: packets in finished files that were removed.
        last: the last few kinds.
    """

    def __init__(self, rig: Rig, settings: Settings, dice: random.Random) -> None:
        self.rig, self.settings, self.dice = rig, settings, dice
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.removed = 0
        self.readers: list[Reader] = []
        self.stuck: list[socket.socket] = []
        self.added: list[str] = []
        self.filled: Path | None = None
        self._deck: list[str] = []
        self.last: list[str] = []
        self.kinds: dict[str, Callable[[], str | None]] = {
            name: getattr(self, name)
            for name in vars(type(self))
            if not name.startswith("_") and name not in {"happen", "calm", "harvest", "supervisor", "pids"}
        }

    # what a kind may use

    @property
    def supervisor(self) -> int:
        return int(self.rig.status()["pid"])

    def pids(self) -> dict[str, int]:
        return {row["name"]: row["pid"] for row in self.rig.status()["sources"] if row["pid"]}

    def _name(self) -> str:
        return self.dice.choice([row["name"] for row in self.rig.status()["sources"]])

    def _signal(self, *numbers: int, count: int = 1) -> None:
        pids = list(self.pids().values())
        for pid in self.dice.sample(pids, min(count, len(pids))):
            for number in numbers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def _order(self, verb: str, **parameters: Any) -> None:
        """An order to a source that may be in any trouble: its reason is an answer."""
        with contextlib.suppress(HelperdError):
            self.rig.call(verb, source=self._name(), **parameters)

    def _refused(self, method: str, word: str = "", **parameters: Any) -> str:
        try:
            self.rig.call(method, **parameters)
        except HelperdError as error:
            if word in str(error):
                return REFUSED
            return f"{method} was refused for another reason: {error}"
        return f"{method} was carried out: {parameters}"

    def _write(self) -> None:
        (self.rig.runtime / "helpers.toml").write_text(self.settings.text())

    def _reload(self) -> None:
        self._write()
        self.rig.call("Reload")

    def _reader(self, path: str) -> socket.socket:
        return self.rig.connect(path)

    def happen(self) -> None:
        """Let one thing happen; each kind comes as often as any other."""
        if not self._deck:
            self._deck = list(self.kinds)
            self.dice.shuffle(self._deck)
        kind = self._deck.pop()
        try:
            said = self.kinds[kind]()
        except Exception as error:
            said = f"{error!r}"
        self.done[kind] += 1
        self.last = [*self.last[-9:], kind]
        if said not in {None, REFUSED}:
            self.wrong.append(f"{kind}: {said}")

    def calm(self) -> None:
        """Bring everything back to where it began."""
        for sock in self.stuck:
            sock.close()
        for reader in self.readers:
            reader.close()
        self.stuck.clear()
        self.readers.clear()
        if self.filled is not None:
            self.filled.unlink()
            self.filled = None
        self._signal(signal.SIGCONT, count=1000)
        for name in self.added:
            self.rig.call("RemoveSource", source=name)
        self.added.clear()
        self.settings.reset()
        self._reload()
        for row in self.rig.status()["sources"]:
            if row["paused"]:
                self.rig.call("Resume", source=row["name"])
            with contextlib.suppress(HelperdError):
                self.rig.call("Start", source=row["name"])

    def harvest(self) -> None:
        """Take the finished files away, as who needs them does."""
        for place in (self.settings.out, self.settings.small):
            for path in place.glob("a*.pcapng"):
                self.removed += packets_in(path)
                path.unlink()

    # helpers

    def helper_killed(self) -> None:
        self._signal(signal.SIGKILL)

    def helper_crashed(self) -> None:
        self._signal(signal.SIGSEGV)

    def helper_told_to_end(self) -> None:
        self._signal(signal.SIGTERM)

    def helper_interrupted(self) -> None:
        self._signal(signal.SIGINT)

    def helper_hung_up(self) -> None:
        self._signal(signal.SIGHUP)

    def helper_stopped(self) -> None:
        self._signal(signal.SIGSTOP)

    def helper_stopped_for_a_moment(self) -> None:
        self._signal(signal.SIGSTOP, signal.SIGCONT)

    def helpers_killed_together(self) -> None:
        self._signal(signal.SIGKILL, count=3)

    def all_helpers_killed(self) -> None:
        if self.dice.random() < 0.2:
            self._signal(signal.SIGKILL, count=1000)

    # orders

    def restart(self) -> None:
        self._order("Restart")

    def stop(self) -> None:
        self._order("Stop")

    def start(self) -> None:
        self._order("Start")

    def pause(self) -> None:
        self._order("Pause")

    def resume(self) -> None:
        self._order("Resume")

    def stop_while_it_starts(self) -> None:
        name = self._name()
        other = threading.Thread(target=lambda: self._quietly("Restart", name))
        other.start()
        self._quietly("Stop", name)
        self._quietly("Start", name)
        other.join(HANGS_S)

    def _quietly(self, verb: str, name: str) -> None:
        with contextlib.suppress(HelperdError):
            self.rig.call(verb, source=name)

    def tune(self) -> None:
        with contextlib.suppress(HelperdError):
            self.rig.call("SetChannel", source=f"s{self.dice.randrange(TUNABLE)}", channel="6")

    def hop(self) -> None:
        with contextlib.suppress(HelperdError):
            self.rig.call("Hop", source=f"s{self.dice.randrange(TUNABLE)}", channels=["1", "6"], rate=5.0)

    def order_to_nobody(self) -> str:
        return self._refused("Restart", "unknown-source", source="nobody")

    def order_given_up(self) -> None:
        """Its client goes before the answer."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(self.rig.control)
            name = self._name()
            sock.send(b'{"method":"io.helperd.Restart","parameters":{"source":"%s"}}\0' % name.encode())

    # sources

    def source_added(self) -> str | None:
        if len(self.added) >= 5:
            return self.source_removed()
        name = f"x{self.dice.randrange(1000)}"
        try:
            self.rig.call("AddSource", definition="radio0:type=synthetic,rate=50", name=name)
        except HelperdError as error:
            return None if "duplicate-name" in str(error) else str(error)
        self.added.append(name)
        return None

    def source_removed(self) -> str | None:
        if self.added:
            self.rig.call("RemoveSource", source=self.added.pop())
        return None

    def source_that_cannot_open(self) -> str:
        return self._refused("AddSource", definition="nowhere:type=synthetic", name="nowhere")

    def source_named_twice(self) -> str:
        name = f"s{self.dice.choice(list(self.settings.rates))}"
        self._reload()
        return self._refused("AddSource", "duplicate-name", definition="radio0:type=synthetic", name=name)

    def source_without_room_for_its_socket(self) -> str:
        hindrance = self.rig.runtime / "sources" / "blocked.sock"
        hindrance.write_text("")
        said = self._refused("AddSource", "not a socket", definition="radio0:type=synthetic", name="blocked")
        hindrance.unlink()
        return said

    def captured_and_left(self) -> None:
        with Client(self.rig.control, timeout_s=HANGS_S) as client:
            stream = client.upgrade("Capture", definition="radio0:type=synthetic,rate=50")
            if self.dice.random() < 0.5:
                stream.socket.recv(4096)
            stream.socket.close()

    # readers

    def reader_comes(self) -> None:
        if len(self.readers) < 8:
            self.readers.append(Reader(self._reader("all.sock")))
            self.readers[-1].start()

    def reader_goes(self) -> None:
        if self.readers:
            self.readers.pop(self.dice.randrange(len(self.readers))).close()

    def reader_vanishes(self) -> None:
        self._reader(f"sources/s{self.dice.choice(list(self.settings.rates))}.sock").close()

    def reader_reads_nothing(self) -> None:
        self.stuck.append(self._reader(self.dice.choice(("all.sock", "all.frames.sock"))))
        if len(self.stuck) > 6:
            self.stuck.pop(0).close()

    def reader_at_the_slow_socket(self) -> None:
        if "sinks/slow.sock" in self.settings.limits:
            self.stuck.append(self._reader("sinks/slow.sock"))

    def reader_stops_writing(self) -> None:
        with self._reader("all.sock") as sock:
            sock.shutdown(socket.SHUT_WR)
            sock.recv(4096)

    def reader_talks(self) -> None:
        with self._reader("all.sock") as sock:
            sock.send(os.urandom(1000))
            sock.recv(4096)

    def reader_over_tcp_resets(self) -> None:
        with socket.create_connection(("127.0.0.1", self.settings.port), HANGS_S) as sock:
            sock.recv(100)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def reader_of_frames(self) -> None:
        with self._reader("all.frames.sock") as sock:
            sock.recv(65536)

    def reader_of_lines(self) -> None:
        self._reader("all.jsonl.sock").close()

    def reader_over_control(self) -> None:
        with Client(self.rig.control, timeout_s=HANGS_S) as client:
            stream = client.upgrade("Stream", sources=[self._name()], format="frames")
            stream.socket.close()

    def crowd_of_readers(self) -> None:
        crowd = [self._reader("all.sock") for _ in range(20)]
        for sock in crowd:
            sock.close()

    # reloads

    def reload_of_nothing(self) -> None:
        self._reload()

    def rate_changes(self) -> None:
        number = self.dice.choice(list(self.settings.rates))
        self.settings.rates[number] = self.dice.choice((20, 30, 60))
        self._reload()

    def source_leaves_the_file(self) -> None:
        if len(self.settings.rates) > SOURCES // 2:
            del self.settings.rates[self.dice.choice(list(self.settings.rates))]
        self._reload()

    def source_comes_back(self) -> None:
        lacking = [number for number in range(SOURCES) if number not in self.settings.rates]
        for number in lacking[:1]:
            self.settings.rates[number] = self.settings.rate
        self._reload()

    def sink_changes(self) -> None:
        for path in list(self.settings.limits)[:1]:
            self.settings.limits[path] = self.dice.choice(("64KiB", "128KiB", "1MiB"))
        self._reload()

    def sink_leaves_the_file(self) -> None:
        if len(self.settings.limits) > 1:
            self.settings.limits.pop(self.dice.choice(list(self.settings.limits)))
        self._reload()

    def files_are_cut_otherwise(self) -> None:
        self.settings.rotate = self.dice.choice((3000, 5000, 8000))
        self._reload()

    def broken_file(self) -> str:
        (self.rig.runtime / "helpers.toml").write_text(self.settings.text() + "[[sink]\n")
        return self._refused("Reload", "bad-syntax")

    def unknown_key(self) -> str:
        (self.rig.runtime / "helpers.toml").write_text(self.settings.text() + "speed = 3\n")
        return self._refused("Reload", "unknown-key")

    def empty_file(self) -> str:
        (self.rig.runtime / "helpers.toml").write_text("")
        return self._refused("Reload", "empty")

    def sink_that_cannot_be(self) -> str:
        hindrance = self.rig.runtime / "blocked.sock"
        hindrance.write_text("")
        (self.rig.runtime / "helpers.toml").write_text(
            self.settings.text() + '[[sink]]\npath = "blocked.sock"\n'
        )
        said = self._refused("Reload", "not a socket")
        hindrance.unlink()
        return said

    def reload_tried(self) -> None:
        self._write()
        self.rig.call("Reload", check=True)

    def hangup_to_the_launcher(self) -> None:
        self._write()
        os.kill(self.rig.process.pid, signal.SIGHUP)

    def hangups_to_the_supervisor(self) -> None:
        self._write()
        for _ in range(3):
            os.kill(self.supervisor, signal.SIGHUP)

    # questions

    def devices(self) -> None:
        self.rig.call("ListDevices", max_age_s=60.0)

    def probe(self) -> None:
        self.rig.call("Probe", definition="radio1")

    def client_talks_nonsense(self) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(self.rig.control)
            with contextlib.suppress(OSError):
                sock.send(os.urandom(2000))

    def client_does_not_listen(self) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(self.rig.control)
            for _ in range(20):
                sock.send(b'{"method":"io.helperd.GetStatus"}\0')

    def watcher_leaves(self) -> None:
        with Client(self.rig.control, timeout_s=HANGS_S) as client:
            next(iter(client.more("GetStatus")))

    def crowd_of_clients(self) -> None:
        crowd = [Client(self.rig.control, timeout_s=HANGS_S) for _ in range(10)]
        for client in crowd:
            client.call("GetHealth")
            client.close()

    # the daemon, the disk

    def idle_signal(self) -> None:
        number = self.dice.choice((signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGQUIT))
        os.kill(self.dice.choice((self.supervisor, self.rig.process.pid)), number)

    def supervisor_stands_still(self) -> None:
        pid = self.supervisor
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.3)
        os.kill(pid, signal.SIGCONT)

    def launcher_stands_still(self) -> None:
        os.kill(self.rig.process.pid, signal.SIGSTOP)
        time.sleep(0.3)
        os.kill(self.rig.process.pid, signal.SIGCONT)

    def disk_fills(self) -> str | None:
        """Only where the small disk is one of its own; told by the sink that writes there."""
        if self.filled is not None or not os.path.ismount(self.settings.small):
            return None
        self.filled = self.settings.small / "ballast"
        with self.filled.open("wb", buffering=0) as file:
            for size in (1 << 20, 4096):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass
        sink = f"{self.settings.small}/a.pcapng"

        def told(status: dict[str, Any]) -> bool:
            row = next(row for row in status["sinks"] if row["name"] == sink)
            return row.get("problem") == "disk-full" and status["health"] == "degraded"

        with contextlib.suppress(HelperdError):
            for row in self.rig.status()["sources"]:
                self.rig.call("Resume", source=row["name"])
        self.rig.wait(told)
        return None

    def disk_has_room_again(self) -> None:
        if self.filled is not None:
            self.filled.unlink()
            self.filled = None

    def unfinished_file_removed(self) -> None:
        """What was in it is lost, and told so."""
        for path in self.settings.out.glob("*.part"):
            with contextlib.suppress(FileNotFoundError):  # it has just been finished
                path.unlink()

    def directory_moved_away(self) -> None:
        """Another one is made in its place; what was finished in it is safe."""
        away = self.settings.out.with_name(f"away{self.done['directory_moved_away']}")
        self.settings.out.rename(away)
        self.removed += sum(packets_in(path) for path in away.glob("*.pcapng"))

    def sockets_removed(self) -> None:
        """A cleaner of temporary files goes through the runtime directory."""
        names = [path for path in self.rig.runtime.rglob("*.sock") if path.is_socket()]
        for path in self.dice.sample(names, 3):
            path.unlink()

        def back(_status: dict[str, Any]) -> bool:
            return all(path.is_socket() or not self._is_wanted(path) for path in names)

        until_listening(self.rig)
        self.rig.wait(back)

    def _is_wanted(self, path: Path) -> bool:
        return str(path) in {row["path"] for row in self.rig.status()["sinks"]} | {self.rig.control}

    def finished_file_removed(self) -> None:
        files = sorted(self.settings.out.glob("*.pcapng"))
        if files:
            self.removed += packets_in(files[0])
            files[0].unlink()


def packets_in(path: Path) -> int:
    """Enhanced packet blocks of a file, up to its last whole block."""
    data = path.read_bytes()
    at = found = 0
    while at + 12 <= len(data):
        kind, size = struct.unpack_from("<II", data, at)
        if size < 12 or at + size > len(data):
            break
        found += kind == 6
        at += size
    return found
