"""Devices that come are told of by the names that definitions use, and whoever waits for one is tried at once."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.lowlevel
import trio.testing

from helperd import config
from helperd.hotplug import Arrival, Folders, Hotplug, arrival_of, read_event
from helperd.launcher import own_launcher
from helperd.lifecycle import Event, Life, State
from helperd.lifecycle.policy import History
from helperd.routing import RouteTable
from helperd.source import Source
from helperd.supervisor import Supervisor
from tests.helpers.veth import ip, namespace
from tests.patience import HANGS_S
from tests.rig import ROOT

# what the kernel says

EVENTS = {
    "an interface": (
        "add@/devices/virtual/net/hdb ACTION=add DEVPATH=/devices/virtual/net/hdb SUBSYSTEM=net INTERFACE=hdb",
        Arrival(frozenset({"hdb"})),
    ),
    "an interface under another name": (
        "move@/devices/net/enp3s0 DEVPATH=/devices/net/enp3s0 DEVPATH_OLD=/devices/net/eth0 INTERFACE=enp3s0",
        Arrival(frozenset({"enp3s0"})),
    ),
    "a serial device": (
        "add@/devices/usb1/ttyUSB0/tty/ttyUSB0 DEVPATH=/devices/usb1/ttyUSB0/tty/ttyUSB0 DEVNAME=ttyUSB0",
        Arrival(frozenset({"ttyUSB0", "/dev/ttyUSB0"})),
    ),
    "a Bluetooth adapter": (
        "add@/devices/usb1/1-2/bluetooth/hci0 DEVPATH=/devices/usb1/1-2/bluetooth/hci0 SUBSYSTEM=bluetooth",
        Arrival(frozenset({"hci0"})),
    ),
    "a USB device": (
        "add@/devices/usb1/1-3 DEVPATH=/devices/usb1/1-3 SUBSYSTEM=usb DEVTYPE=usb_device DEVNAME=bus/usb/001/007",
        Arrival(usb=True),
    ),
    "one of its interfaces": (
        "add@/devices/usb1/1-3/1-3:1.0 DEVPATH=/devices/usb1/1-3/1-3:1.0 SUBSYSTEM=usb DEVTYPE=usb_interface",
        None,
    ),
}


@pytest.mark.parametrize("what", EVENTS)
def test_an_event_is_told_by_the_names_that_definitions_use(what: str) -> None:
    text, arrival = EVENTS[what]
    action, properties = read_event(text.replace(" ", "\0").encode() + b"\0")
    assert action == text.partition("@")[0]
    assert arrival_of(properties) == arrival


def test_an_event_that_makes_no_sense_is_read_as_far_as_it_goes() -> None:
    assert read_event(b"") == ("", {})
    assert read_event(b"add") == ("add", {})
    assert read_event(b"add@/x\0\xff\0=\0A=\xff=1") == ("add", {"": "", "A": "\udcff=1"})
    assert arrival_of({}) == Arrival()


# what the file system says


class Watched:
    """A room whose paths are watched, and what was told."""

    def __init__(self, *paths: Path) -> None:
        self.told: list[Arrival] = []
        self.paths = {str(path) for path in paths}
        self.hotplug = Hotplug(self.told.append, lambda: self.paths)

    async def until_told(self, path: Path) -> None:
        with trio.fail_after(HANGS_S):
            while Arrival(frozenset({str(path)})) not in self.told:  # noqa: ASYNC110 - the kernel tells it, not us
                await trio.sleep(0.005)


@asynccontextmanager
async def watched(monkeypatch: pytest.MonkeyPatch, *paths: Path) -> AsyncIterator[Watched]:
    """Hotplug at work, with its watches in place."""
    ready = trio.Event()
    real = Folders.watch

    def watch(self: Folders, wanted: set[str]) -> None:
        real(self, wanted)
        trio.from_thread.run_sync(ready.set)

    monkeypatch.setattr(Folders, "watch", watch)
    found = Watched(*paths)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(found.hotplug.run)
        with trio.fail_after(HANGS_S):
            await ready.wait()
        yield found
        nursery.cancel_scope.cancel()


def make_file(path: Path) -> None:
    path.write_bytes(b"x")


def make_node(path: Path) -> None:
    os.mkfifo(path)


def make_link(path: Path) -> None:
    path.symlink_to("/dev/null")


def move_there(path: Path) -> None:
    aside = path.with_name("aside")
    aside.write_bytes(b"x")
    aside.rename(path)


@pytest.mark.parametrize("make", [make_file, make_node, make_link, move_there])
async def test_a_path_that_comes_to_exist_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "dev0"
    async with watched(monkeypatch, path) as found:
        (tmp_path / "another").write_bytes(b"x")
        make(path)
        await found.until_told(path)
        assert {name for arrival in found.told for name in arrival.names} == {str(path)}


async def test_a_path_in_folders_that_do_not_exist_yet_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "serial" / "by-id" / "usb-radio"
    async with watched(monkeypatch, path) as found:
        path.parent.mkdir(parents=True)
        path.symlink_to("/dev/null")
        await found.until_told(path)
        for _ in range(3):  # and again when all of it has gone and comes back
            path.unlink()
            path.parent.rmdir()
            path.parent.parent.rmdir()
            found.told.clear()
            path.parent.mkdir(parents=True)
            path.symlink_to("/dev/null")
            await found.until_told(path)


async def test_what_a_link_leads_to_is_told_as_the_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, node = tmp_path / "gps0", tmp_path / "ttyUSB0"
    path.symlink_to(node)
    async with watched(monkeypatch, path) as found:
        os.mkfifo(node)
        await found.until_told(path)


async def test_one_folder_may_have_several_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, alias = tmp_path / "run", tmp_path / "alias"
    folder.mkdir()
    alias.symlink_to(folder)
    first, second = folder / "a", alias / "b"
    async with watched(monkeypatch, first, second) as found:
        first.touch()
        second.touch()
        await found.until_told(first)
        await found.until_told(second)
        found.paths = {str(first)}
        found.hotplug.look.ring()
        found.told.clear()
        with trio.fail_after(HANGS_S):
            while Arrival(frozenset({str(first)})) not in found.told:
                first.unlink()
                first.touch()
                await trio.sleep(0.01)


async def test_a_node_that_may_be_opened_now_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ttyUSB0"
    os.mkfifo(path, 0o000)
    async with watched(monkeypatch, path) as found:
        path.chmod(0o660)
        await found.until_told(path)


async def test_a_file_is_told_when_it_has_been_written_a_node_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, node = tmp_path / "x.pcap", tmp_path / "node"
    path.write_bytes(b"")
    os.mkfifo(node)
    async with watched(monkeypatch, path, node) as found:
        os.close(os.open(node, os.O_RDWR))
        with path.open("ab") as out:
            out.write(b"more")
        await found.until_told(path)
        assert {name for arrival in found.told for name in arrival.names} == {str(path)}


async def test_paths_that_nobody_wants_any_more_are_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "a" / "old", tmp_path / "b" / "new"
    old.parent.mkdir()
    new.parent.mkdir()
    async with watched(monkeypatch, old) as found:
        found.paths = {str(new)}
        found.hotplug.look.ring()
        with trio.fail_after(HANGS_S):
            while not found.told:
                old.write_bytes(b"x")
                new.write_bytes(b"x")
                await trio.sleep(0.01)
        found.told.clear()
        old.write_bytes(b"y")
        new.write_bytes(b"y")
        await found.until_told(new)
        assert Arrival(frozenset({str(old)})) not in found.told


# who is tried

DONGLE = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from helperd.helpers.sdk import Device, Helper, Refused, main
class Dongle(Helper):
    TYPE = "dongle"
    OPTIONS = {{"device": "a path"}}
    def open(self, definition):
        path = definition.get("device") or definition.interface
        if not os.path.exists(path):
            raise Refused(f"no such device: {{path}}")
        if not os.stat(path).st_mode & 0o400:
            raise Refused(f"not readable: {{path}}")
        return Device(dlt=147)
    def capture(self, writer):
        writer.packet(b"here")
        while True:
            writer.wait(60)
main(Dongle)
"""


class Room:
    """A supervisor with one source that has been refused, whose next try is far away."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor

    @property
    def source(self) -> Source:
        return self.supervisor.sources[0]

    async def until(self, state: State) -> None:
        with trio.fail_after(HANGS_S):
            while self.source.life.state is not state:
                await self.supervisor.wait_change()

    def wait_long(self) -> None:
        """As after an hour without the device."""
        life = self.source.life
        assert life.state is State.BACKOFF
        life.history = replace(life.history, n=9)
        life.next_try_at = trio.current_time() + 1000
        life.device_at = None
        self.source.orders.ring()


@asynccontextmanager
async def refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, definition: str, helper: str = ""
) -> AsyncIterator[Room]:
    monkeypatch.setenv("HELPERD_UNPRIVILEGED", "1")
    script, file = folder / "dongle.py", folder / "helpers.toml"
    script.write_text(DONGLE)
    command = helper or f'command = ["{sys.executable}", "{script}"]'
    file.write_text(
        f'[[helper]]\nname = "it"\n{command}\ntypes = ["it"]\n[[source]]\nname = "one"\ndefinition = \'{definition}\'\n'
    )
    settings = config.load(str(file))
    async with own_launcher(str(file), settings=settings) as launcher:
        supervisor = Supervisor(settings, launcher, RouteTable(), lambda *_line: None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.run)
            await trio.testing.wait_all_tasks_blocked()
            room = Room(supervisor)
            await room.until(State.BACKOFF)
            room.wait_long()
            yield room
            with trio.fail_after(HANGS_S):
                await supervisor.stop()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("make", [make_file, make_node, make_link, move_there])
@pytest.mark.parametrize("as_option", [False, True])
async def test_a_source_whose_path_comes_is_tried_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], as_option: bool
) -> None:
    path = tmp_path / "dev0"
    definition = f"radio:type=it,device={path}" if as_option else f"{path}:type=it"
    async with refused(tmp_path, monkeypatch, definition) as room:
        make(path)
        await room.until(State.RUNNING)


async def test_a_node_that_udev_gives_away_later_is_tried_again_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "dev0"
    async with refused(tmp_path, monkeypatch, f"{path}:type=it") as room:
        os.mkfifo(path, 0o200)
        await room.until(State.OPENING)
        await room.until(State.BACKOFF)
        room.wait_long()
        path.chmod(stat.S_IRUSR)
        await room.until(State.RUNNING)


@pytest.mark.need("root", "netns", "veth", "packet-socket", "ip")
async def test_a_source_whose_interface_comes_is_tried_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = 'command = ["builtin:interface"]\ncapabilities = ["net_raw"]'
    with namespace():
        async with refused(tmp_path, monkeypatch, "hdb:type=it", helper) as room:
            ip("link add hda type veth peer name other")
            await trio.lowlevel.checkpoint()
            assert room.source.life.state is State.BACKOFF
            ip("link set other name hdb")  # its name is what counts
            await room.until(State.RUNNING)
            ip("link del hda")
            await room.until(State.BACKOFF)
            room.wait_long()
            ip("link add hdb type veth peer name hda")
            await room.until(State.RUNNING)


@pytest.mark.parametrize(
    ("definition", "arrival", "tried"),
    [
        ("rtl433-0:type=it", Arrival(usb=True), True),
        ("hci0:type=it", Arrival(frozenset({"hci0"})), True),
        ("hci0:type=it", Arrival(frozenset({"hci1"})), False),
        ("/dev/ttyUSB7:type=it", Arrival(frozenset({"ttyUSB7", "/dev/ttyUSB7"})), True),
        ("/dev/ttyUSB7:type=it", Arrival(usb=True), False),
        ("radio:type=it,device=/dev/ttyUSB7", Arrival(frozenset({"/dev/ttyUSB7"})), True),
        ("/dev/ttyUSB7:type=it", Arrival(unknown=True), True),
    ],
)
async def test_who_is_tried_for_what_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, definition: str, arrival: Arrival, tried: bool
) -> None:
    async with refused(tmp_path, monkeypatch, definition) as room:
        number = room.source.life.incarnation
        room.supervisor._on_arrival(arrival)
        assert room.source.life.woken is tried
        if tried:
            await room.until(State.OPENING)
            assert room.source.life.incarnation == number + 1


async def test_who_was_refused_for_another_is_tried_at_once_when_that_one_rests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "dev0"
    async with refused(tmp_path, monkeypatch, f"{path}:type=it") as room:
        make_file(path)
        await room.until(State.RUNNING)
        supervisor = room.supervisor
        other = supervisor.add(replace(supervisor.config.sources[0], name="other"))
        other.post(Event.START)
        with trio.fail_after(HANGS_S):
            while other.life.state is not State.BACKOFF:
                await supervisor.wait_change()
        assert other.life.exit is not None
        assert other.life.exit.problem == "busy"
        for end in ("stop", "backoff", "remove"):
            other.life.next_try_at = trio.current_time() + 1000
            other.life.device_at = None
            other.orders.ring()
            if end == "stop":
                await supervisor.order("one", "stop")
            elif end == "remove":
                await supervisor.remove("one").wait()
            else:
                path.rename(tmp_path / "aside")  # it cannot be opened, and waits itself
                source = room.source
                source.life.history = replace(source.life.history, n=9)
                source.post(Event.HUNG, incarnation=source.life.incarnation)
                await room.until(State.BACKOFF)
                (tmp_path / "aside").rename(path)
            with trio.fail_after(HANGS_S):
                while other.life.state is not State.RUNNING:
                    await supervisor.wait_change()
            if end != "remove":
                await supervisor.order("other", "stop")
                await supervisor.order("one", "start")
                other.post(Event.START)
                with trio.fail_after(HANGS_S):
                    while other.life.state is not State.BACKOFF:
                        await supervisor.wait_change()


async def test_one_that_ran_and_fell_before_anybody_looked_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether an order succeeds must not depend on how soon its task has a turn."""
    path = tmp_path / "dev0"
    async with refused(tmp_path, monkeypatch, f"{path}:type=it") as room:
        make_file(path)
        supervisor, source = room.supervisor, room.source
        await room.until(State.RUNNING)
        await supervisor.order("one", "stop")
        soon = supervisor.wait_change

        async def late() -> None:
            while source.life.state is not State.BACKOFF:
                await soon()

        async def fall() -> None:
            while source.life.state is not State.RUNNING:
                await soon()
            source.life.history = replace(source.life.history, n=9)  # stays in BACKOFF for a while
            os.kill(source.incarnation.process.pid, 9)  # type: ignore[union-attr]

        with monkeypatch.context() as patch, trio.fail_after(HANGS_S):
            patch.setattr(supervisor, "wait_change", late)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fall)
                await supervisor.order("one", "start")
        assert source.life.state is State.BACKOFF
        assert source.life.ran == source.life.incarnation


# every event of the table is somebody's


async def test_every_event_of_the_table_is_posted_by_the_product(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One source is led through all that can happen to it; whoever adds an event has to make it happen here."""
    posted: set[Event] = set()
    real = Life.post

    def post(self: Life, event: Event, *args: object, **detail: object) -> object:
        posted.add(event)
        return real(self, event, *args, **detail)  # type: ignore[arg-type]

    monkeypatch.setattr(Life, "post", post)
    monkeypatch.setattr(History, "settled_after", lambda _self: 0.0)
    path = tmp_path / "dev0"
    async with refused(tmp_path, monkeypatch, f"{path}:type=it") as room:
        supervisor, source = room.supervisor, room.source
        make_file(path)  # device-appeared
        await room.until(State.RUNNING)
        with trio.fail_after(HANGS_S):
            while source.life.history.n:  # noqa: ASYNC110 - settled, which changes no state
                await trio.sleep(0.01)
        await supervisor.order("one", "restart")
        pid = source.incarnation.process.pid  # type: ignore[union-attr]
        os.kill(pid, 19)  # hung
        with trio.fail_after(HANGS_S):
            while source.life.incarnation < 4:
                await supervisor.wait_change()
        await room.until(State.RUNNING)
        monkeypatch.setattr(source, "tick", lambda _moment: 1 / 0)  # our-fault
        with trio.fail_after(HANGS_S):
            while Event.OUR_FAULT not in posted:
                await supervisor.wait_change()
        monkeypatch.undo()
        monkeypatch.setattr(Life, "post", post)
        path.unlink()
        await supervisor.order("one", "stop")
        source.post(Event.START)
        await room.until(State.BACKOFF)  # refused; due
        with trio.fail_after(HANGS_S):
            while Event.DUE not in posted:
                await supervisor.wait_change()
        new = replace(
            supervisor.config, sources=(replace(supervisor.config.sources[0], definition="/x:type=it"),)
        )
        supervisor.switch(new, supervisor.plan(new))  # replace
        source.post(Event.STOP)
        await supervisor.remove("one").wait()
        assert posted == set(Event)
        assert source.life.bugs == 0
