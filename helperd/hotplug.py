"""Devices that come: network interfaces, device nodes, USB devices, files; from the kernel, as soon as it knows.

Rules:
  1. The kernel's device events tell of interfaces, devices and USB; inotify tells of paths: device nodes (also when
     their permissions change, which is when udev is done with them), links to them, and files (also when somebody
     has written them). The nearest folder that exists is watched.
  2. What comes is told by name. A USB device has none that a definition could hold: it is told as such. Where events
     were lost, anything may have come.
  3. Without these (a container that hides them, no watches left) nothing is told, and time alone decides.
  4. Looking at paths may wait for a file system that does not answer: a thread does it.

Source of facts: netlink(7), NETLINK_KOBJECT_UEVENT; Linux's Documentation/ABI/testing/sysfs-uevent; inotify(7).
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import stat
import struct
from contextlib import closing
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from helperd.bell import Bell
from helperd.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_KERNEL_EVENTS: Final = 15  # NETLINK_KOBJECT_UEVENT; not in the socket module
_FROM_KERNEL: Final = 1  # multicast group
_SHORTAGE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_COMES: Final = frozenset({"add", "move", "online"})
_GOES: Final = frozenset({"remove", "offline"})
_CREATE, _MOVED_TO, _ATTRIB, _WRITTEN = 0x100, 0x80, 0x4, 0x8
_SELF_GONE: Final = 0x400 | 0x800  # the folder itself was removed, or moved
_IGNORED, _OVERFLOW = 0x8000, 0x4000
_ONLY_FOLDERS: Final = 0x01000000
_MASK: Final = _CREATE | _MOVED_TO | _ATTRIB | _WRITTEN | _SELF_GONE | _ONLY_FOLDERS
_EVENT: Final = struct.Struct("=iIII")


class Arrival(NamedTuple):
    """Something that came.

    Attributes:
        names: what it may be called in a definition: ``wlan0``, ``hci0``, ``/dev/ttyUSB0``.
        usb: it is a USB device, which helpers name in their own way.
        unknown: events were lost: it may be anything.
    """

    names: frozenset[str] = frozenset()
    usb: bool = False
    unknown: bool = False


class Hotplug:
    """Listens to the kernel for everybody.

    Args:
        on_arrival: called with what came.
        paths: gives the absolute paths that somebody would like to exist; asked again after ``look.ring()``.

    Attributes:
        moved_at: when a device last came or went, in the loop's time.
    """

    def __init__(self, on_arrival: Callable[[Arrival], None], paths: Callable[[], Iterable[str]]) -> None:
        self.moved_at = float("-inf")
        self.look = Bell()
        self._on_arrival = on_arrival
        self._paths = paths

    async def run(self) -> None:
        """Listen until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow_devices)
            nursery.start_soon(self._follow_paths)

    async def _follow_devices(self) -> None:
        try:
            events = trio.socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _KERNEL_EVENTS)
        except OSError as error:
            if error.errno in _SHORTAGE:
                raise
            await trio.sleep_forever()  # not to be had here
        with closing(events):
            try:
                await events.bind((0, _FROM_KERNEL))
            except OSError:
                await trio.sleep_forever()  # nor this
            while True:
                try:
                    event = await events.recv(8192)
                except OSError:  # more than the socket holds
                    self.moved_at = trio.current_time()
                    self._on_arrival(Arrival(unknown=True))
                else:
                    self._on_device(event)

    def _on_device(self, event: bytes) -> None:
        action, properties = read_event(event)
        if action in _COMES or action in _GOES:
            self.moved_at = trio.current_time()
        if action in _COMES and (arrival := arrival_of(properties)) is not None:
            self._on_arrival(arrival)

    async def _follow_paths(self) -> None:
        """Watch the folders in which a path would appear, for as long as somebody wants one."""
        while True:
            while not set(self._paths()):
                await self.look.wait()
            try:
                folders = Folders()
            except OSError as error:
                if error.errno in _SHORTAGE:
                    raise
                await trio.sleep_forever()
            one_at_a_time = trio.Lock()
            with closing(folders):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read_folders, folders, one_at_a_time)
                    while set(self._paths()):
                        await self._watch(folders, one_at_a_time)
                        await self.look.wait()
                    nursery.cancel_scope.cancel()

    async def _watch(self, folders: Folders, one_at_a_time: trio.Lock) -> None:
        async with one_at_a_time:
            await in_thread(folders.watch, set(self._paths()))

    async def _read_folders(self, folders: Folders, one_at_a_time: trio.Lock) -> None:
        while True:
            await trio.lowlevel.wait_readable(folders.fd)
            async with one_at_a_time:
                touched, moved = folders.read()
            if moved:  # first, so that whatever is not there below is told of later
                await self._watch(folders, one_at_a_time)
            for path in touched:
                if await in_thread(os.path.exists, path):
                    self._on_arrival(Arrival(frozenset({path})))


def read_event(event: bytes) -> tuple[str, dict[str, str]]:
    """A kernel event, ``add@/devices/...`` and ``KEY=value`` with zeros between, as its action and properties."""
    head, *pairs = event.split(b"\0")
    properties = {}
    for pair in pairs:
        key, found, value = pair.partition(b"=")
        if found:
            properties[os.fsdecode(key)] = os.fsdecode(value)
    return os.fsdecode(head.partition(b"@")[0]), properties


def arrival_of(properties: dict[str, str]) -> Arrival | None:
    """What an event tells of; None: of nothing that a definition could mean."""
    if properties.get("SUBSYSTEM") == "usb":
        return Arrival(usb=True) if properties.get("DEVTYPE") == "usb_device" else None
    names = {os.path.basename(properties.get("DEVPATH", "")), properties.get("INTERFACE", "")}
    node = properties.get("DEVNAME", "")
    if node:
        names.add(os.path.join("/dev", node))
    return Arrival(frozenset(names - {""}))


class Folders:
    """The inotify watches, one a folder.

    Attributes:
        fd: readable when something has happened in one of the folders.

    Raises:
        OSError: the kernel gives no inotify descriptor.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd: int = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        self._numbers: dict[str, int] = {}
        self._awaited: dict[int, dict[str, set[str]]] = {}

    def watch(self, paths: set[str]) -> None:
        """Watch for these and no others; does not run while another call does.

        A path that is a link is watched for at both ends. Folders that may not be watched are left out.
        """
        wanted: dict[str, dict[str, set[str]]] = {}
        for path in paths:
            for end in {path, os.path.realpath(path)}:
                self._reach(end, path, wanted)
        left = {self._numbers.pop(folder) for folder in self._numbers.keys() - wanted.keys()}
        for number in left - set(self._numbers.values()):  # one folder may have several names
            self._libc.inotify_rm_watch(self.fd, number)
        awaited: dict[int, dict[str, set[str]]] = {}
        for folder, names in wanted.items():
            for name, found in names.items():
                awaited.setdefault(self._numbers[folder], {}).setdefault(name, set()).update(found)
        self._awaited = awaited

    def _reach(self, end: str, path: str, wanted: dict[str, dict[str, set[str]]]) -> None:
        """Watch the nearest folder above ``end`` that exists; look again if more has come to exist meanwhile."""
        while True:
            folder, name = os.path.split(end)
            while folder != "/" and not os.path.isdir(folder):
                folder, name = os.path.split(folder)
            if not self._add(folder):
                return
            if os.path.join(folder, name) == end or not os.path.isdir(os.path.join(folder, name)):
                wanted.setdefault(folder, {}).setdefault(name, set()).add(path)
                return

    def _add(self, folder: str) -> bool:
        number = self._libc.inotify_add_watch(self.fd, os.fsencode(folder), _MASK)
        if number < 0:
            return False
        self._numbers[folder] = number
        return True

    def read(self) -> tuple[set[str], bool]:
        """Read what has happened.

        Returns:
            The paths that were touched, or may have been; and whether the folders have to be looked at again.
        """
        try:
            data = os.read(self.fd, 1 << 16)
        except BlockingIOError:
            return set(), False
        touched: set[str] = set()
        moved, at = False, 0
        while at + _EVENT.size <= len(data):
            number, mask, _cookie, size = _EVENT.unpack_from(data, at)
            name = os.fsdecode(data[at + _EVENT.size : at + _EVENT.size + size].rstrip(b"\0"))
            at += _EVENT.size + size
            awaited = self._awaited.get(number, {})
            if mask & _OVERFLOW:
                touched |= {
                    path for names in self._awaited.values() for found in names.values() for path in found
                }
                moved = True
            elif mask & (_SELF_GONE | _IGNORED):
                self._forget(number)
                touched |= {path for paths in awaited.values() for path in paths}
                moved = True
            elif name in awaited and (mask != _WRITTEN or _is_file(awaited[name])):
                touched |= awaited[name]
                moved = True
        return touched, moved

    def _forget(self, number: int) -> None:
        """The kernel has dropped a watch, or its folder is elsewhere now."""
        for folder, found in list(self._numbers.items()):
            if found == number:
                del self._numbers[folder]
                self._libc.inotify_rm_watch(self.fd, number)
        self._awaited.pop(number, None)

    def close(self) -> None:
        """Let go of all of them."""
        os.close(self.fd)


def _is_file(paths: set[str]) -> bool:
    """Whether one is a file: that a device node was closed after writing says nothing."""
    for path in paths:
        try:
            if stat.S_ISREG(os.stat(path).st_mode):
                return True
        except OSError:
            continue
    return False
