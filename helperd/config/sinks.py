"""[[sink]]: its keys, and its check. Where packets leave is not the launcher's business, which does not load this; but
for the group of files, which it gives to the supervisor: keys.py.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from helperd.config import filesink, keys
from helperd.config import values as v
from helperd.config.keys import Key
from helperd.config.values import Kind, hint, kind_of, one_line, text_of

if TYPE_CHECKING:
    from helperd.config.check import Check, Entry, Place

_IMPLICIT = ("", ".frames", ".jsonl")
"""What stands before the ".sock" of the sockets that are made without any [[sink]]."""
_NO_LINK_TYPES = {
    "frames": "frames may hold several link types and are not taken apart; use format pcapng, or sources",
    "jsonl": "JSON reports have no link type; use format pcapng, or sources",
}
_TCP = re.compile(r"tcp:(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+)):(\d{1,5})")


@dataclass(frozen=True, slots=True)
class SinkSpec:
    """``[[sink]]``: ``path`` is set for types "unix" and "file", ``listen`` for "tcp".

    Attributes:
        path: of the socket, relative: inside the runtime directory; or what the names of files are made of.
        listen: host and port of a TCP socket; port 0: any.
        exposed: other machines may connect.
        sources: names; empty: all.
        dlts: link types as in pcapng (LINKTYPE_); empty: all.
        limit: bytes that may wait for one consumer.
        hold: seconds that overflow "wait" may hold a source.
        rotate_size: bytes of one file; None: no limit, as with the other two.
        rotate_every: seconds of local time, whose multiples end files.
        rotate_packets: packets of one file.
        keep: files; 0: all.
        keep_free: bytes that are to be left on the file system.
        disk_full: "drop" or "stop".
        compress: "none" or "zstd".
        file_mode: permissions of files.
        file_group: name or number; None: the supervisor's own.
    """

    path: str = ""
    type: str = "unix"
    listen: tuple[str, int] | None = None
    exposed: bool = False
    format: str = "pcapng"
    sources: tuple[str, ...] = ()
    dlts: tuple[int, ...] = ()
    overflow: str = "drop-oldest"
    limit: int = 4 << 20
    hold: float = 10.0
    rotate_size: int | None = None
    rotate_every: float | None = None
    rotate_packets: int | None = None
    keep: int = 0
    keep_free: int = 0
    disk_full: str = "drop"
    compress: str = "none"
    file_mode: int = 0o640
    file_group: str | None = None
    line: int = field(default=0, compare=False, repr=False)
    file: str = field(default="", compare=False, repr=False)

    @property
    def name(self) -> str:
        """What status calls the sink: its path, or its address as configured."""
        return self.path if self.listen is None else f"tcp:{self.listen[0]}:{self.listen[1]}"


def sink_path(value: object) -> str:
    """Return a path: absolute, or relative to the runtime directory."""
    text = one_line(value, "a path")
    if ".." in text.split("/") or text.endswith("/") or text.startswith("./"):
        msg = f'must be an absolute path, or one inside the runtime directory without "..", not {text!r}'
        raise ValueError(msg)
    return text


def socket_path(value: object) -> str:
    """Return a socket's path: absolute, or relative to the runtime directory; at most 107 bytes."""
    text = sink_path(value)
    length = len(text.encode("utf-8", "surrogateescape"))
    if length > 107:  # what sockaddr_un of Linux holds
        msg = f"is a socket path of {length} bytes; the kernel takes 107"
        raise ValueError(msg)
    return text


def tcp_address(value: object) -> tuple[str, int]:
    """Return host and port of an address such as "tcp:127.0.0.1:0"; the host is a number, never a name."""
    text = one_line(value, 'an address such as "tcp:127.0.0.1:0"')
    found = _TCP.fullmatch(text)
    try:
        if not found or int(found[3]) > 65535:
            raise ValueError
        host = ipaddress.ip_address(found[1] or found[2])
    except ValueError:
        msg = f'must be "tcp:ADDRESS:PORT" with a numeric address, such as "tcp:127.0.0.1:0", not {text!r}'
        raise ValueError(msg) from None
    return str(host), int(found[3])


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    return ipaddress.ip_address(host).is_loopback


def mode(value: object) -> int:
    """Return a file mode from its octal string: "0660" -> 0o660."""
    text = text_of(value, 'a file mode as a string such as "0660"')
    if not re.fullmatch(r"(?:0o?)?[0-7]{3}", text):
        msg = f'must be three octal digits as a string, such as "0660", not {text!r}'
        raise ValueError(msg)
    return int(text[-3:], 8)


def linktypes(value: object) -> tuple[int, ...]:
    """Return link types, each once, ascending."""
    if not isinstance(value, list):
        msg = f"must be an array of link types such as [1, 127], not {kind_of(value)}"
        raise ValueError(msg)
    for item in value:
        if isinstance(item, bool) or not isinstance(item, int) or not 0 <= item <= 0xFFFF:
            msg = f"must hold numbers from 0 to 65535, such as 1 (Ethernet) or 127 (radiotap), not {item!r}"
            raise ValueError(msg)
    return tuple(sorted(set(value)))


SINK_PATH = Kind("path", sink_path)
TCP_ADDRESS = Kind("TCP address", tcp_address)
LINKTYPES = Kind("array of link types", linktypes)
MODE = Kind("octal mode as a string", mode)
SINK: tuple[Key, ...] = (
    Key(
        "sink",
        "type",
        v.choice("unix", "tcp", "file"),
        "unix: a stream socket in the file system, needs path; tcp: a TCP socket, needs listen; file: capture "
        "files, needs path.",
        default="unix",
    ),
    Key(
        "sink",
        "path",
        SINK_PATH,
        "The unix socket's path; a relative one is inside the runtime directory; at most 107 bytes. Of files, "
        "always absolute: out.pcapng becomes out_00001_20261123233512.pcapng and so on; with %Y %m %d %H %M %S "
        "%y %j or %s in its last part the name is the local time when the file was begun. A file that is not "
        "finished has .part behind its name. A directory that does not exist is made.",
        otherwise="none; needed for unix and file",
    ),
    Key(
        "sink",
        "listen",
        TCP_ADDRESS,
        'Address and port of a TCP socket, as "tcp:127.0.0.1:7878" or "tcp:[::1]:7878"; port 0 takes a free '
        "one, shown by status. Only loopback addresses, unless exposed is true.",
        otherwise="none; needed for tcp",
    ),
    Key(
        "sink",
        "exposed",
        v.BOOLEAN,
        "Whether listen may name an address that other machines reach. Whoever connects reads all "
        "packets: there is no password and no encryption.",
        default=False,
    ),
    Key(
        "sink",
        "format",
        v.choice("pcapng", "frames", "jsonl"),
        "What consumers read. pcapng: what Wireshark and tcpdump read; jsonl: the JSON reports alone, one per "
        "line, in files with the messages of helpers and helperd among them; frames: the helpers' own frames, not "
        "for files. Both in docs/protocol.md.",
        default="pcapng",
    ),
    Key(
        "sink",
        "sources",
        v.NAMES,
        "The sources whose packets it carries, by name.",
        default=(),
        otherwise="all",
    ),
    Key(
        "sink",
        "dlts",
        LINKTYPES,
        "The link types it carries, by number as in pcapng files, e.g. 127 for 802.11 with radiotap; only for "
        "format pcapng.",
        default=(),
        otherwise="all",
    ),
    Key(
        "sink",
        "overflow",
        v.choice("drop-oldest", "wait", "disconnect"),
        "What happens when a consumer is too slow. drop-oldest: it loses its oldest packets, counted; "
        "wait: its sources wait, at most for hold, then drop-oldest; disconnect: its connection is "
        "ended.",
        default="drop-oldest",
    ),
    Key(
        "sink",
        "limit",
        v.size(4096, 1 << 30),
        "Bytes that may wait for one consumer.",
        default="4MiB",
    ),
    Key(
        "sink",
        "hold",
        v.duration(0.0, 3600.0),
        'Longest time that overflow = "wait" holds a source.',
        default="10s",
    ),
    Key(
        "sink",
        "rotate_size",
        v.size(4096, 1 << 40),
        "A file that has reached this size is finished, and the next one begun. It may be passed by one packet; "
        "compressed, by one frame of 256 KiB.",
        otherwise="no limit",
    ),
    Key(
        "sink",
        "rotate_every",
        v.duration(1.0),
        "The next file begins when the local time passes a multiple of this: with 1h on the hour, with 24h at "
        "midnight. A stretch without packets has no file.",
        otherwise="no limit",
    ),
    Key(
        "sink",
        "rotate_packets",
        v.integer(1, 1 << 40),
        "Packets in one file.",
        otherwise="no limit",
    ),
    Key(
        "sink",
        "keep",
        v.integer(0, 1 << 20),
        "Files kept, the one being written included: before one more, the oldest with a name of this series is "
        "removed, whoever wrote it. 0: all.",
        default=0,
    ),
    Key(
        "sink",
        "keep_free",
        v.size(0, 1 << 50),
        "With less than this left on the file system the disk counts as full.",
        default="0B",
    ),
    Key(
        "sink",
        "disk_full",
        v.choice("drop", "stop"),
        "What happens when the disk is full or refuses something. drop: packets that do not fit into limit are "
        "dropped, counted under disk-full, disk-error or sink-failed, and it is tried again every second; stop: "
        "the sink ends, until the next reload.",
        default="drop",
    ),
    Key(
        "sink",
        "compress",
        v.choice("none", "zstd"),
        "zstd: files are compressed as they are written, and .zst is added to their names; Wireshark reads "
        "them. Needs Python's zstandard.",
        default="none",
    ),
    Key(
        "sink",
        "file_mode",
        MODE,
        "Permissions of the files.",
        default="0640",
    ),
    *(key for key in keys.KEYS if key.table == "sink"),
)


def check(whole: Check, entries: list[Entry], sources: list[Entry], daemon: dict[str, Any]) -> None:
    """Check [[sink]]: each by itself, against the others, and against the sources."""
    names = [source["name"] for source in sources if "name" in source]
    taken = {"control.sock"}
    if daemon.get("implicit_sinks", True):
        taken |= {f"all{end}.sock" for end in _IMPLICIT}
        taken |= {f"sources/{name}{end}.sock" for name in names for end in _IMPLICIT}
    for entry in entries:
        _check_one(whole, entry)
        path = entry.get("path")
        if path in taken:
            text = f'"{path}" is a socket that helperd makes by itself; choose another path'
            whole.refuse("duplicate-name", text, entry["place"] / "path")
        for name in entry.get("sources", ()):
            if name not in names:
                text = f'no source is called "{name}"{hint(name, names)}'
                whole.refuse("unknown-source", text, entry["place"] / "sources")
    whole.unique("sink", entries, "path")
    whole.unique("sink", [entry for entry in entries if entry.get("listen", ("", 0))[1]], "listen")


def _check_one(whole: Check, entry: Entry) -> None:
    """Check what a sink's type asks for."""
    place: Place = entry["place"]
    kind = entry.get("type", "unix")
    needed, odd = ("listen", "path") if kind == "tcp" else ("path", "listen")
    written = entry["written"]
    if needed not in written:
        whole.refuse("missing-key", f'a sink of type "{kind}" needs "{needed}"', place)

    def refuse(key: str, text: str) -> None:
        whole.refuse("bad-value", f"{key} {text}", place / key)

    if kind == "file" and "path" in entry:
        filesink.check_path(entry, refuse)
    elif kind == "unix" and "path" in entry:
        try:
            socket_path(entry["path"])
        except ValueError as error:
            refuse("path", str(error))
    filesink.check(entry, written, refuse)
    if odd in written:
        whole.refuse(
            "bad-value",
            f"belongs to another type of sink; write type = "
            f'"{"tcp" if odd == "listen" else "unix"}" or leave it out',
            place / odd,
        )
    if "listen" in entry and not entry["exposed"] and not is_loopback(entry["listen"][0]):
        text = (
            f"{entry['listen'][0]} can be reached from other machines, without password or encryption; "
            "write exposed = true if that is meant, or listen at 127.0.0.1"
        )
        whole.refuse("bad-value", text, place / "listen")
    if entry.get("dlts") and entry.get("format") in _NO_LINK_TYPES:
        whole.refuse("bad-value", _NO_LINK_TYPES[entry["format"]], place / "dlts")
